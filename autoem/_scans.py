"""Sites inside NumPyro's `scan`: looked at within the step, where their shapes are what the user wrote.

What NumPyro hands out afterwards are stacked distributions whose axes no longer line up; and a `numpyro.param` in a
step never gets the value that was substituted for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from numpyro import handlers
from numpyro.primitives import _PYRO_STACK, Messenger

from ._sites import Site
from ._types import Refusal


class ScanSites(Messenger):
    """Looks at every sample site within the steps of scans.

    Attributes:
        found: name -> what `look` returned, stacked over steps.
    """

    look: Callable[[str, Mapping[str, Any], int], dict[str, Any]]
    found: dict[str, dict[str, Any]]

    def process_message(self, msg: dict[str, Any]) -> None:
        """Let the step return what was seen in it."""
        if msg["type"] != "control_flow" or len(msg["args"]) != 5:
            return
        around = [type(h).__name__ for h in _PYRO_STACK if isinstance(h, handlers.mask | handlers.scale)]
        if around:
            raise Refusal(f"A {around[0]} stands around a scan: put it inside the step.")
        step, init, xs, length, reverse = msg["args"]
        if length is None:
            length = jnp.shape(jax.tree.leaves(xs)[0])[0]

        def wrapped(carry: Any, x: Any) -> Any:
            with handlers.trace() as seen:
                carry, y = step(carry, x)
            params = [name for name, site in seen.items() if site["type"] == "param"]
            if params:
                raise Refusal(f"The parameter {params[0]!r} is declared inside a scan, where NumPyro does not "
                              "substitute it: declare it before the scan.")  # fmt: skip
            sites = {name: site for name, site in seen.items() if site["type"] == "sample"}
            if reverse and sites:
                raise Refusal(f"The scan with the site {next(iter(sites))!r} runs in reverse: NumPyro takes values for "
                              "its latents in one order and returns them in the other. Turn its inputs round instead "
                              "(xs[::-1], or jnp.flip(a, 0) for every array of xs), and scan forwards.")  # fmt: skip
            return carry, (y, {name: self.look(name, site, int(length)) for name, site in sites.items()})

        msg["args"] = (wrapped, init, xs, length, reverse)

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        """Take what was seen out of the scan's result."""
        if msg["type"] == "control_flow" and len(msg["args"]) == 5:
            final, (sites, (ys, found)) = msg["value"]
            msg["value"] = final, (sites, ys)
            self.found |= found


def watched(model: Callable[..., Any], look: Callable[[str, Mapping[str, Any], int], dict[str, Any]]) -> ScanSites:
    """A model whose scans are looked into.

    Args:
        model: a NumPyro model.
        look: (name, site within the step, number of steps) -> arrays to be stacked over the steps.
    """
    messenger = ScanSites(model)
    messenger.look, messenger.found = look, {}
    return messenger


def aligned(site: Site, outputs: dict[str, Any]) -> dict[str, Any]:
    """One step's outputs with all the axes of the site, so that steps can be stacked in front."""
    ndim = len(site.batch_shape)

    def full(value: Any, axes: int) -> Any:
        value = jnp.asarray(value)
        return jnp.reshape(value, [1] * (axes - value.ndim) + list(value.shape))

    arguments = {
        n: full(a, ndim + (site.family.argument_ndims[n] if site.family is not None else 0))
        for n, a in outputs["arguments"].items()
    }
    rest = {k: None if outputs[k] is None else full(outputs[k], ndim) for k in ("log_prob", "mask", "scale")}
    values = {k: full(outputs[k], ndim + site.event_ndim) for k in ("value", "raw")}
    # The two forms of an auxiliary variable's arguments are for sites outside of scans.
    return {**rest, **values, "arguments": arguments, "total": None, "plain": {}}
