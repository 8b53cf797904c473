"""Conditional densities of a latent, by the features through which it enters: p(u) ∝ exp ⟨η, φ(u)⟩.

The counterpart of `_conditional`: there the coefficients η of a parameter lead to its mode, here those of a latent
lead to its evidence (the log normaliser) and, by its gradient, to expected features. The features name the kernel,
whichever distributions they come from.
"""

from __future__ import annotations

import abc
import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import gammaln, i0e
from numpyro.distributions import constraints

from .._types import Array
from ._conditional import Bounding, Circular, Conditional, InverseMatrix, LogOdds, LogPower, LogSimplex, Quadratic
from ._features import log_complement, stack, unstack

_SMALLEST = 1e-10
"""Where a mode on the boundary of the support is stopped."""


class AbstractKernel(eqx.Module):
    """exp ⟨η, φ(u)⟩ on a support. Coefficients η and features φ lie on a trailing axis of length M.

    Attributes:
        event_ndim: event axes of u.
        scales: whether an argument may be c · u^p; else it is u itself.
    """

    event_ndim: eqx.AbstractClassVar[int]
    scales: eqx.AbstractClassVar[bool]

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The field's name of the density."""

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """Number of features M."""

    @property
    @abc.abstractmethod
    def describe(self) -> tuple[str, ...]:
        """Names of the features."""

    @abc.abstractmethod
    def features(self, value: Array) -> Array:
        """φ(u): (..., M)."""

    @abc.abstractmethod
    def points(self) -> np.ndarray:
        """Some values inside the support, at least 2 (M + 1) of them; the first is where constants are read off."""

    @abc.abstractmethod
    def log_normaliser(self, eta: Array) -> Array:
        """log ∫ exp ⟨η, φ(u)⟩ du: (...)."""

    @abc.abstractmethod
    def mode(self, eta: Array) -> Array:
        """The value of highest density; one on the boundary is stopped just inside the support."""

    @abc.abstractmethod
    def distribution(self, eta: Array) -> Any:
        """The density as a NumPyro distribution with batch shape (...)."""

    @abc.abstractmethod
    def inside(self, value: Array) -> Array:
        """A draw that rounding put on the boundary, moved inside the support."""


class Power(AbstractKernel):
    """{log u, u^e} on u > 0, e = 1 or -1: a Gamma or an inverse Gamma."""

    exponent: float = eqx.field(static=True)

    event_ndim: ClassVar[int] = 0
    scales: ClassVar[bool] = True

    @property
    def width(self) -> int:
        """Two features."""
        return 2

    @property
    def name(self) -> str:
        """Gamma or inverse gamma."""
        return "gamma" if self.exponent > 0 else "inverse gamma"

    @property
    def describe(self) -> tuple[str, ...]:
        """The logarithm, and u or its inverse."""
        return ("log u", "u" if self.exponent > 0 else "1/u")

    def features(self, value: Array) -> Array:
        """(log u, u^e)."""
        return stack(jnp.log(value), value**self.exponent)

    def points(self) -> np.ndarray:
        """From 1 on: there the logarithm is zero."""
        return np.array([1.0, 0.3, 0.6, 1.7, 2.5, 4.0])

    def shape_rate(self, eta: Array) -> tuple[Array, Array]:
        """Of the Gamma variable u^e."""
        log, power = unstack(eta)
        return (log + 1) / self.exponent, -power

    def log_normaliser(self, eta: Array) -> Array:
        """log Γ(a) - a log b."""
        shape, rate = self.shape_rate(eta)
        return gammaln(shape) - shape * jnp.log(rate)

    def mode(self, eta: Array) -> Array:
        """u^e = -η₁ / (e η₂)."""
        log, power = unstack(eta)
        found = jnp.maximum(-log / (self.exponent * power), 0.0) ** self.exponent
        return jnp.maximum(found, _SMALLEST)

    def distribution(self, eta: Array) -> Any:
        """Gamma or InverseGamma."""
        kind = dist.Gamma if self.exponent > 0 else dist.InverseGamma
        return kind(*self.shape_rate(eta), validate_args=False)

    def inside(self, value: Array) -> Array:
        """Neither 0 nor ∞."""
        limits = jnp.finfo(value.dtype)
        return jnp.clip(value, limits.tiny, limits.max)


class Odds(AbstractKernel):
    """{log u, log(1 - u)} on the unit interval: a Beta."""

    event_ndim: ClassVar[int] = 0
    scales: ClassVar[bool] = False

    @property
    def width(self) -> int:
        """Two features."""
        return 2

    @property
    def name(self) -> str:
        """Beta."""
        return "beta"

    @property
    def describe(self) -> tuple[str, ...]:
        """The two logarithms."""
        return ("log u", "log(1-u)")

    def features(self, value: Array) -> Array:
        """(log u, log(1 - u))."""
        return stack(jnp.log(value), log_complement(value))

    def points(self) -> np.ndarray:
        """Across the interval."""
        return np.array([0.5, 0.1, 0.25, 0.6, 0.75, 0.9])

    def log_normaliser(self, eta: Array) -> Array:
        """log Γ(a) + log Γ(b) - log Γ(a + b)."""
        a, b = unstack(eta + 1)
        return gammaln(a) + gammaln(b) - gammaln(a + b)

    def mode(self, eta: Array) -> Array:
        """η₁ / (η₁ + η₂), or the end where the density is highest."""
        a, b = unstack(eta)
        total = jnp.maximum(a, 0) + jnp.maximum(b, 0)
        ends = jnp.where(a == b, jnp.where(a == 0, 0.5, 0.0), jnp.where(a < b, 0.0, 1.0))
        found = jnp.where(total > 0, jnp.maximum(a, 0) / jnp.where(total > 0, total, 1), ends)
        return jnp.clip(found, _SMALLEST, 1 - max(_SMALLEST, float(jnp.finfo(found.dtype).eps)))

    def distribution(self, eta: Array) -> Any:
        """Beta."""
        return dist.Beta(*unstack(eta + 1), validate_args=False)

    def inside(self, value: Array) -> Array:
        """Neither 0 nor 1."""
        limits = jnp.finfo(value.dtype)
        return jnp.clip(value, limits.tiny, 1 - limits.epsneg)


class Simplex(AbstractKernel):
    """{log u_k} on the simplex of `size` probabilities: a Dirichlet."""

    size: int = eqx.field(static=True)

    event_ndim: ClassVar[int] = 1
    scales: ClassVar[bool] = False

    @property
    def width(self) -> int:
        """One feature a component."""
        return self.size

    @property
    def name(self) -> str:
        """Dirichlet."""
        return "dirichlet"

    @property
    def describe(self) -> tuple[str, ...]:
        """One logarithm a component."""
        return ("log u_k",)

    def features(self, value: Array) -> Array:
        """(log u_1, ..., log u_K)."""
        return jnp.log(value)

    def points(self) -> np.ndarray:
        """The centre, and points scattered about it."""
        count = 2 * (self.size + 1)
        weights = 1 + np.random.default_rng(0).random((count, self.size))
        weights[0] = 1.0
        return weights / weights.sum(-1, keepdims=True)

    def log_normaliser(self, eta: Array) -> Array:
        """Σ log Γ(α_k) - log Γ(Σ α_k)."""
        return jnp.sum(gammaln(eta + 1), -1) - gammaln(jnp.sum(eta + 1, -1))

    def mode(self, eta: Array) -> Array:
        """η / Σ η; where no η is positive, the corner of highest density."""
        counts = jnp.maximum(eta, 0)
        total = jnp.sum(counts, -1, keepdims=True)
        corner = jax.nn.one_hot(jnp.argmax(eta, -1), self.size, dtype=eta.dtype)
        flat = jnp.all(eta == 0, -1, keepdims=True)
        ends = jnp.where(flat, 1 / self.size, corner)
        found = jnp.maximum(jnp.where(total > 0, counts / jnp.where(total > 0, total, 1), ends), _SMALLEST)
        return found / jnp.sum(found, -1, keepdims=True)

    def distribution(self, eta: Array) -> Any:
        """Dirichlet."""
        return dist.Dirichlet(eta + 1, validate_args=False)

    def inside(self, value: Array) -> Array:
        """No component is 0."""
        return jnp.maximum(value, jnp.finfo(value.dtype).tiny)


class Direction(AbstractKernel):
    """{cos u, sin u} on the circle: a von Mises."""

    event_ndim: ClassVar[int] = 0
    scales: ClassVar[bool] = False

    @property
    def width(self) -> int:
        """Two features."""
        return 2

    @property
    def name(self) -> str:
        """Von Mises."""
        return "von mises"

    @property
    def describe(self) -> tuple[str, ...]:
        """The components of a unit vector."""
        return ("cos u", "sin u")

    def features(self, value: Array) -> Array:
        """(cos u, sin u)."""
        return stack(jnp.cos(value), jnp.sin(value))

    def points(self) -> np.ndarray:
        """Around the circle."""
        return np.array([0.0, 1.0, 2.0, 3.0, -1.0, -2.0])

    def _concentration(self, eta: Array) -> Array:
        return jnp.sqrt(jnp.maximum(jnp.sum(eta**2, -1), jnp.finfo(eta.dtype).tiny))

    def log_normaliser(self, eta: Array) -> Array:
        """log 2π I₀(κ), with I₀(κ) = e^κ i0e(κ)."""
        kappa = self._concentration(eta)
        return math.log(2 * math.pi) + jnp.log(i0e(kappa)) + kappa

    def mode(self, eta: Array) -> Array:
        """The direction of the resultant."""
        cosine, sine = unstack(eta)
        return jnp.arctan2(sine, cosine)

    def distribution(self, eta: Array) -> Any:
        """VonMises."""
        return dist.VonMises(self.mode(eta), self._concentration(eta), validate_args=False)

    def inside(self, value: Array) -> Array:
        """The circle has no boundary."""
        return value


def kernel_of(conditional: Conditional | None, power: float = 1.0, size: int = 1) -> AbstractKernel | None:
    """The kernel of u where a factor has this conditional of c · u^power; None if none is integrated here.

    Args:
        conditional: of an argument or a value.
        power: exponent of the unknown in it; only powers may be other than 1.
        size: length of the event, where there is one.
    """
    if isinstance(conditional, LogPower | InverseMatrix):
        exponent = exponent_of(conditional) * power
        # A power such as -1/1.5 has the digits of float32 where that is JAX's precision.
        whole = round(exponent)
        return Power(float(whole)) if abs(whole) == 1 and abs(exponent - whole) < 1e-6 else None
    if getattr(conditional, "logits", False):
        return None
    if isinstance(conditional, LogOdds):
        return Odds()
    if isinstance(conditional, LogSimplex):
        return Simplex(size=size)
    return Direction() if isinstance(conditional, Circular) else None


_MATRICES = {"precision": 1.0, "covariance": -1.0, "cholesky": -2.0}
"""The power of a number times a matrix in the precision."""


def exponent_of(conditional: LogPower | InverseMatrix) -> float:
    """Of a positive number v that multiplies the argument: it enters through log v and v^e."""
    return conditional.exponent if isinstance(conditional, LogPower) else _MATRICES[conditional.form]


def multiplied(conditional: LogPower | InverseMatrix | Quadratic, argument: Array) -> LogPower | Quadratic:
    """The conditional of a number v that multiplies the argument, at v = 1."""
    if isinstance(conditional, Quadratic):
        return Quadratic(conditional.precision * argument**2, conditional.linear * argument)
    if isinstance(conditional, LogPower):
        power = conditional.power * jnp.asarray(argument) ** conditional.exponent
        return LogPower(conditional.log, power, conditional.exponent)
    exponent = exponent_of(conditional)
    root = jnp.asarray(argument)
    root = root if conditional.form == "cholesky" else jnp.linalg.cholesky(root)
    if conditional.form == "precision":
        trace = jnp.sum(root * jnp.einsum("...ij,...jk->...ik", conditional.scatter, root), (-2, -1))
    else:
        eye = jnp.broadcast_to(jnp.eye(root.shape[-1], dtype=root.dtype), root.shape)
        inverse = jax.scipy.linalg.solve_triangular(root, eye, lower=True)
        trace = jnp.sum(inverse * jnp.einsum("...ij,...jk->...ik", inverse, conditional.scatter), (-2, -1))
    return LogPower(conditional.count * (exponent * root.shape[-1] / 2), -trace / 2, exponent)


def coefficients_of(conditional: Any) -> Array:
    """A conditional's coefficients of the argument's own features, on a trailing axis."""
    if isinstance(conditional, LogPower):
        return stack(conditional.log, conditional.power)
    if isinstance(conditional, Quadratic):
        return stack(conditional.linear, -conditional.precision / 2)
    if isinstance(conditional, Bounding):
        return jnp.asarray(conditional.log)[..., None]
    if isinstance(conditional, LogOdds):
        return stack(conditional.successes, conditional.failures)
    if isinstance(conditional, Circular):
        return stack(conditional.cosine, conditional.sine)
    if isinstance(conditional, InverseMatrix):
        row, column = np.triu_indices(conditional.scatter.shape[-1])
        half = conditional.scatter[..., row, column] * np.where(row == column, -0.5, -1.0)
        sign = 0.5 if conditional.form == "precision" else -0.5
        count = jnp.broadcast_to(conditional.count, half.shape[:-1])
        return jnp.concatenate([sign * count[..., None], half], -1)
    assert isinstance(conditional, LogSimplex)
    return jnp.asarray(conditional.counts)


class PositiveDensity(dist.Distribution):
    """p(u) ∝ exp ⟨η, φ(u)⟩ on positive numbers, φ₁ = log u: what `posterior` returns where NumPyro has no distribution.

    Args:
        eta: (..., coefficients, and bounds where the kernel has them).
    """

    support = constraints.positive  # type: ignore[assignment]
    kernel: ClassVar[AbstractKernel]

    def __init__(self, eta: Array) -> None:
        self.eta = jnp.asarray(eta)
        dist.Distribution.__init__(self, batch_shape=self.eta.shape[:-1], validate_args=False)

    def _moment(self, power: int) -> Array:
        """E[u^power] = Z(η₁ + power, ...) / Z(η); ∞ where it diverges."""
        raised = self.kernel.log_normaliser(self.eta.at[..., 0].add(power))
        return jnp.exp(raised - self.kernel.log_normaliser(self.eta))

    @property
    def mean(self) -> Array:
        """E[u]."""
        return self._moment(1)

    @property
    def variance(self) -> Array:
        """E[u²] - E[u]²."""
        return self._moment(2) - self._moment(1) ** 2
