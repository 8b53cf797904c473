"""Improper uniform: T(x) = (1)."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import Conditional, Flat


class ImproperUniform(AbstractFamily):
    """0, on any support, of scalars, vectors or matrices."""

    value_ndim: int = eqx.field(static=True, default=0)

    constants: ClassVar[tuple[str, ...]] = ()
    coupled: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The family's name."""
        return "improper uniform"

    @property
    def argument_ndims(self) -> dict[str, int]:
        """None."""
        return {}

    @staticmethod
    def match(fn: Any) -> ImproperUniform | None:
        """dist.ImproperUniform, by the axes of its event."""
        return ImproperUniform(len(fn.event_shape)) if type(fn) is dist.ImproperUniform else None

    def centre(self, value: Array) -> None:
        """Nothing to centre."""
        return None

    def _batch(self, value: Array) -> tuple[int, ...]:
        shape = jnp.shape(value)
        return shape[: len(shape) - self.value_ndim]

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """(1)."""
        return jnp.ones((*self._batch(value), 1))

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """Zero."""
        return jnp.zeros(self._batch(value))

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(0)."""
        return jnp.zeros(1)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """No arguments."""
        return None

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """Flat."""
        return Flat()

    def describe_statistics(self) -> tuple[str, ...]:
        """Count."""
        return ("1",)
