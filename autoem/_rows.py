"""Normal sites that hold Gaussian latents, as rows of residuals: r = value - loc, affine in the latents.

Two steps. First, at given parameters and for every value of the discrete latents, a residual is split into what is
constant and what is linear in each latent (`residual_parts`). Then those parts are split into what is constant and
what is linear in each coefficient (`coefficient_parts`): what is left is data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._family import LinearGaussian, MultivariateNormal, Normal
from ._links import (
    Coordinates,
    Dependence,
    Lazy,
    Program,
    analyse,
    linear_parts,
    own_coordinates,
    restricted,
    seed,
)
from ._model import Model
from ._sites import Site
from ._types import Refusal

_RECURS = (
    " A state that the scan hands on is computed from it step by step. Sample the new state itself, from a Normal "
    "around what the step makes of the old one, and hand on older values as they are, "
    "jnp.concatenate([new[None], old[:-1]]): then it is a chain."
)


@dataclass(frozen=True)
class Touch:
    """How one side ("value" or "loc") of a residual meets one read of a Gaussian latent.

    Attributes:
        side: which side.
        read: name of the read.
        latent: the latent.
        elements: flat element numbers in the latent of what is read.
        coordinates: per axis of the read (event axes included), over the site's batch and event axes; None: mixed.
        mixed: axes of the read of which each row meets all elements.
        shape: shape of the read.
    """

    side: str
    read: str
    latent: str
    elements: np.ndarray
    coordinates: Coordinates
    mixed: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def key(self) -> str:
        """Name of the array that multiplies the latent."""
        return f"@{self.side}:{self.read}"

    @property
    def width(self) -> int:
        """Elements that one row meets."""
        return math.prod(self.shape[a] for a in self.mixed)


def gaussian_dependence(model: Model, program: Program) -> dict[int, Dependence]:
    """How every value depends on the Gaussian latents, jointly."""
    unknowns = {}
    for name, read in model.reads.items():
        if read.latent in model.gaussians and read.number in program.inputs:
            unknowns[read.number] = (name, own_coordinates(read.shape))
    return analyse(program, unknowns)


def touches_of(model: Model, site: Site, found: Mapping[int, Dependence]) -> tuple[Touch, ...]:
    """Where the Gaussian latents enter a site: () where they do not.

    Raises:
        Refusal: a latent enters in any way but affinely through the location or value of a Normal.
    """
    out = model.outputs[site.name]
    sides = {"value": out["value"], "loc": out["arguments"].get("loc")}
    other = [(n, i) for n, i in out["arguments"].items() if n != "loc"]
    other += [("mask", out["mask"]), ("handler's scale", out["scale"])]
    hit = [i for i in (*sides.values(), *(i for _, i in other), out["log_prob"]) if i in found]
    if not hit:
        return ()
    names = dict.fromkeys(model.reads[n].latent for i in hit for n in found[i].coordinates)
    shown = ", ".join(map(repr, names))
    if site.role == "maximised":
        raise Refusal(f"The prior of the maximised site {site.name!r} depends on the latent {shown}.")
    if site.family is None or site.family.name not in ("normal", "multivariate normal", "log-normal"):
        raise Refusal(
            f"Site {site.name!r} ({site.distribution}) depends on the continuous latent {shown}: only Normal sites "
            f"leave it Gaussian. If it is a parameter, name it: maximize=[{shown}]."
        )
    for argument, number in other:
        if number in found:
            raise Refusal(
                f"The {argument} of site {site.name!r} depends on the continuous latent {shown}: given the data that "
                f"latent is not Gaussian. If it is a parameter, name it: maximize=[{shown}]."
            )
    touches = []
    for side, number in sides.items():
        if number is None or number not in found:
            continue
        d = found[number]
        if not d.affine or (side == "value" and site.family.name == "log-normal"):
            how = ", ".join(d.steps) or "a product of latents"
            raise Refusal(
                f"The {side} of site {site.name!r} is not affine in the continuous latent {shown} (through {how}): "
                "given the data that latent is not Gaussian." + (_RECURS if "scan" in d.steps else "")
            )
        event_ndim = site.event_ndim
        shape = model.program.shape(number)
        pad = len(site.batch_shape) + event_ndim - len(shape)
        for name, coords in d.coordinates.items():
            moved = tuple(None if c is None else c.reshape([1] * pad + list(c.shape)) for c in coords)
            read = model.reads[name]
            mixed = tuple(a for a, c in enumerate(moved) if c is None and a < len(read.shape))
            elements = read.elements(model.avals[read.latent].shape).reshape(-1)
            touches.append(Touch(side, name, read.latent, elements, moved, mixed, read.shape))
    return tuple(touches)


def residual_parts(
    model: Model,
    program: Program,
    site: Site,
    touches: Sequence[Touch],
    inputs: Mapping[int, Lazy],
    latents: Sequence[str],
    order: Sequence[str],
) -> dict[str, Any]:
    """The residual at given parameters: "@0" and one array per touch.

    Args:
        model, program: the model, and the part of its program that is used.
        site, touches: the site.
        inputs: parameters and discrete latents.
        latents: discrete latents of the site.
        order: all discrete latents.

    Returns:
        "@0": (latents..., batch..., [D]); per touch: (latents..., width, batch..., [D]); length 1 where constant.
    """
    out = model.outputs[site.name]
    given = {i: {"": v} for i, v in inputs.items()}
    ndim, event_ndim = len(site.batch_shape), site.event_ndim
    result: dict[str, Any] = {}
    for side, number, sign in (("value", out["value"], 1), ("loc", out["arguments"]["loc"], -1)):
        own = {t.read: t for t in touches if t.side == side}
        seeds = {model.reads[n].number: seed(n, t.shape, t.mixed) for n, t in own.items()}
        part = restricted(program, [number])
        (parts,) = linear_parts(part, {**given, **seeds}, part.known, list(own), order, [number]).values()
        for key, value in parts.items():
            value = value.expanded(range(len(value.shape) - event_ndim, len(value.shape)))
            array = value.aligned((*latents, f"@{key}") if key else latents, ndim, event_ndim)
            if side == "value" and site.family is not None and site.family.name == "log-normal":
                result["@base"] = -jnp.log(array)
                array = jnp.log(array)
            if key:
                result[own[key].key] = sign * array
            else:
                result["@0"] = result.get("@0", 0.0) + sign * array
    result.setdefault("@0", jnp.zeros([1] * (len(latents) + ndim + event_ndim)))
    if event_ndim:
        dim = max(a.shape[-1] for a in result.values())
        return {k: jnp.broadcast_to(a, (*a.shape[:-1], dim)) for k, a in result.items()}
    return {k: a if k == "@base" else a[..., None] for k, a in result.items()}


@dataclass(frozen=True)
class Columns:
    """The coefficients of one site: values in which its residual is affine.

    Attributes:
        numbers: value numbers (parameters, or functions of them) in the program.
        separable: per value, its axis -> aligned axis (discrete latents, then batch) along which it runs.
        widths: per value, how many coefficients of it a row meets.
    """

    numbers: tuple[int, ...]
    separable: tuple[tuple[tuple[int, int], ...], ...]
    widths: tuple[int, ...]

    @property
    def width(self) -> int:
        """Number of coefficients that a row meets."""
        return sum(self.widths)


def columns_of(program: Program, found: Mapping[int, Dependence], entry: Mapping[str, int], lead: int) -> Columns:
    """Which of a program's inputs a residual's parts hold, and along which of its axes each of them runs.

    Args:
        program: the affine part of the links.
        found: how its values depend on its inputs, jointly.
        entry: key of a part (see `residual_parts`) -> value number.
        lead: number of discrete latents of the site.
    """
    own, separable, widths = [], [], []
    for source in program.inputs:
        name, shape = str(source), program.shape(source)
        candidates: list[set[int]] = [set() for _ in shape]
        seen = False
        for key, number in entry.items():
            if number not in found or name not in found[number].coordinates:
                continue
            here = [_run(c, key != "@0", lead) for c in found[number].coordinates[name][: len(shape)]]
            candidates = [h if not seen else c & h for c, h in zip(candidates, here, strict=True)]
            seen = True
        if not seen:
            continue
        axes: list[tuple[int, int]] = []
        for axis, options in enumerate(candidates):
            free = sorted(o for o in options if o not in [b for _, b in axes])
            if free:
                axes.append((axis, free[0]))
        own.append(source)
        separable.append(tuple(axes))
        widths.append(math.prod(n for a, n in enumerate(shape) if a not in dict(axes)))
    return Columns(tuple(own), tuple(separable), tuple(widths))


def _run(coordinate: np.ndarray | None, seeded: bool, lead: int) -> set[int]:
    """The aligned axis along which a coordinate counts 0, 1, 2, ...; an event axis or a seeded axis is none."""
    if coordinate is None:
        return set()
    varying = [a for a, n in enumerate(coordinate.shape) if n > 1]
    if len(varying) != 1 or not np.array_equal(coordinate.reshape(-1), np.arange(coordinate.size)):
        return set()
    axis = varying[0]
    if axis == coordinate.ndim - 1 or (seeded and axis == lead):
        return set()
    return {axis - 1 if seeded and axis > lead else axis}


def aligned_columns(columns: Columns, values: Mapping[int, Any], ndim: int) -> Any:
    """All coefficients of a site as one vector per aligned element: (aligned..., width), length 1 where they agree."""
    pieces = []
    for number, separable, width in zip(columns.numbers, columns.separable, columns.widths, strict=True):
        axes = [a for a, _ in separable]
        value = jnp.moveaxis(values[number], axes, range(len(axes)))
        lengths = value.shape[: len(axes)]
        value = jnp.reshape(value, (*lengths, width))
        value = jnp.transpose(value, (*np.argsort([b for _, b in separable]).tolist(), len(axes)))
        shape = [1] * ndim + [width]
        for length, (_, position) in zip(lengths, separable, strict=True):
            shape[position] = length
        pieces.append(jnp.reshape(value, shape))
    if not pieces:
        return jnp.zeros([1] * ndim + [0])
    lead = jnp.broadcast_shapes(*(p.shape[:-1] for p in pieces))
    return jnp.concatenate([jnp.broadcast_to(p, (*lead, p.shape[-1])) for p in pieces], -1)


def coefficient_parts(program: Program, entry: Mapping[str, int], columns: Columns) -> dict[tuple[str, int], Any]:
    """The residual's parts, split by coefficient: data.

    Args:
        program: the affine part of the links.
        entry: key of a part -> value number.
        columns: the site's coefficients.

    Returns:
        (key of the part, -1) or (key, value number) -> array with a leading axis of 1 or of the value's width, then
        as in `residual_parts`.
    """
    names = [str(i) for i in columns.numbers]
    seeds = {
        i: seed(str(i), program.shape(i), [a for a in range(len(program.shape(i))) if a not in dict(separable)])
        for i, separable in zip(columns.numbers, columns.separable, strict=True)
    }

    def split(known: dict[int, Any]) -> dict[tuple[str, int], Any]:
        result = {}
        for key, number in entry.items():
            part = restricted(program, [number])
            (parts,) = linear_parts(part, seeds, {**part.known, **known}, names, (), [number]).values()
            for name, value in parts.items():
                array = jnp.asarray(value.array)
                result[key, int(name) if name else -1] = array if value.latents else array[None]
        return result

    with jax.ensure_compile_time_eval():
        return split(program.known)


def family_of(site: Site, dim: int, columns: Columns) -> LinearGaussian:
    """The exponential family of a site's rows."""
    noise = site.family
    assert isinstance(noise, Normal | MultivariateNormal)
    plain = Normal() if isinstance(noise, Normal) else noise
    return LinearGaussian(plain, dim, columns.width)
