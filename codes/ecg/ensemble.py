"""The ensemble: a weighted mean of the logits of all trained models, as a run of its own in `artifacts/ensemble/`."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from ecg.artifacts import UserError, write_json
from ecg.calibration import calibrate, fit_temperature, log_loss, logits_of, probability_of
from ecg.labels import CLASSES, LEADS
from ecg.predictions import find_runs, machine, read_labelled, write_predictions, write_validation_aucs

NAME = "ensemble"
LEAST_WEIGHT = 0.01  # a member below it would cost time in predict.py and change nothing


def write_ensemble(artifacts: Path) -> None:
    """Blend the models that `codes/04` to `10` have trained (prevalence aside); fewer than two leave no ensemble.

    Seeds of a model count alike. The weights of the models, not negative and of sum 1, have the least log loss on the
    validation fold, and so has the temperature; the test fold is only predicted.
    """
    folder = artifacts / NAME
    runs = [
        run for run in find_runs(artifacts) if run.config["model"] not in (NAME, "naive") and "signals" in run.config
    ]
    tasks = {run.config["task"] for run in runs}
    models = list(dict.fromkeys(run.model for run in runs))
    if len(models) < 2 or len(tasks) > 1:
        for old in folder.glob("predictions_*"):  # of models that are no longer there
            old.unlink()
        return
    (task,) = tasks
    logits, labels = {}, {}
    for split in ("val", "test"):
        read = {run.name: read_labelled(artifacts, run.folder, split) for run in runs}
        common = sorted(set.intersection(*(set(table.index) for _, table in read.values())))
        labels[split] = next(iter(read.values()))[0].loc[common, list(CLASSES)]
        answers = {name: logits_of(table.loc[common].to_numpy(), task) for name, (_, table) in read.items()}
        # (n_models, n, 5)
        logits[split] = np.stack(
            [np.mean([answers[run.name] for run in runs if run.model == m], axis=0) for m in models]
        )
    known = labels["val"].to_numpy()
    weights = fit_weights(known, logits["val"], task)
    raw = {split: probability_of(np.tensordot(weights, values, 1), task) for split, values in logits.items()}
    temperature = fit_temperature(known, raw["val"], task)

    for split, values in raw.items():
        write_predictions(folder, split, labels[split].index.to_numpy(), calibrate(values, temperature, task))
    write_validation_aucs(folder, known, raw["val"])
    members = {
        run.folder.relative_to(artifacts).as_posix(): round(weight / sum(r.model == run.model for r in runs), 6)
        for run, weight in ((run, weights[models.index(run.model)]) for run in runs)
        if weight > 0
    }
    facts = {"run": NAME, "model": NAME, "task": task, "classes": CLASSES, "leads": LEADS, "members": members}
    signals = runs[0].config["signals"]
    windows = [run.config.get("window", signals["n_samples"]) for run in runs]
    facts |= {"temperature": temperature, "signals": signals, "window": max(windows), **machine()}
    write_json(facts, folder / "config.json")
    shown = pd.Series(weights, models)[weights > 0].sort_values(ascending=False)
    print("ensemble: " + ", ".join(f"{weight:.2f} {model}" for model, weight in shown.items()))


def fit_weights(labels: np.ndarray, logits: np.ndarray, task: str) -> np.ndarray:
    """Return the weights (n_models,), not negative and of sum 1, whose blend of `logits` has the least log loss.

    `labels` (n, 5), `logits` (n_models, n, 5), of the validation fold. The loss is convex in the weights.
    """
    n = len(logits)
    found = minimize(
        lambda w: log_loss(labels, np.tensordot(w, logits, 1), task),
        np.full(n, 1 / n),
        method="SLSQP",
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
    )
    if not found.success:
        raise UserError(f"the weights of the ensemble were not found: {found.message}")
    weights = np.where(found.x < LEAST_WEIGHT, 0, found.x)
    return weights / weights.sum()
