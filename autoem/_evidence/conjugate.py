"""Conjugate latents, exactly: each element's evidence is the log normaliser of the family that its features name.

An element u enters its own density and those of all sites that meet it through features φ(u) only, so

    log p(u, data) = h₀ + ⟨η, φ(u)⟩,   L = h₀ + log ∫ exp ⟨η, φ(u)⟩ du,

and h₀ and η are linear in the sites' slots: sums of one contribution from each row. The expected statistics are ∇L.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._family import AbstractKernel, LatentArgument
from .._types import Array, Leaf
from ._factor import Factor, over_states


class Rows(eqx.Module):
    """One site's rows for one latent; those that meet the same element of it and of the slots were added up.

    Attributes:
        factor: index of the site's factor in the block.
        statistics: (L or 1, P, F) of the data, or (L or 1, P, 3F) where these scale the latent; of the latent's own
            density (1 or P, F, 1 + M), T(u) in terms of (1, φ(u)).
        base: (L or 1, P) log density whatever the slots; of the latent's own density (1 or P, 1 + M).
        kept: (P,) flat index into the slots' batch axes; None where these have one element.
        element: (P,) element of the latent; None where row j goes with element j.
        own: whether the site is the latent's own density.
        columns: which of the latent's features the site has; None for all of them, in order.
    """

    factor: int = eqx.field(static=True)
    statistics: Leaf
    base: Leaf
    kept: Leaf | None
    element: Leaf | None
    own: bool = eqx.field(static=True)
    columns: tuple[int, ...] | None = eqx.field(static=True, default=None)


class Part(eqx.Module):
    """One latent: its features, how many elements it has, and all that it enters.

    Attributes:
        name, kernel, size, rows: as the words say.
        there: (size,) elements that are not masked out: one that is has an evidence of one, and its density tells
            nothing of parameters. None where all are there.
        bounds: (L or 1, size, 2): between which the elements lie, of a kernel that has such coefficients, else None.
    """

    name: str = eqx.field(static=True)
    kernel: AbstractKernel
    size: int = eqx.field(static=True)
    rows: tuple[Rows, ...]
    bounds: Leaf | None = None
    there: Leaf | None = None

    def counted(self, array: Array) -> Array:
        """Zero for the elements that are masked out: (..., size)."""
        return array if self.there is None else jnp.where(jnp.asarray(self.there), array, 0.0)

    def with_bounds(self, eta: Array) -> Array:
        """All that the kernel wants to know: (L, size, M) or more."""
        if self.bounds is None:
            return eta
        return jnp.concatenate([eta, jnp.broadcast_to(jnp.asarray(self.bounds), (*eta.shape[:2], 2))], -1)


class Conjugate(eqx.Module):
    """Latents whose elements are independent given the parameters, the data and the discrete latents.

    Attributes:
        parts: the latents.
        factors: the block's sites that hold one of them.
        latents: (name, values) of the discrete latents that these depend on: L is their product, in this order.
    """

    parts: tuple[Part, ...]
    factors: tuple[Factor, ...]
    latents: tuple[tuple[str, int], ...] = eqx.field(static=True)

    method = "conjugate"
    log_base = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Of the latents."""
        return tuple(part.name for part in self.parts)

    @property
    def cells(self) -> int:
        """Number of elements of all latents: their order is that of the parts."""
        return sum(part.size for part in self.parts)

    def prepare(self) -> None:
        """All that does not change with the parameters was done when the block was laid out."""
        return None

    def log_evidence(self, slots: Sequence[Any], prepared: Any = None) -> Array:
        """L (no discrete latents)."""
        return jnp.sum(self.tables(slots))

    def expected_statistics(self, slots: Sequence[Any], prepared: Any = None) -> tuple[Array, list[Any]]:
        """L and S = ∇L (no discrete latents)."""
        return jax.value_and_grad(self.log_evidence)(list(slots))

    def coefficients(self, slots: Sequence[Any]) -> list[Array]:
        """(h₀, η) of every element for every joint state of the discrete latents: per latent (L, elements, 1 + M)."""
        states = math.prod(n for _, n in self.latents)
        result = []
        for part in self.parts:
            total: Any = jnp.zeros((states, part.size, 1 + part.kernel.width))
            for rows in part.rows:
                base = jnp.asarray(rows.base)
                if not rows.own:
                    base = jnp.pad(base[..., None], ((0, 0), (0, 0), (0, part.kernel.width)))
                found = self._contribution(rows, slots[rows.factor])
                if rows.columns is not None:
                    wide = jnp.zeros((*found.shape[:-1], 1 + part.kernel.width), found.dtype)
                    found = wide.at[..., np.array([0, *(1 + c for c in rows.columns)])].set(found)
                found = found + base
                total = total + found if rows.element is None else total.at[:, rows.element].add(found)
            result.append(total)
        return result

    def _contribution(self, rows: Rows, slots: Array) -> Array:
        """Of every row: (L or 1, P, 1 + M)."""
        factor = self.factors[rows.factor]
        lead = len(factor.latents)
        flat = jnp.reshape(slots, (*slots.shape[:lead], -1, slots.shape[-1]))
        flat = over_states(flat, factor.latents, self.latents)
        if rows.kept is not None:
            flat = flat[:, rows.kept]
        if rows.own:
            if len(rows.statistics) == 1:
                return jnp.einsum("lpf,fm->lpm", flat, rows.statistics[0])
            return jnp.einsum("lpf,pfm->lpm", jnp.broadcast_to(flat, (flat.shape[0], *rows.statistics.shape[:2])),
                              rows.statistics)  # fmt: skip
        assert isinstance(factor.family, LatentArgument)
        split = factor.family.split(flat)
        if "coefficient" in factor.constants:
            split = factor.family.of_scaled(split)
        if split.shape[1] == 1:  # all rows share their slots: a matrix product
            return jnp.einsum("lfm,lpf->lpm", split[:, 0], rows.statistics)
        return jnp.einsum("lpfm,lpf->lpm", split, rows.statistics)

    def tables(self, slots: Sequence[Any]) -> Array:
        """Log evidence of every element for every joint state of the discrete latents: (L, cells)."""
        found = []
        for part, own in zip(self.parts, self.coefficients(slots), strict=True):
            evidence = own[..., 0] + part.kernel.log_normaliser(part.with_bounds(own[..., 1:]))
            found.append(part.counted(evidence))
        return jnp.concatenate(found, 1)

    def weighted_statistics(self, slots: Sequence[Any], weights: Array) -> list[Any]:
        """Expected statistics where cell c is in joint state l with probability weights[l, c]."""
        return jax.grad(lambda s: jnp.sum(weights * self.tables(s)))(list(slots))

    def solve(self, slots: Sequence[Any]) -> list[Array]:
        """η of every element for every joint state: per latent (L, elements, M), and the bounds where there are any."""
        return [p.with_bounds(c[..., 1:]) for p, c in zip(self.parts, self.coefficients(slots), strict=True)]

    def heights(self, slots: Sequence[Any]) -> Array:
        """Log density of every cell at its own mode, for every joint state: (L, cells)."""
        found = []
        for part, eta in zip(self.parts, self.solve(slots), strict=True):
            found.append(part.counted(log_density(part.kernel, eta, part.kernel.mode(eta))))
        return jnp.concatenate(found, 1)


def log_density(kernel: AbstractKernel, eta: Array, value: Array) -> Array:
    """⟨η, φ(u)⟩ less the log normaliser."""
    return jnp.sum(eta[..., : kernel.width] * kernel.features(value), -1) - kernel.log_normaliser(eta)
