"""A family one of whose arguments is a latent: slots of what multiplies the latent's features."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._types import Array, Arrays
from ._base import AbstractFamily
from ._conditional import Bounding, Conditional, InverseMatrix, LogPower, Quadratic
from ._features import as_float
from ._kernel import AbstractKernel, coefficients_of, multiplied
from ._power_law import PowerLaw


class LatentArgument(AbstractFamily):
    """What a family becomes where one argument is c · u^p (or u itself) of a latent u with features φ(u).

    The family's slots are s(a) = s₀ + B ψ(a) in the features ψ of that argument a, and ψ(c u^p) is affine in φ(u):
    log a = log c + p log u, a^e = c^e u^(pe). So s = A + C φ(u), with A and C free of u, and

        ⟨s, T(x)⟩ = ⟨(A, C), T(x) ⊗ (1, φ(u))⟩.

    The slots here are (A, C), the statistics T ⊗ (1, φ), expected over u: (..., F, 1 + M), flat. In the arguments, c
    has the place of a (the links are evaluated at u = 1).

    Attributes:
        inner: the site's own family.
        argument: the argument that is latent.
        power: p.
        kernel: the latent's features.
    """

    inner: AbstractFamily
    argument: str = eqx.field(static=True)
    power: float = eqx.field(static=True)
    kernel: AbstractKernel

    value_ndim: ClassVar[int] = 0
    constants: ClassVar[tuple[str, ...]] = ()
    coupled: ClassVar[Any] = property(lambda self: self.inner.coupled)

    @property
    def name(self) -> str:
        """The inner family's name."""
        return self.inner.name

    @property
    def argument_ndims(self) -> dict[str, int]:
        """The inner family's; c has the place of the latent argument."""
        return self.inner.argument_ndims

    @staticmethod
    def match(fn: Any) -> None:
        """None: it stands for no distribution of its own."""
        return None

    def centre(self, value: Array) -> Array | None:
        """As the inner family."""
        return self.inner.centre(value)

    def statistics(self, value: Array, constants: Arrays) -> Array:
        """Not of data: the evidence engine makes them."""
        raise NotImplementedError("The statistics of a site with a latent argument come from the E-step.")

    def log_base(self, value: Array, constants: Arrays) -> Array:
        """The inner family's."""
        return self.inner.log_base(value, constants)

    def split(self, flat: Array) -> Array:
        """(..., F (1 + M)) -> (..., F, 1 + M)."""
        return jnp.reshape(flat, (*flat.shape[:-1], -1, 1 + self.kernel.width))

    def slots(self, arguments: Arrays, constants: Arrays) -> Array:
        """(A, C), flat."""
        given = dict(arguments)
        if not self.kernel.scales:
            somewhere = jnp.asarray(self.kernel.points()[0], jnp.result_type(float))
            batch = jnp.ndim(arguments[self.argument]) - self.kernel.event_ndim
            given[self.argument] = jnp.reshape(somewhere, (*[1] * batch, *somewhere.shape))
        slots = self.inner.slots(given, constants)
        lead = slots.ndim - 1
        unit = jnp.eye(slots.shape[-1], dtype=slots.dtype).reshape(slots.shape[-1], *[1] * lead, slots.shape[-1])
        conditional = self.inner.argument_conditional(self.argument, unit, given, constants)
        if isinstance(conditional, LogPower | InverseMatrix) and self.kernel.scales:
            own = jnp.moveaxis(coefficients_of(multiplied(conditional, given[self.argument])), 0, -2)
            constant = slots - own[..., 1]
            own = own * jnp.array([self.power, 1.0])
        elif isinstance(conditional, Bounding):
            own, constant = self.power * jnp.moveaxis(coefficients_of(conditional), 0, -2), slots
        elif isinstance(conditional, Quadratic):
            own = jnp.moveaxis(coefficients_of(multiplied(conditional, given[self.argument])), 0, -2)
            constant = slots - own[..., 0] - own[..., 1]
        else:
            own = jnp.moveaxis(coefficients_of(conditional), 0, -2)
            constant = slots - jnp.einsum("...fm,...m->...f", own, self.kernel.features(given[self.argument]))
        shape = (*jnp.broadcast_shapes(constant.shape, own.shape[:-1]), own.shape[-1])
        both = jnp.concatenate([jnp.broadcast_to(constant, shape[:-1])[..., None], jnp.broadcast_to(own, shape)], -1)
        return jnp.reshape(both, (*shape[:-2], -1))

    @property
    def bounding(self) -> bool:
        """Whether the latent is where the support ends: its feature is log u."""
        return isinstance(self.kernel, PowerLaw)

    def bound(self, value: Array, times: Array, constants: Arrays) -> tuple[Array, int]:
        """Where a datum ends the latent's support, and whether that begins there (1) or ends (-1).

        Args:
            value: the data.
            times: c, where the argument is c · u^p.
            constants: of the inner family.
        """
        given = dict.fromkeys(self.argument_ndims, jnp.ones(()))
        conditional = self.inner.argument_conditional(self.argument, self.inner.statistics(value, constants), given,
                                                      constants)  # fmt: skip
        assert isinstance(conditional, Bounding)
        side = conditional.side if self.power > 0 else -conditional.side
        exact = np.all(np.asarray(times) == 1) and self.power == 1
        found = (jnp.maximum(as_float(value), 0.0) / times) ** (1 / self.power)
        # Rounding must not leave the datum outside of the support that begins or ends at it.
        return found if exact else found * (1 + side * 4 * jnp.finfo(found.dtype).eps), side

    @property
    def quadratic(self) -> bool:
        """Whether the features are u and u², of a location c · u."""
        return not hasattr(self.kernel, "exponent")

    def scaled(self, statistics: Array, coefficient: Array) -> Array:
        """(T, T log c / p, T c^e), or (T, T c, T c²): (..., 3F), what rows with known c add to the coefficients.

        Such a row meets u' = c^(1/p) u, with features log u + log c / p and c^e u^(pe). Its own argument has c = 1.
        """
        if self.quadratic:
            log, power = coefficient, coefficient**2
        else:
            exponent = self.kernel.exponent / self.power  # type: ignore[attr-defined]
            log, power = jnp.log(coefficient) / self.power, coefficient**exponent
        parts = statistics, statistics * log[..., None], statistics * power[..., None]
        return jnp.concatenate(jnp.broadcast_arrays(*parts), -1)  # c may depend on discrete latents, the data do not

    def of_scaled(self, split: Array) -> Array:
        """(A, C), (..., F, 3), as what multiplies `scaled` statistics: (..., 3F, 3)."""
        constant, log, power = jnp.moveaxis(split, -1, 0)
        none = jnp.zeros_like(log)
        parts = (constant, log, none), (log, none, none), (none, none, power)
        if self.quadratic:
            parts = (constant, none, none), (none, log, none), (none, none, power)
        return jnp.concatenate([jnp.stack(p, -1) for p in parts], -2)

    def argument_conditional(
        self, name: str, statistics: Array, arguments: Arrays, constants: Arrays
    ) -> Conditional | None:
        """Of c: what multiplies log c and c^e. Of another argument: its conditional, expected over u.

        The latter is K(T, a) = K₀ + K₁ log a + K₂ a^e, linear in T, whose parts two derivatives in log a tell apart.
        """
        split = self.split(statistics)
        if not self.kernel.scales:
            return None
        plain = self.inner.argument_conditional(name, split[..., 0], arguments, constants)
        if self.bounding:
            return None if name == self.argument else self._beside_bound(name, split, arguments, constants)
        if name == self.argument:
            powers = self.inner.argument_conditional(name, split[..., 2], arguments, constants)
            if self.quadratic:
                lines = self.inner.argument_conditional(name, split[..., 1], arguments, constants)
                assert isinstance(powers, Quadratic) and isinstance(lines, Quadratic)
                return Quadratic(powers.precision, lines.linear)
            if isinstance(plain, InverseMatrix) and isinstance(powers, InverseMatrix):
                return InverseMatrix(plain.count, powers.scatter, plain.form)
            assert isinstance(plain, LogPower) and isinstance(powers, LogPower)
            return LogPower(plain.log, powers.power, plain.exponent)
        if plain is None:
            return None
        if self.quadratic:
            return self._beside_location(name, split, arguments, constants)
        exponent = self.kernel.exponent / self.power  # type: ignore[attr-defined]

        def parts(t: Array) -> tuple[Any, Any]:
            """K₁ and K₂ a^e at a = c."""

            def at(log: Array) -> Any:
                moved = {**arguments, self.argument: arguments[self.argument] * jnp.exp(log)}
                return self.inner.argument_conditional(name, t, moved, constants)

            def slope(log: Array) -> Any:
                return jax.jvp(at, (log,), (jnp.ones_like(log),))[1]

            zero = jnp.zeros(())
            first, second = jax.jvp(slope, (zero,), (jnp.ones(()),))
            power = jax.tree.map(lambda d: d / exponent**2, second)
            return jax.tree.map(lambda d, k: d - exponent * k, first, power), power

        (log, _), (_, power), (_, fixed) = parts(split[..., 1]), parts(split[..., 2]), parts(split[..., 0])
        return jax.tree.map(lambda k, k0, k1, k2: k - k0 + self.power * k1 + k2, plain, fixed, log, power)

    def _beside_bound(self, name: str, split: Array, arguments: Arrays, constants: Arrays) -> Any:
        """Another argument's conditional where c · u^p is a bound a: it is K₀ + K₁ log a, of each T its part."""

        def at(t: Array, log: Array) -> Any:
            moved = {**arguments, self.argument: arguments[self.argument] * jnp.exp(log)}
            return self.inner.argument_conditional(name, t, moved, constants)

        plain = at(split[..., 0], jnp.zeros(()))
        if plain is None:
            return None
        slope = jax.jvp(lambda log: at(split[..., 1], log), (jnp.zeros(()),), (jnp.ones(()),))[1]
        return jax.tree.map(lambda k, s: k + self.power * s, plain, slope)

    def _beside_location(self, name: str, split: Array, arguments: Arrays, constants: Arrays) -> Any:
        """Another argument's conditional where c · u is the location a: it is K₀ + K₁ a + K₂ a², of each T its part."""

        def part(t: Array, degree: int) -> Any:
            def at(a: Array) -> Any:
                return self.inner.argument_conditional(name, t, {**arguments, self.argument: a}, constants)

            location = jnp.asarray(arguments[self.argument])
            zero, plus, minus = at(jnp.zeros_like(location)), at(location), at(-location)
            if degree == 0:
                return zero
            if degree == 1:
                return jax.tree.map(lambda p, m: (p - m) / 2, plus, minus)
            return jax.tree.map(lambda p, m, z: (p + m) / 2 - z, plus, minus, zero)

        parts = (part(split[..., degree], degree) for degree in range(3))
        return jax.tree.map(lambda a, b, c: a + b + c, *parts)

    def value_conditional(self, arguments: Arrays) -> Conditional | None:
        """None: it is nobody's prior."""
        return None

    def describe_statistics(self) -> tuple[str, ...]:
        """Products of the two sets of features."""
        features = ("1", *self.kernel.describe)
        own = [f"({t})" if "-" in t else t for t in self.inner.describe_statistics()]
        return tuple(t if f == "1" else f if t == "1" else f"{t} {f}" for t in own for f in features)
