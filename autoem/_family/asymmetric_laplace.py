"""AsymmetricLaplace, by asymmetry or quantile: T(x) = (1, distance) with a known location, else as the Laplace."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist

from .._types import Array, Arrays
from ._base import AbstractWeighted
from ._conditional import AbsoluteDeviation, Conditional, LogPower
from ._features import as_float, stack, unstack


class AsymmetricLaplace(AbstractWeighted):
    """log(λ₁ λ₂ / (λ₁ + λ₂)) - log b - d / b with d = λ₁ (μ - x) below μ and d = λ₂ (x - μ) above.

    (λ₁, λ₂) is (1/κ, κ) of the asymmetry κ, or (1 - q, q) of the quantile q.
    """

    constants: tuple[str, ...] = eqx.field(static=True, default=("loc", "asymmetry"))

    value_ndim: ClassVar[int] = 0
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def shape(self) -> str:
        """The argument that says how the two sides differ."""
        return self.constants[1]

    @property
    def name(self) -> str:
        """The family's name."""
        return "asymmetric laplace"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """Scalars all."""
        return {"loc": 0, "scale": 0, self.shape: 0}

    @staticmethod
    def match(fn: Any) -> AsymmetricLaplace | None:
        """dist.AsymmetricLaplace or dist.AsymmetricLaplaceQuantile."""
        if type(fn) is dist.AsymmetricLaplace:
            return AsymmetricLaplace()
        return AsymmetricLaplace(("loc", "quantile")) if type(fn) is dist.AsymmetricLaplaceQuantile else None

    def _rates(self, arguments: Arrays) -> tuple[Array, Array]:
        """(λ₁, λ₂)."""
        shape = as_float(arguments[self.shape])
        return (1 - shape, shape) if self.shape == "quantile" else (1 / shape, shape)

    def _distance(self, value: Array, arguments: Arrays) -> Array:
        below, above = self._rates(arguments)
        residual = as_float(value) - arguments["loc"]
        return jnp.where(residual < 0, -below, above) * residual

    def centre(self, value: Array) -> None:
        """The location is known."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(1, d)."""
        distance = self._distance(value, constants)
        return stack(jnp.ones_like(distance), distance)

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """log(λ₁ λ₂ / (λ₁ + λ₂))."""
        below, above = self._rates(constants)
        return jnp.broadcast_to(-jnp.log(1 / below + 1 / above), jnp.broadcast_shapes(jnp.shape(value), below.shape))

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
        """loc: {|x - u|, u}; scale: {log u, u⁻¹}; the asymmetry is numeric."""
        if name == "scale":
            return LogPower(-weights, -weights * self._distance(value, arguments), exponent=-1.0)
        if name != "loc":
            return None
        below, above = self._rates(arguments)
        weights = weights / arguments["scale"] / 2
        points, both, tilt = jnp.broadcast_arrays(value, weights * (above + below), weights * (above - below))
        return AbsoluteDeviation(points, both, tilt)

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """The distance is not one of the features."""
        return None

    def describe_statistics(self) -> tuple[str, ...]:
        """Count, sum of weighted distances."""
        return ("1", "weighted |x-μ|")
