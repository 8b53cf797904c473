"""What the examples share: reading a table, saving a picture, the command line."""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

HERE = Path(__file__).parent
matplotlib.use("Agg")


def read(name: str) -> dict[str, np.ndarray]:
    """The columns of a table in examples/data."""
    with open(HERE / "data" / name) as file:
        rows = list(csv.DictReader(file))
    return {column: np.array([_number(row[column]) for row in rows]) for column in rows[0]}


def _number(text: str) -> float:
    return float("nan") if text in ("NA", "") else float(text)


def save(figure: Any, output: str | Path, name: str) -> Path:
    """Save a picture, and say where."""
    path = Path(output) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    print(f"\nPicture: {path}")
    return path


def command_line(main: Callable[..., Any], description: str | None) -> None:
    """`--output FOLDER` for the picture."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", default=str(HERE / "output"))
    main(parser.parse_args().output)
