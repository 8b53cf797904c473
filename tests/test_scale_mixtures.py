"""Scale mixtures of normals: quadrature over the hidden precision, direct maximisation, and the density as written."""

import functools
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
import pytest  # noqa: E402
from numpy.testing import assert_allclose  # noqa: E402
from numpyro.contrib.control_flow import scan  # noqa: E402
from numpyro.infer.util import log_density  # noqa: E402
from scipy import integrate, optimize, stats  # noqa: E402

import autoem  # noqa: E402
from autoem._family import find_family  # noqa: E402
from tests.zoo import positive, real, simplex  # noqa: E402

KEY = jax.random.PRNGKey(0)
RNG = np.random.default_rng(0)

MIXTURES = {
    "StudentT": lambda loc, scale: dist.StudentT(2.5, loc, scale),
    "Cauchy": dist.Cauchy,
    "Logistic": dist.Logistic,
    "SoftLaplace": dist.SoftLaplace,
}


def parts(fn):
    family = find_family(fn)
    return family, {n: jnp.asarray(getattr(fn, n)) for n in family.argument_ndims}


# -- the hidden precision --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("df", [0.7, 4.0])
def test_expected_precision_of_a_student_t_by_quadrature(df):
    family, arguments = parts(dist.StudentT(df, 0.0, 1.0))
    for delta in (0.0, 0.4, 7.0):

        def joint(tau, delta=delta):
            return stats.gamma.pdf(tau, df / 2, scale=2 / df) * stats.norm.pdf(delta, 0, tau**-0.5)

        total, first = (integrate.quad(lambda t, p=p: t**p * joint(t), 0, np.inf)[0] for p in (0, 1))
        assert_allclose(family.expected_precision(delta**2, arguments), first / total, rtol=1e-6)


@pytest.mark.parametrize("name", MIXTURES)
def test_expected_precision_is_the_slope_of_the_density(name):
    """E[τ] (x - μ) / σ² = -∂ log p / ∂x, with NumPyro's own density (Fisher's identity)."""
    fn = MIXTURES[name](0.3, 1.7)
    family, arguments = parts(fn)
    x = jnp.array([-40.0, -1.0, 0.29999, 0.3001, 2.0, 300.0])
    slopes = jax.vmap(jax.grad(fn.log_prob))(x)
    expected = family.expected_precision(((x - 0.3) / 1.7) ** 2, arguments)
    assert_allclose(-slopes, expected * (x - 0.3) / 1.7**2, rtol=1e-8)


@pytest.mark.parametrize("name", MIXTURES)
def test_conditionals_are_lower_bounds_that_touch(name):
    x, weights = RNG.normal(0, 2, 7), RNG.uniform(0.1, 2, 7)
    family, now = parts(MIXTURES[name](0.5, 1.2))

    def density(**moved):
        at = {**now, **moved}
        return float(jnp.sum(weights * family.kind(**at).log_prob(x)))

    loc = family.weighted_conditional("loc", x, weights, now)
    scale = family.weighted_conditional("scale", x, weights, now)

    def bound_loc(u):
        return float(jnp.sum(loc.linear * u - loc.precision * u**2 / 2))

    def bound_scale(u):
        return float(jnp.sum(scale.log * np.log(u) + scale.power * u**scale.exponent))

    for u in (-3.0, 0.1, 0.49, 0.7, 9.0):
        assert density(loc=u) - density() >= bound_loc(u) - bound_loc(0.5) - 1e-12
    for u in (0.05, 0.9, 1.21, 2.0, 50.0):
        assert density(scale=u) - density() >= bound_scale(u) - bound_scale(1.2) - 1e-12


# -- fits ------------------------------------------------------------------------------------------------------------


@functools.cache
def stackloss():
    table = np.loadtxt(Path(__file__).parents[1] / "examples/data/stackloss.csv", delimiter=",", skiprows=1)
    return np.column_stack([np.ones(len(table)), table[:, 1:4]]), table[:, 4]


def regression(x, y, df=None):
    df = positive("df") if df is None else df
    beta, sigma = real("beta", x.shape[1]), positive("sigma")
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.StudentT(df, x @ beta, sigma), obs=y)


def test_stackloss_with_known_degrees_of_freedom():
    x, y = stackloss()
    em = autoem.EM(regression, check=True, strict=True)
    result = em.run(KEY, 500, x, y, df=4.0, progress_bar=False)
    assert result.converged and result.num_steps < 60
    assert_allclose(result.log_likelihood[-1], -51.423337, atol=1e-6)
    assert (np.diff(result.log_likelihood) >= -1e-10).all()
    page = str(result.derivation)
    assert "StudentT is a Normal with a Gamma-distributed precision for every datum" in page
    assert "expected precisions of y" in result.derivation.params["beta"].reason


def test_stackloss_with_free_degrees_of_freedom():
    """The step in df is on the likelihood itself (ECME), so that it does not crawl."""
    result = autoem.EM(regression).run(KEY, 500, *stackloss(), progress_bar=False)
    assert result.converged and result.num_steps < 200
    assert_allclose(result.log_likelihood[-1], -49.567677, atol=1e-6)
    assert_allclose(result.params["df"], 1.076701, rtol=1e-5)
    assert_allclose(result.params["beta"], [-38.482663, 0.851990, 0.490247, -0.070565], rtol=1e-5)


@pytest.mark.parametrize("df", [1e-2, 1e6])
def test_density_is_that_of_the_model_as_written(df):
    x, y = stackloss()
    params = {"beta": np.array([-38.0, 0.9, 0.5, -0.1]), "sigma": np.array(1.3)}
    expected, _ = log_density(regression, (x, y), {"df": df}, params)
    assert_allclose(autoem.EM(regression).log_likelihood(params, x, y, df=df), expected, rtol=1e-14)


def fitted(model, *args, start, **options):
    """A fit that never goes down."""
    em = autoem.EM(model, **options)
    result = em.run(KEY, 3000, *args, init_params=start, tol=1e-10, progress_bar=False)
    assert (np.diff(result.log_likelihood) >= -1e-9 * abs(result.log_likelihood[-1])).all()
    return em, result


def test_groups_and_cauchy_noise():
    """Elements selected by an index, a scale for each group, a prior on the locations."""
    group = np.repeat([0, 1, 2], 8)
    y = np.array([-1.0, 0.5, 3.0])[group] + RNG.standard_cauchy(24)

    def model(group, y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
        scale = positive("scale", 3)
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Cauchy(mu[group], scale[group]), obs=y)

    _, result = fitted(model, group, y, start={"mu": np.zeros(3), "scale": np.ones(3)}, maximize=["mu"])
    assert result.derivation.closed_form
    for k in range(3):

        def negative(v, k=k):
            loss = -stats.cauchy.logpdf(y[group == k], v[0], np.exp(v[1])).sum()
            return loss - stats.norm.logpdf(v[0], 0, 2)

        best = optimize.minimize(negative, [result.params["mu"][k], np.log(result.params["scale"][k])], tol=1e-10)
        assert_allclose(result.params["mu"][k], best.x[0], atol=1e-4)
        assert_allclose(result.params["scale"][k], np.exp(best.x[1]), rtol=1e-4)


def test_multivariate_student_t():
    x = RNG.standard_t(3, (60, 2)) @ np.array([[1.0, 0.5], [0.0, 0.7]]) + np.array([1.0, -1.0])

    def model(x):
        df, loc = positive("df"), real("loc", 2)
        root = numpyro.param("root", jnp.eye(2), constraint=dist.constraints.lower_cholesky)
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.MultivariateStudentT(df, loc, root), obs=x)

    _, result = fitted(model, x, start={"df": np.array(4.0)})
    assert result.converged
    assert {n: f.method for n, f in result.derivation.params.items()} == {
        "df": "newton", "loc": "closed form", "root": "closed form",
    }  # fmt: skip
    at = [*result.params["loc"], *np.asarray(result.params["root"])[[0, 1, 1], [0, 0, 1]], np.log(result.params["df"])]

    def negative(v):
        root = np.array([[v[2], 0.0], [v[3], v[4]]])
        return -stats.multivariate_t.logpdf(x, v[:2], root @ root.T, np.exp(v[5])).sum()

    assert_allclose(result.log_likelihood[-1], -negative(at), rtol=1e-10)
    best = optimize.minimize(negative, at, method="BFGS")
    assert -best.fun - result.log_likelihood[-1] < 1e-6


def mixture(x):
    weights, locs, scales = simplex("weights", 2), real("locs", 2), positive("scales", 2)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.StudentT(3.0, locs[z], scales[z]), obs=x)


def mixture_as_for_nuts(x):
    weights, locs, scales = simplex("weights", 2), real("locs", 2), positive("scales", 2)
    components = dist.StudentT(3.0, locs, scales)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), components), obs=x)


@pytest.mark.parametrize("model", [mixture, pytest.param(mixture_as_for_nuts, marks=pytest.mark.slow)])
def test_mixture(model):
    """Enumerate z; the precision given z."""
    x = np.where(RNG.uniform(size=80) < 0.4, -3.0, 2.0) + RNG.standard_t(3, 80)
    start = {"weights": np.array([0.5, 0.5]), "locs": np.array([-1.0, 1.0]), "scales": np.ones(2)}
    _, result = fitted(model, x, start=start, check=True)
    assert result.converged and result.derivation.closed_form and result.derivation.exact

    def negative(v):
        logs = [stats.t.logpdf(x, 3, v[1 + k], np.exp(v[3 + k])) for k in (0, 1)]
        return -np.logaddexp(logs[0] - np.logaddexp(0, v[0]), logs[1] - np.logaddexp(0, -v[0])).sum()

    p = result.params
    best = optimize.minimize(negative, [np.log(p["weights"][1] / p["weights"][0]), *p["locs"], *np.log(p["scales"])])
    assert_allclose(result.log_likelihood[-1], -best.fun, atol=1e-6)
    assert_allclose(p["locs"], best.x[1:3], atol=1e-3)


@pytest.mark.slow
def test_chain():
    x = np.repeat([0.0, 4.0, 0.0, 4.0], 10) + RNG.standard_t(2, 40)

    def model(x):
        table, locs, scale = simplex("table", 2, 2), real("locs", 2), positive("scale")

        def step(z, y):
            z = numpyro.sample("z", dist.Categorical(table[z]))
            numpyro.sample("x", dist.StudentT(2.0, locs[z], scale), obs=y)
            return z, None

        scan(step, 0, x)

    _, result = fitted(model, x, start={"locs": np.array([-0.5, 3.0])})
    assert result.converged and result.derivation.closed_form
    assert_allclose(np.sort(result.params["locs"]), [0.0, 4.0], atol=1.0)


def test_switched_off():
    x, y = stackloss()
    em = autoem.EM(regression, augment=False)
    derivation = em.derive(x, y, df=4.0)
    assert derivation.params["beta"].method == "newton" and "Gamma-distributed" not in str(derivation)
    params = {"beta": np.array([-38.0, 0.9, 0.5, -0.1]), "sigma": np.array(1.3)}
    assert_allclose(em.log_likelihood(params, x, y, df=4.0), autoem.EM(regression).log_likelihood(params, x, y, df=4.0))


@pytest.mark.slow
def test_beside_a_gaussian_latent():
    """An effect and a precision in one factor are not jointly conjugate: quadrature, and the same as switched off."""
    group = np.repeat(np.arange(4), 5)
    y = RNG.normal(size=4)[group] + RNG.standard_t(4, 20)

    def model(group, y):
        mu, sigma = real("mu"), positive("sigma")
        with numpyro.plate("groups", 4):
            effect = numpyro.sample("effect", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.StudentT(4.0, mu + effect[group], sigma), obs=y)

    em = autoem.EM(model)
    result = em.run(KEY, 200, group, y, progress_bar=False)
    derivation = em.derive(group, y)
    assert derivation.latents["effect"].method == "quadrature" and not derivation.exact
    assert derivation.params["mu"].method == "closed form"
    plain = autoem.EM(model, augment=False)
    assert_allclose(
        plain.log_likelihood(result.params, group, y), em.log_likelihood(result.params, group, y), rtol=1e-9
    )
    slope = jax.grad(lambda m: em.log_likelihood({**result.params, "mu": m}, group, y))(result.params["mu"])
    assert abs(slope) < 1e-3


def test_a_student_t_that_is_a_latent_is_integrated_numerically():
    def model(x):
        scale = positive("scale")
        with numpyro.plate("rows", len(x)):
            u = numpyro.sample("u", dist.StudentT(5.0, 0.0, scale))
            numpyro.sample("x", dist.Normal(u, 0.5), obs=x)

    x = np.array([0.3, -2.0])
    em = autoem.EM(model)
    assert em.derive(x).latents["u"].method == "quadrature"
    expected = sum(
        np.log(integrate.quad(lambda u, v=v: stats.t.pdf(u, 5, 0, 0.8) * stats.norm.pdf(v, u, 0.5), -30, 30,
                              points=[0, v])[0]) for v in x
    )  # fmt: skip
    assert_allclose(em.log_likelihood({"scale": 0.8}, x), expected, rtol=1e-6)


def test_all_data_at_one_point_is_degenerate():
    def model(x):
        loc, scale = real("loc"), positive("scale")
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.StudentT(0.5, loc, scale), obs=x)

    x = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 5.0])
    with pytest.warns(UserWarning, match="'scale'.*floor"):
        result = autoem.EM(model).run(KEY, 2000, x, init_params={"loc": 1.0, "scale": 0.5}, progress_bar=False)
    assert not result.converged


# -- absolute deviations ---------------------------------------------------------------------------------------------


def quantile_regression(x, y, q=None):
    beta, scale = real("beta", x.shape[1]), positive("scale")
    fn = dist.Laplace(x @ beta, scale) if q is None else dist.AsymmetricLaplaceQuantile(x @ beta, scale, q)
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", fn, obs=y)


@pytest.mark.parametrize("q", [0.3, pytest.param(0.5, marks=pytest.mark.slow)])
def test_quantile_regression_is_the_linear_programme(q):
    x, y = stackloss()
    n, p = x.shape
    cost = np.r_[np.zeros(p), np.full(n, q), np.full(n, 1 - q)]
    bounds = [(None, None)] * p + [(0, None)] * 2 * n
    best = optimize.linprog(cost, A_eq=np.c_[x, np.eye(n), -np.eye(n)], b_eq=y, bounds=bounds)
    result = autoem.EM(quantile_regression).run(KEY, 500, x, y, q=q, progress_bar=False)
    assert result.converged and result.num_steps < 60
    assert (np.diff(result.log_likelihood) >= -1e-10).all()
    assert_allclose(result.params["beta"], best.x[:p], rtol=1e-4)
    assert_allclose(result.params["scale"], best.fun / n, rtol=1e-7)
    assert_allclose(result.log_likelihood[-1], n * (np.log(q * (1 - q) / (best.fun / n)) - 1), atol=1e-6)
    assert "exponentially distributed variance" in str(result.derivation)


@pytest.mark.slow
def test_least_absolute_deviations():
    x, y = stackloss()
    ours, quantile = (autoem.EM(quantile_regression).run(KEY, 500, x, y, q=q, progress_bar=False) for q in (None, 0.5))
    assert_allclose(ours.params["beta"], quantile.params["beta"], rtol=1e-4)
    assert_allclose(ours.log_likelihood[-1], quantile.log_likelihood[-1], atol=1e-6)


def test_location_of_an_asymmetric_laplace_is_a_quantile():
    group = np.repeat([0, 1], [31, 42])
    y = RNG.gamma(2.0, 1.0, 73) + 3 * group

    def model(group, y):
        loc, scale, kappa = real("loc", 2), positive("scale"), positive("kappa")
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.AsymmetricLaplace(loc[group], scale, kappa), obs=y)

    em = autoem.EM(model)
    start = {"loc": np.zeros(2), "scale": np.array(1.0), "kappa": np.array(0.5)}
    q = 0.5**2 / (1 + 0.5**2)
    state, _ = em.update(em.init(KEY, group, y, init_params=start), group, y)
    for k in (0, 1):
        own = np.sort(y[group == k])
        assert_allclose(state.params["loc"][k], own[int(np.ceil(q * len(own))) - 1])
