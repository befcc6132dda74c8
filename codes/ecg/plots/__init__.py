"""Figures. Every function returns a `Figure`, which the caller saves with `save_figure`.

What a figure shows follows from the `Task` it is given: no function here knows a class.
"""

from ecg.plots.curves import plot_calibration, plot_precision_recall, plot_roc
from ecg.plots.names import is_baseline, is_ensemble, is_naive, method_names, short
from ecg.plots.paper import ecg_paper
from ecg.plots.results import plot_class_auc, plot_confusion, plot_forest, plot_pairwise
from ecg.plots.style import COLOURS, ink, legend_below, panels, save_figure
from ecg.plots.training import draw_history, plot_histories, plot_history, plot_lr_finder

__all__ = [
    "COLOURS",
    "draw_history",
    "ecg_paper",
    "ink",
    "is_baseline",
    "is_ensemble",
    "is_naive",
    "legend_below",
    "method_names",
    "panels",
    "plot_calibration",
    "plot_class_auc",
    "plot_confusion",
    "plot_forest",
    "plot_histories",
    "plot_history",
    "plot_lr_finder",
    "plot_pairwise",
    "plot_precision_recall",
    "plot_roc",
    "save_figure",
    "short",
]
