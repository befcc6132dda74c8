"""ECGs on paper, to scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text

from ecg.leads import PAGE_3X4

LEAST_MM = 150  # width of the paper, so that a title has room above a short recording
MM_PER_SECOND, MM_PER_MV = 25.0, 10.0  # the usual speed and gain of ECG paper
TITLE_MM = 8  # above the paper
MARGIN_MM = 12.5  # on the left, for the calibration pulse
HEAT = LinearSegmentedColormap.from_list("heat", ["#0072B200", "#0072B255", "#0072B2ff"])  # blue on pink paper
RHYTHM_LEAD = "II"  # in full below a page of 3x4

Layout = Literal["nx1", "3x4"]


@dataclass(frozen=True)
class Strip:
    """A piece of one lead, samples `start` to `end`, and the row of the paper on which it is drawn."""

    row: int
    lead: int
    start: int
    end: int


@dataclass(frozen=True)
class Paper:
    """Where things are, in mm: the paper's size, the base line of each row and how high above it a name is."""

    width: float
    height: float
    base: np.ndarray  # (n_rows,)
    name: list[float]  # one per strip


def ecg_paper(
    signal_mv: np.ndarray,
    fs: float,
    *,
    leads: Sequence[str],
    layout: Layout = "nx1",
    heat: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Return an ECG on paper of 25 mm/s and 10 mm/mV; at its own size 1 mm is 1 mm.

    `signal_mv` (n_leads, n) in millivolts, sampled at `fs` Hz; `leads` are the names of its rows. `nx1` shows every
    lead in full, one below the other; `3x4` a quarter of the time per lead, and lead II in full below, for which all
    twelve standard leads are needed. `heat` (n_leads, n), not negative, is drawn behind the trace: nothing for 0, dark
    blue for its largest value. A `title` that is too long for the page loses a part of its middle. Raises ValueError on
    another shape or layout.
    """
    signal_mv = np.asarray(signal_mv, dtype=float)
    if signal_mv.ndim != 2 or len(signal_mv) != len(leads):
        raise ValueError(f"signal of shape {signal_mv.shape}: expected ({len(leads)}, n_samples), a row per lead")
    if heat is not None and np.shape(heat) != signal_mv.shape:
        raise ValueError(f"heat of shape {np.shape(heat)} for a signal of shape {signal_mv.shape}")
    strips = _lay_out(layout, leads, signal_mv.shape[1])
    paper = _measure(strips, signal_mv, fs)
    whole = paper.height + TITLE_MM
    figure = Figure(figsize=(paper.width / 25.4, whole / 25.4))
    axis = figure.add_axes((0, 0, 1, paper.height / whole))
    axis.set(xlim=(-MARGIN_MM, paper.width - MARGIN_MM), ylim=(0, paper.height), xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    _draw_grid(axis, paper.width, paper.height)
    largest = np.nanmax(heat) if heat is not None else 0.0
    for strip, name in zip(strips, paper.name, strict=True):
        x = np.arange(strip.start, strip.end) / fs * MM_PER_SECOND
        y = paper.base[strip.row] + signal_mv[strip.lead, strip.start : strip.end] * MM_PER_MV
        if largest > 0:
            _draw_heat(axis, x, y, heat[strip.lead, strip.start : strip.end] / largest)
        _draw_strip(axis, x, y, strip, leads[strip.lead], paper.base[strip.row], name)
    _write_title(figure, title, fs, middle=1 - TITLE_MM / 2 / whole)
    return figure


def _lay_out(layout: str, leads: Sequence[str], n: int) -> list[Strip]:
    if layout == "nx1":
        return [Strip(row, row, 0, n) for row in range(len(leads))]
    if layout != "3x4":
        raise ValueError(f"layout {layout!r} is not known: use nx1 or 3x4")
    missing = {lead for row in PAGE_3X4 for lead in row} - set(leads)
    if missing:
        raise ValueError(f"layout 3x4 needs the twelve standard leads; {min(missing)} is missing: use nx1")
    cuts = np.linspace(0, n, 5).astype(int)
    strips = []
    for row, names in enumerate(PAGE_3X4):
        for column, lead in enumerate(names):
            strips.append(Strip(row, leads.index(lead), int(cuts[column]), int(cuts[column + 1])))
    strips.append(Strip(len(PAGE_3X4), leads.index(RHYTHM_LEAD), 0, n))
    return strips


def _measure(strips: list[Strip], signal_mv: np.ndarray, fs: float) -> Paper:
    """Give every row the height that its traces need, so that tall ones neither overlap nor leave the paper."""
    rows = 1 + max(strip.row for strip in strips)
    up, down = np.full(rows, 11.0), np.full(rows, 4.0)  # the calibration pulse is 10 mm high
    names = []
    for strip in strips:
        trace = np.nan_to_num(signal_mv[strip.lead, strip.start : strip.end]) * MM_PER_MV
        below = trace[: round(10 / MM_PER_SECOND * fs)]  # the name is above this part of the trace
        names.append(float(np.clip(below.max(initial=0) + 2, 7, 36)))
        highest = max(trace.max(initial=0) + 1, names[-1] + 4)
        up[strip.row] = np.clip(highest, up[strip.row], 40)  # artefacts may leave their row
        down[strip.row] = np.clip(-trace.min(initial=0) + 1, down[strip.row], 40)
    height = 5 * np.ceil((up.sum() + down.sum() + 4) / 5)
    base = height - 2 - np.cumsum(up) - np.concatenate([[0], np.cumsum(down)[:-1]])
    width = 5 * np.ceil(signal_mv.shape[1] / fs * MM_PER_SECOND / 5) + 15
    return Paper(float(max(width, LEAST_MM)), float(height), base, names)


def _draw_strip(
    axis: Axes, x: np.ndarray, y: np.ndarray, strip: Strip, lead: str, base: float, name_height: float
) -> None:
    """Draw one trace with its lead's name; before it the calibration pulse, 1 mV for 0.2 s, or a mark."""
    axis.plot(x, y, color="black", linewidth=0.8, zorder=3)
    axis.text(
        x[0] + 1.5,
        base + name_height,
        lead,
        fontsize=9,
        fontweight="bold",
        zorder=1,  # behind heat and trace
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.8},
    )
    if strip.start == 0:
        pulse = base + np.array([0, 0, 1, 1, 0, 0]) * MM_PER_MV
        axis.plot([-9, -7.5, -7.5, -2.5, -2.5, -1], pulse, color="black", linewidth=0.8)
    else:
        axis.vlines(x[0], base - 3, base + 3, color="black", linewidth=0.8)


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


def _write_title(figure: Figure, title: str, fs: float, *, middle: float) -> None:
    words = figure.text(0.01, middle, title, fontsize=10, va="center", parse_math=False)
    scale_text = f"{MM_PER_SECOND:.0f} mm/s   {MM_PER_MV:.0f} mm/mV   {fs:g} Hz"
    scale = figure.text(0.99, middle, scale_text, fontsize=8, va="center", ha="right", color="0.35")
    _shorten(words, 0.98 * figure.bbox.width - scale.get_window_extent().width - 10)


def _shorten(text: Text, room: float) -> None:
    """Replace what is behind the first third of `text` until it is no wider than `room` pixels.

    So the beginning of a file's name stays and, behind its end, what the title says besides.
    """
    whole = text.get_text()
    kept = len(whole)
    while text.get_window_extent().width > room and kept:
        kept -= 1
        text.set_text(f"{whole[: kept // 3]}…{whole[len(whole) - (kept - kept // 3) :]}")
