"""Made-up records, labels and predictions: an artifacts folder as 02 and trainings leave it, without a signal."""

from pathlib import Path

import numpy as np
import pandas as pd

from ecg.artifacts import write_csv, write_json
from ecg.labels import make_splits, read_split, read_splits
from ecg.leads import LEADS
from ecg.runs import run_folder, write_predictions
from ecg.tasks import SUPERCLASSES

SIGNALS = {  # as far as an ensemble or a network looks at `signals/meta.json`
    "fs": 100,
    "n_samples": 1000,
    "leads": list(LEADS),
    "unit": "uV",
    "filter": {"low": 0.5, "high": 40.0, "order": 3},
    "limit_mv": 8.0,
    "mean": {"signal": [0.0] * 12, "derivative": [0.0] * 12},
    "std": {"signal": [0.2] * 12, "derivative": [5.0] * 12},
}


def statement_list(*, diagnostic: int = 8, form: int = 4, rhythm: int = 3) -> pd.DataFrame:
    """Return a table like `scp_statements.csv`: D0, D1, ... in turn of each superclass, F0, ... and R0, ...

    The last diagnostic statement is a form statement too, as four are in PTB-XL.
    """
    kinds = {"D": diagnostic, "F": form - 1, "R": rhythm}
    table = pd.DataFrame(index=[f"{kind}{i}" for kind, count in kinds.items() for i in range(count)])
    table["description"] = [f"what {name} means" for name in table.index]
    for kind, column in (("D", "diagnostic"), ("F", "form"), ("R", "rhythm")):
        table[column] = np.where(table.index.str.startswith(kind), 1.0, np.nan)
    table.loc[f"D{diagnostic - 1}", "form"] = 1.0
    superclass = [list(SUPERCLASSES)[i % len(SUPERCLASSES)] for i in range(diagnostic)]
    table["diagnostic_class"] = pd.Series(superclass, index=table.index[:diagnostic])
    table["diagnostic_subclass"] = table.diagnostic_class + np.where(table.index.isin(["D5"]), "_2", "")
    return table


def write_data(data: Path, statements: pd.DataFrame, given: dict[str, np.ndarray]) -> None:
    """Write the two tables of PTB-XL for records of which `given` {split: (n, n_statements)} says the statements.

    Two records belong to each patient; ids count on through the splits.
    """
    rows = []
    for split, fold in (("train", 1), ("val", 9), ("test", 10)):
        for values in given[split]:
            names = statements.index[values == 1]
            rows.append({"strat_fold": fold, "scp_codes": str(dict.fromkeys(names, 100.0))})
    table = pd.DataFrame(rows)
    ecg_id = np.arange(1, len(table) + 1)
    table = table.assign(ecg_id=ecg_id, age=50, sex=1, validated_by_human=True, filename_lr="a", filename_hr="b")
    table["patient_id"] = table.strat_fold * 100_000 + ecg_id // 2
    write_csv(table, data / "ptbxl_database.csv")
    statements.to_csv(data / "scp_statements.csv")


def draw(n: int, share: np.ndarray | float, width: int, *, seed: int) -> np.ndarray:
    """Return statements (n, width) of 0 and 1, each present with its share; every record has at least one."""
    given = (np.random.default_rng(seed).random((n, width)) < share).astype(int)
    given[given.sum(axis=1) == 0, 0] = 1
    return given


def write_splits(
    artifacts: Path,
    *,
    statements: pd.DataFrame | None = None,
    given: dict[str, np.ndarray] | None = None,
    labels: tuple[str, ...] = ("superdiagnostic",),
    n: int = 160,
    share: float = 0.1,
) -> Path:
    """Leave what 02 leaves, of `n` validation and `n` test records unless `given` says which; return `artifacts`."""
    statements = statement_list() if statements is None else statements
    if given is None:
        sizes = {"train": 40, "val": n, "test": n}
        given = {split: draw(size, share, len(statements), seed=i) for i, (split, size) in enumerate(sizes.items())}
    data = artifacts / "data"
    data.mkdir(parents=True, exist_ok=True)
    write_data(data, statements, given)
    make_splits(data=data, artifacts=artifacts, labels=labels)
    return artifacts


def write_run(
    artifacts: Path,
    run: str,
    *,
    task: str = "",
    seed: int = 0,
    strength: float = 1.0,
    model: str = "resnet1d",
    objective: str = "multilabel",
    history: bool = False,
    **settings: object,
) -> Path:
    """Leave a run folder whose probabilities rise by `strength` logits where a class is present; return it."""
    splits = read_splits(artifacts)
    chosen = splits.task(task)
    folder, rng = run_folder(artifacts, run, seed), np.random.default_rng([seed, *run.encode()])
    for split in ("val", "test"):
        table = read_split(artifacts, split, chosen)
        score = strength * table[list(chosen.classes)].to_numpy() - 1 + rng.normal(size=(len(table), len(chosen)))
        write_predictions(folder, split, table.ecg_id.to_numpy(), 1 / (1 + np.exp(-score)), chosen)
    config = {
        "run": run,
        "model": model,
        "task": chosen.to_json(),
        "objective": objective,
        "labels_sha256": splits.labels_sha256[chosen.name],
        "window": 250,
        "signals": SIGNALS,
        "settings": {"name": "", "preset": "default", "seed": seed, **settings},
    }
    write_json(config, folder / "config.json")
    if history:
        columns = ("lr", "train_loss", "val_loss", "val_accuracy", "val_macro_auc", "seconds")
        values = pd.DataFrame(np.random.default_rng(0).random((5, 6)), columns=columns)
        write_csv(values.assign(epoch=range(1, 6)), folder / "history.csv")
    return folder
