"""Wishart and InverseWishart: T(x) = (1, log|x|, upper half of x or of its inverse)."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import multigammaln

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import Conditional, InverseMatrix
from ._features import as_float
from ._matrix_kernel import Matrix, inverse_of, paired


class Wishart(AbstractFamily):
    """½ (ν - D - 1) log|x| - ½ tr(V⁻¹ x) - ½ ν log|2 V| - log Γ_D(½ ν), V = LL'.

    Of the inverse -½ (ν + D + 1) log|x| - ½ tr(Ψ x⁻¹) + ½ ν log|Ψ / 2| - log Γ_D(½ ν), Ψ = LL'.
    """

    inverse: bool = eqx.field(static=True, default=False)

    value_ndim: ClassVar[int] = 2
    constants: ClassVar[tuple[str, ...]] = ()
    coupled: ClassVar[tuple[str, ...]] = ("concentration", "scale_tril")

    @property
    def name(self) -> str:
        """The family's name."""
        return "inverse wishart" if self.inverse else "wishart"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """A number and a matrix, by its Cholesky factor whichever was given."""
        return {"concentration": 0, "scale_tril": 2}

    @staticmethod
    def match(fn: Any) -> Wishart | None:
        """dist.Wishart or dist.InverseWishart."""
        if type(fn) is dist.Wishart:
            return Wishart()
        return Wishart(inverse=True) if type(fn) is dist.InverseWishart else None

    def centre(self, value: Array) -> None:
        """Nothing to centre."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(1, log|x|, upper half)."""
        features = Matrix(value.shape[-1], self.inverse).features(value)
        return jnp.concatenate([jnp.ones_like(features[..., :1]), features], -1)

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """Zero."""
        return jnp.zeros(jnp.shape(value)[:-2])

    def _matrix(self, arguments: Arrays) -> tuple[Array, Array, Array]:
        """ν, the matrix M of -½ tr(M x) or -½ tr(M x⁻¹), and log|LL'|."""
        root = jnp.asarray(arguments["scale_tril"])
        matrix = jnp.einsum("...ik,...jk->...ij", root, root)
        size = 2 * jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)), -1)
        return as_float(arguments["concentration"]), matrix if self.inverse else inverse_of(matrix), size

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """In the order of the statistics."""
        degrees, matrix, size = self._matrix(arguments)
        dim = matrix.shape[-1]
        sign = -1.0 if self.inverse else 1.0
        constant = -degrees / 2 * (sign * size + dim * np.log(2)) - multigammaln(degrees / 2, dim)
        power = sign * degrees / 2 - (dim + 1) / 2
        rest = -paired(matrix) / 2
        batch = jnp.broadcast_shapes(constant.shape, rest.shape[:-1])
        columns = (jnp.broadcast_to(a, batch)[..., None] for a in (constant, power))
        return jnp.concatenate([*columns, jnp.broadcast_to(rest, (*batch, rest.shape[-1]))], -1)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """None: both are numeric."""
        return None

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """{log|u|, u⁻¹} of a covariance, or {log|u|, u} of a precision."""
        degrees, matrix, _ = self._matrix(arguments)
        dim = matrix.shape[-1]
        if self.inverse:
            return InverseMatrix(degrees + dim + 1, matrix, form="covariance")
        return InverseMatrix(degrees - dim - 1, matrix, form="precision")

    def describe_statistics(self) -> tuple[str, ...]:
        """Count, log determinant, matrix."""
        return ("1", "log|x|", "x⁻¹" if self.inverse else "x")
