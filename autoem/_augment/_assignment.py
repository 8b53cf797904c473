"""The assignment of a mixture: which component each datum came from."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist

from .._wrappers import peel
from ._base import Hidden


def assignment(mixing: Any) -> Hidden:
    """z ~ Categorical, as NumPyro's mixtures use it: weights that do not add up to one are divided by their sum.

    A Categorical site's density takes the weights as they are, so the division is left out only where it is proved to
    change nothing.
    """
    base = peel(mixing).base
    if isinstance(base, dist.CategoricalLogits):
        return Hidden(dist.CategoricalLogits(base.logits, validate_args=False))
    total = jnp.sum(base.probs, -1)
    normalised = dist.CategoricalProbs(base.probs / total[..., None], validate_args=False)
    return Hidden(normalised, total, {"probs": base.probs})
