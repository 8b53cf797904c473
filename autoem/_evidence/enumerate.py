"""Discrete latents, exactly: log evidence by elimination, expected statistics as its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array, Key, StaticArray
from ._elimination import (
    Step,
    Table,
    Variable,
    added_up,
    backtrack,
    eliminate,
    log_sum_exp,
    maximum,
)
from ._factor import Factor, sliced
from ._products import Product, joined, with_columns, without_rounding
from ._weighed import Weights, weighed_table

Slots = Sequence[Any]

_CHUNK = 2**19
"""Elements (rows times features and states) per chunk: what stays in a core's cache."""


class Layout(eqx.Module):
    """Static facts of a block.

    Attributes:
        dims: per factor, the dimension of each kept axis.
        sizes: length of every dimension.
        latents: (name, number of values, dimensions) of every latent, in model order.
        chunk: (dimension, rows) along which the block falls into independent parts, or None.
    """

    dims: tuple[tuple[str, ...], ...] = eqx.field(static=True)
    sizes: tuple[tuple[str, int], ...] = eqx.field(static=True)
    latents: tuple[tuple[str, int, tuple[str, ...]], ...] = eqx.field(static=True)
    chunk: tuple[str, int] | None = eqx.field(static=True, default=None)


class Enumeration(eqx.Module):
    """A block of discrete latents that meet in factors. L = log Σ_z Π f, by elimination with plates as axes.

    Attributes:
        factors: the block's factors.
        scales: scale of each latent that has one: (dims..., broadcastable).
        gathered: per factor, for latents reached through an index: flat element numbers over the kept axes.
        layout: static facts.
        products: groups of factors whose table is one matrix product.
        notes: what was summed beforehand, for the page.
    """

    factors: tuple[Factor, ...]
    scales: dict[str, Array]
    gathered: tuple[tuple[tuple[str, StaticArray], ...], ...] = eqx.field(static=True)
    layout: Layout
    products: tuple[Product, ...] = ()
    notes: tuple[str, ...] = eqx.field(static=True, default=())

    method = "enumeration"

    def prepare(self) -> Any:
        """Whatever does not change with the parameters; None where it is cheaper to redo chunk by chunk."""
        return None if self.layout.chunk else self.statistics()

    def log_evidence(self, slots: Slots, prepared: Any, tilt: dict[str, Any] | None = None) -> jax.Array:
        """L(slots). `tilt` adds to the log density of each value of each latent element: its gradient is q(z)."""
        if self.layout.chunk is None or tilt is not None:
            return self._whole(slots, prepared, tilt)
        size = self.layout.chunk[1]

        def part(start: Any, rows: int) -> jax.Array:
            # Nothing of a chunk is kept for a derivative but its slots.
            return jax.checkpoint(lambda s: self._part(s, start, rows))(slots)

        def step(total: Any, start: Any) -> tuple[Any, None]:
            return total + part(start, size), None

        starts, rest = self._starts()
        total, _ = jax.lax.scan(step, jnp.zeros(()), starts)
        return total + (part(starts.size * size, rest) if rest else 0.0)

    def expected_statistics(
        self, slots: Slots, prepared: Any, weights: Weights | None = None
    ) -> tuple[jax.Array, Slots]:
        """L and S = ∇L, one array per factor, shaped like its slots: summed over all that the slots share.

        With `weights` the latents are not summed over: their values have these weights.
        """
        value, found = self._gradient(slots, prepared, weights)
        return value, without_rounding(self.products, slots, value, found)

    def _gradient(self, slots: Slots, prepared: Any, weights: Weights | None) -> tuple[jax.Array, Slots]:
        if self.layout.chunk is None:
            return jax.value_and_grad(lambda s: self._whole(s, prepared, None, weights))(slots)
        size = self.layout.chunk[1]

        def part(start: Any, rows: int) -> Any:
            return jax.value_and_grad(lambda s: self._part(s, start, rows, weights))(slots)

        def step(total: Any, start: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, part(start, size)), None

        starts, rest = self._starts()
        total = jax.tree.map(jnp.zeros_like, (jnp.zeros(()), slots))
        total, _ = jax.lax.scan(step, total, starts)
        return jax.tree.map(jnp.add, total, part(starts.size * size, rest)) if rest else total

    def marginals(self, slots: Slots) -> dict[str, jax.Array]:
        """q(z = k) for every element of every latent: (values, dims...)."""
        prepared = self.statistics()
        return jax.grad(lambda t: self._whole(slots, prepared, t))(self.blank())

    def blank(self) -> dict[str, jax.Array]:
        """A tilt that changes nothing."""
        sizes = dict(self.layout.sizes)
        return {n: jnp.zeros((k, *(sizes[d] for d in dims))) for n, k, dims in self.layout.latents}

    def choose(
        self, slots: Slots, pick: Callable[[str, jax.Array], jax.Array], reduction: Any = log_sum_exp
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        """Joint states (dims..., as indices of the support) and their log q."""
        _, steps = self._eliminate(slots, self.statistics(), None, reduction)
        return backtrack(steps, self.variables(), pick)

    def mode(self, slots: Slots) -> dict[str, jax.Array]:
        """The most probable joint states."""
        return self.choose(slots, lambda _, log_p: jnp.argmax(log_p, 0), maximum)[0]

    def sample(self, key: Key, slots: Slots) -> dict[str, jax.Array]:
        """One joint draw of all states."""
        return self.sample_with_density(key, slots)[0]

    def sample_with_density(self, key: Key, slots: Slots) -> tuple[dict[str, jax.Array], jax.Array]:
        """One joint draw of all states, and its log density q(z | x)."""
        keys = {n: jax.random.fold_in(key, i) for i, (n, _, _) in enumerate(self.layout.latents)}
        return self.choose(slots, lambda n, log_p: jax.random.categorical(keys[n], log_p, axis=0))

    def sizes(self, names: Sequence[str]) -> tuple[int, ...]:
        """Number of values of some latents."""
        known = {n: k for n, k, _ in self.layout.latents}
        return tuple(known[n] for n in names)

    def order(self) -> list[str]:
        """Latents in the order in which they are eliminated."""
        return [step.name for step in self.plan()]

    def plan(self) -> list[Step]:
        """The steps of the elimination, without doing it."""
        steps: list[Step] = []

        def run() -> Any:
            sizes = {n: k for n, k, _ in self.layout.latents} | dict(self.layout.sizes)
            axes = [(*f.latents, *dims) for f, dims in zip(self.factors, self.layout.dims, strict=True)]
            tables = [self.as_table(i, jnp.zeros([sizes[n] for n in names])) for i, names in enumerate(axes)]
            steps.extend(self.reduce(tables, None, log_sum_exp)[1])
            return 0.0

        jax.eval_shape(run)
        return steps

    def as_table(self, position: int, array: Any) -> Table:
        """log f of the factor at this position (values..., kept axes...), with what the axes mean."""
        dims, gathered = self.layout.dims[position], self.gathered[position]
        return Table(array, self.factors[position].latents, dims, {n: i.array for n, i in gathered})

    def variables(self) -> dict[str, Variable]:
        """The latents, as the elimination knows them."""
        return {n: Variable(n, k, dims, self.scales.get(n)) for n, k, dims in self.layout.latents}

    def _eliminate(self, slots: Slots, prepared: Any, tilt: Any, reduction: Any) -> tuple[Any, list[Step]]:
        return self.reduce(self._tables(slots, prepared), tilt, reduction)

    def statistics(self) -> Any:
        """What `_tables` asks for, of the whole block."""
        shapes = [f.batch_shape for f in self.factors]
        return with_columns(self.products, self.factors, tuple(f.statistics() for f in self.factors), shapes)

    def _tables(self, slots: Slots, prepared: Any, shapes: Sequence[Sequence[int]] | None = None) -> list[Table]:
        shapes = [f.batch_shape for f in self.factors] if shapes is None else shapes
        statistics, matrices = prepared
        tables = []
        for product, matrix in zip(self.products, matrices, strict=True):
            array = joined(product, self.factors, statistics, slots, matrix, shapes)
            tables.append(self.as_table(product.members[0], array))
        taken = {i for p in self.products for i in (*p.members, *p.constants)}
        for i, (factor, s, shape) in enumerate(zip(self.factors, slots, shapes, strict=True)):
            if i not in taken:
                features, base = statistics[i]
                tables.append(self.as_table(i, factor.table(s, features, base, shape)))
        return tables

    def reduce(
        self, tables: list[Table], tilt: Any, reduction: Any, finish: Callable[[str, Any], Array] = added_up
    ) -> tuple[Any, list[Step]]:
        """Eliminate the latents from tables, with what `tilt` adds. See `eliminate`."""
        variables = self.variables()
        for name, array in (tilt or {}).items():
            tables = [*tables, Table(array, (name,), variables[name].dims)]
        return eliminate(tables, variables, dict(self.layout.sizes), reduction, finish)

    def _whole(self, slots: Slots, prepared: Any, tilt: Any, weights: Weights | None = None) -> jax.Array:
        prepared = self.statistics() if prepared is None else prepared
        if weights is not None:
            return _weighed(self._tables(slots, prepared), self.variables(), weights)
        return self._eliminate(slots, prepared, tilt, log_sum_exp)[0]

    def _starts(self) -> tuple[Any, int]:
        assert self.layout.chunk is not None
        dim, rows = self.layout.chunk
        whole, rest = divmod(dict(self.layout.sizes)[dim], rows)
        return jnp.arange(whole) * rows, rest

    def _part(self, slots: Slots, start: Any, rows: int, weights: Weights | None = None) -> jax.Array:
        """L of `rows` rows from `start` on; with `weights`, as in `expected_statistics`."""
        assert self.layout.chunk is not None
        dim = self.layout.chunk[0]
        statistics, shapes = [], []
        for factor, dims in zip(self.factors, self.layout.dims, strict=True):
            shape = list(factor.batch_shape)
            part = factor
            if dim in dims:
                axis = factor.keep[dims.index(dim)]
                part, shape[axis] = sliced(factor, axis, start, rows), rows
            statistics.append(part.statistics())
            shapes.append(shape)
        tables = self._tables(slots, with_columns(self.products, self.factors, tuple(statistics), shapes), shapes)
        sizes = dict(self.layout.sizes) | {dim: rows}
        variables = {}
        for name, variable in self.variables().items():
            scale = variable.scale
            if scale is not None and dim in variable.dims and jnp.ndim(scale):
                axis = variable.dims.index(dim)
                if jnp.shape(scale)[axis] > 1:
                    scale = jax.lax.dynamic_slice_in_dim(scale, start, rows, axis)
            variables[name] = Variable(name, variable.size, variable.dims, scale)
        if weights is not None:
            own = {n: jax.lax.dynamic_slice_in_dim(w, start, rows, 1 + variables[n].dims.index(dim))
                   for n, w in weights.items()}  # fmt: skip
            return _weighed(tables, variables, own)
        return eliminate(tables, variables, sizes)[0]


def _weighed(tables: Sequence[Table], variables: dict[str, Variable], weights: Weights) -> jax.Array:
    return sum((weighed_table(t, variables, weights) for t in tables), jnp.zeros(()))


def independent_dimensions(
    factors: Sequence[Factor], layout: Layout, slot_shapes: Sequence[tuple[int, ...]]
) -> list[str]:
    """Dimensions along which the block falls into independent rows with shared slots, longest first.

    All latents must own the dimension, all factors must run along it, and no slot may vary along it.
    """

    def fits(dim: str) -> bool:
        for factor, dims, shape in zip(factors, layout.dims, slot_shapes, strict=True):
            if dim not in dims or shape[len(factor.latents) + factor.keep[dims.index(dim)]] > 1:
                return False
        return True

    common = set.intersection(*(set(dims) for _, _, dims in layout.latents))
    sizes = dict(layout.sizes)
    return [dim for dim in sorted(common, key=lambda d: (-sizes[d], d)) if fits(dim)]


def chunk_for(
    factors: Sequence[Factor], layout: Layout, slot_shapes: Sequence[tuple[int, ...]], together: Sequence[Product] = ()
) -> Any:
    """A dimension of many independent rows, and rows per chunk; None if there is none."""
    sizes = dict(layout.sizes)
    multiplied = {i for product in together for i in product.members}
    for dim in independent_dimensions(factors, layout, slot_shapes):
        width = 0
        for i, (factor, dims, shape) in enumerate(zip(factors, layout.dims, slot_shapes, strict=True)):
            per_row = math.prod(n for a, n in enumerate(factor.batch_shape) if a != factor.keep[dims.index(dim)])
            # A product adds up what an element of the row contributes: its table has no axis for that. But it is what
            # the passes over a chunk read and write: the logs, their exponentials, the weights and their transpose.
            kept = 4 * math.prod(factor.batch_shape[a] for a in factor.keep) // sizes[dim]
            kept = kept if i in multiplied else per_row
            width += shape[-1] * per_row + math.prod(shape[: len(factor.latents)]) * kept
        rows = max(64, min(4096, _CHUNK // max(width, 1)))
        if sizes[dim] >= 4 * rows:
            return dim, rows
    return None
