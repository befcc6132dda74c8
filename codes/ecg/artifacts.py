"""Files that stages share: where they are, how they are written (whole or not at all) and read back (checked).

NumPy and pandas are imported where they are used: `run_all.py` needs neither, and should answer at once.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

ROOT = Path(__file__).resolve().parents[2]


class UserError(Exception):
    """Something the user can mend; the message names the file, the field and the cure."""


def require(path: Path, made_by: str) -> Path:
    """Return `path` if it exists, or raise a `UserError` that names the script which makes it."""
    if not path.exists():
        raise UserError(f"needs {path}: run {made_by}")
    return path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that replaces it when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("r+b") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:  # a full disk is noticed by a write, which knows no file name
        raise error if error.filename else OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what writes that were killed left in a folder."""
    for unfinished in folder.glob(".*.*.*"):  # as `atomic` names them
        unfinished.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_csv(table: pd.DataFrame, path: Path) -> None:
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


def write_json(value: Any, path: Path) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, default=_plain) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    import numpy as np

    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def write_npy(array: np.ndarray, path: Path) -> None:
    import numpy as np

    with atomic(path) as temporary:
        np.save(temporary, array)  # the temporary name ends in .npy, so numpy adds nothing to it


def read_json(path: Path, *, made_by: str) -> dict[str, Any]:
    try:
        return json.loads(require(path, made_by).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error}): delete it and run {made_by}") from None


def read_table(path: Path, *, made_by: str, columns: tuple[str, ...] = (), **options: Any) -> pd.DataFrame:
    """Return a CSV as a table; raise a `UserError` if it is missing, empty or lacks one of `columns`."""
    import pandas as pd

    try:
        table = pd.read_csv(require(path, made_by), low_memory=False, **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise UserError(f"{path}: {error}: run {made_by} again") from None
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise UserError(f"{path}: column {missing[0]!r} is missing: run {made_by} again")
    return table
