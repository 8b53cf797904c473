"""Beta, and its alias BetaProportion: T(x) = (1, log x, log(1 - x))."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import Conditional, LogOdds, safe_log
from ._features import as_float, log_complement, stack


class Beta(AbstractFamily):
    """log Γ(α + β) - log Γ(α) - log Γ(β) + (α - 1) log x + (β - 1) log(1 - x)."""

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ()
    coupled: ClassVar[tuple[str, ...]] = ("concentration1", "concentration0")

    @property
    def name(self) -> str:
        """The family's name."""
        return "beta"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """Scalars both."""
        return {"concentration1": 0, "concentration0": 0}

    @staticmethod
    def match(fn: Any) -> Beta | None:
        """dist.Beta or dist.BetaProportion."""
        return Beta() if type(fn) in (dist.Beta, dist.BetaProportion) else None

    def centre(self, value: Array) -> None:
        """Nothing to centre."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(1, log x, log(1 - x))."""
        x = as_float(value)
        return stack(jnp.ones_like(x), safe_log(x), log_complement(x))

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """Zero."""
        return jnp.zeros(jnp.shape(value))

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(log Γ(α + β) - log Γ(α) - log Γ(β), α - 1, β - 1)."""
        alpha, beta = as_float(arguments["concentration1"]), as_float(arguments["concentration0"])
        return stack(gammaln(alpha + beta) - gammaln(alpha) - gammaln(beta), alpha - 1, beta - 1)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """Numeric."""
        return None

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """{log u, log(1 - u)}."""
        return LogOdds(as_float(arguments["concentration1"]) - 1, as_float(arguments["concentration0"]) - 1)

    def describe_statistics(self) -> tuple[str, ...]:
        """Count, sums of logs."""
        return ("1", "log x", "log(1-x)")
