"""The synthetic PTB-XL: file formats, electrode relations, statements, planted signs."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from ecg import synthetic
from ecg.artifacts import ROOT, UserError
from ecg.download import DEMO_MARK, wrong_files
from ecg.labels import read_database, statement_table
from ecg.leads import LEADS
from ecg.synthetic import STATEMENTS, plan_cases, planted_mask, sick_heart, write_ptbxl
from ecg.synthetic_heart import (
    DIPOLE_TO_ELECTRODES,
    ELECTRODES_TO_LEADS,
    NORMAL,
    beats_of,
    dipole,
    leads_facing,
    normal_heart,
    planted_in,
)
from ecg.synthetic_signs import (
    TERRITORIES,
    plant_atrial_beats,
    plant_diagnosis,
    plant_low_voltage,
    plant_rhythm,
    plant_ventricular_beats,
)
from ecg.tasks import benchmark_tasks, read_statements

N = 60
KINDS = ("diagnostic", "form", "rhythm")
WITHOUT_SIGNS = {"NORM", "SR"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    assert write_ptbxl(folder, records=N, seed=3)
    return folder


@pytest.fixture(scope="module")
def records():
    return list(synthetic.make_records(N, seed=3))


@pytest.fixture(scope="module")
def real() -> Path:
    """The real PTB-XL, wherever it lies."""
    for folder in (ROOT / "PTB-XL", ROOT.parent / "shared" / "PTB-XL"):
        if (folder / "scp_statements.csv").exists() and not (folder / DEMO_MARK).exists():
            return folder
    pytest.skip("PTB-XL is not here")


class Ecg:
    """A record without noise or anatomy's turns: leads (12, 5000) in mV, its beats and the planted signs."""

    def __init__(self, *codes, rhythm="SR", extra="", low=False, stage=3, strain=False, seed=0):
        rng = np.random.default_rng(seed)
        self.heart = normal_heart(rng, sex=0, age=50)
        plant_rhythm(self.heart, rng, rhythm)
        for code in codes:
            plant_diagnosis(self.heart, rng, code, stage=stage, strain=strain)
        if low:
            plant_low_voltage(self.heart, rng)
        if extra == "PVC":
            plant_ventricular_beats(self.heart, rng, every=2 if rhythm == "BIGU" else 0)
        elif extra == "PAC":
            plant_atrial_beats(self.heart, rng)
        self.beats = beats_of(self.heart, rng, breathing_hz=0.25)
        self.leads = ELECTRODES_TO_LEADS @ DIPOLE_TO_ELECTRODES @ dipole(self.heart, self.beats, rng)
        self.signs = planted_in(self.heart, self.beats)

    def around(self, lead, start, end, kind=NORMAL):
        """(beats, samples) of one lead between `start` and `end` seconds from the R peaks of one kind of beat."""
        samples = np.arange(round(start * 500), round(end * 500))
        peaks = [beat.time for beat in self.beats if beat.kind == kind and 0.6 < beat.time < 9.2]
        return self.leads[LEADS.index(lead)][np.round(np.array(peaks) * 500).astype(int)[:, None] + samples]

    def within(self, code, sign, lead):
        """The samples of one lead in which a sign was planted."""
        found = [s for s in self.signs if s.code == code and s.sign == sign and lead in s.leads]
        assert found, f"{code} has no sign {sign!r} in {lead}"
        return np.concatenate([self.leads[LEADS.index(lead), int(s.start_s * 500) : int(s.end_s * 500)] for s in found])

    def intervals(self):
        return np.diff([beat.time for beat in self.beats if 0 <= beat.time < 10])


# ---- files


@pytest.mark.parametrize(("column", "rate"), [("filename_lr", 100), ("filename_hr", 500)])
def test_wfdb_reads_back_what_was_made_at_both_rates(demo, records, column, rate):
    for made in records[::15]:
        read = wfdb.rdrecord(str(demo / made.row[column]), physical=False)
        assert read.fs == rate
        assert read.fmt == ["16"] * 12
        assert read.units == ["mV"] * 12
        assert read.adc_gain == [1000.0] * 12
        assert [name.lower() for name in read.sig_name] == [name.lower() for name in LEADS]
        np.testing.assert_array_equal(read.d_signal.T, made.signals[rate])
        assert read.init_value == made.signals[rate][:, 0].tolist()
        assert [c % 65536 for c in read.calc_checksum()] == [c % 65536 for c in read.checksum]


def test_limb_leads_obey_einthoven_and_goldberger_to_rounding(records):
    for record in records:
        for signals in record.signals.values():
            i, ii, iii, avr, avl, avf = signals[:6].astype(int)
            assert np.abs(i + iii - ii).max() <= 1
            assert np.abs(avr + avl + avf).max() <= 1
            for augmented, others in ((avr, -(i + ii)), (avl, i - iii), (avf, ii + iii)):
                assert np.abs(2 * augmented - others).max() <= 2


def test_slow_file_is_the_fast_one_without_what_it_cannot_hold(records):
    for record in records[:10]:
        fast, slow = record.signals[500].astype(float), record.signals[100].astype(float)
        spectrum = np.fft.rfft(fast, axis=1)
        spectrum[:, 350:] = 0  # above 35 Hz
        low = np.fft.irfft(spectrum, 5000, axis=1)[:, ::5]
        mine = np.fft.rfft(slow, axis=1)
        mine[:, 350:] = 0
        difference = np.fft.irfft(mine, 1000, axis=1) - low
        assert np.abs(difference[:, 50:-50]).max() < 20  # µV


def test_headers_look_like_physionets(demo, real):
    def shape(path):  # numbers that differ from record to record become N
        text = path.read_text().replace(path.stem, "NAME")
        lines = text.split("\n")
        return [lines[0], *(re.sub(r"16 0 -?\d+ \d+ 0", "16 0 N N 0", line) for line in lines[1:])]

    for folder, end in (("records100", "lr"), ("records500", "hr")):
        example = next(iter(sorted((real / folder).rglob("*.hea"))))
        assert shape(demo / folder / "00000" / f"00001_{end}.hea") == shape(example)


def test_tables_have_the_formats_of_ptbxl(demo):
    columns = [*pd.read_csv(demo / "ptbxl_database.csv", nrows=0), *pd.read_csv(demo / "scp_statements.csv", nrows=0)]
    assert len(columns) == 28 + 13
    first = (demo / "ptbxl_database.csv").read_text().splitlines()[1]
    assert re.match(r"1,\d+\.0,\d+\.0,[01],", first)
    assert re.search(r"\"?\{'\w+': \d+\.0", first)


def test_tables_have_the_columns_of_ptbxl(demo, real):
    for name in ("ptbxl_database.csv", "scp_statements.csv"):
        assert list(pd.read_csv(demo / name, nrows=0)) == list(pd.read_csv(real / name, nrows=0))


# ---- statements


def test_all_statements_of_ptbxl_are_there_in_their_kinds():
    table = synthetic.scp_statements().set_index("")
    assert len(table) == table.index.nunique() == 71
    assert {kind: int(table[kind].sum()) for kind in KINDS} == {"diagnostic": 44, "form": 19, "rhythm": 12}
    assert set(table.index[(table.diagnostic == 1) & (table.form == 1)]) == {"NDT", "NST_", "DIG", "LNGQT"}
    assert table.description.nunique() == 71
    sizes = {name: len(task) for name, task in benchmark_tasks(table).items()}
    assert sizes == {
        "superdiagnostic": 5,
        "subdiagnostic": 23,
        "diagnostic": 44,
        "form": 19,
        "rhythm": 12,
        "all": 71,
    }


def test_codes_kinds_and_groups_are_those_of_the_real_table_and_no_description_is(real):
    theirs = pd.read_csv(real / "scp_statements.csv", index_col=0)
    ours = synthetic.scp_statements().set_index("").replace("", np.nan)
    assert set(ours.index) == set(theirs.index)
    theirs = theirs.loc[ours.index]
    same = [*KINDS, "diagnostic_class", "diagnostic_subclass"]
    pd.testing.assert_frame_equal(ours[same], theirs[same], check_names=False, check_dtype=False)
    for column in ("description", "SCP-ECG Statement Description"):
        copied = ours.description.str.lower() == theirs[column].str.lower()
        assert not copied.any(), list(ours.index[copied])


def test_each_record_has_one_rhythm_and_likelihoods_of_diagnoses_alone(records):
    for record in records:
        codes = json.loads(record.row["scp_codes"].replace("'", '"'))
        assert sum(STATEMENTS[code].kinds == "r" for code in codes) == 1
        for code, likelihood in codes.items():
            assert (likelihood > 0) == ("d" in STATEMENTS[code].kinds), codes


def test_thirty_statements_of_all_kinds_are_frequent_enough_in_a_demo_to_be_learned():
    rng = np.random.default_rng(0)
    counts = Counter()
    for case in plan_cases(800, rng):
        heart, _ = sick_heart(case, rng)
        counts.update({*case.diagnoses, case.rhythm, *(code for sign in heart.signs for code in sign.statements)})
    kinds = Counter(kind for code, count in counts.items() if count >= 20 for kind in STATEMENTS[code].kinds)
    assert sum(count >= 20 for count in counts.values()) >= 30
    assert kinds["d"] >= 10
    assert kinds["f"] >= 12
    assert kinds["r"] >= 8


def test_form_statements_are_given_where_the_signal_shows_them(demo):
    database = read_database(demo)
    given, _ = statement_table(database, pd.Index(STATEMENTS))
    assert (given["1AVB"] == given.LPR).all()
    assert (given.LVH == given.VCLVH).all()
    assert (given.HVOLT <= given.VCLVH).all()
    assert (given.QWAVE <= given.ABQRS).all()
    assert (given.BIGU <= given.PVC).all()
    assert ((given.ISCAL | given.ISCIN) <= given.INVT).all()
    extra = database.extra_beats.fillna("")
    assert (extra.str.startswith("VES") == (given.PVC == 1)).all()
    assert (extra.str.startswith("SVES") == (given.PAC == 1)).all()
    assert (database.pacemaker.notna() == (given.PACE == 1)).all()


def test_patients_never_cross_folds_and_statements_are_spread_over_them(tmp_path):
    cases = plan_cases(600, np.random.default_rng(0))
    names = ("NORM", "MI", "STTC", "CD", "HYP", "IMI", "CRBBB", "AFIB", "PACE", "PVC", "SBRAD")
    labels = np.array([[name in case.names for name in names] for case in cases])
    patients = [case.patient.patient_id for case in cases]
    folds = synthetic.stratified_folds(patients, labels)
    assert pd.Series(folds).groupby(patients).nunique().max() == 1
    assert 1.1 < len(patients) / len(set(patients)) < 1.4
    counts = np.array([np.r_[labels[folds == fold].sum(0), (folds == fold).sum()] for fold in range(1, 11)])
    assert (np.ptp(counts, axis=0) <= 5).all(), counts
    assert counts.min() >= 1


def test_norm_is_exclusive_and_every_superclass_is_in_val_and_test(demo):
    database = read_database(demo)
    known = read_statements(demo)
    given, unknown = statement_table(database, known.index)
    labels = benchmark_tasks(known)["superdiagnostic"].labels(given)
    assert not unknown
    assert (labels[labels.NORM == 1].sum(axis=1) == 1).all()
    assert 0.1 < (labels.sum(axis=1) > 1).mean() < 0.3
    for fold in (9, 10):
        assert (labels[database.strat_fold == fold].sum() > 0).all()
        assert database.validated_by_human[database.strat_fold == fold].all()
    assert 0.5 < database.validated_by_human.mean() < 1


# ---- where the signs are


def test_every_statement_has_signs_in_its_record_and_every_sign_a_statement(demo):
    signs = pd.read_csv(demo / "planted_signs.csv")
    assert list(signs) == list(synthetic.SIGN_COLUMNS)
    assert (signs.start_s < signs.end_s).all()
    assert signs.start_s.min() >= 0
    assert signs.end_s.max() <= 10
    assert set(" ".join(signs.leads).split()) == set(LEADS)
    for row in read_database(demo).itertuples():
        codes = set(json.loads(row.scp_codes.replace("'", '"')))
        assert set(signs.code[signs.ecg_id == row.ecg_id]) == codes - WITHOUT_SIGNS


def test_planted_mask_has_the_rows_rate_and_length_it_is_asked_for(demo):
    signs = pd.read_csv(demo / "planted_signs.csv")
    sign = signs[(signs.sign == "pathological Q") & (signs.start_s > 1)].iloc[0]
    code, ecg_id = sign.code, sign.ecg_id
    whole = planted_mask(demo, ecg_id, {code}, fs=100, n_samples=1000, leads=LEADS)
    assert whole.shape == (12, 1000)
    assert whole.dtype == bool
    assert 0 < whole.mean() < 0.5
    marked = {lead for lead, row in zip(LEADS, whole, strict=True) if row.any()}
    assert marked == set(" ".join(signs.leads[(signs.ecg_id == ecg_id) & (signs.code == code)]).split())
    middle = round(100 * (sign.start_s + sign.end_s) / 2)
    assert all(whole[LEADS.index(lead), middle] for lead in sign.leads.split())

    reversed_rows = planted_mask(demo, ecg_id, {code}, fs=100, n_samples=1000, leads=LEADS[::-1])
    np.testing.assert_array_equal(reversed_rows, whole[::-1])
    np.testing.assert_array_equal(
        planted_mask(demo, ecg_id, {code}, fs=100, n_samples=300, leads=("V2", "Frank X")),
        np.stack([whole[LEADS.index("V2"), :300], np.zeros(300, bool)]),
    )
    fast = planted_mask(demo, ecg_id, {code}, fs=500, n_samples=5000, leads=LEADS)
    assert abs(fast.mean() - whole.mean()) < 0.02


def test_planted_mask_joins_the_statements_of_a_class(demo):
    ecg_id = int(pd.read_csv(demo / "planted_signs.csv").ecg_id.iloc[0])
    same = {"fs": 100, "n_samples": 1000, "leads": LEADS}
    each = [planted_mask(demo, ecg_id, [code], **same) for code in STATEMENTS]
    np.testing.assert_array_equal(planted_mask(demo, ecg_id, list(STATEMENTS), **same), np.any(each, axis=0))
    assert not planted_mask(demo, ecg_id, WITHOUT_SIGNS, **same).any()
    assert not planted_mask(demo, ecg_id, [], **same).any()


def test_planted_mask_says_where_signs_come_from_if_there_are_none(tmp_path):
    with pytest.raises(UserError, match="--demo"):
        planted_mask(tmp_path, 1, {"IMI"}, fs=100, n_samples=1000, leads=LEADS)


def test_signs_of_extra_beats_lie_on_those_beats_and_those_of_flutter_between_all(demo):
    peaks = pd.read_csv(demo / "r_peaks.csv")
    signs = pd.read_csv(demo / "planted_signs.csv")
    for code in ("PVC", "PAC"):
        ecg_id = peaks.ecg_id[peaks.beat == code].iloc[0]
        of_record = peaks[peaks.ecg_id == ecg_id]
        mask = planted_mask(demo, ecg_id, {code}, fs=1000, n_samples=10000, leads=("II",))[0]
        for beat in of_record.itertuples():
            assert mask[int(1000 * beat.r_peak_s)] == (beat.beat == code)
    ecg_id = signs.ecg_id[signs.code == "AFLT"].iloc[0]
    mask = planted_mask(demo, ecg_id, {"AFLT"}, fs=1000, n_samples=10000, leads=("II", "V6"))
    times = peaks.r_peak_s[peaks.ecg_id == ecg_id].to_numpy()
    assert not mask[:, (1000 * times).astype(int)].any()
    assert mask[0, (500 * (times[1:] + times[:-1])).astype(int)].all()
    assert not mask[1].any()


def test_r_peaks_are_all_beats_and_stand_on_the_qrs(demo, records):
    peaks = pd.read_csv(demo / "r_peaks.csv")
    assert list(peaks) == list(synthetic.PEAK_COLUMNS)
    assert set(peaks.beat) == {NORMAL, "PVC", "PAC"}
    for record in records:
        times = peaks.r_peak_s[peaks.ecg_id == record.row["ecg_id"]].to_numpy()
        assert times == pytest.approx([beat.time for beat in record.beats], abs=1e-4)
        energy = (np.gradient(record.signals[100].astype(float), axis=1) ** 2).sum(0)
        near = np.zeros(1000, bool)
        for time in times:
            near[max(0, round(100 * (time - 0.08))) : round(100 * (time + 0.12))] = True
        assert energy[near].mean() > 3 * energy[~near].mean()


# ---- what the diseases look like


def qrs_seconds(ecg, kind=NORMAL):
    window = np.stack([ecg.around(lead, -0.08, 0.14, kind) for lead in LEADS])
    size = np.sqrt((window**2).mean(axis=(0, 1)))
    return (size > 0.12 * size.max()).sum() / 500


def test_bundle_branch_blocks_widen_the_qrs():
    assert qrs_seconds(Ecg()) < 0.09
    assert qrs_seconds(Ecg("CLBBB")) > 0.11
    assert qrs_seconds(Ecg("CRBBB")) > 0.11


def test_right_bundle_branch_block_ends_with_r_in_v1_and_s_in_v6():
    ecg = Ecg("CRBBB")
    assert ecg.around("V1", 0.04, 0.11).max(1).min() > 0.4
    assert ecg.around("V6", 0.04, 0.11).min(1).max() < -0.3


def test_left_anterior_block_turns_the_axis_up():
    ecg = Ecg("LAFB")
    assert ecg.around("II", -0.05, 0.06).mean() < 0 < ecg.around("I", -0.05, 0.06).mean()
    assert ecg.around("III", -0.05, -0.01).max(1).min() > 0.03  # the small r of rS


@pytest.mark.parametrize(("codes", "low", "high"), [((), 0.1, 0.2), (("1AVB",), 0.2, 0.35)])
def test_first_degree_block_moves_p_away_from_qrs(codes, low, high):
    ecg = Ecg(*codes)
    p = ecg.around("II", -0.4, -0.05).mean(0)
    assert low < 0.4 - p.argmax() / 500 < high  # P's peak before R
    assert low < ecg.heart.pr < high


@pytest.mark.parametrize(
    ("code", "lead", "spared"), [("IMI", "aVF", "V3"), ("ASMI", "V2", "aVF"), ("LMI", "aVL", "V2")]
)
def test_infarcts_plant_q_in_the_leads_over_the_dead_wall(code, lead, spared):
    assert lead in leads_facing(TERRITORIES[code])
    assert spared not in leads_facing(TERRITORIES[code])
    deepest = {False: [], True: []}
    for seed in range(8):
        ecg = Ecg(code, seed=seed)
        q = ecg.around(lead, -0.055, -0.01).min()
        assert q < -0.2
        assert ecg.around(spared, -0.055, -0.01).min() > -0.2
        deepest["QWAVE" in {sign.code for sign in ecg.signs}].append(q)
    assert np.mean(deepest[True]) < np.mean(deepest[False]) - 0.1


def test_fresh_infarcts_lift_st_and_old_ones_turn_t():
    fresh = Ecg("IMI", stage=1)
    assert fresh.within("STE_", "ST elevation", "aVF").mean() > 0.08
    assert fresh.around("aVL", 0.08, 0.14).mean() < 0  # the mirror image
    assert Ecg("IMI", stage=3).within("INVT", "T inversion", "aVF").mean() < -0.02


def test_left_hypertrophy_raises_voltage_and_strain_turns_st_and_t():
    def sokolow(*codes):
        ecg = Ecg(*codes)
        return ecg.around("V5", -0.03, 0.03).max() - ecg.around("V1", -0.03, 0.06).min()

    assert sokolow() < 3.5 < sokolow("LVH")
    ecg = Ecg("LVH", strain=True)
    assert ecg.within("INVT", "strain T inversion", "V6").mean() < -0.05
    assert ecg.within("STD_", "strain ST depression", "V6").mean() < -0.03


@pytest.mark.parametrize("code", ["ISCAL", "ISC_", "NST_"])
def test_ischaemia_lowers_st_without_q(code):
    ecg, normal = Ecg(code), Ecg()
    assert ecg.around("V5", 0.09, 0.15).mean() < normal.around("V5", 0.09, 0.15).mean() - 0.04
    assert ecg.around("V5", -0.05, -0.01).min() > -0.2


def test_long_qt_ends_later():
    for ecg, longest in ((Ecg(), 0.45), (Ecg("LNGQT"), 0.6)):
        ends = [s.end_s - beat.time + 0.04 for s in ecg.signs for beat in ecg.beats if 0 < s.end_s - beat.time < 0.6]
        assert max(ends, default=0) / np.sqrt(ecg.heart.rr) < longest
    assert Ecg("LNGQT").heart.qtc > 0.48 > Ecg().heart.qtc


def test_low_voltage_is_low_in_every_lead():
    ecg = Ecg(low=True)
    for lead in LEADS:
        assert np.abs(ecg.within("LVOLT", "low voltage", lead)).max() < (0.5 if lead[0] in "Ia" else 1.0)


# ---- rhythms and extra beats


@pytest.mark.parametrize(("rhythm", "low", "high"), [("SBRAD", 40, 60), ("SR", 60, 100), ("STACH", 100, 135)])
def test_sinus_rates_are_what_their_names_say(rhythm, low, high):
    for seed in range(5):
        intervals = Ecg(rhythm=rhythm, seed=seed).intervals()
        assert low < 60 / intervals.mean() < high
        assert intervals.std() / intervals.mean() < 0.08


def test_sinus_arrhythmia_swings_and_fibrillation_jumps():
    for seed in range(5):
        swings = Ecg(rhythm="SARRH", seed=seed)
        jumps = Ecg(rhythm="AFIB", seed=seed)
        for ecg in (swings, jumps):
            assert ecg.intervals().std() / ecg.intervals().mean() > 0.07
    p = swings.around("II", -0.25, -0.06)
    assert p.max(1).min() > 0.06  # every beat has its P
    f = jumps.around("II", -0.25, -0.06)
    assert np.abs(f.mean(0)).max() < np.abs(p.mean(0)).max()  # waves that keep no step with the beats


def test_flutter_is_regular_and_has_several_saw_teeth_per_beat():
    ecg = Ecg(rhythm="AFLT")
    assert ecg.intervals().std() < 0.001
    spectrum = np.abs(np.fft.rfft(ecg.leads[LEADS.index("II")] * np.hanning(5000)))
    hertz = np.fft.rfftfreq(5000, 1 / 500)
    flutter = ecg.heart.flutter_waves / ecg.heart.rr
    assert 4 < flutter < 5.5
    at = np.abs(hertz - flutter) < 0.2
    near = (np.abs(hertz - flutter) > 0.4) & (np.abs(hertz - flutter) < 0.8)
    assert spectrum[at].max() > 5 * spectrum[near].max()


def test_paced_beats_have_a_spike_before_a_wide_qrs_that_points_up():
    ecg = Ecg(rhythm="PACE")
    slope = np.abs(np.diff(ecg.around("II", -0.15, 0.2), axis=1))
    spike = slope[:, round(0.075 * 500) : round(0.105 * 500)].max(1)
    assert (spike > 5 * np.delete(slope, np.s_[round(0.075 * 500) : round(0.105 * 500)], axis=1).max(1)).all()
    assert qrs_seconds(ecg) > 0.11
    assert ecg.around("aVF", -0.03, 0.1).mean() < -0.2


@pytest.mark.parametrize("seed", range(3))
def test_ventricular_extra_beats_are_early_wide_without_p_and_pay_back_the_time(seed):
    ecg = Ecg(extra="PVC", seed=seed)
    usual = ecg.heart.rr
    early = [k for k, beat in enumerate(ecg.beats) if beat.kind == "PVC"]
    assert 2 <= len(early) <= 4
    for k in early:
        assert ecg.beats[k].before < 0.75 * usual
        assert ecg.beats[k].before + ecg.beats[k + 1].before == pytest.approx(2 * usual, rel=0.1)
        assert ecg.beats[k + 1].kind == NORMAL
    assert qrs_seconds(ecg, "PVC") > 1.3 * qrs_seconds(ecg)
    assert not [name for name in ecg.heart.extra_beats.waves if name.startswith("P")]


@pytest.mark.parametrize("seed", range(3))
def test_atrial_extra_beats_are_early_narrow_with_a_p_and_a_pause(seed):
    ecg = Ecg(extra="PAC", seed=seed)
    usual = ecg.heart.rr
    early = [k for k, beat in enumerate(ecg.beats) if beat.kind == "PAC"]
    assert early
    for k in early:
        assert ecg.beats[k].before < 0.8 * usual
        assert 1.0 * usual < ecg.beats[k + 1].before < 1.4 * usual
    assert qrs_seconds(ecg, "PAC") == pytest.approx(qrs_seconds(ecg), abs=0.02)
    assert ecg.around("aVF", -0.2, -0.06, "PAC").mean() < ecg.around("aVF", -0.2, -0.06).mean()  # P upside down


def test_bigeminy_alternates():
    kinds = [beat.kind for beat in Ecg(rhythm="BIGU", extra="PVC").beats]
    assert set(kinds[::2]) | set(kinds[1::2]) == {NORMAL, "PVC"}
    assert len(set(kinds[2:-2:2])) == len(set(kinds[3:-2:2])) == 1


def test_atrial_beats_of_a_diseased_heart_carry_its_qrs():
    ecg = Ecg("CRBBB", extra="PAC")
    assert qrs_seconds(ecg, "PAC") > 0.11


# ---- writing


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (5, 5, 6), strict=True):
        write_ptbxl(folder, records=20, seed=seed)
    sums = [(folder / "SHA256SUMS.txt").read_text() for folder in folders]
    assert sums[0] == sums[1] != sums[2]
    files = [sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in folders[:2]]
    assert files[0] == files[1]
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in files[0])


def test_rewriting_what_is_right_changes_nothing_and_what_is_damaged_is_mended(tmp_path):
    write_ptbxl(tmp_path, records=20)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert not write_ptbxl(tmp_path, records=20)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    (tmp_path / "records100/00000/00007_lr.dat").write_bytes(b"")
    assert wrong_files(tmp_path) == ["records100/00000/00007_lr.dat"]
    assert write_ptbxl(tmp_path, records=20)
    assert wrong_files(tmp_path) == []


def test_another_size_replaces_the_demo_whole(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    write_ptbxl(tmp_path, records=25)
    write_ptbxl(tmp_path, records=20)
    assert len(list((tmp_path / "records100").rglob("*.dat"))) == len(read_database(tmp_path)) == 20
    assert json.loads((tmp_path / "synthetic.json").read_text())["records"] == 20
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_stopped_rewrite_is_finished_by_the_next_call(tmp_path, monkeypatch):
    write_ptbxl(tmp_path, records=20)

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "checksum_lines", stop)  # the last moment before it would be whole
        with pytest.raises(KeyboardInterrupt):
            write_ptbxl(tmp_path, records=21)
    assert not list(tmp_path.glob(".*"))
    assert write_ptbxl(tmp_path, records=21)
    assert wrong_files(tmp_path) == []


@pytest.mark.parametrize("name", ["ptbxl_database.csv", "records100"])
def test_demo_never_writes_over_real_data(tmp_path, name):
    (tmp_path / name).mkdir() if name.startswith("records") else (tmp_path / name).write_text("ecg_id\n")
    with pytest.raises(UserError, match="not synthetic"):
        write_ptbxl(tmp_path, records=20)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_too_few_records_are_refused(tmp_path):
    with pytest.raises(UserError, match="at least 20"):
        write_ptbxl(tmp_path / "new", records=5)
    assert not (tmp_path / "new").exists()
