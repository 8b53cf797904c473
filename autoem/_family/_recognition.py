"""Which kernel takes the features through which an unknown enters all its factors, whichever the prior was."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._types import Arrays
from ._base import AbstractFamily
from ._conditional import Bounding, Conditional, InverseMatrix, Quadratic
from ._generalised import Generalised
from ._half_line import HalfLine
from ._kernel import AbstractKernel, Odds, Power, Simplex, kernel_of
from ._matrix_kernel import Matrix
from ._power_law import PowerLaw
from .pareto import Pareto
from .uniform import Uniform


def half_line(constraint: Any) -> tuple[float, int] | None:
    """(bound, side) of a support that is a half line with a number as its bound, else None."""
    low, high = (getattr(constraint, n, None) for n in ("lower_bound", "upper_bound"))
    if (low is None) == (high is None):
        return None
    bound = np.unique(np.asarray(low if high is None else high))
    return (float(bound[0]), 1 if high is None else -1) if bound.size == 1 else None


def positive_bounds(constraint: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Lower and upper bounds of an interval or a half line of positive numbers, as arrays; None for other supports."""
    low, high = (getattr(constraint, n, None) for n in ("lower_bound", "upper_bound"))
    if low is None:
        return None
    lower, upper = np.asarray(low, float), np.asarray(np.inf if high is None else high, float)
    return (lower, upper) if np.all(lower >= 0) and np.all(upper > lower) else None


def bounded_kernels(constraint: Any) -> tuple[PowerLaw, ...]:
    """Power laws on a support: without an end (unless data set one) or with one."""
    found = positive_bounds(constraint)
    if found is None or np.any(np.isinf(found[1])) != np.all(np.isinf(found[1])):
        return ()
    return (PowerLaw(False), PowerLaw(True)) if np.all(np.isinf(found[1])) else (PowerLaw(True),)


def alternatives(constraint: Any) -> tuple[AbstractKernel, ...]:
    """Kernels on a support that no prior need have been written for."""
    found = half_line(constraint)
    own: tuple[AbstractKernel, ...] = () if found is None else (HalfLine(*found),)
    return (*own, *([Generalised()] if found == (0.0, 1) else []), *bounded_kernels(constraint))


def freed(family: AbstractFamily, argument: str) -> AbstractFamily | None:
    """The family where an argument at which its support ends is unknown; None where that is not known here."""
    if isinstance(family, Uniform) and argument == "high":
        return Uniform("high")
    return Pareto("scale") if isinstance(family, Pareto) and argument == "scale" else None


def _positions(kernel: AbstractKernel, constraint: Any) -> np.ndarray:
    """Values inside the support (Q, elements, *event): those of the kernel, for a power law between its bounds."""
    points = kernel.points()
    bounds = positive_bounds(constraint) if isinstance(kernel, PowerLaw) else None
    if bounds is None:
        return points[:, None]
    lower, upper = (np.ravel(b)[None] for b in np.broadcast_arrays(*bounds))
    if np.isinf(upper[0, 0]):
        return np.where(lower > 0, lower, 1.0) * points[:, None]
    return lower + (upper - lower) * points[:, None] / (points.max() + 1)


_WHOLE = 1e-5
"""Within this, a coefficient is a whole number that the points have lost digits of."""


def spanned(
    kernel: AbstractKernel, family: AbstractFamily, constants: Arrays, constraint: Any = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """A family's statistics in terms of (1, φ(u)), (1 or elements, F, 1 + M), and its log base measure, (..., 1 + M).

    Args:
        kernel, family: of the latent, and of its density.
        constants: of the family: single numbers, or one for every element.
        constraint: the support, where the kernel's points are not the same for all elements.

    Returns None where they are not sums of features.
    """
    with jax.ensure_compile_time_eval():
        points = jnp.asarray(_positions(kernel, constraint))
        features = np.asarray(kernel.features(points))
        statistics = np.asarray(family.statistics(points, constants))
        base = np.asarray(family.log_base(points, constants))[..., None]
    lead = np.broadcast_shapes(features.shape[:2], statistics.shape[:2], base.shape[:2])
    one, features, statistics, base = (np.swapaxes(np.broadcast_to(a, (*lead, a.shape[-1])), 0, 1)
                                       for a in (np.ones((1, 1, 1)), features, statistics, base))  # fmt: skip
    basis, wanted = np.concatenate([one, features], -1), np.concatenate([statistics, base], -1)
    found = np.linalg.pinv(basis) @ wanted
    found = np.where(np.abs(found - np.round(found)) < _WHOLE, np.round(found), found)
    if not np.abs(basis @ found - wanted).max() <= 1e-4:
        return None
    found = np.swapaxes(found, 1, 2)
    return found[:, :-1], found[:, -1]


def embedded(
    conditional: Conditional, power: float, kernel: AbstractKernel, complements: tuple[int, ...] = (0,)
) -> tuple[AbstractKernel, tuple[int, ...] | None] | None:
    """The features of an argument c · u^power, and which of the kernel's these are (None: all of them, in order).

    Args:
        conditional: of the argument.
        power: exponent of the unknown in it.
        kernel: of the unknown.
        complements: of a probability, whether the argument (or each component of it) is u (0) or 1 - u (1).

    Returns None where the kernel does not have them.
    """
    if isinstance(kernel, Matrix):
        own = matrix_kernel(conditional, kernel.size) if power == 1 else None
        return (kernel, None) if own == kernel else None
    if isinstance(kernel, Odds):
        return _of_probability(conditional, complements)
    if isinstance(kernel, PowerLaw):
        moves = isinstance(conditional, Bounding) and (kernel.ends or conditional.side * power > 0)
        return (kernel, None) if moves else None
    own = kernel_of(conditional, power, getattr(kernel, "size", 1))
    if own == kernel:
        return kernel, None
    if isinstance(kernel, Generalised) and isinstance(own, Power):
        return own, (0, 1 if own.exponent > 0 else 2)
    if isinstance(kernel, HalfLine) and isinstance(conditional, Quadratic) and not conditional.ndim and power == 1:
        return kernel, None
    return None


def matrix_kernel(conditional: Conditional | None, size: int) -> Matrix | None:
    """The kernel of a matrix where a factor has this conditional of it."""
    if not isinstance(conditional, InverseMatrix) or conditional.form == "cholesky":
        return None
    return Matrix(size, conditional.form == "covariance")


def _of_probability(
    conditional: Conditional, complements: tuple[int, ...]
) -> tuple[AbstractKernel, tuple[int, ...] | None] | None:
    """{log u, log(1 - u)}: of a probability, of its complement, of the two in a vector."""
    pair = len(complements) == 2 and sum(complements) == 1
    own = kernel_of(conditional, 1.0, 2 if pair else 1)
    if isinstance(own, Simplex) and pair:
        return own, complements
    if isinstance(own, Odds) and len(complements) == 1:
        return own, (1, 0) if complements[0] else None
    return None
