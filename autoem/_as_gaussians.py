"""Distributions that are Gaussian under another name, as the Normal or MultivariateNormal that the families know.

Each is a function of the same value: a Gaussian random walk is one Normal a step, given the step before. So what else a
model says of the value, and what is reported of it, stays as it was written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular
from numpyro.distributions import constraints, transforms as maps

from ._links import is_concrete
from ._types import Array
from ._wrappers import element_shape, peel, wrapped


def as_gaussians(fn: Any, value: Any) -> Any:
    """The same density by Gaussian families; other distributions as they are.

    Args:
        fn: a distribution, wrappers included.
        value: that to which it is to be compared.
    """
    peeled = peel(fn)
    rule = _RULES.get(type(peeled.base))
    own = None if rule is None else rule(peeled.base, jnp.asarray(value))
    if own is None:
        return fn
    # What was one event may be several elements now: a walk's steps, the rows of a matrix.
    fresh = peeled.base.event_dim - own.event_dim
    mask = peeled.mask
    mask = mask if mask is None else jnp.reshape(mask, [*jnp.shape(mask), *([1] * fresh)])
    return wrapped(own, own.batch_shape, mask, peeled.hidden + fresh)


def outlined_as_gaussians(fn: Any, value: Any) -> Any:
    """The same of shapes and classes alone: the numbers may be of a trace that is over."""
    peeled = peel(fn)
    if type(peeled.base) not in _RULES:
        return fn
    mask = None if peeled.mask is None else jnp.ones(jnp.shape(peeled.mask), bool)
    shape = element_shape(fn, value)
    found: list[Any] = []

    def look() -> None:
        blank = jax.tree.map(lambda a: jnp.ones(jnp.shape(a)), peeled.base)
        found.append(as_gaussians(wrapped(blank, shape, mask, peeled.hidden), jnp.zeros(jnp.shape(value))))

    jax.eval_shape(look)
    return found[0]


def _walk(base: Any, value: Array) -> Any:
    """x_t ~ Normal(x_{t-1}, scale), x_{-1} = 0."""
    before = jnp.concatenate([jnp.zeros_like(value[..., :1]), value[..., :-1]], -1)
    return dist.Normal(before, jnp.expand_dims(base.scale, -1), validate_args=False)


def _state_space(base: Any, value: Array) -> Any:
    """x_t ~ MultivariateNormal(A x_{t-1}, noise)."""
    start = jnp.broadcast_to(base.initial_value, value[..., 0, :].shape)[..., None, :]
    before = jnp.concatenate([start, value[..., :-1, :]], -2) @ base.transition_matrix.T
    name, matrix = _matrix(peel(base.base_dist).base)
    # NumPyro repeats it for every step.
    return dist.MultivariateNormal(before, **{name: matrix[..., :1, :, :]}, validate_args=False)


def _autoregression(base: Any, value: Array) -> Any:
    """The Gaussian with the precision of a conditional autoregression."""
    return dist.MultivariateNormal(base.loc, precision_matrix=base.precision_matrix, validate_args=False)


def _low_rank(base: Any, value: Array) -> Any:
    """A factor of W W' + D that does not square what is small: D^½ chol(I + D^-½ W W' D^-½)."""
    return dist.MultivariateNormal(base.loc, scale_tril=base.scale_tril, validate_args=False)


def _matrix_normal(base: Any, value: Array) -> Any:
    """Row by row, given the rows before: of X = M + R E C' with standard normal E,
    x_i = m_i - r_ii Σ_{j<i} (R⁻¹)_ij (x_j - m_j) + r_ii C e_i.
    """
    rows, columns = jnp.asarray(base.scale_tril_row), jnp.asarray(base.scale_tril_column)
    eye = jnp.broadcast_to(jnp.eye(rows.shape[-1], dtype=rows.dtype), rows.shape)
    size = jnp.diagonal(rows, axis1=-2, axis2=-1)
    earlier = size[..., :, None] * jnp.tril(solve_triangular(rows, eye, lower=True), -1)
    loc = base.loc - earlier @ (value - base.loc)
    own = size[..., :, None, None] * columns[..., None, :, :]
    return dist.MultivariateNormal(loc, scale_tril=own, validate_args=False)


def _transformed(base: Any, value: Array) -> Any:
    """A Gaussian under affine maps, and exp of one number: a LogNormal."""
    inner = peel(base.base_dist)
    own = inner.base
    if inner.masks or type(own) not in (dist.Normal, dist.MultivariateNormal):
        return None
    steps = [part for t in base.transforms for part in (t.parts if type(t) is maps.ComposeTransform else [t])]
    log = bool(steps) and type(steps[-1]) is maps.ExpTransform and type(own) is dist.Normal
    for step in steps[: len(steps) - log]:
        own = _moved(own, step)
        if own is None or (log and type(own) is not dist.Normal):
            return None
    own = dist.LogNormal(own.loc, own.scale, validate_args=False) if log else own
    batch = (*base.batch_shape, *base.event_shape)[: len(base.shape()) - own.event_dim]
    return own if tuple(own.batch_shape) == tuple(batch) else own.expand(batch)


def _moved(own: Any, step: Any) -> Any:
    """A Normal or MultivariateNormal under one map; None if it is not affine, or not seen to be."""
    if type(step) is maps.IdentityTransform:
        return own
    real = (constraints.real, constraints.real_vector, constraints.real_matrix)
    if type(step) is maps.AffineTransform and step.domain in real:
        loc, scale = jnp.asarray(step.loc), jnp.asarray(step.scale)
        if type(own) is dist.Normal:
            # Of a negative scale the sign is lost; abs of what is known to be positive is taken out again.
            return dist.Normal(loc + scale * jnp.asarray(own.loc), jnp.abs(scale) * own.scale, validate_args=False)
        name, matrix = _matrix(own)
        scale = jnp.broadcast_to(scale, jnp.broadcast_shapes(scale.shape, own.event_shape))
        left, right = scale[..., :, None], scale[..., None, :]
        if name == "scale_tril":
            matrix = left * matrix * jnp.sign(right)
        else:
            matrix = matrix * left * right if name == "covariance_matrix" else matrix / (left * right)
        return dist.MultivariateNormal(loc + scale * own.loc, **{name: matrix}, validate_args=False)
    if type(step) is maps.LowerCholeskyAffine:
        return _rotated(own, jnp.asarray(step.loc), jnp.asarray(step.scale_tril))
    return None


def _rotated(own: Any, loc: Array, root: Array) -> Any:
    """The Gaussian of loc + root x."""
    mean: Any = own.loc
    if type(own) is dist.Normal:
        scale: Any = own.scale
        standard = is_concrete(scale) and np.all(np.equal(scale, 1))
        matrix = root if standard else root * (jnp.expand_dims(scale, -2) if jnp.ndim(scale) else scale)
        name = "scale_tril"
    else:
        name, matrix = _matrix(own)
        if name == "precision_matrix":
            return None
        matrix = root @ matrix if name == "scale_tril" else root @ matrix @ jnp.swapaxes(root, -1, -2)
    if not (is_concrete(mean) and np.all(np.equal(mean, 0))):
        mean = jnp.broadcast_to(mean, jnp.broadcast_shapes(jnp.shape(mean), root.shape[-1:]))
        loc = loc + jnp.squeeze(root @ mean[..., None], -1)
    return dist.MultivariateNormal(loc, **{name: matrix}, validate_args=False)


def _matrix(own: Any) -> tuple[str, Array]:
    """The matrix that a MultivariateNormal was given by, and its name."""
    name = next(n for n in ("covariance_matrix", "precision_matrix", "scale_tril") if n in own.__dict__)
    return name, getattr(own, name)


_RULES: dict[type, Callable[[Any, Array], Any]] = {
    dist.GaussianRandomWalk: _walk,
    dist.GaussianStateSpace: _state_space,
    dist.CAR: _autoregression,
    dist.LowRankMultivariateNormal: _low_rank,
    dist.MatrixNormal: _matrix_normal,
    dist.TransformedDistribution: _transformed,
}
