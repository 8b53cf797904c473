"""A distribution's wrappers (Independent, Masked, Expanded): how to take them off, and how to put them on again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

_WRAPPERS = (dist.Independent, dist.MaskedDistribution, dist.ExpandedDistribution)


@dataclass(frozen=True)
class Peeled:
    """A distribution without its wrappers: every mask with the number of axes that `to_event` hid inside of it."""

    base: Any
    masks: tuple[tuple[Any, int], ...]
    hidden: int

    @property
    def mask(self) -> Any:
        """All masks together, over all batch axes, or None."""
        mask: Any = None
        for own, inner in self.masks:
            own = jnp.reshape(own, [*jnp.shape(own), *([1] * inner)])
            mask = own if mask is None else mask & own
        return mask


def peel(fn: Any) -> Peeled:
    """Strip Independent, Masked and Expanded, and nothing else: other classes mean something by `base_dist`."""
    masks: list[tuple[Any, int]] = []
    hidden = 0
    while isinstance(fn, _WRAPPERS):
        if isinstance(fn, dist.MaskedDistribution):
            masks.append((fn._mask, hidden))
        elif isinstance(fn, dist.Independent):
            hidden += fn.reinterpreted_batch_ndims
        fn = fn.base_dist
    # A mask has the batch axes of what it wraps, so it lacks those that `to_event` hid inside of it.
    return Peeled(fn, tuple((mask, hidden - outer) for mask, outer in masks), hidden)


def wrapped(base: Any, shape: Sequence[int], mask: Any = None, hidden: int = 0) -> Any:
    """The inverse: `base` for elements of the given shape, masked, the last `hidden` axes of them in one event."""
    fn = base.expand(tuple(shape)) if tuple(base.batch_shape) != tuple(shape) else base
    fn = fn if mask is None else fn.mask(mask)
    return fn.to_event(hidden) if hidden else fn


def element_shape(fn: Any, value: Any) -> tuple[int, ...]:
    """Shape of the elements of a site: what the value and the distribution have, axes hidden by `to_event` included."""
    base = peel(fn).base
    value_shape = jnp.shape(value)
    whole = (*fn.batch_shape, *fn.event_shape[: len(fn.event_shape) - base.event_dim])
    shape = jnp.broadcast_shapes(value_shape[: len(value_shape) - base.event_dim], base.batch_shape, whole)
    return tuple(int(n) for n in shape)


def is_discrete(fn: Any) -> bool:
    """Whether a distribution's values can be counted."""
    return bool(getattr(peel(fn).base.support, "is_discrete", False))


def as_gaussians(fn: Any, value: Any) -> Any:
    """A Gaussian random walk or state space as one Gaussian a step, given the step before; a conditional autoregression
    as the Gaussian with its precision; others as they are.

    Args:
        fn: a distribution over all steps.
        value: of all steps, those to which the walk is to be compared.
    """
    peeled = peel(fn)
    base, value = peeled.base, jnp.asarray(value)
    if type(base) is dist.GaussianRandomWalk:
        before = jnp.concatenate([jnp.zeros_like(value[..., :1]), value[..., :-1]], -1)
        own: Any = dist.Normal(before, jnp.expand_dims(base.scale, -1), validate_args=False)
    elif type(base) is dist.GaussianStateSpace:
        start = jnp.broadcast_to(base.initial_value, value[..., 0, :].shape)[..., None, :]
        before = jnp.concatenate([start, value[..., :-1, :]], -2) @ base.transition_matrix.T
        name, matrix = _noise(base)
        own = dist.MultivariateNormal(before, **{name: matrix[..., :1, :, :]}, validate_args=False)
    elif type(base) is dist.CAR:
        own = dist.MultivariateNormal(base.loc, precision_matrix=base.precision_matrix, validate_args=False)
        return wrapped(own, own.batch_shape, peeled.mask, peeled.hidden)
    else:
        return fn
    mask = peeled.mask
    return wrapped(own, own.batch_shape, None if mask is None else jnp.asarray(mask)[..., None], peeled.hidden + 1)


def outlined_as_gaussians(fn: Any, value: Any) -> Any:
    """The same of shapes and classes alone: the numbers may be of a trace that is over."""
    peeled = peel(fn)
    base = peeled.base
    if type(base) is dist.GaussianRandomWalk:
        blank: Any = dist.GaussianRandomWalk(jnp.ones(jnp.shape(base.scale)), base.num_steps)
    elif type(base) is dist.GaussianStateSpace:
        name, matrix = _noise(base)
        *batch, _, size, _ = jnp.shape(matrix)
        matrices = {name: jnp.broadcast_to(jnp.eye(size), (*batch, size, size))}
        blank = dist.GaussianStateSpace(base.num_steps, jnp.eye(size), **matrices)
    elif type(base) is dist.CAR:
        size = base.event_shape[-1]
        blank = dist.CAR(jnp.zeros((*base.batch_shape, size)), 0.5, 1.0, 1 - np.eye(size), validate_args=False)
    else:
        return fn
    mask = None if peeled.mask is None else jnp.ones(jnp.shape(peeled.mask), bool)
    shape = element_shape(fn, value)
    return as_gaussians(wrapped(blank, shape, mask, peeled.hidden), jnp.zeros(jnp.shape(value)))


def _noise(walk: Any) -> tuple[str, Any]:
    """The matrix that the noise of a state space was given by, and its name: NumPyro repeats it for every step."""
    noise = peel(walk.base_dist).base
    name = next(n for n in ("covariance_matrix", "precision_matrix", "scale_tril") if n in noise.__dict__)
    return name, getattr(noise, name)


def argument(base: Any, name: str) -> Any:
    """An argument of a distribution without wrappers; of a truncated one, perhaps of what is truncated."""
    held = base if hasattr(base, name) else base.base_dist
    return getattr(held, name)
