"""Best values at zero or at infinity: EM never arrives there, and a floor is not always a spike.

Where the objective of a scale τ is highest at zero (a meta-analysis whose studies agree, a variance component that the
data do not ask for), an EM step shortens τ by about τ³: after t steps τ is still of the order of 1/√t. So from time to
time what has been falling is tried at a tenth, a hundredth, ... of its value; if the objective rises all the way and
then comes to rest, the fit goes on from there. With τ = 0 an EM step often cannot move other parameters (the mean of
effects that are all equal to it): Newton steps on the objective itself come before the next.

A coefficient may have its best value at infinity (a covariate that separates the responses). There the objective
comes to rest and nothing is left to gain, so it takes a question of its own: does twice as much leave it as it is?
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to

from ._derivation import Derivation, Machine
from ._types import Array, Params
from ._update import FLOORED, INFINITE, NEWTON_LIMIT, NOTHING, UNBOUNDED, Numeric, is_real, newton

_ROOM = 2**24
"""Most parameters times numbers in the data for which Newton steps are taken on the objective itself."""

_STEPS = 30
"""Most Newton steps on the objective."""

_TENTHS = 12
"""Most divisions by ten."""

_ELEMENTS = 32
"""Most elements of a parameter that are tried."""

_TINY = 1e-3
"""Size below which it is asked whether an element is at zero."""

_SIZES = (1e-2, 1e-1, 1.0, 1e1, 1e2)
"""What is tried in its place."""

_LARGE = 5.0
"""Size from which on it is asked whether a real parameter climbed numerically is on its way to infinity."""

_FALLEN = 1e-3
"""Relative fall since the last trial from which on an element is tried."""


class Bounds(eqx.Module):
    """Where parameters may be.

    Attributes:
        constraints: per parameter.
        scales: those whose elements are bounded by zero from below.
    """

    constraints: dict[str, Any]
    scales: tuple[str, ...] = eqx.field(static=True)


def bounds(derivation: Derivation) -> Bounds:
    """The bounds of a model's parameters."""
    found = {n: p.constraint for n, p in derivation.model.parameters.items()}
    return Bounds(found, tuple(n for n, c in found.items() if _is_positive(c)))


def _is_positive(constraint: Any) -> bool:
    base = getattr(constraint, "base_constraint", constraint)
    if getattr(base, "event_dim", 1):
        return False
    inside, outside = (bool(np.all(base(jnp.asarray(v)))) for v in (1e-6, -1e-6))
    return inside and not outside


@eqx.filter_jit
def _objective(machine: Machine, params: Params) -> Array:
    return machine.objective(params)


@eqx.filter_jit
def _polished(
    machine: Machine, params: Params, held: dict[str, Any], constraints: dict[str, Any]
) -> tuple[Params, Array]:  # fmt: skip
    """The objective itself climbed by Newton's method, with some elements held; what the last step promised."""
    start, unravel = ravel_pytree({n: biject_to(c).inv(jnp.asarray(params[n])) for n, c in constraints.items()})

    def value(vector: Array) -> Params:
        free = unravel(vector)
        return {n: jnp.where(held[n], params[n], biject_to(c)(free[n])) for n, c in constraints.items()}

    finite = jnp.all(jnp.isfinite(start))

    def objective(vector: Array) -> Array:
        return machine.objective(value(vector))

    found = newton(objective, jnp.where(finite, start, 0.0), _STEPS)
    left = jnp.where(finite & ~jnp.any(found.blind), found.left, jnp.inf)
    return {n: jnp.where(finite, v, jnp.asarray(params[n])) for n, v in value(found.point).items()}, left


def towards_zero(
    machine: Machine, params: Params, before: Params, limits: Bounds, tol: float, late: bool
) -> tuple[Params | None, bool]:
    """Parameters with those elements at zero (almost) that belong there, and the others where they are best then.

    Args:
        machine: the algorithm.
        params: now.
        before: some steps earlier.
        limits: of the parameters.
        tol: what the objective may still gain.
        late: take Newton steps even if nothing goes to zero, because EM is slow.

    Returns:
        Parameters whose objective is higher, or None; whether they are where the objective is highest: Newton steps
        were taken, and the last promised less than `tol`.
    """
    now = {n: np.asarray(v) for n, v in params.items()}
    held = {n: np.zeros(v.shape, bool) for n, v in now.items()}
    for name in limits.scales:
        fallen = (now[name] > 0) & (now[name] < (1 - _FALLEN) * np.asarray(before[name]))
        for index in np.argwhere(fallen)[:_ELEMENTS]:
            value = _at_rest(machine, now, name, tuple(index), tol)
            if value is not None:
                now[name], held[name][tuple(index)] = value, True
    found = any(h.any() for h in held.values())
    if (found or late) and _is_small(machine, now):
        best, left = _polished(machine, now, held, limits.constraints)
        return {n: np.asarray(v) for n, v in best.items()}, bool(left <= tol)
    return (now if found else None), False


def _is_small(machine: Machine, params: Params) -> bool:
    """Whether there is room for as many derivatives at once as there are parameters."""
    count = sum(np.size(v) for v in params.values())
    data = sum(np.size(a) for a in jax.tree.leaves((machine.complete, machine.evidences)))
    data += sum(engine.work for engine, _ in machine.quadratures)
    return count <= NEWTON_LIMIT and count * data <= _ROOM and not machine.samplers


def tiny(params: Params, limits: Bounds) -> Params:
    """Parameters with all that is almost at zero twice as large: as if it had been falling."""
    doubled = {n: np.where(np.asarray(params[n]) < _TINY, 2.0, 1.0) * np.asarray(params[n]) for n in limits.scales}
    return {**params, **doubled}


def away_from_zero(machine: Machine, params: Params, limits: Bounds, tol: float) -> Params | None:
    """Parameters with elements that are almost at zero larger, where that is higher; None where it is nowhere.

    With a non-centred scale of 1e-12 the effects do not show in the data, and EM's step is none: often a saddle.
    """
    now = {n: np.asarray(v) for n, v in params.items()}
    if not any(np.any((now[n] > 0) & (now[n] < _TINY)) for n in limits.scales):
        return None
    here = best = float(_objective(machine, now))
    for name in limits.scales:
        small = (now[name] > 0) & (now[name] < _TINY)
        places = np.argwhere(small)[:_ELEMENTS]
        single = [np.zeros_like(small) for _ in places]
        for which, index in zip(single, places, strict=True):
            which[tuple(index)] = True
        for which in ([small] if len(places) else []) + (single if len(places) > 1 else []):
            for size in _SIZES:
                value = np.where(which, size, now[name]).astype(now[name].dtype)
                there = float(_objective(machine, {**now, name: value}))
                if there > best:
                    best, now = there, {**now, name: value}
    return now if best > here + max(tol, 1e-9 * abs(here)) else None


def _at_rest(machine: Machine, params: Params, name: str, index: tuple[int, ...], tol: float) -> np.ndarray | None:
    """The parameter with one element so small that less of it gains nothing; None where the objective is not there."""
    value = params[name].copy()
    here = float(_objective(machine, params))
    for tenths in range(_TENTHS):
        value[index] = value[index] / 10
        there = float(_objective(machine, {**params, name: value}))
        if not there >= here:
            return None
        if there - here <= tol / 100:
            return value if tenths else None  # it is there already
        here = there
    return None


def flagged(machine: Machine, params: Params, flags: dict[str, Any], limits: Bounds) -> dict[str, Any]:
    """What to report: a floor where the objective is bounded is a mode on the boundary, not a degenerate fit; and what
    would go on to infinity.

    Args:
        machine: the algorithm.
        params: where the fit ended.
        flags: of the last M-step.
        limits: of the parameters.
    """
    found = dict(flags)
    for name, flag in flags.items():
        tiny = name in limits.scales and np.min(np.asarray(params[name]), initial=np.inf) < _TINY
        if (int(flag) == FLOORED or (tiny and int(flag) == NOTHING)) and _is_idle(machine, params, name):
            found[name] = np.full_like(np.asarray(flag), UNBOUNDED)
    if not machine.samplers:
        for name in _climbed(machine):
            if int(found.get(name, NOTHING)) == NOTHING and _is_endless(machine, params, name):
                found[name] = np.full_like(np.asarray(flags[name]), INFINITE)
    return found


def _climbed(machine: Machine) -> list[str]:
    """Real parameters that an M-step climbs numerically."""
    numeric = [u for u in machine.updates if isinstance(u, Numeric)]
    return [n for u in numeric for n, c in zip(u.names, u.constraints, strict=True) if is_real(c)]


def _is_endless(machine: Machine, params: Params, name: str) -> bool:
    """Whether the parameter or an element of it may be doubled at no loss, but not be left out."""
    value = np.asarray(params[name])
    large = np.abs(value) >= _LARGE
    if not large.any():
        return False
    here = float(_objective(machine, params))
    room = 1e-9 * max(1.0, abs(here))

    def falls(which: np.ndarray, factor: float) -> bool:
        changed = np.where(which, factor * value, value)
        return not float(_objective(machine, {**params, name: changed})) >= here - room

    single = [np.arange(value.size).reshape(value.shape) == i for i in np.flatnonzero(large)[:_ELEMENTS]]
    return any(not falls(which, 2.0) and falls(which, 0.0) for which in (np.ones_like(large), *single))


def _is_idle(machine: Machine, params: Params, name: str) -> bool:
    """Whether doubling what is smallest in a parameter leaves the objective as it is (a spike falls by log 2), and
    less of it loses nothing: a small value that a fit has only passed by is no mode.
    """
    value = np.asarray(params[name])
    here, more, less = (
        float(_objective(machine, {**params, name: v})) for v in (value, _scaled(value, 2.0), _scaled(value, 0.5))
    )
    return bool(np.isfinite(here) and abs(here - more) < 1e-3 and less >= here - 1e-9 * max(1.0, abs(here)))


def _scaled(value: np.ndarray, factor: float) -> np.ndarray:
    """The smallest element times a factor; of matrices, the smallest eigenvalue or singular value."""
    if value.ndim < 2 or value.shape[-1] != value.shape[-2] or np.all(value > 0):
        return np.where(value == np.min(value), factor * value, value)
    symmetric = np.allclose(value, np.swapaxes(value, -1, -2))
    matrix = value if symmetric else value @ np.swapaxes(value, -1, -2)
    values, vectors = np.linalg.eigh(matrix)
    values[..., 0] *= factor if symmetric else factor**2
    matrix = (vectors * values[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    return matrix if symmetric else np.linalg.cholesky(matrix)
