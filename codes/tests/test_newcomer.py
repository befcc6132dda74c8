"""What somebody brings: a network, of one textbook file and one line, and labels, of one table; the rest works."""

import io
import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CODES, best_weights, equal, share_inputs

from ecg.labels import read_database, read_split, read_splits

FORKS = CODES / "tests" / "forks.py"

NEWCOMER = '''"""A network as in a textbook."""

import torch
from torch import nn


class Newcomer(nn.Module):
    def __init__(self, n_channels, n_classes):
        super().__init__()
        self.linear = nn.Linear(24, n_classes)
        self.conv1 = nn.Conv1d(n_channels, 16, 7, stride=2, padding=3)
        self.norm1 = nn.BatchNorm1d(16)
        self.conv2 = nn.Conv1d(16, 24, 5, stride=2, padding=2)
        self.norm2 = nn.GroupNorm(4, 24)
        self.norm3 = nn.LayerNorm(24)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x):
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.norm2(self.conv2(x)))
        return self.linear(self.dropout(self.norm3(x.mean(dim=-1))))


class Careless(Newcomer):
    def forward(self, x):
        return super().forward(torch.nn.functional.dropout(x, 0.1, training=True))
'''
LINES = """    "newcomer": "ecg.models.newcomer:Newcomer",
    "careless": "ecg.models.newcomer:Careless",
"""
# At a learning rate at which rounding does not grow: the sums of two processes are rounded otherwise.
OPTIONS = ("--epochs", "3", "--lr", "1e-5", "--batch-size", "32", "--precision", "fp32", "--device", "cpu")


@dataclass(frozen=True)
class Visit:
    """What the newcomer's calls left: one folder of artifacts per way to train it, and [exit code, output] by name."""

    whole: Path
    killed: Path
    divided: Path
    ends: dict[str, list[tuple[int, str]]]


def call(codes: Path, script: str, artifacts: Path, *words: object, kill_in: int = 0, **environment: object) -> dict:
    words = [str(codes / script), "--artifacts", str(artifacts), *map(str, words)]
    environment = {name: str(value) for name, value in environment.items()}
    return {"words": words, "environment": environment, "kill_in": kill_in}


def two_processes(codes: Path, artifacts: Path, *words: object) -> list[dict]:
    """Return the calls of one training in two processes, with what torchrun tells them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [call(codes, "train.py", artifacts, *words, RANK=i, LOCAL_RANK=i, **meeting) for i in (0, 1)]


@pytest.fixture(scope="module")
def visit(prepared: Path, synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    """A copy of the code with the newcomer's file and line, and all that is done with it."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    codes = tmp_path_factory.mktemp("newcomer") / "codes"
    shutil.copytree(CODES, codes, ignore=shutil.ignore_patterns("tests", "benchmarks", "__pycache__", ".*"))
    (codes / "ecg" / "models" / "newcomer.py").write_text(NEWCOMER)
    registry = codes / "ecg" / "models" / "__init__.py"
    text = registry.read_text()
    assert text.count("\nMODELS = {\n") == 1
    registry.write_text(text.replace("\nMODELS = {\n", "\nMODELS = {\n" + LINES))

    whole, killed, divided = (
        share_inputs(prepared, tmp_path_factory.mktemp(name)) for name in ("whole", "killed", "divided")
    )
    alone = ("--model", "newcomer", *OPTIONS)
    record = synthetic / pd.read_csv(synthetic / "ptbxl_database.csv").filename_lr[0]
    small = (
        "--data",
        synthetic,
        "--records-per-class",
        "1",
        "--drawn-per-class",
        "1",
        "--steps",
        "2",
        "--device",
        "cpu",
    )
    predict = call(
        codes, "predict.py", whole, record, "--model", "newcomer_standard", "--format", "csv", "--device", "cpu"
    )
    groups = {
        "whole": [call(codes, "train.py", whole, *alone)],
        "killed": [call(codes, "train.py", killed, *alone, kill_in=6)],
        "resumed": [call(codes, "train.py", killed, *alone)],
        "divided": two_processes(codes, divided, *alone),
        "careless": [call(codes, "train.py", whole, "--model", "careless", *OPTIONS)],
        "careless, divided": two_processes(codes, divided, "--model", "careless", *OPTIONS),
        "explained": [call(codes, "13_interpretability.py", whole, "--run", "newcomer_standard", *small)],
        "predicted": [predict],
        "measured": [call(codes, "11_plots_and_metrics.py", whole, "--replicates", "20")],
    }
    environment = os.environ | {"PYTHONPATH": str(codes), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(FORKS), json.dumps(list(groups.values()))],
        capture_output=True,
        text=True,
        env=environment,
        cwd=codes,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return Visit(whole, killed, divided, dict(zip(groups, json.loads(done.stdout), strict=True)))


def output(visit: Visit, name: str) -> str:
    """Return what a call said that ended well."""
    assert [code for code, _ in visit.ends[name]] == [0] * len(visit.ends[name]), visit.ends[name]
    return "".join(text for _, text in visit.ends[name])


def test_it_is_trained_by_name(visit):
    assert "newcomer_standard: newcomer with" in output(visit, "whole")
    folder = visit.whole / "newcomer_standard"
    assert {"config.json", "best.pt", "history.csv", "predictions_test.csv"} <= {path.name for path in folder.iterdir()}


def test_after_a_kill_it_resumes_bit_for_bit(visit):
    assert visit.ends["killed"][0][0] == -9
    assert "resumes at step" in output(visit, "resumed")
    one, other = visit.whole / "newcomer_standard", visit.killed / "newcomer_standard"
    assert equal(best_weights(one), best_weights(other))
    assert (one / "predictions_test.csv").read_bytes() == (other / "predictions_test.csv").read_bytes()


def test_two_processes_give_what_one_gives(visit):
    assert output(visit, "divided").count("epoch   1/3") == 1, "one process prints"
    one, two = visit.whole / "newcomer_standard", visit.divided / "newcomer_standard"
    for loss in ("train_loss", "val_loss"):
        a, b = (pd.read_csv(folder / "history.csv")[loss] for folder in (one, two))
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=0)
    for split in ("val", "test"):
        a, b = (pd.read_csv(folder / f"predictions_{split}.csv") for folder in (one, two))
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=0)


def test_its_answers_are_explained(visit):
    output(visit, "explained")
    folder = visit.whole / "interpretability_results"
    checks = pd.read_csv(folder / "sanity_checks.csv")
    randomised = checks[checks.check.str.startswith("randomised weights")]
    assert set(randomised.setting) == {"output layer", "upper half", "all layers"}
    examples = pd.read_csv(folder / "examples.csv")
    assert len(examples) and all((folder / name).exists() for name in examples.file)


def test_it_answers_new_recordings(visit):
    text = output(visit, "predicted")
    table = pd.read_csv(io.StringIO(text[text.index("record,") :]))
    stored = json.loads((visit.whole / "newcomer_standard" / "config.json").read_text())
    classes = [entry["class"] for entry in stored["task"]["classes"]]
    assert list(table) == ["record", *classes, "warnings"] and len(table) == 1
    assert table[classes].to_numpy().min() > 0 and table[classes].to_numpy().max() < 1


def test_it_is_measured_beside_the_others(visit):
    output(visit, "measured")
    assert {"newcomer_standard", "careless_standard"} <= set(
        pd.read_csv(visit.whole / "final_results" / "metrics.csv").run
    )


def test_one_with_functional_dropout_trains_alone_and_is_refused_by_name_where_a_batch_is_divided(visit):
    assert "careless_standard: careless with" in output(visit, "careless")
    for code, text in visit.ends["careless, divided"]:
        assert code == 2 and "Traceback" not in text
    assert "model careless draws random numbers outside nn.Dropout" in visit.ends["careless, divided"][0][1]
    assert not (visit.divided / "careless_standard" / "best.pt").exists()


# --- labels of one's own ----------------------------------------------------------------------------------------------

OWN = """statement,class,long_name
AFIB,fibrillation,atrial fibrillation or flutter
AFLT,fibrillation,
SR,sinus,
SBRAD,sinus,
STACH,sinus,
LVH,thick wall,
RVH,thick wall,
"""


def script(monkeypatch: pytest.MonkeyPatch, name: str, *words: object) -> None:
    """Call a script as on a command line, in this process."""
    monkeypatch.setattr(sys, "argv", [str(CODES / name), *map(str, words)])
    runpy.run_path(str(CODES / name), run_name="__main__")


def test_a_task_of_ones_own_goes_from_a_csv_to_the_answers_of_a_network(
    prepared, synthetic, tmp_path, monkeypatch, capsys
):
    (tmp_path / "signals").symlink_to(prepared / "signals")  # which serve every task
    (tmp_path / "mine.csv").write_text(OWN)
    folders = ("--data", synthetic, "--artifacts", tmp_path)
    script(monkeypatch, "02_split.py", *folders, "--labels", "superdiagnostic", "form", tmp_path / "mine.csv")
    splits = read_splits(tmp_path)
    assert list(splits.tasks)[:3] == ["superdiagnostic", "form", "mine"]
    task = splits.task("mine")
    assert task.names == {
        "fibrillation": "atrial fibrillation or flutter",
        "sinus": "sinus",
        "thick wall": "thick wall",
    }
    columns = list(pd.read_csv(tmp_path / "ptbxl_train.csv"))
    assert columns[-6:] == [*splits.first.classes, "label"], "of the first task"
    database = read_database(synthetic).set_index("ecg_id")
    table = read_split(tmp_path, "train", task).set_index("ecg_id")
    for name, statements in zip(task.classes, task.statements, strict=True):
        has = database.scp_codes[table.index].map(lambda text, of=statements: any(f"'{code}'" in text for code in of))
        np.testing.assert_array_equal(table[name] == 1, has)
        assert has.any()

    small = ("--width", "0.25", "--epochs", "1", "--batch-size", "64", "--device", "cpu")
    script(monkeypatch, "05_train_resnet1d.py", *folders, "--labels", "mine", *small)
    capsys.readouterr()
    record = synthetic / database.filename_lr.iloc[0]
    script(
        monkeypatch, "predict.py", record, "--artifacts", tmp_path, "--model", "resnet_standard_mine", "--format", "csv"
    )
    assert capsys.readouterr().out.splitlines()[0] == "record,fibrillation,sinus,thick wall,warnings"
