"""Where a parameter enters: the entries, the links, the conditionals there, and how to pool over a link."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._complete import CompleteData
from ._family import AbstractScaleMixture, Conditional
from ._links import Dependence, analyse, describe, flat_index, own_coordinates, whole_event
from ._model import Model
from ._types import Array
from ._update import Occurrence, Update

_FLOOR = 1e-5
"""Smallest standard deviation that a fit may reach, relative to that of the data at the site (float64)."""
_FLOOR_32 = 1e-3


@dataclass
class Place:
    """One entry that a parameter enters, and how."""

    entry: int
    argument: str | None
    dependence: Dependence | None
    conditional: Conditional | None
    why: str = ""


@dataclass
class Plan:
    """What was decided about one parameter.

    Attributes:
        name: the parameter.
        update: the module that runs (shared by parameters that are updated jointly).
        features: features of its conditional, or "" where there is no closed form.
        places: everywhere it enters.
        declined: what was tried first, and why it did not fit.
        conditional: whether other parameters' current values enter its update (ECM).
        hidden: sites whose hidden precisions, expected at the current parameters, weigh its update.
        counted: sites whose counts are split among terms of a sum, at the current parameters, for its update.
    """

    name: str
    update: Update | None = None
    features: str = ""
    places: list[Place] = field(default_factory=list)
    declined: list[str] = field(default_factory=list)
    conditional: bool = False
    hidden: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()


class Entries:
    """Looks at one model's entries; holds what all parameters share."""

    def __init__(self, model: Model, complete: CompleteData, why: Mapping[str, str]) -> None:
        self.model, self.complete, self.why = model, complete, why
        self.program = complete.program
        self.initial = {n: p.initial for n, p in model.parameters.items()}
        self.sites = [f.site for f in complete.factors] + [p.site for p in complete.priors]
        self.input = dict(zip(complete.names, self.program.inputs, strict=False))  # the points follow
        self.slots = jax.eval_shape(complete.slots, self.initial)
        single = {n: self.dependence([n]) for n in complete.names}
        self.single = single

    def dependence(self, names: Sequence[str]) -> dict[int, Dependence]:
        """How every value of the program depends on some parameters, jointly."""
        unknowns = {self.input[n]: (n, own_coordinates(jnp.shape(self.initial[n]))) for n in names}
        return analyse(self.program, unknowns)

    def family(self, entry: int) -> Any:
        """The exponential family of an entry, or None."""
        entries = (*self.complete.factors, *self.complete.priors)
        return entries[entry].family

    def is_prior(self, entry: int) -> bool:
        """Whether an entry is the prior of a maximised site."""
        return entry >= len(self.complete.factors)

    def places(self, name: str) -> list[Place]:
        """Every entry that the parameter enters, with its conditional there (as shapes), or why there is none."""
        found = self.single[name]
        result = []
        for entry, outputs in enumerate(self.complete.outputs):
            hits = [a for a, i in outputs if i in found and a != "@log_prob"]
            density = [a for a, i in outputs if i in found and a == "@log_prob"]
            own = self.is_prior(entry) and self.sites[entry] == name
            if not hits and not density and not own:
                continue
            result.append(self._place(name, entry, hits, own, dict(outputs), found))
        return result

    def _place(self, name: str, entry: int, hits: list[str], own: bool, outputs: Any, found: Any) -> Place:
        family, site = self.family(entry), self.sites[entry]
        if family is None:
            what = "prior" if own else "density"
            distribution = self.model.sites[site].distribution
            why = self.why.get(site) or f"{distribution} has no canonical form here"
            return Place(entry, None, None, None, f"the {what} {distribution} of {site!r} is used as it is: {why}")
        if own and hits:
            return Place(entry, None, None, None, f"{site!r} depends on itself")
        if own:
            conditional = self._shapes(entry, None)
            why = "" if conditional is not None else f"the prior {family.name} of {site!r} has no closed-form mode"
            return Place(entry, None, None, conditional, why)
        if len(hits) > 1:
            return Place(entry, None, None, None, f"it enters {site!r} through both {' and '.join(hits)}")
        argument = hits[0]
        canonical = self.is_prior(entry) or self.complete.factors[entry].canonical
        if canonical and argument in family.constants:
            return Place(entry, argument, None, None, f"the {argument} of {site!r} has no sufficient statistic")
        dependence = found[outputs[argument]]
        others = [
            n
            for n in self.complete.names
            if n != name and any(outputs.get(a) in self.single[n] for a in family.coupled if a != argument)
        ]
        if argument in family.coupled and others:
            why = f"{' and '.join(family.coupled)} of {site!r} have their maximum jointly"
            return Place(entry, argument, dependence, None, why)
        conditional = self._shapes(entry, argument)
        why = "" if conditional is not None else f"the {argument} of a {family.name} has no closed-form mode ({site!r})"
        return Place(entry, argument, dependence, conditional, why)

    def _shapes(self, entry: int, argument: str | None) -> Conditional | None:
        """The class (and static facts) of a conditional, without computing it."""
        probe = Occurrence(entry, argument, 1.0, 0, False, None, None)
        try:
            return jax.eval_shape(
                lambda p, s: probe.conditional("", self.complete, p, s), self.initial, list(self.slots)
            )
        except (jax.errors.ConcretizationTypeError, NotImplementedError):
            return None

    def floor(self, entry: int) -> Any:
        """Smallest allowed standard deviation (event...,) of a location family's data; None for others."""
        return None if self.is_prior(entry) else _floor(self.complete.factors[entry])


@functools.partial(jax.jit, static_argnums=0)
def _smallest(lead: int, centred: Array, weight: Array | None) -> Array:
    weight = jnp.ones([1] * lead) if weight is None else (weight > 0) * 1.0
    weight = jnp.broadcast_to(weight, jnp.broadcast_shapes(weight.shape, centred.shape[:lead]))
    weight = jnp.reshape(weight, [*weight.shape, *([1] * (centred.ndim - lead))])
    axes = tuple(range(lead))
    total = jnp.maximum(jnp.sum(weight, axes), 1.0)
    mean = jnp.sum(centred * weight, axes, keepdims=True) / total
    variance = jnp.sum((centred - mean) ** 2 * weight, axes) / total
    relative = _FLOOR if centred.dtype == jnp.float64 else _FLOOR_32
    return jnp.maximum(relative * jnp.sqrt(variance), 1e-12)


def _floor(factor: Any) -> Any:
    if "spread" in factor.constants:
        spread = jnp.asarray(factor.constants["spread"])
        return jnp.maximum((_FLOOR if spread.dtype == jnp.float64 else _FLOOR_32) * spread, 1e-12)
    if factor.family is None or factor.value is None:
        return None
    if "shift" not in factor.constants and not isinstance(factor.family, AbstractScaleMixture):
        return None
    lead = len(factor.latents) + len(factor.batch_shape)
    return _smallest(lead, factor.family.centre(factor.value), factor.weight)


def occurrence_of(look: Entries, name: str, place: Place, kind: str, diagonal: bool) -> tuple[Occurrence | None, str]:
    """One place as something that can be pooled and evaluated, or why it cannot."""
    shape = jnp.shape(look.initial[name])
    site = look.sites[place.entry]
    if place.argument is None:
        return Occurrence(place.entry, None, 1.0, 0, False, None, None), ""
    d = place.dependence
    assert d is not None
    coords = d.coordinates[name]
    floor = look.floor(place.entry)
    event_ndim = {"simplex": 1, "matrix": 2}.get(kind, 0)
    if event_ndim:
        if not d.pure or not whole_event(coords, event_ndim, shape):
            return None, f"the {place.argument} of {site!r} is {describe(d)}, not a selection of whole arrays"
        leading: Any = coords[: len(shape) - event_ndim]
        lead = tuple(np.squeeze(c, tuple(range(c.ndim - event_ndim, c.ndim))) for c in leading)
        index: Any = flat_index(lead, shape[: len(shape) - event_ndim])
        assert index is not None
        index = index if index.ndim else np.zeros((1,) * _lead(look, place), int)
        each = _each(index, shape[: len(shape) - event_ndim])
        return Occurrence(place.entry, place.argument, 1.0, event_ndim, False, index, floor, each=each), ""
    index = flat_index(coords, shape)
    if index is None or d.power is None or d.power == 0:
        return None, f"the {place.argument} of {site!r} is {describe(d)} in it"
    if kind in ("odds", "circular", "median") and not d.pure:
        return None, f"the {place.argument} of {site!r} is {describe(d)} in it"
    if diagonal:
        dim = max(index.shape[-2:])
        full = np.broadcast_to(index, (*index.shape[:-2], dim, dim))
        index = np.diagonal(full, axis1=-2, axis2=-1)
    elif index.ndim == 0:
        index = np.zeros((1,) * _lead(look, place), int)
    if floor is not None:
        is_variance = diagonal and getattr(place.conditional, "form", "") == "covariance"
        floor = _lowest(floor, 2 if is_variance else 1)
        floor = None if getattr(place.conditional, "form", "") == "precision" else floor
    each = _each(index, shape)
    return Occurrence(place.entry, place.argument, d.power, 0, diagonal, index, floor, each=each), ""


def _each(index: np.ndarray, shape: tuple[int, ...]) -> bool:
    return np.array_equal(np.reshape(index, -1), np.arange(math.prod(shape)))


@functools.partial(jax.jit, static_argnums=1)
def _lowest(floor: Array, power: int) -> Array:
    return jnp.min(floor) ** power


def _lead(look: Entries, place: Place) -> int:
    factor = (*look.complete.factors, *look.complete.priors)[place.entry]
    if look.is_prior(place.entry):
        return len(look.model.sites[factor.site].batch_shape)
    return len(factor.latents) + len(factor.batch_shape)  # type: ignore[union-attr]
