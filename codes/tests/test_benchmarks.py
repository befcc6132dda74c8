"""The benchmarks on a few synthetic records: that they run and leave their tables, not what they find."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import CODES

from benchmarks.scaling import START_UP, add_rates

MEASURED_ON = ["hardware", "versions", "date"]


def run_benchmark(name: str, artifacts: Path, *arguments: object) -> tuple[pd.DataFrame, str]:
    """Return the table that `codes/benchmarks/{name}.py` leaves and the last line that it prints."""
    command = [sys.executable, CODES / "benchmarks" / f"{name}.py", "--artifacts", artifacts, *arguments]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=artifacts, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (artifacts / "benchmarks" / f"{name}.png").stat().st_size > 1000
    table = pd.read_csv(artifacts / "benchmarks" / f"{name}.csv")
    assert table[MEASURED_ON].notna().all(axis=None)
    return table, done.stdout.splitlines()[-1]


def test_reading_gives_the_records_of_wfdb_and_their_speeds(synthetic, tmp_path):
    table, last = run_benchmark("reading", tmp_path, "--data", synthetic, "--wfdb-records", 5, "--repeats", 1)
    assert list(table.columns[:5]) == ["reader", "n", "repeats", "seconds", "records_per_second"]
    assert list(table.reader) == ["read_record", "wfdb.rdsamp"] and list(table.n) == [160, 5]
    ours, theirs = table.records_per_second
    assert float(last.split()[1].rstrip(":")) == pytest.approx(ours / theirs, rel=0.01)


def test_scaling_runs_the_scripts_on_repeated_records_and_leaves_nothing_else(synthetic, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    sizes = ("--sizes", 240, "--train-sizes", 240, "--repeats", 1)
    table, last = run_benchmark("scaling", tmp_path, "--data", synthetic, "--scratch", scratch, *sizes)
    assert list(table.script.unique()) == ["02_split.py", "03_preprocess.py", "05_train_resnet1d.py"]
    assert (table.groupby("script").n.unique().map(list) == pd.Series([[START_UP, 240]] * 3).tolist()).all()
    assert (table[["seconds", "cpu_seconds", "peak_anonymous_mb", "peak_rss_mb"]] > 0).all(axis=None)
    assert (table.peak_anonymous_mb < table.peak_rss_mb).all()
    before, after = table[table.script == "05_train_resnet1d.py"].peak_anonymous_mb
    assert float(last.split()[1].rstrip(":")) == pytest.approx(after / before, rel=0.01)
    assert list(scratch.iterdir()) == []


def test_rates_leave_the_start_up_out():
    sizes = [START_UP, 1000, 5000, 9000]
    table = pd.DataFrame({"script": "x", "n": sizes, "seconds": [3 + 0.002 * (n - START_UP) for n in sizes]})
    rates = add_rates(table)
    assert rates.seconds_per_1000.isna().tolist() == [True, False, False, False]
    assert rates.seconds_per_1000[1:].tolist() == pytest.approx([2, 2, 2])
    assert rates.to_rate_before[2:].tolist() == pytest.approx([1, 1])
