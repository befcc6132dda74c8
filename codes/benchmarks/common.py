"""What the benchmarks share: timing side by side, and how a result is written down and drawn.

A benchmark is run as `python codes/benchmarks/NAME.py` from any folder. It lies below codes/, so it begins with

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

before `from benchmarks.common import ...` and `from ecg...`. It prints its ratio last, by `print_ratio`.
"""

import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecg.artifacts import write_csv
from ecg.hardware import machine
from ecg.plots import COLOURS, panels, save_figure


def interleaved(sides: dict[str, Callable[[], Any]], repeats: int) -> dict[str, np.ndarray]:
    """Return {side: seconds of each repeat}; the sides take turns, so that a drifting machine meets all of them alike.

    Nothing is warmed up here: call each side once before if its first call is slower (page cache, compilers).
    """
    seconds = {name: np.zeros(repeats) for name in sides}
    for repeat in range(repeats):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            seconds[name][repeat] = time.perf_counter() - started
    return seconds


def write_results(table: pd.DataFrame, artifacts: Path, name: str, *, packages: tuple[str, ...] = ()) -> Path:
    """Write `artifacts/benchmarks/{name}.csv`: `table` with the columns hardware, versions and date behind its own.

    `packages` are stated with their versions besides Python, NumPy, PyTorch and scikit-learn. Returns the path.
    """
    facts = machine()
    versions = facts["versions"] | {package: version(package) for package in packages}
    facts["versions"] = ", ".join(f"{package} {number}" for package, number in versions.items())
    path = artifacts / "benchmarks" / f"{name}.csv"
    write_csv(table.assign(**facts), path)
    return path


def plot_bars(values: dict[str, float], artifacts: Path, name: str, *, xlabel: str, title: str = "") -> None:
    """Write `artifacts/benchmarks/{name}.png`: one horizontal bar per entry, its value at the end."""
    figure, axes = panels(1, 1, width=7, height=1.2 + 0.4 * len(values), title=title)
    axis = axes[0, 0]
    bars = axis.barh(list(values), list(values.values()), color=COLOURS[0], height=0.6)
    shown = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values.values()]
    axis.bar_label(bars, shown, padding=3, fontsize=8)
    axis.margins(x=0.12)
    axis.invert_yaxis()  # the first entry on top
    axis.set_xlabel(xlabel)
    save_figure(figure, artifacts / "benchmarks" / f"{name}.png")


def print_ratio(ratio: float, meaning: str) -> None:
    """Print the last line of a benchmark, `ratio 61.3: ours / wfdb, records per second (at least 50)`."""
    print(f"ratio {ratio:.3g}: {meaning}")
