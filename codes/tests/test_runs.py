"""Run folders: what is read back of them, also of those that older code wrote, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import META
from made_up import write_run, write_splits

from ecg.artifacts import UserError, read_json, write_json
from ecg.labels import make_splits
from ecg.leads import LEADS
from ecg.models import build
from ecg.runs import (
    find_runs,
    read_config,
    read_labelled,
    read_predictions,
    run_folder,
    task_of,
    write_predictions,
    write_validation_aucs,
)
from ecg.stored_run import load_network, load_run
from ecg.tasks import SUPERCLASSES
from ecg.training import train

OLD_SIGNALS = META | {
    "n_samples": 1000,
    "leads": list(LEADS),
    "unit": "uV",
    "filter": {"low": 0.5, "high": 40.0, "order": 3},
    "limit_mv": 8.0,
    "splits": {"split": "folds", "label_policy": "any", "sha256": "981de431"},
}
# `config.json` as it was before tasks had names
OLD_CONFIG = {
    "run": "resnet_standard/seed1",
    "model": "resnet1d",
    "task": "multilabel",
    "augment": False,
    "seed": 1,
    "classes": list(SUPERCLASSES),
    "leads": list(LEADS),
    "window": 250,
    "derivatives": True,
    "width": 0.25,
    "signals": OLD_SIGNALS,
    "settings": {
        "augment": False,
        "task": "multilabel",
        "seed": 1,
        "preset": "default",
        "derivatives": True,
        "width": 0.25,
        "epochs": 25,
        "batch_size": 128,
        "lr": 0.01,
        "lr_finder": False,
        "weight_decay": 0.05,
        "crop_seconds": 2.5,
        "average": 0.2,
        "patience": 20,
        "precision": "auto",
        "device": "auto",
    },
    "n_train": 1915,
    "precision": "float32",
    "best_epoch": 16,
    "temperature": 1.06,
    "seconds": 134.7,
}


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    """A run folder that older code wrote."""
    folder = run_folder(tmp_path, "resnet_standard", 1)
    write_json(OLD_CONFIG, folder / "config.json")
    torch.manual_seed(0)
    network = build("resnet1d", OLD_SIGNALS, n_classes=5, width=0.25)
    torch.save({"weights": network.state_dict(), "epoch": 16}, folder / "best.pt")
    return folder


def test_the_config_of_an_older_run_is_read_as_it_would_be_written_now(old_run):
    config = read_config(old_run)
    task = task_of(config)
    assert (task.name, task.classes, task.names) == ("superdiagnostic", tuple(SUPERCLASSES), SUPERCLASSES)
    assert config["objective"] == config["settings"]["objective"] == "multilabel"
    assert config["settings"]["ema"] == 0.2 and "average" not in config["settings"]
    assert (config["settings"]["width"], config["settings"]["seed"]) == (0.25, 1)
    assert config["labels_sha256"] == "981de431"
    assert not {"classes", "leads", "augment", "seed", "derivatives", "width"} & set(config), "said once"
    for key in ("run", "model", "window", "signals", "n_train", "best_epoch", "temperature", "seconds"):
        assert config[key] == OLD_CONFIG[key]


def test_an_older_run_loads_and_answers(old_run):
    network = load_network(old_run)
    assert network.n_classes == 5 and len(network.body[0][0].weight) == 16
    run = load_run(old_run, device="cpu", precision="fp32")
    answers = run.predict(np.random.default_rng(0).normal(size=(2, 12, 1000)), 100)
    assert answers.shape == (2, 5) and ((answers > 0) & (answers < 1)).all()


def test_an_older_run_with_the_same_settings_is_not_called_another(prepared, artifacts, old_run):
    """A setting that older code did not know had its default's effect."""
    settings = {"width": 0.25, "seed": 1, "ema": 0.2}
    with pytest.raises(UserError, match=r"other settings: epochs 25 \(now 1\)\. "):
        train(model="resnet1d", artifacts=artifacts, epochs=1, **settings)


def test_the_committed_runs_can_be_read(request):
    from conftest import ROOT

    folders = sorted(path.parent for path in (ROOT / "artifacts").glob("*/config.json"))
    if not folders:
        pytest.skip("this checkout has no trained runs in artifacts/")
    for folder in folders:
        config = read_config(folder)
        assert len(task_of(config)) == len(config["task"]["classes"]) > 1
        if (folder / "best.pt").exists():
            assert load_network(folder).n_classes == len(task_of(config))


@pytest.mark.parametrize("key", ["model", "task", "objective", "labels_sha256", "signals"])
def test_a_config_that_lacks_what_every_run_has_is_refused_by_file_and_field(tmp_path, key):
    folder = write_run(write_splits(tmp_path), "a")
    config = read_json(folder / "config.json", made_by="")
    del config[key]
    write_json(config, folder / "config.json")
    with pytest.raises(UserError, match=rf"config\.json: '{key}' is missing"):
        read_config(folder)


def test_a_run_trained_on_other_labels_is_refused(tmp_path):
    artifacts = write_splits(tmp_path)
    write_run(artifacts, "a")
    (run,) = find_runs(artifacts)
    read_labelled(artifacts, run, "test")
    facts = read_json(artifacts / "ptbxl_splits.json", made_by="")
    facts["tasks"][0]["sha256"] = "0" * 64
    write_json(facts, artifacts / "ptbxl_splits.json")
    with pytest.raises(UserError, match=r"a was trained on other labels or splits.*02_split\.py"):
        read_labelled(artifacts, run, "test")


def test_a_new_first_task_leaves_the_runs_of_the_others_valid(tmp_path):
    artifacts = write_splits(tmp_path)
    write_run(artifacts, "a")
    write_run(artifacts, "b", task="form")
    before = {run.name: read_labelled(artifacts, run, "test") for run in find_runs(artifacts)}
    make_splits(data=artifacts / "data", artifacts=artifacts, labels=("form",))
    for run in find_runs(artifacts):
        for one, other in zip(read_labelled(artifacts, run, "test"), before[run.name], strict=True):
            pd.testing.assert_frame_equal(one, other)


def test_predictions_of_a_record_of_another_split_are_refused(tmp_path):
    artifacts = write_splits(tmp_path)
    folder = write_run(artifacts, "a")
    for kind in ("csv", "npy"):
        (folder / f"predictions_test.{kind}").write_bytes((folder / f"predictions_val.{kind}").read_bytes())
    with pytest.raises(UserError, match="is not a test record"):
        read_labelled(artifacts, find_runs(artifacts)[0], "test")


def test_labels_and_probabilities_are_joined_by_id_not_by_position(tmp_path):
    artifacts = write_splits(tmp_path)
    folder = write_run(artifacts, "a")
    (run,) = find_runs(artifacts)
    labels, probability = read_labelled(artifacts, run, "test")
    path = folder / "predictions_test.csv"
    pd.read_csv(path).iloc[::-1].to_csv(path, index=False)
    again, reversed_ = read_labelled(artifacts, run, "test")
    pd.testing.assert_frame_equal(again.loc[labels.index], labels)
    pd.testing.assert_frame_equal(reversed_.loc[labels.index], probability)
    assert (again.index == reversed_.index).all()


def test_predictions_come_back_as_they_were_written(tmp_path):
    artifacts = write_splits(tmp_path)
    write_run(artifacts, "a")
    (run,) = find_runs(artifacts)
    ids = np.array(["JS00002", "JS00001"])
    values = np.random.default_rng(0).random((2, len(run.task)))
    write_predictions(tmp_path / "b", "val", ids, values, run.task)
    stored = read_predictions(tmp_path / "b", "val", run.task)
    assert list(stored.index) == list(ids) and tuple(stored.columns) == run.task.classes
    np.testing.assert_allclose(stored, values, atol=1e-6)
    np.testing.assert_allclose(np.load(tmp_path / "b" / "predictions_val.npy"), values, atol=1e-6)
    for bad in (values[:1], values[:, :2], values * np.nan):
        with pytest.raises(ValueError, match="predictions"):
            write_predictions(tmp_path / "b", "val", ids, bad, run.task)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t[[t.columns[0], *t.columns[:0:-1]]], "columns are"),  # classes in another order
        (lambda t: t.drop(columns=t.columns[-1]), "columns are"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "twice"),
        (lambda t: t.assign(**{t.columns[2]: np.nan}), "is missing"),
    ],
)
def test_damaged_predictions_are_refused_by_file(tmp_path, damage, message):
    artifacts = write_splits(tmp_path)
    folder = write_run(artifacts, "a")
    path = folder / "predictions_test.csv"
    damage(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(UserError, match=rf"predictions_test\.csv.*{message}"):
        read_predictions(folder, "test", find_runs(artifacts)[0].task)


def test_a_class_with_one_outcome_has_no_auc_and_does_not_count_in_the_mean(tmp_path):
    artifacts = write_splits(tmp_path)
    write_run(artifacts, "a", task="form")
    (run,) = find_runs(artifacts)
    labels = np.array([[0, 1, 1, 0], [1, 1, 0, 0], [0, 1, 1, 1]])
    probability = np.array([[0.1, 0.5, 0.9, 0.2], [0.8, 0.5, 0.1, 0.3], [0.2, 0.5, 0.3, 0.1]])
    assert len(run.task) == 4
    write_validation_aucs(tmp_path / "b", labels, probability, run.task)
    table = pd.read_csv(tmp_path / "b" / "metrics.csv").set_index("label").value
    assert table[list(run.task.classes)].tolist()[:3] == pytest.approx([1, np.nan, 1], nan_ok=True)
    assert table["macro"] == pytest.approx(2 / 3)


def test_runs_of_one_model_that_differ_in_more_than_the_seed_are_refused(tmp_path):
    artifacts = write_splits(tmp_path)
    for seed, epochs in ((0, 5), (1, 5)):
        write_run(artifacts, "a", seed=seed, epochs=epochs, device=f"cuda:{seed}")
    assert [run.name for run in find_runs(artifacts)] == ["a/seed0", "a/seed1"]
    write_run(artifacts, "a", seed=1, epochs=9)
    with pytest.raises(UserError, match="epochs is 9, but 5 in a/seed0"):
        find_runs(artifacts)


@pytest.mark.parametrize(("settings", "variant"), [({}, False), ({"name": "a"}, True), ({"preset": "fast"}, True)])
def test_a_variant_is_what_somebody_named_or_made_from_a_preset(tmp_path, settings, variant):
    artifacts = write_splits(tmp_path)
    write_run(artifacts, "a", **settings)
    assert find_runs(artifacts)[0].is_variant is variant


def test_artifacts_without_a_run_name_the_scripts_that_train(tmp_path):
    with pytest.raises(UserError, match=r"run codes/04_train_baseline_ml\.py"):
        find_runs(tmp_path)


def test_the_runs_of_a_demo_below_are_not_those_of_the_folder(tmp_path):
    artifacts = write_splits(tmp_path)
    write_run(artifacts, "a")
    write_run(write_splits(tmp_path / "demo"), "b")
    assert [run.name for run in find_runs(artifacts)] == ["a"]
    assert [run.name for run in find_runs(artifacts / "demo")] == ["b"]
    assert json.loads((artifacts / "a" / "config.json").read_text())["run"] == "a"
