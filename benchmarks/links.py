"""`python -m benchmarks.links`: Newton beside the hidden representations of logit and probit regression, by hand.

Steps and milliseconds until the log-likelihood is within 1e-8 of its maximum, from zero coefficients.
"""

import time

import numpy as np
from scipy import special, stats

_TOLERANCE = 1e-8


def _data(link, rows=1000):
    rng = np.random.default_rng(0)
    covariates = np.c_[np.ones(rows), rng.normal(size=(rows, 3))]
    score = covariates @ np.array([-2.0, 1.5, -1.0, 0.7])
    probability = special.expit(score) if link == "logit" else stats.norm.cdf(score)
    return covariates, (rng.random(rows) < probability) * 1.0


def _log_likelihood(link, x, y, beta):
    signed = (2 * y - 1) * (x @ beta)
    return (special.log_expit(signed) if link == "logit" else stats.norm.logcdf(signed)).sum()


def _slope(x, y, beta):
    """Derivative of the probit's log density in the score, which is the truncated normal's mean less the score."""
    score, sign = x @ beta, 2 * y - 1
    return sign * np.exp(stats.norm.logpdf(score) - stats.norm.logcdf(sign * score))


def newton(link, x, y, beta):
    """One step on the log-likelihood."""
    score = x @ beta
    if link == "logit":
        probability = special.expit(score)
        gradient, weight = y - probability, probability * (1 - probability)
    else:
        gradient = _slope(x, y, beta)
        weight = gradient * (gradient + score)
    return beta + np.linalg.solve((x * weight[:, None]).T @ x, x.T @ gradient)


def hidden(link, x, y, beta):
    """One EM step: Pólya-Gamma weights (Polson, Scott and Windle 2013), truncated normals (Albert and Chib 1993)."""
    score = x @ beta
    if link == "logit":
        near = np.abs(score) < 1e-6
        weight = np.where(near, 0.25, np.tanh(score / 2) / (2 * np.where(near, 1.0, score)))
        return np.linalg.solve((x * weight[:, None]).T @ x, x.T @ (y - 0.5))
    return np.linalg.solve(x.T @ x, x.T @ (score + _slope(x, y, beta)))


def main():
    """Print the table."""
    for link in ("logit", "probit"):
        x, y = _data(link)
        best = np.zeros(x.shape[1])
        for _ in range(30):
            best = newton(link, x, y, best)
        top = _log_likelihood(link, x, y, best)
        for step in (newton, hidden):
            beta, steps, start = np.zeros(x.shape[1]), 0, time.perf_counter()
            while top - _log_likelihood(link, x, y, beta) > _TOLERANCE and steps < 10_000:
                beta, steps = step(link, x, y, beta), steps + 1
            print(f"{link:8}{step.__name__:8}{steps:6} steps {1e3 * (time.perf_counter() - start):8.1f} ms")


if __name__ == "__main__":
    main()
