"""Uniform with known bounds: T(x) = (1)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import LOG_ZERO, Conditional, Flat
from ._features import as_float


class Uniform(AbstractFamily):
    """-log(b - a) for a ≤ x ≤ b."""

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ("low", "high")
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
        """-log(b - a), and `LOG_ZERO` outside."""
        low, high = as_float(constants["low"]), as_float(constants["high"])
        inside = (value >= low) & (value <= high)
        return jnp.where(inside, -jnp.log(high - low), LOG_ZERO)

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(0): the bounds are in the base measure."""
        return jnp.zeros(1)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """None: both arguments are constants."""
        return None

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """Flat."""
        return Flat()

    def describe_statistics(self) -> tuple[str, ...]:
        """Count."""
        return ("1",)
