"""Posterior distributions and draws of Gaussian latents, from the engine's solutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from ._evidence import Gaussian, Mixed, Path, Posterior, Solution, Steps
from ._sites import Site
from ._types import Array, Key

_JOINT = 64
"""Elements of one event up to which their covariance is returned."""


def event_width(site: Site, shape: tuple[int, ...], engine: Gaussian) -> int:
    """How many trailing elements of a latent are reported jointly: its event, if that is one short axis.

    Elements by themselves where discrete latents have a state for each, and where their covariance is not held: far
    apart in a chain, or in several of the blocks that a border couples.
    """
    if site.event_ndim + site.hidden != 1 or not 1 < shape[-1] <= _JOINT:
        return 1
    place = engine.places[site.name]
    slot, group, number = (np.reshape(a, (-1, shape[-1])) for a in (place.slot, place.group, place.number))
    together = bool(np.all(number == number[:, :1]))
    level = np.zeros_like(slot)
    for i, held in enumerate(engine.groups):
        if isinstance(held, Steps):
            level = np.where(group == i, slot // held.width, level)
        elif held.arrow is not None:
            apart = np.any((slot < held.arrow.inner) & (slot // held.arrow.width != slot[:, :1] // held.arrow.width), 1)
            level[:, 0] = np.where((group[:, 0] == i) & apart, -2, level[:, 0])
    near = bool(np.all(np.ptp(level, 1) <= 1))
    return shape[-1] if near and (together or not engine.latents) else 1


def gaussian_moments(engine: Gaussian, name: str, solved: Sequence[Posterior], width: int) -> tuple[Array, Array]:
    """Means (L, elements) and covariances (L, runs, width, width) of one latent, for every joint discrete state."""
    place = engine.places[name]
    mean = jax.vmap(lambda s: place.pick([g.mean for g in s]))(solved)
    covariance = jax.vmap(lambda s: place.pick_pairs(s, width))(solved)
    return mean, covariance


def gaussian_marginals(
    evidence: Gaussian | Mixed[Gaussian], inputs: Sequence[Any], runs: Sequence[tuple[str, int]]
) -> dict[str, Any]:
    """Per latent in `runs` (with the width of its event) that is in the block: state weights or None, and moments."""
    if isinstance(evidence, Gaussian):
        solved = evidence.solve(inputs)
        return {n: (None, *gaussian_moments(evidence, n, solved, w)) for n, w in runs if n in evidence.names}
    engine = evidence.continuous
    weights = evidence.weights(inputs)
    solved = engine.solve(inputs[: evidence.count])
    return {
        n: (weights[:, engine.places[n].number], *gaussian_moments(engine, n, solved, w))
        for n, w in runs
        if n in engine.names
    }


def gaussian_distribution(
    site: Site, shape: tuple[int, ...], width: int, weights: Array | None, mean: Array, covariance: Array
) -> Any:
    """The posterior as a NumPyro distribution with the site's batch and event shape.

    An element that is masked out and meets no data has no density to speak of: its moments are NaN.
    """
    states = mean.shape[0]
    if width > 1:
        mean = jnp.moveaxis(jnp.reshape(mean, (states, *shape)), 0, -2)
        covariance = jnp.moveaxis(jnp.reshape(covariance, (states, *shape[:-1], width, width)), 0, -3)
        # Within one event all elements have the same discrete state.
        weights = None if weights is None else jnp.reshape(weights, (states, *shape))[..., 0]
        if weights is None or states == 1:
            return dist.MultivariateNormal(mean[..., 0, :], covariance[..., 0, :, :], validate_args=False)
        parts: Any = dist.MultivariateNormal(mean, covariance, validate_args=False)
        return dist.MixtureSameFamily(state_distribution(weights), parts, validate_args=False)
    # An element that is known exactly (variance rounded to zero) still is a distribution.
    scale = jnp.sqrt(jnp.maximum(covariance[..., 0, 0], jnp.finfo(mean.dtype).tiny))
    mean, scale = (jnp.moveaxis(jnp.reshape(a, (states, *shape)), 0, -1) for a in (mean, scale))
    event = site.event_ndim + site.hidden
    if weights is None or states == 1:
        return dist.Normal(mean[..., 0], scale[..., 0], validate_args=False).to_event(event)
    weights = jnp.reshape(weights, (states, *shape))
    parts = dist.Normal(mean, scale, validate_args=False)
    mixture = dist.MixtureSameFamily(state_distribution(weights), parts, validate_args=False)
    return mixture.to_event(event)


def state_distribution(weights: Array) -> Any:
    """Joint discrete states with probabilities (L, ...): a Categorical over the trailing axis."""
    probs = jnp.moveaxis(jnp.clip(weights, 0.0, 1.0), 0, -1)
    return dist.Categorical(probs=probs / jnp.sum(probs, -1, keepdims=True), validate_args=False)


def gaussian_mode(evidence: Gaussian | Mixed[Gaussian], inputs: Sequence[Any]) -> dict[str, Array]:
    """The joint mode: discrete states as indices, Gaussian latents flat."""
    if isinstance(evidence, Gaussian):
        solved = [jax.tree.map(lambda a: a[0], s) for s in evidence.solve(inputs)]
        return {n: p.pick([g.mean for g in solved]) for n, p in evidence.places.items()}
    states, solved = evidence.mode(inputs)
    chosen = _chosen(evidence, states, solved)
    return states | {n: p.pick([g.mean for g in chosen]) for n, p in evidence.continuous.places.items()}


def gaussian_draw(
    evidence: Gaussian | Mixed[Gaussian], key: Key, inputs: Sequence[Any]
) -> tuple[dict[str, Array], Array]:
    """One joint draw, as `gaussian_mode`, and its log density."""
    if isinstance(evidence, Gaussian):
        engine, states, density = evidence, {}, jnp.zeros(())
        solved = [jax.tree.map(lambda a: a[0], s) for s in evidence.solve(inputs)]
    else:
        engine = evidence.continuous
        states, density = evidence.sample_with_density(jax.random.fold_in(key, 1), inputs)
        solved = _chosen(evidence, states, engine.solve(inputs[: evidence.count]))
    draws, densities = engine.draw(key, solved)
    for part, cells in zip(densities, engine.cells, strict=True):
        density = density + jnp.sum(jnp.where(cells >= 0, part, 0.0))
    return states | {n: p.pick(draws) for n, p in engine.places.items()}, density


def _chosen(evidence: Mixed[Gaussian], states: dict[str, Array], solved: Sequence[Posterior]) -> list[Posterior]:
    """Every cell's solution at its discrete state. Classes are split into cells: each has a covariance of its own."""
    joint = evidence.joint_state(states)
    result: list[Posterior] = []
    for solution, cells in zip(solved, evidence.continuous.cells, strict=True):
        state = joint[jnp.maximum(cells, 0)]  # (Q, n)
        mean = jnp.take_along_axis(solution.mean, state[None, :, :, None], 0)[0]
        classes = jnp.arange(cells.shape[0])[:, None]
        if isinstance(solution, Path):
            names = ("half", "gain", "covariance", "lagged", "height")
            result.append(Path(mean=mean, **{n: getattr(solution, n)[state, classes] for n in names}))
            continue
        assert isinstance(solution, Solution)  # no borders where there are discrete latents
        names = ("root", "half", "covariance")
        result.append(Solution(mean, *(getattr(solution, n)[state, classes] for n in names)))
    return result
