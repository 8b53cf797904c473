"""Continuous latents that are integrated numerically: which they are, which of their elements are coupled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from numpyro.distributions import biject_to, constraints

from ._cells import element_numbers, find_cells
from ._complete import CompleteData
from ._conjugacy import find_entrances
from ._evidence import LADDER, Quadrature, Seat
from ._factors import Skeleton
from ._links import Coordinates, Dependence, Program, analyse, own_coordinates
from ._model import Model
from ._rows import Touch, gaussian_dependence, touches_of
from ._sites import Site
from ._types import Refusal


def settled(model: Model, declined: Mapping[str, str]) -> Model:
    """Move latents that no exact engine takes, and all that they are coupled with, to `points`.

    Args:
        model: the model.
        declined: per site, why its exponential family cannot be used, or "".

    Raises:
        Refusal: such a latent runs along a scan.
    """
    points = dict(model.points)
    while True:
        rest = tuple(n for n in model.gaussians if n not in points)
        conjugate = tuple(n for n in model.conjugates if n not in points)
        current = replace(model, gaussians=rest, conjugates=conjugate, points=points)
        moved = _not_conjugate(current, declined)
        if moved:
            points |= moved
            continue
        by_gaussian, by_points = gaussian_dependence(current, model.program), points_dependence(current, model.program)
        for site in model.sites.values():
            numbers = [i for i in jax.tree.leaves(model.outputs[site.name]) if i in by_gaussian]
            met = dict.fromkeys(model.reads[n].latent for i in numbers for n in by_gaussian[i].coordinates)
            why = _why_not_gaussian(current, site, by_gaussian, by_points) if met and site.role != "maximised" else ""
            moved |= {n: why for n in met if why and n not in moved}
        if not moved:
            break
        along = [n for n in moved if any(r.latent == n and r.coordinates is not None for r in model.reads.values())]
        if along:
            raise Refusal(moved[along[0]])
        points |= moved
    sites = {n: replace(s, role="points") if n in points else s for n, s in model.sites.items()}
    ordered = {n: points[n] for n in model.sites if n in points}
    return replace(model, sites=sites, gaussians=rest, conjugates=conjugate, points=ordered)


def _not_conjugate(model: Model, declined: Mapping[str, str]) -> dict[str, str]:
    """Latents that are not conjugate to all that depends on them, with the reason."""
    by_gaussian, by_points = gaussian_dependence(model, model.program), points_dependence(model, model.program)
    moved = {}
    for name in model.conjugates:
        try:
            held = find_entrances(replace(model, conjugates=(name,)), declined)
        except Refusal as refusal:
            moved[name] = str(refusal)
            continue
        for site in held:
            for i in jax.tree.leaves(model.outputs[site]):
                other = [*(by_gaussian[i].coordinates if i in by_gaussian else ()),
                         *(by_points[i].coordinates if i in by_points else ())]  # fmt: skip
                if other:
                    latent = model.reads[other[0]].latent
                    moved[name] = f"{site!r} holds {latent!r} too: together they are not conjugate"
    if not moved and model.conjugates:
        try:
            find_entrances(model, declined)
        except Refusal as refusal:  # two of them meet
            moved = dict.fromkeys(model.conjugates, str(refusal))
    return moved


def _why_not_gaussian(
    model: Model, site: Site, by_gaussian: Mapping[int, Dependence], by_points: Mapping[int, Dependence]
) -> str:
    for number in jax.tree.leaves(model.outputs[site.name]):
        if number in by_points:
            other = next(iter(by_points[number].coordinates))
            return f"{site.name!r} couples it with {other!r}, which is not Gaussian given the data"
    try:
        touches_of(model, site, by_gaussian)
    except Refusal as refusal:
        return str(refusal)
    return ""


def points_dependence(model: Model, program: Program) -> dict[int, Dependence]:
    """How every value depends on the elements (whole events) of the latents that are integrated numerically."""
    unknowns = {
        model.reads[n].number: (n, own_coordinates(model.sites[n].batch_shape, model.sites[n].event_ndim))
        for n in model.points
    }
    return analyse(program, unknowns, kinds=False) if unknowns else {}


def require_alone(
    model: Model, site: Site, met: Mapping[str, Coordinates], by_points: Mapping[int, Dependence]
) -> None:
    """Refuse a site that holds latents to integrate numerically, and what does not go with them.

    Raises:
        Refusal: discrete latents in one factor with them, a prior or weight that depends on them, a masked latent.
    """
    out, shown = model.outputs[site.name], ", ".join(map(repr, met))
    if site.role == "maximised":
        raise Refusal(f"The prior of the maximised site {site.name!r} depends on the latent {shown}.")
    for extra in ("mask", "scale"):
        if out[extra] in by_points:
            raise Refusal(f"The {extra} of site {site.name!r} depends on the latent {shown}, which autoem does not "
                          "support.")  # fmt: skip
    discrete = {model.reads[n].number: (n, (None,) * max(1, len(model.reads[n].shape))) for n in model.axes}
    found = analyse(model.program, discrete, kinds=False) if discrete else {}
    beside = [n for i in jax.tree.leaves(out) if i in found for n in found[i].coordinates]
    if beside:
        why = "; ".join(f"{n!r}: {model.points[n]}" for n in met)
        raise Refusal(
            f"Site {site.name!r} holds the discrete latent {model.reads[beside[0]].latent!r} beside the continuous "
            f"latent {shown}, which no exact engine takes ({why}): autoem does not sum and integrate numerically "
            "together yet."
        )
    if site.role == "points":
        free_shape(site, model.avals[site.name].shape)
        for extra, what in (("mask", "masked"), ("scale", "scaled (subsampling, or handlers.scale)")):
            if out[extra] is not None:
                raise Refusal(f"The continuous latent {site.name!r} is {what}, and no exact engine takes it: autoem "
                              "does not integrate such a density numerically.")  # fmt: skip


def axes_of(model: Model, met_by: Mapping[str, Mapping[str, Coordinates]]) -> dict[str, str]:
    """The name of the points' axis of every latent: the same for latents that meet in a site."""
    label = {n: n for n in model.points}
    for met in met_by.values():
        joined = {label[n] for n in met}
        label = {n: min(joined, key=list(model.points).index) if own in joined else own for n, own in label.items()}
    names = {own: ", ".join(n for n in label if label[n] == own) for own in label.values()}
    return {n: f"points of {names[own]}" for n, own in label.items()}


def point_blocks(
    model: Model, complete: CompleteData, skeletons: Sequence[Skeleton], axes: Mapping[str, str]
) -> list[tuple[Quadrature, tuple[int, ...]]]:
    """One engine per group of latents that meet, and the positions of its factors."""
    blocks = []
    for axis in dict.fromkeys(axes.values()):
        names = [n for n in axes if axes[n] == axis]
        positions = tuple(i for i, s in enumerate(skeletons[: len(complete.factors)]) if axis in s.latents)
        blocks.append((_quadrature(model, complete, skeletons, names, positions, axis), positions))
    return blocks


def _quadrature(
    model: Model, complete: CompleteData, skeletons: Sequence[Skeleton], names: Sequence[str],
    positions: tuple[int, ...], axis: str,
) -> Quadrature:  # fmt: skip
    free = {n: free_shape(model.sites[n], model.avals[n].shape) for n in names}
    sizes = {n: math.prod(model.sites[n].batch_shape) for n in names}
    ends = np.cumsum([0, *sizes.values()])
    offsets = dict(zip(names, ends.tolist(), strict=False))
    width = np.concatenate([np.full(sizes[n], math.prod(free[n])) for n in names])
    elements = [_elements(model, skeletons[i], offsets) for i in positions]
    cells = find_cells([e.reshape(-1, e.shape[-1]) for e in elements], int(ends[-1]))
    slot, dims = _slots(cells.cell, width)
    _require_small(model, names, dims)
    met = [np.where((first := e.max(-1)) < 0, len(dims), cells.cell[np.maximum(first, 0)]) for e in elements]
    if any((m == len(dims)).any() for m in met):
        dims = np.append(dims, 0)  # the cell of what meets no latent
    seats = []
    for name in names:
        at = slice(offsets[name], offsets[name] + sizes[name])
        site = model.sites[name]
        shape = model.avals[name].shape
        seats.append(Seat(name, site.constraint, shape, free[name], cells.cell[at], slot[at]))
    most = int(dims.max())
    real = (np.arange(most) < dims[:, None]).astype(jax.dtypes.canonicalize_dtype(float))
    factors = tuple(complete.factors[i] for i in positions)
    return Quadrature(factors, tuple(met), tuple(seats), real, _first_rung(seats, most), axis)


def _first_rung(seats: Sequence[Seat], dims: int) -> int:
    """Nodes to begin with: more of them off the real line, where densities in free coordinates are skew."""
    real = (type(constraints.real), type(constraints.real_vector))
    return LADDER[dims][0 if all(isinstance(seat.constraint, real) for seat in seats) else min(2, 4 - dims)]


def free_shape(site: Site, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of one element in free coordinates.

    Raises:
        Refusal: its support has bounds that are computed, or is not one that can be mapped to the real line.
    """
    constraint = site.constraint
    if constraint is None:
        raise Refusal(
            f"The support of the continuous latent {site.name!r} ({site.distribution}) has bounds that are computed or "
            "depend on a parameter: autoem integrates numerically over supports with plain numbers as bounds."
        )
    event = shape[len(shape) - constraint.event_dim :]
    try:
        if type(constraint) is type(constraints.circular):
            raise NotImplementedError("a circle has no ends")
        return tuple(biject_to(constraint).inverse_shape(event))
    except NotImplementedError as error:
        raise Refusal(
            f"The continuous latent {site.name!r} ({site.distribution}) lies in {constraint}, which autoem does not "
            "map to the real line: no exact engine takes it, and it is not integrated numerically."
        ) from error


def _elements(model: Model, skeleton: Skeleton, offsets: Mapping[str, int]) -> np.ndarray:
    """Elements that each element of a site meets: (compact batch..., most), -1 for none."""
    columns = []
    batch = skeleton.site.batch_shape
    for name, coords in skeleton.met.items():
        shape = model.sites[name].batch_shape
        mixed = tuple(a for a, c in enumerate(coords) if c is None)
        touch = Touch("value", name, name, np.arange(math.prod(shape)), coords, mixed, shape)
        columns.append(element_numbers(touch, offsets[name], batch))
    lead = np.broadcast_shapes(*(c.shape[:-1] for c in columns))
    return np.concatenate([np.broadcast_to(c, (*lead, c.shape[-1])) for c in columns], -1)


def _slots(cell: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First coordinate of every element in its cell, and how many coordinates each cell has."""
    count = int(cell.max()) + 1
    dims = np.bincount(cell, width, count).astype(int)
    order = np.argsort(cell, kind="stable")
    before = np.cumsum(width[order]) - width[order]
    start = np.concatenate([[0], np.cumsum(dims)[:-1]])
    slot = np.empty(len(cell), int)
    slot[order] = before - start[cell[order]]
    return slot, dims


def _require_small(model: Model, names: Sequence[str], dims: np.ndarray) -> None:
    largest, most = int(dims.max()), max(LADDER)
    if largest <= most:
        return
    why: Any = "; ".join(f"{n!r}: {model.points[n]}" for n in names)
    raise Refusal(
        f"The latents {', '.join(map(repr, names))} need an integral over {largest} dimensions at once: that many of "
        f"their coordinates are coupled by the data (in the largest of {len(dims)} independent cells), and no exact "
        f"engine takes them ({why}). autoem integrates at most {most} numerically, and has no Monte Carlo E-step yet. "
        "Crossed groups couple everything; if some of them can be parameters, name them in maximize=[...]. If elements "
        "are independent, see that the code says so: index or broadcast, without loops over them."
    )
