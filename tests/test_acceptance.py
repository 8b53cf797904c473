"""Classic problems, with published answers or answers found here by direct maximisation with SciPy, without EM."""

import csv
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
import pytest  # noqa: E402
from numpy.testing import assert_allclose  # noqa: E402
from numpyro.distributions import constraints  # noqa: E402
from scipy import stats  # noqa: E402
from scipy.optimize import minimize  # noqa: E402
from scipy.special import expit, log_softmax, logsumexp  # noqa: E402

import autoem  # noqa: E402
from tests.zoo import abo_blood_groups, linkage_individuals, positive, real, simplex, unit  # noqa: E402

DATA = Path(__file__).parents[1] / "examples" / "data"
KEY = jax.random.PRNGKey(0)


def table(name):
    with (DATA / name).open() as file:
        rows = list(csv.DictReader(file))
    return {column: np.array([float(row[column]) for row in rows]) for column in rows[0]}


def fit(model, *args, start, num_steps=20_000, **options):
    em = autoem.EM(model, **options)
    result = em.run(KEY, num_steps, *args, init_params=start, tol=1e-13, progress_bar=False)
    steps = np.diff(np.asarray(result.log_likelihood))
    assert (steps >= -1e-9 * np.abs(result.log_likelihood[-1])).all()
    return em, result, float(em.log_likelihood(result.params, *args))


def direct(negative, start):
    """The maximum, found by BFGS with numerical gradients and polished by Nelder-Mead: no EM, no JAX, no NumPyro."""
    best = minimize(negative, start, method="BFGS")
    best = minimize(negative, best.x, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-12, "maxiter": 20_000})
    return best.x, -best.fun


def log_weights(share):
    """Of two components, from one real number."""
    return np.array([-np.logaddexp(0, -share), -np.logaddexp(0, share)])


# -- published answers ----------------------------------------------------------------------------------------------


def test_linkage_from_counts():
    """Cells that are sums of latent cells: Newton on the likelihood itself takes a few steps."""

    def model(counts):
        theta = unit("theta")
        cells = jnp.stack([0.5 + theta / 4, (1 - theta) / 4, (1 - theta) / 4, theta / 4])
        numpyro.sample("counts", dist.Multinomial(197, cells), obs=counts)

    counts = np.array([125, 18, 20, 34])
    em, result, _ = fit(model, counts, start={"theta": 0.5})
    assert_allclose(result.params["theta"], (15 + np.sqrt(53809)) / 394, rtol=1e-8)
    assert_allclose(em.standard_errors(result.params, counts)["theta"], 0.051467, atol=1e-6)


def test_emission_tomography_keeps_the_total():
    """A Poisson rate that is a sum of positive terms: at the maximum the fitted total is that of the counts."""
    rng = np.random.default_rng(3)
    paths = rng.uniform(0.1, 1.0, (20, 4))
    y = rng.poisson(paths @ np.array([4.0, 9.0, 2.0, 6.0]))

    def model(paths, y):
        rates = positive("rates", 4)
        with numpyro.plate("detectors", len(y)):
            numpyro.sample("y", dist.Poisson(paths @ rates), obs=y)

    _, result, value = fit(model, paths, y, start={"rates": np.full(4, 3.0)})
    assert_allclose((paths @ result.params["rates"]).sum(), y.sum(), rtol=1e-6)

    def negative(v):
        return -stats.poisson.logpmf(y, paths @ np.exp(v)).sum()

    assert_allclose(value, direct(negative, np.log(np.maximum(result.params["rates"], 1e-3)))[1], atol=1e-6)


@pytest.mark.parametrize("kind", ["weibull", "tobit"])
def test_censored(kind):
    """NumPyro's censored distributions keep their log density, which Newton climbs."""
    rng = np.random.default_rng(1)
    x, noise = rng.normal(size=60), rng.normal(size=60)
    if kind == "tobit":
        y, out = np.maximum(1 + x + noise, 0), (1 + x + noise <= 0).astype(int)
    else:
        y, limit = rng.weibull(1.5, 60), rng.uniform(0.2, 2.0, 60)
        y, out = np.minimum(y, limit), (y > limit).astype(int)

    def model(x, y, out):
        scale, b = positive("scale"), real("b", 2)
        if kind == "tobit":
            fn = dist.LeftCensoredDistribution(dist.Normal(b[0] + b[1] * x, scale), out)
        else:
            fn = dist.RightCensoredDistribution(dist.Weibull(jnp.exp(b[0] + b[1] * x), scale), out)
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", fn, obs=y)

    def negative(v):
        loc, scale = v[0] + v[1] * x, np.exp(v[2])
        if kind == "tobit":
            fn = stats.norm(loc, scale)
            return -np.where(out == 1, fn.logcdf(y), fn.logpdf(y)).sum()
        fn = stats.weibull_min(scale, scale=np.exp(loc))
        return -np.where(out == 1, fn.logsf(y), fn.logpdf(y)).sum()

    _, result, value = fit(model, x, y, out, start={"scale": 1.0, "b": np.zeros(2)})
    best, expected = direct(negative, np.zeros(3))
    assert_allclose(value, expected, atol=1e-6)
    assert_allclose([*result.params["b"], result.params["scale"]], [*best[:2], np.exp(best[2])], rtol=1e-4)


def poissons(x):
    weights, rates = simplex("weights", 2), positive("rates", 2)
    with numpyro.plate("day", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("deaths", dist.Poisson(rates[z]), obs=x)


def test_deaths_in_the_times():
    """Hasselblad 1969: two Poissons. EM is slow here: its largest eigenvalue is 0.99567."""
    deaths = np.repeat(np.arange(10), [162, 267, 271, 185, 111, 61, 27, 8, 3, 1])
    _, result, value = fit(poissons, deaths, start={"weights": [0.4, 0.6], "rates": [1.0, 3.0]})
    assert_allclose(value, -1989.945860, atol=2e-6)
    assert_allclose(result.params["weights"][0], 0.359885, atol=1e-3)
    assert_allclose(result.params["rates"], [1.256095, 2.663404], atol=2e-3)


def normals(x):
    weights, locs, scales = simplex("weights", 2), real("locs", 2), positive("scales", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scales[z]), obs=x)


def test_faithful_waiting():
    start = {"weights": [0.5, 0.5], "locs": [50.0, 80.0], "scales": [10.0, 10.0]}
    _, result, value = fit(normals, table("faithful.csv")["waiting"], start=start)
    assert result.converged
    assert_allclose(value, -1034.001750, atol=1e-6)
    assert_allclose(result.params["weights"], [0.360886, 1 - 0.360886], atol=1e-5)
    assert_allclose(result.params["locs"], [54.614856, 80.091069], atol=1e-4)
    assert_allclose(result.params["scales"], [5.871219, 5.867734], atol=1e-4)


def both_columns():
    columns = table("faithful.csv")
    return np.stack([columns["eruptions"], columns["waiting"]], -1)


def multivariate(x, components, shared):
    weights, locs = simplex("weights", components), real("locs", components, 2)
    shape = () if shared else (components,)
    covs = numpyro.param("covs", np.broadcast_to(np.eye(2), (*shape, 2, 2)), constraint=constraints.positive_definite)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(locs[z], covs if shared else covs[z]), obs=x)


def test_faithful_both_columns():
    cov = np.diag([0.5, 50.0])
    start = {"weights": [0.5, 0.5], "locs": [[2.0, 55.0], [4.3, 80.0]], "covs": [cov, cov]}
    _, result, value = fit(multivariate, both_columns(), 2, False, start=start)
    assert result.converged
    assert_allclose(value, -1130.263960, atol=1e-6)


def test_faithful_shared_covariance():
    start = {"weights": [0.3, 0.3, 0.4], "locs": [[2.0, 55.0], [3.8, 78.0], [4.6, 82.0]], "covs": np.diag([0.3, 40.0])}
    _, _, value = fit(multivariate, both_columns(), 3, True, start=start)
    assert_allclose(value, -1126.315928, atol=1e-6)


COUNTS = np.array([125, 18, 20, 34])


def linkage_split_cell(theta):
    return np.array([0.5 + theta / 4, (1 - theta) / 4, (1 - theta) / 4, theta / 4])


def test_linkage():
    """Dempster, Laird and Rubin 1977, every animal with its own hidden cell."""
    theta = (15 + 53809**0.5) / 394
    em, result, value = fit(linkage_individuals, np.repeat([0, 1, 2, 3], COUNTS), start={"theta": 0.5})
    assert_allclose(result.params["theta"], theta, atol=1e-7)
    assert_allclose(value, COUNTS @ np.log(linkage_split_cell(theta)), atol=1e-9)
    errors = em.standard_errors(result.params, np.repeat([0, 1, 2, 3], COUNTS))
    assert_allclose(errors["theta"], 0.051467, atol=2e-6)


def test_linkage_rate_of_convergence():
    """The published rate is 0.132779."""
    cells = np.repeat([0, 1, 2, 3], COUNTS)
    em = autoem.EM(linkage_individuals)
    state, best, errors = em.init(KEY, cells, init_params={"theta": 0.5}), (15 + 53809**0.5) / 394, []
    step = jax.jit(lambda state: em.update(state, cells))
    for _ in range(6):
        state, _ = step(state)
        errors.append(float(em.get_params(state)["theta"]) - best)
    assert_allclose(errors[-1] / errors[-2], 0.132779, atol=1e-4)


def linkage_counts(y):
    """The same with the hidden part of the first count as one Binomial latent."""
    theta = unit("theta")
    cells = jnp.stack([0.5 + theta / 4, (1 - theta) / 4, (1 - theta) / 4, theta / 4])
    numpyro.sample("y", dist.Multinomial(int(y.sum()), cells), obs=y)
    numpyro.sample("hidden", dist.Binomial(int(y[0]), theta / 4 / cells[0]))


def test_linkage_by_counts():
    em, result, value = fit(linkage_counts, COUNTS, start={"theta": 0.5})
    theta = (15 + 53809**0.5) / 394
    assert_allclose(result.params["theta"], theta, atol=1e-6)
    assert_allclose(value, stats.multinomial.logpmf(COUNTS, 197, linkage_split_cell(theta)), atol=1e-8)
    posterior = em.posterior(result.params, COUNTS)["hidden"]
    assert_allclose(posterior.probs, stats.binom.pmf(np.arange(126), 125, theta / (2 + theta)), atol=1e-8)


def ratings():
    columns = {name: values.astype(int) - 1 for name, values in table("dawid_skene.csv").items()}
    return columns["item"], columns["rater"], columns["rating"]


def dawid_skene(item, rater, rating):
    prevalence = simplex("prevalence", 4)
    confusion = numpyro.param("confusion", np.full((5, 4, 4), 0.25), constraint=constraints.simplex)
    with numpyro.plate("items", 45):
        z = numpyro.sample("z", dist.Categorical(prevalence))
    with numpyro.plate("ratings", len(rating)):
        numpyro.sample("rating", dist.Categorical(confusion[rater, z[item]]), obs=rating)


def from_votes(item, rater, rating, label):
    """Prevalences and confusions when the items' label probabilities are taken as known."""
    confusion = np.zeros((5, 4, 4))
    for i, r, y in zip(item, rater, rating, strict=True):
        confusion[r, :, y] += label[i]
    return {"prevalence": label.mean(0), "confusion": confusion / confusion.sum(-1, keepdims=True)}


def vote_shares(item, rating):
    votes = np.zeros((45, 4))
    np.add.at(votes, (item, rating), 1)
    return votes / votes.sum(1, keepdims=True)


def test_dawid_skene_from_votes():
    """Dawid and Skene 1979: 45 patients, five anaesthetists, four grades. Their start: shares of the votes."""
    item, rater, rating = ratings()
    start = from_votes(item, rater, rating, vote_shares(item, rating))
    _, result, value = fit(dawid_skene, item, rater, rating, start=start)
    assert_allclose(value, -192.890881, atol=1e-6)
    assert_allclose(result.params["prevalence"], [0.3996, 0.4220, 0.1118, 0.0667], atol=6e-5)
    assert result.converged


def test_dawid_skene_better_mode():
    """Half the votes, half chance: this start reaches the better mode."""
    item, rater, rating = ratings()
    noise = np.random.default_rng(4).dirichlet(np.ones(4), size=45)
    start = from_votes(item, rater, rating, 0.5 * vote_shares(item, rating) + 0.5 * noise)
    assert_allclose(fit(dawid_skene, item, rater, rating, start=start)[2], -191.568856, atol=1e-6)


@pytest.mark.parametrize(
    ("counts", "published"),
    [
        ([186, 38, 13, 284], [0.2136, 0.0501, 0.7363]),  # Clarke et al. 1959, the example in Lange's textbooks
        ([182, 60, 17, 176], None),
    ],
)
def test_abo_blood_groups(counts, published):
    phenotype = np.repeat([0, 1, 2, 3], counts)
    em, result, value = fit(abo_blood_groups, phenotype, start={"p": [0.3, 0.2, 0.5]})
    p = np.asarray(result.params["p"])

    def log_likelihood(a, b):
        o = 1 - a - b
        return np.dot(counts, np.log([a * a + 2 * a * o, b * b + 2 * b * o, 2 * a * b, o * o]))

    def negative(free):
        weights = np.exp(log_softmax([*free, 0.0]))
        return -log_likelihood(weights[0], weights[1])

    _, best = direct(negative, np.zeros(2))
    assert_allclose(value, best, atol=1e-6)
    assert result.converged
    if published is not None:
        assert_allclose(p, published, atol=6e-5)
    h = 1e-4
    curvature = np.zeros((2, 2))
    for i, u in enumerate(np.eye(2)):
        for j, v in enumerate(np.eye(2)):
            corners = [log_likelihood(*(p[:2] + h * (s * u + t * v))) * s * t for s in (1, -1) for t in (1, -1)]
            curvature[i, j] = sum(corners) / (4 * h * h)
    errors = em.standard_errors(result.params, phenotype)["p"]
    assert_allclose(errors[:2], np.sqrt(np.diag(np.linalg.inv(-curvature))), rtol=1e-3)


# -- answers found here --------------------------------------------------------------------------------------------

RNG = np.random.default_rng(2024)
LABEL = RNG.uniform(size=150) < 0.4
BINOMIAL = RNG.binomial(12, np.where(LABEL, 0.3, 0.7))
EXPONENTIAL = RNG.exponential(np.where(LABEL, 0.5, 6.0))
GAMMA = RNG.gamma(np.where(LABEL, 3.0, 12.0), np.where(LABEL, 0.7, 0.8))


def binomials(x):
    weights, probs = simplex("weights", 2), unit("probs", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Binomial(12, probs[z]), obs=x)


def exponentials(x):
    weights, rates = simplex("weights", 2), positive("rates", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Exponential(rates[z]), obs=x)


def gammas(x):
    weights, shapes, rates = simplex("weights", 2), positive("shapes", 2), positive("rates", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Gamma(shapes[z], rates[z]), obs=x)


@pytest.mark.parametrize(
    ("model", "x", "start", "free", "component"),
    [
        (binomials, BINOMIAL, {"probs": [0.2, 0.6]}, [-1, 1], lambda x, a: stats.binom.logpmf(x, 12, expit(a))),
        (
            exponentials,
            EXPONENTIAL,
            {"rates": [3.0, 0.3]},
            [1, -1],
            lambda x, a: stats.expon.logpdf(x, scale=np.exp(-a)),
        ),
        (
            gammas,
            GAMMA,
            {"shapes": [2.0, 9.0], "rates": [1.0, 1.0]},
            [0.7, 2.2, 0, 0],
            lambda x, a, b: stats.gamma.logpdf(x, np.exp(a), scale=np.exp(-b)),
        ),
    ],
    ids=["binomial", "exponential", "gamma"],
)
def test_two_component_mixture(model, x, start, free, component):
    _, result, value = fit(model, x, start={"weights": [0.4, 0.6], **start})

    def negative(free):
        arguments = free[1:].reshape(-1, 2)
        parts = [log_weights(free[0])[k] + component(x, *arguments[:, k]) for k in range(2)]
        return -logsumexp(parts, axis=0).sum()

    _, best = direct(negative, np.array([-0.4, *free], float))
    assert_allclose(value, best, atol=1e-6)
    assert result.converged


SCORES = RNG.binomial(1, np.array([[0.85, 0.8, 0.7, 0.75, 0.9], [0.3, 0.2, 0.35, 0.25, 0.15]])[LABEL.astype(int)])
PRESENT = RNG.uniform(size=SCORES.shape) < 0.8


def latent_class(x, present):
    weights, probs = simplex("weights", 2), unit("probs", 2, 5)
    with numpyro.plate("person", len(x), dim=-2):
        z = numpyro.sample("z", dist.Categorical(weights))
        with numpyro.plate("item", 5, dim=-1):
            numpyro.sample("x", dist.Bernoulli(probs[z, np.arange(5)]).mask(present), obs=x)


def test_latent_class_with_missing_items():
    start = {"weights": [0.5, 0.5], "probs": [[0.7] * 5, [0.3] * 5]}
    _, result, value = fit(latent_class, SCORES, PRESENT, start=start)

    def negative(free):
        parts = []
        for k in range(2):
            items = stats.bernoulli.logpmf(SCORES, expit(free[1 + 5 * k : 6 + 5 * k]))
            parts.append(log_weights(free[0])[k] + np.where(PRESENT, items, 0).sum(1))
        return -logsumexp(parts, axis=0).sum()

    best = minimize(negative, np.array([0.0, *[0.8] * 5, *[-0.8] * 5]), method="BFGS", options={"gtol": 1e-7})
    assert_allclose(value, -best.fun, atol=1e-6)
    assert result.converged


U = RNG.normal(size=150)
Y = np.where(LABEL, 1.0 + 2.0 * U, 3.0 - 1.0 * U) + np.where(LABEL, 0.5, 0.8) * RNG.normal(size=150)


def regressions(u, y, shared):
    weights, beta, scales = simplex("weights", 2), real("beta", 2, 2), positive("scales", *(() if shared else (2,)))
    design = jnp.stack([jnp.ones(len(u)), jnp.asarray(u)], -1)
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal((design * beta[z]).sum(-1), scales if shared else scales[z]), obs=y)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
def test_mixture_of_regressions(shared):
    scales = 0.7 if shared else [0.7, 0.7]
    start = {"weights": [0.5, 0.5], "beta": [[1.0, 1.5], [2.5, -0.5]], "scales": scales}
    _, result, value = fit(regressions, U, Y, shared, start=start)

    def negative(free):
        parts = []
        for k in range(2):
            scale = np.exp(free[5] if shared else free[5 + k])
            parts.append(log_weights(free[0])[k] + stats.norm.logpdf(Y, free[1 + 2 * k] + free[2 + 2 * k] * U, scale))
        return -logsumexp(parts, axis=0).sum()

    best = minimize(
        negative,
        np.array([0, 1.0, 1.5, 2.5, -0.5, *([-0.3] * (1 if shared else 2))]),
        method="BFGS",
        options={"gtol": 1e-7},
    )
    assert_allclose(value, -best.fun, atol=1e-6)
    assert result.converged
