"""What a hidden representation is: a density p(x) = Σ_h p(h) p(x | h) (or ∫) that is simpler once h is there."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist

from .._types import Array


class Unsuitable(Exception):
    """Why a distribution that has a hidden representation keeps its marginal density here."""


@dataclass(frozen=True)
class Hidden:
    """The distribution of the auxiliary variable.

    Attributes:
        fn: its distribution; elements are those of the site, or broadcast to them.
        total: what divides the probabilities in `fn`, or None. Where it is one whatever the parameters, `plain` may
            stand in for the arguments of `fn`: the same numbers, but a closed form sees through them.
        plain: arguments by name.
    """

    fn: Any
    total: Array | None = None
    plain: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One observed site given the auxiliary variable.

    Attributes:
        fn: its distribution; elements are those of the site, or broadcast to them.
        value: what is observed.
        suffix: of its name; "" for the site itself.
        when: elements at which it counts, or None for all.
    """

    fn: Any
    value: Any
    suffix: str = ""
    when: Array | None = None


def impossible_unless(allowed: Array) -> Part:
    """A factor: log 1 where allowed, else log 0."""
    return Part(dist.Unit(jnp.where(allowed, 0.0, -jnp.inf)), jnp.zeros((*jnp.shape(allowed), 0)), "support")


class AbstractRepresentation(abc.ABC):
    """One hidden representation of one distribution.

    All methods see the distribution without its wrappers; elements are those of the site, `to_event` undone. Nothing
    but the auxiliary variable's own elements may be summed or integrated: Σ_h p(h) Π_parts p(part | h) = p(x),
    element by element, constants included.

    Attributes:
        suffix: of the auxiliary variable's name.
    """

    suffix: ClassVar[str]

    @classmethod
    @abc.abstractmethod
    def match(cls, fn: Any) -> AbstractRepresentation | None:
        """The representation of a distribution, or None if it is of another class.

        Raises:
            Unsuitable: it is of this class, but its representation would not be exact.
        """

    @abc.abstractmethod
    def hidden(self) -> Hidden:
        """The auxiliary variable's distribution."""

    @abc.abstractmethod
    def given(self, hidden: Array, value: Any) -> tuple[Part, ...]:
        """The site's density given the auxiliary variable.

        Args:
            hidden: its values, one per element of the site.
            value: the site's value.
        """

    @abc.abstractmethod
    def describe(self) -> tuple[str, str]:
        """What the site is given the auxiliary variable, and what that is: ("a Normal", "a Categorical assignment")."""
