"""Normal and LogNormal: T(x) = (1, y, y²), y = x or log x, centred."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import Conditional, LogPower, Quadratic


class Normal(AbstractFamily):
    """-½ log 2π - log σ - (y - μ)²/2σ², with y = x, or y = log x and h = 1/x for the log-normal."""

    log: bool = eqx.field(static=True, default=False)

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ()
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return "log-normal" if self.log else "normal"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """Scalars both."""
        return {"loc": 0, "scale": 0}

    @staticmethod
    def match(fn: Any) -> Normal | None:
        """dist.Normal or dist.LogNormal."""
        if type(fn) is dist.Normal:
            return Normal()
        return Normal(log=True) if type(fn) is dist.LogNormal else None

    def _y(self, value: Array) -> Array:
        return jnp.log(value) if self.log else value

    def centre(self, value: Array) -> Array:
        """y itself."""
        return self._y(value)

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(1, y - c, (y - c)²)."""
        y = self._y(value) - constants.get("shift", 0.0)
        return jnp.stack([jnp.ones_like(y), y, y**2], -1)

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """-½ log 2π, and the Jacobian -log x of the log-normal."""
        base = jnp.full(jnp.shape(value), -0.5 * jnp.log(2 * jnp.pi))
        return base - jnp.log(value) if self.log else base

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(-log σ - m²/2σ², m/σ², -1/2σ²) with m = μ - c."""
        loc, scale = jnp.broadcast_arrays(arguments["loc"] - constants.get("shift", 0.0), arguments["scale"])
        precision = scale**-2.0
        return jnp.stack([-jnp.log(scale) - loc**2 * precision / 2, loc * precision, -precision / 2], -1)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """loc: {u, u²}; scale: {log u, u⁻²}."""
        count, first, second = jnp.moveaxis(statistics, -1, 0)
        shift = constants.get("shift", 0.0)
        if name == "loc":
            precision = arguments["scale"] ** -2.0
            return Quadratic(count * precision, (first + count * shift) * precision)
        loc = arguments["loc"] - shift
        residual = second - 2 * loc * first + count * loc**2
        return LogPower(-count, -residual / 2, exponent=-2.0)

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """{u, u²}; none for the log-normal."""
        if self.log:
            return None
        precision = arguments["scale"] ** -2.0
        return Quadratic(precision, arguments["loc"] * precision)

    def describe_statistics(self) -> tuple[str, ...]:
        """Count, sum, sum of squares."""
        return ("1", "log x", "(log x)²") if self.log else ("1", "x", "x²")
