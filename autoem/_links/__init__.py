"""How distribution arguments depend on unknowns: the only package that knows jaxprs.

`program` traces a function into a flat list of operations and computes whatever depends on data only;
`dependence` finds, per value, which elements of an unknown it depends on and how; `enumerate_` evaluates a
program for every value of the discrete latents, holding each array no larger than it has to be.
"""

from ._coordinates import (
    Coordinates as Coordinates,
    compacted as compacted,
    flat_index as flat_index,
    own_coordinates as own_coordinates,
    whole_event as whole_event,
)
from ._dependence import Dependence as Dependence, analyse as analyse, describe as describe
from ._enumerate import Lazy as Lazy, evaluate_lazily as evaluate_lazily
from ._expression import expressions as expressions
from ._frontier import affine_part as affine_part
from ._jumps import jumping as jumping
from ._linear import linear_parts as linear_parts, seed as seed
from ._positive import (
    Terms as Terms,
    evaluate_apart as evaluate_apart,
    terms_of as terms_of,
    without_abs as without_abs,
)
from ._program import (
    Node as Node,
    Program as Program,
    evaluator as evaluator,
    has_traced_index as has_traced_index,
    is_concrete as is_concrete,
    restricted as restricted,
    seams as seams,
)
from ._trace import trace as trace
