"""Coordinates that never meet in Q share a direction; the Hessian is the one that autodiff forms whole."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro.distributions import constraints

import autoem
from autoem._update import Numeric
from autoem._update.numeric import gradient_and_hessian

RNG = np.random.default_rng(0)
ANSWERS = (RNG.uniform(size=(12, 4)) < 0.6).astype(float)
GROUP = np.array([0, 0, 1, 2, 2, 2, 1, 0, 1, 2, 0, 1])


def items():
    slope = numpyro.param("slope", jnp.ones(4), constraint=constraints.positive)
    easiness = numpyro.param("easiness", jnp.zeros(4))
    with numpyro.plate("person", 12):
        theta = numpyro.sample("theta", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Bernoulli(logits=slope * theta[:, None] + easiness).to_event(1), obs=ANSWERS)


def items_with_a_common_slope():
    slope = numpyro.param("slope", 1.0, constraint=constraints.positive)
    easiness = numpyro.param("easiness", jnp.zeros(4))
    with numpyro.plate("person", 12):
        theta = numpyro.sample("theta", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Bernoulli(logits=slope * theta[:, None] + easiness).to_event(1), obs=ANSWERS)


def groups_with_priors():
    """Shapes by group, a prior for each, one of which also is the rate of another site."""
    shape = numpyro.sample("shape", dist.LogNormal(0.0, 1.0).expand([3]))
    other = numpyro.sample("other", dist.HalfCauchy(1.0).expand([3]))
    numpyro.sample("x", dist.Gamma(shape[GROUP], other[GROUP]), obs=1.0 + ANSWERS[:, 0] + ANSWERS[:, 1] / 2)


def a_total():
    """A sum over all: everything meets."""
    slope = numpyro.param("slope", jnp.ones(4), constraint=constraints.positive)
    easiness = numpyro.param("easiness", jnp.zeros(4))
    with numpyro.plate("person", 12):
        theta = numpyro.sample("theta", dist.Normal(0.0, 1.0))
        logits = slope * theta[:, None] + easiness * easiness.sum()
        numpyro.sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=ANSWERS)


def a_vector():
    """The concentration of a Dirichlet: its normaliser holds all of it."""
    concentration = numpyro.param("concentration", jnp.ones(3), constraint=constraints.positive)
    numpyro.sample("p", dist.Dirichlet(concentration).expand([5]), obs=RNG.dirichlet(np.ones(3), 5))


CASES = [(items, 2, {}), (items_with_a_common_slope, 5, {}), (groups_with_priors, 2, {"maximize": "global"}),
         (a_total, 8, {}), (a_vector, 3, {})]  # fmt: skip


@pytest.mark.parametrize(("model", "largest", "options"), CASES, ids=[c[0].__name__ for c in CASES])
def test_the_hessian_of_q(model, largest, options):
    em = autoem.EM(model, **options)
    machine = em.derive().machine
    (update,) = [u for u in machine.updates if isinstance(u, Numeric)]
    blocks = None if update.blocks is None else update.blocks.array
    assert (update.coordinates if blocks is None else np.bincount(blocks).max()) == largest
    params = em.get_params(em.init(jax.random.key(0)))
    _, expected = jax.jit(lambda p: machine.e_step(p, machine.prepare()))(params)
    complete = machine.complete.at(expected.points)
    names = sorted(update.names)
    point, back = jax.flatten_util.ravel_pytree({n: jnp.log(jnp.abs(params[n]) + 0.3) for n in names})

    def q(v):
        return complete.objective({**params, **jax.tree.map(jnp.exp, back(v))}, expected.statistics)

    gradient, hessian = jax.jit(lambda v: gradient_and_hessian(q, v, blocks))(point)
    slope, whole = jax.jit(lambda v: (jax.grad(q)(v), jax.hessian(q)(v)))(point)
    assert_allclose(gradient, slope, rtol=1e-10, atol=1e-10)
    assert_allclose(hessian, whole, rtol=1e-9, atol=1e-9)
