"""Posterior distributions, draws and modes of latents that are integrated numerically."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from ._derivation import Machine
from ._draws import ENOUGH, anew
from ._evidence import Drawn, Draws, Points, Quadrature, Sampled, Seat
from ._sites import Site
from ._types import Array, Key, Params


def _cells(machine: Machine) -> list[tuple[Quadrature, tuple[int, ...]]]:
    """The quadratures whose cells have points of their own: those of a posterior."""
    return [(e, at) for e, at in machine.quadratures if isinstance(e, Quadrature)]


@eqx.filter_jit
def weighted_points(machine: Machine, params: Params) -> list[Points]:
    """The points of every quadrature, and their weights."""
    return [e.points(*machine.seen(e, params, at)) for e, at in _cells(machine)]


@eqx.filter_jit
def discrete_marginals(machine: Machine, params: Params, drawn: dict[str, Drawn]) -> dict[str, Array]:
    """Probabilities of the discrete latents beside continuous ones, averaged over points: (values, dims...)."""
    found: dict[str, Array] = {}
    for engine, at in _cells(machine):
        if engine.discrete:
            found |= engine.marginals(*machine.seen(engine, params, at))
    for engine, at in machine.samplers:
        found |= engine.marginals(machine.reader(params, at), drawn[engine.axis].draws)
    return found


@eqx.filter_jit
def point_modes(machine: Machine, params: Params) -> tuple[dict[str, Array], dict[str, Array]]:
    """The most probable values of the continuous latents, and states of the discrete ones beside them."""
    values: dict[str, Array] = {}
    states: dict[str, Array] = {}
    for engine, at in _cells(machine):
        found, chosen = engine.mode(*machine.seen(engine, params, at))
        values |= found
        states |= chosen
    for engine, at in machine.samplers:
        found, chosen = engine.mode(machine.reader(params, at))
        values |= found
        states |= chosen
    return values, states


def point_draws(
    machine: Machine, key: Key, params: Params, num_samples: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Draws of the continuous latents (num_samples, *shape), and of the states of the discrete ones beside them: by
    importance resampling, or from Markov chains, thinned.
    """
    moving, choosing = jax.random.split(jax.random.fold_in(key, 2**31))
    drawn = anew(machine, params, moving, max(ENOUGH, 4 * num_samples)) if machine.samplers else {}
    return _resampled(machine, params, drawn, key, choosing, num_samples)


@eqx.filter_jit
def _resampled(
    machine: Machine, params: Params, drawn: dict[str, Drawn], key: Key, choosing: Key, num_samples: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    values: dict[str, Array] = {}
    states: dict[str, Array] = {}
    for number, (engine, at) in enumerate(machine.samplers):
        here = jax.random.fold_in(choosing, number)
        found, chosen = engine.resampled(machine.reader(params, at), drawn[engine.axis].draws, here, num_samples)
        values |= found
        states |= chosen
    for number, (engine, at) in enumerate(_cells(machine)):
        here = jax.random.fold_in(key, number)
        found, chosen = engine.resampled(*machine.seen(engine, params, at), here, num_samples)
        values |= found
        states |= chosen
    return values, states


def point_distributions(
    machine: Machine, params: Params, sites: dict[str, Site], drawn: dict[str, Drawn]
) -> dict[str, dist.Distribution]:
    """Per latent, a distribution with the site's batch and event shape and the mean and variance over the points.

    By support: Normal or MultivariateNormal, Gamma, Beta, with the two moments matched. Over any other support it is
    the mixture of the weighted points themselves, which has the points' expectation of any function, no density.
    """
    result = {}
    found: list[tuple[Quadrature | Sampled, Points | Draws]] = [(e, drawn[e.axis].draws) for e, _ in machine.samplers]
    found += zip((e for e, _ in _cells(machine)), weighted_points(machine, params), strict=True)
    for engine, points in found:
        for seat in engine.seats:
            weights = _element_weights(seat, points.weights)
            result[seat.name] = _distribution(sites[seat.name], seat, weights, points.values[seat.name])
    return result


def _element_weights(seat: Seat, weights: Array) -> Array:
    """Weights of the points for every element of a latent: (M, elements...)."""
    event_ndim = seat.constraint.event_dim
    return jnp.reshape(weights[:, seat.cell], (-1, *seat.shape[: len(seat.shape) - event_ndim]))


def _distribution(site: Site, seat: Seat, weights: Array, values: Array) -> dist.Distribution:
    event_ndim, constraint = seat.constraint.event_dim, seat.constraint
    spread = jnp.reshape(weights, [*weights.shape, *([1] * event_ndim)])
    mean = jnp.sum(spread * values, 0)
    if constraint is constraints.real_vector or type(constraint) is type(constraints.real_vector):
        offset = values - mean
        covariance = jnp.einsum("m...,m...i,m...j->...ij", weights, offset, offset)
        return dist.MultivariateNormal(mean, covariance, validate_args=False).to_event(site.hidden)
    variance = jnp.sum(spread * (values - mean) ** 2, 0)
    if type(constraint) is type(constraints.real):
        found: dist.Distribution = dist.Normal(mean, jnp.sqrt(variance), validate_args=False)
    elif type(constraint) is type(constraints.positive) and getattr(constraint, "lower_bound", None) == 0:
        found = dist.Gamma(mean**2 / variance, mean / variance, validate_args=False)
    elif type(constraint) is type(constraints.unit_interval):
        size = mean * (1 - mean) / variance - 1
        found = dist.Beta(mean * size, (1 - mean) * size, validate_args=False)
    else:
        probs = jnp.moveaxis(weights, 0, -1)
        at = jnp.moveaxis(values, 0, len(seat.shape) - event_ndim)
        parts = dist.Delta(at, event_dim=event_ndim, validate_args=False)
        found = dist.MixtureSameFamily(dist.Categorical(probs=probs, validate_args=False), parts, validate_args=False)
    return found.to_event(site.hidden)
