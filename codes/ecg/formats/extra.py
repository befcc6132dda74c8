"""Formats that are left to `ecgdatakit` where it is installed: MFER (ISO 22077), Mortara ELI XML, XLE.

It takes 64 MB, hence it is no requirement. What it had to assume becomes a note; of the patient nothing is taken over.
"""

import math
import re
from pathlib import Path

import numpy as np

from ecg.formats import RecordError, Traces

NAME = "MFER, Mortara ELI XML, XLE"

MOST_BYTES = 256 << 20  # ecgdatakit reads a file into memory several times over
_ELI_MARKS = re.compile(rb"ACQUISITION_TIME|<TYPICAL_CYCLE|<CHANNEL|<SUBJECT|mortara", re.IGNORECASE)


def recognises(path: Path, head: bytes) -> bool:
    return bool(_format(path, head))


def read(path: Path) -> Traces:
    """Return what `ecgdatakit` reads from the file; raise `RecordError` if that is nothing or it is not installed."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
        size = path.stat().st_size
    except OSError as error:
        raise RecordError(f"cannot be read: {error.strerror}") from None
    kind = _format(path, head)
    try:
        from ecgdatakit.parsing import FileParser
    except ImportError:
        raise RecordError(f"is {kind}, which needs `pip install ecgdatakit`") from None
    if size > MOST_BYTES:
        raise RecordError(f"{kind} of more than {MOST_BYTES >> 20} MB: too large to be read")
    try:
        record = FileParser.parse(path, units="mV")
    except Exception as error:  # whatever its parsers stumble over in a damaged file
        raise RecordError(f"ecgdatakit cannot read this {kind}: {str(error)[:200] or type(error).__name__}") from None
    notes = []
    if record.raw_metadata.get("sampling_rate_stated") is False:
        notes.append("states no sampling rate: the usual one of its format is assumed")
    return _traces(record.leads, tuple(dict.fromkeys(notes)), record.recording.device)


def _format(path: Path, head: bytes) -> str:
    """Return the name of the format, "" if it is none of these; MFER without a preamble is known by its suffix."""
    if head[2:6] == b"MFR " and head[:1] == b"@":
        return "MFER"
    if path.suffix.lower() in (".mwf", ".mfer", ".mfr") and head:
        return "MFER"
    if re.search(rb"<ECG[\s>/]", head) and _ELI_MARKS.search(head):
        return "Mortara ELI XML"
    return "XLE" if path.suffix.lower() == ".xle" and len(head) == 4096 else ""


def _traces(leads: list, notes: tuple[str, ...], device: object) -> Traces:
    """Turn the leads of an `ecgdatakit` record, in mV where it knows their scale, into `Traces`."""
    if not leads:
        raise RecordError("holds no leads")
    rates = {float(lead.sampling_rate) for lead in leads}
    lengths = {len(lead.samples) for lead in leads}
    if len(rates) > 1 or len(lengths) > 1:
        raise RecordError(f"its leads differ in rate ({sorted(rates)} Hz) or length ({sorted(lengths)}): not known")
    if not max(lengths) or not math.isfinite(max(rates)):
        raise RecordError("holds no samples")
    with np.errstate(all="ignore"):
        signal = np.stack([np.asarray(lead.samples, np.float64) for lead in leads])
    names = tuple(lead.label for lead in leads)
    units = tuple("" if lead.is_raw else lead.units for lead in leads)
    parts = (getattr(device, field, "") or "" for field in ("manufacturer", "model"))
    return Traces(rates.pop(), names, units, signal, notes, " ".join(part for part in parts if part)[:80])
