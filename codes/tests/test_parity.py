"""One recording in every twelve-lead format, at four rates, in three units and lead orders: the answer stays the same.

The files are written by libraries (wfdb, edfio, pydicom, NumPy, SciPy) or by the encoders of the formats' own tests.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import test_dicom
import test_scp
import test_xml_formats
import wfdb
from conftest import ROOT

from ecg.labels import read_database
from ecg.leads import LEADS, PAGE_3X4
from ecg.recordings import Recording, as_window, read_ecg, resample
from ecg.stored_run import StoredRun, load_run

RATES = (100, 250, 500, 1000)
PER_MV = {"mV": 1.0, "uV": 1e3, "V": 1e-3}
ORDERS = (LEADS, LEADS[::-1], (*LEADS[6:], *LEADS[:6]))
SAME = 0.01  # largest difference of a probability
COUNT_UV = 5  # of the formats that store integers of 5 microvolts

Writer = Callable[[Path, dict[str, np.ndarray], int, str], None]


def as_wfdb(path: Path, signal: dict[str, np.ndarray], fs: int, unit: str) -> None:
    values = np.stack(list(signal.values()), axis=1) * PER_MV[unit]
    gain = [1000 / PER_MV[unit]] * len(signal)
    wfdb.wrsamp(
        path.name,
        fs,
        [unit] * len(signal),
        list(signal),
        p_signal=values,
        fmt=["16"] * len(signal),
        adc_gain=gain,
        baseline=[0] * len(signal),
        write_dir=str(path.parent),
    )


def as_edf(path: Path, signal: dict[str, np.ndarray], fs: int, unit: str) -> None:
    import edfio

    top = 5 * PER_MV[unit]
    channels = [
        edfio.EdfSignal(
            (values * PER_MV[unit]).clip(-top, top),
            fs,
            label=f"ECG {name}",
            physical_dimension=unit,
            physical_range=(-top, top),
        )
        for name, values in signal.items()
    ]
    edfio.Edf(channels, data_record_duration=1).write(path)


def as_dicom(path: Path, signal: dict[str, np.ndarray], fs: int, unit: str) -> None:
    counts = np.rint(np.stack(list(signal.values())) * 1000 / COUNT_UV).astype("<i2")
    sensitivity = COUNT_UV / 1000 * PER_MV[unit]
    channels = [test_dicom.channel(name, unit=unit, ChannelSensitivity=sensitivity) for name in signal]
    test_dicom.write(path, test_dicom.group(tuple(signal), counts, channels=channels, SamplingFrequency=fs))


def as_aecg(path: Path, signal: dict[str, np.ndarray], fs: int, unit: str) -> None:
    counts = {name: np.rint(values * 1000 / COUNT_UV).astype(int) for name, values in signal.items()}
    scale = f"{COUNT_UV / 1000 * PER_MV[unit]:g}"
    sets = test_xml_formats.aecg_set(counts, step=f"{1 / fs:g}", scale=scale, unit=unit)
    path.write_text(test_xml_formats.aecg_text(test_xml_formats.aecg_series(sets)), encoding="utf-8")


def as_muse(path: Path, signal: dict[str, np.ndarray], fs: int, unit: str) -> None:
    counts = np.stack([np.rint(signal[name] * 1000 / COUNT_UV) for name in LEADS]).astype(int)
    test_xml_formats.write_muse(path, counts, base=str(fs))


def as_sierra(path: Path, signal: dict[str, np.ndarray], fs: int, unit: str) -> None:
    counts = np.stack([np.rint(signal[name] * 1000 / COUNT_UV) for name in LEADS]).astype(int)
    test_xml_formats.write_sierra(path, counts, fs=fs)


def as_scp(path: Path, signal: dict[str, np.ndarray], fs: int, unit: str) -> None:
    counts = np.rint(np.stack(list(signal.values())) * 1000 / COUNT_UV).astype(int)
    path.write_bytes(test_scp.ecg(counts, leads=tuple(signal), fs=fs, unit=COUNT_UV * 1000))


def as_csv(path: Path, signal: dict[str, np.ndarray], fs: int, unit: str) -> None:
    table = np.stack(list(signal.values()), axis=1) * PER_MV[unit]
    np.savetxt(path, table, delimiter=",", header=",".join(signal), comments="", fmt="%.9g")


def as_npy(path: Path, signal: dict[str, np.ndarray], fs: int, unit: str) -> None:
    np.save(path, np.stack(list(signal.values()), axis=1) * PER_MV[unit])


def as_mat(path: Path, signal: dict[str, np.ndarray], fs: int, unit: str) -> None:
    scipy.io.savemat(path, {"val": np.stack(list(signal.values())) * PER_MV[unit]})


# format: how it is written, its suffix, whether it states units and order, what must be said on the command line
FORMATS: dict[str, tuple[Writer, str, bool, bool, bool]] = {
    "WFDB": (as_wfdb, "", True, True, False),
    "EDF": (as_edf, ".edf", True, True, False),
    "DICOM": (as_dicom, ".dcm", True, True, False),
    "aECG": (as_aecg, ".xml", True, True, False),
    "MUSE": (as_muse, ".xml", False, False, False),
    "Sierra": (as_sierra, ".xml", False, False, False),
    "SCP": (as_scp, ".scp", False, True, False),
    "CSV": (as_csv, ".csv", True, True, True),
    "NPY": (as_npy, ".npy", True, True, True),
    "MATLAB": (as_mat, ".mat", True, True, True),
}


@pytest.fixture(scope="module")
def model() -> StoredRun:
    folder = ROOT / "artifacts" / "resnet_standard"
    if not (folder / "best.pt").exists():
        pytest.skip("this checkout has no trained runs in artifacts/")
    return load_run(folder, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def original(synthetic: Path) -> np.ndarray:
    """Ten seconds of twelve leads at 500 Hz in millivolts, (12, 5000)."""
    file = read_database(synthetic).filename_hr.iloc[3]
    return read_ecg(synthetic / file).rows(LEADS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_recording_gets_the_same_answer_in_every_format_rate_unit_and_order(name, model, original, tmp_path):
    write, suffix, states_unit, states_order, needs_words = FORMATS[name]
    expected = model.predict(original[None], 500)[0]
    assert expected.max() > 0.02 and expected.std() > 0.01
    for rate in RATES:
        signal = resample(original, 500, rate)
        for unit, order in zip(PER_MV, ORDERS, strict=True):
            unit, order = unit if states_unit else "uV", order if states_order else LEADS
            path = tmp_path / f"{name}_{rate}_{unit}_{order[0]}{suffix}".lower()
            write(path, {lead: signal[LEADS.index(lead)] for lead in order}, rate, unit)
            words = {"fs": rate, "unit": unit, "leads": order} if needs_words else {}
            recording = read_ecg(path, **words)
            assert (recording.leads, recording.fs) == (LEADS, rate), path.name
            answer = model.predict(recording.rows(LEADS)[None], rate)[0]
            np.testing.assert_allclose(answer, expected, atol=SAME, err_msg=path.name)


# --- pages and gaps ---------------------------------------------------------------------------------------------------


def page_of(signal: np.ndarray, *, fill: float, seconds: float = 2.5, strip: bool = False) -> np.ndarray:
    """Return ten seconds at 500 Hz as on a printed page: each lead in its own column, below all lead II if wanted."""
    page = np.full_like(signal, fill)
    for i, column in enumerate(zip(*PAGE_3X4, strict=True)):
        part = slice(1250 * i, 1250 * i + round(500 * seconds))
        for lead in column:
            page[LEADS.index(lead), part] = signal[LEADS.index(lead), part]
    if strip:
        page[LEADS.index("II")] = signal[LEADS.index("II")]
    return page


@pytest.mark.parametrize("fill", [0.0, np.nan])
@pytest.mark.parametrize("seconds", [2.5, 2.3])
@pytest.mark.parametrize("strip", [False, True])
def test_pages_are_recognised_however_they_are_filled_up(original, fill, seconds, strip):
    page = page_of(original, fill=fill, seconds=seconds, strip=strip)
    window = as_window(Recording(Path("page"), "table", 500.0, LEADS, page.astype(np.float32)))
    assert window is not None and window.signal.shape == (12, 1250) and not window.simultaneous
    assert np.isfinite(window.signal).all()
    for i, column in enumerate(zip(*PAGE_3X4, strict=True)):
        for lead in column:
            row = LEADS.index(lead)
            own = original[row, 1250 * i : 1250 * i + round(500 * seconds)]
            shared = window.signal[row, : len(own) - 60]
            assert any(np.allclose(shared, own[k : k + len(shared)], atol=1e-4) for k in range(60)), lead


def test_a_whole_recording_is_no_page(original):
    assert as_window(Recording(Path("whole"), "table", 500.0, LEADS, original)) is None


def test_a_lead_without_samples_is_computed_from_the_others(tmp_path, original):
    signal = dict(zip(LEADS, original, strict=True))
    signal["I"] = np.full_like(original[0], np.nan)
    as_csv(tmp_path / "gap.csv", signal, 500, "mV")
    recording = read_ecg(tmp_path / "gap.csv", fs=500, unit="mV")
    np.testing.assert_allclose(recording.rows(LEADS)[:6], original[:6], atol=0.01)
    assert "lead I has no samples" in recording.notes
