"""Files that stages share: where they are, how they are written (whole or not at all) and read back (checked)."""

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro

ROOT = Path(__file__).resolve().parents[2]


class UserError(Exception):
    """Something the user can mend; the message names the file, the field and the cure."""


@dataclass(frozen=True)
class Folders:
    """Settings that every numbered script has."""

    data: Path = ROOT / "PTB-XL"
    """Folder with ptbxl_database.csv, scp_statements.csv and records100/ (only read)."""
    artifacts: Path = ROOT / "artifacts"
    """Folder that the stages read from and write to."""


def run(
    stage: Callable[..., Any], settings: type, description: str, presets: Mapping[str, dict[str, Any]] | None = None
) -> None:
    """Turn the command line into `settings` and call `stage` with them as keywords.

    `presets` are other defaults, {name: {field: value}}, chosen by the flag --preset.
    A `UserError` ends in one line on standard error and exit code 2, never in a traceback.
    """
    # a blank line before each field of the docstring, or the help page would join them
    description = re.sub(r"\n(?=(Writes|Run):)", "\n\n", description)
    values = tyro.cli(settings, description=description)
    if presets and values.preset in presets:
        values = tyro.cli(settings, default=replace(settings(), preset=values.preset, **presets[values.preset]))
    with user_errors():
        stage(**vars(values))


@contextmanager
def user_errors() -> Iterator[None]:
    """Print a `UserError`, a full disk, a missing permission or Ctrl-C as one line and exit."""
    try:
        yield
    except UserError as error:
        sys.exit(_complain(str(error), 2))
    except OSError as error:  # no space left, permission denied, read-only: the message names the file
        sys.exit(_complain(f"{error.strerror or error}: {error.filename or ''}", 2))
    except KeyboardInterrupt:
        sys.exit(_complain("stopped; what was written so far is whole, and the same command goes on from there", 130))


def _complain(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


def cores() -> int:
    """Return how many threads to use: the processors this process may run on, but no more than OMP_NUM_THREADS."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(allowed, int(limit)) if limit.isdigit() and int(limit) > 0 else allowed


def check_at_least(flag: str, value: float, least: float) -> None:
    """Raise a `UserError` if a setting is too small to mean anything."""
    if not value >= least:
        raise UserError(f"{flag} is {value}, must be at least {least}")


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
        with temporary.open("rb") as file:
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
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def write_npy(array: np.ndarray, path: Path) -> None:
    with atomic(path) as temporary:
        np.save(temporary, array)  # the temporary name ends in .npy, so numpy adds nothing to it


def read_json(path: Path, *, made_by: str) -> dict[str, Any]:
    try:
        return json.loads(require(path, made_by).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error}): delete it and run {made_by}") from None


def read_table(path: Path, *, made_by: str, columns: tuple[str, ...] = (), **options: Any) -> pd.DataFrame:
    """Return a CSV as a table; raise a `UserError` if it is missing, empty or lacks one of `columns`."""
    try:
        table = pd.read_csv(require(path, made_by), low_memory=False, **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise UserError(f"{path}: {error}: run {made_by} again") from None
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise UserError(f"{path}: column {missing[0]!r} is missing: run {made_by} again")
    return table
