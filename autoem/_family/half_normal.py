"""Half-normal: T(x) = (1, x²)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import Conditional, LogPower
from ._features import as_float, stack, unstack


class HalfNormal(AbstractFamily):
    """½ log(2/π) - log σ - x²/2σ²."""

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ()
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return "half-normal"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """One scalar."""
        return {"scale": 0}

    @staticmethod
    def match(fn: Any) -> HalfNormal | None:
        """dist.HalfNormal."""
        return HalfNormal() if type(fn) is dist.HalfNormal else None

    def centre(self, value: Array) -> None:
        """Nothing to centre."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(1, x²)."""
        x = as_float(value)
        return stack(jnp.ones_like(x), x**2)

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """½ log(2/π)."""
        return jnp.full(jnp.shape(value), 0.5 * jnp.log(2 / jnp.pi))

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(-log σ, -1/2σ²)."""
        scale = as_float(arguments["scale"])
        return stack(-jnp.log(scale), -(scale**-2.0) / 2)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """{log u, u⁻²}."""
        count, second = unstack(statistics)
        return LogPower(-count, -second / 2, exponent=-2.0)

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """{u²}."""
        half = as_float(arguments["scale"]) ** -2.0 / 2
        return LogPower(jnp.zeros_like(half), -half, exponent=2.0)

    def describe_statistics(self) -> tuple[str, ...]:
        """Count, sum of squares."""
        return ("1", "x²")
