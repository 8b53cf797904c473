"""A block of Gaussian latents whose precisions are in proportion to conjugate latents: from its sites to the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from ._conjugate import lay_out_conjugate
from ._design import Design
from ._evidence import Conjugate, Factor, Gaussian, Scaled, Steps
from ._factors import Skeleton
from ._gaussian import lay_out
from ._model import Model
from ._types import Refusal

_FACTOR = "the factor of the precision"


def lay_out_scaled(
    model: Model,
    touching: Sequence[tuple[Factor, Skeleton]],
    others: Sequence[tuple[Factor, Skeleton]],
    gaussians: Sequence[str],
    conjugates: Sequence[str],
    designs: Mapping[str, Design],
    kept: Sequence[tuple[int, ...]],
    shapes: Sequence[tuple[int, ...]],
) -> Scaled:
    """Lay out the Gaussian latents at u = 1, and find which element of u each cell of them meets.

    Args:
        model: the model.
        touching: the sites that hold Gaussian latents; others: those that hold conjugate ones only.
        gaussians, conjugates: names of the latents.
        designs: of the touching sites, by name.
        kept: aligned shapes of the arguments of the touching sites.
        shapes: of the slots of the others.

    Raises:
        Refusal: the precision of some row of a cell is not in proportion to the same element as that of another.
    """
    laid = lay_out_conjugate(model, conjugates, others, shapes)
    scales = laid.full()
    assert isinstance(scales, Conjugate)
    if any(p.there is not None for p in scales.parts):
        raise Refusal(f"the latent {conjugates[0]!r} is masked, and {gaussians[0]!r} depends on it")
    starts = dict(zip(scales.names, np.cumsum([0, *(p.size for p in scales.parts)]).tolist(), strict=False))
    coordinates = []
    for _, skeleton in touching:
        entrance = skeleton.entrance
        if entrance is None:
            raise Refusal(
                f"the precision of site {skeleton.site.name!r} ({skeleton.site.distribution}), which holds "
                f"{skeleton.touches[0].latent!r}, is not in proportion to {conjugates[0]!r}: jointly the two are not "
                "conjugate"
            )
        coordinates.append({_FACTOR: (starts[entrance.latent] + entrance.element,)})
    # Each cell meets one element of u: what the layout proves of a discrete latent, here one of a single value.
    try:
        found = lay_out({n: model.avals[n].shape for n in gaussians}, {_FACTOR: (1, (scales.cells,))},
                        [f for f, _ in touching], [designs[s.site.name] for _, s in touching], coordinates,
                        kept)  # fmt: skip
    except Refusal as refusal:
        if _FACTOR not in str(refusal):
            raise
        raise Refusal(
            f"elements of {', '.join(map(repr, gaussians))} that are coupled with each other have precisions in "
            f"proportion to different elements of {', '.join(map(repr, conjugates))}: jointly they are not conjugate"
        ) from refusal
    gaussian = found.full()
    assert isinstance(gaussian, Gaussian)
    gaussian = replace(gaussian, latents=())
    rows, elements = _counts(gaussian)
    return Scaled(gaussian, scales, found.states[_FACTOR], rows - elements, elements)


def _counts(engine: Gaussian) -> tuple[Any, Any]:
    """Scalar rows and latent elements of every cell: (cells,) each."""
    rows, elements = np.zeros(engine.count), np.zeros(engine.count)
    for group, cells in zip(engine.groups, engine.cells, strict=True):
        times = np.bincount(group.kind, minlength=len(group.real)) if isinstance(group, Steps) else None
        own = np.zeros(len(np.asarray(group.number)))
        for piece in group.pieces:
            dim: int = engine.factors[piece.factor].family.dim  # type: ignore[union-attr]
            count = np.asarray(piece.count).sum(-1) * dim
            own = own + (count if times is None else times @ count)
        size = np.asarray(group.total if isinstance(group, Steps) else group.real.sum(-1))
        classes, members = np.nonzero(np.asarray(cells) >= 0)
        at = np.asarray(cells)[classes, members]
        rows[at], elements[at] = own[classes], size[classes]
    real = jnp.result_type(float)
    return np.asarray(rows, real), np.asarray(elements, real)
