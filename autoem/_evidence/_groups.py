"""What the Gaussian engine works on: cells of latents that are coupled, grouped by size, classed by design."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array, Leaf
from ._arrow import Arrow
from ._steps import picked


class Piece(eqx.Module):
    """One site's rows in a group of Q classes of n cells with R rows of length D each, L joint discrete states.

    Attributes:
        factor: index of the site's factor in the block.
        fixed: (first coefficient, array (J, L, Q, n, R, D)) pairs: what is free of latents.
        touching: (first coefficient, array (J, L, Q, R, D, T)) pairs: what multiplies the elements that a row meets.
        slots: (Q, R, D, T) positions of those elements, -1 for none; None where T runs over all slots in order.
        kept: (Q, R) flat index into the arguments' batch axes.
        weight, count: (Q, R) multiply the squared residual and the log normaliser.
        alike: all rows have the same arguments.
    """

    factor: int = eqx.field(static=True)
    fixed: tuple[tuple[int, Leaf], ...]
    touching: tuple[tuple[int, Leaf], ...]
    slots: Leaf | None
    kept: Leaf
    weight: Leaf
    count: Leaf
    alike: bool = eqx.field(static=True)


class Group(eqx.Module):
    """Cells of similar size: Q classes of n cells with S slots.

    Attributes:
        pieces: the rows, site by site.
        real: (Q, S) which slots hold an element.
        number: (Q,) cells per class.
        valid: (Q, n) 1 where there is a cell (or a compressed row of cells).
        arrow: where the precision is one, its shape; else it is dense.
    """

    pieces: tuple[Piece, ...]
    real: Leaf
    number: Leaf
    valid: Leaf
    arrow: Arrow | None = None


class Terms(eqx.Module):
    """A site's arguments as the engine wants them: K kept elements.

    Attributes:
        phi: (K, 1 + width) coefficients, the first of them 1.
        precision: (K, D, D); log_det: (K,) of its inverse.
        whitening: (K, D, D) W with W'W the precision, which lacks digits that W has where it is almost singular.
    """

    phi: Leaf
    precision: Leaf
    log_det: Leaf
    whitening: Leaf


def row_terms(piece: Any, terms: Sequence[Terms]) -> tuple[Array, Array, Array]:
    """φ (..., R, 1 + width), weighted P (..., R, D, D) and log|P⁻¹| (..., R) of every row of a piece."""
    own = terms[piece.factor]
    if own.phi.shape[0] == 1:
        shape = piece.kept.shape
        phi, precision, log_det = (jnp.broadcast_to(a[0], (*shape, *a.shape[1:]))
                                   for a in (own.phi, own.precision, own.log_det))  # fmt: skip
    else:
        phi, precision, log_det = (picked(a, piece.kept) for a in (own.phi, own.precision, own.log_det))
    return phi, precision * piece.weight[..., None, None], log_det


def combined(parts: Any, phi: Array, spec: str) -> Array:
    """Σ_j φ_j part_j."""
    return functools.reduce(
        jnp.add, [jnp.einsum(spec, phi[..., first : first + a.shape[0]], a) for first, a in parts], jnp.zeros(())
    )


class Solution(eqx.Module):
    """The posterior of a group.

    Attributes:
        mean: (Q, n, S).
        root: (Q, S, S) the lower Cholesky factor of A.
        half: (Q, S, S) its inverse, transposed: A⁻¹ = half half'.
        covariance: (Q, S, S) A⁻¹.
    """

    mean: Leaf
    root: Leaf
    half: Leaf
    covariance: Leaf

    def between(self, row: Any, first: Array, second: Array) -> Array:
        """Covariances of slots, by class."""
        return self.covariance[row, first, second]

    def drawn(self, noise: Array) -> Array:
        """A draw from standard normal noise, both (Q, n, S)."""
        root = self.root if self.root.ndim == 4 else self.root[:, None]
        step = noise[..., None]
        if noise.shape[-1]:
            full = jnp.broadcast_to(root, (*noise.shape, noise.shape[-1]))
            step = jax.scipy.linalg.solve_triangular(full, step, lower=True, trans=1)
        return self.mean + step[..., 0]

    @property
    def height(self) -> Array:
        """Half the log determinant of the precision."""
        return jnp.sum(jnp.log(jnp.diagonal(self.root, axis1=-2, axis2=-1)), -1)


class Place(eqx.Module):
    """Where a latent's elements are, arrays (elements,).

    Attributes:
        group, row, cell, slot: group, class within it, cell of the class, slot of the cell.
        number: of the cell.
        used: whether any density holds the element.
    """

    group: Leaf
    row: Leaf
    cell: Leaf
    slot: Leaf
    number: Leaf
    used: Leaf

    def pick(self, arrays: Sequence[Array]) -> Array:
        """Elements of per-group arrays (Q, n, S): (elements,); NaN where no density holds the element."""
        out = jnp.full(self.slot.shape, jnp.nan)
        for index, array in enumerate(arrays):
            own = array[
                jnp.minimum(self.row, array.shape[0] - 1),
                jnp.minimum(self.cell, array.shape[1] - 1),
                jnp.minimum(self.slot, array.shape[2] - 1),
            ] if array.shape[2] else out  # fmt: skip
            out = jnp.where((self.group == index) & self.used, own, out)
        return out

    def pick_pairs(self, solutions: Sequence[Any], width: int) -> Array:
        """Covariances within runs of `width` elements, zero between cells: (runs, width, width).

        Args:
            solutions: per group.
            width: of a run.
        """
        slot, row, group, number = (jnp.reshape(a, (-1, width)) for a in (self.slot, self.row, self.group, self.number))
        out = jnp.full((*slot.shape, width), jnp.nan)
        for index, solution in enumerate(solutions):
            classes, _, size = solution.mean.shape
            if not size:
                continue
            at, row_at = jnp.minimum(slot, size - 1), jnp.minimum(row, classes - 1)[..., None]
            own = solution.between(row_at, at[:, :, None], at[:, None, :])
            out = jnp.where((group == index)[..., None], own, out)
        return jnp.where(number[:, :, None] == number[:, None, :], out, 0.0)
