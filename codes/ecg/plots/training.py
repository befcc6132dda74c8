"""Figures of trainings: their history, and the learning-rate finder's curve."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ecg.plots.style import COLOURS, note, panels

HISTORY = {  # column of history.csv -> what it is called
    "val_loss": "loss",
    "val_accuracy": "validation accuracy",
    "val_macro_auc": "validation macro AUC",
    "lr": "learning rate",
}


def plot_history(history: pd.DataFrame, *, title: str = "") -> Figure:
    """Return loss, accuracy, macro AUC and learning rate over the epochs of `history.csv`; `title` names the run."""
    heading = f"Training history: {title}" if title else "Training history"
    figure, axes = panels(2, 2, width=9, height=6, title=heading)
    draw_history(axes.ravel(), history)
    if history.val_macro_auc.notna().any():
        best = history.loc[history.val_macro_auc.idxmax()]
        axis = axes[1, 0]
        axis.axvline(best.epoch, color="0.6", linewidth=0.8)
        name = HISTORY["val_macro_auc"]
        axis.set_title(f"{name} (best {best.val_macro_auc:.3f}, epoch {best.epoch:.0f})", fontsize=9)
    return figure


def draw_history(axes: np.ndarray, history: pd.DataFrame) -> None:
    """Draw `history` (epoch, lr, train_loss, val_loss, val_accuracy, val_macro_auc) on four axes."""
    marker = "." if len(history) < 60 else ""
    loss, accuracy, auc, lr = axes
    loss.plot(history.epoch, history.train_loss, color=COLOURS[0], label="train", marker=marker, linewidth=1.4)
    loss.plot(
        history.epoch,
        history.val_loss,
        color=COLOURS[1],
        linestyle="--",
        label="validation",
        marker=marker,
        linewidth=1.4,
    )
    loss.legend(fontsize=8, frameon=False)
    accuracy.plot(history.epoch, history.val_accuracy, color=COLOURS[1], marker=marker, linewidth=1.4)
    auc.plot(history.epoch, history.val_macro_auc, color=COLOURS[1], marker=marker, linewidth=1.4)
    lr.plot(history.epoch, history.lr, color=COLOURS[2], marker=marker, linewidth=1.4)
    for axis, name in zip(axes, HISTORY.values(), strict=True):
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("epoch", fontsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)


def plot_histories(histories: dict[str, list[pd.DataFrame]]) -> Figure:
    """Return the training histories {model: one table per seed}, a row per network; the first seed stands out."""
    if not histories:
        return note("no network was trained")
    figure, axes = panels(len(histories), 4, width=12, height=0.4 + 2 * len(histories))
    for row, (model, tables) in zip(axes, histories.items(), strict=True):
        for table in tables[1:]:
            for axis, column in zip(row, HISTORY, strict=True):
                axis.plot(table.epoch, table[column], color="0.75", linewidth=0.8)
            row[0].plot(table.epoch, table.train_loss, color="0.75", linewidth=0.8)
        draw_history(row, tables[0])
        seeds = "1 seed" if len(tables) == 1 else f"{len(tables)} seeds"
        row[0].set_ylabel(f"{model}\n({seeds})", fontsize=9)
    for axis in axes[1:].flat:
        axis.set_title("")
    for axis in axes[:-1].flat:
        axis.set_xlabel("")
    for column in (1, 2):
        for axis in axes[1:, column]:
            axis.sharey(axes[0, column])
    return figure


def plot_lr_finder(table: pd.DataFrame, suggestion: float) -> Figure:
    """Return the learning-rate finder's curve: `table` has columns lr and loss (smoothed)."""
    figure, axes = panels(1, 1, width=6, height=3.6)
    axis = axes[0, 0]
    axis.plot(table.lr, table.loss, color=COLOURS[0])
    axis.axvline(suggestion, color=COLOURS[1], linestyle="--", label=f"suggestion {suggestion:.2g}")
    axis.set(xscale="log", xlabel="learning rate", ylabel="smoothed training loss")
    finite = table.loss[np.isfinite(table.loss)]
    if len(finite):  # the last points diverge by design and would flatten everything else
        low, start = finite.min(), finite.iloc[0]
        height = max(start - low, 1e-6)
        axis.set_ylim(low - 0.15 * height, max(start, low) + 0.6 * height)
    axis.legend(fontsize=9, frameon=False)
    return figure
