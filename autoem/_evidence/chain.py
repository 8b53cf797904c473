"""Discrete chains, exactly: log evidence by recursion, joint states by going back along the same steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array, Key, Leaf
from ._chain_blocks import (
    Laid,
    blocks,
    cut,
    in_blocks,
    laid,
    laid_potentials,
    log_total_of_blocks,
    step_by_step,
    value_and_gradient_of_blocks,
)
from ._chain_tables import (
    Chained,
    ChainShape,
    Potential,
    Variable,
    at_start,
    in_time,
    merged,
    potential,
    statistics_without_gate,
    total_values,
)
from ._factor import Factor
from ._logarithmic import joint, log_sum, logarithmic, reduced, streams
from ._recursion import log_total, scaled, unless, value_and_gradient
from ._weighed import Weights, weighed_potential

Slots = Sequence[Any]


class Chain(eqx.Module):
    """A block of discrete latents along a scan: L = log Σ_z Π f.

    Attributes:
        factors: the block's factors.
        places: where each of them stands.
        gates: per factor, (steps, batch...) whether it counts, for those that are gated.
        closed: per factor, its log density where its gate is closed.
        shape: static facts.
    """

    factors: tuple[Factor, ...]
    places: tuple[Chained, ...] = eqx.field(static=True)
    gates: tuple[Leaf | None, ...]
    closed: tuple[float, ...] = eqx.field(static=True)
    shape: ChainShape = eqx.field(static=True)

    method = "forward-backward"

    def prepare(self) -> Any:
        """Sufficient statistics of the data, laid out by step; of a long chain in blocks."""
        own, plain = blocks(self.shape), self._statistics()
        return tuple(laid(f, p, self.shape, own, s) for f, p, s in zip(self.factors, self.places, plain, strict=True))

    def _statistics(self) -> tuple[Any, ...]:
        return tuple(statistics_without_gate(f, p) for f, p in zip(self.factors, self.places, strict=True))

    def log_evidence(self, slots: Slots, prepared: Any, tilt: dict[str, Any] | None = None) -> Array:
        """L(slots). `tilt` adds to the log density of each value of each element: its gradient is q(z)."""
        first, later = self._opened(slots, prepared, tilt)
        if later is None:
            return jnp.sum(first)
        own = blocks(self.shape)
        if own is None:
            return log_total(self.shape, first, later)
        return log_total_of_blocks(self.shape, own, first, later)

    def expected_statistics(self, slots: Slots, prepared: Any, weights: Weights | None = None) -> tuple[Array, Slots]:
        """L and S = ∇L, one array per factor, shaped like its slots.

        With `weights` the latents are not summed over: their values have these weights.
        """
        if weights is not None:
            return jax.value_and_grad(lambda s: self._weighed(s, weights))(slots)

        return _expected(self, slots, self.prepare() if prepared is None else prepared)

    def plainly(self, slots: Slots, prepared: Any, anew: bool = True) -> tuple[Array, Slots]:
        """`expected_statistics`, whatever the data, with derivatives of any order.

        Not `anew`, what `quickly` has tried is not tried again.
        """
        (first, _), back, later = self._differentiable(slots, prepared)
        own = blocks(self.shape)
        if later is None:
            return jnp.sum(first), back((jnp.ones_like(first), None))[0]
        if own is None:
            steps = value_and_gradient if anew else logarithmic
            total, gradient = steps(self.shape, first, later)
        else:
            steps = value_and_gradient_of_blocks if anew else step_by_step
            total, gradient = steps(self.shape, own, first, later)
        return total, back(gradient)[0]

    def quickly(self, slots: Slots, prepared: Any) -> tuple[tuple[Array, Slots], Array]:
        """`expected_statistics`, and whether they are right."""
        first, later = self._opened(slots, prepared, None, added=True)
        _, back, _ = self._differentiable(slots, prepared)
        if later is None:
            return (jnp.sum(first), back((jnp.ones_like(first), None))[0]), jnp.asarray(True)
        own = blocks(self.shape)
        if own is None:
            (total, gradient), sound = scaled(self.shape, first, later)
        else:
            (total, gradient), sound = in_blocks(self.shape, own, first, later)
        return (total, back(gradient)[0]), sound

    def _differentiable(self, slots: Slots, prepared: Any) -> Any:
        """`_opened` as arrays, what pulls their derivatives back to the slots, and the potentials."""

        def arrays(slots: Slots) -> Any:
            first, later = self._opened(slots, prepared, None)
            return (first, None if later is None else tuple(p.array for p in later)), later

        return jax.vjp(arrays, slots, has_aux=True)

    def marginals(self, slots: Slots) -> dict[str, Array]:
        """q(z = k) for every element of every latent: (values, [steps], batch...)."""
        prepared = self.prepare()
        batch = self.shape.batch
        tilt = {n: jnp.zeros((k, self.shape.length, *batch)) for n, k, _ in self.shape.latents}
        tilt |= {n: jnp.zeros((k, *batch)) for n, k, _ in self.shape.statics}
        return jax.grad(lambda t: self.log_evidence(slots, prepared, t))(tilt)

    def mode(self, slots: Slots) -> dict[str, Array]:
        """The most probable joint states (Viterbi)."""
        return self._choose(slots, lambda _, log_p: jnp.argmax(log_p, 0), jnp.max)[0]

    def sample_with_density(self, key: Key, slots: Slots) -> tuple[dict[str, Array], Array]:
        """One joint draw of all states (forward filtering, backward sampling), and its log density q(z | x)."""
        return self._choose(
            slots,
            lambda t, log_p: jax.random.categorical(jax.random.fold_in(key, t), log_p, axis=0),
            jax.nn.logsumexp,
        )

    def _weighed(self, slots: Slots, weights: Weights) -> Array:
        total = jnp.zeros(())
        for factor, place, s, own, gate in zip(
            self.factors, self.places, slots, self._statistics(), self.gates, strict=True
        ):
            p = potential(factor, place, self.shape, s, own)
            total = total + weighed_potential(Potential(p.variables, p.array, gate), place, self.shape, weights)
        return total

    def _opened(
        self, slots: Slots, prepared: Any, tilt: Any, added: bool = False
    ) -> tuple[Array, tuple[Potential, ...] | None]:
        """log Σ over the first steps, for each value of the message after them if there are more; the potentials."""
        prepared = self.prepare() if prepared is None else prepared
        beginning, later = self._potentials(slots, prepared, tilt, added=added)
        if self.shape.start == self.shape.length:
            return log_sum(beginning, len(self.shape.batch)), None
        return log_sum(beginning, len(self.shape.batch), keep=len(self.shape.message())), tuple(later)

    def _potentials(
        self, slots: Slots, prepared: Any, tilt: dict[str, Any] | None, whole: bool = False, added: bool = False
    ) -> tuple[Array, list[Potential]]:
        """The log density of the first steps, over `beginning`, and the potentials of the others.

        These are `cut` where the chain is laid out in blocks, unless it is wanted as a `whole`. See `laid_potentials`
        for `added`.
        """
        shape = self.shape
        own = None if whole else blocks(shape)
        axes, batch = shape.beginning(), len(shape.batch)
        beginning = jnp.zeros([shape.sizes[n] for n, _ in axes] + list(shape.batch))
        later, entries = [], []
        for factor, place, s, mine, gate, closed in zip(
            self.factors, self.places, slots, prepared, self.gates, self.closed, strict=True
        ):
            if isinstance(mine, Laid):
                found, early = laid_potentials(factor, place, shape, own, s, mine, added)
                later.append(found)
                entries += [] if early is None else [early]
                continue
            p = potential(factor, place, shape, s, mine)
            entries.append((Potential(p.variables, p.array, gate, closed), place))
        for name, array in (tilt or {}).items():
            timed = any(name == n for n, _, _ in shape.latents)
            count = shape.length if timed else 1
            place = Chained(((name, 0),), 0, count, 0 if timed else None, tuple(range(batch)))
            entries.append((Potential(place.variables, array if timed else array[:, None]), place))
        for p, place in entries:
            stop = place.first + place.count
            for step in range(place.first, min(stop, shape.start)):
                beginning = beginning + at_start(p, place, shape, step)
            if stop > shape.start:
                found = in_time(p, place, shape.start, shape.length)
                later.append(found if own is None else cut(found, own))
        return beginning, merged(later)

    def _choose(
        self, slots: Slots, pick: Callable[[Any, Array], Array], reduction: Callable[..., Array]
    ) -> tuple[dict[str, Array], Array]:
        """Joint states and their log q: forwards by `reduction`, backwards by `pick`(step, log p (values, batch))."""
        shape = self.shape
        beginning, later = self._potentials(slots, self._statistics(), None, whole=True)
        lead, batch = len(shape.message()), len(shape.batch)
        first = reduced(beginning, batch, lead, reduction)
        sizes = shape.sizes

        def forwards(message: Array, own: Any) -> tuple[Array, Array]:
            new = reduced(joint(shape, message, own, later), batch, lead, reduction)
            # Only differences between values matter from here on.
            new = new - jnp.max(new, tuple(range(lead)), keepdims=True)
            return new, message

        def backwards(state: tuple[Array, Array], own: Any) -> Any:
            chosen, log_q = state
            message, stream = own
            log_p = _given(joint(shape, message, stream, later), chosen, batch, total_values(shape.message(), sizes))
            index, log_q = _picked(pick, stream[-1] + 2, log_p, log_q)
            old = _unravelled(index, shape.summed(), sizes)
            now = _unravelled(chosen, shape.message(), sizes) | old
            names = {n for n, _, _ in shape.latents}
            before = [now[(n, lag + 1) if n in names else (n, lag)] for n, lag in shape.message()]
            return (_ravelled(before, shape.message(), sizes, shape.batch), log_q), old

        log_q = jnp.zeros(())
        states: dict[str, Array] = {}
        if shape.start < shape.length:
            own = streams(shape, later)
            last, messages = jax.lax.scan(forwards, first, own)
            final = jnp.reshape(last, (-1, *shape.batch))
        else:
            final = jnp.reshape(first, (-1, *shape.batch))
        chosen, log_q = _picked(pick, 1, jax.nn.log_softmax(final, 0), log_q)
        at_end = _unravelled(chosen, shape.message(), sizes)
        old: dict[Variable, Array] = {}
        if shape.start < shape.length:
            (chosen, log_q), old = jax.lax.scan(backwards, (chosen, log_q), (messages, own), reverse=True)
        log_p = _given(beginning, chosen, batch, total_values(shape.message(), sizes))
        rest = shape.beginning()[lead:]
        index, log_q = _picked(pick, 0, log_p, log_q)
        opening = _unravelled(chosen, shape.message(), sizes) | _unravelled(index, rest, sizes)
        for name, _, depth in shape.latents:
            first_steps = [opening[name, lag] for lag in reversed(range(shape.start))]
            steps = jnp.stack(first_steps)
            if shape.start < shape.length:
                # Backwards, step t settled the value `depth` steps back; the last ones are in the final message.
                settled = old[name, depth]
                tail = [at_end[name, lag][None] for lag in reversed(range(depth))]
                steps = jnp.concatenate([steps[: shape.start - depth], settled, *tail])
            states[name] = steps
        for name, _, _ in shape.statics:
            states[name] = opening[name, 0]
        return states, jnp.sum(log_q)


@eqx.filter_custom_jvp
def _expected(engine: Chain, slots: Slots, prepared: Any) -> tuple[Array, Slots]:
    """The quick statistics if they are right, else the plain ones, from the slots: nothing large is handed over."""
    found, sound = engine.quickly(slots, prepared)
    arrays, still = eqx.partition(engine, eqx.is_array)
    return unless(
        sound, found, lambda a, *own: eqx.combine(a, still).plainly(*own, anew=False), arrays, slots, prepared
    )


@_expected.def_jvp
def _differential(primals: Any, tangents: Any) -> Any:
    return eqx.filter_jvp(lambda engine, *own: engine.plainly(*own), primals, tangents)


def _given(joint: Array, chosen: Array, batch: int, values: int) -> Array:
    """Log probabilities of the other values (values, batch...) at the chosen ones (batch...) of the leading axes."""
    tail = joint.shape[joint.ndim - batch :]
    flat = jnp.reshape(joint, (values, -1, *tail))
    picked = jnp.take_along_axis(flat, jnp.broadcast_to(chosen, (1, 1, *tail)), 0)[0]
    return jax.nn.log_softmax(picked, 0)


def _picked(pick: Any, step: Any, log_p: Array, log_q: Array) -> tuple[Array, Array]:
    index = pick(step, log_p)
    return index, log_q + jnp.sum(jnp.take_along_axis(log_p, index[None], 0))


def _unravelled(index: Array, variables: Sequence[Variable], sizes: dict[str, int]) -> dict[Variable, Array]:
    result = {}
    for v in reversed(variables):
        result[v] = index % sizes[v[0]]
        index = index // sizes[v[0]]
    return result


def _ravelled(values: Sequence[Array], variables: Sequence[Variable], sizes: dict[str, int], batch: Any) -> Array:
    index: Any = jnp.zeros(batch, int)
    for value, v in zip(values, variables, strict=True):
        index = index * sizes[v[0]] + value
    return index
