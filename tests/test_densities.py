"""Log densities that NumPyro's own lose digits in, against SciPy; and the fit that needs them."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from autoem._densities import log_density, whole_density

RNG = np.random.default_rng(0)
COUNTS = RNG.integers(0, 40, size=60)


@pytest.mark.parametrize("shape", [0.05, 2.264, 30.0, 400.0])
def test_negative_binomials(shape):
    mean = RNG.uniform(0.2, 20.0, size=60)
    expected = stats.nbinom.logpmf(COUNTS, shape, shape / (shape + mean))
    assert_allclose(log_density(dist.NegativeBinomial2(mean, shape), COUNTS), expected, rtol=1e-10, atol=1e-10)
    assert_allclose(log_density(dist.GammaPoisson(shape, shape / mean), COUNTS), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("a,b", [(0.3, 0.7), (2.0, 5.0), (80.0, 30.0)])
def test_beta_binomials(a, b):
    expected = stats.betabinom.logpmf(COUNTS, 40, a, b)
    assert_allclose(log_density(dist.BetaBinomial(a, b, 40), COUNTS), expected, rtol=1e-10, atol=1e-10)


def test_what_numpyro_says_where_it_is_right():
    x = RNG.normal(size=5)
    assert_allclose(log_density(dist.Normal(0.3, 2.0), x), dist.Normal(0.3, 2.0).log_prob(x), rtol=0)
    grad = jax.grad(lambda a: log_density(dist.GammaPoisson(a, 1.5), 3))(2.0)
    step = 1e-6
    low, high = (stats.nbinom.logpmf(3, 2.0 + s, 1.5 / 2.5) for s in (-step, step))
    assert_allclose(grad, (high - low) / (2 * step), rtol=1e-6)


def test_wrappers_are_kept():
    mean, mask = RNG.uniform(0.2, 20.0, size=(3, 4)), RNG.random((3, 4)) < 0.6
    fn, counts = dist.NegativeBinomial2(mean, 2.5).mask(mask).to_event(1), COUNTS[:12].reshape(3, 4)
    expected = np.where(mask, stats.nbinom.logpmf(counts, 2.5, 2.5 / (2.5 + mean)), 0.0).sum(-1)
    assert_allclose(whole_density(fn, counts), expected, rtol=1e-10)
    plain = dist.Poisson(mean).mask(mask).to_event(1)
    assert_allclose(whole_density(plain, counts), plain.log_prob(counts), rtol=0)
