"""What `codes/14_report.py` writes: one HTML page that holds everything, and the index of the artifacts folder."""

import ast
import base64
import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd

from ecg import report_tables as tables
from ecg.artifacts import ROOT, atomic, read_table
from ecg.artifacts_index import index, maker
from ecg.labels import Splits, read_splits, read_tables
from ecg.plots import method_names
from ecg.report_tables import Best, Labels, Row
from ecg.runs import Run, find_runs
from ecg.stages import STAGES, Stage
from ecg.stats import RESULT_COLUMNS
from ecg.tasks import Task

MADE_BY = "codes/11_plots_and_metrics.py"
SHOWN = "saliency"  # the method whose pictures are on the page; of integrated gradients' heat, much needs no training
MOST_EXAMPLES = 5  # pictures of records; more would make the page heavy
CLASS_COLUMNS = ("task", "label", "train_positive", "test_positive", "macro", "macro5", "reason")
FIGURES = {  # of a task, in the order of the page
    "forest.png": "Macro AUC, and accuracy where there is a multiclass view, with 95 % intervals.",
    "per_class_auc.png": "ROC area per class and model, and the number of positive test records.",
    "roc_curves.png": "ROC curves, first seed of each model.",
    "pr_curves.png": "Precision-recall curves. Unlike ROC curves they depend on how frequent a class is.",
    "calibration.png": "Share of positive records over the predicted probability, by class.",
    "confusion_matrices.png": "Confusion matrices. Rows: the true class. Columns: the predicted class.",
    "pairwise.png": "Macro AUC of row minus column. A star: DeLong’s test after Holm’s correction.",
}
EDA = {  # of the notebook's figures those that show many records at once, in the order of the page
    "classes": "Classes: how many records, and how many classes per record.",
    "people": "Who was recorded, by class.",
    "cooccurrence": "Classes that come together.",
    "folds": "The ten folds.",
    "beats": "Median beat of each class.",
    "amplitudes": "Amplitudes by class and lead.",
    "spectra": "Spectra as recorded, by class.",
}


@dataclass(frozen=True)
class Section:
    """What the page says of one task; `folder` is where its figures are, below the artifacts folder."""

    task: Task
    folder: str
    best: Best | None
    records: str
    macro: list[str]
    has_multiclass: bool
    results: list[Row]
    variants: list[Row]
    per_class: list[Row]
    pairs: list[Row]
    figures: dict[str, str]  # file name -> caption, of those that are there

    @property
    def anchor(self) -> str:
        return f"task-{self.task.name}"


def write_report(*, data: Path, artifacts: Path, with_examples: bool) -> None:
    """Write `final_results/report.html` and `README.md` into `artifacts`; of `data` only its kind is looked at."""
    folder = artifacts / "final_results"
    page = render(artifacts, synthetic=(data / "planted_signs.csv").exists(), with_examples=with_examples)
    with atomic(folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    with atomic(artifacts / "README.md") as temporary:
        temporary.write_text(index(artifacts, find_runs(artifacts)), encoding="utf-8")
    print(f"{folder / 'report.html'}: {len(page.encode()) / 1e6:.1f} MB; index in {artifacts / 'README.md'}")


def render(artifacts: Path, *, synthetic: bool, with_examples: bool) -> str:
    """Return the page. ECGs of single records are on it only if they are synthetic or `with_examples` says so."""
    metrics = read_table(artifacts / "final_results" / "metrics.csv", made_by=MADE_BY, columns=RESULT_COLUMNS)
    page, splits, runs = _Page(artifacts), read_splits(artifacts), find_runs(artifacts)
    sections = _sections(page, metrics, splits, runs)
    first, *others = sections
    show = synthetic or with_examples
    rows, common = tables.in_common(tables.runs_table(runs))
    sanity = page.table("interpretability_results/sanity_checks.csv")
    methods = {} if sanity is None else method_names(sanity)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            synthetic=synthetic,
            show_examples=show,
            date=max(run.config.get("date", "") for run in runs),
            leads=max(len(run.config["signals"].get("leads", ())) for run in runs),
            first=first,
            others=others,
            overview=_overview(sections) if others else [],
            floor=tables.naive_auc(metrics[metrics.task == first.task.name]),
            few=tables.FEW,
            split_task=splits.first,
            splits=tables.splits_table(artifacts, splits.first),
            facts=splits,
            signals=tables.signals_sentence(artifacts),
            runs=rows,
            common=common,
            versions=tables.versions_sentence(runs),
            sanity=tables.sanity_table(sanity),
            importance=tables.importance_table(page.table("interpretability_results/lead_importance.csv"), methods),
            shown=methods.get(SHOWN, SHOWN),
            eda=[(f"eda_plots/{name}.png", text) for name, text in EDA.items()],
            examples=page.examples() if show else [],
            stages=[{"command": _command(stage), "what it does": _first_line(stage)} for stage in STAGES],
            page=page,
        )
    )


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _sections(page: "_Page", metrics: pd.DataFrame, splits: Splits, runs: list[Run]) -> list[Section]:
    """Return the tasks that have results, in the order of 02."""
    path = page.artifacts / "final_results" / "final_metrics_report.csv"
    report = read_table(path, made_by=MADE_BY, columns=("run", "task"), dtype=str, keep_default_na=False)
    classes = page.table("final_results/classes.csv", columns=CLASS_COLUMNS, text=("reason",))
    pairs = page.table("final_results/pairwise.csv")
    labels = Labels({run.model: run.task.name for run in runs})
    tasks = [task for task in splits.tasks.values() if (metrics.task == task.name).any()]
    test = _test_tables(page.artifacts, tasks, splits)
    sections = []
    for task in tasks:
        of_task = metrics[metrics.task == task.name]
        rows = None if classes is None else classes[classes.task == task.name]
        folder = "final_results" if task.name == splits.first.name else f"final_results/{task.name}"
        has_multiclass = (of_task["view"] == "multiclass").any()
        sections.append(
            Section(
                task=task,
                folder=folder,
                best=tables.best_run(of_task, task, labels),
                records=tables.records_sentence(task, test.get(task.name), has_multiclass),
                macro=tables.macro_sentences(task, of_task, rows),
                has_multiclass=has_multiclass,
                results=tables.results_table(report, task, labels),
                variants=tables.variants_table(runs, of_task, task),
                per_class=tables.class_results(of_task, task, rows, test.get(task.name), labels),
                pairs=tables.pairs_table(pairs, task, labels),
                figures={name: text for name, text in FIGURES.items() if page.has(f"{folder}/{name}")},
            )
        )
    return sections


def _test_tables(artifacts: Path, tasks: list[Task], splits: Splits) -> dict[str, pd.DataFrame]:
    """Return {task: its test records}, of those for which the tables of 02 are there."""
    there = []
    for task in tasks:
        name = "ptbxl_test.csv" if task.name == splits.first.name else "ptbxl_statements.csv"
        if (artifacts / name).exists():
            there.append(task)
    return {task: table for (task, _), table in read_tables(artifacts, ("test",), there).items()}


def _overview(sections: list[Section]) -> list[Row]:
    rows = []
    for section in sections:
        best = section.best
        if best:
            rows.append(
                {
                    "task": section.task.name,
                    "classes": str(len(section.task)),
                    "test records": f"{best.n:,}",
                    "best model": best.run,
                    "its macro AUC": best.value,
                    "is over": best.over,
                    "its macro5 AUC": best.frequent_value,
                    "macro5 is over": best.frequent_over,
                }
            )
    if not any(section.best and section.best.frequent_value for section in sections):
        rows = [{name: row[name] for name in list(row)[:-2]} for row in rows]
    return rows


class _Page:
    """What the template asks for figures and tables: they come as data, or as the name of the script to run."""

    def __init__(self, artifacts: Path):
        self.artifacts = artifacts

    def has(self, name: str) -> bool:
        return (self.artifacts / name).exists()

    def maker(self, name: str) -> str:
        script = maker(name, self.artifacts)
        return f"codes/{script}" if script else "an earlier script"

    def table(self, name: str, columns: tuple[str, ...] = (), text: tuple[str, ...] = ()) -> pd.DataFrame | None:
        """Return a CSV if it is there; of the columns `text` what is empty is an empty text."""
        if not self.has(name):
            return None
        types = dict.fromkeys(text, str)
        table = read_table(self.artifacts / name, made_by=self.maker(name), columns=columns, dtype=types)
        return table.fillna(dict.fromkeys(text, ""))

    def image(self, name: str) -> str:
        """Return a figure as a data URI, byte for byte: it is small already, and fewer colours would mix up lines."""
        return "data:image/png;base64," + base64.b64encode((self.artifacts / name).read_bytes()).decode()

    def examples(self) -> list[str]:
        """Return the first drawn record of the first classes, by the method SHOWN."""
        drawn = self.table("interpretability_results/examples.csv", columns=("file", "class", "method"))
        if drawn is None:
            return []
        files = drawn[drawn.method == SHOWN].drop_duplicates("class").file
        names = [f"interpretability_results/{file}" for file in files]
        return [name for name in names if self.has(name)][:MOST_EXAMPLES]


def _first_line(stage: Stage) -> str:
    """Return what a script says of itself in the first line of its docstring, a notebook in its title."""
    text = (ROOT / "codes" / stage.script).read_text(encoding="utf-8")
    if stage.script.endswith(".py"):
        return (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    return "".join(json.loads(text)["cells"][0]["source"]).split("\n")[0].lstrip("# ")


def _command(stage: Stage) -> str:
    script = f"codes/{stage.script}"
    return shlex.join(["python", script] if script.endswith(".py") else ["jupyter", "lab", script])
