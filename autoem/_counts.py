"""Where a parameter enters by a sum of terms: hidden counts, of which every term has its share."""

from __future__ import annotations

from typing import Any

from ._family import LogPower, LogSimplex
from ._links import restricted, terms_of
from ._places import Entries, Place
from ._supports import is_named, is_positive, known_bound
from ._update import HiddenCounts


def hidden_counts(look: Entries, name: str, place: Place, augmented: bool) -> tuple[HiddenCounts | None, str]:
    """The hidden counts of one place, or why there are none ("" where nobody would expect any).

    Args:
        look: the model's entries.
        name: the parameter.
        place: where it enters.
        augmented: whether hidden counts may be made use of; without them every element has to be one term.
    """
    conditional, constraint = place.conditional, look.model.parameters[name].constraint
    rate = isinstance(conditional, LogPower) and conditional.exponent == 1
    cells = isinstance(conditional, LogSimplex) and not conditional.logits
    if place.argument is None or look.is_prior(place.entry) or not (rate or cells):
        return None, ""
    if not look.complete.factors[place.entry].canonical:
        return None, ""
    within = known_bound(constraint)
    simplex = is_named(constraint, "simplex")
    kind = "power" if rate and not simplex else "simplex" if cells and simplex else "odds" if cells else ""
    if (kind == "power" and not _is_elementwise(constraint)) or (kind == "odds" and within != "unit") or not kind:
        return None, ""
    number = dict(look.complete.outputs[place.entry])[place.argument]
    sign = {look.input[n]: b for n in look.complete.names if (b := known_bound(look.model.parameters[n].constraint))}
    found = terms_of(look.program, look.input[name], sign, kind == "odds", number)
    what = f"the {place.argument} of {look.sites[place.entry]!r}"
    if found is None:
        return None, f"{what} is not seen to be a sum of terms that are not negative"
    if kind == "power" and found.degree > 1:
        return None, f"{what} is a sum of terms, some of them products of its elements"
    if not (augmented or found.single):
        return None, f"{what} is a sum of terms, and augment=False does without hidden counts"
    if found.complements and look.complete.points:
        return None, f"{what} holds latents that are integrated numerically"
    program = restricted(look.program, [number]) if found.complements else None
    return HiddenCounts(place.entry, place.argument, kind, found.single, program, found.complements), ""


def _is_elementwise(constraint: Any) -> bool:
    """Positive, every element by itself."""
    base = getattr(constraint, "base_constraint", constraint)
    return is_positive(constraint) and not getattr(base, "event_dim", 1)
