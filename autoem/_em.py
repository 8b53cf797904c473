"""The public face: EM.init / update / run."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from . import _posterior
from ._ascent import fit_sampled, sampled_update
from ._boundary import bounds, flagged
from ._derivation import Derivation, Machine, derive
from ._family import LOG_ZERO
from ._loop import VERDICTS, Carry, loop
from ._model import initial_values
from ._options import SQUAREM, Sampling, check_acceleration, check_sampling
from ._params import checked, complete_params, require_distinct, require_strict
from ._refine import fit, refined
from ._result import EMResult, EMState, Status
from ._saddles import climbing
from ._squarem import Squared
from ._starts import started
from ._types import Array, Key, Params, Refusal
from ._uncertainty import certify, standard_errors
from ._update import BLIND, FLOORED, INFINITE, SENTENCES

_PATIENCE = 50
"""EM steps after which a fit that is still under way is extrapolated, unless the user says when."""


@eqx.filter_jit
def _update(machine: Machine, params: Params) -> Any:
    log_likelihood, statistics = machine.e_step(params, machine.prepare())
    params, flags = machine.m_step(params, statistics)
    return params, flags, log_likelihood


@eqx.filter_jit
def _log_likelihood(machine: Machine, params: Params) -> Array:
    return machine.log_likelihood(params)


class EM:
    """Expectation-maximisation for a NumPyro model, derived from the model itself.

    Args:
        model: any NumPyro model; an `EM` object is callable and is the model.
        maximize: names of sample sites to treat as parameters (their density stays as a prior), "global" for every
            continuous latent that is not local to the data, or None. `numpyro.param` sites always are parameters.
        flat: names of maximised sites whose prior is ignored (maximum likelihood), or True for all of them.
        strict: raise where a part is not exact or not in closed form.
        check: run the run-time certificate: log p(x, z) - log q(z | x) must be the log-likelihood for every z.
            A model that needs quadrature or sampling is refused then: more nodes are the one's check, standard errors
            the other's, and both are always there.
        augment: give mixtures, zero-inflated counts and the like their hidden variable back where that makes the
            model conjugate: `x ~ MixtureSameFamily(...)` gets its assignment, a latent `x_assignment`; heavy tails and
            sums of positive terms get hidden precisions and counts, which are not written out. The fitted
            parameters, the log-likelihood and the standard errors are those of the model as written.
        e_step: how to sample latents: a `MonteCarlo` or `SAEM` for all that no exact engine and no quadrature takes, or
            a dict, latent name -> such an object, to sample those latents whatever engine there is.
        acceleration: a `SQUAREM` to extrapolate EM's steps in `run`; True: from step 51 on, where a fit is still under
            way and nothing is sampled; False: plain EM. `update` is one plain EM step in any case.

    Raises:
        ValueError: on bad names, from the first method that sees data.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        maximize: list[str] | tuple[str, ...] | str | None = None,
        flat: list[str] | tuple[str, ...] | bool | None = None,
        strict: bool = False,
        check: bool = False,
        augment: bool = True,
        e_step: Mapping[str, Sampling] | Sampling | None = None,
        acceleration: SQUAREM | bool = True,
    ) -> None:
        if not callable(model):
            raise TypeError(f"EM needs a model, a callable; got {type(model).__name__}.")
        check_sampling(e_step)
        check_acceleration(acceleration)
        self.model = model
        self.maximize = maximize
        self.flat = flat
        self.strict = strict
        self.check = check
        self.augment = augment
        self.e_step = e_step
        self.acceleration = acceleration
        functools.update_wrapper(self, model)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model itself."""
        return self.model(*args, **kwargs)

    def derive(self, *args: Any, **kwargs: Any) -> Derivation:
        """The EM algorithm for these arguments; print it.

        Raises:
            ValueError: bad data or names.
            NotImplementedError: a part of the model that autoem declines, or with `strict`, does not do in closed form.
        """
        derivation = derive(self.model, args, kwargs, self.maximize, self.flat, augmented=self.augment,
                            sampled=self.e_step, pace=self._pace)  # fmt: skip
        if isinstance(self.acceleration, SQUAREM) and derivation.machine.samplers:
            raise ValueError(f"acceleration=SQUAREM(...) cannot be honoured: {list(derivation.model.points)} are "
                             "sampled, and noise would be extrapolated too. Leave acceleration out.")  # fmt: skip
        if self.strict:
            require_strict(derivation)
        if self.check and derivation.model.points:
            raise Refusal(f"check=True certifies exact E-steps, and that of {list(derivation.model.points)} is by "
                          "quadrature or sampling. More nodes are the one's check, which is always run; the other's "
                          "are the standard errors that a result carries.")  # fmt: skip
        return derivation

    def init(self, rng_key: Key, *args: Any, init_params: Params | None = None, **kwargs: Any) -> EMState:
        """Starting state.

        Args:
            rng_key: for random starting values (a param's callable initialiser, a maximised site's prior draw).
            init_params: constrained starting values by name; they replace the model's own.

        Raises:
            ValueError: `init_params` has an unknown name, a wrong shape, or values outside the constraint.
        """
        return self._init(self.derive(*args, **kwargs), [rng_key], args, kwargs, init_params)[0]

    def _init(
        self, derivation: Derivation, keys: list[Key], args: Any, kwargs: Any, init_params: Params | None
    ) -> list[EMState]:
        given = {name: checked(name, value, derivation) for name, value in (init_params or {}).items()}
        names = list(derivation.model.parameters)
        missing = [n for n in names if n not in given]
        states = []
        for drawn, left in initial_values(self.model, args, kwargs, keys, missing):
            params = {n: given[n] if n in given else drawn[n] for n in names}
            flags = {n: np.zeros((), int) for n in names}
            blank = np.full((), np.nan, jnp.result_type(float))
            states.append(EMState(params, left, blank, np.zeros((), int), flags, derivation.machine.start()))
        return states

    def update(self, state: EMState, *args: Any, **kwargs: Any) -> tuple[EMState, Array]:
        """One EM step: pure, so `jit` and `vmap` it as you like.

        Where latents are sampled the step uses `num_samples` draws, with a key split off the state's; `run` decides
        whether a step is to be believed, `update` takes every one.

        Returns:
            The new state, and the log-likelihood of the parameters that came in.
        """
        machine = self.derive(*args, **kwargs).machine
        if machine.samplers:
            left, key = jax.random.split(state.rng_key)
            params, flags, log_likelihood, chains = sampled_update(machine, state.params, key, state.chains)
            return EMState(params, left, log_likelihood, state.num_steps + 1, flags, chains), log_likelihood
        params, flags, log_likelihood = _update(machine, state.params)
        return EMState(params, state.rng_key, log_likelihood, state.num_steps + 1, flags), log_likelihood

    def get_params(self, state: EMState) -> Params:
        """Constrained values by name."""
        return state.params

    def run(
        self,
        rng_key: Key,
        num_steps: int,
        *args: Any,
        progress_bar: bool = True,
        init_state: EMState | None = None,
        init_params: Params | None = None,
        tol: float | None = None,
        num_restarts: int = 1,
        throw: bool = False,
        **kwargs: Any,
    ) -> EMResult:
        """Fit: EM steps until convergence, at most `num_steps`.

        Converged means twice in a row: Aitken's extrapolation leaves less than `tol` to gain in the objective
        (default 1e-8, or rounding where that is coarser), and the same extrapolation of the parameters' steps leaves
        less than 1e-6 (single precision: 0.02) of the parameters' size to go. Where latents are sampled it means that
        a Newton step would gain less than `tol` (default 0.005) in the objective, and that noise accounts for less.

        Without `init_params` maximised sites start from a draw of their prior (no closer to an end of its support than
        a hundredth of the way to its mean, where a vague Gamma would put it) or, where there are discrete latents,
        from data, whichever is better after a few steps (of several restarts every second one starts from data). What
        `numpyro.param` says stays.

        Args:
            rng_key: a JAX key; the same key gives the same result.
            num_steps: most steps.
            progress_bar: show one.
            init_state: go on from here instead of starting anew.
            init_params: starting values by name, constrained.
            tol: see above.
            num_restarts: starts from as many keys, fitted together by `vmap`; the best objective is returned.
            throw: raise if the fit did not converge.

        Raises:
            ValueError: bad data, names or starting values; data that are impossible under the starting values.
            RuntimeError: with `throw`, if the fit did not converge; with `check`, if the certificate fails.
        """
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}.")
        if num_restarts < 1:
            raise ValueError(f"num_restarts must be at least 1, got {num_restarts}.")
        if init_state is not None and (num_restarts > 1 or init_params is not None):
            raise ValueError("init_state goes with neither init_params nor num_restarts.")
        derivation = self.derive(*args, **kwargs)
        if init_state is not None:
            states = [init_state]
        else:
            keys = [rng_key] if num_restarts == 1 else list(jax.random.split(rng_key, num_restarts))
            states = self._init(derivation, keys, args, kwargs, init_params)
            require_distinct(states)
        if derivation.machine.samplers:
            result = fit_sampled(derivation, states, num_steps, tol, progress_bar)
            _warn(result.state.flags, result.status)
            if throw and not result.converged:
                raise RuntimeError(result.status.value)
            return result
        limits = bounds(derivation)
        # Short runs are compiled as the fit is, to be compiled once; where they end scales are not tried at zero.
        quiet = functools.partial(loop, tol=tol, progress_bar=False, squared=self._squared(derivation))
        run = functools.partial(quiet, progress_bar=progress_bar, limits=limits)
        if init_state is None and not init_params:
            states = started(derivation, states, quiet)
        derivation, carry, log_likelihoods, objectives = fit(derivation, states, num_steps, run)
        for state, row in zip(states, log_likelihoods, strict=True):
            if not row[0] > LOG_ZERO / 10:
                _posterior.raise_impossible(derivation, state.params, float(row[0]))
        scores = np.where(np.isfinite(np.asarray(carry.objective)), np.asarray(carry.objective), -np.inf)
        best = int(np.argmax(scores))
        picked: Carry = jax.tree.map(lambda a: np.asarray(a)[best], carry)
        steps = int(picked.steps)
        status = VERDICTS[int(picked.verdict)]
        flags = picked.flags
        if status is not Status.NONFINITE:
            flags = flagged(derivation.machine, picked.params, flags, limits)
            degenerate = any(int(f) == FLOORED for f in flags.values())
            if degenerate or status is Status.DEGENERATE:
                status = Status.DEGENERATE if degenerate else Status.CONVERGED
            for code, verdict in ((INFINITE, Status.ENDLESS), (BLIND, Status.BLIND)):
                if any(int(f) == code for f in flags.values()):
                    status = verdict
        doubtful = not all(check.accurate for check in derivation.checks.values())
        if doubtful and status in (Status.CONVERGED, Status.DECREASED):
            status = Status.INACCURATE
        state = EMState(picked.params, states[best].rng_key, np.asarray(log_likelihoods[best][steps - 1]),
                        states[best].num_steps + steps, flags)  # fmt: skip
        if moving := climbing(derivation, state, float(objectives[best][steps - 1]), quiet, status):
            status = Status.SADDLE
        _warn(flags, status, moving)
        if self.check:
            certify(self.model, derivation, picked.params, args, kwargs)
        if throw and status is not Status.CONVERGED:
            raise RuntimeError(status.value)
        finals = np.asarray([row[int(n) - 1] for row, n in zip(log_likelihoods, carry.steps, strict=True)])
        return EMResult(
            params=jax.tree.map(jnp.asarray, picked.params),
            log_likelihood=jnp.asarray(log_likelihoods[best][:steps]),
            objective=jnp.asarray(objectives[best][:steps]),
            num_steps=steps,
            converged=status is Status.CONVERGED,
            status=status,
            state=state,
            derivation=derivation,
            restarts=finals if num_restarts > 1 else None,
        )

    @property
    def _after(self) -> int:
        """Plain EM steps before the first extrapolation."""
        return self.acceleration.after if isinstance(self.acceleration, SQUAREM) else _PATIENCE

    @property
    def _pace(self) -> str:
        """How `run` goes from step to step, for the derivation's page."""
        if self.acceleration is False:
            return ""
        return (f"from step {self._after + 1} on, EM steps are taken further by squared extrapolation (SQUAREM): two "
                "steps say where they lead, and that point is kept where the objective is not lower there")  # fmt: skip

    def _squared(self, derivation: Derivation) -> Squared | None:
        """How `run` extrapolates."""
        if self.acceleration is False:
            return None
        after = self._after
        return Squared({n: p.constraint for n, p in derivation.model.parameters.items()}, after)

    def log_likelihood(self, params: Params, *args: Any, **kwargs: Any) -> Array:
        """Observed-data log-likelihood, every constant included, without the priors of maximised sites.

        Differentiable in `params`. Where latents are sampled it is an importance estimate, from the same draws for the
        same data; `EMResult.monte_carlo` holds the standard error of such an estimate.
        """
        derivation = self._for(params, self.derive(*args, **kwargs))
        return _log_likelihood(derivation.machine, complete_params(params, derivation))

    def _for(self, params: Params, derivation: Derivation) -> Derivation:
        """The derivation with as many quadrature nodes as these parameters need; a warning where none are enough."""
        found = refined(derivation, complete_params(params, derivation))
        if doubtful := [c.sentence for c in found.checks.values() if not c.accurate]:
            warnings.warn(f"Not accurate at these parameters: {'; '.join(doubtful)}.", stacklevel=3)
        return found

    def posterior(self, params: Params, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Distribution of every latent given data and parameters: site -> NumPyro distribution, batched as the site."""
        derivation = self._for(params, self._derive_with_leaves(args, kwargs).apart)
        return _posterior.posterior(derivation, complete_params(params, derivation))

    def sample_posterior(
        self, rng_key: Key, params: Params, *args: Any, num_samples: int = 1, **kwargs: Any
    ) -> dict[str, Array]:
        """Joint draws of all latents given data and parameters: site -> (num_samples, *site shape)."""
        derivation = self._for(params, self._derive_with_leaves(args, kwargs).apart)
        return _posterior.sample(derivation, rng_key, complete_params(params, derivation), num_samples)

    def decode(self, params: Params, *args: Any, **kwargs: Any) -> dict[str, Array]:
        """The most probable joint assignment of all latents: site -> values."""
        derivation = self._for(params, self._derive_with_leaves(args, kwargs).apart)
        return _posterior.decode(derivation, complete_params(params, derivation))

    def standard_errors(self, params: Params, *args: Any, **kwargs: Any) -> dict[str, Array]:
        """Standard errors from the observed information (the Hessian of the objective at `params`).

        Exact derivatives; the delta method carries them from free coordinates to the constrained values. NaN where
        the information is not positive definite (a saddle, a boundary, an unidentified parameter), with a warning.
        """
        derivation = self._for(params, self.derive(*args, **kwargs))
        return standard_errors(derivation, complete_params(params, derivation))

    def _derive_with_leaves(self, args: Any, kwargs: Any) -> Derivation:
        """The derivation with latents that no datum depends on, where an engine knows those too."""
        derivation = self.derive(*args, **kwargs)
        if not derivation.model.unused:
            return derivation
        try:
            return derive(self.model, args, kwargs, self.maximize, self.flat, True, self.augment, self.e_step)
        except Refusal:
            return derivation


def em(model: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`EM` as a decorator: `@autoem.em` or `@autoem.em(maximize=[...])`."""
    if model is None:
        return functools.partial(em, **options)
    return EM(model, **options)


def _warn(flags: dict[str, Any], status: Status, moving: Sequence[str] = ()) -> None:
    for name, flag in flags.items():
        if int(flag):
            warnings.warn(f"Parameter {name!r} {SENTENCES[int(flag)]}.", stacklevel=3)
    if moving:
        warnings.warn(f"{status.value} Moving from there: {', '.join(map(repr, moving))}.", stacklevel=3)
    elif status not in (Status.CONVERGED, Status.MAX_STEPS, Status.DEGENERATE, Status.ENDLESS, Status.BLIND):
        warnings.warn(status.value, stacklevel=3)
