"""Feature arrays: columns that broadcast, stacked on a trailing axis, and logarithms of probabilities."""

from __future__ import annotations

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
        logits = arguments["logits"]
        positive, negative = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        return jnp.maximum(positive, LOG_ZERO), jnp.maximum(negative, LOG_ZERO)
    return safe_log(arguments["probs"]), log_complement(arguments["probs"])
