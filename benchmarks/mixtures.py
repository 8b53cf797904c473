"""Gaussian mixtures beside scikit-learn and beside a hand-written JAX EM of the same algorithm, per iteration."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import autoem

from ._timing import Row, in_process, in_turn, per_iteration
from .models import blobs, diagonal_mixture, full_mixture

KEY = jax.random.PRNGKey(0)


def ours(model, x, start):
    """autoem: a fit of n steps."""
    em = autoem.EM(model)
    k = len(start["weights"])
    return lambda n: em.run(KEY, n, x, k, init_params=start, tol=0.0, progress_bar=False)


def scikit(x, weights, locs, covs, kind):
    """scikit-learn: a fit of n steps from the same start."""
    from sklearn.mixture import GaussianMixture

    precisions = np.linalg.inv(covs) if kind == "full" else 1 / np.diagonal(covs, axis1=1, axis2=2)
    options = {"covariance_type": kind, "tol": 0.0, "reg_covar": 0.0, "weights_init": weights, "means_init": locs}

    def fit(n):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return GaussianMixture(len(weights), max_iter=n, precisions_init=precisions, **options).fit(x)

    return fit


@partial(jax.jit, static_argnums=(4, 5))
def by_hand(x, weights, locs, covs, steps, rows=1000):
    """What one would write by hand: centred T(x) = (1, x, upper xx'), two matrix products per chunk of rows."""
    n, d = x.shape
    x = x - x.mean(0)
    row, column = np.triu_indices(d)
    doubled = np.where(row == column, -0.5, -1.0)
    place = np.zeros((d, d), int)
    place[row, column] = place[column, row] = np.arange(row.size)
    eye = jnp.eye(d)
    chunks = x[: n // rows * rows].reshape(-1, rows, d)

    def features(y):
        return jnp.concatenate([jnp.ones_like(y[:, :1]), y, y[:, row] * y[:, column]], 1)

    def step(carry, _):
        weights, locs, covs = carry
        root = jnp.linalg.cholesky(covs)
        half = jax.vmap(lambda r: jax.scipy.linalg.solve_triangular(r, eye, lower=True))(root)
        precision = jnp.einsum("kij,kil->kjl", half, half)
        linear = jnp.einsum("kij,kj->ki", precision, locs)
        constant = jnp.log(weights) - jnp.log(jnp.diagonal(root, axis1=1, axis2=2)).sum(1) - (locs * linear).sum(1) / 2
        slots = jnp.concatenate([constant[:, None], linear, precision[:, row, column] * doubled], 1)

        def chunk(total, y):
            t = features(y)
            log_joint = t @ slots.T
            norm = jax.nn.logsumexp(log_joint, 1, keepdims=True)
            return (total[0] + norm.sum(), total[1] + jnp.exp(log_joint - norm).T @ t), None

        (value, stats), _ = jax.lax.scan(chunk, (0.0, jnp.zeros_like(slots)), chunks)
        count = stats[:, 0]
        locs = stats[:, 1 : d + 1] / count[:, None]
        second = stats[:, d + 1 :][:, place] / count[:, None, None]
        return (count / count.sum(), locs, second - locs[:, :, None] * locs[:, None]), value

    return jax.lax.scan(step, (weights, locs - x.mean(0), covs), None, length=steps)


def full(n=100_000, d=16, k=16):
    """Full covariances."""
    x, weights, locs, covs = blobs(n, d, k)
    fit = ours(full_mixture, x, {"weights": weights, "locs": locs, "covs": covs})
    sklearn_fit = scikit(x, weights, locs, covs, "full")
    same = float(fit(5).log_likelihood[-1]), float(sklearn_fit(5).lower_bound_) * n
    assert abs(same[0] - same[1]) < 1e-7 * abs(same[0]), same
    shifted = locs - x.mean(0)
    hand = lambda steps: jax.block_until_ready(by_hand(x - x.mean(0), weights, shifted, covs, steps))  # noqa: E731
    hand(2), hand(12)
    times = in_turn(
        {
            "ours": lambda: per_iteration(fit, 5, 25),
            "sklearn": lambda: per_iteration(sklearn_fit, 1, 4),
            "hand": lambda: per_iteration(hand, 2, 12),
        }
    )
    label = f"{1e3 * times['ours']:.0f} ms"
    name = f"full mixture N={n:,} D={d} K={k}"
    return [
        Row(f"{name}, scikit-learn", label, f"{1e3 * times['sklearn']:.0f} ms", times["sklearn"] / times["ours"], 8),
        Row(f"{name}, by hand", label, f"{1e3 * times['hand']:.0f} ms", times["hand"] / times["ours"], 1 / 1.2),
    ]


def diagonal(n=100_000, d=32, k=64):
    """Diagonal covariances."""
    x, weights, locs, covs = blobs(n, d, k)
    scales = np.sqrt(np.diagonal(covs, axis1=1, axis2=2))
    fit = ours(diagonal_mixture, x, {"weights": weights, "locs": locs, "scales": scales})
    sklearn_fit = scikit(x, weights, locs, covs, "diag")
    times = in_turn(
        {"ours": lambda: per_iteration(fit, 3, 13), "sklearn": lambda: per_iteration(sklearn_fit, 1, 4)}, rounds=3
    )
    label, peer = (f"{1e3 * times[who]:.0f} ms" for who in ("ours", "sklearn"))
    return [
        Row(f"diagonal mixture N={n:,} D={d} K={k}, scikit-learn", label, peer, times["sklearn"] / times["ours"], 8)
    ]


MEMORY = """
import json, jax, numpyro
numpyro.enable_x64()
from benchmarks.mixtures import ours
from benchmarks.models import blobs, full_mixture
from benchmarks._timing import peak_memory
small = blobs(2000, 16, 32)
ours(full_mixture, small[0], dict(zip(("weights", "locs", "covs"), small[1:])))(1)
x, weights, locs, covs = blobs(1_000_000, 16, 32)
before = peak_memory()
ours(full_mixture, x, {"weights": weights, "locs": locs, "covs": covs})(2)
print(json.dumps({"extra": peak_memory() - before}))
"""


def memory():
    """Peak memory beyond the data at N = 1,000,000."""
    extra = in_process(MEMORY)["extra"] / 1e9
    return [Row("memory beyond the data, N=1,000,000 D=16 K=32", f"{extra:.2f} GB", "2 GB", 2 / max(extra, 1e-3), 1)]
