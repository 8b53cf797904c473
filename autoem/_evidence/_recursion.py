"""The sum over all paths of a chain, with its derivative written out: the backward recursion (Rabiner 1989).

A step takes the message α (probabilities of the latest values, given the data so far), multiplies it by the factors of
the step, sums the oldest values out and divides by c, so that α sums to 1; log Σ = Σ log c. Backwards, λ is the
derivative of log Σ by α, so that α λ are posterior probabilities; what a factor is expected to count is then one
contraction over all steps, of α before a step and λ / c after it: no array holds pairs of values for every step.

Numbers that underflow are not a result. Rounding to zero loses at most the smallest number there is, and λ says what
that would have become: where λ stays small, and no c is tiny, nothing was lost. Else all is done on logarithms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._types import Array
from ._chain_tables import ChainShape, Potential, Variable

_DENSE = 512
"""Joint values of a step, without batch, up to which a plain multiply and sum is faster than a matrix product."""

Gradient = tuple[Array, tuple[Array, ...]]
"""Derivatives of log Σ by the log density of the first steps, and by every potential."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def log_total(shape: ChainShape, first: Array, later: tuple[Potential, ...]) -> Array:
    """log Σ over all paths of Π f, summed over the batch.

    Args:
        shape: static facts.
        first: log density of the first steps, over (message's variables, batch...).
        later: what the other steps multiply, over (variables, steps or 1, batch...).
    """
    return _value_and_gradient(shape, first, later)[0]


@log_total.defjvp
def _differential(shape: ChainShape, primals: Any, tangents: Any) -> tuple[Array, Array]:
    total, (first, later) = _value_and_gradient(shape, *primals)
    along = jnp.vdot(first, tangents[0])
    for gradient, p in zip(later, tangents[1], strict=True):
        along = along + jnp.vdot(gradient, p.array)
    return total, along


def _value_and_gradient(shape: ChainShape, first: Array, later: tuple[Potential, ...]) -> tuple[Array, Gradient]:
    scaled, sound = _scaled(shape, first, later)

    def rescued() -> Any:
        return jax.tree.map(lambda a, b: jnp.where(sound, a, b), scaled, _logarithmic(shape, first, later))

    return jax.lax.cond(_everywhere(sound), lambda: scaled, rescued)


@jax.custom_batching.custom_vmap
def _everywhere(sound: Array) -> Array:
    """True if it is for all that `vmap` computes together: a `cond` on it stays one, and costs one branch."""
    return sound


@_everywhere.def_vmap
def _over_batch(size: int, batched: Any, sound: Array) -> tuple[Array, bool]:
    return _everywhere(jnp.all(sound)), False


class _Weights(NamedTuple):
    """Potentials as probabilities: those that change from step to step (steps leading), and those that do not."""

    moving: tuple[Array, ...]
    fixed: tuple[Array, ...]


class _Sorted:
    """Which potential is what, for one chain.

    Attributes:
        moving, fixed: positions of the potentials that change from step to step, and of those that do not.
        opened: (steps, batch...) where the gated ones count, or None.
        closed: what they count as elsewhere.
    """

    def __init__(self, shape: ChainShape, later: Sequence[Potential]) -> None:
        self.shape, self.later = shape, later
        self.steps = shape.length - shape.start
        varies = [p.array.shape[len(p.variables)] > 1 for p in later]
        self.moving = [i for i, v in enumerate(varies) if v]
        self.fixed = [i for i, v in enumerate(varies) if not v]
        self.gated = [i for i in self.fixed if later[i].gate is not None]
        self.closed = math.prod(math.exp(later[i].closed) for i in self.gated)
        gate: Any = later[self.gated[0]].gate if self.gated else None
        self.opened = None if gate is None else jnp.broadcast_to(gate, (self.steps, *shape.batch))

    def weights(self) -> tuple[_Weights, Array]:
        """Probabilities, the moving ones up to a factor per step; and the sum of those factors' logarithms."""
        total: Any = jnp.zeros(())
        moving, fixed = [], []
        for i in self.moving:
            array, lead = self.later[i].array, len(self.later[i].variables)
            top = jnp.max(array, tuple(range(lead)), keepdims=True)
            top = jnp.where(jnp.isfinite(top), top, 0.0)
            total = total + jnp.sum(jnp.broadcast_to(top, (*[1] * lead, self.steps, *self.shape.batch)))
            moving.append(jnp.moveaxis(jnp.exp(array - top), lead, 0))
        for i in self.fixed:
            fixed.append(jnp.exp(jnp.squeeze(self.later[i].array, len(self.later[i].variables))))
        return _Weights(tuple(moving), tuple(fixed)), total

    def advance(self, weights: _Weights, message: Array, moving: Sequence[Array], opened: Any, dense: bool) -> Array:
        """One step: multiply and sum out. Linear in the message.

        Args:
            weights: for the fixed potentials.
            message: (message's variables, batch...).
            moving: of this step.
            opened: (batch...) whether gates are open.
            dense: by plain sums over all joint values, where these are few.
        """
        later = self.later
        own = [(later[i].variables, a) for i, a in zip(self.moving, moving, strict=True)]
        fixed = [(i, (later[i].variables, a)) for i, a in zip(self.fixed, weights.fixed, strict=True)]
        own += [piece for i, piece in fixed if i not in self.gated]
        every = own + [piece for i, piece in fixed if i in self.gated]
        few = dense and not self.shape.batch and math.prod(_lengths(self.shape)) <= _DENSE
        multiply = _multiply if few else _contract
        new = multiply(self.shape, message, every)
        if self.gated:
            new = jnp.where(opened, new, multiply(self.shape, message, own) * self.closed)
        return new


def _scaled(shape: ChainShape, first: Array, later: tuple[Potential, ...]) -> tuple[tuple[Array, Gradient], Array]:
    """log Σ and its derivatives on scaled probabilities, and whether nothing was lost to underflow."""
    kind = _Sorted(shape, later)
    weights, total = kind.weights()
    axes = tuple(range(len(shape.message())))
    level = jnp.max(first, axes, keepdims=True)
    level = jnp.where(jnp.isfinite(level), level, 0.0)
    message = jnp.exp(first - level)
    start = jnp.sum(message, axes)
    message, total = message / start, total + jnp.sum(level) + jnp.sum(jnp.log(start))

    def forwards(message: Array, own: Any) -> tuple[Array, Any]:
        new = kind.advance(weights, message, *own, dense=True)
        scale = jnp.sum(new, axes)
        return new / scale, (message, scale)

    def backwards(slope: Array, own: Any) -> tuple[Array, Any]:
        *given, inverse = own
        (before,) = jax.linear_transpose(lambda m: kind.advance(weights, m, *given, dense=True), slope)(slope)
        return before * inverse, slope

    streams = weights.moving, kind.opened
    _, (messages, scales) = jax.lax.scan(forwards, message, streams)
    # What goes back is λ / c: the division is then one multiplication at the end of a step.
    inverse = 1 / jnp.concatenate([jnp.ones_like(scales[:1]), scales])
    slope = jnp.broadcast_to(inverse[-1], message.shape)
    slope, slopes = jax.lax.scan(backwards, slope, (*streams, inverse[:-1]), reverse=True)
    total = total + jnp.sum(jnp.log(scales))
    tiny = float(jnp.finfo(total.dtype).tiny)
    highest = jnp.maximum(jnp.max(jnp.max(slopes, tuple(a + 1 for a in axes)) * scales), jnp.max(slope))
    sound = (jnp.minimum(jnp.min(scales), jnp.min(start)) > tiny**0.5) & (highest < tiny**-0.75)

    def every(w: _Weights) -> Array:
        def one(message: Array, moving: Any, opened: Any) -> Array:
            return kind.advance(_Weights((), w.fixed), message, moving, opened, dense=False)

        return jax.vmap(one)(messages, w.moving, kind.opened)

    (counts,) = jax.vjp(every, weights)[1](slopes)
    gradient: list[Any] = [None] * len(later)
    for i, count, weight in zip(kind.moving, counts.moving, weights.moving, strict=True):
        gradient[i] = jnp.moveaxis(count * weight, 0, len(later[i].variables))
    for i, count, weight in zip(kind.fixed, counts.fixed, weights.fixed, strict=True):
        gradient[i] = jnp.expand_dims(count * weight, len(later[i].variables))
    return (total, (message * slope, tuple(gradient))), sound


def _lengths(shape: ChainShape) -> list[int]:
    return [shape.sizes[n] for n, _ in shape.step()]


def _before(shape: ChainShape) -> list[Variable]:
    """The variables of a message, as the next step calls them."""
    chained = {n for n, _, _ in shape.latents}
    return [(n, lag + 1) if n in chained else (n, lag) for n, lag in shape.message()]


def _multiply(shape: ChainShape, message: Array, pieces: Sequence[tuple[tuple[Variable, ...], Array]]) -> Array:
    """Multiply all joint values of a step and add up over the leading ones; no batch."""
    axes, gone = shape.step(), tuple(range(len(shape.message()), len(shape.step())))
    joint = Potential(tuple(_before(shape)), message).aligned(axes, message, 0)
    late: list[Array] = []
    for variables, array in pieces:
        own = Potential(variables, array).aligned(axes, array, 0)
        if set(variables) <= set(shape.message()):
            late.append(jnp.squeeze(own, gone))
        else:
            joint = joint * own
    joint = jnp.broadcast_to(joint, [shape.sizes[n] for n, _ in axes])
    return functools.reduce(jnp.multiply, late, jnp.sum(joint, gone))


def _contract(shape: ChainShape, message: Array, pieces: Sequence[tuple[tuple[Variable, ...], Array]]) -> Array:
    """The same as matrix products: over (message's variables, batch...)."""
    labels: dict[Any, int] = {v: i for i, v in enumerate(shape.step())}
    batch = [len(labels) + i for i in range(len(shape.batch))]
    operands: list[Any] = [message, [*(labels[v] for v in _before(shape)), *batch]]
    for variables, array in pieces:
        lead = len(variables)
        kept = [b for b, n in zip(batch, array.shape[lead:], strict=True) if n > 1 or n == shape.batch[b - batch[0]]]
        gone = [lead + i for i, b in enumerate(batch) if b not in kept]
        operands += [jnp.squeeze(array, tuple(gone)), [*(labels[v] for v in variables), *kept]]
    present = {i for spec in operands[1::2] for i in spec}
    out = [labels[v] for v in shape.message()]
    result = jnp.einsum(*operands, [i for i in (*out, *batch) if i in present], optimize="optimal")
    if all(i in present for i in out):
        return result
    at = iter(result.shape)
    result = jnp.reshape(result, [next(at) if i in present else 1 for i in (*out, *batch)])
    return jnp.broadcast_to(result, (*(shape.sizes[n] for n, _ in shape.message()), *shape.batch))


def _logarithmic(shape: ChainShape, first: Array, later: tuple[Potential, ...]) -> tuple[Array, Gradient]:
    """log Σ and its derivatives by a recursion on logarithms; of a step nothing is kept but its message."""

    def total(first: Array, arrays: tuple[Array, ...]) -> Array:
        own = [Potential(p.variables, a, p.gate, p.closed) for p, a in zip(later, arrays, strict=True)]

        @jax.checkpoint
        def step(message: Array, stream: Any) -> tuple[Array, None]:
            return log_sum(joint(shape, message, stream, own), len(shape.batch), keep=len(shape.message())), None

        message, _ = jax.lax.scan(step, first, streams(shape, own))
        return jnp.sum(log_sum(message, len(shape.batch)))

    return jax.value_and_grad(total, (0, 1))(first, tuple(p.array for p in later))


def streams(shape: ChainShape, later: Sequence[Potential]) -> Any:
    """What changes from step to step, steps leading: arrays and gates, None where nothing does."""
    steps = shape.length - shape.start
    arrays = [jnp.moveaxis(p.array, len(p.variables), 0) if p.array.shape[len(p.variables)] > 1 else None
              for p in later]  # fmt: skip
    gates = [None if p.gate is None else jnp.broadcast_to(p.gate, (steps, *shape.batch)) for p in later]
    return arrays, gates, jnp.arange(steps)


def joint(shape: ChainShape, message: Array, own: Any, later: Sequence[Potential]) -> Array:
    """Log density of one step over `step()` and batch, `own` from `streams`."""
    arrays, gates, _ = own
    axes = shape.step()
    total = Potential(tuple(_before(shape)), message).aligned(axes, message, len(shape.batch))
    for p, array, gate in zip(later, arrays, gates, strict=True):
        value = jnp.squeeze(p.array, len(p.variables)) if array is None else array
        if gate is not None:
            value = jnp.where(gate, value, p.closed)
        total = total + p.aligned(axes, value, len(shape.batch))
    return jnp.broadcast_to(total, (*_lengths(shape), *shape.batch))


def log_sum(array: Array, batch: int, keep: int = 0) -> Array:
    """log Σ exp over the axes between the first `keep` and the last `batch`."""
    return reduced(array, batch, keep, jax.nn.logsumexp)


def reduced(array: Array, batch: int, keep: int, reduction: Any) -> Array:
    """Reduce the axes between the first `keep` and the last `batch`."""
    axes = tuple(range(keep, array.ndim - batch))
    return reduction(array, axis=axes) if axes else array
