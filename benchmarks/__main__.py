"""`python -m benchmarks [name ...]`: autoem beside its peers in one run, as a table of ratios."""

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpyro

from . import augmented, chains, gaussian, latent_classes, mixtures, quadrature, startup, state_space

BENCHMARKS = {
    "full": mixtures.full,
    "diagonal": mixtures.diagonal,
    "memory": mixtures.memory,
    "latent_class": latent_classes.twenty_items,
    "repeated_rows": latent_classes.ten_items,
    "robust": augmented.robust,
    "emission": augmented.emission,
    "counts": augmented.counts,
    "chain": chains.one_sequence,
    "chains": chains.many_sequences,
    "factor_analysis": gaussian.factors,
    "mixed_model": gaussian.mixed,
    "state_space": state_space.time_invariant,
    "item_response": quadrature.item_response,
    "random_intercepts": quadrature.random_intercepts,
    "import": startup.imports,
    "compile": startup.compiles,
}


def main():
    """Run the named benchmarks (all by default) and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; all by default")
    names = parser.parse_args().names or list(BENCHMARKS)
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    numpyro.enable_x64()
    rows = []
    print(f"{'':66} {'ours':>10} {'peer/limit':>13} {'ratio':>7} {'target':>7}")
    for name in names:
        for row in BENCHMARKS[name]():
            rows.append({**asdict(row), "met": row.met})
            mark = "" if row.met or math.isnan(row.ratio) else "  missed"
            print(f"{row.name:66} {row.ours:>10} {row.peer:>13} {row.ratio:7.2f} {row.target:7.2f}{mark}", flush=True)
    path = Path(__file__).parent / "output" / "ratios.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
