"""Posterior distributions, joint draws and joint modes of the latents, at given parameters."""

from __future__ import annotations

from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from ._derivation import Derivation, Machine
from ._evidence import ConditionallyGaussian, Enumeration, Gaussian, Observed, Quadrature
from ._family import LOG_ZERO
from ._gaussian_posterior import (
    event_width,
    gaussian_distribution,
    gaussian_draw,
    gaussian_mode,
    gaussian_moments,
)
from ._model import Model
from ._points_posterior import point_distributions, point_draws, point_modes
from ._types import Array, Key, Params


@eqx.filter_jit
def _marginals(
    machine: Machine, params: Params, shapes: tuple[tuple[str, tuple[int, ...]], ...], runs: tuple[tuple[str, int], ...]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Probabilities of the discrete latents; of the Gaussian ones (state weights, means, covariances)."""
    inputs = machine.complete.inputs(params)
    found: dict[str, Array] = {}
    gaussian: dict[str, Any] = {}
    for evidence, at in zip(machine.evidences, machine.positions, strict=True):
        own = [inputs[i] for i in at]
        if isinstance(evidence, Enumeration | ConditionallyGaussian):
            found |= evidence.marginals(own)
        if isinstance(evidence, Gaussian):
            solved = evidence.solve(own)
            gaussian |= {n: (None, *gaussian_moments(evidence, n, solved, w)) for n, w in runs if n in evidence.names}
        if isinstance(evidence, ConditionallyGaussian):
            weights = evidence.weights(own)
            solved = evidence.gaussian.solve(own[: evidence.count])
            for name, width in runs:
                if name in evidence.gaussian.names:
                    number = evidence.gaussian.places[name].number
                    moments = gaussian_moments(evidence.gaussian, name, solved, width)
                    gaussian[name] = (weights[:, number], *moments)
    result = {}
    for name, shape in shapes:
        probs = jnp.clip(jnp.reshape(jnp.moveaxis(found[name], 0, -1), shape), 0.0, 1.0)
        result[name] = probs / jnp.sum(probs, -1, keepdims=True)
    return result, gaussian


@eqx.filter_jit
def _states(machine: Machine, params: Params, key: Key | None) -> tuple[dict[str, Array], Array]:
    """The joint mode or one joint draw of all latents (flat for Gaussian ones), and the log density of the draw."""
    inputs = machine.complete.inputs(params)
    found: dict[str, Array] = {}
    total = jnp.zeros(())
    for number, (evidence, at) in enumerate(zip(machine.evidences, machine.positions, strict=True)):
        own = [inputs[i] for i in at]
        if isinstance(evidence, Observed | Quadrature):
            continue
        if key is None:
            found |= evidence.mode(own) if isinstance(evidence, Enumeration) else gaussian_mode(evidence, own)
            continue
        here = jax.random.fold_in(key, number)
        if isinstance(evidence, Enumeration):
            states, density = evidence.sample_with_density(here, own)
        else:
            states, density = gaussian_draw(evidence, here, own)
        found |= states
        total = total + density
    return found, total


def posterior(derivation: Derivation, params: Params) -> dict[str, Any]:
    """Marginal posterior of every latent element, as a NumPyro distribution."""
    model = derivation.model
    shapes = tuple((n, (*model.sites[n].batch_shape, len(model.sites[n].support))) for n in model.latents)
    runs = tuple((n, event_width(model.sites[n], model.program.shape(model.inputs[n]))) for n in model.gaussians)
    marginals, moments = _marginals(derivation.detailed, params, shapes, runs)
    numerical = point_distributions(derivation.detailed, params, model.sites) if model.points else {}
    result = {}
    for name in derivation.latents:
        site = model.sites[name]
        if name in numerical:
            result[name] = numerical[name]
        elif name in marginals:
            result[name] = _distribution(site.support, site.binary, marginals[name])
        else:
            shape = model.program.shape(model.inputs[name])
            result[name] = gaussian_distribution(site, shape, dict(runs)[name], *moments[name])
    return result


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
    for name in model.gaussians:
        result[name] = jnp.reshape(states[name], model.program.shape(model.inputs[name]))
    return result


def joint_states(derivation: Derivation, params: Params, key: Key | None) -> tuple[dict[str, Array], Array]:
    """The joint mode (no key) or a joint draw of all latents, for `values`; the log density of the draw."""
    return _states(derivation.detailed, params, key)


def decode(derivation: Derivation, params: Params) -> dict[str, Array]:
    """The most probable joint assignment."""
    found = values(derivation.model, joint_states(derivation, params, None)[0])
    return found | point_modes(derivation.detailed, params)


def sample(derivation: Derivation, rng_key: Key, params: Params, num_samples: int) -> dict[str, Array]:
    """Joint draws, leading axis `num_samples`."""
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
    keys = jax.random.split(rng_key, num_samples)
    draw = jax.vmap(lambda key: values(derivation.model, joint_states(derivation, params, key)[0]))
    return draw(keys) | point_draws(derivation.detailed, jax.random.fold_in(rng_key, 1), params, num_samples)


def raise_impossible(derivation: Derivation, params: Params, total: float) -> NoReturn:
    """Raise a ValueError that names the datum which is impossible at the starting values."""
    machine = derivation.machine
    for factor, slots in zip(machine.complete.factors, machine.complete.inputs(params), strict=True):
        if isinstance(slots, dict):  # holds continuous latents: no datum is impossible
            continue
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
