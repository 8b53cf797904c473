"""The models that are timed, as a user would write them, and their data."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints


def blobs(n, d, k, seed=0):
    """Well-separated clusters, and a start: (data, weights, locs, covariances)."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(k, d))
    x = centres[rng.integers(k, size=n)] + rng.normal(size=(n, d))
    return x, np.full(k, 1 / k), x[:k] + 0.1, np.stack([np.cov(x.T)] * k)


def full_mixture(x, k):
    """Gaussian mixture, a covariance matrix per component."""
    d = x.shape[-1]
    weights = numpyro.param("weights", jnp.ones(k) / k, constraint=constraints.simplex)
    locs = numpyro.param("locs", jnp.zeros((k, d)))
    covs = numpyro.param("covs", jnp.stack([jnp.eye(d)] * k), constraint=constraints.positive_definite)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(locs[z], covs[z]), obs=x)


def diagonal_mixture(x, k):
    """Gaussian mixture, a variance per component and coordinate."""
    d = x.shape[-1]
    weights = numpyro.param("weights", jnp.ones(k) / k, constraint=constraints.simplex)
    locs = numpyro.param("locs", jnp.zeros((k, d)))
    scales = numpyro.param("scales", jnp.ones((k, d)), constraint=constraints.positive)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scales[z]).to_event(1), obs=x)


def latent_class(y, k):
    """Binary items, independent given the class."""
    weights = numpyro.param("weights", jnp.ones(k) / k, constraint=constraints.simplex)
    probs = numpyro.param("probs", jnp.full((k, y.shape[-1]), 0.5), constraint=constraints.unit_interval)
    with numpyro.plate("person", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Bernoulli(probs[z]).to_event(1), obs=y)


def regressions(x, y, k):
    """Mixture of linear regressions."""
    weights = numpyro.param("weights", jnp.ones(k) / k, constraint=constraints.simplex)
    beta = numpyro.param("beta", jnp.arange(k * x.shape[-1], dtype=float).reshape(k, -1))
    scale = numpyro.param("scale", jnp.ones(k), constraint=constraints.positive)
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal((x * beta[z]).sum(-1), scale[z]), obs=y)


def robust_regression(x, y, df):
    """Linear regression with Student-t errors."""
    beta = numpyro.param("beta", jnp.zeros(x.shape[-1]))
    scale = numpyro.param("scale", 1.0, constraint=constraints.positive)
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.StudentT(df, x @ beta, scale), obs=y)


def tomography(paths, y):
    """Counts of detectors: every rate is a sum over pixels."""
    rates = numpyro.param("rates", jnp.ones(paths.shape[1]), constraint=constraints.positive)
    with numpyro.plate("detectors", len(y)):
        numpyro.sample("y", dist.Poisson(paths @ rates), obs=y)


def gamma_poisson(group, exposure, x):
    """Counts with exposures; every group has a rate."""
    shape = numpyro.param("shape", 1.0, constraint=constraints.positive)
    rate = numpyro.param("rate", 1.0, constraint=constraints.positive)
    with numpyro.plate("groups", int(group.max()) + 1):
        u = numpyro.sample("u", dist.Gamma(shape, rate))
    with numpyro.plate("data", len(x)):
        numpyro.sample("x", dist.Poisson(exposure * u[group]), obs=x)


def _chain(k):
    simplex, positive = constraints.simplex, constraints.positive
    initial = numpyro.param("initial", jnp.ones(k) / k, constraint=simplex)
    transition = numpyro.param("transition", jnp.full((k, k), 1 / k), constraint=simplex)
    locs = numpyro.param("locs", jnp.arange(float(k)))
    scales = numpyro.param("scales", jnp.ones(k), constraint=positive)
    return initial, transition, locs, scales


def hidden_markov(y, k):
    """Hidden Markov model of one sequence (steps,)."""
    initial, transition, locs, scales = _chain(k)
    first = numpyro.sample("z_first", dist.Categorical(initial))
    numpyro.sample("y_first", dist.Normal(locs[first], scales[first]), obs=y[0])

    def step(z, y_t):
        z = numpyro.sample("z", dist.Categorical(transition[z]))
        numpyro.sample("y", dist.Normal(locs[z], scales[z]), obs=y_t)
        return z, None

    scan(step, first, y[1:])


def hidden_markov_sequences(y, k):
    """The same for many sequences (steps, sequences)."""
    initial, transition, locs, scales = _chain(k)
    with numpyro.plate("sequences", y.shape[1]):
        first = numpyro.sample("z_first", dist.Categorical(initial))
        numpyro.sample("y_first", dist.Normal(locs[first], scales[first]), obs=y[0])

    def step(z, y_t):
        with numpyro.plate("sequences", y.shape[1]):
            z = numpyro.sample("z", dist.Categorical(transition[z]))
            numpyro.sample("y", dist.Normal(locs[z], scales[z]), obs=y_t)
        return z, None

    scan(step, first, y[1:])


def state_space(y, d):
    """Linear-Gaussian state space, everything unknown; one noise for each output."""
    p = y.shape[1]
    dynamics, loadings = numpyro.param("dynamics", 0.9 * jnp.eye(d)), numpyro.param("loadings", jnp.ones((p, d)))
    noise = numpyro.param("noise", jnp.eye(d), constraint=constraints.positive_definite)
    scales = numpyro.param("scales", jnp.ones(p), constraint=constraints.positive)
    mean = numpyro.param("mean", jnp.zeros(d))
    spread = numpyro.param("spread", jnp.eye(d), constraint=constraints.positive_definite)
    first = numpyro.sample("z_first", dist.MultivariateNormal(mean, spread))
    numpyro.sample("y_first", dist.Normal(loadings @ first, scales).to_event(1), obs=y[0])

    def step(z, y_t):
        z = numpyro.sample("z", dist.MultivariateNormal(dynamics @ z, noise))
        numpyro.sample("y", dist.Normal(loadings @ z, scales).to_event(1), obs=y_t)
        return z, None

    scan(step, first, y[1:])


def factor_analysis(x, k):
    """Factor analysis: k factors, a noise for each column."""
    d = x.shape[1]
    loadings = numpyro.param("loadings", lambda key: random.normal(key, (d, k)))
    mean = numpyro.param("mean", jnp.zeros(d))
    scales = numpyro.param("scales", jnp.ones(d), constraint=constraints.positive)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(k), 1.0).to_event(1))
        numpyro.sample("x", dist.Normal(mean + z @ loadings.T, scales).to_event(1), obs=x)


def growth(group, time, y):
    """Linear mixed model: an intercept and a slope for every group, which correlate."""
    fixed = numpyro.param("fixed", jnp.zeros(2))
    covariance = numpyro.param("covariance", jnp.eye(2), constraint=constraints.positive_definite)
    sigma = numpyro.param("sigma", 1.0, constraint=constraints.positive)
    with numpyro.plate("groups", int(group.max()) + 1):
        own = numpyro.sample("own", dist.MultivariateNormal(jnp.zeros(2), covariance))
    mean = fixed[0] + own[group, 0] + (fixed[1] + own[group, 1]) * time
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


def two_parameter_logistic(y):
    """Item response: every item has a slope and an easiness."""
    items = y.shape[1]
    slope = numpyro.param("slope", jnp.ones(items), constraint=constraints.positive)
    easiness = numpyro.param("easiness", jnp.zeros(items))
    with numpyro.plate("person", len(y)):
        ability = numpyro.sample("ability", dist.Normal(0.0, 1.0))
        logits = slope * ability[:, None] + easiness
        numpyro.sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=y)


def logistic_intercepts(group, x, y):
    """Logistic regression; every group has an intercept of its own."""
    beta = numpyro.param("beta", jnp.zeros(x.shape[1]))
    scale = numpyro.param("scale", 1.0, constraint=constraints.positive)
    with numpyro.plate("groups", int(group.max()) + 1):
        u = numpyro.sample("u", dist.Normal(0.0, scale))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta + u[group]), obs=y)
