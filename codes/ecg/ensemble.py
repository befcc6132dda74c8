"""The ensembles, one per task: a weighted mean of the logits of the models trained on it, as a run of its own.

The one of the superclasses is in `artifacts/ensemble/`, that of another task in `artifacts/ensemble_TASK/`.
"""

from collections import Counter
from pathlib import Path
from statistics import mode

import numpy as np
from scipy.optimize import minimize

from ecg.artifacts import UserError, write_json
from ecg.calibration import calibrate, can_be_fitted, fit_temperature, log_loss, logits_of, probability_of
from ecg.hardware import machine
from ecg.labels import Splits, read_splits, read_tables
from ecg.runs import (
    Run,
    check_labels,
    find_runs,
    join_labels,
    write_predictions,
    write_validation_aucs,
)
from ecg.tasks import BENCHMARK, Objective, Task

MODEL = "ensemble"  # what config.json calls it
# trees add nothing to the networks (artifacts/LOG.md), and can be read by one version of scikit-learn only
LEFT_OUT = (MODEL, "naive", "random_forest", "hist_gradient_boosting")
EVEN = 75.0  # how strongly weights are pulled towards equal ones; by cross-validation within folds 1-9
LEAST_WEIGHT = 0.01  # a member below it would cost time in predict.py and change nothing


def ensemble_name(task: Task) -> str:
    """Return the name of a task's ensemble: `ensemble` for the superclasses, `ensemble_TASK` for others.

    It does not depend on the order of 02's tasks, so that another first task leaves the stored ensembles alone.
    """
    return MODEL if task.name == BENCHMARK[0] else f"{MODEL}_{task.name}"


def write_ensembles(artifacts: Path) -> None:
    """Blend, for every task, the networks and MiniRockets trained on it; remove ensembles that can no longer be made.

    Runs with a name or preset of their own (variants) are not members, so that a side experiment leaves the ensemble
    as it is. A task needs at least two members.
    """
    splits, runs = read_splits(artifacts), find_runs(artifacts)
    written = set()
    for task in splits.tasks.values():
        trained = [run for run in runs if run.task.name == task.name and run.config["model"] not in LEFT_OUT]
        members = [run for run in trained if not run.is_variant]
        if len(members) >= 2:
            name = ensemble_name(task)
            _write_ensemble(artifacts, name, task, _of_one_objective(members), splits)
            written.add(artifacts / name)
        elif trained:
            print(
                f"no ensemble for {task.name}: it needs two networks or MiniRockets without a --name or --preset of "
                f"their own, and there is {'one' if members else 'none'}"
            )
    for run in runs:
        if run.config["model"] == MODEL and run.folder not in written:
            _remove(run.folder)


def _of_one_objective(runs: list[Run]) -> list[Run]:
    """Return the runs of the more frequent objective: sigmoids and a softmax have no common logits."""
    chosen = mode([run.config["objective"] for run in runs])
    others = [run.name for run in runs if run.config["objective"] != chosen]
    if others:
        print(f"ensemble: {', '.join(others)} left out, not trained as {chosen}")
    return [run for run in runs if run.config["objective"] == chosen]


def _remove(folder: Path) -> None:
    for path in folder.glob("*.*"):
        path.unlink()
    print(f"{folder.name} removed: its members are no longer there")


def _write_ensemble(artifacts: Path, name: str, task: Task, runs: list[Run], splits: Splits) -> None:
    """Write the run folder of an ensemble of `runs`.

    Seeds of a model count alike. Weights of the models and temperature are fitted on the validation fold; the test
    fold is only predicted.
    """
    for run in runs:
        check_labels(run, splits)
    _check_that_all_see_the_same(runs)
    objective: Objective = runs[0].config["objective"]
    models = list(dict.fromkeys(run.model for run in runs))
    tables = read_tables(artifacts, ("val", "test"), [task])
    logits, labels = {}, {}
    for split in ("val", "test"):
        read = {run.name: join_labels(run, split, tables[task.name, split]) for run in runs}
        common = sorted(set.intersection(*(set(table.index) for _, table in read.values())))
        predicted = max(len(table) for _, table in read.values())
        if len(common) < predicted:
            print(f"{name}: {len(common)} of {predicted} {split} records, those that every member predicted")
        if not common:
            raise UserError(f"{name}: no {split} record was predicted by all of {', '.join(read)}: train them again")
        labels[split] = read[runs[0].name][0].loc[common, list(task.classes)]
        of_run = {member: logits_of(table.loc[common].to_numpy(), objective) for member, (_, table) in read.items()}
        of_model = [[of_run[run.name] for run in runs if run.model == model] for model in models]
        logits[split] = np.stack([np.mean(seeds, axis=0) for seeds in of_model])  # (n_models, n, n_classes)
    known = labels["val"].to_numpy()
    weights = fit_weights(known, logits["val"], objective)
    raw = {split: probability_of(np.tensordot(weights, values, 1), objective) for split, values in logits.items()}
    temperature = fit_temperature(known, raw["val"], objective)

    folder, share = artifacts / name, dict(zip(models, weights.tolist(), strict=True))
    config = _config(artifacts, name, task, runs, share) | {
        "labels_sha256": splits.labels_sha256[task.name],
        "temperature": temperature,
        **machine(),
    }
    write_json(config, folder / "config.json")  # first: no run is without
    for split, values in raw.items():
        ecg_id = labels[split].index.to_numpy()
        write_predictions(folder, split, ecg_id, calibrate(values, temperature, objective), task)
    write_validation_aucs(folder, known, raw["val"], task)
    shown = sorted(((weight, model) for model, weight in share.items() if weight > 0), reverse=True)
    print(f"{name}: " + ", ".join(f"{weight:.2f} {model}" for weight, model in shown))


def _config(artifacts: Path, name: str, task: Task, runs: list[Run], share: dict[str, float]) -> dict[str, object]:
    """Return what the `config.json` of an ensemble says of it; `share` is the weight of each model."""
    seeds, signals, members = Counter(run.model for run in runs), runs[0].config["signals"], {}
    for run in runs:
        if share[run.model] > 0:
            members[run.folder.relative_to(artifacts).as_posix()] = share[run.model] / seeds[run.model]
    windows = [run.config.get("window", signals["n_samples"]) for run in runs if share[run.model] > 0]
    return {
        "run": name,
        "model": MODEL,
        "task": task.to_json(),
        "objective": runs[0].config["objective"],
        "window": max(windows),
        "signals": signals,
        "settings": {"even": EVEN, "least_weight": LEAST_WEIGHT},
        "members": members,
    }


def _check_that_all_see_the_same(runs: list[Run]) -> None:
    """Raise a `UserError` if two runs were trained on differently prepared signals: predict.py prepares them once."""
    for key in ("fs", "leads", "filter", "limit_mv"):
        first, expected = runs[0], runs[0].config["signals"][key]
        for run in runs:
            if run.config["signals"][key] != expected:
                raise UserError(
                    f"{run.folder / 'config.json'}: signals.{key} is {run.config['signals'][key]}, but {expected} in "
                    f"{first.name}; the ensemble needs one: train one of them again, give it a --name, or move its "
                    "folder away"
                )


def fit_weights(labels: np.ndarray, logits: np.ndarray, objective: Objective) -> np.ndarray:
    """Return the weights (n_models,), not negative and of sum 1, with which to blend `logits`.

    `labels` (n, n_classes), `logits` (n_models, n, n_classes), of the validation fold. They have the least log loss,
    summed over its records, plus EVEN times their squared distance from equal weights: on few records the loss alone
    follows chance, and equal weights are hard to beat (Stock & Watson 2004, "forecast combination puzzle"); on many
    records the loss decides. The sum is convex in the weights. They are equal where the labels cannot say.
    """
    n = len(logits)
    if not can_be_fitted(labels, objective):
        return np.full(n, 1 / n)
    records = len(labels) if objective == "multilabel" else (labels.sum(axis=1) == 1).sum()  # in the mean of the loss

    def loss(weights: np.ndarray) -> float:
        blend = log_loss(labels, np.tensordot(weights, logits, 1), objective)
        return blend + EVEN / records * ((weights - 1 / n) ** 2).sum()

    found = minimize(
        loss,
        np.full(n, 1 / n),
        method="SLSQP",
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
    )
    if not found.success:
        raise UserError(f"the weights of the ensemble were not found: {found.message}")
    weights = np.where(found.x < LEAST_WEIGHT, 0, found.x)
    return weights / weights.sum()
