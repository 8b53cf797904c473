"""Classic problems as a stranger writes them, against direct maximisation by SciPy; what strangers' models ask for."""

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
import pytest  # noqa: E402
import scipy.optimize  # noqa: E402
import scipy.stats  # noqa: E402
from numpy.testing import assert_allclose  # noqa: E402
from numpyro import handlers  # noqa: E402
from numpyro.contrib.control_flow import cond  # noqa: E402
from numpyro.distributions import constraints  # noqa: E402
from numpyro.infer.reparam import LocScaleReparam  # noqa: E402

import autoem  # noqa: E402

KEY = jax.random.PRNGKey(0)

# -- blood groups ---------------------------------------------------------------------------------------------------

GROUPS = np.array([186, 38, 13, 284])  # A, B, AB, O


def cells(freq):
    a, b, o = freq
    return np.array([a * a + 2 * a * o, b * b + 2 * b * o, 2 * a * b, o * o])


def largest():
    """log Σ_groups n log p at its maximum."""

    def negative(x):
        e = np.exp(np.append(x, 0.0))
        return -GROUPS @ np.log(cells(e / e.sum()))

    return -scipy.optimize.minimize(negative, np.zeros(2), options={"gtol": 1e-9}).fun


def two_alleles(group):
    """The alleles of both parents are hidden; most pairs make a group impossible."""
    freq = numpyro.param("freq", jnp.array([0.3, 0.3, 0.4]), constraint=constraints.simplex)
    table = jnp.array([[0, 2, 0], [2, 1, 1], [0, 1, 3]])
    with numpyro.plate("people", len(group)):
        m = numpyro.sample("m", dist.Categorical(freq))
        f = numpyro.sample("f", dist.Categorical(freq))
        numpyro.sample("group", dist.Categorical(jax.nn.one_hot(table[m, f], 4)), obs=group)


def polynomials(n):
    """`n` is a JAX array, and its sum has to be a number."""
    freq = numpyro.sample("freq", dist.Dirichlet(jnp.ones(3)))
    a, b, o = freq[0], freq[1], freq[2]
    probs = jnp.array([a**2 + 2 * a * o, b**2 + 2 * b * o, 2 * a * b, o**2])
    numpyro.sample("n", dist.Multinomial(int(n.sum()), probs), obs=n)


def test_impossible_states_of_rows_that_repeat():
    people = jnp.asarray(np.repeat(np.arange(4), GROUPS))
    result = autoem.EM(two_alleles).run(KEY, 200, people, progress_bar=False)
    assert result.converged
    assert_allclose(result.log_likelihood[-1], largest(), atol=1e-6)


def test_numbers_of_data_while_tracing():
    em = autoem.EM(polynomials, maximize="global", flat=True)
    freq = np.array([0.2, 0.1, 0.7])
    expected = scipy.stats.multinomial.logpmf(GROUPS, GROUPS.sum(), cells(freq))
    assert_allclose(em.log_likelihood({"freq": freq}, jnp.asarray(GROUPS)), expected, rtol=1e-12)
    assert em.init(KEY, jnp.asarray(GROUPS)).params["freq"].shape == (3,)


def test_numbers_of_unknowns_are_refused():
    def model(y):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(a if a > 0 else 0.0, 1.0), obs=y)

    with pytest.raises(ValueError, match=r"asks for the number .* jnp\.where"):
        autoem.EM(model, maximize="global").derive(jnp.zeros(3))


# -- eight schools --------------------------------------------------------------------------------------------------

EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools(y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("J", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("obs", dist.Normal(theta, sigma), obs=y)


@pytest.mark.parametrize("centered", [0, 0.0])
def test_a_first_power_is_no_power(centered):
    """`LocScaleReparam` takes tau ** (1 - centered)."""
    em = autoem.EM(handlers.reparam(schools, {"theta": LocScaleReparam(centered)}), maximize=["mu", "tau"])
    params = {"mu": jnp.array(4.0), "tau": jnp.array(3)}
    expected = scipy.stats.norm.logpdf(EFFECTS, 4.0, np.sqrt(9.0 + ERRORS**2)).sum()
    assert_allclose(em.log_likelihood(params, EFFECTS, ERRORS), expected, rtol=1e-12)


@pytest.mark.parametrize("way", [pytest.param("centred", marks=pytest.mark.slow), "with a prior"])
def test_no_heterogeneity(way):
    """The best tau is zero, where the likelihood is bounded: EM alone would take for ever."""
    y, sigma = EFFECTS / 10, ERRORS

    def meta(y, sigma):
        if way == "centred":
            mu = numpyro.param("mu", 0.0)
            tau = numpyro.param("tau", 10.0, constraint=constraints.positive)
        else:
            mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
            tau = numpyro.sample("tau", dist.Exponential(0.1))
        with numpyro.plate("studies", len(y)):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(theta, sigma), obs=y)

    em = autoem.EM(meta, maximize="global")
    with pytest.warns(UserWarning, match="'tau' has its mode on the boundary"):
        result = em.run(KEY, 1000, y, sigma, init_params={"tau": 10.0}, progress_bar=False)
    assert result.status is autoem.Status.CONVERGED
    precision = 1 / sigma**2
    mean = precision @ y / precision.sum()
    assert_allclose(result.log_likelihood[-1], scipy.stats.norm.logpdf(y, mean, sigma).sum(), atol=1e-7)
    assert_allclose(result.params["mu"], mean, atol=0.001 * precision.sum() ** -0.5)
    with pytest.warns(UserWarning, match="'tau' are on the boundary"):
        errors = em.standard_errors(result.params, y, sigma)
    assert_allclose(errors["mu"], precision.sum() ** -0.5, rtol=1e-4)
    assert np.isnan(errors["tau"])


@pytest.mark.parametrize("way", ["not centred", pytest.param("centred", marks=pytest.mark.slow)])
def test_a_scale_that_starts_at_zero(way):
    """There EM's steps are none, and the objective is flat: that is no mode on the boundary."""
    y, sigma = 3 * EFFECTS, ERRORS

    def meta(y, sigma):
        mu = numpyro.param("mu", 0.0)
        tau = numpyro.param("tau", 10.0, constraint=constraints.positive)
        with numpyro.plate("studies", len(y)):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0) if way == "not centred" else dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(mu + tau * z if way == "not centred" else z, sigma), obs=y)

    em = autoem.EM(meta)
    result = em.run(KEY, 1000, y, sigma, init_params={"tau": 1e-10}, progress_bar=False)
    assert result.status is autoem.Status.CONVERGED
    found = scipy.optimize.minimize(
        lambda v: -scipy.stats.norm.logpdf(y, v[0], np.sqrt(v[1] ** 2 + sigma**2)).sum(), [20.0, 20.0], tol=1e-10
    )
    assert found.x[1] > 1
    assert_allclose(result.log_likelihood[-1], -found.fun, atol=1e-6)


def test_what_is_not_identified_has_no_standard_error():
    """One observation per group: the data know the sum of two variances. The coefficient has its standard error."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=40)
    y = 1 + 0.5 * x + 1.2 * rng.normal(size=40)

    def model(x, y):
        slope, level = numpyro.param("slope", 0.0), numpyro.param("level", 0.0)
        tau = numpyro.param("tau", 1.0, constraint=constraints.positive)
        sigma = numpyro.param("sigma", 0.7, constraint=constraints.positive)
        with numpyro.plate("groups", 40):
            u = numpyro.sample("u", dist.Normal(0.0, tau))
            numpyro.sample("y", dist.Normal(level + slope * x + u, sigma), obs=y)

    em = autoem.EM(model)
    result = em.run(KEY, 500, x, y, progress_bar=False)
    assert result.status is autoem.Status.CONVERGED
    with pytest.warns(UserWarning, match="flat where 'tau', 'sigma' change together"):
        errors = em.standard_errors(result.params, x, y)
    assert np.isnan(errors["tau"]) and np.isnan(errors["sigma"])
    design = np.stack([np.ones(40), x], 1)
    left = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    covariance = np.mean(left**2) * np.linalg.inv(design.T @ design)
    assert_allclose([errors["level"], errors["slope"]], np.sqrt(np.diag(covariance)), rtol=1e-4)


def test_standard_errors_of_nearly_collinear_regressors():
    """Longley (1967), with the standard errors that NIST certifies: flat is what rounding hides, not what is steep."""
    years = np.arange(1947, 1963)
    deflator = [83, 88.5, 88.2, 89.5, 96.2, 98.1, 99, 100, 101.2, 104.6, 108.4, 110.8, 112.6, 114.2, 115.7, 116.9]
    product = [234289, 259426, 258054, 284599, 328975, 346999, 365385, 363112,
               397469, 419180, 442769, 444546, 482704, 502601, 518173, 554894]  # fmt: skip
    unemployed = [2356, 2325, 3682, 3351, 2099, 1932, 1870, 3578, 2904, 2822, 2936, 4681, 3813, 3931, 4806, 4007]
    forces = [1590, 1456, 1616, 1650, 3099, 3594, 3547, 3350, 3048, 2857, 2798, 2637, 2552, 2514, 2572, 2827]
    people = [107608, 108632, 109773, 110929, 112075, 113270, 115094, 116219,
              117388, 118734, 120445, 121950, 123366, 125368, 127852, 130081]  # fmt: skip
    employed = [60323, 61122, 60171, 61187, 63221, 63639, 64989, 63761,
                66019, 67857, 68169, 66513, 68655, 69564, 69331, 70551]  # fmt: skip
    x = np.stack([np.ones(16), deflator, product, unemployed, forces, people, years], 1)

    def model(x, y):
        slopes = numpyro.param("slopes", jnp.zeros(7))
        sigma = numpyro.param("sigma", 1.0, constraint=constraints.positive)
        with numpyro.plate("years", 16):
            numpyro.sample("y", dist.Normal(x @ slopes, sigma), obs=y)

    em = autoem.EM(model)
    result = em.run(KEY, 500, x, np.asarray(employed, float), progress_bar=False)
    certified = [890420.383607373, 84.9149257747669, 0.0334910077722432, 0.488399681651699, 0.214274163161675,
                 0.226073200069370, 455.478499142212]  # fmt: skip
    found = em.standard_errors(result.params, x, np.asarray(employed, float))["slopes"]
    assert_allclose(found, np.asarray(certified) * np.sqrt(9 / 16), rtol=1e-5)  # 16 - 7 in their variance, 16 in ours


def test_effects_of_a_param_are_integrated():
    """`u ~ Normal(0, s)` with s a `numpyro.param`: the joint maximum over u and s would be at s = 0."""
    group = np.repeat(np.arange(6), 5)

    def logistic(y):
        s = numpyro.param("s", 1.0, constraint=constraints.positive)
        intercept = numpyro.sample("intercept", dist.Normal(0.0, 5.0))
        with numpyro.plate("groups", 6):
            u = numpyro.sample("u", dist.Normal(0.0, s))
        numpyro.sample("y", dist.Bernoulli(logits=intercept + u[group]), obs=y)

    derivation = autoem.EM(logistic, maximize="global").derive((np.arange(30) % 3 == 0).astype(int))
    assert list(derivation.params) == ["s", "intercept"]
    assert derivation.latents["u"].method == "quadrature"


def test_a_probability_of_one_has_no_standard_error_but_leaves_the_others_theirs():
    y = np.stack([np.ones(40), np.arange(40) % 4 == 0], -1).astype(int)

    def model(y):
        p = numpyro.param("p", jnp.array([0.5, 0.5]), constraint=constraints.unit_interval)
        numpyro.sample("y", dist.Bernoulli(p).to_event(1), obs=y)

    em = autoem.EM(model)
    result = em.run(KEY, 50, y, progress_bar=False)
    with pytest.warns(UserWarning, match="'p' are on the boundary"):
        errors = em.standard_errors(result.params, y)["p"]
    assert np.isnan(errors[0])
    assert_allclose(errors[1], np.sqrt(0.25 * 0.75 / 40), rtol=1e-6)


# -- what is not derived is said ------------------------------------------------------------------------------------


def test_a_derivative_that_is_not_a_number_is_no_convergence():
    """log(cdf(1) - cdf(0)) of a log-normal: the value is finite, its derivative is 0 * inf."""

    def interval(low, high):
        s = numpyro.param("s", 1.0, constraint=constraints.positive)
        normal = dist.LogNormal(0.3, s)
        numpyro.factor("interval", jnp.log(normal.cdf(high) - normal.cdf(low)))

    low = np.arange(3.0)
    with pytest.warns(UserWarning, match="'s' has a derivative .* not finite"):
        result = autoem.EM(interval).run(KEY, 20, low, low + 1, progress_bar=False)
    assert result.status is autoem.Status.BLIND
    assert not result.converged


@pytest.mark.parametrize("overlap", [False, True])
def test_a_coefficient_on_its_way_to_infinity_is_no_convergence(overlap):
    """A covariate that separates the responses: the likelihood rises for ever, ever more slowly."""
    x = np.linspace(-2, 2, 20)
    y = (x > 0) * 1
    y[3] = int(overlap)

    def logit():
        slope = numpyro.param("slope", jnp.zeros(2))
        numpyro.sample("y", dist.Bernoulli(logits=slope[0] + slope[1] * x), obs=y)

    em = autoem.EM(logit)
    if overlap:
        assert em.run(KEY, 500, progress_bar=False).converged
        return
    with pytest.warns(UserWarning, match="'slope' has no finite best value.* separates"):
        result = em.run(KEY, 500, progress_bar=False)
    assert result.status is autoem.Status.ENDLESS
    assert not result.converged


def test_a_random_part_of_the_data_is_announced():
    def picked(x):
        loc = numpyro.param("loc", 0.0)
        with numpyro.plate("data", len(x), subsample_size=2) as index:
            numpyro.sample("x", dist.Normal(loc, 1.0), obs=x[index])

    def given(x):
        loc = numpyro.param("loc", 0.0)
        with numpyro.plate("data", 40, subsample_size=len(x)):
            numpyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    with pytest.warns(UserWarning, match="'data' picks 2 of 5 elements at random"):
        autoem.EM(picked).derive(jnp.arange(5.0))
    autoem.EM(given).derive(jnp.arange(5.0))  # a batch that was picked outside: no warning, which would be an error


def test_an_index_that_is_traced_is_refused():
    def logistic(group, y):
        s = numpyro.param("s", 1.0, constraint=constraints.positive)
        with numpyro.plate("groups", 6):
            u = numpyro.sample("u", dist.Normal(0.0, s))
        numpyro.sample("y", dist.Bernoulli(logits=u[group]), obs=y)

    em, y = autoem.EM(logistic), np.arange(30) % 2
    with pytest.raises(NotImplementedError, match="'u' are reached through an index that is traced"):
        jax.jit(lambda group: em.log_likelihood({"s": 1.0}, group, y))(jnp.arange(30) % 6)


def test_nothing_is_global():
    def separate(at_bats, hits):
        with numpyro.plate("players", len(hits)):
            phi = numpyro.sample("phi", dist.Uniform(0, 1))
            numpyro.sample("hits", dist.Binomial(at_bats, phi), obs=hits)

    with pytest.raises(ValueError, match=r"'global' names none: name sites .* 'phi'"):
        autoem.EM(separate, maximize="global").derive(45, np.array([18, 17, 16]))


def test_missing_values_are_not_parameters():
    """Imputed by `mask(False)`: integrated, whatever its class says of it."""
    u, holes = np.sin(np.arange(12.0)), np.array([4, 7])

    def autoregression(u):
        a = numpyro.param("a", 0.1)
        missing = numpyro.sample("missing", dist.Normal(0, 1).expand([2]).mask(False))
        u = jnp.asarray(u).at[holes].set(missing)
        numpyro.sample("u", dist.Normal(a * u[:-1], 1.0), obs=u[1:])

    derivation = autoem.EM(autoregression, maximize="global").derive(u)
    assert list(derivation.params) == ["a"]
    assert derivation.latents["missing"].method == "gaussian"


# -- more classics --------------------------------------------------------------------------------------------------


def highest(negative, *starts):
    """The maximum that BFGS finds from the best of some starts."""
    return max(-scipy.optimize.minimize(negative, x, options={"gtol": 1e-8}).fun for x in starts)


def check(model, args, expected, **options):
    result = autoem.EM(model, **options).run(KEY, 2000, *args, progress_bar=False)
    assert result.converged, result.status
    assert_allclose(result.log_likelihood[-1], expected, atol=1e-6)
    return result


FULL, ROWS, COLUMNS = np.array([[100, 50], [75, 75]]), np.array([30, 60]), np.array([28, 60])


@pytest.mark.slow
def test_a_contingency_table_with_supplemental_margins():
    """Little and Rubin (2002), section 13.2: counts that were classified by one variable only."""

    def log_mass(counts, p):
        return scipy.stats.multinomial.logpmf(counts.ravel(), counts.sum(), p.ravel())

    def negative(x):
        p = np.exp(np.append(x, 0.0)).reshape(2, 2)
        p /= p.sum()
        return -(log_mass(FULL, p) + log_mass(ROWS, p.sum(1)) + log_mass(COLUMNS, p.sum(0)))

    def table(full, rows, columns):
        p = numpyro.param("p", jnp.ones(4) / 4, constraint=constraints.simplex).reshape(2, 2)
        numpyro.sample("full", dist.Multinomial(300, p.reshape(-1)), obs=full.reshape(-1))
        numpyro.sample("rows", dist.Multinomial(90, p.sum(1)), obs=rows)
        numpyro.sample("columns", dist.Multinomial(88, p.sum(0)), obs=columns)

    check(table, (FULL, ROWS, COLUMNS), highest(negative, np.zeros(3)))


def _trees():
    age = np.array([118.0, 484, 664, 1004, 1231, 1372, 1582])
    size = [[30, 58, 87, 115, 120, 142, 145], [33, 69, 111, 156, 172, 203, 203], [30, 51, 75, 108, 115, 139, 140],
            [32, 62, 112, 167, 179, 209, 214], [30, 49, 81, 125, 142, 174, 177]]  # fmt: skip
    return age, np.array(size, float)


@pytest.mark.slow
@pytest.mark.parametrize("centred", [True, False])
def test_orange_trees(centred):
    """Pinheiro and Bates (2000), section 8.2: a logistic curve with a random asymptote, linear in it."""
    age, size = _trees()

    def negative(x):
        asymptote, middle, scale, log_effect, log_noise = x
        curve = 1 / (1 + np.exp(-(age - 100 * middle) / (100 * scale)))
        cov = np.exp(2 * log_effect) * np.outer(curve, curve) + np.exp(2 * log_noise) * np.eye(7)
        return -scipy.stats.multivariate_normal.logpdf(size, asymptote * curve, cov).sum()

    def trees(age, size):
        asymptote, middle = numpyro.param("asymptote", 150.0), numpyro.param("middle", 700.0)
        scale = numpyro.param("scale", 300.0, constraint=constraints.positive)
        effect = numpyro.param("effect", 20.0, constraint=constraints.positive)
        noise = numpyro.param("noise", 10.0, constraint=constraints.positive)
        with numpyro.plate("trees", 5, dim=-2):
            u = numpyro.sample("u", dist.Normal(asymptote if centred else 0.0, effect))
            height = u if centred else asymptote + u
            with numpyro.plate("times", 7):
                curve = jax.nn.sigmoid((age - middle) / scale)
                numpyro.sample("size", dist.Normal(height * curve, noise), obs=size)

    check(trees, (age, size), highest(negative, [190, 7, 3.5, 3.4, 2.0]))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["gather", "plates", "not centred"])
def test_booth_and_hobert(way):
    """Booth and Hobert (1999): clusters of 15 binary responses, with a random intercept."""
    rng = np.random.default_rng(4)
    groups, size = 10, 15
    x, group = np.tile(np.arange(1, size + 1) / size, groups), np.repeat(np.arange(groups), size)
    y = (rng.random(150) < 1 / (1 + np.exp(2.5 - 5 * x - 0.7 * rng.normal(size=groups)[group]))).astype(int)
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)

    def negative(t):
        eta = t[0] + t[1] * x + np.exp(t[2]) * nodes[:, None]
        each = (y * eta - np.logaddexp(0, eta)).reshape(100, groups, size).sum(-1)
        return -np.log(weights / weights.sum() @ np.exp(each)).sum()

    def clusters(x, y):
        a, b = numpyro.param("a", 0.0), numpyro.param("b", 0.0)
        s = numpyro.param("s", 1.0, constraint=constraints.positive)
        if way == "plates":
            with numpyro.plate("groups", groups):
                u = numpyro.sample("u", dist.Normal(0, s))
                with numpyro.plate("members", size, dim=-2):
                    eta = a + b * x.reshape(groups, size).T + u
                    numpyro.sample("y", dist.Bernoulli(logits=eta), obs=y.reshape(groups, size).T)
            return
        with numpyro.plate("groups", groups):
            u = numpyro.sample("u", dist.Normal(0, s if way == "gather" else 1.0))
        effect = u[group] if way == "gather" else s * u[group]
        numpyro.sample("y", dist.Bernoulli(logits=a + b * x + effect), obs=y)

    options = {"maximize": "global"} if way == "gather" else {}
    check(clusters, (x, y), highest(negative, [-2.0, 4.0, -0.5]), **options)


@pytest.mark.slow
def test_motorettes():
    """Schmee and Hahn (1979): log lives against temperature, most of them censored."""
    failed = [[], [1764, 2772, 3444, 3542, 3780, 4860, 5196], [408, 408, 1344, 1344, 1440], [408, 408, 504, 504, 504]]
    ends = [8064, 5448, 1680, 528]
    life = np.log10(np.concatenate([f + [e] * (10 - len(f)) for f, e in zip(failed, ends, strict=True)]))
    censored = np.concatenate([np.arange(10) >= len(f) for f in failed])
    v = 1000 / (np.repeat([150, 170, 190, 220], 10) + 273.2)

    def negative(x):
        normal = scipy.stats.norm(x[0] + x[1] * v, np.exp(x[2]))
        return -np.where(censored, normal.logsf(life), normal.logpdf(life)).sum()

    def lives(v, life):
        a, b = numpyro.param("a", 0.0), numpyro.param("b", 0.0)
        s = numpyro.param("s", 1.0, constraint=constraints.positive)
        with numpyro.plate("motors", 40):
            motor = dist.Normal(a + b * v, s)
            numpyro.sample("life", dist.RightCensoredDistribution(motor, censored=censored), obs=life)

    check(lives, (v, life), highest(negative, [-6.0, 4.3, -1.3]))


@pytest.mark.slow
def test_a_covariate_that_is_imputed_in_a_logistic_regression():
    """NumPyro's notebook on imputation: the latent's own density is masked, that of the array it is put into counts."""
    rng = np.random.default_rng(0)
    age = rng.normal(size=60)
    survived = (rng.random(60) < 1 / (1 + np.exp(age - 0.5))).astype(int)
    missing = rng.random(60) < 0.25
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)

    def negative(t):
        mu, s, a, b = t[0], np.exp(t[1]), t[2], t[3]
        eta = a + b * age[~missing]
        seen = scipy.stats.norm.logpdf(age[~missing], mu, s) + survived[~missing] * eta - np.logaddexp(0, eta)
        eta = a + b * (mu + s * nodes[:, None])
        hidden = np.exp(survived[missing] * eta - np.logaddexp(0, eta))
        return -seen.sum() - np.log(weights / weights.sum() @ hidden).sum()

    def imputation(age, survived):
        holes = np.nonzero(np.isnan(age))[0]
        mu, s = numpyro.sample("mu", dist.Normal(0, 1)), numpyro.sample("s", dist.HalfNormal(1))
        a, b = numpyro.sample("a", dist.Normal(0, 1)), numpyro.sample("b", dist.Normal(0, 1))
        imputed = numpyro.sample("imputed", dist.Normal(mu, s).expand([len(holes)]).mask(False))
        age = jnp.asarray(age).at[holes].set(imputed)
        numpyro.sample("age", dist.Normal(mu, s), obs=age)
        numpyro.sample("survived", dist.Bernoulli(logits=a + b * age), obs=survived)

    args = (np.where(missing, np.nan, age), survived)
    check(imputation, args, highest(negative, np.zeros(4)), maximize="global", flat=True)


class Column(list):
    """As a data frame's: no array, though it can become one."""

    def __array__(self, dtype=None, copy=None):
        return np.array(list(self), dtype)


@pytest.mark.parametrize("kind", [list, Column])
def test_data_need_not_be_arrays(kind):
    def model(x):
        loc = numpyro.param("loc", 0.0)
        with numpyro.plate("n", len(x)):
            numpyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    result = autoem.EM(model).run(KEY, 10, kind([1.0, 2.0, 6.0]), progress_bar=False)
    assert_allclose(result.params["loc"], 3.0)


def test_a_column_of_data_against_a_row_is_announced():
    def model(x):
        loc = numpyro.param("loc", 0.0)
        with numpyro.plate("n", len(x)):
            numpyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    with pytest.warns(UserWarning, match=r"'x' have the shape \(3, 1\), its distribution \(3,\): .* \(3, 3\)"):
        autoem.EM(model).derive(np.ones((3, 1)))
    autoem.EM(model).derive(np.ones(3))


def test_a_branch_may_hold_a_site():
    """NumPyro's `cond` hands a key of JAX's to the branch, which is no number."""

    def model(y):
        loc = numpyro.param("loc", 0.0)
        own = lambda scale: lambda _: numpyro.sample("x", dist.Normal(loc, scale))  # noqa: E731
        x = cond(True, own(1.0), own(2.0), None)
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

    value = autoem.EM(model).log_likelihood({"loc": 0.3}, 1.5)
    assert_allclose(value, scipy.stats.norm.logpdf(1.5, 0.3, np.sqrt(2)), rtol=1e-6)
