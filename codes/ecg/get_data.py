"""Stage 00: make a folder hold PTB-XL, real or synthetic."""

from pathlib import Path

from ecg.command_line import Folders
from ecg.download import fetch_ptbxl
from ecg.synthetic import write_ptbxl


def get_data(*, data: Path, artifacts: Path, demo: bool, records: int, seed: int, verify: bool) -> None:
    """Make `data` hold PTB-XL, or with `demo` a synthetic one (in `data`/demo if `data` is the project's own folder).

    `artifacts` is not touched.
    """
    if not demo:
        fetch_ptbxl(data, verify=verify)
        return
    folder = data / "demo" if data == Folders().data else data
    written = write_ptbxl(folder, records=records, seed=seed)
    print(f"{folder}: {records} synthetic records, seed {seed}, {'written' if written else 'already there'}")
