"""The promises every script makes on the command line."""

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest
from conftest import CODES

from ecg.plan import find_flags

NUMBERED = sorted(path.name for path in CODES.glob("[0-9][0-9]_*.py"))
SCRIPTS = [*NUMBERED, "train.py", "predict.py", "run_all.py"]
NEEDS_INPUT = [name for name in [*NUMBERED, "train.py", "predict.py"] if not name.startswith("00")]

# All scripts in one process, because importing torch is most of what an answer costs. That each also runs as a
# process of its own, from another folder, is what the demo run shows.
ASK = """
import contextlib, io, json, os, runpy, sys
folder, questions = json.loads(sys.argv[1])
sys.path.insert(0, folder)
for script, words in questions:
    sys.argv = [os.path.join(folder, script), *words]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code
        except Exception as error:
            code = repr(error)
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@dataclass(frozen=True)
class Answer:
    """What a script said, and the exit code it left (or the exception that escaped it)."""

    code: int | str
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Answer]:
    """What each script says to --help, to an unknown flag and where there is nothing to read."""
    cwd, empty = tmp_path_factory.mktemp("anywhere"), tmp_path_factory.mktemp("empty")
    questions = {(name, "help"): ["--help"] for name in SCRIPTS}
    questions |= {(name, "unknown"): ["--no-such-flag", "1"] for name in SCRIPTS}
    folders = ["--data", str(empty / "data"), "--artifacts", str(empty / "artifacts")]
    questions |= {(name, "missing"): folders for name in NEEDS_INPUT}
    questions["predict.py", "missing"] = [str(empty / "record"), *folders[2:]]  # reads the recordings it is given
    asked = json.dumps([str(CODES), [(name, words) for (name, _), words in questions.items()]])
    environment = os.environ | {"COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", ASK, asked], capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {question: Answer(*line) for question, line in zip(questions, lines, strict=True)}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_has_a_meaning_for_each_flag(name, answers):
    answer = answers[name, "help"]
    text = answer.stdout
    assert answer.code == 0, answer
    first_line = ast.get_docstring(ast.parse((CODES / name).read_text(encoding="utf-8"))).splitlines()[0]
    assert first_line in text
    flags = find_flags(CODES / name, CODES)
    assert flags or name not in NUMBERED
    for flag, meaning in flags.items():
        assert f"--{flag.replace('_', '-')}" in text or "Positional" in meaning.type
        assert len(meaning.help) > 10, f"--{flag} of {name} has no help"
    for row in re.split(r"\n│ (?=-)", text)[
        1:
    ]:  # however a flag is declared: words behind its name, besides its default
        words = re.sub(r"\((default|required|optional|repeatable)[^)]*\)|--?[\w-]+|\{.*?\}|[A-Z|\[\]│╯╰─]", " ", row)
        assert re.search(r"[a-z]{3}", words), f"{name}: no meaning for {row}"


@pytest.mark.parametrize("name", NUMBERED)
def test_help_lists_the_files_that_a_stage_reads_and_writes(name, answers):
    text = " ".join(answers[name, "help"].stdout.split())
    assert re.search(r"Reads: (nothing|PTB-XL/|artifacts/).* Writes: (PTB-XL/|artifacts/).* Run: python codes/", text)


@pytest.mark.parametrize("name", SCRIPTS)
def test_unknown_flag_is_refused(name, answers):
    assert answers[name, "unknown"].code == 2
    assert "no-such-flag" in answers[name, "unknown"].stderr


@pytest.mark.parametrize("name", NEEDS_INPUT)
def test_missing_input_names_the_script_that_makes_it(name, answers):
    answer = answers[name, "missing"]
    assert answer.code == 2, answer
    assert len(answer.stderr.strip().splitlines()) == 1, answer.stderr
    if name == "predict.py":
        assert "record" in answer.stderr or re.search(r"codes/\d\d_\w+\.py", answer.stderr)
        return
    maker = re.search(r"codes/(\d\d_\w+\.py)", answer.stderr)
    assert maker, answer.stderr
    assert (CODES / maker[1]).exists()
    assert maker[1] < name


@pytest.mark.parametrize("name", NUMBERED)
def test_numbered_script_is_a_docstring_settings_and_one_call(name):
    text = (CODES / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    prose = ast.get_docstring(ast.parse(text))
    assert f"Run:    python codes/{name}" in prose
    assert {"data", "artifacts"} <= set(find_flags(CODES / name, CODES))
    main = [node for node in ast.parse(text).body if isinstance(node, ast.If)]
    assert len(main) == 1
    assert len(main[0].body) == 1
    assert ast.unparse(main[0].test) == "__name__ == '__main__'"


def test_pairs_of_training_scripts_differ_in_one_flag():
    """Trap 7: standard and augmented runs that also differ in something else."""
    for standard in ("05_train_resnet1d", "07_train_inception", "09_train_xresnet1d"):
        augmented = f"{int(standard[:2]) + 1:02d}{standard[2:]}_augmented"
        trees = [ast.parse((CODES / f"{name}.py").read_text(encoding="utf-8")) for name in (standard, augmented)]
        code = [[ast.unparse(node) for node in tree.body[1:]] for tree in trees]  # without the docstring
        differing = [
            (a, b)
            for one, other in zip(*code, strict=True)
            for a, b in zip(one.splitlines(), other.splitlines(), strict=True)
            if a != b
        ]
        assert differing == [("    augment: bool = False", "    augment: bool = True")]
