"""Import, and derive + compile, each in a fresh interpreter."""

import tempfile

import numpy as np

from ._timing import Row, in_process

IMPORT = """
import json, time
start = time.perf_counter(); import numpyro, numpyro.distributions, numpyro.infer; middle = time.perf_counter()
import autoem; print(json.dumps({"extra": time.perf_counter() - middle}))
"""

COMPILE = """
import json, time, jax, numpy as np, numpyro
numpyro.enable_x64()
import autoem
from benchmarks import models
rng = np.random.default_rng(0)
x = rng.normal(size=(500, 3)); y = (x > 0).astype(float); target = x[:, 0] + rng.normal(size=500)
args = {"latent_class": (y, 2), "regressions": (x, target, 2)}.get("NAME", (x, 2))
em = autoem.EM(getattr(models, "NAME"))
jax.jit(lambda a: a + 1)(1.0)
start = time.perf_counter(); em.derive(*args); middle = time.perf_counter()
em.run(jax.random.PRNGKey(0), 1, *args, progress_bar=False)
print(json.dumps({"derive": middle - start, "all": time.perf_counter() - start}))
"""


def imports():
    """`import autoem` beyond `import numpyro`, its bytecode compiled before, as after any installation."""
    with tempfile.TemporaryDirectory() as cache:
        own = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": cache}
        extra = float(np.median([in_process(IMPORT, own)["extra"] for _ in range(6)][1:]))
    return [Row("import autoem beyond numpyro", f"{extra:.2f} s", "0.3 s", 0.3 / extra, 1)]


def compiles():
    """Derive, trace and compile, first step included."""
    rows = []
    for name in ("full_mixture", "diagonal_mixture", "latent_class", "regressions"):
        total = in_process(COMPILE.replace("NAME", name))["all"]
        rows.append(Row(f"derive and compile {name}", f"{total:.1f} s", "5 s", 5 / total, 1))
    return rows
