"""The models without a network: what they promise after they were written to disk and read back."""

import json
from pathlib import Path

import numpy as np
import pytest

from ecg.artifacts import UserError
from ecg.baselines import BASELINES, train_baselines
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


def test_a_class_without_training_records_is_an_error_that_names_it(trained: Path, synthetic: Path, tmp_path: Path):
    artifacts = prepare(synthetic, tmp_path)
    table = read_split(artifacts, "train")
    table.assign(HYP=0).to_csv(artifacts / "ptbxl_train.csv", index=False)
    with pytest.raises(UserError, match="HYP"):
        train_baselines(data=synthetic, artifacts=artifacts, task="multilabel", seed=0, **SMALL)
