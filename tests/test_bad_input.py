"""Wrong input says what is wrong, where, and what to do; degenerate data never gives NaN."""

import re
import warnings

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
import pytest  # noqa: E402
from numpy.testing import assert_allclose  # noqa: E402

import autoem  # noqa: E402
from tests.zoo import ZOO, positive, real, simplex  # noqa: E402

KEY = jax.random.PRNGKey(0)
X = ZOO["normal_mixture"].args[0]
START = {"weights": np.array([0.4, 0.6]), "locs": np.array([-1.0, 1.4]), "scales": np.array([0.8, 1.3])}


def mixture(x):
    weights, locs, scales = simplex("weights", 2), real("locs", 2), positive("scales", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scales[z]), obs=x)


def bayesian(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    locs = numpyro.sample("locs", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)


def raises(error, *parts, model=mixture, args=(X,), start=None, **keywords):
    """Constructing and running raises `error`, whose message holds every one of `parts`."""
    with pytest.raises(error) as caught:
        autoem.EM(model, **keywords).run(KEY, 3, *args, init_params=start, progress_bar=False)
    for part in parts:
        assert re.search(part, str(caught.value)), f"{part!r} is not in: {caught.value}"


# -- names ----------------------------------------------------------------------------------------------------------


def test_nothing_to_maximize_lists_the_candidates():
    raises(ValueError, "weights", "locs", "maximize", model=bayesian)


def test_misspelled_name_in_maximize():
    raises(ValueError, "lcos", "locs", "maximize", model=bayesian, maximize=["weights", "lcos"])


def test_misspelled_name_in_flat():
    raises(ValueError, "wieghts", "weights", "flat", model=bayesian, maximize="global", flat=["wieghts"])


def test_flat_names_a_param():
    """A param has no prior that could be ignored."""
    raises(ValueError, "locs", "flat", flat=["locs"])


def test_misspelled_name_in_init_params():
    raises(ValueError, "lcos", "locs", "init_params", start={"lcos": np.zeros(2)})


@pytest.mark.parametrize("name", ["x", "z"])
def test_maximize_names_an_observed_or_a_discrete_site(name):
    raises((ValueError, NotImplementedError), f"'{name}'", model=bayesian, maximize=["weights", "locs", name])


def test_only_some_continuous_sites_are_maximized():
    """The rest are continuous latents, which share every discrete one: integrated numerically, not called exact."""
    found = autoem.EM(bayesian, maximize=["weights"]).derive(X).latents["locs"]
    assert (found.method, found.exact) == ("quadrature", False)
    assert "several elements of 'z'" in found.declined[0]


# -- starting values --------------------------------------------------------------------------------------------------


def test_wrong_shape_in_init_params():
    raises(ValueError, "locs", r"\(3,\)", r"\(2,\)", start={**START, "locs": np.zeros(3)})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scales", [-1.0, 1.0]),
        ("weights", [0.9, 0.9]),
        ("weights", [1.5, -0.5]),
        ("locs", [np.nan, 0.0]),
        ("locs", [np.inf, 0.0]),
    ],
)
def test_init_params_outside_their_constraint(name, value):
    raises(ValueError, name, "init_params", start={**START, name: np.array(value)})


def test_partial_init_params():
    """What is not given starts as the model says."""
    em = autoem.EM(mixture)
    params = em.get_params(em.init(KEY, X, init_params={"locs": START["locs"]}))
    assert_allclose(params["locs"], START["locs"])
    assert_allclose(params["weights"], 0.5)
    assert_allclose(params["scales"], 1.0)


# -- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_data_that_are_not_finite(value):
    x = X.copy()
    x[7] = value
    parts = ["'x'", r"\b7\b"] + (["obs_mask"] if np.isnan(value) else [])
    raises(ValueError, *parts, args=(x,), start=START)


def poissons(x):
    weights, rates = simplex("weights", 2), positive("rates", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("count", dist.Poisson(rates[z]), obs=x)


def gammas(x):
    weights, rates = simplex("weights", 2), positive("rates", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("count", dist.Gamma(2.0, rates[z]), obs=x)


def grades(x):
    weights, probs = simplex("weights", 2), simplex("probs", 2, 3)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("count", dist.Categorical(probs[z]), obs=x)


@pytest.mark.parametrize(
    ("model", "bad"),
    [(poissons, -1), (poissons, 1.5), (gammas, -0.5), (grades, 3), (grades, -1)],
    ids=lambda v: getattr(v, "__name__", v),
)
@pytest.mark.filterwarnings("ignore:Out-of-support values:UserWarning")  # NumPyro's own, from the model's trace
def test_data_outside_the_support(model, bad):
    x = np.array([1, 2, 0, 1, 2, 1, 0, 1, 2], float if isinstance(bad, float) else int)
    x = x + 1 if model is gammas else x
    x[5] = bad
    raises(ValueError, "'count'", r"\b5\b", model=model, args=(x,))


def test_impossible_observation_under_the_start():
    """Possible in the family, impossible under the starting values: the datum is named."""

    def model(x):
        weights = simplex("weights", 2)
        probs = numpyro.param("probs", np.full((2, 3), 1 / 3), constraint=numpyro.distributions.constraints.simplex)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", dist.Categorical(probs[z]), obs=x)

    x = np.array([0, 1, 0, 0, 1, 1, 0, 2, 0])
    start = {"weights": np.array([0.5, 0.5]), "probs": np.array([[0.5, 0.5, 0.0], [0.3, 0.7, 0.0]])}
    raises(ValueError, "'x'", r"\b7\b", model=model, args=(x,), start=start)


def test_latent_that_cannot_be_enumerated():
    def model(x):
        rate = positive("rate")
        with numpyro.plate("data", len(x)):
            hidden = numpyro.sample("hidden", dist.Poisson(rate))
            numpyro.sample("x", dist.Normal(hidden, 1.0), obs=x)

    raises((ValueError, NotImplementedError), "'hidden'", "Poisson", model=model)


# -- degenerate but legal ------------------------------------------------------------------------------------------


def run(model, *args, start, num_steps=500):
    """The result, and the text of all warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = autoem.EM(model).run(KEY, num_steps, *args, init_params=start, progress_bar=False)
    return result, " ".join(str(w.message) for w in caught if not issubclass(w.category, DeprecationWarning))


def assert_finite(result):
    for name, value in result.params.items():
        assert np.isfinite(value).all(), name
    assert np.isfinite(result.log_likelihood).all()
    assert np.isfinite(result.objective).all()


def test_collapsing_component():
    """One component sits on a single datum: the likelihood is unbounded."""
    x = np.r_[X, 25.0]
    start = {"weights": np.array([0.9, 0.1]), "locs": np.array([0.0, 25.0]), "scales": np.array([2.0, 0.05])}
    result, warned = run(mixture, x, start=start)
    assert_finite(result)
    assert "scales" in warned
    healthy, quiet = run(mixture, X, start=START)
    assert healthy.converged
    assert "scales" not in quiet
    assert result.status != healthy.status


def test_collapsing_covariance():
    entry = ZOO["mvn_covariance"]
    x = np.r_[entry.args[0], [[30.0, 30.0]]]
    start = {**entry.params, "locs": np.array([[0.0, 0.0], [30.0, 30.0]])}
    result, warned = run(entry.model, x, start=start)
    assert_finite(result)
    assert "covs" in warned


def three(x):
    weights, locs, scales = simplex("weights", 3), real("locs", 3), positive("scales", 3)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scales[z]), obs=x)


@pytest.mark.parametrize("far", [50.0, 1e4])
def test_empty_component(far):
    """A component that no datum belongs to."""
    start = {"weights": np.full(3, 1 / 3), "locs": np.array([-1.0, 1.4, far]), "scales": np.array([0.8, 1.3, 1.0])}
    result, _ = run(three, X, start=start)
    assert_finite(result)
    assert_allclose(result.params["weights"][2], 0, atol=1e-6)
    assert (np.diff(result.log_likelihood) >= -1e-9 * np.abs(result.log_likelihood[-1])).all()


def test_empty_category():
    """A grade that never occurs gets probability zero, and the fit goes on."""
    x = np.array([0, 1, 1, 0, 1, 1, 0, 0, 1, 1])
    start = {"weights": np.array([0.5, 0.5]), "probs": np.array([[0.5, 0.3, 0.2], [0.2, 0.6, 0.2]])}
    result, _ = run(grades, x, start=start)
    assert_finite(result)
    assert_allclose(result.params["probs"][:, 2], 0, atol=1e-6)


def test_all_counts_are_zero():
    result, _ = run(poissons, np.zeros(12, int), start={"weights": np.array([0.5, 0.5]), "rates": np.array([1.0, 2.0])})
    assert_finite(result)


def test_constant_data():
    result, warned = run(mixture, np.full(10, 3.0), start={**START, "locs": np.array([2.0, 3.5])})
    assert_finite(result)
    assert "scales" in warned


def test_far_apart_data_do_not_underflow():
    """Likelihoods of 1e-5000: everything happens in logarithms."""
    x = np.r_[X, X + 1e4]
    start = {"weights": np.array([0.5, 0.5]), "locs": np.array([1.0, 9.9e3]), "scales": np.array([1.0, 1.0])}
    result, _ = run(mixture, x, start=start)
    assert_finite(result)
    assert_allclose(result.params["locs"], [X.mean(), X.mean() + 1e4], rtol=1e-6)


def test_symmetric_start_stays_finite():
    """Equal components are a stationary point; EM cannot leave it, but must not break."""
    start = {"weights": np.array([0.5, 0.5]), "locs": np.zeros(2), "scales": np.ones(2)}
    result, _ = run(mixture, X, start=start, num_steps=50)
    assert_finite(result)
    assert_allclose(result.params["locs"], X.mean(), rtol=1e-8)


def test_single_datum():
    start = {"weights": np.array([0.5, 0.5]), "rates": np.array([1.0, 4.0])}
    result, _ = run(poissons, np.array([3]), start=start)
    assert_finite(result)


# -- honest reports --------------------------------------------------------------------------------------------------


def test_running_out_of_steps_is_not_convergence():
    result = autoem.EM(mixture).run(KEY, 1, X, init_params=START, progress_bar=False)
    assert not result.converged
    assert result.num_steps == 1
    assert np.shape(result.log_likelihood) == (1,)
    assert isinstance(result.status.value, str)
    assert len(result.status.value.split()) > 2


def test_continuing_from_a_state():
    """Ten steps at once, or five and five."""
    em = autoem.EM(mixture)
    whole = em.run(KEY, 10, X, init_params=START, tol=0.0, progress_bar=False)
    first = em.run(KEY, 5, X, init_params=START, tol=0.0, progress_bar=False)
    second = em.run(KEY, 5, X, init_state=first.state, tol=0.0, progress_bar=False)
    assert_allclose(np.r_[first.log_likelihood, second.log_likelihood], whole.log_likelihood, rtol=1e-10)
    for name, value in whole.params.items():
        assert_allclose(second.params[name], value, rtol=1e-8)


def test_same_key_same_result():
    em = autoem.EM(bayesian, maximize="global")
    one, two, other = (em.run(jax.random.PRNGKey(k), 5, X, progress_bar=False) for k in (1, 1, 2))
    assert all(np.array_equal(one.params[name], two.params[name]) for name in one.params)
    assert not all(np.array_equal(one.params[name], other.params[name]) for name in one.params)


def test_model_is_unchanged_and_callable():
    """An `EM` object is the model."""
    em = autoem.EM(mixture)
    trace = numpyro.handlers.trace(numpyro.handlers.seed(em, KEY)).get_trace(X)
    assert set(trace) == {"weights", "locs", "scales", "data", "z", "x"}
