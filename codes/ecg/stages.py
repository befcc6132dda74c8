"""What the numbered scripts say of themselves, found without running them: inputs, outputs, imports and flags.

A script declares its files once, in its docstring (a notebook in its first markdown cell):

    Reads:  PTB-XL/records100/ artifacts/ptbxl_{train,val,test}.csv artifacts/**/history.csv
    Writes: artifacts/signals/{signals.npy,meta.json}

`PTB-XL/` stands for the data folder, `artifacts/` for the artifacts folder; braces expand as in a shell; a continued
line is indented. A folder ends in `/`. For Reads only: patterns mean the files that are there, and what ends in `?` is
read if it is there.
"""

import ast
import difflib
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from itertools import product
from modulefinder import ModuleFinder
from pathlib import Path

from ecg.artifacts import UserError

SEEDED = ("05", "06", "07", "08", "09", "10")  # the networks, trained once per seed
DATABASE = ("PTB-XL/ptbxl_database.csv", "PTB-XL/scp_statements.csv", "PTB-XL/records100/")  # what 00 must leave
PLANTED = "PTB-XL/planted_signs.csv"  # stands in a synthetic PTB-XL only
PAGES = "artifacts/eda_plots"  # where a notebook's page goes
SET_ELSEWHERE = {"data": "--data", "artifacts": "--artifacts", "seed": "--seeds"}  # seed: of the networks


@dataclass(frozen=True)
class Flag:
    """One setting of a script: the type as written in the source, and its help text."""

    type: str
    help: str


@dataclass(frozen=True)
class Stage:
    """A numbered script. `reads` and `writes` are as declared, with braces expanded and without `?`."""

    path: Path
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    required: tuple[str, ...]  # of `reads`, what is neither a pattern nor optional
    sources: tuple[str, ...]  # the script, what it imports of this project, and files in ecg/ which those name
    flags: dict[str, Flag]

    @property
    def number(self) -> str:
        return self.path.name[:2]

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True, eq=False)
class Job:
    """A stage as it is run once: with its flags and, for a network, its seed."""

    stage: Stage
    name: str  # of its log and record
    title: str
    flags: dict[str, str | bool]
    writes: tuple[str, ...]
    after: tuple[str, ...]  # names of the jobs that write what it reads


def find_stages(codes: Path) -> list[Stage]:
    """Return the numbered scripts and notebooks of a folder in their order."""
    paths = sorted(p for p in codes.iterdir() if re.fullmatch(r"\d\d_\w+\.(py|ipynb)", p.name))
    stages = []
    for path in paths:
        script, prose = _read_source(path)
        if path.name[:2] == "00":  # reads the network, and what it leaves is PTB-XL's own layout
            declared = {"Reads": (), "Writes": DATABASE}
        else:
            declared = {name: tuple(_declared(prose, name, path)) for name in ("Reads", "Writes")}
        finder = ModuleFinder([str(codes)])  # follows imports inside functions too; runs nothing
        finder.scan_code(compile(_parse(script, path), path, "exec"), finder.add_module("__main__"))
        modules = sorted(Path(module.__file__) for module in finder.modules.values() if module.__file__)
        files = [path, *modules]
        text = "".join(file.read_text(encoding="utf-8") for file in files)
        files += [p for p in sorted(codes.glob("ecg/*.*")) if p.suffix != ".py" and p.name in text]
        sources = tuple(f"codes/{file.relative_to(codes).as_posix()}" for file in files)
        reads = tuple(token.removesuffix("?") for token in declared["Reads"])
        required = tuple(token for token in declared["Reads"] if "*" not in token and not token.endswith("?"))
        stages.append(Stage(path, reads, declared["Writes"], required, sources, find_flags(path, codes)))
    return stages


def find_flags(path: Path, codes: Path) -> dict[str, Flag]:
    """Return the fields of the dataclass that a script hands to `run(stage, Settings, __doc__)`."""
    for node in ast.walk(_parse(path.read_text(encoding="utf-8"), path)) if path.suffix == ".py" else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run":
            settings = node.args[1] if len(node.args) > 1 else None
            return _fields(settings.id, path, codes) if isinstance(settings, ast.Name) else {}
    return {}


def choose(stages: Sequence[Stage], names: Iterable[str]) -> list[Stage]:
    """Return the stages meant by numbers (`05`, `5`), script names or fnmatch patterns of either."""
    chosen = []
    for name in names:
        pattern = name.removesuffix(".py").removesuffix(".ipynb")
        pattern = pattern.zfill(2) if pattern.isdigit() else pattern
        found = [s for s in stages if fnmatchcase(s.number, pattern) or fnmatchcase(s.name, pattern)]
        if not found:
            raise UserError(f"stage {name!r} is not known; there are {', '.join(s.name for s in stages)}")
        chosen += [s for s in found if s not in chosen]
    return chosen


def assign(stages: Sequence[Stage], assignments: Iterable[str]) -> dict[str, dict[str, str | bool]]:
    """Return {stage name: {flag: value}} of `05.epochs=3` and the like; later ones win. Nothing misspelt passes."""
    flags: dict[str, dict[str, str | bool]] = {stage.name: {} for stage in stages}
    for text in assignments:
        match = re.fullmatch(r"([^.=]+)\.([\w-]+)=(.*)", text)
        if not match:
            raise UserError(f"--set {text!r}: write STAGE.FLAG=VALUE, such as 05.epochs=3")
        pattern, flag, value = match[1], match[2].replace("-", "_"), match[3]
        matched = choose(stages, [pattern])
        if flag in SET_ELSEWHERE and (flag != "seed" or any(s.number in SEEDED for s in matched)):
            raise UserError(f"--set {text}: use {SET_ELSEWHERE[flag]}")
        try:
            shlex.split(value)
        except ValueError as error:
            raise UserError(f"--set {text}: {error}") from None
        having = [stage for stage in matched if flag in stage.flags]
        if not having:
            known = [name for name in matched[0].flags if name not in SET_ELSEWHERE]
            near = difflib.get_close_matches(flag, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
            raise UserError(f"{matched[0].name} has no flag {flag}; {hint}")
        for stage in having:
            is_bool = stage.flags[flag].type == "bool"
            if is_bool and value.lower() not in ("true", "false"):
                raise UserError(f"--set {text}: it is true or false")
            flags[stage.name][flag] = value.lower() == "true" if is_bool else value
    return flags


def command_line(flags: Mapping[str, str | bool]) -> list[str]:
    """Return {"epochs": "3", "strict": True, "band": "0.5 40"} as --epochs 3 --strict --band 0.5 40."""
    words = []
    for name, value in flags.items():
        option = name.replace("_", "-")
        if isinstance(value, str):
            words += [f"--{option}", *shlex.split(value)]
        else:
            words.append(f"--{option}" if value else f"--no-{option}")
    return words


def make_jobs(
    stages: Sequence[Stage], *, seeds: Sequence[int], flags: Mapping[str, Mapping[str, str | bool]], demo: bool
) -> list[Job]:
    """Return every stage as jobs, the networks once per seed, in an order in which they can run."""
    jobs: list[Job] = []
    for stage in stages:
        writes = list(stage.writes)
        if demo and stage.number == "00":
            writes.append(PLANTED)
        if stage.path.suffix == ".ipynb":
            writes.append(f"{PAGES}/{stage.name}.html")
        # `*` also crosses folders here, which at worst makes a stage wait for one that it does not read
        after = [job.name for job in jobs if any(fnmatchcase(w, r) for w in job.writes for r in stage.reads)]
        own = flags.get(stage.name, {})
        if stage.number not in SEEDED:
            jobs.append(Job(stage, stage.name, stage.name, dict(own), tuple(writes), tuple(after)))
            continue
        for seed in dict.fromkeys(seeds):
            name = f"{stage.name}_seed{seed}" if seed else stage.name
            title = f"{stage.name} (seed {seed})" if any(seeds) else stage.name
            below = [re.sub(r"^(artifacts/\w+)/", rf"\1/seed{seed}/", token) for token in writes] if seed else writes
            jobs.append(Job(stage, name, title, {**own, "seed": str(seed)}, tuple(below), tuple(after)))
    return jobs


def _read_source(path: Path) -> tuple[str, str]:
    """Return (Python source, text with the declarations) of a script or a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text, ast.get_docstring(_parse(text, path)) or ""
    cells = json.loads(text)["cells"]
    sources = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    lines = "\n".join(source for kind, source in sources if kind == "code").split("\n")
    code = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)  # IPython's own
    return code, next((source.replace("`", "") for kind, source in sources if kind == "markdown"), "")


def _declared(prose: str, name: str, path: Path) -> Iterator[str]:
    lines = re.findall(rf"^\W*{name}:(.*(?:\n[ \t]+(?!\w+:).*)*)", prose, re.MULTILINE)
    for token in " ".join(lines).split():
        if "/" not in token:
            continue  # a word between the paths
        wrong = token.count("{") != token.count("}") or (name == "Writes" and set(token) & set("*?"))
        if wrong or not token.startswith(("PTB-XL/", "artifacts/")):
            raise UserError(f"{path}: {name}: {token!r} is not a path below PTB-XL/ or artifacts/")
        parts = re.split(r"\{([^{}]*)\}", token)  # every second one stood in braces
        choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
        yield from map("".join, product(*choices))


@cache
def _parse(source: str, path: Path) -> ast.Module:
    try:
        compile(source, path, "exec")  # finds more than the parser, such as a return outside a function
        return ast.parse(source)
    except SyntaxError as error:
        where = f"line {error.lineno}" + (" of its code cells" if path.suffix == ".ipynb" else "")
        raise UserError(f"{path}, {where}: {error.msg}: correct it and run the same command again") from None


def _fields(name: str, path: Path, codes: Path) -> dict[str, Flag]:
    tree = _parse(path.read_text(encoding="utf-8"), path)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            fields: dict[str, Flag] = {}
            for base in reversed(node.bases):
                fields |= _fields(base.id, path, codes) if isinstance(base, ast.Name) else {}
            for item, following in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    text = following.value if isinstance(following, ast.Expr) else None
                    text = text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else ""
                    fields[item.target.id] = Flag(ast.unparse(item.annotation), text)
            return fields
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            file = codes / f"{node.module.replace('.', '/')}.py"
            return _fields(name, file, codes) if file.is_file() else {}
    return {}
