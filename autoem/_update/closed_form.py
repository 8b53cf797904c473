"""Closed-form M-steps: the mode of a sum of conditionals, pooled over all that shares an element of the parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._complete import CompleteData
from .._family import (
    AbsoluteDeviation,
    AbstractWeighted,
    Circular,
    Flat,
    InverseMatrix,
    LogOdds,
    LogPower,
    LogSimplex,
    nearby,
    symmetrise,
)
from .._types import Array, Params
from ._flags import FLOORED, NOTHING, UNBOUNDED
from .hidden_counts import HiddenCounts

_SMALLEST = 1e-10
"""Where a probability, or a positive parameter without a scale of its own, whose mode is on the boundary is stopped."""


class Occurrence(eqx.Module):
    """One place where a parameter enters a factor or a prior.

    Attributes:
        entry: position of the factor or prior.
        argument: which argument depends on the parameter, or None where the parameter is the entry's value.
        power: the argument is c · u^power.
        event_ndim: event axes of the argument (1 for probability vectors, 2 for matrices).
        diagonal: the matrix argument is diagonal, c · u^power on the diagonal and zero elsewhere.
        index: flat element of the parameter (of its leading axes, where it has event axes) per aligned
            argument element; -1 for none. Compact.
        floor: smallest value of the argument that is allowed, or None.
        nearby: absolute deviations are replaced by squares about the current location.
        each: `index` runs through the elements of the parameter, each once and in order.
    """

    entry: int = eqx.field(static=True)
    argument: str | None = eqx.field(static=True)
    power: float = eqx.field(static=True)
    event_ndim: int = eqx.field(static=True)
    diagonal: bool = eqx.field(static=True)
    index: Array | None
    floor: Array | None
    nearby: bool = eqx.field(static=True, default=False)
    each: bool = eqx.field(static=True, default=False)

    def conditional(self, name: str, complete: CompleteData, params: Params, statistics: Sequence[Any]) -> Any:
        """The conditional of the argument (or value) at the current parameters."""
        found = self._exact(complete, params, statistics)
        if not self.nearby:
            return found
        return nearby(found, complete.arguments(params)[self.entry][str(self.argument)])

    def _exact(self, complete: CompleteData, params: Params, statistics: Sequence[Any]) -> Any:
        arguments = complete.arguments(params)[self.entry]
        if self.argument is None:
            prior = complete.priors[self.entry - len(complete.factors)]
            assert prior.family is not None
            found = prior.family.value_conditional(arguments)
            if prior.weight is not None and found is not None:
                found = jax.tree.map(lambda a: a * prior.weight, found)
            return found
        if self.entry < len(complete.factors):
            factor = complete.factors[self.entry]
            if not factor.canonical:
                assert isinstance(factor.family, AbstractWeighted) and factor.value is not None
                weights = statistics[self.entry][..., 0]
                return factor.family.weighted_conditional(self.argument, factor.value, weights, arguments)
            family, constants, stats = factor.family, factor.constants, statistics[self.entry]
        else:
            prior = complete.priors[self.entry - len(complete.factors)]
            family, constants = prior.family, arguments
            assert family is not None
            stats = family.statistics(params[prior.site], {n: arguments[n] for n in family.constants})
            stats = stats if prior.weight is None else stats * prior.weight[..., None]
        assert family is not None
        return family.argument_conditional(self.argument, stats, arguments, constants)

    def coefficient(self, name: str, complete: CompleteData, params: Params) -> Array:
        """c in argument = c · u^power: the argument at u = 1."""
        if self.argument is None:
            return jnp.ones(())
        ones = {**params, name: jnp.ones_like(params[name])}
        return complete.arguments(ones)[self.entry][self.argument]

    def offset(self, name: str, complete: CompleteData, params: Params) -> Array:
        """What the argument is at u = 0."""
        if self.argument is None:
            return jnp.zeros(())
        zeros = {**params, name: jnp.zeros_like(params[name])}
        return complete.arguments(zeros)[self.entry][self.argument]

    def pooled(self, array: Array, like: Array, ndim: int = 0) -> Array:
        """Sum an aligned array (batch..., `ndim` event axes) into the elements of the parameter: (size, event...)."""
        size = like.size // math.prod(like.shape[like.ndim - ndim :])
        if self.index is None:
            return jnp.reshape(jnp.broadcast_to(array, like.shape), (size, *like.shape[like.ndim - ndim :]))
        index = self.index
        lead = jnp.ndim(array) - ndim
        event = jnp.shape(array)[lead:]
        shape = jnp.broadcast_shapes(jnp.shape(array)[:lead], index.shape)
        # Sum first what the index does not distinguish: usually nothing is left to scatter.
        array = jnp.broadcast_to(array, (*shape, *event))
        free = tuple(a for a in range(lead) if index.shape[a] == 1 and shape[a] > 1)
        array = jnp.sum(array, free, keepdims=True)
        if self.each:
            return jnp.reshape(array, (size, *event))
        flat = jnp.broadcast_to(index, array.shape[:lead]).reshape(-1)
        target = jnp.zeros((size + 1, *event), array.dtype)
        return target.at[jnp.where(flat < 0, size, flat)].add(jnp.reshape(array, (-1, *event)))[:size]


class ClosedForm(eqx.Module):
    """Sets one parameter to the mode of the sum of its conditionals.

    Attributes:
        name: the parameter.
        kind: which conditional: "power", "simplex", "odds", "matrix", "median" or "circular".
        logits: the parameter is the logit of the probability that has the closed form.
        form: for matrices, which matrix the parameter is.
        occurrences: everywhere it enters.
        lower, upper: bounds of its support, or None.
    """

    name: str = eqx.field(static=True)
    kind: str = eqx.field(static=True)
    logits: bool = eqx.field(static=True)
    form: str = eqx.field(static=True)
    occurrences: tuple[Occurrence | HiddenCounts, ...]
    lower: Array | None
    upper: Array | None

    method = "closed form"

    def __call__(self, complete: CompleteData, params: Params, statistics: Sequence[Any]) -> tuple[Params, dict]:
        """(parameters with this one updated, flag by name)."""
        current = jnp.asarray(params[self.name])
        found = [(o, o.conditional(self.name, complete, params, statistics)) for o in self.occurrences]
        found = [(o, c) for o, c in found if not isinstance(c, Flat)]
        if self.kind == "power":
            value, flag = self._power(found, complete, params, current)
        elif self.kind == "simplex":
            value, flag = self._simplex(found, current)
        elif self.kind == "odds":
            value, flag = self._odds(found, current)
        elif self.kind == "median":
            value, flag = self._median(found, current)
        elif self.kind == "matrix":
            value, flag = self._matrix(found, current)
        else:
            value, flag = self._circular(found, current)
        return {**params, self.name: value.astype(current.dtype)}, {self.name: flag}

    def _power(self, found: Any, complete: CompleteData, params: Params, current: Array) -> tuple[Array, Array]:
        """Mode of a log u + Σ_p b_p u^p with exponents e and possibly -e: a root of a quadratic in u^e."""
        size, exponents = current.size, {}
        log, floor, ceiling = jnp.zeros(size), jnp.full(size, _SMALLEST), jnp.full(size, 1 / _SMALLEST**2)
        for occurrence, conditional in found:
            c = jnp.abs(occurrence.coefficient(self.name, complete, params))
            conditional, c = _on_diagonal(conditional, c)
            log = log + occurrence.pooled(conditional.log * occurrence.power, current)
            exponent = round(conditional.exponent * occurrence.power, 12)
            term = occurrence.pooled(conditional.power * c**conditional.exponent, current)
            exponents[exponent] = exponents.get(exponent, 0.0) + term
            if occurrence.floor is not None:
                bound = (occurrence.floor / jnp.min(jnp.where(c > 0, c, jnp.inf))) ** (1 / occurrence.power)
                if occurrence.power > 0:
                    floor = jnp.maximum(floor, bound)
                else:
                    ceiling = jnp.minimum(ceiling, bound)
        e = max(exponents, key=lambda e: (exponents.keys() >= {e, -e}, abs(e), e))
        # A square is not negative: what rounding left of a residual that vanishes is zero.
        b, reverse = (jnp.abs(jnp.minimum(exponents.get(p, 0.0), 0.0)) for p in (e, -e))
        old = jnp.reshape(current, -1)
        if -e in exponents:
            value, idle = _root(log, b, reverse, e)
        else:
            value, idle = jnp.maximum(log / e / b, 0.0) ** (1 / e), (log == 0) & (b == 0)
        value = jnp.where(idle | jnp.isnan(value), old, value)
        floored = jnp.any((value <= floor) | (value >= ceiling))
        value = jnp.minimum(jnp.maximum(value, floor), ceiling)
        value = _clipped(jnp.reshape(value, current.shape), self.lower, self.upper)
        return value, jnp.where(floored, FLOORED, NOTHING)

    def _simplex(self, found: Any, current: Array) -> tuple[Array, Array]:
        """counts / Σ counts; a negative pseudo-count puts the mode on the boundary."""
        width = current.shape[-1]
        size = current.size // width
        counts = sum(o.pooled(c.counts, current, 1) for o, c in found)
        outside = jnp.any(counts < 0)
        counts = jnp.maximum(counts, 0.0)
        total = jnp.sum(counts, -1, keepdims=True)
        old = jnp.reshape(current, (size, width))
        probs = counts / jnp.where(total > 0, total, 1.0)
        probs = jnp.where(outside & (probs < _SMALLEST), _SMALLEST, probs)
        probs = probs / jnp.sum(probs, -1, keepdims=True)
        value = jnp.log(jnp.maximum(probs, jnp.finfo(probs.dtype).tiny)) if self.logits else probs
        value = jnp.where(total > 0, value, old)
        return jnp.reshape(value, current.shape), jnp.where(outside, UNBOUNDED, NOTHING)

    def _odds(self, found: Any, current: Array) -> tuple[Array, Array]:
        """a / (a + b)."""
        a = sum(o.pooled(c.successes, current) for o, c in found)
        b = sum(o.pooled(c.failures, current) for o, c in found)
        outside = jnp.any((a < 0) | (b < 0))
        a, b = jnp.maximum(a, 0.0), jnp.maximum(b, 0.0)
        total = a + b
        p = a / jnp.where(total > 0, total, 1.0)
        p = jnp.where(outside, jnp.clip(p, _SMALLEST, 1 - _SMALLEST), p)
        if self.logits:
            tiny = jnp.finfo(p.dtype).tiny
            p = jnp.log(jnp.maximum(a, tiny)) - jnp.log(jnp.maximum(b, tiny))
        value = jnp.where(total > 0, p, jnp.reshape(current, -1))
        return _clipped(jnp.reshape(value, current.shape), self.lower, self.upper), jnp.where(
            outside, UNBOUNDED, NOTHING
        )

    def _matrix(self, found: Any, current: Array) -> tuple[Array, Array]:
        """scatter / count, its inverse or its Cholesky factor; eigenvalues are kept off zero."""
        dim = current.shape[-1]
        size = current.size // dim**2
        count: Any = sum(o.pooled(c.count, current[..., 0, 0]) for o, c in found)
        scatter = symmetrise(sum(o.pooled(c.scatter, current, 2) for o, c in found))
        spread = next((o.floor for o, _ in found if o.floor is not None), jnp.ones(dim) * _SMALLEST)
        covariance = scatter / jnp.where(count > 0, count, 1.0)[:, None, None]
        covariance, floored = floored_covariance(covariance, jnp.broadcast_to(spread, (dim,)))
        if self.form == "precision":
            value = symmetrise(jnp.linalg.inv(covariance))
        else:
            value = covariance if self.form == "covariance" else jnp.linalg.cholesky(covariance)
        value = jnp.where((count > 0)[:, None, None], value, jnp.reshape(current, (size, dim, dim)))
        return jnp.reshape(value, current.shape), jnp.where(jnp.any(floored & (count > 0)), FLOORED, NOTHING)

    def _median(self, found: Any, current: Array) -> tuple[Array, Array]:
        """The weighted median of the data that meet each element, or another quantile where they are tilted."""
        ((occurrence, conditional),) = found
        shape = jnp.broadcast_shapes(conditional.weights.shape, occurrence.index.shape)
        index = jnp.broadcast_to(occurrence.index, shape).reshape(-1)
        given = (conditional.points, conditional.weights, conditional.tilt)
        points, weights, tilt = (jnp.broadcast_to(a, shape).reshape(-1) for a in given)
        index = jnp.where(index < 0, current.size, index)
        order = jnp.lexsort((points, index))
        index, points, weights, tilt = index[order], points[order], weights[order], tilt[order]
        total, half = (jnp.zeros(current.size + 1).at[index].add(w) for w in (weights, (weights + tilt) / 2))
        before = jnp.cumsum(total) - total
        enough = jnp.cumsum(weights) - before[index] >= half[index]
        median = jnp.full(current.size + 1, jnp.inf).at[index].min(jnp.where(enough, points, jnp.inf))
        value = jnp.where((total > 0) & jnp.isfinite(median), median, jnp.append(jnp.reshape(current, -1), 0.0))
        value = jnp.reshape(value[: current.size], current.shape)
        return _clipped(value, self.lower, self.upper), jnp.asarray(NOTHING)

    def _circular(self, found: Any, current: Array) -> tuple[Array, Array]:
        """The direction of the resultant."""
        cosine = sum(o.pooled(c.cosine, current) for o, c in found)
        sine = sum(o.pooled(c.sine, current) for o, c in found)
        empty = (cosine == 0) & (sine == 0)
        value = jnp.where(empty, jnp.reshape(current, -1), jnp.arctan2(sine, cosine))
        return jnp.reshape(value, current.shape), jnp.asarray(NOTHING)


def _root(log: Array, b: Array, reverse: Array, e: float) -> tuple[Array, Array]:
    """Mode u of log · log u - b u^e - reverse u^-e for e > 0 and b, reverse ≥ 0; and where nothing depends on u.

    d/dlog u: log - e b w + e reverse / w = 0 with w = u^e. Of the two forms of the root, the one without cancellation.
    """
    root = jnp.sqrt(log**2 + 4 * e**2 * b * reverse)
    w = jnp.where(log > 0, (log + root) / (2 * e * b), 2 * e * reverse / (root - log))
    # Without the other two, one term alone has its mode at an end.
    w = jnp.where((log == 0) & (root == 0), jnp.where(b > 0, 0.0, jnp.inf), w)
    return w ** (1 / e), (log == 0) & (b == 0) & (reverse == 0)


def _on_diagonal(conditional: Any, c: Array) -> tuple[LogPower, Array]:
    """A matrix conditional of a diagonal matrix is one scalar conditional per diagonal element."""
    if not isinstance(conditional, InverseMatrix):
        return conditional, c
    exponent = {"covariance": -1.0, "precision": 1.0, "cholesky": -2.0}[conditional.form]
    log = {"covariance": -0.5, "precision": 0.5, "cholesky": -1.0}[conditional.form]
    diagonal = jnp.diagonal(conditional.scatter, axis1=-2, axis2=-1)
    count = jnp.broadcast_to(conditional.count[..., None], diagonal.shape)
    return LogPower(log * count, -diagonal / 2, exponent), jnp.diagonal(c, axis1=-2, axis2=-1)


def _clipped(value: Array, lower: Array | None, upper: Array | None) -> Array:
    """The mode of a unimodal conditional on an interval: the nearest point of the interval."""
    value = value if lower is None else jnp.maximum(value, lower)
    return value if upper is None else jnp.minimum(value, upper)


def floored_covariance(covariance: Array, floor: Array) -> tuple[Array, Array]:
    """Keep (size, D, D) covariances positive definite.

    Args:
        covariance: symmetric matrices.
        floor: (D,) smallest standard deviation of each coordinate.

    Returns:
        The matrices, with the eigenvalues of Σ_ij / (f_i f_j) not below 1, and which ones were changed.
    """
    scaled = covariance / (floor[:, None] * floor)
    root = jnp.linalg.cholesky(scaled)
    pivot = jnp.min(jnp.diagonal(root, axis1=-2, axis2=-1), -1)
    bad = ~(pivot >= 1.0)

    def repair(matrix: Array) -> Array:
        values, vectors = jnp.linalg.eigh(matrix)
        values = jnp.maximum(values, 1.0)
        return (vectors * values[..., None, :]) @ jnp.swapaxes(vectors, -1, -2)

    fixed = jax.lax.cond(jnp.any(bad), repair, lambda m: m, scaled)
    fixed = jnp.where(bad[:, None, None], fixed * (floor[:, None] * floor), covariance)
    return fixed, bad


KINDS: dict[type, str] = {
    LogPower: "power",
    LogSimplex: "simplex",
    LogOdds: "odds",
    InverseMatrix: "matrix",
    Circular: "circular",
    AbsoluteDeviation: "median",
}
"""Which update serves which conditional."""
