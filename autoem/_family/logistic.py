"""Logistic: a Normal whose variance is a sum of exponentials (Andrews and Mallows 1974)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist

from .._types import Array, Arrays
from ._scale_mixture import AbstractUnivariate, tanh_ratio


class Logistic(AbstractUnivariate):
    """-log σ - 2 log(2 cosh ½δ), δ = (x - μ)/σ."""

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ("loc", "scale")
    coupled: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[type] = dist.Logistic
    normal: ClassVar[str] = "Normal"
    mixing: ClassVar[str] = "a variance that is a sum of exponentials"
    weight: ClassVar[str] = "tanh(δ/2) / δ"

    @property
    def name(self) -> str:
        """The family's name."""
        return "logistic"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """Scalars all."""
        return dict.fromkeys(self.constants, 0)

    @staticmethod
    def match(fn: Any) -> Logistic | None:
        """dist.Logistic."""
        return Logistic() if type(fn) is dist.Logistic else None

    def expected_precision(self, distance: Array, arguments: Arrays) -> Array:
        """tanh(½δ)/δ."""
        half = jnp.sqrt(distance) / 2
        return tanh_ratio(half) / 2
