"""Trace a function to the simplest program that does the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from ._program import Node, Program, flatten, is_concrete, with_data_computed, without_dead_code


def _without_seams(program: Program) -> Program:
    """A slice that lies within one piece of a concatenation is a slice of that piece."""
    made = {n.outputs[0]: n for n in program.nodes if n.name == "concatenate"}
    nodes: list[Node] = []
    same: dict[int, int] = {}
    for node in program.nodes:
        node = replace(node, inputs=tuple(same.get(i, i) for i in node.inputs))
        joined = made.get(node.inputs[0]) if node.name == "slice" else None
        if joined is None:
            nodes.append(node)
            made.update({node.outputs[0]: node} if node.name == "concatenate" else {})
            continue
        axis = joined.params["dimension"]
        starts, stops = node.params["start_indices"], node.params["limit_indices"]
        first = 0
        found = node
        for piece in joined.inputs:
            last = first + program.shape(piece)[axis]
            whole = all(
                (a == 0 and b == n) or d == axis
                for d, (a, b, n) in enumerate(zip(starts, stops, program.shape(joined.outputs[0]), strict=True))
            )
            if whole and set(node.params["strides"] or (1,)) == {1} and starts[axis] == first and stops[axis] == last:
                same[node.outputs[0]] = piece
                found = None
            first = last
        if found is not None:
            nodes.append(found)
    outputs = tuple(same.get(i, i) for i in program.outputs)
    return without_dead_code(Program(tuple(nodes), program.inputs, outputs, program.avals, program.known))


def _decided(program: Program) -> Program:
    """What data decide for all elements alike is no operation: a choice, a first power, plus 0, times 0 or 1.

    So `loc + scale * 0` is `loc`, and nothing is said of the scale.
    """
    same: dict[int, int] = {}
    nodes: list[Node] = []
    program = replace(program, known=dict(program.known))
    for node in program.nodes:
        node = replace(node, inputs=tuple(same.get(i, i) for i in node.inputs))
        found = _operand(node, program)
        if found is not None:
            same[node.outputs[0]] = found
        elif node.name in ("mul", "dot_general") and any(_is(0, i, program) for i in node.inputs):
            aval = program.avals[node.outputs[0]]
            program.known[node.outputs[0]] = np.broadcast_to(np.zeros((), aval.dtype), aval.shape)
        else:
            nodes.append(node)
    outputs = tuple(same.get(i, i) for i in program.outputs)
    return without_dead_code(Program(tuple(nodes), program.inputs, outputs, program.avals, program.known))


def _constant(array: np.ndarray) -> bool:
    return bool(array.min() == array.max())


def _is(number: float, value: int, program: Program) -> bool:
    """Whether a value is data that are this number throughout."""
    data = program.known.get(value)
    if data is None or not is_concrete(data) or not np.size(data):
        return False
    array = np.asarray(data)
    return bool(array.flat[0] == number) and bool(np.all(array == number))


def _operand(node: Node, program: Program) -> int | None:
    """The operand that a node hands on as it is, if it does."""
    if node.name == "integer_pow":
        return node.inputs[0] if node.params["y"] == 1 else None
    if node.name == "select_n":
        which = program.known.get(node.inputs[0])
        if which is not None and is_concrete(which) and np.size(which) and _constant(np.asarray(which)):
            return node.inputs[1 + int(np.asarray(which).flat[0])]
    alike = [program.avals[i] == program.avals[node.outputs[0]] for i in node.inputs]
    if node.name in ("pow", "div") and alike[0] and _is(1, node.inputs[1], program):
        return node.inputs[0]
    if node.name in ("add", "mul"):
        neutral = 0 if node.name == "add" else 1
        return next((i for i, fits, other in zip(node.inputs, alike, node.inputs[::-1], strict=True)
                     if fits and i not in program.known and _is(neutral, other, program)), None)  # fmt: skip
    if node.name == "sub" and alike[0] and _is(0, node.inputs[1], program):
        return node.inputs[0]
    return None


def _renumbered(program: Program) -> Program:
    """Number values in order of appearance, so that equal structures compare equal."""
    order: dict[int, int] = {}
    for i in (*program.inputs, *(j for n in program.nodes for j in (*n.inputs, *n.outputs)), *program.outputs):
        order.setdefault(i, len(order))

    def move(ids: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(order[i] for i in ids)

    nodes = tuple(replace(n, inputs=move(n.inputs), outputs=move(n.outputs)) for n in program.nodes)
    return Program(
        nodes,
        move(program.inputs),
        move(program.outputs),
        {order[i]: a for i, a in program.avals.items() if i in order},
        {order[i]: v for i, v in program.known.items() if i in order},
    )


def trace(function: Callable[..., Any], *arguments: Any) -> tuple[Program, Any]:
    """Trace `function(*arguments)`.

    Returns:
        The program over the flattened arguments, and the tree of the function's result: its leaves are the
        program's outputs, in order.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    program = without_dead_code(_without_seams(flatten(closed)))
    return _renumbered(_decided(with_data_computed(program))), jax.tree.structure(shape)
