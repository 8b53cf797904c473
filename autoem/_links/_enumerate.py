"""Evaluate a program for every value of its discrete latents, each array no larger than it has to be.

A value is held compactly: an axis along which it does not vary has length 1, and it has one leading axis per
latent that it depends on. The latent itself is just its support, since an element of anything that passes the
analysis depends on its own element of the latent only. So `locs[z]` is held as (K, 1, D) however many data
there are, and what the data share stays shared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._coordinates import ELEMENTWISE, MATRIX, REDUCTIONS, SCANS_ALONG, compacted
from ._dependence import Dependence
from ._program import Node, Program, bind, is_concrete


@dataclass(frozen=True)
class Lazy:
    """A compact value: `array` has axes (one per name in `latents`, then compact), `shape` is the logical shape."""

    array: Any
    shape: tuple[int, ...]
    latents: tuple[str, ...] = ()

    @property
    def full(self) -> bool:
        """Whether it is just an ordinary array."""
        return not self.latents and jnp.shape(self.array) == self.shape

    @property
    def compact(self) -> tuple[int, ...]:
        """The compact shape."""
        return jnp.shape(self.array)[len(self.latents) :]

    def expanded(self, axes: Sequence[int] | None = None) -> Lazy:
        """Full length along the given axes (all by default)."""
        axes = range(len(self.shape)) if axes is None else axes
        shape = [self.shape[a] if a in axes else n for a, n in enumerate(self.compact)]
        lead = jnp.shape(self.array)[: len(self.latents)]
        if tuple(shape) == self.compact:
            return self
        return Lazy(jnp.broadcast_to(self.array, (*lead, *shape)), self.shape, self.latents)

    def aligned(self, latents: Sequence[str], ndim: int, event_ndim: int = 0) -> Any:
        """The array with axes (*latents, *ndim batch axes, *event axes), length 1 where it does not vary."""
        lead = jnp.shape(self.array)[: len(self.latents)]
        sizes = dict(zip(self.latents, lead, strict=True))
        missing = ndim + event_ndim - len(self.shape)
        return jnp.reshape(self.array, [*(sizes.get(n, 1) for n in latents), *([1] * missing), *self.compact])


def _lift(function: Any, operands: Sequence[Lazy], order: Sequence[str]) -> tuple[Any, tuple[str, ...]]:
    """Apply a function of compact arrays for each combination of latent values."""
    names = tuple(n for n in order if any(n in v.latents for v in operands))
    if all(v.latents == names for v in operands) and not names:
        return function(*[v.array for v in operands]), ()
    lifted = function
    for name in reversed(names):
        lifted = jax.vmap(lifted, in_axes=tuple(0 if name in v.latents else None for v in operands))
    return lifted(*[v.array for v in operands]), names


def _elementwise(node: Node, operands: Sequence[Lazy], order: Sequence[str]) -> Any:
    ndim = max(len(v.shape) for v in operands)

    def apply(*arrays: Any) -> Any:
        spread = [a if jnp.ndim(a) == ndim else jnp.reshape(a, (1,) * ndim) for a in arrays]
        shape = jnp.broadcast_shapes(*(jnp.shape(a) for a in spread))
        return bind(node, [jnp.broadcast_to(a, shape) for a in spread])[0]

    return _lift(apply, operands, order)


def _take(node: Node, operands: Sequence[Lazy], order: Sequence[str]) -> Any:
    """Gather. Along an indexed axis where the operand does not vary, every index finds the same: index 0."""
    numbers = node.params["dimension_numbers"]
    operand, indices = operands
    last = len(indices.shape) - 1
    batching = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    for o, s in batching.items():
        if operand.compact[o] != indices.compact[s]:
            operand, indices = operand.expanded([o]), indices.expanded([s])
    indices = indices.expanded([last])
    if _finds_the_same(operand, indices, node):
        indices = Lazy(indices.array[(slice(0, 1),) * last], indices.shape)
    constant = [a for a in range(len(operand.shape)) if operand.compact[a] == 1 and operand.shape[a] > 1]
    sizes = tuple(1 if a in constant and a not in batching else n for a, n in enumerate(node.params["slice_sizes"]))
    keep = np.array([0 if a in constant else 1 for a in numbers.start_index_map], np.int32)
    params = {**node.params, "slice_sizes": sizes}

    def apply(array: Any, index: Any) -> Any:
        index = index * keep.astype(index.dtype) if not keep.all() else index
        return node.primitive.bind(array, index, **params)

    return _lift(apply, [operand, indices], order)


def _finds_the_same(operand: Lazy, indices: Lazy, node: Node) -> bool:
    """Whether every index is known to find the same, as the operand varies along none of the axes that are indexed."""
    numbers = node.params["dimension_numbers"]
    if numbers.operand_batching_dims or indices.latents or not is_concrete(indices.array):
        return False
    if any(operand.compact[a] != 1 or operand.shape[a] == 1 for a in numbers.start_index_map):
        return False
    most = [operand.shape[a] - node.params["slice_sizes"][a] for a in numbers.start_index_map]
    found = np.asarray(indices.array)
    return bool(found.size and np.all(found >= 0) and np.all(found <= most))


def _contract(node: Node, operands: Sequence[Lazy], order: Sequence[str]) -> Any:
    contract, batch = node.params["dimension_numbers"]
    pair = [v.expanded(contract[side]) for side, v in enumerate(operands)]
    for a, b in zip(*batch, strict=True):
        if pair[0].compact[a] != pair[1].compact[b]:
            pair = [pair[0].expanded([a]), pair[1].expanded([b])]
    return _lift(lambda *arrays: bind(node, arrays)[0], pair, order)


def _reduce(node: Node, operands: Sequence[Lazy], order: Sequence[str]) -> Any:
    axes = node.params["axes"]
    value = operands[0]
    unit = [a for a in axes if value.compact[a] == 1]
    if node.name == "reduce_sum" and unit:
        times = math.prod(value.shape[a] for a in unit)
        return _lift(lambda x: bind(node, [x])[0] * jnp.asarray(times, x.dtype), [value], order)
    if node.name in ("reduce_max", "reduce_min", "reduce_and", "reduce_or"):
        return _lift(lambda x: bind(node, [x])[0], [value], order)
    return _lift(lambda x: bind(node, [x])[0], [value.expanded(axes)], order)


def _reshape(node: Node, value: Lazy, out: tuple[int, ...], order: Sequence[str]) -> Any:
    """Unit axes come and go; otherwise expand. A compact axis stays compact where it is kept whole."""
    old, new = [n for n in value.shape if n != 1], [n for n in out if n != 1]
    if old == new:
        lengths = iter([c for c, n in zip(value.compact, value.shape, strict=True) if n != 1])
        target = [1 if n == 1 else next(lengths) for n in out]
    else:
        value, target = value.expanded(), list(out)
    return _lift(lambda x: jnp.reshape(x, target), [value], order)


def _slice(node: Node, value: Lazy, order: Sequence[str]) -> Any:
    """An axis along which nothing varies stays compact."""
    constant = [c == 1 for c in value.compact]
    start = [0 if one else n for one, n in zip(constant, node.params["start_indices"], strict=True)]
    stop = [1 if one else n for one, n in zip(constant, node.params["limit_indices"], strict=True)]
    strides = node.params["strides"] or [1] * len(start)
    strides = [1 if one else n for one, n in zip(constant, strides, strict=True)]
    return _lift(lambda x: jax.lax.slice(x, start, stop, strides), [value], order)


def _compacted(value: Lazy) -> Lazy:
    """An index that is known and the same along an axis."""
    array = value.array
    if value.latents or not is_concrete(array) or not jnp.issubdtype(jnp.result_type(array), jnp.integer):
        return value
    return Lazy(compacted(np.asarray(array)), value.shape)


def _join(node: Node, operands: Sequence[Lazy], order: Sequence[str]) -> Any:
    axis = node.params["dimension"]
    operands = [_compacted(v) for v in operands]
    ndim = len(operands[0].shape)
    lengths = [max(v.compact[a] for v in operands) for a in range(ndim)]
    pieces = [v.expanded([axis, *(a for a in range(ndim) if lengths[a] > 1)]) for v in operands]
    return _lift(lambda *arrays: bind(node, arrays)[0], pieces, order)


def _apply(node: Node, operands: Sequence[Lazy], out: tuple[int, ...], order: Sequence[str]) -> Any:
    """(array, latents) of a node's first result."""
    name, params = node.name, node.params
    if name in ELEMENTWISE:
        return _elementwise(node, operands, order)
    value = operands[0]
    if name == "broadcast_in_dim":
        axes = params["broadcast_dimensions"]

        def spread(x: Any) -> Any:
            shape = [1] * len(out)
            for source, target in enumerate(axes):
                shape[target] = jnp.shape(x)[source]
            return jnp.reshape(x, shape)

        return _lift(spread, [value], order)
    if name in ("reshape", "squeeze", "expand_dims"):
        return _reshape(node, value, out, order)
    if name == "slice":
        return _slice(node, value, order)
    if name == "transpose":
        return _lift(lambda x: jnp.transpose(x, params["permutation"]), [value], order)
    if name == "gather":
        return _take(node, operands, order)
    if name == "pad":
        axes = [a for a, width in enumerate(params["padding_config"]) if tuple(width) != (0, 0, 0)]
        return _lift(lambda *xs: bind(node, xs)[0], [value.expanded(axes), *operands[1:]], order)
    if name == "dot_general":
        return _contract(node, operands, order)
    if name in REDUCTIONS:
        return _reduce(node, operands, order)
    if name == "concatenate":
        return _join(node, operands, order)
    if name in SCANS_ALONG:
        return _lift(lambda x: bind(node, [x])[0], [value.expanded([params["axis"]])], order)
    if name in MATRIX:
        ndim = len(out)
        lengths = [max(v.compact[a] for v in operands) for a in range(ndim - 2)]
        axes = [ndim - 2, ndim - 1, *(a for a in range(ndim - 2) if lengths[a] > 1)]
        return _lift(lambda *xs: bind(node, xs)[0], [v.expanded(axes) for v in operands], order)
    return _lift(lambda *xs: bind(node, xs)[0], [v.expanded() for v in operands], order)


def evaluate_lazily(
    program: Program,
    inputs: Mapping[int, Lazy | None],
    known: Mapping[int, Any],
    dependence: Mapping[int, Dependence],
    order: Sequence[str],
    wanted: Sequence[int],
) -> dict[int, Lazy | None]:
    """Evaluate a program at lazy inputs.

    Args:
        program: the program.
        inputs: one lazy value per input; a latent is its support with unit batch axes. None: not wanted.
        known: the program's data.
        dependence: from `analyse`, on the latents; a value that mixes elements of one has no value (None).
        order: all latents, in the order that their axes take.
        wanted: value numbers to return.
    """
    values: dict[int, Lazy | None] = {i: Lazy(v, np.shape(v)) for i, v in known.items()}
    values.update(inputs)
    _run(program, values, dependence, order)
    return {i: values[i] for i in wanted}


def _mixes(number: int, dependence: Mapping[int, Dependence]) -> bool:
    found = dependence.get(number)
    return found is not None and any(c is None for coords in found.coordinates.values() for c in coords)


def _run(program: Program, values: dict[int, Any], dependence: Mapping[int, Dependence], order: Sequence[str]) -> None:
    for node in program.nodes:
        operands = [values[i] for i in node.inputs]
        if any(v is None for v in operands) or any(_mixes(o, dependence) for o in node.outputs):
            values.update(dict.fromkeys(node.outputs))
        elif node.body is not None and all(v.full for v in operands):
            results = bind(node, [v.array for v in operands])
            values.update({o: Lazy(r, program.shape(o)) for o, r in zip(node.outputs, results, strict=True)})
        elif node.body is not None:
            body = node.body
            inner: dict[int, Any] = {i: Lazy(v, np.shape(v)) for i, v in body.known.items()}
            inner.update(zip(body.inputs, operands, strict=True))
            _run(body, inner, {}, order)
            values.update(zip(node.outputs, (inner[i] for i in body.outputs), strict=True))
        else:
            outs = [program.shape(o) for o in node.outputs]
            values.update(zip(node.outputs, apply_node(node, operands, outs, order), strict=True))


def apply_node(
    node: Node, operands: Sequence[Lazy], outs: Sequence[tuple[int, ...]], order: Sequence[str]
) -> list[Lazy]:
    """The results of one operation (without a body) on lazy operands; `outs` are their logical shapes."""
    # What is spread over new axes is not written out: the steps of a scan share their matrices.
    if all(v.full for v in operands) and node.name != "broadcast_in_dim":
        return [Lazy(r, o) for r, o in zip(bind(node, [v.array for v in operands]), outs, strict=True)]
    if len(outs) == 1:
        array, latents = _apply(node, operands, outs[0], order)
        return [Lazy(array, outs[0], latents)]
    arrays, latents = _lift(lambda *xs: bind(node, xs), [v.expanded() for v in operands], order)
    return [Lazy(a, o, latents) for a, o in zip(arrays, outs, strict=True)]
