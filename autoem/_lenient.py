"""What NumPyro's own inference would choke on, though it is meant plainly: data that are no arrays, narrow integers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.primitives import Messenger

_ARRAYS = (jax.Array, np.ndarray, np.generic, int, float, bool)


class Lenient(Messenger):
    """Takes a model's data and scans in the types in which people have them.

    Data may be lists, or a column of a data frame. With 64 bits enabled NumPyro's discrete draws are `int64`, and the
    state of a scan that began as `int32`, as in many published models, could not take them.
    """

    def process_message(self, msg: dict[str, Any]) -> None:
        """Make arrays of data; let the step of a scan return its state in the types in which it came in."""
        if msg["type"] == "sample" and msg["is_observed"] and not isinstance(msg["value"], _ARRAYS):
            msg["value"] = np.asarray(msg["value"])
        if msg["type"] != "control_flow" or len(msg["args"]) != 5:
            return
        step, *rest = msg["args"]

        def steady(carry: Any, x: Any) -> Any:
            new, y = step(carry, x)
            same = jax.tree.structure(new) == jax.tree.structure(carry)
            return jax.tree.map(_as_wide_as, new, carry) if same else new, y

        msg["args"] = (steady, *rest)


def _as_wide_as(new: Any, old: Any) -> Any:
    """A number in the width of another of its kind; of another kind it stays as it is."""
    kinds = (jnp.integer, jnp.floating)
    wanted = jnp.result_type(old)
    alike = any(jnp.issubdtype(jnp.result_type(new), k) and jnp.issubdtype(wanted, k) for k in kinds)
    return jnp.asarray(new, wanted) if alike and jnp.result_type(new) != wanted else new
