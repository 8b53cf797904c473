"""From a NumPyro model and data to sites, roles and a program: the only file that knows NumPyro's handlers."""

from __future__ import annotations

import difflib
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

from ._links import Program, analyse, trace
from ._sites import Site, check_data, is_discrete, peel, read_site, site_outputs
from ._types import Key, Params


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
        sites: sample sites in order, flat priors left out.
        parameters: what is maximised, in order.
        latents: names of the discrete latents, in order.
        program: inputs are the parameters, then the latents.
        inputs: input number of every unknown.
        outputs: site -> {"value", "log_prob", "mask", "scale", "arguments"} as value numbers.
        unused: continuous latents that nothing depends on; they integrate to one.
        gaussians: names of the Gaussian latents, in order.
        points: continuous latents that are integrated numerically, in order, and why no exact engine takes them.
    """

    sites: dict[str, Site]
    parameters: dict[str, Parameter]
    latents: tuple[str, ...]
    program: Program
    inputs: dict[str, int]
    outputs: dict[str, Any]
    unused: tuple[str, ...] = ()
    gaussians: tuple[str, ...] = ()
    points: Mapping[str, str] = field(default_factory=dict)


def _run(model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], key: Key) -> dict[str, Any]:
    """One run of the model as NumPyro would start it: sites are drawn, improper ones started uniformly."""
    seeded = handlers.substitute(_AsArrays(handlers.seed(model, key)), substitute_fn=_start)
    return handlers.trace(seeded).get_trace(*args, **kwargs)


class _AsArrays(Messenger):
    """Param values as JAX arrays, as under NumPyro's inference: a NumPy initial value can be indexed by a latent."""

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        """Convert a param's value once it is there."""
        if msg["type"] == "param":
            msg["value"] = jax.tree.map(jnp.asarray, msg["value"])


def _outline(model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The sites of one abstract run: shapes and classes, no numbers (nothing is compiled)."""
    found: dict[str, Any] = {}
    with numpyro.validation_enabled(False):
        jax.eval_shape(lambda: found.update(_run(model, args, kwargs, jax.random.key(0))))
    return found


def _like(value: Any) -> jax.ShapeDtypeStruct:
    """An unknown is a float of JAX's default precision, whatever its starting value: EM's steps can be tiny."""
    return jax.ShapeDtypeStruct(jnp.shape(value), jnp.result_type(float))


def _start(site: Mapping[str, Any]) -> Any:
    if site["type"] == "sample" and not site["is_observed"] and not is_discrete(site["fn"]):
        return init_to_sample(site)
    return None


def _samples(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: site for name, site in found.items() if site["type"] == "sample"}


def initial_values(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], keys: Sequence[Key], names: Iterable[str]
) -> list[tuple[Params, Key]]:
    """Per key, starting values (a param's own initialiser, a site's prior draw) and a key that is left."""

    def start(key: Key) -> tuple[Params, Key]:
        key, left = jax.random.split(key)
        with numpyro.validation_enabled(False):
            found = _run(model, args, kwargs, key)
        return {name: jnp.asarray(found[name]["value"], _like(found[name]["value"]).dtype) for name in names}, left

    compiled = jax.jit(start)
    return [compiled(key) for key in keys]


def _check_names(names: Iterable[str], candidates: Sequence[str], option: str, what: str) -> None:
    for name in names:
        if name not in candidates:
            close = difflib.get_close_matches(name, candidates, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{option} names {name!r}, which is not {what} of the model.{hint} There are: "
                             f"{', '.join(map(repr, candidates)) or 'none'}.")  # fmt: skip


def _global_sites(samples: Mapping[str, Any]) -> list[str]:
    """Continuous latents that share no plate with the data or with an unobserved discrete variable."""
    local = {
        frame.name
        for site in samples.values()
        if site["is_observed"] or is_discrete(site["fn"])
        for frame in site["cond_indep_stack"]
    }
    return [
        name
        for name, site in samples.items()
        if not site["is_observed"]
        and not is_discrete(site["fn"])
        and not local.intersection(f.name for f in site["cond_indep_stack"])
    ]


def _chosen(samples: Mapping[str, Any], maximize: Any) -> list[str]:
    latents = [name for name, site in samples.items() if not site["is_observed"]]
    if maximize == "global":
        names = _global_sites(samples)
    elif isinstance(maximize, str):
        raise ValueError(f"maximize={maximize!r}: give a list of site names, or 'global'.")
    else:
        names = list(maximize or ())
        _check_names(names, latents, "maximize", "a latent sample site")
    hinted = [n for n in latents if samples[n]["infer"].get("em") == "maximize"]
    chosen = [n for n in latents if n in {*names, *hinted}]
    for name in chosen:
        if is_discrete(samples[name]["fn"]):
            raise ValueError(f"maximize names {name!r}, which is discrete: a discrete latent is summed over.")
    return chosen


def read_model(
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    maximize: Any,
    flat: Any,
    leaves: bool = False,
) -> Model:
    """Trace a model on data.

    Args:
        model: any NumPyro model.
        args, kwargs: its arguments; they stay concrete.
        maximize: names of sample sites to treat as parameters, "global", or None.
        flat: names of maximised sites whose prior is ignored, or True for all.
        leaves: keep Gaussian latents that nothing depends on, for their posterior; for a fit they integrate to one.

    Raises:
        ValueError: nothing to maximise, unknown names, data that are missing or outside a support.
        Refusal: a discrete latent whose values cannot be listed.
    """
    found = _outline(model, args, kwargs)
    samples = _samples(found)
    chosen = _chosen(samples, maximize)
    flats = chosen if flat is True else list(flat or ())
    _check_names(flats, chosen, "flat", "a maximised sample site")
    parameters = {
        name: Parameter(name, site["kwargs"].get("constraint", constraints.real), _like(site["value"]))
        for name, site in found.items()
        if site["type"] == "param"
    }
    for name in chosen:
        support = samples[name]["fn"].support
        parameters[name] = Parameter(name, support, _like(samples[name]["value"]), True, name in flats)
    _require_something(parameters, samples)
    sites = {
        name: read_site(name, site, name in chosen)
        for name, site in samples.items()
        if not (name in flats or site["fn"] is None)
    }
    latents = tuple(name for name, site in sites.items() if site.role == "latent")
    continuous = tuple(name for name, site in sites.items() if site.role == "continuous")
    unknowns = {name: p.initial for name, p in parameters.items()}
    summed = {n: samples[n]["value"] for n in (*latents, *continuous)}
    unknowns |= {n: jax.ShapeDtypeStruct(jnp.shape(v), jnp.result_type(v)) for n, v in summed.items()}
    order = [*parameters, *latents, *continuous]

    def outputs(*values: Any) -> dict[str, Any]:
        with numpyro.validation_enabled(False):
            given = dict(zip(order, values, strict=True))
            seeded = handlers.seed(model, jax.random.key(0))
            again = handlers.trace(handlers.substitute(seeded, data=given)).get_trace(*args, **kwargs)
            return {name: site_outputs(sites[name], again[name]) for name in sites}

    program, tree = trace(outputs, *[unknowns[n] for n in order])
    numbers = jax.tree.unflatten(tree, program.outputs)
    inputs = dict(zip(order, program.inputs, strict=True))
    kept = {n for n in continuous if leaves and _is_gaussian(sites[n]) and numbers[n]["mask"] is None}
    unused = tuple(n for n in continuous if n not in kept and not _reached(n, inputs[n], program, numbers))
    for name in continuous:
        if name in unused:
            del sites[name]
        else:
            sites[name] = _with_role(sites[name])
    gaussians = tuple(n for n in continuous if n not in unused and sites[n].role == "gaussian")
    points = {n: f"{sites[n].distribution} is not Gaussian" for n in continuous if n not in (*unused, *gaussians)}
    for name, site in sites.items():
        if site.role == "observed":
            check_data(site, peel(samples[name]["fn"]).base, program.known.get(numbers[name]["value"]))
    return Model(sites, parameters, latents, program, inputs, numbers, unused, gaussians, points)


def _reached(name: str, number: int, program: Program, outputs: Mapping[str, Any]) -> list[str]:
    """Other sites that depend on a latent; where there is none, it integrates to one (as half of `obs_mask=` does)."""
    reached = analyse(program, {number: (name, (None,) * max(1, len(program.shape(number))))}, kinds=False)
    return [other for other, values in outputs.items()
            if other != name and any(i in reached for i in jax.tree.leaves(values))]  # fmt: skip


def _is_gaussian(site: Site) -> bool:
    return site.family is not None and site.family.name in ("normal", "multivariate normal")


def _with_role(site: Site) -> Site:
    """A continuous latent that other sites depend on: Gaussian, or integrated numerically."""
    return replace(site, role="gaussian" if _is_gaussian(site) else "points")


def _require_something(parameters: Mapping[str, Parameter], samples: Mapping[str, Any]) -> None:
    if not parameters:
        candidates = [n for n, s in samples.items() if not s["is_observed"] and not is_discrete(s["fn"])]
        listed = ", ".join(map(repr, candidates)) or "none: the model has no continuous latent site"
        raise ValueError(
            "There is nothing to maximise: the model has no numpyro.param. Name sample sites in maximize=[...] "
            f"or use maximize='global'. Candidates: {listed}."
        )


def log_density(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], values: Params, flat: Iterable[str]
) -> dict[str, Any]:
    """NumPyro's own log density of every site at the given values: the outside oracle of the certificate."""
    with numpyro.validation_enabled(False):
        seeded = handlers.substitute(handlers.seed(model, jax.random.key(0)), data=values)
        found = _samples(handlers.trace(seeded).get_trace(*args, **kwargs))
    total = {}
    for name, site in found.items():
        if name in flat:
            continue
        term = site["fn"].log_prob(site["value"])
        total[name] = jnp.sum(term if site["scale"] is None else term * site["scale"])
    return total
