"""The truth about a small model with continuous latents that are independent given the discrete ones, by quadrature.

Nothing of autoem: for each joint value of the discrete latents, NumPyro's own log joint density is evaluated on a
fine grid for every element of every continuous latent, the others held; that it is a sum over elements is verified at
another point. The trapezoidal rule on log u, logit u, the circle or the logits of a stick-breaking is exact to
rounding for such densities.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gaussian_oracle import joint
from numpyro.distributions import constraints


def grid(support: Any, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (G, *event), log weights (G,), and a point in the middle."""
    step = 0.06
    if support is constraints.positive or (getattr(support, "lower_bound", None) == 0 and not hasattr(
        support, "upper_bound")):  # fmt: skip
        s = np.arange(-60, 60, step)
        return np.exp(s), s + np.log(step), np.asarray(1.0)
    if float(getattr(support, "lower_bound", 1)) == 0 and float(getattr(support, "upper_bound", 0)) == 1:
        s = np.arange(-35, 35, step)
        return 1 / (1 + np.exp(-s)), np.log(step) - np.logaddexp(0, s) - np.logaddexp(0, -s), np.asarray(0.5)
    if support is constraints.simplex:
        assert size == 3
        step = 0.25  # at 0.5 a posterior of nine counts is off by 1e-7
        s, t = (a.ravel() for a in np.meshgrid(np.arange(-40, 40, step), np.arange(-40, 40, step)))
        first, second = 1 / (1 + np.exp(-s)), 1 / (1 + np.exp(-t))
        rest = 1 / (1 + np.exp(s))
        points = np.stack([first, rest * second, rest / (1 + np.exp(t))], -1)
        slope = [-np.logaddexp(0, a) - np.logaddexp(0, -a) for a in (s, t)]
        return points, 2 * np.log(step) + slope[0] + slope[1] + np.log(rest), np.full(3, 1 / 3)
    assert support is constraints.circular
    count = 400
    return np.linspace(-np.pi, np.pi, count, endpoint=False), np.full(count, np.log(2 * np.pi / count)), np.asarray(0.0)


def evidence(model: Callable[..., Any], args: tuple[Any, ...], maximised: tuple[str, ...] = ()) -> Any:
    """params -> ((log-likelihood, (defect, means, variances)), gradient); of an angle, the moments of its cosine."""
    log_joint, latents = joint(model, args, maximised)
    latents = {n: s for n, s in latents.items() if n not in maximised}
    discrete = {n: s for n, s in latents.items() if s["fn"].support.is_discrete}
    grids, middle, shapes, circles = {}, {}, {}, set()
    for n, s in latents.items():
        if n in discrete:
            continue
        support = getattr(s["fn"].support, "base_constraint", s["fn"].support)
        event = 1 if support is constraints.simplex else 0
        circles |= {n} if support is constraints.circular else set()
        shape = np.shape(s["value"])
        shapes[n] = shape
        points, weights, centre = grid(support, shape[-1] if event else 1)
        grids[n] = jnp.asarray(points), jnp.asarray(weights)
        middle[n] = jnp.broadcast_to(centre, (int(np.prod(shape[: len(shape) - event])), *centre.shape))
    supports = {n: np.asarray(s["fn"].enumerate_support(expand=False)).ravel() for n, s in discrete.items()}
    spaces = [itertools.product(supports[n], repeat=int(np.size(s["value"]))) for n, s in discrete.items()]
    picks = list(itertools.product(*spaces))
    choices = {n: np.array([np.reshape(p[i], np.shape(discrete[n]["value"])) for p in picks])
               for i, n in enumerate(discrete)}  # fmt: skip

    def given(params: Mapping[str, Any], choice: Mapping[str, Any]) -> Any:
        def density(values: Mapping[str, Any]) -> Any:
            shaped = {n: jnp.reshape(v, shapes[n]) for n, v in values.items()}
            return log_joint(params, {**shaped, **choice})

        base = density(middle)
        total, defect, moments = base, base, {}
        for n, (points, weights) in grids.items():
            count = middle[n].shape[0]

            def at(j: Any, t: Any, n: str = n) -> Any:
                return density({**middle, n: middle[n].at[j].set(t)}) - base

            table = jax.vmap(lambda j, p=points: jax.vmap(lambda t: at(j, t))(p))(jnp.arange(count)) + weights
            total = total + jnp.sum(jax.nn.logsumexp(table, -1))
            probs = jax.nn.softmax(table, -1)
            seen = jnp.cos(points) if n in circles else points
            moments[n] = probs @ seen, probs @ seen**2
            elsewhere = points[len(points) * 4 // 9 + jnp.arange(count)]
            defect = defect + sum(at(j, elsewhere[j]) for j in range(count))
        other = {n: p[len(p) * 4 // 9 + jnp.arange(middle[n].shape[0])] for n, (p, _) in grids.items()}
        return total, (defect - density(other), moments)

    def evaluate(params: Mapping[str, Any]) -> Any:
        if choices:
            totals, (defects, moments) = jax.lax.map(lambda c: given(params, c), choices)
        else:
            totals, (defects, moments) = jax.tree.map(lambda a: a[None], given(params, {}))
        probs = jax.nn.softmax(totals)
        first, second = ({n: jnp.reshape(jnp.tensordot(probs, m[i], 1), shapes[n]) for n, m in moments.items()}
                         for i in (0, 1))  # fmt: skip
        return jax.nn.logsumexp(totals), (
            jnp.max(jnp.abs(defects)),
            first,
            {n: second[n] - first[n] ** 2 for n in first},
        )

    return jax.jit(jax.value_and_grad(evaluate, has_aux=True))
