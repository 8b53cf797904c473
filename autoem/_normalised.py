"""Proof that probabilities add up to one, whatever the values of the parameters."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from ._links import Program, analyse, is_concrete, own_coordinates, restricted

_STATES = 64
"""At most so many joint values of the discrete latents are tried."""


@dataclass(frozen=True)
class Unknowns:
    """What a program's inputs are.

    Attributes:
        constraints: of the parameters, by input number.
        supports: of the discrete latents, by input number: (K, *event).
    """

    constraints: Mapping[int, Any]
    supports: Mapping[int, Any]


def is_one(program: Program, total: int, unknowns: Unknowns) -> bool:
    """Whether a value of a program is one at all feasible parameters and all values of the discrete latents.

    Structure shows that it is affine in the parameters, and random feasible points that it is constant: an affine
    function that is one at points in general position is one on all that they span. Anything else is "not shown".
    """
    part = restricted(program, [total])
    if total in part.known or not is_concrete(*part.known.values()):
        return False
    params = {i: (str(i), own_coordinates(part.shape(i))) for i in unknowns.constraints}
    latents = {i: (str(i), own_coordinates(part.shape(i))) for i in unknowns.supports}
    others = {i: (str(i), own_coordinates(part.shape(i))) for i in part.inputs if i not in params and i not in latents}
    found = analyse(part, params)
    if total in analyse(part, others, kinds=False) or (total in found and not found[total].affine):
        return False
    met = analyse(part, latents, kinds=False)
    seen = [i for i, (name, _) in latents.items() if total in met and name in met[total].coordinates]
    states = list(itertools.islice(itertools.product(*(unknowns.supports[i] for i in seen)), _STATES + 1))
    if len(states) > _STATES:
        return False
    with jax.ensure_compile_time_eval():
        return all(_is_one_at(part, unknowns, dict(zip(seen, state, strict=True)), seed)
                   for state in states for seed in range(3))  # fmt: skip


def _is_one_at(part: Program, unknowns: Unknowns, state: Mapping[int, Any], seed: int) -> bool:
    """At one random point, every element of a latent having the same value."""
    rng = np.random.default_rng(seed)
    inputs = [_point(rng, part, i, unknowns, state) for i in part.inputs]
    (value,) = part(inputs)
    tolerance = 100 * float(jnp.finfo(jnp.result_type(value)).eps)
    return bool(np.all(np.abs(np.asarray(value) - 1) <= tolerance))


def _point(rng: np.random.Generator, part: Program, number: int, unknowns: Unknowns, state: Mapping[int, Any]) -> Any:
    aval = part.avals[number]
    if number not in unknowns.constraints:
        return jnp.full(aval.shape, state.get(number, 0), aval.dtype)
    draw = rng.normal(size=aval.shape)
    if _is_simplex(unknowns.constraints[number]):
        draw = np.exp(draw)
        draw = draw / draw.sum(-1, keepdims=True)
    return jnp.asarray(draw, aval.dtype)


def _is_simplex(constraint: Any) -> bool:
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    return constraint is constraints.simplex
