"""What a constraint says of the elements of an unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpyro.distributions import constraints

from ._links import is_concrete


def bounds(constraint: Any) -> tuple[Any, Any]:
    """Lower and upper bound of a constraint, None where there is none."""
    base = getattr(constraint, "base_constraint", constraint)
    return getattr(base, "lower_bound", None), getattr(base, "upper_bound", None)


def is_positive(constraint: Any) -> bool:
    """Whether a constraint keeps every element positive."""
    lower, _ = bounds(constraint)
    return lower is not None and is_concrete(lower) and bool(np.all(np.asarray(lower) >= 0))


def is_real(constraint: Any) -> bool:
    """Whether a constraint leaves every element free."""
    base = getattr(constraint, "base_constraint", constraint)
    return type(base) in (type(constraints.real), type(constraints.real_vector), type(constraints.real_matrix))


def is_named(constraint: Any, *names: str) -> bool:
    """Whether a constraint is one of NumPyro's, by name."""
    base = getattr(constraint, "base_constraint", constraint)
    return any(
        base is getattr(constraints, n, None) or type(base) is type(getattr(constraints, n, None)) for n in names
    )


def known_bound(constraint: Any) -> str:
    """What a constraint says of an element: "unit" (not above one either), "positive", or nothing."""
    if is_named(constraint, "simplex"):
        return "unit"
    if not is_positive(constraint):
        return ""
    _, upper = bounds(constraint)
    small = upper is not None and is_concrete(upper) and bool(np.all(np.asarray(upper) <= 1))
    return "unit" if small else "positive"
