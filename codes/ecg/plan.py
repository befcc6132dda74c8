"""What a command line of `run_all.py` means: which stages, with which flags, as which jobs."""

import ast
import difflib
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from ecg.artifacts import UserError
from ecg.code_digest import parse
from ecg.stages import Declared, Flags, Stage, fill, words_of

SET_ELSEWHERE = {"data": "--data", "artifacts": "--artifacts", "seed": "--seeds"}  # seed: of the networks


@dataclass(frozen=True)
class Flag:
    """One setting of a script: the type as written in the source, and its help text."""

    type: str
    help: str


@dataclass(frozen=True, eq=False)
class Job:
    """A stage as it is run once: with its flags, and for a training with its seed and the name of its run.

    `name` is that of its log and record. `typed` are those of its flags that the user gave. `run` is the folder of the
    network that it trains, below the artifacts folder; empty if it trains none. `model` is the network that it trains
    or explains. `after` are the jobs that write what it reads.
    """

    stage: Stage
    name: str
    title: str
    flags: dict[str, str | bool]
    typed: dict[str, str | bool]
    run: str
    model: str
    reads: tuple[Declared, ...]
    writes: tuple[Declared, ...]
    after: tuple[str, ...] = ()


# --- stages and flags -----------------------------------------------------------------------------------------------


def check_declared(codes: Path, stages: Iterable[Stage]) -> None:
    """Raise a `UserError` for a numbered script that the table of stages does not know."""
    known = {stage.script for stage in stages}
    for path in sorted(codes.iterdir()):
        if re.fullmatch(r"\d\d_\w+\.(py|ipynb)", path.name) and path.name not in known:
            raise UserError(f"{path} is no stage yet: add a line to STAGES in codes/ecg/stages.py, or rename it")


def choose(stages: Sequence[Stage], names: Iterable[str]) -> list[Stage]:
    """Return the stages meant by numbers (`05`, `5`), script names or fnmatch patterns of either."""
    chosen = []
    for name in names:
        pattern = name.removesuffix(".py").removesuffix(".ipynb")
        pattern = pattern.zfill(2) if pattern.isdigit() else pattern
        found = [s for s in stages if fnmatchcase(s.number, pattern) or fnmatchcase(s.name, pattern)]
        if not found:
            raise UserError(f"there is no stage {name!r}; there are {', '.join(s.name for s in stages)}")
        chosen += [stage for stage in found if stage not in chosen]
    return chosen


def read_source(codes: Path, stage: Stage) -> tuple[Path, str]:
    """Return (path, Python source) of a stage's script; of a notebook its code cells without IPython's own lines."""
    path = codes / stage.script
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return path, text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    lines = "\n".join("".join(cell["source"]) for cell in cells).split("\n")
    return path, "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)


def find_flags(path: Path, codes: Path) -> dict[str, Flag]:
    """Return the settings of a script: the fields of the dataclass in `run(stage, Settings, __doc__)`.

    They are read from the source, because importing a script imports all that it computes with.
    """
    if path.suffix != ".py":
        return {}
    tree = _tree(path, path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run":
            settings = node.args[1] if len(node.args) > 1 else None
            return _fields(settings.id, path, codes) if isinstance(settings, ast.Name) else {}
    return {}


@cache
def _tree(path: Path, source: str) -> ast.Module:
    return parse(source, path)


def _fields(name: str, path: Path, codes: Path) -> dict[str, Flag]:
    tree = _tree(path, path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            fields: dict[str, Flag] = {}
            for base in reversed(node.bases):
                fields |= _fields(base.id, path, codes) if isinstance(base, ast.Name) else {}
            return fields | _own_fields(node)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            file = codes / f"{node.module.replace('.', '/')}.py"
            return _fields(name, file, codes) if file.is_file() else {}
    return {}


def _own_fields(node: ast.ClassDef) -> dict[str, Flag]:
    fields = {}
    for item, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            text = following.value if isinstance(following, ast.Expr) else None
            text = text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else ""
            fields[item.target.id] = Flag(ast.unparse(item.annotation), text)
    return fields


def assign(stages: Sequence[Stage], codes: Path, assignments: Iterable[str]) -> dict[str, dict[str, str | bool]]:
    """Return {stage name: {flag: value}} of `05.epochs=3` and the like; later ones win. Nothing misspelt passes."""
    flags: dict[str, dict[str, str | bool]] = {stage.name: {} for stage in stages}
    for text in assignments:
        match = re.fullmatch(r"([^.=]+)\.([\w-]+)=(.*)", text)
        if not match:
            raise UserError(f"--set {text!r}: write STAGE.FLAG=VALUE, such as 05.epochs=3")
        pattern, flag, value = match[1], match[2].replace("-", "_"), match[3]
        matched = choose(stages, [pattern])
        if flag in SET_ELSEWHERE and (flag != "seed" or any(stage.network for stage in matched)):
            raise UserError(f"--set {text}: use {SET_ELSEWHERE[flag]}")
        try:
            shlex.split(value)
        except ValueError as error:
            raise UserError(f"--set {text}: {error}") from None
        known = {stage.name: find_flags(codes / stage.script, codes) for stage in matched}
        having = [stage for stage in matched if flag in known[stage.name]]
        if not having:
            raise UserError(f"{matched[0].name} has no flag {flag}; {_hint(flag, known[matched[0].name])}")
        for stage in having:
            is_bool = known[stage.name][flag].type == "bool"
            if is_bool and value.lower() not in ("true", "false"):
                raise UserError(f"--set {text}: it is true or false")
            flags[stage.name][flag] = value.lower() == "true" if is_bool else value
    return flags


def _hint(flag: str, known: Iterable[str]) -> str:
    settable = [name for name in known if name not in SET_ELSEWHERE]
    near = difflib.get_close_matches(flag, settable, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(settable) or 'none'}"


def command_line(flags: Flags) -> list[str]:
    """Return {"epochs": "3", "strict": True, "band": "0.5 40"} as --epochs 3 --strict --band 0.5 40."""
    words = []
    for name, value in flags.items():
        option = name.replace("_", "-")
        if isinstance(value, str):
            words += [f"--{option}", *shlex.split(value)]
        else:
            words.append(f"--{option}" if value else f"--no-{option}")
    return words


# --- jobs -----------------------------------------------------------------------------------------------------------


def make_jobs(
    stages: Sequence[Stage],
    artifacts: Path,
    *,
    chosen: Sequence[Stage],
    seeds: Sequence[int],
    flags: Mapping[str, dict[str, str | bool]],
    typed: Mapping[str, dict[str, str | bool]],
) -> list[Job]:
    """Return every stage as jobs, the networks once per seed, in an order in which they can run.

    Those of the `chosen` stages are going to run. Raises a `UserError` if two jobs would write the same file.
    """
    jobs: list[Job] = []
    for stage in stages:
        own, given = flags.get(stage.name, {}), typed.get(stage.name, {})
        variants = [own]
        if stage.network:
            variants = [own | {"seed": str(seed)} for seed in dict.fromkeys(seeds)]
        for variant in variants:
            job = _job(stage, variant, given, several=any(seeds))
            if any("<run>" in path for path in stage.reads):
                job = _that_explains(job, [other for other in jobs if other.stage in chosen], artifacts)
            after = [other.name for other in jobs if _writes_for(other, job)]
            jobs.append(replace(job, after=tuple(after)))
    _check_that_none_writes_over_another(jobs)
    return jobs


def _job(stage: Stage, flags: dict[str, str | bool], typed: dict[str, str | bool], *, several: bool) -> Job:
    words = words_of(stage, flags)
    name, seed = stage.name, flags.get("seed", "0")
    if stage.names_run and words["run"] != words_of(stage, {})["run"]:
        name += f"@{words['run']}"
    title = f"{name} (seed {seed})" if stage.network and several else name
    if stage.names_run and seed != "0":
        name += f"_seed{seed}"
    return Job(
        stage,
        name=name,
        title=title,
        flags=dict(flags),
        typed=dict(typed),
        run=words["run"] + words["seed"] if stage.network else "",
        model=stage.network.model if stage.network else "",
        reads=(*fill(stage.reads, words), *_files_in(flags)),
        writes=fill(stage.writes, words),
    )


def _files_in(flags: Flags) -> list[Declared]:
    """Return the files that flags name, such as `02.labels=mine.csv`: their content is an input too."""
    words = [word for value in flags.values() if isinstance(value, str) for word in shlex.split(value)]
    return [Declared(str(Path(word).absolute())) for word in words if word.lower().endswith(".csv")]


def _that_explains(job: Job, earlier: Sequence[Job], artifacts: Path) -> Job:
    """Return a job that looks at a run with the network of that run.

    One that was not told which looks at the default run, or at any if that one is not there.
    """
    run = words_of(job.stage, job.flags)["run"]
    trained = [other.model for other in earlier if other.run == run]
    if trained:
        return replace(job, model=trained[0])
    if "run" in job.flags or (artifacts / run / "config.json").exists():
        return job
    return replace(job, reads=fill(job.stage.reads, words_of(job.stage, job.flags) | {"run": "**"}))


def _writes_for(writer: Job, reader: Job) -> bool:
    """Return whether one job writes what another reads. In a pattern that is written, `*` can be any name."""
    written = [each.path.replace("**/", "").replace("*", "any") for each in writer.writes]
    return any(each.matches(path) for each in reader.reads for path in written)


def _check_that_none_writes_over_another(jobs: Sequence[Job]) -> None:
    writer: dict[str, Job] = {}
    for job in jobs:
        for each in job.writes:
            other = writer.setdefault(each.path, job)
            if other is not job and not each.is_pattern:
                raise UserError(f"{other.title} and {job.title} would both write {each.path}: give one another --name")
