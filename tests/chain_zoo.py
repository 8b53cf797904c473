"""NumPyro models whose discrete latents run along a scan, written in the ways in which people write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints

POSITIVE, SIMPLEX, UNIT = constraints.positive, constraints.simplex, constraints.unit_interval


class Case(NamedTuple):
    """A model, its arguments, and parameter values somewhere; `closed` ones must have a closed-form update."""

    model: Callable[..., Any]
    args: tuple[Any, ...]
    params: dict[str, Any]
    closed: tuple[str, ...] = ()


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _rows(seed: int, *shape: int) -> np.ndarray:
    return _rng(seed).dirichlet(np.ones(shape[-1]) * 2, shape[:-1])


def first_flag() -> Case:
    """A flag in the carry chooses the initial distribution."""
    y = _rng(0).normal(size=6)

    def model(y):
        pi = numpyro.param("pi", jnp.ones(2) / 2, constraint=SIMPLEX)
        A = numpyro.param("A", jnp.ones((2, 2)) / 2, constraint=SIMPLEX)
        mu = numpyro.param("mu", jnp.zeros(2))
        sigma = numpyro.param("sigma", jnp.ones(2), constraint=POSITIVE)

        def step(carry, y_t):
            previous, first = carry
            z = numpyro.sample("z", dist.Categorical(jnp.where(first, pi, A[previous])))
            numpyro.sample("y", dist.Normal(mu[z], sigma[z]), obs=y_t)
            return (z, False), None

        scan(step, (0, True), y)

    params = {"pi": _rows(1, 2), "A": _rows(2, 2, 2), "mu": [-0.5, 0.7], "sigma": [0.6, 1.2]}
    return Case(model, (y,), params, ("pi", "A", "mu", "sigma"))


def initial_state_outside() -> Case:
    """The initial state is a site before the scan; counts; the step number chooses nothing."""
    y = _rng(3).poisson(3.0, size=5)

    def model(y):
        pi = numpyro.param("pi", jnp.ones(3) / 3, constraint=SIMPLEX)
        A = numpyro.param("A", jnp.ones((3, 3)) / 3, constraint=SIMPLEX)
        rate = numpyro.param("rate", jnp.ones(3), constraint=POSITIVE)
        z_0 = numpyro.sample("z_0", dist.Categorical(pi))
        numpyro.sample("y_0", dist.Poisson(rate[z_0]), obs=y[0])

        def step(previous, y_t):
            z = numpyro.sample("z", dist.Categorical(A[previous]), infer={"enumerate": "parallel"})
            numpyro.sample("y", dist.Poisson(rate[z]), obs=y_t)
            return z, z

        scan(step, z_0, y[1:])

    params = {"pi": _rows(4, 3), "A": _rows(5, 3, 3), "rate": [1.0, 3.0, 6.0]}
    return Case(model, (y,), params, ("pi", "A", "rate"))


def _tones(seed: int, sequences: int = 3, steps: int = 3, tones: int = 2) -> tuple[np.ndarray, np.ndarray]:
    return _rng(seed).integers(0, 2, (sequences, steps, tones)), np.array([3, 1, 2])[:sequences]


def ragged_sequences() -> Case:
    """A plate of sequences of different lengths, masked in the step; the chain starts in state 0."""
    y, lengths = _tones(6)

    def model(y, lengths):
        A = numpyro.param("A", jnp.ones((2, 2)) / 2, constraint=SIMPLEX)
        p = numpyro.param("p", jnp.ones((2, 2)) / 2, constraint=UNIT)

        def step(carry, y_t):
            previous, t = carry
            with numpyro.plate("sequences", len(y), dim=-2), numpyro.handlers.mask(mask=(t < lengths)[:, None]):
                z = numpyro.sample("z", dist.Categorical(A[previous]), infer={"enumerate": "parallel"})
                with numpyro.plate("tones", 2, dim=-1):
                    numpyro.sample("y", dist.Bernoulli(p[z.squeeze(-1)]), obs=y_t)
            return (z, t + 1), None

        scan(step, (jnp.zeros((len(y), 1), int), 0), jnp.swapaxes(y, 0, 1))

    return Case(model, (y, lengths), {"A": _rows(7, 2, 2), "p": _rng(8).uniform(0.2, 0.8, (2, 2))}, ("A", "p"))


def autoregressive_tones() -> Case:
    """The previous observation chooses the emission, too; priors on everything."""
    y, _ = _tones(9)

    def model(y):
        A = numpyro.sample("A", dist.Dirichlet(1.5 * jnp.eye(2) + 1.0).to_event(1))
        p = numpyro.sample("p", dist.Beta(2.0, 2.0).expand([2, 2, 2]).to_event(3))
        tones = jnp.arange(2)

        def step(carry, y_t):
            previous, y_before = carry
            with numpyro.plate("sequences", len(y), dim=-2):
                z = numpyro.sample("z", dist.Categorical(A[previous]))
                with numpyro.plate("tones", 2, dim=-1):
                    numpyro.sample("y", dist.Bernoulli(p[z, y_before, tones]), obs=y_t)
            return (z, y_t), None

        scan(step, (jnp.zeros((len(y), 1), int), jnp.zeros((len(y), 2), int)), jnp.swapaxes(y, 0, 1))

    return Case(model, (y,), {"A": _rows(10, 2, 2), "p": _rng(11).uniform(0.2, 0.8, (2, 2, 2))}, ("A", "p"))


def factorial() -> Case:
    """Two chains, coupled through what they emit."""
    y, lengths = _tones(12, 2)

    def model(y, lengths):
        W = numpyro.param("W", jnp.ones((2, 2)) / 2, constraint=SIMPLEX)
        A = numpyro.param("A", jnp.ones((2, 2)) / 2, constraint=SIMPLEX)
        p = numpyro.param("p", jnp.ones((2, 2, 2)) / 2, constraint=UNIT)

        def step(carry, y_t):
            w_before, x_before, t = carry
            with numpyro.plate("sequences", 2, dim=-2), numpyro.handlers.mask(mask=(t < lengths)[:, None]):
                w = numpyro.sample("w", dist.Categorical(W[w_before]))
                x = numpyro.sample("x", dist.Categorical(A[x_before]))
                with numpyro.plate("tones", 2, dim=-1) as tones:
                    numpyro.sample("y", dist.Bernoulli(p[w, x, tones]), obs=y_t)
            return (w, x, t + 1), None

        start = jnp.zeros((2, 1), int)
        scan(step, (start, start, 0), jnp.swapaxes(y, 0, 1))

    params = {"W": _rows(13, 2, 2), "A": _rows(14, 2, 2), "p": _rng(15).uniform(0.2, 0.8, (2, 2, 2))}
    return Case(model, (y, lengths[:2]), params, ("W", "A", "p"))


def chain_drives_chain() -> Case:
    """One chain's state chooses the other's transitions."""
    y, _ = _tones(16, 2)

    def model(y):
        W = numpyro.param("W", jnp.ones((2, 2)) / 2, constraint=SIMPLEX)
        A = numpyro.param("A", jnp.ones((2, 2, 2)) / 2, constraint=SIMPLEX)
        p = numpyro.param("p", jnp.ones((2, 2, 2)) / 2, constraint=UNIT)

        def step(carry, y_t):
            w_before, x_before = carry
            with numpyro.plate("sequences", 2, dim=-2):
                w = numpyro.sample("w", dist.Categorical(W[w_before]))
                x = numpyro.sample("x", dist.Categorical(A[w, x_before]))
                with numpyro.plate("tones", 2, dim=-1) as tones:
                    numpyro.sample("y", dist.Bernoulli(p[w, x, tones]), obs=y_t)
            return (w, x), None

        start = jnp.zeros((2, 1), int)
        scan(step, (start, start), jnp.swapaxes(y, 0, 1))

    params = {"W": _rows(17, 2, 2), "A": _rows(18, 2, 2, 2), "p": _rng(19).uniform(0.2, 0.8, (2, 2, 2))}
    return Case(model, (y,), params, ("W", "A", "p"))


def second_order() -> Case:
    """The two states before choose the next one."""
    y = _rng(20).normal(size=6)

    def model(y):
        A = numpyro.param("A", jnp.ones((2, 2, 2)) / 2, constraint=SIMPLEX)
        mu = numpyro.param("mu", jnp.array([-1.0, 1.0]))

        def step(carry, y_t):
            before, previous = carry
            z = numpyro.sample("z", dist.Categorical(A[before, previous]))
            numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y_t)
            return (previous, z), None

        scan(step, (0, 1), y, history=2)

    return Case(model, (y,), {"A": _rows(21, 2, 2, 2), "mu": [-0.4, 0.9]}, ("A", "mu"))


def driven_by_covariates() -> Case:
    """Transition logits depend on a covariate; the emission is a multivariate normal with missing steps."""
    rng = _rng(22)
    y, x, seen = rng.normal(size=(5, 2)), rng.normal(size=5), np.array([True, True, False, True, False])
    y[~seen] = 0.0

    def model(y, x, seen):
        a = numpyro.param("a", jnp.zeros((2, 2)))
        b = numpyro.param("b", jnp.zeros((2, 2)))
        mu = numpyro.param("mu", jnp.array([[-1.0, 0.0], [1.0, 0.5]]))
        cov = jnp.array([[1.0, 0.3], [0.3, 0.8]])

        def step(previous, now):
            y_t, x_t, seen_t = now
            z = numpyro.sample("z", dist.Categorical(logits=a[previous] + b[previous] * x_t))
            with numpyro.handlers.mask(mask=seen_t):
                numpyro.sample("y", dist.MultivariateNormal(mu[z], cov), obs=y_t)
            return z, None

        scan(step, 1, (y, x, seen))

    rng = _rng(23)
    params = {"a": rng.normal(size=(2, 2)), "b": rng.normal(size=(2, 2)), "mu": rng.normal(size=(2, 2))}
    return Case(model, (y, x, seen), params, ("mu",))


def mixture_emission() -> Case:
    """Each step draws a component of its state's mixture: a latent of the step alone."""
    y = _rng(24).normal(size=4)

    def model(y):
        A = numpyro.param("A", jnp.ones((2, 2)) / 2, constraint=SIMPLEX)
        w = numpyro.param("w", jnp.ones((2, 2)) / 2, constraint=SIMPLEX)
        mu = numpyro.param("mu", jnp.array([[-2.0, -1.0], [1.0, 2.0]]))

        def step(previous, y_t):
            z = numpyro.sample("z", dist.Categorical(A[previous]))
            k = numpyro.sample("k", dist.Categorical(w[z]))
            numpyro.sample("y", dist.Normal(mu[z, k], 1.0), obs=y_t)
            return z, None

        scan(step, 0, y)

    return Case(model, (y,), {"A": _rows(25, 2, 2), "w": _rows(26, 2, 2), "mu": _rng(27).normal(size=(2, 2))},
                ("A", "w", "mu"))  # fmt: skip


def classes_of_sequences() -> Case:
    """Every sequence has a class outside of the scan that chooses its transitions."""
    y = _rng(28).normal(size=(3, 2))

    def model(y):
        weights = numpyro.param("weights", jnp.ones(2) / 2, constraint=SIMPLEX)
        A = numpyro.param("A", jnp.ones((2, 2, 2)) / 2, constraint=SIMPLEX)
        mu = numpyro.param("mu", jnp.array([-1.0, 1.0]))
        with numpyro.plate("people", y.shape[1]):
            c = numpyro.sample("c", dist.Categorical(weights))

        def step(previous, y_t):
            with numpyro.plate("people", y.shape[1]):
                z = numpyro.sample("z", dist.Categorical(A[c, previous]))
                numpyro.sample("y", dist.Normal(mu[z], 0.8), obs=y_t)
            return z, None

        scan(step, jnp.zeros(y.shape[1], int), y)

    return Case(model, (y,), {"weights": _rows(29, 2), "A": _rows(30, 2, 2, 2), "mu": [-0.5, 0.9]},
                ("weights", "A", "mu"))  # fmt: skip


def left_right() -> Case:
    """Structural zeros: a state is never left backwards, the last one absorbs."""
    y = _rng(31).exponential(size=5)

    def model(y):
        stay = numpyro.param("stay", 0.5 * jnp.ones(2), constraint=UNIT)
        rate = numpyro.param("rate", jnp.ones(3), constraint=POSITIVE)
        A = jnp.array([[stay[0], 1 - stay[0], 0.0], [0.0, stay[1], 1 - stay[1]], [0.0, 0.0, 1.0]])

        def step(previous, y_t):
            z = numpyro.sample("z", dist.Categorical(probs=A[previous]))
            numpyro.sample("y", dist.Exponential(rate[z]), obs=y_t)
            return z, None

        scan(step, 0, y)

    return Case(model, (y,), {"stay": [0.6, 0.7], "rate": [0.5, 1.0, 2.0]}, ("rate",))


def stationary_start() -> Case:
    """The initial distribution is the stationary one of the transition matrix."""
    y = _rng(32).normal(size=5)

    def model(y):
        p = numpyro.param("p", 0.2, constraint=UNIT)
        q = numpyro.param("q", 0.3, constraint=UNIT)
        mu = numpyro.param("mu", jnp.array([-1.0, 1.0]))
        A = jnp.stack([jnp.stack([1 - p, p]), jnp.stack([q, 1 - q])])
        pi = jnp.stack([q, p]) / (p + q)

        def step(carry, y_t):
            t, previous = carry
            z = numpyro.sample("z", dist.Categorical(jnp.where(t == 0, pi, A[previous])))
            numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y_t)
            return (t + 1, z), None

        scan(step, (0, 0), y)

    return Case(model, (y,), {"p": 0.3, "q": 0.4, "mu": [-0.2, 0.8]}, ("mu",))


def capture_recapture() -> Case:
    """Alive or not, seen or not, from the first capture on; masked before."""
    seen = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]])
    first = seen.argmax(1)

    def model(seen):
        phi = numpyro.sample("phi", dist.Uniform(0.0, 1.0))
        rho = numpyro.sample("rho", dist.Uniform(0.0, 1.0))

        def step(carry, now):
            before, alive_mask = carry
            y_t, t = now
            with numpyro.plate("animals", len(seen), dim=-1), numpyro.handlers.mask(mask=alive_mask):
                z = numpyro.sample("z", dist.Bernoulli(jnp.where(before.astype(bool), phi, 0.0)))
                numpyro.sample("y", dist.Bernoulli(jnp.where(z.astype(bool), rho, 0.0)), obs=y_t)
            return (jnp.where(t == first, 1, z), alive_mask | (t == first)), None

        scan(step, (jnp.ones(len(seen), int), jnp.zeros(len(seen), bool)), (seen.T, jnp.arange(3)))

    return Case(model, (seen,), {"phi": 0.7, "rho": 0.6})


def switching_autoregression() -> Case:
    """Hamilton (1989): the observation before and the mean of its regime are handed on; the regimes' scales are not."""
    y = _rng(41).normal(size=6)

    def model(y):
        A = numpyro.param("A", jnp.ones((2, 2)) / 2, constraint=SIMPLEX)
        mu = numpyro.param("mu", jnp.array([-1.0, 1.0]))
        phi = numpyro.param("phi", 0.3)
        sigma = numpyro.param("sigma", jnp.ones(2), constraint=POSITIVE)

        def step(carry, y_t):
            before, y_before = carry
            z = numpyro.sample("z", dist.Categorical(A[before]))
            numpyro.sample("y", dist.Normal(mu[z] + phi * (y_before - mu[before]), sigma[z]), obs=y_t)
            return (z, y_t), None

        scan(step, (0, 0.2), y)

    return Case(model, (y,), {"A": _rows(42, 2, 2), "mu": [-0.5, 0.8], "phi": 0.4, "sigma": [0.7, 1.3]}, ("A",))


def one_step() -> Case:
    """A scan of a single step."""

    def model(y):
        A = numpyro.param("A", jnp.ones((2, 2)) / 2, constraint=SIMPLEX)
        mu = numpyro.param("mu", jnp.array([-1.0, 1.0]))

        def step(previous, y_t):
            z = numpyro.sample("z", dist.Categorical(A[previous]))
            numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y_t)
            return z, None

        scan(step, 1, y)

    return Case(model, (np.array([0.3]),), {"A": _rows(33, 2, 2), "mu": [-0.5, 0.8]}, ("A", "mu"))


def no_memory() -> Case:
    """A scan whose steps are independent: a plate in disguise."""

    def model(y):
        w = numpyro.param("w", jnp.ones(2) / 2, constraint=SIMPLEX)
        mu = numpyro.param("mu", jnp.array([-1.0, 1.0]))

        def step(t, y_t):
            z = numpyro.sample("z", dist.Categorical(w))
            numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y_t)
            return t + 1, None

        scan(step, 0, y)

    return Case(model, (_rng(34).normal(size=4),), {"w": _rows(35, 2), "mu": [-0.5, 0.8]}, ("w", "mu"))


def time_varying() -> Case:
    """A transition matrix for every step, and a log-scale parameter shared by all states."""
    y = _rng(36).normal(size=4)

    def model(y):
        A = numpyro.param("A", jnp.ones((4, 2, 2)) / 2, constraint=SIMPLEX)
        log_sigma = numpyro.param("log_sigma", 0.0)

        def step(previous, now):
            y_t, A_t = now
            z = numpyro.sample("z", dist.Categorical(A_t[previous]))
            numpyro.sample("y", dist.Normal(2.0 * z - 1.0, jnp.exp(log_sigma)), obs=y_t)
            return z, None

        scan(step, 0, (y, A))

    return Case(model, (y,), {"A": _rows(37, 4, 2, 2), "log_sigma": 0.2}, ("A",))


def memory_decays() -> Case:
    """The carry accumulates observations: data, whatever the states are."""
    y = _rng(38).normal(size=5)

    def model(y):
        A = numpyro.param("A", jnp.ones((2, 2)) / 2, constraint=SIMPLEX)
        phi = numpyro.param("phi", jnp.array([0.1, 0.8]))

        def step(carry, y_t):
            previous, level = carry
            z = numpyro.sample("z", dist.Categorical(A[previous]))
            numpyro.sample("y", dist.Normal(phi[z] * level, 1.0), obs=y_t)
            return (z, 0.7 * level + y_t), None

        scan(step, (0, 0.0), y)

    return Case(model, (y,), {"A": _rows(39, 2, 2), "phi": [0.2, 0.6]}, ("A", "phi"))


def partly_observed_states() -> Case:
    """Some states are known: `obs_mask` within the step."""
    y = _rng(40).normal(size=5)
    states, known = np.array([0, 1, 0, 0, 1]), np.array([False, True, False, False, True])

    def model(y, states, known):
        A = numpyro.param("A", jnp.ones((2, 2)) / 2, constraint=SIMPLEX)
        mu = numpyro.param("mu", jnp.array([-1.0, 1.0]))

        def step(before, now):
            y_t, z_t, known_t = now
            z = numpyro.sample("z", dist.Categorical(A[before]), obs=z_t, obs_mask=known_t)
            numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y_t)
            return z, None

        scan(step, 0, (y, states, known))

    return Case(model, (y, states, known), {"A": _rows(41, 2, 2), "mu": [-0.4, 0.9]}, ("mu",))


CASES: dict[str, Callable[[], Case]] = {
    f.__name__: f
    for f in (
        first_flag, initial_state_outside, ragged_sequences, autoregressive_tones, factorial, chain_drives_chain,
        second_order, driven_by_covariates, mixture_emission, classes_of_sequences, left_right, stationary_start,
        capture_recapture, switching_autoregression, one_step, no_memory, time_varying, memory_decays,
        partly_observed_states,
    )
}  # fmt: skip
