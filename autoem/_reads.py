"""The latents of a scan, split into the ways in which a model reads them: this step's value, the one before, ...

A scan meets several elements of one latent in one factor. Each *read* of it (the same elements in the same order) is
held as an unknown of its own; that reads share elements is remembered by their coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ._links import Coordinates, Program, analyse, own_coordinates, restricted


@dataclass(frozen=True)
class Read:
    """Some elements of a latent, as an input of the program.

    Attributes:
        latent: name of the latent.
        number: value number of the input.
        shape: of the elements that are read.
        coordinates: per axis of the latent, which element each one is; None for all of them as they are.
    """

    latent: str
    number: int
    shape: tuple[int, ...]
    coordinates: Coordinates | None = None

    def elements(self, shape: tuple[int, ...]) -> np.ndarray:
        """Flat element numbers in the latent, of the given shape: one for each element that is read."""
        if self.coordinates is None:
            return np.arange(int(np.prod(self.shape))).reshape(self.shape)
        flat: np.ndarray = np.zeros((1,) * len(self.shape), int)
        for c, n in zip(self.coordinates, shape or (1,), strict=True):
            assert c is not None
            flat = flat * n + c
        return np.broadcast_to(flat, self.shape)


def separate(program: Program, unknowns: Mapping[str, int]) -> tuple[Program, dict[str, Read], dict[int, int]]:
    """Replace every way in which latents are read by an input of its own.

    Args:
        program: the program.
        unknowns: the latents' inputs.

    Returns:
        The program with the reads as inputs after the others, the reads by name, and new numbers for values that are
        reads now.
    """
    inputs = [i for i in program.inputs if i not in unknowns.values()]
    replaced: dict[int, int] = {}
    reads: dict[str, Read] = {}
    for latent, number in unknowns.items():
        shape = program.shape(number)
        selected = {number: own_coordinates(shape)}
        found = analyse(program, {number: (latent, own_coordinates(shape))})
        for i, d in found.items():
            coords = d.coordinates[latent]
            if d.pure and all(c is not None and c.min() >= 0 for c in coords):
                selected[i] = coords
        groups: dict[bytes, str] = {}
        for i in _last(program, selected):
            elements = Read(latent, i, program.shape(i), selected[i]).elements(shape)
            key = elements.tobytes() + str((elements.shape, program.avals[i].dtype)).encode()
            if key not in groups:
                whole = np.array_equal(elements, np.arange(elements.size).reshape(shape)) if i == number else False
                name = latent if whole else _named(latent, selected[i][0])
                groups[key] = name if name not in reads else f"{name}@{len(reads)}"
                reads[groups[key]] = Read(latent, i, program.shape(i), None if whole else selected[i])
            replaced[i] = reads[groups[key]].number
    nodes = tuple(
        replace(n, inputs=tuple(replaced.get(i, i) for i in n.inputs))
        for n in program.nodes
        if not all(o in replaced for o in n.outputs)
    )
    outputs = tuple(replaced.get(i, i) for i in program.outputs)
    inputs += [r.number for r in reads.values()]
    lean = restricted(Program(nodes, tuple(inputs), outputs, program.avals, program.known), outputs)
    return lean, reads, replaced


def _named(latent: str, steps: np.ndarray | None) -> str:
    """As one would index it."""
    assert steps is not None
    first, last = int(steps.min()), int(steps.max())
    return f"{latent}[{first}]" if first == last else f"{latent}[{first}:{last + 1}]"


def _last(program: Program, selected: Mapping[int, Coordinates]) -> list[int]:
    """Selections that something else than a selection uses, or that are results."""
    used = {i for n in program.nodes if not all(o in selected for o in n.outputs) for i in n.inputs}
    return [i for i in selected if i in used or i in program.outputs]
