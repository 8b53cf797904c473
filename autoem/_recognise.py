"""Which update each parameter gets: the M-step half of a derivation.

A parameter that enters every factor and prior through the features of one conditional has a closed-form mode.
Eligibility is global: one factor that does not fit sends the parameter to the numeric update, and the reason is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to

from ._complete import CompleteData
from ._counts import hidden_counts
from ._family import AbsoluteDeviation, AbstractScaleMixture, Flat, InverseMatrix, Quadratic
from ._links import is_concrete, whole_event
from ._locations import least_squares, location_fits, location_groups, mark_conditional
from ._model import Model, Parameter
from ._places import Entries, Place, Plan, occurrence_of
from ._separation import separate_blocks
from ._supports import bounds, is_named, is_positive, is_real
from ._types import StaticArray
from ._update import KINDS, NEWTON_LIMIT, ClosedForm, HiddenCounts, LeastSquares, Numeric, Update

_MUCH = 2**21
"""Coordinates times numbers at all points from which on a Newton step on Q takes tenths of a second."""


def recognise(
    model: Model, complete: CompleteData, undone: Mapping[str, str], augmented: bool = True, work: int = 0
) -> tuple[list[Update], dict[str, Plan]]:
    """Choose an update for every parameter.

    Args:
        model: the model.
        complete: its factors, priors and links.
        undone: per site whose density is used as it is, why its family is not.
        augmented: whether counts may be split into hidden ones.
        work: numbers in the tables at all points of the quadratures.

    Returns:
        The updates in the order in which they run, and what was decided about each parameter.
    """
    look = Entries(model, complete, undone)
    plans = {n: Plan(n, places=look.places(n)) for n in complete.names}
    chosen = _Chosen([], [], [])
    for plan in plans.values():
        _choose(look, plan, model.parameters[plan.name], augmented, chosen)
    updates = _location_updates(look, model, plans, chosen)
    updates += sorted(chosen.closed, key=lambda u: u.kind not in ("median", "circular"))  # locations before scales
    mark_conditional(look, plans)
    _mark_hidden(look, plans)
    updates = _numeric_joins(look, model, plans, updates, chosen.numeric)
    if chosen.numeric:
        updates.append(_numeric(look, model, complete, chosen.numeric, work))
        for name in chosen.numeric:
            plans[name].update = updates[-1]
    return updates, plans


class _Chosen(NamedTuple):
    """Parameters by the kind of their update: (perhaps) least squares, closed form, numeric."""

    locations: list[str]
    closed: list[ClosedForm]
    numeric: list[str]


def _choose(look: Entries, plan: Plan, parameter: Parameter, augmented: bool, chosen: _Chosen) -> None:
    """Put one parameter where the conditionals at its places belong, and say why not elsewhere."""
    reasons = [p.why for p in plan.places if p.conditional is None]
    live = [p.conditional for p in plan.places if p.conditional is not None and not isinstance(p.conditional, Flat)]
    if not plan.places or (not live and not reasons):
        plan.declined.append("no factor depends on it: it keeps its value")
    elif reasons:
        plan.declined += reasons
        chosen.numeric.append(plan.name)
    elif all(isinstance(c, Quadratic) for c in live):
        why = location_fits(look, plan, parameter)
        (chosen.locations if not why else chosen.numeric).append(plan.name)
        plan.declined += [why] if why else []
    else:
        update, why = _closed_form(look, plan, parameter, augmented)
        if update is None:
            plan.declined.append(why)
            near = all(isinstance(c, AbsoluteDeviation | Quadratic) for c in live)
            fits = near and not location_fits(look, plan, parameter)
            (chosen.locations if fits else chosen.numeric).append(plan.name)
        else:
            plan.update = update
            plan.features = _FEATURES.get(update.kind) or live[0].features
            chosen.closed.append(update)


def _location_updates(look: Entries, model: Model, plans: Mapping[str, Plan], chosen: _Chosen) -> list[Update]:
    """Least squares for every group of locations that allows it; the others become numeric."""
    updates: list[Update] = []
    for group in location_groups(look, plans, chosen.locations):
        update, why = least_squares(look, plans, group, model)
        if update is None:
            for name in group:
                plans[name].declined.append(why)
            chosen.numeric.extend(group)
            continue
        updates.append(update)
        for name in group:
            plans[name].update, plans[name].features = update, "u, uu'"
    return updates


def _mark_hidden(look: Entries, plans: Mapping[str, Plan]) -> None:
    """Which closed forms rest on a hidden precision or on hidden counts: these raise Q, but are not its joint mode."""
    for plan in plans.values():
        if plan.update is not None:
            plan.hidden = tuple(look.sites[p.entry] for p in plan.places if _is_hidden(look, plan, p))
            plan.conditional |= bool(plan.hidden)
            plan.counted = _counted(look, plan)
            plan.conditional |= any(_shares_argument(look, plan.name, p) for p in plan.places if plan.counted)


def _numeric_joins(
    look: Entries, model: Model, plans: Mapping[str, Plan], updates: list[Update], numeric: list[str]
) -> list[Update]:
    """Without latents Q is the likelihood: what meets a numeric parameter climbs with it, and one step is enough."""
    kinks = any(isinstance(p.conditional, AbsoluteDeviation) for plan in plans.values() for p in plan.places)
    if not numeric or model.hidden or kinks or any(plan.hidden for plan in plans.values()):
        return updates
    joined = _coupled(plans, updates, numeric)
    if not joined or _coordinates(look, model, [*numeric, *joined]) > NEWTON_LIMIT:
        return updates
    for name in joined:
        plans[name].conditional = False
        plans[name].declined.append(f"nothing is latent: it climbs with {', '.join(map(repr, numeric))}")
    numeric.extend(joined)
    return [u for u in updates if not joined.intersection(_names(u))]


def _numeric(look: Entries, model: Model, complete: CompleteData, numeric: Sequence[str], work: int) -> Numeric:
    """One joint climb, in the order of the model; `work`: numbers in the tables at all points of the quadratures."""
    names = tuple(n for n in complete.names if n in numeric)
    constraints = tuple(model.parameters[n].constraint for n in names)
    blocks = separate_blocks(look, list(names))
    number = _coordinates(look, model, list(names))
    # Where Q is a sum over points a step may cost as much as an E-step: one of them, and Q still rises.
    own = any(np.size(p) == math.prod(model.avals[n].shape) for n, p in complete.points.items())
    together = number if blocks is None else int(np.max(np.unique(blocks, return_counts=True)[1]))
    steps = {"steps": 1 if own or together * work > _MUCH else 3} if complete.points else {}
    apart = None if blocks is None else StaticArray(blocks)
    return Numeric(names, constraints, number, blocks=apart, **steps)


def _coordinates(look: Entries, model: Model, names: Sequence[str]) -> int:
    """How many unconstrained coordinates some parameters have."""
    free = [jax.eval_shape(biject_to(model.parameters[n].constraint).inv, look.initial[n]) for n in names]
    return sum(int(np.size(f)) for f in free)


def _names(update: Update) -> tuple[str, ...]:
    return (update.name,) if isinstance(update, ClosedForm) else update.names


def _coupled(plans: Mapping[str, Plan], updates: Sequence[Update], numeric: Sequence[str]) -> set[str]:
    """Parameters whose closed form holds for given values of those without one only, and that climb with them instead.

    This is for models in which nothing is latent. Q is then the objective itself: to maximise it in turns can take
    thousands of steps, where one climb takes a few.
    """
    joined: set[str] = set()
    while True:
        entries = {p.entry for n in (*numeric, *joined) for p in plans[n].places}
        met = {n for n, plan in plans.items() if entries.intersection(p.entry for p in plan.places)}
        bound = [u for u in updates if any(n in met and (plans[n].conditional or isinstance(u, ClosedForm))
                                           for n in _names(u))]  # fmt: skip
        fresh = {n for u in bound for n in _names(u)} - joined
        if not fresh:
            return joined
        joined |= fresh


def _is_hidden(look: Entries, plan: Plan, place: Place) -> bool:
    """Whether a parameter's update makes use of a hidden precision for every datum of an entry."""
    if look.is_prior(place.entry):
        return False
    if isinstance(place.conditional, AbsoluteDeviation):
        return isinstance(plan.update, LeastSquares)
    factor = look.complete.factors[place.entry]
    return isinstance(factor.family, AbstractScaleMixture) and not factor.canonical


_FEATURES = {"odds": "log u, log(1-u)", "simplex": "log u_k"}


def _counts(look: Entries, name: str, place: Place, augmented: bool) -> tuple[HiddenCounts | None, str]:
    """Hidden counts where the argument is not just a selection of the parameter's elements, or a power of them."""
    kind = KINDS.get(type(place.conditional), "")
    if kind not in ("power", "simplex") or occurrence_of(look, name, place, kind, False)[0] is not None:
        return None, ""
    return hidden_counts(look, name, place, augmented)


def _counted(look: Entries, plan: Plan) -> tuple[str, ...]:
    """Sites whose counts are split into hidden ones for a parameter."""
    places = plan.update.occurrences if isinstance(plan.update, ClosedForm) else ()
    return tuple(look.sites[o.entry] for o in places if isinstance(o, HiddenCounts) and not o.single)


def _shares_argument(look: Entries, name: str, place: Place) -> bool:
    """Whether another parameter is in the same argument."""
    number = dict(look.complete.outputs[place.entry]).get(str(place.argument))
    return any(number in look.single[n] for n in look.complete.names if n != name)


def _closed_form(look: Entries, plan: Plan, parameter: Parameter, augmented: bool) -> tuple[ClosedForm | None, str]:
    live = [p for p in plan.places if not isinstance(p.conditional, Flat)]
    diagonal = [_is_diagonal(look, plan.name, p) for p in live]
    counts = [_counts(look, plan.name, p, augmented) for p in live]
    kinds = {c.kind if c else "power" if d else KINDS.get(type(p.conditional), "")
             for p, d, (c, _) in zip(live, diagonal, counts, strict=True)}  # fmt: skip
    if len(kinds) != 1 or "" in kinds:
        names = " and ".join(sorted({p.conditional.features for p in live}))  # type: ignore[union-attr]
        return None, f"its factors have different features ({names})"
    kind = kinds.pop()
    logits = {getattr(p.conditional, "logits", False) for p in live}
    forms = {getattr(p.conditional, "form", "") for p in live}
    if kind != "power" and (len(logits) > 1 or len(forms) > 1):
        return None, "it enters different factors in different forms"
    unseen = "".join(f"; {why}" for why in dict.fromkeys(why for _, why in counts if why))
    why = _constraint_fits(kind, True in logits, forms, parameter)
    if why:
        return None, why + unseen
    occurrences, exponents = [], set()
    for place, diag, (count, _) in zip(live, diagonal, counts, strict=True):
        occurrence, why = (count, "") if count else occurrence_of(look, plan.name, place, kind, diag)
        if occurrence is None:
            return None, why + unseen
        occurrences.append(occurrence)
        if kind == "power":
            own = {"covariance": -1.0, "precision": 1.0, "cholesky": -2.0}
            c = place.conditional
            exponent = own[c.form] if isinstance(c, InverseMatrix) else c.exponent  # type: ignore[union-attr]
            exponents.add(round(exponent * occurrence.power, 12))
    if len(exponents) > 2 or (len(exponents) == 2 and sum(exponents) != 0):
        return None, f"its features have different powers {sorted(exponents)}"
    if kind == "median" and len(occurrences) > 1:
        return None, "several sites share it, and the weighted median is that of one"
    lower, upper = bounds(parameter.constraint) if kind in ("power", "odds", "median") else (None, None)
    form = next(iter(forms)) if kind == "matrix" else ""
    return ClosedForm(plan.name, kind, True in logits, form, tuple(occurrences), lower, upper), ""


def _constraint_fits(kind: str, logits: bool, forms: set[str], parameter: Parameter) -> str:
    c = parameter.constraint
    if kind == "power" and not is_positive(c):
        return f"its constraint {c} does not make it positive"
    if kind in ("simplex", "odds") and logits and not is_real(c):
        return f"its constraint {c} is not that of free logits"
    if kind == "simplex" and not logits and not is_named(c, "simplex"):
        return f"its constraint {c} is not a simplex"
    if kind == "odds" and not logits:
        lower, upper = bounds(c)
        if lower is None or upper is None:
            return f"its constraint {c} is not an interval of probabilities"
    if kind == "matrix":
        wanted = ("lower_cholesky", "scaled_unit_lower_cholesky") if forms == {"cholesky"} else ("positive_definite",)
        if not (is_named(c, *wanted) or is_real(c)):
            return f"its constraint {c} is not {wanted[0]}"
    if kind == "median" and bounds(c) == (None, None) and not is_real(c):
        return f"its constraint {c} couples its elements"
    if kind == "circular" and not (is_named(c, "circular") or is_real(c)):
        return f"its constraint {c} is not that of an angle"
    return ""


def _is_diagonal(look: Entries, name: str, place: Place) -> bool:
    """Whether a matrix argument is diagonal, by structure: zeros that no parameter or data can change."""
    d = place.dependence
    if not isinstance(place.conditional, InverseMatrix) or d is None or place.argument is None:
        return False
    whole = d.pure and whole_event(d.coordinates[name], 2, jnp.shape(look.initial[name]))
    if d.power is None or not d.selects(name) or whole:
        return False
    number = dict(look.complete.outputs[place.entry])[place.argument]
    only = [n for n in look.complete.names if number in look.single[n]]
    if only != [name] or not is_concrete(*look.complete.known.values()):
        return False
    ones = {n: np.ones(v.shape, v.dtype) for n, v in look.initial.items()}
    with jax.ensure_compile_time_eval():
        matrix = np.asarray(jax.jit(lambda p: look.complete.arguments(p)[place.entry][str(place.argument)])(ones))
    off = matrix[..., ~np.eye(matrix.shape[-1], dtype=bool)]
    return bool(np.all(off == 0))
