"""Raw records in, one preprocessed array out, and that array as every later stage reads it."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import wfdb
from sklearn.pipeline import Pipeline, make_pipeline
from tqdm import tqdm

from ecg.artifacts import UserError, atomic, read_json, read_table, require, write_csv, write_json
from ecg.custom_transformers import AmplitudeLimit, BandPass, LeadStandardizer, TimeDerivative
from ecg.labels import LEADS, SPLITS, read_split, read_split_facts

DURATION = 10  # seconds of a PTB-XL record
UV_PER_MV = 1000  # stored signals are int16 microvolts, which is also PTB-XL's own resolution
NAN_OF_FORMAT_16 = np.iinfo(np.int16).min
MADE_BY = "codes/03_preprocess.py"
CHUNK = 512  # records in memory at a time while preprocessing: 25 MB at 100 Hz


class RecordError(Exception):
    """Why a record cannot be used, in words for `rejected.csv`."""


@dataclass(frozen=True)
class Header:
    """What a WFDB header says: sampling rate in Hz, leads, and per lead format, gain, unit and checksum."""

    fs: float
    n_samples: int
    leads: tuple[str, ...]
    files: tuple[str, ...]
    plain: bool  # all leads interleaved in one file, format 16, 1000 units per mV, no offset
    checksums: tuple[int | None, ...]


def read_header(path: Path) -> Header:
    """Parse the WFDB header `path` + `.hea` (https://physionet.org/physiotools/wag/header-5.htm)."""
    file = Path(f"{path}.hea")
    try:
        lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip() and line[0] != "#"]
        first = lines[0].split()
        n_leads, fs, n_samples = int(first[1]), float(first[2].split("/")[0]), int(first[3])
        fields = [line.split(maxsplit=8) for line in lines[1 : 1 + n_leads]]
        if len(fields) != n_leads:
            raise ValueError(f"{n_leads} leads announced, {len(fields)} described")
        return Header(
            fs=fs,
            n_samples=n_samples,
            leads=tuple(f[8].strip() if len(f) > 8 else "" for f in fields),
            files=tuple(f[0] for f in fields),
            plain=all(f[1] == "16" and f[0] == fields[0][0] and _is_microvolt(f[2]) for f in fields),
            checksums=tuple(int(f[6]) if len(f) > 6 else None for f in fields),
        )
    except FileNotFoundError:
        raise RecordError(f"{file.name} is missing") from None
    except (ValueError, IndexError) as error:
        raise RecordError(f"{file.name} is not a WFDB header: {error}") from None


@lru_cache(maxsize=1024)
def _is_microvolt(gain: str) -> bool:
    match = re.fullmatch(r"([\d.eE+]+)(?:\((-?\d+)\))?/mV", gain)
    return bool(match) and float(match[1]) == UV_PER_MV and int(match[2] or 0) == 0


def read_record(path: Path, *, fs: int, n_samples: int) -> np.ndarray:
    """Return one 12-lead record as int16 microvolts, (n_samples, 12), leads in the order of LEADS.

    PTB-XL's own format is read straight from the file, anything else by `wfdb`. Raises `RecordError` if a file is
    missing or truncated, if rate, length or leads differ from what is asked for, if the checksum disagrees, if a
    sample is NaN or if a lead is flat.
    """
    header = read_header(path)
    if header.fs != fs:
        raise RecordError(f"sampled at {header.fs:g} Hz, expected {fs} Hz")
    if header.n_samples != n_samples:
        raise RecordError(f"{header.n_samples} samples long, expected {n_samples}")
    if tuple(map(str.lower, header.leads)) != _LEADS_LOWER:
        raise RecordError(f"leads are {' '.join(header.leads)}, expected {' '.join(LEADS)}")
    record = _read_plain(path, header) if header.plain else _read_any(path)
    if record.min() == NAN_OF_FORMAT_16:
        raise RecordError("contains NaN")
    flat = (record == record[0]).all(axis=0)
    if flat.any():
        raise RecordError(f"lead {LEADS[int(flat.argmax())]} is flat")
    return record


_LEADS_LOWER = tuple(map(str.lower, LEADS))  # PTB-XL writes AVR, the field writes aVR


def _read_plain(path: Path, header: Header) -> np.ndarray:
    file = path.parent / header.files[0]
    try:
        samples = np.fromfile(file, "<i2")
    except FileNotFoundError:
        raise RecordError(f"{file.name} is missing") from None
    if samples.size != header.n_samples * len(LEADS):
        raise RecordError(f"{file.name} has {samples.size // len(LEADS)} samples, its header says {header.n_samples}")
    samples = samples.reshape(header.n_samples, len(LEADS))
    sums = samples.sum(axis=0, dtype=np.int64) % 65536  # the header may give it signed or unsigned
    for lead, found, stated in zip(LEADS, sums.tolist(), header.checksums, strict=True):
        if stated is not None and found != stated % 65536:
            raise RecordError(f"checksum of lead {lead} disagrees: {found} in {file.name}, {stated} in its header")
    return samples


def _read_any(path: Path) -> np.ndarray:
    try:
        record = wfdb.rdrecord(str(path))
    except (OSError, ValueError, IndexError) as error:
        raise RecordError(f"wfdb cannot read it: {error}") from None
    if any(unit.lower() not in ("mv", "uv") for unit in record.units):
        raise RecordError(f"unit is {record.units}, expected mV or uV")
    scale = np.asarray([UV_PER_MV if unit.lower() == "mv" else 1 for unit in record.units])
    microvolt = np.rint(record.p_signal * scale)
    if not np.isfinite(microvolt).all():
        raise RecordError("contains NaN")
    return microvolt.clip(-32767, 32767).astype(np.int16)


def preprocessor(meta: dict[str, Any]) -> Pipeline:
    """Return the fitted filter and limit that `signals/meta.json` describes; takes and gives millivolts."""
    steps = make_pipeline(BandPass(**meta["filter"], fs=meta["fs"]), AmplitudeLimit(meta["limit_mv"]))
    return steps.fit(np.zeros((1, len(meta["leads"]), 2), np.float32))  # nothing is learned from data


def preprocess(
    *,
    data: Path,
    artifacts: Path,
    sampling_rate: Literal[100, 500],
    band: tuple[float, float],
    limit_mv: float,
    strict: bool,
) -> None:
    """Read, check, filter and store all records of the three splits in `artifacts/signals/`.

    `signals.npy` int16 microvolts (n_records, 12, n_samples); `records.csv` row -> ecg_id; `rejected.csv` ecg_id,
    file, reason; `meta.json` with the train mean and standard deviation of each lead and of its time derivative.
    """
    table = pd.concat([read_split(artifacts, name).assign(split=name) for name in SPLITS], ignore_index=True)
    files = table["filename_lr" if sampling_rate == 100 else "filename_hr"]
    require(data / f"records{sampling_rate}", "codes/00_get_data.py")
    n_samples = DURATION * sampling_rate
    meta = {
        "fs": sampling_rate,
        "n_samples": n_samples,
        "leads": LEADS,
        "unit": "uV",
        "filter": {"low": band[0], "high": band[1], "order": 3},
        "limit_mv": limit_mv,
        "splits": read_split_facts(artifacts),
    }
    most_mv = np.iinfo(np.int16).max / UV_PER_MV
    if limit_mv > most_mv:
        raise UserError(f"--limit-mv is {limit_mv}, must be at most {most_mv}, where int16 microvolts end")
    try:
        steps = preprocessor(meta)
    except ValueError as error:
        raise UserError(f"--band or --limit-mv: {error}") from None

    folder = artifacts / "signals"
    digest, rejected, kept = hashlib.sha256(), [], []
    scalers = {"signal": LeadStandardizer(), "derivative": LeadStandardizer()}
    derive = TimeDerivative(fs=sampling_rate)
    is_train = (table.split == "train").to_numpy()
    with atomic(folder / "signals.npy") as path:
        shape = (len(table), len(LEADS), n_samples)
        array = np.lib.format.open_memmap(path, "w+", np.int16, shape)
        for rows, raw in _read_chunks(data, files, sampling_rate, n_samples, rejected, strict=strict):
            digest.update(table.ecg_id.to_numpy()[rows].tobytes() + raw.tobytes())
            millivolt = steps.transform(np.swapaxes(raw, 1, 2).astype(np.float32) / UV_PER_MV)
            array[len(kept) : len(kept) + len(rows)] = np.rint(millivolt * UV_PER_MV)
            kept.extend(rows)
            train = millivolt[is_train[rows]]
            if len(train):
                scalers["signal"].partial_fit(train)
                scalers["derivative"].partial_fit(derive.fit_transform(train))
        array.flush()
        if not any(is_train[kept]):
            raise UserError(f"none of the {is_train.sum()} training records in {data} can be read: {rejected[0][2]}")
        _shorten(path, array, len(kept))
    meta["mean"] = {name: scaler.mean_ for name, scaler in scalers.items()}
    meta["std"] = {name: scaler.scale_ for name, scaler in scalers.items()}
    meta["n_records"], meta["source_sha256"] = len(kept), digest.hexdigest()
    write_csv(
        pd.DataFrame({"row": range(len(kept)), "ecg_id": table.ecg_id.to_numpy()[kept]}),
        folder / "records.csv",
    )
    lost = pd.DataFrame([(table.ecg_id[i], *rest) for i, *rest in rejected], columns=["ecg_id", "file", "reason"])
    write_csv(lost, folder / "rejected.csv")
    write_json(meta, folder / "meta.json")
    print(f"{len(kept)} records of {n_samples} samples at {sampling_rate} Hz in {folder / 'signals.npy'}")
    if rejected:
        print(f"{len(rejected)} records rejected, see {folder / 'rejected.csv'}; the first: {rejected[0][2]}")


def _read_chunks(
    data: Path, files: pd.Series, fs: int, n_samples: int, rejected: list, *, strict: bool
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield (rows of the table, their records (n, n_samples, 12)); unreadable ones are added to `rejected`."""
    with tqdm(total=len(files), unit="record", desc="reading", mininterval=1) as progress:
        for start in range(0, len(files), CHUNK):
            rows, records = [], []
            for row in range(start, min(start + CHUNK, len(files))):
                try:
                    records.append(read_record(data / files.iloc[row], fs=fs, n_samples=n_samples))
                    rows.append(row)
                except RecordError as error:
                    if strict:
                        raise UserError(f"{data / files.iloc[row]}: {error} (--strict)") from None
                    rejected.append((row, files.iloc[row], str(error)))
            progress.update(min(CHUNK, len(files) - start))
            if rows:
                yield rows, np.stack(records)


def _shorten(path: Path, array: np.memmap, n_records: int) -> None:
    """Cut an `.npy` file to its first rows without reading it: a shorter shape in the header, then the size."""
    if n_records == len(array):
        return
    header = {"descr": "<i2", "fortran_order": False, "shape": (n_records, *array.shape[1:])}
    with path.open("r+b") as file:
        np.lib.format.write_array_header_1_0(file, header)
        if file.tell() != array.offset:
            raise RuntimeError(f"the header of {path} changed its length")
        file.truncate(array.offset + n_records * array.strides[0])


@dataclass(frozen=True)
class Signals:
    """The preprocessed records. `array` is memory-mapped: int16 microvolts (n_records, 12, n_samples)."""

    array: np.ndarray
    ecg_id: np.ndarray
    meta: dict[str, Any]

    @property
    def fs(self) -> int:
        return self.meta["fs"]

    def rows(self, ecg_id: np.ndarray) -> np.ndarray:
        """Return the rows of `array` that hold these records; raise a `UserError` for one that is not there."""
        rows = pd.Index(self.ecg_id).get_indexer(ecg_id)
        if (rows < 0).any():
            missing = np.asarray(ecg_id)[rows < 0][0]
            raise UserError(f"ecg_id {missing} is not in signals/records.csv: run {MADE_BY} (or see rejected.csv)")
        return rows

    def millivolt(self, ecg_id: np.ndarray) -> np.ndarray:
        """Return records as float32 millivolts, (n, 12, n_samples)."""
        return self.array[self.rows(ecg_id)].astype(np.float32) / UV_PER_MV


def load_signals(artifacts: Path) -> Signals:
    """Open `artifacts/signals/` and check that its three files belong together."""
    folder = artifacts / "signals"
    meta = read_json(folder / "meta.json", made_by=MADE_BY)
    if tuple(meta["leads"]) != LEADS or meta["unit"] != "uV":
        raise UserError(f"{folder / 'meta.json'}: leads {meta['leads']} in {meta['unit']}: run {MADE_BY} again")
    if meta["splits"] != read_split_facts(artifacts):  # its mean and deviation are of other training records
        raise UserError(f"{folder} was made for other splits than ptbxl_*.csv: run {MADE_BY} again")
    ecg_id = read_table(folder / "records.csv", made_by=MADE_BY, columns=("row", "ecg_id")).ecg_id.to_numpy()
    array = np.load(require(folder / "signals.npy", MADE_BY), mmap_mode="r")
    if array.shape != (len(ecg_id), len(LEADS), meta["n_samples"]) or array.dtype != np.int16:
        raise UserError(
            f"{folder / 'signals.npy'}: {array.dtype} {array.shape} disagrees with records.csv and meta.json: "
            f"run {MADE_BY} again"
        )
    return Signals(array, ecg_id, meta)


def available(artifacts: Path, signals: Signals, split: str) -> pd.DataFrame:
    """Return the table of a split without the records that preprocessing rejected."""
    table = read_split(artifacts, split)
    return table[table.ecg_id.isin(signals.ecg_id)].reset_index(drop=True)
