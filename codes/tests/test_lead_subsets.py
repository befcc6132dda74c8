"""Missing leads: what a training on subsets of the leads sees, and who answers a recording that lacks some."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import share_inputs

from benchmarks import lead_subsets
from ecg.artifacts import UserError
from ecg.augmentation import LEAD_SUBSETS, keep_lead_subsets
from ecg.labels import read_split, read_splits
from ecg.leads import LEADS, LIMB_LEADS, PAGE_3X4
from ecg.metrics import macro_auc
from ecg.recordings import Recording
from ecg.runs import read_config, read_predictions
from ecg.signals import load_signals
from ecg.stages import training_code
from ecg.stored_run import StoredRun, load_run
from ecg.training import train

WINDOW, T = 250, 1000
N = 4000
SETTINGS = {"epochs": 1, "width": 0.25, "device": "cpu", "precision": "fp32"}


def moments_seen(*, seed: int = 0) -> np.ndarray:
    """Return which sample of its record each lead begins with, (N, 12), counted from 1; 0 where it is masked."""
    time = torch.arange(1.0, T + 1).expand(N, len(LEADS), T)
    kept = keep_lead_subsets(time, torch.Generator().manual_seed(seed), window=WINDOW)
    assert kept.shape == (N, len(LEADS), WINDOW)
    there = (kept > 0).all(dim=2)
    assert (there | (kept == 0).all(dim=2)).all(), "a lead is kept as a whole or not at all"
    steps = kept.diff(dim=2)[there]
    assert (steps == 1).all(), "what is kept is a piece of the record"
    return kept[:, :, 0].int().numpy()


@pytest.fixture(scope="module")
def seen() -> np.ndarray:
    return moments_seen()


@pytest.fixture(scope="module")
def kept(seen: np.ndarray) -> list[tuple[str, ...]]:
    return [tuple(lead for lead, there in zip(LEADS, row > 0, strict=True) if there) for row in seen]


# --- what a training sees -----------------------------------------------------------------------------------------


def test_the_shares_of_the_subsets_add_up_to_all_records():
    assert sum(LEAD_SUBSETS.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("leads", "share"),
    [
        (LEADS, LEAD_SUBSETS["all"] + LEAD_SUBSETS["page"]),
        (LIMB_LEADS, LEAD_SUBSETS["limb"]),
        ((*LIMB_LEADS, "V2"), LEAD_SUBSETS["limb V2"]),
        (("II", "V5"), LEAD_SUBSETS["II V5"]),
        (("II",), LEAD_SUBSETS["II"] + LEAD_SUBSETS["one"] / 12),
        (("I",), LEAD_SUBSETS["I"] + LEAD_SUBSETS["one"] / 12),
        (("V3",), LEAD_SUBSETS["one"] / 12),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_each_subset_is_seen_as_often_as_it_should(kept, leads, share):
    assert kept.count(leads) / N == pytest.approx(share, abs=0.02)


def test_two_limb_leads_bring_the_others_unless_they_are_a_column_of_the_page(kept):
    columns = set(zip(*PAGE_3X4, strict=True))
    for leads in set(kept) - columns - {("aVR", "aVL", "aVF")}:
        assert len(set(leads) & set(LIMB_LEADS)) in (0, 1, 6), leads


def test_every_record_keeps_a_lead_and_every_lead_is_kept_alone_by_some(kept):
    assert all(kept)
    assert {(lead,) for lead in LEADS} <= set(kept)


def test_leads_are_simultaneous_but_for_a_page_whose_columns_have_times_of_their_own(seen):
    starts = [set(row[row > 0]) for row in seen]
    pages = seen[[len(each) > 1 for each in starts]]
    assert len(pages) / N == pytest.approx(LEAD_SUBSETS["page"], abs=0.02)
    for column in zip(*PAGE_3X4, strict=True):
        of_column = pages[:, [LEADS.index(lead) for lead in column]]
        assert (of_column == of_column[:, :1]).all() and (of_column > 0).all()
    assert seen.max() > T - WINDOW - 20 and seen[seen > 0].min() < 20, "crops come from all of the record"


def test_the_generator_alone_decides_what_is_kept(seen):
    np.testing.assert_array_equal(moments_seen(), seen)
    assert (moments_seen(seed=1) != seen).any()


# --- training and answering -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on subsets of the leads, and a usual one."""
    artifacts = share_inputs(prepared, tmp_path_factory.mktemp("lead_subsets"))
    train(model="resnet1d", artifacts=artifacts, lead_subsets=True, name="some_leads", **SETTINGS)
    train(model="resnet1d", artifacts=artifacts, **SETTINGS)
    return artifacts


@pytest.fixture(scope="module")
def some_leads(trained: Path) -> StoredRun:
    return load_run(trained / "some_leads", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def recordings(trained: Path) -> np.ndarray:
    return np.array(load_signals(trained).array[:3] / 1000, np.float32)  # (3, 12, 1000) mV


def without(recordings: np.ndarray, *leads: str) -> np.ndarray:
    recordings = recordings.copy()
    recordings[:, [LEADS.index(lead) for lead in leads]] = np.nan
    return recordings


def test_the_config_says_what_was_kept_and_that_leads_may_be_missing(trained, some_leads):
    config = read_config(trained / "some_leads")
    assert config["augmentation"] == {"keep_lead_subsets": LEAD_SUBSETS}
    assert some_leads.takes_missing_leads
    assert not load_run(trained / "resnet_standard", device="cpu").takes_missing_leads


def test_a_training_on_subsets_needs_a_name_so_that_it_takes_no_usual_runs_place(trained):
    with pytest.raises(UserError, match="--lead-subsets is for a run of its own: give it a --name"):
        train(model="resnet1d", artifacts=trained, lead_subsets=True, **SETTINGS)


def test_only_trainings_that_mask_depend_on_how_it_is_done():
    of = {masks: training_code("resnet1d", masks) for masks in (False, True)}
    assert any(name.startswith("ecg.augmentation:keep_lead_subsets") for name in of[True])
    assert not any(name.startswith("ecg.augmentation") for name in of[False])


def test_a_missing_lead_is_answered_as_zeros_are(some_leads, recordings):
    silent = np.nan_to_num(without(recordings, "V1", "V2"))
    answer = some_leads.predict(without(recordings, "V1", "V2"), 100)
    np.testing.assert_array_equal(answer, some_leads.predict(silent, 100))
    assert np.abs(answer - some_leads.predict(recordings, 100)).max() > 1e-4


def test_complete_and_incomplete_recordings_are_answered_side_by_side_as_alone(some_leads, recordings):
    mixed = recordings.copy()
    mixed[1] = without(recordings, *LEADS[1:])[1]
    together = some_leads.predict(mixed, 100)
    for i in range(3):
        np.testing.assert_allclose(together[i], some_leads.predict(mixed[i : i + 1], 100)[0], atol=1e-6)


@pytest.mark.parametrize("fs", [100, 500])
def test_one_lead_is_enough_at_any_rate(some_leads, recordings, fs):
    one = without(recordings, *LEADS[1:])[:, :, :300]
    answer = some_leads.predict(np.repeat(one, fs // 100, axis=2), fs)
    assert answer.shape == (3, len(some_leads.task)) and np.isfinite(answer).all()


def test_a_run_that_was_not_trained_for_it_names_the_missing_leads(trained, recordings):
    usual = load_run(trained / "resnet_standard", device="cpu")
    with pytest.raises(ValueError, match=r"lead aVR, V3 is missing; only runs trained with --lead-subsets"):
        usual.predict(without(recordings, "aVR", "V3"), 100)


def test_no_lead_at_all_and_leads_with_gaps_are_refused(some_leads, recordings):
    with pytest.raises(ValueError, match="no lead at all"):
        some_leads.predict(without(recordings, *LEADS), 100)
    recordings = recordings.copy()
    recordings[0, 3, 500:] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        some_leads.predict(recordings, 100)


def test_a_page_is_answered_column_by_column(some_leads, recordings):
    page = recordings[:, :, :250]
    expected = []
    for column in zip(*PAGE_3X4, strict=True):
        others = [lead for lead in LEADS if lead not in column]
        expected.append(some_leads.predict(without(page, *others), 100))
    answer = some_leads.predict_page(page, 100)
    np.testing.assert_allclose(answer, np.mean(expected, axis=0), atol=1e-6)
    assert np.abs(answer - some_leads.predict(page, 100)).max() > 1e-4, "not as if recorded at one time"
    with pytest.raises(ValueError, match="no lead at all"):
        some_leads.predict_page(without(page, "V4", "V5", "V6"), 100)


def test_an_ensemble_leaves_missing_leads_to_the_member_that_takes_them(trained, some_leads, recordings):
    usual = load_run(trained / "resnet_standard", device="cpu", precision="fp32")
    members = {"some_leads": some_leads, "resnet_standard": usual}
    config = usual.config | {"members": {"some_leads": 0.25, "resnet_standard": 0.75}, "temperature": 1.0}
    ensemble = StoredRun(config, None, members)
    assert ensemble.takes_missing_leads
    assert ensemble.members_for(10, complete=False) == {"some_leads": 1}
    assert ensemble.members_for(10) == config["members"]
    limb = without(recordings, *LEADS[6:])
    np.testing.assert_allclose(ensemble.predict(limb, 100), some_leads.predict(limb, 100), atol=1e-6)


def test_every_task_can_be_trained_on_subsets(trained):
    task = read_splits(trained).task("subdiagnostic")
    train(model="xresnet1d", artifacts=trained, lead_subsets=True, labels=task.name, name="of_subclasses", **SETTINGS)
    run = load_run(trained / "of_subclasses", device="cpu")
    assert run.takes_missing_leads and len(run.task) == len(task)


# --- the benchmark --------------------------------------------------------------------------------------------------


def test_the_benchmark_leaves_an_area_with_an_interval_for_every_subset_and_run(trained, synthetic):
    lead_subsets.benchmark(
        data=synthetic,
        artifacts=trained,
        model="some_leads",
        usual="resnet_standard",
        split="val",
        replicates=20,
        seed=0,
    )
    table = pd.read_csv(trained / "benchmarks/lead_subsets.csv")
    subsets = [*lead_subsets.SUBSETS, lead_subsets.PAGE, lead_subsets.BY_COLUMN]
    assert list(zip(table.model, table.subset, strict=True)) == [
        (model, subset) for model in ("some_leads", "resnet_standard") for subset in subsets
    ]
    assert ((table.ci_low <= table.macro_auc) & (table.macro_auc <= table.ci_high)).all()
    of = table.set_index(["model", "subset"])
    classes = [f"auc_{name}" for name in read_splits(trained).first.classes]
    np.testing.assert_allclose(of[classes].mean(axis=1), of.macro_auc)
    val = read_split(trained, "val")
    usual = read_predictions(trained / "resnet_standard", "val", read_splits(trained).first).loc[val.ecg_id]
    expected = macro_auc(val[list(usual.columns)], usual)
    assert of.macro_auc["resnet_standard", "12 leads"] == pytest.approx(expected, abs=1e-3), "as the run's predictions"
    assert of.macro_auc["some_leads", "I"] != of.macro_auc["some_leads", "II"]


def test_the_page_of_the_benchmark_has_each_lead_in_its_own_column():
    time = np.tile(np.arange(1000.0), (12, 1))
    page = lead_subsets.page_of(Recording(Path("page"), "made", 100, LEADS, time))
    for i, column in enumerate(zip(*PAGE_3X4, strict=True)):
        for lead in column:
            row = page.signal[LEADS.index(lead)]
            np.testing.assert_array_equal(row[~np.isnan(row)], np.arange(250 * i, 250 * (i + 1)))


def test_the_benchmark_refuses_a_run_that_takes_no_missing_leads(trained, synthetic):
    where = {"data": synthetic, "artifacts": trained, "usual": "resnet_standard", "split": "val"}
    with pytest.raises(UserError, match="--model resnet_standard was not trained with --lead-subsets"):
        lead_subsets.benchmark(model="resnet_standard", replicates=1, seed=0, **where)
