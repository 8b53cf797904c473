"""From a model's sites to factors, blocks and the complete-data log density: the E-step half of a derivation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import jax
import numpy as np

from ._chains import in_chain, lay_out_chain
from ._complete import CompleteData
from ._conjugacy import Entrance, find_entrances
from ._conjugate import lay_out_conjugate
from ._design import Design
from ._discrete import Union, batch_shape, evidence_factor, lay_out_discrete
from ._distinct import distinct_rows
from ._evidence import Chain, Conjugate, Enumeration, Gaussian, Mixed, Observed, Quadrature, Sampled, Scaled, Shared
from ._factors import Skeleton, complete_data, numbers_of
from ._family import LinearGaussian
from ._gaussian import lay_out
from ._laid import Laid
from ._links import Coordinates, Dependence, Program, analyse, is_concrete, own_coordinates, restricted
from ._links._coordinates import collapse, merge
from ._model import Model
from ._point_cells import lay_out_points
from ._points import axes_of, points_dependence, require_integrable
from ._rows import Touch, gaussian_dependence, touches_of
from ._scaled import lay_out_scaled
from ._shared import element_shape, lay_out_shared, shareable
from ._sites import Site
from ._types import Declined, Refusal, StaticArray

_TRACED = (
    " If it is reached through an index, that index is traced here (jit or vmap over the data) and hides which "
    "elements meet: close over the index instead."
)


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


def build(model: Model, share: Sequence[str] = ()) -> tuple[CompleteData, list[Block], list[Skeleton]]:
    """Factors, blocks, and what was decided about every site.

    Args:
        model: the model.
        share: latents whose elements get the same points if they are integrated numerically.

    Raises:
        Refusal: where elements of a latent are mixed, or the sum over latents is not tractable.
        Apart: elements of a latent in `share` had better have points of their own.
    """
    params = {model.inputs[n]: (n, (None,) * max(1, len(p.initial.shape))) for n, p in model.parameters.items()}
    by_parameter = set(analyse(model.program, params, kinds=False))
    sites = sorted(model.sites.values(), key=lambda site: site.role == "maximised")
    met = gaussian_dependence(model, model.program) if model.gaussians else {}
    touches = {site.name: touches_of(model, site, met) if met else () for site in sites}
    by_points = points_dependence(model, model.program)
    choices = {s.name: "" if touches[s.name] else _canonical(model, s, by_parameter, by_points) for s in sites}
    entrances = find_entrances(model, choices) if model.conjugates else {}
    # From here on, only what the chosen forms need: a canonical site's own log_prob is not looked at.
    used = [i for s in sites for i, _ in numbers_of(s, model.outputs[s.name], not choices[s.name]).values()]
    used += [i for s in sites for k in ("mask", "scale", "value") if (i := model.outputs[s.name][k]) is not None]
    program = restricted(model.program, used)
    latents = {model.reads[n].number: (n, own_coordinates(batch_shape(model, n))) for n in model.axes}
    by_latent = analyse(program, latents, kinds=False)
    skeletons = [_skeleton(model, s, choices[s.name], by_latent, by_parameter, touches[s.name], entrances.get(s.name))
                 for s in sites]  # fmt: skip
    met_by = {s.name: _points_met(model, s, choices[s.name], by_points) for s in sites}
    whose = {name: read.latent for name, read in model.reads.items()}
    axes = axes_of(model, [(*(whose[n] for n in met_by[s.site.name]), *s.latents) for s in skeletons])
    skeletons = [replace(s, met=met, latents=(axes[whose[next(iter(met))]], *s.latents))
                 if (met := met_by[s.site.name]) else s for s in skeletons]  # fmt: skip
    inner = shareable(model, share, points_dependence(model, program), axes, met_by) if share else {}
    shapes = {n: element_shape(model, n, own) for n, own in inner.items()}
    complete, designs = complete_data(model, program, skeletons, by_latent, axes, shapes)
    return complete, _group(model, complete, skeletons, designs, axes, inner), skeletons


def _points_met(model: Model, site: Site, why: str, by_points: Mapping[int, Dependence]) -> dict[str, Coordinates]:
    """Which elements of latents that are integrated numerically each element of a site meets."""
    numbers = numbers_of(site, model.outputs[site.name], not why)
    met = _site_coordinates(site, numbers, model.program, by_points)
    if met:
        require_integrable(model, site, met, by_points)
    return met


def _site_coordinates(
    site: Site, numbers: Mapping[str, tuple[int, int]], program: Program, found: Mapping[int, Dependence]
) -> dict[str, Coordinates]:
    """Per latent, which of its elements each element of the site meets, over the site's batch axes."""
    ndim = len(site.batch_shape)
    result: dict[str, Coordinates] = {}
    for number, event_ndim in numbers.values():
        if number not in found:
            continue
        shape = program.shape(number)
        for name, coords in found[number].coordinates.items():
            lead = len(shape) - event_ndim
            flat = tuple(collapse(c, range(lead, len(shape))) for c in coords)
            flat = tuple(None if c is None else c.reshape([1] * (ndim - lead) + list(c.shape)) for c in flat)
            result[name] = merge(result[name], flat) if name in result else flat
    return result


def declined(model: Model) -> dict[str, str]:
    """Per site, why its exponential family cannot be used, or ""."""
    params = {model.inputs[n]: (n, (None,) * max(1, len(p.initial.shape))) for n, p in model.parameters.items()}
    by_parameter = set(analyse(model.program, params, kinds=False))
    return {n: _canonical(model, site, by_parameter, {}) for n, site in model.sites.items()}


def _canonical(model: Model, site: Site, by_parameter: set[int], by_points: Mapping[int, Dependence]) -> str:
    """Why a site's exponential family cannot be used, or "" if it can."""
    if site.role == "maximised":
        return "" if site.family is not None else f"{site.distribution} has no canonical form here"
    if site.family is None:
        return f"{site.distribution} has no canonical form here"
    out = model.outputs[site.name]
    varying = [n for n in site.family.constants if out["arguments"][n] in by_parameter]
    if varying:
        return f"its {varying[0]} depends on a parameter, and no finite statistic holds that"
    varying = [n for n in site.family.constants if out["arguments"][n] in by_points]
    if varying:
        return f"its {varying[0]} depends on a latent"
    return "its value depends on a parameter" if out["value"] in by_parameter else ""


def _skeleton(
    model: Model, site: Site, why: str, by_latent: Mapping[int, Dependence], by_parameter: set[int],
    touches: tuple[Touch, ...], entrance: Entrance | None,
) -> Skeleton:  # fmt: skip
    if touches and entrance is not None and not entrance.scales_noise:
        raise Refusal(
            f"Site {site.name!r} holds the continuous latents {touches[0].latent!r} and {entrance.latent!r}: together "
            "they are neither Gaussian nor conjugate."
        )
    out, canonical = model.outputs[site.name], not why
    numbers = numbers_of(site, out, canonical)
    _check_weight(site, out, by_latent, by_parameter, touches)
    if out["mask"] in by_latent:
        numbers["@mask"] = out["mask"], 0
    coordinates = _site_coordinates(site, numbers, model.program, by_latent)
    for name, coords in coordinates.items():
        if site.role == "maximised":
            raise Refusal(f"The prior of the maximised site {site.name!r} depends on the latent {name!r}.")
        if any(c is None for c in coords):
            raise Refusal(
                f"Each element of site {site.name!r} depends on several elements of the latent {name!r} "
                f"(through {_steps(by_latent, numbers)}): the exact sum over {name!r} is not tractable this way."
                + ("" if is_concrete(*model.program.known.values()) else _TRACED)
            )
    ordered = tuple(n for n in model.axes if n in coordinates)
    if site.role in ("gaussian", "conjugate") and out["scale"] is not None:
        raise Refusal(f"The continuous latent {site.name!r} has a scale (subsampling, or handlers.scale): autoem does "
                      "not integrate a density that is raised to a power.")  # fmt: skip
    return Skeleton(site, canonical, why, ordered, coordinates, touches, entrance)


def _check_weight(
    site: Site, out: Mapping[str, Any], by_latent: Mapping[int, Dependence], by_parameter: set[int], touches: Any
) -> None:
    """A mask may depend on discrete latents: given those, a datum counts or not. Nothing else may."""
    for extra in ("mask", "scale"):
        number = out[extra]
        switched = extra == "mask" and site.role == "observed" and not touches
        if number is not None and (number in by_parameter or (number in by_latent and not switched)):
            raise Refusal(f"The {extra} of site {site.name!r} depends on an unknown, which autoem does not support.")


def _steps(found: Mapping[int, Dependence], numbers: Mapping[str, tuple[int, int]]) -> str:
    steps = [s for number, _ in numbers.values() if number in found for s in found[number].steps]
    return ", ".join(dict.fromkeys(steps)) or "its arguments"


def _group(
    model: Model, complete: CompleteData, skeletons: Sequence[Skeleton], designs: Mapping[str, Design],
    axes: Mapping[str, str], inner: Mapping[str, tuple[int, ...]],
) -> list[Block]:  # fmt: skip
    """Connected latents form a block; factors without latents form one more."""
    factors = complete.factors
    relevant = list(zip(factors, skeletons[: len(factors)], strict=True))
    initial = {n: p.initial for n, p in model.parameters.items()}
    shapes = [s.shape for s in jax.eval_shape(complete.slots, initial)]
    together = Union()
    hidden = [(*f.latents, *_continuous(s)) for f, s in relevant]
    for names in hidden:
        for name in names:
            together.join(names[0], name)
    for name, read in model.reads.items():
        together.join(read.latent, name)
    blocks = []
    everything = (*model.latents, *model.gaussians, *model.conjugates, *axes.values())
    for root in dict.fromkeys(together.find(n) for n in everything):
        members = [n for n in model.axes if together.find(n) == root]
        positions = [i for i, names in enumerate(hidden) if names and together.find(names[0]) == root]
        numerical = [n for n in axes if together.find(axes[n]) == root]
        if numerical:
            _require_numerical(model, numerical, members, [n for n in everything if together.find(n) == root])
            sites = [(i, *relevant[i]) for i in positions]
            if numerical[0] in inner:
                own = numerical[0], inner[numerical[0]], members, [shapes[i] for i in positions]
                engine, at = lay_out_shared(model, sites, *own, axes[numerical[0]])
                blocks.append(Block(engine, functools.partial(_same, engine), at))
                continue
            engine, at = lay_out_points(model, sites, numerical, members, axes[numerical[0]])
            blocks.append(Block(engine, functools.partial(_same, engine), at))
            continue
        plain = [i for i in positions if not _continuous(relevant[i][1])]
        own = [relevant[i] for i in plain], members, [shapes[i] for i in plain]
        touching = [i for i in positions if i not in plain]
        along = any(in_chain(model, m) for m in members)
        if along and touching:
            raise Refusal(
                f"Site {relevant[touching[0]][0].site!r} holds a continuous latent that depends on the chain "
                f"{model.reads[members[0]].latent!r}: given the data it is a mixture over all paths, too many to sum "
                "exactly."
            )
        if not touching:
            evidence = lay_out_chain(model, *own) if along else lay_out_discrete(model, *own)
            fast = distinct_rows(evidence, own[2]) if isinstance(evidence, Enumeration) else evidence
            blocks.append(Block(fast, functools.partial(_same, evidence), tuple(plain)))
            continue
        gaussians, conjugates = ([n for n in names if together.find(n) == root]
                                 for names in (model.gaussians, model.conjugates))  # fmt: skip
        if gaussians and conjugates and not members:
            engine, at = _scaled(model, complete, relevant, shapes, touching, gaussians, conjugates, designs)
            blocks.append(Block(engine, functools.partial(_same, engine), at))
            continue
        if gaussians and conjugates:
            why = (
                f"The Gaussian latent {gaussians[0]!r} and the {model.sites[conjugates[0]].distribution} latent "
                f"{conjugates[0]!r} depend on the same discrete latent {members[0]!r}: there is no exact sum over it "
                "with latents of both kinds"
            )
            raise Declined(dict.fromkeys((*gaussians, *conjugates), why))
        held = [relevant[i] for i in touching]
        try:
            if gaussians:
                laid = _lay_out(model, complete, held, touching, gaussians, members, designs)
            else:
                laid = lay_out_conjugate(model, conjugates, held, [shapes[i] for i in touching])
        except Refusal as refusal:
            raise Declined(dict.fromkeys((*gaussians, *conjugates), str(refusal))) from refusal
        fast, full = laid.fast, laid.full
        if members:
            states = {n: laid.states[n] for n in members if n in laid.states}
            extra = evidence_factor(model, laid.fast.names, states, laid.cells)
            discrete = lay_out_discrete(model, *own, extra=extra)
            fast = Mixed(laid.fast, discrete, {n: StaticArray(c) for n, c in laid.states.items()})
            full = functools.partial(_same, fast)
        blocks.append(Block(fast, full, (*touching, *plain)))
    outright = tuple(i for i, names in enumerate(hidden) if not names)
    if outright:
        evidence = Observed(tuple(factors[i] for i in outright), tuple(shapes[i] for i in outright))
        blocks.append(Block(evidence, functools.partial(_same, evidence), outright))
    return blocks


def _scaled(
    model: Model, complete: CompleteData, relevant: Sequence[Any], shapes: Sequence[Any], touching: Sequence[int],
    gaussians: Sequence[str], conjugates: Sequence[str], designs: Mapping[str, Design],
) -> tuple[Scaled, tuple[int, ...]]:  # fmt: skip
    """The engine of Gaussian latents and of what their precision is in proportion to, and its factors' positions.

    Raises:
        Declined: the precision of some of them is not.
    """
    first = [i for i in touching if relevant[i][1].touches]
    rest = [i for i in touching if i not in first]
    held = [relevant[i] for i in first]
    try:
        kept = _kept(model, complete, held, first)
        own = [relevant[i] for i in rest], gaussians, conjugates, designs, kept, [shapes[i] for i in rest]
        return lay_out_scaled(model, held, *own), (*first, *rest)
    except Refusal as refusal:
        raise Declined(dict.fromkeys((*gaussians, *conjugates), str(refusal))) from refusal


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


def _lay_out(
    model: Model, complete: CompleteData, relevant: Any, positions: Sequence[int], gaussians: Sequence[str],
    members: Sequence[str], designs: Mapping[str, Design],
) -> Laid:  # fmt: skip
    kept, own = _kept(model, complete, relevant, positions), [designs[skeleton.site.name] for _, skeleton in relevant]
    states = {n: (len(model.support(n)), batch_shape(model, n)) for n in members}
    shapes = {n: model.avals[n].shape for n in gaussians}
    coordinates = [skeleton.coordinates for _, skeleton in relevant]
    return lay_out(shapes, states, [f for f, _ in relevant], own, coordinates, kept)


def _kept(model: Model, complete: CompleteData, relevant: Any, positions: Sequence[int]) -> list[tuple[int, ...]]:
    """Aligned shapes of the arguments of sites with Gaussian latents."""
    arguments = jax.eval_shape(complete.arguments, {n: p.initial for n, p in model.parameters.items()})
    kept = []
    for (factor, _), position in zip(relevant, positions, strict=True):
        assert isinstance(factor.family, LinearGaussian)
        ndims = factor.family.argument_ndims
        leads = [a.shape[: len(a.shape) - ndims[n]] for n, a in arguments[position].items() if n in ndims]
        kept.append(np.broadcast_shapes(*leads))
    return kept
