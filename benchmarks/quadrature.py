"""Quadrature beside stochastic variational inference and a hand-written Gauss-Hermite optimiser, to the optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import scipy.optimize
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import autoem

from ._timing import Row, in_turn, seconds
from .models import logistic_intercepts, two_parameter_logistic

KEY = jax.random.PRNGKey(0)
_STEPS = (250, 500, 1000, 2000, 4000, 8000)


def answers(persons=5000, items=20, seed=0):
    """Binary answers of a two-parameter logistic model (persons, items)."""
    rng = np.random.default_rng(seed)
    ability, slope, easiness = rng.normal(size=(persons, 1)), rng.uniform(0.5, 2.0, items), rng.normal(size=items)
    return (rng.uniform(size=(persons, items)) < 1 / (1 + np.exp(-(slope * ability + easiness)))).astype(float)


def item_response():
    """To the log-likelihood at which SVI ends up, or, where it ends below, to ours less 1."""
    y = answers()
    em = autoem.EM(two_parameter_logistic)

    def ours():
        result = em.run(KEY, 500, y, progress_bar=False)
        assert result.converged, result.status
        return result

    svi = SVI(two_parameter_logistic, AutoNormal(two_parameter_logistic), numpyro.optim.Adam(0.02), Trace_ELBO())

    def theirs(steps):
        params = svi.run(KEY, steps, y, progress_bar=False).params
        return {name: params[name] for name in ("slope", "easiness")}

    best = float(ours().log_likelihood[-1])
    reached = {}
    for steps in _STEPS:
        reached[steps] = float(em.log_likelihood(theirs(steps), y))
        if reached[steps] > best - 1:
            break
    steps = max(reached, key=lambda n: reached[n])
    short = best - reached[steps]
    times = in_turn({"ours": lambda: seconds(ours), "svi": lambda: seconds(lambda: theirs(steps))}, rounds=3)
    name = f"2PL 5,000 x 20 to its optimum, SVI in {steps:,} steps {short:.1f} below it"
    return [_row(name, times["ours"], times["svi"], 5)]


def clusters(groups=2000, size=10, seed=0):
    """Binary outcomes in groups: (group, covariates, outcomes)."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), size)
    x = np.column_stack([np.ones(group.size), rng.normal(size=(group.size, 2))])
    eta = x @ np.array([-0.5, 1.0, -0.7]) + rng.normal(size=groups)[group]
    return group, x, (rng.uniform(size=group.size) < 1 / (1 + np.exp(-eta))).astype(float)


def gauss_hermite(group, x, y, nodes=25):
    """Maximum likelihood by BFGS on a fixed Gauss-Hermite rule: what one would write by hand. (parameters, value)."""
    at, weight = np.polynomial.hermite_e.hermegauss(nodes)
    log_weight, groups = np.log(weight / weight.sum()), int(group.max()) + 1
    at, log_weight, x, y = map(jnp.asarray, (at, log_weight, x, y))

    def negative(theta):
        eta = (x @ theta[:-1])[:, None] + jnp.exp(theta[-1]) * at
        each = y[:, None] * eta - jax.nn.softplus(eta)
        per_group = jax.ops.segment_sum(each, group, groups)
        return -jax.nn.logsumexp(per_group + log_weight, axis=1).sum()

    both = jax.jit(jax.value_and_grad(negative))
    both(jnp.zeros(x.shape[1] + 1))

    def fit():
        start = np.zeros(x.shape[1] + 1)
        return scipy.optimize.minimize(lambda t: [np.asarray(v) for v in both(t)], start, jac=True, method="BFGS")

    return fit


def random_intercepts():
    """A logistic regression with random intercepts, beside the hand-written optimiser."""
    group, x, y = clusters()
    em = autoem.EM(logistic_intercepts)
    ours = lambda: em.run(KEY, 1000, group, x, y, progress_bar=False)  # noqa: E731
    by_hand = gauss_hermite(group, x, y)
    same = float(ours().log_likelihood[-1]), -float(by_hand().fun)
    assert abs(same[0] - same[1]) < 1e-3, same
    times = in_turn({"ours": lambda: seconds(ours), "hand": lambda: seconds(by_hand)}, rounds=3)
    name = "logistic random intercepts, 2,000 groups of 10, to the optimum"
    return [_row(f"{name}, BFGS by hand", times["ours"], times["hand"], 1)]


def _row(name, ours, peer, target):
    return Row(name, f"{ours:.2f} s", f"{peer:.2f} s", peer / ours, target)
