"""Stage 03: records are read, checked, filtered and stored; nothing is learned from validation and test records."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from ecg.artifacts import ROOT, UserError
from ecg.custom_transformers import AmplitudeLimit, BandPass, LeadStandardizer, TimeDerivative
from ecg.labels import make_splits, read_records
from ecg.leads import LEADS
from ecg.preprocessing import preprocess, widest_band
from ecg.recordings import read_ecg, resample
from ecg.signals import load_signals


@pytest.fixture
def few(synthetic, tmp_path) -> tuple[Path, Path]:
    """A copy of a small PTB-XL that may be damaged, and an artifacts folder with its splits."""
    data, artifacts = tmp_path / "data", tmp_path / "artifacts"
    shutil.copytree(synthetic, data, ignore=shutil.ignore_patterns("records500"))
    make_splits(data=data, artifacts=artifacts)
    return data, artifacts


def of_split(artifacts: Path, split: str) -> pd.DataFrame:
    """Return all records of a split, with a class of the first task or without."""
    records = read_records(artifacts)
    return records[records.split == split]


def path_of(data: Path, artifacts: Path, row: int) -> tuple[int, Path]:
    record = of_split(artifacts, "train").iloc[row]
    return record.ecg_id, data / record.filename_lr


def damage_missing(path: Path) -> None:
    path.with_suffix(".dat").unlink()


def damage_truncated(path: Path) -> None:
    os.truncate(path.with_suffix(".dat"), 6000)


def damage_header(path: Path) -> None:
    path.with_suffix(".hea").write_text("not a header\n")


def damage_length(path: Path) -> None:
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace(" 100 1000", " 100 900"))


def damage_checksum(path: Path) -> None:
    samples = np.fromfile(path.with_suffix(".dat"), "<i2")
    samples[17] += 1
    samples.tofile(path.with_suffix(".dat"))


def damage_leads(path: Path) -> None:
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace(" V1\n", " VX\n"))


def rewrite(path: Path, change) -> None:
    """Change the samples and mend the checksums, so that only the change itself can be found."""
    samples = np.fromfile(path.with_suffix(".dat"), "<i2").reshape(-1, 12)
    change(samples)
    samples.tofile(path.with_suffix(".dat"))
    lines = path.with_suffix(".hea").read_text().splitlines()
    for i, total in enumerate(samples.sum(axis=0, dtype=np.int64)):
        fields = lines[1 + i].split()
        fields[6] = str(int(total) % 65536)
        lines[1 + i] = " ".join(fields)
    path.with_suffix(".hea").write_text("\n".join(lines) + "\n")


def damage_nan(path: Path) -> None:
    rewrite(path, lambda samples: samples.__setitem__((500, 3), -32768))


def damage_flat(path: Path) -> None:
    rewrite(path, lambda samples: samples.__setitem__((slice(None), 8), 12))


def damage_format(path: Path) -> None:
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace(" 16 ", " 999 "))


def damage_checksum_at_another_gain(path: Path) -> None:
    header = path.with_suffix(".hea")
    header.write_text(re.sub(r"1000\S*/mV", "500.0(0)/mV", header.read_text()))
    damage_checksum(path)


DAMAGE = {
    damage_format: "no format that is known",
    damage_checksum_at_another_gain: "checksum of lead",
    damage_missing: "missing",
    damage_truncated: "500 samples|250 samples",
    damage_header: "not a WFDB header",
    damage_length: "900 samples long",
    damage_checksum: "checksum of lead",
    damage_leads: "leads are",
    damage_nan: "NaN",
    damage_flat: "lead V3 is flat",
}


def test_unusable_records_are_listed_with_their_reason_and_the_others_kept(few):
    data, artifacts = few
    damaged = {}
    for row, (damage, reason) in enumerate(DAMAGE.items()):
        ecg_id, path = path_of(data, artifacts, row)
        damage(path)
        damaged[ecg_id] = reason
    preprocess(data=data, artifacts=artifacts)
    rejected = pd.read_csv(artifacts / "signals" / "rejected.csv").set_index("ecg_id")
    assert set(rejected.index) == set(damaged)
    for ecg_id, reason in damaged.items():
        assert pd.Series([rejected.reason[ecg_id]]).str.contains(reason).all(), rejected.reason[ecg_id]
    signals = load_signals(artifacts)
    assert len(signals.ecg_id) == len(signals.array) == len(read_records(artifacts)) - len(damaged)
    assert not set(signals.ecg_id) & set(damaged)
    assert (np.abs(signals.array).max(axis=(1, 2)) > 0).all(), "no row was left empty"
    with pytest.raises(UserError, match=r"run codes/03_preprocess\.py"):
        signals.rows(np.asarray([next(iter(damaged))]))


def in_another_form(path: Path, **form) -> None:
    """Write a record again: at another rate, in another unit, with leads in another order, or a little shorter."""
    fs, unit, order, seconds = (form.get(key, value) for key, value in PTBXL_FORM.items())
    signal = resample(read_ecg(path).rows(LEADS), 100, fs)[:, : round(seconds * fs)]
    signal = signal[[LEADS.index(lead) for lead in order]].T.astype(float) * (1000 if unit == "uV" else 1)
    gain = 1.0 if unit == "uV" else 1000.0
    for suffix in (".hea", ".dat"):
        path.with_suffix(suffix).unlink()
    wfdb.wrsamp(
        path.name,
        fs,
        [unit] * 12,
        list(order),
        p_signal=signal,
        fmt=["16"] * 12,
        adc_gain=[gain] * 12,
        baseline=[0] * 12,
        write_dir=str(path.parent),
    )


PTBXL_FORM = {"fs": 100, "unit": "mV", "order": LEADS, "seconds": 10}


def test_records_in_another_form_are_converted_and_what_would_be_a_guess_is_rejected(few):
    data, artifacts = few
    preprocess(data=data, artifacts=artifacts)
    before = load_signals(artifacts)
    original = {ecg_id: before.array[row].copy() for row, ecg_id in enumerate(before.ecg_id)}
    forms = ({"fs": 257}, {"unit": "uV"}, {"order": LEADS[::-1]}, {"fs": 500, "seconds": 9.998})
    converted = []
    for row, form in enumerate(forms):
        ecg_id, path = path_of(data, artifacts, row)
        in_another_form(path, **form)
        converted.append(ecg_id)
    rejected_ones = {}
    for row, (form, reason) in enumerate((({"fs": 50}, "50 Hz"), ({"seconds": 8}, "8.00 s long")), len(forms)):
        ecg_id, path = path_of(data, artifacts, row)
        in_another_form(path, **form)
        rejected_ones[ecg_id] = reason
    ecg_id, path = path_of(data, artifacts, 6)
    header = path.with_suffix(".hea")
    header.write_text(re.sub(r"1000\S*/mV", "0", header.read_text()))
    rejected_ones[ecg_id] = "gain 0"
    preprocess(data=data, artifacts=artifacts)
    rejected = pd.read_csv(artifacts / "signals" / "rejected.csv").set_index("ecg_id").reason
    assert set(rejected.index) == set(rejected_ones)
    assert all(reason in rejected[ecg_id] for ecg_id, reason in rejected_ones.items()), rejected.to_list()
    signals = load_signals(artifacts)
    for ecg_id in converted:
        now = signals.array[signals.rows(np.asarray([ecg_id]))[0]].astype(int)
        assert np.abs(now - original[ecg_id])[:, 50:-50].mean() < 10, "microvolts"


def test_strict_makes_an_unusable_record_fatal_and_leaves_no_array(few):
    data, artifacts = few
    _, path = path_of(data, artifacts, 3)
    damage_truncated(path)
    with pytest.raises(UserError, match=rf"{path.name}.*--strict"):
        preprocess(data=data, artifacts=artifacts, strict=True)
    assert not list((artifacts / "signals").glob("*"))


def test_stored_signals_are_the_filtered_records_by_ecg_id(few):
    data, artifacts = few
    preprocess(data=data, artifacts=artifacts)
    signals = load_signals(artifacts)
    for name in ("train", "val", "test"):
        record = of_split(artifacts, name).iloc[-1]
        raw = wfdb.rdrecord(str(data / record.filename_lr)).p_signal.T[None]
        expected = AmplitudeLimit(8.0).fit_transform(BandPass(0.5, 40, 3, 100).fit_transform(raw))
        np.testing.assert_allclose(signals.millivolt([record.ecg_id]), expected, atol=0.0011)


def test_standardisation_is_fitted_on_the_training_records_alone(few):
    data, artifacts = few
    preprocess(data=data, artifacts=artifacts)
    meta = load_signals(artifacts).meta
    for name in ("val", "test"):  # another val and test must change nothing
        for record in of_split(artifacts, name).filename_lr:
            rewrite(data / record, lambda samples: np.multiply(samples, 3, out=samples))
    preprocess(data=data, artifacts=artifacts)
    signals = load_signals(artifacts)
    assert signals.meta["source_sha256"] != meta["source_sha256"]
    assert (signals.meta["mean"], signals.meta["std"]) == (meta["mean"], meta["std"])
    train = signals.millivolt(of_split(artifacts, "train").ecg_id.to_numpy())
    np.testing.assert_allclose(meta["std"]["signal"], LeadStandardizer().fit(train).scale_, rtol=1e-3)
    derived = TimeDerivative(fs=100).fit_transform(train)
    np.testing.assert_allclose(meta["std"]["derivative"], LeadStandardizer().fit(derived).scale_, rtol=1e-2)


def test_preprocessing_gives_the_same_bytes_with_any_number_of_threads(few, monkeypatch):
    data, artifacts = few
    monkeypatch.setattr("ecg.preprocessing.CHUNK", 7)
    for row in range(10):  # the whole first chunk is unusable
        damage_truncated(path_of(data, artifacts, row)[1])
    made = []
    for threads in (1, 2, 5):
        monkeypatch.setattr("ecg.preprocessing.cores", lambda threads=threads: threads)
        preprocess(data=data, artifacts=artifacts)
        made.append({path.name: path.read_bytes() for path in (artifacts / "signals").iterdir()})
    assert made[0] == made[1] == made[2]
    assert set(made[0]) == {"signals.npy", "records.csv", "rejected.csv", "meta.json"}
    signals = load_signals(artifacts)
    assert len(signals.array) == len(read_records(artifacts)) - 10


def test_raw_data_are_only_read(few):
    data, artifacts = few
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    preprocess(data=data, artifacts=artifacts)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


def test_both_sampling_rates_can_be_chosen_with_the_band_that_each_holds(synthetic, tmp_path):
    make_splits(data=synthetic, artifacts=tmp_path)
    preprocess(data=synthetic, artifacts=tmp_path, sampling_rate=500)
    signals = load_signals(tmp_path)
    assert signals.fs == 500 and signals.array.shape[1:] == (12, 5000)
    assert (signals.meta["filter"]["low"], signals.meta["filter"]["high"]) == widest_band(500) == (0.5, 150)
    assert widest_band(100) == (0.5, 40)


def test_records_without_a_class_of_the_first_task_are_stored_for_the_others(few):
    """One array serves every task."""
    data, artifacts = few
    preprocess(data=data, artifacts=artifacts)
    assert set(load_signals(artifacts).ecg_id) == set(pd.read_csv(data / "ptbxl_database.csv").ecg_id)


@pytest.mark.parametrize("band", [(0.0, 40.0), (0.5, 50.0), (40.0, 0.5)])
def test_a_band_that_the_rate_does_not_hold_is_refused_by_its_flag(few, band):
    data, artifacts = few
    with pytest.raises(UserError, match="--band"):
        preprocess(data=data, artifacts=artifacts, band=band)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ecg.preprocessing import LeadStandardizer, preprocess
LeadStandardizer.merge = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
preprocess(data=Path(sys.argv[2]), artifacts=Path(sys.argv[3]), limit_mv=1.0)
"""


def test_a_killed_preprocessing_leaves_the_previous_array_whole(few):
    data, artifacts = few
    preprocess(data=data, artifacts=artifacts)
    before = (artifacts / "signals" / "signals.npy").read_bytes()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(ROOT / "codes"), str(data), str(artifacts)], capture_output=True
    )
    assert killed.returncode == -9
    assert (artifacts / "signals" / "signals.npy").read_bytes() == before


def test_a_limit_beyond_what_int16_microvolts_hold_is_refused(few):
    data, artifacts = few
    with pytest.raises(UserError, match=r"--limit-mv.*32\.767"):
        preprocess(data=data, artifacts=artifacts, limit_mv=40.0)


def test_a_stop_between_its_files_leaves_signals_that_do_not_load(few, monkeypatch):
    """New signals beside the old meta.json would be taken for what that describes."""
    data, artifacts = few
    preprocess(data=data, artifacts=artifacts)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ecg.preprocessing.write_csv", stop)
    with pytest.raises(KeyboardInterrupt):
        preprocess(data=data, artifacts=artifacts, band=(5.0, 20.0))
    with pytest.raises(UserError, match=r"meta\.json: run codes/03_preprocess\.py"):
        load_signals(artifacts)
