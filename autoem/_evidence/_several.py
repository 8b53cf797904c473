"""Densities with more modes than one: how many there are, what each of them takes of an integral, draws from all.

An integral about one mode misses another that lies beyond the rule's points. With modes m_k of height h_k and inverse
curvature R_k R_k' the functions

    φ_k(u) = h_k exp(-|R_k⁻¹ (u - m_k)|² / 2) / Σ_j h_j exp(-|R_j⁻¹ (u - m_j)|² / 2)

add up to one, so ∫ f = Σ_k ∫ f φ_k with each term integrated about its own mode.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from .._types import Array, Key
from ._modes import eigen

SEVERAL = 4
"""Most modes of a cell that are told apart."""

_APART = 3.0
"""Standard deviations beyond which a mode is another one."""

_NEGLIGIBLE = 45.0
"""Logarithm of how much less than the largest a mode weighs that is left out."""


class Modes(NamedTuple):
    """Modes of every cell, the heaviest first.

    Attributes:
        at: (K, cells, d).
        root: of the inverse curvature (K, cells, d, d).
        log_height: log f there (K, cells), -inf where a cell has no such mode.
    """

    at: Array
    root: Array
    log_height: Array

    @property
    def log_mass(self) -> Array:
        """Laplace's approximation of what belongs to each, less a constant: (K, cells)."""
        return self.log_height + jnp.linalg.slogdet(self.root)[1]

    def distances(self, u: Array) -> Array:
        """In standard deviations of each, squared, of points (..., cells, d): (K, ..., cells)."""
        inverse = jnp.linalg.inv(self.root)

        def of_one(at: Array, inverse: Array) -> Array:
            return jnp.sum(jnp.einsum("cij,...cj->...ci", inverse, u - at) ** 2, -1)

        return jax.vmap(of_one)(self.at, inverse)

    def log_shares(self, u: Array) -> Array:
        """log φ_k at points (..., cells, d): (K, ..., cells)."""
        lead = (len(self.at),) + (1,) * (u.ndim - 2) + (u.shape[-2],)
        log_q = jnp.reshape(self.log_height, lead) - self.distances(u) / 2
        return log_q - jax.nn.logsumexp(log_q, 0)

    def in_turn(self, number: int) -> Modes:
        """As many, each cell's modes one after the other, and again: a leading axis of that length."""
        count = jnp.sum(self.log_height > -jnp.inf, 0)
        which, own = jnp.arange(number)[:, None] % count, jnp.arange(self.at.shape[1])
        return Modes(self.at[which, own], self.root[which, own], self.log_height[which, own])

    def draws(self, key: Key, number: int, tail: float) -> tuple[Array, Array]:
        """Points (number, cells, d) from a mixture of Student densities, `tail` their degrees of freedom, and its log
        density (number, cells). A mode weighs half by its mass, half like any other: masses are approximate.
        """
        (cells, dims), dtype = self.at.shape[1:], self.at.dtype
        normal, chi, which = jax.random.split(key, 3)
        ratio = jax.random.chisquare(chi, tail, (number, cells), dtype=dtype) / tail
        t = jax.random.normal(normal, (number, cells, dims), dtype) / jnp.sqrt(ratio)[..., None]
        there = self.log_height > -jnp.inf
        probs = (jax.nn.softmax(self.log_mass, 0) + there / jnp.sum(there, 0)) / 2
        chosen = jax.random.categorical(which, jnp.log(probs), 0, (number, cells))
        own = jnp.arange(cells)
        u = self.at[chosen, own] + jnp.einsum("mcij,mcj->mci", self.root[chosen, own], t)
        constant = gammaln((tail + dims) / 2) - gammaln(tail / 2) - dims / 2 * math.log(tail * math.pi)
        log_q = constant - (tail + dims) / 2 * jnp.log1p(self.distances(u) / tail)
        log_q = log_q + (jnp.log(probs) - jnp.linalg.slogdet(self.root)[1])[:, None]
        return u, jax.nn.logsumexp(log_q, 0)


def one(at: Array, root: Array) -> Modes:
    """A single mode, (cells, d) and (cells, d, d)."""
    return Modes(at[None], root[None], jnp.zeros((1, at.shape[0]), at.dtype))


def distinct(at: Array, curvature: Array, log_height: Array, number: int) -> Modes:
    """The heaviest modes among the ends of several ascents.

    Args:
        at: the ends (S, cells, d).
        curvature: minus the Hessian there (S, cells, d, d).
        log_height: log f there (S, cells).
        number: how many are kept.
    """
    values, vectors = eigen(curvature)
    root = vectors / jnp.sqrt(values)[..., None, :]
    # An ascent that ended on a slope or a ridge found no mode; the best is kept whatever it is.
    peaked = jnp.all(jnp.isfinite(curvature), (-1, -2)) & (_smallest(curvature) > 0)
    log_height = jnp.where(jnp.isnan(log_height), -jnp.inf, log_height)
    best = log_height == jnp.max(log_height, 0)
    every = Modes(at, root, jnp.where(peaked | best, log_height, -jnp.inf))
    own = jnp.arange(at.shape[1])
    left, found = every.log_mass, []
    least = jnp.max(left, 0) - _NEGLIGIBLE
    for _ in range(number):
        chosen = jnp.argmax(left, 0)
        there = left[chosen, own] >= least
        here = one(at[chosen, own], root[chosen, own])
        found.append(here._replace(log_height=jnp.where(there, log_height[chosen, own], -jnp.inf)[None]))
        left = jnp.where(here.distances(at)[0] < _APART**2, -jnp.inf, left)
    return Modes(*(jnp.concatenate(parts) for parts in zip(*found, strict=True)))


def _smallest(curvature: Array) -> Array:
    if curvature.shape[-1] == 1:
        return curvature[..., 0, 0]
    return jnp.linalg.eigvalsh(jnp.nan_to_num(curvature))[..., 0]
