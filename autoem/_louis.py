"""Where a Monte Carlo fit stands: what is left to gain, how much of that is noise, and the errors of its parameters.

From draws of the latents at θ, in free coordinates of θ: the gradient g of the objective (Fisher's identity), minus its
Hessian I (Louis 1982) and the covariance V of g over batches of draws. Then g' I⁻¹ g / 2 is what a Newton step gains,
tr(I⁻¹ V) / 2 what noise alone adds to that, and I⁻¹ V I⁻¹ the Monte Carlo covariance of the step's end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro import diagnostics

from ._derivation import Machine
from ._evidence import Drawn, Sampled
from ._options import BATCHES
from ._types import Array, Params
from ._uncertainty import Free, louis_information

_MANY = 300
"""Free coordinates of the parameters up to which their information is formed."""


class Standing(NamedTuple):
    """Where a fit stands.

    Attributes:
        left: what a Newton step would gain, noise included; NaN where the information is not positive definite.
        noise: what noise adds to `left` on average.
        params: where that step ends (no further than where the objective gains about one).
        errors: Monte Carlo standard errors there.
    """

    left: float
    noise: float
    params: Params
    errors: Params


@eqx.filter_jit
def _moments(machine: Machine, params: Params, drawn: dict[str, Drawn], free: Free) -> Any:
    """Gradient (p,), and gradients of the batches (B, p)."""
    flat = free.flat(params)

    def slope(vector: Array, drawn: Mapping[str, Drawn]) -> Array:
        return jax.grad(lambda v: machine.relative(free.constrained(v), params, drawn))(vector)

    engines = {e.axis: e for e, _ in machine.samplers}
    batches = {n: engines[n].in_batches(d.draws, BATCHES) for n, d in drawn.items()}

    def batch(draws: Any) -> Array:
        return slope(flat, {n: eqx.tree_at(lambda d: d.draws, drawn[n], p) for n, p in draws.items()})

    return slope(flat, drawn), jax.lax.map(batch, batches)


@eqx.filter_jit
def _moved(machine: Machine, params: Params, drawn: dict[str, Drawn], free: Free, step: Array) -> Any:
    """The parameters after a step, by how much the objective rises on the same draws, and the Jacobian there."""
    end = free.flat(params) + step
    new = free.constrained(end)
    rise = machine.relative(new, params, drawn) - machine.relative(params, params, drawn)
    return new, rise, jax.jacfwd(free.constrained)(end)


def standing(machine: Machine, params: Params, drawn: dict[str, Drawn], free: Free) -> Standing:
    """Where a fit stands at some parameters, judged by draws that were made there."""
    nothing = {n: np.full(np.shape(p), np.nan) for n, p in params.items()}
    unknown = Standing(np.nan, np.nan, params, nothing)
    if free.size > _MANY:
        return unknown
    moments = *_moments(machine, params, drawn, free), louis_information(machine, params, drawn, free)
    gradient, batches, information = (np.asarray(a, float) for a in moments)
    if not all(np.all(np.isfinite(a)) for a in (gradient, information, batches)):
        return unknown
    values, vectors = np.linalg.eigh(information)
    if values[0] <= 1e-8 * max(values[-1], 1e-300):
        return unknown
    covariance = np.atleast_2d(np.cov(batches.T)) / len(batches)
    inverse = (vectors / values) @ vectors.T
    step = inverse @ gradient
    left, noise = float(gradient @ step / 2), float(np.trace(inverse @ covariance) / 2)
    step = step * min(1.0, 1 / np.sqrt(max(left, 1e-300)))
    new, rise, jacobian = _moved(machine, params, drawn, free, jnp.asarray(step, jnp.result_type(float)))
    if not np.isfinite(rise) or rise < 0:
        new = params
    errors = {}
    for name, block in jacobian.items():
        rows = np.reshape(np.asarray(block), (-1, len(step))) @ inverse
        errors[name] = np.sqrt(np.einsum("ij,jk,ik->i", rows, covariance, rows)).reshape(np.shape(params[name]))
    return Standing(left, noise, new, errors)


def mixing(engine: Sampled, drawn: Drawn) -> tuple[dict[str, float], dict[str, float | None]]:
    """Effective sample size and R-hat of the worst element of every latent."""
    count = len(drawn.draws.u)
    if engine.sampler == "importance":
        worst = float(drawn.health.effective) * count
        return dict.fromkeys(engine.names, worst), dict.fromkeys(engine.names)
    length = engine.samples // engine.num_chains
    effective, r_hat = {}, {}
    for name, values in drawn.draws.values.items():
        rounds = np.reshape(np.asarray(values), (-1, engine.num_chains, length, int(np.prod(values.shape[1:]))))
        chains = np.moveaxis(rounds, 0, 1).reshape(engine.num_chains, -1, rounds.shape[-1])
        with np.errstate(divide="ignore", invalid="ignore"):
            effective[name] = float(np.nanmin(diagnostics.effective_sample_size(chains)))
            r_hat[name] = float(np.nanmax(diagnostics.split_gelman_rubin(chains)))
    return effective, r_hat
