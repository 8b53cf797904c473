"""autoem: expectation-maximisation derived from a NumPyro model."""

from ._derivation import Derivation as Derivation
from ._em import EM as EM, em as em
from ._options import SAEM as SAEM, SQUAREM as SQUAREM, MonteCarlo as MonteCarlo
from ._result import EMResult as EMResult, EMState as EMState, Noise as Noise, Status as Status

__all__ = ["EM", "SAEM", "SQUAREM", "Derivation", "EMResult", "EMState", "MonteCarlo", "Noise", "Status", "em"]
__version__ = "0.1.0"
