"""Parameters that are locations: which go into one least-squares problem, and how it separates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from ._family import AbsoluteDeviation, Flat, LinearGaussian
from ._links import describe, flat_index
from ._links._coordinates import collapse
from ._model import Model, Parameter
from ._places import Entries, Place, Plan, occurrence_of
from ._supports import bounds, is_real
from ._update import LeastSquares, Occurrence


def location_fits(look: Entries, plan: Plan, parameter: Parameter) -> str:
    """Why a parameter is not a location that least squares can set, or an empty string."""
    for place in plan.places:
        if place.argument is not None and place.dependence is not None and not place.dependence.affine:
            return f"the {place.argument} of {look.sites[place.entry]!r} is {describe(place.dependence)} in it"
    bounded = bounds(parameter.constraint) != (None, None)
    if bounded and not _diagonal(look, plan):
        return f"its constraint {parameter.constraint} bounds a regression coefficient"
    if not bounded and not is_real(parameter.constraint):
        return f"its constraint {parameter.constraint} couples its elements"
    return ""


def _diagonal(look: Entries, plan: Plan) -> bool:
    """Whether each scalar location is one element of the parameter (times a constant)."""
    for place in plan.places:
        if isinstance(place.conditional, Flat):
            continue
        if place.conditional is not None and place.conditional.ndim:  # type: ignore[union-attr]
            return False
        if place.argument is not None:
            d = place.dependence
            assert d is not None
            if d.power != 1 or not d.selects(plan.name):
                return False
    return True


def location_groups(look: Entries, plans: Mapping[str, Plan], names: Sequence[str]) -> list[list[str]]:
    """Locations that enter one argument together, if they are jointly affine there; else each on its own."""
    groups = [{n} for n in names]
    for name in names:
        touching = [g for g in groups if name in g or any(_share(plans[name], plans[o]) for o in g)]
        merged = set().union(*touching)
        groups = [g for g in groups if g not in touching] + [merged]
    result: list[list[str]] = []
    for group in groups:
        ordered = [n for n in names if n in group]
        bounded = any(bounds(look.model.parameters[n].constraint) != (None, None) for n in ordered)
        if len(ordered) > 1 and (bounded or not _jointly_affine(look, plans, ordered)):
            result += [[n] for n in ordered]
        else:
            result.append(ordered)
    return result


def _share(first: Plan, second: Plan) -> bool:
    left = {(p.entry, p.argument) for p in first.places if p.argument}
    return bool(left & {(p.entry, p.argument) for p in second.places if p.argument})


def _jointly_affine(look: Entries, plans: Mapping[str, Plan], group: Sequence[str]) -> bool:
    found = look.dependence(group)
    for name in group:
        for place in plans[name].places:
            if place.argument is not None:
                number = dict(look.complete.outputs[place.entry])[place.argument]
                if not found[number].affine:
                    return False
    return True


def least_squares(
    look: Entries, plans: Mapping[str, Plan], group: Sequence[str], model: Model
) -> tuple[LeastSquares | None, str]:
    """The least-squares update of one group of locations, or why there is none."""
    if len(group) == 1 and _diagonal(look, plans[group[0]]):
        name = group[0]
        lower, upper = bounds(model.parameters[name].constraint)
        own = [p for p in plans[name].places if not isinstance(p.conditional, Flat)]
        occurrences = []
        for place in own:
            occurrence, why = occurrence_of(look, name, place, "location", False)
            if occurrence is None:
                return None, why
            near = isinstance(place.conditional, AbsoluteDeviation)
            occurrences.append(replace(occurrence, nearby=near))
        return LeastSquares((name,), ((),), tuple(occurrences), ((),) * len(own), True, lower, upper), ""
    places: dict[tuple[int, str | None, str], Place] = {}
    for name in group:
        for place in plans[name].places:
            if not isinstance(place.conditional, Flat):
                own = name if place.argument is None else ""
                places.setdefault((place.entry, place.argument, own), place)
    separable, axes = _separable(look, group, list(places.values()), list(places))
    occurrences = [
        Occurrence(p.entry, p.argument, 1.0, 0, False, None, None, isinstance(p.conditional, AbsoluteDeviation))
        for p in places.values()
    ]
    owners = [own for _, _, own in places]
    return LeastSquares(tuple(group), separable, tuple(occurrences), axes, False, None, None, tuple(owners)), ""


def _separable(
    look: Entries, group: Sequence[str], places: Sequence[Place], keys: Sequence[Any]
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Axes of the parameters over which the normal equations separate, and where each argument has them."""
    tables = []
    for place, (_, _, own) in zip(places, keys, strict=True):
        event_ndim = place.conditional.ndim  # type: ignore[union-attr]
        table: dict[str, dict[int, int]] = {}
        for name in group:
            shape = jnp.shape(look.initial[name])
            if place.argument is None:
                if name == own:
                    table[name] = {a: a for a in range(len(shape) - event_ndim)}
                continue
            number = dict(look.complete.outputs[place.entry])[place.argument]
            d = look.single[name].get(number)
            if d is None:
                continue
            batch = len(look.program.shape(number)) - event_ndim
            table[name] = {}
            for axis, mixed in enumerate(d.coordinates[name]):
                # What an event meets besides (coefficients of other parameters) is -1 there.
                c = collapse(mixed, range(batch, batch + event_ndim), keepdims=True)
                varying = [] if c is None else [a for a, n in enumerate(c.shape) if n > 1]
                counts = len(varying) == 1 and varying[0] < batch and axis < len(shape)
                if c is not None and counts and np.array_equal(c.reshape(-1), np.arange(shape[axis])):
                    table[name][axis] = varying[0]
        tables.append(table)
    chosen: list[tuple[tuple[int, ...], tuple[int | None, ...]]] = []
    first = group[0]
    for axis in range(len(jnp.shape(look.initial[first]))):
        positions = [t[first].get(axis) if first in t else None for t in tables]
        if any(first in t and p is None for t, p in zip(tables, positions, strict=True)):
            continue
        picked = [axis]
        for other in group[1:]:
            match = None
            for b in range(len(jnp.shape(look.initial[other]))):
                theirs = [t[other].get(b) if other in t else None for t in tables]
                fits = all(
                    other not in t or (q is not None and (p is None or q == p))
                    for t, p, q in zip(tables, positions, theirs, strict=True)
                )
                if fits:
                    match = b
                    positions = [q if p is None else p for p, q in zip(positions, theirs, strict=True)]
                    break
            if match is None:
                break
            picked.append(match)
        if len(picked) == len(group) and all(p is not None for p in positions):
            chosen.append((tuple(picked), tuple(positions)))
    separable = tuple(tuple(c[0][i] for c in chosen) for i in range(len(group)))
    axes = tuple(tuple(c[1][i] for c in chosen) for i in range(len(places)))
    return separable, axes  # type: ignore[return-value]


def mark_conditional(look: Entries, plans: Mapping[str, Plan]) -> None:
    """A location's update is the joint maximum if its weights cancel; else it is conditional on the scales (ECM)."""
    for plan in plans.values():
        if not isinstance(plan.update, LeastSquares):
            continue
        places = {(p.entry, p.argument): p for n in plan.update.names for p in plans[n].places
                  if not isinstance(p.conditional, Flat)}  # fmt: skip
        plan.conditional = len(places) > 1 or not all(_cancels(look, plan.update, p) for p in places.values())
        if not any(_scales(look, p) for p in places.values()):
            plan.conditional = False


def _scales(look: Entries, place: Place) -> list[str]:
    """Unknown arguments other than the location."""
    outputs = look.complete.outputs[place.entry]
    return [
        a for a, i in outputs if a not in (place.argument, "@log_prob") and any(i in s for s in look.single.values())
    ]


def _cancels(look: Entries, update: LeastSquares, place: Place) -> bool:
    """Whether the weight of every term in one normal equation is the same unknown factor."""
    outputs = dict(look.complete.outputs[place.entry])
    if place.argument is None:
        return False
    family = look.family(place.entry)
    shape = look.program.shape(outputs[place.argument])
    ndim = place.conditional.ndim  # type: ignore[union-attr]
    axes = dict(zip(update.names, update.separable, strict=True))
    for argument in _scales(look, place):
        other = look.program.shape(outputs[argument])
        batch = other[: len(other) - family.argument_ndims[argument]]
        name = update.names[0]
        d = look.single[name][outputs[place.argument]]
        index = flat_index(d.coordinates[name], jnp.shape(look.initial[name])) if update.diagonal else None
        for axis, n in enumerate(batch):
            separate = (
                index is not None and index.ndim > axis and index.shape[axis] == n and index.size == n
                if update.diagonal
                else any(axis == a for a in update.separable_axes[0])
            )
            if n > 1 and not separate:
                return False
    if ndim == 0 or (isinstance(family, LinearGaussian) and family.univariate):
        return True
    single = len(update.names) == 1
    d = look.single[update.names[0]][outputs[place.argument]]
    return (
        single
        and d.pure
        and len(axes[update.names[0]]) == len(jnp.shape(look.initial[update.names[0]])) - 1
        and len(shape) > 0
    )
