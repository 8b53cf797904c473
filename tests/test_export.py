"""Every exact engine lowers for accelerators that are not here: a whole EM step, through `jax.export`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autoem
from autoem._evidence._chain_blocks import blocks
from benchmarks import models

PLATFORMS = ("cpu", "cuda", "tpu")


def _data(*shape):
    return np.random.default_rng(0).normal(size=shape)


CASES = {
    "enumeration": (models.full_mixture, (_data(40, 2), 2)),
    "chain": (models.hidden_markov, (_data(30), 3)),
    "chain in blocks": (models.hidden_markov, (_data(7_000), 3)),
    "sequences": (models.hidden_markov_sequences, (_data(20, 5), 3)),
    "kalman": (models.state_space, (_data(300, 3), 2)),
    "conjugate": (models.gamma_poisson, (np.arange(40) % 5, np.ones(40), np.arange(40) % 7)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_an_em_step_lowers_for_every_platform(name):
    model, args = CASES[name]
    em = autoem.EM(model)
    machine = em.derive(*args).machine
    if name == "chain in blocks":
        assert blocks(machine.evidences[0].shape) is not None
    params = {n: jnp.asarray(v) for n, v in em.init(jax.random.PRNGKey(0), *args).params.items()}

    def step(params):
        value, statistics = machine.e_step(params, machine.prepare())
        return value, machine.m_step(params, statistics)[0]

    exported = jax.export.export(jax.jit(step), platforms=PLATFORMS)(params)
    assert exported.platforms == PLATFORMS
    found, expected = exported.call(params), jax.jit(step)(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), found, expected)
