"""ZeroInflated: g [x = 0] + (1 - g) p(x) is p(x) where a Bernoulli(g) gate is open, and zero where it is shut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist

from .._types import Array
from .._wrappers import peel
from ._base import AbstractRepresentation, Hidden, Part, impossible_unless
from ._components import name_of


@dataclass(frozen=True)
class ZeroInflated(AbstractRepresentation):
    """The gate is 1 where the zero is not one of the base distribution's."""

    gate: Any
    logits: bool
    base: Any

    suffix: ClassVar[str] = "gate"

    @classmethod
    def match(cls, fn: Any) -> ZeroInflated | None:
        """dist.ZeroInflatedPoisson, and what dist.ZeroInflatedDistribution makes, by probability or logit."""
        if type(fn) in (dist.ZeroInflatedPoisson, dist.ZeroInflatedProbs):
            return cls(fn.gate, False, fn.base_dist)
        if type(fn) is dist.ZeroInflatedLogits:
            return cls(fn.gate_logits, True, fn.base_dist)
        return None

    def hidden(self) -> Hidden:
        """Bernoulli(g)."""
        kind = dist.BernoulliLogits if self.logits else dist.BernoulliProbs
        return Hidden(kind(self.gate, validate_args=False))

    def given(self, hidden: Array, value: Any) -> tuple[Part, ...]:
        """x ~ p where the gate is 0; where it is 1, x must be 0."""
        return Part(self.base, value, when=hidden == 0), impossible_unless((hidden == 0) | (jnp.asarray(value) == 0))

    def describe(self) -> tuple[str, str]:
        """The base distribution or nothing, and the gate."""
        return f"a {name_of(peel(self.base).base)} or zero", "a Bernoulli gate"
