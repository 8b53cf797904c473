"""Derivatives of a log evidence by Fisher's identity: those of the slots, times expected statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._types import Array, Arrays

Slots = Callable[[Sequence[Arrays]], list[Array]]


def by_fisher(
    value: Callable[[Any], Array], statistics: Callable[[Any], tuple[Array, list[Array]]], slots: Slots
) -> Callable[[Any], Array]:
    """L(arguments), with dL = Σ ⟨ds, E[T]⟩ as its derivative; that of the statistics gives second derivatives.

    Args:
        value: L; statistics: L and E[T] of every site; slots: s of every site.
    """

    @jax.custom_jvp
    def total(arguments: Any) -> Array:
        return value(arguments)

    @total.defjvp
    def rule(primals: Any, tangents: Any) -> tuple[Array, Array]:
        found, expected = statistics(*primals)
        _, moved = jax.jvp(slots, primals, tangents)
        return found, sum((jnp.sum(s * t) for s, t in zip(moved, expected, strict=True)), jnp.zeros(()))

    return total


def tabled_by_fisher(
    value: Callable[[Any], Array], statistics: Callable[[Any, Array], list[Array]], slots: Slots
) -> Callable[[Any], Array]:
    """A table of log evidences of the arguments; its gradient for given weights of the entries is that of
    Σ ⟨s, E[T]⟩ with the statistics weighted so.

    Args:
        value: the table; statistics: E[T] of every site, from arguments and weights; slots: s of every site.
    """

    @jax.custom_vjp
    def table(arguments: Any) -> Array:
        return value(arguments)

    def forward(arguments: Any) -> Any:
        return value(arguments), arguments

    def backward(arguments: Any, weights: Array) -> Any:
        return jax.vjp(slots, arguments)[1](statistics(arguments, weights))

    table.defvjp(forward, backward)
    return table
