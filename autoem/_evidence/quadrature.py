"""Continuous latents that no family makes exact, cell by cell, by adaptive Gauss-Hermite quadrature.

A *cell* is a few coupled elements of the latents; given the parameters the cells are independent. In free coordinates
u (the latents' support mapped to the real line, Jacobian included) a cell's evidence is

    ∫ f(u) du ≈ |R| (2π)^(d/2) Σ_m w_m exp(t_m²/2) f(m + R t_m),    R R' = (-∂²log f(m))⁻¹,

m the mode of f and (t_m, w_m) the Gauss-Hermite rule of weight exp(-t²/2): exact if f is a Gaussian times a polynomial
of degree 2n - 1 (Liu and Pierce 1994; Pinheiro and Bates 1995). In one dimension many nodes are spread by another rule,
that of `_rules`. The points are placed at the current parameters and
then held, so that derivatives of L and the expected statistics are those of one and the same weighted sum.

Discrete latents go one of two ways. Those of which a cell meets a single element are held fixed while the cell is
integrated, once for every state k, about the mode that it has then; L = log Σ_k p(k) Π_c (evidence of cell c | k) is an
elimination in which the cells' evidence is one more factor. All others are summed out exactly at every point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._types import Array, Key, Leaf, StaticArray
from ._elimination import log_sum_exp, maximum
from ._factor import Factor
from ._modes import climb, eigen
from ._rules import rule
from ._seats import Seat
from ._several import SEVERAL, Modes, distinct, one
from .enumerate import Enumeration
from .summed import Summed

Read: TypeAlias = Callable[[dict[str, Any]], list[Any]]
"""Values of the latents with one leading axis -> aligned arguments of the block's factors, values included."""

LADDER = {1: (16, 32, 64, 128), 2: (12, 24, 48), 3: (8, 16, 32)}
"""Nodes per dimension, by number of dimensions: the next is tried where doubling changes the log-likelihood."""

_AT_ONCE = 2**22
"""Elements of site tables that are evaluated together."""

_NOTHING = 1e-40
"""Weight under which a point does not count."""

_STARTS = (0.75, 2.0, 6.0)
"""Distances from the origin of free coordinates at which the search for the mode may start."""


class Points(eqx.Module):
    """Points and what they weigh. L: joint states of the discrete latents that are held fixed.

    Attributes:
        u: in free coordinates (L, M, cells, d).
        values: per latent, (L M, *shape).
        log_weight: of the rule (L, M, cells), -inf where a point does not count.
        weights: posterior (L M, cells), summing to 1 over the points of a cell.
        tables: log evidence of every cell given each joint state (L, cells).
        total: the log evidence.
        above: expected statistics of the sites that hold none of the continuous latents.
    """

    u: Array
    values: dict[str, Array]
    log_weight: Array
    weights: Array
    tables: Array
    total: Array
    above: list[Array]


class Quadrature(eqx.Module):
    """L = Σ_cells log ∫ Π f, each integral by a product rule of `nodes` points per dimension.

    Attributes:
        summed: the sites of the cells, discrete latents summed out.
        seats: the continuous latents.
        real: (cells, d) 1 where a cell has such a coordinate; the others are standard normal by themselves.
        nodes: per dimension.
        axis: name of the points' axis.
        above: the engine of the discrete latents that are held fixed; its last factor is the table of cells.
        elements: per latent that is held fixed, the flat number of its element that each cell meets, -1 for none.
        modes: about how many modes of a cell there are points: 1, or the most that are told apart.
    """

    summed: Summed
    seats: tuple[Seat, ...]
    real: Leaf
    nodes: int = eqx.field(static=True)
    axis: str = eqx.field(static=True)
    above: Enumeration | None = None
    elements: dict[str, StaticArray] = eqx.field(static=True, default_factory=dict)
    modes: int = eqx.field(static=True, default=1)

    method = "quadrature"

    def prepare(self) -> None:
        """Nothing: the points move with the parameters."""
        return None

    @property
    def names(self) -> tuple[str, ...]:
        """The continuous latents."""
        return tuple(seat.name for seat in self.seats)

    @property
    def discrete(self) -> tuple[str, ...]:
        """The discrete latents: those that are summed out at every point, then those above the cells."""
        above = () if self.above is None else tuple(n for n, _, _ in self.above.layout.latents)
        return (*self.summed.latents, *above)

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The block's sites: those of the cells first."""
        return (*self.summed.factors, *(() if self.above is None else self.above.factors[:-1]))

    @property
    def count(self) -> int:
        """Number of sites of the cells."""
        return len(self.summed.factors)

    @property
    def dims(self) -> int:
        """Free coordinates of the largest cell."""
        return self.real.shape[1]

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.real.shape[0]

    @property
    def states(self) -> np.ndarray:
        """The joint states of the discrete latents that are held fixed: (L, latents)."""
        sizes = self._sizes
        return np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), -1) if sizes else np.zeros((1, 0), int)

    @property
    def size(self) -> int:
        """Number of points L M."""
        return len(self.states) * self.modes * self.nodes**self.dims

    @property
    def work(self) -> int:
        """Elements of all sites' tables at all points."""
        return self.size * self.summed.width

    @property
    def ladder(self) -> tuple[int, ...]:
        """Numbers of nodes per dimension that may be tried."""
        return LADDER[self.dims]

    @property
    def _sizes(self) -> tuple[int, ...]:
        """Number of states of every discrete latent that is held fixed."""
        return () if self.above is None else self.above.sizes(self.summed.held)

    def describe(self) -> str:
        """What is integrated how."""
        of = "1 dimension" if self.dims == 1 else f"at most {self.dims} dimensions"
        cells = "one cell" if self.cells == 1 else f"each of {self.cells} cells"
        about = "the mode" if self.modes == 1 else f"up to {self.modes} modes"
        text = f"adaptive Gauss-Hermite quadrature, {self.nodes} nodes per dimension about {about} of {cells} of {of}"
        if self.summed.latents:
            text += f", {', '.join(self.summed.latents)} summed out at every point"
        return text + (f", for every state of {', '.join(self.summed.held)}" if self.summed.held else "")

    def values(self, u: Array) -> tuple[dict[str, Array], Array]:
        """The latents at free coordinates (cells, d), and the log Jacobian (cells,)."""
        found, slope = {}, jnp.zeros(self.cells, u.dtype)
        for seat in self.seats:
            found[seat.name], own = seat.value(u, self.cells)
            slope = slope + own
        return found, slope

    def density(self, read: Read, u: Array, state: Any, jacobian: bool = True, reduction: Any = log_sum_exp) -> Array:
        """log f of every cell at its free coordinates (cells, d), discrete latents summed out: (cells,)."""
        values, slope = self.values(u)
        total = jnp.sum(_standard(u) * (1 - self.real), -1) + (slope if jacobian else 0.0)
        arguments = read({n: v[None] for n, v in values.items()})
        return total + self.summed.log_density(*self.summed.taken(arguments), state, reduction=reduction)

    def place(
        self, read: Read, state: Any, jacobian: bool = True, reduction: Any = log_sum_exp, trials: Any = None
    ) -> tuple[Array, Array]:
        """The mode (cells, d) and a root (cells, d, d) of the inverse curvature there."""

        def density(u: Array) -> Array:
            return self.density(read, u, state, jacobian, reduction)

        start = self._best(density, self._trials() if trials is None else trials)
        mode, curvature = climb(density, start)
        values, vectors = eigen(curvature)
        return mode, vectors / jnp.sqrt(values)[:, None, :]

    def several(self, read: Read, state: Any, starts: Array | None = None) -> Modes:
        """The heaviest modes that are reached from some points (M, cells, d): a few on the axes."""

        def density(u: Array) -> Array:
            return self.density(read, u, state)

        at, curvature = self.each(lambda u: climb(density, u), self._trials() if starts is None else starts)
        return distinct(at, curvature, self.each(density, at), SEVERAL)

    def _placed(self, read: Read, state: Any) -> Modes:
        """Where the points go."""
        return one(*self.place(read, state)) if self.modes == 1 else self.several(read, state)

    def _trials(self) -> Array:
        """A few points on the axes of free coordinates (M, cells, d)."""
        offsets = np.zeros((1 + 2 * len(_STARTS) * self.dims, 1, self.dims))
        for axis in range(self.dims):
            for i, distance in enumerate(_STARTS):
                at = 1 + 2 * (axis * len(_STARTS) + i)
                offsets[at, 0, axis], offsets[at + 1, 0, axis] = distance, -distance
        return jnp.asarray(offsets) * self.real

    def _best(self, density: Callable[[Array], Array], trials: Array) -> Array:
        """The highest of several points (M, cells, d), cell by cell."""
        heights = self.each(density, trials)
        best = jnp.argmax(jnp.where(jnp.isnan(heights), -jnp.inf, heights), 0)
        return jnp.take_along_axis(trials, best[None, :, None], 0)[0]

    def each(self, function: Callable[[Array], Any], u: Array) -> Any:
        """A function of (cells, d) to arrays at many of them: (M, ...), as many together as memory allows."""
        together = max(1, _AT_ONCE // max(1, self.summed.width))
        if u.shape[0] <= together:
            return jax.vmap(function)(u)
        return jax.lax.map(function, u, batch_size=together)

    def _for_each_state(self, function: Callable[..., Any], *arrays: Any) -> Any:
        """Stack a function of a joint state (and of arrays' rows for it) over all of them."""
        states = self.states
        if len(states) == 1:
            return jax.tree.map(lambda a: a[None], function(states[0], *(a[0] for a in arrays)))
        return jax.vmap(function)(jnp.asarray(states), *arrays)

    def points(self, read: Read, slots: Sequence[Any]) -> Points:
        """Place the points, and weigh them.

        Args:
            read: arguments of the cells' sites as a function of the continuous latents.
            slots: of the sites above the cells.
        """
        u, log_weight, within, tables = self._for_each_state(
            lambda state: self._weighed(read, self._placed(read, state), self.nodes, state)
        )
        total, above, probs = self._above(slots, tables)
        weights = jnp.reshape(probs[:, None] * within, (-1, self.cells))
        values = jax.vmap(lambda v: self.values(v)[0])(jnp.reshape(u, (-1, *u.shape[2:])))
        return Points(u, values, log_weight, weights, tables, total, above)

    def _weighed(self, read: Read, placed: Modes, nodes: int, state: Any) -> Any:
        """For one joint state: u, the rule's log weights, weights summing to 1 in every cell, and its log evidence."""
        where, log_weight = rule(nodes, self.dims)
        mode = placed.at[0]
        u = placed.at[:, None] + jnp.einsum("kcij,mj->kmci", placed.root, jnp.asarray(where, mode.dtype))
        log_weight = jnp.asarray(log_weight, mode.dtype)[:, None] + jnp.linalg.slogdet(placed.root)[1][:, None]
        if len(u) > 1:
            log_weight += jnp.stack([placed.log_shares(v)[k] for k, v in enumerate(u)])
        u, log_weight = jnp.reshape(u, (-1, *mode.shape)), jnp.reshape(log_weight, (-1, self.cells))
        terms = self.each(lambda v: self.density(read, v, state), u) + log_weight
        each = jax.nn.logsumexp(jnp.where(jnp.isnan(terms), -jnp.inf, terms), 0)
        weights = jnp.exp(terms - each)
        # A point so far out that it weighs nothing may overflow: the mode stands in for it.
        live = weights > _NOTHING
        u = jnp.where(live[..., None], u, mode)
        return u, jnp.where(live, log_weight, -jnp.inf), jnp.where(live, weights, 0.0), each

    def _with(self, slots: Sequence[Any], tables: Array) -> list[Any]:
        """What the engine above the cells wants."""
        return [*slots, jnp.reshape(tables, (*self._sizes, self.cells, 1))]

    def _above(self, slots: Sequence[Any], tables: Array) -> tuple[Array, list[Array], Array]:
        """L, the statistics of the sites above, and the posterior probability of every joint state of a cell."""
        if self.above is None:
            return jnp.sum(tables), [], jnp.ones_like(tables)
        total, found = self.above.expected_statistics(self._with(slots, tables), None)
        return total, list(found[:-1]), jnp.reshape(found[-1], tables.shape)

    def log_evidence(self, read: Read, frozen: Read, slots: Sequence[Any]) -> Array:
        """L. Its derivatives are those of the weighted sum with its points held.

        Args:
            read: what is integrated.
            frozen: the same function, constant as far as derivatives are concerned.
            slots: of the sites above the cells.
        """
        points = jax.lax.stop_gradient(self.points(frozen, jax.lax.stop_gradient(slots)))

        def evidence(state: Any, u: Array, log_weight: Array) -> Array:
            return jax.nn.logsumexp(self.each(lambda v: self.density(read, v, state), u) + log_weight, 0)

        tables = self._for_each_state(evidence, points.u, points.log_weight)
        return jnp.sum(tables) if self.above is None else self.above.log_evidence(self._with(slots, tables), None)

    def averaged(self, read: Read, slots: Sequence[Any]) -> tuple[Array, list[Array], dict[str, Array]]:
        """L, the expected statistics of every site, and the values of the latents at which they are to be read."""
        points = self.points(read, slots)
        return points.total, self.expected_statistics(points, read(points.values)), points.values

    def expected_statistics(self, points: Points, arguments: Sequence[Any]) -> list[Array]:
        """Statistics averaged over the points, one array per factor, shaped like its slots at the points.

        Args:
            points: the points.
            arguments: of the cells' factors at the points.
        """
        slots, moved = self.summed.taken(arguments)
        return [*jax.grad(lambda s: self._mean(points, s, moved))(slots), *points.above]

    def _mean(self, points: Points, slots: Sequence[Array], moved: Sequence[Any], tilt: Any = None) -> Array:
        """log f averaged over the points and added up: its gradient is the expected statistics."""
        states = jnp.asarray(np.repeat(self.states, points.u.shape[1], 0))
        axes = [0 if f.moving else None for f in self.summed.factors]

        def spread(arrays: Sequence[Any]) -> list[Any]:
            """An axis of points, and one of length 1 in its old place."""
            return [jnp.broadcast_to(a, (len(states), *a.shape[1:]))[:, None] if axis == 0 and a is not None else a
                    for axis, a in zip(axes, arrays, strict=True)]  # fmt: skip

        def one(s: Any, v: Any, state: Any, weights: Array) -> Array:
            return jnp.sum(weights * self.summed.log_density(s, v, state, tilt))

        over = (axes, [None if v is None else 0 for v in moved], 0, 0)
        return jnp.sum(jax.vmap(one, over)(spread(slots), spread(moved), states, points.weights))

    @property
    def rungs(self) -> tuple[int, ...]:
        """Numbers of nodes to compare with the last of them: all that there are where they cost little."""
        if self.dims > 1:
            return self.nodes, 2 * self.nodes
        upward = [n for n in LADDER[1] if n >= self.nodes]
        return *upward, 2 * upward[-1]

    def compared(self, read: Read, slots: Sequence[Any], rungs: Sequence[int]) -> tuple[Array, Array]:
        """L for some numbers of nodes about the same modes, and by how much points about other modes would change it.

        Where nodes cost little the finest are compared, so that what they reach does not count.
        """
        which = -1 if self.dims == 1 else 0

        def evidence(state: Any) -> list[Array]:
            placed = self._placed(read, state)
            tables = [self._weighed(read, placed, n, state)[-1] for n in rungs]
            if self.modes > 1:
                return [*tables, tables[which]]
            return [*tables, self._weighed(read, self.several(read, state), rungs[which], state)[-1]]

        totals = jnp.stack([self._above(slots, tables)[0] for tables in self._for_each_state(evidence)])
        return totals[:-1], totals[-1] - totals[:-1][which]

    def marginals(self, read: Read, slots: Sequence[Any]) -> dict[str, Array]:
        """Posterior probabilities of every discrete latent (values, dims...)."""
        points = self.points(read, slots)
        above = {} if self.above is None else self.above.marginals(self._with(slots, points.tables))
        return above | self.inner_marginals(read, points)

    def inner_marginals(self, read: Read, points: Points) -> dict[str, Array]:
        """The same of those that are summed out, averaged over given points."""
        if self.summed.discrete is None:
            return {}
        taken = self.summed.taken(read(points.values))
        return jax.grad(lambda tilt: self._mean(points, *taken, tilt))(self.summed.discrete.blank())

    def mode(self, read: Read, slots: Sequence[Any]) -> tuple[dict[str, Array], dict[str, Array]]:
        """The most probable values of the continuous latents, and the states of the discrete ones: the mode of their
        joint density on its own scale, whatever the coordinates.
        """

        def at(state: Any) -> Any:
            trials = None
            if self.summed.latents or self.modes > 1:  # many modes: begin at the best of many points
                trials = self._weighed(read, self._placed(read, state), LADDER[self.dims][-1], state)[0]
            u, _ = self.place(read, state, False, maximum, trials)
            taken = self.summed.taken(read({n: v[None] for n, v in self.values(u)[0].items()}))
            return u, *self.summed.choose(*taken, state, lambda _, log_p: jnp.argmax(log_p, 0), maximum)

        u, states, heights = self._for_each_state(at)
        above = {} if self.above is None else self.above.mode(self._with(slots, heights))
        return self._picked(u, states, above)

    def _picked(self, u: Array, states: dict[str, Array], above: dict[str, Array]) -> Any:
        """Values and states, from those for every joint state (L, ...), in every cell that which it is in."""
        joint = jnp.zeros(self.cells, int)
        for name, size in zip(self.summed.held, self._sizes, strict=True):
            number = self.elements[name].array
            own = jnp.reshape(above[name], -1)[np.maximum(number, 0)]
            joint = joint * size + jnp.where(number < 0, 0, own)
        chosen = {n: jnp.take_along_axis(s, joint[self.summed.cell[n]][None], 0)[0] for n, s in states.items()}
        return self.values(u[joint, jnp.arange(self.cells)])[0], chosen | above

    def resampled(
        self, read: Read, slots: Sequence[Any], key: Key, num_samples: int
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Joint draws of the continuous latents (num_samples, *shape) and of the states of the discrete ones.

        The continuous ones by importance resampling of draws about the mode from a heavier-tailed density.
        """
        first, second, third = jax.random.split(key, 3)
        placed = self._for_each_state(lambda state: self._drawn(read, state, first, num_samples))
        tables = self.points(read, slots).tables

        def one(below: Key, over: Key, u: Array) -> Any:
            def at(state: Any, u: Array) -> Any:
                taken = self.summed.taken(read({n: v[None] for n, v in self.values(u)[0].items()}))
                keys = {n: jax.random.fold_in(below, i) for i, n in enumerate(self.summed.latents)}
                return self.summed.choose(*taken, state, lambda n, p: jax.random.categorical(keys[n], p, axis=0))[0]

            above = {} if self.above is None else self.above.sample(over, self._with(slots, tables))
            return self._picked(u, self._for_each_state(at, u) if self.summed.latents else {}, above)

        keys = jax.random.split(second, num_samples), jax.random.split(third, num_samples)
        return jax.vmap(one, (0, 0, 1))(*keys, placed)

    def _drawn(self, read: Read, state: Any, key: Key, num_samples: int) -> Array:
        """Draws in free coordinates given a joint state: (num_samples, cells, d)."""
        drawing, choice = jax.random.split(key)
        u, log_q = self._placed(read, state).draws(drawing, max(4096, 4 * num_samples), _TAIL)
        logits = self.each(lambda v: self.density(read, v, state), u) - log_q
        below = jnp.cumsum(jax.nn.softmax(logits, 0), 0)
        level = jax.random.uniform(choice, (num_samples, self.cells), below.dtype) * below[-1]
        picked = jax.vmap(jnp.searchsorted, (1, 1), 1)(below, level)
        return jnp.take_along_axis(u, picked[..., None], 0)


_TAIL = 5.0
"""Degrees of freedom of the density from which posterior draws are resampled."""


def _standard(u: Array) -> Array:
    return -(u**2) / 2 - math.log(2 * math.pi) / 2
