"""Standard errors from the observed information, and the run-time certificate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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
from ._update import gradient_and_hessian, is_real

_LEAK = 1e-4
"""Share of a function's derivative that may lie along what is flat: eigenvectors have about so many digits."""

_RIDGE = 0.4
"""Power of the floats' precision: of an information with a unit diagonal, eigenvalues above it are no slope's."""

_FAR = 6.0
"""Distance from the origin of free coordinates beyond which one may be on the boundary."""


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
    gradient, hessian = gradient_and_hessian(lambda v: machine.objective(free.constrained(v)), flat)
    jacobian = jax.jacfwd(free.constrained)(flat)
    return -hessian, jacobian, gradient


def _moved_by_rounding(flat: Array, seed: int) -> Array:
    """The same point but for last digits."""
    signs = np.where(np.random.default_rng(seed).random(flat.shape) < 0.5, -1.0, 1.0)
    return flat + np.asarray(4 * jnp.finfo(flat.dtype).eps * signs, flat.dtype) * jnp.maximum(jnp.abs(flat), 1.0)


@eqx.filter_jit
def louis_information(machine: Machine, params: Params, drawn: dict[str, Drawn], free: Free) -> Array:
    """Minus the Hessian of the objective in free coordinates, from draws at the parameters (Louis 1982): (p, p)."""
    slope = jax.grad(lambda v: machine.relative(free.constrained(v), params, drawn))
    flat = free.flat(params)
    rows = jax.lax.map(lambda seed: jax.jvp(slope, (flat,), (seed,))[1], jnp.eye(flat.size, dtype=flat.dtype))
    return -(rows + rows.T) / 2


def _on_boundary(information: np.ndarray, flat: np.ndarray, free: Free) -> np.ndarray:
    """Which free coordinates of bounded parameters are so far out that nothing depends on them any more: (p,)."""
    bounded = [
        np.full(math.prod(shape), not is_real(c)) for shape, c in zip(free.shapes, free.constraints, strict=True)
    ]
    size = np.abs(np.diagonal(information))
    idle = ~np.isfinite(size) | (size <= 1e-7 * np.max(size, initial=0.0, where=np.isfinite(size)))
    return np.concatenate(bounded) & (np.abs(flat) > _FAR) & idle


class _Inverse(NamedTuple):
    """Of an information matrix: its inverse where it says something, and unit vectors (p, flat) where it does not, both
    in coordinates that are divided by `size` (p,).
    """

    covariance: np.ndarray
    flat: np.ndarray
    size: np.ndarray

    def variances(self, rows: np.ndarray) -> np.ndarray:
        """Of functions with these derivatives (n, p): NaN where they vary along what is flat."""
        rows = rows / self.size
        own = np.linalg.norm(rows, axis=1)
        lost = np.linalg.norm(rows @ self.flat, axis=1) > _LEAK * own
        return np.where(lost, np.nan, np.einsum("ij,jk,ik->i", rows, self.covariance, rows))


def _inverse(information: np.ndarray, noise: np.ndarray, gradient: np.ndarray, point: np.ndarray) -> _Inverse:
    """The inverse of an information matrix; NaN, with a warning, where it is not positive definite.

    Args:
        information: (p, p).
        noise: (p, p) what rounding changes in it.
        gradient: (p,) the objective's slope: along a curved ridge its curvature is of that size.
        point: (p,) where that is: ridges are curved on the scale of its coordinates, or of 1.
    """
    there = np.nan_to_num(information)
    size = np.sqrt(np.abs(np.diagonal(there)))
    size = np.where(size > 0, size, 1.0)
    eps = float(np.finfo(there.dtype).eps)
    values_, vectors = np.linalg.eigh(there / np.outer(size, size))
    least = 10 * (np.linalg.norm(noise / np.outer(size, size)) + eps * len(size))
    # A ridge is curved: it leaves the straight line by the square of a step, and what is left of a slope is curvature.
    scale = np.maximum(np.abs(point), 1.0)
    slope = 2 * np.linalg.norm(gradient * scale) * np.sum((vectors / (size * scale)[:, None]) ** 2, 0)
    least = np.maximum(least, np.minimum(slope, eps**_RIDGE))
    blank = np.zeros((len(size), 0))
    if not np.all(np.isfinite(information)) or values_[0] < -least[0]:
        warnings.warn(
            f"The observed information is not positive definite (smallest eigenvalue {values_[0]:.3g}): the objective "
            "is at a saddle or a minimum in some direction there, or on a boundary. Its standard errors are NaN.",
            stacklevel=4,
        )
        return _Inverse(np.full_like(there, np.nan), blank, size)
    flat = values_ <= least
    kept = vectors[:, ~flat]
    return _Inverse((kept / values_[~flat]) @ kept.T, vectors[:, flat], size)


def standard_errors(derivation: Derivation, params: Params) -> dict[str, Array]:
    """Square roots of the diagonal of J I⁻¹ J', I the observed information in free coordinates, J the Jacobian.

    Where latents are sampled I comes from draws, the same every time, by Louis' identity.

    Raises:
        Nothing; warns and returns NaN where I is not positive definite. What is on the boundary of its range (a
        variance of zero, a probability of 0 or 1) is held there, gets NaN, and the others are given that.
        Where I is flat in some direction, to rounding, what varies along it gets NaN: the data do not identify it.
    """
    free, machine = free_coordinates(derivation), derivation.machine
    flat = free.flat(params)
    if machine.samplers:
        drawn = anew(machine, params, jax.random.key(0))
        information, jacobian = louis_information(machine, params, drawn, free), jax.jacfwd(free.constrained)(flat)
        information = np.asarray(information)
        gradient, noise = np.zeros(len(information)), np.zeros_like(information)
    else:
        information, jacobian, gradient = jax.tree.map(np.asarray, _information(machine, flat, free))
        again = [_information(machine, _moved_by_rounding(flat, seed), free)[0] for seed in range(2)]
        noise = np.max(np.abs(np.asarray(again) - information), 0)
    information = (information + information.T) / 2
    held = _on_boundary(information, np.asarray(flat), free)
    both = np.ix_(~held, ~held)
    inverse = _inverse(information[both], np.nan_to_num(noise[both]), gradient[~held], np.asarray(flat)[~held])
    result, ends, loose = {}, [], []
    starts = np.cumsum([0, *(math.prod(shape) for shape in free.shapes)])
    for name, start, stop in zip(free.names, starts, starts[1:], strict=False):
        rows = np.reshape(np.asarray(jacobian[name]), (-1, len(held)))[:, ~held]
        variance = inverse.variances(rows)
        loose += [name] * bool(inverse.flat.size and np.any(np.isnan(variance)))
        lost = (variance < 1e-24) & np.any(held[start:stop])
        ends += [name] * bool(np.any(lost))
        result[name] = jnp.asarray(np.where(lost, np.nan, np.sqrt(variance)).reshape(jnp.shape(params[name])))
    if loose:
        names = ", ".join(map(repr, loose))
        warnings.warn(f"The objective is flat where {names} change together: the data do not tell them apart. Elements "
                      "that are not identified have the standard error NaN.", stacklevel=3)  # fmt: skip
    if ends:
        names = ", ".join(map(repr, ends))
        warnings.warn(f"Elements of {names} are on the boundary of their range and are held there: their standard "
                      "errors are NaN, those of all others are given that.", stacklevel=3)  # fmt: skip
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
    flats = [*(n for n, p in read.parameters.items() if p.is_site), *read.unused]

    def differences(params: Params, keys: Array) -> tuple[Array, Array]:
        total = machine.log_likelihood(params)

        def difference(key: Array) -> Array:
            states, log_q = joint_states(derivation, params, key)
            # An element that no density holds is NaN: any number will do.
            states = {n: jnp.nan_to_num(v) if n in read.gaussians else v for n, v in states.items()}
            given = {**params, **values(read, states)}
            terms = log_density(model, args, kwargs, given, flats, bool(read.auxiliaries))
            constant = sum(jnp.sum(jnp.broadcast_to(f.offset, [1] * len(f.latents) + list(f.batch_shape)))
                           for f in machine.complete.factors if f.offset is not None)  # fmt: skip
            return jnp.abs(sum(terms.values()) + constant - log_q - total)

        return total, jax.lax.map(difference, keys)

    # It runs once: the compiler had better hurry.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    keys = jax.random.split(jax.random.key(0), draws)
    total, found = jax.jit(differences, compiler_options=options)(params, keys)
    worst = float(jnp.max(found))
    tolerance = 1e5 * jnp.finfo(jnp.result_type(float)).eps * (1 + abs(float(total)))
    if not worst <= tolerance:
        raise RuntimeError(
            f"The certificate failed: log p(x, z) - log q(z | x) differs from the log-likelihood {float(total):.6f} by "
            f"{worst:.3g}. This is a bug in autoem; please report the model."
        )
    return worst
