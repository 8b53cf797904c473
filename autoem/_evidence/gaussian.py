"""Gaussian latents, exactly: each cell's precision in information form, one factorisation per class of equal ones.

For a cell with latents z and residuals r = r₀ + J z of precision P:

    A = J' P J,   m = -A⁻¹ J' P r₀,   L = -½ r(m)' P r(m) - ½ log|A| + ...

A depends on the design only and is shared by all cells of a class; r(m) is the least-squares residual, so nothing
large cancels. The expected statistics are second moments of the residual's parts at m, plus those of A⁻¹.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array, Arrays, Leaf
from ._arrow import ArrowSolution
from ._factor import Factor, over_states
from ._fisher import by_fisher, tabled_by_fisher
from ._groups import Group, Place, Solution, Terms
from ._information import moments, solve
from ._steps import Path, Steps
from .kalman import draw_path, e_step, evidence, solve_steps

_LOG_2PI = math.log(2 * math.pi)

Posterior: TypeAlias = Solution | ArrowSolution | Path
"""Of a group's cells."""


class Gaussian(eqx.Module):
    """A block of latents that are jointly Gaussian given the parameters and the discrete latents.

    Attributes:
        groups: the cells, by size; those whose elements stand in levels by number of levels.
        factors: the block's sites.
        latents: (name, values) of the discrete latents that it depends on: L is their product, in this order.
        places: latent name -> where its elements are (in a layout without compression).
        cells: per group, (Q, n) numbers of the cells, -1 for none (in a layout without compression).
        log_base: log density whatever the parameters.
        notes: what was shared or summed beforehand, for the page.
        count: number of cells.
        recursions: (latent, how its chain is eliminated) pairs.
    """

    groups: tuple[Group | Steps, ...]
    factors: tuple[Factor, ...]
    latents: tuple[tuple[str, int], ...] = eqx.field(static=True)
    places: dict[str, Place]
    cells: tuple[Leaf, ...]
    log_base: Leaf
    names: tuple[str, ...] = eqx.field(static=True)
    notes: tuple[str, ...] = eqx.field(static=True)
    count: int = eqx.field(static=True)
    recursions: tuple[tuple[str, str], ...] = eqx.field(static=True, default=())

    method = "gaussian"

    def along(self, name: str) -> str:
        """How the chain is eliminated that a latent is in; "" where it is in none."""
        return dict(self.recursions).get(name, "")

    @property
    def chained(self) -> bool:
        """Whether some cells are eliminated step by step."""
        return any(isinstance(g, Steps) for g in self.groups)

    def prepare(self) -> None:
        """All that does not change with the parameters was done when the block was laid out."""
        return None

    def log_evidence(self, arguments: Sequence[Arrays], prepared: Any = None) -> Array:
        """L at the sites' arguments (no discrete latents)."""
        if not self.chained:
            return self._total(arguments)
        return by_fisher(self, Gaussian._total, Gaussian.expected_statistics, Gaussian._slots, arguments)

    def _total(self, arguments: Sequence[Arrays]) -> Array:
        total = self.log_base
        terms = [_first(t) for t in self._terms(arguments)[0]]
        for group in self.groups:
            quadratic, constant = _evidence(self._state(group), terms)
            total = total + jnp.sum(quadratic * group.valid) + jnp.sum(constant * group.number)
        return total

    def expected_statistics(self, arguments: Sequence[Arrays], prepared: Any = None) -> tuple[Array, list[Array]]:
        """L and the expected statistics of every factor (no discrete latents)."""
        return self._expected(arguments, [g.valid for g in self.groups])

    def scaled_statistics(self, arguments: Sequence[Arrays], scale: Array) -> list[Array]:
        """The statistics where a cell's means count `scale` (cells,) times, its rows and covariances once."""
        padded = jnp.append(scale, 0.0)
        weights = [padded[jnp.where(c < 0, self.count, c)] for c in self.cells]
        return self._expected(arguments, weights)[1]

    def _expected(self, arguments: Sequence[Arrays], weights: Sequence[Array]) -> tuple[Array, list[Array]]:
        """L and statistics; `weights` of the cells' means, per group (Q, n)."""
        total = self.log_base
        terms, shapes = self._terms(arguments)
        first = [_first(t) for t in terms]
        found: list[list[Any]] = [[] for _ in self.factors]
        for group, own in zip(self.groups, weights, strict=True):
            group = self._state(group)
            quadratic, constant, moments = self._e_step(group, first, own, group.number)
            total = total + jnp.sum(quadratic * group.valid) + jnp.sum(constant * group.number)
            for piece, part in zip(group.pieces, moments, strict=True):
                found[piece.factor].append(part)
        return total, [self._collected(i, found[i], shapes[i]) for i in range(len(self.factors))]

    def evidences(self, arguments: Sequence[Arrays]) -> tuple[Array, Array]:
        """Log evidence of the cells' data and log normalisers, apart: (cells,) each (no discrete latents)."""
        terms = [_first(t) for t in self._terms(arguments)[0]]
        found = [_evidence(self._state(group), terms) for group in self.groups]
        quadratic = [q[None] for q, _ in found]
        constant = [jnp.broadcast_to(c[:, None], q.shape)[None] for q, c in found]
        return self._table(quadratic)[0], self._table(constant)[0]

    def _e_step(self, group: Group | Steps, terms: Sequence[Terms], weights: Array, number: Array) -> Any:
        """Log evidence of the cells' data (Q, n), log normalisers (Q,), and every piece's moments."""
        families: list[Any] = [self.factors[p.factor].family for p in group.pieces]
        if isinstance(group, Steps):
            return e_step(group, terms, weights, number, [f.width for f in families])
        solution, quadratic, constant = solve(group, terms)
        found = [moments(group, solution, weights, number, f, p)
                 for f, p in zip(families, group.pieces, strict=True)]  # fmt: skip
        return quadratic, constant, found

    def _slots(self, arguments: Sequence[Arrays]) -> list[Array]:
        return [f.slots(dict(a)) for f, a in zip(self.factors, arguments, strict=True)]

    def solve(self, arguments: Sequence[Arrays]) -> list[Posterior]:
        """The posterior of every group; with discrete latents, for each of their joint states (leading axis L)."""
        terms = self._terms(arguments)[0]

        def solved(group: Group | Steps, own: Sequence[Terms]) -> Posterior:
            return solve_steps(group, own) if isinstance(group, Steps) else solve(group, own)[0]

        return [self._each(solved, group, terms) for group in self.groups]

    def heights(self, arguments: Sequence[Arrays]) -> Array:
        """½ log|A| of every cell for every joint state: what its density at the mode has more than its evidence."""
        solved = zip(self.groups, self.solve(arguments), strict=True)
        return self._table([jnp.broadcast_to(s.height[..., None], (*s.height.shape, g.valid.shape[1]))
                            for g, s in solved])  # fmt: skip

    def tables(self, arguments: Sequence[Arrays]) -> Array:
        """Log evidence of every cell for every joint state of the discrete latents: (L, cells)."""
        if self.chained:
            return tabled_by_fisher(self, Gaussian._tables, Gaussian.weighted_statistics, Gaussian._slots, arguments)
        return self._tables(arguments)

    def _tables(self, arguments: Sequence[Arrays]) -> Array:
        terms = self._terms(arguments)[0]

        def summed(group: Group | Steps, own: Sequence[Terms]) -> Array:
            quadratic, constant = _evidence(group, own)
            return quadratic + constant[:, None]

        return self._table([self._each(summed, group, terms) for group in self.groups])

    def _table(self, parts: Sequence[Array]) -> Array:
        """Per-group (L, Q, n) arrays in the order of the cells: (L, cells)."""
        size = self.count
        states = math.prod(n for _, n in self.latents)
        out = jnp.zeros((states, size + 1))
        for part, cells in zip(parts, self.cells, strict=True):
            flat = jnp.where(cells < 0, size, cells).reshape(-1)
            out = out.at[:, flat].set(jnp.broadcast_to(part, (states, *part.shape[1:])).reshape(states, -1))
        return out[:, :size]

    def weighted_statistics(self, arguments: Sequence[Arrays], weights: Array) -> list[Array]:
        """Expected statistics where cell c is in joint state l with probability weights[l, c]."""
        terms, shapes = self._terms(arguments)
        found: list[list[Any]] = [[] for _ in self.factors]
        padded = jnp.concatenate([weights, jnp.zeros((weights.shape[0], 1))], 1)
        for group, cells in zip(self.groups, self.cells, strict=True):
            own = padded[:, jnp.where(cells < 0, weights.shape[1], cells)]

            def statistics(group: Group | Steps, terms: Sequence[Terms], w: Array) -> Any:
                return self._e_step(group, terms, w, jnp.sum(w, -1))[2]

            for piece, part in zip(group.pieces, self._each(statistics, group, terms, own), strict=True):
                found[piece.factor].append(part)
        return [self._collected(i, found[i], shapes[i]) for i in range(len(self.factors))]

    def draw(self, key: Array, solutions: Sequence[Posterior]) -> tuple[list[Array], list[Array]]:
        """One draw per group (Q, n, S) from solutions without a state axis, and its log densities (Q, n)."""
        draws, densities = [], []
        for index, (group, solution) in enumerate(zip(self.groups, solutions, strict=True)):
            noise = jax.random.normal(jax.random.fold_in(key, index), solution.mean.shape)
            if isinstance(group, Steps):
                real = jnp.moveaxis(group.real[group.kind], 0, 1).reshape(noise.shape[0], 1, -1)
            else:
                real = group.real[:, None, :]
            noise = noise * real
            # The factor of a class, or (after a choice of discrete states) of every cell.
            height = solution.height if solution.height.ndim == 2 else solution.height[:, None]
            draws.append(draw_path(solution, noise) if isinstance(solution, Path) else solution.drawn(noise))
            densities.append(height - jnp.sum(noise**2 + _LOG_2PI * real, -1) / 2)
        return draws, densities

    def _terms(self, arguments: Sequence[Arrays]) -> tuple[list[Terms], list[Any]]:
        """Every site's arguments per joint state and kept element (L or 1, K, ...), and the shape of its statistics."""
        terms, shapes = [], []
        for factor, given in zip(self.factors, arguments, strict=True):
            family: Any = factor.family
            lead = len(factor.latents)
            phi = family.coefficients(given, factor.constants)
            precision, log_det = family.precision(given)
            joint = jnp.broadcast_shapes(phi.shape[:-1], log_det.shape)
            shapes.append(joint)

            def flat(array: Array, event: int, joint: Any = joint, lead: int = lead, own: Any = factor) -> Array:
                tail = array.shape[array.ndim - event :]
                array = jnp.broadcast_to(array, (*joint, *tail))
                array = jnp.reshape(array, (*joint[:lead], math.prod(joint[lead:]), *tail))
                return over_states(array, own.latents, self.latents)

            terms.append(Terms(flat(phi, 1), flat(precision, 2), flat(log_det, 0), flat(family.whitening(given), 2)))
        return terms, shapes

    def _collected(self, index: int, parts: Sequence[Any], joint: tuple[int, ...]) -> Array:
        """Sum rows into the elements of the arguments, and joint states into the site's own discrete axes."""
        factor = self.factors[index]
        family: Any = factor.family
        lead = len(factor.latents)
        size = math.prod(joint[lead:])
        stacked = bool(self.latents)
        sizes = [n for _, n in self.latents]
        count: Any = jnp.zeros((*([math.prod(sizes)] if stacked else []), size))
        moments: Any = jnp.zeros((*count.shape, *((1 + family.width, family.dim) * 2)))
        for kept, n, m in parts:
            if kept is None:
                count, moments = count + n, moments + m
                continue
            at = kept[0] if stacked else kept
            if stacked:
                count, moments = count.at[:, at].add(n), moments.at[:, at].add(m)
            else:
                count, moments = count.at[at].add(n), moments.at[at].add(m)
        flat = family.flat(count, moments)
        if stacked:
            flat = jnp.reshape(flat, (*sizes, size, flat.shape[-1]))
            gone = tuple(a for a, (name, _) in enumerate(self.latents)
                         if name not in factor.latents or joint[factor.latents.index(name)] == 1)  # fmt: skip
            flat = jnp.sum(flat, gone)
        return jnp.reshape(flat, (*joint, flat.shape[-1]))

    def _state(self, group: Any) -> Any:
        """The group without its axis of joint states (there is one state only)."""
        pieces = tuple(
            eqx.tree_at(
                lambda p: (p.fixed, p.touching),
                p,
                (tuple((i, a[:, 0]) for i, a in p.fixed), tuple((i, a[:, 0]) for i, a in p.touching)),
            )
            for p in group.pieces
        )
        return eqx.tree_at(lambda g: g.pieces, group, pieces)

    def _each(self, function: Callable[..., Any], group: Group | Steps, terms: Sequence[Terms], *more: Array) -> Any:
        """Apply a function of a group and its terms for every joint state; outputs get a leading axis L."""
        states = math.prod(n for _, n in self.latents)

        def at(array: Array, state: Any) -> Array:
            return array[:, 0] if array.shape[1] == 1 else jnp.asarray(array)[:, state]

        def one(state: Any, *own: Array) -> Any:
            pieces = tuple(
                eqx.tree_at(
                    lambda p: (p.fixed, p.touching),
                    p,
                    (tuple((i, at(a, state)) for i, a in p.fixed), tuple((i, at(a, state)) for i, a in p.touching)),
                )
                for p in group.pieces
            )
            picked = [jax.tree.map(lambda a: a[0] if a.shape[0] == 1 else a[state], t) for t in terms]
            return function(eqx.tree_at(lambda g: g.pieces, group, pieces), picked, *own)

        return jax.vmap(one)(jnp.arange(states), *more)


def _evidence(group: Group | Steps, terms: Sequence[Terms]) -> tuple[Array, Array]:
    """Log evidence of the cells' data (Q, n) and log normalisers (Q,)."""
    if isinstance(group, Steps):
        return evidence(group, terms)
    return solve(group, terms)[1:]


def _first(terms: Terms) -> Terms:
    return jax.tree.map(lambda a: a[0], terms)
