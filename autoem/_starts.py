"""Where a fit starts when nobody says: the prior's draw, or the data's.

A draw from a vague prior puts most components of a mixture where there are no data, and they stay empty. So `EM.run`
also starts from data: every value of a discrete latent gets one element at random, with a large weight, and a share of
all the others; the first parameters are the maximum for these weights, an M-step. One element makes the components
differ (as in the usual starts of k-means), the others keep scales and probabilities away from zero. Several such starts
and the prior's draw run for a few steps, and the best goes on (short runs of EM: Biernacki, Celeux and Govaert 2003).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to

from ._derivation import Derivation, Expected, Machine
from ._evidence import Chain, Enumeration, Mixed, Quadrature, Sampled, Shared
from ._family import LOG_ZERO
from ._links import is_concrete
from ._model import Parameter
from ._result import EMState
from ._types import Array, Key, Params
from ._update import FLOORED

FROM_DATA = (12, 4)
"""How many starts from data compete with the prior's draw: where a step is cheap, and where it is not."""

_CHEAP = 100_000
"""Most elements times values of the discrete latents for which a step is cheap."""

SHORT = 8
"""Steps of a short run."""

_OWN = 0.7
"""Share of a component's weight that its own element has; the rest is that of all elements together."""

_RADII = (2.0, 2.0, 2.0, 0.1)
"""Ranges of uniform draws in free coordinates, tried in order where a prior's draw makes the data impossible."""

Run = Callable[[Machine, list[EMState], int], Any]


def started(derivation: Derivation, states: list[EMState], run: Run) -> list[EMState]:
    """Better starts than the prior's draws, where there are maximised sites.

    Args:
        derivation: the algorithm.
        states: the prior's draws (and what `numpyro.param` says, which stays).
        run: (machine, states, steps) -> (carry, log-likelihoods, objectives), one history per start.

    Returns:
        As many states: of several, every second one starts from data; a single one is the best of some short runs.
    """
    machine = derivation.machine
    sites = {n: p for n, p in derivation.model.parameters.items() if p.is_site}
    if not sites or not is_concrete(*jax.tree.leaves(machine.complete.known)):
        return states
    data = _can_start_from_data(machine)
    if len(states) > 1:
        return [_from_data(derivation.detailed, s, sites, 0) if data and i % 2 else s for i, s in enumerate(states)]
    (drawn,) = states
    if data:
        size = sum(math.prod(shape) for e in machine.evidences for shape in _axes(e).values())
        count = FROM_DATA[0] if size <= _CHEAP else FROM_DATA[1]
        candidates = [drawn, *(_from_data(derivation.detailed, drawn, sites, i) for i in range(count))]
        reached = np.asarray([_reached(*run(machine, [s], SHORT)) for s in candidates])
        return [candidates[int(np.argmax(reached))]]
    for candidate in (drawn, *(_uniform(drawn, sites, i) for i in range(len(_RADII)))):
        first = float(run(machine, [candidate], 1)[1][0][0])
        if first > LOG_ZERO / 10:
            return [candidate]
    return states


def _reached(carry: Any, _: Any, objectives: Any) -> float:
    """The objective after a short run; one that collapsed onto a few points is not wanted, however high it is."""
    value = float(objectives[0][-1])
    floored = any(int(np.asarray(f)[0]) == FLOORED for f in carry.flags.values())
    return value if np.isfinite(value) and not floored else -np.inf


def _can_start_from_data(machine: Machine) -> bool:
    return any(_axes(e) for e in machine.evidences) and not (machine.quadratures or machine.samplers)


def _axes(evidence: Any) -> dict[str, tuple[int, ...]]:
    """Per discrete latent of an engine, (values, its axes...)."""
    if isinstance(evidence, Chain):
        shape = evidence.shape
        timed = {n: (k, shape.length, *shape.batch) for n, k, _ in shape.latents}
        return timed | {n: (k, *shape.batch) for n, k, _ in shape.statics}
    engine = evidence.discrete if isinstance(evidence, Mixed) else evidence
    if not isinstance(engine, Enumeration):
        return {}
    sizes = dict(engine.layout.sizes)
    return {n: (k, *(sizes[d] for d in dims)) for n, k, dims in engine.layout.latents}


def _weights(key: Key, shape: tuple[int, ...]) -> Array:
    """One element of its own for every value, and a share of all: (values, axes...), as many in all as elements."""
    values, elements = shape[0], math.prod(shape[1:])
    own = jax.random.choice(key, elements, (values,), replace=elements < values)
    flat = jnp.full((values, elements), (1 - _OWN) / values)
    return jnp.reshape(flat.at[jnp.arange(values), own].add(_OWN * elements / values), shape)


@eqx.filter_jit
def _maximum(machine: Machine, params: Params, key: Key) -> Params:
    """An M-step from random weights in the place of the discrete latents' posterior."""
    inputs = machine.complete.inputs(params)
    statistics: list[Any] = [None] * len(inputs)
    for i, (evidence, at) in enumerate(zip(machine.evidences, machine.positions, strict=True)):
        assert not isinstance(evidence, Quadrature | Shared | Sampled)  # `_can_start_from_data` says so
        own, axes = [inputs[j] for j in at], _axes(evidence)
        keys = {n: jax.random.fold_in(jax.random.fold_in(key, i), j) for j, n in enumerate(axes)}
        weights = {n: _weights(keys[n], shape) for n, shape in axes.items()}
        _, found = evidence.expected_statistics(own, None, **({"weights": weights} if axes else {}))
        for j, s in zip(at, found, strict=True):
            statistics[j] = s
    return machine.m_step(params, Expected(statistics, {}))[0]


def _from_data(machine: Machine, drawn: EMState, sites: dict[str, Parameter], number: int) -> EMState:
    params = {n: jnp.asarray(v) for n, v in drawn.params.items()}
    found = _maximum(machine, params, jax.random.fold_in(drawn.rng_key, number))
    good = {n: np.asarray(v) for n, v in found.items() if n in sites and np.all(np.isfinite(v))}
    return drawn._replace(params={**drawn.params, **good})


def _uniform(drawn: EMState, sites: dict[str, Parameter], number: int) -> EMState:
    """Uniform in free coordinates, as NumPyro's samplers start."""
    params = dict(drawn.params)
    for i, (name, parameter) in enumerate(sites.items()):
        free = biject_to(parameter.constraint)
        key = jax.random.fold_in(jax.random.fold_in(drawn.rng_key, number), i)
        radius = _RADII[number]
        shape = jnp.shape(free.inv(jnp.asarray(drawn.params[name])))
        params[name] = np.asarray(free(jax.random.uniform(key, shape, minval=-radius, maxval=radius)))
    return drawn._replace(params=params)
