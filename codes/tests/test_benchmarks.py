"""The benchmarks on a few synthetic records: that they run and leave their tables, not what they find."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CODES
from torch import nn

from benchmarks.plain import PlainRecords, Standardise, augment_record, plain_loader, plain_network
from benchmarks.scaling import START_UP, add_rates
from benchmarks.training import NETWORKS, check_same
from ecg.augmentation import augment_batch
from ecg.data import load_signals
from ecg.models import build
from ecg.training import Split, train

MEASURED_ON = ["hardware", "versions", "date"]


def run_benchmark(name: str, artifacts: Path, *arguments: object, file: str | None = None) -> tuple[pd.DataFrame, str]:
    """Return the table that `codes/benchmarks/{name}.py` leaves, `file` or of its name, and the last line printed."""
    command = [sys.executable, CODES / "benchmarks" / f"{name}.py", "--artifacts", artifacts, *arguments]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=artifacts, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (artifacts / "benchmarks" / f"{file or name}.png").stat().st_size > 1000
    table = pd.read_csv(artifacts / "benchmarks" / f"{file or name}.csv")
    assert table[MEASURED_ON].notna().all(axis=None)
    return table, done.stdout.splitlines()[-1]


def test_reading_gives_the_records_of_wfdb_and_their_speeds(synthetic, tmp_path):
    table, last = run_benchmark("reading", tmp_path, "--data", synthetic, "--wfdb-records", 5, "--repeats", 1)
    assert list(table.columns[:5]) == ["reader", "n", "repeats", "seconds", "records_per_second"]
    assert list(table.reader) == ["read_record", "wfdb.rdsamp"] and list(table.n) == [160, 5]
    ours, theirs = table.records_per_second
    assert float(last.split()[1].rstrip(":")) == pytest.approx(ours / theirs, rel=0.01)


def test_scaling_runs_the_scripts_on_repeated_records_and_leaves_nothing_else(synthetic, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    sizes = ("--sizes", 240, "--train-sizes", 240, "--repeats", 1)
    table, last = run_benchmark("scaling", tmp_path, "--data", synthetic, "--scratch", scratch, *sizes)
    assert list(table.script.unique()) == ["02_split.py", "03_preprocess.py", "05_train_resnet1d.py"]
    assert (table.groupby("script").n.unique().map(list) == pd.Series([[START_UP, 240]] * 3).tolist()).all()
    assert (table[["seconds", "cpu_seconds", "peak_anonymous_mb", "peak_rss_mb"]] > 0).all(axis=None)
    assert (table.peak_anonymous_mb < table.peak_rss_mb).all()
    before, after = table[table.script == "05_train_resnet1d.py"].peak_anonymous_mb
    assert float(last.split()[1].rstrip(":")) == pytest.approx(after / before, rel=0.01)
    assert list(scratch.iterdir()) == []


def test_rates_leave_the_start_up_out():
    sizes = [START_UP, 1000, 5000, 9000]
    table = pd.DataFrame({"script": "x", "n": sizes, "seconds": [3 + 0.002 * (n - START_UP) for n in sizes]})
    rates = add_rates(table)
    assert rates.seconds_per_1000.isna().tolist() == [True, False, False, False]
    assert rates.seconds_per_1000[1:].tolist() == pytest.approx([2, 2, 2])
    assert rates.to_rate_before[2:].tolist() == pytest.approx([1, 1])


def test_training_measures_both_ways_of_every_network(artifacts):
    tiny = ("--steps", 1, "--batch-size", 8, "--matrix", 64)
    table, last = run_benchmark("training", artifacts, "--networks", "resnet1d", "xresnet1d", *tiny)
    expected = ["network", "weights", "side", "batch_size", "crop", "steps", "threads", "seconds_per_step"]
    expected += ["slowest_step", "fastest_step", "samples_per_second", "to_plain", "flop_per_second", "share_of_matmul"]
    assert list(table.columns) == expected + MEASURED_ON
    assert (table.select_dtypes("number") > 0).all(axis=None)
    for _, part in table.groupby("network"):
        plain = part.side.str.startswith("plain")
        assert set(part.side[plain]) == {"plain, 0 workers", "plain, 2 workers"} and "engine, float32" in set(part.side)
        assert part.to_plain[plain].max() == 1
    ratio = table[(table.network == "xresnet1d") & table.side.str.startswith("engine")].to_plain.iloc[-1]
    assert float(last.split()[1].rstrip(":")) == pytest.approx(ratio, rel=0.01)
    profile = pd.read_csv(artifacts / "benchmarks" / "training_profile.csv")
    assert list(profile.columns) == ["network", "side", "operator", "calls", "self_ms", "share", *MEASURED_ON]
    assert profile.operator.str.contains("convolution_backward").any()
    assert (profile.groupby("network").share.sum() < 1.0001).all()


def test_training_compares_the_validation_auc_of_both_ways(artifacts):
    tiny = ("--steps", 1, "--batch-size", 32, "--matrix", 64, "--auc", "--seeds", 0, "--epochs", 1)
    run_benchmark("training", artifacts, "--networks", "resnet1d", *tiny)
    table = pd.read_csv(artifacts / "benchmarks" / "training_auc.csv")
    assert table[["network", "seed", "epochs"]].values.tolist() == [["resnet1d", 0, 1]]
    assert table[["auc_engine", "auc_plain"]].stack().between(0, 1).all()
    assert table.difference.tolist() == pytest.approx((table.auc_engine - table.auc_plain).tolist())


@pytest.mark.parametrize(("model", "size"), NETWORKS.values(), ids=NETWORKS)
def test_the_plain_networks_compute_what_ours_compute_and_share_no_weights(prepared, model, size):
    signals = load_signals(prepared)
    network = build(model, signals.meta, **size)
    check_same(network, torch.from_numpy(signals.millivolt(signals.ecg_id[:4])[:, :, :250]))
    plain = plain_network(network)
    assert not any(isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d | nn.AvgPool2d) for m in plain.modules())
    assert not {p.data_ptr() for p in network.parameters()} & {p.data_ptr() for p in plain.parameters()}


def test_the_check_of_the_plain_network_notices_another_network(prepared, monkeypatch):
    signals = load_signals(prepared)
    network = build("resnet1d", signals.meta)
    monkeypatch.setattr("benchmarks.training.plain_network", lambda _: plain_network(build("resnet1d", signals.meta)))
    with pytest.raises(AssertionError):
        check_same(network, torch.from_numpy(signals.millivolt(signals.ecg_id[:4])[:, :, :250]))


def test_the_plain_augmentation_makes_changes_of_the_same_size():
    x, rng = np.ones((4000, 12, 50), np.float32), np.random.default_rng(0)
    plain = np.stack([augment_record(record, rng) for record in x])
    ours = augment_batch(torch.from_numpy(x), torch.Generator().manual_seed(0)).numpy()
    assert (x == 1).all() and plain.dtype == np.float32
    dropped = [(a == 0).all(axis=2) for a in (plain, ours)]
    assert [d.mean() for d in dropped] == pytest.approx([0.05, 0.05], abs=0.005)
    for measure in (np.mean, np.std):  # over time: gain and noise of each lead that was kept
        a, b = (measure(x, axis=2)[~d] for x, d in zip((plain, ours), dropped, strict=True))
        assert np.quantile(a, [0.05, 0.5, 0.95]) == pytest.approx(np.quantile(b, [0.05, 0.5, 0.95]), abs=0.01)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_plain_loader_draws_other_crops_in_every_epoch_and_worker(prepared, workers):
    signals = load_signals(prepared)
    split = Split(np.zeros(8, int), np.zeros(8, int), np.zeros((8, 5), np.float32))  # eight times the same record
    standardise = Standardise(build("resnet1d", signals.meta).frontend)
    loader = plain_loader(
        PlainRecords(signals.array, split, standardise, crop=250, seed=0), batch_size=2, workers=workers
    )
    seen = torch.cat([x for _ in range(2) for x, _ in loader])
    assert seen.shape == (16, 24, 250) and len(seen.unique(dim=0)) == 16


def test_inference_gives_the_probabilities_of_the_plain_way_and_their_speeds(artifacts, synthetic):
    train(model="resnet1d", name="resnet", artifacts=artifacts, epochs=1, batch_size=32, device="cpu", precision="fp32")
    tiny = ("--records", 6, "--repeats", 1, "--singles", 2)
    table, last = run_benchmark("inference", artifacts, "--data", synthetic, *tiny)
    expected = ["side", "model", "precision", "threads", "n", "repeats", "seconds", "records_per_second", "singles"]
    assert list(table.columns) == [*expected, "latency_median_ms", "latency_p95_ms", "most_apart", *MEASURED_ON]
    assert (table.n == 6).all() and (table.most_apart <= 0.02).all()
    assert (table.latency_median_ms <= table.latency_p95_ms).all()
    engine, *plain = table.records_per_second
    assert float(last.split()[1].rstrip(":")) == pytest.approx(engine / max(plain), rel=0.01)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("training", ("--networks", "lenet"), "--networks lenet: use some of resnet1d_large"),
        ("training", ("--batch-size", 100000), "training records"),
        ("inference", ("--model", "lenet"), "no model in"),
        ("cross_validation", ("--models", "lenet", "minirocket"), "at least two of resnet1d"),
        ("cross_validation", ("--folds", 9, 10), "--folds 9 10: they must be among 1 to 9"),
        ("cross_validation", ("--replicates", 0), "--replicates"),
    ],
)
def test_benchmarks_name_what_they_cannot_use(artifacts, name, arguments, message):
    command = [sys.executable, CODES / "benchmarks" / f"{name}.py", "--artifacts", artifacts, *arguments]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("reference", ["resnet1d_wang", "minirocket"])
def test_cross_validation_leaves_fold_10_alone_and_compares_on_equal_records(artifacts, reference):
    (artifacts / "ptbxl_test.csv").unlink()
    models = ("xresnet1d_fast", reference)
    options = ("--models", *models, "--folds", 1, 4, "--seeds", 0, "--epochs", 1)
    table, last = run_benchmark("cross_validation", artifacts, *options, file=f"cross_validation_{reference}")
    assert table.model.tolist() == [*models] * 2 and table.fold.tolist() == [1, 1, 4, 4]
    assert table.macro_auc.between(0, 1).all() and (table.seconds > 0).all()
    pairs = pd.read_csv(artifacts / "benchmarks" / f"cross_validation_{reference}_pairs.csv").iloc[0]
    mean = table.groupby("model").macro_auc.mean()
    assert pairs["diff"] == pytest.approx(mean["xresnet1d_fast"] - mean[reference])
    assert pairs.ci_low <= pairs["diff"] <= pairs.ci_high
    assert "seconds of a training" in last
