"""Parameter values that a user gives, checked against the model."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._derivation import Derivation
from ._types import Array, Params


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
    return {n: params[n] for n in wanted}
