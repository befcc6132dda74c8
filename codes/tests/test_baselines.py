"""The models without a network: what they promise after they were written to disk and read back."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from ecg.artifacts import UserError
from ecg.baselines import ALPHAS, BASELINES, choose_penalty, cores, load_baseline, train_baselines
from ecg.data import load_signals, preprocess
from ecg.labels import CLASSES, make_splits, read_split
from ecg.predictions import read_predictions
from ecg.predictor import load_run

SMALL = {"jobs": 1, "trees": 10, "boosting_rounds": 5, "kernels": 168, "logistic_c": 1e-2}


def prepare(data: Path, artifacts: Path) -> Path:
    make_splits(data=data, artifacts=artifacts, split="folds", label_policy="any")
    preprocess(data=data, artifacts=artifacts, sampling_rate=100, band=(0.5, 40.0), limit_mv=8.0, strict=True)
    return artifacts


@pytest.fixture(scope="module")
def trained(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts with all baselines, as the script leaves them: multilabel as seed 0, multiclass as seed 1."""
    artifacts = prepare(synthetic, tmp_path_factory.mktemp("baselines"))
    train_baselines(data=synthetic, artifacts=artifacts, task="multilabel", seed=0, **SMALL)
    train_baselines(data=synthetic, artifacts=artifacts, task="multiclass", seed=1, **SMALL)
    return artifacts


@pytest.mark.parametrize("seed", ["", "seed1"])
@pytest.mark.parametrize("name", BASELINES)
def test_a_stored_baseline_predicts_a_record_as_its_predictions_say(trained: Path, name: str, seed: str):
    folder = trained / "baseline" / name / seed
    stored = read_predictions(folder, "test")
    signals = load_signals(trained)
    predictor = load_run(folder)
    expected = stored.to_numpy()
    some = predictor.predict_prepared(signals.array[signals.rows(stored.index.to_numpy())][:7])
    np.testing.assert_allclose(some, expected[:7], atol=1e-6)
    if seed:
        np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("split", ["val", "test"])
def test_baselines_predict_every_record_of_a_split(trained: Path, split: str):
    expected = set(read_split(trained, split).ecg_id)
    for name in BASELINES:
        assert set(read_predictions(trained / "baseline" / name, split).index) == expected


def test_naive_answers_the_shares_of_the_training_records(trained: Path):
    shares = read_split(trained, "train")[list(CLASSES)].to_numpy().mean(axis=0)
    stored = read_predictions(trained / "baseline/naive", "test").to_numpy()
    np.testing.assert_allclose(stored, np.tile(shares, (len(stored), 1)), rtol=1e-6)


def test_the_same_seed_gives_the_same_files(trained: Path, synthetic: Path, tmp_path: Path):
    again = prepare(synthetic, tmp_path)
    train_baselines(data=synthetic, artifacts=again, task="multilabel", seed=0, **SMALL)
    for name in BASELINES:
        first, second = (folder / "baseline" / name / "predictions_test.npy" for folder in (trained, again))
        assert first.read_bytes() == second.read_bytes(), name


@pytest.mark.parametrize("name", ["naive", "random_forest", "minirocket_ridge"])
def test_a_model_file_that_was_changed_is_refused(trained: Path, tmp_path: Path, name: str):
    folder = trained / "baseline" / name
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    model = next(tmp_path.glob("model.*"))
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    with pytest.raises(UserError, match="SHA-256"):
        load_run(tmp_path)
    model.unlink()
    with pytest.raises(UserError, match=r"needs .*model.*run codes/04_train_baseline_ml.py"):
        load_run(tmp_path)


def test_trees_of_another_scikit_learn_are_refused(trained: Path, tmp_path: Path):
    for path in (trained / "baseline/random_forest").glob("[cm]*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["versions"]["scikit-learn"] = "0.1"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"scikit-learn 0\.1"):
        load_run(tmp_path)


def test_a_config_without_checksum_or_model_is_an_error_that_says_what_to_do(trained: Path, tmp_path: Path):
    config = json.loads((trained / "baseline/naive/config.json").read_text())
    (tmp_path / "model.npz").write_bytes((trained / "baseline/naive/model.npz").read_bytes())
    del config["sha256"]
    with pytest.raises(UserError, match=r"config\.json.*sha256.*run codes/04_train_baseline_ml\.py"):
        load_baseline(tmp_path, config)
    del config["model"]
    with pytest.raises(UserError, match=r"config\.json: model None"):
        load_baseline(tmp_path, config)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("--seed", -1), ("--jobs", -1), ("--trees", 0), ("--boosting-rounds", 0), ("--kernels", 0)),
        *(("--logistic-c", 0.0), ("--logistic-c", float("nan"))),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_their_flag(tmp_path: Path, flag: str, value: float):
    values = {"task": "multilabel", "seed": 0, **SMALL, flag.lstrip("-").replace("-", "_"): value}
    with pytest.raises(UserError, match=f"{flag} is {value}, must be at least"):
        train_baselines(data=tmp_path, artifacts=tmp_path, **values)


@pytest.mark.parametrize(("n", "p"), [(40, 90), (90, 30)])
def test_ridge_penalty_is_chosen_on_patients_left_out(n: int, p: int):
    rng = np.random.default_rng(2)
    patients = rng.permutation(np.arange(n) // 3)
    x = 3 * rng.normal(size=(n, p)) + 2 * rng.normal(size=(n, p))[patients]  # records of a patient are alike
    target = np.sign(x @ rng.normal(size=(p, 2)) + 8 * rng.normal(size=(n, 2))[patients])

    def error(alpha: float) -> float:
        left_out = cross_val_predict(Ridge(alpha), x, target, groups=patients, cv=LeaveOneGroupOut())
        return ((left_out - target) ** 2).sum()

    errors, chosen = [error(alpha) for alpha in ALPHAS], choose_penalty(x, target, patients)
    assert chosen == ALPHAS[np.argmin(errors)]
    assert ALPHAS[0] < chosen < ALPHAS[-1]


def test_threads_are_the_processors_allowed_and_no_more_than_omp_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for limit, expected in (("", 3), ("2", 2), ("8", 3), ("2,4", 2), ("0", 3), ("many", 3)):
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
        assert cores() == expected, limit
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == 64


def test_a_class_without_training_records_is_an_error_that_names_it(trained: Path, synthetic: Path, tmp_path: Path):
    artifacts = prepare(synthetic, tmp_path)
    table = read_split(artifacts, "train")
    table.assign(HYP=0).to_csv(artifacts / "ptbxl_train.csv", index=False)
    with pytest.raises(UserError, match="HYP"):
        train_baselines(data=synthetic, artifacts=artifacts, task="multilabel", seed=0, **SMALL)
