"""Chains of discrete latents against brute force over all paths, with NumPyro's own densities."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from chain_zoo import CASES, SIMPLEX
from numpy.testing import assert_allclose
from numpyro.contrib.control_flow import scan

import autoem
from tests.oracle import Oracle
from tests.test_random_models import check_ascent, check_e_step

KEY = jax.random.key(0)


QUICK = {"ragged_sequences"}
"""Each mechanism once; the others run in `make slow`."""


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_against_all_paths(name):
    case = CASES[name]()
    maximize = [n for n in case.params if n in ("phi", "rho")] if name == "capture_recapture" else None
    if name == "autoregressive_tones":
        maximize = ["A", "p"]
    em = autoem.EM(case.model, maximize=maximize, check=True)
    params = {n: jnp.asarray(v, float) for n, v in case.params.items()}
    oracle = Oracle(case.model, case.args, params=params)
    derivation = em.derive(*case.args)
    check_e_step(em, oracle, params, case.args, {})
    assert derivation.exact
    assert {n for n, f in derivation.params.items() if f.method == "closed form"} >= set(case.closed)
    state = em.init(KEY, *case.args, init_params=params)
    step = jax.jit(lambda s: em.update(s, *case.args))
    check_ascent(em, oracle, state, step, 8)
    with warnings.catch_warnings():  # some of these few data are fitted best on the boundary
        warnings.filterwarnings("ignore", "Parameter .* has its mode on the boundary")
        result = em.run(KEY, 5, *case.args, init_params=params, progress_bar=False)  # the certificate is run, too
    assert np.all(np.diff(result.objective) > -1e-9)
    assert_allclose(result.log_likelihood[0], oracle.log_likelihood(params), rtol=1e-9)


def switching_level(y):
    A = numpyro.param("A", jnp.ones((2, 2)) / 2, constraint=SIMPLEX)

    def step(carry, y_t):
        k, level = carry
        k = numpyro.sample("k", dist.Categorical(A[k]))
        level = numpyro.sample("level", dist.Normal(level, 1.0 + k))
        numpyro.sample("y", dist.Normal(level, 1.0), obs=y_t)
        return (k, level), None

    scan(step, (0, 0.0), y)


def parameter_inside(y):
    def step(z, y_t):
        mu = numpyro.param("mu", jnp.zeros(2))
        z = numpyro.sample("z", dist.Categorical(jnp.array([[0.8, 0.2], [0.3, 0.7]])[z]))
        numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y_t)
        return z, None

    scan(step, 0, y)


def plain_chain(y):
    A = numpyro.param("A", jnp.array([[0.8, 0.2], [0.3, 0.7]]), constraint=SIMPLEX)

    def step(z, y_t):
        z = numpyro.sample("z", dist.Categorical(A[z]))
        numpyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y_t)
        return z, None

    scan(step, 0, y)


def mask_around(y):
    with numpyro.handlers.mask(mask=False):
        plain_chain(y)


def scaled(y):
    """What the latents share is a power of the evidence, not of its factors."""
    A = numpyro.param("A", jnp.array([[0.8, 0.2], [0.3, 0.7]]), constraint=SIMPLEX)

    def step(z, y_t):
        with numpyro.handlers.scale(scale=2.0):
            z = numpyro.sample("z", dist.Categorical(A[z]))
            numpyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y_t)
        return z, None

    scan(step, 0, y)


def backwards(y):
    A = numpyro.param("A", jnp.array([[0.8, 0.2], [0.3, 0.7]]), constraint=SIMPLEX)

    def step(z, y_t):
        z = numpyro.sample("z", dist.Categorical(A[z]))
        numpyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y_t)
        return z, None

    scan(step, 0, y, reverse=True)


def level_backwards(y):
    scale = numpyro.param("scale", 1.0, constraint=dist.constraints.positive)

    def step(level, y_t):
        level = numpyro.sample("level", dist.Normal(level, scale))
        numpyro.sample("y", dist.Normal(level, 1.0), obs=y_t)
        return level, None

    scan(step, numpyro.sample("start", dist.Normal(0.0, 9.0)), y, reverse=True)


def accumulated(y):
    """The state grows with every latent: each step depends on all before it."""
    A = numpyro.param("A", jnp.array([0.8, 0.2]), constraint=SIMPLEX)

    def step(total, y_t):
        z = numpyro.sample("z", dist.Categorical(A))
        numpyro.sample("y", dist.Normal(1.0 * total + z, 1.0), obs=y_t)
        return total + z, None

    scan(step, 0, y)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (switching_level, "mixture over all"), (parameter_inside, "declare it before the scan"),
        (mask_around, "put it inside the step"), (scaled, "has a scale"), (backwards, "scan forwards"),
        (level_backwards, "scan forwards"), (accumulated, "several elements of the latent 'z'"),
    ],
)  # fmt: skip
def test_what_is_not_a_chain_is_refused(model, what):
    with pytest.raises(NotImplementedError, match=what):
        autoem.EM(model, maximize=None).derive(np.array([0.1, 1.9, 2.1]))


@pytest.mark.slow
def test_a_state_that_begins_as_a_narrower_integer():
    """As published models write it for single precision: with 64 bits NumPyro's draws do not fit into it."""

    def model(y, width):
        A = numpyro.param("A", jnp.array([[0.8, 0.2], [0.3, 0.7]]), constraint=SIMPLEX)
        locs = numpyro.param("locs", jnp.array([0.0, 2.0]))

        def step(carry, y_t):
            z, t = carry
            z = numpyro.sample("z", dist.Categorical(A[z]))
            numpyro.sample("y", dist.Normal(locs[z], 1.0), obs=y_t)
            return (z, t + 1), None

        scan(step, (jnp.zeros((), width), 0), y)

    y = np.array([0.1, 1.9, 2.1, -0.4])
    narrow, wide = (autoem.EM(model, check=True).run(KEY, 3, y, w, progress_bar=False) for w in (jnp.int32, jnp.int64))
    assert_allclose(narrow.log_likelihood, wide.log_likelihood, rtol=1e-12)


def test_a_scale_of_the_observations_alone_is_their_power():
    def model(y):
        A = numpyro.param("A", jnp.ones((2, 2)) / 2, constraint=SIMPLEX)

        def step(z, y_t):
            z = numpyro.sample("z", dist.Categorical(A[z]))
            with numpyro.handlers.scale(scale=3.0):
                numpyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y_t)
            return z, None

        scan(step, 0, y)

    y, params = np.array([0.1, 1.9, 2.1, 0.3]), {"A": jnp.array([[0.8, 0.2], [0.3, 0.7]])}
    expected = Oracle(model, (y,), params=params).log_likelihood(params)
    assert_allclose(autoem.EM(model).log_likelihood(params, y), expected, rtol=1e-12)


def test_an_outlier_that_underflows_a_scaled_step_is_no_obstacle():
    """The second datum rules the likelier state out: its probability is e^-2000 of the other's."""
    y = np.array([0.0, 2000.0, 0.0])
    params = {"A": jnp.array([[1.0 - 1e-12, 1e-12], [0.5, 0.5]])}
    em = autoem.EM(plain_chain)
    found = em.log_likelihood(params, y)
    assert_allclose(found, Oracle(plain_chain, (y,), params=params).log_likelihood(params), rtol=1e-12)
    gradient = jax.grad(lambda p: em.log_likelihood(p, y))(params)["A"]
    assert np.all(np.isfinite(gradient))


def test_restarts_and_single_precision(x32):
    rng = np.random.default_rng(0)
    y = (rng.normal(size=60) + 2 * (np.arange(60) // 15 % 2)).astype(np.float32)
    result = autoem.EM(plain_chain).run(KEY, 200, y, progress_bar=False)
    assert result.converged
    assert result.params["A"].dtype == jnp.float32
    wide = autoem.EM(plain_chain).log_likelihood(result.params, y)
    assert_allclose(result.log_likelihood[-1], wide, rtol=1e-5)
