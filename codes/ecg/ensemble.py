"""The ensemble: a weighted mean of the logits of all trained models, as a run of its own in `artifacts/ensemble/`."""

from collections import Counter
from pathlib import Path
from statistics import mode

import numpy as np
from scipy.optimize import minimize

from ecg.artifacts import UserError, write_json
from ecg.calibration import calibrate, fit_temperature, log_loss, logits_of, probability_of
from ecg.labels import CLASSES, LEADS
from ecg.predictions import Run, find_runs, machine, read_labelled, write_predictions, write_validation_aucs

NAME = "ensemble"
# trees add nothing to the networks (artifacts/LOG.md), and can be read by one version of scikit-learn only
LEFT_OUT = (NAME, "naive", "random_forest", "hist_gradient_boosting")
EVEN = 75.0  # how strongly weights are pulled towards equal ones; by cross-validation within folds 1-9
LEAST_WEIGHT = 0.01  # a member below it would cost time in predict.py and change nothing


def write_ensemble(artifacts: Path) -> None:
    """Blend the networks and MiniRockets that `codes/04` to `10` have trained; of two tasks the more frequent one.

    Seeds of a model count alike. Weights of the models and temperature are fitted on the validation fold; the test
    fold is only predicted.
    """
    folder = artifacts / NAME
    runs = [run for run in find_runs(artifacts) if "signals" in run.config]  # which predict.py can ask as well
    runs = [run for run in runs if run.config["model"] not in LEFT_OUT]
    if not runs:
        for old in folder.glob("*"):  # of models that are no longer there
            old.unlink()
        return
    task = mode([run.config["task"] for run in runs])
    runs = [run for run in runs if run.config["task"] == task]
    _check_that_all_see_the_same(runs)
    models = list(dict.fromkeys(run.model for run in runs))
    logits, labels = {}, {}
    for split in ("val", "test"):
        read = {run.name: read_labelled(artifacts, run.folder, split) for run in runs}
        common = sorted(set.intersection(*(set(table.index) for _, table in read.values())))
        labels[split] = next(iter(read.values()))[0].loc[common, list(CLASSES)]
        answers = {name: logits_of(table.loc[common].to_numpy(), task) for name, (_, table) in read.items()}
        of_model = [[answers[run.name] for run in runs if run.model == model] for model in models]
        logits[split] = np.stack([np.mean(seeds, axis=0) for seeds in of_model])  # (n_models, n, 5)
    known = labels["val"].to_numpy()
    weights = fit_weights(known, logits["val"], task)
    raw = {split: probability_of(np.tensordot(weights, values, 1), task) for split, values in logits.items()}
    temperature = fit_temperature(known, raw["val"], task)

    seeds, share = Counter(run.model for run in runs), dict(zip(models, weights.tolist(), strict=True))
    members = [run for run in runs if share[run.model] > 0]
    signals = runs[0].config["signals"]
    facts = {"run": NAME, "model": NAME, "task": task, "classes": CLASSES, "leads": LEADS, "signals": signals}
    names = [run.folder.relative_to(artifacts).as_posix() for run in members]
    facts["members"] = {n: share[run.model] / seeds[run.model] for n, run in zip(names, members, strict=True)}
    facts["window"] = max(run.config.get("window", signals["n_samples"]) for run in members)
    write_json(facts | {"temperature": temperature, **machine()}, folder / "config.json")  # first: no run is without
    for split, values in raw.items():
        write_predictions(folder, split, labels[split].index.to_numpy(), calibrate(values, temperature, task))
    write_validation_aucs(folder, known, raw["val"])
    shown = sorted(((weight, model) for model, weight in share.items() if weight > 0), reverse=True)
    print("ensemble: " + ", ".join(f"{weight:.2f} {model}" for weight, model in shown))


def _check_that_all_see_the_same(runs: list[Run]) -> None:
    """Raise a `UserError` if two runs were trained on differently prepared signals: predict.py prepares them once."""
    for key in ("fs", "filter", "limit_mv"):
        first, expected = runs[0], runs[0].config["signals"][key]
        for run in runs:
            if run.config["signals"][key] != expected:
                raise UserError(
                    f"{run.folder / 'config.json'}: signals.{key} is {run.config['signals'][key]}, but {expected} in "
                    f"{first.name}; the ensemble needs one: train one of them again, or move its folder away"
                )


def fit_weights(labels: np.ndarray, logits: np.ndarray, task: str) -> np.ndarray:
    """Return the weights (n_models,), not negative and of sum 1, with which to blend `logits`.

    `labels` (n, 5), `logits` (n_models, n, 5), of the validation fold. They have the least log loss, summed over its
    records, plus EVEN times their squared distance from equal weights: on few records the loss alone follows chance,
    and equal weights are hard to beat (Stock & Watson 2004, "forecast combination puzzle"); on many records the loss
    decides. The sum is convex in the weights.
    """
    n = len(logits)
    records = len(labels) if task == "multilabel" else (labels.sum(axis=1) == 1).sum()  # in the mean of the loss
    found = minimize(
        lambda w: log_loss(labels, np.tensordot(w, logits, 1), task) + EVEN / records * ((w - 1 / n) ** 2).sum(),
        np.full(n, 1 / n),
        method="SLSQP",
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
    )
    if not found.success:
        raise UserError(f"the weights of the ensemble were not found: {found.message}")
    weights = np.where(found.x < LEAST_WEIGHT, 0, found.x)
    return weights / weights.sum()
