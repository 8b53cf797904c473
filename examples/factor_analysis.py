"""Factor analysis: six tests of ability, two factors behind them, from the covariances of 112 people."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from _common import command_line, read, save
from jax import random
from numpyro.distributions import constraints

import autoem

PEOPLE = 112


@autoem.em
def abilities(x, factors=2):
    """Scores are loadings times a few abilities that nobody sees, and a noise of their own."""
    tests = x.shape[1]
    loadings = numpyro.param("loadings", lambda key: 0.5 * random.normal(key, (tests, factors)))
    mean = numpyro.param("mean", jnp.zeros(tests))
    scales = numpyro.param("scales", 0.7 * jnp.ones(tests), constraint=constraints.positive)
    with numpyro.plate("people", len(x)):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(factors), 1.0).to_event(1))
        numpyro.sample("x", dist.Normal(mean + z @ loadings.T, scales).to_event(1), obs=x)


def scores(correlation):
    """Standard scores of 112 people with exactly this correlation matrix: of such data only that counts."""
    noise = np.random.default_rng(0).normal(size=(PEOPLE, len(correlation)))
    noise = noise - noise.mean(0)
    white = noise @ np.linalg.inv(np.linalg.cholesky(noise.T @ noise / PEOPLE)).T
    return white @ np.linalg.cholesky(correlation).T


def varimax(loadings, steps=200):
    """Kaiser's rotation: each factor loads on few tests (the likelihood is the same for all rotations)."""
    rotation = np.eye(loadings.shape[1])
    for _ in range(steps):
        turned = loadings @ rotation
        u, _, v = np.linalg.svd(loadings.T @ (turned**3 - turned * np.mean(turned**2, 0)))
        rotation = u @ v
    turned = loadings @ rotation
    return turned * np.sign(turned.sum(0))


def draw(names, loadings, uniqueness):
    """Where the tests lie between the two factors; how much of each is its own."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    left.axhline(0, color="0.85", lw=1, zorder=0)
    left.axvline(0, color="0.85", lw=1, zorder=0)
    for name, (first, second) in zip(names, loadings, strict=True):
        left.annotate("", (first, second), (0, 0), arrowprops={"arrowstyle": "-|>", "color": "#005b8f", "lw": 1.6})
        left.annotate(name, (first, second), (5, 4), textcoords="offset points")
    left.set(xlabel="loading on the first factor", ylabel="loading on the second factor", xlim=(-0.1, 1.15),
             ylim=(-0.1, 1.0), aspect="equal", title="two abilities behind six tests")  # fmt: skip
    order = np.argsort(uniqueness)
    common = 1 - uniqueness[order]
    place = np.arange(len(names))
    right.barh(place, common, color="#005b8f", label="shared by the factors")
    right.barh(place, uniqueness[order], left=common, color="#cfd8dc", label="its own")
    right.set(yticks=place, yticklabels=[names[i] for i in order], xlim=(0, 1), xlabel="share of a test's variance")
    right.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    return fig


def main(output="examples/output", progress_bar=True):
    """Fit, print, draw; returns the result."""
    numpyro.enable_x64()
    table = read("ability_cov.csv")
    covariance = np.stack(list(table.values()))
    sizes = np.sqrt(np.diag(covariance))
    x = scores(covariance / sizes / sizes[:, None])
    print(abilities.derive(x), "\n")
    result = abilities.run(random.PRNGKey(0), 20_000, x, progress_bar=progress_bar)
    uniqueness = np.asarray(result.params["scales"]) ** 2
    loadings = varimax(np.asarray(result.params["loadings"]))
    print(f"log-likelihood {float(result.log_likelihood[-1]):.6f}  {result.status.value}")
    for name, row, own in zip(table, loadings, uniqueness, strict=True):
        print(f"{name:8} loadings {row[0]:6.3f} {row[1]:6.3f}   uniqueness {own:.3f}")
    save(draw(list(table), loadings, uniqueness), output, "factor_analysis.png")
    return result


if __name__ == "__main__":
    command_line(main, __doc__)
