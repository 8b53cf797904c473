"""Continuous latents given discrete ones: every cell's evidence, state by state, is a factor of the discrete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax.numpy as jnp

from .._types import Array, Key, StaticArray
from ._weighed import Weights
from .conjugate import Conjugate
from .enumerate import Enumeration
from .gaussian import Gaussian

Engine = TypeVar("Engine", bound=Gaussian | Conjugate)


class Mixed(eqx.Module, Generic[Engine]):
    """L = log Σ_k p(k) Π_c p(data of cell c | k), the inner integrals by one engine, the sum by another.

    The expected statistics of the discrete factors come from the sum; those of the sites with continuous latents are
    averages over the states, weighted by the posterior probabilities that the sum's gradient gives.

    Attributes:
        continuous: the engine of the continuous latents, for every joint state.
        discrete: the engine of the discrete ones; its last factor is the table of cells.
        met: per discrete latent, the flat number of its element that each cell meets, -1 for none.
    """

    continuous: Engine
    discrete: Enumeration
    met: dict[str, StaticArray] = eqx.field(static=True)

    @property
    def method(self) -> str:
        """Of the continuous latents, and of the discrete ones."""
        return f"{type(self.continuous).method} and enumeration"

    def prepare(self) -> Any:
        """What does not change with the parameters."""
        return self.discrete.prepare()

    @property
    def count(self) -> int:
        """Number of sites with continuous latents: what these need come first among the inputs."""
        return len(self.continuous.factors)

    def _slots(self, inputs: Sequence[Any], table: Array) -> list[Any]:
        shape = [n for _, n in self.continuous.latents]
        return [*inputs[self.count :], jnp.reshape(table, (*shape, table.shape[-1], 1))]

    def log_evidence(self, inputs: Sequence[Any], prepared: Any = None) -> Array:
        """L. `inputs`: what the continuous engine needs of its sites, then slots of the discrete factors."""
        slots = self._slots(inputs, self.continuous.tables(inputs[: self.count]))
        return self.continuous.log_base + self.discrete.log_evidence(slots, prepared)

    def expected_statistics(
        self, inputs: Sequence[Any], prepared: Any = None, weights: Weights | None = None
    ) -> tuple[Array, list[Any]]:
        """L and the expected statistics, in the order of the inputs; `weights` as in the discrete engine."""
        given = inputs[: self.count]
        slots = self._slots(inputs, self.continuous.tables(given))
        total, found = self.discrete.expected_statistics(slots, prepared, weights)
        *discrete, states = found
        flat = jnp.reshape(states, (-1, states.shape[-2]))
        return self.continuous.log_base + total, [*self.continuous.weighted_statistics(given, flat), *discrete]

    def weights(self, inputs: Sequence[Any]) -> Array:
        """Posterior probability of every joint state of a cell's discrete latents: (L, cells)."""
        slots = self._slots(inputs, self.continuous.tables(inputs[: self.count]))
        _, found = self.discrete.expected_statistics(slots, self.discrete.prepare())
        return jnp.reshape(found[-1], (-1, found[-1].shape[-2]))

    def joint_state(self, states: dict[str, Array]) -> Array:
        """Index into the joint states of every cell: (cells,), from an index per element of each discrete latent."""
        total = jnp.zeros((), int)
        for name, size in self.continuous.latents:
            own = jnp.reshape(states[name], -1)[self.met[name].array]
            total = total * size + jnp.where(self.met[name].array < 0, 0, own)
        return jnp.broadcast_to(total, (self.discrete.factors[-1].batch_shape))

    def marginals(self, inputs: Sequence[Any]) -> dict[str, Array]:
        """q(k) for every element of every discrete latent."""
        return self.discrete.marginals(self._slots(inputs, self.continuous.tables(inputs[: self.count])))

    def mode(self, inputs: Sequence[Any]) -> tuple[dict[str, Array], list[Any]]:
        """Joint mode: the discrete states at which the density at the continuous latents' own mode is largest, and
        what the continuous engine finds for every state.
        """
        given = inputs[: self.count]
        table = self.continuous.tables(given) + self.continuous.heights(given)
        states = self.discrete.mode(self._slots(inputs, table))
        return states, self.continuous.solve(given)

    def sample_with_density(self, key: Key, inputs: Sequence[Any]) -> tuple[dict[str, Array], Array]:
        """One joint draw of the discrete states, and its log density."""
        return self.discrete.sample_with_density(key, self._slots(inputs, self.continuous.tables(inputs[: self.count])))
