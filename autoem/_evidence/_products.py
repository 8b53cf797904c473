"""Factors that hold the same latents as one matrix product: log f = T(x) · slots', rows by states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ._factor import Factor

_ONE = "1"


class Product(eqx.Module):
    """Which factors of a block are taken together.

    Rows are the elements along the kept axes; along those the statistics run and the slots do not.

    Attributes:
        members: positions of the factors whose statistics differ from row to row.
        constants: positions of factors that add the same to every row: their sum goes with a column of ones.
        shared: per member, the batch axes along which its slots do not vary either: added up.
        ones: whether there is a column of ones: for the count among the statistics of the members, or for constants.
    """

    members: tuple[int, ...] = eqx.field(static=True)
    constants: tuple[int, ...] = eqx.field(static=True)
    shared: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    ones: bool = eqx.field(static=True)


def products(
    factors: Sequence[Factor],
    dims: Sequence[tuple[str, ...]],
    gathered: Sequence[Any],
    slot_shapes: Sequence[tuple[int, ...]],
) -> tuple[Product, ...]:
    """The factors that can be taken together, by latents and dimensions.

    Args:
        factors, dims, gathered: of the block, see `Enumeration`.
        slot_shapes: of its factors' slots.
    """
    groups: dict[Any, list[int]] = {}
    still: dict[Any, list[int]] = {}
    for i, (factor, own, shape) in enumerate(zip(factors, dims, slot_shapes, strict=True)):
        lead = len(factor.latents)
        features = jax.eval_shape(lambda f: f.statistics()[0], factor).shape
        kept = [lead + a for a in factor.keep]
        if not own or gathered[i] or any(shape[a] > 1 for a in kept):
            continue
        if all(features[a] == 1 for a in kept):
            still.setdefault((factor.latents, own), []).append(i)
        elif factor.family is not None and factor.canonical and not factor.moving:
            whole = all(features[a] == factor.batch_shape[a - lead] for a in kept)
            if whole and all(n == 1 for n in features[:lead]):
                groups.setdefault((factor.latents, own), []).append(i)
    result = []
    for key, members in groups.items():
        constants = tuple(still.get(key, ()))
        ones = bool(constants) or any(_has_ones(factors[i]) for i in members)
        shared = tuple(_shared(factors[i], slot_shapes[i]) for i in members)
        result.append(Product(tuple(members), constants, shared, ones))
    return tuple(result)


def with_columns(
    groups: Sequence[Product], factors: Sequence[Factor], statistics: Sequence[Any], shapes: Sequence[Sequence[int]]
) -> tuple[Sequence[Any], tuple[jax.Array, ...]]:
    """The statistics, and T(x) of every group: what an E-step needs of the data."""
    return statistics, tuple(columns(g, factors, statistics, shapes) for g in groups)


def columns(
    product: Product, factors: Sequence[Factor], statistics: Sequence[Any], shapes: Sequence[Sequence[int]]
) -> jax.Array:
    """T(x): (rows, columns). A column of ones leads, where there is one; what no slot multiplies comes last.

    Args:
        product: the group.
        factors: of the block.
        statistics: per factor, what `Factor.statistics` returned.
        shapes: per factor, the lengths of its batch axes.
    """
    pieces = []
    for i, shared in zip(product.members, product.shared, strict=True):
        factor = factors[i]
        lead = len(factor.latents)
        features = jnp.reshape(statistics[i][0], jnp.shape(statistics[i][0])[lead:])
        features = features[..., 1:] if _has_ones(factor) else features
        spare = _spare(factor)
        features = jnp.sum(features, shared, keepdims=True) if shared else features
        features = jnp.transpose(features, [*factor.keep, features.ndim - 1, *spare])
        rows = math.prod(features.shape[: len(factor.keep)])
        pieces.append(jnp.reshape(features, (rows, -1)))
    ones = [jnp.ones_like(pieces[0][:, :1])] if product.ones else []
    return jnp.concatenate([*ones, *pieces, _bases(product, factors, statistics, shapes)], 1)


def _bases(
    product: Product, factors: Sequence[Factor], statistics: Sequence[Any], shapes: Sequence[Sequence[int]]
) -> jax.Array:
    """What is added to a row whatever the slots and the states: (rows, 1)."""
    first = factors[product.members[0]]
    kept = [shapes[product.members[0]][a] for a in first.keep]
    total = jnp.zeros(kept, statistics[product.members[0]][0].dtype)
    for i in (*product.members, *product.constants):
        if not _by_state(factors[i], statistics[i][1]):
            base = _base(factors[i], statistics[i][1], shapes[i])
            total = total + jnp.reshape(base, base.shape[len(first.latents) :])
    return jnp.reshape(total, (-1, 1))


def _by_state(factor: Factor, base: Any) -> bool:
    """Whether what no slot multiplies differs from state to state."""
    return any(n > 1 for n in jnp.shape(base)[: len(factor.latents)])


def joined(
    product: Product,
    factors: Sequence[Factor],
    statistics: Sequence[Any],
    slots: Sequence[Any],
    matrix: Any,
    shapes: Sequence[Sequence[int]],
) -> jax.Array:
    """The sum of the group's log factors: (latents..., kept...).

    Args:
        product, factors, statistics, shapes: as for `columns`.
        slots: per factor.
        matrix: what `columns` returned.
    """
    first = factors[product.members[0]]
    everyone = (*product.members, *product.constants)
    both = [(jnp.shape(slots[i]), jnp.shape(statistics[i][0])) for i in everyone]
    sizes = [max(s[a] for pair in both for s in pair) for a in range(len(first.latents))]
    pieces, varied, constant = [], [], jnp.zeros(sizes)
    for i in product.members:
        factor, own = factors[i], slots[i]
        if _has_ones(factor):
            constant = constant + _total(factor, own[..., :1], shapes[i])
            own = own[..., 1:]
        pieces.append(_coefficients(factor, own, jnp.shape(statistics[i][0]), shapes[i], sizes))
    for i in product.constants:
        factor, features = factors[i], statistics[i][0]
        still = factor.contract(slots[i], features, shapes[i], spread=False)
        constant = constant + jnp.reshape(still, still.shape[: len(sizes)])
    for i in everyone:
        if _by_state(factors[i], statistics[i][1]):
            base = _base(factors[i], statistics[i][1], shapes[i])
            alike = product.ones and math.prod(base.shape[len(sizes) :]) == 1
            constant = constant + jnp.reshape(base, base.shape[: len(sizes)]) if alike else constant
            varied += [] if alike else [base]
    pieces.append(jnp.ones_like(pieces[0][:, :1]))
    if product.ones:
        pieces = [jnp.reshape(constant, (-1, 1)), *pieces]
    # Rows lead in the product, which is how it is fastest; who reads it may see it transposed.
    log_joint = jax.lax.optimization_barrier(matrix @ jnp.concatenate(pieces, 1).T)
    kept = [shapes[product.members[0]][a] for a in first.keep]
    return sum(varied, jnp.reshape(log_joint.T, (*sizes, *kept)))


def _has_ones(factor: Factor) -> bool:
    """Whether the first statistic of every element is 1."""
    return factor.weight is None and factor.family is not None and factor.family.describe_statistics()[0] == _ONE


def _spare(factor: Factor) -> tuple[int, ...]:
    return tuple(a for a in range(len(factor.batch_shape)) if a not in factor.keep)


def _shared(factor: Factor, slots: Sequence[int]) -> tuple[int, ...]:
    return tuple(a for a in _spare(factor) if slots[len(factor.latents) + a] == 1)


def _total(factor: Factor, slots: Any, shape: Sequence[int]) -> jax.Array:
    """Slots of a statistic that is 1 everywhere, added up over the spare axes: (latents...)."""
    lead = len(factor.latents)
    times = math.prod(shape[a] for a in _spare(factor) if slots.shape[lead + a] == 1)
    return times * jnp.sum(slots, range(lead, slots.ndim))


def _coefficients(
    factor: Factor, slots: Any, features: Sequence[int], shape: Sequence[int], sizes: Sequence[int]
) -> jax.Array:
    """Slots as (states, columns), in the order of `columns`."""
    lead, spare = len(factor.latents), _spare(factor)
    alone = tuple(lead + a for a in spare if features[lead + a] == 1)
    times = math.prod(shape[a] for a in spare if features[lead + a] == 1 and slots.shape[lead + a] == 1)
    slots = jnp.sum(slots, alone, keepdims=True) if alone else slots
    slots = slots if times == 1 else times * slots
    order = [*range(lead), *(lead + a for a in factor.keep), slots.ndim - 1, *(lead + a for a in spare)]
    slots = jnp.transpose(slots, order)
    slots = jnp.broadcast_to(slots, (*sizes, *slots.shape[lead:]))
    return jnp.reshape(slots, (math.prod(sizes), -1))


def _base(factor: Factor, base: Any, shape: Sequence[int]) -> jax.Array:
    """What is added whatever the slots: (latents..., kept...), length 1 where nothing varies."""
    return factor.contract(jnp.ones_like(base), base, shape, spread=False)
