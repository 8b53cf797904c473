"""A long chain as blocks that run side by side: one step is then one operation for all blocks.

A block needs the message that the one before it ends with. A chain forgets: a message that is guessed some steps before
a block is soon the true one, to the last digit. So all blocks run from guesses, and it is *checked* that each started
where the one before it ended: every element of the two messages, relative to itself, to rounding. All numbers are
positive and a step is linear, so relative errors never grow: what passes the check is the plain recursion up to
rounding, whatever the data. What does not pass after a few sweeps (a chain that remembers) is done step by step.

Backwards the same holds of λ. Derivatives of the result are those of the plain recursion: they forget later.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array
from ._chain_tables import Chained, ChainShape, Potential, potential, total_values
from ._factor import Factor
from ._parallel import in_parallel
from ._recursion import (
    Gradient,
    Sorted,
    Stream,
    Weights,
    along,
    differentiable,
    nothing_lost,
    scaled_start,
    unless,
    value_and_gradient,
)

_SHORTEST = 192
"""Steps of a block below which guesses would cost as much as the steps themselves."""

_FEWEST = 32
"""Blocks below which they are not worth it."""

_WIDE = 64
"""Sequences from which on a step is long enough without blocks."""

_SWEEPS = 3
"""Sweeps over all blocks before a chain is taken for one that remembers."""

_FEW = 4
"""Features up to which adding them up in a pass over the result is faster than a product of matrices."""

_ROUNDING = 64.0
"""Units of rounding by which two messages may differ and be the same."""


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How the steps start, ..., length - 1 of a chain are cut.

    Attributes:
        count: number of blocks.
        size: steps of each.
        pad: steps of the first block that are none, before the others.
    """

    count: int
    size: int
    pad: int

    def inner(self, shape: ChainShape) -> ChainShape:
        """The chain of one block; the blocks are its first batch dimension."""
        return dataclasses.replace(shape, length=shape.start + self.size, batch=(self.count, *shape.batch))

    def cut(self, array: Array, axis: int) -> Array:
        """Steps along `axis` as (size, count); zeros where there is none."""
        pad = [(0, 0)] * array.ndim
        pad[axis] = (self.pad, 0)
        array = jnp.pad(array, pad)
        array = jnp.reshape(array, (*array.shape[:axis], self.count, self.size, *array.shape[axis + 1 :]))
        return jnp.swapaxes(array, axis, axis + 1)

    def joined(self, array: Array, axis: int) -> Array:
        """The inverse of `cut`."""
        array = jnp.swapaxes(array, axis, axis + 1)
        array = jnp.reshape(array, (*array.shape[:axis], -1, *array.shape[axis + 2 :]))
        return jax.lax.slice_in_dim(array, self.pad, None, axis=axis)


def blocks(shape: ChainShape) -> Blocks | None:
    """How to cut a chain, if that pays; a latent outside of the chain is never forgotten."""
    steps, wide = shape.length - shape.start, 1
    for n in shape.batch:
        wide *= n
    values = total_values(shape.message(), shape.sizes)
    count = min((256 if values <= 16 else 64) // wide, steps // _SHORTEST)
    if wide >= _WIDE or count < _FEWEST or shape.late() or in_parallel():
        return None
    size = -(-steps // count)
    count = -(-steps // size)
    return Blocks(count, size, count * size - steps)


def cut(p: Potential, own: Blocks) -> Potential:
    """A potential over (variables..., steps or 1, batch...) as one over (variables..., size or 1, count or 1, ...)."""
    axis = len(p.variables)
    array = own.cut(p.array, axis) if p.array.shape[axis] > 1 else jnp.expand_dims(p.array, axis)
    gate = p.gate
    if gate is not None:
        gate = own.cut(gate, 0) if gate.shape[0] > 1 else jnp.asarray(gate)[None]
    return Potential(p.variables, array, gate, p.closed)


def _joined(p: Potential, own: Blocks) -> Potential:
    axis = len(p.variables)
    array = own.joined(p.array, axis) if p.array.shape[axis] > 1 else jnp.squeeze(p.array, axis)
    gate = p.gate
    if gate is not None:
        gate = own.joined(gate, 0) if gate.shape[0] > 1 else jnp.squeeze(gate, 0)
    return Potential(p.variables, array, gate, p.closed)


class Laid(eqx.Module):
    """A factor's statistics, brought into the order in which they are wanted once for all iterations.

    Attributes:
        features, base: as of `Factor.statistics` but for the steps, which lead, and the features, which come next; of a
            chain that is cut the steps are two axes (size, count).
        early: the same, not cut, of the steps before `start`; None if the factor has none.
    """

    features: Array
    base: Array
    early: tuple[Array, Array] | None


def laid(factor: Factor, place: Chained, shape: ChainShape, own: Blocks | None, statistics: Any) -> Any:
    """Statistics of a factor of all later steps that change from step to step as `Laid`; others as they are."""
    whole = place.first <= shape.start and place.first + place.count >= shape.length
    if place.time is None or place.gated or not whole:
        return statistics
    axis = len(factor.latents) + factor.keep[place.time]
    if max(a.shape[axis] for a in statistics) == 1:
        return statistics
    early, late = zip(*(_split(a, axis, place, shape, own) for a in statistics), strict=True)
    first = [jnp.moveaxis(jnp.moveaxis(a, -1, 0), axis + 1, 0) for a in late]
    return Laid(first[0], first[1], early if place.first < shape.start else None)


def _split(array: Array, axis: int, place: Chained, shape: ChainShape, own: Blocks | None) -> tuple[Array, Array]:
    """An array over a factor's steps: those before `start`, and the others, cut."""
    if array.shape[axis] == 1:
        return array, array if own is None else jnp.expand_dims(array, axis)
    at = shape.start - place.first
    late = jax.lax.slice_in_dim(array, at, shape.length - place.first, axis=axis)
    early = jax.lax.slice_in_dim(array, 0, at, axis=axis)
    return early, late if own is None else own.cut(late, axis)


def laid_potentials(
    factor: Factor, place: Chained, shape: ChainShape, own: Blocks | None, slots: Array, prepared: Laid, added: bool
) -> tuple[Potential, tuple[Potential, Chained] | None]:
    """The potential over the later steps, cut where there are blocks, and that over the steps before `start`.

    With `added` it is made to be computed fast, else to be differentiated fast.
    """
    assert place.time is not None
    axis = factor.keep[place.time]
    at = len(factor.latents) + axis
    early, late = _split(slots, at, place, shape, own)
    wide, there, inner = _later(factor, place, shape, own)
    features, base = (jnp.moveaxis(jnp.moveaxis(a, 0, at + 1), 0, -1) for a in (prepared.features, prepared.base))
    few = slots.shape[-1] <= _FEW and all(n == 1 for a, n in enumerate(wide.batch_shape) if a not in wide.keep)
    if few and not added:
        late = _by_step(wide, there, late, features)
    found = potential(wide, there, inner, late, (features, base), few and added)
    if prepared.early is None:
        return found, None
    count = shape.start - place.first
    lengths = factor.batch_shape
    short = _only(factor, factor.keep, (*lengths[:axis], count, *lengths[axis + 1 :]))
    here = dataclasses.replace(place, count=count)
    return found, (potential(short, here, shape, early, prepared.early), here)


def _by_step(factor: Factor, place: Chained, slots: Array, features: Array) -> Array:
    """Slots, repeated for every step: then their derivative is a product of matrices for every step.

    One product over all steps would want the steps next to the sequences in memory: a copy of the derivative of all.
    """
    assert place.time is not None
    time = len(factor.latents) + factor.keep[place.time]
    wide = math.prod(features.shape[len(factor.latents) : -1]) // features.shape[time]
    if wide < _WIDE or slots.shape[time] > 1:
        return slots
    return jnp.broadcast_to(slots, (*slots.shape[:time], features.shape[time], *slots.shape[time + 1 :]))


def _later(factor: Factor, place: Chained, shape: ChainShape, own: Blocks | None) -> tuple[Factor, Chained, ChainShape]:
    """The factor of the later steps, its place, and the chain that it is in."""
    assert place.time is not None
    at, axis = place.time, factor.keep[place.time]
    lengths = factor.batch_shape
    if own is None:
        count = shape.length - shape.start
        wide = _only(factor, factor.keep, (*lengths[:axis], count, *lengths[axis + 1 :]))
        return wide, dataclasses.replace(place, first=shape.start, count=count), shape
    keep = [k if k <= axis else k + 1 for k in factor.keep]
    keep.insert(at + 1, axis + 1)
    batch = tuple(None if b is None else b + (b > at) for b in place.batch)
    wide = _only(factor, tuple(keep), (*lengths[:axis], own.size, own.count, *lengths[axis + 1 :]))
    return wide, Chained(place.variables, shape.start, own.size, at, (at + 1, *batch)), own.inner(shape)


def _only(factor: Factor, keep: tuple[int, ...], batch_shape: tuple[int, ...]) -> Factor:
    """The factor with other axes, without data."""
    none = {"value": None, "constants": {}, "weight": None, "offset": None}
    return dataclasses.replace(factor, keep=keep, batch_shape=batch_shape, **none)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def log_total_of_blocks(shape: ChainShape, own: Blocks, first: Array, later: tuple[Potential, ...]) -> Array:
    """`log_total` of a chain whose potentials are `cut`; `first` is not, and `shape` is the whole chain's."""
    return value_and_gradient_of_blocks(shape, own, first, later)[0]


@log_total_of_blocks.defjvp
def _differential(shape: ChainShape, own: Blocks, primals: Any, tangents: Any) -> tuple[Array, Array]:
    total, gradient = value_and_gradient_of_blocks(shape, own, *primals)
    return total, along(gradient, tangents)


def _plain(
    steps: Callable[..., Any], shape: ChainShape, own: Blocks, first: Array, later: tuple[Potential, ...]
) -> tuple[Array, Gradient]:
    """What `steps` finds of the chain as a whole."""
    total, (slope, gradient) = steps(shape, first, tuple(_joined(p, own) for p in later))
    again = [cut(Potential(p.variables, g), own).array for p, g in zip(later, gradient, strict=True)]
    return total, (slope, tuple(again))


def step_by_step(shape: ChainShape, own: Blocks, first: Array, later: tuple[Potential, ...]) -> tuple[Array, Gradient]:
    """`value_and_gradient` of the chain as a whole."""
    return _plain(value_and_gradient, shape, own, first, later)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def value_and_gradient_of_blocks(
    shape: ChainShape, own: Blocks, first: Array, later: tuple[Potential, ...]
) -> tuple[Array, Gradient]:
    """`value_and_gradient` in blocks; everything else as in `log_total_of_blocks`."""
    found, sound = in_blocks(shape, own, first, later)
    return unless(sound, found, functools.partial(step_by_step, shape, own), first, later)


@value_and_gradient_of_blocks.defjvp
def _second_differential(shape: ChainShape, own: Blocks, primals: Any, tangents: Any) -> Any:
    return jax.jvp(functools.partial(_plain, differentiable, shape, own), primals, tangents)


def in_blocks(
    shape: ChainShape, own: Blocks, first: Array, later: tuple[Potential, ...]
) -> tuple[tuple[Array, Gradient], Array]:
    """log Σ and its derivatives block by block, and whether that is what the plain recursion gives."""
    live = (jnp.arange(own.size)[:, None] >= own.pad) | (jnp.arange(own.count) > 0)
    kind = Sorted(own.inner(shape), later, jnp.reshape(live, (*live.shape, *[1] * len(shape.batch))))
    weights, total = kind.weights()
    message, least, more = scaled_start(shape, first)
    runs = _Runs(kind, weights, Stream(weights.moving, kind.opened, kind.live), message)
    (end, (messages, scales)), forgot = runs.forwards()
    (before, counts, last), forgot = runs.backwards(end, messages, scales, forgot)
    total = total + more + jnp.sum(jnp.log(scales))
    opening = message * jax.lax.index_in_dim(before, 0, len(kind.axes), keepdims=False)
    gradient = opening, kind.gradient(weights, counts, end * last)
    return (total, gradient), forgot & nothing_lost(least, scales, counts.highest)


class _Runs:
    """Sweeps over all blocks of one chain.

    Attributes:
        kind, weights, streams: what they multiply.
        message: the true first message.
    """

    def __init__(self, kind: Sorted, weights: Weights, streams: Stream, message: Array) -> None:
        self.kind, self.fixed, self.streams, self.message = kind, weights.fixed, streams, message
        self.axis = len(kind.axes)
        self.size, self.count = kind.steps, kind.shape.batch[0]
        self.warm = min(self.size // 2, _SHORTEST)

    def forwards(self) -> Any:
        """((last message, (messages before every step, c)), whether every block starts where the last one ended)."""
        turned = self.kind.turned(self.fixed)

        def warmed(i: Any, message: Array) -> Array:
            return self.kind.forward(turned, message, self._at(i))[0]

        def sweep(start: Array) -> tuple[Any, Array]:
            found = self.kind.forwards(self.fixed, start, self.streams)
            return found, self._after(found[0])

        shape = list(self.message.shape)
        shape.insert(self.axis, self.count)
        values = total_values(self.kind.shape.message(), self.kind.shape.sizes)
        guess = jnp.full(shape, 1 / values, self.message.dtype)
        ends = jax.lax.fori_loop(self.size - self.warm, self.size, warmed, guess)
        return _settled(sweep, self._after(ends), jnp.asarray(True))

    def backwards(self, end: Array, messages: Array, scales: Array, worth: Array) -> Any:
        """The same of λ: (λ before the first steps, counts, λ at the end), and whether; not tried if not `worth` it."""

        def warmed(i: Any, slope: Array) -> Array:
            at = self.warm - 1 - i
            return self.kind.backward(self.fixed, slope, self._at(at), 1 / jnp.take(scales, at, 0))

        def sweep(last: Array) -> tuple[Any, Array]:
            before, counts = self.kind.backwards(self.fixed, last, messages, scales, self.streams)
            return (before, counts, last), self._before(before, end)

        guess = jax.lax.fori_loop(0, self.warm, warmed, jnp.ones_like(end))
        return _settled(sweep, self._before(guess, end), worth)

    def _at(self, i: Any) -> Stream:
        return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, i, 0, keepdims=False), self.streams)

    def _after(self, ends: Array) -> Array:
        """Where blocks start, from where they end."""
        head = jnp.expand_dims(self.message, self.axis)
        return jnp.concatenate([head, jax.lax.slice_in_dim(ends, 0, -1, axis=self.axis)], self.axis)

    def _before(self, befores: Array, end: Array) -> Array:
        """λ at the ends of blocks, from λ where they start: posterior probabilities α λ add up to one."""
        tail = jax.lax.slice_in_dim(befores, 1, None, axis=self.axis)
        slope = jnp.concatenate([tail, jnp.ones_like(jax.lax.slice_in_dim(befores, 0, 1, axis=self.axis))], self.axis)
        return slope / jnp.sum(end * slope, self.kind.axes)


def _settled(sweep: Callable[[Array], tuple[Any, Array]], start: Array, worth: Array) -> Any:
    """Sweep until where blocks start is where the others ended: the last sweep, and whether it was."""

    def body(state: Any) -> Any:
        start, _, number, _ = state
        found, new = sweep(start)
        return new, found, number + 1, _same(start, new)

    def on(state: Any) -> Any:
        return worth & ~state[3] & (state[2] < _SWEEPS)

    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(sweep, start)[0])
    _, found, _, same = jax.lax.while_loop(on, body, (start, nothing, 0, jnp.asarray(False)))
    return found, same


def _same(one: Array, other: Array) -> Array:
    limits = jnp.finfo(one.dtype)
    allowed = _ROUNDING * float(limits.eps) * jnp.abs(other) + 8 * float(limits.tiny)
    return jnp.all(jnp.abs(one - other) <= allowed)
