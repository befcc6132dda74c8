"""The words of the task and where they come from: classes, leads, superclass labels, splits.

Every list that has an order is written here once and nowhere else.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from ecg.artifacts import UserError, read_json, read_table, write_csv, write_json

CLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
CLASS_NAMES = {
    "NORM": "normal ECG",
    "MI": "myocardial infarction",
    "STTC": "ST/T changes",
    "CD": "conduction disturbance",
    "HYP": "hypertrophy",
}
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
SPLITS = ("train", "val", "test")
VAL_FOLD, TEST_FOLD = 9, 10  # the folds whose records were all seen by a human (Wagner et al. 2020)
SPLIT_COLUMNS = (
    *("ecg_id", "patient_id", "age", "sex", "strat_fold", "validated_by_human", "filename_lr", "filename_hr"),
    *CLASSES,
    "label",
)

LabelPolicy = Literal["any", "likelihood50"]
SplitRule = Literal["folds", "validated"]


def read_database(data: Path) -> pd.DataFrame:
    """Return `ptbxl_database.csv` of the folder `data`, one row per record."""
    database = read_table(
        data / "ptbxl_database.csv",
        made_by="codes/00_get_data.py",
        columns=(*SPLIT_COLUMNS[:8], "scp_codes"),
        dtype={"patient_id": "Int64"},  # 1.0.1 and 1.0.3 write it as 13243.0
    )
    repeated = database.ecg_id[database.ecg_id.duplicated()]
    if len(repeated):
        raise UserError(f"{data / 'ptbxl_database.csv'}: ecg_id {repeated.iloc[0]} stands in it twice")
    if database.patient_id.isna().any():
        ecg_id = database.ecg_id[database.patient_id.isna()].iloc[0]
        raise UserError(f"{data / 'ptbxl_database.csv'}: patient_id of ecg_id {ecg_id} is empty")
    return database


def read_superclasses(data: Path) -> dict[str, str]:
    """Return {diagnostic SCP code: superclass} of `scp_statements.csv` (rows with diagnostic == 1)."""
    path = data / "scp_statements.csv"
    statements = read_table(
        path, made_by="codes/00_get_data.py", columns=("diagnostic", "diagnostic_class"), index_col=0
    )
    superclasses = statements.loc[statements.diagnostic == 1, "diagnostic_class"]
    unknown = superclasses[~superclasses.isin(CLASSES)]
    if len(unknown):
        raise UserError(f"{path}: diagnostic_class of {unknown.index[0]} is {unknown.iloc[0]!r}, not one of {CLASSES}")
    return superclasses.to_dict()


def superclass_labels(
    database: pd.DataFrame, superclasses: dict[str, str], *, label_policy: LabelPolicy = "any"
) -> pd.DataFrame:
    """Return the multi-hot superclasses, (n_records, 5) int8 with columns CLASSES, rows as in `database`.

    `any`: every listed diagnostic code counts, the rule of the PTB-XL benchmark (Strodthoff et al. 2020).
    `likelihood50`: only codes given with a likelihood of at least 50 %; in PTB-XL 0 means "not stated".
    """
    if label_policy not in ("any", "likelihood50"):
        raise UserError(f"label policy {label_policy!r} is not known: use any or likelihood50")
    least = 50.0 if label_policy == "likelihood50" else 0.0
    column = {name: i for i, name in enumerate(CLASSES)}
    code_column = {code: column[superclass] for code, superclass in superclasses.items()}
    labels = np.zeros((len(database), len(CLASSES)), np.int8)
    for row, (ecg_id, text) in enumerate(zip(database.ecg_id, database.scp_codes, strict=True)):
        try:  # a Python dict of plain codes and numbers: as JSON ten times faster than literal_eval
            codes = json.loads(text.replace("'", '"'))
            for code, likelihood in codes.items():
                if code in code_column and likelihood >= least:
                    labels[row, code_column[code]] = 1
        except (AttributeError, TypeError, ValueError):
            raise UserError(
                f"ptbxl_database.csv: scp_codes of ecg_id {ecg_id} is {text!r}; expected like {{'NORM': 100.0}}"
            ) from None
    return pd.DataFrame(labels, columns=list(CLASSES), index=database.index)


def single_label(labels: pd.DataFrame) -> pd.Series:
    """Return the superclass of records that have exactly one, and an empty string for all others."""
    values = labels[list(CLASSES)].to_numpy()
    names = np.asarray(CLASSES, dtype=object)[values.argmax(axis=1)]
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
    return parts


def make_splits(
    *, data: Path, artifacts: Path, split: SplitRule, label_policy: LabelPolicy, shuffle_labels: bool = False
) -> None:
    """Write `ptbxl_{train,val,test}.csv`: the records that have a superclass, with their labels.

    `ptbxl_splits.json` beside them states how they were made; everything made from them carries it.
    `shuffle_labels` deals the labels out anew among all records: the negative control on which nothing can learn.
    """
    database = read_database(data)
    labels = superclass_labels(database, read_superclasses(data), label_policy=label_policy)
    if shuffle_labels:
        labels[:] = np.random.default_rng(0).permutation(labels.to_numpy())
    parts = assign_split(database, split=split)
    table = pd.concat([database, labels, single_label(labels)], axis=1)[list(SPLIT_COLUMNS)]
    has_class = labels.any(axis=1)
    tables = {name: table[has_class & (parts == name)] for name in SPLITS}
    for name, part in tables.items():
        if part.empty:
            raise UserError(f"{data}: no record with a superclass falls into {name} under --split {split}")
    rows, digest = [], hashlib.sha256()
    (artifacts / "ptbxl_splits.json").unlink(missing_ok=True)  # killed between two tables, they belong to no split
    for name, part in tables.items():
        write_csv(part, artifacts / f"ptbxl_{name}.csv")
        digest.update(part[["ecg_id", *CLASSES]].to_csv().encode())
        counts = {"split": name, "records": len(part), "patients": part.patient_id.nunique()}
        rows.append(counts | part[list(CLASSES)].sum().to_dict() | {"exactly one": (part.label != "").sum()})
    facts = {"split": split, "label_policy": label_policy, "shuffle_labels": shuffle_labels}
    write_json(facts | {"classes": CLASSES, "sha256": digest.hexdigest()}, artifacts / "ptbxl_splits.json")
    folds = database.strat_fold.value_counts().sort_index()
    print(f"{len(database)} records; {(~has_class).sum()} without a superclass are left out")
    print("superclasses: " + ", ".join(f"{name} {n}" for name, n in labels.sum().items()))
    print("strat_fold:   " + ", ".join(f"{fold}: {n}" for fold, n in folds.items()))
    print(pd.DataFrame(rows).to_string(index=False))


def read_split_facts(artifacts: Path) -> dict[str, Any]:
    """Return how the splits of an artifacts folder were made; equal facts mean equal records and labels."""
    return read_json(artifacts / "ptbxl_splits.json", made_by="codes/02_split.py")


def read_split(artifacts: Path, name: str) -> pd.DataFrame:
    """Return `ptbxl_{name}.csv`; `label` is an empty string where a record has not exactly one superclass."""
    return read_table(
        artifacts / f"ptbxl_{name}.csv",
        made_by="codes/02_split.py",
        columns=SPLIT_COLUMNS,
        dtype={"label": str},
        keep_default_na=True,
    ).fillna({"label": ""})
