"""Models without a network: what a result has to beat, trained in about a minute and stored as plain numbers or skops.

A baseline is its features of a record and a head on them. Choices inside (ridge penalty, calibration) are made by
leaving out patients of the training records in turn; the validation and test records are only predicted.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import sklearn
from scipy.special import expit, softmax
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.multioutput import MultiOutputClassifier
from sklearn.preprocessing import StandardScaler

from ecg.artifacts import UserError, atomic, require, write_json
from ecg.calibration import calibrate, fit_temperature
from ecg.command_line import check_at_least
from ecg.custom_transformers import LeadStatistics
from ecg.hardware import cores, machine
from ecg.labels import SPLITS, read_splits
from ecg.metrics import macro_auc
from ecg.minirocket import PARAMETERS, Parameters, fit_rocket, rocket_features
from ecg.runs import (
    made_with,
    read_config,
    refuse_other_settings,
    run_folder,
    task_of,
    write_predictions,
    write_validation_aucs,
)
from ecg.signals import Signals, available, load_signals
from ecg.stages import baseline_name
from ecg.stored_run import with_constants
from ecg.tasks import Objective, Task

MADE_BY = "codes/04_train_baseline_ml.py"
ALPHAS = np.logspace(2, 6, 13)  # ridge penalties; PTB-XL chooses 10^3 to 10^4
FOLDS = GroupKFold(5)


class Naive:
    """The share of each class among the training records, whatever the signal: the floor of every table."""

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
        found = self.estimator.predict_proba(features)  # multiclass: (n, k), multilabel: k arrays (n, 2)
        return found if isinstance(found, np.ndarray) else np.stack([p[:, 1] for p in found], axis=1)

    def save(self, path: Path) -> None:
        import skops.io  # takes longer to import than all else here

        skops.io.dump(self.estimator, path, compression=8)  # zip's deflate

    @classmethod
    def load(cls, path: Path, config: dict[str, Any]) -> "Trees":
        import skops.io

        made_with = config["versions"]["scikit-learn"]
        if made_with != sklearn.__version__:
            raise UserError(
                f"{path} was made with scikit-learn {made_with}, this is {sklearn.__version__}: run {MADE_BY} again"
            )
        return cls(skops.io.load(path, trusted=list(cls.TRUSTED)))


class Rocket:
    """MiniRocket (Dempster et al. 2021) on the leads in millivolts, and a linear layer on its 9,996 features.

    `parameters`: the five arrays of `ecg.minirocket`; `coef` (k, n_features) and `intercept` (k,) give the logits of
    k classes.
    """

    file: ClassVar[str] = "model.npz"

    def __init__(self, parameters: Parameters, coef: np.ndarray, intercept: np.ndarray, objective: Objective):
        self.parameters, self.coef, self.intercept, self.objective = parameters, coef, intercept, objective

    def features(self, millivolt: np.ndarray) -> np.ndarray:
        return rocket_features(millivolt, self.parameters, jobs=cores())

    def probability(self, features: np.ndarray) -> np.ndarray:
        # in float64: in float32 a record's answer would depend, in its sixth digit, on those it is asked with
        logits = features @ self.coef.T.astype(np.float64) + self.intercept
        return expit(logits) if self.objective == "multilabel" else softmax(logits, axis=1)

    def save(self, path: Path) -> None:
        arrays = dict(zip(PARAMETERS, self.parameters, strict=True))
        np.savez_compressed(path, coef=self.coef, intercept=self.intercept, **arrays)

    @classmethod
    def load(cls, path: Path, config: dict[str, Any]) -> "Rocket":
        stored = np.load(path)
        parameters = tuple(stored[name] for name in PARAMETERS)
        return cls(parameters, stored["coef"], stored["intercept"], config["objective"])


class WithConstants:
    """A baseline that learned some of the classes, and a constant probability for each of the others.

    `columns` (k,) are the positions of the learned classes among all, `constant` (n_classes,) what the others get: a
    class that all training records have, or none, cannot be learned.
    """

    def __init__(self, model: "Baseline", columns: np.ndarray, constant: np.ndarray):
        self.features, self.model, self.columns, self.constant = model.features, model, columns, constant

    def probability(self, features: np.ndarray) -> np.ndarray:
        probability = np.tile(self.constant, (len(features), 1))
        probability[:, self.columns] = self.model.probability(features)
        return probability


Baseline = Naive | Trees | Rocket
BASELINES: dict[str, type[Baseline]] = {
    "naive": Naive,
    "random_forest": Trees,
    "hist_gradient_boosting": Trees,
    "minirocket_ridge": Rocket,
    "minirocket_logistic": Rocket,
}


@dataclass(frozen=True)
class _Data:
    """What the baselines learn from and predict: {split: ...} of ids, signals (n, n_leads, t) in mV and labels (n, k).

    `learned` are the positions of the classes that can be learned; `y` holds those of the training records: multi-hot
    (n, k), or for a softmax the position of the only class (n,).
    """

    ecg_id: dict[str, np.ndarray]
    millivolt: dict[str, np.ndarray]
    target: dict[str, np.ndarray]
    patients: np.ndarray
    learned: np.ndarray
    y: np.ndarray


def _load(artifacts: Path, signals: Signals, task: Task, objective: Objective) -> _Data:
    tables = {split: available(artifacts, signals, split, task) for split in SPLITS}
    if objective == "multiclass":
        tables["train"] = tables["train"][tables["train"].label != ""]
    target = {split: table[list(task.classes)].to_numpy() for split, table in tables.items()}
    share = target["train"].mean(axis=0) if len(tables["train"]) else np.zeros(len(task))
    learned = np.flatnonzero((share > 0) & (share < 1))
    if not len(learned):
        raise UserError(f"{artifacts}: no class of {task.name} has training records with and without it")
    left_out = [name for i, name in enumerate(task.classes) if i not in learned]
    if left_out:
        print(f"all or no training records have {', '.join(left_out)}: every model answers their share")
    y = target["train"][:, learned]
    return _Data(
        ecg_id={split: table.ecg_id.to_numpy() for split, table in tables.items()},
        millivolt={split: signals.millivolt(table.ecg_id.to_numpy()) for split, table in tables.items()},
        target=target,
        patients=tables["train"].patient_id.to_numpy(),
        learned=learned,
        y=y if objective == "multilabel" else y.argmax(axis=1),
    )


def train_baselines(
    *,
    data: Path,
    artifacts: Path,
    labels: str,
    name: str,
    overwrite: bool,
    objective: Objective,
    seed: int,
    jobs: int,
    trees: int,
    boosting_rounds: int,
    kernels: int,
    logistic_c: float,
) -> None:
    """Fit every baseline on train, predict validation and test, leave `artifacts/baseline/<model>/`."""
    check_at_least("--seed", seed, 0)
    check_at_least("--jobs", jobs, 0)
    check_at_least("--trees", trees, 1)
    check_at_least("--boosting-rounds", boosting_rounds, 1)
    check_at_least("--kernels", kernels, 84)
    check_at_least("--logistic-c", logistic_c, 1e-9)
    jobs = jobs or cores()
    splits = read_splits(artifacts)
    task = splits.task(labels)
    signals = load_signals(artifacts)
    runs = {kind: f"{baseline_name(labels, name)}/{kind}" for kind in BASELINES}
    known = _load(artifacts, signals, task, objective)
    config = {
        "task": task.to_json(),
        "objective": objective,
        "labels_sha256": splits.labels_sha256[task.name],
        "splits": splits.rules,
        "signals": signals.meta,
        "settings": {
            "labels": labels,
            "name": name,
            "objective": objective,
            "seed": seed,
            "trees": trees,
            "boosting_rounds": boosting_rounds,
            "kernels": kernels,
            "logistic_c": logistic_c,
        },
        "n_train": len(known.y),
        "threads": jobs,
        "device": "cpu",
        **machine(),
    }
    if not overwrite:
        for kind, run in runs.items():
            folder = run_folder(artifacts, run, seed)
            if (folder / "config.json").exists():
                refuse_other_settings(folder, made_with(read_config(folder)), made_with(config | {"model": kind}))
    started = time.perf_counter()
    parameters = fit_rocket(known.millivolt["train"], kernels=kernels, seed=seed)
    convolved = {split: rocket_features(x, parameters, jobs=jobs) for split, x in known.millivolt.items()}
    seconds_rocket = time.perf_counter() - started
    started = time.perf_counter()
    statistics = {split: Trees(None).features(x) for split, x in known.millivolt.items()}
    seconds_statistics = time.perf_counter() - started
    scaler = StandardScaler().fit(convolved["train"])
    scaled = scaler.transform(convolved["train"])
    x, y = statistics["train"], known.y

    def rocket(coef: np.ndarray, intercept: np.ndarray) -> Rocket:
        coef = (coef / scaler.scale_).astype(np.float32)  # so that prediction needs no scaler
        return Rocket(parameters, coef, intercept - coef @ scaler.mean_, objective)

    prevalence = known.target["train"][:, known.learned].mean(axis=0)
    plans = [
        _Plan("naive", known.millivolt, 0.0, lambda: Naive(prevalence)),
        _Plan(
            "random_forest",
            statistics,
            seconds_statistics,
            lambda: Trees(forest(trees, seed=seed, jobs=jobs).fit(x, y)),
        ),
        _Plan(
            "hist_gradient_boosting",
            statistics,
            seconds_statistics,
            lambda: Trees(boosting(boosting_rounds, objective, seed=seed).fit(x, y)),
        ),
        _Plan(
            "minirocket_ridge",
            convolved,
            seconds_rocket,
            lambda: rocket(*fit_ridge(scaled, y, objective=objective, patients=known.patients)),
        ),
        _Plan(
            "minirocket_logistic",
            convolved,
            seconds_rocket,
            lambda: rocket(*fit_logistic(scaled, y, objective=objective, c=logistic_c)),
        ),
    ]
    for plan in plans:
        _train_one(plan, known, task, artifacts, runs[plan.name], config)


@dataclass(frozen=True)
class _Plan:
    """One baseline: its features of each split, the seconds they took, and how it is fitted."""

    name: str
    features: dict[str, np.ndarray]
    seconds: float
    fit: Callable[[], Baseline]


def _train_one(plan: _Plan, known: _Data, task: Task, artifacts: Path, run: str, config: dict[str, Any]) -> None:
    """Fit one baseline, predict validation and test, write its run folder."""
    objective, seed = config["objective"], config["settings"]["seed"]
    folder = run_folder(artifacts, run, seed)
    started = time.perf_counter()
    fitted = plan.fit()
    seconds = plan.seconds + time.perf_counter() - started
    share = known.target["train"].mean(axis=0)
    constant = {name: share[i] for i, name in enumerate(task.classes) if i not in known.learned}
    model = WithConstants(fitted, known.learned, share)
    probability = {split: model.probability(plan.features[split]) for split in SPLITS[1:]}
    temperature = 1.0
    if plan.name != "naive":
        # without the constants: they would change the temperature, and no temperature makes them better
        learned = known.target["val"][:, known.learned], probability["val"][:, known.learned]
        temperature = fit_temperature(*learned, objective)
    for split, values in probability.items():
        calibrated = with_constants(calibrate(values, temperature, objective), constant, task)
        write_predictions(folder, split, known.ecg_id[split], calibrated, task)
    # the test fold's numbers are in final_results/ alone
    write_validation_aucs(folder, known.target["val"], probability["val"], task)
    auc = macro_auc(known.target["val"], probability["val"])
    own = {
        "run": folder.relative_to(artifacts).as_posix(),
        "model": plan.name,
        "seconds": round(seconds, 1),
        "temperature": temperature,
        "constant": constant,
    }
    save_baseline(fitted, folder, own | config)
    print(f"{plan.name:24} validation macro AUC {auc:.4f}  {seconds:5.1f} s  {folder}", flush=True)


def forest(trees: int, *, seed: int, jobs: int) -> RandomForestClassifier:
    return RandomForestClassifier(trees, min_samples_leaf=3, random_state=seed, n_jobs=jobs)


def boosting(rounds: int, objective: Objective, *, seed: int) -> Any:
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
    return model if objective == "multiclass" else MultiOutputClassifier(model)


def fit_ridge(
    x: np.ndarray, y: np.ndarray, *, objective: Objective, patients: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (coef (k, p), intercept (k,)) of logits: ridge scores, then calibrated.

    One penalty for all classes, see `choose_penalty`. A ridge score is no probability: a logistic regression on the
    scores of training patients left out in turn makes it one (Platt 1999), with no look at the validation records.
    """
    one_hot = y if objective == "multilabel" else np.eye(y.max() + 1)[y]
    target = 2.0 * one_hot.astype(np.float32) - 1
    ridge = Ridge(choose_penalty(x, target, patients)).fit(x, target)
    scores = cross_val_predict(clone(ridge), x, target, groups=patients, cv=FOLDS)
    if objective == "multilabel":
        fits = [LogisticRegression(C=1e4).fit(scores[:, [k]], y[:, k]) for k in range(y.shape[1])]
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


def fit_logistic(x: np.ndarray, y: np.ndarray, *, objective: Objective, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (coef (k, p), intercept (k,)): one regression per class, or one with softmax for `multiclass`."""
    model = LogisticRegression(C=c, max_iter=500)
    if objective == "multiclass":
        model.fit(x, y)
        return model.coef_, model.intercept_
    fits = [clone(model).fit(x, y[:, k]) for k in range(y.shape[1])]
    return np.concatenate([fit.coef_ for fit in fits]), np.concatenate([fit.intercept_ for fit in fits])


def save_baseline(model: Baseline, folder: Path, config: dict[str, Any]) -> None:
    """Write the model and `config.json`, which names its checksum."""
    path = folder / model.file
    with atomic(path) as temporary:
        model.save(temporary)
    write_json(config | {"sha256": _sha256(path)}, folder / "config.json")


def load_baseline(folder: Path, config: dict[str, Any]) -> WithConstants:
    """Read back what `save_baseline` wrote; raise a `UserError` if it is missing, changed or of another version."""
    if config.get("model") not in BASELINES:
        raise UserError(f"{folder / 'config.json'}: model {config.get('model')!r} is not known here")
    if "sha256" not in config:
        raise UserError(f"{folder / 'config.json'}: there is no sha256 of the model file: run {MADE_BY} again")
    kind = BASELINES[config["model"]]
    path = require(folder / kind.file, MADE_BY)
    if _sha256(path) != config["sha256"]:
        raise UserError(f"{path} is not the file that config.json was written for (SHA-256): run {MADE_BY} again")
    task, constant = task_of(config), config.get("constant", {})
    learned = np.array([i for i, name in enumerate(task.classes) if name not in constant])
    return WithConstants(kind.load(path, config), learned, np.array([constant.get(name, 0.0) for name in task.classes]))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
