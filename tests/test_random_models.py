"""The whole engine against brute force: over the zoo, and over random plated Bayes nets."""

from functools import cache

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
import pytest  # noqa: E402
from hypothesis import (  # noqa: E402
    HealthCheck,
    Phase,
    assume,
    given,
    settings,
    strategies as st,
)
from numpy.testing import assert_allclose  # noqa: E402
from numpyro.distributions import constraints  # noqa: E402

import autoem  # noqa: E402
from tests.oracle import Oracle, TooLarge  # noqa: E402
from tests.zoo import ZOO  # noqa: E402

KEY = jax.random.PRNGKey(0)
TIGHT = 1e-12  # a stopping rule tighter than any test's tolerance


class Case:
    """A zoo entry with its oracle, its `EM` and, once asked for, its fit."""

    def __init__(self, name):
        self.entry = entry = ZOO[name]
        self.args, self.kwargs, self.params = entry.args, entry.kwargs, entry.params
        self.em = autoem.EM(entry.model, **entry.em_keywords)
        self.oracle = Oracle(entry.model, entry.args, entry.kwargs, params=entry.params, flat=entry.oracle_flat)

    def start(self):
        return self.em.init(KEY, *self.args, init_params=self.params, **self.kwargs)

    def step(self):
        """One compiled EM step, with the data in the closure."""
        return jax.jit(lambda state: self.em.update(state, *self.args, **self.kwargs))

    def fit(self, num_steps=5000):
        options = {"init_params": self.params, "tol": TIGHT, "progress_bar": False}
        return self.em.run(KEY, num_steps, *self.args, **options, **self.kwargs)


@cache
def case(name):
    return Case(name)


def probabilities(posterior, support):
    """P(z = v) for every v of the support, along a new last axis."""
    while isinstance(posterior, dist.Independent):
        posterior = posterior.base_dist
    if isinstance(posterior, dist.BernoulliProbs):
        return np.stack([1 - posterior.probs, posterior.probs], -1)
    shape = posterior.batch_shape
    return np.exp(np.stack([posterior.log_prob(jnp.full(shape, value)) for value in support], -1))


def check_e_step(em, oracle, params, args, kwargs):
    """Log-likelihood, posterior and decoding against the sum over all assignments."""
    assert_allclose(em.log_likelihood(params, *args, **kwargs), oracle.log_likelihood(params), rtol=1e-8, atol=1e-9)
    posterior, expected = em.posterior(params, *args, **kwargs), oracle.marginals(params)
    assert set(posterior) == set(expected)
    for name, latent in oracle.latents.items():
        actual = probabilities(posterior[name], latent.support)
        assert actual.shape == expected[name].shape, name
        live = ~latent.masked | (name in oracle.imputed)
        assert_allclose(actual[live], expected[name][live], atol=1e-8, err_msg=name)
        assert_allclose(actual.sum(-1), 1, atol=1e-8, err_msg=name)
        if np.array_equal(latent.support, np.arange(len(latent.support))) and len(latent.support) > 2:
            assert np.shape(posterior[name].probs) == expected[name].shape
    best = em.decode(params, *args, **kwargs)
    assert {name: np.shape(value) for name, value in best.items()} == {n: z.shape for n, z in oracle.latents.items()}
    for name, latent in oracle.latents.items():
        assert np.isin(best[name], latent.support).all()
    assert_allclose(oracle.log_joint(best, params), oracle.max_log_joint(params), rtol=1e-9, atol=1e-9)


def check_ascent(em, oracle, state, step, num_steps):
    """The brute-force objective climbs, and the log-likelihood reported is that of the parameters that came in."""
    last = -np.inf
    for _ in range(num_steps):
        params = em.get_params(state)
        state, reported = step(state)
        assert_allclose(reported, oracle.log_likelihood(params), rtol=1e-8, atol=1e-9)
        objective = oracle.objective(params)
        assert objective >= last - 1e-9 * max(1.0, abs(last))
        last = objective
    assert oracle.objective(em.get_params(state)) >= last - 1e-9 * max(1.0, abs(last))


# -- the zoo -----------------------------------------------------------------------------------------------------


def every(step, names):
    """All names; only each `step`-th runs in `make test`, the rest in `make slow`."""
    return [pytest.param(n, marks=[pytest.mark.slow] if i % step else []) for i, n in enumerate(names)]


@pytest.mark.parametrize("name", every(9, ZOO))
def test_e_step(name):
    c = case(name)
    check_e_step(c.em, c.oracle, c.params, c.args, c.kwargs)


@pytest.mark.parametrize("name", every(15, ZOO))
def test_ascent(name):
    c = case(name)
    state = c.start()
    for site, value in c.em.get_params(state).items():
        assert_allclose(value, c.params[site], rtol=1e-9, err_msg=site)
    check_ascent(c.em, c.oracle, state, c.step(), 30)


@pytest.mark.parametrize("name", every(12, [name for name, entry in ZOO.items() if entry.interior]))
def test_fit_is_stationary(name):
    """No direct search from the fit climbs any further: the gradient vanishes, or what is left is rounding."""
    c = case(name)
    result = c.fit()
    objective = c.oracle.objective(result.params)
    assert len(result.log_likelihood) == len(result.objective) == result.num_steps
    assert_allclose(result.losses, -np.asarray(result.objective))
    assert objective >= np.max(result.objective) - 1e-8 * max(1.0, abs(objective))
    if result.num_steps < 5000:
        assert result.converged, result.status
    if np.abs(c.oracle.gradient(result.params)).max() > 1e-5:
        _, higher = c.oracle.maximize(result.params)
        assert higher <= objective + 1e-6, f"a direct search climbs {higher - objective:.3g} further"


SAMPLED = ["nested_latents_both_levels", "alarm_one_case", "scalar_chain_loop", "latent_depends_on_latent"]
SAMPLED += [
    "discrete_uniform_latent",
    "genotype_dosage",
    "dawid_skene_long",
    "covariate_imputed",
    "no_plate_sample_shape",
]


@pytest.mark.parametrize("name", every(2, SAMPLED))
def test_posterior_draws(name):
    c = case(name)
    count = 4000
    draws = c.em.sample_posterior(KEY, c.params, *c.args, num_samples=count, **c.kwargs)
    assert set(draws) == set(c.oracle.latents)
    expected = c.oracle.marginals(c.params)
    for site, latent in c.oracle.latents.items():
        assert np.shape(draws[site]) == (count, *latent.shape)
        frequency = np.stack([(np.asarray(draws[site]) == value).mean(0) for value in latent.support], -1)
        tolerance = 5 * np.sqrt(expected[site] * (1 - expected[site]) / count) + 1e-3
        assert (np.abs(frequency - expected[site]) < tolerance).all(), site
    log_joints = c.oracle.log_joints(draws, c.params)  # sees the dependence between latents
    assert abs(log_joints.mean() - c.oracle.mean_log_joint(c.params)) < 5 * log_joints.std() / count**0.5 + 1e-9
    again = c.em.sample_posterior(KEY, c.params, *c.args, num_samples=count, **c.kwargs)
    assert all(np.array_equal(draws[site], again[site]) for site in draws)


IDENTIFIED = ["poisson_mixture", "normal_mixture", "mvn_shared_covariance", "abo_blood_groups", "linkage_individuals"]
IDENTIFIED += ["genotype_additive", "regressions_separate_scales", "plain_gamma", "all_flat", "two_latents_table"]


@pytest.mark.parametrize("name", every(3, IDENTIFIED))
def test_standard_errors(name):
    c = case(name)
    assert c.entry.identified
    best, _ = c.oracle.maximize(c.fit().params)
    errors = c.em.standard_errors(best, *c.args, **c.kwargs)
    for site, expected in c.oracle.standard_errors(best).items():
        assert_allclose(errors[site], expected, rtol=1e-4, err_msg=site)


JITTED = ["normal_mixture", "poisson_mixture_exposure", "nested_latent_outside", "latent_class_masked_items"]
JITTED += ["mvn_covariance", "two_latents_table", "regressions_shared_scale", "plain_normal"]


def test_a_traced_index_of_a_latent_is_refused():
    """Under jit over the data nobody can see which elements of a latent meet; closing over the index is fine."""
    c = case("dawid_skene_long")
    with pytest.raises(NotImplementedError, match="traced"):
        jax.jit(c.em.update)(c.start(), *c.args)
    jax.jit(lambda state: c.em.update(state, *c.args))(c.start())


@pytest.mark.parametrize("name", every(2, JITTED))
def test_update_under_jit_with_traced_data(name):
    """`jit(em.update)` with the data as arguments, against the update called as it is."""
    c = case(name)
    eager, eager_value = c.em.update(c.start(), *c.args)
    jitted, jitted_value = jax.jit(c.em.update)(c.start(), *c.args)
    assert_allclose(jitted_value, eager_value, rtol=1e-10)
    for site, value in c.em.get_params(eager).items():
        assert_allclose(c.em.get_params(jitted)[site], value, rtol=1e-7, atol=1e-9, err_msg=site)


@pytest.mark.parametrize("name", ["normal_mixture", "latent_depends_on_latent"])
def test_log_likelihood_is_differentiable(name):
    c = case(name)
    gradient = jax.grad(lambda params: c.em.log_likelihood(params, *c.args))(
        {k: jnp.asarray(v) for k, v in c.params.items()}
    )
    expected = jax.grad(lambda params: c.oracle._differentiable(params)[0])(
        {k: jnp.asarray(v) for k, v in c.params.items()}
    )
    for site, value in expected.items():
        assert_allclose(gradient[site], value, rtol=1e-7, atol=1e-9, err_msg=site)


def test_update_under_vmap():
    """Several starts at once."""
    c = case("normal_mixture")
    states = [
        c.em.init(jax.random.PRNGKey(i), *c.args, init_params={**c.params, "locs": [-1.0 - i, 1.4]}) for i in range(3)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    _, together = jax.vmap(lambda state: c.em.update(state, *c.args))(stacked)
    for i, state in enumerate(states):
        assert_allclose(together[i], c.oracle.log_likelihood(c.em.get_params(state)), rtol=1e-9)


# -- random Bayes nets in nested plates ---------------------------------------------------------------------------


@st.composite
def nets(draw):
    """Plates, latents (depth, support, parents), children (depth, family, parents); parents are never deeper."""
    plates = draw(st.lists(st.integers(1, 3), min_size=0, max_size=2))
    outer_left = draw(st.booleans())
    latents = []
    for _ in range(draw(st.integers(1, 4))):
        depth = draw(st.integers(0, len(plates)))
        earlier = [i for i, other in enumerate(latents) if other[0] <= depth]
        parents = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=2)) if earlier else []
        latents.append((depth, draw(st.sampled_from([2, 2, 3])), tuple(parents)))
    children = []
    for _ in range(draw(st.integers(1, 3))):
        depth = draw(st.integers(0, len(plates)))
        visible = [i for i, other in enumerate(latents) if other[0] <= depth]
        parents = draw(st.lists(st.sampled_from(visible), unique=True, max_size=3)) if visible else []
        family = draw(st.sampled_from(["normal", "poisson", "bernoulli", "categorical", "gamma", "scale"]))
        children.append((depth, family, tuple(parents)))
    return tuple(plates), outer_left, tuple(latents), tuple(children), draw(st.integers(0, 10**6))


def build(net):
    """A NumPyro model of the net, with data and parameters drawn from its seed."""
    plates, outer_left, latents, children, seed = net
    random = np.random.default_rng(seed)
    tables = {}
    for i, (_, support, parents) in enumerate(latents):
        shape = tuple(latents[p][1] for p in parents)
        tables[f"table{i}"] = random.dirichlet(np.full(support, 3.0), size=shape)
    dims = [-len(plates) + level if outer_left else -1 - level for level in range(len(plates))]

    def shape_at(depth):
        out = [1] * max((-dim for dim in dims[:depth]), default=0)
        for dim, size in zip(dims[:depth], plates, strict=False):
            out[dim] = size
        return tuple(out)

    data = []
    for j, (depth, family, parents) in enumerate(children):
        shape, where = tuple(latents[p][1] for p in parents), shape_at(depth)
        if family == "normal":
            tables[f"child{j}"], x = random.normal(size=shape), random.normal(size=where)
        elif family == "scale":
            tables[f"child{j}"], x = random.gamma(4.0, 0.3, size=shape), random.normal(size=where)
        elif family == "poisson":
            tables[f"child{j}"], x = random.gamma(4.0, 0.7, size=shape), random.poisson(2.0, size=where)
        elif family == "gamma":
            tables[f"child{j}"], x = random.gamma(4.0, 0.4, size=shape), random.gamma(2.0, size=where)
        elif family == "bernoulli":
            tables[f"child{j}"], x = random.uniform(0.1, 0.9, size=shape), random.binomial(1, 0.5, size=where)
        else:
            tables[f"child{j}"], x = random.dirichlet(np.full(3, 3.0), size=shape), random.integers(0, 3, size=where)
        data.append(x)

    def model(data):
        values = {}

        def parent(p):
            return values[p]

        def pick(table, parents):
            return table[tuple(parent(p) for p in parents)] if parents else table

        def level(depth):
            for i, (own, support, parents) in enumerate(latents):
                if own == depth:
                    table = numpyro.param(f"table{i}", tables[f"table{i}"], constraint=constraints.simplex)
                    probs = pick(table, parents)
                    law = dist.Bernoulli(probs[..., 1]) if support == 2 and i % 2 else dist.Categorical(probs)
                    values[i] = numpyro.sample(f"z{i}", law)
            for j, (own, family, parents) in enumerate(children):
                if own == depth:
                    kind = {"normal": constraints.real, "bernoulli": constraints.unit_interval}.get(
                        family, constraints.positive
                    )
                    kind = constraints.simplex if family == "categorical" else kind
                    argument = pick(numpyro.param(f"child{j}", tables[f"child{j}"], constraint=kind), parents)
                    law = {
                        "normal": lambda a: dist.Normal(a, 1.0),
                        "scale": lambda a: dist.Normal(0.2, a),
                        "poisson": dist.Poisson,
                        "gamma": lambda a: dist.Gamma(2.0, a),
                        "bernoulli": dist.Bernoulli,
                        "categorical": dist.Categorical,
                    }[family]
                    numpyro.sample(f"x{j}", law(argument), obs=data[j])
            if depth < len(plates):
                with numpyro.plate(f"plate{depth}", plates[depth], dim=dims[depth]):
                    level(depth + 1)

        level(0)

    return model, (data,), tables


few = settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # every example compiles: shrinking would take minutes
    suppress_health_check=list(HealthCheck),
)


@few
@given(net=nets())
def test_random_nets(net):
    compare(net)


@pytest.mark.slow
@settings(few, max_examples=40)
@given(net=nets())
def test_many_random_nets(net):
    compare(net)


def compare(net):
    """Evidence, posterior, ascent of a random net beside brute force."""
    model, args, params = build(net)
    try:
        oracle = Oracle(model, args, params=params, cap=3**8)
    except TooLarge:
        assume(False)
    em = autoem.EM(model)
    check_e_step(em, oracle, params, args, {})
    state = em.init(KEY, *args, init_params=params)
    check_ascent(em, oracle, state, jax.jit(lambda state: em.update(state, *args)), 5)
