"""Poisson: T(x) = (1, x)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import Conditional, LogPower, safe_log
from ._features import as_float, stack, unstack


class Poisson(AbstractFamily):
    """-λ + x log λ - log x!. A rate of exactly zero puts all mass on x = 0."""

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ()
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return "poisson"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """One scalar."""
        return {"rate": 0}

    @staticmethod
    def match(fn: Any) -> Poisson | None:
        """dist.Poisson."""
        return Poisson() if type(fn) is dist.Poisson else None

    def centre(self, value: Array) -> None:
        """Nothing to centre."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(1, x)."""
        x = as_float(value)
        return stack(jnp.ones_like(x), x)

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """-log x!."""
        return -gammaln(as_float(value) + 1)

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(-λ, log λ)."""
        rate = as_float(arguments["rate"])
        return stack(-rate, safe_log(rate))

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """{log u, u}."""
        count, total = unstack(statistics)
        return LogPower(total, -count, exponent=1.0)

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """A count is enumerated, not maximised."""
        return None

    def describe_statistics(self) -> tuple[str, ...]:
        """Count and sum."""
        return ("1", "x")
