"""What runs and methods are called on figures and pages, and the line that a run's curves have."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ecg.plots.style import COLOURS

# Beside the colours of Okabe & Ito, from Tol's "muted" scheme: of all those tried, the furthest from the others
NETWORK_COLOURS = (*COLOURS, "#882255", "#332288")
# standard and augmented runs; then, in pairs, those that were trained on another task
PATTERNS = ("-", "--", ":", "-.", (0, (8, 2)), (0, (8, 2, 1, 2)), (0, (1, 3)), (0, (5, 1, 1, 1, 1, 1)))


@dataclass(frozen=True)
class Line:
    """How the curves of one model are drawn."""

    colour: str
    pattern: Any  # a line style of Matplotlib
    width: float = 1.3


@dataclass(frozen=True)
class Parts:
    """What the name of a run is made of: `xresnet_fast`, augmented, `form` of `xresnet_fast_augmented_form`."""

    network: str
    augmented: bool = False
    task: str = ""


def parts_of(run: str) -> Parts:
    """Take a run's name apart; one that somebody made up stays whole."""
    if is_baseline(run):
        folder, _, model = run.partition("/")
        return Parts(model, task=folder.removeprefix("baseline").removeprefix("_"))
    if is_ensemble(run):
        return Parts("ensemble", task=run.removeprefix("ensemble").removeprefix("_"))
    match = re.fullmatch(r"(.+?)_(standard|augmented)(?:_(.+))?", run)
    return Parts(match[1], match[2] == "augmented", match[3] or "") if match else Parts(run)


def short(run: str) -> str:
    """Return a run's name for people: a baseline's without the folder that it shares with others, but with its task.

    >>> short("baseline/naive"), short("baseline_form/naive"), short("resnet_standard/seed1")
    ('naive', 'naive_form', 'resnet_standard/seed1')
    """
    if not is_baseline(run):
        return run
    parts = parts_of(run)
    return f"{parts.network}_{parts.task}" if parts.task else parts.network


def is_baseline(run: str) -> bool:
    """Whether the run is in a folder together with others, as those of 04 do; a network has one of its own."""
    inside = run.partition("/")[2]
    return bool(inside) and re.fullmatch(r"seed\d+", inside) is None


def is_naive(run: str) -> bool:
    """Whether the run is the floor: a model that always answers with the shares of the classes."""
    return is_baseline(run) and run.split("/")[1] == "naive"


def is_ensemble(run: str) -> bool:
    return run == "ensemble" or run.startswith("ensemble_")


def model_lines(models: Iterable[str]) -> dict[str, Line]:
    """Return the line of each model: a colour for each network, a pattern for augmentation and task."""
    drawn = {name: parts_of(name) for name in models}
    networks = list(dict.fromkeys(drawn[name].network for name in drawn if not is_naive(name)))
    tasks = list(dict.fromkeys(parts.task for parts in drawn.values()))
    lines = {}
    for name, parts in drawn.items():
        if is_naive(name):  # the floor stays in the background
            lines[name] = Line("0.65", "-", 1.0)
            continue
        used, colour = divmod(networks.index(parts.network), len(NETWORK_COLOURS))  # `used`: how often before
        pair = used * len(tasks) + tasks.index(parts.task)
        pattern = PATTERNS[(2 * pair + parts.augmented) % len(PATTERNS)]
        lines[name] = Line(NETWORK_COLOURS[colour], pattern)
    return lines


def method_names(sanity: pd.DataFrame) -> dict[str, str]:
    """Return {method: its name for people, and what `sanity_checks.csv` says of its heat with random weights}."""
    said = sanity[sanity.check.str.startswith("randomised weights") & sanity.verdict.fillna("").ne("")]
    short_verdict = said.verdict.str.split(":").str[0]
    pairs = zip(said.method, short_verdict, strict=True)
    return {name: f"{name.replace('_', ' ')} (with random weights: {verdict})" for name, verdict in pairs}
