"""MultivariateStudentT: a MultivariateNormal whose precision is multiplied by a Gamma(ν/2, ν/2)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from .._types import Array, Arrays
from ._conditional import Conditional, InverseMatrix, Quadratic
from ._scale_mixture import AbstractScaleMixture, own_density


class MultivariateStudentT(AbstractScaleMixture):
    """log Γ((ν + D)/2) - log Γ(ν/2) - ½ D log πν - log|L| - ½ (ν + D) log(1 + δ²/ν), δ = |L⁻¹ (x - μ)|."""

    value_ndim: ClassVar[int] = 1
    constants: ClassVar[tuple[str, ...]] = ("df", "loc", "scale_tril")
    coupled: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[type] = dist.MultivariateStudentT
    normal: ClassVar[str] = "MultivariateNormal"
    mixing: ClassVar[str] = "a Gamma-distributed precision"
    weight: ClassVar[str] = "(df + D) / (df + δ²)"

    @property
    def name(self) -> str:
        """The family's name."""
        return "multivariate student t"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """A number, a vector and a matrix."""
        return {"df": 0, "loc": 1, "scale_tril": 2}

    @staticmethod
    def match(fn: Any) -> MultivariateStudentT | None:
        """dist.MultivariateStudentT."""
        return MultivariateStudentT() if type(fn) is dist.MultivariateStudentT else None

    def centre(self, value: Array) -> Array:
        """The value itself."""
        return value

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """1."""
        return jnp.ones((*jnp.shape(value)[:-1], 1))

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """The whole log density."""
        return own_density(self, value, constants)

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """0."""
        leads = (jnp.shape(arguments[n])[: jnp.ndim(arguments[n]) - d] for n, d in self.argument_ndims.items())
        return jnp.zeros((*jnp.broadcast_shapes(*leads), 1))

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """None: all arguments are constants here."""
        return None

    def expected_precision(self, distance: Array, arguments: Arrays) -> Array:
        """(ν + D)/(ν + δ²): given x the precision is Gamma((ν + D)/2, (ν + δ²)/2)."""
        df = arguments["df"]
        return (df + arguments["scale_tril"].shape[-1]) / (df + distance)

    def weighted_conditional(self, name: str, value: Array, weights: Array, arguments: Arrays) -> Conditional | None:
        """loc: {u, uu'}; scale_tril: {log|Σ|, Σ⁻¹} of Σ = LL'; df: numeric."""
        if name == "df":
            return None
        residual, root = value - arguments["loc"], arguments["scale_tril"]
        eye = jnp.broadcast_to(jnp.eye(root.shape[-1], dtype=root.dtype), root.shape)
        inverse = jax.scipy.linalg.solve_triangular(root, eye, lower=True)
        distance = jnp.sum(jnp.einsum("...ij,...j->...i", inverse, residual) ** 2, -1)
        precision = weights * self.expected_precision(distance, arguments)
        if name == "loc":
            matrix = precision[..., None, None] * (jnp.swapaxes(inverse, -1, -2) @ inverse)
            return Quadratic(matrix, jnp.einsum("...ij,...j->...i", matrix, value), ndim=1)
        scatter = precision[..., None, None] * residual[..., :, None] * residual[..., None, :]
        return InverseMatrix(weights, scatter, form="cholesky")

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """None: a mixture has no features."""
        return None

    def describe_statistics(self) -> tuple[str, ...]:
        """The count."""
        return ("1",)
