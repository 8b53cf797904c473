"""Unknown means and precisions together, collapsed: against quadrature over the precisions of dense Gaussians."""

import gaussian_oracle
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from checks import check_evidence
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from scipy import special, stats

import autoem
from autoem._uncertainty import certify

KEY = jax.random.key(0)
GROUP = np.array([0, 1, 0, 0, 1, 1, 1])
REALS = np.array([0.3, -1.2, 0.8, 2.0, -0.4, 0.1, 1.7])
PLANE = np.stack([REALS, REALS[::-1] + 0.5], -1)
SLOPES = np.stack([np.ones(7), np.linspace(-1, 1, 7)], -1)


def positive(name, value=1.0):
    return numpyro.param(name, value, constraint=constraints.positive)


def one_group():
    """Every hyperparameter maximised; the precision has a child of another kind besides."""
    t = numpyro.sample("t", dist.Gamma(positive("a"), positive("b")))
    mu = numpyro.sample("mu", dist.Normal(numpyro.param("m", 0.0), jnp.sqrt(1 / (positive("k") * t))))
    with numpyro.plate("rows", 7):
        numpyro.sample("x", dist.Normal(mu, 1 / jnp.sqrt(t)), obs=REALS)
        numpyro.sample("y", dist.Poisson(jnp.arange(1.0, 8.0) * t), obs=np.array([0, 3, 1, 4, 2, 7, 5]))


def groups():
    """By gather, with known weights, a mask and a power; the factor of the noise is a parameter."""
    sigma = positive("sigma")
    with numpyro.plate("groups", 2):
        t = numpyro.sample("t", dist.Gamma(positive("a"), 1.3))
        mu = numpyro.sample("mu", dist.Normal(0.4, t**-0.5 * positive("s")))
    with numpyro.plate("rows", 7), handlers.mask(mask=np.arange(7) != 2), handlers.scale(scale=1.5):
        numpyro.sample("x", dist.Normal(mu[GROUP], sigma * jnp.arange(1.0, 8.0) / jnp.sqrt(t[GROUP])), obs=REALS)


def regression():
    """A Normal-inverse-Gamma: coefficients whose covariance is in proportion to the variance, which y sees alone."""
    v = numpyro.sample("v", dist.InverseGamma(positive("a"), positive("b")))
    prior = jnp.array([[1.0, 0.3], [0.3, 0.7]]) * v
    beta = numpyro.sample("beta", dist.MultivariateNormal(jnp.zeros(2), covariance_matrix=prior))
    with numpyro.plate("rows", 7):
        numpyro.sample("x", dist.Normal(SLOPES @ beta, jnp.sqrt(v)), obs=REALS)
        numpyro.sample("y", dist.Exponential(1 / v), obs=np.abs(REALS))


def factors():
    """Factor analysis: one precision for all rows and for the scores."""
    w = numpyro.param("w", jnp.array([[1.0, 0.2], [-0.5, 0.8]]))
    t = numpyro.sample("t", dist.Exponential(positive("b")))
    with numpyro.plate("rows", 7):
        z = numpyro.sample("z", dist.Normal(0.0, 1 / jnp.sqrt(t)).expand([2]).to_event(1))
        numpyro.sample("x", dist.Normal(z @ w.T, 0.7 / jnp.sqrt(t)).to_event(1), obs=PLANE)


def level():
    """A local level, all of whose variances are in proportion to one: the concentrated likelihood of state space."""
    v = numpyro.sample("v", dist.InverseGamma(2.0, positive("b")))
    q = positive("q")

    def step(before, x):
        z = numpyro.sample("z", dist.Normal(before, jnp.sqrt(q * v)))
        numpyro.sample("x", dist.Normal(z, jnp.sqrt(v)), obs=x)
        return z, None

    scan(step, numpyro.param("start", 0.0), jnp.asarray(np.concatenate([REALS, REALS[::-1]])))


def vectors():
    """Vectors with a known correlation, by a matrix of each kind."""
    with numpyro.plate("groups", 2):
        t = numpyro.sample("t", dist.Gamma(positive("a"), 1.0))
        root = jnp.array([[1.0, 0.0], [0.4, 0.9]]) / jnp.sqrt(t)[:, None, None]
        mu = numpyro.sample("mu", dist.MultivariateNormal(numpyro.param("m", jnp.zeros(2)), scale_tril=root))
    shape = numpyro.param("shape", jnp.eye(2), constraint=constraints.positive_definite)
    with numpyro.plate("rows", 7):
        matrix = shape * t[GROUP][:, None, None]
        numpyro.sample("x", dist.MultivariateNormal(mu[GROUP], precision_matrix=matrix), obs=PLANE)


CASES = {
    one_group: {"a": 1.4, "b": 0.8, "m": 0.3, "k": 0.6},
    groups: {"a": 1.7, "s": 0.8, "sigma": 0.4},
    regression: {"a": 2.2, "b": 1.3},
    factors: {"w": [[1.0, 0.2], [-0.5, 0.8]], "b": 0.7},
    level: {"b": 1.2, "q": 0.3, "start": 0.2},
    vectors: {"a": 2.1, "m": [0.2, -0.3], "shape": [[1.3, 0.4], [0.4, 0.8]]},
}


def oracle(model):
    """params -> (log-likelihood, posterior moments), by the trapezoidal rule in the logarithm of every precision."""
    log_joint, latents = gaussian_oracle.joint(model, ())
    scale = next(n for n in latents if n in "tv")
    size = int(np.size(latents[scale]["value"]))
    blank, unravel = ravel_pytree({n: jnp.zeros_like(s["value"]) for n, s in latents.items() if n != scale})
    step = 0.1
    line = np.arange(-9, 9, step)
    points = np.stack([g.ravel() for g in np.meshgrid(*[line] * size)], -1).reshape(-1, *np.shape(
        latents[scale]["value"]))  # fmt: skip

    def evaluate(params):
        def at(logs):
            value, mean, covariance = gaussian_oracle.log_evidence(log_joint, blank, unravel, {})(
                {**params, scale: jnp.exp(logs)}
            )
            return value + jnp.sum(logs) + size * np.log(step), mean, jnp.diagonal(covariance)

        values, means, variances = jax.lax.map(at, points, batch_size=100)
        probs = jax.nn.softmax(values)
        mean = probs @ means
        variance = probs @ (variances + means**2) - mean**2
        first = jnp.tensordot(probs, jnp.exp(points), 1)
        return jax.nn.logsumexp(values), (unravel(mean) | {scale: first}, unravel(variance))

    return jax.jit(jax.value_and_grad(evaluate, has_aux=True))


QUICK = {one_group}


@pytest.mark.parametrize(
    "model", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in CASES], ids=lambda m: m.__name__
)
def test_against_quadrature(model):
    params = {n: jnp.asarray(v, float) for n, v in CASES[model].items()}
    (value, (means, variances)), gradient = oracle(model)(params)
    em = autoem.EM(model)
    derivation = em.derive()
    assert derivation.exact
    assert {f.method for f in derivation.latents.values()} <= {"conjugate", "gaussian"}
    check_evidence(derivation.machine, params, value, gradient)
    posterior = em.posterior(params)
    for n, mean in means.items():
        assert_allclose(posterior[n].mean, mean, rtol=1e-6, atol=1e-8, err_msg=n)
        if n in variances:
            assert_allclose(posterior[n].variance, variances[n], rtol=1e-6, err_msg=n)
    certify(model, derivation, params, (), {}, draws=3)
    result = autoem.EM(model, check=True).run(KEY, 6, init_params=CASES[model], progress_bar=False)
    assert np.all(np.diff(result.objective) > -1e-9 * abs(result.objective[-1]))
    assert result.objective[-1] > result.objective[0]


def by_group(k=0.7):
    with numpyro.plate("groups", 2):
        t = numpyro.sample("t", dist.Gamma(positive("a"), positive("b")))
        mu = numpyro.sample("mu", dist.Normal(numpyro.param("m", 0.0), 1 / jnp.sqrt(k * t)))
    with numpyro.plate("rows", 7):
        numpyro.sample("x", dist.Normal(mu[GROUP], 1 / jnp.sqrt(t[GROUP])), obs=REALS)


def test_normal_gamma_in_closed_form():
    """Bernardo and Smith (1994), A.2: the precision is a Gamma, the mean a Student-t, the data a product of ratios."""
    a, b, m, k = 1.8, 0.9, 0.25, 0.7
    em = autoem.EM(by_group)
    params = {"a": jnp.asarray(a), "b": jnp.asarray(b), "m": jnp.asarray(m)}
    value, posterior = 0.0, em.posterior(params)
    for g in range(2):
        x = REALS[g == GROUP]
        n, mean = len(x), x.mean()
        rate = b + 0.5 * ((x - mean) ** 2).sum() + k * n * (mean - m) ** 2 / (2 * (k + n))
        value += special.gammaln(a + n / 2) - special.gammaln(a) + a * np.log(b) - (a + n / 2) * np.log(rate)
        value += 0.5 * np.log(k / (k + n)) - n / 2 * np.log(2 * np.pi)
        assert_allclose(posterior["t"].concentration[g], a + n / 2)
        assert_allclose(posterior["t"].rate[g], rate)
        found = posterior["mu"]
        assert isinstance(found, dist.StudentT)
        assert_allclose(found.df[g], 2 * a + n)
        assert_allclose(found.loc[g], (k * m + n * mean) / (k + n))
        assert_allclose(found.scale[g], np.sqrt(rate / (a + n / 2) / (k + n)))
    assert_allclose(em.log_likelihood(params), value, rtol=1e-12)
    draws = em.sample_posterior(KEY, params, num_samples=4000)
    for n in ("t", "mu"):
        assert_allclose(draws[n].mean(0), posterior[n].mean, atol=5 * np.sqrt(posterior[n].variance / 4000).max())
    mode = em.decode(params)
    assert_allclose(mode["mu"], posterior["mu"].loc)
    assert_allclose(mode["t"], (posterior["t"].concentration - 0.5) / posterior["t"].rate)
    sizes = np.bincount(GROUP)
    observed = sum(stats.multivariate_t.logpdf(REALS[g == GROUP], np.full(n, m), (np.eye(n) + 1 / k) * b / a, 2 * a)
                   for g, n in enumerate(sizes))  # fmt: skip
    assert_allclose(value, observed, rtol=1e-12)


# -- not jointly conjugate ---------------------------------------------------------------------------------------------


def gamma(size=2, name="t"):
    with numpyro.plate("groups", size):
        return numpyro.sample(name, dist.Gamma(positive("a"), 1.0))


def normal(scale, loc=0.0, name="mu"):
    with numpyro.plate("groups", 2):
        return numpyro.sample(name, dist.Normal(loc, scale))


def data(loc, scale):
    with numpyro.plate("rows", 7):
        numpyro.sample("x", dist.Normal(loc, scale), obs=REALS)


def prior_without_the_precision():
    t = gamma()
    data(normal(1.0)[GROUP], 1 / jnp.sqrt(t[GROUP]))


def prior_of_another_power():
    t = gamma()
    data(normal(1 / t)[GROUP], 1 / jnp.sqrt(t[GROUP]))


def precision_in_the_prior_only():
    t = gamma()
    data(normal(1 / jnp.sqrt(t))[GROUP], 1.0)


def other_group():
    """The mean of one group, the precision of another."""
    t = gamma()
    data(normal(1 / jnp.sqrt(t))[GROUP], 1 / jnp.sqrt(t[1 - GROUP]))


def coupled_groups():
    """Means of all groups meet in one row, whose precision is one group's."""
    t = gamma()
    mu = normal(1 / jnp.sqrt(t))
    data(mu[0] + mu[1], 1 / jnp.sqrt(t[GROUP]))


def shifted_by_the_precision():
    t = gamma()
    data(normal(1 / jnp.sqrt(t))[GROUP] + t[GROUP], 1 / jnp.sqrt(t[GROUP]))


def not_centred():
    t = gamma()
    mu = normal(1.0) / jnp.sqrt(t)
    data(mu[GROUP], 1 / jnp.sqrt(t[GROUP]))


def two_precisions():
    t, s = gamma(), gamma(name="s")
    data(normal(1 / jnp.sqrt(t))[GROUP], 1 / jnp.sqrt(t[GROUP] * s[GROUP]))


def variance_of_a_gamma():
    t = gamma()
    data(normal(jnp.sqrt(t))[GROUP], jnp.sqrt(t[GROUP]))


def one_number_of_a_matrix():
    t = gamma()
    mu = normal(1 / jnp.sqrt(t))
    root = jnp.eye(2).at[0, 0].set(1 / jnp.sqrt(t[0]))
    numpyro.sample("x", dist.MultivariateNormal(mu, scale_tril=root), obs=REALS[:2])


def two_numbers_of_a_matrix():
    t = gamma()
    mu = normal(1 / jnp.sqrt(t))
    numpyro.sample("x", dist.MultivariateNormal(mu, scale_tril=jnp.eye(2) / jnp.sqrt(t)[:, None]), obs=REALS[:2])


def a_second_child_of_the_mean():
    t = gamma()
    mu = normal(1 / jnp.sqrt(t))
    data(mu[GROUP], 1 / jnp.sqrt(t[GROUP]))
    numpyro.sample("y", dist.Normal(mu[0], 1.0), obs=0.4)


def masked_precision():
    with handlers.mask(mask=np.array([True, False])):
        t = gamma()
    data(normal(1 / jnp.sqrt(t))[GROUP], 1 / jnp.sqrt(t[GROUP]))


def a_wishart_for_both():
    """A Normal-Wishart: the matrix is no number times a known one."""
    matrix = numpyro.sample("t", dist.Wishart(4.0 + positive("a"), scale_matrix=jnp.eye(2)))
    mu = numpyro.sample("mu", dist.MultivariateNormal(jnp.zeros(2), precision_matrix=matrix))
    with numpyro.plate("rows", 7):
        numpyro.sample("x", dist.MultivariateNormal(mu, precision_matrix=matrix), obs=PLANE)


NOT_CONJUGATE = [
    a_wishart_for_both,
    prior_without_the_precision,
    prior_of_another_power,
    precision_in_the_prior_only,
    other_group,
    coupled_groups,
    shifted_by_the_precision,
    not_centred,
    two_precisions,
    variance_of_a_gamma,
    one_number_of_a_matrix,
    two_numbers_of_a_matrix,
    a_second_child_of_the_mean,
    masked_precision,
]


@pytest.mark.parametrize(
    "model",
    [m if m in (coupled_groups, other_group) else pytest.param(m, marks=pytest.mark.slow) for m in NOT_CONJUGATE],
    ids=lambda m: m.__name__,
)
def test_not_jointly_conjugate(model):
    try:
        derivation = autoem.EM(model).derive()
    except NotImplementedError:
        return
    assert not derivation.exact
    numerical = [f for f in derivation.latents.values() if f.method in ("quadrature", "monte carlo")]
    assert numerical and all(f.declined for f in numerical)
