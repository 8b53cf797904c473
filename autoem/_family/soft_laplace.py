"""SoftLaplace: a Normal whose variance is a sum of exponentials (Barndorff-Nielsen, Kent and Sørensen 1982)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist

from .._types import Array, Arrays
from ._scale_mixture import AbstractUnivariate, tanh_ratio


class SoftLaplace(AbstractUnivariate):
    """-log π - log σ - log cosh δ, δ = (x - μ)/σ."""

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ("loc", "scale")
    coupled: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[type] = dist.SoftLaplace
    normal: ClassVar[str] = "Normal"
    mixing: ClassVar[str] = "a variance that is a sum of exponentials"
    weight: ClassVar[str] = "tanh(δ) / δ"

    @property
    def name(self) -> str:
        """The family's name."""
        return "soft laplace"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """Scalars all."""
        return dict.fromkeys(self.constants, 0)

    @staticmethod
    def match(fn: Any) -> SoftLaplace | None:
        """dist.SoftLaplace."""
        return SoftLaplace() if type(fn) is dist.SoftLaplace else None

    def expected_precision(self, distance: Array, arguments: Arrays) -> Array:
        """tanh(δ)/δ."""
        return tanh_ratio(jnp.sqrt(distance))
