"""Categorical (probs or logits): T(x) = one-hot(x)."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from .._types import Array, Arrays
from ._base import AbstractCounts
from ._conditional import LOG_ZERO, Conditional, LogSimplex, safe_log


def log_probabilities(arguments: Arrays) -> jax.Array:
    """Log probabilities from `probs` (as they are: NumPyro's density does not normalise them either) or `logits`."""
    if "logits" in arguments:
        return jnp.maximum(jax.nn.log_softmax(arguments["logits"], -1), LOG_ZERO)
    return safe_log(arguments["probs"])


class Categorical(AbstractCounts):
    """Σ_k [x = k] log p_k. An exact zero of the user's stays a zero."""

    argument: str = eqx.field(static=True, default="probs")
    size: int = eqx.field(static=True, default=2)

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ()
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return "categorical"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """One vector."""
        return {self.argument: 1}

    @staticmethod
    def match(fn: Any) -> Categorical | None:
        """dist.Categorical, by probabilities or logits."""
        if type(fn) is dist.CategoricalProbs:
            return Categorical("probs", jnp.shape(fn.probs)[-1])
        return Categorical("logits", jnp.shape(fn.logits)[-1]) if type(fn) is dist.CategoricalLogits else None

    def centre(self, value: Array) -> None:
        """Nothing to centre."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """One-hot."""
        return jax.nn.one_hot(value, self.size, dtype=jnp.result_type(float))

    def total(self, constants: Arrays) -> float:
        """One trial."""
        return 1.0

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """Zero."""
        return jnp.zeros(jnp.shape(value))

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """log p."""
        return log_probabilities(arguments)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """{log p_k}."""
        return LogSimplex(statistics, logits=name == "logits")

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """A categorical value is enumerated, not maximised."""
        return None

    def describe_statistics(self) -> tuple[str, ...]:
        """Counts per category."""
        return ("[x = k]",)
