"""From a NumPyro model and data to sites, roles and a program: the only file that knows NumPyro's handlers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer.initialization import init_to_sample
from numpyro.primitives import Messenger

from ._augment import Note, Rewritten, augment
from ._densities import whole_density
from ._lenient import Lenient
from ._links import Program, analyse, evaluator, restricted, trace, without_abs
from ._normalised import Unknowns, is_one
from ._numbers import with_numbers
from ._options import Sampling
from ._pieces import cut, parts_of, pieces, whole as whole_site
from ._reads import Read, separate
from ._roles import check_names, chosen_sites, computed_supports, warn_of_subsamples
from ._scans import aligned, watched
from ._sites import Site, check_data, off_the_ends, own_kernel, read_site, site_outputs, with_known_bounds
from ._supports import known_bound
from ._types import Key, Params
from ._unsummed import unsummed
from ._wrappers import is_discrete


@dataclass(frozen=True)
class Parameter:
    """An unknown to be maximised.

    Attributes:
        name: its name.
        constraint: its constraint (of a maximised site: the support).
        initial: its shape and type.
        is_site: whether it is a sample site (with a prior) rather than a `numpyro.param`.
        flat: whether its prior is to be ignored.
    """

    name: str
    constraint: Any
    initial: Any
    is_site: bool = False
    flat: bool = False


@dataclass(frozen=True)
class Model:
    """What was read off a model: sites, parameters, and the program from unknowns to distribution arguments.

    Attributes:
        sites: sample sites in order, flat priors left out; one inside a scan may fall into parts ("x[0]", "x[1:]").
        parameters: what is maximised, in order.
        hidden: the latents as sites, whole.
        latents: names of the discrete ones, in order.
        gaussians: names of the Gaussian ones, in order.
        program: inputs are the parameters, then reads of the latents.
        inputs: input number of every parameter.
        reads: the ways in which latents enter the program; a latent that enters as it is goes by its own name.
        outputs: site -> {"value", "log_prob", "mask", "scale", "arguments"} as value numbers.
        avals: shape and type of every latent.
        unused: continuous latents that nothing depends on; they integrate to one.
        conjugates: names of the continuous latents that are to be conjugate to all that depends on them, in order.
        auxiliaries: latents that autoem added, which are not the user's.
        notes: what was done, or not, about sites with a hidden representation.
        points: continuous latents that are integrated numerically, in order, and why no exact engine takes them.
        owner: the site of the user's that each of `sites` is, or is a part of.
        sampled: those that the user wants sampled, and how; or how to sample wherever it is needed.
    """

    sites: dict[str, Site]
    parameters: dict[str, Parameter]
    hidden: dict[str, Site]
    latents: tuple[str, ...]
    gaussians: tuple[str, ...]
    program: Program
    inputs: dict[str, int]
    reads: dict[str, Read]
    outputs: dict[str, Any]
    avals: dict[str, jax.ShapeDtypeStruct]
    unused: tuple[str, ...] = ()
    conjugates: tuple[str, ...] = ()
    auxiliaries: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    points: Mapping[str, str] = field(default_factory=dict)
    sampled: Mapping[str, Sampling] | Sampling = field(default_factory=dict)
    owner: Mapping[str, str] = field(default_factory=dict)

    @property
    def axes(self) -> tuple[str, ...]:
        """Reads of the discrete latents, in order: each is an axis of the factors that hold it."""
        return tuple(n for latent in self.latents for n, r in self.reads.items() if r.latent == latent)

    def support(self, read: str) -> Any:
        """The values that a discrete latent can take: (K, *event)."""
        return self.hidden[self.reads[read].latent].support


def _run(model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], key: Key) -> dict[str, Any]:
    """One run of the model as NumPyro would start it: sites are drawn, improper ones started uniformly."""
    seeded = handlers.substitute(_AsArrays(handlers.seed(Lenient(model), key)), substitute_fn=_start)
    return handlers.trace(seeded).get_trace(*args, **kwargs)


class _AsArrays(Messenger):
    """Param values as JAX arrays, as under NumPyro's inference: a NumPy initial value can be indexed by a latent."""

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        """Convert a param's value once it is there."""
        if msg["type"] == "param":
            msg["value"] = jax.tree.map(jnp.asarray, msg["value"])


def _outline(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], augmented: bool
) -> tuple[dict[str, Any], Rewritten]:
    """The sites of one abstract run, without and with auxiliaries: shapes and classes, no numbers, nothing compiled.

    A site inside a scan holds under "step" what it was there, and under "steps" their number.
    """
    runs: list[Any] = []
    inside: dict[str, Any] = {}

    def look(name: str, site: Mapping[str, Any], steps: int) -> dict[str, Any]:
        inside[name] = {"step": dict(site), "steps": steps}
        return {}

    def run() -> None:
        found = _run(watched(model, look), args, kwargs, jax.random.key(0))
        found = {name: {**site, **inside.get(name, {})} for name, site in found.items()}
        runs.extend((found, augment(found, {}, augmented)))

    with numpyro.validation_enabled(False):
        jax.eval_shape(run)
    return runs[0], runs[1]


def _like(value: Any) -> jax.ShapeDtypeStruct:
    """An unknown is a float of JAX's default precision, whatever its starting value: EM's steps can be tiny."""
    return jax.ShapeDtypeStruct(jnp.shape(value), jnp.result_type(float))


def _start(site: Mapping[str, Any]) -> Any:
    if site["type"] == "sample" and not site["is_observed"] and not is_discrete(site["fn"]):
        return init_to_sample(site)
    return None


def _samples(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: site for name, site in found.items() if site["type"] == "sample"}


@with_numbers
def initial_values(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], keys: Sequence[Key], names: Sequence[str]
) -> list[tuple[Params, Key]]:
    """Per key, starting values (a param's own initialiser, a site's prior draw) and a key that is left."""

    def start(key: Key) -> tuple[Params, Key]:
        key, left = jax.random.split(key)
        with numpyro.validation_enabled(False):
            # Samplers of gammas and all that are made of them take seconds to compile: nothing is drawn in vain.
            found = _run(model, args, kwargs, key) if names else {}
            values = {n: _begin(found[n]) for n in names}
        return {n: jnp.asarray(v, _like(v).dtype) for n, v in values.items()}, left

    compiled = evaluator(start, keys[0], once=True)
    return [compiled(key) for key in keys]


def _begin(site: Mapping[str, Any]) -> Any:
    return off_the_ends(site["fn"], site["value"]) if site["type"] == "sample" else site["value"]


def _look(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], values: Mapping[str, Any], take: Any
) -> tuple[Program, Any]:
    """The program from some unknowns to what `take` reads off NumPyro's trace, and the numbers of that."""

    def run(*given: Any) -> Any:
        seeded = handlers.seed(Lenient(model), jax.random.key(0))
        again = handlers.substitute(seeded, data=dict(zip(values, given, strict=True)))
        return take(handlers.trace(again).get_trace(*args, **kwargs))

    with numpyro.validation_enabled(False):
        avals = [jax.ShapeDtypeStruct(jnp.shape(v), jnp.result_type(v)) for v in values.values()]
        program, tree = trace(run, *avals)
    return program, jax.tree.unflatten(tree, program.outputs)


@with_numbers
def read_model(
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    maximize: Any,
    flat: Any,
    leaves: bool = False,
    augmented: bool = True,
) -> Model:
    """Trace a model on data.

    Args:
        model: any NumPyro model.
        args, kwargs: its arguments; they stay concrete.
        maximize: names of sample sites to treat as parameters, "global", or None.
        flat: names of maximised sites whose prior is ignored, or True for all.
        leaves: keep continuous latents that nothing depends on, for their posterior; for a fit they integrate to one.
        augmented: add auxiliary latents where the catalogue has a hidden representation.

    Raises:
        ValueError: nothing to maximise, unknown names, data that are missing or outside a support.
        Refusal: a discrete latent whose values cannot be listed.
    """
    found, rewritten = _outline(model, args, kwargs, augmented)
    samples = _samples(found)
    look = functools.partial(_look, model, args, kwargs)
    params = {n: s["value"] for n, s in found.items() if s["type"] == "param"}
    chosen = chosen_sites(samples, params, maximize, look)
    warn_of_subsamples(found, look)
    flats = chosen if flat is True else list(flat or ())
    check_names(flats, chosen, "flat", "a maximised sample site")
    parameters = _parameters(found, chosen, flats, computed_supports(found, chosen, look))
    _require_something(parameters, samples, maximize)
    samples = _samples(rewritten.sites)
    steps = {
        name: read_site(name, site.get("step", site), name in chosen, augmented)
        for name, site in samples.items()
        if not (name in flats or site["fn"] is None)
    }
    sites = {n: whole_site(site, samples[n].get("steps")) for n, site in steps.items()}
    latents = tuple(name for name, site in sites.items() if site.role == "latent")
    continuous = tuple(name for name, site in sites.items() if site.role == "continuous")
    unknowns = {name: p.initial for name, p in parameters.items()}
    summed = {n: samples[n]["value"] for n in (*latents, *continuous)}
    avals = {n: jax.ShapeDtypeStruct(jnp.shape(v), jnp.result_type(v)) for n, v in summed.items()}
    unknowns |= avals
    order = [*parameters, *latents, *continuous]
    scanned = {n for n in sites if "steps" in samples[n]}
    run = functools.partial(_outputs, model, args, kwargs, augmented, order, steps, sites)
    program, numbers, parts = _traced(run, [unknowns[n] for n in order], sites, scanned)
    inputs = dict(zip(order, program.inputs, strict=True))
    program, same = without_abs(
        program, {inputs[n]: b for n, p in parameters.items() if (b := known_bound(p.constraint))}
    )
    numbers = jax.tree.map(lambda i: same.get(i, i), numbers)
    program, numbers, terms = unsummed(program, numbers, sites, [inputs[n] for n in (*latents, *continuous)])
    unknown = Unknowns({inputs[n]: p.constraint for n, p in parameters.items()},
                       {inputs[n]: sites[n].support for n in latents})  # fmt: skip
    for out in numbers.values():
        _settle(out, program, unknown)
    own = {name: [t.name for t in terms.get(name, ())] or list(parts.get(name, [name])) for name in sites}
    reached = {n: _reached(own[n], inputs[n], program, numbers) for n in continuous}
    bound = {n for n in continuous if n in scanned or _meets_itself(own[n], inputs[n], program, numbers)}
    sites |= {n: with_known_bounds(sites[n], program, numbers[n]) for n in continuous if n not in bound}
    kernels = {n: None if n in bound else own_kernel(sites[n], program, numbers[n]) for n in continuous}
    kept = {n for n in continuous
            if leaves and (kernels[n] or _is_gaussian(sites[n])) and numbers[own[n][0]]["mask"] is None}  # fmt: skip
    unused = tuple(n for n in continuous if n not in kept and not reached[n])
    for name in continuous:
        if name in unused:
            del sites[name]
        else:
            sites[name] = _with_role(sites[name], kernels[name] is not None)
    numbers = {part: numbers[part] for name in sites for part in own[name]}
    program = restricted(program, jax.tree.leaves(numbers))
    gaussians = tuple(n for n, site in sites.items() if site.role == "gaussian")
    conjugates = tuple(n for n, site in sites.items() if site.role == "conjugate")
    points = {n: f"{s.distribution} is neither Gaussian nor conjugate" for n, s in sites.items() if s.role == "points"}
    for name, site in sites.items():
        for part in own[name] if site.role == "observed" else ():
            fn = samples[name].get("step", samples[name])["fn"]
            check_data(site, fn, program.known.get(numbers[part]["value"]))
    hidden = {n: sites[n] for n in (*latents, *gaussians, *conjugates, *points)}
    whole = {n: inputs[n] for n in hidden if n not in scanned}
    program, reads, moved = separate(program, {n: inputs[n] for n in hidden if n not in whole})
    numbers = jax.tree.map(lambda i: moved.get(i, i), numbers)
    reads |= {n: Read(n, i, avals[n].shape) for n, i in whole.items()}
    factors = {part: own for name, site in sites.items()
               for part, own in pieces(site, parts.get(name, {}), terms.get(name, ())).items()}  # fmt: skip
    given = {n: inputs[n] for n in parameters}
    return Model(factors, parameters, hidden, latents, gaussians, program, given, reads, numbers, avals, unused,
                 conjugates, rewritten.auxiliaries, rewritten.notes, points,
                 owner={part: name for name in sites for part in own[name]})  # fmt: skip


def _parameters(
    found: Mapping[str, Any], chosen: Sequence[str], flats: Sequence[str], supports: Mapping[str, Any]
) -> dict[str, Parameter]:
    """What is maximised: params first, then sites."""
    result = {
        name: Parameter(name, site["kwargs"].get("constraint", constraints.real), _like(site["value"]))
        for name, site in found.items()
        if site["type"] == "param"
    }
    for name in chosen:
        site = found[name]
        support = supports.get(name, site["fn"].support)
        result[name] = Parameter(name, support, _like(site["value"]), True, name in flats)
    return result


def _outputs(
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    augmented: bool,
    order: Sequence[str],
    steps: Mapping[str, Site],
    sites: Mapping[str, Site],
    parts: Mapping[str, Mapping[str, tuple[int, int]]],
    *values: Any,
) -> dict[str, Any]:
    """The outputs of every site, or of its parts, at values of the unknowns.

    Args:
        model, args, kwargs, augmented: as in `read_model`.
        order: names of the unknowns.
        steps, sites: every site within its step, and whole.
        parts: sites that fall into parts.
        values: of the unknowns.
    """

    def look(name: str, site: Mapping[str, Any], _: int) -> dict[str, Any]:
        return aligned(steps[name], site_outputs(steps[name], site)) if name in steps else {}

    with numpyro.validation_enabled(False):
        given = dict(zip(order, values, strict=True))
        scans = watched(model, look)
        seeded = handlers.seed(Lenient(scans), jax.random.key(0))
        again = handlers.trace(handlers.substitute(seeded, data=given)).get_trace(*args, **kwargs)
        again = augment(again, given, augmented).sites
        found = {n: scans.found[n] if n in scans.found else site_outputs(sites[n], again[n]) for n in sites}
    result = {name: found[name] for name in sites if name not in parts}
    return result | {part: cut(found[name], *span) for name in parts for part, span in parts[name].items()}


def _traced(
    run: Callable[..., Any], unknowns: Sequence[Any], sites: Mapping[str, Site], scanned: set[str]
) -> tuple[Program, dict[str, Any], dict[str, dict[str, tuple[int, int]]]]:
    """The program from unknowns to outputs, the outputs' numbers, and the sites that had to be taken in parts."""
    program, tree = trace(functools.partial(run, {}), *unknowns)
    numbers = jax.tree.unflatten(tree, program.outputs)
    parts = parts_of(sites, program, numbers, scanned)
    if parts:
        program, tree = trace(functools.partial(run, parts), *unknowns)
        numbers = jax.tree.unflatten(tree, program.outputs)
    return program, numbers, parts


def _settle(out: dict[str, Any], program: Program, unknowns: Unknowns) -> None:
    """Choose between two forms of a site's value and arguments, now that it is known what they depend on."""
    if out["mask"] is not None and out["mask"] not in program.known:
        out["value"] = out["raw"]  # what counts depends on a latent: the data must be numbers everywhere
    if out["total"] is not None and is_one(program, out["total"], unknowns):
        out["arguments"].update(out["plain"])
    del out["raw"], out["total"], out["plain"]


def _reached(own: Sequence[str], number: int, program: Program, outputs: Mapping[str, Any]) -> list[str]:
    """Other sites that depend on a latent; where there is none, it integrates to one (as half of `obs_mask=` does)."""
    reached = analyse(program, {number: (own[0], (None,) * max(1, len(program.shape(number))))}, kinds=False)
    return [other for other, values in outputs.items()
            if other not in own and any(i in reached for i in jax.tree.leaves(values))]  # fmt: skip


def _meets_itself(own: Sequence[str], number: int, program: Program, outputs: Mapping[str, Any]) -> bool:
    """Whether the arguments of a latent's own distribution depend on it: a step of a walk on the step before."""
    reached = analyse(program, {number: (own[0], (None,) * max(1, len(program.shape(number))))}, kinds=False)
    return any(i in reached for part in own for i in jax.tree.leaves(outputs[part]["arguments"]))


def _is_gaussian(site: Site) -> bool:
    return site.family is not None and site.family.name in ("normal", "multivariate normal")


def _with_role(site: Site, conjugate: bool) -> Site:
    """A continuous latent that other sites depend on: Gaussian, perhaps conjugate, or integrated numerically."""
    return replace(site, role="gaussian" if _is_gaussian(site) else "conjugate" if conjugate else "points")


def _require_something(parameters: Mapping[str, Parameter], samples: Mapping[str, Any], maximize: Any) -> None:
    if not parameters:
        candidates = [n for n, s in samples.items() if not s["is_observed"] and not is_discrete(s["fn"])]
        listed = ", ".join(map(repr, candidates)) or "none: the model has no continuous latent site"
        how = "Name sample sites in maximize=[...] or use maximize='global'."
        if maximize == "global":
            how = "All continuous latents are local to the data, so 'global' names none: name sites in maximize=[...]."
        raise ValueError(f"There is nothing to maximise: the model has no numpyro.param. {how} Candidates: {listed}.")


@with_numbers
def log_density(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], values: Params, flat: Iterable[str],
    augmented: bool,
) -> dict[str, Any]:  # fmt: skip
    """NumPyro's log density of every site at the given values: the outside oracle of the certificate."""
    with numpyro.validation_enabled(False):
        given = jax.tree.map(jnp.asarray, values)  # a NumPy array cannot be indexed by a latent
        seeded = handlers.substitute(handlers.seed(Lenient(model), jax.random.key(0)), data=given)
        found = handlers.trace(seeded).get_trace(*args, **kwargs)
        found = _samples(augment(found, given, augmented).sites)
    total = {}
    for name, site in found.items():
        if name in flat:
            continue
        term = whole_density(site["fn"], site["value"])
        total[name] = jnp.sum(term if site["scale"] is None else term * site["scale"])
    return total
