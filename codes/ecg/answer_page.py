"""Answers as one page for a browser: the ECG on paper with zoom and caliper, the answer, measurements, warnings."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, select_autoescape

from ecg.answers import Answer
from ecg.artifacts import atomic
from ecg.formats.wfdb import UV_PER_MV
from ecg.recordings import resample

MOST_SECONDS = 60  # of a recording that are drawn
DRAWN_FS = 250  # Hz; more samples than pixels are of no use
MOST_ROWS = 12  # of the classes of a task with many, those with the highest probabilities
BAR = 120  # pixels of a probability of 1
MISSING = np.iinfo(np.int16).min

MEASURED = {
    "heart_rate": ("heart rate", "per minute"),
    "pr_ms": ("PR", "ms"),
    "qrs_ms": ("QRS", "ms"),
    "qt_ms": ("QT", "ms"),
    "qtc_bazett_ms": ("QTc, Bazett", "ms"),
    "qtc_fridericia_ms": ("QTc, Fridericia", "ms"),
    "axis_degrees": ("frontal axis", "°"),
}


def write_page(answers: Sequence[Answer], described: Sequence[dict[str, Any]], path: Path) -> None:
    """Write a page that needs no other file; `described` are the answers, and more of them, as predict.py's JSON is."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(default=True), trim_blocks=True
    )
    shown = [_record(*pair) for pair in zip(answers, described, strict=False)]
    of_all = f" The first {len(answers)} of {len(described)} are shown." if len(described) > len(answers) else ""
    page = environment.get_template("answers.html.j2").render(
        title=f"{len(described)} ECG{'s' * (len(described) != 1)}",
        intro=f"Probabilities of a research model, not a medical device.{of_all}",
        records=shown,
    )
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _record(answer: Answer, described: dict[str, Any]) -> dict[str, Any]:
    task, recording = answer.stored.task, answer.recording
    order = range(len(task))
    if len(task) > MOST_ROWS:
        order = np.argsort(-answer.probability, kind="stable")[:MOST_ROWS]
    positive = described.get("positive", [])
    rows = []
    for i in order:
        name, p = task.classes[i], float(answer.probability[i])
        rows.append(
            {
                "name": name,
                "long_name": task.long_names[i],
                "percent": f"{p:.1%}",
                "width": round(BAR * p),
                "positive": name in positive,
                "said": "positive" if name in positive else "",
            }
        )
    facts = [recording.format, recording.device, f"{recording.fs:g} Hz", f"{recording.seconds:.1f} s"]
    measured = []
    for key, (name, unit) in MEASURED.items():
        value = described["measurements"].get(key)
        measured.append((name, "not measurable" if value is None else f"{value:.0f} {unit}"))
    first = recording.signal[:, : round(MOST_SECONDS * recording.fs)]
    fs = min(DRAWN_FS, recording.fs)
    shown = resample(np.nan_to_num(first), recording.fs, fs)
    microvolt = np.clip(np.rint(shown * UV_PER_MV), MISSING + 1, -MISSING - 1).astype("<i2")
    moments = np.minimum(np.arange(shown.shape[1]) * recording.fs / fs, first.shape[1] - 1).astype(int)
    microvolt[~np.isfinite(first[:, moments])] = MISSING
    return {
        "record": answer.name,
        "model": answer.model,
        "facts": ", ".join(fact for fact in facts if fact),
        "warnings": answer.warnings,
        "rows": rows,
        "measured": measured,
        "shown_fs": fs,
        "shown_leads": " ".join(recording.leads),
        "microvolt": base64.b64encode(microvolt.tobytes()).decode("ascii"),
    }
