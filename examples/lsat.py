"""Item response theory: a two-parameter logistic model of five questions of the Law School Admission Test."""

import jax
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
def law_school(right):
    """Whether a person is right depends on their ability, by a logistic curve of each item's own."""
    people, items = right.shape
    slope = numpyro.param("slope", jnp.ones(items), constraint=constraints.positive)
    easiness = numpyro.param("easiness", jnp.zeros(items))
    with numpyro.plate("people", people, dim=-2):
        ability = numpyro.sample("ability", dist.Normal(0.0, 1.0))
        with numpyro.plate("items", items, dim=-1):
            numpyro.sample("right", dist.Bernoulli(logits=slope * ability + easiness), obs=right)


def draw(right, params, errors, posterior):
    """The items' curves with bands of two standard errors of easiness, and the abilities that scores lead to."""
    fig, (left, side) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    grid = np.linspace(-3.5, 3.5, 200)
    colours = plt.get_cmap("viridis")(np.linspace(0.1, 0.85, right.shape[1]))
    for j, colour in enumerate(colours):
        curve = params["slope"][j] * grid + params["easiness"][j]
        low, high = (jax.nn.sigmoid(curve + sign * 2 * errors["easiness"][j]) for sign in (-1, 1))
        left.fill_between(grid, low, high, color=colour, alpha=0.15, lw=0)
        left.plot(grid, jax.nn.sigmoid(curve), color=colour, label=f"item {j + 1}")
    left.set(xlabel="ability", ylabel="probability of a right answer", ylim=(0, 1))
    left.legend(frameon=False)
    score = right.sum(1)
    mean, sd = np.asarray(posterior.mean)[:, 0], np.sqrt(np.asarray(posterior.variance))[:, 0]
    patterns, first = np.unique(right, axis=0, return_index=True)
    offset = np.linspace(-0.25, 0.25, len(patterns))
    side.errorbar(score[first] + offset, mean[first], sd[first], fmt="o", ms=4, lw=1, color="#005b8f")
    side.set(xlabel="right answers", ylabel="ability, given all five answers")
    for panel in (left, side):
        panel.spines[["top", "right"]].set_visible(False)
    fig.suptitle("A thousand people, five questions", fontweight="bold", x=0.01, ha="left")
    return fig


def main(output="examples/output", progress_bar=True):
    """Fit, print, draw; returns the result."""
    numpyro.enable_x64()
    data = read("lsat6.csv")
    patterns = np.stack([data[f"item{j}"] for j in range(1, 6)], -1).astype(int)
    right = np.repeat(patterns, data["count"].astype(int), 0)
    result = law_school.run(random.PRNGKey(0), 2000, right, progress_bar=progress_bar)
    print(result.derivation, "\n")
    errors = law_school.standard_errors(result.params, right)
    print(f"log-likelihood {float(result.log_likelihood[-1]):.6f}  {result.status.value}")
    for name, value in result.params.items():
        print(f"{name:10} {np.round(value, 3).tolist()}  ± {np.round(errors[name], 3).tolist()}")
    posterior = law_school.posterior(result.params, right)["ability"]
    save(draw(right, {n: np.asarray(v) for n, v in result.params.items()}, errors, posterior), output, "lsat.png")
    return result


if __name__ == "__main__":
    command_line(main, __doc__)
