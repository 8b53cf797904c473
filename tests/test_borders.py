"""Crossed effects: the blocks that meet each other through a border only are eliminated first."""

import gaussian_oracle
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import test_random_gaussian
from checks import check_evidence
from numpy.testing import assert_allclose
from numpyro.distributions import constraints
from scipy.sparse import csr_matrix, diags
from scipy.stats import multivariate_normal

import autoem
from autoem import _borders
from autoem._cells import find_cells

KEY = jax.random.key(0)
POSITIVE = constraints.positive


@pytest.fixture
def eager(monkeypatch):
    """A border is taken wherever there is one."""
    monkeypatch.setattr(_borders, "SMALLEST", 4)
    monkeypatch.setattr(_borders, "_GAIN", 0)


def slopes(subject, item, x, y):
    """Two outcomes; subjects have an intercept and a slope, items an intercept."""
    beta = numpyro.param("beta", jnp.zeros(2))
    root = numpyro.param("root", jnp.eye(2), constraint=constraints.lower_cholesky)
    spread = numpyro.param("spread", jnp.ones(2), constraint=POSITIVE)
    sigma = numpyro.param("sigma", 1.0, constraint=POSITIVE)
    with numpyro.plate("outcomes", 2, dim=-1):
        with numpyro.plate("subjects", 6, dim=-2):
            u = numpyro.sample("u", dist.MultivariateNormal(jnp.zeros(2), scale_tril=root))
        with numpyro.plate("items", 3, dim=-2):
            v = numpyro.sample("v", dist.Normal(0, spread))
        with numpyro.plate("rows", len(y), dim=-2):
            line = beta[0] + u[subject, :, 0] + (beta[1] + u[subject, :, 1]) * x[:, None]
            numpyro.sample("y", dist.Normal(line + v[item], sigma), obs=y)


def outcomes():
    rng = np.random.default_rng(0)
    subject, item = np.arange(30) % 6, rng.integers(0, 3, 30)
    params = {"beta": jnp.array([0.5, -0.3]), "root": jnp.array([[1.1, 0.0], [0.3, 0.6]]),
              "spread": jnp.array([0.7, 1.2]), "sigma": jnp.asarray(0.8)}  # fmt: skip
    return (subject, item, rng.normal(size=30), rng.normal(1, 2, (30, 2))), params


def test_blocks_are_eliminated_before_their_border(eager):
    args, params = outcomes()
    em = autoem.EM(slopes)
    derivation = em.derive(*args)
    assert "6 blocks of at most 2 elements meet each other through 3 others only" in str(derivation)
    oracle, unravel = gaussian_oracle.evidence(slopes, args)
    (value, (_, (mean,), (covariance,))), gradient = oracle(params)
    check_evidence(derivation.machine, params, value, gradient)
    posterior, means = em.posterior(params, *args), unravel(mean)
    variances = unravel(jnp.diagonal(covariance))
    for name in ("u", "v"):
        assert_allclose(posterior[name].mean, means[name], rtol=1e-9, atol=1e-10)
        assert_allclose(posterior[name].variance, variances[name], rtol=1e-9)


def test_rows_that_meet_fewer_elements_than_others(eager):
    """A row without an item has a place that meets nothing: it takes no part in any statistic."""
    rng = np.random.default_rng(6)
    subject, item = np.eye(12)[rng.integers(0, 12, 60)], rng.integers(0, 3, 60)
    has_item = np.where(rng.uniform(size=60) < 0.6, 1.0, 0.0)
    args = (subject, item, has_item, rng.normal(size=60))

    def model(subject, item, has_item, y):
        spread = numpyro.param("spread", jnp.ones(2), constraint=POSITIVE)
        sigma = numpyro.param("sigma", 1.0, constraint=POSITIVE)
        with numpyro.plate("subjects", 12):
            u = numpyro.sample("u", dist.Normal(0, spread[0]))
        with numpyro.plate("items", 3):
            v = numpyro.sample("v", dist.Normal(0, spread[1]))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(subject @ u + has_item * v[item], sigma), obs=y)

    params = {"spread": jnp.array([0.7, 1.2]), "sigma": jnp.asarray(0.8)}
    derivation = autoem.EM(model).derive(*args)
    assert "meet each other through 3 others only" in str(derivation)
    (value, _), gradient = gaussian_oracle.evidence(model, args)[0](params)
    check_evidence(derivation.machine, params, value, gradient)


@pytest.mark.slow
def test_draws_and_fits_with_a_border(eager):
    args, params = outcomes()
    em = autoem.EM(slopes, check=True)
    (_, (_, (mean,), (covariance,))), _ = gaussian_oracle.evidence(slopes, args)[0](params)
    draws = em.sample_posterior(KEY, params, *args, num_samples=4_000)
    flat = np.concatenate([np.reshape(draws[n], (4_000, -1)) for n in ("u", "v")], 1)
    sd = np.sqrt(np.diagonal(covariance))
    assert np.max(np.abs(flat.mean(0) - mean) / sd) < 5 / np.sqrt(4_000)
    assert np.max(np.abs(np.cov(flat.T) - covariance) / np.outer(sd, sd)) < 6 / np.sqrt(4_000)
    result = em.run(KEY, 3, *args, progress_bar=False)  # the certificate is run too
    assert np.all(np.diff(result.objective) > 0)


@pytest.mark.parametrize("by_latent", [True, False])
def test_no_row_meets_two_blocks(by_latent):
    rng = np.random.default_rng(1)
    rows = np.stack([rng.integers(0, 400, 1_200), 400 + rng.integers(0, 9, 1_200)], 1)
    order = rng.permutation(409)
    cells = find_cells([order[rows], np.arange(409)[:, None]], 409)
    latents = np.zeros(409, int)
    latents[order[400:]] = int(by_latent)
    found = _borders.find_borders([order[rows]], cells, latents, np.ones(len(cells.size), bool))
    large = cells.size.argmax()
    blocks, width, few = found.shape[large]
    assert (width, few) == (1, 9) and blocks == cells.size[large] - 9
    slot = found.slot[order[rows[cells.cell[order[rows[:, 0]]] == large]]]
    assert np.all(slot[:, 0] < blocks) and np.all(slot[:, 1] >= blocks)
    assert len(np.unique(found.slot[cells.cell == large])) == cells.size[large]


def test_a_dense_graph_stays_dense():
    rows = np.random.default_rng(2).integers(0, 300, (9_000, 2))
    cells = find_cells([rows], 300)
    found = _borders.find_borders([rows], cells, np.zeros(300, int), np.ones(len(cells.size), bool))
    assert not found.found.any()


def pairs(group, y):
    mean = numpyro.param("mean", jnp.zeros(2))
    cov = numpyro.param("cov", jnp.eye(2), constraint=constraints.positive_definite)
    scale = numpyro.param("scale", 1.0, constraint=POSITIVE)
    shared = numpyro.sample("shared", dist.Normal(0, 1))
    with numpyro.plate("groups", 40):
        u = numpyro.sample("u", dist.MultivariateNormal(mean, cov))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(u[group].sum(-1) + shared, scale), obs=y)


def test_a_large_cell_whose_events_have_a_full_covariance_and_a_mean():
    """Each coordinate of an event meets an element of its own: precision between them belongs to the other's."""
    rng = np.random.default_rng(4)
    group = np.arange(80) % 40
    args = (group, rng.normal(1, 2, 80))
    params = {"mean": np.array([0.7, -1.1]), "cov": np.array([[1.0, 0.4], [0.4, 0.6]]), "scale": 0.8}
    mean = np.full(80, params["mean"].sum())
    covariance = params["cov"].sum() * (group[:, None] == group) + 1 + 0.64 * np.eye(80)
    found = autoem.EM(pairs).log_likelihood({n: jnp.asarray(v) for n, v in params.items()}, *args)
    assert_allclose(found, multivariate_normal(mean, covariance).logpdf(args[1]), rtol=1e-10)


def crossed(first, second, y, sizes):
    mu = numpyro.param("mu", 0.0)
    scales = numpyro.param("scales", jnp.ones(3), constraint=POSITIVE)
    a = numpyro.sample("a", dist.Normal(0, scales[0]).expand([sizes[0]]))
    b = numpyro.sample("b", dist.Normal(0, scales[1]).expand([sizes[1]]))
    numpyro.sample("y", dist.Normal(mu + a[first] + b[second], scales[2]), obs=y)


def test_twenty_thousand_elements_crossed_with_fifty():
    """The oracle is Woodbury's identity, with SciPy's sparse matrices for the diagonal block."""
    rng = np.random.default_rng(3)
    sizes, n = (20_000, 50), 60_000
    first, second = rng.integers(0, sizes[0], n), rng.integers(0, sizes[1], n)
    y = 2 + rng.normal(size=sizes[0])[first] + rng.normal(size=sizes[1])[second] + rng.normal(size=n)
    params = {"mu": jnp.asarray(1.7), "scales": jnp.array([0.8, 0.5, 1.1])}
    z = [csr_matrix((np.ones(n), (np.arange(n), g)), (n, k)) for g, k in zip((first, second), sizes, strict=True)]
    left, noise = y - 1.7, 1.1**2
    inner = 0.8**-2 + np.asarray(z[0].sum(0)).reshape(-1) / noise
    across = (z[0].T @ z[1]).toarray() / noise
    schur = 0.5**-2 * np.eye(50) + (z[1].T @ z[1]).toarray() / noise - across.T @ (diags(1 / inner) @ across)
    right = [m.T @ left / noise for m in z]
    rest = right[1] - across.T @ (right[0] / inner)
    log_det = n * np.log(noise) + np.sum(np.log(inner)) + np.linalg.slogdet(schur)[1]
    log_det += 2 * sizes[0] * np.log(0.8) + 2 * sizes[1] * np.log(0.5)
    quadratic = left @ left / noise - np.sum(right[0] ** 2 / inner) - rest @ np.linalg.solve(schur, rest)
    em = autoem.EM(crossed)
    found = em.log_likelihood(params, first, second, y, sizes)
    assert_allclose(found, -(quadratic + log_det + n * np.log(2 * np.pi)) / 2, rtol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_random_models_with_borders_agree_with_dense_algebra(eager, seed):
    test_random_gaussian.check(seed, False)
