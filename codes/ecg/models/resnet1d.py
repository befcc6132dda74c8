"""ResNet1D: a stem at full time resolution and a few residual stages.

The shape of `resnet1d_wang` (Wang et al. 2017, "Time series classification from scratch", as used for ECGs by
Strodthoff et al. 2020): kernels 5 and 3, stride only between stages, mean and maximum pooling side by side. It is
narrow where T is long and wide where T is short, which halves its cost at equal validation AUC.
"""

import torch
from torch import nn

from ecg.models.layers import Body, conv, conv_norm_act, head, scaled, stem_conv


class ResidualBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernels: tuple[int, int], stride: int):
        super().__init__()
        self.conv1 = conv_norm_act(c_in, c_out, kernels[0], stride)
        self.conv2 = conv(c_out, c_out, kernels[1])
        self.norm2 = nn.BatchNorm2d(c_out)
        same = c_in == c_out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, c_in, 1, T) -> (B, c_out, 1, T / stride)
        return self.act(self.norm2(self.conv2(self.conv1(x))) + self.shortcut(x))


class ResNet1D(Body):
    """(B, n_channels, T) at `fs` Hz -> (B, n_classes).

    `widths`: channels per stage; each stage but the first halves T. `depth`: blocks per stage. The default has
    0.4 M weights; `widths=(64, 128, 256, 512), depth=2, kernels=(7, 7)` has 8.7 M.
    """

    def __init__(
        self,
        n_channels: int,
        n_classes: int,
        *,
        widths: tuple[int, ...] = (64, 128, 192),
        depth: int = 1,
        kernels: tuple[int, int] = (5, 3),
        stem_kernel: int = 7,
        dropout: float = 0.2,
        width: float = 1.0,
        fs: float = 100.0,
    ):
        widths = scaled(widths, width)
        stages, c_in = [], widths[0]
        for i, c_out in enumerate(widths):
            for j in range(depth):
                stages.append(ResidualBlock(c_in, c_out, kernels, stride=2 if i > 0 and j == 0 else 1))
                c_in = c_out
        stem = stem_conv(n_channels, widths[0], stem_kernel, stride=1, fs=fs)
        super().__init__(stem, *stages, head(c_in, n_classes, dropout))
