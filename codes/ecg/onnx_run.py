"""A network run as one ONNX file: what is written into it, and predicting from it with onnxruntime.

`ecg.exporting` makes the file. Everything behind the band-pass is inside: limit, standardisation, derivatives, network,
sigmoid or softmax, temperature. The band-pass itself is not: it runs over a whole recording, forwards and backwards.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ecg.artifacts import UserError
from ecg.formats.wfdb import UV_PER_MV
from ecg.tasks import Task

if TYPE_CHECKING:
    from ecg.stored_run import StoredRun

INPUT = "millivolt"  # (n, n_leads, window) float32
ANSWER, UNCALIBRATED = "probability", "uncalibrated"  # both (n, n_classes) float32
EXPORT = "codes/predict.py --export"
# Said inside the file, in words, to whoever finds it without this repository.
BEFORE = (
    "millivolts at fs, leads in this order; first a zero-phase Butterworth band-pass (scipy.signal.sosfiltfilt, edges "
    "and order of one pass in `band`, two seconds mirrored in time at both ends) over the whole recording, which is "
    "not in this model"
)
BEHIND = (
    "probability: calibrated, of one window; of a longer recording take the mean of `uncalibrated` over windows that "
    "overlap by half and divide the logits of the mean by `temperature`"
)
TEXTS = ("unit", "objective", "run", "model", "input", "output")  # the other properties are JSON


def properties_of(config: dict[str, Any], thresholds: dict[str, float] | None) -> dict[str, str]:
    """Return the `metadata_props` of a run's ONNX file, from its `config.json` and its thresholds if they are known."""
    signals, task = config["signals"], Task.from_json(config["task"])
    values = {
        "leads": list(signals["leads"]),
        "fs": signals["fs"],
        "window": config["window"],
        "unit": "mV",
        "band": signals["filter"],
        "limit_mv": signals["limit_mv"],
        "classes": task.names,
        "task": config["task"],
        "objective": config["objective"],
        "temperature": config["temperature"],
        # missing leads are zeros throughout for a run that was trained so
        "lead_subsets": bool(config.get("settings", {}).get("lead_subsets", False)),
        "run": config.get("run", ""),
        "model": config["model"],
        "input": BEFORE,
        "output": BEHIND,
    }
    if thresholds:
        values["thresholds"] = thresholds
    return {key: value if key in TEXTS else json.dumps(value, ensure_ascii=False) for key, value in values.items()}


def config_of(properties: dict[str, str]) -> dict[str, Any]:
    """Return from the properties of a file what a run's `config.json` says, as far as predicting needs it.

    Raises KeyError, TypeError or ValueError if a property is missing or not what it should be.
    """
    values = {key: value if key in TEXTS else json.loads(value) for key, value in properties.items()}
    fs, window, temperature = float(values["fs"]), int(values["window"]), float(values["temperature"])
    if not (fs > 0 and window > 0 and temperature > 0 and values["objective"] in ("multilabel", "multiclass")):
        raise ValueError("a number is out of its range")
    return {
        "run": values["run"],
        "model": values["model"],
        "task": Task.from_json(values["task"]).to_json(),
        "objective": values["objective"],
        "window": window,
        "temperature": temperature,
        "signals": {
            "fs": values["fs"],
            "n_samples": window,
            "leads": [str(lead) for lead in values["leads"]],
            "filter": {key: values["band"][key] for key in ("low", "high", "order")},
            "limit_mv": float(values["limit_mv"]),
        },
        "settings": {"lead_subsets": values["lead_subsets"]},
        "thresholds": values.get("thresholds"),
    }


def load_onnx(path: Path, *, threads: int = 1) -> "StoredRun":
    """Return the run in an ONNX file of `ecg.exporting`: it predicts like that of `load_run`, with onnxruntime.

    `threads` of one answer; 0 takes all cores. `config["thresholds"]` are {class: threshold}, or None. Raises a
    `UserError` if onnxruntime is not installed, or the file is missing, damaged or not one of ours.
    """
    from ecg.stored_run import StoredRun, mean_over_windows  # here, because it imports torch; a file alone needs none

    session = open_session(path, threads=threads)
    try:
        config = config_of(session.get_modelmeta().custom_metadata_map)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} was not written by {EXPORT}, or is damaged ({error!r}): export the run again"
        ) from None
    _check(session, config, path)
    model = probability_of_windows(session)
    return StoredRun(config, lambda microvolt: mean_over_windows(model, microvolt, config["window"]))


def probability_of_windows(session: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from int16 microvolts (n, n_leads, window) to uncalibrated probabilities (n, n_classes)."""

    def probability(microvolt: np.ndarray) -> np.ndarray:
        return session.run([UNCALIBRATED], {INPUT: microvolt / np.float32(UV_PER_MV)})[0]

    return probability


def open_session(path: Path, *, threads: int = 1) -> Any:
    """Return the `onnxruntime.InferenceSession` of a file, on the CPU."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"{path} needs onnxruntime: pip install onnxruntime") from None
    if not path.is_file():
        raise UserError(f"there is no {path}: write it with {EXPORT}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no class in common
        raise UserError(f"{path} cannot be read as ONNX ({_said(error)}): write it again with {EXPORT}") from None


def _said(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _check(session: Any, config: dict[str, Any], path: Path) -> None:
    """Raise a `UserError` if the graph takes or gives something else than the properties say."""
    takes = {each.name: each.shape[1:] for each in session.get_inputs()}
    gives = {each.name: each.shape[1:] for each in session.get_outputs()}
    signals, k = config["signals"], len(config["task"]["classes"])
    expected = {INPUT: [len(signals["leads"]), config["window"]]}, {ANSWER: [k], UNCALIBRATED: [k]}
    if (takes, gives) != expected:
        raise UserError(f"{path}: takes {takes} and gives {gives}, its properties say otherwise: export the run again")
