"""The metrics are scikit-learn's, for the sample and for every bootstrap replicate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from ecg.labels import CLASSES
from ecg.metrics import choose_thresholds, macro_auc, multiclass_metrics, multilabel_metrics, per_class_auc


def example(n: int = 300, *, seed: int = 0, decimals: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 5)) < [0.5, 0.3, 0.25, 0.2, 0.1]).astype(int)
    probability = np.clip(0.6 * rng.random((n, 5)) + 0.3 * labels, 0, 1)
    return labels, probability.round(decimals)  # rounding makes ties


def with_replicates(n: int, *, replicates: int = 20) -> np.ndarray:
    drawn = np.random.default_rng(1).multinomial(n, np.full(n, 1 / n), replicates).T
    return np.column_stack([np.ones(n), drawn])


def test_macro_auc_is_scikit_learns_with_ties():
    labels, probability = example()
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


def test_multilabel_metrics_are_scikit_learns():
    labels, probability = example()
    thresholds = np.array([0.5, 0.4, 0.45, 0.3, 0.6])
    weight = np.ones((len(labels), 1))
    values = multilabel_metrics(labels, probability, thresholds, weight)
    called = probability >= thresholds
    for i, name in enumerate(CLASSES):
        y, p, c = labels[:, i], probability[:, i], called[:, i]
        expected = {
            "auc": reference.roc_auc_score(y, p),
            "ap": reference.average_precision_score(y, p),
            "f1": reference.f1_score(y, c),
            "accuracy": reference.accuracy_score(y, c),
            "sensitivity": reference.recall_score(y, c),
            "specificity": reference.recall_score(1 - y, ~c),
            "brier": reference.brier_score_loss(y, p),
        }
        for metric, value in expected.items():
            assert values[name, metric][0] == pytest.approx(value), (name, metric)
    assert values["macro", "auc"][0] == pytest.approx(reference.roc_auc_score(labels, probability))
    assert values["macro", "f1"][0] == pytest.approx(reference.f1_score(labels, called, average="macro"))
    assert values["macro", "exact_match"][0] == pytest.approx(reference.accuracy_score(labels, called))


def test_multiclass_metrics_are_scikit_learns():
    probability = example(seed=3, decimals=4)[1]
    true = np.random.default_rng(5).integers(0, 5, len(probability))
    labels, answer = np.eye(5, dtype=int)[true], probability.argmax(axis=1)
    values = multiclass_metrics(labels, probability, np.ones((len(labels), 1)))
    assert values["macro", "accuracy"][0] == pytest.approx(reference.accuracy_score(true, answer))
    assert values["macro", "f1"][0] == pytest.approx(reference.f1_score(true, answer, average="macro"))
    assert values["macro", "auc"][0] == pytest.approx(reference.roc_auc_score(labels, probability))
    recall = reference.recall_score(true, answer, average=None)
    np.testing.assert_allclose([values[name, "sensitivity"][0] for name in CLASSES], recall)


def test_multiclass_view_refuses_records_with_two_classes():
    labels, probability = example()
    with pytest.raises(ValueError, match="exactly one"):
        multiclass_metrics(labels, probability, np.ones((len(labels), 1)))


def test_weighted_metrics_equal_those_of_the_repeated_records():
    labels, probability = example(120)
    weight = with_replicates(len(labels))
    thresholds = np.full(5, 0.4)
    values = multilabel_metrics(labels, probability, thresholds, weight)
    for r in range(weight.shape[1]):
        rows = np.repeat(np.arange(len(labels)), weight[:, r].astype(int))
        again = multilabel_metrics(labels[rows], probability[rows], thresholds, np.ones((len(rows), 1)))
        for key, value in again.items():
            assert values[key][r] == pytest.approx(value[0]), key
        ap = reference.average_precision_score(labels[rows], probability[rows])
        assert values["macro", "ap"][r] == pytest.approx(ap)


def test_replicate_without_a_positive_record_is_undefined_not_zero():
    labels, probability = example(50)
    weight = with_replicates(50, replicates=1)
    weight[labels[:, 4] == 1, 1] = 0
    values = multilabel_metrics(labels, probability, np.full(5, 0.5), weight)
    assert np.isnan(values["HYP", "auc"][1]) and np.isnan(values["HYP", "ap"][1])
    assert values["macro", "auc"][1] == pytest.approx(np.mean([values[c, "auc"][1] for c in CLASSES[:4]]))


def test_calibration_error_of_a_known_case():
    labels = np.tile([[1], [1], [0], [0], [0], [0], [0], [0], [0], [1]], (1, 5))
    probability = np.full((10, 5), 0.25)
    probability[0] = 1.0  # alone in the last bin, and right
    values = multilabel_metrics(labels, probability, np.full(5, 0.5), np.ones((10, 1)))
    assert values["MI", "ece"][0] == pytest.approx(0.9 * abs(2 / 9 - 0.25))


def test_threshold_has_the_best_f1_of_all():
    labels, probability = example(150)
    thresholds = choose_thresholds(labels, probability)
    for i in range(5):
        y, candidates = labels[:, i], np.append(np.linspace(0, 1, 101), thresholds[i])
        called = probability[:, i] >= candidates[:, None]  # (102, n)
        f1 = 2 * (called & (y == 1)).sum(axis=1) / (called.sum(axis=1) + y.sum())
        assert f1[-1] == pytest.approx(f1.max())


def test_class_without_positive_record_gets_the_threshold_one_half():
    labels, probability = example()
    labels[:, 2] = 0
    assert choose_thresholds(labels, probability)[2] == 0.5
