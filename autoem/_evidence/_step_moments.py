"""Expected second moments along a Gaussian chain: from means and lag-one covariances, equal steps summed first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._types import Array
from ._steps import Factors, StepPiece, Steps, added_at, neighbours, picked
from ._sweeps import last_root, roots, standstill, watched


def times_of(group: Steps) -> Array:
    """How many steps are of each kind: (C,)."""
    return added_at(jnp.zeros(group.real.shape[0]), group.kind, jnp.ones(()))


def each_run(group: Steps) -> list[Any]:
    """Steps of one kind each, and (None) those of various kinds."""
    runs = [(kind, slice(start, stop) if stop else steps)
            for (kind, start, stop), steps in zip(group.common, group.runs, strict=True)]  # fmt: skip
    return [*runs, (None, group.rest)] if group.rest.shape[0] else runs


def _gram(left: Array, right: Array) -> Array:
    """Sums of outer products of (T, Q, n, A) and (T, Q, n, B): (Q, A, B)."""
    if left.shape[1] > 1:
        return jnp.einsum("tqna,tqnb->qab", left, right)
    left, right = (jnp.reshape(a, (-1, a.shape[-1])) for a in (left, right))
    return (left.T @ right)[None]


def step_moments(
    group: Steps, means: Array, spread: tuple[list[Array], Array], weights: Array, number: Array, sizes: Sequence[int]
) -> list[tuple[Array, Array, Array]]:
    """Per piece: None (for all K elements), count (K,) and moments (K, 1 + width, D, 1 + width, D).

    Args:
        means: (T + 1, Q, n, S), a level of zeros first.
        spread: what `spread_moments` found.
        weights: (Q, n) of the cells; number: (Q,) their sum.
        sizes: per piece, K.
    """
    pairs = neighbours(means)
    shared = _shared_moments(group, pairs, weights, spread[1]) if _shares(group) else None
    result = []
    for piece, size, moments in zip(group.pieces, sizes, spread[0], strict=True):
        if piece.picked is not None:
            moments = _picked_moments(piece, shared, size)
        else:
            for kind, steps in each_run(group):
                moments = moments + _mean_moments(group, pairs[steps], weights, piece, moments.shape[:2], kind, steps)
        counts = piece.count * number[:, None] * times_of(group)[:, None, None]
        result.append((None, _scattered(counts, piece.kept, size, 0), moments))
    return result


def _shares(group: Steps) -> bool:
    return any(piece.picked is not None for piece in group.pieces)


def _shared_moments(group: Steps, pairs: Array, weights: Array, joint: Array) -> Array:
    """Second moments of the numbers of a step, by kind: (C, Q, 1 + M + 2S, 1 + M + 2S)."""
    one = jnp.ones((*pairs.shape[:3], 1), pairs.dtype)
    numbers = jnp.concatenate([one, group.columns, pairs], -1)
    size, latent = numbers.shape[-1], joint.shape[-1]
    total = jnp.zeros((*joint.shape[:2], size, size), numbers.dtype)
    total = total.at[..., size - latent :, size - latent :].add(joint)
    for kind, steps in each_run(group):
        own = numbers[steps]
        weighted = own * weights[..., None]
        if kind is not None:
            total = total.at[kind].add(_gram(weighted, own))
        else:
            total = added_at(total, picked(group.kind, steps), jnp.einsum("tqna,tqnb->tqab", weighted, own))
    return total


def _picked_moments(piece: StepPiece, shared: Any, size: int) -> Array:
    """Second moments of a residual's parts: (K, 1 + width, D, 1 + width, D)."""
    assert piece.picked is not None
    index, constant = piece.picked.index, piece.picked.constant
    own = jnp.einsum("cqr,cqab->rab", piece.weight, shared)

    rows = jnp.arange(own.shape[0])[:, None, None, None, None]
    index, constant = jnp.moveaxis(jnp.asarray(index), 1, 0), jnp.moveaxis(jnp.asarray(constant), 1, 0)
    index = jnp.where(index < 0, index + own.shape[-1], index)  # those of the levels are counted from the end
    left = slice(None), slice(None), slice(None), None, None
    right = slice(None), None, None
    found = picked(own, (rows, index[left], index[right])) * constant[left] * constant[right]
    return _scattered(found, piece.picked.kept, size)


def _mean_moments(
    group: Steps, pairs: Array, weights: Array, piece: StepPiece, shape: Sequence[int], kind: int | None, steps: Any
) -> Array:
    """Second moments of the residual's parts at the means of some steps: (K, 1 + width, D, 1 + width, D).

    `shape` is (K, 1 + width).
    """
    size, parts = shape
    rho: list[Any] = [0.0] * parts
    for first, a in piece.fixed:
        own = a if a.shape[1] == 1 else a[:, steps]
        for j in range(a.shape[0]):
            rho[first + j] = rho[first + j] + own[j]
    for first, a in piece.touching:
        if kind is not None:
            met = jnp.einsum("jqrds,tqns->jtqnrd", a[:, kind], pairs)
        else:
            met = jnp.einsum("jtqrds,tqns->jtqnrd", picked(a, (slice(None), picked(group.kind, steps))), pairs)
        for j in range(a.shape[0]):
            rho[first + j] = rho[first + j] + met[j]
    full = (*pairs.shape[:3], piece.kept.shape[-1], _dim(piece))
    stacked = jnp.stack([jnp.broadcast_to(r, full) for r in rho])
    weighted = stacked * weights[..., None, None]
    if kind is not None:
        found = jnp.einsum("atqnrd,btqnre->qradbe", weighted, stacked)
        return _scattered(found * piece.weight[kind][..., None, None, None, None], piece.kept[kind], size)
    own = picked(piece.weight, picked(group.kind, steps))
    if piece.alike:
        weighted = weighted * own[:, :, None, :, None]
        return jnp.einsum("atqnrd,btqnre->adbe", weighted, stacked)[None]
    found = jnp.einsum("atqnrd,btqnre->tqradbe", weighted, stacked)
    return _scattered(found * own[..., None, None, None, None], picked(piece.kept, picked(group.kind, steps)), size)


def _dim(piece: StepPiece) -> int:
    return (piece.touching or piece.fixed)[0][1].shape[4 if piece.touching else 5]


def _scattered(rows: Array, kept: Array, size: int, ndim: int = 4) -> Array:
    """Sum rows (..., and `ndim` axes of each) into the kept elements."""
    if size == 1:
        return jnp.sum(rows, tuple(range(rows.ndim - ndim)))[None]
    zeros = jnp.zeros((size, *rows.shape[rows.ndim - ndim :]), rows.dtype)
    return added_at(zeros, jnp.broadcast_to(kept, rows.shape[: rows.ndim - ndim]), rows)


def spread_moments(
    group: Steps, factors: Factors, number: Array, widths: Sequence[int], sizes: Sequence[int]
) -> tuple[list[Array], Array]:
    """What the posterior covariances add to the second moments of every piece that is not picked, and by kind of step
    (C, Q, 2S, 2S) to those of the latents.
    """
    tables: list[Any] = [_touching(piece, width) if piece.picked is None else ([], None)
              for piece, width in zip(group.pieces, widths, strict=True)]  # fmt: skip
    kinds, classes, slots = group.real.shape
    shared = jnp.zeros((kinds if _shares(group) else 0, classes, 2 * slots, 2 * slots), factors.last.dtype)
    first = jnp.searchsorted(factors.index, factors.index)

    def added(kind: Any, joint: Array, times: Any, sums: Sequence[Array]) -> list[Array]:
        out = []
        for piece, (places, table), total, size in zip(group.pieces, tables, sums, sizes, strict=True):
            if not places:
                out.append(total)
                continue
            spread = jnp.einsum("jqrds,qsx->jqrdx", picked(table, (slice(None), kind)), joint)
            scale = picked(piece.weight, kind) * number[:, None] * times
            found = jnp.einsum("aqrdx,bqrex,qr->qradbe", spread, spread, scale)
            out.append(total + _scattered(found, picked(piece.kept, kind), size))
        return out

    def body(carry: Any) -> Any:
        step, root, watch, sums, shared = carry
        index = picked(factors.index, step)
        joint, before = roots(factors, index, root)
        start = picked(first, step)
        same = start < step
        jump, watch = standstill(watch, before, same, step - start)
        times = jnp.where(jump, step - start + 1, 1).astype(joint.dtype)
        sums = added(picked(group.kind, step), joint, times, sums)
        if shared.size:
            own = jnp.einsum("qab,qcb,q->qac", joint, joint, number * times)
            shared = added_at(shared, picked(group.kind, step), own)
        return jnp.where(jump, start, step) - 1, before, watch, sums, shared

    dims = [_dim(piece) for piece in group.pieces]
    sums = [jnp.zeros((size, len(places), dim, len(places), dim), factors.last.dtype)
            for size, (places, _), dim in zip(sizes, tables, dims, strict=True)]  # fmt: skip
    root = last_root(factors)
    start = jnp.asarray(group.length - 1), root, watched(root), sums, shared
    *_, sums, shared = jax.lax.while_loop(lambda carry: carry[0] >= 0, body, start)
    result = []
    for total, (places, _), width, size, dim in zip(sums, tables, widths, sizes, dims, strict=True):
        full = jnp.zeros((size, 1 + width, dim, 1 + width, dim), total.dtype)
        if places:
            at = jnp.asarray(places)
            full = full.at[:, at[:, None, None, None], jnp.arange(dim)[:, None, None], at[:, None],
                           jnp.arange(dim)].add(total)  # fmt: skip
        result.append(full)
    return result, shared


def _touching(piece: StepPiece, width: int) -> tuple[list[int], Any]:
    """Which parts of the residual meet latents, and their designs (parts, C, Q, R, D, 2S)."""
    spread: dict[int, Any] = {}
    for first, a in piece.touching:
        for j in range(a.shape[0]):
            spread[first + j] = spread.get(first + j, 0.0) + a[j]
    places = sorted(spread)
    return places, jnp.stack([spread[j] for j in places]) if places else None
