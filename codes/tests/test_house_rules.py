"""The rules of the house that can be read off the source, each by name."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CODES, ROOT

from ecg.labels import CLASSES, LEADS

NUMERICS = ("numpy", "scipy", "pandas", "scikit-learn", "torch")
COMES_WITH = {"IPython": "jupyter", "nbformat": "nbclient"}  # are the larger package's own vocabulary
RUN_NOT_IMPORTED = {"jupyter", "ipykernel", "nbconvert", "nbclient", "pytest", "ruff"}  # called by name


# Traps that other ECG repositories fell into, and the test that keeps this one out of each.
TRAPS = {
    "1 class order typed in three places": "test_trap_1_order_of_classes_and_leads_is_typed_once",
    "2 a label that depends on set order": "test_labels_are_the_same_under_every_hash_seed",
    "3 McNemar that finds a model different from itself": "test_mcnemar_of_two_identical_models_gives_p_1",
    "4 micro average called ROC AUC": "test_macro_auc_is_the_macro_average_not_the_micro",
    "5 limits in standard deviations cut R waves": "test_limits_are_millivolts_and_spare_r_waves",
    "6 noise added after the derivative": "test_the_derivative_is_taken_after_augmentation",
    "7 pairs that differ in more than augmentation": "test_standard_and_augmented_differ_in_augmentation_alone",
    "8 every script reads and filters the records": "test_trap_8_records_are_read_and_filtered_in_one_stage",
    "9 one generator for all epochs": "test_augmentation_follows_its_generator_and_differs_between_epochs",
    "10 code run from data": "test_trap_10_no_code_is_run_from_data",
    "11 the working folder as root": "test_trap_11_working_folder_is_nobodys_root",
    "12 requirements as a freeze": "test_trap_12_requirements_are_the_direct_dependencies_in_utf8",
    "13 chosen on the test fold": "test_test_labels_cannot_change_the_training",
    "14 a 90 % interval called 95 %": "test_95_percent_interval_covers_the_truth_95_times_in_100",
    "15 saliency that ignores the weights": "test_saliency_changes_when_weights_are_randomised",
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Yield (path, tree) of everything that is ours, the notebook's code included; tests are not."""
    for path in sorted(CODES.rglob("*.py")):
        if "tests" not in path.relative_to(CODES).parts:
            yield path.relative_to(CODES).as_posix(), ast.parse(path.read_text(encoding="utf-8"))
    for path in CODES.glob("*.ipynb"):
        cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
        code = "\n".join("".join(cell["source"]) for cell in cells)
        yield path.name, ast.parse("\n".join(line for line in code.split("\n") if not line.startswith(("%", "!"))))


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield (last part of the called name, call)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func).rsplit(".", 1)[-1], node


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


def texts(tree: ast.Module) -> Iterator[str]:
    """Yield all strings that are not docstrings."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


SOURCES = dict(sources())
MODULES = [name for name in SOURCES if name.startswith("ecg/")]
each_source = pytest.mark.parametrize("name", SOURCES)


def test_every_trap_has_its_test():
    text = "".join(path.read_text(encoding="utf-8") for path in (CODES / "tests").glob("test_*.py"))
    assert [trap for trap, name in TRAPS.items() if f"def {name}(" not in text] == []
    assert [int(trap.split()[0]) for trap in TRAPS] == list(range(1, 16))


def test_trap_8_records_are_read_and_filtered_in_one_stage():
    """The notebook looks at raw records too, predict.py reads those of its user, benchmarks time both."""
    may_read = {"ecg/data.py", "ecg/recordings.py", "01_eda.ipynb"}
    for name, tree in sources():
        reads = {"read_record", "rdrecord", "rdsamp", "fromfile", "frombuffer", "preprocess"}
        used = {called for called, _ in calls(tree)} & reads
        assert not used or name in may_read or name.startswith("benchmarks/"), f"{name} calls {used}"


def test_nothing_importable_carries_a_number():
    assert [name for name in SOURCES if name.startswith("ecg/") and re.search(r"(^|/)\d", name)] == []
    top = [name for name in SOURCES if "/" not in name and not re.match(r"\d\d_\w+\.(py|ipynb)$", name)]
    assert sorted(top) == ["predict.py", "run_all.py"]
    for name, tree in SOURCES.items():
        loaders = {"import_module", "__import__", "run_path", "spec_from_file_location"}
        assert not loaders & {called for called, _ in calls(tree)}, f"{name} imports something by its file name"


def test_nothing_happens_at_import():
    """No print, no folder, no seed, no change of a global random state."""
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in MODULES]
    watch = f"""
import importlib, random, sys
from pathlib import Path
import numpy, torch
def state():
    rng = random.getstate(), numpy.random.get_state()[1].tobytes(), numpy.random.get_state()[2]
    return *rng, torch.random.get_rng_state().numpy().tobytes(), torch.get_num_threads()
def files():
    root = Path({str(ROOT)!r})
    folders = [root, Path.cwd(), *(root / name for name in ("PTB-XL", "artifacts"))]
    return sorted(str(p) for folder in folders if folder.exists() for p in folder.iterdir())
state_before, files_before = state(), files()
for name in {modules!r}:
    importlib.import_module(name)
    assert state() == state_before, name + " touches a global random state"
assert files() == files_before, set(files()) ^ set(files_before)
"""
    done = subprocess.run([sys.executable, "-c", watch], cwd=CODES, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@each_source
def test_trap_1_order_of_classes_and_leads_is_typed_once(name):
    if name == "ecg/labels.py":
        return
    assert typed_orders(SOURCES[name]) == []


def typed_orders(tree: ast.Module) -> list[str]:
    """Return the lists, tuples, sets, keys and texts that hold all classes or all leads."""
    groups = [(ast.unparse(node), _constants(node)) for node in ast.walk(tree)]
    groups += [(text, set(re.findall(r"\w+", text))) for text in texts(tree)]
    return [what for what, typed in groups for ordered in (CLASSES, LEADS) if set(ordered) <= typed]


def _constants(node: ast.AST) -> set[object]:
    items = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", ())  # of lists, tuples and sets
    return {item.value for item in items if isinstance(item, ast.Constant)}


@pytest.mark.parametrize("brackets", ["[{}]", "({})", "{{{}}}", "dict({{{}: 0}})", "f('{}')"])
def test_trap_1_check_finds_an_order_however_it_is_typed(brackets):
    words = ", ".join(CLASSES) if "'" in brackets else ", ".join(map(repr, CLASSES))
    text = brackets.format(words.replace(", ", ": 0, ") if ": 0" in brackets else words)
    assert len(typed_orders(ast.parse(f"x = {text}"))) == 1


@each_source
def test_trap_9_no_generator_and_no_seed_at_module_level(name):
    if not name.endswith(".ipynb"):  # a notebook is a script; what counts there is that it is not global
        assert generators(SOURCES[name]) == []


def generators(tree: ast.Module) -> list[str]:
    banned = {"default_rng", "RandomState", "seed", "manual_seed", "seed_everything", "Generator"}
    made = (node for node in at_import(tree) if isinstance(node, ast.Call))
    return [ast.unparse(call) for call in made if ast.unparse(call.func).rsplit(".", 1)[-1] in banned]


@pytest.mark.parametrize(
    "code",
    [
        *("RNG = np.random.default_rng(0)", "def f(x, rng=np.random.default_rng(0)): pass"),
        *("def f(*, rng=torch.Generator()): pass", "class A:\n    def f(self, rng=RandomState(1)): pass"),
        *("f = lambda x, rng=default_rng(0): x", "class A:\n    rng: object = default_rng(0)"),
    ],
)
def test_trap_9_check_finds_a_generator_that_all_calls_share(code):
    assert len(generators(ast.parse(code))) == 1
    assert generators(ast.parse("def f(x):\n    rng = np.random.default_rng(0)")) == []


@each_source
def test_trap_10_no_code_is_run_from_data(name):
    assert list(runs_code(SOURCES[name])) == []


LOADERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


def runs_code(tree: ast.Module) -> Iterator[str]:
    """Yield what could run code that stands in data.

    `network.eval()` without arguments is the mode of a network, and `except pickle.UnpicklingError` loads nothing.
    """
    modes = {id(call.func) for _, call in calls(tree) if not call.args and not call.keywords}
    for node in ast.walk(tree):
        where = ast.unparse(node)
        if isinstance(node, ast.Name):
            if node.id in ("eval", "exec", "read_pickle"):
                yield where
        elif isinstance(node, ast.Attribute):
            of_loader = isinstance(node.value, ast.Name) and node.value.id in LOADERS
            if of_loader and node.attr != "UnpicklingError":
                yield where
            if node.attr == "read_pickle":
                yield where
            if node.attr in ("eval", "exec") and id(node) not in modes:
                yield where
        elif isinstance(node, ast.Import):
            yield from (
                where for a in node.names if a.name.split(".")[0] in LOADERS and (a.asname or a.name != "pickle")
            )
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            module = (node.module or "").split(".")[0]
            if module in LOADERS and names != {"UnpicklingError"}:
                yield where
            if module in ("torch", "numpy") and "load" in names:
                yield where
        elif isinstance(node, ast.Call):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            unsaid = "False" if ast.unparse(node.func) == "torch.load" else "True"
            if keywords.get("weights_only", unsaid) != "True":
                yield where
            if keywords.get("allow_pickle", "False") != "False":
                yield where


@pytest.mark.parametrize(
    "code",
    [
        *("eval(text)", "table.map(eval)", "pd.eval(text)", "table.eval('a + b')", "builtins.exec(text)"),
        *("torch.load(path)", "torch.load(path, weights_only=False)", "torch.load(path, weights_only=flag)"),
        *("from torch import load", "import joblib", "joblib.load(path)", "from joblib import load"),
        *("from pickle import load", "import pickle as p", "pickle.load(file)", "pd.read_pickle(path)"),
        *("np.load(path, allow_pickle=True)", "from pandas import read_pickle\nread_pickle(path)"),
    ],
)
def test_trap_10_check_finds_what_runs_code(code):
    assert list(runs_code(ast.parse(code)))


def test_trap_10_check_lets_pass_what_runs_none():
    harmless = (
        "import pickle\nfrom pickle import UnpicklingError\nnetwork.eval()\nnetwork.body.eval().to(device)\n"
        "np.load(path)\njson.load(file)\nskops.io.load(path, trusted=[])\ntorch.load(path, weights_only=True)\n"
        "try:\n    torch.load(path, weights_only=True)\nexcept (OSError, pickle.UnpicklingError):\n    raise"
    )
    assert list(runs_code(ast.parse(harmless))) == []


def test_trap_11_default_folders_do_not_depend_on_the_working_folder(tmp_path):
    """Read off each script's `Settings`, as they are in a process that was started elsewhere."""
    scripts = [name for name in SOURCES if "/" not in name and name.endswith(".py")]
    ask = """
import dataclasses, json, runpy, sys
from pathlib import Path
for script in sys.argv[1:]:
    fields = dataclasses.fields(runpy.run_path(script)["Settings"])
    print(json.dumps({field.name: str(field.default) for field in fields if isinstance(field.default, Path)}))
"""
    command = [sys.executable, "-c", ask, *(str(CODES / name) for name in scripts)]
    environment = os.environ | {"PYTHONPATH": str(CODES)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, line in zip(scripts, done.stdout.splitlines(), strict=True):
        folders = json.loads(line)
        expected = {"predict.py": {"artifacts"}, "run_all.py": set()}.get(name, {"data", "artifacts"})
        assert expected <= set(folders), name
        assert all(Path(folder).is_relative_to(ROOT) for folder in folders.values()), (name, folders)


@each_source
def test_trap_11_working_folder_is_nobodys_root(name):
    if not name.endswith(".ipynb"):  # which has no __file__; Jupyter starts it in its own folder
        assert not {called for called, _ in calls(SOURCES[name])} & {"getcwd", "cwd", "chdir"}


def test_trap_12_requirements_are_the_direct_dependencies_in_utf8():
    lines = (ROOT / "requirements.txt").read_bytes().decode("utf-8").splitlines()
    lines = [line.split("#")[0].strip() for line in lines]
    required = {}
    for line in filter(None, lines):
        if not line.startswith("-"):
            match = re.match(r"([\w.-]+)(?:\[[\w,]+\])?\s*(.*)", line)
            required[match[1].lower().replace("_", "-")] = match[2]
    assert len(required) < 30, "a freeze of somebody's laptop"
    for package in NUMERICS:
        assert re.match(r"(==|~=)\s*\d", required[package]), f"{package} is not pinned"
    ours = {path.stem for path in CODES.glob("*.py")} | {"ecg", "benchmarks", "conftest"} | set(sys.stdlib_module_names)
    imported = set()
    for tree in [*SOURCES.values(), *(ast.parse(p.read_text(encoding="utf-8")) for p in CODES.glob("tests/*.py"))]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    distributions = importlib.metadata.packages_distributions()
    used = {m: {d.lower().replace("_", "-") for d in distributions.get(m, [m])} for m in imported - ours}
    used |= {module: {package} for module, package in COMES_WITH.items() if module in imported}
    missing = sorted(module for module, packages in used.items() if not packages & set(required))
    assert missing == [], "imported, but not in requirements.txt"
    unused = set(required) - set().union(*used.values()) - RUN_NOT_IMPORTED
    assert sorted(unused) == [], "in requirements.txt, but never imported"


@each_source
def test_no_error_and_no_warning_is_swallowed(name):
    for node in ast.walk(SOURCES[name]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{name}:{node.lineno}: bare except"
            broad = ast.unparse(node.type) in ("Exception", "BaseException")
            assert not (broad and all(isinstance(n, ast.Pass) for n in node.body)), f"{name}:{node.lineno}"
    muting = {"filterwarnings", "simplefilter", "catch_warnings", "parse_known_args"}
    assert not {called for called, _ in calls(SOURCES[name])} & muting


@each_source
def test_top_level_knows_the_layers_below_and_not_the_other_way_round(name):
    if name.startswith("ecg/"):
        modules = [n.module or "" for n in ast.walk(SOURCES[name]) if isinstance(n, ast.ImportFrom)]
        assert not [m for m in modules if m.split(".")[0] in ("predict", "run_all", "tests", "conftest")]


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
    out = ["PTB-XL/records100/00000/00001_lr.dat", "PTB-XL/ptbxl_database.csv", "PTB-XL/demo/scp_statements.csv"]
    out += ["artifacts/ptbxl_train.csv", "artifacts/signals/signals.npy", "artifacts/resnet_standard/last.pt"]
    out += ["artifacts/demo/README.md", "artifacts/logs/05_train_resnet1d.log", "artifacts/.run_all.json"]
    assert git("check-ignore", *out) == out
    kept = ["PTB-XL/README.md", "artifacts/resnet_standard/best.pt", "artifacts/final_results/metrics.csv"]
    assert git("check-ignore", *kept) == []


def test_top_level_is_as_the_layout_fixes_it():
    allowed = {"codes", "artifacts", "PTB-XL", "requirements.txt", "README.md", ".gitignore"}
    allowed |= {"LICENSE", "pyproject.toml", ".ci"}
    files = git("ls-files", "--cached", "--others", "--exclude-standard")
    assert {name.split("/")[0] for name in files} <= allowed
