"""What the numbered scripts say of themselves, found without running them: inputs, outputs, imports and flags.

A script declares its files once, in its docstring (a notebook in its first markdown cell):

    Reads:  PTB-XL/records100/ artifacts/ptbxl_{train,val,test}.csv artifacts/**/history.csv
    Writes: artifacts/signals/{signals.npy,meta.json}

`PTB-XL/` stands for the data folder, `artifacts/` for the artifacts folder; braces expand as in a shell; a continued
line is indented. Patterns are for Reads only and mean what earlier stages write. A folder ends in `/`.
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
from pathlib import Path
from typing import Any

from ecg.artifacts import UserError

SEEDED = ("05", "06", "07", "08", "09", "10")  # the networks, trained once per seed
DATABASE = ("PTB-XL/ptbxl_database.csv", "PTB-XL/scp_statements.csv", "PTB-XL/records100/")  # what 00 must leave
PLANTED = "PTB-XL/planted_signs.csv"  # stands in a synthetic PTB-XL only
SET_ELSEWHERE = {"data": "--data", "artifacts": "--artifacts", "seed": "--seeds"}  # seed: of the networks


@dataclass(frozen=True)
class Flag:
    """One setting of a script: the type as written in the source, and its help text."""

    type: str
    help: str


@dataclass(frozen=True)
class Stage:
    """A numbered script. `reads` and `writes` are as declared, with braces expanded."""

    path: Path
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    modules: tuple[Path, ...]  # of this project, imported directly or by an import
    flags: dict[str, Flag]

    @property
    def number(self) -> str:
        return self.path.name[:2]

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True)
class Job:
    """A stage as it is run once: with its folders, its flags and, for a network, its seed."""

    stage: Stage
    seed: int | None
    flags: dict[str, Any]
    reads: tuple[Path, ...]  # files
    matched: tuple[Path, ...]  # files that a pattern found; it takes those that are there
    folders: tuple[Path, ...]  # read as a whole
    writes: tuple[Path, ...]

    @property
    def name(self) -> str:
        return f"{self.stage.name}_seed{self.seed}" if self.seed else self.stage.name


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
        patterns = [token for token in declared["Writes"] if "*" in token]
        if patterns:
            raise UserError(f"{path}: Writes: {patterns[0]!r} must be a file, not a pattern")
        flags = find_flags(path, codes)
        stages.append(Stage(path, declared["Reads"], declared["Writes"], _find_modules(script, path, codes), flags))
    return stages


def find_flags(path: Path, codes: Path) -> dict[str, Flag]:
    """Return the fields of the dataclass that a script hands to `run(stage, Settings, __doc__)`."""
    for node in ast.walk(_parse_file(path)) if path.suffix == ".py" else ():
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


def parse_assignment(text: str) -> tuple[str, str, str]:
    """Return (stage, flag, value) of `05.epochs=3`."""
    match = re.fullmatch(r"(?P<stage>[^.=]+)\.(?P<flag>[\w-]+)=(?P<value>.*)", text)
    if not match:
        raise UserError(f"--set {text!r}: write STAGE.FLAG=VALUE, such as 05.epochs=3")
    return match["stage"], match["flag"].replace("-", "_"), match["value"]


def assign(stages: Sequence[Stage], assignments: Iterable[tuple[str, str, Any]]) -> dict[str, dict[str, Any]]:
    """Return {stage name: {flag: value}}; later assignments win. Nothing misspelt passes."""
    flags: dict[str, dict[str, Any]] = {stage.name: {} for stage in stages}
    for pattern, flag, value in assignments:
        matched = choose(stages, [pattern])
        if flag in SET_ELSEWHERE and (flag != "seed" or any(s.number in SEEDED for s in matched)):
            raise UserError(f"--set {pattern}.{flag}: use {SET_ELSEWHERE[flag]}")
        having = [stage for stage in matched if flag in stage.flags]
        if not having:
            known = [name for name in matched[0].flags if name not in SET_ELSEWHERE]
            near = difflib.get_close_matches(flag, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
            raise UserError(f"{matched[0].name} has no flag {flag}; {hint}")
        for stage in having:
            flags[stage.name][flag] = _parse_bool(stage.flags[flag].type, flag, value)
    return flags


def _parse_bool(type_: str, flag: str, value: Any) -> Any:
    if type_ != "bool" or isinstance(value, bool):
        return value
    if value.lower() not in ("true", "false"):
        raise UserError(f"--set {flag}={value}: it is true or false")
    return value.lower() == "true"


def command_line(flags: Mapping[str, Any]) -> list[str]:
    """Return {"epochs": 3, "strict": True, "band": "0.5 40"} as --epochs 3 --strict --band 0.5 40."""
    words = []
    for name, value in flags.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            values = shlex.split(value) if isinstance(value, str) else value
            words += [f"--{option}", *map(str, values if isinstance(values, list | tuple) else [values])]
    return words


def make_jobs(
    stages: Sequence[Stage],
    *,
    data: Path,
    artifacts: Path,
    seeds: Sequence[int],
    flags: Mapping[str, Mapping[str, Any]],
    demo: bool,
) -> list[Job]:
    """Return every stage as jobs, the networks once per seed, in an order in which they can run."""

    def locate(token: str) -> Path:
        top, _, rest = token.partition("/")
        return {"PTB-XL": data, "artifacts": artifacts}[top] / rest

    jobs: list[Job] = []
    owned = {token.split("/")[1] for s in stages for token in s.writes if token.count("/") > 1}
    strangers = list(_strangers(artifacts, owned))
    for stage in stages:
        plain = [token for token in stage.reads if "*" not in token]
        patterns = [re.compile(_pattern(token)) for token in stage.reads if "*" in token]
        earlier = [path for job in jobs for path in job.writes if path.is_relative_to(artifacts)]
        known = dict.fromkeys([*earlier, *strangers])
        wide = [
            p for p in known if any(r.fullmatch(f"artifacts/{p.relative_to(artifacts).as_posix()}") for r in patterns)
        ]
        for seed in dict.fromkeys(seeds) if stage.number in SEEDED else [None]:
            writes = [*stage.writes, PLANTED] if demo and stage.number == "00" else stage.writes
            jobs.append(
                Job(
                    stage=stage,
                    seed=seed,
                    flags=dict(flags.get(stage.name, {})) | ({} if seed is None else {"seed": seed}),
                    reads=tuple(locate(token) for token in plain if token[-1] != "/"),
                    matched=tuple(wide),
                    folders=tuple(locate(token) for token in plain if token[-1] == "/"),
                    writes=tuple(locate(_in_seed_folder(token, seed)) for token in writes),
                )
            )
    return jobs


def _in_seed_folder(token: str, seed: int | None) -> str:
    """`artifacts/resnet_standard/best.pt` of seed 2 is `artifacts/resnet_standard/seed2/best.pt`."""
    if not seed:
        return token
    top, folder, rest = token.split("/", 2)
    return f"{top}/{folder}/seed{seed}/{rest}"


def _strangers(artifacts: Path, owned: set[str]) -> Iterator[Path]:
    """Yield files no stage declares but a pattern may mean: further seeds, and models that the user trained."""
    for path in sorted(artifacts.rglob("*")):
        first, *rest = path.relative_to(artifacts).parts
        if first in ("demo", "logs") or first.startswith(".") or not rest:
            continue
        if first not in owned or re.fullmatch(r"seed\d+", rest[0]):
            yield path


def _pattern(token: str) -> str:
    """Return a glob as a regular expression; `**/` is any number of folders, `*` stays within one."""
    rules = {"**/": r"(?:[^/]+/)*", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    return "".join(rules.get(part, re.escape(part)) for part in re.split(r"(\*\*/|\*\*|\*|\?)", token))


def _read_source(path: Path) -> tuple[str, str]:
    """Return (Python source, text with the declarations) of a script or a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text, ast.get_docstring(_parse(text)) or ""
    cells = json.loads(text)["cells"]
    sources = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    lines = "\n".join(source for kind, source in sources if kind == "code").split("\n")
    code = "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))  # IPython's own
    return code, next((source.replace("`", "") for kind, source in sources if kind == "markdown"), "")


def _declared(prose: str, name: str, path: Path) -> Iterator[str]:
    lines = re.findall(rf"^\W*{name}:(.*(?:\n[ \t]+(?!\w+:).*)*)", prose, re.MULTILINE)
    for token in " ".join(lines).split():
        if "/" not in token:
            continue  # a word between the paths
        if not token.startswith(("PTB-XL/", "artifacts/")) or token.count("{") != token.count("}"):
            raise UserError(f"{path}: {name}: {token!r} is not a path below PTB-XL/ or artifacts/")
        yield from _expand(token)


def _expand(token: str) -> list[str]:
    match = re.search(r"\{([^{}]*)\}", token)
    if not match:
        return [token]
    return [
        full for part in match[1].split(",") for full in _expand(token[: match.start()] + part + token[match.end() :])
    ]


@cache
def _parse(source: str) -> ast.Module:
    return ast.parse(source)


def _parse_file(path: Path) -> ast.Module:
    return _parse(path.read_text(encoding="utf-8"))


def _imports(tree: ast.Module, path: Path, codes: Path) -> Iterator[tuple[str, str | None]]:
    """Yield (module, imported name) of every import; relative ones are made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(codes).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)


def _module_files(module: str, codes: Path) -> list[Path]:
    """Return the files of this project that importing `ecg.models.inception` runs, the innermost last."""
    files, folder = [], codes
    for part in module.split("."):
        folder = folder / part
        file = next((f for f in (folder / "__init__.py", folder.with_suffix(".py")) if f.is_file()), None)
        if file is None:
            break
        files.append(file)
    return files


def _find_modules(source: str, path: Path, codes: Path) -> tuple[Path, ...]:
    found: dict[Path, None] = {}
    trees = [(_parse(source), path)]
    while trees:
        tree, file = trees.pop()
        for module, name in _imports(tree, file, codes):
            for new in _module_files(f"{module}.{name}" if name else module, codes):
                if new not in found:
                    found[new] = None
                    trees.append((_parse_file(new), new))
    return tuple(sorted(found))


def _fields(name: str, path: Path, codes: Path) -> dict[str, Flag]:
    tree = _parse_file(path)
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
    for module, imported in _imports(tree, path, codes):
        if imported == name and (files := _module_files(module, codes)):
            return _fields(name, files[-1], codes)
    return {}
