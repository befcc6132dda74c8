"""Our networks against what one would take otherwise, cross-validated within folds 1-9.

The references are `resnet1d_wang` trained with the published benchmark's recipe, and MiniRocket with ridge regression
as `codes/04_train_baseline_ml.py` fits it. `resnet1d`, `inception` and `xresnet1d` are trained as scripts 05, 07 and 09
train them, with `_fast` behind the name as with `--preset fast`.

Each fold of `--folds` is left out in turn and predicted by models trained on the others of folds 1-9; fold 10 is not
read. The sides take turns on the same threads, so that their seconds can be compared: those of training and of
predicting the fold, MiniRocket's features included, compiling it not. A macro AUC is computed per fold and seed and
then averaged; the interval of a difference resamples patients, the same ones for both sides, and covers neither the
choice of seeds nor that of training records. `resnet1d_wang` has our one-cycle schedule: fastai's of 2020 differs a
little (a rise of .3 instead of .25, Adam's second beta .99).

Reads:  artifacts/ptbxl_{train,val}.csv artifacts/signals/{signals.npy,records.csv,meta.json}
Writes: artifacts/benchmarks/cross_validation_REFERENCE.{csv,png} and cross_validation_REFERENCE_pairs.csv
Run:    python codes/benchmarks/cross_validation.py
        half an hour on two cores; resnet1d leads resnet1d_wang by about .01 in less than half of its time
        python codes/benchmarks/cross_validation.py --models xresnet1d_fast minirocket
        minutes; the network reaches MiniRocket's AUC in less than its time
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from sklearn.preprocessing import StandardScaler
from torch import nn

from benchmarks.common import plot_bars, print_ratio, write_results
from ecg.artifacts import Folders, UserError, check_at_least, run, write_csv
from ecg.custom_transformers import LeadStandardizer, TimeDerivative
from ecg.data import UV_PER_MV, Signals, available, load_signals
from ecg.distributed import World
from ecg.inference import Precision, pick_dtype, predict
from ecg.labels import CLASSES, TEST_FOLD
from ecg.metrics import multilabel_metrics
from ecg.models import MODELS, build
from ecg.models.layers import ConcatPool, Frontend, Network, conv_norm_act
from ecg.models.resnet1d import ResidualBlock
from ecg.stats import interval, patient_weights
from ecg.training import PRESETS, Split, Trainer, TrainingSettings, batches, steps_per_epoch

WANG, ROCKET = "resnet1d_wang", "minirocket"
SIDES = (*MODELS, *(f"{name}_fast" for name in MODELS), WANG, ROCKET)
# Strodthoff et al. 2020: fastai's one-cycle, 50 epochs, batches of 128 crops of 2.5 s, no moving average of weights
RECIPE = {"epochs": 50, "batch_size": 128, "lr": 0.01, "weight_decay": 0.01, "average": 0.0, "crop_seconds": 2.5}
KERNELS = 9996  # as codes/04 has it


@dataclass(frozen=True)
class Settings(Folders):
    models: tuple[str, ...] = ("resnet1d", WANG)
    """Models to compare; the last is the reference of the others."""
    folds: tuple[int, ...] = (1, 4, 7)
    """Folds of 1-9 that are left out in turn; the settings were chosen on 3, 6 and 9."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of each model."""
    epochs: int | None = None
    """Instead of each network's own number of epochs, for a quick look."""
    replicates: int = 1000
    """Bootstrap resamples of the patients."""
    precision: Precision = "auto"
    """auto: bf16 where the processor or GPU has it, else fp32."""


class ResNet1dWang(nn.Sequential):
    """Wang et al. 2017 as Strodthoff et al. 2020 use it: 128 channels throughout, kernels 5 and 3, three blocks."""

    def __init__(self, n_channels: int, n_classes: int):
        blocks = [ResidualBlock(128, 128, (5, 3), stride) for stride in (1, 2, 2)]
        head = nn.Sequential(ConcatPool(), nn.BatchNorm1d(256), nn.Dropout(0.5), nn.Linear(256, n_classes))
        super().__init__(conv_norm_act(n_channels, 128, 7), *blocks, head)


def wang(train: np.ndarray, fs: float) -> Network:
    """Return the reference for training records (n, 12, t) in mV: leads alone, one mean and deviation for all."""
    facts = {"mean": [float(train.mean())] * train.shape[1], "std": [float(train.std())] * train.shape[1]}
    return Network(Frontend(fs=fs, **facts, derivatives=False), ResNet1dWang(train.shape[1], len(CLASSES)))


def ours(name: str, train: np.ndarray, meta: dict[str, Any], *, width: float) -> Network:
    """Return one of our networks, standardised with the training records of this rotation."""
    derivative = TimeDerivative(fs=meta["fs"]).fit_transform(train)
    fitted = {"signal": LeadStandardizer().fit(train), "derivative": LeadStandardizer().fit(derivative)}
    own = {"mean": {k: f.mean_.tolist() for k, f in fitted.items()}}
    own |= {"std": {k: f.scale_.tolist() for k, f in fitted.items()}}
    return build(name, meta | own, width=width)


def new_network(name: str, train: np.ndarray, signals: Signals, recipe: dict[str, Any]) -> Network:
    if name == WANG:
        return wang(train, signals.fs)
    return ours(name.removesuffix("_fast"), train, signals.meta, width=recipe["width"])


def recipe_of(name: str) -> dict[str, Any]:
    """Return what a network is trained with: its script's defaults, those with `--preset fast`, or RECIPE."""
    defaults = asdict(TrainingSettings()) | (PRESETS["fast"] if name.endswith("_fast") else {})
    return RECIPE if name == WANG else {key: defaults[key] for key in (*RECIPE, "width")}


def fit_and_predict(
    new: Callable[[], Network], signals: Signals, train: Split, test: np.ndarray, recipe: dict[str, Any], seed: int
) -> tuple[np.ndarray, float]:
    """Train for all epochs, no stopping early; return the probabilities (n, 5) of rows `test`, and the seconds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    network = new().to(device)
    started = time.perf_counter()
    dtype, crop = recipe["dtype"], round(recipe["crop_seconds"] * signals.fs)
    steps = recipe["epochs"] * steps_per_epoch(len(train.rows), recipe["batch_size"])
    options = {key: recipe[key] for key in ("lr", "weight_decay", "average")}
    where = {"task": "multilabel", "dtype": dtype}
    trainer = Trainer(network, steps=steps, **options, **where, augment=False, world=World(device))
    for epoch in range(1, recipe["epochs"] + 1):
        trainer.network.train()
        options = {"size": recipe["batch_size"], "crop": crop, "seed": seed, "device": device}
        for batch in batches(signals.array, train, **options, epoch=epoch):
            trainer.step(trainer.loss(batch))
    probability = predict(trainer.average, signals.array, test, window=crop, device=device, **where)
    return probability, time.perf_counter() - started


def fit_rocket_and_predict(
    signals: Signals, train: Split, test: np.ndarray, patients: np.ndarray, seed: int
) -> tuple[np.ndarray, float]:
    """Fit MiniRocket + ridge; return the probabilities (n, 5) of rows `test`, and the seconds."""
    from ecg.baselines import fit_ridge, fit_rocket, rocket_features  # its compiler takes seconds to import

    x, unseen = (signals.array[rows] / np.float32(UV_PER_MV) for rows in (train.rows, test))
    jobs = torch.get_num_threads()
    rocket_features(unseen[:2], fit_rocket(x[:2], kernels=KERNELS, seed=seed), jobs=jobs)  # compiles it
    started = time.perf_counter()
    parameters = fit_rocket(x, kernels=KERNELS, seed=seed)
    seen, unseen = (rocket_features(part, parameters, jobs=jobs) for part in (x, unseen))
    scaler = StandardScaler().fit(seen)
    coef, intercept = fit_ridge(scaler.transform(seen), train.target, task="multilabel", patients=patients)
    probability = expit(scaler.transform(unseen) @ coef.T + intercept)
    return probability, time.perf_counter() - started


def cross_validate(
    *,
    data: Path,
    artifacts: Path,
    models: tuple[str, ...],
    folds: tuple[int, ...],
    seeds: tuple[int, ...],
    epochs: int | None,
    replicates: int,
    precision: Precision,
) -> None:
    if set(models) - set(SIDES) or len(models) < 2:
        raise UserError(f"--models {' '.join(models)}: give at least two of {', '.join(SIDES)}")
    if not set() < set(folds) <= set(range(1, TEST_FOLD)):
        raise UserError(f"--folds {' '.join(map(str, folds))}: they must be among 1 to {TEST_FOLD - 1}")
    for flag, value, least in (
        *(("the number of --seeds", len(seeds), 1), ("--seeds", min(seeds, default=0), 0)),
        *(("--replicates", replicates, 1), ("--epochs", 1 if epochs is None else epochs, 1)),
    ):
        check_at_least(flag, value, least)
    signals = load_signals(artifacts)
    table = pd.concat([available(artifacts, signals, name) for name in ("train", "val")], ignore_index=True)
    if (table.strat_fold == TEST_FOLD).any():
        raise UserError("cross-validation needs codes/02_split.py --split folds: fold 10 is to stay unseen")
    dtype = pick_dtype(precision, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    rows, answers = signals.rows(table.ecg_id.to_numpy()), {}
    labels = table[list(CLASSES)].to_numpy()
    results = []
    for fold in folds:
        left_out = (table.strat_fold == fold).to_numpy()
        train = Split(rows[~left_out], table.ecg_id.to_numpy()[~left_out], labels[~left_out].astype(np.float32))
        millivolt = signals.millivolt(train.ecg_id)
        patients = table.patient_id.to_numpy()[~left_out]
        for seed in seeds:
            for name in models:
                if name == ROCKET:
                    recipe = {"epochs": 0}
                    probability, seconds = fit_rocket_and_predict(signals, train, rows[left_out], patients, seed)
                else:
                    recipe = recipe_of(name) | {"dtype": dtype} | ({"epochs": epochs} if epochs else {})
                    new = partial(new_network, name, millivolt, signals, recipe)
                    probability, seconds = fit_and_predict(new, signals, train, rows[left_out], recipe, seed)
                answers[name, fold, seed] = probability
                value = multilabel_metrics(labels[left_out], probability, np.full(5, 0.5), np.ones((left_out.sum(), 1)))
                auc, ap = (float(value["macro", metric][0]) for metric in ("auc", "ap"))
                results.append({"model": name, "fold": fold, "seed": seed, "macro_auc": auc, "macro_ap": ap})
                results[-1] |= {"n": int(left_out.sum()), "epochs": recipe["epochs"], "seconds": round(seconds, 1)}
                results[-1] |= {"threads": torch.get_num_threads(), "precision": str(dtype).removeprefix("torch.")}
                print(
                    f"{name:14} fold {fold}  seed {seed}  macro AUC {auc:.4f}  AP {ap:.4f}  {seconds:.0f} s", flush=True
                )

    weights = patient_weights(table[["ecg_id", "patient_id"]], replicates=replicates, seed=0).to_numpy()
    means = {name: _mean_auc(answers, name, table, labels, weights, folds, seeds) for name in models}
    reference, pairs = models[-1], []
    for name in models[:-1]:
        low, high = (float(bound) for bound in np.ravel(interval((means[name] - means[reference])[None, 1:])))
        pair = {"model": name, "reference": reference, "auc": means[name][0], "auc_reference": means[reference][0]}
        pair |= {"diff": means[name][0] - means[reference][0], "ci_low": low, "ci_high": high}
        pairs.append(pair | {"n": int(table.strat_fold.isin(folds).sum()), "folds": len(folds), "seeds": len(seeds)})
        print(f"{name} - {reference}: {pair['diff']:+.4f} [{low:+.4f}, {high:+.4f}], n = {pairs[-1]['n']}")
    timed = pd.DataFrame(results)
    file = f"cross_validation_{reference}"
    write_results(timed, artifacts, file)
    write_csv(pd.DataFrame(pairs), artifacts / "benchmarks" / f"{file}_pairs.csv")
    shown = timed.groupby("model", sort=False).macro_auc.mean().to_dict()
    title = f"Folds {', '.join(map(str, folds))} left out in turn, {len(seeds)} seeds"
    plot_bars(shown, artifacts, file, xlabel="macro ROC AUC, mean", title=title)
    seconds = timed.groupby("model").seconds.median()
    print_ratio(
        seconds[models[0]] / seconds[reference], f"{models[0]} / {reference}, seconds of a training (at most 1)"
    )


def _mean_auc(
    answers: dict[tuple[str, int, int], np.ndarray],
    name: str,
    table: pd.DataFrame,
    labels: np.ndarray,
    weights: np.ndarray,
    folds: tuple[int, ...],
    seeds: tuple[int, ...],
) -> np.ndarray:
    """Return the macro AUC of the sample and of each replicate, (1 + replicates,): the mean over folds and seeds."""
    areas = []
    for fold in folds:
        part = (table.strat_fold == fold).to_numpy()
        for seed in seeds:
            values = multilabel_metrics(labels[part], answers[name, fold, seed], np.full(5, 0.5), weights[part])
            areas.append(values["macro", "auc"])
    return np.mean(areas, axis=0)


if __name__ == "__main__":
    run(cross_validate, Settings, __doc__)
