"""E-step engines, one per file: a way to compute the log evidence L; expected statistics are its gradient."""

from ._elimination import Step as Step, Table as Table, Variable as Variable
from ._factor import Factor as Factor
from .enumerate import Enumeration as Enumeration, Layout as Layout, chunk_for as chunk_for
from .observed import Observed as Observed
