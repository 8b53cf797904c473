"""From a NumPyro model and data to sites, roles and a program: the only file that knows NumPyro's handlers."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer.initialization import init_to_sample
from numpyro.primitives import Messenger

from ._family import AbstractFamily, find_family
from ._links import Program, analyse, is_concrete, trace
from ._types import Key, Params, Refusal

_BERNOULLI = (dist.BernoulliProbs, dist.BernoulliLogits)
_CATEGORICAL = (dist.CategoricalProbs, dist.CategoricalLogits)
_UNIT = dist.Unit


@dataclass(frozen=True)
class Peeled:
    """A distribution without its wrappers: `masks` have trailing unit axes for the axes that `to_event` hid."""

    base: Any
    masks: tuple[Any, ...]
    hidden: int


@dataclass(frozen=True)
class Site:
    """One sample site.

    Attributes:
        name: its name.
        role: "observed", "latent" or "maximised".
        distribution: class name of the distribution, wrappers peeled off.
        family: its exponential family, or None.
        batch_shape: shape of its elements, axes hidden by `to_event` included.
        hidden: how many trailing batch axes `to_event` hides.
        event_ndim: event axes of one element.
        plates: names of its plates.
        support: values of an enumerable latent, shape (K, *event).
        binary: whether a latent is Bernoulli.
    """

    name: str
    role: str
    distribution: str
    family: AbstractFamily | None
    batch_shape: tuple[int, ...]
    hidden: int
    event_ndim: int
    plates: tuple[str, ...]
    support: Any = field(default=None, compare=False)
    binary: bool = False


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
    """

    sites: dict[str, Site]
    parameters: dict[str, Parameter]
    latents: tuple[str, ...]
    program: Program
    inputs: dict[str, int]
    outputs: dict[str, Any]
    unused: tuple[str, ...] = ()


def peel(fn: Any) -> Peeled:
    """Strip Independent, Masked and Expanded, and nothing else: other classes mean something by `base_dist`."""
    masks: list[Any] = []
    hidden = 0
    while isinstance(fn, (dist.Independent, dist.MaskedDistribution, dist.ExpandedDistribution)):
        if isinstance(fn, dist.MaskedDistribution):
            masks.append(jnp.reshape(fn._mask, [*jnp.shape(fn._mask), *([1] * hidden)]))
        elif isinstance(fn, dist.Independent):
            hidden += fn.reinterpreted_batch_ndims
        fn = fn.base_dist
    return Peeled(fn, tuple(masks), hidden)


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
    if site["type"] == "sample" and not site["is_observed"] and not _is_discrete(site["fn"]):
        return init_to_sample(site)
    return None


def _is_discrete(fn: Any) -> bool:
    return bool(getattr(peel(fn).base.support, "is_discrete", False))


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
        if site["is_observed"] or _is_discrete(site["fn"])
        for frame in site["cond_indep_stack"]
    }
    return [
        name
        for name, site in samples.items()
        if not site["is_observed"]
        and not _is_discrete(site["fn"])
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
        if _is_discrete(samples[name]["fn"]):
            raise ValueError(f"maximize names {name!r}, which is discrete: a discrete latent is summed over.")
    return chosen


def read_model(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], maximize: Any, flat: Any
) -> Model:
    """Trace a model on data.

    Args:
        model: any NumPyro model.
        args, kwargs: its arguments; they stay concrete.
        maximize: names of sample sites to treat as parameters, "global", or None.
        flat: names of maximised sites whose prior is ignored, or True for all.

    Raises:
        ValueError: nothing to maximise, unknown names, data that are missing or outside a support.
        Refusal: a latent that cannot be summed over exactly.
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
        name: _read_site(name, site, name in chosen)
        for name, site in samples.items()
        if not (name in flats or site["fn"] is None)
    }
    latents = tuple(name for name, site in sites.items() if site.role == "latent")
    unused = tuple(name for name, site in sites.items() if site.role == "continuous")
    unknowns = {name: p.initial for name, p in parameters.items()}
    summed = {n: samples[n]["value"] for n in (*latents, *unused)}
    unknowns |= {n: jax.ShapeDtypeStruct(jnp.shape(v), jnp.result_type(v)) for n, v in summed.items()}
    order = [*parameters, *latents, *unused]

    def outputs(*values: Any) -> dict[str, Any]:
        with numpyro.validation_enabled(False):
            given = dict(zip(order, values, strict=True))
            seeded = handlers.seed(model, jax.random.key(0))
            again = handlers.trace(handlers.substitute(seeded, data=given)).get_trace(*args, **kwargs)
            return {name: _outputs(sites[name], again[name]) for name in sites}

    program, tree = trace(outputs, *[unknowns[n] for n in order])
    numbers = jax.tree.unflatten(tree, program.outputs)
    inputs = dict(zip(order, program.inputs, strict=True))
    for name in unused:
        _require_unused(sites[name], inputs[name], program, numbers)
        del sites[name]
    for name, site in sites.items():
        if site.role == "observed":
            _check_data(site, peel(samples[name]["fn"]).base, program.known.get(numbers[name]["value"]))
    return Model(sites, parameters, latents, program, inputs, numbers, unused)


def _require_unused(site: Site, number: int, program: Program, outputs: Mapping[str, Any]) -> None:
    """A continuous latent that nothing depends on integrates to one (the unobserved half of `obs_mask=`)."""
    reached = analyse(program, {number: (site.name, (None,) * max(1, len(program.shape(number))))}, kinds=False)
    for name, values in outputs.items():
        if name != site.name and any(i in reached for i in jax.tree.leaves(values)):
            raise Refusal(
                f"Site {site.name!r} ({site.distribution}) is a continuous latent on which {name!r} depends; autoem "
                f"does not integrate those out yet. If it is a parameter, name it: maximize=[{site.name!r}, ...] or "
                "maximize='global'."
            )


def _require_something(parameters: Mapping[str, Parameter], samples: Mapping[str, Any]) -> None:
    if not parameters:
        candidates = [n for n, s in samples.items() if not s["is_observed"] and not _is_discrete(s["fn"])]
        listed = ", ".join(map(repr, candidates)) or "none: the model has no continuous latent site"
        raise ValueError(
            "There is nothing to maximise: the model has no numpyro.param. Name sample sites in maximize=[...] "
            f"or use maximize='global'. Candidates: {listed}."
        )


def _read_site(name: str, site: Mapping[str, Any], maximised: bool) -> Site:
    fn = site["fn"]
    peeled = peel(fn)
    base = peeled.base
    event_ndim = base.event_dim
    shape = jnp.shape(site["value"])
    if isinstance(base, _UNIT):
        batch_shape = tuple(int(n) for n in jnp.broadcast_shapes(shape[:-1], fn.batch_shape, base.batch_shape))
    else:
        batch_shape = tuple(int(n) for n in jnp.broadcast_shapes(shape[: len(shape) - event_ndim], base.batch_shape))
    role = "maximised" if maximised else "observed" if site["is_observed"] else "latent"
    if role == "latent" and not _is_discrete(base) and "_scan_current_index" not in site["infer"]:
        role = "continuous"
    support = _support(name, site, base) if role == "latent" else None
    return Site(
        name,
        role,
        type(base).__name__.removesuffix("Probs").removesuffix("Logits"),
        find_family(base),
        batch_shape,
        peeled.hidden,
        event_ndim,
        tuple(frame.name for frame in site["cond_indep_stack"]),
        support,
        isinstance(base, _BERNOULLI),
    )


def _support(name: str, site: Mapping[str, Any], base: Any) -> np.ndarray:
    """Values of an enumerable latent, (K, *event). NumPyro's own enumeration ignores where a support starts."""
    kind = type(base).__name__
    if "_scan_current_index" in site["infer"]:
        raise Refusal(f"Site {name!r} is a latent inside a scan: autoem does not derive chains yet.")
    if isinstance(base, _BERNOULLI):
        return np.arange(2)
    if isinstance(base, _CATEGORICAL):
        logits = base.__dict__.get("probs", base.__dict__.get("logits"))
        return np.arange(jnp.shape(logits)[-1])
    if isinstance(base, (dist.BinomialProbs, dist.BinomialLogits)) and is_concrete(base.total_count):
        return np.arange(int(np.max(base.total_count)) + 1)
    if not base.has_enumerate_support or base.event_dim:
        raise Refusal(
            f"Site {name!r} ({kind}) cannot be enumerated: its support is not a finite set of numbers. autoem sums "
            "over finite discrete latents only."
        )
    try:
        with jax.ensure_compile_time_eval():
            support = np.asarray(base.enumerate_support(expand=False))
        return support.reshape(support.shape[0], *base.event_shape)
    except (NotImplementedError, ValueError, TypeError, jax.errors.JAXTypeError) as error:
        raise Refusal(f"Site {name!r} ({kind}) cannot be enumerated: {error}") from error


def _check_data(site: Site, base: Any, value: Any) -> None:
    """Observed values must be numbers inside the support (those masked out were replaced before)."""
    if value is None or isinstance(base, _UNIT) or not is_concrete(value):
        return
    value = np.asarray(value)
    finite = np.isfinite(value)
    finite = finite.all(tuple(range(finite.ndim - site.event_ndim, finite.ndim)))
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(
            f"The data of site {site.name!r} hold NaN or infinite values ({int((~finite).sum())}; the first at index "
            f"{where}). Mark missing values with obs_mask= or handlers.mask, or impute them by a latent."
        )
    try:
        inside = np.asarray(base.support(value))
    except (
        NotImplementedError,
        TypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerBoolConversionError,
    ):
        return  # a support that depends on parameters is the log density's own business
    if not inside.all():
        where = tuple(int(i) for i in np.argwhere(~inside)[0])
        shown = np.broadcast_to(value, (*inside.shape, *value.shape[value.ndim - site.event_ndim :]))[where]
        raise ValueError(
            f"The data of site {site.name!r} lie outside the support of {site.distribution} "
            f"({int((~inside).sum())} values; the first at index {where} is {shown})."
        )


def _outputs(site: Site, again: Mapping[str, Any]) -> dict[str, Any]:
    """The values of interest at one site, as functions of the unknowns."""
    peeled = peel(again["fn"])
    base, value = peeled.base, again["value"]
    mask: Any = None
    for m in peeled.masks:
        mask = m if mask is None else mask & m
    scale = again["scale"]
    if scale is not None:
        scale = jnp.reshape(scale, [*jnp.shape(scale), *([1] * (site.hidden if jnp.ndim(scale) else 0))])
    if mask is not None and site.role == "observed" and not isinstance(base, _UNIT):
        keep = jnp.reshape(mask, [*jnp.shape(mask), *([1] * site.event_ndim)])
        value = jnp.where(keep, value, base.support.feasible_like(jnp.asarray(value)))
    arguments = {}
    if site.family is not None:
        for name in site.family.argument_ndims:
            arguments[name] = jnp.asarray(getattr(base, name))
    log_prob = base.log_prob(value)
    support = inspect.getattr_static(type(base), "support", None)
    if support is None or isinstance(support, property):
        # The support depends on arguments: outside of it the density is zero, which log_prob leaves to validation.
        inside: Any = base.support
        log_prob = jnp.where(inside(value), log_prob, -jnp.inf)
    return {"value": jnp.asarray(value), "log_prob": log_prob, "mask": mask, "scale": scale,
            "arguments": arguments}  # fmt: skip


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
