"""A Bayes net with hidden nodes: two hidden causes, one of which raises the other, behind six observed signs."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from _common import command_line, save
from jax import random
from numpyro.distributions import constraints

import autoem

SIGNS = ("fever", "cough", "fatigue", "rash", "itch", "swelling")


def simulate(n=600, seed=4):
    """Infection causes the first three signs and makes an allergy likelier, which causes the last three."""
    rng = np.random.default_rng(seed)
    infection = rng.uniform(size=n) < 0.35
    allergy = rng.uniform(size=n) < np.where(infection, 0.6, 0.15)
    first = np.where(infection[:, None], [0.85, 0.75, 0.9], [0.08, 0.2, 0.25])
    second = np.where(allergy[:, None], [0.8, 0.9, 0.6], [0.05, 0.1, 0.04])
    return (rng.uniform(size=(n, 6)) < np.concatenate([first, second], 1)).astype(float)


@autoem.em
def causes(signs):
    """Neither cause is ever seen."""
    infected = numpyro.param("infected", 0.3, constraint=constraints.unit_interval)
    allergic = numpyro.param("allergic", jnp.array([0.2, 0.5]), constraint=constraints.unit_interval)
    first = numpyro.param("first", jnp.array([[0.2] * 3, [0.7] * 3]), constraint=constraints.unit_interval)
    second = numpyro.param("second", jnp.array([[0.2] * 3, [0.7] * 3]), constraint=constraints.unit_interval)
    with numpyro.plate("patient", len(signs)):
        infection = numpyro.sample("infection", dist.Bernoulli(infected))
        allergy = numpyro.sample("allergy", dist.Bernoulli(allergic[infection]))
        numpyro.sample("airways", dist.Bernoulli(first[infection]).to_event(1), obs=signs[:, :3])
        numpyro.sample("skin", dist.Bernoulli(second[allergy]).to_event(1), obs=signs[:, 3:])


def draw(params, errors):
    """Estimated probability of every sign with and without its cause."""
    fig, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    where = np.arange(6)
    for state, colour, label in ((0, "#90a4ae", "cause absent"), (1, "#d95f02", "cause present")):
        value = np.concatenate([params["first"][state], params["second"][state]])
        error = np.concatenate([errors["first"][state], errors["second"][state]])
        ax.errorbar(where, value, 2 * error, fmt="o", color=colour, capsize=3, ms=8, label=label)
    ax.axvline(2.5, color="#cfd8dc", lw=1)
    for x, name in ((1, "infection"), (4, "allergy")):
        ax.text(x, 1.06, name, ha="center", fontweight="bold")
    ax.set(xticks=where, xticklabels=SIGNS, ylabel="probability of the sign (± 2 standard errors)", ylim=(-0.03, 1.12))
    low, high = params["allergic"]
    ax.set_title(f"Two causes nobody saw: infection makes allergy likelier, {low:.0%} to {high:.0%}", loc="left",
                 fontweight="bold")  # fmt: skip
    ax.legend(frameon=False, loc="center")
    ax.spines[["top", "right"]].set_visible(False)
    return fig


def main(output="examples/output", progress_bar=True):
    """Derive, fit, print, draw; returns the result."""
    numpyro.enable_x64()
    signs = simulate()
    print(causes.derive(signs), "\n")
    result = causes.run(random.PRNGKey(0), 3000, signs, progress_bar=progress_bar)
    print(f"\n{result.status.value}\nlog-likelihood {result.log_likelihood[-1]:.6f} after {result.num_steps} steps")
    errors = {n: np.asarray(e) for n, e in causes.standard_errors(result.params, signs).items()}
    params = {n: np.asarray(v) for n, v in result.params.items()}
    for name in ("infected", "allergic"):
        print(
            f"{name:9}",
            "  ".join(f"{v:.3f} ± {e:.3f}" for v, e in zip(params[name].flat, errors[name].flat, strict=True)),
        )
    save(draw(params, errors), output, "hidden_cause.png")
    return result


if __name__ == "__main__":
    command_line(main, __doc__)
