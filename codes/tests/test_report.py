"""The report and the index: one file that needs no other, with the numbers of the tables in it, for any tasks."""

import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CODES, Demo
from made_up import draw, statement_list, write_run, write_splits
from PIL import Image
from result_tables import metrics_of, pairs_of

from ecg.artifacts import UserError, read_json, write_csv, write_json
from ecg.artifacts_index import describe, files_of, index, maker
from ecg.final_results import class_table
from ecg.labels import read_split, read_splits
from ecg.report import EDA, FIGURES, SHOWN, write_report
from ecg.report_tables import variants_of
from ecg.runs import find_runs
from ecg.stages import STAGES, fill, words_of
from ecg.tasks import Task

N = 60


class Page(HTMLParser):
    """What a page loads, what it links to, its text and its tables, {caption: [rows of {column: text}]}."""

    def __init__(self, html: str):
        super().__init__()
        self.loads, self.links, self.anchors, self.tags, self.text = [], [], set(), [], ""
        self.tables: dict[str, list[dict[str, str]]] = {}
        self.head: list[str] = []
        self.cells: list[str] = []
        self.inside = ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.anchors.add(value)
            elif name == "href" and tag == "a":
                self.links.append(value)
            elif name == "aria-label" and tag == "div":
                self.rows = self.tables.setdefault(value, [])
                self.head = []
            elif name in ("src", "href", "srcset", "data", "poster", "action"):
                self.loads.append(value)
        if tag in ("th", "td"):
            self.inside = tag
            (self.head if tag == "th" else self.cells).append("")

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self.inside = ""
        if tag == "tr" and self.cells:
            self.rows.append(dict(zip(self.head, (" ".join(cell.split()) for cell in self.cells), strict=True)))
            self.cells = []

    def handle_data(self, data):
        self.text += data
        if self.inside:
            (self.head if self.inside == "th" else self.cells)[-1] += data


# --- made-up results --------------------------------------------------------------------------------------------


def write_results(artifacts: Path, answered: dict[str, tuple[str, ...]]) -> None:
    """Write the tables and figures of 11 and 12 for {task: the runs that answer it}."""
    splits, final = read_splits(artifacts), artifacts / "final_results"
    metrics, reports, classes, pairs = [], [], [], []
    for name, runs in answered.items():
        task = splits.tasks[name]
        tables = {split: read_split(artifacts, split, task) for split in ("train", "val", "test")}
        labels = tables["test"][list(task.classes)].to_numpy()
        rng = np.random.default_rng(len(task))
        predictions = {}
        for i, run in enumerate(runs):  # the first is the best
            score = labels * (3 - i / 4) + rng.normal(size=labels.shape)
            if run.endswith("naive"):
                score = np.zeros(labels.shape)
            predictions[run] = labels, 1 / (1 + np.exp(-score))
        multiclass = (labels.sum(axis=1) == 1).mean() >= 0.7
        metrics.append(metrics_of(predictions, task, multiclass=multiclass))
        reports.append(report_of(metrics[-1], task))
        classes.append(class_table(task, tables))
        pairs.append(pairs_of(metrics[-1]))
        folder = final if name == splits.first.name else final / name
        for figure in FIGURES:
            if multiclass or figure != "confusion_matrices.png":
                write_picture(folder / figure)
    write_picture(final / "histories.png")
    for tables, file in ((metrics, "metrics"), (reports, "final_metrics_report"), (pairs, "pairwise")):
        write_csv(pd.concat(tables, ignore_index=True), final / f"{file}.csv")
    write_csv(pd.concat(classes, ignore_index=True), final / "classes.csv")
    write_json({name: {run: {} for run in runs} for name, runs in answered.items()}, final / "thresholds.json")


def write_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def report_of(metrics: pd.DataFrame, task: Task) -> pd.DataFrame:
    macro = metrics[(metrics.label == "macro") & (metrics.metric == "auc") & (metrics["view"] == "multilabel")]
    rows = macro.sort_values("value", ascending=False)
    table = pd.DataFrame({"run": rows.run, "task": task.name, "seeds": 1, "n": rows.n, "classes": rows.classes})
    table["macro AUC"] = rows.value.map("{:.3f}".format)
    table["macro5 AUC"] = ""
    return table.assign(**{"multiclass n": 0})


def describe_runs(artifacts: Path) -> None:
    """Add to the config.json of every run what a training says of itself."""
    for run in find_runs(artifacts):
        path = run.folder / "config.json"
        config = read_json(path, made_by="the test") | {"seconds": 1.5, "threads": 1, "n_train": N}
        write_json(config | {"hardware": "<b>x86</b>", "date": "2026-01-31"}, path)


FIVE_RUNS = ("resnet_standard", "resnet_augmented", "narrow", "resnet_fast_standard", "ensemble", "baseline/naive")
ALL_RUNS = ("resnet_standard_all", "ensemble_all", "baseline_all/minirocket_ridge", "baseline_all/naive")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two tasks, five classes and 71, of which one has no test record; two variants of one network."""
    folder = tmp_path_factory.mktemp("report") / "artifacts"
    statements = statement_list(diagnostic=50, form=10, rhythm=12)
    given = {}
    for i, split in enumerate(("train", "val", "test")):
        given[split] = np.zeros((N, len(statements)), int)
        given[split][np.arange(N), np.arange(N) % 50] = 1  # exactly one diagnostic statement
        given[split][:, 50:] = draw(N, 0.12, len(statements) - 50, seed=i)
    given["test"][:, statements.index.get_loc("R3")] = 0
    write_splits(folder, statements=statements, given=given)
    for name, settings in {
        "resnet_standard": {"width": 1.0, "epochs": 25, "augment": False},
        "resnet_augmented": {"width": 1.0, "epochs": 25, "augment": True},
        "narrow": {"width": 0.5, "epochs": 25, "augment": False, "name": "narrow"},
        "resnet_fast_standard": {"width": 0.5, "epochs": 16, "augment": False, "preset": "fast"},
    }.items():
        write_run(folder, name, **settings)
    write_run(folder, "ensemble", model="ensemble")
    write_run(folder, "baseline/naive", model="naive", strength=0)
    write_run(folder, "resnet_standard_all", task="all", width=1.0, epochs=25, augment=False)
    write_run(folder, "ensemble_all", task="all", model="ensemble")
    write_run(folder, "baseline_all/minirocket_ridge", task="all", model="minirocket_ridge")
    write_run(folder, "baseline_all/naive", task="all", model="naive", strength=0)
    describe_runs(folder)
    write_results(folder, {"superdiagnostic": (*FIVE_RUNS, "resnet_standard_all"), "all": ALL_RUNS})
    return folder


@pytest.fixture(scope="module")
def html(artifacts: Path) -> str:
    """The page of these artifacts; the index is written with it."""
    (artifacts / "logs").mkdir()
    (artifacts / "logs" / "11.log").touch()
    return written(artifacts)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


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


def macro_auc(artifacts: Path, task: str, run: str, label: str = "macro") -> pd.Series:
    table = pd.read_csv(artifacts / "final_results" / "metrics.csv")
    chosen = (table.task == task) & (table.run == run) & (table.label == label) & (table.metric == "auc")
    return table[chosen & (table["view"] == "multilabel")].iloc[0]


# --- the page ---------------------------------------------------------------------------------------------------


def test_report_is_one_file_that_loads_nothing(html):
    check_that_it_stands_alone(html)


def test_report_shows_the_numbers_of_metrics_csv(artifacts, page):
    metrics = pd.read_csv(artifacts / "final_results" / "metrics.csv")
    auc = metrics[(metrics["view"] == "multilabel") & (metrics.metric == "auc") & (metrics.task == "superdiagnostic")]
    assert len(auc) == 7 * 6
    for row in auc.itertuples():
        assert f"{row.value:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]" in page.text, row


def test_few_classes_are_columns_with_their_numbers_of_records(artifacts, page):
    task, test = read_splits(artifacts).first, read_split(artifacts, "test")
    everyone, single, *models = page.tables["ROC area per class"][: 2 + 7]
    assert [everyone[label] for label in task.classes] == [str(test[label].sum()) for label in task.classes]
    assert [single[label] for label in task.classes] == [str((test.label == label).sum()) for label in task.classes]
    assert models[0]["run"] == "resnet_standard"  # the best


def test_many_classes_are_rows_and_all_stand_in_the_table(artifacts, page):
    task = read_splits(artifacts).tasks["all"]
    rows = [row for row in page.tables["ROC area per class"] if "class" in row]
    assert [row["class"] for row in rows] == ["macro", "macro5", *task.classes] and len(task) == 71
    assert list(rows[0])[-3:] == ["resnet_standard_all", "ensemble_all", "minirocket_ridge_all"]
    test = read_split(artifacts, "test", task)
    for row in rows[2:]:
        assert row["test positives"] == str(test[row["class"]].sum())
        assert row["name"] == task.names[row["class"]]
        assert (row["ensemble_all"] == "–") == (row["test positives"] == "0")


def test_a_class_without_test_records_is_named_as_left_out(artifacts, page):
    auc = macro_auc(artifacts, "all", "ensemble_all")
    assert auc.classes == 70 and np.isnan(auc.ci_low)
    assert "Macro averages are over 70 of 71 classes; left out: R3 (no positives in the test fold)." in page.text
    frequent = macro_auc(artifacts, "all", "ensemble_all", "macro5")
    assert f"are over the {frequent.classes:.0f} classes with at least 5" in page.text
    assert "Macro averages are over all 5 classes." in page.text
    overview = {row["task"]: row for row in page.tables["All tasks"]}
    best = macro_auc(artifacts, "all", "resnet_standard_all", "macro5")
    assert overview["all"]["is over"] == "70 of 71 classes"
    assert overview["all"]["its macro5 AUC"] == f"{best.value:.3f} [{best.ci_low:.3f}, {best.ci_high:.3f}]"
    assert overview["superdiagnostic"]["its macro5 AUC"] == ""


def test_a_missing_multiclass_view_is_said_with_the_share_of_records(artifacts, page):
    test = read_split(artifacts, "test", read_splits(artifacts).tasks["all"])
    share = (test.label != "").mean()
    assert share < 0.7
    text = page.text.replace("\u00a0", " ")
    assert f"({100 * share:.0f} %) have exactly one. There is no multiclass view of this task" in text
    assert "60 of them (100 %) have exactly one. The multiclass view is of those." in text


def test_the_other_task_has_a_section_with_the_figures_of_its_folder(artifacts, page):
    assert "task-all" in page.anchors and "#task-all" in page.links
    figures = [name for name in FIGURES if (artifacts / "final_results" / "all" / name).exists()]
    first = [name for name in FIGURES if (artifacts / "final_results" / name).exists()]
    assert len(figures) == len(first) - 1  # no confusion matrices
    assert len(page.loads) == len(figures) + len(first) + 1  # and the histories
    assert {row["run"] for row in page.tables["Results of the task all"]} == {
        "resnet_standard_all",
        "ensemble_all",
        "minirocket_ridge_all",
        "naive_all",
    }


def test_a_run_that_answers_another_task_says_what_it_was_trained_on(page):
    runs = [row["run"] for row in page.tables["Results on the test records"]]
    assert "resnet_standard_all (trained on all)" in runs and "resnet_standard" in runs
    assert any(row["a"] == "baseline/naive" or "trained on all" in row["b"] for row in page.tables["All comparisons"])


def test_variants_stand_behind_their_default_run_with_what_differs(artifacts, page):
    assert variants_of(find_runs(artifacts)) == {
        "narrow": "width 0.5",
        "resnet_fast_standard": "width 0.5; epochs 16; preset fast",
    }
    rows = page.tables["Variants of one network"]
    assert [(row["run"], row["settings"]) for row in rows] == [
        ("resnet_augmented", "default"),
        ("resnet_standard", "default"),
        ("narrow", "width 0.5"),
        ("resnet_fast_standard", "width 0.5; epochs 16; preset fast"),
    ]
    for row in rows:
        assert row["macro AUC"].startswith(f"{macro_auc(artifacts, 'superdiagnostic', row['run']).value:.3f}")
    settings = {row["run"]: row["settings"] for row in page.tables["What was run"]}
    assert settings["narrow"] == "width 0.5" and settings["resnet_standard_all"] == "default"


def test_comparisons_are_those_of_the_average_that_has_an_interval(artifacts, page):
    rows = page.tables["All comparisons"]
    pairs = pd.read_csv(artifacts / "final_results" / "pairwise.csv")
    assert len(rows) == len(pairs[(pairs.task == "superdiagnostic") & (pairs.label == "macro")])
    assert {row["classes"] for row in rows} == {"5"} and {row["view"] for row in rows} == {"multilabel", "multiclass"}


def write_small(artifacts: Path, *, labels: str, runs: tuple[str, ...] = ("resnet_standard", "baseline/naive")) -> Path:
    """Leave the results of one task, the first one of 02."""
    write_splits(artifacts, labels=(labels,), n=40)
    for run in runs:
        write_run(artifacts, run, model=run.split("/")[-1])
    write_results(artifacts, {read_splits(artifacts).first.name: runs})
    return artifacts


@pytest.mark.parametrize("labels", ["rhythm", "superdiagnostic", "diagnostic"])
def test_one_task_alone_of_any_size_is_the_whole_page(tmp_path, labels):
    artifacts = write_small(tmp_path / "artifacts", labels=labels)
    page, task = check_that_it_stands_alone(written(artifacts)), read_splits(artifacts).first
    assert f"{len(task)} classes of the task {labels}" in page.text
    assert "All tasks" not in page.tables and "Variants of one network" not in page.tables
    names = list(page.tables["ROC area per class"][0])
    assert [name for name in names if name in task.classes] == (list(task.classes) if len(task) <= 8 else [])
    for label, name in task.names.items():
        assert f"{label} {name}" in page.text


def test_what_is_missing_is_left_out_with_the_script_that_makes_it(artifacts, page):
    for script in ("codes/01_eda.ipynb", "codes/13_interpretability.py"):
        assert f"run {script}" in page.text
    assert "run codes/12" not in page.text
    for name, number in (("pairwise.csv", "12"), ("classes.csv", "11"), ("roc_curves.png", "11")):
        path = artifacts / "final_results" / name
        kept = path.read_bytes()
        path.unlink()
        try:
            text = Page(written(artifacts)).text
        finally:
            path.write_bytes(kept)
        assert f"final_results/{name} is missing; run codes/{number}" in text
        assert "Macro averages are over 70 of 71 classes" in text


def test_without_metrics_there_is_no_report_but_the_name_of_the_script(tmp_path):
    with pytest.raises(UserError, match=r"codes/11_plots_and_metrics\.py"):
        write_report(data=tmp_path, artifacts=tmp_path, with_examples=False)
    assert list(tmp_path.iterdir()) == []


def test_text_from_files_cannot_become_markup(html):
    assert "<b>x86</b>" not in html and "&lt;b&gt;x86&lt;/b&gt;" in html


def test_a_users_own_run_needs_no_more_in_its_config_than_find_runs_asks_for(tmp_path):
    artifacts = write_small(tmp_path / "artifacts", labels="superdiagnostic")
    text = Page(written(artifacts)).text
    assert "hardware –, – threads" in text and "date –" in text


def test_pictures_of_real_records_stay_out_unless_asked_for(artifacts):
    folder = artifacts / "interpretability_results"
    columns = ["check", "method", "setting", "value", "ci_low", "ci_high", "reference", "n", "verdict"]
    check = ("randomised weights: rank correlation", SHOWN, "all layers", 0.6, 0.5, 0.7, 1.0, 9, "too alike: much")
    write_csv(pd.DataFrame([check], columns=columns), folder / "sanity_checks.csv")
    drawn = []
    for name in "ABCDEFG":  # more classes than there is room for
        for method in ("integrated_gradients", SHOWN):
            for number in (1, 2):
                file = f"example_{name}_{method}_{number}.png"
                write_picture(folder / file)
                drawn.append({"file": file, "class": name, "method": method})
    write_csv(pd.DataFrame(drawn), folder / "examples.csv")
    try:
        without, with_them = (len(Page(written(artifacts, with_examples=shown)).loads) for shown in (False, True))
        assert with_them == without + 5
        synthetic = Page(written(artifacts, synthetic=True))
        assert len(synthetic.loads) == with_them and "Synthetic data" in synthetic.text
        assert f"Heat: {SHOWN} (with random weights: too alike)." in synthetic.text
        assert not any(name.startswith("example") or name in ("preprocessing", "quality") for name in EDA)
    finally:
        shutil.rmtree(folder)


# --- the index --------------------------------------------------------------------------------------------------


def test_report_and_index_are_the_same_when_written_again(artifacts, html):
    assert written(artifacts) == html
    assert (artifacts / "README.md").read_text(encoding="utf-8") == index(artifacts, find_runs(artifacts))


def test_no_absolute_path_is_written(artifacts, html):
    text = html + index(artifacts, find_runs(artifacts))
    assert str(artifacts.parent) not in text and str(CODES.parent) not in text


def test_index_lists_every_file_with_what_it_is_and_its_script(artifacts, html):
    lines = index(artifacts, find_runs(artifacts)).splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| `")]
    inputs = {"ptbxl_database.csv", "scp_statements.csv"}  # of the test, which keeps its data there too
    files = [p for p in artifacts.rglob("*") if p.is_file() and p.parent.name != "logs" and p.name not in inputs]
    rows = [row for row in rows if row[0].strip("|` ") not in inputs]
    assert len(rows) == len(files) - 1  # the index does not list itself
    assert all(what for _, what, *_ in rows), "a file that WHAT does not explain"
    assert [row[0] for row in rows if row[2] == "–"] == []


def test_index_says_what_a_folder_holds(artifacts):
    text = index(artifacts, find_runs(artifacts))
    assert "## narrow\n\nA run of `resnet1d` on the task superdiagnostic, 5 classes; width 0.5.\n" in text
    assert "## final_results/all\n\nFigures and matrices of the task all.\n" in text
    assert "## baseline_all/naive\n\nA run of `naive` on the task all, 71 classes.\n" in text
    assert "## ensemble_all\n\nA run of `ensemble` on the task all, 71 classes.\n" in text


def test_files_of_the_tasks_are_explained_like_those_of_the_first():
    for name in ("roc_curves.png", "pairwise.png", "confusion_matrix_resnet_standard.csv"):
        assert describe(f"final_results/form/{name}") == describe(f"final_results/{name}") != ""
    for name in ("ptbxl_statements.csv", "final_results/classes.csv", "baseline_form/naive/model.npz", "LOG.md"):
        assert describe(name)
    assert describe("ptbxl_statements.csv") != describe("ptbxl_train.csv")
    assert describe("my_folder/my_file") == ""


def test_what_a_stage_declares_is_explained():
    for stage in STAGES:
        for declared in fill(stage.writes, words_of(stage, {})):
            name = declared.path.removeprefix("artifacts/")
            if declared.path.startswith("artifacts/") and name != "README.md":
                assert describe(name.replace("**/", "").replace("*", "1")), f"WHAT does not explain {name}"


def test_maker_of_a_file_is_the_script_that_declares_it(artifacts):
    for name, number in {
        "ptbxl_statements.csv": "02",
        "signals/meta.json": "03",
        "baseline_all/naive/config.json": "04",
        "resnet_standard/seed2/best.pt": "05",
        "narrow/config.json": "05",
        "xresnet_augmented/lr_finder.png": "10",
        "eda_plots/01_eda.html": "01",
        "final_results/all/roc_curves.png": "11",
        "ensemble_all/config.json": "11",
        "final_results/confusion_matrix_baseline_naive.csv": "12",
        "interpretability_results/example_MI_saliency_1.png": "13",
        "final_results/report.html": "14",
    }.items():
        assert maker(name, artifacts).startswith(number), name
    assert maker("LOG.md", artifacts) == maker("my_model/notes.txt", artifacts) == ""


def test_a_demo_run_ends_with_a_whole_report(demo: Demo):
    path = demo.artifacts / "final_results" / "report.html"
    page = check_that_it_stands_alone(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 3.5e6
    assert "Left out" not in page.text and "Synthetic data" in page.text
    lines = (demo.artifacts / "README.md").read_text(encoding="utf-8").splitlines()
    listed = sum(line.startswith("| `") for line in lines)
    assert listed == len(list(files_of(demo.artifacts)))
