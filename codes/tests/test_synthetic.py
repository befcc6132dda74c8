"""The synthetic PTB-XL: file formats, electrode relations, planted signs."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import wfdb

from ecg import synthetic
from ecg.artifacts import ROOT, UserError
from ecg.download import wrong_files
from ecg.labels import CLASSES, LEADS, read_database, read_superclasses, superclass_labels

REAL = ROOT.parent / "shared" / "PTB-XL"
N = 60


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    assert synthetic.write_ptbxl(folder, records=N, seed=3)
    return folder


@pytest.fixture(scope="module")
def records():
    return list(synthetic.make_records(N, seed=3))


def clean_ecg(code=None, *, seed=0, **options):
    """A record of one disease without noise or anatomy's turns: (12, 5000) in mV and its R peaks in samples."""
    rng = np.random.default_rng(seed)
    heart = synthetic.normal_heart(rng, sex=0, age=50)
    if code in synthetic.TERRITORIES:
        synthetic.plant_infarct(heart, rng, code, options.get("stage", 3))
    elif code in ("LVH", "RVH"):
        synthetic.plant_hypertrophy(heart, rng, code, strain=options.get("strain", False))
    elif code in ("CLBBB", "CRBBB", "LAFB", "1AVB"):
        synthetic.plant_conduction(heart, rng, code)
    elif code:
        synthetic.plant_st_t(heart, rng, code)
    peaks = synthetic.r_peak_times(heart, rng, breathing_hz=0.25, variability=0.02)
    leads = synthetic.ELECTRODES_TO_LEADS @ synthetic.DIPOLE_TO_ELECTRODES @ synthetic.dipole(heart, peaks)
    return leads, peaks[(peaks > 0.6) & (peaks < 9.2)], heart


def around(leads, peaks, lead, start, end):
    """(beats, samples) of one lead between `start` and `end` seconds from R."""
    samples = np.arange(round(start * 500), round(end * 500))
    return leads[LEADS.index(lead)][np.round(peaks * 500).astype(int)[:, None] + samples]


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


def test_headers_look_like_physionets(demo):
    if not REAL.exists():
        pytest.skip(f"no real records in {REAL}")

    def shape(path):  # numbers that differ from record to record become N
        text = path.read_text().replace(path.stem, "NAME")
        lines = text.split("\n")
        return [lines[0], *(re.sub(r"16 0 -?\d+ \d+ 0", "16 0 N N 0", line) for line in lines[1:])]

    for folder, end in (("records100", "lr"), ("records500", "hr")):
        real = next(iter(sorted((REAL / folder).rglob("*.hea"))))
        assert shape(demo / folder / "00000" / f"00001_{end}.hea") == shape(real)


def test_tables_have_the_real_columns_and_value_formats(demo):
    columns = [*pd.read_csv(demo / "ptbxl_database.csv", nrows=0), *pd.read_csv(demo / "scp_statements.csv", nrows=0)]
    assert len(columns) == 28 + 13
    first = (demo / "ptbxl_database.csv").read_text().splitlines()[1]
    assert re.match(r"1,\d+\.0,\d+\.0,[01],", first)
    assert re.search(r"\"?\{'\w+': \d+\.0", first)
    if not REAL.exists():
        pytest.skip(f"no real tables in {REAL}")
    for name in ("ptbxl_database.csv", "scp_statements.csv"):
        assert list(pd.read_csv(demo / name, nrows=0)) == list(pd.read_csv(REAL / name, nrows=0))


def test_scp_codes_have_the_superclass_that_ptbxl_gives_them():
    if not REAL.exists():
        pytest.skip(f"no real tables in {REAL}")
    real = pd.read_csv(REAL / "scp_statements.csv", index_col=0)
    ours = synthetic.scp_statements().set_index("")
    same = ["diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass"]
    pd.testing.assert_frame_equal(
        ours[same].replace("", np.nan), real.loc[ours.index, same], check_names=False, check_dtype=False
    )


def test_patients_never_cross_folds_and_labels_are_spread_over_them(tmp_path):
    plan = synthetic._plan(600, np.random.default_rng(0))
    labels = np.array([[name in classes for name in CLASSES] for _, classes in plan])
    patients = [patient.patient_id for patient, _ in plan]
    folds = synthetic.stratified_folds(patients, labels)
    assert pd.Series(folds).groupby(patients).nunique().max() == 1
    assert 1.1 < len(patients) / len(set(patients)) < 1.4
    counts = np.array([np.r_[labels[folds == fold].sum(0), (folds == fold).sum()] for fold in range(1, 11)])
    assert (np.ptp(counts, axis=0) <= 5).all(), counts


def test_norm_is_exclusive_and_every_class_is_in_val_and_test(demo):
    database = read_database(demo)
    labels = superclass_labels(database, read_superclasses(demo))
    assert (labels[labels.NORM == 1].sum(axis=1) == 1).all()
    assert 0.1 < (labels.sum(axis=1) > 1).mean() < 0.3
    for fold in (9, 10):
        assert (labels[database.strat_fold == fold].sum() > 0).all()
        assert database.validated_by_human[database.strat_fold == fold].all()
    assert 0.5 < database.validated_by_human.mean() < 1


def test_planted_signs_belong_to_the_labels(demo):
    database = read_database(demo)
    labels = superclass_labels(database, read_superclasses(demo)).set_index(database.ecg_id)
    signs = pd.read_csv(demo / "planted_signs.csv")
    assert list(signs) == list(synthetic.SIGN_COLUMNS)
    planted = pd.crosstab(signs.ecg_id, signs.superclass).reindex(index=labels.index, columns=CLASSES, fill_value=0)
    assert ((planted > 0) == (labels == 1)).drop(columns="NORM").all(axis=None)
    assert (signs.start_s < signs.end_s).all()
    assert set(" ".join(signs.leads).split()) <= set(LEADS)


def test_planted_mask_marks_the_leads_and_beats_of_a_sign(demo):
    signs = pd.read_csv(demo / "planted_signs.csv")
    sign = signs[signs.sign == "pathological Q"].iloc[0]
    mask = synthetic.planted_mask(demo, sign.ecg_id, "MI")
    assert mask.shape == (12, 1000)
    marked = {lead for lead, row in zip(LEADS, mask, strict=True) if row.any()}
    assert marked == set(" ".join(signs.leads[(signs.ecg_id == sign.ecg_id) & (signs.superclass == "MI")]).split())
    assert 0 < mask.mean() < 0.5
    assert not synthetic.planted_mask(demo, sign.ecg_id, "NORM").any()
    with pytest.raises(UserError, match="--demo"):
        synthetic.planted_mask(demo / "records100", 1, "MI")


def test_r_peaks_stand_on_the_qrs(records):
    for record in records:
        energy = (np.gradient(record.signals[100].astype(float), axis=1) ** 2).sum(0)
        near = np.zeros(1000, bool)
        for peak in record.r_peaks_s:
            near[max(0, round(100 * (peak - 0.07))) : round(100 * (peak + 0.12))] = True
        assert energy[near].mean() > 3 * energy[~near].mean()


def qrs_seconds(code):
    leads, peaks, _ = clean_ecg(code)
    window = np.stack([around(leads, peaks, lead, -0.1, 0.2) for lead in LEADS])
    size = np.sqrt((window**2).mean(axis=(0, 1)))
    return (size > 0.12 * size.max()).sum() / 500


def test_bundle_branch_blocks_widen_the_qrs():
    assert qrs_seconds(None) < 0.09
    assert qrs_seconds("CLBBB") > 0.11
    assert qrs_seconds("CRBBB") > 0.11


def test_right_bundle_branch_block_ends_with_r_in_v1_and_s_in_v6():
    leads, peaks, _ = clean_ecg("CRBBB")
    assert around(leads, peaks, "V1", 0.04, 0.11).max(1).min() > 0.4
    assert around(leads, peaks, "V6", 0.04, 0.11).min(1).max() < -0.3


def test_left_anterior_block_turns_the_axis_up():
    leads, peaks, _ = clean_ecg("LAFB")
    assert around(leads, peaks, "II", -0.05, 0.06).mean() < 0 < around(leads, peaks, "I", -0.05, 0.06).mean()
    assert around(leads, peaks, "III", -0.05, -0.01).max(1).min() > 0.03  # the small r of rS


def test_first_degree_block_moves_p_away_from_qrs():
    for code, low, high in ((None, 0.1, 0.2), ("1AVB", 0.2, 0.35)):
        leads, peaks, heart = clean_ecg(code)
        p = around(leads, peaks, "II", -0.4, -0.05).mean(0)
        assert low < 0.4 - p.argmax() / 500 < high  # P's peak before R
        assert low < heart.pr < high


@pytest.mark.parametrize(
    ("code", "lead", "spared"), [("IMI", "aVF", "V3"), ("ASMI", "V2", "aVF"), ("LMI", "aVL", "V2")]
)
@pytest.mark.parametrize("seed", range(5))
def test_infarcts_plant_q_in_the_leads_over_the_dead_wall(code, lead, spared, seed):
    leads, peaks, _ = clean_ecg(code, seed=seed)
    assert around(leads, peaks, lead, -0.055, -0.01).min(1).max() < -0.2
    assert around(leads, peaks, spared, -0.055, -0.01).min() > -0.2
    assert lead in synthetic.leads_facing(synthetic.TERRITORIES[code])
    assert spared not in synthetic.leads_facing(synthetic.TERRITORIES[code])


def test_fresh_infarcts_lift_st_and_old_ones_turn_t():
    fresh, peaks, _ = clean_ecg("IMI", stage=1)
    assert around(fresh, peaks, "aVF", 0.08, 0.14).mean() > 0.08
    assert around(fresh, peaks, "aVL", 0.08, 0.14).mean() < 0  # the mirror image
    old, peaks, heart = clean_ecg("IMI", stage=3)
    assert around(old, peaks, "aVF", *heart.t_interval).mean() < -0.02


def test_left_hypertrophy_raises_voltage_and_strain_turns_st_and_t():
    def sokolow(code):
        leads, peaks, _ = clean_ecg(code)
        return around(leads, peaks, "V5", -0.03, 0.03).max() - around(leads, peaks, "V1", -0.03, 0.06).min()

    assert sokolow(None) < 3.5 < sokolow("LVH")
    leads, peaks, heart = clean_ecg("LVH", strain=True)
    assert around(leads, peaks, "V6", *heart.t_interval).mean() < -0.05
    assert around(leads, peaks, "V6", 0.08, 0.16).mean() < -0.03


@pytest.mark.parametrize("code", ["ISCAL", "ISC_", "NST_"])
def test_ischaemia_lowers_st_without_q(code):
    leads, peaks, _ = clean_ecg(code)
    normal, at, _ = clean_ecg(None)
    assert around(leads, peaks, "V5", 0.09, 0.15).mean() < around(normal, at, "V5", 0.09, 0.15).mean() - 0.04
    assert around(leads, peaks, "V5", -0.05, -0.01).min() > -0.2


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


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (5, 5, 6), strict=True):
        synthetic.write_ptbxl(folder, records=20, seed=seed)
    sums = [(folder / "SHA256SUMS.txt").read_text() for folder in folders]
    assert sums[0] == sums[1] != sums[2]
    files = [sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in folders[:2]]
    assert files[0] == files[1]
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in files[0])


def test_rewriting_what_is_right_changes_nothing_and_what_is_damaged_is_mended(demo):
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*")}
    assert not synthetic.write_ptbxl(demo, records=N, seed=3)
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*")} == before
    (demo / "records100/00000/00007_lr.dat").write_bytes(b"")
    assert wrong_files(demo) == ["records100/00000/00007_lr.dat"]
    assert synthetic.write_ptbxl(demo, records=N, seed=3)
    assert wrong_files(demo) == []


def test_another_size_replaces_the_demo_whole(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    synthetic.write_ptbxl(tmp_path, records=25)
    synthetic.write_ptbxl(tmp_path, records=20)
    assert len(list((tmp_path / "records100").rglob("*.dat"))) == len(read_database(tmp_path)) == 20
    assert json.loads((tmp_path / "synthetic.json").read_text())["records"] == 20
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_stopped_rewrite_is_finished_by_the_next_call(tmp_path, monkeypatch):
    synthetic.write_ptbxl(tmp_path, records=20)

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "checksum_lines", stop)  # the last moment before it would be whole
        with pytest.raises(KeyboardInterrupt):
            synthetic.write_ptbxl(tmp_path, records=21)
    assert not list(tmp_path.glob(".*"))
    assert synthetic.write_ptbxl(tmp_path, records=21)
    assert wrong_files(tmp_path) == []


@pytest.mark.parametrize("name", ["ptbxl_database.csv", "records100"])
def test_demo_never_writes_over_real_data(tmp_path, name):
    (tmp_path / name).mkdir() if name.startswith("records") else (tmp_path / name).write_text("ecg_id\n")
    with pytest.raises(UserError, match="not synthetic"):
        synthetic.write_ptbxl(tmp_path, records=20)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_too_few_records_are_refused(tmp_path):
    with pytest.raises(UserError, match="at least 20"):
        synthetic.write_ptbxl(tmp_path / "new", records=5)
    assert not (tmp_path / "new").exists()
