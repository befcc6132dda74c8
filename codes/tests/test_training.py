"""The training loop: what it promises, and the traps it must not fall into."""

import json
import runpy
import sys
from dataclasses import MISSING, fields

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import best_weights, equal

from ecg.artifacts import ROOT, UserError, run
from ecg.augmentation import add_noise, augment_batch, drop_leads, scale_amplitude
from ecg.data import load_signals, preprocess
from ecg.distributed import World
from ecg.inference import window_starts
from ecg.labels import CLASSES, make_splits, read_split
from ecg.metrics import macro_auc
from ecg.models import build
from ecg.predictions import find_runs, read_labelled
from ecg.predictor import load_network
from ecg.synthetic import write_ptbxl
from ecg.training import PRESETS, Trainer, TrainingSettings, batches, load_split, train, valley

CPU = torch.device("cpu")
QUICK = {"epochs": 2, "batch_size": 32, "precision": "fp32", "device": "cpu"}


def test_a_run_folder_holds_what_the_design_promises(artifacts):
    train(model="xresnet1d", name="xresnet", artifacts=artifacts, lr_finder=True, **QUICK)
    folder = artifacts / "xresnet_standard"
    expected = {"config.json", "history.csv", "history.png", "metrics.csv", "best.pt", "last.pt"}
    expected |= {"lr_finder.csv", "lr_finder.png"}
    expected |= {f"predictions_{part}.{kind}" for part in ("val", "test") for kind in ("csv", "npy")}
    assert {path.name for path in folder.iterdir()} == expected
    history = pd.read_csv(folder / "history.csv")
    assert list(history) == ["epoch", "lr", "train_loss", "val_loss", "val_accuracy", "val_macro_auc", "seconds"]
    assert len(history) == 2
    for part in ("val", "test"):
        table = pd.read_csv(folder / f"predictions_{part}.csv")
        assert list(table) == ["ecg_id", *CLASSES]
        assert set(table.ecg_id) == set(read_split(artifacts, part).ecg_id)
        np.testing.assert_allclose(np.load(folder / f"predictions_{part}.npy"), table[list(CLASSES)], atol=1e-6)
    config = json.loads((folder / "config.json").read_text())
    assert config["run"] == "xresnet_standard" and config["classes"] == list(CLASSES)


def test_the_same_seed_gives_the_same_bits_and_another_seed_a_folder_of_its_own(artifacts):
    for seed in (0, 1):
        train(model="resnet1d", name="a", artifacts=artifacts, augment=True, seed=seed, **QUICK)
    train(model="resnet1d", name="b", artifacts=artifacts, augment=True, seed=0, **QUICK)
    a, b = artifacts / "a_augmented", artifacts / "b_augmented"
    assert equal(best_weights(a), best_weights(b))
    assert (a / "predictions_test.csv").read_bytes() == (b / "predictions_test.csv").read_bytes()
    assert not equal(best_weights(a), best_weights(a / "seed1"))


def test_a_checkpoint_of_other_settings_is_not_continued(artifacts, capsys):
    train(model="resnet1d", name="a", artifacts=artifacts, **QUICK)
    train(model="resnet1d", name="a", artifacts=artifacts, **QUICK | {"lr": 0.003})
    assert "resumes" not in capsys.readouterr().out


def test_a_finished_checkpoint_is_not_taken_for_a_training_on_other_labels(artifacts, capsys):
    train(model="resnet1d", name="a", artifacts=artifacts, **QUICK)
    table = read_split(artifacts, "train")
    table.loc[0, list(CLASSES)] = 1 - table.loc[0, list(CLASSES)]
    table.to_csv(artifacts / "ptbxl_train.csv", index=False)
    train(model="resnet1d", name="a", artifacts=artifacts, **QUICK)
    output = capsys.readouterr().out
    assert "another labels: begins anew" in output and "resumes" not in output


@pytest.mark.parametrize("content", [b"", b"garbage", {"weights": 1}, [1]])
def test_a_damaged_checkpoint_is_refused_by_name(artifacts, content):
    path = artifacts / "a_standard" / "last.pt"
    path.parent.mkdir()
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=r"last\.pt is damaged.*delete"):
        train(model="resnet1d", name="a", artifacts=artifacts, **QUICK)


def test_a_kill_among_the_last_writes_leaves_no_run_of_two_trainings(artifacts, monkeypatch):
    """Stage 11 would choose thresholds on one model's validation answers and measure another's test answers."""
    train(model="resnet1d", name="a", artifacts=artifacts, **QUICK)
    monkeypatch.setattr("ecg.training.write_validation_aucs", lambda *_: 1 / 0)  # after the predictions
    with pytest.raises(ZeroDivisionError):
        train(model="resnet1d", name="a", artifacts=artifacts, **QUICK | {"epochs": 1})
    with pytest.raises(UserError, match=r"a_standard.config\.json: run the training script"):
        find_runs(artifacts)


def test_labels_that_give_no_auc_are_said_before_training(artifacts, capsys):
    path = artifacts / "ptbxl_val.csv"
    table = pd.read_csv(path)
    table[list(CLASSES)] = 1
    table.to_csv(path, index=False)
    with pytest.raises(UserError, match=r"ptbxl_val\.csv has no superclass with and without records"):
        train(model="resnet1d", name="a", artifacts=artifacts, **QUICK)
    assert "epoch" not in capsys.readouterr().out


def test_a_split_without_a_usable_record_is_said_by_name(artifacts):
    path = artifacts / "ptbxl_train.csv"
    pd.read_csv(path).assign(label="").to_csv(path, index=False)
    with pytest.raises(UserError, match=r"ptbxl_train\.csv: no record can be used for --task multiclass"):
        train(model="resnet1d", name="a", artifacts=artifacts, task="multiclass", **QUICK)


def test_too_little_memory_on_the_gpu_is_said_with_its_cure(artifacts, monkeypatch):
    def forward(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr("ecg.models.Network.forward", forward)
    with pytest.raises(UserError, match="lower --batch-size or --width"):
        train(model="resnet1d", name="a", artifacts=artifacts, **QUICK)


def test_signals_of_another_split_are_refused(artifacts, synthetic):
    """Their standardisation was fitted on records that may now be test records."""
    make_splits(data=synthetic, artifacts=artifacts, split="validated", label_policy="any")
    with pytest.raises(UserError, match=r"other splits.*03_preprocess"):
        train(model="resnet1d", name="a", artifacts=artifacts, **QUICK)


def test_test_labels_cannot_change_the_training(artifacts):
    """Trap 13: nothing is chosen on the test fold."""
    train(model="resnet1d", name="a", artifacts=artifacts, **QUICK)
    table = read_split(artifacts, "test")
    table[list(CLASSES)] = 1 - table[list(CLASSES)]
    table.to_csv(artifacts / "ptbxl_test.csv", index=False)
    train(model="resnet1d", name="b", artifacts=artifacts, **QUICK)
    a, b = artifacts / "a_standard", artifacts / "b_standard"
    assert equal(best_weights(a), best_weights(b))
    assert (a / "predictions_test.csv").read_bytes() == (b / "predictions_test.csv").read_bytes(), "calibration as well"
    assert set(pd.read_csv(artifacts / "a_standard" / "metrics.csv").split) == {"val"}


def test_best_is_the_epoch_with_the_highest_validation_auc_and_patience_stops(artifacts, capsys):
    train(model="resnet1d", name="a", artifacts=artifacts, **QUICK | {"epochs": 12, "patience": 1, "lr": 1e-6})
    history = pd.read_csv(artifacts / "a_standard" / "history.csv")
    config = json.loads((artifacts / "a_standard" / "config.json").read_text())
    assert config["best_epoch"] == history.epoch[history.val_macro_auc.idxmax()]
    assert len(history) < 12 and "stops" in capsys.readouterr().out
    assert len(history) == config["best_epoch"] + 1


def test_multiclass_trains_on_records_with_exactly_one_superclass_and_sums_to_one(artifacts):
    train(model="inception", name="a", artifacts=artifacts, task="multiclass", **QUICK)
    config = json.loads((artifacts / "a_standard" / "config.json").read_text())
    assert config["n_train"] == (read_split(artifacts, "train").label != "").sum()
    np.testing.assert_allclose(np.load(artifacts / "a_standard" / "predictions_test.npy").sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(("standard", "augmented"), [("05", "06"), ("07", "08"), ("09", "10")])
def test_standard_and_augmented_differ_in_augmentation_alone(standard, augmented):
    """Trap 7: not in epochs, stopping rule or anything else."""
    scripts = [next((ROOT / "codes").glob(f"{number}_*.py")) for number in (standard, augmented)]
    defaults = []
    for script in scripts:
        settings = runpy.run_path(str(script))["Settings"]
        defaults.append({f.name: f.default for f in fields(settings) if f.default is not MISSING})
    different = {name for name in defaults[0] if defaults[0][name] != defaults[1][name]}
    assert different == {"augment"}


def test_every_record_is_seen_once_per_epoch_at_random_places(prepared):
    signals = load_signals(prepared)
    split = load_split(prepared, signals, "train", "multilabel")
    numbered = np.broadcast_to(np.arange(1000, dtype=np.int16), (len(signals.array), 12, 1000)).copy()
    numbered[:, 0] = np.arange(len(numbered), dtype=np.int16)[:, None]  # lead 0 holds the row, the others the time
    orders, starts = [], []
    for epoch in (1, 2):
        parts = list(batches(numbered, split, size=32, crop=250, seed=0, epoch=epoch, device=CPU))
        sizes = [len(part.target) for part in parts]
        assert max(sizes) <= 32 and max(sizes) - min(sizes) <= 1
        rows, begin = (np.concatenate([part.microvolt[:, lead, 0] for part in parts]) for lead in (0, 1))
        assert sorted(rows) == sorted(split.rows)
        target = np.concatenate([part.target for part in parts])
        position = {row: i for i, row in enumerate(split.rows)}
        np.testing.assert_array_equal(target, split.target[[position[row] for row in rows]])
        assert begin.min() >= 0 and begin.max() <= 750 and len(set(begin)) > 20
        orders.append(rows.tolist())
        starts.append(begin.tolist())
    assert orders[0] != orders[1] and starts[0] != starts[1]


def test_augmentation_follows_its_generator_and_differs_between_epochs():
    """Trap 9: no generator that is the same everywhere."""
    x = torch.randn(16, 12, 250)
    for change in (scale_amplitude, add_noise, drop_leads, augment_batch):
        first, again, other = (change(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert torch.equal(first, again) and not torch.equal(first, other), change.__name__


def test_augmentation_leaves_its_input_alone_and_stays_in_bounds():
    x = torch.randn(64, 12, 250)
    before, generator = x.clone(), torch.Generator().manual_seed(0)
    ratio = (scale_amplitude(x, generator) / x).mean(dim=(1, 2))
    assert 0.8 <= ratio.min() < 0.9 and 1.1 < ratio.max() <= 1.2
    noise = add_noise(x, generator, most_mv=0.05) - x
    assert 0.03 < noise.std(dim=(1, 2)).max() < 0.06
    dropped = (drop_leads(x, generator, probability=0.1) == 0).all(dim=2).float().mean()
    assert 0.05 < dropped < 0.15
    assert torch.equal(x, before)


def test_the_derivative_is_taken_after_augmentation(prepared):
    """Trap 6: the derivative channels must be the derivative of the very signal beside them."""
    signals = load_signals(prepared)
    split = load_split(prepared, signals, "train", "multilabel")
    network = build("resnet1d", signals.meta)
    seen = []
    network.frontend.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    options = {"steps": 2, "lr": 1e-3, "weight_decay": 0.0, "average": 0.9, "task": "multilabel", "augment": True}
    trainer = Trainer(network, **options, world=World(CPU), dtype=torch.float32)
    batch = next(batches(signals.array, split, size=16, crop=250, seed=0, epoch=1, device=CPU))
    trainer.loss(batch)
    millivolt, channels = seen[0]
    assert not torch.allclose(millivolt, torch.from_numpy(batch.microvolt) / 1000), "the signal was augmented"
    raw = channels.squeeze(2) * network.frontend.std + network.frontend.mean
    torch.testing.assert_close(raw[:, :12], millivolt, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        raw[:, 12:], torch.from_numpy(np.gradient(millivolt.numpy(), 0.01, axis=-1)), rtol=1e-3, atol=1e-3
    )


def test_the_schedule_has_fastais_values():
    network = torch.nn.Linear(2, 2)
    options = {"lr": 0.01, "weight_decay": 0.0, "average": 0.9, "task": "multilabel", "augment": False}
    trainer = Trainer(network, steps=400, **options, world=World(CPU), dtype=torch.float32)
    rates, momenta = [], []
    for _ in range(400):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        momenta.append(trainer.optimizer.param_groups[0]["betas"][0])
        trainer.optimizer.step()
        trainer.schedule.step()
    position = np.arange(400) / 400

    def cosine(start: float, end: float, share: np.ndarray) -> np.ndarray:
        return start + (1 - np.cos(np.pi * share)) * (end - start) / 2

    rise, fall = position / 0.25, (position - 0.25) / 0.75
    expected = np.where(position < 0.25, cosine(0.01 / 25, 0.01, rise), cosine(0.01, 0.01 / 1e5, fall))
    np.testing.assert_allclose(rates, expected, atol=0.01 * 0.01)
    expected = np.where(position < 0.25, cosine(0.95, 0.85, rise), cosine(0.85, 0.95, fall))
    np.testing.assert_allclose(momenta, expected, atol=0.002)


def test_the_learning_rate_finder_suggests_a_point_in_the_valley():
    lr = np.logspace(-6, 1, 85)
    loss = 0.7 - 0.4 / (1 + np.exp(-3 * (np.log10(lr) + 3))) + np.maximum(0, np.log10(lr) + 0.5) * 2
    assert 1e-4 < valley(lr, loss) < 1e-2  # the loss falls steepest at 1e-3
    assert (
        valley(lr[:6], np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])) == lr[2]
    )  # -1 + 2 + 1: fastai's start lies one before the run


def test_windows_cover_a_recording_end_to_end():
    for n_samples in (100, 250, 251, 999, 1000, 5003):
        for overlap in (False, True):
            starts = window_starts(n_samples, 250, overlap)
            covered = np.zeros(n_samples, bool)
            for start in starts:
                covered[start : start + 250] = True
            assert covered.all() and starts[-1] + min(250, n_samples) == n_samples
    assert window_starts(1000, 250, overlap=False) == [0, 250, 500, 750]
    assert window_starts(1000, 250, overlap=True) == [0, 125, 250, 375, 500, 625, 750]


REFUSED = [
    ({"epochs": 0}, "epochs"),
    ({"patience": 0}, "patience"),
    ({"seed": -1}, "seed"),
    ({"crop_seconds": 30.0}, "crop-seconds"),
    ({"device": "tpu"}, "--device tpu"),
    ({"device": "meta"}, "--device meta"),
]


@pytest.mark.parametrize(("bad", "cure"), REFUSED)
def test_settings_that_cannot_work_are_refused_by_name(artifacts, bad, cure):
    with pytest.raises(UserError, match=cure):
        train(model="resnet1d", name="a", artifacts=artifacts, **QUICK | bad)
    assert set(bad) <= {f.name for f in fields(TrainingSettings)}


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_network_learns_the_planted_signs_and_nothing_from_shuffled_labels(tmp_path_factory, tmp_path, shuffle):
    """The whole of labels, signals and training is wired up right, and leaks nothing."""
    data = tmp_path_factory.getbasetemp() / "learnable"
    write_ptbxl(data, records=500)
    make_splits(data=data, artifacts=tmp_path, split="folds", label_policy="any", shuffle_labels=shuffle)
    preprocess(data=data, artifacts=tmp_path, sampling_rate=100, band=(0.5, 40.0), limit_mv=8.0, strict=False)
    train(model="xresnet1d", name="a", artifacts=tmp_path, **QUICK | {"epochs": 8, "precision": "auto"})
    labels, probability = read_labelled(tmp_path, tmp_path / "a_standard", "test")
    auc = macro_auc(labels[list(CLASSES)].to_numpy(), probability.to_numpy())
    assert abs(auc - 0.5) < 0.2 if shuffle else auc > 0.9  # 49 records: a tenth of an AUC is chance


def test_a_preset_is_other_defaults_and_flags_have_the_last_word(artifacts, monkeypatch):
    seen = {}
    monkeypatch.setattr(sys, "argv", ["05", "--preset", "fast", "--epochs", "3", "--artifacts", str(artifacts)])
    run(lambda **values: seen.update(values), TrainingSettings, "", PRESETS)
    assert (seen["preset"], seen["width"], seen["epochs"]) == ("fast", PRESETS["fast"]["width"], 3)
    assert seen["artifacts"] == artifacts and seen["lr"] == TrainingSettings.lr
    for preset in PRESETS.values():
        assert set(preset) <= {field.name for field in fields(TrainingSettings)}


def test_the_preset_for_all_of_ptbxl_trains(artifacts):
    train(model="resnet1d", name="a", artifacts=artifacts, **PRESETS["full"] | QUICK | {"epochs": 1})
    config = json.loads((artifacts / "a_standard" / "config.json").read_text())
    assert config["width"] == PRESETS["full"]["width"] and config["weights"] > 800_000


def test_a_checkpoint_goes_on_with_another_number_of_threads_and_says_so(artifacts, capsys, monkeypatch):
    train(model="resnet1d", name="a", artifacts=artifacts, **QUICK)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    train(model="resnet1d", name="a", artifacts=artifacts, **QUICK)
    output = capsys.readouterr().out
    assert "resumes at" in output and "the last bits will differ" in output


def test_a_narrow_network_is_stored_and_loaded_as_such(artifacts):
    train(model="resnet1d", name="a", artifacts=artifacts, width=0.5, **QUICK)
    network = load_network(artifacts / "a_standard", json.loads((artifacts / "a_standard" / "config.json").read_text()))
    weights = [
        sum(p.numel() for p in n.parameters()) for n in (network, build("resnet1d", load_signals(artifacts).meta))
    ]
    assert 3 < weights[1] / weights[0] < 4.5
