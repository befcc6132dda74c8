"""What an answer is worth when leads are missing: macro AUC of the test fold for subsets of the twelve leads.

Asked are a run that was trained on subsets of the leads and, to show why it is needed, a usual one that is given zeros
in the place of missing leads. From I and II the other limb leads follow, so `I, II, V2` is answered as seven leads. A
printed page has 2.5 s of each lead, one column of three leads after the other. For `page` the columns are put side by
side and answered as one window; for `page by column` they are answered one by one and averaged, as `predict_page` does.
Records are read, masked and answered as `predict.py` does it. Intervals: 95 %, percentiles over resampled patients.

Reads:  artifacts/<model>/{config.json,best.pt} artifacts/ptbxl_*.csv PTB-XL/records100/
Writes: artifacts/benchmarks/lead_subsets.csv
Run:    python codes/benchmarks/lead_subsets.py
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import print_ratio, write_results
from ecg.artifacts import UserError
from ecg.command_line import Folders, check_at_least, run
from ecg.labels import read_split
from ecg.leads import LEADS, LIMB_LEADS, PAGE_3X4
from ecg.metrics import auc_and_ap, class_mean, macros
from ecg.recordings import Recording, as_window, read_ecg
from ecg.stats import interval, patient_weights
from ecg.stored_run import StoredRun, load_run

SUBSETS = {
    "12 leads": LEADS,
    "6 limb leads": LIMB_LEADS,
    "I, II, V2": (*LIMB_LEADS, "V2"),
    "II, V5": ("II", "V5"),
    "II": ("II",),
    "I": ("I",),
}
PAGE, BY_COLUMN = "page", "page by column"


@dataclass(frozen=True)
class Settings(Folders):
    model: str = "xresnet_lead_subsets"
    """Run folder below --artifacts of a training with --lead-subsets."""
    usual: str = "resnet_standard"
    """Run folder of a usual training on the same task."""
    split: Literal["val", "test"] = "test"
    """val is for choices: training, or how a page is answered."""
    replicates: int = 1000
    """Bootstrap resamples of patients."""
    seed: int = 0
    """Of the resamples."""


def page_of(recording: Recording) -> Recording:
    """Return the recording as a printed page holds it: each lead for a quarter of the time, nan elsewhere."""
    signal = np.full_like(recording.signal, np.nan)
    quarter = recording.signal.shape[1] // 4
    for i, column in enumerate(zip(*PAGE_3X4, strict=True)):
        rows, time = [recording.leads.index(lead) for lead in column], slice(i * quarter, (i + 1) * quarter)
        signal[rows, time] = recording.signal[rows, time]
    return Recording(recording.path, recording.format, recording.fs, recording.leads, signal)


def page_window(recording: Recording, stored: StoredRun) -> np.ndarray:
    """Return the page's leads side by side, (12, t), filled up to the run's window where a column is a sample short."""
    signal = as_window(page_of(recording)).rows(stored.leads)
    lacking = round(stored.min_seconds * recording.fs) - signal.shape[1]
    return np.pad(signal, ((0, 0), (0, max(0, lacking))), mode="edge")


def answers(stored: StoredRun, recordings: list[Recording]) -> dict[str, np.ndarray]:
    """Return {subset: probabilities (n, n_classes)}; a run that takes no missing leads is given zeros for them."""

    def asked(signal: np.ndarray) -> np.ndarray:
        return stored.predict(signal if stored.takes_missing_leads else np.nan_to_num(signal), recordings[0].fs)

    whole = np.stack([recording.rows(stored.leads) for recording in recordings])  # (n, 12, t)
    pages = np.stack([page_window(recording, stored) for recording in recordings])
    found = {name: asked(only(whole, leads)) for name, leads in SUBSETS.items()}
    columns = [asked(only(pages, column)) for column in zip(*PAGE_3X4, strict=True)]
    return found | {PAGE: asked(pages), BY_COLUMN: np.mean(columns, axis=0)}


def only(signal: np.ndarray, leads: tuple[str, ...]) -> np.ndarray:
    """Return (n, 12, t) with nan in all leads but these."""
    return np.where(np.isin(LEADS, leads)[:, None], signal, np.nan)


def areas(labels: pd.DataFrame, probability: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    """Return the macro AUC with its interval, and the area of each class."""
    auc, _ = auc_and_ap(labels.to_numpy(), probability, weight)  # (n_classes, 1 + replicates)
    macro = class_mean(auc, macros(labels.to_numpy())["macro"].members)
    low, high = interval(macro[None, 1:])
    row = {"macro_auc": macro[0], "ci_low": low[0], "ci_high": high[0]}
    return row | {f"auc_{name}": area for name, area in zip(labels.columns, auc[:, 0], strict=True)}


def benchmark(
    *, data: Path, artifacts: Path, model: str, usual: str, split: Literal["val", "test"], replicates: int, seed: int
) -> None:
    check_at_least("--replicates", replicates, 1)
    runs = {name: load_run(artifacts / name) for name in (model, usual)}
    stored = runs[model]
    if not stored.takes_missing_leads:
        raise UserError(f"--model {model} was not trained with --lead-subsets")
    if runs[usual].task.classes != stored.task.classes or runs[usual].fs != stored.fs:
        raise UserError(f"--usual {usual} has other classes or another sampling rate than {model}")
    table = read_split(artifacts, split, stored.task)
    files = table.filename_lr if stored.fs == 100 else table.filename_hr
    recordings = [read_ecg(data / f"{name}.hea") for name in files]
    weight = patient_weights(table, replicates=replicates, seed=seed).to_numpy()
    rows = []
    for name, asked in runs.items():
        for subset, probability in answers(asked, recordings).items():
            row = {"model": name, "subset": subset, "split": split, "n": len(table)}
            rows.append(row | areas(table[list(stored.task.classes)], probability, weight))
    results = pd.DataFrame(rows)
    print(results.drop(columns=["split", "n"]).round(3).to_string(index=False))
    write_results(results, artifacts, "lead_subsets")
    of_model = results[results.model == model].set_index("subset").macro_auc
    print_ratio(of_model["I"] / of_model["12 leads"], f"{model}, macro AUC of lead I / of 12 leads")


if __name__ == "__main__":
    run(benchmark, Settings, __doc__)
