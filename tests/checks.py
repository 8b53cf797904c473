"""What every exact E-step has to satisfy, whatever its engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from numpy.testing import assert_allclose


def check_evidence(machine: Any, params: Mapping[str, Any], value: Any, gradient: Mapping[str, Any]) -> None:
    """The log-likelihood, its gradient and Fisher's identity, against an oracle's log-likelihood and gradient."""

    @jax.jit
    def ours(params: Any) -> Any:
        found, statistics = machine.e_step(params, machine.prepare())
        # Fisher's identity: with the right expected statistics, Q has the gradient of the log-likelihood.
        of_q = jax.grad(lambda p: machine.complete.objective(p, statistics) - machine.complete.log_prior(p))(params)
        return jax.value_and_grad(machine.log_likelihood)(params), found, of_q

    (total, direct), from_e_step, of_q = ours(params)
    assert_allclose(total, value, rtol=1e-9)
    assert_allclose(from_e_step, value, rtol=1e-9)
    for n in params:
        assert_allclose(direct[n], gradient[n], rtol=1e-6, atol=1e-7, err_msg=n)
        assert_allclose(of_q[n], gradient[n], rtol=1e-6, atol=1e-7, err_msg=n)
