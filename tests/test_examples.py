"""Every example runs, reaches its known log-likelihood, and ends in a picture."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

EXAMPLES = Path(__file__).parents[1] / "examples"
KNOWN = {
    "old_faithful": [-1130.263960],
    "times_deaths": [-1989.945860],
    "articles": [-1679.391084, -1617.140482],
    "dawid_skene": [-192.890881, -191.568856],
    "mixture_of_regressions": [],
    "hidden_cause": [],
    "sleepstudy": [-875.969672],
    "air_quality": [-2326.697383],
    "factor_analysis": [-817.795671],  # χ²(4) = 6.1066
    "pump_failures": [-32.257836],
    "lsat": [-2466.653377],
    "earthquakes": [-341.878701, -328.527483],
    "nile": [-638.240705],
    "tracking": [-579.903327],
    "why_em": [],
}


def test_every_example_is_here():
    assert set(KNOWN) == {p.stem for p in EXAMPLES.glob("[!_]*.py")}


@pytest.mark.parametrize("name", KNOWN)
def test_example(name, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, "_common", raising=False)
    results = importlib.import_module(name).main(tmp_path, progress_bar=False)
    results = results if isinstance(results, tuple | list) and not hasattr(results, "params") else [results]
    found = [float(r.log_likelihood[-1]) for r in results]
    assert all(r.converged for r in results)
    if KNOWN[name]:
        assert_allclose(found, KNOWN[name], rtol=0, atol=1e-6)
    assert "M-step" in capsys.readouterr().out
    (picture,) = tmp_path.glob("*.png")
    assert picture.stat().st_size > 20_000
    assert np.isfinite(found).all()
