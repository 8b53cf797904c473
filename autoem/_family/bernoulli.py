"""Bernoulli (probs or logits): T(x) = (x, 1 - x)."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist

from .._types import Array, Arrays
from ._base import AbstractCounts
from ._conditional import Conditional, LogOdds
from ._features import as_float, log_odds, stack, unstack


class Bernoulli(AbstractCounts):
    """x log p + (1 - x) log(1 - p). An exact zero of the user's stays a zero."""

    argument: str = eqx.field(static=True, default="probs")

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ()
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return "bernoulli"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """One scalar."""
        return {self.argument: 0}

    @staticmethod
    def match(fn: Any) -> Bernoulli | None:
        """dist.Bernoulli, by probability or logit."""
        if type(fn) is dist.BernoulliProbs:
            return Bernoulli("probs")
        return Bernoulli("logits") if type(fn) is dist.BernoulliLogits else None

    def centre(self, value: Array) -> None:
        """Nothing to centre."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(x, 1 - x)."""
        x = as_float(value)
        return stack(x, 1 - x)

    def total(self, constants: Arrays) -> float:
        """One trial."""
        return 1.0

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """Zero."""
        return jnp.zeros(jnp.shape(value))

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(log p, log(1 - p))."""
        return stack(*log_odds(arguments))

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """{log p, log(1 - p)}."""
        successes, failures = unstack(statistics)
        return LogOdds(successes, failures, logits=name == "logits")

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """A Bernoulli value is enumerated, not maximised."""
        return None

    def describe_statistics(self) -> tuple[str, ...]:
        """Successes and failures."""
        return ("x", "1-x")
