"""Normal truncated on one side: T(x) = (1, x, x²)."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import log_ndtr
from numpyro.distributions.truncated import LeftTruncatedDistribution, RightTruncatedDistribution

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import Conditional
from ._features import as_float, stack


class TruncatedNormal(AbstractFamily):
    """-½ log 2π - log σ - (x - μ)²/2σ² - log Φ(±(μ - bound)/σ); the bound is the constant `low` or `high`."""

    bound: str = eqx.field(static=True, default="low")

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[Any] = property(lambda self: (self.bound,))
    coupled: ClassVar[tuple[str, ...]] = ("loc", "scale")

    @property
    def name(self) -> str:
        """The family's name."""
        return "truncated normal"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """Scalars."""
        return {"loc": 0, "scale": 0, self.bound: 0}

    @staticmethod
    def match(fn: Any) -> TruncatedNormal | None:
        """What dist.TruncatedNormal makes of one bound."""
        if type(getattr(fn, "base_dist", None)) is not dist.Normal:
            return None
        if type(fn) is LeftTruncatedDistribution:
            return TruncatedNormal("low")
        return TruncatedNormal("high") if type(fn) is RightTruncatedDistribution else None

    def centre(self, value: Array) -> None:
        """Not centred: the normaliser knows the bound."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(1, x, x²)."""
        x = as_float(value)
        return stack(jnp.ones_like(x), x, x**2)

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """-½ log 2π."""
        return jnp.full(jnp.shape(value), -0.5 * jnp.log(2 * jnp.pi))

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(-log σ - μ²/2σ² - log Φ, μ/σ², -1/2σ²)."""
        loc, scale = as_float(arguments["loc"]), as_float(arguments["scale"])
        side = 1.0 if self.bound == "low" else -1.0
        precision = scale**-2.0
        inside = log_ndtr(side * (loc - constants[self.bound]) / scale)
        return stack(-jnp.log(scale) - loc**2 * precision / 2 - inside, loc * precision, -precision / 2)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """None: both are numeric."""
        return None

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """None: as a prior of a parameter it is numeric; as that of a latent its statistics say what it is."""
        return None

    def describe_statistics(self) -> tuple[str, ...]:
        """Count, sum, sum of squares."""
        return ("1", "x", "x²")
