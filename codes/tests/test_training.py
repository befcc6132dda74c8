"""Training: what a run promises, what may not be lost, and the traps it must not fall into."""

import hashlib
import json
import re
import runpy
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CODES, best_weights, equal, share_inputs

from ecg.artifacts import UserError
from ecg.augmentation import AUGMENTATIONS, add_noise, augment_batch, drop_leads, scale_amplitude
from ecg.command_line import run
from ecg.distributed import World
from ecg.inference import window_starts
from ecg.initial_weights import load_initial_weights
from ecg.labels import make_splits, read_split, read_splits
from ecg.lr_finder import valley
from ecg.metrics import macro_auc
from ecg.models import build
from ecg.plots import save_figure
from ecg.preprocessing import preprocess
from ecg.runs import find_runs, read_labelled, task_of
from ecg.signals import load_signals
from ecg.stages import network_name
from ecg.stored_run import load_network, load_run
from ecg.synthetic import write_ptbxl
from ecg.tasks import Task
from ecg.trainer import Trainer, batches, load_records, make_loss
from ecg.training import PRESETS, TrainingSettings, train

CPU = torch.device("cpu")
QUICK = {"width": 0.25, "epochs": 2, "batch_size": 32, "precision": "fp32", "device": "cpu"}
NAMED = {"model": "resnet1d", "name": "a"}


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def digests(folder: Path) -> dict[str, str]:
    """Return {file: SHA-256} of a run folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def call(monkeypatch: pytest.MonkeyPatch, script: str, artifacts: Path, *words: object) -> None:
    """Call a training script as on a command line, with the small settings of tests before `words`."""
    small = ["--width", "0.25", "--epochs", "1", "--batch-size", "64", "--precision", "fp32", "--device", "cpu"]
    arguments = [str(CODES / script), "--artifacts", str(artifacts), *small, *map(str, words)]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(arguments[0], run_name="__main__")


@pytest.fixture(autouse=True)
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these trainings; that figures are drawn is tested once."""
    monkeypatch.setattr("ecg.training.save_figure", lambda figure, path: path.touch())


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts folder with a run named a, which tests only look at."""
    artifacts = share_inputs(prepared, tmp_path_factory.mktemp("trained"))
    train(**NAMED, artifacts=artifacts, **QUICK)
    return artifacts


@pytest.fixture
def with_run(trained: Path, artifacts: Path) -> Path:
    """An artifacts folder of the test's own with that run."""
    (artifacts / "a").mkdir()
    for path in (trained / "a").iterdir():
        (artifacts / "a" / path.name).write_bytes(path.read_bytes())
    return artifacts


# --- what a run is ---------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_what_the_design_promises(artifacts, monkeypatch):
    monkeypatch.setattr("ecg.training.save_figure", save_figure)
    train(model="xresnet1d", artifacts=artifacts, lr_finder=True, **QUICK)
    folder, task = artifacts / "xresnet_standard", read_splits(artifacts).first
    expected = {"config.json", "history.csv", "history.png", "metrics.csv", "best.pt", "last.pt"}
    expected |= {"lr_finder.csv", "lr_finder.png"}
    expected |= {f"predictions_{part}.{kind}" for part in ("val", "test") for kind in ("csv", "npy")}
    assert {path.name for path in folder.iterdir()} == expected
    assert all(path.stat().st_size > 1000 for path in folder.glob("*.png"))
    history = pd.read_csv(folder / "history.csv")
    assert list(history) == ["epoch", "lr", "train_loss", "val_loss", "val_accuracy", "val_macro_auc", "seconds"]
    assert len(history) == 2
    for part in ("val", "test"):
        table = pd.read_csv(folder / f"predictions_{part}.csv")
        assert list(table) == ["ecg_id", *task.classes]
        assert set(table.ecg_id) == set(read_split(artifacts, part).ecg_id)
        np.testing.assert_allclose(np.load(folder / f"predictions_{part}.npy"), table[list(task.classes)], atol=1e-6)


def test_config_says_once_all_that_makes_a_run_what_it_is(trained):
    config, splits = config_of(trained / "a"), read_splits(trained)
    assert (config["run"], config["model"], config["objective"]) == ("a", "resnet1d", "multilabel")
    assert task_of(config) == splits.first
    assert config["labels_sha256"] == splits.labels_sha256[splits.first.name]
    assert config["signals"] == load_signals(trained).meta
    names = {field.name for field in fields(TrainingSettings)} - {"data", "artifacts", "overwrite"}
    assert set(config["settings"]) == names
    said_once = names - {"objective", "precision", "device", "lr"}  # whose outcome stands beside what was asked for
    assert not said_once & set(config)
    assert re.fullmatch(r"[0-9a-f]{16}", config["code"])
    assert config["augmentation"] == {}


def test_config_holds_every_augmentation_with_its_numbers(artifacts):
    train(**NAMED, artifacts=artifacts, augment=True, **QUICK | {"epochs": 1})
    assert config_of(artifacts / "a")["augmentation"] == {f.__name__: values for f, values in AUGMENTATIONS.items()}


def test_the_same_seed_gives_the_same_bits_and_another_seed_a_folder_of_its_own(artifacts):
    for name, seed in (("a", 0), ("a", 1), ("b", 0)):
        train(model="resnet1d", name=name, artifacts=artifacts, augment=True, seed=seed, **QUICK)
    a, b = artifacts / "a", artifacts / "b"
    assert equal(best_weights(a), best_weights(b))
    assert (a / "predictions_test.csv").read_bytes() == (b / "predictions_test.csv").read_bytes()
    assert not equal(best_weights(a), best_weights(a / "seed1"))


@pytest.mark.parametrize("name", ["form", "all"])
def test_runs_of_other_tasks_stand_beside_the_first_and_share_its_signals(artifacts, name):
    before = digests(artifacts / "signals")
    train(model="resnet1d", labels=name, artifacts=artifacts, **QUICK | {"epochs": 1})
    task = read_splits(artifacts).task(name)
    folder = artifacts / f"resnet_standard_{name}"
    assert task_of(config_of(folder)) == task
    labels, probability = read_labelled(artifacts, find_runs(artifacts)[0], "test")
    assert tuple(probability.columns) == task.classes
    assert set(labels.index) == set(read_split(artifacts, "test", task).ecg_id)
    assert digests(artifacts / "signals") == before


def test_a_narrow_network_is_stored_and_loaded_as_such(trained):
    network = load_network(trained / "a")
    wide = build("resnet1d", load_signals(trained).meta, n_classes=5)
    narrow = build("resnet1d", load_signals(trained).meta, n_classes=5, width=0.25)
    weights = [sum(p.numel() for p in n.parameters()) for n in (network, narrow, wide)]
    assert weights[0] == weights[1] < weights[2] / 4


def test_multiclass_trains_on_records_with_exactly_one_class_and_sums_to_one(artifacts):
    train(model="inception", name="a", artifacts=artifacts, objective="multiclass", **QUICK)
    config = config_of(artifacts / "a")
    assert config["objective"] == "multiclass"
    assert config["n_train"] == (read_split(artifacts, "train").label != "").sum()
    np.testing.assert_allclose(np.load(artifacts / "a" / "predictions_test.npy").sum(axis=1), 1, atol=1e-5)


def test_a_stored_run_answers_as_its_predictions_say(trained):
    signals, run = load_signals(trained), load_run(trained / "a", device="cpu", precision="fp32")
    stored = pd.read_csv(trained / "a" / "predictions_test.csv")
    answered = run.predict_microvolt(signals.array[signals.rows(stored.ecg_id.to_numpy())])
    np.testing.assert_allclose(answered, stored[list(run.task.classes)], atol=1e-5)


# --- runs that are there already --------------------------------------------------------------------------------------


def test_a_run_with_other_settings_is_refused_and_every_difference_is_named_with_both_values(with_run):
    before = digests(with_run / "a")
    other = QUICK | {"epochs": 3, "lr": 0.003, "augment": True}
    with pytest.raises(UserError) as error:
        train(**NAMED, artifacts=with_run, **other)
    message = str(error.value)
    for setting, old, new in (("epochs", 2, 3), ("lr", 0.01, 0.003), ("augment", False, True)):
        assert f"{setting} {old} (now {new})" in message
    assert str(with_run / "a") in message and "--name" in message and "--overwrite" in message
    for same in ("width", "seed", "model", "classes", "device"):
        assert same not in message.replace(str(with_run), "")
    assert digests(with_run / "a") == before


def test_another_network_or_task_in_the_same_folder_is_refused(with_run):
    with pytest.raises(UserError, match=r"model resnet1d \(now inception\)"):
        train(model="inception", name="a", artifacts=with_run, **QUICK)
    with pytest.raises(UserError, match=r"5 classes \(now \d+"):
        train(**NAMED, labels="form", artifacts=with_run, **QUICK)


def test_settings_of_the_stages_before_and_other_statements_make_another_run(with_run):
    """What a run was trained on counts like how: policy and shuffling of labels, rate, filter, a task's statements."""
    splits, meta = with_run / "ptbxl_splits.json", with_run / "signals" / "meta.json"
    for path, change, said in (
        (splits, lambda facts: facts | {"label_policy": "likelihood50"}, r"label_policy any (now likelihood50)"),
        (splits, lambda facts: facts | {"shuffle_labels": True}, "shuffle_labels False (now True)"),
        (splits, without_imi, "statements of MI"),
        (
            meta,
            lambda facts: facts | {"filter": facts["filter"] | {"low": 0.05}},
            "filter low 0.5 high 40.0 order 3 (now",
        ),
    ):
        before = path.read_bytes()
        path.unlink()  # it may be a link to the files that all tests share
        path.write_text(json.dumps(change(json.loads(before))))
        with pytest.raises(UserError) as error:
            train(**NAMED, artifacts=with_run, **QUICK)
        assert "other settings" in str(error.value) and said in str(error.value)
        path.write_bytes(before)


def without_imi(facts: dict) -> dict:
    """Return what `ptbxl_splits.json` says, with a class MI that inferior infarction is no part of."""
    changed = json.loads(json.dumps(facts))
    entry = next(each for each in changed["tasks"][0]["classes"] if each["class"] == "MI")
    entry["statements"].remove("IMI")
    return changed


def test_train_by_name_means_the_folder_of_the_numbered_script():
    assert [network_name(model) for model in ("resnet1d", "xresnet1d", "textbook")] == ["resnet", "xresnet", "textbook"]


def test_overwrite_replaces_a_run_with_other_settings(with_run, capsys):
    train(**NAMED, artifacts=with_run, overwrite=True, **QUICK | {"epochs": 1})
    assert "starting over: last.pt was made with different epochs" in capsys.readouterr().out
    assert config_of(with_run / "a")["settings"]["epochs"] == 1
    train(**NAMED, artifacts=with_run, **QUICK | {"epochs": 1})  # and this is no other setting


@pytest.mark.parametrize("change", [{"device": "auto"}, {"labels": "superdiagnostic"}])
def test_the_same_settings_run_again_and_resume(with_run, capsys, change):
    weights, predictions = best_weights(with_run / "a"), (with_run / "a" / "predictions_test.csv").read_bytes()
    train(**NAMED, artifacts=with_run, **QUICK | change)
    assert "resumes at" in capsys.readouterr().out
    assert equal(weights, best_weights(with_run / "a"))
    assert predictions == (with_run / "a" / "predictions_test.csv").read_bytes()


def test_naming_a_run_after_its_own_folder_changes_nothing(artifacts, capsys):
    small = QUICK | {"epochs": 1}
    train(model="resnet1d", artifacts=artifacts, **small)
    train(model="resnet1d", name="resnet_standard", artifacts=artifacts, **small)
    assert "resumes at" in capsys.readouterr().out


def test_an_unfinished_training_of_other_settings_is_refused(with_run):
    for path in (with_run / "a").iterdir():
        if path.name != "last.pt":
            path.unlink()
    before = digests(with_run / "a")
    with pytest.raises(UserError, match=r"batch_size 32 \(now 16\)"):
        train(**NAMED, artifacts=with_run, **QUICK | {"batch_size": 16})
    assert digests(with_run / "a") == before


def test_a_name_puts_a_second_variant_beside_the_first(with_run):
    before = digests(with_run / "a")
    train(model="resnet1d", name="b", artifacts=with_run, **QUICK | {"epochs": 1})
    assert digests(with_run / "a") == before
    assert [run.name for run in find_runs(with_run)] == ["a", "b"]


def test_a_preset_leaves_the_files_of_the_default_run_alone(artifacts, monkeypatch):
    script = "09_train_xresnet1d.py"
    call(monkeypatch, script, artifacts, "--no-lr-finder")
    before = digests(artifacts / "xresnet_standard")
    call(monkeypatch, script, artifacts, "--no-lr-finder", "--preset", "fast")
    assert digests(artifacts / "xresnet_standard") == before
    assert config_of(artifacts / "xresnet_fast_standard")["settings"]["preset"] == "fast"


def test_any_registered_network_is_trained_by_name(artifacts, monkeypatch):
    call(monkeypatch, "train.py", artifacts, "--model", "inception", "--augment", "--labels", "rhythm")
    config = config_of(artifacts / "inception_augmented_rhythm")
    assert (config["model"], config["task"]["name"]) == ("inception", "rhythm")


@pytest.mark.parametrize("name", ["../elsewhere", "final_results", "ensemble_of_mine", "seed3", "a b"])
def test_a_name_that_no_run_may_have_is_refused(artifacts, name):
    with pytest.raises(UserError, match=r"--name"):
        train(model="resnet1d", name=name, artifacts=artifacts, **QUICK)


def test_a_run_named_seed_something_is_not_taken_for_a_seed_of_its_parent(artifacts):
    for seed in (0, 3):
        train(**NAMED, seed=seed, artifacts=artifacts, **QUICK | {"epochs": 1})
    assert [run.name for run in find_runs(artifacts)] == ["a/seed0", "a/seed3"]
    assert {run.model for run in find_runs(artifacts)} == {"a"}


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_finished_checkpoint_is_not_taken_for_a_training_on_other_labels(with_run, capsys):
    classes = list(read_splits(with_run).first.classes)
    table = read_split(with_run, "train")
    table.loc[0, classes] = 1 - table.loc[0, classes]
    table.to_csv(with_run / "ptbxl_train.csv", index=False)
    train(**NAMED, artifacts=with_run, **QUICK)
    output = capsys.readouterr().out
    assert "different labels" in output and "resumes" not in output


def test_a_checkpoint_is_not_continued_with_other_augmentation(artifacts, capsys, monkeypatch):
    train(**NAMED, artifacts=artifacts, augment=True, **QUICK | {"epochs": 1})
    monkeypatch.setitem(AUGMENTATIONS, scale_amplitude, {"spread": 0.3})
    train(**NAMED, artifacts=artifacts, augment=True, **QUICK | {"epochs": 1})
    output = capsys.readouterr().out
    assert "different augmentation" in output and "resumes" not in output


@pytest.mark.parametrize("content", [b"", b"garbage", {"weights": 1}, [1]])
def test_a_damaged_checkpoint_is_refused_by_name(artifacts, content):
    path = artifacts / "a" / "last.pt"
    path.parent.mkdir()
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=r"last\.pt is damaged.*delete"):
        train(**NAMED, artifacts=artifacts, **QUICK)


def test_a_kill_among_the_last_writes_leaves_no_run_of_two_trainings(with_run, monkeypatch):
    """Stage 11 would choose thresholds on one model's validation answers and measure another's test answers."""
    monkeypatch.setattr("ecg.training.write_validation_aucs", lambda *_: 1 / 0)  # after the predictions
    with pytest.raises(ZeroDivisionError):
        train(**NAMED, artifacts=with_run, overwrite=True, **QUICK | {"epochs": 1})
    with pytest.raises(UserError, match=r"a.config\.json: run"):
        find_runs(with_run)


def test_a_checkpoint_goes_on_with_another_number_of_threads_and_says_so(with_run, capsys, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    train(**NAMED, artifacts=with_run, **QUICK)
    output = capsys.readouterr().out
    assert "resumes at" in output and "differ in rounding" in output


# --- starting from another run ----------------------------------------------------------------------------------------


def fresh(folder: Path, *, n_classes: int, model: str = "resnet1d", width: float = 0.25):
    torch.manual_seed(99)
    return build(model, load_signals(folder).meta, n_classes=n_classes, width=width)


def test_with_the_same_classes_all_weights_are_those_of_the_stored_run(trained):
    network = fresh(trained, n_classes=5)
    load_initial_weights(network, trained / "a", read_splits(trained).first)
    assert equal(network.state_dict(), best_weights(trained / "a"))


def test_with_other_classes_only_the_last_layer_is_fresh(trained):
    task = read_splits(trained).task("form")
    network = fresh(trained, n_classes=len(task))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    load_initial_weights(network, trained / "a", task)
    stored = best_weights(trained / "a")
    kept = {key for key, value in network.state_dict().items() if torch.equal(value, before[key])}
    last = {key for key in before if before[key].shape != stored[key].shape}
    assert len(last) == 2 and last <= kept
    assert all(torch.equal(network.state_dict()[key], stored[key]) for key in before.keys() - last)


def test_as_many_classes_but_other_ones_have_a_fresh_last_layer_too(trained):
    own = read_splits(trained).first
    other = Task("other", tuple(f"other {name}" for name in own.classes), own.long_names, own.statements)
    network = fresh(trained, n_classes=5)
    load_initial_weights(network, trained / "a", other)
    different = {
        key for key, value in best_weights(trained / "a").items() if not torch.equal(value, network.state_dict()[key])
    }
    assert different and {key.rsplit(".", 1)[0] for key in different} == {"body.4.2"}


@pytest.mark.parametrize(("model", "width"), [("inception", 0.25), ("resnet1d", 0.5)])
def test_the_weights_of_another_network_or_width_are_refused(trained, model, width):
    with pytest.raises(UserError, match=r"--init: .*another network, width"):
        load_initial_weights(
            fresh(trained, n_classes=5, model=model, width=width), trained / "a", read_splits(trained).first
        )


def test_a_run_to_start_from_that_is_not_there_is_refused(trained):
    with pytest.raises(UserError, match="--init: there is no run"):
        load_initial_weights(fresh(trained, n_classes=5), trained / "nobody", read_splits(trained).first)


def test_a_training_that_starts_from_a_run_begins_where_that_one_ended(with_run):
    settings = QUICK | {"epochs": 1, "lr": 1e-7}
    train(model="resnet1d", name="b", init="a", artifacts=with_run, **settings)
    one, two = best_weights(with_run / "a"), best_weights(with_run / "b")
    for key, value in one.items():
        if "running" not in key and "tracked" not in key:
            torch.testing.assert_close(value, two[key], rtol=1e-3, atol=1e-5)
    assert config_of(with_run / "b")["settings"]["init"] == "a"


# --- labels -----------------------------------------------------------------------------------------------------------


def test_labels_that_give_no_auc_are_said_before_training(artifacts, capsys):
    path = artifacts / "ptbxl_val.csv"
    table = pd.read_csv(path)
    table[list(read_splits(artifacts).first.classes)] = 1
    table.to_csv(path, index=False)
    with pytest.raises(UserError, match="no class of superdiagnostic has validation records with and without it"):
        train(**NAMED, artifacts=artifacts, **QUICK)
    assert "epoch" not in capsys.readouterr().out


def test_a_class_without_a_training_record_is_named_and_the_training_goes_on(artifacts, capsys):
    path, name = artifacts / "ptbxl_train.csv", read_splits(artifacts).first.classes[2]
    pd.read_csv(path).assign(**{name: 0}).to_csv(path, index=False)
    train(**NAMED, artifacts=artifacts, **QUICK | {"epochs": 1})
    assert f"no training record has {name}" in capsys.readouterr().out
    assert np.isfinite(np.load(artifacts / "a" / "predictions_test.npy")).all()


def test_a_task_that_02_does_not_know_is_refused_with_those_it_knows(artifacts):
    with pytest.raises(UserError, match=r"superdiagnostic.*run codes/02_split\.py"):
        train(**NAMED, labels="mine", artifacts=artifacts, **QUICK)


def test_signals_of_another_split_are_refused(artifacts, synthetic):
    """Their standardisation was fitted on records that may now be test records."""
    make_splits(data=synthetic, artifacts=artifacts, split="validated")
    with pytest.raises(UserError, match=r"different splits.*03_preprocess"):
        train(**NAMED, artifacts=artifacts, **QUICK)


def test_test_labels_cannot_change_the_training(with_run):
    """Trap 13: nothing is chosen on the test fold."""
    classes = list(read_splits(with_run).first.classes)
    table = read_split(with_run, "test")
    table[classes] = 1 - table[classes]
    table.to_csv(with_run / "ptbxl_test.csv", index=False)
    train(model="resnet1d", name="b", artifacts=with_run, **QUICK)
    a, b = with_run / "a", with_run / "b"
    assert equal(best_weights(a), best_weights(b))
    assert (a / "predictions_test.csv").read_bytes() == (b / "predictions_test.csv").read_bytes(), "calibration as well"
    assert set(pd.read_csv(a / "metrics.csv").split) == {"val"}


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_network_learns_the_planted_signs_and_nothing_from_shuffled_labels(tmp_path_factory, tmp_path, shuffle):
    """The whole of labels, signals and training is wired up right, and leaks nothing."""
    data = tmp_path_factory.getbasetemp() / "learnable"
    write_ptbxl(data, records=500)
    make_splits(data=data, artifacts=tmp_path, shuffle_labels=shuffle)
    preprocess(data=data, artifacts=tmp_path)
    train(model="xresnet1d", name="a", artifacts=tmp_path, **QUICK | {"epochs": 6, "width": 0.5})
    labels, probability = read_labelled(tmp_path, find_runs(tmp_path)[0], "test")
    auc = macro_auc(labels[list(probability)].to_numpy(), probability.to_numpy())
    assert abs(auc - 0.5) < 0.2 if shuffle else auc > 0.9  # 49 records: a tenth of an AUC is chance


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("standard", "augmented"), [("05", "06"), ("07", "08"), ("09", "10")])
def test_standard_and_augmented_differ_in_augmentation_alone(standard, augmented):
    """Trap 7: not in epochs, stopping rule or anything else."""
    defaults = []
    for number in (standard, augmented):
        settings = runpy.run_path(str(next(CODES.glob(f"{number}_*.py"))))["Settings"]
        defaults.append({f.name: f.default for f in fields(settings) if f.default is not MISSING})
    different = {name for name in defaults[0] if defaults[0][name] != defaults[1][name]}
    assert different == {"augment"}


REFUSED = [
    ({"epochs": 0}, "--epochs"),
    ({"batch_size": 1}, "--batch-size"),
    ({"patience": 0}, "--patience"),
    ({"seed": -1}, "--seed"),
    ({"lr": -1.0}, "--lr"),
    ({"lr": float("nan")}, "--lr"),
    ({"crop_seconds": 30.0}, "--crop-seconds"),
    ({"crop_seconds": 0.5}, "--crop-seconds"),
    ({"width": 0.0}, "--width"),
    ({"device": "tpu"}, "--device tpu"),
    ({"device": "meta"}, "--device meta"),
]


@pytest.mark.parametrize(("bad", "flag"), REFUSED)
def test_settings_that_cannot_work_are_refused_by_their_flag(artifacts, bad, flag):
    with pytest.raises(UserError, match=flag):
        train(**NAMED, artifacts=artifacts, **QUICK | bad)
    assert set(bad) <= {f.name for f in fields(TrainingSettings)}


def test_a_preset_is_other_defaults_and_flags_have_the_last_word(artifacts, monkeypatch):
    seen = {}
    monkeypatch.setattr(sys, "argv", ["05", "--preset", "fast", "--epochs", "3", "--artifacts", str(artifacts)])
    run(lambda **values: seen.update(values), TrainingSettings, "", PRESETS)
    assert (seen["preset"], seen["width"], seen["epochs"]) == ("fast", PRESETS["fast"]["width"], 3)
    assert seen["artifacts"] == artifacts and seen["lr"] == TrainingSettings.lr
    for preset in PRESETS.values():
        assert set(preset) <= {field.name for field in fields(TrainingSettings)}


def test_too_little_memory_on_the_gpu_is_said_with_its_cure(artifacts, monkeypatch):
    def forward(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr("ecg.trainer.Trainer.loss", forward)
    with pytest.raises(UserError, match="lower --batch-size or --width"):
        train(**NAMED, artifacts=artifacts, **QUICK)


def test_best_is_the_epoch_with_the_highest_validation_auc_and_patience_stops(artifacts, capsys):
    train(**NAMED, artifacts=artifacts, **QUICK | {"epochs": 12, "patience": 1, "lr": 1e-6})
    history, config = pd.read_csv(artifacts / "a" / "history.csv"), config_of(artifacts / "a")
    assert config["best_epoch"] == history.epoch[history.val_macro_auc.idxmax()]
    assert len(history) < 12 and "stopping early" in capsys.readouterr().out
    assert len(history) == config["best_epoch"] + 1


def test_the_learning_rate_finder_suggests_a_point_in_the_valley():
    lr = np.logspace(-6, 1, 85)
    loss = 0.7 - 0.4 / (1 + np.exp(-3 * (np.log10(lr) + 3))) + np.maximum(0, np.log10(lr) + 0.5) * 2
    assert 1e-4 < valley(lr, loss) < 1e-2  # the loss falls steepest at 1e-3
    # -1 + 2 + 1: fastai's start is one before the run
    assert valley(lr[:6], np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])) == lr[2]


def test_a_loss_that_diverges_at_once_asks_for_a_learning_rate():
    with pytest.raises(UserError, match="--lr"):
        valley(np.array([]), np.array([]))


# --- augmentation and windows -----------------------------------------------------------------------------------------


def test_augmentation_follows_its_generator_and_differs_between_epochs():
    """Trap 9: no generator that is the same everywhere."""
    x = torch.randn(16, 12, 250)
    for change, numbers in [*AUGMENTATIONS.items(), (augment_batch, {})]:
        first, again, other = (change(x, torch.Generator().manual_seed(seed), **numbers) for seed in (1, 1, 2))
        assert torch.equal(first, again) and not torch.equal(first, other), change.__name__


def test_augmentation_leaves_its_input_alone_and_stays_in_bounds():
    x = torch.randn(64, 12, 250)
    before, generator = x.clone(), torch.Generator().manual_seed(0)
    ratio = (scale_amplitude(x, generator, spread=0.2) / x).mean(dim=(1, 2))
    assert 0.8 <= ratio.min() < 0.9 and 1.1 < ratio.max() <= 1.2
    noise = add_noise(x, generator, most_mv=0.05) - x
    assert 0.03 < noise.std(dim=(1, 2)).max() < 0.06
    dropped = (drop_leads(x, generator, probability=0.1) == 0).all(dim=2).float().mean()
    assert 0.05 < dropped < 0.15
    assert torch.equal(x, before)


def test_the_derivative_is_taken_after_augmentation(prepared):
    """Trap 6: the derivative channels must be the derivative of the very signal beside them."""
    signals = load_signals(prepared)
    records = load_records(prepared, signals, "train", read_splits(prepared).first, "multilabel")
    network = build("resnet1d", signals.meta, n_classes=5, width=0.25)
    seen = []
    network.frontend.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    trainer = Trainer(
        network,
        steps=2,
        lr=1e-3,
        weight_decay=0.0,
        ema=0.9,
        loss=make_loss("multilabel", records.target),
        objective="multilabel",
        augment=True,
        world=World(CPU),
        dtype=torch.float32,
    )
    batch = next(batches(signals.array, records, size=16, crop=250, seed=0, epoch=1, device=CPU))
    trainer.loss(batch)
    millivolt, channels = seen[0]
    assert not torch.allclose(millivolt, torch.from_numpy(batch.microvolt) / 1000), "the signal was augmented"
    raw = channels * network.frontend.std + network.frontend.mean
    torch.testing.assert_close(raw[:, :12], millivolt, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        raw[:, 12:], torch.from_numpy(np.gradient(millivolt.numpy(), 0.01, axis=-1)), rtol=1e-3, atol=1e-3
    )


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
