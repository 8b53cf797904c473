"""Exponential: T(x) = (1, x)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import Conditional, LogPower
from ._features import as_float, stack, unstack


class Exponential(AbstractFamily):
    """log λ - λ x."""

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ()
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return "exponential"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """One scalar."""
        return {"rate": 0}

    @staticmethod
    def match(fn: Any) -> Exponential | None:
        """dist.Exponential."""
        return Exponential() if type(fn) is dist.Exponential else None

    def centre(self, value: Array) -> None:
        """Nothing to centre."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(1, x)."""
        x = as_float(value)
        return stack(jnp.ones_like(x), x)

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """Zero."""
        return jnp.zeros(jnp.shape(value))

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(log λ, -λ)."""
        rate = as_float(arguments["rate"])
        return stack(jnp.log(rate), -rate)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """{log u, u}."""
        count, total = unstack(statistics)
        return LogPower(count, -total, exponent=1.0)

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """{u}."""
        rate = as_float(arguments["rate"])
        return LogPower(jnp.zeros_like(rate), -rate, exponent=1.0)

    def describe_statistics(self) -> tuple[str, ...]:
        """Count and sum."""
        return ("1", "x")
