"""Negative binomial (probs or logits): T(x) = (r, x), x the successes before the r-th failure."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import numpyro.distributions as dist
from jax.scipy.special import gammaln

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import Conditional, LogOdds
from ._features import as_float, log_odds, stack, unstack


class NegativeBinomial(AbstractFamily):
    """log Γ(x + r) - log Γ(r) - log x! + r log(1 - p) + x log p."""

    argument: str = eqx.field(static=True, default="probs")

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ("total_count",)
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return "negative binomial"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """Scalars both."""
        return {self.argument: 0, "total_count": 0}

    @staticmethod
    def match(fn: Any) -> NegativeBinomial | None:
        """dist.NegativeBinomial, by probability or logit."""
        if type(fn) is dist.NegativeBinomialProbs:
            return NegativeBinomial("probs")
        return NegativeBinomial("logits") if type(fn) is dist.NegativeBinomialLogits else None

    def centre(self, value: Array) -> None:
        """Nothing to centre."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(r, x)."""
        return stack(as_float(constants["total_count"]), as_float(value))

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """log Γ(x + r) - log Γ(r) - log x!."""
        x, r = as_float(value), as_float(constants["total_count"])
        return gammaln(x + r) - gammaln(r) - gammaln(x + 1)

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(log(1 - p), log p)."""
        success, failure = log_odds(arguments)
        return stack(failure, success)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """{log p, log(1 - p)}."""
        if name in self.constants:
            return None
        failures, successes = unstack(statistics)
        return LogOdds(successes, failures, logits=name == "logits")

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """A count is enumerated, not maximised."""
        return None

    def describe_statistics(self) -> tuple[str, ...]:
        """Failures and successes."""
        return ("r", "x")
