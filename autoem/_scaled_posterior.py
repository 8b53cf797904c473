"""Posterior of Gaussian latents and of the factor of their precision: Gamma and Student-t, joint draws and modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from ._evidence import Scaled, log_density
from ._gaussian_posterior import event_width, gaussian_moments
from ._sites import Site
from ._types import Array, Key


def scaled_widths(engine: Scaled, sites: dict[str, Site], shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """How many trailing elements of each Gaussian latent are reported jointly: those of one cell, or one."""
    apart = replace(engine.gaussian, latents=((", ", 1),))
    return {n: event_width(sites[n], shapes[n], apart) for n in engine.gaussian.names}


def scaled_moments(engine: Scaled, inputs: Sequence[Any], widths: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Per conjugate latent (None, η); per Gaussian one its mean, covariance at u = 1, and (shape, rate) of u^e."""
    coefficients = engine.coefficients(inputs)
    found: dict[str, Any] = {}
    laws = []
    for part, (kernel, eta) in zip(engine.scales.parts, engine.kernels(coefficients), strict=True):
        found[part.name] = None, eta[None]
        laws.append(kernel.shape_rate(eta))
    shape, rate = (jnp.concatenate(a) for a in zip(*laws, strict=True))
    solved = engine.gaussian.solve(inputs[: engine.count])
    for name, width in widths:
        if name in engine.gaussian.names:
            mean, covariance = gaussian_moments(engine.gaussian, name, solved, width)
            at = engine.element[engine.gaussian.places[name].number]
            found[name] = mean[0], covariance[0], shape[at], rate[at]
    return found


def scaled_distribution(
    site: Site, size: tuple[int, ...], width: int, mean: Array, covariance: Array, shape: Array, rate: Array
) -> Any:
    """z | u ~ N(m, V u^-e) with u^e ~ Gamma(a, b) is a Student-t of 2a degrees of freedom and scale V b / a."""
    if width > 1:
        shape, rate = (jnp.reshape(a, size)[..., 0] for a in (shape, rate))
        matrix = jnp.reshape(covariance, (*size[:-1], width, width)) * (rate / shape)[..., None, None]
        root = jnp.linalg.cholesky(matrix)
        return dist.MultivariateStudentT(2 * shape, jnp.reshape(mean, size), root, validate_args=False)
    scale = jnp.sqrt(covariance[..., 0, 0] * rate / shape)
    df, mean, scale = (jnp.reshape(a, size) for a in (2 * shape, mean, scale))
    return dist.StudentT(df, mean, scale, validate_args=False).to_event(site.event_ndim + site.hidden)


def scaled_mode(engine: Scaled, inputs: Sequence[Any]) -> dict[str, Array]:
    """The joint mode: the means, and u where its density and that of the latents at their means is highest."""
    coefficients = engine.coefficients(inputs)
    height = jnp.zeros(len(coefficients)).at[engine.element].add(engine.elements) * engine.signs / 2
    raised = coefficients.at[:, 1].add(height)
    scales = {p.name: k.mode(eta) for p, (k, eta) in zip(engine.scales.parts, engine.kernels(raised), strict=True)}
    solved = [jax.tree.map(lambda a: a[0], s) for s in engine.gaussian.solve(inputs[: engine.count])]
    return scales | {n: p.pick([g.mean for g in solved]) for n, p in engine.gaussian.places.items()}


def scaled_draw(engine: Scaled, key: Key, inputs: Sequence[Any]) -> tuple[dict[str, Array], Array]:
    """One joint draw (flat), and its log density."""
    states: dict[str, Array] = {}
    density, roots = jnp.zeros(()), []
    for number, (part, (kernel, eta)) in enumerate(
        zip(engine.scales.parts, engine.kernels(engine.coefficients(inputs)), strict=True)
    ):
        drawn = kernel.inside(kernel.distribution(eta).sample(jax.random.fold_in(key, number)))
        states[part.name] = drawn
        density = density + jnp.sum(log_density(kernel, eta, drawn))
        roots.append(drawn ** (-kernel.exponent / 2))
    solved = [jax.tree.map(lambda a: a[0], s) for s in engine.gaussian.solve(inputs[: engine.count])]
    draws, densities = engine.gaussian.draw(jax.random.fold_in(key, len(roots)), solved)
    root = jnp.concatenate(roots)[engine.element]
    padded = jnp.append(root, 1.0)
    moved = []
    for drawn, solution, part, cells in zip(draws, solved, densities, engine.gaussian.cells, strict=True):
        own = padded[jnp.where(cells < 0, len(root), cells)]
        moved.append(solution.mean + (drawn - solution.mean) * own[..., None])
        density = density + jnp.sum(jnp.where(cells >= 0, part, 0.0))
    density = density - jnp.sum(engine.elements * jnp.log(root))
    return states | {n: p.pick(moved) for n, p in engine.gaussian.places.items()}, density
