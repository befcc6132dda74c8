"""What a network is asked: a task is an ordered list of classes, each made of SCP statements.

A `Task` is made by `codes/02_split.py`, stored in `ptbxl_splits.json` and in the `config.json` of every run, and read
from there by everything that comes later. The six tasks of the PTB-XL benchmark (Strodthoff et al. 2020, section II)
stand here; `task_from_csv` makes one of a user's own. No other module knows a class by name.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from ecg.artifacts import UserError, read_table

Objective = Literal["multilabel", "multiclass"]  # a sigmoid per class, or a softmax over them

BENCHMARK = ("superdiagnostic", "subdiagnostic", "diagnostic", "form", "rhythm", "all")
STATEMENT_COLUMNS = ("description", "diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass")

# What no class can be called: names of columns and rows in the tables
RESERVED = (
    "ecg_id",
    "patient_id",
    "age",
    "sex",
    "strat_fold",
    "validated_by_human",
    "filename_lr",
    "filename_hr",
    "split",
    "unlikely",
    "label",
    "macro",
    "macro5",
    "record",
    "run",
)

SUPERCLASSES = {
    "NORM": "normal ECG",
    "MI": "myocardial infarction",
    "STTC": "ST/T changes",
    "CD": "conduction disturbance",
    "HYP": "hypertrophy",
}
# Those not listed here are named after their only statement.
SUBCLASSES = {
    "AMI": "anterior myocardial infarction",
    "IMI": "inferior myocardial infarction",
    "LMI": "lateral myocardial infarction",
    "ISCA": "ischemia in anterior leads",
    "ISCI": "ischemia in inferior leads",
    "ISC_": "non-specific ischemia",
    "NST_": "non-specific ST changes",
    "STTC": "other ST/T changes",
    "LAFB/LPFB": "fascicular block",
    "_AVB": "AV block",
}
# Of statements, in the field's usual terms; one that is not listed has the description in scp_statements.csv.
STATEMENTS = {
    "1AVB": "first-degree AV block",
    "2AVB": "second-degree AV block",
    "3AVB": "third-degree AV block",
    "ABQRS": "abnormal QRS complex",
    "AFIB": "atrial fibrillation",
    "AFLT": "atrial flutter",
    "ALMI": "anterolateral infarction",
    "AMI": "anterior infarction",
    "ANEUR": "ST/T changes of a ventricular aneurysm",
    "ASMI": "anteroseptal infarction",
    "BIGU": "bigeminy",
    "CLBBB": "complete LBBB",
    "CRBBB": "complete RBBB",
    "DIG": "digitalis effect",
    "EL": "electrolyte or drug effect",
    "HVOLT": "high QRS voltage",
    "ILBBB": "incomplete LBBB",
    "ILMI": "inferolateral infarction",
    "IMI": "inferior infarction",
    "INJAL": "anterolateral subendocardial injury",
    "INJAS": "anteroseptal subendocardial injury",
    "INJIL": "inferolateral subendocardial injury",
    "INJIN": "inferior subendocardial injury",
    "INJLA": "lateral subendocardial injury",
    "INVT": "T wave inversion",
    "IPLMI": "inferoposterolateral infarction",
    "IPMI": "inferoposterior infarction",
    "IRBBB": "incomplete RBBB",
    "ISCAL": "anterolateral ischemia",
    "ISCAN": "anterior ischemia",
    "ISCAS": "anteroseptal ischemia",
    "ISCIL": "inferolateral ischemia",
    "ISCIN": "inferior ischemia",
    "ISCLA": "lateral ischemia",
    "ISC_": "non-specific ischemia",
    "IVCD": "non-specific intraventricular block",
    "LAFB": "left anterior fascicular block",
    "LAO/LAE": "left atrial enlargement",
    "LMI": "lateral infarction",
    "LNGQT": "long QT",
    "LOWT": "low T waves",
    "LPFB": "left posterior fascicular block",
    "LPR": "long PR",
    "LVH": "left ventricular hypertrophy",
    "LVOLT": "low QRS voltage",
    "NDT": "non-diagnostic T changes",
    "NORM": "normal ECG",
    "NST_": "non-specific ST changes",
    "NT_": "non-specific T changes",
    "PAC": "premature atrial complexes",
    "PACE": "paced rhythm",
    "PMI": "posterior infarction",
    "PRC(S)": "premature complexes",
    "PSVT": "paroxysmal SVT",
    "PVC": "premature ventricular complexes",
    "QWAVE": "pathological Q waves",
    "RAO/RAE": "right atrial enlargement",
    "RVH": "right ventricular hypertrophy",
    "SARRH": "sinus arrhythmia",
    "SBRAD": "sinus bradycardia",
    "SEHYP": "septal hypertrophy",
    "SR": "sinus rhythm",
    "STACH": "sinus tachycardia",
    "STD_": "ST depression",
    "STE_": "ST elevation",
    "SVARR": "supraventricular arrhythmia",
    "SVTAC": "supraventricular tachycardia",
    "TAB_": "abnormal T waves",
    "TRIGU": "trigeminy",
    "VCLVH": "voltage criteria of LVH",
    "WPW": "pre-excitation (WPW)",
}


@dataclass(frozen=True)
class Task:
    """An ordered list of classes and the statements that make each of them.

    `classes`, `long_names` and `statements` have one entry per class, in the same order: `statements[i]` are the SCP
    statements any of which gives a record the class `classes[i]`. `likelihood_counts` are those of all statements
    that --label-policy concerns: form and rhythm statements are listed with likelihood 0, whatever was seen.
    """

    name: str
    classes: tuple[str, ...]
    long_names: tuple[str, ...]
    statements: tuple[tuple[str, ...], ...]
    likelihood_counts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> dict[str, str]:
        """{class: long name}, in order."""
        return dict(zip(self.classes, self.long_names, strict=True))

    @property
    def all_statements(self) -> set[str]:
        return {statement for group in self.statements for statement in group}

    def labels(self, statements: pd.DataFrame, *, label_policy: str = "any") -> pd.DataFrame:
        """Return the multi-hot labels, (n, n_classes) int8 with the columns `classes`, rows as in `statements`.

        `statements` is the table of `ptbxl_statements.csv`: one column of 0 and 1 per statement, and `unlikely`, the
        statements given with a likelihood below 50 %. `label_policy` "any" counts every listed statement, the rule of
        the benchmark; "likelihood50" leaves out the unlikely ones among `likelihood_counts`.
        """
        if label_policy not in ("any", "likelihood50"):
            raise UserError(f"label policy {label_policy!r} is not known: use any or likelihood50")
        given = {name: statements[name].to_numpy(bool) for name in self.all_statements if name in statements}
        if label_policy == "likelihood50":
            unlikely = statements.unlikely.str.split()
            for name in set(self.likelihood_counts) & given.keys():
                given[name] = given[name] & ~unlikely.map(lambda names, name=name: name in names).to_numpy(bool)
        labels = np.zeros((len(statements), len(self)), np.int8)
        for column, group in enumerate(self.statements):
            for name in group:
                if name in given:
                    labels[:, column] |= given[name]
        return pd.DataFrame(labels, columns=list(self.classes), index=statements.index)

    def sources(self, other: "Task") -> tuple[tuple[int, ...], ...] | None:
        """Return, for each class of `other`, the positions of the classes here that make it up; None if they cannot.

        A class of `other` is made up by classes here whose statements, taken together, are exactly its own. So a run
        trained on all statements also answers the tasks made of them.
        """
        found = []
        for group in other.statements:
            wanted = set(group)
            inside = tuple(i for i, own in enumerate(self.statements) if own and set(own) <= wanted)
            if not wanted or {name for i in inside for name in self.statements[i]} != wanted:
                return None
            found.append(inside)
        return tuple(found)

    def answer(self, probability: np.ndarray, other: "Task") -> np.ndarray:
        """Return the probabilities (n, len(other)) of another task from those of this one, (n, len(self)).

        A class that is a class here too keeps its column; one made of several has 1 - product(1 - p) over them, the
        probability of at least one if they were independent. Raises ValueError if they do not make it up.
        """
        sources = self.sources(other)
        if sources is None:
            raise ValueError(f"the classes of {other.name} are not made of those of {self.name}")
        columns = [1 - np.prod(1 - probability[:, inside], axis=1) for inside in sources]
        for k, inside in enumerate(sources):
            if len(inside) == 1:
                columns[k] = probability[:, inside[0]]
        return np.stack(columns, axis=1)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` makes a task of: plain numbers and texts."""
        parts = zip(self.classes, self.long_names, self.statements, strict=True)
        classes = [{"class": c, "long_name": name, "statements": list(group)} for c, name, group in parts]
        return {"name": self.name, "classes": classes, "likelihood_counts": list(self.likelihood_counts)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Task":
        return cls(
            name=value["name"],
            classes=tuple(entry["class"] for entry in value["classes"]),
            long_names=tuple(entry["long_name"] for entry in value["classes"]),
            statements=tuple(tuple(entry["statements"]) for entry in value["classes"]),
            likelihood_counts=tuple(value.get("likelihood_counts", ())),
        )


def read_statements(data: Path) -> pd.DataFrame:
    """Return `scp_statements.csv` of the folder `data`, indexed by statement."""
    path = data / "scp_statements.csv"
    table = read_table(path, made_by="codes/00_get_data.py", columns=STATEMENT_COLUMNS, index_col=0)
    table.index = table.index.astype(str)
    if table.index.duplicated().any():
        raise UserError(f"{path}: statement {table.index[table.index.duplicated()][0]!r} appears twice")
    return table


def benchmark_tasks(statements: pd.DataFrame) -> dict[str, Task]:
    """Return the six tasks of the PTB-XL benchmark, {name: task}, from the table of `scp_statements.csv`.

    A task for which there is no statement is left out. Superclasses stand in the order of SUPERCLASSES, the classes of
    all other tasks in alphabetical order, as in the benchmark's own arrays.
    """
    diagnostic, form, rhythm = (
        sorted(statements.index[statements[kind] == 1]) for kind in ("diagnostic", "form", "rhythm")
    )
    description = statements.description.astype(str).to_dict() | STATEMENTS
    superclass = statements.diagnostic_class.reindex(diagnostic)
    subclass = statements.diagnostic_subclass.reindex(diagnostic)
    unknown = superclass[~superclass.isin(list(SUPERCLASSES))]
    if len(unknown):
        raise UserError(
            f"scp_statements.csv: diagnostic_class of {unknown.index[0]} is {unknown.iloc[0]!r}, not one of "
            f"{', '.join(SUPERCLASSES)}"
        )

    def of_statements(name: str, chosen: Sequence[str], likelihood_counts: Sequence[str]) -> Task:
        names = tuple(description[statement] for statement in chosen)
        return Task(name, tuple(chosen), names, tuple((statement,) for statement in chosen), tuple(likelihood_counts))

    def of_groups(name: str, group_of: pd.Series, names: Mapping[str, str]) -> Task:
        groups = {group: tuple(group_of.index[group_of == group]) for group in names}
        present = {group: members for group, members in groups.items() if members}
        long_names = tuple(names[group] for group in present)
        return Task(name, tuple(present), long_names, tuple(present.values()), tuple(diagnostic))

    subclass_names = {}
    for group in sorted(set(subclass.dropna())):
        members = subclass.index[subclass == group]
        subclass_names[group] = SUBCLASSES.get(group) or description[members[0]]
    every = sorted({*diagnostic, *form, *rhythm})
    tasks = [
        of_groups("superdiagnostic", superclass, SUPERCLASSES),
        of_groups("subdiagnostic", subclass, subclass_names),
        of_statements("diagnostic", diagnostic, diagnostic),
        of_statements("form", form, ()),
        of_statements("rhythm", rhythm, ()),
        of_statements("all", every, diagnostic),
    ]
    return {task.name: task for task in tasks if len(task)}


def task_from_csv(path: Path, statements: pd.DataFrame) -> Task:
    """Return the task of a CSV with the columns `statement,class` and, if wanted, `long_name`; named after the file.

    Classes stand in the order of their first row. Raises `UserError` for an unknown statement or a repeated row.
    """
    if not path.is_file():
        raise UserError(f"--labels {path}: there is no such file")
    if not re.fullmatch(r"\w[\w.+-]*", path.stem):
        raise UserError(
            f"--labels {path}: name the file with letters, digits, _, -, + and dots; folders are named after it"
        )
    table = read_table(path, made_by="--labels with a file that can be read", columns=("statement", "class"), dtype=str)
    table = table.apply(lambda column: column.str.strip()).replace("", pd.NA)
    if table[["statement", "class"]].isna().any(axis=None) or table.empty:
        raise UserError(f"{path}: every row needs a statement and a class")
    if not table.statement.isin(statements.index).all():
        unknown = table.statement[~table.statement.isin(statements.index)].iloc[0]
        raise UserError(f"{path}: statement {unknown!r} is not in scp_statements.csv")
    repeated = table[table.duplicated(["statement", "class"])]
    if len(repeated):
        raise UserError(f"{path}: statement {repeated.statement.iloc[0]!r} appears twice in one class")
    reserved = set(RESERVED) & set(table["class"])
    if reserved:
        raise UserError(f"{path}: a class cannot be called {min(reserved)!r}, which names a column of the tables")
    groups = {name: tuple(rows.statement) for name, rows in table.groupby("class", sort=False)}
    described = statements.description.astype(str).to_dict() | STATEMENTS
    long_names = []
    for name, group in groups.items():
        given = table.long_name[table["class"] == name].dropna() if "long_name" in table else pd.Series(dtype=str)
        single = described[group[0]] if len(group) == 1 else name
        long_names.append(given.iloc[0] if len(given) else single)
    used = {statement for group in groups.values() for statement in group}
    diagnostic = tuple(sorted(used & set(statements.index[statements.diagnostic == 1])))
    return Task(path.stem, tuple(groups), tuple(long_names), tuple(groups.values()), diagnostic)
