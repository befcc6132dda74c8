"""Runs and their predictions, the interface between training and everything after it.

A run is a folder below `artifacts/` with a `config.json` and predictions keyed by `ecg_id`.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecg.artifacts import UserError, read_json, read_table, write_csv, write_npy
from ecg.labels import SPLITS, Splits, read_split, read_splits
from ecg.metrics import macro_auc, per_class_auc
from ecg.tasks import SUPERCLASSES, Task

RETRAIN = "its training script"
# Settings in which a run may differ from the one that it replaces; its name is that of the folder
NOT_COMPARED = ("device", "overwrite", "name", "labels")


@dataclass(frozen=True)
class Run:
    """A trained model's folder. `name` is its path below the artifacts folder; `find_runs` says what of the seed."""

    name: str
    folder: Path
    config: dict[str, Any]

    @property
    def model(self) -> str:
        """The name without the seed: `resnet_standard` of `resnet_standard/seed1`."""
        return self.name.rsplit("/seed", 1)[0]

    @property
    def task(self) -> Task:
        return task_of(self.config)

    @property
    def is_variant(self) -> bool:
        """Whether somebody gave the run a name or a preset of its own, beside the runs that the scripts make."""
        settings = self.config.get("settings", {})
        return bool(settings.get("name")) or settings.get("preset", "default") != "default"


def run_folder(artifacts: Path, name: str, seed: int) -> Path:
    """Return the folder of a run: `name` itself for seed 0, `name/seedN` for the others."""
    return artifacts / name if seed == 0 else artifacts / name / f"seed{seed}"


def task_of(config: dict[str, Any]) -> Task:
    """Return the task that a run's `config.json` states."""
    return Task.from_json(config["task"])


def read_config(folder: Path) -> dict[str, Any]:
    """Return the `config.json` of a run folder; one written by older code is translated.

    Raises a `UserError` if the file is missing, damaged, or lacks what every run has.
    """
    path = folder / "config.json"
    config = read_json(path, made_by=RETRAIN)
    if isinstance(config.get("task"), str):
        config = _translate(config)
    for key in ("model", "task", "objective", "labels_sha256", "signals"):
        if key not in config:
            raise UserError(f"{path}: {key!r} is missing: run {RETRAIN} again")
    return config


def made_with(config: dict[str, Any]) -> dict[str, Any]:
    """Return what makes a run another run: its settings and those of 02 and 03, the network, the classes."""
    task, signals = task_of(config), config["signals"]
    values = config["settings"] | config.get("splits", {})
    values |= {"model": config["model"], "classes": list(task.classes), "sampling_rate": signals["fs"]}
    values |= {"filter": signals.get("filter")}
    values |= {f"statements of {name}": list(own) for name, own in zip(task.classes, task.statements, strict=True)}
    return values


def refuse_other_settings(folder: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise a `UserError` that names every setting in which the run in a folder differs from the one to be trained.

    Both are what `made_with` returns. Where the stored run is older than a setting, it is not compared.
    """
    different = []
    if stored["classes"] != wanted["classes"]:
        first = ", ".join(wanted["classes"][:3])
        different.append(f"{len(stored['classes'])} classes (now {len(wanted['classes'])}: {first}, ...)")
    for key in wanted.keys() & stored.keys() - {"classes", *NOT_COMPARED}:
        is_unknown = key.startswith("statements of ") and not stored[key]  # as in a run of older code
        if stored[key] != wanted[key] and not is_unknown:
            different.append(f"{key} {_short(stored[key])} (now {_short(wanted[key])})")
    if different:
        raise UserError(
            f"{folder} holds a run with other settings: {', '.join(sorted(different))}. Give the new run a --name, or "
            "replace the old one with --overwrite"
        )


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {part}" for key, part in value.items())
    return " ".join(value) if isinstance(value, list) else str(value)


def _translate(old: dict[str, Any]) -> dict[str, Any]:
    """Return the `config.json` of a run made before tasks had names, as it would be written now.

    Those runs all had the superclasses; `task` then meant the objective, and some settings stood at top level too.
    """
    classes = tuple(old["classes"])
    names = tuple(SUPERCLASSES.get(name, name) for name in classes)
    task = Task("superdiagnostic", classes, names, tuple(() for _ in classes))
    settings = {key: old[key] for key in ("augment", "seed", "derivatives", "width") if key in old}
    settings |= old.get("settings", {})
    settings["objective"] = settings.pop("task", old["task"])
    if "average" in settings:
        settings["ema"] = settings.pop("average")
    dropped = ("task", "classes", "leads", "augment", "seed", "derivatives", "width", "settings")
    new = {key: value for key, value in old.items() if key not in dropped}
    new |= {"task": task.to_json(), "objective": old["task"], "settings": settings}
    splits = old["signals"]["splits"]
    new["splits"] = {key: splits[key] for key in ("split", "label_policy", "shuffle_labels") if key in splits}
    new["labels_sha256"] = splits["sha256"]
    return new


def write_predictions(folder: Path, split: str, ecg_id: np.ndarray, probability: np.ndarray, task: Task) -> None:
    """Write `predictions_{split}.csv` (ecg_id and one column per class) and the same as `.npy`.

    `ecg_id` (n,) and `probability` (n, n_classes), row for row, columns in the order of the task's classes.
    """
    if probability.shape != (len(ecg_id), len(task)) or not np.isfinite(probability).all():
        raise ValueError(f"predictions of shape {probability.shape} for {len(ecg_id)} records, or not all finite")
    table = pd.DataFrame(probability.astype(np.float32), columns=list(task.classes))
    table.insert(0, "ecg_id", np.asarray(ecg_id))
    write_csv(table, folder / f"predictions_{split}.csv")
    write_npy(table[list(task.classes)].to_numpy(), folder / f"predictions_{split}.npy")


def write_validation_aucs(folder: Path, labels: np.ndarray, probability: np.ndarray, task: Task) -> None:
    """Write a run's `metrics.csv`: ROC AUC per class and their mean on validation; both arguments (n, n_classes)."""
    auc = [*per_class_auc(labels, probability), macro_auc(labels, probability)]
    table = pd.DataFrame({"split": "val", "label": [*task.classes, "macro"], "metric": "auc", "value": auc})
    write_csv(table.assign(n=len(labels)), folder / "metrics.csv")


def read_predictions(folder: Path, split: str, task: Task) -> pd.DataFrame:
    """Return the probabilities of a run, (n, n_classes) with the task's classes as columns, indexed by ecg_id."""
    path = folder / f"predictions_{split}.csv"
    table = read_table(path, made_by=RETRAIN)
    if tuple(table.columns) != ("ecg_id", *task.classes):
        raise UserError(f"{path}: columns are {list(table.columns)}, not ecg_id and {list(task.classes)}")
    if table.ecg_id.duplicated().any():
        raise UserError(
            f"{path}: ecg_id {table.ecg_id[table.ecg_id.duplicated()].iloc[0]} appears twice: run {RETRAIN} again"
        )
    missing = ~np.isfinite(table[list(task.classes)].to_numpy()).all(axis=1)
    if missing.any():
        raise UserError(
            f"{path}: a probability of ecg_id {table.ecg_id[missing].iloc[0]} is missing: run {RETRAIN} again"
        )
    return table.set_index("ecg_id")


def find_runs(artifacts: Path) -> list[Run]:
    """Return every finished run below `artifacts`, of whatever task and name, in a fixed order.

    A name ends in `/seedN` where the same model was trained with several seeds; a lone one has the model's name,
    whatever its seed. Raises `UserError` if the runs of one model differ in more than the seed (device and precision
    aside).
    """
    folders = sorted(p.parent for p in artifacts.glob("**/predictions_test.csv"))
    folders = [f for f in folders if "demo" not in f.relative_to(artifacts).parts]
    if not folders:
        raise UserError(f"no predictions_test.csv below {artifacts}: run codes/04_train_baseline_ml.py, then 05 to 10")
    models = [f.parent if re.fullmatch(r"seed\d+", f.name) else f for f in folders]
    seeds = Counter(models)
    runs = []
    for folder, model in zip(folders, models, strict=True):
        name = model.relative_to(artifacts).as_posix()
        seed = "seed0" if folder == model else folder.name
        runs.append(Run(f"{name}/{seed}" if seeds[model] > 1 else name, folder, read_config(folder)))
    _check_that_only_the_seed_differs(runs)
    return runs


def _check_that_only_the_seed_differs(runs: list[Run]) -> None:
    may_differ = ("seed", "device", "precision", "overwrite", "init", "labels")
    first: dict[str, Run] = {}
    for run in runs:
        other = first.setdefault(run.model, run)
        ours, theirs = (r.config.get("settings", {}) | {"task": r.task.classes} for r in (run, other))
        for key in sorted((ours.keys() & theirs.keys()) - set(may_differ)):
            if ours[key] != theirs[key]:
                raise UserError(
                    f"{run.folder / 'config.json'}: {key} is {ours[key]}, but {theirs[key]} in {other.name}. Only the "
                    f"seed may differ between runs of one model, because they are averaged: train {run.name} again "
                    "with the same settings, give it a --name of its own, or move its folder away"
                )


def read_labelled(artifacts: Path, run: Run, split: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (labels, probabilities) of one split, both indexed by the same ecg_ids in the same order.

    `labels` is the table of `read_split` for the run's task, which must be the one the run was trained with.
    """
    assert split in SPLITS
    splits = read_splits(artifacts)
    check_labels(run, splits)
    # the task as 02 stored it: a run of older code does not know its statements
    return join_labels(run, split, read_split(artifacts, split, splits.tasks[run.task.name]))


def check_labels(run: Run, splits: Splits) -> None:
    """Raise a `UserError` if the run was trained with other labels or splits than those of 02 now."""
    if run.config["labels_sha256"] != splits.labels_sha256.get(run.task.name):
        raise UserError(
            f"{run.folder} was trained on other labels or splits than those of codes/02_split.py: run {RETRAIN} again"
        )


def join_labels(run: Run, split: str, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what `read_labelled` does, with `table` already read: that of `read_split` for the run's task."""
    labels = table.set_index("ecg_id")
    probability = read_predictions(run.folder, split, run.task)
    strangers = probability.index.difference(labels.index)
    if len(strangers):
        raise UserError(
            f"{run.folder}: ecg_id {strangers[0]} is not a {split} record of {run.task.name}: run {RETRAIN} again"
        )
    return labels.loc[probability.index], probability
