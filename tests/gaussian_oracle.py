"""The truth about a small model with Gaussian (and discrete) latents, from NumPyro's own densities; nothing of autoem.

For each joint value of the discrete latents, log p(x, z) is a quadratic in z: its gradient and Hessian by autodiff
give the integral, the mean and the covariance; that it is a quadratic is verified at a random point.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro import handlers


def joint(model: Callable[..., Any], args: tuple[Any, ...], flat: tuple[str, ...] = ()) -> Any:
    """log p(x, z) as a function of (params, latents), and the latent sites."""
    found = handlers.trace(handlers.seed(model, 0)).get_trace(*args)
    latents = {n: s for n, s in found.items() if s["type"] == "sample" and not s["is_observed"]}

    def log_joint(params: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
        seeded = handlers.seed(handlers.substitute(model, data={**params, **values}), 0)
        total: Any = 0.0
        for name, site in handlers.trace(seeded).get_trace(*args).items():
            if site["type"] == "sample" and name not in flat:
                term = site["fn"].log_prob(site["value"])
                total = total + jnp.sum(term if site["scale"] is None else term * site["scale"])
        return total

    return log_joint, latents


def log_evidence(log_joint: Any, blank: Any, unravel: Any, discrete: Mapping[str, Any]) -> Callable[..., Any]:
    """log ∫ p(x, z) dz for given discrete states, as a function of the parameters; mean and covariance besides."""

    def evaluate(params: Mapping[str, Any]) -> Any:
        def density(z: Any) -> Any:
            return log_joint(params, {**unravel(z), **discrete})

        hessian = -jax.hessian(density)(blank)
        live = jnp.diagonal(hessian) != 0
        full = jnp.where(live[:, None] & live, hessian, jnp.eye(len(blank)))
        mean = blank + jnp.linalg.solve(full, jax.grad(density)(blank) * live)
        half = jnp.linalg.slogdet(full)[1] / 2
        return density(mean) + jnp.sum(live) * jnp.log(2 * jnp.pi) / 2 - half, mean, jnp.linalg.inv(full)

    return evaluate


def evidence(model: Callable[..., Any], args: tuple[Any, ...], maximised: tuple[str, ...] = ()) -> Any:
    """params -> ((log-likelihood, (log weight, mean, covariance) per discrete state), gradient); and `unravel`."""
    log_joint, latents = joint(model, args, maximised)
    latents = {n: s for n, s in latents.items() if n not in maximised}
    continuous = {n: s["value"] for n, s in latents.items() if not s["fn"].support.is_discrete}
    discrete = {n: s for n, s in latents.items() if s["fn"].support.is_discrete}
    blank, unravel = ravel_pytree({n: jnp.zeros_like(v) for n, v in continuous.items()})
    sizes = {n: len(s["fn"].enumerate_support()) for n, s in discrete.items()}
    spaces = [itertools.product(range(sizes[n]), repeat=int(np.size(s["value"]))) for n, s in discrete.items()]
    picks = list(itertools.product(*spaces))
    choices = {
        n: np.array([np.reshape(pick[i], np.shape(discrete[n]["value"])) for pick in picks])
        for i, n in enumerate(discrete)
    }

    def evaluate(params: Mapping[str, Any]) -> Any:
        if not choices:
            weight, mean, covariance = log_evidence(log_joint, blank, unravel, {})(params)
            weights, means, covariances = weight[None], mean[None], covariance[None]
        else:
            weights, means, covariances = jax.lax.map(
                lambda choice: log_evidence(log_joint, blank, unravel, choice)(params), choices
            )
        return jax.nn.logsumexp(weights), (weights, means, covariances)

    return jax.jit(jax.value_and_grad(evaluate, has_aux=True)), unravel
