"""Two ways to one result: the quick one where it is right, else the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._types import Array


def either(sound: Array, found: Any, other: Callable[[], Any]) -> Any:
    """`found` if it is sound, else `other()`; with derivatives of any kind and order."""
    return jax.lax.cond(everywhere(sound), lambda: found, other)


@jax.custom_batching.custom_vmap
def everywhere(sound: Array) -> Array:
    """True if it is for all that `vmap` computes together: a `cond` on it stays one, and costs one branch."""
    return sound


@everywhere.def_vmap
def _over_batch(size: int, batched: Any, sound: Array) -> tuple[Array, bool]:
    return everywhere(jnp.all(sound)), False
