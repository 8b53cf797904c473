"""Draws of the latents that are sampled, round after round: one compiled round serves samples of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import equinox as eqx
import jax

from ._derivation import Machine
from ._evidence import Chains, Drawn
from ._types import Key, Params

ENOUGH = 4096
"""Draws for a posterior distribution, or for an information."""


@eqx.filter_jit
def _fresh(machine: Machine, params: Params, key: Key, chains: Mapping[str, Chains]) -> dict[str, Drawn]:
    return machine.draw(params, key, chains)


@eqx.filter_jit
def _pooled(machine: Machine, rounds: Sequence[dict[str, Drawn]]) -> dict[str, Drawn]:
    return {e.axis: e.pooled([r[e.axis] for r in rounds]) for e, _ in machine.samplers}


def several(machine: Machine, params: Params, key: Key, chains: Mapping[str, Chains], rounds: int) -> dict[str, Drawn]:
    """As many rounds of draws as one sample.

    Args:
        machine: the algorithm.
        params: given those.
        key: a JAX key.
        chains: what was handed on.
        rounds: how many.
    """
    found: list[dict[str, Drawn]] = []
    for k in jax.random.split(key, rounds):
        found.append(_fresh(machine, params, k, chains))
        chains = {n: d.chains for n, d in found[-1].items()}
    return found[0] if rounds == 1 else _pooled(machine, found)


def anew(machine: Machine, params: Params, key: Key, number: int = ENOUGH) -> dict[str, Drawn]:
    """At least so many draws, from samplers that know nothing yet."""
    least = min((e.samples for e, _ in machine.samplers), default=number)
    return several(machine, params, key, machine.start(), -(-number // least))
