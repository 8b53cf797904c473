"""Rewrite the observed sites of a trace by their hidden representations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from .._wrappers import element_shape, is_discrete, peel, wrapped
from ._base import AbstractRepresentation, Part, Unsuitable
from ._components import name_of

Sites = dict[str, Any]


@dataclass(frozen=True)
class Note:
    """What was done about one site, or why it was left as it is.

    Attributes:
        site: the user's site.
        text: a sentence.
    """

    site: str
    text: str


@dataclass(frozen=True)
class Rewritten:
    """A trace with auxiliary sites in it.

    Attributes:
        sites: NumPyro's trace, rewritten.
        auxiliaries: names of the latents that were added.
        notes: what was done.
    """

    sites: Sites
    auxiliaries: tuple[str, ...]
    notes: tuple[Note, ...]


class _Rewriting:
    """One pass over a trace."""

    def __init__(self, found: Mapping[str, Any], values: Mapping[str, Any], catalogue: Sequence[Any]) -> None:
        self.found = found
        self.values = values
        self.catalogue = catalogue
        self.sites: Sites = {}
        self.auxiliaries: list[str] = []
        self.notes: list[Note] = []

    def visit(self, name: str, site: Mapping[str, Any], origin: str) -> None:
        """Put a site into the new trace, rewritten for as long as the catalogue knows its distribution."""
        representation = self._match(site, origin)
        if representation is None:
            self.sites[name] = dict(site)
            return
        if self.found.get(name) is site:
            site = _without_masked_data(site)
        peeled = peel(site["fn"])
        shape = element_shape(site["fn"], site["value"])
        hidden = representation.hidden()
        auxiliary = self._new(f"{origin}_{representation.suffix}", origin)
        fn = wrapped(hidden.fn, shape, hidden=peeled.hidden)
        value = self.values.get(auxiliary)
        if value is None:
            kind = int if is_discrete(fn) else float
            value = jnp.zeros((*fn.batch_shape, *fn.event_shape), jnp.result_type(kind))
        self.auxiliaries.append(auxiliary)
        self.sites[auxiliary] = {
            **site, "name": auxiliary, "fn": fn, "value": value, "is_observed": False, "infer": {},
            "kwargs": {"rng_key": None, "sample_shape": ()}, "total": hidden.total, "plain": hidden.plain,
        }  # fmt: skip
        what, kind = representation.describe()
        self.notes.append(Note(origin, f"{name_of(peeled.base)} is {what} given {kind}, {auxiliary}"))
        for part in representation.given(value, site["value"]):
            own = self._new(f"{origin}_{part.suffix}", origin) if part.suffix else name
            self.visit(own, {**site, "name": own, **_placed(part, shape, peeled)}, origin)

    def _match(self, site: Mapping[str, Any], origin: str) -> AbstractRepresentation | None:
        if site["type"] != "sample" or site["fn"] is None or not site["is_observed"]:
            return None
        base = peel(site["fn"]).base
        try:
            representation = next((r for kind in self.catalogue if (r := kind.match(base)) is not None), None)
            if representation is not None and "_scan_current_index" in site["infer"]:
                raise Unsuitable("it is inside a scan")
        except Unsuitable as why:
            self.notes.append(Note(origin, f"{name_of(base)} is taken as it is: {why}"))
            return None
        return representation

    def _new(self, name: str, origin: str) -> str:
        """A name for a site that is added; a second of its kind at one site gets a number."""
        if name in self.found:
            raise ValueError(
                f"The model has a site {name!r}, and that is what autoem would call the auxiliary variable of "
                f"{origin!r}. Rename the site, or leave the model as it is written with augment=False."
            )
        number, free = 2, name
        while free in self.sites or free in self.found:
            number, free = number + 1, f"{name}_{number}"
        return free


def _placed(part: Part, shape: Sequence[int], peeled: Any) -> dict[str, Any]:
    """Distribution and value of a part, with the wrappers of the site that it came from."""
    masks = [m for m in (peeled.mask, part.when) if m is not None]
    mask = masks[0] & masks[1] if len(masks) == 2 else masks[0] if masks else None
    return {"fn": wrapped(part.fn, shape, mask, peeled.hidden), "value": part.value}


def _without_masked_data(site: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is masked out may be NaN; once masks depend on the auxiliary variable it could not be told apart."""
    peeled = peel(site["fn"])
    if peeled.mask is None:
        return site
    keep = jnp.reshape(peeled.mask, [*jnp.shape(peeled.mask), *([1] * peeled.base.event_dim)])
    feasible = peeled.base.support.feasible_like(jnp.asarray(site["value"]))
    return {**site, "value": jnp.where(keep, site["value"], feasible)}


def rewrite(
    found: Mapping[str, Any], values: Mapping[str, Any], catalogue: Sequence[type[AbstractRepresentation]]
) -> Rewritten:
    """Replace every observed site whose distribution the catalogue knows.

    Args:
        found: NumPyro's trace.
        values: of the auxiliary variables, by name; zeros where there is none.
        catalogue: the representations, the first that knows a distribution takes it.

    Raises:
        ValueError: an auxiliary variable's name is taken.
    """
    rewriting = _Rewriting(found, values, catalogue)
    for name, site in found.items():
        rewriting.visit(name, site, name)
    return Rewritten(rewriting.sites, tuple(rewriting.auxiliaries), tuple(rewriting.notes))
