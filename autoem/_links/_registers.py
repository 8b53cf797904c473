"""States of a scan that are shift registers: `jnp.concatenate([new[None], old[:-1]])`, lags or seasons in one vector.

As a whole such a state depends on itself, so the scan would recur. Element by element it does not: what moves up was a
value of some earlier step. Dependence is followed through operations that only move elements; the state is then handed
on as so many states of one element each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

Element: TypeAlias = tuple[int, int]
"""A state and a position along the axis at which it is split; position -1: the state as a whole."""

_MOST = 64
"""Longest register."""

_MOVES = frozenset(
    "slice squeeze reshape broadcast_in_dim transpose rev expand_dims copy copy_p convert_element_type concatenate "
    "gather dynamic_slice dynamic_update_slice scatter stack".split()
)
_DATA = {"gather": (0,), "dynamic_slice": (0,), "dynamic_update_slice": (0, 1), "scatter": (0, 2)}
"""Which operands are moved; the others are indices. All of them where nothing is said."""


class Origins:
    """From which elements of the states that came in the elements of every value of a step come.

    Attributes:
        sets: what a label stands for.
        labels: per value that depends on a state, an array of labels of its shape.
    """

    def __init__(self, step: Any, entering: Sequence[int], axes: Mapping[int, int], bind: Callable[..., Any]) -> None:
        self.step, self.bind, self.known = step, bind, dict(step.known)
        self.sets: list[frozenset[Element]] = [frozenset()]
        self.labels: dict[int, np.ndarray] = {}
        for state, number in enumerate(entering):
            shape = step.shape(number)
            if state in axes:
                axis = axes[state]
                own = np.array([self._label(frozenset([(state, i)])) for i in range(shape[axis])])
                lengths = [len(own) if a == axis else 1 for a in range(len(shape))]
                self.labels[number] = np.broadcast_to(own.reshape(lengths), shape)
            else:
                self.labels[number] = np.full(shape, self._label(frozenset([(state, -1)])))
        with jax.ensure_compile_time_eval():
            for node in step.nodes:
                self._follow(node)

    def of(self, number: int, axis: int | None = None) -> list[frozenset[Element]]:
        """Origins of a value as a whole, or of every position along an axis of it."""
        labels = self.labels.get(number)
        if labels is None:
            return [frozenset()] * (1 if axis is None else self.step.shape(number)[axis])
        rows = [labels] if axis is None else list(np.moveaxis(labels, axis, 0))
        return [frozenset().union(*(self.sets[i] for i in np.unique(row))) for row in rows]

    def _label(self, origins: frozenset[Element]) -> int:
        self.sets.append(origins)
        return len(self.sets) - 1

    def _follow(self, node: Any) -> None:
        if not any(i in self.labels for i in node.inputs):
            self._compute(node)
            return
        moved = self._moved(node)
        if moved is not None:
            self.labels[node.outputs[0]] = moved
            return
        met = {int(i) for n in node.inputs if n in self.labels for i in np.unique(self.labels[n])}
        label = self._label(frozenset().union(*(self.sets[i] for i in met)))
        self.labels.update({i: np.full(self.step.shape(i), label) for i in node.outputs})

    def _compute(self, node: Any) -> None:
        """Indices that follow from numbers."""
        avals = [self.step.avals[i] for i in (*node.inputs, *node.outputs)]
        whole = all(a.size <= _MOST and (a.dtype == bool or jnp.issubdtype(a.dtype, jnp.integer)) for a in avals)
        operands = [self.known.get(i) for i in node.inputs]
        if whole and node.body is None and not any(o is None or isinstance(o, Tracer) for o in operands):
            self.known.update(zip(node.outputs, self.bind(node, operands), strict=True))

    def _moved(self, node: Any) -> np.ndarray | None:
        """The labels of the result where a node only moves elements, by moving their labels; else None."""
        kinds = [self.step.avals[i].dtype for i in (node.inputs[0], node.outputs[0])]
        if node.name not in _MOVES or not all(_holds_labels(k) for k in kinds):
            return None
        data, operands = _DATA.get(node.name, range(len(node.inputs))), []
        for position, number in enumerate(node.inputs):
            if position in data:
                labels = self.labels.get(number, np.zeros(self.step.shape(number)))
                operands.append(jnp.asarray(labels, self.step.avals[number].dtype))
            elif (known := self.known.get(number)) is not None and not isinstance(known, Tracer):
                operands.append(jnp.asarray(known))
            else:
                return None
        moved = np.asarray(self.bind(node, operands)[0])
        return np.where(np.isfinite(moved) & (moved > 0), moved, 0).astype(int)  # what is filled in is no element


def _holds_labels(dtype: Any) -> bool:
    kinds = (jnp.floating, jnp.signedinteger)
    return any(jnp.issubdtype(dtype, k) for k in kinds) and dtype.itemsize >= 4


def registers(step: Any, entering: Sequence[int], bind: Callable[..., Any]) -> dict[int, int]:
    """States that recur as a whole but not element by element, and the axis along which they are registers.

    Args:
        step: the program of one step; its first outputs are the states.
        entering: numbers of the states that come in.
        bind: applies a node to operands.
    """
    reach = reached(step, entering)
    graph = {(j, -1): frozenset((k, -1) for k in reach.get(step.outputs[j], ())) for j in range(len(entering))}
    found = {}
    for state, number in enumerate(entering):
        shape = step.shape(number)
        if step.outputs[state] == number or not shape or not _recurs((state, -1), graph):
            continue
        for axis in dict.fromkeys((0, len(shape) - 1)):
            if 2 <= shape[axis] <= _MOST and _shifts(step, entering, state, axis, bind):
                found[state] = axis
                break
    return found


def reached(step: Any, entering: Sequence[int]) -> dict[int, frozenset[int]]:
    """The states that came in on which values of a step depend, as a whole: from node to node, whatever the sizes."""
    reach: dict[int, frozenset[int]] = {i: frozenset([j]) for j, i in enumerate(entering)}
    for node in step.nodes:
        met = frozenset().union(*(reach.get(i, frozenset()) for i in node.inputs))
        reach.update(dict.fromkeys(node.outputs, met))
    return reach


def _shifts(step: Any, entering: Sequence[int], state: int, axis: int, bind: Callable[..., Any]) -> bool:
    origins = Origins(step, entering, {state: axis}, bind)
    graph = {(j, -1): origins.of(step.outputs[j])[0] for j in range(len(entering)) if j != state}
    own = {(state, i): found for i, found in enumerate(origins.of(step.outputs[state], axis))}
    return not any(_recurs(element, {**graph, **own}) for element in own)


def _recurs(start: Element, graph: Mapping[Element, frozenset[Element]]) -> bool:
    """Whether an element depends on itself, steps before."""
    seen: set[Element] = set()
    fresh = set(graph[start])
    while fresh:
        seen |= fresh
        fresh = {e for f in fresh for e in graph[f]} - seen
    return start in seen


def origin(
    step: Any, state: int, consts: int, states: int, restricted: Callable[[Any, Sequence[int]], Any]
) -> set[int]:
    """Positions of the operands that a state depends on, at whatever step.

    Args:
        step: the program of one step.
        state: the one that is asked about.
        consts, states: numbers of constants and states.
        restricted: (program, outputs) -> the part that these need.
    """
    used: set[int] = set()
    fresh = {state}
    while fresh:
        part = restricted(step, [step.outputs[j] for j in fresh])
        needed = {i for n in part.nodes for i in n.inputs} | set(part.outputs)
        new = {position for position, i in enumerate(step.inputs) if i in needed} - used
        used |= new
        fresh = {i - consts for i in new if consts <= i < consts + states}
    return used


Widths: TypeAlias = Sequence[tuple[int, int]]
"""Per state its axis and number of elements; 0 elements: not a register."""

Emit: TypeAlias = Callable[[Callable[..., Any], Sequence[int]], list[int]]
"""(function, operands) -> value numbers of the function's results."""


def apart(states: Sequence[int], widths: Widths, emit: Emit) -> list[int]:
    """Values of the states, registers element by element."""
    found: list[int] = []
    for number, (axis, width) in zip(states, widths, strict=True):
        found += emit(lambda value, axis=axis: _pieces(value, axis), [number]) if width else [number]
    return found


def together(states: Sequence[int], widths: Widths, emit: Emit) -> list[int]:
    """The inverse."""
    found, at = [], 0
    for axis, width in widths:
        own = states[at : at + max(width, 1)]
        found += emit(lambda *parts, axis=axis: _stack(parts, axis), own) if width else own
        at += max(width, 1)
    return found


def step_apart(call: Callable[..., Sequence[Any]], consts: int, widths: Widths) -> Callable[..., list[Any]]:
    """A step whose registers come in and go out element by element.

    Args:
        call: (constants, states, inputs) -> states and outputs, all of them flat.
        consts: number of constants.
        widths: of the states.
    """

    def run(*operands: Any) -> list[Any]:
        given, at = list(operands[:consts]), consts
        for axis, width in widths:
            own = operands[at : at + max(width, 1)]
            given.append(_stack(own, axis) if width else own[0])
            at += max(width, 1)
        results = list(call(*given, *operands[at:]))
        states: list[Any] = []
        for value, (axis, width) in zip(results, widths, strict=False):
            states += _pieces(value, axis) if width else [value]
        return [*states, *results[len(widths) :]]

    return run


def _pieces(value: Any, axis: int) -> list[Any]:
    return [jax.lax.index_in_dim(value, i, axis, keepdims=False) for i in range(jnp.shape(value)[axis])]


def _stack(parts: Sequence[Any], axis: int) -> Any:
    return jax.lax.concatenate([jnp.expand_dims(p, axis) for p in parts], axis)
