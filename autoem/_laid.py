"""A block of continuous latents, laid out: the engine, and how its cells meet the discrete latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ._evidence import Conjugate, Gaussian


@dataclass(frozen=True)
class Laid:
    """A block of continuous latents.

    Attributes:
        fast: the engine that runs.
        full: makes the same with every cell in its place, for posterior distributions.
        cells: number of cells: latent elements that are independent of all others given the discrete latents.
        states: per discrete latent, the flat number of its element that each cell meets: (cells,), -1 for none.
    """

    fast: Gaussian | Conjugate
    full: Callable[[], Gaussian | Conjugate]
    cells: int
    states: dict[str, np.ndarray]
