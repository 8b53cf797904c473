"""{log|U|, U} or {log|U|, U⁻¹} of a positive definite matrix: a Wishart or an inverse Wishart."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import multigammaln

from .._types import Array
from ._kernel import AbstractKernel


def inverse_of(matrix: Array) -> Array:
    """The inverse of positive definite matrices (..., D, D), by their Cholesky factors."""
    root = jnp.linalg.cholesky(matrix)
    eye = jnp.broadcast_to(jnp.eye(root.shape[-1], dtype=root.dtype), root.shape)
    half = jax.scipy.linalg.solve_triangular(root, eye, lower=True)
    return jnp.einsum("...ki,...kj->...ij", half, half)


def log_det(matrix: Array) -> Array:
    """log|U| of positive definite matrices (..., D, D)."""
    root = jnp.linalg.cholesky(matrix)
    return 2 * jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)), -1)


def upper(matrix: Array) -> Array:
    """The upper half of (..., D, D), row by row: (..., D (D + 1) / 2)."""
    row, column = np.triu_indices(matrix.shape[-1])
    return matrix[..., row, column]


def paired(matrix: Array) -> Array:
    """What multiplies `upper(U)` in tr(M U) for symmetric M: its upper half, off the diagonal doubled."""
    row, column = np.triu_indices(matrix.shape[-1])
    return matrix[..., row, column] * np.where(row == column, 1.0, 2.0)


def symmetric(pairs: Array, size: int) -> Array:
    """The matrix M of `paired`: (..., D, D)."""
    row, column = np.triu_indices(size)
    position = np.zeros((size, size), int)
    position[row, column] = position[column, row] = np.arange(row.size)
    return pairs[..., position] * np.where(np.eye(size), 1.0, 0.5)


class Matrix(AbstractKernel):
    """{log|U|, U}, or with `inverse` {log|U|, U⁻¹}, on positive definite matrices of `size` rows."""

    size: int = eqx.field(static=True)
    inverse: bool = eqx.field(static=True)

    event_ndim: ClassVar[int] = 2
    scales: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Wishart or inverse Wishart."""
        return "inverse wishart" if self.inverse else "wishart"

    @property
    def width(self) -> int:
        """The log determinant, and one feature for each number of the matrix."""
        return 1 + self.size * (self.size + 1) // 2

    @property
    def describe(self) -> tuple[str, ...]:
        """The log determinant, and the matrix or its inverse."""
        return ("log|u|", "u⁻¹" if self.inverse else "u")

    def features(self, value: Array) -> Array:
        """(log|U|, upper half of U or of its inverse)."""
        value = jnp.asarray(value)
        other = upper(inverse_of(value) if self.inverse else value)
        return jnp.concatenate([log_det(value)[..., None], other], -1)

    def points(self) -> np.ndarray:
        """The unit matrix, and matrices about it."""
        rng, size = np.random.default_rng(0), self.size
        noise = rng.normal(size=(2 * (self.width + 1), size, size)) / (2 * size)
        noise[0] = 0
        return np.eye(size) + np.einsum("nij,nkj->nik", noise, noise) + np.abs(noise[:, :1, :1]) * np.eye(size)

    def _degrees_scale(self, eta: Array) -> tuple[Array, Array]:
        """ν, and the matrix M of exp(-½ tr(M U)) or exp(-½ tr(M U⁻¹))."""
        power, rest = eta[..., 0], -2 * symmetric(eta[..., 1:], self.size)
        return (-2 * power - self.size - 1 if self.inverse else 2 * power + self.size + 1), rest

    def log_normaliser(self, eta: Array) -> Array:
        """½ ν D log 2 - ½ ν log|M| + log Γ_D(½ ν)."""
        degrees, matrix = self._degrees_scale(eta)
        return degrees / 2 * (self.size * np.log(2) - log_det(matrix)) + multigammaln(degrees / 2, self.size)

    def mode(self, eta: Array) -> Array:
        """(ν - D - 1) M⁻¹, or M / (ν + D + 1)."""
        _, matrix = self._degrees_scale(eta)
        power = 2 * eta[..., 0, None, None]
        return matrix / -power if self.inverse else jnp.maximum(power, 1e-10) * inverse_of(matrix)

    def distribution(self, eta: Array) -> Any:
        """Wishart or InverseWishart."""
        degrees, matrix = self._degrees_scale(eta)
        if self.inverse:
            return dist.InverseWishart(degrees, scale_matrix=matrix, validate_args=False)
        return dist.Wishart(degrees, rate_matrix=matrix, validate_args=False)

    def inside(self, value: Array) -> Array:
        """As it is."""
        return value
