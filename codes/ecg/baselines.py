"""Models without a network: what a result has to beat, trained in about a minute and stored as plain numbers or skops.

A baseline is its features of a record and a head on them. Choices inside (ridge penalty, calibration) are made by
leaving out patients of the training records in turn; the validation and test records are only predicted.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numba
import numpy as np
import sklearn
import skops.io
from aeon.transformations.collection.convolution_based import MiniRocket
from scipy.special import expit, softmax
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.multioutput import MultiOutputClassifier
from sklearn.preprocessing import StandardScaler

from ecg.artifacts import UserError, atomic, check_at_least, cores, require, write_json
from ecg.calibration import calibrate, fit_temperature
from ecg.custom_transformers import LeadStatistics
from ecg.data import available, load_signals
from ecg.inference import Task
from ecg.labels import CLASSES, LEADS, SPLITS
from ecg.metrics import macro_auc
from ecg.predictions import machine, run_folder, write_predictions, write_validation_aucs

MADE_BY = "codes/04_train_baseline_ml.py"
ALPHAS = np.logspace(2, 6, 13)  # ridge penalties; PTB-XL chooses 10^3 to 10^4
FOLDS = GroupKFold(5)


class Naive:
    """The share of each superclass among the training records, whatever the signal: the floor of every table."""

    file: ClassVar[str] = "model.npz"

    def __init__(self, prevalence: np.ndarray):
        self.prevalence = prevalence

    def features(self, millivolt: np.ndarray) -> np.ndarray:
        return millivolt  # only how many there are matters

    def probability(self, features: np.ndarray) -> np.ndarray:
        return np.tile(self.prevalence, (len(features), 1))

    def save(self, path: Path) -> None:
        np.savez_compressed(path, prevalence=self.prevalence)

    @classmethod
    def load(cls, path: Path, config: dict[str, Any]) -> "Naive":
        return cls(np.load(path)["prevalence"])


class Trees:
    """A scikit-learn ensemble of trees on the eight statistics of every lead."""

    file: ClassVar[str] = "model.skops"
    # what skops does not know by itself; both hold arrays only
    TRUSTED = ("sklearn.tree._tree.Tree", "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor")

    def __init__(self, estimator: Any):
        self.estimator = estimator

    def features(self, millivolt: np.ndarray) -> np.ndarray:
        return LeadStatistics().fit_transform(millivolt)

    def probability(self, features: np.ndarray) -> np.ndarray:
        answer = self.estimator.predict_proba(features)  # multiclass: (n, 5), multilabel: five of (n, 2)
        return answer if isinstance(answer, np.ndarray) else np.stack([p[:, 1] for p in answer], axis=1)

    def save(self, path: Path) -> None:
        skops.io.dump(self.estimator, path, compression=8)  # zip's deflate

    @classmethod
    def load(cls, path: Path, config: dict[str, Any]) -> "Trees":
        made_with = config["versions"]["scikit-learn"]
        if made_with != sklearn.__version__:
            raise UserError(
                f"{path} was made with scikit-learn {made_with}, this is {sklearn.__version__}: run {MADE_BY} again"
            )
        return cls(skops.io.load(path, trusted=list(cls.TRUSTED)))


class Rocket:
    """MiniRocket (Dempster et al. 2021) on the leads in millivolts, and a linear layer on its 9,996 features.

    `parameters`: the five arrays that MiniRocket fits; `coef` (5, n_features) and `intercept` (5,) give the logits.
    """

    file: ClassVar[str] = "model.npz"
    PARAMETERS = ("n_channels_per_combination", "channels", "dilations", "n_features_per_dilation", "biases")

    def __init__(self, parameters: tuple[np.ndarray, ...], coef: np.ndarray, intercept: np.ndarray, task: Task):
        self.parameters, self.coef, self.intercept, self.task = parameters, coef, intercept, task

    def features(self, millivolt: np.ndarray) -> np.ndarray:
        return rocket_features(millivolt, self.parameters, jobs=cores())

    def probability(self, features: np.ndarray) -> np.ndarray:
        # in float64: in float32 a record's answer would depend, in its sixth digit, on those it is asked with
        logits = features @ self.coef.T.astype(np.float64) + self.intercept
        return expit(logits) if self.task == "multilabel" else softmax(logits, axis=1)

    def save(self, path: Path) -> None:
        arrays = dict(zip(self.PARAMETERS, self.parameters, strict=True))
        np.savez_compressed(path, coef=self.coef, intercept=self.intercept, **arrays)

    @classmethod
    def load(cls, path: Path, config: dict[str, Any]) -> "Rocket":
        stored = np.load(path)
        parameters = tuple(stored[name] for name in cls.PARAMETERS)
        return cls(parameters, stored["coef"], stored["intercept"], config["task"])


Baseline = Naive | Trees | Rocket
BASELINES: dict[str, type[Baseline]] = {
    "naive": Naive,
    "random_forest": Trees,
    "hist_gradient_boosting": Trees,
    "minirocket_ridge": Rocket,
    "minirocket_logistic": Rocket,
}


def rocket_features(millivolt: np.ndarray, parameters: tuple[np.ndarray, ...], *, jobs: int) -> np.ndarray:
    """Return the share of each record that exceeds each bias after each convolution, (n, n_features) float32."""
    jobs = min(jobs, numba.config.NUMBA_NUM_THREADS)
    rocket = MiniRocket(n_kernels=84, n_jobs=jobs, random_state=0).fit(millivolt[:1])  # any fit, replaced in a moment
    rocket.parameters = parameters
    return rocket.transform(millivolt)


def train_baselines(
    *,
    data: Path,
    artifacts: Path,
    task: Task,
    seed: int,
    jobs: int,
    trees: int,
    boosting_rounds: int,
    kernels: int,
    logistic_c: float,
) -> None:
    """Fit every baseline on train, predict validation and test, leave `artifacts/baseline/<name>/`."""
    for flag, value, least in (
        *(("--seed", seed, 0), ("--jobs", jobs, 0), ("--trees", trees, 1), ("--boosting-rounds", boosting_rounds, 1)),
        *(("--kernels", kernels, 84), ("--logistic-c", logistic_c, 1e-9)),
    ):
        check_at_least(flag, value, least)
    jobs = jobs or cores()
    settings = {"trees": trees, "boosting_rounds": boosting_rounds, "kernels": kernels, "logistic_c": logistic_c}
    signals = load_signals(artifacts)
    tables = {split: available(artifacts, signals, split) for split in SPLITS}
    if task == "multiclass":
        tables["train"] = tables["train"][tables["train"].label != ""]
    millivolt = {split: signals.millivolt(table.ecg_id.to_numpy()) for split, table in tables.items()}
    target = {split: table[list(CLASSES)].to_numpy() for split, table in tables.items()}
    for label, positive in zip(CLASSES, target["train"].T, strict=True):
        if positive.all() or not positive.any():
            raise UserError(f"{artifacts / 'ptbxl_train.csv'}: all or none of the training records are {label}")
    patients = tables["train"].patient_id.to_numpy()
    y = target["train"] if task == "multilabel" else target["train"].argmax(axis=1)

    def extract(features: Callable[[np.ndarray], np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
        started = time.perf_counter()
        return {split: features(x) for split, x in millivolt.items()}, time.perf_counter() - started

    facts = {
        "task": task,
        "augment": False,
        "seed": seed,
        "classes": CLASSES,
        "leads": LEADS,
        "signals": signals.meta,
        "settings": settings,
        "n_train": len(y),
        "threads": jobs,
        "device": "cpu",
        **machine(),
    }
    started = time.perf_counter()
    parameters = fit_rocket(millivolt["train"], kernels=kernels, seed=seed)
    fitting = time.perf_counter() - started
    convolved, seconds = extract(lambda x: rocket_features(x, parameters, jobs=jobs))
    rocket = (convolved, fitting + seconds)
    statistics = extract(Trees(None).features)
    scaler = StandardScaler().fit(convolved["train"])

    def linear(fit: Callable[..., tuple[np.ndarray, np.ndarray]], **options: Any) -> Rocket:
        coef, intercept = fit(scaler.transform(convolved["train"]), y, task=task, **options)
        coef = (coef / scaler.scale_).astype(np.float32)  # so that prediction needs no scaler
        return Rocket(parameters, coef, intercept - coef @ scaler.mean_, task)

    x = statistics[0]["train"]
    plans: dict[str, tuple[tuple[dict[str, np.ndarray], float], Callable[[], Baseline]]] = {
        "naive": ((millivolt, 0.0), lambda: Naive(target["train"].mean(axis=0))),
        "random_forest": (statistics, lambda: Trees(forest(trees, seed=seed, jobs=jobs).fit(x, y))),
        "hist_gradient_boosting": (statistics, lambda: Trees(boosting(boosting_rounds, task, seed=seed).fit(x, y))),
        "minirocket_ridge": (rocket, lambda: linear(fit_ridge, patients=patients)),
        "minirocket_logistic": (rocket, lambda: linear(fit_logistic, c=logistic_c)),
    }
    for name, ((features, seconds), fit) in plans.items():
        started = time.perf_counter()
        model = fit()
        seconds += time.perf_counter() - started
        folder = run_folder(artifacts, f"baseline/{name}", seed)
        probability = {split: model.probability(features[split]) for split in SPLITS[1:]}
        temperature = 1.0 if name == "naive" else fit_temperature(target["val"], probability["val"], task)
        for split, values in probability.items():
            ecg_id = tables[split].ecg_id.to_numpy()
            write_predictions(folder, split, ecg_id, calibrate(values, temperature, task))
        # the test fold's numbers stand in final_results/ alone
        write_validation_aucs(folder, target["val"], probability["val"])
        auc = macro_auc(target["val"], probability["val"])
        own = {"run": folder.relative_to(artifacts).as_posix(), "model": name, "seconds": round(seconds, 1)}
        own |= {"temperature": temperature}
        save_baseline(model, folder, own | facts)
        print(f"{name:24} validation macro AUC {auc:.4f}  {seconds:5.1f} s  {folder}", flush=True)


def fit_rocket(millivolt: np.ndarray, *, kernels: int, seed: int) -> tuple[np.ndarray, ...]:
    """Choose MiniRocket's dilations, lead combinations and biases from training records (n, 12, n_samples)."""
    return MiniRocket(n_kernels=kernels, random_state=seed).fit(millivolt).parameters


def forest(trees: int, *, seed: int, jobs: int) -> RandomForestClassifier:
    return RandomForestClassifier(trees, min_samples_leaf=3, random_state=seed, n_jobs=jobs)


def boosting(rounds: int, task: Task, *, seed: int) -> Any:
    """Histogram gradient boosting; small trees and few rounds, because its early stopping would mix patients."""
    model = HistGradientBoostingClassifier(
        max_iter=rounds,
        learning_rate=0.05,
        max_leaf_nodes=8,
        max_features=0.3,
        l2_regularization=1,
        early_stopping=False,
        random_state=seed,
    )
    return model if task == "multiclass" else MultiOutputClassifier(model)


def fit_ridge(x: np.ndarray, y: np.ndarray, *, task: Task, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (coef (5, p), intercept (5,)) of logits: ridge scores, then calibrated.

    One penalty for all classes, see `choose_penalty`. A ridge score is no probability: a logistic regression on the
    scores of training patients left out in turn makes it one (Platt 1999), with no look at the validation records.
    """
    target = 2.0 * (y if task == "multilabel" else np.eye(len(CLASSES))[y]).astype(np.float32) - 1
    ridge = Ridge(choose_penalty(x, target, patients)).fit(x, target)
    scores = cross_val_predict(clone(ridge), x, target, groups=patients, cv=FOLDS)
    if task == "multilabel":
        fits = [LogisticRegression(C=1e4).fit(scores[:, [k]], y[:, k]) for k in range(len(CLASSES))]
        slope = np.diag([fit.coef_.item() for fit in fits])
        shift = np.array([fit.intercept_.item() for fit in fits])
    else:
        fit = LogisticRegression(C=1e4).fit(scores, y)
        slope, shift = fit.coef_, fit.intercept_
    return slope @ ridge.coef_, slope @ ridge.intercept_ + shift


def choose_penalty(x: np.ndarray, target: np.ndarray, patients: np.ndarray) -> float:
    """Return the ridge penalty of ALPHAS with the least squared error on patients left out in turn.

    `x` (n, p), `target` (n, k), `patients` (n,). No model is fitted again for it: with the hat matrix H, leaving out
    the records g of a patient turns their residuals r into (I - H_gg)^-1 r (Cook & Weisberg 1982, for one record the
    usual PRESS), and one eigendecomposition gives H for every penalty.
    """
    x, target = x - x.mean(axis=0), target - target.mean(axis=0)
    if len(x) <= x.shape[1]:
        size, basis = np.linalg.eigh(x @ x.T)
        scores = basis * np.sqrt(np.maximum(size, 0))  # (n, n)
    else:
        size, basis = np.linalg.eigh(x.T @ x)
        scores = x @ basis  # (n, p)
    shrink = (1 / (np.maximum(size, 0) + ALPHAS[:, None])).astype(x.dtype)  # (13, n or p): H = scores shrink scores'
    residual = target - scores @ (shrink[:, :, None] * (scores.T @ target))  # (13, n, k)
    error = np.zeros(len(ALPHAS))
    for rows in np.split(np.argsort(patients, kind="stable"), np.unique(np.sort(patients), return_index=True)[1][1:]):
        hat = (scores[rows] * shrink[:, None]) @ scores[rows].T + 1 / len(x)  # (13, m, m); 1 / n is the intercept's
        error += (np.linalg.solve(np.eye(len(rows)) - hat, residual[:, rows]) ** 2).sum(axis=(1, 2))
    return float(ALPHAS[error.argmin()])


def fit_logistic(x: np.ndarray, y: np.ndarray, *, task: Task, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (coef (5, p), intercept (5,)): one regression per class, or one with softmax for `multiclass`."""
    model = LogisticRegression(C=c, max_iter=500)
    if task == "multiclass":
        model.fit(x, y)
        return model.coef_, model.intercept_
    fits = [clone(model).fit(x, y[:, k]) for k in range(len(CLASSES))]
    return np.concatenate([fit.coef_ for fit in fits]), np.concatenate([fit.intercept_ for fit in fits])


def save_baseline(model: Baseline, folder: Path, config: dict[str, Any]) -> None:
    """Write the model and `config.json`, which names its checksum."""
    path = folder / model.file
    with atomic(path) as temporary:
        model.save(temporary)
    write_json(config | {"sha256": _sha256(path)}, folder / "config.json")


def load_baseline(folder: Path, config: dict[str, Any]) -> Baseline:
    """Read back what `save_baseline` wrote; raise a `UserError` if it is missing, changed or of another version."""
    if config.get("model") not in BASELINES:
        raise UserError(f"{folder / 'config.json'}: model {config.get('model')!r} is not known here")
    if "sha256" not in config:
        raise UserError(f"{folder / 'config.json'}: there is no sha256 of the model file: run {MADE_BY} again")
    kind = BASELINES[config["model"]]
    path = require(folder / kind.file, MADE_BY)
    if _sha256(path) != config["sha256"]:
        raise UserError(f"{path} is not the file that config.json was written for (SHA-256): run {MADE_BY} again")
    return kind.load(path, config)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
