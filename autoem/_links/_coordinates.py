"""Which elements of an unknown does each element of a value depend on?

The coordinates of a value with respect to an unknown with r axes are r integer arrays, one per axis: element
v[i] depends on u[c_0[i], ..., c_{r-1}[i]] and on nothing else of u. The arrays are compact (each axis has its full
length, or 1 where the coordinate does not vary), -1 marks elements that do not depend on u at all, and None in
place of an array says that elements mix several positions of that axis. Sharing, gathering, slicing and
broadcasting all are statements about coordinates; nothing is ever guessed: an unlisted operation mixes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from ._program import LARGE, Node, bind, is_concrete

Coordinates: TypeAlias = tuple[np.ndarray | None, ...]

ELEMENTWISE = frozenset(
    "add sub mul div rem neg sign abs exp exp2 log log1p expm1 sqrt rsqrt cbrt tanh sin cos tan asin acos atan atan2"
    " sinh cosh asinh acosh atanh logistic erf erfc erf_inv lgamma digamma polygamma igamma igammac bessel_i0e"
    " bessel_i1e regularized_incomplete_beta pow integer_pow square max min floor ceil round clamp nextafter"
    " eq ne lt le gt ge and or xor not is_finite select_n convert_element_type copy copy_p real stop_gradient"
    " shift_left shift_right_logical shift_right_arithmetic reduce_precision population_count".split()
)
REDUCTIONS = frozenset("reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin".split())
SCANS_ALONG = frozenset("cumsum cumprod cummax cummin cumlogsumexp".split())
MATRIX = frozenset("cholesky triangular_solve".split())


def own_coordinates(batch_shape: Sequence[int], event_ndim: int = 0) -> Coordinates:
    """An unknown's coordinates with respect to itself; event axes are not coordinates.

    A scalar counts as one axis of length 1, so that -1 can say which elements of a value do not depend on it.
    """
    ndim = len(batch_shape)
    if not ndim:
        return (np.zeros((1,) * event_ndim, int),)
    return tuple(
        np.arange(n).reshape([-1 if a == axis else 1 for a in range(ndim)] + [1] * event_ndim)
        for axis, n in enumerate(batch_shape)
    )


def merge(first: Coordinates, second: Coordinates) -> Coordinates:
    """Coordinates of an elementwise combination: agreeing where both depend, mixing where they differ."""

    def one(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
        if a is None or b is None or a is b:
            return None if a is None or b is None else a
        if a.shape == b.shape and np.array_equal(a, b):
            return a
        if np.any((a >= 0) & (b >= 0) & (a != b)):
            return None
        return np.maximum(a, b)

    return tuple(one(a, b) for a, b in zip(first, second, strict=True))


def collapse(coordinate: np.ndarray | None, axes: Sequence[int], keepdims: bool = False) -> np.ndarray | None:
    """The coordinate after a reduction over `axes`: None unless all that depends agrees."""
    if coordinate is None:
        return None
    axes = tuple(axes)
    high = coordinate.max(axes, keepdims=True)
    if np.any((coordinate >= 0) & (coordinate != high)):
        return None
    return high if keepdims else np.squeeze(high, axes)


def place(coordinate: np.ndarray | None, axes: Sequence[int], ndim: int) -> np.ndarray | None:
    """Move axis i of a compact array to position axes[i] among `ndim` axes."""
    if coordinate is None:
        return None
    order = np.argsort(axes)
    shape = [1] * ndim
    for position in order:
        shape[axes[position]] = coordinate.shape[position]
    return coordinate.transpose(order).reshape(shape)


def flat_index(coords: Coordinates, shape: Sequence[int]) -> np.ndarray | None:
    """Flat element numbers from coordinates: None where they are mixed."""
    if any(c is None for c in coords):
        return None
    flat: Any = np.zeros((), int)
    for c, n in zip(coords, shape or (1,) * len(coords), strict=True):
        assert c is not None
        flat = np.where((c < 0) | (flat < 0), -1, flat * n + c)
    return flat


def whole_event(coords: Coordinates, ndim: int, shape: Sequence[int]) -> bool:
    """Whether each event of a value is one event of the unknown (its `ndim` trailing axes), in order.

    Args:
        coords: of the value, event axes included.
        ndim: event axes.
        shape: of the unknown.
    """
    if len(shape) < ndim or any(c is None for c in coords):
        return False
    for k in range(ndim):
        c, n = coords[len(shape) - ndim + k], shape[len(shape) - ndim + k]
        assert c is not None
        axis = c.ndim - ndim + k
        if c.size != n or c.shape[axis] != n or not np.array_equal(c.reshape(-1), np.arange(n)):
            return False
    for c in coords[: len(shape) - ndim]:
        assert c is not None
        if any(n > 1 for n in c.shape[c.ndim - ndim :]):
            return False
    return True


def full(coordinate: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A compact array at its full shape."""
    return np.array(np.broadcast_to(coordinate, shape))


def _map(coordinates: Coordinates, function: Any) -> Coordinates:
    return tuple(None if c is None else function(c) for c in coordinates)


def _numerically(node: Node, operands: Sequence[Any]) -> np.ndarray:
    """Push integer coordinates through a structural operation by running it."""
    with jax.ensure_compile_time_eval():
        return np.asarray(bind(node, operands)[0])


def compacted(coordinate: np.ndarray) -> np.ndarray:
    """Length 1 along every axis where nothing changes."""
    for axis, n in enumerate(coordinate.shape):
        first = coordinate.take([0], axis) if n > 1 else coordinate
        if n > 1 and np.array_equal(coordinate, np.broadcast_to(first, coordinate.shape)):
            coordinate = first
    return coordinate


def _gathered(node: Node, coordinate: np.ndarray, indices: np.ndarray, shape: Sequence[int], out: int) -> np.ndarray:
    """What lax.gather finds in a compact array, by NumPy: only axes along which it varies are looked up."""
    numbers, sizes = node.params["dimension_numbers"], node.params["slice_sizes"]
    batch_axes = [a for a in range(out) if a not in numbers.offset_dims]
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [a for a in range(len(shape)) if a not in gone]
    batching = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    lookup: list[Any] = []
    for a, n in enumerate(coordinate.shape):
        position: Any = np.zeros((1,) * out, int)
        if n > 1 and a in numbers.start_index_map:
            start = indices[..., numbers.start_index_map.index(a)]
            position = position + place(np.clip(start, 0, shape[a] - sizes[a]), batch_axes, out)
        if n > 1 and a in kept:
            target = numbers.offset_dims[kept.index(a)]
            position = position + np.arange(sizes[a]).reshape([-1 if i == target else 1 for i in range(out)])
        if n > 1 and a in batching:
            target = batch_axes[batching[a]]
            position = position + np.arange(n).reshape([-1 if i == target else 1 for i in range(out)])
        lookup.append(position)
    return compacted(coordinate[tuple(np.broadcast_arrays(*lookup))]) if lookup else coordinate.reshape((1,) * out)


def _reshape(coordinate: np.ndarray, old: Sequence[int], new: Sequence[int]) -> np.ndarray:
    """Reshape compactly: unit axes come and go for free, other axes in the smallest groups that match."""
    out: list[int] = []
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [i] if i < len(old) else [], [j] if j < len(new) else []
        i, j = i + len(left), j + len(right)
        while math.prod(old[a] for a in left) != math.prod(new[b] for b in right):
            if math.prod(old[a] for a in left) < math.prod(new[b] for b in right):
                left.append(i)
                i += 1
            else:
                right.append(j)
                j += 1
        groups.append((left, right))
    shape = list(coordinate.shape)
    for left, right in groups:
        whole = [old[a] for a in left]
        if all(coordinate.shape[a] == 1 for a in left):
            out += [1] * len(right)
        else:
            for a, n in zip(left, whole, strict=True):
                shape[a] = n
            out += [new[b] for b in right]
    return np.broadcast_to(coordinate, shape).reshape(out)


def _gather(node: Node, coords: Sequence[Coordinates | None], shapes: Sequence[Any], known: Sequence[Any]) -> Any:
    numbers = node.params["dimension_numbers"]
    out_ndim = len(shapes[2])
    batch_axes = [a for a in range(out_ndim) if a not in numbers.offset_dims]
    operand, indices = coords[0], coords[1]
    result: Coordinates | None = None
    if indices is not None:
        last = len(shapes[1]) - 1
        result = tuple(place(collapse(c, [last]), batch_axes, out_ndim) for c in indices)
    if operand is not None and known[1] is not None and is_concrete(known[1]):
        indices_known = np.asarray(known[1])
        moved = _map(operand, lambda c: _gathered(node, c, indices_known, shapes[0], out_ndim))
        result = moved if result is None else merge(result, moved)
    elif operand is not None:
        gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
        kept = [a for a in range(len(shapes[0])) if a not in gone]
        target = dict(zip(kept, numbers.offset_dims, strict=True))
        index_batch = [a for a in range(len(shapes[1]) - 1)]
        for o, s in zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True):
            target[o] = batch_axes[index_batch.index(s)]

        def move(c: np.ndarray) -> np.ndarray | None:
            moving = [a for a in range(c.ndim) if c.shape[a] > 1]
            sliced = [a for a in moving if a not in numbers.operand_batching_dims]
            if any(a in numbers.start_index_map for a in sliced):
                return None
            return place(np.squeeze(c, tuple(a for a in range(c.ndim) if a not in moving)),
                         [target[a] for a in moving], out_ndim)  # fmt: skip

        moved = tuple(None if c is None else move(c) for c in operand)
        result = moved if result is None else merge(result, moved)
    return result


def _structural(node: Node, coords: Sequence[Coordinates | None], shapes: Sequence[Any], known: Sequence[Any]) -> Any:
    """Operations that only move elements, pieces without the unknown counting as -1."""
    rank = len(next(c for c in coords if c is not None))
    columns: list[np.ndarray | None] = []
    for axis in range(rank):
        operands: list[Any] = []
        mixed = False
        for position, c in enumerate(coords):
            is_data = node.name.startswith(("scatter", "dynamic")) and position >= _DATA_OPERANDS[node.name][0]
            if is_data and position < _DATA_OPERANDS[node.name][1]:
                if known[position] is None or not is_concrete(known[position]):
                    return tuple(None for _ in range(rank))
                operands.append(known[position])
            elif c is None:
                operands.append(np.full(shapes[position], -1, np.int32))
            elif (column := c[axis]) is None:
                mixed = True
            else:
                operands.append(full(column, shapes[position]).astype(np.int32))
        columns.append(None if mixed else compacted(_moved(node, operands)))
    return tuple(columns)


def _moved(node: Node, operands: Sequence[Any]) -> np.ndarray:
    """The common moves by NumPy (nothing to compile), the others by running them."""
    params = node.params
    if node.name == "concatenate":
        return np.concatenate(operands, params["dimension"])
    if node.name == "stack":
        return np.stack(operands, params["axis"])
    if node.name == "rev":
        return np.flip(operands[0], params["dimensions"])
    if node.name == "slice":
        strides = params["strides"] or (1,) * operands[0].ndim
        spans = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
        return operands[0][tuple(slice(*span) for span in spans)]
    return _numerically(node, operands)


_DATA_OPERANDS = {"scatter": (1, 2), "dynamic_slice": (1, 99), "dynamic_update_slice": (2, 99)}
_MOVES = frozenset("concatenate pad rev slice dynamic_slice dynamic_update_slice scatter split stack".split())


def propagate(
    node: Node, coords: Sequence[Coordinates | None], shapes: Sequence[Any], known: Sequence[Any], outs: Sequence[Any]
) -> list[Coordinates | None]:
    """Coordinates of a node's results from those of its operands, for one unknown.

    Args:
        node: the operation.
        coords: per operand, its coordinates, or None where it does not depend on the unknown.
        shapes: operand shapes.
        known: per operand, its value where it is data, else None.
        outs: result shapes.
    """
    present = [c for c in coords if c is not None]
    if not present:
        return [None] * len(outs)
    name, params, ndim = node.name, node.params, len(outs[0])
    first = present[0]
    if name == "select_n" and known[0] is not None and is_concrete(known[0]):
        return [_select(coords[1:], np.asarray(known[0]), outs[0])]
    if name in ELEMENTWISE:
        spread = [
            _map(c, lambda a: a.reshape((1,) * ndim) if a.ndim == 0 else a) if len(s) != ndim else c
            for c, s in zip(coords, shapes, strict=True)
            if c is not None
        ]
        result = spread[0]
        for c in spread[1:]:
            result = merge(result, c)
        return [result]
    if name == "broadcast_in_dim":
        return [_map(first, lambda c: place(c, params["broadcast_dimensions"], ndim))]
    if (name in ("reshape", "squeeze", "expand_dims") and params.get("dimensions") is None) or name == "squeeze":
        return [_map(first, lambda c: _reshape(c, shapes[0], outs[0]))]
    if name == "transpose":
        return [_map(first, lambda c: c.transpose(params["permutation"]))]
    if name in REDUCTIONS:
        return [tuple(collapse(c, params["axes"]) for c in first)]
    if name in SCANS_ALONG:
        return [tuple(collapse(c, [params["axis"]], keepdims=True) for c in first)]
    if name in MATRIX:
        return [_batched_matrix(present, ndim)]
    if name == "dot_general":
        return [_dot_general(node, coords, shapes, ndim)]
    if name == "gather":
        return [_gather(node, coords, (*shapes, outs[0]), known)]
    if name in _MOVES and len(outs) == 1:
        return [_structural(node, coords, shapes, known)]
    return [tuple(None for _ in first)] * len(outs)


def _select(cases: Sequence[Coordinates | None], predicate: np.ndarray, shape: Sequence[int]) -> Coordinates:
    """A choice by data: each element depends only on the case that it is taken from.

    Where to say so would take much more memory than the coordinates do (the half of every matrix of a large stack that
    is zero), elements may be said to depend on what they do not: that is sound, and changes nothing for whole matrices.
    """
    rank = len(next(c for c in cases if c is not None))
    # An axis along which a view repeats its data has one element.
    which = predicate[tuple(slice(1 if s == 0 else None) for s in predicate.strides)].astype(int)
    columns: list[np.ndarray | None] = []
    for axis in range(rank):
        met = [c[axis] for c in cases if c is not None]
        either = None if any(m is None for m in met) else functools.reduce(merge, [(m,) for m in met])[0]
        size = math.prod(np.broadcast_shapes(which.shape, *(m.shape for m in met if m is not None)))
        if either is not None and size >= max(LARGE, 8 * either.size):
            columns.append(either)
            continue
        if any(c is not None and c[axis] is None for c in cases):
            columns.append(None)
            continue
        column = np.full((1,) * len(shape), -1)
        for case, c in enumerate(cases):
            own = None if c is None else c[axis]
            if own is not None:
                column = np.where(which == case, own, column)
        columns.append(column)
    return tuple(columns)


def _batched_matrix(present: Sequence[Coordinates], ndim: int) -> Coordinates:
    def whole(c: Coordinates) -> Coordinates:
        return tuple(collapse(a, [ndim - 2, ndim - 1], keepdims=True) for a in c)

    result = whole(present[0])
    for c in present[1:]:
        result = merge(result, whole(c))
    return result


def _dot_general(node: Node, coords: Sequence[Coordinates | None], shapes: Sequence[Any], ndim: int) -> Coordinates:
    (contract, batch) = node.params["dimension_numbers"]
    result: Coordinates | None = None
    offset = len(batch[0])
    for side in (0, 1):
        free = [a for a in range(len(shapes[side])) if a not in (*contract[side], *batch[side])]
        if coords[side] is not None:
            target = list(range(len(batch[0]))) + list(range(offset, offset + len(free)))
            source = [*batch[side], *free]

            def move(c: np.ndarray | None, side: int = side, source: Any = source, target: Any = target) -> Any:
                c = collapse(c, contract[side], keepdims=True)
                if c is None:
                    return None
                return place(np.squeeze(c.transpose([*source, *contract[side]]),
                                        tuple(range(len(source), c.ndim))), target, ndim)  # fmt: skip

            moved = tuple(move(c) for c in coords[side] or ())
            result = moved if result is None else merge(result, moved)
        offset += len(free)
    assert result is not None
    return result
