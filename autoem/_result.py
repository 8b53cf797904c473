"""How a fit ended, in sentences, and what it returns."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ._types import Array, Params


class Status(enum.Enum):
    """How a fit ended; the value is a sentence."""

    CONVERGED = "Converged: neither the objective nor the parameters would move further by more than the tolerance."
    MAX_STEPS = "Stopped after num_steps steps, before convergence: raise num_steps, or go on from result.state."
    DECREASED = "Stopped because the objective fell by more than rounding: a numerical problem, or a bug in autoem."
    SADDLE = "A saddle: stationary by its symmetry only; close by the objective rises. Start from unequal values."
    DEGENERATE = "Degenerate: a scale or covariance shrank to its floor (the likelihood is unbounded there)."
    ENDLESS = "No finite maximum: a parameter would go on to infinity, where the objective rises ever more slowly."
    BLIND = "Not converged: a derivative of the log density is not finite, so that a parameter could not be moved."
    INACCURATE = "Not accurate: more quadrature nodes would still change the log-likelihood by over a millionth of it."
    NOISY = "Not converged: Monte Carlo noise hides what is left with the largest sample: raise max_samples or tol"
    DIVERGENT = "The sampler failed: over 1% of its transitions diverged; reparametrise, or use the other sampler."
    UNMIXED = "The sampler failed: R-hat is over 1.05, so the chains do not agree; reparametrise, or raise num_samples."
    INEFFECTIVE = "The sampler failed: the effective sample size is under 10% of the draws; try the other sampler."
    NONFINITE = "Stopped because the objective was not finite any more; the last finite parameters are returned."


class Check(NamedTuple):
    """A quadrature beside one with at least twice as many nodes per dimension.

    Attributes:
        nodes: per dimension.
        against: those that it was compared with.
        change: of the log-likelihood.
        size: the larger of 1 and the log-likelihood's absolute value.
        missed: how much of the log-likelihood lies about other modes than those that there are points about.
    """

    nodes: int
    against: int
    change: float
    size: float
    missed: float = 0.0

    @property
    def fine(self) -> bool:
        """Whether more nodes would change nothing that matters."""
        return max(self.change, self.missed) <= self._rounding

    @property
    def elsewhere(self) -> bool:
        """Whether points about other modes would change more than nothing."""
        return not self.missed <= self._rounding

    @property
    def _rounding(self) -> float:
        return max(1e-9, 64 * float(jnp.finfo(jnp.result_type(float)).eps)) * self.size

    @property
    def accurate(self) -> bool:
        """Whether the log-likelihood is right to about a millionth of it."""
        return (
            max(self.change, self.missed) <= max(1e-6, 256 * float(jnp.finfo(jnp.result_type(float)).eps)) * self.size
        )

    @property
    def sentence(self) -> str:
        """What the comparison gave."""
        how = "" if self.accurate else ", which is too much: this log-likelihood is not accurate"
        far = f" and points about other modes by {self.missed:.1g}" if self.elsewhere else ""
        return f"{self.against} nodes instead of {self.nodes} change the log-likelihood by {self.change:.1g}{far}{how}"


class Noise(NamedTuple):
    """The Monte Carlo error of a fit.

    Attributes:
        num_samples: draws in the last sample.
        params: standard error of every parameter that is due to sampling (not to the data); NaN where the information
            is not positive definite.
        log_likelihood: estimated at the fitted parameters by importance sampling.
        log_likelihood_error: its standard error; infinite where the weights are too uneven to tell.
        left: estimated increase of the objective that is left, without noise: half the squared Newton step.
        left_noise: what sampling noise adds to that on average.
        effective: per latent, effective sample size of its worst element.
        r_hat: per latent, the largest split R-hat of its elements; None by importance sampling.
        divergences: divergent transitions in the last sample.
        sampler: per latent, "importance" or "nuts".
    """

    num_samples: int
    params: dict[str, Any]
    log_likelihood: float
    log_likelihood_error: float
    left: float
    left_noise: float
    effective: dict[str, float]
    r_hat: dict[str, float | None]
    divergences: int
    sampler: dict[str, str]


class EMState(NamedTuple):
    """State between EM steps: a pytree.

    Attributes:
        params: constrained values by name.
        rng_key: a JAX key.
        log_likelihood: of the parameters that came into the last step; NaN before the first.
        num_steps: steps taken.
        flags: per parameter, what its last update had to do to stay finite (0: nothing).
        chains: what samplers hand on from one E-step to the next; empty where nothing is sampled.
    """

    params: Params
    rng_key: Any
    log_likelihood: Any
    num_steps: Any
    flags: dict[str, Any]
    chains: Any = ()


class EMResult(NamedTuple):
    """What `EM.run` returns.

    Attributes:
        params: fitted values by name, constrained.
        log_likelihood: observed-data log-likelihood, one entry per step (of the parameters that came into it); an
            estimate where latents are sampled.
        objective: what EM climbs: the log-likelihood plus the log priors of maximised sites that are not flat.
        num_steps: steps taken.
        converged: whether the fit converged; false when it ran out of steps or degenerated.
        status: how it ended.
        state: to go on from, `run(..., init_state=result.state)`.
        derivation: what was done.
        restarts: final log-likelihood of every start, or None.
        monte_carlo: the Monte Carlo error of the fit; None where nothing is sampled.
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
    monte_carlo: Noise | None = None

    @property
    def losses(self) -> Array:
        """The negative objective, as SVI has it."""
        return -self.objective
