"""The models without a network: what they promise after they were written to disk and read back."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import share_inputs
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from ecg.artifacts import UserError
from ecg.baselines import ALPHAS, BASELINES, choose_penalty, load_baseline, train_baselines
from ecg.labels import read_split, read_splits
from ecg.runs import Run, find_runs, read_config, read_labelled, read_predictions, task_of
from ecg.signals import load_signals
from ecg.stored_run import load_run

SMALL = {"jobs": 1, "trees": 10, "boosting_rounds": 5, "kernels": 168, "logistic_c": 1e-2}


def fit(
    artifacts: Path, *, labels: str = "", name: str = "", objective: str = "multilabel", seed: int = 0, **other
) -> None:
    settings = SMALL | {"overwrite": False} | other
    train_baselines(
        data=artifacts, artifacts=artifacts, labels=labels, name=name, objective=objective, seed=seed, **settings
    )


def predictions(folder: Path, split: str = "test") -> pd.DataFrame:
    return read_predictions(folder, split, task_of(read_config(folder)))


def stored_answers(artifacts: Path, folder: Path, n: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Return what a stored baseline answers to the first `n` test records, and what its predictions say of them."""
    stored, signals = predictions(folder).head(n), load_signals(artifacts)
    answered = load_run(folder).predict_microvolt(signals.array[signals.rows(stored.index.to_numpy())])
    return answered, stored.to_numpy()


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts with all baselines, as the script leaves them: multilabel as seed 0, multiclass as seed 1."""
    artifacts = share_inputs(prepared, tmp_path_factory.mktemp("baselines"))
    fit(artifacts)
    fit(artifacts, objective="multiclass", seed=1)
    return artifacts


@pytest.mark.parametrize("seed", ["", "seed1"])
@pytest.mark.parametrize("name", BASELINES)
def test_a_stored_baseline_predicts_a_record_as_its_predictions_say(trained, name, seed):
    answered, expected = stored_answers(trained, trained / "baseline" / name / seed)
    np.testing.assert_allclose(answered, expected, atol=1e-6)
    if seed:
        np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("split", ["val", "test"])
def test_baselines_predict_every_record_of_a_split(trained, split):
    expected = set(read_split(trained, split).ecg_id)
    for name in BASELINES:
        assert set(predictions(trained / "baseline" / name, split).index) == expected


def test_naive_answers_the_shares_of_the_training_records(trained):
    classes = list(read_splits(trained).first.classes)
    shares = read_split(trained, "train")[classes].to_numpy().mean(axis=0)
    stored = predictions(trained / "baseline/naive").to_numpy()
    np.testing.assert_allclose(stored, np.tile(shares, (len(stored), 1)), rtol=1e-6)


def test_baselines_with_other_settings_are_refused_before_anything_is_fitted(trained, artifacts):
    shutil.copytree(trained / "baseline", artifacts / "baseline")
    with pytest.raises(UserError, match=r"naive holds a run with other settings: trees 10 \(now 12\)\. .*--overwrite"):
        fit(artifacts, trees=12)
    for name in BASELINES:
        stored = (folder / "baseline" / name / "config.json" for folder in (trained, artifacts))
        assert next(stored).read_bytes() == next(stored).read_bytes(), name
    fit(artifacts, trees=12, overwrite=True)
    assert read_config(artifacts / "baseline/naive")["settings"]["trees"] == 12


def test_the_same_seed_gives_the_same_files(trained, artifacts):
    fit(artifacts)
    for name in BASELINES:
        first, second = (folder / "baseline" / name / "predictions_test.npy" for folder in (trained, artifacts))
        assert first.read_bytes() == second.read_bytes(), name


# --- other tasks ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_subclasses(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts with all baselines of the task with 23 classes, most of which few records have."""
    artifacts = share_inputs(prepared, tmp_path_factory.mktemp("subclasses"))
    fit(artifacts, labels="subdiagnostic")
    return artifacts


@pytest.mark.parametrize("name", BASELINES)
def test_a_task_of_23_classes_is_answered_in_a_folder_of_its_own(of_subclasses, name):
    task = read_splits(of_subclasses).task("subdiagnostic")
    folder = of_subclasses / "baseline_subdiagnostic" / name
    assert len(task) == 23 and task_of(read_config(folder)) == task
    answered, expected = stored_answers(of_subclasses, folder)
    assert expected.shape == (7, 23)
    np.testing.assert_allclose(answered, expected, atol=1e-6)


def test_the_runs_of_two_tasks_are_found_side_by_side(of_subclasses):
    fit(of_subclasses)
    runs = find_runs(of_subclasses)
    assert {run.name for run in runs} == {
        f"{kind}/{b}" for kind in ("baseline", "baseline_subdiagnostic") for b in BASELINES
    }
    for run in runs:
        _, probability = read_labelled(of_subclasses, run, "test")
        assert tuple(probability.columns) == run.task.classes


@pytest.fixture(scope="module")
def one_sided(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Baselines of training records of which none has the class (second value) and all have the other (third)."""
    artifacts = share_inputs(prepared, tmp_path_factory.mktemp("one_sided"))
    none, _, _, _, every = read_splits(artifacts).first.classes
    path = artifacts / "ptbxl_train.csv"
    pd.read_csv(path).assign(**{none: 0, every: 1}).to_csv(path, index=False)
    fit(artifacts)
    return artifacts, none, every


@pytest.mark.parametrize("name", BASELINES)
def test_a_class_that_all_or_no_training_records_have_is_answered_by_its_share(one_sided, name):
    artifacts, none, every = one_sided
    folder = artifacts / "baseline" / name
    assert read_config(folder)["constant"] == {none: 0, every: 1}
    run = load_run(folder)
    answered, expected = stored_answers(artifacts, folder)
    np.testing.assert_allclose(answered, expected, atol=1e-6)
    table = pd.DataFrame(answered, columns=run.task.classes)
    assert table[none].max() < 1e-6 and table[every].min() > 1 - 1e-6
    if name != "naive":
        assert table.drop(columns=[none, every]).nunique().min() > 1, "the others are learned"


def test_classes_that_cannot_be_learned_are_named(one_sided, artifacts, capsys):
    path = artifacts / "ptbxl_train.csv"
    path.write_bytes((one_sided[0] / "ptbxl_train.csv").read_bytes())
    fit(artifacts)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("all or no training records")]
    assert f"{one_sided[1]}, {one_sided[2]}:" in line


def test_a_task_without_a_class_to_learn_is_refused(artifacts):
    path = artifacts / "ptbxl_train.csv"
    pd.read_csv(path).assign(**dict.fromkeys(read_splits(artifacts).first.classes, 1)).to_csv(path, index=False)
    with pytest.raises(UserError, match="no class of superdiagnostic has training records with and without it"):
        fit(artifacts)


def test_a_named_set_of_baselines_stands_beside_the_default_one(trained, artifacts):
    fit(artifacts, name="few_trees", trees=3)
    assert read_config(artifacts / "few_trees" / "random_forest")["settings"]["trees"] == 3
    assert not (artifacts / "baseline").exists()
    assert all(isinstance(run, Run) and run.is_variant for run in find_runs(artifacts))


# --- stored files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["naive", "random_forest", "minirocket_ridge"])
def test_a_model_file_that_was_changed_is_refused(trained, tmp_path, name):
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


def test_trees_of_another_scikit_learn_are_refused(trained, tmp_path):
    for path in (trained / "baseline/random_forest").glob("[cm]*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["versions"]["scikit-learn"] = "0.1"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"scikit-learn 0\.1"):
        load_run(tmp_path)


def test_a_config_without_checksum_or_model_is_an_error_that_says_what_to_do(trained, tmp_path):
    config = json.loads((trained / "baseline/naive/config.json").read_text())
    (tmp_path / "model.npz").write_bytes((trained / "baseline/naive/model.npz").read_bytes())
    del config["sha256"]
    with pytest.raises(UserError, match=r"config\.json.*sha256.*run codes/04_train_baseline_ml\.py"):
        load_baseline(tmp_path, config)
    del config["model"]
    with pytest.raises(UserError, match=r"config\.json: model None"):
        load_baseline(tmp_path, config)


# --- choices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--seed", -1),
        ("--jobs", -1),
        ("--trees", 0),
        ("--boosting-rounds", 0),
        ("--kernels", 0),
        ("--logistic-c", 0.0),
        ("--logistic-c", float("nan")),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_their_flag(tmp_path, flag, value):
    with pytest.raises(UserError, match=f"{flag} is {value}, must be at least"):
        fit(tmp_path, **{flag.lstrip("-").replace("-", "_"): value})


@pytest.mark.parametrize(("n", "p"), [(40, 90), (90, 30)])
def test_ridge_penalty_is_chosen_on_patients_left_out(n, p):
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
    text = np.array([f"P{patient}" for patient in patients])
    assert choose_penalty(x, target, text) == chosen, "ids may be text"
