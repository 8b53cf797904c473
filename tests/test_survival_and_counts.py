"""Censored, truncated, overdispersed and paired data, as NumPyro users write them, against SciPy without EM.

Log-likelihoods to 1e-6, parameters to 1e-4 of their size.
"""

from typing import ClassVar

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
import pytest  # noqa: E402
from numpy.testing import assert_allclose  # noqa: E402
from numpyro import handlers  # noqa: E402
from scipy import stats  # noqa: E402
from scipy.optimize import linprog, minimize  # noqa: E402
from scipy.special import expit, gammaln, logsumexp, xlogy  # noqa: E402

import autoem  # noqa: E402
from tests.zoo import positive, real, unit  # noqa: E402

KEY = jax.random.key(0)
RNG = np.random.default_rng(5)
N = 80
AGE = RNG.normal(size=N)


def highest(negative, start):
    """(parameters, value) at the maximum."""
    best = minimize(negative, start, method="BFGS", options={"gtol": 1e-9})
    options = {"fatol": 1e-13, "xatol": 1e-10, "maxiter": 20_000, "maxfev": 20_000}
    best = minimize(negative, best.x, method="Nelder-Mead", options=options)
    return best.x, -best.fun


def agrees(model, args, negative, start, of, **options):
    """A fit from nothing but a key; `of` makes SciPy's unconstrained parameters those of the model."""
    x, value = highest(negative, start)
    result = autoem.EM(model, **options).run(KEY, 5000, *args, tol=1e-10, progress_bar=False)
    assert result.converged, result.status
    assert_allclose(result.log_likelihood[-1], value, atol=1e-6)
    for name, expected in of(x).items():
        assert_allclose(result.params[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)
    return result


# -- censored ------------------------------------------------------------------------------------------------------

LAWS = {
    "normal": (dist.Normal, lambda m, s: stats.norm(m, s)),
    "log-normal": (dist.LogNormal, lambda m, s: stats.lognorm(s, scale=np.exp(m))),
    "weibull": (lambda m, s: dist.Weibull(jnp.exp(m), s), lambda m, s: stats.weibull_min(s, scale=np.exp(m))),
    "gumbel": (dist.Gumbel, stats.gumbel_r),
    "logistic": (dist.Logistic, stats.logistic),
}


def ends(law):
    """Intervals (lower, upper), a few of them points, and what is censored on the left and on the right."""
    _, frozen = LAWS[law]
    x = frozen(0.4 + 0.5 * AGE, 0.8).rvs(N, random_state=3)
    low = np.where(x > 0, np.floor(x * 2) / 2, np.floor(x * 2) / 2)
    kind = RNG.integers(0, 4, N)  # an interval, a point, left, right
    low, high = np.where(kind == 1, x, low), np.where(kind == 1, x, low + 0.5)
    low = np.maximum(low, 1e-3) if law in ("log-normal", "weibull") else low
    low, high = np.where(kind == 2, -np.inf, low), np.where(kind == 3, np.inf, high)  # as Surv(type = "interval2")
    return np.stack([low, high], -1), (kind == 2).astype(int), (kind == 3).astype(int)


@pytest.mark.parametrize("law", [pytest.param(n, marks=() if n == "log-normal" else pytest.mark.slow) for n in LAWS])
def test_interval_censored(law):
    both, left, right = ends(law)
    ours, frozen = LAWS[law]

    def model(age, both):
        a, b, s = numpyro.param("a", 0.0), numpyro.param("b", 0.0), positive("s")
        with numpyro.plate("rows", len(both)):
            numpyro.sample("x", dist.IntervalCensoredDistribution(ours(a + b * age, s), left, right), obs=both)

    def negative(v):
        fn = frozen(v[0] + v[1] * AGE, np.exp(v[2]))
        low, high = np.where(left, both[:, 1], both[:, 0]), np.where(right, both[:, 0], both[:, 1])
        with np.errstate(divide="ignore"):
            inside = np.log(np.maximum(fn.cdf(high) - fn.cdf(low), 1e-300))
        each = np.where(left == 1, fn.logcdf(high), np.where(right == 1, fn.logsf(low), inside))
        exact = (low == high) & (left == 0) & (right == 0)
        return -np.where(exact, fn.logpdf(low), each).sum()

    agrees(model, (AGE, both), negative, [0.3, 0.3, -0.2], lambda v: {"a": v[0], "b": v[1], "s": np.exp(v[2])})


def test_interval_censored_data_are_checked():
    """A bound that counts has to be a number inside the support; one that does not may be anything."""

    def model(both, left):
        with numpyro.plate("rows", 2):
            fn = dist.IntervalCensoredDistribution(dist.LogNormal(numpyro.param("m", 0.0), 1.0), left, np.zeros(2, int))
            numpyro.sample("x", fn, obs=both)

    both = np.array([[-1.0, 2.0], [1.0, 3.0]])
    expected = stats.norm.logcdf(np.log(2)) + np.log(stats.norm.cdf(np.log(3)) - 0.5)
    value = autoem.EM(model).log_likelihood({"m": 0.0}, both, np.array([1, 0]))
    assert_allclose(value, expected, rtol=1e-9)
    with pytest.raises(ValueError, match="outside the support"):
        autoem.EM(model).derive(both, np.array([0, 0]))
    with pytest.raises(ValueError, match="NaN or infinite"):
        autoem.EM(model).derive(np.array([[1.0, np.inf], [1.0, 3.0]]), np.array([1, 0]))


@pytest.mark.slow
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("law", LAWS)
def test_censored_on_one_side(law, side):
    ours, frozen = LAWS[law]
    x, limit = frozen(0.4 + 0.5 * AGE, 0.8).rvs((2, N), random_state=4)
    out = (x < limit) if side == "left" else (x > limit)
    seen = np.where(out, limit, x)
    censored = dist.LeftCensoredDistribution if side == "left" else dist.RightCensoredDistribution

    def model(age, seen):
        a, b, s = numpyro.param("a", 0.0), numpyro.param("b", 0.0), positive("s")
        with numpyro.plate("rows", len(seen)):
            numpyro.sample("x", censored(ours(a + b * age, s), out.astype(int)), obs=seen)

    def negative(v):
        fn = frozen(v[0] + v[1] * AGE, np.exp(v[2]))
        return -np.where(out, fn.logcdf(seen) if side == "left" else fn.logsf(seen), fn.logpdf(seen)).sum()

    agrees(model, (AGE, seen), negative, [0.3, 0.3, -0.2], lambda v: {"a": v[0], "b": v[1], "s": np.exp(v[2])})


@pytest.mark.slow
def test_tobit_by_a_factor():
    """The idiom without a censored distribution: a mask, and the log of the distribution function as a factor."""
    x = 0.5 + AGE + RNG.normal(size=N)
    y, out = np.maximum(x, 0), x <= 0

    def model(age, y):
        a, b, s = numpyro.param("a", 0.0), numpyro.param("b", 0.0), positive("s")
        with numpyro.plate("rows", N):
            with handlers.mask(mask=~out):
                numpyro.sample("y", dist.Normal(a + b * age, s), obs=y)
            numpyro.factor("below", jnp.where(out, jax.scipy.stats.norm.logcdf((0.0 - a - b * age) / s), 0.0))

    def negative(v):
        fn = stats.norm(v[0] + v[1] * AGE, np.exp(v[2]))
        return -np.where(out, fn.logcdf(0), fn.logpdf(y)).sum()

    agrees(model, (AGE, y), negative, [0.3, 0.3, -0.2], lambda v: {"a": v[0], "b": v[1], "s": np.exp(v[2])})


@pytest.mark.slow
def test_exponential_lives_that_are_censored():
    """Deaths by time at risk."""
    life, end = RNG.exponential(2.0, N), RNG.uniform(0.5, 3, N)
    out = life > end
    seen = np.minimum(life, end)

    def model(seen):
        rate = positive("rate")
        with numpyro.plate("rows", N):
            numpyro.sample("x", dist.RightCensoredDistribution(dist.Exponential(rate), out.astype(int)), obs=seen)

    result = autoem.EM(model).run(KEY, 500, seen, progress_bar=False)
    assert_allclose(result.params["rate"], (~out).sum() / seen.sum(), rtol=1e-6)


# -- truncated, hurdles ----------------------------------------------------------------------------------------------


def truncated_poisson(mean, y):
    return stats.poisson.logpmf(y, mean) - np.log(-np.expm1(-mean))


@pytest.mark.parametrize("way", ["factor", pytest.param("own", marks=pytest.mark.slow)])
def test_zero_truncated_poisson(way):
    class ZeroTruncated(dist.Distribution):
        support = dist.constraints.positive_integer
        arg_constraints: ClassVar[dict] = {"rate": dist.constraints.positive}

        def __init__(self, rate):
            self.rate = rate
            super().__init__(batch_shape=jnp.shape(rate))

        def log_prob(self, value):
            return dist.Poisson(self.rate).log_prob(value) - jnp.log(-jnp.expm1(-self.rate))

    y = RNG.poisson(np.exp(0.3 + 0.5 * AGE)) + (RNG.random(N) < 0.3)
    y = np.maximum(y, 1)

    def model(age, y):
        rate = jnp.exp(numpyro.param("a", 0.0) + numpyro.param("b", 0.0) * age)
        with numpyro.plate("rows", N):
            if way == "own":
                numpyro.sample("y", ZeroTruncated(rate), obs=y)
            else:
                numpyro.sample("y", dist.Poisson(rate), obs=y)
                numpyro.factor("not zero", -jnp.log1p(-jnp.exp(-rate)))

    def negative(v):
        return -truncated_poisson(np.exp(v[0] + v[1] * AGE), y).sum()

    agrees(model, (AGE, y), negative, [0.0, 0.0], lambda v: {"a": v[0], "b": v[1]})


@pytest.mark.slow
@pytest.mark.parametrize("counts", ["poisson", "negative binomial"])
def test_hurdle(counts):
    """Whether there are any, and how many then: by a mask, and a factor for what is not zero."""
    y = RNG.poisson(2.5, N) * (RNG.random(N) < expit(0.3 + AGE))

    def model(age, y):
        gate, mean = real("gate", 2), positive("mean")
        law = dist.Poisson(mean) if counts == "poisson" else dist.NegativeBinomial2(mean, positive("k"))
        with numpyro.plate("rows", N):
            numpyro.sample("any", dist.Bernoulli(logits=gate[0] + gate[1] * age), obs=(y > 0).astype(int))
            with handlers.mask(mask=y > 0):
                numpyro.sample("y", law, obs=y)
                numpyro.factor("not zero", -jnp.log1p(-jnp.exp(law.log_prob(0))))

    def negative(v):
        p, mean = expit(v[0] + v[1] * AGE), np.exp(v[2])
        k = np.exp(v[3]) if counts != "poisson" else None
        law = stats.poisson(mean) if k is None else stats.nbinom(k, k / (k + mean))
        return -np.where(y > 0, np.log(p) + law.logpmf(y) - np.log1p(-law.pmf(0)), np.log1p(-p)).sum()

    start = [0.0, 0.0, 0.5] + [1.0] * (counts != "poisson")
    agrees(model, (AGE, y), negative, start, lambda v: {"gate": v[:2], "mean": np.exp(v[2])})


# -- overdispersed counts --------------------------------------------------------------------------------------------

MITES = np.repeat(np.arange(8), [70, 38, 17, 10, 9, 3, 2, 1])
BOYS = np.repeat(np.arange(13), [3, 24, 104, 286, 670, 1033, 1343, 1112, 829, 478, 181, 45, 7])


def mites_as(kind):
    def model(y):
        mean, k = positive("mean"), positive("k")
        with numpyro.plate("leaves", len(y)):
            if kind == "negative binomial":
                numpyro.sample("y", dist.NegativeBinomial2(mean, k), obs=y)
            elif kind == "gamma poisson":
                numpyro.sample("y", dist.GammaPoisson(k, k / mean), obs=y)
            else:
                numpyro.sample("y", dist.Poisson(numpyro.sample("rate", dist.Gamma(k, k / mean))), obs=y)

    return model


@pytest.mark.parametrize(
    "kind", ["negative binomial", *(pytest.param(n, marks=pytest.mark.slow) for n in ("gamma poisson", "latent"))]
)
def test_red_mites(kind):
    """Bliss and Fisher (1953): mites on 150 apple leaves; the mean is 1.14667 and k 1.02459."""

    def negative(v):
        k, mean = np.exp(v)
        return -stats.nbinom.logpmf(MITES, k, k / (k + mean)).sum()

    result = agrees(mites_as(kind), (MITES,), negative, [0.0, 0.0], lambda v: {"k": np.exp(v[0]), "mean": np.exp(v[1])})
    assert_allclose(result.params["mean"], 172 / 150, rtol=1e-5)
    assert_allclose(result.params["k"], 1.02459, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["beta binomial", "latent", "two binomials"])
def test_boys_in_saxony(kind):
    """Geissler's 6,115 families of twelve children (Fisher 1925; Lindsey and Mersch 1992)."""

    def model(y):
        with numpyro.plate("families", len(y)):
            if kind == "beta binomial":
                numpyro.sample("y", dist.BetaBinomial(10 * positive("a"), 10 * positive("b"), 12), obs=y)
            elif kind == "latent":
                p = numpyro.sample("p", dist.Beta(10 * positive("a"), 10 * positive("b")))
                numpyro.sample("y", dist.Binomial(12, p), obs=y)
            else:
                p = numpyro.param("p", jnp.array([0.4, 0.6]), constraint=dist.constraints.unit_interval)
                z = numpyro.sample("z", dist.Bernoulli(unit("share")))
                numpyro.sample("y", dist.Binomial(12, p[z]), obs=y)

    number, counts = np.arange(13), np.bincount(BOYS)

    def negative(v):
        if kind == "two binomials":
            share, p = expit(v[0]), expit(v[1:])
            each = [stats.binom.logpmf(number, 12, q) for q in p]
            return -counts @ logsumexp(each, 0, b=[[1 - share], [share]])
        return -counts @ stats.betabinom.logpmf(number, 12, *np.exp(v))

    if kind == "two binomials":
        agrees(model, (BOYS,), negative, [0.0, -0.3, 0.3], lambda v: {"share": expit(v[0]), "p": expit(v[1:])})
    else:
        agrees(model, (BOYS,), negative, [3.5, 3.5], lambda v: {"a": np.exp(v[0]) / 10, "b": np.exp(v[1]) / 10})


@pytest.mark.slow
def test_days_absent_from_school():
    """A negative binomial regression on factors, as for `quine`; these counts are drawn."""
    design = np.column_stack([np.ones(N), RNG.integers(0, 2, (N, 2)), RNG.integers(0, 2, N) * AGE])
    mean = np.exp(design @ [1.0, -0.4, 0.6, 0.3])
    y = RNG.poisson(mean * RNG.gamma(1.6, 1 / 1.6, N))

    def model(design, y):
        beta, k = real("beta", 4), positive("theta")
        with numpyro.plate("children", N):
            numpyro.sample("days", dist.NegativeBinomial2(jnp.exp(design @ beta), k), obs=y)

    def negative(v):
        k, mean = np.exp(v[4]), np.exp(design @ v[:4])
        return -(
            gammaln(k + y) - gammaln(k) - gammaln(y + 1) + xlogy(y, mean / (k + mean)) + k * np.log(k / (k + mean))
        ).sum()

    agrees(
        model,
        (design, y),
        negative,
        np.r_[np.log(y.mean()), 0, 0, 0, 0],
        lambda v: {"beta": v[:4], "theta": np.exp(v[4])},
    )


# -- pairs, medians --------------------------------------------------------------------------------------------------

WINS = np.array([[0, 7, 9, 7, 7, 9, 11], [6, 0, 7, 5, 11, 9, 9], [4, 6, 0, 7, 7, 8, 12], [6, 8, 6, 0, 6, 7, 10],
                 [6, 2, 6, 7, 0, 7, 12], [4, 4, 5, 6, 6, 0, 6], [2, 4, 1, 3, 1, 7, 0]])  # fmt: skip


@pytest.mark.parametrize("way", ["logits", pytest.param("strengths", marks=pytest.mark.slow)])
def test_bradley_and_terry(way):
    """Baseball, 1987 (Agresti 1990, page 372): Baltimore is the base; Milwaukee is at 1.581."""
    first, second = np.triu_indices(7, 1)
    won, games = WINS[first, second], (WINS + WINS.T)[first, second]

    def model(won):
        if way == "logits":
            skill = jnp.append(numpyro.param("skill", jnp.zeros(6)), 0.0)
            law = dist.Binomial(games, logits=skill[first] - skill[second])
        else:
            strength = jnp.append(jnp.exp(numpyro.param("skill", jnp.zeros(6))), 1.0)
            law = dist.Binomial(games, strength[first] / (strength[first] + strength[second]))
        with numpyro.plate("pairs", len(won)):
            numpyro.sample("won", law, obs=won)

    def negative(v):
        skill = np.append(v, 0.0)
        return -stats.binom.logpmf(won, games, expit(skill[first] - skill[second])).sum()

    result = agrees(model, (won,), negative, np.ones(6), lambda v: {"skill": v})
    assert_allclose(result.params["skill"], [1.5814, 1.4364, 1.2945, 1.2476, 1.1077, 0.6839], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("q", [0.5, 0.2, 0.9])
def test_quantile_regression(q):
    """The loss is that of the linear programme."""
    y = 1 + AGE + RNG.standard_t(3, N)
    x = np.column_stack([np.ones(N), AGE])

    def model(x, y):
        beta, scale = real("beta", 2), positive("scale")
        fn = dist.Laplace(x @ beta, scale) if q == 0.5 else dist.AsymmetricLaplaceQuantile(x @ beta, scale, q)
        with numpyro.plate("rows", N):
            numpyro.sample("y", fn, obs=y)

    cost = np.r_[np.zeros(4), np.full(N, q), np.full(N, 1 - q)]
    best = linprog(cost, A_eq=np.column_stack([x, -x, np.eye(N), -np.eye(N)]), b_eq=y, bounds=(0, None))
    result = autoem.EM(model).run(KEY, 5000, x, y, tol=1e-10, progress_bar=False)
    residual = y - x @ np.asarray(result.params["beta"])
    assert_allclose(np.maximum(q * residual, (q - 1) * residual).sum(), best.fun, rtol=1e-7)
    assert_allclose(result.params["beta"], best.x[:2] - best.x[2:4], rtol=1e-4, atol=1e-5)
