"""Calibration and the ensembles: fitted on the validation fold, and runs like any other."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_up import SIGNALS, write_run, write_splits
from scipy.special import expit, logit

from ecg.artifacts import UserError, read_json, write_json
from ecg.calibration import calibrate, fit_temperature, log_loss, logits_of
from ecg.ensemble import ensemble_name, fit_weights, write_ensembles
from ecg.labels import read_split, read_splits
from ecg.metrics import macro_auc, multilabel_metrics
from ecg.models import build
from ecg.runs import find_runs, read_config, read_labelled, read_predictions, write_predictions
from ecg.stored_run import StoredRun, load_run
from ecg.tasks import Task

RNG = np.random.default_rng(0)
LOGITS = 2 * RNG.normal(size=(4000, 5)) - 1
LABELS = (RNG.random(LOGITS.shape) < expit(LOGITS)).astype(float)


# --- temperature --------------------------------------------------------------------------------------------------


def test_temperature_mends_an_overconfident_model_and_changes_no_order():
    overconfident = expit(2.5 * LOGITS)
    temperature = fit_temperature(LABELS, overconfident, "multilabel")
    assert temperature == pytest.approx(2.5, rel=0.1)
    mended = calibrate(overconfident, temperature, "multilabel")
    np.testing.assert_allclose(mended, expit(LOGITS), atol=0.03)
    assert macro_auc(LABELS, mended) == pytest.approx(macro_auc(LABELS, overconfident), abs=1e-4)
    assert (mended.argmax(axis=1) == overconfident.argmax(axis=1)).mean() > 0.999


def test_multiclass_temperature_counts_records_of_one_class_and_sums_to_one():
    softmax = np.exp(3 * LOGITS) / np.exp(3 * LOGITS).sum(axis=1, keepdims=True)
    drawn = np.array([RNG.choice(5, p=p) for p in np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)])
    labels = np.eye(5)[drawn]
    labels[:1000] = 1  # of no one class, so of no say
    temperature = fit_temperature(labels, softmax, "multiclass")
    assert temperature == pytest.approx(3, rel=0.1)
    np.testing.assert_allclose(calibrate(softmax, temperature, "multiclass").sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "objective"),
    [
        (np.zeros((30, 5)), "multilabel"),
        (np.ones((30, 5)), "multilabel"),
        (np.zeros((0, 5)), "multilabel"),
        (np.ones((30, 5)), "multiclass"),  # no record with exactly one class
        (np.eye(5)[[2] * 30], "multiclass"),  # all of the same
    ],
)
def test_labels_that_say_nothing_leave_probabilities_and_weights_as_they_are(labels, objective):
    probability = expit(LOGITS[: len(labels)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_temperature(labels, probability, objective) == 1
        members = np.stack([LOGITS[: len(labels)], 2 * LOGITS[: len(labels)]])
        np.testing.assert_array_equal(fit_weights(labels, members, objective), [0.5, 0.5])


def test_a_class_with_one_outcome_does_not_keep_the_others_from_a_temperature():
    labels = LABELS.copy()
    labels[:, 0] = 0
    assert fit_temperature(labels, expit(2.5 * LOGITS), "multilabel") != 1


@pytest.mark.parametrize(("factor", "expected"), [(30, 5), (1 / 30, 0.2)])
def test_temperatures_stay_between_a_fifth_and_five(factor, expected):
    assert fit_temperature(LABELS, expit(factor * LOGITS), "multilabel") == pytest.approx(expected, rel=1e-3)


def test_probabilities_of_0_and_1_have_finite_logits():
    assert logits_of(np.array([[0.0, 1.0]]), "multilabel") == pytest.approx(np.log(1e6) * np.array([[-1, 1]]))
    assert logits_of(np.array([[1e-9]]), "multilabel", certain=1e-12) == pytest.approx(np.log(1e-9))


@pytest.mark.parametrize("k", [3, 23, 71])
def test_any_number_of_classes_is_calibrated(k):
    logits = 2 * np.random.default_rng(k).normal(size=(1500, k)) - 1
    labels = (np.random.default_rng(1).random(logits.shape) < expit(logits)).astype(int)
    temperature = fit_temperature(labels, expit(2 * logits), "multilabel")
    assert temperature == pytest.approx(2, rel=0.1)
    assert calibrate(expit(2 * logits), temperature, "multilabel").shape == (1500, k)


def test_logits_are_the_inverse_of_probabilities():
    np.testing.assert_allclose(logits_of(expit(LOGITS), "multilabel"), LOGITS, atol=1e-6)


def test_expected_calibration_error_by_chance_is_that_of_a_perfect_model():
    """A model whose probabilities are exactly right still shows an error, from the records being few."""
    p, weight = expit(LOGITS[:275]), np.ones((275, 1))
    drawn = []
    for _ in range(150):
        labels = (RNG.random(p.shape) < p).astype(float)
        drawn.append(multilabel_metrics(labels, p, np.full(5, 0.5), weight, classes="abcde"))
    simulated = np.mean([values["macro", "ece"][0] for values in drawn])
    assert drawn[0]["macro", "ece_by_chance"][0] == pytest.approx(simulated, rel=0.05)
    assert simulated > 0.03


# --- weights ------------------------------------------------------------------------------------------------------


def test_weights_are_a_convex_blend_that_is_at_least_as_good_as_each_member():
    noisy = [LOGITS + sd * RNG.normal(size=LOGITS.shape) for sd in (1, 1, 8)]
    weights = fit_weights(LABELS, np.stack(noisy), "multilabel")
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1)
    assert weights[2] < 0.05 and min(weights[:2]) > 0.3
    blend = log_loss(LABELS, np.tensordot(weights, noisy, 1), "multilabel")
    assert blend < min(log_loss(LABELS, member, "multilabel") for member in noisy)


def test_weights_are_those_of_least_loss_plus_the_pull_towards_equal_ones():
    n, grid = 300, np.linspace(0, 1, 1001)
    a, b = (LOGITS[:n] + sd * RNG.normal(size=(n, 5)) for sd in (1, 2))
    losses = []
    for share in grid:
        pull = 75 / n * ((share - 0.5) ** 2 + (0.5 - share) ** 2)
        losses.append(log_loss(LABELS[:n], share * a + (1 - share) * b, "multilabel") + pull)
    weights = fit_weights(LABELS[:n], np.stack([a, b]), "multilabel")
    assert weights[0] == pytest.approx(grid[np.argmin(losses)], abs=2e-3)


def test_a_member_of_less_than_a_hundredth_is_left_out():
    useless = 8 * RNG.normal(size=LOGITS.shape)
    weights = fit_weights(LABELS, np.stack([LOGITS, useless]), "multilabel")
    assert weights.tolist() == [1, 0]


def test_few_records_leave_the_weights_near_equal():
    """Where the loss alone would give nearly everything to the member that is best on them."""
    noisy = [LOGITS + sd * RNG.normal(size=LOGITS.shape) for sd in (1, 1.5, 2)]
    few, many = (fit_weights(LABELS[:n], np.stack(noisy)[:, :n], "multilabel") for n in (50, 4000))
    assert np.abs(few - 1 / 3).max() < 0.1 < np.abs(many - 1 / 3).max()


# --- one ensemble per task ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    artifacts = write_splits(tmp_path_factory.mktemp("trainings"))
    write_run(artifacts, "xresnet_standard", strength=2)
    write_run(artifacts, "xresnet_standard", seed=1, strength=2)
    write_run(artifacts, "inception_standard", strength=1.5)
    write_run(artifacts, "baseline/minirocket_ridge", model="minirocket_ridge", strength=1.5)
    write_run(artifacts, "baseline/random_forest", model="random_forest", strength=4)
    write_run(artifacts, "baseline/naive", model="naive", strength=0)
    for seed in (0, 1):
        write_run(artifacts, "xresnet_standard_form", task="form", seed=seed, strength=1.5)
    return artifacts


@pytest.fixture
def trained(trainings, tmp_path):
    """Runs of two tasks: networks and MiniRockets of the first, one model of two seeds of the second, and trees."""
    return Path(shutil.copytree(trainings, tmp_path / "artifacts"))


def members(artifacts, name: str = "ensemble") -> dict[str, float]:
    return read_config(artifacts / name)["members"]


def test_every_task_has_an_ensemble_of_the_networks_and_minirockets_trained_on_it(trained):
    write_ensembles(trained)
    splits = read_splits(trained)
    first = members(trained)
    assert set(first) == {
        "xresnet_standard",
        "xresnet_standard/seed1",
        "inception_standard",
        "baseline/minirocket_ridge",
    }
    assert sum(first.values()) == pytest.approx(1)
    assert first["xresnet_standard"] == first["xresnet_standard/seed1"], "seeds count alike"
    assert set(members(trained, "ensemble_form")) == {"xresnet_standard_form", "xresnet_standard_form/seed1"}
    assert sorted(path.name for path in trained.glob("ensemble*")) == ["ensemble", "ensemble_form"]
    for name, task in (("ensemble", splits.first), ("ensemble_form", splits.task("form"))):
        run = next(run for run in find_runs(trained) if run.name == name)
        assert run.task == task and run.config["objective"] == "multilabel"
        for split in ("val", "test"):
            labels, probability = read_labelled(trained, run, split)  # refuses labels of another task
            assert len(labels) == len(read_split(trained, split, task)) == len(probability)
        assert macro_auc(labels[list(task.classes)], probability) > 0.8


def test_the_order_of_tasks_changes_no_ensembles_name():
    tasks = [Task(name, ("a", "b"), ("a", "b"), ((), ())) for name in ("form", "superdiagnostic")]
    assert [ensemble_name(task) for task in tasks] == ["ensemble_form", "ensemble"]


def test_a_side_experiment_leaves_the_ensemble_as_it_is(trained):
    write_ensembles(trained)
    before = (trained / "ensemble/predictions_test.csv").read_bytes(), members(trained)
    write_run(trained, "narrow", name="narrow", strength=5)
    write_run(trained, "xresnet_fast_standard", preset="fast", strength=5)
    write_ensembles(trained)
    assert ((trained / "ensemble/predictions_test.csv").read_bytes(), members(trained)) == before


@pytest.mark.parametrize("variants", [("narrow",), ("narrow", "wide")])
def test_variants_alone_make_no_ensemble_and_that_is_said(tmp_path, capsys, variants):
    write_splits(tmp_path)
    for name in variants:
        write_run(tmp_path, name, name=name)
    write_ensembles(tmp_path)
    assert not (tmp_path / "ensemble").exists()
    assert "no ensemble for superdiagnostic" in capsys.readouterr().out


def test_an_ensemble_goes_when_its_members_have_gone(trained):
    write_ensembles(trained)
    for folder in (trained / "xresnet_standard_form/seed1", trained / "xresnet_standard_form"):
        for path in folder.glob("*.*"):
            path.unlink()
    write_ensembles(trained)
    assert [run.name for run in find_runs(trained) if run.config["model"] == "ensemble"] == ["ensemble"]


def test_sigmoids_and_a_softmax_are_not_blended(trained, capsys):
    write_run(trained, "resnet_softmax", objective="multiclass", strength=3)
    write_ensembles(trained)
    assert "resnet_softmax" not in members(trained)
    assert "resnet_softmax" in capsys.readouterr().out


@pytest.mark.parametrize(("key", "value"), [("limit_mv", 3.0), ("fs", 500), ("leads", ["I", "II"])])
def test_runs_of_differently_prepared_signals_are_not_blended(trained, key, value):
    config = read_json(trained / "inception_standard/config.json", made_by="07")
    config["signals"][key] = value
    write_json(config, trained / "inception_standard/config.json")
    with pytest.raises(UserError, match=rf"signals\.{key} is .*the ensemble needs one"):
        write_ensembles(trained)


def test_records_that_a_member_lacks_are_left_out_and_counted(trained, capsys):
    path = trained / "inception_standard/predictions_test.csv"
    table = pd.read_csv(path)
    table.iloc[6:].to_csv(path, index=False)
    write_ensembles(trained)
    n = len(table)
    assert f"ensemble: {n - 6} of {n} test records" in capsys.readouterr().out
    assert len(read_predictions(trained / "ensemble", "test", read_splits(trained).first)) == n - 6


def test_test_labels_have_no_part_in_the_ensemble(trained):
    """Trap 13: weights and temperature are chosen on validation only."""
    write_ensembles(trained)
    before = (trained / "ensemble/predictions_test.csv").read_bytes(), members(trained)
    path = trained / "ptbxl_test.csv"
    table, classes = pd.read_csv(path), list(read_splits(trained).first.classes)
    table[classes] = 1 - table[classes]
    table.to_csv(path, index=False)
    write_ensembles(trained)
    assert ((trained / "ensemble/predictions_test.csv").read_bytes(), members(trained)) == before


def test_predict_answers_as_the_stored_ensemble(tmp_path):
    """From signals of two networks' own making, for a task of three classes."""
    write_splits(tmp_path, labels=("rhythm",))
    task = read_splits(tmp_path).first
    signals = SIGNALS | {"n_samples": 300}
    ecg_id = {split: read_split(tmp_path, split).ecg_id.to_numpy() for split in ("val", "test")}
    microvolt = {split: RNG.integers(-900, 900, (len(ids), 12, 300), np.int16) for split, ids in ecg_id.items()}
    for name, model in (("resnet_standard", "resnet1d"), ("inception_standard", "inception")):
        folder = write_run(tmp_path, name, model=model, width=0.25)
        torch.manual_seed(len(name))
        network = build(model, signals, n_classes=len(task), width=0.25)
        torch.save({"weights": network.state_dict()}, folder / "best.pt")
        config = read_json(folder / "config.json", made_by="05") | {"signals": signals, "temperature": 1.3}
        write_json(config, folder / "config.json")
        run = load_run(folder, device="cpu", precision="fp32")
        for split, ids in ecg_id.items():
            write_predictions(folder, split, ids, run.predict_microvolt(microvolt[split]), task)
    write_ensembles(tmp_path)
    ensemble = tmp_path / "ensemble_rhythm"
    assert read_config(ensemble)["temperature"] != 1
    answers = load_run(ensemble, device="cpu", precision="fp32").predict_microvolt(microvolt["test"])
    np.testing.assert_allclose(answers, read_predictions(ensemble, "test", task), atol=2e-4)


def test_a_member_that_needs_whole_records_is_left_out_of_shorter_ones():
    """As MiniRocket is; the weights of the others add up to 1 again."""
    task = Task("superdiagnostic", tuple("abcde"), tuple("abcde"), ((),) * 5)
    config = {"model": "resnet1d", "task": task.to_json(), "objective": "multilabel", "temperature": 1.0}
    config |= {"signals": SIGNALS}

    def member(probability: float, **more: object) -> StoredRun:
        return StoredRun(config | more, lambda microvolt: np.full((len(microvolt), 5), probability))

    runs = {
        "network": member(0.1, window=250),
        "other": member(0.3, window=300),
        "minirocket": member(0.9, model="minirocket_ridge"),
    }
    weights = {"network": 0.2, "other": 0.3, "minirocket": 0.5}
    ensemble = StoredRun(config | {"members": weights, "window": 1000}, None, runs)
    assert ensemble.min_seconds == 2.5
    assert ensemble.members_for(10) == pytest.approx(weights)
    assert ensemble.members_for(9.99) == pytest.approx({"network": 0.4, "other": 0.6})
    assert ensemble.members_for(2.5) == {"network": 1}
    assert ensemble.members_for(2.49) == ensemble.members_for(10, complete=False) == {}
    for length, expected in ((250, 0.1), (999, expit(logit([0.1, 0.3]) @ [0.4, 0.6]))):
        answer = ensemble.predict_microvolt(np.zeros((2, 12, length), np.int16))
        np.testing.assert_allclose(answer, np.full((2, 5), expected), atol=1e-6)
    with pytest.raises(ValueError, match=r"2\.49 s long, the model needs at least 2\.5 s"):
        ensemble.predict_microvolt(np.zeros((2, 12, 249), np.int16))
