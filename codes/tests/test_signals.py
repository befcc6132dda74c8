"""The preprocessed records as later stages read them: the right rows, or an error."""

import json

import numpy as np
import pandas as pd
import pytest

from ecg.artifacts import UserError
from ecg.labels import make_splits, read_split, read_splits
from ecg.signals import available, load_signals


@pytest.fixture
def own_signals(artifacts, prepared):
    """The artifacts folder with signals that a test may change."""
    (artifacts / "signals").unlink()
    (artifacts / "signals").mkdir()
    for path in (prepared / "signals").iterdir():
        (artifacts / "signals" / path.name).write_bytes(path.read_bytes())
    return artifacts


def test_records_come_in_the_order_that_was_asked_for(prepared):
    signals = load_signals(prepared)
    ecg_id = signals.ecg_id[[7, 3, 11]]
    np.testing.assert_array_equal(signals.rows(ecg_id), [7, 3, 11])
    millivolt = signals.millivolt(ecg_id)
    assert millivolt.dtype == np.float32
    np.testing.assert_allclose(millivolt[1], signals.array[3] / 1000, atol=1e-6)


def test_a_record_that_is_not_there_is_refused_by_its_id(prepared):
    with pytest.raises(UserError, match=r"ecg_id -5.*run codes/03_preprocess\.py"):
        load_signals(prepared).rows(np.array([-5]))


@pytest.mark.parametrize("name", ["superdiagnostic", "form", "all"])
def test_a_task_has_its_own_records_of_the_one_array(prepared, name):
    signals, task = load_signals(prepared), read_splits(prepared).task(name)
    for split in ("train", "val", "test"):
        table = available(prepared, signals, split, task)
        assert len(table) and set(table.ecg_id) == set(read_split(prepared, split, task).ecg_id)
        assert table[list(task.classes)].any(axis=1).all()


def test_rejected_records_are_not_available(own_signals):
    index = own_signals / "signals" / "records.csv"
    table = pd.read_csv(index)
    task = read_splits(own_signals).first
    lost = read_split(own_signals, "train").ecg_id[0]
    kept = table[table.ecg_id != lost]
    kept.assign(row=range(len(kept))).to_csv(index, index=False)
    array = np.load(own_signals / "signals" / "signals.npy")
    np.save(own_signals / "signals" / "signals.npy", array[table.ecg_id != lost])
    signals = load_signals(own_signals)
    left = available(own_signals, signals, "train", task).ecg_id
    assert set(read_split(own_signals, "train").ecg_id) - set(left) == {lost}


def test_an_array_that_disagrees_with_its_index_is_refused(own_signals):
    index = own_signals / "signals" / "records.csv"
    pd.read_csv(index).iloc[:-1].to_csv(index, index=False)
    with pytest.raises(UserError, match=r"disagrees.*run codes/03_preprocess\.py"):
        load_signals(own_signals)


@pytest.mark.parametrize("change", [{"unit": "mV"}, {"leads": ["I", "II"]}, {"n_samples": 999}])
def test_a_description_that_disagrees_with_the_array_is_refused(own_signals, change):
    meta = own_signals / "signals" / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | change))
    with pytest.raises(UserError, match=r"run codes/03_preprocess\.py"):
        load_signals(own_signals)


def test_signals_standardised_on_other_training_records_are_refused(artifacts, synthetic):
    make_splits(data=synthetic, artifacts=artifacts, split="validated")
    with pytest.raises(UserError, match=r"different splits.*run codes/03_preprocess\.py"):
        load_signals(artifacts)


def test_signals_stay_valid_for_other_labels(artifacts, synthetic):
    make_splits(data=synthetic, artifacts=artifacts, labels=("form",), label_policy="likelihood50")
    assert len(load_signals(artifacts).array) == 160
