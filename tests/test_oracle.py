"""The oracle itself, held to numbers that can be computed by hand."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro import handlers
from numpyro.distributions import constraints

from tests import oracle
from tests.oracle import Oracle, TooLarge
from tests.zoo import ZOO


def coins(x, keep=True):
    p = numpyro.param("p", 0.3, constraint=constraints.unit_interval)
    with numpyro.plate("data", len(x)), handlers.mask(mask=keep):
        z = numpyro.sample("z", dist.Bernoulli(p))
        numpyro.sample("x", dist.Bernoulli(jnp.array([0.2, 0.9])[z]), obs=x)


def test_two_coins():
    truth = Oracle(coins, (np.array([1, 0]),), params={"p": 0.3})
    one, zero = 0.3 * 0.9 + 0.7 * 0.2, 0.3 * 0.1 + 0.7 * 0.8
    assert_allclose(truth.log_likelihood(), np.log(one) + np.log(zero), rtol=1e-14)
    assert_allclose(truth.marginals()["z"][:, 1], [0.27 / one, 0.03 / zero], rtol=1e-14)
    assert_allclose(truth.max_log_joint(), np.log(0.27) + np.log(0.56), rtol=1e-14)
    assert truth.mode()["z"].tolist() == [1, 0]
    assert_allclose(truth.log_joint({"z": [0, 1]}), np.log(0.14) + np.log(0.03), rtol=1e-14)
    # d/dp (log(0.7 p + 0.2) + log(0.8 - 0.7 p)), times dp/dlogit
    assert_allclose(truth.gradient(), [(0.7 / one - 0.7 / zero) * 0.21], rtol=1e-12)


def test_masked_out_latent_has_total_weight_one():
    seen = Oracle(coins, (np.array([1]),), params={"p": 0.3})
    masked = Oracle(coins, (np.array([1, 0]), np.array([True, False])), params={"p": 0.3})
    assert_allclose(masked.log_likelihood(), seen.log_likelihood(), rtol=1e-14)
    assert_allclose(masked.marginals()["z"][0], seen.marginals()["z"][0], rtol=1e-14)


def test_imputed_latent_counts_through_the_observed_site():
    def model():
        hidden = numpyro.sample("hidden", dist.Bernoulli(0.5).mask(False))
        numpyro.sample("a", dist.Bernoulli(numpyro.param("p", 0.3)), obs=jnp.stack([1, hidden]))
        numpyro.sample("x", dist.Bernoulli(jnp.array([0.2, 0.9])[hidden]), obs=1)

    truth = Oracle(model, params={"p": 0.3})
    assert_allclose(truth.log_likelihood(), np.log(0.3) + np.log(0.3 * 0.9 + 0.7 * 0.2), rtol=1e-14)


def test_support_of_a_shifted_uniform():
    def model():
        z = numpyro.sample("z", dist.DiscreteUniform(2, 4))
        numpyro.sample("x", dist.Exponential(numpyro.param("rate", 1.0) * z), obs=0.5)

    truth = Oracle(model, params={"rate": 1.0})
    assert_allclose(truth.log_likelihood(), np.log(np.mean([k * np.exp(-k / 2) for k in (2, 3, 4)])), rtol=1e-14)
    assert truth.latents["z"].support.tolist() == [2, 3, 4]


def test_scale_of_a_subsample_is_outside_and_of_observations_inside():
    def model(inside):
        p = numpyro.param("p", 0.3)
        with handlers.scale(scale=1.0 if inside else 2.5):
            z = numpyro.sample("z", dist.Bernoulli(p))
        with handlers.scale(scale=2.5):
            numpyro.sample("x", dist.Bernoulli(jnp.array([0.2, 0.9])[z]), obs=1)

    outside, inside = (Oracle(model, (flag,), params={"p": 0.3}).log_likelihood() for flag in (False, True))
    assert_allclose(outside, 2.5 * np.log(0.3 * 0.9 + 0.7 * 0.2), rtol=1e-14)
    assert_allclose(inside, np.log(0.3 * 0.9**2.5 + 0.7 * 0.2**2.5), rtol=1e-14)


def test_prior_of_a_maximized_site():
    def model():
        p = numpyro.sample("p", dist.Beta(2, 3))
        numpyro.sample("x", dist.Bernoulli(p), obs=1)

    truth = Oracle(model, params={"p": 0.4})
    assert_allclose(truth.log_likelihood(), np.log(0.4), rtol=1e-14)
    assert_allclose(truth.log_prior(), np.log(12 * 0.4 * 0.6**2), rtol=1e-12)
    assert Oracle(model, params={"p": 0.4}, flat=["p"]).log_prior() == 0
    assert_allclose(truth.maximize()[0]["p"], 0.5, rtol=1e-6)  # Beta(3, 3)


def test_published_linkage_answer_and_its_standard_error():
    """Rao's linkage data: theta = (15 + sqrt(53809)) / 394, standard error 0.051467."""
    entry = ZOO["linkage_individuals"]
    theta = (15 + 53809**0.5) / 394
    cells = np.repeat([0, 1, 2, 3], [125, 18, 20, 34])
    truth = Oracle(entry.model, (cells,), params={"theta": theta})
    assert_allclose(truth.gradient(), 0, atol=1e-9)
    assert_allclose(truth.standard_errors()["theta"], 0.051467, atol=1e-6)


def test_the_cap():
    with pytest.raises(TooLarge):
        Oracle(coins, (np.ones(15, int),), params={"p": 0.3}, split=False)


def few(name):
    """Few enough data that all elements can be enumerated jointly."""
    entry = ZOO[name]
    cut = {
        "nested_latents_both_levels": lambda x: (x[:2, :3],),
        "nested_observation_sees_both_levels": lambda x: (x[:2, :3],),
        "three_parents_one_child": lambda x: (x[:3],),
        "binomial_latent_uneven_trials": lambda n, x: (n[:5], x[:5]),
        "abo_two_alleles": lambda x: (x[[0, 10, 12, 13]],),
        "normal_mixture_weighted": lambda x, w: (x[:6], w[:6]),
        "mixture_padding_masked_with_its_latent": lambda x, valid: (x[:6], ~valid[:6]),
    }.get(name)
    return entry, cut(*entry.args) if cut else entry.args


SMALL = ["alarm_one_case", "explaining_away_scalars", "scalar_chain_loop", "nested_by_index", "gathered_bernoulli_take"]
SMALL += ["nested_latents_both_levels", "nested_observation_sees_both_levels", "three_parents_one_child"]
SMALL += ["binomial_latent_uneven_trials", "covariate_imputed", "abo_two_alleles"]
SMALL += ["mixture_padding_masked_with_its_latent", "dawid_skene_long"]


@pytest.mark.parametrize("name", SMALL)
def test_grouping_changes_nothing(name, monkeypatch):
    """Joint enumeration of all elements against enumeration group by group."""
    monkeypatch.setattr(oracle, "JOINTLY", 0)
    entry, args = few(name)
    grouped, joint = (
        Oracle(entry.model, args, entry.kwargs, params=entry.params, split=split) for split in (True, False)
    )
    assert len(joint._members) == 1
    assert_allclose(grouped.log_likelihood(), joint.log_likelihood(), rtol=1e-12)
    assert_allclose(grouped.max_log_joint(), joint.max_log_joint(), rtol=1e-12)
    assert_allclose(grouped.mean_log_joint(), joint.mean_log_joint(), rtol=1e-10)
    for site, value in grouped.marginals().items():
        assert_allclose(value, joint.marginals()[site], atol=1e-12)


def test_case_weights_are_powers_of_each_evidence():
    entry, (x, weights) = few("normal_mixture_weighted")
    whole = Oracle(entry.model, (x, weights), params=entry.params).log_likelihood()
    apart = [Oracle(entry.model, (x[i : i + 1], np.ones(1)), params=entry.params).log_likelihood() for i in range(6)]
    assert_allclose(whole, np.dot(weights, apart), rtol=1e-12)
