"""A chain's recursions as associative scans (Blelloch 1990; Särkkä and García-Fernández 2021): for accelerators.

A step is a matrix, and products of matrices can be formed in any order: all messages in about log₂ T rounds, of which
each is one batched product. That is more arithmetic than step by step (V³ for V joint values, where a step takes V²),
and it holds a V × V matrix for every step, so that a CPU, which does one thing after the other, goes step by step.

Products that underflow are not a result: messages are checked to follow from each other, element by element, to
rounding; what fails that is done by other means.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._types import Array

_ROUNDING = 256.0
"""Units of rounding by which a message may differ from what follows from its neighbour."""

Steps = Callable[[Array], Array]
"""Messages before every step (steps, values, batch...) to those after it, not scaled: linear, step by step."""


def in_parallel() -> bool:
    """Whether chains run as associative scans: by the backend that is in use while a function is traced."""
    return jax.default_backend() != "cpu"


def messages_of(steps: Steps, first: Array, length: int) -> tuple[Array, Array, Array]:
    """Messages before every step and after the last (length + 1, V, batch), c (length, batch), and whether they hold.

    Args:
        steps: what every step does.
        first: (V, batch) message, summing to 1.
        length: number of steps.
    """
    prefix, scale = jax.lax.associative_scan(_product, _matrices(steps, first, length))
    found = _applied(prefix, scale, first)
    found = jnp.concatenate([first[None], found / jnp.sum(found, 1, keepdims=True)])
    after = steps(found[:-1])
    c = jnp.sum(after, 1)
    return found, c, _follow(after / c[:, None], found[1:])


def slopes_of(steps: Steps, messages: Array, c: Array) -> tuple[Array, Array]:
    """λ before every step and after the last (length + 1, V, batch), λ'α = 1, and whether they follow from each other.

    Args:
        steps: what every step does.
        messages, c: what `messages_of` found.
    """
    matrices, scale = _matrices(steps, messages[0], len(c))
    turned = jnp.swapaxes(matrices * jnp.exp(scale)[..., None, :], -1, -2)
    suffix, scale = jax.lax.associative_scan(_product, _normalised(turned, 0.0), reverse=True)
    ones = jnp.ones_like(messages[0])
    found = _applied(suffix, scale, ones)
    found = jnp.concatenate([found / jnp.sum(found * messages[:-1], 1, keepdims=True), ones[None]])
    (before,) = jax.linear_transpose(steps, messages[:-1])(found[1:] / c[:, None])
    return found, _follow(before, found[:-1])


def _matrices(steps: Steps, first: Array, length: int) -> tuple[Array, Array]:
    """(length, batch, V after, V before), and logarithms of what its columns are to be multiplied by."""
    values, batch = first.shape
    basis = jnp.broadcast_to(jnp.eye(values, dtype=first.dtype)[:, None, :, None], (values, length, values, batch))
    return _normalised(jnp.transpose(jax.vmap(steps)(basis), (1, 3, 2, 0)), 0.0)


def _normalised(matrices: Array, scale: Any) -> tuple[Array, Array]:
    """Columns with a largest element of 1: each by itself, for a chain may never leave the values of one."""
    top = jax.lax.stop_gradient(jnp.max(matrices, -2))  # any factor would do: results do not depend on it
    top = jnp.where(top > 0, top, 1.0)
    return matrices / top[..., None, :], scale + jnp.log(top)


def _product(early: tuple[Array, Array], late: tuple[Array, Array]) -> tuple[Array, Array]:
    """`late` times `early`."""
    level = jax.lax.stop_gradient(jnp.max(late[1], -1, keepdims=True))
    weighed = late[0] * jnp.exp(late[1] - level)[..., None, :]
    return _normalised(jnp.matmul(weighed, early[0], precision="highest"), early[1] + level)


def _applied(matrices: Array, scale: Array, vector: Array) -> Array:
    """(length, V, batch): products applied to a vector (V, batch), up to a factor for every step and batch."""
    there = jnp.where(vector.T > 0, scale, -jnp.inf)
    weight = vector.T * jnp.exp(there - jax.lax.stop_gradient(jnp.max(there, -1, keepdims=True)))
    return jnp.einsum("tbij,tbj->tib", matrices, weight, precision="highest")


def _follow(first: Array, second: Array) -> Array:
    """Whether two arrays (length, V, batch) of numbers that are not negative are the same up to rounding."""
    most = _ROUNDING * float(jnp.finfo(first.dtype).eps) * math.sqrt(first.shape[1])
    return jnp.all(jnp.abs(first - second) <= most * jnp.maximum(first, second))
