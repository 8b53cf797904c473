"""How latents that no exact engine takes are sampled: small objects that a user gives to `EM(e_step=...)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

BATCHES = 16
"""Batches of draws from which the noise of an average is estimated."""

_SAMPLERS = ("auto", "importance", "nuts")


@dataclass(frozen=True)
class MonteCarlo:
    """Ascent-based Monte Carlo EM (Caffo, Jank and Jones 2005): a fresh sample in every E-step, that grows.

    A step is taken where the lower confidence bound of the increase of Q is positive. Where it is not, noise hides the
    ascent: then the sample grows.

    Attributes:
        num_samples: draws of the latents in the first E-step.
        sampler: "importance" (weighted draws about the mode of each independent cell of latents), "nuts" (Markov
            chains on all of them), or "auto": importance where no cell has many coordinates.
        num_chains: Markov chains, run side by side.
        max_samples: the sample grows no further.

    Raises:
        ValueError: options that cannot be honoured.
    """

    num_samples: int = 256
    sampler: str = "auto"
    num_chains: int = 4
    max_samples: int = 16384

    def __post_init__(self) -> None:
        _check(self, self.num_samples, self.sampler, self.num_chains)
        if self.max_samples < self.num_samples:
            raise ValueError(f"MonteCarlo: max_samples={self.max_samples} is less than num_samples={self.num_samples}.")


@dataclass(frozen=True)
class SAEM:
    """Stochastic approximation EM (Delyon, Lavielle and Moulines 1999): Q is averaged over the steps.

    Q_t = (1 - γ_t) Q_(t-1) + γ_t Q̂_t, with Q̂_t from few fresh draws, γ_t = 1 for `burn_in` steps and then
    1 / (t - burn_in)^decay. Q is held as its weighted draws, so nothing need be an exponential family.

    Attributes:
        num_samples: fresh draws per step.
        burn_in: steps without memory.
        decay: between 0.5 (exclusive) and 1.
        memory: most draws that are remembered; beyond it the oldest are forgotten.
        sampler, num_chains: as in `MonteCarlo`.

    Raises:
        ValueError: options that cannot be honoured.
    """

    num_samples: int = 32
    burn_in: int = 100
    decay: float = 1.0
    memory: int = 4096
    sampler: str = "auto"
    num_chains: int = 4

    def __post_init__(self) -> None:
        _check(self, self.num_samples, self.sampler, self.num_chains)
        if self.burn_in < 0:
            raise ValueError(f"SAEM: burn_in must not be negative, got {self.burn_in}.")
        if not 0.5 < self.decay <= 1:
            raise ValueError(f"SAEM: decay must be above 0.5 and at most 1, got {self.decay}: else the average does "
                             "not settle.")  # fmt: skip
        if self.memory % self.num_samples or self.memory < 2 * self.num_samples:
            raise ValueError(f"SAEM: memory={self.memory} must be a multiple of num_samples={self.num_samples}, at "
                             "least twice it.")  # fmt: skip


Sampling: TypeAlias = MonteCarlo | SAEM


def _check(option: object, num_samples: int, sampler: str, num_chains: int) -> None:
    name = type(option).__name__
    if sampler not in _SAMPLERS:
        raise ValueError(f"{name}: sampler={sampler!r} is not one of {', '.join(map(repr, _SAMPLERS))}.")
    if num_chains < 1:
        raise ValueError(f"{name}: num_chains must be at least 1, got {num_chains}.")
    if num_samples < 2 * BATCHES or num_samples % BATCHES:
        raise ValueError(f"{name}: num_samples={num_samples} must be a multiple of {BATCHES}, at least {2 * BATCHES}: "
                         f"the noise of averages is estimated from {BATCHES} batches of draws.")  # fmt: skip
    if num_samples % num_chains:
        raise ValueError(f"{name}: num_samples={num_samples} must be a multiple of num_chains={num_chains}.")


def check_sampling(e_step: Any) -> None:
    """What is given as `e_step=` must be such objects.

    Raises:
        TypeError: it is not.
    """
    options = e_step.values() if isinstance(e_step, Mapping) else [] if e_step is None else [e_step]
    for option in options:
        if not isinstance(option, Sampling):
            raise TypeError(f"e_step= wants MonteCarlo(...) or SAEM(...), or a dict of latent names to those; got "
                            f"{option!r}.")  # fmt: skip


@dataclass(frozen=True)
class SQUAREM:
    """Squared extrapolation of EM (Varadhan and Roland 2008): two steps say where EM is going, and that is tried.

    The objective never falls: a point that is below the last one is refused, and EM goes on from where it was. In the
    histories of a result such a step repeats the last entry.

    Attributes:
        after: plain EM steps before the first extrapolation.

    Raises:
        ValueError: `after` is negative.
    """

    after: int = 0

    def __post_init__(self) -> None:
        if self.after < 0:
            raise ValueError(f"SQUAREM: after must not be negative, got {self.after}.")


def check_acceleration(acceleration: Any) -> None:
    """What is given as `acceleration=` must be one of these.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(acceleration, SQUAREM | bool):
        raise TypeError(f"acceleration= wants SQUAREM(...), True or False; got {acceleration!r}.")
