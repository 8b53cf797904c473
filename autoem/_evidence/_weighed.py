"""Discrete latents that are not summed over: each element has given weights of its values instead.

The sum of log f over those weights is linear in the slots, so its gradient is the statistics of a data set in which
every row appears once per value with the weight that it was given there. A fit may begin from such statistics.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from .._types import Array
from ._chain_tables import Chained, ChainShape, Potential
from ._elimination import Table, Variable

Weights = Mapping[str, Any]
"""latent -> (values, its axes...): nonnegative; an element whose weights add up to more than one counts for more."""


def _joint(parts: Sequence[Array]) -> Any:
    """Weights of the joint values of several latents, broadcastable: independent, of their average total."""
    totals = [jnp.sum(p, axis=a, keepdims=True) for a, p in enumerate(parts)]
    shares = [p / jnp.where(t > 0, t, 1.0) for p, t in zip(parts, totals, strict=True)]
    return functools.reduce(jnp.multiply, shares, sum(totals) / max(len(parts), 1))


def weighed_table(table: Table, variables: Mapping[str, Variable], weights: Weights) -> Array:
    """The weighted sum of one table of an elimination."""
    if not table.latents:
        return jnp.sum(table.array)
    lead, parts = len(table.latents), []
    for position, name in enumerate(table.latents):
        weight = weights[name]
        if name in table.gathered:
            index = table.gathered[name]
            flat = jnp.reshape(weight, (weight.shape[0], -1))[:, index]
            weight = jnp.where(index < 0, 1.0 / weight.shape[0], flat)
        else:
            own = variables[name].dims
            weight = jnp.transpose(weight, (0, *(1 + own.index(d) for d in table.dims if d in own)))
            lengths = iter(weight.shape[1:])
            weight = jnp.reshape(weight, (weight.shape[0], *(next(lengths) if d in own else 1 for d in table.dims)))
        lonely = [1] * lead
        lonely[position] = weight.shape[0]
        parts.append(jnp.reshape(weight, (*lonely, *weight.shape[1:])))
    return jnp.sum(table.array * _joint(parts))


def weighed_potential(p: Potential, place: Chained, shape: ChainShape, weights: Weights) -> Array:
    """The weighted sum of one factor of a chain over its own steps."""
    timed = {n for n, _, _ in shape.latents}
    lead, parts = len(p.variables), []
    for position, (name, lag) in enumerate(p.variables):
        weight = weights[name]
        first = place.first - lag
        weight = weight[:, first : first + place.count] if name in timed else weight[:, None]
        lonely = [1] * lead
        lonely[position] = weight.shape[0]
        parts.append(jnp.reshape(weight, (*lonely, *weight.shape[1:])))
    array = p.array if p.gate is None else jnp.where(p.gate, p.array, 0.0)
    if not parts:
        return jnp.sum(jnp.broadcast_to(array, (place.count, *shape.batch)))
    return jnp.sum(array * _joint(parts))
