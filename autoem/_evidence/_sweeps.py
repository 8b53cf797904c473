"""The factors of a Gaussian chain: QR forwards, step by step or until nothing changes; means forwards and backwards."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .._types import Array
from ._steps import Factors, Steps, picked


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


def standstill(new: Array, old: Array, before: Array) -> tuple[Array, Array]:
    """Whether a recursion of matrices repeats itself: the last change is rounding, or small and no longer shrinking."""
    size = jnp.max(jnp.abs(new), -2, keepdims=True)
    change = jnp.max(jnp.abs(new - old) / jnp.where(size > 0, size, 1.0))
    eps = float(jnp.finfo(new.dtype).eps)
    return (change <= 4 * eps) | ((change >= before) & (change <= 1e4 * eps)), change


def eliminated(group: Steps, design: Array, room: int) -> tuple[Factors, Array]:
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
        kind = picked(group.kind, step)
        turned, triangle = _eliminate(message, picked(design, kind))
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
        same = (step > 0) & (kind == picked(group.kind, jnp.maximum(step - 1, 0)))
        still, change = standstill(out, message, jnp.where(same, change, jnp.inf))
        step = jnp.where(same & still, picked(group.stop, step), step) + 1
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
    return jnp.sum(picked(factors.log_det, factors.index), 0) + last


def forward(factors: Factors, data: Array) -> tuple[Array, Array]:
    """The last message (Q, n, S), and R⁻¹ δ of the level before every step (T, Q, n, S)."""
    width = factors.last.shape[-1]
    start = jnp.zeros((*data.shape[1:3], width), data.dtype)

    def step(message: Array, given: Any) -> Any:
        index, own = given
        out = jnp.einsum("qsr,qnr->qns", picked(factors.forward, index), jnp.concatenate([message, own], -1))
        return out[..., :width], out[..., width:]

    return jax.lax.scan(step, start, (factors.index, data))


def backward(factors: Factors, message: Array, kept: Array) -> Array:
    """Means (T + 1, Q, n, S), the level before the first included."""
    last = jax.scipy.linalg.solve_triangular(factors.last, jnp.swapaxes(message, -1, -2))
    last = jnp.swapaxes(last, -1, -2)

    def step(mean: Array, given: Any) -> Any:
        index, own = given
        before = own - jnp.einsum("qst,qnt->qns", picked(factors.gain, index), mean)
        return before, before

    _, means = jax.lax.scan(step, last, (factors.index, kept), reverse=True)
    return jnp.concatenate([means, last[None]])


def roots(factors: Factors, index: Any, root: Array) -> tuple[Array, Array]:
    """From a root U of a level's covariance: a root of its and the level before's (Q, 2S, 2S), and of that one's."""
    half, gain = picked(factors.half, index), picked(factors.gain, index)
    above = jnp.concatenate([half, -gain @ root], -1)
    joint = jnp.concatenate([above, jnp.concatenate([jnp.zeros_like(root), root], -1)], -2)
    triangle = jnp.linalg.qr(jnp.swapaxes(above, -1, -2), mode="r")
    sign = jnp.where(jnp.diagonal(triangle, axis1=-2, axis2=-1) < 0, -1.0, 1.0).astype(triangle.dtype)
    return joint, jnp.swapaxes(triangle * sign[..., :, None], -1, -2)


def last_root(factors: Factors) -> Array:
    """A root of the last level's covariance: (Q, S, S)."""
    eye = jnp.broadcast_to(jnp.eye(factors.last.shape[-1], dtype=factors.last.dtype), factors.last.shape)
    return jax.scipy.linalg.solve_triangular(factors.last, eye)
