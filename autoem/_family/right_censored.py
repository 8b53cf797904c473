"""Right-censored Exponential, Weibull or Pareto: T(x) = (1 - c, t(x)), with c = 1 for what lasted longer than x."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import Conditional
from ._features import as_float, stack, unstack
from .exponential import Exponential
from .pareto import Pareto
from .weibull import Weibull


class RightCensored(AbstractFamily):
    """(1 - c) log f(x) + c log S(x), where log f(x) = s₀ + s₁ t(x) + log h(x) and log S(x) = s₁ t(x).

    Attributes:
        inner: the family of what is censored, of which the survival function is like that.
    """

    inner: AbstractFamily

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[Any] = property(lambda self: (*self.inner.constants, "censored"))
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return f"right-censored {self.inner.name}"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """Scalars all."""
        return {**self.inner.argument_ndims, "censored": 0}

    @staticmethod
    def match(fn: Any) -> RightCensored | None:
        """dist.RightCensoredDistribution of one of the three."""
        if type(fn) is not getattr(dist, "RightCensoredDistribution", None):
            return None
        inner = next((f for cls in (Exponential, Weibull, Pareto) if (f := cls.match(fn.base_dist)) is not None), None)
        return None if inner is None else RightCensored(inner)

    def centre(self, value: Array) -> None:
        """Nothing to centre."""
        return None

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(1 - c, t(x))."""
        count, other = unstack(self.inner.statistics(value, constants))
        return stack(count * self._seen(constants), other)

    def _seen(self, constants: Arrays) -> Any:
        return jnp.where(jnp.asarray(constants["censored"]).astype(bool), 0.0, 1.0)

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """(1 - c) log h(x)."""
        return self._seen(constants) * self.inner.log_base(as_float(value), constants)

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """Those of the inner family."""
        return self.inner.slots(arguments, constants)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """As the inner family; `censored` has none."""
        if name in self.constants:
            return None
        return self.inner.argument_conditional(name, statistics, arguments, constants)

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """None: it is nobody's prior."""
        return None

    def describe_statistics(self) -> tuple[str, ...]:
        """Number of those seen, and the inner family's other statistic."""
        return ("1-c", self.inner.describe_statistics()[1])
