"""WFDB records: what our own fast reader gives is what the `wfdb` package gives."""

import numpy as np
import pandas as pd
import pytest
import wfdb

from ecg.formats.wfdb import RecordError, read_record, read_wfdb
from ecg.leads import LEADS


@pytest.mark.parametrize(("rate", "column"), [(100, "filename_lr"), (500, "filename_hr")])
def test_the_fast_reader_gives_the_integers_of_wfdb(ptbxl, rate, column):
    table = pd.read_csv(ptbxl / "ptbxl_database.csv", low_memory=False)
    files = [ptbxl / name for name in table[column] if (ptbxl / f"{name}.hea").exists()][:40]
    assert files
    for file in files:
        expected = wfdb.rdrecord(str(file), physical=False).d_signal
        np.testing.assert_array_equal(read_record(file, fs=rate, n_samples=10 * rate), expected)


def test_other_formats_and_gains_are_read_by_wfdb_to_the_same_millivolts(tmp_path):
    millivolt = np.random.default_rng(0).normal(size=(1000, 12)).round(2)
    wfdb.wrsamp(
        "other", fs=100, units=["mV"] * 12, sig_name=list(LEADS), p_signal=millivolt, fmt=["212"] * 12,
        adc_gain=[200.0] * 12, baseline=[5] * 12, write_dir=str(tmp_path),
    )  # fmt: skip
    read = read_record(tmp_path / "other", fs=100, n_samples=1000)
    np.testing.assert_allclose(read / 1000, millivolt, atol=0.5 / 200 + 1e-3)


def test_a_record_of_another_rate_is_refused_by_name(ptbxl):
    name = pd.read_csv(ptbxl / "ptbxl_database.csv", low_memory=False).filename_lr.iloc[0]
    with pytest.raises(RecordError, match="100 Hz, expected 500"):
        read_record(ptbxl / name, fs=500, n_samples=5000)


def test_a_path_through_a_link_is_followed_as_the_system_does(tmp_path):
    """wfdb shortens `link/..` to nothing and would read the record beside the link."""
    for folder, value in (("here", 1.0), ("far", 2.0)):
        (tmp_path / folder).mkdir()
        signal = np.full((100, 12), value)
        options = {"fs": 100, "units": ["mV"] * 12, "sig_name": list(LEADS), "fmt": ["16"] * 12}
        wfdb.wrsamp(
            "a", **options, p_signal=signal, adc_gain=[200.0] * 12, baseline=[0] * 12, write_dir=tmp_path / folder
        )
    (tmp_path / "far/deep").mkdir()
    (tmp_path / "here/link").symlink_to(tmp_path / "far/deep")
    _, _, _, samples = read_wfdb(tmp_path / "here/link/../a")
    np.testing.assert_allclose(samples, 2)
