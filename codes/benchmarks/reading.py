"""How fast raw records are read: `ecg.formats.wfdb.read_record`, with all its checks, against `wfdb.rdsamp`.

Both read the same files, single-threaded and from a warm page cache, and take turns; wfdb reads a random subset of
them, which is long enough. They must give the same int16 microvolts, bit for bit.

Reads:  PTB-XL/ptbxl_database.csv PTB-XL/records100/
Writes: artifacts/benchmarks/reading.{csv,png}
Run:    python codes/benchmarks/reading.py

This should give at least 50 times the records per second of wfdb.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import wfdb

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import interleaved, plot_bars, print_ratio, write_results
from ecg.artifacts import UserError
from ecg.command_line import Folders, check_at_least, run
from ecg.formats.wfdb import UV_PER_MV, RecordError, read_record
from ecg.labels import read_database
from ecg.preprocessing import DURATION

FS = 100  # Hz


@dataclass(frozen=True)
class Settings(Folders):
    wfdb_records: int = 300
    """How many records wfdb reads, drawn at random from all."""
    repeats: int = 5
    """How often each side reads its records; the median counts."""


def read(file: Path) -> np.ndarray:
    return read_record(file, fs=FS, n_samples=FS * DURATION)


def is_usable(file: Path) -> bool:
    try:
        read(file)
    except RecordError as error:
        print(f"left out: {error}")
        return False
    return True


def benchmark(*, data: Path, artifacts: Path, wfdb_records: int, repeats: int) -> None:
    check_at_least("--wfdb-records", wfdb_records, 1)
    check_at_least("--repeats", repeats, 1)
    files = [file for name in read_database(data).filename_lr if is_usable(file := data / name)]  # warms the cache
    if not files:
        raise UserError(f"{data}: no record can be read")
    chosen = np.random.default_rng(0).permutation(len(files))[:wfdb_records]
    subset = [files[i] for i in chosen]
    for file in subset:
        millivolt, _ = wfdb.rdsamp(str(file))
        if not np.array_equal(np.rint(millivolt * UV_PER_MV).astype(np.int16), read(file)):
            raise UserError(f"{file}: read_record and wfdb.rdsamp disagree")
    print(f"{len(subset)} records: read_record and wfdb.rdsamp give the same int16 microvolts, bit for bit")

    def ours() -> None:
        for file in files:
            read(file)

    def theirs() -> None:
        for file in subset:
            wfdb.rdsamp(str(file))

    seconds = interleaved({"read_record": ours, "wfdb.rdsamp": theirs}, repeats)
    table = pd.DataFrame({"reader": list(seconds), "n": [len(files), len(subset)], "repeats": repeats})
    table["seconds"] = [np.median(s) for s in seconds.values()]
    table["records_per_second"] = table.n / table.seconds
    table["slowest_repeat"] = table.n / [s.max() for s in seconds.values()]  # also in records per second
    table["fastest_repeat"] = table.n / [s.min() for s in seconds.values()]
    print(table.round(3).to_string(index=False))
    write_results(table, artifacts, "reading", packages=("wfdb",))
    speed = dict(zip(table.reader, table.records_per_second, strict=True))
    plot_bars(speed, artifacts, "reading", xlabel="records per second", title="Reading 12-lead records of 10 s")
    ratio = speed["read_record"] / speed["wfdb.rdsamp"]
    print_ratio(ratio, "read_record / wfdb.rdsamp, records per second (must be at least 50)")


if __name__ == "__main__":
    run(benchmark, Settings, __doc__)
