"""WFDB records: what our own readers give is what the `wfdb` package gives, and more headers are understood."""

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from conftest import ROOT

from benchmarks.damaged_files import mutated
from ecg.formats import RecordError
from ecg.formats.wfdb import parts_of, read, read_record, recognises
from ecg.leads import LEADS

EXTERNAL = ROOT.parent / "shared" / "external" / "records"


@pytest.fixture
def ecg() -> np.ndarray:
    """Integers that fit into any format of 10 bits, (800, 12)."""
    return np.random.default_rng(0).integers(-400, 400, (800, 12))


def write_record(
    header: Path,
    samples: np.ndarray,
    *,
    record_line: str = "",
    gain: str = "200(0)/mV",
    layout: str = "16",
    leads: tuple[str, ...] = LEADS,
    file: str = "",
    prefix: bytes = b"",
    checksum: bool = True,
) -> None:
    """Write integers (t, n_leads), or those in frames (n_frames, samples of a frame), in format 16."""
    header.parent.mkdir(parents=True, exist_ok=True)
    file = file or f"{header.stem}.dat"
    lines = [record_line or f"{header.stem} {len(leads)} 500 {len(samples)}"]
    per_frame = samples.shape[1] // len(leads)
    for i, lead in enumerate(leads):
        own = samples[:, i * per_frame : (i + 1) * per_frame]
        check = f" {own.sum() % 65536} 0 {lead}" if checksum else f" 0 0 {lead}"
        lines.append(f"{file} {layout} {gain} 16 0 {own.flat[0]}{check}")
    header.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (header.parent / file).write_bytes(prefix + samples.astype("<i2").tobytes())


@pytest.mark.parametrize(("rate", "column"), [(100, "filename_lr"), (500, "filename_hr")])
def test_the_fast_reader_gives_the_integers_of_wfdb(ptbxl, rate, column):
    table = pd.read_csv(ptbxl / "ptbxl_database.csv", low_memory=False)
    files = [ptbxl / name for name in table[column] if (ptbxl / f"{name}.hea").exists()][:40]
    assert files
    for file in files:
        expected = wfdb.rdrecord(str(file), physical=False).d_signal
        np.testing.assert_array_equal(read_record(file, fs=rate, n_samples=10 * rate), expected)


def test_other_formats_and_gains_are_read_to_the_same_millivolts_in_training(tmp_path):
    millivolt = np.random.default_rng(0).normal(size=(1000, 12)).round(2)
    wfdb.wrsamp(
        "other", fs=100, units=["mV"] * 12, sig_name=list(LEADS), p_signal=millivolt, fmt=["212"] * 12,
        adc_gain=[200.0] * 12, baseline=[5] * 12, write_dir=str(tmp_path),
    )  # fmt: skip
    read = read_record(tmp_path / "other", fs=100, n_samples=1000)
    np.testing.assert_allclose(read / 1000, millivolt, atol=0.5 / 200 + 1e-3)


def test_training_takes_no_record_whose_gain_is_assumed(tmp_path, ecg):
    write_record(tmp_path / "a.hea", ecg, gain="0")
    with pytest.raises(RecordError, match="gain 0"):
        read_record(tmp_path / "a", fs=500, n_samples=800)


def test_a_record_of_another_rate_is_refused_by_name(ptbxl):
    name = pd.read_csv(ptbxl / "ptbxl_database.csv", low_memory=False).filename_lr.iloc[0]
    with pytest.raises(RecordError, match="100 Hz, expected 500"):
        read_record(ptbxl / name, fs=500, n_samples=5000)


def test_a_path_through_a_link_is_followed_as_the_system_does(tmp_path):
    """wfdb shortens `link/..` to nothing and would read the record beside the link."""
    write_record(tmp_path / "here" / "a.hea", np.full((100, 12), 200))
    write_record(tmp_path / "far" / "a.hea", np.full((100, 12), 400))
    (tmp_path / "far/deep").mkdir()
    (tmp_path / "here/link").symlink_to(tmp_path / "far/deep")
    np.testing.assert_allclose(read(tmp_path / "here/link/../a").signal, 2)


# --- all that wfdb reads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["16", "24", "32", "80", "212", "508", "516", "524"])
@pytest.mark.parametrize("length", [799, 800])
def test_what_wfdb_writes_is_read_to_its_millivolts(tmp_path, ecg, kind, length):
    ecg = ecg[:length, :7]
    ecg = ecg // 4 if kind in ("80", "508") else ecg
    wfdb.wrsamp(
        "a", fs=500, units=["mV"] * 7, sig_name=list(LEADS[:7]), d_signal=ecg, fmt=[kind] * 7,
        adc_gain=[100.0, *[200.5] * 6], baseline=[*[3] * 6, -7], write_dir=str(tmp_path),
    )  # fmt: skip
    expected = wfdb.rdrecord(str(tmp_path / "a")).p_signal
    traces = read(tmp_path / "a.hea")
    assert (traces.fs, traces.names, traces.units, traces.notes) == (500, LEADS[:7], ("mV",) * 7, ())
    np.testing.assert_allclose(traces.signal, expected.T, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["16", "24", "32", "61", "80", "160", "212", "310", "311"])
@pytest.mark.parametrize("length", [799, 800])
def test_any_bytes_mean_what_they_mean_to_wfdb(tmp_path, kind, length):
    """799 or 800 samples of 7 leads end at every place within the groups of the packed formats."""
    content = np.random.default_rng(0).integers(2**32, size=7 * length, dtype=np.uint64).astype("<u4")
    if kind == "311":
        content &= 2**30 - 1  # the upper two bits mean nothing, but wfdb adds one of them
    (tmp_path / "a.dat").write_bytes(content.tobytes())
    (tmp_path / "a.hea").write_text("\n".join([f"a 7 500 {length}", *[f"a.dat {kind} 100(3)/mV"] * 7]))
    expected = wfdb.rdrecord(str(tmp_path / "a")).p_signal
    signal = read(tmp_path / "a.hea").signal
    np.testing.assert_allclose(signal, expected.T, rtol=1e-6)


def test_differences_of_format_8_add_up_from_the_initial_value(tmp_path):
    steps = np.random.default_rng(0).integers(-9, 9, (500, 2)).astype("i1")
    (tmp_path / "a.dat").write_bytes(steps.tobytes())
    (tmp_path / "a.hea").write_text("a 2 250 500\na.dat 8 100/mV 8 0 40\na.dat 8 100/mV 8 0 -3\n")
    expected = wfdb.rdrecord(str(tmp_path / "a")).p_signal
    np.testing.assert_allclose(read(tmp_path / "a").signal, expected.T, rtol=1e-6)


def test_signals_in_several_files_come_in_the_order_of_the_header(tmp_path, ecg):
    write_record(tmp_path / "a.hea", ecg[:, :2], leads=("I", "II"))
    write_record(tmp_path / "b.hea", ecg[:, 2:3], leads=("V1",))
    lines = (tmp_path / "a.hea").read_text().splitlines()
    lines.insert(2, (tmp_path / "b.hea").read_text().splitlines()[1])
    (tmp_path / "c.hea").write_text("\n".join([lines[0].replace("a 2", "c 3"), *lines[1:]]))
    traces = read(tmp_path / "c.hea")
    assert traces.names == ("I", "V1", "II")
    np.testing.assert_allclose(traces.signal, ecg[:, [0, 2, 1]].T / 200, rtol=1e-6)


def test_skewed_signals_are_aligned_as_wfdb_does(tmp_path, ecg):
    write_record(tmp_path / "a.hea", ecg, layout="16")
    text = (tmp_path / "a.hea").read_text()
    (tmp_path / "a.hea").write_text(text.replace("a.dat 16 ", "a.dat 16:7 ", 1))
    expected = wfdb.rdrecord(str(tmp_path / "a")).p_signal.T
    signal = read(tmp_path / "a").signal
    np.testing.assert_allclose(signal, expected, rtol=1e-6)
    assert np.isnan(signal[0, -7:]).all() and np.isfinite(signal[0, :-7]).all()


def test_all_samples_of_a_frame_are_kept(tmp_path, ecg):
    """wfdb gives their average unless asked otherwise, at a quarter of the rate here."""
    write_record(tmp_path / "a.hea", ecg[:, :8], leads=("I", "II"), layout="16x4")
    traces = read(tmp_path / "a")
    expected = wfdb.rdrecord(str(tmp_path / "a"), smooth_frames=False).e_p_signal
    assert traces.fs == 2000
    np.testing.assert_allclose(traces.signal, expected, rtol=1e-6)


def test_a_slower_signal_is_interpolated_to_the_rate_of_the_fastest(tmp_path):
    t = np.arange(400)
    frames = np.stack([2 * t, 2 * t + 1, 10 * t], axis=1)
    (tmp_path / "a.dat").write_bytes(frames.astype("<i2").tobytes())
    (tmp_path / "a.hea").write_text("a 2 250 400\na.dat 16x2 1/mV 16 0 0\na.dat 16 1/mV 16 0 0\n")
    traces = read(tmp_path / "a")
    assert traces.fs == 500
    np.testing.assert_allclose(traces.signal[0], np.arange(800))
    np.testing.assert_allclose(traces.signal[1][:-1], 5 * np.arange(799))


@pytest.mark.parametrize("per_frame", [1, 2])
def test_no_sample_is_nan_and_never_part_of_an_average(tmp_path, ecg, per_frame):
    ecg[100, 3] = -(2**15)
    leads = LEADS[: 12 // per_frame]
    write_record(tmp_path / "a.hea", ecg, layout=f"16x{per_frame}", leads=leads)
    signal = read(tmp_path / "a").signal
    assert np.argwhere(np.isnan(signal)).tolist() == [[3 // per_frame, 100 * per_frame + 3 % per_frame]]
    assert np.nanmax(np.abs(signal)) <= 2


def test_the_recordings_of_other_hospitals_are_all_read():
    headers = sorted(EXTERNAL.glob("*.hea"))
    if not headers:
        pytest.skip("the recordings of other hospitals are not here")
    compared = 0
    for header in headers:
        traces = read(header)
        assert len(traces.names) == 12 and traces.signal.shape[0] == 12 and not np.isnan(traces.signal).any()
        try:
            expected = wfdb.rdrecord(str(header.with_suffix("")))
        except Exception:
            continue  # wfdb cannot read dates in another order
        assert (traces.fs, list(traces.names), list(traces.units)) == (expected.fs, expected.sig_name, expected.units)
        np.testing.assert_allclose(traces.signal, expected.p_signal.T, rtol=1e-6)
        compared += 1
    assert compared > len(headers) / 2


# --- headers that wfdb refuses or misreads ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "record_line"),
    [
        ("challenge", "challenge.mat 12 500 800 05-May-2020 09:49:17"),
        ("a", "a 12 500 800 2006"),
        ("a", "a 12 500 800 31/12/1999 24:61:61"),
        ("a", "a 12 500/500(0) 800 12:00"),
        ("a", "a 12 500.0 800 a date, and more of it"),
        ("1.2.840.113619.2.1", "1.2.840.113619.2.1 12 500 800"),
        ("a record of 12 leads", "a record of 12 leads 12 500 800"),
        ("rec 12", "rec 12 12 500 800"),
        ("renamed", "as it was called 12 500 800 2006"),
        ("Käthe", "Käthe 12 500 800"),
        ("no length", "no length 12 500"),
    ],
)
def test_a_record_line_says_leads_rate_and_length_whatever_stands_around_them(tmp_path, ecg, name, record_line):
    write_record(tmp_path / f"{name}.hea", ecg, record_line=record_line)
    traces = read(tmp_path / f"{name}.hea")
    assert (traces.fs, traces.names) == (500, LEADS)
    np.testing.assert_allclose(traces.signal, ecg.T / 200, rtol=1e-6)


def test_matlab_files_of_the_challenges_are_read_behind_their_24_bytes(tmp_path, ecg):
    write_record(tmp_path / "a.hea", ecg, layout="16+24", file="a.mat", prefix=b"\0" * 24)
    np.testing.assert_allclose(read(tmp_path / "a.mat").signal, ecg.T / 200, rtol=1e-6)


def test_upper_case_of_another_file_system_is_read(tmp_path, ecg):
    write_record(tmp_path / "UPPER.HEA", ecg, file="upper.dat")
    (tmp_path / "upper.dat").rename(tmp_path / "UPPER.DAT")
    for path in ("UPPER.HEA", "UPPER.DAT", "UPPER"):
        assert recognises(tmp_path / path, b"")
        np.testing.assert_allclose(read(tmp_path / path).signal, ecg.T / 200, rtol=1e-6)


def test_comments_and_old_encodings_do_not_matter_and_are_not_kept(tmp_path, ecg):
    write_record(tmp_path / "a.hea", ecg, gain="0.2/uV")
    text = (tmp_path / "a.hea").read_text().replace("uV", "µV")
    text = "# Müller, Käthe\r\n" + text.replace("\n", "\r\n") + "#Dx: 426783006\r\n<patient>Müller</patient>\r\n"
    (tmp_path / "a.hea").write_bytes(text.encode("latin-1"))
    traces = read(tmp_path / "a")
    assert traces.units == ("µV",) * 12
    assert "Müller" not in str(traces)
    np.testing.assert_allclose(traces.signal, ecg.T / 0.2, rtol=1e-6)


@pytest.mark.parametrize("gain", ["0", "0/mV", "0(0)/mV"])
def test_gain_0_is_the_200_units_of_the_format_and_said(tmp_path, ecg, gain):
    write_record(tmp_path / "a.hea", ecg, gain=gain)
    traces = read(tmp_path / "a")
    np.testing.assert_allclose(traces.signal, ecg.T / 200, rtol=1e-6)
    assert traces.notes == ("gain 0 (uncalibrated) read as 200 units per mV",)


def test_a_header_may_say_nothing_but_leads_and_formats(tmp_path, ecg):
    (tmp_path / "a.dat").write_bytes(ecg[:, :2].astype("<i2").tobytes())
    (tmp_path / "a.hea").write_text("a 2\na.dat 16\na.dat 16\n")
    traces = read(tmp_path / "a")
    assert (traces.fs, traces.names, traces.units) == (250, ("", ""), ("mV", "mV"))
    assert "250 Hz" in traces.notes[0] and "200 units" in traces.notes[1]
    np.testing.assert_allclose(traces.signal, ecg[:, :2].T / 200, rtol=1e-6)


def test_a_signal_file_is_recognised_by_the_header_that_names_it(tmp_path, ecg):
    write_record(tmp_path / "a.hea", ecg)
    (tmp_path / "a.csv").write_text("1,2\n")
    (tmp_path / "alone.dat").write_bytes(b"1234")
    assert [recognises(tmp_path / name, b"") for name in ("a", "a.hea", "a.dat")] == [True] * 3
    assert [recognises(tmp_path / name, b"") for name in ("a.csv", "alone.dat", "b", "b.hea")] == [False] * 4


# --- segments --------------------------------------------------------------------------------------------------------


@pytest.fixture
def segments(tmp_path: Path, ecg: np.ndarray) -> Path:
    """Two segments with gains 200 and 40 per mV, the second with its leads in another order and unit; a gap between."""
    write_record(tmp_path / "s1.hea", ecg[:300])
    write_record(tmp_path / "s2.hea", ecg[300:, ::-1], gain=".04/uV", leads=LEADS[::-1])
    lines = [f"~ 0 200/mV 12 0 0 0 0 {lead}" for lead in LEADS]
    (tmp_path / "layout.hea").write_text("\n".join(["layout 12 500 0", *lines]))
    (tmp_path / "variable.hea").write_text("variable/4 12 500 900\nlayout 0\ns1 300\n~ 100\ns2 500\n")
    return tmp_path


def test_each_segment_has_its_own_gain_unit_and_order_of_leads(segments, ecg):
    traces = read(segments / "variable.hea")
    assert (traces.fs, traces.names, traces.units) == (500, LEADS, ("mV",) * 12)
    np.testing.assert_allclose(traces.signal[:, :300], ecg[:300].T / 200, rtol=1e-6)
    assert np.isnan(traces.signal[:, 300:400]).all()
    np.testing.assert_allclose(traces.signal[:, 400:], ecg[300:].T / 40, rtol=1e-6)


def test_segments_of_a_fixed_layout_take_their_own_gains(tmp_path, ecg):
    """wfdb takes the first segment's gain for all: the second half came out five times too small."""
    write_record(tmp_path / "s1.hea", ecg[:300], gain="1000/mV")
    write_record(tmp_path / "s2.hea", ecg[300:], gain="200/mV")
    (tmp_path / "fixed.hea").write_text("fixed/2 12 500 800\ns1 300\ns2 500\n")
    expected = np.concatenate([ecg[:300] / 1000, ecg[300:] / 200]).T
    np.testing.assert_allclose(read(tmp_path / "fixed").signal, expected, rtol=1e-6)


def test_a_lead_that_a_segment_does_not_have_is_missing_there(segments, ecg):
    write_record(segments / "s2.hea", ecg[300:, :3], leads=LEADS[:3])
    signal = read(segments / "variable.hea").signal
    assert np.isnan(signal[3:, 400:]).all() and np.isfinite(signal[:3, 400:]).all()


def test_parts_of_a_record_are_named_as_such(segments):
    assert parts_of(segments) == dict.fromkeys(("layout.hea", "s1.hea", "s2.hea"), "variable.hea") | {
        "~.hea": "variable.hea"
    }
    for part in ("layout.hea", "s1.hea", "s2.dat"):
        with pytest.raises(RecordError, match=r"part of the record variable\.hea"):
            read(segments / part)


def test_a_layout_without_its_record_is_told_from_a_recording(segments):
    (segments / "variable.hea").unlink()
    with pytest.raises(RecordError, match="layout"):
        read(segments / "layout.hea")
    read(segments / "s1.hea")  # nothing says that this is part of anything


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("s2 500", "s3 500"), "s3.hea is missing"),
        (lambda text: text.replace("s2 500", "variable 500"), "in segments itself"),
        (lambda text: text.replace("s2 500", "s2 400").replace("900", "800"), "s2 has 500 samples"),
        (lambda text: text.replace("900", "901"), "900 samples, its header says 901"),
        (lambda text: text.replace("500 900", "250 900"), "s1 has 500 Hz"),
        (lambda text: text.replace("~ 100", "~ 99999999999").replace(" 900", ""), "damaged"),
        (lambda text: text.replace("variable/4", "variable/5"), "5 segments"),
        (lambda text: text.replace("s2 500", "../s2 500"), "outside"),
    ],
)
def test_segments_that_do_not_fit_together_are_refused(segments, change, message):
    path = segments / "variable.hea"
    path.write_text(change(path.read_text()))
    with pytest.raises(RecordError, match=message):
        read(path)


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "empty"),
        (lambda text: "\x00\x01 no header\n", "not a WFDB header"),
        (lambda text: text.replace(" 16 ", " 999 "), "format"),
        (lambda text: text.replace("500 800", "500 801"), "cut off"),
        (lambda text: text.replace("500 800", "500 99999999999"), "cut off"),
        (lambda text: text.replace("a 12", "a 13"), "13 leads announced, 12 described"),
        (lambda text: text.replace("a.dat", "b.dat"), "b.dat is missing"),
        (lambda text: text.replace("a.dat", "../a.dat"), "outside"),
        (lambda text: text.replace(" 16 ", " 24 ", 1), "several formats"),
        (lambda text: text.replace("200(0)/mV", "1e999/mV"), "gain of signal 1"),
        (lambda text: text.replace("500 800", "nan 800"), "rate"),
    ],
)
def test_a_damaged_header_is_refused_with_what_is_wrong(tmp_path, ecg, change, message):
    write_record(tmp_path / "a.hea", ecg)
    (tmp_path / "a.hea").write_text(change((tmp_path / "a.hea").read_text()))
    with pytest.raises(RecordError, match=message):
        read(tmp_path / "a.hea")


def test_a_changed_sample_is_found_by_its_checksum_unless_told_not_to_look(tmp_path, ecg):
    write_record(tmp_path / "a.hea", ecg, checksum=True)
    ecg[400, 5] += 1
    (tmp_path / "a.dat").write_bytes(ecg.astype("<i2").tobytes())
    with pytest.raises(RecordError, match="checksum of lead aVF"):
        read(tmp_path / "a.hea")
    np.testing.assert_allclose(read(tmp_path / "a.hea", checksums=False).signal, ecg.T / 200, rtol=1e-6)


@pytest.mark.parametrize("damaged", ["a.hea", "a.dat", "variable.hea", "flac.hea", "flac.dat"])
def test_no_mutation_of_a_record_does_worse_than_be_refused(segments, ecg, damaged):
    write_record(segments / "a.hea", ecg)
    wfdb.wrsamp(
        "flac", fs=500, units=["mV"] * 2, sig_name=["I", "II"], d_signal=ecg[:, :2], fmt=["516"] * 2,
        adc_gain=[200] * 2, baseline=[0] * 2, write_dir=str(segments),
    )  # fmt: skip
    path = segments / damaged
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(int(os.environ.get("ECG_MUTATIONS", "50"))):
        path.write_bytes(mutated(content, rng))
        begin = time.perf_counter()
        try:
            traces = read(path.with_suffix(".hea"))
            assert traces.signal.shape[0] == len(traces.names) == len(traces.units)
        except RecordError as error:
            assert str(error)
        assert time.perf_counter() - begin < 5
