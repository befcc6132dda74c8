"""EDF, EDF+ and BDF: what edfio writes is read as it was, beside wfdb and ecgdatakit, and damage is named."""

import re
from pathlib import Path

import edfio
import numpy as np
import pytest
from wfdb.io.convert.edf import read_edf

from benchmarks.damaged_files import mutated
from ecg.formats import RecordError, edf
from ecg.leads import LEADS

FS, SECONDS = 250, 6
QUANTUM = {"EDF": 10 / 65535, "BDF": 10 / (2**24 - 1)}  # mV: -5 to 5 in 16 and 24 bits


def made_up_signal(n_leads: int = 12, n_samples: int = FS * SECONDS) -> np.ndarray:
    return np.random.default_rng(7).normal(0, 0.3, (n_leads, n_samples)).clip(-4, 4)


def channel(values: np.ndarray, label: str, *, fs: float = FS, unit: str = "mV", kind: str = "EDF"):
    limits = {"physical_range": (-5, 5), "label": label, "physical_dimension": unit}
    if kind == "BDF":
        return edfio.BdfSignal(values, fs, digital_range=(-(2**23), 2**23 - 1), **limits)
    return edfio.EdfSignal(values, fs, **limits)


def write(path: Path, signal: np.ndarray, names=LEADS, *, kind: str = "EDF", **more) -> Path:
    channels = [channel(values, name, kind=kind) for name, values in zip(names, signal, strict=True)]
    {"EDF": edfio.Edf, "BDF": edfio.Bdf}[kind](channels, data_record_duration=1, **more).write(path)
    return path


def write_with_gaps(path: Path, onsets: list[float]) -> Path:
    """Write an EDF+D file of two leads: edfio writes EDF+C, here its data records are told to start at `onsets`."""
    write(path, made_up_signal(2), ("I", "II"), annotations=[edfio.EdfAnnotation(0, None, "room for long onsets")])
    content = bytearray(path.read_bytes().replace(b"EDF+C", b"EDF+D"))
    record = (len(content) - 256 * 4) // SECONDS
    for i, onset in enumerate(onsets):
        start, end = 256 * 4 + i * record + 2 * 2 * FS, 256 * 4 + (i + 1) * record  # behind both leads
        content[start:end] = f"+{onset}\x14\x14".encode().ljust(end - start, b"\0")
    path.write_bytes(content)
    return path


def changed(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert content.count(old) >= 1 and len(old) == len(new)
    path.write_bytes(content.replace(old, new, 1))
    return path


def with_field(path: Path, start: int, text: str, width: int = 8) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[:start] + text.encode("ascii").ljust(width) + content[start + width :])
    return path


@pytest.mark.parametrize("kind", ["EDF", "BDF"])
def test_what_edfio_writes_is_read_to_the_quantum(tmp_path, kind):
    signal = made_up_signal()
    path = write(tmp_path / "a", signal, kind=kind)
    assert edf.recognises(path, path.read_bytes()[:4096])
    traces = edf.read(path)
    assert (traces.fs, traces.names, traces.units, traces.notes) == (FS, LEADS, ("mV",) * 12, ())
    assert traces.signal.shape == signal.shape
    assert np.abs(traces.signal - signal).max() <= 0.51 * QUANTUM[kind] + 4 * np.finfo(np.float32).eps


def test_wfdb_reads_the_same_file_alike(tmp_path):
    path = write(tmp_path / "a.edf", made_up_signal())
    theirs, ours = read_edf(str(path)), edf.read(path)
    assert (theirs.fs, tuple(theirs.sig_name), tuple(theirs.units)) == (ours.fs, ours.names, ours.units)
    assert np.abs(theirs.p_signal.T - ours.signal).max() <= QUANTUM["EDF"]  # wfdb rounds the zero line


def test_ecgdatakit_reads_the_same_file_alike(tmp_path):
    ecgdatakit = pytest.importorskip("ecgdatakit", reason="the second opinion on formats is not installed")
    path = write(tmp_path / "a.edf", made_up_signal(), annotations=[edfio.EdfAnnotation(1, None, "note")])
    theirs, ours = ecgdatakit.FileParser.parse(path), edf.read(path)
    assert tuple(lead.label for lead in theirs.leads) == ours.names
    np.testing.assert_allclose(np.stack([lead.samples for lead in theirs.leads]), ours.signal, atol=1e-6)


def test_annotations_are_no_lead_and_nobodys_name_is_kept(tmp_path):
    patient = edfio.Patient(code="4711", name="Jane_Doe", sex="F")
    recording = edfio.Recording(equipment_code="Acme_Holter_3", investigator_technician_code="Smith")
    note = [edfio.EdfAnnotation(1, None, "Jane fell")]
    traces = edf.read(write(tmp_path / "a", made_up_signal(), patient=patient, recording=recording, annotations=note))
    assert (traces.names, traces.device) == (LEADS, "Acme Holter 3")
    assert not re.search("jane|doe|4711|smith", repr(traces), re.IGNORECASE)
    plain = edf.read(write(tmp_path / "b", made_up_signal(), patient=patient, recording=recording))
    assert plain.device == ""  # without the plus anything may stand there


@pytest.mark.parametrize("spelt", ["µV".encode("latin-1"), "µV".encode(), b"uV", b"V"])
def test_unit_is_the_physical_dimension(tmp_path, spelt):
    path = write(tmp_path / "a", made_up_signal(1), ["I"])
    changed(path, b"mV".ljust(8), spelt.ljust(8))
    assert edf.read(path).units == ({b"uV": "uV", b"V": "V"}.get(spelt, "µV"),)


def test_ecg_leads_are_told_from_the_rest(tmp_path):
    seconds = np.zeros(SECONDS)
    leads = [channel(values, name) for name, values in zip(("ECG I", "EKG2"), made_up_signal(2), strict=True)]
    others = [channel(seconds, name, fs=1) for name in ("ECG HR", "EKG_Off", "SpO2")]
    eeg = [channel(np.zeros(1500), name) for name in ("C3", "EEG O1")]
    edfio.Edf([*others, *eeg, *leads], data_record_duration=1).write(tmp_path / "a")
    traces = edf.read(tmp_path / "a")
    assert (traces.names, traces.fs, traces.notes) == (("ECG I", "EKG2"), FS, ())
    assert np.abs(traces.signal - made_up_signal(2)).max() < QUANTUM["EDF"]


def test_c3_is_a_chest_lead_beside_limb_leads_and_an_eeg_without(tmp_path):
    names = ("I", "II", "C1", "C2", "C3", "C4", "C5", "C6")
    assert edf.read(write(tmp_path / "a", made_up_signal(8), names)).names == names
    with pytest.raises(RecordError, match=r"EEG \(C3, C4\)"):
        edf.read(write(tmp_path / "b", made_up_signal(2), ("C3", "C4")))


def test_without_a_known_name_all_channels_of_the_commonest_rate_are_read_and_that_is_said(tmp_path):
    channels = [channel(values, f"Ch{i}") for i, values in enumerate(made_up_signal(2))]
    channels += [channel(np.zeros(SECONDS * 500), "sound", fs=500), channel(np.zeros(SECONDS), "Temp", fs=1)]
    edfio.Edf(channels, data_record_duration=1).write(tmp_path / "a")
    traces = edf.read(tmp_path / "a")
    assert (traces.names, traces.fs) == (("Ch0", "Ch1"), FS)
    assert traces.notes == ("no channel is named like an ECG lead: the 2 at 250 Hz were read",)


def test_leads_of_different_rates_are_refused(tmp_path):
    slow = channel(np.zeros(SECONDS * 100), "V1", fs=100)
    edfio.Edf([channel(made_up_signal(1)[0], "I"), slow], data_record_duration=1).write(tmp_path / "a")
    with pytest.raises(RecordError, match=r"different sampling rates \(I 250 Hz, V1 100 Hz\)"):
        edf.read(tmp_path / "a")


def test_gaps_of_a_discontinuous_file_are_nan_and_said(tmp_path):
    path = write_with_gaps(tmp_path / "a", [0, 1, 2, 4, 5, 7.5])
    traces = edf.read(path)
    there = np.isfinite(traces.signal)
    assert traces.signal.shape == (2, 8.5 * FS)
    seconds = there[0].reshape(-1, FS // 2).all(axis=1)  # by halves
    assert seconds.tolist() == [True] * 6 + [False] * 2 + [True] * 4 + [False] * 3 + [True] * 2
    assert np.abs(traces.signal[there].reshape(2, -1) - made_up_signal(2)).max() < QUANTUM["EDF"]
    assert traces.notes == ("2 gaps of 2.5 s in all, filled with nan",)


def test_ecgdatakit_sees_the_same_gaps(tmp_path):
    ecgdatakit = pytest.importorskip("ecgdatakit", reason="the second opinion on formats is not installed")
    path = write_with_gaps(tmp_path / "a.edf", [0, 1, 2, 4, 5, 7.5])
    ours = edf.read(path).signal
    with pytest.warns(UserWarning, match="gaps"):
        theirs = ecgdatakit.FileParser.parse(path)
    onsets = theirs.raw_metadata["record_onsets"]
    for i, onset in enumerate(onsets):
        start = round(onset * FS)
        for lead, values in zip(theirs.leads, ours, strict=True):
            expected = lead.samples[i * FS : (i + 1) * FS]
            np.testing.assert_allclose(values[start : start + FS], expected, atol=1e-6)


def test_a_discontinuous_file_without_gaps_has_no_note(tmp_path):
    traces = edf.read(write_with_gaps(tmp_path / "a", [0, 1, 2, 3, 4, 5]))
    assert (traces.signal.shape, traces.notes) == ((2, SECONDS * FS), ())
    assert np.isfinite(traces.signal).all()


@pytest.mark.parametrize(
    ("onsets", "reason"),
    [
        ([0, 1, 2, 1.5, 4, 5], "overlap or are out of order"),
        ([0, 1, 2, 3, 4, 9e5], "spread over 250.0 h"),
    ],
)
def test_data_records_that_cannot_follow_each_other_are_refused(tmp_path, onsets, reason):
    with pytest.raises(RecordError, match=reason):
        edf.read(write_with_gaps(tmp_path / "a", onsets))


@pytest.mark.parametrize("kind", ["EDF", "BDF"])
def test_a_header_without_samples_names_the_format(tmp_path, kind):
    path = write(tmp_path / "a", made_up_signal(), kind=kind)
    path.write_bytes(path.read_bytes()[: 256 * 13])
    with pytest.raises(RecordError, match=f"no samples: its {kind} file is a header only"):
        edf.read(path)


@pytest.mark.parametrize("kind", ["EDF", "BDF"])
def test_a_cut_or_lengthened_file_is_never_read_as_far_as_it_goes(tmp_path, kind):
    path = write(tmp_path / "a", made_up_signal(), kind=kind)
    content = path.read_bytes()
    record = (len(content) - 256 * 13) // SECONDS
    for size in [10, 255, 256, 700, 256 * 13 + 1, len(content) - 1, len(content) - record, len(content) - 2 * record]:
        path.write_bytes(content[:size])
        with pytest.raises(RecordError, match=r"cut off|header only"):
            edf.read(path)
    path.write_bytes(content + content[-record:])
    with pytest.raises(RecordError, match=f"holds 7 data records, its {kind} header says 6"):
        edf.read(path)
    path.write_bytes(content + b"0")
    with pytest.raises(RecordError, match="holds 6 data records and 1 bytes"):
        edf.read(path)


def test_a_recording_that_was_never_closed_is_read_and_that_is_said(tmp_path):
    path = with_field(write(tmp_path / "a", made_up_signal()), 236, "-1")
    with pytest.warns(UserWarning, match="Updating header"):  # edfio's own
        traces = edf.read(path)
    assert traces.signal.shape == (12, SECONDS * FS)
    assert traces.notes == ("the EDF header does not say how long the recording is: all 6 data records were read",)


@pytest.mark.parametrize(
    ("start", "text", "reason"),
    [
        (184, "512", "12 channels do not go with 512 bytes"),
        (236, "six", "number of data records in the EDF header is 'six'"),
        (244, "0", "gives a data record 0 s"),
        (244, "inf", "gives a data record inf s"),
        (256 + 12 * 120, "-32768", r"channel I: digital -32768 to -32768"),
        (256 + 12 * 112, "-5", r"channel I: .* physical -5 to -5"),
        (256 + 12 * 112, "nan", r"channel I: .* physical -5 to nan"),
        (256 + 12 * 216, "0", "channel I has no samples"),
        (256 + 12 * 216, "99999999", "its EDF header says 6 data records"),
    ],
)
def test_a_damaged_header_is_named(tmp_path, start, text, reason):
    path = with_field(write(tmp_path / "a", made_up_signal()), start, text)
    if start == 256 + 12 * 120:  # digital minimum of the first channel, its maximum is made the same
        with_field(path, 256 + 12 * 128, text)
    with pytest.raises(RecordError, match=reason):
        edf.read(path)


def test_a_file_of_annotations_only_is_refused(tmp_path):
    edfio.Edf([], annotations=[edfio.EdfAnnotation(1, None, "note")]).write(tmp_path / "a")
    with pytest.raises(RecordError, match="annotations only"):
        edf.read(tmp_path / "a")


def test_a_table_that_begins_with_a_zero_is_not_taken_for_edf(tmp_path):
    assert not edf.recognises(tmp_path / "a.txt", b"0       0.12    0.13\n1       0.12    0.14\n" * 20)


@pytest.mark.parametrize("kind", ["EDF", "EDF+D", "BDF"])
def test_damaged_bytes_give_an_answer_or_a_reason(tmp_path, kind):
    path = tmp_path / "a"
    if kind == "EDF+D":
        write_with_gaps(path, [0, 1, 2, 4, 5, 7.5])
    else:
        write(path, made_up_signal(), kind=kind)
    good, refused = path.read_bytes(), 0
    for seed in range(50):
        mutant = tmp_path / f"{seed}"  # none is written over another: that may still be mapped into memory
        mutant.write_bytes(mutated(good, np.random.default_rng(seed)))
        try:
            assert edf.read(mutant).signal.ndim == 2
        except RecordError:
            refused += 1
    assert refused > 25
