"""The metrics are scikit-learn's, for any number of classes, for the sample and for every bootstrap replicate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from ecg import metrics as ours
from ecg.metrics import (
    choose_thresholds,
    macro_auc,
    macros,
    multiclass_metrics,
    multilabel_metrics,
    per_class_auc,
    per_replicate,
)

each_number_of_classes = pytest.mark.parametrize("k", [3, 5, 23, 71])


def names(k: int) -> list[str]:
    return [f"class {i}" for i in range(k)]


def example(n: int = 300, k: int = 5, *, seed: int = 0, decimals: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities (n, k): the first class is common, the last rare, each has five records."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, k)) < np.linspace(0.5, 0.05, k)).astype(int)
    for column in labels.T:
        column[rng.permutation(n)[:5]] = 1
    probability = np.clip(0.6 * rng.random((n, k)) + 0.3 * labels, 0, 1)
    return labels, probability.round(decimals)  # rounding makes ties


def with_replicates(n: int, *, replicates: int = 20) -> np.ndarray:
    drawn = np.random.default_rng(1).multinomial(n, np.full(n, 1 / n), replicates).T
    return np.column_stack([np.ones(n), drawn])


@each_number_of_classes
def test_macro_auc_is_scikit_learns_with_ties(k):
    labels, probability = example(k=k)
    assert macro_auc(labels, probability) == pytest.approx(reference.roc_auc_score(labels, probability))
    each = reference.roc_auc_score(labels, probability, average=None)
    np.testing.assert_allclose(per_class_auc(labels, probability), each)


def test_macro_auc_is_the_macro_average_not_the_micro():  # trap 4
    labels, probability = example()
    probability = probability * [0.2, 0.4, 0.6, 0.8, 1]  # changes micro alone: each class keeps its order
    micro = reference.roc_auc_score(labels, probability, average="micro")
    assert macro_auc(labels, probability) == pytest.approx(per_class_auc(labels, probability).mean())
    assert abs(macro_auc(labels, probability) - micro) > 0.02


def test_class_with_one_outcome_is_left_out_of_the_macro_auc():
    labels, probability = example()
    labels[:, 4] = 0
    each = per_class_auc(labels, probability)
    assert np.isnan(each[4]) and macro_auc(labels, probability) == pytest.approx(each[:4].mean())
    assert np.isnan(macro_auc(np.zeros((4, 5)), np.zeros((4, 5))))


def test_diverged_network_has_no_macro_auc():
    labels, probability = example()
    probability[3, 1] = np.nan
    assert np.isnan(macro_auc(labels, probability))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), power=st.floats(0.3, 3))
def test_auc_depends_on_the_order_alone_and_mirrors_with_the_labels(seed, power):
    labels, probability = example(60, seed=seed)
    auc = per_class_auc(labels, probability)
    np.testing.assert_allclose(per_class_auc(labels, probability**power), auc)
    np.testing.assert_allclose(per_class_auc(1 - labels, probability), 1 - auc)


@each_number_of_classes
def test_multilabel_metrics_are_scikit_learns(k):
    labels, probability = example(k=k)
    thresholds = np.random.default_rng(4).uniform(0.3, 0.6, k)
    values = multilabel_metrics(labels, probability, thresholds, np.ones((len(labels), 1)), classes=names(k))
    positive = probability >= thresholds
    expected = {
        "auc": reference.roc_auc_score(labels, probability, average=None),
        "ap": reference.average_precision_score(labels, probability, average=None),
        "f1": reference.f1_score(labels, positive, average=None),
        "accuracy": [reference.accuracy_score(y, c) for y, c in zip(labels.T, positive.T, strict=True)],
        "sensitivity": reference.recall_score(labels, positive, average=None),
        "specificity": reference.recall_score(1 - labels, ~positive, average=None),
        "brier": [reference.brier_score_loss(y, p) for y, p in zip(labels.T, probability.T, strict=True)],
    }
    for metric, each in expected.items():
        np.testing.assert_allclose([values[name, metric][0] for name in names(k)], each, err_msg=metric)
    assert values["macro", "auc"][0] == pytest.approx(reference.roc_auc_score(labels, probability))
    assert values["macro", "f1"][0] == pytest.approx(reference.f1_score(labels, positive, average="macro"))
    assert values["macro", "exact_match"][0] == pytest.approx(reference.accuracy_score(labels, positive))


@each_number_of_classes
def test_multiclass_metrics_are_scikit_learns(k):
    probability = example(400, k, seed=3, decimals=4)[1]
    true = np.random.default_rng(5).permutation(np.arange(len(probability)) % k)
    labels, answer = np.eye(k, dtype=int)[true], probability.argmax(axis=1)
    values = multiclass_metrics(labels, probability, np.ones((len(labels), 1)), classes=names(k))
    assert values["macro", "accuracy"][0] == pytest.approx(reference.accuracy_score(true, answer))
    assert values["macro", "f1"][0] == pytest.approx(reference.f1_score(true, answer, average="macro"))
    assert values["macro", "auc"][0] == pytest.approx(reference.roc_auc_score(labels, probability))
    recall = reference.recall_score(true, answer, average=None)
    np.testing.assert_allclose([values[name, "sensitivity"][0] for name in names(k)], recall)


def test_multiclass_view_refuses_records_with_two_classes():
    labels, probability = example()
    with pytest.raises(ValueError, match="exactly one"):
        multiclass_metrics(labels, probability, np.ones((len(labels), 1)), classes=names(5))


@each_number_of_classes
def test_weighted_metrics_equal_those_of_the_repeated_records(k):
    labels, probability = example(200, k)
    weight = with_replicates(len(labels), replicates=8)
    thresholds = np.full(k, 0.4)
    values = multilabel_metrics(labels, probability, thresholds, weight, classes=names(k))
    for r in range(weight.shape[1]):
        rows = np.repeat(np.arange(len(labels)), weight[:, r].astype(int))
        ones = np.ones((len(rows), 1))
        again = multilabel_metrics(labels[rows], probability[rows], thresholds, ones, classes=names(k))
        for key in values.keys() & again.keys():
            if key[0] not in ("macro", "macro5"):  # those are over the classes of the sample
                assert values[key][r] == pytest.approx(again[key][0], nan_ok=True), key
        each = np.array([again[name, "auc"][0] for name in names(k)])
        assert values["macro", "auc"][r] == pytest.approx(np.nanmean(each))


def test_replicate_without_a_positive_record_is_undefined_not_zero():
    labels, probability = example(50)
    weight = with_replicates(50, replicates=1)
    weight[labels[:, 4] == 1, 1] = 0
    values = multilabel_metrics(labels, probability, np.full(5, 0.5), weight, classes=names(5))
    assert np.isnan(values["class 4", "auc"][1]) and np.isnan(values["class 4", "ap"][1])
    assert values["macro", "auc"][1] == pytest.approx(np.mean([values[name, "auc"][1] for name in names(4)]))


def with_positives(counts: list[int], n: int = 40) -> np.ndarray:
    """Return labels (n, len(counts)) with so many positive records of each class."""
    return np.stack([np.arange(n) < count for count in counts], axis=1).astype(int)


@pytest.mark.parametrize(
    ("counts", "macro", "has_interval", "macro5"),
    [
        ([20, 9, 5], [0, 1, 2], True, None),  # all have five: one mean, with an interval
        ([20, 4, 1], [0, 1, 2], False, [0]),
        ([20, 0, 5], [0, 2], True, None),  # a class without positives is in no mean and costs nothing
        ([20, 40, 5, 1], [0, 2, 3], False, [0, 2]),  # nor one that every record has
        ([4, 1, 0], [0, 1], False, None),  # none has five: no interval at all
        ([0, 40], [], True, None),
    ],
)
def test_macro_is_over_classes_with_both_outcomes_and_its_interval_over_those_with_five(
    counts, macro, has_interval, macro5
):
    found = macros(with_positives(counts))
    assert np.flatnonzero(found["macro"].members).tolist() == macro
    assert found["macro"].has_interval == has_interval and found["macro"].n_classes == len(macro)
    if macro5 is None:
        assert "macro5" not in found
    else:
        assert np.flatnonzero(found["macro5"].members).tolist() == macro5 and found["macro5"].has_interval


def test_every_metric_has_its_means_over_the_same_classes():
    labels = with_positives([20, 8, 3, 0, 40])
    probability = np.random.default_rng(0).random(labels.shape)
    values = multilabel_metrics(labels, probability, np.full(5, 0.5), np.ones((40, 1)), classes=names(5))
    one_each = np.eye(5, dtype=int)[[0] * 8 + [1] * 8 + [2] * 3]
    single = multiclass_metrics(one_each, probability[:19], np.ones((19, 1)), classes=names(5))
    for found, macro, macro5 in ((values, [0, 1, 2], [0, 1]), (single, [0, 1, 2], [0, 1])):
        for label, metric in found:
            members = {"macro": macro, "macro5": macro5}.get(label)
            if members and (names(5)[0], metric) in found:
                expected = np.mean([found[f"class {i}", metric][0] for i in members])
                assert found[label, metric][0] == pytest.approx(expected), (label, metric)
    assert ("macro5", "auc") in values and ("macro5", "auc") in single


def test_without_a_usable_class_there_is_no_mean():
    labels = np.zeros((10, 3), int)
    values = multilabel_metrics(labels, np.full((10, 3), 0.2), np.full(3, 0.5), np.ones((10, 1)), classes=names(3))
    assert np.isnan(values["macro", "auc"][0]) and np.isnan(values["macro", "f1"][0])
    assert values["macro", "exact_match"][0] == 1


def test_calibration_error_of_a_known_case():
    labels = np.tile([[1], [1], [0], [0], [0], [0], [0], [0], [0], [1]], (1, 5))
    probability = np.full((10, 5), 0.25)
    probability[0] = 1.0  # alone in the last bin, and right
    values = multilabel_metrics(labels, probability, np.full(5, 0.5), np.ones((10, 1)), classes=names(5))
    assert values["class 1", "ece"][0] == pytest.approx(0.9 * abs(2 / 9 - 0.25))


@each_number_of_classes
def test_threshold_has_the_best_f1_of_all(k):
    labels, probability = example(150, k)
    thresholds = choose_thresholds(labels, probability)
    for i in range(k):
        y, candidates = labels[:, i], np.append(np.linspace(0, 1, 101), thresholds[i])
        positive = probability[:, i] >= candidates[:, None]  # (102, n)
        f1 = 2 * (positive & (y == 1)).sum(axis=1) / (positive.sum(axis=1) + y.sum())
        assert f1[-1] == pytest.approx(f1.max())


def test_class_without_positive_record_gets_the_threshold_one_half():
    labels, probability = example()
    labels[:, 2] = 0
    assert choose_thresholds(labels, probability)[2] == 0.5


def test_a_metric_that_knows_no_weights_is_computed_on_the_repeated_records():
    labels, probability = example(80)
    weight = with_replicates(80)
    slow = per_replicate(reference.average_precision_score, labels[:, 1], probability[:, 1], weight)
    fast = multilabel_metrics(labels, probability, np.full(5, 0.5), weight, classes=names(5))
    np.testing.assert_allclose(slow, fast["class 1", "ap"])
    weight[labels[:, 1] == 1, 3] = 0
    assert np.isnan(per_replicate(reference.roc_auc_score, labels[:, 1], probability[:, 1], weight)[3])


def test_a_new_metric_is_one_line_and_stands_beside_the_others(monkeypatch):
    def difference(y: np.ndarray, p: np.ndarray) -> float:
        return p[y == 1].mean() - p[y == 0].mean()

    monkeypatch.setitem(ours.SIMPLE_METRICS, "discrimination", difference)
    labels, probability = example(80)
    values = multilabel_metrics(labels, probability, np.full(5, 0.5), with_replicates(80), classes=names(5))
    each = [values[name, "discrimination"][0] for name in names(5)]
    assert each[0] == pytest.approx(difference(labels[:, 0], probability[:, 0]))
    assert values["macro", "discrimination"][0] == pytest.approx(np.mean(each))
    assert values["macro", "discrimination"].shape == (21,)
