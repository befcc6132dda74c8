"""An answered recording: the ECG on paper with a bar per class, and the course of the answer over time."""

import numpy as np
from matplotlib.figure import Figure

from ecg.formats.wfdb import UV_PER_MV
from ecg.leads import LEADS
from ecg.plots.paper import ecg_paper
from ecg.plots.style import COLOURS
from ecg.stored_run import StoredRun

PICTURE_SECONDS = 10
MOST_BARS = 8  # below the picture of an ECG: the classes with the highest probabilities
WHOLE_SECONDS = 6  # of a shorter one every lead is drawn in full: a quarter of it could miss the beat


def draw_answer(
    signal: np.ndarray, leads: tuple[str, ...], fs: float, probability: np.ndarray, stored: StoredRun, *, title: str
) -> Figure:
    """Return the ECG on paper, its first ten seconds as the model sees them, with a bar per class below.

    `signal` (n_leads, t) in millivolts, `probability` (n_classes,). Of many classes, those with the highest
    probabilities.
    """
    shown = tuple(lead for lead in stored.leads if lead in leads)
    rows = np.full((1, len(stored.leads), min(signal.shape[1], round(PICTURE_SECONDS * fs))), 0, np.float32)
    for i, lead in enumerate(stored.leads):
        if lead in shown:
            rows[0, i] = signal[leads.index(lead), : rows.shape[2]]
    kept = [stored.leads.index(lead) for lead in shown]
    millivolt = stored.prepare(rows, fs)[0, kept].astype(np.float32) / UV_PER_MV
    band = stored.config["signals"]["filter"]
    layout = "3x4" if signal.shape[1] / fs >= WHOLE_SECONDS and shown == LEADS else "nx1"
    title = f"{title}   {band['low']:g}-{band['high']:g} Hz"
    figure = ecg_paper(millivolt, stored.fs, leads=shown, layout=layout, title=title)
    width, height = figure.get_size_inches()
    strip = 0.3 + 0.2 * min(len(stored.task), MOST_BARS)  # inches below the paper, which keeps its scale
    figure.set_size_inches(width, height + strip)
    for axis in figure.axes:
        box = axis.get_position()
        rest = height / (height + strip)
        axis.set_position((box.x0, 1 - rest + box.y0 * rest, box.width, box.height * rest))
    for text in figure.texts:
        text.set_y(1 - rest + text.get_position()[1] * rest)
    names, percent = 2.6 / width, 0.7 / width  # inches on the left and on the right
    bars = figure.add_axes((names, 0.1 * (1 - rest), 1 - names - percent, 0.8 * (1 - rest)))
    order = np.arange(len(stored.task))
    if len(order) > MOST_BARS:
        order = np.argsort(-probability, kind="stable")[:MOST_BARS]
    labels = [f"{stored.task.long_names[i]} ({stored.task.classes[i]})" for i in order]
    bars.barh(range(len(order)), probability[order], color="#0072B2")
    bars.set(xlim=(0, 1), xticks=[])
    bars.set_yticks(range(len(order)), labels, fontsize=9)
    bars.invert_yaxis()
    bars.spines[["top", "right", "bottom"]].set_visible(False)
    for row, p in enumerate(probability[order]):
        bars.text(p + 0.01, row, f"{p:.1%}", va="center", fontsize=9)
    return figure


def draw_course(course: np.ndarray, piece_seconds: float, stored: StoredRun, *, title: str) -> Figure:
    """Return the probabilities (n_pieces, n_classes) of consecutive pieces over time; of many classes, the highest."""
    hours = len(course) * piece_seconds / 3600
    unit, scale = ("hours", 3600) if hours > 2 else ("minutes", 60)
    time = (np.arange(len(course)) + 0.5) * piece_seconds / scale
    order = np.argsort(-course.mean(axis=0), kind="stable")[:MOST_BARS]
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    axis = figure.add_subplot()
    for i, k in enumerate(sorted(order)):
        axis.plot(time, course[:, k], color=COLOURS[i % len(COLOURS)], lw=1, label=stored.task.classes[k])
    axis.set(xlabel=unit, ylabel="probability", ylim=(0, 1), xlim=(0, len(course) * piece_seconds / scale))
    axis.set_title(title, loc="left", fontsize=10)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
