"""E-step engines, one per file: a way to compute the log evidence L; expected statistics are its gradient."""

from ._arrow import Arrow as Arrow
from ._chain_tables import Chained as Chained, ChainShape as ChainShape
from ._elimination import Step as Step, Table as Table, Variable as Variable
from ._factor import Factor as Factor, over_states as over_states
from ._groups import Group as Group, Piece as Piece, Place as Place, Solution as Solution
from ._products import products as products
from ._seats import Seat as Seat
from ._several import SEVERAL as SEVERAL
from ._steps import Path as Path, Picked as Picked, StepPiece as StepPiece, Steps as Steps
from .chain import Chain as Chain
from .conjugate import Conjugate as Conjugate, Part as Part, Rows as Rows, log_density as log_density
from .enumerate import (
    Enumeration as Enumeration,
    Layout as Layout,
    chunk_for as chunk_for,
    independent_dimensions as independent_dimensions,
)
from .gaussian import Gaussian as Gaussian, Posterior as Posterior
from .mixed import Mixed as Mixed
from .monte_carlo import (
    FEW as FEW,
    Chains as Chains,
    Drawn as Drawn,
    Draws as Draws,
    Health as Health,
    Sampled as Sampled,
)
from .observed import Observed as Observed
from .quadrature import LADDER as LADDER, Points as Points, Quadrature as Quadrature, Read as Read
from .scaled import Scaled as Scaled
from .shared import SHARED as SHARED, Shared as Shared
from .summed import Summed as Summed
