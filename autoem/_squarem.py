"""Squared extrapolation of EM (Varadhan and Roland 2008, scheme S3), with a safeguard: the objective never falls.

Two EM steps θ₀ → θ₁ → θ₂ have r = θ₁ - θ₀ and v = θ₂ - 2θ₁ + θ₀, in free coordinates. Where EM converges at one rate λ
they are geometric, and θ₀ - 2αr + α²v with α = -|r| / |v| = -1 / (1 - λ) is where it goes. That point is tried: EM goes
on from there if the objective is not below that of θ₁, else from θ₂, as if nothing had been tried.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from numpyro.distributions import biject_to, constraints

from ._types import Array, Params

BASE, SECOND, TRIAL = 0, 1, 2
"""Where the next EM step starts: at θ₀, at θ₁, or at an extrapolated point."""

_GROWTH = 4.0
"""The bound on |α| grows by this where it was reached and the point was good, and falls by it where it was not."""

_WORTH = 1.01
"""|α| from which on an extrapolation is tried: 1 is θ₂ itself."""

_MEMORY = 0.97
"""How slowly the slowest rate is forgotten: after a good extrapolation what is left looks faster than it is."""


class Memory(NamedTuple):
    """What a cycle remembers.

    Attributes:
        phase: where the next step starts.
        base, first, held: θ₀, θ₁, and θ₂ to fall back on, each as one vector (see `flattened`): one operation for all
            parameters is compiled in a fraction of the time that one for each takes.
        bound: on |α|.
        reached: whether the last |α| was the bound.
        slowness: 1 / (1 - λ), the largest of late.
    """

    phase: Any
    base: Array
    first: Array
    held: Array
    bound: Any
    reached: Any
    slowness: Any


def flattened(params: Params) -> Array:
    """All parameters in one vector, by name."""
    return jnp.concatenate([jnp.reshape(jnp.asarray(params[n]), -1) for n in sorted(params)])


def shaped(vector: Array, like: Params) -> Params:
    """The inverse of `flattened`, for parameters of these shapes and types."""
    found, start = {}, 0
    for n in sorted(like):
        stop = start + jnp.size(like[n])
        found[n] = jnp.reshape(vector[start:stop], jnp.shape(like[n])).astype(jnp.result_type(like[n]))
        start = stop
    return found


class Squared(eqx.Module):
    """How parameters are extrapolated.

    Attributes:
        constraints: of the parameters, by name.
        after: EM steps before the first extrapolation.
    """

    constraints: dict[str, Any]
    after: int = eqx.field(static=True)

    def start(self, params: Params) -> Memory:
        """Before the first step."""
        real = jnp.result_type(float)
        count, point = jnp.zeros((), int), flattened(params)
        return Memory(count, point, point, point, jnp.ones((), real), jnp.zeros((), bool), jnp.ones((), real))

    def extrapolated(self, memory: Memory, new: Params) -> tuple[Array, Array]:
        """The point to try after θ₀, θ₁ and θ₂ = `new`, and |α|; what has no free coordinates stays at θ₂."""
        vectors = jnp.stack([memory.base, memory.first, flattened(new)])
        points = jax.vmap(lambda vector: shaped(vector, new))(vectors)
        free = {n: jax.vmap(functools.partial(self._free, n))(points[n]) for n in new}
        theta = jax.vmap(flattened)(free)
        first = _difference(theta[1], theta[0])
        second = _difference(theta[2], theta[1]) - first
        tiny = jnp.finfo(jnp.result_type(float)).tiny
        ratio = jnp.sqrt(_size(first) / jnp.maximum(_size(second), tiny))
        alpha = jnp.clip(ratio, 1.0, memory.bound)
        moved = shaped(theta[0] + 2 * alpha * first + alpha**2 * second, {n: f[0] for n, f in free.items()})
        return flattened({n: self._back(n, moved[n], free[n], new[n]) for n in new}), ratio

    def _free(self, name: str, value: Array) -> Array:
        if isinstance(self.constraints[name], type(constraints.simplex)):
            return jnp.log(value)  # a probability of zero stays zero
        return biject_to(self.constraints[name]).inv(value)

    def _back(self, name: str, free: Array, points: Array, value: Array) -> Array:
        """Constrained values; where coordinates are infinite, or nothing moved, those of θ₂. `points` are free, too."""
        real, last = jnp.isfinite(free), points[2]
        moves = real & ~jnp.all(points == last, 0)
        if isinstance(self.constraints[name], type(constraints.simplex)):
            result = jax.nn.softmax(jnp.where(jnp.isfinite(last), free, -jnp.inf), -1)
            moves = jnp.all(real | (value == 0), -1, keepdims=True)
        else:
            result = biject_to(self.constraints[name])(jnp.where(real, free, 0.0))
            if moves.shape != value.shape:
                moves = jnp.all(real)
        return jnp.where(moves & jnp.isfinite(result), result, value).astype(value.dtype)


def _difference(new: Array, old: Array) -> Array:
    return jnp.where(jnp.isfinite(new) & jnp.isfinite(old), new - old, 0.0)


def _size(vector: Array) -> Array:
    return jnp.sum(vector.astype(jnp.result_type(float)) ** 2)


def after_step(squared: Squared, memory: Memory, old: Params, new: Params, good: Array) -> tuple[Array, Memory, Array]:
    """Where the next step starts.

    Args:
        squared: how to extrapolate.
        memory: of the cycle.
        old: where the step started.
        new: where it led.
        good: whether the objective at `old` is not below that before; only asked at a point that was tried.

    Returns:
        The next point (as one vector), what is remembered, and whether `old` was refused.
    """
    start, end = flattened(old), flattened(new)
    tried, second = memory.phase == TRIAL, memory.phase == SECOND
    refused = tried & ~good
    point, ratio = jax.lax.cond(
        second, lambda: squared.extrapolated(memory, new), lambda: (end, jnp.ones_like(memory.bound))
    )
    trial = second & (ratio > _WORTH) & (memory.bound > 1)
    # A cycle that may only go to θ₂ goes there, and the bound grows.
    reached = second & (ratio >= memory.bound)
    grows = (second & reached & (memory.bound <= 1)) | (tried & good & memory.reached)
    bound = jnp.where(grows, memory.bound * _GROWTH, memory.bound)
    bound = jnp.where(refused, jnp.maximum(memory.bound / _GROWTH, 1.0), bound)

    following = jnp.where(refused, memory.held, jnp.where(trial, point, end))
    begins = ~second & ~refused
    phase = jnp.where(trial, TRIAL, jnp.where(begins, SECOND, BASE))
    kept = Memory(
        phase=phase,
        base=jnp.where(begins, start, memory.base),
        first=jnp.where(begins, end, memory.first),
        held=jnp.where(second, end, memory.held),
        bound=bound,
        reached=jnp.where(second, reached, memory.reached),
        slowness=jnp.where(second, jnp.maximum(ratio, _MEMORY * memory.slowness), memory.slowness),
    )
    return following, kept, refused
