"""How fast recordings are classified: `predict.py`'s way against the plain way, from files and from memory.

The plain way reads a record by `wfdb.rdsamp`, filters it as the training did, standardises its windows in NumPy and
gives them to the plain `Conv1d` network in fp32: one after the other, or all of a record as one batch; the faster
counts. `predict.py` reads recordings of any device with all its checks, and filters and predicts 64 at a time. The
sides take turns over the same records, from a warm page cache; medians count. Latency is that of a single record in
memory. Both must give the same probabilities within .02.

Reads:  artifacts/resnet_standard/{config.json,best.pt} PTB-XL/ptbxl_database.csv PTB-XL/records100/
Writes: artifacts/benchmarks/inference.{csv,png}
Run:    python codes/benchmarks/inference.py

This should give about 2.5 times the records per second of the plain way in fp32, more where bf16 is fast (AMD since
Zen 4, Intel with AMX). Latency is the same in fp32: one record fills no batch.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import interleaved, plot_bars, print_ratio, write_results
from benchmarks.plain import Standardise, plain_network, predict_record
from ecg.artifacts import Folders, UserError, check_at_least, run
from ecg.calibration import calibrate
from ecg.data import preprocessor
from ecg.inference import Precision, pick_dtype
from ecg.labels import read_database
from ecg.models import MODELS
from ecg.predictor import load_network
from ecg.recordings import read_recording
from predict import CHUNK, load_model, predict_chunk

ENGINE, BATCHED, SINGLE = "predict.py", "plain, windows of a record at once", "plain, a window at a time"
MOST_APART = 0.02  # between the probabilities of both sides: bf16, and rounding to microvolts


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


def benchmark(
    *, data: Path, artifacts: Path, model: str, records: int, repeats: int, singles: int, precision: Precision
) -> None:
    for flag, value in (("--records", records), ("--repeats", repeats), ("--singles", singles)):
        check_at_least(flag, value, 1)
    predictor = load_model(artifacts, model, device="cpu", precision=precision)
    config = predictor.config
    if config["model"] not in MODELS:
        raise UserError(f"--model {model} is no network: use one of codes/05 to 10")
    network = load_network(artifacts / model, config)
    plain, standardise = plain_network(network).eval(), Standardise(network.frontend)
    steps = preprocessor(config["signals"])
    column = "filename_lr" if config["signals"]["fs"] == 100 else "filename_hr"
    names = read_database(data)[column]
    files = [data / name for name in names.sample(min(records, len(names)), random_state=0)]

    def plain_answer(millivolt: np.ndarray, at_once: bool) -> np.ndarray:
        """(12, T) -> (5,)"""
        filtered = steps.transform(millivolt[None].astype(np.float32))[0]
        where = {"window": config["window"], "task": config["task"], "at_once": at_once}
        probability = predict_record(plain, filtered, standardise, **where)
        return calibrate(probability[None], config.get("temperature", 1.0), config["task"])[0]

    def plain_way(at_once: bool) -> np.ndarray:
        return np.stack([plain_answer(wfdb.rdsamp(str(file))[0].T, at_once) for file in files])

    def engine() -> np.ndarray:
        chunks = (files[i : i + CHUNK] for i in range(0, len(files), CHUNK))
        return np.concatenate([predict_chunk(predictor, [read_recording(file) for file in chunk]) for chunk in chunks])

    sides = {ENGINE: engine, BATCHED: partial(plain_way, True), SINGLE: partial(plain_way, False)}
    answers = [side() for side in sides.values()]  # (n, 5); also warms up
    apart = max(np.abs(answers[0] - answer).max() for answer in answers[1:])
    if not apart <= MOST_APART:
        raise UserError(f"the probabilities of both ways differ by up to {apart:.3f}")
    print(f"{len(files)} records: probabilities of both ways differ by at most {apart:.5f}")
    seconds = interleaved(sides, repeats)

    memory = [read_recording(file) for file in files[:50]]

    def in_turn(answer: Callable[[np.ndarray], np.ndarray]) -> Callable[[], np.ndarray]:
        recordings = cycle(memory)
        return lambda: answer(next(recordings).signal)

    single = {
        ENGINE: in_turn(lambda millivolt: predictor.predict(millivolt[None], predictor.fs)),
        BATCHED: in_turn(partial(plain_answer, at_once=True)),
        SINGLE: in_turn(partial(plain_answer, at_once=False)),
    }
    interleaved(single, 3)  # warm-up
    latency = {side: 1000 * s for side, s in interleaved(single, singles).items()}

    dtype = str(pick_dtype(precision, torch.device("cpu"))).removeprefix("torch.")
    table = pd.DataFrame({"side": list(sides), "model": model, "precision": [dtype, "float32", "float32"]})
    table["threads"], table["n"], table["repeats"] = torch.get_num_threads(), len(files), repeats
    table["seconds"] = [np.median(s) for s in seconds.values()]
    table["records_per_second"] = table.n / table.seconds
    table["singles"] = singles
    table["latency_median_ms"] = [np.median(ms) for ms in latency.values()]
    table["latency_p95_ms"] = [np.quantile(ms, 0.95) for ms in latency.values()]
    table["most_apart"] = apart
    print(table.round(3).to_string(index=False))
    write_results(table, artifacts, "inference", packages=("wfdb", "scipy"))
    speed = dict(zip(table.side, table.records_per_second, strict=True))
    plot_bars(speed, artifacts, "inference", xlabel="records per second", title=f"Classifying records by {model}")
    median = dict(zip(table.side, table.latency_median_ms, strict=True))
    print_ratio(min(median[BATCHED], median[SINGLE]) / median[ENGINE], "plain / engine, latency of a record in memory")
    print_ratio(speed[ENGINE] / max(speed[BATCHED], speed[SINGLE]), "predict.py / plain, records per second from files")


if __name__ == "__main__":
    run(benchmark, Settings, __doc__)
