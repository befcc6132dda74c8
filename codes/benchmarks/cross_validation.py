"""Our networks against what one would take otherwise, cross-validated within folds 1-9.

The references are `resnet1d_wang` trained with the published benchmark's recipe, and MiniRocket with ridge regression
as `codes/04_train_baseline_ml.py` fits it. `resnet1d`, `inception` and `xresnet1d` are trained as scripts 05, 07 and 09
train them, with `_fast` behind the name as with `--preset fast`.

Each fold of `--folds` is left out in turn and predicted by models trained on the others of folds 1-9; fold 10 is not
read. The sides take turns on the same threads, so that their seconds can be compared: those of training and of
predicting the fold, MiniRocket's features included. A macro AUC is computed per fold and seed, over
the classes with at least five positive records in the fold, and then averaged; the interval of a difference resamples
patients, the same ones for both sides, and covers neither the choice of seeds nor that of training records.
`resnet1d_wang` has our one-cycle schedule: fastai's of 2020 differs a little (a rise of .3 instead of .25, Adam's
second beta .99).

Reads:  artifacts/ptbxl_{train,val}.csv artifacts/signals/{signals.npy,records.csv,meta.json}
Writes: artifacts/benchmarks/cross_validation_REFERENCE.{csv,png} and cross_validation_REFERENCE_pairs.csv
Run:    python codes/benchmarks/cross_validation.py
        half an hour on two cores; resnet1d leads resnet1d_wang by about .01 in less than half of its time
        python codes/benchmarks/cross_validation.py --models xresnet1d_fast minirocket
        minutes; the network reaches MiniRocket's AUC in less than its time
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from sklearn.preprocessing import StandardScaler
from torch import nn

from benchmarks.common import plot_bars, print_ratio, write_results
from ecg.artifacts import UserError, write_csv
from ecg.command_line import Folders, check_at_least, run
from ecg.custom_transformers import LeadStandardizer, TimeDerivative
from ecg.devices import Precision, pick_dtype
from ecg.distributed import World
from ecg.formats.wfdb import UV_PER_MV
from ecg.inference import network_probability
from ecg.labels import TEST_FOLD, read_splits
from ecg.metrics import auc_and_ap, class_mean, macros
from ecg.models import MODELS, build
from ecg.models.layers import Body, ConcatPool, Frontend, Network, conv_norm_act
from ecg.models.resnet1d import ResidualBlock
from ecg.signals import Signals, available, load_signals
from ecg.stats import interval, patient_weights
from ecg.tasks import Task
from ecg.trainer import Records, Trainer, batches, make_loss, steps_per_epoch
from ecg.training import PRESETS, TrainingSettings

WANG, ROCKET = "resnet1d_wang", "minirocket"
SIDES = (*MODELS, *(f"{name}_fast" for name in MODELS), WANG, ROCKET)
KERNELS = 9996  # as codes/04 has it
OBJECTIVE = "multilabel"


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


@dataclass(frozen=True)
class Recipe:
    """What a network is trained with; `width` concerns our own."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    ema: float
    crop_seconds: float
    width: float = 1.0


# Strodthoff et al. 2020: fastai's one-cycle, 50 epochs, batches of 128 crops of 2.5 s, no moving average of weights
WANG_RECIPE = Recipe(epochs=50, batch_size=128, lr=0.01, weight_decay=0.01, ema=0.0, crop_seconds=2.5)


def recipe_of(name: str) -> Recipe:
    """Return what a network is trained with: its script's defaults, those with `--preset fast`, or WANG_RECIPE."""
    if name == WANG:
        return WANG_RECIPE
    settings = TrainingSettings()
    if name.endswith("_fast"):
        settings = replace(settings, **PRESETS["fast"])
    return Recipe(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        ema=settings.ema,
        crop_seconds=settings.crop_seconds,
        width=settings.width,
    )


@dataclass(frozen=True)
class Rotation:
    """One fold left out, and the records to train on.

    `train_millivolt` (n, n_leads, n_samples) and `train_patients` (n,) belong to the rows of `train`; `test_rows` are
    rows of `signals.npy`.
    """

    fold: int
    train: Records
    train_millivolt: np.ndarray
    train_patients: np.ndarray
    test_rows: np.ndarray


@dataclass(frozen=True)
class Answer:
    """The probabilities (n, n_classes) of a fold by models that did not see it, and what they cost."""

    probability: np.ndarray
    seconds: float
    epochs: int = 0


class ResNet1dWang(Body):
    """Wang et al. 2017 as Strodthoff et al. 2020 use it: 128 channels throughout, kernels 5 and 3, three blocks."""

    def __init__(self, n_channels: int, n_classes: int):
        blocks = [ResidualBlock(128, 128, (5, 3), stride) for stride in (1, 2, 2)]
        head = nn.Sequential(ConcatPool(), nn.BatchNorm1d(256), nn.Dropout(0.5), nn.Linear(256, n_classes))
        super().__init__(conv_norm_act(n_channels, 128, 7), *blocks, head)


def wang(train_millivolt: np.ndarray, fs: float, n_classes: int) -> Network:
    """Return the reference for training records (n, n_leads, t): leads alone, one mean and deviation for all."""
    n_leads = train_millivolt.shape[1]
    mean, std = float(train_millivolt.mean()), float(train_millivolt.std())
    frontend = Frontend(fs=fs, mean=[mean] * n_leads, std=[std] * n_leads, derivatives=False)
    return Network(frontend, ResNet1dWang(n_leads, n_classes), n_classes)


def ours(name: str, train_millivolt: np.ndarray, signals: Signals, n_classes: int, *, width: float) -> Network:
    """Return one of our networks, standardised with the training records of this rotation."""
    derivative = TimeDerivative(fs=signals.fs).fit_transform(train_millivolt)
    fitted = {"signal": LeadStandardizer().fit(train_millivolt), "derivative": LeadStandardizer().fit(derivative)}
    meta = dict(signals.meta)
    meta["mean"] = {kind: scaler.mean_.tolist() for kind, scaler in fitted.items()}
    meta["std"] = {kind: scaler.scale_.tolist() for kind, scaler in fitted.items()}
    return build(name, meta, n_classes=n_classes, width=width)


def fit_network(
    name: str, recipe: Recipe, signals: Signals, rotation: Rotation, seed: int, dtype: torch.dtype
) -> Answer:
    """Train for all epochs, no stopping early, and predict the fold left out."""
    device, train = computing_device(), rotation.train
    n_classes = train.target.shape[1]
    torch.manual_seed(seed)
    if name == WANG:
        network = wang(rotation.train_millivolt, signals.fs, n_classes)
    else:
        bare = name.removesuffix("_fast")
        network = ours(bare, rotation.train_millivolt, signals, n_classes, width=recipe.width)
    network.to(device)
    started = time.perf_counter()
    crop = round(recipe.crop_seconds * signals.fs)
    trainer = Trainer(
        network,
        steps=recipe.epochs * steps_per_epoch(len(train), recipe.batch_size),
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        ema=recipe.ema,
        loss=make_loss(OBJECTIVE, train.target),
        objective=OBJECTIVE,
        augment=False,
        world=World(device),
        dtype=dtype,
    )
    for epoch in range(1, recipe.epochs + 1):
        trainer.network.train()
        for batch in batches(
            signals.array, train, size=recipe.batch_size, crop=crop, seed=seed, epoch=epoch, device=device
        ):
            trainer.step(trainer.loss(batch))
    probability = network_probability(
        trainer.ema_network,
        signals.array,
        rotation.test_rows,
        window=crop,
        objective=OBJECTIVE,
        device=device,
        dtype=dtype,
    )
    return Answer(probability, time.perf_counter() - started, recipe.epochs)


def fit_rocket_and_ridge(signals: Signals, rotation: Rotation, seed: int) -> Answer:
    """Fit MiniRocket and ridge regression, and predict the fold left out.

    A class without both outcomes among the training records is answered with its share of them.
    """
    from ecg.baselines import fit_ridge, fit_rocket, rocket_features  # aeon takes seconds to import

    target, jobs = rotation.train.target, torch.get_num_threads()
    seen, unseen = (signals.array[rows] / np.float32(UV_PER_MV) for rows in (rotation.train.rows, rotation.test_rows))
    rocket_features(unseen[:2], fit_rocket(seen[:2], kernels=KERNELS, seed=seed), jobs=jobs)  # warms up
    started = time.perf_counter()
    parameters = fit_rocket(seen, kernels=KERNELS, seed=seed)
    seen_features = rocket_features(seen, parameters, jobs=jobs)
    scaler = StandardScaler().fit(seen_features)
    unseen_features = scaler.transform(rocket_features(unseen, parameters, jobs=jobs))
    share = target.mean(axis=0)
    learned = (share > 0) & (share < 1)
    coef, intercept = fit_ridge(
        scaler.transform(seen_features), target[:, learned], objective=OBJECTIVE, patients=rotation.train_patients
    )
    probability = np.tile(share, (len(unseen), 1))
    probability[:, learned] = expit(unseen_features @ coef.T + intercept)
    return Answer(probability, time.perf_counter() - started)


def computing_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def read_records(artifacts: Path, signals: Signals, task: Task) -> pd.DataFrame:
    """Return the usable records of folds 1 to 9, see `ecg.labels.read_split`."""
    tables = [available(artifacts, signals, split, task) for split in ("train", "val")]
    table = pd.concat(tables, ignore_index=True)
    if (table.strat_fold == TEST_FOLD).any():
        raise UserError("cross-validation needs codes/02_split.py --split folds: fold 10 is to stay unseen")
    return table


def rotations(table: pd.DataFrame, signals: Signals, task: Task, folds: tuple[int, ...]) -> Iterator[Rotation]:
    """Yield each fold left out in turn."""
    ecg_id = table.ecg_id.to_numpy()
    rows = signals.rows(ecg_id)
    target = table[list(task.classes)].to_numpy(np.float32)
    for fold in folds:
        left_out = (table.strat_fold == fold).to_numpy()
        yield Rotation(
            fold=fold,
            train=Records(rows[~left_out], ecg_id[~left_out], target[~left_out]),
            train_millivolt=signals.millivolt(ecg_id[~left_out]),
            train_patients=table.patient_id.to_numpy()[~left_out],
            test_rows=rows[left_out],
        )


@dataclass(frozen=True)
class Areas:
    """Macro ROC area and average precision of the sample and of each replicate, both (1 + replicates,)."""

    auc: np.ndarray
    ap: np.ndarray
    n_classes: int


def macro_areas(labels: np.ndarray, probability: np.ndarray, weights: np.ndarray) -> Areas:
    """Return the means over the classes with at least five positive records; over all with both outcomes without any.

    `labels`, `probability` (n, n_classes); `weights` (n, 1 + replicates), see `ecg.stats.patient_weights`.
    """
    *_, macro = macros(labels).values()
    auc, ap = (class_mean(values, macro.members) for values in auc_and_ap(labels, probability, weights))
    return Areas(auc, ap, macro.n_classes)


def compare(of_models: dict[str, list[Areas]], reference: str, n: int, folds: int, seeds: int) -> pd.DataFrame:
    """Return the differences to the reference with their intervals, a row per model.

    `of_models` {model: the areas of every fold and seed, in the same order}.
    """
    means = {name: np.mean([area.auc for area in areas], axis=0) for name, areas in of_models.items()}
    rows = []
    for name in of_models:
        if name == reference:
            continue
        difference = means[name] - means[reference]
        low, high = (bound.item() for bound in interval(difference[None, 1:]))
        rows.append(
            {
                "model": name,
                "reference": reference,
                "auc": means[name][0],
                "auc_reference": means[reference][0],
                "diff": difference[0],
                "ci_low": low,
                "ci_high": high,
                "n": n,
                "folds": folds,
                "seeds": seeds,
            }
        )
        print(f"{name} - {reference}: {difference[0]:+.4f} [{low:+.4f}, {high:+.4f}], n = {n}")
    return pd.DataFrame(rows)


def check(
    models: tuple[str, ...], folds: tuple[int, ...], seeds: tuple[int, ...], epochs: int | None, replicates: int
) -> None:
    if set(models) - set(SIDES) or len(models) < 2:
        raise UserError(f"--models {' '.join(models)}: give at least two of {', '.join(SIDES)}")
    if not folds or not set(folds) <= set(range(1, TEST_FOLD)):
        raise UserError(f"--folds {' '.join(map(str, folds))}: they must be among 1 to {TEST_FOLD - 1}")
    check_at_least("the number of --seeds", len(seeds), 1)
    check_at_least("--seeds", min(seeds, default=0), 0)
    check_at_least("--replicates", replicates, 1)
    if epochs is not None:
        check_at_least("--epochs", epochs, 1)


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
    check(models, folds, seeds, epochs, replicates)
    signals, task = load_signals(artifacts), read_splits(artifacts).first
    table = read_records(artifacts, signals, task)
    labels = table[list(task.classes)].to_numpy()
    dtype = pick_dtype(precision, computing_device())
    weights = patient_weights(table[["ecg_id", "patient_id"]], replicates=replicates, seed=0).to_numpy()
    rows: list[dict[str, object]] = []
    of_models: dict[str, list[Areas]] = {name: [] for name in models}
    for rotation in rotations(table, signals, task, folds):
        left_out = (table.strat_fold == rotation.fold).to_numpy()
        for seed, name in product(seeds, models):
            if name == ROCKET:
                answer = fit_rocket_and_ridge(signals, rotation, seed)
            else:
                recipe = recipe_of(name)
                recipe = replace(recipe, epochs=epochs or recipe.epochs)
                answer = fit_network(name, recipe, signals, rotation, seed, dtype)
            areas = macro_areas(labels[left_out], answer.probability, weights[left_out])
            of_models[name].append(areas)
            rows.append(
                {
                    "model": name,
                    "fold": rotation.fold,
                    "seed": seed,
                    "macro_auc": areas.auc[0],
                    "macro_ap": areas.ap[0],
                    "n": int(left_out.sum()),
                    "classes": areas.n_classes,
                    "epochs": answer.epochs,
                    "seconds": round(answer.seconds, 1),
                    "threads": torch.get_num_threads(),
                    "precision": str(dtype).removeprefix("torch."),
                }
            )
            print(
                f"{name:14} fold {rotation.fold}  seed {seed}  macro AUC {areas.auc[0]:.4f}  AP {areas.ap[0]:.4f}  "
                f"{answer.seconds:.0f} s",
                flush=True,
            )
    n = int(table.strat_fold.isin(folds).sum())
    pairs = compare(of_models, reference=models[-1], n=n, folds=len(folds), seeds=len(seeds))
    write_tables(pd.DataFrame(rows), pairs, artifacts, models, folds, seeds)


def write_tables(
    timed: pd.DataFrame,
    pairs: pd.DataFrame,
    artifacts: Path,
    models: tuple[str, ...],
    folds: tuple[int, ...],
    seeds: tuple[int, ...],
) -> None:
    reference = models[-1]
    file = f"cross_validation_{reference}"
    write_results(timed, artifacts, file)
    write_csv(pairs, artifacts / "benchmarks" / f"{file}_pairs.csv")
    shown = timed.groupby("model", sort=False).macro_auc.mean().to_dict()
    title = f"Folds {', '.join(map(str, folds))} left out in turn, {len(seeds)} seeds"
    plot_bars(shown, artifacts, file, xlabel="macro ROC AUC, mean", title=title)
    seconds = timed.groupby("model").seconds.median()
    print_ratio(
        seconds[models[0]] / seconds[reference], f"{models[0]} / {reference}, seconds of a training (at most 1)"
    )


if __name__ == "__main__":
    run(cross_validate, Settings, __doc__)
