"""Sum discrete latents out of a plated factor graph, one latent at a time, in a good order.

Every table has one axis per latent in it (its values) and one per *dimension* (a plate, as far as the structure
shows). A latent may be eliminated when everything that holds it lives inside its own dimensions; a dimension
that no latent of a table owns is summed: independent repetitions (Obermeyer et al. 2019, tensor variable
elimination, done elementwise). If nothing is eligible the sum is not tractable, and that is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._family import LOG_ZERO
from .._types import Refusal


@dataclass(frozen=True)
class Variable:
    """A discrete latent: number of values, dimensions (one per axis longer than 1) and its scale (dims..., or None)."""

    name: str
    size: int
    dims: tuple[str, ...]
    scale: Any = None


@dataclass(frozen=True)
class Table:
    """log f with axes (*latents, *dims). `gathered[v]` says which element of v each position holds (flat; -1 none)."""

    array: Any
    latents: tuple[str, ...]
    dims: tuple[str, ...]
    gathered: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One elimination: the latent, and the table of everything that held it."""

    name: str
    table: Table


def log_sum_exp(table: Any) -> jax.Array:
    """The default reduction, over the leading axis."""
    # States side by side in memory: matrix products leave them so, and one pass over a row finds its states in cache.
    return jax.nn.logsumexp(jnp.moveaxis(table, 0, -1), axis=-1)


def _settled(log: Any) -> jax.Array:
    """The log of zero as one number again, once it was multiplied and divided: XLA may round a quotient in two ways.

    Where all states are impossible, the sum's largest term less itself has to be zero, not an ulp of 1e30.
    """
    return jnp.where(log < LOG_ZERO / 100, LOG_ZERO, log)


def added_up(_: str, table: Any) -> jax.Array:
    """What becomes of a table without latents: all of it is added up."""
    return jnp.sum(table)


def maximum(table: Any) -> jax.Array:
    """The reduction for the most probable joint assignment."""
    return jnp.max(table, axis=0)


def _owned(table: Table, variables: Mapping[str, Variable]) -> set[str]:
    owned: set[str] = set()
    for name in table.latents:
        if name in table.gathered:
            index = table.gathered[name]
            owned.update(d for d, n in zip(table.dims, index.shape, strict=True) if n > 1)
        else:
            owned.update(variables[name].dims)
    return owned


def _without_free_dims(table: Table, variables: Mapping[str, Variable]) -> Table:
    owned = _owned(table, variables)
    free = [i for i, d in enumerate(table.dims) if d not in owned]
    if not free:
        return table
    lead = len(table.latents)
    array = jnp.sum(table.array, [lead + i for i in free])
    gathered = {n: np.squeeze(index, tuple(free)) for n, index in table.gathered.items()}
    return Table(array, table.latents, tuple(d for d in table.dims if d in owned), gathered)


def _scattered(table: Table, variables: Mapping[str, Variable], sizes: Mapping[str, int]) -> tuple[Table, Any]:
    """Add up what a gather spread: (table over the latents' own dimensions, what depends on none of them)."""
    if not table.gathered or set(table.gathered) != set(table.latents):
        return table, 0.0
    indices = list(table.gathered.values())
    own = variables[table.latents[0]].dims
    same = all(i.shape == indices[0].shape and np.array_equal(i, indices[0]) for i in indices[1:])
    if not same or any(variables[n].dims != own for n in table.latents):
        return table, 0.0
    lead = len(table.latents)
    lengths = [jnp.shape(table.array)[lead + i] for i in range(len(table.dims))]
    index = np.broadcast_to(indices[0], lengths).reshape(-1)
    size = math.prod(sizes[d] for d in own)
    flat = jnp.reshape(table.array, (*jnp.shape(table.array)[:lead], -1))
    target = jnp.zeros((*flat.shape[:lead], size + 1), flat.dtype)
    total = target.at[..., np.where(index < 0, size, index)].add(flat)
    rest = total[(0,) * lead + (size,)]
    array = jnp.reshape(total[..., :size], (*flat.shape[:lead], *(sizes[d] for d in own)))
    return Table(array, table.latents, own), rest


def _combined(tables: Sequence[Table], first: str, order: Sequence[str]) -> Table:
    """The sum of tables, broadcast over the union of their latents (`first` leading) and dimensions."""
    latents = (first, *(n for n in order if n != first and any(n in t.latents for t in tables)))
    dims = tuple(dict.fromkeys(d for t in tables for d in t.dims))
    total: Any = 0.0
    gathered: dict[str, np.ndarray] = {}
    for t in tables:
        labels = [*t.latents, *t.dims]
        wanted = [n for n in (*latents, *dims) if n in labels]
        array = jnp.transpose(t.array, [labels.index(n) for n in wanted])
        shape = iter(array.shape)
        total = total + jnp.reshape(array, [next(shape) if n in wanted else 1 for n in (*latents, *dims)])
        for name, index in t.gathered.items():
            lengths = dict(zip(t.dims, index.shape, strict=True))
            ordered = np.transpose(index, [t.dims.index(d) for d in dims if d in t.dims])
            ordered = ordered.reshape([lengths.get(d, 1) for d in dims])
            if name in gathered and not np.array_equal(gathered[name], ordered):
                raise Refusal(f"Latent {name!r} is gathered by two different indices in one sum.")
            gathered[name] = ordered
    return Table(total, latents, dims, gathered)


def _candidates(tables: Sequence[Table], left: Sequence[str], variables: Mapping[str, Variable]) -> list[str]:
    eligible = []
    for name in left:
        holding = [t for t in tables if name in t.latents]
        inside = all(name not in t.gathered and set(t.dims) <= set(variables[name].dims) for t in holding)
        if inside:
            eligible.append(name)
    return eligible


def _cost(name: str, tables: Sequence[Table], variables: Mapping[str, Variable]) -> int:
    others = {n for t in tables if name in t.latents for n in t.latents}
    return math.prod(variables[n].size for n in others)


def eliminate(
    tables: Sequence[Table],
    variables: Mapping[str, Variable],
    sizes: Mapping[str, int],
    reduction: Callable[[Any], jax.Array] = log_sum_exp,
    finish: Callable[[str, Any], jax.Array] = added_up,
) -> tuple[jax.Array, list[Step]]:
    """Sum (or maximise) every latent out.

    Args:
        tables: log factors.
        variables: the latents, by name.
        sizes: length of every dimension.
        reduction: over the leading axis: `log_sum_exp` or `maximum`.
        finish: (the latent eliminated last, what is left over its dimensions) -> what that adds to the result.

    Returns:
        The log of the sum, and the steps in order.

    Raises:
        Refusal: if no order keeps every table inside the plates of a latent.
    """
    result: Any = jnp.zeros(())
    pool: list[Table] = []

    def add(table: Table) -> None:
        nonlocal result
        table, rest = _scattered(_without_free_dims(table, variables), variables, sizes)
        result = result + rest
        if table.latents:
            pool.append(table)
        else:
            result = result + jnp.sum(table.array)

    for table in tables:
        add(table)
    left, steps = list(variables), []
    while left:
        eligible = _candidates(pool, left, variables)
        if not eligible:
            raise Refusal(
                f"The latents {', '.join(map(repr, left))} are coupled across different plates (each element of one "
                "meets every element of another): the exact sum over them is not tractable."
            )
        name = min(reversed(eligible), key=lambda n: _cost(n, pool, variables))
        holding = [t for t in pool if name in t.latents]
        pool = [t for t in pool if name not in t.latents]
        variable = variables[name]
        # A zero table over the latent's own dimensions fixes their order and counts elements that nothing else holds.
        blank = Table(jnp.zeros((variable.size, *(sizes[d] for d in variable.dims))), (name,), variable.dims)
        table = _combined([blank, *holding], name, list(variables))
        steps.append(Step(name, table))
        others = table.latents[1:]
        if variable.scale is None:
            array = reduction(table.array)
        else:
            scale = jnp.asarray(variable.scale)
            live = jnp.where(scale == 0, 1.0, scale)
            array = jnp.where(scale == 0, 0.0, live * reduction(_settled(table.array / live)))
        if others:
            add(Table(array, others, table.dims, {n: i for n, i in table.gathered.items() if n in others}))
        else:
            result = result + finish(name, array)
        left.remove(name)
    return result, steps


def _given(step: Step, states: Mapping[str, Any], variables: Mapping[str, Variable]) -> jax.Array:
    """A step's table at the chosen states of the other latents: (values, dims...)."""
    array, dims = step.table.array, step.table.dims
    for name in reversed(step.table.latents[1:]):
        state = jnp.asarray(states[name])
        if name in step.table.gathered:
            index = step.table.gathered[name]
            chosen = jnp.reshape(state, -1)[np.where(index < 0, 0, index)]
        else:
            own = variables[name].dims
            moved = jnp.transpose(state, [own.index(d) for d in dims if d in own])
            lengths = iter(moved.shape)
            chosen = jnp.reshape(moved, [next(lengths) if d in own else 1 for d in dims])
        axis = step.table.latents.index(name)
        lead = array.ndim - len(dims)
        index = jnp.reshape(chosen, [1] * lead + list(chosen.shape))
        index = jnp.broadcast_to(index, [1 if i == axis else n for i, n in enumerate(array.shape)])
        array = jnp.squeeze(jnp.take_along_axis(array, index, axis), axis)
    return array


def backtrack(
    steps: Sequence[Step],
    variables: Mapping[str, Variable],
    choose: Callable[[str, jax.Array], jax.Array],
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Choose every latent given those eliminated after it.

    Args:
        steps: from `eliminate`.
        variables: the latents.
        choose: (name, log probabilities (values, dims...)) -> states (dims...), as indices.

    Returns:
        States by name, and the log probability of the choices, scaled like the factors.
    """
    states: dict[str, jax.Array] = {}
    log_q: Any = jnp.zeros(())
    for step in reversed(steps):
        scale = variables[step.name].scale
        logits = _given(step, states, variables)
        logits = logits if scale is None else logits / jnp.where(jnp.asarray(scale) == 0, 1.0, scale)
        log_p = jax.nn.log_softmax(logits, axis=0)
        state = choose(step.name, log_p)
        states[step.name] = state
        picked = jnp.take_along_axis(log_p, state[None], 0)[0]
        log_q = log_q + jnp.sum(picked if scale is None else picked * scale)
    return states, log_q
