"""What a user gives or asks for, checked against the derivation."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._derivation import Derivation
from ._result import EMState
from ._types import Array, Params, Refusal


def checked(name: str, value: Any, derivation: Derivation) -> Array:
    """One starting value, in the precision of the fit.

    Raises:
        ValueError: it is no parameter's, or has a wrong shape, or lies outside the constraint.
    """
    parameters = derivation.model.parameters
    if name not in parameters:
        raise ValueError(f"init_params names {name!r}, which is not a parameter. There are: "
                         f"{', '.join(map(repr, parameters))}.")  # fmt: skip
    wanted = parameters[name].initial
    value = (jnp if isinstance(value, Tracer) else np).asarray(value, wanted.dtype)
    if value.shape != wanted.shape:
        raise ValueError(f"init_params[{name!r}] has shape {value.shape}; the model's has {wanted.shape}.")
    if not isinstance(value, Tracer):
        if not np.all(np.isfinite(value)):
            raise ValueError(f"init_params[{name!r}] holds NaN or infinite values.")
        if not np.all(parameters[name].constraint(value)):
            raise ValueError(f"init_params[{name!r}] is outside its constraint {parameters[name].constraint}.")
    return value


def complete_params(params: Params, derivation: Derivation) -> Params:
    """Parameter values in the model's order.

    Raises:
        ValueError: some are missing or unknown, or of a wrong shape.
    """
    wanted = derivation.model.parameters
    missing = [n for n in wanted if n not in params]
    unknown = [n for n in params if n not in wanted]
    if missing or unknown:
        raise ValueError(
            f"params must have exactly the parameters {list(wanted)}; missing {missing}, unknown {unknown}."
        )
    for name, parameter in wanted.items():
        if jnp.shape(params[name]) != jnp.shape(parameter.initial):
            raise ValueError(f"params[{name!r}] has shape {jnp.shape(params[name])}; the model's has "
                             f"{jnp.shape(parameter.initial)}.")  # fmt: skip
    return {n: jnp.asarray(params[n], _precision(params[n])) for n in wanted}


def _precision(value: Any) -> Any:
    """A float's own; whole numbers become floats."""
    kind = jnp.result_type(value)
    return kind if jnp.issubdtype(kind, jnp.floating) else jnp.result_type(float)


def require_strict(derivation: Derivation) -> None:
    """Refuse what is not exact, and what is not in closed form: all of it, each with its reasons."""
    found = {**derivation.latents, **derivation.params}
    lists = {
        "not exact": [n for n, f in found.items() if not f.exact],
        "not in closed form": [n for n, f in derivation.params.items() if f.method in ("newton", "gradient")],
    }
    told = [f"{what}: " + " | ".join(f"{n}: {found[n].method} ({'; '.join(found[n].declined) or found[n].reason})"
                                     for n in names) for what, names in lists.items() if names]  # fmt: skip
    if told:
        raise Refusal("strict=True. These parts are " + ". These are ".join(told) + ".")


def require_distinct(states: list[EMState]) -> None:
    """Refuse restarts that all begin at the same place."""
    if len(states) < 2:
        return
    first, second = states[0].params, states[1].params
    if all(np.array_equal(first[n], second[n]) for n in first):
        raise ValueError("num_restarts > 1, but all starts are the same: give a numpyro.param a callable initial value "
                         "(a function of a key), or leave a maximised site out of init_params.")  # fmt: skip
