"""Run stages through `doit`: what is stale and why, processes with logs, one line per stage on the terminal."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from doit.control import TaskControl
from doit.dependency import DatabaseException, Dependency, DependencyStatus, JsonDB, MD5Checker
from doit.exceptions import BaseFail, TaskFailed, UnmetDependency
from doit.runner import MThreadRunner
from doit.task import Task

from ecg.artifacts import UserError, atomic
from ecg.stages import Job, command_line

try:
    import fcntl
except ImportError:  # Windows, where nothing stops two runs from sharing an artifacts folder
    fcntl = None

LOG_LINES = 15  # shown of a log when its stage fails
GRACE = 10  # seconds that a stage has to tidy up after Ctrl-C


@dataclass(frozen=True)
class Folders:
    """Where the stages are, read and write; and how paths in them are written in a message."""

    codes: Path
    data: Path
    artifacts: Path

    def short(self, path: Path | str) -> str:
        for name, folder in {"codes": self.codes, "PTB-XL": self.data, "artifacts": self.artifacts}.items():
            if Path(path).is_relative_to(folder):
                return f"{name}/{Path(path).relative_to(folder).as_posix()}"
        return str(path)

    def log(self, job: Job) -> Path:
        return self.artifacts / "logs" / f"{job.name}.log"


class _Checker(MD5Checker):
    """Files by modification time, then size, then MD5; no file is read twice in one run."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, float, int], Sequence[Any]] = {}

    def check_modified(self, file_path: str, file_stat: os.stat_result, state: Sequence[Any]) -> bool:
        if file_stat.st_mtime == state[0]:
            self._known[file_path, file_stat.st_mtime, file_stat.st_size] = state
        return super().check_modified(file_path, file_stat, state)

    def get_state(self, dep: str, current_state: Sequence[Any] | None) -> Sequence[Any]:
        stat = Path(dep).stat()
        key = dep, stat.st_mtime, stat.st_size
        if key not in self._known:
            self._known[key] = super().get_state(dep, None)
        return self._known[key]


class _JsonFile(JsonDB):
    def dump(self) -> None:
        with atomic(Path(self.name)) as temporary:
            temporary.write_text(self.codec.encode(self._db), encoding="utf-8")


class State(Dependency):
    """What is known of finished stages: `.run_all.json` in the artifacts folder, written after every stage.

    `forced` maps jobs that run in any case to the reason; jobs in `done` never run.
    """

    def __init__(self, folders: Folders, *, forced: Mapping[str, str], done: Sequence[str]) -> None:
        path = folders.artifacts / ".run_all.json"
        try:
            super().__init__(_JsonFile, str(path), checker_cls=_Checker)
        except DatabaseException:
            raise UserError(f"{path} is damaged: delete it; every stage then runs again") from None
        self.folders, self.forced, self.done = folders, forced, done
        self.reasons: dict[str, str] = {}
        self._begun: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}

    def get_status(self, task: Task, tasks_dict: dict[str, Task], get_log: bool = False) -> DependencyStatus:
        if task.name in self.done:
            return DependencyStatus(get_log)
        status = super().get_status(task, tasks_dict, get_log=True)
        reason = self._reason(task, status)
        if "missing_file_dep" in status.reasons:
            missing = self.folders.short(status.reasons["missing_file_dep"][0])
            status.status, status.error_reason = "error", f"{missing} is missing"
        elif reason:
            status.status = "run"
        self.reasons[task.name] = reason
        return status

    def _reason(self, task: Task, status: DependencyStatus) -> str:
        """Return why a stage runs, the most telling reason only; an empty string if it is fresh."""
        short = self.folders.short
        if task.name in self.forced:
            return self.forced[task.name]
        if not self._in(task.name):
            return "not finished before"
        if missing := status.reasons.get("missing_target"):
            return f"{short(missing[0])} is missing"
        before, now = self.get_values(task.name), _values(task.meta["job"])
        for flag in {**before["flags"], **now["flags"]}:
            old, new = before["flags"].get(flag, "not given"), now["flags"].get(flag, "not given")
            if old != new:
                return f"--{flag.replace('_', '-')} was {old}, is {new}"
        added = set(status.reasons.get("added_file_dep", []))
        changed = set(status.reasons.get("changed_file_dep", [])) - added
        folders = {f for f, seen in now["folders"].items() if seen != before["folders"].get(f)}
        kinds = [("changed", changed), ("changed", folders), ("is new", added)]
        kinds.append(("is no longer read", set(status.reasons.get("removed_file_dep", []))))
        for what, paths in kinds:
            if paths:  # the script itself first, then modules, then inputs
                script = str(task.meta["job"].stage.path)
                first, *rest = sorted(paths, key=lambda p: (p != script, not short(p).startswith("codes/"), p))
                return f"{short(first)} {what}" + (f", and {len(rest)} more" if rest else "")
        return ""

    def begin(self, task: Task) -> None:
        """Forget a stage when it starts, and remember its inputs as they are now.

        A stage killed half-way is then stale whatever it left, and so is one whose code was edited while it ran.
        """
        states = {dep: self.checker.get_state(dep, None) for dep in task.file_dep}
        self._begun[task.name] = states, _values(task.meta["job"])
        self.remove_success(task)
        self.backend.dump()

    def save_success(self, task: Task, result_hash: str | None = None) -> None:
        states, task.values = self._begun[task.name]
        super().save_success(task, result_hash)
        for dep, state in states.items():
            self._set(task.name, dep, state)
        self.backend.dump()


def _values(job: Job) -> dict[str, Any]:
    """What decides beside files: the flags, and folders by number, size and latest change of what is in them."""
    flags = {name: str(value) for name, value in job.flags.items()}
    return {"flags": flags, "folders": {str(folder): _fingerprint(folder) for folder in job.folders}}


def _fingerprint(folder: Path) -> list[int]:
    number = size = latest = 0
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    pending.append(Path(entry.path))
                    continue
                stat = entry.stat()
                number, size, latest = number + 1, size + stat.st_size, max(latest, stat.st_mtime_ns)
    return [number, size, latest]


class Processes:
    """The stages at work: each a process with its own log; all can be stopped at once."""

    def __init__(self, folders: Folders, jobs: int, lock: IO[str] | None) -> None:
        self.folders, self.lock = folders, lock
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = str(max(1, cores // jobs))
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT"), threads)
        self.environment = limits | os.environ | {"PYTHONUNBUFFERED": "1"}
        self._running: set[subprocess.Popen] = set()
        self._stopping = threading.Lock()

    def run(self, job: Job) -> bool | TaskFailed:
        """Run one stage to its end; called from a thread of its own."""
        log, command, environment = self.folders.log(job), self._command(job), self.environment
        if job.stage.path.suffix == ".ipynb":
            environment |= {"ECG_DATA": str(self.folders.data), "ECG_ARTIFACTS": str(self.folders.artifacts)}
        log.parent.mkdir(parents=True, exist_ok=True)
        options = {"pass_fds": [self.lock.fileno()]} if self.lock else {}
        with log.open("w", encoding="utf-8") as file:
            print("$", *command, file=file, flush=True)
            with self._stopping:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,  # so that stop() reaches what the stage itself has started
                    **options,
                )
                self._running.add(process)
            code = process.wait()
        self._running.discard(process)
        if code:
            return TaskFailed(f"exit code {code}")
        missing = [path for path in job.writes if not path.exists()]
        return TaskFailed(f"it ended well but did not write {missing[0]}") if missing else True

    def _command(self, job: Job) -> list[str]:
        script, artifacts = job.stage.path, self.folders.artifacts
        if script.suffix == ".ipynb":  # into a page of its own: the notebook stays as it is
            convert = ["-m", "nbconvert", "--to", "html", "--execute", "--output-dir", str(artifacts / "eda_plots")]
            return [sys.executable, *convert, str(script)]
        flags = {"data": [self.folders.data], "artifacts": [artifacts], **job.flags}
        return [sys.executable, str(script), *command_line(flags)]

    def stop(self) -> None:
        """Send Ctrl-C to everything that runs, then kill what is left after a while."""
        self._stopping.acquire()  # for good: nothing starts any more
        running = list(self._running)
        for process in running:
            _send(process, signal.SIGINT)
        deadline = time.monotonic() + GRACE
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _send(process, getattr(signal, "SIGKILL", signal.SIGTERM))


def _send(process: subprocess.Popen, number: int) -> None:
    if process.poll() is not None:
        return
    if hasattr(os, "killpg"):
        os.killpg(process.pid, number)
    else:
        process.terminate()


class _Runner(MThreadRunner):
    def select_task(self, node: Any, tasks_dict: dict[str, Task]) -> bool:
        selected = super().select_task(node, tasks_dict)
        if selected:
            self.dep_manager.begin(node.task)
        return selected


class Reporter:
    """One line when a stage starts, one when it ends; on a terminal also a line that moves in between."""

    def __init__(self, jobs: Sequence[Job], folders: Folders, *, parallel: bool, stream: IO[str]) -> None:
        self.folders, self.parallel, self.stream = folders, parallel, stream
        self.state: State | None = None
        self.failed = False
        several = {job.stage.name for job in jobs if job.seed}
        self.titles = {
            job.name: f"{job.stage.name} (seed {job.seed})" if job.stage.name in several else job.stage.name
            for job in jobs
        }
        self.width = max(map(len, self.titles.values()))
        self.position = {job.name: i for i, job in enumerate(jobs, start=1)}
        self.started: dict[str, float] = {}
        self.took: dict[str, float] = {}
        self._began = time.monotonic()
        self._lock = threading.RLock()
        self._over = threading.Event()
        if stream.isatty():
            threading.Thread(target=self._tick, daemon=True).start()

    def say(self, text: str) -> None:
        with self._lock:
            if self.stream.isatty():
                self.stream.write("\r\x1b[K")
            print(text, file=self.stream, flush=True)

    def line(self, name: str, text: str) -> None:
        total = len(self.titles)
        self.say(f"[{self.position[name]:{len(str(total))}}/{total}] {self.titles[name]:{self.width}}  {text}")

    # called by doit

    def execute_task(self, task: Task) -> None:
        with self._lock:
            self.line(task.name, f"runs: {self.state.reasons[task.name]}")
            self.started[task.name] = time.monotonic()

    def skip_uptodate(self, task: Task) -> None:
        self.line(task.name, "fresh")

    def add_success(self, task: Task) -> None:
        self._ended(task, "done in")

    def add_failure(self, task: Task, failure: BaseFail) -> None:
        if isinstance(failure, UnmetDependency):
            return  # of a stage that said so itself
        first, self.failed = not self.failed, True
        if task.name not in self.started:
            self.line(task.name, f"cannot run: {failure.message}")
            return
        self._ended(task, "failed after")
        log = self.folders.log(task.meta["job"])
        lines = [line.rsplit("\r", 1)[-1] for line in _tail(log)] if log.exists() else []
        self.say(f"        {self.titles[task.name]} failed: {failure.message.strip()}. The end of {log}:")
        self.say("\n".join(f"        | {line}" for line in lines[-LOG_LINES:]))
        if first and len(self.started) > len(self.took):
            self.say("        waiting for the stages that still run; no other is started")

    def _ended(self, task: Task, how: str) -> None:
        with self._lock:
            self.took[task.name] = time.monotonic() - self.started[task.name]
            who = f"{self.titles[task.name]} " if self.parallel else ""
            self.say(f"        {who}{how} {duration(self.took[task.name])}")

    def initialize(self, tasks: dict[str, Task], selected_tasks: Sequence[str]) -> None:
        self._began = time.monotonic()

    def get_status(self, task: Task) -> None:
        pass

    def skip_ignore(self, task: Task) -> None:
        pass

    def cleanup_error(self, exception: BaseFail) -> None:
        self.say(exception.get_msg())

    def runtime_error(self, msg: str) -> None:
        self.say(msg)

    def teardown_task(self, task: Task) -> None:
        pass

    def complete_run(self) -> None:
        self._over.set()

    # the rest

    def table(self) -> None:
        """Print what each stage took and the total."""
        total = duration(time.monotonic() - self._began)
        if not self.took and not self.failed:
            self.say(f"nothing to do: {len(self.titles)} of {len(self.titles)} stages are fresh ({total})")
            return
        rows = [(title, duration(self.took[name])) for name, title in self.titles.items() if name in self.took]
        rows.append(("total", total))
        wide = max(len(text) for _, text in rows)
        self.say("\n" + "\n".join(f"  {title:{self.width}}  {text:>{wide}}" for title, text in rows))

    def _tick(self) -> None:
        while not self._over.wait(0.5):
            with self._lock:
                running = [name for name in self.started if name not in self.took]
                texts = [f"{name[:2]} {duration(time.monotonic() - self.started[name])}" for name in running]
                if len(running) == 1:
                    log = self.folders.artifacts / "logs" / f"{running[0]}.log"
                    last = _tail(log)[-1:] if log.exists() else []
                    texts[0] = " ".join([texts[0][3:], *(line.rsplit("\r", 1)[-1].strip() for line in last)])
                if texts and not self._over.is_set():
                    width = shutil.get_terminal_size().columns - 9
                    self.stream.write(f"\r\x1b[K        {' | '.join(texts)[:width]}")
                    self.stream.flush()


def _tail(log: Path, size: int = 8192) -> list[str]:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - size))
        return file.read().decode(errors="replace").rstrip().split("\n")


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def execute(
    jobs: Sequence[Job],
    folders: Folders,
    *,
    forced: Mapping[str, str],
    done: Sequence[str],
    parallel: int,
    dry_run: bool,
    notice: str = "",
    stream: IO[str] | None = None,
) -> int:
    """Run the jobs that are stale or `forced`, those in `done` never; return the exit code."""
    reporter = Reporter(jobs, folders, parallel=parallel > 1, stream=stream or sys.stdout)
    if notice:
        reporter.say(notice)
    if dry_run:
        state = State(folders, forced=forced, done=done)
        return _explain(state, _make_tasks(jobs, folders, None), reporter)
    with _alone(folders.artifacts) as lock:
        reporter.state = State(folders, forced=forced, done=done)
        processes = Processes(folders, parallel, lock)
        control = _make_tasks(jobs, folders, processes)
        try:
            with _stoppable():
                code = _Runner(reporter.state, reporter, num_process=parallel).run_all(control.task_dispatcher())
        except KeyboardInterrupt:
            reporter.say("        stopping")
            raise
        finally:
            processes.stop()
    reporter.table()
    return 1 if code else 0


def _make_tasks(jobs: Sequence[Job], folders: Folders, processes: Processes | None) -> TaskControl:
    """Return the jobs as doit's tasks; files order them by themselves, folders are ordered here."""
    tasks = []
    for job in jobs:
        before = [other.name for other in jobs if other is not job and set(other.writes) & set(job.folders)]
        sources = [job.stage.path, *job.stage.modules]
        tasks.append(
            Task(
                job.name,
                [(processes.run, [job])] if processes else [],
                file_dep=[str(path) for path in (*sources, *job.reads, *job.matched)],
                targets=[str(path) for path in job.writes],
                task_dep=before,
                io={"capture": False},
                meta={"job": job},
            )
        )
    control = TaskControl(tasks)
    control.process(None)
    return control


def _explain(state: State, control: TaskControl, reporter: Reporter) -> int:
    would: list[str] = []
    for name in reporter.titles:
        task = control.tasks[name]
        status = state.get_status(task, control.tasks)
        after = [reporter.titles[other] for other in task.task_dep if other in would]
        if status.status == "up-to-date" and not after:
            reporter.line(name, "fresh")
            continue
        would.append(name)
        reporter.line(name, f"would run: {state.reasons.get(name) or f'reads what {sorted(after)[0]} writes'}")
    reporter.say(f"{len(would)} of {len(reporter.titles)} stages would run")
    if any(not state.reasons.get(name) for name in would):
        reporter.say("(a stage that only reads what another writes stays fresh if that comes out the same)")
    return 0


@contextmanager
def _alone(artifacts: Path) -> Iterator[IO[str] | None]:
    """Let one run at a time work in a folder. The stages hold the lock too: they may outlive a run that was killed."""
    artifacts.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield None
        return
    with (artifacts / ".run_all.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run_all.py, or a stage it left behind, is at work in {artifacts}") from None
        yield file


@contextmanager
def _stoppable() -> Iterator[None]:
    """Treat `kill` and a closed terminal like Ctrl-C, so that no stage is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [n for n in (getattr(signal, name) for name in names) if signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
