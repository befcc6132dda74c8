"""The notebook runs from start to end, draws what it announces, and is stored without what it saw."""

import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from ecg.artifacts import ROOT
from ecg.labels import CLASSES, LEADS, TEST_FOLD, read_database

NOTEBOOK = ROOT / "codes" / "01_eda.ipynb"


def execute(monkeypatch: pytest.MonkeyPatch, *, data: Path, artifacts: Path, folder: Path) -> nbformat.NotebookNode:
    """Run the notebook with its kernel started in `folder`, and return it with its outputs."""
    monkeypatch.setenv("ECG_DATA", str(data))
    monkeypatch.setenv("ECG_ARTIFACTS", str(artifacts))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def announced() -> list[str]:
    """Return the files of the line "Writes: artifacts/eda_plots/{...}" in the first cell."""
    text = nbformat.read(NOTEBOOK, as_version=4).cells[0].source
    return re.search(r"^Writes: artifacts/eda_plots/\{(.+)\}$", text, re.MULTILINE)[1].split(",")


@pytest.fixture
def without_test_signals(synthetic: Path, tmp_path: Path) -> Path:
    """The synthetic PTB-XL, in which no signal of the test fold can be read."""
    database = read_database(synthetic)
    test = [f"{Path(name).name}.*" for name in database.filename_lr[database.strat_fold == TEST_FOLD]]
    assert test
    return shutil.copytree(synthetic, tmp_path / "PTB-XL", ignore=shutil.ignore_patterns(*test))


def test_notebook_draws_every_file_it_announces(
    without_test_signals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    notebook = execute(monkeypatch, data=without_test_signals, artifacts=tmp_path, folder=NOTEBOOK.parent)
    plots = tmp_path / "eda_plots"
    assert sorted(path.name for path in plots.iterdir()) == sorted(announced())
    for path in plots.glob("*.png"):
        pixels = np.asarray(Image.open(path).convert("L"), dtype=float)
        assert min(pixels.shape) > 300, path.name
        assert pixels.std() > 10, f"{path.name} is almost blank"

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    streams = [output for output in outputs if output.output_type == "stream"]
    assert not [output.text for output in streams if output.name == "stderr"]
    assert not [output.text for output in streams if "left out: " in output.text], "the test fold's signals were wanted"
    shown = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(shown) == sum(name.endswith(".png") for name in announced())

    table = pd.read_csv(plots / "amplitude_statistics.csv")
    assert len(table) == len(CLASSES) * len(LEADS) * 2 * 3  # recorded and preprocessed; three statistics
    preprocessed = table[table.signal == "preprocessed"].set_index(["superclass", "lead", "statistic"])["median"]
    variance, energy = preprocessed.xs("variance", level=2), preprocessed.xs("energy", level=2)
    np.testing.assert_allclose(energy, 10 * variance, rtol=0.05, atol=0.01)  # mean zero, ten seconds
    assert (preprocessed.xs("peak_to_mean", level=2) > 1).all()


def test_notebook_without_data_names_the_script_that_gets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(CellExecutionError, match=r"needs .*ptbxl_database\.csv: run codes/00_get_data\.py.*--demo"):
        execute(monkeypatch, data=tmp_path / "nowhere", artifacts=tmp_path, folder=ROOT)


def test_notebook_is_stored_without_outputs_or_traces_of_a_machine():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
        assert cell.metadata == {}
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert not re.search(r"/(home|root|Users|tmp)/", NOTEBOOK.read_text(encoding="utf-8"))
