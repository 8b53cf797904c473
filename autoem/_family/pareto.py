"""Pareto with a known scale, T(x) = (1, log(x/m)), or with an unknown one, T(x) = (1, log x)."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import LOG_ZERO, Bounding, Conditional, LogPower
from ._features import as_float, stack, unstack


class Pareto(AbstractFamily):
    """log α - α log(x/m) - log x for x ≥ m.

    Attributes:
        free: "scale" where m is unknown; that x ≥ m is then for whoever knows m to see to.
    """

    free: str = eqx.field(static=True, default="")

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[Any] = property(lambda self: () if self.free else ("scale",))
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return "pareto"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """Scalars both."""
        return {"scale": 0, "alpha": 0}

    @staticmethod
    def match(fn: Any) -> Pareto | None:
        """dist.Pareto."""
        return Pareto() if type(fn) is dist.Pareto else None

    def centre(self, value: Array) -> None:
        """Nothing to centre."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(1, log(x/m)), or (1, log x)."""
        if self.free:
            x = as_float(value)
            return stack(jnp.ones_like(x), jnp.log(jnp.where(x > 0, x, 1.0)))
        scale = as_float(constants["scale"])
        excess = jnp.log(jnp.maximum(as_float(value), scale) / scale)
        return stack(jnp.ones_like(excess), excess)

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """-log x, and `LOG_ZERO` below m."""
        if self.free:
            x = as_float(value)
            return jnp.where(x > 0, -jnp.log(jnp.where(x > 0, x, 1.0)), LOG_ZERO)
        scale = as_float(constants["scale"])
        return jnp.where(value >= scale, -jnp.log(jnp.maximum(as_float(value), scale)), LOG_ZERO)

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(log α, -α), or (log α + α log m, -α)."""
        alpha = as_float(arguments["alpha"])
        if self.free:
            return stack(jnp.log(alpha) + alpha * jnp.log(as_float(arguments["scale"])), -alpha)
        return stack(jnp.log(alpha), -alpha)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """alpha: {log u, u}; scale, where it is unknown: {log u} below the data."""
        count, logs = unstack(statistics)
        if self.free and name == "scale":
            return Bounding(count * as_float(arguments["alpha"]), -1)
        if name != "alpha":
            return None
        excess = logs - count * jnp.log(as_float(arguments["scale"])) if self.free else logs
        return LogPower(count, -excess, exponent=1.0)

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """None: the support begins at m, not at 0."""
        return None

    def describe_statistics(self) -> tuple[str, ...]:
        """Count, sum of log excesses."""
        return ("1", "log x" if self.free else "log x/m")
