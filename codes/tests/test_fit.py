"""The training loop: which epoch is kept, when it stops, what it notes, and what it needs to go on after a kill."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as reference
from torch import nn

from ecg import training
from ecg.artifacts import UserError
from ecg.distributed import World
from ecg.labels import read_splits
from ecg.trainer import Records, Trainer, make_loss
from ecg.training import Checkpoint, Progress, TrainingSettings, evaluate, fit, train

CPU = torch.device("cpu")
N_LEADS, N_SAMPLES, WINDOW, N_CLASSES = 12, 40, 20, 3


class LinearOfMeans(nn.Module):
    n_classes = N_CLASSES

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(N_LEADS, N_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.mean(dim=-1))


def settings_of(*, epochs: int = 4, batch_size: int = 4, patience: int = 20) -> TrainingSettings:
    return TrainingSettings(epochs=epochs, batch_size=batch_size, patience=patience)


class Loop:
    """A small training: 10 records to learn from, 6 to validate on."""

    def __init__(self, folder: Path, *, lr: float = 0.05, world: World | None = None):
        rng = np.random.default_rng(0)
        torch.manual_seed(0)
        self.array = rng.integers(-1000, 1000, (16, N_LEADS, N_SAMPLES)).astype(np.int16)
        self.train = self._records(range(10), rng)
        self.val = self._records(range(10, 16), rng)
        self.trainer = Trainer(
            LinearOfMeans(),
            steps=40,
            lr=lr,
            weight_decay=0.0,
            ema=0.1,
            loss=make_loss("multilabel", self.train.target),
            objective="multilabel",
            augment=False,
            world=world or World(CPU),
            dtype=torch.float32,
        )
        self.progress = Progress()
        self.checkpoint = Checkpoint(folder / "last.pt", {"labels": "x"}, {"threads": 1}, {"model": "m"}, lr=lr)

    @staticmethod
    def _records(rows: range, rng: np.random.Generator) -> Records:
        target = np.eye(N_CLASSES, dtype=np.float32)[np.arange(len(rows)) % N_CLASSES]
        target[rng.random(target.shape) < 0.2] = 1
        return Records(np.asarray(rows), np.asarray(rows), target)

    def run(self, settings: TrainingSettings) -> pd.DataFrame:
        fit(self.trainer, self.progress, self.checkpoint, self.array, self.train, self.val, settings, WINDOW)
        return pd.DataFrame(self.progress.history)

    def answer(self, aucs: list[float]) -> None:
        """Make the validation fold's macro AUCs of successive epochs those of `aucs`, at least nearly."""
        answers: Iterator[float] = iter(aucs)
        target = self.val.target

        def probability(*args: object, **options: object) -> np.ndarray:
            right = next(answers)
            return right * target + (1 - right) * (1 - target)

        self.trainer.probability = probability

    def resumed(self, folder: Path) -> "Loop":
        """Return a new training that has taken up the checkpoint."""
        other = Loop(folder)
        other.progress = Progress.from_state(other.checkpoint.load(World(CPU)), other.trainer)
        return other


# --- epochs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "patience", "epochs", "best"),
    [
        ([0, 1, 1, 0], 20, 4, 2),  # of equally good epochs the first
        ([1, 0, 0, 0, 0, 0], 2, 3, 1),
        ([0, 0, 0, 1, 1, 0], 3, 6, 4),
        ([0, 1, 0, 1, 0, 0], 1, 3, 2),
    ],
)
def test_the_best_epoch_is_kept_and_patience_counts_the_epochs_after_it(tmp_path, answers, patience, epochs, best):
    loop = Loop(tmp_path)
    loop.answer(answers)
    history = loop.run(settings_of(epochs=len(answers), patience=patience))
    assert history.epoch.tolist() == list(range(1, epochs + 1))
    assert loop.progress.best_epoch == best and loop.progress.best_auc == history.val_macro_auc.max()


def test_the_averaged_weights_of_the_best_epoch_are_kept(tmp_path):
    one, two = Loop(tmp_path), Loop(tmp_path)
    one.answer([0, 1, 0, 0])
    one.run(settings_of(epochs=4))
    two.answer([0, 1])
    two.run(settings_of(epochs=2))
    averaged, last = two.trainer.ema_network.state_dict(), two.trainer.network.state_dict()
    for name, kept in one.progress.best_weights.items():
        assert torch.equal(kept, averaged[name]) and not torch.equal(kept, last[name])


def test_no_more_epochs_are_trained_than_were_asked_for(tmp_path):
    loop = Loop(tmp_path)
    assert len(loop.run(settings_of(epochs=3))) == 3
    assert len(loop.run(settings_of(epochs=3))) == 3
    assert len(loop.run(settings_of(epochs=4))) == 4


@pytest.mark.parametrize("batch_size", [4, 10])
def test_the_loss_of_an_epoch_is_the_mean_over_its_records(tmp_path, batch_size):
    loop = Loop(tmp_path, lr=0.0)  # so that all batches meet the same weights
    loop.array[:] = loop.array[:, :, :1]  # and all crops are alike
    found = loop.run(settings_of(epochs=2, batch_size=batch_size)).train_loss
    logits = loop.trainer.network(torch.from_numpy(loop.array[:10]) / 1000)
    expected = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(loop.train.target)).item()
    assert found.tolist() == pytest.approx([expected, expected], rel=1e-5)


def test_the_rate_in_the_history_is_that_of_the_schedule(tmp_path):
    loop = Loop(tmp_path)
    rates = loop.run(settings_of(epochs=3)).lr
    assert rates.iloc[-1] == loop.trainer.optimizer.param_groups[0]["lr"] and rates.is_unique


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path):
    loop = Loop(tmp_path)
    with torch.no_grad():
        loop.trainer.network.linear.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="--lr"):
        loop.run(settings_of())


# --- checkpoints ----------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.parametrize("saves", [1, 2, 3, 4, 7])
def test_a_training_killed_after_any_step_ends_like_one_that_was_not(tmp_path, monkeypatch, saves):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1)  # a checkpoint after every step, and after every epoch
    settings = settings_of(epochs=3)
    whole = Loop(tmp_path / "whole")
    expected = whole.run(settings)

    killed = Loop(tmp_path / "killed")
    save, left = killed.checkpoint.save, iter(range(saves))

    def save_and_die(trainer: Trainer, progress: Progress) -> None:
        save(trainer, progress)
        if next(left) == saves - 1:
            raise Killed

    killed.checkpoint.save = save_and_die
    with pytest.raises(Killed):
        killed.run(settings)
    second = killed.resumed(tmp_path / "killed")
    assert second.progress.step == saves % 4 and len(second.progress.history) == saves // 4  # 3 steps an epoch
    found = second.run(settings)
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"))
    for name, weights in whole.trainer.state()["network"].items():
        assert torch.equal(weights, second.trainer.state()["network"][name])
    for name, weights in whole.progress.best_weights.items():
        assert torch.equal(weights, second.progress.best_weights[name])


def test_checkpoints_within_an_epoch_are_some_time_apart(tmp_path):
    loop, saved = Loop(tmp_path), []
    loop.checkpoint.save = lambda trainer, progress: saved.append((len(progress.history), progress.step))
    loop.run(settings_of(epochs=2))
    assert saved == [(1, 0), (2, 0)]


def test_the_seconds_before_a_kill_count(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1)
    loop = Loop(tmp_path)
    loop.progress = Progress(step=1, seconds=100.0, loss_sum=1.0)
    noted = []
    loop.checkpoint.save = lambda trainer, progress: noted.append(progress.seconds)
    first, second = loop.run(settings_of(epochs=2)).seconds
    assert 100 < first < 200 and 0 < second < 100
    assert 100 < noted[0] < 200 and noted[2] == 0  # two steps were left, then the end of the epoch


def test_only_the_first_process_writes_checkpoints(tmp_path):
    for rank, written in ((1, False), (0, True)):
        loop = Loop(tmp_path / str(rank))
        loop.trainer.world = World(CPU, rank, 2)
        loop.checkpoint.path.parent.mkdir()
        loop.checkpoint.save(loop.trainer, loop.progress)
        assert loop.checkpoint.path.exists() == written


def test_a_checkpoint_of_other_labels_is_left_alone_and_one_of_other_hardware_is_taken_up(tmp_path, capsys):
    loop = Loop(tmp_path)
    assert loop.checkpoint.load(World(CPU)) is None and capsys.readouterr().out == ""
    loop.run(settings_of(epochs=1))
    capsys.readouterr()
    assert loop.checkpoint.load(World(CPU))["progress"]["best_epoch"] == 1 and capsys.readouterr().out == ""
    loop.checkpoint.execution = {"threads": 2}
    assert loop.checkpoint.load(World(CPU)) is not None and "rounding" in capsys.readouterr().out
    loop.checkpoint.fingerprint = {"labels": "y"}
    assert loop.checkpoint.load(World(CPU)) is None and "different labels" in capsys.readouterr().out


# --- numbers of an epoch --------------------------------------------------------------------------------------------


def test_validation_accuracy_is_of_the_records_with_one_class():
    target = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 0]], np.float32)
    probability = np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.2], [0.1, 0.2, 0.3], [0.1, 0.1, 0.9], [0.2, 0.7, 0.1]])
    found = evaluate(probability, target, "multilabel")
    assert found["val_accuracy"] == 3 / 4
    assert found["val_macro_auc"] == pytest.approx(reference.roc_auc_score(target, probability, average="macro"))
    assert found["val_loss"] == pytest.approx(
        np.mean([reference.log_loss(*pair) for pair in zip(target.T, probability.T, strict=True)])
    )
    assert np.isnan(evaluate(probability[3:4], target[3:4], "multilabel")["val_accuracy"])


# --- the ends of what may be asked for ------------------------------------------------------------------------------


def train_small(
    artifacts: Path, *, lr: float, lr_finder: bool, crop_seconds: float, batch_size: int, seed: int
) -> None:
    train(
        model="resnet1d",
        name="small",
        artifacts=artifacts,
        width=0.1,
        epochs=1,
        patience=1,
        batch_size=batch_size,
        weight_decay=0.0,
        ema=0.0,
        lr=lr,
        lr_finder=lr_finder,
        crop_seconds=crop_seconds,
        seed=seed,
        precision="fp32",
        device="cpu",
    )


@pytest.fixture
def few(artifacts: Path) -> Path:
    """An artifacts folder with twelve training records."""
    path = artifacts / "ptbxl_train.csv"
    pd.read_csv(path).head(12).to_csv(path, index=False)
    return artifacts


def test_the_smallest_allowed_settings_train_at_the_rate_that_the_finder_suggests(few, capsys):
    train_small(few, lr=0.0, lr_finder=False, crop_seconds=1.0, batch_size=2, seed=0)
    config = json.loads((few / "small" / "config.json").read_text())
    suggestion = float(re.search(r"finder suggests (\S+);", capsys.readouterr().out)[1])
    assert config["lr"] == pytest.approx(suggestion, rel=0.01) and 1e-6 < suggestion < 1
    assert (config["run"], config["window"]) == ("small", 100)


def test_a_rate_that_is_given_has_the_last_word_and_crops_may_be_whole_records(few, capsys):
    train_small(few, lr=0.002, lr_finder=True, crop_seconds=10.0, batch_size=12, seed=1)
    config = json.loads((few / "small" / "seed1" / "config.json").read_text())
    assert (config["lr"], config["run"], config["window"]) == (0.002, "small/seed1", 1000)
    assert (few / "small" / "seed1" / "lr_finder.csv").exists()


def test_the_finder_runs_only_if_wanted_and_the_run_names_no_missing_class(few, capsys):
    train_small(few, lr=0.01, lr_finder=False, crop_seconds=2.5, batch_size=12, seed=0)
    assert not (few / "small" / "lr_finder.csv").exists()
    assert "no training record has" not in capsys.readouterr().out
    assert set(pd.read_csv(few / "ptbxl_train.csv")[list(read_splits(few).first.classes)].any()) == {True}
