"""InceptionTime-style network (Ismail Fawaz et al. 2020, "InceptionTime", section 3).

Each module looks at the signal through three kernel lengths at once, after a bottleneck, beside a max pooling path;
a shortcut spans every third module.
"""

import torch
from torch import nn

from ecg.models.layers import Body, conv, head, scaled, stem_conv


class InceptionModule(nn.Module):
    def __init__(self, c_in: int, filters: int, kernels: tuple[int, ...]):
        super().__init__()
        self.bottleneck = conv(c_in, filters, 1)
        self.convs = nn.ModuleList(conv(filters, filters, kernel) for kernel in kernels)
        self.pool = nn.Sequential(nn.MaxPool2d((1, 3), 1, (0, 1)), conv(c_in, filters, 1))
        self.norm = nn.BatchNorm2d(filters * (len(kernels) + 1))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, c_in, 1, T) -> (B, filters * (n_kernels + 1), 1, T)
        narrow = self.bottleneck(x)
        return self.act(self.norm(torch.cat([*(conv(narrow) for conv in self.convs), self.pool(x)], dim=1)))


class InceptionBlock(nn.Module):
    """Three modules and the shortcut around them."""

    def __init__(self, c_in: int, filters: int, kernels: tuple[int, ...]):
        super().__init__()
        width = filters * (len(kernels) + 1)
        self.inner = nn.Sequential(*(InceptionModule(c_in if i == 0 else width, filters, kernels) for i in range(3)))
        self.shortcut = nn.Sequential(conv(c_in, width, 1), nn.BatchNorm2d(width))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.inner(x) + self.shortcut(x))


class Inception(Body):
    """(B, n_channels, T) at `fs` Hz -> (B, n_classes).

    `kernels` in samples; after the stem, whose steps are 20 ms at any rate, 19 of them span 0.4 s: a QRS and its ST
    segment. T is halved again between blocks, so that the second sees several beats.
    """

    def __init__(
        self,
        n_channels: int,
        n_classes: int,
        *,
        filters: int = 32,
        blocks: int = 2,
        kernels: tuple[int, ...] = (5, 9, 19),
        stem: int = 64,
        dropout: float = 0.2,
        width: float = 1.0,
        fs: float = 100.0,
    ):
        filters, stem = scaled((filters, stem), width)
        layers, channels = [stem_conv(n_channels, stem, 7, stride=2, fs=fs)], filters * (len(kernels) + 1)
        for i in range(blocks):
            layers += [nn.MaxPool2d((1, 2))] if i > 0 else []
            layers.append(InceptionBlock(stem if i == 0 else channels, filters, kernels))
        super().__init__(*layers, head(channels, n_classes, dropout))
