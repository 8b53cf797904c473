"""Dawid and Skene (1979): five anaesthetists rate 45 patients; how good is each, and what is the truth?

The first one rated every patient three times. Ratings are in long format: the rating reaches its patient by an index.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from _common import command_line, read, save
from jax import random

import autoem

CLASSES = 4


def raters(patient, rater, rating):
    """Everyone has a confusion matrix; every patient a true class."""
    prevalence = numpyro.sample("prevalence", dist.Dirichlet(jnp.ones(CLASSES)))
    with numpyro.plate("rater", int(rater.max()) + 1, dim=-2), numpyro.plate("class", CLASSES):
        confusion = numpyro.sample("confusion", dist.Dirichlet(jnp.ones(CLASSES)))
    with numpyro.plate("patient", int(patient.max()) + 1):
        truth = numpyro.sample("truth", dist.Categorical(prevalence))
    with numpyro.plate("rating", len(rating)):
        numpyro.sample("rated", dist.Categorical(confusion[rater, truth[patient]]), obs=rating)


def majority_start(patient, rater, rating):
    """What the shares of votes say: prevalence and confusion matrices, as Dawid and Skene started."""
    votes = np.zeros((patient.max() + 1, CLASSES))
    np.add.at(votes, (patient, rating), 1.0)
    votes /= votes.sum(1, keepdims=True)
    confusion = np.full((rater.max() + 1, CLASSES, CLASSES), 1e-6)
    np.add.at(confusion, (rater[:, None], np.arange(CLASSES)[None], rating[:, None]), votes[patient])
    return {"prevalence": votes.mean(0), "confusion": confusion / confusion.sum(-1, keepdims=True)}


def draw(confusion):
    """One confusion matrix per anaesthetist."""
    fig, axes = plt.subplots(1, len(confusion), figsize=(11, 3.1), layout="constrained", sharey=True)
    for number, (ax, matrix) in enumerate(zip(axes, confusion, strict=True)):
        ax.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(matrix.shape):
            if matrix[i, j] > 0.005:
                ax.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", fontsize=8,
                        color="white" if matrix[i, j] > 0.6 else "black")  # fmt: skip
        ax.set(title=f"anaesthetist {number + 1}", xlabel="rated", xticks=range(CLASSES), yticks=range(CLASSES))
        ax.set_xticklabels(range(1, CLASSES + 1))
        ax.set_yticklabels(range(1, CLASSES + 1))
    axes[0].set_ylabel("true class")
    fig.suptitle("Who sees what: estimated confusion matrices, without knowing the truth", fontweight="bold")
    return fig


def main(output="examples/output", progress_bar=True):
    """From majority votes, then from many random starts; returns both results."""
    numpyro.enable_x64()
    table = read("dawid_skene.csv")
    patient, rater, rating = (table[name].astype(int) - 1 for name in ("item", "rater", "rating"))
    em = autoem.EM(raters, maximize="global", flat=True)
    print(em.derive(patient, rater, rating), "\n")
    start = majority_start(patient, rater, rating)
    voted = em.run(random.PRNGKey(0), 5000, patient, rater, rating, init_params=start, progress_bar=progress_bar)
    print(
        f"\nfrom majority votes: log-likelihood {voted.log_likelihood[-1]:.6f}, prevalence {voted.params['prevalence']}"
    )
    best = em.run(random.PRNGKey(0), 5000, patient, rater, rating, num_restarts=50, progress_bar=progress_bar)
    print(f"best of 50 starts:   log-likelihood {best.log_likelihood[-1]:.6f}")
    save(draw(np.asarray(voted.params["confusion"])), output, "dawid_skene.png")
    return voted, best


if __name__ == "__main__":
    command_line(main, __doc__)
