"""Components of a mixture, element by element: the arguments of the one that an index names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from .._family import find_family
from .._links import is_concrete
from .._types import Array
from .._wrappers import peel
from ._base import Unsuitable


def selected(components: Any, index: Array) -> Any:
    """Per element, the component that an index names.

    Its arguments are gathered from those of all components, as in `locs[z]`: to the analysis of links the result is
    what a user would have written with an explicit assignment.

    Args:
        components: a distribution whose last batch axis counts the components, wrapped or not.
        index: integers, shape (elements...).
    """
    peeled = peel(components)
    arguments = arguments_of(peeled.base)
    chosen = {n: _pick(a, index, ndim + peeled.hidden) for n, (a, ndim) in arguments.items()}
    fn = rebuilt(peeled.base, chosen)
    return fn.to_event(peeled.hidden) if peeled.hidden else fn


def _pick(array: Any, index: Array, tail: int) -> Any:
    """array[..., index, (tail axes)]: leading axes are those of the index, or broadcast against them."""
    axis = jnp.ndim(array) - tail - 1
    if axis < 0:
        return array
    lead = jnp.shape(array)[:axis]
    if jnp.shape(array)[axis] == 1:
        return jnp.squeeze(array, axis)
    if all(n == 1 for n in lead):
        return jnp.reshape(array, jnp.shape(array)[axis:])[index]
    spread = jnp.reshape(array, [*([1] * (jnp.ndim(index) - len(lead))), *jnp.shape(array)])
    where = jnp.reshape(index, [*jnp.shape(index), *([1] * (1 + tail))])
    found = jnp.take_along_axis(spread, where, jnp.ndim(index), mode="clip")
    return jnp.squeeze(found, jnp.ndim(index))


def arguments_of(base: Any) -> dict[str, tuple[Any, int]]:
    """Arguments with which a distribution can be built anew, and their event axes.

    Raises:
        Unsuitable: its constructor takes something else as well.
    """
    kind = type(base)
    if not kind.__module__.startswith("numpyro.distributions"):
        raise Unsuitable(f"{kind.__name__} is not a distribution of NumPyro's")
    wanted = inspect.signature(kind.__init__).parameters
    family = find_family(base)
    if family is not None and _are_all(wanted, family.argument_ndims, base):
        return {n: (getattr(base, n), ndim) for n, ndim in family.argument_ndims.items()}
    given = {n: a for n, a in base.get_args().items() if n in wanted}
    if not given or not _are_all(wanted, given, base):
        raise Unsuitable(f"{kind.__name__} has arguments that are not arrays")
    return {n: (a, kind.arg_constraints[n].event_dim) for n, a in given.items()}


def _are_all(wanted: Mapping[str, inspect.Parameter], names: Any, base: Any) -> bool:
    """Whether a constructor called with these names makes the same distribution; others must be alternatives."""
    for name, parameter in wanted.items():
        if name in ("self", "validate_args") or name in names:
            continue
        alternative = parameter.default is None and (name in base.arg_constraints or getattr(base, name, 0) is None)
        if not alternative:
            return False
    return set(names) <= set(wanted)


def rebuilt(base: Any, arguments: Mapping[str, Any]) -> Any:
    """A distribution of the same class with other arguments."""
    try:
        return type(base)(**arguments, validate_args=False)
    except (AssertionError, TypeError, ValueError) as error:
        raise Unsuitable(f"{type(base).__name__} cannot be built anew ({error})") from error


def check(components: Any) -> str:
    """Whether `selected` will do for these components; the name of their class.

    Raises:
        Unsuitable: why not.
    """
    peeled = peel(components)
    if peeled.masks:
        raise Unsuitable("its components are masked")
    rebuilt(peeled.base, {n: a for n, (a, _) in arguments_of(peeled.base).items()})
    return name_of(peeled.base)


def name_of(base: Any) -> str:
    """A distribution's name as a user writes it."""
    return type(base).__name__.removesuffix("Probs").removesuffix("Logits")


def stacked(components: Sequence[Any]) -> Any:
    """Components of one class as one distribution whose last batch axis counts them.

    Raises:
        Unsuitable: they differ in more than their arguments.
    """
    peeled = [peel(c) for c in components]
    first = peeled[0]
    if any(type(p.base) is not type(first.base) or p.hidden != first.hidden for p in peeled[1:]):
        raise Unsuitable("its components are of different classes")
    if any(p.masks for p in peeled):
        raise Unsuitable("its components are masked")
    each = [arguments_of(p.base) for p in peeled]
    if any(list(own) != list(each[0]) for own in each[1:]):
        raise Unsuitable("its components are given by different arguments")
    arguments = {n: _stack([own[n][0] for own in each], ndim + first.hidden) for n, (_, ndim) in each[0].items()}
    fn = rebuilt(first.base, arguments)
    return fn.to_event(first.hidden) if first.hidden else fn


def _stack(arrays: Sequence[Any], tail: int) -> Any:
    """Stack before the last `tail` axes; one array that all share stays one."""
    if all(a is arrays[0] for a in arrays) or (is_concrete(*arrays) and all(_same(a, arrays[0]) for a in arrays)):
        return arrays[0] if jnp.ndim(arrays[0]) <= tail else jnp.expand_dims(arrays[0], jnp.ndim(arrays[0]) - tail)
    tails = jnp.broadcast_shapes(*(jnp.shape(a)[max(0, jnp.ndim(a) - tail) :] for a in arrays))
    leads = jnp.broadcast_shapes(*(jnp.shape(a)[: max(0, jnp.ndim(a) - tail)] for a in arrays))
    tails = (*([1] * (tail - len(tails))), *tails)
    return jnp.stack([jnp.broadcast_to(a, (*leads, *tails)) for a in arrays], len(leads))


def _same(first: Any, second: Any) -> bool:
    return np.array_equal(np.asarray(first), np.asarray(second))


def supports_of(components: Sequence[Any]) -> list[Any]:
    """The support of every component, event axes that `to_event` made undone.

    Raises:
        Unsuitable: one depends on arguments that are not numbers here.
    """
    supports = [_innermost(peel(c).base.support) for c in components]
    for support in supports:
        fixed = isinstance(support, constraints.ParameterFreeConstraint) or is_concrete(*vars(support).values())
        if not fixed:
            raise Unsuitable(f"the support {type(support).__name__.strip('_')} of a component depends on an argument")
    return supports


def _innermost(support: Any) -> Any:
    while type(support) is type(constraints.independent(constraints.real, 1)):
        support = support.base_constraint
    return support


def are_one(supports: Sequence[Any]) -> bool:
    """Whether all supports are the same set."""
    first = supports[0]
    return all(
        type(s) is type(first) and all(_same(v, vars(first)[n]) for n, v in vars(s).items()) for s in supports[1:]
    )
