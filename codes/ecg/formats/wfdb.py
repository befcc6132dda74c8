"""WFDB records (PhysioNet): PTB-XL's own files straight from disk, everything else through the `wfdb` package."""

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from itertools import zip_longest
from math import gcd
from pathlib import Path

import numpy as np
import wfdb

from ecg.leads import LEADS

UV_PER_MV = 1000  # stored signals are int16 microvolts, which is also PTB-XL's own resolution
NAN_OF_FORMAT_16 = np.iinfo(np.int16).min


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
    with suppress(RecordError, OSError):  # then `wfdb` decides
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
