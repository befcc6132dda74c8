"""Read, check, filter and store all records once; fit the standardisation on the training records.

Run:    python codes/03_preprocess.py
"""

from dataclasses import dataclass
from typing import Literal

from ecg.command_line import Folders, run
from ecg.preprocessing import preprocess


@dataclass(frozen=True)
class Settings(Folders):
    sampling_rate: Literal[100, 500] = 100
    """Which of PTB-XL's two versions to read, in Hz."""
    band: tuple[float, float] | None = None
    """Edges of the zero-phase band-pass, in Hz. By default 0.5 to what the rate holds: 40 at 100 Hz, 150 at 500 Hz."""
    limit_mv: float = 8.0
    """Samples beyond ± this many millivolts are clipped: artefacts, no R wave is that high."""
    strict: bool = False
    """Stop at the first record that cannot be used instead of listing it in signals/rejected.csv."""


if __name__ == "__main__":
    run(preprocess, Settings, __doc__)
