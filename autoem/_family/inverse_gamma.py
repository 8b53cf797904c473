"""Inverse gamma: T(x) = (1, log x, 1/x)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import Conditional, LogPower
from ._features import as_float, stack, unstack


class InverseGamma(AbstractFamily):
    """α log β - log Γ(α) - (α + 1) log x - β / x; NumPyro calls the scale β `rate`."""

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ()
    coupled: ClassVar[tuple[str, ...]] = ("concentration", "rate")

    @property
    def name(self) -> str:
        """The family's name."""
        return "inverse gamma"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """Scalars both."""
        return {"concentration": 0, "rate": 0}

    @staticmethod
    def match(fn: Any) -> InverseGamma | None:
        """dist.InverseGamma."""
        return InverseGamma() if type(fn) is dist.InverseGamma else None

    def centre(self, value: Array) -> None:
        """Nothing to centre."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(1, log x, 1/x)."""
        x = as_float(value)
        return stack(jnp.ones_like(x), jnp.log(x), 1 / x)

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """Zero."""
        return jnp.zeros(jnp.shape(value))

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(α log β - log Γ(α), -α - 1, -β)."""
        alpha, beta = as_float(arguments["concentration"]), as_float(arguments["rate"])
        return stack(alpha * jnp.log(beta) - gammaln(alpha), -alpha - 1, -beta)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """rate: {log u, u}; concentration: numeric."""
        if name != "rate":
            return None
        count, _, inverses = unstack(statistics)
        return LogPower(count * arguments["concentration"], -inverses, exponent=1.0)

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """{log u, u⁻¹}."""
        return LogPower(-as_float(arguments["concentration"]) - 1, -as_float(arguments["rate"]), exponent=-1.0)

    def describe_statistics(self) -> tuple[str, ...]:
        """Count, sum of logs, sum of inverses."""
        return ("1", "log x", "1/x")
