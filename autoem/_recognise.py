"""Which update each parameter gets: the M-step half of a derivation.

A parameter that enters every factor and prior through the features of one conditional has a closed-form mode.
Eligibility is global: one factor that does not fit sends the parameter to the numeric update, and the reason is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints

from ._complete import CompleteData
from ._family import Conditional, Flat, InverseMatrix, Quadratic
from ._links import Coordinates, Dependence, analyse, is_concrete, own_coordinates
from ._model import Model, Parameter
from ._types import Array
from ._update import KINDS, ClosedForm, LeastSquares, Numeric, Occurrence, Update

_FLOOR = 1e-5
"""Smallest standard deviation that a fit may reach, relative to that of the data at the site (float64)."""
_FLOOR_32 = 1e-3


@dataclass
class Place:
    """One entry that a parameter enters, and how."""

    entry: int
    argument: str | None
    dependence: Dependence | None
    conditional: Conditional | None
    why: str = ""


@dataclass
class Plan:
    """What was decided about one parameter.

    Attributes:
        name: the parameter.
        update: the module that runs (shared by parameters that are updated jointly).
        features: features of its conditional, or "" where there is no closed form.
        places: everywhere it enters.
        declined: what was tried first, and why it did not fit.
        conditional: whether other parameters' current values enter its update (ECM).
    """

    name: str
    update: Update | None = None
    features: str = ""
    places: list[Place] = field(default_factory=list)
    declined: list[str] = field(default_factory=list)
    conditional: bool = False


class _Recogniser:
    """Looks at one model's entries; holds what all parameters share."""

    def __init__(self, model: Model, complete: CompleteData, why: Mapping[str, str]) -> None:
        self.model, self.complete, self.why = model, complete, why
        self.program = complete.program
        self.initial = {n: p.initial for n, p in model.parameters.items()}
        self.sites = [f.site for f in complete.factors] + [p.site for p in complete.priors]
        self.input = dict(zip(complete.names, self.program.inputs, strict=True))
        self.slots = jax.eval_shape(complete.slots, self.initial)
        single = {n: self.dependence([n]) for n in complete.names}
        self.single = single

    def dependence(self, names: Sequence[str]) -> dict[int, Dependence]:
        unknowns = {self.input[n]: (n, own_coordinates(jnp.shape(self.initial[n]))) for n in names}
        return analyse(self.program, unknowns)

    def family(self, entry: int) -> Any:
        entries = (*self.complete.factors, *self.complete.priors)
        return entries[entry].family

    def is_prior(self, entry: int) -> bool:
        return entry >= len(self.complete.factors)

    def places(self, name: str) -> list[Place]:
        """Every entry that the parameter enters, with its conditional there (as shapes), or why there is none."""
        found = self.single[name]
        result = []
        for entry, outputs in enumerate(self.complete.outputs):
            hits = [a for a, i in outputs if i in found and a != "@log_prob"]
            density = [a for a, i in outputs if i in found and a == "@log_prob"]
            own = self.is_prior(entry) and self.sites[entry] == name
            if not hits and not density and not own:
                continue
            result.append(self._place(name, entry, hits, own, dict(outputs), found))
        return result

    def _place(self, name: str, entry: int, hits: list[str], own: bool, outputs: Any, found: Any) -> Place:
        family, site = self.family(entry), self.sites[entry]
        if family is None:
            what = "prior" if own else "density"
            distribution = self.model.sites[site].distribution
            why = self.why.get(site) or f"{distribution} has no canonical form here"
            return Place(entry, None, None, None, f"the {what} {distribution} of {site!r} is used as it is: {why}")
        if own and hits:
            return Place(entry, None, None, None, f"{site!r} depends on itself")
        if own:
            conditional = self._shapes(entry, None)
            why = "" if conditional is not None else f"the prior {family.name} of {site!r} has no closed-form mode"
            return Place(entry, None, None, conditional, why)
        if len(hits) > 1:
            return Place(entry, None, None, None, f"it enters {site!r} through both {' and '.join(hits)}")
        argument = hits[0]
        if argument in family.constants:
            return Place(entry, argument, None, None, f"the {argument} of {site!r} has no sufficient statistic")
        dependence = found[outputs[argument]]
        others = [
            n
            for n in self.complete.names
            if n != name and any(outputs.get(a) in self.single[n] for a in family.coupled if a != argument)
        ]
        if argument in family.coupled and others:
            why = f"{' and '.join(family.coupled)} of {site!r} have their maximum jointly"
            return Place(entry, argument, dependence, None, why)
        conditional = self._shapes(entry, argument)
        why = "" if conditional is not None else f"the {argument} of a {family.name} has no closed-form mode ({site!r})"
        return Place(entry, argument, dependence, conditional, why)

    def _shapes(self, entry: int, argument: str | None) -> Conditional | None:
        """The class (and static facts) of a conditional, without computing it."""
        probe = Occurrence(entry, argument, 1.0, 0, False, None, None)
        try:
            return jax.eval_shape(
                lambda p, s: probe.conditional("", self.complete, p, s), self.initial, list(self.slots)
            )
        except (jax.errors.ConcretizationTypeError, NotImplementedError):
            return None

    def floor(self, entry: int) -> Any:
        """Smallest allowed standard deviation (event...,) of a location family's data; None for others."""
        return None if self.is_prior(entry) else _floor(self.complete.factors[entry])


@functools.partial(jax.jit, static_argnums=0)
def _smallest(lead: int, centred: Array, weight: Array | None) -> Array:
    weight = jnp.ones([1] * lead) if weight is None else (weight > 0) * 1.0
    weight = jnp.broadcast_to(weight, jnp.broadcast_shapes(weight.shape, centred.shape[:lead]))
    weight = jnp.reshape(weight, [*weight.shape, *([1] * (centred.ndim - lead))])
    axes = tuple(range(lead))
    total = jnp.maximum(jnp.sum(weight, axes), 1.0)
    mean = jnp.sum(centred * weight, axes, keepdims=True) / total
    variance = jnp.sum((centred - mean) ** 2 * weight, axes) / total
    relative = _FLOOR if centred.dtype == jnp.float64 else _FLOOR_32
    return jnp.maximum(relative * jnp.sqrt(variance), 1e-12)


def _floor(factor: Any) -> Any:
    if factor.family is None or "shift" not in factor.constants:
        return None
    lead = len(factor.latents) + len(factor.batch_shape)
    return _smallest(lead, factor.family.centre(factor.value), factor.weight)


def _index(coords: Coordinates, shape: Sequence[int]) -> np.ndarray | None:
    """Flat element numbers from coordinates: None where they are mixed."""
    if any(c is None for c in coords):
        return None
    flat: Any = np.zeros((), int)
    for c, n in zip(coords, shape or (1,) * len(coords), strict=True):
        assert c is not None
        flat = np.where((c < 0) | (flat < 0), -1, flat * n + c)
    return flat


def _bounds(constraint: Any) -> tuple[Any, Any]:
    base = getattr(constraint, "base_constraint", constraint)
    return getattr(base, "lower_bound", None), getattr(base, "upper_bound", None)


def _is_positive(constraint: Any) -> bool:
    lower, _ = _bounds(constraint)
    return lower is not None and is_concrete(lower) and bool(np.all(np.asarray(lower) >= 0))


def _is_real(constraint: Any) -> bool:
    base = getattr(constraint, "base_constraint", constraint)
    return type(base) in (type(constraints.real), type(constraints.real_vector), type(constraints.real_matrix))


def _named(constraint: Any, *names: str) -> bool:
    base = getattr(constraint, "base_constraint", constraint)
    return any(
        base is getattr(constraints, n, None) or type(base) is type(getattr(constraints, n, None)) for n in names
    )


def recognise(model: Model, complete: CompleteData, why: Mapping[str, str]) -> tuple[list[Update], dict[str, Plan]]:
    """Choose an update for every parameter.

    Args:
        model: the model.
        complete: its factors, priors and links.
        why: per site whose density is used as it is, why its family is not.

    Returns:
        The updates in the order in which they run, and what was decided about each parameter.
    """
    look = _Recogniser(model, complete, why)
    plans = {n: Plan(n, places=look.places(n)) for n in complete.names}
    locations: list[str] = []
    closed: list[ClosedForm] = []
    numeric: list[str] = []
    for name, plan in plans.items():
        parameter = model.parameters[name]
        reasons = [p.why for p in plan.places if p.conditional is None]
        live = [p.conditional for p in plan.places if p.conditional is not None and not isinstance(p.conditional, Flat)]
        if not plan.places or (not live and not reasons):
            plan.declined.append("no factor depends on it: it keeps its value")
        elif reasons:
            plan.declined += reasons
            numeric.append(name)
        elif all(isinstance(c, Quadratic) for c in live):
            why = _location_fits(look, plan, parameter)
            (locations if not why else numeric).append(name)
            plan.declined += [why] if why else []
        else:
            update, why = _closed_form(look, plan, parameter)
            if update is None:
                plan.declined.append(why)
                numeric.append(name)
            else:
                plan.update = update
                plan.features = live[0].features
                closed.append(update)
    updates: list[Update] = []
    for group in _location_groups(look, plans, locations):
        update, why = _least_squares(look, plans, group, model)
        if update is None:
            for name in group:
                plans[name].declined.append(why)
            numeric += group
            continue
        updates.append(update)
        for name in group:
            plans[name].update, plans[name].features = update, "u, uu'"
    updates += closed
    if numeric:
        numeric = [n for n in complete.names if n in numeric]
        chosen = tuple(model.parameters[n].constraint for n in numeric)
        free = [jax.eval_shape(biject_to(c).inv, look.initial[n]) for n, c in zip(numeric, chosen, strict=True)]
        update = Numeric(tuple(numeric), chosen, sum(int(np.size(f)) for f in free))
        updates.append(update)
        for name in numeric:
            plans[name].update = update
    _mark_conditional(look, plans)
    return updates, plans


def _closed_form(look: _Recogniser, plan: Plan, parameter: Parameter) -> tuple[ClosedForm | None, str]:
    live = [p for p in plan.places if not isinstance(p.conditional, Flat)]
    diagonal = [_is_diagonal(look, plan.name, p) for p in live]
    kinds = {"power" if d else KINDS.get(type(p.conditional), "") for p, d in zip(live, diagonal, strict=True)}
    if len(kinds) != 1 or "" in kinds:
        names = " and ".join(sorted({p.conditional.features for p in live}))  # type: ignore[union-attr]
        return None, f"its factors have different features ({names})"
    kind = kinds.pop()
    logits = {getattr(p.conditional, "logits", False) for p in live}
    forms = {getattr(p.conditional, "form", "") for p in live}
    if kind != "power" and (len(logits) > 1 or len(forms) > 1):
        return None, "it enters different factors in different forms"
    why = _constraint_fits(kind, True in logits, forms, parameter)
    if why:
        return None, why
    occurrences, exponents = [], set()
    for place, diag in zip(live, diagonal, strict=True):
        occurrence, why = _occurrence(look, plan.name, place, kind, diag)
        if occurrence is None:
            return None, why
        occurrences.append(occurrence)
        if kind == "power":
            own = {"covariance": -1.0, "precision": 1.0, "cholesky": -2.0}
            c = place.conditional
            exponent = own[c.form] if isinstance(c, InverseMatrix) else c.exponent  # type: ignore[union-attr]
            exponents.add(round(exponent * occurrence.power, 12))
    if len(exponents) > 2 or (len(exponents) == 2 and sum(exponents) != 0):
        return None, f"its features have different powers {sorted(exponents)}"
    lower, upper = _bounds(parameter.constraint) if kind in ("power", "odds") else (None, None)
    form = next(iter(forms)) if kind == "matrix" else ""
    return ClosedForm(plan.name, kind, True in logits, form, tuple(occurrences), lower, upper), ""


def _constraint_fits(kind: str, logits: bool, forms: set[str], parameter: Parameter) -> str:
    c = parameter.constraint
    if kind == "power" and not _is_positive(c):
        return f"its constraint {c} does not make it positive"
    if kind in ("simplex", "odds") and logits and not _is_real(c):
        return f"its constraint {c} is not that of free logits"
    if kind == "simplex" and not logits and not (_named(c, "simplex") or _is_positive(c) or _is_real(c)):
        return f"its constraint {c} is not a simplex"
    if kind == "odds" and not logits:
        lower, upper = _bounds(c)
        if lower is None or upper is None:
            return f"its constraint {c} is not an interval of probabilities"
    if kind == "matrix":
        wanted = ("lower_cholesky", "scaled_unit_lower_cholesky") if forms == {"cholesky"} else ("positive_definite",)
        if not (_named(c, *wanted) or _is_real(c)):
            return f"its constraint {c} is not {wanted[0]}"
    if kind == "circular" and not (_named(c, "circular") or _is_real(c)):
        return f"its constraint {c} is not that of an angle"
    return ""


def _is_diagonal(look: _Recogniser, name: str, place: Place) -> bool:
    """Whether a matrix argument is diagonal, by structure: zeros that no parameter or data can change."""
    d = place.dependence
    if not isinstance(place.conditional, InverseMatrix) or d is None or place.argument is None:
        return False
    if d.power is None or not d.selects(name) or (d.pure and _whole_event(d.coordinates[name], 2, look, name)):
        return False
    number = dict(look.complete.outputs[place.entry])[place.argument]
    only = [n for n in look.complete.names if number in look.single[n]]
    if only != [name] or not is_concrete(*look.complete.known.values()):
        return False
    ones = {n: np.ones(v.shape, v.dtype) for n, v in look.initial.items()}
    with jax.ensure_compile_time_eval():
        matrix = np.asarray(jax.jit(lambda p: look.complete.arguments(p)[place.entry][place.argument])(ones))
    off = matrix[..., ~np.eye(matrix.shape[-1], dtype=bool)]
    return bool(np.all(off == 0))


def _whole_event(coords: Coordinates, ndim: int, look: _Recogniser, name: str) -> bool:
    """Whether each event of the argument is one event of the parameter, in order (its trailing axes)."""
    shape = jnp.shape(look.initial[name])
    if len(shape) < ndim or any(c is None for c in coords):
        return False
    for k in range(ndim):
        c, n = coords[len(shape) - ndim + k], shape[len(shape) - ndim + k]
        assert c is not None
        axis = c.ndim - ndim + k
        if c.size != n or c.shape[axis] != n or not np.array_equal(c.reshape(-1), np.arange(n)):
            return False
    for c in coords[: len(shape) - ndim]:
        assert c is not None
        if any(n > 1 for n in c.shape[c.ndim - ndim :]):
            return False
    return True


def _occurrence(look: _Recogniser, name: str, place: Place, kind: str, diagonal: bool) -> tuple[Occurrence | None, str]:
    shape = jnp.shape(look.initial[name])
    site = look.sites[place.entry]
    if place.argument is None:
        return Occurrence(place.entry, None, 1.0, 0, False, None, None), ""
    d = place.dependence
    assert d is not None
    coords = d.coordinates[name]
    floor = look.floor(place.entry)
    event_ndim = {"simplex": 1, "matrix": 2}.get(kind, 0)
    if event_ndim:
        if not d.pure or not _whole_event(coords, event_ndim, look, name):
            return None, f"the {place.argument} of {site!r} is {_describe(d)}, not a selection of whole arrays"
        lead = tuple(
            np.squeeze(c, tuple(range(c.ndim - event_ndim, c.ndim))) for c in coords[: len(shape) - event_ndim]
        )  # type: ignore[union-attr]
        index = _index(lead, shape[: len(shape) - event_ndim])
        assert index is not None
        index = index if index.ndim else np.zeros((1,) * _lead(look, place), int)
        return Occurrence(place.entry, place.argument, 1.0, event_ndim, False, index, floor), ""
    index = _index(coords, shape)
    if index is None or d.power is None or d.power == 0:
        return None, f"the {place.argument} of {site!r} is {_describe(d)} in it"
    if kind in ("odds", "circular") and not d.pure:
        return None, f"the {place.argument} of {site!r} is {_describe(d)} in it"
    if diagonal:
        dim = max(index.shape[-2:])
        full = np.broadcast_to(index, (*index.shape[:-2], dim, dim))
        index = np.diagonal(full, axis1=-2, axis2=-1)
    elif index.ndim == 0:
        index = np.zeros((1,) * _lead(look, place), int)
    if floor is not None:
        is_variance = diagonal and getattr(place.conditional, "form", "") == "covariance"
        floor = _lowest(floor, 2 if is_variance else 1)
        floor = None if getattr(place.conditional, "form", "") == "precision" else floor
    return Occurrence(place.entry, place.argument, d.power, 0, diagonal, index, floor), ""


@functools.partial(jax.jit, static_argnums=1)
def _lowest(floor: Array, power: int) -> Array:
    return jnp.min(floor) ** power


def _lead(look: _Recogniser, place: Place) -> int:
    factor = (*look.complete.factors, *look.complete.priors)[place.entry]
    if look.is_prior(place.entry):
        return len(look.model.sites[factor.site].batch_shape)
    return len(factor.latents) + len(factor.batch_shape)  # type: ignore[union-attr]


def _describe(d: Dependence) -> str:
    if d.affine:
        return "affine"
    if d.power is not None:
        return f"proportional to its power {d.power:g}"
    return f"a nonlinear function ({', '.join(d.steps)})"


def _location_fits(look: _Recogniser, plan: Plan, parameter: Parameter) -> str:
    for place in plan.places:
        if place.argument is not None and place.dependence is not None and not place.dependence.affine:
            return f"the {place.argument} of {look.sites[place.entry]!r} is {_describe(place.dependence)} in it"
    bounded = _bounds(parameter.constraint) != (None, None)
    if bounded and not _diagonal(look, plan):
        return f"its constraint {parameter.constraint} bounds a regression coefficient"
    if not bounded and not _is_real(parameter.constraint):
        return f"its constraint {parameter.constraint} couples its elements"
    return ""


def _diagonal(look: _Recogniser, plan: Plan) -> bool:
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


def _location_groups(look: _Recogniser, plans: Mapping[str, Plan], names: Sequence[str]) -> list[list[str]]:
    """Locations that enter one argument together, if they are jointly affine there; else each on its own."""
    groups = [{n} for n in names]
    for name in names:
        touching = [g for g in groups if any(_share(plans[name], plans[o]) for o in g)]
        merged = set().union(*touching)
        groups = [g for g in groups if g not in touching] + [merged]
    result: list[list[str]] = []
    for group in groups:
        ordered = [n for n in names if n in group]
        bounded = any(_bounds(look.model.parameters[n].constraint) != (None, None) for n in ordered)
        if len(ordered) > 1 and (bounded or not _jointly_affine(look, plans, ordered)):
            result += [[n] for n in ordered]
        else:
            result.append(ordered)
    return result


def _share(first: Plan, second: Plan) -> bool:
    left = {(p.entry, p.argument) for p in first.places if p.argument}
    return bool(left & {(p.entry, p.argument) for p in second.places if p.argument})


def _jointly_affine(look: _Recogniser, plans: Mapping[str, Plan], group: Sequence[str]) -> bool:
    found = look.dependence(group)
    for name in group:
        for place in plans[name].places:
            if place.argument is not None:
                number = dict(look.complete.outputs[place.entry])[place.argument]
                if not found[number].affine:
                    return False
    return True


def _least_squares(
    look: _Recogniser, plans: Mapping[str, Plan], group: Sequence[str], model: Model
) -> tuple[LeastSquares | None, str]:
    if len(group) == 1 and _diagonal(look, plans[group[0]]):
        name = group[0]
        lower, upper = _bounds(model.parameters[name].constraint)
        places = [p for p in plans[name].places if not isinstance(p.conditional, Flat)]
        occurrences = []
        for place in places:
            occurrence, why = _occurrence(look, name, place, "location", False)
            if occurrence is None:
                return None, why
            occurrences.append(occurrence)
        return LeastSquares((name,), ((),), tuple(occurrences), ((),) * len(places), True, lower, upper), ""
    places: dict[tuple[int, str | None, str], Place] = {}
    for name in group:
        for place in plans[name].places:
            if not isinstance(place.conditional, Flat):
                own = name if place.argument is None else ""
                places.setdefault((place.entry, place.argument, own), place)
    separable, axes = _separable(look, group, list(places.values()), list(places))
    occurrences = [Occurrence(p.entry, p.argument, 1.0, 0, False, None, None) for p in places.values()]
    owners = [own for _, _, own in places]
    return LeastSquares(tuple(group), separable, tuple(occurrences), axes, False, None, None, tuple(owners)), ""


def _separable(
    look: _Recogniser, group: Sequence[str], places: Sequence[Place], keys: Sequence[Any]
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
            for axis, c in enumerate(d.coordinates[name]):
                varying = [] if c is None else [a for a, n in enumerate(c.shape) if n > 1]
                counts = len(varying) == 1 and varying[0] < batch and axis < len(shape)
                if counts and np.array_equal(c.reshape(-1), np.arange(shape[axis])):
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


def _mark_conditional(look: _Recogniser, plans: Mapping[str, Plan]) -> None:
    """A location's update is the joint maximum if its weights cancel; else it is conditional on the scales (ECM)."""
    for plan in plans.values():
        if not isinstance(plan.update, LeastSquares):
            continue
        places = {(p.entry, p.argument): p for n in plan.update.names for p in plans[n].places
                  if not isinstance(p.conditional, Flat)}  # fmt: skip
        plan.conditional = len(places) > 1 or not all(_cancels(look, plan.update, p) for p in places.values())
        if not any(_scales(look, p) for p in places.values()):
            plan.conditional = False


def _scales(look: _Recogniser, place: Place) -> list[str]:
    """Unknown arguments other than the location."""
    outputs = look.complete.outputs[place.entry]
    return [
        a for a, i in outputs if a not in (place.argument, "@log_prob") and any(i in s for s in look.single.values())
    ]


def _cancels(look: _Recogniser, update: LeastSquares, place: Place) -> bool:
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
        index = _index(d.coordinates[name], jnp.shape(look.initial[name])) if update.diagonal else None
        for axis, n in enumerate(batch):
            separate = (
                index is not None and index.ndim > axis and index.shape[axis] == n and index.size == n
                if update.diagonal
                else any(axis == a for a in update.separable_axes[0])
            )
            if n > 1 and not separate:
                return False
    if ndim == 0:
        return True
    single = len(update.names) == 1
    d = look.single[update.names[0]][outputs[place.argument]]
    return (
        single
        and d.pure
        and len(axes[update.names[0]]) == len(jnp.shape(look.initial[update.names[0]])) - 1
        and len(shape) > 0
    )
