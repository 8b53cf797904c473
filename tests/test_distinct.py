"""Equal rows of discrete blocks, summed once with counts: nothing but the number of rows changes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro import handlers
from numpyro.distributions import constraints

import autoem

SIMPLEX, UNIT = constraints.simplex, constraints.unit_interval
ITEMS = np.random.default_rng(0).integers(0, 2, (700, 3)).astype(float)


def classes(y, seen=True, weights=1.0):
    """Latent classes with missing items and case weights, and a second latent that depends on the class."""
    pi = numpyro.param("pi", jnp.array([0.4, 0.6]), constraint=SIMPLEX)
    move = numpyro.param("move", jnp.array([[0.7, 0.3], [0.2, 0.8]]), constraint=SIMPLEX)
    p = numpyro.param("p", jnp.array([[0.2, 0.7, 0.4], [0.8, 0.3, 0.9]]), constraint=UNIT)
    with numpyro.plate("people", len(y)), handlers.scale(scale=weights):
        z = numpyro.sample("z", dist.Categorical(pi))
        w = numpyro.sample("w", dist.Categorical(move[z]))
        numpyro.sample("y", dist.Bernoulli(p[w]).mask(seen).to_event(1), obs=y)


def by_hand(y, seen, weights):
    """log p of every row, times its weight."""
    pi, move = np.array([0.4, 0.6]), np.array([[0.7, 0.3], [0.2, 0.8]])
    p = np.array([[0.2, 0.7, 0.4], [0.8, 0.3, 0.9]])
    each = np.where(seen[:, None], np.where(y[:, None] > 0, p, 1 - p), 1.0).prod(-1)
    return float(weights @ np.log(each @ (pi @ move)))


@pytest.mark.parametrize("kind", ["plain", "masked", "weighted"])
def test_nothing_changes_but_the_number_of_rows(kind):
    rng = np.random.default_rng(1)
    seen = rng.random(ITEMS.shape) < 0.8 if kind == "masked" else np.ones(ITEMS.shape, bool)
    weights = rng.integers(1, 3, len(ITEMS)).astype(float) if kind == "weighted" else np.ones(len(ITEMS))
    args = {"plain": (ITEMS,), "masked": (ITEMS, seen), "weighted": (ITEMS, True, weights)}[kind]
    em = autoem.EM(classes, check=True)
    derivation = em.derive(*args)
    (fast, *_), (full, *_) = derivation.machine.evidences, derivation.detailed.evidences
    assert dict(full.layout.sizes) == {k: 700 for k, _ in full.layout.sizes}
    assert set(dict(fast.layout.sizes).values()) == {{"plain": 8, "masked": 32, "weighted": 16}[kind]}
    assert "distinct ones" in str(derivation)
    params = em.get_params(em.init(jax.random.key(0), *args))
    step = eqx.filter_jit(lambda m, p: m.e_step(p, m.prepare()))
    (value, found), (plain, expected) = (step(m, params) for m in (derivation.machine, derivation.detailed))
    assert_allclose(value, by_hand(ITEMS, seen, weights), rtol=1e-12)
    assert_allclose(value, plain, rtol=1e-12)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-10, atol=1e-10), list(found), list(expected))
    assert em.posterior(params, *args)["z"].probs.shape == (700, 2)


def test_the_fit_its_errors_and_its_certificate():
    em = autoem.EM(classes, check=True)
    few = np.unique(ITEMS, axis=0)
    counts = (ITEMS[:, None] == few).all(-1).sum(0).astype(float)
    whole = em.run(jax.random.key(0), 20, ITEMS, progress_bar=False)
    summed = em.run(jax.random.key(0), 20, few, True, counts, progress_bar=False)
    assert_allclose(whole.log_likelihood, summed.log_likelihood, rtol=1e-11)
    for name, value in whole.params.items():
        assert_allclose(value, summed.params[name], rtol=1e-7)
    score = jax.grad(lambda p: em.log_likelihood({**whole.params, "p": p}, ITEMS))(whole.params["p"])
    assert_allclose(score, jax.grad(lambda p: em.log_likelihood({**whole.params, "p": p}, few, True, counts))(
        whole.params["p"]), rtol=1e-6, atol=1e-8)  # fmt: skip


def test_rows_that_differ_and_traced_data_stay_as_they_are():
    values = np.random.default_rng(2).normal(size=700)

    def mixture(x):
        locs = numpyro.param("locs", jnp.array([-1.0, 1.0]))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(jnp.array([0.5, 0.5])))
            numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)

    em = autoem.EM(mixture)
    assert not em.derive(values).machine.evidences[0].notes
    rounded = np.round(values)
    params = {"locs": jnp.array([-0.5, 0.5])}
    assert em.derive(rounded).machine.evidences[0].notes
    assert_allclose(
        jax.jit(lambda x: em.log_likelihood(params, x))(rounded), em.log_likelihood(params, rounded), rtol=1e-12
    )
