"""Whether a fit has come to rest at a point that only its symmetry makes stationary.

Components that start equal stay equal: the score is zero there and every step has length zero, but the point is a
saddle. The same holds for a correlation or a loading that starts at exactly zero (Murray 1977). Where the parameters
look like that, the fit goes on for a while from a point close by: at a maximum it comes back, at a saddle it climbs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to

from ._derivation import Derivation
from ._model import Parameter
from ._result import EMState, Status

_STEPS = 200
"""Steps from the point close by."""

_NUDGE = 0.01
"""Standard deviation of the nudge, in free coordinates, relative to those above one."""


def climbing(
    derivation: Derivation, state: EMState, objective: float, run: Callable[..., Any], status: Status
) -> list[str]:
    """Names of the parameters that move where the objective rises from a point close by; none at a maximum.

    Args:
        derivation: the algorithm.
        state: where the fit converged.
        objective: what it reached.
        run: (machine, states, steps) -> (carry, log-likelihoods, objectives), one history per start.
        status: how the fit ended; only where it converged is there anything to look at.
    """
    parameters = derivation.model.parameters
    if status is not Status.CONVERGED or not any(
        _symmetric(np.asarray(v), parameters[n]) for n, v in state.params.items()
    ):
        return []
    nudged = {n: _nudged(np.asarray(v), parameters[n], i) for i, (n, v) in enumerate(state.params.items())}
    carry, _, objectives = run(derivation.machine, [state._replace(params=nudged)], _STEPS)
    reached = float(objectives[0][-1])
    if not reached > objective + 1e-6 * max(1.0, abs(objective)):
        return []
    moved = {n: float(np.max(np.abs(np.asarray(carry.params[n])[0] - v) / (np.max(np.abs(v)) + 1e-8)))
             for n, v in state.params.items() if np.size(v)}  # fmt: skip
    return [n for n, change in moved.items() if change > 5 * _NUDGE] or list(moved)


def _symmetric(value: np.ndarray, parameter: Parameter) -> bool:
    """Whether two slices along an axis are equal, or a number that is free to be anything is exactly zero."""
    size = float(np.max(np.abs(value), initial=0.0))
    for axis, n in enumerate(value.shape):
        slices = np.moveaxis(value, axis, 0).reshape(n, -1) / (size or 1.0)
        if len(np.unique(np.round(slices, 6), axis=0)) < n:
            return True
    free = np.asarray(biject_to(parameter.constraint).inv(jnp.asarray(value)))
    return bool(np.any(np.abs(free) < 1e-10))


def _nudged(value: np.ndarray, parameter: Parameter, number: int) -> np.ndarray:
    bijection = biject_to(parameter.constraint)
    free = np.asarray(bijection.inv(jnp.asarray(value)))
    noise = np.asarray(jax.random.normal(jax.random.key(number), free.shape, free.dtype))
    moved = free + _NUDGE * noise * np.maximum(np.abs(free), 1.0)
    moved = np.asarray(bijection(jnp.asarray(np.where(np.isfinite(free), moved, free))))
    return np.where(np.isfinite(moved), moved, value)
