"""Robust regression beside statsmodels and SciPy, tomography by hand, Gamma-Poisson counts: per iteration."""

import jax
import jax.numpy as jnp
import numpy as np

import autoem

from ._timing import Row, in_turn, per_iteration, seconds
from .models import gamma_poisson, robust_regression, tomography

_LIMIT = 10e-3
"""Seconds for an iteration on a million counts: it may touch the groups only."""


def robust(n=100_000, p=20, df=4.0):
    """Student-t errors: an EM iteration beside one of `RLM`, and one of L-BFGS on the same likelihood."""
    import statsmodels.api as sm
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(n), rng.normal(size=(n, p - 1))])
    y = x @ rng.normal(size=p) + rng.standard_t(df, n)
    em = autoem.EM(robust_regression)

    def fit(steps):
        return em.run(jax.random.PRNGKey(0), steps, x, y, df, tol=0.0, progress_bar=False)

    def negative(v):
        r = (y - x @ v[:-1]) / np.exp(v[-1])
        q = 1 + r**2 / df
        w = (df + 1) * r / df / q
        slope = np.append(-x.T @ w / np.exp(v[-1]), n - w @ r)
        return (df + 1) / 2 * np.log(q).sum() + n * v[-1], slope

    def climb():
        return minimize(negative, np.zeros(p + 1), jac=True, method="L-BFGS-B")

    def one_of(run, count):
        done = []
        took = seconds(lambda: done.append(run()))
        return took / count(done[0])

    times = in_turn({
        "ours": lambda: per_iteration(fit, 3, 33),
        "RLM": lambda: one_of(lambda: sm.RLM(y, x).fit(), lambda r: r.fit_history["iteration"]),
        "L-BFGS": lambda: one_of(climb, lambda r: r.nit),
    }, 3)  # fmt: skip
    ours = f"{1e3 * times['ours']:.1f} ms"
    name = f"robust regression N={n:,} p={p}"
    return [Row(f"{name}, {peer}", ours, f"{1e3 * times[peer]:.1f} ms", times[peer] / times["ours"], target)
            for peer, target in (("RLM", 5), ("L-BFGS", 5))]  # fmt: skip


def emission(detectors=4_000, pixels=2_000):
    """Emission tomography beside Shepp and Vardi's iteration, written by hand in JAX without a log-likelihood."""
    rng = np.random.default_rng(0)
    paths = rng.uniform(size=(detectors, pixels)) ** 8
    y = rng.poisson(paths @ rng.gamma(1.0, 5.0, pixels))
    em = autoem.EM(tomography, acceleration=False)
    device, seen, start = jnp.asarray(paths), jnp.asarray(y, float), jnp.ones(pixels)
    total = device.sum(0)

    @jax.jit
    def by_hand(rates, steps):
        return jax.lax.fori_loop(0, steps, lambda _, r: r * ((seen / (device @ r)) @ device) / total, rates)

    def fit(steps):
        return em.run(jax.random.PRNGKey(0), steps, paths, y, tol=0.0, progress_bar=False)

    times = in_turn({
        "ours": lambda: per_iteration(fit, 10, 110),
        "by hand": lambda: per_iteration(lambda steps: by_hand(start, steps).block_until_ready(), 10, 110),
    }, 3)  # fmt: skip
    ours, hand = (f"{1e3 * times[n]:.2f} ms" for n in ("ours", "by hand"))
    name = f"tomography {detectors:,} x {pixels:,}, Shepp-Vardi by hand"
    return [Row(name, ours, hand, times["by hand"] / times["ours"], 0.67)]


def counts(n=1_000_000, groups=50_000):
    """Counts with exposures in groups, each with a rate of its own."""
    rng = np.random.default_rng(0)
    group = np.concatenate([np.arange(groups), rng.integers(groups, size=n - groups)])
    exposure = rng.uniform(0.5, 2, n)
    x = rng.poisson(rng.gamma(2.0, 0.7, groups)[group] * exposure)
    em = autoem.EM(gamma_poisson)

    def fit(steps):
        return em.run(jax.random.PRNGKey(0), steps, group, exposure, x, tol=0.0, progress_bar=False)

    times = in_turn({"ours": lambda: per_iteration(fit, 5, 45)}, 3)
    label = f"{1e3 * times['ours']:.2f} ms"
    name = f"Gamma-Poisson N={n:,} in {groups:,} groups"
    return [Row(name, label, f"{1e3 * _LIMIT:.0f} ms", _LIMIT / times["ours"], 1)]
