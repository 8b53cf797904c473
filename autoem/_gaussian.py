"""A block of Gaussian latents: from the designs of its sites to the engine that integrates it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from . import _cells
from ._cells import Cells, Rows, compress_rows, find_cells, group_cells
from ._design import Design, rows_of
from ._evidence import Factor, Gaussian, Group, Piece, Place
from ._laid import Laid
from ._links import Coordinates
from ._types import Refusal

_LARGEST = 5000
"""Coupled elements that one dense factorisation may have."""


def lay_out(
    shapes: Mapping[str, tuple[int, ...]],
    discrete: Mapping[str, tuple[int, tuple[int, ...]]],
    factors: Sequence[Factor],
    designs: Sequence[Design],
    coordinates: Sequence[Mapping[str, Coordinates]],
    kept: Sequence[tuple[int, ...]],
) -> Laid:
    """Find cells and classes, compress what can be.

    Args:
        shapes: of the block's Gaussian latents, by name.
        discrete: (number of values, shape) of the block's discrete latents, by name.
        factors, designs: its sites.
        coordinates: per site, per discrete latent, which of its elements each row meets.
        kept: per site, aligned shape of its arguments.

    Raises:
        Refusal: too many coupled elements, or a cell that meets several elements of one discrete latent.
    """
    sizes = {n: math.prod(s) for n, s in shapes.items()}
    offsets = dict(zip(sizes, np.concatenate([[0], np.cumsum(list(sizes.values()))]).tolist(), strict=False))
    total = sum(sizes.values())
    states = [(n, k) for n, (k, _) in discrete.items()]
    tables = [rows_of(d, i, offsets, states, kept[i], _state_elements(d, c, discrete))
              for i, (d, c) in enumerate(zip(designs, coordinates, strict=True))]  # fmt: skip
    cells = find_cells([_met(t) for t in tables], total)
    largest = int(cells.size.max(initial=0))
    if largest > _LARGEST:
        raise Refusal(
            f"{largest} elements of the latents {', '.join(map(repr, shapes))} are coupled with each other; autoem "
            f"factorises at most {_LARGEST} densely."
        )
    tables, cells = _assign(tables, cells)
    met = _cell_states(tables, cells, discrete, list(shapes))
    if met:
        tables, cells, met = _ordered(tables, cells, met)
    used = np.zeros(total, bool)
    for table in tables:
        used[table.elements[table.elements >= 0]] = True
    rows = [t.size for t in tables]
    tables = [compress_rows(t) for t in tables]
    full = group_cells(tables, cells, used, compress=False)
    fast = full if discrete else group_cells(tables, cells, used, compress=True)
    notes = _notes(designs, rows, tables, full, fast, cells)

    def engine(groups: Sequence[_cells.Group], places: dict[str, Place]) -> Gaussian:
        return Gaussian(
            groups=tuple(_module(g, designs, kept) for g in groups),
            factors=tuple(factors),
            latents=tuple(states),
            places=places,
            cells=tuple(np.asarray(g.cells) for g in groups),
            log_base=np.asarray(sum(d.log_base for d in designs), jnp.result_type(float)),
            names=tuple(shapes),
            notes=notes,
            count=len(cells.size),
        )

    whole = engine(full, _places(full, cells, sizes, offsets, used))
    return Laid(whole if fast is full else engine(fast, {}), whole, len(cells.size), met)


def _state_elements(
    design: Design, coordinates: Mapping[str, Coordinates], discrete: Mapping[str, tuple[int, tuple[int, ...]]]
) -> np.ndarray:
    """(n, discrete latents) flat element numbers that each row meets, -1 for none."""
    batch = design.site.batch_shape
    columns = []
    for name, (_, shape) in discrete.items():
        flat: Any = np.full((1,) * len(batch), -1)
        if name in coordinates:
            flat = np.zeros((1,) * len(batch), int)
            for c, n in zip(coordinates[name], shape or (1,), strict=True):
                assert c is not None
                flat = np.where((c < 0) | (flat < 0), -1, flat * n + c)
        columns.append(np.broadcast_to(flat, batch).reshape(-1))
    return np.stack(columns, 1) if columns else np.zeros((math.prod(batch), 0), int)


def _met(table: Rows) -> np.ndarray:
    """(rows, elements met)."""
    return table.elements.reshape(table.size, math.prod(table.elements.shape[1:]))


def _assign(tables: Sequence[Rows], cells: Cells) -> tuple[list[Rows], Cells]:
    """Give every row its cell; a row that meets no latent is a cell of its own."""
    count, result = len(cells.size), []
    for table in tables:
        flat = _met(table)
        first = flat[np.arange(table.size), (flat >= 0).argmax(1)] if flat.shape[1] else np.full(table.size, -1)
        alone = first < 0
        cell = np.where(alone, 0, cells.cell[np.maximum(first, 0)]) if cells.cell.size else np.zeros(table.size, int)
        cell[alone] = count + np.arange(alone.sum())
        count += int(alone.sum())
        result.append(replace(table, cell=cell))
    size = np.concatenate([cells.size, np.zeros(count - len(cells.size), int)])
    return result, Cells(cells.cell, cells.slot, size)


def _cell_states(
    tables: Sequence[Rows], cells: Cells, discrete: Mapping[str, tuple[int, tuple[int, ...]]], names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Per discrete latent, the element that each cell of the Gaussian latents `names` meets."""
    result = {}
    for i, name in enumerate(discrete):
        own = np.full(len(cells.size), -1)
        for table in tables:
            np.maximum.at(own, table.cell, table.states[:, i])
        for table in tables:
            state = table.states[:, i]
            if np.any((state >= 0) & (state != own[table.cell])):
                raise Refusal(
                    f"Elements of the Gaussian latents {', '.join(map(repr, names))} that are coupled with each other "
                    f"depend on several elements of {name!r}: their joint states are too many to sum exactly."
                )
        result[name] = own
    return result


def _ordered(
    tables: Sequence[Rows], cells: Cells, met: dict[str, np.ndarray]
) -> tuple[list[Rows], Cells, dict[str, np.ndarray]]:
    """Number the cells in the order of the discrete elements: then they mostly are those elements, one by one."""
    order = np.lexsort(list(met.values())[::-1])
    new = np.empty(len(order), int)
    new[order] = np.arange(len(order))
    tables = [replace(t, cell=new[t.cell]) for t in tables]
    return tables, Cells(new[cells.cell], cells.slot, cells.size[order]), {n: m[order] for n, m in met.items()}


def _module(group: _cells.Group, designs: Sequence[Design], kept: Sequence[tuple[int, ...]]) -> Group:
    """The arrays of a group as the engine holds them."""
    real = jnp.result_type(float)
    pieces = []
    for piece in group.pieces:
        own, lead = designs[piece.position].columns, len(designs[piece.position].latents)
        first = {"": 0}
        at = 1
        for number, width in zip(own.numbers, own.widths, strict=True):
            first[str(number)] = at
            at += width

        def held(parts: Mapping[str, np.ndarray], first: Mapping[str, int] = first) -> Any:
            return tuple((first[n], np.asarray(a, real)) for n, a in sorted(parts.items(), key=lambda p: first[p[0]]))

        pieces.append(
            Piece(
                factor=piece.position,
                fixed=held(piece.fixed),
                touching=held({n: a for n, a in piece.touching.items() if a.any()}),
                slots=piece.slots,
                kept=piece.kept,
                weight=np.asarray(piece.weight, real),
                count=np.asarray(piece.count, real),
                alike=math.prod(kept[piece.position][lead:]) == 1,
            )
        )
    return Group(
        tuple(pieces), np.asarray(group.real, real), np.asarray(group.number, real), np.asarray(group.valid, real)
    )


def _places(
    groups: Sequence[_cells.Group], cells: Cells, sizes: Mapping[str, int], offsets: Mapping[str, int], used: np.ndarray
) -> dict[str, Place]:
    """Where every element is."""
    count = len(cells.size)
    where = np.zeros((3, count), int)
    for index, group in enumerate(groups):
        classes, members = np.nonzero(group.cells >= 0)
        where[:, group.cells[classes, members]] = np.stack([np.full(len(classes), index), classes, members])
    result = {}
    for name, size in sizes.items():
        at = slice(offsets[name], offsets[name] + size)
        group, row, member = where[:, cells.cell[at]]
        result[name] = Place(group, row, member, cells.slot[at], cells.cell[at], used[at])
    return result


def _notes(
    designs: Sequence[Design], sizes: Sequence[int], tables: Sequence[Rows], full: Sequence[_cells.Group],
    fast: Sequence[_cells.Group], cells: Cells,
) -> tuple[str, ...]:  # fmt: skip
    notes = []
    count, classes = len(cells.size), sum(len(g.real) for g in full)
    largest = int(cells.size.max(initial=0))
    cell = "1 cell" if count == 1 else f"{count} cells"
    notes.append(f"{cell} of at most {largest} coupled elements; {classes} distinct precision"
                 f"{'' if classes == 1 else 's'} to factorise per iteration")  # fmt: skip
    for design, table, rows in zip(designs, tables, sizes, strict=True):
        if table.size < rows:
            notes.append(
                f"the {rows} rows of {design.site.name} were replaced by {table.size} with the same cross-products"
            )
    before, after = sum(g.valid.size for g in full), sum(g.valid.size for g in fast)
    if after < before:
        notes.append(f"the {before} cells were summed up before the loop: an iteration sees {after} with the same "
                     "second moments")  # fmt: skip
    return tuple(notes)
