"""Must be refused or must be right: a wrong "exact" may never happen."""

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
import pytest  # noqa: E402
from jax import lax  # noqa: E402
from numpy.testing import assert_allclose  # noqa: E402
from numpyro import handlers  # noqa: E402
from numpyro.contrib.control_flow import scan  # noqa: E402
from numpyro.distributions import constraints  # noqa: E402
from scipy import stats  # noqa: E402
from scipy.special import logsumexp  # noqa: E402

import autoem  # noqa: E402
from tests.oracle import Oracle  # noqa: E402
from tests.test_random_models import check_ascent, check_e_step  # noqa: E402
from tests.zoo import positive, real, simplex, unit  # noqa: E402


def every(step, names):
    """All names; only each `step`-th runs in `make test`, the rest in `make slow`."""
    return [pytest.param(n, marks=[pytest.mark.slow] if i % step else []) for i, n in enumerate(names)]


KEY = jax.random.PRNGKey(0)
X = np.random.default_rng(0).normal(size=6)
PARAMS = {"weights": [0.35, 0.65], "locs": [-0.6, 0.9]}


def values(params):
    return {name: np.asarray(value, float) for name, value in params.items()}


def refusal(error, names):
    """A refusal says which site it is about."""
    message = str(error)
    assert any(f"{quote}{name}{quote}" in message for name in names for quote in "'\"`"), message


def right_or_refused(model, args, params, names, *, stationary=True, **em_keywords):
    """Either a clear refusal that names one of the sites `names`, or everything as brute force has it."""
    params = values(params)
    em = autoem.EM(model, **em_keywords)
    step = jax.jit(lambda state: em.update(state, *args))
    try:
        state = em.init(KEY, *args, init_params=params)
        step(state)
    except (NotImplementedError, ValueError) as error:
        refusal(error, names)
        return
    oracle = Oracle(model, args, params=params)
    check_e_step(em, oracle, params, args, {})
    check_ascent(em, oracle, state, step, 10)
    if stationary:
        check_arrival(em, oracle, params, args)


def check_arrival(em, oracle, params, args):
    """No direct search climbs further, however slowly EM got there."""
    result = em.run(KEY, 20_000, *args, init_params=params, tol=1e-10, progress_bar=False)
    _, higher = oracle.maximize(result.params)
    left = higher - oracle.objective(result.params)
    assert left <= 1e-3, f"a direct search climbs {left:.3g} further ({result.status.name}, {result.num_steps} steps)"


def must_refuse(model, args, names, **em_keywords):
    with pytest.raises((NotImplementedError, ValueError)) as caught:
        autoem.EM(model, **em_keywords).run(KEY, 2, *args, progress_bar=False)
    refusal(caught.value, names)


# -- one latent vector, whose elements meet ----------------------------------------------------------------------


def mixture(argument):
    """x[i] ~ Normal(argument(z, locs), 1), z in a plate, no plate around x."""

    def model(x):
        weights, locs = simplex("weights", 2), real("locs", 2)
        with numpyro.plate("data", len(X)):
            z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(argument(z, locs), 1.0), obs=x)

    return model


PAIR = np.array([0, 1, 2, 3, 0, 2]), np.array([1, 2, 3, 4, 5, 5])

MEETING = {
    "neighbours": (lambda z, locs: locs[z[:-1]] - 0.5 * locs[z[1:]], X[:-1]),
    "rolled": (lambda z, locs: locs[z] + 0.3 * locs[jnp.roll(z, 1)], X),
    "pairs": (lambda z, locs: locs[z[PAIR[0]]] - locs[z[PAIR[1]]], X),
    "pairs equal": (lambda z, locs: jnp.where(z[PAIR[0]] == z[PAIR[1]], locs[0], locs[1]), X),
    "all pairs": (lambda z, locs: locs[z[:, None]] * locs[z[None, :]], np.outer(X, X)),
    "sum": (lambda z, locs: locs[0] + locs[1] * z.sum(), X),
    "mean of locations": (lambda z, locs: locs[z].mean() * jnp.ones(6), X),
    "any": (lambda z, locs: locs[jnp.any(z == 1).astype(int)] * jnp.ones(6), X),
    "cumulative": (lambda z, locs: locs[jnp.cumsum(z) % 2], X),
    "sorted": (lambda z, locs: locs[jnp.sort(z)], X),
    "matrix product": (lambda z, locs: jnp.asarray(np.tril(np.ones((6, 6)))) @ locs[z], X),
    "identity matrix product": (lambda z, locs: jnp.eye(6) @ locs[z], X),
    "first for all": (lambda z, locs: locs[z[0]] + 0.5 * locs[z], X),
    "scan of lax": (lambda z, locs: lax.scan(lambda c, zi: (0.5 * c + locs[zi],) * 2, 0.0, z)[1], X),
    "permuted": (lambda z, locs: locs[z[jnp.array([3, 1, 5, 0, 2, 4])]], X),
    "reversed": (lambda z, locs: locs[z[::-1]], X),
    "repeated": (lambda z, locs: locs[jnp.repeat(z, 2)], np.r_[X, -X]),
    "tiled": (lambda z, locs: locs[jnp.tile(z, 2)], np.r_[X, -X]),
    "reshaped": (lambda z, locs: locs[z.reshape(2, 3)], X.reshape(2, 3)),
    "transposed": (lambda z, locs: locs[z.reshape(2, 3).T], X.reshape(3, 2)),
    "part only": (lambda z, locs: locs[z[1:4]], X[1:4]),
    "strided": (lambda z, locs: locs[z[::2]], X[::2]),
    "stacked": (lambda z, locs: locs[jnp.stack([z, 1 - z])], np.stack([X, X[::-1]])),
    "observations broadcast": (lambda z, locs: locs[z], np.stack([X, 0.5 * X, X + 1])),
    "against a column": (lambda z, locs: locs[z] * jnp.ones((4, 1)), np.stack([X] * 4)),
    "overwritten": (lambda z, locs: locs[z.at[2].set(0)], X),
    "overwritten by another": (lambda z, locs: locs[z.at[2].set(z[3])], X),
    "indexed by itself": (lambda z, locs: locs[z[z]], X),
    "masked sum": (lambda z, locs: locs[z] + locs[1] * jnp.where(jnp.arange(6) < 2, z, 0).sum(), X),
    "convolved": (lambda z, locs: jnp.convolve(locs[z], jnp.array([0.5, 1.0]), mode="same"), X),
}


@pytest.mark.parametrize("name", MEETING)
def test_elements_that_meet(name):
    argument, x = MEETING[name]
    right_or_refused(mixture(argument), (x,), PARAMS, ["z", "x"], stationary=False)


def test_scalar_latent_shared_by_all_data():
    """One latent, no plate, many data: it is drawn once."""

    def model(x):
        weights, locs = simplex("weights", 2), real("locs", 2)
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)

    right_or_refused(model, (X,), PARAMS, ["z"], stationary=False)


def test_sum_over_many_elements():
    """Thirty Bernoullis enter through their sum, which is Binomial."""

    def model(x):
        p, slope = unit("p"), real("slope")
        with numpyro.plate("data", 30):
            z = numpyro.sample("z", dist.Bernoulli(p))
        numpyro.sample("x", dist.Normal(slope * z.sum(), 1.0), obs=x)

    params = values({"p": 0.4, "slope": 0.3})
    em = autoem.EM(model)
    try:
        value = em.log_likelihood(params, 2.0)
    except (NotImplementedError, ValueError) as error:
        refusal(error, ["z", "x"])
    else:
        k = np.arange(31)
        assert_allclose(value, logsumexp(stats.binom.logpmf(k, 30, 0.4) + stats.norm.logpdf(2.0, 0.3 * k)), rtol=1e-8)


# -- crossing latents ----------------------------------------------------------------------------------------------


def block_model(adjacency):
    size = adjacency.shape[0]
    weights = simplex("weights", 2)
    density = numpyro.param("density", jnp.full((2, 2), 0.5), constraint=constraints.unit_interval)
    with numpyro.plate("node", size):
        block = numpyro.sample("block", dist.Categorical(weights))
    numpyro.sample("edge", dist.Bernoulli(density[block[:, None], block[None, :]]), obs=adjacency)


def row_and_column_blocks(x):
    rows, columns, means = simplex("rows", 2), simplex("columns", 2), real("means", 2, 2)
    row_plate, column_plate = numpyro.plate("row", x.shape[0], dim=-2), numpyro.plate("column", x.shape[1], dim=-1)
    with row_plate:
        a = numpyro.sample("a", dist.Categorical(rows))
    with column_plate:
        b = numpyro.sample("b", dist.Categorical(columns))
    with row_plate, column_plate:
        numpyro.sample("x", dist.Normal(means[a, b], 1.0), obs=x)


GRAPH = np.triu(np.random.default_rng(1).binomial(1, 0.4, (60, 60)), 1)


def test_small_block_models():
    params = {"weights": [0.4, 0.6], "density": [[0.3, 0.5], [0.6, 0.8]]}
    right_or_refused(block_model, (GRAPH[:5, :5],), params, ["block", "edge"], stationary=False)
    params = {"rows": [0.4, 0.6], "columns": [0.3, 0.7], "means": [[-1.0, 0.2], [0.5, 1.2]]}
    x = np.random.default_rng(2).normal(size=(3, 4))
    right_or_refused(row_and_column_blocks, (x,), params, ["a", "b", "x"], stationary=False)


def test_large_block_models_are_refused():
    must_refuse(block_model, (GRAPH + GRAPH.T,), ["block", "edge"])
    must_refuse(row_and_column_blocks, (np.random.default_rng(2).normal(size=(50, 40)),), ["a", "b", "x"])


# -- odd functions of a latent --------------------------------------------------------------------------------------


def elementwise(argument):
    def model(x):
        weights, locs = simplex("weights", 2), real("locs", 2)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", dist.Normal(argument(z, locs), 1.0), obs=x)

    return model


ODD = {
    "floor": lambda z, locs: locs[0] + locs[1] * jnp.floor((z + 0.5) / 1.2),
    "where": lambda z, locs: jnp.where(z > 0, locs[1], locs[0]),
    "select of cases": lambda z, locs: jnp.select([z == 0, z == 1], [locs[0], locs[1]], 9.0),
    "power": lambda z, locs: locs[1] * z**2 + locs[0],
    "remainder": lambda z, locs: locs[(z + 1) % 2],
    "clipped index": lambda z, locs: locs[jnp.minimum(3 * z, 1)],
    "negative index": lambda z, locs: locs[z - 1],
    "one hot": lambda z, locs: jax.nn.one_hot(z, 2) @ locs,
    "exponential": lambda z, locs: jnp.exp(locs[z]),
    "square": lambda z, locs: locs[z] ** 2,
    "absolute": lambda z, locs: jnp.abs(locs[z]),
    "product": lambda z, locs: locs[z] * locs[1 - z],
    "product of both": lambda z, locs: locs[0] * locs[1] * z,
    "difference": lambda z, locs: locs[z] - locs[0],
    "cancels": lambda z, locs: (locs[z] - locs[z] ** 3) + locs[z] ** 3,
    "maximum": lambda z, locs: jnp.maximum(locs[z], 0.1),
    "sorted locations": lambda z, locs: jnp.sort(locs)[z],
    "cumulative locations": lambda z, locs: jnp.cumsum(locs)[z],
    "vmapped switch": lambda z, locs: jax.vmap(lambda k: lax.switch(k, [lambda: locs[0], lambda: locs[1]]))(z),
    "cast": lambda z, locs: locs[0] + locs[1] * z.astype(bool),
    "not used": lambda z, locs: locs[0] + 0 * z,
}


@pytest.mark.parametrize("name", every(8, ODD))
def test_odd_functions_of_a_latent(name):
    right_or_refused(elementwise(ODD[name]), (X,), PARAMS, ["z", "x", "locs"])


def odd_sites():
    """Models in which a latent or a parameter enters by an unusual door."""
    models = {}

    def put(params, names=("z", "x"), *args, **options):
        def keep(model):
            models[model.__name__] = (model, args or (X,), params, names, options)
            return model

        return keep

    @put(PARAMS, ("z", "penalty"))
    def factor_of_a_latent(x):
        weights, locs = simplex("weights", 2), real("locs", 2)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.factor("penalty", -0.7 * z)
            numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)

    @put(PARAMS, ("locs", "penalty"))
    def factor_of_a_parameter(x):
        weights, locs = simplex("weights", 2), real("locs", 2)
        numpyro.factor("penalty", -0.5 * jnp.sum(locs**2))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)

    @put(PARAMS, ("z", "locs", "penalty"))
    def factor_of_both(x):
        weights, locs = simplex("weights", 2), real("locs", 2)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.factor("penalty", -0.5 * locs[z] ** 2)
            numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)

    @put(PARAMS, ("z", "forbid"))
    def factor_that_forbids(x):
        """Minus infinity for some values."""
        weights, locs = simplex("weights", 2), real("locs", 2)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.factor("forbid", jnp.where((z == 1) & (x < -0.5), -jnp.inf, 0.0))
            numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)

    @put({"p": 0.4, "s": [0.8, 1.3]}, ("x", "y", "s"))
    def scale_that_is_a_mean(x):
        p, s = unit("p"), positive("s", 2)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(p))
            numpyro.sample("x", dist.Normal(0.0, s[z]), obs=x)
            numpyro.sample("y", dist.Normal(s[z], 1.0), obs=x + 1)

    @put({"p": 0.4, "s": [0.8, 1.3]}, ("x", "s"))
    def scale_that_is_its_own_mean(x):
        p, s = unit("p"), positive("s", 2)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(p))
            numpyro.sample("x", dist.Normal(s[z], s[z]), obs=x)

    @put({"p": 0.4, "r": [0.8, 1.3]}, ("x", "r"))
    def rate_that_is_its_own_shape(x):
        p, r = unit("p"), positive("r", 2)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(p))
            numpyro.sample("x", dist.Gamma(r[z], r[z]), obs=jnp.abs(x))

    @put({"p": 0.4, "rates": [0.8, 1.3]}, ("z", "x", "p"))
    def probability_that_is_a_rate(x):
        p, rates = unit("p"), positive("rates", 2)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(p))
            numpyro.sample("x", dist.Exponential(rates[z] * p), obs=jnp.abs(x))

    @put(PARAMS, ("z", "x", "residual"))
    def observed_value_depends_on_the_latent(x):
        """A residual as the datum: the value moves, not the distribution."""
        weights, locs = simplex("weights", 2), real("locs", 2)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("residual", dist.Normal(0.0, 1.0), obs=x - locs[z])

    @put(PARAMS, ("x", "residual", "locs"))
    def observed_value_depends_on_a_parameter(x):
        weights, locs = simplex("weights", 2), real("locs", 2)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("residual", dist.Normal(1.0 * z, 1.0), obs=x - locs[0])

    @put(PARAMS)
    def mask_depends_on_the_latent(x):
        weights, locs = simplex("weights", 2), real("locs", 2)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            with handlers.mask(mask=z == 1):
                numpyro.sample("x", dist.Normal(locs[1], 1.0), obs=x)
            with handlers.mask(mask=z == 0):
                numpyro.sample("y", dist.Normal(locs[0], 2.0), obs=x)

    @put(PARAMS, ("z", "x", "locs"))
    def truncated_child(x):
        weights, locs = simplex("weights", 2), real("locs", 2)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", dist.TruncatedNormal(locs[z], 1.0, low=-3.0), obs=x)

    @put({"weights": [0.35, 0.65], "tops": [2.0, 4.0]}, ("z", "x", "tops"), stationary=False)
    def support_depends_on_a_parameter(x):
        weights, tops = simplex("weights", 2), positive("tops", 2)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", dist.Uniform(0.0, tops[z]), obs=jnp.abs(x))

    @put(PARAMS, ("z", "x"), X[:4])
    def joint_normal_over_the_plate(x):
        """One multivariate datum sees every element of the latent."""
        weights, locs = simplex("weights", 2), real("locs", 2)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(locs[z], 0.5 * jnp.eye(4) + 0.5), obs=x)

    @put(PARAMS, ("z", "x"))
    def event_over_the_plate(x):
        weights, locs = simplex("weights", 2), real("locs", 2)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], 1.0).to_event(1), obs=x)

    @put({"weights": [0.35, 0.65], "locs": [-0.6, 0.9], "c": 0.3}, ("z", "x", "c"))
    def logit_of_a_latent(x):
        """The prior of one latent is a function of another."""
        weights, locs, c = simplex("weights", 2), real("locs", 2), real("c")
        with numpyro.plate("data", len(x)):
            a = numpyro.sample("a", dist.Categorical(weights))
            z = numpyro.sample("z", dist.Bernoulli(logits=c + 0.8 * a))
            numpyro.sample("x", dist.Normal(locs[z] + a, 1.0), obs=x)

    @put({"p": 0.4, "q": 0.6}, ("a", "b", "x"))
    def noisy_or(x):
        p, q = unit("p"), unit("q")
        with numpyro.plate("data", len(x)):
            a = numpyro.sample("a", dist.Bernoulli(p))
            b = numpyro.sample("b", dist.Bernoulli(0.3))
            numpyro.sample("x", dist.Bernoulli(1 - 0.9 * (1 - q) ** a * 0.5**b), obs=(x > 0).astype(int))

    @put({"weights": [0.35, 0.65], "locs": [-0.6, 0.9], "w": [0.7, 1.4]}, ("z", "x", "w"))
    def mixture_distribution_as_child(x):
        weights, locs, w = simplex("weights", 2), real("locs", 2), positive("w", 2)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            parts = dist.Normal(jnp.stack([locs[z], locs[z] + w[0]], -1), w[1])
            numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(jnp.array([0.3, 0.7])), parts), obs=x)

    @put(PARAMS, ("z", "x"))
    def student_child(x):
        weights, locs = simplex("weights", 2), real("locs", 2)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", dist.StudentT(4.0, locs[z], 1.0), obs=x)

    @put({"start": [0.4, 0.6], "move": [[0.8, 0.2], [0.3, 0.7]], "locs": [-0.6, 0.9]}, ("z0", "z", "x", "move"))
    def chain_by_loop(x):
        start, move, locs = simplex("start", 2), simplex("move", 2, 2), real("locs", 2)
        z = numpyro.sample("z0", dist.Categorical(start))
        for t in range(len(x)):
            z = z if t == 0 else numpyro.sample(f"z{t}", dist.Categorical(move[z]))
            numpyro.sample(f"x{t}", dist.Normal(locs[z], 1.0), obs=x[t])

    return models


ODD_SITES = odd_sites()


@pytest.mark.parametrize("name", every(6, ODD_SITES))
def test_odd_sites(name):
    model, args, params, names, options = ODD_SITES[name]
    right_or_refused(model, args, params, list(names), **options)


# -- beyond today's scope: a clear refusal ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "law", [dist.Poisson(2.0), dist.Geometric(0.3), dist.NegativeBinomialProbs(2, 0.4)], ids=lambda d: type(d).__name__
)
def test_infinite_support(law):
    def model(x):
        scale = positive("scale")
        with numpyro.plate("data", len(x)):
            count = numpyro.sample("count", law)
            numpyro.sample("x", dist.Normal(count, scale), obs=x)

    must_refuse(model, (X,), ["count"])


def test_hidden_markov_model_by_scan():
    """Right (against a forward pass by hand) or refused."""

    def model(x):
        start, move, locs = simplex("start", 2), simplex("move", 2, 2), real("locs", 2)

        def step(z, y):
            z = numpyro.sample("z", dist.Categorical(move[z]))
            numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=y)
            return z, None

        first = numpyro.sample("first", dist.Categorical(start))
        scan(step, first, x)

    params = values({"start": [0.4, 0.6], "move": [[0.8, 0.2], [0.3, 0.7]], "locs": [-0.6, 0.9]})
    em = autoem.EM(model)
    try:
        value = em.log_likelihood(params, X)
    except (NotImplementedError, ValueError) as error:
        refusal(error, ["z", "x", "first"])
    else:
        forward = params["start"]
        for y in X:
            forward = (forward @ params["move"]) * stats.norm.pdf(y, params["locs"])
        assert_allclose(value, np.log(forward.sum()), rtol=1e-8)


def test_scales_that_disagree():
    """The latent alone is scaled: not defined, so refused, or a power of its prior."""

    def model(x):
        weights, locs = simplex("weights", 2), real("locs", 2)
        with numpyro.plate("data", len(x)):
            with handlers.scale(scale=2.0):
                z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)

    right_or_refused(model, (X,), PARAMS, ["z"], stationary=False)
