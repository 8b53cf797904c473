"""Gaussian chains: elimination level by level against dense algebra, and against a covariance filter by hand."""

import warnings

import gaussian_oracle
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from checks import check_evidence
from gaussian_zoo import CASES
from numpy.testing import assert_allclose
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from test_gaussian import posteriors_agree
from test_orthogonal import filtered_and_smoothed, level

import autoem
from autoem import _levels

KEY = jax.random.key(0)


SLOW = (
    "walk_as_one_site",
    "state_space_by_scan",
    "second_order_by_scan",
    "walk_in_a_loop",
    "crossed",
    "state_space_as_one_site",
)


@pytest.fixture
def small(monkeypatch):
    """Chains of any length are eliminated level by level."""
    monkeypatch.setattr(_levels, "SMALLEST", 2)
    monkeypatch.setattr(_levels, "GAIN", 0)


@pytest.mark.parametrize(
    "name",
    [
        "local_level_by_scan",
        *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW),
    ],
)
def test_small_chains_against_dense_algebra(small, name):
    case = CASES[name]()
    em = autoem.EM(case.model, check=True)
    oracle, unravel = gaussian_oracle.evidence(case.model, case.args)
    params = {n: jnp.asarray(v, float) for n, v in case.params.items()}
    (value, (weights, means, covariances)), gradient = oracle(params)
    derivation = em.derive(*case.args)
    assert {f.method for f in derivation.latents.values()} == {"kalman"}
    check_evidence(derivation.machine, params, value, gradient)
    posteriors_agree(em.posterior(params, *case.args), case, unravel, np.exp(weights - value), means, covariances)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = em.run(KEY, 6, *case.args, init_params=case.params, progress_bar=False)  # the certificate is run too
    assert np.all(np.diff(result.objective) > -1e-9 * abs(result.objective[-1]))


def filtered(y, seen, a, q, c, r, m, p):
    """Log-likelihood of a state-space model by the covariance filter, step by step, as in any textbook."""
    total = 0.0
    for t, (value, there) in enumerate(zip(y, seen, strict=True)):
        if t:
            m, p = a @ m, a @ p @ a.T + q
        if there:
            s = c @ p @ c.T + r
            gain = p @ c.T @ np.linalg.inv(s)
            left = value - c @ m
            total -= (left @ np.linalg.solve(s, left) + np.linalg.slogdet(2 * np.pi * s)[1]) / 2
            m, p = m + gain @ left, (np.eye(len(m)) - gain @ c) @ p
    return total


def state_space(y, seen):
    d, p = 2, y.shape[-1]
    A, C = numpyro.param("A", 0.5 * jnp.eye(d)), numpyro.param("C", jnp.ones((p, d)))
    Q = numpyro.param("Q", jnp.eye(d), constraint=constraints.positive_definite)
    R = numpyro.param("R", jnp.eye(p), constraint=constraints.positive_definite)

    def step(carry, now):
        before, first = carry
        y_t, seen_t = now
        loc = jnp.where(first, jnp.ones(d), A @ before)
        z = numpyro.sample("z", dist.MultivariateNormal(loc, jnp.where(first, 2.0 * jnp.eye(d), Q)))
        with numpyro.handlers.mask(mask=seen_t):
            numpyro.sample("y", dist.MultivariateNormal(C @ z, R), obs=y_t)
        return (z, False), None

    scan(step, (jnp.zeros(d), True), (y, seen))


def long_series(length, noise=1.0):
    rng = np.random.default_rng(0)
    y = np.cumsum(rng.normal(size=(length, 3)), 0) * noise
    seen = np.ones(length, bool)
    seen[100:130] = False
    values = {"A": np.array([[0.9, 0.2], [-0.1, 0.8]]), "C": rng.normal(size=(3, 2)),
              "Q": noise**2 * np.array([[1.0, 0.3], [0.3, 0.5]]), "R": np.diag([0.5, 1.0, 2.0])}  # fmt: skip
    return (y, seen), {n: jnp.asarray(v) for n, v in values.items()}


@pytest.mark.slow
def test_a_long_series_against_the_covariance_filter():
    args, params = long_series(400)
    em = autoem.EM(state_space, check=True)
    derivation = em.derive(*args)
    assert derivation.latents["z"].method == "kalman" and "repeats itself" in derivation.latents["z"].reason
    a, c, q, r = (np.asarray(params[n]) for n in ("A", "C", "Q", "R"))
    expected = filtered(*args, a, q, c, r, np.ones(2), 2 * np.eye(2))
    assert_allclose(em.log_likelihood(params, *args), expected, rtol=1e-11)
    result = em.run(KEY, 5, *args, init_params=params, progress_bar=False)
    assert_allclose(result.log_likelihood[0], expected, rtol=1e-11)
    assert np.all(np.diff(result.log_likelihood) > 0)


@pytest.mark.parametrize("order", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_log_likelihood_is_differentiable_in_both_modes(order):
    (y, seen), params = long_series(400)
    em = autoem.EM(state_space)

    def of(scale):
        return em.log_likelihood({**params, "R": params["R"] * scale}, y, seen)

    step, derivative = 1e-4, of if order == 1 else jax.grad(of)
    expected = (derivative(1 + step) - derivative(1 - step)) / (2 * step)
    assert_allclose(jax.grad(derivative)(1.0), expected, rtol=1e-6)
    assert_allclose(jax.jacfwd(derivative)(1.0), expected, rtol=1e-6)


@pytest.mark.slow
def test_a_chain_that_settles_slowly_in_single_precision(x32):
    """Every step changes the factor by less than rounding is allowed to, all of them together by a hundred times."""
    rng = np.random.default_rng(0)
    y = jnp.asarray(1 + np.cumsum(1e-4 * rng.normal(size=20_000)) + rng.normal(size=20_000))
    em, params = autoem.EM(level), {"q": jnp.asarray(1e-4), "r": jnp.asarray(1.0)}
    new, value = em.update(em.init(KEY, y, init_params=params), y)
    total, of_steps, of_rows = filtered_and_smoothed(np.asarray(y), float(params["q"]), 1.0)
    assert_allclose(value, total, rtol=1e-6)
    assert_allclose(em.get_params(new)["r"], of_rows, rtol=1e-6)
    assert_allclose(em.get_params(new)["q"], of_steps, rtol=2e-3)  # differences of numbers around one
