"""The sum over all paths of a chain, with its derivative written out: the backward recursion (Rabiner 1989).

A step takes the message α (probabilities of the latest values, given the data so far), multiplies it by the factors of
the step, sums the oldest values out and divides by c, so that α sums to 1; log Σ = Σ log c. Backwards, λ is the
derivative of log Σ by α, so that α λ are posterior probabilities. What a factor over the values of a message is
expected to count is α λ itself; what another one is expected to count is added up on the way back, from α before a
step and λ / c after it: no array holds pairs of values for every step.

Numbers that underflow are not a result. Rounding to zero loses at most the smallest number there is, and λ says what
that would have become: where λ stays small, and no c is tiny, nothing was lost. Else all is done on logarithms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._types import Array
from ._branches import either
from ._chain_tables import ChainShape, Potential, Variable
from ._logarithmic import Gradient, lengths, logarithmic, message_before
from ._parallel import in_parallel, messages_of, slopes_of

_DENSE = 512
"""Joint values of a step, without batch, up to which a plain multiply and sum is faster than a matrix product."""

_COMPARED = 16
"""Values up to which the largest is found by comparing them one by one."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def log_total(shape: ChainShape, first: Array, later: tuple[Potential, ...]) -> Array:
    """log Σ over all paths of Π f, summed over the batch.

    Args:
        shape: static facts.
        first: log density of the first steps, over (message's variables, batch...).
        later: what the other steps multiply, over (variables, steps or 1, batch...).
    """
    return value_and_gradient(shape, first, later)[0]


@log_total.defjvp
def _differential(shape: ChainShape, primals: Any, tangents: Any) -> tuple[Array, Array]:
    total, gradient = value_and_gradient(shape, *primals)
    return total, along(gradient, tangents)


def along(gradient: Gradient, tangents: Any) -> Array:
    """The derivative of log Σ in the direction of tangents of (first, later)."""
    first, later = gradient
    total = jnp.vdot(first, tangents[0])
    for own, p in zip(later, tangents[1], strict=True):
        total = total + jnp.vdot(own, p.array)
    return total


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def value_and_gradient(shape: ChainShape, first: Array, later: tuple[Potential, ...]) -> tuple[Array, Gradient]:
    """log Σ and its derivatives, step by step."""
    found, sound = scaled(shape, first, later)
    return unless(sound, found, functools.partial(logarithmic, shape), first, later)


@value_and_gradient.defjvp
def _second_differential(shape: ChainShape, primals: Any, tangents: Any) -> Any:
    return jax.jvp(functools.partial(differentiable, shape), primals, tangents)


def differentiable(shape: ChainShape, first: Array, later: tuple[Potential, ...]) -> tuple[Array, Gradient]:
    """`value_and_gradient`, with derivatives of any kind and order."""
    found, sound = scaled(shape, first, later)

    def rescued() -> Any:
        return jax.tree.map(lambda a, b: jnp.where(sound, a, b), found, logarithmic(shape, first, later))

    return either(sound, found, rescued)


def unless(sound: Array, found: Any, other: Callable[..., Any], *operands: Any) -> Any:
    """`found` if it is sound, else `other(*operands)`.

    A `cond` would copy what was found, which is as large as the data; a loop that is not entered leaves it in place.
    """

    def body(state: Any) -> Any:
        # What depends on the loop's state is not computed beforehand.
        own, _ = jax.lax.optimization_barrier((operands, state[1]))
        return other(*own), jnp.asarray(True)

    return jax.lax.while_loop(lambda s: ~s[1], body, (found, sound))[0]


class Weights(NamedTuple):
    """Potentials as probabilities: those that change from step to step (steps leading), and those that do not."""

    moving: tuple[Array, ...]
    fixed: tuple[Array, ...]


class Stream(NamedTuple):
    """What one step has of its own (all steps: leading): moving weights, open gates, whether it is a step at all."""

    moving: tuple[Array, ...]
    opened: Array | None
    live: Array | None


class Sorted:
    """Which potential is what, for one chain.

    Attributes:
        moving, fixed: positions of the potentials that change from step to step, and of those that do not.
        outer: positions among the moving ones of those over more than the values of a message.
        opened: (steps, batch...) where the gated ones count, or None.
        closed: what they count as elsewhere.
        axes: those of a message's variables.
        live: (steps, batch or 1...) which steps are steps, whatever the potentials of others; None if all are.
    """

    def __init__(self, shape: ChainShape, later: Sequence[Potential], live: Array | None = None) -> None:
        self.shape, self.later, self.live = shape, later, live
        self.steps = shape.length - shape.start
        self.axes = tuple(range(len(shape.message())))
        varies = [p.array.shape[len(p.variables)] > 1 for p in later]
        self.moving = [i for i, v in enumerate(varies) if v]
        self.fixed = [i for i, v in enumerate(varies) if not v]
        inner = set(shape.message())
        self.outer = [j for j, i in enumerate(self.moving) if not set(later[i].variables) <= inner]
        self.gated = [i for i in self.fixed if later[i].gate is not None]
        self.closed = math.prod(math.exp(later[i].closed) for i in self.gated)
        gate: Any = later[self.gated[0]].gate if self.gated else None
        self.opened = None if gate is None else jnp.broadcast_to(gate, (self.steps, *shape.batch))

    def weights(self) -> tuple[Weights, Array]:
        """Probabilities, the moving ones up to a factor per step; and the sum of those factors' logarithms."""
        total: Any = jnp.zeros(())
        moving = []
        for i in self.moving:
            lead = len(self.later[i].variables)
            # Steps first, then the rest: largest values are found five times as fast within a step.
            array = self._alive(jnp.moveaxis(self.later[i].array, lead, 0), lead)
            top = _largest(array, lead)
            top = jnp.where(jnp.isfinite(top), top, 0.0)
            total = total + jnp.sum(jnp.broadcast_to(top, (self.steps, *[1] * lead, *self.shape.batch)))
            moving.append(jnp.exp(array - top))
        fixed = [jnp.exp(jnp.squeeze(self.later[i].array, len(self.later[i].variables))) for i in self.fixed]
        return Weights(tuple(moving), tuple(fixed)), total

    def _alive(self, array: Array, lead: int) -> Array:
        """An array over (steps, `lead` values, batch...), zero where there is no step."""
        if self.live is None:
            return array
        steps, *batch = self.live.shape
        return jnp.where(jnp.reshape(self.live, (steps, *[1] * lead, *batch)), array, 0.0)

    def turned(self, fixed: Sequence[Array]) -> tuple[Array, ...]:
        """Weights as `forward` wants them: what a step sums out comes last. Products with those are twice as fast."""
        lead = [len(self.later[i].variables) for i in self.fixed]
        orders = [(*self._turn(i), *range(n, a.ndim)) for i, n, a in zip(self.fixed, lead, fixed, strict=True)]
        return jax.lax.optimization_barrier(tuple(map(jnp.transpose, fixed, orders)))

    def _turn(self, position: int) -> list[int]:
        axes = [self.shape.step().index(v) for v in self.later[position].variables]
        return sorted(range(len(axes)), key=axes.__getitem__)

    def advance(self, weights: Weights, message: Array, opened: Any, turned: bool = False) -> Array:
        """One step: multiply and sum out. Linear in the message.

        Args:
            weights: the moving ones of this step.
            message: (message's variables, batch...).
            opened: (batch...) whether gates are open.
            turned: whether the fixed weights are.
        """
        later = self.later
        own = [(later[i].variables, a) for i, a in zip(self.moving, weights.moving, strict=True)]
        names = [later[i].variables for i in self.fixed]
        if turned:
            names = [tuple(v[a] for a in self._turn(i)) for i, v in zip(self.fixed, names, strict=True)]
        fixed = [(i, (v, a)) for i, v, a in zip(self.fixed, names, weights.fixed, strict=True)]
        own += [piece for i, piece in fixed if i not in self.gated]
        every = own + [piece for i, piece in fixed if i in self.gated]
        few = not self.shape.batch and math.prod(lengths(self.shape)) <= _DENSE
        multiply = _multiply if few else _contract
        new = multiply(self.shape, message, every)
        if self.gated:
            new = jnp.where(opened, new, multiply(self.shape, message, own) * self.closed)
        return new

    def forward(self, turned: Any, message: Array, own: Stream) -> tuple[Array, Array]:
        """The message after a step, and its c."""
        new = self.advance(Weights(own.moving, turned), message, own.opened, turned=True)
        scale = jnp.sum(new, self.axes)
        new = new * (1 / scale)
        if own.live is None:
            return new, scale
        return jnp.where(own.live, new, message), jnp.where(own.live, scale, 1.0)

    def backward(self, fixed: Any, slope: Array, own: Stream, inverse: Array) -> Array:
        """λ before a step from λ after it, and 1 / c."""
        weights = Weights(own.moving, fixed)
        scaled = slope * inverse
        (before,) = jax.linear_transpose(lambda m: self.advance(weights, m, own.opened), slope)(scaled)
        return before if own.live is None else jnp.where(own.live, before, slope)

    def forwards(self, fixed: Any, message: Array, streams: Stream) -> tuple[Array, tuple[Array, Array]]:
        """All steps: the last message; the messages before every step, and the c."""
        turned = self.turned(fixed)

        def step(message: Array, own: Stream) -> tuple[Array, Any]:
            new, scale = self.forward(turned, message, own)
            return new, (message, scale)

        return jax.lax.scan(step, message, streams, self.steps)

    def backwards(
        self, fixed: Any, slope: Array, messages: Array, scales: Array, streams: Stream
    ) -> tuple[Array, "Counts"]:
        """All steps, from λ after the last one: λ before the first, and what is counted."""
        none = tuple(_Sum(jnp.zeros_like(a), jnp.zeros_like(a)) for a in fixed)

        def step(state: Any, own: Any) -> Any:
            slope, counts, highest = state
            stream, message, inverse = own
            scaled = slope * inverse
            if stream.live is not None:
                scaled = jnp.where(stream.live, scaled, 0.0)
            outer = tuple(stream.moving[j] for j in self.outer)

            def new(message: Array, fixed: Any, outer: Any) -> Array:
                moving = list(stream.moving)
                for j, a in zip(self.outer, outer, strict=True):
                    moving[j] = a
                return self.advance(Weights(tuple(moving), fixed), message, stream.opened)

            before, more, pairs = jax.vjp(new, message, fixed, outer)[1](scaled)
            counts = tuple(c.add(m) for c, m in zip(counts, more, strict=True))
            if stream.live is not None:
                before = jnp.where(stream.live, before, slope)
            highest = jnp.maximum(highest, before)
            return (before, counts, highest), (before * message, pairs)

        start = slope, none, slope
        (before, counts, highest), (posterior, pairs) = jax.lax.scan(
            step, start, (streams, messages, 1 / scales), reverse=True
        )
        return before, Counts(tuple(c.total for c in counts), highest, posterior, pairs)

    def at_once(self, weights: Weights, message: Array) -> tuple[Array, Array, Array, "Counts", Array]:
        """All steps by associative scans: the last message, c, λ before the first, what is counted, and whether."""
        shape, streams = message.shape, Stream(weights.moving, self.opened, None)
        values = math.prod(shape[: len(self.axes)])

        def every(messages: Array, fixed: Any, outer: Any) -> Array:
            moving = list(streams.moving)
            for j, a in zip(self.outer, outer, strict=True):
                moving[j] = a

            def one(message: Array, moving: Any, opened: Any) -> Array:
                return jnp.reshape(self.advance(Weights(moving, fixed), jnp.reshape(message, shape), opened), flat)

            return jax.vmap(one)(messages, tuple(moving), streams.opened)

        flat = (values, math.prod(shape[len(self.axes) :]))
        outer = tuple(weights.moving[j] for j in self.outer)

        def steps(messages: Array) -> Array:
            return every(messages, weights.fixed, outer)

        messages, c, forth = messages_of(steps, jnp.reshape(message, flat), self.steps)
        slopes, back = slopes_of(steps, messages, c)
        _, pull = jax.vjp(lambda *own: every(messages[:-1], *own), weights.fixed, outer)
        fixed, pairs = pull(slopes[1:] / c[:, None])
        posterior = jnp.reshape((slopes * messages)[:-1], (self.steps, *shape))
        counts = Counts(fixed, jnp.max(slopes), posterior, pairs)
        return jnp.reshape(messages[-1], shape), c, jnp.reshape(slopes[0], shape), counts, forth & back

    def gradient(self, weights: Weights, counts: "Counts", last: Array) -> tuple[Array, ...]:
        """Derivatives of log Σ by the potentials; `last` are the probabilities α λ at the end."""
        gradient: list[Any] = [None] * len(self.later)
        after = jnp.concatenate([counts.posterior[1:], last[None]])
        message = self.shape.message()
        pairs = iter(counts.pairs)
        for j, i in enumerate(self.moving):
            p, lead = self.later[i], len(self.later[i].variables)
            if j in self.outer:
                own = next(pairs) * weights.moving[j]
            else:
                gone = tuple(1 + a for a, v in enumerate(message) if v not in p.variables)
                kept = [v for v in message if v in p.variables]
                own = jnp.sum(after, gone) if gone else after
                own = jnp.transpose(own, (0, *(1 + kept.index(v) for v in p.variables), *range(1 + lead, own.ndim)))
                own = _summed_to(own, weights.moving[j].shape)
            gradient[i] = jnp.moveaxis(self._alive(own, lead), 0, lead)
        for i, count, weight in zip(self.fixed, counts.fixed, weights.fixed, strict=True):
            gradient[i] = jnp.expand_dims(count * weight, len(self.later[i].variables))
        return tuple(gradient)


def _largest(array: Array, lead: int) -> Array:
    """The largest of the values on the axes 1, ..., lead, kept with length 1.

    A few are compared one by one: elementwise, it is computed together with what is compared, which is not stored.
    """
    shape = array.shape
    if math.prod(shape[1 : lead + 1]) > _COMPARED:
        return jnp.max(array, tuple(range(1, lead + 1)), keepdims=True)
    flat = jnp.moveaxis(jnp.reshape(array, (shape[0], -1, *shape[lead + 1 :])), 1, 0)
    largest = functools.reduce(jnp.maximum, [flat[i] for i in range(flat.shape[0])])
    return jnp.expand_dims(largest, tuple(range(1, lead + 1)))


class Counts(NamedTuple):
    """What comes back: per weight that does not move its count, the highest λ, per step α λ before it and pairs."""

    fixed: tuple[Array, ...]
    highest: Array
    posterior: Array
    pairs: tuple[Array, ...]


class _Sum(NamedTuple):
    """A running sum; below double precision with what rounding took from it (Kahan 1965)."""

    total: Array
    lost: Array

    def add(self, more: Array) -> "_Sum":
        if jnp.finfo(self.total.dtype).bits >= 64:
            return _Sum(self.total + more, self.lost)
        more = more - self.lost
        total = self.total + more
        return _Sum(total, (total - self.total) - more)


def _summed_to(array: Array, shape: Sequence[int]) -> Array:
    """Sum over axes along which `shape` is 1."""
    gone = tuple(a for a, (n, m) in enumerate(zip(array.shape, shape, strict=True)) if n > m)
    return jnp.sum(array, gone, keepdims=True) if gone else array


def scaled_start(shape: ChainShape, first: Array) -> tuple[Array, Array, Array]:
    """The first message, the least of its sums, and their logarithms added up."""
    axes = tuple(range(len(shape.message())))
    level = jnp.max(first, axes, keepdims=True)
    level = jnp.where(jnp.isfinite(level), level, 0.0)
    message = jnp.exp(first - level)
    start = jnp.sum(message, axes)
    return message / start, jnp.min(start), jnp.sum(level) + jnp.sum(jnp.log(start))


def nothing_lost(least: Array, scales: Array, highest: Array) -> Array:
    """Whether underflow cost nothing: see above."""
    tiny = float(jnp.finfo(scales.dtype).tiny)
    return (jnp.minimum(jnp.min(scales), least) > tiny**0.5) & (jnp.max(highest) < tiny**-0.75)


def scaled(shape: ChainShape, first: Array, later: tuple[Potential, ...]) -> tuple[tuple[Array, Gradient], Array]:
    """log Σ and its derivatives on scaled probabilities, and whether nothing was lost to underflow."""
    kind = Sorted(shape, later)
    weights, total = kind.weights()
    message, least, more = scaled_start(shape, first)
    if in_parallel():
        end, scales, slope, counts, agreed = kind.at_once(weights, message)
    else:
        streams, agreed = Stream(weights.moving, kind.opened, None), True
        end, (messages, scales) = kind.forwards(weights.fixed, message, streams)
        slope, counts = kind.backwards(weights.fixed, jnp.ones_like(end), messages, scales, streams)
    total = total + more + jnp.sum(jnp.log(scales))
    gradient = message * slope, kind.gradient(weights, counts, end)
    return (total, gradient), nothing_lost(least, scales, counts.highest) & agreed


def _multiply(shape: ChainShape, message: Array, pieces: Sequence[tuple[tuple[Variable, ...], Array]]) -> Array:
    """Multiply all joint values of a step and add up over the leading ones; no batch."""
    axes, gone = shape.step(), tuple(range(len(shape.message()), len(shape.step())))
    joint = Potential(tuple(message_before(shape)), message).aligned(axes, message, 0)
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
    operands: list[Any] = [message, [*(labels[v] for v in message_before(shape)), *batch]]
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
