"""A block of conjugate latents: from its sites to the engine that integrates it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._conjugacy import Entrance
from ._evidence import Conjugate, Factor, Part, Rows, over_states
from ._factors import Skeleton
from ._family import AbstractKernel, HalfLine, LatentArgument, PowerLaw, positive_bounds
from ._laid import Laid
from ._links import flat_index, is_concrete
from ._model import Model
from ._types import Array, Refusal


def lay_out_conjugate(
    model: Model,
    names: Sequence[str],
    relevant: Sequence[tuple[Factor, Skeleton]],
    shapes: Sequence[tuple[int, ...]],
) -> Laid:
    """Add up the rows that meet the same element of a latent and of the slots.

    Args:
        model: the model.
        names: of the block's conjugate latents.
        relevant: its sites.
        shapes: of their slots.

    Raises:
        Refusal: an element of a latent meets several elements of one discrete latent.
    """
    discrete = [n for n in model.axes if any(n in f.latents for f, _ in relevant)]
    states = tuple((n, len(model.support(n))) for n in discrete)
    sizes = {n: math.prod(model.sites[n].batch_shape) for n in names}
    offsets = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    parts: dict[str, list[Rows]] = {n: [] for n in names}
    bounds: dict[str, Any] = {}
    met = {n: np.full(sum(sizes.values()), -1) for n in discrete}
    kernels = {}
    for index, ((factor, skeleton), shape) in enumerate(zip(relevant, shapes, strict=True)):
        entrance = skeleton.entrance
        assert entrance is not None
        kernels[entrance.latent] = entrance.kernel
        parts[entrance.latent].append(_rows(index, factor, entrance, shape, states, sizes[entrance.latent]))
        if isinstance(entrance.kernel, PowerLaw):
            before = bounds.get(entrance.latent)
            bounds[entrance.latent] = _narrowed(before, factor, entrance, skeleton, states, sizes[entrance.latent])
        cells = offsets[entrance.latent] + _spread(entrance.element, factor.batch_shape)
        for name in factor.latents:
            _meet(model, met[name], name, skeleton, cells, entrance.latent)
    _require_data(parts, kernels, sizes)
    there = {s.entrance.latent: s.entrance.there for _, s in relevant if s.entrance and s.entrance.there is not None}
    _require_density(parts, there)
    engine = Conjugate(
        tuple(Part(n, kernels[n], sizes[n], tuple(rows), bounds.get(n), there.get(n)) for n, rows in parts.items()),
        tuple(f for f, _ in relevant),
        states,
    )
    return Laid(engine, lambda: engine, engine.cells, met)


def _require_data(parts: dict[str, list[Rows]], kernels: dict[str, AbstractKernel], sizes: dict[str, int]) -> None:
    """An exponential prior is a truncated normal only where there is a datum: without, its square has no coefficient.

    Raises:
        Refusal: an element of such a latent meets no datum.
    """
    for name, kernel in kernels.items():
        if not isinstance(kernel, HalfLine):
            continue
        own = next(rows for rows in parts[name] if rows.own)
        if np.any(np.asarray(own.statistics)[..., 2]):
            continue
        if not _with_data(parts[name], sizes[name]).all():
            raise Refusal(f"An element of the latent {name!r} meets no datum: its density is exponential, that of the "
                          "others truncated normal.")  # fmt: skip


def _require_density(parts: dict[str, list[Rows]], there: dict[str, np.ndarray]) -> None:
    """An element that is masked out has no density: data that depend on it have no probability.

    Raises:
        Refusal: there are such data, or they are traced, so that nobody knows.
    """
    for name, own in there.items():
        if not own.all() and not all(is_concrete(r.statistics) for r in parts[name]):
            raise Refusal(f"The latent {name!r} is masked, and the data are traced (jit or vmap over them): which of "
                          "them meet an element that is masked out is hidden. Close over the data.")  # fmt: skip
        bare = _with_data(parts[name], len(own)) & ~own
        if bare.any():
            raise Refusal(f"Element {int(np.argmax(bare))} of the latent {name!r} is masked out, so that it has no "
                          "density, and there are data that depend on it. Mask these, too.")  # fmt: skip


def _with_data(parts: list[Rows], size: int) -> np.ndarray:
    """(size,) which elements of a latent meet a datum of weight."""
    met = np.zeros(size, bool)
    for rows in (r for r in parts if not r.own and is_concrete(r.statistics)):
        weight = np.abs(np.asarray(rows.statistics)).max((0, 2)) > 0
        met[np.arange(size)[weight] if rows.element is None else np.asarray(rows.element)[weight]] = True
    return met


def _spread(compact: np.ndarray, batch: Sequence[int]) -> np.ndarray:
    """A compact array over the batch axes, flat: (rows,)."""
    return np.broadcast_to(compact, batch).reshape(-1)


def _meet(model: Model, own: np.ndarray, name: str, skeleton: Skeleton, cells: np.ndarray, latent: str) -> None:
    """Note which element of a discrete latent each cell meets in one site."""
    flat = flat_index(skeleton.coordinates[name], model.sites[name].batch_shape)
    assert flat is not None
    state = _spread(flat, skeleton.site.batch_shape)
    before = own[cells]
    np.maximum.at(own, cells, state)
    if np.any((state >= 0) & ((state != own[cells]) | ((before >= 0) & (state != before)))):
        raise Refusal(
            f"An element of the latent {latent!r} meets several elements of {name!r} in site {skeleton.site.name!r}: "
            "their joint states are too many to sum exactly."
        )


def _rows(
    index: int, factor: Factor, entrance: Entrance, shape: tuple[int, ...], states: tuple[tuple[str, int], ...],
    size: int,
) -> Rows:  # fmt: skip
    """One site's rows, added up; `size` is the number of the latent's elements."""
    lead = len(factor.latents)
    kept_shape = shape[lead:-1]
    count = math.prod(kept_shape)
    kept = _spread(np.arange(count).reshape(kept_shape), factor.batch_shape)
    element = _spread(entrance.element, factor.batch_shape)
    if entrance.family is None:
        matrix, base = (np.asarray(a, jnp.result_type(float)) for a in (entrance.matrix, entrance.base))
        return Rows(index, matrix, base, None if count == 1 else kept, None, True)
    pairs, row = np.unique(element * count + kept, return_inverse=True)
    statistics, base = _added_up(factor, row.reshape(-1), len(pairs), states)
    element, kept = pairs // count, pairs % count
    aligned = np.array_equal(element, np.arange(size))
    return Rows(
        index,
        statistics,
        base,
        None if count == 1 else kept,
        None if aligned else element,
        False,
        entrance.columns,
    )


def _added_up(factor: Factor, row: np.ndarray, count: int, states: tuple[tuple[str, int], ...]) -> tuple[Any, Any]:
    """Weighted statistics of the data (L or 1, pairs, F) and log base measure (L or 1, pairs)."""
    family = factor.family
    assert isinstance(family, LatentArgument) and factor.value is not None
    features = family.inner.statistics(factor.value, factor.constants)
    if "coefficient" in factor.constants:
        features = family.scaled(features, factor.constants["coefficient"])
    base = family.inner.log_base(factor.value, factor.constants)
    if factor.weight is not None:
        features, base = features * factor.weight[..., None], base * factor.weight
    if factor.offset is not None:
        base = base + factor.offset

    def pooled(array: Array) -> Array:
        flat = _by_state(factor, array, states)
        return jax.vmap(lambda a: jax.ops.segment_sum(a, row, count))(flat)

    return pooled(features), pooled(base[..., None])[..., 0]


def _by_state(factor: Factor, array: Array, states: tuple[tuple[str, int], ...]) -> Array:
    """An array (latents..., batch..., F) of a site, for every joint state and row: (L or 1, rows, F)."""
    lead = len(factor.latents)
    full = jnp.broadcast_to(array, (*array.shape[:lead], *factor.batch_shape, array.shape[-1]))
    return over_states(jnp.reshape(full, (*full.shape[:lead], -1, full.shape[-1])), factor.latents, states)


def _narrowed(
    bounds: Any, factor: Factor, entrance: Entrance, skeleton: Skeleton, states: tuple[tuple[str, int], ...], size: int
) -> Any:
    """Bounds (L or 1, size, 2) of a power law: those of its own support, or as the data of one more site move them.

    Raises:
        Refusal: the latent is an end of that site's support times what is no positive number.
    """
    if entrance.family is None:
        found = positive_bounds(skeleton.site.constraint)
        assert found is not None
        own = np.stack([_spread(b, factor.batch_shape) for b in found], -1)[None].astype(jnp.result_type(float))
        return own if bounds is None else _closer(bounds, own)
    times = factor.constants[entrance.family.argument]
    if not is_concrete(times) or np.any(np.asarray(times) <= 0):
        raise Refusal(f"The support of site {factor.site!r} ends at {entrance.latent!r} times what is not known to be "
                      "positive.")  # fmt: skip
    assert factor.value is not None
    found, side = entrance.family.bound(factor.value, times, factor.constants)
    nothing = -side * jnp.inf
    if factor.weight is not None:
        found = jnp.where(factor.weight > 0, found, nothing)
    element = _spread(entrance.element, factor.batch_shape)
    flat = _by_state(factor, found[..., None], states)[..., 0]
    extreme = jax.ops.segment_max if side > 0 else jax.ops.segment_min
    met = jax.vmap(lambda a: extreme(a, element, size))(flat)
    free = jnp.full_like(met, jnp.inf if side > 0 else -jnp.inf)
    moved = jnp.stack([met, free] if side > 0 else [free, met], -1)
    return moved if bounds is None else _closer(bounds, moved)


def _closer(first: Any, second: Any) -> Any:
    """The closer of two pairs of bounds: (..., 2)."""
    return jnp.stack([jnp.maximum(first[..., 0], second[..., 0]), jnp.minimum(first[..., 1], second[..., 1])], -1)
