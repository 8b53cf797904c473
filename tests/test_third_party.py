"""Models built as NumPyro's own examples build them, retold: `maximize="global"` and nothing else said.

The constructs are those of `examples/annotation.py` (Paun et al. 2018), of the toy mixture with discrete enumeration
and of the notebook on Gaussian mixtures: `plate(dim=-2)` with a class vector that broadcasts, `Vindex`, one-hot
`where`, enumeration hints, sizes read off the data by `int(np.max(...))`.
"""

import csv
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
import pytest  # noqa: E402
from jax import nn  # noqa: E402
from numpy.testing import assert_allclose  # noqa: E402
from numpyro import handlers  # noqa: E402
from numpyro.ops.indexing import Vindex  # noqa: E402
from scipy import stats  # noqa: E402
from scipy.optimize import minimize  # noqa: E402
from scipy.special import expit  # noqa: E402

import autoem  # noqa: E402
from tests.oracle import Oracle  # noqa: E402
from tests.test_random_models import check_ascent, check_e_step  # noqa: E402

KEY = jax.random.PRNGKey(0)


def config_enumerate(model):
    """`numpyro.contrib.funsor.config_enumerate`, which cannot be imported without funsor."""
    return handlers.infer_config(model, lambda site: {"enumerate": site["infer"].get("enumerate", "parallel")})


def wide_ratings():
    """(raters of the columns, ratings of 45 items by column); the first rater saw every item three times."""
    with (Path(__file__).parents[1] / "examples" / "data" / "dawid_skene.csv").open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: tuple(int(row[c]) for c in ("item", "rater", "rep")))
    ratings = np.array([int(row["rating"]) - 1 for row in rows]).reshape(45, 7)
    return np.array([int(row["rater"]) - 1 for row in rows[:7]]), ratings


RATERS, RATINGS = wide_ratings()


def pooled_raters(labels):
    grades = int(np.max(labels)) + 1
    rows, columns = labels.shape
    with numpyro.plate("grade", grades):
        emission = numpyro.sample("emission", dist.Dirichlet(jnp.ones(grades)))
    share = numpyro.sample("share", dist.Dirichlet(jnp.ones(grades)))
    with numpyro.plate("row", rows, dim=-2):
        truth = numpyro.sample("truth", dist.Categorical(share))
        with numpyro.plate("column", columns):
            numpyro.sample("label", dist.Categorical(emission[truth]), obs=labels)


def separate_raters(who, labels):
    raters, grades = int(np.max(who)) + 1, int(np.max(labels)) + 1
    rows, columns = labels.shape
    with numpyro.plate("rater", raters, dim=-2), numpyro.plate("grade", grades):
        confusion = numpyro.sample("confusion", dist.Dirichlet(jnp.ones(grades)))
    share = numpyro.sample("share", dist.Dirichlet(jnp.ones(grades)))
    with numpyro.plate("row", rows, dim=-2):
        truth = numpyro.sample("truth", dist.Categorical(share), infer={"enumerate": "parallel"})
        with numpyro.plate("column", columns):
            numpyro.sample("label", dist.Categorical(Vindex(confusion)[who, truth, :]), obs=labels)


def competence(who, labels):
    """A rater either knows the truth or spams; two latents, one of them per single rating."""
    raters, grades = int(np.max(who)) + 1, int(np.max(labels)) + 1
    rows, columns = labels.shape
    with numpyro.plate("rater", raters):
        habit = numpyro.sample("habit", dist.Dirichlet(jnp.full(grades, 10)))
        honest = numpyro.sample("honest", dist.Beta(0.5, 0.5))
    with numpyro.plate("row", rows, dim=-2):
        truth = numpyro.sample("truth", dist.Categorical(logits=jnp.zeros(grades)))
        with numpyro.plate("column", columns):
            spam = numpyro.sample("spam", dist.Bernoulli(1 - honest[who]))
            probs = jnp.where(spam[..., None] == 0, nn.one_hot(truth, grades), habit[who])
            numpyro.sample("label", dist.Categorical(probs), obs=labels)


@config_enumerate
def hidden_middle(seen, size):
    """seen A -> hidden B -> seen C, Bernoulli tables with Beta(1, 1) priors."""
    top = numpyro.sample("top", dist.Beta(1, 1))
    middle = numpyro.sample("middle", dist.Beta(jnp.ones(2), jnp.ones(2)).to_event(1))
    bottom = numpyro.sample("bottom", dist.Beta(jnp.ones(2), jnp.ones(2)).to_event(1))
    with numpyro.plate("case", size):
        a = numpyro.sample("a", dist.Bernoulli(top), obs=seen["a"])
        b = numpyro.sample("b", dist.Bernoulli(Vindex(middle)[a]), infer={"enumerate": "parallel"})
        numpyro.sample("c", dist.Bernoulli(Vindex(bottom)[b]), obs=seen["c"])


@config_enumerate
def five_points(points):
    components = 2
    weights = numpyro.sample("weights", dist.Dirichlet(0.5 * jnp.ones(components)))
    spread = numpyro.sample("spread", dist.LogNormal(0.0, 2.0))
    with numpyro.plate("components", components):
        centres = numpyro.sample("centres", dist.Normal(0.0, 10.0))
    with numpyro.plate("points", len(points)):
        which = numpyro.sample("which", dist.Categorical(weights))
        numpyro.sample("point", dist.Normal(centres[which], spread), obs=points)


def table(seed, *shape):
    return np.random.default_rng(seed).dirichlet(np.full(shape[-1], 4.0), size=shape[:-1])


A = np.random.default_rng(5).binomial(1, 0.8, 40)
C = np.random.default_rng(6).binomial(1, np.where(A == 1, 0.7, 0.3))

MODELS = {
    "pooled_raters": (
        pooled_raters,
        (RATINGS,),
        {"emission": 0.5 * np.eye(4) + 0.5 * table(0, 4, 4), "share": table(1, 4)},
    ),
    "separate_raters": (
        separate_raters,
        (RATERS, RATINGS),
        {"confusion": 0.5 * np.eye(4) + 0.5 * table(2, 5, 4, 4), "share": table(1, 4)},
    ),
    "competence": (
        competence,
        (RATERS, RATINGS[:12]),
        {"habit": table(3, 5, 4), "honest": np.array([0.6, 0.7, 0.5, 0.8, 0.65])},
    ),
    "hidden_middle": (
        hidden_middle,
        ({"a": A, "c": C}, 40),
        {"top": np.array(0.7), "middle": np.array([0.3, 0.6]), "bottom": np.array([0.2, 0.7])},
    ),
    "five_points": (
        five_points,
        (np.array([0.0, 1.0, 10.0, 11.0, 12.0]),),
        {"weights": np.array([0.4, 0.6]), "spread": np.array(2.0), "centres": np.array([1.0, 9.0])},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_against_brute_force(name):
    model, args, params = MODELS[name]
    em = autoem.EM(model, maximize="global")
    oracle = Oracle(model, args, params=params)
    check_e_step(em, oracle, params, args, {})
    state = em.init(KEY, *args, init_params=params)
    assert set(em.get_params(state)) == set(params)
    check_ascent(em, oracle, state, jax.jit(lambda state: em.update(state, *args)), 15)


@pytest.mark.filterwarnings("ignore:Parameter '(weights|honest)':UserWarning")  # Dirichlet(0.5), Beta(0.5, 0.5)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in ("competence", "separate_raters"))) for n in MODELS]
)
def test_runs_from_a_key_alone(name):
    """No start given: nothing is NaN, EM climbs, and the posterior has the model's shape."""
    model, args, params = MODELS[name]
    em = autoem.EM(model, maximize="global")
    result = em.run(KEY, 60, *args, progress_bar=False)
    assert all(np.isfinite(value).all() for value in result.params.values())
    assert {name: np.shape(value) for name, value in result.params.items()} == {n: v.shape for n, v in params.items()}
    objective = np.asarray(result.objective)
    assert np.isfinite(objective).all()
    assert (np.diff(objective) >= -1e-9 * np.maximum(1, np.abs(objective[1:]))).all()


def test_five_points_answer():
    """Two and three points: the mode, found by a direct search of the marginal density."""
    model, args, params = MODELS["five_points"]
    result = autoem.EM(model, maximize="global").run(
        KEY, 2000, *args, init_params=params, tol=1e-12, progress_bar=False
    )
    best, value = Oracle(model, args, params=params).maximize(params)
    assert result.converged
    assert_allclose(result.objective[-1], value, atol=1e-7)
    assert_allclose(result.params["centres"], best["centres"], rtol=1e-4)
    assert_allclose(result.params["centres"], [0.5, 11.0], atol=0.1)


def test_separate_raters_is_dawid_and_skene():
    """With Dirichlet(1) priors the mode is the maximum likelihood of 1979, here from the majority's votes."""
    votes = np.stack([(k == RATINGS).mean(1) for k in range(4)], -1)
    confusion = np.zeros((5, 4, 4))
    for column, rater in enumerate(RATERS):
        for item, rating in enumerate(RATINGS[:, column]):
            confusion[rater, :, rating] += votes[item]
    start = {"share": votes.mean(0), "confusion": confusion / confusion.sum(-1, keepdims=True)}
    em = autoem.EM(separate_raters, maximize="global", flat=True)
    result = em.run(KEY, 2000, RATERS, RATINGS, init_params=start, tol=1e-13, progress_bar=False)
    assert_allclose(em.log_likelihood(result.params, RATERS, RATINGS), -192.890881, atol=1e-6)


# -- baseball --------------------------------------------------------------------------------------------------------


def partially_pooled(at_bats, hits=None):
    """NumPyro's `baseball.py`."""
    m = numpyro.sample("m", dist.Uniform(0, 1))
    kappa = numpyro.sample("kappa", dist.Pareto(1, 1.5))
    with numpyro.plate("num_players", at_bats.shape[0]):
        phi = numpyro.sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
        return numpyro.sample("obs", dist.Binomial(at_bats, probs=phi), obs=hits)


@pytest.mark.slow
def test_partially_pooled_baseball():
    """Efron and Morris (1975): eighteen players at 45 at bats."""
    hits = np.array([18, 17, 16, 15, 14, 14, 13, 12, 11, 11, 10, 10, 10, 10, 10, 9, 8, 7])

    def negative(v):
        m, kappa = expit(v[0]), 1 + np.exp(v[1])
        return -(stats.betabinom.logpmf(hits, 45, m * kappa, (1 - m) * kappa).sum() + stats.pareto.logpdf(kappa, 1.5))

    best = minimize(negative, [-1.0, 3.0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-13})
    em = autoem.EM(partially_pooled, maximize="global", check=True)
    result = em.run(KEY, 500, np.full(18, 45), hits, progress_bar=False)
    assert result.converged and result.derivation.latents["phi"].method == "conjugate"
    assert_allclose(result.objective[-1], -best.fun, atol=1e-6)
    assert_allclose([result.params["m"], result.params["kappa"]], [expit(best.x[0]), 1 + np.exp(best.x[1])], rtol=1e-4)


def kruschke(position, at_bats, hits):
    """Doing Bayesian Data Analysis, chapter 9: players within positions; the priors of precisions are vague."""
    with numpyro.plate("positions", 9):
        omega = numpyro.sample("omega", dist.Beta(1.0, 1.0))
        kappa = numpyro.sample("kappa_minus_2", dist.Gamma(0.01, 0.01)) + 2
    with numpyro.plate("players", len(hits)):
        mode, size = omega[position], kappa[position]
        theta = numpyro.sample("theta", dist.Beta(mode * (size - 2) + 1, (1 - mode) * (size - 2) + 1))
        numpyro.sample("hits", dist.Binomial(at_bats, theta), obs=hits)


def drawn_players(n):
    rng = np.random.default_rng(0)
    position, at_bats = np.sort(rng.integers(0, 9, n)), rng.integers(1, 600, n)
    mean = np.array([0.13, 0.25, 0.26, 0.25, 0.26, 0.25, 0.25, 0.25, 0.25])[position]
    return position, at_bats, rng.binomial(at_bats, rng.beta(mean * 100, (1 - mean) * 100))


@pytest.mark.parametrize("players", [60, pytest.param(948, marks=pytest.mark.slow)])
def test_a_vague_prior_does_not_start_a_fit_at_zero(players):
    """Gamma(0.01, 0.01) draws 1e-40, near which the likelihood is flat; the maximum is each position's own."""
    args = position, at_bats, hits = drawn_players(players)
    em = autoem.EM(kruschke, maximize=["omega", "kappa_minus_2"], flat=True)
    assert np.min(em.init(KEY, *args).params["kappa_minus_2"]) >= 1e-2
    if players < 948:
        return
    result = em.run(KEY, 500, *args, progress_bar=False)
    total = 0.0
    for k in range(9):
        n, x = at_bats[position == k], hits[position == k]

        def negative(v, n=n, x=x):
            mode, size = expit(v[0]), np.exp(v[1])
            return -stats.betabinom.logpmf(x, n, mode * size + 1, (1 - mode) * size + 1).sum()

        total -= minimize(negative, [-1.0, 4.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).fun
    assert result.converged
    assert_allclose(result.log_likelihood[-1], total, atol=1e-5)
