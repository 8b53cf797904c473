"""Factors taken together as one matrix product: the same evidence and statistics as one by one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro.distributions import constraints

import autoem
from autoem._evidence import Enumeration

RNG = np.random.default_rng(0)
N, D, K = 30, 3, 2
X, SEEN = RNG.normal(size=(N, D)), RNG.uniform(size=(N, D)) < 0.7
COUNTS = RNG.poisson(3.0, size=(D, N))


def weights():
    return numpyro.param("weights", jnp.array([0.3, 0.7]), constraint=constraints.simplex)


def several_sites():
    """A full Gaussian, a location or a scale that the coordinates share, counts in a plate outside, a fixed factor."""
    locs = numpyro.param("locs", jnp.array(RNG.normal(size=(K, D))))
    rate = numpyro.param("rate", jnp.array([1.0, 4.0]), constraint=constraints.positive)
    with numpyro.plate("n", N):
        z = numpyro.sample("z", dist.Categorical(weights()))
        numpyro.sample("full", dist.MultivariateNormal(locs[z], jnp.eye(D) + 0.2), obs=X)
        numpyro.sample("tied", dist.Normal(locs[z], rate[z][:, None]).to_event(1), obs=X)
        numpyro.sample("one", dist.Normal(rate[z][:, None], 1.3).expand([N, D]).to_event(1), obs=X + 1)
        numpyro.sample("same", dist.Normal(rate[z], 1.0), obs=0.5)
        with numpyro.plate("d", D):
            numpyro.sample("count", dist.Poisson(rate[z]), obs=COUNTS)


def masked_items():
    """Binary items, some of them missing."""
    probs = numpyro.param("probs", jnp.array(RNG.uniform(0.2, 0.8, size=(K, D))), constraint=constraints.unit_interval)
    with numpyro.plate("n", N):
        z = numpyro.sample("z", dist.Categorical(weights()))
        numpyro.sample("y", dist.Bernoulli(probs[z]).mask(SEEN).to_event(1), obs=(X > 0) * 1)


def totals(certain=False):
    """Counts that add up to a number that is known, with exact zeros among the probabilities or without."""
    sure = jnp.array([[1.0, 0.3, 0.2], [0.4, 0.0, 0.9]]) if certain else jnp.array([[0.9, 0.3, 0.2], [0.4, 0.1, 0.9]])
    sides = jnp.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]) if certain else jnp.array([[0.5, 0.4, 0.1], [0.2, 0.3, 0.5]])
    probs = numpyro.param("probs", sure, constraint=constraints.unit_interval)
    faces = numpyro.param("faces", sides, constraint=constraints.simplex)
    with numpyro.plate("n", N):
        z = numpyro.sample("z", dist.Categorical(weights()))
        numpyro.sample("y", dist.Bernoulli(probs[z]).to_event(1), obs=(X > -0.5) * 1)
        numpyro.sample("face", dist.Categorical(faces[z]), obs=COUNTS[0] % 3)
        numpyro.sample("several", dist.Binomial(4, probs[z]).to_event(1), obs=COUNTS.T % 5)


def certain():
    """The same with zeros."""
    totals(True)


def two_latents():
    """Sites of one latent, of the other, of both; two plates."""
    locs = numpyro.param("locs", jnp.array([[0.0, 1.0], [2.0, 4.0]]))
    with numpyro.plate("d", D), numpyro.plate("n", N):
        z = numpyro.sample("z", dist.Categorical(weights()))
        w = numpyro.sample("w", dist.Bernoulli(jnp.array([0.3, 0.6])[z]))
        numpyro.sample("a", dist.Normal(locs[0, z], 1.0), obs=X)
        numpyro.sample("b", dist.Normal(locs[1, w], 2.0), obs=X)
        numpyro.sample("c", dist.Normal(locs[z, w], 1.5), obs=X - 1)


@pytest.mark.parametrize("chunk", [None, 7], ids=["whole", "chunks"])
@pytest.mark.parametrize("model", [several_sites, masked_items, totals, certain, two_latents], ids=lambda m: m.__name__)
def test_the_same_as_one_by_one(model, chunk):
    em = autoem.EM(model)
    machine = em.derive().machine
    (evidence,) = machine.evidences
    assert isinstance(evidence, Enumeration)
    assert sorted(i for p in evidence.products for i in p.members) != []
    slots = machine.complete.slots(em.get_params(em.init(jax.random.key(0))))
    alone = dataclasses.replace(evidence, products=())
    if chunk:
        layout = dataclasses.replace(evidence.layout, chunk=(evidence.layout.latents[0][2][0], chunk))
        evidence = dataclasses.replace(evidence, layout=layout)

    def both(e):
        return jax.jit(lambda s: (e.expected_statistics(s, e.prepare()), e.log_evidence(s, e.prepare())))(slots)

    (found, total), (expected, _) = both(evidence), both(alone)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-12, atol=1e-12), found, expected)
    assert_allclose(total, expected[0], rtol=1e-12)
    if chunk is None and model is totals:
        curved = [jax.jvp(jax.grad(lambda s, e=e: e.log_evidence(s, e.prepare())), (slots,), (slots,))[1]
                  for e in (evidence, alone)]  # fmt: skip
        jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-9, atol=1e-9), *curved)


def test_a_probability_that_comes_to_be_one_stays_one():
    """The count of failures is the total less the successes: zero, not rounding, where all succeed."""
    rng = np.random.default_rng(1)
    z = rng.uniform(size=(500, 1)) < 0.4
    y = np.hstack([np.ones((500, 1)), rng.uniform(size=(500, 2)) < np.where(z, 0.2, 0.7)]).astype(int)

    def model(y):
        start = jnp.array([[0.9, 0.4, 0.3], [0.8, 0.6, 0.7]])[:, 3 - y.shape[1] :]
        probs = numpyro.param("probs", start, constraint=constraints.unit_interval)
        with numpyro.plate("n", 500):
            k = numpyro.sample("k", dist.Categorical(weights()))
            numpyro.sample("y", dist.Bernoulli(probs[k]).to_event(1), obs=y)

    em = autoem.EM(model)
    all_items, others = (em.run(jax.random.key(0), 2000, a, progress_bar=False) for a in (y, y[:, 1:]))
    assert all_items.converged and others.converged
    assert_allclose(all_items.log_likelihood[-1], others.log_likelihood[-1], rtol=1e-9)
    assert np.all(np.asarray(all_items.params["probs"])[:, 0] == 1.0)
