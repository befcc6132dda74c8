"""Classify recordings: WFDB records, or folders of them, in; probabilities of the five superclasses out.

Any gain and order of leads, 50 Hz to 20 kHz, at least one window long: networks 2.5 s, baselines and ensemble 10 s.
What differs from PTB-XL is converted and said on standard error.
Exit code 1: some records could not be used; 2: none was found, or the model is missing. Not a medical device.

Reads:  artifacts/resnet_standard/{config.json,best.pt}
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

from ecg.artifacts import ROOT, UserError, read_json, run
from ecg.data import UV_PER_MV, RecordError
from ecg.inference import Precision
from ecg.labels import CLASS_NAMES, CLASSES
from ecg.plots import ecg_paper, save_figure
from ecg.predictor import Predictor, load_run
from ecg.recordings import Recording, find_recordings, read_recording

CHUNK = 64  # recordings in memory at a time
PICTURE_SECONDS = 10
WHOLE_SECONDS = 6  # of a shorter one every lead is drawn in full: a quarter of it could miss the beat


@dataclass(frozen=True)
class Settings:
    records: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE_OR_FOLDER...")]
    """WFDB records, with or without .hea or .dat, and folders, searched with all below them."""
    model: str = "resnet_standard"
    """Run folder below --artifacts, such as inception_standard, xresnet_augmented or baseline/minirocket_ridge."""
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
    predictor = load_model(artifacts, model, device=device, precision=precision)
    for problem in problems:
        complain(problem)

    root = os.path.commonpath([path.resolve().parent for path in paths])  # pictures keep the folders below it
    answers = []
    with tqdm(total=len(paths), unit="record", disable=None) as progress:  # None: only where somebody watches
        for i in range(0, len(paths), CHUNK):
            tried = [read(path, predictor, problems, checksums) for path in paths[i : i + CHUNK]]
            recordings = [recording for recording in tried if recording]
            for recording, probability in zip(recordings, predict_chunk(predictor, recordings), strict=True):
                answers.append(describe(recording, probability, model))
                if picture:
                    file = picture if to_file else picture / f"{recording.path.resolve().relative_to(root)}.png"
                    save_figure(draw(recording, probability, predictor, title=f"{recording.path.name}   {model}"), file)
            progress.update(len(tried))
    show(answers, format)
    if problems:
        sys.exit(1)


def load_model(artifacts: Path, model: str, *, device: str, precision: Precision) -> Predictor:
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


def read(path: Path, predictor: Predictor, problems: list[str], checksums: bool) -> Recording | None:
    try:
        recording = read_recording(path, checksums=checksums)
        if recording.seconds < predictor.min_seconds:
            raise RecordError(f"{recording.seconds:.2f} s long, the model needs at least {predictor.min_seconds:g} s")
    except RecordError as error:
        problems.append(f"{path}: {error}")
        complain(problems[-1])
        return None
    if recording.fs < 2 * predictor.config["signals"]["filter"]["high"]:
        complain(f"{path}: {recording.fs:g} Hz hold less of the spectrum than the model was trained on", "warning")
    for note in recording.notes:
        complain(f"{path}: {note}", "warning")
    return recording


def complain(message: str, kind: str = "error") -> None:
    tqdm.write(f"{kind}: {message}", file=sys.stderr)


def predict_chunk(predictor: Predictor, recordings: list[Recording]) -> np.ndarray:
    """Return the probabilities (n, 5); recordings of equal shape are predicted together."""
    probability = np.empty((len(recordings), len(CLASSES)), np.float32)
    shape = [(recording.fs, recording.signal.shape) for recording in recordings]
    for (fs, _), rows in groupby(sorted(range(len(recordings)), key=shape.__getitem__), key=shape.__getitem__):
        rows = list(rows)
        probability[rows] = predictor.predict(np.stack([recordings[row].signal for row in rows]), fs)
    return probability


def describe(recording: Recording, probability: np.ndarray, model: str) -> dict[str, Any]:
    return {
        "record": recording.path.as_posix(),
        "model": model,
        "probabilities": {label: float(str(p)) for label, p in zip(CLASSES, probability, strict=True)},
        "fs": recording.fs,
        "seconds": round(recording.seconds, 3),
        "warnings": recording.notes,
    }


def show(answers: list[dict[str, Any]], format: Literal["table", "csv", "json"]) -> None:
    rows = [{"record": answer["record"], **answer["probabilities"]} for answer in answers]
    table = pd.DataFrame(rows, columns=["record", *CLASSES])
    if format == "json":
        print(json.dumps(answers, indent=2, ensure_ascii=False))
    elif format == "csv":
        table.to_csv(sys.stdout, index=False)
    elif answers:
        print(table.to_string(index=False, float_format="{:.3f}".format))


def draw(recording: Recording, probability: np.ndarray, predictor: Predictor, *, title: str) -> Figure:
    """Return the ECG on paper, its first ten seconds as the model sees them, with a bar per superclass below."""
    shown = recording.signal[None, :, : round(PICTURE_SECONDS * recording.fs)]
    millivolt = predictor.prepare(shown, recording.fs)[0].astype(np.float32) / UV_PER_MV
    band = predictor.config["signals"]["filter"]
    layout = "3x4" if recording.seconds >= WHOLE_SECONDS else "12x1"
    title = f"{title}   {band['low']:g}-{band['high']:g} Hz"
    figure = ecg_paper(millivolt, predictor.fs, layout=layout, title=title)
    width, height = figure.get_size_inches()
    strip = 1.3  # inches below the paper, which keeps its scale
    figure.set_size_inches(width, height + strip)
    for axis in figure.axes:
        box = axis.get_position()
        rest = height / (height + strip)
        axis.set_position((box.x0, 1 - rest + box.y0 * rest, box.width, box.height * rest))
    for text in figure.texts:
        text.set_y(1 - rest + text.get_position()[1] * rest)
    names, percent = 2.1 / width, 0.7 / width  # inches on the left and on the right
    bars = figure.add_axes((names, 0.1 * (1 - rest), 1 - names - percent, 0.8 * (1 - rest)))
    bars.barh(range(len(CLASSES)), probability, color="#0072B2")
    bars.set(xlim=(0, 1), xticks=[])
    bars.set_yticks(range(len(CLASSES)), [f"{CLASS_NAMES[label]} ({label})" for label in CLASSES], fontsize=9)
    bars.invert_yaxis()
    bars.spines[["top", "right", "bottom"]].set_visible(False)
    for row, p in enumerate(probability):
        bars.text(p + 0.01, row, f"{p:.1%}", va="center", fontsize=9)
    return figure


if __name__ == "__main__":
    run(predict_files, Settings, __doc__)
