"""Building blocks that the networks share.

Networks compute on (B, channels, 1, T): convolutions over time written as `Conv2d` with (1, k) kernels, because in
`channels_last` layout those run up to four times as fast on CPUs as `Conv1d`, with equal results.
"""

import torch
from torch import nn


class Frontend(nn.Module):
    """Millivolts in, standardised channels out; with `derivatives` the leads' time derivatives are channels too.

    It is part of the network so that augmentation comes first (the derivative stays the signal's derivative) and
    weights carry the numbers they were trained with. `mean` and `std` (12 or 24 values): leads in mV, then mV/s.
    """

    def __init__(self, *, fs: float, mean: list[float], std: list[float], derivatives: bool):
        super().__init__()
        self.fs, self.derivatives = fs, derivatives
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None])

    def forward(self, millivolt: torch.Tensor) -> torch.Tensor:  # (B, 12, T) -> (B, C, 1, T)
        x = millivolt
        if self.derivatives:
            x = torch.cat([x, torch.gradient(x, spacing=1 / self.fs, dim=-1)[0]], dim=1)
        x = (x - self.mean) / self.std
        return x.unsqueeze(2).contiguous(memory_format=torch.channels_last)


class Network(nn.Module):
    """A front end and a body: (B, 12, T) millivolts -> (B, n_classes) logits, for any T of at least a second."""

    def __init__(self, frontend: Frontend, body: nn.Module):
        super().__init__()
        self.frontend = frontend
        self.body = body.to(memory_format=torch.channels_last)

    def forward(self, millivolt: torch.Tensor) -> torch.Tensor:
        return self.body(self.frontend(millivolt))


def scaled(channels: tuple[int, ...], width: float) -> tuple[int, ...]:
    """Return channel counts times `width`, as multiples of 8, which processors like."""
    return tuple(max(8, round(c * width / 8) * 8) for c in channels)


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Convolution over time that keeps T (divided by `stride`); no bias, a norm follows."""
    return nn.Conv2d(c_in, c_out, (1, kernel), (1, stride), (0, kernel // 2), bias=False)


def conv_norm_act(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(c_in, c_out, kernel, stride), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


class ConcatPool(nn.Module):
    """Mean and maximum over time side by side: how much of something there is, and whether it occurs at all."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, C, 1, T) -> (B, 2 C)
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)


class Dropout(nn.Module):
    """Dropout of features whose mask is drawn for a whole batch, also where several processes divide the batch.

    `rows`: (first row, size of the whole batch) of what it will see; None where it sees all of it.
    """

    def __init__(self, probability: float):
        super().__init__()
        self.probability, self.rows = probability, None

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, C)
        if not self.training or self.probability == 0:
            return x
        first, n = self.rows or (0, len(x))
        kept = torch.rand(n, x.shape[1], device=x.device)[first : first + len(x)] >= self.probability
        return x * kept / (1 - self.probability)


def head(channels: int, n_classes: int, dropout: float) -> nn.Sequential:
    """Concat pooling, dropout, linear."""
    return nn.Sequential(ConcatPool(), Dropout(dropout), nn.Linear(2 * channels, n_classes))


class SqueezeExcite(nn.Module):
    """Weigh channels by what the whole record holds (Hu et al. 2018, section 3)."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(8, channels // reduction)
        self.gate = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x.mean(dim=(2, 3)))[:, :, None, None]
