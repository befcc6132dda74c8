"""Training of one network: one loop for every model, task, device and precision.

Randomness is a function of (seed, epoch), so a training that was killed resumes from `last.pt` without stored
generators and ends with the same weights as one that was not.
"""

import hashlib
import json
import os
import pickle
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ecg.artifacts import Folders, UserError, atomic, check_at_least, write_csv, write_json
from ecg.augmentation import augment_batch, mixup
from ecg.data import Signals, available, load_signals
from ecg.inference import Precision, Task, autocast, pick_device, pick_dtype, predict, to_millivolt
from ecg.labels import CLASSES, LEADS, SPLITS
from ecg.metrics import macro_auc
from ecg.models import build
from ecg.plots import plot_history, plot_lr_finder
from ecg.predictions import machine, run_folder, write_predictions, write_validation_aucs


@dataclass(frozen=True)
class TrainingSettings(Folders):
    """What the six training scripts can be told."""

    augment: bool = False
    """Train on scaled, noisy, blended signals; the run folder is named after it."""
    task: Task = "multilabel"
    """multilabel: sigmoid per superclass; multiclass: softmax over the records with exactly one superclass."""
    seed: int = 0
    """Seed of weights, order, crops and augmentation; seeds other than 0 get a folder of their own in the run's."""
    derivatives: bool = True
    """Give the network the time derivative of each lead as a further channel."""
    epochs: int = 40
    """Passes over the training records; the one-cycle schedule is stretched over them."""
    batch_size: int = 128
    """Records per step."""
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
    ecg_id = table.ecg_id.to_numpy()
    return Split(signals.rows(ecg_id), ecg_id, table[list(CLASSES)].to_numpy(np.float32))


def loss_of(output: torch.Tensor, target: torch.Tensor, task: Task) -> torch.Tensor:
    """Binary cross-entropy per class, or softmax cross-entropy against a (possibly blended) one-hot target."""
    if task == "multilabel":
        return functional.binary_cross_entropy_with_logits(output, target)
    return functional.cross_entropy(output, target)


def batches(
    array: np.ndarray, split: Split, *, size: int, crop: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (int16 microvolts (B, 12, crop), target (B, 5)): every record once, in random order, at a random crop."""
    order = rng.permutation(len(split.rows))
    starts = rng.integers(0, array.shape[-1] - crop, size=len(order), endpoint=True)
    for i in range(0, len(order), size):
        chosen = order[i : i + size]
        crops = [array[row, :, s : s + crop] for row, s in zip(split.rows[chosen], starts[chosen], strict=True)]
        yield np.stack(crops), split.target[chosen]


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
        device: torch.device,
        dtype: torch.dtype,
    ):
        self.network, self.task, self.augment, self.device, self.dtype = network, task, augment, device, dtype
        self.optimizer = torch.optim.AdamW(network.parameters(), lr, weight_decay=weight_decay, fused=True)
        # fastai's fit_one_cycle: a quarter up from lr/25, down to lr/1e5, momentum against it
        self.schedule = OneCycleLR(
            self.optimizer, lr, total_steps=steps + 1, pct_start=0.25, div_factor=25, final_div_factor=1e5 / 25
        )
        decay = max(0.0, 1 - 1 / max(1.0, average * steps))
        self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    def loss(self, crops: np.ndarray, target: np.ndarray, rng: np.random.Generator, noise: torch.Generator):
        x, y = to_millivolt(crops, self.device), torch.from_numpy(target).to(self.device)
        if self.augment:
            x, y = mixup(augment_batch(x, noise), y, rng)
        with autocast(self.device, self.dtype):
            output = self.network(x)
        return loss_of(output.float(), y, self.task)

    def step(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.network)

    def state(self) -> dict[str, Any]:
        parts = (self.network, self.average, self.optimizer, self.schedule)
        return dict(zip(("network", "average", "optimizer", "schedule"), (p.state_dict() for p in parts), strict=True))

    def load(self, state: dict[str, Any]) -> None:
        for name in ("network", "average", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])


def generators(seed: int, epoch: int, device: torch.device) -> tuple[np.random.Generator, torch.Generator]:
    """Return the generators of an epoch, for order and crops and for noise on the device; seeds dropout as well."""
    rng = np.random.default_rng([seed, epoch])
    torch.manual_seed(int(rng.integers(2**62)))
    return rng, torch.Generator(device).manual_seed(int(rng.integers(2**62)))


def find_lr(
    trainer: Trainer, array: np.ndarray, split: Split, *, size: int, crop: int, seed: int, steps: int = 100
) -> tuple[pd.DataFrame, float]:
    """Raise the learning rate exponentially from 1e-7 to 10 and watch the loss (Smith 2017); spoils the weights.

    Returns the curve (lr, loss smoothed with decay .98) and the suggestion of fastai's "valley" rule: half-way down
    the longest falling run of the curve.
    """
    rng, noise = generators(seed, 0, trainer.device)
    rates = 1e-7 * (10 / 1e-7) ** (np.arange(steps) / (steps - 1))
    smooth, least, curve = 0.0, np.inf, []
    stream = iter(())
    for i, rate in enumerate(rates):
        batch = next(stream, None)
        if batch is None:  # the next pass over the records
            stream = batches(array, split, size=size, crop=crop, rng=rng)
            batch = next(stream)
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate
        loss = trainer.loss(*batch, rng, noise)
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
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    if task == "multilabel":
        loss = -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean()
    else:
        loss = -np.log(p[one][target[one] == 1]).mean()
    accuracy = (probability[one].argmax(axis=1) == target[one].argmax(axis=1)).mean()
    auc = macro_auc(target, probability)
    return {"val_loss": float(loss), "val_accuracy": float(accuracy), "val_macro_auc": float(auc)}


def train(*, model: str, name: str, **values: Any) -> None:
    """Train `model` and leave the run folder `name`_standard or `name`_augmented; `values`: see TrainingSettings."""
    settings = TrainingSettings(**values)
    started = time.perf_counter()
    name = f"{name}_{'augmented' if settings.augment else 'standard'}"
    folder = run_folder(settings.artifacts, name, settings.seed)
    signals = load_signals(settings.artifacts)
    crop = round(settings.crop_seconds * signals.fs)
    least = {"epochs": 1, "batch_size": 2, "patience": 1, "seed": 0, "lr": 0, "weight_decay": 0, "average": 0}
    for field, value in least.items():
        check_at_least(f"--{field.replace('_', '-')}", getattr(settings, field), value)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("training on several devices is not built yet: run without torchrun")
    if not signals.fs <= crop <= signals.array.shape[-1]:
        raise UserError(f"--crop-seconds {settings.crop_seconds} must be between 1 and the record's length")
    splits = {part: load_split(settings.artifacts, signals, part, settings.task) for part in SPLITS}
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.precision, device)
    if device.type == "cuda":  # the same bits again on the same GPU, where an operation has such a version
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)

    def new_trainer(lr: float) -> Trainer:
        torch.manual_seed(settings.seed)
        return Trainer(
            build(model, signals.meta, derivatives=settings.derivatives).to(device),
            steps=settings.epochs * -(-len(splits["train"].rows) // settings.batch_size),
            lr=lr,
            weight_decay=settings.weight_decay,
            average=settings.average,
            task=settings.task,
            augment=settings.augment,
            device=device,
            dtype=dtype,
        )

    lr = settings.lr
    if settings.lr_finder or lr == 0:
        sample = {"size": settings.batch_size, "crop": crop, "seed": settings.seed}
        table, suggestion = find_lr(new_trainer(1e-3), signals.array, splits["train"], **sample)
        lr = lr or suggestion
        write_csv(table, folder / "lr_finder.csv")
        plot_lr_finder(table, suggestion, folder / "lr_finder.png")
        print(f"learning-rate finder suggests {suggestion:.2e}; training with {lr:.2e}")

    trainer = new_trainer(lr)
    weights = sum(p.numel() for p in trainer.network.parameters())
    facts = {
        "run": folder.relative_to(settings.artifacts).as_posix(),
        "model": model,
        "task": settings.task,
        "augment": settings.augment,
        "seed": settings.seed,
        "classes": CLASSES,
        "leads": LEADS,
        "window": crop,
        "derivatives": settings.derivatives,
        "signals": signals.meta,
        "settings": {k: v for k, v in asdict(settings).items() if k not in ("data", "artifacts")} | {"lr": lr},
        "weights": weights,
        "n_train": len(splits["train"].rows),
        "precision": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        **machine(),
    }
    print(f"{name}: {model}, {weights:,} weights, seed {settings.seed}, {settings.task}, {facts['precision']}, "
          f"{facts['threads']} threads, {facts['device']}, {facts['n_train']} training records")  # fmt: skip
    fingerprint = _fingerprint(facts, splits)
    best, history = _fit(trainer, signals.array, splits, settings, crop, folder / "last.pt", fingerprint)

    trainer.network.load_state_dict(best["weights"])
    with atomic(folder / "best.pt") as path:
        torch.save({"weights": best["weights"], "epoch": best["epoch"], "val_macro_auc": best["auc"]}, path)
    for part in SPLITS[1:]:
        where = {"window": crop, "task": settings.task, "device": device, "dtype": dtype}
        probability = predict(trainer.network, signals.array, splits[part].rows, **where)
        write_predictions(folder, part, splits[part].ecg_id, probability)
        if part == "val":  # the test fold's numbers stand in final_results/ alone, where it is looked at once
            write_validation_aucs(folder, splits[part].target, probability)
    write_csv(history, folder / "history.csv")
    plot_history(history, folder / "history.png")
    facts |= {"best_epoch": best["epoch"], "seconds": round(float(history.seconds.sum()), 1)}
    write_json(facts, folder / "config.json")
    print(f"best epoch {best['epoch']}: validation macro AUC {best['auc']:.4f}; "
          f"{time.perf_counter() - started:.0f} s; results in {folder}")  # fmt: skip


def _fingerprint(facts: dict[str, Any], splits: dict[str, Split]) -> dict[str, str]:
    """What must be equal for `last.pt` to be the beginning of this very training: settings, data and code."""
    here = Path(__file__).parent
    names = ("training", "augmentation", "inference", "data", "metrics")
    sources = [*(here / f"{name}.py" for name in names), *sorted((here / "models").glob("*.py"))]
    code = b"".join(path.read_bytes() for path in sources)
    # test labels are left out: they have no part in training
    records = b"".join(splits[part].ecg_id.tobytes() for part in SPLITS)
    labels = splits["train"].target.tobytes() + splits["val"].target.tobytes()
    parts = {key: value for key, value in facts.items() if key not in ("date", "hardware", "versions", "settings")}
    parts |= facts["settings"] | {"records": records.hex(), "labels": labels.hex(), "code": code.hex()}
    return {
        key: hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:16] for key, value in parts.items()
    }


def _fit(
    trainer: Trainer,
    array: np.ndarray,
    splits: dict[str, Split],
    settings: TrainingSettings,
    crop: int,
    checkpoint: Path,
    fingerprint: dict[str, str],
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train up to the last epoch or until patience ends, from `checkpoint` if it is of this training."""
    best: dict[str, Any] = {"auc": -1.0, "epoch": 0, "weights": {}}
    history: list[dict[str, float]] = []
    state = _read_checkpoint(checkpoint, fingerprint, trainer.device)
    if state:
        trainer.load(state)
        best, history = state["best"], state["history"]
        print(f"resumes after epoch {len(history)} from {checkpoint} (delete it to train anew)")
    train_rows = len(splits["train"].rows)
    for epoch in range(len(history) + 1, settings.epochs + 1):
        if epoch - best["epoch"] > settings.patience:
            print(f"stops: no better validation macro AUC for {settings.patience} epochs")
            break
        started = time.perf_counter()
        rng, noise = generators(settings.seed, epoch, trainer.device)
        trainer.network.train()
        total = torch.zeros((), device=trainer.device)
        for crops, target in batches(array, splits["train"], size=settings.batch_size, crop=crop, rng=rng):
            loss = trainer.loss(crops, target, rng, noise)
            trainer.step(loss)
            total += loss.detach() * len(crops)  # summed on the device: reading it each step would wait for it
        where = {"window": crop, "task": settings.task, "device": trainer.device, "dtype": trainer.dtype}
        probability = predict(trainer.average.module, array, splits["val"].rows, **where, overlap=False)
        row = {"epoch": epoch, "lr": trainer.schedule.get_last_lr()[0], "train_loss": total.item() / train_rows}
        row |= evaluate(probability, splits["val"].target, settings.task)
        if not np.isfinite(row["train_loss"]):
            raise UserError(f"the loss is not finite in epoch {epoch}: lower --lr (now {settings.lr:g})")
        row["seconds"] = time.perf_counter() - started
        history.append(row)
        if row["val_macro_auc"] > best["auc"]:
            weights = {k: v.detach().cpu().clone() for k, v in trainer.average.module.state_dict().items()}
            best = {"auc": row["val_macro_auc"], "epoch": epoch, "weights": weights}
        with atomic(checkpoint) as path:
            torch.save({"fingerprint": fingerprint, "best": best, "history": history, **trainer.state()}, path)
        left = (settings.epochs - epoch) * row["seconds"]
        print(
            f"epoch {epoch:3d}/{settings.epochs}  lr {row['lr']:.1e}  loss {row['train_loss']:.4f} / "
            f"{row['val_loss']:.4f}  accuracy {row['val_accuracy']:.3f}  macro AUC {row['val_macro_auc']:.4f}  "
            f"{row['seconds']:.1f} s, {left:.0f} s left",
            flush=True,
        )
    if not best["weights"]:
        raise UserError("no epoch had a validation AUC: ptbxl_val.csv needs records with and without each superclass")
    return best, pd.DataFrame(history)


def _read_checkpoint(path: Path, fingerprint: dict[str, str], device: torch.device) -> dict[str, Any] | None:
    """Return the state in `path` if it belongs to this training; None if there is none or it is another's."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        different = [key for key in fingerprint if state["fingerprint"].get(key) != fingerprint[key]]
    except (RuntimeError, EOFError, OSError, LookupError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}): delete it") from None
    if different:
        print(f"{path} is of a training with another {', '.join(different)}: begins anew")
        return None
    return state
