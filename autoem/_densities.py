"""Log densities that NumPyro computes with JAX's `betaln`, which is off by up to 1e-5 in double precision."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln

from ._types import Array
from ._wrappers import element_shape, peel

_MENDED = (dist.GammaPoisson, dist.BetaBinomial)


def whole_density(fn: Any, value: Any) -> Array:
    """`fn.log_prob(value)` of a wrapped distribution, with the digits of `log_density`."""
    peeled = peel(fn)
    if not isinstance(peeled.base, _MENDED):
        return fn.log_prob(value)
    each = jnp.broadcast_to(log_density(peeled.base, value), element_shape(fn, value))
    each = each if peeled.mask is None else jnp.where(peeled.mask, each, 0.0)
    return jnp.sum(each, tuple(range(each.ndim - peeled.hidden, each.ndim)))


def log_density(fn: Any, value: Any) -> Array:
    """log p(value): NumPyro's own, or the same in log-gamma functions.

    Args:
        fn: a distribution without wrappers.
        value: broadcastable to its elements.
    """
    if isinstance(fn, dist.GammaPoisson):
        return _gamma_poisson(*_reals(fn.concentration, fn.rate, value))
    if isinstance(fn, dist.BetaBinomial):
        return _beta_binomial(*_reals(fn.concentration1, fn.concentration0, fn.total_count, value))
    return fn.log_prob(value)


def _reals(*arrays: Any) -> list[Array]:
    return [jnp.asarray(a, jnp.result_type(float)) for a in arrays]


def _gamma_poisson(shape: Array, rate: Array, count: Array) -> Array:
    """log Γ(a + x) - log Γ(a) - log x! + a log b - (a + x) log(1 + b)."""
    total = shape + count
    choices = gammaln(total) - gammaln(shape) - gammaln(count + 1)
    return choices + shape * jnp.log(rate) - total * jnp.log1p(rate)


def _beta_binomial(a: Array, b: Array, number: Array, count: Array) -> Array:
    """log (n over x) + log B(a + x, b + n - x) - log B(a, b)."""
    rest = number - count
    choices = gammaln(number + 1) - gammaln(count + 1) - gammaln(rest + 1)
    return choices + _log_beta(a + count, b + rest) - _log_beta(a, b)


def _log_beta(a: Array, b: Array) -> Array:
    return gammaln(a) + gammaln(b) - gammaln(a + b)
