"""One training step: what is drawn, what is minimised, and how the weights and their average follow."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

from ecg.artifacts import UserError
from ecg.augmentation import augment_batch
from ecg.distributed import World
from ecg.labels import read_split, read_splits
from ecg.signals import load_signals
from ecg.trainer import Batch, Records, Trainer, batches, load_records, make_loss, steps_per_epoch

CPU = torch.device("cpu")
N_LEADS, CROP = 12, 20


class LinearOfMeans(nn.Module):
    """Logits that are linear in each lead's mean: the smallest thing that can be trained."""

    def __init__(self, n_classes: int):
        super().__init__()
        self.linear = nn.Linear(N_LEADS, n_classes)
        self.n_classes = n_classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.mean(dim=-1))


def new_trainer(
    n_classes: int = 3,
    *,
    network: nn.Module | None = None,
    steps: int = 40,
    lr: float = 0.01,
    weight_decay: float = 0.0,
    ema: float = 0.1,
    objective: str = "multilabel",
    augment: bool = False,
    world: World | None = None,
) -> Trainer:
    torch.manual_seed(0)
    return Trainer(
        network or LinearOfMeans(n_classes),
        steps=steps,
        lr=lr,
        weight_decay=weight_decay,
        ema=ema,
        loss=make_loss(objective, np.zeros((1, n_classes), np.float32)),
        objective=objective,
        augment=augment,
        world=world or World(CPU),
        dtype=torch.float32,
    )


def new_batch(n: int = 8, n_classes: int = 3, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    microvolt = rng.integers(-1000, 1000, (n, N_LEADS, CROP)).astype(np.int16)
    target = np.eye(n_classes, dtype=np.float32)[rng.integers(0, n_classes, n)]
    return Batch(microvolt, target, torch.Generator().manual_seed(seed))


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


# --- the weights and their average ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("ema", "steps"), [(0.1, 40), (0.5, 10)])
def test_the_evaluated_weights_are_a_moving_average_over_the_given_share_of_the_steps(ema, steps):
    trainer = new_trainer(ema=ema, steps=steps, lr=0.1)
    decay = 1 - 1 / (ema * steps)
    expected = weights(trainer.network)
    for seed in range(5):
        trainer.step(trainer.loss(new_batch(seed=seed)))
        expected = decay * expected + (1 - decay) * weights(trainer.network)
    torch.testing.assert_close(weights(trainer.ema_network), expected)
    assert not torch.allclose(weights(trainer.ema_network), weights(trainer.network))


def test_an_average_over_no_steps_is_the_last_weights():
    for ema in (0.0, 0.01):
        trainer = new_trainer(ema=ema, steps=40)
        for seed in range(3):
            trainer.step(trainer.loss(new_batch(seed=seed)))
        torch.testing.assert_close(weights(trainer.ema_network), weights(trainer.network))


def test_running_statistics_are_averaged_like_weights_and_counters_are_not():
    trainer = new_trainer(network=nn.Sequential(nn.BatchNorm1d(N_LEADS), LinearOfMeans(3)), ema=0.1, steps=40)
    trainer.step(trainer.loss(new_batch()))
    norm, average = trainer.network[0], trainer.ema_network[0]
    torch.testing.assert_close(average.running_mean, norm.running_mean / 4)
    assert average.num_batches_tracked == 0


def test_weight_decay_shrinks_weights_that_no_gradient_moves():
    trainer = new_trainer(weight_decay=0.5)
    before, lr = weights(trainer.network), trainer.optimizer.param_groups[0]["lr"]
    trainer.step(0.0 * trainer.loss(new_batch()))
    torch.testing.assert_close(weights(trainer.network), before * (1 - lr * 0.5), rtol=1e-6, atol=0)
    still = new_trainer(weight_decay=0.0)
    still.step(0.0 * still.loss(new_batch()))
    assert torch.equal(weights(still.network), before)


def test_the_learning_rate_rises_for_a_quarter_of_the_steps_and_falls_to_nothing_with_fastais_values():
    trainer = new_trainer(steps=400, lr=0.01)
    rates, momenta = [], []
    for _ in range(400):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        momenta.append(trainer.optimizer.param_groups[0]["betas"][0])
        trainer.optimizer.step()
        trainer.schedule.step()
    position = np.arange(400) / 400
    rise, fall = position / 0.25, (position - 0.25) / 0.75

    def cosine(start: float, end: float, share: np.ndarray) -> np.ndarray:
        return start + (1 - np.cos(np.pi * share)) * (end - start) / 2

    expected = np.where(position < 0.25, cosine(0.01 / 25, 0.01, rise), cosine(0.01, 0.01 / 1e5, fall))
    np.testing.assert_allclose(rates, expected, atol=1e-4)
    expected = np.where(position < 0.25, cosine(0.95, 0.85, rise), cosine(0.85, 0.95, fall))
    np.testing.assert_allclose(momenta, expected, atol=0.002)
    assert rates[0] == pytest.approx(0.01 / 25) and rates[-1] < 1e-6


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_trainings_of_few_steps_have_a_schedule(steps):
    trainer = new_trainer(steps=steps)
    for seed in range(steps):
        trainer.step(trainer.loss(new_batch(seed=seed)))
    assert torch.isfinite(weights(trainer.network)).all()


def test_a_trainer_goes_on_from_a_stored_state_as_if_it_had_not_stopped():
    whole = new_trainer(weight_decay=0.1)
    for seed in range(6):
        whole.step(whole.loss(new_batch(seed=seed)))
    first = new_trainer(weight_decay=0.1)
    for seed in range(3):
        first.step(first.loss(new_batch(seed=seed)))
    second = new_trainer(weight_decay=0.1)
    second.load(copy.deepcopy(first.state()))
    for seed in range(3, 6):
        second.step(second.loss(new_batch(seed=seed)))
    assert torch.equal(weights(second.network), weights(whole.network))
    assert torch.equal(weights(second.ema_network), weights(whole.ema_network))


# --- the loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [3, 23, 71])
def test_the_loss_of_multilabel_is_the_cross_entropy_of_every_class_by_itself(n_classes):
    trainer, batch = new_trainer(n_classes), new_batch(n_classes=n_classes)
    p = torch.sigmoid(trainer.network(torch.from_numpy(batch.microvolt) / 1000)).detach().numpy()
    expected = -(batch.target * np.log(p) + (1 - batch.target) * np.log(1 - p)).mean()
    assert trainer.loss(batch).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_multiclass_is_the_cross_entropy_of_the_only_class():
    trainer, batch = new_trainer(objective="multiclass"), new_batch()
    p = trainer.network(torch.from_numpy(batch.microvolt) / 1000).softmax(dim=1).detach().numpy()
    expected = -np.log(p[batch.target == 1]).mean()
    assert trainer.loss(batch).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n", [8, 7])
@pytest.mark.parametrize("augment", [False, True])
def test_the_losses_of_several_processes_have_that_of_one_as_mean(n, augment):
    whole = new_trainer(augment=augment).loss(new_batch(n)).item()
    parts = [new_trainer(augment=augment, world=World(CPU, rank, 3)).loss(new_batch(n)).item() for rank in range(3)]
    assert np.mean(parts) == pytest.approx(whole, rel=1e-5)


def test_augmentation_comes_before_the_network_and_only_if_wanted():
    seen = []
    for augment in (False, True):
        trainer = new_trainer(augment=augment)
        trainer.network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        trainer.loss(new_batch())
    plain = torch.from_numpy(new_batch().microvolt) / 1000
    torch.testing.assert_close(seen[0], plain)
    torch.testing.assert_close(seen[1], augment_batch(plain, torch.Generator().manual_seed(0)))


def test_training_lowers_the_loss():
    trainer, batch = new_trainer(steps=200, lr=0.05), new_batch(4)
    first = trainer.loss(batch).item()
    for _ in range(200):
        trainer.step(trainer.loss(batch))
    assert trainer.loss(batch).item() < 0.8 * first


# --- the batches ----------------------------------------------------------------------------------------------------


def numbered(n: int, n_samples: int = 100) -> np.ndarray:
    """Return signals whose lead 0 holds the row everywhere, and whose other leads hold the time."""
    array = np.broadcast_to(np.arange(n_samples, dtype=np.int16), (n, N_LEADS, n_samples)).copy()
    array[:, 0] = np.arange(n, dtype=np.int16)[:, None]
    return array


def records_of(rows: list[int]) -> Records:
    rows = np.asarray(rows)
    return Records(rows, 100 + rows, np.stack([rows, 2 * rows, 3 * rows], axis=1).astype(np.float32))


def all_batches(
    n: int, *, tensor: bool = False, crop: int = CROP, seed: int = 0, epoch: int = 1, first: int = 0
) -> list[Batch]:
    """Return the batches, of at most four, of the records 10 to 10 + n."""
    array = torch.from_numpy(numbered(50)) if tensor else numbered(50)
    records = records_of(list(range(10, 10 + n)))
    return list(batches(array, records, size=4, crop=crop, seed=seed, epoch=epoch, device=CPU, first=first))


@pytest.mark.parametrize("n", [8, 9, 15, 30])
def test_an_epoch_has_every_record_once_with_its_own_labels(n):
    parts = all_batches(n)
    rows = np.concatenate([part.microvolt[:, 0, 0] for part in parts])
    target = np.concatenate([part.target for part in parts])
    assert sorted(rows) == list(range(10, 10 + n))
    np.testing.assert_array_equal(target, np.stack([rows, 2 * rows, 3 * rows], axis=1))


@pytest.mark.parametrize(("n", "steps"), [(8, 2), (9, 3), (12, 3), (13, 4), (3, 1)])
def test_batches_are_of_equal_size_to_one_record_and_not_larger_than_asked(n, steps):
    sizes = [len(part.target) for part in all_batches(n)]
    assert len(sizes) == steps == steps_per_epoch(n, 4)
    assert max(sizes) <= 4 and max(sizes) - min(sizes) <= 1


def test_crops_begin_anywhere_in_the_record_the_last_place_included():
    parts = [part for epoch in range(60) for part in all_batches(30, epoch=epoch)]
    begin = np.concatenate([part.microvolt[:, 1] for part in parts])
    assert begin.shape[1] == CROP
    assert begin[:, 0].min() == 0 and begin[:, -1].max() == 99
    np.testing.assert_array_equal(np.diff(begin, axis=1), 1)
    whole = all_batches(8, crop=100)
    assert all((part.microvolt[:, 1] == np.arange(100)).all() for part in whole)


def test_epochs_and_seeds_draw_other_orders_crops_and_augmentations():
    def drawn(*, seed: int = 0, epoch: int = 1) -> tuple[list[int], list[int], float, float]:
        part = all_batches(30, seed=seed, epoch=epoch)[0]
        chance = torch.rand(1).item()  # the global generator is what dropout draws from
        rows, begin = part.microvolt[:, 0, 0].tolist(), part.microvolt[:, 1, 0].tolist()
        return rows, begin, torch.rand(1, generator=part.generator).item(), chance

    first, again = drawn(), drawn()
    assert first == again
    for other in (drawn(epoch=2), drawn(seed=1)):
        assert all(a != b for a, b in zip(first, other, strict=True))
    generators = [torch.rand(1, generator=part.generator).item() for part in all_batches(30)]
    assert len(set(generators)) == len(generators)


def test_an_epoch_that_is_resumed_has_the_batches_that_were_left():
    whole, rest = all_batches(15), all_batches(15, first=2)
    assert len(rest) == len(whole) - 2
    for a, b in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(a.microvolt, b.microvolt)
        np.testing.assert_array_equal(a.target, b.target)
        assert torch.equal(torch.rand(3, generator=a.generator), torch.rand(3, generator=b.generator))


def test_batches_from_a_tensor_are_those_from_the_file():
    for a, b in zip(all_batches(9), all_batches(9, tensor=True), strict=True):
        np.testing.assert_array_equal(a.microvolt, b.microvolt)


# --- the records ----------------------------------------------------------------------------------------------------


def test_multilabel_trains_on_all_records_and_multiclass_on_those_with_one_class(prepared):
    signals, task = load_signals(prepared), read_splits(prepared).first
    for split in ("train", "val", "test"):
        table = read_split(prepared, split)
        single = table[table.label != ""] if split == "train" else table
        for objective, expected in (("multilabel", table), ("multiclass", single)):
            records = load_records(prepared, signals, split, task, objective)
            assert records.ecg_id.tolist() == expected.ecg_id.tolist() and len(records) == len(expected)
            np.testing.assert_array_equal(records.target, expected[list(task.classes)])
            np.testing.assert_array_equal(signals.ecg_id[records.rows], records.ecg_id)


def test_a_split_without_usable_records_is_refused(artifacts):
    path = artifacts / "ptbxl_train.csv"
    pd.read_csv(path).assign(label="").to_csv(path, index=False)
    task = read_splits(artifacts).first
    with pytest.raises(UserError, match="no train record"):
        load_records(artifacts, load_signals(artifacts), "train", task, "multiclass")


@pytest.mark.parametrize("n_classes", [3, 44])
def test_probabilities_are_those_of_the_given_network(n_classes):
    trainer = new_trainer(n_classes)
    with torch.no_grad():
        trainer.ema_network.linear.bias.fill_(1.0)
    array = numbered(5)
    found = trainer.probability(trainer.ema_network, array, np.array([3, 1]), window=100, overlap=False)
    logits = trainer.ema_network(torch.from_numpy(array[[3, 1]]) / 1000)
    np.testing.assert_allclose(found, torch.sigmoid(logits).detach(), rtol=1e-5)
    assert found.shape == (2, n_classes)


def test_loss_functions_take_the_targets_of_the_training_records():
    """The place where a fork computes class weights."""
    logits, target = torch.randn(6, 4), torch.eye(4)[[0, 1, 2, 3, 0, 1]]
    loss = make_loss("multilabel", target.numpy())
    torch.testing.assert_close(loss(logits, target), functional.binary_cross_entropy_with_logits(logits, target))
    loss = make_loss("multiclass", target.numpy())
    torch.testing.assert_close(loss(logits, target), functional.cross_entropy(logits, target.argmax(dim=1)))
