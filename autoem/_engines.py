"""Connected latents become blocks, and every block gets an evidence engine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from ._chains import in_chain, lay_out_chain
from ._complete import CompleteData
from ._conjugate import lay_out_conjugate
from ._design import Design
from ._discrete import Union, batch_shape, evidence_factor, lay_out_discrete
from ._distinct import distinct_rows
from ._evidence import (
    Chain,
    Conjugate,
    Enumeration,
    Factor,
    Gaussian,
    Mixed,
    Observed,
    Quadrature,
    Sampled,
    Scaled,
    Shared,
)
from ._factors import Skeleton
from ._family import LinearGaussian
from ._gaussian import lay_out
from ._laid import Laid
from ._model import Model
from ._point_cells import lay_out_points
from ._scaled import lay_out_scaled
from ._shared import lay_out_shared
from ._types import Declined, Refusal, StaticArray

Evidence: TypeAlias = (
    Enumeration | Chain | Observed | Gaussian | Conjugate | Mixed | Scaled | Quadrature | Shared | Sampled
)


@dataclass(frozen=True)
class Block:
    """An evidence engine and the positions of its factors among all factors.

    Attributes:
        evidence: the engine that runs.
        detailed: makes the same where every latent has its place, for posterior distributions.
        positions: of its factors.
    """

    evidence: Evidence
    detailed: Callable[[], Evidence]
    positions: tuple[int, ...]


class Parts(NamedTuple):
    """What blocks are made of.

    Attributes:
        model, complete: the model, and its complete-data log density.
        relevant: per factor, itself and how its site enters.
        shapes: per factor, the shape of its slots.
        designs: of the sites with Gaussian latents.
        axes: latents that are integrated numerically -> name of their points' axis.
        inner: those whose elements share their points -> axes within one element.
    """

    model: Model
    complete: CompleteData
    relevant: list[tuple[Factor, Skeleton]]
    shapes: list[tuple[int, ...]]
    designs: Mapping[str, Design]
    axes: Mapping[str, str]
    inner: Mapping[str, tuple[int, ...]]


class _Members(NamedTuple):
    """Connected latents: discrete ones, those of each continuous engine, and the positions of their factors."""

    discrete: list[str]
    gaussians: list[str]
    conjugates: list[str]
    numerical: list[str]
    positions: list[int]


def group(parts: Parts) -> list[Block]:
    """Connected latents form a block; factors without latents form one more."""
    model, relevant = parts.model, parts.relevant
    together = Union()
    hidden = [(*f.latents, *_continuous(s)) for f, s in relevant]
    for names in hidden:
        for name in names:
            together.join(names[0], name)
    for name, read in model.reads.items():
        together.join(read.latent, name)
    everything = (*model.latents, *model.gaussians, *model.conjugates, *parts.axes.values())
    blocks = []
    for root in dict.fromkeys(together.find(n) for n in everything):
        discrete, gaussians, conjugates = ([n for n in names if together.find(n) == root]
                                           for names in (model.axes, model.gaussians, model.conjugates))  # fmt: skip
        positions = [i for i, names in enumerate(hidden) if names and together.find(names[0]) == root]
        numerical = [n for n in parts.axes if together.find(parts.axes[n]) == root]
        if numerical:
            _require_numerical(model, numerical, discrete, [n for n in everything if together.find(n) == root])
        blocks.append(_block(parts, _Members(discrete, gaussians, conjugates, numerical, positions)))
    outright = tuple(i for i, names in enumerate(hidden) if not names)
    if outright:
        observed = Observed(tuple(relevant[i][0] for i in outright), tuple(parts.shapes[i] for i in outright))
        blocks.append(_lone(observed, outright))
    return blocks


def _lone(engine: Evidence, positions: Sequence[int]) -> Block:
    """A block whose engine in the loop is the one that posteriors and draws ask."""
    return Block(engine, functools.partial(_same, engine), tuple(positions))


def _block(parts: Parts, members: _Members) -> Block:
    """The engine of connected latents.

    Raises:
        Declined: no exact engine holds these continuous latents.
        Refusal: nothing holds these latents.
    """
    model, relevant = parts.model, parts.relevant
    if members.numerical:
        sites = [(i, *relevant[i]) for i in members.positions]
        first = members.numerical[0]
        axis = parts.axes[first]
        if first in parts.inner:
            shapes = [parts.shapes[i] for i in members.positions]
            return _lone(*lay_out_shared(model, sites, first, parts.inner[first], members.discrete, shapes, axis))
        return _lone(*lay_out_points(model, sites, members.numerical, members.discrete, axis))
    touching = [i for i in members.positions if _continuous(relevant[i][1])]
    plain = [i for i in members.positions if i not in touching]
    own = [relevant[i] for i in plain], members.discrete, [parts.shapes[i] for i in plain]
    along = any(in_chain(model, m) for m in members.discrete)
    if along and touching:
        raise Refusal(
            f"Site {relevant[touching[0]][0].site!r} holds a continuous latent that depends on the chain "
            f"{model.reads[members.discrete[0]].latent!r}: given the data it is a mixture over all paths, too many to "
            "sum exactly."
        )
    if not touching:
        evidence = lay_out_chain(model, *own) if along else lay_out_discrete(model, *own)
        fast = distinct_rows(evidence, own[2]) if isinstance(evidence, Enumeration) else evidence
        return Block(fast, functools.partial(_same, evidence), tuple(plain))
    if members.gaussians and members.conjugates:
        return _lone(*_of_both_kinds(parts, members, touching))
    laid = _laid(parts, members, touching)
    if not members.discrete:
        return Block(laid.fast, laid.full, (*touching, *plain))
    states = {n: laid.states[n] for n in members.discrete if n in laid.states}
    extra = evidence_factor(model, laid.fast.names, states, laid.cells)
    discrete = lay_out_discrete(model, *own, extra=extra)
    mixed = Mixed(laid.fast, discrete, {n: StaticArray(c) for n, c in laid.states.items()})
    return _lone(mixed, (*touching, *plain))


def _laid(parts: Parts, members: _Members, touching: Sequence[int]) -> Any:
    """The engine of the Gaussian or of the conjugate latents.

    Raises:
        Declined: it does not hold them.
    """
    held = [parts.relevant[i] for i in touching]
    try:
        if members.gaussians:
            return _lay_out(parts, held, touching, members)
        return lay_out_conjugate(parts.model, members.conjugates, held, [parts.shapes[i] for i in touching])
    except Refusal as refusal:
        raise Declined(dict.fromkeys((*members.gaussians, *members.conjugates), str(refusal))) from refusal


def _of_both_kinds(parts: Parts, members: _Members, touching: Sequence[int]) -> tuple[Scaled, tuple[int, ...]]:
    """The engine of Gaussian and conjugate latents together.

    Raises:
        Declined: there is none, or they depend on a discrete latent as well.
    """
    if members.discrete:
        gaussian, conjugate = members.gaussians[0], members.conjugates[0]
        why = (
            f"The Gaussian latent {gaussian!r} and the {parts.model.sites[conjugate].distribution} latent "
            f"{conjugate!r} depend on the same discrete latent {members.discrete[0]!r}: there is no exact sum over it "
            "with latents of both kinds"
        )
        raise Declined(dict.fromkeys((*members.gaussians, *members.conjugates), why))
    return _scaled(parts, members, touching)


def _scaled(parts: Parts, members: _Members, touching: Sequence[int]) -> tuple[Scaled, tuple[int, ...]]:
    """The engine of Gaussian latents and of what their precision is in proportion to, and its factors' positions.

    Raises:
        Declined: the precision of some of them is not.
    """
    first = [i for i in touching if parts.relevant[i][1].touches]
    rest = [i for i in touching if i not in first]
    held, others = [parts.relevant[i] for i in first], [parts.relevant[i] for i in rest]
    latents = members.gaussians, members.conjugates
    try:
        kept, shapes = _kept(parts, held, first), [parts.shapes[i] for i in rest]
        return lay_out_scaled(parts.model, held, others, *latents, parts.designs, kept, shapes), (*first, *rest)
    except Refusal as refusal:
        raise Declined(dict.fromkeys((*members.gaussians, *members.conjugates), str(refusal))) from refusal


def _same(evidence: Evidence) -> Evidence:
    return evidence


def _require_numerical(model: Model, numerical: Sequence[str], members: Sequence[str], found: Sequence[str]) -> None:
    """Everything in a block with latents that are integrated numerically must go with them.

    Raises:
        Refusal: discrete latents along a scan.
        Declined: latents of an exact engine in the same block: through a discrete latent, then.
    """
    chained = [m for m in members if in_chain(model, m)]
    if chained:
        raise Refusal(
            f"The continuous latent {numerical[0]!r}, which no exact engine takes ({model.points[numerical[0]]}), "
            f"depends on the chain {model.reads[chained[0]].latent!r}, or that on it: autoem does not sum over paths "
            "at every point of a quadrature."
        )
    exact = [n for n in found if n in model.gaussians or n in model.conjugates]
    if exact:
        why = f"depends on the same discrete latent {members[0]!r} as {numerical[0]!r}, which is integrated numerically"
        raise Declined(dict.fromkeys(exact, why))


def _continuous(skeleton: Skeleton) -> tuple[str, ...]:
    """The continuous latents that a site holds."""
    own = () if skeleton.entrance is None else (skeleton.entrance.latent,)
    return (*dict.fromkeys(t.latent for t in skeleton.touches), *own)


def _lay_out(parts: Parts, relevant: Any, positions: Sequence[int], members: _Members) -> Laid:
    model = parts.model
    kept, own = _kept(parts, relevant, positions), [parts.designs[skeleton.site.name] for _, skeleton in relevant]
    states = {n: (len(model.support(n)), batch_shape(model, n)) for n in members.discrete}
    shapes = {n: model.avals[n].shape for n in members.gaussians}
    coordinates = [skeleton.coordinates for _, skeleton in relevant]
    return lay_out(shapes, states, [f for f, _ in relevant], own, coordinates, kept)


def _kept(parts: Parts, relevant: Any, positions: Sequence[int]) -> list[tuple[int, ...]]:
    """Aligned shapes of the arguments of sites with Gaussian latents."""
    initial = {n: p.initial for n, p in parts.model.parameters.items()}
    arguments = jax.eval_shape(parts.complete.arguments, initial)
    kept = []
    for (factor, _), position in zip(relevant, positions, strict=True):
        assert isinstance(factor.family, LinearGaussian)
        ndims = factor.family.argument_ndims
        leads = [a.shape[: len(a.shape) - ndims[n]] for n, a in arguments[position].items() if n in ndims]
        kept.append(np.broadcast_shapes(*leads))
    return kept
