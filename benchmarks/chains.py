"""Gaussian hidden Markov models beside hmmlearn and dynamax, per EM iteration from the same start."""

import jax
import jax.numpy as jnp
import numpy as np

import autoem

from ._timing import Row, in_turn, installed, per_iteration
from .models import hidden_markov, hidden_markov_sequences


def paths(k, length, sequences, seed=0):
    """Sticky chains with means 1 apart: data (length, sequences), and a start."""
    rng = np.random.default_rng(seed)
    transition = np.full((k, k), 0.1 / k) + 0.9 * np.eye(k)
    below = transition.cumsum(1)
    states = np.zeros((length, sequences), int)
    states[0] = rng.integers(k, size=sequences)
    for t in range(1, length):
        states[t] = (rng.random(sequences)[:, None] > below[states[t - 1]]).sum(1)
    start = {
        "initial": np.full(k, 1 / k),
        "transition": np.full((k, k), 0.2 / k) + 0.8 * np.eye(k),
        "locs": 1.0 * np.arange(k) + 0.3 * rng.normal(size=k),
        "scales": np.full(k, 1.5),
    }
    return 1.0 * states + rng.normal(size=states.shape), start


def hmmlearn(y, start):
    """A fit of n steps, and its log-likelihoods."""
    from hmmlearn.hmm import GaussianHMM

    def fit(steps):
        options = {"covariance_type": "diag", "implementation": "scaling", "init_params": "", "covars_prior": 0.0}
        peer = GaussianHMM(len(start["initial"]), n_iter=steps, tol=-np.inf, **options)
        peer.startprob_, peer.transmat_ = start["initial"], start["transition"]
        peer.means_, peer.covars_ = start["locs"][:, None], start["scales"][:, None] ** 2
        peer.fit(y.T.reshape(-1, 1), [len(y)] * y.shape[1])
        return np.asarray(peer.monitor_.history)

    return fit


def dynamax(y, start):
    """The same; its M-step is a maximum a posteriori one, so that only the first log-likelihood is ours."""
    from dynamax.hidden_markov_model import DiagonalGaussianHMM

    model = DiagonalGaussianHMM(len(start["initial"]), 1)
    first, props = model.initialize(
        initial_probs=jnp.asarray(start["initial"]), transition_matrix=jnp.asarray(start["transition"]),
        emission_means=jnp.asarray(start["locs"])[:, None], emission_scale_diags=jnp.asarray(start["scales"])[:, None],
    )  # fmt: skip
    emissions = jnp.asarray(y.T[..., None])

    @jax.jit
    def step(params, state):
        found, log_likelihoods = jax.vmap(lambda e: model.e_step(params, e))(emissions)
        params, state = model.m_step(params, props, found, state)
        return params, state, log_likelihoods.sum()

    def fit(steps):
        params, state = first, model.initialize_m_step_state(first, props)
        history = []
        for _ in range(steps):
            params, state, log_likelihood = step(params, state)
            history.append(log_likelihood)
        return np.asarray(jax.block_until_ready(history))

    return fit


def _rows(name, k, length, sequences, targets):
    y, start = paths(k, length, sequences)
    model, data = (hidden_markov, y[:, 0]) if sequences == 1 else (hidden_markov_sequences, y)
    em = autoem.EM(model)

    def fit(steps):
        result = em.run(jax.random.PRNGKey(0), steps, data, k, init_params=start, tol=0.0, progress_bar=False)
        assert result.num_steps == steps, "converged before its time"
        return result

    found = fit(4).log_likelihood
    peers = {who: make(y, start) for who, make in (("hmmlearn", hmmlearn), ("dynamax", dynamax)) if installed(who)}
    for who, peer in peers.items():
        same = slice(None) if who == "hmmlearn" else slice(1)
        np.testing.assert_allclose(peer(4)[same], found[same], rtol=1e-6)
    times = in_turn(
        {"ours": lambda: per_iteration(fit, 5, 25)}
        | {who: lambda peer=peer: per_iteration(peer, 2, 6) for who, peer in peers.items()},
        rounds=3,
    )
    label = f"{1e3 * times['ours']:.1f} ms"
    return [
        Row(f"{name}, {who}", label, f"{1e3 * times[who]:.1f} ms", times[who] / times["ours"], target)
        if who in peers
        else Row.missing(f"{name}, {who}", label, target)
        for who, target in targets.items()
    ]


def one_sequence():
    """One long sequence."""
    rows = []
    for k, length in ((3, 100_000), (10, 100_000), (50, 10_000)):
        rows += _rows(f"Gaussian HMM K={k} T={length:,}", k, length, 1, {"hmmlearn": 3, "dynamax": 2})
    return rows


def many_sequences(k=10, length=200, sequences=500):
    """Many short ones."""
    name = f"Gaussian HMM K={k} {sequences} sequences of {length}"
    return _rows(name, k, length, sequences, {"hmmlearn": 10, "dynamax": 3})
