"""{log u, u, 1/u}: a generalised inverse Gaussian, of which Gamma and inverse Gamma are the limits."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from .._types import Array, Key
from ._features import stack, unstack
from ._kernel import AbstractKernel, PositiveDensity

_NODES = 200
_DROP = 40.0
"""The integrand is followed down to e^-40 of its height."""


def _exponent(eta: tuple[Array, Array, Array], y: Array) -> Array:
    """Log density of y = log u: (η₁ + 1) y + η₂ e^y + η₃ e^-y."""
    log, power, inverse = eta
    most = 0.97 * jnp.log(jnp.finfo(jnp.result_type(float)).max)
    return (log + 1) * y + power * jnp.exp(jnp.minimum(y, most)) + inverse * jnp.exp(jnp.minimum(-y, most))


def _peak(order: Array, power: Array, inverse: Array) -> Array:
    """The u at which order · log u - power · u - inverse / u is highest."""
    root = jnp.sqrt(order**2 + 4 * power * inverse)
    tiny = jnp.finfo(root.dtype).tiny
    return jnp.where(order > 0, (order + root) / jnp.maximum(2 * power, tiny),
                     2 * inverse / jnp.maximum(root - order, tiny))  # fmt: skip


def _nodes(eta: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    """Nodes y = y* + s sinh t, t equally spaced, on a leading axis, and the logarithms of their weights."""
    log, power, inverse = eta
    peak = _peak(log + 1, -power, -inverse)
    top, scale = jnp.log(peak), jax.lax.rsqrt(inverse / -peak - power * peak)
    height = _exponent(eta, top)

    def edge(side: float) -> Array:
        def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            fall = height - _exponent(eta, top + side * scale * jnp.sinh(middle)) - jnp.log(jnp.cosh(middle))
            return jnp.where(fall > _DROP, low, middle), jnp.where(fall > _DROP, middle, high)

        start = jnp.zeros_like(height), jnp.full_like(height, 14.0)
        return jax.lax.fori_loop(0, 40, halve, start)[1]

    left, right = -edge(-1.0), edge(1.0)
    step = (right - left) / (_NODES - 1)
    t = left + step * jnp.arange(_NODES).reshape(-1, *[1] * height.ndim)
    return top + scale * jnp.sinh(t), jnp.log(scale * step) + jnp.log(jnp.cosh(t))


class Generalised(AbstractKernel):
    """{log u, u, 1/u} on u > 0. The normaliser is a Bessel function K of real order, which the trapezoidal rule on a
    doubly exponential scale gives to rounding (Takahasi and Mori 1974); its gradient are the expected features.
    """

    event_ndim: ClassVar[int] = 0
    scales: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Generalised inverse Gaussian."""
        return "generalised inverse gaussian"

    @property
    def width(self) -> int:
        """Three features."""
        return 3

    @property
    def describe(self) -> tuple[str, ...]:
        """The logarithm, u and its inverse."""
        return ("log u", "u", "1/u")

    def features(self, value: Array) -> Array:
        """(log u, u, 1/u)."""
        value = jnp.asarray(value)
        return stack(jnp.log(value), value, 1 / value)

    def points(self) -> np.ndarray:
        """From 1 on: there the logarithm is zero."""
        return np.array([1.0, 0.3, 0.6, 1.7, 2.5, 4.0, 0.15, 7.0])

    def log_normaliser(self, eta: Array) -> Array:
        """log 2 K_p(2 √(ab)) (b/a)^(p/2) with p = η₁ + 1, a = -η₂, b = -η₃."""
        log, power, inverse = unstack(eta)
        nodes, weights = jax.lax.stop_gradient(_nodes((log, power, inverse)))
        return jax.nn.logsumexp(_exponent((log, power, inverse), nodes) + weights, 0)

    def mode(self, eta: Array) -> Array:
        """The positive root of η₂ u² + η₁ u - η₃."""
        log, power, inverse = unstack(eta)
        return jnp.maximum(_peak(log, -power, -inverse), 1e-10)

    def distribution(self, eta: Array) -> Any:
        """A NumPyro distribution of this module: NumPyro has none."""
        return GeneralisedInverseGaussian(eta)

    def inside(self, value: Array) -> Array:
        """Neither 0 nor ∞."""
        limits = jnp.finfo(value.dtype)
        return jnp.clip(value, limits.tiny, limits.max)


class GeneralisedInverseGaussian(PositiveDensity):
    """p(u) ∝ exp(η₁ log u + η₂ u + η₃ / u), u > 0: what `posterior` returns where NumPyro has no distribution.

    It has `log_prob`, `sample`, `mean` and `variance`.

    Args:
        eta: coefficients (..., 3).
    """

    kernel: ClassVar[AbstractKernel] = Generalised()

    def log_prob(self, value: Array) -> Array:
        """⟨η, φ(u)⟩ less the log normaliser."""
        return jnp.sum(self.eta * self.kernel.features(value), -1) - self.kernel.log_normaliser(self.eta)

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        """By rejection: log u has a log-concave density of known mode (Devroye 1986, VII.2.4)."""
        eta = jnp.broadcast_to(self.eta, (*sample_shape, *self.eta.shape))
        parts = unstack(eta)
        total = Generalised().log_normaliser(eta)
        top = jnp.log(_peak(parts[0] + 1, -parts[1], -parts[2]))
        height = _exponent(parts, top) - total  # type: ignore[arg-type]

        def attempt(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            key, found, done = state
            key, *keys = jax.random.split(key, 5)
            shape = top.shape
            uniform, exponential = jax.random.uniform(keys[0], shape), jax.random.exponential(keys[1], shape)
            tail = jax.random.bernoulli(keys[2], 0.5, shape)
            sign = jnp.where(jax.random.bernoulli(keys[3], 0.5, shape), 1.0, -1.0)
            distance = jnp.where(tail, 1 + exponential, uniform)
            hat = height - jnp.where(tail, exponential, 0.0)
            y = top + sign * distance * jnp.exp(-height)
            level = jnp.log(jax.random.uniform(jax.random.fold_in(keys[0], 1), shape))
            taken = level + hat <= _exponent(parts, y) - total  # type: ignore[arg-type]
            return key, jnp.where(done, found, y), done | taken

        start = key, top, jnp.zeros(top.shape, bool)
        return jnp.exp(jax.lax.while_loop(lambda s: ~jnp.all(s[2]), attempt, start)[1])
