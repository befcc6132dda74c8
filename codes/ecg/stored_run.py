"""A stored run that can be asked: millivolts of any sampling rate and length in, probabilities out."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.pipeline import Pipeline

from ecg.artifacts import UserError, require
from ecg.calibration import calibrate, logits_of, probability_of
from ecg.devices import Precision, pick_device, pick_dtype
from ecg.formats.wfdb import UV_PER_MV
from ecg.inference import network_probability, window_starts
from ecg.leads import PAGE_3X4
from ecg.models import MODELS, Network, rebuild
from ecg.preprocessing import preprocessor
from ecg.recordings import resample
from ecg.runs import read_config, task_of
from ecg.tasks import Task

MADE_BY = "its training script (codes/04 to 10, or codes/train.py)"
WINDOWS = 256  # given to a model at a time, so that a long recording needs no more memory than many short ones


@dataclass(frozen=True)
class StoredRun:
    """A stored run, ready to predict.

    `config` is its `config.json`; `uncalibrated` gives the probabilities (n, n_classes), before calibration, of int16
    microvolts (n, n_leads, t). An ensemble has `members` instead, {name: run}.
    """

    config: dict[str, Any]
    uncalibrated: Callable[[np.ndarray], np.ndarray] | None
    members: dict[str, "StoredRun"] = field(default_factory=dict)

    @cached_property
    def task(self) -> Task:
        return task_of(self.config)

    @property
    def leads(self) -> tuple[str, ...]:
        """The leads it expects, in order."""
        return tuple(self.config["signals"]["leads"])

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
        """The shortest recording it answers: one window, of an ensemble the shortest one of its members."""
        if self.members:
            return min(run.min_seconds for run in self.members.values())
        return self.window / self.fs

    @property
    def takes_missing_leads(self) -> bool:
        """Whether it, or a member, was trained on subsets of the leads."""
        if self.members:
            return any(run.takes_missing_leads for run in self.members.values())
        return bool(self.config.get("settings", {}).get("lead_subsets", False))

    def members_for(self, seconds: float, *, complete: bool = True) -> dict[str, float]:
        """Return {member: weight} of those members of an ensemble that answer a recording; the weights add up to 1.

        `complete` says that all leads are there. A MiniRocket needs all of them and a whole record of 10 s: without it
        the networks answer. A run that is no ensemble is its own only member. Empty if none can answer.
        """
        if not self.members:
            can = seconds >= self.min_seconds and (complete or self.takes_missing_leads)
            return {self.config.get("run", self.config["model"]): 1.0} if can else {}
        able = [name for name, run in self.members.items() if run.members_for(seconds, complete=complete)]
        weights = {name: self.config["members"][name] for name in able}
        return {name: weight / sum(weights.values()) for name, weight in weights.items()}

    def prepare(self, signal_mv: np.ndarray, fs: float) -> np.ndarray:
        """Return (n, n_leads, t) millivolts at `fs` Hz as the model sees them: int16 microvolts at its own rate.

        Resampled, then exactly what `codes/03_preprocess.py` does: band-pass, amplitude limit, rounding.
        """
        resampled = resample(np.asarray(signal_mv, np.float32), fs, self.fs)
        return np.rint(self._preprocessor.transform(resampled) * UV_PER_MV).astype(np.int16)

    @cached_property
    def _preprocessor(self) -> Pipeline:
        return preprocessor(self.config["signals"])

    def predict(self, signal_mv: np.ndarray, fs: float) -> np.ndarray:
        """Return the probabilities (n, n_classes) of recordings (n, n_leads, t) in millivolts at `fs` Hz.

        Leads in the order of `leads`. A recording longer than the model's window is cut into windows overlapping by
        half; its answer is their mean. A lead that is nan throughout is missing, which some runs take, see
        `takes_missing_leads`; of an ensemble the members answer that can. Raises ValueError if a recording is too
        short, has other leads than these or none, lacks some that the run needs, or contains other nan.
        """
        signal_mv = np.asarray(signal_mv)
        if signal_mv.ndim != 3 or signal_mv.shape[1] != len(self.leads):
            raise ValueError(f"expected signals of shape (n, {len(self.leads)}, t), got {signal_mv.shape}")
        missing = np.isnan(signal_mv).all(axis=2)  # (n, n_leads)
        self._check_leads(missing)
        complete = ~missing.any(axis=1)
        probability = np.empty((len(signal_mv), len(self.task)), np.float32)
        if complete.any():
            probability[complete] = self.predict_microvolt(self.prepare(signal_mv[complete], fs))
        if not complete.all():
            # zeros stay zeros through the filter, and are what the run was trained on
            filled = np.where(missing[~complete][:, :, None], 0, signal_mv[~complete])
            probability[~complete] = self.predict_microvolt(self.prepare(filled, fs), complete=False)
        return probability

    def predict_page(self, signal_mv: np.ndarray, fs: float) -> np.ndarray:
        """Return the probabilities (n, n_classes) of printed pages (n, n_leads, t), leads side by side in one window.

        A page has 2.5 s of each lead, one column of three leads after the other; `ecg.recordings.as_window` puts the
        columns side by side. They were not recorded at one time, so each is answered with the others missing, and the
        mean of these answers is returned: on the validation fold no worse than answering the window as it is. Raises
        ValueError as `predict` does, also if all leads of a column are missing.
        """
        columns = [np.isin(self.leads, column)[:, None] for column in zip(*PAGE_3X4, strict=True)]
        return np.mean([self.predict(np.where(own, signal_mv, np.nan), fs) for own in columns], axis=0)

    def _check_leads(self, missing: np.ndarray) -> None:
        """Raise ValueError if the run cannot answer recordings of which leads are `missing`, (n, n_leads) bool."""
        if missing.all(axis=1).any():
            raise ValueError("a recording has no lead at all")
        if missing.any() and not self.takes_missing_leads:
            names = [lead for lead, is_missing in zip(self.leads, missing.any(axis=0), strict=True) if is_missing]
            raise ValueError(f"lead {', '.join(names)} is missing; only runs trained with --lead-subsets do without")

    def predict_microvolt(self, microvolt: np.ndarray, *, complete: bool = True) -> np.ndarray:
        """Return the probabilities (n, n_classes) of what `prepare` gave, or of rows of `signals.npy`.

        Where leads are missing, `complete` is False and their microvolts are 0.
        """
        seconds = microvolt.shape[-1] / self.fs
        if seconds < self.min_seconds:
            raise ValueError(f"{seconds:.2f} s long, the model needs at least {self.min_seconds:g} s")
        objective = self.config["objective"]
        if self.members:
            weights = self.members_for(seconds, complete=complete)
            if not weights:
                raise ValueError(f"no member of the ensemble answers {seconds:.2f} s with missing leads")
            answers = {name: self.members[name].predict_microvolt(microvolt, complete=complete) for name in weights}
            logits = sum(weight * logits_of(answers[name], objective) for name, weight in weights.items())
            probability = probability_of(logits, objective)
        else:
            probability = self.uncalibrated(microvolt)
        calibrated = calibrate(probability, self.config["temperature"], objective)
        return with_constants(calibrated, self.config.get("constant", {}), self.task)


def with_constants(probability: np.ndarray, constant: dict[str, float], task: Task) -> np.ndarray:
    """Return calibrated probabilities (n, n_classes) in which the classes of `constant` have the value given there.

    A baseline answers so for the classes that it could not learn.
    """
    probability = probability.copy()
    for name, value in constant.items():
        probability[:, task.classes.index(name)] = value
    return probability


def mean_over_windows(model: Callable[[np.ndarray], np.ndarray], microvolt: np.ndarray, window: int) -> np.ndarray:
    """Return the mean probabilities (n, n_classes) of a model that takes (n, n_leads, window).

    Windows overlap by half.
    """
    n, _, length = microvolt.shape
    starts = window_starts(length, window, overlap=True)
    pieces = [(record, start) for record in range(n) for start in starts]
    results = []
    for i in range(0, len(pieces), WINDOWS):
        batch = [microvolt[record, :, start : start + window] for record, start in pieces[i : i + WINDOWS]]
        results.append(model(np.stack(batch)))
    return np.concatenate(results).reshape(n, len(starts), -1).mean(axis=1)


def load_run(folder: Path | str, *, device: str = "auto", precision: Precision = "auto") -> StoredRun:
    """Return the model in a run folder: a network, a baseline or an ensemble.

    Raises a `UserError` if a file is missing, damaged or of another model.
    """
    folder = Path(folder)
    config = read_config(folder)
    if "temperature" not in config:
        raise UserError(f"{folder / 'config.json'}: 'temperature' is missing: run {MADE_BY} again")
    if "members" in config:
        names = config["members"]
        members = {name: load_run(folder.parent / name, device=device, precision=precision) for name in names}
        return StoredRun(config, None, members)
    if config["model"] in MODELS:
        model = _network(folder, config, device=device, precision=precision)
    else:
        model = _baseline(folder, config)
    window = config.get("window", config["signals"]["n_samples"])
    return StoredRun(config, lambda microvolt: mean_over_windows(model, microvolt, window))


def _network(
    folder: Path, config: dict[str, Any], *, device: str, precision: Precision
) -> Callable[[np.ndarray], np.ndarray]:
    chosen = pick_device(device)
    network = load_network(folder).to(chosen)
    dtype = pick_dtype(precision, chosen)

    def probability(windows: np.ndarray) -> np.ndarray:
        return network_probability(
            network,
            windows,
            np.arange(len(windows)),
            window=config["window"],
            objective=config["objective"],
            device=chosen,
            dtype=dtype,
        )

    return probability


def _baseline(folder: Path, config: dict[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    from ecg.baselines import load_baseline  # here, because it imports ecg.stored_run

    baseline = load_baseline(folder, config)
    return lambda windows: baseline.probability(baseline.features(windows / np.float32(UV_PER_MV)))


def load_network(folder: Path) -> Network:
    """Return the network of a run folder with its best weights, on the CPU, in evaluation mode."""
    config = read_config(folder)
    network = rebuild(config)
    try:
        network.load_state_dict(load_weights(folder))
    except RuntimeError:  # page after page of names
        raise UserError(
            f"{folder / 'best.pt'} does not hold the weights of {config['model']} as built here: run {MADE_BY} again"
        ) from None
    return network.eval()


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the best weights of a run folder, float32, on the CPU."""
    path = require(folder / "best.pt", MADE_BY)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)["weights"]
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError):
        raise UserError(f"{path} is damaged or of another program: run {MADE_BY} again") from None
    return {name: value.float() if value.dtype == torch.float16 else value for name, value in weights.items()}
