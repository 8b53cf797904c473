"""Squared extrapolation of EM (Varadhan and Roland 2008, scheme S3), with a safeguard: the objective never falls.

Two EM steps θ₀ → θ₁ → θ₂ have r = θ₁ - θ₀ and v = θ₂ - 2θ₁ + θ₀, in free coordinates. Where EM converges at one rate λ
they are geometric, and θ₀ - 2αr + α²v with α = -|r| / |v| = -1 / (1 - λ) is where it goes. That point is tried: EM goes
on from there if the objective is not below that of θ₁, else from θ₂, as if nothing had been tried.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
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
        base, first, held: θ₀, θ₁, and θ₂ to fall back on.
        bound: on |α|.
        reached: whether the last |α| was the bound.
        slowness: 1 / (1 - λ), the largest of late.
    """

    phase: Any
    base: Params
    first: Params
    held: Params
    bound: Any
    reached: Any
    slowness: Any


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
        count = jnp.zeros((), int)
        return Memory(count, params, params, params, jnp.ones((), real), jnp.zeros((), bool), jnp.ones((), real))

    def extrapolated(self, memory: Memory, new: Params) -> tuple[Params, Array]:
        """The point to try after θ₀, θ₁ and θ₂ = `new`, and |α|; what has no free coordinates stays at θ₂."""
        points = [{n: self._free(n, p[n]) for n in new} for p in (memory.base, memory.first, new)]
        first = {n: _difference(points[1][n], points[0][n]) for n in new}
        second = {n: _difference(points[2][n], points[1][n]) - first[n] for n in new}
        ratio = jnp.sqrt(_size(first) / jnp.maximum(_size(second), jnp.finfo(jnp.result_type(float)).tiny))
        alpha = jnp.clip(ratio, 1.0, memory.bound)
        moved = {n: points[0][n] + 2 * alpha * first[n] + alpha**2 * second[n] for n in new}
        return {n: self._back(n, moved[n], [p[n] for p in points], new[n]) for n in new}, ratio

    def _free(self, name: str, value: Array) -> Array:
        if isinstance(self.constraints[name], type(constraints.simplex)):
            return jnp.log(value)  # a probability of zero stays zero
        return biject_to(self.constraints[name]).inv(value)

    def _back(self, name: str, free: Array, points: list[Array], value: Array) -> Array:
        """Constrained values; where coordinates are infinite, or nothing moved, those of θ₂."""
        moves = jnp.isfinite(free) & ~((points[0] == points[1]) & (points[1] == points[2]))
        if isinstance(self.constraints[name], type(constraints.simplex)):
            result = jax.nn.softmax(jnp.where(jnp.isfinite(points[2]), free, -jnp.inf), -1)
            moves = jnp.all(jnp.isfinite(free) | (value == 0), -1, keepdims=True)
        else:
            result = biject_to(self.constraints[name])(jnp.where(jnp.isfinite(free), free, 0.0))
            if moves.shape != value.shape:
                moves = jnp.all(jnp.isfinite(free))
        return jnp.where(moves & jnp.isfinite(result), result, value).astype(value.dtype)


def _difference(new: Array, old: Array) -> Array:
    return jnp.where(jnp.isfinite(new) & jnp.isfinite(old), new - old, 0.0)


def _size(parts: Mapping[str, Array]) -> Array:
    return functools.reduce(operator.add, [jnp.sum(p.astype(jnp.result_type(float)) ** 2) for p in parts.values()])


def after_step(squared: Squared, memory: Memory, old: Params, new: Params, good: Array) -> tuple[Params, Memory, Array]:
    """Where the next step starts.

    Args:
        squared: how to extrapolate.
        memory: of the cycle.
        old: where the step started.
        new: where it led.
        good: whether the objective at `old` is not below that before; only asked at a point that was tried.

    Returns:
        The next point, what is remembered, and whether `old` was refused.
    """
    tried, second = memory.phase == TRIAL, memory.phase == SECOND
    refused = tried & ~good
    point, ratio = jax.lax.cond(
        second, lambda: squared.extrapolated(memory, new), lambda: (new, jnp.ones_like(memory.bound))
    )
    trial = second & (ratio > _WORTH) & (memory.bound > 1)
    # A cycle that may only go to θ₂ goes there, and the bound grows.
    reached = second & (ratio >= memory.bound)
    grows = (second & reached & (memory.bound <= 1)) | (tried & good & memory.reached)
    bound = jnp.where(grows, memory.bound * _GROWTH, memory.bound)
    bound = jnp.where(refused, jnp.maximum(memory.bound / _GROWTH, 1.0), bound)

    def pick(condition: Array, yes: Params, no: Params) -> Params:
        return {n: jnp.where(condition, yes[n], no[n]) for n in yes}

    following = pick(refused, memory.held, pick(trial, point, new))
    begins = ~second & ~refused
    phase = jnp.where(trial, TRIAL, jnp.where(begins, SECOND, BASE))
    kept = Memory(
        phase=phase,
        base=pick(begins, old, memory.base),
        first=pick(begins, new, memory.first),
        held=pick(second, new, memory.held),
        bound=bound,
        reached=jnp.where(second, reached, memory.reached),
        slowness=jnp.where(second, jnp.maximum(ratio, _MEMORY * memory.slowness), memory.slowness),
    )
    return following, kept, refused
