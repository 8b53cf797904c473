"""NumPyro models with Gaussian latents, written in the ways in which people write them, with data and parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.distributions.transforms import AffineTransform, LowerCholeskyAffine

POSITIVE = constraints.positive


class Case(NamedTuple):
    """A model, its arguments, parameter values somewhere, and which elements of a latent have a density if not all."""

    model: Callable[..., Any]
    args: tuple[Any, ...]
    params: dict[str, Any]
    held: dict[str, Any] = {}  # noqa: RUF012


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def one_way() -> Case:
    y = _rng(0).normal(3, 2, (5, 4))

    def model(y):
        mu = numpyro.param("mu", 0.0)
        tau = numpyro.param("tau", 1.0, constraint=POSITIVE)
        sigma = numpyro.param("sigma", 1.0, constraint=POSITIVE)
        with numpyro.plate("groups", 5, dim=-2):
            b = numpyro.sample("b", dist.Normal(mu, tau))
            with numpyro.plate("rows", 4, dim=-1):
                numpyro.sample("y", dist.Normal(b, sigma), obs=y)

    return Case(model, (y,), {"mu": 0.3, "tau": 1.2, "sigma": 0.7})


def unbalanced_slopes() -> Case:
    rng = _rng(1)
    group = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    x, y = rng.normal(size=10), rng.normal(1, 2, 10)

    def model(x, group, y):
        intercept = numpyro.param("intercept", 0.0)
        slope = numpyro.param("slope", 0.0)
        root = numpyro.param("root", jnp.eye(2), constraint=constraints.lower_cholesky)
        sigma = numpyro.param("sigma", 1.0, constraint=POSITIVE)
        with numpyro.plate("groups", 4):
            u = numpyro.sample("u", dist.MultivariateNormal(jnp.zeros(2), scale_tril=root))
        mean = intercept + slope * x + u[group, 0] + u[group, 1] * x
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(mean, sigma), obs=y)

    root = np.array([[1.1, 0.0], [0.3, 0.6]])
    return Case(model, (x, group, y), {"intercept": 0.2, "slope": -0.4, "root": root, "sigma": 0.8})


def correlated_by_covariance() -> Case:
    rng = _rng(2)
    group = np.array([0, 0, 1, 1, 1, 2, 2, 2])
    z, x, y = rng.normal(size=(8, 2)), rng.normal(size=(8, 2)), rng.normal(1, 2, 8)

    def model(x, z, group, y):
        beta = numpyro.param("beta", jnp.zeros(2))
        cov = numpyro.param("cov", jnp.eye(2), constraint=constraints.positive_definite)
        sigma = numpyro.param("sigma", 1.0, constraint=POSITIVE)
        with numpyro.plate("groups", 3):
            u = numpyro.sample("u", dist.MultivariateNormal(jnp.zeros(2), cov))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(x @ beta + jnp.sum(z * u[group], -1), sigma), obs=y)

    cov = np.array([[1.2, 0.3], [0.3, 0.5]])
    return Case(model, (x, z, group, y), {"beta": np.array([0.5, -1.0]), "cov": cov, "sigma": 0.9})


def crossed() -> Case:
    rng = _rng(3)
    first, second = rng.integers(0, 4, 15), rng.integers(0, 3, 15)
    y = rng.normal(2, 1.5, 15)

    def model(first, second, y):
        mu = numpyro.param("mu", 0.0)
        a_scale = numpyro.param("a_scale", 1.0, constraint=POSITIVE)
        b_scale = numpyro.param("b_scale", 1.0, constraint=POSITIVE)
        sigma = numpyro.param("sigma", 1.0, constraint=POSITIVE)
        a = numpyro.sample("a", dist.Normal(0, a_scale).expand([4]))
        b = numpyro.sample("b", dist.Normal(0, b_scale).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(mu + a[first] + b[second], sigma).to_event(1), obs=y)

    return Case(model, (first, second, y), {"mu": 1.0, "a_scale": 0.8, "b_scale": 1.3, "sigma": 0.6})


def non_centred() -> Case:
    y, se = _rng(4).normal(3, 4, 8), np.array([15.0, 10, 16, 11, 9, 11, 10, 18]) / 5

    def model(y, se):
        mu = numpyro.param("mu", 0.0)
        tau = numpyro.param("tau", 1.0, constraint=POSITIVE)
        with numpyro.plate("schools", 8):
            z = numpyro.sample("z", dist.Normal(0, 1))
            theta = numpyro.deterministic("theta", mu + tau * z)
            numpyro.sample("y", dist.Normal(theta, se), obs=y)

    return Case(model, (y, se), {"mu": 1.0, "tau": 2.0})


def lkj_like() -> Case:
    rng = _rng(5)
    group = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    x, y = rng.normal(size=8), rng.normal(1, 2, 8)

    def model(x, group, y):
        beta = numpyro.param("beta", jnp.zeros(2))
        scales = numpyro.param("scales", jnp.ones(2), constraint=POSITIVE)
        corr = numpyro.param("corr", jnp.eye(2), constraint=constraints.corr_cholesky)
        sigma = numpyro.param("sigma", 1.0, constraint=POSITIVE)
        with numpyro.plate("groups", 3):
            z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
        u = z @ (scales[:, None] * corr).T
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(beta[0] + u[group, 0] + (beta[1] + u[group, 1]) * x, sigma), obs=y)

    corr = np.array([[1.0, 0.0], [0.6, 0.8]])
    return Case(model, (x, group, y), {"beta": np.array([0.1, 0.5]), "scales": np.array([1.0, 0.5]), "corr": corr,
                                       "sigma": 0.7})  # fmt: skip


def factor_analysis() -> Case:
    y = _rng(6).normal(1, 2, (12, 4))

    def model(y):
        w = numpyro.param("w", jnp.ones((4, 2)))
        mean = numpyro.param("mean", jnp.zeros(4))
        psi = numpyro.param("psi", jnp.ones(4), constraint=POSITIVE)
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
            numpyro.sample("y", dist.Normal(mean + z @ w.T, psi).to_event(1), obs=y)

    params = {"w": _rng(60).normal(size=(4, 2)), "mean": np.arange(4.0), "psi": np.array([0.5, 1.0, 1.5, 0.8])}
    return Case(model, (y,), params)


def probabilistic_pca() -> Case:
    y = _rng(7).normal(1, 2, (9, 3))

    def model(y):
        w = numpyro.param("w", jnp.ones((3, 2)))
        mean = numpyro.param("mean", jnp.zeros(3))
        sigma = numpyro.param("sigma", 1.0, constraint=POSITIVE)
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
            loc = mean + (w @ z[..., None])[..., 0]
            numpyro.sample("y", dist.MultivariateNormal(loc, sigma**2 * jnp.eye(3)), obs=y)

    return Case(model, (y,), {"w": _rng(70).normal(size=(3, 2)), "mean": np.array([1.0, 0.0, 2.0]), "sigma": 0.8})


def missing_entries() -> Case:
    y = _rng(8).normal(1, 2, (7, 3))
    holes = (np.array([0, 0, 2, 4, 5]), np.array([1, 2, 1, 0, 1]))

    def model(y):
        mean = numpyro.param("mean", jnp.zeros(3))
        cov = numpyro.param("cov", jnp.eye(3), constraint=constraints.positive_definite)
        imputed = numpyro.sample("imputed", dist.Normal(0, 1).expand([5]).mask(False))
        full = jnp.asarray(y).at[holes].set(imputed)
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.MultivariateNormal(mean, cov), obs=full)

    cov = np.array([[1.0, 0.3, 0.2], [0.3, 2.0, -0.4], [0.2, -0.4, 0.8]])
    return Case(model, (y,), {"mean": np.array([0.5, 1.0, 0.0]), "cov": cov})


def missing_covariate() -> Case:
    rng = _rng(9)
    x, y = rng.normal(2, 1, 8), rng.normal(size=8)
    seen = np.array([True, False, True, True, False, True, True, True])

    def model(x, y):
        a, b = numpyro.param("a", 0.0), numpyro.param("b", 0.5)
        m, s = numpyro.param("m", 0.0), numpyro.param("s", 1.0, constraint=POSITIVE)
        sigma = numpyro.param("sigma", 1.0, constraint=POSITIVE)
        with numpyro.plate("rows", len(y)):
            filled = numpyro.sample("x", dist.Normal(m, s), obs=x, obs_mask=seen)
            numpyro.sample("y", dist.Normal(a + b * filled, sigma), obs=y)

    return Case(model, (x, y), {"a": 0.1, "b": 0.7, "m": 1.5, "s": 1.2, "sigma": 0.6}, {"x_unobserved": ~seen})


def errors_in_variables() -> Case:
    rng = _rng(10)
    x, y = rng.normal(2, 1, 6), rng.normal(size=6)

    def model(x, y):
        b = numpyro.param("b", 0.5)
        m, s = numpyro.param("m", 0.0), numpyro.param("s", 1.0, constraint=POSITIVE)
        sigma = numpyro.param("sigma", 1.0, constraint=POSITIVE)
        with numpyro.plate("rows", len(y)):
            truth = numpyro.sample("truth", dist.Normal(m, s))
            numpyro.sample("x", dist.Normal(truth, 0.5), obs=x)
            numpyro.sample("y", dist.LogNormal(b * truth, sigma), obs=jnp.exp(y))

    return Case(model, (x, y), {"b": 0.7, "m": 1.5, "s": 1.2, "sigma": 0.6})


def gaussian_process() -> Case:
    rng = _rng(11)
    t, y = np.sort(rng.uniform(0, 3, 6)), rng.normal(size=6)

    def model(t, y):
        height = numpyro.param("height", 1.0, constraint=POSITIVE)
        length = numpyro.param("length", 1.0, constraint=POSITIVE)
        sigma = numpyro.param("sigma", 1.0, constraint=POSITIVE)
        kernel = height**2 * jnp.exp(-0.5 * ((t[:, None] - t) / length) ** 2) + 1e-4 * jnp.eye(len(t))
        f = numpyro.sample("f", dist.MultivariateNormal(jnp.zeros(len(t)), kernel))
        numpyro.sample("y", dist.Normal(f, sigma).to_event(1), obs=y)

    return Case(model, (t, y), {"height": 1.2, "length": 0.7, "sigma": 0.5})


def walk_in_a_loop() -> Case:
    y = _rng(12).normal(size=5).cumsum()

    def model(y):
        q = numpyro.param("q", 1.0, constraint=POSITIVE)
        r = numpyro.param("r", 1.0, constraint=POSITIVE)
        rho = numpyro.param("rho", 0.5)
        state = numpyro.sample("z_0", dist.Normal(0, 2))
        numpyro.sample("y_0", dist.Normal(state, r), obs=y[0])
        for t in range(1, 5):
            state = numpyro.sample(f"z_{t}", dist.Normal(rho * state, q))
            numpyro.sample(f"y_{t}", dist.Normal(state, r), obs=y[t])

    return Case(model, (y,), {"q": 0.8, "r": 0.6, "rho": 0.9})


def nested_masked() -> Case:
    rng = _rng(13)
    y = rng.normal(1, 2, (3, 2, 4))
    keep = rng.uniform(size=(3, 2, 4)) < 0.7

    def model(y, keep):
        mu = numpyro.param("mu", 0.0)
        scales = numpyro.param("scales", jnp.ones(3), constraint=POSITIVE)
        with numpyro.plate("a", 3, dim=-3):
            a = numpyro.sample("za", dist.Normal(mu, scales[0]))
            with numpyro.plate("b", 2, dim=-2):
                b = numpyro.sample("zb", dist.Normal(a, scales[1]))
                with numpyro.plate("c", 4, dim=-1):
                    numpyro.sample("y", dist.Normal(b, scales[2]).mask(keep), obs=y)

    return Case(model, (y, keep), {"mu": 0.5, "scales": np.array([1.0, 0.7, 1.4])})


def mixture_of_factor_analysers() -> Case:
    y = _rng(14).normal(1, 2, (4, 3))

    def model(y):
        weights = numpyro.param("weights", jnp.ones(2) / 2, constraint=constraints.simplex)
        w = numpyro.param("w", jnp.ones((2, 3, 1)))
        mean = numpyro.param("mean", jnp.zeros((2, 3)))
        psi = numpyro.param("psi", jnp.ones(3), constraint=POSITIVE)
        with numpyro.plate("rows", len(y)):
            k = numpyro.sample("k", dist.Categorical(weights))
            z = numpyro.sample("z", dist.Normal(0, 1).expand([1]).to_event(1))
            loc = mean[k] + (w[k] @ z[..., None])[..., 0]
            numpyro.sample("y", dist.Normal(loc, psi).to_event(1), obs=y)

    params = {"weights": np.array([0.4, 0.6]), "w": _rng(140).normal(size=(2, 3, 1)),
              "mean": _rng(141).normal(size=(2, 3)), "psi": np.array([0.7, 1.0, 1.2])}  # fmt: skip
    return Case(model, (y,), params)


def mixture_of_growth_curves() -> Case:
    rng = _rng(15)
    subject, t = np.repeat(np.arange(3), 3), np.tile(np.arange(3.0), 3)
    y = rng.normal(size=9)

    def model(subject, t, y):
        weights = numpyro.param("weights", jnp.ones(2) / 2, constraint=constraints.simplex)
        slopes = numpyro.param("slopes", jnp.array([-1.0, 1.0]))
        tau = numpyro.param("tau", jnp.ones(2), constraint=POSITIVE)
        sigma = numpyro.param("sigma", 1.0, constraint=POSITIVE)
        with numpyro.plate("subjects", 3):
            k = numpyro.sample("k", dist.Categorical(weights))
            b = numpyro.sample("b", dist.Normal(0.0, tau[k]))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(b[subject] + slopes[k[subject]] * t, sigma), obs=y)

    params = {"weights": np.array([0.3, 0.7]), "slopes": np.array([-0.5, 0.8]), "tau": np.array([0.6, 1.5]),
              "sigma": 0.8}  # fmt: skip
    return Case(model, (subject, t, y), params)


def mixture_with_missing_entries() -> Case:
    y = _rng(16).normal(1, 2, (4, 2))
    holes = (np.array([0, 2]), np.array([1, 0]))

    def model(y):
        weights = numpyro.param("weights", jnp.ones(2) / 2, constraint=constraints.simplex)
        mean = numpyro.param("mean", jnp.zeros((2, 2)))
        cov = numpyro.param("cov", jnp.stack([jnp.eye(2)] * 2), constraint=constraints.positive_definite)
        imputed = numpyro.sample("imputed", dist.Normal(0, 1).expand([2]).mask(False))
        full = jnp.asarray(y).at[holes].set(imputed)
        with numpyro.plate("rows", len(y)):
            k = numpyro.sample("k", dist.Categorical(weights))
            numpyro.sample("y", dist.MultivariateNormal(mean[k], cov[k]), obs=full)

    cov = np.stack([np.array([[1.0, 0.3], [0.3, 2.0]]), np.array([[0.8, -0.2], [-0.2, 0.7]])])
    return Case(model, (y,), {"weights": np.array([0.3, 0.7]), "mean": np.array([[0.0, 1.0], [2.0, 0.5]]), "cov": cov})


def nonlinear_in_time() -> Case:
    """A residual affine in the latents, with a coefficient that is a nonlinear function of a parameter."""
    rng = _rng(17)
    t, y = np.arange(4.0), rng.normal(1, 1, (3, 4))

    def model(t, y):
        rate = numpyro.param("rate", 0.5, constraint=POSITIVE)
        mu = numpyro.param("mu", 1.0)
        tau = numpyro.param("tau", 1.0, constraint=POSITIVE)
        with numpyro.plate("subjects", 3, dim=-2):
            z = numpyro.sample("z", dist.Normal(mu, tau))
            with numpyro.plate("times", 4, dim=-1):
                numpyro.sample("y", dist.Normal(z * jnp.exp(-rate * t), 0.4), obs=y)

    return Case(model, (t, y), {"rate": 0.3, "mu": 1.3, "tau": 0.6})


def scored_twice_with_prior() -> Case:
    """A maximised site with a prior, a latent observed twice, and one without data."""
    rng = _rng(18)
    x, y = rng.normal(size=5), rng.normal(size=5)

    def model(x, y):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        sigma = numpyro.sample("sigma", dist.HalfNormal(5.0))
        with numpyro.plate("rows", 5):
            z = numpyro.sample("z", dist.Normal(mu, 1.0))
            idle = numpyro.sample("idle", dist.Normal(z, 2.0))
            numpyro.deterministic("sum", z + idle)
            numpyro.sample("x", dist.Normal(z, sigma), obs=x)
            numpyro.sample("y", dist.Normal(2 * z - 1, 0.5), obs=y)

    return Case(model, (x, y), {"mu": 0.4, "sigma": 0.9})


def local_level_by_scan() -> Case:
    """A random walk seen through noise, some years missing; the initial level is a site before the scan."""
    rng = _rng(40)
    y, seen = rng.normal(size=6), np.array([True, False, True, True, False, True])

    def model(y, seen):
        q = numpyro.param("q", 1.0, constraint=POSITIVE)
        r = numpyro.param("r", 1.0, constraint=POSITIVE)
        start = numpyro.sample("start", dist.Normal(0.0, 2.0))

        def step(level, now):
            y_t, seen_t = now
            level = numpyro.sample("level", dist.Normal(level, q))
            with numpyro.handlers.mask(mask=seen_t):
                numpyro.sample("y", dist.Normal(level, r), obs=y_t)
            return level, None

        scan(step, start, (y, seen))

    return Case(model, (y, seen), {"q": 0.7, "r": 0.9})


def state_space_by_scan() -> Case:
    """A plate of series with a state of two dimensions, unknown matrices, an input."""
    rng = _rng(41)
    y, u = rng.normal(size=(4, 2, 2)), rng.normal(size=4)

    def model(y, u):
        A = numpyro.param("A", 0.5 * jnp.eye(2))
        b = numpyro.param("b", jnp.zeros(2))
        C = numpyro.param("C", jnp.eye(2))
        Q = numpyro.param("Q", jnp.eye(2), constraint=constraints.positive_definite)
        r = numpyro.param("r", jnp.ones(2), constraint=POSITIVE)

        def step(before, now):
            y_t, u_t = now
            with numpyro.plate("series", 2):
                z = numpyro.sample("z", dist.MultivariateNormal(before @ A.T + b * u_t, covariance_matrix=Q))
                numpyro.sample("y", dist.Normal(z @ C.T, r).to_event(1), obs=y_t)
            return z, None

        scan(step, jnp.zeros((2, 2)), (y, u))

    params = {"A": rng.normal(size=(2, 2)) / 2, "b": rng.normal(size=2), "C": rng.normal(size=(2, 2)),
              "Q": np.array([[1.0, 0.2], [0.2, 0.7]]), "r": np.array([0.6, 1.1])}  # fmt: skip
    return Case(model, (y, u), params)


def second_order_by_scan() -> Case:
    """An autoregression of order two behind noise: a step reads the two states before it."""
    y = _rng(42).normal(size=6)

    def model(y):
        phi = numpyro.param("phi", jnp.array([0.5, 0.1]))
        q = numpyro.param("q", 1.0, constraint=POSITIVE)

        def step(carry, y_t):
            before, last = carry
            z = numpyro.sample("z", dist.Normal(phi[0] * last + phi[1] * before, q))
            numpyro.sample("y", dist.Normal(z, 0.5), obs=y_t)
            return (last, z), None

        scan(step, (0.0, 1.0), y)

    return Case(model, (y,), {"phi": [0.6, -0.3], "q": 0.8})


def walk_as_one_site() -> Case:
    """A Gaussian random walk for each of two series, as NumPyro has it; some of it is not seen."""
    y, seen = _rng(50).normal(size=(2, 6)).cumsum(1), _rng(51).random((2, 6)) < 0.8

    def model(y, seen):
        q = numpyro.param("q", jnp.ones(2), constraint=POSITIVE)
        r = numpyro.param("r", 1.0, constraint=POSITIVE)
        with numpyro.plate("series", 2):
            x = numpyro.sample("x", dist.GaussianRandomWalk(q, 6))
        numpyro.sample("y", dist.Normal(x, r).mask(seen).to_event(2), obs=y)

    return Case(model, (y, seen), {"q": [0.8, 1.3], "r": 0.6})


def areal_effects() -> Case:
    """A conditional autoregression over five areas, for two diseases, both its numbers unknown."""
    y = _rng(53).normal(size=(2, 5)) + 1
    ring = np.roll(np.eye(5), 1, 0) + np.roll(np.eye(5), -1, 0)

    def model(y):
        strength = numpyro.param("strength", 0.5, constraint=constraints.unit_interval)
        precision = numpyro.param("precision", jnp.ones(2), constraint=POSITIVE)
        s = numpyro.param("s", 1.0, constraint=POSITIVE)
        with numpyro.plate("disease", 2):
            x = numpyro.sample("x", dist.CAR(0.3, strength, precision, ring))
        numpyro.sample("y", dist.Normal(x, s).to_event(2), obs=y)

    return Case(model, (y,), {"strength": 0.7, "precision": [0.8, 1.3], "s": 0.6})


def state_space_as_one_site() -> Case:
    """A linear-Gaussian state space that NumPyro has as one distribution, everything unknown."""
    y = _rng(52).normal(size=(5, 2))

    def model(y):
        A = numpyro.param("A", 0.5 * jnp.eye(2))
        Q = numpyro.param("Q", jnp.eye(2), constraint=constraints.positive_definite)
        r = numpyro.param("r", 1.0, constraint=POSITIVE)
        z = numpyro.sample(
            "z", dist.GaussianStateSpace(5, A, covariance_matrix=Q, initial_value=jnp.array([1.0, -1.0]))
        )
        numpyro.sample("y", dist.Normal(z, r).to_event(2), obs=y)

    Q = np.array([[1.0, 0.3], [0.3, 0.5]])
    return Case(model, (y,), {"A": [[0.8, 0.1], [-0.2, 0.7]], "Q": Q, "r": 0.9})


def under_other_names() -> Case:
    """A latent of low rank, whose affine image is a location of rows that are correlated."""
    y = _rng(54).normal(size=(4, 3, 2)) + 1

    def model(y):
        W = numpyro.param("W", jnp.ones((2, 1)))
        D = numpyro.param("D", jnp.ones(2), constraint=POSITIVE)
        rows = numpyro.param("rows", jnp.eye(3), constraint=constraints.lower_cholesky)
        columns = numpyro.param("columns", jnp.eye(2), constraint=constraints.lower_cholesky)
        z = numpyro.sample("z", dist.LowRankMultivariateNormal(jnp.array([0.3, -0.2]), W, D))
        with numpyro.plate("tables", 4):
            shift = numpyro.sample(
                "shift", dist.TransformedDistribution(dist.Normal(0.5, 1.0), AffineTransform(1.0, -D[0]))
            )
            loc = z + shift[:, None, None] * jnp.ones((3, 1))
            numpyro.sample("y", dist.MatrixNormal(loc, rows, columns), obs=y)

    rows, columns = [[1.0, 0.0, 0.0], [0.5, 0.8, 0.0], [-0.3, 0.2, 0.7]], [[0.9, 0.0], [0.4, 0.6]]
    return Case(model, (y,), {"W": [[0.6], [-0.4]], "D": [0.5, 0.8], "rows": rows, "columns": columns})


def affine_images() -> Case:
    """What TransformedDistribution makes of Gaussians: by numbers of both signs, by matrices, masked, exponentiated."""
    y, seen = _rng(55).normal(size=(5, 3)) + 1, _rng(56).random(5) < 0.7
    root, start = np.array([[0.8, 0.0, 0.0], [0.3, 0.6, 0.0], [-0.2, 0.1, 0.9]]), [-0.7, 0.5, 1.2]
    turned, moved, image = LowerCholeskyAffine, AffineTransform, dist.TransformedDistribution

    def model(y, seen):
        a = numpyro.param("a", jnp.array(start))
        root = numpyro.param("root", jnp.eye(3), constraint=constraints.lower_cholesky)
        s = numpyro.param("s", 1.0, constraint=POSITIVE)
        with numpyro.plate("rows", 5):
            u = numpyro.sample("u", image(dist.MultivariateNormal(jnp.ones(3), scale_tril=root), moved(a, a)))
            w = numpyro.sample("w", image(dist.Normal(jnp.zeros(3), 1.0).to_event(1), turned(a, root)))
            numpyro.sample("y", image(dist.Normal(u + w, 1.0), [moved(0.0, s), moved(1.0, -2.0)]).to_event(1), obs=y)
            v = image(dist.MultivariateNormal(u, jnp.eye(3)), moved(jnp.arange(3.0), jnp.array([1.0, -0.5, 2.0])))
            numpyro.sample("v", v.mask(seen), obs=y + 1)
            numpyro.sample("x", image(dist.Normal(w, s), dist.transforms.ExpTransform()).to_event(1), obs=y**2)

    return Case(model, (y, seen), {"a": start, "root": root, "s": 0.7})


def filtered() -> Case:
    """Latents through a filter, a correlation, and a polynomial with random coefficients."""
    y, x = _rng(57).normal(size=12), np.linspace(-1, 1, 12)

    def model(y, x):
        kernel = numpyro.param("kernel", jnp.ones(3))
        t = numpyro.param("t", 1.0, constraint=POSITIVE)
        s = numpyro.param("s", 1.0, constraint=POSITIVE)
        z = numpyro.sample("z", dist.Normal(0.0, t).expand([12]).to_event(1))
        b = numpyro.sample("b", dist.Normal(jnp.ones(4), 0.5).to_event(1))
        smooth = jnp.convolve(z, kernel, mode="same") + jnp.correlate(z, jnp.array([0.3, -0.4]), mode="full")[:12]
        numpyro.sample("y", dist.Normal(smooth + jnp.polyval(b, x), s).to_event(1), obs=y)

    return Case(model, (y, x), {"kernel": [0.5, 0.3, -0.2], "t": 0.8, "s": 0.6})


CASES: dict[str, Callable[[], Case]] = {
    f.__name__: f
    for f in (
        one_way, unbalanced_slopes, correlated_by_covariance, crossed, non_centred, lkj_like, factor_analysis,
        probabilistic_pca, missing_entries, missing_covariate, errors_in_variables, gaussian_process, walk_in_a_loop,
        nested_masked, mixture_of_factor_analysers, mixture_of_growth_curves, mixture_with_missing_entries,
        nonlinear_in_time, scored_twice_with_prior, local_level_by_scan, state_space_by_scan, second_order_by_scan,
        walk_as_one_site, state_space_as_one_site, areal_effects, under_other_names, affine_images, filtered,
    )
}  # fmt: skip
