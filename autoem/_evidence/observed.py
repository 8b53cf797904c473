"""Factors without a latent: their statistics are data, added up once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ._factor import Factor


class Observed(eqx.Module):
    """Sites that are observed outright. L = Σ ⟨slots, T⟩ is linear in the slots."""

    factors: tuple[Factor, ...]
    slot_shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    method = "observed"

    def prepare(self) -> Any:
        """Each factor's statistics, summed to the shape of its slots, and the constant log h."""
        prepared = []
        for factor, shape in zip(self.factors, self.slot_shapes, strict=True):
            zero = jnp.zeros(shape)
            features, base = factor.statistics()
            total = jax.grad(lambda s, f=factor, t=features: jnp.sum(f.contract(s, t, f.batch_shape)))(zero)
            prepared.append((total, jnp.sum(factor.contract(jnp.ones_like(base), base, factor.batch_shape))))
        return tuple(prepared)

    def log_evidence(self, slots: Sequence[Any], prepared: Any, tilt: Any = None) -> jax.Array:
        """L(slots)."""
        prepared = self.prepare() if prepared is None else prepared
        return sum((jnp.sum(s * t) + b for s, (t, b) in zip(slots, prepared, strict=True)), jnp.zeros(()))

    def expected_statistics(self, slots: Sequence[Any], prepared: Any) -> tuple[jax.Array, Sequence[Any]]:
        """L, and the statistics, which do not change."""
        prepared = self.prepare() if prepared is None else prepared
        return self.log_evidence(slots, prepared), tuple(t for t, _ in prepared)
