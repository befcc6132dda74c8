"""How right the measurements are: R peaks, heart rate, PR, QRS, QT and axis against what else is known of the records.

Synthetic records have a truth: the times of their R peaks, and the waves of their hearts, each taken to last from two
widths before its centre to two behind it. Real ones have what others say of them: wfdb's detector `xqrs` in leads II
and V2, the axis in PTB-XL's column `heart_axis`, and statements that are made of an interval. PTB-XL gives no degrees
for its axes; AXES are those that fit best to what is measured. QRS is measured where it visibly begins and ends, which
is outside two widths. The limits in `ecg.measurements`, and net heights rather than areas for the axis, were chosen on
records of both kinds, these among them.

`agreement` is the share, or the area under the ROC curve, that `meaning` names, with a 95 % interval from a bootstrap
of patients. `median`, `bias` (the median error) and `median_absolute_error` are in `unit`.

Reads:  PTB-XL/ptbxl_database.csv PTB-XL/records100/ PTB-XL/records500/
Writes: artifacts/benchmarks/measurements.csv
Run:    python codes/benchmarks/measurements.py

This should give R peaks with a sensitivity of at least .99 against both, the axis of at least .85 of the records, and
areas of at least .9 for wide QRS, long PR and long QT.
"""

import ast
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.signal import resample_poly
from sklearn.metrics import roc_auc_score
from tqdm import tqdm
from wfdb.processing import xqrs_detect

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import interleaved, print_ratio, write_results
from ecg.artifacts import read_table
from ecg.command_line import Folders, check_at_least, run
from ecg.formats.wfdb import read_record
from ecg.leads import LEADS
from ecg.measurements import Measurements, find_r_peaks, measure
from ecg.stats import interval, patient_weights
from ecg.synthetic import make_records, plan_cases, sick_heart
from ecg.synthetic_heart import NORMAL, Beat, Heart

NEAR = 0.15  # s; as far from a beat a detection is one of it (ANSI/AAMI EC57)
EDGE = 0.3  # s at either end of a record in which beats do not count: detectors differ there by design
AXES = {"ALAD": (-90, -30), "LAD": (-30, 0), "MID": (0, 90), "RAD": (90, 120), "ARAD": (120, 270)}  # degrees
SEPARATED = (  # statement, what it makes longer, ms from which it is called so
    ("CLBBB", "qrs_ms", 120),
    ("CRBBB", "qrs_ms", 120),
    ("1AVB", "pr_ms", 200),
    ("LNGQT", "qtc_bazett_ms", 460),
)


@dataclass(frozen=True)
class Settings(Folders):
    synthetic: int = 300
    """Synthetic records to measure."""
    xqrs_records: int = 40
    """Real records in which wfdb's detector looks for beats too, which takes a second each."""
    replicates: int = 1000
    """Bootstrap replicates for the intervals."""


@dataclass(frozen=True)
class Truth:
    """What a synthetic record is made of: R peaks in s, intervals in ms (nan for PR without P waves)."""

    beats: np.ndarray
    heart_rate: float
    pr_ms: float
    qrs_ms: float
    qt_ms: float


def truth_of(heart: Heart, beats: Sequence[Beat]) -> Truth:
    """Return the truth of a record with `beats` inside it; an interval is the median of the normal beats'."""
    parts = [heart.waves[name] for name in ("Q", "R", "S", "R'") if name in heart.waves]
    size = [np.linalg.norm(wave.vector) for wave in parts]
    parts = [wave for wave, mv in zip(parts, size, strict=True) if mv > 0.05 * max(size)]
    on = min(wave.centre - 2 * wave.width for wave in parts)
    off = max(wave.centre + 2 * wave.width_after for wave in parts)
    p_on = -0.04 - heart.pr if heart.rhythm not in ("AFIB", "AFLT") else np.nan
    t = heart.waves["T"]
    stretch = np.median([beat.stretch for beat in beats if beat.kind == NORMAL])
    times = np.array([beat.time for beat in beats])
    qt = (t.centre + 2 * t.width_after) * stretch - on
    return Truth(times, 60 / np.diff(times).mean(), 1000 * (on - p_on), 1000 * (off - on), 1000 * qt)


def synthetic_records(n: int) -> tuple[pd.DataFrame, list[Truth], dict[int, list[np.ndarray]]]:
    """Return (rows of ptbxl_database.csv with columns rhythm and diagnoses, truths, {Hz: signals (12, t) in mV})."""
    cases = plan_cases(n, np.random.default_rng([0, 0]))
    rows: list[dict[str, Any]] = []
    truths: list[Truth] = []
    signals: dict[int, list[np.ndarray]] = {100: [], 500: []}
    for case, record in zip(cases, make_records(n), strict=True):
        heart, _ = sick_heart(case, np.random.default_rng([0, 1, record.row["ecg_id"]]))  # as it was made
        rows.append(record.row | {"rhythm": case.rhythm, "diagnoses": " ".join(case.diagnoses)})
        truths.append(truth_of(heart, record.beats))
        for fs, signal in record.signals.items():
            signals[fs].append(signal.astype(np.float32) / 1000)
    return pd.DataFrame(rows), truths, signals


def measure_all(signals: Sequence[np.ndarray], fs: int) -> pd.DataFrame:
    """Return a row of measurements per record, nan for None."""
    rows = [vars(measure(signal, LEADS, fs)) for signal in tqdm(signals, desc=f"measuring, {fs} Hz", disable=None)]
    return pd.DataFrame(rows, columns=list(Measurements.__dataclass_fields__)).astype(float)


def hits(found: np.ndarray, wanted: np.ndarray, *, seconds: float) -> tuple[int, int]:
    """Return (how many of `wanted` (n,) in s have one of `found` within NEAR, how many there are), edges left out."""
    inner = wanted[(wanted > EDGE) & (wanted < seconds - EDGE)]
    near = np.abs(inner[:, None] - found[None, :]).min(axis=1, initial=np.inf) <= NEAR
    return int(near.sum()), len(inner)


class Table:
    """The rows of the result, each with a bootstrap over the patients of `records`, columns ecg_id and patient_id."""

    def __init__(self, *, replicates: int):
        self.rows: list[dict[str, Any]] = []
        self.replicates = replicates

    def _weights(self, records: pd.DataFrame) -> np.ndarray:
        return patient_weights(records, replicates=self.replicates, seed=0).to_numpy()  # (n, 1 + replicates)

    def _add(self, quantity: str, data: str, n: int, meaning: str, values: np.ndarray, **more: Any) -> None:
        low, high = interval(values[None, 1:])
        agreement = {"agreement": values[0], "ci_low": low[0], "ci_high": high[0], "meaning": meaning}
        self.rows.append({"quantity": quantity, "data": data, "n": n, **more, **agreement})

    def share(self, quantity: str, data: str, records: pd.DataFrame, meaning: str, good, of=1, **more: Any) -> None:
        """Add the sum of `good` (n,) over the sum of `of` (n,)."""
        weights = self._weights(records)
        of = np.broadcast_to(np.asarray(of, float), len(records))
        values = (np.asarray(good, float) @ weights) / (of @ weights)
        self._add(quantity, data, int(of.sum()), meaning, values, **more)

    def error(
        self, quantity: str, data: str, records: pd.DataFrame, error: pd.Series, within: float, unit: str
    ) -> None:
        """Add the error of those (n,) that were measured, and the share of all of them that is at most `within`."""
        error = np.asarray(error, float)
        more = {"bias": np.nanmedian(error), "median_absolute_error": np.nanmedian(np.abs(error)), "unit": unit}
        good = np.abs(error) <= within
        self.share(quantity, data, records, f"share within {within:g} {unit}, measured or not", good, **more)

    def area(self, quantity: str, data: str, records: pd.DataFrame, score: pd.Series, positive: pd.Series) -> None:
        """Add the area under the ROC curve of `score` (n,) for `positive` (n,); what was not measured is left out."""
        there = score.notna().to_numpy()
        weights = self._weights(records)[there]
        label, score = positive.to_numpy()[there], score.to_numpy()[there]
        if len(set(label)) == 2:
            values = [roc_auc_score(label, score, sample_weight=w) if w @ label else np.nan for w in weights.T]
            n = int(label.sum())
            self._add(quantity, data, n, f"area under ROC curve, {n} against {len(label) - n}", np.array(values))


def on_synthetic(table: Table, n: int) -> None:
    records, truths, signals = synthetic_records(n)
    steady = (records.rhythm != "PACE").to_numpy()  # the spike before QRS is no part of these truths
    for fs, of_rate in signals.items():
        data = f"synthetic, {fs} Hz"
        found = [find_r_peaks(signal, fs) / fs for signal in of_rate]
        pairs = list(zip(found, [truth.beats for truth in truths], strict=True))
        _add_beats(table, data, records, pairs, "planted beats", pairs, seconds=10)
        measured = measure_all(of_rate, fs)
        for name, within, unit in (
            ("heart_rate", 2, "/min"),
            ("pr_ms", 30, "ms"),
            ("qrs_ms", 30, "ms"),
            ("qt_ms", 30, "ms"),
        ):
            truth = np.array([getattr(truth, name) for truth in truths])
            chosen = np.isfinite(truth) & (steady | (name == "heart_rate"))
            table.error(name, data, records[chosen], measured[name].to_numpy()[chosen] - truth[chosen], within, unit)
        _add_p_waves(table, data, records.rhythm, records, measured)


def _add_beats(
    table: Table, data: str, records: pd.DataFrame, pairs, reference: str, all_pairs, *, seconds: float
) -> None:
    """Add how many of the wanted in `pairs` of (found, wanted), in s, are found, and the reverse in `all_pairs`."""
    near = [hits(found, wanted, seconds=seconds) for found, wanted in pairs]
    off = [found[np.abs(found - time).argmin()] - time for found, wanted in pairs for time in wanted if len(found)]
    off = np.array([ms for ms in off if abs(ms) <= NEAR]) * 1000
    more = {"bias": np.median(off), "median_absolute_error": np.median(np.abs(off)), "unit": "ms"}
    good, of = np.array(near).T
    table.share("R peak sensitivity", data, records, f"share of {reference} found within 150 ms", good, of, **more)
    good, of = np.array([hits(wanted, found, seconds=seconds) for found, wanted in all_pairs]).T
    table.share("R peak precision", data, records, f"share of those found that are {reference}", good, of)


def _add_p_waves(table: Table, data: str, rhythm: pd.Series, records: pd.DataFrame, measured: pd.DataFrame) -> None:
    has_p = measured.pr_ms.notna().to_numpy()
    for name, good in (("SR", has_p), ("AFIB", ~has_p)):
        chosen = (rhythm == name).to_numpy()
        if chosen.any():
            meaning = "share in which P is found" if name == "SR" else "share in which no P is found"
            table.share(f"P waves in {name}", data, records[chosen], meaning, good[chosen])


def on_real(table: Table, data: Path, *, xqrs_records: int) -> float:
    """Add what the real records show; return how many times as fast as xqrs in one lead all leads are measured."""
    records = read_table(data / "ptbxl_database.csv", made_by="codes/00_get_data.py")
    codes = records.scp_codes.map(lambda text: set(ast.literal_eval(text)))
    signals = [_signal(data / name, 100) for name in tqdm(records.filename_lr, desc="reading", disable=None)]
    measured = measure_all(signals, 100)

    whole = [i for i, name in enumerate(records.filename_hr) if Path(data, f"{name}.dat").exists()]
    fast = {i: _signal(data / records.filename_hr[i], 500) for i in whole[: max(xqrs_records, 80)]}
    if fast:
        chosen = list(fast)
        again = measure_all(list(fast.values()), 500)
        for name, within in (("pr_ms", 10), ("qrs_ms", 10), ("qt_ms", 10), ("axis_degrees", 5)):
            change = again[name].to_numpy() - measured[name].to_numpy()[chosen]
            unit = "degrees" if name == "axis_degrees" else "ms"
            change = (change + 180) % 360 - 180 if unit == "degrees" else change
            both = np.isfinite(change)
            quantity = f"{name}, 500 against 100 Hz"
            table.error(quantity, "PTB-XL", records.iloc[chosen][both], change[both], within, unit)
    rest = [i for i in range(len(records)) if i not in fast]
    chosen = [*fast, *np.random.default_rng(0).permutation(rest)][:xqrs_records]
    at_500 = [fast[i] if i in fast else resample_poly(signals[i], 5, 1, axis=1, padtype="line") for i in chosen]
    ours, lead_ii, either = [], [], []
    for signal in tqdm(at_500, desc="xqrs", disable=None):
        ii, v2 = (
            xqrs_detect(signal[LEADS.index(name)].astype(float), 500, verbose=False) / 500 for name in ("II", "V2")
        )
        ours.append(find_r_peaks(signal, 500) / 500)
        lead_ii.append(np.asarray(ii))
        either.append(np.concatenate([ii, v2]))
    pairs = [list(zip(ours, theirs, strict=True)) for theirs in (lead_ii, either)]
    beats = "xqrs's beats (sensitivity: in II; precision: in II or V2)"
    _add_beats(table, "PTB-XL", records.iloc[chosen], pairs[0], beats, pairs[1], seconds=10)

    named = records.heart_axis.isin(AXES).to_numpy()
    for tolerance in (0, 10):
        agree = [
            _inside(a, AXES[name], tolerance)
            for a, name in zip(measured.axis_degrees[named], records.heart_axis[named], strict=True)
        ]
        meaning = (
            f"share within heart_axis's range, by {tolerance} degrees wider"
            if tolerance
            else "share within heart_axis's range"
        )
        table.share("axis", "PTB-XL", records[named], meaning, agree)
    normal = codes.map(lambda names: "NORM" in names)
    for code, name, limit in SEPARATED:
        has = codes.map(lambda names, code=code: code in names)
        either_one = has | (normal & ~has)
        value = measured[name]
        table.area(f"{name} of {code} against NORM", "PTB-XL", records[either_one], value[either_one], has[either_one])
        for group, chosen_ones in ((code, has), ("NORM", normal & ~has)):
            there = (chosen_ones & value.notna()).to_numpy()
            if there.any():
                long = value[there] > limit
                more = {"median": value[there].median(), "unit": "ms"}
                table.share(f"{name} of {group}", "PTB-XL", records[there], f"share above {limit} ms", long, **more)
    rhythm = codes.map(lambda names: next((name for name in ("AFIB", "SR") if name in names), ""))
    _add_p_waves(table, "PTB-XL", rhythm, records, measured)

    timed, slow = signals[:200], at_500[0][LEADS.index("II")].astype(float)
    sides = {
        "ours": lambda: [measure(signal, LEADS, 100) for signal in timed],
        "xqrs": lambda: xqrs_detect(slow, 500, verbose=False),
    }
    seconds = {name: np.median(values) for name, values in interleaved(sides, 5).items()}
    started = time.process_time()
    sides["ours"]()
    each = 1000 * (time.process_time() - started) / len(timed)
    name = "processor time of measuring a record"
    table.rows.append({"quantity": name, "data": "PTB-XL, 100 Hz", "n": len(timed), "median": each, "unit": "ms"})
    return seconds["xqrs"] / seconds["ours"] * len(timed)


def _signal(path: Path, fs: int) -> np.ndarray:
    return read_record(path, fs=fs, n_samples=10 * fs).T.astype(np.float32) / 1000


def _inside(angle: float, bounds: tuple[float, float], tolerance: float) -> bool:
    low, high = bounds
    return bool((angle - low + tolerance) % 360 <= high - low + 2 * tolerance)  # False for nan


def benchmark(*, data: Path, artifacts: Path, synthetic: int, xqrs_records: int, replicates: int) -> None:
    check_at_least("--xqrs-records", xqrs_records, 1)
    check_at_least("--replicates", replicates, 1)
    table = Table(replicates=replicates)
    on_synthetic(table, synthetic)
    ratio = on_real(table, data, xqrs_records=xqrs_records)
    result = pd.DataFrame(table.rows)
    write_results(result, artifacts, "measurements", packages=("wfdb",))
    shown = [
        "quantity",
        "data",
        "n",
        "median",
        "bias",
        "median_absolute_error",
        "agreement",
        "ci_low",
        "ci_high",
        "meaning",
    ]
    print(result[shown].round(3).to_string(index=False))
    print_ratio(ratio, "measuring twelve leads / wfdb's xqrs in one lead, records per second")


if __name__ == "__main__":
    run(benchmark, Settings, __doc__)
