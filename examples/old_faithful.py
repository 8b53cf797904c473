"""Old Faithful: 272 eruptions as a mixture of two normals, in NumPyro; autoem derives and runs its EM algorithm."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from _common import command_line, read, save
from jax import random
from numpyro.distributions import constraints

import autoem

COLOURS = np.array([[0.00, 0.36, 0.55], [0.86, 0.37, 0.13]])


@autoem.em
def mixture(x, num_components=2):
    """Eruptions come in kinds; each kind has its own mean, spread and correlation of duration and waiting time."""
    K = num_components
    weights = numpyro.param("weights", jnp.ones(K) / K, constraint=constraints.simplex)
    locs = numpyro.param("locs", lambda key: x[random.choice(key, len(x), (K,), replace=False)])
    covs = numpyro.param("covs", jnp.stack([jnp.diag(x.var(0))] * K), constraint=constraints.positive_definite)
    with numpyro.plate("eruption", len(x)):
        kind = numpyro.sample("kind", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(locs[kind], covs[kind]), obs=x)


def table(params, errors):
    """Every parameter with its standard error, component by component."""
    lines = ["component  weight          duration        waiting          sd duration  sd waiting  correlation"]
    for k in np.argsort(params["locs"][:, 0]):
        sd = np.sqrt(np.diag(params["covs"][k]))
        cells = [params["weights"][k], *params["locs"][k]], [errors["weights"][k], *errors["locs"][k]]
        shown = "  ".join(f"{v:7.3f} ± {e:.3f}" for v, e in zip(*cells, strict=True))
        correlation = params["covs"][k][0, 1] / sd.prod()
        lines.append(f"{k:9d}  {shown}  {sd[0]:11.3f}  {sd[1]:10.3f}  {correlation:11.3f}")
    return "\n".join(lines)


def draw(x, params, responsibilities):
    """The data coloured by responsibility, and ellipses at one, two and three standard deviations."""
    fig, ax = plt.subplots(figsize=(8, 5.4), layout="constrained")
    order = np.argsort(params["locs"][:, 0])
    colours = np.empty_like(COLOURS)
    colours[order] = COLOURS
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    for k, name in zip(order, ("short", "long"), strict=True):
        root = np.linalg.cholesky(params["covs"][k])
        for radius, alpha in ((3, 0.08), (2, 0.12), (1, 0.18)):
            ellipse = params["locs"][k][:, None] + radius * root @ circle
            ax.fill(*ellipse, color=colours[k], alpha=alpha, lw=0)
        ax.plot(*(params["locs"][k][:, None] + 2 * root @ circle), color=colours[k], lw=1.2)
        label = f"{name} eruptions\n{params['weights'][k]:.0%} of all"
        where = params["locs"][k] + np.array([0.0, -20.5 if name == "long" else 20.0])
        ax.annotate(label, where, color=colours[k], ha="center", va="center", fontsize=12, fontweight="bold")
    ax.scatter(*np.asarray(x).T, c=np.asarray(responsibilities) @ colours, s=22, edgecolor="white", lw=0.5, zorder=3)
    ax.set(xlabel="duration of the eruption (minutes)", ylabel="waiting time to the next (minutes)", ylim=(37, 103))
    ax.set_title("Old Faithful has two kinds of eruption", loc="left", fontsize=15, fontweight="bold")
    ax.spines[["top", "right"]].set_visible(False)
    return fig


def main(output="examples/output", progress_bar=True):
    """Derive, fit, print, draw; returns the result."""
    numpyro.enable_x64()
    data = read("faithful.csv")
    x = jnp.stack([data["eruptions"], data["waiting"]], -1)
    print(mixture.derive(x), "\n")
    result = mixture.run(random.PRNGKey(0), 500, x, progress_bar=progress_bar)
    print(f"\n{result.status.value}\nlog-likelihood {result.log_likelihood[-1]:.6f} after {result.num_steps} steps\n")
    print(table(result.params, mixture.standard_errors(result.params, x)))
    responsibilities = mixture.posterior(result.params, x)["kind"].probs
    save(draw(x, {n: np.asarray(v) for n, v in result.params.items()}, responsibilities), output, "old_faithful.png")
    return result


if __name__ == "__main__":
    command_line(main, __doc__)
