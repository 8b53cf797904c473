"""How many nodes a quadrature needs: doubled until more of them would not change the log-likelihood; and whether about
one mode of a density or about several.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._derivation import Derivation, Machine
from ._evidence import SEVERAL, Quadrature, Shared
from ._links import is_concrete
from ._result import Check, EMState
from ._types import Array, Params


@eqx.filter_jit
def _compared(machine: Machine, params: Params, rungs: list[tuple[int, ...]]) -> list[tuple[Array, Array]]:
    pairs = zip(machine.quadratures, rungs, strict=True)
    return [engine.compared(*machine.seen(engine, params, at), own) for (engine, at), own in pairs]


def _checks(machine: Machine, params: Params) -> list[tuple[Check, float]]:
    """Per quadrature how its nodes compare with the finest rule, whose log evidence is returned too.

    What is in between is evaluated only where that comparison is not fine: most of the work is there.
    """
    engines = [e for e, _ in machine.quadratures]
    found: list[tuple[Check, float]] = []
    for rungs in ([(e.rungs[0], e.rungs[-1]) for e in engines], [e.rungs for e in engines]):
        compared = [(np.asarray(t), float(m)) for t, m in _compared(machine, params, rungs)]
        found = [(_check(own, t, m), float(t[-1])) for own, (t, m) in zip(rungs, compared, strict=True)]
        if all(check.fine for check, _ in found):
            break
    return found


def _next(engine: Quadrature | Shared) -> int | None:
    """More nodes than the engine has, if there are any."""
    return next((n for n in engine.ladder if n > engine.nodes), None)


_Choice: TypeAlias = tuple[int, int]
"""Nodes of a quadrature, and the modes about which they are placed."""


def _chosen(machine: Machine) -> dict[str, _Choice]:
    return {e.axis: (e.nodes, e.modes if isinstance(e, Quadrature) else 1) for e, _ in machine.quadratures}


def _with(machine: Machine, choices: dict[str, _Choice]) -> Machine:
    def other(engine: Any) -> Any:
        if not isinstance(engine, Quadrature | Shared) or engine.axis not in choices:
            return engine
        nodes, modes = choices[engine.axis]
        own = {"modes": modes} if isinstance(engine, Quadrature) else {}
        return dataclasses.replace(engine, nodes=nodes, **own)

    return dataclasses.replace(machine, evidences=tuple(map(other, machine.evidences)))


def _moved(derivation: Derivation, choices: dict[str, _Choice], checks: dict[str, Check]) -> Derivation:
    detailed = functools.cache(lambda: _with(derivation.detailed, choices))
    return derivation.with_machines(_with(derivation.machine, choices), detailed, checks)


def _check(rungs: tuple[int, ...], totals: np.ndarray, missed: float) -> Check:
    """The least number of nodes that the finest rule agrees with, or the most there are."""
    finest, size = totals[-1], max(1.0, float(abs(np.nan_to_num(totals[-1]))))
    changes = [float(abs(finest - t)) if np.isfinite(finest) and np.isfinite(t) else np.inf for t in totals[:-1]]
    missed = abs(missed) if np.isfinite(missed) else np.inf
    checks = [Check(n, rungs[-1], change, size, missed) for n, change in zip(rungs, changes, strict=False)]
    return next((c for c in checks if c.fine), checks[-1])


def checked(derivation: Derivation, params: Params) -> tuple[Derivation, bool]:
    """Compare every quadrature with one of at least twice as many nodes per dimension.

    Returns:
        The derivation with what the comparison gave, and with more nodes where it asks for them; whether those have
        yet to be compared.
    """
    machine = derivation.machine
    choices: dict[str, _Choice] = {}
    checks: dict[str, Check] = {}
    again = False
    before = _chosen(machine)
    for (engine, _), (check, finest) in zip(machine.quadratures, _checks(machine, params), strict=True):
        _, modes = before[engine.axis]
        if isinstance(engine, Quadrature) and modes == 1 and check.elsewhere:
            choices[engine.axis], again = (engine.nodes, SEVERAL), True
            continue
        further = _next(engine) if engine.dims > 1 and not check.fine and np.isfinite(finest) else None
        if isinstance(engine, Shared) and not check.fine and further is None:
            return derivation.apart, True
        checks[engine.axis] = check
        choices[engine.axis] = further or check.nodes, modes
        again |= further is not None
    return _moved(derivation, choices, checks), again


def refined(derivation: Derivation, params: Params) -> Derivation:
    """The derivation with as many nodes as it needs at these parameters; one rung more than the least if traced."""
    if not derivation.machine.quadratures:
        return derivation
    if not is_concrete(*jax.tree.leaves((params, derivation.machine.complete.known))):
        finer = {e.axis: n for e, _ in derivation.machine.quadratures if (n := _next(e)) is not None}
        before = _chosen(derivation.machine)
        return _moved(derivation, {axis: (n, before[axis][1]) for axis, n in finer.items()}, {})
    again = True
    while again:
        derivation, again = checked(derivation, params)
    return derivation


def fit(
    derivation: Derivation,
    states: list[EMState],
    num_steps: int,
    run: Callable[..., Any],
) -> Any:
    """Run the EM loop, and go on with more nodes where they matter at the parameters that it came to.

    Args:
        derivation: the algorithm.
        states: one per start.
        num_steps: most steps in all.
        run: (machine, states, steps, again=) -> (carry, log-likelihoods, objectives), one history per start.

    Returns:
        The derivation, the carry and the histories of all steps.
    """
    carry, log_likelihoods, objectives = run(derivation.machine, states, num_steps)
    while derivation.machine.quadratures:
        best = int(np.argmax(np.nan_to_num(np.asarray(carry.objective), nan=-np.inf)))
        finer, _ = checked(derivation, jax.tree.map(lambda a, i=best: jnp.asarray(a)[i], carry.params))
        left = num_steps - max(len(row) for row in log_likelihoods)
        if _chosen(derivation.machine) == _chosen(finer.machine) or left < 1:
            # Without steps left the nodes that were used are those that are reported.
            derivation = derivation.with_machines(derivation.machine, lambda d=derivation: d.detailed, finer.checks)
            break
        derivation = finer
        states = [s._replace(params=jax.tree.map(lambda a, i=i: np.asarray(a)[i], carry.params))
                  for i, s in enumerate(states)]  # fmt: skip
        carry, more, higher = run(derivation.machine, states, left, again=True)
        log_likelihoods = [np.concatenate(pair) for pair in zip(log_likelihoods, more, strict=True)]
        objectives = [np.concatenate(pair) for pair in zip(objectives, higher, strict=True)]
        carry = carry._replace(steps=np.asarray([len(row) for row in log_likelihoods]))
    return derivation, carry, log_likelihoods, objectives
