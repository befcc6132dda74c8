"""Recordings of any device and format: found, read, and brought to known leads in millivolts.

>>> recording = read_ecg("ecg.xml")                                                     # doctest: +SKIP
>>> recording.leads, recording.fs, recording.signal.shape, recording.assumed            # doctest: +SKIP
(('I', 'II', ..., 'V6'), 500.0, (12, 5000), ())
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
from scipy import signal as scipy_signal

from ecg.formats import (
    RecordError,
    Traces,
    aecg,
    arrays,
    dicom,
    edf,
    extra,
    ishne,
    kardia,
    muse,
    scp,
    sierra,
    table,
    wfdb,
)
from ecg.leads import FROM_I_II, LEADS, LIMB_LEADS, PAGE_3X4

# Asked in this order whether a file is theirs: those with an unmistakable beginning first, text with commas last.
READERS = (wfdb, edf, dicom, ishne, muse, sierra, aecg, kardia, arrays, scp, extra, table)
HEAD = 4096  # bytes that a reader may look at to recognise its format
MV_PER_UNIT = {
    "v": 1e3,
    "volt": 1e3,
    "mv": 1.0,
    "millivolt": 1.0,
    "uv": 1e-3,
    "µv": 1e-3,  # the micro sign
    "μv": 1e-3,  # the Greek letter
    "microvolt": 1e-3,
    "microvolts": 1e-3,
    "nv": 1e-6,
    "nanovolt": 1e-6,
}
PLAUSIBLE_FS = (50, 20_000)  # Hz
PADDING_SECONDS = 0.3  # all leads at rest for longer than any real ECG has them: filled up
STRIP_SHARE = 0.6  # of all samples: a lead that moves in more is no single column of a page
WINDOW_SECONDS = 2.5  # what a network sees at a time
PAGE_SECONDS = (2.0, 3.5)  # what a lead has on a printed page of three rows and four columns


@dataclass(frozen=True)
class Recording:
    """An ECG as it was read: `signal` (n_leads, t) float32 millivolts at `fs` Hz, one row for each of `leads`.

    Leads stand in the usual order; those that follow from two limb leads are there as well, others may be missing.
    nan marks missing samples. `assumed` says, a sentence each, what the file did not say or where it was not followed,
    `notes` what else was made of it; `format` and `device` are those of the file. Of a printed page, the columns are
    not `simultaneous`. Nobody's name, id or birth date is kept.
    """

    path: Path
    format: str
    fs: float
    leads: tuple[str, ...]
    signal: np.ndarray
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    device: str = ""
    simultaneous: bool = True

    @property
    def seconds(self) -> float:
        return self.signal.shape[1] / self.fs

    def rows(self, leads: tuple[str, ...]) -> np.ndarray:
        """Return the signals of `leads` (n, t) in that order, nan where this recording has no such lead."""
        rows = np.full((len(leads), self.signal.shape[1]), np.nan, np.float32)
        for i, lead in enumerate(leads):
            if lead in self.leads:
                rows[i] = self.signal[self.leads.index(lead)]
        return rows


def read_ecg(
    path: Path | str, *, leads: tuple[str, ...] = (), unit: str = "", fs: float = 0.0, checksums: bool = True
) -> Recording:
    """Read a recording of any format that `codes/ecg/formats/` knows; which one it is is told from its content.

    `leads` names the file's leads in its own order, `unit` says what one unit of its numbers is ("uV", "4.88 uV") and
    `fs` is its rate in Hz: for files that do not say it, or say it wrongly. `checksums`: refuse WFDB records whose
    samples disagree with the checksums of their header. Raises `RecordError` with the reason if it cannot be read.
    """
    path = Path(path)
    reader = find_reader(path)
    traces = reader.read(path, checksums=checksums) if reader.NAME == "WFDB" else reader.read(path)
    traces, assumed = _completed(traces, leads=leads, unit=unit, fs=fs)
    signal, names, notes = _in_millivolts(traces, given_unit=bool(unit), given_leads=bool(leads))
    return Recording(path, reader.NAME, traces.fs, names, signal, tuple(assumed), tuple(notes), traces.device)


def find_reader(path: Path) -> ModuleType:
    """Return the module of `ecg.formats` that reads the file; raise a `RecordError` that lists the formats if none."""
    head = b""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(HEAD)
        if not head:
            raise RecordError("is empty")
    for reader in READERS:
        if reader.recognises(path, head):
            return reader
    if not path.exists():
        raise RecordError("there is no such file")
    if path.is_dir():
        raise RecordError("is a folder")
    known = ", ".join(dict.fromkeys(reader.NAME for reader in READERS))
    raise RecordError(f"its format is not known; known are {known}")


# --- what the numbers mean ------------------------------------------------------------------------------------------


def _completed(traces: Traces, *, leads: tuple[str, ...], unit: str, fs: float) -> tuple[Traces, list[str]]:
    """Return what was read with what the user says of it; and what is assumed where neither says it."""
    assumed = list(traces.notes)
    rate = fs or traces.fs
    if not rate:
        raise RecordError("does not say its sampling rate: give it in Hz with --fs")
    if fs and traces.fs and fs != traces.fs:
        assumed.append(f"its rate of {traces.fs:g} Hz is not followed: --fs {fs:g}")
    if not PLAUSIBLE_FS[0] <= rate <= PLAUSIBLE_FS[1]:
        raise RecordError(
            f"is sampled at {rate:g} Hz, outside {PLAUSIBLE_FS[0]} to {PLAUSIBLE_FS[1]} Hz: --fs gives another rate"
        )
    names = traces.names
    if leads:
        if len(leads) != len(names):
            raise RecordError(f"has {len(names)} signals, but --leads gives {len(leads)} names")
        if any(lead_name(name)[0] for name in names) and names != leads:
            assumed.append(f"its own names of leads are not followed: --leads {' '.join(leads)}")
        names = leads
    elif len(names) == len(LEADS) and not any(names):
        names = LEADS
        assumed.append(f"its twelve leads have no names: {' '.join(LEADS)} are assumed (--leads names others)")
    units = traces.units
    if unit:
        stated = {each.strip() for each in units if each.strip()}
        if stated - {unit.strip()}:
            assumed.append(f"its unit {', '.join(sorted(stated))} is not followed: --unit {unit}")
        units = (unit,) * len(names)
    elif any(not each.strip() for each in units):
        assumed.append("it does not say its unit: mV is assumed (--unit gives another)")
        units = tuple(each if each.strip() else "mV" for each in units)
    return replace(traces, fs=float(rate), names=names, units=units), assumed


def _in_millivolts(
    traces: Traces, *, given_unit: bool, given_leads: bool
) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """Return (signals (n, t) float32 in mV, their leads in the usual order, what was concluded)."""
    if not traces.signal.size:
        raise RecordError("holds no samples")
    known: dict[str, np.ndarray] = {}
    unknown, notes = [], []
    for name, unit, values in zip(traces.names, traces.units, traces.signal, strict=True):
        lead, sign = lead_name(name)
        if lead is None:
            unknown.append(name or "(no name)")
            continue  # respiration, Frank leads and the like
        scale = millivolts_per(unit)
        if not np.isfinite(values).any():
            notes.append(f"lead {lead} has no samples")
            continue
        if scale is None:
            cure = "--unit takes mV, uV, V or such as 4.88uV" if given_unit else "--unit says what one unit is"
            raise RecordError(f"lead {lead} is in {unit!r}, expected mV, uV or V: {cure}")
        values = np.asarray(values, np.float64) * (sign * scale)
        if lead in known:
            if not np.array_equal(known[lead], values, equal_nan=True):
                raise RecordError(f"lead {lead} appears twice with different signals")
            continue
        if sign < 0:
            notes.append(f"lead {lead} is -({name})")
        known[lead] = np.where(np.isfinite(values), values, np.nan)
    if not known and notes:
        raise RecordError("holds no samples: all are missing")
    if not known:
        found, example = ", ".join(map(_quoted, unknown[:15])), " ".join(LEADS[: len(traces.names)])
        raise RecordError(
            f"none of its leads is known by its name ({found}): name them in their order with --leads, such as --leads "
            f"{example}"
        )
    strange = [name for name in unknown if name != "-"]
    if given_leads and strange:
        raise RecordError(f"--leads: {', '.join(strange)} is no lead; use {' '.join(LEADS)}, and - for what is none")
    notes += _complete(known)
    leads = tuple(lead for lead in LEADS if lead in known)
    return np.stack([known[lead] for lead in leads]).astype(np.float32), leads, notes


def _quoted(name: str) -> str:
    """Return a channel's name if it looks like one: the heading of a table may be a person's."""
    return (
        name
        if len(name) <= 24 and sum(sign.isdigit() for sign in name) < 3 and name.count(" ") < 2
        else "(a longer one)"
    )


def millivolts_per(unit: str) -> float | None:
    """Return how many millivolts one unit is: "uV" is .001, "4.88 uV" .00488; None if that is no unit of voltage.

    >>> millivolts_per("uV"), millivolts_per("4.88uV"), millivolts_per("mmHg")
    (0.001, 0.00488, None)
    """
    match = re.fullmatch(r"\s*([\d.]+(?:e[+-]?\d+)?)?\s*\*?\s*(\D+?)\s*", unit.strip().lower())
    if not match or match[2] not in MV_PER_UNIT:
        return None
    try:
        factor = float(match[1] or 1)
    except ValueError:
        return None
    return factor * MV_PER_UNIT[match[2]] if 1e-9 < factor < 1e9 else None


def lead_name(name: str) -> tuple[str | None, int]:
    """Return (the lead that a device's name means, its sign); (None, 1) for one that is not among the twelve.

    Known are `AVR`, `Lead-aVR`, `ECG_aVR`, `MDC_ECG_LEAD_AVR`, `Lead I (Einthoven)`, `DII`, `D2`, `C1` to `C6`, and
    `-aVR` with the sign -1. A minus within, as in `I-II`, makes another lead, unless it ties on a known word, as in
    `Lead-I` and `V1-REF`.
    """
    bare = re.sub(r"\([^)]*\)\s*$", "", name.strip().lower())
    bare = re.sub(r"^((mdc|ecg|ekg|lead)([\s_.:]+|-(?!avr)|(?=lead|ecg)))+", "", bare)
    bare = re.sub(r"([\s_.-]*ref)?[\s_.]*$", "", bare)
    bare = re.sub(r"(?<!i)[\s_]|[\s_](?!i)", "", bare)  # "v 6" and "d ii", but "i ii" is not III
    sign = 1
    if bare in ("-avr", "avrneg", "avr-", "avrn"):
        bare, sign = "avr", -1
    if re.fullmatch("di{1,3}", bare):
        bare = bare[1:]
    elif re.fullmatch("[dl][123]", bare):
        bare = "i" * int(bare[1])
    elif re.fullmatch("c[1-6]", bare):  # the chest leads of the IEC
        bare = f"v{bare[1]}"
    lead = next((lead for lead in LEADS if lead.lower() == bare), None)
    return lead, sign if lead else 1


def _complete(known: dict[str, np.ndarray]) -> list[str]:
    """Add the limb leads that follow from two others; return what was computed."""
    recorded = [i for i, lead in enumerate(LIMB_LEADS) if lead in known]
    missing = [lead for lead in LIMB_LEADS if lead not in known]
    if len(recorded) < 2 or not missing:
        return []
    i_ii = np.linalg.pinv(FROM_I_II[recorded]) @ np.stack([known[LIMB_LEADS[i]] for i in recorded])
    for lead in missing:
        known[lead] = FROM_I_II[LIMB_LEADS.index(lead)] @ i_ii
    return [f"lead {', '.join(missing)} computed from {', '.join(LIMB_LEADS[i] for i in recorded)}"]


def resample(signal_mv: np.ndarray, fs: float, to: float) -> np.ndarray:
    """Resample (..., t) from `fs` to `to` Hz with a linear-phase low-pass against aliasing."""
    ratio = Fraction(to / fs).limit_denominator(2000)
    if ratio == 1:
        return signal_mv
    # padding with a line instead of zeros: an offset of the baseline would ring at both ends
    return scipy_signal.resample_poly(signal_mv, ratio.numerator, ratio.denominator, axis=-1, padtype="line")


# --- what of a recording is signal ------------------------------------------------------------------------------------


def without_padding(recording: Recording) -> Recording:
    """Return the recording without what it was filled up with at its ends: all leads missing or at rest there.

    A recording that has no more than that is returned as it is.
    """
    moving = _moves(recording.signal)
    some = np.flatnonzero(moving.any(axis=0))
    if not len(some):
        return recording
    margin = round(PADDING_SECONDS * recording.fs)
    first, end = some[0], some[-1] + 2  # a step belongs to the two samples that it joins
    first = 0 if first < margin else first + 1  # the step out of the padding is no signal
    length = recording.signal.shape[1]
    end = length if length - end < margin else end - 1
    if (first, end) == (0, length):
        return recording
    note = (
        f"{(end - first) / recording.fs:.1f} of its {recording.seconds:.1f} s are used: the rest is padding, all leads "
        "are at rest there"
    )
    return replace(recording, signal=recording.signal[:, first:end], notes=(*recording.notes, note))


def as_window(recording: Recording) -> Recording | None:
    """Return the leads of a printed page side by side, each with its own 2.5 s; None if it is no such page.

    On paper the twelve leads stand in three rows and four columns, one after the other in time; in a file made of it
    each lead is missing or zero outside its column.
    """
    fs, signal = recording.fs, recording.signal
    moving = _moves(signal)
    columns = []
    strip = moving.mean(axis=1) > STRIP_SHARE  # a rhythm strip below the page: it moves in all columns
    for column in zip(*PAGE_3X4, strict=True):
        rows = [recording.leads.index(lead) for lead in column if lead in recording.leads]
        shown = [row for row in rows if not strip[row]]
        some = np.flatnonzero(moving[shown].any(axis=0)) if shown else []
        if not len(some):
            return None
        first, end = some[0] + 1, some[-1] + 1
        if not PAGE_SECONDS[0] <= (end - first) / fs <= PAGE_SECONDS[1]:
            return None
        columns.append((rows, first, end))
    if any(right[1] < left[2] - 0.2 * fs for left, right in pairwise(columns)):
        return None
    quarter = signal.shape[1] // len(columns)
    margin = PADDING_SECONDS * fs  # a lead may rest where its column begins or ends
    for i, (rows, first, end) in enumerate(columns):
        begins, ends = i * quarter, (i + 1) * quarter
        is_within = begins - margin < first and end < ends + margin
        if is_within and np.isfinite(signal[rows, begins:ends]).all():
            columns[i] = (rows, begins, ends)
    length = min(end - first for _, first, end in columns)
    window = np.full((len(signal), length), np.nan, np.float32)
    for rows, first, end in columns:
        middle = (first + end - length) // 2
        window[rows] = signal[rows, middle : middle + length]
    needed = round(WINDOW_SECONDS * fs)  # columns of 2.3 s are common; the last value goes on for the rest
    window = np.pad(window, ((0, 0), (0, max(0, needed - length))), mode="edge")
    note = f"a printed page: each lead's own {length / fs:.1f} s are used, side by side"
    return replace(recording, signal=window, notes=(*recording.notes, note), simultaneous=False)


def _moves(signal: np.ndarray) -> np.ndarray:
    """Return (n_leads, t - 1): whether a lead changes from a sample to the next, both there."""
    step = np.diff(signal, axis=1)
    return np.isfinite(step) & (step != 0)
