"""Intervals and tests keep what their names promise."""

import numpy as np
import pandas as pd
import pytest

from ecg.metrics import multilabel_metrics
from ecg.stats import delong, delong_p, holm, interval, mcnemar_exact, patient_weights


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
    values = multilabel_metrics(labels, probability, np.full(5, 0.5), weight)
    influence = np.stack([delong(labels[:, i], probability[:, i][None])[1][0] for i in range(5)])
    for label, of_label in (("MI", influence[1]), ("macro", influence.mean(axis=0))):
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
