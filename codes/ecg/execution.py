"""Run jobs: processes with logs, in an order in which they can run, one line per job on the terminal."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecg.artifacts import UserError
from ecg.freshness import Places, Records, Snapshot
from ecg.hardware import cores
from ecg.plan import Job, command_line
from ecg.stages import PAGES

LOG_LINES = 15  # shown of a log when its stage fails
GRACE = 10  # seconds that a stage has to tidy up after Ctrl-C
PAUSE = 0.05  # seconds between two looks at the processes
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "LOKY_MAX_CPU_COUNT")


def execute(
    jobs: Sequence[Job],
    places: Places,
    *,
    forced: Mapping[str, str],
    untouched: Sequence[str],
    parallel: int,
    dry_run: bool,
) -> int:
    """Run the jobs that are stale; return the exit code.

    `forced` {job: reason} run in any case, `untouched` never. At most `parallel` are at work at the same time.
    """
    if dry_run:
        return Pipeline(jobs, places, forced, untouched, parallel).explain()
    with alone(places.artifacts), collected_signals() as signals:
        return Pipeline(jobs, places, forced, untouched, parallel).run(signals)


@dataclass(frozen=True)
class Running:
    """A job at work, what it is made of, when it started, and its record of the time before."""

    job: Job
    process: subprocess.Popen
    made_of: Snapshot
    started: float
    before: dict[str, Any]


class Pipeline:
    """Jobs on their way: they are `waiting`, then `running`; `seconds` {job: text} has how long those took that ended.

    After a failure no other job is started.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        places: Places,
        forced: Mapping[str, str],
        untouched: Sequence[str],
        parallel: int,
    ):
        self.jobs, self.places, self.parallel = jobs, places, parallel
        self.forced, self.untouched = forced, untouched
        self.records, self.screen = Records(places), Screen()
        self.waiting = list(jobs)
        self.running: list[Running] = []
        self.seconds: dict[Job, str] = {}
        self.has_failed = False

    def run(self, signals: list[int]) -> int:
        """Run until nothing is left to do or one job has failed; return the exit code.

        `signals` fills up when somebody wants it to stop, which raises KeyboardInterrupt.
        """
        began = time.monotonic()
        try:
            while self.running or (self.waiting and not self.has_failed):
                if not self.has_failed:
                    self.start_what_can(signals)
                self.collect_what_ended()
                if signals:
                    self.screen.say("        stopping")
                    raise KeyboardInterrupt
                if self.running:
                    self.show_progress()
                    time.sleep(PAUSE)
        finally:
            stop([each.process for each in self.running])
            self.records.close()
        self.summarise(_since(began))
        return int(self.has_failed)

    def start_what_can(self, signals: list[int]) -> None:
        """Start every job whose inputs are complete, as far as there is room; pass over those that are fresh."""
        for job in tuple(self.waiting):
            if len(self.running) == self.parallel or signals:
                return
            if self.is_ready(job):
                self.waiting.remove(job)
                self.start_if_stale(job)

    def is_ready(self, job: Job) -> bool:
        unfinished = [*self.waiting, *(each.job for each in self.running)]
        return not {other.name for other in unfinished} & set(job.after)

    def start_if_stale(self, job: Job) -> None:
        made_of = self.records.now(job)
        reason = self.why_it_runs(job, made_of)
        self.show(job, f"runs: {reason}" if reason else "fresh")
        if reason:
            overwrite = self.records.may_replace(job)
            before = self.records.start(job)
            process = start(job, self.places, cores=max(1, cores() // self.parallel), overwrite=overwrite)
            self.running.append(Running(job, process, made_of, time.monotonic(), before))

    def why_it_runs(self, job: Job, made_of: Snapshot) -> str:
        if job.name in self.untouched:
            return ""
        return self.forced.get(job.name) or self.records.why_stale(job, made_of)

    def collect_what_ended(self) -> None:
        ended = [each for each in self.running if each.process.poll() is not None]
        for each in ended:
            self.running.remove(each)
            self.seconds[each.job] = _since(each.started)
            error = self.what_is_wrong(each)
            if error:
                self.records.fail(each.job, each.before)
                self.report_failure(each.job, error)
            else:
                self.records.finish(each.job, each.made_of)
                who = f"{each.job.title} " if self.parallel > 1 else ""
                self.screen.say(f"        {who}done in {self.seconds[each.job]}")

    def what_is_wrong(self, ended: Running) -> str:
        if ended.process.returncode:
            return f"exit code {ended.process.returncode}"
        for each in ended.job.writes:
            if each.is_required and not self.places.locate(each.path).exists():
                return f"exited with 0 but did not write {self.places.locate(each.path)}"
        return ""

    def report_failure(self, job: Job, error: str) -> None:
        log = self.places.log(job)
        self.screen.say(f"        {job.title} failed after {self.seconds[job]}: {error}. The end of {log}:")
        for line in tail(log):
            self.screen.say(f"        | {line}")
        if self.running and not self.has_failed:
            self.screen.say("        waiting for the stages that still run; no other is started")
        self.has_failed = True

    def show(self, job: Job, text: str) -> None:
        total, width = str(len(self.jobs)), max(len(other.title) for other in self.jobs)
        number = self.jobs.index(job) + 1
        self.screen.say(f"[{number:{len(total)}}/{total}] {job.title:{width}}  {text}")

    def show_progress(self) -> None:
        last = []
        for each in self.running:
            last.append(f"{each.job.stage.number} {_since(each.started)} {tail(self.places.log(each.job))[-1]}")
        self.screen.draw("        " + " | ".join(last))

    def summarise(self, total: str) -> None:
        if not self.seconds:
            self.screen.say(f"nothing to do: {len(self.jobs)} of {len(self.jobs)} stages are fresh ({total})")
            return
        rows = [(job.title, self.seconds[job]) for job in self.jobs if job in self.seconds]
        rows.append(("total", total))
        title, width = max(len(name) for name, _ in rows), max(len(text) for _, text in rows)
        self.screen.say("")
        for name, text in rows:
            self.screen.say(f"  {name:{title}}  {text:>{width}}")

    def explain(self) -> int:
        """Say which jobs would run and why; run none."""
        would_run: dict[str, str] = {}  # {name: title}
        for job in self.jobs:
            reason = self.why_it_runs(job, self.records.now(job))
            makers = [would_run[name] for name in job.after if name in would_run]
            if not reason and makers and job.name not in self.untouched:
                reason = f"reads what {makers[0]} writes (stays fresh if that comes out the same)"
            if reason:
                would_run[job.name] = job.title
            self.show(job, f"would run: {reason}" if reason else "fresh")
        self.screen.say(f"{len(would_run)} of {len(self.jobs)} stages would run")
        return 0


class Screen:
    """The terminal: lines that stay and, if somebody watches, one below them that is drawn again and again."""

    def __init__(self) -> None:
        self.is_watched = sys.stdout.isatty()
        self.drawn = 0  # length of the line that is drawn

    def say(self, text: str) -> None:
        self.clear()
        print(text, flush=True)

    def draw(self, text: str) -> None:
        if self.is_watched:
            self.clear()
            text = text[: shutil.get_terminal_size().columns - 1]
            print(text, end="", flush=True)
            self.drawn = len(text)

    def clear(self) -> None:
        if self.drawn:
            print("\r" + " " * self.drawn, end="\r")
            self.drawn = 0


# --- processes ------------------------------------------------------------------------------------------------------


def start(job: Job, places: Places, *, cores: int, overwrite: bool) -> subprocess.Popen:
    """Start a job with its output in its log; `overwrite` lets a training replace a run with other settings."""
    script, log = places.codes / job.stage.script, places.log(job)
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = dict.fromkeys(THREADS, str(cores)) | os.environ
    environment |= {"PYTHONUNBUFFERED": "1", "ECG_STAGE_LOCK": str(log.with_suffix(".lock"))}
    if script.suffix == ".ipynb":  # into a page of its own: the notebook stays as it is
        environment |= {"ECG_DATA": str(places.data), "ECG_ARTIFACTS": str(places.artifacts)}
        words = ["-m", "nbconvert", "--to", "html", "--execute"]
        words += ["--output-dir", str(places.locate(PAGES)), str(script)]
    else:
        words = [str(script), "--data", str(places.data), "--artifacts", str(places.artifacts)]
        words += command_line(job.flags | {"overwrite": True} if overwrite else job.flags)
    with log.open("w", encoding="utf-8") as file:
        print("$", sys.executable, *words, file=file, flush=True)
        return subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # so that stop() reaches what the stage itself has started; ignored by Windows
        )


def stop(processes: Sequence[subprocess.Popen]) -> None:
    """Send Ctrl-C to everything that runs, then kill what is left after a while."""
    deadline = time.monotonic() + GRACE
    alive = [process for process in processes if process.poll() is None]
    for process in alive:
        _interrupt(process)
    for process in alive:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _kill(process)
            process.wait()


def _interrupt(process: subprocess.Popen) -> None:
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # it ended meanwhile
            os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()


def _kill(process: subprocess.Popen) -> None:
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def tail(log: Path) -> list[str]:
    """Return the last lines of a log; of a progress bar what was drawn last."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = file.read().decode(errors="replace").rstrip().split("\n")
    return [line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines[-LOG_LINES:]]


@contextmanager
def alone(artifacts: Path) -> Iterator[None]:
    """Let one `run_all` at a time work in a folder.

    A stage holds a lock of its own while it runs, see `ecg.command_line`, so that one is noticed that outlived a
    `run_all` which was killed.
    """
    from filelock import FileLock, Timeout  # here, because it takes a tenth of a second

    artifacts.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(artifacts / ".run_all.lock", timeout=0):
            for path in sorted((artifacts / "logs").glob("*.lock")):
                try:
                    with FileLock(path, timeout=0):
                        pass
                except Timeout:
                    raise UserError(
                        f"{path.stem}, started by a run_all.py that was killed, is still at work in {artifacts}: wait "
                        "until it has finished, or end it"
                    ) from None
            yield
    except Timeout:
        raise UserError(f"another run_all.py is at work in {artifacts}") from None


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C, `kill` and a closed terminal, which then cannot fall between a stage's start and its note."""
    caught: list[int] = []
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP"):
        numbers.append(signal.SIGHUP)
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup has it
    before = [signal.signal(number, lambda received, _: caught.append(received)) for number in numbers]
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _since(began: float) -> str:
    seconds = time.monotonic() - began
    return f"{seconds:.1f} s" if seconds < 100 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
