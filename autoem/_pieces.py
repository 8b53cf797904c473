"""Sites of scans over all steps; one whose first steps differ from the others falls into parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax

from ._links import Program, seams
from ._sites import Site
from ._unsummed import Term, as_site


def whole(site: Site, steps: int | None) -> Site:
    """A site of a scan over all steps."""
    return site if steps is None else replace(site, batch_shape=(steps, *site.batch_shape))


def pieces(site: Site, spans: Mapping[str, tuple[int, int]], terms: Sequence[Term]) -> dict[str, Site]:
    """A site as it is, or what it was taken apart into."""
    if terms:
        return {t.name: as_site(site, t) for t in terms}
    return {part: _part(site, part, *span) for part, span in spans.items()} or {site.name: site}


def _part(site: Site, name: str, start: int, stop: int) -> Site:
    """Some steps of a site."""
    return replace(site, name=name, batch_shape=(stop - start, *site.batch_shape[1:]))


def cut(outputs: Any, start: int, stop: int) -> Any:
    """A site's outputs at some steps."""
    return jax.tree.map(lambda a: jax.lax.slice_in_dim(a, start, stop), outputs)


def parts_of(
    sites: Mapping[str, Site], program: Program, numbers: Mapping[str, Any], scanned: set[str]
) -> dict[str, dict[str, tuple[int, int]]]:
    """Sites of scans whose first steps differ from the others: name of each part -> its steps."""
    found = seams(program)
    result: dict[str, dict[str, tuple[int, int]]] = {}
    for name, site in sites.items():
        seam = max((found.get(i, 0) for i in jax.tree.leaves(numbers[name])), default=0)
        if name in scanned and seam and site.role != "maximised":
            length = site.batch_shape[0]
            result[name] = {f"{name}[{t}]": (t, t + 1) for t in range(min(seam, length))}
            if length > seam:
                result[name][f"{name}[{seam}:]"] = (seam, length)
    return result
