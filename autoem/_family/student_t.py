"""StudentT: a Normal whose precision is Gamma(ν/2, ν/2)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpyro.distributions as dist

from .._types import Array, Arrays
from ._scale_mixture import AbstractUnivariate


class StudentT(AbstractUnivariate):
    """log Γ((ν + 1)/2) - log Γ(ν/2) - ½ log πν - log σ - ½ (ν + 1) log(1 + δ²/ν), δ = (x - μ)/σ."""

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ("df", "loc", "scale")
    coupled: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[type] = dist.StudentT
    normal: ClassVar[str] = "Normal"
    mixing: ClassVar[str] = "a Gamma-distributed precision"
    weight: ClassVar[str] = "(df + 1) / (df + δ²)"

    @property
    def name(self) -> str:
        """The family's name."""
        return "student t"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """Scalars all."""
        return dict.fromkeys(self.constants, 0)

    @staticmethod
    def match(fn: Any) -> StudentT | None:
        """dist.StudentT."""
        return StudentT() if type(fn) is dist.StudentT else None

    def expected_precision(self, distance: Array, arguments: Arrays) -> Array:
        """(ν + 1)/(ν + δ²): given x the precision is Gamma((ν + 1)/2, (ν + δ²)/2)."""
        df = arguments["df"]
        return (df + 1) / (df + distance)
