"""Which sites are parameters: what "global" takes, and supports whose bounds are computed."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.reparam import CircularReparam
from scipy import optimize, stats

import autoem

KEY = jax.random.PRNGKey(0)
RNG = np.random.default_rng(0)
GROUP = np.repeat(np.arange(6), 5)
QUIET = {"progress_bar": False}


def chosen(model, *args):
    derivation = autoem.EM(model, maximize="global").derive(*args)
    return set(derivation.params), set(derivation.latents)


def effects(y, group):
    """As half of the published hierarchical models: no plate in common with the data, here none at all."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
    spread = numpyro.sample("spread", dist.Exponential(0.1))
    b = numpyro.sample("b", dist.Normal(mean, spread).expand([6]))
    noise = numpyro.sample("noise", dist.Exponential(0.1))
    numpyro.sample("y", dist.Normal(b[group], noise), obs=y)


def test_random_effects_are_integrated():
    """Their joint maximum with their spread is where the spread is zero; the marginal one is found by SciPy."""
    y = 3.0 + 2.0 * RNG.normal(size=6)[GROUP] + RNG.normal(size=30)
    assert chosen(effects, y, GROUP) == ({"mean", "spread", "noise"}, {"b"})
    em = autoem.EM(effects, maximize="global")
    result = em.run(KEY, 2000, y, GROUP, **QUIET)

    def negative(v):
        mean, spread, noise = v[0], *np.exp(v[1:])
        cov = spread**2 * (GROUP[:, None] == GROUP) + noise**2 * np.eye(30)
        prior = stats.norm(0, 10).logpdf(mean) + stats.expon(scale=10).logpdf([spread, noise]).sum()
        return -stats.multivariate_normal(np.full(30, mean), cov).logpdf(y) - prior

    best = optimize.minimize(negative, [3.0, 0.5, 0.0], method="BFGS", options={"gtol": 1e-8})
    assert_allclose(result.objective[-1], -best.fun, atol=1e-6)
    assert_allclose(result.params["spread"], np.exp(best.x[1]), rtol=1e-3)


def test_components_with_a_hyperprior_are_parameters():
    """A discrete latent meets them all: they cannot be integrated, and their joint maximum is what one wants."""

    def model(x):
        centre = numpyro.sample("centre", dist.Normal(0.0, 10.0))
        locs = numpyro.sample("locs", dist.Normal(centre, 5.0).expand([2]))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
            numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)

    assert chosen(model, RNG.normal(size=8)) == ({"centre", "locs"}, {"z"})


def test_the_jacobian_of_a_reparametrisation_is_no_data():
    @handlers.reparam(config={"angle": CircularReparam()})
    def model(x):
        with numpyro.plate("component", 2):
            angle = numpyro.sample("angle", dist.VonMises(0.0, 1.0))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            numpyro.sample("x", dist.VonMises(angle[z], 3.0), obs=x)

    assert chosen(model, RNG.uniform(-3, 3, 8)) == ({"angle_unwrapped"}, {"z"})


def survival(caught):
    """A probability for every year, shared by all animals, drawn inside the scan."""
    animals = caught.shape[1]

    def step(alive, y_t):
        phi = numpyro.sample("phi", dist.Uniform(0.0, 1.0))
        with numpyro.plate("animals", animals):
            alive = numpyro.sample("alive", dist.Bernoulli(phi * alive))
            numpyro.sample("y", dist.Bernoulli(0.7 * alive), obs=y_t)
        return alive, None

    scan(step, jnp.ones(animals, int), caught)


@pytest.mark.slow
def test_effects_of_time_in_a_scan_are_parameters():
    caught = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [0, 0, 1, 0]])
    assert chosen(survival, caught) == ({"phi"}, {"alive"})
    result = autoem.EM(survival, maximize="global", check=True).run(KEY, 300, caught, **QUIET)

    def negative(free):
        phi = 1 / (1 + np.exp(-free))
        total = 0.0
        for row in caught.T:
            message = np.array([0.0, 1.0])
            for p, y in zip(phi, row, strict=True):
                message = np.array([message[0] + message[1] * (1 - p), message[1] * p])
                message = message * np.array([1.0 - y, 0.7 if y else 0.3])
            total += np.log(message.sum())
        return -total

    best = optimize.minimize(negative, np.zeros(3), method="BFGS")
    assert_allclose(result.objective[-1], -best.fun, atol=1e-4)


def test_bounds_that_are_computed_from_data():
    def model(y):
        top = numpyro.sample("top", dist.Uniform(0.0, 2 * jnp.max(y)))
        numpyro.sample("y", dist.Normal(top, 1.0), obs=y)

    y = np.array([1.0, 2.0, 2.5])
    result = autoem.EM(model, maximize="global").run(KEY, 50, y, **QUIET)
    assert_allclose(result.params["top"], y.mean(), rtol=1e-6)


def test_bounds_that_are_unknown_are_refused():
    def model(y):
        top = numpyro.sample("top", dist.Exponential(1.0))
        below = numpyro.sample("below", dist.Uniform(0.0, top))
        numpyro.sample("y", dist.Normal(below, 1.0), obs=y)

    with pytest.raises(NotImplementedError, match="'below' depends on an unknown"):
        autoem.EM(model, maximize="global").derive(np.ones(3))
