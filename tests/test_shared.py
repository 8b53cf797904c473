"""One grid of points for all elements of a latent: the numbers that points of their own give; where it is not used."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro.distributions import constraints
from scipy import integrate, special, stats

import autoem
from autoem._evidence import Quadrature, Shared
from autoem._refine import refined
from autoem._update import newton

KEY = jax.random.key(0)
RNG = np.random.default_rng(3)
ANSWERS = RNG.binomial(1, special.expit(RNG.normal(size=(60, 1)) * np.linspace(0.5, 2, 7) + np.linspace(-1, 1, 7)))
GROUP = np.repeat(np.arange(30), 8)
COUNTS = RNG.poisson(np.exp(0.3 + RNG.normal(size=30)[GROUP]))


def positive(name, value):
    return numpyro.param(name, value, constraint=constraints.positive)


def graded(y):
    slope, easiness = positive("slope", jnp.ones(y.shape[1])), numpyro.param("easiness", jnp.zeros(y.shape[1]))
    with numpyro.plate("person", len(y)):
        ability = numpyro.sample("ability", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Bernoulli(logits=slope * ability[:, None] + easiness).to_event(1), obs=y)


def with_gaps(y, seen):
    scale, easiness = positive("scale", 1.2), numpyro.param("easiness", jnp.zeros(y.shape[1]))
    with numpyro.plate("person", len(y), dim=-2):
        ability = numpyro.sample("ability", dist.Normal(numpyro.param("mean", 0.2), scale))
        with numpyro.plate("item", y.shape[1], dim=-1), numpyro.handlers.mask(mask=seen):
            numpyro.sample("y", dist.Bernoulli(logits=ability + easiness), obs=y)


def guessing(y):
    """A discrete latent beside the continuous one: whether a person guesses."""
    easiness = numpyro.param("easiness", jnp.linspace(-1, 1, y.shape[1]))
    share = numpyro.param("share", 0.2, constraint=constraints.unit_interval)
    with numpyro.plate("person", len(y), dim=-2):
        guesses = numpyro.sample("guesses", dist.Bernoulli(share))
        ability = numpyro.sample("ability", dist.Normal(0.0, 1.0))
        with numpyro.plate("item", y.shape[1], dim=-1):
            numpyro.sample("y", dist.Bernoulli(logits=jnp.where(guesses == 1, 0.0, ability + easiness)), obs=y)


def two_traits(y):
    """A vector of two coordinates per person."""
    loadings, scale = numpyro.param("loadings", 0.5 * jnp.eye(2, y.shape[1]) + 0.2), positive("scale", jnp.ones(2))
    with numpyro.plate("person", len(y)):
        trait = numpyro.sample("trait", dist.Normal(0.0, scale).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=trait @ loadings).to_event(1), obs=y)


def counted(g, y):
    """Reached through an index: what a datum sees of its group is the same for all groups."""
    with numpyro.plate("group", 30):
        u = numpyro.sample("u", dist.Normal(numpyro.param("mean", 0.1), positive("scale", 0.8)))
    numpyro.sample("y", dist.Poisson(jnp.exp(u[g]) + positive("background", 0.1)), obs=y)


MODELS = {
    "graded": (graded, (ANSWERS,)),
    "with_gaps": (with_gaps, (ANSWERS, RNG.uniform(size=ANSWERS.shape) < 0.8)),
    "guessing": (guessing, (ANSWERS,)),
    "two_traits": (two_traits, (ANSWERS,)),
    "counted": (counted, (GROUP, COUNTS)),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "guessing" else [pytest.mark.slow]) for n in MODELS])
def test_a_grid_for_all_gives_what_points_of_their_own_give(name):
    model, args = MODELS[name]
    em = autoem.EM(model)
    derivation = em.derive(*args)
    params = {n: jnp.asarray(v) for n, v in em.init(KEY, *args).params.items()}
    assert [type(e) for e, _ in derivation.machine.quadratures] == [Shared]
    both = refined(derivation, params), refined(derivation.apart, params)
    assert [type(e) for e, _ in both[0].machine.quadratures] == [Shared]
    assert [type(e) for e, _ in both[1].machine.quadratures] == [Quadrature]
    (value, gradient), (other, slope) = (
        jax.jit(jax.value_and_grad(d.machine.log_likelihood))(params) for d in both
    )  # fmt: skip
    assert_allclose(value, other, rtol=2e-7)
    machine = both[0].machine

    @jax.jit
    def of_q(params):
        total, expected = machine.e_step(params, machine.prepare())
        complete = machine.complete.at(expected.points)
        return total, jax.grad(lambda p: complete.objective(p, expected.statistics))(params)

    total, fisher = of_q(params)
    assert_allclose(total, value, rtol=1e-12)
    for n in params:
        assert_allclose(gradient[n], slope[n], rtol=1e-4, atol=1e-4, err_msg=n)
        assert_allclose(fisher[n], gradient[n], rtol=1e-7, atol=1e-8, err_msg=n)


@pytest.mark.parametrize(("scale", "mean"), [pytest.param(1e-3, 0.0, marks=pytest.mark.slow), (0.3, 2.0), (2.0, -1.0)])
def test_against_scipy(scale, mean):
    """Person by person, whatever the latent's own scale."""
    em, y = autoem.EM(with_gaps), ANSWERS[:20]
    seen = np.ones(y.shape, bool)
    params = {"scale": scale, "mean": mean, "easiness": np.linspace(-1, 1, 7)}

    def density(z, row):
        p = special.expit(mean + scale * z + params["easiness"])
        return stats.norm.pdf(z) * np.prod(np.where(row == 1, p, 1 - p))

    truth = sum(np.log(integrate.quad(density, -12, 12, args=(row,), epsabs=1e-14, limit=200)[0]) for row in y)
    assert [type(e) for e, _ in em.derive(y, seen).machine.quadratures] == [Shared]
    assert_allclose(em.log_likelihood(params, y, seen), truth, rtol=3e-8)


@pytest.mark.slow
def test_where_one_grid_does_not_do_every_element_gets_its_own():
    """Persons far apart, and narrow: the comparison with more points says so, and the answer stays right."""
    em = autoem.EM(with_gaps)
    y = np.concatenate([np.ones((10, 400)), np.zeros((10, 400)), RNG.binomial(1, 0.5, (10, 400))])
    seen = np.ones(y.shape, bool)
    params = {"scale": jnp.asarray(300.0), "mean": jnp.asarray(0.0), "easiness": jnp.zeros(400)}
    derivation = refined(em.derive(y, seen), params)
    assert [type(e) for e, _ in derivation.machine.quadratures] == [Quadrature]


@pytest.mark.slow
def test_a_fit_takes_the_grid_and_says_so():
    em = autoem.EM(graded)
    result = em.run(KEY, 500, ANSWERS, progress_bar=False)
    assert result.converged and "the same for all 60 elements" in str(result.derivation)
    assert result.derivation.latents["ability"].method == "quadrature" and not result.derivation.exact
    apart = em.derive(ANSWERS).apart.machine
    slope = jax.grad(apart.log_likelihood)({n: jnp.asarray(v) for n, v in result.params.items()})
    assert max(float(jnp.max(jnp.abs(v))) for v in slope.values()) < 1e-3
    posterior = em.posterior(result.params, ANSWERS)["ability"]
    assert posterior.batch_shape == (60,)


def covariates(g, x, y):
    with numpyro.plate("group", 30):
        u = numpyro.sample("u", dist.Normal(0.0, positive("scale", 1.0)))
    numpyro.sample("y", dist.Poisson(jnp.exp(numpyro.param("b", 0.1) * x + u[g])), obs=y)


def means_of_their_own(g, x, y):
    with numpyro.plate("group", 30):
        u = numpyro.sample("u", dist.Normal(numpyro.param("b", 0.1) * x[:30], positive("scale", 1.0)))
    numpyro.sample("y", dist.Poisson(jnp.exp(u[g])), obs=y)


def own_density_by_class(g, x, y):
    loc, probs = numpyro.param("loc", jnp.array([-1.0, 1.0])), jnp.array([0.4, 0.6])
    with numpyro.plate("group", 30):
        z = numpyro.sample("z", dist.Categorical(probs))
        u = numpyro.sample("u", dist.Normal(loc[z], 1.0))
    numpyro.sample("y", dist.Poisson(jnp.exp(u[g])), obs=y)


def two_latents(g, x, y):
    with numpyro.plate("group", 30):
        u = numpyro.sample("u", dist.Normal(0.0, positive("scale", 1.0)))
        v = numpyro.sample("v", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Poisson(jnp.exp(u[g] + 0.3 * v[g] ** 2)), obs=y)


def shifted(g, x, y):
    """The elements are taken apart by what is added to them after the index, not before it."""
    with numpyro.plate("group", 30):
        u = numpyro.sample("u", dist.Normal(0.0, positive("scale", 1.0)))
        rate = jnp.exp(u + x[:30])
    numpyro.sample("y", dist.Poisson(rate[g]), obs=y)


@pytest.mark.parametrize("model", [covariates, means_of_their_own, own_density_by_class, two_latents, shifted])
def test_elements_that_differ_keep_points_of_their_own(model):
    x = RNG.normal(size=GROUP.size)
    derivation = autoem.EM(model).derive(GROUP, x, COUNTS)
    assert [type(e) for e, _ in derivation.machine.quadratures] == [Quadrature]
    assert derivation.apart is derivation


@pytest.mark.slow
def test_an_index_out_of_bounds_is_not_taken_for_any_other():
    """JAX fills in NaN there (or clips): the compact form must not hide it."""

    def model(y):
        with numpyro.plate("group", 30):
            u = numpyro.sample("u", dist.Gamma(positive("shape", 2.0), 1.0))
        numpyro.sample("y", dist.Poisson(u.at[np.append(GROUP[:-1], 99)].get(mode="fill", fill_value=0.5) + 0.1), obs=y)

    def clipped(y):
        with numpyro.plate("group", 30):
            u = numpyro.sample("u", dist.Gamma(positive("shape", 2.0), 1.0))
        numpyro.sample("y", dist.Poisson(u[np.append(GROUP[:-1], 99)] + 0.1), obs=y)

    for each in (model, clipped):
        derivation = autoem.EM(each).derive(COUNTS)
        params = {"shape": jnp.asarray(2.0)}
        both = [float(refined(d, params).machine.log_likelihood(params)) for d in (derivation, derivation.apart)]
        assert_allclose(*both, rtol=1e-7)


@pytest.mark.slow
def test_a_model_of_difficult_items_comes_to_its_end():
    """Classes that stay empty and scales that belong at zero: Newton steps on the objective say that it is the top."""
    rng = np.random.default_rng(0)
    labels = np.where(rng.uniform(size=(30, 6)) < 0.75, rng.integers(3, size=(30, 1)), rng.integers(3, size=(30, 6)))

    def model(labels):
        with numpyro.plate("class", 3):
            eta = numpyro.sample("eta", dist.Normal(0, 1).expand([2]).to_event(1))
            chi = numpyro.sample("chi", dist.HalfNormal(1).expand([2]).to_event(1))
        pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(3)))
        with numpyro.plate("item", len(labels), dim=-2):
            c = numpyro.sample("c", dist.Categorical(pi))
            z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
            theta = jnp.pad(eta[c] + chi[c] * z, [(0, 0), (0, 0), (0, 1)])
            with numpyro.plate("rater", labels.shape[1]):
                numpyro.sample("y", dist.Categorical(logits=theta), obs=labels)

    em = autoem.EM(model, maximize="global")
    assert [type(e) for e, _ in em.derive(labels).machine.quadratures] == [Shared]
    with pytest.warns(UserWarning, match="'chi' has its mode on the boundary"):
        result = em.run(KEY, 500, labels, progress_bar=False)
    assert result.converged and result.num_steps < 500
    machine = refined(em.derive(labels).apart, result.params).machine
    slope = jax.jit(jax.grad(machine.objective))({n: jnp.asarray(v) for n, v in result.params.items()})
    assert_allclose(slope["eta"], 0, atol=1e-3)
    assert_allclose(slope["chi"] * result.params["chi"], 0, atol=1e-3)


def test_what_the_last_newton_step_promised():
    """Nearly nothing where a concave function is highest; nothing is promised where it is not concave."""
    hessian = -jnp.asarray(RNG.normal(size=(3, 3)) @ np.diag([1.0, 2.0, 3.0]))
    hessian = -(hessian @ hessian.T) - jnp.eye(3)
    top = jnp.asarray([0.1, -0.2, 0.3])
    single = newton(lambda x: (x - top) @ hessian @ (x - top) / 2, jnp.zeros(3), 1)
    assert_allclose(single.left, -top @ hessian @ top / 2, rtol=1e-10)
    found = newton(lambda x: (x - top) @ hessian @ (x - top) / 2, jnp.zeros(3), 10)
    assert_allclose(found.point, top, rtol=1e-10)
    assert found.left < 1e-12
    saddle = newton(lambda x: x[0] ** 2 * jnp.exp(-(x[0] ** 2)) - x[1] ** 2, jnp.asarray([0.0, 0.5]), 10)
    assert saddle.left == np.inf
