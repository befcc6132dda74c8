"""The guard on the input: what it says of good recordings, and of the same ones with something wrong put in."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, real_ptbxl

from benchmarks.guard import NOT_ECGS, from_independent, no_ecg, printed_page
from ecg import guard
from ecg.answers import JUDGED_OF_A_PAGE
from ecg.formats.wfdb import UV_PER_MV, read_record
from ecg.guard import LEAD_SETS, LEARNED, STILL_TOGETHER, Finding, examine, hypotheses, measure, tried_in
from ecg.leads import LEADS, LIMB_LEADS

FS = 100


def real_records(n: int) -> list[np.ndarray]:
    """Return real records of good quality (12, 1000) in millivolts."""
    folder = real_ptbxl()
    if folder is None:
        pytest.skip("needs the real PTB-XL")
    table = pd.read_csv(folder / "ptbxl_database.csv")
    quality = ["baseline_drift", "static_noise", "burst_noise", "electrodes_problems"]
    names = table[table[quality].isna().all(axis=1)].filename_lr[:n]
    return [read_record(folder / name, fs=FS, n_samples=1000).T / UV_PER_MV for name in names]


@pytest.fixture(scope="module")
def records() -> list[np.ndarray]:
    return real_records(40)


@pytest.fixture
def record(records) -> np.ndarray:
    return records[0].copy()


def made_up(seconds: float = 10, fs: float = FS) -> np.ndarray:
    """Return something that has waves, (12, t): for what fixed limits find."""
    t = np.arange(round(seconds * fs)) / fs
    phase = (t % 0.8)[:, None]
    waves = np.exp(-(((phase - [0.2, 0.36, 0.4, 0.44, 0.62]) / [0.03, 0.01, 0.012, 0.01, 0.05]) ** 2)).T
    sizes = np.random.default_rng(0).normal([0.1, -0.1, 1, -0.2, 0.3], 0.05, (8, 5))
    noise = np.random.default_rng(1).normal(0, 0.004, (8, len(t)))
    return np.rint(from_independent(sizes @ waves + noise) * UV_PER_MV) / UV_PER_MV


def kinds(findings: list[Finding]) -> set[str]:
    return {finding.kind for finding in findings}


def said_of(findings: list[Finding], kind: str) -> Finding:
    found = [finding for finding in findings if finding.kind == kind]
    assert found, f"no {kind} among {findings}"
    return found[0]


# --- good recordings ------------------------------------------------------------------------------------------------


def test_nearly_all_good_records_pass_without_a_word(records):
    flagged = [examine(record, LEADS, FS) for record in records]
    assert sum(map(bool, flagged)) <= 1
    assert not any(finding.severity == "error" for findings in flagged for finding in findings)


@pytest.mark.parametrize("leads", [LIMB_LEADS, ("I", "II"), ("I",), ("II", "V5"), ("I", "II", "V2"), LEADS[6:]])
def test_good_records_pass_with_any_leads(records, leads):
    rows = [LEADS.index(lead) for lead in leads]
    flagged = [examine(record[rows], leads, FS) for record in records]
    assert sum(map(bool, flagged)) <= 2


def test_order_of_leads_does_not_matter(record):
    order = np.random.default_rng(0).permutation(12)
    shuffled = tuple(LEADS[i] for i in order)
    wrong = record * 5
    assert examine(record[order], shuffled, FS) == examine(record, LEADS, FS)
    assert kinds(examine(wrong[order], shuffled, FS)) == kinds(examine(wrong, LEADS, FS))


@pytest.mark.parametrize("seconds", [2.5, 5])
def test_short_pieces_are_examined(records, seconds):
    flagged = [examine(record[:, : round(seconds * FS)], LEADS, FS) for record in records]
    assert sum(map(bool, flagged)) <= 3


@pytest.mark.parametrize("fs", [50, 250, 360, 1000])
def test_any_rate_gives_the_same_measurements(fs):
    reference, other = measure(made_up(), LEADS, FS), measure(made_up(fs=fs), LEADS, fs)
    assert other.findings == reference.findings == []
    assert other.size == pytest.approx(reference.size, rel=0.2)
    assert other.form[0] == pytest.approx(reference.form[0], abs=0.02)  # heart rate


def test_a_day_long_recording_is_judged_by_a_minute_of_it():
    long = np.tile(made_up(), 30)
    assert measure(long, LEADS, FS).size == pytest.approx(measure(made_up(), LEADS, FS).size, rel=0.05)


# --- the kinds of faults --------------------------------------------------------------------------------------------


def test_thousandfold_scale_is_an_error_and_tenfold_and_fivefold_are_named(records):
    for factor in (1000, 1 / 1000):
        assert all(said_of(examine(record * factor, LEADS, FS), "scale").severity == "error" for record in records)
    assert all(said_of(examine(record * 10, LEADS, FS), "scale").severity == "warning" for record in records)
    found = [kinds(examine(record * 5, LEADS, FS)) for record in records]
    assert np.mean(["scale" in names for names in found]) >= 0.85


def test_message_on_scale_says_what_is_usual_and_what_suffers(record):
    message = said_of(examine(record * 6, LEADS, FS), "scale").message
    assert "times what is usual" in message
    assert "gain or unit" in message


def test_exchanged_arms_are_found_and_other_exchanges_not_called_so(records):
    def exchanged(record: np.ndarray, name: str) -> np.ndarray:
        undo = next(hypothesis.undo for hypothesis in hypotheses() if hypothesis.name == name)
        i_ii_v = np.linalg.inv(undo) @ record[[0, 1, *range(6, 12)]]
        return np.rint(from_independent(i_ii_v) * UV_PER_MV) / UV_PER_MV

    arms = [kinds(examine(exchanged(record, "arms"), LEADS, FS)) for record in records]
    assert np.mean(["arms exchanged" in found for found in arms]) >= 0.95
    chest = [kinds(examine(exchanged(record, "V6 to V1"), LEADS, FS)) for record in records]
    assert np.mean(["chest exchange" in found for found in chest]) >= 0.7
    assert not any("arms exchanged" in found for found in chest)


@pytest.mark.parametrize("lead", LIMB_LEADS)
def test_inverted_limb_lead_is_named_by_the_others(lead):
    signal = made_up()
    signal[LEADS.index(lead)] *= -1
    assert said_of(examine(signal, LEADS, FS), "inverted").leads == (lead,)


def test_exchanged_names_of_limb_leads_are_found():
    signal = made_up()[[0, 2, 1, *range(3, 12)]]
    assert set(said_of(examine(signal, LEADS, FS), "limb exchange").leads) == {"II", "III"}


def test_limb_leads_of_different_people_contradict_each_other():
    signal = made_up()
    signal[1] = np.roll(signal[1], 30)
    signal[3] = np.roll(signal[3], 11)
    assert "limb leads" in kinds(examine(signal, LEADS, FS))


def test_all_leads_flat_is_an_error_and_the_only_finding():
    (finding,) = examine(np.full((12, 1000), 0.3), LEADS, FS)
    assert (finding.kind, finding.severity) == ("flat", "error")


@pytest.mark.parametrize("seconds", [10, 3])
def test_flat_lead_is_named(seconds):
    signal = made_up()
    signal[8, 200 : 200 + seconds * FS] = signal[8, 200]
    finding = said_of(examine(signal, LEADS, FS), "flat")
    assert (finding.leads, finding.severity) == (("V3",), "warning")


def test_all_leads_constant_for_a_moment_is_found():
    signal = made_up()
    signal[:, 400:450] = signal[:, 400:401]
    assert said_of(examine(signal, LEADS, FS), "flat").leads == LEADS
    signal = made_up()
    moment = round(STILL_TOGETHER * FS) - 1
    signal[:, 400 : 400 + moment] = signal[:, 400:401]
    assert "flat" not in kinds(examine(signal, LEADS, FS))


def test_electrode_that_is_off_leaves_hardly_any_signal():
    signal = made_up()
    signal[10] = np.random.default_rng(0).normal(0, 0.002, 1000)
    assert said_of(examine(signal, LEADS, FS), "flat").leads == ("V5",)


@pytest.mark.parametrize("value", [0.0, np.nan, None])
def test_padding_is_a_warning_and_mostly_padding_an_error(value):
    signal = made_up()
    signal[:, :150] = signal[:, 150:151] if value is None else value
    finding = said_of(examine(signal, LEADS, FS), "padding")
    assert finding.severity == "warning"
    assert "first 1.5 s" in finding.message
    signal[:, 300:] = signal[:, 299:300] if value is None else value
    assert said_of(examine(signal, LEADS, FS), "padding").severity == "error"


def test_printed_page_is_an_error():
    finding = said_of(examine(printed_page(made_up(), np.random.default_rng(0)), LEADS, FS), "flat")
    assert finding.severity == "error"


def test_missing_samples_are_counted_and_their_lead_named():
    signal = made_up()
    signal[7, 100:130] = np.nan
    finding = said_of(examine(signal, LEADS, FS), "missing")
    assert finding.leads == ("V2",)
    assert "0.3 s" in finding.message
    assert finding.severity == "warning"


def test_mostly_missing_is_an_error():
    signal = made_up()
    signal[:, np.arange(1000) % 3 != 0] = np.nan
    signal[0] = made_up()[0]
    assert said_of(examine(signal, LEADS, FS), "missing").severity == "error"


def test_clipped_lead_is_named():
    signal = made_up()
    signal[9] = signal[9].clip(None, signal[9].max() / 4)
    assert said_of(examine(signal, LEADS, FS), "clipping").leads == ("V4",)


def test_code_for_a_missing_sample_is_a_spike(record):
    record[6, 500] = -32.768
    assert said_of(examine(record, LEADS, FS), "spikes").leads == ("V1",)


def test_noise_is_found(records):
    noise = np.random.default_rng(0).normal(0, 0.15, (12, 1000))
    found = [kinds(examine(record + noise, LEADS, FS)) for record in records]
    assert np.mean([bool(names & {"noise", "not an ECG"}) for names in found]) >= 0.8


@pytest.mark.parametrize("mains", [50, 60])
def test_mains_is_found_with_its_frequency(mains):
    signal = made_up(fs=500)
    assert "mains" not in kinds(examine(signal, LEADS, 500))
    signal += 0.2 * np.sin(2 * np.pi * mains * np.arange(5000) / 500)
    assert f"{mains} Hz" in said_of(examine(signal, LEADS, 500), "mains").message


def test_wrong_rate_is_doubted(records):
    found = [kinds(examine(record, LEADS, 0.4 * FS)) for record in records]
    assert np.mean([bool(names & {"rate", "not an ECG"}) for names in found]) >= 0.9


@pytest.mark.parametrize("name", NOT_ECGS)
def test_what_is_no_ecg_is_an_error(name):
    for seed in range(5):
        findings = examine(no_ecg(NOT_ECGS[name], np.random.default_rng(seed)), LEADS, FS)
        assert said_of(findings, "not an ECG").severity == "error"


# --- the rest -------------------------------------------------------------------------------------------------------


def test_errors_come_first():
    signal = made_up() * 1000
    signal[3] *= -1
    severities = [finding.severity for finding in examine(signal, LEADS, FS)]
    assert severities == sorted(severities)
    assert len(set(severities)) == 2


@pytest.mark.parametrize(
    ("shape", "leads"), [((12, 1000), LEADS[:11]), ((2, 1000), ("I", "I")), ((1, 1000), ("X",)), ((1000,), ("I",))]
)
def test_leads_must_be_known_and_each_once(shape, leads):
    with pytest.raises(ValueError, match="each lead once"):
        examine(np.zeros(shape), leads, FS)


@pytest.mark.filterwarnings("error")
def test_odd_signals_are_judged_without_a_numerical_warning():
    rng = np.random.default_rng(0)
    odd = [np.zeros((12, 1)), np.zeros((12, 0)), np.full((12, 300), np.nan), np.full((12, 300), np.inf)]
    odd += [rng.normal(size=(12, n)) for n in (2, 3, 10, 250)]
    odd += [rng.normal(size=(12, 300)) * 1e-12, rng.normal(size=(12, 300)) * 1e12]
    odd.append(np.where(rng.random((12, 500)) < 0.3, np.nan, made_up(5)))
    impulse = np.zeros((12, 500))
    impulse[:, 250] = 1
    for signal in [*odd, impulse]:
        assert isinstance(examine(signal, LEADS, FS), list)


def test_learned_coefficients_cover_every_exchange_that_is_tried():
    known = json.loads(LEARNED.read_text(encoding="utf-8"))["exchange"]
    for name in LEAD_SETS:
        assert set(known[name]) == {hypothesis.name for hypothesis in tried_in(name, confirmed=False)}


def test_table_in_the_repository_keeps_the_promises():
    path = ROOT / "artifacts" / "benchmarks" / "guard.csv"
    if not path.exists():
        pytest.skip("codes/benchmarks/guard.py has not been run")
    table = pd.read_csv(path).set_index(["fault", "records"]).detection
    assert table["none", "clean"] <= 0.01
    least = {"all x 5": 0.9, "all / 5": 0.9, "all x 10": 0.99, "all x 1000": 0.99, "exchanged: arms": 0.98}
    least |= {"flat: one lead": 0.98, "padding: 1 s of zeros at the end": 0.98}
    assert {fault: table[fault, "clean"] for fault, share in least.items() if table[fault, "clean"] < share} == {}


def test_what_is_judged_of_a_printed_page_are_findings_that_there_are():
    source = Path(guard.__file__).read_text(encoding="utf-8")
    assert JUDGED_OF_A_PAGE and all(f'"{kind}"' in source for kind in JUDGED_OF_A_PAGE)
