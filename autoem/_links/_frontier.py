"""Where a program stops being affine: cut it there, and what is left is affine in the values at the cut."""

from __future__ import annotations

from collections.abc import Sequence

from ._coordinates import own_coordinates
from ._dependence import analyse
from ._program import Program, restricted


def affine_part(program: Program, outputs: Sequence[int]) -> Program:
    """The last part of a program, jointly affine in its inputs.

    Every operation that is not affine in what it depends on is cut off, its results become inputs. For
    `x @ b + tau * L @ z` with z known, the inputs are b and the value of `tau * L`.

    Args:
        program: from unknowns to values.
        outputs: the values that are wanted.

    Returns:
        A program whose inputs are original inputs and values at the cut: only those that an output needs.
    """
    cut: list[int] = []
    while True:
        made = set(cut)
        nodes = tuple(n for n in program.nodes if not made.intersection(n.outputs))
        inputs = (*program.inputs, *cut)
        part = restricted(Program(nodes, inputs, tuple(outputs), program.avals, program.known), outputs)
        unknowns = {i: (str(i), own_coordinates(program.shape(i))) for i in inputs}
        found = analyse(part, unknowns)
        broken = next((n for n in part.nodes if any(i in found and not found[i].affine for i in n.outputs)), None)
        if broken is None:
            reached = {i for n in part.nodes for i in n.inputs} | set(outputs)
            return Program(part.nodes, tuple(i for i in inputs if i in reached), part.outputs, part.avals, part.known)
        cut += broken.outputs
