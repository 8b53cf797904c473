"""Brute force: the truth about a small NumPyro model with discrete latents.

NumPy, JAX and NumPyro only; nothing of autoem. Every joint assignment of the latent elements is put into the
model by `handlers.substitute`, NumPyro's own log densities are evaluated, and the sum is taken.

A model of many independent data would have too many joint assignments, so latent elements are first split into
groups that share no factor. That split is found by flipping one element at a time and watching which entries of
the log densities move, at several random places, and is then verified: at random joint assignments the sum over
groups must reproduce the model's density, entry by entry. Where all elements together have few joint assignments,
or with `split=False`, they are enumerated jointly; `test_oracle.py` holds both ways equal.

NumPyro's log densities are taken as they are but for two things: `jax.scipy.special.betaln`, which errs by up to
2e-5 in Beta and negative binomial densities, is replaced by three `gammaln`; and in a Dirichlet or Beta density
0 log 0 = 0, where NumPyro has NaN.

What the sum means is the contract in api.md:

* a latent element that is masked out has total weight 1 (its sum is divided by the size of its support), unless
  its value is imputed into an observed site;
* a scale (subsampled plate, `handlers.scale`) that the latents share multiplies the group's log evidence from
  outside; a scale that only the observations have stays inside, relative to the latents' scale;
* a support is what the distribution says, so `DiscreteUniform(2, 4)` is 2, 3, 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unittest import mock

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
import scipy.special  # noqa: E402
from jax.flatten_util import ravel_pytree  # noqa: E402
from jax.scipy.special import gammaln, xlogy  # noqa: E402
from numpyro import handlers  # noqa: E402
from numpyro.distributions import biject_to, conjugate, constraints, continuous  # noqa: E402

JOINTLY = 1024  # so many joint assignments are summed without looking for groups


class TooLarge(Exception):
    """More joint assignments than the cap allows."""


@dataclass(frozen=True)
class Latent:
    """One latent site: the shape of its value, its support, and which elements are masked out."""

    shape: tuple[int, ...]
    dtype: Any
    support: np.ndarray
    masked: np.ndarray
    scale: np.ndarray


class Oracle:
    """Exact answers for `model(*args, **kwargs)`.

    `params` holds a value for every `numpyro.param` and for every sample site that is to be maximised: a sample
    site is a parameter exactly when it is named there. `flat` names those whose prior does not count (or True).
    """

    def __init__(self, model, args=(), kwargs=None, *, params, flat=(), split=True, cap=20_000):
        self.model, self.args, self.kwargs = model, tuple(args), dict(kwargs or {})
        self.params = as_params(params)
        self.cap = cap
        facts = jax.device_get(jax.jit(self._describe)(self.params))
        self.maximized = [name for name in self._sites if name in self.params]
        self.flat = list(self.maximized) if flat is True else list(flat or ())
        self._scales = {name: fact["scale"] for name, fact in facts.items()}
        hidden = [name for name in self._sites if not self._is_observed[name] and name not in self.params]
        self.latents = {name: self._latent(name, **facts[name]) for name in hidden}
        self._factors = [name for name in self._sites if name not in self.maximized]
        self._observed = [name for name in self._sites if self._is_observed[name]]
        self._unconstrain = jax.jit(lambda params: {n: t.inv(params[n]) for n, t in self._transforms().items()})
        self._constrain = jax.jit(lambda free: {n: t(free[n]) for n, t in self._transforms().items()})
        self._chunk = jax.jit(jax.vmap(self._everything, in_axes=(None, 0)))
        self._find_imputed()
        self._group(split)

    # -- the model at one assignment ----------------------------------------------------------------------

    def _trace(self, params, latents):
        model = handlers.substitute(handlers.seed(self.model, jax.random.PRNGKey(0)), data={**params, **latents})
        return handlers.trace(model).get_trace(*self.args, **self.kwargs)

    def _describe(self, params):
        """Scale, mask and support of every sample site; run under `jit`, since op by op it would be slow."""
        trace = self._trace(params, {})
        unknown = set(self.params) - set(trace)
        if unknown:
            raise KeyError(f"no such site: {sorted(unknown)}")
        sites = {name: site for name, site in trace.items() if site["type"] == "sample"}
        self._sites = list(sites)
        self._is_observed = {name: site["is_observed"] for name, site in sites.items()}
        self._kind = {name: (np.shape(site["value"]), jnp.result_type(site["value"])) for name, site in sites.items()}
        self._shapes = {name: np.shape(site["fn"].log_prob(site["value"])) for name, site in sites.items()}
        facts = {}
        for name, site in sites.items():
            shape = np.shape(site["value"])
            facts[name] = {"scale": jnp.asarray(1.0 if site["scale"] is None else site["scale"], float)}
            if not site["is_observed"] and name not in self.params:
                facts[name]["spread"] = jnp.broadcast_to(_to_value(facts[name]["scale"], site["fn"]), shape)
                facts[name]["keep"] = jnp.broadcast_to(_mask(site["fn"]), shape)
                facts[name]["ends"] = _support(site["fn"], name)
        return facts

    def _transforms(self):
        trace = self._trace(self.params, {})
        return {name: biject_to(_constraint(trace[name])) for name in self.params}

    def _everything(self, params, latents):
        """Of every factor the log density entry by entry, without its scale; the log prior; the observed values."""
        trace = self._trace(params, latents)
        with (
            mock.patch.object(continuous, "betaln", betaln),
            mock.patch.object(conjugate, "betaln", betaln),
            mock.patch.object(dist.Dirichlet, "log_prob", _dirichlet_log_prob),
        ):
            log_probs = {name: jnp.asarray(trace[name]["fn"].log_prob(trace[name]["value"])) for name in self._sites}
        prior = sum(jnp.sum(log_probs[name]) for name in self.maximized if name not in self.flat)
        values = {name: jnp.asarray(trace[name]["value"]) for name in self._observed}
        return {name: log_probs[name] for name in self._factors}, jnp.asarray(prior, float), values

    def _evaluate(self, params, batch, size=64):
        """`_everything` at many assignments, in chunks of one size: the model is compiled once."""
        count = len(batch[""])
        out = []
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)
            chunk = self._chunk(params, {name: value[rows] for name, value in batch.items()})
            out.append(jax.tree.map(lambda leaf: np.asarray(leaf)[: min(size, count - start)], chunk))  # noqa: B023
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *out)

    def _log_probs(self, params, batch):
        return self._evaluate(params, batch)[0]

    def _latent(self, name, scale, spread, keep, ends):
        low, high = (int(end) for end in ends)
        return Latent(*self._kind[name], np.arange(low, high + 1), ~keep, spread)

    def _find_imputed(self):
        """Latents whose value is written into an observed site: that value moves with the latent."""
        self.imputed = set()
        for name, latent in self.latents.items():
            full = [{(name, i): value for i in range(int(np.prod(latent.shape)))} for value in latent.support]
            for value in self._evaluate(self.params, self._batch(full))[2].values():
                same = np.equal(value, value[:1]) | (value != value)
                if not same.all():
                    self.imputed.add(name)

    # -- which latent elements belong together ------------------------------------------------------------

    def _group(self, split):
        self._elements = [(name, i) for name, latent in self.latents.items() for i in range(int(np.prod(latent.shape)))]
        number = {element: e for e, element in enumerate(self._elements)}
        shapes = {name: self._shapes[name] for name in self._factors}
        touched = {name: np.zeros((len(self._elements), int(np.prod(shape))), bool) for name, shape in shapes.items()}
        rng = np.random.default_rng(1)
        total = np.prod([float(len(self.latents[name].support)) for name, _ in self._elements])
        alike = len({scale for latent in self.latents.values() for scale in latent.scale.reshape(-1).tolist()}) < 2
        if not split or (alike and total <= JOINTLY):
            for matrix in touched.values():
                matrix[:] = True
            return self._partition(False, touched, shapes)
        every = range(max(len(latent.support) for latent in self.latents.values()))
        places = [lambda z, k=k: z.support[k % len(z.support)] for k in every]
        for more in (6, 12, 24, 48):  # a dependence may show at some values of the other elements only
            places += [lambda z: rng.choice(z.support)] * more
            self._flip(number, touched, rng, places)
            self._partition(True, touched, shapes)
            if self._is_verified(rng):
                return
            places = []
        raise AssertionError("the oracle could not split the latents into groups")

    def _flip(self, number, touched, rng, places):
        """Mark which entries of which factor move when one element does; the others are as `places` say."""
        for place in places:
            params = self._jitter(rng)
            base = {element: place(self.latents[element[0]]) for element in self._elements}
            flips, which = [base], []
            for element in self._elements:
                for value in self.latents[element[0]].support:
                    if value != base[element]:
                        flips.append({**base, element: value})
                        which.append(number[element])
            log_probs = self._log_probs(params, self._batch(flips))
            for name, value in log_probs.items():
                value = np.asarray(value).reshape(len(flips), -1)
                np.logical_or.at(touched[name], which, _differs(value[1:], value[0]))

    def _partition(self, split, touched, shapes):
        group = np.arange(len(self._elements)) if split else np.zeros(len(self._elements), int)
        for matrix in touched.values():
            for column in np.unique(matrix.T, axis=0) if matrix.size else ():
                (members,) = np.nonzero(column)
                if len(members) > 1:
                    merged = np.isin(group, group[members])
                    group[merged] = group[merged].min()
        _, group = np.unique(group, return_inverse=True)
        count = int(group.max()) + 1 if len(group) else 0
        self._owner = {name: np.full(shapes[name], -1) for name in shapes}
        for name, matrix in touched.items():
            if matrix.size:
                owner = self._owner[name].reshape(-1)
                owner[matrix.any(0)] = group[matrix.argmax(0)[matrix.any(0)]]

        self._members = [[self._elements[e] for e in np.nonzero(group == g)[0]] for g in range(count)]
        radices = [[len(self.latents[name].support) for name, _ in members] for members in self._members]
        sizes = [int(np.prod([float(r) for r in radix])) for radix in radices]
        if max(sizes, default=0) > self.cap:
            raise TooLarge(f"{max(sizes)} joint assignments")
        self._sizes, self._radices = np.array(sizes, int), radices
        self._rows = max(sizes, default=1)
        self._digits = [
            np.stack(np.unravel_index(np.arange(self._rows) % size, radix), -1)
            for size, radix in zip(sizes, radices, strict=True)
        ]
        self._assignments = self._batch([self._assign([row] * count) for row in range(self._rows)])
        self._group_scale = np.array([self._one_scale(members) for members in self._members])
        self._excluded = np.array(
            [
                sum(
                    np.log(len(self.latents[name].support))
                    for name, i in members
                    if self.latents[name].masked.reshape(-1)[i] and name not in self.imputed
                )
                for members in self._members
            ]
        )

    def _one_scale(self, members):
        scales = {float(self.latents[name].scale.reshape(-1)[i]) for name, i in members}
        if len(scales) > 1:
            raise ValueError(f"latents of one group have different scales: {members}")
        return scales.pop()

    def _assign(self, rows):
        values = {}
        for group, members in enumerate(self._members):
            digits = self._digits[group][rows[group]]
            for (name, i), digit in zip(members, digits, strict=True):
                values[name, i] = self.latents[name].support[digit]
        return values

    def _batch(self, assignments):
        """dicts (site, flat index) -> value, stacked to arrays of the sites' shapes; missing: the first value."""
        out = {"": np.zeros(len(assignments))}
        for name, latent in self.latents.items():
            array = np.full((len(assignments), int(np.prod(latent.shape))), latent.support[0], latent.dtype)
            for row, values in enumerate(assignments):
                for i in range(array.shape[1]):
                    if (name, i) in values:
                        array[row, i] = values[name, i]
            out[name] = array.reshape((len(assignments), *latent.shape))
        return out

    def _jitter(self, rng):
        flat, unravel = ravel_pytree(self.unconstrain(self.params))
        return self.constrain(unravel(flat + 0.3 * rng.standard_normal(flat.shape)))

    def _is_verified(self, rng, count=24):
        """At random joint assignments every factor is what its own group's assignment says."""
        rows = np.stack([rng.integers(size, size=count) for size in self._sizes], -1)
        params = self._jitter(rng)
        whole = self._log_probs(params, self._batch([self._assign(row) for row in rows]))
        apart = self._log_probs(params, self._assignments)
        for name, owner in self._owner.items():
            owner = owner.reshape(-1)
            joint, split = whole[name].reshape(count, -1), apart[name].reshape(self._rows, -1)
            source = np.where(owner < 0, 0, rows[:, owner])
            if _differs(joint, split[source, np.arange(len(owner))]).any():
                return False
        return True

    # -- sums over assignments ------------------------------------------------------------------------------

    def _table(self, log_probs):
        """Log weight of every assignment of every group, (rows, groups), and what no latent touches."""
        groups = len(self._members)
        table, rest = np.zeros((self._rows, groups)), 0.0
        for name, value in log_probs.items():
            owner = self._owner[name].reshape(-1)
            scale = np.broadcast_to(self._scales[name], self._owner[name].shape).reshape(-1)
            value = value.reshape(self._rows, -1)
            free = owner < 0
            rest = rest + (scale[free] * value[0][free]).sum()
            if groups:
                relative = scale[~free] / self._group_scale[owner[~free]]
                weighted = _times(relative, value[:, ~free])
                if isinstance(value, np.ndarray):
                    np.add.at(table, (slice(None), owner[~free]), weighted)
                else:
                    table = jnp.asarray(table).at[:, owner[~free]].add(weighted)
        if groups:
            table = _module(table).where(np.arange(self._rows)[:, None] < self._sizes, table, -np.inf)
        return table, rest

    def _sum(self, table, rest):
        if not self._members:
            return rest
        logsumexp = jax.nn.logsumexp if isinstance(table, jax.Array) else scipy.special.logsumexp
        return (self._group_scale * (logsumexp(table, axis=0) - self._excluded)).sum() + rest

    def _differentiable(self, params):
        """(log-likelihood, log prior), traceable."""
        log_probs, prior, _ = jax.vmap(self._everything, in_axes=(None, 0))(params, self._assignments)
        return self._sum(*self._table(log_probs)), prior[0]

    def _answer(self, params):
        """(table, rest, log-likelihood, log prior) as numbers; the last point is kept."""
        params = self._given(params)
        key = b"".join(np.asarray(value).tobytes() for value in params.values())
        if getattr(self, "_last", (None,))[0] != key:
            log_probs, prior, _ = self._evaluate(params, self._assignments)
            table, rest = self._table(log_probs)
            self._last = key, (np.asarray(table), float(rest), float(self._sum(table, rest)), float(prior[0]))
        return self._last[1]

    # -- answers --------------------------------------------------------------------------------------------

    def log_likelihood(self, params=None) -> float:
        """log p(x; params), every constant, without the priors of maximised sites."""
        return self._answer(params)[2]

    def log_prior(self, params=None) -> float:
        return self._answer(params)[3]

    def objective(self, params=None) -> float:
        return self.log_likelihood(params) + self.log_prior(params)

    def marginals(self, params=None) -> dict[str, np.ndarray]:
        """site -> posterior probability of each support value, shape (*value shape, size of support)."""
        table = self._answer(params)[0]
        weights = np.exp(table - table.max(0)) if table.size else table
        weights = weights / weights.sum(0)
        out = {name: np.zeros((int(np.prod(z.shape)), len(z.support))) for name, z in self.latents.items()}
        for group, members in enumerate(self._members):
            for position, (name, i) in enumerate(members):
                np.add.at(out[name][i], self._digits[group][:, position], weights[:, group])
        return {name: value.reshape(*self.latents[name].shape, -1) for name, value in out.items()}

    def log_joint(self, latents: Mapping[str, Any], params=None) -> float:
        """Log weight of one joint assignment, as `max_log_joint` counts it."""
        return float(self.log_joints({name: np.asarray(value)[None] for name, value in latents.items()}, params)[0])

    def log_joints(self, latents: Mapping[str, Any], params=None) -> np.ndarray:
        """The same for many assignments, stacked along a leading axis."""
        batch = {name: np.asarray(value).astype(self.latents[name].dtype) for name, value in latents.items()}
        count = len(next(iter(batch.values()))) if batch else 1
        for name, value in batch.items():
            assert value.shape == (count, *self.latents[name].shape), (name, value.shape)
        log_probs = self._log_probs(self._given(params), {"": np.zeros(count), **batch})
        total = np.zeros(count)
        for name, value in log_probs.items():
            owner = self._owner[name].reshape(-1)
            scale = np.broadcast_to(self._scales[name], self._owner[name].shape).reshape(-1)
            divisor = np.append(self._group_scale, 1.0)[owner]
            total += np.asarray(_times(scale / divisor, np.asarray(value).reshape(count, -1))).sum(-1)
        return total

    def mean_log_joint(self, params=None) -> float:
        """Posterior mean of `log_joint`: it sees dependence between latents, which marginals do not."""
        table, rest, *_ = self._answer(params)
        if not self._members:
            return float(rest)
        weights = np.exp(table - table.max(0))
        weights /= weights.sum(0)
        return float(np.sum(np.where(weights > 0, weights * np.where(weights > 0, table, 0.0), 0.0)) + rest)

    def max_log_joint(self, params=None) -> float:
        table, rest, *_ = self._answer(params)
        return float(np.sum(np.max(table, axis=0)) + rest) if self._members else float(rest)

    def mode(self, params=None) -> dict[str, np.ndarray]:
        """The most probable joint assignment (the first of several)."""
        table = self._answer(params)[0]
        batch = self._batch([self._assign(list(table.argmax(0)))] if self._members else [{}])
        return {name: batch[name][0] for name in self.latents}

    # -- derivatives ------------------------------------------------------------------------------------------

    def unconstrain(self, params):
        return self._unconstrain(as_params(params))

    def constrain(self, free):
        return self._constrain(free)

    @cached_property
    def _derivatives(self):
        _, unravel = ravel_pytree(self.unconstrain(self.params))

        def objective(free):
            return sum(self._differentiable(self.constrain(unravel(free))))

        def likelihood(free):
            return self._differentiable(self.constrain(unravel(free)))[0]

        return jax.jit(jax.value_and_grad(objective)), jax.jit(jax.hessian(likelihood)), unravel

    def free(self, params=None) -> np.ndarray:
        """The unconstrained coordinates as one vector."""
        return np.asarray(ravel_pytree(self.unconstrain(self._given(params)))[0])

    def gradient(self, params=None) -> np.ndarray:
        """Gradient of the objective in unconstrained coordinates, flat."""
        return np.asarray(self._derivatives[0](self.free(params))[1])

    def hessian(self, params=None) -> np.ndarray:
        """Hessian of the log-likelihood in unconstrained coordinates."""
        return np.asarray(self._derivatives[1](self.free(params)))

    def standard_errors(self, params=None) -> dict[str, np.ndarray]:
        """Inverse observed information by the delta method; meaningful at a maximum only."""
        unravel = self._derivatives[2]

        def values(free):
            return ravel_pytree(self.constrain(unravel(free)))[0]

        free = self.free(params)
        jacobian = np.asarray(jax.jacobian(values)(free))
        covariance = jacobian @ np.linalg.inv(-self.hessian(params)) @ jacobian.T
        restore = ravel_pytree(self._given(params))[1]
        return {k: np.asarray(v) for k, v in restore(jnp.sqrt(jnp.diag(covariance))).items()}

    def maximize(self, params=None) -> tuple[dict[str, np.ndarray], float]:
        """Direct maximisation of the objective (BFGS with exact gradients), without EM."""
        from scipy.optimize import minimize

        function, _, unravel = self._derivatives

        def negative(free):
            value, gradient = function(free)
            return -float(value), -np.asarray(gradient)

        found = minimize(negative, self.free(params), jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000})
        return {k: np.asarray(v) for k, v in self.constrain(unravel(found.x)).items()}, -float(found.fun)

    def _given(self, params):
        return self.params if params is None else as_params({name: params[name] for name in self.params})


def betaln(a, b):
    return gammaln(a) + gammaln(b) - gammaln(a + b)


def _dirichlet_log_prob(self, value, intermediates=None):
    alpha = jnp.asarray(self.concentration, float)
    return (xlogy(alpha - 1, value) - gammaln(alpha)).sum(-1) + gammaln(alpha.sum(-1))


def as_params(params):
    return {name: jnp.asarray(value, float) for name, value in params.items()}


def _constraint(site):
    if site["type"] == "param":
        return site["kwargs"].get("constraint", constraints.real)
    return site["fn"].support


def _differs(a, b):
    """Entries that differ by more than rounding; equal infinities do not."""
    with np.errstate(invalid="ignore"):
        near = np.isfinite(a) & np.isfinite(b) & (np.abs(a - b) <= 1e-10 * (1 + np.abs(b)))
        return ~((a == b) | near)


def _times(factor, value):
    """factor * value, with 0 * -inf = 0."""
    return _module(value).where(factor == 0, 0.0, np.where(factor == 0, 1.0, factor) * value)


def _module(array):
    return jnp if isinstance(array, jax.Array) else np


def _layers(fn):
    yield fn
    while isinstance(fn, dist.Independent | dist.MaskedDistribution | dist.ExpandedDistribution):
        fn = fn.base_dist
        yield fn


def _to_value(array, fn):
    """Something of (a shape that broadcasts to) the batch shape, as it broadcasts to values."""
    return jnp.reshape(array, jnp.shape(array) + (1,) * fn.event_dim)


def _mask(fn):
    keep = jnp.ones((), bool)
    for layer in _layers(fn):
        if isinstance(layer, dist.MaskedDistribution):
            keep = keep & _to_value(jnp.asarray(layer._mask, bool), layer)
    return keep


def _support(fn, name):
    """The lowest and the highest value."""
    *_, base = _layers(fn)
    if isinstance(base, dist.CategoricalProbs):
        return 0, np.shape(base.probs)[-1] - 1
    if isinstance(base, dist.CategoricalLogits):
        return 0, np.shape(base.logits)[-1] - 1
    if isinstance(base, dist.BernoulliProbs | dist.BernoulliLogits):
        return 0, 1
    if isinstance(base, dist.BinomialProbs | dist.BinomialLogits | dist.BetaBinomial):
        return 0, jnp.max(base.total_count)
    if isinstance(base, dist.DiscreteUniform):
        return jnp.min(base.low), jnp.max(base.high)
    raise NotImplementedError(f"latent {name!r}: {type(base).__name__} is not enumerated by this oracle")
