"""Small models with latents that no exact engine takes, each with its groups one by one: for the quadrature's tests.

A case's model must read the number of groups off its data, so that the rows of one group make a model of their own:
that is how the oracle integrates, over a dense grid, on NumPyro's own log density.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import constraints
from scipy.special import expit


@dataclass
class Case:
    """A model, its data, parameters to look at, and its groups.

    Attributes:
        grids: per scalar coordinate of a group's latents, where its values run: the oracle's axes.
        latents: the grid's coordinates -> values of the group's latents.
        split: data -> list of the data of every group.
        states: data of one group -> all joint values of its discrete latents.
    """

    model: Callable[..., Any]
    args: tuple[Any, ...]
    params: dict[str, Any]
    grids: list[np.ndarray]
    latents: Callable[..., dict[str, Any]]
    split: Callable[..., list[tuple[Any, ...]]]
    states: Callable[..., list[dict[str, Any]]] = lambda *_: [{}]


def by_group(g, *columns):
    return [(np.zeros(np.sum(g == k), int), *(c[g == k] for c in columns)) for k in range(g.max() + 1)]


def row_by_row(*columns):
    return [tuple(c[[i]] for c in columns) for i in range(len(columns[0]))]


def positive(name, value):
    return numpyro.param(name, value, constraint=constraints.positive)


LINE = np.linspace(-9.0, 9.0, 3001)
COARSE = np.linspace(-8.0, 8.0, 241)
GROUP = np.repeat(np.arange(8), 5)
RNG = np.random.default_rng(5)
COVARIATE = RNG.normal(size=GROUP.size)
EFFECT = RNG.normal(size=8)


def poisson_intercepts():
    def model(g, x, y):
        beta, tau = numpyro.param("beta", jnp.zeros(2)), positive("tau", 1.0)
        with numpyro.plate("groups", g.max() + 1):
            b = numpyro.sample("b", dist.Normal(0.0, tau))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Poisson(jnp.exp(beta[0] + beta[1] * x + b[g])), obs=y)

    y = np.random.default_rng(1).poisson(np.exp(0.3 + 0.5 * COVARIATE + EFFECT[GROUP]))
    params = {"beta": [0.2, 0.4], "tau": 0.8}
    return Case(model, (GROUP, COVARIATE, y), params, [LINE], lambda z: {"b": z[None]}, by_group)


def masked_logistic():
    """Centred at a parameter; some rows are masked; the rows of a group are not next to each other."""

    def model(g, x, y, seen):
        slope, mu, tau = numpyro.param("slope", 0.0), numpyro.param("mu", 0.0), positive("tau", 1.0)
        with numpyro.plate("groups", g.max() + 1):
            b = numpyro.sample("b", dist.Normal(mu, tau))
        with numpyro.plate("rows", len(y)), handlers.mask(mask=seen):
            numpyro.sample("y", dist.Bernoulli(logits=slope * x + b[g]), obs=y)

    rng = np.random.default_rng(2)
    order = rng.permutation(GROUP.size)
    g = GROUP[order]
    y = rng.binomial(1, expit(0.6 * COVARIATE + 1.5 * EFFECT[g]))
    seen = rng.uniform(size=g.size) < 0.8
    params = {"slope": 0.5, "mu": 0.2, "tau": 1.4}
    return Case(model, (g, COVARIATE, y, seen), params, [LINE], lambda z: {"b": z[None]}, by_group)


def correlated_slopes():
    def model(g, x, n, y):
        beta = numpyro.param("beta", jnp.zeros(2))
        covariance = numpyro.param("covariance", jnp.eye(2), constraint=constraints.positive_definite)
        with numpyro.plate("groups", g.max() + 1):
            u = numpyro.sample("u", dist.MultivariateNormal(jnp.zeros(2), covariance))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Binomial(n, logits=beta[0] + u[g, 0] + (beta[1] + u[g, 1]) * x), obs=y)

    rng = np.random.default_rng(3)
    n = rng.integers(2, 7, size=GROUP.size)
    slope = 0.7 + 1.4 * np.roll(EFFECT, 1)  # of a variance that the fit does not put at zero
    y = rng.binomial(n, expit(-0.2 + EFFECT[GROUP] + slope[GROUP] * COVARIATE))
    params = {"beta": [-0.2, 0.6], "covariance": [[1.0, 0.3], [0.3, 0.5]]}
    grids = [COARSE, COARSE]
    return Case(model, (GROUP, COVARIATE, n, y), params, grids, lambda a, b: {"u": jnp.stack([a, b])[None]}, by_group)


def two_sites():
    """Intercepts and slopes are sites of their own, with a scale of their own."""

    def model(g, x, y):
        beta, s, t = numpyro.param("beta", 0.0), positive("s", 1.0), positive("t", 1.0)
        with numpyro.plate("groups", g.max() + 1):
            a = numpyro.sample("a", dist.Normal(0.0, s))
            b = numpyro.sample("b", dist.Normal(beta, t))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Poisson(jnp.exp(a[g] + b[g] * x)), obs=y)

    y = np.random.default_rng(4).poisson(np.exp(EFFECT[GROUP] + 0.4 * COVARIATE))
    params = {"beta": 0.3, "s": 0.9, "t": 0.4}
    grids = [COARSE, COARSE]
    return Case(model, (GROUP, COVARIATE, y), params, grids, lambda a, b: {"a": a[None], "b": b[None]}, by_group)


def answers(rng, people, items):
    ability, difficulty = rng.normal(size=people), np.linspace(-1.2, 1.2, items)
    return rng.binomial(1, expit(1.3 * (ability[:, None] - difficulty)))


def two_parameter_irt():
    def model(y):
        people, items = y.shape
        a, b = positive("a", jnp.ones(items)), numpyro.param("b", jnp.zeros(items))
        with numpyro.plate("people", people, dim=-2):
            ability = numpyro.sample("ability", dist.Normal(0.0, 1.0))
            with numpyro.plate("items", items, dim=-1):
                numpyro.sample("y", dist.Bernoulli(logits=a * (ability - b)), obs=y)

    y = answers(np.random.default_rng(6), 30, 4)
    params = {"a": [0.8, 1.1, 1.4, 0.9], "b": [-1.0, -0.3, 0.4, 1.1]}
    return Case(model, (y,), params, [LINE], lambda z: {"ability": z[None, None]}, lambda y: [(r[None],) for r in y])


def rasch_with_prior():
    """Items are a maximised site with a prior; people are in long format."""

    def model(person, item, y):
        with numpyro.plate("items", 5):
            b = numpyro.sample("b", dist.Normal(0.0, 2.0))
        sigma = positive("sigma", 1.0)
        with numpyro.plate("people", person.max() + 1):
            ability = numpyro.sample("ability", dist.Normal(0.0, sigma))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Bernoulli(logits=ability[person] - b[item]), obs=y)

    table = answers(np.random.default_rng(7), 24, 5)
    person, item = np.divmod(np.arange(table.size), 5)
    params = {"b": [-1.0, -0.5, 0.1, 0.4, 1.2], "sigma": 1.2}
    return Case(model, (person, item, table.ravel()), params, [LINE], lambda z: {"ability": z[None]}, by_group)


def beta_with_guessing():
    """A Beta latent that is not conjugate: some successes come by chance."""

    def model(n, y):
        a, b = positive("a", 1.0), positive("b", 1.0)
        with numpyro.plate("people", len(y)):
            p = numpyro.sample("p", dist.Beta(a, b))
            numpyro.sample("y", dist.Binomial(n, probs=0.25 + 0.75 * p), obs=y)

    rng = np.random.default_rng(8)
    n = rng.integers(5, 15, size=20)
    y = rng.binomial(n, 0.25 + 0.75 * rng.beta(3.0, 2.0, size=20))
    params = {"a": 2.5, "b": 1.8}
    edges = np.linspace(0.0, 1.0, 20001)[1:-1]
    return Case(model, (n, y), params, [edges], lambda z: {"p": z[None]}, row_by_row)


def gamma_above_background():
    def model(background, y):
        shape, rate = positive("shape", 1.0), positive("rate", 1.0)
        with numpyro.plate("rows", len(y)):
            signal = numpyro.sample("signal", dist.Gamma(shape, rate))
            numpyro.sample("y", dist.Poisson(background + signal), obs=y)

    rng = np.random.default_rng(9)
    background = rng.uniform(0.5, 2.0, size=40)
    y = rng.poisson(background + rng.gamma(3.0, 1.0, size=40))
    params = {"shape": 3.0, "rate": 0.8}
    grid = np.linspace(0.0, 60.0, 40001)[1:]
    return Case(model, (background, y), params, [grid], lambda z: {"signal": z[None]}, row_by_row)


def poisson_lognormal():
    def model(y):
        mu, s = numpyro.param("mu", 0.0), positive("s", 1.0)
        with numpyro.plate("rows", len(y)):
            rate = numpyro.sample("rate", dist.LogNormal(mu, s))
            numpyro.sample("y", dist.Poisson(rate), obs=y)

    y = np.random.default_rng(10).poisson(np.exp(np.random.default_rng(11).normal(1.0, 0.7, size=40)))
    params = {"mu": 0.9, "s": 0.6}
    return Case(model, (y,), params, [LINE], lambda z: {"rate": jnp.exp(z)[None]}, row_by_row)


def stochastic_frontier():
    """Inefficiency is a half-normal latent of each firm: y = a + b x + noise - u."""

    def model(x, y):
        beta, s, t = numpyro.param("beta", jnp.zeros(2)), positive("s", 1.0), positive("t", 1.0)
        with numpyro.plate("firms", len(y)):
            u = numpyro.sample("u", dist.HalfNormal(t))
            numpyro.sample("y", dist.Normal(beta[0] + beta[1] * x - u, s), obs=y)

    rng = np.random.default_rng(12)
    x = rng.normal(size=40)
    y = 1.0 + 0.5 * x + 0.4 * rng.normal(size=40) - np.abs(rng.normal(size=40))
    params = {"beta": [0.9, 0.4], "s": 0.5, "t": 0.9}
    grid = 0.0005 * (np.arange(24000) + 0.5)
    return Case(model, (x, y), params, [grid], lambda z: {"u": z[None]}, row_by_row)


def volatility():
    """Each group has a scale of its own; the observed values hold a parameter."""

    def model(g, y):
        m, mu, tau = numpyro.param("m", 0.0), numpyro.param("mu", 0.0), positive("tau", 1.0)
        with numpyro.plate("groups", g.max() + 1):
            h = numpyro.sample("h", dist.Normal(mu, tau))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(m, jnp.exp(h[g])), obs=y)

    y = 0.4 + np.exp(0.6 * EFFECT[GROUP]) * np.random.default_rng(13).normal(size=GROUP.size)
    params = {"m": 0.3, "mu": 0.1, "tau": 0.5}
    return Case(model, (GROUP, y), params, [LINE], lambda z: {"h": z[None]}, by_group)


def robust_groups():
    """A site without a canonical form; the datum itself holds the latent."""

    def model(g, y):
        tau, s = positive("tau", 1.0), positive("s", 1.0)
        with numpyro.plate("groups", g.max() + 1):
            b = numpyro.sample("b", dist.Normal(0.0, tau))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.StudentT(4.0, 0.0, s), obs=y - b[g])

    y = EFFECT[GROUP] + np.random.default_rng(14).standard_t(4, size=GROUP.size)
    params = {"tau": 0.8, "s": 0.9}
    return Case(model, (GROUP, y), params, [LINE], lambda z: {"b": z[None]}, by_group)


CASES = {
    f.__name__: f
    for f in (
        poisson_intercepts, masked_logistic, correlated_slopes, two_sites, two_parameter_irt, rasch_with_prior,
        beta_with_guessing, gamma_above_background, poisson_lognormal, stochastic_frontier, volatility, robust_groups,
    )
}  # fmt: skip
