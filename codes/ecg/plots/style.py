"""The common style of all figures, and how they are saved. Nothing touches the global state of pyplot."""

import textwrap
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from ecg.artifacts import atomic

# Okabe & Ito (2008): colours that colour-blind readers can tell apart; their yellow is too faint for lines
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DPI = 120
TITLE_SIZE = 11  # points
INCHES_PER_CHARACTER = 0.085  # of a title
PANEL_CHARACTERS = 36  # in a line above a panel


def save_figure(figure: Figure, path: Path, *, dpi: int = DPI) -> None:
    """Write `figure` to the PNG `path`, whole or not at all, the same bytes for the same figure.

    The file states its `dpi`, so that a print of it has the figure's size in inches.
    """
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    picture = Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE)  # a third of the size
    with atomic(path) as temporary:
        picture.save(temporary, optimize=True, dpi=(dpi, dpi))


def panels(rows: int, columns: int, *, width: float, height: float, title: str = "") -> tuple[Figure, np.ndarray]:
    """Return a figure of `width` x `height` inches and its axes (rows, columns) in the common style.

    A title that is wider than the figure is broken into lines.
    """
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
        figure.suptitle(textwrap.fill(title, int(width / INCHES_PER_CHARACTER)), fontsize=TITLE_SIZE)
    return figure, axes


def legend_below(figure: Figure, axis: Axes, *, columns: int = 4) -> None:
    """Name the lines and bars of `axis` below all panels."""
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)


def panel_title(name: str, counts: str) -> str:
    """Return `name counts` in one line, or in several where a class has a long name."""
    if len(name) + len(counts) < PANEL_CHARACTERS:
        return f"{name} {counts}"
    return f"{textwrap.fill(name, PANEL_CHARACTERS)}\n{counts}"


def note(text: str) -> Figure:
    """Return a figure that says only why there is nothing to draw."""
    figure, axes = panels(1, 1, width=5, height=1)
    axes[0, 0].set_axis_off()
    axes[0, 0].text(0.5, 0.5, text, ha="center", va="center")
    return figure


def heat_map(axis: Axes, values: np.ndarray, *, cmap: str, limits: tuple[float, float]) -> AxesImage:
    """Draw `values` (rows, columns) as cells whose colour is their value; nan stays white."""
    axis.grid(False)
    axis.spines[:].set_visible(False)
    return axis.imshow(values, cmap=cmap, vmin=limits[0], vmax=limits[1], aspect="auto")


def write_in_cell(axis: Axes, image: AxesImage, row: int, column: int, text: str, *, size: float) -> None:
    """Write `text` into a cell of a heat map, in black or white, whichever can be read on its colour."""
    value = image.get_array()[row, column]
    colour = "black" if np.ma.is_masked(value) else ink(image.to_rgba(float(value)))
    axis.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)


def ink(background: tuple[float, float, float, float]) -> str:
    """Return the colour, black or white, in which a text can be read on `background`, by its luminance (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in background[:3]]
    luminance = np.dot((0.2126, 0.7152, 0.0722), linear)
    return "black" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "white"


def span(numbers: list[int]) -> str:
    """Return `275` of equal numbers, `270 to 275` of others."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"
