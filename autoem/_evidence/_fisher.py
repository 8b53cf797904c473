"""Derivatives of a log evidence by Fisher's identity: those of the slots, times expected statistics.

The engine is an argument of the differentiated functions, with no derivative of its own: a function that JAX
differentiates by a rule must not close over arrays that a `jit` around it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array


def by_fisher(
    engine: Any,
    value: Callable[[Any, Any], Array],
    statistics: Callable[[Any, Any], tuple[Array, list[Array]]],
    slots: Callable[[Any, Any], list[Array]],
    arguments: Any,
) -> Array:
    """L(arguments), with dL = Σ ⟨ds, E[T]⟩ as its derivative; that of the statistics gives second derivatives.

    Args:
        engine: the first argument of the functions that follow; `arguments` is the second.
        value: L; statistics: L and E[T] of every site; slots: s of every site.
    """
    arrays, rest = eqx.partition(engine, eqx.is_array)

    @jax.custom_jvp
    def total(arrays: Any, arguments: Any) -> Array:
        return value(eqx.combine(arrays, rest), arguments)

    @total.defjvp
    def rule(primals: Any, tangents: Any) -> tuple[Array, Array]:
        whole = eqx.combine(primals[0], rest)
        found, expected = statistics(whole, primals[1])
        _, moved = jax.jvp(lambda a: slots(whole, a), primals[1:], tangents[1:])
        return found, sum((jnp.sum(s * t) for s, t in zip(moved, expected, strict=True)), jnp.zeros(()))

    return total(arrays, arguments)


def tabled_by_fisher(
    engine: Any,
    value: Callable[[Any, Any], Array],
    statistics: Callable[[Any, Any, Array], list[Array]],
    slots: Callable[[Any, Any], list[Array]],
    arguments: Any,
) -> Array:
    """A table of log evidences of the arguments; its gradient for given weights of the entries is that of
    Σ ⟨s, E[T]⟩ with the statistics weighted so.

    Args:
        engine: the first argument of the functions that follow; `arguments` is the second.
        value: the table; statistics: E[T] of every site, from arguments and weights; slots: s of every site.
    """
    arrays, rest = eqx.partition(engine, eqx.is_array)

    @jax.custom_vjp
    def table(arrays: Any, arguments: Any) -> Array:
        return value(eqx.combine(arrays, rest), arguments)

    def forward(arrays: Any, arguments: Any) -> Any:
        return table(arrays, arguments), (arrays, arguments)

    def backward(held: Any, weights: Array) -> Any:
        arrays, arguments = held
        whole = eqx.combine(arrays, rest)
        pull = jax.vjp(lambda a: slots(whole, a), arguments)[1]
        return None, *pull(statistics(whole, arguments, weights))

    table.defvjp(forward, backward)
    return table(arrays, arguments)
