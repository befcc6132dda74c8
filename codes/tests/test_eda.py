"""The notebook runs from start to end, draws what it announces, and is stored without what it saw."""

import contextlib
import io
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import Demo
from PIL import Image

from ecg.artifacts import ROOT, UserError
from ecg.labels import TEST_FOLD, read_database
from ecg.leads import LEADS
from ecg.stages import STAGES, Declared, fill, words_of
from ecg.tasks import SUPERCLASSES

NOTEBOOK = ROOT / "codes" / "01_eda.ipynb"


def execute_without_drawing(monkeypatch: pytest.MonkeyPatch, *, data: Path, artifacts: Path) -> str:
    """Run the notebook's code in this process, with figures that are made but never drawn; return what it printed."""
    monkeypatch.setenv("ECG_DATA", str(data))
    monkeypatch.setenv("ECG_ARTIFACTS", str(artifacts))
    monkeypatch.chdir(NOTEBOOK.parent)
    monkeypatch.setattr("ecg.plots.save_figure", lambda *_, **__: None)
    monkeypatch.setattr("IPython.display.Image", lambda *_, **__: None)
    monkeypatch.setattr("IPython.display.display", lambda *_: None)
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, "<01_eda.ipynb>", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def declared() -> tuple[Declared, ...]:
    """Return the files that ecg.stages says the notebook writes."""
    stage = next(stage for stage in STAGES if stage.script == NOTEBOOK.name)
    return fill(stage.writes, words_of(stage, {}))


def test_notebook_draws_every_file_that_is_declared(demo: Demo):
    plots = demo.artifacts / "eda_plots"
    written = {f"artifacts/eda_plots/{path.name}" for path in plots.iterdir()}
    assert {each.path for each in declared() if each.is_required} <= written
    assert [path for path in written if not any(each.matches(path) for each in declared())] == []
    pictures = list(plots.glob("*.png"))
    for path in pictures:
        pixels = np.asarray(Image.open(path).convert("L"), dtype=float)
        assert min(pixels.shape) > 300, path.name
        assert pixels.std() > 10, f"{path.name} is almost blank"
    page = (plots / "01_eda.html").read_text(encoding="utf-8")
    assert len(re.findall(r'<img[^>]+src="data:image/png', page)) == len(pictures), "every picture is shown once"
    warnings = re.findall(r'<div[^>]+data-mime-type="application/vnd.jupyter.stderr"[^>]*>.*?</div>', page, re.DOTALL)
    assert warnings == []


def test_amplitudes_agree_with_each_other(demo: Demo):
    table = pd.read_csv(demo.artifacts / "eda_plots" / "amplitude_statistics.csv")
    assert len(table) == len(SUPERCLASSES) * len(LEADS) * 2 * 3  # recorded and preprocessed; three statistics
    preprocessed = table[table.signal == "preprocessed"].set_index(["superclass", "lead", "statistic"])["median"]
    variance, energy = preprocessed.xs("variance", level=2), preprocessed.xs("energy", level=2)
    np.testing.assert_allclose(energy, 10 * variance, rtol=0.05, atol=0.01)  # mean zero, ten seconds
    assert (preprocessed.xs("peak_to_mean", level=2) > 1).all()


def test_notebook_looks_at_no_signal_of_the_test_fold(synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    database = read_database(synthetic)
    test = [f"{Path(name).name}.*" for name in database.filename_lr[database.strat_fold == TEST_FOLD]]
    assert test
    data = shutil.copytree(synthetic, tmp_path / "PTB-XL", ignore=shutil.ignore_patterns("records500", *test))
    assert "left out: " not in execute_without_drawing(monkeypatch, data=data, artifacts=tmp_path)


def test_notebook_without_data_names_the_script_that_gets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"needs .*ptbxl_database\.csv: run codes/00_get_data\.py.*--demo"):
        execute_without_drawing(monkeypatch, data=tmp_path / "nowhere", artifacts=tmp_path)


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
