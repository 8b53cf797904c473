"""Random sums of terms: what is recognised is a lower bound of Q that touches it, whatever was added and multiplied."""

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
import pytest  # noqa: E402
from numpyro.distributions import constraints  # noqa: E402

import autoem  # noqa: E402
from autoem._family import LogOdds, LogPower  # noqa: E402
from autoem._update import ClosedForm, HiddenCounts  # noqa: E402

SIZE = 3
KINDS = {"rate": constraints.positive, "simplex": constraints.simplex, "unit": constraints.unit_interval}


def grown(rng, leaves, depth):
    """A random expression of vectors of length SIZE, mostly of what is allowed, as a function of the leaves' values."""
    if depth == 0:
        pick = int(rng.integers(len(leaves)))
        return lambda v: leaves[pick](v)
    first, second = grown(rng, leaves, depth - 1), grown(rng, leaves, int(rng.integers(depth)))
    matrix, order, sign = rng.uniform(0, 1, (SIZE, SIZE)), rng.permutation(SIZE), rng.uniform(-0.3, 1.0)
    moves = [
        lambda v: first(v) + second(v),
        lambda v: first(v) * second(v),
        lambda v: matrix @ first(v),
        lambda v: first(v)[order] + 0.3 * second(v)[::-1],
        lambda v: jnp.where(jnp.arange(SIZE) < 2, first(v), second(v)),
        lambda v: first(v) / (1.5 + rng_free),
        lambda v: jnp.concatenate([first(v)[1:], second(v)[:1]]),
        lambda v: first(v) ** 2 + second(v),
        lambda v: jnp.cumsum(first(v)),
        lambda v: jnp.roll(first(v), 1) + sign * second(v),  # may hold a negative number
        lambda v: 1 - first(v),  # may be negative
        lambda v: jnp.sum(first(v)) * second(v),
        lambda v: jnp.exp(-second(v)) + first(v),
        lambda v: jnp.maximum(first(v), 0.2),
        lambda v: jnp.einsum("i,j->ij", first(v), second(v)).sum(0),
    ]
    rng_free = rng.uniform(0, 1)
    return moves[int(rng.integers(len(moves)))]


def drawn(rng, kind):
    if kind == "simplex":
        return rng.dirichlet(np.ones(SIZE))
    return rng.uniform(0.02, 0.98, SIZE) if kind == "unit" else rng.gamma(1.5, 1.0, SIZE)


def problem(seed):
    """A model with the parameter u and, sometimes, a second one; and whether its site has a density at all."""
    rng = np.random.default_rng(seed)
    kind = list(KINDS)[seed % 3]
    other = [None, "rate", "unit", "real"][int(rng.integers(4))]
    data = rng.uniform(0.1, 2, SIZE)
    leaves = [lambda v: v["u"], lambda v: v["u"], lambda v: v["u"][0] + 0 * v["u"], lambda v: data]
    if kind == "unit":
        leaves.append(lambda v: 1 - v["u"])
    if other is not None:
        leaves.append(lambda v: v["w"] if other != "real" else jnp.exp(v["w"]))
    expression = grown(rng, leaves, int(rng.integers(1, 4)))
    counts = rng.poisson(5.0, SIZE)

    def model():
        v = {"u": numpyro.param("u", jnp.asarray(drawn(rng, kind)), constraint=KINDS[kind])}
        if other is not None:
            law = constraints.real if other == "real" else KINDS[other]
            v["w"] = numpyro.param("w", jnp.full(SIZE, 0.4), constraint=law)
        value = expression(v)
        if kind == "rate":
            numpyro.sample("y", dist.Poisson(value, validate_args=False).to_event(1), obs=counts)
        else:
            numpyro.sample("y", dist.Multinomial(int(counts.sum()), value, validate_args=False), obs=counts)

    return rng, kind, model, other


def bound(conditional, u):
    if isinstance(conditional, LogPower):
        return np.sum(conditional.log * np.log(u) + conditional.power * u)
    if isinstance(conditional, LogOdds):
        return np.sum(conditional.successes * np.log(u) + conditional.failures * np.log1p(-u))
    return np.sum(conditional.counts * np.log(u))


def check(seed):
    """Whether something was recognised; if so, it is a bound."""
    rng, kind, model, other = problem(seed)
    em = autoem.EM(model)
    try:
        derivation = em.derive()
    except ValueError:  # the expression does not hold the parameter
        return False
    update = next((u for u in derivation.machine.updates if isinstance(u, ClosedForm) and u.name == "u"), None)
    counts = [o for o in update.occurrences if isinstance(o, HiddenCounts)] if update else []
    if not counts:
        return False
    complete = derivation.machine.complete
    for _ in range(4):
        here, there = ({"u": jnp.asarray(drawn(rng, kind))} for _ in range(2))
        if other is not None:
            here["w"] = there["w"] = jnp.asarray(rng.uniform(0.1, 0.9, SIZE))
        _, expected = derivation.machine.e_step(here, derivation.machine.prepare())
        conditional = jax.tree.map(np.asarray, counts[0].conditional("u", complete, here, expected.statistics))
        rise = complete.objective(there, expected.statistics) - complete.objective(here, expected.statistics)
        gap = bound(conditional, np.asarray(there["u"])) - bound(conditional, np.asarray(here["u"]))
        assert rise >= gap - 1e-9 * (1 + abs(gap)), (seed, float(rise), gap)
        new, _ = update(complete, here, expected.statistics)
        gain = complete.objective(new, expected.statistics) - complete.objective(here, expected.statistics)
        assert gain >= -1e-9, (seed, float(gain))
    return True


@pytest.mark.parametrize("block", [0, *(pytest.param(b, marks=pytest.mark.slow) for b in range(1, 12))])
def test_recognised_sums_are_bounds(block):
    found = [check(seed) for seed in range(6 * block, 6 * block + 6)]
    assert block or any(found)
