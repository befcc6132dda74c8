"""Calibration and the ensemble: fitted on the validation fold, and a run like any other."""

import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from ecg.artifacts import UserError, read_json, write_json
from ecg.baselines import train_baselines
from ecg.calibration import calibrate, fit_temperature, log_loss, logits_of
from ecg.data import load_signals
from ecg.ensemble import fit_weights, write_ensemble
from ecg.final_results import plots_and_metrics
from ecg.labels import CLASSES, read_split
from ecg.metrics import macro_auc, multilabel_metrics
from ecg.predictions import read_predictions
from ecg.predictor import load_run
from ecg.training import train

RNG = np.random.default_rng(0)
LOGITS = 2 * RNG.normal(size=(4000, 5)) - 1
LABELS = (RNG.random(LOGITS.shape) < expit(LOGITS)).astype(float)


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


def test_expected_calibration_error_by_chance_is_that_of_a_perfect_model():
    """A model whose probabilities are exactly right still shows an error, from the records being few."""
    p, weight = expit(LOGITS[:275]), np.ones((275, 1))
    drawn = [
        multilabel_metrics((RNG.random(p.shape) < p).astype(float), p, np.full(5, 0.5), weight) for _ in range(300)
    ]
    simulated = np.mean([values["macro", "ece"][0] for values in drawn])
    assert drawn[0]["macro", "ece_by_chance"][0] == pytest.approx(simulated, rel=0.05)
    assert simulated > 0.03


def test_weights_are_a_convex_blend_that_is_at_least_as_good_as_each_member():
    noisy = [LOGITS + sd * RNG.normal(size=LOGITS.shape) for sd in (1, 1, 8)]
    weights = fit_weights(LABELS, np.stack(noisy), "multilabel")
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1)
    assert weights[2] < 0.05 and min(weights[:2]) > 0.3
    blend = log_loss(LABELS, np.tensordot(weights, noisy, 1), "multilabel")
    assert blend < min(log_loss(LABELS, member, "multilabel") for member in noisy)


def test_few_records_leave_the_weights_near_equal():
    """Where the loss alone would give nearly everything to the member that is best on them."""
    noisy = [LOGITS + sd * RNG.normal(size=LOGITS.shape) for sd in (1, 1.5, 2)]
    few, many = (fit_weights(LABELS[:n], np.stack(noisy)[:, :n], "multilabel") for n in (50, 4000))
    assert np.abs(few - 1 / 3).max() < 0.1 < np.abs(many - 1 / 3).max()


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    """Two networks, one of them with two seeds, the baselines, and what 11 makes of them."""
    artifacts = tmp_path_factory.mktemp("ensemble")
    (artifacts / "signals").symlink_to(prepared / "signals")
    for path in prepared.glob("ptbxl_*"):
        (artifacts / path.name).write_bytes(path.read_bytes())
    options = {"epochs": 3, "batch_size": 32, "precision": "fp32", "device": "cpu", "artifacts": artifacts}
    train(model="xresnet1d", name="xresnet", **options)
    train(model="xresnet1d", name="xresnet", seed=1, **options)
    train(model="inception", name="inception", **options)
    small = {"jobs": 1, "trees": 5, "boosting_rounds": 2, "kernels": 84, "logistic_c": 1e-3}
    train_baselines(data=artifacts, artifacts=artifacts, task="multilabel", seed=0, **small)
    plots_and_metrics(data=artifacts, artifacts=artifacts, replicates=20, seed=0)
    return artifacts


def test_the_ensemble_is_a_run_like_any_other(trained):
    metrics = pd.read_csv(trained / "final_results/metrics.csv")
    assert "ensemble" in set(metrics.run)
    assert "ensemble" in read_json(trained / "final_results/thresholds.json", made_by="11")
    config = read_json(trained / "ensemble/config.json", made_by="11")
    members = config["members"]
    assert sum(members.values()) == pytest.approx(1, abs=1e-4)
    rockets = {"baseline/minirocket_ridge", "baseline/minirocket_logistic"}
    assert set(members) == {"xresnet_standard", "xresnet_standard/seed1", "inception_standard"} | rockets
    assert members["xresnet_standard"] == members["xresnet_standard/seed1"], "seeds count alike"
    assert config["window"] == 1000, "what its slowest member, MiniRocket, must see"


def test_runs_of_differently_filtered_signals_are_not_blended(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "a", symlinks=True)
    config = read_json(tmp_path / "a/inception_standard/config.json", made_by="07")
    config["signals"]["limit_mv"] = 3.0
    write_json(config, tmp_path / "a/inception_standard/config.json")
    with pytest.raises(UserError, match=r"signals\.limit_mv is .*the ensemble needs one"):
        write_ensemble(tmp_path / "a")


def test_predict_answers_as_the_stored_ensemble(trained):
    signals, table = load_signals(trained), read_split(trained, "test").head(8)
    run = load_run(trained / "ensemble", device="cpu", precision="fp32")
    answers = run.predict_prepared(signals.array[signals.rows(table.ecg_id.to_numpy())])
    np.testing.assert_allclose(answers, read_predictions(trained / "ensemble", "test").loc[table.ecg_id], atol=2e-4)


def test_predict_answers_as_the_calibrated_network(trained):
    signals, table = load_signals(trained), read_split(trained, "test").head(8)
    folder = trained / "inception_standard"
    assert read_json(folder / "config.json", made_by="07")["temperature"] != 1
    answers = load_run(folder, device="cpu", precision="fp32").predict_prepared(
        signals.array[signals.rows(table.ecg_id.to_numpy())]
    )
    np.testing.assert_allclose(answers, read_predictions(folder, "test").loc[table.ecg_id], atol=1e-4)


def test_test_labels_have_no_part_in_the_ensemble(trained):
    """Trap 13: weights and temperature are chosen on validation only."""
    before = read_predictions(trained / "ensemble", "test")
    path = trained / "ptbxl_test.csv"
    table = pd.read_csv(path)
    table[list(CLASSES)] = 1 - table[list(CLASSES)]
    table.to_csv(path, index=False)
    write_ensemble(trained)
    pd.testing.assert_frame_equal(before, read_predictions(trained / "ensemble", "test"))


def test_logits_are_the_inverse_of_probabilities():
    np.testing.assert_allclose(logits_of(expit(LOGITS), "multilabel"), LOGITS, atol=1e-6)
