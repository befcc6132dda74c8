"""Building blocks that the networks share.

Our own networks are `Body`s, which compute on (B, channels, 1, T): convolutions over time written as `Conv2d` with
(1, k) kernels, because in `channels_last` layout those run up to four times as fast on CPUs as `Conv1d`, with equal
results. Other networks need none of this, see `ecg.models`.
"""

import torch
from torch import nn

STEP_FS = 100.0  # Hz; at higher rates the stem's kernel and stride grow, so that later stages see the same steps


class Frontend(nn.Module):
    """Millivolts in, standardised channels out; with `derivatives` the leads' time derivatives are channels too.

    It is part of the network so that augmentation comes first (the derivative stays the signal's derivative) and
    weights carry the numbers they were trained with. `mean` and `std`, one value per channel: leads in mV,
    then their derivatives in mV/s.
    """

    def __init__(self, *, fs: float, mean: list[float], std: list[float], derivatives: bool):
        super().__init__()
        self.fs, self.derivatives = fs, derivatives
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None])

    def forward(self, millivolt: torch.Tensor) -> torch.Tensor:  # (B, n_leads, T) -> (B, C, T)
        x = millivolt
        if self.derivatives:
            x = torch.cat([x, torch.gradient(x, spacing=1 / self.fs, dim=-1)[0]], dim=1)
        return (x - self.mean) / self.std


class Network(nn.Module):
    """A front end and a body: (B, n_leads, T) millivolts -> (B, n_classes) logits, for any T of at least a second."""

    def __init__(self, frontend: Frontend, body: nn.Module, n_classes: int):
        super().__init__()
        self.frontend, self.body, self.n_classes = frontend, body, n_classes

    @property
    def n_leads(self) -> int:
        return len(self.frontend.mean) // (2 if self.frontend.derivatives else 1)

    def silence(self, n: int, seconds: float) -> torch.Tensor:
        """Return `n` records of zeros, (n, n_leads, T), on the network's device."""
        return torch.zeros(n, self.n_leads, round(seconds * self.frontend.fs), device=self.frontend.mean.device)

    def forward(self, millivolt: torch.Tensor) -> torch.Tensor:
        return self.body(self.frontend(millivolt))


class Body(nn.Sequential):
    """Layers that compute on (B, C, 1, T) in `channels_last`; takes and gives what every network does."""

    def __init__(self, *layers: nn.Module):
        super().__init__(*layers)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, C, T) -> (B, n_classes)
        return super().forward(x.unsqueeze(2).contiguous(memory_format=torch.channels_last))


def steps_of(fs: float) -> int:
    """Return how many samples at `fs` Hz make one step of 10 ms, by which a stem's kernel and stride are multiplied."""
    return max(1, round(fs / STEP_FS))


def scaled(channels: tuple[int, ...], width: float) -> tuple[int, ...]:
    """Return channel counts times `width`, as multiples of 8, which processors like."""
    return tuple(max(8, round(c * width / 8) * 8) for c in channels)


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Convolution over time that keeps T (divided by `stride`); no bias, a norm follows."""
    return nn.Conv2d(c_in, c_out, (1, kernel), (1, stride), (0, kernel // 2), bias=False)


def stem_conv(c_in: int, c_out: int, kernel: int, stride: int, fs: float) -> nn.Sequential:
    """Return the first convolution of a network: `kernel` and `stride` at 100 Hz, longer at higher rates."""
    steps = steps_of(fs)
    return conv_norm_act(c_in, c_out, kernel * steps + (1 - kernel * steps % 2), stride * steps)


def conv_norm_act(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(c_in, c_out, kernel, stride), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


class ConcatPool(nn.Module):
    """Mean and maximum over time side by side: how much of something there is, and whether it occurs at all."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, C, 1, T) -> (B, 2 C)
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)


class BatchDropout(nn.Dropout):
    """Dropout whose mask is drawn for a whole batch, also where several processes divide the batch.

    It replaces every `nn.Dropout` of a network, see `ecg.models.build`. `rows`: (first row, size of the whole batch) of
    what it will see; None where it sees all of it.
    """

    rows: tuple[int, int] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, ...)
        if not self.training or self.p == 0:
            return x
        first, n = self.rows or (0, len(x))
        kept = torch.rand(n, *x.shape[1:], device=x.device)[first : first + len(x)] >= self.p
        return x * kept / (1 - self.p)


def head(channels: int, n_classes: int, dropout: float) -> nn.Sequential:
    """Concat pooling, dropout, linear."""
    return nn.Sequential(ConcatPool(), nn.Dropout(dropout), nn.Linear(2 * channels, n_classes))


class SqueezeExcite(nn.Module):
    """Weigh channels by what the whole record holds (Hu et al. 2018, section 3)."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(8, channels // reduction)
        self.gate = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x.mean(dim=(2, 3)))[:, :, None, None]
