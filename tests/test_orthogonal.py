"""Gaussian cells where normal equations have no digits left: against 50-digit arithmetic and dense covariances."""

from decimal import Decimal, getcontext

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import test_gaussian
from numpy.testing import assert_allclose
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints

import autoem
from autoem._evidence import _information

KEY = jax.random.key(0)

getcontext().prec = 50
PI = Decimal("3.14159265358979323846264338327950288419716939937510")


def level(y):
    q = numpyro.param("q", 1.0, constraint=constraints.positive)
    r = numpyro.param("r", 1.0, constraint=constraints.positive)

    def step(carry, now):
        before, first = carry
        z = numpyro.sample("z", dist.Normal(jnp.where(first, 0.0, before), jnp.where(first, 3.0, q)))
        numpyro.sample("y", dist.Normal(z, r), obs=now)
        return (z, False), None

    scan(step, (0.0, True), y)


def filtered_and_smoothed(y, q, r):
    """Log-likelihood, and q and r after one EM step, by the scalar filter and smoother in 50 digits."""
    y, q, r = [Decimal(float(v)) for v in y], Decimal(float(q)) ** 2, Decimal(float(r)) ** 2
    mean, variance, total = Decimal(0), Decimal(9), Decimal(0)
    means, variances = [], []
    for t, value in enumerate(y):
        variance += q if t else 0
        spread, left = variance + r, value - mean
        total -= ((2 * PI * spread).ln() + left**2 / spread) / 2
        mean, variance = mean + variance / spread * left, variance * r / spread
        means.append(mean)
        variances.append(variance)
    of_steps, of_rows = Decimal(0), (y[-1] - mean) ** 2 + variance
    for t in reversed(range(len(y) - 1)):
        gain = variances[t] / (variances[t] + q)
        smooth = means[t] + gain * (mean - means[t])
        own = variances[t] + gain**2 * (variance - variances[t] - q)
        of_steps += (mean - smooth) ** 2 + variance + own - 2 * gain * variance
        mean, variance = smooth, own
        of_rows += (y[t] - mean) ** 2 + variance
    return float(total), float((of_steps / (len(y) - 1)).sqrt()), float((of_rows / len(y)).sqrt())


def one_step_agrees(q, r, length, rtol):
    rng = np.random.default_rng(0)
    y = np.cumsum(rng.normal(size=length)) * q + rng.normal(size=length) * r + 1.0
    y = jnp.asarray(y)
    em, params = autoem.EM(level), {"q": jnp.asarray(q), "r": jnp.asarray(r)}
    new, value = em.update(em.init(KEY, y, init_params=params), y)
    total, of_steps, of_rows = filtered_and_smoothed(np.asarray(y), *(float(params[n]) for n in "qr"))
    assert_allclose(value, total, rtol=rtol)
    assert_allclose(em.get_params(new)["q"], of_steps, rtol=rtol)
    assert_allclose(em.get_params(new)["r"], of_rows, rtol=rtol)
    return em, y, params


def test_a_short_chain_whose_steps_are_nearly_deterministic():
    em, y, params = one_step_agrees(1e-8, 1.0, 12, 1e-13)
    assert em.derive(y).latents["z"].method == "gaussian"  # as one cell, not step by step
    slope = jax.jit(jax.grad(lambda r: em.log_likelihood({**params, "r": r}, y)))(params["r"])
    above, below = (filtered_and_smoothed(y, 1e-8, 1 + e)[0] for e in (1e-5, -1e-5))
    assert_allclose(slope, (above - below) / 2e-5, rtol=1e-7)


@pytest.mark.parametrize("q", [pytest.param(1e-2, marks=pytest.mark.slow), 1e-4])
def test_the_same_in_single_precision(x32, q):
    one_step_agrees(q, 1.0, 12, 5e-6)


def test_groups_that_are_nearly_the_same():
    """Eight schools at a standard deviation between schools of almost zero, where variance components often end."""
    y = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
    sigma = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])

    def model():
        tau = numpyro.param("tau", 1.0, constraint=constraints.positive)
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        with numpyro.plate("schools", 8):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(theta, sigma), obs=y)

    em, tau = autoem.EM(model), 1e-8
    covariance = 25.0 + np.diag(sigma**2 + tau**2)
    expected = dist.MultivariateNormal(jnp.zeros(8), covariance).log_prob(y)
    assert_allclose(jax.jit(em.log_likelihood)({"tau": tau}), expected, rtol=1e-13)
    found = em.posterior({"tau": tau})
    mean, variance = 25.0 * np.sum(np.linalg.solve(covariance, y)), 25 - 625 * np.sum(np.linalg.inv(covariance))
    assert_allclose(found["theta"].mean, mean, rtol=1e-12)
    assert_allclose(found["mu"].mean, mean, rtol=1e-12)
    assert_allclose(found["theta"].variance, variance, rtol=1e-12)


CASES = (
    "unbalanced_slopes",
    "missing_entries",
    "crossed",
    "factor_analysis",
    "correlated_by_covariance",
    "mixture_of_growth_curves",
    "errors_in_variables",
    "areal_effects",
    "state_space_by_scan",
    "nested_masked",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_against_dense_algebra(monkeypatch, name):
    monkeypatch.setattr(_information, "enough", lambda *_: jnp.asarray(False))
    test_gaussian.test_against_dense_algebra(name)


@pytest.mark.parametrize(
    ("form", "last"), [("scale_tril", 1e-10), pytest.param("covariance_matrix", 1e-6, marks=pytest.mark.slow)]
)
def test_an_intercept_and_a_slope_that_are_perfectly_correlated(form, last):
    """The singular fits of lme4. The data's covariance is well-conditioned, and the oracle's; the latents' is not."""
    rng = np.random.default_rng(8)
    group, x = np.repeat(np.arange(6), 4), rng.normal(size=24)
    y = 1 + 0.8 * rng.normal(size=6)[group] * (1 - 0.6 * x) + rng.normal(size=24)
    kind = constraints.lower_cholesky if form == "scale_tril" else constraints.positive_definite

    def model(y):
        matrix = numpyro.param("matrix", jnp.eye(2), constraint=kind)
        s = numpyro.param("s", 1.0, constraint=constraints.positive)
        with numpyro.plate("groups", 6):
            u = numpyro.sample("u", dist.MultivariateNormal(jnp.zeros(2), **{form: matrix}))
        numpyro.sample("y", dist.Normal(1 + u[group, 0] + u[group, 1] * x, s).to_event(1), obs=y)

    def truth(params):
        design = jnp.concatenate([np.eye(6)[group], np.eye(6)[group] * x[:, None]], 1)
        matrix = params["matrix"] @ params["matrix"].T if form == "scale_tril" else params["matrix"]
        covariance = design @ jnp.kron(matrix, jnp.eye(6)) @ design.T + params["s"] ** 2 * jnp.eye(24)
        return dist.MultivariateNormal(jnp.ones(24), covariance).log_prob(y)

    root = jnp.array([[0.8, 0.0], [-0.5, last]])
    params = {"matrix": root if form == "scale_tril" else root @ root.T, "s": jnp.asarray(0.9)}
    em = autoem.EM(model)
    value, slope = jax.jit(jax.value_and_grad(lambda p: em.log_likelihood(p, y)))(params)
    expected, slopes = jax.value_and_grad(truth)(params)
    assert_allclose(value, expected, rtol=1e-12)
    held = np.tril(np.ones((2, 2))) if form == "scale_tril" else np.ones((2, 2))
    assert_allclose(slope["s"], slopes["s"], rtol=1e-9)
    assert_allclose(held * slope["matrix"], held * slopes["matrix"], atol=1e-3)
