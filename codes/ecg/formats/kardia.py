"""Recordings of AliveCor's KardiaMobile and KardiaMobile 6L: JSON of the Kardia API (https://developers.kardia.com).

`data.raw` and `data.enhanced` hold the same signal, the second filtered by AliveCor: `frequency` in Hz,
`amplitudeResolution` in nanovolts per unit, and `samples` with a list per lead. The raw one is taken, which the models'
own filter suits. Not tested on files of a device: only on ones written by that description.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ecg.formats import RecordError, Traces

NAME = "Kardia JSON"
LEADS = {"leadi": "I", "leadii": "II", "leadiii": "III", "avr": "aVR", "avl": "aVL", "avf": "aVF"}
LEADS |= {f"v{i}": f"V{i}" for i in range(1, 7)}
RESOLUTION = ("amplitudeResolution", "amplitudeRes")  # nV
MOST_BYTES = 2**27  # 24 hours of a lead are 100 MB
MOST_DEPTH = 6  # of objects in objects


def recognises(path: Path, head: bytes) -> bool:
    """Return whether the text begins as a JSON object that names AliveCor's leads or what goes with them."""
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    return text.startswith("{") and bool(
        re.search(r'"(leadI|amplitudeRes\w*|algorithmDetermination|data12L)"\s*:', text)
    )


def read(path: Path) -> Traces:
    """Return the leads in microvolts, or without unit if the file gives no resolution."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise RecordError(f"has more than {MOST_BYTES // 2**20} MB, which no Kardia recording has")
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise RecordError(f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"is damaged: no JSON ({type(error).__name__})") from None
    blocks = list(_blocks(content, "", MOST_DEPTH))
    if not blocks:
        raise RecordError("has no ECG: no object with samples, data.raw in Kardia's files, is there")
    place, block = next(((place, block) for place, block in blocks if "raw" in place.split(".")), blocks[0])
    samples = block["samples"]
    if isinstance(samples, list):
        samples = {"leadI": samples}  # of the devices with two electrodes
    leads = {name: _numbers(values, f"{place}.samples.{name}") for name, values in samples.items()}
    lengths = {len(values) for values in leads.values()}
    if len(lengths) != 1 or not lengths.pop():
        each = ", ".join(f"{name} {len(values)}" for name, values in list(leads.items())[:12])
        raise RecordError(f"its leads hold no samples or differ in length ({each or 'none'}): cut off?")
    fs = _number(block.get("frequency"))
    resolution = next((number for key in RESOLUTION if (number := _number(block.get(key)))), 0.0)
    signal = np.stack(list(leads.values())) * (resolution / 1000 or 1)
    names = tuple(LEADS.get(name.lower(), name) for name in leads)
    return Traces(fs, names, ("uV" if resolution else "",) * len(names), signal, (), "AliveCor Kardia")


def _blocks(value: Any, place: str, depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where it stands, object) for all objects with samples of leads."""
    if not isinstance(value, dict) or not depth:
        return
    if isinstance(value.get("samples"), (dict, list)):
        yield place, value
    for key, inner in value.items():
        yield from _blocks(inner, f"{place}.{key}" if place else key, depth - 1)


def _number(value: Any) -> float:
    """Return a positive finite number, 0 if the value is none."""
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0
    return number if np.isfinite(number) and number > 0 else 0.0


def _numbers(values: Any, place: str) -> np.ndarray:
    """Return a list of numbers as an array, nan for null."""
    try:
        array = np.array(values, dtype=np.float64) if isinstance(values, list) else np.empty((0, 0))
    except (ValueError, TypeError, OverflowError):
        array = np.empty((0, 0))
    if array.ndim != 1:
        raise RecordError(f"{place} is no list of numbers")
    return array
