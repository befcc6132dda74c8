"""Networks: shapes, sizes, layouts."""

import numpy as np
import pytest
import torch
from conftest import META
from torch import nn
from torch.nn import functional

from ecg.artifacts import UserError
from ecg.models import MODELS, build
from ecg.models.layers import ConcatPool
from ecg.models.resnet1d import ResNet1D
from ecg.models.xresnet1d import SelfAttention

every_model = pytest.mark.parametrize("name", MODELS)


@every_model
@pytest.mark.parametrize("n_samples", [100, 250, 999, 1000])
def test_any_length_from_a_second_gives_five_logits(name, n_samples):
    network = build(name, META).eval()
    with torch.inference_mode():
        assert network(torch.randn(3, 12, n_samples)).shape == (3, 5)


@every_model
def test_every_weight_takes_part_in_training(name):
    torch.manual_seed(0)
    network = build(name, META)
    for block in network.modules():  # branches that begin at zero would hide what is behind them
        if isinstance(block, nn.BatchNorm2d):
            nn.init.ones_(block.weight)
        if isinstance(block, SelfAttention):
            nn.init.ones_(block.gain)
    network(torch.randn(8, 12, 250)).square().sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not idle


@every_model
def test_without_derivatives_only_the_leads_are_channels(name):
    network = build(name, META, derivatives=False).eval()
    assert network.frontend(torch.randn(2, 12, 250)).shape == (2, 12, 1, 250)
    assert network(torch.randn(2, 12, 250)).shape == (2, 5)


@every_model
def test_a_record_is_answered_alike_alone_and_in_a_batch(name):
    torch.manual_seed(0)
    network, x = build(name, META).eval(), torch.randn(4, 12, 250)
    with torch.inference_mode():
        torch.testing.assert_close(network(x)[1:2], network(x[1:2]), rtol=1e-4, atol=1e-5)


@every_model
def test_committed_weights_stay_below_four_megabytes(name):
    assert sum(t.numel() * t.element_size() for t in build(name, META).state_dict().values()) < 4e6


def test_a_model_size_is_an_argument():
    def size(**arguments) -> float:
        return sum(p.numel() for p in ResNet1D(24, 5, **arguments).parameters()) / 1e6

    assert 0.3 < size() < 0.5
    assert 8.6 < size(widths=(64, 128, 256, 512), depth=2, kernels=(7, 7)) < 8.8


def test_two_dimensional_kernels_compute_the_one_dimensional_convolution():
    torch.manual_seed(0)
    conv = ResNet1D(24, 5)[0][0]
    x = torch.randn(2, 24, 250)
    expected = functional.conv1d(x, conv.weight.squeeze(2), padding=3)
    fast = conv(x.unsqueeze(2).contiguous(memory_format=torch.channels_last)).squeeze(2)
    torch.testing.assert_close(fast, expected, rtol=1e-4, atol=1e-5)


def test_attention_is_pytorchs_own():
    torch.manual_seed(0)
    layer = SelfAttention(16, heads=4)
    nn.init.ones_(layer.gain)
    x = torch.randn(2, 16, 1, 20)
    qkv = functional.linear(x.squeeze(2).transpose(1, 2), layer.qkv.weight)
    query, key, value = (t.unflatten(-1, (4, 4)).transpose(1, 2) for t in qkv.chunk(3, dim=-1))
    attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    expected = x + functional.linear(attended, layer.out.weight).transpose(1, 2).unsqueeze(2)
    torch.testing.assert_close(layer(x), expected)


def test_concat_pool_holds_mean_and_maximum():
    x = torch.tensor(np.arange(6, dtype=np.float32).reshape(1, 2, 1, 3))
    assert ConcatPool()(x).tolist() == [[1.0, 4.0, 2.0, 5.0]]


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="resnet1d, inception, xresnet1d"):
        build("resnet2d", META)
