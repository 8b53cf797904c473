"""Gaussian residuals that are affine in coefficients: r = X₀ + Σ_j β_j X_j, with expected second moments E[X X']."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import Conditional, InverseMatrix, LogPower, Quadratic
from .multivariate_normal import MultivariateNormal
from .normal import Normal


class LinearGaussian(AbstractFamily):
    """What a Normal or MultivariateNormal becomes where its residual holds Gaussian latents.

    The residual of a row is r = Σ_j φ_j X_j with φ = (1, β - reference): `columns` is the vector β of all
    coefficients that it meets, X_j is affine in the latents and otherwise data. T = (1, Σ X X'), expected over the
    latents, does not depend on β, and r' P r is ⟨P ⊗ φφ', XX'⟩. The reference centres the data, once.

    Attributes:
        noise: the site's own family.
        dim: length of r (1 for a Normal).
        width: number of coefficients.
    """

    noise: Normal | MultivariateNormal
    dim: int = eqx.field(static=True)
    width: int = eqx.field(static=True)

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ()
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return self.noise.name

    @property
    def argument_ndims(self) -> dict[str, int]:
        """The coefficients, and the noise's own arguments but its location."""
        return {"columns": 1} | {n: d for n, d in self.noise.argument_ndims.items() if n != "loc"}

    @property
    def univariate(self) -> bool:
        """Whether the residual is a scalar."""
        return isinstance(self.noise, Normal)

    @staticmethod
    def match(fn: Any) -> None:
        """None: it stands for no distribution of its own."""
        return None

    def centre(self, value: Array) -> None:
        """None: the reference does this."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """Not of data: the evidence engine makes them."""
        raise NotImplementedError("The statistics of a residual with latents come from the E-step.")

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """As `statistics`."""
        raise NotImplementedError("The statistics of a residual with latents come from the E-step.")

    def precision(self, arguments: Arrays) -> tuple[jax.Array, jax.Array]:
        """P (..., D, D) and log|P⁻¹| (...)."""
        if isinstance(self.noise, MultivariateNormal):
            return self.noise.factor(arguments)
        scale = jnp.asarray(arguments["scale"])
        return scale[..., None, None] ** -2.0, 2 * jnp.log(scale)

    def whitening(self, arguments: Arrays) -> jax.Array:
        """W (..., D, D) with W'W = P."""
        if isinstance(self.noise, MultivariateNormal):
            return self.noise.whitening(arguments)[0]
        return 1 / jnp.asarray(arguments["scale"])[..., None, None]

    def coefficients(self, arguments: Arrays, constants: Arrays) -> jax.Array:
        """φ = (1, β - reference): (..., 1 + width)."""
        columns = arguments["columns"] - constants.get("reference", 0.0)
        return jnp.concatenate([jnp.ones((*columns.shape[:-1], 1), columns.dtype), columns], -1)

    def flat(self, count: Array, moments: Array) -> jax.Array:
        """T from N (...) and E[Σ X X'] (..., 1 + width, D, 1 + width, D)."""
        return jnp.concatenate([count[..., None], jnp.reshape(moments, (*count.shape, -1))], -1)

    def moments(self, statistics: Array) -> tuple[jax.Array, jax.Array]:
        """The inverse of `flat`."""
        shape = (1 + self.width, self.dim) * 2
        return statistics[..., 0], jnp.reshape(statistics[..., 1:], (*statistics.shape[:-1], *shape))

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(-½ log|P⁻¹|, -½ φφ' ⊗ P)."""
        precision, log_det = self.precision(arguments)
        phi = self.coefficients(arguments, constants)
        outer = -0.5 * jnp.einsum("...i,...j,...de->...idje", phi, phi, precision)
        shape = outer.shape[:-4]
        return self.flat(jnp.broadcast_to(-log_det / 2, shape), outer)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """columns: {u, uu'}; the noise's own argument: what its family says of the expected squared residual."""
        count, moments = self.moments(statistics)
        if name == "columns":
            precision, _ = self.precision(arguments)
            gram = jnp.einsum("...idje,...de->...ij", moments, precision)
            reference = jnp.asarray(constants.get("reference", jnp.zeros(self.width)))
            linear = jnp.einsum("...ij,...j->...i", gram[..., 1:, 1:], reference) - gram[..., 1:, 0]
            return Quadratic(gram[..., 1:, 1:], linear, ndim=1)
        phi = self.coefficients(arguments, constants)
        scatter = jnp.einsum("...i,...idje,...j->...de", phi, moments, phi)
        if self.univariate:
            return LogPower(-count, -scatter[..., 0, 0] / 2, exponent=-2.0)
        form = {"covariance_matrix": "covariance", "precision_matrix": "precision", "scale_tril": "cholesky"}[name]
        return InverseMatrix(count, scatter, form=form)

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """None: it is nobody's prior."""
        return None

    def describe_statistics(self) -> tuple[str, ...]:
        """Count and second moments of what the coefficients multiply."""
        return ("1", "xxᵀ") if self.width == 0 else ("1", "xxᵀ with x = (residual at β = reference, ∂residual/∂β)")
