"""From a command line to a function call: settings as flags, and errors as one line."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from ecg.artifacts import ROOT, UserError
from ecg.stages import help_of


@dataclass(frozen=True)
class Folders:
    """Settings that every numbered script has."""

    data: Path = ROOT / "PTB-XL"
    """Folder with ptbxl_database.csv, scp_statements.csv and records100/. It is only read."""
    artifacts: Path = ROOT / "artifacts"
    """Folder that the stages read from and write to."""


def run(
    stage: Callable[..., Any], settings: type, description: str, presets: Mapping[str, dict[str, Any]] | None = None
) -> None:
    """Turn the command line into `settings` and call `stage` with them as keywords.

    `presets` are other defaults, {name: {field: value}}, chosen by the flag --preset.
    A `UserError` ends in one line on standard error and exit code 2, never in a traceback. The help page gets the
    files that `ecg.stages` declares for the script.
    """
    text, _, command = description.partition("Run:")
    # blank lines, or the help page would join them
    description = f"{text.rstrip()}\n\n{help_of(Path(sys.argv[0]).name)}Run:{command}"
    values = tyro.cli(settings, description=description)
    if presets and values.preset in presets:
        values = tyro.cli(settings, default=replace(settings(), preset=values.preset, **presets[values.preset]))
    with user_errors(), held_lock():
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
        sys.exit(_complain("interrupted; all files are complete, rerun the same command to resume", 130))


def _complain(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


@contextmanager
def held_lock() -> Iterator[None]:
    """Hold the lock that `run_all` gave this stage, so that a stage which outlives a killed `run_all` is noticed."""
    path = os.environ.pop("ECG_STAGE_LOCK", "")  # not for processes that the stage starts
    if not path:
        yield
        return
    from filelock import FileLock, Timeout  # here, because it takes a tenth of a second

    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout:
        raise UserError(f"this stage is at work already, in another process ({path} is locked)") from None


def check_at_least(flag: str, value: float, least: float) -> None:
    """Raise a `UserError` if a setting is too small to mean anything."""
    if not value >= least:
        raise UserError(f"{flag} is {value}, must be at least {least}")
