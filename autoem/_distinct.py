"""Equal rows of a discrete block are summed over once: how often a row occurs is a power of its evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ._evidence import Enumeration, Factor, Layout, chunk_for, independent_dimensions, products
from ._links import is_concrete

_FEWEST = 512
"""Rows from which on it is worth looking for equal ones."""


def distinct_rows(evidence: Enumeration, shapes: Sequence[tuple[int, ...]]) -> Enumeration:
    """The same log evidence from fewer rows; the block as it is where few rows are equal, or the data are traced.

    Along a dimension that every latent owns and along which no slot varies, rows are independent, and the evidence of
    equal ones is equal: Σ_n log p(x_n) = Σ_r count_r log p(x_r). Their number is padded to a power of two, so that
    other data seldom need another program.

    Args:
        evidence: the block.
        shapes: of its factors' slots.
    """
    if any(evidence.gathered):
        return evidence
    sizes = dict(evidence.layout.sizes)
    for dim in independent_dimensions(evidence.factors, evidence.layout, shapes):
        columns = _columns(evidence, dim)
        if sizes[dim] < _FEWEST or not is_concrete(*columns):
            continue
        found = _grouped([np.asarray(c) for c in columns], sizes[dim])
        if found is not None:
            return _restricted(evidence, dim, *found, shapes)
    return evidence


def _axis(factor: Factor, dims: Sequence[str], dim: str) -> int:
    """Where a factor's aligned arrays have the dimension."""
    return len(factor.latents) + factor.keep[dims.index(dim)]


def _columns(evidence: Enumeration, dim: str) -> list[Any]:
    """Everything that may differ from row to row, rows leading."""
    found = []
    for factor, dims in zip(evidence.factors, evidence.layout.dims, strict=True):
        at = _axis(factor, dims, dim)
        arrays = [factor.value, factor.weight, factor.offset, *factor.constants.values()]
        found += [(a, at) for a in arrays if a is not None and jnp.ndim(a) > at and jnp.shape(a)[at] > 1]
    for name, _, dims in evidence.layout.latents:
        scale = evidence.scales.get(name)
        if scale is not None and jnp.ndim(scale) and jnp.shape(scale)[dims.index(dim)] > 1:
            found.append((scale, dims.index(dim)))
    return [np.moveaxis(a, at, 0) if is_concrete(a) else a for a, at in found]


def _grouped(columns: Sequence[np.ndarray], rows: int) -> tuple[np.ndarray, np.ndarray] | None:
    """A row of every kind and how many there are of it, padded by rows that occur never; None if not worth it."""
    table = np.concatenate([c.reshape(rows, -1).astype(np.float64) for c in columns] or [np.zeros((rows, 1))], 1) + 0.0
    keys = np.ascontiguousarray(table).view(np.dtype((np.void, table.itemsize * table.shape[1]))).reshape(-1)
    # Where half of all rows are repetitions, so many rows without one are next to impossible.
    sample = np.random.default_rng(0).permutation(rows)[: max(_FEWEST, 4 * math.isqrt(rows))]
    if len(np.unique(keys[sample])) == len(sample):
        return None
    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    padded = 2 ** math.ceil(math.log2(len(first)))
    if 2 * padded > rows:
        return None
    blank = padded - len(first)
    return np.append(first, np.zeros(blank, int)), np.append(counts, np.zeros(blank, int))


def _restricted(
    evidence: Enumeration, dim: str, index: np.ndarray, counts: np.ndarray, shapes: Sequence[tuple[int, ...]]
) -> Enumeration:
    """The block with the rows `index`, whose log evidence is multiplied by `counts`."""
    weights = np.asarray(counts, jnp.result_type(float))
    factors = []
    for factor, dims in zip(evidence.factors, evidence.layout.dims, strict=True):
        at = _axis(factor, dims, dim)
        lead = len(factor.latents) + len(factor.batch_shape)
        own = weights.reshape([-1 if a == at else 1 for a in range(lead)])
        factors.append(_taken(factor, at, index, own))
    scales = {}
    for name, _, dims in evidence.layout.latents:
        own = weights.reshape([-1 if d == dim else 1 for d in dims])
        scale = evidence.scales.get(name)
        scales[name] = own if scale is None else _picker(dims.index(dim), index)(scale) * own
    sizes = dict(evidence.layout.sizes)
    number, whole = int((counts > 0).sum()), sizes[dim]
    layout = Layout(evidence.layout.dims, tuple(sorted((sizes | {dim: len(index)}).items())), evidence.layout.latents)
    together = products(factors, layout.dims, evidence.gathered, shapes)
    layout = Layout(layout.dims, layout.sizes, layout.latents, chunk_for(factors, layout, shapes, together))
    label = ", ".join(n for n, _, _ in layout.latents)
    note = (
        f"the {whole} rows of {label} are {number} distinct ones: an iteration sees each once, and multiplies its log "
        "evidence by how often it occurs"
    )
    return Enumeration(tuple(factors), scales, evidence.gathered, layout, together, (note,))


def _picker(at: int, index: np.ndarray) -> Callable[[Any], Any]:
    """Rows `index` along an axis; what does not vary along it stays as it is."""

    def pick(array: Any) -> Any:
        if array is None or jnp.ndim(array) <= at or jnp.shape(array)[at] == 1:
            return array
        return np.take(np.asarray(array), index, at) if is_concrete(array) else jnp.take(array, index, at)

    return pick


def _taken(factor: Factor, at: int, index: np.ndarray, counts: np.ndarray) -> Factor:
    """A factor with the rows `index`, counted so often."""
    pick = _picker(at, index)
    weight, offset = pick(factor.weight), pick(factor.offset)
    shape = list(factor.batch_shape)
    shape[at - len(factor.latents)] = len(index)
    new = eqx.tree_at(
        lambda f: (f.value, f.constants, f.weight, f.offset),
        factor,
        (pick(factor.value), {n: pick(c) for n, c in factor.constants.items()},
         counts if weight is None else weight * counts, None if offset is None else offset * counts),
        is_leaf=lambda x: x is None,
    )  # fmt: skip
    facts = (new.site, new.latents, tuple(shape), new.keep, new.canonical, new.family)
    return Factor(*facts, new.value, new.constants, new.weight, new.offset, new.moving)
