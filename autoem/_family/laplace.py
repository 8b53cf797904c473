"""Laplace: T(x) = (1, |x - μ|) with a known location; weighted medians of the data with an unknown one."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist

from .._types import Array, Arrays
from ._base import AbstractWeighted
from ._conditional import AbsoluteDeviation, Conditional, LogPower
from ._features import as_float, stack, unstack


class Laplace(AbstractWeighted):
    """-log 2 - log b - |x - μ| / b."""

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ("loc",)
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return "laplace"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """Scalars both."""
        return {"loc": 0, "scale": 0}

    @staticmethod
    def match(fn: Any) -> Laplace | None:
        """dist.Laplace."""
        return Laplace() if type(fn) is dist.Laplace else None

    def centre(self, value: Array) -> None:
        """The location is known."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(1, |x - μ|)."""
        distance = jnp.abs(as_float(value) - constants["loc"])
        return stack(jnp.ones_like(distance), distance)

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """-log 2."""
        return jnp.full(jnp.shape(value), -jnp.log(2.0))

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(-log b, -1/b)."""
        scale = as_float(arguments["scale"])
        return stack(-jnp.log(scale), -1 / scale)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """scale: {log u, u⁻¹}."""
        if name != "scale":
            return None
        count, distance = unstack(statistics)
        return LogPower(-count, -distance, exponent=-1.0)

    def weighted_conditional(self, name: str, value: Array, weights: Array, arguments: Arrays) -> Conditional | None:
        """loc: -Σ w/b |x - u|; scale: {log u, u⁻¹}."""
        if name == "loc":
            weights = weights / arguments["scale"]
            return AbsoluteDeviation(jnp.broadcast_to(value, weights.shape), weights, jnp.zeros_like(weights))
        return LogPower(-weights, -weights * jnp.abs(value - arguments["loc"]), exponent=-1.0)

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """|u - μ| is not one of the features."""
        return None

    def describe_statistics(self) -> tuple[str, ...]:
        """Count, sum of distances."""
        return ("1", "|x-μ|")
