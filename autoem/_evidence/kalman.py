"""Gaussian latents along a chain: elimination level by level, by orthogonal transformations of whitened rows.

With the rows of step t whitened, y_t = B_t (z_{t-1}, z_t) + noise of unit variance, and M_{t-1} z_{t-1} = d_{t-1} +
noise what the steps before say of z_{t-1}, a QR decomposition leaves

    [ M_{t-1}  0  | d_{t-1} ]       [ R_t  E_t | δ_t ]
    [    B_t      |   y_t   ]  →    [  0   M_t | d_t ]

so z_{t-1} = R_t⁻¹ (δ_t - E_t z_t + noise): the square-root information filter and smoother (Bierman 1977, Paige and
Saunders 1977). Nothing is squared, so a nearly deterministic step costs no digits. M, R and E do not depend on the
data: they are computed once for all cells of a class, and along a run of steps with the same rows only until M_t
repeats itself. From there on, only means move.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._types import Array
from ._groups import Terms, combined, row_terms
from ._step_moments import each_run, spread_moments, step_moments, times_of
from ._steps import Factors, Path, StepPiece, Steps, neighbours, picked
from ._sweeps import backward, eliminated, forward, half_log_det, last_root, roots

_LOG_2PI = math.log(2 * math.pi)


def e_step(
    group: Steps, terms: Sequence[Terms], weights: Array, number: Array, widths: Sequence[int]
) -> tuple[Array, Array, list[tuple[Array, Array, Array]]]:
    """Log evidence of every cell's data (Q, n), log normalisers (Q,), and what `step_moments` finds.

    Args:
        weights: (Q, n) of the cells; number: (Q,) their sum.
        widths: per piece, number of coefficients.
    """
    group = _as_arrays(group)
    sizes = [terms[piece.factor].phi.shape[0] for piece in group.pieces]

    def found(factors: Factors) -> Any:
        return half_log_det(factors), spread_moments(group, factors, number, widths, sizes)

    means, quadratic, (height, spread) = _smoothed(group, terms, found)
    moments = step_moments(group, means, spread, weights, number, sizes)
    return quadratic, _constant(group, terms) - height, moments


def evidence(group: Steps, terms: Sequence[Terms]) -> tuple[Array, Array]:
    """The first two of `e_step`."""
    group = _as_arrays(group)
    _, quadratic, height = _smoothed(group, terms, half_log_det)
    return quadratic, _constant(group, terms) - height


def _as_arrays(group: Steps) -> Steps:
    """JAX's arrays for NumPy's, which a traced index cannot pick from."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, int) else jnp.asarray(leaf), group)


def _smoothed(group: Steps, terms: Sequence[Terms], function: Callable[[Factors], Any]) -> Any:
    """Means as of `backward`, the quadratic part of the log evidence (Q, n), and a function of the factors.

    What needs the factors is compiled twice where there may be too many of them; all else follows from the means.
    """
    design, data = _whitened(group, terms)

    def after(factors: Factors) -> Any:
        return backward(factors, *forward(factors, data)), function(factors)

    if group.capacity >= group.length:
        means, found = after(eliminated(group, design, group.length)[0])
    else:
        factors, enough = eliminated(group, design, group.capacity)
        means, found = jax.lax.cond(
            enough, lambda: after(factors), lambda: after(eliminated(group, design, group.length)[0])
        )
    left = [_misfit(group, neighbours(means), design, data, kind, steps) for kind, steps in each_run(group)]
    return means, -functools.reduce(jnp.add, left) / 2, found


def _misfit(group: Steps, pairs: Array, design: Array, data: Array, kind: int | None, steps: Any) -> Array:
    """Sum of squared whitened residuals at the means: (Q, n)."""
    if kind is not None:
        met = _times_matrix(pairs[steps], design[kind])
    else:
        met = jnp.einsum("tqrs,tqns->tqnr", picked(design, picked(group.kind, steps)), pairs[steps])
    return jnp.einsum("tqnr->qn", (met - data[steps]) ** 2)


def _times_matrix(vectors: Array, matrix: Array) -> Array:
    """(T, Q, n, S) times the transposes of (Q, R, S). A single class is one product of matrices."""
    if matrix.shape[0] > 1:
        return jnp.einsum("qrs,tqns->tqnr", matrix, vectors)
    flat = jnp.reshape(vectors, (-1, vectors.shape[-1])) @ matrix[0].T
    return jnp.reshape(flat, (*vectors.shape[:-1], matrix.shape[1]))


def _constant(group: Steps, terms: Sequence[Terms]) -> Array:
    """Log normalisers of the rows, and of the latents' density but for its determinant: (Q,)."""
    constant: Any = group.total * (_LOG_2PI / 2)
    times = times_of(group)
    for piece in group.pieces:
        _, precision, log_det = row_terms(piece, terms)
        normaliser = jnp.sum(piece.count * (precision.shape[-1] * _LOG_2PI + log_det), -1)
        constant = constant - jnp.einsum("c,cq->q", times, normaliser) / 2
    return constant


def solve_steps(group: Steps, terms: Sequence[Terms]) -> Path:
    """The posterior level by level."""
    group = _as_arrays(group)
    design, data = _whitened(group, terms)
    factors, _ = eliminated(group, design, group.length)
    return _path(factors, backward(factors, *forward(factors, data)))


def _whitened(group: Steps, terms: Sequence[Terms]) -> tuple[Array, Array]:
    """B (C, Q, rows, 2S) and y (T, Q, n, rows)."""
    designs, data = [], []
    length, (classes, cells) = group.length, group.valid.shape
    for piece in group.pieces:
        own = terms[piece.factor]
        phi = row_terms(piece, terms)[0]
        root = own.precision**0.5 if own.precision.shape[-1] == 1 else jnp.linalg.cholesky(own.precision)
        scale = jnp.sqrt(piece.weight)
        dim = root.shape[-1]
        touched: Any = jnp.zeros((*piece.kept.shape, dim, 2 * group.width))
        if piece.touching:
            touched = touched + combined(piece.touching, phi, "cqrj,jcqrds->cqrds")
        if own.phi.shape[0] == 1:
            touched = jnp.einsum("ed,cqres->cqrds", root[0], touched)
        else:
            touched = jnp.einsum("cqred,cqres->cqrds", picked(root, piece.kept), touched)
        residual = _residual(group, piece, own.phi, root)
        designs.append((touched * scale[..., None, None]).reshape(*scale.shape[:2], -1, 2 * group.width))
        if piece.picked is None:
            residual = residual * picked(scale, group.kind)[:, :, None, :, None]
        residual = jnp.broadcast_to(residual, (length, classes, cells, *residual.shape[-2:]))
        data.append(-residual.reshape(length, classes, cells, -1))
    return jnp.concatenate(designs, 2), jnp.concatenate(data, -1)


def _residual(group: Steps, piece: StepPiece, phi: Array, root: Array) -> Array:
    """Whitened residuals at latents of zero, without their weights (picked pieces hold these): (T, Q, n, R, D)."""
    rows, dim = piece.kept.shape[-1], root.shape[-1]
    if piece.picked is None and phi.shape[0] > 1:
        kept = picked(piece.kept, group.kind)
        spec, whiten = "tqrj,jtqnrd->tqnrd", "tqred,tqnre->tqnrd"
    else:  # nothing to pick for every step
        kept = jnp.zeros(rows, int) if piece.picked is None else piece.picked.kept
        spec, whiten = "rj,jtqnrd->tqnrd", "red,tqnre->tqnrd"
    own = jnp.zeros((1, 1, 1, rows, dim)) + combined(piece.fixed, picked(phi, kept), spec)
    if dim == 1:
        scale = picked(root, kept)[..., 0]  # (R, 1), or (T, Q, R, 1)
        return own * (scale if scale.ndim == 2 else scale[:, :, None])
    return jnp.einsum(whiten, picked(root, kept), own)


def _path(factors: Factors, means: Array) -> Path:
    """The posterior level by level."""
    last = last_root(factors)

    def step(root: Array, index: Any) -> Any:
        _, before = roots(factors, index, root)
        return before, before

    _, found = jax.lax.scan(step, last, factors.index, reverse=True)
    found = jnp.moveaxis(jnp.concatenate([found[1:], last[None]]), 0, 1)
    covariance = jnp.einsum("qtij,qtkj->qtik", found, found)
    half, gain = (jnp.moveaxis(picked(a, factors.index), 0, 1) for a in (factors.half, factors.gain))
    half = jnp.concatenate([half[:, 1:], last[:, None]], 1)
    gain = jnp.concatenate([gain[:, 1:], jnp.zeros_like(last[:, None])], 1)
    after = jnp.concatenate([covariance[:, 1:], covariance[:, :1]], 1)
    lagged = -jnp.einsum("qtij,qtjk->qtik", gain, after)
    mean = jnp.moveaxis(means[1:], 0, 2)
    mean = mean.reshape(*mean.shape[:2], -1)
    return Path(mean, half, gain, covariance, lagged, half_log_det(factors))


def draw_path(path: Path, noise: Array) -> Array:
    """A joint draw (Q, n, T · S) from standard normal noise of the same shape.

    `half` and `gain` are those of a class (Q, T, S, S), or of every cell (Q, n, T, S, S).
    """
    width = path.half.shape[-1]
    shape = noise.shape[:2]
    half, gain = (a if a.ndim == 5 else a[:, None] for a in (path.half, path.gain))
    half, gain = (jnp.moveaxis(jnp.broadcast_to(a, (*shape, *a.shape[2:])), 2, 0) for a in (half, gain))
    own = jnp.moveaxis(noise.reshape(*shape, -1, width), 2, 0)

    def step(after: Array, given: Any) -> Any:
        half, gain, own = given
        here = jnp.einsum("qnij,qnj->qni", half, own) - jnp.einsum("qnij,qnj->qni", gain, after)
        return here, here

    _, drawn = jax.lax.scan(step, jnp.zeros_like(own[0]), (half, gain, own), reverse=True)
    return path.mean + jnp.moveaxis(drawn, 0, 2).reshape(noise.shape)
