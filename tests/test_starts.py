"""Starts that nobody gave: from data where a prior is vague; and what a fit does that starts at a saddle."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro.contrib.control_flow import scan

import autoem
import autoem._evidence.enumerate as engine

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(m, 3.0, 40) for m in (20.0, 50.0, 80.0)])
QUIET = {"progress_bar": False}


def vague(x, components=3):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(components)))
    with numpyro.plate("component", components):
        locs = numpyro.sample("locs", dist.Normal(0.0, 1000.0))
    scale = numpyro.sample("scale", dist.HalfNormal(100.0))
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)


@pytest.mark.parametrize("seed", range(3))
def test_no_component_dies_of_a_vague_prior(seed):
    result = autoem.EM(vague, maximize="global").run(jax.random.PRNGKey(seed), 500, X, **QUIET)
    assert result.converged
    assert_allclose(np.sort(result.params["locs"]), X.reshape(3, 40).mean(1), atol=0.05)
    assert_allclose(result.params["weights"], 1 / 3, atol=0.01)


def test_restarts_hold_starts_from_data():
    result = autoem.EM(vague, maximize="global").run(jax.random.PRNGKey(3), 500, X, num_restarts=4, **QUIET)
    assert_allclose(np.sort(result.params["locs"]), X.reshape(3, 40).mean(1), atol=0.05)


def test_an_informative_prior_keeps_its_labels():
    """The components are told apart by their priors only: data alone would as soon swap them."""

    def labelled(x):
        locs = numpyro.sample("locs", dist.Normal(jnp.array([80.0, 20.0, 50.0]), 2.0).to_event(1))
        scale = numpyro.sample("scale", dist.HalfNormal(10.0))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
            numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)

    result = autoem.EM(labelled, maximize="global").run(jax.random.PRNGKey(0), 500, X, **QUIET)
    assert_allclose(result.params["locs"], X.reshape(3, 40).mean(1)[[2, 0, 1]], atol=0.5)


def test_params_and_given_values_are_left_alone():
    def model(x):
        locs = numpyro.param("locs", jnp.array([10.0, 11.0, 12.0]))
        scale = numpyro.sample("scale", dist.HalfNormal(10.0))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
            numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)

    em = autoem.EM(model, maximize="global")
    key = jax.random.PRNGKey(0)
    first = em.run(key, 1, X, init_params={"scale": 5.0}, **QUIET).log_likelihood[0]
    assert_allclose(first, em.log_likelihood({"locs": jnp.array([10.0, 11.0, 12.0]), "scale": 5.0}, X), rtol=1e-10)
    state = em.init(key, X)
    seen = []

    def run(machine, states, steps):
        seen.extend(s.params for s in states)
        return autoem._loop.loop(machine, states, steps, None, False)

    (start,) = autoem._em.started(em.derive(X), [state], run)
    assert all(np.array_equal(p["locs"], [10.0, 11.0, 12.0]) for p in seen)
    assert len({float(p["scale"]) for p in seen}) > 2
    assert any(float(start.params["scale"]) == float(p["scale"]) for p in seen)


def test_a_draw_that_makes_the_data_impossible_is_replaced():
    def model(x, y):
        beta = numpyro.sample("beta", dist.Normal(0.0, 1e4).expand([2]).to_event(1))
        numpyro.sample("y", dist.Poisson(jnp.exp(beta[0] + beta[1] * x)), obs=y)

    x = RNG.normal(size=100)
    y = RNG.poisson(np.exp(0.5 + 0.7 * x))
    result = autoem.EM(model, maximize="global").run(jax.random.PRNGKey(0), 200, x, y, **QUIET)
    assert result.converged
    design = np.stack([np.ones_like(x), x], -1)
    score = design.T @ (y - np.exp(design @ np.asarray(result.params["beta"])))
    assert_allclose(score, 0, atol=1e-5)


@pytest.mark.parametrize("chunk", [2**17, 64])
def test_statistics_of_given_weights(chunk, monkeypatch):
    """Against sums written out: weights of values instead of a posterior, in one piece and in chunks."""
    monkeypatch.setattr(engine, "_CHUNK", chunk)
    x = RNG.normal(size=400)
    weights = RNG.uniform(size=(3, 400))
    derivation = autoem.EM(vague, maximize="global").derive(x)
    (evidence,) = derivation.machine.evidences
    assert (evidence.layout.chunk is not None) == (chunk == 64)
    params = {"weights": np.ones(3) / 3, "locs": np.array([-1.0, 0.0, 1.0]), "scale": np.array(1.0)}
    params = {n: params[n] for n in derivation.model.parameters}
    _, found = evidence.expected_statistics(derivation.machine.complete.inputs(params), None, {"z": weights})
    sites = dict(zip((f.site for f in evidence.factors), found, strict=True))
    shift = next(float(np.ravel(f.constants["shift"])[0]) for f in evidence.factors if f.site == "x")
    features = np.stack([np.ones_like(x), x - shift, (x - shift) ** 2], -1)
    assert_allclose(np.reshape(sites["x"], (3, -1)), weights @ features, rtol=1e-9, atol=1e-9)
    assert_allclose(np.reshape(sites["z"], (3, -1)).sum(1), weights.sum(1), rtol=1e-10)


def test_transitions_of_given_weights():
    def model(y):
        A = numpyro.sample("A", dist.Dirichlet(jnp.ones(2)).expand([2]).to_event(1))

        def step(z, y_t):
            z = numpyro.sample("z", dist.Categorical(A[z]))
            numpyro.sample("y", dist.Normal(1.0 * z, 1.0), obs=y_t)
            return z, None

        scan(step, 0, y)

    y = RNG.normal(size=5)
    derivation = autoem.EM(model, maximize="global").derive(y)
    (evidence,) = derivation.machine.evidences
    weights = RNG.uniform(size=(2, 5))
    params = {"A": np.full((2, 2), 0.5)}
    _, found = evidence.expected_statistics(derivation.machine.complete.inputs(params), None, {"z": weights})
    sites = dict(zip((f.site for f in evidence.factors), found, strict=True))
    share, total = weights / weights.sum(0), weights.sum(0)
    expected = sum(np.outer(share[:, t - 1], share[:, t]) * (total[t - 1] + total[t]) / 2 for t in range(1, 5))
    # Rows are the state before, as in A: the order of the reads z[0:4] and z[1:5].
    assert_allclose(np.squeeze(np.asarray(sites["z[1:]"])), expected, rtol=1e-10)


def test_equal_components_are_a_saddle():
    def model(x):
        locs = numpyro.param("locs", jnp.full(2, 40.0))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
            numpyro.sample("x", dist.Normal(locs[z], 10.0), obs=x)

    with pytest.warns(UserWarning, match="saddle.*'locs'"):
        result = autoem.EM(model).run(jax.random.PRNGKey(0), 500, X, **QUIET)
    assert not result.converged
    assert_allclose(result.params["locs"], X.mean(), rtol=1e-6)
    start = {"locs": jnp.array([30.0, 60.0])}
    assert autoem.EM(model).run(jax.random.PRNGKey(0), 500, X, init_params=start, **QUIET).converged


def test_equal_components_may_be_the_maximum():
    """Two components of one normal sample that are no better apart: nudged, the fit comes back."""

    def model(x):
        locs = numpyro.param("locs", jnp.zeros(2))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
            numpyro.sample("x", dist.Normal(locs[z], 2.0), obs=x)

    result = autoem.EM(model).run(jax.random.PRNGKey(0), 500, RNG.normal(size=50), **QUIET)
    assert result.converged
