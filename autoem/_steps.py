"""The layout of cells whose elements stand in levels: their rows step by step, and which steps are alike.

A row belongs to the step of the highest level that it meets; it meets that level and the one before. Steps whose rows
have the same numbers (designs, arguments, weights) are of one *kind*: along a run of them the factorisation comes to a
standstill. All on the host, once, and without a loop over steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._cells import Cells, Rows
from ._levels import Levels

_MOST = 1e8
"""Numbers that the designs of all kinds of steps may hold."""


@dataclass(frozen=True)
class StepPiece:
    """One site's rows: T steps of C kinds, Q classes of n cells, R rows a step. See `Rows` for J, L, D.

    Attributes:
        position: of the site's factor.
        fixed: coefficient name -> (J, L, T, Q, n, R, D), length 1 where all are the same.
        touching: coefficient name -> (J, L, C, Q, R, D, 2S): what multiplies the level before and the step's own.
        kept, weight, count: (C, Q, R).
    """

    position: int
    fixed: dict[str, np.ndarray]
    touching: dict[str, np.ndarray]
    kept: np.ndarray
    weight: np.ndarray
    count: np.ndarray


@dataclass(frozen=True)
class StepGroup:
    """Cells with equally many levels.

    Attributes:
        pieces: the rows, site by site.
        width: slots S of a level.
        kind: (T,) of every step.
        real: (C, Q, S) which slots of the step's own level hold an element.
        total: (Q,) elements of a cell.
        number, valid, cells: as in a dense `Group`.
    """

    pieces: tuple[StepPiece, ...]
    width: int
    kind: np.ndarray
    real: np.ndarray
    total: np.ndarray
    number: np.ndarray
    valid: np.ndarray
    cells: np.ndarray


@dataclass(frozen=True)
class Parts:
    """Which number of a step every part of a site's residual is: see the engine's `Picked`.

    Attributes:
        index: (parts, R, D) 0 for the constant 1, then columns, then the two levels' slots.
        constant: (parts, R, D).
        columns: numbers of a step that are data, (T, Q, n) each.
        kept: (R,).
    """

    index: np.ndarray
    constant: np.ndarray
    columns: list[np.ndarray]
    kept: np.ndarray


def single_parts(piece: StepPiece, first: dict[str, int], parts: int) -> Parts | None:
    """The parts of a residual, where each is one number times a constant at all steps that have the row; else None.

    Sums of several numbers (a level minus the one before) are left as they are: squared first and added up afterwards
    they could cancel.

    Args:
        piece: the site's rows.
        first: coefficient name -> number of its first part.
        parts: number of parts.
    """
    if any(a.shape[1] > 1 for a in (*piece.touching.values(), *piece.fixed.values())):
        return None
    live = piece.weight > 0  # (C, Q, R)
    lead = live.reshape(-1, live.shape[-1]).argmax(0), np.arange(live.shape[-1])
    kept = piece.kept.reshape(-1, live.shape[-1])[lead]
    if np.any(live & (piece.kept != kept)):
        return None
    dim = next(iter((piece.touching or piece.fixed).values())).shape[5]
    index = np.zeros((parts, live.shape[-1], dim), int)
    constant = np.zeros(index.shape)
    taken = np.zeros(index.shape, int)
    columns: list[np.ndarray] = []
    for name, a in piece.fixed.items():
        for j, part in enumerate(a[:, 0]):  # (T, Q, n, R, D)
            at = first[name] + j
            part = np.broadcast_to(part, (*part.shape[:3], *index.shape[1:]))
            for r, d in np.argwhere(np.any(part != 0, (0, 1, 2))):
                taken[at, r, d] += 1
                own = part[..., r, d]
                if np.all(own == own[0, 0, 0]):
                    constant[at, r, d] = own[0, 0, 0]
                else:
                    columns.append(own)
                    index[at, r, d], constant[at, r, d] = len(columns), 1.0
    for name, a in piece.touching.items():
        for j, part in enumerate(a[:, 0]):  # (C, Q, R, D, 2S)
            at = first[name] + j
            flat = np.where(live[..., None, None], part, 0.0).reshape(-1, *part.shape[2:])
            own = part.reshape(flat.shape)[lead]  # (R, D, 2S)
            if np.any((flat != own) & live.reshape(-1, live.shape[-1])[..., None, None]):
                return None
            met = own != 0
            taken[at] += met.sum(-1)
            index[at] = np.where(met.any(-1), met.argmax(-1) - met.shape[-1], index[at])
            constant[at] = np.where(met.any(-1), own.sum(-1), constant[at])
    if np.any(taken > 1):
        return None
    return Parts(index, constant, columns, kept)


def split(tables: Sequence[Rows], levels: Levels) -> tuple[list[Rows], list[Rows]]:
    """The rows of cells without levels, and of those with."""
    inside = [levels.count[t.cell] > 0 for t in tables]
    return [_rows(t, ~i) for t, i in zip(tables, inside, strict=True)], [
        _rows(t, i) for t, i in zip(tables, inside, strict=True)
    ]


def _rows(table: Rows, chosen: np.ndarray) -> Rows:
    if chosen.all():
        return table
    many = {k: {n: a if a.shape[2] == 1 else a[:, :, chosen] for n, a in parts.items()}
            for k, parts in (("fixed", table.fixed), ("touching", table.touching))}  # fmt: skip
    own = {k: getattr(table, k)[chosen] for k in ("elements", "kept", "weight", "count", "cell", "states")}
    return Rows(table.position, table.dim, **many, **own)


def group_steps(tables: Sequence[Rows], cells: Cells, levels: Levels) -> list[StepGroup] | None:
    """Groups of cells with about as many levels, or None where the steps' designs would be too large to hold.

    Args:
        tables: the rows of cells with levels.
        cells, levels: the partition, and the levels of its elements.
    """
    chosen = np.flatnonzero(levels.count)
    shapes = np.stack([levels.count[chosen], levels.width[chosen]], 1)
    if len(np.unique(shapes, axis=0)) > 4:
        shapes = 2 ** np.ceil(np.log2(shapes)).astype(int)
    groups = []
    for steps, width in np.unique(shapes, axis=0):
        members = chosen[(shapes == (steps, width)).all(1)]
        longest = int(levels.count[members].max()), int(levels.width[members].max())
        group = _group(tables, members, cells, levels, *longest)
        if group is None:
            return None
        groups.append(group)
    return groups


def _group(
    tables: Sequence[Rows], members: np.ndarray, cells: Cells, levels: Levels, steps: int, width: int
) -> StepGroup | None:
    index = np.full(len(cells.size), -1)
    index[members] = np.arange(len(members))
    own = index[cells.cell] >= 0
    size = np.bincount(
        index[cells.cell[own]] * steps + levels.level[own], minlength=len(members) * steps
    )  # elements of each level of each cell
    entries = [e for t in tables if (e := _entry(t, index, levels, steps, width)) is not None]
    label = _labels(_signature(entries, size), len(members) * steps).reshape(len(members), steps)
    classes = _labels(iter([label]), len(members))
    kind, first = _named(_labels(iter([label[_named(classes)[1]].T]), steps))
    classes, leader = _named(classes)
    number = np.bincount(classes)
    order = np.argsort(classes, kind="stable")
    begin = np.concatenate([[0], np.cumsum(number)[:-1]])
    at = begin[:, None] + np.arange(int(number.max()))
    valid = np.arange(int(number.max())) < number[:, None]
    member = np.where(valid, order[np.minimum(at, len(members) - 1)], order[begin][:, None])
    sizes = sum(e.size(len(first) * len(leader), width) for e in entries)
    if sizes > _MOST:
        return None
    pieces = tuple(e.piece(leader[None, :] * steps + first[:, None], member, steps, width) for e in entries)
    real = np.arange(width) < size.reshape(len(members), steps)[leader].T[first][..., None]
    total = cells.size[members[leader]]
    return StepGroup(pieces, width, kind, real, total, number, valid, np.where(valid, members[member], -1))


@dataclass(frozen=True)
class _Entry:
    """A site's rows sorted into (cells · steps, R) with `inside` where there is one; slots (rows, D, T')."""

    table: Rows
    at: np.ndarray
    inside: np.ndarray
    slots: np.ndarray

    def size(self, kinds: int, width: int) -> int:
        """Numbers in the designs of that many kinds."""
        parts = sum(a.shape[0] * a.shape[1] for a in self.table.touching.values())
        return kinds * parts * self.at.shape[1] * self.table.dim * 2 * width

    def columns(self) -> Iterator[np.ndarray]:
        """All that tells steps apart: (cells · steps, anything) arrays."""
        yield self.inside
        yield np.where(self.inside, self.table.kept[self.at], 0)
        yield np.where(self.inside, self.table.weight[self.at], 0.0)
        yield np.where(self.inside, self.table.count[self.at], 0.0)
        live = self.inside[:, :, None, None]
        yield np.where(live, self.slots[self.at], -1).reshape(len(self.at), -1)
        for a in self.table.touching.values():
            if a.shape[2] > 1:
                for part in a.reshape(-1, *a.shape[2:]):
                    yield np.where(live, part[self.at], 0.0).reshape(len(self.at), -1)

    def piece(self, lead: np.ndarray, member: np.ndarray, steps: int, width: int) -> StepPiece:
        """The arrays of the engine, from the first step of every kind (C, Q) and the cells of every class (Q, n)."""
        table, at, inside = self.table, self.at[lead], self.inside[lead]
        touching = {}
        slots = np.where(inside[..., None, None], self.slots[at], -1)
        for name, a in table.touching.items():
            own = a[:, :, at] if a.shape[2] > 1 else a[:, :, :, None, None]
            own = np.broadcast_to(own, (*a.shape[:2], *slots.shape[:3], table.dim, slots.shape[-1]))
            out = np.zeros((*own.shape[:-1], 2 * width))
            for t in range(own.shape[-1]):
                out += own[..., t, None] * (slots[..., t, None] == np.arange(2 * width))
            touching[name] = out
        cell_at = (member[None] * steps + np.arange(steps)[:, None, None], slice(None))  # (T, Q, n), R
        fixed = {}
        for name, a in table.fixed.items():
            fixed[name] = a[:, :, self.at[cell_at]] if a.shape[2] > 1 else a[:, :, :, None, None, None]
        numbers = (np.where(inside, v[at], 0) for v in (table.kept, table.weight, table.count))
        return StepPiece(table.position, fixed, touching, *numbers)


def _entry(table: Rows, index: np.ndarray, levels: Levels, steps: int, width: int) -> _Entry | None:
    """Sort a site's rows by cell and step; those of a step keep their order."""
    rows = np.flatnonzero(index[table.cell] >= 0)
    if not len(rows):
        return None
    elements = table.elements[rows]
    met = elements >= 0
    level = np.where(met, levels.level[elements], -1)
    step = level.reshape(len(rows), -1).max(1)
    before = step[:, None, None] - level
    slots = np.where(met, levels.slot[elements] + np.where(before == 0, width, 0), -1).astype(np.int32)
    key = index[table.cell[rows]] * steps + step
    order = np.arange(len(key)) if np.all(key[1:] >= key[:-1]) else np.argsort(key, kind="stable")
    count = len(np.unique(index[index >= 0])) * steps
    length = np.bincount(key, minlength=count)
    begin = np.concatenate([[0], np.cumsum(length)[:-1]])
    longest = int(length.max())
    at = order[np.minimum(begin[:, None] + np.arange(longest), len(order) - 1)]
    own = _rows(table, index[table.cell] >= 0)
    return _Entry(own, at, np.arange(longest) < length[:, None], slots)


def _signature(entries: Sequence[_Entry], size: np.ndarray) -> Iterator[np.ndarray]:
    yield size
    for entry in entries:
        yield from entry.columns()


def _labels(tables: Iterator[np.ndarray], count: int) -> np.ndarray:
    """A label for each of `count` rows of tables that come one by one: equal rows, equal label, and only those."""
    label, first = np.zeros(count, np.int64), np.zeros(1, int)
    for table in tables:
        flat = table.reshape(count, math.prod(table.shape[1:]))
        differs = np.any(flat != flat[first[label]], 0)
        for column in flat.T[differs]:
            _, own = np.unique(column, return_inverse=True)
            joint = label * (int(own.max()) + 1) + own.reshape(-1)
            _, first, label = np.unique(joint, return_index=True, return_inverse=True)
            label = label.reshape(-1)
    return label


def _named(label: np.ndarray) -> Any:
    """Labels by order of appearance, and where each appears first."""
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return rank[inverse.reshape(-1)], np.sort(first)
