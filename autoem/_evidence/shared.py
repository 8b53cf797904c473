"""A continuous latent whose elements all see the same arguments: one grid of points for all of them.

Where nothing but the data tells the elements of a latent apart (persons who answer the same items), points that are
the same for all turn the latent into a discrete one (Bock and Aitkin 1981). Then the arguments of every site are as
many as there are points, however many elements there are, the table of log densities is a matrix product, and all that
is known of discrete latents holds: L is an elimination, the statistics are its gradient.

The grid is an equally spaced one in free coordinates, on a box that holds the posterior of every element: for densities
that fall off smoothly to both sides that rule's error falls like exp(-2π² sd²/h²) with the spacing h (Trefethen and
Weideman 2014). The box is found on a coarse grid about the mode of the latent's own density, fine in the middle and
wide outside. The points are placed at the current parameters and then held.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._types import Array
from ._factor import Factor
from ._modes import climb, eigen
from ._seats import Seat
from .enumerate import Enumeration
from .quadrature import Read

SHARED = {1: (48, 96, 192), 2: (32, 48, 72), 3: (14, 20, 30)}
"""Points per dimension, by number of dimensions: the next is tried where half as many more change the likelihood."""

_COARSE = {1: 64, 2: 24, 3: 14}
"""Points per dimension of the grid on which the box is found."""

_WIDEST = {1: 100.0, 2: 30.0, 3: 20.0}
"""How far it reaches, in standard deviations of the latent's own density."""

_NOTHING = 1e-13
"""Posterior probability, of every element, under which a coarse point is outside the box."""

_STARTS = (0.0, 0.75, -0.75, 2.0, -2.0, 6.0, -6.0)


class Grid(eqx.Module):
    """Points and what the rule weighs them.

    Attributes:
        u: in free coordinates (M, d).
        log_weight: of the rule, Jacobian included (M,).
    """

    u: Array
    log_weight: Array


class Shared(eqx.Module):
    """L = Σ_elements log Σ_m w_m Π f(u_m), with one set of points u_m for all elements.

    Attributes:
        table: the engine of the points and of all discrete latents; its last factor holds the points' weights.
        seat: the latent, as one element.
        own: position of its own density among the factors.
        nodes: points per dimension.
        axis: name of the points' axis.
        elements: of the latent.
        width: numbers that are evaluated at a point.
    """

    table: Enumeration
    seat: Seat
    own: int = eqx.field(static=True)
    nodes: int = eqx.field(static=True)
    axis: str = eqx.field(static=True)
    elements: int = eqx.field(static=True)
    width: int = eqx.field(static=True)

    method = "quadrature"

    def prepare(self) -> None:
        """Nothing: the points move with the parameters."""
        return None

    @property
    def names(self) -> tuple[str, ...]:
        """The continuous latent."""
        return (self.seat.name,)

    @property
    def seats(self) -> tuple[Seat, ...]:
        """Where it sits."""
        return (self.seat,)

    @property
    def discrete(self) -> tuple[str, ...]:
        """The discrete latents."""
        return tuple(n for n, _, _ in self.table.layout.latents if n != self.axis)

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The block's sites."""
        return self.table.factors[:-1]

    @property
    def count(self) -> int:
        """Number of sites: all are read at the points."""
        return len(self.factors)

    @property
    def dims(self) -> int:
        """Free coordinates of an element."""
        return math.prod(self.seat.free) * len(self.seat.cell)

    @property
    def size(self) -> int:
        """Number of points M."""
        return self.nodes**self.dims

    @property
    def work(self) -> int:
        """Numbers in the tables at all points."""
        return self.size * (self.elements + self.width)

    @property
    def ladder(self) -> tuple[int, ...]:
        """Numbers of points per dimension that may be tried."""
        return SHARED[self.dims]

    @property
    def rungs(self) -> tuple[int, ...]:
        """Numbers of points to compare with the last of them, which stand on a wider box."""
        if self.dims > 1:
            return self.nodes, 3 * self.nodes // 2
        upward = [n for n in self.ladder if n >= self.nodes]
        return *upward, 2 * upward[-1]

    def describe(self) -> str:
        """What is integrated how."""
        of = "1 dimension" if self.dims == 1 else f"{self.dims} dimensions"
        text = (
            f"equally spaced quadrature, {self.nodes} points per dimension of {of}, the same for all {self.elements} "
            "elements, which the data alone tell apart"
        )
        return text + (f", {', '.join(self.discrete)} summed out exactly" if self.discrete else "")

    def _values(self, u: Array) -> tuple[dict[str, Array], Array]:
        """The latent at free coordinates (M, d), and the log Jacobian (M,)."""
        values, slopes = jax.vmap(lambda v: self.seat.value(v[None], 1))(u)
        return {self.seat.name: values}, slopes[:, 0]

    def values(self, grid: Grid) -> dict[str, Array]:
        """The latent at the points, (M, *shape of one element)."""
        return self._values(grid.u)[0]

    def _engine(self, arguments: Sequence[dict[str, Any]], grid: Grid) -> tuple[Enumeration, list[Array]]:
        """The engine with the latent's values in place, and its slots."""
        factors, count = list(self.table.factors), len(grid.u)
        slots = [f.slots(a) for f, a in zip(factors, arguments, strict=False)]
        factors[self.own] = dataclasses.replace(factors[self.own], value=arguments[self.own]["@value"])
        last = factors[-1]
        slots.append(jnp.reshape(grid.log_weight, (count, *([1] * len(last.batch_shape)), 1)))
        latents = tuple((n, count if n == self.axis else k, dims) for n, k, dims in self.table.layout.latents)
        layout = dataclasses.replace(self.table.layout, latents=latents)
        return dataclasses.replace(self.table, factors=tuple(factors), layout=layout), slots

    def _own_density(self, read: Read, u: Array) -> Array:
        """log of the latent's own density at one place (1, d): (1,)."""
        values, slope = self._values(u)
        arguments = read(values)[self.own]
        factor = dataclasses.replace(self.table.factors[self.own], value=arguments["@value"], weight=None)
        features, base = factor.statistics()
        return jnp.sum(jnp.sum(factor.slots(arguments) * features, -1) + base[..., 0]) + slope

    def _frame(self, read: Read) -> tuple[Array, Array]:
        """The mode (d,) of the latent's own density, and a root (d, d) of the inverse curvature there."""
        trials = np.asarray(_STARTS)[:, None, None] * np.ones((1, self.dims))
        trials = jnp.asarray(trials, jnp.result_type(float))
        heights = jnp.stack([self._own_density(read, u)[0] for u in trials])
        best = trials[jnp.argmax(jnp.where(jnp.isnan(heights), -jnp.inf, heights))]
        mode, curvature = climb(lambda u: self._own_density(read, u), best)
        values, vectors = eigen(curvature)
        return mode[0], (vectors / jnp.sqrt(values)[:, None, :])[0]

    def _grid(self, mode: Array, root: Array, t: Array, log_spacing: Array) -> Grid:
        u = mode + t @ root.T
        return Grid(u, log_spacing + jnp.linalg.slogdet(root)[1] + self._values(u)[1])

    def place(self, read: Read, nodes: int, wider: float = 1.0) -> Grid:
        """Points for the parameters that `read` was made for.

        Args:
            read: arguments of the sites as a function of the latent.
            nodes: points per dimension.
            wider: how many times as far as usual the box reaches.
        """
        mode, root = self._frame(read)
        number, widest = _COARSE[self.dims], math.asinh(_WIDEST[self.dims])
        s = jnp.linspace(-widest, widest, number, dtype=mode.dtype)
        t, density = _product(jnp.sinh(s), self.dims), _product(jnp.log(jnp.cosh(s)), self.dims).sum(-1)
        step = 2 * widest / (number - 1)
        engine, slots = self._engine(*self._at(read, self._grid(mode, root, t, density + self.dims * math.log(step))))
        # The gradient with respect to the points' own slots, element by element, is their posterior probability.
        weights = jnp.max(jnp.reshape(engine.marginals(slots)[self.axis], (len(t), -1)), 1)
        live, gap = ~(weights < _NOTHING)[:, None], step * jnp.sqrt(1 + t**2)
        low, high = jnp.min(jnp.where(live, t - gap, jnp.inf), 0), jnp.max(jnp.where(live, t + gap, -jnp.inf), 0)
        rim = (wider - 1) / 2 * (high - low)
        low, high = low - rim, high + rim
        ticks = _product((jnp.arange(nodes, dtype=mode.dtype) + 0.5) / nodes, self.dims)
        return self._grid(mode, root, low + ticks * (high - low), jnp.sum(jnp.log((high - low) / nodes)))

    def _at(self, read: Read, grid: Grid) -> tuple[list[dict[str, Any]], Grid]:
        return read(self.values(grid)), grid

    def log_evidence(self, read: Read, frozen: Read, slots: Sequence[Any]) -> Array:
        """L. Its derivatives are those of the weighted sum with its points held.

        Args:
            read: what is integrated.
            frozen: the same function, constant as far as derivatives are concerned.
            slots: none: there are no sites besides those that are read.
        """
        grid = jax.lax.stop_gradient(self.place(frozen, self.nodes))
        engine, own = self._engine(*self._at(read, grid))
        return engine.log_evidence(own, None)

    def averaged(self, read: Read, slots: Sequence[Any]) -> tuple[Array, list[Array], dict[str, Array]]:
        """L, the expected statistics of every site, and the values of the latent at which they are to be read."""
        grid = self.place(read, self.nodes)
        engine, own = self._engine(*self._at(read, grid))
        total, found = engine.expected_statistics(own, None)
        return total, list(found[:-1]), self.values(grid)

    def compared(self, read: Read, slots: Sequence[Any], rungs: Sequence[int]) -> tuple[Array, Array]:
        """L for some numbers of points out of `rungs`, the last on a wider box; no points elsewhere would change it."""
        totals = []
        for nodes in rungs:
            engine, own = self._engine(
                *self._at(read, self.place(read, nodes, 1.25 if nodes == self.rungs[-1] else 1.0))
            )
            totals.append(engine.log_evidence(own, None))
        return jnp.stack(totals), jnp.zeros(())


def _product(ticks: Array, dims: int) -> Array:
    """All combinations of numbers along every dimension: (len ** dims, dims)."""
    return jnp.stack([jnp.reshape(a, -1) for a in jnp.meshgrid(*[ticks] * dims, indexing="ij")], -1)
