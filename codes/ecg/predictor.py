"""One way to ask any stored run: millivolts of any sampling rate and length in, probabilities out."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import signal
from sklearn.pipeline import Pipeline

from ecg.artifacts import UserError, read_json, require
from ecg.calibration import calibrate, logits_of, probability_of
from ecg.data import UV_PER_MV, preprocessor
from ecg.inference import Precision, pick_device, pick_dtype, predict, window_starts
from ecg.labels import CLASSES, LEADS
from ecg.models import MODELS, Network, rebuild

MADE_BY = "its training script (codes/04 to 10)"
WINDOWS = 256  # given to a model at a time, so that a long recording needs no more memory than many short ones


def resample(signal_mv: np.ndarray, fs: float, to: float) -> np.ndarray:
    """Resample (..., t) from `fs` to `to` Hz with a linear-phase low-pass against aliasing."""
    ratio = Fraction(to / fs).limit_denominator(2000)
    if ratio == 1:
        return signal_mv
    # padding with a line instead of zeros: an offset of the baseline would ring at both ends
    return signal.resample_poly(signal_mv, ratio.numerator, ratio.denominator, axis=-1, padtype="line")


@dataclass(frozen=True)
class Predictor:
    """A stored run, ready to predict.

    `config` is its `config.json`; `answer` gives the probabilities (n, 5), before calibration, of (n, 12, t) int16 µV.
    """

    config: dict[str, Any]
    answer: Callable[[np.ndarray], np.ndarray]

    @property
    def fs(self) -> float:
        """Sampling rate in Hz that the model works at."""
        return self.config["signals"]["fs"]

    @property
    def window(self) -> int:
        """Samples that the model sees at once: a crop's length for networks, a whole record for baselines."""
        return self.config.get("window", self.config["signals"]["n_samples"])

    @property
    def min_seconds(self) -> float:
        """The shortest recording it answers: one window."""
        return self.window / self.fs

    def prepare(self, signal_mv: np.ndarray, fs: float) -> np.ndarray:
        """Return (n, 12, t) millivolts at `fs` Hz as the model sees them: int16 microvolts at its own rate.

        Resampled, then exactly what `codes/03_preprocess.py` does: band-pass, amplitude limit, rounding.
        """
        resampled = resample(np.asarray(signal_mv, np.float32), fs, self.fs)
        return np.rint(self._preprocessor.transform(resampled) * UV_PER_MV).astype(np.int16)

    @cached_property
    def _preprocessor(self) -> Pipeline:
        return preprocessor(self.config["signals"])

    def predict(self, signal_mv: np.ndarray, fs: float) -> np.ndarray:
        """Return the probabilities (n, 5) of recordings (n, 12, t) in millivolts, leads as LEADS, at `fs` Hz.

        A recording longer than the model's window is cut into windows overlapping by half; its answer is their mean.
        Raises ValueError if it is shorter, has not 12 leads or contains NaN.
        """
        signal_mv = np.asarray(signal_mv)
        if signal_mv.ndim != 3 or signal_mv.shape[1] != len(LEADS):
            raise ValueError(f"expected signals of shape (n, {len(LEADS)}, t), got {signal_mv.shape}")
        if not len(signal_mv):
            return np.empty((0, len(CLASSES)), np.float32)
        return self.predict_prepared(self.prepare(signal_mv, fs))

    def predict_prepared(self, microvolt: np.ndarray) -> np.ndarray:
        """Return the probabilities (n, 5) of what `prepare` gave, or of rows of `signals.npy`."""
        length = microvolt.shape[-1]
        if length < self.window:
            raise ValueError(f"{length / self.fs:.2f} s long, the model needs at least {self.min_seconds:g} s")
        return calibrate(self.answer(microvolt), self.config["temperature"], self.config["task"])


def mean_over_windows(model: Callable[[np.ndarray], np.ndarray], microvolt: np.ndarray, window: int) -> np.ndarray:
    """Return the mean answers (n, 5) of a model that takes (n, 12, window), over windows overlapping by half."""
    n, _, length = microvolt.shape
    starts = window_starts(length, window, overlap=True)
    pieces = [(record, start) for record in range(n) for start in starts]
    answers = []
    for i in range(0, len(pieces), WINDOWS):
        batch = [microvolt[record, :, start : start + window] for record, start in pieces[i : i + WINDOWS]]
        answers.append(model(np.stack(batch)))
    return np.concatenate(answers).reshape(n, len(starts), -1).mean(axis=1)


def load_run(folder: Path, *, device: str = "auto", precision: Precision = "auto") -> Predictor:
    """Return the model in a run folder: a network (`config.json`, `best.pt`) or a baseline.

    Raises a `UserError` if a file is missing, damaged or of another model.
    """
    config = read_json(folder / "config.json", made_by=MADE_BY)
    for key in ("model", "task", "signals", "classes", "leads", "temperature"):
        if key not in config:
            raise UserError(f"{folder / 'config.json'}: {key!r} is missing: run {MADE_BY} again")
    if tuple(config["classes"]) != CLASSES or tuple(config["leads"]) != LEADS:
        raise UserError(f"{folder / 'config.json'}: other classes or leads than {CLASSES} and {LEADS}")
    task = config["task"]
    if "members" in config:
        names = config["members"]
        members = {name: load_run(folder.parent / name, device=device, precision=precision) for name in names}

        def blend(microvolt: np.ndarray) -> np.ndarray:
            answers = (names[name] * logits_of(run.predict_prepared(microvolt), task) for name, run in members.items())
            return probability_of(sum(answers), task)

        return Predictor(config, blend)

    if config["model"] in MODELS:
        chosen = pick_device(device)
        network = load_network(folder, config).to(chosen)
        where = {"window": config["window"], "task": task, "device": chosen, "dtype": pick_dtype(precision, chosen)}

        def model(windows: np.ndarray) -> np.ndarray:
            return predict(network, windows, np.arange(len(windows)), **where)
    else:
        from ecg.baselines import load_baseline  # here, because the compiler behind MiniRocket takes seconds to import

        baseline = load_baseline(folder, config)

        def model(windows: np.ndarray) -> np.ndarray:
            return baseline.probability(baseline.features(windows / np.float32(UV_PER_MV)))

    window = config.get("window", config["signals"]["n_samples"])
    return Predictor(config, lambda microvolt: mean_over_windows(model, microvolt, window))


def load_network(folder: Path, config: dict[str, Any]) -> Network:
    """Return the network of a run folder with its best weights, on the CPU, in evaluation mode."""
    path = require(folder / "best.pt", MADE_BY)
    network = rebuild(config)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["weights"])
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError):  # each of them page after page of names
        raise UserError(
            f"{path} does not hold the weights of {config['model']} as it is built here: run {MADE_BY} again"
        ) from None
    return network.eval()
