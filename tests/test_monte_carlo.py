"""Sampled latents: answers agree with the exact ones within their own standard errors, and say how large those are."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from quadrature_zoo import CASES

import autoem
from autoem import SAEM, MonteCarlo, Status

KEY = jax.random.key(0)
RNG = np.random.default_rng(8)
ROWS, COLUMNS = (a.ravel() for a in np.meshgrid(np.arange(6), np.arange(5), indexing="ij"))
EFFECTS = RNG.normal(size=6), 0.8 * RNG.normal(size=5)
Y = 1.0 + EFFECTS[0][ROWS] + EFFECTS[1][COLUMNS] + 0.7 * RNG.normal(size=30)
COUNTS = RNG.binomial(1, 1 / (1 + np.exp(-Y)))


def positive(name, value):
    return numpyro.param(name, value, constraint=constraints.positive)


def crossed(y, outcome):
    with numpyro.plate("rows", 6):
        a = numpyro.sample("a", dist.Normal(0.0, positive("s", 1.0)))
    with numpyro.plate("columns", 5):
        b = numpyro.sample("b", dist.Normal(0.0, positive("t", 1.0)))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", outcome(numpyro.param("mu", 0.0) + a[ROWS] + b[COLUMNS]), obs=y)


def linear(y):
    crossed(y, lambda loc: dist.Normal(loc, positive("sigma", 1.0)))


def logistic(y):
    crossed(y, lambda loc: dist.Bernoulli(logits=loc))


def mixture(y):
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(numpyro.param("p", 0.4, constraint=constraints.unit_interval)))
        numpyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y)


def walk(y):
    tau = positive("tau", 1.0)
    state = numpyro.sample("z_0", dist.Normal(0.0, 1.0))
    for t in range(5):
        state = numpyro.sample(f"z_{t + 1}", dist.Normal(state, tau))
        numpyro.sample(f"y_{t}", dist.Poisson(jnp.exp(state)), obs=y[0, 0])


def class_of_items(y):
    """The class of an item meets every person, and that of a person every item."""
    w = numpyro.param("w", jnp.ones(2) / 2, constraint=constraints.simplex)
    with numpyro.plate("items", 4, dim=-1):
        k = numpyro.sample("k", dist.Categorical(w))
    with numpyro.plate("people", 5, dim=-2):
        ability = numpyro.sample("ability", dist.Normal(0.0, 1.0))
    with numpyro.plate("people", 5, dim=-2), numpyro.plate("items", 4, dim=-1):
        numpyro.sample("y", dist.Bernoulli(logits=ability * (1.0 + k)), obs=y)


def deviations(result, exact):
    """Differences from the exact answer, in Monte Carlo standard errors."""
    own = result.monte_carlo.params
    parts = [np.ravel((result.params[n] - exact.params[n]) / own[n]) for n in exact.params]
    return np.concatenate(parts)


def likelihood_deviation(result, exact):
    noise = result.monte_carlo
    return (noise.log_likelihood - float(exact.log_likelihood[-1])) / noise.log_likelihood_error


def poisson(**options):
    case = CASES["poisson_intercepts"]()
    return autoem.EM(case.model, **options), case


@pytest.mark.slow
def test_importance_sampling_agrees_with_quadrature_and_says_how_well():
    em, case = poisson()
    exact = em.run(KEY, 1000, *case.args, progress_bar=False)
    sampled, _ = poisson(e_step={"b": MonteCarlo(num_samples=1024, max_samples=4096)})
    found = sampled.derive(*case.args).latents["b"]
    assert found.method == "monte carlo" and not found.exact and "importance" in found.reason and found.declined
    result = sampled.run(KEY, 200, *case.args, progress_bar=False)
    assert result.status is Status.CONVERGED and result.monte_carlo.left_noise < 5e-3
    assert np.all(np.abs(deviations(result, exact)) < 4)
    assert abs(likelihood_deviation(result, exact)) < 4
    assert result.monte_carlo.effective["b"] > 0.5 * result.monte_carlo.num_samples
    params = exact.params
    assert_allclose(sampled.log_likelihood(params, *case.args), em.log_likelihood(params, *case.args), atol=0.02)
    ours, theirs = (e.standard_errors(params, *case.args) for e in (sampled, em))
    for name in params:
        assert_allclose(ours[name], theirs[name], rtol=0.05)
    ours, theirs = (e.posterior(params, *case.args)["b"] for e in (sampled, em))
    assert_allclose((ours.mean - theirs.mean) / theirs.scale, 0, atol=0.1)
    assert_allclose(ours.scale / theirs.scale, 1, atol=0.1)
    draws = sampled.sample_posterior(KEY, params, *case.args, num_samples=1000)["b"]
    assert draws.shape == (1000, 8)
    assert_allclose((np.mean(draws, 0) - theirs.mean) / theirs.scale, 0, atol=0.2)


@pytest.mark.slow
def test_nuts_agrees_with_the_exact_linear_mixed_model():
    exact = autoem.EM(linear).run(KEY, 2000, Y, progress_bar=False)
    em = autoem.EM(linear, e_step={"a": MonteCarlo(num_samples=1024, max_samples=4096, sampler="nuts")})
    assert "nuts" in str(em.derive(Y)).lower()
    result = em.run(KEY, 300, Y, progress_bar=False)
    assert result.status in (Status.CONVERGED, Status.NOISY)
    noise = result.monte_carlo
    assert set(noise.sampler.values()) == {"nuts"} and max(noise.r_hat.values()) < 1.05
    assert np.all(np.abs(deviations(result, exact)) < 4)
    assert abs(likelihood_deviation(result, exact)) < 4
    posterior, truth = (e.posterior(exact.params, Y) for e in (em, autoem.EM(linear)))
    for name in ("a", "b"):
        assert_allclose((posterior[name].mean - truth[name].mean) / truth[name].variance ** 0.5, 0, atol=0.15)


def test_same_key_same_answer_and_a_pure_update():
    em, case = poisson(e_step={"b": SAEM(num_samples=32, memory=64, burn_in=0)})
    state = em.init(KEY, *case.args)
    update = jax.jit(lambda s: em.update(s, *case.args))
    first, value = update(state)
    again, _ = update(state)
    second, _ = update(first)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert np.isfinite(value) and first.params["tau"] == again.params["tau"] != second.params["tau"]


@pytest.mark.parametrize(
    ("e_step", "told"),
    [
        ({"c": MonteCarlo()}, "not a latent"),
        ({"s": MonteCarlo()}, "'a', 'b'"),
        ({"a": MonteCarlo(), "b": SAEM()}, "mixes"),
        ({"a": MonteCarlo(), "b": MonteCarlo(sampler="nuts")}, "different options"),
        (MonteCarlo(), "exact engine"),
    ],
)
def test_options_that_cannot_be_honoured(e_step, told):
    with pytest.raises(ValueError, match=told):
        autoem.EM(linear, e_step=e_step).derive(Y)


def test_options_that_make_no_sense():
    for make in (
        lambda: MonteCarlo(sampler="gibbs"),
        lambda: MonteCarlo(num_samples=10),
        lambda: MonteCarlo(num_samples=64, num_chains=3),
        lambda: MonteCarlo(num_samples=256, max_samples=128),
        lambda: SAEM(decay=0.5),
        lambda: SAEM(memory=33),
        lambda: SAEM(burn_in=-1),
    ):
        with pytest.raises(ValueError, match=r"MonteCarlo|SAEM"):
            make()
    with pytest.raises(TypeError, match="e_step"):
        autoem.EM(linear, e_step={"a": "nuts"})
    with pytest.raises(ValueError, match="discrete"):
        autoem.EM(mixture, e_step={"z": MonteCarlo()}).derive(Y)
    for option in ("strict", "check"):
        with pytest.raises(NotImplementedError, match=option):
            autoem.EM(logistic, **{option: True}).derive(COUNTS)


def test_crossed_effects_in_a_generalised_model_are_sampled():
    derivation = autoem.EM(logistic).derive(COUNTS)
    assert {f.method for f in derivation.latents.values()} == {"monte carlo"} and not derivation.exact
    assert any("quadrature" in why for why in derivation.latents["a"].declined)
    assert "draws" in derivation.params["s"].reason and not derivation.params["s"].exact
    assert "noise" in str(derivation)


def test_chains_and_discrete_latents_beside_them_are_sampled_too():
    y = np.ones((5, 4), int)
    found = autoem.EM(walk).derive(y).latents
    assert {f.method for f in found.values()} == {"monte carlo"} and "importance" in found["z_0"].reason
    found = autoem.EM(class_of_items).derive(y).latents
    assert found["ability"].method == "monte carlo"
    assert found["k"].method == "enumeration" and "at every draw" in found["k"].reason and not found["k"].exact


def level(y):
    """A linear state space model, by scan."""
    spread = positive("sigma", 0.7)
    first = numpyro.sample("first", dist.Normal(numpyro.param("mu", 0.3), 1.0))

    def step(h, y_t):
        h = numpyro.sample("h", dist.Normal(0.8 * h, spread))
        numpyro.sample("y", dist.Normal(h, 1.0), obs=y_t)
        return h, None

    scan(step, first, y)


def test_latents_of_a_scan_are_sampled_together():
    y = RNG.normal(size=6)
    params = {"mu": jnp.asarray(0.3), "sigma": jnp.asarray(0.7)}
    exact, sampled = autoem.EM(level), autoem.EM(level, e_step={"h": MonteCarlo(sampler="importance")})
    assert set(sampled.derive(y).latents) == {"first", "h"}
    assert_allclose(sampled.log_likelihood(params, y), exact.log_likelihood(params, y), atol=0.05)
    ours, theirs = sampled.decode(params, y), exact.decode(params, y)
    for name in theirs:
        assert_allclose(ours[name], theirs[name], atol=1e-6)


def test_stochastic_volatility_by_scan_is_sampled_and_independent_steps_are_not():
    def volatility(y):
        phi = numpyro.param("phi", 0.9, constraint=constraints.interval(-1.0, 1.0))
        sigma = positive("sigma", 0.3)

        def step(h, y_t):
            h = numpyro.sample("h", dist.Normal(phi * h, sigma))
            numpyro.sample("y", dist.Normal(0.0, jnp.exp(h / 2)), obs=y_t)
            return h, None

        scan(step, numpyro.sample("first", dist.Normal(0.0, 1.0)), y)

    found = autoem.EM(volatility).derive(RNG.normal(size=20)).latents["h"]
    assert found.method == "monte carlo" and "NUTS" in found.reason and "21" in found.declined[1]

    def effects(y):
        rate = numpyro.param("rate", 1.0)

        def step(carry, y_t):
            effect = numpyro.sample("effect", dist.Normal(rate, 1.0))
            numpyro.sample("y", dist.Poisson(jnp.exp(effect)), obs=y_t)
            return carry, None

        scan(step, None, y)

    def side_by_side(y):
        with numpyro.plate("steps", len(y)):
            effect = numpyro.sample("effect", dist.Normal(numpyro.param("rate", 1.0), 1.0))
            numpyro.sample("y", dist.Poisson(jnp.exp(effect)), obs=y)

    params, y = {"rate": jnp.asarray(0.5)}, np.array([0, 3, 1])
    along, beside = autoem.EM(effects), autoem.EM(side_by_side)
    assert along.derive(y).latents["effect"].method == "quadrature"
    assert_allclose(along.log_likelihood(params, y), beside.log_likelihood(params, y), rtol=1e-9)


# ---- slow ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_averaging_over_the_steps_comes_to_the_same():
    em, case = poisson()
    exact = em.run(KEY, 1000, *case.args, progress_bar=False)
    sampled, _ = poisson(e_step={"b": SAEM(num_samples=32, memory=4096, burn_in=60)})
    result = sampled.run(KEY, 500, *case.args, progress_bar=False)
    assert result.status is Status.CONVERGED
    assert np.all(np.abs(deviations(result, exact)) < 4)


@pytest.mark.slow
def test_errors_cover():
    """Over 20 keys the exact answer lies where the standard errors say."""
    em, case = poisson()
    exact = em.run(KEY, 1000, *case.args, progress_bar=False)
    for e_step in (MonteCarlo(max_samples=4096), SAEM(num_samples=32, memory=4096, burn_in=60)):
        sampled, _ = poisson(e_step={"b": e_step})
        fits = [sampled.run(jax.random.key(k), 500, *case.args, progress_bar=False) for k in range(20)]
        away = np.stack([deviations(f, exact) for f in fits])
        assert np.mean(np.abs(away) < 1.96) > 0.85, e_step
        assert np.all(np.abs(np.mean(away, 0)) < 3.5 / np.sqrt(20)), e_step
        assert np.mean([abs(likelihood_deviation(f, exact)) < 1.96 for f in fits]) >= 0.8, e_step


@pytest.mark.slow
def test_stochastic_volatility():
    """As in NumPyro's example: a random walk of log volatilities, sampled as one block."""

    def model(returns):
        sigma, nu = positive("sigma", 0.1), positive("nu", 10.0)
        s = numpyro.sample("s", dist.GaussianRandomWalk(sigma, num_steps=len(returns)))
        with numpyro.plate("days", len(returns)):
            numpyro.sample("r", dist.StudentT(nu, 0.0, jnp.exp(s)), obs=returns)

    rng = np.random.default_rng(1)
    returns = np.exp(np.cumsum(0.2 * rng.normal(size=100))) * rng.standard_t(8, size=100)
    em = autoem.EM(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = em.run(KEY, 60, returns, progress_bar=False)
    noise = result.monte_carlo
    assert result.status in (Status.CONVERGED, Status.NOISY, Status.MAX_STEPS)
    assert np.isfinite(noise.log_likelihood_error) and noise.log_likelihood_error < 0.2
    assert 0.05 < result.params["sigma"] < 0.6
    assert noise.log_likelihood > float(result.log_likelihood[0])
