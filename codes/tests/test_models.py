"""Networks: the contract that each keeps, and how one that does not keep it is refused."""

import numpy as np
import pytest
import torch
from conftest import META
from torch import nn
from torch.nn import functional

from ecg.artifacts import UserError
from ecg.models import MODELS, build, check_divisible, check_shapes, order_of_use
from ecg.models.layers import BatchDropout, ConcatPool, Frontend, Network, steps_of
from ecg.models.resnet1d import ResNet1D
from ecg.models.xresnet1d import SelfAttention

META_500 = META | {"fs": 500}
every_model = pytest.mark.parametrize("name", MODELS)


def small(name: str, *, n_classes: int = 5, **options) -> Network:
    return build(name, META, n_classes=n_classes, width=0.25, **options)


# --- the registered networks ----------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("n_classes", [1, 5, 71])
def test_any_length_from_a_second_gives_a_logit_per_class(name, n_classes):
    network = small(name, n_classes=n_classes).eval()
    with torch.inference_mode():
        for n_samples in (100, 250, 999, 1000, 3001):
            assert network(torch.randn(3, 12, n_samples)).shape == (3, n_classes), n_samples


@every_model
def test_the_body_of_a_network_takes_channels_and_time(name):
    body = small(name).body.eval()
    with torch.inference_mode():
        assert body(torch.randn(2, 24, 250)).shape == (2, 5)


@every_model
def test_every_weight_takes_part_in_training(name):
    torch.manual_seed(0)
    network = small(name)
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
    network = small(name, derivatives=False).eval()
    assert network.frontend(torch.randn(2, 12, 250)).shape == (2, 12, 250)
    assert network(torch.randn(2, 12, 250)).shape == (2, 5)


@every_model
def test_a_record_is_answered_alike_alone_and_in_a_batch(name):
    torch.manual_seed(0)
    network, x = small(name).eval(), torch.randn(4, 12, 250)
    with torch.inference_mode():
        torch.testing.assert_close(network(x)[1:2], network(x[1:2]), rtol=1e-4, atol=1e-5)


@every_model
def test_committed_weights_stay_below_four_megabytes(name):
    assert sum(t.numel() * t.element_size() for t in build(name, META, n_classes=71).state_dict().values()) < 4e6


@every_model
def test_the_registered_networks_can_be_divided_among_processes(name):
    check_divisible(small(name), name)


def test_a_model_size_is_an_argument():
    def size(**arguments) -> float:
        return sum(p.numel() for p in ResNet1D(24, 5, **arguments).parameters()) / 1e6

    assert 0.3 < size() < 0.5
    assert 8.6 < size(widths=(64, 128, 256, 512), depth=2, kernels=(7, 7)) < 8.8


def test_other_numbers_of_leads_are_other_numbers_of_channels():
    two = {"fs": 100, "mean": {"signal": [0.0] * 2, "derivative": [0.0] * 2}}
    two["std"] = {"signal": [1.0] * 2, "derivative": [1.0] * 2}
    network = build("resnet1d", two, n_classes=3, width=0.25).eval()
    assert network.n_leads == 2
    assert network(torch.randn(4, 2, 300)).shape == (4, 3)


# --- other sampling rates -------------------------------------------------------------------------------------------


def steps_after_stem(network: Network, seconds: float) -> list[int]:
    """Return the lengths in time of what every convolution behind the stem gives, in order of use."""
    lengths: list[int] = []

    def note(_: nn.Module, __: tuple, output: torch.Tensor) -> None:
        lengths.append(output.shape[-1])

    hooks = [m.register_forward_hook(note) for m in network.body.modules() if isinstance(m, nn.Conv2d)]
    with torch.inference_mode():
        network.eval()(network.silence(1, seconds))
    for hook in hooks:
        hook.remove()
    return lengths


def receptive_field_s(name: str, meta: dict) -> float:
    """Return the seconds between the first and the last sample that a step in the middle of the stem's output sees."""
    network = build(name, meta, n_classes=2, derivatives=False, width=0.25)
    stem = network.body[0].eval()
    with torch.no_grad():
        stem[0].weight.fill_(1.0)
    x = torch.zeros(1, 12, 1, round(2.5 * meta["fs"])).requires_grad_()
    y = stem[0](x)
    y[0, 0, 0, y.shape[-1] // 2].backward()
    seen = x.grad[0, 0, 0].nonzero().flatten()
    return (seen.max() - seen.min() + 1).item() / meta["fs"]


@every_model
def test_at_500_hz_later_stages_see_as_many_steps_as_at_100_hz(name):
    slow, fast = (build(name, meta, n_classes=2, width=0.25) for meta in (META, META_500))
    assert steps_after_stem(fast, 2.5) == steps_after_stem(slow, 2.5)


@every_model
def test_at_500_hz_the_stem_sees_no_less_time_than_at_100_hz(name):
    assert receptive_field_s(name, META_500) >= receptive_field_s(name, META)
    assert receptive_field_s(name, META_500) < receptive_field_s(name, META) + 0.01, "no more than a step longer"


@pytest.mark.parametrize(("fs", "steps"), [(50, 1), (100, 1), (125, 1), (250, 2), (360, 4), (500, 5), (1000, 10)])
def test_a_step_is_ten_milliseconds_at_any_rate(fs, steps):
    assert steps_of(fs) == steps


# --- building blocks ------------------------------------------------------------------------------------------------


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


def test_dropout_leaves_evaluation_alone_and_keeps_the_mean_in_training():
    torch.manual_seed(0)
    dropout, x = BatchDropout(0.25), torch.ones(64, 100)
    assert torch.equal(dropout.eval()(x), x)
    y = dropout.train()(x)
    assert sorted(y.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    assert y.mean().item() == pytest.approx(1, abs=0.03)


def test_parts_of_a_batch_are_dropped_like_the_whole():
    dropout, x = BatchDropout(0.5), torch.randn(7, 3, 20)
    torch.manual_seed(1)
    whole = dropout(x)
    parts = []
    for part in (slice(0, 2), slice(2, 7)):
        torch.manual_seed(1)
        dropout.rows = (part.start, 7)
        parts.append(dropout(x[part]))
    assert torch.equal(torch.cat(parts), whole)


# --- the contract ---------------------------------------------------------------------------------------------------


class Textbook(nn.Module):
    """A convolution, then `layer` on its 8 channels (B, 8, T), then the mean over time and a linear layer."""

    def __init__(self, n_channels: int, n_classes: int, layer: nn.Module | None = None):
        super().__init__()
        self.conv = nn.Conv1d(n_channels, 8, 7, stride=4)
        self.layer = layer or nn.Identity()
        self.linear = nn.Linear(8, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.layer(self.conv(x)).mean(dim=-1))


def network_of(layer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Network:
    """Return what `build` makes of a network with this layer, found like any registered one."""
    monkeypatch.setattr("test_models.Made", lambda n_channels, n_classes: Textbook(n_channels, n_classes, layer))
    monkeypatch.setitem(MODELS, "textbook", "test_models:Made")
    return build("textbook", META, n_classes=3)


Made = None  # replaced by `network_of`


class Functional(nn.Module):
    """What looks like no dropout to a list of classes."""

    def __init__(self, always: bool):
        super().__init__()
        self.always = always

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(x, 0.3, training=self.always or self.training)


class Attention(nn.Module):
    def __init__(self, dropout: float):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=dropout, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sequence = x.transpose(1, 2)
        return self.attention(sequence, sequence, sequence, need_weights=False)[0].transpose(1, 2)


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.transpose(1, 2))[0].transpose(1, 2)


class HomeMadeNorm(nn.Module):
    """Standardises over the batch, like a batch norm that no list of classes knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(dim=(0, 2), keepdim=True)) / (x.std(dim=(0, 2), keepdim=True) + 1e-5)


class OtherBatchNorm(nn.BatchNorm1d):
    """A batch norm with something of its own, which dividing it would lose."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class TimeFirst(nn.Module):
    """Dropout on (T, B, C), as recurrent code often has it."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(x.permute(2, 0, 1)).permute(1, 2, 0)


class LayerNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class BranchFromZero(nn.Module):
    """A branch with no say at first: its gain begins at 0."""

    def __init__(self, branch: nn.Module):
        super().__init__()
        self.branch, self.gain = branch, nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.gain * self.branch(x)


REFUSED = {
    "functional dropout, always on": (lambda: Functional(True), "random numbers"),
    "functional dropout in training": (lambda: Functional(False), "random numbers"),
    "attention with dropout": (lambda: Attention(0.1), "random numbers"),
    "LSTM with dropout": (lambda: Recurrent(nn.LSTM(8, 8, 2, batch_first=True, dropout=0.1)), "random numbers"),
    "dropout of whole channels": (lambda: nn.Dropout1d(0.3), "random numbers"),
    "home-made batch norm": (HomeMadeNorm, "other records of its batch"),
    "a batch norm's subclass": (lambda: OtherBatchNorm(8), "other records of its batch"),
    "batch norm without running statistics": (
        lambda: nn.BatchNorm1d(8, track_running_stats=False),
        "other records of its batch",
    ),
    "instance norm with running statistics": (
        lambda: nn.InstanceNorm1d(8, track_running_stats=True),
        "statistics of the records",
    ),
    "dropout on (T, B, C)": (TimeFirst, "nn.Dropout whose input"),
}
ACCEPTED = {
    "batch norm": lambda: nn.BatchNorm1d(8),
    "batch norm with cumulative statistics": lambda: nn.BatchNorm1d(8, momentum=None),
    "dropout": lambda: nn.Dropout(0.3),
    "layer norm": LayerNorm,
    "group norm": lambda: nn.GroupNorm(2, 8),
    "instance norm": lambda: nn.InstanceNorm1d(8, affine=True),
    "attention": lambda: Attention(0.0),
    "GRU": lambda: Recurrent(nn.GRU(8, 8, batch_first=True)),
    "all of it": lambda: nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.3), LayerNorm(), nn.GroupNorm(2, 8)),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("from_zero", [False, True])
def test_what_several_processes_would_train_differently_is_refused_with_the_reason(what, from_zero, monkeypatch):
    make, reason = REFUSED[what]
    layer = BranchFromZero(make()) if from_zero else make()
    with pytest.raises(UserError, match=f"model textbook.*{reason}.*without torchrun"):
        check_divisible(network_of(layer, monkeypatch), "textbook")


@pytest.mark.parametrize("what", ACCEPTED)
@pytest.mark.parametrize("from_zero", [False, True])
def test_what_several_processes_train_alike_is_accepted(what, from_zero, monkeypatch):
    layer = BranchFromZero(ACCEPTED[what]()) if from_zero else ACCEPTED[what]()
    check_divisible(network_of(layer, monkeypatch), "textbook")


def test_the_check_for_several_processes_changes_neither_network_nor_generator(monkeypatch):
    network = network_of(nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.3)), monkeypatch)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    check_divisible(network, "textbook")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(module.rows is None for module in network.modules() if isinstance(module, BatchDropout))


def with_body(body: nn.Module, n_classes: int = 3) -> Network:
    mean, std = ([value for kind in ("signal", "derivative") for value in META[key][kind]] for key in ("mean", "std"))
    return Network(Frontend(fs=100, mean=mean, std=std, derivatives=True), body, n_classes)


class Asserts(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[-1] == 1000, "ten seconds or nothing"
        return x.mean(dim=-1)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (nn.Identity(), r"returns \(2, 24, 250\) instead of \(2, 3\)"),
        (Textbook(24, 4), r"returns \(2, 4\) instead of \(2, 3\)"),
        (Textbook(12, 3), "fails on signals"),  # for the leads alone, without their derivatives
        (nn.Sequential(nn.Flatten(), nn.Linear(24 * 250, 3)), "fails on signals.*370"),  # right for one length only
        (Asserts(), "fails on signals.*ten seconds or nothing"),
    ],
)
def test_a_network_of_wrong_shape_is_refused_by_name(body, what):
    with pytest.raises(UserError, match=f"model homemade {what}"):
        check_shapes(with_body(body), "homemade")


def test_the_check_of_shapes_leaves_the_mode_and_the_statistics_alone():
    network = with_body(Textbook(24, 3, nn.BatchNorm1d(8)))
    for mode in (True, False):
        network.train(mode)
        check_shapes(network, "homemade")
        assert network.training is mode
    assert network.body.layer.num_batches_tracked == 0


class NeedsMore(nn.Module):
    def __init__(self, n_channels: int, depth: int):
        super().__init__()


@pytest.mark.parametrize(
    "meaning", ["test_models:NeedsMore2", "test_models:NeedsMore", "no_such_module:Network", "test_models:META"]
)
def test_a_registered_network_that_cannot_be_made_is_refused_by_name(meaning, monkeypatch):
    monkeypatch.setitem(MODELS, "mine", meaning)
    with pytest.raises(UserError, match="model mine"):
        build("mine", META, n_classes=3)


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="resnet1d, inception, xresnet1d"):
        build("resnet2d", META, n_classes=5)


def test_a_network_of_one_width_refuses_another(monkeypatch):
    monkeypatch.setitem(MODELS, "textbook", "test_models:Textbook")
    with pytest.raises(UserError, match="textbook takes no `width`"):
        build("textbook", META, n_classes=3, width=0.5)
    assert build("textbook", META, n_classes=3).n_classes == 3


class OutOfOrder(nn.Module):
    """Defines its layers from back to front, uses one twice and one never."""

    def __init__(self, n_channels: int, n_classes: int):
        super().__init__()
        self.last = nn.Linear(8, n_classes)
        self.unused = nn.Linear(3, 3)
        self.second = nn.Conv1d(8, 8, 3)
        self.first = nn.Conv1d(n_channels, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.second(self.first(x))).mean(dim=-1))


def test_the_order_of_use_is_found_whatever_the_order_of_definition(monkeypatch):
    monkeypatch.setitem(MODELS, "mine", "test_models:OutOfOrder")
    network = build("mine", META, n_classes=3)
    body = network.body
    found = order_of_use(network, [body.last, body.unused, body.second, body.first])
    assert found == [body.unused, body.first, body.second, body.last]
    assert network.training and not any(module._forward_pre_hooks for module in network.modules())
