"""How fast recordings are classified: `predict.py`'s way against the plain way, from files and from memory.

The plain way reads a record by `wfdb.rdsamp`, filters it as the training did, standardises its windows in NumPy and
gives them to the plain `Conv1d` network in fp32: one after the other, or all of a record as one batch; the faster
counts. `predict.py` reads recordings of any device, judges them, measures rate, intervals and axis, which the plain way
does not, and filters and predicts 64 at a time. The sides take turns over the same records, from a warm page cache;
medians count; it is also timed without judging and measuring. Latency is that of a single record in memory. Both must
give the same probabilities within .02.

Reads:  artifacts/resnet_standard/{config.json,best.pt} PTB-XL/ptbxl_database.csv PTB-XL/records100/
Writes: artifacts/benchmarks/inference.{csv,png}
Run:    python codes/benchmarks/inference.py

Judging and measuring take about as long as the network. Where bf16 is fast (AMD since Zen 4, Intel with AMX), the
answer alone gains more. Latency is the same in fp32: one record fills no batch.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import wfdb
from sklearn.pipeline import Pipeline
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import interleaved, plot_bars, print_ratio, write_results
from benchmarks.plain import Standardise, plain_network, predict_record
from ecg.answers import CHUNK, Model, Reading, answer_all
from ecg.artifacts import UserError
from ecg.calibration import calibrate
from ecg.command_line import Folders, check_at_least, run
from ecg.devices import Precision, pick_dtype
from ecg.inputs import Source
from ecg.labels import read_database
from ecg.leads import LEADS
from ecg.models import MODELS
from ecg.preprocessing import preprocessor
from ecg.recordings import Recording, read_ecg
from ecg.stored_run import StoredRun, load_network
from ecg.tasks import Objective
from predict import load_model

ENGINE, ALONE = "predict.py", "reading and answering alone"
BATCHED, SINGLE = "plain, windows of a record at once", "plain, a window at a time"
MOST_APART = 0.02  # between the probabilities of both sides: bf16, and rounding to microvolts
IN_MEMORY = 50  # records among which single ones are drawn


@dataclass(frozen=True)
class Settings(Folders):
    model: str = "resnet_standard"
    """Run folder of a network below --artifacts."""
    records: int = 256
    """How many records at most, drawn at random from all."""
    repeats: int = 5
    """How often each side classifies them; the median counts."""
    singles: int = 200
    """How often each side classifies a single record in memory."""
    precision: Precision = "auto"
    """Of predict.py; auto: bf16 where the processor has it, else fp32."""


@dataclass(frozen=True)
class PlainWay:
    """A stored network, asked one record after the other."""

    network: nn.Module
    standardise: Standardise
    filter: Pipeline
    window: int
    objective: Objective
    temperature: float

    @classmethod
    def load(cls, folder: Path, stored: StoredRun) -> "PlainWay":
        network = load_network(folder)
        return cls(
            network=plain_network(network).eval(),
            standardise=Standardise(network.frontend),
            filter=preprocessor(stored.config["signals"]),
            window=stored.window,
            objective=stored.config["objective"],
            temperature=stored.config["temperature"],
        )

    def answer(self, millivolt: np.ndarray, *, at_once: bool) -> np.ndarray:
        """(n_leads, T) -> (n_classes,)"""
        filtered = self.filter.transform(millivolt[None].astype(np.float32))[0]
        probability = predict_record(
            self.network,
            filtered,
            self.standardise,
            window=self.window,
            objective=self.objective,
            at_once=at_once,
        )
        return calibrate(probability[None], self.temperature, self.objective)[0]

    def answer_files(self, files: list[Path], *, at_once: bool) -> np.ndarray:
        return np.stack([self.answer(wfdb.rdsamp(str(file))[0].T, at_once=at_once) for file in files])


def predict_files(stored: StoredRun, files: list[Path]) -> np.ndarray:
    """Answer files as `predict.py` does, (n, n_classes), with all that it says beside the probabilities."""
    sources = [Source(file.with_name(f"{file.name}.hea"), str(file)) for file in files]
    found = list(answer_all(sources, Model("asked", stored), fallback=None, reading=Reading(force=True)))
    return np.stack([answer.probability for answer in found])


def answer_alone(stored: StoredRun, files: list[Path]) -> np.ndarray:
    """Answer files without judging or measuring them, (n, n_classes)."""
    found = []
    for i in range(0, len(files), CHUNK):
        recordings = [read_ecg(file) for file in files[i : i + CHUNK]]
        found.append(stored.predict(np.stack([recording.rows(stored.leads) for recording in recordings]), stored.fs))
    return np.concatenate(found)


def one_by_one(answer: Callable[[np.ndarray], np.ndarray], recordings: list[Recording]) -> Callable[[], np.ndarray]:
    """Return a function that answers the next recording in turn each time it is called."""
    turns = cycle(recordings)
    return lambda: answer(next(turns).rows(LEADS))


def measure_latency(
    stored: StoredRun, plain: PlainWay, recordings: list[Recording], singles: int
) -> dict[str, np.ndarray]:
    """Return {side: milliseconds of each single record in memory}."""

    def ask(millivolt: np.ndarray) -> np.ndarray:
        return stored.predict(millivolt[None], stored.fs)

    sides = {
        ALONE: one_by_one(ask, recordings),
        BATCHED: one_by_one(partial(plain.answer, at_once=True), recordings),
        SINGLE: one_by_one(partial(plain.answer, at_once=False), recordings),
    }
    interleaved(sides, 3)  # warm-up
    return {side: 1000 * seconds for side, seconds in interleaved(sides, singles).items()}


def most_apart(sides: dict[str, Callable[[], np.ndarray]]) -> float:
    """Return the largest difference between the probabilities of the first side and another's; also warms up."""
    first, *others = [side() for side in sides.values()]  # each (n, n_classes)
    apart = max(float(np.abs(first - other).max()) for other in others)
    if not apart <= MOST_APART:
        raise UserError(f"the probabilities of both ways differ by up to {apart:.3f}")
    return apart


def benchmark(
    *, data: Path, artifacts: Path, model: str, records: int, repeats: int, singles: int, precision: Precision
) -> None:
    check_at_least("--records", records, 1)
    check_at_least("--repeats", repeats, 1)
    check_at_least("--singles", singles, 1)
    stored = load_model(artifacts, model, device="cpu", precision=precision)
    if stored.config["model"] not in MODELS:
        raise UserError(f"--model {model} is no network: use one of codes/05 to 10")
    plain = PlainWay.load(artifacts / model, stored)
    names = read_database(data)["filename_lr" if stored.fs == 100 else "filename_hr"]
    files = [data / name for name in names.sample(min(records, len(names)), random_state=0)]

    sides = {
        ENGINE: partial(predict_files, stored, files),
        ALONE: partial(answer_alone, stored, files),
        BATCHED: partial(plain.answer_files, files, at_once=True),
        SINGLE: partial(plain.answer_files, files, at_once=False),
    }
    apart = most_apart(sides)
    print(f"{len(files)} records: probabilities of both ways differ by at most {apart:.5f}")
    seconds = interleaved(sides, repeats)
    memory = [read_ecg(file) for file in files[:IN_MEMORY]]
    latency = measure_latency(stored, plain, memory, singles)

    dtype = str(pick_dtype(precision, torch.device("cpu"))).removeprefix("torch.")
    table = pd.DataFrame({"side": list(sides), "model": model, "precision": [dtype, dtype, "float32", "float32"]})
    table["threads"], table["n"], table["repeats"] = torch.get_num_threads(), len(files), repeats
    table["seconds"] = [np.median(s) for s in seconds.values()]
    table["records_per_second"] = table.n / table.seconds
    table["singles"] = singles
    table["latency_median_ms"] = [np.median(latency[side]) if side in latency else np.nan for side in sides]
    table["latency_p95_ms"] = [np.quantile(latency[side], 0.95) if side in latency else np.nan for side in sides]
    table["most_apart"] = apart
    print(table.round(3).to_string(index=False))
    write_results(table, artifacts, "inference", packages=("wfdb", "scipy"))
    speed = dict(zip(table.side, table.records_per_second, strict=True))
    plot_bars(speed, artifacts, "inference", xlabel="records per second", title=f"Classifying records by {model}")
    median = dict(zip(table.side, table.latency_median_ms, strict=True))
    plain_speed = max(speed[BATCHED], speed[SINGLE])
    print_ratio(min(median[BATCHED], median[SINGLE]) / median[ALONE], "plain / ours, latency of a record in memory")
    print_ratio(speed[ALONE] / plain_speed, f"{ALONE} / plain, records per second from files")
    print_ratio(speed[ENGINE] / plain_speed, "all that predict.py does / plain, records per second from files")


if __name__ == "__main__":
    run(benchmark, Settings, __doc__)
