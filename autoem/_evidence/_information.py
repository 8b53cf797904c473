"""One group of Gaussian cells in information form: normal equations, posterior, and expected second moments.

Where these equations lose too many digits, and the cells are few enough, orthogonal transformations take their place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._types import Array
from ._arrow import Arrow, ArrowSolution, arrow_posterior
from ._branches import either
from ._groups import Group, Piece, Solution, Terms, combined, row_terms
from ._orthogonal import can_be_orthogonal, enough, finite_cholesky, orthogonal

_LOG_2PI = math.log(2 * math.pi)


def _design(piece: Piece, phi: Array) -> Array:
    """J (Q, R, D, T)."""
    if not piece.touching:
        return jnp.zeros((*piece.kept.shape, 1, 1))
    return combined(piece.touching, phi, "qrj,jqrdt->qrdt")


def _residual(piece: Piece, phi: Array) -> Array:
    """r₀ (Q, n, R, D)."""
    return combined(piece.fixed, phi, "qrj,jqnrd->qnrd")


def _meet(piece: Piece, design: Array, mean: Array) -> Array:
    """J z for z (Q, n, S): (Q, n, R, D); also for a design with leading axes."""
    if piece.slots is None:
        return jnp.einsum("...qrds,qns->...qnrd", design, mean)
    picked = jax.vmap(lambda z, s: z[:, s])(mean, jnp.maximum(piece.slots, 0))
    return jnp.einsum("...qrdt,qnrdt->...qnrd", design, picked)


def _normal_equations(
    piece: Piece, design: Array, precision: Array, residual: Array, width: int, arrow: Arrow | None
) -> tuple[Any, Any]:
    """J' P J (Q, S, S), or an arrow's numbers (Q, size), and -J' P r₀ (Q, n, S)."""
    if piece.slots is None:
        weighted = jnp.einsum("qrde,qret->qrdt", precision, design)
        right = -jnp.einsum("qnrd,qrds->qns", residual, weighted)
        return jnp.einsum("qrds,qrdt->qst", design, weighted), right
    classes, rows, dim, touched = design.shape
    slots = jnp.where(piece.slots < 0, width, piece.slots).reshape(classes, rows, -1)
    pairs = jnp.einsum("qrdt,qrde,qreu->qrdteu", design, precision, design)
    pairs = pairs.reshape(classes, rows, dim * touched, dim * touched)
    at = jnp.arange(classes)[:, None, None, None]
    if arrow is None:
        matrix = jnp.zeros((classes, width + 1, width + 1), pairs.dtype)
        matrix = matrix.at[at, slots[..., :, None], slots[..., None, :]].add(pairs)[:, :width, :width]
    else:
        matrix = arrow.gathered(pairs, piece.slots.reshape(slots.shape))
    # Every coordinate of an event meets elements of its own: they go with the coordinate that the design has.
    terms = -jnp.einsum("qnrd,qrde,qret->qnret", residual, precision, design)
    cells = terms.shape[1]
    right = jnp.zeros((classes, cells, width + 1), terms.dtype)
    right = right.at[at, jnp.arange(cells)[:, None, None], slots[:, None]].add(terms.reshape(classes, cells, rows, -1))
    return matrix, right[..., :width]


def solve(group: Group, terms: Sequence[Terms]) -> tuple[Solution | ArrowSolution, Array, Array]:
    """Posterior, log evidence of every cell's data (Q, n), and log normalisers (Q,)."""
    width = group.real.shape[-1]
    matrix: Any = jnp.zeros(())
    right: Any = jnp.zeros((*group.valid.shape, width))
    rows, constant = [], jnp.sum(group.real, -1) * (_LOG_2PI / 2)
    for piece in group.pieces:
        phi, precision, log_det = row_terms(piece, terms)
        design, residual = _design(piece, phi), _residual(piece, phi)
        rows.append((precision, design, residual))
        constant = constant - jnp.sum(piece.count * (precision.shape[-1] * _LOG_2PI + log_det), -1) / 2
        if piece.touching:
            a, b = _normal_equations(piece, design, precision, residual, width, group.arrow)
            matrix, right = matrix + a, right + b
    alone = 1 - group.real  # a slot without an element is a standard normal by itself
    met = [own for piece, own in zip(group.pieces, rows, strict=True) if piece.touching]
    if group.arrow is not None:
        solution, log_det = arrow_posterior(group.arrow, matrix + group.arrow.diagonal(jnp.asarray(alone)), right)
        misfit = _misfit(group, rows, solution.mean)
    else:
        matrix = matrix + jnp.eye(width, dtype=right.dtype) * alone[:, None, :]
        rescued = bool(met) and can_be_orthogonal(group)
        solution, log_det = _posterior(matrix, right, rescued)
        misfit = _misfit(group, rows, solution.mean)
        if rescued:
            found = solution, misfit, log_det
            rest = [(design, residual) for _, design, residual in rows]
            solution, misfit, log_det = either(enough(matrix, solution), found, lambda: orthogonal(group, terms, rest))
    for piece, (precision, _, residual) in zip(group.pieces, rows, strict=True):
        if not piece.touching:
            misfit = misfit + _squares(residual, precision)
    return solution, -misfit / 2, constant - log_det / 2


def _squares(residual: Array, precision: Array) -> Array:
    """Weighted squares of residuals (Q, n, R, D), by cell: (Q, n)."""
    return jnp.einsum("qnrd,qrde,qnre->qn", residual, precision, residual)


def _misfit(group: Group, rows: Sequence[Any], mean: Array) -> Array:
    """Squared residuals at the mean of the rows that meet latents: (Q, n)."""
    total: Any = jnp.zeros(group.valid.shape)
    for piece, (precision, design, residual) in zip(group.pieces, rows, strict=True):
        if piece.touching:
            total = total + _squares(residual + _meet(piece, design, mean), precision)
    return total


def _posterior(matrix: Array, right: Array, rescued: bool) -> tuple[Solution, Array]:
    """The posterior of precision A (Q, S, S), and A × mean = right (Q, n, S); and log|A| (Q,)."""
    root, half = _factorise(matrix, rescued)
    covariance = jnp.einsum("qsi,qti->qst", half, half)
    mean = jnp.einsum("qns,qst->qnt", right, covariance)
    # One step of refinement: A⁻¹ in hand is only as good as A's condition.
    left = right - jnp.einsum("qns,qst->qnt", mean, matrix)
    solution = Solution(mean + jnp.einsum("qns,qst->qnt", left, covariance), root, half, covariance)
    return solution, 2 * solution.height


def _factorise(matrix: Array, finite: bool) -> tuple[Array, Array]:
    """Lower Cholesky factors of (Q, S, S) matrices, and their inverses transposed.

    See `finite_cholesky` for `finite`.
    """
    width = matrix.shape[-1]
    if width == 0:
        return matrix, matrix
    if width == 1:
        root = jnp.sqrt(matrix)
        return root, 1 / root
    root = finite_cholesky(matrix) if finite else jnp.linalg.cholesky(matrix)
    return root, jnp.swapaxes(_inverse(root), -1, -2)


def _inverse(root: Array) -> Array:
    eye = jnp.broadcast_to(jnp.eye(root.shape[-1], dtype=root.dtype), root.shape)
    return jax.scipy.linalg.solve_triangular(root, eye, lower=True)


def moments(
    group: Group, solution: Solution | ArrowSolution, weights: Array, number: Array, family: Any, piece: Piece
) -> Any:
    """(kept (Q·R,), count, moments) of one site's rows. `weights` (Q, n) of the cells, `number` (Q,) their sum."""
    width = 1 + family.width
    mean = solution.mean
    rho: list[Any] = [0.0] * width
    for first, a in piece.fixed:
        for j in range(a.shape[0]):
            rho[first + j] = rho[first + j] + a[j]
    spread: dict[int, Any] = {}
    for first, a in piece.touching:
        met = _meet(piece, a, mean)
        for j in range(a.shape[0]):
            rho[first + j] = rho[first + j] + met[j]
            spread[first + j] = spread.get(first + j, 0.0) + a[j]
    shape = (*group.valid.shape, *piece.kept.shape[1:], family.dim)
    stacked = jnp.stack([jnp.broadcast_to(r, shape) for r in rho])
    weighted = stacked * weights[..., None, None] * piece.weight[:, None, :, None]
    out = "adbe" if piece.alike else "qradbe"
    found = jnp.einsum(f"aqnrd,bqnre->{out}", weighted, stacked)
    if spread:
        at = np.asarray(sorted(spread))
        touching = jnp.stack([spread[j] for j in at])
        scale = (number[:, None] * piece.weight)[:, :, None, None]
        if isinstance(solution, Solution) and (piece.slots is None or can_be_orthogonal(group)):
            rooted = _rooted(piece.slots, touching, solution.half)
            extra = jnp.einsum(f"aqrds,bqres->{out}", rooted * scale, rooted)
        else:
            extra = _sparse_spread(piece.slots, touching * scale, touching, solution, out)
        index = np.ix_(at, np.arange(family.dim), at, np.arange(family.dim))
        found = found.at[index if piece.alike else (slice(None), slice(None), *index)].add(extra)
    count = piece.count * number[:, None]
    if piece.alike:
        return jnp.zeros(1, int), jnp.sum(count)[None], found[None]
    return piece.kept.reshape(-1), count.reshape(-1), found.reshape(-1, *found.shape[2:])


def _rooted(slots: Any, touching: Array, half: Array) -> Array:
    """What multiplies a standard normal vector in J (z - m): (parts, Q, R, D, S). Covariances would cancel earlier."""
    if slots is None:
        return jnp.einsum("aqrds,qst->aqrdt", touching, half)
    picked = jax.vmap(lambda h, s: h[s])(half, jnp.maximum(slots, 0))
    return jnp.einsum("aqrdt,qrdts->aqrds", jnp.where(slots >= 0, touching, 0.0), picked)


def _sparse_spread(slots: Any, scaled: Array, touching: Array, solution: Any, out: str) -> Array:
    classes, rows, dim, touched = slots.shape
    flat = jnp.maximum(slots, 0).reshape(classes, rows, dim * touched)
    row = jnp.arange(classes)[:, None, None, None]
    block = solution.between(row, flat[..., :, None], flat[..., None, :])
    # What meets nothing stands for slot 0, and what is not held of the covariance is NaN: neither may be multiplied.
    live = (slots >= 0).reshape(flat.shape)
    block = jnp.where(live[..., :, None] & live[..., None, :], block, 0.0)
    block = block.reshape(classes, rows, dim, touched, dim, touched)
    return jnp.einsum(f"aqrdt,qrdteu,bqreu->{out}", scaled, block, touching)
