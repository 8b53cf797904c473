"""The EM loop that the library owns: steps, when to stop, and what to say then."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from ._boundary import Bounds, away_from_zero, tiny, towards_zero
from ._derivation import Machine
from ._result import EMState, Status
from ._squarem import BASE, SECOND, TRIAL, Memory, Squared, after_step, flattened, shaped
from ._types import Array, Params
from ._update import FLOORED

_BLOCK = 50
"""Steps per compiled call: how often the progress bar hears."""

_SMALL = 1e-4
"""Size of a parameter below which its changes are not relative any more: on its way to zero it would never arrive."""

_PATIENCE = 200
"""Steps after which scales that keep falling are tried at zero; again after twice as many, with Newton steps then."""

_LIFTS = 3
"""How often a fit that came to rest with a scale at zero may go on from a larger one."""

_SETTLED, _LOST = 1e-6, 1e-9
"""Relative step of the parameters below which so small a relative fall of the objective is rounding."""

_EARLY = 6
"""The same where a latent is integrated numerically, or as many as there are parameters: there a Newton step on the
objective costs about as much as that many EM steps."""


class Carry(NamedTuple):
    """Loop state: parameters, last objective and its last increase, last step length, verdict, a cycle's memory."""

    params: Params
    flags: dict[str, Any]
    objective: Any
    log_likelihood: Any
    increase: Any
    length: Any
    calm: Any
    verdict: Any
    steps: Any
    memory: Any


_RUNNING, _DONE, _FELL, _BROKE, _FLOOR = 0, 1, 2, 3, 4
VERDICTS = {
    _RUNNING: Status.MAX_STEPS,
    _DONE: Status.CONVERGED,
    _FELL: Status.DECREASED,
    _BROKE: Status.NONFINITE,
    _FLOOR: Status.DEGENERATE,
}


class _Step(NamedTuple):
    """One EM step: at which parameters, to which, and how far; `slack` is what a quadrature's error may lose."""

    old: Params
    new: Params
    flags: dict[str, Any]
    log_likelihood: Array
    objective: Array
    length: Array
    finite: Array
    slack: Array | float


def _distance(new: Params, old: Params) -> Array:
    """Largest change of any parameter, relative to that parameter's largest element."""
    parts = [jnp.max(jnp.abs(new[n] - old[n])) / (jnp.max(jnp.abs(old[n])) + _SMALL) for n in new if jnp.size(new[n])]
    return functools.reduce(jnp.maximum, parts)


def _remaining(step: Array, previous: Array) -> Array:
    """Aitken: what is left of a geometric sequence after a step of this length (infinite if it is not shrinking)."""
    rate = step / jnp.where(previous > 0, previous, 1.0)
    left = step * rate / jnp.where(rate < 1, 1 - rate, 1.0)
    return jnp.where(step == 0, 0.0, jnp.where((previous > 0) & (rate < 1), jnp.maximum(left, 0.0), jnp.inf))


def _taken(machine: Machine, prepared: Any, params: Params) -> _Step:
    log_likelihood, statistics = machine.e_step(params, prepared)
    objective = log_likelihood + machine.complete.log_prior(params)
    new, flags = machine.m_step(params, statistics)
    finite = jnp.all(jnp.isfinite(flattened(new))) & jnp.isfinite(objective)
    # A quadrature's own error changes from step to step, within what its check allows.
    slack = 1e-6 * jnp.maximum(jnp.abs(objective), 1.0) if machine.quadratures else 0.0
    return _Step(params, new, flags, log_likelihood, objective, _distance(new, params), finite, slack)


def _step(
    machine: Machine, prepared: Any, carry: Carry, tol: Array, squared: Squared | None
) -> tuple[Carry, Array, Array]:
    taken = _taken(machine, prepared, carry.params)
    eps = float(jnp.finfo(taken.objective.dtype).eps)
    noise = 8 * eps * jnp.abs(taken.objective)
    increase = taken.objective - carry.objective
    gain = jnp.abs(increase)
    left = _remaining(gain, jnp.abs(carry.increase)), _remaining(taken.length, carry.length)
    judged: Any = True
    refused: Any = False
    last, memory = flattened(taken.new), carry.memory
    following = last
    if squared is not None:
        plain = carry.steps < squared.after
        good = taken.objective >= carry.objective - noise - taken.slack
        following, after, refused = after_step(squared, memory, taken.old, taken.new, good & taken.finite)
        following = jnp.where(plain, last, following)
        # In a cycle only its two EM steps in a row tell what is left.
        judged, refused = plain | (memory.phase == SECOND), refused & ~plain
        left = tuple(jnp.where(plain, a, after.slowness * b) for a, b in zip(left, (gain, taken.length), strict=True))
        memory = jax.tree.map(lambda old, new: jnp.where(plain, old, new), memory, after)
    # In single precision differences of log-likelihoods are mostly rounding: there the parameters decide.
    # Near a singular covariance the log-likelihood has fewer digits than a float: a small fall is rounding there.
    lost = _LOST * jnp.maximum(jnp.abs(taken.objective), 1.0)
    rounding = (taken.length <= _SETTLED) & (increase <= 0) & (gain <= lost)
    still = (gain <= noise) | (left[0] <= tol) | rounding
    # A last digit that goes to and fro is no step: Newton's search ends there.
    near = (left[1] <= max(eps**0.5 * 50, 1e-6)) | (taken.length <= 100 * eps)
    calm = jnp.where(judged, jnp.where(still & near, carry.calm + 1, 0), carry.calm)
    fell = (increase < -1e4 * eps * jnp.abs(taken.objective) - taken.slack - tol / 10) & ~(rounding | refused)
    verdict = jnp.where(judged & (calm >= 2) | (taken.length == 0) & ~jnp.asarray(refused), _DONE, _RUNNING)
    # At a floor the maximum in closed form was not taken, so the objective may fall: that is degeneracy, not a bug.
    floored = functools.reduce(jnp.logical_or, [f == FLOORED for f in carry.flags.values()])
    verdict = jnp.where(fell, jnp.where(floored, _FLOOR, _FELL), verdict)
    finite = taken.finite | refused
    verdict = jnp.where(~finite, _BROKE, verdict)
    following = jnp.where(verdict == _DONE, last, following)
    kept = shaped(jnp.where(finite, following, flattened(carry.params)), carry.params)
    stay = refused | (fell & floored)
    flags = {n: jnp.where(stay, carry.flags[n], f.astype(carry.flags[n].dtype)) for n, f in taken.flags.items()}
    # A point that was tried and refused is none of the fit's: what counts is the last one that was not.
    objective = jnp.where(refused, carry.objective, taken.objective)
    log_likelihood = jnp.where(refused, carry.log_likelihood, taken.log_likelihood)
    sizes = jnp.where(refused, carry.increase, increase), jnp.where(refused, carry.length, taken.length)
    new = Carry(kept, flags, objective, log_likelihood, *sizes, calm, verdict, carry.steps + 1, memory)
    return new, log_likelihood, objective


@eqx.filter_jit
def _advance(machine: Machine, prepared: Any, carry: Carry, tol: Any, most: Any, squared: Squared | None = None) -> Any:
    """Up to `_BLOCK` steps, not beyond step `most`, until there is a verdict: (carry, log-likelihoods, objectives)."""

    def one(carry: Carry, first: Array) -> Any:
        history = jnp.full((2, _BLOCK), jnp.nan)

        def body(loop: Any) -> Any:
            carry, history = loop
            new, log_likelihood, objective = _step(machine, prepared, carry, tol, squared)
            history = history.at[:, carry.steps - first].set(
                jnp.stack([log_likelihood, objective]).astype(history.dtype)
            )
            return jax.tree.map(lambda a, b: a.astype(b.dtype), new, carry), history

        def running(loop: Any) -> Any:
            carry, _ = loop
            return (carry.verdict == _RUNNING) & (carry.steps < most) & (carry.steps - first < _BLOCK)

        return jax.lax.while_loop(running, body, (carry, history))

    if carry.steps.shape[0] > 1:
        return jax.vmap(one)(carry, carry.steps)
    # A single start runs without vmap, under which both branches of every `cond` would be computed.
    single = jax.tree.map(lambda a: a[0], carry)
    return jax.tree.map(lambda a: a[None], one(single, single.steps))


@eqx.filter_jit
def _prepare(machine: Machine) -> Any:
    return machine.prepare()


def loop(
    machine: Machine,
    states: list[EMState],
    num_steps: int,
    tol: float | None,
    progress_bar: bool,
    limits: Bounds | None = None,
    squared: Squared | None = None,
    again: bool = False,
) -> Any:
    """All starts together; per start the histories.

    Args:
        machine: the algorithm.
        states: one per start.
        num_steps: most steps.
        tol: what the objective may still gain at convergence, or None for the default.
        progress_bar: show one.
        limits: of the parameters, for scales that may belong at zero; None to leave them to EM.
        squared: how to extrapolate; None: not at all.
        again: it is a fit that came to its end with fewer points of a quadrature: Newton steps come early.

    Returns:
        The carry, and log-likelihoods and objectives of every start.
    """
    params = jax.tree.map(lambda *leaves: np.stack(leaves), *[s.params for s in states])
    count = len(states)
    real, none = jnp.result_type(float), np.zeros(len(states), int)
    infinite = np.full(count, np.inf, real)
    memory = () if squared is None else jax.vmap(squared.start)(params)
    flags = dict.fromkeys(params, none)
    carry = Carry(params, flags, -infinite, -infinite, infinite, infinite, none, none, none, memory)
    prepared = _prepare(machine)
    tolerance = np.asarray(1e-8 if tol is None else tol, real)
    histories: list[np.ndarray] = []
    taken: list[np.ndarray] = []
    slow = again or bool(machine.quadratures)
    early = max(_EARLY, sum(np.size(v) for v in states[0].params.values()))
    earlier, patience = params, min(early, _PATIENCE) if slow else _PATIENCE
    highest, lifts = np.zeros(count, bool), 0
    with tqdm(total=num_steps, disable=not progress_bar) as bar:
        while True:
            before = np.asarray(carry.steps)
            most = min(num_steps, patience) if limits else num_steps
            most = min(most, int(before.max()) + 1) if highest.any() else most
            carry, history = _advance(machine, prepared, carry, tolerance, np.asarray(most), squared)
            after = np.asarray(carry.steps)
            histories.append(np.asarray(history))
            taken.append(after - before)
            bar.update(int(after.max() - before.max()))
            if progress_bar:
                bar.set_postfix_str(f"objective: {float(np.max(np.asarray(carry.objective))):.4f}", refresh=False)
            verdict = np.asarray(carry.verdict)
            carry = carry._replace(verdict=np.where(highest & (verdict == _RUNNING), _DONE, verdict))
            highest[:] = False
            if not np.any((np.asarray(carry.verdict) == _RUNNING) & (after < num_steps)):
                raised = _raised(machine, carry, limits, float(tolerance), num_steps) if lifts < _LIFTS else None
                carry, lifts = (carry, lifts) if raised is None else (raised, lifts + 1)
                if raised is None:
                    carry, highest, more = _ended(machine, carry, limits, float(tolerance), num_steps)
                    limits = None
                    if not more:
                        break
            if limits and after.max() >= patience:
                carry = _settled(carry)
                now, patience = carry.params, 2 * patience
                late = squared is not None and (slow or patience > 2 * _PATIENCE)
                (carry, highest), earlier = _tried(machine, carry, earlier, limits, float(tolerance), late), now
    rows = [np.concatenate([h[i, :, : t[i]] for h, t in zip(histories, taken, strict=True)], -1) for i in range(count)]
    return _settled(carry), [r[0] for r in rows], [r[1] for r in rows]


def _tried(
    machine: Machine, carry: Carry, earlier: Params, limits: Bounds, tol: float, late: bool
) -> tuple[Carry, np.ndarray]:  # fmt: skip
    """Every start that still runs with those scales at zero that belong there; later on, after Newton steps anyway.

    Returns:
        The carry, and which starts Newton steps have brought to where the objective is highest: an EM step from there
        is the last.
    """
    params = {n: np.array(v) for n, v in carry.params.items()}
    moved, highest = np.zeros(len(carry.steps), bool), np.zeros(len(carry.steps), bool)
    for i in np.flatnonzero(np.asarray(carry.verdict) == _RUNNING):
        now, before = ({n: v[i] for n, v in p.items()} for p in (params, earlier))
        found, highest[i] = towards_zero(machine, now, before, limits, tol, late)
        for name, value in (found or {}).items():
            params[name][i], moved[i] = value, True
    return (_from(carry, params, moved) if moved.any() else carry), highest


def _from(carry: Carry, params: Params, moved: np.ndarray) -> Carry:
    """Those starts go on from other parameters."""
    increase, length = (
        np.where(moved, np.inf, a).astype(a.dtype) for a in map(np.asarray, (carry.increase, carry.length))
    )
    return carry._replace(params=params, increase=increase, length=length, calm=np.where(moved, 0, carry.calm))


def _raised(machine: Machine, carry: Carry, limits: Bounds | None, tol: float, num_steps: int) -> Carry | None:
    """Starts that came to rest with a scale at zero go on from a larger one, if that is higher; None where none is."""
    if limits is None:
        return None
    settled = _settled(carry)
    params = {n: np.array(v) for n, v in settled.params.items()}
    verdict = np.array(carry.verdict)
    moved = np.zeros(len(verdict), bool)
    for i in np.flatnonzero((verdict == _DONE) & (np.asarray(carry.steps) < num_steps)):
        for name, value in (away_from_zero(machine, {n: v[i] for n, v in params.items()}, limits, tol) or {}).items():
            params[name][i], moved[i] = value, True
    verdict[moved] = _RUNNING
    return _from(settled._replace(verdict=verdict), params, moved) if moved.any() else None


def _ended(
    machine: Machine, carry: Carry, limits: Bounds | None, tol: float, num_steps: int
) -> tuple[Carry, np.ndarray, bool]:  # fmt: skip
    """Starts that came to rest close to zero go on from zero, if that is higher: near it EM hardly moves."""
    rested = (np.asarray(carry.verdict) == _DONE) & (np.asarray(carry.steps) < num_steps)
    near = [n for n in (limits.scales if limits else ()) if np.any(np.asarray(carry.params[n]) < 1e-3)]
    if limits is None or not near or not rested.any():
        return carry, np.zeros(len(carry.steps), bool), False
    again = _settled(carry._replace(verdict=np.where(rested, _RUNNING, carry.verdict)))
    moved, highest = _tried(machine, again, tiny(carry.params, limits), limits, tol, False)
    return (moved, highest, True) if moved is not again else (carry, highest, False)


def _settled(carry: Carry) -> Carry:
    """A point that has yet to be tried is given up for the last EM step's result."""
    memory = carry.memory
    if not isinstance(memory, Memory):
        return carry
    untried = np.asarray((memory.phase == TRIAL) & (carry.verdict == _RUNNING))
    held = jax.vmap(shaped)(memory.held, carry.params)
    params = {n: np.where(untried.reshape([-1] + [1] * (np.ndim(v) - 1)), held[n], v)
              for n, v in carry.params.items()}  # fmt: skip
    return carry._replace(params=params, memory=memory._replace(phase=np.full_like(np.asarray(memory.phase), BASE)))
