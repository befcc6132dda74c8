"""Read, check, filter and store all records once; fit the standardisation on the training records.

Reads:  PTB-XL/records100/ PTB-XL/records500/?
        artifacts/ptbxl_{train,val,test}.csv artifacts/ptbxl_splits.json
Writes: artifacts/signals/{signals.npy,records.csv,rejected.csv,meta.json}
Run:    python codes/03_preprocess.py
"""

from dataclasses import dataclass
from typing import Literal

from ecg.artifacts import Folders, run
from ecg.data import preprocess


@dataclass(frozen=True)
class Settings(Folders):
    sampling_rate: Literal[100, 500] = 100
    """Which of PTB-XL's two versions to read, in Hz."""
    band: tuple[float, float] = (0.5, 40.0)
    """Edges of the zero-phase band-pass, in Hz."""
    limit_mv: float = 8.0
    """Samples beyond ± this many millivolts are clipped: artefacts, no R wave is that high."""
    strict: bool = False
    """Stop at the first record that cannot be used instead of listing it in signals/rejected.csv."""


if __name__ == "__main__":
    run(preprocess, Settings, __doc__)
