"""Scale mixtures of normals: a hidden precision for every datum, integrated in closed form.

    x | τ ~ Normal(μ, σ²/τ),   τ ~ H(df, ...),   log p(x) = -log σ + g(δ²),   δ = (x - μ)/σ

The density without the τ is the site's own, so that nothing is lost where they are integrated; and whatever H is, the
one statistic that the M-step wants is E[τ | x] = -2 g'(δ²) at the current parameters (Dempster, Laird and Rubin 1980).
Given it, the location is a weighted least-squares problem and the scale has a closed form: each step raises
Σ w log p(x), for any weights w of the data, which is the Q of everything else in the model.
"""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from .._types import Array, Arrays
from ._base import AbstractWeighted
from ._conditional import Conditional, LogPower, Quadratic


class AbstractScaleMixture(AbstractWeighted):
    """A location-scale density that is a scale mixture of normals.

    Where no argument depends on a parameter the site is a number: T = 1, and all of the density is in log h.

    Attributes:
        kind: NumPyro's class.
        normal: what it is given the hidden precision.
        mixing: what is hidden, for people: "a Gamma-distributed precision".
        weight: its expectation, for people, with δ the standardised distance.
    """

    kind: eqx.AbstractClassVar[type]
    normal: eqx.AbstractClassVar[str]
    mixing: eqx.AbstractClassVar[str]
    weight: eqx.AbstractClassVar[str]

    @abc.abstractmethod
    def expected_precision(self, distance: Array, arguments: Arrays) -> Array:
        """E[τ | x] where δ² = `distance`."""

    @abc.abstractmethod
    def weighted_conditional(self, name: str, value: Array, weights: Array, arguments: Arrays) -> Conditional | None:
        """A lower bound of Σ weights · log p as a function of one argument, equal to it at the current arguments."""


class AbstractUnivariate(AbstractScaleMixture):
    """Of a scalar x, in NumPyro's arguments `loc` and `scale`."""

    def centre(self, value: Array) -> Array:
        """The value itself."""
        return value

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """1."""
        return jnp.ones((*jnp.shape(value), 1))

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """The whole log density."""
        return own_density(self, value, constants)

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """0."""
        return jnp.zeros((*jnp.broadcast_shapes(*(jnp.shape(a) for a in arguments.values())), 1))

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """None: all arguments are constants here."""
        return None

    def weighted_conditional(self, name: str, value: Array, weights: Array, arguments: Arrays) -> Conditional | None:
        """loc: {u, u²}; scale: {log u, u⁻²}; whatever else is numeric."""
        if name not in ("loc", "scale"):
            return None
        residual, scale = value - arguments["loc"], arguments["scale"]
        precision = weights * self.expected_precision((residual / scale) ** 2, arguments)
        if name == "loc":
            return Quadratic(precision * scale**-2.0, precision * scale**-2.0 * value)
        return LogPower(-weights, -precision * residual**2 / 2, exponent=-2.0)

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """None: a mixture has no features."""
        return None

    def describe_statistics(self) -> tuple[str, ...]:
        """The count."""
        return ("1",)


def own_density(family: AbstractScaleMixture, value: Array, constants: Arrays) -> Array:
    """NumPyro's own log density; `constants` may hold more than its arguments."""
    arguments = {n: constants[n] for n in family.argument_ndims}
    fn: Any = family.kind(**arguments, validate_args=False)
    return fn.log_prob(value)


def tanh_ratio(z: Array) -> Array:
    """tanh(z)/z, which is 1 at 0."""
    small = z < 1e-4
    return jnp.where(small, 1 - z**2 / 3, jnp.tanh(z) / jnp.where(small, 1.0, z))
