"""Short formulas of a program's values for people to read: `locs[z]`, `x · beta[z]`, `f(a, b)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ._program import Program

_BINARY = {"add": "+", "sub": "-", "mul": "·", "div": "/", "dot_general": "@", "conv_general_dilated": "∗"}
_SAME = frozenset("broadcast_in_dim reshape squeeze expand_dims convert_element_type copy copy_p transpose".split())
_FUNCTIONS = frozenset("exp log sqrt logistic tanh sin cos neg cumsum log1p expm1 abs".split())
_LONGEST = 48


def _constant(value: Any) -> str:
    if np.ndim(value) == 0:
        return f"{float(value):.4g}" if jnp.issubdtype(jnp.result_type(value), np.number) else "·"
    return "data"


def expressions(program: Program, names: Mapping[int, str]) -> dict[int, str]:
    """A formula for every value of a program.

    Args:
        program: the program.
        names: names of the inputs, by number.

    Returns:
        value number -> text; a formula that would be too long becomes `f(unknowns)`.
    """
    text: dict[int, str] = dict(names)
    inside: dict[int, tuple[str, ...]] = {i: (n,) for i, n in names.items()}
    for node in program.nodes:
        operands = [text.get(i) or _constant(program.known[i]) for i in node.inputs]
        unknowns = tuple(dict.fromkeys(n for i in node.inputs for n in inside.get(i, ())))
        shown = _one(node.name, operands, node.params)
        if shown is None or len(shown) > _LONGEST:
            shown = f"f({', '.join(unknowns)})"
        for out in node.outputs:
            text[out], inside[out] = shown, unknowns
    return text


def _one(name: str, operands: list[str], params: Mapping[str, Any]) -> str | None:
    if name in _SAME:
        return operands[0]
    if name in _BINARY:
        left, right = (f"({o})" if " " in o and name not in ("add", "sub") else o for o in operands)
        return f"{left} {_BINARY[name]} {right}"
    if name == "gather":
        return f"{operands[0]}[{operands[1]}]"
    if name == "select_n":
        choices = [o for o in operands[1:] if o not in ("data", "0")]
        distinct = list(dict.fromkeys(choices))
        shortest = min(distinct, key=len, default="data")
        wrapped = all(o == shortest or o.startswith(f"{shortest} + ") for o in distinct)
        return shortest if wrapped else f"where({', '.join(operands)})"
    if name == "concatenate":
        return f"[{', '.join(dict.fromkeys(operands))}]"
    if name == "integer_pow":
        return f"{operands[0]}^{params['y']}"
    if name == "square":
        return f"({operands[0]})²"
    if name == "reduce_sum":
        return f"Σ({operands[0]})"
    if name in _FUNCTIONS:
        return f"{'-' if name == 'neg' else name}({operands[0]})"
    if name in ("slice", "dynamic_slice"):
        return f"{operands[0]}[·]"
    return None
