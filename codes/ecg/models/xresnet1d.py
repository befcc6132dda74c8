"""XResNet1D: the ResNet of "bag of tricks" (He et al. 2019) in one dimension, with squeeze-and-excite and attention.

Three small convolutions as stem, average pooling in the shortcuts, residual branches that begin at zero, channel
weights (Hu et al. 2018), self-attention over time before the last stage (Zhang et al. 2019), concat pooling.
"""

from itertools import pairwise

import torch
from torch import nn

from ecg.models.layers import Body, SqueezeExcite, conv, conv_norm_act, head, scaled, stem_conv


class XResidualBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int):
        super().__init__()
        self.conv1 = conv_norm_act(c_in, c_out, kernel, stride)
        self.conv2 = conv(c_out, c_out, kernel)
        self.norm2 = nn.BatchNorm2d(c_out)
        nn.init.zeros_(self.norm2.weight)  # the block begins as the identity
        self.squeeze_excite = SqueezeExcite(c_out)
        shortcut = [nn.AvgPool2d((1, 2), ceil_mode=True)] if stride == 2 else []
        shortcut += [conv(c_in, c_out, 1), nn.BatchNorm2d(c_out)] if c_in != c_out else []
        self.shortcut = nn.Sequential(*shortcut)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, c_in, 1, T) -> (B, c_out, 1, ceil(T / stride))
        return self.act(self.squeeze_excite(self.norm2(self.conv2(self.conv1(x)))) + self.shortcut(x))


class SelfAttention(nn.Module):
    """Every moment looks at all others; begins as the identity as `gain` begins at 0 (Zhang et al. 2019, eq. 3)."""

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels, bias=False)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, C, 1, T)
        sequence = x.squeeze(2).transpose(1, 2)  # (B, T, C), no copy in channels_last
        query, key, value = self.qkv(sequence).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, D)
        # by hand: for so short a sequence PyTorch's fused attention is ten times slower backwards on CPUs
        weight = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)  # (B, H, T, T)
        attended = (weight @ value).transpose(1, 2).flatten(2)  # (B, T, C)
        return x + self.gain * self.out(attended).transpose(1, 2).unsqueeze(2)


class XResNet1D(Body):
    """(B, n_channels, T) at `fs` Hz -> (B, n_classes).

    `widths` (channels) and `depth` (blocks) per stage; the stem and each stage but the first halve T.
    """

    def __init__(
        self,
        n_channels: int,
        n_classes: int,
        *,
        stem: tuple[int, int, int] = (32, 32, 64),
        widths: tuple[int, ...] = (64, 96, 128, 160),
        depth: int = 1,
        kernel: int = 5,
        dropout: float = 0.2,
        width: float = 1.0,
        fs: float = 100.0,
    ):
        stem, widths = scaled(stem, width), scaled(widths, width)
        layers = [stem_conv(n_channels, stem[0], kernel, stride=2, fs=fs)]
        layers += [conv_norm_act(a, b, kernel) for a, b in pairwise(stem)]
        c_in = stem[-1]
        for i, c_out in enumerate(widths):
            if i == len(widths) - 1:
                layers.append(SelfAttention(c_in))  # late, where T is short and attention cheap
            for j in range(depth):
                layers.append(XResidualBlock(c_in, c_out, kernel, stride=2 if i > 0 and j == 0 else 1))
                c_in = c_out
        super().__init__(*layers, head(c_in, n_classes, dropout))
