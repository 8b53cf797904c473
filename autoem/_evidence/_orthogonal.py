"""Gaussian cells by orthogonal transformations, for where normal equations lose digits.

A = B'B of the whitened rows B has the square of B's condition. Where the diagonal of A⁻¹ is large for that of A
(noise that is nearly none somewhere), the sums in A have rounded away what the other rows say, and A may have no
Cholesky factor at all. B = QR keeps it: R is the factor of A, R⁻¹Q'y is the mean, and what Q leaves of y is the
residual. With rows sorted by size, Householder's method is stable row by row (Cox and Higham 1998).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._types import Array
from ._groups import Group, Solution, Terms
from ._steps import picked

_MOST = 10**7
"""Numbers that the whitened rows of a group may hold."""


def can_be_orthogonal(group: Group) -> bool:
    """Whether the whitened rows of a group, over all slots, are few enough to be held."""
    classes, width = group.real.shape
    rows = sum(_coordinates(piece) * piece.kept.shape[1] for piece in group.pieces)
    return group.arrow is None and width > 1 and classes * rows * width <= _MOST


def _coordinates(piece: Any) -> int:
    return max((a.shape[4] for _, a in piece.touching), default=0)


def enough(matrix: Array, solution: Solution) -> Array:
    """Whether a factorisation of A (Q, S, S) has kept two thirds of the digits that there are.

    What the sums in A have rounded away of an element, given all others, is its diagonal entry in A times that in A⁻¹.
    """
    both = jnp.diagonal(matrix, axis1=-2, axis2=-1) * jnp.diagonal(solution.covariance, axis1=-2, axis2=-1)
    return jnp.max(both) <= float(jnp.finfo(matrix.dtype).eps) ** (-1 / 3)


@jax.custom_jvp
def finite_cholesky(matrix: Array) -> Array:
    """Lower Cholesky factors of (Q, S, S) matrices; where there is none, what `enough` does not pass.

    NaN instead would reach the derivatives of what is not used.
    """
    root = jnp.linalg.cholesky(matrix)
    eps = float(jnp.finfo(matrix.dtype).eps)
    none = jnp.sqrt(jnp.diagonal(matrix, axis1=-2, axis2=-1))[..., None] * eps * jnp.eye(matrix.shape[-1])
    return jnp.where(jnp.all(jnp.isfinite(root), (-2, -1), keepdims=True), root, none)


@finite_cholesky.defjvp
def _differential(primals: Any, tangents: Any) -> tuple[Array, Array]:
    root = finite_cholesky(*primals)
    solve = jax.scipy.linalg.solve_triangular
    inner = solve(root, jnp.swapaxes(solve(root, tangents[0], lower=True), -1, -2), lower=True)
    return root, root @ (jnp.tril(inner) - jnp.eye(root.shape[-1], dtype=root.dtype) * inner / 2)


def orthogonal(group: Group, terms: Sequence[Terms], rows: Sequence[Any]) -> tuple[Solution, Array, Array]:
    """Posterior, squared whitened residuals of the rows that meet latents (Q, n), and log|A| (Q,).

    Args:
        group: the cells.
        terms: of the block's sites.
        rows: per piece, design (Q, R, D, T) and residual (Q, n, R, D).
    """
    width, cells = group.real.shape[-1], group.valid.shape[1]
    parts = [_whitened(piece, terms[piece.factor], width, cells, *own)
             for piece, own in zip(group.pieces, rows, strict=True) if piece.touching]  # fmt: skip
    alone = (1 - group.real)[..., None] * jnp.eye(width)  # a slot without an element is a standard normal by itself
    stack = jnp.concatenate([jnp.asarray(alone, parts[0][0].dtype), *(b for b, _ in parts)], 1)
    data = jnp.concatenate([jnp.zeros((*group.valid.shape, width), stack.dtype), *(y for _, y in parts)], -1)
    order = jnp.argsort(-jnp.max(jnp.abs(stack), -1), -1)
    turned, triangle = jnp.linalg.qr(jnp.take_along_axis(stack, order[..., None], -2))
    data = jnp.take_along_axis(data, order[:, None], -1)
    sign = jnp.where(jnp.diagonal(triangle, axis1=-2, axis2=-1) < 0, -1.0, 1.0).astype(triangle.dtype)
    turned, triangle = turned * sign[:, None], triangle * sign[..., None]
    right = jnp.einsum("qrs,qnr->qsn", turned, data)
    left = data - jnp.einsum("qrs,qsn->qnr", turned, right)
    mean = jnp.swapaxes(jax.scipy.linalg.solve_triangular(triangle, right), -1, -2)
    eye = jnp.broadcast_to(jnp.eye(width, dtype=triangle.dtype), triangle.shape)
    half = jax.scipy.linalg.solve_triangular(triangle, eye)
    solution = Solution(mean, jnp.swapaxes(triangle, -1, -2), half, jnp.einsum("qsi,qti->qst", half, half))
    return solution, jnp.sum(left**2, -1), 2 * solution.height


def _whitened(piece: Any, terms: Terms, width: int, cells: int, design: Array, residual: Array) -> tuple[Array, Array]:
    """Rows (Q, rows, S) and what they should be (Q, n, rows), both of unit variance."""
    if piece.slots is not None:
        classes, rows, dim, _ = design.shape
        at = jnp.where(piece.slots < 0, width, piece.slots)
        full = jnp.zeros((classes, rows, dim, width + 1), design.dtype)
        lead = jnp.arange(classes)[:, None, None, None], jnp.arange(rows)[:, None, None], jnp.arange(dim)[:, None]
        design = full.at[(*lead, at)].add(design)[..., :width]
    root = terms.whitening
    root = (
        jnp.broadcast_to(root[0], (*piece.kept.shape, *root.shape[1:])) if len(root) == 1 else picked(root, piece.kept)
    )
    root = root * jnp.sqrt(piece.weight)[..., None, None]
    design = jnp.einsum("qrde,qres->qrds", root, design)
    residual = jnp.einsum("qrde,qnre->qnrd", root, residual)
    residual = jnp.broadcast_to(residual, (len(design), cells, *design.shape[1:3]))
    return jnp.reshape(design, (len(design), -1, width)), -jnp.reshape(residual, (*residual.shape[:2], -1))
