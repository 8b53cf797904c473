"""{log u} between two bounds, which data may have moved: a Pareto, or a power law that ends."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from .._types import Array, Key
from ._conditional import LOG_ZERO
from ._features import unstack
from ._kernel import AbstractKernel, PositiveDensity


def _log_mean_exp(y: Array) -> Array:
    """log ((1 - e^-y) / y) for y ≥ 0: the mean of e^-yt over 0 < t < 1."""
    small = y < 1e-3
    far = jnp.where(small, 1.0, y)
    near = jnp.where(small, y, 0.0)
    return jnp.where(small, -near / 2 + near**2 / 24, jnp.log(-jnp.expm1(-far)) - jnp.log(far))


class PowerLaw(AbstractKernel):
    """u^η₁ for lower ≤ u ≤ upper, where 0 ≤ lower.

    The bounds come with the coefficients: η is (η₁, lower, upper), and features are those of the first alone. A site of
    which the support ends at u (Uniform data below u, Pareto data above it) moves a bound to its datum: coefficients
    add up, bounds are the largest or the smallest of all.

    Attributes:
        ends: whether the upper bound is finite.
    """

    ends: bool = eqx.field(static=True)

    event_ndim: ClassVar[int] = 0
    scales: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Pareto, or a power law between bounds."""
        return "power law" if self.ends else "pareto"

    @property
    def width(self) -> int:
        """One feature."""
        return 1

    @property
    def describe(self) -> tuple[str, ...]:
        """The logarithm."""
        return ("log u",)

    def features(self, value: Array) -> Array:
        """(log u)."""
        return jnp.log(value)[..., None]

    def points(self) -> np.ndarray:
        """From 1 on, in parts of a bound."""
        return np.array([1.0, 1.2, 1.7, 2.5, 4.0])

    def log_normaliser(self, eta: Array) -> Array:
        """log ∫ e^((η₁ + 1) t) dt over t = log u; ∞ where that diverges, `LOG_ZERO` where the bounds cross."""
        log, lower, upper = unstack(eta)
        slope = log + 1
        rising = slope > 0
        steep = jnp.where(rising, slope, -slope)
        low, high = jnp.log(jnp.where(lower > 0, lower, 1.0)), jnp.log(jnp.where(upper < jnp.inf, upper, 1.0))
        open_ended = (lower <= 0) | (upper == jnp.inf)
        width = jnp.where(open_ended | (upper <= lower), 1.0, high - low)
        closed = jnp.log(width) + _log_mean_exp(steep * width)
        tail = -jnp.log(jnp.where(steep > 0, steep, 1.0))
        total = jnp.where(rising, slope * high, slope * low) + jnp.where(open_ended, tail, closed)
        diverges = jnp.where(rising, upper == jnp.inf, lower <= 0) | (open_ended & (slope == 0))
        return jnp.where(upper <= lower, LOG_ZERO, jnp.where(diverges, jnp.inf, total))

    def mode(self, eta: Array) -> Array:
        """The lower bound, or the upper one where the density rises."""
        log, lower, upper = unstack(eta)
        return jnp.where((log > 0) & (upper < jnp.inf), upper, jnp.maximum(lower, jnp.finfo(eta.dtype).tiny))

    def distribution(self, eta: Array) -> Any:
        """Pareto, or a NumPyro distribution of this module."""
        if self.ends:
            return BoundedPowerLaw(eta)
        log, lower, _ = unstack(eta)
        return dist.Pareto(lower, -1 - log, validate_args=False)

    def inside(self, value: Array) -> Array:
        """Bounds belong to the support; not 0."""
        return jnp.maximum(value, jnp.finfo(value.dtype).tiny)


class BoundedPowerLaw(PositiveDensity):
    """p(u) ∝ u^η₁ for lower ≤ u ≤ upper: what `posterior` returns where NumPyro has no distribution.

    It has `log_prob`, `sample`, `mean` and `variance`.

    Args:
        eta: (..., 3): the exponent and the bounds; the upper one may be infinite.
    """

    kernel: ClassVar[AbstractKernel] = PowerLaw(True)

    def log_prob(self, value: Array) -> Array:
        """η₁ log u less the log normaliser; -∞ beyond the bounds."""
        log, lower, upper = unstack(self.eta)
        inside = (value >= lower) & (value <= upper)
        density = log * jnp.log(jnp.where(inside, value, 1.0)) - self.kernel.log_normaliser(self.eta)
        return jnp.where(inside, density, -jnp.inf)

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        """By inversion, from the bound where the density of log u is highest."""
        log, lower, upper = unstack(self.eta)
        slope = log + 1
        steep = jnp.abs(slope)
        width = jnp.log(upper) - jnp.log(lower)
        uniform = jax.random.uniform(key, (*sample_shape, *self.batch_shape))
        flat = steep * width < 1e-6
        rate = jnp.where(flat, 1.0, steep)
        distance = jnp.where(flat, uniform * width, -jnp.log1p(uniform * jnp.expm1(-rate * width)) / rate)
        drawn = jnp.where(slope > 0, upper * jnp.exp(-distance), lower * jnp.exp(distance))
        return jnp.clip(drawn, lower, upper)
