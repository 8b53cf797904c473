"""Why EM at all? The four ways to climb log p(x; θ) = log ∫ p(x, z; θ) dz, on two models whose answer is known.

1. A random walk seen through noise; one θ is the standard deviation of both.
2. A mixture of two normals whose components are known; θ is the weight of the second.

"Draw z once from p(z; θₜ), then maximise the average of p(x | z; θ)" is another function than the likelihood: the draws
do not follow p(z; θ) at the θ that is tried. Its gradient can be mended, by a score-function term or by writing z as a
function of θ, but draws from p(z) hardly ever meet the data. EM asks for averages under p(z | x; θₜ) instead, and these
are known exactly in both models; where they are not, drawing from p(z | x; θₜ) is what Monte Carlo EM does.
"""

import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from _common import command_line, save
from jax import random
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints

import autoem

STEPS, DATA = 50, 200
DRAWS = (10, 100, 1000)
REPEATS = 60


@autoem.em
def walk(x):
    """A random walk from zero, seen through noise of the same standard deviation."""
    theta = numpyro.param("theta", 1.0, constraint=constraints.positive)

    def step(before, now):
        z = numpyro.sample("z", dist.Normal(before, theta))
        numpyro.sample("x", dist.Normal(z, theta), obs=now)
        return z, None

    scan(step, 0.0, x)


@autoem.em
def mixture(x):
    """Normals about -1 and 1; theta is the weight of the second."""
    theta = numpyro.param("theta", 0.5, constraint=constraints.unit_interval)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(theta))
        numpyro.sample("x", dist.Normal(2.0 * z - 1.0, 1.0), obs=x)


class Walk:
    """What the estimators need of the random walk, written by hand: densities, and z as a function of θ and noise."""

    em, name, at, grid = walk, "State space: scale of a random walk and its noise", 1.6, np.linspace(0.4, 4.0, 181)

    def __init__(self, key):
        steps, noise = random.normal(key, (2, STEPS))
        self.x = np.asarray(jnp.cumsum(steps) + noise)

    def noise(self, key, count):
        return random.normal(key, (count, STEPS))

    def latent(self, theta, noise):
        return theta * noise @ np.tri(STEPS).T

    def given(self, theta, z):
        """log p(x | z; θ)."""
        return dist.Normal(z, theta).log_prob(self.x).sum(-1)

    def prior(self, theta, z):
        """log p(z; θ)."""
        return dist.Normal(0.0, theta).log_prob(jnp.diff(z, axis=-1, prepend=0.0)).sum(-1)

    def best(self, z):
        """The θ that maximises the average of log p(x, zᵢ; θ)."""
        squares = jnp.diff(z, axis=-1, prepend=0.0) ** 2 + (self.x - z) ** 2
        return jnp.sqrt(jnp.mean(squares) / 2)

    def fisher(self, theta, updated):
        """∇ log p(x; θ) from an EM step: θ'² = S / (2T), and the gradient is (S / θ² - 2T) / θ."""
        return 2 * STEPS * (updated**2 - theta**2) / theta**3


class Mixture:
    """The same for the mixture. z is discrete: as a function of θ it jumps, and its derivative is zero."""

    em, name, at, grid = mixture, "Mixture: weight of a component", 0.45, np.linspace(0.02, 0.98, 97)

    def __init__(self, key):
        first, second = random.split(key)
        z = random.bernoulli(first, 0.7, (DATA,))
        self.x = np.asarray(2.0 * z - 1.0 + random.normal(second, (DATA,)))

    def noise(self, key, count):
        return random.uniform(key, (count, DATA))

    def latent(self, theta, noise):
        return jnp.where(noise < theta, 1.0, 0.0)

    def given(self, theta, z):
        """log p(x | z; θ): free of θ."""
        return dist.Normal(2.0 * z - 1.0, 1.0).log_prob(self.x).sum(-1) + 0.0 * theta

    def datum_by_datum(self, theta, noise):
        """The score-function gradient of Σₙ log (1/M Σᵢ p(xₙ | zₙᵢ)), for those who know that data are independent."""
        z = self.latent(theta, noise)
        weights = jax.nn.softmax(dist.Normal(2.0 * z - 1.0, 1.0).log_prob(self.x), 0)
        return jnp.sum(weights * (z / theta - (1 - z) / (1 - theta)))

    def prior(self, theta, z):
        """log p(z; θ)."""
        return jnp.where(z == 1.0, jnp.log(theta), jnp.log1p(-theta)).sum(-1)

    def best(self, z):
        """The θ that maximises the average of log p(x, zᵢ; θ)."""
        return jnp.mean(z)

    def fisher(self, theta, updated):
        """∇ log p(x; θ) from an EM step: θ' = N₁ / N, and the gradient is N₁ / θ - N₀ / (1 - θ)."""
        return DATA * (updated - theta) / (theta * (1 - theta))


def log_mean(log_values):
    """log of the average of exp."""
    return jax.nn.logsumexp(log_values) - jnp.log(len(log_values))


def score_function(case, theta, noise):
    """∇ log (1/M Σ p(x | zᵢ; θ)), zᵢ ~ p(z; θ): the zᵢ are held, their density is differentiated."""
    z = jax.lax.stop_gradient(case.latent(theta, noise))
    held = jax.lax.stop_gradient(case.prior(theta, z))
    return jax.grad(lambda t: log_mean(case.given(t, z) + case.prior(t, z) - held))(theta)


def reparametrised(case, theta, noise):
    """The same with zᵢ as a function of θ."""
    return jax.grad(lambda t: log_mean(case.given(t, case.latent(t, noise))))(theta)


def monte_carlo_em(case, theta, z):
    """1/M Σ ∇ log p(x, zᵢ; θ), zᵢ ~ p(z | x; θ)."""
    return jax.grad(lambda t: jnp.mean(case.given(t, z) + case.prior(t, z)))(theta)


def errors(case, key, exact):
    """Root mean square error of every estimate of the gradient at θₜ, relative to it, by number of draws."""
    theta, keys = case.at, random.split(key, 2)
    estimators = {"score function": functools.partial(score_function, case),
                  "reparametrised": functools.partial(reparametrised, case)}  # fmt: skip
    if hasattr(case, "datum_by_datum"):
        estimators["datum by datum"] = case.datum_by_datum

    @functools.partial(jax.jit, static_argnums=0)
    def off(count):
        def one(key):
            noise = case.noise(key, count)
            return {n: f(theta, noise) for n, f in estimators.items()}

        found = jax.lax.map(one, random.split(keys[0], REPEATS))
        return {n: jnp.sqrt(jnp.mean((g / exact - 1) ** 2)) for n, g in found.items()}

    rows = [off(count) for count in DRAWS]
    found = {n: [float(row[n]) for row in rows] for n in estimators}
    draws = case.em.sample_posterior(keys[1], {"theta": theta}, case.x, num_samples=REPEATS * max(DRAWS))["z"]
    each = jax.vmap(lambda z: monte_carlo_em(case, theta, z[None]))(draws).reshape(REPEATS, -1)
    found["Monte Carlo EM"] = [float(jnp.sqrt(jnp.mean((each[:, :n].mean(1) / exact - 1) ** 2))) for n in DRAWS]
    return found


def climb(case, key):
    """Twenty steps of Monte Carlo EM with 30 draws each, by hand."""
    theta = jnp.asarray(case.at)

    def step(theta, key):
        z = case.em.sample_posterior(key, {"theta": theta}, case.x, num_samples=30)["z"]
        return case.best(z), None

    return float(jax.lax.scan(step, theta, random.split(key, 20))[0])


def objectives(case, key):
    """Over the grid of θ: the log-likelihood, and the average with draws made once."""
    exact = jax.vmap(lambda t: case.em.log_likelihood({"theta": t}, case.x))(case.grid)
    once = case.latent(case.at, case.noise(key, 1000))
    wrong = jax.vmap(lambda t: log_mean(case.given(t, once)))(case.grid)
    return np.asarray(exact), np.asarray(wrong)


def study(case, key, progress_bar):
    """Fit by EM; all curves and errors; a table of them."""
    keys = random.split(key, 3)
    result = case.em.run(keys[0], 2000, case.x, progress_bar=progress_bar)
    state = case.em.init(keys[0], case.x, init_params={"theta": case.at})
    updated = float(case.em.update(state, case.x)[0].params["theta"])
    fisher = case.fisher(case.at, updated)
    exact = float(jax.grad(lambda t: case.em.log_likelihood({"theta": t}, case.x))(case.at))
    curves, found = objectives(case, keys[1]), errors(case, keys[2], exact)
    flat = np.ptp(curves[1]) < 1e-6
    where = "nowhere: it is constant" if flat else f"θ = {case.grid[curves[1].argmax()]:.3f}"
    print(f"\n{case.name}")
    print(f"  maximum of the log-likelihood, by EM       θ = {float(result.params['theta']):.3f}")
    print(f"  maximum with z drawn once at θₜ = {case.at:<8} {where}")
    print(f"  after 20 steps of Monte Carlo EM           θ = {climb(case, keys[1]):.3f}")
    print(f"  gradient at θₜ: derivative of log p(x; θ)  {exact:.10f}")
    print(f"                  Fisher's identity, EM step {fisher:.10f}")
    print("  error of other estimates of it, relative (root mean square over", REPEATS, "repetitions)")
    print("  " + "draws".ljust(20) + "".join(f"{n:>9}" for n in DRAWS))
    for name, row in found.items():
        print("  " + name.ljust(20) + "".join(f"{e:9.3f}" for e in row))
    return result, curves, found


BLACK, ORANGE, BLUE, GREEN, GREY = "#000000", "#D55E00", "#0072B2", "#009E73", "0.5"
STYLE = {"score function": (ORANGE, "-"), "reparametrised": (BLUE, "-"), "datum by datum": (ORANGE, ":"),
         "Monte Carlo EM": (GREEN, "-")}  # fmt: skip
NAMES = {"score function": "score function", "reparametrised": "reparametrised", "Monte Carlo EM": "Monte Carlo EM",
         "datum by datum": "score function,\neach datum by itself"}  # fmt: skip
PLACES = [  # of the labels, by row: the data do not change
    {"score function": (1.2e3, 0.78), "reparametrised": (1.2e3, 2.2), "Monte Carlo EM": (1.2e3, 0.009),
     "exact": (0.47, 1.3, "log p(x; θ)"), "wrong": (2.5, 1.3, "z drawn once, at θₜ")},
    {"score function": (1.2e3, 0.62), "reparametrised": (1.2e3, 1.45), "datum by datum": (1.2e3, 0.0048),
     "Monte Carlo EM": (1.2e3, 0.014), "exact": (0.545, -8.0, "log p(x; θ)"),
     "wrong": (0.05, 1.3, "z drawn once, at θₜ: constant")},
]  # fmt: skip


def draw(cases, studies):
    """Left: what is maximised. Right: how far the gradients are off."""
    fig, axes = plt.subplots(2, 2, figsize=(13, 8), layout="constrained", gridspec_kw={"width_ratios": (1, 1.15)})
    for row, (case, (result, (exact, wrong), found)) in enumerate(zip(cases, studies, strict=True)):
        draw_objectives(axes[row, 0], case, float(result.params["theta"]), exact, wrong, PLACES[row])
        draw_errors(axes[row, 1], found, PLACES[row])
        axes[row, 0].set_title(case.name, loc="left", fontsize=14, fontweight="bold")
    axes[0, 1].set_title("Error of the gradient at θₜ, as a multiple of it", loc="left", fontsize=14, fontweight="bold")
    axes[1, 0].set_xlabel("θ", fontsize=13)
    axes[1, 1].set_xlabel("draws of all z", fontsize=13)
    title = "Sampling z from its prior: the wrong maximum, or a gradient lost in noise"
    fig.suptitle(title, fontweight="bold", fontsize=19, x=0.01, ha="left")
    return fig


def draw_objectives(ax, case, best, exact, wrong, places):
    """Both functions of θ, less their maxima."""
    for name, values, colour, dashes in (("exact", exact, BLACK, "-"), ("wrong", wrong, ORANGE, "--")):
        ax.plot(case.grid, values - values.max(), color=colour, lw=3, ls=dashes)
        x, y, label = places[name]
        ax.text(x, y, label, color=colour, fontsize=14, va="center", fontweight="bold")
    ax.set_ylim(-20, 4)
    ax.set_xlim(case.grid[0], case.grid[-1])
    ax.plot([best, case.at], [-20, -20], color=BLACK, marker="^", ms=9, ls="", clip_on=False)
    ax.text(best, -19.2, "best", fontsize=13, ha="center", va="bottom")
    ax.text(case.at, -19.2, "θₜ", fontsize=13, ha="center", va="bottom")
    ax.set_ylabel("objective, less its maximum", fontsize=13)
    finish(ax)


def draw_errors(ax, found, places):
    """Log-log: only draws from the posterior get anywhere, and what is exact needs none."""
    for name, row in found.items():
        colour, dashes = STYLE[name]
        ax.loglog(DRAWS[: len(row)], row, color=colour, ls=dashes, lw=3, marker="o", ms=6)
        x, y = places[name]
        ax.text(x, y, NAMES[name], color=colour, fontsize=13, va="center")
    ax.axhline(1.0, color=GREY, lw=1.2, ls=":")
    ax.set_xlim(8, 13000)
    ax.set_ylim(0.0022, 15)
    ax.text(9, 0.5, "1: as bad as no gradient", color=GREY, fontsize=12, va="center")
    ax.text(9, 0.0031, "↓ EM: exact, no draws", color=BLACK, fontsize=13, fontweight="bold")
    ax.set_yticks([10, 1, 0.1, 0.01], ["10", "1", "0.1", "0.01"])
    ax.set_xticks([10, 100, 1000], ["10", "100", "1000"])
    ax.minorticks_off()
    finish(ax)


def finish(ax):
    """No frame, readable ticks."""
    ax.tick_params(labelsize=12)
    ax.spines[["top", "right"]].set_visible(False)


def main(output="examples/output", progress_bar=True):
    """Fit, print, draw; returns the results."""
    numpyro.enable_x64()
    keys = random.split(random.PRNGKey(3), 4)
    cases = [Walk(keys[0]), Mixture(keys[1])]
    for case in cases:
        print(case.em.derive(case.x), "\n")
    studies = [study(c, k, progress_bar) for c, k in zip(cases, keys[2:], strict=True)]
    save(draw(cases, studies), output, "why_em.png")
    return [found[0] for found in studies]


if __name__ == "__main__":
    command_line(main, __doc__)
