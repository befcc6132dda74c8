"""Stage 02: the statements of every record, the labels of every task, and splits that no patient crosses."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from ecg.artifacts import UserError, read_json, read_table, write_csv, write_json
from ecg.tasks import BENCHMARK, Task, benchmark_tasks, read_statements, task_from_csv

SPLITS = ("train", "val", "test")
VAL_FOLD, TEST_FOLD = 9, 10  # the folds whose records were all seen by a human (Wagner et al. 2020)
RECORD_COLUMNS = (
    "ecg_id",
    "patient_id",
    "age",
    "sex",
    "strat_fold",
    "validated_by_human",
    "filename_lr",
    "filename_hr",
)
UNLIKELY = 50.0  # %; statements given with less are listed in the column `unlikely`
TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
MADE_BY = "codes/02_split.py"

LabelPolicy = Literal["any", "likelihood50"]
SplitRule = Literal["folds", "validated"]


@dataclass(frozen=True)
class Splits:
    """What `ptbxl_splits.json` says: how records and labels were divided, and every task that runs may name.

    `labels_sha256` {task: digest of its records and labels in the three splits} tells whether a stored run was
    trained on these very labels; `records_sha256` is the same of all records, without labels.
    """

    split: str
    label_policy: str
    shuffle_labels: bool
    tasks: dict[str, Task]
    labels_sha256: dict[str, str]
    records_sha256: str

    @property
    def rules(self) -> dict[str, Any]:
        """The settings of 02 that a run depends on, for its `config.json`."""
        return {"split": self.split, "label_policy": self.label_policy, "shuffle_labels": self.shuffle_labels}

    @property
    def first(self) -> Task:
        """The task whose columns stand in `ptbxl_{train,val,test}.csv`."""
        return next(iter(self.tasks.values()))

    def task(self, name: str) -> Task:
        """Return a task by name, the first one for an empty name; raise a `UserError` if 02 was not told of it."""
        if not name:
            return self.first
        if name not in self.tasks:
            raise UserError(
                f"--labels {name!r} is not known: use one of {', '.join(self.tasks)}, or run {MADE_BY} again"
            )
        return self.tasks[name]


def read_database(data: Path) -> pd.DataFrame:
    """Return `ptbxl_database.csv` of the folder `data`, one row per record; ids are integers or text."""
    path = data / "ptbxl_database.csv"
    database = read_table(path, made_by="codes/00_get_data.py", columns=(*RECORD_COLUMNS, "scp_codes"))
    repeated = database.ecg_id[database.ecg_id.duplicated()]
    if len(repeated):
        raise UserError(f"{path}: ecg_id {repeated.iloc[0]} appears twice")
    if database.patient_id.isna().any():
        ecg_id = database.ecg_id[database.patient_id.isna()].iloc[0]
        raise UserError(f"{path}: patient_id of ecg_id {ecg_id} is empty")
    if pd.api.types.is_float_dtype(database.patient_id):  # 1.0.1 and 1.0.3 write 13243.0
        database["patient_id"] = database.patient_id.astype(np.int64)
    validated = database.validated_by_human.astype(str).str.strip().str.lower().map(TRUTH)
    if validated.isna().any():
        value = database.validated_by_human[validated.isna()].iloc[0]
        raise UserError(f"{path}: validated_by_human is {value!r} in one row, must be true or false, 1 or 0")
    database["validated_by_human"] = validated.astype(bool)
    return database


def statement_table(database: pd.DataFrame, known: pd.Index) -> tuple[pd.DataFrame, Counter[str]]:
    """Return (the statements of each record, {unknown statement: number of records}).

    The table has the rows of `database`, a column of 0 and 1 for each statement of `known`, whatever its likelihood,
    and `unlikely`: the statements given with a likelihood below 50 %, separated by blanks. In PTB-XL a likelihood of 0
    means "not stated".
    """
    column = {statement: i for i, statement in enumerate(known)}
    given = np.zeros((len(database), len(known)), np.int8)
    unlikely, unknown = [], Counter()
    for row, (ecg_id, text) in enumerate(zip(database.ecg_id, database.scp_codes, strict=True)):
        try:  # a Python dict of plain codes and numbers: as JSON ten times faster than literal_eval
            likelihoods = json.loads(text.replace("'", '"'))
            unlikely.append(" ".join(code for code, value in likelihoods.items() if value < UNLIKELY))
        except (AttributeError, TypeError, ValueError):
            raise UserError(
                f"ptbxl_database.csv: scp_codes of ecg_id {ecg_id} is {text!r}; expected like {{'NORM': 100.0}}"
            ) from None
        for code in likelihoods:
            if code in column:
                given[row, column[code]] = 1
            else:
                unknown[code] += 1
    table = pd.DataFrame(given, columns=list(known), index=database.index)
    table.insert(0, "unlikely", unlikely)
    return table, unknown


def single_label(labels: pd.DataFrame) -> pd.Series:
    """Return the class of records that have exactly one, and an empty string for all others."""
    values = labels.to_numpy()
    names = np.asarray(labels.columns, dtype=object)[values.argmax(axis=1)]
    return pd.Series(np.where(values.sum(axis=1) == 1, names, ""), index=labels.index, name="label")


def assign_split(database: pd.DataFrame, *, split: SplitRule = "folds") -> pd.Series:
    """Return train, val or test for each row of `database`; no patient is in two of them.

    `folds`: strat_fold 1-8, 9 and 10. `validated`: the patients all of whose records were validated by a
    human, halved at random but always alike, are val and test; everybody else is train.
    """
    if split == "folds":
        outside = database[~database.strat_fold.between(1, 10)]
        if len(outside):
            raise UserError(f"ptbxl_database.csv: strat_fold of ecg_id {outside.ecg_id.iloc[0]} is not 1-10")
        name = np.select([database.strat_fold == VAL_FOLD, database.strat_fold == TEST_FOLD], SPLITS[1:], SPLITS[0])
        parts = pd.Series(name, index=database.index)
    elif split == "validated":
        validated = database.groupby("patient_id").validated_by_human.all()
        patients = validated.index[validated].sort_values().to_numpy()
        order = np.random.default_rng(0).permutation(len(patients))
        # a tenth of all patients each, as in the folds, or half of the validated ones if they are fewer
        size = min(len(validated) // 10, len(patients) // 2)
        chosen = dict.fromkeys(patients[order[:size]], "val") | dict.fromkeys(patients[order[size : 2 * size]], "test")
        parts = database.patient_id.map(chosen).fillna("train")
    else:
        raise UserError(f"split {split!r} is not known: use folds or validated")
    crossing = parts.groupby(database.patient_id).nunique()
    if (crossing > 1).any():
        raise UserError(f"patient {crossing.index[crossing > 1][0]} has records in more than one split")
    return parts.rename("split")


def choose_tasks(labels: tuple[str, ...], statements: pd.DataFrame) -> dict[str, Task]:
    """Return {name: task} of the tasks named by `labels`, then of the benchmark's others.

    `labels` are names of the benchmark's tasks and CSV files that define one, see `ecg.tasks.task_from_csv`.
    """
    benchmark = benchmark_tasks(statements)
    chosen: dict[str, Task] = {}
    for name in labels:
        if name.lower().endswith(".csv"):
            task = task_from_csv(Path(name), statements)
        elif name in benchmark:
            task = benchmark[name]
        else:
            raise UserError(f"--labels {name}: use {', '.join(BENCHMARK)} or a file ending in .csv")
        if task.name in chosen or (task.name in BENCHMARK and name not in benchmark):
            raise UserError(f"--labels {name}: there are two tasks called {task.name}; rename the file")
        chosen[task.name] = task
    if not chosen:
        raise UserError("--labels needs at least one task")
    return chosen | {name: task for name, task in benchmark.items() if name not in chosen}


def make_splits(
    *,
    data: Path,
    artifacts: Path,
    labels: tuple[str, ...] = ("superdiagnostic",),
    split: SplitRule = "folds",
    label_policy: LabelPolicy = "any",
    shuffle_labels: bool = False,
) -> None:
    """Write the statements of all records, and the records and labels of the first task in three splits.

    `ptbxl_statements.csv`: every record with its split and every statement, from which the labels of any task follow.
    `ptbxl_{train,val,test}.csv`: the records that have a class of the first task of `labels`. `ptbxl_splits.json`: how
    all this was made, and the tasks. `shuffle_labels` shuffles the statements across records: the negative control on
    which nothing can learn.
    """
    database, known = read_database(data), read_statements(data)
    tasks = choose_tasks(labels, known)
    given, unknown = statement_table(database, known.index)
    if unknown and not given[list(known.index)].any(axis=None):
        raise UserError(
            f"{data / 'ptbxl_database.csv'}: none of its scp_codes is in scp_statements.csv, such as {min(unknown)!r}"
        )
    if shuffle_labels:
        order = np.random.default_rng(0).permutation(len(given))
        given = given.iloc[order].set_axis(given.index)
    parts = assign_split(database, split=split)
    records = pd.concat([database[list(RECORD_COLUMNS)], parts, given], axis=1)
    first = next(iter(tasks.values()))
    digests = {}
    for name, task in tasks.items():
        digests[name] = _digest(records, task, label_policy)
    tables = {name: _of_task(records[parts == name], first, label_policy) for name in SPLITS}
    for name, table in tables.items():
        if table.empty:
            raise UserError(f"{data}: no record with a class of {first.name} falls into {name} under --split {split}")

    (artifacts / "ptbxl_splits.json").unlink(missing_ok=True)  # a kill between two tables leaves no valid split
    write_csv(records, artifacts / "ptbxl_statements.csv")
    for name, table in tables.items():
        write_csv(table, artifacts / f"ptbxl_{name}.csv")
    facts = {
        "split": split,
        "label_policy": label_policy,
        "shuffle_labels": shuffle_labels,
        "records_sha256": hashlib.sha256(records[["ecg_id", "split"]].to_csv().encode()).hexdigest(),
        "tasks": [task.to_json() | {"sha256": digests[name]} for name, task in tasks.items()],
    }
    write_json(facts, artifacts / "ptbxl_splits.json")
    _report(database, tables, first, unknown)


def _of_task(records: pd.DataFrame, task: Task, label_policy: str) -> pd.DataFrame:
    """Return the records that have a class of the task: RECORD_COLUMNS, a column per class, `label`."""
    labels = task.labels(records, label_policy=label_policy).astype(np.int64)  # as read from a file; sums of int8 wrap
    table = pd.concat([records[list(RECORD_COLUMNS)], labels, single_label(labels)], axis=1)
    return table[labels.any(axis=1)]


def _digest(records: pd.DataFrame, task: Task, label_policy: str) -> str:
    digest = hashlib.sha256()
    for name in SPLITS:
        part = _of_task(records[records.split == name], task, label_policy)
        digest.update(part[["ecg_id", *task.classes]].to_csv().encode())
    return digest.hexdigest()


def _report(database: pd.DataFrame, tables: dict[str, pd.DataFrame], task: Task, unknown: Counter[str]) -> None:
    rows = []
    for name, table in tables.items():
        counts = {"split": name, "records": len(table), "patients": table.patient_id.nunique()}
        counts |= table[list(task.classes)].sum().to_dict()
        rows.append(counts | {"exactly one": (table.label != "").sum()})
    used = sum(len(table) for table in tables.values())
    folds = database.strat_fold.value_counts().sort_index()
    print(f"{len(database)} records; {len(database) - used} without a class of {task.name} are left out")
    print("strat_fold: " + ", ".join(f"{fold}: {n}" for fold, n in folds.items()))
    print(pd.DataFrame(rows).set_index("split").T.to_string())
    if unknown:
        listed = ", ".join(f"{code!r} ({n} records)" for code, n in unknown.most_common(10))
        print(f"warning: scp_codes not in scp_statements.csv are ignored: {listed}")


def read_splits(artifacts: Path) -> Splits:
    """Return what `ptbxl_splits.json` says."""
    path = artifacts / "ptbxl_splits.json"
    facts = read_json(path, made_by=MADE_BY)
    try:
        return Splits(
            split=facts["split"],
            label_policy=facts["label_policy"],
            shuffle_labels=facts["shuffle_labels"],
            tasks={entry["name"]: Task.from_json(entry) for entry in facts["tasks"]},
            labels_sha256={entry["name"]: entry["sha256"] for entry in facts["tasks"]},
            records_sha256=facts["records_sha256"],
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: {error} is missing: run {MADE_BY} again") from None


def read_records(artifacts: Path) -> pd.DataFrame:
    """Return `ptbxl_statements.csv`: every record, its split and its statements."""
    path = artifacts / "ptbxl_statements.csv"
    table = read_table(path, made_by=MADE_BY, columns=(*RECORD_COLUMNS, "split", "unlikely"), dtype={"unlikely": str})
    return _each_once(table.fillna({"unlikely": ""}), path)


def read_split(artifacts: Path, name: str, task: Task | None = None) -> pd.DataFrame:
    """Return the records of a split that have a class of `task` (default: the first one).

    Columns: RECORD_COLUMNS, one per class, and `label`, an empty string where a record has not exactly one class. Those
    of the first task are read from `ptbxl_{name}.csv`, those of others follow from `ptbxl_statements.csv`.
    """
    splits = read_splits(artifacts)
    if task is not None and task.name != splits.first.name:
        records = read_records(artifacts)
        return _of_task(records[records.split == name], task, splits.label_policy).reset_index(drop=True)
    path = artifacts / f"ptbxl_{name}.csv"
    columns = (*RECORD_COLUMNS, *splits.first.classes, "label")
    table = read_table(path, made_by=MADE_BY, columns=columns, dtype={"label": str})
    return _each_once(table.fillna({"label": ""}), path)


def read_tables(artifacts: Path, names: Iterable[str], tasks: Iterable[Task]) -> dict[tuple[str, str], pd.DataFrame]:
    """Return {(task, split): the table of `read_split`} for the splits `names` and `tasks`; each file is read once."""
    names, tasks, splits = tuple(names), tuple(tasks), read_splits(artifacts)
    others = [task for task in tasks if task.name != splits.first.name]
    tables = {}
    if len(others) < len(tasks):
        tables = {(splits.first.name, name): read_split(artifacts, name) for name in names}
    if others:
        records = read_records(artifacts)
        for name in names:
            part = records[records.split == name]
            for task in others:
                tables[task.name, name] = _of_task(part, task, splits.label_policy).reset_index(drop=True)
    return tables


def _each_once(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    repeated = table.ecg_id[table.ecg_id.duplicated()]
    if len(repeated):
        raise UserError(f"{path}: ecg_id {repeated.iloc[0]} appears twice: run {MADE_BY} again")
    return table
