"""Array and pytree aliases used across the package, in one place."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array
Params: TypeAlias = dict[str, Any]
Arrays: TypeAlias = Mapping[str, Any]
Key: TypeAlias = jax.Array
Leaf: TypeAlias = Any
"""An array in a module: NumPy's as it is laid out on the host, JAX's within jit."""


class Refusal(NotImplementedError):
    """A model, or a part of it, that autoem declines; the message says which site, why, and what to do."""


class Declined(Refusal):
    """Exact engines decline some latents; another way to integrate them may be open.

    Attributes:
        latents: which, and why.
    """

    def __init__(self, latents: Mapping[str, str]) -> None:
        Refusal.__init__(self, next(iter(latents.values())))
        self.latents = latents


class StaticArray:
    """A NumPy array that is part of a structure: hashable, equal by content."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.asarray(array, order="C")  # keeps an array without axes as it is
        self._hash = hash((self.array.shape, self.array.dtype.str, self.array.tobytes()))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StaticArray) and np.array_equal(self.array, other.array)
