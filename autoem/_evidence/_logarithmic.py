"""A chain's recursion on logarithms: slower than on scaled probabilities, and right whatever the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._types import Array
from ._chain_tables import ChainShape, Potential, Variable

Gradient = tuple[Array, tuple[Array, ...]]
"""Derivatives of log Σ by the log density of the first steps, and by every potential."""


def logarithmic(
    shape: ChainShape, first: Array, later: tuple[Potential, ...]
) -> tuple[Array, tuple[Array, tuple[Array, ...]]]:
    """log Σ and its derivatives by a recursion on logarithms; of a step nothing is kept but its message."""

    def total(first: Array, arrays: tuple[Array, ...]) -> Array:
        own = [Potential(p.variables, a, p.gate, p.closed) for p, a in zip(later, arrays, strict=True)]

        @jax.checkpoint
        def step(message: Array, stream: Any) -> tuple[Array, None]:
            return log_sum(joint(shape, message, stream, own), len(shape.batch), keep=len(shape.message())), None

        message, _ = jax.lax.scan(step, first, streams(shape, own))
        return jnp.sum(log_sum(message, len(shape.batch)))

    return jax.value_and_grad(total, (0, 1))(first, tuple(p.array for p in later))


def streams(shape: ChainShape, later: Sequence[Potential]) -> Any:
    """What changes from step to step, steps leading: arrays and gates, None where nothing does."""
    steps = shape.length - shape.start
    arrays = [jnp.moveaxis(p.array, len(p.variables), 0) if p.array.shape[len(p.variables)] > 1 else None
              for p in later]  # fmt: skip
    gates = [None if p.gate is None else jnp.broadcast_to(p.gate, (steps, *shape.batch)) for p in later]
    return arrays, gates, jnp.arange(steps)


def joint(shape: ChainShape, message: Array, own: Any, later: Sequence[Potential]) -> Array:
    """Log density of one step over `step()` and batch, `own` from `streams`."""
    arrays, gates, _ = own
    axes = shape.step()
    total = Potential(tuple(message_before(shape)), message).aligned(axes, message, len(shape.batch))
    for p, array, gate in zip(later, arrays, gates, strict=True):
        value = jnp.squeeze(p.array, len(p.variables)) if array is None else array
        if gate is not None:
            value = jnp.where(gate, value, p.closed)
        total = total + p.aligned(axes, value, len(shape.batch))
    return jnp.broadcast_to(total, (*lengths(shape), *shape.batch))


def log_sum(array: Array, batch: int, keep: int = 0) -> Array:
    """log Σ exp over the axes between the first `keep` and the last `batch`."""
    return reduced(array, batch, keep, jax.nn.logsumexp)


def reduced(array: Array, batch: int, keep: int, reduction: Any) -> Array:
    """Reduce the axes between the first `keep` and the last `batch`."""
    axes = tuple(range(keep, array.ndim - batch))
    return reduction(array, axis=axes) if axes else array


def lengths(shape: ChainShape) -> list[int]:
    """Number of values of every variable of a step."""
    return [shape.sizes[n] for n, _ in shape.step()]


def message_before(shape: ChainShape) -> list[Variable]:
    """The variables of a message, as the next step calls them."""
    chained = {n for n, _, _ in shape.latents}
    return [(n, lag + 1) if n in chained else (n, lag) for n, lag in shape.message()]
