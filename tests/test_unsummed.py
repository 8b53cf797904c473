"""Factors that are sums over rows: derived as if they had been written row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro.distributions import constraints

import autoem
from autoem._types import Refusal

RNG = np.random.default_rng(5)
COUNTS = np.concatenate([RNG.poisson(1.0, 20), RNG.poisson(6.0, 20)])
WIDE, LATE = RNG.normal(size=12), RNG.random(40) < 0.3
RATES = {"rate": jnp.array([1.5, 5.0])}


def rates():
    rate = numpyro.param("rate", RATES["rate"], constraint=constraints.positive)
    with numpyro.plate("n", len(COUNTS)):
        return rate, numpyro.sample("z", dist.Categorical(jnp.array([0.4, 0.6])))


def whole():
    rate, z = rates()
    numpyro.factor("ll", jnp.sum(dist.Poisson(rate[z]).log_prob(COUNTS)))


def two_sums():
    """As with censored data: some rows by the density, others by the survival function; a constant beside."""
    rate, z = rates()
    terms = dist.Poisson(rate[z]).log_prob(COUNTS)
    numpyro.factor("ll", jnp.sum(jnp.where(LATE, 0.0, terms)) + 1.5 - jnp.sum(jnp.where(LATE, rate[z], 0.0)))


def negative():
    rate, z = rates()
    numpyro.factor("ll", -(-dist.Poisson(rate[z]).log_prob(COUNTS)).sum())


def scaled():
    rate, z = rates()
    with numpyro.handlers.scale(scale=0.5):
        numpyro.factor("ll", jnp.sum(dist.Poisson(rate[z]).log_prob(COUNTS)))


def by_row(log_f):
    """Σ_n log Σ_k π_k f_k(x_n), summed out by hand."""
    return jnp.sum(jax.nn.logsumexp(jnp.log(jnp.array([0.4, 0.6]))[:, None] + log_f, axis=0))


def expected(model, rate):
    poisson = dist.Poisson(rate[:, None]).log_prob(COUNTS)
    if model is two_sums:
        return 1.5 + by_row(jnp.where(LATE, -rate[:, None], poisson))
    return by_row(poisson / 2 if model is scaled else poisson)


@pytest.mark.parametrize("model", [whole, two_sums, negative, scaled], ids=lambda m: m.__name__)
def test_a_sum_over_rows_is_a_factor_per_row(model):
    em = autoem.EM(model)
    derivation = em.derive()
    assert derivation.exact
    value, score = jax.value_and_grad(em.log_likelihood)(RATES)
    assert_allclose(value, expected(model, RATES["rate"]), rtol=1e-10)
    assert_allclose(score["rate"], jax.grad(lambda r: expected(model, r))(RATES["rate"]), rtol=1e-8)
    assert em.posterior(RATES)["z"].batch_shape == (40,)
    result = em.run(jax.random.PRNGKey(0), 200, progress_bar=False)  # with the certificate
    assert result.converged
    slope = jax.grad(lambda r: expected(model, r))(result.params["rate"])
    assert_allclose(slope, 0.0, atol=1e-4)


def test_a_sum_over_rows_leaves_quadrature_its_cells():
    """Gamma frailties by group: thirty integrals over one number, not one over thirty."""

    def frailty(summed):
        shape = numpyro.param("shape", 2.0, constraint=constraints.positive)
        with numpyro.plate("group", 4):
            u = numpyro.sample("u", dist.Gamma(shape, shape))
        terms = jnp.log(u[jnp.arange(12) % 4]) - u[jnp.arange(12) % 4] * jnp.exp(WIDE)
        numpyro.factor("ll", jnp.sum(terms) if summed else terms)

    em, params = autoem.EM(frailty), {"shape": 1.7}
    assert_allclose(em.log_likelihood(params, True), em.log_likelihood(params, False), rtol=1e-12)


def test_what_is_no_sum_stays_whole():
    """log Σ exp over rows: all latents meet in it, and the sum over their 2^40 values is not done."""

    def model():
        rate, z = rates()
        numpyro.factor("ll", jax.nn.logsumexp(dist.Poisson(rate[z]).log_prob(COUNTS)))

    with pytest.raises(Refusal):
        autoem.EM(model).derive()
