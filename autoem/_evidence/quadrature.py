"""Continuous latents that no family makes exact, cell by cell, by adaptive Gauss-Hermite quadrature.

A *cell* is a few coupled elements of the latents; given the parameters the cells are independent. In free coordinates
u (the latents' support mapped to the real line, Jacobian included) a cell's evidence is

    ∫ f(u) du ≈ |R| (2π)^(d/2) Σ_m w_m exp(t_m²/2) f(m + R t_m),    R R' = (-∂²log f(m))⁻¹,

m the mode of f and (t_m, w_m) the Gauss-Hermite rule of weight exp(-t²/2): exact if f is a Gaussian times a polynomial
of degree 2n - 1 (Liu and Pierce 1994; Pinheiro and Bates 1995). In one dimension many nodes are spread by another rule,
that of `_rule`. The points are placed at the current parameters and
then held, so that derivatives of L and the expected statistics are those of one and the same weighted sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to

from .._types import Array, Key, Leaf
from ._factor import Factor

Read: TypeAlias = Callable[[dict[str, Any]], list[Any]]
"""Values of the latents with one leading axis -> aligned arguments of the block's factors, values included."""

LADDER = {1: (16, 32, 64, 128), 2: (12, 24, 48), 3: (8, 16, 32)}
"""Nodes per dimension, by number of dimensions: the next is tried where doubling changes the log-likelihood."""

_AT_ONCE = 2**22
"""Elements of site tables that are evaluated together."""

_WIDE = 64
_REACH = 4.9
"""Nodes from which one dimension has the wide rule, and the end of its range: sinh 4.9 = 67 standard deviations."""

_NOTHING = 1e-40
"""Weight under which a point does not count."""

_NEWTON_STEPS = 60
"""Most Newton steps towards a mode."""

_STARTS = (0.75, 2.0, 6.0)
"""Distances from the origin of free coordinates at which the search for the mode may start."""


class Seat(eqx.Module):
    """Where the elements of one latent sit.

    Attributes:
        name: the latent.
        constraint: its support.
        shape: of its value.
        free: shape of one element in free coordinates.
        cell, slot: (elements,) each element's cell, and the first of its coordinates there.
    """

    name: str = eqx.field(static=True)
    constraint: Any
    shape: tuple[int, ...] = eqx.field(static=True)
    free: tuple[int, ...] = eqx.field(static=True)
    cell: Leaf
    slot: Leaf

    def coordinates(self, u: Array) -> Array:
        """This latent's free coordinates (elements..., free...) from those of the cells (cells, d)."""
        width = math.prod(self.free)
        own = u[jnp.asarray(self.cell)[:, None], jnp.asarray(self.slot)[:, None] + np.arange(width)]
        event_ndim = self.constraint.event_dim
        return jnp.reshape(own, (*self.shape[: len(self.shape) - event_ndim], *self.free))

    def value(self, u: Array, cells: int) -> tuple[Array, Array]:
        """The latent's value, and the log Jacobian of every cell (cells,)."""
        free = self.coordinates(u)
        transform = biject_to(self.constraint)
        value = transform(free)
        slope = jnp.reshape(transform.log_abs_det_jacobian(free, value), (-1,))
        return value, jnp.zeros(cells, u.dtype).at[self.cell].add(slope)


class Points(eqx.Module):
    """Points and what they weigh.

    Attributes:
        u: in free coordinates (M, cells, d).
        values: per latent, (M, *shape).
        log_weight: of the rule (M, cells), -inf where a point does not count.
        weights: posterior (M, cells), summing to 1 over the points of a cell.
        total: the log evidence.
    """

    u: Array
    values: dict[str, Array]
    log_weight: Array
    weights: Array
    total: Array


class Quadrature(eqx.Module):
    """L = Σ_cells log ∫ Π f, each integral by a product rule of `nodes` points per dimension.

    Attributes:
        factors: the block's sites.
        met: per factor, the cell of each of its elements: over the batch axes, of length 1 where they agree.
        seats: the latents.
        real: (cells, d) 1 where a cell has such a coordinate; the others are standard normal by themselves.
        nodes: per dimension.
        axis: name of the points' axis.
    """

    factors: tuple[Factor, ...]
    met: tuple[Leaf, ...]
    seats: tuple[Seat, ...]
    real: Leaf
    nodes: int = eqx.field(static=True)
    axis: str = eqx.field(static=True)

    method = "quadrature"

    def prepare(self) -> None:
        """Nothing: the points move with the parameters."""
        return None

    @property
    def names(self) -> tuple[str, ...]:
        """The latents."""
        return tuple(seat.name for seat in self.seats)

    @property
    def dims(self) -> int:
        """Free coordinates of the largest cell."""
        return self.real.shape[1]

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.real.shape[0]

    def describe(self) -> str:
        """What is integrated how."""
        of = "1 dimension" if self.dims == 1 else f"at most {self.dims} dimensions"
        cells = "one cell" if self.cells == 1 else f"each of {self.cells} cells"
        return f"adaptive Gauss-Hermite quadrature, {self.nodes} nodes per dimension about the mode of {cells} of {of}"

    def values(self, u: Array) -> tuple[dict[str, Array], Array]:
        """The latents at free coordinates (cells, d), and the log Jacobian (cells,)."""
        found, slope = {}, jnp.zeros(self.cells, u.dtype)
        for seat in self.seats:
            found[seat.name], own = seat.value(u, self.cells)
            slope = slope + own
        return found, slope

    def density(self, read: Read, u: Array, jacobian: bool = True) -> Array:
        """log f of every cell at its free coordinates (cells, d): (cells,)."""
        values, slope = self.values(u)
        total = jnp.sum(_standard(u) * (1 - self.real), -1) + (slope if jacobian else 0.0)
        arguments = read({n: v[None] for n, v in values.items()})
        for factor, met, own in zip(self.factors, self.met, arguments, strict=True):
            total = total + self._by_cell(_table(factor, factor.slots(own), own)[0], met)
        return total

    def _by_cell(self, table: Array, met: Leaf) -> Array:
        """Sum a site's elements (batch...) into their cells."""
        free = tuple(a for a in range(table.ndim) if met.shape[a] == 1 and table.shape[a] > 1)
        table = jnp.sum(table, free, keepdims=True)
        index = jnp.reshape(jnp.broadcast_to(met, table.shape), (-1,))
        return jnp.zeros(self.cells, table.dtype).at[index].add(jnp.reshape(table, (-1,)))

    def place(self, read: Read, jacobian: bool = True) -> tuple[Array, Array]:
        """The mode (cells, d) and a root (cells, d, d) of the inverse curvature there."""

        def density(u: Array) -> Array:
            return self.density(read, u, jacobian)

        mode, curvature = _climb(density, self._start(density))
        values, vectors = _eigen(curvature)
        return mode, vectors / jnp.sqrt(values)[:, None, :]

    def _start(self, density: Callable[[Array], Array]) -> Array:
        """The best of a few points on the axes of free coordinates, cell by cell."""
        offsets = np.zeros((1 + 2 * len(_STARTS) * self.dims, 1, self.dims))
        for axis in range(self.dims):
            for i, distance in enumerate(_STARTS):
                at = 1 + 2 * (axis * len(_STARTS) + i)
                offsets[at, 0, axis], offsets[at + 1, 0, axis] = distance, -distance
        trials = jnp.broadcast_to(jnp.asarray(offsets), (len(offsets), self.cells, self.dims))
        heights = self._each(density, trials)
        best = jnp.argmax(jnp.where(jnp.isnan(heights), -jnp.inf, heights), 0)
        return jnp.take_along_axis(trials, best[None, :, None], 0)[0] * self.real

    def _each(self, function: Callable[[Array], Array], u: Array) -> Array:
        """A function of (cells, d) at many of them: (M, ...), as many together as memory allows."""
        size = max(1, sum(math.prod(f.batch_shape) for f in self.factors))
        together = max(1, _AT_ONCE // size)
        if u.shape[0] <= together:
            return jax.vmap(function)(u)
        return jax.lax.map(function, u, batch_size=together)

    def points(self, read: Read) -> Points:
        """Place the points, and weigh them."""
        return self._weighed(read, *self.place(read), self.nodes)

    def _weighed(self, read: Read, mode: Array, root: Array, nodes: int) -> Points:
        where, log_weight = _rule(nodes, self.dims)
        u = mode + jnp.einsum("cij,mj->mci", root, jnp.asarray(where, mode.dtype))
        log_weight = jnp.asarray(log_weight, mode.dtype)[:, None] + jnp.linalg.slogdet(root)[1]
        terms = self._each(lambda v: self.density(read, v), u) + log_weight
        each = jax.nn.logsumexp(jnp.where(jnp.isnan(terms), -jnp.inf, terms), 0)
        weights = jnp.exp(terms - each)
        # A point so far out that it weighs nothing may overflow: the mode stands in for it.
        live = weights > _NOTHING
        u = jnp.where(live[..., None], u, mode)
        log_weight = jnp.where(live, log_weight, -jnp.inf)
        values = jax.vmap(lambda v: self.values(v)[0])(u)
        return Points(u, values, log_weight, jnp.where(live, weights, 0.0), jnp.sum(each))

    def log_evidence(self, read: Read, frozen: Read) -> Array:
        """L. Its derivatives are those of the weighted sum with its points held.

        Args:
            read: what is integrated.
            frozen: the same function, constant as far as derivatives are concerned.
        """
        points = jax.lax.stop_gradient(self.points(frozen))
        terms = self._each(lambda v: self.density(read, v), points.u) + points.log_weight
        return jnp.sum(jax.nn.logsumexp(terms, 0))

    def expected_statistics(self, points: Points, arguments: Sequence[Any]) -> list[Array]:
        """Statistics averaged over the points, one array per factor, shaped like its slots at the points.

        Args:
            points: the points.
            arguments: of the factors at the points.
        """
        result = []
        for factor, met, own in zip(self.factors, self.met, arguments, strict=True):
            slots = factor.slots(own)

            def mean(s: Array, factor: Factor = factor, met: Leaf = met, own: Any = own) -> Array:
                return jnp.sum(points.weights[:, met] * _table(factor, s, own))

            result.append(jax.grad(mean)(slots))
        return result

    @property
    def rungs(self) -> tuple[int, ...]:
        """Numbers of nodes to compare with the last of them: all that there are where they cost little."""
        if self.dims > 1:
            return self.nodes, 2 * self.nodes
        upward = [n for n in LADDER[1] if n >= self.nodes]
        return *upward, 2 * upward[-1]

    def compared(self, read: Read) -> Array:
        """L for every number of nodes in `rungs`, about the same modes."""
        placed = self.place(read)
        return jnp.stack([self._weighed(read, *placed, n).total for n in self.rungs])

    def mode(self, read: Read) -> dict[str, Array]:
        """The most probable values of the latents: the mode of their own density, whatever the coordinates."""
        return self.values(self.place(read, jacobian=False)[0])[0]

    def resampled(self, read: Read, key: Key, num_samples: int) -> dict[str, Array]:
        """Draws (num_samples, *shape): importance resampling of draws about the mode from a heavier-tailed density."""
        mode, root = self.place(read)
        normal, chi, choice = jax.random.split(key, 3)
        size = max(4096, 4 * num_samples)
        shape = (size, self.cells)
        ratio = jax.random.chisquare(chi, _TAIL, shape, dtype=mode.dtype) / _TAIL
        t = jax.random.normal(normal, (*shape, self.dims), mode.dtype) / jnp.sqrt(ratio)[..., None]
        u = mode + jnp.einsum("cij,mcj->mci", root, t)
        proposal = -(_TAIL + self.dims) / 2 * jnp.log1p(jnp.sum(t**2, -1) / _TAIL)
        logits = self._each(lambda v: self.density(read, v), u) - proposal
        below = jnp.cumsum(jax.nn.softmax(logits, 0), 0)
        level = jax.random.uniform(choice, (num_samples, self.cells), below.dtype) * below[-1]
        picked = jax.vmap(jnp.searchsorted, (1, 1), 1)(below, level)
        chosen = jnp.take_along_axis(u, picked[..., None], 0)
        return jax.vmap(lambda v: self.values(v)[0])(chosen)


_TAIL = 5.0
"""Degrees of freedom of the density from which posterior draws are resampled."""


def _standard(u: Array) -> Array:
    return -(u**2) / 2 - math.log(2 * math.pi) / 2


def _table(factor: Factor, slots: Array, arguments: Any) -> Array:
    """log f elementwise, weighted: (points, batch...)."""
    if "@value" in arguments:
        factor = eqx.tree_at(lambda f: f.value, factor, arguments["@value"], is_leaf=lambda x: x is None)
    features, base = factor.statistics()
    table = jnp.sum(slots * features, -1) + base[..., 0]
    return jnp.broadcast_to(table, (table.shape[0], *factor.batch_shape))


def _rule(nodes: int, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (nodes^d, d) and log weights of ∫ g(t) dt ≈ Σ exp(log weight) g(t).

    From `_WIDE` nodes on, one dimension has the trapezoid rule in s, t = sinh s, instead: it converges as fast where a
    tail is exponential, and sees what lies far from the mode (the double exponential rule of Takahasi and Mori 1974).
    """
    if dims == 1 and nodes >= _WIDE:
        s, step = np.linspace(-_REACH, _REACH, nodes, retstep=True)
        return np.sinh(s)[:, None], np.log(step * np.cosh(s))
    t, w = np.polynomial.hermite_e.hermegauss(nodes)
    log_weight = np.log(w) + t**2 / 2
    grid = np.stack(np.meshgrid(*[t] * dims, indexing="ij"), -1).reshape(-1, dims)
    weights = np.stack(np.meshgrid(*[log_weight] * dims, indexing="ij"), -1).reshape(-1, dims)
    return grid, weights.sum(-1)


class _Shape(NamedTuple):
    """log f (cells,), its gradient (cells, d) and minus its Hessian (cells, d, d), each cell's own."""

    height: Array
    slope: Array
    curvature: Array


def _shape(density: Callable[[Array], Array], u: Array) -> _Shape:
    def total(v: Array) -> tuple[Array, Array]:
        heights = density(v)
        return jnp.sum(heights), heights

    (slope, height), tangent = jax.linearize(jax.grad(total, has_aux=True), u)
    seeds = jnp.broadcast_to(jnp.eye(u.shape[1], dtype=u.dtype)[:, None], (u.shape[1], *u.shape))
    curvature = -jnp.moveaxis(jax.vmap(lambda seed: tangent(seed)[0])(seeds), 0, -1)
    curvature = (curvature + jnp.swapaxes(curvature, -1, -2)) / 2
    return _Shape(height, jnp.nan_to_num(slope), jnp.nan_to_num(curvature))


def _eigen(curvature: Array) -> tuple[Array, Array]:
    """Eigenvalues, made positive, and eigenvectors of (cells, d, d) matrices."""
    if curvature.shape[-1] == 1:
        values, vectors = curvature[..., 0], jnp.ones_like(curvature)
    else:
        values, vectors = jnp.linalg.eigh(curvature)
    values = jnp.abs(values)
    return jnp.maximum(values, jnp.maximum(1e-8 * jnp.max(values, -1, keepdims=True), 1e-10)), vectors


def _climb(density: Callable[[Array], Array], start: Array) -> tuple[Array, Array]:
    """Damped Newton ascent of all cells at once, until no cell's predicted increase is more than rounding.

    Returns:
        Where it ended (cells, d), and minus the Hessian there (cells, d, d).
    """
    eps = float(jnp.finfo(start.dtype).eps)
    enough = eps**0.6

    def step(carry: Any) -> Any:
        count, u, here, damping, _ = carry
        values, vectors = _eigen(here.curvature)
        turned = jnp.einsum("cij,ci->cj", vectors, here.slope)
        left = jnp.sum(turned**2 / values, -1) > enough
        trial = u + jnp.einsum("cij,cj->ci", vectors, turned / (values * (1 + damping[:, None])))
        there = _shape(density, trial)
        better = there.height >= here.height - 16 * eps * jnp.abs(here.height)
        taken = better & left
        u = jnp.where(taken[:, None], trial, u)
        here = _Shape(*(jnp.where(jnp.reshape(taken, [-1] + [1] * (new.ndim - 1)), new, old)
                        for new, old in zip(there, here, strict=True)))  # fmt: skip
        eased = jnp.where(damping < 0.1, 0.0, damping / 10)
        return count + 1, u, here, jnp.where(better, eased, jnp.maximum(4 * damping, 1.0)), left

    def running(carry: Any) -> Any:
        return (carry[0] < _NEWTON_STEPS) & jnp.any(carry[-1])

    cells = start.shape[0]
    first = (0, start, _shape(density, start), jnp.zeros(cells, start.dtype), jnp.ones(cells, bool))
    _, u, here, _, _ = jax.lax.while_loop(running, step, first)
    return u, here.curvature
