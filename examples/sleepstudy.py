"""A linear mixed model: reaction times of 18 people over ten days of too little sleep."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from _common import command_line, read, save
from jax import random
from numpyro.distributions import constraints

import autoem


@autoem.em
def sleep(person, days, reaction):
    """Everybody has an intercept and a slope of their own, drawn from a common Gaussian."""
    intercept = numpyro.param("intercept", 250.0)
    slope = numpyro.param("slope", 0.0)
    covariance = numpyro.param(
        "covariance", jnp.diag(jnp.array([500.0, 30.0])), constraint=constraints.positive_definite
    )
    sigma = numpyro.param("sigma", 30.0, constraint=constraints.positive)
    with numpyro.plate("people", int(person.max()) + 1):
        own = numpyro.sample("own", dist.MultivariateNormal(jnp.zeros(2), covariance))
    mean = intercept + own[person, 0] + (slope + own[person, 1]) * days
    with numpyro.plate("observations", len(days)):
        numpyro.sample("reaction", dist.Normal(mean, sigma), obs=reaction)


def draw(person, days, reaction, params, posterior):
    """Each person's data, their own least squares, and the mixed model's line with two standard deviations."""
    fig, axes = plt.subplots(3, 6, figsize=(12, 6.4), layout="constrained", sharex=True, sharey=True)
    grid = np.stack([np.ones(10), np.arange(10.0)], -1)
    fixed = np.array([params["intercept"], params["slope"]])
    order = np.argsort(np.asarray(posterior.mean[:, 1]))
    for panel, who in zip(axes.flat, order, strict=True):
        mine = person == who
        design = np.stack([np.ones(mine.sum()), days[mine]], -1)
        alone = np.linalg.lstsq(design, reaction[mine], rcond=None)[0]
        line = grid @ (fixed + np.asarray(posterior.mean[who]))
        sd = np.sqrt(np.einsum("ij,jk,ik->i", grid, np.asarray(posterior.covariance_matrix[who]), grid))
        panel.fill_between(grid[:, 1], line - 2 * sd, line + 2 * sd, color="#005b8f", alpha=0.2, lw=0)
        panel.plot(grid[:, 1], line, color="#005b8f", label="mixed model")
        panel.plot(grid[:, 1], grid @ alone, color="#dc5f21", ls="--", lw=1, label="own least squares")
        panel.plot(grid[:, 1], grid @ fixed, color="0.6", lw=1, label="population")
        panel.scatter(days[mine], reaction[mine], s=12, color="0.2", zorder=3)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False, fontsize=8)
    fig.supxlabel("days of sleep deprivation")
    fig.supylabel("reaction time (ms)")
    fig.suptitle("Eighteen people, each drawn towards the population", fontweight="bold", x=0.01, ha="left")
    return fig


def main(output="examples/output", progress_bar=True):
    """Fit, print, draw; returns the result."""
    numpyro.enable_x64()
    data = read("sleepstudy.csv")
    person = np.unique(data["Subject"], return_inverse=True)[1]
    args = person, data["Days"], data["Reaction"]
    print(sleep.derive(*args), "\n")
    result = sleep.run(random.PRNGKey(0), 2000, *args, progress_bar=progress_bar)
    errors = sleep.standard_errors(result.params, *args)
    print(f"log-likelihood {float(result.log_likelihood[-1]):.6f}  {result.status.value}")
    for name, value in result.params.items():
        print(f"{name:10} {np.round(value, 3).tolist()}  ± {np.round(errors[name], 3).tolist()}")
    posterior = sleep.posterior(result.params, *args)["own"]
    save(draw(*args, {n: np.asarray(v) for n, v in result.params.items()}, posterior), output, "sleepstudy.png")
    return result


if __name__ == "__main__":
    command_line(main, __doc__)
