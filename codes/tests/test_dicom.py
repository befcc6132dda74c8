"""DICOM ECG objects: a real one that comes with pydicom, and ones built by the standard, beside ecgdatakit."""

import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from benchmarks.damaged_files import mutated
from ecg.formats import RecordError, dicom
from ecg.leads import LEADS

TWELVE_LEAD = "1.2.840.10008.5.1.4.1.1.9.1.1"
SCP_NUMBERS = {"I": 1, "II": 2, "III": 61, "aVR": 62, "aVL": 63, "aVF": 64} | {f"V{i}": i + 2 for i in range(1, 7)}
FS, N = 500, 1000


@pytest.fixture(scope="module")
def real() -> Path:
    """A recording of a Mortara cart with rhythm and median beat, which is part of pydicom."""
    path = get_testdata_file("waveform_ecg.dcm", download=False)
    if path is None:
        pytest.skip("this pydicom comes without its test files")
    return Path(path)


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def source(lead: str, by: str) -> Dataset:
    """Return a channel's source, coded in the way of `by`."""
    return {
        "SCPECG": code(f"5.6.3-9-{SCP_NUMBERS[lead]}", "SCPECG", "x"),
        "MDC": code(f"2:{SCP_NUMBERS[lead]}", "MDC", "x"),
        "MDC_ECG_LEAD": code(f"MDC_ECG_LEAD_{lead.upper()}", "MDC", "x"),
        "meaning": code("9", "99ACME", f"Lead {lead} (Acme)"),
    }[by]


def channel(lead: str, by: str = "SCPECG", unit: str = "uV", **more: float) -> Dataset:
    item = Dataset()
    item.ChannelSourceSequence = [source(lead, by)]
    item.ChannelSensitivity, item.ChannelSensitivityUnitsSequence = 2.5, [code(unit, "UCUM", "x")]
    item.ChannelSensitivityCorrectionFactor, item.ChannelBaseline = 1, 0
    item.WaveformBitsStored = 16
    for keyword, value in more.items():
        setattr(item, keyword, value)
    return item


def samples(n_leads: int = 12, n: int = N, dtype: str = "<i2") -> np.ndarray:
    """Return made-up samples (n_leads, n)."""
    spread = 40 if np.dtype(dtype).itemsize == 1 else 200
    return np.random.default_rng(3).normal(100 if "u" in dtype else 0, spread / 3, (n_leads, n)).astype(dtype)


def group(leads=LEADS, values: np.ndarray | None = None, *, kind: str = "SS", channels=None, **more) -> Dataset:
    """Return a waveform group of the standard; `more` are further attributes, `values` (n_leads, n) its samples."""
    values = samples(len(leads)) if values is None else values
    item = Dataset()
    item.WaveformOriginality, item.MultiplexGroupLabel = "ORIGINAL", "RHYTHM"
    item.NumberOfWaveformChannels, item.NumberOfWaveformSamples = values.shape
    item.SamplingFrequency = FS
    item.ChannelDefinitionSequence = channels or [channel(lead) for lead in leads]
    item.WaveformBitsAllocated, item.WaveformSampleInterpretation = 8 * values.dtype.itemsize, kind
    item.WaveformData = values.T.tobytes()
    for keyword, value in more.items():
        setattr(item, keyword, value)
    for keyword in ("WaveformData", "WaveformPaddingValue"):
        if keyword in item:
            item[keyword].VR = "OW" if values.dtype.itemsize > 1 else "OB"
    return item


def write(path: Path, *groups: Dataset, syntax: str = ExplicitVRLittleEndian, sop_class: str = TWELVE_LEAD) -> Path:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.Manufacturer, dataset.ManufacturerModelName = "Acme", "Cart 3"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Doe^Jane", "4711", "19500203"
    dataset.StudyDate = "20240506"
    dataset.Modality = "ECG"
    dataset.WaveformSequence = [*groups]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


def without_preamble(path: Path) -> Path:
    """Take away the preamble and the meta information, as files are that were cut out of a network's stream."""
    content = path.read_bytes()
    path.write_bytes(content[144 + int.from_bytes(content[140:144], "little") :])
    return path


def test_a_real_file_is_read_as_pydicom_reads_it(real):
    assert dicom.recognises(real, real.read_bytes()[:4096])
    dataset, traces = pydicom.dcmread(real), dicom.read(real)
    assert (traces.names, traces.units, traces.fs) == (LEADS, ("uV",) * 12, 1000)
    assert (traces.device, traces.notes) == ("Mortara Instrument, Inc. el250", ())
    np.testing.assert_array_equal(traces.signal, dataset.waveform_array(0).T)  # 0 is the rhythm, 1 the median beat
    assert np.abs(np.corrcoef(traces.signal[1], traces.signal[0] + traces.signal[2])[0, 1]) > 0.999  # II = I + III


def test_ecgdatakit_reads_the_real_file_alike(real):
    ecgdatakit = pytest.importorskip("ecgdatakit", reason="the second opinion on formats is not installed")
    compare(ecgdatakit, real)


def compare(ecgdatakit, path: Path) -> None:
    theirs, ours = ecgdatakit.FileParser.parse(path, units="uV"), dicom.read(path)
    assert tuple(lead.label for lead in theirs.leads) == tuple(name.removeprefix("Lead ") for name in ours.names)
    assert {lead.sampling_rate for lead in theirs.leads} == {ours.fs}
    scale = np.array([{"uV": 1, "mV": 1e3}[unit] for unit in ours.units])[:, None]
    expected = np.stack([lead.samples for lead in theirs.leads])
    np.testing.assert_allclose(ours.signal * scale, expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("unit", ["uV", "mV"])
def test_ecgdatakit_reads_a_file_built_by_the_standard_alike(tmp_path, unit):
    ecgdatakit = pytest.importorskip("ecgdatakit", reason="the second opinion on formats is not installed")
    scaled = {"unit": unit, "ChannelSensitivityCorrectionFactor": 1.02, "ChannelBaseline": -7.5}
    ways = ["SCPECG", "MDC", "MDC_ECG_LEAD", "meaning"] * 3
    channels = [channel(lead, by, **scaled) for lead, by in zip(LEADS, ways, strict=True)]
    compare(ecgdatakit, write(tmp_path / "a.dcm", group(channels=channels)))


@pytest.mark.parametrize("by", ["SCPECG", "MDC", "MDC_ECG_LEAD", "meaning"])
def test_leads_are_known_by_each_way_of_coding_them(tmp_path, by):
    traces = dicom.read(write(tmp_path / "a", group(channels=[channel(lead, by) for lead in LEADS])))
    assert tuple(name.removeprefix("Lead ") for name in traces.names) == LEADS


def test_leads_agree_with_pydicoms_copy_of_the_standards_table():
    """CID 3001 of PS3.16, in which a lead's meaning says what its number is."""
    found = {}
    for name in codes.cid3001.dir():
        entry = getattr(codes.cid3001, name)
        item = Dataset()
        item.ChannelSourceSequence = [code(entry.value, entry.scheme_designator, "")]
        lead = dicom._lead(item)
        if lead != entry.value:  # a lead that is not among the twelve stays a number
            found[lead] = entry.meaning.removeprefix("Lead ").split(",")[0].replace("−", "-")
    assert found == {lead: lead for lead in (*LEADS, "-aVR")}


def test_values_are_sample_times_sensitivity_times_correction_plus_baseline(tmp_path):
    channels = [
        channel("I", ChannelSensitivity=4.88, ChannelSensitivityCorrectionFactor=0.5, ChannelBaseline=30),
        channel("II", unit="mV", ChannelSensitivity=0.001),
    ]
    values = samples(2)
    traces = dicom.read(write(tmp_path / "a", group(("I", "II"), values, channels=channels)))
    assert traces.units == ("uV", "mV")
    np.testing.assert_allclose(traces.signal, [values[0] * 2.44 + 30, values[1] * 0.001], rtol=1e-6)


def test_a_channel_without_sensitivity_has_no_unit(tmp_path):
    bare = channel("I")
    for keyword in ("ChannelSensitivity", "ChannelSensitivityUnitsSequence", "ChannelSensitivityCorrectionFactor"):
        del bare[keyword]
    values = samples(1)
    traces = dicom.read(write(tmp_path / "a", group(("I",), values, channels=[bare])))
    assert traces.units == ("",)
    np.testing.assert_array_equal(traces.signal, values)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("SB", "i1"), ("UB", "u1"), ("SS", "<i2"), ("US", "<u2"), ("SL", "<i4"), ("UL", "<u4")]
)
def test_samples_of_every_size_are_read(tmp_path, kind, dtype):
    values = samples(3, 333, dtype)  # an odd number of bytes, where one is padding
    traces = dicom.read(write(tmp_path / "a", group(LEADS[:3], values, kind=kind)))
    np.testing.assert_allclose(traces.signal, values * 2.5)


@pytest.mark.parametrize("kind", ["i1", "<i2"])
def test_padding_is_a_missing_sample(tmp_path, kind):
    lowest = np.iinfo(kind).min
    values = samples(2, dtype=kind).clip(lowest + 1)
    values[1, 900:] = lowest
    padded = group(
        LEADS[:2],
        values,
        kind={"i1": "SB", "<i2": "SS"}[kind],
        WaveformPaddingValue=np.array(lowest, kind).tobytes().ljust(2, b"\0"),
    )
    signal = dicom.read(write(tmp_path / "a", padded)).signal
    assert np.isnan(signal[1, 900:]).all() and np.isfinite(signal[0]).all() and np.isfinite(signal[1, :900]).all()


def test_the_rhythm_is_read_and_not_the_median_beat(tmp_path):
    beat = group(values=samples(n=2 * N), WaveformOriginality="DERIVED", MultiplexGroupLabel="MEDIAN BEAT")
    for groups in ((beat, group()), (group(), beat)):
        traces = dicom.read(write(tmp_path / "a", *groups))
        assert (traces.signal.shape, traces.notes) == ((12, N), ())
    with pytest.raises(RecordError, match="median beats only"):
        dicom.read(write(tmp_path / "a", beat))


def test_the_longest_of_several_originals_is_read(tmp_path):
    traces = dicom.read(write(tmp_path / "a", group(values=samples(n=300)), group(), group(values=samples(n=400))))
    assert (traces.signal.shape, traces.notes) == ((12, N), ())


def test_a_derived_rhythm_is_read_where_there_is_no_other_and_that_is_said(tmp_path):
    traces = dicom.read(write(tmp_path / "a", group(WaveformOriginality="DERIVED")))
    assert (traces.names, traces.notes) == (LEADS, ("its waveform is marked as derived, not original",))


def test_groups_of_three_leads_stand_one_after_the_other_as_on_paper(tmp_path):
    page = [group(LEADS[i : i + 3], samples(3, 250), MultiplexGroupTimeOffset=500 * (i // 3)) for i in (0, 3, 6, 9)]
    strip = group(("II",), samples(1, 1000), MultiplexGroupTimeOffset=0)
    traces = dicom.read(write(tmp_path / "a", *page, strip))
    assert traces.notes == ("leads of 5 waveform groups put together",)
    assert sorted(traces.names) == sorted(LEADS) and traces.signal.shape == (12, 1000)
    there = np.isfinite(traces.signal)
    assert there[traces.names.index("II")].all()
    for i, lead in enumerate(LEADS):
        if lead != "II":
            start = 250 * (i // 3)
            row = traces.names.index(lead)
            assert there[row, start : start + 250].all() and there[row].sum() == 250
            np.testing.assert_allclose(traces.signal[row, start : start + 250], samples(3, 250)[i % 3] * 2.5)


def test_groups_that_are_days_apart_are_refused_before_memory_is_taken(tmp_path):
    late = group(("V1",), samples(1), MultiplexGroupTimeOffset=1e12)
    with pytest.raises(RecordError, match="min apart"):
        dicom.read(write(tmp_path / "a", group(("I",), MultiplexGroupTimeOffset=0), late))


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_every_uncompressed_transfer_syntax_is_read(tmp_path, syntax):
    stored = samples() if syntax != ExplicitVRBigEndian else samples().astype(">i2")
    path = write(tmp_path / "a", group(values=stored), syntax=syntax)
    assert dicom.recognises(path, path.read_bytes()[:4096])
    traces = dicom.read(path)
    assert (traces.names, traces.device) == (LEADS, "Acme Cart 3")
    np.testing.assert_array_equal(traces.signal, samples() * 2.5)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_file_without_preamble_is_read(tmp_path, syntax):
    path = without_preamble(write(tmp_path / "a", group(), syntax=syntax))
    assert dicom.recognises(path, path.read_bytes()[:4096])
    np.testing.assert_array_equal(dicom.read(path).signal, samples() * 2.5)


def test_a_bomb_of_deflated_zeros_is_refused(tmp_path):
    path = write(tmp_path / "a", group(), syntax=DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    deflating = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = b"".join(deflating.compress(bytes(1 << 20)) for _ in range(10)) + deflating.flush()
    path.write_bytes(content[: 144 + int.from_bytes(content[140:144], "little")] + bomb)
    with pytest.raises(RecordError, match="deflated to less than a twentieth"):
        dicom.read(path)


def test_nobodys_name_is_kept(tmp_path):
    traces = dicom.read(write(tmp_path / "a", group()))
    assert not any(word in repr(traces) for word in ("Doe", "Jane", "4711", "1950", "2024"))


def test_a_picture_is_no_ecg():
    picture = get_testdata_file("CT_small.dcm", download=False)
    if picture is None:
        pytest.skip("this pydicom comes without its test files")
    with pytest.raises(RecordError, match="is CT Image Storage of DICOM, not an ECG waveform"):
        dicom.read(Path(picture))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"NumberOfWaveformSamples": N + 1}, "1001 samples take 24024 bytes, its DICOM waveform has 24000"),
        ({"NumberOfWaveformSamples": N - 1}, "999 samples take 23976 bytes, its DICOM waveform has 24000"),
        ({"NumberOfWaveformSamples": 2**32 - 1}, "cut off"),
        ({"NumberOfWaveformSamples": 0}, "holds no samples"),
        ({"WaveformSampleInterpretation": "MB"}, "samples are MB of 16 bits"),
        ({"ChannelDefinitionSequence": [channel("I")]}, "describes 1 leads, its DICOM waveform has 12"),
    ],
)
def test_a_waveform_that_contradicts_its_description_is_refused(tmp_path, changes, reason):
    with pytest.raises(RecordError, match=reason):
        dicom.read(write(tmp_path / "a", group(**changes)))


def test_a_sensitivity_of_zero_is_refused(tmp_path):
    dead = [channel(lead, ChannelSensitivity=0 if lead == "V2" else 1) for lead in LEADS]
    with pytest.raises(RecordError, match="lead V2 has Channel Sensitivity 0"):
        dicom.read(write(tmp_path / "a", group(channels=dead)))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_cut_file_is_never_read_as_far_as_it_goes(tmp_path, syntax):
    path = write(tmp_path / "a", group(), syntax=syntax)
    content = path.read_bytes()
    data = content.index(samples().T.tobytes())
    for size in (200, 1000, data - 200, data, data + 1000, data + 23_998):
        path.write_bytes(content[:size])
        with pytest.raises(RecordError):
            dicom.read(path)


def test_damaged_bytes_give_an_answer_or_a_reason(tmp_path, real):
    built = write(tmp_path / "built", group(), syntax=ImplicitVRLittleEndian)
    refused = 0
    for seed, good in product(range(50), (real.read_bytes(), built.read_bytes())):
        mutant = tmp_path / "mutant"
        mutant.write_bytes(mutated(good, np.random.default_rng(seed)))
        try:
            assert dicom.read(mutant).signal.ndim == 2
        except RecordError:
            refused += 1
    assert refused > 50
