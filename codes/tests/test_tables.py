"""Tables of text, Apple Watch and Kardia exports, and arrays of NumPy and MATLAB: how they are understood."""

import io
import json
import os
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from benchmarks.damaged_files import mutated
from ecg.formats import RecordError, arrays, kardia, table
from ecg.leads import LEADS, PAGE_3X4

NAMES = ("I", "II", "V1")


@pytest.fixture
def ecg() -> np.ndarray:
    """Millivolts with three decimals, (300, 3)."""
    return np.random.default_rng(0).normal(size=(300, 3)).round(3)


def lines(ecg: np.ndarray, sign: str = ",", decimal: str = ".", end: str = "\n") -> str:
    return end.join(sign.join(f"{value:.3f}".replace(".", decimal) for value in row) for row in ecg)


def with_times(ecg: np.ndarray, times: list[str]) -> str:
    return "\n".join(f"{first},{row}" for first, row in zip(times, lines(ecg).splitlines(), strict=True))


def read_text(folder: Path, text: str, encoding: str = "utf-8") -> table.Traces:
    """Write text as a file, check that it is recognised, and read it."""
    path = folder / "ecg.csv"
    path.write_bytes(text.encode(encoding))
    assert table.recognises(path, path.read_bytes()[:4096])
    return table.read(path)


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "sign", "decimal"),
    [
        ("I,II,V1\n", ",", "."),
        ("I, II, V1\n", ", ", "."),
        ('"I","II","V1"\n', ",", "."),
        ("# I,II,V1\n", ",", "."),
        ("# an ECG\n\nI,II,V1\n", ",", "."),
        ("I;II;V1\n", ";", "."),
        ("I;II;V1\n", ";", ","),
        ("I\tII\tV1\n", "\t", "."),
        ("I\tII\tV1\n", "\t", ","),
        ("I II V1\n", "  ", "."),
        ("I II V1\n", " ", ","),
        ("I|II|V1\n", "|", "."),
    ],
)
def test_separator_and_decimal_sign_are_told_from_the_numbers(tmp_path, ecg, heading, sign, decimal):
    traces = read_text(tmp_path, heading + lines(ecg, sign, decimal))
    assert (traces.fs, traces.names, traces.units, traces.notes) == (0, NAMES, ("", "", ""), ())
    np.testing.assert_array_equal(traces.signal, ecg.T)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_and_line_ends_do_not_matter(tmp_path, ecg, encoding, end):
    heading = f"Übersicht{end}I (µV);II (µV);V1 (µV){end}"
    traces = read_text(tmp_path, heading + lines(ecg, ";", ",", end), encoding)
    assert (traces.names, traces.units) == (NAMES, ("µV",) * 3)
    np.testing.assert_array_equal(traces.signal, ecg.T)


@pytest.mark.parametrize(
    ("heading", "names", "units"),
    [
        ("", ("", "", ""), ("", "", "")),
        ("Lead I,Lead II,Lead V1\n", ("Lead I", "Lead II", "Lead V1"), ("", "", "")),
        ("I (mV),II [uV],V1_mV\n", NAMES, ("mV", "uV", "mV")),
        ("I,II,V1\nmV,mV,mV\n", NAMES, ("mV", "mV", "mV")),
        ("# unit: uV\nI,II,V1\n", NAMES, ("uV", "uV", "uV")),
        ("0,1,2\n", ("", "", ""), ("", "", "")),  # of pandas without names
    ],
)
def test_names_and_units_are_those_of_the_file_or_empty(tmp_path, ecg, heading, names, units):
    traces = read_text(tmp_path, heading + lines(ecg))
    assert (traces.names, traces.units) == (names, units)
    np.testing.assert_array_equal(traces.signal, ecg.T)


@pytest.mark.parametrize(
    ("heading", "times", "fs", "noted"),
    [
        ("time (s)", [f"{i / 500:.3f}" for i in range(300)], 500, False),
        ("time", [f"{i / 500:.3f}" for i in range(300)], 500, True),
        ("time_ms", [str(2 * i) for i in range(300)], 500, False),
        ("time_ms", [str(i) for i in range(300)], 1000, False),
        ("t", [str(4 * i) for i in range(300)], 250, True),
        ("t", [f"{i / 360:.3f}" for i in range(300)], 360, True),
        ("t [us]", [str(2000 * i + 10**9) for i in range(300)], 500, False),
        ("Zeit (ms)", [f"{1000 * i / 512:.4f}" for i in range(300)], 512, False),
        ("sample", [str(i) for i in range(300)], 0, False),
        ("", [str(i) for i in range(300)], 0, False),
        ("time", [str(i) for i in range(300)], 0, False),  # samples or ms: not known
        ("time", [f"0:00:{i / 250:06.3f}" for i in range(300)], 250, False),
        ("time", [f"2020-01-31 23:59:{59 + i / 1000:06.3f}" for i in range(300)], 1000, False),
    ],
)
def test_a_first_column_of_times_gives_the_rate_and_is_no_lead(tmp_path, ecg, heading, times, fs, noted):
    traces = read_text(tmp_path, f"{heading},I,II,V1\n" + with_times(ecg, times))
    assert (traces.fs, traces.names, bool(traces.notes)) == (fs, NAMES, noted)
    np.testing.assert_array_equal(traces.signal, ecg.T)


def test_times_without_a_heading_are_known_by_rising_evenly(tmp_path, ecg):
    traces = read_text(tmp_path, with_times(ecg, [f"{i / 500:.3f}" for i in range(300)]))
    assert (traces.fs, traces.names) == (500, ("", "", ""))


def test_times_that_leave_out_a_stretch_are_said(tmp_path, ecg):
    times = [f"{(i + 50 * (i > 100)) / 500:.3f}" for i in range(300)]
    traces = read_text(tmp_path, "time (s),I,II,V1\n" + with_times(ecg, times))
    assert traces.fs == 500 and "leave out 1 stretch" in traces.notes[0]


def test_the_table_of_physionets_export_is_read(tmp_path, ecg):
    times = [f"'0:00.{1000 * i // 250:03d}'" if i < 250 else f"'0:01.{1000 * i // 250 - 1000:03d}'" for i in range(300)]
    heading = "'Elapsed time','I','II','V1'\n'hh:mm:ss.mmm','mV','mV','mV'\n"
    traces = read_text(tmp_path, heading + with_times(ecg, times))
    assert (traces.fs, traces.names, traces.units) == (250, NAMES, ("mV",) * 3)


@pytest.mark.parametrize(
    ("comment", "fs"),
    [
        ("# fs = 500", 500),
        ("# Sampling rate: 257 Hz", 257),
        ("# sampling_frequency,1000", 1000),
        ("# 250 Hz", 250),
        ("# low pass 150 Hz, mains 50 Hz\n# sampled at 500 Hz", 500),
        ("# low pass: 150 Hz", 0),
        ("# 250 Hz\n# 500 Hz", 0),
        ("# heart rate: 72", 0),
    ],
)
def test_a_line_above_may_state_the_rate(tmp_path, ecg, comment, fs):
    assert read_text(tmp_path, f"{comment}\nI,II,V1\n{lines(ecg)}").fs == fs


@pytest.mark.parametrize("first", [None, 0, 2])
@pytest.mark.parametrize("labels", [True, False])
def test_leads_may_stand_in_rows(tmp_path, ecg, first, labels):
    rows = [",".join(map(str, column)) for column in ecg.T]
    if first is not None:  # a row of samples, or of milliseconds
        rows.insert(0, ",".join(str(i * max(1, first)) for i in range(300)))
    if labels:
        names = NAMES if first is None else ("", *NAMES)
        rows = [f"{name},{row}" for name, row in zip(names, rows, strict=True)]
    traces = read_text(tmp_path, "\n".join(rows))
    assert traces.names == (NAMES if labels else ("", "", ""))
    assert traces.fs == (500 if first else 0)
    np.testing.assert_array_equal(traces.signal, ecg.T)


@pytest.mark.parametrize("hole", ["", "nan", "NaN", "NA", "null"])
def test_a_digitised_page_keeps_its_empty_cells(tmp_path, hole):
    page = np.full((1000, 12), np.nan)
    for k, column in enumerate(zip(*PAGE_3X4, strict=True)):
        for lead in column:
            page[250 * k : 250 * (k + 1), LEADS.index(lead)] = np.random.default_rng(k).normal(size=250)
    text = pd.DataFrame(page, columns=LEADS).to_csv(index=False, na_rep=hole)
    traces = read_text(tmp_path, text)
    assert traces.names == LEADS
    np.testing.assert_allclose(traces.signal, page.T, rtol=1e-12)


@pytest.mark.parametrize("sign", [",", ";"])
def test_a_separator_at_the_end_of_each_line_makes_no_lead(tmp_path, ecg, sign):
    text = f"I{sign}II{sign}V1\n" + "\n".join(f"{line}{sign}" for line in lines(ecg, sign).splitlines())
    traces = read_text(tmp_path, text)
    assert traces.names == NAMES
    np.testing.assert_array_equal(traces.signal, ecg.T)


def test_rows_with_numbers_of_their_own_and_columns_of_text_are_no_leads(tmp_path, ecg):
    rows = [f'"{i + 1}" {line} N' for i, line in enumerate(lines(ecg, " ").splitlines())]
    traces = read_text(tmp_path, '"I" "II" "V1" "beat"\n' + "\n".join(rows))
    assert traces.names == NAMES
    np.testing.assert_array_equal(traces.signal, ecg.T)


def test_a_last_row_that_is_cut_off_is_left_out(tmp_path, ecg):
    traces = read_text(tmp_path, "I,II,V1\n" + lines(ecg).rpartition(",")[0])
    np.testing.assert_array_equal(traces.signal, ecg[:-1].T)


def test_a_single_column_may_have_decimal_commas_without_semicolons(tmp_path):
    values = np.round(np.sin(np.arange(300)), 2)
    traces = read_text(tmp_path, "II\n" + "\n".join(f"{value:g}".replace(".", ",") for value in values))
    assert traces.names == ("II",)
    np.testing.assert_array_equal(traces.signal[0], values)


def test_other_text_is_not_taken_for_a_table(tmp_path):
    texts = [
        "",
        "# Title\n\nSome words, and 2 numbers.\n",
        '{"a": [1, 2]}\n',
        "<xml>1 2 3</xml>\n",
        "name,age\nEve,31\n",
    ]
    assert not any(table.recognises(tmp_path / "a.csv", text.encode()) for text in texts)
    assert not table.recognises(tmp_path / "a.csv", b"1,2\n\x00\x01\n3,4\n")
    metadata = "ecg_id,patient_id,age,report\n" + "\n".join(f"{i},{i}.0,56.0,sinus,('NORM')" for i in range(50))
    assert not table.recognises(tmp_path / "a.csv", metadata.encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("0.126", "0.l26"), "column I: row 1 .* is no number"),
        (lambda text: text.replace("0.126,", "0.126,7,"), "row 1 .* has 4 cells, most have 3"),
        (lambda text: text.replace("0.126,", ""), "row 1 .* has 2 cells, most have 3"),
        (lambda text: "\n".join(text.splitlines()[:1]), "no lines of numbers"),
        (lambda text: "\0" + text, "no text"),
    ],
)
def test_a_damaged_table_is_refused_with_its_place(tmp_path, ecg, change, message):
    (tmp_path / "a.csv").write_text(change("I,II,V1\n" + lines(ecg)))
    with pytest.raises(RecordError, match=message):
        table.read(tmp_path / "a.csv")


# --- Apple Watch -----------------------------------------------------------------------------------------------------

ENGLISH = (
    'Name,Eve Example\nDate of Birth,"Jan 8, 1972"\nRecorded Date,2026-05-30 16:32:18 -0700\n'
    "Classification,Sinus Rhythm\nAverage Heart Rate,64 bpm\nSymptoms,\nSoftware Version,1.90\n"
    'Device,"Watch7,12"\nSample Rate,512 hertz\n\n\nLead,Lead I\nUnit,µV\n\n'
)
GERMAN = (
    'Name\nGeburtstag,"08.01.1972"\nAufzeichnungsdatum,2020-07-31 22:48:19 +0200\nKlassifizierung,Sinusrhythmus\n'
    'Symptome,\nSoftwareversion,1.13\nGerät,"Watch4,2"\nMessrate,511,562\xa0Hertz\n\n\nAbleitung,Ableitung I\n'
    "Einheit,µV\n\n"
)
FRENCH = GERMAN.replace("Messrate", "Fréquence d’échantillonnage").replace("Ableitung", "Dérivation")
CHINESE = GERMAN.replace("Messrate", "采样率").replace("Hertz", "赫兹").replace("Ableitung,Ableitung I", "导联,I导联")


@pytest.mark.parametrize(
    ("heading", "fs", "decimal", "device"),
    [
        (ENGLISH, 512, ".", "Apple Watch7,12"),
        (ENGLISH, 512, ",", "Apple Watch7,12"),
        (GERMAN, 511.562, ",", "Apple Watch4,2"),
        (FRENCH, 511.562, ",", "Apple Watch4,2"),
        (CHINESE, 511.562, ".", "Apple Watch4,2"),
    ],
)
def test_an_apple_watch_export_is_read_in_any_language_and_without_its_person(tmp_path, heading, fs, decimal, device):
    values = np.round(np.random.default_rng(0).normal(0, 200, 600), 3)
    values[::50] = np.round(values[::50])  # written without decimals
    traces = read_text(tmp_path, heading + "\n".join(f"{value:.9g}".replace(".", decimal) for value in values))
    assert (traces.fs, traces.names, traces.units, traces.device) == (fs, ("I",), ("µV",), device)
    np.testing.assert_array_equal(traces.signal[0], values)
    assert not any(word in repr(traces) for word in ("Eve", "Example", "1972", "2026", "Sinus"))


def test_an_apple_watch_export_without_its_unit_still_has_decimal_commas(tmp_path):
    heading = GERMAN.replace("Einheit,µV\n", "")
    traces = read_text(tmp_path, heading + "\n".join(f"{value:.3f}".replace(".", ",") for value in (1.5, -2.25) * 50))
    np.testing.assert_array_equal(traces.signal, [[1.5, -2.25] * 50])


def test_an_apple_watch_export_that_is_damaged_does_not_show_its_person(tmp_path):
    (tmp_path / "a.csv").write_text(ENGLISH + "1\n2\n3\nEve Example\n", encoding="utf-8")
    with pytest.raises(RecordError) as refused:
        table.read(tmp_path / "a.csv")
    assert "Eve" not in str(refused.value)


# --- Kardia ----------------------------------------------------------------------------------------------------------

SIX = ("leadI", "leadII", "leadIII", "AVR", "AVL", "AVF")


def kardia_recording(samples: np.ndarray, **changes) -> dict:
    def block(values):
        leads = dict(zip(SIX, values.T.tolist(), strict=False))
        return {"frequency": 300, "mainsFrequency": 50, "amplitudeResolution": 500, "samples": leads} | changes

    return {
        "id": "abc",
        "patientID": "Eve Example",
        "recordedAt": "2026-05-30T16:32:18Z",
        "algorithmDetermination": "normal",
        "data": {"enhanced": block(samples // 2), "raw": block(samples)},
    }


@pytest.mark.parametrize("n", [1, 6])
def test_kardia_leads_come_in_microvolts_by_the_resolution_in_nanovolts(tmp_path, n):
    samples = np.random.default_rng(0).integers(-2000, 2000, (900, n))
    path = tmp_path / "a.json"
    path.write_text(json.dumps(kardia_recording(samples)))
    assert kardia.recognises(path, path.read_bytes()[:4096])
    traces = kardia.read(path)
    assert (traces.fs, traces.names, set(traces.units)) == (300, LEADS[:n], {"uV"})
    np.testing.assert_allclose(traces.signal, samples.T / 2)
    assert "Eve" not in repr(traces)


def test_kardia_is_read_as_another_library_reads_it(tmp_path):
    parser = pytest.importorskip("ecgdatakit.parsing.parsers.alivecor_kardia", reason="needs ecgdatakit")
    samples = np.random.default_rng(0).integers(-2000, 2000, (900, 6))
    path = tmp_path / "a.json"
    path.write_text(json.dumps(kardia_recording(samples)))
    other = parser.AliveCorKardiaParser().parse(path)
    traces = kardia.read(path)
    assert traces.names == tuple(lead.label for lead in other.leads)
    for values, lead in zip(traces.signal, other.leads, strict=True):
        assert lead.sampling_rate == traces.fs and lead.resolution_unit == "uV"
        np.testing.assert_allclose(values, lead.samples * (lead.resolution if lead.is_raw else 1))


def test_kardia_without_resolution_has_no_unit(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(kardia_recording(np.ones((900, 1), int), amplitudeResolution=None)))
    assert kardia.read(path).units == ("",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data": {"raw"', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"data": {}}', "no ECG"),
        ('{"data": {"raw": {"samples": {}}}}', "no samples"),
        ('{"data": {"raw": {"samples": {"leadI": [1, 2], "leadII": [1]}}}}', "differ in length"),
        ('{"data": {"raw": {"samples": {"leadI": [1, "Eve"]}}}}', "data.raw.samples.leadI is no list of numbers"),
        ('{"data": {"raw": {"samples": {"leadI": [[1], [2]]}}}}', "no list of numbers"),
    ],
)
def test_a_damaged_kardia_recording_is_refused_with_the_field(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RecordError, match=message):
        kardia.read(tmp_path / "a.json")


# --- arrays ----------------------------------------------------------------------------------------------------------


def read_array(path: Path) -> arrays.Traces:
    assert arrays.recognises(path, path.read_bytes()[:4096])
    return arrays.read(path)


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "f2", "i2", ">i4", "u1"])
@pytest.mark.parametrize("turned", [False, True])
def test_npy_has_the_shorter_axis_as_leads(tmp_path, dtype, turned):
    signal = np.random.default_rng(0).integers(0, 100, (12, 5000)).astype(dtype)
    np.save(tmp_path / "a.npy", signal.T if turned else signal)
    traces = read_array(tmp_path / "a.npy")
    assert (traces.fs, traces.names, traces.units) == (0, ("",) * 12, ("",) * 12)
    np.testing.assert_array_equal(traces.signal, signal)


@pytest.mark.parametrize("shape", [(5000,), (1, 5000), (5000, 1), (1, 5000, 1)])
def test_one_axis_is_one_lead(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.arange(5000.0).reshape(shape))
    np.testing.assert_array_equal(read_array(tmp_path / "a.npy").signal, np.arange(5000.0)[None])


def test_a_batch_of_one_is_its_recording_and_of_more_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 12, 500)))
    np.save(tmp_path / "b.npy", np.zeros((2, 12, 500)))
    assert read_array(tmp_path / "a.npy").signal.shape == (12, 500)
    with pytest.raises(RecordError, match="2x12x500: several recordings"):
        arrays.read(tmp_path / "b.npy")


def npz(path: Path, **fields) -> None:
    np.savez_compressed(path, **fields)


def mat_5(path: Path, **fields) -> None:
    savemat(path, fields, do_compression=True)


def mat_4(path: Path, **fields) -> None:
    savemat(path, fields, format="4")


WRITERS = pytest.mark.parametrize(("suffix", "write"), [(".npz", npz), (".mat", mat_5), (".mat", mat_4)])


@WRITERS
@pytest.mark.parametrize("key", ["signal", "ecg", "X", "whatever"])
def test_a_file_of_variables_is_read_by_their_names(tmp_path, ecg, suffix, write, key):
    write(tmp_path / f"a{suffix}", **{key: ecg.T, "fs": 500.0})
    traces = read_array(tmp_path / f"a{suffix}")
    assert (traces.fs, traces.names, traces.units) == (500, ("", "", ""), ("", "", ""))
    np.testing.assert_array_equal(traces.signal, ecg.T)


@pytest.mark.parametrize(
    ("suffix", "write", "texts"),
    [(".npz", npz, np.array), (".mat", mat_5, lambda names: np.array(names, object)), (".mat", mat_5, np.array)],
)
def test_names_and_unit_are_taken_from_variables(tmp_path, ecg, suffix, write, texts):
    write(tmp_path / f"a{suffix}", signal=ecg, sampling_rate=np.array([[250]]), leads=texts([*NAMES]), unit="uV")
    traces = read_array(tmp_path / f"a{suffix}")
    assert (traces.fs, traces.names, traces.units) == (250, NAMES, ("uV",) * 3)


@pytest.mark.parametrize(("suffix", "write"), [(".npz", npz), (".mat", mat_5)])
def test_a_variable_for_each_lead_is_named_by_it(tmp_path, ecg, suffix, write):
    write(tmp_path / f"a{suffix}", **dict(zip(NAMES, ecg.T, strict=True)))
    traces = read_array(tmp_path / f"a{suffix}")
    assert traces.names == NAMES
    np.testing.assert_array_equal(traces.signal, ecg.T)


def test_the_fields_of_a_struct_are_variables_too(tmp_path, ecg):
    savemat(tmp_path / "a.mat", {"ECG": {"sex": "Female", "age": 63, "data": ecg.T, "fs": 400}})
    traces = read_array(tmp_path / "a.mat")
    assert traces.fs == 400 and "Female" not in repr(traces)
    np.testing.assert_array_equal(traces.signal, ecg.T)


def test_physionets_matrix_says_that_its_units_are_the_recorders(tmp_path):
    mat_4(tmp_path / "a.mat", val=np.arange(2400, dtype=np.int16).reshape(2, 1200))
    traces = read_array(tmp_path / "a.mat")
    assert traces.signal.shape == (2, 1200) and ".hea" in traces.notes[0]


def test_version_7_3_is_refused_with_the_cure(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(500))
    with pytest.raises(RecordError, match="-v7"):
        read_array(tmp_path / "a.mat")


def test_nothing_is_unpickled(tmp_path, ecg):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    np.save(tmp_path / "a.npy", np.array([Trap()]), allow_pickle=True)
    np.savez(tmp_path / "a.npz", signal=np.array([Trap()]))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(RecordError, match="Python objects"):
            read_array(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def npy_header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_a_size_that_is_not_there_is_refused_before_memory_is_taken(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy_header((12, 10**11)) + bytes(800))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("signal.npy", npy_header((12, 10**11)) + bytes(800))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(RecordError, match="has 800 instead of 9600000000000 bytes for an array of 12x100000000000"):
            read_array(tmp_path / name)


def test_bombs_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MOST_BYTES", 2**22)
    zeros = bytes(2**23)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy_header((1, 2**20)) + zeros)
    content = zlib.compress(zeros)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    (tmp_path / "a.mat").write_bytes(header + struct.pack("<II", 15, len(content)) + content)
    for name in ("a.npz", "a.mat"):
        with pytest.raises(RecordError, match="unpacks to more than 4 MB"):
            read_array(tmp_path / name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"first": np.zeros((12, 500)), "second": np.zeros((12, 400))}, "first, second: which one is the ECG"),
        ({"signal": np.array(["a", "b"])}, "no plain numbers"),
        ({"signal": np.zeros((500, 500))}, "500x500"),
        ({"signal": np.zeros((12, 500), complex)}, "no plain numbers"),
        ({"fs": 500}, "which one is the ECG"),
    ],
)
def test_variables_that_are_no_ecg_are_refused(tmp_path, fields, message):
    np.savez(tmp_path / "a.npz", **fields)
    with pytest.raises(RecordError, match=message):
        arrays.read(tmp_path / "a.npz")


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["comma", "semicolon", "rows", "apple", "json", "npy", "npz", "stored npz", "mat 4", "mat 5", "plain mat 5"]
)
def test_no_mutation_does_worse_than_be_refused(tmp_path, ecg, kind):
    path = tmp_path / "a"
    reader = {"json": kardia}.get(kind, arrays if "np" in kind or "mat" in kind else table)
    fields = {"signal": ecg.T, "fs": 500.0, "leads": np.array(NAMES)}
    with path.open("wb") as file:
        match kind:
            case "comma":
                file.write(("t,I,II,V1\n" + with_times(ecg, [str(2 * i) for i in range(300)])).encode())
            case "semicolon":
                file.write(("I;II;V1\n" + lines(ecg, ";", ",")).encode())
            case "rows":
                file.write("\n".join(",".join(map(str, column)) for column in ecg.T).encode())
            case "apple":
                file.write((GERMAN + "\n".join(f"{value:g}".replace(".", ",") for value in 100 * ecg[:, 0])).encode())
            case "json":
                file.write(json.dumps(kardia_recording((1000 * ecg).astype(int))).encode())
            case "npy":
                np.save(file, ecg)
            case "npz":
                np.savez_compressed(file, **fields)
            case "stored npz":
                np.savez(file, **fields)
            case "mat 4":
                savemat(file, fields, format="4")
            case "mat 5" | "plain mat 5":
                savemat(file, {"ECG": fields, **fields}, do_compression=kind == "mat 5")
    content = path.read_bytes()
    reader.read(path)
    rng = np.random.default_rng(0)
    for _ in range(int(os.environ.get("ECG_MUTATIONS", "50"))):
        changed = mutated(content, rng)
        path.write_bytes(changed)
        begin = time.perf_counter()
        reader.recognises(path, changed[:4096])
        try:
            traces = reader.read(path)
            assert traces.signal.ndim == 2 and len(traces.signal) == len(traces.names) == len(traces.units)
        except RecordError as error:
            assert str(error)
        assert time.perf_counter() - begin < 5
