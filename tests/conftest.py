"""What every test runs under: float64, derandomised hypothesis, pictures without a screen."""

import os
from collections.abc import Iterator
from pathlib import Path

# The suite compiles hundreds of small models and runs each for milliseconds: let the compiler hurry.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import hypothesis
import jax
import pytest

jax.config.update("jax_enable_x64", True)

# By environment, not by matplotlib.use: examples that a test starts as a child process inherit it.
os.environ["MPLBACKEND"] = "Agg"

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=30)
hypothesis.settings.load_profile("ci")


@pytest.fixture
def x32() -> Iterator[None]:
    """Runs the test in JAX's default precision, float32."""
    with jax.enable_x64(False):
        yield


_MAPPED = 30_000
"""Memory maps of a process before compiled programs are dropped: Linux allows 65,530, and XLA crashes beyond."""


@pytest.fixture(autouse=True)
def few_compiled_programs() -> Iterator[None]:
    """Drops compiled programs after a test if the process holds too many of them."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MAPPED:
        jax.clear_caches()
