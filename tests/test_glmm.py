"""Classic mixed models with published answers, written in the ways in which people write them."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from quadrature_zoo import positive
from scipy import optimize, stats

import autoem

KEY = jax.random.key(0)

# Crowder (1978), germination of seeds on 21 plates: two kinds of seed, two root extracts.
GERMINATED = np.array([10, 23, 23, 26, 17, 5, 53, 55, 32, 46, 10, 8, 10, 8, 23, 0, 3, 22, 15, 32, 3])
SEEDS = np.array([39, 62, 81, 51, 39, 6, 74, 72, 51, 79, 13, 16, 30, 28, 45, 4, 12, 41, 30, 51, 7])
KIND = np.repeat([0, 1], [11, 10])
EXTRACT = np.repeat([0, 1, 0, 1], [5, 6, 5, 5])
DESIGN = np.stack([np.ones(21), KIND, EXTRACT, KIND * EXTRACT], 1)
PUBLISHED = [-0.5484, 0.0970, 1.3370, -0.8104]
"""Maximum likelihood, with a standard deviation of 0.2360 between plates (Breslow and Clayton 1993; Booth, Hobert)."""


def centred(n, r):
    beta, sigma = numpyro.param("beta", jnp.zeros(4)), positive("sigma", 1.0)
    with numpyro.plate("plates", 21):
        b = numpyro.sample("b", dist.Normal(DESIGN @ beta, sigma))
        numpyro.sample("r", dist.Binomial(total_count=n, logits=b), obs=r)


def without_a_plate(n, r):
    """Non-centred, expanded by hand, reached through an index."""
    beta, sigma = numpyro.param("beta", jnp.zeros(4)), positive("sigma", 1.0)
    z = numpyro.sample("z", dist.Normal(0, 1).expand([21]))
    a = sigma * z
    numpyro.sample("r", dist.Binomial(n, logits=DESIGN @ beta + a[np.arange(21)]), obs=r)


def with_events(n, r):
    """One event of 21 numbers, and one datum of 21."""
    beta, sigma = numpyro.param("beta", jnp.zeros(4)), positive("sigma", 1.0)
    z = numpyro.sample("z", dist.Normal(0, 1).expand([21]).to_event(1))
    numpyro.sample("r", dist.Binomial(n, logits=DESIGN @ beta + sigma * z).to_event(1), obs=r)


@pytest.mark.slow
@pytest.mark.parametrize("model", [centred, without_a_plate, with_events])
def test_seeds(model):
    result = autoem.EM(model).run(KEY, 5000, SEEDS, GERMINATED, progress_bar=False)
    assert result.converged
    assert_allclose(result.params["beta"], PUBLISHED, atol=1e-4)
    assert_allclose(result.params["sigma"], 0.2360, atol=5e-4)


# Draper and Smith (1998): circumference of five orange trees.
AGE = np.array([118.0, 484.0, 664.0, 1004.0, 1231.0, 1372.0, 1582.0])
TREES = np.array([
    [30, 58, 87, 115, 120, 142, 145], [33, 69, 111, 156, 172, 203, 203], [30, 51, 75, 108, 115, 139, 140],
    [32, 62, 112, 167, 179, 209, 214], [30, 49, 81, 125, 142, 174, 177],
], float)  # fmt: skip


def logistic_growth(y):
    """Every tree has an asymptote of its own: linear, with a coefficient that holds parameters."""
    middle, width = numpyro.param("middle", 700.0), positive("width", 350.0)
    asymptote, between, noise = numpyro.param("asymptote", 190.0), positive("between", 30.0), positive("noise", 8.0)
    share = 1 / (1 + jnp.exp((middle - AGE) / width))
    with numpyro.plate("trees", 5, dim=-2):
        top = numpyro.sample("top", dist.Normal(asymptote, between))
        with numpyro.plate("ages", 7, dim=-1):
            numpyro.sample("y", dist.Normal(top * share, noise), obs=y)


@pytest.mark.slow
def test_orange_trees():
    """A nonlinear mixed model that is exact: beside a dense optimiser, and what lme4's nlmer gives."""
    result = autoem.EM(logistic_growth).run(KEY, 5000, TREES, progress_bar=False)
    assert result.derivation.latents["top"].exact and result.converged

    def negative(free):
        asymptote, middle, width, between, noise = np.exp(free)
        share = 1 / (1 + np.exp((middle - AGE) / width))
        covariance = between**2 * np.outer(share, share) + noise**2 * np.eye(7)
        return -stats.multivariate_normal.logpdf(TREES, asymptote * share, covariance).sum()

    start = np.log([190.0, 700.0, 350.0, 30.0, 8.0])
    best = optimize.minimize(negative, start, method="Nelder-Mead", options={"maxiter": 20000, "fatol": 1e-10})
    assert_allclose(result.log_likelihood[-1], -best.fun, atol=1e-5)
    names = ("asymptote", "middle", "width", "between", "noise")
    assert_allclose([result.params[n] for n in names], [192.05, 727.90, 348.07, 31.65, 7.84], rtol=1e-3)
