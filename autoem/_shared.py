"""Which continuous latents may have one grid of points for all their elements, and the engine of one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ._discrete import lay_out_discrete
from ._evidence import SHARED, Factor, Seat, Shared
from ._factors import Skeleton
from ._links import Coordinates, Dependence, own_coordinates
from ._model import Model
from ._points import free_shape
from ._reads import Read

_FEWEST = 8
"""Elements of a latent from which on they may share their points."""

_GAIN = 8
"""How many times the size of what is evaluated at a point the data have to be; else elements have their own points."""

_MOST = 2**23
"""Points times elements times states of discrete latents that are held at once."""

Site = tuple[int, Factor, Skeleton]


class Apart(Exception):
    """The elements of a latent had better have points of their own.

    Attributes:
        name: of the latent.
    """

    def __init__(self, name: str, why: str) -> None:
        Exception.__init__(self, why)
        self.name = name


def shareable(
    model: Model,
    names: Sequence[str],
    by_points: Mapping[int, Dependence],
    axes: Mapping[str, str],
    met: Mapping[str, Mapping[str, Any]],
) -> dict[str, tuple[int, ...]]:
    """Latents that may share their points: alone in their block, and each datum meets one element.

    Args:
        model: the model.
        names: those that are asked about.
        by_points: how the values that are used depend on the latents.
        axes: latent -> name of its points' axis.
        met: per site, the elements of latents that it meets.

    Returns:
        Per latent, its axes within an element: those along which data meet several numbers.
    """
    found = {}
    for name, axis in ((n, axes[n]) for n in names if n in axes):
        site, reads = model.hidden[name], [r for r in model.reads.values() if r.latent == name]
        alone = list(axes.values()).count(axis) == 1 and len(reads) == 1 and reads[0].coordinates is None
        asked = isinstance(model.sampled, Mapping) and name in model.sampled
        whole = [n for n, owner in model.owner.items() if owner == name] == [name] and name in met.get(name, {})
        if not alone or asked or not whole or not site.batch_shape:
            continue
        coordinates = [d.coordinates[name] for d in by_points.values() if name in d.coordinates]
        coordinates += [own[name] for own in met.values() if name in own]
        inner = tuple(a for a in range(len(site.batch_shape)) if any(c[a] is None for c in coordinates))
        if math.prod(n for a, n in enumerate(site.batch_shape) if a not in inner) >= _FEWEST:
            found[name] = inner
    return found


def element_shape(model: Model, name: str, inner: Sequence[int]) -> tuple[int, ...]:
    """Shape of a latent that has one element only, which all share."""
    outer = len(model.hidden[name].batch_shape)
    return tuple(1 if a < outer and a not in inner else n for a, n in enumerate(model.avals[name].shape))


def lay_out_shared(
    model: Model, sites: Sequence[Site], name: str, inner: Sequence[int], members: Sequence[str],
    shapes: Sequence[Any], axis: str,
) -> tuple[Shared, tuple[int, ...]]:  # fmt: skip
    """The engine of a latent whose elements share their points, and the positions of its factors.

    Args:
        model: the model.
        sites: the block's.
        name: of the latent.
        inner: its axes within an element.
        members: discrete latents of the block.
        shapes: of the sites' slots at one point.
        axis: name of the points' axis.

    Raises:
        Apart: its elements had better have points of their own.
    """
    site, shape = model.hidden[name], element_shape(model, name, inner)
    batch = tuple(n for a, n in enumerate(site.batch_shape) if a not in inner)
    free, parts = free_shape(site, shape), math.prod(site.batch_shape[a] for a in inner)
    dims, elements = math.prod(free) * parts, math.prod(batch)
    own = next(k for k, (_, f, _) in enumerate(sites) if f.site == name)
    _require(name, sites, shapes, own, axis, inner)
    if dims not in SHARED:
        raise Apart(name, f"An element of {name!r} has too many coordinates for a grid.")
    points = SHARED[dims][0] ** dims
    if points * elements * math.prod(len(model.support(n)) for n in members) > _MOST:
        raise Apart(name, f"The elements of {name!r} are too many for one grid.")
    wide = _as_discrete(model, name, axis, points, batch)
    relevant = [_over(f, s, axis, name, inner) for _, f, s in sites]
    long = tuple(a for a, n in enumerate(batch) if n > 1)
    weights = Factor(f"weights of the {axis}", (axis,), batch, long, False, None, None, {}, None, None)
    coordinates = {axis: own_coordinates(batch)}
    extra = weights, replace(sites[own][2], coordinates=coordinates), (points, *([1] * len(batch)), 1)
    full = [(points if f.moving else s[0], *s[1:]) for (_, f, _), s in zip(sites, shapes, strict=True)]
    table = lay_out_discrete(wide, relevant, [axis, *members], full, extra)
    width = math.prod(free)
    seat = Seat(name, site.constraint, shape, free, np.zeros(parts, int), width * np.arange(parts))
    evaluated = sum(math.prod(shape[:-1]) for (_, f, _), shape in zip(sites, shapes, strict=True) if f.moving)
    engine = Shared(replace(table, products=()), seat, own, SHARED[dims][0], axis, elements, evaluated)
    return engine, tuple(i for i, _, _ in sites)


def _require(
    name: str, sites: Sequence[Site], shapes: Sequence[Any], own: int, axis: str, inner: Sequence[int]
) -> None:
    """Refuse what one grid does not fit, or where it saves nothing.

    Raises:
        Apart: see the sentences.
    """
    factor = sites[own][1]
    if any(f.moving and f.canonical and f.value is None and k != own for k, (_, f, _) in enumerate(sites)):
        raise Apart(name, "The value of another site moves with the latent.")
    if not factor.canonical or factor.latents != (axis,):
        raise Apart(name, "The latent's own density has no canonical form, or depends on a discrete latent.")
    if any(n > 1 for a, n in enumerate(shapes[own][1:-1]) if a not in inner):
        raise Apart(name, "The latent's own density is not the same for all its elements.")
    moving = [k for k, (_, f, _) in enumerate(sites) if f.moving]
    whole = sum(math.prod(sites[k][1].batch_shape) for k in moving)
    if _GAIN * sum(math.prod(shapes[k][:-1]) for k in moving) > whole:
        raise Apart(name, "The latent's elements have arguments of their own.")


def _as_discrete(model: Model, name: str, axis: str, points: int, batch: tuple[int, ...]) -> Model:
    """The model with the points' axis as one more discrete latent, with an element for each of the latent's."""
    site = replace(model.hidden[name], support=np.arange(points))
    reads = {**model.reads, axis: Read(axis, -1, batch)}
    outputs = {**model.outputs, axis: {"scale": None}}
    return replace(model, hidden={**model.hidden, axis: site}, reads=reads, outputs=outputs)


def _over(
    factor: Factor, skeleton: Skeleton, axis: str, name: str, inner: Sequence[int]
) -> tuple[Factor, Skeleton]:  # fmt: skip
    """A site with the elements of the latent that it meets as those of a discrete one."""
    coordinates: dict[str, Coordinates] = dict(skeleton.coordinates)
    if skeleton.met:
        outer = tuple(c for a, c in enumerate(skeleton.met[name]) if a not in inner)
        coordinates = {axis: outer, **coordinates}
    keep = tuple(a for a in range(len(factor.batch_shape))
                 if any(c is not None and c.shape[a] > 1 for own in coordinates.values() for c in own))  # fmt: skip
    return replace(factor, keep=keep, moving=False), replace(skeleton, coordinates=coordinates)
