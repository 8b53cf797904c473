"""What a family is: the canonical form of a distribution, log p(x) = ⟨slots(arguments), T(x)⟩ + log h(x)."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx

from .._types import Array, Arrays
from ._conditional import Conditional


class AbstractFamily(eqx.Module):
    """A distribution class in exponential-family form, for one choice of which arguments are unknown.

    A family holds no arrays: it is a static description. All methods broadcast over leading (batch) axes.
    Features lie on a trailing axis of length F.

    Attributes:
        name: the field's name for the family, lower case.
        value_ndim: number of event axes of a value.
        argument_ndims: number of event axes of each argument, by name, in NumPyro's names.
        constants: arguments that enter T or h and so must not depend on parameters.
        coupled: arguments to be updated together by Newton when more than one of them is unknown.
    """

    value_ndim: eqx.AbstractClassVar[int]
    constants: eqx.AbstractClassVar[tuple[str, ...]]
    coupled: eqx.AbstractClassVar[tuple[str, ...]]

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The field's name for the family."""

    @property
    @abc.abstractmethod
    def argument_ndims(self) -> dict[str, int]:
        """Event axes of every argument (constants included), by name."""

    @staticmethod
    @abc.abstractmethod
    def match(fn: Any) -> AbstractFamily | None:
        """The family of a NumPyro distribution (wrappers already peeled off), or None."""

    @abc.abstractmethod
    def centre(self, value: Array) -> Array | None:
        """Elementwise location statistic of values, used to centre data before the loop; None where it is of no use."""

    @abc.abstractmethod
    def statistics(self, value: Array, constants: Arrays) -> Array:
        """Sufficient statistics T(x), shape (..., F). `constants["shift"]`, if there, is subtracted first."""

    @abc.abstractmethod
    def log_base(self, value: Array, constants: Arrays) -> Array:
        """log h(x), shape (...)."""

    @abc.abstractmethod
    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """Natural parameters and minus the log normaliser, in the order of `statistics`; shape (..., F)."""

    @abc.abstractmethod
    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """⟨slots, statistics⟩ as a function of one argument, the others held; None if it has no closed-form mode.

        `statistics` has shape (..., F): expected and summed. The conditional has the argument's shape,
        broadcast against the batch axes of `statistics`.
        """

    @abc.abstractmethod
    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """log p(x) as a function of the value x: what this family contributes as a prior."""

    @abc.abstractmethod
    def describe_statistics(self) -> tuple[str, ...]:
        """Names of the statistics for people: for example ("1", "x", "x²")."""


class AbstractWeighted(AbstractFamily):
    """A family that, where a constant is unknown, still has closed-form maxima given *weighted data*."""

    @abc.abstractmethod
    def weighted_conditional(self, name: str, value: Array, weights: Array, arguments: Arrays) -> Conditional | None:
        """Σ weights · log p(value) as a function of one argument, elementwise: shapes are aligned and broadcast."""


class AbstractCounts(AbstractFamily):
    """A family whose statistics are counts that add up to a number which is known: one of them says nothing new."""

    @abc.abstractmethod
    def total(self, constants: Arrays) -> Array | float:
        """What the statistics of one value add up to."""
