"""The factors of a Gaussian chain: QR forwards, step by step or until nothing changes; means forwards and backwards."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._types import Array
from ._steps import Factors, Steps, picked

_ROUNDING = 8.0
"""Units of rounding by which a recursion may change in one step and stand still."""


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


class Watch(NamedTuple):
    """A recursion of matrices, watched for whether it still moves.

    Attributes:
        mark: the matrix some steps ago; at: how many steps of the recursion there were then.
        count: how many there have been.
    """

    mark: Array
    at: Array
    count: Array


def watched(start: Array) -> Watch:
    """Before the first step."""
    return Watch(start, jnp.asarray(0), jnp.asarray(0))


def standstill(watch: Watch, new: Array, same: Array, left: Array) -> tuple[Array, Watch]:
    """Whether a recursion repeats itself: over a fifth of all its steps it changed by no more than rounding does.

    From one step to the next, what moves slowly changes by no more than that either: the longer the recursion has run,
    the longer is the span that is looked at. And what is seen as rounding must not add up over the steps that are left.

    Args:
        watch: the steps before.
        new: what this step made; same: whether it was a step like the one before, else the recursion starts here.
        left: steps that would be left out.
    """
    count = jnp.where(same, watch.count, 0) + 1
    span = count - watch.at
    size = jnp.max(jnp.abs(new), -2, keepdims=True)
    change = jnp.max(jnp.abs(new - watch.mark) / jnp.where(size > 0, size, 1.0))
    eps = float(jnp.finfo(new.dtype).eps)
    rounding = _ROUNDING * eps * jnp.sqrt(count.astype(new.dtype))
    steady = eps**0.5 * span / jnp.maximum(left, 1).astype(new.dtype)
    full = same & (span >= jnp.maximum(4, count // 5))
    moved = full | ~same
    mark = jnp.where(moved, new, watch.mark)
    return full & (change <= jnp.minimum(rounding, steady)), Watch(mark, jnp.where(moved, count, watch.at), count)


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
        step, count, message, watch, factors = carry
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
        stop = picked(group.stop, step)
        still, watch = standstill(watch, out, same, stop - step)
        step = jnp.where(still, stop, step) + 1
        return step, count + 1, out, watch, factors

    blank = Factors(
        jnp.zeros(length, jnp.int32),
        jnp.zeros((room, classes, 2 * width, width + rows), dtype),
        jnp.zeros((room, classes, width, width), dtype),
        jnp.zeros((room, classes, width, width), dtype),
        jnp.zeros((room, classes), dtype),
        eye,
    )
    start = jnp.asarray(0), jnp.asarray(0), eye, watched(eye), blank
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
