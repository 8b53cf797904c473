"""Uniform with known bounds, or on (0, b) with an unknown one: T(x) = (1)."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import LOG_ZERO, Bounding, Conditional, Flat
from ._features import as_float


class Uniform(AbstractFamily):
    """-log(b - a) for a ≤ x ≤ b.

    Attributes:
        free: "high" where b is unknown; then a = 0, and that x ≤ b is for whoever knows b to see to.
    """

    free: str = eqx.field(static=True, default="")

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[Any] = property(lambda self: ("low",) if self.free else ("low", "high"))
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return "uniform"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """Scalars both."""
        return {"low": 0, "high": 0}

    @staticmethod
    def match(fn: Any) -> Uniform | None:
        """dist.Uniform."""
        return Uniform() if type(fn) is dist.Uniform else None

    def centre(self, value: Array) -> None:
        """Nothing to centre."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(1)."""
        return jnp.ones_like(as_float(value))[..., None]

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """-log(b - a), or 0 where b is unknown, and `LOG_ZERO` outside."""
        if self.free:
            return jnp.where(as_float(value) >= 0, 0.0, LOG_ZERO)
        low, high = as_float(constants["low"]), as_float(constants["high"])
        inside = (value >= low) & (value <= high)
        return jnp.where(inside, -jnp.log(high - low), LOG_ZERO)

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(0): known bounds are in the base measure; (-log b)."""
        return -jnp.log(as_float(arguments["high"]))[..., None] if self.free else jnp.zeros(1)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """high, where it is unknown: {log u} above the data."""
        return Bounding(-statistics[..., 0], 1) if self.free and name == self.free else None

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """Flat."""
        return Flat()

    def describe_statistics(self) -> tuple[str, ...]:
        """Count."""
        return ("1",)
