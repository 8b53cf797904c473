"""The quadrature's oracle: sums over all discrete states and rectangles over dense grids of NumPyro's own densities."""

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers


class Oracle:
    """Log-likelihood and posterior moments of a case by rectangles, group after group; nothing of autoem."""

    def __init__(self, case, maximised=()):
        self.case, self.maximised = case, maximised
        self.points = [jnp.asarray(p) for p in np.meshgrid(*case.grids, indexing="ij")]
        self.log_weight = np.log(np.prod([g[1] - g[0] for g in case.grids]))
        self.groups = case.split(*case.args)

    def joint(self, params, args, jacobian=True, together=True):
        """log p(x, z) of one group over the grid, summed over discrete states or (not `together`) for each of them.

        A grid of log z is a grid of z, weighted by z.
        """
        listed = self.case.states(*args)
        states = {n: jnp.stack([jnp.asarray(s[n]) for s in listed]) for n in listed[0]}

        def at(*z):
            latents = self.case.latents(*z)
            terms = jax.vmap(lambda states: joint(latents, states))(states) if listed[0] else joint(latents, {})[None]
            return jax.nn.logsumexp(terms) if together else terms

        def joint(latents, states):
            seeded = handlers.seed(handlers.substitute(self.case.model, data={**params, **latents, **states}), 0)
            found = handlers.trace(seeded).get_trace(*args)
            total = sum(jnp.log(v).sum() for v in latents.values() if jacobian and "rate" in latents)
            for name, site in found.items():
                if site["type"] == "sample" and name not in self.maximised:
                    total = total + jnp.sum(site["fn"].log_prob(site["value"]))
            return total

        flat = jax.vmap(at)(*[p.ravel() for p in self.points])
        return flat.reshape(*self.points[0].shape, *flat.shape[1:]) + self.log_weight

    def log_likelihood(self, params):
        params = {n: jnp.asarray(v, float) for n, v in params.items()}
        return sum(jax.nn.logsumexp(self.joint(params, args)) for args in self.groups)

    def moments(self, params, name):
        """Mean and variance of a latent's elements, group after group."""
        values = jax.vmap(lambda *z: self.case.latents(*z)[name])(*[p.ravel() for p in self.points])
        values = values.reshape(values.shape[0], -1)
        means, variances = [], []
        for args in self.groups:
            probs = jax.nn.softmax(self.joint(params, args).ravel())
            mean = probs @ values
            means.append(mean)
            variances.append(probs @ (values - mean) ** 2)
        return np.asarray(means), np.asarray(variances)

    def marginals(self, params, name):
        """Mean of a discrete latent's elements, group after group."""
        means = []
        for args in self.groups:
            probs = jax.nn.softmax(self.joint(params, args, together=False).ravel())
            states = np.stack([s[name] for s in self.case.states(*args)])
            weights = probs.reshape(-1, len(states)).sum(0)
            means.append(np.tensordot(weights, states, 1).ravel())
        return np.concatenate(means)

    def highest(self, params):
        """The largest log density on the latents' own scale, over the grid and all states."""
        return sum(float(self.joint(params, args, False, False).max() - self.log_weight) for args in self.groups)


def at(case):
    return {n: jnp.asarray(v, float) for n, v in case.params.items()}
