"""Linear-Gaussian state space beside dynamax and pykalman, per EM iteration from the same start.

Both peers have a full covariance of the observation noise where our model has a diagonal one.
"""

import jax
import jax.numpy as jnp
import numpy as np

import autoem

from ._timing import Row, in_turn, installed, per_iteration, seconds
from .models import state_space


def series(length, d, p, seed=0):
    """Data (length, p) of a rotation that dies down, and a start."""
    rng = np.random.default_rng(seed)
    dynamics = 0.95 * np.linalg.qr(rng.normal(size=(d, d)))[0]
    loadings, z, y = rng.normal(size=(p, d)), np.zeros(d), np.empty((length, p))
    for t in range(length):
        z = dynamics @ z + 0.5 * rng.normal(size=d)
        y[t] = loadings @ z + 0.7 * rng.normal(size=p)
    start = {
        "dynamics": 0.9 * np.eye(d), "loadings": loadings + 0.1 * rng.normal(size=(p, d)), "noise": np.eye(d),
        "mean": np.zeros(d), "spread": np.eye(d), "scales": np.ones(p),
    }  # fmt: skip
    return y, start


def dynamax(y, start):
    """A fit of n steps, and its log-likelihoods."""
    from dynamax.linear_gaussian_ssm import LinearGaussianSSM

    p, d = start["loadings"].shape
    model = LinearGaussianSSM(d, p, has_dynamics_bias=False, has_emissions_bias=False)
    first, props = model.initialize(
        jax.random.PRNGKey(0), initial_mean=start["mean"], initial_covariance=start["spread"],
        dynamics_weights=start["dynamics"], dynamics_covariance=start["noise"], emission_weights=start["loadings"],
        emission_covariance=np.diag(start["scales"] ** 2),
    )  # fmt: skip
    emissions = jnp.asarray(y)[None]

    @jax.jit
    def step(params, state):
        found, log_likelihoods = jax.vmap(lambda e: model.e_step(params, e))(emissions)
        params, state = model.m_step(params, props, found, state)
        return params, state, log_likelihoods.sum()

    def fit(steps):
        params, state = first, model.initialize_m_step_state(first, props)
        history = []
        for _ in range(steps):
            params, state, log_likelihood = step(params, state)
            history.append(log_likelihood)
        return np.asarray(jax.block_until_ready(history))

    return fit


def pykalman(y, start):
    """One step; it takes seconds."""
    from pykalman import KalmanFilter

    model = KalmanFilter(
        start["dynamics"], start["loadings"], start["noise"], np.diag(start["scales"] ** 2),
        initial_state_mean=start["mean"], initial_state_covariance=start["spread"], em_vars="all",
    )  # fmt: skip
    return lambda: model.em(y, n_iter=1)


def _rows(length, d, p):
    y, start = series(length, d, p)
    em = autoem.EM(state_space)

    def fit(steps):
        return em.run(jax.random.PRNGKey(0), steps, y, d, init_params=start, tol=0.0, progress_bar=False)

    name, targets = f"state space d={d} p={p} T={length:,}", {"dynamax": 8, "pykalman": 100}
    calls = {"ours": lambda: per_iteration(fit, 2, 22)}
    if installed("dynamax"):
        peer = dynamax(y, start)
        np.testing.assert_allclose(peer(1), fit(1).log_likelihood, rtol=1e-8)
        calls["dynamax"] = lambda: per_iteration(peer, 1, 5)
    times = in_turn(calls, rounds=3)
    if installed("pykalman"):
        times["pykalman"] = seconds(pykalman(y, start))
    label = f"{1e3 * times['ours']:.1f} ms"
    return [
        Row(f"{name}, {who}", label, f"{1e3 * times[who]:.1f} ms", times[who] / times["ours"], target)
        if who in times
        else Row.missing(f"{name}, {who}", label, target)
        for who, target in targets.items()
    ]


def time_invariant():
    """Two sizes."""
    return _rows(5_000, 4, 8) + _rows(20_000, 8, 16)
