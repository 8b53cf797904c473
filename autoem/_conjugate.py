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
from ._family import AbstractKernel, HalfLine, LatentArgument
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
    met = {n: np.full(sum(sizes.values()), -1) for n in discrete}
    kernels = {}
    for index, ((factor, skeleton), shape) in enumerate(zip(relevant, shapes, strict=True)):
        entrance = skeleton.entrance
        assert entrance is not None
        kernels[entrance.latent] = entrance.kernel
        parts[entrance.latent].append(_rows(index, factor, entrance, shape, states, sizes[entrance.latent]))
        cells = offsets[entrance.latent] + _spread(entrance.element, factor.batch_shape)
        for name in factor.latents:
            _meet(model, met[name], name, skeleton, cells, entrance.latent)
    _require_data(parts, kernels, sizes)
    engine = Conjugate(
        tuple(Part(n, kernels[n], sizes[n], tuple(rows)) for n, rows in parts.items()),
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
        if np.any(np.asarray(own.statistics)[:, 2]):
            continue
        met = np.zeros(sizes[name], bool)
        for rows in (r for r in parts[name] if not r.own and is_concrete(r.statistics)):
            weight = np.abs(np.asarray(rows.statistics)).max((0, 2)) > 0
            met[np.arange(sizes[name])[weight] if rows.element is None else np.asarray(rows.element)[weight]] = True
        if not met.all():
            raise Refusal(f"An element of the latent {name!r} meets no datum: its density is exponential, that of the "
                          "others truncated normal.")  # fmt: skip


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
        base = jnp.full((1, len(element)), entrance.base)
        matrix = np.asarray(entrance.matrix, jnp.result_type(float))
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
        lead = len(factor.latents)
        full = jnp.broadcast_to(array, (*array.shape[:lead], *factor.batch_shape, array.shape[-1]))
        flat = jnp.reshape(full, (*full.shape[:lead], -1, full.shape[-1]))
        flat = over_states(flat, factor.latents, states)
        return jax.vmap(lambda a: jax.ops.segment_sum(a, row, count))(flat)

    return pooled(features), pooled(base[..., None])[..., 0]
