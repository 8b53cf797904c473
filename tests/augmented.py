"""Models whose observed sites have a hidden representation, as users write them, and with the latent written out.

Ordinary NumPyro and nothing of autoem. A model as users write it is its own oracle: its density is the marginal one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import constraints

from tests.zoo import positive, real, rng, simplex, unit


@dataclass(frozen=True)
class Case:
    """A model, its data and a generic point; the same with explicit latents; what to maximise.

    `rtol`: how far to trust NumPyro's own density. `closed`: whether every update is in closed form.
    `auxiliaries`: latents that are added.
    """

    model: Callable
    args: tuple
    params: dict[str, Any]
    explicit: Callable | None = None
    maximize: Any = None
    closed: bool = True
    rtol: float = 1e-10
    auxiliaries: tuple[str, ...] = ("x_assignment",)


CASES: dict[str, Case] = {}


def case(*args, params, explicit=None, **options):
    """Put the model below into the table under its own name."""

    def put(model):
        assert model.__name__ not in CASES
        values = {name: np.asarray(value, float) for name, value in params.items()}
        CASES[model.__name__] = Case(model, args, values, explicit, **options)
        return model

    return put


_LABEL = np.tile([0, 1, 1, 0, 1, 0], 3)
_N = len(_LABEL)
_REAL = np.where(_LABEL, 2.0, -1.0) + rng(0).normal(size=_N)
_PLANE = np.array([[-1.0, 0.5], [1.5, -0.5]])[_LABEL] + rng(1).normal(size=(_N, 2))
_COUNT = rng(2).poisson(np.where(_LABEL, 7.0, 1.5))
_ZEROS = rng(3).poisson(3.0, _N) * (rng(4).uniform(size=_N) < 0.6)
_POSITIVE = rng(5).gamma(np.where(_LABEL, 9.0, 2.0), 0.5)
_BITS = rng(6).binomial(1, np.where(_LABEL, 0.8, 0.3))
_COVARIATES = np.column_stack([np.ones(_N), rng(7).normal(size=_N)])
_GROUP = np.tile([0, 1, 2], 6)
_W = {"weights": [0.4, 0.6]}
_NORMAL_KNOWN = {**_W, "locs": [-1.0, 1.4]}
_NORMAL = {**_W, "locs": [-1.0, 1.4], "scales": [0.8, 1.3]}


def plate(x):
    return numpyro.plate("data", len(x))


def observe(fn, x):
    with plate(x):
        numpyro.sample("x", fn, obs=x)


def msf(weights, components):
    return dist.MixtureSameFamily(dist.Categorical(weights, validate_args=False), components)


# -- MixtureSameFamily: one family after the other ---------------------------------------------------------------


def normal_explicit(x):
    weights, locs, scales = simplex("weights", 2), real("locs", 2), positive("scales", 2)
    with plate(x):
        z = numpyro.sample("x_assignment", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scales[z]), obs=x)


@case(_REAL, params=_NORMAL, explicit=normal_explicit)
def normal(x):
    weights, locs, scales = simplex("weights", 2), real("locs", 2), positive("scales", 2)
    observe(msf(weights, dist.Normal(locs, scales)), x)


def shared_scale_explicit(x):
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    with plate(x):
        z = numpyro.sample("x_assignment", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)


@case(_REAL, params={**_W, "locs": [-1.0, 1.4], "scale": 0.9}, explicit=shared_scale_explicit)
def shared_scale(x):
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    observe(msf(weights, dist.Normal(locs, scale)), x)


@case(_REAL, params={"weights": [0.4, 0.6], "locs": [-1.0, 1.4], "scale": 0.9}, explicit=shared_scale_explicit)
def expanded_by_hand(x):
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    components = dist.Normal(locs, scale).expand([len(x), 2])
    observe(msf(weights, components), x)


def planes_explicit(x):
    weights, locs = simplex("weights", 2), real("locs", 2, 2)
    covs = numpyro.param("covs", jnp.stack([jnp.eye(2)] * 2), constraint=constraints.positive_definite)
    with plate(x):
        z = numpyro.sample("x_assignment", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(locs[z], covs[z]), obs=x)


@case(
    _PLANE,
    params={**_W, "locs": [[-1.0, 0.2], [1.0, -0.4]], "covs": [[[1.0, 0.2], [0.2, 0.8]], [[1.2, -0.3], [-0.3, 1.0]]]},
    explicit=planes_explicit,
)
def planes(x):
    weights, locs = simplex("weights", 2), real("locs", 2, 2)
    covs = numpyro.param("covs", jnp.stack([jnp.eye(2)] * 2), constraint=constraints.positive_definite)
    observe(msf(weights, dist.MultivariateNormal(locs, covs)), x)


@case(
    _PLANE,
    params={**_W, "locs": [[-1.0, 0.2], [1.0, -0.4]], "roots": [[[1.0, 0.0], [0.2, 0.8]], [[1.2, 0.0], [-0.3, 1.0]]]},
)
def planes_by_cholesky_factor(x):
    weights, locs = simplex("weights", 2), real("locs", 2, 2)
    roots = numpyro.param("roots", jnp.stack([jnp.eye(2)] * 2), constraint=constraints.lower_cholesky)
    observe(msf(weights, dist.MultivariateNormal(locs, scale_tril=roots)), x)


def independent_explicit(x):
    weights, locs, scales = simplex("weights", 2), real("locs", 2, 2), positive("scales", 2, 1)
    with plate(x):
        z = numpyro.sample("x_assignment", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scales[z]).to_event(1), obs=x)


@case(
    _PLANE,
    params={**_W, "locs": [[-1.0, 0.2], [1.0, -0.4]], "scales": [[0.9], [1.2]]},
    explicit=independent_explicit,
)
def independent(x):
    weights, locs, scales = simplex("weights", 2), real("locs", 2, 2), positive("scales", 2, 1)
    observe(msf(weights, dist.Normal(locs, scales).to_event(1)), x)


def each_coordinate_explicit(x):
    weights, locs = simplex("weights", 2), real("locs", 2, 2)
    with plate(x):
        z = numpyro.sample("x_assignment", dist.Categorical(weights).expand([2]).to_event(1))
        numpyro.sample("x", dist.Normal(locs[jnp.arange(2), z], 1.0).to_event(1), obs=x)


@case(_PLANE, params={**_W, "locs": [[-1.0, 0.2], [1.0, -0.4]]}, explicit=each_coordinate_explicit)
def each_coordinate_its_own(x):
    weights, locs = simplex("weights", 2), real("locs", 2, 2)
    observe(msf(weights, dist.Normal(locs, 1.0)).to_event(1), x)


def poisson_explicit(x):
    weights, rates = simplex("weights", 2), positive("rates", 2)
    with plate(x):
        z = numpyro.sample("x_assignment", dist.Categorical(weights))
        numpyro.sample("x", dist.Poisson(rates[z]), obs=x)


@case(_COUNT, params={**_W, "rates": [1.0, 5.0]}, explicit=poisson_explicit)
def poisson(x):
    weights, rates = simplex("weights", 2), positive("rates", 2)
    observe(msf(weights, dist.Poisson(rates)), x)


@case(_POSITIVE, params={**_W, "shapes": [2.0, 6.0], "rates": [1.0, 1.5]}, closed=False)
def gamma(x):
    weights, shapes, rates = simplex("weights", 2), positive("shapes", 2), positive("rates", 2)
    observe(msf(weights, dist.Gamma(shapes, rates)), x)


@case(_BITS, params={"weights": [0.4, 0.6], "logits": [-0.5, 1.0]})
def bernoulli_by_logits(x):
    weights, logits = simplex("weights", 2), real("logits", 2)
    observe(msf(weights, dist.Bernoulli(logits=logits)), x)


@case(_COUNT, params={**_W, "means": [1.0, 6.0], "concentration": 3.0}, closed=False, rtol=1e-6)
def negative_binomial(x):
    weights, means, concentration = simplex("weights", 2), positive("means", 2), positive("concentration")
    observe(msf(weights, dist.NegativeBinomial2(means, concentration)), x)


@case(_REAL, params={**_W, "locs": [-1.0, 1.4], "scale": 0.9})
def student(x):
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    observe(msf(weights, dist.StudentT(4.0, locs, scale)), x)


# -- weights and components that vary ---------------------------------------------------------------------------


def regressions_explicit(x, covariates):
    weights, slopes, scale = simplex("weights", 2), real("slopes", 2, 2), positive("scale")
    with plate(x):
        z = numpyro.sample("x_assignment", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal((covariates * slopes[z]).sum(-1), scale), obs=x)


@case(
    _REAL,
    _COVARIATES,
    params={**_W, "slopes": [[-1.0, 0.3], [1.4, -0.2]], "scale": 1.1},
    explicit=regressions_explicit,
)
def regressions(x, covariates):
    weights, slopes, scale = simplex("weights", 2), real("slopes", 2, 2), positive("scale")
    observe(msf(weights, dist.Normal(covariates @ slopes.T, scale)), x)


@case(_REAL, _COVARIATES, params={"gates": [0.3, -0.5], "locs": [-1.0, 1.4], "scale": 1.1}, closed=False)
def experts(x, covariates):
    gates, locs, scale = real("gates", 2), real("locs", 2), positive("scale")
    logits = jnp.stack([covariates @ gates, jnp.zeros(len(x))], -1)
    with plate(x):
        mixing = dist.Categorical(logits=logits)
        numpyro.sample("x", dist.MixtureSameFamily(mixing, dist.Normal(locs, scale)), obs=x)


def weights_by_group_explicit(x, group):
    weights, locs = simplex("weights", 3, 2), real("locs", 2)
    with plate(x):
        z = numpyro.sample("x_assignment", dist.Categorical(weights[group]))
        numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)


@case(
    _REAL,
    _GROUP,
    params={"weights": [[0.4, 0.6], [0.3, 0.7], [0.55, 0.45]], "locs": [-1.0, 1.4]},
    explicit=weights_by_group_explicit,
)
def weights_by_group(x, group):
    weights, locs = simplex("weights", 3, 2), real("locs", 2)
    observe(msf(weights[group], dist.Normal(locs, 1.0)), x)


def emission_explicit(x):
    start, weights, locs = simplex("start", 2), simplex("weights", 2, 3), real("locs", 2, 3)
    with plate(x):
        s = numpyro.sample("s", dist.Categorical(start))
        z = numpyro.sample("x_assignment", dist.Categorical(weights[s]))
        numpyro.sample("x", dist.Normal(locs[s, z], 1.0), obs=x)


@case(
    _REAL,
    params={
        "start": [0.45, 0.55],
        "weights": [[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]],
        "locs": [[-2.0, -1.0, 0.0], [1.0, 2.0, 3.0]],
    },
    explicit=emission_explicit,
)
def emission_of_another_latent(x):
    start, weights, locs = simplex("start", 2), simplex("weights", 2, 3), real("locs", 2, 3)
    with plate(x):
        s = numpyro.sample("s", dist.Categorical(start))
        numpyro.sample("x", msf(weights[s], dist.Normal(locs[s], 1.0)), obs=x)


@case(_REAL, params={"masses": [0.8, 1.9], "locs": [-1.0, 1.4]}, closed=False)
def weights_that_do_not_add_up(x):
    masses, locs = positive("masses", 2), real("locs", 2)
    observe(msf(masses, dist.Normal(locs, 1.0)), x)


@case(_REAL, params={"locs": [-1.0, 1.4]})
def known_weights_that_do_not_add_up(x):
    locs = real("locs", 2)
    observe(msf(jnp.array([1.0, 3.0]), dist.Normal(locs, 1.0)), x)


@case(_REAL, params={"share": 0.6, "locs": [-1.0, 1.4]}, closed=False)
def weights_from_a_share(x):
    share, locs = unit("share"), real("locs", 2)
    observe(msf(jnp.stack([1 - share, share]), dist.Normal(locs, 1.0)), x)


@case(_REAL, params={"weights": [0.4, 0.6], "locs": [-1.0, 1.4]}, closed=False)
def weights_times_numbers(x):
    weights, locs = simplex("weights", 2), real("locs", 2)
    observe(msf(weights * jnp.array([1.0, 2.0]), dist.Normal(locs, 1.0)), x)


@case(_REAL, params={"scores": [0.3, -0.2], "locs": [-1.0, 1.4]}, closed=False)
def weights_by_softmax(x):
    scores, locs = real("scores", 2), real("locs", 2)
    observe(msf(jax.nn.softmax(scores), dist.Normal(locs, 1.0)), x)


@case(_REAL, params=_NORMAL, maximize="global", closed=False)
def priors(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([2.0, 3.0])))
    locs = numpyro.sample("locs", dist.Normal(0.0, 3.0).expand([2]))
    scales = numpyro.sample("scales", dist.LogNormal(0.0, 1.0).expand([2]))
    observe(msf(weights, dist.Normal(locs, scales)), x)


# -- masks, scales, shapes ---------------------------------------------------------------------------------------

_HOLES = np.where(np.arange(_N) % 5 == 2, np.nan, _REAL)
_SEEN = ~np.isnan(_HOLES)


@case(_HOLES, _SEEN, params=_NORMAL)
def masked(x, seen):
    weights, locs, scales = simplex("weights", 2), real("locs", 2), positive("scales", 2)
    with handlers.mask(mask=seen):
        observe(msf(weights, dist.Normal(locs, scales)), x)


@case(_PLANE, _SEEN, params={"weights": [0.4, 0.6], "locs": [[-1.0, 0.2], [1.0, -0.4]]})
def masked_events(x, seen):
    weights, locs = simplex("weights", 2), real("locs", 2, 2)
    with handlers.mask(mask=seen):
        observe(msf(weights, dist.Normal(locs, 1.0)).to_event(1), x)


@case(_REAL, np.linspace(0.5, 2.0, _N), params=_NORMAL)
def weighted(x, case_weights):
    weights, locs, scales = simplex("weights", 2), real("locs", 2), positive("scales", 2)
    with plate(x), handlers.scale(scale=case_weights):
        numpyro.sample("x", msf(weights, dist.Normal(locs, scales)), obs=x)


@case(_REAL, params=_NORMAL)
def subsampled(x):
    weights, locs, scales = simplex("weights", 2), real("locs", 2), positive("scales", 2)
    with numpyro.plate("data", 40, subsample_size=len(x)):
        numpyro.sample("x", msf(weights, dist.Normal(locs, scales)), obs=x)


@case(_REAL, params=_NORMAL)
def without_a_plate(x):
    weights, locs, scales = simplex("weights", 2), real("locs", 2), positive("scales", 2)
    numpyro.sample("x", msf(weights, dist.Normal(locs, scales)), obs=x)


@case(params=_NORMAL_KNOWN)
def one_value_for_all():
    weights, locs = simplex("weights", 2), real("locs", 2)
    with numpyro.plate("data", 3):
        numpyro.sample("x", msf(weights, dist.Normal(locs, 1.0)), obs=0.4)


@case(np.stack([_REAL, _REAL[::-1] + 1]), params={"weights": [0.4, 0.6], "locs": [[-1.0, 1.0], [0.3, 2.0]]})
def two_plates(x):
    weights, locs = simplex("weights", 2), real("locs", 2, 2)
    with numpyro.plate("rows", 2, dim=-2), numpyro.plate("columns", x.shape[1], dim=-1):
        numpyro.sample("x", msf(weights, dist.Normal(locs[:, None, :], 1.0)), obs=x)


@case(_ZEROS, _SEEN, params={"gate": 0.3, "rate": 2.0}, auxiliaries=("x_gate",))
def masked_zero_inflated(x, seen):
    gate, rate = unit("gate"), positive("rate")
    with plate(x), handlers.mask(mask=seen), handlers.scale(scale=2.0):
        numpyro.sample("x", dist.ZeroInflatedPoisson(gate, rate), obs=x)


# -- MixtureGeneral ----------------------------------------------------------------------------------------------


def listed(weights, *components, **options):
    for component in components:
        component._validate_args = False
    return dist.MixtureGeneral(dist.Categorical(weights), list(components), **options)


def two_normals_explicit(x):
    weights, low, high, scale = simplex("weights", 2), real("low"), real("high"), positive("scale")
    with plate(x):
        z = numpyro.sample("x_assignment", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(jnp.stack([low, high])[z], scale), obs=x)


@case(_REAL, params={**_W, "low": -1.0, "high": 1.4, "scale": 0.9}, explicit=two_normals_explicit)
def two_normals(x):
    weights, low, high, scale = simplex("weights", 2), real("low"), real("high"), positive("scale")
    observe(listed(weights, dist.Normal(low, scale), dist.Normal(high, scale)), x)


@case(_PLANE, params={**_W, "low": [-1.0, 0.3], "high": [1.4, 0.0]})
def two_vectors(x):
    weights, low, high = simplex("weights", 2), real("low", 2), real("high", 2)
    components = dist.Normal(low, 1.0).to_event(1), dist.Normal(high, jnp.array([1.0, 2.0])).to_event(1)
    observe(listed(weights, *components), x)


@case(_REAL, params={**_W, "low": -1.0, "high": 1.4, "scale": 0.9})
def normal_and_laplace(x):
    weights, low, high, scale = simplex("weights", 2), real("low"), real("high"), positive("scale")
    observe(listed(weights, dist.Normal(low, scale), dist.Laplace(high, 1.0)), x)


@case(_REAL, params={**_W, "loc": -0.5, "rate": 0.8})
def normal_and_exponential(x):
    """An Exponential has no mass at the negative data."""
    weights, loc, rate = simplex("weights", 2), real("loc"), positive("rate")
    observe(listed(weights, dist.Normal(loc, 1.0), dist.Exponential(rate), support=constraints.real), x)


@case(_POSITIVE * (_BITS > 0), params={**_W, "rate": 0.8})
def rain(x):
    """A point mass at zero, or an amount: a hurdle."""
    weights, rate = simplex("weights", 2), positive("rate")
    components = dist.Delta(0.0), dist.Gamma(2.0, rate)
    observe(listed(weights, *components, support=constraints.nonnegative), x)


@case(
    _COUNT,
    params={**_W, "probs": [0.2, 0.6]},
)
def binomials(x):
    """Trials differ: a count above ten came from the second."""
    weights, probs = simplex("weights", 2), unit("probs", 2)
    support = constraints.nonnegative_integer
    observe(listed(weights, dist.Binomial(10, probs[0]), dist.Binomial(30, probs[1]), support=support), x)


@case(_REAL, params={**_W, "low": -1.0, "high": 1.4}, closed=False)
def truncated(x):
    weights, low, high = simplex("weights", 2), real("low"), real("high")
    observe(listed(weights, *[dist.TruncatedNormal(loc, 1.0, low=-9.0) for loc in (low, high)]), x)


# -- zero inflation -----------------------------------------------------------------------------------------------


def zero_inflated_explicit(x):
    gate, rate = unit("gate"), positive("rate")
    with plate(x):
        shut = numpyro.sample("x_gate", dist.Bernoulli(gate))
        numpyro.sample("x", dist.Poisson(jnp.where(shut == 1, 0.0, rate)), obs=x)


@case(_ZEROS, params={"gate": 0.3, "rate": 2.0}, explicit=zero_inflated_explicit, auxiliaries=("x_gate",))
def zero_inflated(x):
    gate, rate = unit("gate"), positive("rate")
    observe(dist.ZeroInflatedPoisson(gate, rate), x)


@case(
    _ZEROS,
    _GROUP,
    np.linspace(0.5, 2.0, _N),
    params={"gate": [0.3, 0.2, 0.4], "rate": [2.0, 3.0, 1.0]},
    auxiliaries=("x_gate",),
)
def zero_inflated_by_group(x, group, exposure):
    gate, rate = unit("gate", 3), positive("rate", 3)
    observe(dist.ZeroInflatedPoisson(gate[group], rate[group] * exposure), x)


@case(_ZEROS, _COVARIATES, params={"gates": [-0.4, 0.3], "slopes": [0.8, 0.1]}, closed=False, auxiliaries=("x_gate",))
def zero_inflated_regression(x, covariates):
    gates, slopes = real("gates", 2), real("slopes", 2)
    base = dist.Poisson(jnp.exp(covariates @ slopes))
    observe(dist.ZeroInflatedDistribution(base, gate_logits=covariates @ gates), x)


@case(_ZEROS, params={"gate": 0.3, "mean": 2.0, "concentration": 2.5}, closed=False, rtol=1e-6, auxiliaries=("x_gate",))
def zero_inflated_negative_binomial(x):
    gate, mean, concentration = unit("gate"), positive("mean"), positive("concentration")
    observe(dist.ZeroInflatedNegativeBinomial2(mean, concentration, gate=gate), x)


@case(_ZEROS, params={"logit": 0.3, "prob": 0.4}, auxiliaries=("x_gate",))
def zero_inflated_binomial(x):
    logit, prob = real("logit"), unit("prob")
    observe(dist.ZeroInflatedDistribution(dist.Binomial(20, prob), gate_logits=logit), x)


# -- one inside the other -----------------------------------------------------------------------------------------


@case(
    _ZEROS,
    params={**_W, "gates": [0.3, 0.2], "rates": [1.5, 4.0]},
    auxiliaries=("x_assignment", "x_gate"),
)
def mixture_of_zero_inflated(x):
    weights, gates, rates = simplex("weights", 2), unit("gates", 2), positive("rates", 2)
    observe(msf(weights, dist.ZeroInflatedPoisson(gates, rates)), x)


@case(
    _ZEROS,
    params={**_W, "gate": 0.3, "rates": [1.5, 4.0]},
    auxiliaries=("x_gate", "x_assignment"),
)
def zero_inflated_mixture(x):
    weights, gate, rates = simplex("weights", 2), unit("gate"), positive("rates", 2)
    base = dist.MixtureGeneral(dist.Categorical(weights), [dist.Poisson(rates[0]), dist.Poisson(rates[1])])
    observe(dist.ZeroInflatedDistribution(base, gate=gate), x)


@case(
    _REAL,
    params={"weights": [0.4, 0.6], "inner": [[0.5, 0.5], [0.2, 0.8]], "locs": [[-2.0, -0.5], [0.5, 2.0]]},
    auxiliaries=("x_assignment", "x_assignment_2"),
)
def mixture_of_mixtures(x):
    weights, inner, locs = simplex("weights", 2), simplex("inner", 2, 2), real("locs", 2, 2)
    components = [msf(inner[k], dist.Normal(locs[k], 1.0)) for k in range(2)]
    observe(listed(weights, *components, support=constraints.real), x)
