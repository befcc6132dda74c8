"""Embeddings: what the last linear layer takes, of any network, also one that somebody brings."""

import sys
import types

import numpy as np
import pytest
import torch
from conftest import task_of_size
from made_up import SIGNALS
from torch import nn

from ecg import models
from ecg.artifacts import UserError, write_json
from ecg.embeddings import embed, last_linear, load_embedder
from ecg.models import build

RNG = np.random.default_rng(0)
MICROVOLT = RNG.normal(0, 300, (5, 12, 1000)).astype(np.int16)


class Textbook(nn.Module):
    """Its last layer is defined first, and is a linear layer as its others are."""

    def __init__(self, n_channels: int, n_classes: int):
        super().__init__()
        self.answer = nn.Linear(24, n_classes)
        self.conv = nn.Conv1d(n_channels, 16, 7, stride=2)
        self.hidden = nn.Linear(16, 24)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.answer(self.dropout(torch.relu(self.hidden(self.conv(x).mean(dim=-1)))))


class EveryMoment(Textbook):
    """Answers at every moment; the logits are the mean of the answers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.answer(torch.relu(self.hidden(self.conv(x).mT))).mean(dim=1)


class NoLinear(nn.Module):
    def __init__(self, n_channels: int, n_classes: int):
        super().__init__()
        self.conv = nn.Conv1d(n_channels, n_classes, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean(dim=-1)


class Further(Textbook):
    """Does not end in its last linear layer."""

    def __init__(self, n_channels: int, n_classes: int):
        super().__init__(n_channels, 7)
        self.answer_of = nn.Bilinear(7, 7, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        return self.answer_of(x, x)


NEWCOMERS = (Textbook, EveryMoment, NoLinear, Further)


@pytest.fixture(autouse=True)
def newcomers(monkeypatch):
    """Register the networks above as a file in codes/ecg/models/ would be."""
    module = types.ModuleType("newcomers_of_this_test")
    for network in NEWCOMERS:
        setattr(module, network.__name__, network)
        monkeypatch.setitem(models.MODELS, network.__name__.lower(), f"{module.__name__}:{network.__name__}")
    monkeypatch.setitem(sys.modules, module.__name__, module)


def made(name: str, **options) -> models.Network:
    torch.manual_seed(0)
    return build(name, SIGNALS, n_classes=4, **options).eval()


def mean_logits(network: models.Network, starts: list[int]) -> np.ndarray:
    """Return the mean of the logits over windows of 250 samples, (n, n_classes)."""
    millivolt = torch.from_numpy(MICROVOLT / np.float32(1000))
    with torch.inference_mode():
        return torch.stack([network(millivolt[:, :, s : s + 250]) for s in starts]).mean(dim=0).numpy()


@pytest.mark.parametrize(
    ("name", "width", "d"),
    [
        ("resnet1d", 1.0, 384),
        ("inception", 0.25, 64),
        ("xresnet1d", 0.25, 80),
        ("textbook", 1, 24),
        ("everymoment", 1, 24),
    ],
)
def test_last_layer_on_the_embedding_gives_the_mean_of_the_windows_logits(name, width, d):
    network = made(name, width=width)
    embedding = embed(network, MICROVOLT, window=250)
    assert (embedding.shape, embedding.dtype) == ((5, d), np.float32)
    last = last_linear(network)
    logits = embedding @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    expected = mean_logits(network, [0, 125, 250, 375, 500, 625, 750])
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_a_record_has_the_same_embedding_alone_and_among_many_others():
    network = made("textbook")
    many = np.tile(MICROVOLT, (60, 1, 1))  # more windows than go into a network at a time
    among = embed(network, many, window=250)
    np.testing.assert_allclose(among[297:298], embed(network, MICROVOLT[2:3], window=250), atol=1e-6)
    np.testing.assert_allclose(among[:5], among[-5:], atol=1e-6)


def test_embedding_twice_leaves_no_hook_behind_and_draws_nothing():
    network = made("textbook").train()
    first = embed(network, MICROVOLT, window=250)
    np.testing.assert_array_equal(embed(network, MICROVOLT, window=250), first)
    assert not last_linear(network)._forward_pre_hooks


def test_a_network_without_a_window_sees_the_whole_recording():
    network = made("textbook")
    assert np.abs(embed(network, MICROVOLT) - embed(network, MICROVOLT, window=250)).max() > 1e-6
    np.testing.assert_array_equal(embed(network, MICROVOLT), embed(network, MICROVOLT, window=1000))


def test_no_recordings_have_no_embeddings_and_short_ones_are_refused():
    assert embed(made("textbook"), MICROVOLT[:0], window=250).shape == (0, 24)
    with pytest.raises(ValueError, match="249 samples, the network takes at least 250"):
        embed(made("textbook"), MICROVOLT[:, :, :249], window=250)


@pytest.mark.parametrize("name", ["nolinear", "further"])
def test_a_network_that_does_not_end_in_a_linear_layer_is_refused(name):
    with pytest.raises(UserError, match=r"(NoLinear|Further) has no embeddings: it does not end in an nn.Linear"):
        embed(made(name), MICROVOLT)


def test_a_run_folder_brings_its_window_and_other_runs_are_refused(tmp_path):
    network = made("resnet1d", width=0.25)
    config = {
        "model": "resnet1d",
        "task": task_of_size(4).to_json(),
        "objective": "multilabel",
        "labels_sha256": "",
        "window": 250,
        "signals": SIGNALS,
        "settings": {"width": 0.25},
    }
    write_json(config, tmp_path / "config.json")
    torch.save({"weights": network.state_dict()}, tmp_path / "best.pt")
    np.testing.assert_array_equal(embed(tmp_path, MICROVOLT), embed(network, MICROVOLT, window=250))
    assert load_embedder(tmp_path)[1] == 250
    write_json(config | {"model": "minirocket_ridge"}, tmp_path / "config.json")
    with pytest.raises(UserError, match="is a run of minirocket_ridge: only networks have embeddings"):
        embed(tmp_path, MICROVOLT)
