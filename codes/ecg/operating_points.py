"""Thresholds by purpose: what a run's answers are worth at each of them, counted on the validation fold.

`codes/11_plots_and_metrics.py` writes the table of every run into its folder; the test fold has no part in it.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from ecg.artifacts import UserError, read_table, write_csv
from ecg.metrics import choose_thresholds
from ecg.tasks import Task

FILE = "operating_points.csv"
MADE_BY = "codes/11_plots_and_metrics.py"
PERCENT = (50, 60, 70, 75, 80, 85, 90, 95, 97, 99)  # of sensitivity and of specificity
RATES = ("sensitivity", "specificity", "ppv", "npv")
COLUMNS = ("label", "purpose", "threshold", *RATES, "n_positive", "n")
DIGITS = 4  # of the rates; a fold of 10,000 records says no more


def operating_points(labels: np.ndarray, probability: np.ndarray, task: Task) -> pd.DataFrame:
    """Return a row per class and purpose, with COLUMNS; `labels` and `probability` (n, n_classes) of validation.

    At or above `threshold` an answer is positive. The purposes are `f1`, the threshold of `choose_thresholds`;
    `sensitivity=.50` to `.99`, as in PERCENT, the highest threshold that finds at least this share of the positive
    records, and `specificity=.50` to `.99`, the lowest one that leaves at least this share of the others negative.
    `ppv` and `npv` are the shares of right answers among the positive and the negative ones, at this fold's
    prevalence. What the records cannot say is nan: the threshold of a class without positive records, of a specificity
    that none reaches.
    """
    labels, probability = np.asarray(labels) == 1, np.asarray(probability)
    best = choose_thresholds(labels, probability)
    rows = []
    for label, y, p, f1 in zip(task.classes, labels.T, probability.T, best, strict=True):
        rows += [(label, *row) for row in _of_class(y, p, f1)]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.round(dict.fromkeys(RATES, DIGITS))


def _of_class(y: np.ndarray, p: np.ndarray, f1: float) -> list[tuple]:
    order = np.argsort(-p, kind="stable")
    last = np.flatnonzero(np.r_[p[order][1:] != p[order][:-1], True])  # equal probabilities get the same answer
    thresholds, tp = p[order][last], np.cumsum(y[order])[last]
    fp = last + 1 - tp
    positive, negative = int(y.sum()), int((~y).sum())

    def row(purpose: str, at: int | None) -> tuple:
        if at is None:
            return (purpose, *[np.nan] * 5, positive, len(y))
        tn, fn = negative - fp[at], positive - tp[at]
        shares = ((tp[at], positive), (tn, negative), (tp[at], tp[at] + fp[at]), (tn, tn + fn))
        rates = [part / whole if whole else np.nan for part, whole in shares]
        return purpose, thresholds[at], *rates, positive, len(y)

    rows = [row("f1", int(np.flatnonzero(thresholds == f1)[0]) if positive else None)]
    for percent in PERCENT:  # compared as whole numbers, which are exact
        enough = np.flatnonzero(100 * tp >= percent * positive)
        rows.append(row(_purpose("sensitivity", percent), int(enough[0]) if positive else None))
    for percent in PERCENT:
        enough = np.flatnonzero(100 * (negative - fp) >= percent * negative)
        known = positive and negative and len(enough)
        rows.append(row(_purpose("specificity", percent), int(enough[-1]) if known else None))
    return rows


def _purpose(kind: str, percent: int) -> str:
    return f"{kind}=.{percent}"


def named_purpose(purpose: str) -> str:
    """Return how the table spells a purpose: `sensitivity=.90` for `sensitivity=0.9`; `UserError` if it has none."""
    if purpose == "f1":
        return purpose
    match = re.fullmatch(r"(sensitivity|specificity)=0?\.(\d\d?)0*", purpose)
    if match:
        percent = int(match[2].ljust(2, "0"))
        if percent in PERCENT:
            return _purpose(match[1], percent)
    raise UserError(
        f"threshold {purpose!r} is not known: use f1, sensitivity=.9 or specificity=.95; instead of .9 and .95 also "
        f"{', '.join(f'.{percent}' for percent in PERCENT)}"
    )


def threshold_for(table: pd.DataFrame, purpose: str) -> dict[str, dict[str, float]]:
    """Return {class: its row of the table, {column: number}} for a purpose such as `f1`, `sensitivity=.9`.

    The threshold is nan where the validation fold has none for it; nothing is at or above nan, so no answer is
    positive then. Raises a `UserError` for a purpose that the table does not have.
    """
    rows = table[table.purpose == named_purpose(purpose)]
    without = [label for label in table.label.unique() if label not in set(rows.label)]
    if without or rows.empty:
        raise UserError(f"{FILE} has no threshold of {purpose!r} for {', '.join(without)}: run {MADE_BY} again")
    return rows.set_index("label").drop(columns="purpose").to_dict(orient="index")


def write_operating_points(folder: Path, labels: pd.DataFrame, probability: pd.DataFrame, task: Task) -> None:
    """Write the table of a run into its folder; both arguments of the validation fold, (n, n_classes)."""
    write_csv(operating_points(labels.to_numpy(), probability.to_numpy(), task), folder / FILE)


def read_operating_points(folder: Path, task: Task) -> pd.DataFrame:
    """Return the table of the run in a folder; raise a `UserError` if it is missing or of other classes."""
    table = read_table(folder / FILE, made_by=MADE_BY, columns=COLUMNS, dtype={"label": str, "purpose": str})
    if tuple(table.label.unique()) != task.classes:
        raise UserError(f"{folder / FILE} is of other classes than the run: run {MADE_BY} again")
    return table
