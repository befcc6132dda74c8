"""From files to answers: read, judge whether the input is an ECG in the right unit, predict, measure.

The steps of `codes/predict.py` for many files at a time, as functions that other programs can call as well.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import Any

import numpy as np

from ecg.formats import RecordError
from ecg.guard import examine
from ecg.inputs import Source
from ecg.leads import PAGE_3X4
from ecg.measurements import Measurements, measure
from ecg.recordings import Recording, as_window, read_ecg, without_padding
from ecg.stored_run import StoredRun

CHUNK = 64  # recordings in memory at a time
MOST_SAMPLES = 50_000_000  # of all leads in memory at a time, if they are longer
PIECE_SECONDS = 10.0  # of a long recording, answered by itself
LONG_SECONDS = 60.0  # from here on the course over time is worth a look
PAGE_COLUMN = tuple(row[0] for row in PAGE_3X4)
BRIDGED_SECONDS = 0.1  # a gap that is bridged with a line
# Of a printed page's leads, which show other beats, nothing can be judged that compares leads with each other
JUDGED_OF_A_PAGE = ("scale", "flat", "missing", "spikes", "clipping")
LENGTH_TOLERANCE = 0.02  # seconds that a recording may lack: files of 10 s often end a sample early


@dataclass(frozen=True)
class Reading:
    """How files are read: what the user says of them, and what is let through."""

    leads: tuple[str, ...] = ()
    unit: str = ""
    fs: float = 0.0
    checksums: bool = True
    force: bool = False


@dataclass(frozen=True)
class Answer:
    """What is said about one recording.

    `probability` (n_classes,) in the order of the task's classes; `course` (n_pieces, n_classes) of the pieces of
    PIECE_SECONDS of a long recording, which begin at `starts` (n_pieces,) in s of what is used of it, else None;
    `signal` (n_leads, t) is what the model was given, or the first piece of it; `warnings` say what of the input makes
    the answer doubtful or was assumed.
    """

    name: str
    recording: Recording
    model: str
    stored: StoredRun
    probability: np.ndarray
    warnings: tuple[str, ...]
    measurements: Measurements
    signal: np.ndarray = field(repr=False)
    course: np.ndarray | None = field(default=None, repr=False)
    starts: np.ndarray | None = None

    @property
    def probabilities(self) -> dict[str, float]:
        classes = self.stored.task.classes
        return {name: float(str(p)) for name, p in zip(classes, self.probability, strict=True)}


@dataclass(frozen=True)
class Refusal:
    """A file without an answer, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Model:
    """A stored run with the name that the user knows it by."""

    name: str
    stored: StoredRun


def answer_all(
    sources: Iterable[Source], model: Model, *, fallback: Model | None, reading: Reading
) -> Iterator[Answer | Refusal]:
    """Yield an answer or a refusal for each source, in order.

    `fallback` answers recordings that the model cannot take, because leads are missing or they are too short.
    """
    sources = iter(sources)
    while prepared := _prepared_chunk(sources, model, fallback, reading):
        probabilities = _predict([each for each in prepared if isinstance(each, _Prepared)])
        for each in prepared:
            if isinstance(each, Refusal):
                yield each
                continue
            pieces = probabilities[id(each)]
            if isinstance(pieces, Refusal):
                yield pieces
                continue
            yield Answer(
                name=each.name,
                recording=each.recording,
                model=each.model.name,
                stored=each.model.stored,
                probability=pieces.mean(axis=0),
                warnings=each.warnings,
                measurements=_measured(each.recording),
                signal=each.pieces[0],
                course=pieces if len(pieces) > 1 else None,
                starts=each.starts if len(pieces) > 1 else None,
            )


def _prepared_chunk(
    sources: Iterator[Source], model: Model, fallback: Model | None, reading: Reading
) -> list["_Prepared | Refusal"]:
    """Return the next recordings: CHUNK of them, or fewer long ones."""
    prepared, samples = [], 0
    for source in islice(sources, CHUNK):
        prepared.append(_prepare(source, model, fallback, reading))
        samples += prepared[-1].pieces.size if isinstance(prepared[-1], _Prepared) else 0
        if samples > MOST_SAMPLES:
            break
    return prepared


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A recording that can be answered, the model that will, and its signals (n_pieces, n_leads, t) for it."""

    name: str
    recording: Recording
    model: Model
    pieces: np.ndarray
    starts: np.ndarray
    warnings: tuple[str, ...]


def _prepare(source: Source, model: Model, fallback: Model | None, reading: Reading) -> _Prepared | Refusal:
    try:
        recording = read_ecg(
            source.path, leads=reading.leads, unit=reading.unit, fs=reading.fs, checksums=reading.checksums
        )
        recording = as_window(recording) or without_padding(recording)
        warnings = [*recording.assumed, *recording.notes, *_judged(recording, force=reading.force)]
        recording, bridged = _without_gaps(recording)
        chosen, why = _choose(recording, model, fallback)
        pieces, starts = _pieces(recording.rows(chosen.stored.leads), recording.fs, chosen.stored)
        return _Prepared(
            name=source.name,
            recording=recording,
            model=chosen,
            pieces=pieces,
            starts=starts,
            warnings=(*warnings, *bridged, *why),
        )
    except RecordError as error:
        return Refusal(source.name, str(error))
    except OSError as error:
        return Refusal(source.name, error.strerror or str(error))
    except MemoryError:
        return Refusal(source.name, "is too large for this machine's memory")


def _measured(recording: Recording) -> Measurements:
    """Return heart rate, intervals and axis; of a printed page those of leads I, II and III, which are one column."""
    leads = recording.leads
    if not recording.simultaneous:
        leads = tuple(lead for lead in PAGE_COLUMN if lead in leads)
    return measure(recording.rows(leads), leads, recording.fs)


def _judged(recording: Recording, *, force: bool) -> list[str]:
    """Return what the guard warns of; raise a `RecordError` if the answer would mean nothing, unless forced."""
    findings = examine(recording.signal, recording.leads, recording.fs)
    if not recording.simultaneous:
        findings = [finding for finding in findings if finding.kind in JUDGED_OF_A_PAGE]
    errors = [finding.message for finding in findings if finding.severity == "error"]
    if errors and not force:
        raise RecordError(f"{'; '.join(errors)} (--force answers nevertheless)")
    return [finding.message for finding in findings]


def _without_gaps(recording: Recording) -> tuple[Recording, list[str]]:
    """Return the longest stretch in which no lead misses a sample, short gaps bridged; and what was done."""
    missing = ~np.isfinite(recording.signal)
    if not missing.any():
        return recording, []
    present = ~missing.all(axis=1)
    leads = tuple(lead for lead, there in zip(recording.leads, present, strict=True) if there)
    if not leads:
        raise RecordError("holds no samples: all are missing")
    signal, missing = recording.signal[present].copy(), missing[present]
    notes = []
    if len(leads) < len(recording.leads):
        absent = [lead for lead in recording.leads if lead not in leads]
        notes.append(f"lead {', '.join(absent)} has no samples")
    most = BRIDGED_SECONDS * recording.fs
    for values, gaps in zip(signal, missing, strict=True):
        for first, end in _stretches(gaps):
            if first > 0 and end < len(gaps) and end - first <= most:
                values[first:end] = np.linspace(values[first - 1], values[end], end - first + 2)[1:-1]
                gaps[first:end] = False
                notes.append(f"a gap at {first / recording.fs:.2f} s is bridged with a line")
    complete = list(_stretches(~missing.any(axis=0)))
    if not complete:
        raise RecordError("at no moment are all its leads there")
    first, end = max(complete, key=lambda stretch: stretch[1] - stretch[0])
    if end - first < signal.shape[1]:
        length = (end - first) / recording.fs
        notes.append(f"samples are missing: the longest stretch without a gap is used, {length:.1f} s")
    return replace(recording, leads=leads, signal=signal[:, first:end]), list(dict.fromkeys(notes))


def _stretches(true: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of every stretch of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], true, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _choose(recording: Recording, model: Model, fallback: Model | None) -> tuple[Model, list[str]]:
    """Return the model that answers, and why if it is not the first; raise a `RecordError` if none can."""
    reason = _obstacle(recording, model.stored)
    if not (reason or recording.simultaneous or model.stored.takes_missing_leads):
        if fallback is None:
            return model, ["the model never saw leads side by side that show other beats: the answer is less certain"]
        reason = "its leads show other beats"
    if not reason:
        return model, _left_out(recording, model)
    if fallback is None or _obstacle(recording, fallback.stored):
        cure = "" if fallback else "; a run trained with missing leads could answer (--model)"
        raise RecordError(f"{reason}{cure if 'missing' in reason else ''}")
    return fallback, [f"{reason}: {fallback.name} answers, which was trained for that"]


def _left_out(recording: Recording, model: Model) -> list[str]:
    """Return which members of an ensemble cannot take a recording; the others answer for them."""
    members = model.stored.members
    complete = set(model.stored.leads) <= set(recording.leads)
    able = model.stored.members_for(recording.seconds + LENGTH_TOLERANCE, complete=complete) if members else {}
    gone = [name for name in members or {} if name not in able]
    return [f"{', '.join(gone)} cannot take it: the other members answer"] if gone else []


def _obstacle(recording: Recording, stored: StoredRun) -> str:
    """Return why a run cannot answer a recording; empty if it can."""
    missing = [lead for lead in stored.leads if lead not in recording.leads]
    if missing and not stored.takes_missing_leads:
        return f"lead {', '.join(missing)} is missing"
    if not set(stored.leads) & set(recording.leads):
        return f"none of the leads {', '.join(stored.leads)} is there"
    if recording.seconds < stored.min_seconds - LENGTH_TOLERANCE:
        return f"{recording.seconds:.2f} s long, the model needs at least {stored.min_seconds:g} s"
    return ""


def _pieces(rows: np.ndarray, fs: float, stored: StoredRun) -> tuple[np.ndarray, np.ndarray]:
    """Return (signals (n_pieces, n_leads, t), where they begin in s): one, or of a long recording end to end.

    The last piece of PIECE_SECONDS ends with the recording, and may overlap the one before.

    The few samples that a recording lacks for the run, or for a member of an ensemble, repeat the last one.
    """
    for run in stored.members.values() or (stored,):
        lacking = round(run.min_seconds * fs) - rows.shape[1]
        if 0 < lacking <= LENGTH_TOLERANCE * fs + 1:
            rows = np.pad(rows, ((0, 0), (0, lacking)), mode="edge")
    length = rows.shape[1]
    size = round(PIECE_SECONDS * fs)
    if length < LONG_SECONDS * fs:
        return rows[None], np.zeros(1)
    starts = [*range(0, length - size + 1, size)]
    if starts[-1] + size < length:
        starts.append(length - size)
    return np.stack([rows[:, start : start + size] for start in starts]), np.asarray(starts) / fs


def _predict(prepared: list[_Prepared]) -> dict[int, np.ndarray | Refusal]:
    """Return {id: probabilities (n_pieces, n_classes)}; recordings of equal shape are predicted together."""

    def alike(each: _Prepared) -> tuple[Any, ...]:
        return each.model.name, each.recording.fs, each.recording.simultaneous, each.pieces.shape[1:]

    answered = {}
    for _, group in groupby(sorted(prepared, key=alike), key=alike):
        members = list(group)
        stacked = members[0].pieces if len(members) == 1 else np.concatenate([each.pieces for each in members])
        stored, fs = members[0].model.stored, members[0].recording.fs
        is_page = not members[0].recording.simultaneous and stored.takes_missing_leads
        try:
            found = stored.predict_page(stacked, fs) if is_page else stored.predict(stacked, fs)
        except (ValueError, MemoryError) as error:
            reason = "is too large for this machine's memory" if isinstance(error, MemoryError) else str(error)
            answered |= {id(each): Refusal(each.name, reason) for each in members}
            continue
        ends = np.cumsum([len(each.pieces) for each in members])
        for each, values in zip(members, np.split(found, ends[:-1]), strict=True):
            answered[id(each)] = values
    return answered
