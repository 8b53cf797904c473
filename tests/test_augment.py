"""Hidden representations: the model as written is the oracle, and the one with the latent written out."""

from functools import cache

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
import pytest  # noqa: E402
from numpy.testing import assert_allclose  # noqa: E402
from numpyro.infer.util import log_density  # noqa: E402

import autoem  # noqa: E402
from autoem._augment._base import Unsuitable  # noqa: E402
from autoem._augment._components import selected  # noqa: E402
from autoem._uncertainty import certify  # noqa: E402
from tests.augmented import CASES, listed, msf, observe, plate  # noqa: E402
from tests.families import ROWS  # noqa: E402
from tests.oracle import Oracle  # noqa: E402
from tests.zoo import positive, real, simplex, unit  # noqa: E402

KEY = jax.random.PRNGKey(0)


def every(step, names):
    """All names; only each `step`-th runs in `make test`, the rest in `make slow`."""
    return [pytest.param(n, marks=[pytest.mark.slow] if i % step else []) for i, n in enumerate(names)]


@cache
def derived(name):
    c = CASES[name]
    return autoem.EM(c.model, maximize=c.maximize, check=True)


@pytest.mark.parametrize("name", every(12, CASES))
def test_density_gradient_and_certificate(name):
    """Against NumPyro's own density of the model as written: nothing is added there."""
    c, em = CASES[name], derived(name)
    oracle = Oracle(c.model, c.args, params=c.params)
    derivation = em.derive(*c.args)
    assert set(c.auxiliaries) <= set(derivation.latents)
    assert derivation.closed_form == c.closed, str(derivation)
    assert f"{c.auxiliaries[0]}\n" in str(derivation)

    def log_likelihood(free):
        return em.log_likelihood(oracle.constrain(free), *c.args)

    free = oracle.unconstrain(c.params)
    value, gradient = jax.value_and_grad(log_likelihood)(free)
    assert_allclose(value, oracle.log_likelihood(), rtol=c.rtol)
    expected = jax.grad(lambda f: oracle._differentiable(oracle.constrain(f))[0])(free)
    for parameter in c.params:
        assert_allclose(
            gradient[parameter], expected[parameter], rtol=max(1e-7, 10 * c.rtol), atol=1e-9, err_msg=parameter
        )
    result = em.run(KEY, 6, *c.args, init_params=c.params, progress_bar=False)
    objective = np.asarray(result.objective)
    assert_allclose(objective[0], oracle.objective(), rtol=c.rtol)
    assert (np.diff(objective) >= -1e-9 * (1 + abs(objective[-1]))).all()
    assert oracle.objective(result.params) > objective[0]


@pytest.mark.parametrize("name", every(6, [n for n, c in CASES.items() if c.explicit]))
def test_update_is_that_of_the_model_with_the_latent_written_out(name):
    c, em = CASES[name], derived(name)
    explicit = autoem.EM(c.explicit, maximize=c.maximize)
    states = [e.update(e.init(KEY, *c.args, init_params=c.params), *c.args)[0] for e in (em, explicit)]
    for parameter in c.params:
        assert_allclose(states[0].params[parameter], states[1].params[parameter], rtol=1e-9, err_msg=parameter)
    ours, theirs = (e.posterior(c.params, *c.args) for e in (em, explicit))
    assert set(ours) == set(theirs)
    for site in ours:
        assert_allclose(ours[site].probs, theirs[site].probs, atol=1e-12, err_msg=site)
    ours, theirs = (e.derive(*c.args) for e in (em, explicit))
    assert {n: f.method for n, f in ours.params.items()} == {n: f.method for n, f in theirs.params.items()}


# -- random models ---------------------------------------------------------------------------------------------------


def random_model(seed):
    """A mixture whose weights and arguments have random shapes that broadcast, wrapped at random; and its data."""
    rng = np.random.default_rng(seed)
    rows, columns, count = rng.integers(2, 5), rng.integers(1, 4), rng.integers(2, 4)
    shapes = [(rows, columns, count), (1, columns, count), (rows, 1, count), (columns, count), (1, count), (count,)]
    first, second, weights = (shapes[i] for i in rng.integers(len(shapes), size=3))
    kind, logits, event, masked, scaled = rng.integers(4), *rng.integers(2, size=4)
    mask, scale = rng.uniform(size=(rows, 1)) < 0.7, rng.uniform(0.5, 2.0, (rows, 1))

    def model(x):
        u, v, w = real("u", *first), real("v", *second), real("w", *weights)
        parts = [
            lambda: dist.Normal(u, jnp.exp(v)),
            lambda: dist.Gamma(jnp.exp(u), jnp.exp(v)),
            lambda: dist.Poisson(jnp.exp(u)),
            lambda: dist.ZeroInflatedPoisson(jax.nn.sigmoid(v), jnp.exp(u)),
        ][kind]()
        parts = parts.expand(np.broadcast_shapes(parts.batch_shape, (columns, count)))
        mixing = dist.Categorical(logits=w) if logits else dist.Categorical(jax.nn.softmax(w))
        fn = dist.MixtureSameFamily(mixing, parts)
        fn = fn.expand([rows, columns]).to_event(1) if event else fn
        fn = fn.mask(mask[:, 0] if event else mask) if masked else fn
        kept = numpyro.handlers.scale(scale=(scale[:, 0] if event else scale) if scaled else 1.0)
        with kept:
            numpyro.sample("x", fn, obs=x)

    x = rng.gamma(2.0, 1.0, (rows, columns)) if kind < 2 else rng.poisson(1.5, (rows, columns))
    return model, x, {n: 0.4 * rng.normal(size=s) for n, s in (("u", first), ("v", second), ("w", weights))}


@pytest.mark.parametrize("seed", every(15, range(30)))
def test_random_model(seed):
    model, x, params = random_model(seed)
    em = autoem.EM(model)
    assert "x_assignment" in em.derive(x).latents
    expected, _ = log_density(model, (x,), {}, params)
    assert_allclose(em.log_likelihood(params, x), expected, rtol=1e-9)
    certify(em.model, em.derive(x), params, (x,), {})  # where the fit goes, components may collapse onto single data
    state = em.init(KEY, x, init_params=params)
    assert em.update(em.update(state, x)[0], x)[1] >= expected


# -- components ------------------------------------------------------------------------------------------------------


# What is censored is a distribution within another, which no component can be (an `Unsuitable`).
@pytest.mark.parametrize("name", [n for n in ROWS if not n.startswith("RightCensored")])
@pytest.mark.parametrize("lead", [(), (4,)])
def test_selected_component(name, lead):
    """The component that an index names has the density that NumPyro gives it among all."""
    row, rng = ROWS[name], np.random.default_rng(0)
    arguments = row.draw(rng, dict.fromkeys(row.arguments, (*lead, 3)))
    components = row.constructor(**arguments, validate_args=False)
    # What holds a constraint or another distribution, no index selects: such a mixture is left as it is written.
    if isinstance(components, dist.ImproperUniform | dist.LeftTruncatedDistribution | dist.RightTruncatedDistribution):
        with pytest.raises(Unsuitable):
            selected(components, jnp.zeros(4, int))
        return
    values = row.values(rng, (*lead, 3), **arguments)
    index = jnp.array([2, 0, 1, 1])
    values = np.broadcast_to(values, (4, *np.shape(values)[len(lead) :]))[:, 0]
    with numpyro.validation_enabled(False):
        together = components.log_prob(jnp.expand_dims(values, 1))
    expected = np.take_along_axis(np.broadcast_to(together, (4, 3)), index[:, None], 1)[:, 0]
    assert_allclose(selected(components, index).log_prob(values), expected, rtol=1e-12)


# -- what is left as it is, and what is an error ---------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=8)
START = {"weights": np.array([0.4, 0.6]), "locs": np.array([-1.0, 1.4])}


class Mine(dist.Normal):
    """A distribution of the user's own."""


def two(components):
    """A mixture of what `components` makes of two locations."""

    def model(x):
        weights, locs = simplex("weights", 2), real("locs", 2)
        observe(components(weights, locs), x)

    return model


STRETCH = dist.transforms.AffineTransform(0.0, 2.0)
LEFT = {
    "a class of the user's": two(lambda w, m: msf(w, Mine(m, 1.0))),
    "transformed": two(lambda w, m: msf(w, dist.TransformedDistribution(dist.Normal(m, 1.0), STRETCH))),
    "masked components": two(lambda w, m: msf(w, dist.Normal(m, 1.0).mask(np.array([True, False])))),
    "a support that moves": two(lambda w, m: listed(w, *[dist.Uniform(m[k] - 9, m[k] + 9) for k in (0, 1)])),
}


@pytest.mark.parametrize("name", every(4, LEFT))
def test_left_as_written(name):
    em = autoem.EM(LEFT[name])
    derivation = em.derive(X)
    assert not derivation.latents and "is taken as it is" in str(derivation)
    assert_allclose(
        em.log_likelihood(START, X), Oracle(LEFT[name], (jnp.asarray(X),), params=START).log_likelihood(), rtol=1e-9
    )


def test_switched_off():
    c = CASES["normal"]
    with_latent, without = autoem.EM(c.model), autoem.EM(c.model, augment=False)
    assert not without.derive(*c.args).latents
    assert_allclose(
        without.log_likelihood(c.params, *c.args), with_latent.log_likelihood(c.params, *c.args), rtol=1e-12
    )
    assert without.posterior(c.params, *c.args) == {}


@pytest.mark.parametrize("later", [False, True])
def test_a_name_that_is_taken(later):
    def model(x):
        weights, locs = simplex("weights", 2), real("locs", 2)
        if not later:
            numpyro.deterministic("x_assignment", locs)
        observe(msf(weights, dist.Normal(locs, 1.0)), x)
        if later:
            real("x_assignment")

    with pytest.raises(ValueError, match=r"'x_assignment'.*auxiliary variable of 'x'.*augment=False"):
        autoem.EM(model).derive(X)
    assert autoem.EM(model, augment=False).derive(X).exact


def zero_inflated(x):
    observe(dist.ZeroInflatedPoisson(unit("gate"), positive("rate")), x)


def without_mass(x):
    weights, rate = simplex("weights", 2), positive("rate")
    observe(listed(weights, dist.Exponential(rate), dist.Gamma(2.0, rate), support=dist.constraints.real), x)


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (zero_inflated, np.array([0.0, np.nan, 2.0]), "'x' hold NaN.*obs_mask"),
        (zero_inflated, np.array([0, -1, 2]), "'x' lie outside the support"),
        (two(lambda w, m: msf(w, dist.Normal(m, 1.0))), np.array([0.0, np.nan]), "'x' hold NaN.*obs_mask"),
        (two(lambda w, m: listed(w, dist.Normal(m[0], 1.0), dist.Laplace(m[1], 1.0))), np.array([0.0, np.nan]), "NaN"),
        (without_mass, np.array([1.0, -1.0]), "outside the support|probability zero"),
    ],
)
def test_data_that_cannot_be(model, x, message):
    with pytest.raises(ValueError, match=message):
        autoem.EM(model).run(KEY, 2, x, progress_bar=False)


def test_partly_observed_is_the_observed_part():
    """`obs_mask=` makes a site of what was seen, and one of what was not, which integrates to one."""
    c = CASES["masked"]

    def model(x, seen):
        weights, locs, scales = simplex("weights", 2), real("locs", 2), positive("scales", 2)
        with plate(x):
            numpyro.sample("x", msf(weights, dist.Normal(locs, scales)), obs=x, obs_mask=seen)

    ours, masked = autoem.EM(model), autoem.EM(c.model)
    assert list(ours.derive(*c.args).latents) == ["x_observed_assignment"]
    assert_allclose(ours.log_likelihood(c.params, *c.args), masked.log_likelihood(c.params, *c.args), rtol=1e-12)


def test_mixture_around_a_gaussian_latent():
    """Gaussian given the assignment: right or refused."""

    def model(x):
        weights, locs = simplex("weights", 2), real("locs", 2)
        with plate(x):
            effect = numpyro.sample("effect", dist.Normal(0.0, 0.5))
            numpyro.sample("x", msf(weights, dist.Normal(locs + effect[:, None], 1.0)), obs=x)

    marginal = two(lambda w, m: msf(w, dist.Normal(m, np.sqrt(1.25))))
    expected = autoem.EM(marginal, augment=False).log_likelihood(START, X)
    assert_allclose(autoem.EM(model, check=True).log_likelihood(START, X), expected, rtol=1e-10)


# -- what a user asks for --------------------------------------------------------------------------------------------


def test_responsibilities_draws_and_modes():
    c = CASES["normal"]
    em = autoem.EM(c.model)
    fn = msf(c.params["weights"], dist.Normal(c.params["locs"], c.params["scales"]))
    expected = jax.nn.softmax(fn.component_log_probs(*c.args), -1)
    assert_allclose(em.posterior(c.params, *c.args)["x_assignment"].probs, expected, atol=1e-12)
    assert (em.decode(c.params, *c.args)["x_assignment"] == expected.argmax(-1)).all()
    draws = em.sample_posterior(KEY, c.params, *c.args, num_samples=500)["x_assignment"]
    assert_allclose(draws.mean(0), expected[:, 1], atol=0.1)


def test_standard_errors_are_those_of_the_model_as_written():
    rng = np.random.default_rng(1)
    x = np.where(rng.uniform(size=200) < 0.3, 0, rng.poisson(3.0, 200))
    em = autoem.EM(zero_inflated)
    result = em.run(KEY, 500, x, progress_bar=False)
    assert result.converged
    oracle = Oracle(zero_inflated, (x,), params=result.params)
    assert_allclose(oracle.gradient(), 0, atol=1e-3)
    expected = oracle.standard_errors()
    for name, error in em.standard_errors(result.params, x).items():
        assert_allclose(error, expected[name], rtol=1e-6, err_msg=name)


def test_single_precision(x32):
    c = CASES["zero_inflated"]
    em = autoem.EM(c.model, check=True)
    result = em.run(KEY, 200, *c.args, init_params=c.params, progress_bar=False)
    assert result.converged and result.params["rate"].dtype == jnp.float32
