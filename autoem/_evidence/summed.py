"""The log density of every cell at given values of its continuous latents, discrete latents summed out exactly.

A *cell* is a few coupled elements of continuous latents, together with the discrete ones that hang on them. Given the
continuous values u, and a state of the discrete latents that are held fixed, if any,

    log f_c(u) = log Σ_z Π_(sites of cell c) f(data, u, z),

by variable elimination with the cells side by side; sites without a discrete latent are just added up. What asks for it
chooses u: the points of a quadrature, the draws of a sampler.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._family import inner
from .._types import Array, Leaf
from ._elimination import Step, Table, backtrack, log_sum_exp
from ._factor import Factor
from .enumerate import Enumeration


class Summed(eqx.Module):
    """The sites of all cells, and how to sum their discrete latents out.

    Attributes:
        factors: the sites, with leading axes for the continuous values (if `moving`) and for all discrete latents.
        met: per factor, the cell of each of its elements: over the batch axes, of length 1 where they agree.
        cells: their number.
        held: names of discrete latents that are held fixed; the others are summed out.
        discrete: the engine of those that are summed out: its factors are the structure of the sites that hold any.
        inside: positions of these sites among `factors`.
        absent: per such site, over its kept axes, where it holds no element of any latent; None for nowhere.
        cell: per latent that is summed out, the cell of each of its elements (dims...).
    """

    factors: tuple[Factor, ...]
    met: tuple[Leaf, ...]
    cells: int = eqx.field(static=True)
    held: tuple[str, ...] = eqx.field(static=True, default=())
    discrete: Enumeration | None = None
    inside: tuple[int, ...] = eqx.field(static=True, default=())
    absent: tuple[Leaf | None, ...] = ()
    cell: dict[str, Leaf] = eqx.field(default_factory=dict)

    @property
    def latents(self) -> tuple[str, ...]:
        """The discrete latents that are summed out."""
        return () if self.discrete is None else tuple(n for n, _, _ in self.discrete.layout.latents)

    @property
    def width(self) -> int:
        """Elements of all sites' tables at one point."""
        sizes = {} if self.discrete is None else {n: k for n, k, _ in self.discrete.layout.latents}
        return sum(math.prod((*f.batch_shape, *(sizes.get(n, 1) for n in f.latents))) for f in self.factors)

    def taken(self, arguments: Sequence[dict[str, Any]]) -> tuple[list[Array], list[Any]]:
        """Natural parameters of every site, from its aligned arguments, and its value where that moves."""
        slots = [f.slots(own) for f, own in zip(self.factors, arguments, strict=True)]
        return slots, [own.get("@value") for own in arguments]

    def log_density(
        self, slots: Sequence[Array], values: Sequence[Any], state: Any = (), tilt: Any = None,
        reduction: Any = log_sum_exp,
    ) -> Array:  # fmt: skip
        """log f of every cell: (cells,).

        Args:
            slots: of every site, the axis of continuous values of length 1 where there is one.
            values: of every site whose value moves with the continuous latents; None for the others.
            state: index of the state of each latent that is held fixed.
            tilt: added to the log density of each state of each latent that is summed out (values, dims...): the
                gradient with respect to it is the posterior probability.
            reduction: `maximum` for the most probable states instead of the sum.
        """
        return self._eliminated(slots, values, state, tilt, reduction)[0]

    def choose(
        self, slots: Sequence[Array], values: Sequence[Any], state: Any, pick: Callable[[str, Array], Array],
        reduction: Any = log_sum_exp,
    ) -> tuple[dict[str, Array], Array]:  # fmt: skip
        """States (dims..., as indices of the support) of the latents that are summed out, and what `reduction` gave
        for every cell (cells,).

        Args:
            slots, values, state: as in `log_density`.
            pick: (name, log probabilities (values, dims...)) -> states (dims...).
            reduction: `log_sum_exp`, or `maximum` where `pick` takes the most probable.
        """
        total, steps = self._eliminated(slots, values, state, None, reduction)
        if self.discrete is None:
            return {}, total
        return backtrack(steps, self.discrete.variables(), pick)[0], total

    def _eliminated(
        self, slots: Sequence[Array], values: Sequence[Any], state: Any, tilt: Any, reduction: Any
    ) -> tuple[Array, list[Step]]:
        total: Any = jnp.zeros(self.cells)
        tables: list[Table] = []
        for position, (factor, met, s, value) in enumerate(zip(self.factors, self.met, slots, values, strict=True)):
            own, alone = self._alone(factor, value, state)
            if position not in self.inside:
                features, base = own.statistics()
                table = inner(s, features, alone) + base[..., 0]
                total = total + self._by_cell(jnp.broadcast_to(table, own.batch_shape), met)
                continue
            table, rest = self._table(self.inside.index(position), own, alone(s), met)
            total = total + rest
            tables.append(table)
        if self.discrete is None:
            return total, []

        def finished(name: str, array: Array) -> Array:
            return self._by_cell(array, self.cell[name])

        found, steps = self.discrete.reduce(tables, tilt, reduction, finished)
        return total + found, steps

    def _alone(self, factor: Factor, value: Any, state: Any) -> tuple[Factor, Callable[[Any], Any]]:
        """A site at these continuous values and this state: its only leading axes are latents that are summed out.
        And what does the same to its slots.
        """
        axes = [(a, 0 if n not in self.held else state[self.held.index(n)]) for a, n in enumerate(factor.latents)
                if n in self.held or (factor.moving and a == 0)]  # fmt: skip

        def alone(array: Any) -> Any:
            if array is None or jnp.ndim(array) == 0:
                return array
            for axis, at in reversed(axes):
                array = jnp.squeeze(array, axis) if jnp.shape(array)[axis] == 1 else \
                    jax.lax.dynamic_index_in_dim(array, at, axis, keepdims=False)  # fmt: skip
            return array

        left = tuple(n for a, n in enumerate(factor.latents) if a not in dict(axes))
        own = dataclasses.replace(
            factor,
            latents=left,
            moving=False,
            value=alone(factor.value if value is None else value),
            constants={n: alone(c) for n, c in factor.constants.items()},
            weight=alone(factor.weight),
            offset=alone(factor.offset),
        )
        return own, alone

    def _table(self, inside: int, own: Factor, slots: Array, met: Leaf) -> tuple[Table, Any]:
        """A site's table for the elimination, and what its elements without a latent add to their cells."""
        assert self.discrete is not None
        own = dataclasses.replace(own, keep=self.discrete.factors[inside].keep)
        array = own.table(slots, *own.statistics(), own.batch_shape)
        absent, rest = self.absent[inside], 0.0
        if absent is not None:
            first = array[(0,) * len(own.latents)]
            kept = jnp.transpose(met, [*own.keep, *(a for a in range(met.ndim) if a not in own.keep)])
            kept = jnp.reshape(kept, kept.shape[: len(own.keep)])
            rest = self._by_cell(jnp.where(absent, first, 0.0), kept)
            array = jnp.where(absent, 0.0, array)
        return self.discrete.as_table(inside, array), rest

    def _by_cell(self, table: Array, met: Leaf) -> Array:
        """Sum elements (axes...) into their cells."""
        free = tuple(a for a in range(table.ndim) if met.shape[a] == 1 and table.shape[a] > 1)
        table = jnp.sum(table, free, keepdims=True)
        index = jnp.reshape(jnp.broadcast_to(met, table.shape), (-1,))
        return jnp.zeros(self.cells, table.dtype).at[index].add(jnp.reshape(table, (-1,)))
