"""Weibull with a known concentration k: T(x) = (1, x^k)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer
from jax.scipy.special import xlogy

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import Conditional, LogPower
from ._features import as_float, stack, unstack


def _number(concentration: Any) -> float | None:
    """The concentration as a Python number, if it is the same for all elements and known while deriving."""
    if isinstance(concentration, Tracer):
        return None
    distinct = np.unique(np.asarray(concentration))
    return float(distinct[0]) if distinct.size == 1 else None


class Weibull(AbstractFamily):
    """log k + (k - 1) log x - k log λ - (x/λ)^k."""

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ("concentration",)
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return "weibull"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """Scalars both."""
        return {"scale": 0, "concentration": 0}

    @staticmethod
    def match(fn: Any) -> Weibull | None:
        """dist.Weibull."""
        return Weibull() if type(fn) is dist.Weibull else None

    def centre(self, value: Array) -> None:
        """Nothing to centre."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(1, x^k)."""
        power = as_float(value) ** constants["concentration"]
        return stack(jnp.ones_like(power), power)

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """log k + (k - 1) log x."""
        k = as_float(constants["concentration"])
        return jnp.log(k) + xlogy(k - 1, value)

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(-k log λ, -λ^-k)."""
        scale, k = as_float(arguments["scale"]), as_float(arguments["concentration"])
        return stack(-k * jnp.log(scale), -(scale**-k))

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """scale: {log u, u^-k}, where k is one known number."""
        exponent = _number(constants.get("concentration"))
        if name != "scale" or exponent is None:
            return None
        count, power = unstack(statistics)
        return LogPower(-count * exponent, -power, exponent=-exponent)

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """None: the power would have to be known when the update is written."""
        return None

    def describe_statistics(self) -> tuple[str, ...]:
        """Count, sum of powers."""
        return ("1", "xᵏ")
