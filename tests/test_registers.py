"""States of a scan that are shift registers: derived as if every lag had been a state of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints

import autoem

RNG = np.random.default_rng(8)
Y = np.tile([1.5, -0.5, -2.0, 1.0], 5) + RNG.normal(size=20)
PARAMS = {"level": 0.4, "season": 0.3, "noise": 0.6}


def concatenated(new, old):
    return jnp.concatenate([new[None], old[:-1]])


def rolled(new, old):
    return jnp.roll(old, 1).at[0].set(new)


def stacked(new, old):
    return jnp.stack([new, old[0], old[1]])


def separate(new, old):
    return new, old[0], old[1]


def seasonal(y, push):
    """A level that walks and quarters that add up to little: the basic structural model."""
    scales = [numpyro.param(n, v, constraint=constraints.positive) for n, v in PARAMS.items()]
    level = numpyro.sample("level0", dist.Normal(0.0, 5.0))
    with numpyro.plate("quarters", 3):
        seasons = numpyro.sample("season0", dist.Normal(0.0, 5.0))

    def step(state, y):
        level, seasons = state
        numpyro.sample("y", dist.Normal(level + seasons[0], scales[2]), obs=y)
        level = numpyro.sample("walk", dist.Normal(level, scales[0]))
        new = numpyro.sample("quarter", dist.Normal(-(seasons[0] + seasons[1] + seasons[2]), scales[1]))
        return (level, push(new, seasons)), None

    scan(step, (level, tuple(seasons) if push is separate else seasons), y)


def filtered(y, level, season, noise):
    """The Kalman filter of the same model."""
    move, seen = np.zeros((4, 4)), np.array([1.0, 1, 0, 0])
    move[0, 0], move[1, 1:], move[2, 1], move[3, 2] = 1, -1, 1, 1
    mean, covariance, total = np.zeros(4), 25 * np.eye(4), 0.0
    for value in y:
        spread, error = seen @ covariance @ seen + noise**2, value - seen @ mean
        total -= (np.log(2 * np.pi * spread) + error**2 / spread) / 2
        gain = covariance @ seen / spread
        mean, covariance = mean + gain * error, covariance - np.outer(gain, seen @ covariance)
        mean = move @ mean
        covariance = move @ covariance @ move.T + np.diag([level**2, season**2, 0, 0])
    return total


@pytest.mark.parametrize(
    "push",
    [concatenated, *(pytest.param(f, marks=pytest.mark.slow) for f in (rolled, stacked, separate))],
    ids=lambda f: f.__name__,
)
def test_a_season_in_one_vector_is_a_chain(push):
    em = autoem.EM(seasonal)
    derivation = em.derive(Y, push)
    assert derivation.exact
    assert {f.family for f in derivation.latents.values()} == {"gaussian"}
    assert_allclose(em.log_likelihood(PARAMS, Y, push), filtered(Y, **PARAMS), rtol=1e-10)


@pytest.mark.slow
def test_the_fit_of_a_season_passes_the_certificate():
    result = autoem.EM(seasonal, check=True).run(jax.random.key(0), 40, Y, concatenated, progress_bar=False)
    found = filtered(Y, **{n: float(v) for n, v in result.params.items()})
    assert_allclose(autoem.EM(seasonal).log_likelihood(result.params, Y, concatenated), found, rtol=1e-8)
    assert np.all(np.diff(result.log_likelihood) > -1e-9)


@pytest.mark.slow
def test_lags_of_several_series_in_a_matrix():
    """Registers along the last axis: an autoregression of order two for each of two series, seen through noise."""
    y = RNG.normal(size=(12, 2)).cumsum(0)

    def model(y, matrix):
        phi = numpyro.param("phi", jnp.array([0.5, 0.3]))
        with numpyro.plate("series", 2):
            first = numpyro.sample("first", dist.Normal(0.0, 2.0))
            second = numpyro.sample("second", dist.Normal(0.0, 2.0))

        def step(lags, y):
            near, far = (lags[:, 0], lags[:, 1]) if matrix else lags
            with numpyro.plate("series", 2):
                x = numpyro.sample("x", dist.Normal(phi[0] * near + phi[1] * far, 1.0))
                numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
            return (jnp.concatenate([x[:, None], lags[:, :1]], 1) if matrix else (x, near)), None

        scan(step, jnp.stack([first, second], 1) if matrix else (first, second), y)

    em, params = autoem.EM(model), {"phi": jnp.array([0.6, 0.2])}
    assert em.derive(y, True).exact
    assert_allclose(em.log_likelihood(params, y, True), em.log_likelihood(params, y, False), rtol=1e-10)


@pytest.mark.slow
def test_states_of_a_second_order_chain_in_a_vector():
    y = RNG.normal(size=10)

    def model(y, vector):
        table = numpyro.param("table", jnp.full((2, 2, 2), 0.5), constraint=constraints.simplex)
        locs = numpyro.param("locs", jnp.array([-1.0, 1.0]))

        def step(past, y):
            z = numpyro.sample("z", dist.Categorical(table[past[1], past[0]]))
            numpyro.sample("y", dist.Normal(locs[z], 1.0), obs=y)
            return (jnp.concatenate([z[None], past[:1]]) if vector else (z, past[0])), None

        scan(step, jnp.zeros(2, int) if vector else (0, 0), y)

    tables = RNG.dirichlet([1.0, 1.0], size=(2, 2))
    em, params = autoem.EM(model), {"table": tables, "locs": np.array([-0.7, 0.9])}
    assert_allclose(em.log_likelihood(params, y, True), em.log_likelihood(params, y, False), rtol=1e-10)


def test_lags_of_data_stay_data():
    """No step is set apart for lags that are observed."""

    def model(y):
        phi = numpyro.param("phi", jnp.zeros(2))

        def step(lags, y):
            numpyro.sample("y", dist.Normal(phi @ lags, 1.0), obs=y)
            return concatenated(y, lags), None

        scan(step, jnp.zeros(2), y)

    em = autoem.EM(model)
    assert [s for s in em.derive(Y).model.sites] == ["y"]
    phi, before = np.array([0.4, -0.2]), np.concatenate([[0.0, 0.0], Y])
    means = phi[0] * before[1:-1] + phi[1] * before[:-2]
    assert_allclose(em.log_likelihood({"phi": phi}, Y), dist.Normal(means, 1.0).log_prob(Y).sum(), rtol=1e-12)


def test_what_grows_is_no_register():
    """Every element is carried on with a weight: there is no step at which it came in. A few steps are written out."""

    def model(y):
        scale = numpyro.param("scale", 1.0, constraint=constraints.positive)

        def step(state, y):
            new = numpyro.sample("x", dist.Normal(0.0, scale))
            numpyro.sample("y", dist.Normal(state[0] + state[1], 1.0), obs=y)
            return 0.5 * state + jnp.stack([new, state[0]]), None

        scan(step, jnp.zeros(2), y)

    assert not autoem.EM(model).derive(RNG.normal(size=33)).exact
    y, state, means = Y[:6], np.zeros((2, 6)), []
    for t in range(6):
        means.append(state.sum(0))
        state = 0.5 * state + np.stack([np.eye(6)[t], state[0]])
    covariance = 0.7**2 * np.stack(means) @ np.stack(means).T + np.eye(6)
    em = autoem.EM(model)
    assert em.derive(y).exact
    truth = dist.MultivariateNormal(np.zeros(6), covariance).log_prob(y)
    assert_allclose(em.log_likelihood({"scale": jnp.asarray(0.7)}, y), truth, rtol=1e-12)


def test_a_counter_is_a_chain_where_it_is_sampled_and_refused_with_that_advice_where_it_is_computed():
    """A hidden semi-Markov model: how probable it is to leave a state depends on how long one has been there."""
    y = RNG.normal(size=7)
    params = {"leave": np.array([[0.1, 0.2, 0.6], [0.5, 0.3, 0.8]]), "locs": np.array([-1.0, 0.7])}

    def model(y, sampled):
        leave = numpyro.param("leave", params["leave"], constraint=constraints.unit_interval)
        locs = numpyro.param("locs", params["locs"])

        def step(state, y):
            z, age = state
            left = numpyro.sample("left", dist.Bernoulli(leave[z, age]))
            z, age = jnp.where(left == 1, 1 - z, z), jnp.where(left == 1, 0, jnp.minimum(age + 1, 2))
            if sampled:
                z = numpyro.sample("z", dist.Categorical(jax.nn.one_hot(z, 2)))
                age = numpyro.sample("age", dist.Categorical(jax.nn.one_hot(age, 3)))
            numpyro.sample("y", dist.Normal(locs[z], 1.0), obs=y)
            return (z, age), None

        scan(step, (0, 0), y)

    alpha = np.zeros((2, 3))
    alpha[0, 0] = 1
    for value in y:
        new = np.zeros((2, 3))
        for z, age in np.ndindex(2, 3):
            new[z, min(age + 1, 2)] += alpha[z, age] * (1 - params["leave"][z, age])
            new[1 - z, 0] += alpha[z, age] * params["leave"][z, age]
        alpha = new * np.exp(-((value - params["locs"]) ** 2) / 2)[:, None] / np.sqrt(2 * np.pi)
    em = autoem.EM(model)
    assert_allclose(em.log_likelihood(params, y, True), np.log(alpha.sum()), rtol=1e-12)
    with pytest.raises(NotImplementedError, match="let it be a state of the chain"):
        em.derive(y, False)


@pytest.mark.slow
def test_innovations_are_drawn_with_advice_and_states_are_exact():
    """An ARMA(2, 1): as a recursion of innovations, and with the state sampled and its lags handed on."""
    y, phi, theta, q = RNG.normal(size=40), np.array([0.6, 0.2]), 0.4, 0.7

    def model(y, sampled):
        values = [numpyro.param(n, v) for n, v in (("phi", phi), ("theta", theta), ("q", q))]
        start = numpyro.sample("start", dist.Normal(0.0, 2.0).expand([2]).to_event(1))

        def step(lags, y):
            noise = dist.Normal(values[0] @ lags, values[2])
            u = numpyro.sample("u", noise if sampled else dist.Normal(0.0, 1.0))
            u = u if sampled else noise.loc + values[2] * u
            numpyro.sample("y", dist.Normal(u + values[1] * lags[0], 0.3), obs=y)
            return jnp.concatenate([u[None], lags[:-1]]), None

        scan(step, start, y)

    move, seen = np.stack([phi, [1.0, 0.0]]), np.array([1.0, theta])
    mean, covariance, total = np.zeros(2), 4 * np.eye(2), 0.0
    for value in y:
        mean, covariance = move @ mean, move @ covariance @ move.T + np.diag([q**2, 0.0])
        spread, error = seen @ covariance @ seen + 0.09, value - seen @ mean
        total -= (np.log(2 * np.pi * spread) + error**2 / spread) / 2
        gain = covariance @ seen / spread
        mean, covariance = mean + gain * error, covariance - np.outer(gain, seen @ covariance)
    em = autoem.EM(model)
    assert em.derive(y, True).exact
    assert_allclose(em.log_likelihood({"phi": phi, "theta": theta, "q": q}, y, True), total, rtol=1e-11)
    derivation = em.derive(y, False)
    assert not derivation.exact and "Sample the new state itself" in derivation.latents["u"].declined[0]
