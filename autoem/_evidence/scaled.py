"""Gaussian latents whose precision is in proportion to an unknown factor, and that factor: Normal-Gamma, exactly.

Where the precision of every row of a cell is u^e P₁ (e = 1 or -1), u an element of a Gamma or inverse Gamma kernel,
the cell's posterior given u has the mean of u = 1 and the covariance A₁⁻¹ u^-e, and its log evidence is

    log L(u) = constant + ½ e (n - k) log u + quadratic · u^e

with n scalar rows, k latent elements, and both numbers as the Gaussian engine finds them at u = 1. Those are the
features of u's own kernel: the cells add to its coefficients, and its log normaliser is the evidence of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array, Leaf
from ._factor import Factor
from ._fisher import by_fisher
from .conjugate import Conjugate
from .gaussian import Gaussian


class Scaled(eqx.Module):
    """Gaussian latents and what their precisions are in proportion to.

    The sites' inputs are the arguments of those with Gaussian latents, then the slots of the others.

    Attributes:
        gaussian: the engine of the Gaussian latents at u = 1, in a layout without compression.
        scales: the engine of the factors u, by the sites that hold no Gaussian latent.
        element: (cells,) number of the element of u, over all parts of `scales`, that each cell meets.
        excess: (cells,) n - k; elements: (cells,) k.
    """

    gaussian: Gaussian
    scales: Conjugate
    element: Leaf
    excess: Leaf
    elements: Leaf

    method = "gaussian and conjugate"

    @property
    def factors(self) -> tuple[Factor, ...]:
        """In the order of the inputs."""
        return (*self.gaussian.factors, *self.scales.factors)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the latents."""
        return (*self.gaussian.names, *self.scales.names)

    @property
    def count(self) -> int:
        """Number of sites with Gaussian latents."""
        return len(self.gaussian.factors)

    @property
    def signs(self) -> Array:
        """e of every element of u."""
        parts = self.scales.parts
        return jnp.concatenate([jnp.full(p.size, p.kernel.exponent) for p in parts])  # type: ignore[attr-defined]

    def prepare(self) -> None:
        """All that does not change with the parameters was done when the block was laid out."""
        return None

    def coefficients(self, inputs: Sequence[Any]) -> Array:
        """(h₀, η) of every element of u: (elements, 3)."""
        return self._joined(inputs[self.count :]) + self._of_cells(inputs[: self.count])

    def _joined(self, slots: Sequence[Any]) -> Array:
        return jnp.concatenate([c[0] for c in self.scales.coefficients(slots)])

    def _of_cells(self, arguments: Sequence[Any]) -> Array:
        """What the cells add."""
        quadratic, constant = self.gaussian.evidences(arguments)
        sign = self.signs[self.element]
        rows = jnp.stack([constant, sign * self.excess / 2, quadratic], -1)
        return jnp.zeros((self.scales.cells, 3), rows.dtype).at[self.element].add(rows)

    def _integrals(self, coefficients: Array) -> Array:
        """h₀ + log ∫ exp ⟨η, φ(u)⟩ du of every element."""
        found, start = [], 0
        for part in self.scales.parts:
            own = coefficients[start : start + part.size]
            found.append(own[:, 0] + part.kernel.log_normaliser(own[:, 1:]))
            start += part.size
        return jnp.concatenate(found)

    def log_evidence(self, inputs: Sequence[Any], prepared: Any = None) -> Array:
        """L."""
        if not self.gaussian.chained:
            return self._total(inputs)
        return by_fisher(self, Scaled._total, Scaled.expected_statistics, Scaled._slots, list(inputs))

    def _total(self, inputs: Sequence[Any]) -> Array:
        return self.gaussian.log_base + jnp.sum(self._integrals(self.coefficients(inputs)))

    def _slots(self, inputs: Sequence[Any]) -> list[Array]:
        own = [f.slots(dict(a)) for f, a in zip(self.gaussian.factors, inputs, strict=False)]
        return [*own, *inputs[self.count :]]

    def expected_statistics(self, inputs: Sequence[Any], prepared: Any = None) -> tuple[Array, list[Array]]:
        """L and S. Of a row with residual r = Σ φ_j X_j: (n, E[u^e X X']), and E[u^e Var(z | u)] = A₁⁻¹."""
        arguments, slots = inputs[: self.count], list(inputs[self.count :])
        cells = self._of_cells(arguments)

        def total(coefficients: Array) -> Array:
            return jnp.sum(self._integrals(coefficients))

        value, features = jax.value_and_grad(total)(self._joined(slots) + cells)
        found = self.gaussian.scaled_statistics(arguments, features[self.element, 2])
        own = jax.grad(lambda s: total(self._joined(s) + cells))(slots)
        return self.gaussian.log_base + value, [*found, *own]

    def kernels(self, coefficients: Array) -> list[tuple[Any, Array]]:
        """Per part of `scales`, its kernel and η (elements, 2)."""
        found, start = [], 0
        for part in self.scales.parts:
            found.append((part.kernel, coefficients[start : start + part.size, 1:]))
            start += part.size
        return found
