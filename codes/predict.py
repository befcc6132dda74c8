"""Classify recordings: WFDB records, or folders of them, in; probabilities of the classes of a stored run out.

Any gain and order of leads, 50 Hz to 20 kHz, at least one window long: networks 2.5 s, baselines and ensemble 10 s.
Differences from PTB-XL are converted and reported on standard error.
Exit code 1: some records could not be used; 2: none was found, or the model is missing. Not a medical device.

Run:    python codes/predict.py FILE_OR_FOLDER... --format csv --picture pictures/
"""

import json
import os
import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure
from tqdm import tqdm

from ecg.artifacts import ROOT, UserError, read_json
from ecg.command_line import run
from ecg.devices import Precision
from ecg.formats.wfdb import UV_PER_MV, RecordError
from ecg.leads import LEADS
from ecg.plots import ecg_paper, save_figure
from ecg.recordings import Recording, find_recordings, read_recording
from ecg.stored_run import StoredRun, load_run

CHUNK = 64  # recordings in memory at a time
PICTURE_SECONDS = 10
MOST_BARS = 8  # below the picture of an ECG: the classes with the highest probabilities
WHOLE_SECONDS = 6  # of a shorter one every lead is drawn in full: a quarter of it could miss the beat


@dataclass(frozen=True)
class Settings:
    records: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE_OR_FOLDER...")]
    """WFDB records, with or without .hea or .dat, and folders, searched with all below them."""
    model: str = "resnet_standard"
    """Run folder below --artifacts, such as ensemble, xresnet_augmented, resnet_standard_all or a run's own name."""
    artifacts: Path = ROOT / "artifacts"
    """Folder with the trained models."""
    format: Literal["table", "csv", "json"] = "table"
    """What to write on standard output: a table for people, CSV or JSON."""
    picture: Path | None = None
    """Draw each ECG on paper with its answer: a folder, or a file ending in .png for a single record."""
    checksums: bool = True
    """Refuse a record whose samples disagree with the checksums in its header."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Precision = "auto"
    """auto: bf16 where the processor or GPU has it, else fp32."""


def predict_files(
    *,
    records: tuple[Path, ...],
    model: str,
    artifacts: Path,
    format: Literal["table", "csv", "json"],
    picture: Path | None,
    checksums: bool,
    device: str,
    precision: Precision,
) -> None:
    paths, problems = find_recordings(records)
    if not paths:
        raise UserError("; ".join(problems) or "no FILE_OR_FOLDER given")
    to_file = picture is not None and picture.suffix.lower() == ".png"
    if to_file and len(paths) > 1:
        raise UserError(f"--picture {picture} is one file for {len(paths)} records: give a folder")
    stored = load_model(artifacts, model, device=device, precision=precision)
    for problem in problems:
        complain(problem)

    root = os.path.commonpath([path.resolve().parent for path in paths])  # pictures keep the folders below it
    answers = []
    with tqdm(total=len(paths), unit="record", disable=None) as progress:  # None: only where somebody watches
        for i in range(0, len(paths), CHUNK):
            tried = [read(path, stored, problems, checksums) for path in paths[i : i + CHUNK]]
            recordings = [recording for recording in tried if recording]
            for recording, probability in zip(recordings, predict_chunk(stored, recordings), strict=True):
                answers.append(describe(recording, probability, stored, model))
                if picture:
                    file = picture if to_file else picture / f"{recording.path.resolve().relative_to(root)}.png"
                    save_figure(draw(recording, probability, stored, title=f"{recording.path.name}   {model}"), file)
            progress.update(len(tried))
    show(answers, format, stored.task.classes)
    if problems:
        sys.exit(1)


def load_model(artifacts: Path, model: str, *, device: str, precision: Precision) -> StoredRun:
    folder = artifacts / model
    if gone := without_weights(folder):
        known = sorted(path.parent for path in artifacts.glob("**/config.json") if not without_weights(path.parent))
        there = f"; there are {', '.join(path.relative_to(artifacts).as_posix() for path in known)}" if known else ""
        what = f"the weights of {', '.join(map(str, gone))} are not here: train them"
        if not (folder / "config.json").exists():
            what = f"no model in {folder}: train one"
        raise UserError(f"{what} with codes/04 to 10{there} (--model)")
    return load_run(folder, device=device, precision=precision)


def without_weights(folder: Path) -> list[Path]:
    """Return which run folders, of `folder` or the members of its ensemble, have no weights: not all are in git."""
    if not (folder / "config.json").exists():
        return [folder]
    if any(folder.glob("best.pt")) or any(folder.glob("model.*")):
        return []
    members = read_json(folder / "config.json", made_by="codes/04 to 11").get("members")
    return [gone for name in members for gone in without_weights(folder.parent / name)] if members else [folder]


def read(path: Path, stored: StoredRun, problems: list[str], checksums: bool) -> Recording | None:
    try:
        recording = read_recording(path, checksums=checksums)
        if recording.seconds < stored.min_seconds:
            raise RecordError(f"{recording.seconds:.2f} s long, the model needs at least {stored.min_seconds:g} s")
    except RecordError as error:
        problems.append(f"{path}: {error}")
        complain(problems[-1])
        return None
    if recording.fs < 2 * stored.config["signals"]["filter"]["high"]:
        complain(f"{path}: {recording.fs:g} Hz hold less of the spectrum than the model was trained on", "warning")
    for note in recording.notes:
        complain(f"{path}: {note}", "warning")
    return recording


def complain(message: str, kind: str = "error") -> None:
    tqdm.write(f"{kind}: {message}", file=sys.stderr)


def predict_chunk(stored: StoredRun, recordings: list[Recording]) -> np.ndarray:
    """Return the probabilities (n, n_classes); recordings of equal shape are predicted together."""
    probability = np.empty((len(recordings), len(stored.task)), np.float32)
    leads = [LEADS.index(lead) for lead in stored.leads]
    shape = [(recording.fs, recording.signal.shape) for recording in recordings]
    for (fs, _), rows in groupby(sorted(range(len(recordings)), key=shape.__getitem__), key=shape.__getitem__):
        rows = list(rows)
        probability[rows] = stored.predict(np.stack([recordings[row].signal[leads] for row in rows]), fs)
    return probability


def describe(recording: Recording, probability: np.ndarray, stored: StoredRun, model: str) -> dict[str, Any]:
    return {
        "record": recording.path.as_posix(),
        "model": model,
        "task": stored.task.name,
        "probabilities": {label: float(str(p)) for label, p in zip(stored.task.classes, probability, strict=True)},
        "fs": recording.fs,
        "seconds": round(recording.seconds, 3),
        "warnings": recording.notes,
    }


def show(answers: list[dict[str, Any]], format: Literal["table", "csv", "json"], classes: tuple[str, ...]) -> None:
    rows = [{"record": answer["record"], **answer["probabilities"]} for answer in answers]
    table = pd.DataFrame(rows, columns=["record", *classes])
    if format == "json":
        print(json.dumps(answers, indent=2, ensure_ascii=False))
    elif format == "csv":
        table.to_csv(sys.stdout, index=False)
    elif answers:
        print(table.to_string(index=False, float_format="{:.3f}".format))


def draw(recording: Recording, probability: np.ndarray, stored: StoredRun, *, title: str) -> Figure:
    """Return the ECG on paper, its first ten seconds as the model sees them, with a bar per class below.

    Of many classes, those with the highest probabilities.
    """
    leads = [LEADS.index(lead) for lead in stored.leads]
    shown = recording.signal[None, leads, : round(PICTURE_SECONDS * recording.fs)]
    millivolt = stored.prepare(shown, recording.fs)[0].astype(np.float32) / UV_PER_MV
    band = stored.config["signals"]["filter"]
    layout = "3x4" if recording.seconds >= WHOLE_SECONDS and stored.leads == LEADS else "nx1"
    title = f"{title}   {band['low']:g}-{band['high']:g} Hz"
    figure = ecg_paper(millivolt, stored.fs, leads=stored.leads, layout=layout, title=title)
    width, height = figure.get_size_inches()
    strip = 0.3 + 0.2 * min(len(stored.task), MOST_BARS)  # inches below the paper, which keeps its scale
    figure.set_size_inches(width, height + strip)
    for axis in figure.axes:
        box = axis.get_position()
        rest = height / (height + strip)
        axis.set_position((box.x0, 1 - rest + box.y0 * rest, box.width, box.height * rest))
    for text in figure.texts:
        text.set_y(1 - rest + text.get_position()[1] * rest)
    names, percent = 2.6 / width, 0.7 / width  # inches on the left and on the right
    bars = figure.add_axes((names, 0.1 * (1 - rest), 1 - names - percent, 0.8 * (1 - rest)))
    order = np.arange(len(stored.task))
    if len(order) > MOST_BARS:
        order = np.argsort(-probability, kind="stable")[:MOST_BARS]
    labels = [f"{stored.task.long_names[i]} ({stored.task.classes[i]})" for i in order]
    bars.barh(range(len(order)), probability[order], color="#0072B2")
    bars.set(xlim=(0, 1), xticks=[])
    bars.set_yticks(range(len(order)), labels, fontsize=9)
    bars.invert_yaxis()
    bars.spines[["top", "right", "bottom"]].set_visible(False)
    for row, p in enumerate(probability[order]):
        bars.text(p + 0.01, row, f"{p:.1%}", va="center", fontsize=9)
    return figure


if __name__ == "__main__":
    run(predict_files, Settings, __doc__)
