"""Whether the tests would notice: mistakes put into the code one at a time, and the tests that then fail.

Some mistakes are named below, because tests once missed them. The others are drawn by `--seed` from the comparisons,
arithmetic, boolean operators and numbers of the modules that compute what is reported; messages, docstrings and type
hints are left alone. Each is made in a copy of the project, never in place, and meets the tests whose imports reach the
changed module, those that start whole processes last; the first test that fails has noticed it. A test that also fails
without the mistake has noticed nothing, and is left out from then on. Tests marked slow do not run.

Writes: artifacts/benchmarks/mutations.csv
Run:    python codes/benchmarks/mutations.py
        a mistake that is noticed takes seconds, one that survives takes as long as all of its tests

Exit code 1 unless all named and at least 22 of 25 drawn mistakes are noticed.
"""

import ast
import copy
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import print_ratio, write_results
from ecg.artifacts import ROOT, UserError
from ecg.command_line import check_at_least, run
from ecg.hardware import cores

DRAWN_FROM = (
    "ecg/training.py",
    "ecg/trainer.py",
    "ecg/metrics.py",
    "ecg/stats.py",
    "ecg/labels.py",
    "ecg/tasks.py",
    "ecg/signals.py",
    "ecg/preprocessing.py",
)
# (what is wrong, file, text, wrong text): each text occurs once in its file
NAMED = (
    (
        "the weights' moving average is switched off",
        "ecg/trainer.py",
        "get_ema_multi_avg_fn(max(0.0, 1 - 1 / max(1.0, ema * steps)))",
        "get_ema_multi_avg_fn(0.0)",
    ),
    (
        "weight decay is ignored",
        "ecg/trainer.py",
        "weight_decay=weight_decay, fused=True",
        "weight_decay=0.0, fused=True",
    ),
    (
        "standardisation subtracts the standard deviation",
        "ecg/models/__init__.py",
        'for key in ("mean", "std"))',
        'for key in ("std", "std"))',
    ),
    (
        "XResNet1D's residual branches do not begin at zero",
        "ecg/models/xresnet1d.py",
        "nn.init.zeros_(self.norm2.weight)",
        "pass",
    ),
    (
        "the validated split is not capped",
        "ecg/labels.py",
        "min(len(validated) // 10, len(patients) // 2)",
        "len(patients) // 2",
    ),
)
MANY = 99  # imports from a test to a module that it reaches by a process alone
LEAST_SHARE = 22 / 25  # of the drawn mistakes
COPIED = ("codes", "artifacts", "README.md", "LICENSE", "pyproject.toml", "requirements.txt", ".gitignore")
NOT_COPIED = ("__pycache__", "signals", "demo", "logs", "last.pt")
# these read the source or run benchmarks
LEFT_OUT = ("test_house_rules.py", "test_benchmarks.py", "test_mutations.py")
# numbers behind these names change how fast or how often something is done or shown, not what comes out
SPEED_ONLY = ("CHECKPOINT_SECONDS", "CHUNK", "mininterval")

OPPOSITES: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
    ast.USub: ast.UAdd,
}


@dataclass(frozen=True)
class Settings:
    artifacts: Path = ROOT / "artifacts"
    """Folder for the table."""
    seed: int = 0
    """Which mistakes are drawn."""
    count: int = 25
    """How many are drawn."""
    modules: tuple[str, ...] = DRAWN_FROM
    """Files below codes/ that they are drawn from."""
    jobs: int = 0
    """Mistakes that are tried at a time, each in a process of one thread; 0 takes every processor core."""
    limit: float = 900
    """Seconds after which the tests of one mistake are stopped; it then counts as not noticed."""


@dataclass(frozen=True)
class Mutation:
    """A mistake: `file` (below codes/) with `before` in `line` replaced by `after` reads `source`."""

    kind: str
    file: str
    line: int
    before: str
    after: str
    source: str


@dataclass(frozen=True)
class Outcome:
    """The first test that failed, empty if none did, and how long it took to find out."""

    noticed_by: str
    seconds: float
    stopped: bool = False


# --- making mistakes ------------------------------------------------------------------------------------------------


def named_mutations(codes: Path) -> list[Mutation]:
    """Return the mistakes of NAMED; raise a `UserError` if the code has moved on from one."""
    mutations = []
    for what, file, before, after in NAMED:
        source = (codes / file).read_text(encoding="utf-8")
        if source.count(before) != 1:
            raise UserError(
                f"{what}: {before!r} occurs {source.count(before)} times in {file}; see NAMED in {__file__}"
            )
        line = source[: source.index(before)].count("\n") + 1
        mutations.append(Mutation(what, file, line, before, after, source.replace(before, after)))
    return mutations


def draw_mutations(codes: Path, modules: tuple[str, ...], *, seed: int, count: int) -> list[Mutation]:
    """Return `count` mistakes, in the order of files and lines, each of all possible ones with the same chance."""
    possible = []
    for file in modules:
        possible += possible_mutations(file, (codes / file).read_text(encoding="utf-8"))
    chosen = random.Random(seed).sample(range(len(possible)), min(count, len(possible)))
    return [possible[i] for i in sorted(chosen)]


def possible_mutations(file: str, source: str) -> list[Mutation]:
    """Return every mistake that can be made in a file."""
    whole = source.encode()  # a node's columns count bytes
    line_starts = [0, *accumulate(len(line) for line in whole.splitlines(keepends=True))]
    mutations = []
    for node in computing_nodes(ast.parse(source)):
        start = line_starts[getattr(node, "lineno", 1) - 1] + getattr(node, "col_offset", 0)
        end = line_starts[getattr(node, "end_lineno", 1) - 1] + getattr(node, "end_col_offset", 0)
        for changed in mutated(node):
            after = ast.unparse(changed)
            if not isinstance(node, ast.Constant | ast.AugAssign):
                after = f"({after})"  # it may bind less than what it replaces
            before = " ".join(whole[start:end].decode().split())
            wrong = (whole[:start] + after.encode() + whole[end:]).decode()
            mutations.append(Mutation("drawn", file, node.lineno, before, after, wrong))
    return mutations


def computing_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the parts of a syntax tree outside messages, type hints and what only concerns speed."""
    if isinstance(node, ast.JoinedStr | ast.Raise) or (isinstance(node, ast.Call) and called(node) in ("print", "say")):
        return
    if isinstance(node, ast.keyword) and node.arg in SPEED_ONLY:
        return
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in SPEED_ONLY:
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from computing_nodes(child)


def called(call: ast.Call) -> str:
    return ast.unparse(call.func).rsplit(".", 1)[-1]


def mutated(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the node with one mistake; nothing if there is none to be made in it."""
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            changed = copy.deepcopy(node)
            changed.ops[i] = OPPOSITES[type(operator)]()
            yield changed
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.UnaryOp | ast.AugAssign):
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node.operand
        elif type(node.op) in OPPOSITES and not has_text(node):
            changed = copy.deepcopy(node)
            changed.op = OPPOSITES[type(node.op)]()
            yield changed
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield ast.Constant(node.value + 1 if isinstance(node.value, int) else 2 * node.value or 1.0)


def has_text(node: ast.AST) -> bool:
    """Whether the operator joins texts or a path."""
    parts = [getattr(node, name, None) for name in ("left", "right", "value")]
    return any(isinstance(part, ast.JoinedStr) or isinstance(getattr(part, "value", None), str) for part in parts)


# --- choosing tests -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Suite:
    """What a test file uses: modules (paths below codes/), and whether it starts whole processes."""

    path: Path
    modules: frozenset[str]
    starts_processes: bool


def find_suites(codes: Path) -> list[Suite]:
    """Return the test files with what they use, that of the fixtures in conftest.py included."""
    conftest = codes / "tests" / "conftest.py"
    shared = used_modules(conftest, codes)
    fixtures = functions(conftest)
    found = []
    for path in sorted((codes / "tests").glob("test_*.py")):
        if path.name in LEFT_OUT:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        own = used_modules(path, codes)
        processes = "demo" in arguments or bool({"subprocess", "runpy"} & imported_names(tree))
        found.append(Suite(path, own | shared if arguments & fixtures else own, processes))
    return found


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def imported_names(tree: ast.AST) -> set[str]:
    """Return the dotted names that a file imports, or gives as text to what imports them."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"ecg[\w.:]+", node.value):
            names.add(node.value.replace(":", "."))
    return names


@cache
def used_modules(path: Path, codes: Path) -> frozenset[str]:
    """Return the project's modules that a file names, as paths below `codes`."""
    names = imported_names(ast.parse(path.read_text(encoding="utf-8")))
    files = [module_file(name.split("."), codes) or module_file(["tests", *name.split(".")], codes) for name in names]
    return frozenset(file.relative_to(codes).as_posix() for file in files if file)


def module_file(parts: list[str], codes: Path) -> Path | None:
    """Return the file of the module `parts`, or of the one that `parts` is something in; None if it is not ours."""
    for end in range(len(parts), 0, -1):
        module = codes.joinpath(*parts[:end])
        for file in (module.with_suffix(".py"), module / "__init__.py"):
            if file.is_file():
                return file
    return None


def suites_reaching(file: str, suites: list[Suite], codes: Path) -> list[Path]:
    """Return the test files that reach a module: the one named after it first, those that start processes last."""
    chosen = []
    for suite in suites:
        steps = distance(suite.modules, file, codes)
        if steps is None and not suite.starts_processes:
            continue
        is_own = suite.path.stem == f"test_{Path(file).stem}"
        late = suite.starts_processes and not is_own
        order = (late, not is_own, MANY if steps is None else steps)
        chosen.append((*order, suite.path))
    return [path for *_, path in sorted(chosen)]


def distance(modules: frozenset[str], file: str, codes: Path) -> int | None:
    """Return how many imports lead from a test that names `modules` to `file`; None if none do."""
    seen, level, steps = set(modules), set(modules), 1
    while level:
        if file in level:
            return steps
        level = {name for module in level for name in used_modules(codes / module, codes)} - seen
        seen |= level
        steps += 1
    return None


# --- running tests --------------------------------------------------------------------------------------------------


class Bench:
    """Copies of the project in which mistakes are tried, and the tests that are known to fail without any."""

    def __init__(self, root: Path, folder: Path, jobs: int, limit: float):
        self.root, self.limit, self.suites = root, limit, find_suites(root / "codes")
        self.passing: set[str] = set()
        self.failing: set[str] = set()
        self.free: queue.Queue[Path] = queue.Queue()
        for job in range(jobs):
            place = folder / str(job) / "project"
            copy_project(root, place)
            self.free.put(place)

    def try_out(self, mutation: Mutation) -> Outcome:
        """Return what the tests say of a mistake."""
        files = suites_reaching(mutation.file, self.suites, self.root / "codes")
        names = [path.relative_to(self.root).as_posix() for path in files]
        if not names:
            return Outcome("", 0.0)
        place = self.free.get()
        changed = place / "codes" / mutation.file
        original = changed.read_text(encoding="utf-8")
        try:
            started = time.perf_counter()
            while True:
                changed.write_text(mutation.source, encoding="utf-8")
                failed, stopped = run_tests(place, names, self.failing, self.limit)
                seconds = time.perf_counter() - started
                changed.write_text(original, encoding="utf-8")
                if not failed or self._passes_alone(place, failed):
                    return Outcome(failed, seconds, stopped)
        finally:
            self.free.put(place)

    def _passes_alone(self, place: Path, test: str) -> bool:
        """Whether a test passes without a mistake; one that does not is left out from now on."""
        if test not in self.passing:
            failed, stopped = run_tests(place, [test], set(), self.limit)
            if failed or stopped:
                self.failing.add(test)
                return False
            self.passing.add(test)
        return True


def copy_project(root: Path, place: Path) -> None:
    place.mkdir(parents=True)
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, place / name, ignore=shutil.ignore_patterns(*NOT_COPIED))
        elif (root / name).exists():
            shutil.copy(root / name, place)


def run_tests(place: Path, names: list[str], left_out: set[str], limit: float) -> tuple[str, bool]:
    """Run tests until the first fails; return (its name or an empty text, whether the time ran out)."""
    scratch = place.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
    command += [f"--basetemp={scratch / 'pytest'}", *(f"--deselect={name}" for name in sorted(left_out))]
    command += [name for name in names if name not in left_out]  # a file that cannot be imported is left out as a whole
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ECG_")}
    environment |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "TMPDIR": str(scratch)}
    # compiled files are told from older ones by size and second, which a mistake may leave as they were
    environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # the tests need none, and some take seconds to import
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            command,
            cwd=place,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=os.name == "posix",
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            stop(process)
            return "", True
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        output.seek(0)
        text = output.read()
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", text, re.MULTILINE)
    if code in (1, 2) and failed:
        return failed[0], False
    if code in (0, 5):  # 5: every test was left out
        return "", False
    raise UserError(f"{' '.join(command)} in {place} ended with code {code}:\n{text[-3000:]}")


def stop(process: subprocess.Popen) -> None:
    """End a test run and the processes that it has started."""
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


# --- the benchmark --------------------------------------------------------------------------------------------------


def benchmark(
    *, artifacts: Path, seed: int, count: int, modules: tuple[str, ...], jobs: int, limit: float, root: Path = ROOT
) -> None:
    check_at_least("--count", count, 0)
    check_at_least("--jobs", jobs, 0)
    check_at_least("--limit", limit, 1)
    codes = root / "codes"
    for file in modules:
        if not (codes / file).is_file():
            raise UserError(f"--modules {file}: there is no such file below {codes}")
    mutations = named_mutations(codes) + draw_mutations(codes, modules, seed=seed, count=count)
    print(f"{len(NAMED)} named and {len(mutations) - len(NAMED)} drawn mistakes, --seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="mutations_") as folder:
        bench = Bench(root, Path(folder), jobs or cores(), limit)
        with ThreadPoolExecutor(jobs or cores()) as pool:
            outcomes = list(pool.map(partial(try_and_say, bench), mutations))
    table = pd.DataFrame(
        {
            "kind": [mutation.kind for mutation in mutations],
            "file": [mutation.file for mutation in mutations],
            "line": [mutation.line for mutation in mutations],
            "before": [mutation.before for mutation in mutations],
            "after": [mutation.after for mutation in mutations],
            "noticed_by": [outcome.noticed_by for outcome in outcomes],
            "seconds": [round(outcome.seconds, 1) for outcome in outcomes],
            "seed": seed,
        }
    )
    write_results(table, artifacts, "mutations", packages=("pytest",))
    sys.exit(conclude(table, bench.failing))


def try_and_say(bench: Bench, mutation: Mutation) -> Outcome:
    outcome = bench.try_out(mutation)
    verdict = outcome.noticed_by or ("NOT NOTICED, out of time" if outcome.stopped else "NOT NOTICED")
    print(f"{in_words(mutation.file, mutation.line, mutation.before, mutation.after)}", flush=True)
    print(f"    {mutation.kind}: {verdict} ({outcome.seconds:.0f} s)", flush=True)
    return outcome


def in_words(file: str, line: int, before: str, after: str) -> str:
    return f"{file}:{line}: {before} -> {after}"


def conclude(table: pd.DataFrame, failing: set[str]) -> int:
    """Print what was found; return the exit code."""
    noticed = table.noticed_by != ""
    drawn = table.kind == "drawn"
    if failing:
        print("these tests fail without any mistake and were left out:", *sorted(failing), sep="\n  ")
    if not noticed.all():
        print("not noticed by any test:")
        for row in table[~noticed].itertuples():
            print(f"  {in_words(row.file, row.line, row.before, row.after)}")
    print(f"named mistakes noticed: {noticed[~drawn].sum()} of {(~drawn).sum()}")
    share = noticed[drawn].mean() if drawn.any() else 1.0
    print_ratio(share, f"{noticed[drawn].sum()} of {drawn.sum()} drawn mistakes noticed (must be at least .88)")
    return 0 if noticed[~drawn].all() and share >= LEAST_SHARE else 1


if __name__ == "__main__":
    run(benchmark, Settings, __doc__)
