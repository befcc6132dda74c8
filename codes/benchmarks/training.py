"""How fast networks train: the engine of `ecg.training` against the plain way (`benchmarks/plain.py`), on the CPU.

Both do the same work: batches of equal size of augmented random crops, the same networks from the same initial
weights, AdamW under a one-cycle schedule. In the engine a batch is one array that is augmented as a whole, and
convolutions run in channels_last; it is measured in fp32 and, where `--precision auto` takes bf16, in bf16 too. The
plain way is measured with 0 and 2 workers of its `DataLoader`, the faster of which counts. The sides take turns, a step
at a time, in one process with the same threads; medians count. That the plain network computes the same is checked
first. `share_of_matmul` compares the floating point operations per second of a step, forwards and backwards, with those
of a large matrix product of the same type.

With --auc both ways also train the networks of scripts 05, 07 and 09 to the end, and their macro AUCs on the
validation fold are compared: the engine's of its averaged weights, as in a run folder, the plain way's of its last.

Reads:  artifacts/ptbxl_{train,val}.csv artifacts/ptbxl_splits.json
        artifacts/signals/{signals.npy,records.csv,meta.json}
Writes: artifacts/benchmarks/training.{csv,png} artifacts/benchmarks/training_profile.csv
        artifacts/benchmarks/training_auc.csv with --auc
Run:    python codes/benchmarks/training.py

This should give, where bf16 is fast (AMD since Zen 4, Intel with AMX), at least 2.0 times the samples per second for
resnet1d_large and xresnet1d and 3.0 times for inceptiontime; less where it is not. With --auc: mean differences within
.005.
"""

import copy
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import interleaved, plot_bars, print_ratio, write_results
from benchmarks.plain import PlainRecords, Standardise, plain_loader, plain_network, plain_training, predict_record
from ecg.artifacts import Folders, UserError, check_at_least, run
from ecg.data import Signals, load_signals
from ecg.distributed import World
from ecg.inference import pick_dtype, predict, to_millivolt
from ecg.metrics import macro_auc
from ecg.models import Network, build
from ecg.predictions import machine
from ecg.training import Batch, Split, Trainer, TrainingSettings, batches, load_split, steps_per_epoch

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> model, size
    "resnet1d_large": ("resnet1d", {"widths": (64, 128, 256, 512), "depth": 2, "kernels": (7, 7)}),
    "inceptiontime": ("inception", {"kernels": (9, 19, 39)}),  # about the paper's 10, 20 and 40
    "resnet1d": ("resnet1d", {}),
    "inception": ("inception", {}),
    "xresnet1d": ("xresnet1d", {}),
}
DEFAULTS = ("resnet1d", "inception", "xresnet1d")  # as scripts 05, 07 and 09 train them
EXPECTED = {"resnet1d_large": 2.0, "inceptiontime": 3.0, "xresnet1d": 2.0}
WARM_UP = 2  # steps of each side before the measured ones
OPERATORS = 15  # of a profile, those that take longest
PLAIN = ("plain, 0 workers", "plain, 2 workers")
TASK = "multilabel"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Settings(Folders):
    networks: tuple[str, ...] = tuple(NETWORKS)
    """Those to measure."""
    steps: int = 8
    """Measured steps of each side."""
    batch_size: int = 128
    """Records per step."""
    matrix: int = 4096
    """Rows and columns of the matrices whose product is the machine's rate."""
    auc: bool = False
    """Also train both ways to the end and compare validation AUCs; takes long, and says how long."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of these trainings."""
    epochs: int = 12
    """Of these trainings."""


def start(name: str, signals: Signals, seed: int = 0) -> Network:
    """Return a network with its initial weights."""
    torch.manual_seed(seed)
    model, size = NETWORKS[name]
    return build(model, signals.meta, **size)


def new_trainer(network: Network, dtype: torch.dtype, steps: int) -> Trainer:
    usual = TrainingSettings()
    return Trainer(
        copy.deepcopy(network),
        steps=steps,
        lr=usual.lr,
        weight_decay=usual.weight_decay,
        average=usual.average,
        task=TASK,
        augment=True,
        world=World(CPU),
        dtype=dtype,
    )


def engine_training(trainer: Trainer, epochs: int, **where: Any) -> Iterator[Batch]:
    """Train as `ecg.training` does, a step for each value that is taken; `where` goes to `batches`."""
    total = torch.zeros(())
    trainer.network.train()
    for epoch in range(1, epochs + 1):
        for batch in batches(**where, device=CPU, epoch=epoch):
            loss = trainer.loss(batch)
            trainer.step(loss)
            total += loss.detach() * len(batch.target)
            yield batch


def new_plain(network: Network, signals: Signals, split: Split, *, crop: int, size: int, workers: int, seed: int = 0):
    """Return the network and the `DataLoader` of a plain training from the same weights."""
    records = PlainRecords(signals.array, split, Standardise(network.frontend), crop=crop, seed=seed)
    return plain_network(network), plain_loader(records, batch_size=size, workers=workers)


def train_plain(network: nn.Module, loader: DataLoader, epochs: int) -> Iterator[float]:
    usual = TrainingSettings()
    return plain_training(network, loader, epochs=epochs, lr=usual.lr, weight_decay=usual.weight_decay)


def check_same(network: Network, millivolt: torch.Tensor) -> None:
    """Raise an AssertionError unless the plain network gives the same outputs, in training and in evaluation."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():  # what begins at zero would hide what it multiplies
            parameter[parameter == 0] = 0.5
    plain, standardise = plain_network(network), Standardise(network.frontend)
    standardised = torch.from_numpy(np.stack([standardise(record) for record in millivolt.numpy()]))
    for training in (True, False):
        outputs = []
        for one, x in ((network, millivolt), (plain, standardised)):
            torch.manual_seed(0)  # dropout
            with torch.no_grad():
                outputs.append(one.train(training)(x))
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


def matmul_rate(dtype: torch.dtype, size: int) -> float:
    """Return the floating point operations per second of a product of two (size, size) matrices, the best of five."""
    a, b = torch.randn(2, size, size).to(dtype)
    return 2 * size**3 / interleaved({"product": lambda: a @ b}, 5)["product"].min()


def count_flop(trainer: Trainer, batch: Batch) -> int:
    """Return the floating point operations of a step's products and convolutions, forwards and backwards."""
    with FlopCounterMode(display=False) as counter:
        trainer.loss(batch).backward()
    return counter.get_total_flops()


def profile_step(training: Iterator[Batch]) -> pd.DataFrame:
    """Return the operators of the next step by their own time, the longest first."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        next(training)
    rows = [(event.key, event.count, event.self_cpu_time_total / 1000) for event in profiler.key_averages()]
    table = pd.DataFrame(rows, columns=["operator", "calls", "self_ms"]).sort_values("self_ms", ascending=False)
    return table.assign(share=table.self_ms / table.self_ms.sum()).head(OPERATORS)


def measure(
    name: str, signals: Signals, split: Split, *, steps: int, size: int, crop: int, rates: dict[torch.dtype, float]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one network's speeds, a row per side, and the profile of its fastest engine."""
    network = start(name, signals)
    where = {"array": signals.array, "split": split, "size": size, "crop": crop, "seed": 0}
    batch = next(batches(**where, device=CPU, epoch=0))
    check_same(network, to_millivolt(batch.microvolt[:8], CPU))

    epochs = -(-(WARM_UP + steps + 2) // steps_per_epoch(len(split.rows), size))
    total = epochs * steps_per_epoch(len(split.rows), size)
    dtypes = {f"engine, {str(dtype).removeprefix('torch.')}": dtype for dtype in rates}
    sides = {
        side: engine_training(new_trainer(network, dtype, total), epochs, **where) for side, dtype in dtypes.items()
    }
    for side, workers in zip(PLAIN, (0, 2), strict=True):
        plain, loader = new_plain(network, signals, split, crop=crop, size=size, workers=workers)
        sides[side] = train_plain(plain, loader, epochs)
    interleaved({side: partial(next, training) for side, training in sides.items()}, WARM_UP)
    # by the next turn of the workers their queue is full again, as it is in a training they can keep up with
    seconds = interleaved({side: partial(next, training) for side, training in sides.items()}, steps)

    flop = count_flop(new_trainer(network, torch.float32, total), batch)
    table = pd.DataFrame(
        {"network": name, "weights": sum(p.numel() for p in network.parameters()), "side": list(sides)}
    )
    table["batch_size"], table["crop"], table["steps"], table["threads"] = size, crop, steps, torch.get_num_threads()
    table["seconds_per_step"] = [np.median(s) for s in seconds.values()]
    table["slowest_step"] = [s.max() for s in seconds.values()]
    table["fastest_step"] = [s.min() for s in seconds.values()]
    table["samples_per_second"] = size / table.seconds_per_step
    table["to_plain"] = table.samples_per_second / table.samples_per_second[table.side.isin(PLAIN)].max()
    table["flop_per_second"] = flop / table.seconds_per_step
    reached = table.side.map(dtypes).fillna(torch.float32).map(rates)
    table["share_of_matmul"] = table.flop_per_second / reached
    best = next(iter(dtypes))
    profiled = profile_step(sides[best])
    profiled.insert(0, "network", name)
    profiled.insert(1, "side", best)
    return table, profiled


def compare_auc(
    name: str, seed: int, signals: Signals, splits: dict[str, Split], *, epochs: int, size: int, crop: int, workers: int
) -> dict[str, Any]:
    """Train one network both ways to the end; return the macro AUCs on the validation fold."""
    network, train, val = start(name, signals, seed), splits["train"], splits["val"]
    dtype, window = pick_dtype("auto", CPU), {"window": crop, "task": TASK}
    trainer = new_trainer(network, dtype, epochs * steps_per_epoch(len(train.rows), size))
    for _ in engine_training(trainer, epochs, array=signals.array, split=train, size=size, crop=crop, seed=seed):
        pass
    ours = predict(trainer.average, signals.array, val.rows, **window, device=CPU, dtype=dtype)

    plain, loader = new_plain(network, signals, train, crop=crop, size=size, workers=workers, seed=seed)
    for _ in train_plain(plain, loader, epochs):
        pass
    plain.eval()
    standardise = Standardise(network.frontend)
    theirs = [
        predict_record(plain, millivolt, standardise, **window, at_once=True)
        for millivolt in signals.millivolt(val.ecg_id)
    ]
    auc = {"auc_engine": macro_auc(val.target, ours), "auc_plain": macro_auc(val.target, np.stack(theirs))}
    row = {"network": name, "seed": seed, "epochs": epochs, "n_train": len(train.rows), "n_val": len(val.rows), **auc}
    return row | {"difference": auc["auc_engine"] - auc["auc_plain"]}


def compare_aucs(
    speeds: pd.DataFrame,
    signals: Signals,
    splits: dict[str, Split],
    *,
    seeds: tuple[int, ...],
    epochs: int,
    **sizes: int,
) -> pd.DataFrame:
    """Return `compare_auc` of every default network and seed; `speeds` holds what `measure` found."""
    names = [name for name in DEFAULTS if name in set(speeds.network)]
    plain = speeds[speeds.side.isin(PLAIN)].sort_values("samples_per_second").groupby("network").last()
    engine = speeds[~speeds.side.isin(PLAIN)].groupby("network").first()
    per_sample = (1 / plain.samples_per_second + 1 / engine.samples_per_second)[names].sum()
    minutes = len(seeds) * epochs * len(splits["train"].rows) * per_sample / 60
    print(f"--auc trains {' '.join(names)} both ways, seeds {seeds}, {epochs} epochs: about {minutes:.0f} minutes")
    rows = []
    for name in names:
        workers = PLAIN.index(plain.side[name]) * 2
        for seed in seeds:
            rows.append(compare_auc(name, seed, signals, splits, epochs=epochs, workers=workers, **sizes))
            print("  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()))
    return pd.DataFrame(rows)


def benchmark(
    *,
    data: Path,
    artifacts: Path,
    networks: tuple[str, ...],
    steps: int,
    batch_size: int,
    matrix: int,
    auc: bool,
    seeds: tuple[int, ...],
    epochs: int,
) -> None:
    if unknown := set(networks) - set(NETWORKS):
        raise UserError(f"--networks {unknown.pop()}: use some of {', '.join(NETWORKS)}")
    if auc and not set(networks) & set(DEFAULTS):
        raise UserError(f"--auc needs one of {', '.join(DEFAULTS)} in --networks")
    for flag, value, least in (("--steps", steps, 1), ("--batch-size", batch_size, 2), ("--epochs", epochs, 1)):
        check_at_least(flag, value, least)
    signals = load_signals(artifacts)
    splits = {name: load_split(artifacts, signals, name, TASK) for name in ("train", "val")}
    crop = round(TrainingSettings().crop_seconds * signals.fs)
    whole = len(splits["train"].rows) // batch_size * batch_size  # so that every batch of both sides has that size
    if not whole:
        raise UserError(f"--batch-size {batch_size}: there are only {len(splits['train'].rows)} training records")
    split = Split(*(part[:whole] for part in vars(splits["train"]).values()))

    automatic = pick_dtype("auto", CPU)
    rates = {dtype: matmul_rate(dtype, matrix) for dtype in dict.fromkeys((automatic, torch.float32))}
    able = [name for name, has in torch.cpu.get_capabilities().items() if has and name in ("avx512_bf16", "amx_bf16")]
    print(
        f"{machine()['hardware']}, {torch.get_num_threads()} threads, {' and '.join(able) or 'no bf16 instructions'}; "
        f"--precision auto is {str(automatic).removeprefix('torch.')}; matrix products: "
        + ", ".join(f"{str(dtype).removeprefix('torch.')} {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in rates.items()),
        flush=True,
    )
    tables, profiles = [], []
    for name in networks:
        started = time.perf_counter()
        table, profiled = measure(name, signals, split, steps=steps, size=batch_size, crop=crop, rates=rates)
        tables.append(table)
        profiles.append(profiled)
        shown = ["side", "seconds_per_step", "samples_per_second", "to_plain", "share_of_matmul"]
        print(f"\n{name}, {table.weights[0]:,} weights ({time.perf_counter() - started:.0f} s)")
        print(table[shown].round(3).to_string(index=False), flush=True)
    table = pd.concat(tables, ignore_index=True)
    write_results(table, artifacts, "training")
    write_results(pd.concat(profiles), artifacts, "training_profile")
    bars = {f"{row.network}: {row.side}": row.samples_per_second for row in table.itertuples()}
    plot_bars(bars, artifacts, "training", xlabel="records per second", title=f"Training on crops of {crop} samples")
    if auc:
        sizes = {"size": batch_size, "crop": crop}
        compared = compare_aucs(table, signals, splits, seeds=seeds, epochs=epochs, **sizes)
        write_results(compared, artifacts, "training_auc")
        for name, difference in compared.groupby("network", sort=False).difference.mean().items():
            print(f"{name}: validation macro AUC, engine - plain: {difference:+.4f} (mean over seeds; within .005)")
    for row in table[~table.side.isin(PLAIN)].itertuples():
        least = f", at least {EXPECTED[row.network]:.1f} with fast bf16" if row.network in EXPECTED else ""
        print_ratio(row.to_plain, f"{row.network}: {row.side} / plain, samples per second{least}")


if __name__ == "__main__":
    run(benchmark, Settings, __doc__)
