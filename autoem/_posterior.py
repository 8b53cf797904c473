"""Posterior distributions, joint draws and joint modes of the latents, at given parameters."""

from __future__ import annotations

from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from ._derivation import Derivation, Machine
from ._evidence import Enumeration
from ._family import LOG_ZERO
from ._model import Model
from ._types import Array, Key, Params


@eqx.filter_jit
def _marginals(machine: Machine, params: Params, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, Array]:
    slots = machine.complete.slots(params)
    found: dict[str, Array] = {}
    for evidence, at in zip(machine.evidences, machine.positions, strict=True):
        if isinstance(evidence, Enumeration):
            found |= evidence.marginals([slots[i] for i in at])
    result = {}
    for name, shape in shapes:
        probs = jnp.clip(jnp.reshape(jnp.moveaxis(found[name], 0, -1), shape), 0.0, 1.0)
        result[name] = probs / jnp.sum(probs, -1, keepdims=True)
    return result


@eqx.filter_jit
def _states(machine: Machine, params: Params, key: Key | None) -> dict[str, Array]:
    slots = machine.complete.slots(params)
    found: dict[str, Array] = {}
    for number, (evidence, at) in enumerate(zip(machine.evidences, machine.positions, strict=True)):
        if isinstance(evidence, Enumeration):
            own = [slots[i] for i in at]
            found |= evidence.mode(own) if key is None else evidence.sample(jax.random.fold_in(key, number), own)
    return found


def posterior(derivation: Derivation, params: Params) -> dict[str, Any]:
    """Marginal posterior of every latent element, as a NumPyro distribution."""
    model = derivation.model
    shapes = tuple((n, (*model.sites[n].batch_shape, len(model.sites[n].support))) for n in model.latents)
    marginals = _marginals(derivation.machine, params, shapes)
    return {n: _distribution(model.sites[n].support, model.sites[n].binary, marginals[n]) for n in model.latents}


def _distribution(support: np.ndarray, binary: bool, probs: Array) -> Any:
    if binary:
        return dist.Bernoulli(probs=probs[..., 1])
    if np.array_equal(support, np.arange(len(support))):
        return dist.Categorical(probs=probs)
    points = dist.Delta(jnp.broadcast_to(jnp.asarray(support, probs.dtype), probs.shape))
    return dist.MixtureSameFamily(dist.Categorical(probs=probs), points)


def values(model: Model, states: dict[str, Array]) -> dict[str, Array]:
    """Support values, shaped like the sites, from state indices over the axes longer than 1."""
    result = {}
    for name in model.latents:
        site = model.sites[name]
        number = model.inputs[name]
        support = jnp.asarray(site.support, model.program.avals[number].dtype)
        result[name] = jnp.reshape(support[states[name]], model.program.shape(number))
    return result


def decode(derivation: Derivation, params: Params) -> dict[str, Array]:
    """The most probable joint assignment."""
    return values(derivation.model, _states(derivation.machine, params, None))


def sample(derivation: Derivation, rng_key: Key, params: Params, num_samples: int) -> dict[str, Array]:
    """Joint draws, leading axis `num_samples`."""
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
    keys = jax.random.split(rng_key, num_samples)
    draw = jax.vmap(lambda key: values(derivation.model, _states(derivation.machine, params, key)))
    return draw(keys)


def raise_impossible(derivation: Derivation, params: Params, total: float) -> NoReturn:
    """Raise a ValueError that names the datum which is impossible at the starting values."""
    machine = derivation.machine
    for factor, slots in zip(machine.complete.factors, machine.complete.slots(params), strict=True):
        features, base = factor.statistics()
        lead = len(factor.latents)
        table = jnp.sum(slots * features, -1) + base[..., 0]
        best = np.asarray(jnp.max(table, tuple(range(lead))) if lead else table)
        bad = ~(best > LOG_ZERO / 10)
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"The log-likelihood is {total if np.isnan(total) else -np.inf} at the starting values: "
                f"site {factor.site!r} gives its datum at index {where} probability zero (or no number), whatever the "
                "latents. Start elsewhere with init_params=."
            )
    raise ValueError(
        "The log-likelihood is -inf at the starting values: no joint assignment of the latents "
        f"{', '.join(map(repr, derivation.model.latents))} gives the data positive probability. Start elsewhere with "
        "init_params=."
    )
