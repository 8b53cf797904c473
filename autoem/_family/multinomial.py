"""Multinomial (probs or logits): T(x) = x."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln

from .._types import Array, Arrays
from ._base import AbstractCounts
from ._conditional import Conditional, LogSimplex
from ._features import as_float
from .categorical import log_probabilities


class Multinomial(AbstractCounts):
    """log n! - Σ_k log x_k! + Σ_k x_k log p_k."""

    argument: str = eqx.field(static=True, default="probs")

    value_ndim: ClassVar[int] = 1
    constants: ClassVar[tuple[str, ...]] = ("total_count",)
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return "multinomial"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """A vector and a number."""
        return {self.argument: 1, "total_count": 0}

    @staticmethod
    def match(fn: Any) -> Multinomial | None:
        """dist.Multinomial, by probabilities or logits."""
        if type(fn) is dist.MultinomialProbs:
            return Multinomial("probs")
        return Multinomial("logits") if type(fn) is dist.MultinomialLogits else None

    def centre(self, value: Array) -> None:
        """Nothing to centre."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """X."""
        return as_float(value)

    def total(self, constants: Arrays) -> Array:
        """The number of trials."""
        return constants["total_count"]

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """log n! - Σ_k log x_k!."""
        x, n = as_float(value), as_float(constants["total_count"])
        return gammaln(n + 1) - jnp.sum(gammaln(x + 1), -1)

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """log p."""
        return log_probabilities(arguments)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """{log p_k}."""
        return None if name in self.constants else LogSimplex(statistics, logits=name == "logits")

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """A multinomial value is enumerated, not maximised."""
        return None

    def describe_statistics(self) -> tuple[str, ...]:
        """Counts per category."""
        return ("x_k",)
