"""Latents without conjugacy: quadrature against dense grids on NumPyro's own densities, group by group."""

import csv
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from quadrature_oracle import Oracle, at
from quadrature_zoo import CASES, GROUP, positive
from scipy import optimize, stats

import autoem
from autoem._refine import refined

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def made():
    cache = {}

    def make(name):
        if name not in cache:
            case = CASES[name]()
            maximised = ("b",) if name == "rasch_with_prior" else ()
            cache[name] = case, Oracle(case, maximised), autoem.EM(case.model, maximize=list(maximised) or None)
        return cache[name]

    return make


def slow_but(*names):
    return [pytest.param(n, marks=[] if n in names else [pytest.mark.slow]) for n in CASES]


@pytest.mark.parametrize("name", slow_but("poisson_intercepts"))
def test_log_likelihood_gradient_and_statistics(name, made):
    case, oracle, em = made(name)
    params = at(case)
    value, gradient = jax.jit(jax.value_and_grad(oracle.log_likelihood))(params)
    assert_allclose(em.log_likelihood(params, *case.args), value, rtol=1e-7)
    machine = refined(em.derive(*case.args), params).machine

    @jax.jit
    def ours(params):
        total, expected = machine.e_step(params, machine.prepare())
        complete = machine.complete.at(expected.points)
        # Fisher's identity: with the right expected statistics, Q has the gradient of the log-likelihood.
        of_q = jax.grad(lambda p: complete.objective(p, expected.statistics) - complete.log_prior(p))(params)
        return total, of_q, jax.grad(machine.log_likelihood)(params)

    total, of_q, direct = ours(params)
    assert_allclose(total, value, rtol=1e-7)
    for n in params:
        assert_allclose(direct[n], gradient[n], rtol=1e-5, atol=1e-5, err_msg=n)
        assert_allclose(of_q[n], direct[n], rtol=1e-7, atol=1e-8, err_msg=n)


@pytest.mark.parametrize("name", slow_but("gamma_above_background"))
def test_posterior_moments(name, made):
    case, oracle, em = made(name)
    params = at(case)
    posterior = em.posterior(params, *case.args)
    draws = em.sample_posterior(KEY, params, *case.args, num_samples=2000)
    modes = em.decode(params, *case.args)
    for latent, d in posterior.items():
        mean, variance = oracle.moments(params, latent)
        shape = (*d.batch_shape, *d.event_shape)
        assert_allclose(np.asarray(d.mean), mean.reshape(shape), rtol=1e-4, atol=1e-5)
        assert_allclose(np.asarray(d.variance), variance.reshape(shape), rtol=1e-3)
        assert draws[latent].shape == (2000, *shape) and modes[latent].shape == shape
        spread = np.sqrt(variance.reshape(shape))
        assert_allclose((np.mean(draws[latent], 0) - mean.reshape(shape)) / spread, 0.0, atol=0.15)
        assert_allclose(np.std(draws[latent], 0) / spread, 1.0, atol=0.2)
    assert set(posterior) == set(draws) == set(modes)


@pytest.mark.parametrize("name", ["two_parameter_irt", "stochastic_frontier"])
def test_decode_is_the_mode_of_the_latents_own_density(name, made):
    case, oracle, em = made(name)
    params = at(case)
    (latent, mode), = em.decode(params, *case.args).items()  # fmt: skip
    found = np.ravel(mode)
    for i, args in enumerate(oracle.groups):
        joint = oracle.joint(params, args) - oracle.log_weight
        best = case.grids[0][int(jnp.argmax(joint))]
        assert abs(found[i] - best) < 2 * (case.grids[0][1] - case.grids[0][0]), latent


@pytest.mark.parametrize("name", slow_but("poisson_intercepts"))
def test_fit_is_where_a_direct_optimiser_ends(name, made):
    case, oracle, em = made(name)
    maximised = oracle.maximised
    result = em.run(KEY, 5000, *case.args, init_params=at(case), progress_bar=False)
    assert result.status is autoem.Status.CONVERGED
    assert np.all(np.diff(result.objective) > -1e-6 * abs(result.objective[-1]))
    bijections = {n: dist.biject_to(p.constraint) for n, p in result.derivation.model.parameters.items()}
    flat, unravel = jax.flatten_util.ravel_pytree({n: bijections[n].inv(v) for n, v in result.params.items()})

    def objective(vector):
        params = {n: bijections[n](v) for n, v in unravel(vector).items()}
        prior = sum(jnp.sum(dist.Normal(0.0, 2.0).log_prob(params[n])) for n in maximised)
        return -oracle.log_likelihood(params) - prior

    step = jax.jit(jax.value_and_grad(objective))
    best = optimize.minimize(lambda v: [np.asarray(a) for a in step(v)], flat, jac=True, method="BFGS")
    assert abs(-best.fun - float(result.objective[-1])) < 1e-4
    assert np.max(np.abs(best.x - flat)) < 2e-2
    found = next(iter(result.derivation.latents.values()))
    assert found.method == "quadrature" and not found.exact and "change the log-likelihood by" in found.reason
    assert not result.derivation.exact
    # Nothing that rests on the quadrature's averages is called exact, closed form or not.
    assert not any(f.exact for f in result.derivation.params.values())


# -- answers that others computed (see the acceptance problems of issue 6) ----------------------------------------


def table(name):
    with (Path(__file__).parents[1] / "examples" / "data" / name).open() as file:
        rows = list(csv.DictReader(file))
    return {column: np.array([float(row[column]) for row in rows]) for column in rows[0]}


def test_contagious_bovine_pleuropneumonia():
    """lme4's cbpp: a binomial model with a normal intercept for each herd."""

    def model(herd, period, size, cases):
        beta, tau = numpyro.param("beta", jnp.zeros(4)), positive("tau", 1.0)
        with numpyro.plate("herds", herd.max() + 1):
            b = numpyro.sample("b", dist.Normal(0.0, tau))
        with numpyro.plate("rows", len(cases)):
            numpyro.sample(
                "cases", dist.Binomial(size, logits=beta[0] + beta[period] * (period > 0) + b[herd]), obs=cases
            )

    data = {n: v.astype(int) for n, v in table("cbpp.csv").items()}
    args = data["herd"] - 1, data["period"] - 1, data["size"], data["incidence"]
    result = autoem.EM(model).run(KEY, 5000, *args, tol=1e-10, progress_bar=False)
    assert result.converged
    assert_allclose(result.log_likelihood[-1], -91.983369, rtol=0, atol=1e-5)
    assert_allclose(result.params["tau"], 0.647518, atol=1e-5)


@pytest.mark.slow
def test_law_school_admission_test():
    """LSAT6: the Rasch model, and one slope for all items."""

    def model(right, free):
        slope = positive("slope", 1.0) if free else 1.0
        easiness = numpyro.param("easiness", jnp.zeros(5))
        with numpyro.plate("people", len(right), dim=-2):
            ability = numpyro.sample("ability", dist.Normal(0.0, 1.0))
            numpyro.sample("right", dist.Bernoulli(logits=slope * ability + easiness), obs=right)

    data = table("lsat6.csv")
    patterns = np.stack([data[f"item{j}"] for j in range(1, 6)], -1).astype(int)
    right = np.repeat(patterns, data["count"].astype(int), 0)
    for free, best in ((False, -2473.053847), (True, -2466.937600)):
        result = autoem.EM(model).run(KEY, 5000, right, free, progress_bar=False)
        assert result.converged
        assert_allclose(result.log_likelihood[-1], best, rtol=0, atol=1e-5)


# -- beside other engines -----------------------------------------------------------------------------------------


def test_beside_exact_blocks():
    """A Gaussian block, a discrete block and a quadrature in one model: three evidences that add up."""

    def model(g, y, count, x):
        tau, s, locs = positive("tau", 1.0), positive("s", 1.0), numpyro.param("locs", jnp.array([-1.0, 1.0]))
        with numpyro.plate("groups", 8):
            b = numpyro.sample("b", dist.Normal(0.0, tau))
            a = numpyro.sample("a", dist.Normal(0.0, s))
        with numpyro.plate("rows", len(g)):
            numpyro.sample("count", dist.Poisson(jnp.exp(b[g])), obs=count)
            numpyro.sample("y", dist.Normal(a[g], 1.0), obs=y)
            k = numpyro.sample("k", dist.Bernoulli(0.4))
            numpyro.sample("x", dist.Normal(locs[k], 1.0), obs=x)

    rng = np.random.default_rng(3)
    y, x, count = rng.normal(size=40), rng.normal(size=40), rng.poisson(1.5, size=40)
    params = {"tau": jnp.asarray(0.7), "s": jnp.asarray(0.5), "locs": jnp.array([-0.5, 0.8])}
    em = autoem.EM(model)
    grid = np.linspace(-7, 7, 4001)
    total = np.log(0.6 * stats.norm.pdf(x, -0.5) + 0.4 * stats.norm.pdf(x, 0.8)).sum()
    for k in range(8):
        rows = k == GROUP
        total += stats.multivariate_normal.logpdf(y[rows], np.zeros(5), np.eye(5) + 0.25)
        joint = stats.poisson.pmf(count[rows], np.exp(grid[:, None])).prod(1) * stats.norm.pdf(grid, 0, 0.7)
        total += np.log(np.trapezoid(joint, grid))
    assert_allclose(em.log_likelihood(params, GROUP, y, count, x), total, rtol=1e-9)
    found = em.derive(GROUP, y, count, x).latents
    assert {n: (f.method, f.exact) for n, f in found.items()} == {
        "b": ("quadrature", False), "a": ("gaussian", True), "k": ("enumeration", True)}  # fmt: skip
    assert set(em.posterior(params, GROUP, y, count, x)) == {"a", "b", "k"}


def test_elements_without_data_and_data_without_elements():
    """A group without rows integrates to one; rows that meet no element of the latent keep their own density."""

    def model(g, y):
        tau, rest = positive("tau", 1.0), positive("rest", 1.0)
        with numpyro.plate("groups", 10):
            b = numpyro.sample("b", dist.Normal(0.0, tau))
        rate = jnp.concatenate([jnp.exp(b[g]), jnp.stack([rest, rest])])
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Poisson(rate), obs=y)

    y = np.random.default_rng(4).poisson(1.4, size=42)
    params = {"tau": jnp.asarray(0.7), "rest": jnp.asarray(1.7)}
    grid = np.linspace(-7, 7, 4001)
    total = stats.poisson.logpmf(y[40:], 1.7).sum()
    for k in range(8):
        joint = stats.poisson.pmf(y[:40][k == GROUP], np.exp(grid[:, None])).prod(1) * stats.norm.pdf(grid, 0, 0.7)
        total += np.log(np.trapezoid(joint, grid))
    em = autoem.EM(model)
    assert_allclose(em.log_likelihood(params, GROUP, y), total, rtol=1e-9)
    assert_allclose(em.posterior(params, GROUP, y)["b"].variance[8:], 0.49, rtol=1e-6)


def test_standard_errors(made):
    case, oracle, em = made("poisson_intercepts")
    flat, unravel = jax.flatten_util.ravel_pytree(at(case) | {"tau": jnp.log(case.params["tau"])})

    def free(vector):
        params = unravel(vector)
        return oracle.log_likelihood(params | {"tau": jnp.exp(params["tau"])})

    information = -jax.jit(jax.hessian(free))(flat)
    expected = unravel(jnp.sqrt(jnp.diag(jnp.linalg.inv(information))))
    expected["tau"] = expected["tau"] * case.params["tau"]
    for n, found in em.standard_errors(at(case), *case.args).items():
        assert_allclose(found, expected[n], rtol=1e-3)


def test_single_precision(x32):
    case = CASES["masked_logistic"]()
    args = tuple(np.array(a) for a in case.args)  # JAX remembers the precision in which it met an array
    em = autoem.EM(case.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = em.log_likelihood({n: jnp.asarray(v, jnp.float32) for n, v in case.params.items()}, *args)
    assert value.dtype == jnp.float32
    with jax.enable_x64(True):
        assert_allclose(value, Oracle(case).log_likelihood(case.params), rtol=1e-4)


def test_same_key_same_draws(made):
    case, _, em = made("poisson_intercepts")
    first, again = (em.sample_posterior(KEY, at(case), *case.args, num_samples=5)["b"] for _ in range(2))
    assert np.array_equal(first, again)


@pytest.mark.slow
def test_names_need_not_be_in_order():
    """A posterior is that of its own latent, whatever the latents are called."""

    def means(first, second):
        def model(x, y):
            with numpyro.plate("data", len(y)):
                a, b = numpyro.sample(first, dist.Normal(0.0, 0.5)), numpyro.sample(second, dist.Gamma(3.0, 2.0))
                numpyro.sample("y", dist.Poisson(numpyro.param("c", 1.0) * jnp.exp(a) * b**x), obs=y)

        data = np.array([0.5, 1.0, 2.0]), np.array([1, 9, 0])
        found = autoem.EM(model).posterior({"c": jnp.asarray(1.2)}, *data)
        return found[first].mean, found[second].mean

    for ours, theirs in zip(means("a", "b"), means("z", "b"), strict=True):
        assert_allclose(ours, theirs, rtol=1e-12)


# -- what is refused ----------------------------------------------------------------------------------------------


def chain_beside(y):
    w, tau = numpyro.param("w", jnp.ones((2, 2)) / 2, constraint=constraints.simplex), positive("tau", 1.0)
    b = numpyro.sample("b", dist.Normal(0.0, tau))

    def step(state, now):
        z = numpyro.sample("z", dist.Categorical(w[state]))
        numpyro.sample("y", dist.Poisson(jnp.exp(b + z)), obs=now)
        return z, None

    scan(step, 0, y[:, 0])


def masked_latent(y):
    tau = positive("tau", 1.0)
    with numpyro.plate("data", 4):
        with handlers.mask(mask=np.array([True, True, False, True])):
            z = numpyro.sample("z", dist.Normal(0.0, tau))
        numpyro.sample("y", dist.Poisson(jnp.exp(z)), obs=y[0])


def scaled_latent(y):
    tau = positive("tau", 1.0)
    with numpyro.plate("data", 4), handlers.scale(scale=2.0):
        z = numpyro.sample("z", dist.Normal(0.0, tau))
        numpyro.sample("y", dist.Poisson(jnp.exp(z)), obs=y[0])


def angle(y):
    kappa = positive("kappa", 1.0)
    with numpyro.plate("data", 4):
        z = numpyro.sample("z", dist.VonMises(0.0, kappa))
        numpyro.sample("y", dist.Normal(jnp.sin(z) ** 3, 1.0), obs=y[0])


def moving_support(y):
    top = positive("top", 1.0)
    with numpyro.plate("data", 4):
        z = numpyro.sample("z", dist.Uniform(0.0, top))
        numpyro.sample("y", dist.Normal(jnp.sin(z), 1.0), obs=y[0])


def mask_depends(y):
    tau = positive("tau", 1.0)
    with numpyro.plate("data", 4):
        z = numpyro.sample("z", dist.Normal(0.0, tau))
        with handlers.mask(mask=z > 0):
            numpyro.sample("y", dist.Poisson(jnp.exp(z)), obs=y[0])


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (chain_beside, "the chain 'z'"),
        (masked_latent, "'z' is masked"), (scaled_latent, "'z' is scaled"), (angle, "real line"),
        (moving_support, "bounds that are computed"), (mask_depends, "mask of site 'y'"),
    ],
)  # fmt: skip
def test_what_is_refused(model, what):
    with pytest.raises(NotImplementedError, match=what):
        autoem.EM(model).derive(np.ones((5, 4), int))


def test_strict_and_check_are_refused(made):
    case, _, _ = made("poisson_intercepts")
    with pytest.raises(NotImplementedError, match=r"strict=True.*b: quadrature"):
        autoem.EM(case.model, strict=True).derive(*case.args)
    with pytest.raises(NotImplementedError, match="check=True"):
        autoem.EM(case.model, check=True).derive(*case.args)


@pytest.mark.parametrize("noise", [0.3, pytest.param(3e-3, marks=pytest.mark.slow)])
def test_a_density_with_two_modes_that_are_far_apart(noise):
    """Known by its square alone: a rule about one mode is as sure of itself, and misses what lies about the other."""
    y, mu, s = np.array([25.0, 16.0, 9.0]), 0.3, 3.0

    def model():
        scale = numpyro.param("s", 1.0, constraint=dist.constraints.positive)
        with numpyro.plate("data", 3):
            z = numpyro.sample("z", dist.Normal(mu, scale))
            numpyro.sample("y", dist.Normal(z**2, noise), obs=y)

    # About ±√y the square is as good as straight on a grid of 40 standard deviations.
    width = 20 * noise / np.sqrt(y)
    half = np.sqrt(y) + width * np.linspace(-1, 1, 200_001)[:, None]
    masses = [np.trapezoid(stats.norm.pdf(side * half, mu, s) * stats.norm.pdf(half**2, y, noise), half, axis=0)
              for side in (1, -1)]  # fmt: skip
    expected, upper = np.log(sum(masses)), masses[0] / sum(masses)
    em, params = autoem.EM(model), {"s": jnp.asarray(s)}
    assert_allclose(em.log_likelihood(params), expected.sum(), rtol=1e-8)
    if noise == 0.3:
        sampled = autoem.EM(model, e_step={"z": autoem.MonteCarlo()}).log_likelihood(params)
        assert_allclose(sampled, expected.sum(), atol=0.1)
        return
    assert_allclose(em.posterior(params)["z"].mean, (2 * upper - 1) * np.sqrt(y), rtol=5e-2)
    draws = em.sample_posterior(KEY, params, num_samples=2000)["z"]
    assert_allclose((draws > 0).mean(0), upper, atol=0.05)
    assert_allclose(np.abs(draws).mean(0), np.sqrt(y), rtol=1e-2)


def test_a_quadrature_that_does_not_settle_says_so():
    """A step in the density: no number of nodes is enough, and the result is not called converged."""

    def model(y):
        mu = numpyro.param("mu", 0.0)
        with numpyro.plate("data", len(y)):
            z = numpyro.sample("z", dist.Normal(mu, 1.0))
            numpyro.sample("y", dist.Poisson(jnp.where(z > 0.3, 4.0, jnp.exp(z))), obs=y)

    y = np.random.default_rng(5).poisson(2.0, size=6)
    em = autoem.EM(model)
    with pytest.warns(UserWarning, match="Not accurate"):
        result = em.run(KEY, 2000, y, progress_bar=False)
    assert result.status is autoem.Status.INACCURATE and not result.converged
    assert "not accurate" in str(result.derivation)
