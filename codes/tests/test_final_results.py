"""11 and 12 from made-up predictions: the tables say what was planted, for every task that a run answers."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CODES
from made_up import draw, statement_list, write_run, write_splits
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from sklearn import metrics as reference

from ecg import plots
from ecg.artifacts import UserError, read_json, write_csv, write_json
from ecg.final_results import EVALUATED, class_table, compare_runs, plots_and_metrics, read_runs
from ecg.labels import read_split, read_splits
from ecg.metrics import WITHOUT_INTERVAL
from ecg.runs import find_runs, read_config, write_predictions
from ecg.stats import PAIR_COLUMNS, RESULT_COLUMNS, Evaluation, compare_pairs, has_multiclass_view, measure_runs
from ecg.tasks import Task

FIRST = "superdiagnostic"
FIGURES_11 = {"roc_curves.png", "pr_curves.png", "calibration.png", "forest.png", "per_class_auc.png"}
FIGURES_12 = {"confusion_matrices.png", "pairwise.png"}
TABLES = {
    "metrics.csv",
    "final_metrics_report.csv",
    "classes.csv",
    "thresholds.json",
    "pairwise.csv",
    "pairwise.md",
    "confusion_counts.csv",
}


def results(artifacts: Path, *, replicates: int = 30) -> Path:
    plots_and_metrics(data=artifacts, artifacts=artifacts, replicates=replicates, seed=0)
    return artifacts / "final_results"


def comparison(artifacts: Path, *, replicates: int = 30) -> Path:
    compare_runs(data=artifacts, artifacts=artifacts, replicates=replicates, seed=0)
    return artifacts / "final_results"


def leave_out_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("roc", "precision_recall", "calibration", "forest", "class_auc", "histories", "confusion", "pairwise"):
        monkeypatch.setattr(plots, f"plot_{name}", lambda *arguments: None)
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: write_csv(pd.DataFrame(), path))


@pytest.fixture
def no_figures(monkeypatch):
    """Figures take most of the time, and are tested elsewhere."""
    leave_out_figures(monkeypatch)


def value(table: pd.DataFrame, run: str, view: str, label: str, metric: str, task: str = FIRST) -> pd.Series:
    keys = {"run": run, "task": task, "split": "test", "view": view, "label": label, "metric": metric}
    rows = table[(table[list(keys)] == pd.Series(keys)).all(axis=1)]
    assert len(rows) == 1, keys
    return rows.iloc[0]


def tables(artifacts: Path, *, replicates: int = 30) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return metrics and pairs of all tasks, without a figure or a file."""
    found = read_runs(artifacts)
    metrics = [measure_runs(of_task, replicates=replicates, seed=0) for of_task in found]
    pairs = [compare_pairs(of_task, replicates=replicates, seed=0) for of_task in found]
    return pd.concat(metrics, ignore_index=True), pd.concat(pairs, ignore_index=True)


def evaluations(artifacts: Path, run: str) -> dict[str, Evaluation]:
    """Return {task: evaluation} of one run."""
    found = {}
    for of_task in read_runs(artifacts):
        for evaluation in of_task.evaluations:
            if evaluation.run.name == run:
                found[of_task.task.name] = evaluation
    return found


def swap_labels(path: Path, classes: list[str]) -> None:
    table = pd.read_csv(path)
    table[classes] = 1 - table[classes]
    table.to_csv(path, index=False)


# --- all of it, once ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Runs of three tasks, and what 11 and 12 make of them. Two seeds of one network, and one trained on `all`."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    write_splits(artifacts)
    write_run(artifacts, "baseline/naive", model="naive", strength=0.0)
    for seed in (0, 1):
        write_run(artifacts, "resnet_standard", seed=seed, strength=1.5, history=True)
    write_run(artifacts, "resnet_augmented", strength=2.0, history=True)
    write_run(artifacts, "narrow", strength=1.0, name="narrow", history=True)
    write_run(artifacts, "xresnet_standard_all", task="all", strength=2.0)
    write_run(artifacts, "resnet_standard_form", task="form", strength=1.5)
    with pytest.MonkeyPatch.context() as monkeypatch:
        leave_out_figures(monkeypatch)
        results(artifacts)
        comparison(artifacts)
    return artifacts


def test_metrics_table_is_tidy_and_holds_scikit_learns_values(finished):
    table = pd.read_csv(finished / "final_results/metrics.csv")
    assert tuple(table.columns) == RESULT_COLUMNS
    assert not table.duplicated(["run", "task", "split", "view", "label", "metric"]).any()
    for name, task in read_splits(finished).tasks.items():
        assert set(table.label[table.task == name]) - {"macro", "macro5"} == set(task.classes)
    ece = table[table.metric.isin(WITHOUT_INTERVAL)]  # noise can only raise it: an interval would lie too high
    assert ece.value.notna().all() and ece[["ci_low", "ci_high"]].isna().all(axis=None)
    others = table[table.ci_low.notna()]
    assert others.value.between(others.ci_low, others.ci_high).mean() > 0.98
    labels = read_split(finished, "test").set_index("ecg_id")
    probability = pd.read_csv(finished / "resnet_augmented/predictions_test.csv", index_col="ecg_id")
    y = labels.loc[probability.index, list(probability.columns)].to_numpy()
    auc = value(table, "resnet_augmented", "multilabel", "macro", "auc")
    assert auc.value == pytest.approx(reference.roc_auc_score(y, probability), abs=1e-6)
    assert (auc.n, auc.classes) == (len(labels), 5)
    one = y.sum(axis=1) == 1
    accuracy = value(table, "resnet_augmented", "multiclass", "macro", "accuracy")
    right = reference.accuracy_score(y[one].argmax(axis=1), probability[one].to_numpy().argmax(axis=1))
    assert accuracy.value == pytest.approx(right, abs=1e-6) and accuracy.n == one.sum()


def test_mean_over_seeds_stands_under_the_bare_name_with_a_narrower_interval(finished):
    table = pd.read_csv(finished / "final_results/metrics.csv")
    single = [value(table, f"resnet_standard/seed{s}", "multilabel", "macro", "auc") for s in (0, 1)]
    mean = value(table, "resnet_standard", "multilabel", "macro", "auc")
    assert mean.value == pytest.approx(np.mean([s.value for s in single]), abs=2e-6)
    assert mean.ci_high - mean.ci_low < np.mean([s.ci_high - s.ci_low for s in single])


def test_report_has_a_row_per_task_model_and_seed_with_interval_and_n(finished):
    report = pd.read_csv(finished / "final_results/final_metrics_report.csv")
    assert list(dict.fromkeys(report.task)) == list(read_splits(finished).tasks)
    first = report[report.task == FIRST].set_index("run")
    areas = [float(text.split()[0]) for text in first["macro AUC"][~first.index.str.contains("/seed")]]
    assert areas == sorted(areas, reverse=True)  # best first
    assert first.seeds["resnet_standard"] == 2 and first.seeds["resnet_standard/seed0"] == 1
    assert first["macro AUC"].str.fullmatch(r"0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\]").all()
    assert first["ECE"].astype(str).str.fullmatch(r"0\.\d+").all()
    assert (first.n == len(read_split(finished, "test"))).all() and (first.classes == 5).all()


def test_figures_of_the_first_task_are_where_they_were_and_of_others_in_folders(finished):
    folder = finished / "final_results"
    here = {path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("confusion_matrix_")}
    assert here == FIGURES_11 | FIGURES_12 | TABLES | {"histories.png"}
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == sorted(
        name for name in read_splits(finished).tasks if name != FIRST
    )
    for task in read_splits(finished).tasks.values():
        inside = folder if task.name == FIRST else folder / task.name
        labels = read_split(finished, "test", task)[list(task.classes)].to_numpy()
        expected = FIGURES_11 | FIGURES_12
        if not has_multiclass_view(labels):
            expected = expected - {"confusion_matrices.png"}
            assert not list(inside.glob("confusion_matrix_*.csv"))
        assert {path.name for path in inside.glob("*.png")} - {"histories.png"} == expected
    assert not has_multiclass_view(read_split(finished, "test", task)[list(task.classes)].to_numpy()), "all: the last"


def test_confusion_matrices_are_per_run_and_task_with_the_classes_of_the_task(finished):
    folder = finished / "final_results"
    for name in (
        "baseline_naive",
        "resnet_standard_seed0",
        "resnet_standard_seed1",
        "xresnet_standard_all",
        "ensemble",
    ):
        matrix = pd.read_csv(folder / f"confusion_matrix_{name}.csv", index_col="true")
        classes = list(read_splits(finished).first.classes)
        assert list(matrix.index) == list(matrix.columns) == classes
    form = pd.read_csv(folder / "form/confusion_matrix_resnet_standard_form.csv", index_col="true")
    assert list(form.index) == list(form.columns) == list(read_splits(finished).task("form").classes)
    table = read_split(finished, "test", read_splits(finished).task("form"))
    assert form.to_numpy().sum() == (table.label != "").sum()


def test_pairs_cover_every_label_and_count_discordant_records(finished):
    pairs = pd.read_csv(finished / "final_results/pairwise.csv")
    assert tuple(pairs.columns) == PAIR_COLUMNS
    pairs = pairs[pairs.task == FIRST]
    names = {"baseline/naive", "ensemble", "narrow", "resnet_augmented", "resnet_standard", "xresnet_standard_all"}
    assert {*pairs.run_a, *pairs.run_b} == names  # no seeds
    assert (pairs.groupby(["view", "label"]).size() == 15).all()
    shown = pairs[pairs.ci_low.notna()]
    assert shown["diff"].between(shown.ci_low, shown.ci_high).mean() > 0.98
    assert (pairs.p_delong_holm.dropna() >= pairs.p_delong.dropna()).all()
    assert (pairs.p_holm >= pairs.p_mcnemar).all() and (pairs.b + pairs.c <= pairs.n).all()
    keys = {"run_a": "baseline/naive", "run_b": "resnet_augmented", "view": "multiclass", "label": "macro"}
    row = pairs[(pairs[list(keys)] == pd.Series(keys)).all(axis=1)].iloc[0]
    matrix = {
        name: pd.read_csv(finished / f"final_results/confusion_matrix_{name}.csv", index_col="true").to_numpy()
        for name in ("baseline_naive", "resnet_augmented")
    }
    assert row.b - row.c == np.trace(matrix["baseline_naive"]) - np.trace(matrix["resnet_augmented"])
    assert row.p_delong < 1e-3 and row.p_mcnemar < 0.01


def test_pairs_compare_the_mean_over_seeds_that_the_metrics_table_shows(finished):
    pairs = pd.read_csv(finished / "final_results/pairwise.csv")
    metrics = pd.read_csv(finished / "final_results/metrics.csv").set_index(["run", "task", "view", "label"])
    metrics = metrics[(metrics.split == "test") & (metrics.metric == "auc")].sort_index()
    for row in pairs.itertuples():
        for name, area in ((row.run_a, row.auc_a), (row.run_b, row.auc_b)):
            found = metrics.loc[(name, row.task, row.view, row.label)]
            assert found.value == pytest.approx(area, abs=1e-6, nan_ok=True), row
            assert found.classes == row.classes or row.label not in ("macro", "macro5")
        assert row.diff == pytest.approx(row.auc_a - row.auc_b, nan_ok=True)


def test_confusion_counts_at_the_frozen_thresholds_add_up(finished):
    counts = pd.read_csv(finished / "final_results/confusion_counts.csv")
    thresholds = read_json(finished / "final_results/thresholds.json", made_by="11")
    assert list(thresholds) == list(read_splits(finished).tasks)
    counts = counts[counts.task == FIRST]
    labels = read_split(finished, "test").set_index("ecg_id")
    assert (counts[["tp", "fp", "fn", "tn"]].sum(axis=1) == len(labels)).all()
    own = [run for run in find_runs(finished) if run.task.name == FIRST]
    for run in own:  # what is stored calls the records that were counted
        predicted = pd.read_csv(run.folder / "predictions_test.csv").set_index("ecg_id")
        for row in counts[counts.run == run.name].itertuples():
            assert row.threshold == thresholds[FIRST][run.name][row.label]
            positive, truth = predicted[row.label] >= row.threshold, labels[row.label].loc[predicted.index] == 1
            assert ((positive & truth).sum(), (positive & ~truth).sum()) == (row.tp, row.fp), row


def test_pairwise_text_names_the_tasks_with_their_sizes(finished):
    text = (finished / "final_results/pairwise.md").read_text(encoding="utf-8")
    for name, task in read_splits(finished).tasks.items():
        assert re.search(rf"\| {name} \| {len(task)} \| {len(read_split(finished, 'test', task))} \|", text)
    assert "five answers" not in text and "30 resamples" in text


# --- one run, several answers -------------------------------------------------------------------------------------


def slow_answer(artifacts: Path, name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return ({split: labels}, {split: probabilities}) of the run `everything` for a task, step by step."""
    task, everything = (read_splits(artifacts).task(chosen) for chosen in (name, "all"))
    labels, answers = {}, {}
    for split in EVALUATED:
        table = read_split(artifacts, split, task)
        stored = pd.read_csv(artifacts / f"everything/predictions_{split}.csv", index_col="ecg_id")
        assert tuple(stored.columns) == everything.classes
        rows = []
        for ecg_id in table.ecg_id:
            of_record, row = stored.loc[ecg_id].to_dict(), []
            for statements in task.statements:
                none = 1.0
                for statement in statements:
                    none *= 1 - of_record[statement]
                row.append(1 - none)
            rows.append(row)
        labels[split], answers[split] = table[list(task.classes)].to_numpy(), np.array(rows)
    return labels, answers


@pytest.mark.parametrize("name", ["superdiagnostic", "subdiagnostic", "diagnostic", "form", "rhythm"])
def test_a_run_on_all_answers_the_other_five_tasks_as_a_direct_computation_does(everything, name):
    artifacts, answered = everything
    labels, slow = slow_answer(artifacts, name)
    logit = {split: np.log(p / (1 - p)) for split, p in slow.items()}

    def loss(temperature: float) -> float:
        p = 1 / (1 + np.exp(-logit["val"] / temperature))
        return reference.log_loss(labels["val"].ravel(), p.ravel())

    temperature = minimize_scalar(loss, bounds=(0.2, 5), method="bounded", options={"xatol": 1e-8}).x
    evaluation = answered[name]
    assert evaluation.temperature == pytest.approx(temperature, rel=1e-3)
    for split in EVALUATED:
        expected = 1 / (1 + np.exp(-logit[split] / evaluation.temperature))
        np.testing.assert_allclose(evaluation.probability[split], expected, atol=1e-9)
        np.testing.assert_array_equal(evaluation.labels[split], labels[split])
    for i, threshold in enumerate(evaluation.thresholds):
        p, y = evaluation.probability["val"].to_numpy()[:, i], labels["val"][:, i]
        positive = p >= p[:, None]  # (candidates, n)
        f1 = 2 * (positive & (y == 1)).sum(axis=1) / (positive.sum(axis=1) + y.sum())
        assert reference.f1_score(y, p >= threshold) == pytest.approx(f1.max())


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> tuple[Path, dict[str, Evaluation]]:
    artifacts = write_splits(tmp_path_factory.mktemp("everything"))
    write_run(artifacts, "everything", task="all", strength=2.0)
    return artifacts, evaluations(artifacts, "everything")


def test_a_run_is_measured_on_every_task_that_its_classes_make_up(everything):
    artifacts, answered = everything
    assert list(answered) == list(read_splits(artifacts).tasks)
    table = tables(artifacts)[0]
    for name, evaluation in answered.items():
        y, p = evaluation.labels["test"].to_numpy(), evaluation.probability["test"].to_numpy()
        auc = value(table, "everything", "multilabel", "macro", "auc", task=name)
        assert auc.value == pytest.approx(reference.roc_auc_score(y, p), abs=1e-9) and auc.n == len(y)
        f1 = reference.f1_score(y, p >= evaluation.thresholds, average="macro")
        assert value(table, "everything", "multilabel", "macro", "f1", task=name).value == pytest.approx(f1)
        assert has_multiclass_view(y) == ("multiclass" in set(table["view"][table.task == name]))


def test_a_runs_own_task_keeps_its_stored_probabilities(everything):
    artifacts, answered = everything
    own = answered["all"]
    stored = pd.read_csv(artifacts / "everything/predictions_test.csv", index_col="ecg_id")
    pd.testing.assert_frame_equal(own.probability["test"], stored)
    assert own.temperature == 1 and own.is_own and not answered["form"].is_own


def test_a_temperature_makes_no_two_records_equal(tmp_path):
    """Rare classes live on the order of tiny probabilities."""
    write_splits(tmp_path)
    folder, task = write_run(tmp_path, "everything", task="all"), read_splits(tmp_path).task("all")
    ids = read_split(tmp_path, "test", task).ecg_id.to_numpy()
    tiny = np.repeat(np.linspace(1e-9, 1e-7, len(ids))[:, None], len(task), axis=1)
    write_predictions(folder, "test", ids, tiny, task)
    answered = evaluations(tmp_path, "everything")["form"].probability["test"]
    assert (answered.nunique() == len(answered)).all()


def test_a_softmax_answers_its_own_task_alone(tmp_path):
    write_splits(tmp_path)
    write_run(tmp_path, "everything", task="all", objective="multiclass")
    assert list(evaluations(tmp_path, "everything")) == ["all"]


def test_a_task_without_test_records_is_skipped_and_that_is_said(tmp_path, capsys):
    statements = statement_list()
    given = {split: draw(80, 0.2, len(statements), seed=i) for i, split in enumerate(("train", "val", "test"))}
    given["test"][:, statements.rhythm == 1] = 0
    write_splits(tmp_path, statements=statements, given=given)
    write_run(tmp_path, "everything", task="all")
    assert "rhythm" not in evaluations(tmp_path, "everything")
    assert "everything is not evaluated on rhythm" in capsys.readouterr().out


def test_class_names_stand_in_every_table_for_any_number_of_classes(tmp_path, no_figures):
    statements = statement_list(diagnostic=44, form=19, rhythm=12)
    write_splits(tmp_path, statements=statements, labels=("all",), n=60, share=3 / len(statements))
    write_run(tmp_path, "resnet_standard", strength=2)
    write_run(tmp_path, "inception_standard", strength=1)
    results(tmp_path, replicates=4)
    comparison(tmp_path, replicates=4)
    tasks, folder = read_splits(tmp_path).tasks, tmp_path / "final_results"
    thresholds = read_json(folder / "thresholds.json", made_by="11")
    for table in ("metrics.csv", "classes.csv", "confusion_counts.csv", "pairwise.csv"):
        found = pd.read_csv(folder / table)
        for name, task in tasks.items():
            labels = dict.fromkeys(found.label[found.task == name])
            assert [label for label in labels if not label.startswith("macro")] == list(task.classes), (table, name)
    for name, task in tasks.items():
        for of_run in thresholds[name].values():
            assert tuple(of_run) == task.classes
    assert sorted(len(task) for task in tasks.values())[-4:] == [12, 19, 44, 74]


# --- classes that are left out ------------------------------------------------------------------------------------


@pytest.fixture
def with_rare_classes(tmp_path) -> Path:
    """A task of seven form statements: one without test positives, one with two, one without validation positives."""
    statements = statement_list(form=7)
    given = {split: draw(90, 0.25, len(statements), seed=i) for i, split in enumerate(("train", "val", "test"))}
    column = {name: i for i, name in enumerate(statements.index)}
    given["test"][:, column["F1"]] = 0
    given["test"][:, column["F2"]] = 0
    given["test"][:2, column["F2"]] = 1
    given["val"][:, column["F3"]] = 0
    write_splits(tmp_path, statements=statements, given=given, labels=("form",))
    for name in ("resnet_standard", "inception_standard"):
        write_run(tmp_path, name)
    return tmp_path


def test_classes_are_counted_and_those_left_out_are_named_with_the_reason(with_rare_classes, no_figures, capsys):
    folder = results(with_rare_classes)
    classes = pd.read_csv(folder / "classes.csv", keep_default_na=False)
    classes = classes[classes.task == "form"].set_index("label")
    test = read_split(with_rare_classes, "test")
    assert (classes.test_records == len(test)).all()
    assert classes.test_positive.to_dict() == test[list(classes.index)].sum().to_dict()
    assert classes.val_positive["F3"] == 0 and classes.train_positive["F1"] > 0
    assert classes.long_name["F2"] == "what F2 means"
    assert classes.index[~classes.macro].tolist() == ["F1"]
    assert classes.index[~classes.macro5].tolist() == ["F1", "F2"]
    assert classes.reason[["F1", "F2", "F3"]].tolist() == [
        "no positives in the test fold",
        "fewer than 5 positives in the test fold",
        "",
    ]
    said = capsys.readouterr().out
    assert "form: 7 classes" in said and "F1" in said
    share = round(100 * (test[list(classes.index)].sum(axis=1) == 1).mean())
    assert f"no multiclass view: {share} % of the test records" in said


def test_a_class_in_every_record_is_left_out_too():
    task = Task("own", ("a", "b"), ("A", "B"), (("a",), ("b",)))
    tables = {split: pd.DataFrame({"a": [1, 1], "b": [0, 1]}) for split in ("train", "val", "test")}
    found = class_table(task, tables)
    assert found.reason.tolist() == ["no negatives in the test fold", "fewer than 5 positives in the test fold"]
    assert found.macro.tolist() == [False, True] and not found.macro5.any()


def test_the_same_classes_are_behind_metrics_report_and_pairs(with_rare_classes, no_figures):
    folder = results(with_rare_classes)
    comparison(with_rare_classes)
    metrics, pairs = pd.read_csv(folder / "metrics.csv"), pd.read_csv(folder / "pairwise.csv")
    report = pd.read_csv(folder / "final_metrics_report.csv").set_index("run")
    row = report.loc["resnet_standard"]
    assert (row.classes, row["macro5 classes"]) == (6, 5)
    assert re.fullmatch(r"0\.\d{3}", str(row["macro AUC"])) and "[" in row["macro5 AUC"]
    pairs = pairs[pairs["view"] == "multilabel"].set_index("label")
    for label, classes in (("macro", 6), ("macro5", 5)):
        found = value(metrics, "resnet_standard", "multilabel", label, "auc", task="form")
        pair = pairs[(pairs.run_a == "inception_standard") & (pairs.run_b == "resnet_standard")].loc[label]
        assert found.classes == pair.classes == classes
        assert np.isnan(found.ci_low) == np.isnan(pair.ci_low) == (label == "macro")
        assert pair.auc_b == pytest.approx(found.value, abs=1e-6)
    exact = value(metrics, "resnet_standard", "multilabel", "macro", "exact_match", task="form")
    assert exact.classes == 7 and exact.ci_low < exact.value < exact.ci_high  # no mean: of whole records


def test_a_threshold_without_validation_positives_is_marked(with_rare_classes, no_figures):
    folder = results(with_rare_classes)
    comparison(with_rare_classes)
    thresholds = read_json(folder / "thresholds.json", made_by="11")["form"]["resnet_standard"]
    assert [label for label, threshold in thresholds.items() if threshold is None] == ["F3"]
    counts = pd.read_csv(folder / "confusion_counts.csv").set_index(["run", "label"])
    assert counts.threshold["resnet_standard", "F3"] == 0.5


# --- joining, splits and seeds ------------------------------------------------------------------------------------


def test_predictions_are_joined_by_id_not_by_position(tmp_path):
    write_splits(tmp_path)
    folder = write_run(tmp_path, "resnet_augmented", strength=2.0)
    write_run(tmp_path, "baseline/naive", strength=0.0)
    write_run(tmp_path, "everything", task="all")
    straight = tables(tmp_path)
    for path in (*folder.glob("predictions_*.csv"), *tmp_path.glob("ptbxl_*.csv")):
        pd.read_csv(path).sample(frac=1, random_state=3).to_csv(path, index=False)
    for before, after in zip(straight, tables(tmp_path), strict=True):
        pd.testing.assert_frame_equal(before, after)


def test_thresholds_depend_on_the_validation_fold_alone(tmp_path):  # trap 13
    classes = list(read_splits(write_splits(tmp_path)).first.classes)
    write_run(tmp_path, "xresnet_standard")
    before = evaluations(tmp_path, "xresnet_standard")[FIRST].thresholds
    swap_labels(tmp_path / "ptbxl_test.csv", classes)
    np.testing.assert_array_equal(evaluations(tmp_path, "xresnet_standard")[FIRST].thresholds, before)
    swap_labels(tmp_path / "ptbxl_val.csv", classes)
    assert (evaluations(tmp_path, "xresnet_standard")[FIRST].thresholds != before).any()


def test_an_answer_to_another_task_is_calibrated_on_the_validation_fold_alone(tmp_path):  # trap 13
    statements = list(read_splits(write_splits(tmp_path)).task("form").classes)
    write_run(tmp_path, "everything", task="diagnostic")
    before = evaluations(tmp_path, "everything")[FIRST]
    swap_labels(tmp_path / "ptbxl_test.csv", list(read_splits(tmp_path).first.classes))
    after = evaluations(tmp_path, "everything")[FIRST]
    assert statements and after.temperature == before.temperature
    np.testing.assert_array_equal(after.thresholds, before.thresholds)


def test_hyp_and_cd_stand_in_their_own_rows_and_columns(tmp_path, no_figures):  # trap 1
    write_splits(tmp_path)
    folder = write_run(tmp_path, "inception_standard", seed=1)
    test = read_split(tmp_path, "test")
    planted = {"NORM": "NORM", "MI": "MI", "STTC": "STTC", "CD": "HYP", "HYP": "MI"}  # true -> predicted
    answer = test.label.map(planted).fillna("NORM")
    probability = (answer.to_numpy()[:, None] == np.array(["NORM", "MI", "STTC", "CD", "HYP"])) * 0.9
    write_predictions(folder, "test", test.ecg_id.to_numpy(), probability, read_splits(tmp_path).first)
    path = comparison(tmp_path) / "confusion_matrix_inception_standard.csv"
    matrix = pd.read_csv(path, index_col="true")
    counts = test.label.value_counts()
    assert matrix.loc["CD", "HYP"] == counts["CD"] and matrix.loc["CD", "CD"] == 0
    assert matrix.loc["HYP", "MI"] == counts["HYP"] and matrix.loc["HYP", "HYP"] == 0
    assert matrix.to_numpy().sum() == (test.label != "").sum()


def test_two_identical_models_do_not_differ(tmp_path):  # trap 3
    write_splits(tmp_path)
    for name in ("resnet_augmented", "resnet_standard"):
        folder = write_run(tmp_path, name)
        for split in EVALUATED:
            source = tmp_path / f"resnet_augmented/predictions_{split}.csv"
            (folder / source.name).write_bytes(source.read_bytes())
    pairs = tables(tmp_path)[1]
    assert (pairs[["p_mcnemar", "p_holm", "p_delong"]] == 1).all(axis=None)
    assert (pairs[["b", "c", "diff", "ci_low", "ci_high"]] == 0).all(axis=None)


def pair_with_naive(artifacts: Path) -> pd.Series:
    (of_task,) = read_runs(artifacts)
    pairs = compare_pairs(of_task, replicates=30, seed=0)
    return pairs[(pairs["view"] == "multilabel") & (pairs.label == "macro")].iloc[0]


def test_mean_over_seeds_is_compared_with_the_influence_of_the_mean(tmp_path):
    write_splits(tmp_path)
    write_run(tmp_path, "baseline/naive", strength=0.9)
    write_run(tmp_path, "resnet_standard")
    alone = pair_with_naive(tmp_path)
    again = write_run(tmp_path, "resnet_standard", seed=1)
    several = pair_with_naive(tmp_path)
    errors = [abs(pair["diff"]) / norm.isf(pair.p_delong / 2) for pair in (several, alone)]
    assert 0.5 * errors[1] < errors[0] < errors[1]  # the standard error that DeLong's test used
    assert (several.b, several.c) == (alone.b, alone.c)  # McNemar's test stays with the first seed
    for split in EVALUATED:  # the same answers twice: their mean is what one seed gives
        source = tmp_path / f"resnet_standard/predictions_{split}.csv"
        (again / source.name).write_bytes(source.read_bytes())
    pd.testing.assert_series_equal(pair_with_naive(tmp_path), alone)


@pytest.mark.parametrize(
    ("changed", "field"), [({"epochs": 2}, "epochs"), ({"mixup": True}, "mixup"), ({"width": 0.5}, "width")]
)
def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(tmp_path, changed, field):  # trap 7
    write_splits(tmp_path)
    write_run(tmp_path, "resnet_standard", epochs=40, mixup=False, width=1.0)
    write_run(tmp_path, "resnet_augmented", epochs=3)  # another model may
    write_run(tmp_path, "resnet_standard", seed=1, **({"epochs": 40, "mixup": False, "width": 1.0} | changed))
    with pytest.raises(UserError, match=rf"seed1.config\.json: {field}"):
        read_runs(tmp_path)


def test_seeds_that_predicted_other_records_are_not_averaged(tmp_path):
    write_splits(tmp_path)
    write_run(tmp_path, "resnet_standard")
    path = write_run(tmp_path, "resnet_standard", seed=1) / "predictions_test.csv"
    pd.read_csv(path).iloc[3:].to_csv(path, index=False)
    with pytest.raises(UserError, match=r"seed1.*cannot be averaged"):
        tables(tmp_path)


def test_a_model_trained_with_one_seed_only_is_in_every_table_whatever_the_seed(tmp_path, no_figures):
    write_splits(tmp_path)
    write_run(tmp_path, "baseline/naive", model="naive", strength=0.0)
    folder = write_run(tmp_path, "resnet_standard", seed=1, strength=2.0)
    assert [(run.name, run.folder) for run in find_runs(tmp_path)][1] == ("resnet_standard", folder)
    report = pd.read_csv(results(tmp_path) / "final_metrics_report.csv").set_index("run")
    assert list(report.index) == ["resnet_standard", "baseline/naive"] and (report.seeds == 1).all()
    pairs = pd.read_csv(comparison(tmp_path) / "pairwise.csv")
    assert {*pairs.run_a, *pairs.run_b} == {"baseline/naive", "resnet_standard"}
    write_run(tmp_path, "resnet_standard", seed=2)
    assert [run.name for run in find_runs(tmp_path)][1:] == ["resnet_standard/seed1", "resnet_standard/seed2"]


def test_models_with_different_records_are_compared_on_the_common_ones_and_that_is_said(tmp_path, no_figures, capsys):
    n = len(read_split(write_splits(tmp_path), "test"))
    folder = write_run(tmp_path, "resnet_standard", strength=2)
    write_run(tmp_path, "resnet_augmented")
    path = folder / "predictions_test.csv"
    pd.read_csv(path).iloc[10:].to_csv(path, index=False)
    pairs = pd.read_csv(comparison(tmp_path) / "pairwise.csv")
    assert (pairs.n[pairs["view"] == "multilabel"] == n - 10).all()
    assert f"compared on {n - 10} of {n} records" in capsys.readouterr().out


# --- files --------------------------------------------------------------------------------------------------------


def test_every_file_is_read_once(tmp_path, monkeypatch):
    write_splits(tmp_path)
    for seed in (0, 1):
        write_run(tmp_path, "resnet_standard", seed=seed)
        write_run(tmp_path, "everything", task="all", seed=seed)
    read, original = [], pd.read_csv

    def counted(path, **options):
        read.append(path)
        return original(path, **options)

    monkeypatch.setattr(pd, "read_csv", counted)
    read_runs(tmp_path)
    assert len(read) == len(set(read)) == 2 * 4 + 3  # predictions; two split tables and the statements


def test_what_is_left_of_runs_and_tasks_that_are_gone_is_removed(tmp_path, no_figures):
    write_splits(tmp_path)
    write_run(tmp_path, "resnet_standard")
    folder = tmp_path / "final_results"
    old = [
        "confusion_matrix_of_an_old_run.csv",
        "form/roc_curves.png",
        "form/pairwise.png",
        "form/confusion_matrices.png",
    ]
    for name in old:
        write_csv(pd.DataFrame(), folder / name)
    write_csv(pd.DataFrame(), folder / "mine/notes.csv")
    results(tmp_path)
    comparison(tmp_path)
    assert [path.name for path in folder.glob("*matrix_*")] == ["confusion_matrix_resnet_standard.csv"]
    assert not (folder / "form").exists() and (folder / "mine/notes.csv").exists()
    pairs = pd.read_csv(folder / "pairwise.csv")
    assert tuple(pairs.columns) == PAIR_COLUMNS and pairs.empty
    assert (folder / "pairwise.png").exists()


def test_an_old_confusion_matrix_of_a_task_without_the_view_is_removed(tmp_path, no_figures):
    statements = statement_list()
    given = {split: draw(80, 0.4, len(statements), seed=i) for i, split in enumerate(("train", "val", "test"))}
    write_splits(tmp_path, statements=statements, given=given)
    write_run(tmp_path, "resnet_standard")
    write_csv(pd.DataFrame(), tmp_path / "final_results/confusion_matrices.png")
    folder = comparison(tmp_path)
    assert not (folder / "confusion_matrices.png").exists() and not list(folder.glob("confusion_matrix_*"))


def test_a_run_whose_config_names_no_task_is_refused(tmp_path):
    folder = write_run(write_splits(tmp_path), "my_model")
    write_json({"run": "my_model", "model": "mine"}, folder / "config.json")
    with pytest.raises(UserError, match="'task' is missing"):
        read_runs(tmp_path)


def test_a_run_trained_on_other_labels_is_refused(tmp_path):
    folder = write_run(write_splits(tmp_path), "resnet_standard")
    write_json(read_config(folder) | {"labels_sha256": "0" * 64}, folder / "config.json")
    with pytest.raises(UserError, match="other labels"):
        read_runs(tmp_path)


@pytest.mark.parametrize("stage", [plots_and_metrics, compare_runs])
@pytest.mark.parametrize("name", ["ptbxl_test.csv", "ptbxl_val.csv", "ptbxl_statements.csv"])
def test_a_record_twice_in_a_table_of_02_ends_both_stages_with_its_name(tmp_path, stage, name):
    write_splits(tmp_path)
    write_run(tmp_path, "resnet_standard")
    write_run(tmp_path, "inception_standard")
    write_run(tmp_path, "everything", task="all")
    table = pd.read_csv(tmp_path / name)
    pd.concat([table, table.iloc[[0]]]).to_csv(tmp_path / name, index=False)
    with pytest.raises(UserError, match=rf"{name}: ecg_id {table.ecg_id[0]} appears twice"):
        stage(data=tmp_path, artifacts=tmp_path, replicates=5, seed=0)


def test_missing_predictions_name_the_scripts_that_make_them(tmp_path):
    write_splits(tmp_path)
    with pytest.raises(UserError, match="04_train_baseline_ml"):
        results(tmp_path)
    write_run(tmp_path, "resnet_standard")
    (tmp_path / "ptbxl_val.csv").unlink()
    with pytest.raises(UserError, match="02_split"):
        comparison(tmp_path)


@pytest.mark.parametrize("stage", [plots_and_metrics, compare_runs])
@pytest.mark.parametrize(("flag", "values"), [("--replicates", {"replicates": 0}), ("--seed", {"seed": -1})])
def test_settings_that_mean_nothing_are_refused_by_their_flag(tmp_path, stage, flag, values):
    with pytest.raises(UserError, match=rf"{flag} is -?\d, must be at least \d"):
        stage(data=tmp_path, artifacts=tmp_path, **({"replicates": 40, "seed": 0} | values))


def test_a_script_runs_from_any_folder_without_torch_and_draws(tmp_path):
    write_splits(tmp_path, labels=("rhythm",))
    for name in ("resnet_standard", "inception_standard"):
        write_run(tmp_path, name)
    code = (
        "import runpy, sys; sys.path.insert(0, sys.argv[1]); script = sys.argv[2];"
        "sys.argv = [script, '--artifacts', sys.argv[3], '--replicates', '5'];"
        "runpy.run_path(script, run_name='__main__'); assert 'torch' not in sys.modules"
    )
    script = CODES / "12_conf_matrix_and_stat_test.py"
    command = [sys.executable, "-c", code, str(CODES), str(script), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = {path.name: path.stat().st_size for path in (tmp_path / "final_results").glob("*.png")}
    assert set(figures) == FIGURES_12 and all(3_000 < size < 200_000 for size in figures.values())
