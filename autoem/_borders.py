"""Cells of Gaussian latents that fall apart once a few of their elements are left out: crossed effects, for example.

The few are the *border*; what is left are *blocks* that meet each other through the border only. Given the border the
precision is block diagonal, so the blocks are eliminated first, however many they are, and only the border is then
factorised densely. It is found in the graph of elements and rows, in two orders: whole latents, those of the fewest
elements first, and single elements, those that meet the most rows first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from ._cells import Cells

SMALLEST = 256
"""Elements of a cell from which on a border is looked for."""
_GAIN = 4
"""How many times fewer operations than a dense factorisation it has to need."""
_WIDEST = 64
"""Elements that a block may have."""
MOST = 1e8
"""Numbers that blocks and border of a cell may hold together."""


@dataclass(frozen=True)
class Borders:
    """How cells fall apart.

    Attributes:
        slot: (elements,) position in its cell: blocks one after the other, all as wide as the widest, then the border.
        shape: (cells, 3) blocks, elements of the widest, elements of the border; zeros for a cell that stays dense.
    """

    slot: np.ndarray
    shape: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """(cells,) whether a cell falls apart."""
        return self.shape[:, 0] > 0

    @property
    def size(self) -> np.ndarray:
        """(cells,) slots."""
        return self.shape[:, 0] * self.shape[:, 1] + self.shape[:, 2]

    def extended(self, cells: int) -> Borders:
        """With more cells, which stay dense."""
        return replace(self, shape=np.pad(self.shape, ((0, cells - len(self.shape)), (0, 0))))


def find_borders(couplings: Sequence[np.ndarray], cells: Cells, latents: np.ndarray, chosen: np.ndarray) -> Borders:
    """Borders of the cells for which elimination block by block is much cheaper than a dense factorisation.

    Args:
        couplings: (rows, elements met) arrays of element numbers, -1 for none.
        cells: the partition.
        latents: (elements,) number of the latent that an element is of.
        chosen: (cells,) where to look.
    """
    slot, shape = cells.slot.copy(), np.zeros((len(cells.size), 3), int)
    for cell in np.flatnonzero(chosen & (cells.size >= SMALLEST)):
        members = np.flatnonzero(cells.cell == cell)
        graph = _graph(couplings, members, len(cells.cell))
        best = _best(graph, latents[members])
        if best is not None:
            slot[members], shape[cell] = _slots(*best)
    return Borders(slot, shape)


def _graph(couplings: Sequence[np.ndarray], members: np.ndarray, total: int) -> Any:
    """(distinct rows, members): which row meets which member."""
    own = np.full(total + 1, -1)
    own[members] = np.arange(len(members))
    rows, columns, count = [], [], 0
    for met in couplings:
        met = own[met] if met.shape[1] > 1 else np.zeros((0, 1), int)  # -1 picks the last, which is none
        met = met[(met >= 0).sum(1) > 1]
        if not len(met):
            continue
        order = np.lexsort(met.T)
        new = np.append(True, np.any(np.diff(met[order], axis=0) != 0, 1))
        met = met[order[new]]
        valid = met >= 0
        rows.append(np.broadcast_to(count + np.arange(len(met))[:, None], met.shape)[valid])
        columns.append(met[valid])
        count += len(met)
    row, column = np.concatenate(rows), np.concatenate(columns)
    return csr_matrix((np.ones(len(row), np.int8), (row, column)), (count, len(members)))


def _best(graph: Any, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(which members are in the border, the block of every other one) at the least cost, or None: dense is as good."""
    dense, best, least = float(graph.shape[1]) ** 3, None, np.inf
    for candidates in (_by_latent(latents), _by_degree(graph)):
        for border in candidates:
            block = _blocks(graph, border)
            cost = _cost(border, block)
            if cost < least:
                best, least = (border, block), cost
        if _GAIN * least < dense:
            return best
    return None


def _by_latent(latents: np.ndarray) -> Iterator[np.ndarray]:
    """The latents of the fewest elements, one, two and so on."""
    numbers, sizes = np.unique(latents, return_counts=True)
    for count in range(1, len(numbers)):
        yield np.isin(latents, numbers[np.argsort(sizes, kind="stable")[:count]])


def _by_degree(graph: Any) -> Iterator[np.ndarray]:
    """The elements that meet the most rows: the fewest that leave blocks of certain widths."""
    degree = np.bincount(graph.indices, minlength=graph.shape[1])
    rank = np.argsort(np.argsort(-degree, kind="stable"))
    low = 0
    for widest in (_WIDEST, 8, 1):
        high = graph.shape[1]
        while low < high:
            middle = (low + high) // 2
            if np.bincount(_blocks(graph, rank < middle)[rank >= middle]).max(initial=0) <= widest:
                high = middle
            else:
                low = middle + 1
        yield rank < low


def _blocks(graph: Any, border: np.ndarray) -> np.ndarray:
    """(members,) connected components without the border; of those in it, whatever."""
    rows, members = graph.shape
    inside = ~border[graph.indices]
    row = np.repeat(np.arange(rows), np.diff(graph.indptr))[inside]
    column = graph.indices[inside]
    # Members of a row one after the other.
    along = np.flatnonzero(row[1:] == row[:-1])
    edges = csr_matrix((np.ones(len(along), np.int8), (column[along], column[along + 1])), (members, members))
    return connected_components(edges, directed=False)[1]


def _cost(border: np.ndarray, block: np.ndarray) -> float:
    """Operations, in the units in which a dense factorisation of S elements needs S³."""
    sizes = np.bincount(block[~border])
    sizes = sizes[sizes > 0]
    wide, few, own = float(sizes.max(initial=0)), float(border.sum()), float(len(sizes))
    if wide > _WIDEST or own * wide * (wide + few) > MOST:
        return np.inf
    return few**3 + 2 * own * wide * (few**2 + few * wide + wide**2)


def _slots(border: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Slots of all members, and the shape."""
    inner = np.flatnonzero(~border)
    number = np.unique(block[inner], return_inverse=True)[1].reshape(-1)
    order = np.argsort(number, kind="stable")
    sizes = np.bincount(number)
    start = np.cumsum(sizes) - sizes
    within = np.empty(len(inner), int)
    within[order] = np.arange(len(inner)) - start[number[order]]
    blocks, width, few = len(sizes), int(sizes.max(initial=0)), int(border.sum())
    slot = np.empty(len(border), int)
    slot[inner] = number * width + within
    slot[border] = blocks * width + np.arange(few)
    return slot, (blocks, width, few)
