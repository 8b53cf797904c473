"""A derivation as a page that a statistician can read: plain text, or Markdown with LaTeX."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._complete import CompleteData
from ._evidence import Chain, Conjugate, Gaussian, Mixed, Observed, Quadrature, Sampled, Scaled, Shared
from ._family import AbstractScaleMixture
from ._links import expressions
from ._model import Model
from ._places import Plan
from ._sites import Site
from ._update import ClosedForm, HiddenCounts, LeastSquares, Numeric, Update

_WIDTH = 100


@dataclass(frozen=True)
class Line:
    """One line: a label, plain text, and LaTeX (without dollars) where there is a formula."""

    label: str
    text: str
    latex: str = ""


@dataclass(frozen=True)
class Page:
    """A title and titled sections of lines."""

    title: str
    sections: tuple[tuple[str, tuple[Line, ...]], ...]

    def text(self) -> str:
        """Plain text, at most 100 columns."""
        out = [self.title, "=" * len(self.title)]
        for heading, lines in self.sections:
            out += ["", heading]
            width = min(24, max((len(line.label) for line in lines), default=0))
            for line in lines:
                lead = f"  {line.label:<{width}}  " if width else "  "
                out += textwrap.wrap(line.text, _WIDTH, initial_indent=lead, subsequent_indent=" " * (width + 4),
                                     break_long_words=False) or [lead.rstrip()]  # fmt: skip
        return "\n".join(out)

    def markdown(self) -> str:
        """Markdown, formulas in LaTeX."""
        out = [f"## {self.title}"]
        for heading, lines in self.sections:
            out += ["", f"### {heading}", ""]
            for line in lines:
                body = f"${line.latex}$" if line.latex else line.text.replace("|", "\\|")
                out.append(f"- **{line.label}** {body}" if line.label else f"- {body}")
        return "\n".join(out)


def page(
    model: Model,
    complete: CompleteData,
    evidences: Sequence[Any],
    skeletons: Sequence[Any],
    updates: Sequence[Update],
    plans: Mapping[str, Plan],
    statistics: Mapping[str, tuple[int, ...]],
    checks: Sequence[str] = (),
    pace: str = "",
) -> Page:
    """Write the page of a derivation from the modules that run; `pace`: how a fit goes from step to step."""
    sections: list[tuple[str, Sequence[Line]]] = [
        ("Model", _model_lines(model)),
        ("Objective", _objective_lines(complete)),
        ("Expected sufficient statistics", _statistics_lines(complete, skeletons, statistics)),
        ("E-step", [*_e_step_lines(model, evidences), *_hidden_lines(model, complete, updates)]),
        ("M-step, in this order", _m_step_lines(complete, updates, plans)),
    ]
    if pace:
        sections.append(("From step to step", (Line("", pace),)))
    declined = [Line(n, "; ".join(dict.fromkeys(p.declined))) for n, p in plans.items() if p.declined]
    if declined:
        sections.append(("No closed form, and why", tuple(declined)))
    quadratures = [e for e in evidences if isinstance(e, Quadrature | Shared)]
    samplers = [e for e in evidences if isinstance(e, Sampled)]
    estimated = [*_estimated_lines(quadratures, samplers), *(Line("check", text) for text in checks)]
    sections.append(("Approximate", tuple(estimated) or (Line("", _exactness(updates)),)))
    return Page("EM, derived", tuple((title, tuple(lines)) for title, lines in sections))


def _estimated_lines(quadratures: Sequence[Quadrature | Shared], samplers: Sequence[Sampled]) -> list[Line]:
    lines = [Line(", ".join(e.names), f"the integral over it, by {e.describe()}") for e in quadratures]
    for e in samplers:
        lines.append(Line(", ".join(e.names), f"the average over it, by {e.describe()}"))
    if samplers:
        lines.append(Line("noise", _NOISE[any(e.memory for e in samplers)]))
    rest = Line("", "All else is exact, and every M-step raises the same weighted sum that is Q.")
    return [*lines, rest] if lines else []


_NOISE = {
    False: "a step is taken where the lower confidence bound of the increase of Q is positive; where it is not, the "
    "sample grows (ascent-based Monte Carlo EM); the result carries the standard errors of what is left",
    True: "Q is averaged over the steps with decreasing weights (stochastic approximation EM); the result carries the "
    "standard errors of what is left",
}


def _exactness(updates: Sequence[Update]) -> str:
    if any(isinstance(u, Numeric) for u in updates):
        return ("Nothing is estimated: the E-step is exact, and every M-step raises the exact Q (numerically where no "
                "closed form is named).")  # fmt: skip
    return "Nothing: the E-step is exact and every M-step is in closed form."


def _arguments(model: Model, site: Site, text: Mapping[int, str]) -> list[tuple[str, str]]:
    out = model.outputs[site.name]
    return [(n, text.get(i) or _constant(model.program.known[i])) for n, i in out["arguments"].items()]


def _constant(value: Any) -> str:
    if isinstance(value, np.ndarray | float | int) or hasattr(value, "dtype"):
        flat = np.ravel(value) if np.size(value) <= 4 else None
        if flat is not None and len(np.unique(flat)) == 1:
            return f"{flat[0]:g}"
    return "data"


def _index(site: Site) -> str:
    return f"[{', '.join(site.plates)}]" if site.plates else ""


def _model_lines(model: Model) -> list[Line]:
    names = {i: n for n, i in model.inputs.items()} | {r.number: n for n, r in model.reads.items()}
    text = expressions(model.program, names)
    lines = []
    for name, p in model.parameters.items():
        shape = f" of shape {p.initial.shape}" if p.initial.shape else ""
        kind = "site, maximised" if p.is_site else "parameter"
        if p.flat:
            kind += " (prior ignored)"
        lines.append(Line(name, f"{kind}{shape} in {p.constraint}"))
    for site in model.sites.values():
        label = f"{site.name}{_index(site)}"
        arguments = ", ".join(f"{n}={t}" for n, t in _arguments(model, site, text)) or "..."
        masked = ", masked" if model.outputs[site.name]["mask"] is not None else ""
        what = {"latent": f"latent, {len(site.support) if site.support is not None else 0} values",
                "gaussian": "latent, continuous", "conjugate": "latent, continuous", "points": "latent, continuous",
                "observed": "observed",
                "maximised": "prior"}[site.role]  # fmt: skip
        shape = (f", shape {site.batch_shape}" if site.batch_shape else "") + masked
        wrapped = f"{site.distribution}({arguments})"
        lines.append(Line(label, f"~ {wrapped}   ({what}{shape})"))
    return [*lines, *(Line(note.site, note.text) for note in model.notes)]


def _objective_lines(complete: CompleteData) -> list[Line]:
    priors = " + log p(θ)" if complete.priors else ""
    sites = ", ".join(f.site for f in complete.factors)
    text = f"Q(θ | θₜ) = Σ_s ⟨slots_s(θ), E[T_s | data; θₜ]⟩{priors},  s in {{{sites}}}"
    latex = r"Q(\theta \mid \theta_t) = \sum_s \langle \eta_s(\theta), \mathrm{E}[T_s \mid x; \theta_t] \rangle"
    latex += r" + \log p(\theta)" if complete.priors else ""
    return [Line("", text, latex)]


def _statistics_lines(complete: CompleteData, skeletons: Any, statistics: Mapping[str, Any]) -> list[Line]:
    lines = []
    for factor, skeleton in zip(complete.factors, skeletons, strict=False):
        names = (
            "weight of each log density"
            if not factor.canonical or factor.family is None
            else ", ".join(factor.family.describe_statistics())
        )
        given = f" {'at the' if factor.moving else 'for every value of'} {', '.join(factor.latents)}"
        given = given if factor.latents else ""
        why = f" (the log density as it is: {skeleton.why})" if not factor.canonical else ""
        lines.append(Line(factor.site, f"E[{names}]{given}; shape {statistics[factor.site]}{why}"))
    return lines


def _e_step_lines(model: Model, evidences: Sequence[Any]) -> list[Line]:
    lines = []
    for evidence in evidences:
        if isinstance(evidence, Observed):
            names = ", ".join(f.site for f in evidence.factors)
            lines.append(Line("observed", f"{names}: no latent; their statistics are added up once, before the loop"))
            continue
        if isinstance(evidence, Quadrature):
            lines.append(_quadrature_line(evidence))
            continue
        if isinstance(evidence, Shared):
            lines.append(_shared_line(evidence))
            continue
        if isinstance(evidence, Sampled):
            lines.append(_sampled_line(evidence))
            continue
        if isinstance(evidence, Chain):
            lines.append(_chain_line(evidence))
            continue
        if isinstance(evidence, Scaled):
            lines += _scaled_lines(evidence)
            continue
        engine = evidence.continuous if isinstance(evidence, Mixed) else evidence
        if isinstance(engine, Gaussian):
            lines += _gaussian_lines(engine)
        elif isinstance(engine, Conjugate):
            lines += _conjugate_lines(engine)
        if isinstance(evidence, Gaussian | Conjugate):
            continue
        evidence = evidence.discrete if isinstance(evidence, Mixed) else evidence
        order = evidence.order()
        label = ", ".join(n for n, _, _ in evidence.layout.latents)
        sites = " ".join(f"p({f.site})" for f in evidence.factors)
        text = f"log Σ_{{{label}}} {sites}, summed in the order {', '.join(order)}; the statistics are its gradient"
        if evidence.layout.chunk:
            text += f"; in chunks of {evidence.layout.chunk[1]} rows"
        latex = rf"L = \log \sum_{{{_tex(label)}}} \prod_s e^{{\langle \eta_s, T_s \rangle}}, \quad \mathrm{{E}}[T_s]"
        lines.append(Line(label, text, latex + r" = \partial L / \partial \eta_s"))
        lines += [Line("", note) for note in evidence.notes]
    masked = [n for n, s in model.sites.items() if s.role == "latent" and model.outputs[n]["mask"] is not None]
    if masked:
        lines.append(Line("masked", f"{', '.join(masked)}: an element that is masked out carries total weight 1"))
    return lines


_MADE_OF = {
    "poisson": "is a sum of Poisson counts, one for each term of its rate",
    "multinomial": "is the margin of a table with a cell for every term of its probabilities",
    "categorical": "is the margin of a table with a cell for every term of its probabilities",
    "exponential": "is the first of several waiting times, one for each term of its rate",
}


def _counted_lines(model: Model, complete: CompleteData, updates: Sequence[Update]) -> list[Line]:
    """Sites whose counts are split into hidden ones."""
    found: dict[tuple[int, str], list[str]] = {}
    for update in (u for u in updates if isinstance(u, ClosedForm)):
        for o in update.occurrences:
            if isinstance(o, HiddenCounts) and not o.single:
                found.setdefault((o.entry, o.argument), []).append(update.name)
    lines = []
    for (entry, argument), names in found.items():
        factor = complete.factors[entry]
        made = _MADE_OF.get(getattr(factor.family, "name", ""), f"has a {argument} that is a sum of terms")
        text = (
            f"{model.sites[factor.site].distribution} {made}, none of them negative; given {factor.site} each has the "
            f"share term / {argument} of the count, at the parameters that an update starts from; the terms of an "
            f"element u of {', '.join(names)} have together u ∂/∂u Σ E[count] log {argument}"
        )
        lines.append(Line(factor.site, text))
    return lines


def _hidden_lines(model: Model, complete: CompleteData, updates: Sequence[Update]) -> list[Line]:
    """Sites with a hidden precision for every datum, which the updates weigh the data with; and with hidden counts."""
    lines = _counted_lines(model, complete, updates)
    near = {o.entry for u in updates if isinstance(u, LeastSquares) for o in u.occurrences if o.nearby}
    for entry, factor in enumerate(complete.factors):
        family = factor.family
        if entry in near:
            text = (
                f"{model.sites[factor.site].distribution} is a Normal with an exponentially distributed variance for "
                f"every datum, integrated in closed form; E[1/variance | {factor.site}] ∝ 1 / |{factor.site} - loc| "
                "weighs the data; distances under a billionth of their mean are taken to be as long; a step that "
                "lowers Q is halved, one that goes on raising it doubled"
            )
            lines.append(Line(factor.site, text))
        if isinstance(family, AbstractScaleMixture) and not factor.canonical:
            text = (
                f"{model.sites[factor.site].distribution} is a {family.normal} with {family.mixing} for every datum, "
                f"integrated in closed form; E[precision | {factor.site}] = {family.weight} with δ the standardised "
                "distance weighs the data in each update, at the parameters that this one starts from"
            )
            lines.append(Line(factor.site, text))
    return lines


def _chain_line(evidence: Chain) -> Line:
    shape = evidence.shape
    label = ", ".join(n for n, _, _ in (*shape.latents, *shape.statics))
    before = "the step before" if shape.start == 1 else f"the {shape.start} steps before"
    text = (
        f"forwards along {shape.length} steps, α_t = Σ α_(t-1) Π_s p(s_t | {before}), scaled; the statistics are the "
        "gradient of the sum of log scales, which is the backward recursion"
    )
    latex = r"\alpha_t = \sum_{z_{t-1}} \alpha_{t-1} \prod_s p(s_t \mid z_t, z_{t-1})"
    return Line(label, text, latex)


def _quadrature_line(evidence: Quadrature) -> Line:
    label, sites = ", ".join(evidence.names), " ".join(f"p({f.site})" for f in evidence.summed.factors)
    inner = f"Σ_{{{', '.join(evidence.summed.latents)}}} " if evidence.summed.latents else ""
    text = f"log ∫ {inner}{sites} d{label}, cell by cell: {evidence.describe()}; the statistics are averages over the "
    text += "points"
    if evidence.above is not None:
        above = " ".join(f"p({f.site})" for f in evidence.above.factors[:-1])
        names = ", ".join(n for n, _, _ in evidence.above.layout.latents)
        text += f"; over them log Σ_{{{names}}} {above} times the cells' evidence, summed exactly"
    latex = (
        rf"L = \sum_c \log \sum_m w_m f_c(u_{{cm}}), \quad u_{{cm}} = \hat u_c + R_c t_m, \quad {_tex(label)} = g(u)"
    )
    return Line(label, text, latex)


def _shared_line(evidence: Shared) -> Line:
    label, sites = ", ".join(evidence.names), " ".join(f"p({f.site})" for f in evidence.factors)
    inner = f"Σ_{{{', '.join(evidence.discrete)}}} " if evidence.discrete else ""
    text = f"log ∫ {inner}{sites} d{label}: {evidence.describe()}; the points are the values of a discrete latent, and "
    text += "the statistics are its gradient"
    latex = rf"L = \sum_i \log \sum_m w_m f_i(u_m), \quad {_tex(label)} = g(u)"
    return Line(label, text, latex)


def _sampled_line(evidence: Sampled) -> Line:
    label, sites = ", ".join(evidence.names), " ".join(f"p({f.site})" for f in evidence.factors)
    text = f"{evidence.held} draws of {label} from what is proportional to {sites}, by {evidence.describe()}; the "
    text += "statistics are averages over the draws"
    latex = rf"\mathrm{{E}}[T_s] \approx \sum_m w_m T_s(u_m), \quad u_m \sim p({_tex(label)} \mid x; \theta_t)"
    return Line(label, text, latex)


def _gaussian_lines(engine: Gaussian) -> list[Line]:
    label = ", ".join(engine.names)
    given = ", ".join(n for n, _ in engine.latents)
    sites = ", ".join(f.site for f in engine.factors)
    text = (
        f"jointly Gaussian{f' for every value of {given}' if given else ''}: precision A = Σ JᵀPJ over {sites}, with "
    )
    text += "J = ∂residual/∂latents and P the precision of the noise; mean -A⁻¹ Σ JᵀPr₀, covariance A⁻¹"
    latex = r"A = \sum J^\top P J, \quad m = -A^{-1} \sum J^\top P r_0"
    return [Line(label, text, latex), *(Line("", note) for note in engine.notes)]


def _scaled_lines(engine: Scaled) -> list[Line]:
    gaussian, factor = ", ".join(engine.gaussian.names), ", ".join(engine.scales.names)
    text = f"all its precisions are in proportion to one element of {factor} each: given that, log evidence ="
    text += " constant + ½ (rows - elements) log u + quadratic · u, and both numbers are found at u = 1"
    latex = r"\log L(u) = c + \tfrac{1}{2} (n - k) \log u - \tfrac{1}{2} r(m)^\top P_1 r(m) \, u"
    return [*_gaussian_lines(engine.gaussian), Line(gaussian, text, latex), *_conjugate_lines(engine.scales)]


def _conjugate_lines(engine: Conjugate) -> list[Line]:
    given = ", ".join(n for n, _ in engine.latents)
    lines = []
    for part in engine.parts:
        features = ", ".join(part.kernel.describe)
        sites = ", ".join(engine.factors[r.factor].site for r in part.rows)
        text = f"{part.kernel.name}{f' for every value of {given}' if given else ''}: η, the coefficients of "
        text += f"({features}) with u = {part.name}, added up over {sites}; log evidence = the log normaliser at η, "
        text += "expected features = its gradient"
        latex = r"L = h_0 + \log \int e^{\langle \eta, \varphi(u) \rangle} du, \quad \eta = \sum_s \eta_s, \quad "
        lines.append(Line(part.name, text, latex + r"\mathrm{E}[\varphi(u)] = \partial L / \partial \eta"))
    return lines


def _tex(name: str) -> str:
    return r"\mathrm{" + name.replace("_", r"\_") + "}"


def _m_step_lines(complete: CompleteData, updates: Sequence[Update], plans: Mapping[str, Plan]) -> list[Line]:
    lines = []
    for update in updates:
        if isinstance(update, ClosedForm):
            text, latex = _closed_form(update)
            lines.append(
                Line(update.name, f"{text}   [{{{plans[update.name].features}}}]", f"{_tex(update.name)} = {latex}")
            )
        elif isinstance(update, LeastSquares):
            lines.append(_least_squares(update, plans))
        else:
            how = "damped Newton" if update.method == "newton" else "L-BFGS"
            number = "one step" if update.steps == 1 else f"at most {update.steps} steps"
            steps = f"{number} per iteration; a step that lowers Q is not taken"
            names = ", ".join(update.names)
            lines.append(Line(names, f"argmax Q by {how} on the expected statistics, jointly, unconstrained; {steps}"))
    for name, plan in plans.items():
        if plan.update is None:
            lines.append(Line(name, "keeps its value: no factor depends on it"))
    return lines


def _closed_form(update: ClosedForm) -> tuple[str, str]:
    if update.kind == "simplex":
        of = "log of " if update.logits else ""
        return f"{of}N_k / Σ_k N_k, expected counts", r"\log N_k" if update.logits else r"N_k / \sum_k N_k"
    if update.kind == "odds":
        if update.logits:
            return "log(A / B), expected successes A and failures B", r"\log (A / B)"
        return "A / (A + B), expected successes A and failures B", "A / (A + B)"
    if update.kind == "matrix":
        name = {"covariance": "", "precision": "the inverse of ", "cholesky": "the Cholesky factor of "}[update.form]
        return f"{name}E[Σ (x - μ)(x - μ)ᵀ] / N", r"\mathrm{E}\left[\sum (x-\mu)(x-\mu)^\top\right] / N"
    if update.kind == "median":
        return "the median of the data, weighted by E[w] / scale", r"\mathrm{median}(x; w)"
    if update.kind == "circular":
        return "atan2(E[Σ sin], E[Σ cos])", r"\mathrm{atan2}(\mathrm{E}\sum\sin, \mathrm{E}\sum\cos)"
    return ("mode of a log u + b u^p: u = (-a / (p b))^(1/p), a and b expected and summed",
            r"\left(-a / (p\, b)\right)^{1/p}")  # fmt: skip


def _least_squares(update: LeastSquares, plans: Mapping[str, Plan]) -> Line:
    names = ", ".join(update.names)
    note = ", given the current values of the others (ECM)" if plans[update.names[0]].conditional else ""
    pure = all(p.dependence.pure for n in update.names for p in plans[n].places if p.dependence is not None)
    selected = all(o.argument != "columns" for o in update.occurrences)
    if update.diagonal or (pure and selected and len(update.names) == 1):
        text = f"E[Σ w x] / E[Σ w], the weighted mean of what it is the location of{note}"
        return Line(names, f"{text}   [{{{plans[names].features}}}]", f"{_tex(names)} = " + r"\sum w x / \sum w")
    text = f"weighted least squares, (Σ JᵀWJ) u = Σ JᵀW x with J = ∂loc/∂u{note}"
    jointly = "" if len(update.names) == 1 else ", jointly"
    return Line(
        names, f"{text}{jointly}   [{{u, uuᵀ}}]", f"{_tex(names)} = " + r"(\sum J^\top W J)^{-1} \sum J^\top W x"
    )
