"""Conditional log densities of one unknown, by the features through which it enters a factor.

Whatever the pair of distributions, an unknown u that enters a factor only through features f_k(u) has the
log density Σ_k η_k f_k(u) there. The feature set names the conditional, the coefficients η of different
factors add (`+`), and the mode of the sum is the closed-form M-step. Conditionals are elementwise over leading
axes: one conditional per element (or vector, or matrix) of the unknown.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array


class Flat(eqx.Module):
    """A factor that does not depend on the unknown inside its support (a uniform prior)."""

    features: str = eqx.field(static=True, default="1")


class LogPower(eqx.Module):
    """a log u + b u^p for u > 0: a Gamma (p = 1), inverse Gamma (p = -1), scale (p = -2) kernel."""

    log: Array
    power: Array
    exponent: float = eqx.field(static=True)

    @property
    def features(self) -> str:
        """The features by name."""
        return f"log u, u^{self.exponent:g}"


class Bounding(eqx.Module):
    """a log u while u is on its side of a datum: above it (side 1) or below it (side -1), else nothing is possible."""

    log: Array
    side: int = eqx.field(static=True)

    @property
    def features(self) -> str:
        """The features by name."""
        return f"log u, u {'≥' if self.side > 0 else '≤'} x"


class Quadratic(eqx.Module):
    """linear · u - ½ u' precision u. Scalars (`ndim` 0) or vectors with a full precision matrix (`ndim` 1)."""

    precision: Array
    linear: Array
    ndim: int = eqx.field(static=True, default=0)
    features: str = eqx.field(static=True, default="u, uu'")


class LogSimplex(eqx.Module):
    """Σ_k counts_k log p_k for a probability vector p: a Dirichlet kernel. `logits`: p = softmax(u)."""

    counts: Array
    logits: bool = eqx.field(static=True, default=False)
    features: str = eqx.field(static=True, default="log u_k")


class LogOdds(eqx.Module):
    """a log p + b log(1 - p): a Beta kernel. `logits`: p = sigmoid(u)."""

    successes: Array
    failures: Array
    logits: bool = eqx.field(static=True, default=False)
    features: str = eqx.field(static=True, default="log u, log(1-u)")


class InverseMatrix(eqx.Module):
    """-½ count log|Σ| - ½ tr(Σ⁻¹ scatter): an inverse Wishart kernel of the covariance Σ.

    `form` says which matrix the unknown is: "covariance", "precision" or "cholesky" (lower, of Σ).
    """

    count: Array
    scatter: Array
    form: str = eqx.field(static=True, default="covariance")
    features: str = eqx.field(static=True, default="log|Σ|, Σ⁻¹")


class Circular(eqx.Module):
    """a cos u + b sin u: a von Mises kernel of an angle."""

    cosine: Array
    sine: Array
    features: str = eqx.field(static=True, default="cos u, sin u")


class AbsoluteDeviation(eqx.Module):
    """Σ tilt u - weights |points - u|: the mode is a weighted quantile of the points. They are data, no statistic."""

    points: Array
    weights: Array
    tilt: Array
    ndim: int = eqx.field(static=True, default=0)
    features: str = eqx.field(static=True, default="|x-u|")


_NEAR = {"float64": 1e-9, "float32": 1e-5}
"""Distances below this part of their mean are taken to be as long."""


def nearby(conditional: AbsoluteDeviation, current: Array) -> Quadratic:
    """A lower bound that touches at the current u, from |r| ≤ (r²/|r₀| + |r₀|)/2.

    A Laplace variable is a Normal whose variance is exponentially distributed, and this is its EM step (Schlossmacher
    1973; Hunter and Lange 2000 with the tilt). Where a distance is nearly zero its inverse is bounded, and so near a
    datum this is no bound: whoever uses it has to look whether the step went up.
    """
    weights = conditional.weights
    distance = jnp.abs(conditional.points - current)
    mean = jnp.sum(weights * distance) / jnp.maximum(jnp.sum(weights), jnp.finfo(distance.dtype).tiny)
    distance = jnp.maximum(distance, jnp.where(mean > 0, mean * _NEAR[str(distance.dtype)], 1.0))
    precision = weights / distance
    return Quadratic(precision, precision * conditional.points + conditional.tilt)


Conditional = (
    AbsoluteDeviation | Bounding | Flat | LogPower | Quadratic | LogSimplex | LogOdds | InverseMatrix | Circular
)


LOG_ZERO = -1e30
"""Stands for log 0: finite, so that 0 · log 0 = 0 in a matrix product; sums below a tenth of it are read as -inf."""


def safe_log(probability: Any) -> jax.Array:
    """log p, with `LOG_ZERO` and a zero derivative where p = 0."""
    positive = probability > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, probability, 1)), LOG_ZERO)


def symmetrise(matrix: Any) -> jax.Array:
    """The symmetric part of (..., D, D) matrices."""
    return (matrix + jnp.swapaxes(matrix, -1, -2)) / 2
