"""Independent copies: an axis over which a Gaussian block repeats, with nothing but other data.

N copies of the same design and the same noise add up to a function of their second moments only. So the N rows of
(1, data of a copy) are replaced by the rows of the R factor of their QR decomposition, which has the same second
moments, before anything is laid out: what follows sees 1 + columns copies instead of N.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg

from ._design import Design
from ._rows import Touch


@dataclass(frozen=True)
class Copies:
    """Where the copies are.

    Attributes:
        count: N.
        latents: per latent, its axis that runs over the copies.
        sites: per site, its batch axis that does.
    """

    count: int
    latents: Mapping[str, int]
    sites: tuple[int, ...]


def find_copies(
    shapes: Mapping[str, tuple[int, ...]], designs: Sequence[Design], kept: Sequence[tuple[int, ...]]
) -> Copies | None:
    """The longest axis that all latents and all sites of a block share, along which only data vary.

    Args:
        shapes: of the latents, by name.
        designs: the block's sites, without discrete latents.
        kept: per site, shape of its arguments.
    """
    pairs = [[set(_shared_axes(t, shapes[t.latent])) for t in d.touches] for d in designs]
    if not all(pairs):
        return None
    first = designs[0].touches[0].latent
    for axis in sorted(range(len(shapes[first])), key=lambda a: -shapes[first][a]):
        found = _spread({first: axis}, designs, pairs)
        if found is not None and len(found[0]) == len(shapes):
            latents, sites = found
            if all(_only_data_vary(d, k, s) for d, k, s in zip(designs, kept, sites, strict=True)):
                return Copies(shapes[first][axis], latents, tuple(sites))
    return None


def _shared_axes(touch: Touch, shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """(axis of the latent, batch axis of the site) that count 0, 1, 2, ... together, and nothing else does."""
    where = np.unravel_index(touch.elements.reshape(touch.shape), shape) if shape else ()
    for axis, index in enumerate(where):
        n = shape[axis]
        for read, coordinate in enumerate(touch.coordinates[: len(touch.shape)]):
            if n < 2 or coordinate is None or touch.shape[read] != n:
                continue
            counting = np.arange(n).reshape([-1 if a == read else 1 for a in range(len(touch.shape))])
            along = [a for a, size in enumerate(coordinate.shape) if size > 1]
            if len(along) == 1 and np.array_equal(coordinate.reshape(-1), np.arange(n)):
                others = [c for r, c in enumerate(touch.coordinates) if r != read and c is not None]
                same = all(c.shape[along[0]] == 1 for c in others)
                if same and np.array_equal(index, np.broadcast_to(counting, touch.shape)):
                    yield axis, along[0]


def _spread(
    latents: dict[str, int], designs: Sequence[Design], pairs: Sequence[Sequence[set[tuple[int, int]]]]
) -> tuple[dict[str, int], list[int]] | None:
    """From one latent's axis to those of all latents and sites that meet it, or None where they do not agree."""
    sites: dict[int, int] = {}
    met = [(i, t.latent, p) for i, d in enumerate(designs) for t, p in zip(d.touches, pairs[i], strict=True)]
    known = -1
    while known < len(latents) + len(sites):
        known = len(latents) + len(sites)
        for site, latent, options in met:
            for axis, along in sorted(options):
                if latents.get(latent) == axis:
                    sites.setdefault(site, along)
                if sites.get(site) == along:
                    latents.setdefault(latent, axis)
    agreed = all(i in sites and n in latents and (latents[n], sites[i]) in options for i, n, options in met)
    return (latents, [sites[i] for i in range(len(designs))]) if agreed else None


def _only_data_vary(design: Design, kept: tuple[int, ...], axis: int) -> bool:
    """Whether along a batch axis of a site nothing varies but what is free of latents."""
    ndim = len(design.site.batch_shape)
    weight = design.weight
    if axis >= ndim or kept[axis] > 1 or (weight is not None and weight.shape[weight.ndim - ndim + axis] > 1):
        return False
    return all(key == "@0" or a.shape[2 + axis] == 1 for (key, _), a in design.parts.items())


def fewer(
    copies: Copies, shapes: Mapping[str, tuple[int, ...]], designs: Sequence[Design]
) -> tuple[int, dict[str, tuple[int, ...]], list[Design]] | None:
    """As many copies as the rows of the R factor, shapes and designs for those; None where that is not much fewer."""
    places = [(i, key, _along(d, copies.sites[i])) for i, d in enumerate(designs)
              for key, a in d.parts.items() if key[0] == "@0" and a.shape[_along(d, copies.sites[i])] > 1]  # fmt: skip
    width = sum(designs[i].parts[key].size // copies.count for i, key, _ in places)
    rows = 1 + width
    if rows > 0.7 * copies.count:
        return None
    moved = [np.moveaxis(designs[i].parts[key], axis, 0) for i, key, axis in places]
    root = _r_factor(np.concatenate([m.reshape(copies.count, -1) for m in moved], 1) if moved else None, copies.count)
    parts: list[dict[Any, np.ndarray]] = [dict(d.parts) for d in designs]
    for i, (own, design) in enumerate(zip(parts, designs, strict=True)):
        axis = _along(design, copies.sites[i])
        for key, a in own.items():
            if key[0] == "@0" and a.shape[axis] == 1:
                own[key] = a * root[:, 0].reshape([-1 if b == axis else 1 for b in range(a.ndim)])
    at = 1
    for (i, key, axis), m in zip(places, moved, strict=True):
        size = math.prod(m.shape[1:])
        parts[i][key] = np.moveaxis(root[:, at : at + size].reshape(rows, *m.shape[1:]), 0, axis)
        at += size
    new_shapes = {n: tuple(rows if a == copies.latents[n] else k for a, k in enumerate(s)) for n, s in shapes.items()}
    new = [_design(d, p, copies, s, rows, shapes, new_shapes)
           for d, p, s in zip(designs, parts, copies.sites, strict=True)]  # fmt: skip
    return rows, new_shapes, new


def _along(design: Design, axis: int) -> int:
    """A batch axis in the parts of a residual that are free of latents."""
    return 1 + len(design.latents) + axis


def _design(
    design: Design, parts: Mapping[Any, np.ndarray], copies: Copies, axis: int, rows: int,
    old: Mapping[str, tuple[int, ...]], new: Mapping[str, tuple[int, ...]],
) -> Design:  # fmt: skip
    """A site with that many copies."""
    batch = tuple(rows if a == axis else n for a, n in enumerate(design.site.batch_shape))
    touches = tuple(_touch(t, copies.latents[t.latent], axis, rows, old[t.latent], new[t.latent])
                    for t in design.touches)  # fmt: skip
    return replace(design, site=replace(design.site, batch_shape=batch), touches=touches, parts=parts)


def _touch(touch: Touch, latent_axis: int, axis: int, rows: int, old: tuple[int, ...], new: tuple[int, ...]) -> Touch:
    coordinates = tuple(c if c is None or c.shape[axis] == 1 else np.take(c, np.arange(rows), axis)
                        for c in touch.coordinates)  # fmt: skip
    where = np.unravel_index(touch.elements, old)
    first = where[latent_axis] < rows
    elements = np.ravel_multi_index(tuple(w[first] for w in where), new)
    read = next(r for r, c in enumerate(touch.coordinates) if c is not None and c.shape[axis] > 1)
    shape = tuple(rows if r == read else n for r, n in enumerate(touch.shape))
    return replace(touch, coordinates=coordinates, elements=elements, shape=shape)


_SAFE = 1e-5
"""Least diagonal element of a triangular factor, of columns of length one, at which a second one is orthogonal."""


def _r_factor(data: np.ndarray | None, count: int) -> np.ndarray:
    """The R factor of (1, data), data (N, columns), with a positive diagonal.

    By Cholesky factors of the centred second moments, twice: as good as by Householder's reflections where the columns
    are far from collinear (Yamamoto et al. 2015), and matrix products only; else by those.
    """
    if data is None:
        return np.full((1, 1), math.sqrt(count))
    mean = data.mean(0)
    centred = data - mean
    scale = np.sqrt(np.einsum("nc,nc->c", centred, centred))
    first = _cholesky(centred, np.where(scale > 0, scale, 1.0))
    if first is None or np.min(np.diagonal(first) / np.where(scale > 0, scale, 1.0)) < _SAFE:
        lower = np.linalg.qr(centred, mode="r")
    else:
        unit = centred @ scipy.linalg.solve_triangular(first, np.eye(len(first)))
        second = _cholesky(unit, np.ones(len(first)))
        assert second is not None
        lower = second @ first
    root = np.zeros((1 + len(mean), 1 + len(mean)))
    root[0, 0], root[0, 1:], root[1:, 1:] = math.sqrt(count), math.sqrt(count) * mean, lower
    return root


def _cholesky(data: np.ndarray, scale: np.ndarray) -> np.ndarray | None:
    """Upper Cholesky factor of data' data, columns scaled; None where that is singular."""
    try:
        return np.linalg.cholesky(data.T @ data / scale / scale[:, None]).T * scale
    except np.linalg.LinAlgError:
        return None
