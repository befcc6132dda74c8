"""WFDB records (PhysioNet): a header, `NAME.hea`, and the signal files that it names.

Formats of header and signals: https://physionet.org/physiotools/wag/header-5.htm and signal-5.htm. PTB-XL's own files
are read straight from disk. Everything else is decoded here too, and not by the `wfdb` package, because that refuses
headers that people have (a date before the time, a year, `NAME.mat` or several dots in the record line, blanks, upper
case), takes the first segment's gain for all segments, averages "no sample" codes into spikes where a frame has several
samples, and takes a second to import. Tests compare the two wherever both can read.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from itertools import zip_longest
from math import gcd
from pathlib import Path

import numpy as np

from ecg.formats import OtherForm, RecordError, Traces
from ecg.formats.wfdb_samples import FORMATS, MISSING, SignalFile
from ecg.leads import LEADS

NAME = "WFDB"
UV_PER_MV = 1000  # stored signals are int16 microvolts, which is also PTB-XL's own resolution
NAN_OF_FORMAT_16 = np.iinfo(np.int16).min
ASSUMED_GAIN = 200  # units per mV where a header says 0 or nothing: so the format defines it
ASSUMED_FS = 250  # Hz, likewise
MOST_HEADER_BYTES = 2**24
MOST_PADDING = 8  # times what is stored: more gaps than that between segments is a damaged header, not a recording


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
        raise OtherForm(f"{path.name}.hea is missing") from None
    except (ValueError, IndexError) as error:
        raise OtherForm(f"{path.name}.hea is not a WFDB header: {error}") from None


@lru_cache(maxsize=1024)
def _is_microvolt(gain: str) -> bool:
    match = re.fullmatch(r"([\d.eE+]+)(?:\((-?\d+)\))?/mV", gain)
    return bool(match) and float(match[1]) == UV_PER_MV and int(match[2] or 0) == 0


def read_record(path: Path, *, fs: int, n_samples: int) -> np.ndarray:
    """Return one 12-lead record as int16 microvolts, (n_samples, 12), leads in the order of LEADS.

    PTB-XL's own format is read straight from the file, anything else as any WFDB record. Raises `RecordError` if a file
    is missing or truncated, if the checksum disagrees, if a sample is NaN or if a lead is flat; `OtherForm`, which is
    one as well, if rate, length, leads or unit differ from what is asked for.
    """
    header = read_header(path)
    if header.fs != fs:
        raise OtherForm(f"sampled at {header.fs:g} Hz, expected {fs} Hz")
    if header.n_samples != n_samples:
        raise OtherForm(f"{header.n_samples} samples long, expected {n_samples}")
    if tuple(map(str.lower, header.leads)) != _LEADS_LOWER:
        raise OtherForm(f"leads are {' '.join(header.leads)}, expected {' '.join(LEADS)}")
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


def _read_any(path: Path) -> np.ndarray:
    traces = read(path)
    if any(unit.lower() not in ("mv", "uv") for unit in traces.units):
        raise OtherForm(f"unit is {list(traces.units)}, expected mV or uV")
    if traces.notes:
        raise RecordError("; ".join(traces.notes))  # a training takes nothing that is assumed
    scale = np.asarray([UV_PER_MV if unit.lower() == "mv" else 1 for unit in traces.units])
    microvolt = np.rint(traces.signal.T.astype(np.float64) * scale)
    if not np.isfinite(microvolt).all():
        raise RecordError("contains NaN")
    return microvolt.clip(-32767, 32767).astype(np.int16)


# --- records of any kind ---------------------------------------------------------------------------------------------


def recognises(path: Path, head: bytes) -> bool:
    """Return whether `path` is a header, a record without suffix, or a signal file that a header beside it names."""
    header = header_of(path)
    if header is None:
        return False
    if header == path or not path.is_file():
        return True
    with suppress(OSError), header.open("rb") as file:
        return path.name.lower().encode() in file.read(MOST_HEADER_BYTES).lower()
    return False


def header_of(path: Path) -> Path | None:
    """Return the header of the record that `path` names, with any suffix or none; None if there is none."""
    if path.suffix.lower() == ".hea":
        return path if path.is_file() else None
    # "1.2.840" has no suffix, "ecg.dat" has
    names = (f"{path.name}.hea", f"{path.stem}.hea", f"{path.name}.HEA", f"{path.stem}.HEA")
    return next((path.parent / name for name in names if (path.parent / name).is_file()), None)


def parts_of(folder: Path) -> dict[str, str]:
    """Return {header: the header of the record that it is a segment or the layout of} of the files in a folder."""
    try:
        return _parts_of(str(folder), folder.stat().st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=64)
def _parts_of(folder: str, changed: int) -> dict[str, str]:
    parts = {}
    for path in Path(folder).iterdir():
        if path.suffix.lower() != ".hea":
            continue
        with suppress(RecordError, OSError):
            with FileIO(path) as file:
                if b"/" not in file.read(256).split(b"\n#")[0]:
                    continue  # no record line with a number of segments: most headers end here
            record, lines = _record_line(path)
            if record.n_segments:
                parts |= {f"{name}.hea".lower(): path.name for name, _ in _segment_lines(lines, record)}
    return parts


def read(path: Path, *, checksums: bool = True) -> Traces:
    """Return the leads of a WFDB record, given as its header, as a signal file or without suffix.

    The signal is float32. Leads with more than one sample per frame keep all of them: `fs` is then the highest rate
    among the leads, the others are interpolated to it. Segments are read one by one, each with its own gains; gaps
    between them are nan. With `checksums`, a lead whose samples disagree with its header is refused.
    """
    header = header_of(path)
    if header is None:
        raise RecordError(f"{path.name.removesuffix('.hea')}.hea is missing")
    whole = parts_of(header.parent).get(header.name.lower())
    if whole and whole.lower() != header.name.lower():
        raise RecordError(f"is only a part of the record {whole}: give that one")
    try:
        return (_read_fast(header) if checksums else None) or _read_whole(header, checksums)
    except OSError as error:
        raise RecordError(f"{Path(error.filename or header).name} cannot be read: {error.strerror}") from None


def _read_fast(header: Path) -> Traces | None:
    """Return a record in PTB-XL's own format; None if it is in another or anything is odd about it."""
    path = header.with_suffix("")
    if header.suffix != ".hea":
        return None
    with suppress(RecordError):
        stated = read_header(path)
        if stated.plain and len(stated.leads) == len(LEADS):
            samples = _read_plain(path, stated)
            signal = samples.T / np.float32(UV_PER_MV)
            signal[samples.T == NAN_OF_FORMAT_16] = np.nan
            return Traces(stated.fs, stated.leads, ("mV",) * len(LEADS), signal)
    return None


def _read_whole(header: Path, checksums: bool) -> Traces:
    record, lines = _record_line(header)
    if record.n_segments is None:
        return _read_single(header, record, lines, checksums)
    return _read_segments(header, record, lines, checksums)


# --- the header ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Record:
    """The record line. `n_samples` per lead, 0 if not stated; `n_segments` None of a record that is in one piece."""

    n_segments: int | None
    n_leads: int
    fs: float
    n_samples: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Signal:
    """A signal line."""

    file: str
    format: str
    per_frame: int
    skew: int  # frames
    offset: int  # bytes before the first sample
    gain: float  # units of the ADC per `unit`, 0 if the header says nothing
    baseline: int
    unit: str
    first: int
    checksum: int | None
    name: str


_FORMAT = "|".join(sorted(("0", *FORMATS), key=len, reverse=True))  # 0: no file, as in layout headers
# FILE FORMAT[xSAMPLES_PER_FRAME][:SKEW][+OFFSET] [GAIN[(BASELINE)][/UNIT] [BITS [ZERO [FIRST [CHECKSUM [BLOCK [NAME
_SIGNAL = re.compile(
    rf"(?P<file>\S+|.+?\.[A-Za-z]\w*)\s+(?P<format>{_FORMAT})"
    r"(?:x(?P<per_frame>\d+))?(?::(?P<skew>\d+))?(?:\+(?P<offset>\d+))?"
    r"(?:\s+(?P<gain>[-+\d.eE]+)(?:\((?P<baseline>-?\d+)(?:\.\d*)?\))?(?:/(?P<unit>\S*))?)?"
    r"(?:\s+\d+(?:\s+(?P<zero>-?\d+)(?:\s+(?P<first>-?\d+)(?:\s+(?P<checksum>-?\d+)(?:\s+-?\d+)?)?)?)?)?"
    r"(?:\s+(?P<name>.*))?",
    re.ASCII,
)


def _lines(header: Path) -> list[str]:
    """Return the lines of a header without comments, which may hold anything, patients' names too."""
    with header.open("rb") as file:
        content = file.read(MOST_HEADER_BYTES + 1)
    if len(content) > MOST_HEADER_BYTES:
        raise RecordError(f"{header.name} is no WFDB header: it is too large")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # "µV" of an older system
    return [line for line in map(str.strip, text.splitlines()) if line and line[0] != "#"]


def _record_line(header: Path) -> tuple[_Record, list[str]]:
    """Return what the first line says, and the lines below it.

    `NAME[/SEGMENTS] LEADS [RATE[/COUNTER] [SAMPLES [TIME [DATE]]]]`: of the name only where it ends is asked, time and
    date are not read at all. A name may hold blanks: it is that of the header, or else it ends before the number that
    counts the lines below.
    """
    lines = _lines(header)
    if not lines:
        raise RecordError(f"{header.name} is not a WFDB header: it is empty")
    words = lines[0].split()
    named = header.stem.lower().split()
    begin = [word.lower() for word in words[: len(named)]]
    start = len(named) if begin[:-1] == named[:-1] and begin[-1].startswith(named[-1]) else 1
    numbers = [i for i in range(start, len(words)) if re.fullmatch(r"\d{1,6}", words[i], re.ASCII)]
    counts = [(i, re.search(r"/(\d{1,6})$", words[i - 1], re.ASCII)) for i in numbers]
    below = len(lines) - 1
    fits = [(i, parts) for i, parts in counts if below == int(parts[1] if parts else words[i])]
    if not counts:
        raise RecordError(f"{header.name} is not a WFDB header: its first line gives no number of leads")
    i, parts = (fits or counts)[0]
    notes = []
    try:
        rate = words[i + 1] if len(words) > i + 1 else ""
        fs = float(rate.split("/")[0].split("(")[0]) if rate else ASSUMED_FS
        n_samples = int(words[i + 2]) if len(words) > i + 2 else 0
    except ValueError as error:
        raise RecordError(f"{header.name} is not a WFDB header: {error}") from None
    if not rate:
        notes.append(f"its header gives no sampling rate: {ASSUMED_FS} Hz, as the format defines")
    if not np.isfinite(fs) or fs < 0 or n_samples < 0:
        raise RecordError(f"{header.name} gives a rate of {fs:g} Hz and {n_samples} samples")
    n_segments = int(parts[1]) if parts else None
    return _Record(n_segments, int(words[i]), fs, n_samples, tuple(notes)), lines[1:]


def _signal_lines(header: Path, record: _Record, lines: list[str]) -> list[_Signal]:
    if len(lines) < record.n_leads:
        raise RecordError(
            f"{header.name} is not a WFDB header: {record.n_leads} leads announced, {len(lines)} described"
        )
    signals = []
    for number, line in enumerate(lines[: record.n_leads], 1):
        match = _SIGNAL.fullmatch(line)
        if not match:
            raise RecordError(
                f"{header.name}: the line of signal {number} gives no format that is known: {line[:60]!r}"
            )
        try:
            zero = int(match["zero"] or 0)
            signals.append(
                _Signal(
                    file=match["file"],
                    format=match["format"],
                    per_frame=int(match["per_frame"] or 1) or 1,
                    skew=int(match["skew"] or 0),
                    offset=int(match["offset"] or 0),
                    gain=float(match["gain"] or 0),
                    baseline=int(match["baseline"]) if match["baseline"] else zero,
                    unit=match["unit"] or "mV",
                    first=int(match["first"] or 0),
                    checksum=int(match["checksum"]) if match["checksum"] else None,
                    name=(match["name"] or "").strip(),
                )
            )
        except ValueError as error:
            raise RecordError(f"{header.name}: the line of signal {number} is damaged: {error}") from None
        if not np.isfinite(signals[-1].gain):
            raise RecordError(f"{header.name}: the gain of signal {number} is {match['gain']}")
    return signals


def _segment_lines(lines: list[str], record: _Record) -> list[tuple[str, int]]:
    """Return (name, samples) of the segments; the name `~` is a gap."""
    if len(lines) < record.n_segments:
        raise RecordError(f"announces {record.n_segments} segments, but describes {len(lines)}")
    pairs = [line.rsplit(maxsplit=1) for line in lines[: record.n_segments]]
    if any(len(pair) != 2 or not re.fullmatch(r"\d{1,12}", pair[1], re.ASCII) for pair in pairs):
        raise RecordError("the length of a segment is missing")
    return [(name, int(length)) for name, length in pairs]


# --- a record in one piece -------------------------------------------------------------------------------------------


def _read_single(header: Path, record: _Record, lines: list[str], checksums: bool) -> Traces:
    signals = _signal_lines(header, record, lines)
    stored = [signal for signal in signals if signal.format != "0" and signal.file != "~"]
    if not signals:
        raise RecordError("holds no samples")
    if not stored:
        raise RecordError(f"{header.name} is only the layout of a record in segments: give that record's header")
    groups = {signal.file: [row for row, each in enumerate(signals) if each.file == signal.file] for signal in stored}
    files = {name: _signal_file(header.parent, name, [signals[row] for row in rows]) for name, rows in groups.items()}
    n_frames = record.n_samples or min(file.n_frames for file in files.values())
    for name, file in files.items():
        if file.n_frames < n_frames:
            raise RecordError(f"{name} has {file.n_frames} samples, its header says {n_frames}: cut off?")
    per_frame = max(signal.per_frame for signal in stored)
    _check_room(len(signals) * n_frames * per_frame, n_frames * sum(signal.per_frame for signal in stored))

    result = np.full((len(signals), n_frames * per_frame), np.nan, np.float32)
    for name, rows in groups.items():
        for row, samples in zip(rows, files[name].samples(n_frames), strict=True):
            signal = signals[row]
            if signal.format == "8":
                samples = samples + signal.first  # the file has the differences
            if checksums and signal.checksum is not None:
                found = int(samples.sum(dtype=np.int64)) % 65536  # of all samples in the file, before any skew
                if found != signal.checksum % 65536:
                    lead = signal.name or row + 1
                    stated = f"{found} in {name}, {signal.checksum} in its header"
                    raise RecordError(f"checksum of lead {lead} disagrees with the header: damaged? {stated}")
            result[row] = _at_rate(_physical(signal, samples), signal.per_frame, per_frame)
    assumed = [signal for signal in stored if not signal.gain]
    notes = [*record.notes]
    if assumed:
        which = "" if len(assumed) == len(stored) else f" of lead {', '.join(signal.name for signal in assumed)}"
        notes.append(f"gain 0{which} (uncalibrated) read as {ASSUMED_GAIN} units per {assumed[0].unit}")
    names = tuple(signal.name for signal in signals)
    return Traces(record.fs * per_frame, names, tuple(signal.unit for signal in signals), result, tuple(notes))


def _signal_file(folder: Path, name: str, signals: list[_Signal]) -> SignalFile:
    """Return a signal file that a header names, in whatever case its name is written on this file system."""
    if Path(name).name != name or "\\" in name or "\0" in name:
        raise RecordError(f"the signal file {name!r} lies outside of the record's folder")
    path = folder / name
    if not path.is_file():
        path = next((each for each in folder.iterdir() if each.name.lower() == name.lower() and each.is_file()), None)
    if path is None:
        raise RecordError(f"{name} is missing")
    first = signals[0]
    if any((signal.format, signal.offset) != (first.format, first.offset) for signal in signals):
        raise RecordError(f"{name} is said to have several formats or offsets at once")
    return SignalFile(path, first.format, first.offset, tuple(signal.per_frame for signal in signals))


def _check_room(values: int, stored: int) -> None:
    """Raise `RecordError` if a header announces far more than its files hold, before memory is taken for it."""
    if values > max(2**26, MOST_PADDING * stored):
        raise RecordError(f"its header announces {values} samples, its files hold {stored}: damaged?")


def _physical(signal: _Signal, samples: np.ndarray) -> np.ndarray:
    """Return samples in the signal's unit, moved by its skew, nan where there is none."""
    values = (samples - float(signal.baseline)) / (signal.gain or ASSUMED_GAIN)
    if signal.format in MISSING:
        values[samples == MISSING[signal.format]] = np.nan
    if signal.skew:  # its samples stand that many frames later in the file than those of the other signals
        shift = min(signal.skew * signal.per_frame, len(values))
        values = np.concatenate([values[shift:], np.full(shift, np.nan)])
    return values


def _at_rate(values: np.ndarray, per_frame: int, wanted: int) -> np.ndarray:
    """Return values, `per_frame` of them in each frame, as `wanted` in each frame; missing ones stay missing."""
    if per_frame == wanted or not len(values):
        return values
    times = np.arange(len(values) // per_frame * wanted) * (per_frame / wanted)
    return np.interp(times, np.arange(len(values)), values)


# --- a record in segments --------------------------------------------------------------------------------------------


def _read_segments(header: Path, record: _Record, lines: list[str], checksums: bool) -> Traces:
    """Put the segments together in physical units: each may have gains, and with a layout also leads, of its own."""
    pairs = _segment_lines(lines, record)
    layout = None
    if pairs and pairs[0][0] != "~" and pairs[0][1] == 0:
        layout = _segment_header(header, pairs.pop(0)[0])
    length = sum(n for _, n in pairs)
    if record.n_samples and length != record.n_samples:
        raise RecordError(f"its segments have {length} samples, its header says {record.n_samples}")
    pieces = [None if name == "~" else _segment(header, name, n, record, checksums) for name, n in pairs]
    some = [piece for piece in pieces if piece is not None]
    if not some:
        raise RecordError("holds no samples: all of its segments are gaps")
    if len({piece.fs for piece in some}) > 1:
        raise RecordError(f"its segments differ in sampling rate: {sorted({piece.fs for piece in some})} Hz")
    per_frame = round(some[0].fs / record.fs) if record.fs else 1
    names, units = some[0].names, some[0].units
    if layout is not None:
        described = _signal_lines(layout, *_record_line(layout))
        names, units = tuple(s.name for s in described), tuple(s.unit for s in described)
    elif any(len(piece.names) != len(names) for piece in some):
        raise RecordError("its segments differ in their leads, and there is no layout segment that lists them all")
    _check_room(len(names) * length * per_frame, sum(piece.signal.size for piece in some))

    result = np.full((len(names), length * per_frame), np.nan, np.float32)
    start = 0
    for piece, (_, n) in zip(pieces, pairs, strict=True):
        for row in range(len(piece.names) if piece else 0):
            # without a layout the leads stand in the same order everywhere, whatever they are called
            lead = row if layout is None else names.index(piece.names[row]) if piece.names[row] in names else None
            if lead is None:
                raise RecordError(f"lead {piece.names[row]} of a segment is not in its layout {layout.name}")
            factor = _ratio(piece.units[row], units[lead])
            result[lead, start : start + n * per_frame] = piece.signal[row] * factor
        start += n * per_frame
    notes = dict.fromkeys(note for piece in some for note in piece.notes)
    return Traces(some[0].fs, names, units, result, tuple(notes))


def _segment_header(header: Path, name: str) -> Path:
    if Path(name).name != name or "\0" in name:
        raise RecordError(f"the segment {name!r} lies outside of the record's folder")
    found = header_of(header.parent / name)
    if found is None:
        raise RecordError(f"its segment {name}.hea is missing")
    return found


def _segment(header: Path, name: str, n_samples: int, record: _Record, checksums: bool) -> Traces:
    found = _segment_header(header, name)
    own, lines = _record_line(found)
    if own.n_segments is not None:
        raise RecordError(f"its segment {name} is in segments itself")
    if own.fs != record.fs:
        raise RecordError(f"its segment {name} has {own.fs:g} Hz, the record {record.fs:g} Hz")
    if own.n_samples and own.n_samples != n_samples:
        raise RecordError(f"its segment {name} has {own.n_samples} samples, {header.name} says {n_samples}")
    try:
        return _read_single(found, _Record(None, own.n_leads, own.fs, n_samples, own.notes), lines, checksums)
    except RecordError as error:
        raise RecordError(f"segment {name}: {error}") from None


def _ratio(unit: str, wanted: str) -> float:
    """Return what one `unit` is in `wanted`, for segments that differ in it."""
    millivolts = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6}
    if unit == wanted:
        return 1.0
    if unit.lower() not in millivolts or wanted.lower() not in millivolts:
        raise RecordError(f"its segments give a lead in {unit} and in {wanted}")
    return millivolts[unit.lower()] / millivolts[wanted.lower()]
