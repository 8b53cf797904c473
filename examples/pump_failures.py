"""Empirical Bayes: ten pumps of a power plant, some of them watched much longer than others.

Data: Gaver and O'Muircheartaigh (1987), Robust empirical Bayes analyses of event rates, Technometrics 29.
"""

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from _common import command_line, read, save
from jax import random
from numpyro.distributions import constraints
from scipy import stats

import autoem


@autoem.em
def pumps(hours, failures):
    """Every pump has a failure rate of its own, drawn from a common Gamma; failures are Poisson."""
    shape = numpyro.param("shape", 1.0, constraint=constraints.positive)
    rate = numpyro.param("rate", 1.0, constraint=constraints.positive)
    with numpyro.plate("pumps", len(failures)):
        intensity = numpyro.sample("intensity", dist.Gamma(shape, rate))
        numpyro.sample("failures", dist.Poisson(intensity * hours), obs=failures)


def draw(hours, failures, params, posterior):
    """Each pump's own rate and its posterior with 90 % intervals, over the fitted population."""
    fig, (above, below) = plt.subplots(2, 1, figsize=(8, 6), layout="constrained", sharex=True, height_ratios=[3, 1])
    order = np.argsort(np.asarray(posterior.mean))
    shape, rate = (np.asarray(a) for a in (posterior.concentration, posterior.rate))
    for row, pump in enumerate(order):
        low, middle, high = stats.gamma.ppf([0.05, 0.5, 0.95], shape[pump], scale=1 / rate[pump])
        above.plot([low, high], [row, row], color="#005b8f", lw=2)
        above.scatter(middle, row, s=30, color="#005b8f", zorder=3, label="posterior, 90 %" if not row else None)
        own = failures[pump] / hours[pump]
        above.scatter(
            own, row, s=30, color="#dc5f21", marker="D", zorder=2, label="failures / hours" if not row else None
        )
    above.set_yticks(range(len(order)), [f"{failures[p]:.0f} in {hours[p]:g}" for p in order])
    above.set_ylabel("failures in thousand hours")
    above.legend(frameon=False, loc="lower right")
    grid = np.geomspace(0.004, 8, 400)
    below.fill_between(
        grid, grid * stats.gamma.pdf(grid, params["shape"], scale=1 / params["rate"]), color="0.8", label="population"
    )
    below.set_xscale("log")
    below.set_xlim(0.01, 8)
    below.set_yticks([])
    below.set_xlabel("failures per thousand hours")
    below.legend(frameon=False)
    for ax in (above, below):
        ax.spines[["top", "right"]].set_visible(False)
    fig.suptitle("Ten pumps, each drawn towards the population", fontweight="bold", x=0.01, ha="left")
    return fig


def main(output="examples/output", progress_bar=True):
    """Fit, print, draw; returns the result."""
    numpyro.enable_x64()
    data = read("pumps.csv")
    args = data["thousand_hours"], data["failures"].astype(int)
    print(pumps.derive(*args), "\n")
    result = pumps.run(random.PRNGKey(0), 500, *args, progress_bar=progress_bar)
    errors = pumps.standard_errors(result.params, *args)
    print(f"log-likelihood {float(result.log_likelihood[-1]):.6f}  {result.status.value}")
    for name, value in result.params.items():
        print(f"{name:6} {float(value):.3f}  ± {float(errors[name]):.3f}")
    shape, rate = (np.asarray(result.params[n]) for n in ("shape", "rate"))
    marginal = stats.nbinom.logpmf(args[1], shape, rate / (rate + args[0])).sum()
    print(f"as a negative binomial, by SciPy: {marginal:.6f}")
    params = {n: np.asarray(v) for n, v in result.params.items()}
    save(draw(*args, params, pumps.posterior(result.params, *args)["intensity"]), output, "pump_failures.png")
    return result


if __name__ == "__main__":
    command_line(main, __doc__)
