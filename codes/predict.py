"""Classify recordings: ECG files of any usual format in; probabilities, measurements and warnings out.

Formats, told from the content: WFDB, EDF/BDF, DICOM, HL7 aECG, GE MUSE and Philips Sierra XML, SCP-ECG, ISHNE, Kardia
JSON, Apple Watch and other CSV, NPY/NPZ, MATLAB. Any rate from 50 Hz, order, spelling and unit of leads, 2.5 s to 24 h.
What a file does not say is assumed and reported, or asked for (--leads, --unit, --fs). An input that is no ECG, or
hardly in millivolts, is refused (--force answers nevertheless).
Exit code 1: some files could not be used, see errors.csv; 2: none was found, or the model is missing.
Not a medical device.

Run:    python codes/predict.py FILE_OR_FOLDER... --format csv --picture pictures/
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import tyro
from tqdm import tqdm

from ecg.answers import PIECE_SECONDS, Answer, Model, Reading, Refusal, answer_all
from ecg.artifacts import ROOT, UserError, read_json, write_csv, write_npy
from ecg.command_line import run
from ecg.devices import Precision
from ecg.inputs import find_sources
from ecg.operating_points import FILE as OPERATING_POINTS
from ecg.operating_points import read_operating_points, threshold_for
from ecg.stored_run import StoredRun, load_run

Engine = Literal["torch", "onnx"]
DEFAULT_MODEL = "resnet_standard"
MOST_ON_A_PAGE = 50  # recordings
ANY_LEADS = "xresnet_lead_subsets"  # trained with missing leads, for recordings that the model cannot take


@dataclass(frozen=True)
class Settings:
    records: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE_OR_FOLDER...")]
    """Files, folders with all below them, patterns, zip archives, and @LIST.txt, a file with one of these per line."""
    model: str = DEFAULT_MODEL
    """Run folder below --artifacts, such as ensemble, xresnet_augmented, resnet_standard_all or a run's own name."""
    artifacts: Path = ROOT / "artifacts"
    """Folder with the trained models."""
    format: Literal["table", "csv", "json"] = "table"
    """What to write on standard output: a table for people, CSV or JSON."""
    threshold: Annotated[str, tyro.conf.arg(metavar="PURPOSE", help_behavior_hint="")] = ""
    """Also say which classes are positive: f1, sensitivity=.9 or specificity=.95, as on the validation fold."""
    picture: Path | None = None
    """Draw each ECG on paper with its answer: a folder, or a file ending in .png for a single record."""
    html: Path | None = None
    """File ending in .html for one page with every ECG on paper, with zoom and caliper, beside its answer."""
    course: Path | None = None
    """Folder for the course over time of recordings longer than a minute, as CSV and picture."""
    embeddings: Path | None = None
    """File ending in .npy for what the network computes before its last layer, a row per answered record."""
    export: Path | None = None
    """Write the network as ONNX to this file; its metadata say leads, rate, band, classes and thresholds."""
    engine: Engine = "torch"
    """What computes; onnx needs `pip install onnx onnxruntime` and is faster for one recording at a time."""
    errors: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: errors.csv)")] = None
    """Table of the files that could not be used; written only if there are any."""
    leads: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LEAD...", help_behavior_hint="")] = ()
    """Names of the file's leads in its own order, where it has none or wrong ones."""
    unit: Annotated[str, tyro.conf.arg(metavar="UNIT", help_behavior_hint="")] = ""
    """What one unit of the file's numbers is, such as uV or 4.88uV, where it does not say so or says it wrongly."""
    fs: Annotated[float, tyro.conf.arg(metavar="HZ", help_behavior_hint="")] = 0.0
    """Sampling rate of files that do not state theirs, or state it wrongly."""
    force: bool = False
    """Answer also where the input is no ECG or its scale cannot be right."""
    checksums: bool = True
    """Refuse a WFDB record whose samples disagree with the checksums in its header."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Precision = "auto"
    """auto: bf16 where the processor or GPU has it, else fp32."""


def predict_files(**values: Any) -> None:
    settings = Settings(**values)
    if settings.export:
        export_model(settings)
        if not settings.records:
            return
    with tempfile.TemporaryDirectory() as unpacked:
        sources, problems = find_sources(settings.records, Path(unpacked))
        if not sources:
            raise UserError("; ".join(f"{name}: {reason}" for name, reason in problems) or "no FILE_OR_FOLDER given")
        to_file = settings.picture is not None and settings.picture.suffix.lower() == ".png"
        if to_file and len(sources) > 1:
            raise UserError(f"--picture {settings.picture} is one file for {len(sources)} records: give a folder")
        model = Model(settings.model, load_asked(settings))
        fallback = load_fallback(settings, model)
        thresholds = {each.name: load_thresholds(settings, each) for each in (model, fallback) if each}
        embed = load_embedding(settings)
        refused = [Refusal(name, reason) for name, reason in problems]
        for refusal in refused:
            complain(f"{refusal.name}: {refusal.reason}")
        reading = Reading(settings.leads, settings.unit, settings.fs, settings.checksums, settings.force)
        root = os.path.commonpath([Path(source.name).resolve().parent for source in sources])
        answers, kept, vectors = [], [], []
        # progress is shown only where somebody watches
        with tqdm(total=len(sources), unit="record", disable=None) as progress:
            for result in answer_all(sources, model, fallback=fallback, reading=reading):
                progress.update()
                if isinstance(result, Refusal):
                    refused.append(result)
                    complain(f"{result.name}: {result.reason}")
                    continue
                for warning in result.warnings:
                    complain(f"{result.name}: {warning}", "warning")
                answers.append(describe(result, thresholds[result.model]))
                if embed:
                    vectors.append(embed(result))
                if settings.html and len(kept) < MOST_ON_A_PAGE:
                    kept.append(result)
                draw(result, settings, root)
    if embed:
        write_npy(np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32), settings.embeddings)
    if settings.html:
        from ecg.answer_page import write_page

        write_page(kept, answers, settings.html)
    show(answers, settings, model.stored.task.classes)
    if refused:
        path = settings.errors or Path("errors.csv")
        write_csv(pd.DataFrame([asdict(each) for each in refused]), path)
        complain(f"{len(refused)} could not be used, listed in {path}", "note")
        sys.exit(1)


# --- models ---------------------------------------------------------------------------------------------------------


def load_model(
    artifacts: Path, model: str, *, device: str, precision: Precision, engine: Engine = "torch"
) -> StoredRun:
    folder = artifacts / model
    if gone := without_weights(folder):
        known = sorted(path.parent for path in artifacts.glob("**/config.json") if not without_weights(path.parent))
        there = f"; there are {', '.join(path.relative_to(artifacts).as_posix() for path in known)}" if known else ""
        what = f"the weights of {', '.join(map(str, gone))} are not here: train them"
        if not (folder / "config.json").exists():
            what = f"no model in {folder}: train one"
        raise UserError(f"{what} with codes/04 to 10{there} (--model)")
    if engine == "onnx":
        return load_as_onnx(folder)
    return load_run(folder, device=device, precision=precision)


def load_asked(settings: Settings) -> StoredRun:
    return load_model(
        settings.artifacts,
        settings.model,
        device=settings.device,
        precision=settings.precision,
        engine=settings.engine,
    )


def load_as_onnx(folder: Path) -> StoredRun:
    """Return a run that onnxruntime computes; where that is not yet done, it is exported beside its weights."""
    from ecg.exporting import export
    from ecg.onnx_run import load_onnx

    path, weights = folder / "model.onnx", folder / "best.pt"
    made_of = [file for file in (weights, folder / "config.json", folder / OPERATING_POINTS) if file.exists()]
    if not path.exists() or max(file.stat().st_mtime for file in made_of) > path.stat().st_mtime:
        export(folder, path)
    return load_onnx(path)


def export_model(settings: Settings) -> None:
    from ecg.exporting import export

    folder = settings.artifacts / settings.model
    if without_weights(folder):
        load_asked(settings)  # says what is missing
    export(folder, settings.export)
    complain(f"{settings.model} is in {settings.export}", "note")


def load_thresholds(settings: Settings, model: Model) -> dict[str, dict[str, float]]:
    """Return {class: its operating point} for the purpose that was asked for; empty without one."""
    if not settings.threshold:
        return {}
    table = read_operating_points(settings.artifacts / model.name, model.stored.task)
    return threshold_for(table, settings.threshold)


def load_embedding(settings: Settings) -> Callable[[Answer], np.ndarray] | None:
    """Return what gives the embedding (1, d) of an answered recording; None if none is asked for."""
    if not settings.embeddings:
        return None
    if settings.embeddings.suffix != ".npy":
        raise UserError(f"--embeddings {settings.embeddings} must end in .npy")
    from ecg.embeddings import embed, load_embedder

    network, window = load_embedder(settings.artifacts / settings.model)

    def embedded(answer: Answer) -> np.ndarray:
        # the signals that the model was given; a missing lead is zero, as in training
        microvolt = answer.stored.prepare(np.nan_to_num(answer.signal)[None], answer.recording.fs)
        return embed(network, microvolt, window=window)

    return embedded


def load_fallback(settings: Settings, model: Model) -> Model | None:
    """Return the run that answers where leads are missing, if it is there and nobody asked for a certain model."""
    if settings.embeddings or settings.model not in (DEFAULT_MODEL, "ensemble"):
        return None  # embeddings are those of one network
    if without_weights(settings.artifacts / ANY_LEADS):
        return None
    stored = load_model(settings.artifacts, ANY_LEADS, device=settings.device, precision=settings.precision)
    # only the classes: a run of older code does not know its task's statements
    return Model(ANY_LEADS, stored) if stored.task.classes == model.stored.task.classes else None


def without_weights(folder: Path) -> list[Path]:
    """Return which run folders, of `folder` or the members of its ensemble, have no weights: not all are in git."""
    if not (folder / "config.json").exists():
        return [folder]
    if any(folder.glob("best.pt")) or any(folder.glob("model.*")):
        return []
    members = read_json(folder / "config.json", made_by="codes/04 to 11").get("members")
    return [gone for name in members for gone in without_weights(folder.parent / name)] if members else [folder]


# --- output ---------------------------------------------------------------------------------------------------------


def describe(answer: Answer, thresholds: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return an answer as the object that `--format json` writes."""
    recording = answer.recording
    described = {
        "record": answer.name,
        "model": answer.model,
        "task": answer.stored.task.name,
        "probabilities": answer.probabilities,
        "format": recording.format,
        "device": recording.device,
        "leads": list(recording.leads),
        "fs": recording.fs,
        "seconds": round(recording.seconds, 3),
        "measurements": {name: _rounded(value) for name, value in asdict(answer.measurements).items()},
        "warnings": list(answer.warnings),
    }
    if thresholds:
        found = answer.probabilities
        described["positive"] = [name for name, point in thresholds.items() if found[name] >= point["threshold"]]
        described["thresholds"] = {
            name: {key: None if np.isnan(value) else value for key, value in point.items()}
            for name, point in thresholds.items()
        }
    return described


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 1)


def show(answers: list[dict[str, Any]], settings: Settings, classes: tuple[str, ...]) -> None:
    """Write the answers to standard output."""
    rows = []
    for answer in answers:
        row = {"record": answer["record"], **answer["probabilities"]}
        if settings.threshold:
            row["positive"] = " ".join(answer["positive"])
        rows.append(row | {"warnings": "; ".join(answer["warnings"])})
    more = ["positive"] if settings.threshold else []
    table = pd.DataFrame(rows, columns=["record", *classes, *more, "warnings"])
    if settings.format == "json":
        print(json.dumps(answers, indent=2, ensure_ascii=False))
    elif settings.format == "csv":
        table.to_csv(sys.stdout, index=False)
    elif answers:
        if settings.threshold:
            explained = set()
            for answer in answers:
                if answer["model"] not in explained:
                    explained.add(answer["model"])
                    explain_thresholds(answer["model"], answer["thresholds"], settings.threshold)
        print(table.drop(columns="warnings").to_string(index=False, float_format="{:.3f}".format))


def explain_thresholds(model: str, thresholds: dict[str, dict[str, float | None]], purpose: str) -> None:
    """Say what positive means: how many of the validation records it finds, and how often it is right there."""
    print(f"positive: at or above the threshold of {model} for {purpose} on the validation fold, all leads there")
    for name, point in thresholds.items():
        if point["threshold"] is None:
            print(f"  {name}: no threshold, the validation fold has too few records of it")
            continue
        print(
            f"  {name}: {point['threshold']:.3f}, sensitivity {point['sensitivity']:.2f}, specificity "
            f"{point['specificity']:.2f}, PPV {point['ppv']:.2f} ({point['n_positive']:.0f} of {point['n']:.0f})"
        )


def complain(message: str, kind: str = "error") -> None:
    tqdm.write(f"{kind}: {message}", file=sys.stderr)


def draw(answer: Answer, settings: Settings, root: str) -> None:
    """Write the pictures and the course that were asked for, in folders as those of the recordings below `root`."""
    if not settings.picture and not settings.course:
        return
    from ecg.plots import save_figure  # here, because Matplotlib takes as long to import as half of PyTorch
    from ecg.plots.answers import draw_answer, draw_course

    recording, below = answer.recording, Path(answer.name).resolve().relative_to(root)
    if settings.picture:
        to_file = settings.picture.suffix.lower() == ".png"
        path = settings.picture if to_file else settings.picture / f"{below}.png"
        title = f"{below.name}   {answer.model}"
        figure = draw_answer(
            recording.signal, recording.leads, recording.fs, answer.probability, answer.stored, title=title
        )
        save_figure(figure, path)
    if settings.course and answer.course is not None:
        table = pd.DataFrame(answer.course, columns=list(answer.stored.task.classes))
        table.insert(0, "seconds", answer.starts)
        write_csv(table, settings.course / f"{below}.csv")
        figure = draw_course(answer.course, PIECE_SECONDS, answer.stored, title=f"{below.name}   {answer.model}")
        save_figure(figure, settings.course / f"{below}.png")


if __name__ == "__main__":
    run(predict_files, Settings, __doc__)
