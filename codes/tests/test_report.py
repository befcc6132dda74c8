"""The report and the index: one file that needs no other, with the numbers of the tables in it."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CODES, Demo

from ecg.artifacts import UserError, write_csv, write_json
from ecg.final_results import compare_runs, plots_and_metrics
from ecg.labels import CLASSES, LEADS, SPLIT_COLUMNS, read_split
from ecg.plots import panels, save_figure
from ecg.predictions import write_predictions
from ecg.report import EDA, SHOWN, describe, files_of, made_by, write_report
from ecg.stages import PAGES, find_stages


class Page(HTMLParser):
    """What a page loads, what it links to, and its text."""

    def __init__(self, html: str):
        super().__init__()
        self.loads, self.links, self.anchors, self.tags, self.text = [], [], set(), [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.anchors.add(value)
            elif name == "href" and tag == "a":
                self.links.append(value)
            elif name in ("src", "href", "srcset", "data", "poster", "action"):
                self.loads.append(value)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory) -> Path:
    """Two models' predictions, their metrics and figures, and a picture of a record; no signals, no attributions."""
    folder = tmp_path_factory.mktemp("report") / "artifacts"
    rng = np.random.default_rng(0)
    for split, start in (("train", 1), ("val", 101), ("test", 201)):
        table = pd.DataFrame(dict.fromkeys(SPLIT_COLUMNS, 0), index=range(60))
        table["ecg_id"] = table["patient_id"] = np.arange(start, start + 60)
        truth = np.arange(60) % 5
        table[list(CLASSES)] = np.eye(5, dtype=int)[truth]
        write_csv(table.assign(label=np.array(CLASSES)[truth], age=50, sex=1), folder / f"ptbxl_{split}.csv")
        for run, noise in (("resnet_standard", 0.5), ("baseline/naive", 5.0)):
            probability = 1 / (1 + np.exp(-(np.eye(5)[truth] - 0.5 + noise * rng.normal(size=(60, 5)))))
            write_predictions(folder / run, split, table.ecg_id.to_numpy(), probability)
    for run in ("resnet_standard", "baseline/naive"):
        config = {"run": run, "model": run, "task": "multilabel", "seed": 0, "classes": CLASSES, "leads": LEADS}
        config |= {"seconds": 1.5, "hardware": "<b>x86</b>", "threads": 1, "date": "2026-01-31", "n_train": 60}
        write_json(config, folder / run / "config.json")
    data = folder.parent / "PTB-XL"
    plots_and_metrics(data=data, artifacts=folder, replicates=20, seed=0)
    compare_runs(data=data, artifacts=folder, replicates=20, seed=0)
    return folder


def written(artifacts: Path, *, synthetic: bool = False, with_examples: bool = False) -> str:
    data = artifacts.parent / ("synthetic" if synthetic else "PTB-XL")
    data.mkdir(exist_ok=True)
    if synthetic:
        (data / "planted_signs.csv").touch()
    write_report(data=data, artifacts=artifacts, with_examples=with_examples)
    return (artifacts / "final_results" / "report.html").read_text(encoding="utf-8")


def check_that_it_stands_alone(html: str) -> Page:
    page = Page(html)
    assert page.loads and all(value.startswith("data:image/png;base64,") for value in page.loads)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert "@import" not in html and "url(" not in html
    assert all(value.startswith("https://") or value[1:] in page.anchors for value in page.links)
    return page


def test_report_is_one_file_that_loads_nothing(artifacts):
    check_that_it_stands_alone(written(artifacts))


def test_report_shows_the_numbers_of_metrics_csv(artifacts):
    text = " ".join(Page(written(artifacts)).text.split())
    metrics = pd.read_csv(artifacts / "final_results" / "metrics.csv")
    auc = metrics[(metrics.split == "test") & (metrics["view"] == "multilabel") & (metrics.metric == "auc")]
    assert len(auc) == 2 * (len(CLASSES) + 1)
    for row in auc.itertuples():
        assert f"{row.value:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]" in text, row


def test_report_says_how_many_records_are_positive(artifacts):
    table = read_split(artifacts, "test").copy()
    before = (artifacts / "ptbxl_test.csv").read_bytes()
    table.loc[table.label == "HYP", ["NORM", "label"]] = [1, ""]  # no longer alone
    try:
        write_csv(table, artifacts / "ptbxl_test.csv")
        words = " ".join(re.sub(r"<[^>]*>", " ", written(artifacts)).split())
    finally:
        (artifacts / "ptbxl_test.csv").write_bytes(before)
    assert "positive of 60 records, multilabel 24 12 12 12 12" in words
    assert "positive of 48 records, multiclass 12 12 12 12 0" in words


def test_what_is_missing_is_left_out_with_the_script_that_makes_it(artifacts):
    text = Page(written(artifacts)).text
    for script in ("codes/01_eda.ipynb", "codes/13_interpretability.py"):
        assert f"run {script}" in text
    assert "run codes/12" not in text


def test_without_metrics_there_is_no_report_but_the_name_of_the_script(tmp_path):
    with pytest.raises(UserError, match=r"codes/11_plots_and_metrics\.py"):
        write_report(data=tmp_path, artifacts=tmp_path, with_examples=False)
    assert list(tmp_path.iterdir()) == []


def test_text_from_files_cannot_become_markup(artifacts):
    html = written(artifacts)
    assert "<b>x86</b>" not in html and "&lt;b&gt;x86&lt;/b&gt;" in html


def test_a_users_own_run_needs_no_more_in_its_config_than_the_classes(artifacts):
    config = artifacts / "baseline/naive/config.json"
    before = config.read_text(encoding="utf-8")
    try:
        write_json({"classes": CLASSES}, config)
        assert "–, – threads" in Page(written(artifacts)).text
    finally:
        config.write_text(before, encoding="utf-8")


def test_pictures_of_real_records_stay_out_unless_asked_for(artifacts):
    folder = artifacts / "interpretability_results"
    columns = ["check", "method", "setting", "value", "ci_low", "ci_high", "reference", "n", "verdict"]
    check = ("randomised weights: rank correlation", SHOWN, "all layers", 0.6, 0.5, 0.7, 1.0, 9, "too alike: much")
    write_csv(pd.DataFrame([check], columns=columns), folder / "sanity_checks.csv")
    for method in ("saliency", "integrated_gradients"):
        save_figure(panels(1, 1, width=2, height=1)[0], folder / f"example_MI_{method}_1.png")
    try:
        pictures = [len(Page(written(artifacts, **options)).loads) for options in ({}, {"with_examples": True})]
        assert pictures[1] == pictures[0] + 1
        synthetic = written(artifacts, synthetic=True)
        assert len(Page(synthetic).loads) == pictures[1] and "Synthetic data" in synthetic
        assert f"Heat: {SHOWN} (with random weights: too alike)." in Page(synthetic).text
        assert not any(name.startswith("example") or name in ("preprocessing", "quality") for name in EDA)
    finally:
        shutil.rmtree(folder)


def test_report_and_index_are_the_same_when_written_again(artifacts):
    first = written(artifacts), (artifacts / "README.md").read_text(encoding="utf-8")
    assert (written(artifacts), (artifacts / "README.md").read_text(encoding="utf-8")) == first


def test_no_absolute_path_is_written(artifacts):
    text = written(artifacts) + (artifacts / "README.md").read_text(encoding="utf-8")
    assert str(artifacts.parent) not in text and str(CODES.parent) not in text


def test_index_lists_every_file_with_its_script(artifacts):
    written(artifacts)
    (artifacts / "logs").mkdir(exist_ok=True)
    (artifacts / "logs" / "11.log").touch()
    lines = (artifacts / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| `")]
    files = [path for path in artifacts.rglob("*") if path.is_file() and path.parent.name != "logs"]
    assert len(rows) == len(files) - 1  # the index does not list itself
    assert all(what for _, what, *_ in rows), "a file that WHAT does not explain"
    assert not [row for row in rows if row[2] == "–"]


def test_maker_of_a_file_is_read_off_the_docstrings():
    stages = find_stages(CODES)
    for name, number in {
        "ptbxl_val.csv": "02",
        "signals/meta.json": "03",
        "baseline/naive/config.json": "04",
        "resnet_standard/seed2/best.pt": "05",
        "xresnet_augmented/lr_finder.png": "10",
        "eda_plots/01_eda.html": "01",
        "final_results/metrics.csv": "11",
        "final_results/confusion_matrix_baseline_naive.csv": "12",
        "interpretability_results/example_MI_saliency_1.png": "13",
        "final_results/report.html": "14",
    }.items():
        assert made_by(name, stages).number == number, name
    for name in ("my_model/config.json", "LOG.md", "eda_plots/mine.html"):
        assert made_by(name, stages) is None
    assert describe("LOG.md")
    declared = {token for stage in stages for token in stage.writes if token.startswith("artifacts/")}
    declared |= {f"{PAGES}/{stage.name}.html" for stage in stages if stage.path.suffix == ".ipynb"}
    for name in sorted(token.removeprefix("artifacts/") for token in declared - {"artifacts/README.md"}):
        assert describe(name), f"WHAT does not explain {name}"


def test_a_demo_run_ends_with_a_whole_report(demo: Demo):
    path = demo.artifacts / "final_results" / "report.html"
    page = check_that_it_stands_alone(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 3.5e6
    assert "Left out" not in page.text and "Synthetic data" in page.text
    lines = (demo.artifacts / "README.md").read_text(encoding="utf-8").splitlines()
    listed = sum(line.startswith("| `") for line in lines)
    assert listed == len(list(files_of(demo.artifacts)))
