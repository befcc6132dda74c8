"""The benchmark that puts mistakes into the code: what it changes, and that it tells a test that notices from one that
does not."""

import ast
import random
from pathlib import Path

import pandas as pd
import pytest
from conftest import CODES

from benchmarks import mutations
from benchmarks.mutations import Bench, Mutation, draw_mutations, find_suites, named_mutations, possible_mutations
from ecg.artifacts import UserError


def changes(source: str) -> set[tuple[str, str]]:
    return {(mutation.before, mutation.after) for mutation in possible_mutations("file.py", source)}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = a < b", {("a < b", "(a <= b)")}),
        ("x = a is None", {("a is None", "(a is not None)")}),
        ("x = a + b", {("a + b", "(a - b)")}),
        ("x = c * (a / b)", {("c * (a / b)", "(c / (a / b))"), ("a / b", "(a * b)")}),
        ("x = a and b", {("a and b", "(a or b)")}),
        ("x = not a", {("not a", "(a)")}),
        ("x = 3", {("3", "4")}),
        ("x = 0.5", {("0.5", "1.0")}),
        ("x += y", {("x += y", "x -= y")}),
        ("x = (a &\n     b)", {("a & b", "(a | b)")}),
    ],
)
def test_operators_and_numbers_are_changed(code, expected):
    assert changes(code) == expected


@pytest.mark.parametrize(
    "code",
    [
        '"""There are 3 < 4 things."""',
        "def f(x: Literal[1, 2]) -> Literal[3]: pass",
        "x: Literal[1, 2]",
        "raise ValueError(1 + 2)",
        "x = f'{a + 1} of {b}'",
        "print(a + 1)",
        "world.say(a + 1)",
        "path = folder / 'name'",
        "text = 'a' + b",
        "x = True",
        "CHUNK = 64",
    ],
)
def test_messages_docstrings_type_hints_and_paths_are_left_alone(code):
    assert changes(code) == set()


def test_a_change_concerns_one_place_and_keeps_the_rest_of_the_file():
    source = "# é\nx = a * (b + 2)  # why\ny = b + 2\n"
    changed = {mutation.source for mutation in possible_mutations("file.py", source) if mutation.before == "b + 2"}
    assert changed == {"# é\nx = a * ((b - 2))  # why\ny = b + 2\n", "# é\nx = a * (b + 2)  # why\ny = (b - 2)\n"}


@pytest.mark.parametrize("file", mutations.DRAWN_FROM)
def test_every_change_is_another_program(file):
    source = (CODES / file).read_text(encoding="utf-8")
    possible = possible_mutations(file, source)
    assert len(possible) > 5
    for mutation in random.Random(0).sample(possible, 5):
        assert ast.dump(ast.parse(mutation.source)) != ast.dump(ast.parse(source))
        assert 1 <= mutation.line <= source.count("\n")


def test_the_named_mistakes_can_be_made_in_the_code_as_it_is():
    found = named_mutations(CODES)
    assert len(found) == len(mutations.NAMED) == 5
    for mutation in found:
        original = (CODES / mutation.file).read_text(encoding="utf-8")
        assert mutation.before in original.splitlines()[mutation.line - 1]
        assert ast.dump(ast.parse(mutation.source)) != ast.dump(ast.parse(original))


def test_the_same_seed_draws_the_same_mistakes():
    modules = ("ecg/tasks.py", "ecg/labels.py")
    first, again, other = (draw_mutations(CODES, modules, seed=seed, count=25) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == 25 == len({(mutation.file, mutation.source) for mutation in first})
    assert {mutation.file for mutation in first} == set(modules)


@pytest.mark.parametrize(
    ("file", "first"),
    [("ecg/metrics.py", "test_metrics.py"), ("ecg/trainer.py", "test_trainer.py"), ("ecg/tasks.py", "test_tasks.py")],
)
def test_the_tests_of_a_module_come_first_and_those_with_processes_last(file, first):
    suites = find_suites(CODES)
    found = mutations.suites_reaching(file, suites, CODES)
    assert found[0].name == first and len(found) == len(set(found))
    processes = [suite.starts_processes for path in found[1:] for suite in suites if suite.path == path]
    assert processes == sorted(processes) and processes[-1]


def test_a_module_is_reached_through_other_modules_fixtures_and_names_in_texts():
    suites = {suite.path.name: suite for suite in find_suites(CODES)}

    def steps(test: str, file: str) -> int | None:
        return mutations.distance(suites[test].modules, file, CODES)

    assert steps("test_metrics.py", "ecg/metrics.py") == 1
    assert steps("test_standardisation.py", "ecg/preprocessing.py") is not None  # by the fixture `prepared`
    assert steps("test_standardisation.py", "ecg/models/xresnet1d.py") is not None  # by its name in MODELS
    assert steps("test_xresnet1d.py", "ecg/stats.py") is None


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one module, with a test that notices, one that does not, and one that always fails."""
    root = tmp_path / "small"
    files = {
        "codes/ecg/__init__.py": "",
        "codes/ecg/numbers.py": "def double(x):\n    return 2 * x\n\n\ndef loop(x):\n    return x\n",
        "codes/tests/conftest.py": "",
        "codes/tests/test_always.py": "import ecg.numbers\n\n\ndef test_fails():\n    assert not ecg.numbers\n",
        "codes/tests/test_numbers.py": (
            "from ecg.numbers import double\n\n\ndef test_zero():\n    assert double(0) == 0\n\n\n"
            "def test_double():\n    assert double(2) == 4\n"
        ),
        "codes/tests/test_other.py": "def test_other():\n    assert False\n",
        "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["codes"]\nmarkers = ["slow"]\n',
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def mistake(project: Path, before: str, after: str) -> Mutation:
    source = (project / "codes" / "ecg" / "numbers.py").read_text(encoding="utf-8")
    assert before in source
    return Mutation("drawn", "ecg/numbers.py", 2, before, after, source.replace(before, after))


def test_a_mistake_is_noticed_by_the_first_test_that_fails_because_of_it_alone(project, tmp_path):
    bench = Bench(project, tmp_path / "copies", jobs=1, limit=60)
    noticed = bench.try_out(mistake(project, "2 * x", "3 * x"))
    assert noticed.noticed_by == "codes/tests/test_numbers.py::test_double"
    missed = bench.try_out(mistake(project, "2 * x", "x * 2"))
    assert missed.noticed_by == "" and not missed.stopped
    assert bench.failing == {"codes/tests/test_always.py::test_fails"}
    assert "2 * x" in (project / "codes" / "ecg" / "numbers.py").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_test_file_that_cannot_be_imported_is_left_out(project, tmp_path):
    (project / "codes" / "tests" / "test_always.py").write_text("import ecg.numbers, ecg.nothing\n", encoding="utf-8")
    bench = Bench(project, tmp_path / "copies", jobs=1, limit=60)
    assert bench.try_out(mistake(project, "2 * x", "3 * x")).noticed_by.endswith("::test_double")
    assert bench.failing == {"codes/tests/test_always.py"}


def test_tests_that_do_not_end_are_stopped_and_have_noticed_nothing(project, tmp_path):
    bench = Bench(project, tmp_path / "copies", jobs=1, limit=3)
    outcome = bench.try_out(mistake(project, "    return 2 * x", "    while True:\n        pass"))
    assert outcome.stopped and outcome.noticed_by == ""


def test_a_named_mistake_that_the_code_has_moved_on_from_is_said(project):
    (project / "codes" / "ecg" / "trainer.py").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"ecg/trainer\.py.*NAMED"):
        named_mutations(project / "codes")


@pytest.mark.parametrize(
    ("kinds", "noticed", "code"),
    [
        (["named", "drawn", "drawn"], ["a", "b", "c"], 0),
        (["named", "drawn", "drawn"], ["", "b", "c"], 1),
        (["named", "drawn", "drawn"], ["a", "", "c"], 1),
        (["named"] + ["drawn"] * 25, ["a"] * 23 + [""] * 3, 0),
        (["named"] + ["drawn"] * 25, ["a"] * 22 + [""] * 4, 1),
    ],
)
def test_the_exit_code_says_whether_enough_was_noticed(capsys, kinds, noticed, code):
    table = pd.DataFrame({"kind": kinds, "file": "f.py", "line": 7, "before": "a", "after": "b", "noticed_by": noticed})
    assert mutations.conclude(table, set()) == code
    assert ("f.py:7: a -> b" in capsys.readouterr().out) == ("" in noticed)
