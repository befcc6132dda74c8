"""HL7 annotated ECG (aECG): `AnnotatedECG` documents, the format of the FDA's ECG warehouse and of many devices.

ANSI/HL7 V3 ECG R1-2004; "HL7 aECG Implementation Guide", B. D. Brown and F. Badilini, 21 March 2005. A series holds
sets of sequences. In a set one sequence is the time, given by its first value and the step, the others are leads:
`origin + scale * digits`. Three leads at a time, as a paper recorder prints them, are several sets one after another.
A derived series, which is a representative beat, is left alone.
"""

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from ecg.formats import RecordError, Traces, xml

NAME = "HL7 aECG"
PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "µs": 1e6, "μs": 1e6}  # both Unicode signs for micro
VOLTS = {"v": 1.0, "mv": 1e-3, "uv": 1e-6, "µv": 1e-6, "μv": 1e-6, "nv": 1e-9}
MOST_LEADS = 64
MOST_SPREAD = 10  # times as long as its leads may a recording be that leaves gaps between sets


def recognises(path: Path, head: bytes) -> bool:
    return xml.root_name(head) == "AnnotatedECG"


def read(path: Path) -> Traces:
    """Read the first rhythm series of an aECG file; leads keep their MDC codes as names, such as MDC_ECG_LEAD_AVR."""
    root = xml.parse(path, "AnnotatedECG", NAME)
    series = root.findall("component/series")
    if not series:
        raise RecordError(f"{NAME} without a series: it has no waveforms")
    rhythms = [one for one in series if _code(one).upper() != "REPRESENTATIVE_BEAT"]
    if not rhythms:
        raise RecordError(f"{NAME} with a representative beat only, no rhythm")
    notes = [f"the first of its {len(rhythms)} recordings is read"] if len(rhythms) > 1 else []
    sets = [_sequences(one) for one in rhythms[0].findall("component/sequenceSet")]
    sets = [one for one in sets if one[2]]
    if not sets:
        raise RecordError(f"{NAME} whose series has no lead")
    if len({fs for fs, _, _ in sets}) > 1:
        raise RecordError(f"its sets of leads have different rates: {', '.join(f'{fs:g} Hz' for fs, _, _ in sets[:9])}")
    signal, units = _on_one_axis(sets)
    if len(sets) > 1:
        notes.append(f"leads recorded one after another, in {len(sets)} parts")
    device = _device(rhythms[0])
    return Traces(sets[0][0], tuple(units), tuple(units.values()), signal, tuple(notes), device)


def _sequences(sequence_set: Element) -> tuple[float, float | None, dict[str, tuple[str, np.ndarray]]]:
    """Return a set's rate in Hz, 0 if it has none, its start in s, if stated, and each lead's unit and samples."""
    fs, start, leads = 0.0, None, {}
    for sequence in sequence_set.findall("component/sequence"):
        code, value = _code(sequence), sequence.find("value")
        if code.upper() in ("TIME_ABSOLUTE", "TIME_RELATIVE"):
            fs, start = _time(value)
        elif code in leads:
            raise RecordError(f"{code} appears twice in a set")
        else:
            leads[code] = _lead(code, value)
    lengths = {len(samples) for _, samples in leads.values()}
    if len(lengths) > 1:
        raise RecordError(f"leads of one set have {min(lengths)} to {max(lengths)} samples: cut off?")
    return fs, start, leads


def _time(value: Element | None) -> tuple[float, float | None]:
    """Return the rate in Hz and the start in seconds since whatever the file counts from."""
    increment = value.find("increment") if value is not None else None
    if increment is None:
        raise RecordError(f"{NAME} whose time has no increment")
    step = xml.number(increment.get("value", ""), "increment of time")
    unit = increment.get("unit", "").strip()
    if step <= 0 or unit not in PER_SECOND:
        raise RecordError(f"increment of time is {step:g} {unit[:20]!r}, expected s, ms or us")
    head = value.find("head")
    text = head.get("value", "").strip() if head is not None else ""
    if head is not None and head.get("unit") in PER_SECOND:
        return PER_SECOND[unit] / step, xml.number(text, "head of time") / PER_SECOND[head.get("unit")]
    seconds, _, fraction = text.partition(".")
    fraction = fraction.partition("+")[0].partition("-")[0]
    with suppress(ValueError):  # then its start is not known, which matters only where there are several sets
        since = datetime.strptime(seconds[:14], "%Y%m%d%H%M%S") - datetime(1900, 1, 1)
        return PER_SECOND[unit] / step, since.total_seconds() + float(f"0.{fraction or 0}")
    return PER_SECOND[unit] / step, None


def _lead(code: str, value: Element | None) -> tuple[str, np.ndarray]:
    """Return the unit of a lead and its samples in it, (t,)."""
    name = code[:40] or "without a code"
    samples = xml.numbers(value.findtext("digits") or "" if value is not None else "", f"lead {name}")
    if not len(samples):
        raise RecordError(f"lead {name} has no digits")
    scale, origin = value.find("scale"), value.find("origin")
    if scale is None:
        return "", samples
    unit = scale.get("unit", "").strip()
    zero = xml.number(origin.get("value") or "0", f"origin of lead {name}") if origin is not None else 0.0
    if zero and origin.get("unit", unit) != unit:
        known = [VOLTS.get(one.strip().lower()) for one in (origin.get("unit"), unit)]
        if None in known:
            raise RecordError(f"origin of lead {name} is in {origin.get('unit')[:20]!r}, its scale in {unit[:20]!r}")
        zero *= known[0] / known[1]
    with np.errstate(over="ignore", invalid="ignore"):  # such a lead is refused for what comes out
        return unit[:20], zero + xml.number(scale.get("value", ""), f"scale of lead {name}") * samples


def _on_one_axis(sets: list) -> tuple[np.ndarray, dict[str, str]]:
    """Return the signal of all sets, (n_leads, t), nan where a lead was not recorded, and the unit of each lead."""
    units: dict[str, str] = {}
    for _, _, leads in sets:
        for code, (unit, _) in leads.items():
            if units.setdefault(code, unit) != unit:
                raise RecordError(f"{code} is in {units[code]!r} here and in {unit!r} there")
    if len(units) > MOST_LEADS:
        raise RecordError(f"{len(units)} leads, which is no ECG")
    lengths = [len(next(iter(leads.values()))[1]) for _, _, leads in sets]
    if len(sets) == 1:
        begins = [0]
    elif all(start is not None for _, start, _ in sets) and sets[0][0]:
        first = min(start for _, start, _ in sets)
        begins = [round((start - first) * fs) for fs, start, _ in sets]
    else:
        raise RecordError(f"{len(sets)} sets of leads whose starting times are not stated")
    n_samples = max(begin + length for begin, length in zip(begins, lengths, strict=True))
    if n_samples > MOST_SPREAD * sum(lengths):
        raise RecordError(f"its parts lie {n_samples / sets[0][0]:.0f} s apart: are their starting times right?")
    signal = np.full((len(units), n_samples), np.nan)
    rows = {code: row for row, code in enumerate(units)}
    for (_, _, leads), begin in zip(sets, begins, strict=True):
        for code, (_, samples) in leads.items():
            there = signal[rows[code], begin : begin + len(samples)]
            if not np.isnan(there).all():
                raise RecordError(f"{code} is stated twice for the same time")
            there[:] = samples
    return signal, units


def _code(element: Element) -> str:
    code = element.find("code")
    return code.get("code", "").strip() if code is not None else ""


def _device(series: Element) -> str:
    author = series.find("author/seriesAuthor")
    maker = xml.text_of(author, "manufacturerOrganization/name")
    return f"{maker} {xml.text_of(author, 'manufacturedSeriesDevice/manufacturerModelName')}".strip()[:80]
