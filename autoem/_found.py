"""What was decided about every latent and parameter, in words: for the derivation and its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ._engines import Evidence
from ._evidence import Gaussian, Mixed, Scaled
from ._factors import Skeleton
from ._places import Plan
from ._update import ClosedForm


@dataclass(frozen=True)
class Found:
    """What was decided about one latent or parameter.

    Attributes:
        family: of its conditional distribution, for example "categorical" or "gaussian".
        method: how it is dealt with.
        exact: whether nothing is estimated.
        reason: a sentence.
        declined: what was tried first, and why it did not fit.
    """

    family: str
    method: str
    exact: bool
    reason: str
    declined: tuple[str, ...] = ()


_GAUSSIAN = "jointly Gaussian given the data, the parameters and any discrete latents"
_FAMILIES = {
    "u, uu'": "gaussian",
    "log u_k": "dirichlet",
    "log u, log(1-u)": "beta",
    "log|Σ|, Σ⁻¹": "inverse wishart",
    "cos u, sin u": "von mises",
}


def _parameter_family(plan: Plan) -> str:
    if plan.features.startswith("log u, u^"):
        return "gamma" if float(plan.features.split("^")[1]) > 0 else "inverse gamma"
    return _FAMILIES.get(plan.features, "none")


def gaussian_found(name: str, evidences: Sequence[Evidence]) -> Found:
    """A Gaussian latent, from the engine that holds it."""
    scaled = next((e for e in evidences if isinstance(e, Scaled) and name in e.names), None)
    if scaled is not None:
        what = " and ".join(scaled.scales.names)
        reason = f"{_GAUSSIAN}, with a precision in proportion to {what}, whose kernel takes up its log evidence"
        return Found("gaussian", "gaussian", True, reason)
    engines = (e.continuous if isinstance(e, Mixed) else e for e in evidences)
    note = next((e.along(name) for e in engines if isinstance(e, Gaussian) and name in e.names), "")
    if note:
        return Found("gaussian", "kalman", True, f"{_GAUSSIAN}: {note}")
    return Found("gaussian", "gaussian", True, _GAUSSIAN)


def conjugate_found(own: Skeleton, skeletons: Sequence[Skeleton]) -> Found:
    """A conjugate latent, from the skeleton of its own density."""
    assert own.entrance is not None
    latent, kernel = own.entrance.latent, own.entrance.kernel
    sites = [s.site.name for s in skeletons if s.entrance is not None and s.entrance.latent == latent]
    features = ", ".join(kernel.describe).replace("u", latent)
    reason = f"enters all its factors ({', '.join(sites)}) through {features} only: given all else its density is "
    return Found(kernel.name, "conjugate", True, reason + kernel.name)


def parameter_found(plan: Plan, over: str) -> Found:
    """What was decided about a parameter; `over`: what the statistics of its sites are averages over, if estimated."""
    estimated = bool(over)
    declined = tuple(dict.fromkeys(plan.declined))
    if plan.update is None:
        return Found("none", "fixed", True, "no factor depends on it", declined)
    method = plan.update.method
    if method != "closed form":
        of = f"Q, a sum over {over}" if estimated else "the exact Q on the expected statistics"
        return Found("none", method, not estimated, f"climbs {of}", declined)
    what = "the mode of its conditional" if isinstance(plan.update, ClosedForm) else "weighted least squares"
    ecm = "; conditional on the other parameters (ECM)" if plan.conditional else ""
    of = f", on averages over {over}" if estimated else ""
    weights = f", weighted by the expected precisions of {' and '.join(plan.hidden)}" if plan.hidden else ""
    counts = f", on the hidden counts of {' and '.join(plan.counted)}" if plan.counted else ""
    reason = f"{what}, features {{{plan.features}}}{weights}{counts}{ecm}{of}"
    return Found(_parameter_family(plan), method, not estimated, reason, declined)
