"""Is a value a sum of terms c · Π u_k^a_k with c ≥ 0, in the elements of one unknown?

That is structure and not arithmetic: sums and products of things that are not negative, by what their supports say.
Where it holds, log Σ terms has the lower bound Σ w log(term / w), whose weights w are the terms' shares (Jensen), and
what the bound wants to know of an element, Σ w a_k, is its logarithmic derivative of the log of the sum. So the terms
are never written out. An unlisted operation, a difference first of all, is "not shown"; 1 - u is a factor of its own
where u is a probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ._program import Node, Program, bind, is_concrete, restricted


@dataclass(frozen=True)
class Terms:
    """A value that is a sum of such terms; what does not hold the unknown is not negative, and a term by itself.

    Attributes:
        degree: the highest Σ a_k.
        single: whether each element is one term.
        unit: whether it is at most one, too.
        own: whether each element is one of the unknown's.
        complements: values that are 1 - u, with u an element.
    """

    degree: int = 0
    single: bool = True
    unit: bool = False
    own: bool = False
    complements: frozenset[int] = frozenset()


_MOVES = frozenset(
    "broadcast_in_dim reshape squeeze expand_dims transpose concatenate slice rev stack pad split copy copy_p"
    " select_n gather dynamic_slice dynamic_update_slice scatter real".split()
)
_DATA = {"select_n": (0, 1), "gather": (1, 2), "dynamic_slice": (1, 99), "dynamic_update_slice": (2, 99),
         "scatter": (1, 2), "scatter-add": (1, 2), "scatter_add": (1, 2)}  # fmt: skip
"""Operands that say where, not what: (first, behind the last)."""
_SUMS = frozenset("add add_any reduce_sum cumsum scatter-add scatter_add".split())
_PRODUCTS = frozenset("mul dot_general conv_general_dilated".split())
_ALWAYS = frozenset("exp exp2 logistic abs square sqrt rsqrt cosh erfc".split())
"""Not negative whatever the operand."""
_ORDERS = frozenset("min reduce_max reduce_min cummax cummin reduce_prod cumprod stop_gradient".split())
"""Not negative where the operands are not; for these the unknown may not be in them."""


def terms_of(program: Program, unknown: int, bounds: Mapping[int, str], complements: bool, wanted: int) -> Terms | None:
    """A value of a program as a sum of terms in one input; None if that is not shown.

    Args:
        program: the program.
        unknown: the input.
        bounds: "positive" or "unit" (and not above one) per input of which that is known.
        complements: whether 1 - u counts as a factor.
        wanted: the value.
    """
    part = restricted(program, [wanted])
    found = {i: Terms(unit=b == "unit") for i, b in bounds.items()}
    found[unknown] = Terms(degree=1, unit=bounds.get(unknown) == "unit", own=True)
    walk = _Walk(complements)
    walk.run(part, found, {unknown})
    return found.get(wanted)


def without_abs(program: Program, bounds: Mapping[int, str]) -> tuple[Program, dict[int, int]]:
    """The program without `abs` of what is not negative in any case.

    Args:
        program: the program.
        bounds: as in `terms_of`.

    Returns:
        The program, and in whose place which value has come.
    """
    if not any(node.name == "abs" for node in program.nodes):
        return program, {}
    found = {i: Terms(unit=b == "unit") for i, b in bounds.items()}
    _Walk(False).run(program, found, set())
    same: dict[int, int] = {}
    nodes: list[Node] = []
    for node in program.nodes:
        node = replace(node, inputs=tuple(same.get(i, i) for i in node.inputs))
        if node.name == "abs" and node.inputs[0] in found:
            same[node.outputs[0]] = node.inputs[0]
        else:
            nodes.append(node)
    outputs = tuple(same.get(i, i) for i in program.outputs)
    return Program(tuple(nodes), program.inputs, outputs, program.avals, program.known), same


class _Walk:
    """One pass over a program; `met` are the values that hold the unknown."""

    def __init__(self, complements: bool) -> None:
        self.complements = complements

    def run(self, program: Program, found: dict[int, Terms], met: set[int]) -> None:
        for node in program.nodes:
            touched = bool(met.intersection(node.inputs))
            if touched:
                met.update(node.outputs)
            if node.body is not None:
                self._body(node, program, found, met)
                continue
            for i in node.inputs:
                if i not in found and i in program.known and (data := _of_data(program.known[i])) is not None:
                    found[i] = data
            result = self._visit(node, program, found, met)
            if result is not None:
                found.update(dict.fromkeys(node.outputs, result))

    def _body(self, node: Node, program: Program, found: dict[int, Terms], met: set[int]) -> None:
        """Inside a custom-derivative call. The unknown's derivative would be the one that is given: not in there."""
        body = node.body
        assert body is not None
        if met.intersection(node.inputs):
            return
        given = {i: found.get(i) or (_of_data(program.known[i]) if i in program.known else None) for i in node.inputs}
        inner = {b: t for b, i in zip(body.inputs, node.inputs, strict=True) if (t := given[i]) is not None}
        self.run(body, inner, set())
        found.update({out: inner[o] for out, o in zip(node.outputs, body.outputs, strict=True) if o in inner})

    def _visit(self, node: Node, program: Program, found: Mapping[int, Terms], met: set[int]) -> Terms | None:
        name, inputs = node.name, node.inputs
        touched = met.intersection(inputs)
        first, last = _DATA.get(name, (0, 0))
        where, what = inputs[first:last], (*inputs[:first], *inputs[last:])
        if touched.intersection(where):
            return None
        operands = [found.get(i) for i in what]
        if name == "sub":
            return self._complement(node, program, operands, bool(touched))
        if not touched and name in _ALWAYS:
            return Terms(unit=name == "logistic")
        if not touched and name == "max" and any(o is not None for o in operands):
            return Terms()
        if name in ("integer_pow", "pow"):
            return _raised(node, program, operands[0], bool(touched))
        if any(o is None for o in operands):
            return None
        present: list[Terms] = [o for o in operands if o is not None]
        together = frozenset().union(*(o.complements for o in present))
        degrees, single = [o.degree for o in present], all(o.single for o in present)
        unit = all(o.unit for o in present)
        if name in _MOVES:
            own = all(o.own for o in present) and name not in ("dynamic_update_slice", "scatter")
            return Terms(max(degrees), single, unit, own, together)
        if name == "convert_element_type":
            exact = np.issubdtype(node.params["new_dtype"], np.inexact)
            return present[0] if exact or not touched else None
        if name in _SUMS:
            return Terms(max(degrees), not touched, False, False, together)
        if name in _PRODUCTS:
            one = name == "mul"
            return Terms(sum(degrees), single and (one or not touched), unit and one, False, together)
        if name == "div" and inputs[1] not in met:
            return replace(present[0], unit=False, own=False)
        if name == "square":
            return replace(present[0], degree=2 * present[0].degree, own=False)
        if name in _ORDERS and not touched:
            return Terms(unit=unit)
        if name == "cumprod" and single:  # touched: stick breaking
            return Terms(degrees[0] * program.shape(inputs[0])[node.params["axis"]], True, unit, False, together)
        return None

    def _complement(
        self, node: Node, program: Program, operands: Sequence[Terms | None], touched: bool
    ) -> Terms | None:
        """1 - u, with u at most one."""
        one, other = program.known.get(node.inputs[0]), operands[1]
        if one is None or not is_concrete(one) or not np.all(np.asarray(one) == 1) or other is None or not other.unit:
            return None
        if not touched:
            return Terms(unit=True)
        if not (self.complements and other.own and not other.complements):
            return None
        return Terms(degree=1, unit=True, complements=frozenset(node.outputs))


def _of_data(value: Any) -> Terms | None:
    """Data: they are what they are. Under a user's jit they are not known."""
    if not is_concrete(value) or np.issubdtype(np.asarray(value).dtype, np.complexfloating):
        return None
    value = np.asarray(value)
    return Terms(unit=bool(np.all(value <= 1))) if np.all(value >= 0) else None


def _raised(node: Node, program: Program, base: Terms | None, touched: bool) -> Terms | None:
    """A power: of the unknown's terms a natural number."""
    if node.name == "integer_pow":
        exponent: Any = node.params["y"]
    else:
        exponent = program.known.get(node.inputs[1])
        if exponent is None or not is_concrete(exponent):
            return Terms() if base is not None and not touched else None
    values = np.unique(np.asarray(exponent))
    if base is None:
        even = node.name == "integer_pow" and exponent % 2 == 0
        return Terms() if even and not touched else None
    if not touched:
        return Terms(unit=base.unit and bool(np.all(values >= 0)))
    if len(values) != 1 or values[0] < 1 or values[0] != np.round(values[0]):
        return None
    return replace(base, degree=int(values[0]) * base.degree, own=base.own and bool(values[0] == 1))


def evaluate_apart(
    program: Program, inputs: Sequence[Any], other: Sequence[Any], complements: frozenset[int], known: dict[int, Any]
) -> list[Any]:
    """Evaluate a program in which the values that are 1 - u are taken from other inputs: u and 1 - u are two unknowns.

    Args:
        program: the program.
        inputs: its inputs.
        other: inputs for the values `complements`, equal to `inputs` up to what is differentiated.
        complements: values of the program.
        known: its data.
    """
    wanted = tuple(sorted(complements))
    apart = dict(zip(wanted, restricted(program, wanted)(other, known), strict=True))
    values = {**known, **dict(zip(program.inputs, inputs, strict=True))}
    for node in program.nodes:
        if complements.intersection(node.outputs):
            values.update({i: apart[i] for i in node.outputs})
            continue
        values.update(zip(node.outputs, bind(node, [values[i] for i in node.inputs]), strict=True))
    return [values[i] for i in program.outputs]
