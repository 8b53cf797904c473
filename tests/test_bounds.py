"""Latents at which the support of their data ends, against SciPy's quadrature between all ends."""

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
import pytest  # noqa: E402
from numpy.testing import assert_allclose  # noqa: E402
from numpyro import handlers  # noqa: E402
from numpyro.distributions import constraints  # noqa: E402
from scipy import integrate, optimize, stats  # noqa: E402

import autoem  # noqa: E402
from autoem._uncertainty import certify  # noqa: E402

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def positive(name, value=1.0):
    return numpyro.param(name, value, constraint=constraints.positive)


def moments(density, ends):
    """∫ p, ∫ u p, ∫ u² p over u > 0, for a density that jumps at some places."""
    ends = sorted({0.0, *(float(e) for e in ends)})
    pieces = list(zip(ends, [*ends[1:], np.inf], strict=True))

    def total(power):
        parts = [integrate.quad(lambda u: u**power * density(u), *p, epsabs=0, epsrel=1e-12, limit=200)[0]
                 for p in pieces]  # fmt: skip
        return sum(parts)

    return np.array([total(power) for power in (0, 1, 2)])


GROUP, TIMES = np.array([0, 0, 1, 2, 2, 2, 0]), np.array([1.0, 2.0, 0.7, 1.5, 1.0, 0.4, 1.0])
X = RNG.uniform(0, 2, 7) * TIMES
Y = np.array([3.1, 4.0, 2.9, 5.5])
SEEN = np.array([True, True, True, True, True, False, True])
LEAST = np.array([0.8, 1.1, 0.5, 2.0])


def groups():
    """Pareto priors of many scales, Uniform children by group, some masked, some counted twice; one group has none."""

    def model():
        alpha = positive("alpha")
        with numpyro.plate("groups", 4):
            u = numpyro.sample("u", dist.Pareto(LEAST, alpha))
        with numpyro.plate("rows", 7), handlers.mask(mask=SEEN), handlers.scale(scale=1.5):
            numpyro.sample("x", dist.Uniform(0.0, TIMES * u[GROUP]), obs=X)

    def each(p):
        for k in range(4):
            own = np.flatnonzero((k == GROUP) & SEEN)
            ends = [LEAST[k], *(X[own] / TIMES[own])]
            yield (
                lambda u, k=k, own=own: (
                    stats.pareto.pdf(u, p["alpha"], scale=LEAST[k])
                    * np.prod(stats.uniform.pdf(X[own], 0, TIMES[own] * u) ** 1.5)
                ),
                ends,
            )

    return model, {"alpha": 2.7}, each, "pareto"


def from_both_sides():
    """Uniform data lie below, Pareto data above; the latter's exponent is a parameter, and a power of u their scale."""

    def model():
        alpha, beta = positive("alpha"), positive("beta")
        with numpyro.plate("units", 4):
            u = numpyro.sample("u", dist.Pareto(0.5, alpha))
            numpyro.sample("x", dist.Uniform(0.0, u), obs=X[:4] / 2)
            numpyro.sample("y", dist.Pareto(jnp.sqrt(u), beta), obs=Y)

    def each(p):
        for x, y in zip(X[:4] / 2, Y, strict=True):
            yield (
                lambda u, x=x, y=y: (
                    stats.pareto.pdf(u, p["alpha"], scale=0.5)
                    * stats.uniform.pdf(x, 0, u)
                    * stats.pareto.pdf(y, p["beta"], scale=np.sqrt(u))
                ),
                [0.5, x, y**2],
            )

    return model, {"alpha": 1.2, "beta": 1.9}, each, "power law"


def by_state():
    """A state says how far the data reach; in one of the groups only one of the states is possible."""
    ratio, most, x = np.array([1.0, 0.4]), np.array([1.5, 6.0]), np.array([0.9, 1.3])

    def model():
        weight = numpyro.param("weight", 0.5, constraint=constraints.unit_interval)
        with numpyro.plate("groups", 2):
            z = numpyro.sample("z", dist.Bernoulli(weight))
            u = numpyro.sample("u", dist.Uniform(0.3, most))
            numpyro.sample("x", dist.Uniform(0.0, jnp.asarray(ratio)[z] * u), obs=x)

    def each(p):
        for k in range(2):
            yield lambda u, k=k: (
                stats.uniform.pdf(u, 0.3, most[k] - 0.3)
                * sum(w * stats.uniform.pdf(x[k], 0, r * u)
                      for w, r in zip((1 - p["weight"], p["weight"]), ratio, strict=True))
            ), [0.3, most[k], *(x[k] / ratio)]  # fmt: skip

    return model, {"weight": 0.3}, each, "power law"


def fractions():
    """On the unit interval, where the features could have been those of a probability."""

    def model():
        beta = positive("beta")
        u = numpyro.sample("u", dist.Uniform(0.0, 1.0))
        numpyro.sample("x", dist.Uniform(0.0, u).expand([3]).to_event(1), obs=X[:3] / 5)
        numpyro.sample("y", dist.Pareto(3 * u, beta).expand([4]).to_event(1), obs=Y - 0.9)

    def each(p):
        yield (
            lambda u: (
                stats.uniform.pdf(u)
                * np.prod(stats.uniform.pdf(X[:3] / 5, 0, u))
                * np.prod(stats.pareto.pdf(Y - 0.9, p["beta"], scale=3 * u))
            ),
            [1.0, *(X[:3] / 5), *((Y - 0.9) / 3)],
        )

    return model, {"beta": 0.4}, each, "power law"


CASES = {f.__name__: f for f in (groups, from_both_sides, by_state, fractions)}


def test_likelihood_and_posterior():
    model, params, each, _ = groups()
    em = autoem.EM(model)
    assert em.derive().latents["u"].method == "conjugate"
    found = np.array([moments(*f) for f in each(params)])
    assert_allclose(em.log_likelihood(params), np.log(found[:, 0]).sum(), rtol=1e-9)
    assert_allclose(em.posterior(params)["u"].mean, found[:, 1] / found[:, 0], rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_against_quadrature(name):
    model, params, each, family = CASES[name]()
    em = autoem.EM(model)
    derivation = em.derive()
    assert (derivation.latents["u"].family, derivation.latents["u"].method) == (family, "conjugate")
    assert derivation.exact

    def truth(p):
        return sum(np.log(moments(*f)[0]) for f in each(p))

    assert_allclose(em.log_likelihood(params), truth(params), rtol=1e-9)
    machine = derivation.machine
    at = {n: jnp.asarray(v) for n, v in params.items()}
    _, statistics = machine.e_step(at, machine.prepare())
    of_q = jax.grad(lambda p: machine.complete.objective(p, statistics))(at)
    direct = jax.grad(em.log_likelihood)(at)
    for n in params:
        step = {**params, n: params[n] + 1e-4}, {**params, n: params[n] - 1e-4}
        slope = (truth(step[0]) - truth(step[1])) / 2e-4
        assert_allclose((direct[n], of_q[n]), slope, rtol=1e-5, atol=1e-8)
    found = np.array([moments(*f) for f in each(params)])
    posterior = em.posterior(params)["u"]
    assert_allclose(np.ravel(posterior.mean), found[:, 1] / found[:, 0], rtol=1e-7)
    variance = found[:, 2] / found[:, 0] - (found[:, 1] / found[:, 0]) ** 2
    finite = np.isfinite(np.ravel(posterior.variance))
    assert_allclose(np.ravel(posterior.variance)[finite], variance[finite], rtol=1e-5)
    certify(model, derivation, params, (), {}, draws=2)
    draws = em.sample_posterior(KEY, params, num_samples=4000)["u"].reshape(4000, -1)
    inside = np.sqrt(variance / 4000)
    assert np.all((abs(draws.mean(0) - found[:, 1] / found[:, 0]) < 5 * inside) | ~finite)
    for (density, _), best in zip(each(params), np.ravel(em.decode(params)["u"]), strict=True):
        assert name == "by_state" or density(best) >= max(density(u) for u in draws[:50].ravel()) * (1 - 1e-9)


@pytest.mark.slow
def test_hyperparameters_of_a_pareto():
    """The exponent has a closed form, and ends where direct maximisation does."""
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(60), 3)
    x = rng.uniform(0, (1.3 * (1 + rng.pareto(2.5, 60)))[group])

    def model(group, x):
        alpha = positive("alpha")
        with numpyro.plate("groups", 60):
            top = numpyro.sample("top", dist.Pareto(1.3, alpha))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Uniform(0.0, top[group]), obs=x)

    lower = np.maximum(1.3, np.array([x[group == k].max() for k in range(60)]))

    def negative(a):
        return -np.sum(np.log(a) + a * np.log(1.3) - np.log(a + 3) - (a + 3) * np.log(lower))

    best = optimize.minimize_scalar(negative, bounds=(0.1, 20), method="bounded", options={"xatol": 1e-10})
    result = autoem.EM(model, check=True).run(KEY, 500, group, x, progress_bar=False)
    assert result.converged and result.derivation.closed_form
    assert_allclose(result.log_likelihood[-1], -best.fun, rtol=1e-9)
    assert_allclose(result.params["alpha"], best.x, rtol=1e-4)
    posterior = autoem.EM(model).posterior(result.params, group, x)["top"]
    assert isinstance(posterior, dist.Pareto) and posterior.batch_shape == (60,)
    assert_allclose(posterior.scale, lower)
    assert_allclose(posterior.alpha, result.params["alpha"] + 3)


def scaled_by_a_parameter(u):
    numpyro.sample("x", dist.Uniform(0.0, positive("c", 9.0) * u), obs=X[0])


def begins_elsewhere(u):
    numpyro.sample("x", dist.Uniform(0.1, u), obs=X[0])


def on_both_ends(u):
    numpyro.sample("x", dist.Uniform(-u, u), obs=X[0])


def seen_twice(u):
    numpyro.sample("x", dist.Uniform(0.0, u), obs=X[0])
    numpyro.sample("y", dist.Poisson(u), obs=3)


def to_the_complement(u):
    numpyro.sample("x", dist.Uniform(0.0, 3.1 - u), obs=X[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "child", [scaled_by_a_parameter, begins_elsewhere, on_both_ends, seen_twice, to_the_complement]
)
def test_not_a_power_law(child):
    def model():
        positive("idle")
        child(numpyro.sample("u", dist.Uniform(0.0, 3.0)))

    with pytest.raises(NotImplementedError, match="'u'"):
        autoem.EM(model, strict=True).derive()


@pytest.mark.slow
def test_impossible_data():
    def model():
        positive("idle")
        u = numpyro.sample("u", dist.Uniform(0.0, 1.5))
        numpyro.sample("x", dist.Uniform(0.0, u), obs=1.7)

    assert autoem.EM(model).log_likelihood({"idle": 1.0}) < -1e29
    with pytest.raises(ValueError, match="probability"):
        autoem.EM(model).run(KEY, 5, progress_bar=False)


@pytest.mark.slow
def test_bounds_that_the_model_makes_and_data_that_are_traced():
    def model(x):
        with numpyro.plate("units", 2):
            u = numpyro.sample("u", dist.Pareto(jnp.array([1.0, 2.0]), positive("alpha")))
            numpyro.sample("x", dist.Uniform(0.0, u), obs=x)

    em, params, x = autoem.EM(model), {"alpha": 2.0}, np.array([1.5, 1.0])
    expected = 2 * np.log(2 / 3) - 3 * np.log(1.5) - np.log(2)
    assert_allclose(em.log_likelihood(params, x), expected, rtol=1e-12)
    assert_allclose(jax.jit(lambda x: em.log_likelihood(params, x))(x), expected, rtol=1e-12)
    state = em.init(KEY, x)
    assert_allclose(em.update(state, 2 * x)[1], em.log_likelihood(em.get_params(state), 2 * x), rtol=1e-12)
