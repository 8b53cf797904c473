"""Split a program's values into what is constant and what is linear in each of several unknowns.

An affine value is c + Σ_u A_u u. Its parts are held apart, each of them lazily: c under the key "", and A_u under
the unknown's name with one leading axis "@u" for the coordinates of u that are seeded. What does not vary stays
small: for `z @ W.T` with z unknown, A_z is W whatever the number of rows of z.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from .._types import Refusal
from ._enumerate import Lazy, apply_node
from ._program import Node, Program

Parts: TypeAlias = dict[str, Lazy]
"""Key "" for the constant part, an unknown's name for the part linear in it."""

_LINEAR = frozenset(
    "add sub neg convert_element_type copy copy_p real reduce_sum cumsum broadcast_in_dim reshape squeeze expand_dims"
    " transpose slice concatenate stack pad rev split".split()
)
_FIRST = {"gather": 1, "dynamic_slice": 1, "scatter": 3, "scatter-add": 3, "dynamic_update_slice": 2}
"""Linear in their array operands; the others (indices) are data. Positions before the number may be arrays."""
_INDEX = {"scatter": (1,), "scatter-add": (1,)}
_PRODUCTS = frozenset("mul dot_general conv_general_dilated".split())


def seed(name: str, shape: Sequence[int], mixed: Sequence[int]) -> Parts:
    """An unknown as parts of itself: one unit vector per coordinate of its `mixed` axes, ones along the others."""
    lengths = [shape[a] for a in mixed]
    width = int(np.prod(lengths, dtype=int))
    compact = [n if a in mixed else 1 for a, n in enumerate(shape)]
    array = np.eye(width).reshape([width, *compact])
    return {name: Lazy(array.astype(jnp.result_type(float)), tuple(shape), (f"@{name}",))}


def linear_parts(
    program: Program,
    inputs: Mapping[int, Parts],
    known: Mapping[int, Any],
    names: Sequence[str],
    order: Sequence[str],
    wanted: Sequence[int],
) -> dict[int, Parts]:
    """Evaluate a program on parts.

    Args:
        program: the program.
        inputs: one entry per input that is needed.
        known: the program's data.
        names: the unknowns.
        order: discrete latents in the order that their axes take; the seeded axes follow.
        wanted: value numbers to return.

    Raises:
        Refusal: where a wanted value is not affine in the unknowns.
    """
    values: dict[int, Any] = {i: {"": Lazy(v, np.shape(v))} for i, v in known.items()}
    values.update(inputs)
    _run(program, values, (*order, *(f"@{n}" for n in names)))
    for number in wanted:
        if isinstance(values.get(number), str):
            raise Refusal(f"not affine (through {values[number]})")
    return {i: values[i] for i in wanted}


def _run(program: Program, values: dict[int, Any], order: Sequence[str]) -> None:
    for node in program.nodes:
        operands = [values.get(i, "an input that was left out") for i in node.inputs]
        bad = next((v for v in operands if isinstance(v, str)), None)
        if bad is not None:
            values.update(dict.fromkeys(node.outputs, bad))
            continue
        if node.body is not None:
            inner: dict[int, Any] = {i: {"": Lazy(v, np.shape(v))} for i, v in node.body.known.items()}
            inner.update(zip(node.body.inputs, operands, strict=True))
            _run(node.body, inner, order)
            values.update(zip(node.outputs, (inner[i] for i in node.body.outputs), strict=True))
            continue
        shapes = [program.shape(i) for i in node.inputs]
        outs = [program.shape(i) for i in node.outputs]
        values.update(zip(node.outputs, _visit(node, operands, shapes, outs, order), strict=True))


def _visit(node: Node, operands: Sequence[Parts], shapes: Sequence[Any], outs: Sequence[Any], order: Any) -> list[Any]:
    if all(set(p) <= {""} for p in operands):
        arrays = [p.get("") or _zeros(shape) for p, shape in zip(operands, shapes, strict=True)]
        return [{"": value} for value in apply_node(node, arrays, outs, order)]
    name = node.name
    if name in _PRODUCTS or (name == "div" and set(operands[1]) <= {""}):
        return _product(node, operands, outs, order)
    if name == "select_n" and set(operands[0]) <= {""}:
        return _each_key(node, operands, {0}, shapes, outs, order)
    if name in _LINEAR:
        if name == "convert_element_type" and not jnp.issubdtype(node.params["new_dtype"], jnp.inexact):
            return ["rounding"] * len(outs)
        return _each_key(node, operands, set(), shapes, outs, order)
    if name in _FIRST:
        data = set(range(_FIRST[name], len(operands))) | set(_INDEX.get(name, ()))
        if all(set(operands[i]) <= {""} for i in data):
            return _each_key(node, operands, data, shapes, outs, order)
    return [name] * len(outs)


def _product(node: Node, operands: Sequence[Parts], outs: Sequence[Any], order: Any) -> list[Any]:
    left, right = operands
    if any(k for k in left) and any(k for k in right):
        return [f"{node.name} of unknowns"]
    parts: Parts = {}
    for a, first in left.items():
        for b, second in right.items():
            (parts[a or b],) = apply_node(node, [first, second], outs, order)
    return [parts]


def _each_key(
    node: Node, operands: Sequence[Parts], data: set[int], shapes: Sequence[Any], outs: Sequence[Any], order: Any
) -> list[Any]:
    """Apply a jointly linear operation to every part by itself; operands without that part count as zeros."""
    results: list[Parts] = [{} for _ in outs]
    for key in dict.fromkeys(k for p in operands for k in p):
        there = [i for i, p in enumerate(operands) if key in p and i not in data]
        if not there:
            continue
        if node.name in ("add", "sub") and len(there) == 1:
            value = _spread(operands[there[0]][key], outs[0])
            sign = -1 if node.name == "sub" and there[0] == 1 else 1
            results[0][key] = value if sign > 0 else Lazy(-value.array, value.shape, value.latents)
            continue
        arrays = [p[""] if i in data else p.get(key) or _zeros(shapes[i]) for i, p in enumerate(operands)]
        for result, value in zip(results, apply_node(node, arrays, outs, order), strict=True):
            result[key] = value
    return list(results)


def _zeros(shape: Sequence[int]) -> Lazy:
    return Lazy(np.zeros((1,) * len(shape), jnp.result_type(float)), tuple(shape))


def _spread(value: Lazy, shape: Sequence[int]) -> Lazy:
    """An operand of an elementwise operation at the result's shape: scalars and axes of length 1 are spread."""
    if len(value.shape) == len(shape):
        return Lazy(value.array, tuple(shape), value.latents)
    lead = jnp.shape(value.array)[: len(value.latents)]
    return Lazy(jnp.reshape(value.array, (*lead, *((1,) * len(shape)))), tuple(shape), value.latents)
