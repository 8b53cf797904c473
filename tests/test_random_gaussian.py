"""Random linear-Gaussian models against dense algebra in NumPy: the joint Gaussian written down from scratch.

A model has several latents, in plates, in events or alone, with means and scales of their own; sites whose location is
an offset plus a sum of latents, gathered by random indices (nested ones too), times data or times parameters; masks,
weights and scales, tied or known. The oracle holds the covariance of everything and conditions.
"""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro.distributions import constraints

import autoem

KEY = jax.random.PRNGKey(0)


class Latent(NamedTuple):
    """`size` elements of `width` coordinates each; `parent` (with the index of each element's own) centres it."""

    name: str
    size: int
    width: int
    full: bool
    parent: int | None
    index: np.ndarray | None
    centred: bool


class Term(NamedTuple):
    """coefficient (data (n,), or a parameter's name) times latent[index, coordinate]."""

    latent: int
    index: np.ndarray
    coordinate: int
    data: np.ndarray | None
    loading: str | None


class Observed(NamedTuple):
    """One site of n rows."""

    name: str
    terms: list[Term]
    design: np.ndarray
    y: np.ndarray
    mask: np.ndarray | None
    scale: str
    known: np.ndarray | None


class Spec(NamedTuple):
    latents: list[Latent]
    sites: list[Observed]
    params: dict[str, np.ndarray]


def generate(seed: int) -> Spec:
    rng = np.random.default_rng(seed)
    params: dict[str, Any] = {}
    latents: list[Latent] = []
    for i in range(rng.integers(1, 4)):
        width = int(rng.integers(1, 3))
        candidates = [j for j, l in enumerate(latents) if l.width == width]
        parent = int(rng.choice(candidates)) if candidates and rng.random() < 0.4 else None
        size = int(rng.integers(1, 6))
        index = None if parent is None else rng.integers(latents[parent].size, size=size)
        full = width > 1 and rng.random() < 0.6
        latents.append(Latent(f"u{i}", size, width, full, parent, index, bool(rng.random() < 0.7)))
        params[f"mean{i}"] = rng.normal(size=width)
        root = np.tril(rng.normal(size=(width, width)) * 0.4) + np.eye(width)
        params[f"cov{i}"] = root @ root.T if full else rng.uniform(0.4, 1.5, width)
    sites = []
    for s in range(rng.integers(1, 3)):
        n = int(rng.integers(4, 16))
        terms = []
        for t in range(rng.integers(1, 4)):
            which = int(rng.integers(len(latents)))
            latent = latents[which]
            coordinate = int(rng.integers(latent.width))
            index = rng.integers(latent.size, size=n)
            kind = rng.integers(3)
            loading = f"w{s}{t}" if kind == 2 else None
            if loading:
                params[loading] = np.asarray(rng.normal() + 1.0)
            terms.append(Term(which, index, coordinate, rng.normal(size=n) if kind == 1 else None, loading))
        p = int(rng.integers(1, 3))
        design = np.concatenate([np.ones((n, 1)), rng.normal(size=(n, p - 1))], 1)
        params[f"b{s}"] = rng.normal(size=p)
        tied = s > 0 and rng.random() < 0.4
        scale = "s0" if tied else f"s{s}"
        params.setdefault(scale, np.asarray(rng.uniform(0.3, 1.2)))
        mask = rng.random(n) < 0.8 if rng.random() < 0.4 else None
        known = rng.uniform(0.5, 2.0, n) if rng.random() < 0.4 else None
        y = 3 * rng.normal() + 2 * rng.normal(size=n)
        sites.append(Observed(f"y{s}", terms, design, y, mask, scale, known))
    return Spec(latents, sites, params)


def model(spec: Spec) -> None:
    value = {}
    for name, start in spec.params.items():
        positive = name.startswith("s") or (name.startswith("cov") and np.ndim(start) == 1)
        constraint = constraints.positive if positive else constraints.real
        constraint = constraints.positive_definite if np.ndim(start) == 2 else constraint
        value[name] = numpyro.param(name, jnp.asarray(start), constraint=constraint)
    drawn = []
    for i, latent in enumerate(spec.latents):
        mean, cov = value[f"mean{i}"], value[f"cov{i}"]
        above = 0.0 if latent.parent is None else drawn[latent.parent][latent.index]
        with numpyro.plate(f"{latent.name}s", latent.size):
            if latent.full:
                u = numpyro.sample(latent.name, dist.MultivariateNormal(mean + above, cov))
            elif latent.centred:
                u = numpyro.sample(latent.name, dist.Normal(mean + above, cov).to_event(1))
            else:
                u = (
                    mean
                    + above
                    + cov * numpyro.sample(latent.name, dist.Normal(jnp.zeros(latent.width), 1.0).to_event(1))
                )
        drawn.append(u)
    for s, site in enumerate(spec.sites):
        mean = site.design @ value[f"b{s}"]
        for term in site.terms:
            part = drawn[term.latent][term.index, term.coordinate]
            part = part if term.data is None else part * term.data
            mean = mean + (part if term.loading is None else part * value[term.loading])
        scale = value[site.scale] if site.known is None else value[site.scale] * site.known
        with numpyro.plate(f"rows{s}", len(site.y)):
            fn = dist.Normal(mean, scale)
            numpyro.sample(site.name, fn if site.mask is None else fn.mask(site.mask), obs=site.y)


def dense(spec: Spec, params: dict[str, Any]) -> Any:
    """(log-likelihood, posterior means by latent, posterior variances by latent), from one joint Gaussian."""
    sizes = [l.size * l.width for l in spec.latents]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    total = starts[-1]
    # Raw draws: every latent is mean + above + root ε, as a linear map of all ε.
    maps, means = [], []
    for i, latent in enumerate(spec.latents):
        cov = np.asarray(params[f"cov{i}"])
        root = np.linalg.cholesky(cov) if latent.full else np.diag(cov)
        own = np.zeros((latent.size, latent.width, total))
        for e in range(latent.size):
            at = starts[i] + e * latent.width
            own[e, :, at : at + latent.width] = root
        mean = np.broadcast_to(params[f"mean{i}"], (latent.size, latent.width)).copy()
        if latent.parent is not None:
            own += maps[latent.parent][latent.index]
            mean += means[latent.parent][latent.index]
        maps.append(own)
        means.append(mean)
    rows, centre, noise, data = [], [], [], []
    for s, site in enumerate(spec.sites):
        live = np.ones(len(site.y), bool) if site.mask is None else site.mask
        mean, row = site.design @ params[f"b{s}"], np.zeros((len(site.y), total))
        for term in site.terms:
            c = np.ones(len(site.y)) if term.data is None else term.data
            c = c * (1.0 if term.loading is None else float(params[term.loading]))
            mean = mean + c * means[term.latent][term.index, term.coordinate]
            row = row + c[:, None] * maps[term.latent][term.index, term.coordinate]
        scale = np.full(len(site.y), float(params[site.scale])) * (1.0 if site.known is None else site.known)
        rows.append(row[live]), centre.append(mean[live]), noise.append(scale[live] ** 2), data.append(site.y[live])
    big, left = np.concatenate(rows), np.concatenate(data) - np.concatenate(centre)
    covariance = big @ big.T + np.diag(np.concatenate(noise))
    sign, log_det = np.linalg.slogdet(covariance)
    assert sign > 0
    value = -0.5 * (left @ np.linalg.solve(covariance, left) + log_det + len(left) * np.log(2 * np.pi))
    gain = np.linalg.solve(covariance, big)
    mean, spread = gain.T @ left, np.eye(total) - big.T @ gain
    posterior_means, posterior_variances = {}, {}
    for i, latent in enumerate(spec.latents):
        if not latent.full and not latent.centred:
            own, centre_of = np.zeros_like(maps[i]), 0.0
            for e in range(latent.size):
                at = starts[i] + e * latent.width
                own[e, :, at : at + latent.width] = np.eye(latent.width)
        else:
            own, centre_of = maps[i], means[i]
        posterior_means[latent.name] = centre_of + own @ mean
        posterior_variances[latent.name] = np.einsum("ewi,ij,ewj->ew", own, spread, own)
    return value, posterior_means, posterior_variances


def check(seed: int, thorough: bool) -> None:
    spec = generate(seed)
    em = autoem.EM(lambda: model(spec))
    derivation = em.derive()
    assert derivation.exact
    params = {n: jnp.asarray(v) for n, v in spec.params.items()}
    value, means, variances = dense(spec, spec.params)
    assert_allclose(em.log_likelihood(params), value, rtol=1e-9, err_msg=str(seed))
    posterior = em.posterior(params)
    for name in means:
        if name in posterior:
            found = np.asarray(posterior[name].mean)
            there = np.isfinite(found)
            assert_allclose(found[there], means[name][there], rtol=1e-6, atol=1e-8, err_msg=f"{seed} {name}")
            spread = np.asarray(posterior[name].variance)
            assert_allclose(spread[there], variances[name][there], rtol=1e-6, atol=1e-8, err_msg=f"{seed} {name}")
    if not thorough:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = em.run(KEY, 3_000, progress_bar=False)
    if result.status is autoem.Status.DEGENERATE:
        return  # too few rows for the coefficients: a scale shrinks onto its floor
    drop = np.diff(np.asarray(result.objective))
    assert drop.min(initial=0.0) > -1e-8 * max(1.0, abs(value)), (seed, drop.min())
    found = {n: np.asarray(v) for n, v in result.params.items()}
    fitted = dense(spec, found)[0]
    assert_allclose(em.log_likelihood(result.params), fitted, rtol=1e-6, err_msg=str(seed))
    assert fitted >= value - 1e-8 * abs(value)
    smallest = min(np.min(v) for n, v in found.items() if n.startswith("s"))
    inside = all(np.min(v if np.ndim(v) == 1 else np.linalg.eigvalsh(v)) > 1e-3 for n, v in found.items()
                 if n.startswith("cov"))  # fmt: skip
    if result.converged and inside and smallest > 1e-2:
        for name, v in found.items():  # stationary: central differences of the oracle
            if np.ndim(v) == 2:
                continue
            for at in np.ndindex(v.shape):
                step = np.zeros(v.shape)
                step[at] = 1e-4
                up, down = (dense(spec, {**found, name: v + d * step})[0] for d in (1, -1))
                assert abs(up - down) / 2e-4 < 2e-2, (seed, name, at, (up - down) / 2e-4)


@pytest.mark.parametrize("seed", [3, 7, 11])  # in the first two a mask takes all that a coefficient multiplies
def test_random_models_agree_with_dense_algebra(seed):
    check(seed, False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 220))
def test_random_fits_are_stationary_points_of_the_dense_likelihood(seed):
    check(seed, True)
