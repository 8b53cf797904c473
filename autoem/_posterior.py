"""Posterior distributions, joint draws and joint modes of the latents, at given parameters."""

from __future__ import annotations

from typing import Any, NoReturn, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from ._conjugate_posterior import (
    conjugate_coefficients,
    conjugate_distribution,
    conjugate_draw,
    conjugate_mode,
    engine_of,
)
from ._derivation import Derivation, Machine
from ._draws import anew
from ._evidence import (
    Chain,
    Conjugate,
    Drawn,
    Enumeration,
    Gaussian,
    Mixed,
    Observed,
    Quadrature,
    Sampled,
    Scaled,
)
from ._family import LOG_ZERO
from ._gaussian_posterior import (
    event_width,
    gaussian_distribution,
    gaussian_draw,
    gaussian_marginals,
    gaussian_mode,
)
from ._model import Model
from ._points_posterior import discrete_marginals, point_distributions, point_draws, point_modes
from ._scaled_posterior import scaled_distribution, scaled_draw, scaled_mode, scaled_moments, scaled_widths
from ._types import Array, Key, Params


@eqx.filter_jit
def _marginals(
    machine: Machine,
    params: Params,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    runs: tuple[tuple[str, int], ...],
    drawn: dict[str, Drawn],
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Probabilities of the discrete latents; of Gaussian ones state weights, means and covariances, of conjugate ones
    state weights and coefficients.
    """
    inputs = machine.complete.inputs(params)
    found = discrete_marginals(machine, params, drawn)
    continuous: dict[str, Any] = {}
    for evidence, at in zip(machine.evidences, machine.positions, strict=True):
        own = [inputs[i] for i in at]
        if isinstance(evidence, Enumeration | Chain | Mixed):
            found |= evidence.marginals(own)
        if isinstance(evidence, Scaled):
            continuous |= scaled_moments(evidence, own, runs)
        elif _is_conjugate(evidence):
            continuous |= conjugate_coefficients(evidence, own)
        elif isinstance(evidence, Gaussian | Mixed):
            continuous |= gaussian_marginals(evidence, own, runs)
    result = {}
    for name, shape in shapes:
        probs = jnp.clip(jnp.reshape(jnp.moveaxis(found[name], 0, -1), shape), 0.0, 1.0)
        result[name] = probs / jnp.sum(probs, -1, keepdims=True)
    return result, continuous


@eqx.filter_jit
def _states(machine: Machine, params: Params, key: Key | None) -> tuple[dict[str, Array], Array]:
    """The joint mode or one joint draw of all latents (flat for continuous ones), and the log density of the draw."""
    inputs = machine.complete.inputs(params)
    found: dict[str, Array] = {}
    total = jnp.zeros(())
    for number, (evidence, at) in enumerate(zip(machine.evidences, machine.positions, strict=True)):
        own = [inputs[i] for i in at]
        if isinstance(evidence, Observed | Quadrature | Sampled):
            continue
        if key is None:
            find: Any = scaled_mode if isinstance(evidence, Scaled) else (
                conjugate_mode if _is_conjugate(evidence) else gaussian_mode)  # fmt: skip
            found |= evidence.mode(own) if isinstance(evidence, Enumeration | Chain) else find(evidence, own)
            continue
        here = jax.random.fold_in(key, number)
        if isinstance(evidence, Enumeration | Chain):
            states, density = evidence.sample_with_density(here, own)
        else:
            draw: Any = scaled_draw if isinstance(evidence, Scaled) else (
                conjugate_draw if _is_conjugate(evidence) else gaussian_draw)  # fmt: skip
            states, density = draw(evidence, here, own)
        found |= states
        total = total + density
    return found, total


def continuous_engine(evidence: Any) -> Gaussian | Conjugate | Scaled | None:
    """The engine of a block's continuous latents, if it has any."""
    engine = evidence.continuous if isinstance(evidence, Mixed) else evidence
    return engine if isinstance(engine, Gaussian | Conjugate | Scaled) else None


def _is_conjugate(evidence: Any) -> TypeGuard[Conjugate | Mixed[Conjugate]]:
    return isinstance(continuous_engine(evidence), Conjugate)


def posterior(derivation: Derivation, params: Params) -> dict[str, Any]:
    """Marginal posterior of every latent element, as a NumPyro distribution."""
    model = derivation.model
    shapes = tuple((n, (*model.hidden[n].batch_shape, len(model.hidden[n].support))) for n in model.latents)
    machine = derivation.detailed
    gaussians = [e for e in map(continuous_engine, machine.evidences) if isinstance(e, Gaussian)]
    runs = tuple((n, event_width(model.hidden[n], model.avals[n].shape, e)) for e in gaussians for n in e.names)
    scaled = [e for e in machine.evidences if isinstance(e, Scaled)]
    sizes = {n: a.shape for n, a in model.avals.items()}
    runs += tuple(item for e in scaled for item in scaled_widths(e, model.hidden, sizes).items())
    # The draws of latents that are sampled are the same every time.
    drawn = anew(machine, params, jax.random.key(0)) if machine.samplers else {}
    marginals, continuous = _marginals(machine, params, shapes, runs, drawn)
    engines = {n: engine_of(e) for e in machine.evidences if _is_conjugate(e) for n in engine_of(e).names}
    engines |= {n: e.scales for e in scaled for n in e.scales.names}
    beside = {n for e in scaled for n in e.gaussian.names}
    numerical = point_distributions(machine, params, model.hidden, drawn) if model.points else {}
    result = {}
    for name in derivation.latents:
        site = model.hidden[name]
        if name in numerical:
            result[name] = numerical[name]
        elif name in marginals:
            result[name] = _distribution(site.support, site.binary, marginals[name])
        elif name in engines:
            result[name] = conjugate_distribution(engines[name], site, *continuous[name])
        elif name in beside:
            result[name] = scaled_distribution(site, sizes[name], dict(runs)[name], *continuous[name])
        else:
            shape = model.avals[name].shape
            result[name] = gaussian_distribution(site, shape, dict(runs)[name], *continuous[name])
    return result


def _distribution(support: np.ndarray, binary: bool, probs: Array) -> Any:
    if binary:
        return dist.Bernoulli(probs=probs[..., 1])
    if np.array_equal(support, np.arange(len(support))):
        return dist.Categorical(probs=probs)
    points = dist.Delta(jnp.broadcast_to(jnp.asarray(support, probs.dtype), probs.shape))
    return dist.MixtureSameFamily(dist.Categorical(probs=probs), points)


def values(model: Model, states: dict[str, Array]) -> dict[str, Array]:
    """Values of those latents that are there, shaped like the sites: of discrete ones from state indices over the axes
    longer than 1.
    """
    result = {}
    for name in (n for n in model.latents if n in states):
        aval = model.avals[name]
        support = jnp.asarray(model.hidden[name].support, aval.dtype)
        result[name] = jnp.reshape(support[states[name]], aval.shape)
    for name in (n for n in (*model.gaussians, *model.conjugates) if n in states):
        result[name] = jnp.reshape(states[name], model.avals[name].shape)
    return result


def joint_states(derivation: Derivation, params: Params, key: Key | None) -> tuple[dict[str, Array], Array]:
    """The joint mode (no key) or a joint draw of all latents, for `values`; the log density of the draw."""
    return _states(derivation.detailed, params, key)


def decode(derivation: Derivation, params: Params) -> dict[str, Array]:
    """The most probable joint assignment."""
    numerical, states = point_modes(derivation.detailed, params)
    return values(derivation.model, joint_states(derivation, params, None)[0] | states) | numerical


def sample(derivation: Derivation, rng_key: Key, params: Params, num_samples: int) -> dict[str, Array]:
    """Joint draws, leading axis `num_samples`."""
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
    keys = jax.random.split(rng_key, num_samples)
    numerical, states = point_draws(derivation.detailed, jax.random.fold_in(rng_key, 1), params, num_samples)

    def draw(key: Key, given: dict[str, Array]) -> dict[str, Array]:
        return values(derivation.model, joint_states(derivation, params, key)[0] | given)

    return jax.vmap(draw)(keys, states) | numerical


def raise_impossible(derivation: Derivation, params: Params, total: float) -> NoReturn:
    """Raise a ValueError that names the datum which is impossible at the starting values."""
    machine = derivation.machine
    # Sites with Gaussian latents have no impossible datum; those with conjugate ones no statistics of data alone.
    hidden = {f.site for e in machine.evidences if (c := continuous_engine(e)) is not None for f in c.factors}
    for factor, slots in zip(machine.complete.factors, machine.complete.inputs(params), strict=True):
        if isinstance(slots, dict) or factor.site in hidden:
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
        f"{', '.join(map(repr, derivation.latents))} gives the data positive probability. Start elsewhere with "
        "init_params=."
    )
