"""Measurements against what is planted in synthetic hearts, and against what others say of real records."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from conftest import real_ptbxl
from scipy.signal import resample_poly

from benchmarks import measurements as benchmark
from benchmarks.measurements import AXES, hits, synthetic_records
from ecg.formats.wfdb import read_record
from ecg.leads import LEADS, LIMB_LEADS
from ecg.measurements import LABELS, Measurements, delineate, find_r_peaks, measure, wave_labels


@pytest.fixture(scope="module")
def planted():
    """(rows, truths, {Hz: signals}) of 120 synthetic records."""
    return synthetic_records(120)


@pytest.fixture(scope="module")
def measured(planted) -> pd.DataFrame:
    rows, truths, signals = planted
    table = pd.DataFrame([vars(measure(signal, LEADS, 100)) for signal in signals[100]]).astype(float)
    truth = pd.DataFrame([vars(truth) for truth in truths]).drop(columns="beats").add_prefix("true_")
    return pd.concat([rows[["rhythm", "diagnoses"]], table, truth], axis=1)


def steady_record(planted) -> np.ndarray:
    """A synthetic record (12, 1000) at 100 Hz in sinus rhythm and nothing else."""
    rows, _, signals = planted
    plain = (rows.rhythm == "SR") & (rows.diagnoses == "NORM") & rows.extra_beats.isna()
    return signals[100][int(np.flatnonzero(plain)[0])]


def nothing_but(beats: int, heart_rate: float | None = None) -> Measurements:
    return Measurements(beats, 0, heart_rate)


# --- against the planted truth --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fs", [100, 500])
def test_r_peaks_are_those_that_were_planted(planted, fs):
    _, truths, signals = planted
    found = [find_r_peaks(signal, fs) / fs for signal in signals[fs]]
    sensitivity = np.sum([hits(a, truth.beats, seconds=10) for a, truth in zip(found, truths, strict=True)], axis=0)
    precision = np.sum([hits(truth.beats, a, seconds=10) for a, truth in zip(found, truths, strict=True)], axis=0)
    assert sensitivity[0] / sensitivity[1] > 0.998 and precision[0] / precision[1] > 0.998


def test_an_r_peak_lies_on_the_largest_deflection_of_its_beat(planted):
    _, truths, signals = planted
    off = []
    for signal, truth in zip(signals[500], truths, strict=True):
        peaks = find_r_peaks(signal, 500)
        assert peaks.dtype.kind == "i" and (np.diff(peaks) > 0).all()
        off += [np.abs(peaks / 500 - time).min() for time in truth.beats[1:-1]]
    assert np.median(off) < 0.004


def test_intervals_are_close_to_those_of_the_heart(measured):
    usual = measured[measured.rhythm != "PACE"]
    for name, error, spread in (("heart_rate", 0.2, 1), ("pr_ms", 25, 50), ("qrs_ms", 20, 35), ("qt_ms", 20, 50)):
        off = (usual[name] - usual[f"true_{name}"]).dropna().abs()
        assert off.median() < error and off.quantile(0.9) < spread, name


def test_qtc_is_qt_at_sixty_beats_per_minute(measured):
    rr = 60 / measured.heart_rate
    np.testing.assert_allclose(measured.qtc_bazett_ms, measured.qt_ms / rr**0.5, atol=0.5)
    np.testing.assert_allclose(measured.qtc_fridericia_ms, measured.qt_ms / rr ** (1 / 3), atol=0.5)


@pytest.mark.parametrize(
    ("code", "name", "at_least"), [("CLBBB", "qrs_ms", 125), ("CRBBB", "qrs_ms", 120), ("1AVB", "pr_ms", 190)]
)
def test_what_a_block_makes_longer_is_measured_longer(measured, code, name, at_least):
    blocked = measured.diagnoses.str.contains(code)
    normal = measured.diagnoses == "NORM"
    assert measured[name][blocked].median() > at_least > measured[name][normal].quantile(0.9)


def test_p_waves_are_found_where_there_are_any(measured):
    assert measured.pr_ms[measured.rhythm == "SR"].notna().mean() > 0.95
    assert measured.pr_ms[measured.rhythm == "AFIB"].notna().mean() < 0.7


def test_extra_beats_are_not_in_the_median_beat(planted, measured):
    rows, _, _ = planted
    bigeminy = (rows.rhythm == "BIGU").to_numpy()
    assert bigeminy.any()
    assert (measured.averaged_beats[bigeminy] <= measured.beats[bigeminy] / 2 + 1).all()
    assert (measured.qrs_ms - measured.true_qrs_ms)[bigeminy].abs().max() < 40


# --- the axis -------------------------------------------------------------------------------------------------------


def dipole_leads(degrees: float, leads=LIMB_LEADS) -> np.ndarray:
    """Ten seconds at 250 Hz of a heart whose QRS points to `degrees` in the frontal plane."""
    time = np.arange(2500) / 250
    beat = sum(np.exp(-0.5 * ((time - peak) / 0.012) ** 2) for peak in np.arange(0.6, 9.8, 0.8))
    positions = {"I": 0, "II": 60, "III": 120, "aVR": -150, "aVL": -30, "aVF": 90}
    scale = {name: 1 if name in ("I", "II", "III") else np.sqrt(3) / 2 for name in positions}
    return np.stack([scale[name] * np.cos(np.radians(degrees - positions[name])) * beat for name in leads])


@pytest.mark.parametrize("leads", [LIMB_LEADS, ("I", "aVF"), ("aVL", "III"), ("V1", "II", "I")])
@pytest.mark.parametrize("degrees", [-170, -90, -45, 0, 30, 59, 90, 135, 180])
def test_axis_is_where_the_dipole_points_from_any_two_limb_leads(leads, degrees):
    signal = dipole_leads(degrees, [name if name in LIMB_LEADS else "II" for name in leads])
    found = measure(signal, leads, 250).axis_degrees
    assert abs((found - degrees + 180) % 360 - 180) < 1 and -180 <= found <= 180


def test_axis_needs_two_limb_leads():
    assert measure(dipole_leads(60, ["II"]), ["II"], 250).axis_degrees is None
    assert measure(dipole_leads(60, ["II", "I"]), ["II", "V5"], 250).axis_degrees is None


# --- any rate, leads and length -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fs", [80, 125, 250, 257, 360, 500, 1000])
def test_measurements_do_not_depend_on_the_rate(planted, fs):
    signal = steady_record(planted)
    other = resample_poly(signal, fs, 100, axis=1, padtype="line")
    a, b = measure(signal, LEADS, 100), measure(other, LEADS, fs)
    assert a.beats == b.beats and abs(a.heart_rate - b.heart_rate) < 0.2
    tolerance = 4 if fs > 100 else 12
    for name in ("pr_ms", "qrs_ms", "qt_ms", "axis_degrees"):
        assert abs(getattr(a, name) - getattr(b, name)) < tolerance, name


def test_beats_are_found_at_fifty_hertz(planted):
    signal = steady_record(planted)
    a, b = measure(signal, LEADS, 100), measure(resample_poly(signal, 1, 2, axis=1), LEADS, 50)
    assert a.beats == b.beats and abs(a.qt_ms - b.qt_ms) < 40


@pytest.mark.parametrize("leads", [LIMB_LEADS, ("I", "II", "V2"), ("II", "V5"), ("II",), ("I",)])
def test_few_leads_are_enough_for_rate_and_intervals(planted, leads):
    signal = steady_record(planted)
    whole = measure(signal, LEADS, 100)
    part = measure(signal[[LEADS.index(name) for name in leads]], leads, 100)
    assert part.beats == whole.beats and part.heart_rate == whole.heart_rate
    assert abs(part.qrs_ms - whole.qrs_ms) < 40 and abs(part.qt_ms - whole.qt_ms) < 60


def test_order_of_leads_does_not_matter(planted):
    signal = steady_record(planted)
    turned = measure(signal[::-1], LEADS[::-1], 100)
    for name, value in vars(measure(signal, LEADS, 100)).items():
        assert value == pytest.approx(vars(turned)[name], abs=0.2), name


def test_a_long_recording_has_the_beats_of_its_parts(planted):
    signal = np.tile(steady_record(planted), (1, 13))  # 130 s: pieces end within beats
    peaks = find_r_peaks(signal, 100)
    once = find_r_peaks(signal[:, 1000:2000], 100)
    assert np.diff(peaks).min() > 40
    for k in range(1, 12):
        part = peaks[(peaks >= 1000 * k + 50) & (peaks < 1000 * k + 950)] - 1000 * k
        expected = once[(once >= 50) & (once < 950)]
        assert len(part) == len(expected) and np.abs(part - expected).max() <= 1
    whole = measure(signal, LEADS, 100)
    assert whole.beats == len(peaks) and 60 < whole.averaged_beats <= 240


def test_two_and_a_half_seconds_are_enough(planted):
    signal = steady_record(planted)
    short, whole = measure(signal[:, 300:550], LEADS, 100), measure(signal, LEADS, 100)
    assert 2 <= short.beats <= 4 and short.averaged_beats >= 1
    assert abs(short.heart_rate - whole.heart_rate) < 10 and abs(short.qrs_ms - whole.qrs_ms) < 15


# --- what is missing ------------------------------------------------------------------------------------------------


def test_missing_samples_and_leads_hardly_matter(planted):
    signal = steady_record(planted)
    holes = signal.copy()
    holes[:, 300:450] = np.nan  # all leads: whole beats are missing
    holes[3] = np.nan
    holes[7, 600:700] = np.nan
    a, b = measure(signal, LEADS, 100), measure(holes, LEADS, 100)
    assert b.beats in (a.beats - 1, a.beats - 2)
    assert abs(a.heart_rate - b.heart_rate) < 4  # 12 % lower if the gap were an interval
    assert abs(a.qrs_ms - b.qrs_ms) < 10 and abs(a.qt_ms - b.qt_ms) < 15


def test_padding_is_no_pause(planted):
    signal = steady_record(planted)
    padded = np.concatenate([np.zeros((12, 300)), signal[:, :600], np.zeros((12, 300)), signal[:, 600:]], axis=1)
    assert abs(measure(padded, LEADS, 100).heart_rate - measure(signal, LEADS, 100).heart_rate) < 3


@pytest.mark.parametrize("value", [0.0, 0.4, np.nan, np.inf])
def test_nothing_is_measured_where_nothing_was_recorded(value):
    assert measure(np.full((12, 1000), value), LEADS, 100) == nothing_but(0)
    assert not len(find_r_peaks(np.full((12, 1000), value), 100))


@pytest.mark.parametrize("shape", [(12, 0), (12, 1), (12, 60), (0, 1000)])
def test_nothing_is_measured_in_what_is_too_short(shape):
    assert measure(np.zeros(shape), LEADS[: shape[0]], 100) == nothing_but(0)


@pytest.mark.parametrize("n_leads", [1, 12])
def test_noise_has_no_intervals(n_leads):
    for seed in range(10):
        noise = np.random.default_rng(seed).normal(0, 0.1, (n_leads, 5000))
        found = measure(noise, LEADS[:n_leads], 500)
        assert found.qrs_ms is None and found.heart_rate is None


def test_one_beat_has_a_width_and_no_rate(planted):
    signal = steady_record(planted)
    peak = find_r_peaks(signal, 100)[4]
    one = measure(signal[:, peak - 56 : peak + 86], LEADS, 100)
    assert one.beats >= 1 and one.averaged_beats == 1 and one.qrs_ms > 60
    if one.beats == 1:
        assert one.heart_rate is None and one.qtc_bazett_ms is None


# --- waves of each beat ---------------------------------------------------------------------------------------------


def test_waves_follow_each_other_and_lie_where_they_were_planted(planted):
    rows, truths, signals = planted
    chosen = np.flatnonzero((rows.rhythm == "SR") & rows.extra_beats.isna())
    errors = []
    for i in chosen[:20]:
        peaks = find_r_peaks(signals[500][i], 500)
        waves = delineate(signals[500][i], 500, peaks, LEADS)
        columns = list(vars(waves).values())
        for earlier, later in pairwise(columns):
            assert not (earlier >= later).any()  # nan is neither
        assert all(len(column) == len(peaks) for column in columns)
        errors.append(1000 * np.nanmedian(waves.t_off - waves.qrs_on) / 500 - truths[i].qt_ms)
        begins = truths[i].beats[1:-1] - 0.045
        assert max(np.nanmin(np.abs(waves.qrs_on / 500 - begin)) for begin in begins) < 0.03
    assert np.median(np.abs(errors)) < 25


def test_an_extra_beat_has_waves_of_its_own(planted):
    rows, _, signals = planted
    i = int(np.flatnonzero(rows.rhythm == "BIGU")[0])
    peaks = find_r_peaks(signals[500][i], 500)
    waves = delineate(signals[500][i], 500, peaks, LEADS)
    width = (waves.qrs_off - waves.qrs_on)[2:-2] / 500
    early = np.diff(peaks)[1:-2] < np.median(np.diff(peaks))
    assert width[early].min() > width[~early].max() + 0.02


def test_each_sample_has_a_label(planted):
    signal = steady_record(planted)
    waves = delineate(signal, 100, find_r_peaks(signal, 100), LEADS)
    labels = wave_labels(waves, 1000)
    assert labels.shape == (1000,) and set(np.unique(labels)) == set(range(len(LABELS)))
    for peak in find_r_peaks(signal, 100):
        assert LABELS[labels[peak]] == "QRS"
    runs = labels[np.flatnonzero(np.diff(labels.astype(int), prepend=-1))]
    order = "".join(LABELS[label][0] for label in runs).replace("n", "")
    assert order.count("PQST") >= 8


def test_waves_of_odd_positions_are_nan_and_no_error():
    waves = delineate(np.zeros((12, 1000)), 100, np.array([0, 200, 500, 999]), LEADS)
    assert all(np.isnan(column).all() for column in vars(waves).values())
    assert not len(delineate(np.zeros((12, 1000)), 100, np.array([], int), LEADS).qrs_on)


# --- real records ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> tuple[pd.DataFrame, pd.DataFrame]:
    """(rows, measurements) of 300 real records and all with a block."""
    folder = real_ptbxl()
    if folder is None:
        pytest.skip("needs PTB-XL's real records")
    rows = pd.read_csv(folder / "ptbxl_database.csv")
    rows = rows[rows.heart_axis.isin(AXES) | rows.scp_codes.str.contains("BBB|1AVB|AFIB")].iloc[::4]
    found = []
    for name in rows.filename_lr:
        signal = read_record(folder / name, fs=100, n_samples=1000).T.astype(np.float32) / 1000
        found.append(vars(measure(signal, LEADS, 100)))
    return rows.reset_index(drop=True), pd.DataFrame(found).astype(float)


def test_real_axes_are_those_of_the_data_set(real):
    rows, found = real
    agree = []
    for name, angle in zip(rows.heart_axis, found.axis_degrees, strict=True):
        if name in AXES:
            low, high = AXES[name]
            agree.append((angle - low) % 360 <= high - low)
    assert len(agree) > 200 and np.mean(agree) > 0.8


def test_real_blocks_are_wide_and_slow(real):
    rows, found = real
    has = {code: rows.scp_codes.str.contains(f"'{code}'") for code in ("NORM", "CLBBB", "CRBBB", "1AVB", "AFIB")}
    assert 80 < found.qrs_ms[has["NORM"]].median() < 100 and found.qrs_ms[has["NORM"]].quantile(0.95) < 120
    assert found.qrs_ms[has["CLBBB"]].median() > 140 and found.qrs_ms[has["CRBBB"]].median() > 130
    assert 140 < found.pr_ms[has["NORM"]].median() < 175 and found.pr_ms[has["1AVB"]].median() > 200
    assert 350 < found.qt_ms[has["NORM"]].median() < 400
    assert found.pr_ms[has["NORM"]].notna().mean() > 0.9 and found.pr_ms[has["AFIB"]].notna().mean() < 0.2


# --- the benchmark --------------------------------------------------------------------------------------------------


def test_the_benchmark_leaves_a_table_with_intervals(synthetic, tmp_path, capsys):
    benchmark.benchmark(data=synthetic, artifacts=tmp_path, synthetic=20, xqrs_records=2, replicates=20)
    table = pd.read_csv(tmp_path / "benchmarks" / "measurements.csv")
    assert {"R peak sensitivity", "pr_ms", "qrs_ms", "qt_ms", "heart_rate", "axis"} <= set(table.quantity)
    assert table[["hardware", "versions", "date", "n"]].notna().all(axis=None)
    rated = table[table.agreement.notna()]
    assert ((rated.ci_low <= rated.agreement) & (rated.agreement <= rated.ci_high)).mean() > 0.9
    beats = table[table.quantity == "R peak sensitivity"]
    assert len(beats) == 3 and (beats.agreement > 0.98).all()
    assert float(capsys.readouterr().out.splitlines()[-1].split()[1].rstrip(":")) > 1


def test_hits_leave_out_the_edges_and_count_each_beat_once():
    found, wanted = np.array([1.0, 1.05, 5.2, 9.95]), np.array([0.1, 1.1, 5.0, 9.9])
    assert hits(found, wanted, seconds=10) == (1, 2)
    assert hits(np.empty(0), wanted, seconds=10) == (0, 2)
