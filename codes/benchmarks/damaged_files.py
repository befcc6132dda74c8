"""What damaged files do: 1,000 mutations of a good file of each format, read and judged as predict.py does it.

The good files hold one synthetic ECG and come from the writers of the tests: libraries where there are some, else the
formats' own encoders there. A mutation changes bytes, cuts a stretch out, repeats or overwrites one, or cuts the end
off; `--seed` draws them. Each file is refused, answered with a word about it, answered with the very signal of the good
file, or answered with another signal and without a word: that last share is what a reader of this table wants to know.
It is highest where a format has no checksum. Anything but a `RecordError` is a defect and ends in exit code 1, as does
a file that takes longer than 5 s or more than 1 GB.

Writes: artifacts/benchmarks/damaged_files.csv
Run:    python codes/benchmarks/damaged_files.py
"""

import json
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import tyro
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "tests"))

from benchmarks.common import print_ratio, write_results
from ecg.artifacts import ROOT
from ecg.command_line import check_at_least, run
from ecg.formats import RecordError
from ecg.guard import examine
from ecg.labels import read_database
from ecg.leads import LEADS
from ecg.recordings import read_ecg, resample
from ecg.synthetic import write_ptbxl

MOST_SECONDS, MOST_BYTES = 5.0, 2**30
TEXT = b'0123456789,.;"{[ -e\n<>/='


@dataclass(frozen=True)
class Settings:
    artifacts: Path = ROOT / "artifacts"
    """Folder below which the table is written."""
    mutations: int = 1000
    """Damaged files per format."""
    formats: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FORMAT...", help_behavior_hint="")] = ()
    """Some of the formats, by the names in the table."""
    seed: int = 0
    """Seed of the mutations."""


def good_files(folder: Path) -> dict[str, Path]:
    """Write one good file of every format; return {format: its file, the one to damage}."""
    import test_ishne
    import test_parity
    import test_tables

    write_ptbxl(folder / "synthetic", records=20)
    first = read_database(folder / "synthetic").filename_hr.iloc[0]
    millivolt = read_ecg(folder / "synthetic" / first).rows(LEADS)
    leads = dict(zip(LEADS, millivolt, strict=True))
    files = {}
    for name, (write, suffix, *_) in test_parity.FORMATS.items():
        path = folder / f"good_{name.lower()}{suffix}"
        write(path, leads, 500, "uV")
        files[name] = path if suffix else Path(f"{path}.hea")
    files["WFDB signals"] = files["WFDB"].with_suffix(".dat")
    counts = np.rint(millivolt * 200).astype(int)
    files["ISHNE"] = folder / "good.ecg"
    files["ISHNE"].write_bytes(test_ishne.holter(counts))
    files["Kardia"] = folder / "good_kardia.json"
    limb = np.rint(resample(millivolt[:6], 500, 300) * 2000).astype(int).T
    files["Kardia"].write_text(json.dumps(test_tables.kardia_recording(limb)))
    return files


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Return `content` with a damage; half of them near its beginning, where headers are."""
    changed = bytearray(content)
    reach = min(len(content), 4000) if rng.random() < 0.5 else len(content)
    start = int(rng.integers(reach))
    end = min(len(content), start + int(rng.integers(1, 300)))
    match rng.integers(5):
        case 0:
            for i in rng.integers(0, reach, rng.integers(1, 20)):
                changed[i] = rng.integers(256)
        case 1:
            del changed[start:end]
        case 2:
            changed[start:start] = content[start:end]
        case 3:
            changed[start:end] = bytes(rng.choice(list(TEXT), end - start).tolist())
        case 4:
            del changed[start:]
    return bytes(changed)


def peak_bytes() -> int:
    """Return the most memory that this process had so far; 0 where the system does not say."""
    try:
        from resource import RUSAGE_SELF, getrusage  # POSIX only
    except ImportError:
        return 0
    return getrusage(RUSAGE_SELF).ru_maxrss * 1024


def outcome(path: Path, expected: np.ndarray, words: dict) -> str:
    """Return refused, said, unchanged, silent or traceback."""
    try:
        recording = read_ecg(path, **words)
        findings = examine(recording.signal, recording.leads, recording.fs)
    except RecordError:
        return "refused"
    except Exception:
        traceback.print_exc()
        return "traceback"
    signal = recording.signal
    if signal.shape == expected.shape and np.allclose(signal, expected, atol=1e-6, equal_nan=True):
        return "unchanged"
    return "said" if findings or recording.notes or (recording.assumed and not words) else "silent"


def damage_files(*, artifacts: Path, mutations: int, formats: tuple[str, ...], seed: int) -> None:
    check_at_least("--mutations", mutations, 1)
    rows, is_bad = [], False
    with tempfile.TemporaryDirectory() as scratch:
        files = good_files(Path(scratch))
        for name in formats or files:
            target = files[name]
            named = target.with_suffix(".hea") if name == "WFDB signals" else target
            words = {"fs": 500.0, "unit": "uV", "leads": LEADS} if name in ("CSV", "NPY", "MATLAB") else {}
            expected, content = read_ecg(named, **words).signal, target.read_bytes()
            rng = np.random.default_rng((seed, len(rows)))
            counts = dict.fromkeys(("refused", "said", "unchanged", "silent", "traceback"), 0)
            slowest = 0.0
            for _ in tqdm(range(mutations), name, mininterval=1):
                target.write_bytes(mutated(content, rng))
                started = time.perf_counter()
                counts[outcome(named, expected, words)] += 1
                slowest = max(slowest, time.perf_counter() - started)
            target.write_bytes(content)
            peak = peak_bytes()
            is_bad |= counts["traceback"] > 0 or slowest > MOST_SECONDS or peak > MOST_BYTES
            shares = {f"{kind}_share": round(count / mutations, 3) for kind, count in counts.items()}
            rows.append({"format": name, "n": mutations, **shares, "slowest_s": round(slowest, 2), "seed": seed})
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    write_results(table, artifacts, "damaged_files")
    print_ratio(table.silent_share.mean(), "share of damaged files answered with another signal and without a word")
    if is_bad:
        sys.exit(1)


if __name__ == "__main__":
    run(damage_files, Settings, __doc__)
