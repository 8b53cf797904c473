"""Hidden representations: the model as written is the oracle, and the one with the latent written out."""

from functools import cache

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from numpy.testing import assert_allclose  # noqa: E402

import autoem  # noqa: E402
from tests.augmented import CASES  # noqa: E402
from tests.oracle import Oracle  # noqa: E402

KEY = jax.random.PRNGKey(0)


def every(step, names):
    """All names; only each `step`-th runs in `make test`, the rest in `make slow`."""
    return [pytest.param(n, marks=[pytest.mark.slow] if i % step else []) for i, n in enumerate(names)]


@cache
def derived(name):
    c = CASES[name]
    return autoem.EM(c.model, maximize=c.maximize, check=True)


@pytest.mark.parametrize("name", CASES)
def test_density_gradient_and_certificate(name):
    """Against NumPyro's own density of the model as written: nothing is added there."""
    c, em = CASES[name], derived(name)
    oracle = Oracle(c.model, c.args, params=c.params)
    derivation = em.derive(*c.args)
    assert set(c.auxiliaries) <= set(derivation.latents)
    assert derivation.closed_form == c.closed, str(derivation)
    assert f"{c.auxiliaries[0]}\n" in str(derivation)

    def log_likelihood(free):
        return em.log_likelihood(oracle.constrain(free), *c.args)

    free = oracle.unconstrain(c.params)
    value, gradient = jax.value_and_grad(log_likelihood)(free)
    assert_allclose(value, oracle.log_likelihood(), rtol=1e-10)
    expected = jax.grad(lambda f: oracle._differentiable(oracle.constrain(f))[0])(free)
    for parameter in c.params:
        assert_allclose(gradient[parameter], expected[parameter], rtol=1e-7, atol=1e-9, err_msg=parameter)
    result = em.run(KEY, 6, *c.args, init_params=c.params, progress_bar=False)
    objective = np.asarray(result.objective)
    assert_allclose(objective[0], oracle.objective(), rtol=1e-10)
    assert (np.diff(objective) >= -1e-9 * (1 + abs(objective[-1]))).all()
    assert oracle.objective(result.params) > objective[0]


@pytest.mark.parametrize("name", every(2, [n for n, c in CASES.items() if c.explicit]))
def test_update_is_that_of_the_model_with_the_latent_written_out(name):
    c, em = CASES[name], derived(name)
    explicit = autoem.EM(c.explicit, maximize=c.maximize)
    states = [e.update(e.init(KEY, *c.args, init_params=c.params), *c.args)[0] for e in (em, explicit)]
    for parameter in c.params:
        assert_allclose(states[0].params[parameter], states[1].params[parameter], rtol=1e-9, err_msg=parameter)
    ours, theirs = (e.posterior(c.params, *c.args) for e in (em, explicit))
    assert set(ours) == set(theirs)
    for site in ours:
        assert_allclose(ours[site].probs, theirs[site].probs, atol=1e-12, err_msg=site)
    ours, theirs = (e.derive(*c.args) for e in (em, explicit))
    assert {n: f.method for n, f in ours.params.items()} == {n: f.method for n, f in theirs.params.items()}
