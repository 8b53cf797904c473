"""Standard errors from the observed information, and the run-time certificate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to

from ._derivation import Derivation, Machine
from ._draws import anew
from ._evidence import Drawn
from ._model import log_density
from ._posterior import joint_states, values
from ._types import Array, Params


class Free(eqx.Module):
    """Parameters on the real line, as one vector.

    Attributes:
        names: of the parameters.
        shapes: of their free coordinates.
        constraints: theirs.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    constraints: tuple[Any, ...]

    @property
    def size(self) -> int:
        """How many coordinates there are."""
        return sum(math.prod(shape) for shape in self.shapes)

    def flat(self, params: Params) -> Array:
        """The vector of some parameters."""
        free = [biject_to(c).inv(jnp.asarray(params[n])) for n, c in zip(self.names, self.constraints, strict=True)]
        return jnp.concatenate([jnp.reshape(f, (-1,)) for f in free])

    def constrained(self, vector: Array) -> Params:
        """The parameters of a vector."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        parts = zip(self.names, self.constraints, self.shapes, jnp.split(vector, ends), strict=True)
        return {n: biject_to(c)(jnp.reshape(part, shape)) for n, c, shape, part in parts}


def free_coordinates(derivation: Derivation) -> Free:
    """How the parameters of a model are put on the real line."""
    parameters = derivation.model.parameters
    constraints = tuple(p.constraint for p in parameters.values())
    shapes = [jax.eval_shape(biject_to(p.constraint).inv, p.initial).shape for p in parameters.values()]
    return Free(tuple(parameters), tuple(shapes), constraints)


@eqx.filter_jit
def _information(machine: Machine, flat: Array, free: Free) -> Any:
    hessian = jax.hessian(lambda v: machine.objective(free.constrained(v)))(flat)
    jacobian = jax.jacfwd(free.constrained)(flat)
    return -hessian, jacobian


@eqx.filter_jit
def louis_information(machine: Machine, params: Params, drawn: dict[str, Drawn], free: Free) -> Array:
    """Minus the Hessian of the objective in free coordinates, from draws at the parameters (Louis 1982): (p, p)."""
    slope = jax.grad(lambda v: machine.relative(free.constrained(v), params, drawn))
    flat = free.flat(params)
    rows = jax.lax.map(lambda seed: jax.jvp(slope, (flat,), (seed,))[1], jnp.eye(flat.size, dtype=flat.dtype))
    return -(rows + rows.T) / 2


def standard_errors(derivation: Derivation, params: Params) -> dict[str, Array]:
    """Square roots of the diagonal of J I⁻¹ J', I the observed information in free coordinates, J the Jacobian.

    Where latents are sampled I comes from draws, the same every time, by Louis' identity.

    Raises:
        Nothing; warns and returns NaN where I is not positive definite.
    """
    free, machine = free_coordinates(derivation), derivation.machine
    flat = free.flat(params)
    if machine.samplers:
        drawn = anew(machine, params, jax.random.key(0))
        information, jacobian = louis_information(machine, params, drawn, free), jax.jacfwd(free.constrained)(flat)
    else:
        information, jacobian = _information(machine, flat, free)
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
