"""Intervals and tests keep what their names promise."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from ecg.artifacts import UserError
from ecg.metrics import multilabel_metrics
from ecg.runs import Run
from ecg.stats import (
    PAIR_COLUMNS,
    RESULT_COLUMNS,
    Evaluation,
    TaskResults,
    by_model,
    compare_pairs,
    confusion_counts,
    confusion_matrix,
    delong,
    delong_p,
    has_multiclass_view,
    holm,
    interval,
    mcnemar_exact,
    measure_runs,
    patient_weights,
    seed_interval,
)
from ecg.tasks import Task


def test_mcnemar_of_two_identical_models_gives_p_1():  # trap 3
    assert mcnemar_exact(0, 0) == 1.0


def test_mcnemar_is_the_two_sided_binomial_test():
    assert mcnemar_exact(0, 6) == pytest.approx(2 / 2**6)
    assert mcnemar_exact(1, 8) == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar_exact(8, 1) == mcnemar_exact(1, 8)
    assert mcnemar_exact(7, 7) == 1.0


def test_holm_steps_down_and_keeps_the_order():
    # Holm 1979 by hand: 0.005 * 4, 0.01 * 3, 0.03 * 2, max(0.06, 0.04 * 1)
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])
    assert len(holm([])) == 0


def brute_force(label: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kernel = [[[(x > y) + 0.5 * (x == y) for y in s[label == 0]] for x in s[label == 1]] for s in scores]  # (k, m, n)
    kernel = np.array(kernel)
    m, n = kernel.shape[1:]
    s10 = np.cov(kernel.mean(axis=2))
    s01 = np.cov(kernel.mean(axis=1))
    return kernel.mean(axis=(1, 2)), s10 / m + s01 / n


def scored(n: int, *, seed: int, decimals: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.3).astype(int)
    common = rng.normal(size=n)
    scores = np.stack([label + common + rng.normal(size=n), 0.7 * label + common + rng.normal(size=n)])
    return label, scores.round(decimals)


@pytest.mark.parametrize("decimals", [0, 1, 8])  # many ties, some, none
def test_delong_is_its_definition_by_brute_force(decimals):
    label, scores = scored(70, seed=2, decimals=decimals)
    auc, influence = delong(label, scores)
    expected_auc, expected_covariance = brute_force(label, scores)
    np.testing.assert_allclose(auc, expected_auc)
    np.testing.assert_allclose(influence @ influence.T, expected_covariance)


def test_delong_of_two_identical_models_gives_p_1():
    label, scores = scored(70, seed=2, decimals=1)
    auc, influence = delong(label, scores[[0, 0]])
    assert delong_p(auc, influence) == 1.0


@pytest.mark.parametrize("positives", [1, 29])
def test_delong_needs_two_records_of_each_outcome(positives):
    with pytest.raises(ValueError, match="two records"):
        delong(np.arange(30) < positives, np.random.default_rng(0).random((2, 30)))


def test_areas_that_differ_without_any_variance_have_no_p_value():
    label = np.arange(20) < 10
    auc, influence = delong(label, np.stack([label, ~label]).astype(float))
    assert auc.tolist() == [1, 0] and np.isnan(delong_p(auc, influence))


def test_delong_rejects_a_true_null_in_one_of_twenty():
    rng = np.random.default_rng(7)
    p = []
    for _ in range(400):
        label = (rng.random(150) < 0.4).astype(int)
        p.append(delong_p(*delong(label, label + rng.normal(size=(2, 150)))))
    assert 0.025 < np.mean(np.array(p) < 0.05) < 0.08


def test_delong_standard_error_agrees_with_the_bootstrap_per_class_and_for_the_mean():
    rng = np.random.default_rng(3)
    n = 500
    labels = (rng.random((n, 5)) < 0.3).astype(int)
    probability = 1 / (1 + np.exp(-labels - rng.normal(size=(n, 1)) - rng.normal(size=(n, 5))))
    records = pd.DataFrame({"ecg_id": np.arange(n), "patient_id": np.arange(n)})
    weight = patient_weights(records, replicates=800, seed=0).to_numpy()
    values = multilabel_metrics(labels, probability, np.full(5, 0.5), weight, classes="abcde")
    influence = np.stack([delong(labels[:, i], probability[:, i][None])[1][0] for i in range(5)])
    for label, of_label in (("b", influence[1]), ("macro", influence.mean(axis=0))):
        error = np.sqrt((of_label**2).sum())
        assert error == pytest.approx(values[label, "auc"][1:].std(), rel=0.1), label


def test_patients_are_resampled_not_records():
    rng = np.random.default_rng(0)
    records = pd.DataFrame({"ecg_id": rng.permutation(300), "patient_id": rng.integers(0, 120, 300)})
    weight = patient_weights(records, replicates=50, seed=0)
    assert weight.shape == (300, 51) and (weight[0] == 1).all()
    of_patient = weight.groupby(records.patient_id.to_numpy())
    assert (of_patient.nunique() == 1).all(axis=None)  # all records of a patient are drawn together
    assert (of_patient.first().sum() == records.patient_id.nunique()).all()


def test_resamples_do_not_depend_on_the_order_of_the_records():
    records = pd.DataFrame({"ecg_id": np.arange(100), "patient_id": np.arange(100) // 2})
    weight = patient_weights(records, replicates=10, seed=0)
    shuffled = patient_weights(records.sample(frac=1, random_state=1), replicates=10, seed=0)
    pd.testing.assert_frame_equal(weight, shuffled.loc[weight.index])
    assert not weight.equals(patient_weights(records, replicates=10, seed=1))


def test_95_percent_interval_is_not_a_90_percent_one():  # trap 14
    low, high = interval(np.arange(1001.0)[None])
    assert (low[0], high[0]) == (25, 975)


def test_95_percent_interval_covers_the_truth_95_times_in_100():  # trap 14
    rng = np.random.default_rng(11)
    covered = {"patients": 0, "records": 0}
    rounds, n_patients = 200, 60
    patient = np.repeat(np.arange(n_patients), 3)
    truth = 0.5
    for seed in range(rounds):
        right = rng.random(n_patients)[patient] > rng.random(len(patient))  # records of a patient are alike
        for unit, ids in (("patients", patient), ("records", np.arange(len(patient)))):
            records = pd.DataFrame({"ecg_id": np.arange(len(patient)), "patient_id": ids})
            weight = patient_weights(records, replicates=250, seed=seed).to_numpy()
            low, high = interval((right @ weight / weight.sum(axis=0))[None, 1:])
            covered[unit] += low[0] <= truth <= high[0]
    assert 0.92 <= covered["patients"] / rounds <= 0.98
    assert covered["records"] / rounds < 0.92  # what resampling records would have claimed


def test_undefined_replicates_are_left_out_of_the_interval():
    values = np.array([[np.nan, 1.0, 1.0], [np.nan, np.nan, np.nan]])
    low, high = interval(values)
    assert (low[0], high[0]) == (1, 1) and np.isnan(low[1]) and np.isnan(high[1])


# --- tables of several models -------------------------------------------------------------------------------------


def task_of_size(k: int, name: str = "own") -> Task:
    classes = tuple(f"c{i}" for i in range(k))
    return Task(name, classes, tuple(f"class {i}" for i in range(k)), tuple((c,) for c in classes))


def records_of(labels: np.ndarray, task: Task, *, first_id: int = 1) -> pd.DataFrame:
    ecg_id = np.arange(first_id, first_id + len(labels))
    table = pd.DataFrame(labels, columns=list(task.classes))
    return table.assign(ecg_id=ecg_id, patient_id=ecg_id // 2)


def made(
    labels: np.ndarray, models: dict[str, float], *, task: Task | None = None, other: tuple[str, ...] = ()
) -> TaskResults:
    """Return results of `models` {name: strength} for one task; those in `other` were trained on another one."""
    task = task or task_of_size(labels.shape[1])
    records = {"val": records_of(labels, task), "test": records_of(labels, task, first_id=5001)}
    evaluations = []
    for name, strength in models.items():
        trained_on = task_of_size(2, "another") if name in other else task
        run = Run(name, Path("artifacts") / name, {"task": trained_on.to_json()})
        rng = np.random.default_rng([*name.encode()])
        found, answers = {}, {}
        for split, table in records.items():
            found[split] = table.set_index("ecg_id")[list(task.classes)]
            score = strength * labels - 1 + rng.normal(size=labels.shape)
            answers[split] = pd.DataFrame(1 / (1 + np.exp(-score)), index=found[split].index, columns=task.classes)
        evaluations.append(Evaluation(run, task, found, answers, np.full(len(task), 0.4)))
    return TaskResults(task, records, evaluations)


def drawn_labels(n: int, k: int, *, seed: int = 0, share: float = 0.2) -> np.ndarray:
    labels = (np.random.default_rng(seed).random((n, k)) < share).astype(int)
    labels[labels.sum(axis=1) == 0, 0] = 1
    return labels


def compared(results: TaskResults) -> pd.DataFrame:
    return compare_pairs(results, replicates=60, seed=0)


def row_of(pairs: pd.DataFrame, label: str, view: str = "multilabel") -> pd.Series:
    rows = pairs[(pairs["view"] == view) & (pairs.label == label)]
    assert len(rows) == 1, (view, label)
    return rows.iloc[0]


@pytest.mark.parametrize(
    ("single", "expected"), [(100, True), (70, True), (69, False), (0, False)]
)  # of 100 records, the others have two classes
def test_the_multiclass_view_exists_where_seven_records_of_ten_have_exactly_one_class(single, expected):
    labels = np.zeros((100, 4), int)
    labels[:, 0] = 1
    labels[single:, 3] = 1
    assert has_multiclass_view(labels) == expected


def test_a_task_without_the_multiclass_view_has_it_in_no_table_and_no_split():
    labels = np.ones((60, 3), int)
    labels[::2, 1:] = 0  # exactly one class in half of the records
    results = made(labels, {"a": 1, "b": 2})
    assert set(measure_runs(results, replicates=5, seed=0)["view"]) == {"multilabel"}
    assert set(compared(results)["view"]) == {"multilabel"}


@pytest.mark.parametrize("k", [3, 12, 44])
def test_tables_name_the_classes_of_the_task(k):
    results = made(drawn_labels(300, k, share=1 / k), {"a": 1, "b": 2})
    table = measure_runs(results, replicates=5, seed=0)
    assert tuple(table.columns) == RESULT_COLUMNS and set(table.task) == {"own"}
    assert {*results.task.classes} < set(table.label) <= {*results.task.classes, "macro", "macro5"}
    pairs = compared(results)
    assert tuple(pairs.columns) == PAIR_COLUMNS
    assert {*results.task.classes} < set(pairs.label) <= {*results.task.classes, "macro", "macro5"}
    matrix = confusion_matrix(np.eye(k, dtype=int), np.eye(k)[::-1], classes=results.task.classes)
    assert matrix.loc["c0", f"c{k - 1}"] == 1 and matrix.to_numpy().sum() == k
    counts = confusion_counts(np.eye(k, dtype=int), np.eye(k)[::-1] > 0, classes=results.task.classes)
    assert list(counts.label) == list(results.task.classes)
    assert (counts[["tp", "fp", "fn", "tn"]].sum(axis=1) == k).all()


def with_a_rare_class(positives: int, n: int = 120) -> np.ndarray:
    labels = drawn_labels(n, 4)
    labels[:, 3] = 0
    labels[:positives, 3] = 1
    return labels


@pytest.mark.parametrize("positives", [0, 1, 4, 5])
def test_metrics_and_pairs_have_one_rule_for_rare_classes(positives):
    results = made(with_a_rare_class(positives), {"a": 1, "b": 2})
    metrics = measure_runs(results, replicates=60, seed=0)
    metrics = metrics[(metrics.split == "test") & (metrics.metric == "auc") & (metrics["view"] == "multilabel")]
    metrics, pairs = metrics[metrics.run == "a"], compared(results)
    pairs = pairs[pairs["view"] == "multilabel"]
    for table in (metrics, pairs):
        macro, macro5 = table[table.label == "macro"].iloc[0], table[table.label == "macro5"]
        assert macro.classes == (4 if positives else 3)
        if 0 < positives < 5:
            assert np.isnan(macro.ci_low) and macro5.classes.item() == 3
            assert np.isfinite(macro5.ci_low.item()) and np.isfinite(macro5.ci_high.item())
        else:
            assert np.isfinite(macro.ci_low) and macro5.empty
    assert pairs.loc[pairs.label.isin(results.task.classes), ["classes", "classes_delong"]].isna().all(axis=None)
    for label in {"macro", "macro5"} & set(pairs.label):
        a = metrics[metrics.label == label].value.item()
        assert row_of(pairs, label).auc_a == pytest.approx(a)


@pytest.mark.parametrize(("positives", "classes", "tested"), [(0, 3, 3), (1, 4, 3), (2, 4, 4)])
def test_delong_for_the_mean_is_over_the_classes_that_can_be_tested(positives, classes, tested):
    """One class with a single positive record must not leave every mean without a test."""
    labels = with_a_rare_class(positives)
    results = made(labels, {"a": 1, "b": 2})
    pair = row_of(compared(results), "macro")
    assert (pair.classes, pair.classes_delong) == (classes, tested)
    a, b = (evaluation.probability["test"].to_numpy() for evaluation in results.evaluations)
    each = [delong(labels[:, i], np.stack([a[:, i], b[:, i]])) for i in range(tested)]
    areas, influence = (np.mean([part[i] for part in each], axis=0) for i in range(2))
    assert pair.p_delong == pytest.approx(delong_p(areas, influence)) and 0 < pair.p_delong < 1


def test_a_mean_of_which_no_class_can_be_tested_has_no_delong_test():
    labels = np.ones((30, 3), int)
    labels[0, 1:] = 0
    pair = row_of(compared(made(labels, {"a": 1, "b": 2})), "macro")
    assert np.isnan(pair.p_delong) and pair.classes_delong == 0 and np.isfinite(pair["diff"])


def test_right_is_the_whole_answer_for_macro_and_that_of_its_classes_for_macro5():
    labels = with_a_rare_class(2)
    results = made(labels, {"a": 1, "b": 2})
    a, b = (evaluation.probability["test"].to_numpy() >= 0.4 for evaluation in results.evaluations)
    pairs = compared(results)
    for label, classes in (("macro", [0, 1, 2, 3]), ("macro5", [0, 1, 2])):
        right_a, right_b = ((answer == labels)[:, classes].all(axis=1) for answer in (a, b))
        pair = row_of(pairs, label)
        assert (pair.b, pair.c) == ((right_a & ~right_b).sum(), (right_b & ~right_a).sum())


def test_models_that_answer_from_another_task_change_nothing_about_the_others():
    """Holm's families: the pairs of models trained on the task, and the pairs with at least one that was not."""
    labels = drawn_labels(150, 5)
    own = {"a": 1.0, "b": 1.2, "c": 2.0}
    alone = compared(made(labels, own))
    everyone = made(labels, own | {"x_all": 1.5, "y_all": 1.8}, other=("x_all", "y_all"))
    together = compared(everyone)
    is_own = together.run_a.isin(own.keys()) & together.run_b.isin(own.keys())
    pd.testing.assert_frame_equal(together[is_own].reset_index(drop=True), alone)
    assert (together[~is_own].groupby(["view", "label"]).size() == 7).all()  # 10 pairs less 3
    for family in (together[is_own], together[~is_own]):
        for _, rows in family.groupby(["view", "label"]):
            np.testing.assert_allclose(rows.p_holm, holm(rows.p_mcnemar.to_numpy()))
            np.testing.assert_allclose(rows.p_delong_holm, holm(rows.p_delong.to_numpy()))


def test_a_model_that_lacks_records_and_answers_from_another_task_changes_nothing_either():
    labels = drawn_labels(150, 5)
    own = {"a": 1.0, "b": 1.2}
    alone = compared(made(labels, own))
    everyone = made(labels, own | {"x_all": 1.5}, other=("x_all",))
    lacking = everyone.evaluations[2]
    for tables in (lacking.labels, lacking.probability):
        tables["test"] = tables["test"].iloc[20:]
    together = compared(everyone)
    pd.testing.assert_frame_equal(together[together.run_b == "b"].reset_index(drop=True), alone)
    assert (together.n[(together.run_b == "x_all") & (together["view"] == "multilabel")] == 130).all()


def test_two_models_that_only_answer_from_another_task_are_compared_too():
    pairs = compared(made(drawn_labels(100, 3), {"x_all": 1.5, "y_all": 1.8}, other=("x_all", "y_all")))
    assert len(pairs) and (pairs.run_a == "x_all").all()


def test_seeds_that_predicted_different_records_are_not_averaged():
    results = made(drawn_labels(60, 3), {"resnet_standard/seed0": 1, "resnet_standard/seed1": 1})
    second = results.evaluations[1]
    second.labels["test"] = second.labels["test"].iloc[4:]
    with pytest.raises(UserError, match=r"ecg_id 5001"):
        by_model(results.evaluations)


def test_models_without_a_common_record_cannot_be_compared():
    results = made(drawn_labels(60, 3), {"a": 1, "b": 1})
    for evaluation, rows in zip(results.evaluations, (slice(0, 30), slice(30, 60)), strict=True):
        evaluation.labels["test"] = evaluation.labels["test"].iloc[rows]
    with pytest.raises(UserError, match="own"):
        compared(results)


def test_the_interval_over_seeds_is_the_paired_t_interval():
    a, b = np.array([0.91, 0.90, 0.92, 0.93]), np.array([0.90, 0.90, 0.905, 0.91])
    expected = ttest_rel(a, b).confidence_interval()
    assert seed_interval(a, b) == pytest.approx((expected.low, expected.high))
    assert np.isnan(seed_interval(a, b[:3])).all() and np.isnan(seed_interval(a[:1], b[:1])).all()
