"""Articles by 915 doctoral students of biochemistry (Long 1990): more of them have none than a Poisson explains."""

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

ARTICLES = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 19])
STUDENTS = np.array([275.0, 246, 178, 84, 67, 27, 17, 12, 1, 2, 1, 1, 2, 1, 1])


@autoem.em
def zero_inflated(articles, students):
    """As one writes it for NUTS: whether a student does not publish at all is summed out by hand."""
    silent = numpyro.param("silent", 0.5, constraint=constraints.unit_interval)
    rate = numpyro.param("rate", 1.0, constraint=constraints.positive)
    with numpyro.plate("number", len(articles)), handlers.scale(scale=students):
        numpyro.sample("articles", dist.ZeroInflatedPoisson(silent, rate), obs=articles)


@autoem.em
def kinds(articles, students):
    """Two kinds of students who publish, and some who do not: a zero-inflated mixture."""
    silent = numpyro.param("silent", 0.1, constraint=constraints.unit_interval)
    weights = numpyro.param("weights", jnp.array([0.7, 0.3]), constraint=constraints.simplex)
    rates = numpyro.param("rates", jnp.array([1.0, 4.0]), constraint=constraints.positive)
    parts = [dist.Poisson(rates[0]), dist.Poisson(rates[1])]
    base = dist.MixtureGeneral(dist.Categorical(weights), parts)
    with numpyro.plate("number", len(articles)), handlers.scale(scale=students):
        numpyro.sample("articles", dist.ZeroInflatedDistribution(base, gate=silent), obs=articles)


def draw(one, two):
    """Students seen as bars, the two fits and one Poisson as lines."""
    fig, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    ax.bar(ARTICLES, STUDENTS, color="#cfd8dc", width=0.7, label="students")
    n = np.arange(20)
    total = STUDENTS.sum()
    ax.plot(n, total * poisson.pmf(n, (ARTICLES * STUDENTS).sum() / total), ":", color="grey", label="one Poisson")
    inflated = (1 - one["silent"]) * poisson.pmf(n, one["rate"]) + one["silent"] * (n == 0)
    ax.plot(n, total * inflated, "o--", color="#1f77b4", ms=4, label=f"{one['silent']:.0%} silent, the others Poisson")
    mixed = (two["weights"] * poisson.pmf(n[:, None], two["rates"])).sum(1)
    mixed = (1 - two["silent"]) * mixed + two["silent"] * (n == 0)
    ax.plot(n, total * mixed, "o-", color="black", ms=5, label="two kinds of others")
    ax.set(xlabel="articles in three years", ylabel="students", xticks=n[::2])
    ax.set_title("Zeros that a Poisson misses, and a long tail that silence does not explain", loc="left",
                 fontweight="bold")  # fmt: skip
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return fig


def main(output="examples/output", progress_bar=True):
    """Derive, fit, print, draw; returns both results."""
    numpyro.enable_x64()
    print(zero_inflated.derive(ARTICLES, STUDENTS), "\n")
    results = []
    for model in (zero_inflated, kinds):
        result = model.run(random.PRNGKey(0), 20000, ARTICLES, STUDENTS, progress_bar=progress_bar)
        print(f"\n{result.status.value}\nlog-likelihood {result.log_likelihood[-1]:.6f} after {result.num_steps} steps")
        for name, error in model.standard_errors(result.params, ARTICLES, STUDENTS).items():
            print(f"{name:8}", "  ".join(f"{v:.4f} ± {e:.4f}" for v, e in zip(
                np.ravel(result.params[name]), np.ravel(error), strict=True)))  # fmt: skip
        results.append(result)
    gates = zero_inflated.posterior(results[0].params, ARTICLES, STUDENTS)["articles_gate"].probs
    print(f"\nA student without an article is a silent one with probability {gates[0]:.3f}")
    save(draw(*({n: np.asarray(v) for n, v in r.params.items()} for r in results)), output, "articles.png")
    return results


if __name__ == "__main__":
    command_line(main, __doc__)
