"""The benchmarks on a few synthetic records: that they run and leave their tables, not what they find."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CODES
from torch import nn

from benchmarks import cross_validation, inference, reading, sampling_rate, scaling, training
from benchmarks.plain import PlainRecords, Standardise, augment_record, plain_loader, plain_network
from ecg.artifacts import UserError
from ecg.augmentation import AUGMENTATIONS, augment_batch
from ecg.labels import make_splits, read_splits
from ecg.models import build
from ecg.signals import load_signals
from ecg.trainer import Records
from ecg.training import train

MEASURED_ON = ["hardware", "versions", "date"]


def table_of(artifacts: Path, name: str, *, has_figure: bool = True) -> pd.DataFrame:
    """Return the table that a benchmark has left."""
    if has_figure:
        assert (artifacts / "benchmarks" / f"{name}.png").stat().st_size > 1000
    table = pd.read_csv(artifacts / "benchmarks" / f"{name}.csv")
    assert table[MEASURED_ON].notna().all(axis=None)
    return table


def last_ratio(capsys: pytest.CaptureFixture) -> float:
    """Return the number in the last line printed, `ratio 61.3: ...`."""
    return float(capsys.readouterr().out.splitlines()[-1].split()[1].rstrip(":"))


BENCHMARKS = sorted(path for path in (CODES / "benchmarks").glob("*.py") if path.stem not in ("common", "plain"))


def test_every_benchmark_says_what_it_does_and_what_it_takes(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for script in BENCHMARKS:
        monkeypatch.setattr(sys, "argv", [str(script), "--help"])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(script), run_name="__main__")
        assert end.value.code == 0
        said = capsys.readouterr().out
        assert "--artifacts" in said and f"python codes/benchmarks/{script.name}" in said


# --- reading and scaling --------------------------------------------------------------------------------------------


def test_reading_gives_the_records_of_wfdb_and_their_speeds(synthetic, tmp_path, capsys):
    reading.benchmark(data=synthetic, artifacts=tmp_path, wfdb_records=5, repeats=1)
    table = table_of(tmp_path, "reading")
    assert list(table.columns[:5]) == ["reader", "n", "repeats", "seconds", "records_per_second"]
    assert list(table.reader) == ["read_record", "wfdb.rdsamp"] and list(table.n) == [160, 5]
    ours, theirs = table.records_per_second
    assert last_ratio(capsys) == pytest.approx(ours / theirs, rel=0.01)


def test_repeated_records_are_new_records_of_new_patients_in_the_same_files(synthetic, tmp_path):
    scaling.repeat_ptbxl(synthetic, tmp_path, 400)
    table = pd.read_csv(tmp_path / "ptbxl_database.csv")
    first, second, third = table[:160], table[160:320], table[320:]
    assert table.ecg_id.is_unique and len(table) == 400
    assert set(first.filename_lr) == set(second.filename_lr) >= set(third.filename_lr)
    assert not set(first.patient_id) & set(second.patient_id) and second.patient_id.max() < third.patient_id.min()
    assert (tmp_path / table.filename_lr[399]).with_suffix(".hea").exists() or (
        tmp_path / f"{table.filename_lr[399]}.hea"
    ).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")
def test_a_script_is_measured_with_its_time_and_memory(synthetic, tmp_path):
    measured = scaling.measure("02_split.py", "--data", str(synthetic), "--artifacts", str(tmp_path))
    assert (tmp_path / "ptbxl_splits.json").exists()
    assert all(value > 0 for value in measured.values())
    assert measured["peak_anonymous_mb"] < measured["peak_rss_mb"]
    with pytest.raises(UserError, match="failed"):
        scaling.measure("02_split.py", "--data", str(tmp_path / "nothing"), "--artifacts", str(tmp_path))


def test_rates_leave_the_start_up_out():
    sizes = [scaling.START_UP, 1000, 5000, 9000]
    table = pd.DataFrame({"script": "x", "n": sizes, "seconds": [3 + 0.002 * (n - scaling.START_UP) for n in sizes]})
    rates = scaling.add_rates(table)
    assert rates.seconds_per_1000.isna().tolist() == [True, False, False, False]
    assert rates.seconds_per_1000[1:].tolist() == pytest.approx([2, 2, 2])
    assert rates.to_rate_before[2:].tolist() == pytest.approx([1, 1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")
def test_scaling_runs_the_scripts_on_repeated_records_and_leaves_nothing_else(synthetic, tmp_path, capsys):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    scaling.benchmark(data=synthetic, artifacts=tmp_path, sizes=(240,), train_sizes=(240,), repeats=1, scratch=scratch)
    table = table_of(tmp_path, "scaling")
    assert list(table.script.unique()) == ["02_split.py", "03_preprocess.py", "05_train_resnet1d.py"]
    assert {script: list(part.n) for script, part in table.groupby("script")} == {
        script: [scaling.START_UP, 240] for script in scaling.SCRIPTS
    }
    before, after = table[table.script == "05_train_resnet1d.py"].peak_anonymous_mb
    assert last_ratio(capsys) == pytest.approx(after / before, rel=0.01)
    assert list(scratch.iterdir()) == []


# --- training -------------------------------------------------------------------------------------------------------


def test_training_measures_and_compares_both_ways_on_the_first_task(artifacts, synthetic, capsys):
    make_splits(data=synthetic, artifacts=artifacts, labels=("rhythm",))
    training.benchmark(
        data=synthetic,
        artifacts=artifacts,
        networks=("resnet1d",),
        steps=1,
        batch_size=32,
        matrix=64,
        auc=True,
        seeds=(0,),
        epochs=1,
    )
    table = table_of(artifacts, "training")
    expected = ["network", "weights", "side", "batch_size", "crop", "steps", "threads", "seconds_per_step"]
    expected += ["slowest_step", "fastest_step", "samples_per_second", "to_plain", "flop_per_second", "share_of_matmul"]
    assert list(table.columns) == expected + MEASURED_ON
    assert (table.select_dtypes("number") > 0).all(axis=None)
    plain = table.side.str.startswith("plain")
    assert set(table.side[plain]) == {"plain, 0 workers", "plain, 2 workers"}
    assert "engine, float32" in set(table.side)
    assert table.to_plain[plain].max() == 1
    assert last_ratio(capsys) == pytest.approx(table.to_plain[~plain].iloc[-1], rel=0.01)

    profile = table_of(artifacts, "training_profile", has_figure=False)
    assert list(profile.columns) == ["network", "side", "operator", "calls", "self_ms", "share", *MEASURED_ON]
    assert profile.operator.str.contains("convolution_backward").any() and profile.share.sum() < 1.0001

    compared = table_of(artifacts, "training_auc", has_figure=False)
    assert compared[["network", "seed", "epochs"]].values.tolist() == [["resnet1d", 0, 1]]
    assert compared[["auc_engine", "auc_plain"]].stack().between(0, 1).all()
    assert compared.difference.tolist() == pytest.approx((compared.auc_engine - compared.auc_plain).tolist())


@pytest.mark.parametrize("name", training.NETWORKS)
def test_the_plain_networks_compute_what_ours_compute_and_share_no_weights(prepared, name):
    signals = load_signals(prepared)
    network = training.start(name, signals, n_classes=7)
    training.check_same(network, torch.from_numpy(signals.millivolt(signals.ecg_id[:4])[:, :, :250]))
    plain = plain_network(network)
    assert not any(isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d | nn.AvgPool2d) for m in plain.modules())
    assert not {p.data_ptr() for p in network.parameters()} & {p.data_ptr() for p in plain.parameters()}


def test_the_check_of_the_plain_network_notices_another_network(prepared, monkeypatch):
    signals = load_signals(prepared)
    network, other = (build("resnet1d", signals.meta, n_classes=3) for _ in range(2))
    monkeypatch.setattr("benchmarks.training.plain_network", lambda _: plain_network(other))
    with pytest.raises(AssertionError):
        training.check_same(network, torch.from_numpy(signals.millivolt(signals.ecg_id[:4])[:, :, :250]))


def test_the_plain_way_augments_a_record_as_the_engine_does_new_augmentations_included(monkeypatch):
    def turn_over(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return -x

    x = np.ones((12, 50), np.float32)
    before = augment_record(x, torch.Generator().manual_seed(0))
    expected = augment_batch(torch.from_numpy(x)[None], torch.Generator().manual_seed(0))[0]
    np.testing.assert_array_equal(before, expected)
    monkeypatch.setitem(AUGMENTATIONS, turn_over, {})
    np.testing.assert_array_equal(augment_record(x, torch.Generator().manual_seed(0)), -before)
    assert (x == 1).all() and before.dtype == np.float32


@pytest.mark.parametrize("workers", [0, 2])
def test_the_plain_loader_draws_other_crops_in_every_epoch_and_worker(prepared, workers):
    signals = load_signals(prepared)
    same = Records(np.zeros(8, int), np.zeros(8, int), np.zeros((8, 3), np.float32))  # eight times the same record
    standardise = Standardise(build("resnet1d", signals.meta, n_classes=3).frontend)
    records = PlainRecords(signals.array, same, standardise, crop=250, seed=0)
    loader = plain_loader(records, batch_size=2, workers=workers)
    seen = torch.cat([x for _ in range(2) for x, _ in loader])
    assert seen.shape == (16, 24, 250) and len(seen.unique(dim=0)) == 16


# --- predicting -----------------------------------------------------------------------------------------------------


def test_inference_gives_the_probabilities_of_the_plain_way_and_their_speeds(artifacts, synthetic, capsys):
    train(
        model="resnet1d",
        name="small",
        width=0.25,
        artifacts=artifacts,
        epochs=1,
        batch_size=32,
        device="cpu",
        precision="fp32",
    )
    inference.benchmark(
        data=synthetic, artifacts=artifacts, model="small", records=6, repeats=1, singles=2, precision="auto"
    )
    table = table_of(artifacts, "inference")
    expected = ["side", "model", "precision", "threads", "n", "repeats", "seconds", "records_per_second", "singles"]
    assert list(table.columns) == [*expected, "latency_median_ms", "latency_p95_ms", "most_apart", *MEASURED_ON]
    assert (table.n == 6).all() and (table.most_apart <= 0.02).all()
    assert table.latency_median_ms.isna().tolist() == [True, False, False, False]
    assert (table.latency_median_ms <= table.latency_p95_ms)[1:].all()
    engine, _, *plain = table.records_per_second
    assert last_ratio(capsys) == pytest.approx(engine / max(plain), rel=0.01)


def test_sampling_rate_compares_time_and_memory_of_both_rates(tmp_path, capsys):
    sampling_rate.benchmark(
        data=tmp_path,
        artifacts=tmp_path,
        networks=("inception", "resnet1d"),
        records=4,
        classes=7,
        steps=1,
        batch_size=2,
        precision="fp32",
        device="cpu",
    )
    table = table_of(tmp_path, "sampling_rate", has_figure=False)
    assert table[["network", "fs"]].values.tolist() == [[n, fs] for n in ("inception", "resnet1d") for fs in (100, 500)]
    assert (table[["seconds_per_step", "seconds_per_record", "weights"]] > 0).all(axis=None)
    assert table.crop.tolist() == [250, 1250] * 2
    assert table.signals_mb_per_1000.tolist() == [24, 120] * 2  # 12 leads, 10 s, 2 bytes a sample
    assert last_ratio(capsys) == 5


# --- cross-validation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["resnet1d_wang", "minirocket"])
def test_cross_validation_leaves_fold_10_alone_and_compares_on_equal_records(artifacts, capsys, monkeypatch, reference):
    monkeypatch.setattr(cross_validation, "KERNELS", 84)
    (artifacts / "ptbxl_test.csv").unlink()
    cross_validation.cross_validate(
        data=artifacts,
        artifacts=artifacts,
        models=("xresnet1d_fast", reference),
        folds=(1, 4),
        seeds=(0,),
        epochs=1,
        replicates=20,
        precision="fp32",
    )
    table = table_of(artifacts, f"cross_validation_{reference}")
    assert table.model.tolist() == ["xresnet1d_fast", reference] * 2 and table.fold.tolist() == [1, 1, 4, 4]
    assert table.macro_auc.between(0, 1).all() and (table.seconds > 0).all()
    pairs = pd.read_csv(artifacts / "benchmarks" / f"cross_validation_{reference}_pairs.csv").iloc[0]
    mean = table.groupby("model").macro_auc.mean()
    assert pairs["diff"] == pytest.approx(mean["xresnet1d_fast"] - mean[reference])
    assert pairs.ci_low <= pairs["diff"] <= pairs.ci_high
    assert "seconds of a training" in capsys.readouterr().out.splitlines()[-1]


def test_rotations_train_on_all_folds_but_the_one_left_out(prepared):
    signals, task = load_signals(prepared), read_splits(prepared).first
    table = cross_validation.read_records(prepared, signals, task)
    for rotation in cross_validation.rotations(table, signals, task, (2, 9)):
        left_out = table[table.strat_fold == rotation.fold]
        assert signals.ecg_id[rotation.test_rows].tolist() == left_out.ecg_id.tolist()
        assert set(rotation.train.ecg_id) == set(table.ecg_id) - set(left_out.ecg_id)
        np.testing.assert_array_equal(rotation.train_millivolt, signals.millivolt(rotation.train.ecg_id))
        assert not set(rotation.train_patients) & set(left_out.patient_id)


def test_macro_areas_are_over_the_classes_with_at_least_five_positive_records():
    labels = np.zeros((40, 3), int)
    labels[:10, 0], labels[5:10, 1], labels[:2, 2] = 1, 1, 1
    probability = np.random.default_rng(0).random((40, 3))
    probability[:, 0] = labels[:, 0]
    probability[:, 1] = 1 - labels[:, 1]
    areas = cross_validation.macro_areas(labels, probability, np.ones((40, 2)))
    assert areas.n_classes == 2 and areas.auc.tolist() == [0.5, 0.5]


def test_fast_models_have_their_preset_and_the_reference_its_own_recipe():
    plain, fast, wang = (cross_validation.recipe_of(name) for name in ("resnet1d", "resnet1d_fast", "resnet1d_wang"))
    assert (plain.epochs, plain.width, fast.epochs, fast.width) == (25, 1.0, 16, 0.5)
    assert (wang.epochs, wang.ema, wang.weight_decay) == (50, 0.0, 0.01)


# --- what cannot be used --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "folds", "replicates", "message"),
    [
        (("lenet", "minirocket"), (1,), 10, "resnet1d"),
        (("minirocket",), (1,), 10, "at least two"),
        (("resnet1d", "minirocket"), (9, 10), 10, "--folds 9 10"),
        (("resnet1d", "minirocket"), (), 10, "--folds"),
        (("resnet1d", "minirocket"), (1,), 0, "--replicates"),
    ],
)
def test_cross_validation_names_what_it_cannot_use(models, folds, replicates, message):
    with pytest.raises(UserError, match=message):
        cross_validation.check(models, folds, (0,), None, replicates)


@pytest.mark.parametrize(
    ("network", "batch_size", "message"), [("lenet", 8, "lenet.*resnet1d_large"), ("resnet1d", 100000, "training rec")]
)
def test_training_names_what_it_cannot_use(prepared, network, batch_size, message):
    with pytest.raises(UserError, match=message):
        training.benchmark(
            data=prepared,
            artifacts=prepared,
            networks=(network,),
            steps=1,
            batch_size=batch_size,
            matrix=64,
            auc=False,
            seeds=(0,),
            epochs=1,
        )


def test_inference_needs_a_network(artifacts, synthetic):
    with pytest.raises(UserError, match="lenet"):
        inference.benchmark(
            data=synthetic, artifacts=artifacts, model="lenet", records=6, repeats=1, singles=2, precision="auto"
        )
