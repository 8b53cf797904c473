"""A factor that is a sum over rows is a factor per row: `numpyro.factor("ll", jnp.sum(terms))` hides its structure.

The log density of such a site is one number that all latents meet in. Read back through the sum it is an array, whose
elements hold few latents each; a total of several sums is several factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jax import lax

from ._links import Node, Program, analyse
from ._sites import Site

_MOST = 8
"""Most terms of a total that are taken apart."""

_ALIKE = frozenset("reshape squeeze broadcast_in_dim convert_element_type copy copy_p expand_dims".split())


@dataclass(frozen=True)
class Term:
    """One term of a factor: the site's name or a part's, the number of its array, and that array's shape."""

    name: str
    number: int
    shape: tuple[int, ...]


def unsummed(
    program: Program, numbers: Mapping[str, Any], sites: Mapping[str, Site], latents: Sequence[int]
) -> tuple[Program, dict[str, Any], dict[str, tuple[Term, ...]]]:
    """Take apart the factors that hold latents and are sums.

    Args:
        program: of the model.
        numbers: per site, its outputs in the program.
        sites: all of them.
        latents: value numbers of the latents.

    Returns:
        The program, the outputs with one entry per term, and the terms of every site that was taken apart.
    """
    met = {i: (str(i), (None,) * max(1, len(program.shape(i)))) for i in latents}
    reached = set(analyse(program, met, kinds=False)) if met else set()
    made = {i: node for node in program.nodes for i in node.outputs}
    outputs, found = dict(numbers), {}
    for name, site in sites.items():
        out = numbers.get(name)
        if out is None or site.distribution != "Unit" or site.batch_shape or out["log_prob"] not in reached:
            continue
        terms = _terms(out["log_prob"], program, made)
        if not any(program.shape(i) for i, _ in terms) or len(terms) > _MOST:
            continue
        arrays = []
        for number, negative in terms:
            if negative:
                program, number = _negated(program, number)
            arrays.append(number)
        names = [name] if len(arrays) == 1 else [f"{name}[{i}]" for i in range(len(arrays))]
        found[name] = tuple(Term(n, i, program.shape(i)) for n, i in zip(names, arrays, strict=True))
        del outputs[name]
        outputs |= {t.name: {**out, "log_prob": t.number} for t in found[name]}
    return program, outputs, found


def as_site(site: Site, term: Term) -> Site:
    """The site of one term."""
    return replace(site, name=term.name, batch_shape=term.shape)


def _terms(number: int, program: Program, made: Mapping[int, Node], negative: bool = False) -> list[tuple[int, bool]]:
    """The arrays whose elements add up to a number, and whether each is subtracted."""
    node = made.get(number)
    if node is None or program.shape(number):
        return [(number, negative)]
    if node.name in _ALIKE and not program.shape(node.inputs[0]):
        return _terms(node.inputs[0], program, made, negative)
    if node.name == "neg":
        return _terms(node.inputs[0], program, made, not negative)
    if node.name in ("add", "add_any", "sub"):
        first, second = node.inputs
        other = negative != (node.name == "sub")
        return [*_terms(first, program, made, negative), *_terms(second, program, made, other)]
    if node.name == "reduce_sum":
        return [(node.inputs[0], negative)]
    return [(number, negative)]


def _negated(program: Program, number: int) -> tuple[Program, int]:
    """The program with one more value: minus this one."""
    new, aval = max(program.avals) + 1, program.avals[number]
    if number in program.known:
        known = {**program.known, new: -program.known[number]}
        return replace(program, avals={**program.avals, new: aval}, known=known), new
    node = Node(lax.neg_p, {}, (number,), (new,))
    return replace(program, nodes=(*program.nodes, node), avals={**program.avals, new: aval}), new
