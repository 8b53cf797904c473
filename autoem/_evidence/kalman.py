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
from ._steps import Factors, Path, Smoothed, StepPiece, Steps

_LOG_2PI = math.log(2 * math.pi)


def e_step(
    group: Steps, terms: Sequence[Terms], weights: Array, number: Array, widths: Sequence[int]
) -> tuple[Array, Array, list[tuple[Array, Array, Array]]]:
    """Log evidence of every cell's data (Q, n), log normalisers (Q,), and what `_step_moments` finds.

    Args:
        weights: (Q, n) of the cells; number: (Q,) their sum.
        widths: per piece, number of coefficients.
    """
    group = _as_arrays(group)
    sizes = [terms[piece.factor].phi.shape[0] for piece in group.pieces]

    def found(smoothed: Smoothed, quadratic: Array) -> Any:
        moments = _step_moments(group, smoothed, weights, number, widths, sizes)
        return quadratic, half_log_det(smoothed.factors), moments

    quadratic, height, moments = _smoothed(group, terms, found)
    return quadratic, _constant(group, terms) - height, moments


def evidence(group: Steps, terms: Sequence[Terms]) -> tuple[Array, Array]:
    """The first two of `e_step`."""
    group = _as_arrays(group)
    quadratic, height = _smoothed(group, terms, lambda s, quadratic: (quadratic, half_log_det(s.factors)))
    return quadratic, _constant(group, terms) - height


def _as_arrays(group: Steps) -> Steps:
    """JAX's arrays for NumPy's, which a traced index cannot pick from."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, int) else jnp.asarray(leaf), group)


def _smoothed(group: Steps, terms: Sequence[Terms], function: Callable[[Smoothed, Array], Any]) -> Any:
    """A function of the posterior and of the quadratic part of the log evidence (Q, n)."""
    design, data = _whitened(group, terms)

    def after(factors: Factors) -> Any:
        smoothed = Smoothed(factors, _backward(factors, *_forward(factors, data)))
        left = [_misfit(group, smoothed, design, data, kind, steps) for kind, steps in _each_run(group)]
        return function(smoothed, -functools.reduce(jnp.add, left) / 2)

    if group.capacity >= group.length:
        return after(_eliminated(group, design, group.length)[0])
    factors, enough = _eliminated(group, design, group.capacity)
    return jax.lax.cond(enough, lambda: after(factors), lambda: after(_eliminated(group, design, group.length)[0]))


def _misfit(group: Steps, smoothed: Smoothed, design: Array, data: Array, kind: int | None, steps: Any) -> Array:
    """Sum of squared whitened residuals at the means: (Q, n)."""
    if kind is not None:
        met = _times_matrix(smoothed.pairs[steps], design[kind])
    else:
        met = jnp.einsum("tqrs,tqns->tqnr", design[group.kind[steps]], smoothed.pairs[steps])
    return jnp.einsum("tqnr->qn", (met - data[steps]) ** 2)


def _times_matrix(vectors: Array, matrix: Array) -> Array:
    """(T, Q, n, S) times the transposes of (Q, R, S). A single class is one product of matrices."""
    if matrix.shape[0] > 1:
        return jnp.einsum("qrs,tqns->tqnr", matrix, vectors)
    flat = jnp.reshape(vectors, (-1, vectors.shape[-1])) @ matrix[0].T
    return jnp.reshape(flat, (*vectors.shape[:-1], matrix.shape[1]))


def _gram(left: Array, right: Array) -> Array:
    """Sums of outer products of (T, Q, n, A) and (T, Q, n, B): (Q, A, B)."""
    if left.shape[1] > 1:
        return jnp.einsum("tqna,tqnb->qab", left, right)
    left, right = (jnp.reshape(a, (-1, a.shape[-1])) for a in (left, right))
    return (left.T @ right)[None]


def _constant(group: Steps, terms: Sequence[Terms]) -> Array:
    """Log normalisers of the rows, and of the latents' density but for its determinant: (Q,)."""
    constant: Any = group.total * (_LOG_2PI / 2)
    times = _times(group)
    for piece in group.pieces:
        _, precision, log_det = row_terms(piece, terms)
        normaliser = jnp.sum(piece.count * (precision.shape[-1] * _LOG_2PI + log_det), -1)
        constant = constant - jnp.einsum("c,cq->q", times, normaliser) / 2
    return constant


def _times(group: Steps) -> Array:
    """How many steps are of each kind: (C,)."""
    return jnp.zeros(group.real.shape[0]).at[group.kind].add(1.0)


def _each_run(group: Steps) -> list[Any]:
    """Steps of one kind each, and (None) those of various kinds."""
    runs = [(kind, slice(start, stop) if stop else steps)
            for (kind, start, stop), steps in zip(group.common, group.runs, strict=True)]  # fmt: skip
    return [*runs, (None, group.rest)] if group.rest.shape[0] else runs


def solve_steps(group: Steps, terms: Sequence[Terms]) -> Path:
    """The posterior level by level."""
    group = _as_arrays(group)
    design, data = _whitened(group, terms)
    factors, _ = _eliminated(group, design, group.length)
    return _path(Smoothed(factors, _backward(factors, *_forward(factors, data))))


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
            touched = jnp.einsum("cqred,cqres->cqrds", root[piece.kept], touched)
        residual = _residual(group, piece, own.phi, root)
        designs.append((touched * scale[..., None, None]).reshape(*scale.shape[:2], -1, 2 * group.width))
        if piece.picked is None:
            residual = residual * scale[group.kind][:, :, None, :, None]
        residual = jnp.broadcast_to(residual, (length, classes, cells, *residual.shape[-2:]))
        data.append(-residual.reshape(length, classes, cells, -1))
    return jnp.concatenate(designs, 2), jnp.concatenate(data, -1)


def _residual(group: Steps, piece: StepPiece, phi: Array, root: Array) -> Array:
    """Whitened residuals at latents of zero, without their weights (picked pieces hold these): (T, Q, n, R, D)."""
    rows, dim = piece.kept.shape[-1], root.shape[-1]
    if piece.picked is None and phi.shape[0] > 1:
        kept = piece.kept[group.kind]
        spec, whiten = "tqrj,jtqnrd->tqnrd", "tqred,tqnre->tqnrd"
    else:  # nothing to pick for every step
        kept = jnp.zeros(rows, int) if piece.picked is None else piece.picked.kept
        spec, whiten = "rj,jtqnrd->tqnrd", "red,tqnre->tqnrd"
    own = jnp.zeros((1, 1, 1, rows, dim)) + combined(piece.fixed, phi[kept], spec)
    if dim == 1:
        scale = root[kept][..., 0]  # (R, 1), or (T, Q, R, 1)
        return own * (scale if scale.ndim == 2 else scale[:, :, None])
    return jnp.einsum(whiten, root[kept], own)


def _eliminate(message: Array, rows: Array) -> tuple[Array, Array]:
    """QR of (M 0; B), positive diagonal: Q' restricted to the columns of M and B (Q, 2S, S + rows), and the triangle.

    Rows are sorted by size, largest first: then Householder's method is stable row by row (Cox and Higham 1998).
    """
    width = message.shape[-1]
    stack = jnp.concatenate([jnp.concatenate([message, jnp.zeros_like(message)], -1), rows], -2)
    short = 2 * width - stack.shape[-2]
    if short > 0:
        stack = jnp.pad(stack, ((0, 0), (0, short), (0, 0)))
    order = jnp.argsort(-jnp.max(jnp.abs(stack), -1), -1)
    orthogonal, triangle = jnp.linalg.qr(jnp.take_along_axis(stack, order[..., None], -2))
    back = jnp.argsort(order, -1)
    orthogonal = jnp.take_along_axis(orthogonal, back[..., None], -2)
    sign = jnp.where(jnp.diagonal(triangle, axis1=-2, axis2=-1) < 0, -1.0, 1.0).astype(triangle.dtype)
    return jnp.swapaxes(orthogonal * sign[..., None, :], -1, -2), triangle * sign[..., :, None]


def _standstill(new: Array, old: Array, before: Array) -> tuple[Array, Array]:
    """Whether a recursion of matrices repeats itself: the last change is rounding, or small and no longer shrinking."""
    size = jnp.max(jnp.abs(new), -2, keepdims=True)
    change = jnp.max(jnp.abs(new - old) / jnp.where(size > 0, size, 1.0))
    eps = float(jnp.finfo(new.dtype).eps)
    return (change <= 4 * eps) | ((change >= before) & (change <= 1e4 * eps)), change


def _eliminated(group: Steps, design: Array, room: int) -> tuple[Factors, Array]:
    """Factors of at most `room` distinct steps, and whether that was enough."""
    width, length = group.width, group.length
    classes, rows = design.shape[1:3]
    dtype = design.dtype
    eye = jnp.broadcast_to(jnp.eye(width, dtype=dtype), (classes, width, width))
    if group.padded:  # a slot without an element is a standard normal by itself
        empty = (1 - group.real)[..., None] * jnp.eye(width, dtype=dtype)
        design = jnp.concatenate([design, jnp.concatenate([jnp.zeros_like(empty), empty], -1)], 2)

    def running(carry: Any) -> Array:
        step, count = carry[:2]
        return (step < length) & (count < room)

    def body(carry: Any) -> Any:
        step, count, message, change, factors = carry
        kind = group.kind[step]
        turned, triangle = _eliminate(message, design[kind])
        corner, side, out = triangle[:, :width, :width], triangle[:, :width, width:], triangle[:, width:, width:]
        half = jax.scipy.linalg.solve_triangular(corner, eye)
        passed = turned[:, :, : width + rows]
        forward = jnp.concatenate([passed[:, width:], half @ passed[:, :width]], 1)
        log_det = jnp.sum(jnp.log(jnp.diagonal(corner, axis1=-2, axis2=-1)), -1)
        found = forward, half, half @ side, log_det
        tables = factors.forward, factors.half, factors.gain, factors.log_det
        tables = [jax.lax.dynamic_update_index_in_dim(t, a, count, 0) for t, a in zip(tables, found, strict=True)]
        index = factors.index.at[step].set(count.astype(jnp.int32))
        factors = Factors(index, tables[0], tables[1], tables[2], tables[3], out)
        same = (step > 0) & (kind == group.kind[jnp.maximum(step - 1, 0)])
        still, change = _standstill(out, message, jnp.where(same, change, jnp.inf))
        step = jnp.where(same & still, group.stop[step], step) + 1
        return step, count + 1, out, change, factors

    blank = Factors(
        jnp.zeros(length, jnp.int32),
        jnp.zeros((room, classes, 2 * width, width + rows), dtype),
        jnp.zeros((room, classes, width, width), dtype),
        jnp.zeros((room, classes, width, width), dtype),
        jnp.zeros((room, classes), dtype),
        eye,
    )
    start = jnp.asarray(0), jnp.asarray(0), eye, jnp.asarray(jnp.inf, dtype), blank
    step, _, _, _, factors = jax.lax.while_loop(running, body, start)
    # Steps that were not computed use the last factor before them.
    index = jax.lax.cummax(factors.index)
    return Factors(index, factors.forward, factors.half, factors.gain, factors.log_det, factors.last), step >= length


def half_log_det(factors: Factors) -> Array:
    """Half the log determinant of the precision: (Q,)."""
    last = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(factors.last, axis1=-2, axis2=-1))), -1)
    return jnp.sum(factors.log_det[factors.index], 0) + last


def _forward(factors: Factors, data: Array) -> tuple[Array, Array]:
    """The last message (Q, n, S), and R⁻¹ δ of the level before every step (T, Q, n, S)."""
    width = factors.last.shape[-1]
    start = jnp.zeros((*data.shape[1:3], width), data.dtype)

    def step(message: Array, given: Any) -> Any:
        index, own = given
        out = jnp.einsum("qsr,qnr->qns", factors.forward[index], jnp.concatenate([message, own], -1))
        return out[..., :width], out[..., width:]

    return jax.lax.scan(step, start, (factors.index, data))


def _backward(factors: Factors, message: Array, kept: Array) -> Array:
    """Means (T + 1, Q, n, S), the level before the first included."""
    last = jax.scipy.linalg.solve_triangular(factors.last, jnp.swapaxes(message, -1, -2))
    last = jnp.swapaxes(last, -1, -2)

    def step(mean: Array, given: Any) -> Any:
        index, own = given
        before = own - jnp.einsum("qst,qnt->qns", factors.gain[index], mean)
        return before, before

    _, means = jax.lax.scan(step, last, (factors.index, kept), reverse=True)
    return jnp.concatenate([means, last[None]])


def _roots(factors: Factors, index: Any, root: Array) -> tuple[Array, Array]:
    """From a root U of a level's covariance: a root of its and the level before's (Q, 2S, 2S), and of that one's."""
    half, gain = factors.half[index], factors.gain[index]
    above = jnp.concatenate([half, -gain @ root], -1)
    joint = jnp.concatenate([above, jnp.concatenate([jnp.zeros_like(root), root], -1)], -2)
    triangle = jnp.linalg.qr(jnp.swapaxes(above, -1, -2), mode="r")
    sign = jnp.where(jnp.diagonal(triangle, axis1=-2, axis2=-1) < 0, -1.0, 1.0).astype(triangle.dtype)
    return joint, jnp.swapaxes(triangle * sign[..., :, None], -1, -2)


def _last_root(factors: Factors) -> Array:
    eye = jnp.broadcast_to(jnp.eye(factors.last.shape[-1], dtype=factors.last.dtype), factors.last.shape)
    return jax.scipy.linalg.solve_triangular(factors.last, eye)


def _step_moments(
    group: Steps, smoothed: Smoothed, weights: Array, number: Array, widths: Sequence[int], sizes: Sequence[int]
) -> list[tuple[Array, Array, Array]]:
    """Per piece: kept elements (K,), count (K,) and moments (K, 1 + width, D, 1 + width, D)."""
    spread, joint = _spread_moments(group, smoothed.factors, number, widths, sizes)
    shared = _shared_moments(group, smoothed, weights, joint) if _shares(group) else None
    result = []
    for piece, width, size, moments in zip(group.pieces, widths, sizes, spread, strict=True):
        if piece.picked is not None:
            moments = _picked_moments(piece, shared, size)
        else:
            for kind, steps in _each_run(group):
                moments = moments + _mean_moments(group, smoothed, weights, piece, width, size, kind, steps)
        counts = piece.count * number[:, None] * _times(group)[:, None, None]
        result.append((jnp.arange(size), jnp.zeros(size).at[piece.kept].add(counts), moments))
    return result


def _shares(group: Steps) -> bool:
    return any(piece.picked is not None for piece in group.pieces)


def _shared_moments(group: Steps, smoothed: Smoothed, weights: Array, joint: Array) -> Array:
    """Second moments of the numbers of a step, by kind: (C, Q, 1 + M + 2S, 1 + M + 2S)."""
    one = jnp.ones((*smoothed.pairs.shape[:3], 1), smoothed.pairs.dtype)
    numbers = jnp.concatenate([one, group.columns, smoothed.pairs], -1)
    size, latent = numbers.shape[-1], joint.shape[-1]
    total = jnp.zeros((*joint.shape[:2], size, size), numbers.dtype)
    total = total.at[..., size - latent :, size - latent :].add(joint)
    for kind, steps in _each_run(group):
        own = numbers[steps]
        weighted = own * weights[..., None]
        if kind is not None:
            total = total.at[kind].add(_gram(weighted, own))
        else:
            total = total.at[group.kind[steps]].add(jnp.einsum("tqna,tqnb->tqab", weighted, own))
    return total


def _picked_moments(piece: StepPiece, shared: Any, size: int) -> Array:
    """Second moments of a residual's parts: (K, 1 + width, D, 1 + width, D)."""
    assert piece.picked is not None
    index, constant = piece.picked.index, piece.picked.constant
    own = jnp.einsum("cqr,cqab->rab", piece.weight, shared)

    def one(own: Array, index: Array, constant: Array) -> Array:
        parts = own[index[:, :, None, None], index] * constant
        return parts * constant[:, :, None, None]

    found = jax.vmap(one, (0, 1, 1))(own, index, constant)
    return _scattered(found, piece.picked.kept, size)


def _mean_moments(
    group: Steps, smoothed: Smoothed, weights: Array, piece: StepPiece, width: int, size: int, kind: int | None,
    steps: Any,
) -> Array:  # fmt: skip
    """Second moments of the residual's parts at the means of some steps: (K, 1 + width, D, 1 + width, D)."""
    pairs = smoothed.pairs[steps]
    rho: list[Any] = [0.0] * (1 + width)
    for first, a in piece.fixed:
        own = a if a.shape[1] == 1 else a[:, steps]
        for j in range(a.shape[0]):
            rho[first + j] = rho[first + j] + own[j]
    for first, a in piece.touching:
        if kind is not None:
            met = jnp.einsum("jqrds,tqns->jtqnrd", a[:, kind], pairs)
        else:
            met = jnp.einsum("jtqrds,tqns->jtqnrd", a[:, group.kind[steps]], pairs)
        for j in range(a.shape[0]):
            rho[first + j] = rho[first + j] + met[j]
    dim = _dim(piece)
    shape = (*pairs.shape[:3], piece.kept.shape[-1], dim)
    stacked = jnp.stack([jnp.broadcast_to(r, shape) for r in rho])
    weighted = stacked * weights[..., None, None]
    if kind is not None:
        found = jnp.einsum("atqnrd,btqnre->qradbe", weighted, stacked)
        return _scattered(found * piece.weight[kind][..., None, None, None, None], piece.kept[kind], size)
    own = piece.weight[group.kind[steps]]
    if piece.alike:
        weighted = weighted * own[:, :, None, :, None]
        return jnp.einsum("atqnrd,btqnre->adbe", weighted, stacked)[None]
    found = jnp.einsum("atqnrd,btqnre->tqradbe", weighted, stacked)
    return _scattered(found * own[..., None, None, None, None], piece.kept[group.kind[steps]], size)


def _dim(piece: StepPiece) -> int:
    return (piece.touching or piece.fixed)[0][1].shape[4 if piece.touching else 5]


def _scattered(moments: Array, kept: Array, size: int) -> Array:
    """Sum (..., 1 + width, D, 1 + width, D) into the kept elements."""
    if size == 1:
        return jnp.sum(moments, tuple(range(moments.ndim - 4)))[None]
    return jnp.zeros((size, *moments.shape[-4:]), moments.dtype).at[kept].add(moments)


def _spread_moments(
    group: Steps, factors: Factors, number: Array, widths: Sequence[int], sizes: Sequence[int]
) -> tuple[list[Array], Array]:
    """What the posterior covariances add to the second moments of every piece that is not picked, and by kind of step
    (C, Q, 2S, 2S) to those of the latents.
    """
    tables: list[Any] = [_touching(piece, width) if piece.picked is None else ([], None)
              for piece, width in zip(group.pieces, widths, strict=True)]  # fmt: skip
    kinds, classes, slots = group.real.shape
    shared = jnp.zeros((kinds if _shares(group) else 0, classes, 2 * slots, 2 * slots), factors.last.dtype)
    first = jnp.searchsorted(factors.index, factors.index)

    def added(kind: Any, joint: Array, times: Any, sums: Sequence[Array]) -> list[Array]:
        out = []
        for piece, (places, table), total, size in zip(group.pieces, tables, sums, sizes, strict=True):
            if not places:
                out.append(total)
                continue
            spread = jnp.einsum("jqrds,qsx->jqrdx", table[:, kind], joint)
            scale = piece.weight[kind] * number[:, None] * times
            found = jnp.einsum("aqrdx,bqrex,qr->qradbe", spread, spread, scale)
            out.append(total + _scattered(found, piece.kept[kind], size))
        return out

    def body(carry: Any) -> Any:
        step, root, change, sums, shared = carry
        index = factors.index[step]
        joint, before = _roots(factors, index, root)
        start = first[step]
        same = start < step
        still, change = _standstill(before, root, jnp.where(same, change, jnp.inf))
        jump = same & still
        times = jnp.where(jump, step - start + 1, 1).astype(joint.dtype)
        sums = added(group.kind[step], joint, times, sums)
        if shared.size:
            own = jnp.einsum("qab,qcb,q->qac", joint, joint, number * times)
            shared = shared.at[group.kind[step]].add(own)
        return jnp.where(jump, start, step) - 1, before, change, sums, shared

    dims = [_dim(piece) for piece in group.pieces]
    sums = [jnp.zeros((size, len(places), dim, len(places), dim), factors.last.dtype)
            for size, (places, _), dim in zip(sizes, tables, dims, strict=True)]  # fmt: skip
    change = jnp.asarray(jnp.inf, factors.last.dtype)
    start = jnp.asarray(group.length - 1), _last_root(factors), change, sums, shared
    *_, sums, shared = jax.lax.while_loop(lambda carry: carry[0] >= 0, body, start)
    result = []
    for total, (places, _), width, size, dim in zip(sums, tables, widths, sizes, dims, strict=True):
        full = jnp.zeros((size, 1 + width, dim, 1 + width, dim), total.dtype)
        if places:
            at = jnp.asarray(places)
            full = full.at[:, at[:, None, None, None], jnp.arange(dim)[:, None, None], at[:, None],
                           jnp.arange(dim)].add(total)  # fmt: skip
        result.append(full)
    return result, shared


def _touching(piece: StepPiece, width: int) -> tuple[list[int], Any]:
    """Which parts of the residual meet latents, and their designs (parts, C, Q, R, D, 2S)."""
    spread: dict[int, Any] = {}
    for first, a in piece.touching:
        for j in range(a.shape[0]):
            spread[first + j] = spread.get(first + j, 0.0) + a[j]
    places = sorted(spread)
    return places, jnp.stack([spread[j] for j in places]) if places else None


def _path(smoothed: Smoothed) -> Path:
    """The posterior level by level."""
    factors = smoothed.factors
    last = _last_root(factors)

    def step(root: Array, index: Any) -> Any:
        _, before = _roots(factors, index, root)
        return before, before

    _, roots = jax.lax.scan(step, last, factors.index, reverse=True)
    roots = jnp.moveaxis(jnp.concatenate([roots[1:], last[None]]), 0, 1)
    covariance = jnp.einsum("qtij,qtkj->qtik", roots, roots)
    half, gain = (jnp.moveaxis(a[factors.index], 0, 1) for a in (factors.half, factors.gain))
    half = jnp.concatenate([half[:, 1:], last[:, None]], 1)
    gain = jnp.concatenate([gain[:, 1:], jnp.zeros_like(last[:, None])], 1)
    after = jnp.concatenate([covariance[:, 1:], covariance[:, :1]], 1)
    lagged = -jnp.einsum("qtij,qtjk->qtik", gain, after)
    mean = jnp.moveaxis(smoothed.means[1:], 0, 2)
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
