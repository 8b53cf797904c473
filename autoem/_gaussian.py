"""A block of Gaussian latents: from the designs of its sites to the engine that integrates it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from . import _cells
from ._borders import Borders, find_borders
from ._cells import Cells, Rows, compress_rows, find_cells, group_cells
from ._copies import fewer, find_copies
from ._design import Design, rows_of
from ._evidence import Arrow, Factor, Gaussian, Group, Picked, Piece, Place, StepPiece, Steps
from ._laid import Laid
from ._levels import Levels, find_levels
from ._links import Coordinates
from ._steps import Parts, StepGroup, group_steps, single_parts, split
from ._types import Refusal

_LARGEST = 5000
"""Coupled elements that one dense factorisation may have."""


def lay_out(
    shapes: Mapping[str, tuple[int, ...]],
    discrete: Mapping[str, tuple[int, tuple[int, ...]]],
    factors: Sequence[Factor],
    designs: Sequence[Design],
    coordinates: Sequence[Mapping[str, Coordinates]],
    kept: Sequence[tuple[int, ...]],
) -> Laid:
    """Find cells and classes, compress what can be.

    Args:
        shapes: of the block's Gaussian latents, by name.
        discrete: (number of values, shape) of the block's discrete latents, by name.
        factors, designs: its sites.
        coordinates: per site, per discrete latent, which of its elements each row meets.
        kept: per site, aligned shape of its arguments.

    Raises:
        Refusal: too many coupled elements, or a cell that meets several elements of one discrete latent.
    """
    copies = None if discrete else find_copies(shapes, designs, kept)
    few = None if copies is None else fewer(copies, shapes, designs)
    whole = functools.cache(lambda: _in_full(shapes, discrete, factors, designs, coordinates, kept))
    if copies is not None and few is not None:
        rows, fewer_shapes, fewer_designs = few
        block = _arranged(fewer_shapes, discrete, fewer_designs, coordinates, kept)
        if not block.steps:
            groups = [replace(g, number=g.number * copies.count // rows, cells=np.full_like(g.cells, -1))
                      for g in block.grouped(False)]  # fmt: skip
            notes = _copied(groups, block.cells.size, copies.count)
            fast = _engine(block, groups, factors, fewer_designs, kept, notes, {})
            return Laid(fast, lambda: whole().full(), sum(int(g.number.sum()) for g in groups), {})
    return whole()


@dataclass(frozen=True)
class _Arranged:
    """A block's rows sorted into cells.

    Attributes:
        shapes: of the latents.
        states: (name, values) of the discrete latents.
        tables: rows of every site whose cells are factorised densely, compressed.
        before: their numbers before that.
        cells, levels, borders: the partition.
        used: (elements,) whether a row meets them.
        steps: cells in levels.
        met: per discrete latent, the element that each cell meets.
    """

    shapes: Mapping[str, tuple[int, ...]]
    states: tuple[tuple[str, int], ...]
    tables: list[Rows]
    before: list[int]
    cells: Cells
    levels: Levels
    borders: Borders
    used: np.ndarray
    steps: list[StepGroup]
    met: dict[str, np.ndarray]

    @property
    def dense(self) -> np.ndarray:
        """(cells,) which are factorised densely."""
        return self.levels.count == 0

    def grouped(self, compress: bool) -> list[_cells.Group]:
        """Those cells, by size and class; those with a border last."""
        plain = self.dense & ~self.borders.found
        groups = group_cells(self.tables, self.cells, self.used, plain, compress)
        for shape in np.unique(self.borders.shape[self.borders.found], axis=0):
            chosen = np.all(self.borders.shape == shape, 1)
            groups += group_cells(self.tables, self.cells, self.used, chosen, compress, tuple(shape.tolist()))
        return groups


def _offsets(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, int], dict[str, int]]:
    """Per latent, how many elements it has and the number of its first."""
    sizes = {n: math.prod(s) for n, s in shapes.items()}
    return sizes, dict(zip(sizes, np.concatenate([[0], np.cumsum(list(sizes.values()))]).tolist(), strict=False))


def _arranged(
    shapes: Mapping[str, tuple[int, ...]], discrete: Mapping[str, tuple[int, tuple[int, ...]]],
    designs: Sequence[Design], coordinates: Sequence[Mapping[str, Coordinates]], kept: Sequence[tuple[int, ...]],
) -> _Arranged:  # fmt: skip
    """Find cells and levels, compress rows. See `lay_out`."""
    sizes, offsets = _offsets(shapes)
    total = sum(sizes.values())
    states = [(n, k) for n, (k, _) in discrete.items()]
    tables: Any = [rows_of(d, i, offsets, states, kept[i], _state_elements(d, c, discrete))
                   for i, (d, c) in enumerate(zip(designs, coordinates, strict=True))]  # fmt: skip
    met = [_met(t) for t in tables]
    cells = find_cells(met, total)
    levels = find_levels(met, cells)
    latents = np.repeat(np.arange(len(sizes)), list(sizes.values()))
    borders = find_borders(met, cells, latents, (levels.count == 0) & (not states))
    cells = replace(cells, slot=borders.slot, size=np.where(borders.found, borders.size, cells.size))
    tables, cells = _assign(tables, cells)
    levels, borders = levels.extended(len(cells.size)), borders.extended(len(cells.size))
    states_met = _cell_states(tables, cells, discrete, list(shapes))
    if states_met:
        tables, cells, states_met, order = _ordered(tables, cells, states_met)
        levels = levels.reordered(order)
    used = np.zeros(total, bool)
    for table in tables:
        used[table.elements[table.elements >= 0]] = True
    steps = group_steps(split(tables, levels)[1], cells, levels)
    if steps is None:
        steps, levels = [], levels.none()
    dense = np.where(borders.found, borders.shape[:, 2], cells.size)
    largest = int(dense[levels.count == 0].max(initial=0))
    if largest > _LARGEST:
        raise Refusal(
            f"{largest} elements of the latents {', '.join(map(repr, shapes))} are coupled with each other, neither "
            "along a chain of few elements a step nor through a few of them only; autoem factorises at most "
            f"{_LARGEST} densely."
        )
    tables = split(tables, levels)[0]
    before = [t.size for t in tables]
    tables = [compress_rows(t) for t in tables]
    return _Arranged(shapes, tuple(states), tables, before, cells, levels, borders, used, steps, states_met)


def _in_full(
    shapes: Mapping[str, tuple[int, ...]], discrete: Mapping[str, tuple[int, tuple[int, ...]]],
    factors: Sequence[Factor], designs: Sequence[Design], coordinates: Sequence[Mapping[str, Coordinates]],
    kept: Sequence[tuple[int, ...]],
) -> Laid:  # fmt: skip
    """Every cell in its place, and cells summed up where that is possible. See `lay_out`."""
    block = _arranged(shapes, discrete, designs, coordinates, kept)
    full = block.grouped(False)
    fast = full if discrete else block.grouped(True)
    notes = (*_notes(designs, block, full, fast), *(_step_note(g) for g in block.steps))
    places = _places([*full, *block.steps], block)
    whole = _engine(block, full, factors, designs, kept, notes, places)
    # The chains come last, among the groups and among the notes.
    number = {n: int(np.max(p.group, initial=0)) for n, p in places.items()}
    recursions = tuple((n, notes[i - len(whole.groups)]) for n, i in number.items() if i >= len(full))
    whole = replace(whole, recursions=recursions)
    running = whole if fast is full else replace(
        _engine(block, fast, factors, designs, kept, notes, {}), recursions=recursions)  # fmt: skip
    return Laid(running, lambda: whole, len(block.cells.size), block.met)


def _engine(
    block: _Arranged, groups: Sequence[_cells.Group], factors: Sequence[Factor], designs: Sequence[Design],
    kept: Sequence[tuple[int, ...]], notes: tuple[str, ...], places: dict[str, Place],
) -> Gaussian:  # fmt: skip
    """The engine for some groups of densely factorised cells and all chains."""
    return Gaussian(
        groups=(*(_module(g, designs, kept) for g in groups), *(_steps(g, designs, kept) for g in block.steps)),
        factors=tuple(factors),
        latents=block.states,
        places=places,
        cells=tuple(np.asarray(g.cells) for g in (*groups, *block.steps)),
        log_base=np.asarray(sum(d.log_base for d in designs), jnp.result_type(float)),
        names=tuple(block.shapes),
        notes=notes,
        count=len(block.cells.size),
    )


def _state_elements(
    design: Design, coordinates: Mapping[str, Coordinates], discrete: Mapping[str, tuple[int, tuple[int, ...]]]
) -> np.ndarray:
    """(n, discrete latents) flat element numbers that each row meets, -1 for none."""
    batch = design.site.batch_shape
    columns = []
    for name, (_, shape) in discrete.items():
        flat: Any = np.full((1,) * len(batch), -1)
        if name in coordinates:
            flat = np.zeros((1,) * len(batch), int)
            for c, n in zip(coordinates[name], shape or (1,), strict=True):
                assert c is not None
                flat = np.where((c < 0) | (flat < 0), -1, flat * n + c)
        columns.append(np.broadcast_to(flat, batch).reshape(-1))
    return np.stack(columns, 1) if columns else np.zeros((math.prod(batch), 0), int)


def _met(table: Rows) -> np.ndarray:
    """(rows, elements met)."""
    return table.elements.reshape(table.size, math.prod(table.elements.shape[1:]))


def _assign(tables: Sequence[Rows], cells: Cells) -> tuple[list[Rows], Cells]:
    """Give every row its cell; a row that meets no latent is a cell of its own."""
    count, result = len(cells.size), []
    for table in tables:
        flat = _met(table)
        first = flat[np.arange(table.size), (flat >= 0).argmax(1)] if flat.shape[1] else np.full(table.size, -1)
        alone = first < 0
        cell = np.where(alone, 0, cells.cell[np.maximum(first, 0)]) if cells.cell.size else np.zeros(table.size, int)
        cell[alone] = count + np.arange(alone.sum())
        count += int(alone.sum())
        result.append(replace(table, cell=cell))
    size = np.concatenate([cells.size, np.zeros(count - len(cells.size), int)])
    return result, Cells(cells.cell, cells.slot, size)


def _cell_states(
    tables: Sequence[Rows], cells: Cells, discrete: Mapping[str, tuple[int, tuple[int, ...]]], names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Per discrete latent, the element that each cell of the Gaussian latents `names` meets."""
    result = {}
    for i, name in enumerate(discrete):
        own = np.full(len(cells.size), -1)
        for table in tables:
            np.maximum.at(own, table.cell, table.states[:, i])
        for table in tables:
            state = table.states[:, i]
            if np.any((state >= 0) & (state != own[table.cell])):
                raise Refusal(
                    f"Elements of the Gaussian latents {', '.join(map(repr, names))} that are coupled with each other "
                    f"depend on several elements of {name!r}: their joint states are too many to sum exactly."
                )
        result[name] = own
    return result


def _ordered(
    tables: Sequence[Rows], cells: Cells, met: dict[str, np.ndarray]
) -> tuple[list[Rows], Cells, dict[str, np.ndarray], np.ndarray]:
    """Number the cells in the order of the discrete elements: then they mostly are those elements, one by one.

    The last result is that order.
    """
    order = np.lexsort(list(met.values())[::-1])
    new = np.empty(len(order), int)
    new[order] = np.arange(len(order))
    tables = [replace(t, cell=new[t.cell]) for t in tables]
    return tables, Cells(new[cells.cell], cells.slot, cells.size[order]), {n: m[order] for n, m in met.items()}, order


def _module(group: _cells.Group, designs: Sequence[Design], kept: Sequence[tuple[int, ...]]) -> Group:
    """The arrays of a group as the engine holds them."""
    real = jnp.result_type(float)
    pieces = []
    for piece in group.pieces:
        fixed, touching, alike = _held(piece, designs, kept)
        pieces.append(
            Piece(
                factor=piece.position,
                fixed=fixed,
                touching=touching,
                slots=piece.slots,
                kept=piece.kept,
                weight=np.asarray(piece.weight, real),
                count=np.asarray(piece.count, real),
                alike=alike,
            )
        )
    return Group(
        tuple(pieces),
        np.asarray(group.real, real),
        np.asarray(group.number, real),
        np.asarray(group.valid, real),
        None if group.arrow is None else Arrow(*group.arrow),
    )


def _held(piece: Any, designs: Sequence[Design], kept: Sequence[tuple[int, ...]]) -> tuple[Any, Any, bool]:
    """Fixed and touching parts as (first coefficient, array) pairs, and whether all arguments are the same."""
    first, lead = _first_parts(designs[piece.position]), len(designs[piece.position].latents)

    def held(parts: Mapping[str, np.ndarray]) -> Any:
        real = jnp.result_type(float)
        return tuple((first[n], np.asarray(a, real)) for n, a in sorted(parts.items(), key=lambda p: first[p[0]]))

    touching = held({n: a for n, a in piece.touching.items() if a.any()})
    return held(piece.fixed), touching, math.prod(kept[piece.position][lead:]) == 1


def _first_parts(design: Design) -> dict[str, int]:
    """Coefficient name -> number of the first part that it multiplies; "" is the constant."""
    ends = np.cumsum([1, *design.columns.widths]).tolist()
    return {"": 0, **{str(n): at for n, at in zip(design.columns.numbers, ends, strict=False)}}


_FEW = 64
"""Kinds of steps up to which second moments are held for each."""
_COMMON = 16
"""Steps from which on those of one kind are dealt with together."""


def _steps(group: StepGroup, designs: Sequence[Design], kept: Sequence[tuple[int, ...]]) -> Steps:
    """The same for cells in levels."""
    real = jnp.result_type(float)
    length, width = len(group.kind), group.width
    pieces, rows, columns = [], 0, []
    for piece in group.pieces:
        fixed, touching, alike = _held(piece, designs, kept)
        weight, count = np.asarray(piece.weight, real), np.asarray(piece.count, real)
        parts = _parts(piece, designs[piece.position]) if len(group.real) <= _FEW else None
        picked = None
        if parts is not None:
            # Columns are counted over all sites, slots from the end.
            index = np.where(parts.index > 0, parts.index + len(columns), parts.index)
            columns += parts.columns
            fixed = _weighted(fixed, weight[group.kind])
            picked = Picked(index, np.asarray(parts.constant, real), parts.kept)
        pieces.append(StepPiece(piece.position, fixed, touching, piece.kept, weight, count, alike, picked))
        rows += piece.kept.shape[-1] * designs[piece.position].family.dim
    shape = (length, *group.valid.shape)
    data = np.stack([np.broadcast_to(c, shape) for c in columns], -1) if columns else np.zeros((*shape, 0))
    ends = np.append(np.flatnonzero(np.diff(group.kind)), length - 1)
    counts = np.bincount(group.kind)
    common = [int(k) for k in np.argsort(-counts)[:8] if counts[k] >= _COMMON]
    runs = [np.flatnonzero(group.kind == k) for k in common]
    spans = [(k, int(s[0]), int(s[-1]) + 1 if s[-1] - s[0] < len(s) else 0) for k, s in zip(common, runs, strict=True)]
    return Steps(
        pieces=tuple(pieces),
        kind=group.kind,
        stop=ends[np.searchsorted(ends, np.arange(length))],
        real=np.asarray(group.real, real),
        total=np.asarray(group.total, real),
        number=np.asarray(group.number, real),
        valid=np.asarray(group.valid, real),
        common=tuple(spans),
        runs=tuple(s[:0] if stop else s for s, (_, _, stop) in zip(runs, spans, strict=True)),
        rest=np.flatnonzero(~np.isin(group.kind, common)),
        columns=np.asarray(data, real),
        padded=not group.real.all(),
        capacity=min(length, max(128, 2**16 // (width * (width + rows)))) if runs else length,
    )


def _weighted(fixed: Any, weight: np.ndarray) -> Any:
    """Parts (J, L, T, Q, n, R, D) times the roots of weights (T, Q, R)."""
    if np.all(weight == 1):
        return fixed
    root = np.sqrt(weight)[None, None, :, :, None, :, None]
    return tuple((first, a * root) for first, a in fixed)


def _parts(piece: Any, design: Design) -> Parts | None:
    """Where coefficients multiply single numbers of a step, second moments of these are shared by all parts."""
    if not design.columns.width:
        return None
    first = _first_parts(design)
    return single_parts(piece, first, 1 + design.columns.width)


def _places(groups: Sequence[_cells.Group | StepGroup], block: _Arranged) -> dict[str, Place]:
    """Where every element is."""
    cells, levels = block.cells, block.levels
    sizes, offsets = _offsets(block.shapes)
    count = len(cells.size)
    widths = np.array([g.width if isinstance(g, StepGroup) else 0 for g in groups])
    where = np.zeros((3, count), int)
    for index, group in enumerate(groups):
        classes, members = np.nonzero(group.cells >= 0)
        where[:, group.cells[classes, members]] = np.stack([np.full(len(classes), index), classes, members])
    result = {}
    for name, size in sizes.items():
        at = slice(offsets[name], offsets[name] + size)
        group, row, member = where[:, cells.cell[at]]
        along = widths[group] > 0
        slot = np.where(along, levels.level[at] * widths[group] + levels.slot[at], cells.slot[at])
        result[name] = Place(group, row, member, slot, cells.cell[at], block.used[at])
    return result


def _notes(
    designs: Sequence[Design], block: _Arranged, full: Sequence[_cells.Group], fast: Sequence[_cells.Group]
) -> tuple[str, ...]:
    """Of the cells that are factorised densely."""
    cells = np.bincount(block.cells.cell, minlength=len(block.cells.size))[block.dense]
    if not len(cells):
        return ()
    notes = [_sizes(len(cells), int(cells.max(initial=0)), full)]
    notes += [f"{blocks} blocks of at most {width} elements meet each other through {border} others only: they are "
              f"eliminated first, and {border} elements are left to factorise densely"
              for blocks, width, border in dict.fromkeys(g.arrow for g in full if g.arrow is not None)]  # fmt: skip
    for design, table, rows in zip(designs, block.tables, block.before, strict=True):
        if table.size < rows:
            notes.append(
                f"the {rows} rows of {design.site.name} were replaced by {table.size} with the same cross-products"
            )
    before, after = sum(g.valid.size for g in full), sum(g.valid.size for g in fast)
    if after < before:
        notes.append(_summed(before, after))
    return tuple(notes)


def _copied(groups: Sequence[_cells.Group], sizes: np.ndarray, copies: int) -> tuple[str, ...]:
    """Of cells that repeat over independent copies."""
    count = sum(int(g.number.sum()) for g in groups)
    note = _sizes(count, int(sizes.max(initial=0)), groups)
    return f"{note}, over {copies} independent copies", _summed(count, sum(g.valid.size for g in groups))


def _sizes(count: int, largest: int, groups: Sequence[_cells.Group]) -> str:
    classes = sum(len(g.real) for g in groups)
    return (f"{'1 cell' if count == 1 else f'{count} cells'} of at most {largest} coupled elements; {classes} distinct "
            f"precision{'' if classes == 1 else 's'} to factorise per iteration")  # fmt: skip


def _summed(before: int, after: int) -> str:
    return f"the {before} cells were summed up before the loop: an iteration sees {after} with the same second moments"


def _step_note(group: StepGroup) -> str:
    """Of the cells in levels."""
    count, length, kinds = int(group.number.sum()), len(group.kind), len(group.real)
    classes = len(group.number)
    chains = "1 chain" if count == 1 else f"{count} chains"
    note = f"{chains} of {length} steps, at most {group.width} elements each, eliminated step by step"
    if classes < count:
        note += f", {'once for all' if classes == 1 else f'for {classes} distinct ones'}"
    longest = int(np.diff(np.append(np.flatnonzero(np.diff(group.kind, prepend=-1)), length)).max())
    if longest >= _COMMON:
        note += (f"; along {longest} steps with the same rows only until the factor repeats itself, after which means "
                 "alone move")  # fmt: skip
    elif kinds > length // 2:
        note += "; every step has rows of its own"
    return note
