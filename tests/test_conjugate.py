"""Conjugate latents against quadrature of NumPyro's own densities, closed-form marginals, and refusals."""

import re
import warnings

import conjugate_oracle
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from checks import check_evidence
from conjugate_zoo import CASES, positive
from numpy.testing import assert_allclose
from numpyro import handlers
from numpyro.distributions import constraints
from scipy import optimize, special, stats

import autoem
from autoem._uncertainty import certify

KEY = jax.random.key(0)


QUICK = {"poisson_with_exposure", "complements", "dirichlet_multinomial"}
"""Each mechanism once; the others run in `make slow`."""


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_against_quadrature(name):
    case = CASES[name]()
    maximised = ("a", "b") if name == "maximised_with_priors" else ()
    em = autoem.EM(case.model, maximize=list(maximised) or None)
    params = {n: jnp.asarray(v, float) for n, v in case.params.items()}
    (value, (defect, means, variances)), gradient = conjugate_oracle.evidence(case.model, case.args, maximised)(params)
    assert defect < 1e-8
    derivation = em.derive(*case.args)
    check_evidence(derivation.machine, params, value, gradient)
    posterior = em.posterior(params, *case.args)
    for n, mean in means.items():
        assert derivation.latents[n].family == case.families[n]
        assert derivation.latents[n].method == "conjugate"
        if case.families[n] == "von mises":  # moments on a circle are those of the unit vector
            kappa, loc = (np.asarray(getattr(posterior[n], a)) for a in ("concentration", "loc"))
            assert_allclose(special.ive(1, kappa) / special.ive(0, kappa) * np.cos(loc), mean, rtol=1e-6)
            continue
        assert_allclose(posterior[n].mean, mean, rtol=1e-6, atol=1e-9, err_msg=n)
        assert_allclose(posterior[n].variance, variances[n], rtol=1e-6, atol=1e-9, err_msg=n)
    certify(case.model, derivation, params, case.args, {}, draws=2)
    assert derivation.exact


@pytest.mark.parametrize(
    "name",
    [
        "poisson_in_groups_with_a_factor",
        "exponential_prior",
        "hidden_counts",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("precision", "one_state_for_many_units")),
    ],
)
def test_every_step_climbs(name):
    case = CASES[name]()
    em = autoem.EM(case.model, check=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = em.run(KEY, 6, *case.args, init_params=case.params, progress_bar=False)
    assert np.all(np.diff(result.objective) > -1e-9 * abs(result.objective[-1]))
    assert result.objective[-1] > result.objective[0]


# -- known answers -----------------------------------------------------------------------------------------------------


PUMPS = (
    np.array([94.3, 15.7, 62.9, 126.0, 5.24, 31.4, 1.05, 1.05, 2.1, 10.5]),
    np.array([5, 1, 5, 14, 3, 19, 1, 1, 4, 22]),
)


def pumps(t, x):
    a, b = positive("a"), positive("b")
    with numpyro.plate("pumps", len(x)):
        rate = numpyro.sample("rate", dist.Gamma(a, b))
        numpyro.sample("x", dist.Poisson(rate * t), obs=x)


def maximum(negative, start):
    """Parameters (positive) and value at the minimum of a negative log-likelihood in their logarithms."""
    found = optimize.minimize(lambda v: negative(*np.exp(v)), np.log(start), method="BFGS", options={"gtol": 1e-8})
    return np.exp(found.x), -found.fun


def test_pump_failures_are_a_negative_binomial_regression():
    t, x = PUMPS
    result = autoem.EM(pumps, check=True).run(KEY, 500, *PUMPS, progress_bar=False)
    best, value = maximum(lambda a, b: -stats.nbinom.logpmf(x, a, b / (b + t)).sum(), [1.0, 1.0])
    assert result.converged
    assert_allclose([result.params["a"], result.params["b"]], best, rtol=1e-4)
    assert_allclose(result.log_likelihood[-1], value, rtol=1e-9)
    em = autoem.EM(pumps)
    posterior = em.posterior(result.params, *PUMPS)["rate"]
    assert isinstance(posterior, dist.Gamma)
    a, b = (np.asarray(result.params[n]) for n in "ab")
    assert_allclose(posterior.concentration, a + x)
    assert_allclose(posterior.rate, b + t)
    assert_allclose(em.decode(result.params, *PUMPS)["rate"], (a + x - 1) / (b + t))
    draws = em.sample_posterior(KEY, result.params, *PUMPS, num_samples=4000)["rate"]
    assert_allclose(draws.mean(0), posterior.mean, atol=0.08 * np.sqrt(posterior.variance).max())
    errors = em.standard_errors(result.params, *PUMPS)
    information = jax.hessian(lambda v: em.log_likelihood({"a": v[0], "b": v[1]}, *PUMPS))(jnp.array([a, b]))
    assert_allclose([errors["a"], errors["b"]], np.sqrt(np.diag(np.linalg.inv(-information))), rtol=1e-6)


def test_beta_binomial_empirical_bayes():
    rng = np.random.default_rng(1)
    n = rng.integers(10, 50, 40)
    x = rng.binomial(n, rng.beta(2.0, 12.0, 40))

    def rats(n, x):
        a, b = positive("a"), positive("b")
        with numpyro.plate("experiments", len(x)):
            p = numpyro.sample("p", dist.Beta(a, b))
            numpyro.sample("x", dist.Binomial(n, p), obs=x)

    result = autoem.EM(rats).run(KEY, 3000, n, x, progress_bar=False)
    best, value = maximum(lambda a, b: -stats.betabinom.logpmf(x, n, a, b).sum(), [2.0, 10.0])
    assert result.converged
    assert_allclose([result.params["a"], result.params["b"]], best, rtol=1e-3)
    assert_allclose(result.log_likelihood[-1], value, rtol=1e-8)


def test_scale_mixture_is_a_student_t():
    case = CASES["precision"]()
    z, y = case.args
    nu, sigma, beta = (case.params[n] for n in ("nu", "sigma", "beta"))
    params = {n: jnp.asarray(v) for n, v in case.params.items()}
    value = autoem.EM(case.model).log_likelihood(params, z, y)
    assert_allclose(value, stats.t.logpdf(y, nu, beta[0] + beta[1] * z, sigma).sum(), rtol=1e-12)
    derivation = autoem.EM(case.model).derive(z, y)
    assert derivation.params["beta"].method == derivation.params["sigma"].method == "closed form"


def test_student_t_regression():
    """Weighted least squares with expected precisions ends where the marginal likelihood does."""
    rng = np.random.default_rng(7)
    z = rng.normal(size=40)
    y = 1.0 + 2.0 * z + 0.5 * rng.standard_t(4, 40)

    def model(z, y):
        sigma, beta = positive("sigma"), numpyro.param("beta", jnp.zeros(2))
        with numpyro.plate("rows", len(y)):
            tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
            numpyro.sample("y", dist.Normal(beta[0] + beta[1] * z, sigma / jnp.sqrt(tau)), obs=y)

    result = autoem.EM(model).run(KEY, 1000, z, y, progress_bar=False)

    def negative(v):
        return -stats.t.logpdf(y, 4, v[0] + v[1] * z, np.exp(v[2])).sum()

    best = optimize.minimize(negative, [1.0, 2.0, 0.0], method="BFGS", options={"gtol": 1e-7})
    assert result.converged
    assert result.derivation.closed_form
    assert_allclose(result.log_likelihood[-1], -best.fun, rtol=1e-8)
    assert_allclose([*result.params["beta"], result.params["sigma"]], [*best.x[:2], np.exp(best.x[2])], rtol=1e-4)


@pytest.mark.parametrize("a", [1e-3, 1e4])
@pytest.mark.parametrize("b", [1e-3, 1e3])
def test_extreme_hyperparameters(a, b):
    t, x = PUMPS
    value = autoem.EM(pumps).log_likelihood({"a": a, "b": b}, t, x)
    assert_allclose(value, stats.nbinom.logpmf(x, a, b / (b + t)).sum(), rtol=1e-8)


def test_hyperparameters_have_closed_forms_where_their_families_have():
    case = CASES["exponential_prior"]()
    derivation = autoem.EM(case.model).derive(*case.args)
    assert derivation.closed_form
    page = str(derivation)
    assert "gamma: η, the coefficients of (log u, u) with u = u, added up over u, x" in page
    assert derivation.latents["u"].method == "conjugate"


def test_known_factors_are_no_slots():
    """Exposures go into the statistics: an iteration touches the groups, not the data."""
    case = CASES["poisson_with_exposure"]()
    assert np.prod(autoem.EM(case.model).derive(*case.args).statistics["x"]) == 6


def test_trend_has_a_closed_form():
    case = CASES["poisson_in_groups_with_a_factor"]()
    assert autoem.EM(case.model).derive(*case.args).params["trend"].method == "closed form"


def test_posterior_given_a_state_is_a_mixture():
    case = CASES["mixture_of_gamma_poissons"]()
    em = autoem.EM(case.model)
    params = {n: jnp.asarray(v) for n, v in case.params.items()}
    posterior = em.posterior(params, *case.args)
    assert isinstance(posterior["u"], dist.MixtureSameFamily)
    assert isinstance(posterior["u"].component_distribution, dist.Gamma)
    assert posterior["u"].batch_shape == (4,)
    draws = em.sample_posterior(KEY, params, *case.args, num_samples=4000)
    assert_allclose(draws["z"].mean(0), posterior["z"].probs[:, 1], atol=0.03)
    assert_allclose(draws["u"].mean(0), posterior["u"].mean, rtol=0.05)


def test_joint_mode():
    """The best density over a fine grid for each state, the state that has the best of these."""
    case = CASES["state_in_the_child"]()
    em = autoem.EM(case.model)
    params = {n: jnp.asarray(v) for n, v in case.params.items()}
    found = em.decode(params, *case.args)
    x, y = case.args
    grid = np.linspace(1e-3, 30, 100_000)
    for i in range(4):
        tables = [
            stats.bernoulli.logpmf(z, params["weight"])
            + stats.gamma.logpdf(grid, params["a"])
            + stats.norm.logpdf(y[i], params["locs"][z])
            + stats.poisson.logpmf(x[i][:, None], params["ratio"][z] * grid).sum(0)
            for z in (0, 1)
        ]
        best = int(np.argmax([t.max() for t in tables]))
        assert found["z"][i] == best
        assert_allclose(found["u"][i], grid[np.argmax(tables[best])], atol=1e-3)


def test_float32():
    with jax.enable_x64(False):
        data = [v.copy() for v in PUMPS]  # JAX 0.10 remembers an array with the precision that it had first
        result = autoem.EM(pumps, check=True).run(KEY, 50, *data, progress_bar=False)
        assert result.params["a"].dtype == jnp.float32
        assert_allclose(result.params["a"], 0.823, rtol=0.02)


def test_data_may_be_traced():
    case = CASES["poisson_in_groups_with_a_factor"]()
    group, t, x = case.args
    params = {n: jnp.asarray(v) for n, v in case.params.items()}
    em = autoem.EM(case.model)
    jitted = jax.jit(lambda t, x: em.log_likelihood(params, group, t, x))
    assert_allclose(jitted(t, x), em.log_likelihood(params, group, t, x), rtol=1e-12)


def test_leaf_has_its_prior():
    def model(x):
        a = positive("a")
        with numpyro.plate("units", 3):
            u = numpyro.sample("u", dist.Gamma(a, 1.0))
            numpyro.sample("leaf", dist.Beta(a, 2.0))
            numpyro.sample("x", dist.Poisson(u), obs=x)

    posterior = autoem.EM(model).posterior({"a": 2.0}, np.array([1, 2, 3]))
    assert_allclose(posterior["leaf"].mean, 0.5)
    assert_allclose(posterior["u"].mean, np.array([3.0, 4.0, 5.0]) / 2)


def test_impossible_data():
    def model(t, x):
        a = positive("a")
        with numpyro.plate("units", 2):
            u = numpyro.sample("u", dist.Gamma(a, 1.0))
            numpyro.sample("x", dist.Poisson(t * u), obs=x)

    t = np.array([0.0, 1.0])
    value = autoem.EM(model).log_likelihood({"a": 2.0}, t, np.array([0, 3]))
    assert_allclose(value, stats.nbinom.logpmf(3, 2.0, 0.5), rtol=1e-12)
    with pytest.raises(ValueError, match="'u'"):
        autoem.EM(model).run(KEY, 5, t, np.array([1, 3]), progress_bar=False)


MATRIX = np.array([[1.3, 0.4], [0.4, 0.8]])
VECTORS = np.stack([np.sin(np.arange(8.0)), np.cos(2 * np.arange(8.0)) + 0.3], -1)
GROUPS = np.array([0, 0, 1, 2, 2, 2, 1, 3])


def wishart(x):
    """Precisions by group; the fifth group has no data."""
    df, m = positive("df", 5.0), numpyro.param("m", jnp.zeros(2))
    with numpyro.plate("groups", 5):
        u = numpyro.sample("u", dist.Wishart(df, scale_matrix=MATRIX))
    with numpyro.plate("rows", 8):
        numpyro.sample("x", dist.MultivariateNormal(m, precision_matrix=u[GROUPS]), obs=x)


def inverse_wishart(x):
    """Covariances by group, with a scale matrix to fit."""
    df, m = positive("df", 5.0), numpyro.param("m", jnp.zeros(2))
    scale = numpyro.param("scale", jnp.eye(2), constraint=constraints.positive_definite)
    with numpyro.plate("groups", 5):
        u = numpyro.sample("u", dist.InverseWishart(df, scale_matrix=scale))
    with numpyro.plate("rows", 8):
        numpyro.sample("x", dist.MultivariateNormal(m, covariance_matrix=u[GROUPS]), obs=x)


@pytest.mark.slow
@pytest.mark.parametrize("model", [wishart, inverse_wishart])
def test_matrices(model):
    """Prior times likelihood over the textbook's posterior at any one matrix, by SciPy (Anderson 2003, 7.7)."""
    df, m = 5.6, np.array([0.2, -0.3])
    params = {"df": jnp.asarray(df), "m": jnp.asarray(m)}
    params |= {"scale": jnp.asarray(MATRIX)} if model is inverse_wishart else {}

    def truth(df, m, scale):
        total, at = 0.0, np.array([[0.9, 0.1], [0.1, 1.4]])
        for group in range(5):
            r = VECTORS[group == GROUPS] - m
            if model is wishart:
                prior = stats.wishart.logpdf(at, df, scale)
                after = stats.wishart.logpdf(at, df + len(r), np.linalg.inv(np.linalg.inv(scale) + r.T @ r))
                covariance = np.linalg.inv(at)
            else:
                prior = stats.invwishart.logpdf(at, df, scale)
                after = stats.invwishart.logpdf(at, df + len(r), scale + r.T @ r)
                covariance = at
            total += prior - after
            total += stats.multivariate_normal.logpdf(r, np.zeros(2), covariance).sum() if len(r) else 0.0
        return total

    em = autoem.EM(model)
    derivation = em.derive(VECTORS)
    assert derivation.exact
    assert derivation.latents["u"].family == ("wishart" if model is wishart else "inverse wishart")
    assert_allclose(em.log_likelihood(params, VECTORS), truth(df, m, MATRIX), rtol=1e-11)
    step = 1e-5
    slopes = [(truth(df + step, m, MATRIX) - truth(df - step, m, MATRIX)) / (2 * step)]
    slopes += [(truth(df, m + step * e, MATRIX) - truth(df, m - step * e, MATRIX)) / (2 * step) for e in np.eye(2)]
    machine = derivation.machine
    _, statistics = machine.e_step(params, machine.prepare())
    found = jax.grad(lambda p: machine.complete.objective(p, statistics))(params)
    assert_allclose([found["df"], *found["m"]], slopes, rtol=1e-6)
    posterior = em.posterior(params, VECTORS)["u"]
    assert type(posterior) is (dist.Wishart if model is wishart else dist.InverseWishart)
    assert posterior.batch_shape == (5,) and posterior.event_shape == (2, 2)
    assert_allclose(posterior.concentration, df + np.bincount(GROUPS, minlength=5))
    certify(model, derivation, params, (VECTORS,), {}, draws=2)


# -- refused, with the reason ------------------------------------------------------------------------------------------


COUNTS = np.array([1, 2, 0, 4])
REALS = np.array([0.3, -1.2, 0.8, 2.0])


def unit_gamma(size=4):
    with numpyro.plate("units", size):
        return numpyro.sample("u", dist.Gamma(positive("a"), 1.0))


def poisson(rate):
    numpyro.sample("x", dist.Poisson(rate).to_event(1), obs=COUNTS)


def through_exp():
    poisson(jnp.exp(unit_gamma()))


def through_a_sum():
    poisson(unit_gamma() + 1.0)


def through_a_floor():
    poisson(1.0 + jnp.floor(unit_gamma()))


def clipped():
    poisson(jnp.maximum(unit_gamma(), 0.1))


def reached_in_part():
    poisson(jnp.concatenate([unit_gamma(3), jnp.ones(1)]))


def power_of_two_halves():
    """u[i] times one in each element, never u[i]²."""
    u = unit_gamma(2)
    poisson(jnp.concatenate([u, jnp.ones(2)]) * jnp.concatenate([jnp.ones(2), u]))


def product_of_neighbours():
    u = unit_gamma()
    poisson(u * u[::-1])


def square():
    poisson(unit_gamma() ** 2)


def mean_and_precision():
    u = unit_gamma()
    numpyro.sample("x", dist.Normal(u, 1 / jnp.sqrt(u)).to_event(1), obs=REALS)


def second_child_does_not_fit():
    u = unit_gamma()
    poisson(u)
    numpyro.sample("y", dist.Normal(u, 1.0).to_event(1), obs=REALS)


def shape_of_a_gamma():
    numpyro.sample("x", dist.Gamma(unit_gamma(), 1.0).to_event(1), obs=1 + COUNTS.astype(float))


def product_of_two():
    u = unit_gamma()
    with numpyro.plate("others", 4):
        v = numpyro.sample("v", dist.Gamma(2.0, 1.0))
    poisson(u * v)


def two_levels():
    u = unit_gamma()
    with numpyro.plate("units", 4):
        v = numpyro.sample("v", dist.Gamma(2.0, u))
        numpyro.sample("x", dist.Poisson(v), obs=COUNTS)


def gaussian_and_precision():
    u = unit_gamma()
    with numpyro.plate("units", 4):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(z, 1 / jnp.sqrt(u)), obs=REALS)


def in_a_factor():
    u = unit_gamma()
    poisson(u)
    numpyro.factor("extra", -jnp.sum(u))


def censored():
    u = unit_gamma()
    numpyro.factor("x", jnp.sum(dist.Exponential(u).log_prob(jnp.abs(REALS))))


def truncated_child():
    numpyro.sample("x", dist.TruncatedNormal(0.0, 1 / jnp.sqrt(unit_gamma()), low=0.0).to_event(1), obs=abs(REALS))


def truncated_prior():
    p = numpyro.sample("p", dist.Uniform(0.0, 0.5))
    positive("a")
    numpyro.sample("x", dist.Binomial(9, jnp.full(4, p)).to_event(1), obs=COUNTS)


def other_matrix():
    u = numpyro.sample("u", dist.Wishart(3.0 + positive("a"), scale_matrix=jnp.eye(2)))
    numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), covariance_matrix=u), obs=REALS[:2])


def turned_matrix():
    u = numpyro.sample("u", dist.Wishart(3.0 + positive("a"), scale_matrix=jnp.eye(2)))
    numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), precision_matrix=u[::-1, ::-1]), obs=REALS[:2])


def part_of_a_matrix():
    u = numpyro.sample("u", dist.Wishart(3.0 + positive("a"), scale_matrix=jnp.eye(3)))
    numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), precision_matrix=u[:2, :2]), obs=REALS[:2])


def beta(size=2):
    with numpyro.plate("units", size):
        return numpyro.sample("p", dist.Beta(positive("a"), 1.0))


def binomial(probs):
    numpyro.sample("x", dist.Binomial(9, probs).to_event(1), obs=COUNTS)


def now_this_now_that():
    p = beta(4)
    binomial(jnp.where(np.array([True, True, False, True]), p, 1 - p))


def this_and_that():
    p = beta(4)
    binomial(p * (1 - p))


def complement_of_a_part():
    binomial(1 - 0.5 * beta(4))


def complement_of_a_square():
    binomial(1 - beta(4) ** 2)


def two_less_it():
    binomial(1 - (2 - beta(4)))


def of_two_units():
    p = beta()
    numpyro.sample("x", dist.Multinomial(3, jnp.stack([p[0], 1 - p[1]])), obs=COUNTS[:2])


def twice_the_same():
    p = beta()
    numpyro.sample("x", dist.Multinomial(3, jnp.stack([p[0], p[0]])), obs=COUNTS[:2])


def complement_of_a_component():
    p = numpyro.sample("p", dist.Dirichlet(positive("a") * jnp.ones(4)))
    binomial(1 - p)


def scaled_probability():
    p = numpyro.sample("p", dist.Beta(positive("a"), 1.0))
    numpyro.sample("x", dist.Binomial(9, jnp.full(4, 0.5 * p)).to_event(1), obs=COUNTS)


def reversed_probabilities():
    p = numpyro.sample("p", dist.Dirichlet(positive("a") * jnp.ones(3)))
    numpyro.sample("x", dist.Multinomial(6, p[::-1]), obs=COUNTS[:3] + 1)


def one_of_the_probabilities():
    p = numpyro.sample("p", dist.Dirichlet(positive("a") * jnp.ones(3)))
    numpyro.sample("x", dist.Binomial(9, jnp.full(4, p[0])).to_event(1), obs=COUNTS)


def weights_of_a_mixture():
    locs = numpyro.param("locs", jnp.array([-1.0, 1.0]))
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("rows", 4):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=REALS)


def chosen_by_a_state():
    u = unit_gamma(2)
    with numpyro.plate("rows", 4):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Poisson(u[z]), obs=COUNTS)


def masked_latent():
    with handlers.mask(mask=np.array([True, True, False, True])):
        u = unit_gamma()
    poisson(u)


def scaled_latent():
    with handlers.scale(scale=2.0):
        u = unit_gamma()
    poisson(u)


def as_a_mask():
    u = unit_gamma()
    with handlers.mask(mask=u > 1):
        poisson(positive("b") * jnp.ones(4))


def half_normal():
    positive("a")
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.sample("x", dist.Normal(0.0, s * jnp.ones(4)).to_event(1), obs=REALS)


def offset_location():
    u = numpyro.sample("u", dist.HalfNormal(positive("a")))
    numpyro.sample("x", dist.Normal(u + REALS, 1.0).to_event(1), obs=REALS)


def power_of_a_location():
    u = numpyro.sample("u", dist.HalfNormal(positive("a")))
    numpyro.sample("x", dist.Normal(u**2 * REALS, 1.0).to_event(1), obs=REALS)


def without_a_datum():
    """Exponential where there are no data, truncated normal where there are."""
    with numpyro.plate("units", 3):
        u = numpyro.sample("u", dist.Exponential(positive("a")))
    numpyro.sample("x", dist.Normal(u[jnp.array([0, 0, 1, 1])], 1.0).to_event(1), obs=REALS)


def mean_and_rate():
    u = numpyro.sample("u", dist.Exponential(positive("a")))
    numpyro.sample("x", dist.Normal(u * jnp.ones(4), 1.0).to_event(1), obs=REALS)
    numpyro.sample("y", dist.Poisson(u * jnp.ones(4)).to_event(1), obs=COUNTS)


def between_two_bounds():
    u = numpyro.sample("u", dist.TruncatedNormal(0.0, positive("a"), low=0.0, high=2.0))
    numpyro.sample("x", dist.Normal(u * jnp.ones(4), 1.0).to_event(1), obs=REALS)


def half_cauchy():
    positive("a")
    s = numpyro.sample("s", dist.HalfCauchy(1.0))
    numpyro.sample("x", dist.Normal(0.0, s * jnp.ones(4)).to_event(1), obs=REALS)


def prior_of_a_parameter():
    u = numpyro.sample("u", dist.Gamma(2.0, 1.0))
    poisson(numpyro.sample("m", dist.Exponential(u)) * jnp.ones(4))


REFUSED = {
    through_exp: "the rate of site 'x' .* is a nonlinear function .exp. in it",
    through_a_sum: "is affine in it",
    through_a_floor: "jumps as the latent .u. varies",
    clipped: "is a nonlinear function",
    reached_in_part: "some elements .* do not depend on it",
    power_of_two_halves: "is a nonlinear function .mul. in it",
    product_of_neighbours: "each element of the rate of site 'x' .* depends on several elements of it",
    square: r"through \{log u, u\} and the rate of site 'x' .Poisson. through \{log u, u\^2\}",
    mean_and_precision: "it enters site 'x' through both loc and scale",
    second_child_does_not_fit: r"the loc of site 'y' .Normal. through \{u, uu'\}",
    shape_of_a_gamma: "the concentration of site 'x' .* has no features",
    product_of_two: "holds the latent 'u' too: together they are not conjugate",
    two_levels: "holds the latent 'u' too: together they are not conjugate",
    gaussian_and_precision: "the precision of site 'z' .Normal., .* is not in proportion to 'u': jointly",
    in_a_factor: "site 'extra' .Unit. depends on it, and Unit has no canonical form",
    censored: "site 'x' .Unit. depends on it",
    truncated_child: "the scale of site 'x' .* depends on it, and that argument has no features",
    truncated_prior: r"through \{log u\} and the probs of site .x. \(Binomial\) through \{log u, log\(1-u\)\}",
    now_this_now_that: "several elements of it|so the two are not conjugate",
    other_matrix: "so the two are not conjugate",
    turned_matrix: "not a selection of whole vectors",
    part_of_a_matrix: "not a selection of whole vectors",
    this_and_that: "depends on several elements of it",
    complement_of_a_part: "is affine in it",
    complement_of_a_square: "is a nonlinear function",
    two_less_it: "is affine in it",
    of_two_units: "several elements of it in one matrix",
    twice_the_same: "so the two are not conjugate",
    complement_of_a_component: "is affine in it",
    scaled_probability: "is affine in it, not a selection",
    reversed_probabilities: "not a selection of whole vectors",
    one_of_the_probabilities: "so the two are not conjugate",
    weights_of_a_mixture: "An element of the latent 'w' meets several elements of 'z'",
    chosen_by_a_state: "depends on several elements of it",
    masked_latent: "is masked",
    scaled_latent: "has a scale",
    as_a_mask: "the mask of site 'x' depends on it",
    half_normal: r"its own density through \{u, u²\} and the scale of site 'x' .* through \{log u, u\^-2\}",
    offset_location: "is affine in it",
    power_of_a_location: r"its own density through \{u, u²\} and the loc of site 'x'",
    without_a_datum: "An element of the latent 'u' meets no datum",
    mean_and_rate: "the two are not conjugate",
    between_two_bounds: "is neither Gaussian nor conjugate",
    half_cauchy: "HalfCauchy is neither Gaussian nor conjugate",
    prior_of_a_parameter: "The prior of the maximised site 'm' depends on the latent",
}


def test_a_dirichlet_multinomial_in_closed_form():
    case = CASES["dirichlet_multinomial"]()
    group, x, y = case.args
    alpha = np.array([0.9, 1.7, 1.2])
    expected = 0.0
    for unit, own in enumerate(x):
        count = own + np.bincount(y[np.asarray(group) == unit], minlength=3)
        expected += special.gammaln(10) - special.gammaln(own + 1).sum()
        expected += special.gammaln(alpha.sum()) - special.gammaln((alpha + count).sum())
        expected += (special.gammaln(alpha + count) - special.gammaln(alpha)).sum()
    found = autoem.EM(case.model).log_likelihood({"alpha": jnp.asarray(alpha)}, *case.args)
    assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize("model", REFUSED, ids=lambda m: m.__name__)
def test_not_conjugate_for_the_reason(model):
    """What is not conjugate is refused, or integrated numerically or sampled and labelled so; the reason is told."""
    em = autoem.EM(model, maximize=["m"] if model is prior_of_a_parameter else None)
    try:
        derivation = em.derive()
    except NotImplementedError as refusal:
        told = str(refusal)
    else:
        found = [f for f in derivation.latents.values() if f.method in ("quadrature", "monte carlo")]
        assert found and not derivation.exact
        assert not any(f.exact for f in found)
        told = " ".join(reason for f in found for reason in f.declined)
    assert re.search(REFUSED[model], told), told
