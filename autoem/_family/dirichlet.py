"""Dirichlet: T(x) = (1, log x)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import Conditional, LogSimplex, safe_log
from ._features import as_float


class Dirichlet(AbstractFamily):
    """log Γ(Σ α) - Σ_k log Γ(α_k) + Σ_k (α_k - 1) log x_k."""

    value_ndim: ClassVar[int] = 1
    constants: ClassVar[tuple[str, ...]] = ()
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return "dirichlet"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """One vector."""
        return {"concentration": 1}

    @staticmethod
    def match(fn: Any) -> Dirichlet | None:
        """dist.Dirichlet."""
        return Dirichlet() if type(fn) is dist.Dirichlet else None

    def centre(self, value: Array) -> None:
        """Nothing to centre."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(1, log x)."""
        x = as_float(value)
        return jnp.concatenate([jnp.ones_like(x[..., :1]), safe_log(x)], -1)

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """Zero."""
        return jnp.zeros(jnp.shape(value)[:-1])

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(log Γ(Σ α) - Σ_k log Γ(α_k), α - 1)."""
        alpha = as_float(arguments["concentration"])
        constant = gammaln(jnp.sum(alpha, -1)) - jnp.sum(gammaln(alpha), -1)
        return jnp.concatenate([constant[..., None], alpha - 1], -1)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """Numeric."""
        return None

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """{log u_k}."""
        return LogSimplex(as_float(arguments["concentration"]) - 1)

    def describe_statistics(self) -> tuple[str, ...]:
        """Count, sums of logs."""
        return ("1", "log x_k")
