"""Which coordinates of parameters meet in Q: its Hessian is block diagonal, and as cheap as its largest block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ._links import flat_index
from ._places import Entries

_MOST = 2**22
"""Most elements of an entry at which to look."""


def separate_blocks(look: Entries, names: Sequence[str]) -> np.ndarray | None:
    """The number of the block that each unconstrained coordinate belongs to, parameters in alphabetical order.

    Two coordinates are in one block if some element of an entry holds both, or a third that is in a block with each.
    Items of a test, genes, groups with coefficients of their own fall apart like that.

    Args:
        look: the model's entries.
        names: parameters that are updated jointly.

    Returns:
        (coordinates,), or None where elements are not seen to be apart.
    """
    offsets, total = {}, 0
    for name in sorted(names):
        constraint = look.model.parameters[name].constraint
        if getattr(constraint, "base_constraint", constraint).event_dim:
            return None
        offsets[name] = total
        total += int(np.size(look.initial[name]))
    found = look.dependence(names)
    first, second = [], []
    for entry in range(len(look.complete.outputs)):
        met = _met(look, entry, found, offsets)
        if met is None:
            return None
        for i, a in enumerate(met):
            for b in met[i + 1 :]:
                both = (a >= 0) & (b >= 0)
                first.append(a[both])
                second.append(b[both])
    start, end = (np.concatenate([np.zeros(0, int), *ends]) for ends in (first, second))
    graph = coo_array((np.ones(start.size), (start, end)), shape=(total, total))
    return connected_components(graph, directed=False)[1]


def _met(look: Entries, entry: int, found: Any, offsets: dict[str, int]) -> list[np.ndarray] | None:
    """Coordinates that each element of an entry holds (-1: none), one flat array per way in; None where they mix."""
    part = (*look.complete.factors, *look.complete.priors)[entry]
    canonical = part.family is not None and (look.is_prior(entry) or part.canonical)  # type: ignore[union-attr]
    columns: list[np.ndarray] = []
    for argument, number in look.complete.outputs[entry]:
        if number not in found or canonical == (argument == "@log_prob"):
            continue
        # An argument that is a vector or a matrix, and parts of a residual, mix elements.
        ndims = {"@log_prob": 0} if part.family is None else {"@log_prob": 0, **part.family.argument_ndims}
        if ndims.get(argument, 1) > 0:
            return None
        for name, coordinates in found[number].coordinates.items():
            index = flat_index(coordinates, np.shape(look.initial[name]))
            if index is None:
                return None
            columns.append(np.where(index < 0, -1, index + offsets[name]))
    if look.is_prior(entry) and canonical and part.site in offsets:
        if look.model.sites[part.site].event_ndim:
            return None
        shape = np.shape(look.initial[part.site])
        columns.append(offsets[part.site] + np.arange(int(np.prod(shape))).reshape(shape))
    size = int(np.prod(np.broadcast_shapes(*(c.shape for c in columns))))
    return None if size > _MOST else [c.reshape(-1) for c in np.broadcast_arrays(*columns)]
