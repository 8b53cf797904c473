"""Hidden counts: a count, or a probability, whose rate is a sum of terms that are not negative.

    x ~ Poisson(Σ_t λ_t) is x = Σ_t x_t with x_t ~ Poisson(λ_t); given x they are Multinomial(x, λ_t / Σ λ)
    x ~ Multinomial(n, p), p_k = Σ_t p_kt, is the margin of a table with one cell for every term

Given the hidden counts an element u of a parameter meets the features of its own terms only, and log u has the
coefficient Σ_t a_t E[x_t | x] where u is in term t to the power a_t. That is u ∂/∂u Σ E[x] log rate, the gradient of
the log evidence once more (Dempster, Laird and Rubin 1977; Shepp and Vardi 1982 for tomography; Baum and Eagon 1967
for polynomials on the simplex): no term is ever written out. Exponential and Gamma waiting times under competing
risks have the same features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._complete import CompleteData
from .._family import LogOdds, LogPower, LogSimplex, safe_log
from .._links import Program, evaluate_apart
from .._types import Array, Params


class HiddenCounts(eqx.Module):
    """One place where a parameter enters by a sum of terms. It serves a closed form as an `Occurrence` does.

    Attributes:
        entry: position of the factor.
        argument: which argument is the sum.
        kind: "power" (a rate of degree one), "simplex" or "odds".
        single: every element of the argument is one term: there is nothing hidden.
        program: parameters -> the argument, where 1 - u is a factor; None where it is not.
        complements: values of the program that are 1 - u.
        index, floor: None, as those of a parameter's own density.
    """

    entry: int = eqx.field(static=True)
    argument: str = eqx.field(static=True)
    kind: str = eqx.field(static=True)
    single: bool = eqx.field(static=True)
    program: Program | None = eqx.field(static=True)
    complements: frozenset[int] = eqx.field(static=True)
    index: Array | None = None
    floor: Array | None = None

    power = 1.0

    def conditional(
        self, name: str, complete: CompleteData, params: Params, statistics: Sequence[Any]
    ) -> LogPower | LogSimplex | LogOdds:
        """A lower bound of the factor's part of Q, equal to it at the current parameters: shaped like the parameter."""
        factor = complete.factors[self.entry]
        assert factor.family is not None
        arguments = complete.arguments(params)[self.entry]
        found: Any = factor.family.argument_conditional(
            self.argument, statistics[self.entry], arguments, factor.constants
        )
        counts = found.log if self.kind == "power" else found.counts
        current = jnp.asarray(params[name])

        def height(u: Array, v: Array) -> Array:
            return jnp.sum(counts * safe_log(self._rate(name, complete, params, u, v)))

        slope, other = jax.grad(height, (0, 1))(current, current)
        if self.kind == "simplex":
            return LogSimplex(_counts(current, slope))
        if self.kind == "odds":
            return LogOdds(_counts(current, slope), _counts(1 - current, -other))

        def exposure(u: Array) -> Array:
            return jnp.sum(found.power * self._rate(name, complete, params, u, u))

        return LogPower(_counts(current, slope), jax.grad(exposure)(current), exponent=1.0)

    def _rate(self, name: str, complete: CompleteData, params: Params, u: Array, v: Array) -> Array:
        """The argument; 1 - u is computed from `v`."""
        if self.program is None:
            return complete.arguments({**params, name: u})[self.entry][self.argument]
        inputs, others = ([{**params, name: w}[n] for n in complete.names] for w in (u, v))
        return evaluate_apart(self.program, inputs, others, self.complements, complete.known)[0]

    def coefficient(self, name: str, complete: CompleteData, params: Params) -> Array:
        """1: it is in the features' coefficients."""
        return jnp.ones(())

    def pooled(self, array: Array, like: Array, ndim: int = 0) -> Array:
        """Shaped like the parameter already: (size, event...)."""
        event = like.shape[like.ndim - ndim :]
        return jnp.reshape(jnp.broadcast_to(array, like.shape), (like.size // math.prod(event), *event))


def _counts(u: Array, slope: Array) -> Array:
    """u ∂/∂u; nothing where the slope is beyond all floats, because u is as good as zero."""
    return jnp.where(jnp.isfinite(slope), u * slope, 0.0)
