"""Training of one network: one loop for every model, task, objective, precision and number of devices."""

import hashlib
import io
import json
import os
import pickle
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
import tyro

from ecg.artifacts import UserError, atomic, sweep, write_csv, write_json
from ecg.augmentation import describe
from ecg.calibration import calibrate, fit_temperature, log_loss, logits_of
from ecg.code_digest import digest
from ecg.command_line import Folders, check_at_least
from ecg.devices import Microvolts, Precision, on_device, pick_dtype
from ecg.distributed import World, join_world
from ecg.hardware import machine
from ecg.initial_weights import load_initial_weights
from ecg.labels import SPLITS, Splits, read_splits
from ecg.leads import LEADS
from ecg.lr_finder import find_lr
from ecg.metrics import macro_auc
from ecg.models import build, check_divisible
from ecg.plots import plot_history, plot_lr_finder, save_figure
from ecg.runs import (
    made_with,
    read_config,
    refuse_other_settings,
    run_folder,
    write_predictions,
    write_validation_aucs,
)
from ecg.signals import Signals, load_signals
from ecg.stages import network_name, run_name, training_code
from ecg.tasks import Objective, Task
from ecg.trainer import Records, Trainer, batches, load_records, make_loss, steps_per_epoch

CHECKPOINT_SECONDS = 30  # between checkpoints within an epoch; one costs about a tenth of a second

Preset = Literal["default", "fast", "full"]
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"width": 0.5, "epochs": 16},
    "full": {"width": 1.5, "epochs": 30},
}


@dataclass(frozen=True)
class TrainingSettings(Folders):
    """What every training script can be told."""

    augment: bool = False
    """Train on scaled and noisy signals with lost leads."""
    lead_subsets: bool = False
    """Train on random subsets of the leads, so that the run answers recordings with missing ones. Needs a --name."""
    labels: str = ""
    """The task, such as form, or one that 02 made from a CSV file. By default the first one that 02 was given."""
    name: str = ""
    """Folder of the run below --artifacts. By default named after network, preset, augmentation and task."""
    overwrite: bool = False
    """Replace a run in that folder although it was trained with other settings."""
    init: str = ""
    """Start from the weights of this run, such as resnet_standard_all; for other classes, with a new last layer."""
    objective: Annotated[Objective, tyro.conf.arg(aliases=["--task"])] = "multilabel"
    """multilabel: a sigmoid per class; multiclass: a softmax, trained on records with exactly one class."""
    seed: int = 0
    """Seed of weights, order, crops and augmentation. Seeds other than 0 get a folder seedN inside the run's."""
    preset: Preset = "default"
    """fast: narrower and shorter; full: wider and longer, for all of PTB-XL. Flags that are given count more."""
    derivatives: bool = True
    """Give the network the time derivative of each lead as a further channel."""
    width: float = 1.0
    """Channels of the network, relative to its own default."""
    epochs: int = 25
    """Passes over the training records; the one-cycle schedule is stretched over them."""
    batch_size: int = 128
    """Records per step, over all devices."""
    lr: float = 0.01
    """Highest learning rate of the one-cycle schedule; 0 takes the suggestion of the learning-rate finder."""
    lr_finder: bool = False
    """Draw the learning-rate finder's curve before training. Its suggestion is used with --lr 0 only."""
    weight_decay: float = 0.05
    """Decoupled weight decay of AdamW."""
    crop_seconds: float = 2.5
    """Training sees random crops of this length; predictions are means over windows of it."""
    ema: float = 0.1
    """Fraction of all steps over which weights are averaged (EMA); the averaged weights are evaluated and stored."""
    patience: int = 20
    """Stop after this many epochs without a better macro AUC on the validation fold."""
    precision: Precision = "auto"
    """auto: bf16 where the processor or GPU is faster in it, else fp32."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


def train(*, model: str, **values: Any) -> None:
    """Train a registered network and leave a run folder; `values`: see TrainingSettings."""
    settings = TrainingSettings(**values)
    name = run_name(
        network_name(model),
        augment=settings.augment,
        preset=settings.preset,
        labels=settings.labels,
        name=settings.name,
    )
    with join_world(settings.device) as world:
        try:
            _train(model, name, settings, world)
        except torch.OutOfMemoryError:
            raise UserError("the GPU has too little memory: lower --batch-size or --width") from None


def _train(model: str, name: str, settings: TrainingSettings, world: World) -> None:
    started = time.perf_counter()
    folder = run_folder(settings.artifacts, name, settings.seed)
    splits = read_splits(settings.artifacts)
    task = splits.task(settings.labels)
    signals = load_signals(settings.artifacts)
    window = round(settings.crop_seconds * signals.fs)
    _check_ranges(settings, signals, window, world)
    records = {part: load_records(settings.artifacts, signals, part, task, settings.objective) for part in SPLITS}
    _check_labels(records, task, world)
    dtype = pick_dtype(settings.precision, world.device)
    _be_deterministic(world.device)
    config = _describe(model, name, task, splits, settings, signals, window, dtype)
    config["n_train"] = len(records["train"])
    wanted, stored = made_with(config), _stored(folder)
    if stored and not settings.overwrite:
        refuse_other_settings(folder, stored, wanted)
    if world.first:
        _prepare(folder)
    array = on_device(signals.array, world.device)
    execution = _describe_execution(world)
    checkpoint = Checkpoint(folder / "last.pt", _fingerprint(config, records), execution, wanted)
    state = checkpoint.load(world)
    position = (len(state["progress"]["history"]), state["progress"]["step"], state["fingerprint"]) if state else None
    if not world.is_same_everywhere(position):
        raise UserError(f"{checkpoint.path} is not the same on all machines: share the folder, or delete it on each")
    lr = state["lr"] if state else settings.lr
    if not state and (settings.lr == 0 or settings.lr_finder):
        alone = new_trainer(model, task, signals, settings, records["train"], World(world.device), dtype, lr=1e-3)
        crop = array.shape[-1] if settings.lead_subsets else window
        curve, suggestion = find_lr(
            alone, array, records["train"], size=settings.batch_size, crop=crop, seed=settings.seed
        )
        lr = world.from_first(settings.lr or suggestion)
        if world.first:
            write_csv(curve, folder / "lr_finder.csv")
            save_figure(plot_lr_finder(curve, suggestion), folder / "lr_finder.png")
        world.say(f"learning-rate finder suggests {suggestion:.2e}; training with {lr:.2e}")
    trainer = new_trainer(model, task, signals, settings, records["train"], world, dtype, lr=lr)
    checkpoint.lr = config["lr"] = lr
    for key in ("processes", "threads", "device"):
        config[key] = execution[key]
    config["weights"] = sum(parameter.numel() for parameter in trainer.network.parameters())
    world.say(
        f"{config['run']}: {model} with {config['weights']:,} weights, {task.name} ({len(task)} classes), seed "
        f"{settings.seed}, {config['precision']}, {world.size} processes of {execution['threads']} threads on "
        f"{execution['device']}, {len(records['train'])} training records"
    )
    progress = Progress.from_state(state, trainer) if state else Progress()
    if state:
        world.say(f"resumes at step {progress.step} of epoch {len(progress.history) + 1} from {checkpoint.path}")
    fit(trainer, progress, checkpoint, array, records["train"], records["val"], settings, window)
    _write_run(folder, trainer, progress, array, records, task, config)
    world.say(
        f"best epoch {progress.best_epoch}: validation macro AUC {progress.best_auc:.4f}; "
        f"{time.perf_counter() - started:.0f} s; results in {folder}"
    )


# --- before training ------------------------------------------------------------------------------------------------


def _stored(folder: Path) -> dict[str, Any] | None:
    """Return what the run in a folder was made with, or the training that was killed there; None without either."""
    defaults = asdict(TrainingSettings())  # a setting that older code did not know had its default's effect
    if (folder / "config.json").exists():
        return defaults | made_with(read_config(folder))
    if (folder / "last.pt").exists():
        return defaults | _read_checkpoint(folder / "last.pt", torch.device("cpu"))["settings"]
    return None


def _check_ranges(settings: TrainingSettings, signals: Signals, window: int, world: World) -> None:
    """Raise a `UserError` if a setting is out of range."""
    check_at_least("--epochs", settings.epochs, 1)
    check_at_least("--batch-size", settings.batch_size, 2 * world.size)
    check_at_least("--patience", settings.patience, 1)
    check_at_least("--seed", settings.seed, 0)
    check_at_least("--lr", settings.lr, 0)
    check_at_least("--weight-decay", settings.weight_decay, 0)
    check_at_least("--ema", settings.ema, 0)
    check_at_least("--width", settings.width, 0.1)
    if not signals.fs <= window <= signals.array.shape[-1]:
        longest = signals.array.shape[-1] / signals.fs
        raise UserError(
            f"--crop-seconds {settings.crop_seconds:g} must be between 1 and {longest:g}, the records' length"
        )
    if settings.lead_subsets and not settings.name:
        raise UserError("--lead-subsets is for a run of its own: give it a --name")
    if settings.lead_subsets and signals.leads != LEADS:
        raise UserError(f"--lead-subsets needs the twelve leads {' '.join(LEADS)}, not {' '.join(signals.leads)}")


def _check_labels(records: dict[str, Records], task: Task, world: World) -> None:
    """Raise a `UserError` if nothing can be chosen by; name the classes of which there is nothing to learn."""
    known = records["val"].target
    if not np.isfinite(macro_auc(known, known)):
        raise UserError(
            f"no class of {task.name} has validation records with and without it: there is no AUC to choose by"
        )
    positive = records["train"].target.sum(axis=0)
    absent = [name for name, n in zip(task.classes, positive, strict=True) if n == 0]
    if absent:
        world.say(f"no training record has {', '.join(absent)}: what the run answers for them means nothing")


def _be_deterministic(device: torch.device) -> None:
    if device.type == "cuda":  # the same bits again on the same GPU, where an operation has such a version
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a check for programs that read such memory


def _prepare(folder: Path) -> None:
    """Make the run folder, see that it can be written to before hours are spent, remove what a kill left."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    sweep(folder)


def _describe(
    model: str,
    name: str,
    task: Task,
    splits: Splits,
    settings: TrainingSettings,
    signals: Signals,
    window: int,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Return what `config.json` says of a training before it has begun: all that makes the run what it is."""
    return {
        "run": name if settings.seed == 0 else f"{name}/seed{settings.seed}",
        "model": model,
        "task": task.to_json(),
        "objective": settings.objective,
        "labels_sha256": splits.labels_sha256[task.name],
        "splits": splits.rules,
        "window": window,
        "signals": signals.meta,
        "settings": {k: v for k, v in asdict(settings).items() if k not in ("data", "artifacts", "overwrite")},
        "augmentation": describe(augment=settings.augment, lead_subsets=settings.lead_subsets),
        "code": digest(training_code(model, settings.augment or settings.lead_subsets)),
        "precision": str(dtype).removeprefix("torch."),
        **machine(),
    }


def _describe_execution(world: World) -> dict[str, Any]:
    """Return what changes the last bits only."""
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu"
    return {
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "device": device,
        "torch": str(torch.__version__),
    }


def new_trainer(
    model: str,
    task: Task,
    signals: Signals,
    settings: TrainingSettings,
    train_records: Records,
    world: World,
    dtype: torch.dtype,
    *,
    lr: float,
) -> Trainer:
    """Return the trainer of a network with fresh weights, or with those of the run `--init`."""
    torch.manual_seed(settings.seed)
    network = build(model, signals.meta, n_classes=len(task), derivatives=settings.derivatives, width=settings.width)
    if settings.init:
        load_initial_weights(network, settings.artifacts / settings.init, task)
    if world.size > 1:
        check_divisible(network, model)
    return Trainer(
        network.to(world.device),
        steps=settings.epochs * steps_per_epoch(len(train_records), settings.batch_size),
        lr=lr,
        weight_decay=settings.weight_decay,
        ema=settings.ema,
        loss=make_loss(settings.objective, train_records.target),
        objective=settings.objective,
        augment=settings.augment,
        lead_subsets=round(settings.crop_seconds * signals.fs) if settings.lead_subsets else None,
        world=world,
        dtype=dtype,
    )


# --- training -------------------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """How far a training has come: what a checkpoint holds besides the state of the trainer."""

    best_auc: float = -1.0
    best_epoch: int = 0
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)  # a row per finished epoch
    step: int = 0  # done in the current epoch
    seconds: float = 0.0  # spent in the current epoch
    loss_sum: float = 0.0  # loss times records over the steps of the current epoch

    @staticmethod
    def from_state(state: dict[str, Any], trainer: Trainer) -> "Progress":
        """Take up what a checkpoint says; the trainer gets its part."""
        trainer.load(state)
        return Progress(**state["progress"])


@dataclass
class Checkpoint:
    """`last.pt` of a training: where it is, and what must be equal for it to be the beginning of this very training.

    `fingerprint` {what: digest} of settings, data and code; `execution` changes the last bits only.
    """

    path: Path
    fingerprint: dict[str, str]
    execution: dict[str, Any]
    settings: dict[str, Any]
    lr: float = 0.0

    def save(self, trainer: Trainer, progress: Progress) -> None:
        if not trainer.world.first:
            return
        state = trainer.state() | {
            "fingerprint": self.fingerprint,
            "execution": self.execution,
            "settings": self.settings,
            "lr": self.lr,
            "progress": vars(progress),
        }
        _write_torch(state, self.path)

    def load(self, world: World) -> dict[str, Any] | None:
        """Return the stored state if it belongs to this training; None if there is none or it is another's."""
        if not self.path.exists():
            return None
        state = _read_checkpoint(self.path, world.device)
        different = [key for key, value in self.fingerprint.items() if state["fingerprint"].get(key) != value]
        if different:
            world.say(f"starting over: {self.path.name} was made with different {', '.join(different)}")
            return None
        if state["execution"] != self.execution:
            world.say(
                f"resuming on different hardware ({state['execution']} before, {self.execution} now): results will "
                "differ in rounding"
            )
        return state


def _read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Return what a checkpoint holds; raise a `UserError` if it is damaged or was written by older code."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        missing = {"fingerprint", "execution", "settings", "lr", "progress", "network"} - state.keys()
    except (RuntimeError, EOFError, OSError, LookupError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}): delete it") from None
    if missing:
        raise UserError(f"{path} is damaged or was written by older code ({min(missing)} is missing): delete it")
    return state


def fit(
    trainer: Trainer,
    progress: Progress,
    checkpoint: Checkpoint,
    array: Microvolts,
    train_records: Records,
    val_records: Records,
    settings: TrainingSettings,
    window: int,
) -> None:
    """Train until the last epoch or until patience ends; `progress` has the best weights and the history after that."""
    world = trainer.world
    crop = array.shape[-1] if settings.lead_subsets else window  # whole records, of which the trainer takes crops
    loss_sum = torch.full((), progress.loss_sum, device=world.device)
    saved = time.monotonic()
    for epoch in range(len(progress.history) + 1, settings.epochs + 1):
        if epoch - progress.best_epoch > settings.patience:
            world.say(f"stopping early: validation macro AUC has not improved for {settings.patience} epochs")
            break
        started = time.perf_counter() - progress.seconds
        trainer.network.train()
        for batch in batches(
            array,
            train_records,
            size=settings.batch_size,
            crop=crop,
            seed=settings.seed,
            epoch=epoch,
            device=world.device,
            first=progress.step,
        ):
            loss = trainer.loss(batch)
            trainer.step(loss)
            # summed on the device: reading it each step would wait for it
            loss_sum += world.sum(loss.detach()) * (len(batch.target) / world.size)
            progress.step += 1
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                progress.seconds, progress.loss_sum = time.perf_counter() - started, loss_sum.item()
                checkpoint.save(trainer, progress)
                saved = time.monotonic()

        probability = trainer.probability(trainer.ema_network, array, val_records.rows, window=window, overlap=False)
        train_loss = loss_sum.item() / len(train_records)
        if not np.isfinite(train_loss):
            raise UserError(f"the loss is not finite in epoch {epoch}: lower --lr (now {checkpoint.lr:g})")
        row = {"epoch": epoch, "lr": trainer.schedule.get_last_lr()[0], "train_loss": train_loss}
        row |= evaluate(probability, val_records.target, settings.objective)
        row["seconds"] = time.perf_counter() - started
        progress.history.append(row)
        if row["val_macro_auc"] > progress.best_auc:
            progress.best_auc, progress.best_epoch = row["val_macro_auc"], epoch
            weights = trainer.ema_network.state_dict()
            progress.best_weights = {key: value.detach().cpu().clone() for key, value in weights.items()}
        progress.step, progress.seconds, progress.loss_sum = 0, 0.0, 0.0
        loss_sum.zero_()
        checkpoint.save(trainer, progress)
        saved = time.monotonic()
        world.say(_epoch_line(row, settings.epochs))


def _epoch_line(row: dict[str, float], epochs: int) -> str:
    left = (epochs - row["epoch"]) * row["seconds"]
    return (
        f"epoch {row['epoch']:3d}/{epochs}  lr {row['lr']:.1e}  loss {row['train_loss']:.4f} / {row['val_loss']:.4f}  "
        f"accuracy {row['val_accuracy']:.3f}  macro AUC {row['val_macro_auc']:.4f}  "
        f"{row['seconds']:.1f} s, {left:.0f} s left"
    )


def evaluate(probability: np.ndarray, target: np.ndarray, objective: Objective) -> dict[str, float]:
    """Return val_loss, val_accuracy (arg-max, records with exactly one class) and val_macro_auc."""
    one = target.sum(axis=1) == 1
    right = probability[one].argmax(axis=1) == target[one].argmax(axis=1)
    return {
        "val_loss": log_loss(target, logits_of(probability, objective), objective),
        "val_accuracy": float(right.mean()) if one.any() else float("nan"),
        "val_macro_auc": macro_auc(target, probability),
    }


def _fingerprint(config: dict[str, Any], records: dict[str, Records]) -> dict[str, str]:
    """Return what must be equal for `last.pt` to be the beginning of this very training: settings, data and code."""
    compared = {key: config[key] for key in ("model", "objective", "window", "precision", "augmentation", "code")}
    compared["classes"] = [entry["class"] for entry in config["task"]["classes"]]
    compared["signals"] = config["signals"]
    for key, value in config["settings"].items():
        if key not in ("device", "precision", "overwrite", "name", "labels", "lr_finder"):
            compared[key] = value
    texts = {key: json.dumps(value, default=list).encode() for key, value in compared.items()}
    texts["records"] = "\n".join(str(ecg_id) for part in SPLITS for ecg_id in records[part].ecg_id).encode()
    # test labels are left out: they have no part in training
    texts["labels"] = records["train"].target.tobytes() + records["val"].target.tobytes()
    return {key: hashlib.sha256(text).hexdigest()[:16] for key, text in texts.items()}


# --- after training -------------------------------------------------------------------------------------------------


def _write_run(
    folder: Path,
    trainer: Trainer,
    progress: Progress,
    array: Microvolts,
    records: dict[str, Records],
    task: Task,
    config: dict[str, Any],
) -> None:
    """Predict validation and test with the best weights and write the run folder; all processes take part."""
    objective = trainer.objective
    trainer.network.load_state_dict(progress.best_weights)
    probability = {}
    for part in SPLITS[1:]:
        probability[part] = trainer.probability(
            trainer.network, array, records[part].rows, window=config["window"], overlap=True
        )
    if not trainer.world.first:
        return
    (folder / "config.json").unlink(missing_ok=True)  # until all is new, this folder is no run
    best = {"weights": progress.best_weights, "epoch": progress.best_epoch, "val_macro_auc": progress.best_auc}
    _write_torch(best, folder / "best.pt")
    temperature = fit_temperature(records["val"].target, probability["val"], objective)
    for part, values in probability.items():
        calibrated = calibrate(values, temperature, objective)
        write_predictions(folder, part, records[part].ecg_id, calibrated, task)
    # the test fold's numbers are in final_results/ alone
    write_validation_aucs(folder, records["val"].target, probability["val"], task)
    history = pd.DataFrame(progress.history)
    write_csv(history, folder / "history.csv")
    save_figure(plot_history(history, title=config["run"]), folder / "history.png")
    config["best_epoch"], config["temperature"] = progress.best_epoch, temperature
    config["seconds"] = round(float(history.seconds.sum()), 1)
    write_json(config, folder / "config.json")


def _write_torch(value: Any, path: Path) -> None:
    """Write what `torch.load(weights_only=True)` can read."""
    buffer = io.BytesIO()  # given a path, torch.save ends a full disk in an error without a file name
    torch.save(value, buffer)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
