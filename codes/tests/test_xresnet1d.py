"""XResNet1D begins as simple as possible: every residual branch and the attention add nothing yet."""

import pytest
import torch

from ecg.models.xresnet1d import SelfAttention, XResidualBlock, XResNet1D


@pytest.mark.parametrize(("c_in", "c_out", "stride"), [(16, 16, 1), (16, 24, 2), (16, 16, 2)])
def test_a_residual_block_begins_as_its_shortcut(c_in, c_out, stride):
    torch.manual_seed(0)
    block = XResidualBlock(c_in, c_out, kernel=5, stride=stride)
    x = torch.randn(2, c_in, 1, 50)
    for block_ in (block.train(), block.eval()):
        torch.testing.assert_close(block_(x), block.shortcut(x).relu())


def test_every_block_of_a_new_network_begins_at_zero_and_can_leave_it():
    network = XResNet1D(12, 7, depth=2)
    blocks = [module for module in network.modules() if isinstance(module, XResidualBlock)]
    assert len(blocks) == 8
    assert all((block.norm2.weight == 0).all() for block in blocks)
    network(torch.randn(4, 12, 250)).square().sum().backward()
    assert all(block.norm2.weight.grad.abs().max() > 0 for block in blocks)


def test_attention_begins_as_the_identity():
    attention = SelfAttention(16)
    x = torch.randn(2, 16, 1, 20)
    assert torch.equal(attention(x), x)
    with torch.no_grad():
        attention.gain.fill_(1.0)
    assert not torch.allclose(attention(x), x)
