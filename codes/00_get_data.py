"""PTB-XL 1.0.3 from PhysioNet or from a zip, or with --demo a synthetic PTB-XL.

Reads:  https://physionet.org/content/ptb-xl/1.0.3/, or a zip of it in PTB-XL/
Writes: PTB-XL/, or PTB-XL/demo/ with --demo and without --data
Run:    python codes/00_get_data.py
"""

from dataclasses import dataclass
from pathlib import Path

from ecg.artifacts import Folders, run
from ecg.download import FILES_URL, ZIP_URL, fetch_ptbxl
from ecg.synthetic import write_ptbxl


@dataclass(frozen=True)
class Settings(Folders):
    demo: bool = False
    """Write synthetic records with planted signs of disease instead of fetching the real ones."""
    records: int = 800
    """How many synthetic records (with --demo)."""
    seed: int = 0
    """Seed of the synthetic records (with --demo)."""
    verify: bool = False
    """Compute the SHA-256 of every file that is there, not only of what is fetched; takes a minute."""
    zip_url: str = ZIP_URL
    """Where the zip is fetched from."""
    files_url: str = FILES_URL
    """Where single files are fetched from when only a few are missing or damaged."""


def get_data(
    *, data: Path, artifacts: Path, demo: bool, records: int, seed: int, verify: bool, zip_url: str, files_url: str
) -> None:
    if not demo:
        fetch_ptbxl(data, verify=verify, zip_url=zip_url, files_url=files_url)
        return
    folder = data / "demo" if data == Folders().data else data
    written = write_ptbxl(folder, records=records, seed=seed)
    print(f"{folder}: {records} synthetic records, seed {seed}, {'written' if written else 'are there already'}")


if __name__ == "__main__":
    run(get_data, Settings, __doc__)
