"""The public face: purity, restarts, stopping, chunks, precision, the certificate, and how errors read."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import Predictive

import autoem
import autoem._evidence.enumerate as engine
import autoem._loop as loop
from autoem._update.numeric import newton

KEY = jax.random.PRNGKey(0)
RNG = np.random.default_rng(3)
X = np.concatenate([RNG.normal(-2, 0.7, 30), RNG.normal(1.5, 1.2, 50)])
QUIET = {"progress_bar": False}


@autoem.em
def mixture(x, num_components=2):
    weights = numpyro.param("weights", jnp.ones(num_components) / num_components, constraint=constraints.simplex)
    locs = numpyro.param("locs", lambda key: 2 * jax.random.normal(key, (num_components,)))
    scales = numpyro.param("scales", jnp.ones(num_components), constraint=constraints.positive)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scales[z]), obs=x)


def mvn_mixture(x, k=3):
    d = x.shape[-1]
    weights = numpyro.param("weights", jnp.ones(k) / k, constraint=constraints.simplex)
    locs = numpyro.param("locs", jnp.asarray(x[:k]))
    covs = numpyro.param("covs", jnp.stack([jnp.eye(d)] * k), constraint=constraints.positive_definite)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(locs[z], covs[z]), obs=x)


def test_an_em_object_is_the_model():
    assert mixture.__name__ == "mixture"
    result = mixture.run(KEY, 200, X, **QUIET)
    drawn = Predictive(mixture, params=result.params, num_samples=3)(KEY, X)
    assert drawn["z"].shape == (3, len(X))


def test_decorator_with_options():
    decorated = autoem.em(maximize=["mu"], flat=True)(lambda x: numpyro.sample("mu", dist.Normal(0.0, 1.0)))
    assert decorated.maximize == ["mu"] and decorated.flat is True


def test_result_is_whole_and_consistent():
    result = mixture.run(KEY, 500, X, **QUIET)
    assert result.converged and result.status is autoem.Status.CONVERGED
    assert len(result.log_likelihood) == len(result.objective) == result.num_steps
    assert_allclose(result.losses, -result.objective)
    assert_allclose(result.log_likelihood[-1], mixture.log_likelihood(result.params, X), rtol=1e-9)
    assert np.all(np.diff(result.log_likelihood) > -1e-9)
    gradient = jax.grad(lambda locs: mixture.log_likelihood({**result.params, "locs": locs}, X))(result.params["locs"])
    assert_allclose(gradient, 0, atol=1e-3)


def test_running_out_of_steps_is_not_convergence():
    result = mixture.run(KEY, 3, X, **QUIET)
    assert not result.converged and result.status is autoem.Status.MAX_STEPS and result.num_steps == 3
    with pytest.raises(RuntimeError, match="num_steps"):
        mixture.run(KEY, 3, X, throw=True, **QUIET)


def test_going_on_is_the_same_as_going_through():
    first = mixture.run(KEY, 7, X, tol=0.0, **QUIET)
    second = mixture.run(KEY, 5, X, init_state=first.state, tol=0.0, **QUIET)
    through = mixture.run(KEY, 12, X, tol=0.0, **QUIET)
    assert int(second.state.num_steps) == 12
    assert_allclose(second.params["locs"], through.params["locs"], rtol=1e-12)


def test_the_same_key_gives_the_same_result():
    one, two = (mixture.run(KEY, 20, X, **QUIET) for _ in range(2))
    assert np.array_equal(one.params["locs"], two.params["locs"])


def test_update_is_pure_under_jit_and_vmap_over_keys():
    states = jax.vmap(lambda key: mixture.init(key, X))(jax.random.split(KEY, 3))
    step = jax.jit(jax.vmap(lambda state: mixture.update(state, X)))
    together, values = step(states)
    for i in range(3):
        alone, value = mixture.update(jax.tree.map(lambda leaf, i=i: leaf[i], states), X)
        assert_allclose(values[i], value, rtol=1e-10)
        assert_allclose(together.params["locs"][i], alone.params["locs"], rtol=1e-8)


def test_update_under_vmap_over_data_sets():
    data = np.stack([X, X + 1.0, 2 * X])
    state = mixture.init(KEY, X)
    together, values = jax.vmap(lambda x: mixture.update(state, x))(data)
    for i in range(3):
        alone, value = mixture.update(state, data[i])
        assert_allclose(values[i], value, rtol=1e-10)
        assert_allclose(together.params["scales"][i], alone.params["scales"], rtol=1e-8)


def test_restarts_report_every_start_and_return_the_best():
    result = mixture.run(KEY, 300, X, num_restarts=4, **QUIET)
    assert result.restarts.shape == (4,)
    assert_allclose(result.log_likelihood[-1], result.restarts.max(), rtol=1e-9)
    with pytest.raises(ValueError, match="all starts are the same"):
        mixture.run(KEY, 5, X, num_restarts=2, init_params={"locs": np.array([0.0, 1.0])}, **QUIET)


def test_new_data_of_the_same_shape_do_not_compile_again():
    mixture.run(KEY, 3, X, **QUIET)
    before = loop._advance._cached._cache_size()
    mixture.run(KEY, 3, X * 2 + 1, **QUIET)
    assert loop._advance._cached._cache_size() == before


def test_chunks_change_nothing(monkeypatch):
    x = RNG.normal(size=(1003, 2)) + RNG.integers(0, 2, 1003)[:, None] * 3
    whole = autoem.EM(mvn_mixture)
    state = whole.init(KEY, x)
    expected, value = whole.update(state, x)
    gradient = jax.grad(lambda locs: whole.log_likelihood({**state.params, "locs": locs}, x))(state.params["locs"])
    monkeypatch.setattr(engine, "_CHUNK", 2000)
    machine = whole.derive(x).machine
    assert machine.evidences[0].layout.chunk is not None
    params, found = eqx.filter_jit(lambda m, p: (m.m_step(p, m.e_step(p, m.prepare())[1])[0], m.log_likelihood(p)))(
        machine, state.params
    )
    assert_allclose(found, value, rtol=1e-11)
    for name in params:
        assert_allclose(params[name], expected.params[name], rtol=1e-8, atol=1e-10)
    chunked = jax.grad(lambda locs: whole.log_likelihood({**state.params, "locs": locs}, x))(state.params["locs"])
    assert_allclose(chunked, gradient, rtol=1e-8, atol=1e-8)


def test_single_precision_far_from_the_origin(x32):
    x = (1e4 + np.concatenate([RNG.normal(-3, 1, 300), RNG.normal(3, 1, 300)])).astype(np.float32)
    start = {"locs": np.array([9998.0, 10002.0])}
    result = mixture.run(KEY, 300, x, init_params=start, **QUIET)
    assert result.params["locs"].dtype == jnp.float32 and result.converged
    assert_allclose(np.sort(result.params["locs"]) - 1e4, [-3, 3], atol=0.3)
    assert_allclose(result.params["scales"], 1.0, atol=0.15)


def test_single_precision_far_from_the_origin_with_factors(x32):
    """Means of 50 times the noise, which the factors take up at first: the location is not left where it is slow."""
    rng = np.random.default_rng(4)
    truth = rng.normal(size=(6, 2))
    x = (50 + rng.normal(size=(400, 2)) @ truth.T + 0.7 * rng.normal(size=(400, 6))).astype(np.float32)

    def model(x):
        loadings = numpyro.param("loadings", jnp.array(rng.normal(size=(6, 2))))
        mean = numpyro.param("mean", jnp.zeros(6))
        noise = numpyro.param("noise", 1.0, constraint=constraints.positive)
        with numpyro.plate("n", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
            numpyro.sample("x", dist.Normal(z @ loadings.T + mean, noise).to_event(1), obs=x)

    result = autoem.EM(model).run(KEY, 500, x, **QUIET)
    assert result.converged and result.params["mean"].dtype == jnp.float32
    error = x.std(0).min() / 20  # a standard error
    assert_allclose(result.params["mean"], x.mean(0), atol=0.5 * error, rtol=0)


def test_a_single_precision_start_among_double_ones_is_fitted_in_double_precision():
    x = np.repeat(np.arange(10), [162, 267, 271, 185, 111, 61, 27, 8, 3, 1])

    def model(x):
        w = numpyro.param("w", jnp.array([0.5, 0.5]), constraint=constraints.simplex)
        rate = numpyro.param("rate", jnp.array([1.0, 3.0], jnp.float32), constraint=constraints.positive)
        with numpyro.plate("n", len(x)):
            k = numpyro.sample("k", dist.Categorical(w))
            numpyro.sample("x", dist.Poisson(rate[k]), obs=x)

    result = autoem.EM(model).run(KEY, 9000, x, **QUIET)
    assert result.status is autoem.Status.CONVERGED, (result.status, result.num_steps)
    assert result.params["rate"].dtype == jnp.float64
    assert abs(float(result.log_likelihood[-1]) + 1989.945860) < 1e-5


def test_a_far_away_origin_does_not_move_the_fit():
    near = mixture.run(KEY, 500, X, init_params={"locs": np.array([-2.0, 1.5])}, **QUIET)
    far = mixture.run(KEY, 500, X + 1e6, init_params={"locs": np.array([-2.0, 1.5]) + 1e6}, **QUIET)
    assert_allclose(far.log_likelihood[-1], near.log_likelihood[-1], rtol=1e-6)


def test_the_certificate_holds_and_can_fail(monkeypatch):
    checked = autoem.EM(mixture.model, check=True)
    result = checked.run(KEY, 50, X, **QUIET)
    honest = engine.Enumeration.log_evidence
    monkeypatch.setattr(
        engine.Enumeration,
        "log_evidence",
        lambda self, slots, prepared, tilt=None: honest(self, slots, prepared, tilt) + 0.01,
    )
    with pytest.raises(RuntimeError, match="certificate failed"):
        checked.run(KEY, 5, X + 0.5, init_params=dict(result.params), **QUIET)


def test_weights_by_scale_are_repetitions():
    values, counts = np.arange(5.0), np.array([7.0, 3.0, 2.0, 4.0, 6.0])
    model = mixture.model

    def weighted(x, counts):
        with handlers.scale(scale=counts):
            model(x)

    params = {"weights": np.array([0.4, 0.6]), "locs": np.array([0.5, 3.0]), "scales": np.array([1.0, 0.8])}
    one = autoem.EM(weighted).log_likelihood(params, values, counts)
    assert_allclose(one, mixture.log_likelihood(params, np.repeat(values, counts.astype(int))), rtol=1e-12)


def test_strict_names_what_is_not_in_closed_form():
    def model(x):
        shape = numpyro.param("shape", 2.0, constraint=constraints.positive)
        numpyro.sample("x", dist.Gamma(shape, 1.0).expand([len(x)]), obs=x)

    with pytest.raises(NotImplementedError, match="shape"):
        autoem.EM(model, strict=True).derive(np.ones(3))


def random_intercepts(x, y, group):
    slope = numpyro.sample("slope", dist.Normal(0.0, 2.0))
    spread = numpyro.sample("spread", dist.HalfCauchy(1.0))
    with numpyro.plate("groups", 4):
        b = numpyro.sample("b", dist.Normal(0.0, spread))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=slope * x + b[group]), obs=y)


GROUPED = (RNG.normal(size=24), np.tile([0, 1, 1], 8), np.arange(24) % 4)


def test_strict_lists_what_is_not_exact_and_what_is_not_in_closed_form():
    em = autoem.EM(random_intercepts, maximize=["slope", "spread"], strict=True)
    with pytest.raises(NotImplementedError) as error:
        em.derive(*GROUPED)
    inexact, numeric = str(error.value).split("These are not in closed form")
    assert all(f"{name}: " in inexact for name in ("b", "slope", "spread"))
    assert "slope: newton" in numeric
    assert "spread: newton" in numeric
    assert "quadrature" not in numeric


def test_an_update_with_quadrature_runs_under_jit():
    em = autoem.EM(random_intercepts, maximize=["slope", "spread"])
    state = em.init(KEY, *GROUPED)
    _, value = jax.jit(lambda s: em.update(s, *GROUPED))(state)
    assert_allclose(value, em.update(state, *GROUPED)[1], rtol=1e-10)


def test_a_last_digit_that_goes_to_and_fro_is_converged():
    """A logistic regression: Newton is there in one step, and its search then moves by one rounding error for ever."""

    def model(x, y):
        beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)

    rng = np.random.default_rng(0)
    for seed in range(3):
        x = rng.normal(size=(200, 4))
        y = (x @ np.array([1.0, -1.0, 0.5, 0.0]) + rng.logistic(size=200) > 0) * 1
        result = autoem.EM(model, maximize="global").run(jax.random.PRNGKey(seed), 100, x, y, **QUIET)
        assert result.converged
        assert result.num_steps < 20
        beta = np.asarray(result.params["beta"])
        score = x.T @ (y - 1 / (1 + np.exp(-x @ beta))) - beta
        assert_allclose(score, 0, atol=1e-8)


def test_where_nothing_is_latent_all_that_is_coupled_climbs_together():
    """A horseshoe: the coefficients have a closed form given their scales; in turns that takes thousands of steps."""

    def model(x, y):
        local = numpyro.sample("local", dist.HalfCauchy(jnp.ones(3)))
        z = numpyro.sample("z", dist.Normal(0.0, jnp.ones(3)))
        precision = numpyro.sample("precision", dist.Gamma(3.0, 1.0))
        numpyro.sample("y", dist.Normal(x @ (local * z), 1 / jnp.sqrt(precision)), obs=y)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    y = x @ np.array([1.0, 0.0, 2.0]) + 0.3 * rng.normal(size=60)
    em = autoem.EM(model, maximize="global")
    result = em.run(KEY, 200, x, y, **QUIET)
    assert result.converged
    assert result.num_steps < 50
    assert all("nothing is latent" in found.declined[-1]
               for name, found in result.derivation.params.items() if name != "local")  # fmt: skip
    objective = result.derivation.machine.objective
    slope = jax.grad(objective)(result.params)
    for name in ("z", "local", "precision"):
        assert_allclose(slope[name], 0, atol=1e-4)


def test_the_page_says_what_runs():
    derivation = mixture.derive(X)
    text = str(derivation)
    for word in ("weights", "locs[z]", "Categorical", "E-step", "M-step", "Q(θ"):
        assert word in text
    assert derivation.exact and derivation.closed_form
    assert derivation.latents["z"].method == "enumeration" and derivation.params["locs"].family == "gaussian"
    assert "$" in derivation._repr_markdown_()


def test_a_start_outside_its_constraint_is_named():
    with pytest.raises(ValueError, match="scales"):
        mixture.init(KEY, X, init_params={"scales": np.array([-1.0, 1.0])})


def test_no_warning_on_a_healthy_fit():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixture.run(KEY, 100, X, **QUIET)


def test_directions_that_the_data_leave_free_stay_where_they_are():
    """Only a + b is identified: both updates (least squares, Newton) converge and leave a - b alone."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=30))
    counts = jnp.asarray(np.random.default_rng(1).poisson(3.0, size=30))

    def model():
        a, b = numpyro.param("a", jnp.asarray(0.3)), numpyro.param("b", jnp.asarray(-1.2))
        c, d = numpyro.param("c", jnp.asarray(0.4)), numpyro.param("d", jnp.asarray(0.1))
        numpyro.sample("x", dist.Normal(a + b, 1.0), obs=x)
        numpyro.sample("counts", dist.Poisson(jnp.exp(c + d)), obs=counts)

    result = autoem.EM(model).run(KEY, 100, progress_bar=False)
    assert result.converged
    assert_allclose(result.params["a"] + result.params["b"], x.mean(), rtol=1e-9)
    assert_allclose(result.params["a"] - result.params["b"], 1.5, atol=1e-6)
    assert_allclose(result.params["c"] + result.params["d"], jnp.log(counts.mean()), rtol=1e-7)
    assert_allclose(result.params["c"] - result.params["d"], 0.3, atol=1e-6)


def test_a_location_that_only_its_prior_holds_goes_to_the_priors_mode():
    def model():
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([2]))
        numpyro.sample("alone", dist.Normal(0.7, 2.0))
        numpyro.sample("x", dist.Normal(mu[jnp.asarray([0, 0, 1])], 1.0), obs=jnp.asarray([1.0, 2.0, 3.0]))

    result = autoem.EM(model, maximize=["mu", "alone"]).run(KEY, 10, progress_bar=False)
    assert_allclose(result.params["alone"], 0.7)
    assert_allclose(result.params["mu"], [1.0, 1.5])


def test_a_scale_with_its_mode_at_zero_is_stopped_and_named():
    """A half-normal prior and no data: the mode is zero, whatever the start."""

    def model():
        scale = numpyro.sample("scale", dist.HalfNormal(1.0).expand([2]))
        numpyro.sample("x", dist.Normal(0.0, scale[jnp.asarray([0, 0, 0])]), obs=jnp.asarray([1.0, 2.0, 3.0]))

    with pytest.warns(UserWarning, match="'scale' has its mode on the boundary"):
        result = autoem.EM(model, maximize=["scale"]).run(KEY, 50, progress_bar=False)
    assert result.converged  # nothing is unbounded there
    assert result.params["scale"][1] < 1e-4


def test_a_residual_that_vanishes_ends_at_the_floor():
    """Rounding can make the expanded square negative; that is a scale of zero, not an infinite one."""
    x = jnp.asarray([0.1, 0.1, 0.1, 2.0, 3.0])

    def model():
        loc = numpyro.param("loc", jnp.asarray([0.3, 2.0]))
        scale = numpyro.param("scale", jnp.asarray([1.0, 1.0]), constraint=constraints.positive)
        group = jnp.asarray([0, 0, 0, 1, 1])
        numpyro.sample("x", dist.Normal(loc[group], scale[group]), obs=x)

    with pytest.warns(UserWarning, match="floor"):
        result = autoem.EM(model).run(KEY, 50, progress_bar=False)
    assert result.status is autoem.Status.DEGENERATE
    assert result.params["scale"][0] < 1e-3
    assert_allclose(result.params["scale"][1], 0.5, rtol=1e-6)


@jax.custom_jvp
def _bent(u):
    return -(u**2) / 2


@jax.custom_jvp
def _slope(u):
    return -u


_bent.defjvp(lambda u, v: (_bent(*u), _slope(*u) * v[0]))
_slope.defjvp(lambda u, v: (_slope(*u), jnp.nan * v[0]))


def test_a_second_derivative_that_is_no_number_holds_nobody_up():
    """Newton's ascent: one coordinate has none (clipped probabilities do that), the other is to move all the same."""
    found = newton(lambda u: _bent(u[0] - 2.0) - 20.0 * (u[1] - 1.0) ** 2, jnp.array([1.999, 0.0]), 20)
    assert_allclose(found.point[1], 1.0, atol=1e-8)
    assert 1.999 < float(found.point[0]) <= 2.0
    assert found.left == np.inf  # whether it is concave there nobody knows
