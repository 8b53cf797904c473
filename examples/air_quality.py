"""A multivariate normal with missing entries: New York's air in the summer of 1973, some numbers missing."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from _common import command_line, read, save
from jax import random
from numpyro.distributions import constraints

import autoem

COLUMNS = ("Ozone", "Solar.R", "Wind", "Temp")


@autoem.em
def air(table):
    """All days from one Gaussian; what was not measured is a latent, put into the table that is observed."""
    holes = np.nonzero(np.isnan(table))
    mean = numpyro.param("mean", np.nanmean(table, 0))
    covariance = numpyro.param("covariance", np.diag(np.nanvar(table, 0)), constraint=constraints.positive_definite)
    missing = numpyro.sample("missing", dist.Normal(0, 1).expand([len(holes[0])]).mask(False))
    filled = jnp.nan_to_num(table).at[holes].set(missing)
    with numpyro.plate("days", len(table)):
        numpyro.sample("air", dist.MultivariateNormal(mean, covariance), obs=filled)


def draw(table, posterior):
    """Ozone against temperature: the measured days, and the imputed ones with two standard deviations."""
    days, columns = np.nonzero(np.isnan(table))
    ozone = columns == 0
    means, sds = np.asarray(posterior.mean)[ozone], np.sqrt(np.asarray(posterior.variance))[ozone]
    fig, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    ax.scatter(table[:, 3], table[:, 0], s=18, color="0.3", label="measured")
    ax.errorbar(
        table[days[ozone], 3], means, 2 * sds, fmt="o", color="#dc5f21", ms=4, lw=1, alpha=0.8,
        label="imputed, ± 2 standard deviations",
    )  # fmt: skip
    ax.set(xlabel="temperature (°F)", ylabel="ozone (parts per billion)")
    ax.set_title("Ozone on the days when nobody measured it", loc="left", fontweight="bold")
    ax.legend(frameon=False, loc="upper left")
    ax.spines[["top", "right"]].set_visible(False)
    return fig


def main(output="examples/output", progress_bar=True):
    """Fit, print, draw; returns the result."""
    numpyro.enable_x64()
    data = read("airquality.csv")
    table = np.stack([data[c] for c in COLUMNS], -1)
    print(air.derive(table), "\n")
    result = air.run(random.PRNGKey(0), 500, table, progress_bar=progress_bar)
    print(f"log-likelihood {float(result.log_likelihood[-1]):.6f}  {result.status.value}")
    errors = air.standard_errors(result.params, table)["mean"]
    for name, value, error, plain in zip(COLUMNS, result.params["mean"], errors, np.nanmean(table, 0), strict=True):
        print(f"{name:8} {value:8.3f} ± {error:.3f}   (mean of the measured: {plain:.3f})")
    save(draw(table, air.posterior(result.params, table)["missing"]), output, "air_quality.png")
    return result


if __name__ == "__main__":
    command_line(main, __doc__)
