"""A block of discrete latents of a scan: from reads and their coordinates to the engine that runs along the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._evidence import Chain, Chained, ChainShape, Factor
from ._factors import Skeleton
from ._links import is_concrete
from ._model import Model
from ._types import Refusal

_MOST = 2**22
"""Joint values of the first steps of a chain that are held."""


@dataclass(frozen=True)
class _Met:
    """Which elements of one read a factor meets: the latent, and one index array per axis of it over the batch axes."""

    latent: str
    indices: tuple[np.ndarray, ...]


def in_chain(model: Model, read: str) -> bool:
    """Whether a read is one of several of its latent."""
    return model.reads[read].coordinates is not None


def lay_out_chain(
    model: Model, relevant: Sequence[tuple[Factor, Skeleton]], members: Sequence[str], slots: Sequence[tuple[int, ...]]
) -> Chain:
    """The chain engine of a block.

    Args:
        model: the model.
        relevant: the block's factors.
        members: reads of the block's latents.
        slots: shapes of the factors' slots.

    Raises:
        Refusal: latents that are not along one chain.
    """
    for factor, skeleton in relevant:
        if skeleton.site.role == "latent" and model.outputs[factor.site]["scale"] is not None:
            raise Refusal(
                f"The latent {factor.site!r} of a chain has a scale (subsampling, or handlers.scale): autoem does not "
                "sum along a chain whose density is raised to a power. A scale around the observations alone is fine."
            )
    names = list(dict.fromkeys(model.reads[m].latent for m in members))
    chained = [n for n in names if any(model.reads[m].latent == n and in_chain(model, m) for m in members)]
    shapes = {n: model.hidden[n].batch_shape for n in names}
    length, batch = _common(chained, shapes)
    for name in names:
        if model.hidden[name].name in chained:
            continue
        own = tuple(n for n in shapes[name] if n > 1)
        if own != tuple(n for n in batch if n > 1):
            raise Refusal(
                f"Latent {name!r} has the shape {shapes[name]}, and the chains {_listed(chained)} that depend on it "
                f"run in plates of shape {batch}: these shapes must agree."
            )
    places, facts = [], []
    for factor, skeleton in relevant:
        met = [_met(model, skeleton, read) for read in factor.latents]
        facts.append(_place(factor, met, chained, shapes, batch))
    depth = {n: 0 for n in chained}
    for variables, *_ in facts:
        for name, lag in variables:
            if name in depth:
                depth[name] = max(depth[name], lag)
    start = min(max(1, *depth.values()), length)
    sizes = {n: len(model.hidden[n].support) for n in names}
    _require_short(facts, depth, sizes, start)
    late = {n for variables, first, count, _, _ in facts if first + count > start for n, _ in variables}
    shape = ChainShape(
        tuple((n, sizes[n], min(depth[n], start)) for n in chained),
        tuple((n, sizes[n], n in late) for n in names if n not in chained),
        length,
        start,
        batch,
    )
    gates: list[Any] = []
    closed: list[float] = []
    for (factor, skeleton), fact, own in zip(relevant, facts, slots, strict=True):
        gate = _gate(factor, fact, own, shape, gates)
        gates.append(gate)
        # A latent that is masked out carries total weight 1.
        closed.append(0.0 if factor.offset is None else -float(np.log(len(skeleton.site.support))))
        variables, first, count, time, dims = fact
        places.append(Chained(variables, first, count, time, dims, gate is not None))
    return Chain(tuple(f for f, _ in relevant), tuple(places), tuple(gates), tuple(closed), shape)


def _require_short(facts: Sequence[Any], depth: Mapping[str, int], sizes: Mapping[str, int], start: int) -> None:
    """The steps that factors look back must not have too many joint values.

    Raises:
        Refusal: they have.
    """
    values = math.prod(float(sizes[n]) ** start for n in depth)
    if values > _MOST:
        name, lag = max((v for variables, *_ in facts for v in variables), key=lambda v: v[1])
        raise Refusal(
            f"A site meets the latent {name!r} {lag} steps back along the chain {_listed(list(depth))}: {values:.0e} "
            "joint values of these steps, too many to sum. Where a second scan goes on from the state in "
            "which a first one ended, write them as one scan, with inputs that tell the steps apart."
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _common(chained: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, tuple[int, ...]]:
    """Number of steps and batch shape of all chains of a block."""
    first = shapes[chained[0]]
    for name in chained[1:]:
        if shapes[name][0] != first[0] or [n for n in shapes[name][1:] if n > 1] != [n for n in first[1:] if n > 1]:
            raise Refusal(f"The chains {chained[0]!r} and {name!r} depend on each other, and their shapes {first} and "
                          f"{shapes[name]} differ: a joint step cannot be formed.")  # fmt: skip
    return first[0], tuple(n for n in first[1:] if n > 1)


def _met(model: Model, skeleton: Skeleton, read: str) -> _Met:
    source = model.reads[read]
    shape = model.hidden[source.latent].batch_shape
    batch = skeleton.site.batch_shape
    own: Any = np.zeros((1,) * len(batch), int)
    for c, n in zip(skeleton.coordinates[read], source.shape or (1,), strict=True):
        assert c is not None
        own = np.where((own < 0) | (c < 0), -1, own * n + c)
    own = np.broadcast_to(own, batch)
    if not shape:
        return _Met(source.latent, ())
    flat = source.elements(shape).reshape(-1)[np.maximum(own, 0)]
    return _Met(source.latent, tuple(np.where(own < 0, -1, i) for i in np.unravel_index(flat, shape)))


def _counts_along(index: np.ndarray, axis: int) -> int | None:
    """Where an index starts that counts up by ones along an axis, and along no other; None if it does not.

    -1 marks elements that depend on nothing: to hold them as if they did changes nothing.
    """
    position = np.arange(index.shape[axis]).reshape([-1 if a == axis else 1 for a in range(index.ndim)])
    valid = index >= 0
    starts = (index - position)[valid]
    return int(starts[0]) if starts.size and np.all(starts == starts[0]) and starts[0] >= 0 else None


def _run_along(index: np.ndarray, preferred: int | None) -> tuple[int | None, int]:
    """The axis along which an index counts up by ones, and where it starts; None if it is one number.

    Raises:
        ValueError: it does anything else.
    """
    axes = [a for a in range(index.ndim) if index.shape[a] > 1] if preferred is None else [preferred]
    found = [(a, start) for a in axes if (start := _counts_along(index, a)) is not None]
    same = index[index >= 0]
    if preferred is None and same.size and np.all(same == same[0]):
        return None, int(same[0])
    if len(found) != 1:
        raise ValueError
    return found[0]


def _place(
    factor: Factor, met: Sequence[_Met], chained: Sequence[str], shapes: Mapping[str, tuple[int, ...]],
    batch: tuple[int, ...],
) -> Any:  # fmt: skip
    """(variables, first step, number of steps, kept position of the steps, kept position of every batch dimension)."""
    time: int | None = None
    steps: dict[int, int] = {}
    where: dict[int, int] = {}
    try:
        # Reads that all elements depend on tell which axis is which.
        for number in sorted(range(len(met)), key=lambda i: sum(int((c < 0).sum()) for c in met[i].indices)):
            m = met[number]
            indices = list(m.indices)
            if m.latent in chained:
                axis, steps[number] = _run_along(indices.pop(0), time)
                if axis is not None:
                    if time not in (None, axis):
                        raise ValueError
                    time = axis
            sizes = shapes[m.latent][1:] if m.latent in chained else shapes[m.latent]
            long = [i for i, n in zip(indices, sizes, strict=True) if n > 1]
            for dim, (index, n) in enumerate(zip(long, batch, strict=True)):
                axis, start = _run_along(index, where.get(dim))
                if axis is None or start or index.shape[axis] != n or where.setdefault(dim, axis) != axis:
                    raise ValueError
    except ValueError:
        raise Refusal(
            f"Site {factor.site!r} meets the elements of {_listed([m.latent for m in met])} in an order that is not "
            "that of the steps: autoem does not derive that chain."
        ) from None
    still = [i for i in steps if not np.ptp(met[i].indices[0][met[i].indices[0] >= 0])]
    if time is not None and any((met[i].indices[0] >= 0).all() for i in still):
        raise Refusal(f"Site {factor.site!r} meets one step of {_listed(chained)} at several others: autoem does not "
                      "derive that chain.")  # fmt: skip
    first = max(steps.values(), default=0)
    variables = tuple((m.latent, first - steps.get(i, first)) for i, m in enumerate(met))
    count = factor.batch_shape[time] if time is not None else 1
    at = {axis: position for position, axis in enumerate(factor.keep)}
    places = tuple(at[where[d]] if d in where and where[d] in at else None for d in range(len(batch)))
    if set(at) - {time, *where.values()}:
        raise Refusal(
            f"Site {factor.site!r} depends on {_listed([m.latent for m in met])} in a way that autoem does not follow "
            "along the chain."
        )
    return variables, first, count, None if time is None else at[time], places


def _gate(factor: Factor, fact: Any, slots: tuple[int, ...], shape: ChainShape, others: Sequence[Any]) -> Any:
    """(steps, batch...) 0/1 weights of a factor of several values that otherwise is the same at all steps, or None."""
    variables, first, count, time, batch = fact
    weight, lead = factor.weight, len(factor.latents)
    if (
        weight is None
        or time is None
        or len(variables) < 2
        or len(set(variables)) < len(variables)
        or not is_concrete(weight, factor.offset)
    ):
        return None
    value = np.shape(factor.value) if factor.value is not None else (1,) * (lead + len(factor.batch_shape) + 1)
    kept = [lead + a for a in factor.keep]
    if any(slots[a] > 1 or (len(value) > a and value[a] > 1) for a in kept) or factor.canonical is False:
        return None
    numbers = np.asarray(weight)
    if not np.all((numbers == 0) | (numbers == 1)) or first + count < shape.length or first > shape.start:
        return None
    full = np.broadcast_to(numbers.reshape(numbers.shape[-len(factor.batch_shape) :]), factor.batch_shape)
    gone = tuple(a for a in range(full.ndim) if a not in factor.keep)
    if any(full.shape[a] > 1 for a in gone):
        return None
    order = [time, *(b for b in batch if b is not None)]
    gate = np.transpose(np.squeeze(full, gone), order) > 0
    gate = gate.reshape([count, *(n if b is not None else 1 for n, b in zip(shape.batch, batch, strict=True))])
    # The engine opens and closes all gates together.
    if any(g is not None and not np.array_equal(g, gate) for g in others):
        return None
    return gate
