"""Gaussian latents: factor analysis beside scikit-learn, a linear mixed model beside statsmodels, to the optimum.

Set-up included: ours is `run`, which reads the model, derives, sums up the data and climbs, once it is compiled. The
start is our own; what is compared is the log-likelihood that is reached.
"""

import warnings

import jax
import numpy as np

import autoem

from ._timing import Row, in_turn, installed, seconds
from .models import factor_analysis, growth

_KEY = jax.random.PRNGKey(0)


def _factors(n, d, k, seed=0):
    rng = np.random.default_rng(seed)
    loadings, scales = rng.normal(size=(d, k)), np.sqrt(rng.uniform(0.5, 2.0, d))
    return rng.normal(size=(n, k)) @ loadings.T + scales * rng.normal(size=(n, d)) + rng.normal(size=d)


def _groups(groups, rows, seed=0):
    """Group, time and response: intercepts and slopes that correlate."""
    rng = np.random.default_rng(seed)
    group, time = np.repeat(np.arange(groups), rows), np.tile(np.arange(rows) / 2.0, groups)
    own = rng.normal(size=(groups, 2)) @ np.array([[2.0, 0.3], [0.0, 0.5]])
    return group, time, 3 + own[group, 0] + (0.5 + own[group, 1]) * time + 1.5 * rng.normal(size=len(group))


def _fit(em, *args):
    result = em.run(_KEY, 20_000, *args, progress_bar=False)
    assert result.converged, result.status
    return float(result.log_likelihood[-1])


def factors():
    """scikit-learn with its own tolerance, which stops a little lower than ours."""
    n, d, k = 100_000, 50, 5
    x, em = _factors(n, d, k), autoem.EM(factor_analysis)
    name, target = f"factor analysis N={n:,} D={d} k={k} to its optimum, scikit-learn", 20.0
    calls = {"ours": lambda: seconds(lambda: _fit(em, x, k))}
    if installed("sklearn"):
        from sklearn.decomposition import FactorAnalysis

        def peer():
            return FactorAnalysis(k).fit(x)

        assert _fit(em, x, k) >= peer().score(x) * n
        calls["peer"] = lambda: seconds(peer)
    times = in_turn(calls, rounds=3)
    label = f"{1e3 * times['ours']:.0f} ms"
    if "peer" not in times:
        return [Row.missing(name, label, target)]
    return [Row(name, label, f"{1e3 * times['peer']:.0f} ms", times["peer"] / times["ours"], target)]


def _mixed(groups, rows):
    group, time, y = _groups(groups, rows)
    em, name = autoem.EM(growth), f"mixed model {groups:,} groups x {rows} to its optimum"
    calls = {"ours": lambda: seconds(lambda: _fit(em, group, time, y))}
    reached = _fit(em, group, time, y)
    if installed("statsmodels"):
        from statsmodels.regression.mixed_linear_model import MixedLM

        def peer():
            design = np.stack([np.ones(len(time)), time], 1)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return MixedLM(y, design, group, exog_re=design).fit(reml=False)

        np.testing.assert_allclose(reached, peer().llf, rtol=1e-6)
        calls["peer"] = lambda: seconds(peer)
    times = in_turn(calls, rounds=1 if groups > 1_000 else 3)
    label = f"{1e3 * times['ours']:.0f} ms"
    published = {200: 0.032, 10_000: 3.8}[groups]
    first = Row(f"{name}, lme4's published time", label, f"{1e3 * published:.0f} ms", published / times["ours"], 1.0)
    if "peer" not in times:
        return [first, Row.missing(f"{name}, statsmodels", label, 20.0)]
    return [
        first,
        Row(f"{name}, statsmodels", label, f"{1e3 * times['peer']:.0f} ms", times["peer"] / times["ours"], 20.0),
    ]


def mixed():
    """Two sizes."""
    return _mixed(200, 10) + _mixed(10_000, 20)
