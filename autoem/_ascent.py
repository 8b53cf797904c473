"""The loop of a fit with sampled latents: a step is taken where noise does not hide that it climbs.

Ascent-based Monte Carlo EM (Caffo, Jank and Jones 2005): a step whose lower confidence bound of the increase of Q is
positive is taken. Where it is not, or where little is left to gain, the draws are asked where the fit stands (Louis'
identity): more than noise left is a Newton step, noise above the tolerance is a larger sample, and neither is the end.
With a memory (SAEM) every step is taken, and fresh draws are asked from time to time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from ._derivation import Derivation, Machine
from ._draws import several
from ._evidence import Drawn
from ._family import LOG_ZERO
from ._louis import Standing, mixing, standing
from ._options import BATCHES
from ._posterior import raise_impossible
from ._refine import refined
from ._result import EMResult, EMState, Noise, Status
from ._types import Array, Key, Params
from ._uncertainty import free_coordinates
from ._update import FLOORED

TOLERANCE = 5e-3
"""What may be left to gain in the objective, and what noise may add: a tenth of a standard error of the parameters."""

_LOWER, _UPPER = 0.674, 1.282
"""Standard errors below and above an increase that bound it: the normal's quartile and upper decile."""

_GROWTH = 4
_ELEMENTS = 2**26
"""Draws times elements of a site that are held at most: the sample grows no further."""

_LOOK, _LOOKED = 100, 1024
"""Steps with a memory after which fresh draws are asked, and how many."""


class _Ascent(NamedTuple):
    """How a fit went.

    Attributes:
        state: at the end.
        log_likelihoods, objectives: one entry per step.
        status: how it ended.
        noise: its Monte Carlo error.
    """

    state: EMState
    log_likelihoods: np.ndarray
    objectives: np.ndarray
    status: Status
    noise: Noise


class _Step(eqx.Module):
    """One EM step.

    Attributes:
        params, flags: what the M-step gives.
        log_likelihood, objective: estimates at the parameters that came in.
        rise: estimated increase of the log ratio of densities, which bounds that of the log-likelihood from below.
        noise: its standard error.
    """

    params: Params
    flags: dict[str, Any]
    log_likelihood: Array
    objective: Array
    rise: Array
    noise: Array


@eqx.filter_jit
def _remembered(machine: Machine, drawn: dict[str, Drawn]) -> dict[str, Drawn]:
    return machine.remembered(drawn)


def _rise(machine: Machine, old: Params, new: Params, expected: Any, drawn: Mapping[str, Drawn]) -> tuple[Array, Array]:
    """Increase of the objective on the draws, and its standard error over batches of them."""
    sampled = {i for _, at in machine.samplers for i in at}
    held = [jnp.zeros_like(s) if i in sampled else s for i, s in enumerate(expected)]
    complete = machine.complete.at(expected.points)
    total = complete.objective(new, held) - complete.objective(old, held)
    batches = jnp.zeros(BATCHES, total.dtype)
    for engine, at in machine.samplers:
        draws = drawn[engine.axis].draws
        ratios = engine.ratios(draws, machine.reader(new, at), machine.frozen(old, at))
        total = total + jnp.sum(draws.weights * ratios)
        weights = engine.in_batches(draws, BATCHES).weights
        batches = batches + jnp.sum(weights * jnp.reshape(ratios, weights.shape), (1, 2))
    return total, jnp.std(batches, ddof=1) / BATCHES**0.5


@eqx.filter_jit
def _step(machine: Machine, params: Params, drawn: dict[str, Drawn]) -> _Step:
    """E-step and M-step on given draws."""
    log_likelihood, expected = machine.e_step(params, machine.prepare(), drawn)
    new, flags = machine.m_step(params, expected)
    rise, noise = _rise(machine, params, new, expected, drawn)
    return _Step(new, flags, log_likelihood, log_likelihood + machine.complete.log_prior(params), rise, noise)


@eqx.filter_jit
def _log_likelihood(machine: Machine, params: Params, drawn: dict[str, Drawn]) -> Array:
    return machine.e_step(params, machine.prepare(), drawn)[0]


def _largest(machine: Machine) -> int:
    """Most draws that a sample may have."""
    sizes = [int(np.prod(f.batch_shape)) for e, _ in machine.samplers for f in e.factors]
    samples = max(e.samples for e, _ in machine.samplers)
    return max(samples, min(min(e.most for e, _ in machine.samplers), _ELEMENTS // max(1, *sizes)))


class _Fit:
    """A fit under way: the parameters, the sample's size, and what was seen."""

    def __init__(self, derivation: Derivation, state: EMState, tol: float) -> None:
        self.machine, self.tol = derivation.machine, tol
        self.free = free_coordinates(derivation)
        self.params, self.key, self.chains = state.params, state.rng_key, state.chains
        self.flags = state.flags
        self.samples = max(e.samples for e, _ in self.machine.samplers)
        self.most = _largest(self.machine) // self.samples
        self.memory = any(e.memory for e, _ in self.machine.samplers)
        self.rounds = 1
        self.status: Status | None = None
        self.standing: Standing | None = None
        self.rows: list[tuple[float, float]] = []

    def _key(self) -> Key:
        self.key, key = jax.random.split(self.key)
        return key

    def sample(self, rounds: int) -> dict[str, Drawn]:
        """Draws at the parameters; the chains go on from there."""
        drawn = several(self.machine, self.params, self._key(), self.chains, rounds)
        self.chains = {n: d.chains for n, d in drawn.items()}
        return drawn

    def advance(self) -> None:
        """One step."""
        drawn = self.sample(self.rounds)
        if self.memory:
            drawn = _remembered(self.machine, drawn)
            self.chains = {n: d.chains for n, d in drawn.items()}
        found = _step(self.machine, self.params, drawn)
        self.rows.append((float(found.log_likelihood), float(found.objective)))
        finite = all(bool(np.all(np.isfinite(v))) for v in found.params.values())
        if not finite or np.isnan(self.rows[-1][1]) or self.rows[-1][1] == np.inf:
            self.status = Status.NONFINITE
        elif self.memory:
            self._take(found)
            if len(self.rows) % _LOOK == 0:
                self._look()
        else:
            self._ascend(found, drawn)

    def _take(self, found: _Step) -> None:
        self.params, self.flags = found.params, found.flags

    def _ascend(self, found: _Step, drawn: dict[str, Drawn]) -> None:
        """Take the step, or a better one, or more draws; or stop."""
        rise, noise = float(found.rise), float(found.noise)
        climbs, little = rise - _LOWER * noise > 0, rise + _UPPER * noise < self.tol
        if climbs and not little:
            return self._take(found)
        here = standing(self.machine, self.params, drawn, self.free)
        grown = self._grown(here.noise)
        if np.isnan(here.left):
            # No curvature to judge by: go on with more draws, as long as there can be more.
            if climbs:
                self._take(found)
            if grown == self.rounds:
                self.status, self.standing = Status.NOISY, here
            self.rounds = grown
            return None
        if max(here.left - here.noise, here.noise) <= self.tol:
            self.params, self.status, self.standing = here.params, Status.CONVERGED, here
        elif here.left > max(self.tol, 2 * here.noise):
            self.params = here.params
        elif grown > self.rounds:
            self.rounds = grown
        else:
            self.params, self.status, self.standing = here.params, Status.NOISY, here
        return None

    def _grown(self, noise: float) -> int:
        """More rounds: as many as bring the noise under the tolerance, in powers so that few sizes are compiled."""
        lacking = noise / self.tol if np.isfinite(noise) and self.tol > 0 else 1.0
        times = _GROWTH ** max(1, math.ceil(math.log(max(lacking, 1.0), _GROWTH)))
        return min(self.rounds * times, self.most)

    def _look(self) -> None:
        """With a memory: what fresh draws say is left."""
        here = standing(self.machine, self.params, self.sample(max(1, _LOOKED // self.samples)), self.free)
        self.standing = self._averaged(here)
        if max(here.left - here.noise, self.standing.noise) <= self.tol:
            self.status = Status.CONVERGED

    def _averaged(self, here: Standing) -> Standing:
        """The errors of an average over what is remembered, from those of a fresh sample."""
        fresh_draws = max(1, _LOOKED // self.samples) * self.samples
        weights = [np.asarray(c.weights) for c in self.chains.values() if c.weights.size]
        remembered = min((float(1 / np.max(np.sum(w**2, 0))) for w in weights), default=1.0)
        ratio = fresh_draws / max(remembered, 1.0)
        errors = {n: e * ratio**0.5 for n, e in here.errors.items()}
        return here._replace(noise=here.noise * ratio, errors=errors)

    def finish(self) -> tuple[Status, Noise]:
        """Judge the end by fresh draws there."""
        rounds = max(1, _LOOKED // self.samples) if self.memory else self.rounds
        drawn = self.sample(rounds)
        here = self.standing
        if here is None:
            here = standing(self.machine, self.params, drawn, self.free)
            here = self._averaged(here) if self.memory else here
        effective: dict[str, float] = {}
        r_hat: dict[str, float | None] = {}
        total, variance, even = float(_log_likelihood(self.machine, self.params, drawn)), 0.0, True
        for engine, _ in self.machine.samplers:
            own = drawn[engine.axis]
            sizes, mixed = mixing(engine, own)
            effective, r_hat = effective | sizes, r_hat | mixed
            variance += float(np.sum(own.health.spread))
            even &= float(own.health.effective) > 0.1
        divergences = sum(int(d.health.divergences) for d in drawn.values())
        samples = rounds * self.samples
        noise = Noise(
            samples, dict(here.errors), total, float(np.sqrt(variance)) if even else np.inf, here.left, here.noise,
            effective, r_hat, divergences, {n: e.sampler for e, _ in self.machine.samplers for n in e.names},
        )  # fmt: skip
        return self._verdict(noise), noise

    def _verdict(self, noise: Noise) -> Status:
        status = self.status or Status.MAX_STEPS
        if status is Status.NONFINITE:
            return status
        if noise.divergences > 0.01 * noise.num_samples:
            return Status.DIVERGENT
        if any(r is not None and r > 1.05 for r in noise.r_hat.values()):
            return Status.UNMIXED
        if min(noise.effective.values()) < 0.1 * noise.num_samples:
            return Status.INEFFECTIVE
        return status


def _ascend(derivation: Derivation, state: EMState, num_steps: int, tol: float | None, progress_bar: bool) -> _Ascent:
    """Fit from one start.

    Args:
        derivation: the algorithm, with latents that are sampled.
        state: where to start.
        num_steps: most steps.
        tol: what may be left to gain, noise included.
        progress_bar: show one.
    """
    fit = _Fit(derivation, state, TOLERANCE if tol is None else tol)
    with tqdm(total=num_steps, disable=not progress_bar) as bar:
        while len(fit.rows) < num_steps and fit.status is None:
            fit.advance()
            bar.update()
            if progress_bar:
                told = f"objective: {fit.rows[-1][1]:.3f}, {fit.rounds * fit.samples} draws"
                bar.set_postfix_str(told, refresh=False)
    status, noise = fit.finish()
    rows = np.asarray(fit.rows)
    end = EMState(fit.params, fit.key, rows[-1, 0], state.num_steps + len(rows), fit.flags, fit.chains)
    return _Ascent(end, rows[:, 0], rows[:, 1], status, noise)


def fit_sampled(
    derivation: Derivation, states: Sequence[EMState], num_steps: int, tol: float | None, progress_bar: bool
) -> EMResult:
    """Fit start after start; the highest log-likelihood wins.

    Raises:
        ValueError: the data are impossible under the starting values.
    """
    fits = []
    for state in states:
        own = refined(derivation, state.params)
        fits.append(_ascend(own, state, num_steps, tol, progress_bar))
        if not fits[-1].log_likelihoods[0] > LOG_ZERO / 10:
            raise_impossible(derivation, state.params, float(fits[-1].log_likelihoods[0]))
    finals = np.asarray([fit.noise.log_likelihood for fit in fits])
    best = fits[int(np.argmax(np.where(np.isnan(finals), -np.inf, finals)))]
    floored = any(int(f) == FLOORED for f in best.state.flags.values())
    status = Status.DEGENERATE if floored and best.status is not Status.NONFINITE else best.status
    return EMResult(
        params=jax.tree.map(jnp.asarray, best.state.params),
        log_likelihood=jnp.asarray(best.log_likelihoods),
        objective=jnp.asarray(best.objectives),
        num_steps=len(best.objectives),
        converged=status is Status.CONVERGED,
        status=status,
        state=best.state,
        derivation=derivation,
        restarts=finals if len(fits) > 1 else None,
        monte_carlo=best.noise,
    )


@eqx.filter_jit
def sampled_update(machine: Machine, params: Params, key: Key, chains: Any) -> Any:
    """One step as it comes: parameters, flags, log-likelihood of the old parameters, what the samplers hand on."""
    drawn = machine.remembered(machine.draw(params, key, chains))
    log_likelihood, statistics = machine.e_step(params, machine.prepare(), drawn)
    params, flags = machine.m_step(params, statistics)
    return params, flags, log_likelihood, {n: d.chains for n, d in drawn.items()}
