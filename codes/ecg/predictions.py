"""Predictions, the interface between training and everything after it: tables keyed by `ecg_id`."""

import os
import platform
import re
from collections import Counter
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecg.artifacts import UserError, read_json, read_table, write_csv, write_npy
from ecg.labels import CLASSES, SPLITS, read_split, read_split_facts
from ecg.metrics import macro_auc, per_class_auc


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


def run_folder(artifacts: Path, name: str, seed: int) -> Path:
    """Return the folder of a run: `name` itself for seed 0, `name/seedN` for the others."""
    return artifacts / name if seed == 0 else artifacts / name / f"seed{seed}"


def machine() -> dict[str, Any]:
    """Return what a number in a run's `config.json` was measured on: processor, versions, date."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():  # Linux leaves platform.processor() empty
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    versions = {"python": platform.python_version()} | {
        name: version(name) for name in ("numpy", "torch", "scikit-learn")
    }
    return {"hardware": f"{cpu}, {os.cpu_count()} cores", "versions": versions, "date": date.today().isoformat()}


def write_predictions(folder: Path, split: str, ecg_id: np.ndarray, probability: np.ndarray) -> None:
    """Write `predictions_{split}.csv` (ecg_id and one column per class) and the same as `.npy`.

    `ecg_id` (n,) and `probability` (n, 5) in the order of CLASSES, row for row.
    """
    if probability.shape != (len(ecg_id), len(CLASSES)) or not np.isfinite(probability).all():
        raise ValueError(f"predictions of shape {probability.shape} for {len(ecg_id)} records, or not all finite")
    table = pd.DataFrame(probability.astype(np.float32), columns=list(CLASSES))
    table.insert(0, "ecg_id", np.asarray(ecg_id))
    write_csv(table, folder / f"predictions_{split}.csv")
    write_npy(table[list(CLASSES)].to_numpy(), folder / f"predictions_{split}.npy")


def write_validation_aucs(folder: Path, labels: np.ndarray, probability: np.ndarray) -> None:
    """Write a run's `metrics.csv`: ROC AUC per class and their mean on validation; both arguments (n, 5)."""
    auc = [*per_class_auc(labels, probability), macro_auc(labels, probability)]
    table = pd.DataFrame({"split": "val", "label": [*CLASSES, "macro"], "metric": "auc", "value": auc})
    write_csv(table.assign(n=len(labels)), folder / "metrics.csv")


def read_predictions(folder: Path, split: str) -> pd.DataFrame:
    """Return the probabilities of a run, (n, 5) with columns CLASSES, indexed by ecg_id."""
    path = folder / f"predictions_{split}.csv"
    table = read_table(path, made_by="the training script again")
    if tuple(table.columns) != ("ecg_id", *CLASSES):
        raise UserError(f"{path}: columns are {list(table.columns)}, not ecg_id and {list(CLASSES)}")
    if table.ecg_id.duplicated().any() or not np.isfinite(table[list(CLASSES)].to_numpy()).all():
        raise UserError(f"{path}: an ecg_id stands in it twice or a probability is missing; train this run again")
    return table.set_index("ecg_id")


def find_runs(artifacts: Path) -> list[Run]:
    """Return every finished run below `artifacts`, in a fixed order.

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
        config = read_json(folder / "config.json", made_by="the training script again")
        if tuple(config.get("classes", ())) != CLASSES:
            raise UserError(f"{folder / 'config.json'}: classes are {config.get('classes')}, not {list(CLASSES)}")
        name = model.relative_to(artifacts).as_posix()
        seed = "seed0" if folder == model else folder.name
        runs.append(Run(f"{name}/{seed}" if seeds[model] > 1 else name, folder, config))
    _check_that_only_the_seed_differs(runs)
    return runs


def _check_that_only_the_seed_differs(runs: list[Run]) -> None:
    first: dict[str, tuple[Run, dict[str, Any]]] = {}
    for run in runs:
        settings = run.config.get("settings", {}) | {"task": run.config.get("task")}
        settings = {key: value for key, value in settings.items() if key not in ("seed", "device", "precision")}
        other, expected = first.setdefault(run.model, (run, settings))
        for key in settings | expected:
            if settings.get(key) != expected.get(key):
                raise UserError(
                    f"{run.folder / 'config.json'}: {key} is {settings.get(key)}, but {expected.get(key)} in "
                    f"{other.name}. Only the seed may differ between runs of one model, which are averaged: "
                    f"train {run.name} again with the same settings, or move its folder away"
                )


def read_labelled(artifacts: Path, folder: Path, split: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (labels, probabilities) of one split, both indexed by the same ecg_ids in the same order.

    `labels` is the table of `codes/02_split.py`, which must be the one the run was trained with.
    """
    assert split in SPLITS
    config = read_json(folder / "config.json", made_by="the training script again")
    if "signals" in config and config["signals"]["splits"] != read_split_facts(artifacts):
        raise UserError(f"{folder} was trained with other splits than ptbxl_*.csv: run its training script again")
    labels = read_split(artifacts, split).set_index("ecg_id")
    probability = read_predictions(folder, split)
    strangers = probability.index.difference(labels.index)
    if len(strangers):
        raise UserError(
            f"{folder}: ecg_id {strangers[0]} is not in ptbxl_{split}.csv; train this run again after codes/02_split.py"
        )
    return labels.loc[probability.index], probability
