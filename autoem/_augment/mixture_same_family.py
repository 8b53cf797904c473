"""MixtureSameFamily: Σ_k w_k p(x; θ_k) is p(x; θ_z) with z ~ Categorical(w)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpyro.distributions as dist

from .._types import Array
from ._assignment import assignment
from ._base import AbstractRepresentation, Hidden, Part
from ._components import check, selected


@dataclass(frozen=True)
class MixtureSameFamily(AbstractRepresentation):
    """The component that the assignment names."""

    mixing: Any
    components: Any
    name: str

    suffix: ClassVar[str] = "assignment"

    @classmethod
    def match(cls, fn: Any) -> MixtureSameFamily | None:
        """dist.MixtureSameFamily."""
        if type(fn) is not dist.MixtureSameFamily:
            return None
        components = fn.component_distribution
        return cls(fn.mixing_distribution, components, check(components))

    def hidden(self) -> Hidden:
        """z ~ Categorical(w)."""
        return assignment(self.mixing)

    def given(self, hidden: Array, value: Any) -> tuple[Part, ...]:
        """x ~ p(x; θ_z)."""
        return (Part(selected(self.components, hidden), value),)

    def describe(self) -> tuple[str, str]:
        """A component, and its number."""
        return f"one of {self.name}", "a Categorical assignment"
