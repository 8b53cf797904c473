"""Hidden counts: by enumeration of all splits, by the classic iterations, by direct maximisation; and where not."""

import itertools

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
import pytest  # noqa: E402
from numpy.testing import assert_allclose  # noqa: E402
from numpyro.distributions import constraints  # noqa: E402
from numpyro.infer.util import log_density  # noqa: E402
from scipy import stats  # noqa: E402
from scipy.optimize import minimize  # noqa: E402

import autoem  # noqa: E402
from tests.zoo import positive, real, simplex, unit  # noqa: E402

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


# -- models, as users write them -------------------------------------------------------------------------------------


def linkage(counts):
    """Rao's data: the first cell is a sum of 1/2 and θ/4."""
    theta = unit("theta")
    cells = jnp.stack([0.5 + theta / 4, (1 - theta) / 4, (1 - theta) / 4, theta / 4])
    numpyro.sample("counts", dist.Multinomial(197, cells), obs=counts)


def blood_groups(counts):
    p = simplex("p", 3)
    a, b, o = p
    cells = jnp.stack([a**2 + 2 * a * o, b * b + 2 * b * o, 2 * a * b, o**2.0])
    numpyro.sample("counts", dist.Multinomial(521, cells), obs=counts)


def tomography(paths, y):
    rates = positive("rates", paths.shape[1])
    with numpyro.plate("detectors", len(y)):
        numpyro.sample("y", dist.Poisson(paths @ rates), obs=y)


def factorisation(y):
    left, right = positive("left", y.shape[0], 2), positive("right", 2, y.shape[1])
    numpyro.sample("y", dist.Poisson(left @ right).to_event(2), obs=y)


def margins(both, rows, columns):
    """A 2 × 3 table; of some people only the row, or only the column, is known."""
    p = simplex("p", 6)
    table = p.reshape(2, 3)
    numpyro.sample("both", dist.Multinomial(int(both.sum()), p), obs=both)
    numpyro.sample("rows", dist.Multinomial(int(rows.sum()), table.sum(1)), obs=rows)
    numpyro.sample("columns", dist.Multinomial(int(columns.sum()), table.sum(0)), obs=columns)


def background(hours, dose, y):
    """Each rate is of its own exposure; the background is seen by itself as well, and both have a prior."""
    noise = numpyro.sample("noise", dist.Gamma(2.0, 1.0))
    slope = numpyro.sample("slope", dist.Exponential(0.1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Poisson(hours * (noise + slope * dose)), obs=y)
    numpyro.sample("alone", dist.Poisson(30 * noise), obs=41)


def proportions(shapes, x):
    """A mixture of known discrete distributions, marginalised by hand."""
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Categorical(simplex("weights", len(shapes)) @ shapes), obs=x)


def sticks(x):
    """Stick breaking: products of v and 1 - v, with nothing hidden in them."""
    v = numpyro.param("v", np.array([0.3, 0.4, 0.5]), constraint=constraints.unit_interval)
    rest = jnp.concatenate([jnp.ones(1), jnp.cumprod(1 - v)])
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Categorical(jnp.append(v, 1.0) * rest), obs=x)


def competing(age, x):
    """The first of two failures."""
    a, b = positive("a"), positive("b")
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Exponential(a + b * age), obs=x)


def overlaid(y):
    """With a discrete latent: some counts have a source on top of the background."""
    share, base, source = unit("share"), positive("base"), positive("source")
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(share))
        numpyro.sample("y", dist.Poisson(base + source * z), obs=y)


def topics(counts):
    """Two topics; every document's words are a Multinomial of a mixture of theirs."""
    mixes, words = simplex("mixes", len(counts), 2), simplex("words", 2, counts.shape[1])
    numpyro.sample("counts", dist.Multinomial(counts.sum(1), mixes @ words).to_event(1), obs=counts)


PATHS = RNG.uniform(0.1, 1.0, (20, 4))
SHAPES = RNG.dirichlet(np.ones(5), 3)
DOSE = RNG.uniform(0, 4, 30)
MODELS = {
    "linkage": (linkage, (np.array([125, 18, 20, 34]),), {"theta": 0.5}),
    "blood_groups": (blood_groups, (np.array([186, 38, 13, 284]),), {"p": [0.4, 0.3, 0.3]}),
    "tomography": (tomography, (PATHS, RNG.poisson(PATHS @ [40.0, 90.0, 20.0, 60.0])), {"rates": np.ones(4)}),
    "margins": (margins, (np.arange(3, 9), np.array([20, 11]), np.array([7, 9, 3])), {"p": np.ones(6) / 6}),
    "background": (background, (np.full(30, 2.0), DOSE, RNG.poisson(2 + 3 * DOSE)), {"noise": 1.0, "slope": 1.0}),
    "proportions": (proportions, (SHAPES, RNG.integers(0, 5, 60)), {"weights": [0.2, 0.3, 0.5]}),
    "sticks": (sticks, (RNG.integers(0, 4, 40),), {"v": [0.3, 0.4, 0.5]}),
    "competing": (competing, (DOSE, RNG.exponential(1 / (0.5 + 0.7 * DOSE))), {"a": 1.0, "b": 1.0}),
    "overlaid": (overlaid, (RNG.poisson(2 + 9 * (RNG.random(50) < 0.5)),), {"share": 0.4, "base": 1.0, "source": 6.0}),
}  # fmt: skip
FAST = ("linkage", "background")
EVERY = [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in MODELS]
OPTIONS = {"background": {"maximize": ["noise", "slope"]}}


def free(start):
    """Unconstrained coordinates for SciPy, and the way back: logs; log ratios of what adds up to one."""
    shapes = {n: np.shape(v) for n, v in start.items()}
    flat = np.concatenate([np.log(np.ravel(v)) for v in start.values()])

    def back(v, names=("theta", "v", "share")):
        out, at = {}, 0
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            part = np.exp(v[at : at + size]).reshape(shape)
            if name in ("p", "weights"):
                part = part / part.sum()
            out[name], at = part / (1 + part) if name in names else part, at + size
        return out

    return flat, back


@pytest.mark.parametrize("name", EVERY)
def test_fit_is_the_maximum_that_scipy_finds(name):
    """The likelihood is NumPyro's own density of the model as written, and no step lowers the objective."""
    model, args, start = MODELS[name]
    options = OPTIONS.get(name, {})
    em = autoem.EM(model, strict=True, **options)
    result = em.run(KEY, 5000, *args, init_params=start, tol=1e-12, progress_bar=False)
    assert result.converged and result.derivation.closed_form
    assert (np.diff(result.objective) >= -1e-10 * np.abs(result.objective[-1])).all()
    if name == "overlaid":
        y = args[0]

        def density(v):
            on = np.log(v["share"]) + stats.poisson.logpmf(y, v["base"] + v["source"])
            return np.logaddexp(on, np.log1p(-v["share"]) + stats.poisson.logpmf(y, v["base"])).sum()
    else:
        compiled = jax.jit(lambda v: log_density(model, args, {}, v)[0])

        def density(v):
            return float(compiled({n: jnp.asarray(a) for n, a in v.items()}))

    params = {n: np.asarray(v) for n, v in result.params.items()}
    assert_allclose(result.objective[-1], density(params), rtol=1e-12)
    flat, back = free(start)
    best = minimize(lambda v: -density(back(v)), flat, method="BFGS", options={"gtol": 1e-9})
    best = minimize(lambda v: -density(back(v)), best.x, method="Nelder-Mead", options={"fatol": 1e-12, "xatol": 1e-9})
    assert_allclose(result.objective[-1], -best.fun, atol=1e-6)
    for n, value in back(best.x).items():
        assert_allclose(params[n], value, rtol=1e-4, atol=1e-5)


# -- the classic iterations ------------------------------------------------------------------------------------------


def steps(model, args, start, count=3, **options):
    """Parameters after each of some EM steps."""
    em = autoem.EM(model, strict=True, **options)
    state = em.init(KEY, *args, init_params=start)
    for _ in range(count):
        state, _ = em.update(state, *args)
        yield state.params


def test_tomography_is_shepp_and_vardi():
    paths, y = MODELS["tomography"][1]
    rates = np.ones(4)
    for params in steps(tomography, (paths, y), {"rates": rates}):
        rates = rates * (paths.T @ (y / (paths @ rates))) / paths.sum(0)
        assert_allclose(params["rates"], rates, rtol=1e-12)
        assert_allclose(paths.sum(0) @ params["rates"], y.sum(), rtol=1e-12)  # the total is kept at each step


def test_tomography_in_a_run_keeps_the_total():
    paths, y = MODELS["tomography"][1]
    result = autoem.EM(tomography).run(KEY, 3000, paths, y, progress_bar=False)
    assert_allclose(paths.sum(0) @ result.params["rates"], y.sum(), rtol=1e-12)
    page = str(result.derivation)
    assert "a sum of Poisson counts, one for each term of its rate" in page
    assert "on the hidden counts of y" in result.derivation.params["rates"].reason


def test_blood_groups_count_genes():
    (counts,) = MODELS["blood_groups"][1]
    a, b, o = 0.4, 0.3, 0.3
    for params in steps(blood_groups, (counts,), {"p": [a, b, o]}):
        aa, bb = counts[0] * a / (a + 2 * o), counts[1] * b / (b + 2 * o)
        a, b = (counts[0] + aa + counts[2]) / 1042, (counts[1] + bb + counts[2]) / 1042
        o = 1 - a - b
        assert_allclose(params["p"], [a, b, o], rtol=1e-12)


def test_linkage_is_that_of_dempster_laird_and_rubin():
    theta = 0.5
    for params in steps(linkage, MODELS["linkage"][1], {"theta": theta}):
        hidden = 125 * theta / (2 + theta)
        theta = (hidden + 34) / (hidden + 34 + 18 + 20)
        assert_allclose(params["theta"], theta, rtol=1e-12)


def test_factorisation_is_lee_and_seung():
    y = RNG.poisson(5.0, (6, 5))
    left, right = RNG.uniform(0.5, 2, (6, 2)), RNG.uniform(0.5, 2, (2, 5))
    for params in steps(factorisation, (y,), {"left": left, "right": right}):
        left = left * ((y / (left @ right)) @ right.T) / right.sum(1)
        right = right * (left.T @ (y / (left @ right))) / left.sum(0)[:, None]
        assert_allclose(params["left"], left, rtol=1e-11)
        assert_allclose(params["right"], right, rtol=1e-11)
    assert "(ECM)" in autoem.EM(factorisation).derive(y).params["left"].reason


@pytest.mark.slow
def test_topics_never_go_down_and_end_at_a_maximum():
    counts = RNG.multinomial(200, RNG.dirichlet(np.ones(6), 8))
    start = {"mixes": RNG.dirichlet(np.ones(2), 8), "words": RNG.dirichlet(np.ones(6), 2)}
    em = autoem.EM(topics, strict=True)
    result = em.run(KEY, 3000, counts, init_params=start, progress_bar=False)
    assert (np.diff(result.log_likelihood) >= -1e-9).all()
    probs = np.asarray(result.params["mixes"]) @ np.asarray(result.params["words"])
    assert_allclose(result.log_likelihood[-1], stats.multinomial.logpmf(counts, 200, probs).sum(), atol=1e-8)
    numeric = autoem.EM(topics, augment=False).run(KEY, 3000, counts, init_params=start, progress_bar=False)
    assert result.log_likelihood[-1] >= numeric.log_likelihood[-1] - 1e-4


def test_expected_counts_by_enumeration():
    """All ways to split two Multinomial cells among their terms: 0.2 u v², 0.3 (1 - u) and 0.5 v; u² and (1 - u)."""

    def model(counts, v):
        u = unit("u")
        cells = jnp.stack([0.2 * u * v**2 + 0.3 * (1 - u) + 0.5 * v, u**2 + (1 - u)])
        numpyro.sample("counts", dist.Multinomial(7, cells, validate_args=False), obs=counts)

    u, v, counts = 0.35, 0.6, np.array([4, 3])
    first, second = np.array([0.2 * u * v**2, 0.3 * (1 - u), 0.5 * v]), np.array([u**2, 1 - u])
    weight, ones, others = 0.0, 0.0, 0.0
    for split in itertools.product(range(5), range(5), range(4)):
        if split[0] + split[1] > 4:
            continue
        a, b = np.array([split[0], split[1], 4 - split[0] - split[1]]), np.array([split[2], 3 - split[2]])
        p = stats.multinomial.pmf(a, 4, first / first.sum()) * stats.multinomial.pmf(b, 3, second / second.sum())
        weight, ones, others = weight + p, ones + p * (a[0] + 2 * b[0]), others + p * (a[1] + b[1])
    assert_allclose(weight, 1.0)
    (params,) = steps(model, (counts, v), {"u": u}, count=1)
    assert_allclose(params["u"], ones / (ones + others), rtol=1e-12)


def test_without_hidden_counts():
    """`augment=False` climbs the likelihood itself; what has nothing hidden in it stays in closed form."""
    model, args, start = MODELS["linkage"]
    plain = autoem.EM(model, augment=False)
    derivation = plain.derive(*args)
    assert derivation.params["theta"].method == "newton"
    assert "augment=False" in str(derivation.params["theta"].declined)
    assert_allclose(plain.log_likelihood(start, *args), autoem.EM(model).log_likelihood(start, *args), rtol=1e-14)
    model, args, _ = MODELS["sticks"]
    assert autoem.EM(model, augment=False).derive(*args).params["v"].method == "closed form"


# -- where it must not be done ---------------------------------------------------------------------------------------


@jax.custom_jvp
def own_derivative(u):
    return u


own_derivative.defjvp(lambda primals, tangents: (primals[0], 0 * tangents[0]))

REFUSED = {
    "a difference": lambda u, v, p: v + 3 - u[0],
    "negative data": lambda u, v, p: jnp.array([[1.0, 2.0], [2.0, -0.1]]) @ u,
    "one less a positive number": lambda u, v, p: v + (1 - u[0]),
    "one less a probability, as a rate": lambda u, v, p: u[0] * (2 * p + 3 * (1 - p)),
    "a product of its elements": lambda u, v, p: 1 + u[0] * u[1],
    "a power": lambda u, v, p: 1 + u[0] ** 2,
    "an unknown sign": lambda u, v, p: 5 + u[0] * numpyro.param("w", 0.3),
    "a negative number": lambda u, v, p: 5 + u[0] * -0.1,
    "a ratio": lambda u, v, p: 1 / (1 + u[0]),
    "a logarithm": lambda u, v, p: 1 + jnp.log1p(u[0]),
    "stop_gradient": lambda u, v, p: 1 + u[0] + jax.lax.stop_gradient(u[1]),
    "absolute value": lambda u, v, p: 1 + jnp.abs(u[0] - 2),
    "a choice": lambda u, v, p: jnp.where(u[0] > 0.5, u[0] + 1, 2 * u[0] + u[1]),
    "a maximum": lambda u, v, p: jnp.maximum(u[0], u[1]) + 1,
    "rounding": lambda u, v, p: jnp.floor(1 + u[0]) + u[1],
    "a derivative of its own": lambda u, v, p: 1 + own_derivative(u[0]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rates_that_are_no_such_sum(name):
    def model(y):
        u, v, p = positive("u", 2), positive("v"), unit("p")
        with numpyro.plate("rows", 2):
            numpyro.sample("y", dist.Poisson(REFUSED[name](u, v, p)), obs=y)

    found = autoem.EM(model).derive(np.array([3, 4])).params
    asked = "p" if "probability" in name else "u"
    assert found[asked].method == "newton", found[asked]


CELLS_REFUSED = {
    "real parameters": lambda: jnp.stack([real("r"), 1 - real("r")]),
    "positive parameters": lambda: jnp.stack([positive("r") + 0.1, 0.9 - positive("r")]),
    "wider than a probability": lambda: jnp.stack([_wide() / 2, 1 - _wide() / 2]),
    "a part of the simplex": lambda: jnp.stack([simplex("r", 3)[0] + 0.1, 0.9 - simplex("r", 3)[0]]),
    "divided by its sum": lambda: (jnp.arange(1.0, 3) + unit("r")) / (3 + 2 * unit("r")),
    "softmax": lambda: jax.nn.softmax(jnp.stack([unit("r"), 0.0])),
}


def _wide():
    return numpyro.param("r", 0.5, constraint=constraints.interval(0.0, 2.0))


@pytest.mark.parametrize("name", CELLS_REFUSED)
def test_cells_that_are_no_such_sum(name):
    def model(y):
        cells = CELLS_REFUSED[name]()
        numpyro.sample("y", dist.Multinomial(7, cells, validate_args=False), obs=y)

    assert autoem.EM(model).derive(np.array([3, 4])).params["r"].method == "newton"


def test_data_that_are_not_known_yet():
    """Under a user's jit the signs of the data are not known: the same fit, without hidden counts."""
    paths, y = MODELS["tomography"][1]
    em = autoem.EM(tomography)
    state = em.init(KEY, paths, y)
    inside = jax.jit(lambda s, p: em.update(s, p, y)[1])(state, paths)
    assert_allclose(inside, em.update(state, paths, y)[1], rtol=1e-12)
