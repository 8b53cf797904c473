"""autoem: expectation-maximisation derived from a NumPyro model."""

from ._derivation import Derivation as Derivation
from ._em import EM as EM, em as em
from ._result import EMResult as EMResult, EMState as EMState, Status as Status

__all__ = ["EM", "Derivation", "EMResult", "EMState", "Status", "em"]
__version__ = "0.1.0"
