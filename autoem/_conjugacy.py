"""Conjugate latents: where each enters, and whether the features of all those places name one kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from ._family import (
    AbstractKernel,
    Conditional,
    ImproperUniform,
    InverseMatrix,
    LatentArgument,
    LogPower,
    MultivariateNormal,
    Normal,
    Odds,
    Power,
    PowerLaw,
    alternatives,
    embedded,
    exponent_of,
    freed,
    spanned,
)
from ._links import Dependence, analyse, describe, flat_index, is_concrete, own_coordinates, whole_event
from ._model import Model
from ._sites import Site, own_kernel
from ._types import Refusal


@dataclass(frozen=True)
class Entrance:
    """How one site holds one conjugate latent.

    Attributes:
        latent: the latent.
        kernel: its features.
        element: over the site's batch axes, compact: flat number of the element that is met.
        family: of a site with a latent argument; None for the latent's own density.
        columns: which of the kernel's features the family's are; None for all of them, in order.
        matrix: of the latent's own density: its statistics in terms of (1, φ(u)), (1 or elements, F, 1 + M).
        base: of the latent's own density: its log base measure in the same terms, (1 or elements, 1 + M).
        there: of the latent's own density: (elements,) which are not masked out; None where all are there.
    """

    latent: str
    kernel: AbstractKernel
    element: np.ndarray
    family: LatentArgument | None = None
    columns: tuple[int, ...] | None = None
    matrix: np.ndarray | None = None
    base: np.ndarray | None = None
    there: np.ndarray | None = None

    @property
    def scales_noise(self) -> bool:
        """Whether the precision of a Normal site is in proportion to the latent, or to its inverse."""
        if self.family is None or not isinstance(self.kernel, Power):
            return False
        return isinstance(self.family.inner, Normal | MultivariateNormal) and self.family.argument != "loc"


def find_entrances(model: Model, declined: Mapping[str, str]) -> dict[str, Entrance]:
    """Where the conjugate latents enter.

    Args:
        model: the model.
        declined: per site, why its exponential family cannot be used, or "".

    Returns:
        Site -> entrance, for every site that holds a conjugate latent.

    Raises:
        Refusal: a latent is not conjugate to all that depends on it, or two meet in one site.
    """
    result: dict[str, Entrance] = {}
    for name in model.conjugates:
        for site, entrance in _entrances(model, name, declined).items():
            if site in result:
                _refuse(model, name, f"{site!r} holds the latent {result[site].latent!r} too: together they "
                        "are not conjugate")  # fmt: skip
            result[site] = entrance
    return result


def _entrances(model: Model, name: str, declined: Mapping[str, str]) -> dict[str, Entrance]:
    """Where one latent enters, by the first kernel that has the features of all those places.

    Raises:
        Refusal: none has; why the kernel of its own density has not.
    """
    number = model.reads[name].number
    coordinates = own_coordinates(model.program.shape(number))
    own = model.sites[name]
    kernel = own_kernel(own, model.program, model.outputs[name])
    assert kernel is not None
    refusals = []
    for candidate in dict.fromkeys((kernel, *alternatives(own.constraint))):
        if isinstance(candidate, Odds):  # 1 - u has the same features: its last coordinate tells the two apart
            plain = np.zeros((1,) * coordinates[0].ndim, int)  # type: ignore[union-attr]
            found = analyse(model.program, {number: (name, (*coordinates, plain))}, complements=(name,))
        else:
            found = analyse(model.program, {number: (name, coordinates)})
        try:
            pairs = ((site.name, _entrance(model, name, site, found, declined[site.name], candidate))
                     for site in model.sites.values())  # fmt: skip
            return {site: entrance for site, entrance in pairs if entrance is not None}
        except Refusal as refusal:
            refusals.append(refusal)
    raise refusals[0]


def _refuse(model: Model, latent: str, why: str) -> NoReturn:
    raise Refusal(
        f"Site {latent!r} ({model.sites[latent].distribution}) is a continuous latent that autoem does not integrate "
        f"out: {why}. If it is a parameter, name it: maximize=[{latent!r}, ...] or maximize='global'."
    )


def _entrance(
    model: Model, latent: str, site: Site, found: Mapping[int, Dependence], declined: str, kernel: AbstractKernel
) -> Entrance | None:
    """How one site holds a latent, or None where it does not."""
    if site.name == latent:
        return _own(model, site, declined, kernel)
    out = model.outputs[site.name]
    if not any(i in found for i in jax.tree.leaves(out)):
        return None
    if site.role == "maximised":
        _refuse(model, latent, f"the prior of the maximised site {site.name!r} depends on it")
    for part in ("mask", "scale", "value"):
        if out[part] in found:
            what = "handler's scale" if part == "scale" else part
            _refuse(model, latent, f"the {what} of site {site.name!r} depends on it")
    if declined:
        _refuse(model, latent, f"site {site.name!r} ({site.distribution}) depends on it, and {declined}")
    hits = [a for a, i in out["arguments"].items() if i in found]
    if len(hits) != 1:
        _refuse(model, latent, f"it enters site {site.name!r} through both {' and '.join(hits)}" if hits
                else f"the support of site {site.name!r} depends on it")  # fmt: skip
    return _argument(model, latent, site, hits[0], found[out["arguments"][hits[0]]], kernel)


def _own(model: Model, site: Site, declined: str, kernel: AbstractKernel) -> Entrance:
    """A latent's own density."""
    out, family = model.outputs[site.name], site.family
    assert family is not None
    if declined:
        _refuse(model, site.name, declined)
    mask = None if out["mask"] is None else model.program.known.get(out["mask"])
    if out["mask"] is not None and (mask is None or not is_concrete(mask)):
        _refuse(model, site.name, "its mask is not known while the model is traced")
    constants = {n: _of_elements(model, site, out["arguments"][n]) for n in family.constants}
    found = spanned(kernel, family, constants, site.constraint)
    if found is None:
        _refuse(model, site.name, f"its statistics are not sums of {', '.join(kernel.describe)}")
    matrix, base = found
    count = int(np.prod(site.batch_shape))
    if isinstance(kernel, PowerLaw) and isinstance(family, ImproperUniform):
        _refuse(model, site.name, "its density is improper, and only data could bound it")
    element = np.arange(count).reshape(site.batch_shape)
    there = None if mask is None else np.broadcast_to(np.asarray(mask, bool), site.batch_shape).ravel()
    return Entrance(site.name, kernel, element, None, None, matrix, base, there)


def _of_elements(model: Model, site: Site, number: int) -> Any:
    """A known argument of a latent's own density: one number, or one for every element."""
    value = np.asarray(model.program.known[number])
    if np.unique(value).size == 1:
        return float(value.ravel()[0])
    return np.broadcast_to(value, site.batch_shape).ravel()


def _argument(
    model: Model, latent: str, site: Site, argument: str, d: Dependence, kernel: AbstractKernel
) -> Entrance:  # fmt: skip
    """A site one of whose arguments is a latent."""
    family = site.family
    assert family is not None
    where = f"the {argument} of site {site.name!r} ({site.distribution})"
    held = None
    if not d.selects(latent):
        _refuse(model, latent, f"each element of {where} depends on several elements of it (or an index hides which: "
                "a latent's, or one that is traced)")  # fmt: skip
    conditional = _conditional(model, latent, site, argument)
    power = d.power if kernel.scales else 1.0 if d.pure else None
    if conditional is not None and power is not None:
        held = embedded(conditional, power, kernel, _complements(site, argument, d.coordinates[latent], kernel))
        if held is None:
            _refuse(model, latent, f"it enters its own density through {{{', '.join(kernel.describe)}}} and {where} "
                    f"through {{{_features(conditional, power)}}}, so the two are not conjugate")  # fmt: skip
    elif conditional is None:
        _refuse(model, latent, f"{where} depends on it, and that argument has no features to be conjugate to")
    else:
        form = "c · u^p" if kernel.scales else "a selection"
        _refuse(model, latent, f"{where} is {describe(d)} in it, not {form}")
    assert power is not None and held is not None
    element = _element(model, latent, site, argument, d, where, kernel)
    inner = family
    if isinstance(kernel, PowerLaw):
        _require_known_bound(model, latent, site, argument)
        inner = freed(family, argument) or family
    return Entrance(latent, kernel, element, LatentArgument(inner, argument, float(power), held[0]), held[1])


def _require_known_bound(model: Model, latent: str, site: Site, argument: str) -> None:
    """Where a latent is an end of a site's support, what multiplies it decides which values are possible: a number.

    Raises:
        Refusal: it is not, or a Uniform site does not begin at 0.
    """
    arguments = model.outputs[site.name]["arguments"]
    unknown = {i: (n, (None,) * max(1, len(model.program.shape(i)))) for n, i in model.inputs.items()}
    moved = analyse(model.program, unknown, kinds=False)
    if arguments[argument] in moved:
        _refuse(model, latent, f"it is where the support of site {site.name!r} ends, times a parameter")
    low = model.program.known.get(arguments["low"]) if "low" in arguments else 0.0
    if low is None or not is_concrete(low) or np.any(np.asarray(low) != 0):
        _refuse(model, latent, f"site {site.name!r} does not begin at 0, so that its length is not in proportion to it")


def _complements(site: Site, argument: str, coordinates: Any, kernel: AbstractKernel) -> tuple[int, ...]:
    """Where an argument is a probability (0) and where its complement (1): one number, or one a component.

    () where it is now this, now that.
    """
    if not isinstance(kernel, Odds):
        return (0,)
    assert site.family is not None
    flips = np.asarray(coordinates[-1])
    size = flips.shape[-1] if site.family.argument_ndims[argument] else 1
    flat = flips.reshape(-1, size)
    return tuple(flat[0].tolist()) if np.all(flat == flat[0]) and flat.min() >= 0 else ()


def _features(conditional: Conditional, power: float) -> str:
    if isinstance(conditional, LogPower | InverseMatrix):
        return f"log u, u^{exponent_of(conditional) * power:g}"
    return conditional.features


def _conditional(model: Model, latent: str, site: Site, argument: str) -> Conditional | None:
    """The conditional of an argument, without numbers."""
    family, numbers = site.family, model.outputs[site.name]["arguments"]
    assert family is not None
    if argument in family.constants:
        family = freed(family, argument)
        if family is None:
            return None
    constants = {}
    for name in family.constants:
        value = model.program.known.get(numbers[name])
        if value is None:
            _refuse(model, latent, f"the {name} of site {site.name!r} depends on another latent")
        one = is_concrete(value) and np.unique(value).size == 1
        constants[name] = float(np.ravel(value)[0]) if one else value
    real = jnp.result_type(float)
    given = {n: jax.ShapeDtypeStruct(model.program.shape(i), real) for n, i in numbers.items()}
    count = jax.eval_shape(lambda a: family.slots(a, constants), given).shape[-1]
    statistics = jax.ShapeDtypeStruct((count,), real)
    return jax.eval_shape(lambda t, a: family.argument_conditional(argument, t, a, constants), statistics, given)


def _element(
    model: Model, latent: str, site: Site, argument: str, d: Dependence, where: str, kernel: AbstractKernel
) -> np.ndarray:  # fmt: skip
    """Flat number of the latent's element that each element of a site meets, over its batch axes, compact."""
    family = site.family
    assert family is not None
    shape = model.program.shape(model.reads[latent].number)
    coords = d.coordinates[latent]
    if isinstance(kernel, Odds):
        coords = coords[:-1]
    event = model.sites[latent].event_ndim
    if event:
        if not whole_event(coords, event, shape):
            _refuse(model, latent, f"{where} is not a selection of whole vectors of it")
        axes = tuple(range(-event, 0))
        coords = tuple(np.squeeze(c, axes) for c in coords[: len(shape) - event] if c is not None)
        shape = shape[: len(shape) - event]
    flat = flat_index(coords, shape) if coords else np.zeros((), int)
    assert flat is not None
    if np.any(flat < 0):
        _refuse(model, latent, f"some elements of {where} do not depend on it")
    within = family.argument_ndims[argument] - event
    if within:  # one number for a whole matrix
        axes = tuple(range(-min(within, np.ndim(flat)), 0))
        if np.any(flat != flat.max(axes, keepdims=True)):
            _refuse(model, latent, f"{where} holds several elements of it in one matrix")
        flat = flat.max(axes)
    return np.reshape(flat, [1] * (len(site.batch_shape) - np.ndim(flat)) + list(np.shape(flat)))
