"""Stage 03: raw records in, one preprocessed array out."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline, make_pipeline
from tqdm import tqdm

from ecg.artifacts import UserError, atomic, require, sweep, write_csv, write_json
from ecg.custom_transformers import AmplitudeLimit, BandPass, LeadStandardizer, TimeDerivative
from ecg.formats import OtherForm, RecordError
from ecg.formats.wfdb import UV_PER_MV, read_record
from ecg.hardware import cores
from ecg.labels import read_records, read_splits
from ecg.leads import LEADS
from ecg.recordings import read_ecg, resample

DURATION = 10  # seconds of a PTB-XL record
MOST_SAMPLES_OFF = 2  # that a converted record may be shorter or longer than the others
CHUNK = 64  # records that one thread filters at a time: few enough for the processor's cache


def preprocessor(meta: dict[str, Any]) -> Pipeline:
    """Return the fitted filter and limit that `signals/meta.json` describes; takes and gives millivolts."""
    steps = make_pipeline(BandPass(**meta["filter"], fs=meta["fs"]), AmplitudeLimit(meta["limit_mv"]))
    return steps.fit(np.zeros((1, len(meta["leads"]), 2), np.float32))  # nothing is learned from data


def widest_band(fs: float) -> tuple[float, float]:
    """Return the edges of the band-pass in Hz: 0.5 to what the rate holds, at most the 150 Hz of a diagnostic ECG.

    Four fifths of the Nyquist frequency: 40 Hz at 100 Hz. 150 Hz: Kligfield et al., AHA/ACC/HRS recommendations I,
    2007.
    """
    return 0.5, min(0.4 * fs, 150.0)


def preprocess(
    *,
    data: Path,
    artifacts: Path,
    sampling_rate: Literal[100, 500] = 100,
    band: tuple[float, float] | None = None,
    limit_mv: float = 8.0,
    strict: bool = False,
) -> None:
    """Read, check, filter and store all records of `ptbxl_statements.csv` in `artifacts/signals/`.

    `signals.npy` int16 microvolts (n_records, 12, n_samples); `records.csv` row -> ecg_id; `rejected.csv` ecg_id,
    file, reason; `meta.json` with the train mean and standard deviation of each lead and of its time derivative.
    """
    require(data / f"records{sampling_rate}", "codes/00_get_data.py")
    table = read_records(artifacts)
    low, high = band or widest_band(sampling_rate)
    meta = {
        "fs": sampling_rate,
        "n_samples": DURATION * sampling_rate,
        "leads": LEADS,
        "unit": "uV",
        "filter": {"low": low, "high": high, "order": 3},
        "limit_mv": limit_mv,
        "records_sha256": read_splits(artifacts).records_sha256,
    }
    most_mv = np.iinfo(np.int16).max / UV_PER_MV
    if limit_mv > most_mv:
        raise UserError(f"--limit-mv is {limit_mv}, must be at most {most_mv}, where int16 microvolts end")
    try:
        steps = preprocessor(meta)
    except ValueError as error:
        raise UserError(f"--band or --limit-mv: {error}") from None

    folder = artifacts / "signals"
    sweep(folder)
    kept, rejected = _write_signals(folder, data, table, meta, steps, strict=strict)
    ecg_id = table.ecg_id.to_numpy()[kept]
    write_csv(pd.DataFrame({"row": range(len(kept)), "ecg_id": ecg_id}), folder / "records.csv")
    lost = pd.DataFrame([(table.ecg_id[i], *rest) for i, *rest in rejected], columns=["ecg_id", "file", "reason"])
    write_csv(lost, folder / "rejected.csv")
    write_json(meta, folder / "meta.json")
    print(f"{len(kept)} records of {meta['n_samples']} samples at {sampling_rate} Hz in {folder / 'signals.npy'}")
    if rejected:
        print(f"{len(rejected)} records rejected, see {folder / 'rejected.csv'}; the first: {rejected[0][2]}")


def _write_signals(
    folder: Path, data: Path, table: pd.DataFrame, meta: dict[str, Any], steps: Pipeline, *, strict: bool
) -> tuple[list[int], list[tuple[int, str, str]]]:
    """Write `signals.npy`, fit the standardisation, and complete `meta`; return the rows kept and those rejected."""
    fs, n_samples = meta["fs"], meta["n_samples"]
    files = table["filename_lr" if fs == 100 else "filename_hr"].tolist()
    is_train = (table.split == "train").to_numpy()
    derive = TimeDerivative(fs=fs).fit(np.zeros((1, len(LEADS), 2)))
    digest, rejected, kept = hashlib.sha256(), [], []
    scalers = {"signal": LeadStandardizer(), "derivative": LeadStandardizer()}

    def process(start: int) -> _Chunk:
        rows, raw, lost = _read(data, files, range(start, min(start + CHUNK, len(files))), fs, strict=strict)
        millivolt = steps.transform(np.swapaxes(raw, 1, 2).astype(np.float32) / UV_PER_MV)
        train = millivolt[is_train[rows]]
        fitted = {}
        if len(train):
            fitted["signal"] = LeadStandardizer().fit(train)
            fitted["derivative"] = LeadStandardizer().fit(derive.transform(train))
        return _Chunk(rows, raw, np.rint(millivolt * UV_PER_MV).astype("<i2"), fitted, lost)

    with atomic(folder / "signals.npy") as path, path.open("wb") as file:
        _write_header(file, (len(files), len(LEADS), n_samples))
        length = file.tell()
        with tqdm(total=len(files), unit="record", desc="reading", mininterval=1) as progress:
            # what is added up here comes in the order of the records, whichever thread was first
            for chunk in _in_order(process, range(0, len(files), CHUNK)):
                file.write(np.ascontiguousarray(chunk.microvolt))
                digest.update(np.ascontiguousarray(chunk.raw))
                kept.extend(chunk.rows)
                rejected.extend(chunk.rejected)
                for name, scaler in chunk.fitted.items():
                    scalers[name].merge(scaler)
                progress.update(len(chunk.rows) + len(chunk.rejected))
        if not any(is_train[kept]):
            raise UserError(f"none of the {is_train.sum()} training records in {data} can be read: {rejected[0][2]}")
        file.seek(0)
        _write_header(file, (len(kept), len(LEADS), n_samples))
        if file.tell() != length:
            raise RuntimeError(f"the header of {path} changed its length")
        # killed from here on, the files are complete only when meta.json is back
        (folder / "meta.json").unlink(missing_ok=True)
    digest.update("\n".join(map(str, table.ecg_id.to_numpy()[kept])).encode())
    meta["mean"] = {name: scaler.mean_ for name, scaler in scalers.items()}
    meta["std"] = {name: scaler.scale_ for name, scaler in scalers.items()}
    meta["n_records"], meta["source_sha256"] = len(kept), digest.hexdigest()
    return kept, rejected


@dataclass(frozen=True)
class _Chunk:
    """Some consecutive records after filtering."""

    rows: list[int]  # of the table, without the rejected ones
    raw: np.ndarray  # int16 (n, n_samples, 12)
    microvolt: np.ndarray  # int16 (n, 12, n_samples)
    fitted: dict[str, LeadStandardizer]  # on the training records among them; empty if there are none
    rejected: list[tuple[int, str, str]]  # row, file, reason


def _read(
    data: Path, files: list[str], rows: range, fs: int, *, strict: bool
) -> tuple[list[int], np.ndarray, list[tuple[int, str, str]]]:
    """Return the rows whose record can be used, these records (n, n_samples, 12) and the others as `rejected`."""
    n_samples = DURATION * fs
    kept, records, rejected = [], [], []
    for row in rows:
        try:
            records.append(_read_one(data / files[row], fs, n_samples))
            kept.append(row)
        except RecordError as error:
            if strict:
                raise UserError(f"{data / files[row]}: {error} (--strict)") from None
            rejected.append((row, files[row], str(error)))
    return kept, np.stack(records) if records else np.empty((0, n_samples, len(LEADS)), np.int16), rejected


def _read_one(path: Path, fs: int, n_samples: int) -> np.ndarray:
    """Return a record as int16 microvolts (n_samples, 12); one that is not as PTB-XL's are is converted.

    Raises `RecordError` if that cannot be done without a guess: what predict.py assumes and reports, a training must
    not learn from.
    """
    try:
        return read_record(path, fs=fs, n_samples=n_samples)
    except OtherForm as other:
        try:
            return _converted(path, fs, n_samples)
        except RecordError as error:
            raise RecordError(f"{other}; not converted: {error}") from None


def _converted(path: Path, fs: int, n_samples: int) -> np.ndarray:
    recording = read_ecg(next((file for file in (Path(f"{path}.hea"), Path(f"{path}.HEA")) if file.is_file()), path))
    if recording.assumed:
        raise RecordError("; ".join(recording.assumed))
    missing = [lead for lead in LEADS if lead not in recording.leads]
    if missing:
        raise RecordError(f"lead {', '.join(missing)} is missing")
    if recording.fs < fs:
        raise RecordError(f"sampled at {recording.fs:g} Hz, which does not hold what {fs} Hz show")
    if not np.isfinite(recording.signal).all():
        raise RecordError("contains NaN")
    signal = resample(recording.signal, recording.fs, fs)
    if abs(signal.shape[1] - n_samples) > MOST_SAMPLES_OFF:
        raise RecordError(f"{recording.seconds:.2f} s long, expected {n_samples / fs:g} s")
    signal = np.pad(signal[:, :n_samples], ((0, 0), (0, max(0, n_samples - signal.shape[1]))), mode="edge")
    microvolt = np.rint(signal * UV_PER_MV).clip(-32767, 32767).astype(np.int16)
    flat = microvolt.min(axis=1) == microvolt.max(axis=1)
    if flat.any():
        raise RecordError(f"lead {LEADS[int(flat.argmax())]} is flat")
    return microvolt.T


def _in_order(work: Callable[[int], _Chunk], items: Iterable[int]) -> Iterator[_Chunk]:
    """Yield `work(item)` for each item in order, from as many threads as there are cores; few results wait at a time.

    Threads suffice: the filter and NumPy's loops run without Python's lock.
    """
    threads = cores()
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _write_header(file: BinaryIO, shape: tuple[int, int, int]) -> None:
    """Write the header of an `.npy` file of int16; it is equally long for any number of records."""
    header = {"descr": "<i2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
