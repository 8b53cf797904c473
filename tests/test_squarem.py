"""Extrapolated EM: the same optimum in fewer steps, an objective that never falls, and an honest end."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro import handlers
from numpyro.distributions import constraints

import autoem
from autoem._squarem import SECOND, TRIAL, Squared, after_step, shaped

KEY = jax.random.PRNGKey(0)
QUIET = {"progress_bar": False}
DEATHS = np.arange(10), np.array([162.0, 267, 271, 185, 111, 61, 27, 8, 3, 1])


def deaths(count, days):
    weights = numpyro.param("weights", jnp.array([0.5, 0.5]), constraint=constraints.simplex)
    rates = numpyro.param("rates", jnp.array([1.0, 3.0]), constraint=constraints.positive)
    with numpyro.plate("number", len(count)), handlers.scale(scale=days):
        season = numpyro.sample("season", dist.Categorical(weights))
        numpyro.sample("deaths", dist.Poisson(rates[season]), obs=count)


def test_a_slow_fit_is_extrapolated_without_being_asked():
    """Hasselblad's optimum, where EM's rate is 0.99567."""
    plain, ours = (autoem.EM(deaths, acceleration=a).run(KEY, 20_000, *DEATHS, **QUIET) for a in (False, True))
    assert plain.converged and ours.converged
    assert ours.num_steps < plain.num_steps / 5
    assert_allclose(ours.log_likelihood[-1], -1989.945860, atol=1e-6)
    assert_allclose(np.sort(ours.params["rates"]), [1.256095, 2.663404], rtol=1e-5)
    assert np.min(np.diff(ours.objective)) >= -1e-12 * abs(ours.objective[-1])
    assert_allclose(ours.objective[:51], plain.objective[:51], rtol=1e-12)
    assert "squared extrapolation" in str(ours.derivation) and "squared extrapolation" not in str(plain.derivation)


def correlated(x):
    """A prior, a bound, a covariance and a probability that is exactly zero."""
    weights = numpyro.param("weights", jnp.array([0.6, 0.4, 0.0]), constraint=constraints.simplex)
    locs = numpyro.sample("locs", dist.Normal(jnp.zeros((3, 2)), 3.0))
    covariance = numpyro.param("covariance", jnp.eye(2), constraint=constraints.positive_definite)
    share = numpyro.param("share", 0.5, constraint=constraints.interval(0.1, 0.9))
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("flag", dist.Bernoulli(share), obs=np.arange(len(x)) % 3 == 0)
        numpyro.sample("x", dist.MultivariateNormal(locs[z], covariance), obs=x)


def _blobs():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(-0.7, 1.0, (60, 2)), rng.normal(0.7, 1.0, (60, 2))])


def test_priors_constraints_and_zeros_are_kept():
    x, start = _blobs(), {"locs": np.array([[-1.0, 0.0], [1.0, 0.5], [0.0, 3.0]])}
    fits = [autoem.EM(correlated, maximize=["locs"], acceleration=a) for a in (False, autoem.SQUAREM())]
    plain, ours = (em.run(KEY, 20_000, x, init_params=start, **QUIET) for em in fits)
    assert plain.converged and ours.converged and ours.num_steps < plain.num_steps / 2
    assert_allclose(ours.objective[-1], plain.objective[-1], atol=1e-6)
    assert np.min(np.diff(ours.objective)) >= -1e-12 * abs(ours.objective[-1])
    assert float(ours.params["weights"][2]) == 0.0
    assert_allclose(np.sum(ours.params["weights"]), 1.0, rtol=1e-12)
    assert_allclose(ours.params["share"], 1 / 3, rtol=1e-6)
    gradient = jax.grad(lambda c: fits[1].log_likelihood({**ours.params, "covariance": (c + c.T) / 2}, x))(
        ours.params["covariance"]
    )
    assert_allclose(gradient, 0, atol=1e-3)


@pytest.mark.slow
def test_restarts_are_extrapolated_each_on_its_own():
    em = autoem.EM(correlated, maximize=["locs"], acceleration=autoem.SQUAREM())
    together = em.run(KEY, 500, _blobs(), num_restarts=3, **QUIET)
    assert together.restarts.shape == (3,) and together.converged
    assert_allclose(together.log_likelihood[-1], together.restarts.max(), atol=1e-6)


def test_running_out_of_steps_never_returns_an_untried_point():
    em = autoem.EM(deaths, acceleration=autoem.SQUAREM())
    for steps in range(1, 12):
        result = em.run(KEY, steps, *DEATHS, **QUIET)
        assert result.status is autoem.Status.MAX_STEPS and len(result.objective) == steps
        assert float(em.log_likelihood(result.params, *DEATHS)) >= float(result.log_likelihood[-1]) - 1e-9


def test_update_is_one_plain_step():
    states = []
    for acceleration in (False, autoem.SQUAREM()):
        em = autoem.EM(deaths, acceleration=acceleration)
        step = jax.jit(lambda state, em=em: em.update(state, *DEATHS)[0])
        state = em.init(KEY, *DEATHS)
        for _ in range(5):
            state = step(state)
        states.append(state.params)
    assert_allclose(states[0]["rates"], states[1]["rates"], rtol=1e-14)


def test_a_cycle_is_the_published_one():
    """A linear map in two dimensions: |r| / |v| by hand; a point that is refused leads back to θ₂."""
    squared, rate = Squared({"u": constraints.real_vector}, 0), np.array([0.9, 0.5])
    points = [np.array([1.0, 1.0]) * rate**i for i in range(3)]
    memory = squared.start({"u": jnp.asarray(points[0])})._replace(bound=jnp.asarray(64.0))
    good = jnp.asarray(True)
    for old, new in ((0, 1), (1, 2)):
        moved, memory, refused = after_step(squared, memory, {"u": points[old]}, {"u": jnp.asarray(points[new])}, good)
        assert not refused
        assert int(memory.phase) == (SECOND if old == 0 else TRIAL)
    r, v = points[1] - points[0], points[2] - 2 * points[1] + points[0]
    alpha = np.linalg.norm(r) / np.linalg.norm(v)
    at = shaped(moved, {"u": points[0]})
    assert_allclose(at["u"], points[0] + 2 * alpha * r + alpha**2 * v, rtol=1e-12)
    assert_allclose(memory.slowness, alpha, rtol=1e-12)
    back, memory, refused = after_step(squared, memory, at, at, ~good)
    assert refused and float(memory.bound) == 16.0
    assert_allclose(back, points[2])


def test_what_cannot_be_honoured_is_an_error():
    def logistic(x):
        mu = numpyro.param("mu", 0.0)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(mu, 1.0))
            numpyro.sample("x", dist.Bernoulli(logits=z), obs=x)

    x = np.array([0, 1, 1])
    sampled = autoem.EM(logistic, e_step={"z": autoem.MonteCarlo()}, acceleration=autoem.SQUAREM())
    with pytest.raises(ValueError, match=r"'z'.*sampled"):
        sampled.derive(x)
    with pytest.raises(TypeError, match="acceleration= wants"):
        autoem.EM(logistic, acceleration="squarem")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="negative"):
        autoem.SQUAREM(after=-1)
