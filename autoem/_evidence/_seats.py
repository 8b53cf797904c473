"""Where the elements of a latent sit among the cells of a numerical integral."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to

from .._types import Array, Leaf


class Seat(eqx.Module):
    """Where the elements of one latent sit.

    Attributes:
        name: the latent.
        constraint: its support.
        shape: of its value.
        free: shape of one element in free coordinates.
        cell, slot: (elements,) each element's cell, and the first of its coordinates there.
    """

    name: str = eqx.field(static=True)
    constraint: Any
    shape: tuple[int, ...] = eqx.field(static=True)
    free: tuple[int, ...] = eqx.field(static=True)
    cell: Leaf
    slot: Leaf

    def coordinates(self, u: Array) -> Array:
        """This latent's free coordinates (elements..., free...) from those of the cells (cells, d)."""
        width = math.prod(self.free)
        own = u[jnp.asarray(self.cell)[:, None], jnp.asarray(self.slot)[:, None] + np.arange(width)]
        event_ndim = self.constraint.event_dim
        return jnp.reshape(own, (*self.shape[: len(self.shape) - event_ndim], *self.free))

    def value(self, u: Array, cells: int) -> tuple[Array, Array]:
        """The latent's value, and the log Jacobian of every cell (cells,)."""
        free = self.coordinates(u)
        transform = biject_to(self.constraint)
        value = transform(free)
        slope = jnp.reshape(transform.log_abs_det_jacobian(free, value), (-1,))
        return value, jnp.zeros(cells, u.dtype).at[self.cell].add(slope)
