"""Who goes where: train, validation and test under both rules."""

import numpy as np
import pandas as pd
import pytest

from ecg.artifacts import UserError
from ecg.labels import assign_split


def patients(n: int, validated: int, *, records_each: int = 2) -> pd.DataFrame:
    """Return `n` patients with some records each; all records of the first `validated` were seen by a human."""
    patient = np.repeat(np.arange(n), records_each)
    return pd.DataFrame(
        {
            "ecg_id": np.arange(len(patient)) + 1,
            "patient_id": patient,
            "strat_fold": patient % 10 + 1,
            "validated_by_human": patient < validated,
        }
    )


def patients_in(database: pd.DataFrame, parts: pd.Series) -> dict[str, set[int]]:
    return {name: set(rows.patient_id) for name, rows in database.groupby(parts)}


@pytest.mark.parametrize("validated", [40, 60, 100])
def test_validation_and_test_have_a_tenth_of_all_patients_each_however_many_were_validated(validated):
    database = patients(100, validated)
    found = patients_in(database, assign_split(database, split="validated"))
    assert (len(found["val"]), len(found["test"]), len(found["train"])) == (10, 10, 80)


@pytest.mark.parametrize(("validated", "each"), [(12, 6), (7, 3), (19, 9)])
def test_fewer_validated_patients_are_halved_between_validation_and_test(validated, each):
    database = patients(100, validated)
    found = patients_in(database, assign_split(database, split="validated"))
    assert len(found["val"]) == len(found["test"]) == each


def test_only_patients_all_of_whose_records_were_validated_leave_the_training_set():
    database = patients(100, 60)
    database.loc[database.patient_id < 30, "validated_by_human"] = [False, True] * 30  # one record of each was not
    found = patients_in(database, assign_split(database, split="validated"))
    assert found["val"] | found["test"] <= set(range(30, 60))
    assert found["train"] >= set(range(30)) | set(range(60, 100))


def test_the_validated_split_is_random_but_the_same_every_time_and_in_any_order_of_rows():
    database = patients(100, 60)
    parts = assign_split(database, split="validated")
    shuffled = database.sample(frac=1, random_state=1)
    assert (assign_split(shuffled, split="validated").loc[database.index] == parts).all()
    assert patients_in(database, parts)["val"] != set(range(10))


def test_folds_1_to_8_train_9_validates_and_10_tests():
    database = patients(100, 60)
    parts = assign_split(database, split="folds")
    for fold, expected in [*((fold, "train") for fold in range(1, 9)), (9, "val"), (10, "test")]:
        assert set(parts[database.strat_fold == fold]) == {expected}


@pytest.mark.parametrize("fold", [0, 11])
def test_folds_outside_1_to_10_are_refused(fold):
    database = patients(20, 10)
    database.loc[3, "strat_fold"] = fold
    with pytest.raises(UserError, match="ecg_id 4"):
        assign_split(database, split="folds")


def test_a_patient_in_two_folds_of_different_parts_is_refused():
    database = patients(20, 10)
    database.loc[database.patient_id == 3, "strat_fold"] = [8, 9]
    with pytest.raises(UserError, match="patient 3"):
        assign_split(database, split="folds")
    database.loc[database.patient_id == 3, "strat_fold"] = [7, 8]  # both train
    assert set(assign_split(database, split="folds")[database.patient_id == 3]) == {"train"}


def test_an_unknown_rule_is_refused():
    with pytest.raises(UserError, match="folds or validated"):
        assign_split(patients(20, 10), split="random")
