"""Tracking: something moves in the plane, and its position is seen now and then, with noise.

Simulated. Along each axis position and velocity are the state; the velocity dies down, and is pushed at random
(Bar-Shalom, Li and Kirubarajan 2001, Estimation with Applications to Tracking and Navigation, chapter 6). Many of the
positions are missing, and all of them in two long gaps. Unknown: how hard the pushes are, and how noisy the sensor is
along each axis.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from _common import command_line, save
from jax import random
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints

import autoem

STEP = 0.5
MOVE = np.array([[1.0, STEP], [0.0, 0.97]])
PUSHED = np.array([[STEP**3 / 3, STEP**2 / 2], [STEP**2 / 2, STEP]])
TRUTH = {"push": 1.0, "sensor": np.array([2.0, 4.0])}


def simulate(steps=180, seed=6):
    """True positions (steps, 2), the noisy ones, and which of them were seen."""
    rng = np.random.default_rng(seed)
    state, path = np.array([[0.0, 3.0], [0.0, 0.0]]), []
    root = TRUTH["push"] * np.linalg.cholesky(PUSHED)
    for _ in range(steps):
        path.append(state[:, 0])
        state = state @ MOVE.T + rng.normal(size=(2, 2)) @ root.T
    path = np.array(path)
    seen = rng.random(steps) < 0.6
    seen[0] = True
    for gap in (60, 130):
        seen[gap : gap + 15] = False
    return path, path + TRUTH["sensor"] * rng.normal(size=path.shape), seen


@autoem.em
def tracking(noisy, seen):
    """Two axes, each with a position and a velocity; what was not seen is masked."""
    push = numpyro.param("push", 1.0, constraint=constraints.positive)
    sensor = numpyro.param("sensor", jnp.ones(2), constraint=constraints.positive)
    first = jnp.stack([noisy[0], jnp.zeros(2)], -1)
    state = numpyro.sample("first", dist.MultivariateNormal(first, 100.0 * jnp.eye(2)).to_event(1))

    def move(state, now):
        there, visible = now
        state = numpyro.sample("state", dist.MultivariateNormal(state @ MOVE.T, push**2 * PUSHED).to_event(1))
        numpyro.sample("noisy", dist.Normal(state[:, 0], sensor).to_event(1).mask(visible), obs=there)
        return state, None

    scan(move, state, (noisy[1:], seen[1:]))


def ellipse(mean, covariance):
    """The curve that holds 90 % of a Gaussian in the plane."""
    angle = np.linspace(0, 2 * np.pi, 60)
    return mean + np.sqrt(4.605) * np.stack([np.cos(angle), np.sin(angle)], -1) @ np.linalg.cholesky(covariance).T


def draw(path, noisy, seen, state):
    """Truth, what was seen, the smoothed path and how well it is known."""
    fig, ax = plt.subplots(figsize=(9, 6), layout="constrained")
    mean = np.asarray(state.mean).reshape(len(path) - 1, 2, 2)[:, :, 0]
    spread = np.asarray(state.variance).reshape(len(path) - 1, 2, 2)[:, :, 0]
    for t in range(0, len(mean), 2):
        curve = ellipse(mean[t], np.diag(spread[t]))
        ax.fill(*curve.T, color="#005b8f", alpha=0.09, lw=0, label="90 %" if t == 0 else None)
    ax.plot(*noisy[seen].T, "o", color="0.6", ms=3, label="seen")
    ax.plot(*path.T, color="#b3202c", lw=1.2, label="true path")
    ax.plot(*mean.T, color="#005b8f", lw=2, label="path, given all that was seen")
    ax.set_xlabel("m")
    ax.set_ylabel("m")
    ax.set_aspect("equal", adjustable="datalim")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    fig.suptitle("Where it was, also while nobody saw it", fontweight="bold", x=0.01, ha="left")
    return fig


def main(output="examples/output", progress_bar=True):
    """Simulate, fit, print, draw; returns the result."""
    numpyro.enable_x64()
    path, noisy, seen = simulate()
    print(tracking.derive(noisy, seen), "\n")
    result = tracking.run(random.PRNGKey(0), 1000, noisy, seen, progress_bar=progress_bar)
    errors = tracking.standard_errors(result.params, noisy, seen)
    print(f"log-likelihood {float(result.log_likelihood[-1]):.6f}  {result.status.value}")
    for name, value in result.params.items():
        for number, error, truth in zip(*map(np.atleast_1d, (value, errors[name], TRUTH[name])), strict=True):
            print(f"{name:6} {number:.3f} ± {error:.3f}  (simulated with {truth})")
    save(draw(path, noisy, seen, tracking.posterior(result.params, noisy, seen)["state"]), output, "tracking.png")
    return result


if __name__ == "__main__":
    command_line(main, __doc__)
