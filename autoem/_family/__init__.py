"""The table of families: one exponential family per file, in an explicit order."""

from typing import Any

from ._base import (
    AbstractCounts as AbstractCounts,
    AbstractFamily as AbstractFamily,
    AbstractWeighted as AbstractWeighted,
)
from ._conditional import (
    LOG_ZERO as LOG_ZERO,
    AbsoluteDeviation as AbsoluteDeviation,
    Bounding as Bounding,
    Circular as Circular,
    Conditional as Conditional,
    Flat as Flat,
    InverseMatrix as InverseMatrix,
    LogOdds as LogOdds,
    LogPower as LogPower,
    LogSimplex as LogSimplex,
    Quadratic as Quadratic,
    nearby as nearby,
    safe_log as safe_log,
    symmetrise as symmetrise,
)
from ._features import inner as inner
from ._half_line import HalfLine as HalfLine
from ._kernel import (
    AbstractKernel as AbstractKernel,
    Odds as Odds,
    Power as Power,
    exponent_of as exponent_of,
    kernel_of as kernel_of,
)
from ._power_law import BoundedPowerLaw as BoundedPowerLaw, PowerLaw as PowerLaw
from ._recognition import (
    alternatives as alternatives,
    bounded_kernels as bounded_kernels,
    embedded as embedded,
    freed as freed,
    half_line as half_line,
    matrix_kernel as matrix_kernel,
    positive_bounds as positive_bounds,
    spanned as spanned,
)
from ._scale_mixture import AbstractScaleMixture as AbstractScaleMixture
from .asymmetric_laplace import AsymmetricLaplace
from .bernoulli import Bernoulli
from .beta import Beta
from .binomial import Binomial
from .categorical import Categorical
from .cauchy import Cauchy
from .dirichlet import Dirichlet
from .exponential import Exponential
from .gamma import Gamma
from .geometric import Geometric
from .half_normal import HalfNormal
from .improper_uniform import ImproperUniform as ImproperUniform
from .inverse_gamma import InverseGamma
from .laplace import Laplace
from .latent_argument import LatentArgument as LatentArgument
from .linear_gaussian import LinearGaussian as LinearGaussian
from .logistic import Logistic
from .multinomial import Multinomial
from .multivariate_normal import MultivariateNormal as MultivariateNormal
from .multivariate_student_t import MultivariateStudentT
from .negative_binomial import NegativeBinomial
from .normal import Normal as Normal
from .pareto import Pareto as Pareto
from .poisson import Poisson
from .right_censored import RightCensored
from .soft_laplace import SoftLaplace
from .student_t import StudentT
from .truncated_normal import TruncatedNormal
from .uniform import Uniform as Uniform
from .von_mises import VonMises
from .weibull import Weibull
from .wishart import Wishart

FAMILIES: tuple[type[AbstractFamily], ...] = (
    Normal,
    MultivariateNormal,
    Categorical,
    Bernoulli,
    Binomial,
    Multinomial,
    Geometric,
    NegativeBinomial,
    Poisson,
    Exponential,
    Gamma,
    InverseGamma,
    Beta,
    Dirichlet,
    Wishart,
    VonMises,
    Laplace,
    AsymmetricLaplace,
    StudentT,
    MultivariateStudentT,
    Cauchy,
    Logistic,
    SoftLaplace,
    HalfNormal,
    TruncatedNormal,
    Weibull,
    Pareto,
    RightCensored,
    Uniform,
    ImproperUniform,
)


def find_family(fn: Any) -> AbstractFamily | None:
    """The first family that recognises a NumPyro distribution (wrappers peeled off), or None."""
    return next((family for cls in FAMILIES if (family := cls.match(fn)) is not None), None)
