"""EDF, EDF+ and BDF, the files of Holter recorders and sleep laboratories, through `edfio`.

Kemp et al., Electroencephalogr. Clin. Neurophysiol. 82:391 (1992); Kemp and Olivan, Clin. Neurophysiol. 114:1755
(2003); https://www.edfplus.info/specs. A header in ASCII, then data records, each with some samples of every channel.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecg.formats import RecordError, Traces

NAME = "EDF"

_EDF, _BDF = b"0       ", b"\xffBIOSEMI"
_BARE_LEAD = r"(?:lead[\s_.:-]*)?-?(?:d?\s?i{1,3}|[dl]\s?[123]|ml\s?i{1,3}|a?v[rlf]|v\s?[1-9]r?)(?:[\s_.-]*ref)?"
_ECG = re.compile(rf"(?:ecg|ekg|mdc_ecg)(?!.*(?:off|imp|rate|hr|qual|status)).*|{_BARE_LEAD}", re.IGNORECASE)
_LIMB = re.compile(r"(?:lead[\s_.:-]*)?(?:d?\s?i{1,3}|[dl]\s?[123]|a?v[rlf])", re.IGNORECASE)
_CHEST_C = re.compile(r"c\s?[1-6]", re.IGNORECASE)  # C3 is a chest lead beside limb leads, else an electrode of the EEG
_EEG = re.compile(r"eeg.*|(?:fp[12z]|f[3478z]|c[34z]|p[34z]|o[12z])(?:\W.*)?", re.IGNORECASE)
_ONSET = re.compile(rb"([+-]\d+(?:\.\d*)?)\x14\x14")  # with which a data record's annotations begin
_MOST_GAPS = 10  # times the recorded duration


@dataclass(frozen=True)
class _Layout:
    """Where things are in the file: per channel, its label and its samples in each data record."""

    kind: str  # EDF or BDF
    plus: str  # C or D, empty without the plus
    labels: list[str]
    counts: list[int]
    width: int  # bytes of a sample
    start: int  # of the data, in bytes
    seconds: float  # of a data record
    records: int
    notes: list[str]

    @property
    def annotations(self) -> str:
        return f"{self.kind} Annotations"


def recognises(path: Path, head: bytes) -> bool:
    return head[:8] == _BDF or (head[:8] == _EDF and b"\n" not in head[:256])


def read(path: Path) -> Traces:
    """Return the ECG leads of the file, or, if no name looks like one, all channels of the commonest rate.

    Of an EDF+D file the gaps between its data records are nan. Raises `RecordError` if the header is damaged, if the
    file is longer or shorter than it says, or if the leads have different rates.
    """
    try:
        layout = _read_layout(path)
        return _read_channels(path, layout)
    except RecordError:
        raise
    except Exception as error:  # on a damaged file edfio raises whatever its parser stumbles over
        raise RecordError(f"damaged or cut off, cannot be read as {NAME} ({type(error).__name__}: {error})") from None


def _read_layout(path: Path) -> _Layout:
    with path.open("rb") as file:
        head = file.read(256)
        kind, width = ("BDF", 3) if head[:8] == _BDF else ("EDF", 2)
        if len(head) < 256:
            raise RecordError(f"cut off in the header of its {kind} file")
        start = _whole_number(head[184:192], f"size of the {kind} header")
        records = _whole_number(head[236:244], f"number of data records in the {kind} header")
        n = _whole_number(head[252:256], f"number of channels in the {kind} header")
        if n < 1 or start != 256 * (n + 1):
            raise RecordError(f"its {kind} header is damaged: {n} channels do not go with {start} bytes of header")
        channels = file.read(256 * n)
    if len(channels) < 256 * n:
        raise RecordError(f"cut off in the header of its {kind} file")
    labels = [_text(channels[16 * i : 16 * (i + 1)]) for i in range(n)]
    samples = channels[216 * n : 224 * n]
    counts = [_whole_number(samples[8 * i : 8 * (i + 1)], f"samples per data record of {labels[i]}") for i in range(n)]
    if min(counts) < 1:
        raise RecordError(f"its {kind} header is damaged: channel {labels[counts.index(min(counts))]} has no samples")

    there, rest = divmod(path.stat().st_size - start, width * sum(counts))
    notes = []
    if records == 0 or (there == 0 and rest == 0):
        raise RecordError(f"holds no samples: its {kind} file is a header only")
    if records == -1 and there:  # a recording that was never closed
        notes.append(f"the {kind} header does not say how long the recording is: all {there} data records were read")
    elif records != there or rest:
        found = f"{there} data records" + (f" and {rest} bytes" if rest else "")
        raise RecordError(f"holds {found}, its {kind} header says {records} data records: cut off or damaged?")
    seconds = float(head[244:252])
    if not (math.isfinite(seconds) and seconds > 0):
        raise RecordError(f"its {kind} header gives a data record {seconds:g} s: damaged, or annotations only?")
    plus = head[196:197].decode("latin-1") if head[192:196] == f"{kind}+".encode() else ""
    return _Layout(kind, plus, labels, counts, width, start, seconds, there, notes)


def _whole_number(field: bytes, what: str) -> int:
    try:
        return int(field)
    except ValueError:
        raise RecordError(f"{what} is {field.decode('latin-1').strip()!r}, not a number: damaged?") from None


def _text(field: bytes) -> str:
    """Return a header's text: ASCII by the standard, but µV is found in both other encodings."""
    try:
        return field.decode("utf-8").rstrip()
    except UnicodeDecodeError:
        return field.decode("latin-1").rstrip()


def _read_channels(path: Path, layout: _Layout) -> Traces:
    import edfio

    channels = [i for i, label in enumerate(layout.labels) if label != layout.annotations]
    if not channels:
        raise RecordError(f"holds annotations only, no signal: is there a second {layout.kind} file?")
    chosen, notes = _choose(layout, channels)
    count = layout.counts[chosen[0]]
    fs = count / layout.seconds
    starts, gaps = _place(path, layout, count)
    notes += gaps

    reader = edfio.read_bdf if layout.kind == "BDF" else edfio.read_edf
    file = reader(path, header_encoding="latin-1")
    signal = np.full((len(chosen), starts[-1] + count), np.nan, np.float32)
    columns = None if len(gaps) == 0 else starts[:, None] + np.arange(count)
    units = []
    for row, i in enumerate(chosen):
        channel = file.signals[channels.index(i)]
        limits = [*channel.digital_range, *channel.physical_range]
        if not np.isfinite(limits).all() or limits[0] >= limits[1] or limits[2] == limits[3]:
            raise RecordError(
                f"channel {layout.labels[i]}: digital {limits[0]} to {limits[1]} cannot stand for physical "
                f"{limits[2]:g} to {limits[3]:g}: is its {layout.kind} header damaged?"
            )
        if columns is None:
            signal[row] = channel.data
        else:
            signal[row, columns] = channel.data.reshape(-1, count)
        units.append(_text(channel.physical_dimension.encode("latin-1")).strip())
    device = ""
    if layout.plus and file.local_recording_identification.startswith("Startdate "):
        device = file.recording.equipment_code.replace("_", " ")
    names = tuple(layout.labels[i].strip() for i in chosen)
    return Traces(fs, names, tuple(units), signal, tuple(layout.notes + notes), "" if device == "X" else device)


def _choose(layout: _Layout, channels: list[int]) -> tuple[list[int], list[str]]:
    """Return the ECG's channels, all of one rate, and a note if that had to be guessed."""
    labels = {i: layout.labels[i].strip() for i in channels}
    chest_c = any(_LIMB.fullmatch(label) for label in labels.values())
    leads = []
    for i, label in labels.items():
        if _ECG.fullmatch(label) or (chest_c and _CHEST_C.fullmatch(label)):
            leads.append(i)
    rates = {i: layout.counts[i] / layout.seconds for i in channels}
    if leads:
        if len({rates[i] for i in leads}) > 1:
            found = ", ".join(f"{labels[i]} {rates[i]:g} Hz" for i in leads)
            raise RecordError(f"its ECG leads have different sampling rates ({found}): export them at one")
        return leads, []
    if eeg := [label for label in labels.values() if _EEG.fullmatch(label)]:
        raise RecordError(f"has no channel named like an ECG lead, but some of an EEG ({', '.join(eeg[:5])})")
    signals = [i for i in channels if labels[i] != "Status"] or channels  # BDF's column of triggers
    of_rate = {rate: [i for i in signals if rates[i] == rate] for rate in {rates[i] for i in signals}}
    rate = max(of_rate, key=lambda rate: (len(of_rate[rate]), rate))
    which = f"the {len(of_rate[rate])} at {rate:g} Hz were read" if len(of_rate) > 1 else "all were read"
    return of_rate[rate], [f"no channel is named like an ECG lead: {which}"]


def _place(path: Path, layout: _Layout, count: int) -> tuple[np.ndarray, list[str]]:
    """Return at which sample each data record starts, of channels with `count` samples in each, and a note on gaps.

    Only the records of a discontinuous file say it (EDF+ specification, 2.2.4).
    """
    starts = np.arange(layout.records) * count
    if layout.plus != "D":
        return starts, []
    if layout.annotations not in layout.labels:
        raise RecordError(f"its {layout.kind}+D file has no channel {layout.annotations}, which says where gaps are")
    k = layout.labels.index(layout.annotations)
    before, size = layout.width * sum(layout.counts[:k]), layout.width * layout.counts[k]
    shape = (layout.records, layout.width * sum(layout.counts))
    data = np.memmap(path, np.uint8, "r", offset=layout.start, shape=shape)[:, before : before + size]
    onsets = np.empty(layout.records)
    for i, annotation in enumerate(data):
        match = _ONSET.match(annotation.tobytes())
        if not match:
            raise RecordError(f"data record {i + 1} of its {layout.kind}+D file does not say when it starts: damaged?")
        onsets[i] = float(match[1])
    late = np.rint((onsets - onsets[0]) / layout.seconds * count - starts)  # by so many samples of gaps so far
    if np.diff(late, prepend=0).min() < -1:  # 1: onsets are rounded
        raise RecordError(f"data records of its {layout.kind}+D file overlap or are out of order: damaged?")
    late = np.maximum.accumulate(late)
    if late[-1] > _MOST_GAPS * layout.records * count:
        hours = (onsets[-1] - onsets[0]) / 3600
        raise RecordError(f"spread over {hours:.1f} h with more than {_MOST_GAPS} times its length in gaps: cut it up")
    n = np.count_nonzero(np.diff(late))
    seconds = late[-1] / count * layout.seconds
    notes = [f"{n} gap{'s' if n > 1 else ''} of {seconds:.6g} s in all, filled with nan"] if n else []
    return starts + late.astype(int), notes
