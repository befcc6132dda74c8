"""Raw records in, one preprocessed array out, and that array as every later stage reads it."""

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from itertools import zip_longest
from math import gcd
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pandas as pd
import wfdb
from sklearn.pipeline import Pipeline, make_pipeline
from tqdm import tqdm

from ecg.artifacts import UserError, atomic, cores, read_json, read_table, require, sweep, write_csv, write_json
from ecg.custom_transformers import AmplitudeLimit, BandPass, LeadStandardizer, TimeDerivative
from ecg.labels import LEADS, SPLITS, read_split, read_split_facts

DURATION = 10  # seconds of a PTB-XL record
UV_PER_MV = 1000  # stored signals are int16 microvolts, which is also PTB-XL's own resolution
NAN_OF_FORMAT_16 = np.iinfo(np.int16).min
MADE_BY = "codes/03_preprocess.py"
CHUNK = 64  # records that one thread filters at a time: few enough for the processor's cache


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
    try:
        with FileIO(f"{path}.hea") as file:  # a Path and a text buffer would take longer than the reading
            text = file.read().decode("utf-8")
        lines = [line for line in map(str.strip, text.splitlines()) if line and line[0] != "#"]
        first = lines[0].split()
        n_leads, fs, n_samples = int(first[1]), float(first[2].split("/")[0]), int(first[3])
        fields = [line.split(maxsplit=8) for line in lines[1 : 1 + n_leads]]
        if len(fields) != n_leads:
            raise ValueError(f"{n_leads} leads announced, {len(fields)} described")
        columns = [*zip_longest(*fields, [""] * 9, fillvalue="")]  # a header may leave out the last of the nine
        files, formats, gains, _, zeros, _, checksums, _, leads = (column[:-1] for column in columns)
        # a gain without "(baseline)" takes the ADC's zero as baseline
        centred = all(zero in ("", "0") or "(" in gain for zero, gain in zip(zeros, gains, strict=True))
        return Header(
            fs=fs,
            n_samples=n_samples,
            leads=leads,
            files=files,
            plain=set(formats) == {"16"} and len(set(files)) == 1 and centred and all(map(_is_microvolt, set(gains))),
            checksums=tuple(int(checksum) if checksum else None for checksum in checksums),
        )
    except FileNotFoundError:
        raise RecordError(f"{path.name}.hea is missing") from None
    except (ValueError, IndexError) as error:
        raise RecordError(f"{path.name}.hea is not a WFDB header: {error}") from None


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
    lowest, highest = _over_time(np.minimum, record), _over_time(np.maximum, record)
    if lowest.min() == NAN_OF_FORMAT_16:
        raise RecordError("contains NaN")
    flat = lowest == highest
    if flat.any():
        raise RecordError(f"lead {LEADS[int(flat.argmax())]} is flat")
    return record


_LEADS_LOWER = tuple(map(str.lower, LEADS))  # PTB-XL writes AVR, the field writes aVR


def _over_time(ufunc: np.ufunc, samples: np.ndarray) -> np.ndarray:
    """Return what `ufunc.reduce(samples, axis=0)` gives in the type of `samples`, (n_samples, n_leads), but faster.

    NumPy's innermost loop runs along a row, and 12 leads are too short for it: 40 rows are taken as one.
    """
    rows, leads = gcd(len(samples), 40), samples.shape[1]
    wide = ufunc.reduce(samples.reshape(-1, rows * leads), dtype=samples.dtype)
    return ufunc.reduce(wide.reshape(rows, leads), dtype=samples.dtype)


def _read_plain(path: Path, header: Header) -> np.ndarray:
    name = header.files[0]
    try:
        with FileIO(f"{path.parent}/{name}") as file:
            content = file.read()
    except FileNotFoundError:
        raise RecordError(f"{name} is missing") from None
    size = 2 * len(LEADS)  # bytes of one sample of all leads
    if len(content) != header.n_samples * size:
        raise RecordError(f"{name} has {len(content) // size} samples, its header says {header.n_samples}: cut off?")
    samples = np.frombuffer(content, "<i2").reshape(header.n_samples, len(LEADS))
    sums = _over_time(np.add, samples)  # modulo 65536, as a checksum is; the header may give it signed or unsigned
    for lead, found, stated in zip(LEADS, sums.tolist(), header.checksums, strict=True):
        if stated is not None and (found - stated) % 65536:
            raise RecordError(f"checksum of lead {lead} disagrees: {found % 65536} in {name}, {stated} in its header")
    return samples


def read_wfdb(path: Path, *, checksums: bool = True) -> tuple[float, list[str], list[str], np.ndarray]:
    """Return sampling rate in Hz, leads, their units and the samples in them, (n_samples, n_leads), of any WFDB record.

    PTB-XL's own format is read straight from the file, a hundred times as fast as `wfdb` reads it. Raises `RecordError`
    if it cannot be read or, with `checksums`, if a lead's checksum disagrees with the header.
    """
    with suppress(RecordError, OSError):  # `wfdb` has the last word
        header = read_header(path)
        if header.plain and len(header.leads) == len(LEADS) and checksums:
            samples = _read_plain(path, header)
            values = np.where(samples == NAN_OF_FORMAT_16, np.nan, samples / UV_PER_MV)
            return header.fs, list(header.leads), ["mV"] * len(LEADS), values
    try:
        # wfdb takes `link/..` for nothing, where the folder that the link leads to has another parent
        record = wfdb.rdrecord(str(path.parent.resolve() / path.name), physical=False)
        samples = record.dac() if record.n_sig else np.empty((0, 0))
    except FileNotFoundError as error:
        raise RecordError(f"{Path(error.filename or path).name} is missing") from None
    except Exception as error:  # on a damaged file wfdb raises whatever its parser stumbles over
        raise RecordError(f"damaged or cut off, wfdb cannot read it ({type(error).__name__}: {error})") from None
    if checksums and record.checksum and all(frames == 1 for frames in record.samps_per_frame):
        for name, stated, found in zip(record.sig_name, record.checksum, record.calc_checksum(), strict=True):
            if stated is not None and stated % 65536 != found % 65536:
                raise RecordError(f"checksum of lead {name} disagrees with the header: damaged?")
    return record.fs, record.sig_name, record.units, samples


def _read_any(path: Path) -> np.ndarray:
    _, _, units, samples = read_wfdb(path)
    if any(unit.lower() not in ("mv", "uv") for unit in units):
        raise RecordError(f"unit is {units}, expected mV or uV")
    scale = np.asarray([UV_PER_MV if unit.lower() == "mv" else 1 for unit in units])
    microvolt = np.rint(samples * scale)
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
    column = "filename_lr" if sampling_rate == 100 else "filename_hr"
    splits = [read_split(artifacts, name)[["ecg_id", column]].assign(split=name) for name in SPLITS]
    table = pd.concat(splits, ignore_index=True)
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
    derive = TimeDerivative(fs=sampling_rate).fit(np.zeros((1, len(LEADS), 2)))
    is_train = (table.split == "train").to_numpy()
    files = table[column].tolist()

    def process(start: int) -> _Chunk:
        rows, raw, lost = _read(data, files, range(start, min(start + CHUNK, len(files))), sampling_rate, strict=strict)
        millivolt = steps.transform(np.swapaxes(raw, 1, 2).astype(np.float32) / UV_PER_MV)
        train = millivolt[is_train[rows]]
        fitted = {"signal": train, "derivative": derive.transform(train)} if len(train) else {}
        fitted = {name: LeadStandardizer().fit(x) for name, x in fitted.items()}
        return _Chunk(rows, raw, np.rint(millivolt * UV_PER_MV).astype("<i2"), fitted, lost)

    sweep(folder)
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
        (folder / "meta.json").unlink(
            missing_ok=True
        )  # killed from here on, the files belong to no run until it is back
    digest.update(table.ecg_id.to_numpy()[kept].tobytes())
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
            records.append(read_record(data / files[row], fs=fs, n_samples=n_samples))
            kept.append(row)
        except RecordError as error:
            if strict:
                raise UserError(f"{data / files[row]}: {error} (--strict)") from None
            rejected.append((row, files[row], str(error)))
    return kept, np.stack(records) if records else np.empty((0, n_samples, len(LEADS)), np.int16), rejected


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
