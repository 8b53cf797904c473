"""Gaussian latents against dense algebra on NumPyro's own densities."""

import warnings

import gaussian_oracle
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from checks import check_evidence
from gaussian_zoo import CASES
from numpy.testing import assert_allclose
from numpyro.distributions import constraints

import autoem

KEY = jax.random.key(0)


QUICK = {"mixture_of_growth_curves"}
"""Each mechanism once; the others run in `make slow`."""


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_against_dense_algebra(name):
    case = CASES[name]()
    maximised = ("mu", "sigma") if name == "scored_twice_with_prior" else ()
    em = autoem.EM(case.model, maximize=list(maximised) or None, check=True)
    oracle, unravel = gaussian_oracle.evidence(case.model, case.args, maximised)
    params = {n: jnp.asarray(v, float) for n, v in case.params.items()}
    (value, (weights, means, covariances)), gradient = oracle(params)
    derivation = em.derive(*case.args)
    check_evidence(derivation.machine, params, value, gradient)
    posteriors_agree(em.posterior(params, *case.args), case, unravel, np.exp(weights - value), means, covariances)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = em.run(KEY, 6, *case.args, init_params=case.params, progress_bar=False)  # the certificate is run too
    assert np.all(np.diff(result.objective) > -1e-9 * abs(result.objective[-1]))
    assert result.objective[-1] > result.objective[0]
    assert derivation.exact


def posteriors_agree(posterior, case, unravel, probs, means, covariances):
    mean = np.einsum("k,ki->i", probs, means)
    variance = np.einsum("k,kii->i", probs, covariances) + np.einsum("k,ki->i", probs, (means - mean) ** 2)
    expected_mean, expected_variance = unravel(jnp.asarray(mean)), unravel(jnp.asarray(variance))
    for n in expected_mean:
        found_mean, found_variance = np.asarray(posterior[n].mean), np.asarray(posterior[n].variance)
        # An element that no density holds has no posterior: NaN.
        there = np.isfinite(found_mean)
        assert np.array_equal(there, case.held.get(n, np.ones(np.shape(there), bool)))
        assert_allclose(found_mean[there], np.asarray(expected_mean[n])[there], rtol=1e-6, atol=1e-8, err_msg=n)
        assert_allclose(found_variance[there], np.asarray(expected_variance[n])[there], rtol=1e-6, atol=1e-8, err_msg=n)


@pytest.mark.parametrize(
    "name",
    [
        "mixture_of_growth_curves",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("unbalanced_slopes", "missing_covariate")),
    ],
)
def test_draws_have_the_posterior_moments(name):
    case = CASES[name]()
    em = autoem.EM(case.model)
    params = {n: jnp.asarray(v, float) for n, v in case.params.items()}
    draws = em.sample_posterior(KEY, params, *case.args, num_samples=4000)
    for n, d in em.posterior(params, *case.args).items():
        if n == "k":
            continue
        mean, spread = np.asarray(d.mean), np.sqrt(np.asarray(d.variance))
        there = np.isfinite(mean)
        assert draws[n].shape == (4000, *np.shape(spread))
        assert_allclose(((np.mean(draws[n], 0) - mean) / spread)[there], 0.0, atol=0.1)
        assert_allclose((np.std(draws[n], 0) / spread)[there], 1.0, atol=0.1)


def switching(y):
    """Each element of the chain is Gaussian given all discrete states: too many to sum."""
    q = numpyro.param("q", 1.0, constraint=constraints.positive)
    state = numpyro.sample("z_0", dist.Normal(0.0, 1.0))
    with numpyro.plate("steps", 3):
        k = numpyro.sample("k", dist.Categorical(jnp.array([0.3, 0.7])))
    for t in range(3):
        state = numpyro.sample(f"z_{t + 1}", dist.Normal(state, q * (1.0 + k[t])))
        numpyro.sample(f"y_{t}", dist.Normal(state, 1.0), obs=y[t])


def scaled(y):
    mu = numpyro.param("mu", 0.0)
    with numpyro.plate("rows", len(y), subsample_size=len(y)), numpyro.handlers.scale(scale=2.0):
        z = numpyro.sample("z", dist.Normal(mu, 1.0))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


def test_a_chain_that_switches_is_sampled_with_the_reason():
    """The sum over all paths is not tractable, so the states are drawn: never called exact."""
    derivation = autoem.EM(switching).derive(np.array([1.0, 2.0, 0.0]))
    assert not derivation.exact
    for name in ("z_0", "z_1", "z_2", "z_3"):
        assert derivation.latents[name].method == "monte carlo"
        assert "several elements of 'k'" in derivation.latents[name].declined[0]


def test_a_scaled_gaussian_latent_is_refused():
    with pytest.raises(NotImplementedError, match="raised to a power"):
        autoem.EM(scaled).derive(np.array([1.0, 2.0, 0.0]))


def test_traced_data_are_refused():
    case = CASES["one_way"]()
    em = autoem.EM(case.model)
    state = em.init(KEY, *case.args)
    with pytest.raises(NotImplementedError, match="traced"):
        jax.jit(em.update)(state, *case.args)
    assert np.isfinite(jax.jit(lambda s: em.update(s, *case.args))(state)[1])


def test_gaussians_under_other_names():
    """What they are is seen in any case; the rest of it is in the zoo."""
    case = CASES["under_other_names"]()
    em, params = autoem.EM(case.model), {n: jnp.asarray(v, float) for n, v in case.params.items()}
    assert em.derive(*case.args).exact
    truth = gaussian_oracle.evidence(case.model, case.args)[0](params)[0][0]
    assert_allclose(em.log_likelihood(params, *case.args), truth, rtol=1e-10)


def test_other_transforms_leave_the_gaussian_family():
    """A transform that is affine on half of the line only, and a base that is no Gaussian."""
    half = dist.transforms.AffineTransform(0.0, 2.0, domain=constraints.positive)
    for fn in (dist.TransformedDistribution(dist.HalfNormal(1.0), half),
               dist.TransformedDistribution(dist.Normal(0.0, 1.0), dist.transforms.ExpTransform())):  # fmt: skip

        def model(y, fn=fn):
            s = numpyro.param("s", 1.0, constraint=constraints.positive)
            z = numpyro.sample("z", fn)
            numpyro.sample("y", dist.Normal(z, s), obs=y)

        assert autoem.EM(model).derive(np.array([1.0, 2.0])).latents["z"].method != "gaussian"


def test_elements_of_one_event_that_are_independent():
    """Each element has its own variance, and no covariance: they are in different cells."""
    scales, index = jnp.asarray([1.0, 2.0, 3.0]), jnp.asarray([0, 0, 1, 2, 2, 2])

    def model():
        mu = numpyro.param("mu", jnp.asarray(0.2))
        u = numpyro.sample("u", dist.Normal(mu, scales).to_event(1))
        numpyro.sample("y", dist.Normal(u[index], 1.0), obs=jnp.arange(6.0))

    posterior = autoem.EM(model).posterior({"mu": jnp.asarray(0.2)})["u"]
    variance = 1 / (1 / scales**2 + jnp.asarray([2, 1, 3]))
    assert_allclose(posterior.covariance_matrix, jnp.diag(variance), rtol=1e-10)
    assert_allclose(posterior.mean, variance * (0.2 / scales**2 + jnp.asarray([1.0, 2.0, 12.0])), rtol=1e-10)


def test_elements_of_one_event_with_a_state_each():
    """Marginal posteriors, element by element: every one a mixture with its own weights."""
    y = np.asarray([-2.0, 0.1, 2.5])
    locs = np.asarray([-1.0, 1.0])

    def model():
        weights = numpyro.param("weights", jnp.asarray([0.4, 0.6]), constraint=constraints.simplex)
        z = numpyro.sample("z", dist.Categorical(weights).expand([3]))
        u = numpyro.sample("u", dist.Normal(jnp.asarray(locs)[z], 1.0).to_event(1))
        numpyro.sample("y", dist.Normal(u, 0.5).to_event(1), obs=jnp.asarray(y))

    posterior = autoem.EM(model).posterior({"weights": jnp.asarray([0.4, 0.6])})["u"]
    density = np.asarray([0.4, 0.6]) * np.exp(-((y[:, None] - locs) ** 2) / (2 * 1.25))
    weights = density / density.sum(1, keepdims=True)
    means = (locs + 4 * y[:, None]) / 5
    assert_allclose(posterior.mean, (weights * means).sum(1), rtol=1e-8)


def repeated(x, covariate, weight):
    """Two latents per copy, one of them shared with another site; a covariate that differs between copies."""
    n, d = x.shape
    mean, loadings = numpyro.param("mean", jnp.zeros(d)), numpyro.param("loadings", jnp.ones((d, 2)))
    slope = numpyro.param("slope", 0.0)
    scales = numpyro.param("scales", jnp.ones(d), constraint=constraints.positive)
    with numpyro.plate("copies", n):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        u = numpyro.sample("u", dist.Normal(z[:, 0] + slope * covariate, 0.5))
        with numpyro.handlers.scale(scale=weight):
            numpyro.sample("x", dist.Normal(mean + z @ loadings.T + u[:, None], scales).to_event(1), obs=x)


REPEATED = {"mean": jnp.array([1.0, -2.0, 0.5]), "slope": jnp.asarray(0.7), "scales": jnp.array([0.5, 1.0, 2.0]),
            "loadings": jnp.array([[1.0, 0.2], [-0.5, 0.3], [0.8, -1.1]])}  # fmt: skip


def test_independent_copies_are_summed_up_before_the_block_is_laid_out():
    rng = np.random.default_rng(0)
    x, covariate = 1e3 + rng.normal(size=(60, 3)), 5 + rng.normal(size=60)
    em, args = autoem.EM(repeated), (x, covariate, 1.0)
    derivation = em.derive(*args)
    assert "over 60 independent copies" in str(derivation)
    loadings = np.concatenate([np.asarray(REPEATED["loadings"]), np.ones((3, 1))], 1)
    prior = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.25]])
    covariance = loadings @ prior @ loadings.T + np.diag(np.asarray(REPEATED["scales"]) ** 2)
    mean = np.asarray(REPEATED["mean"]) + 0.7 * covariate[:, None]
    expected = sum(dist.MultivariateNormal(m, covariance).log_prob(row) for m, row in zip(mean, x, strict=True))
    assert_allclose(em.log_likelihood(REPEATED, *args), expected, rtol=1e-12)
    (_, fast), (_, full) = (
        jax.jit(lambda p, m=m: m.e_step(p, m.prepare()))(REPEATED) for m in (derivation.machine, derivation.detailed)
    )
    for found, plain in zip(fast, full, strict=True):
        assert_allclose(found, plain, rtol=1e-9, atol=1e-9 * np.max(np.abs(plain)))
    gain = prior @ loadings.T @ np.linalg.inv(covariance)
    own = np.stack([np.zeros(60), np.zeros(60), 0.7 * covariate], 1) + (x - mean) @ gain.T
    posterior = em.posterior(REPEATED, *args)
    assert_allclose(posterior["z"].mean, own[:, :2], rtol=1e-8, atol=1e-10)
    assert_allclose(posterior["u"].mean, own[:, 2], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("weight", [np.where(np.arange(60) % 2, 1.0, 2.0), np.asarray(2.0)])
def test_copies_must_have_the_same_weight(weight):
    rng = np.random.default_rng(0)
    x, covariate = rng.normal(size=(60, 3)), rng.normal(size=60)
    em, args = autoem.EM(repeated), (x, covariate, weight)
    derivation = em.derive(*args)
    assert ("independent copies" in str(derivation)) == (np.ndim(weight) == 0)
    values = [jax.jit(lambda p, m=m: m.log_likelihood(p))(REPEATED) for m in (derivation.machine, derivation.detailed)]
    assert_allclose(*values, rtol=1e-12)
