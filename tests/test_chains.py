"""Chains of discrete latents against brute force over all paths, with NumPyro's own densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chain_zoo import CASES
from numpy.testing import assert_allclose

import autoem
from tests.oracle import Oracle
from tests.test_random_models import check_ascent, check_e_step

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", CASES)
def test_against_all_paths(name):
    case = CASES[name]()
    maximize = [n for n in case.params if n in ("phi", "rho")] if name == "capture_recapture" else None
    if name == "autoregressive_tones":
        maximize = ["A", "p"]
    em = autoem.EM(case.model, maximize=maximize, check=True)
    params = {n: jnp.asarray(v, float) for n, v in case.params.items()}
    oracle = Oracle(case.model, case.args, params=params)
    derivation = em.derive(*case.args)
    check_e_step(em, oracle, params, case.args, {})
    assert derivation.exact
    assert {n for n, f in derivation.params.items() if f.method == "closed form"} >= set(case.closed)
    state = em.init(KEY, *case.args, init_params=params)
    step = jax.jit(lambda s: em.update(s, *case.args))
    check_ascent(em, oracle, state, step, 8)
    result = em.run(KEY, 5, *case.args, init_params=params, progress_bar=False)  # the certificate is run, too
    assert np.all(np.diff(result.objective) > -1e-9)
    assert_allclose(result.log_likelihood[0], oracle.log_likelihood(params), rtol=1e-9)
