"""Which Gaussian latents are coupled, and what their data have in common: the layout of a Gaussian block.

All on the host, once. Elements that share a row are coupled; the connected components are *cells*, each a small dense
Gaussian of its own. Rows of a cell that meet the same latents and the same parameters are replaced by the rows of the
R factor of their QR decomposition: same second moments, at most as many rows as columns. Cells whose precision is
built from the same numbers form a *class* with one factorisation; where nothing but second moments of a class
matters, its cells are compressed by the same means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ._rows import Touch


@dataclass(frozen=True)
class Rows:
    """The rows of one site, flat.

    Arrays run over n rows, or have length 1 there if they are the same for all.

    Attributes:
        position: of the site's factor.
        dim: length D of a residual.
        fixed: coefficient name -> (J, L, n, D): what is free of latents; "" is the constant, L are discrete states.
        touching: coefficient name -> (J, L, n, D, T): what multiplies the T elements that a row meets.
        elements: (n, D, T) global element numbers, -1 for none.
        kept: (n,) which element of the site's arguments a row goes with.
        weight: (n,) multiplies the squared residual.
        count: (n,) multiplies the log normaliser.
        cell: (n,) the cell of a row.
        states: (n, discrete latents) which of their elements a row meets, -1 for none.
    """

    position: int
    dim: int
    fixed: Mapping[str, np.ndarray]
    touching: Mapping[str, np.ndarray]
    elements: np.ndarray
    kept: np.ndarray
    weight: np.ndarray
    count: np.ndarray
    cell: np.ndarray
    states: np.ndarray

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.kept)


@dataclass(frozen=True)
class Cells:
    """A partition of the latents' elements.

    Attributes:
        cell: (elements,) number of each element's cell.
        slot: (elements,) its position there.
        size: (cells,) how many elements a cell has; cells without any hold rows that meet no latent.
    """

    cell: np.ndarray
    slot: np.ndarray
    size: np.ndarray


def element_numbers(touch: Touch, offset: int, rows: Sequence[int]) -> np.ndarray:
    """Elements that each row meets: (compact rows..., width), -1 for none.

    Args:
        touch: how.
        offset: number of the latent's first element.
        rows: the site's batch axes and event axis (their number is that of the coordinates).
    """
    strides = np.cumprod([1, *reversed(touch.shape)])[:-1][::-1]
    flat: Any = np.zeros((1,) * len(rows), int)
    for axis, c in enumerate(touch.coordinates):
        if c is not None:
            step = int(strides[axis]) if touch.shape else 0
            flat = np.where((c < 0) | (flat < 0), -1, flat + c * step)
    grid = np.zeros((1,), int)
    for axis in touch.mixed:
        grid = (grid[:, None] + np.arange(touch.shape[axis]) * int(strides[axis])).reshape(-1)
    flat = flat[..., None]
    return np.where(flat < 0, -1, touch.elements[np.maximum(flat, 0) + grid] + offset)


def find_cells(couplings: Sequence[np.ndarray], total: int) -> Cells:
    """Connected components of elements.

    Args:
        couplings: (rows, elements met) arrays of element numbers, -1 for none.
        total: number of elements.
    """
    starts, ends = [], []
    for met in couplings:
        if met.shape[1] < 2:
            continue
        first = met[np.arange(len(met)), (met >= 0).argmax(1)]
        valid = (met >= 0) & (first >= 0)[:, None] & (met != first[:, None])
        starts.append(np.broadcast_to(first[:, None], met.shape)[valid])
        ends.append(met[valid])
    left = np.concatenate(starts) if starts else np.zeros(0, int)
    right = np.concatenate(ends) if ends else np.zeros(0, int)
    graph = coo_matrix((np.ones(left.size, np.int8), (left, right)), (total, total))
    count, label = connected_components(graph, directed=False)
    order = np.argsort(label, kind="stable")
    size = np.bincount(label, minlength=count)
    start = np.concatenate([[0], np.cumsum(size)[:-1]]).astype(int)
    slot = np.empty(total, int)
    slot[order] = np.arange(total) - start[label[order]]
    return Cells(label, slot, size)


def compress_rows(rows: Rows) -> Rows:
    """Replace rows that share cell, latents and arguments by the R factor of their columns, where that is fewer."""
    varying = [(kind, name, a) for kind, parts in (("touching", rows.touching), ("fixed", rows.fixed))
               for name, a in sorted(parts.items(), reverse=True) if a.shape[2] > 1]  # fmt: skip
    width = 1 + sum(a.size // a.shape[2] for _, _, a in varying)
    if rows.size < 2 * width:
        return rows
    keys = [rows.cell, rows.kept]
    if len(rows.elements) > 1:
        keys += list(rows.elements.reshape(rows.size, -1).T)
    order = np.lexsort(keys[::-1])
    change = np.zeros(rows.size, bool)
    for key in keys:
        change[1:] |= np.diff(key[order]) != 0
    group = np.cumsum(change)
    sizes = np.bincount(group)
    after = np.minimum(sizes, width).sum()
    if after > 0.7 * rows.size:
        return rows
    root = np.sqrt(rows.weight)
    table = np.concatenate([root[:, None], *(
        np.moveaxis(a, 2, 0).reshape(rows.size, -1) * root[:, None] for _, _, a in varying)], 1)[order]  # fmt: skip
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    counts = np.add.reduceat(rows.count[order], starts)
    blocks, owners = [], []
    for bound in np.unique(_rounded(sizes)):
        members = np.flatnonzero(_rounded(sizes) == bound)
        longest = int(sizes[members].max())
        at = starts[members][:, None] + np.arange(longest)
        inside = np.arange(longest) < sizes[members][:, None]
        padded = np.where(inside[..., None], table[np.minimum(at, rows.size - 1)], 0.0)
        if longest > width:
            padded = np.asarray(np.linalg.qr(padded, mode="r"))
            sign = np.sign(np.diagonal(padded, axis1=1, axis2=2))
            padded = padded * np.where(sign == 0, 1.0, sign)[:, :, None]
            inside = np.ones(padded.shape[:2], bool)
        blocks.append(padded[inside])
        owners.append(np.broadcast_to(members[:, None], inside.shape)[inside])
    reduced, owner = np.concatenate(blocks), np.concatenate(owners)
    back = np.argsort(owner, kind="stable")
    reduced, owner = reduced[back], owner[back]
    source = order[starts[owner]]
    first = np.concatenate([[True], np.diff(owner) != 0])
    new: dict[str, dict[str, np.ndarray]] = {"touching": {}, "fixed": {}}
    one, at = reduced[:, 0], 1
    for kind, parts in (("touching", rows.touching), ("fixed", rows.fixed)):
        for name, a in parts.items():
            if a.shape[2] == 1:
                new[kind][name] = a * one.reshape([-1 if axis == 2 else 1 for axis in range(a.ndim)])
    for kind, name, a in varying:
        size = a.size // a.shape[2]
        shape = [n for axis, n in enumerate(a.shape) if axis != 2]
        new[kind][name] = np.moveaxis(reduced[:, at : at + size].reshape([-1, *shape]), 0, 2)
        at += size
    return replace(
        rows,
        **new,
        elements=rows.elements if len(rows.elements) == 1 else rows.elements[source],
        kept=rows.kept[source],
        weight=np.ones(len(owner)),
        count=np.where(first, counts[owner], 0.0),
        cell=rows.cell[source],
        states=rows.states[source],
    )


def _rounded(sizes: np.ndarray) -> np.ndarray:
    """The next power of two."""
    return 2 ** np.ceil(np.log2(np.maximum(sizes, 1))).astype(int)


@dataclass(frozen=True)
class Piece:
    """One site's rows in one group of cells: Q classes of n cells with R rows each. See `Rows` for J, L, D, T.

    Attributes:
        position: of the site's factor.
        fixed: coefficient name -> (J, L, Q, n, R, D).
        touching: coefficient name -> (J, L, Q, R, D, T).
        slots: (Q, R, D, T) position in the cell of each element met; None where T runs over all slots in order.
        kept, weight, count: (Q, R).
    """

    position: int
    fixed: dict[str, np.ndarray]
    touching: dict[str, np.ndarray]
    slots: np.ndarray | None
    kept: np.ndarray
    weight: np.ndarray
    count: np.ndarray


@dataclass(frozen=True)
class Group:
    """Cells of similar size.

    Attributes:
        pieces: the rows, site by site.
        width: number of slots S.
        real: (Q, S) which slots hold an element.
        number: (Q,) cells per class.
        valid: (Q, n) which cells (or compressed rows of cells) are there.
        cells: (Q, n) the cell's number; -1 where there is none, or where cells were compressed.
        arrow: blocks, their width and what is in the border, where cells fall apart without that (see `_borders`).
    """

    pieces: tuple[Piece, ...]
    width: int
    real: np.ndarray
    number: np.ndarray
    valid: np.ndarray
    cells: np.ndarray
    arrow: tuple[int, int, int] | None = None


_DENSE = 64
"""Slots up to which a row's coefficients are held for all of them."""


def group_cells(
    tables: Sequence[Rows], cells: Cells, used: np.ndarray, chosen: np.ndarray, compress: bool,
    arrow: tuple[int, int, int] | None = None,
) -> list[Group]:  # fmt: skip
    """Sort cells into groups of similar size, and within a group into classes.

    Args:
        tables: the rows of every site.
        cells: the partition, cells without elements included in `size`.
        used: (elements,) whether any row meets an element; the others carry no density and are left out.
        chosen: (cells,) which cells.
        compress: replace the cells of a class by fewer with the same second moments.
        arrow: how the chosen cells fall apart (see `Group`).
    """
    count = len(cells.size)
    lengths = [np.bincount(t.cell, minlength=count) for t in tables]
    dense = np.flatnonzero(chosen)
    if not len(dense):
        return []
    keys = np.stack([_rounded(cells.size) * (cells.size > 0), *(_rounded(n) * (n > 0) for n in lengths)], 1)
    _, member = np.unique(keys[dense], axis=0, return_inverse=True)
    member = member.reshape(-1)
    orders = [_sorted(t.cell) for t in tables]
    starts = [np.concatenate([[0], np.cumsum(n)[:-1]]) for n in lengths]
    groups = []
    for label in range(member.max() + 1):
        own = dense[member == label]
        picked = []
        for table, order, start, length in zip(tables, orders, starts, lengths, strict=True):
            longest = int(length[own].max())
            if not longest:
                continue
            at = start[own][:, None] + np.arange(longest)
            inside = np.arange(longest) < length[own][:, None]
            picked.append((table, order[np.minimum(at, table.size - 1)], inside))
        groups.append(_group(picked, own, cells, used, compress, arrow))
    return groups


def _sorted(cell: np.ndarray) -> np.ndarray:
    return np.arange(len(cell)) if np.all(np.diff(cell) >= 0) else np.argsort(cell, kind="stable")


def _take(array: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    """Rows by (cells, R) index; (1, 1) where there is one row for all."""
    if array.shape[axis] == 1:
        return np.expand_dims(array, axis)
    return np.take(array, index, axis)


def _group(
    picked: Sequence[Any], chosen: np.ndarray, cells: Cells, used: np.ndarray, compress: bool,
    arrow: tuple[int, int, int] | None,
) -> Group:  # fmt: skip
    width = int(cells.size[chosen].max())
    members = np.isin(cells.cell, chosen) & used
    real = np.zeros((len(chosen), width), bool)
    where = np.searchsorted(chosen, cells.cell[members])
    real[where, cells.slot[members]] = True
    entries, signature = [], [real]
    for table, index, inside in picked:
        slots = np.where(table.elements < 0, -1, cells.slot[table.elements])
        slots = _take(_level(slots), index, 0)
        if slots.shape[0] > 1:
            slots = np.where(inside[:, :, None, None], slots, -1)
        live = inside[:, :, None, None]
        touching = {n: _take(a, index, 2) for n, a in table.touching.items()}
        touching = {n: a * live if a.shape[2] > 1 else a for n, a in touching.items()}
        kept = np.where(inside, table.kept[index], 0)
        weight, count = (np.where(inside, a[index], 0.0) for a in (table.weight, table.count))
        entries.append((table, index, slots, touching, kept, weight, count))
        signature += [kept, weight, count]
        signature += [slots] if slots.shape[0] > 1 else []
        signature += [np.moveaxis(a, 2, 0) for a in touching.values() if a.shape[2] > 1]
    label, first = _classes(signature, len(chosen))
    number = np.bincount(label)
    order = np.argsort(label, kind="stable")
    longest = int(number.max())
    start = np.concatenate([[0], np.cumsum(number)[:-1]])
    at = start[:, None] + np.arange(longest)
    valid = np.arange(longest) < number[:, None]
    cell_at = np.where(valid, order[np.minimum(at, len(chosen) - 1)], order[start][:, None])
    fixed = [{n: _by_class(_take(a, t[1], 2), cell_at) for n, a in t[0].fixed.items()} for t in entries]
    # A row that is only padding has weight zero; its numbers are those of some other row.
    numbers = np.where(valid, chosen[cell_at], -1)
    live = [(p != 0) for p in (t[5][first] for t in entries)]
    if compress and longest > 1:
        fixed, valid, numbers = _compress_cells(fixed, live, number, valid, numbers)
    pieces = []
    for (table, _, slots, touching, kept, weight, count), parts in zip(entries, fixed, strict=True):
        rows = kept.shape[1]
        own = slots[first] if slots.shape[0] > 1 else np.broadcast_to(slots, (len(first), *slots.shape[1:]))
        own = np.broadcast_to(own, (len(first), rows, table.dim, own.shape[-1]))
        touch = {n: a[:, :, first] if a.shape[2] > 1 else np.broadcast_to(
            a, (*a.shape[:2], len(first), *a.shape[3:])) for n, a in touching.items()}  # fmt: skip
        touch = {n: np.broadcast_to(a, (*a.shape[:3], rows, table.dim, a.shape[-1])) for n, a in touch.items()}
        held: np.ndarray | None = own
        if width <= _DENSE and arrow is None:
            touch, held = {n: _dense(a, own, width) for n, a in touch.items()}, None
        pieces.append(Piece(table.position, parts, touch, held, kept[first], weight[first], count[first]))
    return Group(tuple(pieces), width, real[first], number, valid, numbers, arrow)


def _level(slots: np.ndarray) -> np.ndarray:
    """(1, D, T) where all rows meet the same slots."""
    return slots[:1] if np.array_equal(slots, np.broadcast_to(slots[:1], slots.shape)) else slots


def _classes(signature: Sequence[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Label of each cell and the first cell of each label: equal bytes, equal class."""
    parts = [np.ascontiguousarray(a).reshape(count, -1) for a in signature]
    if all(np.array_equal(p, np.broadcast_to(p[:1], p.shape)) for p in parts):
        return np.zeros(count, int), np.zeros(1, int)
    joint = np.concatenate([p.astype(np.float64) for p in parts], 1) + 0.0  # -0.0 and 0.0 are the same
    raw = np.ascontiguousarray(joint).view(np.dtype((np.void, joint.dtype.itemsize * joint.shape[1]))).reshape(-1)
    _, first, label = np.unique(raw, return_index=True, return_inverse=True)
    return label.reshape(-1), first


def _by_class(array: np.ndarray, cell_at: np.ndarray) -> np.ndarray:
    """(J, L, cells, R, D) -> (J, L, Q, n, R, D)."""
    if array.shape[2] == 1:
        return array[:, :, :, None]
    return array[:, :, cell_at]


def _compress_cells(fixed: Any, live: Any, number: np.ndarray, valid: np.ndarray, numbers: np.ndarray) -> Any:
    """Replace the cells of every class by the R factor of (1, all their varying data)."""
    classes, longest = valid.shape
    varying = [(i, n) for i, parts in enumerate(fixed) for n, a in parts.items() if a.shape[3] > 1]
    columns = [np.ones((classes, longest, 1))]
    for i, n in varying:
        a = fixed[i][n] * live[i][:, None, :, None]
        columns.append(np.moveaxis(a, (2, 3), (0, 1)).reshape(classes, longest, -1))
    width = sum(c.shape[-1] for c in columns)
    if width > 0.7 * longest:
        return fixed, valid, numbers
    table = np.concatenate(columns, -1) * valid[..., None]
    root = np.asarray(np.linalg.qr(table, mode="r"))
    result = [dict(parts) for parts in fixed]
    one = root[:, :, 0]
    for i, parts in enumerate(fixed):
        for n, a in parts.items():
            if a.shape[3] == 1:
                result[i][n] = a * one[:, :, None, None]
    at = 1
    for i, n in varying:
        a = fixed[i][n]
        shape = (*a.shape[:2], *a.shape[4:])
        size = math.prod(shape)
        result[i][n] = np.moveaxis(root[:, :, at : at + size].reshape(classes, -1, *shape), (0, 1), (2, 3))
        at += size
    return result, np.ones(root.shape[:2], bool), np.full(root.shape[:2], -1)


def _dense(array: np.ndarray, slots: np.ndarray, width: int) -> np.ndarray:
    """Coefficients of the elements that a row meets, laid out over all slots."""
    out = np.zeros((*array.shape[:-1], width))
    for t in range(array.shape[-1]):
        hot = slots[..., t, None] == np.arange(width)
        out += array[..., t, None] * hot
    return out
