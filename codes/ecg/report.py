"""What `codes/14_report.py` writes: one HTML page that holds everything, and the index of the artifacts folder."""

import ast
import base64
import json
import shlex
from collections.abc import Iterable
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from ecg.artifacts import ROOT, atomic, read_json, read_table
from ecg.labels import CLASS_NAMES, CLASSES, SPLITS, read_split, read_split_facts
from ecg.plots import method_names, short
from ecg.predictions import find_runs
from ecg.stages import PAGES, Stage, find_stages
from ecg.stats import RESULT_COLUMNS

MADE_BY = "codes/11_plots_and_metrics.py"
SHOWN = "saliency"  # the method whose pictures are on the page; of integrated gradients' heat, much needs no training
# What a file is; the first pattern that fits its path below the artifacts folder. Which script made it is not
# written here but found in the scripts' docstrings.
WHAT = {
    "LOG.md": "what was tried and what came of it, a line each, written by hand",
    "ptbxl_*.csv": "records of one split: patient, labels, folds, file names",
    "ptbxl_splits.json": "how the splits were made, and a fingerprint of them",
    "signals/signals.npy": "filtered signals, int16 microvolts (n_records, 12, n_samples)",
    "signals/records.csv": "row of signals.npy -> ecg_id",
    "signals/rejected.csv": "records that could not be used, with the reason",
    "signals/meta.json": "leads, sampling rate, unit, filter, mean and deviation per lead over the training records",
    "*/config.json": "the run's settings, size, time, hardware, versions and date",
    "*/history.csv": "loss, accuracy, macro AUC and learning rate per epoch",
    "*/history.png": "history.csv drawn",
    "*/best.pt": "weights of the epoch with the highest validation macro AUC",
    "*/last.pt": "state after the last epoch, from which training resumes",
    "*/lr_finder.*": "loss over the learning rate before training, and the suggested rate",
    "*/predictions_*.csv": "probability of each superclass by ecg_id",
    "*/predictions_*.npy": "the same probabilities, rows as in the CSV",
    "baseline/*/model.*": "the fitted model",
    "final_results/metrics.csv": "every metric of every run with its 95 % interval, tidy",
    "*/metrics.csv": "ROC areas on the validation fold",
    "final_results/final_metrics_report.csv": "the test results in one wide table, best first",
    "final_results/thresholds.json": "thresholds per run and class, chosen on the validation fold",
    "final_results/roc_curves.png": "ROC curves per class",
    "final_results/pr_curves.png": "precision-recall curves per class",
    "final_results/calibration.png": "calibration curves per class",
    "final_results/forest.png": "macro AUC of every run with its interval",
    "final_results/per_class_auc.png": "ROC area per class and run",
    "final_results/histories.png": "training histories of all networks",
    "final_results/pairwise.csv": "every pair of models: McNemar, DeLong, difference of AUC with interval",
    "final_results/pairwise.md": "what the columns of pairwise.csv mean",
    "final_results/pairwise.png": "pairwise.csv drawn",
    "final_results/confusion_matrices.png": "confusion matrices of all models",
    "final_results/confusion_matrix_*.csv": "confusion matrix of one run, rows the true class",
    "final_results/confusion_counts.csv": "true and false positives and negatives per run and class",
    "final_results/report.html": "the report: everything on one page, needs no other file",
    "interpretability_results/lead_importance.*": "share of the attribution per class, lead and kind of channel",
    "interpretability_results/sanity_checks.*": "whether the attributions deserve belief",
    "interpretability_results/examples.csv": "which records were drawn",
    "interpretability_results/example_*.png": "a test record with its attribution as heat",
    "benchmarks/*": "what a script in codes/benchmarks/ measured, with hardware, versions and date",
    "eda_plots/example_*.png": "one record of a superclass",
    "eda_plots/amplitude_statistics.csv": "variance, energy and peak-to-mean ratio per class and lead",
    "eda_plots/01_eda.html": "the notebook as it ran, with all its figures",
    "eda_plots/*.png": "a figure of the data, see the notebook",
}
EDA = {  # of the notebook's figures those that show many records at once, in the order of the page
    "classes": "Superclasses: how many records, and how many superclasses per record.",
    "people": "Who was recorded, by superclass.",
    "cooccurrence": "Superclasses that come together.",
    "folds": "The ten folds.",
    "beats": "Median beat of each superclass.",
    "amplitudes": "Amplitudes by class and lead.",
    "spectra": "Spectra as recorded, by class.",
}


def write_report(*, data: Path, artifacts: Path, with_examples: bool) -> None:
    """Write `final_results/report.html` and `README.md` into `artifacts`; of `data` only its kind is looked at."""
    stages = find_stages(ROOT / "codes")
    folder = artifacts / "final_results"
    page = render(artifacts, stages, synthetic=(data / "planted_signs.csv").exists(), with_examples=with_examples)
    with atomic(folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    with atomic(artifacts / "README.md") as temporary:
        temporary.write_text(index(artifacts, stages), encoding="utf-8")
    print(f"{folder / 'report.html'}: {len(page.encode()) / 1e6:.1f} MB; index in {artifacts / 'README.md'}")


def render(artifacts: Path, stages: list[Stage], *, synthetic: bool, with_examples: bool) -> str:
    """Return the page. ECGs of single records are on it only if they are synthetic or `with_examples` says so."""
    final = artifacts / "final_results"
    metrics = read_table(final / "metrics.csv", made_by=MADE_BY, columns=RESULT_COLUMNS)
    wide = read_table(
        final / "final_metrics_report.csv", made_by=MADE_BY, columns=("run",), dtype=str, keep_default_na=False
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = _Page(artifacts, stages)
    configs = [run.config | {"run": run.name} for run in find_runs(artifacts)]
    show = synthetic or with_examples
    runs, common = _in_common(_runs(configs))
    sanity = page.table("interpretability_results/sanity_checks.csv")
    methods = {} if sanity is None else method_names(sanity)
    return environment.get_template("report.html.j2").render(
        synthetic=synthetic,
        show_examples=show,
        date=max((c.get("date", "") for c in configs), default=""),
        best=_best(metrics),
        floor=_best(metrics[metrics.run.str.fullmatch("baseline/naive")]),
        classes=CLASS_NAMES,
        splits=_splits(artifacts),
        facts=read_split_facts(artifacts) if page.has("ptbxl_splits.json") else {},
        signals=_signals(artifacts),
        runs=runs,
        common=common,
        versions=_versions(configs),
        results=_records(wide.assign(run=wide.run.map(short))),
        per_class=_positive(artifacts) + _per_class(metrics),
        pairs=_pairs(page.table("final_results/pairwise.csv")),
        sanity=_sanity(sanity),
        importance=_importance(page.table("interpretability_results/lead_importance.csv"), methods),
        shown=methods.get(SHOWN, SHOWN),
        eda=[(f"eda_plots/{name}.png", text) for name, text in EDA.items()],
        examples=page.examples() if show else [],
        stages=[{"command": _command(stage), "what it does": _first_line(stage)} for stage in stages],
        page=page,
    )


class _Page:
    """What the template asks for figures and tables: they come as data, or as the name of the script to run."""

    def __init__(self, artifacts: Path, stages: list[Stage]):
        self.artifacts, self.stages = artifacts, stages

    def has(self, name: str) -> bool:
        return (self.artifacts / name).exists()

    def maker(self, name: str) -> str:
        stage = made_by(name, self.stages)
        return f"codes/{stage.path.name}" if stage else "an earlier script"

    def table(self, name: str) -> pd.DataFrame | None:
        return read_table(self.artifacts / name, made_by=self.maker(name)) if self.has(name) else None

    def image(self, name: str) -> str:
        """Return a figure as a data URI, byte for byte: it is small already, and fewer colours would mix up lines."""
        return "data:image/png;base64," + base64.b64encode((self.artifacts / name).read_bytes()).decode()

    def examples(self) -> list[str]:
        """Return one drawn record per class, the first, by the method SHOWN; more would make the page heavy."""
        names = (f"interpretability_results/example_{label}_{SHOWN}_1.png" for label in CLASSES)
        return [name for name in names if self.has(name)]


# --- tables: lists of {column: text}, which is what the template prints --------------------------------------------


def _records(table: pd.DataFrame) -> list[dict[str, str]]:
    return table.astype(str).to_dict("records")


def _interval(row: Any, digits: int = 3) -> str:
    value = f"{row.value:.{digits}f}" if np.isfinite(row.value) else "–"
    return f"{value} [{row.ci_low:.{digits}f}, {row.ci_high:.{digits}f}]" if np.isfinite(row.ci_low) else value


def _p(value: float) -> str:
    return "–" if not np.isfinite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _best(metrics: pd.DataFrame) -> dict[str, Any] | None:
    """Return the run with the highest macro AUC on the test records: name, value, interval, n."""
    macro = metrics[(metrics.split == "test") & (metrics.view == "multilabel") & (metrics.label == "macro")]
    auc = macro[(macro.metric == "auc") & ~macro.run.str.contains("/seed") & macro.value.notna()]
    if auc.empty:
        return None
    row = auc.loc[auc.value.idxmax()]
    return {"run": short(row.run), "value": _interval(row), "n": int(row.n), "models": len(auc)}


def _splits(artifacts: Path) -> list[dict[str, str]]:
    rows = []
    for name in SPLITS:
        if not (artifacts / f"ptbxl_{name}.csv").exists():
            continue
        table = read_split(artifacts, name)
        row = {"split": name, "records": len(table), "patients": table.patient_id.nunique()}
        row |= {label: int(table[label].sum()) for label in CLASSES}
        row |= {"exactly one": int((table.label != "").sum()), "median age": f"{table.age.median():.0f}"}
        rows.append(row | {"female": f"{100 * (table.sex == 1).mean():.0f} %"})  # PTB-XL: 0 male, 1 female
    return _records(pd.DataFrame(rows))


def _signals(artifacts: Path) -> str:
    if not (artifacts / "signals" / "meta.json").exists():
        return ""
    meta = read_json(artifacts / "signals" / "meta.json", made_by="codes/03_preprocess.py")
    band = meta["filter"]
    text = (
        f"{meta['n_records']:,} records of {meta['n_samples'] / meta['fs']:g} s and {len(meta['leads'])} leads at "
        f"{meta['fs']} Hz; zero-phase band-pass {band['low']:g}–{band['high']:g} Hz; "
        f"limited to ± {meta['limit_mv']:g} mV"
    )
    rejected = artifacts / "signals" / "rejected.csv"
    if rejected.exists():
        text += f"; {len(read_table(rejected, made_by='codes/03_preprocess.py')):,} records rejected"
    return text + "."


def _runs(configs: list[dict[str, Any]]) -> list[dict[str, str]]:
    rows = []
    for config in configs:
        settings = config.get("settings", {})
        best = config.get("best_epoch")
        row = {"run": short(config["run"]), "seed": config.get("seed", "–"), "task": config.get("task", "–")}
        row |= {
            "model": config.get("model", "–"),
            "augmented": "yes" if config.get("augment") else "no",
            "weights": f"{config.get('weights', 0):,}",
        }
        row |= {"epochs": f"{best} of {settings.get('epochs', '–')}" if best else "–"}
        row |= {"n train": config.get("n_train", "–")}
        row |= {"seconds": f"{config['seconds']:.0f}" if "seconds" in config else "–"}
        row |= {"precision": config.get("precision", "float64")}
        threads = config.get("threads", "–")
        row |= {"hardware": f"{config.get('hardware', '–')}, {threads} thread{'s' * (threads != 1)}"}
        rows.append(row | {"date": config.get("date", "–")})
    table = pd.DataFrame(rows)
    table.loc[table.weights == "0", "weights"] = "–"
    return _records(table)


def _in_common(rows: list[dict[str, str]]) -> tuple[list[dict[str, str]], str]:
    """Return the rows without the columns that say the same everywhere, and those as a sentence."""
    same = (
        [name for name in rows[0] if name != "run" and len({row[name] for row in rows}) == 1] if len(rows) > 1 else []
    )
    words = ", ".join(f"{name} {rows[0][name]}" for name in same)
    return [{k: v for k, v in row.items() if k not in same} for row in rows], f"All runs: {words}." if words else ""


def _versions(configs: list[dict[str, Any]]) -> str:
    found: dict[str, set[str]] = {}
    for config in configs:
        for name, version in ({"torch": config.get("torch")} | config.get("versions", {})).items():
            if version:
                found.setdefault(name, set()).add(version)
    return ", ".join(f"{name} {' and '.join(sorted(versions))}" for name, versions in sorted(found.items()))


def _positive(artifacts: Path) -> list[dict[str, str]]:
    """Return how many test records each class has in either view: what its numbers rest on."""
    if not (artifacts / "ptbxl_test.csv").exists():
        return []
    test = read_split(artifacts, "test")
    one = test[test.label != ""]
    rows = [("multilabel", test), ("multiclass", one)]
    return [
        {"run": f"positive of {len(table):,} records, {view}"}
        | {label: f"{table[label].sum():,}" for label in CLASSES}
        | {"macro": ""}
        for view, table in rows
    ]


def _per_class(metrics: pd.DataFrame) -> list[dict[str, str]]:
    """Return ROC areas on the test records, a row per model, best macro AUC first."""
    auc = metrics[(metrics.split == "test") & (metrics.view == "multilabel") & (metrics.metric == "auc")]
    auc = auc[~auc.run.str.contains("/seed")]
    order = auc[auc.label == "macro"].sort_values("value", ascending=False).run
    rows = []
    for run in order:
        cells = auc[auc.run == run].set_index("label")
        rows.append({"run": short(run)} | {label: _interval(cells.loc[label]) for label in (*CLASSES, "macro")})
    return rows


def _pairs(pairs: pd.DataFrame | None) -> list[dict[str, str]]:
    if pairs is None:
        return []
    rows = []
    for row in pairs[pairs.label == "macro"].itertuples():
        interval = f"{row.diff:+.3f} [{row.ci_low:+.3f}, {row.ci_high:+.3f}]"
        entry = {"view": row.view, "a": short(row.run_a), "b": short(row.run_b), "n": row.n}
        entry |= {"only a right": row.b, "only b right": row.c, "McNemar p (Holm)": _p(row.p_holm)}
        rows.append(entry | {"AUC a − b": interval, "DeLong p (Holm)": _p(row.p_delong_holm)})
    return _records(pd.DataFrame(rows))


def _sanity(table: pd.DataFrame | None) -> list[dict[str, str]]:
    """Return the checks that come to a verdict; the others are in the figure."""
    if table is None:
        return []
    rows = []
    for row in table[table.verdict.notna()].itertuples():
        reference = f"{row.reference:.2f}" if np.isfinite(row.reference) else "–"
        entry = {"check": row.check, "method": row.method.replace("_", " "), "setting": row.setting}
        rows.append(entry | {"value": _interval(row), "reference": reference, "n": row.n, "verdict": row.verdict})
    return _records(pd.DataFrame(rows))


def _importance(table: pd.DataFrame | None, names: dict[str, str]) -> list[dict[str, str]]:
    """Return, per class and method, the three leads with the largest share and the derivative channels' share.

    `names` says how a method is called.
    """
    if table is None:
        return []
    rows = []
    for (label, method), group in table.groupby(["class", "method"], sort=False):
        derivative = group[(group.lead == "all") & (group.kind == "derivative")].iloc[0]
        leads = group[(group.kind == "both") & (group.lead != "all")].nlargest(3, "share")
        top = ", ".join(f"{row.lead} {100 * row.share:.0f} %" for row in leads.itertuples())
        share = _interval(derivative.rename({"share": "value"}), digits=2)
        entry = {"class": label, "method": names.get(method, method), "n": derivative.n}
        rows.append(entry | {"strongest leads": top, "derivative share": share})
    return _records(pd.DataFrame(rows))


# --- the index ----------------------------------------------------------------------------------------------------


def index(artifacts: Path, stages: list[Stage]) -> str:
    """Return `artifacts/README.md`: every file with what it is, the script that made it and its size."""
    lines = [
        "# What the scripts made",
        "",
        "Written by `codes/14_report.py`; begin with [final_results/report.html](final_results/report.html). Not in",
        "git are what shows or lists single records (signals, tables, predictions, example ECGs, the notebook's page),",
        "`last.pt` and scikit-learn's models (`*.skops`).",
    ]
    folder = None
    for path in files_of(artifacts):
        name = path.relative_to(artifacts).as_posix()
        if (parent := name.rpartition("/")[0]) != folder:
            folder = parent
            lines += ["", f"## {folder or 'In this folder'}", ""]
            lines += ["| file | what it is | made by | size |", "|---|---|---|---:|"]
        stage = made_by(name, stages)
        maker = f"`{stage.path.name}`" if stage else "–"
        lines.append(f"| `{path.name}` | {describe(name)} | {maker} | {_size(path.stat().st_size)} |")
    return "\n".join(lines) + "\n"


def files_of(artifacts: Path) -> Iterable[Path]:
    """Return the files the index lists, folder after folder: not itself, logs, other data sets or hidden ones."""
    paths = []
    for path in artifacts.rglob("*"):
        parts = path.relative_to(artifacts).parts
        hidden = any(part.startswith(".") for part in parts)
        if path.is_file() and not hidden and parts[0] not in ("demo", "logs") and parts != ("README.md",):
            paths.append(path)
    return sorted(paths, key=lambda path: (path.relative_to(artifacts).parent.as_posix(), path.name))


def describe(name: str) -> str:
    """Return what WHAT says of a path below the artifacts folder, or nothing of a file that a user put there."""
    return next((text for pattern, text in WHAT.items() if fnmatchcase(name, pattern)), "")


def made_by(name: str, stages: list[Stage]) -> Stage | None:
    """Return the stage that wrote the file `name`, a path below the artifacts folder.

    A file that no docstring declares (a further seed, one file per run) belongs to the stage that declares the file
    of the same folder whose name begins most alike, if any does.
    """
    folder, _, file = f"artifacts/{name}".rpartition("/")
    parent, _, last = folder.rpartition("/")
    folder = parent if last.startswith("seed") and last[4:].isdigit() else folder
    best, length = None, 0
    for stage in stages:
        page = (f"{PAGES}/{stage.name}.html",) if stage.path.suffix == ".ipynb" else ()
        for declared in (*stage.writes, *page):
            where, _, declared_file = declared.rpartition("/")
            if where == folder:
                same = takewhile(lambda pair: pair[0] == pair[1], zip(file, declared_file, strict=False))
                alike = sum(1 for _ in same) + (file == declared_file)
                if alike > length:
                    best, length = stage, alike
    return best


def _size(n: int) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{max(n, 1) / 1e3:.1f} kB"


def _first_line(stage: Stage) -> str:
    """Return what a script says of itself in the first line of its docstring, a notebook in its title."""
    text = stage.path.read_text(encoding="utf-8")
    if stage.path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    return "".join(json.loads(text)["cells"][0]["source"]).split("\n")[0].lstrip("# ")


def _command(stage: Stage) -> str:
    script = f"codes/{stage.path.name}"
    return shlex.join(["jupyter", "lab", script] if stage.path.suffix == ".ipynb" else ["python", script])
