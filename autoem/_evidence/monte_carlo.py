"""Continuous latents that no exact engine and no quadrature takes: averages over draws from their posterior.

The draws are points like those of a quadrature, with random places and weights, so that statistics, M-steps and
derivatives are the same weighted sums. Both samplers work about the mode m of the posterior in free coordinates u and
with a root R of its inverse curvature there (one pair per independent cell):

* importance sampling: u = m + R t with t from a Student density, weights f(u) / q(u), cell by cell;
* NUTS (Hoffman and Gelman 2014) in the coordinates v of u = m + R v, in which the posterior is roughly standard: one
  step size fits all, and it is handed on, with the chains' last states, from one E-step to the next.

The log evidence is in both cases the importance estimate log (1/M) Σ f(u)/q(u), whose error is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.hmc import hmc

from .._types import Array, Key
from ._elimination import log_sum_exp, maximum
from ._factor import Factor
from ._seats import Seat
from ._several import SEVERAL, Modes, one
from .quadrature import Points, Quadrature, Read

Pick: TypeAlias = Callable[[str, Array], Array]

FEW = 8
"""Coordinates of the largest cell up to which importance sampling is chosen."""

_WARM, _AGAIN = 150, 10
"""Transitions that are thrown away: in the first E-step, and in each later one."""

_SEARCH = 8
"""E-steps from one search for all modes to the next."""

_MARGINAL = 4096
"""Draws, at least, of a log-likelihood by itself."""

_ACCEPT = 0.8
_DEPTH = 8
_TAIL = 5


class Chains(eqx.Module):
    """What a sampler hands on from one E-step to the next.

    Attributes:
        u: last states (chains, cells, d).
        mode: the modes about which they were proposed (K, cells, d).
        step: log of the step size.
        count: E-steps so far.
        kept: draws that are remembered (memory, cells, d), and
        weights: what they weigh (memory, cells). Both have no rows without a memory.
    """

    u: Array
    mode: Array
    step: Array
    count: Array
    kept: Array
    weights: Array


class Health(eqx.Module):
    """How one round of sampling went.

    Attributes:
        spread: variance of the estimated log evidence of every cell (cells,).
        effective: effective sample size of the importance weights as a part of the sample, in the worst cell.
        divergences: number of divergent transitions.
        accept: mean acceptance probability.
    """

    spread: Array
    effective: Array
    divergences: Array
    accept: Array


class Draws(eqx.Module):
    """Draws and what they weigh.

    Attributes:
        u: in free coordinates (M, cells, d).
        values: per latent, (M, *shape).
        weights: (M, cells), summing to 1 over the draws of a cell.
        total: the estimated log evidence.
    """

    u: Array
    values: dict[str, Array]
    weights: Array
    total: Array


class Drawn(eqx.Module):
    """Draws, what is handed on, and how it went.

    Attributes:
        draws: see there.
        each: the estimated log evidence of every cell (cells,).
        chains, health: see there.
    """

    draws: Draws
    each: Array
    chains: Chains
    health: Health


class Sampled(eqx.Module):
    """L = Σ_cells log ∫ Π f, and averages over the posterior, by `samples` draws.

    Attributes:
        cells: the cells, their density, its mode and curvature (its nodes are not used).
        sampler: "importance" or "nuts".
        samples: draws per E-step.
        num_chains: Markov chains.
        most: draws that a growing sample may have.
        memory: draws that are remembered (SAEM); 0: none.
        burn_in, decay: when the memory begins, and the exponent of its step sizes.
    """

    cells: Quadrature
    sampler: str = eqx.field(static=True)
    samples: int = eqx.field(static=True)
    num_chains: int = eqx.field(static=True)
    most: int = eqx.field(static=True)
    memory: int = eqx.field(static=True, default=0)
    burn_in: int = eqx.field(static=True, default=0)
    decay: float = eqx.field(static=True, default=1.0)

    method = "monte carlo"

    def prepare(self) -> None:
        """Nothing: the points move with the parameters."""
        return None

    @property
    def names(self) -> tuple[str, ...]:
        """The latents."""
        return self.cells.names

    @property
    def axis(self) -> str:
        """Name of the points' axis."""
        return self.cells.axis

    @property
    def seats(self) -> tuple[Seat, ...]:
        """Where the latents sit."""
        return self.cells.seats

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The block's sites."""
        return self.cells.factors

    @property
    def shape(self) -> tuple[int, int]:
        """Cells, and free coordinates of the largest."""
        return self.cells.cells, self.cells.dims

    @property
    def held(self) -> int:
        """Points that an E-step leaves."""
        return self.memory or self.samples

    def describe(self) -> str:
        """What is sampled how."""
        cells, dims = self.shape
        what = f"{dims} coupled coordinates" if cells == 1 else f"{cells} independent cells of at most {dims}"
        if self.sampler == "importance":
            how = "importance sampling from a Student density about the mode of every cell"
        else:
            how = f"NUTS, {self.num_chains} chains in coordinates whitened by the curvature at the mode"
        summed = f", {', '.join(self.cells.discrete)} summed out at every draw" if self.cells.discrete else ""
        return f"{how} ({what}){summed}"

    def start(self) -> Chains:
        """Before the first E-step."""
        cells, dims = self.shape
        real = jnp.result_type(float)
        return Chains(
            jnp.zeros((self.num_chains, cells, dims), real),
            jnp.zeros((SEVERAL if dims <= FEW else 1, cells, dims), real),
            jnp.full((), math.log(0.5), real), jnp.zeros((), int), jnp.zeros((self.memory, cells, dims), real),
            jnp.zeros((self.memory, cells), real),
        )  # fmt: skip

    def draw(self, read: Read, key: Key, chains: Chains) -> Drawn:
        """Fresh draws.

        Args:
            read: what they are drawn from.
            key: a JAX key.
            chains: what was handed on.
        """
        weighing, moving = jax.random.split(key)
        modes = self._modes(read, chains.mode, chains.count)
        u, terms = self._proposed(read, weighing, modes, self.samples)
        each = jax.nn.logsumexp(terms, 0)
        weights = jnp.exp(terms - each)
        spread = jnp.sum(weights**2, 0) - 1 / self.samples
        effective = jnp.min(1 / (1 + spread * self.samples))
        last, step, divergences, accept = chains.u, chains.step, jnp.asarray(0), jnp.ones(())
        if self.sampler == "nuts":
            u, last, step, divergences, accept = self._moved(read, moving, modes, chains)
            weights = jnp.full((self.samples, self.shape[0]), 1 / self.samples, u.dtype)
        after = Chains(last, modes.at, step, chains.count + 1, chains.kept, chains.weights)
        draws = Draws(u, self._values(u), weights, jnp.sum(each))
        return Drawn(draws, each, after, Health(spread, effective, divergences, accept))

    def _values(self, u: Array) -> dict[str, Array]:
        return jax.vmap(lambda v: self.cells.values(v)[0])(u)

    def pooled(self, rounds: Sequence[Drawn]) -> Drawn:
        """Several rounds at the same parameters as one sample."""
        each = jnp.stack([d.each for d in rounds])
        share = jax.nn.softmax(each, 0) if self.sampler == "importance" else jnp.full_like(each, 1 / len(rounds))
        weights = jnp.concatenate([s * d.draws.weights for s, d in zip(share, rounds, strict=True)])
        u = jnp.concatenate([d.draws.u for d in rounds])
        pooled = jax.nn.logsumexp(each, 0) - math.log(len(rounds))
        draws = Draws(u, self._values(u), weights, jnp.sum(pooled))
        # Of the mean of independent estimates, on the scale of its logarithm.
        ratios = jnp.exp(each - pooled)
        spread = jnp.sum(ratios**2 * jnp.stack([d.health.spread for d in rounds]), 0) / len(rounds) ** 2
        health = Health(
            spread, jnp.min(1 / (1 + spread * len(u))), sum((d.health.divergences for d in rounds), jnp.asarray(0)),
            sum((d.health.accept for d in rounds), jnp.zeros(())) / len(rounds),
        )  # fmt: skip
        return Drawn(draws, pooled, rounds[-1].chains, health)

    def _modes(self, read: Read, start: Array, count: Array | None = None) -> Modes:
        """Where draws are proposed: about one mode of many coordinates, about all that are found of few. Those are
        followed from one E-step to the next, and looked for anew from time to time.
        """
        if self.shape[1] > FEW:
            return one(*self.cells.place(read, (), trials=start))
        if count is None:
            return self.cells.several(read, ())
        again = count % _SEARCH == 0
        return jax.lax.cond(again, lambda: self.cells.several(read, ()), lambda: self.cells.several(read, (), start))

    def _density(self, read: Read, u: Array) -> Array:
        return self.cells.each(lambda v: self.cells.density(read, v, ()), u)

    def _proposed(self, read: Read, key: Key, modes: Modes, number: int) -> tuple[Array, Array]:
        """Draws (M, cells, d) about the modes, and log f - log q - log M (M, cells).

        The Student density has as many degrees of freedom as there are coordinates: with fewer its radius would be
        far too spread, and heavier tails than the posterior's it has with any number.
        """
        u, log_q = modes.draws(key, number, max(_TAIL, self.shape[1]))
        terms = self._density(read, u) - log_q - math.log(number)
        return u, jnp.where(jnp.isnan(terms), -jnp.inf, terms)

    def _moved(self, read: Read, key: Key, modes: Modes, chains: Chains) -> Any:
        """Draws (M, cells, d), chain after chain; the chains' last states, log step, divergences, acceptance.

        The chains start from all the modes in turn: one that never leaves its own shows between them.
        """
        mode, root = modes.at[0], modes.root[0]
        shape, length = mode.shape, self.samples // self.num_chains

        def place(v: Array) -> Array:
            return mode + jnp.einsum("cij,cj->ci", root, jnp.reshape(v, shape))

        def potential(v: Array) -> Array:
            return -jnp.sum(self.cells.density(read, place(v), ()))

        init, transition = hmc(potential, algo="NUTS")
        first = chains.count == 0
        burn = jnp.where(first, _WARM, _AGAIN)

        def chain(key: Key, u: Array, begin: Modes) -> Any:
            fresh, key = jax.random.split(key)
            begun = begin.at + jnp.einsum("cij,cj->ci", begin.root, jax.random.normal(fresh, shape, u.dtype))
            u = jnp.where(first, begun, u)
            v = jnp.reshape(jnp.linalg.solve(root, (u - mode)[..., None])[..., 0], (-1,))
            size: Any = jnp.exp(chains.step)
            state = init(v, 0, size, adapt_step_size=False, adapt_mass_matrix=False, max_tree_depth=_DEPTH, rng_key=key)

            def move(i: Any, carry: Any) -> Any:
                state, kept, divergences, accept = carry
                state = transition(state)
                adapted = state.adapt_state
                # Robbins and Monro on the log step size while draws are thrown away; then it stays.
                gain = jnp.where(i < burn, (state.accept_prob - _ACCEPT) / jnp.sqrt(1.0 + i), 0.0)
                state = state._replace(adapt_state=adapted._replace(step_size=adapted.step_size * jnp.exp(gain)))
                counts = i >= burn
                kept = kept.at[jnp.maximum(i - burn, 0)].set(state.z)
                return state, kept, divergences + (counts & state.diverging), accept + counts * state.accept_prob

            carry = state, jnp.zeros((length, v.size), v.dtype), jnp.asarray(0), jnp.zeros((), v.dtype)
            state, kept, divergences, accept = jax.lax.fori_loop(0, burn + length, move, carry)
            return jax.vmap(place)(kept), jnp.log(state.adapt_state.step_size), divergences, accept / length

        keys, begin = jax.random.split(key, self.num_chains), modes.in_turn(self.num_chains)
        u, steps, divergences, accept = jax.vmap(chain)(keys, chains.u, begin)
        drawn = jnp.reshape(u, (-1, *shape))
        return drawn, u[:, -1], jnp.mean(steps), jnp.sum(divergences), jnp.mean(accept)

    def remembered(self, drawn: Drawn) -> Drawn:
        """The memory in place of fresh draws: (1 - γ) times what it held, γ times the fresh ones for the oldest."""
        chains, fresh = drawn.chains, drawn.draws.weights
        before = chains.count - 1
        gamma = jnp.maximum(chains.count - self.burn_in, 1).astype(fresh.dtype) ** -self.decay
        blocks = self.memory // self.samples
        at = (before % blocks) * self.samples
        held = jax.lax.dynamic_update_slice(chains.weights, jnp.zeros_like(fresh), (at, 0))
        held = jax.lax.dynamic_update_slice((1 - gamma) * held, gamma * fresh, (at, 0))
        held = held / jnp.sum(held, 0)
        kept = jax.lax.dynamic_update_slice(chains.kept, drawn.draws.u, (at, 0, 0))
        # What weighs nothing may be anything that has a density.
        u = jnp.where(held[..., None] > 0, kept, jnp.tile(drawn.draws.u, (blocks, 1, 1)))
        draws = Draws(u, self._values(u), held, drawn.draws.total)
        after = Chains(chains.u, chains.mode, chains.step, chains.count, u, held)
        return Drawn(draws, drawn.each, after, drawn.health)

    def expected_statistics(self, draws: Draws, arguments: Any) -> list[Array]:
        """Statistics averaged over the draws, one array per factor, shaped like its slots at the draws."""
        return self.cells.expected_statistics(self._points(draws), arguments)

    def _points(self, draws: Draws) -> Points:
        """As a quadrature has them, without discrete latents that are held fixed."""
        nothing = jnp.zeros((1, *draws.weights.shape), draws.weights.dtype)
        return Points(draws.u[None], draws.values, nothing, draws.weights, nothing[:, 0], draws.total, [])

    def marginals(self, read: Read, draws: Draws) -> dict[str, Array]:
        """Posterior probabilities of the discrete latents, averaged over draws (values, dims...)."""
        return self.cells.inner_marginals(read, self._points(draws))

    def relative(self, draws: Draws, read: Read, frozen: Read) -> Array:
        """log of the ratio of two evidences, Σ_cells log Σ_m w_m f(u_m) / f₀(u_m), with the draws held.

        At f = f₀ it is zero, its gradient Fisher's and its Hessian Louis' identity.

        Args:
            draws: from the posterior under f₀.
            read: f.
            frozen: f₀, constant as far as derivatives are concerned.
        """
        return jnp.sum(jax.nn.logsumexp(jnp.log(draws.weights) + self.ratios(draws, read, frozen), 0))

    def ratios(self, draws: Draws, read: Read, frozen: Read) -> Array:
        """log f(u) - log f₀(u) of every draw and cell: (M, cells)."""
        before = jax.lax.stop_gradient(self._density(frozen, draws.u))
        return self._density(read, draws.u) - before

    def resampled(self, read: Read, draws: Draws, key: Key, number: int) -> tuple[dict[str, Array], dict[str, Array]]:
        """Joint draws of equal weight (number, *shape), and of the states of the discrete latents beside them.

        Cell by cell by their weights, or spread evenly over the chains.
        """
        choosing, below = jax.random.split(key)
        if self.sampler == "nuts":
            chosen = jax.random.permutation(choosing, np.linspace(0, len(draws.u) - 1, number).round().astype(int))
            u = draws.u[chosen]
        else:
            heights = jnp.cumsum(draws.weights, 0)
            level = jax.random.uniform(choosing, (number, self.shape[0]), heights.dtype) * heights[-1]
            picked = jax.vmap(jnp.searchsorted, (1, 1), 1)(heights, level)
            u = jnp.take_along_axis(draws.u, picked[..., None], 0)

        def states(values: dict[str, Array], key: Key) -> dict[str, Array]:
            keys = {n: jax.random.fold_in(key, i) for i, n in enumerate(self.cells.discrete)}
            return self._states(read, values, lambda n, p: jax.random.categorical(keys[n], p, axis=0))

        values = self._values(u)
        return values, jax.vmap(states)(values, jax.random.split(below, number))

    def _states(
        self, read: Read, values: dict[str, Array], pick: Pick, reduction: Any = log_sum_exp
    ) -> dict[str, Array]:
        """States of the discrete latents at one value of each continuous one; `pick` as in `Summed.choose`."""
        summed = self.cells.summed
        taken = summed.taken(read({n: v[None] for n, v in values.items()}))
        return summed.choose(*taken, (), pick, reduction)[0]

    def in_batches(self, draws: Draws, number: int) -> Draws:
        """The draws in batches, one leading axis more, weights adding up to one in each."""

        def split(array: Array) -> Array:
            return jnp.reshape(array, (number, -1, *array.shape[1:]))

        weights = split(draws.weights)
        total = jnp.sum(weights, 1, keepdims=True)
        weights = weights / jnp.where(total > 0, total, 1.0)
        values = {n: split(v) for n, v in draws.values.items()}
        totals = jnp.broadcast_to(draws.total, (number,))
        return Draws(split(draws.u), values, weights, totals)

    def log_evidence(self, read: Read, frozen: Read, key: Key) -> Array:
        """The importance estimate of L. Its derivatives are those of the weighted sum with its draws held."""
        modes = self._modes(frozen, jnp.zeros((1, *self.shape), jnp.result_type(float)))
        u, terms = jax.lax.stop_gradient(self._proposed(frozen, key, modes, max(self.samples, _MARGINAL)))
        held = jax.lax.stop_gradient(terms - self._density(frozen, u))
        return jnp.sum(jax.nn.logsumexp(self._density(read, u) + held, 0))

    def mode(self, read: Read) -> tuple[dict[str, Array], dict[str, Array]]:
        """The most probable values of the latents, and states of the discrete ones beside them: the mode of their joint
        density on its own scale, whatever the coordinates.
        """
        start = jnp.zeros((1, *self.shape), jnp.result_type(float))
        trials = None if self.shape[1] <= FEW else start
        u, _ = self.cells.place(read, (), jacobian=False, reduction=maximum, trials=trials)
        values = self.cells.values(u)[0]
        return values, self._states(read, values, lambda _, log_p: jnp.argmax(log_p, 0), maximum)
