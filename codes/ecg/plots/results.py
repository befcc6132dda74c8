"""Figures of the tables of results: macro averages, AUC per class, confusion matrices, pairs of models."""

import textwrap
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ecg.metrics import ENOUGH
from ecg.plots.names import short
from ecg.plots.style import COLOURS, heat_map, note, panels, span, write_in_cell
from ecg.tasks import Task

MEASURES = (("multilabel", "auc"), ("multiclass", "accuracy"))  # (view, metric) of the forest's panels
VIEWS = ("multilabel", "multiclass")
FAR = 0.3  # below the best: no longer drawn to scale
SEVERAL = 12  # classes; with more, the map of AUCs has a row per class instead of a column
LABEL_CHARACTERS = 14  # in a line beside a matrix
COLUMN_CHARACTERS = 12  # in a line below a column of the map of AUCs
SIDE_BY_SIDE = 12  # models; with more, the matrices of pairs stand one below the other


@dataclass(frozen=True)
class MatrixSize:
    """How confusion matrices of a number of classes are drawn: how many, inches per cell, what a cell says."""

    most: int
    cell: float
    percent: bool = False
    counts: bool = False
    zeros: bool = False


def matrix_size(n_classes: int) -> MatrixSize:
    if n_classes <= 5:
        return MatrixSize(most=12, cell=2.5 / n_classes, percent=True, counts=True, zeros=True)
    if n_classes <= 8:
        return MatrixSize(most=6, cell=0.5, percent=True, counts=True)
    if n_classes <= SEVERAL:
        return MatrixSize(most=2, cell=0.44, percent=True, counts=True)
    if n_classes <= 24:
        return MatrixSize(most=1, cell=0.36, percent=True)
    return MatrixSize(most=1, cell=0.18)


# --- macro averages -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A macro average, and its interval with the value that the interval is of: `macro5` may be over fewer classes."""

    value: float
    centre: float
    low: float
    high: float

    @property
    def has_interval(self) -> bool:
        return bool(np.isfinite(self.low))

    @property
    def text(self) -> str:
        if not self.has_interval:
            return f"{self.value:.3f}"
        interval = f"[{self.low:.3f}, {self.high:.3f}]"
        if self.centre == self.value:
            return f"{self.value:.3f} {interval}"
        return f"{self.value:.3f};  {self.centre:.3f} {interval}"


def plot_forest(metrics: pd.DataFrame, task: Task) -> Figure:
    """Return macro AUC and, if there is that view, multiclass accuracy of all models with intervals, best first.

    `metrics` are the rows of metrics.csv of one task. Small rings are the single seeds. What lies far below the best
    (the naive floor) is named at the left edge, so that the others can be told apart.
    """
    test = metrics[(metrics.split == "test") & metrics.label.isin(("macro", "macro5"))]
    tables = {}
    for view, metric in MEASURES:
        table = test[(test["view"] == view) & (test.metric == metric)]
        if len(table):
            tables[view, metric] = table
    estimates = {key: _estimates(table) for key, table in tables.items()}
    auc = estimates[MEASURES[0]]
    models = sorted({name.rsplit("/seed", 1)[0] for name in auc}, key=lambda model: auc[model].value)
    width = 11.0 if len(tables) > 1 else 7.0
    figure, axes = panels(1, len(tables), width=width, height=1.4 + 0.36 * len(models))
    for axis, (key, table) in zip(axes[0], tables.items(), strict=True):
        _draw_forest(axis, estimates[key], models)
        axis.set_title(_forest_title(*key, table, task), fontsize=9)
        axis.set_yticks(range(len(models)), [short(model) for model in models] if axis is axes[0, 0] else [])
    return figure


def _estimates(table: pd.DataFrame) -> dict[str, Estimate]:
    """Return {run: its macro average}; `table` has the rows `macro` and `macro5` of one view and metric."""
    macro = table[table.label == "macro"].set_index("run")
    frequent = table[table.label == "macro5"].set_index("run")
    estimates = {}
    for run, row in macro.iterrows():
        source = frequent.loc[run] if run in frequent.index else row
        estimates[run] = Estimate(row.value, source.value, source.ci_low, source.ci_high)
    return estimates


def _draw_forest(axis: Axes, estimates: dict[str, Estimate], models: list[str]) -> None:
    best = max(estimate.value for estimate in estimates.values())
    near = [e for e in estimates.values() if e.value > best - FAR]
    low = min(np.nanmin([e.value, e.low]) for e in near)
    high = max(np.nanmax([e.value, e.high]) for e in near)
    margin = max(0.04 * (high - low), 0.002)
    for y, model in enumerate(models):
        if model not in estimates:
            continue
        found = estimates[model]
        axis.text(1.02, y, found.text, transform=axis.get_yaxis_transform(), fontsize=8, va="center")
        if np.nanmax([found.value, found.high]) < low - margin:
            axis.text(low - margin, y, " ◂ below this axis", fontsize=8, va="center", color="0.45")
            continue
        if found.has_interval:
            axis.plot([found.low, found.high], [y, y], color=COLOURS[0], linewidth=1.6, solid_capstyle="butt")
        if found.has_interval and found.centre != found.value:
            axis.plot(found.centre, y, "|", color=COLOURS[0], markersize=9, markeredgewidth=1.6)
        axis.plot(found.value, y, "o", color=COLOURS[0], markersize=5)
        seeds = [e.value for name, e in estimates.items() if name.startswith(f"{model}/seed")]
        axis.plot(seeds, np.full(len(seeds), y + 0.25), "o", markersize=3.5, color=COLOURS[1], fillstyle="none")
    axis.set(xlim=(low - margin, high + margin), ylim=(-0.6, len(models) - 0.3))


def _forest_title(view: str, metric: str, table: pd.DataFrame, task: Task) -> str:
    rings = "; rings: seeds" if table.run.str.contains("/seed").any() else ""
    n = span(table.n.tolist())
    if metric != "auc":
        return f"{view}: {metric}, test (n = {n})\n95 % interval{rings}"
    frequent = table[table.label == "macro5"]
    interval = "95 % interval"
    if len(frequent):
        interval = f"tick and 95 % interval: the {_n_classes(frequent)} with at least {ENOUGH} positives"
    return f"{view}: macro AUC over {_of_all(table, task)}, test (n = {n})\n{interval}{rings}"


def _n_classes(rows: pd.DataFrame) -> str:
    return span(rows.classes.astype(int).tolist())


def _of_all(table: pd.DataFrame, task: Task) -> str:
    """Return over how many classes the rows `macro` are: `5 classes`, or `64 of 71 classes`."""
    counted = _n_classes(table[table.label == "macro"])
    return f"{counted} classes" if counted == str(len(task)) else f"{counted} of {len(task)} classes"


# --- AUC per class --------------------------------------------------------------------------------------------------


def plot_class_auc(metrics: pd.DataFrame, positive: dict[str, int], task: Task) -> Figure:
    """Return the test AUC of every model and class as a heat map, best macro AUC first.

    `metrics` are the rows of metrics.csv of one task; `positive` says how many of the test records have a class. With
    more than twelve classes, or long names, classes are the rows, the highest mean AUC first.
    """
    chosen = (metrics.split == "test") & (metrics["view"] == "multilabel") & (metrics.metric == "auc")
    chosen &= ~metrics.run.str.contains("/seed")
    rows = metrics[chosen]
    table = rows.pivot(index="run", columns="label", values="value").reindex(columns=[*task.classes, "macro"])
    table = table.sort_values("macro", ascending=False)
    title = f"ROC AUC per class, test records (n = {span(rows.n.tolist())})"
    macro = "macro" if _of_all(rows, task) == f"{len(task)} classes" else f"macro over\n{_of_all(rows, task)}"
    models = [short(run) for run in table.index]
    if len(task) > SEVERAL or max(len(word) for name in task.classes for word in name.split()) > COLUMN_CHARACTERS:
        return _class_rows(table, positive, models, title, macro.replace("\n", " "))
    figure, axes = panels(1, 1, width=3.0 + 0.72 * len(task), height=1.3 + 0.34 * len(table))
    axis = axes[0, 0]
    _draw_aucs(figure, axis, table.to_numpy(), shrink=0.8)
    names = [f"{textwrap.fill(label, COLUMN_CHARACTERS)}\n{positive[label]} positive" for label in task.classes]
    axis.set_xticks(range(len(names) + 1), [*names, macro])
    axis.set_yticks(range(len(models)), models)
    axis.set_title(title, fontsize=10)
    axis.axvline(len(task) - 0.5, color="white", linewidth=3)
    return figure


def _class_rows(table: pd.DataFrame, positive: dict[str, int], models: list[str], title: str, macro: str) -> Figure:
    """Draw the map with a row per class, the macro average first; `table` has a row per model, best first."""
    classes = table.columns[:-1]
    mean = table[classes].mean().to_numpy()
    ranked = classes[np.argsort(-np.nan_to_num(mean, nan=-1), kind="stable")]
    values = table[["macro", *ranked]].to_numpy().T
    figure, axes = panels(1, 1, width=3.6 + 0.5 * len(models), height=1.9 + 0.19 * len(values))
    axis = axes[0, 0]
    _draw_aucs(figure, axis, values, shrink=0.4)
    axis.set_xticks(range(len(models)), models, rotation=90)
    axis.set_yticks(range(len(values)), [macro, *(f"{label} ({positive[label]} positive)" for label in ranked)])
    axis.set_title(title, fontsize=10)
    axis.axhline(0.5, color="white", linewidth=3)
    return figure


def _draw_aucs(figure: Figure, axis: Axes, values: np.ndarray, *, shrink: float) -> None:
    above_naive = values[values > 0.55]  # the naive floor spends no colour
    low = max(0.5, above_naive.min(initial=1) - 0.02)
    image = heat_map(axis, values, cmap="viridis", limits=(low, 1))
    for (i, j), value in np.ndenumerate(values):
        write_in_cell(axis, image, i, j, f"{value:.3f}" if np.isfinite(value) else "–", size=8)
    figure.colorbar(image, ax=axis, shrink=shrink)


# --- confusion matrices ---------------------------------------------------------------------------------------------


def plot_confusion(matrices: dict[str, pd.DataFrame], task: Task) -> Figure:
    """Return confusion matrices {model: counts} side by side: colour and percent of the true class, counts below.

    Of many models those with the highest accuracy are drawn; the more classes, the fewer.
    """
    if not matrices:
        return note("no model has a confusion matrix")
    size = matrix_size(len(task))
    classes = list(task.classes)
    counts = {model: matrix.loc[classes, classes].to_numpy() for model, matrix in matrices.items()}
    best = sorted(counts, key=lambda model: -_accuracy(counts[model]))[: size.most]
    drawn = [model for model in counts if model in best]
    columns = min(4 if len(task) <= 5 else 3, len(drawn))
    rows = -(-len(drawn) // columns)
    names = [textwrap.fill(name, LABEL_CHARACTERS) for name in classes]
    longest = max(len(line) for name in names for line in name.split("\n"))
    side = 0.6 + 0.06 * max(0, longest - 5) + size.cell * len(task)
    title = _confusion_title(counts, len(drawn), size)
    figure, axes = panels(rows, columns, width=max(side * columns, 6.2), height=0.5 + side * rows, title=title)
    for axis, model in zip(axes.flat, drawn, strict=False):
        _draw_matrix(axis, counts[model], names, size)
        axis.set_title(f"{short(model)} · accuracy {_accuracy(counts[model]):.3f}", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("true", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("predicted", fontsize=8)
    for axis in axes.flat[len(drawn) :]:
        axis.remove()
    return figure


def _confusion_title(counts: dict[str, np.ndarray], n_drawn: int, size: MatrixSize) -> str:
    n = span([int(matrix.sum()) for matrix in counts.values()])
    if size.counts:
        shown = "percent of the true class, (records)"
    elif size.percent:
        shown = "percent of the true class"
    else:
        shown = "the darker, the larger the share of the true class"
    few = f"; of {len(counts)} models the {n_drawn} with the highest accuracy" if n_drawn < len(counts) else ""
    return f"Test records with exactly one class (n = {n}): {shown}; first seeds{few}"


def _draw_matrix(axis: Axes, counts: np.ndarray, names: list[str], size: MatrixSize) -> None:
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    image = heat_map(axis, share, cmap="Blues", limits=(0, 1))
    for (i, j), value in np.ndenumerate(share):
        if not counts[i, j] and not size.zeros:
            continue
        if size.counts:
            write_in_cell(axis, image, i, j, f"{100 * value:.0f}\n({counts[i, j]})", size=7)
        elif size.percent:
            write_in_cell(axis, image, i, j, f"{100 * value:.0f}", size=7)
    upright = len(names) <= 8 and max(map(len, names)) <= 5
    axis.set_xticks(range(len(names)), names, fontsize=7, rotation=0 if upright else 90)
    axis.set_yticks(range(len(names)), names, fontsize=7)


def _accuracy(counts: np.ndarray) -> float:
    return np.trace(counts) / max(counts.sum(), 1)


# --- pairs of models ------------------------------------------------------------------------------------------------


def plot_pairwise(pairs: pd.DataFrame, task: Task) -> Figure:
    """Return, for each view, the difference in macro AUC of all pairs of models as a matrix.

    `pairs` are the rows of pairwise.csv of one task. A cell says how much higher the macro AUC of its row is than that
    of its column; `*` where DeLong's test of that difference has p < 0.05 after Holm's correction. Where the macro
    average has no interval, because some classes are too rare, the difference is that of `macro5`.
    """
    tables = {view: with_interval(pairs[pairs["view"] == view]) for view in VIEWS}
    tables = {view: table for view, table in tables.items() if len(table)}
    if not tables:
        return note("one model only: nothing to compare")
    names = list(dict.fromkeys([*pairs.run_a, *pairs.run_b]))
    size = 2.2 + 0.47 * len(names)
    beside = len(names) <= SIDE_BY_SIDE
    rows, columns = (1, len(tables)) if beside else (len(tables), 1)
    title = "Macro AUC of row minus column, test;  *: p < .05, DeLong after Holm's correction"
    figure, axes = panels(rows, columns, width=max(columns * size, 8), height=rows * size + 0.5, title=title)
    differences = pd.concat([table["diff"] for table in tables.values()])
    limit = max(differences.abs().clip(upper=0.1).max(), 0.01)  # the naive floor spends no colour
    for axis, (view, table) in zip(axes.flat, tables.items(), strict=True):
        _draw_pairs(axis, table, names, limit)
        axis.set_title(_pairs_title(view, table, task), fontsize=9)
    return figure


def with_interval(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return, of the macro averages of one view and task, the one that has an interval: `macro5`, or else `macro`."""
    label = "macro5" if (pairs.label == "macro5").any() else "macro"
    return pairs[pairs.label == label]


def _draw_pairs(axis: Axes, table: pd.DataFrame, names: list[str], limit: float) -> None:
    matrix = np.full((len(names), len(names)), np.nan)
    marks = {}
    for row in table.itertuples():
        i, j = names.index(row.run_a), names.index(row.run_b)
        matrix[i, j], matrix[j, i] = row.diff, -row.diff
        marks[i, j] = marks[j, i] = "*" if row.p_delong_holm < 0.05 else ""
    image = heat_map(axis, matrix, cmap="PuOr", limits=(-limit, limit))
    for (i, j), mark in marks.items():
        text = f"{round(1000 * matrix[i, j]):+d}\n{mark}" if np.isfinite(matrix[i, j]) else "–"
        write_in_cell(axis, image, i, j, text, size=7)
    shown = [short(name) for name in names]
    axis.set_xticks(range(len(names)), shown, rotation=90, fontsize=7)
    axis.set_yticks(range(len(names)), shown, fontsize=7)


def _pairs_title(view: str, table: pd.DataFrame, task: Task) -> str:
    n = span(table.n.tolist())
    if table.label.iloc[0] == "macro":
        return f"{view} (n = {n}, {_of_all(table, task)}), in thousandths"
    classes = f"the {_n_classes(table)} of {len(task)} classes with at least {ENOUGH} positives"
    return f"{view} (n = {n}), in thousandths\n{classes}"
