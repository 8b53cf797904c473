"""Models that ask for numbers while they are traced: `int(x.sum())`, `np.asarray(y > 0)`, `x[mask]`, `if`.

Under a trace JAX records what is computed from data, too, unless it is NumPy; a model that wants the number is then run
again, and what depends on data only is computed at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax

T = TypeVar("T")
_ERRORS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


def with_numbers(read: Callable[..., T]) -> Callable[..., T]:
    """A function of a model that runs it with its data computed at once, if it fails otherwise.

    Args:
        read: its first argument is a NumPyro model.

    Raises:
        ValueError: (from the decorated function) the number wanted depends on an unknown, or on traced arguments.
    """

    @functools.wraps(read)
    def reading(model: Callable[..., Any], *args: Any, **kwargs: Any) -> T:
        try:
            return read(model, *args, **kwargs)
        except _ERRORS:
            pass
        try:
            return read(_computed(model), *args, **kwargs)
        except _ERRORS as error:
            where = str(error).strip().splitlines()[0]
            raise ValueError(
                "The model asks for the number of something that is traced: of an unknown (a param or a sample site), "
                "or of an argument under your own jit or vmap. `if`, `int()`, NumPy functions and boolean indices may "
                f"use data only; write jnp.where, jnp functions or handlers.mask instead. JAX says: {where}"
            ) from error

    return reading


def _computed(model: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with jax.ensure_compile_time_eval():
            return model(*args, **kwargs)

    return run
