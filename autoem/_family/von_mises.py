"""Von Mises: T(x) = (1, cos x, sin x)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import i0e

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import Circular, Conditional
from ._features import as_float, stack, unstack


class VonMises(AbstractFamily):
    """-log 2π - log I₀(κ) + κ cos(x - μ)."""

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ()
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return "von mises"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """Scalars both."""
        return {"loc": 0, "concentration": 0}

    @staticmethod
    def match(fn: Any) -> VonMises | None:
        """dist.VonMises."""
        return VonMises() if type(fn) is dist.VonMises else None

    def centre(self, value: Array) -> None:
        """Nothing to centre."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(1, cos x, sin x)."""
        x = as_float(value)
        return stack(jnp.ones_like(x), jnp.cos(x), jnp.sin(x))

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """-log 2π."""
        return jnp.full(jnp.shape(value), -jnp.log(2 * jnp.pi))

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(-log I₀(κ), κ cos μ, κ sin μ), with I₀(κ) = e^κ i0e(κ)."""
        loc, kappa = as_float(arguments["loc"]), as_float(arguments["concentration"])
        return stack(-kappa - jnp.log(i0e(kappa)), kappa * jnp.cos(loc), kappa * jnp.sin(loc))

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """loc: {cos u, sin u}; concentration: numeric."""
        if name != "loc":
            return None
        _, cosine, sine = unstack(statistics)
        kappa = arguments["concentration"]
        return Circular(kappa * cosine, kappa * sine)

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """{cos u, sin u}."""
        _, cosine, sine = unstack(self.slots(arguments, {}))
        return Circular(cosine, sine)

    def describe_statistics(self) -> tuple[str, ...]:
        """Count, resultant."""
        return ("1", "cos x", "sin x")
