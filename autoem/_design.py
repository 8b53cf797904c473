"""From the parts of a residual to numbers: rows, centred, flat, as the layout of a Gaussian block wants them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._cells import Rows, element_numbers
from ._family import LinearGaussian
from ._links import is_concrete
from ._rows import Columns, Touch
from ._sites import Site
from ._types import Refusal

_MOST = 2e8
"""Numbers that the rows of one site may hold: more means that structure was lost."""


@dataclass(frozen=True)
class Design:
    """A site with Gaussian latents: its residual is Σ_j φ_j (fixed_j + touching_j · latents), φ = (1, β - reference).

    Attributes:
        site: the site.
        latents: discrete latents that it depends on.
        touches: how it meets the Gaussian latents.
        columns: its coefficients.
        family: of its rows.
        parts: (key of a part, value number or -1) -> (J, latents..., [width], batch..., D); see `coefficient_parts`.
        weight: mask times scale, aligned to the batch axes, or None.
        reference: (latents..., batch..., coefficients), length 1 where they agree: what the coefficients are about.
        spread: (D,) standard deviation of the data, or None where there are none.
        log_base: log density whatever the parameters: the Jacobian of a log-normal.
    """

    site: Site
    latents: tuple[str, ...]
    touches: tuple[Touch, ...]
    columns: Columns
    family: LinearGaussian
    parts: Mapping[tuple[str, int], np.ndarray]
    weight: np.ndarray | None
    reference: np.ndarray
    spread: np.ndarray | None
    log_base: float


def design_of(
    site: Site,
    latents: tuple[str, ...],
    touches: tuple[Touch, ...],
    columns: Columns,
    family: LinearGaussian,
    parts: Mapping[tuple[str, int], Any],
    weight: Any,
    kept: tuple[int, ...],
    base: Any = None,
) -> Design:
    """Centre one site's parts.

    Args:
        kept: aligned shape of the coefficients: discrete latents, then batch axes.
        base: elementwise log density whatever the parameters, aligned, or None.

    Raises:
        Refusal: the data are traced.
    """
    if not is_concrete(weight, base, *parts.values()):
        raise Refusal(
            f"The data of site {site.name!r} are traced (jit or vmap over the data), and the layout of its Gaussian "
            "latents is found from their numbers: call autoem outside, or close over the data."
        )
    numbers = {key: np.asarray(a, np.float64) for key, a in parts.items()}
    weight = None if weight is None else np.asarray(weight, np.float64)
    lead, ndim = len(latents), len(site.batch_shape)
    constant = numbers.get(("@0", -1))
    mass = (
        np.ones((1,) * ndim) if weight is None else (np.reshape(weight, np.shape(weight)[-ndim:] if ndim else ()) > 0)
    )
    reference = _reference(columns, numbers, mass, kept, lead, ndim, family.dim)
    spread = None
    if site.role == "observed" and constant is not None:
        flat = np.broadcast_to(constant[0], (*constant.shape[1:-1], family.dim)).reshape(-1, family.dim)
        if not mass.all():
            flat = flat[np.broadcast_to(mass[..., None] > 0, (*constant.shape[1:-1], 1)).reshape(-1)]
        spread = flat.std(0) if len(flat) else None
    log_base = 0.0
    if base is not None:
        full = np.broadcast_to(_plain(np.asarray(base, np.float64), ndim), site.batch_shape)
        log_base = float(np.sum(np.where(mass > 0, full * (1.0 if weight is None else _plain(weight, ndim)), 0.0)))
    return Design(site, latents, touches, columns, family, numbers, weight, reference, spread, log_base)


def _reference(
    columns: Columns, parts: Mapping[Any, np.ndarray], mass: np.ndarray, kept: tuple[int, ...], lead: int, ndim: int,
    dim: int,
) -> np.ndarray:  # fmt: skip
    """Least squares of the constant part on the coefficients, per kept element: nothing but centring."""
    reference = np.zeros((*kept, columns.width))
    constant = parts.get(("@0", -1))
    if constant is None or not columns.width or not constant.any():
        return reference
    found = [parts.get(("@0", number)) for number in columns.numbers]
    shape = np.broadcast_shapes(constant.shape[1:], (*kept, 1), *(p.shape[1:] for p in found if p is not None))
    if sum(p.size for p in (constant, *found) if p is not None) > _MOST:
        return reference
    ends = np.cumsum([0, *columns.widths])
    live = [(slice(a, b), p) for a, b, p in zip(ends, ends[1:], found, strict=False) if p is not None and p.any()]
    out = [a for a in range(len(shape) - 1) if kept[a] > 1]
    over = (*(shape[a] for a in out), columns.width)
    gram, right = np.zeros((*over, columns.width)), np.zeros(over)
    weight = mass[None, ..., None]
    for at, p in live:
        right[..., at] = _summed([p, weight], constant, shape, out)[..., 0]
        for other, q in live:
            gram[..., at, other] = _summed([p, weight], q, shape, out)
    size = np.sqrt(np.einsum("...jj->...j", gram))
    size = np.where(size > 0, size, 1.0)  # rounding must not be divided by what is nothing
    scaled = gram / size[..., :, None] / size[..., None, :]
    solved = np.einsum("...jk,...k->...j", np.linalg.pinv(scaled, rcond=1e-9, hermitian=True), right / size) / size
    return solved.reshape(reference.shape)


def _summed(left: Sequence[np.ndarray], right: np.ndarray, shape: Sequence[int], out: Sequence[int]) -> np.ndarray:
    """Σ left × right over all axes but `out`, arrays (J, axes...) with length 1 where nothing varies: (out..., J, J').

    An axis that has length 1 in all of them is not summed over but multiplied by.
    """
    first, second = len(shape), len(shape) + 1
    operands: list[Any] = []
    varying: set[int] = set()
    for array, label in ((left[0], first), *((a, None) for a in left[1:]), (right, second)):
        lead = array.ndim - len(shape)
        axes = [a for a in range(-len(shape), 0) if array.shape[a] > 1]
        own = [len(shape) + a for a in axes]
        varying.update(own)
        kept = array.reshape(([array.shape[0]] if label is not None and lead else []) + [array.shape[a] for a in axes])
        operands += [kept, ([label] if label is not None else []) + own]
    labels = [a for a in out if a in varying]
    total = np.einsum(*operands, [*labels, first, second], optimize=True)
    total = total * math.prod(shape[a] for a in range(len(shape)) if a not in varying and a not in out)
    wide = total.reshape(*(shape[a] if a in labels else 1 for a in out), *total.shape[-2:])
    return np.broadcast_to(wide, (*(shape[a] for a in out), *total.shape[-2:]))


def rows_of(
    design: Design, position: int, offsets: Mapping[str, int], states: Sequence[tuple[str, int]],
    kept: tuple[int, ...], elements_met: np.ndarray,
) -> Rows:  # fmt: skip
    """A site's rows, flat, without those of weight zero; `cell` is filled in later.

    Args:
        design: the site.
        position: of the site's factor in its block.
        offsets: number of every Gaussian latent's first element.
        states: (name, values) of the block's discrete latents: L runs over their product.
        kept: aligned shape of the site's arguments: discrete latents, then batch axes.
        elements_met: (n, discrete latents) which of their elements each row meets, -1 for none.

    Raises:
        Refusal: the rows would not fit in memory.
    """
    batch, dim, lead = design.site.batch_shape, design.family.dim, len(design.latents)
    shift = _by_row(design.reference, lead, states, design.latents, batch, 1)  # (L, n, J)
    n = math.prod(batch)
    widths = {t.key: t.width for t in design.touches}
    total = sum(widths.values())
    if n * dim * total * (1 + design.columns.width) > _MOST:
        raise Refusal(
            f"Site {design.site.name!r} meets {total} latent elements and {design.columns.width} coefficients in each "
            f"of {n} rows: too many to hold."
        )
    starts = np.concatenate([[0], np.cumsum(list(widths.values()))]).astype(int)
    at = dict(zip(widths, starts, strict=False))
    fixed: dict[str, np.ndarray] = {}
    touching: dict[str, np.ndarray] = {}
    for (key, number), a in design.parts.items():
        name = "" if number < 0 else str(number)
        if key == "@0":
            fixed[name] = np.stack([_by_row(p, lead, states, design.latents, batch, 1, dim) for p in a])
            continue
        flat = np.stack([_by_row(p, lead, states, design.latents, batch, 1, dim, widths[key]) for p in a])
        old = touching.get(name)
        shape = np.broadcast_shapes(flat.shape[:-1], old.shape[:-1] if old is not None else flat.shape[:-1])
        new = np.zeros((*shape, total))
        if old is not None:
            new += old
        new[..., at[key] : at[key] + widths[key]] += flat
        touching[name] = new
    _centre(design, fixed, touching, shift)
    elements = np.concatenate(
        [
            np.broadcast_to(_elements(t, offsets[t.latent], batch, dim, design.site.event_ndim), (n, dim, t.width))
            for t in design.touches
        ],
        -1,
    ) if design.touches else np.full((n, dim, 0), -1)  # fmt: skip
    weight = (
        np.ones(n) if design.weight is None else np.broadcast_to(_plain(design.weight, len(batch)), batch).reshape(-1)
    )
    strides = np.arange(math.prod(kept[lead:])).reshape(kept[lead:])
    own = np.broadcast_to(strides, batch).reshape(-1)
    live = weight > 0
    if not live.all():
        fixed = {k: a if a.shape[2] == 1 else a[:, :, live] for k, a in fixed.items()}
        touching = {k: a if a.shape[2] == 1 else a[:, :, live] for k, a in touching.items()}
        elements, weight, own, elements_met = elements[live], weight[live], own[live], elements_met[live]
    elements, touching = _without_zeros(elements, touching)
    return Rows(position, dim, fixed, touching, elements, own, weight, weight, np.zeros(len(own), int), elements_met)


def _without_zeros(elements: np.ndarray, touching: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rows of a sparse design meet only what has a coefficient: fewer elements (n, D, T), if that is half of them.

    A product with an indicator matrix, or two gathers of one latent, are such designs.
    """
    count, dim, width = elements.shape
    rows = max([1, *(a.shape[2] for a in touching.values())])
    if width < 4 or rows == 1 < count:
        return elements, touching
    live = np.zeros((rows, dim, width), bool)
    for a in touching.values():
        live |= np.any(a != 0, (0, 1))
    few = max(1, int(live.sum(-1).max(initial=0)))
    if 2 * few > width:
        return elements, touching
    at = np.argsort(~live, -1, kind="stable")[..., :few]
    there = np.take_along_axis(live, at, -1)
    elements = np.where(there, np.take_along_axis(np.broadcast_to(elements, live.shape), at, -1), -1)

    def taken(a: np.ndarray) -> np.ndarray:
        wide = np.broadcast_to(a, (*a.shape[:2], *live.shape))
        return np.take_along_axis(wide, np.broadcast_to(at, (*a.shape[:2], *at.shape)), -1)

    return elements, {n: taken(a) for n, a in touching.items()}


def _plain(weight: np.ndarray, ndim: int) -> np.ndarray:
    """Aligned weights without the axes of discrete latents (they never vary along those)."""
    return np.reshape(weight, np.shape(weight)[np.ndim(weight) - ndim :])


def _centre(design: Design, fixed: dict[str, Any], touching: dict[str, Any], shift: np.ndarray) -> None:
    """r = X₀ + Σ β_j X_j = (X₀ + Σ c_j X_j) + Σ (β_j - c_j) X_j."""
    first = 0
    for number, width in zip(design.columns.numbers, design.columns.widths, strict=True):
        own = shift[..., first : first + width]  # (L, n, J)
        first += width
        if not own.any():
            continue
        for parts, tail in ((fixed, 1), (touching, 2)):
            a = parts.get(str(number))
            if a is not None:
                moved = np.moveaxis(own, -1, 0).reshape(width, *own.shape[:-1], *([1] * tail))
                total = np.sum(moved * a, 0, keepdims=True)
                parts[""] = parts[""] + total if "" in parts else total


def _by_row(
    array: np.ndarray, lead: int, states: Sequence[tuple[str, int]], latents: Sequence[str], batch: Sequence[int],
    event: int, dim: int | None = None, width: int | None = None,
) -> np.ndarray:  # fmt: skip
    """(latents..., [width], batch..., D) -> (L, n, D, [width]); L and n are 1 where nothing varies."""
    if width is not None:
        assert dim is not None
        array = np.moveaxis(array, lead, -1)
        tail: tuple[int, ...] = (dim, width)
        array = np.broadcast_to(array, (*array.shape[:-2], dim, array.shape[-1]))
        array = np.broadcast_to(array, (*array.shape[:-1], width))
    else:
        tail = (array.shape[-1] if dim is None else dim,)
        array = np.broadcast_to(array, (*array.shape[:-1], *tail))
    joint = [dict(zip(latents, array.shape, strict=False)).get(name, 1) for name, _ in states]
    order = [latents.index(name) for name, _ in states if name in latents]
    array = np.transpose(array, (*order, *range(lead, array.ndim)))
    array = array.reshape((*joint, *array.shape[lead:]))
    if any(n > 1 for n in joint):
        array = np.broadcast_to(array, (*(k for _, k in states), *array.shape[len(states) :]))
    own = array.shape[len(states) : array.ndim - len(tail)]
    if any(n > 1 for n in own):
        array = np.broadcast_to(array, (*array.shape[: len(states)], *batch, *tail))
    head = math.prod(array.shape[: len(states)])
    return array.reshape((head, math.prod(array.shape[len(states) : array.ndim - len(tail)]), *tail))


def _elements(touch: Touch, offset: int, batch: Sequence[int], dim: int, event_ndim: int) -> np.ndarray:
    """(n, D, width) element numbers."""
    numbers = element_numbers(touch, offset, range(len(batch) + event_ndim))
    if not event_ndim:
        numbers = numbers[..., None, :]
    return np.broadcast_to(numbers, (*batch, dim, numbers.shape[-1])).reshape(-1, dim, numbers.shape[-1])
