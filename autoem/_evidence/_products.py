"""Factors that hold the same latents as one matrix product: log f = T(x) · slots', rows by states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._family import LOG_ZERO, AbstractCounts
from ._factor import Factor

_ONE = "1"


class Product(eqx.Module):
    """Which factors of a block are taken together.

    Rows are the elements along the kept axes; along those the statistics run and the slots do not.

    Attributes:
        members: positions of the factors whose statistics differ from row to row.
        constants: positions of factors that add the same to every row: their sum goes with a column of ones.
        shared: per member, the batch axes along which its slots do not vary either: added up.
        ones: whether there is a column of ones: for the count among the statistics of the members, for constants, or
            for totals.
        totals: per member, what its statistics add up to on every element: the last one has no column. 0 where they
            do not.
    """

    members: tuple[int, ...] = eqx.field(static=True)
    constants: tuple[int, ...] = eqx.field(static=True)
    shared: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    ones: bool = eqx.field(static=True)
    totals: tuple[float, ...] = eqx.field(static=True)


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
        totals = tuple(_total_of(factors[i]) for i in members)
        ones = bool(constants) or any(totals) or any(_has_ones(factors[i]) for i in members)
        shared = tuple(_shared(factors[i], slot_shapes[i]) for i in members)
        result.append(Product(tuple(members), constants, shared, ones, totals))
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
    for i, shared, total in zip(product.members, product.shared, product.totals, strict=True):
        factor = factors[i]
        lead = len(factor.latents)
        features = jnp.reshape(statistics[i][0], jnp.shape(statistics[i][0])[lead:])
        features = features[..., 1:] if _has_ones(factor) else features[..., :-1] if total else features
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
    coefficients, varied = _stacked(product, factors, statistics, slots, shapes, True)
    found = matrix @ coefficients.T
    if any(product.totals):
        # Less the log of an exact zero a log probability has no digits left: then statistic by statistic.
        lasts = [slots[i][..., -1] for i, total in zip(product.members, product.totals, strict=True) if total]
        possible = jnp.all(jnp.stack([jnp.all(s > LOG_ZERO / 100) for s in lasts]))

        def with_all() -> jax.Array:
            plain, _ = _stacked(product, factors, statistics, slots, shapes, False)
            return matrix @ plain.T + _left_out(product, factors, statistics, slots, shapes)

        found = _in_place_of(found, jax.lax.stop_gradient(jax.lax.cond(possible, lambda: found, with_all)))
    # Rows lead in the product, which is how it is fastest; who reads it may see it transposed.
    log_joint = jax.lax.optimization_barrier(found)
    kept = [shapes[product.members[0]][a] for a in first.keep]
    sizes = _sizes(product, statistics, slots, len(first.latents))
    return sum(varied, jnp.reshape(log_joint.T, (*sizes, *kept)))


@jax.custom_jvp
def _in_place_of(value: jax.Array, other: jax.Array) -> jax.Array:
    """The other, with the derivatives of the value."""
    return other


# Itself again, for the derivatives of derivatives.
_in_place_of.defjvp(lambda primals, tangents: (_in_place_of(*primals), tangents[0]))


def without_rounding(
    products: Sequence[Product], slots: Sequence[Any], value: jax.Array, found: Sequence[jax.Array]
) -> list[jax.Array]:
    """Expected statistics in which a count that is a total less the others is no less than zero, and is exactly zero
    where its probability is (unless the data are impossible: `value` is their log evidence).
    """
    result = list(found)
    for product in products:
        for i, total in zip(product.members, product.totals, strict=True):
            if total:
                zero = (slots[i][..., -1] <= LOG_ZERO / 100) & (value > LOG_ZERO / 10)
                last = jnp.where(zero, 0.0, jnp.maximum(result[i][..., -1], 0.0))
                result[i] = result[i].at[..., -1].set(last)
    return result


def _sizes(product: Product, statistics: Sequence[Any], slots: Sequence[Any], latents: int) -> list[int]:
    """Values of the group's latents."""
    both = [(jnp.shape(slots[i]), jnp.shape(statistics[i][0])) for i in (*product.members, *product.constants)]
    return [max(s[a] for pair in both for s in pair) for a in range(latents)]


def _stacked(
    product: Product,
    factors: Sequence[Factor],
    statistics: Sequence[Any],
    slots: Sequence[Any],
    shapes: Sequence[Sequence[int]],
    totals: bool,
) -> tuple[jax.Array, list[jax.Array]]:
    """What multiplies the matrix, (states, columns), and what differs both by row and by state.

    With `totals` the statistics that have no column are totals less the others; without, they are not counted.
    """
    everyone = (*product.members, *product.constants)
    sizes = _sizes(product, statistics, slots, len(factors[product.members[0]].latents))
    pieces, varied, constant = [], [], jnp.zeros(sizes)
    for i, total in zip(product.members, product.totals, strict=True):
        factor, own = factors[i], slots[i]
        if _has_ones(factor):
            constant = constant + _total(factor, own[..., :1], shapes[i])
            own = own[..., 1:]
        elif total and totals:
            constant = constant + total * _total(factor, own[..., -1:], shapes[i])
            own = own[..., :-1] - own[..., -1:]
        elif total:
            own = own[..., :-1]
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
    return jnp.concatenate(pieces, 1), varied


def _left_out(
    product: Product,
    factors: Sequence[Factor],
    statistics: Sequence[Any],
    slots: Sequence[Any],
    shapes: Sequence[Sequence[int]],
) -> jax.Array:
    """What the statistics without a column contribute: (rows, states)."""
    sizes = _sizes(product, statistics, slots, len(factors[product.members[0]].latents))
    found: Any = 0.0
    for i, total in zip(product.members, product.totals, strict=True):
        if total:
            last = factors[i].contract(slots[i][..., -1:], statistics[i][0][..., -1:], shapes[i])
            full = jnp.broadcast_to(last, (*sizes, *last.shape[len(sizes) :]))
            found = found + jnp.reshape(full, (math.prod(sizes), -1)).T
    return found


def _has_ones(factor: Factor) -> bool:
    """Whether the first statistic of every element is 1."""
    return factor.weight is None and factor.family is not None and factor.family.describe_statistics()[0] == _ONE


def _total_of(factor: Factor) -> float:
    """What the statistics add up to on every element, if it is the same number on all; else 0."""
    if factor.weight is not None or not isinstance(factor.family, AbstractCounts):
        return 0.0
    total = factor.family.total(factor.constants)
    if isinstance(total, Tracer):
        return 0.0
    found = np.unique(np.asarray(total))
    return float(found[0]) if found.size == 1 else 0.0


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
