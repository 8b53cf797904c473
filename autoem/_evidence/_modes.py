"""The modes of many small densities at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._types import Array

_NEWTON_STEPS = 60
"""Most Newton steps towards a mode."""


class _Shape(NamedTuple):
    """log f (cells,), its gradient (cells, d) and minus its Hessian (cells, d, d), each cell's own."""

    height: Array
    slope: Array
    curvature: Array


_FORWARD = 3
"""Coordinates of a cell up to which derivatives are taken forwards."""


def _shape(density: Callable[[Array], Array], u: Array) -> _Shape:
    """Cells are independent: a direction that is the same in all of them gives each cell its own derivative."""
    seeds = jnp.broadcast_to(jnp.eye(u.shape[1], dtype=u.dtype)[:, None], (u.shape[1], *u.shape))
    height, slope, curvature = _forwards(density, u, seeds) or _backwards(density, u, seeds)
    curvature = (curvature + jnp.swapaxes(curvature, -1, -2)) / 2
    return _Shape(height, jnp.nan_to_num(slope), jnp.nan_to_num(curvature))


def _forwards(density: Callable[[Array], Array], u: Array, seeds: Array) -> tuple[Array, Array, Array] | None:
    """Height, slope and minus the Hessian; None where there are many coordinates, or only a backward rule."""
    if u.shape[1] > _FORWARD:
        return None

    def slopes(v: Array) -> tuple[Array, Array]:
        """(d, cells), and the heights."""
        heights, along = jax.vmap(lambda seed: jax.jvp(density, (v,), (seed,)), out_axes=(None, 0))(seeds)
        return along, heights

    try:
        slope, curvature, height = jax.vmap(
            lambda seed: jax.jvp(slopes, (u,), (seed,), has_aux=True), out_axes=(None, 0, None)
        )(seeds)
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        return None
    return height, slope.T, -jnp.moveaxis(curvature, -1, 0)


def _backwards(density: Callable[[Array], Array], u: Array, seeds: Array) -> tuple[Array, Array, Array]:
    """The same of many."""

    def total(v: Array) -> tuple[Array, Array]:
        heights = density(v)
        return jnp.sum(heights), heights

    (slope, height), tangent = jax.linearize(jax.grad(total, has_aux=True), u)
    return height, slope, -jnp.moveaxis(jax.vmap(lambda seed: tangent(seed)[0])(seeds), 0, -1)


def eigen(curvature: Array) -> tuple[Array, Array]:
    """Eigenvalues, made positive, and eigenvectors of (cells, d, d) matrices."""
    if curvature.shape[-1] == 1:
        values, vectors = curvature[..., 0], jnp.ones_like(curvature)
    else:
        values, vectors = jnp.linalg.eigh(curvature)
    values = jnp.abs(values)
    return jnp.maximum(values, jnp.maximum(1e-8 * jnp.max(values, -1, keepdims=True), 1e-10)), vectors


def climb(density: Callable[[Array], Array], start: Array) -> tuple[Array, Array]:
    """Damped Newton ascent of all cells at once, until no cell's predicted increase is more than rounding.

    Returns:
        Where it ended (cells, d), and minus the Hessian there (cells, d, d).
    """
    eps = float(jnp.finfo(start.dtype).eps)
    enough = eps**0.6

    def step(carry: Any) -> Any:
        count, u, trial, here, damping, left = carry
        there = _shape(density, trial)
        better = there.height >= here.height - 16 * eps * jnp.abs(here.height)
        taken = better & left
        u = jnp.where(taken[:, None], trial, u)
        here = _Shape(*(jnp.where(jnp.reshape(taken, [-1] + [1] * (new.ndim - 1)), new, old)
                        for new, old in zip(there, here, strict=True)))  # fmt: skip
        eased = jnp.where(damping < 0.1, 0.0, damping / 10)
        damping = jnp.where(better, eased, jnp.maximum(4 * damping, 1.0))
        values, vectors = eigen(here.curvature)
        turned = jnp.einsum("cij,ci->cj", vectors, here.slope)
        left = jnp.sum(turned**2 / values, -1) > enough
        trial = u + jnp.einsum("cij,cj->ci", vectors, turned / (values * (1 + damping[:, None])))
        return count + 1, u, trial, here, damping, left

    def running(carry: Any) -> Any:
        return (carry[0] <= _NEWTON_STEPS) & jnp.any(carry[-1])

    # The first round only looks at the start.
    (cells, dims), dtype = start.shape, start.dtype
    lowest = -float(jnp.finfo(dtype).max)
    nothing = _Shape(jnp.full(cells, lowest, dtype), jnp.zeros_like(start), jnp.zeros((cells, dims, dims), dtype))
    first = (0, start, start, nothing, jnp.zeros(cells, dtype), jnp.ones(cells, bool))
    _, u, _, here, _, _ = jax.lax.while_loop(running, step, first)
    return u, here.curvature
