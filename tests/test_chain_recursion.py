"""The recursion of chains: its hand-written derivative against autodiff, what it does where numbers underflow, and
long chains in blocks against the same chains step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import autoem
from autoem._evidence import _recursion
from autoem._evidence._chain_blocks import (
    Blocks,
    blocks,
    cut,
    in_blocks,
    log_total_of_blocks,
    value_and_gradient_of_blocks,
)
from autoem._evidence._chain_tables import ChainShape, Potential
from autoem._evidence._logarithmic import logarithmic
from autoem._evidence._recursion import log_total, scaled, value_and_gradient
from benchmarks.models import hidden_markov, hidden_markov_sequences


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
    (total, gradient), sound = jax.jit(lambda f, p: scaled(shape, f, p))(first, later)
    plain, expected = jax.jit(lambda f, p: logarithmic(shape, f, p))(first, later)
    assert sound
    assert_allclose(total, plain, rtol=1e-12)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-9, atol=1e-12), gradient, expected)


def test_second_derivatives():
    shape, first, later = _two_back()

    def scaled(first):
        return log_total(shape, first, later)

    def plain(first):
        return logarithmic(shape, first, later)[0]

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


_CUT = Blocks(6, 40, 7)
_STEPS = 6 * 40 - 7


def _long(moving, batch=(), gated=False, log=None):
    """A chain of `_STEPS` steps: transitions that change from step to step or not, with a gate or without."""
    shape = ChainShape((("z", 3, 1),), (), _STEPS + 1, 1, batch)
    log = _random(11, 3, 3, _STEPS if moving else 1, *[1] * len(batch)) if log is None else jnp.asarray(log)[..., None]
    gate = np.random.default_rng(12).random((_STEPS, *batch)) < 0.7 if gated else None
    pairs = Potential((("z", 1), ("z", 0)), log, gate, -float(np.log(3)) if gated else 0.0)
    return shape, _random(13, 3, *batch), (pairs, Potential((("z", 0),), _random(14, 3, _STEPS, *batch)))


def _noisy(p):
    """What stands where there is no step does not matter."""
    axis = len(p.variables)
    if p.array.shape[axis] == 1:
        return p
    return Potential(p.variables, p.array.at[(slice(None),) * axis + (slice(_CUT.pad), 0)].set(5.0), p.gate, p.closed)


@pytest.mark.parametrize(
    ("case", "forgets"),
    [
        (_long(False), True),
        pytest.param(_long(True), True, marks=pytest.mark.slow),
        (_long(False, (2,), gated=True), True),
        pytest.param(_long(False, log=np.where(np.eye(3) > 0, 0.0, -1e30)), False, marks=pytest.mark.slow),
        (_long(False, log=np.where(np.triu(np.ones((3, 3))) > 0, 0.0, -1e30)), False),
        pytest.param(
            _long(False, log=np.where(np.roll(np.eye(3), 1, 0) > 0, 0.0, -1e30)), False, marks=pytest.mark.slow
        ),
    ],
    ids=["still", "moving", "gated", "nobody-leaves", "left-to-right", "round-and-round"],
)
def test_blocks_are_the_chain_step_by_step(case, forgets):
    shape, first, later = case
    pieces = tuple(_noisy(cut(p, _CUT)) for p in later)
    assert bool(jax.jit(lambda f, p: in_blocks(shape, _CUT, f, p)[1])(first, pieces)) == forgets
    total, gradient = jax.jit(lambda f, p: value_and_gradient_of_blocks(shape, _CUT, f, p))(first, pieces)
    plain, (slope, expected) = jax.jit(lambda f, p: value_and_gradient(shape, f, p))(first, later)
    again = tuple(cut(Potential(p.variables, g), _CUT).array for p, g in zip(later, expected, strict=True))
    assert_allclose(total, plain, rtol=1e-14)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-11, atol=1e-14), gradient, (slope, again))


_NOBODY_LEAVES, _ROUND = np.eye(3), np.roll(np.eye(3), 1, 0)
_STATIC = ChainShape((("z", 2, 1),), (("k", 2, True),), 30, 1, ())


_SLOW = pytest.mark.slow
_BY_CLASS = (
    Potential((("k", 0), ("z", 1), ("z", 0)), _random(16, 2, 2, 2, 1)),
    Potential((("z", 0),), _random(17, 2, 29)),
)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(_pairs(), marks=_SLOW),
        _two_back(),
        pytest.param(_long(True), marks=_SLOW),
        pytest.param(_long(False, (2,), gated=True), marks=_SLOW),
        pytest.param(_long(False, log=np.where(_NOBODY_LEAVES > 0, 0.0, -1e30)), marks=_SLOW),
        _long(False, log=np.where(np.triu(np.ones((3, 3))) > 0, 0.0, -1e30)),
        pytest.param(_long(False, log=np.where(_ROUND > 0, 0.0, -1e30)), marks=_SLOW),
        pytest.param((_STATIC, _random(15, 2, 2), _BY_CLASS), marks=_SLOW),
    ],
    ids=["batch", "two-back", "moving", "gated", "nobody-leaves", "left-to-right", "round-and-round", "class"],
)
def test_associative_scans_are_the_chain_step_by_step(case, monkeypatch):
    """What an accelerator does, here on the CPU; and it lowers for one."""
    shape, first, later = case
    plain, expected = jax.jit(lambda f, p: logarithmic(shape, f, p))(first, later)
    monkeypatch.setattr(_recursion, "in_parallel", lambda: True)
    found = jax.jit(lambda f, p: scaled(shape, f, p))
    (total, gradient), sound = found(first, later)
    assert sound
    assert_allclose(total, plain, rtol=1e-13)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-9, atol=1e-12), gradient, expected)
    assert "while" not in found.lower(first, later).as_text()
    jax.export.export(found, platforms=["cuda", "tpu"])(first, later)


@pytest.mark.slow
def test_second_derivatives_of_associative_scans(monkeypatch):
    """Where some states cannot come first, too."""
    shape, first, later = _long(False)
    first = jnp.asarray([0.3, -jnp.inf, 0.0])

    def of(step):
        return log_total(shape, first, (Potential(later[0].variables, later[0].array + step), later[1]))

    expected = jax.jit(jax.hessian(of))(0.1 * jnp.ones((3, 3, 1)))
    monkeypatch.setattr(_recursion, "in_parallel", lambda: True)
    found = jax.jit(jax.hessian(lambda s: of(s)))(0.1 * jnp.ones((3, 3, 1)))
    assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_associative_scans_say_so_where_they_underflow(monkeypatch):
    """Two classes that nobody leaves, the data first for one of them by more than a double holds, then the other."""
    monkeypatch.setattr(_recursion, "in_parallel", lambda: True)
    data = np.zeros((2, 400))
    data[0, :200], data[1, 200:] = 5.0, 6.0
    shape = ChainShape((("z", 2, 1),), (), 401, 1, ())
    stay = jnp.asarray(np.where(_NOBODY_LEAVES[:2, :2] > 0, 0.0, -1e30))[..., None]
    later = Potential((("z", 1), ("z", 0)), stay), Potential((("z", 0),), jnp.asarray(data))
    first = jnp.log(jnp.array([0.5, 0.5]))
    found = jax.jit(lambda f, p: value_and_gradient(shape, f, p))(first, later)
    plain = jax.jit(lambda f, p: logarithmic(shape, f, p))(first, later)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-9, atol=1e-12), found, plain)


def test_second_derivatives_of_blocks():
    shape, first, later = _long(False)
    pieces = tuple(cut(p, _CUT) for p in later)
    found = jax.jit(jax.hessian(lambda f: log_total_of_blocks(shape, _CUT, f, pieces)))(first)
    assert_allclose(found, jax.jit(jax.hessian(lambda f: log_total(shape, f, later)))(first), rtol=1e-8, atol=1e-12)


def _forward_backward(y, initial, transition, locs, scales):
    """Log-likelihood, posterior probabilities and expected transitions, with loops in NumPy."""
    density = np.exp(-0.5 * ((y[:, None] - locs) / scales) ** 2) / (scales * np.sqrt(2 * np.pi))
    alpha, total = np.empty_like(density), 0.0
    for t in range(len(y)):
        alpha[t] = density[t] * (initial if t == 0 else alpha[t - 1] @ transition)
        total += np.log(alpha[t].sum())
        alpha[t] /= alpha[t].sum()
    beta, counts, posterior = np.ones(len(locs)), np.zeros_like(transition), alpha.copy()
    for t in reversed(range(1, len(y))):
        pairs = alpha[t - 1][:, None] * transition * (density[t] * beta)
        counts += pairs / pairs.sum()
        beta = transition @ (density[t] * beta)
        beta /= beta.sum()
        posterior[t - 1] = alpha[t - 1] * beta / (alpha[t - 1] @ beta)
    return total, posterior, counts


@pytest.mark.parametrize("stay", [0.8, 0.99999])
def test_a_long_chain(stay):
    """Of chains that forget and chains that hardly do; the one in blocks, the other step by step."""
    rng = np.random.default_rng(0)
    y = np.where(np.arange(6_500) // 50 % 2, 1.0, 0.0) + rng.normal(size=6_500)
    params = {
        "initial": jnp.array([0.4, 0.6]), "transition": jnp.array([[stay, 1 - stay], [0.1, 0.9]]),
        "locs": jnp.array([0.0, 1.0]), "scales": jnp.array([1.0, 1.5]),
    }  # fmt: skip
    total, posterior, counts = _forward_backward(y, *[np.asarray(v) for v in params.values()])
    em = autoem.EM(hidden_markov)
    machine = em.derive(y, 2).machine
    (chain,) = machine.evidences
    assert blocks(chain.shape) is not None
    state, found = em.update(em.init(jax.random.PRNGKey(0), y, 2, init_params=params), y, 2)
    assert_allclose(found, total, rtol=1e-12)
    assert_allclose(state.params["transition"], counts / counts.sum(1, keepdims=True), rtol=1e-9)
    means = posterior.T @ y / posterior.sum(0)
    assert_allclose(state.params["locs"], means, rtol=1e-9)
    assert_allclose(em.posterior(params, y, 2)["z"].probs, posterior[1:], rtol=1e-8, atol=1e-12)


def _baum_welch(y, start):
    """Log-likelihood and one EM step on logarithms, sequence by sequence, in NumPy: (steps, sequences)."""
    log_a, locs, scales = np.log(start["transition"]), start["locs"], start["scales"]
    pairs, weight, moment, initial, total = np.zeros_like(log_a), 0.0, 0.0, 0.0, 0.0
    for own in y.T:
        log_b = -0.5 * ((own[:, None] - locs) / scales) ** 2 - np.log(scales) - 0.5 * np.log(2 * np.pi)
        alpha, beta = np.zeros_like(log_b), np.zeros_like(log_b)
        alpha[0] = np.log(start["initial"]) + log_b[0]
        for t in range(1, len(own)):
            alpha[t] = np.logaddexp.reduce(alpha[t - 1][:, None] + log_a, 0) + log_b[t]
        for t in range(len(own) - 1, 0, -1):
            beta[t - 1] = np.logaddexp.reduce(log_a + log_b[t] + beta[t], 1)
        evidence = np.logaddexp.reduce(alpha[-1])
        gamma = np.exp(alpha + beta - evidence)
        for t in range(1, len(own)):
            pairs += np.exp(alpha[t - 1][:, None] + log_a + (log_b[t] + beta[t])[None] - evidence)
        total, initial = total + evidence, initial + gamma[0]
        weight, moment = weight + gamma.sum(0), moment + own @ gamma
    return total, {"transition": pairs / pairs.sum(1, keepdims=True), "locs": moment / weight,
                   "initial": initial / initial.sum()}  # fmt: skip


@pytest.mark.parametrize("rare", [0.2, 1e-200])
def test_many_sequences_take_the_step_of_baum_and_welch(rare):
    # A change that is that rare and happens loses all other digits: then all is done on logarithms.
    rng = np.random.default_rng(5)
    y = np.where(np.arange(9)[:, None] < 4, 0.0, 40.0) + rng.normal(size=(9, 70))
    start = {"initial": np.array([0.6, 0.4]), "transition": np.array([[1 - rare, rare], [0.5, 0.5]]),
             "locs": np.array([0.5, 39.0]), "scales": np.array([1.0, 1.5])}  # fmt: skip
    em = autoem.EM(hidden_markov_sequences)
    found = em.run(jax.random.PRNGKey(0), 1, y, 2, init_params=start, progress_bar=False)
    total, expected = _baum_welch(y, start)
    assert_allclose(found.log_likelihood[0], total, rtol=1e-10)
    for name, value in expected.items():
        assert_allclose(found.params[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
