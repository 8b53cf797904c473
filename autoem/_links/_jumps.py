"""Which values depend on unknowns through comparisons only: they jump, and are constant between."""

from __future__ import annotations

from collections.abc import Iterable

import jax.numpy as jnp

from ._program import Program

_STEPS = frozenset({"floor", "ceil", "round", "sign"})


def jumping(program: Program, inputs: Iterable[int]) -> set[int]:
    """Values that depend on some of the inputs, of which every path leads through a comparison or a rounding.

    Args:
        program: the program.
        inputs: value numbers.
    """
    smooth = set(inputs)
    met = set(smooth)
    for node in program.nodes:
        if not met.intersection(node.inputs):
            continue
        met.update(node.outputs)
        if node.name not in _STEPS and smooth.intersection(node.inputs):
            smooth.update(i for i in node.outputs if jnp.issubdtype(program.avals[i].dtype, jnp.inexact))
    return met - smooth
