"""Arrays: NumPy's .npy and .npz, and MATLAB's .mat of the versions 4 to 7.

An array says little about itself: the axis with fewer entries is taken as that of the leads, names, rate and unit only
from variables beside it. Nothing is unpickled. Formats: numpy.lib.format, and "MAT-File Format" of MathWorks, of which
SciPy is the reader.
"""

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ecg.formats import RecordError, Traces

NAME = "NumPy or MATLAB array"
SIGNAL = ("signal", "signals", "ecg", "ecgs", "x", "val", "data", "p_signal", "trace", "traces", "waveform", "arr_0")
RATE = ("fs", "sampling_rate", "samplingrate", "sample_rate", "samplerate", "sampling_frequency", "frequency", "rate")
RATE += ("freq", "sfreq", "srate", "sf", "hz")
LEADS = (
    "leads",
    "lead_names",
    "lead",
    "sig_name",
    "names",
    "channels",
    "ch_names",
    "channel_names",
    "labels",
    "header",
)
UNIT = ("unit", "units")
MOST_LEADS = 64  # an ECG has up to 15, or some more beside other signals
MOST_BYTES = 2**28  # that a file may unpack to whatever its own size
MOST_RATIO = 50  # times its size, above that


def recognises(path: Path, head: bytes) -> bool:
    """Return whether the file begins like one of the formats; version 4 of MATLAB's has no signature, but a header."""
    if head.startswith((b"\x93NUMPY", b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file")):
        return True
    if head.startswith(b"PK\x03\x04"):
        return head[30 : 30 + int.from_bytes(head[26:28], "little")].endswith(b".npy")
    return _is_mat_4(head)


def read(path: Path) -> Traces:
    """Return the leads of a file with one recording; names, units and rate are empty where no variable states them."""
    try:
        with path.open("rb") as file:
            head = file.read(128)
            file.seek(0)
            if head.startswith(b"\x93NUMPY"):
                array = _npy(file, path.stat().st_size)
                return _traces(_fields(array) or {"signal": array})
            if head.startswith(b"PK"):
                return _traces(_npz(file))
            if head.startswith(b"MATLAB 7.3"):
                raise RecordError("is a MATLAB file of version 7.3 (HDF5): save it again with save(..., '-v7')")
            return _traces(_mat(file, path.stat().st_size))
    except OSError as error:
        raise RecordError(f"cannot be read: {error.strerror or error}") from None


# --- the files -------------------------------------------------------------------------------------------------------


def _npy(file: BinaryIO, size: int) -> np.ndarray:
    """Return the array of an .npy file of `size` bytes; what its header announces is checked before it is read."""
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, column_first, dtype = header(file)
    except Exception as error:  # the header is a Python literal: anything its parser stumbles over
        raise RecordError(f"is damaged: its .npy header cannot be read ({type(error).__name__})") from None
    if dtype.hasobject:
        raise RecordError("is an array of Python objects, which are not loaded: save plain numbers")
    values = int(np.prod(shape, dtype=object)) if shape else 1
    found = size - file.tell()
    if min(shape, default=1) < 0 or values * dtype.itemsize != found or not dtype.itemsize:
        expected = f"{values * dtype.itemsize} bytes for an array of {'x'.join(map(str, shape))}"
        raise RecordError(f"has {found} instead of {expected}: damaged or cut off?")
    content = file.read(values * dtype.itemsize)
    if len(content) < values * dtype.itemsize:
        raise RecordError("is cut off: its array is not complete")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if column_first else "C")


def _npz(file: BinaryIO) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            packed = sum(member.compress_size for member in members)
            _check_size(sum(member.file_size for member in members), packed)
            fields = {}
            for member in members:
                with archive.open(member) as inner:
                    name = member.filename.removesuffix(".npy")
                    try:
                        fields[name] = _npy(inner, member.file_size)
                    except RecordError as error:
                        fields[name] = RecordError(f"{name} {error}")  # matters only if it is the signal
            return fields
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise RecordError(f"is damaged: its archive cannot be read ({error})") from None


def _mat(file: BinaryIO, size: int) -> dict[str, Any]:
    from scipy.io import loadmat

    _check_mat(file, size)
    file.seek(0)
    try:
        fields = loadmat(file, struct_as_record=True, chars_as_strings=True)
    except Exception as error:  # on a damaged file SciPy raises whatever its parser stumbles over
        raise RecordError(f"is damaged: it cannot be read as a MATLAB file ({type(error).__name__})") from None
    fields = {name: value for name, value in fields.items() if not name.startswith("__")}
    for value in list(fields.values()):  # the fields of a struct
        fields |= {name: inner for name, inner in (_fields(value) or {}).items() if name not in fields}
    return fields


def _check_mat(file: BinaryIO, size: int) -> None:
    """Raise `RecordError` if the compressed elements of a version 5 file unpack to far more than an ECG."""
    header = file.read(128)
    if header.startswith(b"MATLAB 5.0"):
        order = ">" if header[126:128] == b"MI" else "<"
        total = 0
        while len(tag := file.read(8)) == 8:
            kind, length = struct.unpack(f"{order}II", tag)
            if length > size:
                raise RecordError("is cut off: an element is longer than the file")
            content = file.read(length)
            if kind == 15:  # miCOMPRESSED
                unpacker = zlib.decompressobj()
                try:
                    while content:
                        total += len(unpacker.decompress(content, 2**20))
                        _check_size(total, size)
                        content = unpacker.unconsumed_tail
                except zlib.error:
                    raise RecordError("is damaged: a compressed element cannot be unpacked") from None


def _check_size(unpacked: int, packed: int) -> None:
    if unpacked > max(MOST_BYTES, MOST_RATIO * packed):
        raise RecordError(f"unpacks to more than {max(MOST_BYTES, MOST_RATIO * packed) // 2**20} MB: no ECG does")


def _is_mat_4(head: bytes) -> bool:
    """Return whether the first bytes are the header of a matrix: type, rows, columns, imaginary, length of its name."""
    for order in "<>":
        if len(head) > 20:
            kind, rows, columns, imaginary, length = struct.unpack(f"{order}5i", head[:20])
            name = head[20 : 20 + max(0, min(length, 64))]
            plausible = kind in (0, 10, 20, 30, 40, 50, 1000, 1010, 1020, 1030, 1040, 1050) and imaginary in (0, 1)
            if plausible and rows > 0 and columns > 0 and name.endswith(b"\0") and name[:-1].isalnum():
                return True
    return False


# --- what is what ----------------------------------------------------------------------------------------------------


def _fields(value: Any) -> dict[str, Any]:
    """Return the fields of an array of records with one entry, or of columns with names, else nothing."""
    names = getattr(getattr(value, "dtype", None), "names", None) or ()
    return {name: value[name].flat[0] if value.size == 1 else value[name] for name in names}


def _traces(fields: dict[str, Any]) -> Traces:
    by_name = {name.lower(): value for name, value in fields.items()}
    names = _texts(next((by_name[name] for name in LEADS if name in by_name), None))
    units = _texts(next((by_name[name] for name in UNIT if name in by_name), None))
    rate = next((by_name[name] for name in RATE if name in by_name), None)
    fs = float(rate.flat[0]) if _is_numbers(rate) and rate.size == 1 else 0.0
    fs = fs if np.isfinite(fs) and fs > 0 else 0.0
    found = next((name for name in SIGNAL if name in by_name and not _is_single(by_name[name])), None)
    notes = ()
    if found is not None:
        signal = _leads_by_time(by_name[found], found)
        if found == "val":  # as PhysioNet's converters write it
            notes = ("its matrix `val` has the units of the recorder, which a header (.hea) beside it would explain",)
    else:
        signal, names = _only_signal(fields, names)
    if len(names) != len(signal):
        names = [""] * len(signal)
    if len(units) != len(signal):
        units = units * len(signal) if len(units) == 1 else [""] * len(signal)
    return Traces(fs, tuple(names), tuple(units), signal, notes)


def _only_signal(fields: dict[str, Any], names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Return signal and names of a file whose variables have other names: one matrix, or a variable for each lead."""
    refused = [value for value in fields.values() if isinstance(value, RecordError)]
    known = {*RATE, *LEADS, *UNIT}
    arrays = {
        name: value
        for name, value in fields.items()
        if _is_numbers(value) and value.size > 1 and name.lower() not in known
    }
    matrices = {name: value for name, value in arrays.items() if np.squeeze(value).ndim > 1}
    if len(matrices) == 1 or (not matrices and len(arrays) == 1):
        name, value = next(iter((matrices or arrays).items()))
        return _leads_by_time(value, name), names
    if not matrices and len({value.size for value in arrays.values()}) == 1 and len(arrays) <= MOST_LEADS:
        return np.stack([_as_float(np.ravel(value)) for value in arrays.values()]), list(arrays)
    if refused:
        raise refused[0]
    there = ", ".join(list(fields)[:15]) or "nothing"
    raise RecordError(f"holds {there}: which one is the ECG? Call it signal")


def _leads_by_time(value: Any, name: str) -> np.ndarray:
    """Return an array as (n_leads, t): the axis with fewer entries is that of the leads."""
    if isinstance(value, RecordError):
        raise value
    if not _is_numbers(value):
        raise RecordError(f"{name} holds no plain numbers")
    shape = "x".join(map(str, value.shape))
    signal = value if value.ndim <= 2 else value.reshape([n for n in value.shape if n > 1] or [1])
    if signal.ndim > 2:
        raise RecordError(f"{name} has the shape {shape}: several recordings? One per file, leads x time")
    signal = np.atleast_2d(signal)
    signal = signal.T if signal.shape[0] > signal.shape[1] else signal
    if signal.shape[0] > MOST_LEADS or not signal.size:
        raise RecordError(f"{name} has the shape {shape}, which is no ECG of leads x time")
    return _as_float(signal)


def _as_float(signal: np.ndarray) -> np.ndarray:
    exact = signal.dtype.kind == "f" or signal.dtype.itemsize <= 2
    return signal.astype(np.float32 if exact and signal.dtype.itemsize <= 4 else np.float64)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "iuf"


def _is_single(value: Any) -> bool:
    return isinstance(value, np.ndarray) and (value.dtype.names is not None or value.size < 2)


def _texts(value: Any) -> list[str]:
    """Return the texts in an array of text, also of MATLAB's cells; without blanks around them."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "USO" or value.size > MOST_LEADS:
        return []
    texts = []
    for item in value.flat:
        if isinstance(item, np.ndarray):
            item = item.flat[0] if item.size == 1 else ""
        texts.append(item.decode("latin-1") if isinstance(item, bytes) else item if isinstance(item, str) else "")
    return [text.strip() for text in texts]
