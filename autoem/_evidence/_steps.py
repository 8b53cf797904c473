"""What the Kalman engine works on: cells of latents in levels, neighbours coupled, as steps of few kinds."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from .._types import Array, Leaf


class Picked(eqx.Module):
    """Parts of a residual that are numbers of a step, each times a constant, the same at all steps that have the row.

    The numbers of a step are (1, `Steps.columns`, the level before, its own): second moments of all parts are picked
    from one matrix of theirs.

    Attributes:
        index, constant: (1 + width, R, D) which number, and what it is multiplied by.
        kept: (R,).
    """

    index: Leaf
    constant: Leaf
    kept: Leaf


class StepPiece(eqx.Module):
    """One site's rows: T steps of C kinds, Q classes of n cells, R rows of length D a step, S slots a level.

    Attributes:
        factor: index of the site's factor in the block.
        fixed: (first coefficient, array (J, L, T, Q, n, R, D)) pairs, axes of length 1 where all are the same; with
            `picked`, times the root of the rows' weights.
        touching: (first coefficient, array (J, L, C, Q, R, D, 2S)) pairs: the level before, then the step's own.
        kept: (C, Q, R) flat index into the arguments' batch axes.
        weight, count: (C, Q, R) multiply the squared residual and the log normaliser.
        alike: all rows have the same arguments.
        picked: where every part of the residual is one number of a step times a constant (see `Picked`), or None.
    """

    factor: int = eqx.field(static=True)
    fixed: tuple[tuple[int, Leaf], ...]
    touching: tuple[tuple[int, Leaf], ...]
    kept: Leaf
    weight: Leaf
    count: Leaf
    alike: bool = eqx.field(static=True)
    picked: Picked | None = None


class Steps(eqx.Module):
    """Cells with equally many levels.

    Attributes:
        pieces: the rows, site by site.
        kind: (T,) of every step.
        stop: (T,) the last step of the run of equal kinds that a step is in.
        real: (C, Q, S) which slots of the step's own level hold an element.
        total: (Q,) elements of a cell.
        number: (Q,) cells per class.
        valid: (Q, n) 1 where there is a cell.
        common: (kind, start, stop) of kinds that many steps have; stop is 0 where these do not follow each other.
        runs: the steps of each of these, empty where they follow each other.
        rest: the other steps.
        columns: (T, Q, n, M) data that parts of residuals are picked from.
        padded: whether any slot holds no element.
        capacity: distinct factors for which there is room at first.
    """

    pieces: tuple[StepPiece, ...]
    kind: Leaf
    stop: Leaf
    real: Leaf
    total: Leaf
    number: Leaf
    valid: Leaf
    common: tuple[tuple[int, int, int], ...] = eqx.field(static=True)
    runs: tuple[Leaf, ...]
    rest: Leaf
    columns: Leaf
    padded: bool = eqx.field(static=True)
    capacity: int = eqx.field(static=True)

    @property
    def width(self) -> int:
        """Slots S of a level."""
        return self.real.shape[-1]

    @property
    def length(self) -> int:
        """Steps T."""
        return self.kind.shape[0]


class Factors(eqx.Module):
    """The elimination of every level but the last: K distinct ones, of Q classes.

    Attributes:
        index: (T,) which of them a step uses to eliminate the level before its own.
        forward: (K, Q, 2S, S + rows): from the message that comes in and a step's whitened data to the message that
            goes out, and to R⁻¹ times the right-hand side of the level before.
        half: (K, Q, S, S) R⁻¹; gain: (K, Q, S, S) R⁻¹ E, where R z + E z⁺ = δ is what is left for the level before.
        log_det: (K, Q) log|R|.
        last: (Q, S, S) the factor of the last level.
    """

    index: Leaf
    forward: Leaf
    half: Leaf
    gain: Leaf
    log_det: Leaf
    last: Leaf


class Path(eqx.Module):
    """The posterior of a group, level by level.

    Attributes:
        mean: (Q, n, T · S).
        half: (Q, T, S, S) a square root of every level's covariance given the next.
        gain: (Q, T, S, S): the mean of a level given the next is mean - gain (next - its mean).
        covariance: (Q, T, S, S); lagged: (Q, T, S, S) with the next level.
        height: (Q,) half the log determinant of the precision.
    """

    mean: Leaf
    half: Leaf
    gain: Leaf
    covariance: Leaf
    lagged: Leaf
    height: Leaf

    def between(self, row: Array, first: Array, second: Array) -> Array:
        """Covariances of elements of one level, or of two neighbouring ones, by class and slot."""
        width = self.covariance.shape[-1]
        low, high = jnp.minimum(first, second), jnp.maximum(first, second)
        level, after = low // width, high // width
        at = row, level, low % width, high % width
        near = jnp.where(after == level, self.covariance[at], self.lagged[at])
        return jnp.where(after - level > 1, jnp.nan, near)


def neighbours(means: Array) -> Array:
    """Means of the level before and of the step's own (T, Q, n, 2S), from those of the levels, zeros first."""
    return jnp.concatenate([means[:-1], means[1:]], -1)


def picked(array: Array, index: Any) -> Array:
    """`array[index]` for indices that are inside and not negative.

    JAX makes sure of both wherever it indexes; those few operations each were a good part of what had to be compiled.
    """
    return jnp.asarray(array).at[_wide(index)].get(mode="promise_in_bounds", wrap_negative_indices=False)


def added_at(array: Array, index: Any, more: Array) -> Array:
    """`array.at[index].add(more)` for such indices."""
    return jnp.asarray(array).at[_wide(index)].add(more, mode="promise_in_bounds", wrap_negative_indices=False)


def _wide(index: Any) -> Any:
    """Narrow integers widened: XLA computes positions in their own type, in which these may not fit."""
    if isinstance(index, tuple):
        return tuple(_wide(i) for i in index)
    if isinstance(index, slice | int):
        return index
    index = jnp.asarray(index)
    return index.astype(jnp.int32) if index.dtype.itemsize < 4 else index
