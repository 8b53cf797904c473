"""A hidden Markov model: the number of major earthquakes in the world, year by year.

Data: magnitude 7 or greater, 1900 to 2006; Zucchini and MacDonald (2009), Hidden Markov Models for Time Series.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from _common import command_line, read, save
from jax import random
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints

import autoem


@autoem.em
def earthquakes(counts, num_states):
    """Counts are Poisson, with a rate that depends on a hidden state; the state is a Markov chain."""
    K = num_states
    initial = numpyro.param("initial", jnp.ones(K) / K, constraint=constraints.simplex)
    transition = numpyro.param("transition", 0.8 * jnp.eye(K) + 0.2 / K, constraint=constraints.simplex)
    rate = numpyro.param("rate", jnp.linspace(10.0, 30.0, K), constraint=constraints.positive)

    def year(carry, count):
        before, first = carry
        state = numpyro.sample("state", dist.Categorical(jnp.where(first, initial, transition[before])))
        numpyro.sample("count", dist.Poisson(rate[state]), obs=count)
        return (state, False), None

    scan(year, (0, True), counts)


def draw(years, counts, rate, states, probs):
    """The counts over the rate of the decoded state, and the probability of every state."""
    fig, (above, below) = plt.subplots(2, 1, figsize=(9, 5.5), layout="constrained", sharex=True, height_ratios=[3, 1])
    above.scatter(years, counts, s=16, color="0.45", label="earthquakes of magnitude 7 or more")
    above.step(years, rate[states], where="mid", color="#005b8f", lw=2, label="rate in the most probable path")
    above.set_ylabel("a year")
    above.legend(frameon=False, loc="upper right")
    order = np.argsort(rate)
    below.stackplot(
        years,
        probs[:, order].T,
        colors=["#cfe3ee", "#5b9dc4", "#005b8f"],
        labels=[f"rate {rate[k]:.1f}" for k in order],
    )
    below.set_ylim(0, 1)
    below.set_ylabel("probability")
    below.legend(loc="lower left", ncols=3, fontsize=8)
    below.set_xlim(years[0], years[-1])
    for ax in (above, below):
        ax.spines[["top", "right"]].set_visible(False)
    fig.suptitle("Three states of the earth", fontweight="bold", x=0.01, ha="left")
    return fig


def main(output="examples/output", progress_bar=True):
    """Fit two and three states, print, draw the larger; returns both results."""
    numpyro.enable_x64()
    data = read("earthquakes.csv")
    counts = data["count"].astype(int)
    print(earthquakes.derive(counts, 3), "\n")
    results = []
    for num_states in (2, 3):
        result = earthquakes.run(random.PRNGKey(0), 1000, counts, num_states, progress_bar=progress_bar)
        results.append(result)
        rates = ", ".join(f"{r:.2f}" for r in result.params["rate"])
        print(f"{num_states} states: log-likelihood {float(result.log_likelihood[-1]):.6f}, rates {rates}")
    params = results[-1].params
    states = np.asarray(earthquakes.decode(params, counts, 3)["state"])
    probs = np.asarray(earthquakes.posterior(params, counts, 3)["state"].probs)
    save(draw(data["year"], counts, np.asarray(params["rate"]), states, probs), output, "earthquakes.png")
    return results


if __name__ == "__main__":
    command_line(main, __doc__)
