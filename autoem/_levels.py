"""Cells of Gaussian latents that are long and thin: their elements in levels, of which neighbours alone are coupled.

The levels are found in the graph of elements and rows, not from how the model was written: breadth-first from one end,
then from the last level that this reaches, as in methods that order a sparse matrix for a small bandwidth (Gibbs, Poole
and Stockmeyer 1976). Ordered by level, a cell's precision is block tridiagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order

from ._cells import Cells

SMALLEST = 64
"""Elements of a cell from which on levels are looked for."""
GAIN = 12
"""How many times fewer operations than a dense factorisation they have to need."""


@dataclass(frozen=True)
class Levels:
    """Elements of cells in levels, such that every row meets two neighbouring ones at most.

    Attributes:
        level: (elements,) number of each element's level, -1 where its cell has none.
        slot: (elements,) position in its level, by element number.
        count: (cells,) levels of each cell, 0 for none.
        width: (cells,) elements of the widest level.
    """

    level: np.ndarray
    slot: np.ndarray
    count: np.ndarray
    width: np.ndarray

    def extended(self, cells: int) -> Levels:
        """With more cells, which have none."""
        more = (0, cells - len(self.count))
        return replace(self, count=np.pad(self.count, more), width=np.pad(self.width, more))

    def reordered(self, order: np.ndarray) -> Levels:
        """With the cells in another order."""
        return replace(self, count=self.count[order], width=self.width[order])

    def none(self) -> Levels:
        """No levels at all."""
        blank = np.zeros_like(self.count)
        return replace(self, level=np.full_like(self.level, -1), count=blank, width=blank)


def find_levels(couplings: Sequence[np.ndarray], cells: Cells) -> Levels:
    """Levels of the cells for which elimination level by level is much cheaper than a dense factorisation.

    Args:
        couplings: (rows, elements met) arrays of element numbers, -1 for none.
        cells: the partition.
    """
    total, count = len(cells.cell), len(cells.size)
    none = Levels(np.full(total, -1), cells.slot, np.zeros(count, int), np.zeros(count, int))
    large = cells.size >= SMALLEST
    inside = large[cells.cell] if total else np.zeros(0, bool)
    if not inside.any():
        return none
    graph = _graph(couplings, inside)
    first = np.flatnonzero(inside)
    start = first[np.unique(cells.cell[first], return_index=True)[1]]
    best, cost = none, np.full(count, np.inf)
    for _ in range(3):
        level = _distances(graph, start, total)
        level = np.where(inside, level, -1)
        found = _measured(level, cells, inside)
        own = found.count * (2.0 * found.width) ** 3
        if np.any(own[large] <= cost[large]):
            better = (own <= cost) & large
            at = better[cells.cell] & inside
            best = Levels(
                np.where(at, found.level, best.level),
                np.where(at, found.slot, best.slot),
                np.where(better, found.count, best.count),
                np.where(better, found.width, best.width),
            )
            cost = np.where(better, own, cost)
        last = np.full(count, -1)
        np.maximum.at(last, cells.cell[first], level[first])
        start = first[level[first] == last[cells.cell[first]]]
    worth = large & (GAIN * cost < cells.size.astype(float) ** 3)
    kept = worth[cells.cell] & inside
    return Levels(
        np.where(kept, best.level, -1),
        np.where(kept, best.slot, cells.slot),
        np.where(worth, best.count, 0),
        np.where(worth, best.width, 0),
    )


def _graph(couplings: Sequence[np.ndarray], inside: np.ndarray) -> Any:
    """Elements, then the distinct rows that meet several of them; an edge where a row meets an element."""
    elements, rows, at = [], [], len(inside)
    for met in couplings:
        if met.shape[1] < 2:
            continue
        met = met[np.any((met >= 0) & inside[np.maximum(met, 0)], 1)]
        if not len(met):
            continue
        new = np.ones(len(met), bool)
        new[1:] = np.any(met[1:] != met[:-1], 1)
        met = met[new]
        valid = met >= 0
        elements.append(met[valid])
        rows.append(np.broadcast_to(at + np.arange(len(met))[:, None], met.shape)[valid])
        at += len(met)
    left = np.concatenate([*elements, *rows])
    right = np.concatenate([*rows, *elements])
    return csr_matrix((np.ones(len(left), np.int8), (left, right)), (at, at))


def _distances(graph: Any, start: np.ndarray, elements: int) -> np.ndarray:
    """(elements,) rows between each element and the nearest of those in `start`."""
    size = graph.shape[0]
    # One more node, whose neighbours are the start.
    indptr = np.append(graph.indptr, graph.indptr[-1] + len(start))
    indices = np.concatenate([graph.indices, start.astype(graph.indices.dtype)])
    wide = csr_matrix((np.ones(len(indices), np.int8), indices, indptr), (size + 1, size + 1))
    found: Any = breadth_first_order(wide, size, directed=True, return_predecessors=True)
    order, parent = found
    above = np.full(size + 1, size)
    above[order[1:]] = parent[order[1:]]
    depth = np.zeros(size + 1, int)
    depth[order[1:]] = 1
    # Every node jumps to its parent, then twice as far, and so on: as many rounds as the depth has binary digits.
    while np.any(above != size):
        depth, above = depth + depth[above], above[above]
    return (depth[:elements] - 1) // 2


def _measured(level: np.ndarray, cells: Cells, inside: np.ndarray) -> Levels:
    """Slots, numbers and widths of levels."""
    count = len(cells.size)
    members = np.flatnonzero(inside)
    deepest = int(level[members].max()) + 1
    key = cells.cell[members] * deepest + level[members]
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    change = np.append(True, ordered[1:] != ordered[:-1])
    begin = np.flatnonzero(change)
    rank = np.arange(len(members)) - begin[np.cumsum(change) - 1]
    slot = cells.slot.copy()
    slot[members[order]] = rank
    levels, width = np.zeros(count, int), np.zeros(count, int)
    np.maximum.at(levels, cells.cell[members], level[members] + 1)
    np.maximum.at(width, cells.cell[members], slot[members] + 1)
    return Levels(level, slot, levels, width)
