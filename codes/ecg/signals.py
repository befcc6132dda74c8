"""The preprocessed records, as every stage after 03 reads them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecg.artifacts import UserError, read_json, read_table, require
from ecg.formats.wfdb import UV_PER_MV
from ecg.labels import read_split, read_splits
from ecg.tasks import Task

MADE_BY = "codes/03_preprocess.py"


@dataclass(frozen=True)
class Signals:
    """The preprocessed records. `array` is memory-mapped: int16 microvolts (n_records, n_leads, n_samples).

    `meta` is `signals/meta.json`: leads, sampling rate, filter, and what standardisation was fitted.
    """

    array: np.ndarray
    ecg_id: np.ndarray
    meta: dict[str, Any]

    @property
    def fs(self) -> int:
        return self.meta["fs"]

    @property
    def leads(self) -> tuple[str, ...]:
        return tuple(self.meta["leads"])

    def rows(self, ecg_id: np.ndarray) -> np.ndarray:
        """Return the rows of `array` that hold these records; raise a `UserError` for one that is not there."""
        rows = pd.Index(self.ecg_id).get_indexer(ecg_id)
        if (rows < 0).any():
            missing = np.asarray(ecg_id)[rows < 0][0]
            raise UserError(f"ecg_id {missing} is not in signals/records.csv: run {MADE_BY} (or see rejected.csv)")
        return rows

    def millivolt(self, ecg_id: np.ndarray) -> np.ndarray:
        """Return records as float32 millivolts, (n, n_leads, n_samples)."""
        return self.array[self.rows(ecg_id)].astype(np.float32) / UV_PER_MV


def load_signals(artifacts: Path) -> Signals:
    """Open `artifacts/signals/` and check that its three files belong together and to the splits."""
    folder = artifacts / "signals"
    meta = read_json(folder / "meta.json", made_by=MADE_BY)
    if meta["unit"] != "uV":
        raise UserError(f"{folder / 'meta.json'}: unit is {meta['unit']}, must be uV: run {MADE_BY} again")
    # its mean and deviation are of the training records
    if meta.get("records_sha256") != read_splits(artifacts).records_sha256:
        raise UserError(f"{folder} was made with different splits than ptbxl_statements.csv: run {MADE_BY} again")
    ecg_id = read_table(folder / "records.csv", made_by=MADE_BY, columns=("row", "ecg_id")).ecg_id.to_numpy()
    array = np.load(require(folder / "signals.npy", MADE_BY), mmap_mode="r")
    if array.shape != (len(ecg_id), len(meta["leads"]), meta["n_samples"]) or array.dtype != np.int16:
        raise UserError(
            f"{folder / 'signals.npy'}: {array.dtype} {array.shape} disagrees with records.csv and meta.json: "
            f"run {MADE_BY} again"
        )
    return Signals(array, ecg_id, meta)


def available(artifacts: Path, signals: Signals, split: str, task: Task) -> pd.DataFrame:
    """Return the table of a split and task, see `read_split`, without the records that preprocessing rejected."""
    table = read_split(artifacts, split, task)
    return table[table.ecg_id.isin(signals.ecg_id)].reset_index(drop=True)
