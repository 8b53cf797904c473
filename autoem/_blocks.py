"""From a model's sites to factors, blocks and the complete-data log density: the E-step half of a derivation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax

from ._complete import CompleteData
from ._conjugacy import Entrance, find_entrances
from ._discrete import batch_shape
from ._engines import Block, Parts, group
from ._factors import Skeleton, complete_data, numbers_of
from ._links import Coordinates, Dependence, Program, analyse, is_concrete, own_coordinates, restricted
from ._links._coordinates import collapse, merge
from ._model import Model
from ._points import axes_of, points_dependence, require_integrable
from ._rows import Touch, gaussian_dependence, touches_of
from ._shared import element_shape, shareable
from ._sites import Site
from ._types import Refusal

_COUNTED = (
    " A state that the scan hands on is computed from it step by step. If that is a counter (an age, what is left of a "
    "duration), let it be a state of the chain: sample its new value, from Categorical(jax.nn.one_hot(value, most + "
    "1))."
)
_TRACED = (
    " If it is reached through an index, that index is traced here (jit or vmap over the data) and hides which "
    "elements meet: close over the index instead."
)


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
    given = {n: element_shape(model, n, own) for n, own in inner.items()}
    complete, designs = complete_data(model, program, skeletons, by_latent, axes, given)
    factors = complete.factors
    shapes = [s.shape for s in jax.eval_shape(complete.slots, {n: p.initial for n, p in model.parameters.items()})]
    relevant = list(zip(factors, skeletons[: len(factors)], strict=True))
    return complete, group(Parts(model, complete, relevant, shapes, designs, axes, inner)), skeletons


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
            how = _steps(by_latent, numbers)
            raise Refusal(
                f"Each element of site {site.name!r} depends on several elements of the latent {name!r} "
                f"(through {how}): the exact sum over {name!r} is not tractable this way."
                + (_COUNTED if "scan" in how.split(", ") else "")
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
