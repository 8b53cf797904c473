"""Discrete latents beside latents that are integrated numerically, each model with its groups one by one.

As in `quadrature_zoo`; a group's discrete latents are listed, all joint states of them: that is how the oracle sums.
"""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.nn import sigmoid
from numpyro.distributions import constraints
from quadrature_zoo import COARSE, LINE, Case, by_group, positive


def simplex(name, *values):
    return numpyro.param(name, jnp.array(values), constraint=constraints.simplex)


def unit(name, value):
    return numpyro.param(name, value, constraint=constraints.unit_interval)


def all_states(shape, values):
    """Every array of this shape with these values: (count, *shape)."""
    size = int(np.prod(shape))
    return np.array(list(itertools.product(range(values), repeat=size)), int).reshape(-1, *shape)


def crossed(**tables):
    """All combinations of several latents' states, by name."""
    picks = itertools.product(*(range(len(t)) for t in tables.values()))
    return [{n: t[i] for (n, t), i in zip(tables.items(), pick, strict=True)} for pick in picks]


GROUP = np.repeat(np.arange(4), 3)
RNG = np.random.default_rng(21)
COVARIATE = RNG.normal(size=GROUP.size)
EFFECT = RNG.normal(size=4)


def zero_inflated_intercepts():
    """The gate is added by autoem itself; the oracle uses NumPyro's zero-inflated density as it is."""

    def model(g, x, y):
        beta, tau, p = numpyro.param("beta", jnp.zeros(2)), positive("tau", 1.0), unit("p", 0.3)
        with numpyro.plate("groups", g.max() + 1):
            b = numpyro.sample("b", dist.Normal(0.0, tau))
        with numpyro.plate("rows", len(y)):
            rate = jnp.exp(beta[0] + beta[1] * x + b[g])
            numpyro.sample("y", dist.ZeroInflatedPoisson(p, rate), obs=y)

    rng = np.random.default_rng(1)
    y = rng.poisson(np.exp(0.8 + 0.5 * COVARIATE + EFFECT[GROUP])) * rng.binomial(1, 0.7, GROUP.size)
    params = {"beta": [0.4, 0.3], "tau": 0.8, "p": 0.25}
    return Case(model, (GROUP, COVARIATE, y), params, [LINE], lambda z: {"b": z[None]}, by_group)


def guessing():
    """Whether an answer was guessed: an indicator for every person and item."""

    def model(y):
        people, items = y.shape
        b, guess = numpyro.param("b", jnp.zeros(items)), unit("guess", 0.2)
        with numpyro.plate("people", people, dim=-2):
            ability = numpyro.sample("ability", dist.Normal(0.0, 1.0))
            with numpyro.plate("items", items, dim=-1):
                z = numpyro.sample("z", dist.Bernoulli(guess))
                numpyro.sample("y", dist.Bernoulli(jnp.where(z == 1, 0.6, sigmoid(ability - b))), obs=y)

    y = np.random.default_rng(2).binomial(1, 0.6, (8, 3))
    params = {"b": [-0.5, 0.2, 0.7], "guess": 0.3}

    def states(y):
        return crossed(z=all_states(y.shape, 2))

    def split(y):
        return [(r[None],) for r in y]

    return Case(model, (y,), params, [LINE], lambda z: {"ability": z[None, None]}, split, states=states)


def classes_by_ability():
    """The class of each response depends on the person's ability; rows in long format."""

    def model(g, x, y):
        cut, slope, tau = numpyro.param("cut", jnp.zeros(2)), numpyro.param("slope", 1.0), positive("tau", 1.0)
        rate = positive("rate", jnp.array([1.0, 2.0, 3.0]))
        with numpyro.plate("people", g.max() + 1):
            b = numpyro.sample("b", dist.Normal(0.0, tau))
        with numpyro.plate("rows", len(y)):
            score = slope * b[g] + x
            logits = jnp.stack([jnp.zeros_like(score), cut[0] + score, cut[1] + 2 * score], -1)
            z = numpyro.sample("z", dist.Categorical(logits=logits))
            numpyro.sample("y", dist.Poisson(rate[z]), obs=y)

    y = np.random.default_rng(3).poisson(3.0, GROUP.size)
    params = {"cut": [0.1, -0.3], "slope": 0.9, "tau": 1.1, "rate": [0.8, 2.5, 6.0]}

    def states(g, x, y):
        return crossed(z=all_states((len(y),), 3))

    args = GROUP, COVARIATE, y
    return Case(model, args, params, [LINE], lambda z: {"b": z[None]}, by_group, states=states)


def mixture_of_intercepts():
    """The class of a group decides the distribution of its intercept: two modes, one integral for each."""

    def model(g, x, y):
        w, mu, tau = simplex("w", 0.4, 0.6), numpyro.param("mu", jnp.zeros(2)), positive("tau", jnp.ones(2))
        beta = numpyro.param("beta", 0.0)
        with numpyro.plate("groups", g.max() + 1):
            k = numpyro.sample("k", dist.Categorical(w))
            b = numpyro.sample("b", dist.Normal(mu[k], tau[k]))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Poisson(jnp.exp(beta * x + b[g])), obs=y)

    y = np.random.default_rng(4).poisson(np.exp(1.5 * EFFECT[GROUP] + 0.3 * COVARIATE))
    params = {"w": [0.3, 0.7], "mu": [-1.5, 1.5], "tau": [0.4, 0.6], "beta": 0.3}

    def states(g, x, y):
        return crossed(k=all_states((1,), 2))

    args = GROUP, COVARIATE, y
    return Case(model, args, params, [LINE], lambda z: {"b": z[None]}, by_group, states=states)


def class_and_gates():
    """A class for each group, above a gate for each row, above its count."""

    def model(g, x, y):
        w, p = simplex("w", 0.5, 0.5), unit("p", jnp.array([0.2, 0.6]))
        tau, m = positive("tau", 1.0), numpyro.param("m", jnp.zeros(2))
        with numpyro.plate("groups", g.max() + 1):
            k = numpyro.sample("k", dist.Categorical(w))
            b = numpyro.sample("b", dist.Normal(0.0, tau))
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Bernoulli(p[k[g]]))
            numpyro.sample("y", dist.Poisson(jnp.exp(m[z] + b[g])), obs=y)

    y = np.random.default_rng(5).poisson(np.exp(EFFECT[GROUP]))
    params = {"w": [0.3, 0.7], "p": [0.25, 0.8], "tau": 0.8, "m": [-0.5, 1.0]}

    def states(g, x, y):
        return crossed(k=all_states((1,), 2), z=all_states((len(y),), 2))

    args = GROUP, COVARIATE, y
    return Case(model, args, params, [LINE], lambda z: {"b": z[None]}, by_group, states=states)


def class_above_people():
    """The class of a school is above the abilities of its people: two cells for each element of it."""

    def model(s, p, y):
        w, mu = simplex("w", 0.4, 0.6), numpyro.param("mu", jnp.array([-1.0, 1.0]))
        with numpyro.plate("schools", s.max() + 1):
            k = numpyro.sample("k", dist.Categorical(w))
        with numpyro.plate("people", len(s)):
            a = numpyro.sample("a", dist.Normal(mu[k[s]], 1.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Bernoulli(logits=a[p]), obs=y)

    y = np.random.default_rng(6).binomial(1, 0.5, 18)
    args = np.repeat(np.arange(3), 2), np.repeat(np.arange(6), 3), y
    params = {"w": [0.3, 0.7], "mu": [-0.5, 1.5]}

    def split(s, p, y):
        return [(np.zeros(2, int), p[:6], y[6 * j : 6 * j + 6]) for j in range(3)]

    def states(s, p, y):
        return crossed(k=all_states((1,), 2))

    grids = [COARSE, COARSE]
    return Case(model, args, params, grids, lambda a, b: {"a": jnp.stack([a, b])}, split, states=states)


def gaussian_that_meets_many_states():
    """A linear mixed model with a component for each row: not Gaussian given the few states of a group."""

    def model(g, x, y):
        w, m, s = simplex("w", 0.5, 0.5), numpyro.param("m", jnp.zeros(2)), positive("s", 1.0)
        tau = positive("tau", 1.0)
        with numpyro.plate("groups", g.max() + 1):
            b = numpyro.sample("b", dist.Normal(0.0, tau))
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Categorical(w))
            numpyro.sample("y", dist.Normal(m[z] + b[g], s), obs=y)

    y = np.random.default_rng(7).normal(size=GROUP.size) + EFFECT[GROUP]
    params = {"w": [0.4, 0.6], "m": [-1.0, 1.2], "s": 0.7, "tau": 0.9}

    def states(g, x, y):
        return crossed(z=all_states((len(y),), 2))

    args = GROUP, COVARIATE, y
    return Case(model, args, params, [LINE], lambda z: {"b": z[None]}, by_group, states=states)


def gamma_that_meets_many_states():
    """A conjugate rate whose rows have a factor of their own, by class."""

    def model(g, x, y):
        w, f, shape = simplex("w", 0.5, 0.5), positive("f", jnp.array([1.0, 3.0])), positive("shape", 2.0)
        with numpyro.plate("groups", g.max() + 1):
            rate = numpyro.sample("rate", dist.Gamma(shape, 1.0))
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Categorical(w))
            numpyro.sample("y", dist.Poisson(f[z] * rate[g]), obs=y)

    y = np.random.default_rng(8).poisson(3.0, GROUP.size)
    params = {"w": [0.4, 0.6], "f": [0.5, 2.0], "shape": 2.5}

    def states(g, x, y):
        return crossed(z=all_states((len(y),), 2))

    args = GROUP, COVARIATE, y
    return Case(model, args, params, [LINE], lambda z: {"rate": jnp.exp(z)[None]}, by_group, states=states)


def some_rows_without_a_gate():
    """The first row of the data has neither gate nor group; elements are gathered out of order."""

    def model(g, x, y):
        p, tau, m = unit("p", 0.3), positive("tau", 1.0), numpyro.param("m", jnp.zeros(2))
        count = len(y) - 1
        with numpyro.plate("groups", g.max() + 1):
            b = numpyro.sample("b", dist.Normal(0.0, tau))
        with numpyro.plate("gates", count - 1):
            z = numpyro.sample("z", dist.Bernoulli(p))
        effect = jnp.concatenate([m[z[::-1]], jnp.zeros(1)]) + b[g[1:]]
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Poisson(jnp.exp(jnp.concatenate([jnp.full(1, m[0]), effect]))), obs=y)

    g = np.zeros(6, int)
    y = np.random.default_rng(9).poisson(1.5, 6)
    params = {"p": 0.4, "tau": 0.8, "m": [-0.4, 0.9]}

    def states(g, x, y):
        return crossed(z=all_states((len(y) - 2,), 2))

    args = g, COVARIATE[:6], y
    return Case(model, args, params, [LINE], lambda z: {"b": z[None]}, lambda *a: [a], states=states)


CASES = {
    f.__name__: f
    for f in (
        zero_inflated_intercepts, guessing, classes_by_ability, mixture_of_intercepts, class_and_gates,
        class_above_people, gaussian_that_meets_many_states, gamma_that_meets_many_states, some_rows_without_a_gate,
    )
}  # fmt: skip
