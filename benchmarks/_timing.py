"""Times taken in turn, A B A B ..., so that a machine whose speed drifts slows both; ratios of medians are quoted."""

import importlib.util
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """One line of the table: ours against a peer or a limit; `ratio` is better when larger."""

    name: str
    ours: str
    peer: str
    ratio: float
    target: float

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.ratio >= self.target

    @classmethod
    def missing(cls, name: str, ours: str, target: float) -> "Row":
        """A row whose peer cannot be imported."""
        return cls(name, ours, "not installed", math.nan, target)


def installed(package: str) -> bool:
    """Whether a peer can be imported."""
    return importlib.util.find_spec(package) is not None


def seconds(call: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def per_iteration(fit: Callable[[int], Any], few: int, many: int) -> float:
    """Seconds per iteration: the difference of two run lengths, so that set-up drops out."""
    return max(seconds(lambda: fit(many)) - seconds(lambda: fit(few)), 1e-9) / (many - few)


def in_turn(calls: dict[str, Callable[[], float]], rounds: int = 5) -> dict[str, float]:
    """Median of each measurement, taken in turn after one round that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(rounds + 1):
        for name, call in calls.items():
            value = call()
            if round_number:
                taken[name].append(value)
    return {name: float(np.median(values)) for name, values in taken.items()}


def in_process(code: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run code in a fresh interpreter, with these additions to the environment; it prints one JSON object last."""
    own = {**os.environ, **(environment or {})}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=own)
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_memory() -> int:
    """Peak resident bytes of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
