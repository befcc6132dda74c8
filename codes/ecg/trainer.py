"""One training step: batches, loss, network, optimizer, schedule and the moving average of the weights.

Randomness is a function of (seed, epoch, step), so a training that was killed resumes in the middle of an epoch without
stored generators, and ends with the same weights as one that was not.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ecg.artifacts import UserError
from ecg.augmentation import augment_batch, keep_lead_subsets
from ecg.devices import Microvolts, autocast, send, to_millivolt
from ecg.distributed import World
from ecg.inference import network_probability
from ecg.signals import Signals, available
from ecg.tasks import Objective, Task

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Records:
    """The records of one split that a training can use.

    `rows` (n,) of `signals.npy`, `ecg_id` (n,), `target` (n, n_classes) float32 of 0 and 1.
    """

    rows: np.ndarray
    ecg_id: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def load_records(artifacts: Path, signals: Signals, split: str, task: Task, objective: Objective) -> Records:
    """Return the usable records of a split; training on multiclass takes those with exactly one class."""
    table = available(artifacts, signals, split, task)
    if objective == "multiclass" and split == "train":
        table = table[table.label != ""]
    if table.empty:
        raise UserError(f"{artifacts}: no {split} record can be used for {task.name}, --objective {objective}")
    ecg_id = table.ecg_id.to_numpy()
    return Records(signals.rows(ecg_id), ecg_id, table[list(task.classes)].to_numpy(np.float32))


def make_loss(objective: Objective, train_target: np.ndarray) -> Loss:
    """Return what a training minimises: a function of logits and targets, both (B, n_classes), to a scalar.

    Binary cross-entropy per class, or softmax cross-entropy against a one-hot target. `train_target` (n, n_classes) are
    the labels of the training records, from which a fork computes class weights. The loss must be a mean over records.
    """
    class_weight: torch.Tensor | None = None  # for example torch.from_numpy((1 - p) / p) with p = train_target.mean(0)

    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        weight = None if class_weight is None else class_weight.to(logits)
        if objective == "multilabel":
            return functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
        return functional.cross_entropy(logits, target, weight=weight)

    return loss


@dataclass(frozen=True)
class Batch:
    """What one step sees.

    int16 microvolts (B, n_leads, crop), targets (B, n_classes), and the generator of their augmentation.
    """

    microvolt: Microvolts
    target: np.ndarray
    generator: torch.Generator


def steps_per_epoch(n_records: int, batch_size: int) -> int:
    return -(-n_records // batch_size)


def batches(
    array: Microvolts,
    records: Records,
    *,
    size: int,
    crop: int,
    seed: int,
    epoch: int,
    device: torch.device,
    first: int = 0,
) -> Iterator[Batch]:
    """Yield the batches of an epoch from step `first` on: every record once, in random order, at a random crop.

    They are of equal size (to one record), at most `size`: a small last one would weigh its records more.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(records))
    starts = rng.integers(0, array.shape[-1] - crop, size=len(order), endpoint=True)
    view = array.unfold(2, crop, 1) if isinstance(array, torch.Tensor) else sliding_window_view(array, crop, axis=2)
    parts = np.array_split(np.arange(len(order)), steps_per_epoch(len(order), size))
    for step in range(first, len(parts)):
        rng = np.random.default_rng([seed, epoch, step])
        torch.manual_seed(int(rng.integers(2**62)))  # dropout
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
        chosen = order[parts[step]]
        rows, begin = records.rows[chosen], starts[parts[step]]
        if isinstance(array, torch.Tensor):  # indexing with arrays of the CPU would wait for the GPU
            rows, begin = send(rows, array.device), send(begin, array.device)
        yield Batch(view[rows, :, begin], records.target[chosen], generator)


class Trainer:
    """Network, optimizer, schedule and weight average of one training, and the step that moves them.

    `ema_network` has the exponential moving average of the weights over about `ema` of all `steps`; it is what is
    evaluated and stored. With `lead_subsets`, a number of samples, it takes whole records, and trains on crops of that
    length in which some leads only are kept.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        steps: int,
        lr: float,
        weight_decay: float,
        ema: float,
        loss: Loss,
        objective: Objective,
        augment: bool,
        lead_subsets: int | None = None,
        world: World,
        dtype: torch.dtype,
    ):
        self.loss_function, self.objective = loss, objective
        self.augment, self.lead_subsets = augment, lead_subsets
        self.world, self.dtype = world, dtype
        self.network, self.ema_network = network, copy.deepcopy(network).requires_grad_(False)
        world.synchronise_norms(network)
        self.optimizer = torch.optim.AdamW(network.parameters(), lr, weight_decay=weight_decay, fused=True)
        # fastai's fit_one_cycle: a quarter up from lr/25, down to lr/1e5, momentum against it
        self.schedule = OneCycleLR(  # which divides by zero where a quarter of the steps is one step
            self.optimizer, lr, total_steps=max(steps + 1, 5), pct_start=0.25, div_factor=25, final_div_factor=1e5 / 25
        )
        # not torch's AveragedModel: it waits for the GPU in every step to see whether this is the first one
        self._move_ema = get_ema_multi_avg_fn(max(0.0, 1 - 1 / max(1.0, ema * steps)))
        self._ema_values, self._values = [], []  # tensors of the two networks, side by side
        for ema_value, value in zip(self.ema_network.state_dict().values(), network.state_dict().values(), strict=True):
            if ema_value.is_floating_point():
                self._ema_values.append(ema_value)
                self._values.append(value)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Return this process's part of the batch's mean loss, times the number of processes."""
        n, device = len(batch.target), self.world.device
        own = self.world.share(n)
        if self.augment or self.lead_subsets:  # all of the batch, so that every process draws the same numbers
            x = to_millivolt(batch.microvolt, device)
            x = augment_batch(x, batch.generator) if self.augment else x
            if self.lead_subsets:
                x = keep_lead_subsets(x, batch.generator, window=self.lead_subsets)
            x = x[own]
        else:
            x = to_millivolt(batch.microvolt[own], device)
        y = send(batch.target, device)[own]
        self.world.divide_dropout(self.network, n)
        with autocast(device, self.dtype):
            output = self.network(x)
        return self.loss_function(output.float(), y) * (len(y) * self.world.size / n)

    def step(self, loss: torch.Tensor) -> None:
        """Follow the gradients of one batch's loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.world.average_gradients(self.network)
        self.optimizer.step()
        self.schedule.step()
        self._move_ema(self._ema_values, self._values, None)

    def probability(
        self, network: torch.nn.Module, array: Microvolts, rows: np.ndarray, *, window: int, overlap: bool
    ) -> np.ndarray:
        """Return the probabilities (len(rows), n_classes) of records; the processes divide them among themselves."""
        own = network_probability(
            network,
            array,
            rows[self.world.share(len(rows))],
            window=window,
            objective=self.objective,
            device=self.world.device,
            dtype=self.dtype,
            overlap=overlap,
        )
        return self.world.join(own)

    def state(self) -> dict[str, Any]:
        """Return all that a checkpoint needs to go on from here."""
        return {
            "network": self.network.state_dict(),
            "ema_network": self.ema_network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.ema_network.load_state_dict(state["ema_network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
