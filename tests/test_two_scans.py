"""A second scan that goes on where the first one ended."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints

import autoem

MOVE, LOCS = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([-0.5, 0.5])


def switching(first, second):
    move = numpyro.param("move", MOVE, constraint=constraints.simplex)

    def early(z, y):
        z = numpyro.sample("z", dist.Categorical(move[z]))
        numpyro.sample("y", dist.Normal(jnp.asarray(LOCS)[z], 1.0), obs=y)
        return z, None

    def late(z, y):
        z = numpyro.sample("z_late", dist.Categorical(move[z]))
        numpyro.sample("y_late", dist.Normal(jnp.asarray(LOCS)[z] + 1.0, 1.0), obs=y)
        return z, None

    scan(late, scan(early, 0, first)[0], second)


def test_two_short_scans_of_discrete_latents():
    y, alpha = np.random.default_rng(0).normal(size=6), np.array([1.0, 0.0])
    for t, value in enumerate(y):
        alpha = alpha @ MOVE * np.exp(-((value - LOCS - (t >= 3)) ** 2) / 2) / np.sqrt(2 * np.pi)
    found = autoem.EM(switching).log_likelihood({"move": MOVE}, y[:3], y[3:])
    assert_allclose(found, np.log(alpha.sum()), rtol=1e-12)


def test_two_long_ones_are_refused():
    """Joint values of thirty steps would be summed: 25 GB."""
    with pytest.raises(NotImplementedError, match="write them as one scan"):
        autoem.EM(switching).derive(np.zeros(30), np.zeros(30))
