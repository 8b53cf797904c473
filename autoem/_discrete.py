"""A block of discrete latents: from its sites to the engine that sums them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ._evidence import Enumeration, Factor, Layout, chunk_for, products
from ._factors import Skeleton, as_floats
from ._links import Coordinates
from ._model import Model
from ._types import Refusal, StaticArray


class Union:
    """Disjoint sets of names."""

    def __init__(self) -> None:
        self.parent: dict[Any, Any] = {}

    def find(self, item: Any) -> Any:
        """What stands for the item's set."""
        self.parent.setdefault(item, item)
        while self.parent[item] != item:
            item = self.parent[item]
        return item

    def join(self, first: Any, second: Any) -> None:
        """Make the sets of two items one."""
        self.parent[self.find(second)] = self.find(first)


def _identity_axis(coordinate: np.ndarray, size: int) -> int | None:
    """The axis along which a coordinate just counts 0, 1, ..., size - 1."""
    varying = [a for a, n in enumerate(coordinate.shape) if n > 1]
    if len(varying) == 1 and coordinate.size == size and np.array_equal(coordinate.reshape(-1), np.arange(size)):
        return varying[0]
    return None


def batch_shape(model: Model, read: str) -> tuple[int, ...]:
    """Of a read of a discrete latent."""
    shape = model.reads[read].shape
    return shape[: len(shape) - (model.support(read).ndim - 1)]


def evidence_factor(
    model: Model, names: Sequence[str], states: Mapping[str, np.ndarray], cells: int
) -> tuple[Factor, Skeleton, tuple[int, ...]]:
    """The evidence of cells of continuous latents, state by state, as a factor of the discrete ones.

    Args:
        model: the model.
        names: of the continuous latents.
        states: per discrete latent, the flat number of its element that each cell meets: (cells,), -1 for none.
        cells: their number.

    Returns:
        The factor, how it enters, and the shape of its slots.
    """
    name = "evidence of " + ", ".join(names)
    members = tuple(states)
    coordinates: dict[str, Coordinates] = {}
    for latent in members:
        shape = batch_shape(model, latent)
        flat = states[latent]
        coordinates[latent] = tuple(
            np.where(flat < 0, -1, c) for c in np.unravel_index(np.maximum(flat, 0), shape or (1,))
        )
    factor = Factor(name, members, (cells,), (0,), False, None, None, {}, None, None)
    skeleton = Skeleton(next(iter(model.sites.values())), False, "", members, coordinates)
    sizes = tuple(len(model.support(n)) for n in members)
    return factor, skeleton, (*sizes, cells, 1)


def lay_out_discrete(
    model: Model, relevant: Sequence[tuple[Factor, Skeleton]], members: Sequence[str], shapes: Any, extra: Any = None
) -> Enumeration:
    """Name the dimensions that the latents' axes and the factors' kept axes share, and check that all is tractable.

    Args:
        model: the model.
        relevant: the factors, and how their sites enter.
        members: the latents.
        shapes: of the factors' slots; None where the block is not to be taken in chunks.
        extra: one more factor, from `evidence_factor`.

    Raises:
        Refusal: no order of elimination is tractable.
    """
    if extra is not None:
        relevant = [*relevant, extra[:2]]
        shapes = None if shapes is None else [*shapes, extra[2]]
    same = Union()
    gathers: list[dict[str, Any]] = []
    for factor, skeleton in relevant:
        indexed = {}
        for name in factor.latents:
            shape = batch_shape(model, name)
            axes = [a for a, n in enumerate(shape) if n > 1]
            coords: list[Any] = [skeleton.coordinates[name][a] for a in axes]
            identity = [_identity_axis(c, shape[a]) for c, a in zip(coords, axes, strict=True)]
            for axis, position in zip(axes, identity, strict=True):
                if position is not None:
                    same.join((name, axis), ("site " + factor.site, position))
            if any(p is None for p in identity):
                flat = np.zeros((1,) * len(factor.batch_shape), int)
                for c, a in zip(coords, axes, strict=True):
                    flat = np.where((c < 0) | (flat < 0), -1, flat * shape[a] + c)
                indexed[name] = flat
        gathers.append(indexed)

    def named(item: Any) -> str:
        root = same.find(item)
        return f"{root[0]}.{root[1]}"

    sizes: dict[str, int] = {}
    dims, gathered = [], []
    for (factor, _), indexed in zip(relevant, gathers, strict=True):
        names = tuple(named(("site " + factor.site, a)) for a in factor.keep)
        if len(set(names)) < len(names):
            raise Refusal(
                f"Site {factor.site!r} runs twice along one dimension of the latents "
                f"{', '.join(map(repr, factor.latents))}: the exact sum over them is not tractable."
            )
        sizes.update(zip(names, (factor.batch_shape[a] for a in factor.keep), strict=True))
        dims.append(names)
        gathered.append(tuple((n, StaticArray(np.transpose(i, _kept_last(i, factor.keep)).reshape(
            [i.shape[a] for a in factor.keep]))) for n, i in indexed.items()))  # fmt: skip
    latents, scales = [], {}
    for name in members:
        shape = batch_shape(model, name)
        axes = [a for a, n in enumerate(shape) if n > 1]
        own = tuple(named((name, a)) for a in axes)
        sizes.update(zip(own, (shape[a] for a in axes), strict=True))
        latents.append((name, len(model.support(name)), own))
        scale = _latent_scale(model, name)
        if scale is not None:
            scales[name] = scale
    layout = Layout(tuple(dims), tuple(sorted(sizes.items())), tuple(latents))
    factors = tuple(f for f, _ in relevant)
    together = () if shapes is None else products(factors, dims, gathered, shapes)
    if shapes is not None and not any(gathered):
        layout = Layout(layout.dims, layout.sizes, layout.latents, chunk_for(factors, layout, shapes, together))
    evidence = Enumeration(factors, scales, tuple(gathered), layout, together)
    evidence.plan()
    return evidence


def _kept_last(index: np.ndarray, keep: Sequence[int]) -> list[int]:
    return [a for a in range(index.ndim) if a not in keep] + list(keep)


def _latent_scale(model: Model, name: str) -> Any:
    """A latent's own scale over its axes longer than 1, or None."""
    number = model.outputs[name]["scale"]
    if number is None:
        return None
    scale = as_floats(model.program.known[number])
    shape = batch_shape(model, name)
    scale = scale.reshape([1] * (len(shape) - scale.ndim) + list(scale.shape))
    return scale.squeeze(tuple(a for a, n in enumerate(shape) if n == 1))
