"""Figures. Every function returns a `Figure` or writes one file; none touches the global state of pyplot."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_curve, roc_curve

from ecg.artifacts import atomic
from ecg.labels import CLASSES, LEADS
from ecg.metrics import CALIBRATION_BINS, calibration_bins

# Okabe & Ito (2008): colours that colour-blind readers can tell apart; their yellow is too faint for lines
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DPI = 120
LEGEND_BELOW = {"loc": "outside lower center", "ncols": 4, "fontsize": 9, "frameon": False}
LEAST_IN_BIN = 5  # records, for a point of a calibration curve
LEAST_MM = 150  # width of ECG paper, so that a title has room above a short recording
MM_PER_SECOND, MM_PER_MV = 25.0, 10.0  # the usual speed and gain of ECG paper
ROW_MM = {"12x1": 18.0, "3x4": 26.0}  # between the base lines of two rows
HEAT = LinearSegmentedColormap.from_list("heat", ["#0072B200", "#0072B255", "#0072B2ff"])  # blue on pink paper
GRID_LEADS = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))


def save_figure(figure: Figure, path: Path, *, dpi: int = DPI) -> None:
    """Write `figure` to the PNG `path`, whole or not at all, the same bytes for the same figure."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    picture = Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE)  # a third of the size
    with atomic(path) as temporary:
        picture.save(temporary, optimize=True)


def panels(rows: int, columns: int, *, width: float, height: float, title: str = "") -> tuple[Figure, np.ndarray]:
    """Return a figure of `width` x `height` inches and its axes (rows, columns) in the common style."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8)
        axis.xaxis.label.set_size(9)
        axis.yaxis.label.set_size(9)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, axes


def plot_history(history: pd.DataFrame, path: Path, *, title: str = "") -> None:
    """Write loss, accuracy, macro AUC and learning rate over the epochs of `history.csv`; `title` names the run."""
    figure, axes = panels(2, 2, width=9, height=6, title=f"Training history{title and f': {title}'}")
    draw_history(axes.ravel(), history, best=True)
    save_figure(figure, path)


def draw_history(axes: np.ndarray, history: pd.DataFrame, *, best: bool = False) -> None:
    """Draw `history` (epoch, lr, train_loss, val_loss, val_accuracy, val_macro_auc) on four axes."""
    marker = "." if len(history) < 60 else ""
    style = {"marker": marker, "linewidth": 1.4}
    axes[0].plot(history.epoch, history.train_loss, color=COLOURS[0], label="train", **style)
    axes[0].plot(history.epoch, history.val_loss, color=COLOURS[1], linestyle="--", label="validation", **style)
    axes[0].legend(fontsize=8, frameon=False)
    axes[1].plot(history.epoch, history.val_accuracy, color=COLOURS[1], **style)
    axes[2].plot(history.epoch, history.val_macro_auc, color=COLOURS[1], **style)
    axes[3].plot(history.epoch, history.lr, color=COLOURS[2], **style)
    names = ("loss", "validation accuracy", "validation macro AUC", "learning rate")
    for axis, name in zip(axes, names, strict=True):
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("epoch", fontsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)
    if best and history.val_macro_auc.notna().any():
        row = history.loc[history.val_macro_auc.idxmax()]
        axes[2].axvline(row.epoch, color="0.6", linewidth=0.8)
        axes[2].set_title(f"{names[2]} (best {row.val_macro_auc:.3f}, epoch {row.epoch:.0f})", fontsize=9)


def plot_lr_finder(table: pd.DataFrame, suggestion: float, path: Path) -> None:
    """Write the learning-rate finder's curve: `table` has columns lr and loss (smoothed)."""
    figure, axes = panels(1, 1, width=6, height=3.6)
    axis = axes[0, 0]
    axis.plot(table.lr, table.loss, color=COLOURS[0])
    axis.axvline(suggestion, color=COLOURS[1], linestyle="--", label=f"suggestion {suggestion:.2g}")
    axis.set(xscale="log", xlabel="learning rate", ylabel="smoothed training loss")
    finite = table.loss[np.isfinite(table.loss)]
    if len(finite):  # the last points diverge by design and would flatten everything else
        low, start = finite.min(), finite.iloc[0]
        span = max(start - low, 1e-6)
        axis.set_ylim(low - 0.15 * span, max(start, low) + 0.6 * span)
    axis.legend(fontsize=9, frameon=False)
    save_figure(figure, path)


def ecg_paper(
    signal_mv: np.ndarray,
    fs: float,
    *,
    layout: Literal["12x1", "3x4"] = "12x1",
    heat: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Return a 12-lead ECG on paper of 25 mm/s and 10 mm/mV; at its own size 1 mm is 1 mm.

    `signal_mv` (12, n) in millivolts, leads in the order of LEADS, sampled at `fs` Hz. `12x1` shows every
    lead in full, one below the other; `3x4` a quarter of the time per lead, and lead II in full below.
    `heat` (12, n), not negative, is drawn behind the trace: nothing for 0, dark blue for its largest value.
    A `title` that is too long for the page loses a part of its middle. Raises ValueError on another shape or layout.
    """
    signal_mv = np.asarray(signal_mv, dtype=float)
    if signal_mv.ndim != 2 or len(signal_mv) != len(LEADS):
        raise ValueError(f"signal of shape {signal_mv.shape}: expected ({len(LEADS)}, n_samples)")
    if heat is not None and np.shape(heat) != signal_mv.shape:
        raise ValueError(f"heat of shape {np.shape(heat)} for a signal of shape {signal_mv.shape}")
    n = signal_mv.shape[1]
    # (row on the paper, lead, first sample, end)
    if layout == "12x1":
        strips = [(row, lead, 0, n) for row, lead in enumerate(LEADS)]
    elif layout == "3x4":
        cuts = np.linspace(0, n, 5).astype(int)
        cells = [(row, column) for row in range(3) for column in range(4)]
        strips = [(row, GRID_LEADS[row][column], cuts[column], cuts[column + 1]) for row, column in cells]
        strips.append((3, "II", 0, n))
    else:
        raise ValueError(f"layout {layout!r} is not known: use 12x1 or 3x4")

    # every row gets the height its traces need, so that tall ones neither overlap nor leave the paper
    rows = 1 + max(strip[0] for strip in strips)
    up, down = np.full(rows, 11.0), np.full(rows, 4.0)  # mm; the calibration pulse is 10 mm high
    names = []  # of the leads, in mm above the base line: higher than the trace below them
    for row, lead, start, end in strips:
        trace = np.nan_to_num(signal_mv[LEADS.index(lead), start:end]) * MM_PER_MV
        below = trace[: round(10 / MM_PER_SECOND * fs)]  # what the name may stand over
        names.append(np.clip(below.max(initial=0) + 2, 7, 36))
        up[row] = np.clip(max(trace.max(initial=0) + 1, names[-1] + 4), up[row], 40)  # artefacts may leave their row
        down[row] = np.clip(-trace.min(initial=0) + 1, down[row], 40)
    height = 5 * np.ceil((up.sum() + down.sum() + 4) / 5)
    base = height - 2 - np.cumsum(up) - np.concatenate([[0], np.cumsum(down)[:-1]])
    width = 5 * np.ceil(n / fs * MM_PER_SECOND / 5) + 15  # 12.5 mm on the left for the calibration pulse
    width = max(width, LEAST_MM)
    top = 8  # mm above the paper, for the title
    figure = Figure(figsize=(width / 25.4, (height + top) / 25.4))
    axis = figure.add_axes((0, 0, 1, height / (height + top)))
    axis.set(xlim=(-12.5, width - 12.5), ylim=(0, height), xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    _draw_grid(axis, width, height)

    strongest = np.nanmax(heat) if heat is not None else 0.0
    for (row, lead, start, end), name in zip(strips, names, strict=True):
        i = LEADS.index(lead)
        x = np.arange(start, end) / fs * MM_PER_SECOND
        y = base[row] + signal_mv[i, start:end] * MM_PER_MV
        if strongest > 0:
            _draw_heat(axis, x, y, heat[i, start:end] / strongest)
        axis.plot(x, y, color="black", linewidth=0.8, zorder=3)
        axis.text(
            *(x[0] + 1.5, base[row] + name, lead),
            **{"fontsize": 9, "fontweight": "bold", "zorder": 1},  # behind heat and trace
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.8},
        )
        if start == 0:  # 1 mV for 0.2 s
            pulse = base[row] + np.array([0, 0, 1, 1, 0, 0]) * MM_PER_MV
            axis.plot([-9, -7.5, -7.5, -2.5, -2.5, -1], pulse, color="black", linewidth=0.8)
        else:
            axis.vlines(x[0], base[row] - 3, base[row] + 3, color="black", linewidth=0.8)
    middle = 1 - top / 2 / (height + top)
    words = figure.text(0.01, middle, title, fontsize=10, va="center", parse_math=False)
    scale = f"{MM_PER_SECOND:.0f} mm/s   {MM_PER_MV:.0f} mm/mV   {fs:g} Hz"
    scale = figure.text(0.99, middle, scale, fontsize=8, va="center", ha="right", color="0.35")
    _shorten(words, 0.98 * figure.bbox.width - scale.get_window_extent().width - 10)
    return figure


def _shorten(text: Text, room: float) -> None:
    """Replace what is behind the first third of `text` until it is no wider than `room` pixels.

    So the beginning of a file's name stays and, behind its end, what the title says besides.
    """
    whole = text.get_text()
    kept = len(whole)
    while text.get_window_extent().width > room and kept:
        kept -= 1
        text.set_text(f"{whole[: kept // 3]}…{whole[len(whole) - (kept - kept // 3) :]}")


def _draw_heat(axis: Axes, x: np.ndarray, y: np.ndarray, heat: np.ndarray) -> None:
    points = np.stack([x, y], axis=1)
    pieces = np.stack([points[:-1], points[1:]], axis=1)
    heat = np.maximum(heat[:-1], heat[1:])
    order = np.argsort(heat)  # the strongest is drawn last and stays visible
    order = order[heat[order] > 0.05]
    lines = LineCollection(pieces[order], colors=HEAT(heat[order]), linewidths=6, capstyle="round", zorder=2)
    axis.add_collection(lines)


def _draw_grid(axis: Axes, width: float, height: float) -> None:
    for step, colour, line in ((1, "#fbe3e0", 0.4), (5, "#f2b8b0", 0.7)):
        x, y = np.arange(-15, width, step), np.arange(0, height + 1, step)
        axis.vlines(x, 0, height, colors=colour, linewidth=line, zorder=0)
        axis.hlines(y, -15, width, colors=colour, linewidth=line, zorder=0)


# --- figures of the final results ---------------------------------------------------------------------------------

Predictions = dict[str, tuple[np.ndarray, np.ndarray]]  # model -> labels (n, 5), probability (n, 5)


def model_style(models: list[str]) -> dict[str, dict[str, object]]:
    """Return the line of each model: a standard and its augmented variant share a colour, the latter is dashed."""
    families = list(dict.fromkeys(_family(name) for name in models if _family(name) != "naive"))
    styles = {}
    for name in models:
        if _family(name) == "naive":  # the floor stays in the background
            styles[name] = {"color": "0.65", "linestyle": "-", "linewidth": 1.0}
            continue
        i = families.index(_family(name))
        line = "--" if name.endswith("_augmented") else ("-", ":", "-.")[i // len(COLOURS) % 3]
        styles[name] = {"color": COLOURS[i % len(COLOURS)], "linestyle": line, "linewidth": 1.3}
    return styles


def _family(name: str) -> str:
    return short(name).removesuffix("_standard").removesuffix("_augmented")


def short(name: str) -> str:
    """Return a run's name without the folder that all baselines share."""
    return name.removeprefix("baseline/")


def plot_roc(predictions: Predictions, path: Path) -> None:
    """Write the ROC curves of every class, and their mean (sensitivity averaged at equal 1 - specificity)."""
    _plot_curves(predictions, path, _roc, title="ROC curves", x="1 - specificity", y="sensitivity", level=(0, 1))


def plot_precision_recall(predictions: Predictions, path: Path) -> None:
    """Write the precision-recall curves of every class, and their mean (precision averaged at equal recall)."""
    _plot_curves(predictions, path, _precision_recall, title="Precision-recall curves", x="recall", y="precision")


def _roc(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    fpr, tpr, _ = roc_curve(y, p)
    return fpr, tpr


def _precision_recall(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    precision, recall, _ = precision_recall_curve(y, p)
    precision, recall = precision[::-1], recall[::-1]  # recall ascends
    # steps, whose area is the average precision; straight lines between the points would promise more
    return np.stack([recall[:-1], recall[1:]], axis=1).ravel(), np.repeat(precision[1:], 2)


def _plot_curves(
    predictions: Predictions,
    path: Path,
    curve: Callable,
    *,
    title: str,
    x: str,
    y: str,
    level: tuple | None = None,
) -> None:
    n = len(next(iter(predictions.values()))[0])
    figure, axes = panels(
        2, 3, width=11, height=8.2, title=f"{title}, test records (n = {n}), first seed of each model"
    )
    grid, styles = np.linspace(0, 1, 201), model_style(list(predictions))
    for model, (labels, probability) in predictions.items():
        means = []
        for i, axis in enumerate(axes.flat[:-1]):
            if 0 < labels[:, i].sum() < len(labels):
                across, up = curve(labels[:, i], probability[:, i])
                axis.plot(across, up, **styles[model])
                means.append(np.interp(grid, across, up))
        if means:
            axes[1, 2].plot(grid, np.mean(means, axis=0), **styles[model], label=short(model))
    labels = next(iter(predictions.values()))[0]
    for i, axis in enumerate(axes.flat):
        if level:
            axis.plot((0, 1), level, color="0.5", linewidth=0.7, linestyle=":")
        named = f"{CLASSES[i]} ({labels[:, i].sum():.0f} of {n})" if i < len(CLASSES) else "mean over the classes"
        axis.set_title(named, fontsize=10)
        axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    figure.legend(*axes[1, 2].get_legend_handles_labels(), **LEGEND_BELOW)
    save_figure(figure, path)


def plot_calibration(predictions: Predictions, path: Path) -> None:
    """Write, per network and class, the share of positive records over the mean probability in ten bins.

    The bins are of equal width; each share has Wilson's interval (1927). A standard network and its augmented variant
    share a row. Baselines are drawn only where there is no network.
    """
    networks = {m: found for m, found in predictions.items() if not m.startswith("baseline/")} or predictions
    families = list(dict.fromkeys(map(_family, networks)))
    n = len(next(iter(networks.values()))[0])
    title = (
        f"Calibration, test records (n = {n}), first seeds; bins of width {1 / CALIBRATION_BINS:g} with at least "
        f"{LEAST_IN_BIN} records; bars: Wilson's 95 % interval of the share"
    )
    size = {"width": 13, "height": 0.9 + 2.5 * len(families)}
    figure, axes = panels(len(families), len(CLASSES), **size, title=title)
    for model, (labels, probability) in networks.items():
        row, bins = axes[families.index(_family(model))], calibration_bins(probability)
        augmented = model.endswith("_augmented")
        style = {"color": COLOURS[augmented], "linestyle": ("-", "--")[augmented], "linewidth": 1.2}
        for i, axis in enumerate(row):
            inside = bins[:, i] == np.arange(CALIBRATION_BINS)[:, None]
            inside = inside[inside.sum(axis=1) >= LEAST_IN_BIN]  # (bins, n)
            count, positive = inside.sum(axis=1), inside @ labels[:, i]
            predicted = inside @ probability[:, i] / count
            axis.plot(predicted, positive / count, marker="o", markersize=3, **style)
            bounds = [_wilson(int(k), int(m)) for k, m in zip(positive, count, strict=True)]
            axis.vlines(predicted, *np.reshape(bounds, (-1, 2)).T, color=style["color"], alpha=0.35)
        row[0].lines[-1].set_label(short(model))
    for i, name in enumerate(CLASSES):
        axes[0, i].set_title(f"{name}, {next(iter(networks.values()))[0][:, i].sum():.0f} of {n} positive", fontsize=9)
    for axis in axes.flat:
        axis.plot((0, 1), (0, 1), color="0.5", linewidth=0.7, linestyle=":")
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    for axis in axes[:, 0]:
        axis.set_ylabel("share of positives")
        axis.legend(fontsize=7, frameon=False, loc="upper left")
    for axis in axes[-1]:
        axis.set_xlabel("mean probability")
    save_figure(figure, path)


def _wilson(positive: int, n: int) -> tuple[float, float]:
    interval = binomtest(positive, n).proportion_ci(method="wilson")
    return interval.low, interval.high


def plot_histories(histories: dict[str, list[pd.DataFrame]], path: Path) -> None:
    """Write the training histories, a row per network; the first seed in full, the others pale."""
    if not histories:
        return _write_note("no network was trained", path)
    figure, axes = panels(len(histories), 4, width=12, height=0.4 + 2 * len(histories))
    for row, (model, tables) in zip(axes, histories.items(), strict=True):
        for table in tables[1:]:
            for axis, column in zip(row, ("val_loss", "val_accuracy", "val_macro_auc", "lr"), strict=True):
                axis.plot(table.epoch, table[column], color="0.75", linewidth=0.8)
            row[0].plot(table.epoch, table.train_loss, color="0.75", linewidth=0.8)
        draw_history(row, tables[0])
        row[0].set_ylabel(f"{model}\n({len(tables)} seed{'s' * (len(tables) > 1)})", fontsize=9)
    for axis in axes[1:].flat:
        axis.set_title("")
    for axis in axes[:-1].flat:
        axis.set_xlabel("")
    for column in (1, 2):
        for axis in axes[1:, column]:
            axis.sharey(axes[0, column])
    save_figure(figure, path)


def plot_forest(metrics: pd.DataFrame, path: Path) -> None:
    """Write macro AUC and multiclass accuracy of all models with their intervals, best first.

    `metrics` is the tidy table. Small rings are the single seeds. What lies far below the best (the naive floor)
    stands as a number at the left edge, so that the others can be told apart.
    """
    test = metrics[(metrics.split == "test") & (metrics.label == "macro")]
    measures = [
        ("multilabel", "auc", "multilabel: macro AUC"),
        ("multiclass", "accuracy", "multiclass: accuracy"),
    ]
    rows = {key[:2]: test[(test["view"] == key[0]) & (test.metric == key[1])].set_index("run") for key in measures}
    auc = rows["multilabel", "auc"].value
    models = sorted({name.rsplit("/seed", 1)[0] for name in auc.index}, key=lambda model: auc[model])
    figure, axes = panels(1, 2, width=11, height=1.4 + 0.36 * len(models))
    for axis, (view, metric, title) in zip(axes[0], measures, strict=True):
        table = rows[view, metric]
        if table.empty:
            axis.set_axis_off()
            continue
        near = table.value > table.value.max() - 0.3
        low, high = table.ci_low[near].min(), table.ci_high.max()
        margin = max(0.04 * (high - low), 0.002)
        for y, model in enumerate(models):
            value = table.loc[model]
            text = f"{value.value:.3f} [{value.ci_low:.3f}, {value.ci_high:.3f}]"
            axis.text(1.02, y, text, transform=axis.get_yaxis_transform(), fontsize=8, va="center")
            if value.ci_high < low - margin:
                axis.text(low - margin, y, " ◂ below this axis", fontsize=8, va="center", color="0.45")
                continue
            axis.plot([value.ci_low, value.ci_high], [y, y], color=COLOURS[0], linewidth=1.6, solid_capstyle="butt")
            axis.plot(value.value, y, "o", color=COLOURS[0], markersize=5)
            seeds = table.value[[n for n in table.index if n.startswith(f"{model}/seed")]]
            axis.plot(seeds, np.full(len(seeds), y + 0.25), "o", markersize=3.5, color=COLOURS[1], fillstyle="none")
        axis.set(xlim=(low - margin, high + margin), ylim=(-0.6, len(models) - 0.3))
        axis.set_yticks(range(len(models)), [short(m) for m in models] if axis is axes[0, 0] else [])
        rings = "; rings: seeds" if table.index.str.contains("/seed").any() else ""
        axis.set_title(f"{title}, test (n = {table.n.max()}), 95 % interval{rings}", fontsize=9)
    save_figure(figure, path)


def plot_class_auc(metrics: pd.DataFrame, positive: dict[str, int], path: Path) -> None:
    """Write the test AUC of every model and class as a heat map, best macro AUC first.

    `metrics` is tidy; `positive` says how many of the test records have a class.
    """
    chosen = (metrics.split == "test") & (metrics["view"] == "multilabel") & (metrics.metric == "auc")
    chosen &= ~metrics.run.str.contains("/seed")
    table = metrics[chosen].pivot(index="run", columns="label", values="value")[[*CLASSES, "macro"]]
    table = table.sort_values("macro", ascending=False)
    figure, axes = panels(1, 1, width=6.6, height=1.3 + 0.34 * len(table))
    title = f"ROC AUC per class, test records (n = {metrics[chosen].n.max()})"
    low = max(0.5, table.to_numpy()[table > 0.55].min(initial=1) - 0.02)  # the naive floor spends no colour
    mesh = _heat_map(axes[0, 0], table.to_numpy(), cmap="viridis", limits=(low, 1), text="{:.3f}")
    names = [f"{label}\n{positive[label]} positive" if label in positive else label for label in table]
    axes[0, 0].set_xticks(range(len(names)), names)
    axes[0, 0].set_yticks(range(len(table)), [short(name) for name in table.index])
    axes[0, 0].set_title(title, fontsize=10)
    axes[0, 0].axvline(len(CLASSES) - 0.5, color="white", linewidth=3)
    figure.colorbar(mesh, ax=axes[0, 0], shrink=0.8)
    save_figure(figure, path)


def plot_confusion(matrices: dict[str, pd.DataFrame], path: Path) -> None:
    """Write 5x5 confusion matrices side by side: colour and percent of the true class, counts below."""
    columns = min(4, len(matrices))
    rows = -(-len(matrices) // columns)
    n = int(next(iter(matrices.values())).to_numpy().sum())
    title = f"Test records with exactly one superclass (n = {n}): percent of the true class, (records); first seeds"
    width = max(3.1 * columns, 6.2)
    figure, axes = panels(rows, columns, width=width, height=0.5 + 3.1 * rows, title=title if columns > 2 else "")
    for axis, (model, matrix) in zip(axes.flat, matrices.items(), strict=False):
        counts = matrix[list(CLASSES)].to_numpy()
        total = counts.sum(axis=1, keepdims=True)
        share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
        image = _heat_map(axis, share, cmap="Blues", limits=(0, 1), text=None)
        for (i, j), value in np.ndenumerate(share):
            text = f"{100 * value:.0f}\n({counts[i, j]})"
            axis.text(j, i, text, ha="center", va="center", fontsize=7, color=ink(image.to_rgba(value)))
        axis.set_xticks(range(len(CLASSES)), CLASSES, fontsize=7)
        axis.set_yticks(range(len(CLASSES)), CLASSES, fontsize=7)
        axis.set_title(f"{short(model)} · {np.trace(counts) / max(counts.sum(), 1):.3f} right", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("true", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("predicted", fontsize=8)
    for axis in axes.flat[len(matrices) :]:
        axis.set_axis_off()
    save_figure(figure, path)


def plot_pairwise(pairs: pd.DataFrame, path: Path) -> None:
    """Write, for the macro label of both views, the AUC difference of all pairs of models as a matrix.

    A cell says how much higher the macro AUC of its row is than that of its column; `*` where DeLong's test of that
    difference has p < 0.05 after Holm's correction over all pairs of the view.
    """
    names = list(dict.fromkeys([*pairs.run_a, *pairs.run_b]))
    if not names:
        return _write_note("one model only: nothing to compare", path)
    shown = [short(name) for name in names]
    size = 2.2 + 0.47 * len(names)
    title = "Macro AUC of row minus column, test;  *: p < .05, DeLong after Holm's correction"
    figure, axes = panels(1, 2, width=max(2 * size, 8), height=size + 0.5, title=title)
    macro = pairs[pairs.label == "macro"]
    limit = max(macro["diff"].abs().clip(upper=0.1).max(), 0.01)  # the naive floor spends no colour
    for axis, view in zip(axes[0], ("multilabel", "multiclass"), strict=True):
        table = macro[macro["view"] == view]
        matrix = np.full((len(names), len(names)), np.nan)
        marks = {}
        for row in table.itertuples():
            i, j = names.index(row.run_a), names.index(row.run_b)
            matrix[i, j], matrix[j, i] = row.diff, -row.diff
            marks[i, j] = marks[j, i] = "*" * (row.p_delong_holm < 0.05)
        image = _heat_map(axis, matrix, cmap="PuOr", limits=(-limit, limit), text=None)
        for (i, j), mark in marks.items():
            known = np.isfinite(matrix[i, j])
            text = f"{round(1000 * matrix[i, j]):+d}\n{mark}" if known else "–"
            colour = ink(image.to_rgba(matrix[i, j])) if known else "black"  # on white
            axis.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)
        axis.set_xticks(range(len(names)), shown, rotation=90, fontsize=7)
        axis.set_yticks(range(len(names)), shown, fontsize=7)
        n = f"n = {table.n.max()}" if len(table) else "no record"
        axis.set_title(f"{view} ({n}), in thousandths", fontsize=9)
    save_figure(figure, path)


def _write_note(text: str, path: Path) -> None:
    figure, axes = panels(1, 1, width=5, height=1)
    axes[0, 0].set_axis_off()
    axes[0, 0].text(0.5, 0.5, text, ha="center", va="center")
    save_figure(figure, path)


def _heat_map(axis: Axes, values: np.ndarray, *, cmap: str, limits: tuple[float, float], text: str | None):
    axis.grid(False)
    axis.spines[:].set_visible(False)
    image = axis.imshow(values, cmap=cmap, vmin=limits[0], vmax=limits[1], aspect="auto")
    if text:
        for (i, j), value in np.ndenumerate(values):
            colour = ink(image.to_rgba(value))
            axis.text(j, i, text.format(value), ha="center", va="center", fontsize=8, color=colour)
    return image


def ink(background: tuple[float, float, float, float]) -> str:
    """Return the colour, black or white, in which a text can be read on `background`, by its luminance (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in background[:3]]
    luminance = np.dot((0.2126, 0.7152, 0.0722), linear)
    return "black" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "white"


def method_names(sanity: pd.DataFrame) -> dict[str, str]:
    """Return {method: its name for people, and what `sanity_checks.csv` says of its heat with random weights}."""
    said = sanity[sanity.check.str.startswith("randomised weights") & sanity.verdict.fillna("").ne("")]
    short_verdict = said.verdict.str.split(":").str[0]
    pairs = zip(said.method, short_verdict, strict=True)
    return {name: f"{name.replace('_', ' ')} (with random weights: {verdict})" for name, verdict in pairs}
