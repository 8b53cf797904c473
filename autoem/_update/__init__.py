"""M-steps, one kind per file: each sets some parameters so that Q does not fall."""

from ._flags import (
    BLIND as BLIND,
    FLOORED as FLOORED,
    INFINITE as INFINITE,
    NOTHING as NOTHING,
    SENTENCES as SENTENCES,
    UNBOUNDED as UNBOUNDED,
)
from .closed_form import KINDS as KINDS, ClosedForm as ClosedForm, Occurrence as Occurrence
from .hidden_counts import HiddenCounts as HiddenCounts
from .least_squares import LeastSquares as LeastSquares
from .numeric import (
    NEWTON_LIMIT as NEWTON_LIMIT,
    Numeric as Numeric,
    gradient_and_hessian as gradient_and_hessian,
    is_real as is_real,
    newton as newton,
)

Update = ClosedForm | LeastSquares | Numeric
