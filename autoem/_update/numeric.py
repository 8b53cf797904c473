"""Parameters without a closed form climb the very same inner product ⟨slots(θ), S⟩, in unconstrained space.

The statistics are held, so a step costs what the parameters cost, not what the data cost. Damped Newton where there
are few coordinates, L-BFGS (optax) where there are many; a step that would lower Q is not taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to

from .._complete import CompleteData
from .._types import Array, Params, StaticArray
from ._flags import BLIND, NOTHING, UNBOUNDED

NEWTON_LIMIT = 100
"""Most unconstrained coordinates for which the Hessian is formed."""

_LARGEST = 30.0
"""Bound on unconstrained coordinates of bounded or positive parameters: a mode at infinity is stopped there."""


class Numeric(eqx.Module):
    """Raises Q over some parameters jointly.

    Attributes:
        names: the parameters.
        constraints: their constraints, in order.
        coordinates: how many unconstrained coordinates they have together.
        steps: most steps per M-step.
        blocks: the block of Q's Hessian that each coordinate belongs to, parameters in alphabetical order; None: one.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    constraints: tuple[Any, ...]
    coordinates: int = eqx.field(static=True)
    steps: int = eqx.field(static=True, default=10)
    blocks: StaticArray | None = eqx.field(static=True, default=None)

    @property
    def method(self) -> str:
        """Whether Newton or a gradient method climbs."""
        return "newton" if self.coordinates <= NEWTON_LIMIT else "gradient"

    def __call__(self, complete: CompleteData, params: Params, statistics: Sequence[Any]) -> tuple[Params, dict]:
        """(parameters with these updated, flags by name)."""
        bijections = {n: biject_to(c) for n, c in zip(self.names, self.constraints, strict=True)}
        start = {n: bijections[n].inv(jnp.asarray(params[n])) for n in self.names}
        flat, unravel = ravel_pytree(start)
        finite = jnp.where(jnp.isfinite(flat), flat, jnp.sign(flat) * _LARGEST)

        def value(free: Params) -> Params:
            return {n: bijections[n](free[n]) for n in self.names}

        def objective(vector: Array) -> Array:
            return complete.objective({**params, **value(unravel(vector))}, statistics)

        if self.method == "newton":
            best, blind, _ = newton(objective, finite, self.steps, None if self.blocks is None else self.blocks.array)
        else:
            best, blind = lbfgs(objective, finite, self.steps)
        bound = jnp.concatenate([jnp.full(jnp.size(start[n]), not is_real(c)) for n, c in
                                 sorted(zip(self.names, self.constraints, strict=True))])  # fmt: skip
        outside = bound & (jnp.abs(best) >= _LARGEST)
        best = jnp.where(bound, jnp.clip(best, -_LARGEST, _LARGEST), best)
        free = unravel(best)
        where, blind = unravel(outside.astype(best.dtype)), unravel((blind & ~outside).astype(best.dtype))
        new = {n: v.astype(jnp.asarray(params[n]).dtype) for n, v in value(free).items()}
        flags = {n: jnp.where(jnp.any(where[n] > 0), UNBOUNDED, jnp.where(jnp.any(blind[n] > 0), BLIND, NOTHING))
                 for n in self.names}  # fmt: skip
        return {**params, **new}, flags


def is_real(constraint: Any) -> bool:
    """Whether a parameter may be any number."""
    base = getattr(constraint, "base_constraint", constraint)
    return type(base).__name__ in ("_Real", "_RealVector", "_RealMatrix")


def _noise(value: Array, curvature: Any = 0.0) -> Array:
    """What rounding may do to the gradient of a function of this size and curvature."""
    return 64 * jnp.finfo(value.dtype).eps * jnp.maximum(jnp.maximum(jnp.abs(value), curvature), 1.0)


def gradient_and_hessian(
    objective: Callable[[Array], Array], point: Array, blocks: np.ndarray | None = None
) -> tuple[Array, Array]:
    """Both, the Hessian from as many of its products with vectors as its largest block has coordinates.

    Coordinates of different blocks may share a vector: each sees its own (Curtis, Powell and Reid 1974).

    Args:
        objective: what is differentiated.
        point: where (n,).
        blocks: block of every coordinate (n,); None: one block.
    """
    return _expansion(objective, point, blocks)[1:]


def _expansion(
    objective: Callable[[Array], Array], point: Array, blocks: np.ndarray | None
) -> tuple[Array, Array, Array]:
    """The value, and what `gradient_and_hessian` returns."""
    blocks = np.zeros(point.size, int) if blocks is None else blocks
    rank = np.array([int(np.sum(blocks[:i] == b)) for i, b in enumerate(blocks)])
    seeds = (rank == np.arange(rank.max() + 1)[:, None]).astype(point.dtype)

    def slope(x: Array) -> tuple[Array, Array]:
        value, gradient = jax.value_and_grad(objective)(x)
        return gradient, value

    try:
        gradient, product, value = jax.linearize(slope, point, has_aux=True)
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        # A function with a backward rule of its own, as `odeint` has, is differentiated backwards twice.
        value, gradient = jax.value_and_grad(objective)(point)
        return value, gradient, jax.jacrev(jax.jacrev(objective))(point)
    rows = jax.vmap(product)(seeds)
    return value, gradient, jnp.where(blocks[:, None] == blocks, rows[rank].T, 0.0)


def _completed(hessian: Array, gradient: Array) -> Array:
    """A Hessian where second derivatives that are no numbers leave ascent by gradient, with the steepest curvature.

    With none at all a coordinate would look flat, go as far as it may, and keep every other from moving.
    """
    there = jnp.isfinite(hessian)
    hessian = jnp.where(there, hessian, 0.0)
    slope = jnp.where(jnp.isfinite(gradient), jnp.abs(gradient), 0.0)
    most = jnp.maximum(jnp.max(jnp.abs(hessian)), jnp.max(slope))
    return hessian - jnp.diag(jnp.where(jnp.all(there, 1), 0.0, most)).astype(hessian.dtype)


class Climbed(NamedTuple):
    """Where Newton's ascent ended.

    Attributes:
        point: the best point met.
        blind: which derivatives were not finite: along those nothing was moved.
        left: what the last step promised, at most; infinite unless the function was known to be concave there.
    """

    point: Array
    blind: Array
    left: Array


def newton(
    objective: Callable[[Array], Array], start: Array, steps: int, blocks: np.ndarray | None = None
) -> Climbed:  # fmt: skip
    """Newton ascent with the Hessian's eigenvalues made negative, and step halving.

    Ends after `steps` steps, when the predicted increase is below rounding of the objective, or where no step along the
    direction rises.
    """
    eps = jnp.finfo(start.dtype).eps

    def search(point: Array, value: Array, direction: Array) -> tuple[Array, Array]:
        def shrink(carry: Any) -> Any:
            size, _, _ = carry
            trial = point + size / 2 * direction
            return size / 2, trial, objective(trial)

        def rejected(carry: Any) -> Any:
            size, _, found = carry
            return ~(found >= value) & (size > 1e-10)

        # The full step comes first: nothing is evaluated yet.
        first = (jnp.full((), 2.0, start.dtype), point, jnp.full_like(value, jnp.nan))
        _, trial, found = jax.lax.while_loop(rejected, shrink, first)
        better = found >= value
        return jnp.where(better, trial, point), better

    def step(carry: Any) -> Any:
        i, point, *_ = carry
        value, gradient, hessian = _expansion(objective, point, blocks)
        known = jnp.all(jnp.isfinite(hessian))
        hessian = _completed(hessian, gradient)
        values, vectors = jnp.linalg.eigh(-(hessian + hessian.T) / 2)
        steepest = jnp.max(jnp.abs(values))
        size = jnp.maximum(jnp.abs(values), 1e-8 * jnp.maximum(steepest, 1e-8))
        slope = vectors.T @ jnp.where(jnp.isfinite(gradient), gradient, 0.0)
        # Rounding has a slope too, and would push along directions in which Q is flat.
        slope = jnp.where(jnp.abs(slope) > _noise(value, steepest), slope, 0.0)
        direction = vectors @ (slope / size)
        length = jnp.max(jnp.abs(direction))
        concave = known & (jnp.min(values) >= -1e-8 * steepest)
        left = jnp.where(concave, slope @ (slope / size) / 2, jnp.inf)
        direction = direction * jnp.minimum(1.0, 5.0 / jnp.maximum(length, 1e-30))
        gain = slope @ (vectors.T @ direction)
        point, better = search(point, value, direction)
        return i + 1, point, (gain > 10 * eps * jnp.abs(value)) & better, ~jnp.isfinite(gradient), left

    carry = (0, start, jnp.asarray(True), jnp.zeros(start.shape, bool), jnp.full((), jnp.inf, start.dtype))
    _, point, _, blind, left = jax.lax.while_loop(lambda c: (c[0] < steps) & c[2], step, carry)
    return Climbed(point, blind, left)


def lbfgs(objective: Callable[[Array], Array], start: Array, steps: int) -> tuple[Array, Array]:
    """L-BFGS ascent (optax, zoom line search): the best point met, never one below the start; and, as `newton` has it,
    which derivatives were not finite.
    """
    import optax  # here: few fits come to it, and it takes a tenth of the time of `import autoem`

    solver = optax.lbfgs()
    negative = lambda x: -objective(x)  # noqa: E731
    value_and_grad = optax.value_and_grad_from_state(negative)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        point, state = carry
        value, gradient = value_and_grad(point, state=state)
        updates, state = solver.update(gradient, state, point, value=value, grad=gradient, value_fn=negative)
        return (optax.apply_updates(point, updates), state), None

    (point, _), _ = jax.lax.scan(step, (start, solver.init(start)), None, length=steps)
    before, slope = jax.value_and_grad(objective)(start)
    risen = (objective(point) >= before) & (jnp.max(jnp.abs(slope)) > _noise(before))
    return jnp.where(risen, point, start), ~jnp.isfinite(slope)
