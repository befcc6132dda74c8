"""README: where to change what is where it says, and its result tables are those of the artifacts."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CODES, ROOT

from ecg.labels import read_database
from ecg.models import MODELS
from ecg.plan import find_flags
from ecg.tasks import BENCHMARK, task_from_csv

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = {  # name in README's table: run
    "Ensemble": "ensemble",
    "Inception": "inception_standard",
    "Inception, augmented": "inception_augmented",
    "ResNet1D": "resnet_standard",
    "ResNet1D, augmented": "resnet_augmented",
    "XResNet1D": "xresnet_standard",
    "XResNet1D, augmented": "xresnet_augmented",
    "MiniRocket + ridge": "baseline/minirocket_ridge",
    "MiniRocket + logistic regression": "baseline/minirocket_logistic",
    "gradient boosting on 96 lead statistics": "baseline/hist_gradient_boosting",
    "random forest on 96 lead statistics": "baseline/random_forest",
    "prevalence": "baseline/naive",
}


def section(title: str) -> str:
    return README.split(f"{title}\n", 1)[1].split("\n#", 1)[0]


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of the first table in a text, without its head."""
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)[0].strip().split("\n")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def shown(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


@pytest.fixture(scope="module")
def metrics() -> pd.DataFrame:
    table = pd.read_csv(ROOT / "artifacts" / "final_results" / "metrics.csv")
    return table[table.split == "test"].set_index(["run", "task", "view", "label", "metric"]).sort_index()


def test_what_a_fork_changes_is_where_the_five_lines_say():
    lines = [line for line in README.split("Where to change something:")[1].split("\n") if line.startswith("- ")][:5]
    assert len(lines) == 5
    for line in lines:
        words = re.findall(r"`([^`]+)`", README[README.index(line) :].split("\n- ", 1)[0].split("\n\n", 1)[0])
        files = [word for word in words if word.startswith("codes/") and word.endswith(".py")]
        names = [word for word in words if re.fullmatch(r"\w+", word)]
        assert files and names, line
        for name in names:
            defined = rf"^(?:class|def) {name}\b|^{name}\b.*=|    def {name}\b"
            assert any(re.search(defined, (ROOT / file).read_text(), re.MULTILINE) for file in files), (name, files)


def test_a_task_is_made_from_the_csv_that_the_readme_shows(tmp_path: Path, synthetic: Path):
    from ecg.tasks import read_statements

    path = tmp_path / "rhythms.csv"
    path.write_text(re.search(r"```csv\n(.*?)```", README, re.DOTALL)[1])
    task = task_from_csv(path, read_statements(synthetic))
    assert task.name == "rhythms" and task.classes == ("irregular", "paced", "sinus")
    assert task.statements[0] == ("AFIB", "AFLT")


def test_scripts_and_names_in_commands_exist():
    for script in set(re.findall(r"(?:python|\d) (codes/[\w/]+\.py)", README)):
        assert (ROOT / script).exists(), script
    for name in re.findall(r"--model (\w+) --labels", README):
        assert name in MODELS
    assert all(f"`{name}`" in README for name in BENCHMARK)


def test_the_table_of_superclasses_is_that_of_the_artifacts(metrics: pd.DataFrame):
    rows = rows_of(section("### Superclasses"))
    assert {row[0].strip("*") for row in rows} == set(SHOWN)
    columns = {
        2: ("multilabel", "auc"),
        4: ("multilabel", "ap"),
        5: ("multiclass", "accuracy"),
        6: ("multiclass", "f1"),
    }
    for row in rows:
        run = SHOWN[row[0].strip("*")]
        for column, (view, metric) in columns.items():
            found = metrics.loc[run, "superdiagnostic", view, "macro", metric]
            expected = f"{shown(found.value)} [{shown(found.ci_low)}, {shown(found.ci_high)}]"
            assert row[column] == expected, (run, metric)
        ece = metrics.loc[run, "superdiagnostic", "multilabel", "macro", "ece"].value
        chance = metrics.loc[run, "superdiagnostic", "multilabel", "macro", "ece_by_chance"].value
        assert row[7] == f"{shown(ece)} ({shown(chance)})", run


def test_the_table_of_six_tasks_is_that_of_the_artifacts(metrics: pd.DataFrame):
    runs = ("resnet_standard_all", "inception_standard_all", "xresnet_standard_all", "ensemble_all")
    rows = rows_of(section("### All statements: one network, six answers"))
    assert {row[0] for row in rows} == set(BENCHMARK)
    for task, n, classes, *cells in rows:
        for run, cell in zip(runs, cells, strict=False):
            whole = metrics.loc[run, task, "multilabel", "macro", "auc"]
            key = (run, task, "multilabel", "macro5", "auc")
            five = metrics.loc[key] if key in metrics.index else whole
            assert cell == f"{shown(whole.value)}; {shown(five.value)} [{shown(five.ci_low)}, {shown(five.ci_high)}]"
            assert classes == f"{whole.classes:.0f}; {five.classes:.0f}" and n == f"{whole.n:.0f}"


def test_both_commands_of_the_first_page_are_those_that_the_project_has():
    first = re.search(r"```sh\n(.*?)```", README, re.DOTALL)[1]
    assert "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt" in first
    assert ".venv/bin/python codes/run_all.py --demo" in first and ".venv/bin/python -m pytest" in first
    done = subprocess.run([sys.executable, CODES / "run_all.py", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--demo" in done.stdout


def test_the_example_in_python_runs(synthetic, tmp_path, monkeypatch):
    """From the project's folder, with a recording called as in the README."""
    if not (ROOT / "artifacts/resnet_standard/best.pt").exists():
        pytest.skip("this checkout has no trained runs in artifacts/")
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    file = synthetic / read_database(synthetic).filename_lr.iloc[0]
    assert example.count('"my_ecg.hea"') == 1
    monkeypatch.chdir(ROOT)
    names = {}
    exec(compile(example.replace("my_ecg.hea", f"{file}.hea"), "README.md", "exec"), names)
    assert names["recording"].leads == names["run"].leads
    assert names["probability"].shape == (1, 5) and ((names["probability"] > 0) & (names["probability"] < 1)).all()
    assert names["heat"].shape == (12, 1000) and np.abs(names["heat"]).max() > 0


def test_every_flag_that_the_readme_shows_is_one_of_predicts():
    part = section("## Your own recordings")
    flags = find_flags(CODES / "predict.py", CODES)
    shown = set(re.findall(r"--([a-z]+)", part))
    assert {"leads", "unit", "fs", "force", "html", "threshold"} <= shown <= {name.replace("_", "-") for name in flags}


def interval(value: float, low: float, high: float) -> str:
    """Return an interval as the tables of the README have it, `.894 [.869, .919]`."""
    first, *rest = (f"{number:.3f}".removeprefix("0") for number in (value, low, high))
    return f"{first} [{', '.join(rest)}]"


def test_the_table_of_the_guard_is_that_of_its_benchmark():
    table = pd.read_csv(ROOT / "artifacts/benchmarks/guard.csv")
    table = table[table.records == "clean"].set_index("fault").rename(index={"none": "nothing wrong"})
    part = section("## Your own recordings").split("**What is said about the input.**")[1]
    rows = [row for row in rows_of(part) if row[0] in table.index]
    assert len(rows) == 13
    for fault, n, flagged in rows:
        measured = table.loc[fault]
        assert (int(n), flagged) == (measured.n, interval(measured.detection, measured.low, measured.high)), fault


def test_the_table_of_missing_leads_is_that_of_its_benchmark():
    table = pd.read_csv(ROOT / "artifacts/benchmarks/lead_subsets.csv").set_index(["model", "subset"])
    part = section("## Your own recordings").split("**Missing leads.**")[1]
    rows = [row for row in rows_of(part) if ("resnet_standard", row[0]) in table.index]
    assert len(rows) == 7
    for subset, *cells in rows:
        for model, cell in zip(("xresnet_lead_subsets", "resnet_standard"), cells, strict=True):
            measured = table.loc[model, subset]
            assert cell == interval(measured.macro_auc, measured.ci_low, measured.ci_high), (model, subset)


def test_what_is_said_of_measurements_is_what_their_benchmark_found():
    table = pd.read_csv(ROOT / "artifacts/benchmarks/measurements.csv")
    part = section("## Your own recordings").split("**Measurements.**")[1].split("**Missing leads.**")[0]
    said = " ".join(part.split())
    synthetic = table[table.data == "synthetic, 100 Hz"].set_index("quantity").median_absolute_error
    for name in ("PR", "QRS", "QT"):
        assert f"{synthetic[f'{name.lower()}_ms']:.1f} ms for {name}" in said
    axis = table[(table.quantity == "axis") & (table.meaning == "share within heart_axis's range")].iloc[0]
    assert f"{interval(axis.agreement, axis.ci_low, axis.ci_high)} of {axis.n} records" in said
    block = table[table.quantity == "qrs_ms of CLBBB against NORM"].iloc[0]
    assert block.agreement > 0.999 and "AUC above .999" in said
