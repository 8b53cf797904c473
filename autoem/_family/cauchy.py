"""Cauchy: a Normal whose precision is Gamma(½, ½)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpyro.distributions as dist

from .._types import Array, Arrays
from ._scale_mixture import AbstractUnivariate


class Cauchy(AbstractUnivariate):
    """-log π - log σ - log(1 + δ²), δ = (x - μ)/σ."""

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ("loc", "scale")
    coupled: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[type] = dist.Cauchy
    normal: ClassVar[str] = "Normal"
    mixing: ClassVar[str] = "a Gamma-distributed precision"
    weight: ClassVar[str] = "2 / (1 + δ²)"

    @property
    def name(self) -> str:
        """The family's name."""
        return "cauchy"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """Scalars all."""
        return dict.fromkeys(self.constants, 0)

    @staticmethod
    def match(fn: Any) -> Cauchy | None:
        """dist.Cauchy."""
        return Cauchy() if type(fn) is dist.Cauchy else None

    def expected_precision(self, distance: Array, arguments: Arrays) -> Array:
        """2/(1 + δ²)."""
        return 2 / (1 + distance)
