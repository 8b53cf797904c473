"""How a fit ended, in sentences, and what it returns."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

import numpy as np

from ._types import Array, Params


class Status(enum.Enum):
    """How a fit ended; the value is a sentence."""

    CONVERGED = "Converged: neither the objective nor the parameters would move further by more than the tolerance."
    MAX_STEPS = "Stopped after num_steps steps, before convergence: raise num_steps, or go on from result.state."
    DECREASED = "Stopped because the objective fell by more than rounding: a numerical problem, or a bug in autoem."
    DEGENERATE = "Degenerate: a scale or covariance shrank to its floor (the likelihood is unbounded there)."
    INACCURATE = "Not accurate: more quadrature nodes would still change the log-likelihood by over a millionth of it."
    NONFINITE = "Stopped because the objective was not finite any more; the last finite parameters are returned."


class EMState(NamedTuple):
    """State between EM steps: a pytree.

    Attributes:
        params: constrained values by name.
        rng_key: a JAX key.
        log_likelihood: of the parameters that came into the last step; NaN before the first.
        num_steps: steps taken.
        flags: per parameter, what its last update had to do to stay finite (0: nothing).
    """

    params: Params
    rng_key: Any
    log_likelihood: Any
    num_steps: Any
    flags: dict[str, Any]


class EMResult(NamedTuple):
    """What `EM.run` returns.

    Attributes:
        params: fitted values by name, constrained.
        log_likelihood: observed-data log-likelihood, one entry per step (of the parameters that came into it).
        objective: what EM climbs: the log-likelihood plus the log priors of maximised sites that are not flat.
        num_steps: steps taken.
        converged: whether the fit converged; false when it ran out of steps or degenerated.
        status: how it ended.
        state: to go on from, `run(..., init_state=result.state)`.
        derivation: what was done.
        restarts: final log-likelihood of every start, or None.
    """

    params: Params
    log_likelihood: Array
    objective: Array
    num_steps: int
    converged: bool
    status: Status
    state: EMState
    derivation: Any
    restarts: np.ndarray | None

    @property
    def losses(self) -> Array:
        """The negative objective, as SVI has it."""
        return -self.objective
