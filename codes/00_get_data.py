"""PTB-XL 1.0.3 from PhysioNet or from a zip, or with --demo a synthetic PTB-XL.

Run:    python codes/00_get_data.py
"""

from dataclasses import dataclass

from ecg.command_line import Folders, run
from ecg.get_data import get_data


@dataclass(frozen=True)
class Settings(Folders):
    demo: bool = False
    """Write synthetic records with planted signs of disease instead of fetching the real ones."""
    records: int = 800
    """How many synthetic records, at least 20 (with --demo)."""
    seed: int = 0
    """Seed of the synthetic records (with --demo)."""
    verify: bool = False
    """Compute the SHA-256 of every file that is there, not only of what is fetched; takes a minute."""


if __name__ == "__main__":
    run(get_data, Settings, __doc__)
