"""MixtureGeneral: Σ_k w_k p_k(x) is p_z(x) with z ~ Categorical(w), whatever the classes of the p_k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist

from .._types import Array
from .._wrappers import peel
from ._assignment import assignment
from ._base import AbstractRepresentation, Hidden, Part, Unsuitable, impossible_unless
from ._components import are_one, check, name_of, selected, stacked, supports_of


@dataclass(frozen=True)
class MixtureGeneral(AbstractRepresentation):
    """Components of one class: the one that the assignment names. Of several: each counts where it is named.

    `together` holds the components as one distribution, if they are of one class and support; else `supports` says
    where each has its mass.
    """

    mixing: Any
    components: Sequence[Any]
    together: Any
    supports: Sequence[Any]
    names: tuple[str, ...]

    suffix: ClassVar[str] = "assignment"

    @classmethod
    def match(cls, fn: Any) -> MixtureGeneral | None:
        """dist.MixtureGeneral."""
        if type(fn) is not dist.MixtureGeneral:
            return None
        components = fn.component_distributions
        if any(peel(c).masks for c in components):
            raise Unsuitable("its components are masked")
        supports = supports_of(components)
        names = tuple(dict.fromkeys(name_of(peel(c).base) for c in components))
        together = _together(components) if are_one(supports) else None
        return cls(fn.mixing_distribution, components, together, supports, names)

    def hidden(self) -> Hidden:
        """z ~ Categorical(w)."""
        return assignment(self.mixing)

    def given(self, hidden: Array, value: Any) -> tuple[Part, ...]:
        """x ~ p_z(x): one site with the arguments of component z, or a site per component that counts where z = k."""
        if self.together is not None:
            return (Part(selected(self.together, hidden), value),)
        if are_one(self.supports):
            return tuple(Part(fn, value, f"component_{k}", hidden == k) for k, fn in enumerate(self.components))
        parts, inside = [], []
        for k, (fn, support) in enumerate(zip(self.components, self.supports, strict=True)):
            safe, held = _confined(jnp.asarray(value), support, peel(fn).hidden)
            parts.append(Part(fn, safe, f"component_{k}", hidden == k))
            inside.append(jnp.broadcast_to(held, jnp.shape(hidden)))
        table = jnp.stack(inside, -1)
        allowed = jnp.take_along_axis(table, hidden[..., None], -1, mode="clip")[..., 0]
        return (*parts, impossible_unless(allowed))

    def describe(self) -> tuple[str, str]:
        """The components, and which of them."""
        return f"one of {' or '.join(self.names)}", "a Categorical assignment"


def _confined(value: Array, support: Any, hidden: int) -> tuple[Array, Array]:
    """The value where a component has mass and some other where it has none, and where it has: element by element.

    What is not a number stays, for the check of the data.
    """
    held = support(value)
    spread = jnp.reshape(held, [*jnp.shape(held), *([1] * (jnp.ndim(value) - jnp.ndim(held)))])
    safe = jnp.where(spread | jnp.isnan(value), value, support.feasible_like(value))
    return safe, jnp.all(held, tuple(range(jnp.ndim(held) - hidden, jnp.ndim(held))))


def _together(components: Sequence[Any]) -> Any:
    try:
        together = stacked(components)
        check(together)
    except Unsuitable:
        return None
    return together
