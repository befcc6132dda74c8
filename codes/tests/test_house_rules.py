"""The rules of the house that can be read off the source; each test looks at all files and lists the offenders."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from conftest import CODES, ROOT

from ecg.leads import LEADS
from ecg.tasks import SUPERCLASSES

NUMERICS = ("numpy", "scipy", "pandas", "scikit-learn", "torch")
COMES_WITH = {"IPython": "jupyter", "nbformat": "nbclient"}  # are the larger package's own vocabulary
EXTRAS = {"ecgdatakit", "onnx", "onnxruntime"}  # who wants what they bring installs them; README names them
RUN_NOT_IMPORTED = {"jupyter", "ipykernel", "nbconvert", "nbclient", "pytest", "pytest-xdist", "ruff"}  # called by name
TOP_LEVEL = {"predict.py", "run_all.py", "train.py", "judge.py", "serve.py", "stream.py"}


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Yield (path, tree) of everything that is ours, the notebook's code included; tests are not."""
    for path in sorted(CODES.rglob("*.py")):
        if "tests" not in path.relative_to(CODES).parts:
            yield path.relative_to(CODES).as_posix(), ast.parse(path.read_text(encoding="utf-8"))
    for path in CODES.glob("*.ipynb"):
        cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
        code = "\n".join("".join(cell["source"]) for cell in cells)
        yield path.name, ast.parse("\n".join(line for line in code.split("\n") if not line.startswith(("%", "!"))))


SOURCES = dict(sources())
MODULES = [name for name in SOURCES if name.startswith("ecg/")]
SCRIPTS = [name for name in SOURCES if "/" not in name and name.endswith(".py")]


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield (last part of the called name, call)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield getattr(node.func, "attr", getattr(node.func, "id", "")), node


def called(tree: ast.AST) -> set[str]:
    return {name for name, _ in calls(tree)}


def imported_from(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of every `from module import name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.module or "", alias.name


def texts(tree: ast.Module) -> Iterator[str]:
    """Yield all strings that are not docstrings."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


# --- one definition of classes and leads ----------------------------------------------------------------------------


def may_know_superclasses(name: str) -> bool:
    """The synthetic data set has a scp_statements.csv, which assigns statements to superclasses."""
    return name == "ecg/tasks.py" or name.startswith("ecg/synthetic")


def test_trap_1_order_of_classes_and_leads_is_typed_once():
    found = {}
    for name, tree in SOURCES.items():
        classes = [] if may_know_superclasses(name) else typed_orders(tree, SUPERCLASSES)
        leads = [] if name == "ecg/leads.py" else typed_orders(tree, LEADS)
        found[name] = classes + leads
    assert {name: typed for name, typed in found.items() if typed} == {}


def test_trap_1_no_module_but_the_tasks_knows_a_superclass_by_name():
    known = set(SUPERCLASSES) - {"NORM"}  # which is also a statement
    found = {name: known & set(texts(tree)) for name, tree in SOURCES.items() if not may_know_superclasses(name)}
    assert {name: names for name, names in found.items() if names} == {}


def test_trap_1_only_stored_runs_of_older_code_need_the_superclasses():
    users = [name for name, tree in SOURCES.items() if ("ecg.tasks", "SUPERCLASSES") in imported_from(tree)]
    assert set(users) <= {"ecg/runs.py"}


def typed_orders(tree: ast.Module, ordered: Iterable[str]) -> list[str]:
    """Return the lists, tuples, sets, keys and texts that hold all of `ordered`."""
    wanted = set(ordered)
    groups = [ast.unparse(node) for node in ast.walk(tree) if wanted <= _constants(node)]
    return groups + [text for text in texts(tree) if wanted <= set(re.findall(r"\w+", text))]


def _constants(node: ast.AST) -> set[object]:
    items = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", ())  # of lists, tuples and sets
    return {item.value for item in items if isinstance(item, ast.Constant)}


@pytest.mark.parametrize("brackets", ["[{}]", "({})", "{{{}}}", "dict({{{}: 0}})", "f('{}')"])
def test_trap_1_check_finds_an_order_however_it_is_typed(brackets):
    words = ", ".join(SUPERCLASSES) if "'" in brackets else ", ".join(map(repr, SUPERCLASSES))
    text = brackets.format(words.replace(", ", ": 0, ") if ": 0" in brackets else words)
    assert len(typed_orders(ast.parse(f"x = {text}"), SUPERCLASSES)) == 1


# --- who may do what ------------------------------------------------------------------------------------------------


def test_trap_8_records_are_read_and_filtered_in_one_stage():
    """The notebook looks at raw records too, predict.py reads those of its user, benchmarks time both."""
    may_read = {"ecg/preprocessing.py", "ecg/recordings.py", "01_eda.ipynb"}
    reading = {"read_record", "rdrecord", "rdsamp", "fromfile", "frombuffer", "preprocess"}
    found = {}
    for name, tree in SOURCES.items():
        if name not in may_read and not name.startswith(("ecg/formats/", "ecg/datasets/", "benchmarks/")):
            found[name] = called(tree) & reading
    assert {name: used for name, used in found.items() if used} == {}


def test_a_number_on_a_file_means_run_me_and_nothing_importable_carries_one():
    assert [name for name in MODULES if re.search(r"(^|/)\d", name)] == []
    top = {name for name in SOURCES if "/" not in name and not re.match(r"\d\d_\w+\.(py|ipynb)$", name)}
    assert top <= TOP_LEVEL


def test_nothing_is_imported_by_a_name_made_at_run_time_but_networks():
    loaders = {"import_module", "__import__", "run_path", "spec_from_file_location", "resolve_name"}
    found = {name: called(tree) & loaders for name, tree in SOURCES.items() if name != "ecg/models/__init__.py"}
    assert {name: used for name, used in found.items() if used} == {}


def test_top_level_knows_the_layers_below_and_not_the_other_way_round():
    above = {name.removesuffix(".py") for name in TOP_LEVEL} | {"benchmarks", "tests", "conftest"}
    found = {}
    for name in MODULES:
        found[name] = [module for module, _ in imported_from(SOURCES[name]) if module.split(".")[0] in above]
    assert {name: modules for name, modules in found.items() if modules} == {}


def test_no_error_and_no_warning_is_swallowed():
    muting = {"filterwarnings", "simplefilter", "catch_warnings", "parse_known_args"}
    found = [f"{name}: {used}" for name, tree in SOURCES.items() for used in called(tree) & muting]
    for name, tree in SOURCES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            silent = all(isinstance(statement, ast.Pass) for statement in node.body)
            if node.type is None or (broad and silent):
                found.append(f"{name}:{node.lineno}")
    assert found == []


# --- at import ------------------------------------------------------------------------------------------------------


WATCH = """
import dataclasses, importlib, json, random, runpy, sys
from pathlib import Path
import numpy, torch

root, modules, scripts = json.loads(sys.argv[1])

def state():
    rng = random.getstate(), numpy.random.get_state()[1].tobytes(), numpy.random.get_state()[2]
    return *rng, torch.random.get_rng_state().numpy().tobytes(), torch.get_num_threads()

def files():
    folders = [Path(root), Path(root, "PTB-XL"), Path(root, "artifacts"), Path.cwd()]
    return sorted(str(path) for folder in folders if folder.exists() for path in folder.iterdir())

state_before, files_before = state(), files()
for name in modules:
    importlib.import_module(name)
    assert state() == state_before, name + " touches a global random state"
assert files() == files_before, set(files()) ^ set(files_before)
for script in scripts:
    fields = dataclasses.fields(runpy.run_path(script)["Settings"])
    print(json.dumps({field.name: str(field.default) for field in fields if isinstance(field.default, Path)}))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess:
    """A process in another folder that imports everything, watches what changes, and prints the scripts' folders."""
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in MODULES]
    question = json.dumps([str(ROOT), modules, [str(CODES / name) for name in SCRIPTS]])
    return subprocess.run(
        [sys.executable, "-c", WATCH, question],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env=os.environ | {"PYTHONPATH": str(CODES)},
        capture_output=True,
        text=True,
    )


def test_nothing_happens_at_import(imported):
    """No print, no folder, no seed, no change of a global random state."""
    assert (imported.returncode, imported.stderr) == (0, "")
    assert len(imported.stdout.splitlines()) == len(SCRIPTS)


def test_trap_9_no_generator_and_no_seed_at_module_level():
    """A notebook is a script; what counts there is that it is not global."""
    found = {name: generators(tree) for name, tree in SOURCES.items() if not name.endswith(".ipynb")}
    assert {name: made for name, made in found.items() if made} == {}


def generators(tree: ast.Module) -> list[str]:
    banned = {"default_rng", "RandomState", "seed", "manual_seed", "seed_everything", "Generator"}
    made = (node for node in at_import(tree) if isinstance(node, ast.Call))
    return [ast.unparse(call) for call in made if ast.unparse(call.func).rsplit(".", 1)[-1] in banned]


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield what runs when a module is imported: everything outside functions and `if __name__ == "__main__"`.

    Of functions, what stands in their head runs too: defaults and decorators.
    """
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            pending += [*node.args.defaults, *filter(None, node.args.kw_defaults)]
            pending += getattr(node, "decorator_list", [])
            continue
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            continue
        yield node
        pending += ast.iter_child_nodes(node)


@pytest.mark.parametrize(
    "code",
    [
        "RNG = np.random.default_rng(0)",
        "def f(x, rng=np.random.default_rng(0)): pass",
        "def f(*, rng=torch.Generator()): pass",
        "class A:\n    def f(self, rng=RandomState(1)): pass",
        "f = lambda x, rng=default_rng(0): x",
        "class A:\n    rng: object = default_rng(0)",
    ],
)
def test_trap_9_check_finds_a_generator_that_all_calls_share(code):
    assert len(generators(ast.parse(code))) == 1
    assert generators(ast.parse("def f(x):\n    rng = np.random.default_rng(0)")) == []


# --- code run from data ---------------------------------------------------------------------------------------------

LOADERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


def test_trap_10_no_code_is_run_from_data():
    found = {name: list(runs_code(tree)) for name, tree in SOURCES.items()}
    assert {name: what for name, what in found.items() if what} == {}


def runs_code(tree: ast.Module) -> Iterator[str]:
    """Yield what could run code that stands in data.

    `network.eval()` without arguments is the mode of a network, and `except pickle.UnpicklingError` loads nothing.
    """
    modes = {id(call.func) for _, call in calls(tree) if not call.args and not call.keywords}
    checks = {
        ast.Name: _runs_by_name,
        ast.Attribute: lambda node: _runs_by_attribute(node, is_mode=id(node) in modes),
        ast.Import: _runs_by_import,
        ast.ImportFrom: _runs_by_import_from,
        ast.Call: _runs_by_call,
    }
    for node in ast.walk(tree):
        if type(node) in checks and checks[type(node)](node):
            yield ast.unparse(node)


def _runs_by_name(node: ast.Name) -> bool:
    return node.id in ("eval", "exec", "read_pickle")


def _runs_by_attribute(node: ast.Attribute, *, is_mode: bool) -> bool:
    of_loader = isinstance(node.value, ast.Name) and node.value.id in LOADERS
    if of_loader and node.attr != "UnpicklingError":
        return True
    return node.attr == "read_pickle" or (node.attr in ("eval", "exec") and not is_mode)


def _runs_by_import(node: ast.Import) -> bool:
    loaders = [alias for alias in node.names if alias.name.split(".")[0] in LOADERS]
    return any(alias.asname or alias.name != "pickle" for alias in loaders)


def _runs_by_import_from(node: ast.ImportFrom) -> bool:
    names, module = {alias.name for alias in node.names}, (node.module or "").split(".")[0]
    if module in LOADERS:
        return names != {"UnpicklingError"}
    return module in ("torch", "numpy") and "load" in names


def _runs_by_call(node: ast.Call) -> bool:
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    unsaid = "False" if ast.unparse(node.func) == "torch.load" else "True"
    return keywords.get("weights_only", unsaid) != "True" or keywords.get("allow_pickle", "False") != "False"


@pytest.mark.parametrize(
    "code",
    [
        "eval(text)",
        "table.map(eval)",
        "pd.eval(text)",
        "table.eval('a + b')",
        "builtins.exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "from torch import load",
        "import joblib",
        "joblib.load(path)",
        "from joblib import load",
        "from pickle import load",
        "import pickle as p",
        "pickle.load(file)",
        "pd.read_pickle(path)",
        "np.load(path, allow_pickle=True)",
        "from pandas import read_pickle\nread_pickle(path)",
    ],
)
def test_trap_10_check_finds_what_runs_code(code):
    assert list(runs_code(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import UnpicklingError",
        "network.eval()",
        "network.body.eval().to(device)",
        "np.load(path)",
        "json.load(file)",
        "skops.io.load(path, trusted=[])",
        "torch.load(path, weights_only=True)",
        "try:\n    torch.load(path, weights_only=True)\nexcept (OSError, pickle.UnpicklingError):\n    raise",
    ],
)
def test_trap_10_check_lets_pass_what_runs_none(code):
    assert list(runs_code(ast.parse(code))) == []


# --- folders --------------------------------------------------------------------------------------------------------


def test_trap_11_default_folders_do_not_depend_on_the_working_folder(imported):
    """Read off each script's `Settings`, as they are in a process that was started elsewhere."""
    for name, line in zip(SCRIPTS, imported.stdout.splitlines(), strict=True):
        folders = json.loads(line)
        if re.match(r"\d\d_", name):
            assert {"data", "artifacts"} <= set(folders), name
        assert all(Path(folder).is_relative_to(ROOT) for folder in folders.values()), (name, folders)


def test_trap_11_working_folder_is_nobodys_root():
    """A notebook has no __file__; Jupyter starts it in its own folder."""
    used = {name: called(tree) & {"getcwd", "cwd", "chdir"} for name, tree in SOURCES.items()}
    assert {name: calls for name, calls in used.items() if calls and not name.endswith(".ipynb")} == {}


# --- requirements and the repository --------------------------------------------------------------------------------


def requirements() -> dict[str, str]:
    """Return {package: version specifier} of requirements.txt."""
    required = {}
    for line in (ROOT / "requirements.txt").read_bytes().decode("utf-8").splitlines():
        line = line.split("#")[0].strip()
        if line and not line.startswith("-"):
            match = re.match(r"([\w.-]+)(?:\[[\w,]+\])?\s*(.*)", line)
            required[match[1].lower().replace("_", "-")] = match[2]
    return required


def imported_packages() -> set[str]:
    """Return what the project and its tests import from elsewhere, the standard library aside."""
    ours = {path.stem for folder in (CODES, CODES / "tests") for path in folder.glob("*.py")} | {"ecg", "benchmarks"}
    imported = set()
    for tree in [*SOURCES.values(), *(ast.parse(p.read_text(encoding="utf-8")) for p in CODES.glob("tests/*.py"))]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    return imported - ours - set(sys.stdlib_module_names)


def test_trap_12_requirements_are_the_direct_dependencies_in_utf8():
    required, imported = requirements(), imported_packages()
    assert len(required) < 30, "a freeze of somebody's laptop"
    assert [package for package in NUMERICS if not re.match(r"(==|~=)\s*\d", required[package])] == [], "not pinned"
    distributions = importlib.metadata.packages_distributions()
    used = {}
    for module in imported:
        used[module] = {name.lower().replace("_", "-") for name in distributions.get(module, [module])}
        if module in COMES_WITH:
            used[module] = {COMES_WITH[module]}
    missing = sorted(module for module, packages in used.items() if not packages & {*required, *EXTRAS})
    assert missing == [], "imported, but not in requirements.txt"
    unused = set(required) - set().union(*used.values()) - RUN_NOT_IMPORTED
    assert sorted(unused) == [], "in requirements.txt, but never imported"


def git(*words: str) -> list[str]:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode > 1 or not (ROOT / ".git").exists():
        pytest.skip("not a git repository")
    return done.stdout.splitlines()


def test_no_records_and_no_tables_of_them_are_in_the_repository():
    files = git("ls-files", "--cached", "--others", "--exclude-standard")
    data = re.compile(r"\.(dat|hea|zip|gz)$|(^|/)(ptbxl_\w+|scp_statements|planted_signs|records)\.csv$|signals\.npy$")
    assert [name for name in files if data.search(name)] == []
    assert [name for name in files if name.startswith("PTB-XL/")] in ([], ["PTB-XL/README.md"])


def test_gitignore_keeps_records_caches_and_checkpoints_out():
    out = [
        "PTB-XL/records100/00000/00001_lr.dat",
        "PTB-XL/ptbxl_database.csv",
        "PTB-XL/demo/scp_statements.csv",
        "artifacts/ptbxl_train.csv",
        "artifacts/ptbxl_statements.csv",
        "artifacts/signals/signals.npy",
        "artifacts/resnet_standard/last.pt",
        "artifacts/demo/README.md",
        "artifacts/logs/05_train_resnet1d.log",
        "artifacts/.run_all.json",
    ]
    assert git("check-ignore", *out) == out
    kept = ["PTB-XL/README.md", "artifacts/resnet_standard/best.pt", "artifacts/final_results/metrics.csv"]
    assert git("check-ignore", *kept) == []
