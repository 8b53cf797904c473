"""MultivariateNormal, whichever of its three matrix arguments was given: T(x) = (1, x, upper half of xx'), centred."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import Conditional, InverseMatrix, Quadratic

_FORMS = {"covariance_matrix": "covariance", "precision_matrix": "precision", "scale_tril": "cholesky"}


class MultivariateNormal(AbstractFamily):
    """-½ D log 2π - ½ log|Σ| - ½ (x - μ)' Σ⁻¹ (x - μ); the half xx' needs half the arithmetic of the whole."""

    matrix: str = eqx.field(static=True, default="covariance_matrix")

    value_ndim: ClassVar[int] = 1
    constants: ClassVar[tuple[str, ...]] = ()
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return "multivariate normal"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """A vector and a matrix."""
        return {"loc": 1, self.matrix: 2}

    @staticmethod
    def match(fn: Any) -> MultivariateNormal | None:
        """dist.MultivariateNormal, by the matrix it was built with."""
        if type(fn) is not dist.MultivariateNormal:
            return None
        given = next(name for name in _FORMS if name in fn.__dict__)
        return MultivariateNormal(given)

    def centre(self, value: Array) -> Array:
        """The value itself."""
        return value

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(1, y, upper half of yy') with y = x - c."""
        y = value - constants.get("shift", 0.0)
        row, column = np.triu_indices(y.shape[-1])
        one = jnp.ones_like(y[..., :1])
        return jnp.concatenate([one, y, y[..., row] * y[..., column]], -1)

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """-½ D log 2π."""
        shape = jnp.shape(value)
        return jnp.full(shape[:-1], -0.5 * shape[-1] * jnp.log(2 * jnp.pi))

    def factor(self, arguments: Arrays) -> tuple[jax.Array, jax.Array]:
        """Σ⁻¹ and log|Σ|."""
        if self.matrix == "precision_matrix":
            matrix = jnp.asarray(arguments[self.matrix])
            return matrix, -_log_det(jnp.linalg.cholesky(matrix))
        whitening, log_det = self.whitening(arguments)
        return jnp.swapaxes(whitening, -1, -2) @ whitening, log_det

    def whitening(self, arguments: Arrays) -> tuple[jax.Array, jax.Array]:
        """W with W'W = Σ⁻¹, which has the digits that Σ⁻¹ loses where Σ is nearly singular, and log|Σ|."""
        matrix = jnp.asarray(arguments[self.matrix])
        root = matrix if self.matrix == "scale_tril" else jnp.linalg.cholesky(matrix)
        if self.matrix == "precision_matrix":
            return jnp.swapaxes(root, -1, -2), -_log_det(root)
        eye = jnp.broadcast_to(jnp.eye(root.shape[-1], dtype=root.dtype), root.shape)
        return jax.scipy.linalg.solve_triangular(root, eye, lower=True), _log_det(root)

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(-½ log|Σ| - ½ m'Σ⁻¹m, Σ⁻¹m, -½ Σ⁻¹ with doubled off-diagonal) with m = μ - c."""
        precision, log_det = self.factor(arguments)
        loc = arguments["loc"] - constants.get("shift", 0.0)
        linear = jnp.einsum("...ij,...j->...i", precision, loc)
        constant = -(log_det + jnp.sum(loc * linear, -1)) / 2
        dim = precision.shape[-1]
        row, column = np.triu_indices(dim)
        weight = np.where(row == column, -0.5, -1.0)
        quadratic = precision[..., row, column] * weight
        batch = jnp.broadcast_shapes(constant.shape, quadratic.shape[:-1])
        return jnp.concatenate(
            [
                jnp.broadcast_to(constant[..., None], (*batch, 1)),
                jnp.broadcast_to(linear, (*batch, dim)),
                jnp.broadcast_to(quadratic, (*batch, row.size)),
            ],
            -1,
        )

    def moments(self, statistics: Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Count (...), Σy (..., D) and Σyy' (..., D, D) from stacked statistics."""
        features = statistics.shape[-1]
        dim = int((np.sqrt(8 * features + 1) - 3) / 2)
        row, column = np.triu_indices(dim)
        position = np.zeros((dim, dim), int)
        position[row, column] = position[column, row] = np.arange(row.size)
        return statistics[..., 0], statistics[..., 1 : dim + 1], statistics[..., dim + 1 :][..., position]

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """loc: {u, uu'}; the matrix: {log|Σ|, Σ⁻¹}."""
        count, first, second = self.moments(statistics)
        shift = jnp.asarray(constants.get("shift", 0.0))
        if name == "loc":
            precision, _ = self.factor(arguments)
            total = first + count[..., None] * shift
            linear = jnp.einsum("...ij,...j->...i", precision, total)
            return Quadratic(count[..., None, None] * precision, linear, ndim=1)
        loc = arguments["loc"] - shift
        cross = loc[..., :, None] * first[..., None, :]
        outer = loc[..., :, None] * loc[..., None, :]
        scatter = second - cross - jnp.swapaxes(cross, -1, -2) + count[..., None, None] * outer
        return InverseMatrix(count, scatter, form=_FORMS[name])

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """{u, uu'}."""
        precision, _ = self.factor(arguments)
        return Quadratic(precision, jnp.einsum("...ij,...j->...i", precision, arguments["loc"]), ndim=1)

    def describe_statistics(self) -> tuple[str, ...]:
        """Count, sum, outer products."""
        return ("1", "x", "xxᵀ")


def _log_det(root: jax.Array) -> jax.Array:
    """Of root root'."""
    return 2 * jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)), -1)
