"""From sites to factors: arguments for every latent value as a function of the parameters, and the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._complete import CompleteData, Prior
from ._conjugacy import Entrance
from ._design import Design, design_of
from ._evidence import Factor
from ._family import AbstractWeighted
from ._links import (
    Coordinates,
    Dependence,
    Lazy,
    Program,
    affine_part,
    analyse,
    compacted,
    evaluate_lazily,
    is_concrete,
    own_coordinates,
    restricted,
    trace,
)
from ._model import Model
from ._reads import Read
from ._rows import Touch, aligned_columns, coefficient_parts, columns_of, family_of, residual_parts
from ._sites import Site
from ._types import Refusal


@dataclass(frozen=True)
class Skeleton:
    """How one site enters, before any array is built.

    Attributes:
        site: the site.
        canonical: whether its exponential family is used; else its log density.
        why: if not, why.
        latents: discrete latents that it depends on.
        coordinates: per latent, over the site's batch axes.
        touches: how it meets the Gaussian latents.
        entrance: how it holds a conjugate latent, if it does.
        met: per latent that is integrated numerically, which elements each element of the site meets, over its batch
            axes; None along an axis of which it meets all.
    """

    site: Site
    canonical: bool
    why: str
    latents: tuple[str, ...]
    coordinates: dict[str, Coordinates]
    touches: tuple[Touch, ...] = ()
    entrance: Entrance | None = None
    met: Mapping[str, Coordinates] = field(default_factory=dict)


def numbers_of(site: Site, out: Mapping[str, Any], canonical: bool) -> dict[str, tuple[int, int]]:
    """Value number and event axes of everything that a site's factor uses."""
    if site.role == "maximised":
        numbers = {"@log_prob": (out["log_prob"], 0)}
        if site.family is not None:
            numbers |= {n: (out["arguments"][n], d) for n, d in site.family.argument_ndims.items()}
        return numbers
    if site.role == "conjugate":
        assert site.family is not None
        return {n: (out["arguments"][n], d) for n, d in site.family.argument_ndims.items()}
    density = {} if canonical else {"@log_prob": (out["log_prob"], 0)}
    if not canonical and not isinstance(site.family, AbstractWeighted):
        return density
    assert site.family is not None
    numbers = {n: (out["arguments"][n], d) for n, d in site.family.argument_ndims.items()}
    return density | numbers | {"@value": (out["value"], site.event_ndim)}


@dataclass(frozen=True)
class _Aligned:
    """Parameters (and points) -> per site the arguments of its factor, aligned, for every value of its latents.

    Attributes:
        model, program, skeletons, by_latent, axes: as for `complete_data`.
        shared: whether there are latents whose elements share their points.
    """

    model: Model
    program: Program
    skeletons: Sequence[Skeleton]
    by_latent: Mapping[int, Dependence]
    axes: Mapping[str, str]
    shared: bool

    def __call__(self, *given: Any) -> list[dict[str, Any]]:
        """The entries, in the order of the skeletons."""
        wanted, extras = self._wanted(), self._extras()
        numbers = [i for w in wanted.values() for i, _ in w.values()] + [i for e in extras.values() for i in e.values()]
        inputs = self._inputs(given)
        if self.shared:
            fixed = [w["@value"][0] for w in wanted.values() if "@value" in w]
            fixed += [i for e in extras.values() for i in e.values()]
            inputs |= self._data(fixed)
        unheld = {i: None for i in self.program.inputs if i not in inputs}
        order = (*dict.fromkeys(self.axes.values()), *self.model.axes)
        values = evaluate_lazily(self.program, {**inputs, **unheld}, self.program.known, self.by_latent, order, numbers)
        entries = []
        for s in self.skeletons:
            ndim = len(s.site.batch_shape)
            entry = {}
            for key, (number, event_ndim) in wanted[s.site.name].items():
                lazy = values[number]
                assert lazy is not None
                lazy = lazy.expanded(range(len(lazy.shape) - event_ndim, len(lazy.shape)))
                entry[key] = lazy.aligned(s.latents, ndim, event_ndim)
            for key, number in extras[s.site.name].items():
                entry[key] = values[number].aligned(s.latents, ndim)  # type: ignore[union-attr]
            if s.touches:
                entry |= residual_parts(self.model, self.program, s.site, s.touches, inputs, s.latents, self.model.axes)
            entries.append(entry)
        return entries

    def _data(self, fixed: Sequence[int]) -> dict[int, Lazy]:
        """Data other than those, without axes along which they do not vary: zeros(n) is one zero."""
        return {
            i: Lazy(compacted(np.asarray(v)), np.shape(v))
            for i, v in self.program.known.items()
            if i not in fixed and is_concrete(v) and np.size(v) > 1
        }

    def _wanted(self) -> dict[str, dict[str, tuple[int, int]]]:
        outputs = self.model.outputs
        wanted = {s.site.name: numbers_of(s.site, outputs[s.site.name], s.canonical) for s in self.skeletons}
        for s in self.skeletons:
            if s.touches:  # its location and value are held as parts
                wanted[s.site.name] = {n: i for n, i in wanted[s.site.name].items() if n not in ("loc", "@value")}
        return wanted

    def _extras(self) -> dict[str, dict[str, int]]:
        outputs = {s.site.name: self.model.outputs[s.site.name] for s in self.skeletons}
        return {
            name: {f"@{k}": i for k in ("mask", "scale") if (i := out[k]) is not None} for name, out in outputs.items()
        }

    def _inputs(self, given: Sequence[Any]) -> dict[int, Lazy]:
        """Parameters as given, latents at their points, for all their values, or (what multiplies them) at one."""
        model, program = self.model, self.program
        count = len(model.parameters)
        inputs = {i: Lazy(p, program.shape(i)) for i, p in zip(program.inputs, given[:count], strict=False)}
        for name, value in zip(self.axes, given[count:], strict=True):
            for read in (r for r in model.reads.values() if r.latent == name):
                own = value if read.coordinates is None else _read(value, read)
                inputs[read.number] = Lazy(own, read.shape, (self.axes[name],))
        for name in model.axes:
            number, support = model.reads[name].number, model.support(name)
            ndim = len(program.shape(number)) - (support.ndim - 1)
            values = np.reshape(support, (len(support), *([1] * ndim), *support.shape[1:]))
            inputs[number] = Lazy(values.astype(program.avals[number].dtype), program.shape(number), (name,))
        for name in model.conjugates:
            number = model.reads[name].number
            shape = program.shape(number)
            inputs[number] = Lazy(np.ones((1,) * len(shape), program.avals[number].dtype), shape)
        return inputs


def complete_data(
    model: Model,
    program: Program,
    skeletons: Sequence[Skeleton],
    by_latent: Mapping[int, Dependence],
    axes: Mapping[str, str],
    shared: Mapping[str, tuple[int, ...]],
) -> tuple[CompleteData, dict[str, Design]]:
    """Trace parameters -> aligned arguments for every latent value, and collect the data.

    Args:
        model, program: the model, and the part of its program that is used.
        skeletons: how every site enters.
        by_latent: how values depend on the discrete latents.
        axes: latents that are integrated numerically -> name of their points' axis.
        shared: those whose elements share their points, with the shape of one.

    Returns:
        The complete-data log density, and the design of every site with Gaussian latents.
    """
    points = {
        n: starting_point(model.hidden[n], shared.get(n, model.avals[n].shape), model.avals[n].dtype) for n in axes
    }
    initial = [*(p.initial for p in model.parameters.values()), *points.values()]
    linked, tree = trace(_Aligned(model, program, skeletons, by_latent, axes, bool(shared)), *initial)
    entries = jax.tree.unflatten(tree, linked.outputs)
    designs: dict[str, Design] = {}
    if any(s.touches for s in skeletons):
        linked, entries, designs = _with_columns(linked, entries, skeletons, initial)
    imputed = _imputed(model, by_latent)
    factors, priors, outputs = [], [], []
    for skeleton, entry in zip(skeletons, entries, strict=True):
        data = {key: _data(linked, entry[key]) for key in entry}
        weight = _weight(data)
        if _is_scaled_by_data(skeleton, data):
            linked, entry = _unscaled(linked, entry, skeleton)
        if skeleton.touches:
            factors.append(_gaussian_factor(skeleton, designs[skeleton.site.name]))
        elif skeleton.site.role == "conjugate":
            factors.append(_own_factor(skeleton, data))
        elif skeleton.site.role == "maximised":
            priors.append(Prior(skeleton.site.name, skeleton.site.family, weight))
        else:
            factors.append(_factor(skeleton, data, weight, skeleton.site.name in imputed))
        kept = ("@value",) if skeleton.met and data.get("@value") is None else ()
        gone = {"@mask", "@scale", "@value", "@base"}.difference(kept)
        outputs.append(tuple((k, i) for k, i in entry.items() if k not in gone))
    used = {i for n in linked.nodes for i in n.inputs} | {i for entry in outputs for _, i in entry}
    known = {i: v for i, v in linked.known.items() if i in used}
    numbered = tuple(dict.fromkeys(i for entry in outputs for _, i in entry))
    lean = Program(linked.nodes, linked.inputs, numbered, linked.avals, known)
    blocks = _moving(lean, dict(zip(axes, lean.inputs[len(model.parameters) :], strict=True)), axes)
    entries_ = tuple(outputs), tuple(factors), tuple(priors)
    return CompleteData(lean, known, tuple(model.parameters), *entries_, points, tuple(points), blocks), designs


def _is_scaled_by_data(skeleton: Skeleton, data: Mapping[str, Any]) -> bool:
    """Whether an argument is c · u^p of a conjugate latent u with many known c > 0: exposures, offsets."""
    entrance = skeleton.entrance
    if entrance is None or entrance.family is None or not entrance.kernel.scales or skeleton.touches:
        return False
    if entrance.family.argument_ndims[entrance.family.argument] or entrance.family.bounding:
        return False
    c = data[entrance.family.argument]
    if c is None or not is_concrete(c) or np.size(c) < 2:
        return False
    return entrance.family.quadratic or bool(np.all(np.asarray(c) > 0))


def _unscaled(
    linked: Program, entry: Mapping[str, int], skeleton: Skeleton
) -> tuple[Program, dict[str, int]]:  # fmt: skip
    """The program with one for c, which goes into the statistics: then the slots are not as many as the data."""
    family = skeleton.entrance.family  # type: ignore[union-attr]
    assert family is not None
    old, new = entry[family.argument], len(linked.avals)
    while new in linked.avals:
        new += 1
    aval = linked.avals[old]
    one = np.ones((1,) * len(aval.shape), aval.dtype)
    avals = linked.avals | {new: jax.ShapeDtypeStruct(one.shape, aval.dtype)}
    return replace(linked, avals=avals, known=linked.known | {new: one}), {**entry, family.argument: new}


def _read(value: Any, read: Read) -> Any:
    """Those elements of a latent's points (points, *shape) that are read: (points, *shape of the read)."""
    return jnp.reshape(value, (len(value), -1))[:, read.elements(value.shape[1:])]


def starting_point(site: Site, shape: tuple[int, ...], dtype: Any) -> Any:
    """Some value of a continuous latent, with an axis for points: (1, *shape)."""
    with jax.ensure_compile_time_eval():  # under the user's jit, too
        return np.asarray(site.constraint.feasible_like(np.zeros((1, *shape), dtype)), dtype)


def _moving(program: Program, inputs: Mapping[str, int], axes: Mapping[str, str]) -> Any:
    """Per axis of points, its latents and the outputs of the program that depend on them."""
    blocks = []
    for axis in dict.fromkeys(axes.values()):
        names = tuple(n for n in axes if axes[n] == axis)
        found = analyse(program, {inputs[n]: (n, (None,)) for n in names}, kinds=False)
        blocks.append((names, tuple(i for i, number in enumerate(program.outputs) if number in found)))
    return tuple(blocks)


def _with_columns(
    linked: Program, entries: Sequence[dict[str, int]], skeletons: Sequence[Skeleton], initial: Sequence[Any]
) -> tuple[Program, list[dict[str, int]], dict[str, Design]]:
    """Replace the parts of residuals by their coefficients: what those multiply is data."""
    parts = [{k: i for k, i in e.items() if _is_part(k)} if s.touches else {}
             for s, e in zip(skeletons, entries, strict=True)]  # fmt: skip
    affine = affine_part(linked, [i for own in parts for i in own.values()])
    found = analyse(affine, {i: (str(i), own_coordinates(affine.shape(i))) for i in affine.inputs})
    columns = [columns_of(affine, found, own, len(s.latents)) for s, own in zip(skeletons, parts, strict=True)]
    plain = [{k: i for k, i in e.items() if k not in own} for e, own in zip(entries, parts, strict=True)]
    outputs = list(dict.fromkeys([i for e in plain for i in e.values()] + list(affine.inputs)))
    program = restricted(linked, outputs)

    def arguments(*params: Any) -> list[dict[str, Any]]:
        values = dict(zip(outputs, program(params), strict=True))
        result = []
        for skeleton, entry, own in zip(skeletons, plain, columns, strict=True):
            held = {k: values[i] for k, i in entry.items()}
            if skeleton.touches:
                held["columns"] = aligned_columns(own, values, len(skeleton.latents) + len(skeleton.site.batch_shape))
            result.append(held)
        return result

    traced, tree = trace(arguments, *initial)
    numbers = jax.tree.unflatten(tree, traced.outputs)
    designs = {}
    for s, entry, own, held in zip(skeletons, numbers, columns, parts, strict=True):
        if s.touches:
            weight = _weight({key: _data(traced, i) for key, i in entry.items()})
            design = coefficient_parts(affine, held, own)
            dim = max(a.shape[-1] for a in design.values())
            kept = traced.shape(entry["columns"])[:-1]
            base = _data(traced, entry["@base"]) if "@base" in entry else None
            if "@base" in entry and base is None:
                raise Refusal(f"The value of site {s.site.name!r} depends on a parameter.")
            family = family_of(s.site, dim, own)
            designs[s.site.name] = design_of(s.site, s.latents, s.touches, own, family, design, weight, kept, base)
    return traced, numbers, designs


def _is_part(key: str) -> bool:
    return key == "@0" or key.startswith(("@loc:", "@value:"))


def _gaussian_factor(skeleton: Skeleton, design: Design) -> Factor:
    """A site with Gaussian latents; its statistics come from the E-step."""
    constants = {"reference": as_floats(design.reference)}
    if design.spread is not None:
        constants["spread"] = as_floats(design.spread)
    site = skeleton.site
    return Factor(site.name, skeleton.latents, site.batch_shape, (), True, design.family, None, constants, None, None)


def _own_factor(skeleton: Skeleton, data: Mapping[str, Any]) -> Factor:
    """The own density of a conjugate latent; its statistics come from the E-step."""
    site = skeleton.site
    assert site.family is not None
    constants = {n: data[n] for n in site.family.constants}
    return Factor(site.name, skeleton.latents, site.batch_shape, (), True, site.family, None, constants, None, None)


def _data(program: Program, number: int) -> Any:
    return program.known.get(number)


def _weight(data: Mapping[str, Any]) -> Any:
    weight = None
    for key in ("@mask", "@scale"):
        if data.get(key) is not None:
            part = as_floats(data[key])
            weight = part if weight is None else weight * part
    return weight


def as_floats(value: Any) -> Any:
    """As floats: on the host where the data are numbers (nothing to compile), traced otherwise."""
    dtype = jnp.result_type(float)
    return np.asarray(value, dtype) if is_concrete(value) else jnp.asarray(value, dtype)


def _imputed(model: Model, by_latent: Mapping[int, Dependence]) -> set[str]:
    """Latents that fill in a part of some observed value: their density is given there."""
    found: set[str] = set()
    for name, site in model.sites.items():
        number = model.outputs[name]["value"]
        if site.role == "observed" and number in by_latent:
            found.update(by_latent[number].coordinates)
    return found


def _factor(skeleton: Skeleton, data: Mapping[str, Any], weight: Any, imputed: bool) -> Factor:
    site = skeleton.site
    keep = tuple(
        a
        for a in range(len(site.batch_shape))
        if any(c is not None and c.shape[a] > 1 for coords in skeleton.coordinates.values() for c in coords)
    )
    offset = None
    if site.role == "latent" and data.get("@mask") is not None and not imputed:
        # A latent that is masked out is summed with total weight 1.
        offset = (as_floats(data["@mask"]) - 1.0) * np.log(len(site.support))
        if data.get("@scale") is not None:
            offset = offset * data["@scale"]
    moving = bool(skeleton.met)
    facts = (site.name, skeleton.latents, site.batch_shape, keep, skeleton.canonical)
    if not skeleton.canonical:
        value = data.get("@value")
        family = site.family if isinstance(site.family, AbstractWeighted) and value is not None else None
        return Factor(*facts, family, value if family else None, {}, weight, offset, moving)
    assert site.family is not None
    # A constant that is one number belongs to the structure: an exponent has to be known when the update is written.
    constants = {n: data[n] for n in site.family.constants}
    constants = {n: float(np.asarray(v).ravel()[0]) if is_concrete(v) and np.size(v) == 1 else v
                 for n, v in constants.items()}  # fmt: skip
    value = data["@value"]
    if value is None:  # moves with the points
        return Factor(*facts, site.family, None, constants, weight, offset, moving)
    if site.role == "observed" and not jnp.issubdtype(value.dtype, jnp.integer):
        value = as_floats(value)
    shift = _shift(site, skeleton, data, value, weight)
    if shift is not None:
        constants["shift"] = shift
    if _is_scaled_by_data(skeleton, data):
        constants["coefficient"] = as_floats(data[skeleton.entrance.family.argument])  # type: ignore[union-attr]
    family = site.family if skeleton.entrance is None else skeleton.entrance.family
    return Factor(*facts, family, value, constants, weight, offset, moving)


def _shift(site: Site, skeleton: Skeleton, data: Mapping[str, Any], value: Any, weight: Any) -> Any:
    """Where to centre the data: the mean over the axes that the arguments share."""
    assert site.family is not None
    lead = len(skeleton.latents)
    centred = site.family.centre(value)
    if centred is None or site.role == "latent" or any(n > 1 for n in jnp.shape(value)[:lead]):
        return None
    axes = tuple(range(lead, lead + len(site.batch_shape)))
    host = is_concrete(centred, weight)
    xp: Any = np if host else jnp
    centred = np.asarray(centred) if host else centred
    if weight is None:
        return centred.mean(axes, keepdims=True)
    weight = xp.max(weight, tuple(range(lead)), keepdims=True) if lead else weight
    live = xp.broadcast_to((weight > 0) * xp.ones((), centred.dtype), centred.shape[: lead + len(site.batch_shape)])
    live = xp.reshape(live, [*live.shape, *([1] * (centred.ndim - live.ndim))])
    return xp.sum(centred * live, axes, keepdims=True) / xp.maximum(xp.sum(live, axes, keepdims=True), 1.0)
