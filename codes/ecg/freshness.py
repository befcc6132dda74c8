"""Why a stage has to run: what it was made of when it last finished, compared with what there is now."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecg.artifacts import UserError, read_json, write_json
from ecg.plan import Job, read_source
from ecg.stages import Declared, code_of, words_of

FORMAT = 2  # of .run_all.json
NO_RESULT = ("overwrite",)  # flags that change no result
SPLIT, TRAINING = "codes/02_split.py", "its training script"


@dataclass(frozen=True)
class Places:
    """Where the stages are, read and write."""

    codes: Path
    data: Path
    artifacts: Path

    def locate(self, path: str) -> Path:
        """Return what `codes/...`, `PTB-XL/...` or `artifacts/...` is; an absolute path stays as it is."""
        top, _, rest = path.partition("/")
        folder = {"codes": self.codes, "PTB-XL": self.data, "artifacts": self.artifacts}.get(top)
        return folder / rest if folder else Path(path)

    def find(self, declared: Iterable[Declared]) -> list[Declared]:
        """Return the artifacts that patterns mean; logs, hidden files and another data set's folder are none."""
        patterns = [each for each in declared if each.is_pattern]
        found = []
        for path in self._artifacts() if patterns else ():
            if any(each.matches(path) for each in patterns):
                found.append(Declared(path))
        return found

    def _artifacts(self) -> list[str]:
        files = []
        for folder, subfolders, names in os.walk(self.artifacts):
            top = Path(folder) == self.artifacts
            subfolders[:] = [n for n in subfolders if not n.startswith(".") and not (top and n in ("demo", "logs"))]
            below = Path(folder).relative_to(self.artifacts).as_posix()
            where = "artifacts" if top else f"artifacts/{below}"
            files += [f"{where}/{name}" for name in names if not name.startswith(".")]
        return sorted(files)

    def log(self, job: Job) -> Path:
        return self.artifacts / "logs" / f"{job.name}.log"


@dataclass(frozen=True)
class Snapshot:
    """What a job would be made of if it started now.

    `code` {definition: digest} is what it computes with and `files` {path: [size, time of change, content]} what it
    reads. `sources` is one digest of all source files, and `asked` of what decides which of their definitions count: if
    both are the same, so is `code`.
    """

    flags: dict[str, str]
    code: dict[str, str]
    files: dict[str, list]
    sources: str
    asked: list


class Records:
    """What each finished job was made of, and which runs `run_all` trained: `.run_all.json` in the artifacts folder.

    `jobs` {job: its snapshot, what it wrote, what was typed for it}; empty from a job's start to its end, so that one
    killed half-way is stale whatever it left. `runs` {run folder: what was typed for it, content of its config.json}.
    """

    def __init__(self, places: Places):
        self.places, self.path = places, places.artifacts / ".run_all.json"
        self.jobs: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self._is_older = self._is_dirty = False
        self._folders: dict[Path, list] = {}  # states of folders, as long as no job ends
        self._sources: tuple[list, str] = ([], "")
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            if not isinstance(stored, dict):
                raise ValueError("not an object")
        except ValueError:
            raise UserError(f"{self.path} is damaged: delete it; every stage then runs again") from None
        self._is_older = stored.get("format") != FORMAT
        if not self._is_older:
            self.jobs, self.runs = stored["jobs"], stored["runs"]

    def _write(self) -> None:
        write_json({"format": FORMAT, "jobs": self.jobs, "runs": self.runs}, self.path)
        self._is_dirty = False

    def close(self) -> None:
        """Write what was noticed of fresh jobs."""
        if self._is_dirty:
            self._write()

    # --- of jobs

    def now(self, job: Job) -> Snapshot:
        """Return what a job would be made of; to be called before it runs: code edited meanwhile makes it stale."""
        before = self.jobs.get(job.name, {})
        seen, files = before.get("files", {}), {}
        for each in self._inputs(job):
            key = f"{each.path}#{each.part}" if each.part else each.path
            files[key] = self._state(each.path, seen.get(key), part=each.part)
        flags = {flag: str(value) for flag, value in job.flags.items() if flag not in NO_RESULT}
        sources, model = self._all_sources(), self._network(job)
        asked = [job.stage.script, model]
        if (before.get("sources"), before.get("asked"), before.get("flags")) == (sources, asked, flags):
            code = before["code"]
        else:
            source = read_source(self.places.codes, job.stage)
            code = code_of(job.stage, source, job.flags, model=model, codes=self.places.codes)
        return Snapshot(flags, code, files, sources, asked)

    def why_stale(self, job: Job, now: Snapshot) -> str:
        """Return why a job has to run, the most telling reason only; an empty string if it is fresh."""
        before = self.jobs.get(job.name, {})
        if "files" not in before:
            return "its record is of an older version of run_all.py" if self._is_older else "not finished before"
        reason = (
            self._outputs_differ(job, before["made"])
            or _flags_differ(before["flags"], now.flags)
            or _differ(before["code"], now.code, self._name_of_definition)
            or _differ(_contents(before["files"]), _contents(now.files), _name_of_file)
        )
        if not reason and (before["files"], before["sources"]) != (now.files, now.sources):
            before.update(vars(now))  # the same content with another date
            self._is_dirty = True
        return reason

    def start(self, job: Job) -> dict[str, Any]:
        """Note that a job is at work; return the record of the last time that it finished."""
        if job.run and not self._holds_a_run(job.run):
            self.runs[job.run] = {"typed": self._typed(job), "config": ""}
        before = self.jobs.get(job.name, {})
        self.jobs[job.name] = {}
        self._write()
        return before

    def fail(self, job: Job, before: dict[str, Any]) -> None:
        """Take back the record of a job that failed if it left everything as it was, such as one that was refused."""
        self._folders.clear()
        if before and not self._outputs_differ(job, before["made"]):
            self.jobs[job.name] = before
            self._write()

    def finish(self, job: Job, made_of: Snapshot) -> None:
        self._folders.clear()
        typed = self._typed(job)
        # folders and optional files aside, which may change and go
        written = [each for each in job.writes if each.is_required and not each.path.endswith("/")]
        made = {each.path: self._state(each.path, None) for each in [*written, *self.places.find(job.writes)]}
        self.jobs[job.name] = {**vars(made_of), "made": made, "typed": typed}
        if job.run:
            self.runs[job.run] = {"typed": typed, "config": _content(self._config(job.run))}
        self._write()

    def _inputs(self, job: Job) -> list[Declared]:
        """Return what a job reads of what is there; what it writes itself is none of it."""
        inputs = []
        for each in job.reads:
            if each.is_required or (not each.is_pattern and self.places.locate(each.path).exists()):
                inputs.append(each)
        named = {each.path for each in inputs}
        for each in self.places.find(job.reads):
            if each.path not in named and not any(own.matches(each.path) for own in job.writes):
                inputs.append(each)
        return [*inputs, *(Declared(path) for path in job.stage.files)]

    def _outputs_differ(self, job: Job, made: Mapping[str, list]) -> str:
        for path in dict.fromkeys([*(each.path for each in job.writes if each.is_required), *made]):
            if not self.places.locate(path).exists():
                return f"{path} is missing"
            if path in made and self._state(path, made[path])[-1] != made[path][-1]:
                return f"{path} was changed by another run"
        return ""

    def _network(self, job: Job) -> str:
        """Return the network that a job trains or, if it reads a run's weights, that of the run."""
        if job.stage.network or not any("<run>" in path for path in job.stage.reads):
            return job.model
        config = self._config(words_of(job.stage, job.flags)["run"])
        return read_json(config, made_by=TRAINING).get("model", "") if config.exists() else job.model

    def _name_of_definition(self, key: str) -> str:
        module, _, name = key.partition(":")
        path = module if module.endswith((".py", ".ipynb")) else f"{module.replace('.', '/')}.py"
        if not (self.places.codes / path).exists():
            path = f"{module.replace('.', '/')}/__init__.py"
        return f"{path}: {name}" if name else path

    # --- of runs

    def may_replace(self, job: Job) -> bool:
        """Return whether there is a run in a job's folder which one with other settings may replace.

        It may if `run_all` trained it and the same flags were typed then, so that what differs is the code or its
        defaults; and if it is not in git.
        """
        if not (job.run and job.run in self.runs and self._holds_a_run(job.run)):
            return False
        known, config = self.runs[job.run], self._config(job.run)
        if known["typed"] != self._typed(job) or (config.exists() and _content(config) != known["config"]):
            return False
        return not _is_in_git(config)

    def _typed(self, job: Job) -> dict[str, str]:
        """Return {"05.epochs": "3"} of the flags that the user typed for a job and for those that it follows from."""
        typed = {}
        for name in job.after:
            typed |= self.jobs.get(name, {}).get("typed", {})
        own = {f"{job.stage.number}.{flag}": str(value) for flag, value in job.typed.items() if flag not in NO_RESULT}
        return typed | own

    def _config(self, run: str) -> Path:
        return self.places.artifacts / run / "config.json"

    def _holds_a_run(self, run: str) -> bool:
        config = self._config(run)
        return config.exists() or config.with_name("last.pt").exists()

    # --- of files

    def _state(self, path: str, seen: list | None, *, part: str = "") -> list:
        """Return [size, time of change, content] of a file, or of a folder in sum.

        A file that has the size and time of `seen`, its last state, is not read again.
        """
        file = self.places.locate(path)
        if file.is_dir():
            if file not in self._folders:
                self._folders[file] = _state_of_folder(file)
            return self._folders[file]
        if not file.exists():  # only in a dry run, where its maker has not run
            return seen or [0, 0, ""]
        stat = file.stat()
        if seen and seen[:2] == [stat.st_size, stat.st_mtime_ns]:
            return seen
        content = _content_of_part(file, part) if part else _content(file)
        return [stat.st_size, stat.st_mtime_ns, content]

    def _all_sources(self) -> str:
        """Return one digest of all source files: as long as it is the same, no definition has changed."""
        files, stats = [], []
        for folder, subfolders, names in os.walk(self.places.codes):
            subfolders[:] = [name for name in subfolders if name not in ("tests", "__pycache__")]
            files += [Path(folder, name) for name in names if name.endswith((".py", ".ipynb"))]
        for file in sorted(files):
            stat = file.stat()
            stats.append([str(file), stat.st_size, stat.st_mtime_ns])
        if stats != self._sources[0]:
            lines = [f"{file.relative_to(self.places.codes).as_posix()} {_content(file)}" for file in sorted(files)]
            self._sources = stats, hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
        return self._sources[1]


def _state_of_folder(folder: Path) -> list:
    n = size = latest = 0
    pending = [str(folder)]
    while pending:
        with os.scandir(pending.pop()) as entries:  # several times faster than a Path for each of 40,000 records
            for entry in entries:
                if entry.is_dir():
                    pending.append(entry.path)
                    continue
                stat = entry.stat()
                n, size, latest = n + 1, size + stat.st_size, max(latest, stat.st_mtime_ns)
    return [size, latest, f"{n} files, {size} bytes, {latest}"]


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _content_of_part(path: Path, part: str) -> str:
    """Return the content of a part of a JSON file: KEY, or KEY/NAME in a list of objects with names.

    An empty name is the first one. Of a part that is not there the content is that of null.
    """
    key, _, name = part.partition("/")
    value = read_json(path, made_by=SPLIT).get(key)
    if isinstance(value, list):
        value = next((item for item in value if name in ("", item.get("name"))), None)
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _contents(files: Mapping[str, list]) -> dict[str, str]:
    return {path: state[-1] for path, state in files.items()}


def _flags_differ(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    for flag in [*before, *now]:
        old, new = before.get(flag, "not given"), now.get(flag, "not given")
        if old != new:
            return f"--{flag.replace('_', '-')} was {old}, is {new}"
    return ""


def _differ(before: Mapping[str, str], now: Mapping[str, str], name_of: Callable[[str], str]) -> str:
    """Return what has changed, come or gone between two {key: content}, the first one by name."""
    changed = [key for key in now if key in before and now[key] != before[key]]
    new = [key for key in now if key not in before]
    gone = [key for key in before if key not in now]
    for keys, what in ((changed, "changed"), (new, "is new"), (gone, "is no longer used")):
        if keys:
            more = f", and {len(keys) - 1} more" if len(keys) > 1 else ""
            return f"{name_of(keys[0])} {what}{more}"
    return ""


def _name_of_file(key: str) -> str:
    return key.partition("#")[0].rstrip("/")


def _is_in_git(path: Path) -> bool:
    """Return whether git tracks a file; without git on the machine, no."""
    git = shutil.which("git")
    if git is None:
        return False
    words = [git, "-C", str(path.parent), "ls-files", "--error-unmatch", "--", path.name]
    code = subprocess.run(words, capture_output=True).returncode
    # 1: not tracked; others: no repository, or one that git refuses to read, for example of another user
    return code == 0 or (code != 1 and any((folder / ".git").exists() for folder in path.parents))
