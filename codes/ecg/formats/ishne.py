"""ISHNE Holter files, version 1.0: a header of 522 bytes, free text, then int16 samples of all leads in turn.

Badilini, The ISHNE Holter Standard Output File Format, Ann. Noninvasive Electrocardiol. 3:263 (1998). All numbers are
little-endian. Its annotation files (`ANN  1.0`) hold beats and no signal.
"""

from binascii import crc_hqx
from pathlib import Path

import numpy as np

from ecg.formats import RecordError, Traces
from ecg.leads import LEADS

NAME = "ISHNE"

HEADER = 522  # bytes; the free text begins there
FAULT = -32768  # the value of a sample whose lead was off
_MAGIC, _ANNOTATIONS = b"ISHNE1.0", b"ANN  1.0"
_LEADS = ("", "", "X", "Y", "Z", *LEADS)
_LEADS += ("ES", "AS", "AI")  # 0: unknown, 1: bipolar, both without a name


def recognises(path: Path, head: bytes) -> bool:
    return head[:8] in (_MAGIC, _ANNOTATIONS)


def read(path: Path) -> Traces:
    """Return all leads in nanovolts, nan where a lead was off; raise `RecordError` if the header makes no sense.

    The number of samples is taken from the size of the file: some recorders state it per lead, some for all leads
    together, and some state a maximum.
    """
    try:
        with path.open("rb") as file:
            header = file.read(HEADER)
            if header[:8] == _ANNOTATIONS:
                raise RecordError("holds beat annotations only: give the .ecg file beside it")
            if len(header) < HEADER:
                raise RecordError(f"has {len(header)} bytes, an ISHNE header alone has {HEADER}: cut off?")
            text_size, stated, text_at, signal_at = np.frombuffer(header, "<i4", 4, offset=10).tolist()
            size = path.stat().st_size
            if text_at != HEADER or signal_at != HEADER + text_size or not HEADER <= signal_at <= size:
                raise RecordError(f"its text is at byte {text_at}, its signal at {signal_at} of {size}: damaged?")
            text = file.read(text_size)
            samples = np.fromfile(file, "<i2")
    except OSError as error:
        raise RecordError(f"cannot be read: {error.strerror}") from None
    notes = _check_sum(header, text)

    n_leads = int.from_bytes(header[156:158], "little", signed=True)
    if not 1 <= n_leads <= 12:
        raise RecordError(f"states {n_leads} leads, ISHNE has 1 to 12: damaged?")
    fs = int.from_bytes(header[272:274], "little", signed=True)
    if fs <= 0:
        raise RecordError(f"states a sampling rate of {fs} Hz: damaged?")
    codes = np.frombuffer(header, "<i2", n_leads, offset=158).tolist()
    nanovolts = np.frombuffer(header, "<i2", n_leads, offset=206)
    if (nanovolts < 0).any():
        raise RecordError(f"states a resolution of {nanovolts.min()} nV: damaged?")
    n_samples = len(samples) // n_leads
    if not n_samples:
        raise RecordError("holds no samples")
    if stated not in (n_samples, n_samples * n_leads):
        notes.append(f"states {stated} samples, has {n_samples} of each lead: cut off, or never filled in?")

    samples = samples[: n_samples * n_leads].reshape(n_samples, n_leads).T
    signal = samples * np.where(nanovolts, nanovolts, 1).astype(np.float32)[:, None]  # (n_leads, n_samples); a day long
    signal[samples == FAULT] = np.nan
    names = tuple(_LEADS[code] if 0 <= code < len(_LEADS) else "" for code in codes)
    units = tuple("nV" if resolution else "" for resolution in nanovolts.tolist())
    return Traces(float(fs), names, units, signal, tuple(notes), _device(header[232:272]))


def _check_sum(header: bytes, text: bytes) -> list[str]:
    """Compare the header's checksum, CRC-CCITT in either byte order; 0 means that there is none.

    It is noted and not refused if it disagrees, for that is what removing the name by hand leaves.
    """
    found, stated = crc_hqx(header[10:] + text, 0xFFFF), header[8:10]
    if stated == b"\0\0":
        return ["has no checksum: damage would not be noticed"]
    if stated not in (found.to_bytes(2, "little"), found.to_bytes(2, "big")):
        return ["the checksum of its header disagrees: was it edited, or are rate, leads and resolution damaged?"]
    return []


def _device(field: bytes) -> str:
    """The recorder's kind, "analog" or "digital" in the standard, its model in many files."""
    text = field.split(b"\0")[0].decode("latin-1").strip()
    return text if text.isprintable() and text.lower() not in ("analog", "digital") else ""
