"""How fast networks train: the engine of `ecg.trainer` against the plain way (`benchmarks/plain.py`), on the CPU.

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
from collections.abc import Callable, Iterator
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
from ecg.artifacts import UserError
from ecg.command_line import Folders, check_at_least, run
from ecg.devices import pick_dtype, to_millivolt
from ecg.distributed import World
from ecg.hardware import machine
from ecg.inference import network_probability
from ecg.labels import read_splits
from ecg.metrics import macro_auc
from ecg.models import build
from ecg.models.inception import Inception
from ecg.models.layers import Network
from ecg.models.resnet1d import ResNet1D
from ecg.signals import Signals, load_signals
from ecg.trainer import Batch, Records, Trainer, batches, load_records, make_loss, steps_per_epoch
from ecg.training import TrainingSettings

LARGER: dict[str, Callable[..., nn.Module]] = {
    "resnet1d_large": partial(ResNet1D, widths=(64, 128, 256, 512), depth=2, kernels=(7, 7)),
    "inceptiontime": partial(Inception, kernels=(9, 19, 39)),  # about the paper's 10, 20 and 40
}
DEFAULTS = ("resnet1d", "inception", "xresnet1d")  # as scripts 05, 07 and 09 train them
NETWORKS = (*LARGER, *DEFAULTS)
EXPECTED = {"resnet1d_large": 2.0, "inceptiontime": 3.0, "xresnet1d": 2.0}
WARM_UP = 2  # steps of each side before the measured ones
OPERATORS = 15  # of a profile, those that take longest
WORKERS = {"plain, 0 workers": 0, "plain, 2 workers": 2}
OBJECTIVE = "multilabel"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Settings(Folders):
    networks: tuple[str, ...] = NETWORKS
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


@dataclass(frozen=True)
class Work:
    """What both ways are given to train on: records, `size` of them in a batch, and `crop` samples of each."""

    signals: Signals
    records: Records
    size: int
    crop: int

    @property
    def n_classes(self) -> int:
        return self.records.target.shape[1]

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(len(self.records), self.size)

    def batches(self, epoch: int, seed: int) -> Iterator[Batch]:
        return batches(
            self.signals.array, self.records, size=self.size, crop=self.crop, seed=seed, epoch=epoch, device=CPU
        )


def start(name: str, signals: Signals, n_classes: int, seed: int = 0) -> Network:
    """Return a network with its initial weights."""
    torch.manual_seed(seed)
    if name not in LARGER:
        return build(name, signals.meta, n_classes=n_classes)
    frontend = build(DEFAULTS[0], signals.meta, n_classes=n_classes).frontend
    return Network(frontend, LARGER[name](len(frontend.mean), n_classes, fs=signals.fs), n_classes)


def new_trainer(network: Network, work: Work, dtype: torch.dtype, epochs: int) -> Trainer:
    usual = TrainingSettings()
    return Trainer(
        copy.deepcopy(network),
        steps=epochs * work.steps_per_epoch,
        lr=usual.lr,
        weight_decay=usual.weight_decay,
        ema=usual.ema,
        loss=make_loss(OBJECTIVE, work.records.target),
        objective=OBJECTIVE,
        augment=True,
        world=World(CPU),
        dtype=dtype,
    )


def engine_training(trainer: Trainer, work: Work, epochs: int, seed: int = 0) -> Iterator[Batch]:
    """Train as `ecg.training` does, a step for each value that is taken."""
    total = torch.zeros(())
    trainer.network.train()
    for epoch in range(1, epochs + 1):
        for batch in work.batches(epoch, seed):
            loss = trainer.loss(batch)
            trainer.step(loss)
            total += loss.detach() * len(batch.target)
            yield batch


def new_plain(network: Network, work: Work, workers: int, seed: int = 0) -> tuple[nn.Module, DataLoader]:
    """Return the network and the `DataLoader` of a plain training from the same weights."""
    records = PlainRecords(work.signals.array, work.records, Standardise(network.frontend), crop=work.crop, seed=seed)
    return plain_network(network), plain_loader(records, batch_size=work.size, workers=workers)


def train_plain(network: nn.Module, loader: DataLoader, work: Work, epochs: int) -> Iterator[float]:
    usual = TrainingSettings()
    loss = make_loss(OBJECTIVE, work.records.target)
    return plain_training(network, loader, loss=loss, epochs=epochs, lr=usual.lr, weight_decay=usual.weight_decay)


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


def measure(name: str, work: Work, steps: int, rates: dict[torch.dtype, float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one network's speeds, a row per side, and the profile of its fastest engine.

    `rates` are {type of the engine: floating point operations per second of a matrix product in it}.
    """
    network = start(name, work.signals, work.n_classes)
    batch = next(work.batches(epoch=0, seed=0))
    check_same(network, to_millivolt(batch.microvolt[:8], CPU))

    epochs = -(-(WARM_UP + steps + 2) // work.steps_per_epoch)
    dtypes = {f"engine, {plainly(dtype)}": dtype for dtype in rates}
    sides: dict[str, Iterator] = {}
    for side, dtype in dtypes.items():
        sides[side] = engine_training(new_trainer(network, work, dtype, epochs), work, epochs)
    for side, workers in WORKERS.items():
        sides[side] = train_plain(*new_plain(network, work, workers), work, epochs)
    turns = {side: partial(next, training) for side, training in sides.items()}
    interleaved(turns, WARM_UP)
    # by the next turn of the workers their queue is full again, as it is in a training they can keep up with
    seconds = interleaved(turns, steps)

    flop = count_flop(new_trainer(network, work, torch.float32, epochs), batch)
    table = pd.DataFrame({"network": name, "weights": n_weights(network), "side": list(sides)})
    table["batch_size"], table["crop"], table["steps"] = work.size, work.crop, steps
    table["threads"] = torch.get_num_threads()
    table["seconds_per_step"] = [np.median(s) for s in seconds.values()]
    table["slowest_step"] = [s.max() for s in seconds.values()]
    table["fastest_step"] = [s.min() for s in seconds.values()]
    table["samples_per_second"] = work.size / table.seconds_per_step
    table["to_plain"] = table.samples_per_second / table.samples_per_second[table.side.isin(WORKERS)].max()
    table["flop_per_second"] = flop / table.seconds_per_step
    reached = table.side.map(dtypes).fillna(torch.float32).map(rates)
    table["share_of_matmul"] = table.flop_per_second / reached
    best = next(iter(dtypes))
    profiled = profile_step(sides[best])
    profiled.insert(0, "network", name)
    profiled.insert(1, "side", best)
    return table, profiled


def plainly(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def n_weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def compare_auc(name: str, seed: int, work: Work, val: Records, *, epochs: int, workers: int) -> dict[str, Any]:
    """Train one network both ways to the end; return the macro AUCs on the validation fold."""
    network, signals = start(name, work.signals, work.n_classes, seed), work.signals
    dtype = pick_dtype("auto", CPU)
    trainer = new_trainer(network, work, dtype, epochs)
    for _ in engine_training(trainer, work, epochs, seed):
        pass
    ours = network_probability(
        trainer.ema_network, signals.array, val.rows, window=work.crop, objective=OBJECTIVE, device=CPU, dtype=dtype
    )
    plain, loader = new_plain(network, work, workers, seed)
    for _ in train_plain(plain, loader, work, epochs):
        pass
    plain.eval()
    standardise = Standardise(network.frontend)
    theirs = [
        predict_record(plain, millivolt, standardise, window=work.crop, objective=OBJECTIVE, at_once=True)
        for millivolt in signals.millivolt(val.ecg_id)
    ]
    auc_engine, auc_plain = macro_auc(val.target, ours), macro_auc(val.target, np.stack(theirs))
    return {
        "network": name,
        "seed": seed,
        "epochs": epochs,
        "n_train": len(work.records),
        "n_val": len(val),
        "auc_engine": auc_engine,
        "auc_plain": auc_plain,
        "difference": auc_engine - auc_plain,
    }


def compare_aucs(
    speeds: pd.DataFrame, work: Work, val: Records, *, seeds: tuple[int, ...], epochs: int
) -> pd.DataFrame:
    """Return `compare_auc` of every default network and seed; `speeds` holds what `measure` found."""
    names = [name for name in DEFAULTS if name in set(speeds.network)]
    plain = speeds[speeds.side.isin(WORKERS)].sort_values("samples_per_second").groupby("network").last()
    engine = speeds[~speeds.side.isin(WORKERS)].groupby("network").first()
    per_sample = (1 / plain.samples_per_second + 1 / engine.samples_per_second)[names].sum()
    minutes = len(seeds) * epochs * len(work.records) * per_sample / 60
    print(f"--auc trains {' '.join(names)} both ways, seeds {seeds}, {epochs} epochs: about {minutes:.0f} minutes")
    rows = []
    for name in names:
        workers = WORKERS[plain.side[name]]
        for seed in seeds:
            row = compare_auc(name, seed, work, val, epochs=epochs, workers=workers)
            rows.append(row)
            print(
                f"{name}  seed {seed}  engine {row['auc_engine']:.4f}  plain {row['auc_plain']:.4f}  "
                f"difference {row['difference']:+.4f}",
                flush=True,
            )
    return pd.DataFrame(rows)


def whole_batches(records: Records, size: int) -> Records:
    """Leave out the last records, so that every batch of both sides has the same size."""
    n = len(records) // size * size
    if not n:
        raise UserError(f"--batch-size {size}: there are only {len(records)} training records")
    return Records(records.rows[:n], records.ecg_id[:n], records.target[:n])


def matmul_rates(size: int) -> dict[torch.dtype, float]:
    """Measure and print the rates of matrix products in the type that `--precision auto` takes, and in float32."""
    automatic = pick_dtype("auto", CPU)
    rates = {dtype: matmul_rate(dtype, size) for dtype in dict.fromkeys((automatic, torch.float32))}
    able = [name for name, has in torch.cpu.get_capabilities().items() if has and name in ("avx512_bf16", "amx_bf16")]
    print(
        f"{machine()['hardware']}, {torch.get_num_threads()} threads, {' and '.join(able) or 'no bf16 instructions'}; "
        f"--precision auto is {plainly(automatic)}; matrix products: "
        + ", ".join(f"{plainly(dtype)} {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in rates.items()),
        flush=True,
    )
    return rates


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
    check_at_least("--steps", steps, 1)
    check_at_least("--batch-size", batch_size, 2)
    check_at_least("--epochs", epochs, 1)
    signals, task = load_signals(artifacts), read_splits(artifacts).first
    crop = round(TrainingSettings().crop_seconds * signals.fs)
    records = load_records(artifacts, signals, "train", task, OBJECTIVE)
    work = Work(signals, whole_batches(records, batch_size), batch_size, crop)
    rates = matmul_rates(matrix)

    tables, profiles = [], []
    for name in networks:
        started = time.perf_counter()
        table, profiled = measure(name, work, steps, rates)
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
        val = load_records(artifacts, signals, "val", task, OBJECTIVE)
        compared = compare_aucs(table, Work(signals, records, batch_size, crop), val, seeds=seeds, epochs=epochs)
        write_results(compared, artifacts, "training_auc")
        for name, difference in compared.groupby("network", sort=False).difference.mean().items():
            print(f"{name}: validation macro AUC, engine - plain: {difference:+.4f} (mean over seeds; within .005)")
    for row in table[~table.side.isin(WORKERS)].itertuples():
        least = f", at least {EXPECTED[row.network]:.1f} with fast bf16" if row.network in EXPECTED else ""
        print_ratio(row.to_plain, f"{row.network}: {row.side} / plain, samples per second{least}")


if __name__ == "__main__":
    run(benchmark, Settings, __doc__)
