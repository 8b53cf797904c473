"""Binomial (probs or logits): T(x) = (x, n - x)."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln

from .._types import Array, Arrays
from ._base import AbstractCounts
from ._conditional import LOG_ZERO, Conditional, LogOdds
from ._features import as_float, log_odds, stack, unstack


class Binomial(AbstractCounts):
    """log C(n, x) + x log p + (n - x) log(1 - p)."""

    argument: str = eqx.field(static=True, default="probs")

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ("total_count",)
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return "binomial"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """Scalars both."""
        return {self.argument: 0, "total_count": 0}

    @staticmethod
    def match(fn: Any) -> Binomial | None:
        """dist.Binomial, by probability or logit."""
        if type(fn) is dist.BinomialProbs:
            return Binomial("probs")
        return Binomial("logits") if type(fn) is dist.BinomialLogits else None

    def centre(self, value: Array) -> None:
        """Nothing to centre."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(x, n - x), and zeros where x > n: a latent's shared support may reach beyond its own n."""
        x, n = as_float(value), as_float(constants["total_count"])
        return stack(jnp.where(x <= n, x, 0.0), jnp.maximum(n - x, 0.0))

    def total(self, constants: Arrays) -> Array:
        """The number of trials."""
        return constants["total_count"]

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """log C(n, x), which is log 0 for x > n."""
        x, n = as_float(value), as_float(constants["total_count"])
        coefficient = gammaln(n + 1) - gammaln(x + 1) - gammaln(jnp.maximum(n - x, 0.0) + 1)
        return jnp.where(x <= n, coefficient, LOG_ZERO)

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(log p, log(1 - p))."""
        return stack(*log_odds(arguments))

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """{log p, log(1 - p)}."""
        if name in self.constants:
            return None
        successes, failures = unstack(statistics)
        return LogOdds(successes, failures, logits=name == "logits")

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """A binomial value is enumerated, not maximised."""
        return None

    def describe_statistics(self) -> tuple[str, ...]:
        """Successes and failures."""
        return ("x", "n-x")
