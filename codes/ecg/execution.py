"""Run stages: what is stale and why, processes with logs, one line per stage on the terminal."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from ecg.artifacts import UserError, cores, write_json
from ecg.stages import PAGES, Job, command_line

LOG_LINES = 15  # shown of a log when its stage fails
GRACE = 10  # seconds that a stage has to tidy up after Ctrl-C
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "LOKY_MAX_CPU_COUNT")


@dataclass(frozen=True)
class Folders:
    """Where the stages are, read and write."""

    codes: Path
    data: Path
    artifacts: Path

    def locate(self, token: str) -> Path:
        """Return what `codes/...`, `PTB-XL/...` or `artifacts/...` stands for."""
        top, _, rest = token.partition("/")
        return {"codes": self.codes, "PTB-XL": self.data, "artifacts": self.artifacts}[top] / rest

    def find(self, pattern: str) -> Iterator[str]:
        """Yield the artifacts that a pattern means; logs, hidden files and another run's folder are none.

        A path that is no pattern is yielded if it is there.
        """
        if "*" not in pattern:
            yield from [pattern] if self.locate(pattern).exists() else []
            return
        for path in self.artifacts.glob(pattern.removeprefix("artifacts/")):
            parts = path.relative_to(self.artifacts).parts
            if path.is_file() and parts[0] not in ("demo", "logs") and not any(p.startswith(".") for p in parts):
                yield "/".join(["artifacts", *parts])

    def log(self, job: Job) -> Path:
        return self.artifacts / "logs" / f"{job.name}.log"


class Records:
    """What each finished stage was made of: `.run_all.json` in the artifacts folder.

    A record is {"flags": {flag: value}, "files": {file or folder read: [size, time of change, content]}, "made": {file
    written: the same}}; it is empty from a stage's start to its end, so that one killed half-way is stale whatever it
    left. `decided` maps jobs to the reason why they run, stale or not; to an empty one if they never do.
    """

    def __init__(self, folders: Folders, decided: Mapping[str, str]) -> None:
        self.folders, self.decided, self.path = folders, decided, folders.artifacts / ".run_all.json"
        try:
            self.finished = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
            if not isinstance(self.finished, dict):
                raise ValueError("not an object")
        except ValueError:
            raise UserError(f"{self.path} is damaged: delete it; every stage then runs again") from None

    def now(self, job: Job) -> dict[str, Any]:
        """Return the record of a stage that would start now."""
        tokens = [*job.stage.sources, *job.stage.required]
        found = {token for read in job.stage.reads for token in self.folders.find(read)}
        tokens += sorted(found.difference(tokens, job.writes))
        seen = self.finished.get(job.name, {}).get("files", {})
        files = {token: _state(self.folders.locate(token), seen.get(token)) for token in tokens}
        return {"flags": {flag: str(value) for flag, value in job.flags.items()}, "files": files}

    def stale(self, job: Job, now: dict[str, Any]) -> str:
        """Return why a stage has to run, the most telling reason only; an empty string if it is fresh."""
        if job.name in self.decided:
            return self.decided[job.name]
        before = self.finished.get(job.name, {})
        if "files" not in before:
            return "not finished before"
        for token in job.writes:
            path, made = self.folders.locate(token), before.get("made", {}).get(token)
            if not path.exists():
                return f"{token} is missing"
            if made and _state(path, made)[-1] != made[-1]:
                return f"{token} was changed by another run"
        for flag in before["flags"] | now["flags"]:
            old, new = (record["flags"].get(flag, "not given") for record in (before, now))
            if old != new:
                return f"--{flag.replace('_', '-')} was {old}, is {new}"
        old, new = before["files"], now["files"]
        kinds = {"changed": [token for token in new if token in old and new[token][-1] != old[token][-1]]}
        kinds |= {"is new": [t for t in new if t not in old], "is no longer read": [t for t in old if t not in new]}
        for what, tokens in kinds.items():
            if tokens:  # the script itself first, then modules, then inputs
                return f"{tokens[0].rstrip('/')} {what}" + (f", and {len(tokens) - 1} more" if tokens[1:] else "")
        return ""

    def finish(self, job: Job, record: dict[str, Any]) -> None:
        paths = {token: self.folders.locate(token) for token in job.writes if not token.endswith("/")}
        self.write(job, record | {"made": {token: _state(path, None) for token, path in paths.items()}})

    def write(self, job: Job, record: dict[str, Any]) -> None:
        self.finished[job.name] = record
        write_json(self.finished, self.path)


def _state(path: Path, seen: list | None) -> list:
    """Return [size, time of change, content] of a file, of a folder in sum; a file as last seen is not read again."""
    if path.is_dir():
        stats = [Path(folder, name).stat() for folder, _, names in os.walk(path) for name in names]
        size, latest = sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)
        return [size, latest, f"{len(stats)} files, {size} bytes, {latest}"]
    if not path.exists():  # only in a dry run, where its maker has not run
        return seen or [0, 0, ""]
    stat = path.stat()
    key = [stat.st_size, stat.st_mtime_ns]
    return seen if seen and seen[:2] == key else [*key, _digest(path, *key)]


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _say(text: str) -> None:
    print("\r\x1b[K" * sys.stdout.isatty() + text, flush=True)


def _line(jobs: Sequence[Job], job: Job, text: str) -> None:
    total, width = str(len(jobs)), max(len(other.title) for other in jobs)
    _say(f"[{jobs.index(job) + 1:{len(total)}}/{total}] {job.title:{width}}  {text}")


def _since(began: float) -> str:
    seconds = time.monotonic() - began
    return f"{seconds:.1f} s" if seconds < 100 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def execute(jobs: Sequence[Job], folders: Folders, *, decided: Mapping[str, str], parallel: int, dry_run: bool) -> int:
    """Run the jobs that are stale, or `decided` (see `Records`); return the exit code."""
    if dry_run:
        return _explain(jobs, Records(folders, decided))
    began, waiting, running, took, failed = time.monotonic(), list(jobs), {}, {}, False
    with _alone(folders.artifacts) as lock, _caught() as signals:
        records = Records(folders, decided)
        try:
            while running or (waiting and not failed):
                for job in () if failed else tuple(waiting):
                    unfinished = {other.name for other in (*waiting, *running)}
                    if len(running) == parallel or signals:
                        break
                    if unfinished.intersection(job.after):
                        continue
                    waiting.remove(job)
                    record = records.now(job)  # before it runs: code edited meanwhile makes it stale
                    reason = records.stale(job, record)
                    _line(jobs, job, f"runs: {reason}" if reason else "fresh")
                    if reason:
                        records.write(job, {})
                        running[job] = _start(job, folders, parallel, lock), record, time.monotonic()
                for job, (process, record, started) in tuple(running.items()):
                    if process.poll() is None:
                        continue
                    del running[job]
                    took[job], error = _since(started), _error(job, process, folders)
                    who = f"{job.title} " if parallel > 1 else ""
                    _say(f"        {who}{'failed after' if error else 'done in'} {took[job]}")
                    if error:
                        _say(f"        {job.title} failed: {error}. The end of {folders.log(job)}:")
                        _say("\n".join(f"        | {line}" for line in _tail(folders.log(job))))
                        if running and not failed:
                            _say("        waiting for the stages that still run; no other is started")
                        failed = True
                    else:
                        records.finish(job, record)
                if signals:
                    _say("        stopping")
                    raise KeyboardInterrupt
                if running and sys.stdout.isatty():
                    live = [(job, _since(started)) for job, (_, _, started) in running.items()]
                    text = " | ".join(
                        f"{job.stage.number} {time_} {_tail(folders.log(job))[-1]}" for job, time_ in live
                    )
                    width = shutil.get_terminal_size().columns - 9
                    print(f"\r        {text[:width]}\x1b[K", end="", flush=True)
                time.sleep(0.05 if running else 0)
        finally:
            _stop([process for process, _, _ in running.values()])
    if not took:
        _say(f"nothing to do: {len(jobs)} of {len(jobs)} stages are fresh ({_since(began)})")
        return 0
    rows = [*((job.title, took[job]) for job in jobs if job in took), ("total", _since(began))]
    title, wide = (max(map(len, column)) for column in zip(*rows, strict=True))
    _say("\n" + "\n".join(f"  {name:{title}}  {text:>{wide}}" for name, text in rows))
    return int(failed)


def _explain(jobs: Sequence[Job], records: Records) -> int:
    would: dict[str, str] = {}  # {job: title}
    for job in jobs:
        reason = records.stale(job, records.now(job))
        makers = [would[name] for name in job.after if name in would]
        if not reason and makers:
            reason = f"reads what {makers[0]} writes (and stays fresh if that comes out the same)"
        if reason:
            would[job.name] = job.title
        _line(jobs, job, f"would run: {reason}" if reason else "fresh")
    _say(f"{len(would)} of {len(jobs)} stages would run")
    return 0


def _start(job: Job, folders: Folders, parallel: int, lock: IO[str]) -> subprocess.Popen:
    script, log = job.stage.path, folders.log(job)
    threads = str(max(1, cores() // parallel))
    environment = dict.fromkeys(THREADS, threads) | os.environ | {"PYTHONUNBUFFERED": "1"}
    if script.suffix == ".ipynb":  # into a page of its own: the notebook stays as it is
        environment |= {"ECG_DATA": str(folders.data), "ECG_ARTIFACTS": str(folders.artifacts)}
        options = ["--to", "html", "--execute", "--output-dir", str(folders.locate(PAGES))]
        words = ["-m", "nbconvert", *options, str(script)]
    else:
        words = [str(script), "--data", str(folders.data), "--artifacts", str(folders.artifacts)]
        words += command_line(job.flags)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        print("$", sys.executable, *words, file=file, flush=True)
        return subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # so that _stop() reaches what the stage itself has started
            pass_fds=[lock.fileno()],
        )


def _error(job: Job, process: subprocess.Popen, folders: Folders) -> str:
    if process.returncode:
        return f"exit code {process.returncode}"
    missing = [path for path in map(folders.locate, job.writes) if not path.exists()]
    return f"it ended well but did not write {missing[0]}" if missing else ""


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """Send Ctrl-C to everything that runs, then kill what is left after a while."""
    deadline = time.monotonic() + GRACE
    alive = [process for process in processes if process.poll() is None]
    for process in alive:
        os.killpg(process.pid, signal.SIGINT)
    for process in alive:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _tail(log: Path) -> list[str]:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = file.read().decode(errors="replace").rstrip().split("\n")
    return [line.rsplit("\r", 1)[-1] for line in lines[-LOG_LINES:]]  # of a progress bar what was drawn last


@contextmanager
def _alone(artifacts: Path) -> Iterator[IO[str]]:
    """Let one run at a time work in a folder. The stages hold the lock too: they may outlive a run that was killed."""
    artifacts.mkdir(parents=True, exist_ok=True)
    with (artifacts / ".run_all.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run_all.py, or a stage it left behind, is at work in {artifacts}") from None
        yield file


@contextmanager
def _caught() -> Iterator[list[int]]:
    """Collect Ctrl-C, `kill` and a closed terminal, which then cannot fall between a stage's start and its note."""
    caught: list[int] = []
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup has it
    before = [signal.signal(number, lambda received, _: caught.append(received)) for number in numbers]
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
