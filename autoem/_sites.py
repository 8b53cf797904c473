"""One sample site: its distribution without wrappers, its support, and what of it the derivation looks at."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from ._as_gaussians import as_gaussians, outlined_as_gaussians
from ._densities import log_density
from ._family import (
    AbstractFamily,
    AbstractKernel,
    AbstractScaleMixture,
    Odds,
    Pareto,
    Uniform,
    alternatives,
    bounded_kernels,
    find_family,
    kernel_of,
    matrix_kernel,
    spanned,
)
from ._links import Program, is_concrete
from ._types import Array, Refusal
from ._wrappers import argument, element_shape, is_discrete, peel

_BERNOULLI = (dist.BernoulliProbs, dist.BernoulliLogits)
_CATEGORICAL = (dist.CategoricalProbs, dist.CategoricalLogits)
_UNIT = dist.Unit
_INTERVAL = getattr(dist, "IntervalCensoredDistribution", ())  # NumPyro 0.20 has none


@dataclass(frozen=True)
class Site:
    """One sample site.

    Attributes:
        name: its name.
        role: "observed", "latent" (discrete), "gaussian", "conjugate" or "points" (continuous latents; the last are
            integrated numerically), or "maximised".
        distribution: class name of the distribution, wrappers peeled off.
        family: its exponential family, or None.
        batch_shape: shape of its elements, axes hidden by `to_event` included.
        hidden: how many trailing batch axes `to_event` hides.
        event_ndim: event axes of one element.
        plates: names of its plates.
        support: values of an enumerable latent, shape (K, *event).
        binary: whether a latent is Bernoulli.
        constraint: where the values of a continuous latent lie; None if its bounds are not numbers.
    """

    name: str
    role: str
    distribution: str
    family: AbstractFamily | None
    batch_shape: tuple[int, ...]
    hidden: int
    event_ndim: int
    plates: tuple[str, ...]
    support: Any = field(default=None, compare=False)
    binary: bool = False
    constraint: Any = field(default=None, compare=False)


def read_site(name: str, site: Mapping[str, Any], maximised: bool, augmented: bool = True) -> Site:
    """A site of NumPyro's trace as autoem sees it; a continuous latent has the role "continuous" for now.

    `augmented`: whether a hidden precision may be made use of.
    """
    fn = site["fn"] if maximised else outlined_as_gaussians(site["fn"], site["value"])
    peeled = peel(fn)
    base = peeled.base
    event_ndim = base.event_dim
    shape = jnp.shape(site["value"])
    if isinstance(base, _UNIT):
        batch_shape = tuple(int(n) for n in jnp.broadcast_shapes(shape[:-1], fn.batch_shape, base.batch_shape))
    else:
        batch_shape = element_shape(fn, site["value"])
        if site["is_observed"]:
            _warn_of_outer(name, fn, base, shape, batch_shape)
    role = "maximised" if maximised else "observed" if site["is_observed"] else "latent"
    if role == "latent" and not is_discrete(base):
        role = "continuous"
    support = _support(name, base) if role == "latent" else None
    family = find_family(base)
    family = None if isinstance(family, AbstractScaleMixture) and not augmented else family
    return Site(
        name,
        role,
        type(base).__name__.removesuffix("Probs").removesuffix("Logits"),
        family,
        batch_shape,
        peeled.hidden,
        event_ndim,
        tuple(frame.name for frame in site["cond_indep_stack"]),
        support,
        isinstance(base, _BERNOULLI),
        _constraint(base) if role == "continuous" else None,
    )


def _warn_of_outer(name: str, fn: Any, base: Any, value: Sequence[int], elements: Sequence[int]) -> None:
    """A column of data against a row of parameters: NumPyro sums the density of every pair, which is seldom meant."""
    data = tuple(value[: len(value) - base.event_dim])
    own = (*fn.batch_shape, *fn.event_shape[: len(fn.event_shape) - base.event_dim])
    if math.prod(elements) > max(math.prod(data), math.prod(own)):
        warnings.warn(
            f"The data of site {name!r} have the shape {data}, its distribution {own}: NumPyro pairs every element "
            f"with every other, {tuple(elements)}. If that is not meant, give both the same axes.",
            stacklevel=2,
        )


def _constraint(base: Any) -> Any:
    support = base.support
    return support if is_concrete(*jax.tree.leaves(support)) else None


def _support(name: str, base: Any) -> np.ndarray:
    """Values of an enumerable latent, (K, *event). NumPyro's own enumeration ignores where a support starts."""
    kind = type(base).__name__
    if isinstance(base, _BERNOULLI):
        return np.arange(2)
    if isinstance(base, _CATEGORICAL):
        logits = base.__dict__.get("probs", base.__dict__.get("logits"))
        return np.arange(jnp.shape(logits)[-1])
    if isinstance(base, (dist.BinomialProbs, dist.BinomialLogits)) and is_concrete(base.total_count):
        return np.arange(int(np.max(base.total_count)) + 1)
    if not base.has_enumerate_support or base.event_dim:
        raise Refusal(
            f"Site {name!r} ({kind}) cannot be enumerated: its support is not a finite set of numbers. autoem sums "
            "over finite discrete latents only. If its values can be bounded, write it as "
            f"dist.Categorical(logits={kind}(...).log_prob(jnp.arange(K + 1))) with K beyond all likely values."
        )
    try:
        with jax.ensure_compile_time_eval():
            support = np.asarray(base.enumerate_support(expand=False))
        return support.reshape(support.shape[0], *base.event_shape)
    except (NotImplementedError, ValueError, TypeError, jax.errors.JAXTypeError) as error:
        raise Refusal(f"Site {name!r} ({kind}) cannot be enumerated: {error}") from error


def check_data(site: Site, fn: Any, value: Any) -> None:
    """Observed values must be numbers inside the support (those masked out were replaced before)."""
    base = peel(fn).base
    if value is None or isinstance(base, _UNIT) or not is_concrete(value):
        return
    value = np.asarray(value)
    value = _reported(base, value) if isinstance(base, _INTERVAL) else value
    finite = np.isfinite(value)
    finite = finite.all(tuple(range(finite.ndim - site.event_ndim, finite.ndim)))
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(
            f"The data of site {site.name!r} hold NaN or infinite values ({int((~finite).sum())}; the first at index "
            f"{where}). Mark missing values with obs_mask= or handlers.mask, or impute them by a latent."
        )
    try:
        inside = np.asarray(base.support(value))
    except (
        NotImplementedError,
        TypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerBoolConversionError,
        jax.errors.UnexpectedTracerError,
    ):
        return  # a support that depends on parameters is the log density's own business
    inside = inside.all(-1) if isinstance(base, _INTERVAL) else inside
    if not inside.all():
        where = tuple(int(i) for i in np.argwhere(~inside)[0])
        shown = np.broadcast_to(value, (*inside.shape, *value.shape[value.ndim - site.event_ndim :]))[where]
        raise ValueError(
            f"The data of site {site.name!r} lie outside the support of {site.distribution} "
            f"({int((~inside).sum())} values; the first at index {where} is {shown})."
        )


def _reported(base: Any, value: np.ndarray) -> np.ndarray:
    """(..., 2) bounds of censored values. One that censoring leaves open may be any number: it is made the other."""
    left, right = (np.asarray(a, bool) for a in (base.left_censored, base.right_censored))
    lower, upper = value[..., 0], value[..., 1]
    return np.stack([np.where(left & ~right, upper, lower), np.where(right & ~left, lower, upper)], -1)


def _inside(base: Any, value: Array) -> Array:
    """Whether elements are inside the support; bounds of censored values may lie outside, but not a value itself."""
    support: Any = base.support
    inside = jnp.asarray(support(value))
    if not isinstance(base, _INTERVAL):
        return inside
    point = (value[..., 0] == value[..., 1]) & ~(base.left_censored | base.right_censored)
    return jnp.all(inside, -1) | ~point


def _filler(base: Any, value: Array) -> Any:
    """Possible data in the place of those masked out; where they end at an unknown, data that do not depend on it."""
    if isinstance(base, dist.Uniform):
        return jnp.broadcast_to(jnp.asarray(base.low), jnp.shape(value))
    if isinstance(base, dist.Pareto) and not is_concrete(base.scale):
        return jnp.ones_like(value)
    return base.support.feasible_like(value)


def site_outputs(site: Site, again: Mapping[str, Any]) -> dict[str, Any]:
    """The values of interest at one site, as functions of the unknowns."""
    raw = again["value"]
    peeled = peel(again["fn"] if site.role == "maximised" else as_gaussians(again["fn"], raw))
    base = peeled.base
    value, mask = raw, peeled.mask
    scale = again["scale"]
    if scale is not None:
        scale = jnp.reshape(scale, [*jnp.shape(scale), *([1] * (site.hidden if jnp.ndim(scale) else 0))])
    if mask is not None and site.role == "observed" and not isinstance(base, _UNIT):
        keep = jnp.reshape(mask, [*jnp.shape(mask), *([1] * site.event_ndim)])
        value = jnp.where(keep, value, _filler(base, jnp.asarray(value)))
    arguments = {}
    if site.family is not None:
        for name in site.family.argument_ndims:
            arguments[name] = jnp.asarray(argument(base, name))
    log_prob = log_density(base, value)
    support = inspect.getattr_static(type(base), "support", None)
    if support is None or isinstance(support, property):
        # The support depends on arguments: outside of it the density is zero, which log_prob leaves to validation.
        log_prob = jnp.where(_inside(base, jnp.asarray(value)), log_prob, -jnp.inf)
    plain = {name: jnp.asarray(a) for name, a in (again.get("plain") or {}).items()}
    return {"value": jnp.asarray(value), "log_prob": log_prob, "mask": mask, "scale": scale, "arguments": arguments,
            "raw": jnp.asarray(raw), "total": again.get("total"), "plain": plain}  # fmt: skip


_LEAST = 1e-2
"""Of the prior's mean: a start is not closer to an end of its support, in parts of the mean's distance."""


def off_the_ends(fn: Any, value: Array) -> Array:
    """A prior's draw as a start. A vague Gamma(0.01, 0.01) draws 1e-40, where no step leads anywhere: not so close.

    Args:
        fn: the prior.
        value: its draw.
    """
    support = peel(fn).base.support
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None or fn.event_dim > peel(fn).hidden:
        return value
    try:
        mean = jnp.asarray(fn.mean)
    except (NotImplementedError, TypeError, ValueError):
        return value
    # Comparisons with a mean that is infinite or NaN are false, or leave the draw.
    below = jnp.where(jnp.isfinite(mean), low + _LEAST * (mean - low), value)
    value = jnp.where(value < below, below, value)
    if high is None:
        return value
    above = jnp.where(jnp.isfinite(mean), high - _LEAST * (high - mean), value)
    return jnp.where(value > above, above, value)


def with_known_bounds(site: Site, program: Program, outputs: Mapping[str, Any]) -> Site:
    """The site with its support, where an array that the model makes is its bound: that is a number once traced."""
    if site.constraint is not None or not isinstance(site.family, Uniform | Pareto):
        return site
    bounds = [program.known.get(outputs["arguments"][n]) for n in site.family.constants]
    if any(b is None for b in bounds) or not is_concrete(*bounds):
        return site
    numbers = [np.asarray(b) for b in bounds]
    known = constraints.greater_than if isinstance(site.family, Pareto) else constraints.interval
    return replace(site, constraint=known(*numbers))


def _bounded_kernel(site: Site, bounds: Sequence[Any]) -> AbstractKernel | None:
    """A probability on the unit interval, a power law on other positive numbers; its bounds have to be numbers."""
    if any(b is None for b in bounds) or not is_concrete(*bounds):
        return None
    if isinstance(site.family, Uniform) and np.all(np.equal(bounds[0], 0)) and np.all(np.equal(bounds[1], 1)):
        return Odds()
    return next(iter(bounded_kernels(site.constraint)), None)


def own_kernel(site: Site, program: Program, outputs: Mapping[str, Any]) -> AbstractKernel | None:
    """The features through which a continuous latent enters its own density; None where no engine knows them."""
    if site.family is None:
        return None
    arguments = outputs["arguments"]
    if isinstance(site.family, Uniform | Pareto):
        return _bounded_kernel(site, [program.known.get(arguments[n]) for n in site.family.constants])
    shapes = {n: jax.ShapeDtypeStruct(program.shape(i), jnp.result_type(float)) for n, i in arguments.items()}
    conditional = jax.eval_shape(site.family.value_conditional, shapes)
    shape = program.shape(outputs["value"])
    if site.event_ndim == 2:
        return matrix_kernel(conditional, shape[-1])
    kernel = kernel_of(conditional, size=shape[-1] if shape else 1)
    if kernel is not None or site.role == "latent":
        return kernel
    numbers = {n: program.known.get(arguments[n]) for n in site.family.constants}
    if not all(v is not None and is_concrete(v) and np.unique(v).size == 1 for v in numbers.values()):
        return None
    constants = {n: float(np.ravel(v)[0]) for n, v in numbers.items()}  # type: ignore[arg-type]
    held = (k for k in alternatives(site.constraint) if (s := spanned(k, site.family, constants)) and s[0].shape[1] > 1)
    return next(held, None)
