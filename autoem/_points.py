"""Continuous latents that are integrated numerically: which they are, which of their elements are coupled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from numpyro.distributions import biject_to, constraints

from ._conjugacy import find_entrances
from ._discrete import Union
from ._links import Coordinates, Dependence, Program, analyse, flat_index, is_concrete, jumping, own_coordinates
from ._model import Model
from ._options import Sampling
from ._rows import gaussian_dependence, touches_of
from ._sites import Site
from ._types import Refusal

ASKED = "e_step= asks for Monte Carlo"


def settled(model: Model, declined: Mapping[str, str], asked: Mapping[str, Sampling] | Sampling | None = None) -> Model:
    """Move latents that no exact engine takes, and all that they are coupled with, to `points`.

    Args:
        model: the model.
        declined: per site, why its exponential family cannot be used, or "".
        asked: latents that are to be sampled whatever engine there is, and how; or how to sample where that is needed.

    Raises:
        ValueError: `asked` names what is no continuous latent.
    """
    chosen = dict(asked) if isinstance(asked, Mapping) else {}
    _check_asked(model, chosen)
    points = {**dict.fromkeys(chosen, ASKED), **model.points}
    while True:
        rest = tuple(n for n in model.gaussians if n not in points)
        conjugate = tuple(n for n in model.conjugates if n not in points)
        current = replace(model, gaussians=rest, conjugates=conjugate, points=points)
        moved = _not_conjugate(current, declined)
        if moved:
            points |= moved
            continue
        by_gaussian, by_points = gaussian_dependence(current, model.program), points_dependence(current, model.program)
        for site in model.sites.values():
            numbers = [i for i in jax.tree.leaves(model.outputs[site.name]) if i in by_gaussian]
            met = dict.fromkeys(model.reads[n].latent for i in numbers for n in by_gaussian[i].coordinates)
            why = _why_not_gaussian(current, site, by_gaussian, by_points) if met and site.role != "maximised" else ""
            moved |= {n: why for n in met if why and n not in moved}
        if not moved:
            break
        points |= moved
    sites = {n: replace(s, role="points") if model.owner[n] in points else s for n, s in model.sites.items()}
    ordered = {n: points[n] for n in dict.fromkeys(model.owner.values()) if n in points}
    sampled = chosen if isinstance(asked, Mapping) or asked is None else asked
    return replace(model, sites=sites, gaussians=rest, conjugates=conjugate, points=ordered, sampled=sampled)


def _check_asked(model: Model, chosen: Mapping[str, Sampling]) -> None:
    """Names must be those of continuous latents, and all must go by one schedule.

    Raises:
        ValueError: they are not, or do not.
    """
    candidates = [*model.gaussians, *model.conjugates, *model.points]
    for name in chosen:
        if name in candidates:
            continue
        listed = ", ".join(map(repr, candidates)) or "none"
        what = "a discrete latent, which is summed exactly" if name in model.latents else (
            "a latent that no datum depends on, which integrates to one" if name in model.unused else
            "maximised" if name in model.parameters else "not a latent of the model")  # fmt: skip
        raise ValueError(f"e_step names {name!r}, which is {what}. Continuous latents that can be sampled: {listed}.")
    if len({type(option) for option in chosen.values()}) > 1:
        raise ValueError("e_step mixes MonteCarlo and SAEM: the steps of one fit go by one of them.")


def _not_conjugate(model: Model, declined: Mapping[str, str]) -> dict[str, str]:
    """Latents that are not conjugate to all that depends on them, with the reason."""
    by_gaussian, by_points = gaussian_dependence(model, model.program), points_dependence(model, model.program)
    moved = {}
    for name in model.conjugates:
        try:
            held = find_entrances(replace(model, conjugates=(name,)), declined)
        except Refusal as refusal:
            moved[name] = str(refusal)
            continue
        for site, entrance in held.items():
            # Gaussian latents whose precision is in proportion to it are integrated with it.
            beside = by_points if entrance.scales_noise else {**by_gaussian, **by_points}
            other = [n for i in jax.tree.leaves(model.outputs[site]) if i in beside for n in beside[i].coordinates]
            if other:
                latent = model.reads[other[0]].latent
                moved[name] = f"{site!r} holds {latent!r} too: together they are not conjugate"
    if not moved and model.conjugates:
        try:
            find_entrances(model, declined)
        except Refusal as refusal:  # two of them meet
            moved = dict.fromkeys(model.conjugates, str(refusal))
    return moved


def _why_not_gaussian(
    model: Model, site: Site, by_gaussian: Mapping[int, Dependence], by_points: Mapping[int, Dependence]
) -> str:
    for number in jax.tree.leaves(model.outputs[site.name]):
        if number in by_points:
            other = model.reads[next(iter(by_points[number].coordinates))].latent
            return f"{site.name!r} couples it with {other!r}, which is not Gaussian given the data"
    try:
        touches_of(model, site, by_gaussian)
    except Refusal as refusal:
        return str(refusal)
    return ""


def points_dependence(model: Model, program: Program) -> dict[int, Dependence]:
    """How every value depends on the elements (whole events) of the latents that are integrated numerically."""
    unknowns = {}
    for name, read in model.reads.items():
        if read.latent in model.points and read.number in program.inputs:
            event_ndim = model.hidden[read.latent].event_ndim
            unknowns[read.number] = name, own_coordinates(read.shape[: len(read.shape) - event_ndim], event_ndim)
    return analyse(program, unknowns, kinds=False) if unknowns else {}


def elements_read(model: Model, name: str) -> np.ndarray:
    """Flat numbers of the elements (whole events) of a latent that a read of it holds.

    Raises:
        Refusal: it holds parts of events.
    """
    read = model.reads[name]
    shape, event_ndim = model.avals[read.latent].shape, model.hidden[read.latent].event_ndim
    size = math.prod(shape[len(shape) - event_ndim :])
    flat = np.reshape(read.elements(shape), (*read.shape[: len(read.shape) - event_ndim], -1))
    if flat.shape[-1] != size or not np.array_equal(flat % size, np.broadcast_to(np.arange(size), flat.shape)):
        raise Refusal(f"The latent {read.latent!r} of a scan, which is not Gaussian given the data, is read in parts "
                      f"of its vectors ({name}): autoem samples whole ones.")  # fmt: skip
    return flat[..., 0] // size


def require_integrable(
    model: Model, site: Site, met: Mapping[str, Coordinates], by_points: Mapping[int, Dependence]
) -> None:
    """Refuse what does not go with latents that are integrated numerically.

    Raises:
        Refusal: a prior or a weight that depends on them, a density that jumps as they vary, a masked or scaled
            latent.
    """
    out, names = model.outputs[site.name], dict.fromkeys(model.reads[n].latent for n in met)
    shown = ", ".join(map(repr, names))
    if site.role == "maximised":
        raise Refusal(f"The prior of the maximised site {site.name!r} depends on the latent {shown}.")
    for extra in ("mask", "scale"):
        if out[extra] in by_points:
            raise Refusal(f"The {extra} of site {site.name!r} depends on the latent {shown}, which autoem does not "
                          "support.")  # fmt: skip
    reads = [model.reads[n].number for n in met]
    if site.role == "observed" and out["log_prob"] in jumping(model.program, reads):
        raise Refusal(
            f"The density of site {site.name!r} ({site.distribution}) jumps as the latent {shown} varies and is "
            "constant between: autoem does not integrate that numerically. Write down the probability of what is "
            "observed: instead of a comparison with a Normal latent, Bernoulli(probs=dist.Normal(loc, scale).cdf(...)) "
            "of its location and scale; instead of a latent beyond a bound, a RightCensoredDistribution or a "
            "LeftCensoredDistribution of its density."
        )
    if site.role == "points":
        free_shape(site, model.avals[model.owner[site.name]].shape)
        masked = None if _is_imputed(model, site, by_points) else out["mask"]
        for extra, what in ((masked, "masked"), (out["scale"], "scaled (subsampling, or handlers.scale)")):
            if extra is not None:
                raise Refusal(f"The continuous latent {site.name!r} is {what}, and no exact engine takes it: autoem "
                              "does not integrate such a density numerically.")  # fmt: skip


def _is_imputed(model: Model, site: Site, by_points: Mapping[int, Dependence]) -> bool:
    """Whether what is masked of a latent is, element by element, the value of an observed site: that is its density."""
    mask = model.program.known.get(model.outputs[site.name]["mask"])
    if mask is None or not is_concrete(mask):
        return False
    shape = site.batch_shape
    valued = np.broadcast_to(np.asarray(mask, bool), shape).reshape(-1).copy()
    for other in model.sites.values():
        found = by_points.get(model.outputs[other.name]["value"]) if other.role == "observed" else None
        for name, coordinates in (found.coordinates if found else {}).items():
            read = model.reads[name]
            flat = flat_index(coordinates, shape) if read.latent == site.name and read.shape == shape else None
            if flat is not None:
                valued[flat[flat >= 0]] = True
    return bool(valued.all())


def axes_of(model: Model, held: Sequence[Sequence[str]]) -> dict[str, str]:
    """The name of the points' axis of every latent: the same for latents that meet, be it by way of discrete ones.

    Args:
        model: the model.
        held: per site, the latents that it holds: those that are integrated numerically, and discrete ones.
    """
    together = Union()
    for names in held:
        for name in names:
            together.join(names[0], name)
    groups: dict[Any, list[str]] = {}
    for name in model.points:
        groups.setdefault(together.find(name), []).append(name)
    return {n: f"points of {', '.join(groups[together.find(n)])}" for n in model.points}


def free_shape(site: Site, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of one element in free coordinates.

    Raises:
        Refusal: its support has bounds that are computed, or is not one that can be mapped to the real line.
    """
    constraint = site.constraint
    if constraint is None:
        raise Refusal(
            f"The support of the continuous latent {site.name!r} ({site.distribution}) has bounds that are computed or "
            "depend on a parameter: autoem integrates numerically over supports with plain numbers as bounds."
        )
    event = shape[len(shape) - constraint.event_dim :]
    try:
        if type(constraint) is type(constraints.circular):
            raise NotImplementedError("a circle has no ends")
        return tuple(biject_to(constraint).inverse_shape(event))
    except NotImplementedError as error:
        raise Refusal(
            f"The continuous latent {site.name!r} ({site.distribution}) lies in {constraint}, which autoem does not "
            "map to the real line: no exact engine takes it, and it is not integrated numerically."
        ) from error
