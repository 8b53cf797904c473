"""Hidden representations that make a model conjugate: a catalogue, one file each.

A representation rewrites one observed site `x ~ D` as an auxiliary latent and `x ~ D'` given it, whose sum or
integral over the auxiliary is D again, element by element. It is a rewriting of the trace: all that follows sees an
ordinary model.
"""

from collections.abc import Mapping
from typing import Any

from ._base import AbstractRepresentation as AbstractRepresentation, Hidden as Hidden, Part as Part
from ._rewrite import Note as Note, Rewritten as Rewritten, rewrite
from .mixture_general import MixtureGeneral
from .mixture_same_family import MixtureSameFamily
from .zero_inflated import ZeroInflated

REPRESENTATIONS: tuple[type[AbstractRepresentation], ...] = (
    MixtureSameFamily,
    MixtureGeneral,
    ZeroInflated,
)


def augment(found: Mapping[str, Any], values: Mapping[str, Any], wanted: bool = True) -> Rewritten:
    """A trace in which every observed site that the catalogue holds is rewritten.

    Args:
        found: NumPyro's trace.
        values: of the auxiliary latents, by name; zeros where there is none.
        wanted: False leaves everything as the user wrote it.

    Raises:
        ValueError: the model has a site of the name that an auxiliary latent would have.
    """
    return rewrite(found, values, REPRESENTATIONS if wanted else ())
