"""The recursion of chains: its hand-written derivative against autodiff, and what it does where numbers underflow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from autoem._evidence._chain_tables import ChainShape, Potential
from autoem._evidence._recursion import _logarithmic, _scaled, log_total


def _random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def _pairs():
    """One chain, and sequences as a batch; the transitions count where a gate is open."""
    shape = ChainShape((("z", 3, 1),), (), 7, 1, (2,))
    gate = np.random.default_rng(0).random((6, 2)) < 0.7
    later = (
        Potential((("z", 1), ("z", 0)), _random(1, 3, 3, 1, 1), gate, -float(np.log(3))),
        Potential((("z", 0),), _random(2, 3, 6, 2)),
    )
    return shape, _random(3, 3, 2), later


def _two_back():
    """A state that depends on two others before it, and on a class; no batch, so that steps are plain sums."""
    shape = ChainShape((("z", 2, 2),), (("k", 2, True),), 8, 2, ())
    later = (
        Potential((("z", 2), ("z", 1), ("z", 0)), _random(4, 2, 2, 2, 1)),
        Potential((("k", 0), ("z", 0)), _random(5, 2, 2, 6)),
        Potential((("z", 1), ("z", 0)), _random(6, 2, 2, 6)),
    )
    return shape, _random(7, 2, 2, 2), later


@pytest.mark.parametrize("case", [_pairs, _two_back])
def test_derivatives_are_those_of_autodiff(case):
    shape, first, later = case()
    (total, gradient), sound = jax.jit(lambda f, p: _scaled(shape, f, p))(first, later)
    plain, expected = jax.jit(lambda f, p: _logarithmic(shape, f, p))(first, later)
    assert sound
    assert_allclose(total, plain, rtol=1e-12)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-9, atol=1e-12), gradient, expected)


def test_second_derivatives():
    shape, first, later = _two_back()

    def scaled(first):
        return log_total(shape, first, later)

    def plain(first):
        return _logarithmic(shape, first, later)[0]

    for function in (jax.hessian, lambda f: jax.jacrev(jax.jacfwd(f))):
        found, expected = jax.jit(function(scaled))(first), jax.jit(jax.hessian(plain))(first)
        assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def _classes(size):
    """Two states that nobody leaves: first the data are for one of them, then more for the other."""
    shape = ChainShape((("z", 2, 1),), (), 51, 1, ())
    log = np.zeros((2, 50))
    log[1, :20], log[0, 20:] = -size, -size
    stay = Potential((("z", 1), ("z", 0)), jnp.asarray(np.where(np.eye(2) > 0, 0.0, -1e30))[..., None])
    return shape, jnp.log(jnp.array([0.5, 0.5])), (stay, Potential((("z", 0),), jnp.asarray(log)))


def test_what_underflows_little_by_little_is_not_lost():
    def fit(size):
        shape, first, (stay, _) = _classes(100.0)
        log = size / 100 * _classes(100.0)[2][1].array
        return jax.value_and_grad(lambda a: log_total(shape, first, (stay, Potential((("z", 0),), a))))(log)

    for size in (0.5, 100.0):
        total, weights = jax.jit(fit)(size)
        exact = np.logaddexp(-20 * size, -30 * size) - np.log(2)
        assert_allclose(total, exact, rtol=1e-12)
        assert_allclose(weights[1], np.full(50, np.exp(-20 * size - np.log(2) - exact)), atol=1e-12)
    # Of starts that are fitted together one may need logarithms.
    totals, _ = jax.jit(jax.vmap(fit))(jnp.array([0.5, 100.0]))
    assert_allclose(totals, [np.logaddexp(-10, -15) - np.log(2), -2000 - np.log(2)], rtol=1e-12)
