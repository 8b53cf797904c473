"""A local level: the yearly flow of the Nile at Aswan, whose level is a random walk.

Data: 1871 to 1970; Durbin and Koopman (2012), Time Series Analysis by State Space Methods.
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
def nile(volume):
    """Every year's flow is the level and noise; the level is that of the year before and a step."""
    noise = numpyro.param("noise", 15000.0, constraint=constraints.positive)
    step = numpyro.param("step", 1500.0, constraint=constraints.positive)

    def year(carry, flow):
        before, first = carry
        spread = jnp.where(first, 100.0, jnp.sqrt(step))
        level = numpyro.sample("level", dist.Normal(before, spread))
        numpyro.sample("flow", dist.Normal(level, jnp.sqrt(noise)), obs=flow)
        return (level, False), None

    scan(year, (1120.0, True), volume)


def draw(years, volume, level):
    """The flow, and the smoothed level with a 90 % band."""
    fig, ax = plt.subplots(figsize=(9, 4.5), layout="constrained")
    mean, spread = np.asarray(level.mean), np.sqrt(np.asarray(level.variance))
    ax.plot(years, volume, color="0.6", lw=1, marker="o", ms=3, label="flow")
    ax.fill_between(years, mean - 1.645 * spread, mean + 1.645 * spread, color="#005b8f", alpha=0.2, label="90 %")
    ax.plot(years, mean, color="#005b8f", lw=2, label="level, given all years")
    ax.set_xlim(years[0], years[-1])
    ax.set_ylabel("10⁸ m³ a year")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    fig.suptitle("The Nile fell about 1899", fontweight="bold", x=0.01, ha="left")
    return fig


def main(output="examples/output", progress_bar=True):
    """Fit, print, draw; returns the result."""
    numpyro.enable_x64()
    data = read("nile.csv")
    volume = data["volume"]
    print(nile.derive(volume), "\n")
    result = nile.run(random.PRNGKey(0), 1000, volume, progress_bar=progress_bar)
    print(f"log-likelihood {float(result.log_likelihood[-1]):.6f}  {result.status.value}")
    for name, value in result.params.items():
        print(f"variance of the {name:5} {float(value):.3f}")
    save(draw(data["year"], volume, nile.posterior(result.params, volume)["level"]), output, "nile.png")
    return result


if __name__ == "__main__":
    command_line(main, __doc__)
