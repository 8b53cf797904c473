"""Weighted least squares: locations that are jointly affine in one or more parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._complete import CompleteData
from .._family import Flat
from .._types import Array, Params
from ._flags import NOTHING
from .closed_form import Occurrence


class LeastSquares(eqx.Module):
    """Maximises Σ linear · ℓ - ½ ℓ' precision ℓ over parameters in which every location ℓ is affine.

    The normal equations separate over the axes along which each element of the location meets its own slice of
    every parameter (components, outputs): there they are solved in one batch. The remaining coordinates are the
    columns of the Jacobian, found by as many forward derivatives.

    Attributes:
        names: the parameters.
        separable: per parameter, its axes over which the problem separates, in a common order.
        occurrences: everywhere they enter, once per entry.
        separable_axes: per occurrence, the aligned argument axes that go with `separable`.
        diagonal: the single parameter is only selected, elementwise: the normal matrix is diagonal.
        lower, upper: bounds of the support (diagonal problems only), or None.
        owners: per occurrence, the parameter whose own prior it is; "" for an argument.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    separable: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    occurrences: tuple[Occurrence, ...]
    separable_axes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    diagonal: bool = eqx.field(static=True)
    lower: Array | None
    upper: Array | None
    owners: tuple[str, ...] = eqx.field(static=True, default=())

    method = "closed form"

    def __call__(self, complete: CompleteData, params: Params, statistics: Sequence[Any]) -> tuple[Params, dict]:
        """(parameters with these updated, flags by name)."""
        step = self._diagonal if self.diagonal else self._joint
        new = step(complete, params, statistics)
        if any(o.nearby for o in self.occurrences):
            new = self._upwards(new, complete, params, statistics)
        return {**params, **new}, dict.fromkeys(self.names, jnp.asarray(NOTHING))

    def _upwards(self, new: Params, complete: CompleteData, params: Params, statistics: Sequence[Any]) -> Params:
        """The step, halved until Q does not fall (none where that does not help), or doubled as long as Q rises.

        Near a vertex of absolute deviations that is not the best one the steps are tiny, but point out of it.
        """
        old = {n: params[n] for n in self.names}
        before = complete.objective(params, statistics)

        def at(size: Array) -> Params:
            return jax.tree.map(lambda a, b: a + size.astype(b.dtype) * (b - a), old, new)

        def height(size: Array) -> Array:
            return complete.objective({**params, **at(size)}, statistics)

        def falls(carry: Any) -> Array:
            size, value = carry
            return ~(value >= before) & (size > 0)

        def halved(carry: Any) -> Any:
            size = jnp.where(carry[0] > 1e-3, carry[0] / 2, 0.0)
            return size, height(size)

        def rises(carry: Any) -> Array:
            size, value, next_value = carry
            return (next_value > value) & (size < 1e12) & (size >= 1)

        one = jnp.ones(())
        size, value = jax.lax.while_loop(falls, halved, (one, height(one)))
        start = size, value, height(2 * size)
        size, _, _ = jax.lax.while_loop(rises, lambda c: (2 * c[0], c[2], height(4 * c[0])), start)
        return at(size)

    def _diagonal(self, complete: CompleteData, params: Params, statistics: Sequence[Any]) -> Params:
        name = self.names[0]
        current = jnp.asarray(params[name])
        precision, linear = jnp.zeros(current.size), jnp.zeros(current.size)
        for o in self.occurrences:
            conditional = o.conditional(name, complete, params, statistics)
            if isinstance(conditional, Flat):
                continue
            c = o.coefficient(name, complete, params)
            precision = precision + o.pooled(conditional.precision * c**2, current)
            linear = linear + o.pooled(
                (conditional.linear - conditional.precision * o.offset(name, complete, params)) * c, current
            )
        solved = linear / jnp.where(precision > 0, precision, 1.0)
        value = jnp.reshape(jnp.where(precision > 0, solved, jnp.reshape(current, -1)), current.shape)
        value = value if self.lower is None else jnp.maximum(value, self.lower)
        value = value if self.upper is None else jnp.minimum(value, self.upper)
        return {name: value.astype(current.dtype)}

    def _joint(self, complete: CompleteData, params: Params, statistics: Sequence[Any]) -> Params:
        normal: Any = 0.0
        right: Any = 0.0
        for o, axes, owner in zip(self.occurrences, self.separable_axes, self.owners, strict=True):
            a, b = self._normal_equations(o, axes, owner, complete, params, statistics)
            normal, right = normal + a, right + b
        start = jnp.concatenate(
            [self._columns(params[n], s) for n, s in zip(self.names, self.separable, strict=True)], -1
        )
        residual = right - jnp.einsum("...ij,...j->...i", normal, start)
        return self._split(start + _step(normal, residual, start), params)

    def _columns(self, value: Array, axes: tuple[int, ...]) -> Array:
        """A parameter with its separable axes in front and all others in one."""
        value = jnp.moveaxis(jnp.asarray(value, jnp.result_type(float)), axes, range(len(axes)))
        return jnp.reshape(value, (*value.shape[: len(axes)], -1))

    def _split(self, columns: Array, params: Params) -> Params:
        out, offset = {}, 0
        for name, axes in zip(self.names, self.separable, strict=True):
            current = jnp.asarray(params[name])
            moved = [current.shape[a] for a in axes] + [n for a, n in enumerate(current.shape) if a not in axes]
            width = int(np.prod(moved[len(axes) :]))
            part = jnp.reshape(columns[..., offset : offset + width], moved)
            out[name] = jnp.moveaxis(part, range(len(axes)), axes).astype(current.dtype)
            offset += width
        return out

    def _normal_equations(
        self,
        o: Occurrence,
        axes: tuple[int, ...],
        owner: str,
        complete: CompleteData,
        params: Params,
        statistics: Sequence[Any],
    ) -> tuple[Array, Array]:
        """J' W J and J' (linear - W offset), both with the separable axes in front."""
        conditional = o.conditional(owner, complete, params, statistics)
        zero = {n: jnp.zeros_like(jnp.asarray(params[n])) for n in self.names}

        def location(values: Params) -> Array:
            if o.argument is None:
                return values[owner]
            return complete.arguments({**params, **values})[o.entry][o.argument]

        offset, derivative = jax.linearize(location, zero)
        jacobian = jax.vmap(derivative)(self._seeds(zero))
        ndim = conditional.ndim
        lead = jacobian.ndim - 1 - ndim
        weight, linear = conditional.precision, conditional.linear
        shape = jnp.broadcast_shapes(jnp.shape(linear)[: jnp.ndim(linear) - ndim], jacobian.shape[1 : 1 + lead])
        event = jacobian.shape[1 + lead :]
        weight = jnp.broadcast_to(weight, (*shape, *event, *event))
        offset = jnp.broadcast_to(offset, (*shape, *event))
        jacobian = jnp.broadcast_to(jacobian, (jacobian.shape[0], *shape, *event))
        linear = jnp.broadcast_to(linear, (*shape, *event))
        batch = list(range(lead))
        row, col, d, e = lead, lead + 1, lead + 2, lead + 3
        left, right = ([d], [e]) if ndim else ([], [])
        weighted = jnp.einsum(jacobian, [col, *batch, *right], weight, [*batch, *left, *right], [col, *batch, *left])
        kept = list(axes)
        normal = jnp.einsum(jacobian, [row, *batch, *left], weighted, [col, *batch, *left], [*kept, row, col])
        rest = linear - jnp.einsum(offset, [*batch, *right], weight, [*batch, *left, *right], [*batch, *left])
        return normal, jnp.einsum(jacobian, [row, *batch, *left], rest, [*batch, *left], [*kept, row])

    def _seeds(self, zero: Params) -> Params:
        """One tangent per column: ones along the separable axes, one coordinate of the rest."""
        widths = {}
        for name, axes in zip(self.names, self.separable, strict=True):
            shape = jnp.shape(zero[name])
            widths[name] = int(np.prod([n for a, n in enumerate(shape) if a not in axes]))
        total, offset, seeds = sum(widths.values()), 0, {}
        for name, axes in zip(self.names, self.separable, strict=True):
            value = zero[name]
            rest = [n for a, n in enumerate(value.shape) if a not in axes]
            eye = np.zeros((total, widths[name]))
            eye[offset : offset + widths[name]] = np.eye(widths[name])
            offset += widths[name]
            seed = jnp.reshape(jnp.asarray(eye, value.dtype), (total, *([1] * len(axes)), *rest))
            seed = jnp.broadcast_to(seed, (total, *(value.shape[a] for a in axes), *rest))
            seeds[name] = jnp.moveaxis(seed, range(1, 1 + len(axes)), [1 + a for a in axes])
        return seeds


_REFINEMENTS = 3


def _step(normal: Array, residual: Array, start: Array) -> Array:
    """Δ of `normal` Δ = `residual`, zero in directions that the data leave free.

    A ridge on Δ does not move the fixed point. It is applied where all columns have length one, wide enough that
    rounding does not push along free directions, and what it took from the others is given back by refinement. Where
    Δ would gain less than rounding there is nothing left to do: rounding of the residual gains the more, the flatter
    the direction of Δ is.
    """
    eps, tiny = float(jnp.finfo(normal.dtype).eps), float(jnp.finfo(normal.dtype).tiny)
    length = jnp.sqrt(jnp.maximum(jnp.diagonal(normal, axis1=-2, axis2=-1), 0.0))
    length = jnp.where(length > 0, length, 1.0)
    scaled = normal / length[..., :, None] / length[..., None, :]
    target = residual / length
    eye = jnp.eye(normal.shape[-1], dtype=normal.dtype)
    root = jnp.linalg.cholesky(scaled + eps**0.6 * eye)
    half = jax.scipy.linalg.solve_triangular(root, jnp.broadcast_to(eye, root.shape), lower=True)
    inverse = jnp.einsum("...ki,...kj->...ij", half, half)
    delta = jnp.einsum("...ij,...j->...i", inverse, target)
    for _ in range(_REFINEMENTS):
        left = target - jnp.einsum("...ij,...j->...i", scaled, delta)
        delta = delta + jnp.einsum("...ij,...j->...i", inverse, left)
    size = jnp.sum((start * length) ** 2, -1) + jnp.sum(delta**2, -1)
    curvature = jnp.einsum("...i,...ij,...j->...", delta, scaled, delta) / jnp.maximum(jnp.sum(delta**2, -1), tiny)
    rounding = eps**1.85 * size / jnp.maximum(curvature, eps**0.6)
    moves = jnp.isfinite(delta) & (jnp.sum(delta * target, -1) > rounding)[..., None]
    return jnp.where(moves, delta / length, 0.0)
