"""Random linear-Gaussian chains: eliminated level by level, they agree with the dense engine in every result.

The dense engine has its own oracles (test_gaussian.py); the certificate holds the chain to NumPyro's density as well.
"""

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
import pytest  # noqa: E402
from numpy.testing import assert_allclose  # noqa: E402
from numpyro.contrib.control_flow import scan  # noqa: E402
from numpyro.distributions import constraints  # noqa: E402

import autoem  # noqa: E402
from autoem import _levels  # noqa: E402
from autoem._uncertainty import certify  # noqa: E402

KINDS = ("level", "vector", "autoregression", "seasonal")


def chain(seed):
    """A model and its parameters: state and observation, series, missing data, lengths, inputs, sharing at random."""
    facts = np.random.default_rng(seed)
    kind = KINDS[seed % 4]
    length, series = int(facts.integers(5, 11)), int(facts.integers(1, 4))
    missing, ragged, moving, inputs, own = facts.random(5) < (0.4, 0.3, 0.3, 0.4, 0.5)
    y = facts.normal(size=(length, series))
    seen = facts.random((length, series)) < (0.7 if missing else 2.0)
    lasts = facts.integers(3, length + 1, size=series) if ragged else np.full(series, length)
    seen &= np.arange(length)[:, None] < lasts
    covariate, pace = facts.normal(size=length), facts.uniform(0.5, 1.5, size=length)
    params = {"a": facts.uniform(0.3, 0.9, size=2), "q": facts.uniform(0.5, 1.5), "r": facts.uniform(0.5, 1.5),
              "b": facts.normal(), "c": facts.normal(size=series if own else 1)}  # fmt: skip

    def model():
        a = numpyro.param("a", jnp.zeros(2))
        q = numpyro.param("q", 1.0, constraint=constraints.positive)
        r = numpyro.param("r", 1.0, constraint=constraints.positive)
        b, c = numpyro.param("b", 0.0), numpyro.param("c", jnp.zeros(len(params["c"])))

        def state(carry, now):
            """The state's site, what goes on, and what is seen of it."""
            x_t, pace_t = now
            drift = b * x_t if inputs else 0.0
            scale = q * pace_t if moving else q
            if kind == "vector":
                turn = jnp.array([[1.0, 0.2], [-0.3, 0.8]]) * a[0]
                loc = carry[0] @ turn.T + jnp.stack([drift, 0.0])
                z = numpyro.sample("z", dist.MultivariateNormal(loc, scale * jnp.array([[1.0, 0.3], [0.3, 0.7]])))
                return (z,), z @ jnp.array([1.0, 0.5])
            if kind == "level":
                z = numpyro.sample("z", dist.Normal(a[0] * carry[0] + drift, scale))
                return (z,), z
            if kind == "autoregression":
                z = numpyro.sample("z", dist.Normal(a[0] * carry[0] - a[1] * carry[1] + drift, scale))
                return (z, carry[0]), z
            z = numpyro.sample("z", dist.Normal(-carry[0] - carry[1] + drift, scale))
            return (z, carry[0]), z

        def step(carry, now):
            y_t, seen_t, *rest = now
            with numpyro.plate("series", series):
                carry, level = state(carry, rest)
                numpyro.sample("y", dist.Normal(level + c, r).mask(seen_t), obs=y_t)
            return carry, None

        shape = (series, 2) if kind == "vector" else (series,)
        start = (jnp.zeros(shape),) * (1 if kind in ("vector", "level") else 2)
        scan(step, start, (jnp.asarray(y), jnp.asarray(seen), jnp.asarray(covariate), jnp.asarray(pace)))

    return model, {n: jnp.asarray(v) for n, v in params.items()}


def results(model, params):
    """What both engines have to agree on."""
    em = autoem.EM(model)
    derivation = em.derive()
    state, value = em.update(em.init(jax.random.key(0), init_params=params))
    posterior = em.posterior(params)["z"]
    certify(model, derivation, params, (), {})
    score = jax.grad(lambda p: em.log_likelihood(p))(params)
    return derivation.latents["z"].method, value, state.params, (posterior.mean, posterior.variance), score


@pytest.mark.slow  # test_kalman.py has one of these chains beside dense algebra
@pytest.mark.parametrize("seed", range(60))
def test_level_by_level_as_densely(seed, monkeypatch):
    model, params = chain(seed)
    method, *dense = results(model, params)
    assert method == "gaussian"
    monkeypatch.setattr(_levels, "SMALLEST", 2)
    monkeypatch.setattr(_levels, "GAIN", 0)
    method, *levels = results(model, params)
    assert method == "kalman"
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-7, atol=1e-8), levels, dense)
