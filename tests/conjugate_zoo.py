"""NumPyro models with conjugate latents, written in the ways in which people write them, with data and parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import constraints

POSITIVE = constraints.positive
SIMPLEX = constraints.simplex


class Case(NamedTuple):
    """A model, its arguments, parameter values somewhere, and the families of its continuous latents."""

    model: Callable[..., Any]
    args: tuple[Any, ...]
    params: dict[str, Any]
    families: dict[str, str]


def positive(name, value=1.0):
    return numpyro.param(name, value, constraint=POSITIVE)


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


GROUP = np.array([0, 0, 1, 2, 2, 2, 1, 3])


def poisson_with_exposure() -> Case:
    rng = _rng(0)
    t, x = rng.uniform(0.5, 20, 6), rng.poisson(4, 6)

    def model(t, x):
        a, b = positive("a"), positive("b")
        with numpyro.plate("units", len(x)):
            u = numpyro.sample("u", dist.Gamma(a, b))
            numpyro.sample("x", dist.Poisson(t * u), obs=x)

    return Case(model, (t, x), {"a": 1.3, "b": 0.7}, {"u": "gamma"})


def poisson_in_groups_with_a_factor() -> Case:
    """An offset, a parameter per period that multiplies the rate, and a group without data."""
    rng = _rng(1)
    t, x = rng.uniform(0.5, 3, (8, 3)), rng.poisson(3, (8, 3))

    def model(group, t, x):
        a, b = positive("a"), positive("b")
        trend = numpyro.param("trend", jnp.ones(3), constraint=POSITIVE)
        with numpyro.plate("groups", 5):
            u = numpyro.sample("u", dist.Gamma(a, b))
        with numpyro.plate("rows", len(group), dim=-2), numpyro.plate("periods", 3, dim=-1):
            numpyro.sample("x", dist.Poisson(u[group][:, None] * t * trend / 2), obs=x)

    params = {"a": 2.1, "b": 0.9, "trend": np.array([0.7, 1.2, 1.9])}
    return Case(model, (GROUP, t, x), params, {"u": "gamma"})


def poisson_regression_with_frailty() -> Case:
    rng = _rng(2)
    z, x = rng.normal(size=8), rng.poisson(3, 8)

    def model(group, z, x):
        shape = positive("shape")
        slope, level = numpyro.param("slope", 0.0), numpyro.param("level", 0.0)
        with numpyro.plate("groups", 4):
            frailty = numpyro.sample("frailty", dist.Gamma(shape, shape))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Poisson(jnp.exp(level + slope * z) * frailty[group]), obs=x)

    return Case(model, (GROUP, z, x), {"shape": 1.7, "slope": 0.4, "level": 0.8}, {"frailty": "gamma"})


def lifetimes_of_two_kinds() -> Case:
    """Exponential and Gamma lifetimes share a rate; the Gamma's shape is a parameter."""
    rng = _rng(3)
    x, y = rng.exponential(1.0, 4), rng.gamma(2.0, 1.0, (4, 2))

    def model(x, y):
        a, b, shape = positive("a"), positive("b"), positive("shape")
        with numpyro.plate("units", 4, dim=-1):
            rate = numpyro.sample("rate", dist.Gamma(a, b))
            numpyro.sample("x", dist.Exponential(rate), obs=x)
        with numpyro.plate("units", 4, dim=-2), numpyro.plate("repeats", 2, dim=-1):
            numpyro.sample("y", dist.Gamma(shape, 3.0 * rate[:, None]), obs=y)

    return Case(model, (x, y), {"a": 1.4, "b": 0.8, "shape": 2.3}, {"rate": "gamma"})


def exponential_prior() -> Case:
    """The kernel decides: an Exponential density is conjugate to a Poisson, and its rate has a closed form."""
    x = _rng(4).poisson(2, (5, 3))

    def model(x):
        with numpyro.plate("units", 5, dim=-2):
            u = numpyro.sample("u", dist.Exponential(positive("b")))
            with numpyro.plate("repeats", 3, dim=-1):
                numpyro.sample("x", dist.Poisson(u), obs=x)

    return Case(model, (x,), {"b": 0.4}, {"u": "gamma"})


def precision() -> Case:
    """Robust regression: a Student-t as a scale mixture, with a location and a scale to fit."""
    rng = _rng(5)
    z, y = rng.normal(size=7), rng.standard_t(3, 7)

    def model(z, y):
        nu, sigma = positive("nu", 4.0), positive("sigma")
        beta = numpyro.param("beta", jnp.zeros(2))
        with numpyro.plate("rows", len(y)):
            tau = numpyro.sample("tau", dist.Gamma(nu / 2, nu / 2))
            numpyro.sample("y", dist.Normal(beta[0] + beta[1] * z, sigma / jnp.sqrt(tau)), obs=y)

    params = {"nu": 3.4, "sigma": 1.2, "beta": np.array([0.3, -0.6])}
    return Case(model, (z, y), params, {"tau": "gamma"})


def precision_by_group_and_chi2() -> Case:
    rng = _rng(6)
    y = rng.normal(1, 2, 8)

    def model(group, y):
        mu = numpyro.param("mu", jnp.zeros(4))
        scale = numpyro.param("scale", jnp.ones(2), constraint=POSITIVE)
        with numpyro.plate("groups", 4):
            tau = numpyro.sample("tau", dist.Chi2(positive("df", 3.0)))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(mu[group], scale[group % 2] * tau[group] ** -0.5), obs=y)

    params = {"df": 2.7, "mu": np.array([0.5, 1.0, -0.5, 2.0]), "scale": np.array([0.8, 1.7])}
    return Case(model, (GROUP, y), params, {"tau": "gamma"})


def weibull_and_pareto() -> Case:
    rng = _rng(7)
    x, y = rng.weibull(1.5, (4, 2)), 2.0 + rng.pareto(2.0, 4)

    def model(x, y):
        a, b = positive("a"), positive("b")
        with numpyro.plate("units", 4, dim=-2):
            hazard = numpyro.sample("hazard", dist.Gamma(a, b))
            with numpyro.plate("repeats", 2, dim=-1):
                numpyro.sample("x", dist.Weibull(hazard ** (-1 / 1.5), 1.5), obs=x)
        with numpyro.plate("others", 4):
            numpyro.sample("y", dist.Pareto(2.0, hazard[:, 0]), obs=y)

    return Case(model, (x, y), {"a": 1.4, "b": 0.9}, {"hazard": "gamma"})


def censored_lifetimes() -> Case:
    """Some units outlive the study: the survival of all three kinds has the features of their density."""
    rng = _rng(17)
    x, y, w = rng.exponential(1.0, (4, 2)), rng.weibull(1.5, 4), 2 + rng.pareto(2.0, 4)
    seen = rng.random((3, 4)) < 0.6

    def model(x, y, w):
        a, b = positive("a"), positive("b")
        with numpyro.plate("units", 4):
            hazard = numpyro.sample("hazard", dist.Gamma(a, b))
            numpyro.sample("y", dist.RightCensoredDistribution(dist.Weibull(hazard ** (-1 / 1.5), 1.5), seen[0]), obs=y)
            numpyro.sample("w", dist.RightCensoredDistribution(dist.Pareto(2.0, hazard), seen[1]), obs=w)
        lasts = dist.RightCensoredDistribution(dist.Exponential(2 * hazard[:, None]), jnp.asarray(seen[2])[:, None])
        with numpyro.plate("units", 4, dim=-2), numpyro.plate("repeats", 2, dim=-1):
            numpyro.sample("x", lasts, obs=x)

    return Case(model, (x, y, w), {"a": 1.4, "b": 0.9}, {"hazard": "gamma"})


def variance_and_exponential_scale() -> Case:
    rng = _rng(8)
    x, y = rng.normal(0, 1, (4, 3)), rng.exponential(2.0, 4)

    def model(x, y):
        a, b, mu = positive("a", 2.0), positive("b"), numpyro.param("mu", 0.0)
        with numpyro.plate("units", 4, dim=-2):
            v = numpyro.sample("v", dist.InverseGamma(a, b))
            with numpyro.plate("repeats", 3, dim=-1):
                numpyro.sample("x", dist.Normal(mu, jnp.sqrt(v)), obs=x)
        numpyro.sample("y", dist.Exponential(2 / v[:, 0]).to_event(1), obs=y)

    return Case(model, (x, y), {"a": 2.2, "b": 1.3, "mu": 0.2}, {"v": "inverse gamma"})


def beta_binomial() -> Case:
    rng = _rng(9)
    n = rng.integers(5, 20, 6)
    x = rng.binomial(n, 0.4)

    def model(n, x):
        a, b = positive("a"), positive("b")
        with numpyro.plate("units", len(x)):
            p = numpyro.sample("p", dist.Beta(a, b))
            numpyro.sample("x", dist.Binomial(n, p), obs=x)

    return Case(model, (n, x), {"a": 1.6, "b": 2.3}, {"p": "beta"})


def four_children_of_one_probability() -> Case:
    """A uniform density is a Beta(1, 1); one scalar latent for all."""
    rng = _rng(10)
    args = rng.binomial(1, 0.4, 5), rng.geometric(0.4, 3) - 1, rng.negative_binomial(3, 0.5, 4), rng.normal(size=3)

    def model(x, y, w, r):
        sigma = positive("sigma")
        p = numpyro.sample("p", dist.Uniform(0.0, 1.0))
        numpyro.sample("x", dist.Bernoulli(p).expand([5]).to_event(1), obs=x)
        numpyro.sample("y", dist.Geometric(jnp.full(3, p)), obs=y)
        numpyro.sample("w", dist.NegativeBinomialProbs(3, p), obs=w)
        numpyro.sample("r", dist.Normal(0.0, sigma), obs=r)

    return Case(model, args, {"sigma": 1.3}, {"p": "beta"})


def complements() -> Case:
    """A probability, one less it, and vectors of the two, by group."""
    rng = _rng(16)
    args = (rng.binomial(1, 0.4, 8), rng.binomial(5, 0.4, 8), rng.geometric(0.4, 4) - 1, rng.binomial(1, 0.4, 8),
            rng.multinomial(6, [0.3, 0.7], 4))  # fmt: skip

    def model(x, y, w, v, t):
        a, b = positive("a"), positive("b")
        with numpyro.plate("groups", 4):
            p = numpyro.sample("p", dist.Beta(a, b))
            numpyro.sample("w", dist.Geometric(1 - p), obs=w)
            numpyro.sample("t", dist.Multinomial(6, jnp.stack([1 - p, p], -1)), obs=t)
        q = 1 - p
        with numpyro.plate("rows", 8):
            numpyro.sample("x", dist.Bernoulli(q[GROUP]), obs=x)
            numpyro.sample("y", dist.Binomial(5, 1 - q[GROUP]), obs=y)
            numpyro.sample("v", dist.Categorical(jnp.stack([p[GROUP], 1.0 - p[GROUP]], -1)), obs=v)

    return Case(model, args, {"a": 1.6, "b": 2.3}, {"p": "beta"})


def dirichlet_multinomial() -> Case:
    rng = _rng(11)
    x = rng.multinomial(9, [0.5, 0.3, 0.2], 4)
    y = rng.integers(0, 3, 8)

    def model(group, x, y):
        alpha = numpyro.param("alpha", jnp.ones(3), constraint=POSITIVE)
        with numpyro.plate("units", 4):
            p = numpyro.sample("p", dist.Dirichlet(alpha))
            numpyro.sample("x", dist.Multinomial(9, p), obs=x)
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Categorical(p[group]), obs=y)

    return Case(
        model, (GROUP, x, y), {"alpha": np.array([1.0, 2.0, 3.0])}, {"p": "dirichlet"}
    )  # a polynomial, which the quadrature integrates exactly


def directions() -> Case:
    x = _rng(12).vonmises(0.5, 2.0, (3, 4))

    def model(x):
        mu = numpyro.param("mu", 0.0, constraint=constraints.circular)
        kappa, within = positive("kappa"), positive("within")
        with numpyro.plate("birds", 3, dim=-2):
            home = numpyro.sample("home", dist.VonMises(mu, kappa))
            with numpyro.plate("flights", 4, dim=-1):
                numpyro.sample("x", dist.VonMises(home, within), obs=x)

    return Case(model, (x,), {"mu": 0.3, "kappa": 1.5, "within": 2.2}, {"home": "von mises"})


def masked_and_scaled() -> Case:
    rng = _rng(13)
    x = rng.poisson(3, (4, 3))
    there = rng.random((4, 3)) < 0.6

    def model(x, there):
        a, b = positive("a"), positive("b")
        with numpyro.plate("units", 4, dim=-2):
            u = numpyro.sample("u", dist.Gamma(a, b))
            with numpyro.plate("repeats", 3, dim=-1), handlers.mask(mask=there), handlers.scale(scale=1.5):
                numpyro.sample("x", dist.Poisson(u), obs=x)

    return Case(model, (x, there), {"a": 1.3, "b": 0.6}, {"u": "gamma"})


def two_latents_apart() -> Case:
    """Rates and probabilities of the same units, tied by a parameter only; one rate enters nothing else."""
    rng = _rng(14)
    x, y = rng.poisson(3, 4), rng.binomial(6, 0.5, 4)

    def model(x, y):
        a, b = positive("a"), positive("b")
        with numpyro.plate("units", 4):
            u = numpyro.sample("u", dist.Gamma(a, 1.0))
            p = numpyro.sample("p", dist.Beta(a, b))
            numpyro.sample("x", dist.Poisson(u), obs=x)
            numpyro.sample("y", dist.Binomial(6, p), obs=y)

    return Case(model, (x, y), {"a": 1.5, "b": 2.0}, {"u": "gamma", "p": "beta"})


def maximised_with_priors() -> Case:
    x = _rng(15).poisson(3, (4, 2))

    def model(x):
        a = numpyro.sample("a", dist.Gamma(2.0, 1.0))
        b = numpyro.sample("b", dist.Gamma(2.0, 1.0))
        with numpyro.plate("units", 4, dim=-2):
            u = numpyro.sample("u", dist.Gamma(a, b))
            with numpyro.plate("repeats", 2, dim=-1):
                numpyro.sample("x", dist.Poisson(u), obs=x)

    return Case(model, (x,), {"a": 1.3, "b": 0.6}, {"u": "gamma"})


# -- kernels that no prior was written for ---------------------------------------------------------------------------


def half_normal_effect() -> Case:
    """A HalfNormal times Normal factors, with covariates, a parameter that multiplies it and one group without data."""
    rng = _rng(30)
    z, x = rng.normal(size=8), rng.normal(1.0, 1.0, 8)

    def model(group, z, x):
        tau, sigma, slope = positive("tau"), positive("sigma"), numpyro.param("slope", 1.0)
        with numpyro.plate("groups", 5):
            u = numpyro.sample("u", dist.HalfNormal(tau))
        with numpyro.plate("rows", 8):
            numpyro.sample("x", dist.Normal(z * slope * u[group], sigma), obs=x)

    return Case(model, (GROUP, z, x), {"tau": 1.3, "sigma": 0.7, "slope": -0.8}, {"u": "truncated normal"})


def exponential_inefficiency() -> Case:
    """The prior has no square: that comes from the data."""
    x = _rng(31).normal(0.5, 1.0, (4, 2))

    def model(x):
        rate, sigma = positive("rate"), positive("sigma")
        with numpyro.plate("firms", 4, dim=-2):
            u = numpyro.sample("u", dist.Exponential(rate))
            with numpyro.plate("years", 2, dim=-1):
                numpyro.sample("x", dist.Normal(-u, sigma), obs=x)

    return Case(model, (x,), {"rate": 0.9, "sigma": 0.8}, {"u": "truncated normal"})


def truncated_normal_by_state() -> Case:
    """A prior whose location is a parameter, and a state that says how the latent is seen."""
    rng = _rng(32)
    x = rng.normal(1.0, 1.0, 4)

    def model(x):
        mu, tau = numpyro.param("mu", 0.5), positive("tau")
        gain = numpyro.param("gain", jnp.array([1.0, 2.0]))
        with numpyro.plate("units", 4):
            s = numpyro.sample("s", dist.Bernoulli(0.4))
            u = numpyro.sample("u", dist.TruncatedNormal(mu, tau, low=0.0))
            numpyro.sample("x", dist.Normal(gain[s] * u, 0.6), obs=x)

    params = {"mu": 0.4, "tau": 0.9, "gain": np.array([1.0, -0.7])}
    return Case(model, (x,), params, {"u": "truncated normal"})


def variance_gamma() -> Case:
    """A Gamma variance (the Laplace, and its relatives) and counts: the kernel has the features of both."""
    rng = _rng(33)
    x, y = rng.laplace(size=(5, 2)), rng.poisson(2, 5)

    def model(x, y):
        a, b, mu = positive("a"), positive("b"), numpyro.param("mu", 0.0)
        scale = positive("scale")
        with numpyro.plate("units", 5, dim=-2):
            v = numpyro.sample("v", dist.Gamma(a, b))
            with numpyro.plate("repeats", 2, dim=-1):
                numpyro.sample("x", dist.Normal(mu, scale * jnp.sqrt(v)), obs=x)
        numpyro.sample("y", dist.Poisson(v[:, 0] * jnp.arange(1.0, 6.0)).to_event(1), obs=y)

    params = {"a": 1.7, "b": 0.8, "mu": 0.2, "scale": 0.9}
    return Case(model, (x, y), params, {"v": "generalised inverse gaussian"})


def inverse_gamma_rates() -> Case:
    """An inverse Gamma prior of Poisson rates, in groups, one of which has no data, given a state."""
    rng = _rng(34)
    x = rng.poisson(3, 8)

    def model(group, x):
        a = numpyro.param("a", jnp.array([2.0, 3.0]), constraint=POSITIVE)
        with numpyro.plate("groups", 5):
            s = numpyro.sample("s", dist.Bernoulli(0.3))
            u = numpyro.sample("u", dist.InverseGamma(a[s], positive("b")))
        with numpyro.plate("rows", 8):
            numpyro.sample("x", dist.Poisson(u[group]), obs=x)

    params = {"a": np.array([2.6, 4.5]), "b": 3.0}
    return Case(model, (GROUP, x), params, {"u": "generalised inverse gaussian"})


# -- given discrete latents --------------------------------------------------------------------------------------------


def mixture_of_gamma_poissons() -> Case:
    rng = _rng(20)
    t, x = rng.uniform(0.5, 2, 8), rng.poisson(4, 8)

    def model(group, t, x):
        weights = numpyro.param("weights", jnp.ones(2) / 2, constraint=SIMPLEX)
        shape = numpyro.param("shape", jnp.array([1.0, 2.0]), constraint=POSITIVE)
        rate = numpyro.param("rate", jnp.ones(2), constraint=POSITIVE)
        with numpyro.plate("groups", 4):
            z = numpyro.sample("z", dist.Categorical(weights))
            u = numpyro.sample("u", dist.Gamma(shape[z], rate[z]))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Poisson(t * u[group]), obs=x)

    params = {"weights": np.array([0.3, 0.7]), "shape": np.array([1.2, 4.0]), "rate": np.array([1.1, 0.7])}
    return Case(model, (GROUP, t, x), params, {"u": "gamma"})


def state_in_the_child() -> Case:
    """The state multiplies the rate and is seen by a second site; the latent itself does not know it."""
    rng = _rng(21)
    x, y = rng.poisson(4, (4, 2)), rng.normal(size=4)

    def model(x, y):
        weight = numpyro.param("weight", 0.5, constraint=constraints.unit_interval)
        ratio = numpyro.param("ratio", jnp.array([1.0, 2.0]), constraint=POSITIVE)
        locs = numpyro.param("locs", jnp.array([0.0, 1.0]))
        a = positive("a")
        with numpyro.plate("groups", 4):
            z = numpyro.sample("z", dist.Bernoulli(weight))
            u = numpyro.sample("u", dist.Gamma(a, 1.0))
            numpyro.sample("y", dist.Normal(locs[z], 1.0), obs=y)
        with numpyro.plate("groups", 4, dim=-2), numpyro.plate("repeats", 2, dim=-1):
            numpyro.sample("x", dist.Poisson((ratio[z] * u)[:, None]), obs=x)

    params = {"weight": 0.4, "ratio": np.array([0.8, 2.2]), "locs": np.array([-0.3, 0.9]), "a": 1.7}
    return Case(model, (x, y), params, {"u": "gamma"})


def known_ratios_by_state() -> Case:
    """What multiplies each of two latents is known given the state: a rate, and a precision."""
    rng = _rng(24)
    x, y = rng.poisson(3, 5), rng.normal(size=5)

    def model(x, y):
        weight = numpyro.param("weight", 0.5, constraint=constraints.unit_interval)
        a, b = positive("a"), positive("b")
        with numpyro.plate("rows", 5):
            z = numpyro.sample("z", dist.Bernoulli(weight))
            u = numpyro.sample("u", dist.Gamma(a, 1.0))
            v = numpyro.sample("v", dist.Gamma(2.0, b))
            numpyro.sample("x", dist.Poisson(jnp.arange(1.0, 6.0) * u * jnp.where(z == 1, 2.0, 0.5)), obs=x)
            numpyro.sample("y", dist.Normal(0.3, jnp.where(z == 1, 3.0, 0.7) / jnp.sqrt(v)), obs=y)

    return Case(model, (x, y), {"weight": 0.4, "a": 1.7, "b": 0.8}, {"u": "gamma", "v": "gamma"})


def one_state_for_many_units() -> Case:
    """Two latents given one state per group of units: a rate and a probability."""
    rng = _rng(22)
    x, y = rng.poisson(4, (2, 3)), rng.binomial(5, 0.4, (2, 3))

    def model(x, y):
        weights = numpyro.param("weights", jnp.ones(3) / 3, constraint=SIMPLEX)
        a = numpyro.param("a", jnp.ones(3), constraint=POSITIVE)
        c = numpyro.param("c", jnp.ones((3, 2)), constraint=POSITIVE)
        with numpyro.plate("sites", 2, dim=-2):
            z = numpyro.sample("z", dist.Categorical(weights))
            with numpyro.plate("units", 3, dim=-1):
                u = numpyro.sample("u", dist.Gamma(a[z], 0.8))
                p = numpyro.sample("p", dist.Beta(c[z, 0], c[z, 1]))
                numpyro.sample("x", dist.Poisson(u), obs=x)
                numpyro.sample("y", dist.Binomial(5, p), obs=y)

    params = {"weights": np.array([0.5, 0.3, 0.2]), "a": np.array([1.0, 2.0, 5.0]),
              "c": np.array([[1.0, 2.0], [2.0, 1.5], [0.8, 3.0]])}  # fmt: skip
    return Case(model, (x, y), params, {"u": "gamma", "p": "beta"})


def hidden_counts() -> Case:
    """The child of the latent is a discrete latent itself, seen through a noisy test."""
    y = _rng(23).normal(1, 1, 3)

    def model(y):
        a, b, gap = positive("a"), positive("b"), numpyro.param("gap", 1.0)
        with numpyro.plate("units", 3):
            p = numpyro.sample("p", dist.Beta(a, b))
            k = numpyro.sample("k", dist.Binomial(3, p))
            numpyro.sample("y", dist.Normal(gap * k, 0.7), obs=y)

    return Case(model, (y,), {"a": 1.3, "b": 2.1, "gap": 0.8}, {"p": "beta"})


def mixture_of_dirichlets() -> Case:
    x = _rng(24).multinomial(8, [0.5, 0.3, 0.2], 4)

    def model(x):
        weights = numpyro.param("weights", jnp.ones(2) / 2, constraint=SIMPLEX)
        alpha = numpyro.param("alpha", jnp.array([[1.0, 2.0, 3.0], [3.0, 1.0, 1.0]]), constraint=POSITIVE)
        with numpyro.plate("units", 4):
            z = numpyro.sample("z", dist.Categorical(weights))
            p = numpyro.sample("p", dist.Dirichlet(alpha[z]))
            numpyro.sample("x", dist.Multinomial(8, p), obs=x)

    params = {"weights": np.array([0.4, 0.6]), "alpha": np.array([[0.8, 1.4, 2.5], [2.2, 1.1, 0.6]])}
    return Case(model, (x,), params, {"p": "dirichlet"})


def outliers_by_two_mechanisms() -> Case:
    """A Student-t whose rows are of one of two kinds, with a location that both share."""
    y = _rng(25).standard_t(3, 6)

    def model(y):
        weight = numpyro.param("weight", 0.5, constraint=constraints.unit_interval)
        sigma = numpyro.param("sigma", jnp.array([0.5, 2.0]), constraint=POSITIVE)
        mu = numpyro.param("mu", 0.0)
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Bernoulli(weight))
            tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
            numpyro.sample("y", dist.Normal(mu, sigma[z] / jnp.sqrt(tau)), obs=y)

    return Case(model, (y,), {"weight": 0.3, "sigma": np.array([0.6, 1.9]), "mu": 0.2}, {"tau": "gamma"})


CASES: dict[str, Callable[[], Case]] = {
    f.__name__: f
    for f in (
        poisson_with_exposure,
        poisson_in_groups_with_a_factor,
        poisson_regression_with_frailty,
        lifetimes_of_two_kinds,
        exponential_prior,
        precision,
        precision_by_group_and_chi2,
        weibull_and_pareto,
        censored_lifetimes,
        variance_and_exponential_scale,
        beta_binomial,
        four_children_of_one_probability,
        complements,
        dirichlet_multinomial,
        directions,
        masked_and_scaled,
        two_latents_apart,
        maximised_with_priors,
        half_normal_effect,
        exponential_inefficiency,
        truncated_normal_by_state,
        variance_gamma,
        inverse_gamma_rates,
        mixture_of_gamma_poissons,
        state_in_the_child,
        known_ratios_by_state,
        one_state_for_many_units,
        hidden_counts,
        mixture_of_dirichlets,
        outliers_by_two_mechanisms,
    )
}
