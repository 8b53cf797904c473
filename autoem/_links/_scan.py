"""A scan whose steps do not build on each other, as array operations over all steps at once.

Once the values of its sample sites are given, the state that a step hands on is usually one of those values: it does
not depend on the state that came in. Then all steps can be evaluated together, each from the value before it, and the
program shows which element of what meets which. States that do recur (a counter, an accumulated sum) stay a scan of
their own, which is data if nothing unknown enters it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Body:
    """One step: values are numbered as in `call`.

    Attributes:
        call: (wanted outputs, operands) -> their values; operands are constants, states, inputs of the step.
        uses: wanted outputs -> positions of the operands that they need.
        consts, states, length: number of constants and of states; number of steps.
        reach: per output (states first), the states that came in on which it depends.
        kept: states that go out as they came in.
    """

    call: Callable[[Sequence[int], Sequence[Any]], list[Any]]
    uses: Callable[[Sequence[int]], frozenset[int]]
    consts: int
    states: int
    length: int
    reach: Sequence[frozenset[int]]
    kept: frozenset[int]


def _closure(reach: Sequence[frozenset[int]], start: frozenset[int]) -> frozenset[int]:
    found, fresh = set(start), set(start)
    while fresh:
        fresh = {k for j in fresh for k in reach[j]} - found
        found |= fresh
    return frozenset(found)


@dataclass
class Unrolled:
    """The operations of all steps, built by tracing functions of the scan's operands.

    Attributes:
        body: one step.
        emit: (function, operands) -> value numbers of the function's results: adds operations to a program.
        operands: value numbers of constants, initial states, inputs of the steps.
        join: (value numbers, seam) -> value number of their concatenation along the steps.
    """

    body: Body
    emit: Callable[[Callable[..., Any], Sequence[int]], list[int]]
    operands: Sequence[int]
    join: Callable[[Sequence[int], int], int]
    _segments: dict[Any, int] = field(default_factory=dict)
    _sequences: dict[int, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        body = self.body
        reach = [r - body.kept for r in body.reach]
        down = {j: _closure(reach, reach[j]) for j in range(body.states) if j not in body.kept}
        self.recurrent = frozenset(j for j in down if j in down[j])
        levels: dict[int, int] = {}

        def level(j: int) -> int:
            if j not in levels:
                below = [level(k) for k in reach[j] if k not in self.recurrent]
                levels[j] = 1 + max(below, default=0)
            return levels[j]

        self.levels: Mapping[int, int] = {j: level(j) for j in down if j not in self.recurrent}
        self.reach = reach
        self.down = down

    def results(self) -> list[int]:
        """Value numbers of the scan's outputs: final states, then what the steps put out, stacked."""
        body = self.body
        finals = [self._final(j) for j in range(body.states)]
        outputs = range(body.states, len(body.reach))
        depth = {i: max((self.levels.get(k, 0) for k in self.reach[i]), default=0) for i in outputs}
        free = [i for i in outputs if not depth[i]]
        found = dict(zip(free, self._steps(free, 0, body.length), strict=True))
        bound = [i for i in outputs if depth[i]]
        if bound:
            seam = min(max(depth[i] for i in bound), body.length)
            spans = [(t, t + 1) for t in range(seam)] + [(seam, body.length)] * (seam < body.length)
            pieces = [self._steps(bound, a, b) for a, b in spans]
            found |= {i: self.join([p[n] for p in pieces], seam) for n, i in enumerate(bound)}
        return [*finals, *(found[i] for i in outputs)]

    def _initial(self, j: int) -> int:
        return self.operands[self.body.consts + j]

    def _final(self, j: int) -> int:
        if j in self.body.kept:
            return self._initial(j)
        if j in self.recurrent:
            return self._sequence(j)[1]
        last = self.body.length - 1
        return self.emit(lambda a: a[0], [self._state_out(j, last, last + 1)])[0]

    def _sequence(self, j: int) -> tuple[int, int]:
        """A recurrent state: what came in at every step, stacked, and what came out last."""
        if j not in self._sequences:
            body = self.body
            members = sorted(self.down[j] | {j})
            first = body.consts + body.states
            used = sorted(body.uses(members) | {body.consts + k for k in members})

            def run(*operands: Any) -> Any:
                fixed = {i: a for i, a in zip(used, operands, strict=True) if i < first}
                moving = {i: a for i, a in zip(used, operands, strict=True) if i >= first}

                def step(states: Any, own: Any) -> Any:
                    given: dict[int, Any] = {**fixed, **own}
                    given |= {body.consts + k: s for k, s in zip(members, states, strict=True)}
                    out = body.call(members, [given.get(i) for i in range(len(self.operands))])
                    return tuple(out), states[members.index(j)]

                initial = tuple(fixed[body.consts + k] for k in members)
                last, seen = jax.lax.scan(step, initial, moving, body.length)
                return seen, last[members.index(j)]

            seen, last = self.emit(run, [self.operands[i] for i in used])
            self._sequences[j] = seen, last
        return self._sequences[j]

    def _state_out(self, j: int, start: int, stop: int) -> int:
        if (j, start, stop) not in self._segments:
            self._segments[j, start, stop] = self._steps([j], start, stop)[0]
        return self._segments[j, start, stop]

    def _state_in(self, j: int, start: int, stop: int) -> int:
        """State j as it comes into the steps start, ..., stop - 1: all of them past the first `level`, or one step."""
        if j in self.recurrent:
            whole = self._sequence(j)[0]
            return self.emit(lambda a: jax.lax.slice_in_dim(a, start, stop), [whole])[0]
        if start == 0:
            return self.emit(lambda a: a[None], [self._initial(j)])[0]
        return self._state_out(j, start - 1, stop - 1)

    def _steps(self, wanted: Sequence[int], start: int, stop: int) -> list[int]:
        """Outputs of the steps start, ..., stop - 1, stacked."""
        if not wanted:
            return []
        body = self.body
        needed = sorted({k for i in wanted for k in self.reach[i]})
        incoming = [self._state_in(k, start, stop) for k in needed]

        def run(*operands: Any) -> Any:
            consts, rest = operands[: body.consts], operands[body.consts :]
            initial, rest = rest[: body.states], rest[body.states :]
            inputs, states = rest[: len(rest) - len(needed)], rest[len(rest) - len(needed) :]
            inputs = [jax.lax.slice_in_dim(x, start, stop) for x in inputs]

            def step(own: Any, states: Any) -> Any:
                given = list(initial)
                for k, s in zip(needed, states, strict=True):
                    given[k] = s
                return body.call(wanted, [*consts, *given, *own])

            if not inputs and not states:
                return [jnp.broadcast_to(a, (stop - start, *jnp.shape(a))) for a in step([], [])]
            return jax.vmap(step)(list(inputs), list(states))

        return self.emit(run, [*self.operands, *incoming])


SHORT = 32
"""Steps up to which a scan whose states build on each other and on unknowns is written out."""


def written_out(
    step: Callable[[Sequence[Any]], Sequence[Any]], consts: int, states: int, length: int
) -> Callable[..., list[Any]]:
    """A function of a scan's operands: all its steps, one by one. States that are affine in unknowns are seen to be.

    Args:
        step: operands of one step -> its results, states first.
        consts, states, length: number of constants and of states; number of steps.
    """

    def run(*operands: Any) -> list[Any]:
        carry, inputs = operands[consts : consts + states], operands[consts + states :]
        made = []
        for t in range(length):
            results = step([*operands[:consts], *carry, *(x[t] for x in inputs)])
            carry = results[:states]
            made.append(results[states:])
        return [*carry, *(jnp.stack(own) for own in zip(*made, strict=True))]

    return run
