"""A zoo of small models, all of different structure, whose latent variables are discrete.

Ordinary NumPyro and nothing of autoem. Every entry carries data, a generic interior parameter point (no symmetry,
so that labels are told apart) and what to maximise; `tests/oracle.py` knows the truth about each of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.ops.indexing import Vindex


@dataclass(frozen=True)
class Entry:
    """A model, its arguments, a start, and the keywords of `EM`.

    `interior`: EM from `params` ends at a stationary point inside the parameter space.
    `identified`: the observed information at that point is not singular.
    """

    name: str
    model: Callable
    args: tuple
    params: dict[str, Any]
    kwargs: dict[str, Any] = field(default_factory=dict)
    maximize: Any = None
    flat: Any = None
    interior: bool = True
    identified: bool = False

    @property
    def em_keywords(self):
        given = {"maximize": self.maximize, "flat": self.flat}
        return {key: value for key, value in given.items() if value is not None}

    @property
    def oracle_flat(self):
        return self.flat if self.flat is not None else ()


ZOO: dict[str, Entry] = {}


def entry(*args, params, name=None, **options):
    """Put the model below into the zoo under its own name."""

    def put(model):
        key = name or model.__name__
        assert key not in ZOO, key
        values = {site: np.asarray(value, float) for site, value in params.items()}
        ZOO[key] = Entry(key, model, args, values, **options)
        return model

    return put


def rng(seed):
    return np.random.default_rng(seed)


def simplex(name, *shape):
    """A param on the simplex (along the last axis)."""
    return numpyro.param(name, jnp.full(shape, 1 / shape[-1]), constraint=constraints.simplex)


def real(name, *shape):
    return numpyro.param(name, jnp.zeros(shape))


def positive(name, *shape):
    return numpyro.param(name, jnp.ones(shape), constraint=constraints.positive)


def unit(name, *shape):
    return numpyro.param(name, jnp.full(shape, 0.5), constraint=constraints.unit_interval)


# -- data ------------------------------------------------------------------------------------------------------

_LABEL = np.repeat([0, 1, 0, 1, 1, 0, 1, 0], 5)
_N = len(_LABEL)
_REAL = np.where(_LABEL, 2.0, -1.5) + np.where(_LABEL, 1.0, 0.7) * rng(0).normal(size=_N)
_PLANE = np.array([[-1.0, 0.5], [1.5, -0.5]])[_LABEL] + rng(1).normal(size=(_N, 2)) @ np.array([[1.0, 0.3], [0.0, 0.8]])
_COUNT = rng(2).poisson(np.where(_LABEL, 7.0, 1.5))
_POSITIVE = rng(3).gamma(np.where(_LABEL, 9.0, 2.0), 0.5)
_FRACTION = np.clip(rng(4).beta(np.where(_LABEL, 6.0, 1.5), np.where(_LABEL, 2.0, 4.0)), 0.01, 0.99)
_BITS = rng(5).binomial(1, np.array([[0.8, 0.7, 0.25, 0.8], [0.3, 0.2, 0.7, 0.3]])[_LABEL])
_COVARIATE = rng(6).normal(size=_N)
_TWO_LOCS = {"weights": [0.4, 0.6], "locs": [-1.0, 1.4]}


# -- mixtures of one-dimensional families ----------------------------------------------------------------------


@entry(_REAL, params={**_TWO_LOCS, "scales": [0.8, 1.3]}, identified=True)
def normal_mixture(x):
    weights, locs, scales = simplex("weights", 2), real("locs", 2), positive("scales", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scales[z]), obs=x)


@entry(_REAL, params={"weights": [0.3, 0.5, 0.2], "locs": [-1.0, 1.4, 0.2], "scale": 0.9})
def normal_mixture_shared_scale(x):
    weights, locs, scale = simplex("weights", 3), real("locs", 3), positive("scale")
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)


@entry(_REAL, params={**_TWO_LOCS}, identified=True)
def normal_mixture_known_scale(x):
    weights, locs = simplex("weights", 2), real("locs", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)


@entry(_REAL, params={**_TWO_LOCS, "variances": [0.8, 1.3]})
def normal_mixture_variances(x):
    weights, locs, variances = simplex("weights", 2), real("locs", 2), positive("variances", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], jnp.sqrt(variances)[z]), obs=x)


@entry(_REAL, params={**_TWO_LOCS, "precisions": [1.4, 0.7]})
def normal_mixture_precisions(x):
    weights, locs, precisions = simplex("weights", 2), real("locs", 2), positive("precisions", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], 1 / jnp.sqrt(precisions[z])), obs=x)


@entry(_REAL, params={**_TWO_LOCS, "log_scales": [-0.2, 0.3]})
def normal_mixture_log_scales(x):
    weights, locs, log_scales = simplex("weights", 2), real("locs", 2), real("log_scales", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], jnp.exp(log_scales[z])), obs=x)


@entry(_REAL, params={"logits": [0.3, -0.2], "locs": [-1.0, 1.4], "scale": 1.1})
def normal_mixture_logits(x):
    logits, locs, scale = real("logits", 2), real("locs", 2), positive("scale")
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(logits=logits))
        numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)


@entry(_REAL, params={"scores": [0.3], "locs": [-1.0, 1.4], "scale": 1.1}, identified=True)
def normal_mixture_softmax(x):
    scores, locs, scale = real("scores", 1), real("locs", 2), positive("scale")
    weights = jax.nn.softmax(jnp.append(scores, 0.0))
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)


@entry(_REAL, params={"share": 0.6, "low": -1.0, "high": 1.4, "scale": 1.1}, identified=True)
def normal_mixture_bernoulli_where(x):
    share, low, high, scale = unit("share"), real("low"), real("high"), positive("scale")
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(share))
        numpyro.sample("x", dist.Normal(jnp.where(z == 1, high, low), scale), obs=x)


@entry(_REAL, params={"share": 0.6, "low": -1.0, "gap": 2.4, "scale": 1.1}, identified=True)
def normal_mixture_bernoulli_shift(x):
    share, low, gap, scale = unit("share"), real("low"), positive("gap"), positive("scale")
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(share))
        numpyro.sample("x", dist.Normal(low + gap * z, scale), obs=x)


@entry(_REAL, params={"logit": 0.4, "locs": [-1.0, 1.4], "scale": 1.1})
def normal_mixture_bernoulli_logit(x):
    logit, locs, scale = real("logit"), real("locs", 2), positive("scale")
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(logits=logit))
        numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)


@entry(_REAL, params={"locs": [-1.0, 1.4], "scales": [0.8, 1.3]}, identified=True)
def normal_mixture_known_weights(x):
    locs, scales = real("locs", 2), positive("scales", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.45, 0.55])))
        numpyro.sample("x", dist.Normal(locs[z], scales[z]), obs=x)


@entry(_REAL, params={"weights": [0.4, 0.6], "half_gap": 1.2, "scale": 1.0}, identified=True)
def normal_mixture_tied_locs(x):
    weights, half_gap, scale = simplex("weights", 2), real("half_gap"), positive("scale")
    locs = jnp.stack([-half_gap, half_gap])
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)


@entry(_REAL, params={"weights": [0.3, 0.5, 0.2], "loc": 1.4, "scale": 1.0})
def normal_mixture_frozen_locs(x):
    weights, loc, scale = simplex("weights", 3), real("loc"), positive("scale")
    locs = jnp.array([-1.0, 0.0, 0.5]).at[1].set(loc)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)


@entry(_REAL, params={"weights": [0.4, 0.6], "loc": 0.3, "scales": [0.5, 2.3]})
def normal_scale_mixture(x):
    weights, loc, scales = simplex("weights", 2), real("loc"), positive("scales", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(loc, scales[z]), obs=x)


@entry(_COUNT, params={"weights": [0.4, 0.6], "rates": [1.0, 5.0]}, identified=True)
def poisson_mixture(x):
    weights, rates = simplex("weights", 2), positive("rates", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Poisson(rates[z]), obs=x)


@entry(
    rng(7).poisson(np.where(_LABEL, 4.0, 1.0) * np.linspace(0.5, 2.5, _N)),
    np.linspace(0.5, 2.5, _N),
    params={"weights": [0.4, 0.6], "rates": [0.7, 3.0]},
    identified=True,
)
def poisson_mixture_exposure(x, exposure):
    weights, rates = simplex("weights", 2), positive("rates", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Poisson(rates[z] * exposure), obs=x)


@entry(
    rng(8).binomial(10, np.where(_LABEL, 0.75, 0.25)),
    params={"weights": [0.4, 0.6], "probs": [0.2, 0.6]},
    identified=True,
)
def binomial_mixture(x):
    weights, probs = simplex("weights", 2), unit("probs", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Binomial(10, probs[z]), obs=x)


_TRIALS = rng(9).integers(3, 12, _N)


@entry(
    rng(10).binomial(_TRIALS, np.where(_LABEL, 0.75, 0.25)),
    _TRIALS,
    params={"weights": [0.4, 0.6], "logits": [-1.2, 0.6]},
)
def binomial_mixture_trials_and_logits(x, trials):
    weights, logits = simplex("weights", 2), real("logits", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Binomial(trials, logits=logits[z]), obs=x)


@entry(
    np.stack([rng(11 + i).multinomial(8, [[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]][k]) for i, k in enumerate(_LABEL)]),
    params={"weights": [0.4, 0.6], "probs": [[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]},
)
def multinomial_mixture(x):
    weights, probs = simplex("weights", 2), simplex("probs", 2, 3)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Multinomial(8, probs[z]), obs=x)


@entry(_POSITIVE, params={"weights": [0.4, 0.6], "rates": [1.5, 0.3]}, interior=False)
def exponential_mixture(x):
    weights, rates = simplex("weights", 2), positive("rates", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Exponential(rates[z]), obs=x)


@entry(_POSITIVE, params={"weights": [0.4, 0.6], "shapes": [1.5, 6.0], "rates": [1.5, 1.3]})
def gamma_mixture(x):
    weights, shapes, rates = simplex("weights", 2), positive("shapes", 2), positive("rates", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Gamma(shapes[z], rates[z]), obs=x)


@entry(_FRACTION, params={"weights": [0.4, 0.6], "a": [1.2, 5.0], "b": [3.0, 2.2]})
def beta_mixture(x):
    weights, a, b = simplex("weights", 2), positive("a", 2), positive("b", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Beta(a[z], b[z]), obs=x)


@entry(np.exp(_REAL), params={**_TWO_LOCS, "scale": 1.1})
def lognormal_mixture(x):
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.LogNormal(locs[z], scale), obs=x)


@entry(rng(60).geometric(np.where(_LABEL, 0.75, 0.1)) - 1, params={"weights": [0.4, 0.6], "probs": [0.15, 0.6]})
def geometric_mixture(x):
    weights, probs = simplex("weights", 2), unit("probs", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Geometric(probs[z]), obs=x)


@entry(
    rng(61).vonmises(np.where(_LABEL, 1.5, -1.0), 4.0),
    params={"weights": [0.4, 0.6], "locs": [-0.7, 1.2], "concentrations": [3.0, 2.0]},
)
def von_mises_mixture(x):
    weights, locs, concentrations = simplex("weights", 2), real("locs", 2), positive("concentrations", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.VonMises(locs[z], concentrations[z]), obs=x)


@entry(_REAL, params={**_TWO_LOCS, "scales": [0.8, 1.3]}, interior=False)  # a weighted median is a kink
def laplace_mixture(x):
    weights, locs, scales = simplex("weights", 2), real("locs", 2), positive("scales", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Laplace(locs[z], scales[z]), obs=x)


@entry(_POSITIVE, params={"weights": [0.4, 0.6], "scales": [0.8, 4.0], "shapes": [1.3, 2.5]})
def weibull_mixture(x):
    weights, scales, shapes = simplex("weights", 2), positive("scales", 2), positive("shapes", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Weibull(scales[z], shapes[z]), obs=x)


@entry(_COUNT, params={"weights": [0.4, 0.6], "probs": [0.2, 0.6]})
def negative_binomial_mixture(x):
    weights, probs = simplex("weights", 2), unit("probs", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.NegativeBinomialProbs(4, probs[z]), obs=x)


@entry(
    np.concatenate([np.zeros(12, int), rng(62).poisson(3.0, 20)]), params={"gate": 0.3, "rate": 2.0}, identified=True
)
def zero_inflated_poisson_spelled_out(x):
    gate, rate = unit("gate"), positive("rate")
    with numpyro.plate("data", len(x)):
        never = numpyro.sample("never", dist.Bernoulli(gate))
        numpyro.sample("x", dist.Poisson(jnp.where(never == 1, 1e-6, rate)), obs=x)


# -- several dimensions ----------------------------------------------------------------------------------------

_LOCS2 = {"weights": [0.4, 0.6], "locs": [[-0.8, 0.2], [1.1, -0.3]]}


@entry(_PLANE, params={**_LOCS2, "covs": [[[1.2, 0.3], [0.3, 0.9]], [[0.9, -0.1], [-0.1, 1.1]]]})
def mvn_covariance(x):
    weights, locs = simplex("weights", 2), real("locs", 2, 2)
    covs = numpyro.param("covs", np.stack([np.eye(2)] * 2), constraint=constraints.positive_definite)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(locs[z], covs[z]), obs=x)


@entry(_PLANE, params={**_LOCS2, "trils": [[[1.2, 0.0], [0.3, 0.9]], [[0.9, 0.0], [-0.1, 1.1]]]})
def mvn_scale_tril(x):
    weights, locs = simplex("weights", 2), real("locs", 2, 2)
    trils = numpyro.param("trils", np.stack([np.eye(2)] * 2), constraint=constraints.lower_cholesky)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(locs[z], scale_tril=trils[z]), obs=x)


@entry(_PLANE, params={**_LOCS2, "precisions": [[[1.2, 0.3], [0.3, 0.9]], [[0.9, -0.1], [-0.1, 1.1]]]})
def mvn_precision(x):
    weights, locs = simplex("weights", 2), real("locs", 2, 2)
    precisions = numpyro.param("precisions", np.stack([np.eye(2)] * 2), constraint=constraints.positive_definite)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(locs[z], precision_matrix=precisions[z]), obs=x)


@entry(_PLANE, params={**_LOCS2, "cov": [[1.2, 0.3], [0.3, 0.9]]}, identified=True)
def mvn_shared_covariance(x):
    weights, locs = simplex("weights", 2), real("locs", 2, 2)
    cov = numpyro.param("cov", np.eye(2), constraint=constraints.positive_definite)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(locs[z], cov), obs=x)


@entry(_PLANE, params={**_LOCS2, "variances": [[1.2, 0.9], [0.8, 1.1]]})
def mvn_diagonal(x):
    weights, locs, variances = simplex("weights", 2), real("locs", 2, 2), positive("variances", 2, 2)
    covs = jax.vmap(jnp.diag)(variances)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(locs[z], covs[z]), obs=x)


@entry(_PLANE, params={**_LOCS2, "variance": 1.1})
def mvn_spherical(x):
    weights, locs, variance = simplex("weights", 2), real("locs", 2, 2), positive("variance")
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(locs[z], variance * jnp.eye(2)), obs=x)


@entry(_PLANE, params={**_LOCS2, "scales": [[1.2, 0.9], [0.8, 1.1]]})
def normal_to_event_diagonal(x):
    weights, locs, scales = simplex("weights", 2), real("locs", 2, 2), positive("scales", 2, 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scales[z]).to_event(1), obs=x)


@entry(_PLANE, params={**_LOCS2, "scales": [1.2, 0.9]})
def normal_to_event_spherical(x):
    weights, locs, scales = simplex("weights", 2), real("locs", 2, 2), positive("scales", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scales[z][..., None]).to_event(1), obs=x)


@entry(_PLANE, params={**_LOCS2, "scales": [1.2, 0.9]})
def normal_two_plates(x):
    """Data in rows, features in columns, the latent on rows only."""
    weights, locs, scales = simplex("weights", 2), real("locs", 2, 2), positive("scales", 2)
    with numpyro.plate("rows", len(x), dim=-2):
        z = numpyro.sample("z", dist.Categorical(weights))
        with numpyro.plate("columns", 2, dim=-1):
            numpyro.sample("x", dist.Normal(locs[z, jnp.arange(2)], scales), obs=x)


_ITEMS = {"weights": [0.4, 0.6], "probs": [[0.7, 0.6, 0.3, 0.7], [0.2, 0.35, 0.6, 0.4]]}


@entry(_BITS, params=_ITEMS)
def latent_class(x):
    weights, probs = simplex("weights", 2), unit("probs", 2, 4)
    with numpyro.plate("person", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Bernoulli(probs[z]).to_event(1), obs=x)


@entry(_BITS, params=_ITEMS)
def latent_class_item_plate(x):
    weights, probs = simplex("weights", 2), unit("probs", 2, 4)
    with numpyro.plate("person", len(x), dim=-2):
        z = numpyro.sample("z", dist.Categorical(weights))
        with numpyro.plate("item", x.shape[1], dim=-1):
            numpyro.sample("x", dist.Bernoulli(Vindex(probs)[z, jnp.arange(4)]), obs=x)


@entry(_BITS, params={"weights": [0.4, 0.6], **{f"p{j}": [0.6 - 0.1 * j, 0.3 + 0.1 * j] for j in range(4)}})
def latent_class_item_loop(x):
    """One site and one param per item, written as a Python loop."""
    weights = simplex("weights", 2)
    with numpyro.plate("person", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        for j in range(x.shape[1]):
            numpyro.sample(f"x{j}", dist.Bernoulli(unit(f"p{j}", 2)[z]), obs=x[:, j])


_GRADES = rng(63).integers(0, 3, (_N, 3)) * _LABEL[:, None] + (1 - _LABEL[:, None]) * (
    rng(64).uniform(size=(_N, 3)) < 0.3
)


@entry(
    _GRADES.astype(int),
    params={
        "weights": [0.4, 0.6],
        "probs": [
            [[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.5, 0.4, 0.1]],
            [[0.2, 0.3, 0.5], [0.3, 0.3, 0.4], [0.3, 0.2, 0.5]],
        ],
    },
    interior=False,
)
def latent_class_categorical(x):
    weights, probs = simplex("weights", 2), simplex("probs", 2, 3, 3)
    with numpyro.plate("person", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Categorical(probs[z]).to_event(1), obs=x)


# -- missing values --------------------------------------------------------------------------------------------

_SEEN = rng(65).uniform(size=_BITS.shape) < 0.8
_SEEN_REAL = rng(66).uniform(size=_N) < 0.8


@entry(_BITS, _SEEN, params=_ITEMS)
def latent_class_masked_items(x, seen):
    weights, probs = simplex("weights", 2), unit("probs", 2, 4)
    with numpyro.plate("person", len(x), dim=-2):
        z = numpyro.sample("z", dist.Categorical(weights))
        with numpyro.plate("item", 4, dim=-1), handlers.mask(mask=seen):
            numpyro.sample("x", dist.Bernoulli(probs[z, np.arange(4)]), obs=x)


@entry(np.where(_SEEN_REAL, _REAL, np.nan), params={**_TWO_LOCS, "scale": 1.1})
def mixture_masked_with_nan_below(x):
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    seen = ~np.isnan(x)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scale).mask(seen), obs=jnp.where(seen, x, 0.0))


@entry(_REAL, _SEEN_REAL, params={**_TWO_LOCS, "scale": 1.1})
def mixture_padding_masked_with_its_latent(x, valid):
    """Padding: the latent is masked out too, and must then count with total weight one."""
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    with numpyro.plate("data", len(x)), handlers.mask(mask=valid):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)


@entry(_LABEL, _REAL, _SEEN_REAL, params={**_TWO_LOCS, "scale": 1.1}, identified=True)
def semi_supervised_obs_mask(labels, x, known):
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights), obs=labels, obs_mask=known)
        numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)


@entry(_COUNT > 3, _REAL, _SEEN_REAL, params={"probs": [0.3, 0.6], "share": 0.4, "locs": [-1.0, 1.4]})
def covariate_missing_obs_mask(a, x, seen):
    """A binary parent of the latent, sometimes missing itself."""
    share, probs, locs = unit("share"), unit("probs", 2), real("locs", 2)
    with numpyro.plate("data", len(x)):
        a = numpyro.sample("a", dist.Bernoulli(share), obs=a.astype(int), obs_mask=seen)
        z = numpyro.sample("z", dist.Bernoulli(probs[a]))
        numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)


@entry(
    _LABEL, _REAL, np.nonzero(~_SEEN_REAL)[0], params={"share": 0.4, "locs": [-1.0, 1.4], "scale": 1.2}, identified=True
)
def covariate_imputed(a, x, missing):
    """The imputation idiom: an improper latent is written into an observed array, which gives it its density."""
    share, locs, scale = unit("share"), real("locs", 2), positive("scale")
    imputed = numpyro.sample("imputed", dist.Bernoulli(0.5).expand([len(missing)]).mask(False))
    a = jnp.asarray(a).at[missing].set(imputed)
    numpyro.sample("a", dist.Bernoulli(share).expand([len(x)]), obs=a)
    numpyro.sample("x", dist.Normal(locs[a], scale), obs=x)


# -- semi-supervised -------------------------------------------------------------------------------------------


@entry(_LABEL[:12], _REAL, params={**_TWO_LOCS, "scale": 1.1}, identified=True)
def semi_supervised_concatenate(labels, x):
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    with numpyro.plate("labelled", len(labels)):
        known = numpyro.sample("known", dist.Categorical(weights), obs=labels)
    with numpyro.plate("unlabelled", len(x) - len(labels)):
        hidden = numpyro.sample("hidden", dist.Categorical(weights))
    z = jnp.concatenate([known, hidden])
    with numpyro.plate("data", len(x)):
        numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)


@entry(_LABEL[:12], _REAL[:12], _REAL[12:], params={**_TWO_LOCS, "scale": 1.1}, identified=True)
def semi_supervised_two_plates(labels, x, u):
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    with numpyro.plate("labelled", len(labels)):
        known = numpyro.sample("known", dist.Categorical(weights), obs=labels)
        numpyro.sample("x", dist.Normal(locs[known], scale), obs=x)
    with numpyro.plate("unlabelled", len(u)):
        hidden = numpyro.sample("hidden", dist.Categorical(weights))
        numpyro.sample("u", dist.Normal(locs[hidden], scale), obs=u)


@entry(_LABEL, _REAL, np.arange(8), params={"weights": [0.5, 0.5], "locs": [-1.0, 1.4]})
def semi_supervised_scatter(labels, x, where):
    """Hidden labels are written into a vector of known ones; no plate anywhere."""
    weights, locs = simplex("weights", 2), real("locs", 2)
    hidden = numpyro.sample("hidden", dist.Categorical(weights), sample_shape=(len(where),))
    numpyro.sample("known", dist.Categorical(weights), obs=jnp.delete(jnp.asarray(labels), where))
    z = jnp.asarray(labels).at[where].set(hidden)
    numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)


# -- without plates ---------------------------------------------------------------------------------------------


@entry(_REAL, params={**_TWO_LOCS, "scale": 1.1})
def no_plate_sample_shape(x):
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    z = numpyro.sample("z", dist.Categorical(weights), sample_shape=(len(x),))
    numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)


@entry(_REAL, params={**_TWO_LOCS, "scale": 1.1})
def no_plate_expand(x):
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    z = numpyro.sample("z", dist.Categorical(weights).expand([len(x)]))
    numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)


@entry(_REAL[:9], params={**_TWO_LOCS, "scale": 1.1})
def no_plate_to_event(x):
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    z = numpyro.sample("z", dist.Categorical(weights).expand([len(x)]).to_event(1))
    numpyro.sample("x", dist.Normal(locs[z], scale).to_event(1), obs=x)


@entry(_REAL, _COVARIATE, params={"bias": 0.2, "slope": 0.5, "locs": [-1.0, 1.4]})
def no_plate_vector_arguments(x, u):
    """The latents are independent because their argument is a vector."""
    bias, slope, locs = real("bias"), real("slope"), real("locs", 2)
    z = numpyro.sample("z", dist.Bernoulli(logits=bias + slope * u))
    numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)


@entry(
    rng(67).integers(0, 2, (4, 3)), rng(68).normal(size=(4, 3)), params={"probs": [0.3, 0.5, 0.6], "locs": [-0.5, 0.8]}
)
def bernoulli_event_latent(_, x):
    """One latent vector per row, its elements in the event."""
    probs, locs = unit("probs", 3), real("locs", 2)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(probs).to_event(1))
        numpyro.sample("x", dist.Normal(locs[z], 1.0).to_event(1), obs=x)


# -- several latents ------------------------------------------------------------------------------------------


@entry(
    np.array([-2.0, 0.0, 1.0, 3.0])[rng(69).integers(0, 4, _N)] + 0.5 * rng(70).normal(size=_N),
    params={"p": 0.4, "q": 0.6, "means": [[-1.5, 0.2], [0.8, 2.5]], "scale": 0.6},
    identified=True,
)
def two_latents_table(x):
    p, q, means, scale = unit("p"), unit("q"), real("means", 2, 2), positive("scale")
    with numpyro.plate("data", len(x)):
        a = numpyro.sample("a", dist.Bernoulli(p))
        b = numpyro.sample("b", dist.Bernoulli(q))
        numpyro.sample("x", dist.Normal(means[a, b], scale), obs=x)


@entry(
    np.array([-2.0, 0.0, 1.0, 3.0])[rng(69).integers(0, 4, _N)] + 0.5 * rng(70).normal(size=_N),
    params={"weights": [0.3, 0.4, 0.3], "p": 0.55, "left": [-1.5, 0.2, 1.0], "right": [0.3, 1.4]},
)
def two_latents_additive(x):
    weights, p, left, right = simplex("weights", 3), unit("p"), real("left", 3), real("right", 2)
    with numpyro.plate("data", len(x)):
        a = numpyro.sample("a", dist.Categorical(weights))
        b = numpyro.sample("b", dist.Bernoulli(p))
        numpyro.sample("x", dist.Normal(left[a] + right[b], 0.5), obs=x)


@entry(
    _REAL,
    _COUNT,
    params={
        "weights": [0.4, 0.6],
        "given": [[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]],
        "locs": [-1.0, 1.4],
        "rates": [1.0, 3.0, 7.0],
    },
)
def latent_depends_on_latent(x, y):
    weights, given, locs, rates = simplex("weights", 2), simplex("given", 2, 3), real("locs", 2), positive("rates", 3)
    with numpyro.plate("data", len(x)):
        a = numpyro.sample("a", dist.Categorical(weights))
        b = numpyro.sample("b", dist.Categorical(given[a]))
        numpyro.sample("x", dist.Normal(locs[a], 1.0), obs=x)
        numpyro.sample("y", dist.Poisson(rates[b]), obs=y)


@entry(
    _REAL,
    _COUNT,
    _FRACTION,
    params={**_TWO_LOCS, "rates": [1.0, 6.0], "a": [1.5, 4.0], "b": [3.0, 1.5]},
    identified=True,
)
def three_kinds_of_children(x, y, w):
    weights, locs, rates = simplex("weights", 2), real("locs", 2), positive("rates", 2)
    a, b = positive("a", 2), positive("b", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)
        numpyro.sample("y", dist.Poisson(rates[z]), obs=y)
        numpyro.sample("w", dist.Beta(a[z], b[z]), obs=w)


@entry(_REAL, _REAL[::-1] * 0.5, params={**_TWO_LOCS, "scale": 1.1})
def tied_parameter_two_children(x, y):
    """The same locations serve two sites, one of them scaled by a known number."""
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)
        numpyro.sample("y", dist.Normal(0.5 * locs[z], scale), obs=y)


@entry(_COUNT, _POSITIVE, params={"weights": [0.4, 0.6], "rates": [1.0, 4.0]})
def tied_rate_poisson_and_exponential(x, t):
    weights, rates = simplex("weights", 2), positive("rates", 2)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Poisson(rates[z]), obs=x)
        numpyro.sample("t", dist.Exponential(rates[z]), obs=t)


@entry(_LABEL, _COUNT > 3, params={"shared": 0.45, "emit": [0.3, 0.6]}, interior=False)
def tied_probability_latent_and_observed(a, x):
    """One probability serves an observed site and a latent one."""
    shared, emit = unit("shared"), unit("emit", 2)
    with numpyro.plate("data", len(x)):
        numpyro.sample("a", dist.Bernoulli(shared), obs=a)
        z = numpyro.sample("z", dist.Bernoulli(shared))
        numpyro.sample("x", dist.Bernoulli(emit[z]), obs=x.astype(int))


# -- nested plates ----------------------------------------------------------------------------------------------

_GROUPED = np.where(np.arange(12) % 2, 1.5, -1.0) + rng(71).normal(size=(5, 12))
_FEW_GROUPED = rng(72).normal(size=(3, 4)) + np.array([-1.0, 1.0, -1.0, 2.0])


@entry(_GROUPED, params={**_TWO_LOCS, "scale": 1.1}, identified=True)
def nested_latent_outside(x):
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    with numpyro.plate("group", x.shape[1]):
        z = numpyro.sample("z", dist.Categorical(weights))
        with numpyro.plate("member", x.shape[0]):
            numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)


@entry(_GROUPED.T, params={"weights": [0.4, 0.6], "offsets": np.linspace(-1, 1, 5), "gaps": [-0.9, 1.2]})
def nested_latent_left_plate(x):
    weights, offsets, gaps = simplex("weights", 2), real("offsets", 5), real("gaps", 2)
    with numpyro.plate("group", x.shape[0], dim=-2):
        z = numpyro.sample("z", dist.Categorical(weights))
        with numpyro.plate("member", x.shape[1], dim=-1):
            numpyro.sample("x", dist.Normal(gaps[z] + offsets, 1.0), obs=x)


@entry(
    _FEW_GROUPED, params={"top": [0.35, 0.65], "within": [[0.7, 0.3], [0.2, 0.8]], "locs": [-1.0, 1.2], "scale": 0.9}
)
def nested_latents_both_levels(x):
    top, within, locs, scale = simplex("top", 2), simplex("within", 2, 2), real("locs", 2), positive("scale")
    with numpyro.plate("group", x.shape[1]):
        g = numpyro.sample("g", dist.Categorical(top))
        with numpyro.plate("member", x.shape[0]):
            z = numpyro.sample("z", dist.Categorical(within[g]))
            numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)


@entry(_FEW_GROUPED, params={"p": 0.4, "q": [0.3, 0.6], "means": [[-1.0, 0.5], [0.3, 1.4]]})
def nested_observation_sees_both_levels(x):
    p, q, means = unit("p"), unit("q", 2), real("means", 2, 2)
    with numpyro.plate("group", x.shape[1]):
        g = numpyro.sample("g", dist.Bernoulli(p))
        with numpyro.plate("member", x.shape[0]):
            z = numpyro.sample("z", dist.Bernoulli(q[g]))
            numpyro.sample("x", dist.Normal(means[g, z], 1.0), obs=x)


@entry(
    _FEW_GROUPED,
    _FEW_GROUPED[0],
    params={"top": 0.4, "q": 0.6, "means": [[-1.0, 0.5], [0.3, 1.4]], "outer": [-0.5, 0.6]},
    interior=False,
)
def scalar_latent_over_plated_latents(x, y):
    """A global switch, which every group's latents see."""
    top, q, means, outer = unit("top"), unit("q"), real("means", 2, 2), real("outer", 2)
    switch = numpyro.sample("switch", dist.Bernoulli(top))
    with numpyro.plate("group", x.shape[1]):
        z = numpyro.sample("z", dist.Bernoulli(q))
        numpyro.sample("y", dist.Normal(outer[switch], 1.0), obs=y)
        with numpyro.plate("member", x.shape[0]):
            numpyro.sample("x", dist.Normal(means[switch, z], 1.0), obs=x)


# -- Bayes nets with scalar hidden nodes ---------------------------------------------------------------------


@entry(
    rng(73).binomial(1, 0.4, 15),
    rng(74).binomial(1, 0.3, 15),
    params={
        "burglary": 0.2,
        "earthquake": 0.3,
        "alarm": [[0.1, 0.4], [0.8, 0.9]],
        "john": [0.15, 0.85],
        "mary": [0.1, 0.6],
    },
    maximize=["burglary", "earthquake", "alarm", "john", "mary"],
)
def alarm_cases(john_calls, mary_calls):
    """Burglary, earthquake, alarm: hidden; two neighbours who call: seen. Beta priors on all tables."""
    burglary = numpyro.sample("burglary", dist.Beta(2, 8))
    earthquake = numpyro.sample("earthquake", dist.Beta(2, 6))
    alarm = numpyro.sample("alarm", dist.Beta(jnp.array([[2.0, 4.0], [6.0, 9.0]]), 3.0).to_event(2))
    john = numpyro.sample("john", dist.Beta(jnp.array([2.0, 8.0]), jnp.array([8.0, 2.0])).to_event(1))
    mary = numpyro.sample("mary", dist.Beta(jnp.array([2.0, 6.0]), jnp.array([8.0, 3.0])).to_event(1))
    with numpyro.plate("case", len(john_calls)):
        b = numpyro.sample("b", dist.Bernoulli(burglary))
        e = numpyro.sample("e", dist.Bernoulli(earthquake))
        a = numpyro.sample("a", dist.Bernoulli(alarm[b, e]))
        numpyro.sample("j", dist.Bernoulli(john[a]), obs=john_calls)
        numpyro.sample("m", dist.Bernoulli(mary[a]), obs=mary_calls)


@entry(1, 1, params={"burglary": 0.2, "alarm": [[0.1, 0.4], [0.8, 0.9]]}, maximize=["burglary", "alarm"])
def alarm_one_case(john_calls, mary_calls):
    """One case, scalar nodes, part of the tables known."""
    burglary = numpyro.sample("burglary", dist.Beta(2, 8))
    alarm = numpyro.sample("alarm", dist.Beta(2.0, 3.0).expand([2, 2]).to_event(2))
    b = numpyro.sample("b", dist.Bernoulli(burglary))
    e = numpyro.sample("e", dist.Bernoulli(0.1))
    a = numpyro.sample("a", dist.Bernoulli(alarm[b, e]))
    numpyro.sample("j", dist.Bernoulli(jnp.array([0.05, 0.9])[a]), obs=john_calls)
    numpyro.sample("m", dist.Bernoulli(jnp.array([0.01, 0.7])[a]), obs=mary_calls)


@entry(
    0.7,
    2,
    params={"locs": [-0.4, 0.9], "tables": [[[0.6, 0.4], [0.3, 0.7]], [[0.2, 0.8], [0.9, 0.1]]]},
    maximize=["locs", "tables"],
)
def explaining_away_scalars(x, y):
    """Two causes, one effect with a Normal reading, and a count that sees one cause and the effect."""
    locs = numpyro.sample("locs", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    tables = numpyro.sample("tables", dist.Dirichlet(jnp.array([2.0, 3.0])).expand([2, 2]).to_event(2))
    left = numpyro.sample("left", dist.Bernoulli(0.3))
    right = numpyro.sample("right", dist.Categorical(jnp.array([0.6, 0.4])))
    effect = numpyro.sample("effect", dist.Categorical(tables[left, right]))
    numpyro.sample("x", dist.Normal(locs[effect], 0.8), obs=x)
    numpyro.sample("y", dist.Poisson(jnp.array([[1.0, 2.0], [3.0, 4.0]])[right, effect]), obs=y)


@entry(
    np.array([0.3, -0.4, 1.9, 2.2]),
    params={"start": [0.5, 0.5], "move": [[0.7, 0.3], [0.4, 0.6]], "locs": [-0.2, 1.8]},
    maximize=["start", "move", "locs"],
)
def scalar_chain_loop(x):
    """A short chain as a Python loop over scalar sites; one table serves all steps."""
    start = numpyro.sample("start", dist.Dirichlet(jnp.array([2.0, 2.0])))
    move = numpyro.sample("move", dist.Dirichlet(jnp.array([3.0, 2.0])).expand([2]).to_event(1))
    locs = numpyro.sample("locs", dist.Normal(jnp.array([0.0, 2.0]), 1.0).to_event(1))
    z = numpyro.sample("z0", dist.Categorical(start))
    numpyro.sample("x0", dist.Normal(locs[z], 0.7), obs=x[0])
    for t in range(1, len(x)):
        z = numpyro.sample(f"z{t}", dist.Categorical(move[z]))
        numpyro.sample(f"x{t}", dist.Normal(locs[z], 0.7), obs=x[t])


@entry(
    rng(75).binomial(1, 0.5, (20, 3)),
    params={"start": [0.5, 0.5], "move": [[0.7, 0.3], [0.4, 0.6]], "emit": [0.3, 0.8]},
    interior=False,
)
def panel_chain_loop(x):
    """Many short chains: the loop over time is inside the plate."""
    start, move, emit = simplex("start", 2), simplex("move", 2, 2), unit("emit", 2)
    with numpyro.plate("person", len(x)):
        z = numpyro.sample("z0", dist.Categorical(start))
        numpyro.sample("x0", dist.Bernoulli(emit[z]), obs=x[:, 0])
        for t in range(1, x.shape[1]):
            z = numpyro.sample(f"z{t}", dist.Categorical(move[z]))
            numpyro.sample(f"x{t}", dist.Bernoulli(emit[z]), obs=x[:, t])


@entry(rng(76).normal(size=(15, 2)), _COUNT[:15] > 3, params={"p": [0.3, 0.6], "locs": [[-0.5, 0.4], [0.6, 1.0]]})
def observed_parent_common_child(x, u):
    """observed u -> hidden a; hidden a and observed u -> x, two readings."""
    p, locs = unit("p", 2), real("locs", 2, 2)
    u = u.astype(int)
    with numpyro.plate("data", len(x)):
        a = numpyro.sample("a", dist.Bernoulli(p[u]))
        numpyro.sample("x", dist.Normal(locs[u, a], 1.0), obs=x[:, 0])
        numpyro.sample("y", dist.Normal(0.3 * a, 1.0), obs=x[:, 1])


@entry(
    rng(77).normal(size=12),
    params={"p": 0.4, "mean": [[[-1.0, 0.3], [0.2, 0.9]], [[-0.3, 0.4], [0.8, 1.9]]]},
    interior=False,
)
def three_parents_one_child(x):
    p, mean = unit("p"), real("mean", 2, 2, 2)
    with numpyro.plate("data", len(x)):
        a = numpyro.sample("a", dist.Bernoulli(p))
        b = numpyro.sample("b", dist.Bernoulli(0.3))
        c = numpyro.sample("c", dist.Bernoulli(0.6))
        numpyro.sample("x", dist.Normal(mean[a, b, c], 0.9), obs=x)


@entry(
    rng(78).binomial(1, [0.4, 0.6, 0.5, 0.7], (12, 4)),
    params={
        "root": 0.4,
        "left": [0.3, 0.7],
        "right": [0.2, 0.6],
        "leaf": [[0.3, 0.8], [0.25, 0.65], [0.4, 0.75], [0.2, 0.9]],
    },
    maximize="global",
)
def latent_tree(x):
    """root -> left, right; each has two observed leaves."""
    root = numpyro.sample("root", dist.Beta(3, 3))
    left = numpyro.sample("left", dist.Beta(jnp.array([2.0, 4.0]), jnp.array([4.0, 2.0])).to_event(1))
    right = numpyro.sample("right", dist.Beta(jnp.array([2.0, 4.0]), jnp.array([4.0, 2.0])).to_event(1))
    leaf = numpyro.sample("leaf", dist.Beta(2.0, 2.0).expand([4, 2]).to_event(2))
    with numpyro.plate("data", len(x)):
        r = numpyro.sample("r", dist.Bernoulli(root))
        a = numpyro.sample("a", dist.Bernoulli(left[r]))
        b = numpyro.sample("b", dist.Bernoulli(right[r]))
        for j, parent in enumerate([a, a, b, b]):
            numpyro.sample(f"x{j}", dist.Bernoulli(leaf[j][parent]), obs=x[:, j])


# -- latents gathered by an index -----------------------------------------------------------------------------

_ITEM = np.repeat(np.arange(10), 3)
_RATER = np.tile(np.arange(3), 10)
_TRUTH = rng(79).integers(0, 2, 10)
_RATING = np.where(rng(80).uniform(size=30) < 0.8, _TRUTH[_ITEM], 1 - _TRUTH[_ITEM])


@entry(
    _ITEM,
    _RATER,
    _RATING,
    params={
        "prevalence": [0.45, 0.55],
        "confusion": [[[0.7, 0.3], [0.2, 0.8]], [[0.8, 0.2], [0.3, 0.7]], [[0.6, 0.4], [0.35, 0.65]]],
    },
    maximize=["prevalence", "confusion"],
)
def dawid_skene_long(item, rater, rating):
    """One row per rating: `z[item]`."""
    prevalence = numpyro.sample("prevalence", dist.Dirichlet(jnp.array([2.0, 2.0])))
    confusion = numpyro.sample("confusion", dist.Dirichlet(1.0 + jnp.eye(2)).expand([3, 2]).to_event(2))
    with numpyro.plate("items", 10):
        z = numpyro.sample("z", dist.Categorical(prevalence))
    with numpyro.plate("ratings", len(rating)):
        numpyro.sample("y", dist.Categorical(confusion[rater, z[item]]), obs=rating)


_GROUP = np.sort(rng(81).integers(0, 7, 25))


@entry(
    _GROUP, np.array([-1.0, 2.0, -1, 2, 2, -1, 2])[_GROUP] + rng(82).normal(size=25), params={**_TWO_LOCS, "scale": 1.2}
)
def long_format_groups(group, x):
    """Unequal group sizes; the latent belongs to the group, the datum to the row."""
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    with numpyro.plate("groups", 7):
        z = numpyro.sample("z", dist.Categorical(weights))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(locs[z[group]], scale), obs=x)


@entry(
    _GROUP,
    rng(83).permutation(25) % 5,
    rng(84).normal(size=25),
    params={"weights": [0.3, 0.7], "table": 0.5 * rng(85).normal(size=(5, 2))},
)
def long_format_two_indices(group, item, x):
    """Parameters are picked by data and by a gathered latent."""
    weights, table = simplex("weights", 2), real("table", 5, 2)
    z = numpyro.sample("z", dist.Categorical(weights).expand([7]))
    numpyro.sample("x", dist.Normal(table[item, z[group]], 1.0), obs=x)


@entry(
    np.array([0, 0, 1, 1, 2]),
    rng(86).normal(size=5),
    rng(87).normal(size=3),
    params={"weights": [0.3, 0.7], "p": [0.3, 0.6], "means": [[-0.5, 0.3], [0.1, 1.2]]},
    interior=False,
)
def nested_by_index(parent, x, y):
    """Two levels without nested plates: an inner latent looks its group's latent up."""
    weights, p, means = simplex("weights", 2), unit("p", 2), real("means", 2, 2)
    with numpyro.plate("groups", 3):
        g = numpyro.sample("g", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal(1.0 * g, 1.0), obs=y)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(p[g[parent]]))
        numpyro.sample("x", dist.Normal(means[g[parent], z], 1.0), obs=x)


@entry(
    rng(88).integers(0, 3, 30),
    _RATER,
    _RATING,
    params={"weights": [0.45, 0.55], "p": [[0.3, 0.8], [0.25, 0.7], [0.4, 0.6]]},
    interior=False,
)
def gathered_bernoulli_take(item, rater, rating):
    weights, p = simplex("weights", 2), unit("p", 3, 2)
    with numpyro.plate("items", 3):
        z = numpyro.sample("z", dist.Categorical(weights))
    rows = jnp.take(z, item)
    numpyro.sample("y", dist.Bernoulli(p[rater, rows]), obs=rating)


# -- regressions ------------------------------------------------------------------------------------------------

_DESIGN = np.stack([np.ones(_N), _COVARIATE], -1)
_LINES = np.where(_LABEL, 2.0 - 1.5 * _COVARIATE, -1.0 + 0.8 * _COVARIATE) + 0.6 * rng(89).normal(size=_N)
_BETA = {"weights": [0.4, 0.6], "beta": [[-0.7, 0.5], [1.6, -1.0]]}


@entry(
    _COVARIATE,
    _LINES,
    params={"weights": [0.4, 0.6], "a": [-0.7, 1.6], "b": [0.5, -1.0], "scale": 0.8},
    identified=True,
)
def regressions_shared_scale(u, y):
    weights, a, b, scale = simplex("weights", 2), real("a", 2), real("b", 2), positive("scale")
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal(a[z] + b[z] * u, scale), obs=y)


@entry(_DESIGN, _LINES, params={**_BETA, "scales": [0.8, 0.6]}, identified=True)
def regressions_separate_scales(design, y):
    weights, beta, scales = simplex("weights", 2), real("beta", 2, 2), positive("scales", 2)
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal((design * beta[z]).sum(-1), scales[z]), obs=y)


@entry(_DESIGN, _LINES, params={**_BETA, "scale": 0.8})
def regressions_einsum(design, y):
    weights, beta, scale = simplex("weights", 2), real("beta", 2, 2), positive("scale")
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal(jnp.einsum("nd,nd->n", design, beta[z]), scale), obs=y)


@entry(_DESIGN, _LINES, params={**_BETA, "scale": 0.8})
def regressions_predict_then_choose(design, y):
    weights, beta, scale = simplex("weights", 2), real("beta", 2, 2), positive("scale")
    lines = jnp.asarray(design) @ beta.T
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal(lines[jnp.arange(len(y)), z], scale), obs=y)


@entry(_DESIGN, _LINES, params={**_BETA, "scale": 0.8})
def regressions_take_along_axis(design, y):
    weights, beta, scale = simplex("weights", 2), real("beta", 2, 2), positive("scale")
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        lines = jnp.matmul(design, beta.T)
        numpyro.sample("y", dist.Normal(jnp.take_along_axis(lines, z[..., None], -1)[..., 0], scale), obs=y)


@entry(_DESIGN, _LINES, params={**_BETA, "scale": 0.8})
def regressions_vmap_dot(design, y):
    weights, beta, scale = simplex("weights", 2), real("beta", 2, 2), positive("scale")
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal(jax.vmap(jnp.dot)(jnp.asarray(design), beta[z]), scale), obs=y)


@entry(_DESIGN, _LINES, params={**_BETA, "scale": 0.8})
def regressions_one_hot(design, y):
    weights, beta, scale = simplex("weights", 2), real("beta", 2, 2), positive("scale")
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        coefficients = jax.nn.one_hot(z, 2) @ beta
        numpyro.sample("y", dist.Normal((coefficients * design).sum(-1), scale), obs=y)


@entry(_COVARIATE, _LINES, params={"weights": [0.4, 0.6], "a": [-0.7, 1.6], "slope": -0.3, "scale": 1.1})
def regressions_shared_slope(u, y):
    weights, a, slope, scale = simplex("weights", 2), real("a", 2), real("slope"), positive("scale")
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal(a[z] + slope * u, scale), obs=y)


@entry(
    _DESIGN,
    np.stack([_LINES, _PLANE[:, 0]], -1),
    params={"weights": [0.4, 0.6], "coef": 0.4 * rng(90).normal(size=(2, 2, 2)), "cov": [[1.5, 0.2], [0.2, 1.3]]},
)
def regressions_two_responses(design, y):
    weights, coef = simplex("weights", 2), real("coef", 2, 2, 2)
    cov = numpyro.param("cov", np.eye(2), constraint=constraints.positive_definite)
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        loc = jnp.einsum("nd,nde->ne", design, coef[z])
        numpyro.sample("y", dist.MultivariateNormal(loc, cov), obs=y)


@entry(
    _COVARIATE,
    rng(91).poisson(np.exp(np.where(_LABEL, 1.5 - 0.4 * _COVARIATE, 0.2 + 0.5 * _COVARIATE))),
    params={"weights": [0.4, 0.6], "a": [0.1, 1.3], "b": [0.3, -0.2]},
)
def poisson_regressions(u, y):
    weights, a, b = simplex("weights", 2), real("a", 2), real("b", 2)
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Poisson(jnp.exp(a[z] + b[z] * u)), obs=y)


@entry(
    _COVARIATE,
    rng(92).binomial(6, 1 / (1 + np.exp(-np.where(_LABEL, 1.5 - 0.7 * _COVARIATE, -1 + _COVARIATE)))),
    params={"weights": [0.4, 0.6], "a": [-0.8, 1.0], "b": [0.6, -0.4]},
)
def binomial_regressions(u, y):
    weights, a, b = simplex("weights", 2), real("a", 2), real("b", 2)
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Binomial(6, logits=a[z] + b[z] * u), obs=y)


@entry(_COVARIATE, _LINES, params={"gate": [0.2, 0.4], "beta": [[-0.7, 0.5], [1.6, -1.0]], "scale": 0.8})
def mixture_of_experts(u, y):
    """The weights depend on the covariate as well."""
    gate, beta, scale = real("gate", 2), real("beta", 2, 2), positive("scale")
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(logits=gate[0] + gate[1] * u))
        numpyro.sample("y", dist.Normal(beta[z, 0] + beta[z, 1] * u, scale), obs=y)


# -- genetics -----------------------------------------------------------------------------------------------------

#                         A  B  AB O
_PHENOTYPE = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def genotype_probs(p):
    """AA AO BB BO AB OO under Hardy-Weinberg, p the frequencies of A, B, O."""
    a, b, o = p[0], p[1], p[2]
    return jnp.stack([a * a, 2 * a * o, b * b, 2 * b * o, 2 * a * b, o * o])


@entry(np.repeat([0, 1, 2, 3], [9, 3, 1, 13]), params={"p": [0.3, 0.2, 0.5]}, identified=True)
def abo_blood_groups(phenotype):
    p = simplex("p", 3)
    with numpyro.plate("person", len(phenotype)):
        genotype = numpyro.sample("genotype", dist.Categorical(genotype_probs(p)))
        numpyro.sample("phenotype", dist.Categorical(jnp.asarray(_PHENOTYPE, float)[genotype]), obs=phenotype)


@entry(np.repeat([0, 1, 2, 3], [9, 3, 1, 13]), params={"p": [0.3, 0.2, 0.5]}, identified=True)
def abo_two_alleles(phenotype):
    """The same, one latent per allele."""
    p = simplex("p", 3)
    table = jnp.eye(4)[jnp.array([[0, 2, 0], [2, 1, 1], [0, 1, 3]])]
    with numpyro.plate("person", len(phenotype)):
        mother = numpyro.sample("mother", dist.Categorical(p))
        father = numpyro.sample("father", dist.Categorical(p))
        numpyro.sample("phenotype", dist.Categorical(table[mother, father]), obs=phenotype)


@entry(np.repeat([0, 1, 2, 3], [12, 2, 2, 3]), params={"theta": 0.5}, identified=True)
def linkage_individuals(cell):
    """Five latent cells, four seen."""
    theta = unit("theta")
    probs = jnp.stack([0.5 + 0 * theta, theta / 4, (1 - theta) / 4, (1 - theta) / 4, theta / 4])
    seen = jnp.eye(4)[jnp.array([0, 0, 1, 2, 3])]
    with numpyro.plate("animal", len(cell)):
        hidden = numpyro.sample("hidden", dist.Categorical(probs))
        numpyro.sample("cell", dist.Categorical(seen[hidden]), obs=cell)


@entry(
    np.array([0.0, 1.0, 2.2])[rng(93).binomial(2, 0.4, _N)] + 0.4 * rng(94).normal(size=_N),
    params={"maf": 0.35, "means": [0.1, 0.9, 2.0], "scale": 0.5},
    identified=True,
)
def genotype_dosage(y):
    """A Binomial(2, f) latent: a gene's dosage."""
    maf, means, scale = unit("maf"), real("means", 3), positive("scale")
    with numpyro.plate("person", len(y)):
        g = numpyro.sample("g", dist.Binomial(2, maf))
        numpyro.sample("y", dist.Normal(means[g], scale), obs=y)


@entry(
    np.array([0.0, 1.0, 2.2])[rng(93).binomial(2, 0.4, _N)] + 0.4 * rng(94).normal(size=_N),
    params={"maf": 0.35, "base": 0.1, "effect": 0.9, "scale": 0.5},
    identified=True,
)
def genotype_additive(y):
    maf, base, effect, scale = unit("maf"), real("base"), real("effect"), positive("scale")
    with numpyro.plate("person", len(y)):
        g = numpyro.sample("g", dist.Binomial(2, maf))
        numpyro.sample("y", dist.Normal(base + effect * g, scale), obs=y)


@entry(
    np.array([1, 2, 2, 3, 1, 3, 2, 2]), rng(95).normal(1.0, 1.0, 8), params={"p": 0.4, "slope": 0.7}, identified=True
)
def binomial_latent_uneven_trials(trials, y):
    """Supports of different size in one site; outside its own support an element has probability zero."""
    p, slope = unit("p"), real("slope")
    with numpyro.plate("data", len(y)):
        count = numpyro.sample("count", dist.Binomial(trials, p))
        numpyro.sample("y", dist.Normal(slope * count, 1.0), obs=y)


@entry(_COUNT, params={"rates": [1.5, 4.0, 8.0]}, identified=True)
def discrete_uniform_latent(x):
    rates = positive("rates", 3)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.DiscreteUniform(2, 4))
        numpyro.sample("x", dist.Poisson(rates[z - 2]), obs=x)


@entry(_COUNT, params={"rate": 1.5}, identified=True)
def discrete_uniform_multiplier(x):
    rate = positive("rate")
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.DiscreteUniform(2, 4))
        numpyro.sample("x", dist.Poisson(rate * z), obs=x)


# -- priors: maximum a posteriori -------------------------------------------------------------------------------


@entry(
    _REAL,
    params={"weights": [0.4, 0.6], "locs": [-1.0, 1.4], "variances": [0.8, 1.3]},
    maximize=["weights", "locs", "variances"],
)
def map_dirichlet_normal_inverse_gamma(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([3.0, 2.0])))
    with numpyro.plate("components", 2):
        locs = numpyro.sample("locs", dist.Normal(0.5, 2.0))
        variances = numpyro.sample("variances", dist.InverseGamma(2.0, 1.5))
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], jnp.sqrt(variances[z])), obs=x)


@entry(
    _REAL,
    params={"weights": [0.4, 0.6], "locs": [-1.0, 1.4], "variances": [0.8, 1.3]},
    maximize=["weights", "locs", "variances"],
    flat=["weights", "variances"],
)
def map_partly_flat(x):
    map_dirichlet_normal_inverse_gamma(x)


@entry(
    _REAL,
    params={"weights": [0.4, 0.6], "locs": [-1.0, 1.4], "variances": [0.8, 1.3]},
    maximize="global",
    flat=True,
    identified=True,
)
def all_flat(x):
    map_dirichlet_normal_inverse_gamma(x)


@entry(_COUNT, params={"weights": [0.4, 0.6], "rates": [1.0, 5.0]}, maximize=["rates"])
def map_gamma_rates_and_param(x):
    weights = simplex("weights", 2)
    rates = numpyro.sample("rates", dist.Gamma(jnp.array([2.0, 6.0]), 1.0).to_event(1))
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Poisson(rates[z]), obs=x)


@entry(_BITS, params=_ITEMS, maximize=["weights", "probs"])
def map_beta_probs(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("class", 2, dim=-2), numpyro.plate("item", 4, dim=-1):
        probs = numpyro.sample("probs", dist.Beta(2.0, 1.5))
    with numpyro.plate("person", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Bernoulli(probs[z]).to_event(1), obs=x)


def _map_scale(prior):
    def model(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([3.0, 2.0])))
        locs = numpyro.sample("locs", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
        scale = numpyro.sample("scale", prior())
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)

    return model


for _name, _prior in {
    "half_normal": lambda: dist.HalfNormal(0.8),
    "half_cauchy": lambda: dist.HalfCauchy(0.7),
    "log_normal": lambda: dist.LogNormal(0.3, 0.5),
    "exponential": lambda: dist.Exponential(3.0),
    "uniform": lambda: dist.Uniform(0.1, 5.0),
    "gamma": lambda: dist.Gamma(4.0, 6.0),
    "inverse_gamma": lambda: dist.InverseGamma(3.0, 4.0),
    "truncated_normal": lambda: dist.TruncatedNormal(0.9, 0.4, low=0.0),
}.items():
    entry(_REAL, params={**_TWO_LOCS, "scale": 1.1}, maximize="global", name=f"map_scale_{_name}")(_map_scale(_prior))


@entry(_REAL, params={"weights": [0.4, 0.6], "centre": 0.2, "spread": 1.5, "locs": [-1.0, 1.4]}, maximize="global")
def map_hierarchical_locs(x):
    """The prior of the locations has maximised parameters of its own."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    centre = numpyro.sample("centre", dist.Normal(0.0, 1.0))
    spread = numpyro.sample("spread", dist.InverseGamma(3.0, 4.0))
    with numpyro.plate("components", 2):
        locs = numpyro.sample("locs", dist.Normal(centre, spread))
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)


@entry(_PLANE, params={**_LOCS2, "scales": [1.2, 0.9]}, maximize="global")
def map_multivariate_locs(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 1.5)))
    with numpyro.plate("components", 2):
        locs = numpyro.sample("locs", dist.MultivariateNormal(jnp.zeros(2), jnp.array([[2.0, 0.5], [0.5, 1.0]])))
        scales = numpyro.sample("scales", dist.LogNormal(0.0, 0.6))
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scales[z][..., None]).to_event(1), obs=x)


@entry(
    _COVARIATE,
    _LINES,
    params={"weights": [0.4, 0.6], "a": [-0.7, 1.6], "b": [0.5, -1.0], "scale": 0.8},
    maximize="global",
)
def map_regressions(u, y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    a = numpyro.sample("a", dist.Normal(0.0, 2.0), sample_shape=(2,))
    b = numpyro.sample("b", dist.Normal(0.0, 0.5).expand([2]))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    z = numpyro.sample("z", dist.Categorical(weights).expand([len(y)]))
    numpyro.sample("y", dist.Normal(a[z] + b[z] * u, scale), obs=y)


# -- handlers, hints, ways of writing -----------------------------------------------------------------------------


@entry(_REAL, params={**_TWO_LOCS, "scale": 1.1})
def enumeration_hints(x):
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        numpyro.sample("x", dist.Normal(Vindex(locs)[z], scale), obs=x)


entry(_REAL, params={"weights": [0.3, 0.5, 0.2], "locs": [-1.0, 1.4, 0.2], "scale": 0.9}, name="config_enumerate")(
    # what `numpyro.contrib.funsor.config_enumerate` does, without funsor
    handlers.infer_config(normal_mixture_shared_scale, lambda site: {"enumerate": "parallel"})
)


def _unconditioned(n):
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    with numpyro.plate("data", n):
        z = numpyro.sample("z", dist.Categorical(weights))
        loc = numpyro.deterministic("loc", locs[z])
        numpyro.sample("x", dist.Normal(loc, scale))


entry(_N, params={**_TWO_LOCS, "scale": 1.1}, name="conditioned_by_handler")(
    handlers.condition(_unconditioned, data={"x": _REAL})
)


def _subsampled(x):
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    with numpyro.plate("data", len(x), subsample_size=10) as index:
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scale), obs=jnp.asarray(x)[index])


entry(_REAL, params={**_TWO_LOCS, "scale": 1.1}, name="subsampled_plate", identified=True)(
    handlers.substitute(_subsampled, data={"data": jnp.arange(0, _N, 4)})
)


@entry(_REAL, params={**_TWO_LOCS, "scale": 1.1})
def scaled_by_handler(x):
    with handlers.scale(scale=0.5):
        normal_mixture_weighted(x, np.ones(len(x)))


@entry(_REAL, np.arange(_N) % 3 + 0.5, params={**_TWO_LOCS, "scale": 1.1})
def normal_mixture_weighted(x, case_weights):
    """Case weights: each datum's own log evidence is multiplied."""
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    with numpyro.plate("data", len(x)), handlers.scale(scale=case_weights):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)


@entry(_REAL, params={**_TWO_LOCS, "scale": 1.1}, kwargs={"power": 2.0})
def scaled_observations_only(x, *, power):
    """A power likelihood: the scale is inside, since the latent does not have it."""
    weights, locs, scale = simplex("weights", 2), real("locs", 2), positive("scale")
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        with handlers.scale(scale=power):
            numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)


@entry({"x": _REAL, "y": _COUNT}, params={**_TWO_LOCS, "rates": [1.0, 6.0]}, kwargs={"components": 2})
def dictionary_argument(data, components=3):
    weights, locs, rates = simplex("weights", components), real("locs", components), positive("rates", components)
    with numpyro.plate("data", len(data["x"])):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=data["x"])
        numpyro.sample("y", dist.Poisson(rates[z]), obs=data["y"])


@entry(
    _REAL[:12].reshape(4, 3),
    params={"weights": [[0.4, 0.6], [0.3, 0.7], [0.5, 0.5]], "locs": [-1.0, 1.4]},
    interior=False,
)
def weights_per_column(x):
    """Different prevalences in different columns, one set of locations."""
    weights, locs = simplex("weights", 3, 2), real("locs", 2)
    with numpyro.plate("columns", 3, dim=-1), numpyro.plate("rows", len(x), dim=-2):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], 0.8), obs=x)


@entry(_COUNT > 3, _REAL, params={"weights": [[0.4, 0.6], [0.3, 0.7]], "locs": [-1.0, 1.4], "scale": 1.1})
def weights_by_observed_group(sex, x):
    weights, locs, scale = simplex("weights", 2, 2), real("locs", 2), positive("scale")
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights[sex.astype(int)]))
        numpyro.sample("x", dist.Normal(locs[z], scale), obs=x)


# -- no latent at all: plain maximum likelihood -------------------------------------------------------------------


@entry(_REAL, params={"loc": 0.3, "scale": 1.5}, identified=True)
def plain_normal(x):
    loc, scale = real("loc"), positive("scale")
    with numpyro.plate("data", len(x)):
        numpyro.sample("x", dist.Normal(loc, scale), obs=x)


@entry(_DESIGN, _LINES, params={"beta": [0.2, 0.1], "scale": 1.5}, identified=True)
def plain_linear_regression(design, y):
    beta, scale = real("beta", 2), positive("scale")
    numpyro.sample("y", dist.Normal(jnp.asarray(design) @ beta, scale), obs=y)


@entry(_COVARIATE, _COUNT, params={"a": 0.5, "b": 0.1}, identified=True)
def plain_poisson_regression(u, y):
    a, b = real("a"), real("b")
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Poisson(jnp.exp(a + b * u)), obs=y)


@entry(_POSITIVE, params={"shape": 2.0, "rate": 1.0}, identified=True)
def plain_gamma(x):
    shape, rate = positive("shape"), positive("rate")
    with numpyro.plate("data", len(x)):
        numpyro.sample("x", dist.Gamma(shape, rate), obs=x)


@entry(_LABEL, _COUNT, params={"share": 0.3, "rates": [2.0, 4.0]}, maximize=["share", "rates"])
def plain_map(a, x):
    share = numpyro.sample("share", dist.Beta(2, 3))
    rates = numpyro.sample("rates", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("data", len(x)):
        a = numpyro.sample("a", dist.Bernoulli(share), obs=a)
        numpyro.sample("x", dist.Poisson(rates[a]), obs=x)


@entry(_COUNT[:6], params={"weights": [0.3, 0.7], "rates": [2.0, 4.0]})
def one_element_for_all(x):
    """Every datum meets the same element of the latent, found through two gathers; the others meet none."""
    weights, rates = simplex("weights", 2), positive("rates", 2)
    z = numpyro.sample("z", dist.Categorical(weights).expand([4]))
    once = z[jnp.asarray([2, 0, 2, 1])]
    numpyro.sample("x", dist.Poisson(rates[once[jnp.asarray([0, 2, 2, 0, 0, 2])]]), obs=x)
