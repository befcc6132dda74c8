"""The plain way, which the benchmarks compare with: how a good script trains and predicts without this engine.

fp32 and `Conv1d` networks on (B, C, T); a `Dataset` that reads, crops, augments and standardises one record at a time
in NumPy, and a `DataLoader` that collates them; a loop that reads the loss in each step for its progress line. Task,
network, initial weights, changes to the signals, optimizer and schedule are those of `ecg.training`.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ecg.data import UV_PER_MV
from ecg.inference import Task, window_starts
from ecg.models.layers import ConcatPool, Frontend, Network, SqueezeExcite
from ecg.models.xresnet1d import SelfAttention
from ecg.training import Split


def plain_network(network: Network) -> nn.Module:
    """Return the body of `network` on (B, C, T): the same architecture and weights, in modules of one dimension."""
    return _convert(copy.deepcopy(network.body))


def _convert(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.Conv2d):
        sizes = module.kernel_size[1], module.stride[1], module.padding[1]
        conv = nn.Conv1d(module.in_channels, module.out_channels, *sizes, bias=module.bias is not None)
        conv.load_state_dict({name: v.squeeze(2) for name, v in module.state_dict().items()})
        return conv
    if isinstance(module, nn.BatchNorm2d):
        norm = nn.BatchNorm1d(module.num_features, module.eps, module.momentum)
        norm.load_state_dict(module.state_dict())
        return norm
    if isinstance(module, nn.MaxPool2d):
        kernel, stride, padding = (_over_time(v) for v in (module.kernel_size, module.stride, module.padding))
        return nn.MaxPool1d(kernel, stride, padding)
    if isinstance(module, nn.AvgPool2d):
        return nn.AvgPool1d(_over_time(module.kernel_size), ceil_mode=module.ceil_mode)
    if isinstance(module, ConcatPool | SqueezeExcite | SelfAttention):
        return _OneDimension(module)
    for name, child in module.named_children():
        setattr(module, name, _convert(child))
    return module


def _over_time(size: int | tuple[int, int]) -> int:
    return size if isinstance(size, int) else size[1]


class _OneDimension(nn.Module):
    """A module without convolutions, whose only trace of the second dimension is its shape; views cost nothing."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, C, T)
        y = self.module(x.unsqueeze(2))
        return y.squeeze(2) if y.ndim == 4 else y


class Standardise:
    """What `Frontend` does, for one record in NumPy: (12, T) millivolts -> (C, T)."""

    def __init__(self, frontend: Frontend):
        self.fs, self.derivatives = frontend.fs, frontend.derivatives
        self.mean, self.std = frontend.mean.numpy(), frontend.std.numpy()  # (C, 1)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if self.derivatives:
            x = np.concatenate([x, np.gradient(x, 1 / self.fs, axis=-1)])
        return (x - self.mean) / self.std


def augment_record(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change one record (12, T) as `ecg.augmentation.augment_batch` changes each of a batch."""
    x = x * np.float32(rng.uniform(0.8, 1.2))
    x += np.float32(rng.uniform(0, 0.05)) * rng.standard_normal(x.shape, dtype=np.float32)
    x[rng.random(len(x)) < 0.05] = 0
    return x


class PlainRecords(Dataset):
    """Augmented, standardised random crops of the training records; `array` is that of `signals.npy`."""

    def __init__(self, array: np.ndarray, split: Split, standardise: Standardise, *, crop: int, seed: int):
        self.array, self.split, self.standardise, self.crop = array, split, standardise, crop
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.split.rows)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:  # (C, crop), (5,)
        start = self.rng.integers(0, self.array.shape[-1] - self.crop, endpoint=True)
        x = self.array[self.split.rows[i], :, start : start + self.crop].astype(np.float32) / UV_PER_MV
        return torch.from_numpy(self.standardise(augment_record(x, self.rng))), torch.from_numpy(self.split.target[i])


def seed_worker(worker: int) -> None:
    """Give each worker of a `DataLoader` random numbers of its own, in every epoch others."""
    get_worker_info().dataset.rng = np.random.default_rng(torch.initial_seed())


def plain_loader(records: PlainRecords, *, batch_size: int, workers: int) -> DataLoader:
    return DataLoader(
        records,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        worker_init_fn=seed_worker,
        persistent_workers=workers > 0,
    )


def plain_training(
    network: nn.Module, loader: DataLoader, *, epochs: int, lr: float, weight_decay: float
) -> Iterator[float]:
    """Train on the task multilabel, a step for each value that is taken: the step's loss."""
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.AdamW(network.parameters(), lr, weight_decay=weight_decay)
    steps = max(epochs * len(loader) + 1, 5)
    schedule = OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.25, final_div_factor=1e5 / 25)
    network.train()
    for _ in range(epochs):
        for x, y in loader:
            loss = criterion(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            yield loss.item()


@torch.inference_mode()
def predict_record(
    network: nn.Module, millivolt: np.ndarray, standardise: Standardise, *, window: int, task: Task, at_once: bool
) -> np.ndarray:
    """Return the probabilities (5,) of one record (12, T): the mean over its windows, overlapping by half.

    `at_once` gives the windows to the network as one batch, otherwise one after the other.
    """
    starts = window_starts(millivolt.shape[-1], window, overlap=True)
    windows = torch.stack([torch.from_numpy(standardise(millivolt[:, start : start + window])) for start in starts])
    logits = network(windows) if at_once else torch.cat([network(one[None]) for one in windows])  # (W, 5)
    probability = torch.sigmoid(logits) if task == "multilabel" else logits.softmax(dim=-1)
    return probability.mean(dim=0).numpy()
