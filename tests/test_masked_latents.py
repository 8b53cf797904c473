"""Conjugate latents of which some elements are masked out: the model without these; and densities that jump."""

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
import pytest  # noqa: E402
from numpy.testing import assert_allclose  # noqa: E402
from numpyro import handlers  # noqa: E402
from numpyro.distributions import constraints  # noqa: E402

import autoem  # noqa: E402

KEY = jax.random.key(0)
THERE = np.array([True, True, False, True])
SEEN = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0], [0, 0, 0]], bool)
X = np.array([[3.0, 1, 4], [2, 6, 0], [5, 3, 5], [8, 9, 7]])


def positive(name, value=1.0):
    return numpyro.param(name, value, constraint=constraints.positive)


def of_poisson(units, there, seen, x, states=1):
    """Gamma rates, whole plates masked by a handler or by the distribution, and perhaps a state of each."""
    a = positive("a", jnp.arange(1.0, states + 1))
    with numpyro.plate("units", units, dim=-2):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(states) / states))
        with handlers.mask(mask=there[:, None]):
            u = numpyro.sample("u", dist.Gamma(a[z], positive("b")))
        with numpyro.plate("repeats", 3, dim=-1):
            numpyro.sample("x", dist.Poisson(u).mask(seen), obs=x)


def _arguments(states):
    return (4, THERE, SEEN, X, states), (3, THERE[THERE], SEEN[THERE], X[THERE], states)


@pytest.mark.parametrize("states", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_as_if_they_were_not_there(states):
    em, whole, part = autoem.EM(of_poisson), *_arguments(states)
    assert em.derive(*whole).latents["u"].method == "conjugate"
    params = {"a": jnp.array([1.7, 0.6])[:states], "b": 0.8}
    assert_allclose(em.log_likelihood(params, *whole), em.log_likelihood(params, *part), rtol=1e-12)
    posterior = em.posterior(params, *whole)["u"]
    assert_allclose(posterior.mean[2, 0], np.mean(params["a"]) / 0.8)  # its prior


@pytest.mark.slow
@pytest.mark.parametrize("states", [1, 2])
def test_they_hold_up_nothing(states):
    """Each step is that of the model without them."""
    em, whole, part = autoem.EM(of_poisson, check=True), *_arguments(states)
    start = {"a": jnp.array([1.7, 0.6])[:states], "b": 0.8}
    one, other = (em.run(KEY, 3, *args, init_params=start, progress_bar=False) for args in (whole, part))
    for n in start:
        assert_allclose(one.params[n], other.params[n], rtol=1e-8)
    after = (em.posterior(one.params, *args)["u"].mean for args in (whole, part))
    assert_allclose(next(after)[THERE], next(after), rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("model", [of_poisson])
@pytest.mark.parametrize("change", ["a datum", "all of the latent"])
def test_data_without_a_density(model, change):
    there = THERE if change == "a datum" else np.zeros(4, bool)
    seen = SEEN | (np.arange(4) == 2)[:, None] if change == "a datum" else SEEN
    with pytest.raises(NotImplementedError, match=r"Element [02] of the latent 'u' is masked out"):
        autoem.EM(model).derive(4, there, seen, X)


@pytest.mark.slow
def test_known_only_at_run_time():
    """Which data meet a masked element is asked of the numbers."""
    em = autoem.EM(of_poisson)
    params = {"a": jnp.ones(1), "b": 0.8}
    with pytest.raises(NotImplementedError, match="'u'"):
        jax.jit(lambda seen: em.log_likelihood(params, 4, THERE, seen, X))(SEEN)


# -- densities that jump -----------------------------------------------------------------------------------------------

Z, Y = np.linspace(-2, 2, 12), np.array([0, 0, 0, 1, 0, 1, 0, 1, 1, 1, 1, 1.0])


def indicator(w):
    numpyro.sample("y", dist.Delta((w > 0).astype(float)), obs=Y)


def certain(w):
    numpyro.sample("y", dist.Bernoulli(jnp.where(w > 0, 1.0, 0.0)), obs=Y)


def excluded(w):
    numpyro.factor("y", jnp.where((w > 0) == (Y > 0), 0.0, -jnp.inf))


def rounded(w):
    numpyro.sample("y", dist.Normal(jnp.floor(w), 1.0), obs=Y)


@pytest.mark.parametrize(
    "child", [indicator, *(pytest.param(c, marks=pytest.mark.slow) for c in (certain, excluded, rounded))]
)
def test_no_quadrature_of_a_step(child):
    """A probit written with its utility: the page says what to write instead."""

    def model():
        slope = numpyro.param("slope", 0.0)
        with numpyro.plate("rows", 12):
            child(numpyro.sample("w", dist.Normal(slope * Z, 1.0)))

    with pytest.raises(NotImplementedError, match=r"'y'.*jumps as the latent 'w' varies.*cdf"):
        autoem.EM(model).derive()
