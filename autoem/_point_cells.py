"""A block of latents that are integrated numerically: from its sites to cells, and to the engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from numpyro.distributions import constraints

from ._cells import Cells, element_numbers, find_cells
from ._discrete import batch_shape, evidence_factor, lay_out_discrete
from ._evidence import FEW, LADDER, Enumeration, Factor, Quadrature, Sampled, Seat, Summed
from ._factors import Skeleton
from ._links import Coordinates, has_traced_index
from ._model import Model
from ._options import MonteCarlo, Sampling
from ._points import elements_read, free_shape
from ._rows import Touch
from ._types import Refusal, StaticArray

_MOST = 1000
"""Coupled coordinates up to which their curvature is formed."""

_MOST_STATES = 16
"""Joint states of discrete latents for each of which a cell is integrated by itself."""

Site = tuple[int, Factor, Skeleton]
"""A site of the block: its position among all factors, its factor, how it enters."""


@dataclass(frozen=True)
class _Division:
    """How a block falls into cells.

    Attributes:
        held: discrete latents of which every cell meets one element, in order: it is integrated once for each state.
        inner: discrete latents that are summed out within the cells.
        inside, above: sites that belong to cells, and those that hold nothing but latents in `held`.
        cell: per site inside, the cell of each element: over the batch axes, of length 1 where they agree.
        cells: the partition of the elements of continuous and inner latents.
        offsets: number of each latent's first element.
        dims: free coordinates of every cell.
        states: per latent in `held` that a cell meets, the flat number of the element: (cells,), -1 for none.
    """

    held: tuple[str, ...]
    inner: tuple[str, ...]
    inside: tuple[Site, ...]
    above: tuple[Site, ...]
    cell: tuple[np.ndarray, ...]
    cells: Cells
    offsets: Mapping[str, int]
    dims: np.ndarray
    states: Mapping[str, np.ndarray]


def lay_out_points(
    model: Model, sites: Sequence[Site], names: Sequence[str], members: Sequence[str], axis: str
) -> tuple[Quadrature | Sampled, tuple[int, ...]]:
    """The engine, and the positions of its factors: a quadrature of small cells, or else a sampler.

    Args:
        model: the model.
        sites: of the block.
        names, members: its continuous and its discrete latents.
        axis: name of the points' axis.

    Raises:
        ValueError: the user gives different options to latents that meet.
        Refusal: a cell has too many coordinates, or the sum over the discrete latents is not tractable.
    """
    free = {n: free_shape(model.hidden[n], model.avals[n].shape) for n in names}
    width = {n: math.prod(free[n]) for n in names}
    option = _option(model, names)
    found = _divided(model, sites, width, members)
    if option is None and found.dims.max() > max(LADDER):
        if has_traced_index(model.program):
            raise Refusal(f"The latents {', '.join(map(repr, names))} are reached through an index that is traced here "
                          "(jit or vmap over the data), which hides which of their elements meet: call autoem outside, "
                          "or close over the index.")  # fmt: skip
        option = model.sampled if isinstance(model.sampled, Sampling) else MonteCarlo()
    if option is not None and members:  # a sampler moves in one density: discrete latents are summed within it
        found = _division(model, sites, width, members, ())
    slot = _slots(found, model, free)
    seats = []
    for name in names:
        at = slice(found.offsets[name], found.offsets[name] + math.prod(model.hidden[name].batch_shape))
        site, shape = model.hidden[name], model.avals[name].shape
        seats.append(Seat(name, site.constraint, shape, free[name], found.cells.cell[at], slot[at]))
    most = int(found.dims.max())
    real = (np.arange(most) < found.dims[:, None]).astype(jax.dtypes.canonicalize_dtype(float))
    above, elements = _above(model, names, found)
    nodes = _first_rung(seats, most) if option is None else 0
    cells = Quadrature(_summed(model, found), tuple(seats), real, nodes, axis, above, elements)
    engine = cells if option is None else _sampled(model, cells, option)
    return engine, tuple(i for i, _, _ in (*found.inside, *found.above))


def _option(model: Model, names: Sequence[str]) -> Sampling | None:
    """How the user wants some latents that meet to be sampled, if at all."""
    if isinstance(model.sampled, Sampling):
        return None
    given = {n: model.sampled[n] for n in names if n in model.sampled}
    if len(set(given.values())) > 1:
        shown = ", ".join(map(repr, given))
        raise ValueError(f"e_step gives different options to {shown}, which are sampled together.")
    return next(iter(given.values()), None)


def _sampled(model: Model, cells: Quadrature, option: Sampling) -> Sampled:
    """The engine that samples some cells.

    Raises:
        Refusal: more coordinates are coupled than a matrix of curvature can be made for.
    """
    if cells.dims > _MOST:
        why = "; ".join(f"{n!r}: {model.points[n]}" for n in cells.names)
        raise Refusal(
            f"The latents {', '.join(map(repr, cells.names))} have {cells.dims} coupled coordinates, and no exact "
            f"engine takes them ({why}). autoem samples at most {_MOST} coupled coordinates: its samplers need their "
            "curvature. Crossed groups couple everything; if some can be parameters, name them in maximize=[...]."
        )
    by_size = "importance" if cells.dims <= FEW else "nuts"
    sampler = by_size if option.sampler == "auto" else option.sampler
    if isinstance(option, MonteCarlo):
        return Sampled(cells, sampler, option.num_samples, option.num_chains, option.max_samples)
    remembered = option.memory, option.burn_in, option.decay
    return Sampled(cells, sampler, option.num_samples, option.num_chains, option.num_samples, *remembered)


def _first_rung(seats: Sequence[Seat], dims: int) -> int:
    """Nodes to begin with: more of them off the real line, where densities in free coordinates are skew."""
    real = (type(constraints.real), type(constraints.real_vector))
    return LADDER[dims][0 if all(isinstance(seat.constraint, real) for seat in seats) else min(2, 4 - dims)]


# -- which elements belong together ---------------------------------------------------------------------------------


def _divided(model: Model, sites: Sequence[Site], width: Mapping[str, int], members: Sequence[str]) -> _Division:
    """Hold as few discrete latents fixed as keep the cells small, each with one element per cell.

    Args:
        model, sites, members: as in `lay_out_points`.
        width: free coordinates of an element of each continuous latent.
    """
    held = tuple(members)
    while True:
        found = _division(model, sites, width, members, held)
        several = {n for n in held if n not in found.states and _among(n, found.inside)}
        sizes = {n: len(model.support(n)) for n in found.states}
        if not several and math.prod(sizes.values()) > _MOST_STATES:
            several = {max(sizes, key=lambda n: sizes[n])}
        if not several:
            break
        held = tuple(n for n in held if n not in several)
    return found


def _division(
    model: Model, sites: Sequence[Site], width: Mapping[str, int], members: Sequence[str], held: tuple[str, ...]
) -> _Division:
    """The cells if some discrete latents are held fixed; `states` lacks those of which a cell meets several."""
    inner = tuple(n for n in members if n not in held)
    shapes = {n: model.hidden[n].batch_shape for n in width} | {n: batch_shape(model, n) for n in inner}
    sizes = {n: math.prod(s) for n, s in shapes.items()}
    offsets = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    inside = tuple(s for s in sites if s[2].met or any(n in inner for n in s[2].coordinates))
    above = tuple(s for s in sites if s[0] not in [i for i, _, _ in inside])
    elements = [_elements(model, s, shapes, offsets) for _, _, s in inside]
    cells = find_cells([e.reshape(-1, e.shape[-1]) for e in elements], sum(sizes.values()))
    widths = np.concatenate([np.full(sizes[n], width.get(n, 0)) for n in sizes])
    dims = np.bincount(cells.cell, widths, int(cells.cell.max()) + 1).astype(int)
    # What meets no latent of a cell has a cell of its own for every combination of latents that are held fixed.
    own: dict[tuple[int, ...], int] = {}
    cell = []
    for (_, _, skeleton), e in zip(inside, elements, strict=True):
        first = e.max(-1)
        met = np.where(first < 0, -1, cells.cell[np.maximum(first, 0)])
        if (met < 0).any():
            flats = [flat_elements(skeleton.coordinates[n], batch_shape(model, n)) if n in skeleton.coordinates
                     else np.full((1,) * met.ndim, -1) for n in held]  # fmt: skip
            met = _own_cells(met, flats, own, len(dims))
        cell.append(met)
    dims = np.concatenate([dims, np.zeros(len(own), int)])
    states = _states(model, inside, cell, held, len(dims))
    return _Division(held, inner, inside, above, tuple(cell), cells, offsets, dims, states)


def _elements(
    model: Model, skeleton: Skeleton, shapes: Mapping[str, tuple[int, ...]], offsets: Mapping[str, int]
) -> np.ndarray:
    """Elements of continuous and inner latents that each element of a site meets: (batch..., most), -1 for none."""
    columns = []
    batch = skeleton.site.batch_shape
    for name, coords in {**skeleton.met, **skeleton.coordinates}.items():
        latent = model.reads[name].latent if name in skeleton.met else name
        if latent in shapes:
            mixed = tuple(a for a, c in enumerate(coords) if c is None)
            whole = np.arange(math.prod(shapes[latent])).reshape(shapes[latent])
            read = elements_read(model, name) if name in skeleton.met else whole
            touch = Touch("value", name, latent, read.reshape(-1), coords, mixed, read.shape)
            columns.append(element_numbers(touch, offsets[latent], batch))
    lead = np.broadcast_shapes(*(c.shape[:-1] for c in columns))
    return np.concatenate([np.broadcast_to(c, (*lead, c.shape[-1])) for c in columns], -1)


def flat_elements(coordinates: Coordinates, shape: tuple[int, ...]) -> np.ndarray:
    """The flat number of the element of a discrete latent that each element of a site meets, compact; -1 for none."""
    flat: Any = 0
    for c, n in zip(coordinates, shape or (1,), strict=True):
        assert c is not None
        flat = np.where((c < 0) | (flat < 0), -1, flat * n + c)
    return flat


def _own_cells(met: np.ndarray, flats: Sequence[np.ndarray], own: dict[tuple[int, ...], int], first: int) -> np.ndarray:
    """Number the cells of what meets no latent (-1 in `met`), new combinations of `flats` from `first` on."""
    met, *flats = np.broadcast_arrays(met, *flats)
    met = met.copy()
    alone = met < 0
    keys = np.stack([f[alone] for f in flats], -1) if flats else np.zeros((int(alone.sum()), 0), int)
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    numbers = [own.setdefault(tuple(row.tolist()), first + len(own)) for row in unique]
    met[alone] = np.asarray(numbers, int)[inverse.reshape(-1)]
    return met


def _states(
    model: Model, inside: Sequence[Site], cell: Sequence[np.ndarray], held: Sequence[str], count: int
) -> dict[str, np.ndarray]:
    """Which element of each latent in `held` every cell meets; without those of which a cell meets several."""
    states = {}
    for name in held:
        own = np.full(count, -1)
        if not _among(name, inside):
            continue
        pairs = [np.broadcast_arrays(c, flat_elements(s.coordinates[name], batch_shape(model, name)))
                 for (_, _, s), c in zip(inside, cell, strict=True) if name in s.coordinates]  # fmt: skip
        for at, flat in pairs:
            np.maximum.at(own, at.reshape(-1), flat.reshape(-1))
        if all(((flat < 0) | (flat == own[at])).all() for at, flat in pairs):
            states[name] = own
    return states


def _among(name: str, sites: Sequence[Site]) -> bool:
    """Whether one of the sites holds a discrete latent."""
    return any(name in s.coordinates for _, _, s in sites)


def _slots(found: _Division, model: Model, free: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """First coordinate of every element in its cell."""
    cell = found.cells.cell
    width = np.zeros(len(cell), int)
    for name, shape in free.items():
        at = found.offsets[name]
        width[at : at + math.prod(model.hidden[name].batch_shape)] = math.prod(shape)
    order = np.argsort(cell, kind="stable")
    before = np.cumsum(width[order]) - width[order]
    start = np.concatenate([[0], np.cumsum(found.dims)[:-1]])
    slot = np.empty(len(cell), int)
    slot[order] = before - start[cell[order]]
    return slot


# -- the engine's parts ---------------------------------------------------------------------------------------------


def _summed(model: Model, found: _Division) -> Summed:
    """The sites of the cells, with the elimination of the inner latents."""
    factors = tuple(f for _, f, _ in found.inside)
    held = tuple(found.states)
    if not found.inner:
        return Summed(factors, found.cell, len(found.dims), held)
    relevant, inside, absent = [], [], []
    for position, ((_, factor, skeleton), cell) in enumerate(zip(found.inside, found.cell, strict=True)):
        latents = tuple(n for n in skeleton.coordinates if n in found.inner)
        if not latents:
            continue
        flats = [flat_elements(skeleton.coordinates[n], batch_shape(model, n)) for n in latents]
        none = np.all(np.broadcast_arrays(*(f < 0 for f in flats)), 0)
        varying = [c for n in latents for c in skeleton.coordinates[n] if c is not None]
        varying += [none, cell] if none.any() else []
        keep = tuple(a for a in range(len(factor.batch_shape)) if any(c.shape[a] > 1 for c in varying))
        order = tuple(n for n in factor.latents if n in latents)
        structure = Factor(factor.site, order, factor.batch_shape, keep, factor.canonical, factor.family,
                           None, {}, None, None)  # fmt: skip
        relevant.append((structure, replace(skeleton, latents=order)))
        inside.append(position)
        absent.append(none.reshape([none.shape[a] for a in keep]) if none.any() else None)
    discrete = lay_out_discrete(model, relevant, found.inner, None)
    cells = {}
    for name in found.inner:
        shape = batch_shape(model, name)
        own = found.cells.cell[found.offsets[name] : found.offsets[name] + math.prod(shape)]
        cells[name] = own.reshape([n for n in shape if n > 1])
    return Summed(factors, found.cell, len(found.dims), held, discrete, tuple(inside), tuple(absent), cells)


def _above(model: Model, names: Sequence[str], found: _Division) -> tuple[Enumeration | None, dict[str, StaticArray]]:
    """The engine of the discrete latents above the cells, and which of their elements each cell meets."""
    if not found.held:
        return None, {}
    extra = evidence_factor(model, names, found.states, len(found.dims))
    relevant = [(f, s) for _, f, s in found.above]
    engine = lay_out_discrete(model, relevant, found.held, None, extra)
    return engine, {n: StaticArray(s) for n, s in found.states.items()}
