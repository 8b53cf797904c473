"""Posterior distributions and draws of conjugate latents, from the engine's coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from ._evidence import Conjugate, Mixed, log_density
from ._family import BoundedPowerLaw, HalfLine, PowerLaw
from ._gaussian_posterior import state_distribution
from ._sites import Site
from ._types import Array, Key


def engine_of(evidence: Conjugate | Mixed[Conjugate]) -> Conjugate:
    """The engine of the conjugate latents."""
    return evidence.continuous if isinstance(evidence, Mixed) else evidence


def conjugate_coefficients(evidence: Conjugate | Mixed[Conjugate], inputs: Sequence[Any]) -> dict[str, Any]:
    """Per latent: probabilities of the joint discrete states (L, elements), or None, and η (L, elements, M)."""
    engine = engine_of(evidence)
    weights = evidence.weights(inputs) if isinstance(evidence, Mixed) else None
    result, start = {}, 0
    for part, eta in zip(engine.parts, engine.solve(inputs[: len(engine.factors)]), strict=True):
        own = None if weights is None else weights[:, start : start + part.size]
        result[part.name] = (own, eta)
        start += part.size
    return result


def conjugate_distribution(engine: Conjugate, site: Site, weights: Array | None, eta: Array) -> Any:
    """The posterior as a NumPyro distribution with the site's batch and event shape."""
    kernel = next(p.kernel for p in engine.parts if p.name == site.name)
    states = eta.shape[0]
    eta = jnp.moveaxis(jnp.reshape(eta, (states, *site.batch_shape, eta.shape[-1])), 0, -2)
    if weights is None or states == 1:
        return kernel.distribution(eta[..., 0, :]).to_event(site.hidden)
    weights = jnp.reshape(weights, (states, *site.batch_shape))
    mixing = state_distribution(weights)
    if isinstance(kernel, PowerLaw):  # each state has its own bounds
        each = [BoundedPowerLaw(eta[..., state, :]) for state in range(states)]
        mixture = dist.MixtureGeneral(mixing, each, support=constraints.positive, validate_args=False)
    elif isinstance(kernel, HalfLine):  # NumPyro wants to be told that all components have one support
        each = [kernel.distribution(eta[..., state, :]) for state in range(states)]
        mixture = dist.MixtureGeneral(mixing, each, support=each[0].support, validate_args=False)
    else:
        mixture = dist.MixtureSameFamily(mixing, kernel.distribution(eta), validate_args=False)
    return mixture.to_event(site.hidden)


def conjugate_mode(evidence: Conjugate | Mixed[Conjugate], inputs: Sequence[Any]) -> dict[str, Array]:
    """The joint mode: discrete states as indices, conjugate latents flat."""
    engine = engine_of(evidence)
    states, eta = evidence.mode(inputs) if isinstance(evidence, Mixed) else ({}, engine.solve(inputs))
    chosen = _chosen(evidence, states, eta)
    return states | {p.name: p.kernel.mode(e) for p, e in zip(engine.parts, chosen, strict=True)}


def conjugate_draw(
    evidence: Conjugate | Mixed[Conjugate], key: Key, inputs: Sequence[Any]
) -> tuple[dict[str, Array], Array]:
    """One joint draw, as `conjugate_mode`, and its log density."""
    engine = engine_of(evidence)
    states: dict[str, Array] = {}
    density = jnp.zeros(())
    if isinstance(evidence, Mixed):
        states, density = evidence.sample_with_density(jax.random.fold_in(key, len(engine.parts)), inputs)
    eta = engine.solve(inputs[: len(engine.factors)])
    for number, (part, own) in enumerate(zip(engine.parts, _chosen(evidence, states, eta), strict=True)):
        drawn = part.kernel.inside(part.kernel.distribution(own).sample(jax.random.fold_in(key, number)))
        states[part.name] = drawn
        density = density + jnp.sum(part.counted(log_density(part.kernel, own, drawn)))
    return states, density


def _chosen(evidence: Conjugate | Mixed[Conjugate], states: dict[str, Array], eta: Sequence[Array]) -> list[Array]:
    """η of every element at its discrete states: per latent (elements, M)."""
    if not isinstance(evidence, Mixed):
        return [e[0] for e in eta]
    joint = evidence.joint_state(states)
    result, start = [], 0
    for part, own in zip(engine_of(evidence).parts, eta, strict=True):
        state = joint[start : start + part.size]
        result.append(own[state, jnp.arange(part.size)])
        start += part.size
    return result
