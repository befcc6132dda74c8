"""Which code a result depends on: found definition by definition, in small packages and in a copy of this one."""

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import CODES

from ecg.artifacts import UserError
from ecg.code_digest import digest, reachable
from ecg.plan import read_source
from ecg.stages import STAGES, code_of, network_classes, training_code


def package(folder: Path, **files: str) -> Path:
    """Write a package `p`; `b_c="..."` is the module p.b.c, `init` and `b_init` the packages themselves."""
    for name, text in files.items():
        path = folder.joinpath("p", *name.split("_")).with_suffix(".py")
        path = path.with_name("__init__.py") if path.stem == "init" else path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    return folder


def found(codes: Path, *roots: str, without: tuple[str, ...] = ()) -> set[str]:
    return set(reachable(roots, without=without, codes=codes))


# in small packages


def test_names_are_followed_to_functions_classes_and_constants(tmp_path):
    a = """
        from p.b import helper
        N = 3
        UNUSED = 4
        def root():
            return helper(N)
        def other():
            return UNUSED
        """
    b = "class Base: pass\nclass Kind(Base): pass\ndef helper(x): return Kind()\ndef unused(): pass\n"
    codes = package(tmp_path, a=a, b=b)
    assert found(codes, "p.a:root") == {"p.a:root", "p.a:N", "p.b:helper", "p.b:Kind", "p.b:Base"}


@pytest.mark.parametrize(
    ("imports", "use"),
    [
        ("from p import b", "b.used()"),
        ("import p.b", "p.b.used()"),
        ("import p.b as c", "c.used()"),
        ("from p.b import used as other", "other()"),
        ("from .b import used", "used()"),
        ("from . import b", "b.used()"),
    ],
)
def test_every_kind_of_import_leads_to_the_one_function_that_is_used(tmp_path, imports, use):
    codes = package(tmp_path, init="", a=f"{imports}\ndef root():\n    return {use}\n", b="def used(): pass\nX = 1\n")
    assert found(codes, "p.a:root") == {"p.a:root", "p.b:used"}
    inside = f"def root():\n    {imports}\n    return {use}\n"
    assert found(package(tmp_path, a=inside), "p.a:root") == {"p.a:root", "p.b:used"}


def test_names_that_a_package_passes_on_are_found_where_they_are_defined(tmp_path):
    codes = package(
        tmp_path,
        init="",
        q_init="from p.q.c import f",
        q_c="def f(): pass\ndef g(): pass\n",
        a="from p import q\ndef root():\n    return q.f()\n",
    )
    assert found(codes, "p.a:root") == {"p.a:root", "p.q.c:f"}


def test_module_that_is_given_away_counts_whole(tmp_path):
    codes = package(tmp_path, init="", a="from p import b\ndef root():\n    return dir(b)\n", b="X = 1\nY = 2\n")
    assert found(codes, "p.a:root") == {"p.a:root", "p.b:X", "p.b:Y"}


def test_annotation_leads_to_the_class_but_is_no_part_of_the_function(tmp_path):
    codes = package(tmp_path, a="class K:\n    def m(self): return 1\ndef root(x: K):\n    return x.m()\n")
    before = reachable(["p.a:root"], codes=codes)
    assert set(before) == {"p.a:root", "p.a:K"}
    package(tmp_path, a="class K:\n    def m(self): return 1\ndef root(x: 'K | None') -> int:\n    return x.m()\n")
    assert reachable(["p.a:root"], codes=codes)["p.a:root"] == before["p.a:root"]


def test_what_runs_at_import_counts_also_of_modules_that_are_only_imported(tmp_path):
    codes = package(
        tmp_path,
        a="import p.b\nfrom p.c import f\ndef root(): return f()\n",
        b="import p.d\n",
        c="TABLE = {}\nTABLE['x'] = 1\ndef f(): return TABLE\n",
        d="import torch\ntorch.set_num_threads(1)\n",
    )
    assert found(codes, "p.a:root") == {"p.a:root", "p.c:f", "p.c:TABLE", "p.c:", "p.d:"}


def test_what_is_left_out_is_not_followed(tmp_path):
    codes = package(
        tmp_path,
        init="",
        q_init="",
        q_c="def f(): return N\nN = 1\n",
        a="from p.q.c import f\nM = 2\ndef root(): return f(M)\n",
    )
    assert found(codes, "p.a:root", without=("p.q",)) == {"p.a:root", "p.a:M"}
    assert found(codes, "p.a:root", without=("p.q.c:N", "p.a:M")) == {"p.a:root", "p.q.c:f"}


def test_all_of_a_script_counts(tmp_path):
    codes = package(tmp_path, a="def f(): return 1\ndef g(): return 2\n")
    script = tmp_path / "05_x.py", "from p.a import f\nN = 1\nif __name__ == '__main__':\n    f()\n"
    before = reachable([], codes=codes, script=script)
    assert set(before) == {"05_x.py:", "p.a:f"}
    assert before != reachable([], codes=codes, script=(script[0], script[1].replace("N = 1", "N = 2")))
    assert before == reachable([], codes=codes, script=(script[0], '"""Doc."""\n' + script[1]))


def test_words_of_messages_do_not_count_but_what_they_compute_does(tmp_path):
    text = """
        def root(n, world, file):
            print(f"{n} records", file=file)
            print(f"{n} records")
            world.say("epoch", n)
            raise UserError(f"{n + 1} is too much")
        """
    before = reachable(["p.a:root"], codes=package(tmp_path, a=text))
    reworded = text.replace('print(f"{n} records")', 'print(f"There are {n} of them")').replace("epoch", "round")
    reworded = reworded.replace("is too much", "must be less")
    assert reachable(["p.a:root"], codes=package(tmp_path, a=reworded)) == before
    for old, new in (("n + 1", "n + 2"), ('records", file=file', 'lines", file=file')):
        assert reachable(["p.a:root"], codes=package(tmp_path, a=text.replace(old, new))) != before


def test_settings_count_with_their_defaults_but_without_their_help(tmp_path):
    text = 'class Settings:\n    lr: float = 0.01\n    """Learning rate."""\ndef root(): return Settings()\n'
    before = digest(reachable(["p.a:root"], codes=package(tmp_path, a=text)))
    assert digest(reachable(["p.a:root"], codes=package(tmp_path, a=text.replace("Learning", "A")))) == before
    assert digest(reachable(["p.a:root"], codes=package(tmp_path, a=text.replace("0.01", "0.02")))) != before


def test_syntax_error_names_file_and_line(tmp_path):
    with pytest.raises(UserError, match=r"a\.py, line 2: "):
        reachable(["p.a:root"], codes=package(tmp_path, a="\ndef root(:\n"))


# in a copy of this package

TRAININGS = [stage.number for stage in STAGES if stage.network]
FIGURES = ["01", "11", "12", "13", "14"]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    codes = tmp_path_factory.mktemp("copy") / "codes"
    shutil.copytree(CODES, codes, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    return codes


@pytest.fixture
def copy(copied: Path) -> Iterator[Path]:
    """A copy of the package that a test may edit: all its files are afterwards what they were."""
    texts = {path: path.read_text(encoding="utf-8") for path in copied.rglob("*.py")}
    yield copied
    for path in list(copied.rglob("*.py")):
        if path in texts:
            path.write_text(texts[path], encoding="utf-8")
        else:
            path.unlink()


def stage_codes(codes: Path) -> dict[str, dict[str, str]]:
    """Return {number: code} of all stages, 13 explaining a ResNet1D, and {"weights of 05": code} of the trainings."""
    found = {}
    for stage in STAGES:
        model = stage.network.model if stage.network else "resnet1d" if stage.number == "13" else ""
        found[stage.number] = code_of(stage, read_source(codes, stage), {}, model=model, codes=codes)
        if stage.network:
            weights = training_code(stage.network.model, stage.network.augment, codes=codes)
            found[f"weights of {stage.number}"] = weights
    return found


def changed(codes: Path, before: dict[str, dict[str, str]]) -> list[str]:
    return [name for name, code in stage_codes(codes).items() if code != before[name]]


class Documented(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.body.insert(0, ast.Expr(ast.Constant("Another docstring.")))
        return node


class OtherNumbers(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant(node.value + 1) if isinstance(node.value, int | float) else node


def rewrite(path: Path, transformer: ast.NodeTransformer) -> None:
    tree = transformer.visit(ast.parse(path.read_text(encoding="utf-8")))
    path.write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")


def test_comments_docstrings_and_layout_change_nothing(copy):
    before = stage_codes(copy)
    for path in sorted(copy.rglob("*.py")):
        path.write_text("\n# a comment\n\n" + path.read_text(encoding="utf-8") + "\n# a comment\n", encoding="utf-8")
    assert changed(copy, before) == []
    for path in sorted(copy.rglob("*.py")):
        rewrite(path, Documented())  # which takes out every comment and writes every line anew
    assert changed(copy, before) == []


def weights(numbers: list[str]) -> list[str]:
    return [f"weights of {number}" for number in numbers]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("ecg/augmentation.py", ["06", "08", "10", *weights(["06", "08", "10"])]),
        ("ecg/plots/*.py", FIGURES),
        ("ecg/models/inception.py", ["07", "08", *weights(["07", "08"])]),
        ("ecg/distributed.py", [*TRAININGS, *weights(TRAININGS)]),
        ("ecg/trainer.py", [*TRAININGS, *weights(TRAININGS)]),
        ("ecg/lr_finder.py", TRAININGS),
        ("ecg/models/resnet1d.py", ["05", "06", "13", *weights(["05", "06"])]),
        ("ecg/custom_transformers.py", ["01", "03", "04"]),
        ("ecg/report*.py", ["14"]),
        ("ecg/hardware.py", []),
        ("ecg/command_line.py", []),
        ("ecg/execution.py", []),
        ("run_all.py", []),
        ("predict.py", []),
    ],
)
def test_changed_numbers_concern_those_whose_result_they_can_change(copy, files, expected):
    before = stage_codes(copy)
    for path in copy.glob(files):
        rewrite(path, OtherNumbers())
    assert sorted(changed(copy, before)) == sorted(expected)


def test_new_network_concerns_no_other(copy):
    before = stage_codes(copy)
    path = copy / "ecg" / "models" / "__init__.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("MODELS = {", 'MODELS = {\n    "mine": "ecg.models.mine:Mine",'), encoding="utf-8")
    (copy / "ecg" / "models" / "mine.py").write_text("class Mine: pass\n", encoding="utf-8")
    assert changed(copy, before) == []
    assert "ecg.models.mine:Mine" in training_code("mine", False, codes=copy)


def test_new_flag_of_the_trainings_keeps_their_checkpoints(copy):
    before = stage_codes(copy)
    path = copy / "ecg" / "training.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("    epochs: int =", "    mine: int = 0\n    epochs: int ="), encoding="utf-8")
    assert changed(copy, before) == TRAININGS


def test_networks_are_found_without_importing_them():
    from ecg.models import MODELS

    assert network_classes() == MODELS
    with pytest.raises(UserError, match="--model 'resnet' is not known: use one of"):
        training_code("resnet", False)
