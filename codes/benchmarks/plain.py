"""The plain way, which the benchmarks compare with: how a good script trains and predicts without this engine.

fp32 and `Conv1d` networks on (B, C, T); a `Dataset` that reads, crops, augments and standardises one record at a time,
and a `DataLoader` that collates them; a loop that reads the loss in each step for its progress line. Task, network,
initial weights, augmentations, loss, optimizer and schedule are those of `ecg.trainer`.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ecg.augmentation import augment_batch
from ecg.formats.wfdb import UV_PER_MV
from ecg.inference import window_starts
from ecg.models.layers import Body, ConcatPool, Frontend, Network, SqueezeExcite
from ecg.models.xresnet1d import SelfAttention
from ecg.tasks import Objective
from ecg.trainer import Loss, Records


def plain_network(network: Network) -> nn.Module:
    """Return the body of `network` on (B, C, T): the same architecture and weights, in modules of one dimension."""
    return _convert(copy.deepcopy(network.body))


def _convert(module: nn.Module) -> nn.Module:
    if isinstance(module, Body):
        return nn.Sequential(*(_convert(layer) for layer in module))
    if isinstance(module, nn.Conv2d):
        conv = nn.Conv1d(
            module.in_channels,
            module.out_channels,
            kernel_size=module.kernel_size[1],
            stride=module.stride[1],
            padding=module.padding[1],
            bias=module.bias is not None,
        )
        weights = {"weight": module.weight.squeeze(2)}  # (c_out, c_in, 1, kernel)
        if module.bias is not None:
            weights["bias"] = module.bias
        conv.load_state_dict(weights)
        return conv
    if isinstance(module, nn.BatchNorm2d):
        norm = nn.BatchNorm1d(module.num_features, module.eps, module.momentum)
        norm.load_state_dict(module.state_dict())
        return norm
    if isinstance(module, nn.MaxPool2d):
        return nn.MaxPool1d(_over_time(module.kernel_size), _over_time(module.stride), _over_time(module.padding))
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
    """What `Frontend` does, for one record in NumPy: (n_leads, T) millivolts -> (C, T)."""

    def __init__(self, frontend: Frontend):
        self.fs, self.derivatives = frontend.fs, frontend.derivatives
        self.mean, self.std = frontend.mean.numpy(), frontend.std.numpy()  # (C, 1)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if self.derivatives:
            x = np.concatenate([x, np.gradient(x, 1 / self.fs, axis=-1)])
        return (x - self.mean) / self.std


def augment_record(millivolt: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """Change one record (n_leads, T) as the augmented runs change each of a batch."""
    return augment_batch(torch.from_numpy(millivolt)[None], generator)[0].numpy()


class PlainRecords(Dataset):
    """Augmented, standardised random crops of the training records; `array` is that of `signals.npy`."""

    def __init__(self, array: np.ndarray, records: Records, standardise: Standardise, *, crop: int, seed: int):
        self.array, self.records, self.standardise, self.crop = array, records, standardise, crop
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Begin new random numbers, of the crops and of the augmentation."""
        self.rng, self.generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:  # (C, crop), (n_classes,)
        start = self.rng.integers(0, self.array.shape[-1] - self.crop, endpoint=True)
        crop = self.array[self.records.rows[i], :, start : start + self.crop]
        x = augment_record(crop.astype(np.float32) / UV_PER_MV, self.generator)
        return torch.from_numpy(self.standardise(x)), torch.from_numpy(self.records.target[i])


def seed_worker(worker: int) -> None:
    """Give each worker of a `DataLoader` random numbers of its own, in every epoch others."""
    get_worker_info().dataset.reseed(torch.initial_seed())


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
    network: nn.Module, loader: DataLoader, *, loss: Loss, epochs: int, lr: float, weight_decay: float
) -> Iterator[float]:
    """Train with a step for each value that is taken: the step's loss. `loss` is made by `ecg.trainer.make_loss`."""
    optimizer = torch.optim.AdamW(network.parameters(), lr, weight_decay=weight_decay)
    steps = max(epochs * len(loader) + 1, 5)
    schedule = OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.25, final_div_factor=1e5 / 25)
    network.train()
    for _ in range(epochs):
        for x, y in loader:
            value = loss(network(x), y)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            yield value.item()


@torch.inference_mode()
def predict_record(
    network: nn.Module,
    millivolt: np.ndarray,
    standardise: Standardise,
    *,
    window: int,
    objective: Objective,
    at_once: bool,
) -> np.ndarray:
    """Return the probabilities (n_classes,) of one record (n_leads, T): the mean over its windows, overlapping by half.

    `at_once` gives the windows to the network as one batch, otherwise one after the other.
    """
    starts = window_starts(millivolt.shape[-1], window, overlap=True)
    windows = torch.stack([torch.from_numpy(standardise(millivolt[:, start : start + window])) for start in starts])
    logits = network(windows) if at_once else torch.cat([network(one[None]) for one in windows])  # (W, n_classes)
    probability = torch.sigmoid(logits) if objective == "multilabel" else logits.softmax(dim=-1)
    return probability.mean(dim=0).numpy()
