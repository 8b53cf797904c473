"""The complete-data log density as a function of the parameters: Q(θ) = Σ ⟨slots(θ), S⟩ + log priors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ._evidence import Factor
from ._family import AbstractFamily, LinearGaussian, inner
from ._links import Program
from ._types import Array, Params


class Prior(eqx.Module):
    """The density that a maximised site keeps.

    Attributes:
        site: name of the site, and of the parameter.
        family: its exponential family, or None.
        weight: mask times scale, or None for ones.
    """

    site: str = eqx.field(static=True)
    family: AbstractFamily | None = eqx.field(static=True)
    weight: Array | None

    def log_density(self, params: Params, arguments: dict[str, Any]) -> Array:
        """Elementwise log density. A family's own form holds on the boundary, where NumPyro's has 0 · log 0."""
        if self.family is None:
            return arguments["@log_prob"]
        constants = {n: arguments[n] for n in self.family.constants}
        value = params[self.site]
        slots = self.family.slots(arguments, constants)
        return jnp.sum(slots * self.family.statistics(value, constants), -1) + self.family.log_base(value, constants)


class CompleteData(eqx.Module):
    """Everything the M-step may look at: links, factors and priors.

    Attributes:
        program: parameters -> arguments of all entries (factors first, then priors), for every latent value.
        known: the program's data, by value number.
        names: parameters in the program's order.
        outputs: per entry, (argument name, value number) pairs.
        factors, priors: the entries.
        points: latents that are integrated numerically: values by name, with one leading axis of points; they are
            inputs of the program after the parameters, one point at a time.
        moving: their names in the program's order (a dictionary has its keys sorted on the way through jit).
        blocks: per block of such latents, its names and the positions of the program's outputs that hold them.
    """

    program: Program = eqx.field(static=True)
    known: dict[int, Any]
    names: tuple[str, ...] = eqx.field(static=True)
    outputs: tuple[tuple[tuple[str, int], ...], ...] = eqx.field(static=True)
    factors: tuple[Factor, ...]
    priors: tuple[Prior, ...]
    points: dict[str, Any]
    moving: tuple[str, ...] = eqx.field(static=True)
    blocks: tuple[tuple[tuple[str, ...], tuple[int, ...]], ...] = eqx.field(static=True)

    def at(self, points: dict[str, Any]) -> CompleteData:
        """The same with other points for some latents."""
        return eqx.tree_at(lambda c: c.points, self, {**self.points, **points})

    def arguments(self, params: Params) -> list[dict[str, Any]]:
        """Aligned distribution arguments of every entry."""
        results = self._results([jnp.asarray(params[n]) for n in self.names])
        values = dict(zip(self.program.outputs, results, strict=True))
        return [{name: values[number] for name, number in entry} for entry in self.outputs]

    def _results(self, given: list[Any]) -> list[Any]:
        """The program's outputs; those that hold points have an axis for them, the others length 1 there."""
        numbers = self.program.inputs[len(self.names) :]
        dtypes = [self.program.avals[i].dtype for i in numbers]

        def run(points: dict[str, Any]) -> list[Any]:
            held = [points[n].astype(dtype) for n, dtype in zip(self.moving, dtypes, strict=True)]
            return self.program([*given, *held], self.known)

        first = {n: jnp.asarray(p)[:1] for n, p in self.points.items()}
        results = run(first)
        for names, held in self.blocks:
            own = {n: jnp.asarray(self.points[n])[:, None] for n in names}
            if all(len(p) == 1 for p in own.values()):
                continue
            many = jax.vmap(lambda p, held=held: [run({**first, **p})[i] for i in held])(own)
            for i, result in zip(held, many, strict=True):
                results[i] = result[:, 0]
        return results

    def slots(self, params: Params) -> list[Any]:
        """Natural parameters of every factor."""
        arguments = self.arguments(params)[: len(self.factors)]
        return [f.slots(a) for f, a in zip(self.factors, arguments, strict=True)]

    def inputs(self, params: Params) -> list[Any]:
        """What the E-step engines want of every factor: its slots, or its arguments if it holds continuous latents."""
        arguments = self.arguments(params)[: len(self.factors)]
        return [a if isinstance(f.family, LinearGaussian) or f.moving else f.slots(a)
                for f, a in zip(self.factors, arguments, strict=True)]  # fmt: skip

    def log_prior(self, params: Params) -> Array:
        """Log density of the maximised sites that are not flat, on the constrained value, without Jacobian."""
        total = jnp.zeros(())
        for prior, arguments in zip(self.priors, self.arguments(params)[len(self.factors) :], strict=True):
            term = prior.log_density(params, arguments)
            total = total + jnp.sum(term if prior.weight is None else term * prior.weight)
        return total

    def objective(self, params: Params, statistics: Sequence[Any]) -> Array:
        """Q(θ) for given expected statistics, up to a constant."""
        slots = self.slots(params)
        return sum((jnp.sum(inner(s, t)) for s, t in zip(slots, statistics, strict=True)), self.log_prior(params))
