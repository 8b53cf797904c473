"""A factor: one site's log density as ⟨slots(θ), T(data)⟩ for every value of the discrete latents it holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._family import LOG_ZERO, AbstractFamily
from .._types import Array


class Factor(eqx.Module):
    """One site in a derivation.

    Arrays are aligned: one axis per latent in `latents` (its support), then the batch axes of the site, each of
    length 1 where nothing varies, then event axes.

    Attributes:
        site: the site's name.
        latents: discrete latents that the factor depends on.
        batch_shape: the site's elements.
        keep: batch axes along which different elements meet different elements of a latent; others are summed.
        canonical: whether the family's statistics are used; else the slot is the log density itself, and its
            statistic is its weight.
        family: the exponential family; None if there is none, or none that helps.
        value, constants: data that enter the statistics (for a family).
        weight: mask times scale, or None for ones.
        offset: log density added elementwise whatever the slots, or None (a masked latent's uniform weight).
        moving: whether it holds latents that are integrated numerically: they move from one E-step to the next.
    """

    site: str = eqx.field(static=True)
    latents: tuple[str, ...] = eqx.field(static=True)
    batch_shape: tuple[int, ...] = eqx.field(static=True)
    keep: tuple[int, ...] = eqx.field(static=True)
    canonical: bool = eqx.field(static=True)
    family: AbstractFamily | None = eqx.field(static=True)
    value: Array | None
    constants: dict[str, Any]
    weight: Array | None
    offset: Array | None
    moving: bool = eqx.field(static=True, default=False)

    def slots(self, arguments: dict[str, Any]) -> jax.Array:
        """Natural parameters from the aligned arguments: (latents..., batch..., F)."""
        if not self.canonical or self.family is None:
            return jnp.maximum(arguments["@log_prob"], LOG_ZERO)[..., None]
        return self.family.slots(arguments, self.constants)

    def statistics(self) -> tuple[jax.Array, jax.Array]:
        """Weighted sufficient statistics (latents..., batch..., F), and what is added whatever the slots (..., 1)."""
        lead = len(self.latents) + len(self.batch_shape)
        if not self.canonical or self.family is None or self.value is None:
            features, base = jnp.ones([1] * lead + [1]), jnp.zeros([1] * lead)
        else:
            features = self.family.statistics(self.value, self.constants)
            base = self.family.log_base(self.value, self.constants)
        if self.weight is not None:
            features, base = features * self.weight[..., None], base * self.weight
        if self.offset is not None:
            base = base + self.offset
        return features, base[..., None]

    def table(self, slots: Array, features: Array, base: Array, batch_shape: Sequence[int]) -> jax.Array:
        """log f for every latent value along the kept axes: (latents..., kept...)."""
        return self.contract(slots, features, batch_shape) + self.contract(jnp.ones_like(base), base, batch_shape)

    def contract(self, slots: Array, features: Array, batch_shape: Sequence[int], spread: bool = True) -> jax.Array:
        """Sum slots · features over features and over the batch axes not kept: a matrix product where it can be.

        Kept axes along which nothing changes get their full length if `spread`.
        """
        lead = len(self.latents)
        lengths = [1] * lead + list(batch_shape)
        output = [*range(lead), *(lead + a for a in self.keep)]
        present = {a for a in range(len(lengths)) if max(slots.shape[a], features.shape[a]) > 1}
        operands: list[Any] = []
        for array in (slots, features):
            axes = [a for a in range(len(lengths)) if array.shape[a] > 1]
            squeezed = jnp.reshape(array, [array.shape[a] for a in axes] + [array.shape[-1]])
            operands += [squeezed, [*axes, len(lengths)]]
        result = jnp.einsum(*operands, [a for a in output if a in present])
        times = math.prod(n for a, n in enumerate(lengths) if a not in present and a not in output)
        shape = [max(slots.shape[a], features.shape[a]) if a in present else 1 for a in output]
        result = jnp.reshape(result if times == 1 else result * times, shape)
        if not spread:
            return result
        full = [n if a < lead else lengths[a] for a, n in zip(output, shape, strict=True)]
        return jnp.broadcast_to(result, full)


def over_states(array: Any, own: Sequence[str], latents: Sequence[tuple[str, int]]) -> Array:
    """The axes of a site's own discrete latents as one axis over the joint states of all; 1 where nothing varies.

    Args:
        array: (own..., ...), an axis of length 1 where nothing varies.
        own: names of the leading axes.
        latents: (name, values) of all discrete latents, in order.
    """
    lead = len(own)
    if all(n == 1 for n in array.shape[:lead]):
        return jnp.reshape(array, (1, *array.shape[lead:]))
    lengths = [array.shape[own.index(name)] if name in own else 1 for name, _ in latents]
    array = jnp.reshape(array, (*lengths, *array.shape[lead:]))
    array = jnp.broadcast_to(array, (*(n for _, n in latents), *array.shape[len(latents) :]))
    return jnp.reshape(array, (-1, *array.shape[len(latents) :]))


def sliced(factor: Factor, axis: int, start: Any, size: int) -> Factor:
    """The factor restricted to `size` elements along one batch axis (its `batch_shape` is left as it was)."""
    position = len(factor.latents) + axis

    def cut(array: Any) -> Any:
        if array is None or jnp.ndim(array) <= position or jnp.shape(array)[position] == 1:
            return array
        return jax.lax.dynamic_slice_in_dim(array, start, size, position)

    return eqx.tree_at(
        lambda f: (f.value, f.constants, f.weight, f.offset),
        factor,
        (cut(factor.value), {n: cut(c) for n, c in factor.constants.items()}, cut(factor.weight), cut(factor.offset)),
        is_leaf=lambda x: x is None,
    )
