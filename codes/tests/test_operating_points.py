"""Thresholds by purpose: counted again record by record, chosen on the validation fold alone."""

import numpy as np
import pandas as pd
import pytest
from conftest import task_of_size
from made_up import write_run, write_splits

from ecg import plots
from ecg.artifacts import UserError, write_csv
from ecg.final_results import plots_and_metrics
from ecg.labels import read_split, read_splits
from ecg.metrics import choose_thresholds
from ecg.operating_points import COLUMNS, operating_points, read_operating_points, threshold_for
from ecg.runs import find_runs, read_labelled, write_predictions

RNG = np.random.default_rng(0)
TASK = task_of_size(3)
LABELS = (RNG.random((300, 3)) < (0.4, 0.1, 0.02)).astype(int)
PROBABILITY = np.round(1 / (1 + np.exp(2 - 2.5 * LABELS - RNG.normal(size=LABELS.shape))), 2)  # with many ties
TABLE = operating_points(LABELS, PROBABILITY, TASK)


def rates(y: np.ndarray, p: np.ndarray, threshold: float) -> tuple[float, ...]:
    """Return sensitivity, specificity, ppv and npv, counted as a reader would."""
    answer = p >= threshold
    return (
        y[answer].sum() / y.sum(),
        (~answer & (y == 0)).sum() / (y == 0).sum(),
        y[answer].mean(),
        1 - y[~answer].mean(),
    )


def test_every_class_has_f1_and_ten_sensitivities_and_specificities():
    assert tuple(TABLE.columns) == COLUMNS
    for label, rows in TABLE.groupby("label"):
        assert len(rows) == rows.purpose.nunique() == 21, label
        assert {"f1", "sensitivity=.50", "sensitivity=.99", "specificity=.50", "specificity=.99"} < set(rows.purpose)


def test_rates_are_those_of_the_records_at_the_threshold():
    for row in TABLE.itertuples():
        k = TASK.classes.index(row.label)
        y, p = LABELS[:, k], PROBABILITY[:, k]
        with np.errstate(invalid="ignore"):
            expected = rates(y, p, row.threshold)
        given = row.sensitivity, row.specificity, row.ppv, row.npv
        if (p >= row.threshold).all():  # nobody is negative, so npv is of nobody
            assert np.isnan(row.npv)
            expected, given = expected[:3], given[:3]
        assert given == pytest.approx(expected, abs=6e-5)
        assert (row.n_positive, row.n) == (y.sum(), 300)


def test_f1_threshold_is_the_one_that_stage_11_reports():
    rows = threshold_for(TABLE, "f1")
    assert [rows[label]["threshold"] for label in TASK.classes] == choose_thresholds(LABELS, PROBABILITY).tolist()


@pytest.mark.parametrize("percent", [50, 70, 90, 95, 99])
def test_sensitivity_is_reached_and_no_higher_threshold_reaches_it(percent):
    for k, row in enumerate(threshold_for(TABLE, f"sensitivity=.{percent}").values()):
        y, p = LABELS[:, k], PROBABILITY[:, k]
        above = np.unique(p)[np.unique(p) > row["threshold"]]
        assert 100 * y[p >= row["threshold"]].sum() >= percent * y.sum()
        assert all(100 * y[p >= higher].sum() < percent * y.sum() for higher in above)


@pytest.mark.parametrize("percent", [50, 80, 95])
def test_specificity_is_reached_and_no_lower_threshold_reaches_it(percent):
    for k, row in enumerate(threshold_for(TABLE, f"specificity=.{percent}").values()):
        others = PROBABILITY[LABELS[:, k] == 0, k]
        below = [p for p in np.unique(PROBABILITY[:, k]) if p < row["threshold"]]
        assert 100 * (others < row["threshold"]).sum() >= percent * len(others)
        assert all(100 * (others < lower).sum() < percent * len(others) for lower in below)


def test_nine_of_ten_is_a_sensitivity_of_nine_tenths():
    """As floating-point numbers, 0.9 * 10 could be a little more than 9."""
    y, p = np.r_[np.ones(10, int), np.zeros(10, int)][:, None], np.linspace(1, 0.05, 20)[:, None]
    row = threshold_for(operating_points(y, p, task_of_size(1)), "sensitivity=.9")["C00"]
    assert row["threshold"] == p[8, 0] and row["sensitivity"] == 0.9


@pytest.mark.parametrize("spelling", ["sensitivity=.9", "sensitivity=0.9", "sensitivity=.90", "sensitivity=0.900"])
def test_a_purpose_can_be_spelt_as_people_do(spelling):
    assert threshold_for(TABLE, spelling) == threshold_for(TABLE, "sensitivity=.90")


@pytest.mark.parametrize(
    "purpose",
    ["", "F1", "0.5", "sensitivity", "sensitivity=", "sensitivity=90", "sensitivity=.905", "sensitivity=.49",
     "sensitivity=1", "specificity=1.0", "accuracy=.9", "sensitivity=nan", "sensitivity=.9 "],
)  # fmt: skip
def test_any_other_purpose_is_refused_with_those_there_are(purpose):
    with pytest.raises(UserError, match=r"use f1, sensitivity=\.9 or specificity=\.95"):
        threshold_for(TABLE, purpose)


def test_a_class_without_positives_has_no_threshold():
    labels = LABELS.copy()
    labels[:, 1] = 0
    table = operating_points(labels, PROBABILITY, TASK)
    for purpose in ("f1", "sensitivity=.9", "specificity=.9"):
        rows = threshold_for(table, purpose)
        assert np.isnan(rows["C01"]["threshold"]) and rows["C01"]["n_positive"] == 0
        assert np.isfinite(rows["C00"]["threshold"])


def test_a_model_that_answers_all_alike_reaches_sensitivities_but_no_specificity():
    table = operating_points(LABELS, np.full(LABELS.shape, 0.3), TASK)
    row = threshold_for(table, "sensitivity=.9")["C00"]
    assert (row["threshold"], row["sensitivity"], row["specificity"]) == (0.3, 1, 0)
    assert np.isnan(threshold_for(table, "specificity=.9")["C00"]["threshold"])


def test_a_table_without_the_purpose_says_how_to_make_it_again():
    with pytest.raises(UserError, match=r"C01.*11_plots_and_metrics"):
        threshold_for(TABLE[(TABLE.label != "C01") | (TABLE.purpose != "f1")], "f1")


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """What 11 leaves, figures aside: a run of two seeds on the superclasses, one on `all`, and their ensemble."""
    names = ("roc", "precision_recall", "calibration", "forest", "class_auc", "histories")
    for name in names:
        monkeypatch.setattr(plots, f"plot_{name}", lambda *arguments: None)
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: write_csv(pd.DataFrame(), path))
    write_splits(tmp_path)
    for seed in (0, 1):
        write_run(tmp_path, "resnet_standard", seed=seed, strength=1.5)
    write_run(tmp_path, "xresnet_standard", strength=2.0)
    write_run(tmp_path, "xresnet_standard_all", task="all", strength=2.0)
    plots_and_metrics(data=tmp_path, artifacts=tmp_path, replicates=2, seed=0)
    return tmp_path


def test_stage_11_writes_the_table_of_every_run_for_its_own_task(finished):
    runs = find_runs(finished)
    assert {run.config["model"] for run in runs} == {"resnet1d", "ensemble"}
    for run in runs:
        table = read_operating_points(run.folder, run.task)
        labels, probability = read_labelled(finished, run, "val")
        expected = operating_points(labels[list(run.task.classes)].to_numpy(), probability.to_numpy(), run.task)
        pd.testing.assert_frame_equal(table, expected, check_dtype=False)
    assert len(list(finished.glob("**/operating_points.csv"))) == len(runs)


def test_the_test_fold_has_no_part_in_the_thresholds(finished):
    run = finished / "resnet_standard"
    before = (run / "operating_points.csv").read_bytes()
    task = read_splits(finished).first
    ecg_id = read_split(finished, "test", task).ecg_id.to_numpy()
    write_predictions(run, "test", ecg_id, np.random.default_rng(1).random((len(ecg_id), len(task))), task)
    plots_and_metrics(data=finished, artifacts=finished, replicates=2, seed=0)
    assert (run / "operating_points.csv").read_bytes() == before


def test_a_missing_table_and_one_of_other_classes_are_refused(tmp_path):
    with pytest.raises(UserError, match="run codes/11_plots_and_metrics"):
        read_operating_points(tmp_path, TASK)
    write_csv(TABLE, tmp_path / "operating_points.csv")
    assert len(read_operating_points(tmp_path, TASK)) == len(TABLE)
    with pytest.raises(UserError, match="other classes"):
        read_operating_points(tmp_path, task_of_size(4))
