"""Deaths of women over 80 in The Times, 1910-12 (Hasselblad 1969): a mixture of two Poissons, by weighted counts."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from _common import command_line, save
from jax import random
from numpyro import handlers
from numpyro.distributions import constraints
from scipy.stats import poisson

import autoem

DEATHS = np.arange(10)
DAYS = np.array([162.0, 267, 271, 185, 111, 61, 27, 8, 3, 1])


@autoem.em
def mixture(deaths, days):
    """Each number of deaths stands for as many days as it was seen on."""
    weights = numpyro.param("weights", jnp.array([0.5, 0.5]), constraint=constraints.simplex)
    rates = numpyro.param("rates", jnp.array([1.0, 3.0]), constraint=constraints.positive)
    with numpyro.plate("number", len(deaths)), handlers.scale(scale=days):
        season = numpyro.sample("season", dist.Categorical(weights))
        numpyro.sample("deaths", dist.Poisson(rates[season]), obs=deaths)


def draw(params):
    """Observed days as bars, the fit and its two parts as lines."""
    fig, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    ax.bar(DEATHS, DAYS, color="#cfd8dc", width=0.7, label="days seen")
    parts = [DAYS.sum() * w * poisson.pmf(DEATHS, r) for w, r in zip(params["weights"], params["rates"], strict=True)]
    for part, rate, colour in zip(parts, params["rates"], ("#1f77b4", "#d95f02"), strict=True):
        ax.plot(DEATHS, part, "o--", color=colour, ms=4, lw=1.2, label=f"days with {rate:.2f} deaths on average")
    ax.plot(DEATHS, sum(parts), "o-", color="black", ms=5, label="together")
    ax.plot(DEATHS, DAYS.sum() * poisson.pmf(DEATHS, (DEATHS * DAYS).sum() / DAYS.sum()), ":", color="grey",
            label="one Poisson")  # fmt: skip
    ax.set(xlabel="deaths on a day", ylabel="days", xticks=DEATHS)
    ax.set_title("Two kinds of days explain the spread that one Poisson misses", loc="left", fontweight="bold")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return fig


def main(output="examples/output", progress_bar=True):
    """Derive, fit, print, draw; returns the result."""
    numpyro.enable_x64()
    print(mixture.derive(DEATHS, DAYS), "\n")
    result = mixture.run(random.PRNGKey(0), 5000, DEATHS, DAYS, progress_bar=progress_bar)
    print(f"\n{result.status.value}\nlog-likelihood {result.log_likelihood[-1]:.6f} after {result.num_steps} steps")
    for name, error in mixture.standard_errors(result.params, DEATHS, DAYS).items():
        print(f"{name:8}", "  ".join(f"{v:.4f} ± {e:.4f}" for v, e in zip(result.params[name], error, strict=True)))
    figure = draw({n: np.asarray(v) for n, v in result.params.items()})
    save(figure, output, "times_deaths.png")
    return result


if __name__ == "__main__":
    command_line(main, __doc__)
