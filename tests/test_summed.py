"""Discrete latents beside a quadrature: against sums over all states and dense grids of NumPyro's own densities."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro import handlers
from quadrature_oracle import Oracle, at
from quadrature_zoo import positive
from summed_zoo import CASES, GROUP

import autoem
from autoem._refine import refined

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def made():
    cache = {}

    def make(name):
        if name not in cache:
            case = CASES[name]()
            cache[name] = case, Oracle(case), autoem.EM(case.model)
        return cache[name]

    return make


def slow_but(*names):
    return [pytest.param(n, marks=[] if n in names else [pytest.mark.slow]) for n in CASES]


@pytest.mark.parametrize("name", slow_but("class_and_gates"))
def test_log_likelihood_gradient_and_statistics(name, made):
    case, oracle, em = made(name)
    params = at(case)
    value, gradient = jax.jit(jax.value_and_grad(oracle.log_likelihood))(params)
    machine = refined(em.derive(*case.args), params).machine

    @jax.jit
    def ours(params):
        total, expected = machine.e_step(params, machine.prepare())
        complete = machine.complete.at(expected.points)
        of_q = jax.grad(lambda p: complete.objective(p, expected.statistics))(params)
        return total, of_q, jax.value_and_grad(machine.log_likelihood)(params)

    total, of_q, (again, direct) = ours(params)
    assert_allclose([total, again], [value, value], rtol=1e-7)
    for n in params:
        assert_allclose(direct[n], gradient[n], rtol=1e-5, atol=1e-5, err_msg=n)
        assert_allclose(of_q[n], direct[n], rtol=1e-7, atol=1e-8, err_msg=n)


@pytest.mark.parametrize("name", slow_but("mixture_of_intercepts"))
def test_posterior(name, made):
    case, oracle, em = made(name)
    params = at(case)
    posterior = em.posterior(params, *case.args)
    draws = em.sample_posterior(KEY, params, *case.args, num_samples=1000)
    modes = em.decode(params, *case.args)
    assert set(posterior) == set(draws) == set(modes)
    derivation = em.derive(*case.args)
    for latent, d in posterior.items():
        shape = (*d.batch_shape, *d.event_shape)
        assert draws[latent].shape == (1000, *shape) and modes[latent].shape == shape
        found = derivation.latents[latent]
        assert not found.exact
        if latent in derivation.model.points:
            mean, variance = oracle.moments(params, latent)
            mean, spread = mean.reshape(shape), np.sqrt(variance.reshape(shape))
            assert found.method == "quadrature"
            assert_allclose(np.asarray(d.mean), mean, rtol=1e-4, atol=1e-5)
            assert_allclose((np.mean(draws[latent], 0) - mean) / spread, 0.0, atol=0.2)
        elif derivation.model.auxiliaries == ():
            probs = d.probs if d.support is dist.constraints.boolean else d.probs @ np.arange(d.probs.shape[-1])
            mean = oracle.marginals(params, latent).reshape(shape)
            assert found.method == "enumeration"
            assert_allclose(probs, mean, rtol=1e-5, atol=1e-6)
            assert_allclose(np.mean(draws[latent], 0), mean, atol=0.1)


def joint_density(case, params, latents):
    seeded = handlers.seed(handlers.substitute(case.model, data={**params, **latents}), 0)
    found = handlers.trace(seeded).get_trace(*case.args)
    return sum(float(jnp.sum(s["fn"].log_prob(s["value"]))) for s in found.values() if s["type"] == "sample")


@pytest.mark.parametrize("name", slow_but("class_and_gates")[3:])
def test_decode_is_the_joint_mode(name, made):
    case, oracle, em = made(name)
    modes = em.decode(at(case), *case.args)
    # The oracle's grid falls a little short of the mode.
    assert -1e-6 < joint_density(case, at(case), modes) - oracle.highest(at(case)) < 1e-2


@pytest.mark.parametrize("name", slow_but())
def test_fit_climbs_the_oracles_likelihood(name, made):
    case, oracle, em = made(name)
    result = em.run(KEY, 40, *case.args, init_params=at(case), progress_bar=False)
    assert np.all(np.diff(result.objective) > -1e-6 * abs(result.objective[-1]))
    found = em.log_likelihood(result.params, *case.args)
    assert_allclose(oracle.log_likelihood(result.params), found, rtol=1e-6)
    assert found > oracle.log_likelihood(case.params)


def test_zero_inflated_site_with_and_without_its_gate():
    """One likelihood whether the gate is a latent of autoem's or the density is taken as it is."""
    case = CASES["zero_inflated_intercepts"]()
    with_gate, without = autoem.EM(case.model), autoem.EM(case.model, augment=False)
    assert_allclose(*(em.log_likelihood(at(case), *case.args) for em in (with_gate, without)), rtol=1e-8)
    assert with_gate.derive(*case.args).params["p"].method == "closed form"


def test_exact_latents_that_share_a_class_with_a_quadrature():
    """A Gaussian and a Gamma latent under one discrete latent: integrated for each of its states."""

    def model(g, y, count):
        w, mu, rate = 0.3, numpyro.param("mu", jnp.array([-1.0, 1.0])), positive("rate", jnp.array([1.0, 3.0]))
        with numpyro.plate("groups", 4):
            k = numpyro.sample("k", dist.Bernoulli(w))
            a = numpyro.sample("a", dist.Normal(mu[k], 1.0))
            u = numpyro.sample("u", dist.Gamma(2.0, rate[k]))
        with numpyro.plate("rows", len(g)):
            numpyro.sample("y", dist.Normal(a[g], 0.5), obs=y)
            numpyro.sample("count", dist.Poisson(u[g]), obs=count)

    rng = np.random.default_rng(3)
    y, count = rng.normal(size=12), rng.poisson(1.5, size=12)
    params = {"mu": jnp.array([-0.7, 0.9]), "rate": jnp.array([1.2, 2.5])}
    em = autoem.EM(model)
    line, half = np.linspace(-8, 8, 4001), np.linspace(0, 40, 40001)[1:]
    total = 0.0
    for g in range(4):
        rows, terms = g == GROUP, []
        for prior, mu, rate in ((0.7, -0.7, 1.2), (0.3, 0.9, 2.5)):
            a = jnp.exp(dist.Normal(mu, 1.0).log_prob(line) + dist.Normal(line[:, None], 0.5).log_prob(y[rows]).sum(-1))
            u = dist.Gamma(2.0, rate).log_prob(half) + dist.Poisson(half[:, None]).log_prob(count[rows]).sum(-1)
            terms.append(prior * np.trapezoid(a, line) * np.trapezoid(jnp.exp(u), half))
        total += np.log(sum(terms))
    assert_allclose(em.log_likelihood(params, GROUP, y, count), total, rtol=1e-7)
    found = em.derive(GROUP, y, count).latents
    assert {f.method for n, f in found.items() if n != "k"} == {"quadrature"}
    assert "of both kinds" in found["a"].declined[0]
