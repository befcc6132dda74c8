"""What 500 Hz costs: time of training and predicting, and memory of the signals, against 100 Hz.

The same networks on random signals of the right shape, since their time does not depend on what the signals are: a
training step on a batch of 2.5 s crops, and the prediction of whole 10 s records, both as scripts 05, 07 and 09 do
them. At the higher rate the stem's kernel and stride grow with it, so that all later layers see as many steps as at
100 Hz: the cost is that of the stem, of the front end and of moving the samples. The sides take turns in one process
with the same threads; medians count. Memory is that of `signals.npy`, int16 microvolts. What 500 Hz is worth in AUC is
not measured here.

Writes: artifacts/benchmarks/sampling_rate.csv
Run:    python codes/benchmarks/sampling_rate.py
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import interleaved, print_ratio, write_results
from ecg.artifacts import UserError
from ecg.command_line import Folders, check_at_least, run
from ecg.devices import Precision, pick_device, pick_dtype
from ecg.distributed import World
from ecg.inference import network_probability
from ecg.leads import LEADS
from ecg.models import MODELS, build
from ecg.preprocessing import DURATION
from ecg.trainer import Records, Trainer, batches, make_loss
from ecg.training import TrainingSettings

RATES = (100, 500)  # Hz
WARM_UP = 2  # turns before the measured ones
OBJECTIVE = "multilabel"


@dataclass(frozen=True)
class Settings(Folders):
    networks: tuple[str, ...] = tuple(MODELS)
    """Those to measure."""
    records: int = 256
    """Random records that are trained on and predicted."""
    classes: int = 5
    """Classes of the networks."""
    steps: int = 8
    """How often each side trains a step, and how often it predicts all records; medians count."""
    batch_size: int = 128
    """Records per training step."""
    precision: Precision = "auto"
    """auto: bf16 where the processor or GPU is faster in it, else fp32."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True)
class Side:
    """Records at one sampling rate: int16 microvolts (n, 12, n_samples), and their labels."""

    fs: int
    array: np.ndarray
    records: Records

    @property
    def crop(self) -> int:
        return round(TrainingSettings().crop_seconds * self.fs)


def random_side(fs: int, *, n: int, n_classes: int) -> Side:
    rng = np.random.default_rng(0)
    array = rng.normal(0, 200, (n, len(LEADS), DURATION * fs)).astype(np.int16)
    target = (rng.random((n, n_classes)) < 0.3).astype(np.float32)
    return Side(fs, array, Records(np.arange(n), np.arange(1, n + 1), target))


def signals_meta(fs: int) -> dict[str, Any]:
    """Return what a network is told of its signals: standardised leads in mV and derivatives in mV/s."""
    n = len(LEADS)
    return {
        "fs": fs,
        "leads": LEADS,
        "mean": {"signal": [0.0] * n, "derivative": [0.0] * n},
        "std": {"signal": [0.2] * n, "derivative": [5.0] * n},
    }


def new_trainer(name: str, side: Side, device: torch.device, dtype: torch.dtype) -> Trainer:
    usual = TrainingSettings()
    torch.manual_seed(0)
    network = build(name, signals_meta(side.fs), n_classes=side.records.target.shape[1])
    return Trainer(
        network.to(device),
        steps=1000,
        lr=usual.lr,
        weight_decay=usual.weight_decay,
        ema=usual.ema,
        loss=make_loss(OBJECTIVE, side.records.target),
        objective=OBJECTIVE,
        augment=False,
        world=World(device),
        dtype=dtype,
    )


def training(trainer: Trainer, side: Side, batch_size: int) -> Iterator[float]:
    """Train without end, a step for each value that is taken: the step's loss."""
    trainer.network.train()
    for epoch in count(1):
        for batch in batches(
            side.array,
            side.records,
            size=batch_size,
            crop=side.crop,
            seed=0,
            epoch=epoch,
            device=trainer.world.device,
        ):
            loss = trainer.loss(batch)
            trainer.step(loss)
            yield loss.item()  # which waits for a GPU


def prediction(trainer: Trainer, side: Side) -> Callable[[], np.ndarray]:
    """Return a function that predicts all records with the averaged weights."""
    return lambda: network_probability(
        trainer.ema_network,
        side.array,
        side.records.rows,
        window=side.crop,
        objective=OBJECTIVE,
        device=trainer.world.device,
        dtype=trainer.dtype,
    )


def measure(
    name: str, sides: list[Side], *, steps: int, batch_size: int, device: torch.device, dtype: torch.dtype
) -> pd.DataFrame:
    """Return a row per sampling rate of one network."""
    trainers = {side.fs: new_trainer(name, side, device, dtype) for side in sides}
    train = {side.fs: training(trainers[side.fs], side, batch_size).__next__ for side in sides}
    predict = {side.fs: prediction(trainers[side.fs], side) for side in sides}
    interleaved(train, WARM_UP)
    step_seconds = interleaved(train, steps)
    interleaved(predict, WARM_UP)
    predict_seconds = interleaved(predict, steps)
    rows = []
    for side in sides:
        n = len(side.records)
        rows.append(
            {
                "network": name,
                "fs": side.fs,
                "weights": sum(p.numel() for p in trainers[side.fs].network.parameters()),
                "n": n,
                "batch_size": min(batch_size, n),
                "crop": side.crop,
                "steps": steps,
                "threads": torch.get_num_threads(),
                "device": device.type,
                "precision": str(dtype).removeprefix("torch."),
                "seconds_per_step": np.median(step_seconds[side.fs]),
                "seconds_per_record": np.median(predict_seconds[side.fs]) / n,
                "signals_mb_per_1000": side.array.nbytes / n * 1000 / 1e6,
            }
        )
    return pd.DataFrame(rows)


def benchmark(
    *,
    data: Path,
    artifacts: Path,
    networks: tuple[str, ...],
    records: int,
    classes: int,
    steps: int,
    batch_size: int,
    precision: Precision,
    device: str,
) -> None:
    if unknown := set(networks) - set(MODELS):
        raise UserError(f"--networks {unknown.pop()}: use some of {', '.join(MODELS)}")
    check_at_least("--records", records, 2)
    check_at_least("--classes", classes, 1)
    check_at_least("--steps", steps, 1)
    check_at_least("--batch-size", batch_size, 2)
    chosen = pick_device(device)
    dtype = pick_dtype(precision, chosen)
    sides = [random_side(fs, n=records, n_classes=classes) for fs in RATES]
    tables = []
    for name in networks:
        tables.append(measure(name, sides, steps=steps, batch_size=batch_size, device=chosen, dtype=dtype))
        shown = ["network", "fs", "weights", "seconds_per_step", "seconds_per_record", "signals_mb_per_1000"]
        print(tables[-1][shown].round(4).to_string(index=False), flush=True)
    table = pd.concat(tables, ignore_index=True)
    write_results(table, artifacts, "sampling_rate")
    low, high = (table[table.fs == fs].set_index("network") for fs in RATES)
    rates = f"{RATES[1]} / {RATES[0]} Hz"
    for name in networks:
        step = high.seconds_per_step[name] / low.seconds_per_step[name]
        record = high.seconds_per_record[name] / low.seconds_per_record[name]
        print_ratio(step, f"{name}, {rates}, seconds of a training step")
        print_ratio(record, f"{name}, {rates}, seconds of a predicted record")
    memory = high.signals_mb_per_1000 / low.signals_mb_per_1000
    print_ratio(memory.iloc[0], f"{rates}, memory of signals.npy")


if __name__ == "__main__":
    run(benchmark, Settings, __doc__)
