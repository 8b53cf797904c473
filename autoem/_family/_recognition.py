"""Which kernel takes the features through which an unknown enters all its factors, whichever the prior was."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._types import Arrays
from ._base import AbstractFamily
from ._conditional import Conditional, InverseMatrix, Quadratic
from ._generalised import Generalised
from ._half_line import HalfLine
from ._kernel import AbstractKernel, Odds, Power, Simplex, kernel_of
from ._matrix_kernel import Matrix


def half_line(constraint: Any) -> tuple[float, int] | None:
    """(bound, side) of a support that is a half line with a number as its bound, else None."""
    low, high = (getattr(constraint, n, None) for n in ("lower_bound", "upper_bound"))
    if (low is None) == (high is None):
        return None
    bound = np.unique(np.asarray(low if high is None else high))
    return (float(bound[0]), 1 if high is None else -1) if bound.size == 1 else None


def alternatives(constraint: Any) -> tuple[AbstractKernel, ...]:
    """Kernels on a support that no prior need have been written for."""
    found = half_line(constraint)
    if found is None:
        return ()
    return (HalfLine(*found), Generalised()) if found == (0.0, 1) else (HalfLine(*found),)


def spanned(kernel: AbstractKernel, family: AbstractFamily, constants: Arrays) -> tuple[np.ndarray, float] | None:
    """A family's statistics in terms of (1, φ(u)), (F, 1 + M), and its log base measure; None where they are not.

    Args:
        constants: of the family, as single numbers.
    """
    with jax.ensure_compile_time_eval():
        points = jnp.asarray(kernel.points())
        features = np.asarray(kernel.features(points))
        statistics = np.asarray(family.statistics(points, constants))
        base = np.asarray(family.log_base(points, constants))
    basis = np.concatenate([np.ones((len(features), 1)), features], 1)
    # Statistics are sums of features: whole numbers, which rounding recovers and the points confirm.
    matrix = np.round(np.linalg.lstsq(basis, statistics, rcond=None)[0])
    if not np.abs(basis @ matrix - statistics).max() <= 1e-4 or np.ptp(base) > 1e-4:
        return None
    return matrix.T, float(base[0])


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
