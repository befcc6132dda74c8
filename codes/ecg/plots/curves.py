"""ROC, precision-recall and calibration curves: a panel per class, and of many classes a choice of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_curve, roc_curve

from ecg.metrics import CALIBRATION_BINS, ENOUGH, calibration_bins, macro_auc, per_class_auc
from ecg.plots.names import PATTERNS, Line, is_baseline, model_lines, parts_of, short
from ecg.plots.style import COLOURS, legend_below, panel_title, panels, span
from ecg.tasks import Task

Predictions = dict[str, tuple[np.ndarray, np.ndarray]]  # model -> labels (n, n_classes), probability (n, n_classes)
Curve = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]  # (labels (n,), probability (n,)) -> x, y

PANELS = 12  # at most, on one figure
LEAST_IN_BIN = 5  # records, for a point of a calibration curve
FEW = 6  # classes; up to here calibration has a row per network
ROWS = 4  # of them


@dataclass(frozen=True)
class Choice:
    """Which classes are drawn, as columns of the labels, and how a title says so; empty if all are."""

    columns: list[int]
    words: str


def choose_by_auc(predictions: Predictions, *, most: int) -> Choice:
    """Return the classes to draw: all if there are at most `most`, else those with the highest and the lowest AUC.

    The AUC is the mean over the models. Among rare classes it is chance which one is highest, so only those with at
    least five positive records compete, if there are any.
    """
    labels = _largest(predictions)
    total, both = labels.shape[1], _with_both_outcomes(labels)
    if total <= most:
        return Choice(list(range(total)), "")
    if both.sum() <= most:
        return Choice(np.flatnonzero(both).tolist(), f"the {both.sum()} of {total} classes with both outcomes")
    frequent = both & (labels.sum(axis=0) >= ENOUGH)
    condition = f"with at least {ENOUGH} positive records"
    if not frequent.any():
        frequent, condition = both, "with both outcomes"
    auc = np.mean([per_class_auc(y, p) for y, p in predictions.values()], axis=0)
    columns = np.flatnonzero(frequent)
    ranked = columns[np.argsort(-auc[columns], kind="stable")].tolist()
    if len(ranked) <= most:
        return Choice(ranked, f"the {len(ranked)} of {total} classes {condition}, by AUC")
    lowest = most // 2
    highest = most - lowest
    words = f"the {highest} highest and the {lowest} lowest AUCs of {total} classes (of those {condition})"
    return Choice(ranked[:highest] + ranked[-lowest:], words)


def choose_by_frequency(labels: np.ndarray, *, most: int) -> Choice:
    """Return the classes to draw: all if there are at most `most`, else the most frequent, in their order."""
    total = labels.shape[1]
    if total <= most:
        return Choice(list(range(total)), "")
    frequent = np.argsort(-labels.sum(axis=0), kind="stable")[:most]
    return Choice(sorted(frequent.tolist()), f"the {most} most frequent of {total} classes")


def _with_both_outcomes(labels: np.ndarray) -> np.ndarray:
    positive = labels.sum(axis=0)
    return (positive > 0) & (positive < len(labels))


def plot_roc(predictions: Predictions, task: Task) -> Figure:
    """Return the ROC curves of the classes, and the mean over all (sensitivity averaged at equal 1 - specificity)."""
    figure, axes = _plot_curves(predictions, task, _roc, title="ROC curves", x="1 - specificity", y="sensitivity")
    for axis in axes:
        axis.plot((0, 1), (0, 1), color="0.5", linewidth=0.7, linestyle=":")  # chance
    return figure


def plot_precision_recall(predictions: Predictions, task: Task) -> Figure:
    """Return the precision-recall curves of the classes, and the mean over all (precision averaged at equal recall)."""
    title = "Precision-recall curves"
    figure, _ = _plot_curves(predictions, task, _precision_recall, title=title, x="recall", y="precision")
    return figure


def _roc(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    fpr, tpr, _ = roc_curve(y, p)
    return fpr, tpr


def _precision_recall(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    precision, recall, _ = precision_recall_curve(y, p)
    precision, recall = precision[::-1], recall[::-1]  # recall ascends
    # steps, whose area is the average precision; straight lines between the points would promise more
    return np.stack([recall[:-1], recall[1:]], axis=1).ravel(), np.repeat(precision[1:], 2)


def _plot_curves(
    predictions: Predictions, task: Task, curve: Curve, *, title: str, x: str, y: str
) -> tuple[Figure, list[Axes]]:
    """Return the figure and its panels: a class each, the last one the mean over all classes with both outcomes."""
    labels = _largest(predictions)
    choice = choose_by_auc(predictions, most=PANELS - 1)
    words = f"; {choice.words}" if choice.words else ""
    heading = f"{title}, test records (n = {_n_records(predictions)}), first seed of each model{words}"
    figure, axes = _grid(len(choice.columns) + 1, legend=list(predictions), title=heading)
    lines = model_lines(predictions)
    for model, (truth, probability) in predictions.items():
        _draw_model(axes, choice.columns, truth, probability, curve, lines[model], short(model))
    for axis, column in zip(axes, choice.columns, strict=False):
        name, positive = task.classes[column], labels[:, column].sum()
        axis.set_title(panel_title(name, f"({positive:.0f} of {len(labels)})"), fontsize=10)
    axes[-1].set_title(_mean_title(labels), fontsize=10)
    for axis in axes:
        axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    names = [short(name) for name in predictions]
    legend_below(figure, axes[-1], columns=_legend_columns(names, figure.get_size_inches()[0]))
    return figure, axes


def _draw_model(
    axes: list[Axes],
    columns: list[int],
    labels: np.ndarray,
    probability: np.ndarray,
    curve: Curve,
    line: Line,
    name: str,
) -> None:
    """Draw one model's curve of the class columns[i] on axes[i], and the mean over all classes on the last axis."""
    grid, means = np.linspace(0, 1, 201), []
    for column in range(labels.shape[1]):
        if not 0 < labels[:, column].sum() < len(labels):
            continue
        across, up = curve(labels[:, column], probability[:, column])
        means.append(np.interp(grid, across, up))
        if column in columns:
            axis = axes[columns.index(column)]
            axis.plot(across, up, color=line.colour, linestyle=line.pattern, linewidth=line.width)
    if means:
        mean = np.mean(means, axis=0)
        axes[-1].plot(grid, mean, color=line.colour, linestyle=line.pattern, linewidth=line.width, label=name)


def _mean_title(labels: np.ndarray) -> str:
    defined, total = int(_with_both_outcomes(labels).sum()), labels.shape[1]
    return f"mean over {defined} classes" if defined == total else f"mean over {defined} of {total} classes"


def _grid(n: int, *, legend: list[str], title: str) -> tuple[Figure, list[Axes]]:
    """Return a figure with `n` square panels and room for a legend of these models below them."""
    columns = n if n <= 3 else int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    side = 11 / 3 if columns <= 3 else 3.3  # inches
    width = side * columns
    names = [short(name) for name in legend]
    legend_rows = -(-len(names) // _legend_columns(names, width))
    height = rows * (side - 0.016) + 0.3 + 0.2 * legend_rows
    figure, axes = panels(rows, columns, width=width, height=height, title=title)
    for axis in axes.flat[n:]:
        axis.remove()
    return figure, list(axes.flat[:n])


def _legend_columns(names: list[str], width: float) -> int:
    longest = max(map(len, names), default=1)
    return int(np.clip(width // (0.55 + 0.078 * longest), 1, 4))


def plot_calibration(predictions: Predictions, task: Task) -> Figure:
    """Return, per network and class, the share of positive records over the mean probability in ten bins.

    The bins are of equal width; each share has Wilson's interval (1927). Up to six classes there is a row per network
    for all runs of it; with more, a panel per class for the two runs with the highest macro AUC. Of many classes the
    most frequent are drawn: the others fill the lowest bins alone. Baselines are drawn only where there is no network.
    """
    networks = {name: found for name, found in predictions.items() if not is_baseline(name)} or predictions
    if len(task) <= FEW:
        return _calibration_rows(networks, task)
    return _calibration_panels(networks, task)


def _calibration_rows(runs: Predictions, task: Task) -> Figure:
    networks = list(dict.fromkeys(parts_of(name).network for name in runs))
    words = "first seeds"
    if len(networks) > ROWS:
        best = list(dict.fromkeys(parts_of(name).network for name in _best_first(runs)))[:ROWS]
        words = f"first seeds; of {len(networks)} networks the {ROWS} with the highest macro AUC"
        networks = [name for name in networks if name in best]
        runs = {name: found for name, found in runs.items() if parts_of(name).network in best}
    title = _calibration_title(runs, words)
    height = 0.9 + 2.5 * len(networks)
    figure, axes = panels(len(networks), len(task), width=2.6 * len(task), height=height, title=title)
    tasks = list(dict.fromkeys(parts_of(name).task for name in runs))
    for name, (labels, probability) in runs.items():
        parts = parts_of(name)
        row = axes[networks.index(parts.network)]
        kind = 2 * tasks.index(parts.task) + parts.augmented
        line = Line(COLOURS[kind % len(COLOURS)], PATTERNS[kind % len(PATTERNS)], 1.2)
        for column, axis in enumerate(row):
            _draw_calibration(axis, labels[:, column], probability[:, column], line)
        row[0].lines[-1].set_label(short(name))
    labels = _largest(runs)
    for column, axis in enumerate(axes[0]):
        _name_class(axis, task.classes[column], labels[:, column])
    for axis in axes.flat:
        _finish_calibration(axis)
    for axis in axes[:, 0]:
        axis.set_ylabel("share of positives")
        axis.legend(fontsize=7, frameon=False, loc="upper left")
    for axis in axes[-1]:
        axis.set_xlabel("mean probability")
    return figure


def _calibration_panels(networks: Predictions, task: Task) -> Figure:
    best = {name: networks[name] for name in _best_first(networks)[:2]}
    choice = choose_by_frequency(_largest(networks), most=PANELS)
    words = "first seeds of the two models with the highest macro AUC" if len(networks) > 2 else "first seeds"
    title = _calibration_title(networks, f"{words}; {choice.words}" if choice.words else words)
    figure, axes = _grid(len(choice.columns), legend=list(best), title=title)
    lines = [Line(COLOURS[0], "-", 1.2), Line(COLOURS[1], "--", 1.2)]
    for (model, (labels, probability)), line in zip(best.items(), lines, strict=False):
        for axis, column in zip(axes, choice.columns, strict=True):
            _draw_calibration(axis, labels[:, column], probability[:, column], line)
        axes[0].lines[-1].set_label(short(model))
    labels = _largest(networks)
    for axis, column in zip(axes, choice.columns, strict=True):
        _name_class(axis, task.classes[column], labels[:, column])
        _finish_calibration(axis)
        axis.set(xlabel="mean probability", ylabel="share of positives")
    legend_below(figure, axes[0], columns=2)
    return figure


def _best_first(networks: Predictions) -> list[str]:
    return sorted(networks, key=lambda name: macro_auc(*networks[name]), reverse=True)


def _calibration_title(networks: Predictions, words: str) -> str:
    return (
        f"Calibration, test records (n = {_n_records(networks)}), {words}; bins of width {1 / CALIBRATION_BINS:g} with "
        f"at least {LEAST_IN_BIN} records; bars: Wilson's 95\u00a0% interval of the share"
    )


def _draw_calibration(axis: Axes, labels: np.ndarray, probability: np.ndarray, line: Line) -> None:
    inside = calibration_bins(probability) == np.arange(CALIBRATION_BINS)[:, None]
    inside = inside[inside.sum(axis=1) >= LEAST_IN_BIN]  # (bins, n)
    count, positive = inside.sum(axis=1), inside @ labels
    predicted = inside @ probability / count
    share = positive / count
    axis.plot(
        predicted, share, marker="o", markersize=3, color=line.colour, linestyle=line.pattern, linewidth=line.width
    )
    low, high = np.array([_wilson(int(k), int(n)) for k, n in zip(positive, count, strict=True)]).reshape(-1, 2).T
    axis.vlines(predicted, low, high, color=line.colour, alpha=0.35)


def _wilson(positive: int, n: int) -> tuple[float, float]:
    interval = binomtest(positive, n).proportion_ci(method="wilson")
    return interval.low, interval.high


def _name_class(axis: Axes, name: str, labels: np.ndarray) -> None:
    counts = f"{labels.sum():.0f} of {len(labels)} positive"
    axis.set_title(panel_title(f"{name},", counts), fontsize=9)


def _finish_calibration(axis: Axes) -> None:
    axis.plot((0, 1), (0, 1), color="0.5", linewidth=0.7, linestyle=":")
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))


def _largest(predictions: Predictions) -> np.ndarray:
    """Return the labels of the model with the most records, from which titles count."""
    return max((labels for labels, _ in predictions.values()), key=len)


def _n_records(predictions: Predictions) -> str:
    return span([len(labels) for labels, _ in predictions.values()])
