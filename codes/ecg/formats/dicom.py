"""DICOM waveform objects of ECGs (DICOM PS3.3 A.34.3 to A.34.5 and C.10.9), through `pydicom`."""

import math
import re
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ecg.formats import RecordError, Traces
from ecg.leads import LEADS

NAME = "DICOM"

_ECG_CLASSES = "1.2.840.10008.5.1.4.1.1.9.1"  # 12-lead, general, ambulatory, 32-bit: .1 to .4
_READ = ("SpecificCharacterSet", "SOPClassUID", "Manufacturer", "ManufacturerModelName", "WaveformSequence")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_MOST_INFLATED = 1 << 18  # bytes, and 20 for each deflated one: an ECG has 2 to 10, a bomb 1,000
_NO_PREAMBLE = re.compile(rb"[\x02\x08]\x00.\x00(UL|OB|CS|UI|SH|DA|[\x02-\x40]\x00\x00\x00)", re.DOTALL)
_TYPES = {(8, "SB"): "i1", (8, "UB"): "u1", (16, "SS"): "i2", (16, "US"): "u2", (32, "SL"): "i4", (32, "UL"): "u4"}
# leads by number in SCP-ECG (EN 1064, 5.6.3), which ISO/IEEE 11073-10101 took over as "2:1"
_NUMBERS = (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8)  # in the order of LEADS
_LEAD_OF_NUMBER = dict(zip(_NUMBERS, LEADS, strict=True)) | {65: "-aVR"}
_UNIT_OF_MEANING = {"microvolt": "uV", "millivolt": "mV", "volt": "V"}
_MEDIAN = re.compile("median|average|representative|template", re.IGNORECASE)
_MOST_EMPTY = 10  # times the samples that are there, between groups that were recorded one after the other


@dataclass(frozen=True)
class _Group:
    """A waveform multiplex group: `signal` (n_leads, t) in `units`, nan where it is padding."""

    names: list[str]
    units: list[str]
    signal: np.ndarray
    fs: float
    offset: float  # seconds after the object's time


def recognises(path: Path, head: bytes) -> bool:
    return head[128:132] == b"DICM" or _NO_PREAMBLE.match(head) is not None


def read(path: Path) -> Traces:
    """Return the rhythm of an ECG object, that is, its longest original waveform group, not the median beat.

    Leads of other original groups are added where the longest has not got them: those of one printed page may follow
    each other, four groups of three leads, and are nan before and after. Raises `RecordError` if the file is damaged or
    no ECG.
    """
    import pydicom

    try:
        content = path.read_bytes()
        if _DEFLATED in content:
            content = _inflate(content)
        with pydicom.config.disable_value_validation():  # it warns of values, which may name a person
            dataset = pydicom.dcmread(BytesIO(content), force=True, stop_before_pixels=True, specific_tags=list(_READ))
            return _read_dataset(dataset)
    except RecordError:
        raise
    except Exception as error:  # on a damaged file pydicom raises whatever its parser stumbles over
        raise RecordError(f"damaged or cut off, cannot be read as {NAME} ({type(error).__name__}: {error})") from None


def _inflate(content: bytes) -> bytes:
    """Return the data set of a file whose transfer syntax is Deflated Explicit VR Little Endian (PS3.5 A.5)."""
    meta = 132 if content[128:132] == b"DICM" else 0
    start = meta + 12 + int.from_bytes(content[meta + 8 : meta + 12], "little")
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflating.decompress(content[start:], _MOST_INFLATED + 20 * len(content))
    if inflating.unconsumed_tail:
        raise RecordError("is deflated to less than a twentieth, as no ECG is: save it uncompressed")
    return inflated


def _read_dataset(dataset: Any) -> Traces:
    uid = dataset.get("SOPClassUID")
    if uid and not (uid == _ECG_CLASSES or uid.startswith(_ECG_CLASSES + ".")):
        raise RecordError(f"is {uid.name} of DICOM, not an ECG waveform: export the ECG's waveform object")
    items = dataset.get("WaveformSequence")
    if not items:
        raise RecordError("is DICOM without a waveform: damaged, or not an ECG?")
    byte_order = ">" if dataset.original_encoding[1] is False else "<"

    rhythms = [item for item in items if not _MEDIAN.search(str(item.get("MultiplexGroupLabel") or ""))]
    if not rhythms:
        raise RecordError("holds median beats only, no rhythm: export the ECG's rhythm waveform")
    originals = [item for item in rhythms if item.get("WaveformOriginality") in (None, "", "ORIGINAL")]
    notes = [] if originals else ["its waveform is marked as derived, not original"]
    groups = [_read_group(item, byte_order) for item in originals or rhythms]
    longest = max(groups, key=lambda group: (group.signal.shape[1] / (group.fs or 1), len(group.names)))
    used = [(longest, list(range(len(longest.names))))]
    known = set(longest.names)
    for group in groups:
        new = [i for i, name in enumerate(group.names) if name not in known and group.fs == longest.fs]
        if new:
            used.append((group, new))
            known |= {group.names[i] for i in new}

    names = tuple(group.names[i] for group, new in used for i in new)
    units = tuple(group.units[i] for group, new in used for i in new)
    signal = longest.signal
    if len(used) > 1:
        signal = _put_together(used)
        notes.append(f"leads of {len(used)} waveform groups put together")
    maker = [str(dataset.get(key) or "").strip() for key in ("Manufacturer", "ManufacturerModelName")]
    return Traces(longest.fs, names, units, signal, tuple(notes), " ".join(filter(None, maker)))


def _read_group(item: Any, byte_order: str) -> _Group:
    shape = (int(item.NumberOfWaveformSamples), int(item.NumberOfWaveformChannels))
    stored = (int(item.WaveformBitsAllocated), item.WaveformSampleInterpretation)
    if stored not in _TYPES:
        raise RecordError(f"samples are {stored[1]} of {stored[0]} bits, expected {', '.join(k for _, k in _TYPES)}")
    dtype, data = np.dtype(byte_order + _TYPES[stored]), item.WaveformData
    size = shape[0] * shape[1] * dtype.itemsize
    if size == 0:
        raise RecordError("holds no samples: its DICOM waveform is empty")
    if len(data) not in (size, size + size % 2):  # padded to an even length
        raise RecordError(
            f"{shape[1]} leads of {shape[0]} samples take {size} bytes, its DICOM waveform has {len(data)}: cut off?"
        )
    channels = item.ChannelDefinitionSequence
    if len(channels) != shape[1]:
        raise RecordError(f"describes {len(channels)} leads, its DICOM waveform has {shape[1]}: damaged?")
    samples = np.frombuffer(data[:size], dtype).reshape(shape).T  # (n_leads, t)

    names, units = [], []
    signal = np.empty(samples.shape, np.float32)
    for i, channel in enumerate(channels):
        names.append(_lead(channel))
        unit, gain, baseline = _scale(channel, names[i])
        signal[i] = samples[i] * gain + baseline
        units.append(unit)
    padding = item.get("WaveformPaddingValue")
    if padding:
        signal[samples == np.frombuffer(padding[: dtype.itemsize], dtype)[0]] = np.nan
    fs = _number(item, "SamplingFrequency", 0.0)
    return _Group(names, units, signal, fs, _number(item, "MultiplexGroupTimeOffset", 0.0) / 1000)


def _lead(channel: Any) -> str:
    """Return a channel's lead: by its code in SCP-ECG or ISO/IEEE 11073, else as the file calls it."""
    source = (channel.get("ChannelSourceSequence") or [None])[0]
    value = meaning = ""
    if source is not None:
        value = str(source.get("CodeValue") or source.get("LongCodeValue") or "").strip()
        meaning = str(source.get("CodeMeaning") or "")
    number = re.fullmatch(r"(?:5\.6\.3-9-|2:)(\d+)", value)
    if number and int(number[1]) in _LEAD_OF_NUMBER:
        return _LEAD_OF_NUMBER[int(number[1])]
    term = re.fullmatch(r"MDC_ECG_LEAD_(\w+)", value)
    if term:
        return next((lead for lead in LEADS if lead.upper() == term[1].upper()), term[1])
    label = meaning or str(channel.get("ChannelLabel") or "") or value
    return re.split("[,(]", label)[0].strip()  # "Lead I (Einthoven)"; "aVF, augmented voltage, foot"


def _scale(channel: Any, lead: str) -> tuple[str, float, float]:
    """Return unit, gain and baseline: sample * gain + baseline is in that unit (PS3.3 C.10.9.1.4.2)."""
    sensitivity = _number(channel, "ChannelSensitivity", math.nan)
    if math.isnan(sensitivity):
        return "", 1.0, 0.0
    gain = sensitivity * _number(channel, "ChannelSensitivityCorrectionFactor", 1.0)
    if gain == 0:
        raise RecordError(f"lead {lead} has Channel Sensitivity 0: damaged?")
    code = (channel.get("ChannelSensitivityUnitsSequence") or [None])[0]
    unit = ""
    if code is not None:
        meaning = str(code.get("CodeMeaning") or "").strip()
        unit = str(code.get("CodeValue") or "").strip() or _UNIT_OF_MEANING.get(meaning.lower().rstrip("s"), meaning)
    return unit, gain, _number(channel, "ChannelBaseline", 0.0)


def _number(item: Any, keyword: str, default: float) -> float:
    value = item.get(keyword)
    if value is None or value == "":
        return default
    if not math.isfinite(float(value)):
        raise RecordError(f"{keyword} is {value}, not a finite number: damaged?")
    return float(value)


def _put_together(used: list[tuple[_Group, list[int]]]) -> np.ndarray:
    """Return the leads of several groups of one rate, each where its group stands in time, nan elsewhere."""
    first = min(group.offset for group, _ in used)
    starts = [round((group.offset - first) * group.fs) for group, _ in used]
    length = max(start + group.signal.shape[1] for start, (group, _) in zip(starts, used, strict=True))
    if length > _MOST_EMPTY * sum(group.signal.shape[1] for group, _ in used):
        raise RecordError(f"its waveform groups are {length / used[0][0].fs / 60:.0f} min apart: damaged?")
    signal = np.full((sum(len(new) for _, new in used), length), np.nan, np.float32)
    row = 0
    for start, (group, new) in zip(starts, used, strict=True):
        signal[row : row + len(new), start : start + group.signal.shape[1]] = group.signal[new]
        row += len(new)
    return signal
