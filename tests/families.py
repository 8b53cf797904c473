"""The table of families: one row per NumPyro class and parametrisation: a row brings every property."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import scipy.stats as st
from numpyro.distributions import constraints

from autoem._family import Circular, Flat, InverseMatrix, LogOdds, LogPower, LogSimplex, Quadratic

Named = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One family, one way to write it.

    Attributes:
        constructor: the NumPyro class (a partial where fixed arguments are needed).
        arguments: how to draw each argument of the constructor, by name: (rng, batch shape) -> array.
        values: how to draw values from the support: (rng, batch shape, **arguments) -> array.
        closed: arguments with a conditional.
        numeric: arguments without one, to be updated numerically.
        value: the conditional of the value; None if it has none.
        scipy: SciPy's log density of (value, arguments), arguments without batch axes: the outside oracle.
        numpyro_rtol: how far to trust NumPyro's own log density.
    """

    constructor: Callable[..., Any]
    arguments: Mapping[str, Callable[..., np.ndarray]]
    values: Callable[..., np.ndarray]
    closed: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    value: type | None = None
    scipy: Callable[[np.ndarray, Named], np.ndarray] | None = None
    numpyro_rtol: float = 1e-10

    @property
    def events(self) -> dict[str, int]:
        """Event axes of the arguments, by name."""
        rng = np.random.default_rng(0)
        return {name: draw(rng, ()).ndim for name, draw in self.arguments.items()}

    def draw(self, rng: np.random.Generator, batches: Named) -> dict[str, np.ndarray]:
        """Random arguments, each of its own batch shape."""
        return {name: np.asarray(draw(rng, batches[name])) for name, draw in self.arguments.items()}


# ---- draws: (rng, batch shape) -> array; NumPy's, because NumPyro's samplers take seconds to compile -------


def real(rng: np.random.Generator, shape: tuple[int, ...], **_: Any) -> np.ndarray:
    return np.asarray(rng.normal(size=shape))


def vector(rng: np.random.Generator, shape: tuple[int, ...], **_: Any) -> np.ndarray:
    return rng.normal(size=(*shape, 2))


def positive(rng: np.random.Generator, shape: tuple[int, ...], **_: Any) -> np.ndarray:
    return np.asarray(rng.gamma(2.0, 0.6, shape) + 0.1)


def positives(rng: np.random.Generator, shape: tuple[int, ...], **_: Any) -> np.ndarray:
    return rng.gamma(2.0, 0.6, (*shape, 4)) + 0.1


def probability(rng: np.random.Generator, shape: tuple[int, ...], **_: Any) -> np.ndarray:
    return np.asarray(rng.uniform(0.05, 0.95, shape))


def simplex(rng: np.random.Generator, shape: tuple[int, ...], **_: Any) -> np.ndarray:
    return rng.dirichlet(np.full(4, 3.0), shape)


def logits(rng: np.random.Generator, shape: tuple[int, ...], **_: Any) -> np.ndarray:
    return rng.normal(size=(*shape, 4))


def covariance(rng: np.random.Generator, shape: tuple[int, ...], **_: Any) -> np.ndarray:
    root = rng.normal(size=(*shape, 2, 2))
    return root @ np.swapaxes(root, -1, -2) + 0.3 * np.eye(2)


def cholesky(rng: np.random.Generator, shape: tuple[int, ...], **_: Any) -> np.ndarray:
    return np.linalg.cholesky(covariance(rng, shape))


def whole(low: int, high: int) -> Callable[..., np.ndarray]:
    """Whole numbers, both ends included."""
    return lambda rng, shape, **_: np.asarray(rng.integers(low, high + 1, shape))


def between(low: float, high: float) -> Callable[..., np.ndarray]:
    return lambda rng, shape, **_: np.asarray(rng.uniform(low, high, shape))


def successes(rng: np.random.Generator, shape: tuple[int, ...], *, total_count: Any, **_: Any) -> np.ndarray:
    return rng.binomial(total_count, 0.4, shape)


def counts(rng: np.random.Generator, shape: tuple[int, ...], *, total_count: Any, **_: Any) -> np.ndarray:
    return rng.multinomial(total_count, [0.1, 0.2, 0.3, 0.4], shape)


def inside(rng: np.random.Generator, shape: tuple[int, ...], *, low: Any, high: Any, **_: Any) -> np.ndarray:
    return rng.uniform(low, high, shape)


def above(rng: np.random.Generator, shape: tuple[int, ...], *, scale: Any, **_: Any) -> np.ndarray:
    return scale + rng.exponential(size=shape)


def wishart_density(law: Any, value: np.ndarray, arguments: Named) -> np.ndarray:
    """SciPy's, which wants the matrices on the last axis."""
    root = arguments["scale_tril"]
    return law.logpdf(np.moveaxis(value, 0, -1), arguments["concentration"], root @ root.T)


def censored(law: Any, *, censored: Any, **arguments: Any) -> Any:
    return dist.RightCensoredDistribution(law(**arguments), censored)


def censored_density(law: Any, value: np.ndarray, gone: np.ndarray, **arguments: Any) -> np.ndarray:
    return np.where(gone, law.logsf(value, **arguments), law.logpdf(value, **arguments))


def _sigmoid(logits: Any) -> Any:
    return 1 / (1 + np.exp(-logits))


def _softmax(logits: Any) -> Any:
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


# ---- the table ---------------------------------------------------------------------------------------------

ROWS: dict[str, Row] = {
    "Normal": Row(
        dist.Normal,
        {"loc": real, "scale": positive},
        real,
        closed=("loc", "scale"),
        value=Quadratic,
        scipy=lambda x, a: st.norm.logpdf(x, a["loc"], a["scale"]),
    ),
    "LogNormal": Row(
        dist.LogNormal,
        {"loc": real, "scale": positive},
        positive,
        closed=("loc", "scale"),
        scipy=lambda x, a: st.lognorm.logpdf(x, a["scale"], scale=np.exp(a["loc"])),
    ),
    "MultivariateNormal covariance": Row(
        dist.MultivariateNormal,
        {"loc": vector, "covariance_matrix": covariance},
        vector,
        closed=("loc", "covariance_matrix"),
        value=Quadratic,
        scipy=lambda x, a: st.multivariate_normal.logpdf(x, a["loc"], a["covariance_matrix"]),
    ),
    "MultivariateNormal precision": Row(
        dist.MultivariateNormal,
        {"loc": vector, "precision_matrix": covariance},
        vector,
        closed=("loc", "precision_matrix"),
        value=Quadratic,
        scipy=lambda x, a: st.multivariate_normal.logpdf(x, a["loc"], np.linalg.inv(a["precision_matrix"])),
    ),
    "Wishart": Row(
        dist.Wishart,
        {"concentration": between(3.0, 6.0), "scale_tril": cholesky},
        covariance,
        numeric=("concentration", "scale_tril"),
        value=InverseMatrix,
        scipy=lambda x, a: wishart_density(st.wishart, x, a),
    ),
    "InverseWishart": Row(
        dist.InverseWishart,
        {"concentration": between(3.0, 6.0), "scale_tril": cholesky},
        covariance,
        numeric=("concentration", "scale_tril"),
        value=InverseMatrix,
        scipy=lambda x, a: wishart_density(st.invwishart, x, a),
    ),
    "MultivariateNormal cholesky": Row(
        dist.MultivariateNormal,
        {"loc": vector, "scale_tril": cholesky},
        vector,
        closed=("loc", "scale_tril"),
        value=Quadratic,
        scipy=lambda x, a: st.multivariate_normal.logpdf(x, a["loc"], a["scale_tril"] @ a["scale_tril"].T),
    ),
    "Categorical probs": Row(
        dist.CategoricalProbs,
        {"probs": simplex},
        whole(0, 3),
        closed=("probs",),
        scipy=lambda x, a: np.log(a["probs"])[x],
    ),
    "Categorical logits": Row(
        dist.CategoricalLogits,
        {"logits": logits},
        whole(0, 3),
        closed=("logits",),
        scipy=lambda x, a: np.log(_softmax(a["logits"]))[x],
    ),
    "Bernoulli probs": Row(
        dist.BernoulliProbs,
        {"probs": probability},
        whole(0, 1),
        closed=("probs",),
        scipy=lambda x, a: st.bernoulli.logpmf(x, a["probs"]),
    ),
    "Bernoulli logits": Row(
        dist.BernoulliLogits,
        {"logits": real},
        whole(0, 1),
        closed=("logits",),
        scipy=lambda x, a: st.bernoulli.logpmf(x, _sigmoid(a["logits"])),
    ),
    "Binomial probs": Row(
        dist.BinomialProbs,
        {"probs": probability, "total_count": whole(1, 9)},
        successes,
        closed=("probs",),
        scipy=lambda x, a: st.binom.logpmf(x, a["total_count"], a["probs"]),
    ),
    "Binomial logits": Row(
        dist.BinomialLogits,
        {"logits": real, "total_count": whole(1, 9)},
        successes,
        closed=("logits",),
        scipy=lambda x, a: st.binom.logpmf(x, a["total_count"], _sigmoid(a["logits"])),
    ),
    "Multinomial probs": Row(
        dist.MultinomialProbs,
        {"probs": simplex, "total_count": whole(1, 9)},
        counts,
        closed=("probs",),
        scipy=lambda x, a: st.multinomial.logpmf(x, a["total_count"], a["probs"]),
    ),
    "Multinomial logits": Row(
        dist.MultinomialLogits,
        {"logits": logits, "total_count": whole(1, 9)},
        counts,
        closed=("logits",),
        scipy=lambda x, a: st.multinomial.logpmf(x, a["total_count"], _softmax(a["logits"])),
    ),
    "Geometric probs": Row(
        dist.GeometricProbs,
        {"probs": probability},
        whole(0, 9),
        closed=("probs",),
        scipy=lambda x, a: st.geom.logpmf(x + 1, a["probs"]),
    ),
    "Geometric logits": Row(
        dist.GeometricLogits,
        {"logits": real},
        whole(0, 9),
        closed=("logits",),
        scipy=lambda x, a: st.geom.logpmf(x + 1, _sigmoid(a["logits"])),
    ),
    "NegativeBinomial probs": Row(
        dist.NegativeBinomialProbs,
        {"probs": probability, "total_count": between(0.5, 9.0)},
        whole(0, 9),
        closed=("probs",),
        numpyro_rtol=1e-5,  # it calls jax.scipy.special.betaln
        scipy=lambda x, a: st.nbinom.logpmf(x, a["total_count"], 1 - a["probs"]),
    ),
    "NegativeBinomial logits": Row(
        dist.NegativeBinomialLogits,
        {"logits": real, "total_count": between(0.5, 9.0)},
        whole(0, 9),
        closed=("logits",),
        scipy=lambda x, a: st.nbinom.logpmf(x, a["total_count"], _sigmoid(-a["logits"])),
    ),
    "Poisson": Row(
        dist.Poisson,
        {"rate": positive},
        whole(0, 9),
        closed=("rate",),
        scipy=lambda x, a: st.poisson.logpmf(x, a["rate"]),
    ),
    "Exponential": Row(
        dist.Exponential,
        {"rate": positive},
        positive,
        closed=("rate",),
        value=LogPower,
        scipy=lambda x, a: st.expon.logpdf(x, scale=1 / a["rate"]),
    ),
    "Gamma": Row(
        dist.Gamma,
        {"concentration": positive, "rate": positive},
        positive,
        closed=("rate",),
        numeric=("concentration",),
        value=LogPower,
        scipy=lambda x, a: st.gamma.logpdf(x, a["concentration"], scale=1 / a["rate"]),
    ),
    "Chi2": Row(
        dist.Chi2,
        {"df": positive},
        positive,
        value=LogPower,
        scipy=lambda x, a: st.chi2.logpdf(x, a["df"]),
    ),
    "InverseGamma": Row(
        dist.InverseGamma,
        {"concentration": positive, "rate": positive},
        positive,
        closed=("rate",),
        numeric=("concentration",),
        value=LogPower,
        scipy=lambda x, a: st.invgamma.logpdf(x, a["concentration"], scale=a["rate"]),
    ),
    "Beta": Row(
        dist.Beta,
        {"concentration1": positive, "concentration0": positive},
        probability,
        numeric=("concentration1", "concentration0"),
        value=LogOdds,
        scipy=lambda x, a: st.beta.logpdf(x, a["concentration1"], a["concentration0"]),
    ),
    "BetaProportion": Row(
        dist.BetaProportion,
        {"mean": between(0.2, 0.8), "concentration": between(1.0, 9.0)},
        probability,
        value=LogOdds,
        scipy=lambda x, a: st.beta.logpdf(x, a["mean"] * a["concentration"], (1 - a["mean"]) * a["concentration"]),
    ),
    "Dirichlet": Row(
        dist.Dirichlet,
        {"concentration": positives},
        simplex,
        numeric=("concentration",),
        value=LogSimplex,
        scipy=lambda x, a: st.dirichlet.logpdf(x.T, a["concentration"]),
    ),
    "VonMises": Row(
        dist.VonMises,
        {"loc": real, "concentration": positive},
        real,
        closed=("loc",),
        numeric=("concentration",),
        value=Circular,
        scipy=lambda x, a: st.vonmises.logpdf(x, a["concentration"], a["loc"]),
    ),
    "Laplace": Row(
        dist.Laplace,
        {"loc": real, "scale": positive},
        real,
        closed=("scale",),
        scipy=lambda x, a: st.laplace.logpdf(x, a["loc"], a["scale"]),
    ),
    "StudentT": Row(
        dist.StudentT,
        {"df": positive, "loc": real, "scale": positive},
        real,
        scipy=lambda x, a: st.t.logpdf(x, a["df"], a["loc"], a["scale"]),
    ),
    "MultivariateStudentT": Row(
        dist.MultivariateStudentT,
        {"df": positive, "loc": vector, "scale_tril": cholesky},
        vector,
        scipy=lambda x, a: st.multivariate_t.logpdf(x, a["loc"], a["scale_tril"] @ a["scale_tril"].T, a["df"]),
    ),
    "Cauchy": Row(
        dist.Cauchy,
        {"loc": real, "scale": positive},
        real,
        scipy=lambda x, a: st.cauchy.logpdf(x, a["loc"], a["scale"]),
    ),
    "Logistic": Row(
        dist.Logistic,
        {"loc": real, "scale": positive},
        real,
        scipy=lambda x, a: st.logistic.logpdf(x, a["loc"], a["scale"]),
    ),
    "SoftLaplace": Row(
        dist.SoftLaplace,
        {"loc": real, "scale": positive},
        real,
        scipy=lambda x, a: st.hypsecant.logpdf(x, a["loc"], a["scale"]),
    ),
    "AsymmetricLaplace": Row(
        dist.AsymmetricLaplace,
        {"loc": real, "scale": positive, "asymmetry": positive},
        real,
        closed=("scale",),
        scipy=lambda x, a: st.laplace_asymmetric.logpdf(x, a["asymmetry"], a["loc"], a["scale"]),
    ),
    "AsymmetricLaplaceQuantile": Row(
        dist.AsymmetricLaplaceQuantile,
        {"loc": real, "scale": positive, "quantile": probability},
        real,
        closed=("scale",),
    ),
    "HalfNormal": Row(
        dist.HalfNormal,
        {"scale": positive},
        positive,
        closed=("scale",),
        value=LogPower,
        scipy=lambda x, a: st.halfnorm.logpdf(x, scale=a["scale"]),
    ),
    "TruncatedNormal low": Row(
        dist.TruncatedNormal,
        {"loc": real, "scale": positive, "low": between(-1.0, 1.0)},
        lambda rng, shape, low, **_: low + rng.exponential(size=shape),
        numeric=("loc", "scale"),
        scipy=lambda x, a: st.truncnorm.logpdf(x, (a["low"] - a["loc"]) / a["scale"], np.inf, a["loc"], a["scale"]),
    ),
    "TruncatedNormal high": Row(
        dist.TruncatedNormal,
        {"loc": real, "scale": positive, "high": between(-1.0, 1.0)},
        lambda rng, shape, high, **_: high - rng.exponential(size=shape),
        numeric=("loc", "scale"),
        scipy=lambda x, a: st.truncnorm.logpdf(x, -np.inf, (a["high"] - a["loc"]) / a["scale"], a["loc"], a["scale"]),
    ),
    "Weibull": Row(
        dist.Weibull,
        {"scale": positive, "concentration": positive},
        positive,
        closed=("scale",),
        scipy=lambda x, a: st.weibull_min.logpdf(x, a["concentration"], scale=a["scale"]),
    ),
    "Pareto": Row(
        dist.Pareto,
        {"scale": positive, "alpha": positive},
        above,
        closed=("alpha",),
        scipy=lambda x, a: st.pareto.logpdf(x, a["alpha"], scale=a["scale"]),
    ),
    "RightCensored Exponential": Row(
        partial(censored, dist.Exponential),
        {"rate": positive, "censored": whole(0, 1)},
        positive,
        closed=("rate",),
        numpyro_rtol=1e-6,  # log(1 - cdf) there
        scipy=lambda x, a: censored_density(st.expon, x, a["censored"], scale=1 / a["rate"]),
    ),
    "RightCensored Weibull": Row(
        partial(censored, dist.Weibull),
        {"scale": positive, "concentration": positive, "censored": whole(0, 1)},
        positive,
        closed=("scale",),
        numpyro_rtol=1e-6,
        scipy=lambda x, a: censored_density(st.weibull_min, x, a["censored"], c=a["concentration"], scale=a["scale"]),
    ),
    "RightCensored Pareto": Row(
        partial(censored, dist.Pareto),
        {"scale": positive, "alpha": positive, "censored": whole(0, 1)},
        above,
        closed=("alpha",),
        numpyro_rtol=1e-6,
        scipy=lambda x, a: censored_density(st.pareto, x, a["censored"], b=a["alpha"], scale=a["scale"]),
    ),
    "Uniform": Row(
        dist.Uniform,
        {"low": between(-2.0, -1.0), "high": between(1.0, 2.0)},
        inside,
        value=Flat,
        scipy=lambda x, a: st.uniform.logpdf(x, a["low"], a["high"] - a["low"]),
    ),
    "ImproperUniform scalar": Row(
        partial(dist.ImproperUniform, constraints.positive, (3,), ()), {}, positive, value=Flat
    ),
    "ImproperUniform vector": Row(partial(dist.ImproperUniform, constraints.real, (3,), (2,)), {}, vector, value=Flat),
}


def log_density(family: Any, arguments: Mapping[str, Any], constants: Mapping[str, Any], value: Any) -> jax.Array:
    """⟨slots, T(x)⟩ + log h(x)."""
    inner = jnp.sum(family.slots(arguments, constants) * family.statistics(value, constants), -1)
    return inner + family.log_base(value, constants)
