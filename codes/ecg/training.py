"""Training of one network: one loop for every model, task, precision and number of devices.

Randomness is a function of (seed, epoch, step), so a training that was killed resumes from `last.pt` in the middle of
an epoch without stored generators, and ends with the same weights as one that was not.
"""

import copy
import hashlib
import io
import json
import os
import pickle
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ecg.artifacts import Folders, UserError, atomic, check_at_least, sweep, write_csv, write_json
from ecg.augmentation import augment_batch
from ecg.calibration import calibrate, fit_temperature, log_loss, logits_of
from ecg.data import Signals, available, load_signals
from ecg.distributed import World, join_world
from ecg.inference import Precision, Records, Task, autocast, on_device, pick_dtype, predict, send, to_millivolt
from ecg.labels import CLASSES, LEADS, SPLITS
from ecg.metrics import macro_auc
from ecg.models import build
from ecg.plots import plot_history, plot_lr_finder
from ecg.predictions import machine, run_folder, write_predictions, write_validation_aucs

CHECKPOINT_SECONDS = 30  # between checkpoints within an epoch; one costs about a tenth of a second


Preset = Literal["default", "fast", "full"]
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"width": 0.5, "epochs": 16},
    "full": {"width": 1.5, "epochs": 30},
}


@dataclass(frozen=True)
class TrainingSettings(Folders):
    """What the six training scripts can be told."""

    augment: bool = False
    """Train on scaled and noisy signals with lost leads; the run folder is named after it."""
    task: Task = "multilabel"
    """multilabel: sigmoid per superclass; multiclass: softmax over the records with exactly one superclass."""
    seed: int = 0
    """Seed of weights, order, crops and augmentation; seeds other than 0 get a folder of their own in the run's."""
    preset: Preset = "default"
    """fast: a narrow network and a short training, MiniRocket's AUC in less than its time (XResNet1D); full: a wider
    one and a longer one, for the 17,000 training records of all of PTB-XL; flags beside it have the last word."""
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
    """Draw the learning-rate finder's curve before training."""
    weight_decay: float = 0.05
    """Decoupled weight decay of AdamW."""
    crop_seconds: float = 2.5
    """Training sees random crops of this length; predictions are means over windows of it."""
    average: float = 0.1
    """The weights that are evaluated and kept are a moving average over this share of the training's steps."""
    patience: int = 20
    """Stop after this many epochs without a better macro AUC on the validation fold."""
    precision: Precision = "auto"
    """auto: bf16 where the processor or GPU has it, else fp32."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True)
class Split:
    """The records of one split that a task can use: rows of `signals.npy`, ids and multi-hot targets (n, 5)."""

    rows: np.ndarray
    ecg_id: np.ndarray
    target: np.ndarray


def load_split(artifacts: Path, signals: Signals, name: str, task: Task) -> Split:
    """Return the usable records of a split; training on multiclass takes those with exactly one superclass."""
    table = available(artifacts, signals, name)
    if task == "multiclass" and name == "train":
        table = table[table.label != ""]
    if table.empty:
        raise UserError(f"{artifacts / f'ptbxl_{name}.csv'}: no record can be used for --task {task}")
    ecg_id = table.ecg_id.to_numpy()
    return Split(signals.rows(ecg_id), ecg_id, table[list(CLASSES)].to_numpy(np.float32))


def loss_of(output: torch.Tensor, target: torch.Tensor, task: Task) -> torch.Tensor:
    """Binary cross-entropy per class, or softmax cross-entropy against a one-hot target."""
    if task == "multilabel":
        return functional.binary_cross_entropy_with_logits(output, target)
    return functional.cross_entropy(output, target)


@dataclass(frozen=True)
class Batch:
    """What one step sees: int16 microvolts (B, 12, crop), targets (B, 5), and the generator of their augmentation."""

    microvolt: Records
    target: np.ndarray
    generator: torch.Generator


def steps_per_epoch(n_records: int, batch_size: int) -> int:
    return -(-n_records // batch_size)


def batches(
    array: Records, split: Split, *, size: int, crop: int, seed: int, epoch: int, device: torch.device, first: int = 0
) -> Iterator[Batch]:
    """Yield the batches of an epoch from step `first` on: every record once, in random order, at a random crop.

    They are of equal size (to one record), at most `size`: a small last one would weigh its records more.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(split.rows))
    starts = rng.integers(0, array.shape[-1] - crop, size=len(order), endpoint=True)
    view = array.unfold(2, crop, 1) if isinstance(array, torch.Tensor) else sliding_window_view(array, crop, axis=2)
    parts = np.array_split(np.arange(len(order)), steps_per_epoch(len(order), size))
    for step in range(first, len(parts)):
        rng = np.random.default_rng([seed, epoch, step])
        torch.manual_seed(int(rng.integers(2**62)))  # dropout
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
        chosen = order[parts[step]]
        rows, begin = split.rows[chosen], starts[parts[step]]
        if isinstance(array, torch.Tensor):  # indexing with arrays of the CPU would wait for the GPU
            rows, begin = send(rows, array.device), send(begin, array.device)
        yield Batch(view[rows, :, begin], split.target[chosen], generator)


class Trainer:
    """Network, optimizer, schedule and weight average of one training, and the step that moves them."""

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        steps: int,
        lr: float,
        weight_decay: float,
        average: float,
        task: Task,
        augment: bool,
        world: World,
        dtype: torch.dtype,
    ):
        self.task, self.augment, self.world, self.dtype = task, augment, world, dtype
        self.network, self.average = network, copy.deepcopy(network).requires_grad_(False)
        world.synchronise_norms(network)
        self.optimizer = torch.optim.AdamW(network.parameters(), lr, weight_decay=weight_decay, fused=True)
        # fastai's fit_one_cycle: a quarter up from lr/25, down to lr/1e5, momentum against it
        self.schedule = OneCycleLR(  # which divides by zero where a quarter of the steps is one step
            self.optimizer, lr, total_steps=max(steps + 1, 5), pct_start=0.25, div_factor=25, final_div_factor=1e5 / 25
        )
        # not torch's AveragedModel: it waits for the GPU in every step to see whether this is the first one
        self._move_average = get_ema_multi_avg_fn(max(0.0, 1 - 1 / max(1.0, average * steps)))
        pairs = zip(self.average.state_dict().values(), network.state_dict().values(), strict=True)
        self._averaged = tuple(map(list, zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)))

    def loss(self, batch: Batch) -> torch.Tensor:
        """Return this process's part of the batch's mean loss, times the number of processes."""
        n, device = len(batch.target), self.world.device
        own = self.world.share(n)
        x, y = batch.microvolt, send(batch.target, device)
        if self.augment:  # all of the batch, so that every process draws the same numbers
            x = augment_batch(to_millivolt(x, device), batch.generator)[own]
        else:
            x = to_millivolt(x[own], device)
        y = y[own]
        self.world.divide_dropout(self.network, n)
        with autocast(device, self.dtype):
            output = self.network(x)
        return loss_of(output.float(), y, self.task) * (len(y) * self.world.size / n)

    def step(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.world.average_gradients(self.network)
        self.optimizer.step()
        self.schedule.step()
        self._move_average(*self._averaged, None)

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name).state_dict() for name in ("network", "average", "optimizer", "schedule")}

    def load(self, state: dict[str, Any]) -> None:
        for name in ("network", "average", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])


def find_lr(
    trainer: Trainer, array: Records, split: Split, *, size: int, crop: int, seed: int, steps: int = 100
) -> tuple[pd.DataFrame, float]:
    """Raise the learning rate exponentially from 1e-7 to 10 and watch the loss (Smith 2017); spoils the weights.

    Returns the curve (lr, loss smoothed with decay .98) and the suggestion of fastai's "valley" rule: half-way down
    the longest falling run of the curve.
    """
    rates = 1e-7 * (10 / 1e-7) ** (np.arange(steps) / (steps - 1))
    smooth, least, curve = 0.0, np.inf, []
    where = {"size": size, "crop": crop, "seed": seed, "device": trainer.world.device}
    passes = (batches(array, split, **where, epoch=epoch) for epoch in count(1))
    for i, (rate, batch) in enumerate(zip(rates, chain.from_iterable(passes), strict=False)):
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate
        loss = trainer.loss(batch)
        trainer.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trainer.optimizer.step()
        smooth = 0.98 * smooth + 0.02 * loss.item()
        value = smooth / (1 - 0.98 ** (i + 1))
        if not np.isfinite(value) or value > 4 * least:
            break
        least = min(least, value)
        curve.append((rate, value))
    table = pd.DataFrame(curve, columns=["lr", "loss"])
    return table, valley(table.lr.to_numpy()[steps // 10 : -5], table.loss.to_numpy()[steps // 10 : -5])


def valley(lr: np.ndarray, loss: np.ndarray) -> float:
    """Return the rate half-way through the longest decreasing subsequence of `loss`, counted as fastai counts it."""
    if len(loss) == 0:
        raise UserError("the learning-rate finder's loss diverged at once: give --lr")
    length = np.ones(len(loss), int)  # of the longest decreasing subsequence that ends here
    for i in range(1, len(loss)):
        longer = length[:i][loss[:i] > loss[i]]
        length[i] = 1 + (longer.max() if len(longer) else 0)
    end = int(length.argmax())
    start = end - length[end]
    third = (end - start) / 3
    return float(lr[start + int(third) + int(third / 2)])


def evaluate(probability: np.ndarray, target: np.ndarray, task: Task) -> dict[str, float]:
    """Return val_loss, val_accuracy (arg-max, records with exactly one superclass) and val_macro_auc."""
    one = target.sum(axis=1) == 1
    loss = log_loss(target, logits_of(probability, task), task)
    accuracy = (probability[one].argmax(axis=1) == target[one].argmax(axis=1)).mean()
    auc = macro_auc(target, probability)
    return {"val_loss": loss, "val_accuracy": float(accuracy), "val_macro_auc": float(auc)}


def train(*, model: str, name: str, **values: Any) -> None:
    """Train `model` and leave the run folder `name`_standard or `name`_augmented; `values`: see TrainingSettings."""
    settings = TrainingSettings(**values)
    with join_world(settings.device) as world:
        try:
            _train(model, f"{name}_{'augmented' if settings.augment else 'standard'}", settings, world)
        except torch.OutOfMemoryError:
            raise UserError("the GPU has too little memory: lower --batch-size or --width") from None


def _train(model: str, name: str, settings: TrainingSettings, world: World) -> None:
    started = time.perf_counter()
    folder = run_folder(settings.artifacts, name, settings.seed)
    signals = load_signals(settings.artifacts)
    crop = round(settings.crop_seconds * signals.fs)
    _check(settings, signals, crop, world)
    splits = {part: load_split(settings.artifacts, signals, part, settings.task) for part in SPLITS}
    known = splits["val"].target
    if not np.isfinite(macro_auc(known, known)):
        raise UserError("ptbxl_val.csv has no superclass with and without records: there is no AUC to choose by")
    device, dtype = world.device, pick_dtype(settings.precision, world.device)
    if device.type == "cuda":  # the same bits again on the same GPU, where an operation has such a version
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a check for programs that read such memory
    array = on_device(signals.array, device)
    if world.first:
        _prepare(folder)

    def new_trainer(lr: float, world: World) -> Trainer:
        torch.manual_seed(settings.seed)
        return Trainer(
            build(model, signals.meta, derivatives=settings.derivatives, width=settings.width).to(device),
            steps=settings.epochs * steps_per_epoch(len(splits["train"].rows), settings.batch_size),
            lr=lr,
            weight_decay=settings.weight_decay,
            average=settings.average,
            task=settings.task,
            augment=settings.augment,
            world=world,
            dtype=dtype,
        )

    facts = _describe(model, folder, settings, signals, crop, dtype) | {"n_train": len(splits["train"].rows)}
    execution = {  # changes the last bits only
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": facts["versions"]["torch"],
    }
    fingerprint = _fingerprint(facts, splits)
    state = _read_checkpoint(folder / "last.pt", fingerprint, world)
    if state and state["execution"] != execution:
        world.say(f"began with {state['execution']}, goes on with {execution}: the last bits will differ")
    lr = state["lr"] if state else settings.lr
    if not state and (settings.lr == 0 or settings.lr_finder):
        sample = {"size": settings.batch_size, "crop": crop, "seed": settings.seed}
        table, suggestion = find_lr(new_trainer(1e-3, World(device)), array, splits["train"], **sample)
        lr = world.from_first(lr or suggestion)
        if world.first:
            write_csv(table, folder / "lr_finder.csv")
            plot_lr_finder(table, suggestion, folder / "lr_finder.png")
        world.say(f"learning-rate finder suggests {suggestion:.2e}; training with {lr:.2e}")
    trainer = new_trainer(lr, world)
    facts |= {key: execution[key] for key in ("processes", "threads", "device")}
    facts["settings"]["lr"] = lr
    facts["weights"] = sum(p.numel() for p in trainer.network.parameters())
    processes = f"{world.size} processes of " if world.size > 1 else ""
    world.say(
        f"{name}: {model}, {facts['weights']:,} weights, seed {settings.seed}, {settings.task}, {facts['precision']}, "
        f"{processes}{facts['threads']} threads, {facts['device']}, {facts['n_train']} training records"
    )
    stamp = {"fingerprint": fingerprint, "execution": execution, "lr": lr}
    best, history = _fit(trainer, array, splits, settings, crop, folder / "last.pt", state, stamp)
    _write_run(folder, trainer, best, history, array, splits, facts)
    world.say(
        f"best epoch {best['epoch']}: validation macro AUC {best['auc']:.4f}; "
        f"{time.perf_counter() - started:.0f} s; results in {folder}"
    )


def _check(settings: TrainingSettings, signals: Signals, crop: int, world: World) -> None:
    """Raise a `UserError` if a setting is out of range."""
    least = {"epochs": 1, "batch_size": 2 * world.size, "patience": 1, "seed": 0}
    least |= {"lr": 0, "weight_decay": 0, "average": 0, "width": 0.1}
    for field, value in least.items():
        check_at_least(f"--{field.replace('_', '-')}", getattr(settings, field), value)
    if not signals.fs <= crop <= signals.array.shape[-1]:
        raise UserError(f"--crop-seconds {settings.crop_seconds} must be between 1 and the record's length")


def _describe(
    model: str, folder: Path, settings: TrainingSettings, signals: Signals, crop: int, dtype: torch.dtype
) -> dict[str, Any]:
    """Return what `config.json` says of a training before it has begun."""
    return {
        "run": folder.relative_to(settings.artifacts).as_posix(),
        "model": model,
        "task": settings.task,
        "augment": settings.augment,
        "seed": settings.seed,
        "classes": CLASSES,
        "leads": LEADS,
        "window": crop,
        "derivatives": settings.derivatives,
        "width": settings.width,
        "signals": signals.meta,
        "settings": {k: v for k, v in asdict(settings).items() if k not in ("data", "artifacts")},
        "precision": str(dtype).removeprefix("torch."),
        **machine(),
    }


def _write_run(
    folder: Path,
    trainer: Trainer,
    best: dict[str, Any],
    history: pd.DataFrame,
    array: Records,
    splits: dict[str, Split],
    facts: dict[str, Any],
) -> None:
    """Predict validation and test with the best weights and write the run folder; all processes take part."""
    world, task = trainer.world, trainer.task
    trainer.network.load_state_dict(best["weights"])
    where = {"window": facts["window"], "task": task, "device": world.device, "dtype": trainer.dtype}
    probability = {}
    for part in SPLITS[1:]:
        rows = splits[part].rows
        probability[part] = world.join(predict(trainer.network, array, rows[world.share(len(rows))], **where))
    if not world.first:
        return
    weights = {key: value.cpu() for key, value in best["weights"].items()}
    (folder / "config.json").unlink(missing_ok=True)  # until all is new, this folder is no run
    write_torch({"weights": weights, "epoch": best["epoch"], "val_macro_auc": best["auc"]}, folder / "best.pt")
    temperature = fit_temperature(splits["val"].target, probability["val"], task)
    for part, values in probability.items():
        write_predictions(folder, part, splits[part].ecg_id, calibrate(values, temperature, task))
    # the test fold's numbers stand in final_results/ alone, where it is looked at once
    write_validation_aucs(folder, splits["val"].target, probability["val"])
    write_csv(history, folder / "history.csv")
    plot_history(history, folder / "history.png", title=facts["run"])
    found = {"best_epoch": best["epoch"], "temperature": temperature}
    found["seconds"] = round(float(history.seconds.sum()), 1)
    write_json(facts | found, folder / "config.json")


def _prepare(folder: Path) -> None:
    """Make the run folder, see that it can be written to before hours are spent, remove what a kill left."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    sweep(folder)


def write_torch(value: Any, path: Path) -> None:
    """Write what `torch.load(weights_only=True)` can read."""
    buffer = io.BytesIO()  # given a path, torch.save ends a full disk in an error without a file name
    torch.save(value, buffer)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _fingerprint(facts: dict[str, Any], splits: dict[str, Split]) -> dict[str, str]:
    """What must be equal for `last.pt` to be the beginning of this very training: settings, data and code."""
    here = Path(__file__).parent
    names = ("training", "distributed", "augmentation", "inference", "data", "metrics")
    sources = [*(here / f"{name}.py" for name in names), *sorted((here / "models").glob("*.py"))]
    parts = {key: value for key, value in facts.items() if key not in ("date", "hardware", "versions", "settings")}
    texts = {key: json.dumps(value, default=str).encode() for key, value in (parts | facts["settings"]).items()}
    texts["code"] = b"".join(path.read_bytes() for path in sources)
    texts["records"] = b"".join(splits[part].ecg_id.tobytes() for part in SPLITS)
    # test labels are left out: they have no part in training
    texts["labels"] = splits["train"].target.tobytes() + splits["val"].target.tobytes()
    return {key: hashlib.sha256(text).hexdigest()[:16] for key, text in texts.items()}


def _fit(
    trainer: Trainer,
    array: Records,
    splits: dict[str, Split],
    settings: TrainingSettings,
    crop: int,
    checkpoint: Path,
    state: dict[str, Any] | None,
    stamp: dict[str, Any],
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train up to the last epoch or until patience ends, from the `state` of a checkpoint if there is one.

    `stamp` is what every checkpoint says besides, of which training it is.
    """
    world, train_split, val_split = trainer.world, splits["train"], splits["val"]
    best: dict[str, Any] = {"auc": -1.0, "epoch": 0, "weights": {}}
    history: list[dict[str, float]] = []
    done, spent = 0, 0.0  # steps and seconds of the epoch
    total = torch.zeros((), device=world.device)  # loss times records, over its steps
    if state:
        trainer.load(state)
        best, history, done, spent = (state[key] for key in ("best", "history", "done", "spent"))
        total += state["total"]
        world.say(f"resumes at step {done} of epoch {len(history) + 1} from {checkpoint} (delete it to train anew)")
    saved = time.monotonic()

    def save() -> None:
        nonlocal saved
        if world.first:
            progress = {"best": best, "history": history, "done": done, "spent": spent, "total": total.item()}
            write_torch(stamp | progress | trainer.state(), checkpoint)
        saved = time.monotonic()

    for epoch in range(len(history) + 1, settings.epochs + 1):
        if epoch - best["epoch"] > settings.patience:
            world.say(f"stops: no better validation macro AUC for {settings.patience} epochs")
            break
        started = time.perf_counter() - spent
        trainer.network.train()
        where = {"size": settings.batch_size, "crop": crop, "device": world.device}
        for batch in batches(array, train_split, **where, seed=settings.seed, epoch=epoch, first=done):
            loss = trainer.loss(batch)
            trainer.step(loss)
            # summed on the device: reading it each step would wait for it
            total += world.sum(loss.detach()) * (len(batch.target) / world.size)
            done += 1
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                spent = time.perf_counter() - started
                save()
        where = {"window": crop, "task": settings.task, "device": world.device, "dtype": trainer.dtype}
        rows = val_split.rows[world.share(len(val_split.rows))]
        probability = world.join(predict(trainer.average, array, rows, **where, overlap=False))
        loss = total.item() / len(train_split.rows)
        row = {"epoch": epoch, "lr": trainer.schedule.get_last_lr()[0], "train_loss": loss}
        row |= evaluate(probability, val_split.target, settings.task)
        if not np.isfinite(loss):
            raise UserError(f"the loss is not finite in epoch {epoch}: lower --lr (now {stamp['lr']:g})")
        row["seconds"] = time.perf_counter() - started
        history.append(row)
        if row["val_macro_auc"] > best["auc"]:
            weights = {k: v.detach().cpu().clone() for k, v in trainer.average.state_dict().items()}
            best = {"auc": row["val_macro_auc"], "epoch": epoch, "weights": weights}
        done, spent = 0, 0.0
        total.zero_()
        save()
        left = (settings.epochs - epoch) * row["seconds"]
        world.say(
            f"epoch {epoch:3d}/{settings.epochs}  lr {row['lr']:.1e}  loss {row['train_loss']:.4f} / "
            f"{row['val_loss']:.4f}  accuracy {row['val_accuracy']:.3f}  macro AUC {row['val_macro_auc']:.4f}  "
            f"{row['seconds']:.1f} s, {left:.0f} s left"
        )
    return best, pd.DataFrame(history)


def _read_checkpoint(path: Path, fingerprint: dict[str, str], world: World) -> dict[str, Any] | None:
    """Return the state in `path` if it belongs to this training; None if there is none or it is another's."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=world.device, weights_only=True)
        different = [key for key in fingerprint if state["fingerprint"].get(key) != fingerprint[key]]
    except (RuntimeError, EOFError, OSError, LookupError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}): delete it") from None
    if different:
        world.say(f"{path} is of a training with another {', '.join(different)}: begins anew")
        return None
    return state
