"""Latent class analysis beside StepMix, per iteration."""

import jax
import numpy as np

import autoem

from ._timing import Row, in_turn, per_iteration
from .models import latent_class


def _beside_stepmix(n, items, k, target):
    from stepmix.stepmix import StepMix

    rng = np.random.default_rng(0)
    truth = rng.uniform(0.1, 0.9, size=(k, items))
    y = (rng.uniform(size=(n, items)) < truth[rng.integers(k, size=n)]).astype(float)
    em = autoem.EM(latent_class, acceleration=False)
    start = {"weights": np.full(k, 1 / k), "probs": rng.uniform(0.3, 0.7, size=(k, items))}

    def fit(steps):
        result = em.run(jax.random.PRNGKey(0), steps, y, k, init_params=start, tol=0.0, progress_bar=False)
        assert result.num_steps == steps, "converged before its time"

    def peer(steps):
        options = {"abs_tol": 0.0, "rel_tol": 0.0, "random_state": 0, "progress_bar": 0, "verbose": 0}
        return StepMix(k, measurement="bernoulli", max_iter=steps, **options).fit(y)

    # The fits converge, and stop, after 137 and 183 steps. Set-up is most of a run, hence many rounds.
    measured = {"ours": lambda: per_iteration(fit, 10, 130), "peer": lambda: per_iteration(peer, 2, 12)}
    times = in_turn(measured, rounds=7)
    label, other = (f"{1e3 * times[who]:.3g} ms" for who in ("ours", "peer"))
    name = f"latent classes N={n:,} items={items} K={k}, StepMix"
    return [Row(name, label, other, times["peer"] / times["ours"], target)]


def twenty_items():
    """Binary items, hardly two rows alike."""
    return _beside_stepmix(10_000, 20, 5, 10)


def ten_items():
    """Binary items in which rows repeat: at most 1,024 different ones."""
    return _beside_stepmix(100_000, 10, 3, 100)
