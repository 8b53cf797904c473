"""Two regression lines in one cloud: a simulated tone-perception experiment, with shared and with separate scales."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from _common import command_line, save
from jax import random
from numpyro.distributions import constraints

import autoem


def simulate(n=150, seed=1):
    """Some listeners hear the stretch of a tone (slope 1), others always the octave (slope 0)."""
    rng = np.random.default_rng(seed)
    stretch = rng.uniform(1.3, 3.0, n)
    octave = rng.uniform(size=n) < 0.4
    heard = np.where(octave, 2.0 + 0.05 * rng.normal(size=n), stretch + 0.12 * rng.normal(size=n))
    return np.stack([np.ones(n), stretch], -1), heard


@autoem.em
def lines(x, y, shared=False):
    """Each listener follows one of two lines."""
    weights = numpyro.param("weights", jnp.ones(2) / 2, constraint=constraints.simplex)
    beta = numpyro.param("beta", jnp.array([[0.5, 0.7], [1.5, 0.2]]))
    scale = numpyro.param("scale", 0.2 if shared else jnp.array([0.2, 0.2]), constraint=constraints.positive)
    with numpyro.plate("listener", len(y)):
        line = numpyro.sample("line", dist.Categorical(weights))
        sd = scale if shared else scale[line]
        numpyro.sample("y", dist.Normal((x * beta[line]).sum(-1), sd), obs=y)


def draw(x, y, params, responsibilities):
    """Points coloured by responsibility, lines with two standard deviations."""
    fig, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    grid = np.linspace(1.25, 3.05, 50)
    colours = np.array([[0.00, 0.36, 0.55], [0.86, 0.37, 0.13]])
    for beta, sd, weight, colour in zip(params["beta"], params["scale"], params["weights"], colours, strict=True):
        line = beta[0] + beta[1] * grid
        ax.fill_between(grid, line - 2 * sd, line + 2 * sd, color=colour, alpha=0.15, lw=0)
        ax.plot(grid, line, color=colour, label=f"{beta[0]:.2f} + {beta[1]:.2f} · stretch ({weight:.0%})")
    ax.scatter(x[:, 1], y, c=np.asarray(responsibilities) @ colours, s=24, edgecolor="white", lw=0.5, zorder=3)
    ax.set(xlabel="stretch of the tone", ylabel="heard")
    ax.set_title("Two ways of hearing, each with its own precision", loc="left", fontweight="bold")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return fig


def main(output="examples/output", progress_bar=True):
    """Fit both models, compare them, draw; returns the results (separate, shared)."""
    numpyro.enable_x64()
    x, y = simulate()
    print(lines.derive(x, y), "\n")
    results = [lines.run(random.PRNGKey(0), 2000, x, y, shared, progress_bar=progress_bar) for shared in (False, True)]
    for name, result, free in zip(("separate scales", "shared scale"), results, (7, 6), strict=True):
        value = float(result.log_likelihood[-1])
        print(
            f"{name:16} log-likelihood {value:.6f}  BIC {free * np.log(len(y)) - 2 * value:.1f}  {result.status.name}"
        )
    params = {n: np.asarray(v) for n, v in results[0].params.items()}
    errors = lines.standard_errors(results[0].params, x, y)
    for k in range(2):
        print(
            f"line {k}:",
            "  ".join(f"{v:.3f} ± {e:.3f}" for v, e in zip(params["beta"][k], errors["beta"][k], strict=True)),
        )
    save(
        draw(x, y, params, lines.posterior(results[0].params, x, y)["line"].probs), output, "mixture_of_regressions.png"
    )
    return results


if __name__ == "__main__":
    command_line(main, __doc__)
