"""What the chain engine works on: log factors over a few steps of a few latents, aligned in time."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from .._types import Array, Leaf
from ._factor import Factor

Variable = tuple[str, int]
"""(name of a latent, steps back); a latent outside of the chain is 0 steps back."""


@dataclass(frozen=True)
class Chained:
    """One factor's place in a chain.

    Attributes:
        variables: of each of the factor's axes over latent values.
        first: the step of its first element (that of the latest latent in it).
        count: number of steps.
        time: position of the steps among the factor's kept axes; None if there is one step only.
        batch: per batch dimension of the chain, its position among the kept axes, or None.
        gated: whether nothing but its weight, zero or one, changes along the kept axes.
    """

    variables: tuple[Variable, ...]
    first: int
    count: int
    time: int | None
    batch: tuple[int | None, ...]
    gated: bool = False


@dataclass(frozen=True)
class ChainShape:
    """Static facts of a chain.

    Attributes:
        latents: (name, number of values, how many steps back it is looked at), in model order.
        statics: (name, number of values, whether later steps depend on it) of latents outside of the chain.
        length: number of steps.
        start: steps that are taken together at first: the most that any factor looks back.
        batch: lengths of the batch dimensions.
    """

    latents: tuple[tuple[str, int, int], ...]
    statics: tuple[tuple[str, int, bool], ...]
    length: int
    start: int
    batch: tuple[int, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of values of every latent."""
        return {n: k for n, k, _ in (*self.latents, *self.statics)}

    def message(self) -> list[Variable]:
        """Axes of what is handed from step to step."""
        return self.late() + [(n, lag) for n, _, depth in self.latents for lag in range(depth)]

    def step(self) -> list[Variable]:
        """Axes of one step: the message's after it, and those that it sums out."""
        return self.message() + self.summed()

    def summed(self) -> list[Variable]:
        """What a step sums out: the oldest value of every latent."""
        return [(n, depth) for n, _, depth in self.latents]

    def late(self) -> list[Variable]:
        """Latents outside of the chain on which later steps depend."""
        return [(n, 0) for n, _, late in self.statics if late]

    def beginning(self) -> list[Variable]:
        """Axes of the first `start` steps: everything, counted back from the last of them."""
        early = [(n, 0) for n, _, late in self.statics if not late]
        kept = self.message()
        own = [(n, lag) for n, _, _ in self.latents for lag in range(self.start)]
        return [*kept, *early, *(v for v in own if v not in kept)]


class Potential(eqx.Module):
    """A sum of log factors over the same variables.

    Attributes:
        variables: its axes before those of time and batch.
        array: (values..., time, batch...), length 1 where nothing changes.
        gate: (time, batch...) whether `array` counts (else `closed` does), or None.
        closed: log factor where the gate is closed.
    """

    variables: tuple[Variable, ...] = eqx.field(static=True)
    array: Array
    gate: Leaf | None = None
    closed: float = eqx.field(static=True, default=0.0)

    def aligned(self, axes: Sequence[Variable], array: Array, tail: int) -> Array:
        """`array`, with `tail` axes after the variables, over the given variables: length 1 where it has none."""
        order = [self.variables.index(v) for v in axes if v in self.variables]
        lead = len(self.variables)
        moved = jnp.transpose(array, (*order, *range(lead, lead + tail)))
        lengths = iter(moved.shape)
        return jnp.reshape(
            moved, [next(lengths) if v in self.variables else 1 for v in axes] + list(moved.shape[len(order) :])
        )


def potential(
    factor: Factor, place: Chained, shape: ChainShape, slots: Array, prepared: Any, added: bool = False
) -> Potential:
    """A factor's log density as a potential over its own steps, `prepared` from `statistics`.

    With `added`, slots times features are added up by themselves, not as a product of matrices.
    """
    features, base = prepared
    lead = len(factor.latents)
    if added and place.time is not None:
        table = _added(factor, lead + factor.keep[place.time], slots, features, base)
    else:
        table = factor.contract(slots, features, factor.batch_shape, spread=False)
        table = table + factor.contract(jnp.ones_like(base), base, factor.batch_shape, spread=False)
    wanted = [place.time, *place.batch]
    kept = [p for p in wanted if p is not None]
    table = jnp.transpose(table, (*range(lead), *(lead + p for p in kept)))
    lengths = iter(table.shape[lead:])
    table = jnp.reshape(table, [*table.shape[:lead], *(1 if p is None else next(lengths) for p in wanted)])
    full = [shape.sizes[n] for n, _ in place.variables]
    table = jnp.broadcast_to(table, (*full, *table.shape[lead:]))
    return Potential(*_met_once(place.variables, table))


def _met_once(variables: tuple[Variable, ...], table: Array) -> tuple[tuple[Variable, ...], Array]:
    """A table with one axis for each variable: a site may read one element in two ways, and both have its value."""
    for v in dict.fromkeys(variables):
        while variables.count(v) > 1:
            a = variables.index(v)
            b = variables.index(v, a + 1)
            table = jnp.moveaxis(jnp.diagonal(table, axis1=a, axis2=b), -1, a)
            variables = variables[:b] + variables[b + 1 :]
    return variables, table


def _added(factor: Factor, time: int, slots: Array, features: Array, base: Array) -> Array:
    """Slots times features plus base over (latents..., kept...), with steps outermost in memory.

    It is elementwise: whatever is done with the result next is done in the same pass over it.
    """
    slots, features, base = (jnp.moveaxis(a, time, 0) for a in (slots, features, base))
    parts = [slots[..., f] * features[..., f] for f in range(slots.shape[-1])]
    table = jnp.moveaxis(functools.reduce(jnp.add, [*parts, base[..., 0]]), 0, time)
    lead = len(factor.latents)
    return jnp.squeeze(table, [a for a in range(lead, table.ndim) if a - lead not in factor.keep])


def statistics_without_gate(factor: Factor, place: Chained) -> Any:
    """The factor's statistics; of a gated one as if nothing were masked."""
    if place.gated:
        factor = eqx.tree_at(lambda f: (f.weight, f.offset), factor, (None, None), is_leaf=lambda x: x is None)
    return factor.statistics()


def in_time(p: Potential, place: Chained, start: int, stop: int) -> Potential:
    """The potential over the steps start, ..., stop - 1: zero where the factor has none."""
    lead = len(p.variables)
    low, high = max(start, place.first), min(stop, place.first + place.count)
    whole = low == start and high == stop
    if p.gate is not None:
        gate = p.gate[low - place.first : high - place.first] if p.gate.shape[0] > 1 else p.gate
        assert whole
        return Potential(p.variables, p.array, gate, p.closed)
    array = p.array
    if array.shape[lead] > 1:
        index = [slice(None)] * lead + [slice(low - place.first, high - place.first)]
        array = array[tuple(index)]
    if whole:
        return Potential(p.variables, array)
    lengths = list(array.shape)
    lengths[lead] = high - low
    pad = [(0, 0)] * array.ndim
    pad[lead] = (low - start, stop - high)
    return Potential(p.variables, jnp.pad(jnp.broadcast_to(array, lengths), pad))


def merged(potentials: Sequence[Potential]) -> list[Potential]:
    """Potentials over the same variables and with the same variation, added up."""
    groups: dict[Any, list[Potential]] = {}
    for p in potentials:
        varies = p.array.shape[len(p.variables)] > 1
        groups.setdefault((frozenset(p.variables), varies, id(p) if p.gate is not None else None), []).append(p)
    result = []
    for own in groups.values():
        first = own[0]
        tail = first.array.ndim - len(first.variables)
        total = first.array
        for p in own[1:]:
            total = total + p.aligned(first.variables, p.array, tail)
        result.append(Potential(first.variables, total, first.gate, first.closed))
    return result


def at_start(p: Potential, place: Chained, shape: ChainShape, step: int) -> Array:
    """A factor's log density at one of the first steps, over `shape.beginning()` and batch."""
    lead = len(p.variables)
    index = step - place.first if p.array.shape[lead] > 1 else 0
    array = jnp.take(p.array, index, axis=lead)
    if p.gate is not None:
        gate = p.gate[step - place.first if p.gate.shape[0] > 1 else 0]
        array = jnp.where(gate, array, p.closed)
    names = {n for n, _, _ in shape.latents}
    back = shape.start - 1 - step
    own = tuple((n, lag + back) if n in names else (n, 0) for n, lag in p.variables)
    return Potential(own, array).aligned(shape.beginning(), array, len(shape.batch))


def total_values(variables: Sequence[Variable], sizes: dict[str, int]) -> int:
    """Number of joint values."""
    return math.prod(sizes[n] for n, _ in variables)
