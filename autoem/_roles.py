"""Which sites are parameters: what `maximize=` names, and what "global" means."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from ._links import Program, analyse, is_concrete
from ._types import Refusal
from ._wrappers import is_discrete, peel

Parents = Mapping[str, frozenset[str]]
"""site -> latents and params on which its distribution (of an observed site its value, too) depends."""


Look = Callable[[Mapping[str, Any], Callable[[Mapping[str, Any]], Any]], tuple[Program, Any]]
"""(values of unknowns by name, what to read off NumPyro's trace) -> a program, and the numbers of what was read."""


def check_names(names: Iterable[str], candidates: Sequence[str], option: str, what: str) -> None:
    """Every name must be one of the candidates.

    Raises:
        ValueError: one is not; the closest candidate is suggested.
    """
    for name in names:
        if name not in candidates:
            close = difflib.get_close_matches(name, candidates, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{option} names {name!r}, which is not {what} of the model.{hint} There are: "
                             f"{', '.join(map(repr, candidates)) or 'none'}.")  # fmt: skip


def chosen_sites(samples: Mapping[str, Any], params: Mapping[str, Any], maximize: Any, look: Look) -> list[str]:
    """Sample sites to be maximised, in the model's order.

    Args:
        samples: the model's sample sites; one inside a scan has "steps".
        params: values of its `numpyro.param` sites.
        maximize: names, "global", or None.
        look: how to trace the model.

    Raises:
        ValueError: unknown names, or a discrete site among them.
    """
    latents = [name for name, site in samples.items() if not site["is_observed"]]
    if maximize == "global":
        names = _global_sites(samples, _parents(samples, params, look))
    elif isinstance(maximize, str):
        raise ValueError(f"maximize={maximize!r}: give a list of site names, or 'global'.")
    else:
        names = list(maximize or ())
        check_names(names, latents, "maximize", "a latent sample site")
    hinted = [n for n in latents if samples[n]["infer"].get("em") == "maximize"]
    chosen = [n for n in latents if n in {*names, *hinted}]
    for name in chosen:
        if is_discrete(samples[name]["fn"]):
            raise ValueError(f"maximize names {name!r}, which is discrete: a discrete latent is summed over.")
    return chosen


def _parents(samples: Mapping[str, Any], params: Mapping[str, Any], look: Look) -> Parents:
    """Of every site; latents inside scans are not looked at as parents."""

    def take(found: Mapping[str, Any]) -> dict[str, Any]:
        sites = {n: s for n, s in found.items() if s["type"] == "sample"}
        parts = {n: [*jax.tree.leaves(s["fn"]), *([s["value"]] if s["is_observed"] else [])] for n, s in sites.items()}
        return {n: [jnp.asarray(a) for a in own if isinstance(a, jax.Array | np.ndarray)] for n, own in parts.items()}

    latents = {n: s["value"] for n, s in samples.items() if not s["is_observed"] and "steps" not in s}
    values = {n: v for n, v in params.items() if jnp.issubdtype(jnp.result_type(v), jnp.floating)} | latents
    program, numbers = look(values, take)
    inputs = {i: (n, (None,) * max(1, len(program.shape(i)))) for n, i in zip(values, program.inputs, strict=True)}
    found = analyse(program, inputs, kinds=False)
    return {n: frozenset(m for i in own if i in found for m in found[i].coordinates) for n, own in numbers.items()}


def computed_supports(found: Mapping[str, Any], chosen: Sequence[str], look: Look) -> dict[str, Any]:
    """Supports of maximised sites whose bounds are computed (from data, or in a scan), as numbers.

    Args:
        found: NumPyro's trace.
        chosen: the maximised sites.
        look: how to trace the model.

    Raises:
        Refusal: they depend on an unknown.
    """
    names = [n for n in chosen if not is_concrete(*jax.tree.leaves(found[n]["fn"].support))]
    if not names:
        return {}
    values = {n: s["value"] for n, s in found.items()
              if s["type"] == "param" or (s["type"] == "sample" and not s["is_observed"])}  # fmt: skip

    def take(again: Mapping[str, Any]) -> dict[str, Any]:
        return {n: [jnp.asarray(a) for a in jax.tree.leaves(again[n]["fn"].support)] for n in names}

    program, numbers = look(values, take)
    for name in names:
        if any(i not in program.known for i in numbers[name]):
            raise Refusal(f"The support of the maximised site {name!r} depends on an unknown: autoem maximises over "
                          "supports whose bounds are numbers.")  # fmt: skip
    kinds = {n: jax.tree.structure(found[n]["fn"].support) for n in names}
    return {n: jax.tree.unflatten(kinds[n], [program.known[i] for i in numbers[n]]) for n in names}


def warn_of_subsamples(found: Mapping[str, Any], look: Look) -> None:
    """Say so where a plate picks some of the data at random: EM sees one choice only.

    Args:
        found: NumPyro's trace.
        look: how to trace the model.
    """
    plates = {n: s for n, s in found.items() if s["type"] == "plate" and s["args"][1] not in (None, s["args"][0])}
    for name, plate in plates.items():
        if is_concrete(plate["value"]):
            continue

        def take(again: Mapping[str, Any]) -> list[Any]:
            sites = [s for s in again.values() if s["type"] == "sample"]
            leaves = [*jax.tree.leaves([s["fn"] for s in sites]), *(s["value"] for s in sites if s["is_observed"])]
            return [jnp.asarray(a) for a in leaves if isinstance(a, jax.Array | np.ndarray)]

        program, _ = look({name: plate["value"]}, take)
        if program.nodes or set(program.inputs) & set(program.outputs):
            size, part = plate["args"]
            warnings.warn(
                f"The plate {name!r} picks {part} of {size} elements at random, and EM sees one such choice, the same "
                "in every step: this fits a part of the data. Leave subsample_size out to fit all of them.",
                stacklevel=2,
            )


def _plates(site: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(frame.name for frame in site["cond_indep_stack"])


def _global_sites(samples: Mapping[str, Any], parents: Parents) -> list[str]:
    """Continuous latents that are not local to the data.

    Local are those that share a plate with the data or with a discrete latent, states of a scan, missing data (their
    own density is masked), and random effects: several values from a density whose own parameters are unknown, which
    nothing discrete meets. The joint maximum of effects and of their scale is where the scale is zero, so those have to
    be integrated.
    """
    unit = {n for n, site in samples.items() if isinstance(peel(site["fn"]).base, dist.Unit)}
    data = {n for n, site in samples.items() if site["is_observed"]}
    discrete = {n for n, site in samples.items() if n not in data and is_discrete(site["fn"])}
    # `numpyro.factor`, by which reparametrisations add Jacobians, is data only where there are no others.
    owners = (data - unit or data) | discrete
    local = frozenset().union(*(_plates(samples[n]) for n in owners))
    inner = frozenset().union(*(_plates(samples[n]) for n in owners if "steps" in samples[n]))
    found = []
    for name, site in samples.items():
        if name in data or name in discrete or any(mask is False for mask, _ in peel(site["fn"]).masks):
            continue
        if "steps" in site:
            # One number a step that all series share: an effect of time, unless it is a Gaussian state.
            state = isinstance(peel(site["fn"]).base, (dist.Normal, dist.MultivariateNormal))
            shared = bool(inner) and not inner.intersection(_plates(site)) and not state
            found += [name] * shared
        elif not local.intersection(_plates(site)) and not _is_random_effect(name, site, parents, discrete):
            found.append(name)
    return found


def _is_random_effect(name: str, site: Mapping[str, Any], parents: Parents, discrete: set[str]) -> bool:
    own = parents.get(name, frozenset()) - discrete - {name}
    meets = [n for n, needed in parents.items() if name in needed and n != name]
    return bool(own) and np.size(site["value"]) > 1 and not any(n in discrete or parents[n] & discrete for n in meets)
