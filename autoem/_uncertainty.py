"""Standard errors from the observed information, and the run-time certificate."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to

from ._derivation import Derivation, Machine
from ._model import log_density
from ._posterior import joint_states, values
from ._types import Array, Params


@eqx.filter_jit
def _information(machine: Machine, flat: Array, unconstrain: Callable[[Array], Params]) -> Any:
    hessian = jax.hessian(lambda v: machine.objective(unconstrain(v)))(flat)
    jacobian = jax.jacfwd(unconstrain)(flat)
    return -hessian, jacobian


def standard_errors(derivation: Derivation, params: Params) -> dict[str, Array]:
    """Square roots of the diagonal of J I⁻¹ J', I the observed information in free coordinates, J the Jacobian.

    Raises:
        Nothing; warns and returns NaN where I is not positive definite.
    """
    constraints = {n: p.constraint for n, p in derivation.model.parameters.items()}
    bijections = {n: biject_to(c) for n, c in constraints.items()}
    free = {n: bijections[n].inv(params[n]) for n in params}
    flat, unravel = ravel_pytree(free)

    def unconstrain(vector: Array) -> Params:
        return {n: bijections[n](v) for n, v in unravel(vector).items()}

    information, jacobian = _information(derivation.machine, flat, unconstrain)
    values_, vectors = np.linalg.eigh(np.nan_to_num(np.asarray(information + information.T) / 2))
    smallest, largest = values_[0], values_[-1]
    if not np.all(np.isfinite(information)) or smallest <= np.finfo(values_.dtype).eps * 10 * max(largest, 1e-300):
        what = "at a saddle or a minimum in some direction" if smallest < -1e-8 * abs(largest) else "flat"
        warnings.warn(
            f"The observed information is not positive definite (smallest eigenvalue {smallest:.3g}): the objective is "
            f"{what} there, on a boundary, or a parameter is not identified. Its standard errors are NaN.",
            stacklevel=3,
        )
        covariance = np.full_like(np.asarray(information), np.nan)
    else:
        covariance = (vectors / values_) @ vectors.T
    result = {}
    for name, block in jacobian.items():
        rows = np.reshape(np.asarray(block), (-1, covariance.shape[0]))
        variance = np.einsum("ij,jk,ik->i", rows, covariance, rows)
        result[name] = jnp.asarray(np.sqrt(variance).reshape(jnp.shape(params[name])))
    return result


def certify(
    model: Callable[..., Any],
    derivation: Derivation,
    params: Params,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    draws: int = 4,
) -> float:
    """Check log p(x, z) - log q(z | x) = log-likelihood for random z, with NumPyro's own density on the left.

    Returns:
        The largest difference.

    Raises:
        RuntimeError: if it is more than rounding.
    """
    machine, read = derivation.machine, derivation.model
    total = machine.log_likelihood(params)
    flats = [*(n for n, p in read.parameters.items() if p.is_site), *read.unused]
    tolerance = 1e5 * jnp.finfo(jnp.result_type(float)).eps * (1 + abs(float(total)))
    worst = 0.0
    for draw in range(draws):
        states, log_q = joint_states(derivation, params, jax.random.key(draw))
        # An element that no density holds is NaN: any number will do.
        states = {n: jnp.nan_to_num(v) if n in read.gaussians else v for n, v in states.items()}
        given = {**params, **values(read, states)}
        terms = log_density(model, args, kwargs, given, flats, bool(read.auxiliaries))
        constant = sum(jnp.sum(jnp.broadcast_to(f.offset, [1] * len(f.latents) + list(f.batch_shape)))
                       for f in machine.complete.factors if f.offset is not None)  # fmt: skip
        worst = max(worst, float(abs(sum(terms.values()) + constant - log_q - total)))
    if not worst <= tolerance:
        raise RuntimeError(
            f"The certificate failed: log p(x, z) - log q(z | x) differs from the log-likelihood {float(total):.6f} by "
            f"{worst:.3g}. This is a bug in autoem; please report the model."
        )
    return worst
