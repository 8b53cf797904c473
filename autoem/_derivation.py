"""A derivation: what was found in a model, and the very modules that run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ._blocks import build, declined
from ._complete import CompleteData
from ._engines import Evidence
from ._evidence import LADDER, Chain, Chains, Drawn, Quadrature, Read, Sampled, Shared
from ._factors import Skeleton
from ._found import Found, conjugate_found, gaussian_found, parameter_found
from ._model import Model, read_model
from ._options import Sampling
from ._places import Plan
from ._points import settled
from ._recognise import recognise
from ._render import Page, page
from ._result import Check
from ._shared import Apart
from ._types import Array, Declined, Key, Params, Refusal
from ._update import Update


class Expected(eqx.Module):
    """What an E-step leaves for the M-step; as a sequence, its statistics.

    Attributes:
        statistics: expected sufficient statistics of every factor, shaped like its slots.
        points: values of the latents that are integrated numerically, at which those slots are to be taken.
    """

    statistics: list[Any]
    points: dict[str, Any]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.statistics)

    def __getitem__(self, position: int) -> Any:
        return self.statistics[position]

    def __len__(self) -> int:
        return len(self.statistics)


class Machine(eqx.Module):
    """The derived algorithm as one pytree: data are leaves, structure is static.

    Attributes:
        complete: links, factors and priors.
        evidences: the E-step engines.
        positions: per engine, its factors' positions among all.
        updates: the M-steps, in order.
    """

    complete: CompleteData
    evidences: tuple[Evidence, ...]
    positions: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    updates: tuple[Update, ...]

    def prepare(self) -> tuple[Any, ...]:
        """What does not change with the parameters: computed once, before the loop."""
        return tuple(e.prepare() for e in self.evidences)

    def log_likelihood(self, params: Params, prepared: Sequence[Any] | None = None) -> Array:
        """Observed-data log-likelihood; where latents are sampled an estimate of it, with the same draws every time."""
        inputs = self.complete.inputs(params)
        prepared = [None] * len(self.evidences) if prepared is None else prepared
        total = jnp.zeros(())
        for evidence, at, data in zip(self.evidences, self.positions, prepared, strict=True):
            if isinstance(evidence, Quadrature | Shared):
                read, slots = self.seen(evidence, params, at)
                frozen, _ = self.seen(evidence, jax.lax.stop_gradient(params), at)
                total = total + evidence.log_evidence(read, frozen, slots)
            elif isinstance(evidence, Sampled):
                own = self.reader(params, at), self.frozen(params, at)
                total = total + evidence.log_evidence(*own, jax.random.key(0))
            else:
                total = total + evidence.log_evidence([inputs[i] for i in at], data)
        return total

    def seen(self, engine: Quadrature | Shared, params: Params, at: Sequence[int]) -> tuple[Read, list[Any]]:
        """What a quadrature wants: arguments of the sites with continuous latents as a function of these, and slots of
        the others.

        Args:
            engine: the quadrature.
            params: the parameters.
            at: positions of its sites.
        """
        inputs = self.complete.inputs(params)
        return self.reader(params, at[: engine.count]), [inputs[i] for i in at[engine.count :]]

    def reader(self, params: Params, at: Sequence[int]) -> Read:
        """Arguments of some sites as a function of their continuous latents."""

        def read(points: dict[str, Any]) -> list[Any]:
            arguments = self.complete.at(points).arguments(params)
            return [arguments[i] for i in at]

        return read

    def frozen(self, params: Params, at: Sequence[int]) -> Read:
        """The same, constant as far as derivatives are concerned."""
        return self.reader(jax.lax.stop_gradient(params), at)

    def objective(self, params: Params) -> Array:
        """What EM climbs: the log-likelihood plus the log priors."""
        return self.log_likelihood(params) + self.complete.log_prior(params)

    def draw(self, params: Params, key: Key, chains: Mapping[str, Chains]) -> dict[str, Drawn]:
        """Draws of the latents that are sampled, by their axis.

        Args:
            params: given those.
            key: a JAX key.
            chains: what the last E-step handed on.
        """
        keys = jax.random.split(key, len(self.samplers) + 1)
        return {e.axis: e.draw(self.reader(params, at), k, chains[e.axis])
                for (e, at), k in zip(self.samplers, keys, strict=False)}  # fmt: skip

    def remembered(self, drawn: Mapping[str, Drawn]) -> dict[str, Drawn]:
        """What an E-step averages over: those draws, and what is remembered of earlier ones."""
        return {e.axis: e.remembered(drawn[e.axis]) if e.memory else drawn[e.axis] for e, _ in self.samplers}

    def start(self) -> dict[str, Chains]:
        """What the samplers begin with."""
        return {e.axis: e.start() for e, _ in self.samplers}

    def e_step(
        self, params: Params, prepared: Sequence[Any], drawn: Mapping[str, Drawn] | None = None
    ) -> tuple[Array, Expected]:
        """The log-likelihood and the expected sufficient statistics of every factor.

        Args:
            params: given those.
            prepared: what `prepare` returned.
            drawn: draws of the latents that are sampled.
        """
        inputs = self.complete.inputs(params)
        total, statistics, points = jnp.zeros(()), [None] * len(inputs), {}
        for evidence, at, data in zip(self.evidences, self.positions, prepared, strict=True):
            if isinstance(evidence, Quadrature | Shared):
                value, found, placed = evidence.averaged(*self.seen(evidence, params, at))
                points |= placed
            elif isinstance(evidence, Sampled):
                draws = (drawn or {})[evidence.axis].draws
                points |= draws.values
                found = evidence.expected_statistics(draws, self.reader(params, at)(draws.values))
                value = draws.total
            else:
                value, found = evidence.expected_statistics([inputs[i] for i in at], data)
            total = total + value
            for i, s in zip(at, found, strict=True):
                statistics[i] = s
        return total, Expected(statistics, points)

    def relative(self, params: Params, origin: Params, drawn: Mapping[str, Drawn]) -> Array:
        """The objective, up to a constant, from draws that were made at `origin`.

        There its gradient is that of the objective (Fisher's identity) and its Hessian too (Louis').
        """
        inputs = self.complete.inputs(params)
        total = self.complete.log_prior(params)
        for evidence, at in zip(self.evidences, self.positions, strict=True):
            if isinstance(evidence, Sampled):
                own = self.reader(params, at), self.frozen(origin, at)
                total = total + evidence.relative(drawn[evidence.axis].draws, *own)
            elif isinstance(evidence, Quadrature | Shared):
                read, slots = self.seen(evidence, params, at)
                frozen, _ = self.seen(evidence, jax.lax.stop_gradient(params), at)
                total = total + evidence.log_evidence(read, frozen, slots)
            else:
                total = total + evidence.log_evidence([inputs[i] for i in at], None)
        return total

    def m_step(self, params: Params, expected: Expected) -> tuple[Params, dict[str, Any]]:
        """Parameters that raise Q, and what had to be done to keep them finite."""
        flags: dict[str, Any] = {n: jnp.asarray(0) for n in self.complete.names}
        complete = self.complete.at(expected.points)
        for update in self.updates:
            params, found = update(complete, params, expected.statistics)
            flags |= found
        return params, flags

    @property
    def quadratures(self) -> tuple[tuple[Quadrature | Shared, tuple[int, ...]], ...]:
        """The engines that integrate numerically, and the positions of their factors."""
        pairs = zip(self.evidences, self.positions, strict=True)
        return tuple((e, at) for e, at in pairs if isinstance(e, Quadrature | Shared))

    @property
    def samplers(self) -> tuple[tuple[Sampled, tuple[int, ...]], ...]:
        """The engines that sample, and the positions of their factors."""
        pairs = zip(self.evidences, self.positions, strict=True)
        return tuple((e, at) for e, at in pairs if isinstance(e, Sampled))


class Derivation:
    """The EM algorithm of a model, as it will run. `print` it; notebooks render it.

    Attributes:
        latents: per latent site: family, method, exact, reason, declined.
        params: the same per parameter.
        exact: whether the E-step is exact and every M-step climbs the exact Q.
        closed_form: whether every M-step is in closed form.
        statistics: per site, the shape of its expected sufficient statistics: latent values, batch axes, features.
        machine: the modules that run.
        checks: per quadrature, how it compared with one of more nodes; empty before parameters are known.
    """

    def __init__(
        self, model: Model, machine: Machine, detailed: Callable[[], Machine], skeletons: Sequence[Skeleton],
        plans: Mapping[str, Plan], checks: Mapping[str, Check] | None = None, pace: str = "",
        apart: Callable[[], Derivation] | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        self.machine = machine
        self._detailed = detailed
        self.checks = dict(checks or {})
        self._parts = skeletons, plans
        self._pace, self._apart = pace, apart
        found = {n: self._latent(n) for n in model.latents} | {
            n: gaussian_found(n, machine.evidences) for n in model.gaussians
        }
        found |= {s.site.name: conjugate_found(s, skeletons) for s in skeletons if s.site.role == "conjugate"}
        found |= {n: self._quadrature(n, e) for e, _ in machine.quadratures for n in e.names}
        found |= {n: self._sampled(n, e) for e, _ in machine.samplers for n in e.names}
        self.latents = found
        over = {i: "the points of a quadrature" for _, at in machine.quadratures for i in at}
        over |= {i: "draws" for _, at in machine.samplers for i in at}
        averaged = {n: " and ".join(dict.fromkeys(over[q.entry] for q in p.places if q.entry in over))
                    for n, p in plans.items()}  # fmt: skip
        self.params = {n: parameter_found(p, averaged[n]) for n, p in plans.items()}
        self.exact = all(f.exact for f in (*self.latents.values(), *self.params.values()))
        self.closed_form = all(f.method != "newton" and f.method != "gradient" for f in self.params.values())
        initial = {n: p.initial for n, p in model.parameters.items()}
        slots = jax.eval_shape(lambda p, at: machine.complete.at(at).slots(p), initial, _point_shapes(machine))
        self.statistics = {f.site: s.shape for f, s in zip(machine.complete.factors, slots, strict=True)}
        self._page = page(
            model, machine.complete, machine.evidences, skeletons, machine.updates, plans, self.statistics,
            [c.sentence for c in self.checks.values()], pace,
        )  # fmt: skip

    @property
    def detailed(self) -> Machine:
        """The machine with every latent in its place: for posterior distributions."""
        return self._detailed()

    def with_machines(
        self, machine: Machine, detailed: Callable[[], Machine], checks: Mapping[str, Check]
    ) -> Derivation:
        """The same with other numbers of nodes, and how they compared."""
        return Derivation(self.model, machine, detailed, *self._parts, checks, self._pace, self._apart)

    @property
    def apart(self) -> Derivation:
        """The same where every element of a latent that is integrated numerically has points of its own."""
        return self if self._apart is None else self._apart()

    def _latent(self, name: str) -> Found:
        site = self.model.hidden[name]
        size = len(site.support)
        family = "bernoulli" if site.binary else "categorical"
        for evidence in self.machine.evidences:
            if isinstance(evidence, Sampled) and name in evidence.cells.discrete:
                reason = f"summed over its {size} values at every draw of {', '.join(evidence.names)}"
                return Found(family, "enumeration", False, reason)
            if isinstance(evidence, Quadrature | Shared) and name in evidence.discrete:
                inner = isinstance(evidence, Shared) or name in evidence.summed.latents
                how = "at every point of" if inner else "above the cells of"
                reason = f"summed over its {size} values {how} the quadrature of {', '.join(evidence.names)}"
                return Found(family, "enumeration", False, reason)
            if isinstance(evidence, Chain) and any(name == n for n, _, _ in evidence.shape.latents):
                reason = f"summed along its {evidence.shape.length} steps, {size} values each"
                return Found(family, "forward-backward", True, reason)
        reason = f"summed over its {size} values, plates as batch axes"
        return Found(family, "enumeration", True, reason)

    def _quadrature(self, name: str, engine: Quadrature | Shared) -> Found:
        family = self.model.hidden[name].distribution.lower()
        check = self.checks.get(engine.axis)
        said = check.sentence if check else "to be compared with more of them once parameters are known"
        reason = f"{engine.describe()}; {said}"
        return Found(family, "quadrature", False, reason, (self.model.points[name],))

    def _sampled(self, name: str, engine: Sampled) -> Found:
        family = self.model.hidden[name].distribution.lower()
        why = self.model.points[name]
        dims = engine.shape[1]
        most = max(LADDER)
        many = (f"quadrature takes at most {most} coupled coordinates; here are {dims}",) if dims > most else ()
        reason = f"{engine.describe()}; all else is exact given the draws"
        return Found(family, "monte carlo", False, reason, (why, *many))

    @property
    def page(self) -> Page:
        """The derivation as sections of text."""
        return self._page

    def __str__(self) -> str:
        return self._page.text()

    def __repr__(self) -> str:
        return f"Derivation(latents={list(self.latents)}, params={list(self.params)}, exact={self.exact})"

    def _repr_markdown_(self) -> str:
        return self._page.markdown()


def _point_shapes(machine: Machine) -> dict[str, Any]:
    real = jnp.result_type(float)
    counts = [(e, e.size) for e, _ in machine.quadratures] + [(e, e.held) for e, _ in machine.samplers]
    return {seat.name: jax.ShapeDtypeStruct((count, *seat.shape), real) for e, count in counts for seat in e.seats}


def _sharing(model: Model, built: Any) -> Any:
    """What `build` makes of the model with one set of points for the elements of those latents that it serves; what it
    has made, where there are none.
    """
    if not any(isinstance(b.evidence, Quadrature) for b in built[1]):
        return built
    names = [n for b in built[1] if isinstance(b.evidence, Quadrature) for n in b.evidence.names]
    while names:
        try:
            found = build(model, names)
        except Apart as apart:
            names.remove(apart.name)
            continue
        return found if any(isinstance(b.evidence, Shared) for b in found[1]) else built
    return built


def _built(model: Model, sampled: Any) -> tuple[Model, Any]:
    """The model with all latents that no exact engine takes among its `points`, and what `build` makes of it."""
    why: Declined | None = None
    while True:
        try:
            model = settled(model, declined(model), sampled)
            return model, build(model)
        except Declined as refusal:
            why = refusal
            model = replace(model, points={**model.points, **refusal.latents})
        except Refusal as refusal:
            if why is None or str(refusal) == str(why):
                raise
            raise Refusal(f"{why} Nor are they integrated numerically: {refusal}") from refusal


def derive(
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    maximize: Any,
    flat: Any,
    leaves: bool = False,
    augmented: bool = True,
    sampled: Mapping[str, Sampling] | Sampling | None = None,
    pace: str = "",
) -> Derivation:
    """Read a model and derive its EM algorithm.

    Args:
        model: a NumPyro model.
        args, kwargs: its arguments.
        maximize, flat: as in `EM`.
        leaves, augmented: as in `read_model`.
        sampled: latents that are to be sampled, and how; or how to sample where that is needed.
        pace: how `run` goes from step to step, for the page.

    Raises:
        ValueError: bad input.
        Refusal: a part that autoem cannot do exactly.
    """
    read = read_model(model, args, kwargs, maximize, flat, leaves, augmented)
    read, built = _built(read, sampled)
    if isinstance(sampled, Sampling) and not any(isinstance(b.evidence, Sampled) for b in built[1]):
        raise ValueError("e_step= says how to sample, but every latent of this model has an exact engine or a "
                         "quadrature; to sample a latent all the same, name it: e_step={'name': ...}.")  # fmt: skip
    apart = functools.cache(lambda: _derivation(read, built, augmented, pace))
    sharing = _sharing(read, built)
    return apart() if sharing is built else _derivation(read, sharing, augmented, pace, apart)


def _derivation(
    read: Model, built: Any, augmented: bool, pace: str, apart: Callable[[], Derivation] | None = None
) -> Derivation:  # fmt: skip
    """The derivation of a model from what `build` made of it; `apart`: the same where every latent element has points
    of its own.
    """
    complete, blocks, skeletons = built
    work = sum(b.evidence.work for b in blocks if isinstance(b.evidence, Quadrature | Shared))
    updates, plans = recognise(read, complete, {s.site.name: s.why for s in skeletons}, augmented, work)
    positions = tuple(b.positions for b in blocks)
    machine = Machine(complete, tuple(b.evidence for b in blocks), positions, tuple(updates))
    detailed = functools.cache(
        lambda: Machine(complete, tuple(b.detailed() for b in blocks), positions, tuple(updates))
    )
    pace = "" if machine.samplers else pace
    return Derivation(read, machine, detailed, skeletons, plans, pace=pace, apart=apart)
