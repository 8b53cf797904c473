"""A distribution's wrappers (Independent, Masked, Expanded): how to take them off, and how to put them on again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
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


def argument(base: Any, name: str) -> Any:
    """An argument of a distribution without wrappers; of a truncated one, perhaps of what is truncated."""
    held = base if hasattr(base, name) else base.base_dist
    return getattr(held, name)
