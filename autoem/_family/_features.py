"""Feature arrays: columns that broadcast, stacked on a trailing axis, and logarithms of probabilities."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._types import Array, Arrays
from ._conditional import LOG_ZERO, safe_log


def as_float(value: Any) -> jax.Array:
    """Counts, booleans and numbers as floats; the precision of floats is kept."""
    return jnp.asarray(value, jnp.result_type(value, float))


def stack(*columns: Any) -> jax.Array:
    """Features (..., F) from F columns."""
    return jnp.stack(jnp.broadcast_arrays(*columns), -1)


def unstack(statistics: Array) -> jax.Array:
    """The F columns of (..., F), on the leading axis."""
    return jnp.moveaxis(jnp.asarray(statistics), -1, 0)


def log_complement(probability: Any) -> jax.Array:
    """log(1 - p), with `LOG_ZERO` and a zero derivative where p = 1."""
    below = probability < 1
    return jnp.where(below, jnp.log1p(-jnp.where(below, probability, 0)), LOG_ZERO)


def log_odds(arguments: Arrays) -> tuple[jax.Array, jax.Array]:
    """log p and log(1 - p), from `probs` or `logits`; an exact zero of the user's stays a zero."""
    if "logits" in arguments:
        return _log_sigmoids(as_float(arguments["logits"]))
    return safe_log(arguments["probs"]), log_complement(arguments["probs"])


@jax.custom_jvp
def _log_sigmoids(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log p and log(1 - p) of p = 1 / (1 + exp(-logits)): one logarithm for both."""
    rest = jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return (
        jnp.maximum(jnp.minimum(logits, 0) - rest, LOG_ZERO),
        jnp.maximum(-jnp.maximum(logits, 0) - rest, LOG_ZERO),
    )


@_log_sigmoids.defjvp
def _log_sigmoids_jvp(primals: Any, tangents: Any) -> Any:
    """The derivatives are 1 - p and -p, without a logarithm; zero where the user's probability is exactly zero."""
    (logits,), (moved,) = primals, tangents
    positive = jnp.where(logits > LOG_ZERO, jax.nn.sigmoid(-logits), 0.0)
    negative = jnp.where(logits < -LOG_ZERO, jax.nn.sigmoid(logits), 0.0)
    return _log_sigmoids(logits), (positive * moved, -negative * moved)


_FEW = 8
"""Columns up to which they are added up one by one."""


def inner(slots: Array, features: Array, alone: Callable[[Array], Array] = lambda array: array) -> Any:
    """Σ_f slots[..., f] · features[..., f], column by column where these are few.

    For what is evaluated at many points: a stack that is summed at once is never formed, and what its columns hold is
    computed in vectors.

    Args:
        slots, features: (..., F).
        alone: what is done to the slots, or to their columns, first; it leaves their last axis as it is.
    """
    width = jnp.shape(slots)[-1]
    if width > _FEW or width != jnp.shape(features)[-1]:
        return jnp.sum(alone(slots) * features, -1)
    terms = [alone(slots[..., f]) * features[..., f] for f in range(width)]
    return functools.reduce(operator.add, terms)
