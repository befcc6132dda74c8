"""How time and memory of the scripts grow with the number of records.

The records of --data are repeated under new ids, as links to the same files, and 02, 03 and one epoch of 05 with its
preset for all of PTB-XL run on them with their own command lines. A run on 200 records measures the start-up (imports,
building the network, figures); what a larger run takes beyond it, per 1,000 records beyond it, is its rate. 02 and 03
run several times, the medians count; the training runs once. Memory is what a process holds by itself (anonymous,
sampled every 20 ms) and with mapped files, whose pages the system takes back when it needs them.

Reads:  PTB-XL/ptbxl_database.csv PTB-XL/scp_statements.csv PTB-XL/records100/
Writes: artifacts/benchmarks/scaling.{csv,png}
Run:    python codes/benchmarks/scaling.py

This should give, for each script, rates at the two largest sizes within 15 % of each other; for 03 at 21,799 records at
most 60 s on two cores; for training an anonymous memory at 100,000 records within 10 % of that at 21,799.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import print_ratio, write_results
from ecg.artifacts import UserError, require, write_csv
from ecg.command_line import Folders, check_at_least, run
from ecg.labels import read_database
from ecg.plots import COLOURS, panels, save_figure

START_UP = 200  # records, of which a tenth is for validation
TRAINING = "05_train_resnet1d.py"
SCRIPTS = {"02_split.py": (), "03_preprocess.py": (), TRAINING: ("--preset", "full", "--epochs", "1")}


@dataclass(frozen=True)
class Settings(Folders):
    sizes: tuple[int, ...] = (2_500, 21_799, 100_000)
    """Numbers of records, each above 200; 21,799 is all of PTB-XL."""
    train_sizes: tuple[int, ...] = (2_500, 21_799, 100_000)
    """Those of --sizes at which the network is trained too, the longest part by far."""
    repeats: int = 3
    """How often 02 and 03 run at each size."""
    scratch: Path | None = None
    """Folder for the repeated data set, deleted after each size (24 kB a record); by default the system's."""


def repeat_ptbxl(data: Path, folder: Path, n: int) -> None:
    """Write a data set of `n` records to `folder`: those of `data` in turn, under new ecg_ids and patient_ids."""
    database = read_database(data).sample(frac=1, random_state=0)  # any beginning of it is a fair sample
    turn, row = np.divmod(np.arange(n), len(database))
    table = database.iloc[row].assign(ecg_id=np.arange(1, n + 1))
    table["patient_id"] += turn * (database.patient_id.max() + 1)
    write_csv(table, folder / "ptbxl_database.csv")
    shutil.copy(data / "scp_statements.csv", folder)
    (folder / "records100").symlink_to((data / "records100").resolve())


def measure(script: str, *arguments: str) -> dict[str, float]:
    """Run a numbered script; return wall-clock and processor seconds and its peaks of memory in MB."""
    path = Path(__file__).resolve().parents[1] / script
    before, started = os.times(), time.perf_counter()
    anonymous = total = 0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([sys.executable, str(path), *arguments], stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:
            kilobytes = memory_of(process.pid)
            anonymous = max(anonymous, kilobytes.get("RssAnon", 0))
            total = max(total, kilobytes.get("VmHWM", 0))  # the peak, kept by the system
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        said.seek(0)
        if process.returncode:
            raise UserError(f"{script} {' '.join(arguments)} failed:\n{said.read()[-2000:]}")
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": seconds, "cpu_seconds": used, "peak_anonymous_mb": anonymous / 1e3, "peak_rss_mb": total / 1e3}


def measure_scripts(data: Path, artifacts: Path, n: int, *, repeats: int, trains: bool) -> list[dict[str, Any]]:
    """Run the scripts on a data set of `n` records; return a row of medians for each."""
    rows = []
    for script, flags in SCRIPTS.items():
        if script == TRAINING and not trains:
            continue
        times = 1 if script == TRAINING else repeats
        arguments = ("--data", str(data), "--artifacts", str(artifacts), *flags)
        medians = pd.DataFrame([measure(script, *arguments) for _ in range(times)]).median().to_dict()
        rows.append({"script": script, "n": n, "repeats": times, **medians})
        print(f"{script}, {n:,} records: " + ", ".join(f"{k} {v:,.1f}" for k, v in medians.items()), flush=True)
    return rows


def memory_of(pid: int) -> dict[str, int]:
    """Return the memory of a process in kB by the names of Linux's /proc/PID/status; empty when it has ended."""
    lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return {fields[0].rstrip(":"): int(fields[1]) for fields in lines if fields[-1] == "kB"}


def add_rates(table: pd.DataFrame) -> pd.DataFrame:
    """Add seconds_per_1000 beyond the start-up and its ratio to that of the size before; sizes rise within a script."""
    table = table.sort_values("script", kind="stable", ignore_index=True)
    start = table.groupby("script").seconds.transform("first")  # at n = START_UP, where the rate is 0 / 0
    table["seconds_per_1000"] = (table.seconds - start) / (table.n - START_UP) * 1000
    table["to_rate_before"] = table.seconds_per_1000 / table.groupby("script").seconds_per_1000.shift()
    return table


def plot(table: pd.DataFrame, path: Path) -> None:
    figure, axes = panels(1, 2, width=9, height=3.6, title="Time and memory over the number of records")
    for colour, (script, part) in zip(COLOURS, table.groupby("script", sort=False), strict=False):
        axes[0, 0].plot(part.n, part.seconds, color=colour, marker="o", label=script)
        axes[0, 1].plot(part.n, part.peak_anonymous_mb, color=colour, marker="o", label=f"{script}, anonymous")
        axes[0, 1].plot(part.n, part.peak_rss_mb, color=colour, marker=".", linestyle=":", label=f"{script}, all")
    axes[0, 0].set(xlabel="records", ylabel="seconds, start-up included", xscale="log", yscale="log")
    axes[0, 1].set(xlabel="records", ylabel="peak resident memory (MB)", xscale="log")
    for axis in axes[0]:
        axis.legend(fontsize=7, frameon=False)
    save_figure(figure, path)


def benchmark(
    *,
    data: Path,
    artifacts: Path,
    sizes: tuple[int, ...],
    train_sizes: tuple[int, ...],
    repeats: int,
    scratch: Path | None,
) -> None:
    if not Path("/proc/self/status").exists():
        raise UserError("memory is measured by /proc/PID/status, which only Linux has")
    check_at_least("each of --sizes", min(sizes, default=0), START_UP + 1)
    if not set() < set(train_sizes) <= set(sizes):
        raise UserError(f"--train-sizes {train_sizes} must be some of --sizes {sizes}")
    check_at_least("--repeats", repeats, 1)
    require(data / "records100", "codes/00_get_data.py")
    rows = []
    for n in (START_UP, *sorted(sizes)):
        with tempfile.TemporaryDirectory(dir=scratch, prefix="scaling_") as folder:
            repeated, made = Path(folder, "PTB-XL"), Path(folder, "artifacts")
            repeat_ptbxl(data, repeated, n)
            rows += measure_scripts(repeated, made, n, repeats=repeats, trains=n in (START_UP, *train_sizes))
    table = add_rates(pd.DataFrame(rows))
    print(table.round(2).to_string(index=False))
    write_results(table, artifacts, "scaling")
    plot(table, artifacts / "benchmarks" / "scaling.png")
    for script, part in table.groupby("script"):
        if len(part) > 2:
            before, last = part.iloc[-2:].itertuples()
            meaning = f"{script}, seconds per record at {last.n:,} / at {before.n:,}, start-up left out"
            print_ratio(last.to_rate_before, f"{meaning} (must be .85 to 1.15)")
    before, last = table[table.script == TRAINING].iloc[-2:].itertuples()
    print_ratio(
        last.peak_anonymous_mb / before.peak_anonymous_mb,
        f"{TRAINING}, peak anonymous memory at {last.n:,} / at {before.n:,} records (must be at most 1.10)",
    )


if __name__ == "__main__":
    run(benchmark, Settings, __doc__)
