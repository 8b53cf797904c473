"""How a value depends on a set of unknowns: not at all, as a selection, as c·u^p, affinely, or opaquely."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ._coordinates import Coordinates, propagate
from ._program import Node, Program, is_concrete

_KEEPS = frozenset(
    "broadcast_in_dim reshape squeeze expand_dims transpose concatenate pad rev slice split dynamic_slice"
    " dynamic_update_slice scatter stack gather copy copy_p".split()
)
_LINEAR = frozenset("reduce_sum cumsum neg real dot_general conv_general_dilated scatter-add scatter_add".split())
_POWERS = {"square": 2.0, "sqrt": 0.5, "rsqrt": -0.5}


@dataclass(frozen=True)
class Dependence:
    """Of one value on a set of unknowns.

    Attributes:
        coordinates: per unknown that the value depends on, its coordinates.
        power: the value is c · u^power elementwise for one unknown u (c free of the unknowns); None where it is not.
        pure: power is 1 and c is 1: the value only selects elements of u (and, where -1, data).
        affine: the value is jointly affine in all the unknowns.
        steps: the operations that made it neither, for people to read.
    """

    coordinates: Mapping[str, Coordinates]
    power: float | None = 1.0
    pure: bool = True
    affine: bool = True
    steps: tuple[str, ...] = ()

    def selects(self, name: str) -> bool:
        """Whether each element depends on exactly one element of the unknown (or on none)."""
        return all(c is not None for c in self.coordinates[name])

    @property
    def opaque(self) -> bool:
        """Neither affine nor a power."""
        return not self.affine and self.power is None


def describe(d: Dependence) -> str:
    """A dependence in words."""
    if d.affine:
        return "affine"
    if d.power is not None:
        return f"proportional to its power {d.power:g}"
    return f"a nonlinear function ({', '.join(d.steps)})"


def _opaque(coordinates: Mapping[str, Coordinates], name: str, operands: Sequence[Dependence]) -> Dependence:
    steps = tuple(dict.fromkeys([*(s for d in operands for s in d.steps), name]))
    return Dependence(coordinates, None, False, False, steps)


def _kind(node: Node, operands: Sequence[Dependence | None], known: Sequence[Any], coords: Any) -> Dependence:
    """The kind of a node's result (first, by far the most used operations)."""
    name = node.name
    present = [d for d in operands if d is not None]
    affine = all(d.affine for d in present)
    first = replace(present[0], coordinates=coords)
    if name == "convert_element_type":
        return first if np.issubdtype(node.params["new_dtype"], np.inexact) else _opaque(coords, "rounding", present)
    if name in _KEEPS:
        if name == "gather" and operands[1] is not None:
            return _opaque(coords, "index", present)
        same = len({d.power for d in present}) == 1
        power = present[0].power if same and len({n for d in present for n in d.coordinates}) == 1 else None
        return Dependence(coords, power, all(d.pure for d in present) and power is not None, affine, first.steps)
    if name == "select_n":
        if operands[0] is not None:
            return _opaque(coords, "where", present)
        fixed = known[0] is not None and is_concrete(known[0])
        power = present[0].power if len({d.power for d in present}) == 1 and fixed else None
        pure = power is not None and all(d.pure for d in present)
        return Dependence(coords, power, pure, affine, first.steps)
    if name in ("mul", "div"):
        return _product(node, operands, coords)
    if name in ("add", "sub"):
        return Dependence(coords, None, False, True, ()) if affine else _opaque(coords, name, present)
    if name in _LINEAR:
        if len(present) > 1 or not affine:
            return _opaque(coords, name, present)
        return replace(first, power=first.power if name == "neg" else None, pure=False)
    if name in _POWERS:
        return _raised(first, _POWERS[name], name, coords)
    if name == "integer_pow":
        return _raised(first, float(node.params["y"]), name, coords)
    if name == "pow" and known[1] is not None and is_concrete(known[1]) and np.ptp(np.asarray(known[1])) == 0:
        return _raised(first, float(np.asarray(known[1]).flat[0]), name, coords)
    return _opaque(coords, name, present)


def _raised(base: Dependence, exponent: float, name: str, coords: Any) -> Dependence:
    if base.power is None:
        return _opaque(coords, name, [base])
    power = base.power * exponent
    return Dependence(coords, power, base.pure and exponent == 1, power == 1 and base.power == 1, ())


def _product(node: Node, operands: Sequence[Dependence | None], coords: Any) -> Dependence:
    left, right = operands
    sign = -1.0 if node.name == "div" else 1.0
    if right is None:
        assert left is not None
        return replace(left, coordinates=coords, pure=False)
    if left is None:
        power = None if right.power is None else sign * right.power
        if power is None and (sign < 0 or not right.affine):
            return _opaque(coords, node.name, [right])
        return Dependence(coords, power, False, right.affine and sign > 0, right.steps)
    everywhere = all(
        c is not None and np.all(c >= 0) for d in (left, right) for cs in d.coordinates.values() for c in cs
    )
    same = set(left.coordinates) == set(right.coordinates)
    if left.power is None or right.power is None or not same or not everywhere:
        return _opaque(coords, node.name, [left, right])
    return Dependence(coords, left.power + sign * right.power, False, False, ())


def analyse(
    program: Program,
    unknowns: Mapping[int, tuple[str, Coordinates]],
    kinds: bool = True,
    complements: Collection[str] = (),
) -> dict[int, Dependence]:
    """Dependence of every value of a program on the given inputs, jointly.

    Args:
        program: the program.
        unknowns: input number -> (name, own coordinates). Other inputs count as known.
        kinds: whether to work out kinds as well as coordinates.
        complements: unknowns of which 1 - u is a selection too. They have one coordinate more, the last: 0 where a
            value is an element, 1 where it is one less an element (kinds are needed).

    Returns:
        value number -> Dependence, for the values that depend on an unknown.
    """
    found = {i: Dependence({name: coords}) for i, (name, coords) in unknowns.items()}
    single = {name: [c is not None and c.size == 1 for c in coords] for name, coords in unknowns.values()}
    for name in complements:
        single[name][-1] = False  # u and 1 - u are two
    for node in program.nodes:
        _visit(node, program, found, program.known, kinds, single, complements)
    return found


def _visit(
    node: Node,
    program: Program,
    found: dict[int, Dependence],
    known: Mapping[int, Any],
    kinds: bool,
    single: Mapping[str, Sequence[bool]],
    complements: Collection[str],
) -> None:
    operands = [found.get(i) for i in node.inputs]
    present = [d for d in operands if d is not None]
    if not present:
        return
    if node.body is not None:
        _visit_body(node, found, known, kinds, single, complements)
        return
    shapes = [program.shape(i) for i in node.inputs]
    outs = [program.shape(i) for i in node.outputs]
    data = [known.get(i) for i in node.inputs]
    names = dict.fromkeys(n for d in present for n in d.coordinates)
    per_name = {
        n: propagate(node, [None if d is None else d.coordinates.get(n) for d in operands], shapes, data, outs)
        for n in names
    }
    for position, out in enumerate(node.outputs):
        ndim = len(outs[position])
        coords = {n: _settled(c[position], single[n], ndim) for n, c in per_name.items() if c[position] is not None}
        if not coords:
            continue
        found[out] = _kind(node, operands, data, coords) if kinds else _opaque(coords, node.name, present)
        if kinds and set(coords) <= set(complements) and _is_complement(node, operands, data):
            flipped = {n: (*c[:-1], None if c[-1] is None else np.where(c[-1] < 0, -1, 1 - c[-1]))
                       for n, c in coords.items()}  # fmt: skip
            found[out] = Dependence(flipped)


def _is_complement(node: Node, operands: Sequence[Dependence | None], known: Sequence[Any]) -> bool:
    """Whether a node is 1 - u with u a selection."""
    if node.name != "sub" or operands[0] is not None or operands[1] is None:
        return False
    one = known[0]
    return operands[1].pure and one is not None and is_concrete(one) and bool(np.all(np.asarray(one) == 1))


def _settled(coords: Coordinates | None, single: Sequence[bool], ndim: int) -> Coordinates:
    """An axis of length 1 cannot be mixed."""
    assert coords is not None
    only = np.zeros((1,) * ndim, int)
    return tuple(only if c is None and one else c for c, one in zip(coords, single, strict=True))


def _visit_body(
    node: Node, found: dict[int, Dependence], known: Mapping[int, Any], kinds: bool, single: Any, complements: Any
) -> None:
    """Inside a custom-derivative call: what it computes is what counts."""
    body = node.body
    assert body is not None
    inner = {b: found[i] for b, i in zip(body.inputs, node.inputs, strict=True) if i in found}
    data = {**body.known, **{b: known[i] for b, i in zip(body.inputs, node.inputs, strict=True) if i in known}}
    for child in body.nodes:
        _visit(child, body, inner, data, kinds, single, complements)
    for out, result in zip(node.outputs, body.outputs, strict=True):
        if result in inner:
            found[out] = inner[result]
