"""{u, u²} on a half line: a truncated normal, whichever densities it comes from."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import log_ndtr

from .._types import Array
from ._features import stack, unstack
from ._kernel import AbstractKernel

_FAR = 4.0
"""From how many standard deviations above the mean on a bound counts as in the tail."""
_TERMS = 60
"""Of the continued fraction: its error there is below rounding."""


def _log_tail(slope: Array, precision: Array) -> Array:
    """log ∫_0^∞ exp(-s v - ½ p v²) dv: Mills' ratio, in the tail by its continued fraction (Laplace 1805)."""
    tail = slope > _FAR * jnp.sqrt(precision)
    near_precision = jnp.where(tail, 1.0, precision)
    t = jnp.where(tail, 0.0, slope) / jnp.sqrt(near_precision)
    near = 0.5 * math.log(2 * math.pi) - 0.5 * jnp.log(near_precision) + t**2 / 2 + log_ndtr(-t)
    s = jnp.where(tail, slope, 1.0)

    def inner(k: Any, denominator: Array) -> Array:
        return s + (_TERMS - k) * jnp.where(tail, precision, 0.0) / denominator

    found = jax.lax.fori_loop(0, _TERMS, inner, s)
    return jnp.where(tail, -jnp.log(found), near)


class HalfLine(AbstractKernel):
    """{u, u²} on u > bound (side 1) or u < bound (side -1)."""

    bound: float = eqx.field(static=True)
    side: int = eqx.field(static=True, default=1)

    event_ndim: ClassVar[int] = 0
    scales: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Truncated normal."""
        return "truncated normal"

    @property
    def width(self) -> int:
        """Two features."""
        return 2

    @property
    def describe(self) -> tuple[str, ...]:
        """The value and its square."""
        return ("u", "u²")

    def features(self, value: Array) -> Array:
        """(u, u²)."""
        value = jnp.asarray(value)
        return stack(value, value**2)

    def points(self) -> np.ndarray:
        """Beyond the bound."""
        return self.bound + self.side * np.array([1.0, 0.3, 0.6, 1.7, 2.5, 4.0])

    def _from_bound(self, eta: Array) -> tuple[Array, Array, Array]:
        """Log density at the bound, slope and precision of the distance v from it: exp(-s v - ½ p v²)."""
        linear, square = unstack(eta)
        height = linear * self.bound + square * self.bound**2
        return height, -self.side * (linear + 2 * square * self.bound), -2 * square

    def log_normaliser(self, eta: Array) -> Array:
        """Of the distance from the bound."""
        height, slope, precision = self._from_bound(eta)
        return height + _log_tail(slope, precision)

    def mode(self, eta: Array) -> Array:
        """The mean of the normal, or just beyond the bound."""
        _, slope, precision = self._from_bound(eta)
        distance = jnp.maximum(-slope / jnp.maximum(precision, jnp.finfo(precision.dtype).tiny), 1e-10)
        return self.bound + self.side * distance

    def distribution(self, eta: Array) -> Any:
        """TruncatedNormal."""
        linear, square = unstack(eta)
        bound = {"low" if self.side > 0 else "high": self.bound}
        scale = jax.lax.rsqrt(-2 * square)
        return dist.TruncatedNormal(-linear / (2 * square), scale, **bound, validate_args=False)

    def inside(self, value: Array) -> Array:
        """Not on the bound, nor infinitely far."""
        limits = jnp.finfo(value.dtype)
        least = max(float(limits.tiny), abs(self.bound) * float(limits.eps))
        return self.bound + self.side * jnp.clip((value - self.bound) * self.side, least, float(limits.max) ** 0.25)
