"""Points and weights of one integral in a few dimensions."""

from __future__ import annotations

import numpy as np

_WIDE = 64
_REACH = 4.9
"""Nodes from which one dimension has the wide rule, and the end of its range: sinh 4.9 = 67 standard deviations."""


def rule(nodes: int, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (nodes^d, d) and log weights of ∫ g(t) dt ≈ Σ exp(log weight) g(t).

    From `_WIDE` nodes on, one dimension has the trapezoid rule in s, t = sinh s, instead: it converges as fast where a
    tail is exponential, and sees what lies far from the mode (the double exponential rule of Takahasi and Mori 1974).
    """
    if dims == 1 and nodes >= _WIDE:
        s, step = np.linspace(-_REACH, _REACH, nodes, retstep=True)
        return np.sinh(s)[:, None], np.log(step * np.cosh(s))
    t, w = np.polynomial.hermite_e.hermegauss(nodes)
    log_weight = np.log(w) + t**2 / 2
    grid = np.stack(np.meshgrid(*[t] * dims, indexing="ij"), -1).reshape(-1, dims)
    weights = np.stack(np.meshgrid(*[log_weight] * dims, indexing="ij"), -1).reshape(-1, dims)
    return grid, weights.sum(-1)
