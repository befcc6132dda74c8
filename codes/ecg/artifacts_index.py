"""The index of the artifacts folder: every file with what it is, the script that made it and its size."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from ecg.report_tables import variants_of
from ecg.runs import Run
from ecg.stages import maker_of

# What a file is; the first pattern that fits its path below the artifacts folder. Which script made it is not
# written here: the stages declare it.
WHAT = {
    "LOG.md": "what was tried and what came of it, a line each, written by hand",
    "ptbxl_statements.csv": "every record with its split and all its statements: the labels of any task follow",
    "ptbxl_splits.json": "how the splits were made, the classes of every task, and fingerprints of the labels",
    "ptbxl_*.csv": "records of one split with the labels of the first task: patient, folds, file names",
    "signals/signals.npy": "filtered signals, int16 microvolts (n_records, n_leads, n_samples)",
    "signals/records.csv": "row of signals.npy -> ecg_id",
    "signals/rejected.csv": "records that could not be used, with the reason",
    "signals/meta.json": "leads, sampling rate, unit, filter, mean and deviation per lead over the training records",
    "*/config.json": "the run's task, settings, size, time, hardware, versions and date",
    "*/history.csv": "loss, accuracy, macro AUC and learning rate per epoch",
    "*/history.png": "history.csv drawn",
    "*/best.pt": "weights of the epoch with the highest validation macro AUC",
    "*/last.pt": "state after the last epoch, from which training resumes",
    "*/lr_finder.*": "loss over the learning rate before training, and the suggested rate",
    "*/predictions_*.csv": "probability of each class by ecg_id",
    "*/predictions_*.npy": "the same probabilities, rows as in the CSV",
    "*operating_points.csv": "thresholds by purpose and what they are worth on the validation fold, see predict.py",
    "baseline*/model.*": "the fitted model",
    "final_results/metrics.csv": "every metric of every run and task with its 95 % interval, tidy",
    "*/metrics.csv": "ROC areas on the validation fold",
    "final_results/final_metrics_report.csv": "the test results in one wide table, best first within a task",
    "final_results/classes.csv": "records with each class by split, and which classes the macro averages are over",
    "final_results/thresholds.json": "thresholds per task, run and class, chosen on the validation fold",
    "final_results/roc_curves.png": "ROC curves per class",
    "final_results/pr_curves.png": "precision-recall curves per class",
    "final_results/calibration.png": "calibration curves per class",
    "final_results/forest.png": "macro AUC of every run with its interval",
    "final_results/per_class_auc.png": "ROC area per class and run",
    "final_results/histories.png": "training histories of all networks",
    "final_results/pairwise.csv": "every pair of models: McNemar, DeLong, difference of AUC with interval",
    "final_results/pairwise.md": "what the columns of pairwise.csv mean",
    "final_results/pairwise.png": "pairwise.csv drawn",
    "final_results/confusion_matrices.png": "confusion matrices of the models",
    "final_results/confusion_matrix_*.csv": "confusion matrix of one run, rows the true class",
    "final_results/confusion_counts.csv": "true and false positives and negatives per task, run and class",
    "final_results/report.html": "the report: everything on one page, needs no other file",
    "interpretability_results/lead_importance.*": "share of the attribution per class, lead and kind of channel",
    "interpretability_results/sanity_checks.*": "sanity checks of the attributions",
    "interpretability_results/examples.csv": "which records were drawn",
    "interpretability_results/example_*.png": "a test record with its attribution as heat",
    "benchmarks/*": "what a script in codes/benchmarks/ measured, with hardware, versions and date",
    "eda_plots/example_*.png": "one record of a class",
    "eda_plots/amplitude_statistics.csv": "variance, energy and peak-to-mean ratio per class and lead",
    "eda_plots/01_eda.html": "the notebook as it ran, with all its figures",
    "eda_plots/*.png": "a figure of the data, see the notebook",
}


def index(artifacts: Path, runs: list[Run]) -> str:
    """Return `artifacts/README.md`: every file with what it is, the script that made it and its size."""
    lines = [
        "# What the scripts made",
        "",
        "Written by `codes/14_report.py`; begin with [final_results/report.html](final_results/report.html). Not in",
        "git are what shows or lists single records (signals, tables, predictions, example ECGs, the notebook's page),",
        "`last.pt` and scikit-learn's models (`*.skops`).",
    ]
    folders = _folders(artifacts, runs)
    folder = None
    for path in files_of(artifacts):
        name = path.relative_to(artifacts).as_posix()
        parent = name.rpartition("/")[0]
        if parent != folder:
            folder = parent
            lines += ["", f"## {folder or 'In this folder'}", ""]
            if folder in folders:
                lines += [folders[folder], ""]
            lines += ["| file | what it is | made by | size |", "|---|---|---|---:|"]
        script = maker(name, artifacts)
        made_by = f"`{script}`" if script else "–"
        lines.append(f"| `{path.name}` | {describe(name)} | {made_by} | {_size(path.stat().st_size)} |")
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
    """Return what WHAT says of a path below the artifacts folder, or nothing of a file that a user put there.

    A file of final_results/TASK/ is what that of final_results/ is for the first task.
    """
    parts = name.split("/")
    if parts[0] == "final_results" and len(parts) == 3:
        name = f"final_results/{parts[2]}"
    return next((text for pattern, text in WHAT.items() if fnmatchcase(name, pattern)), "")


def _folders(artifacts: Path, runs: list[Run]) -> dict[str, str]:
    """Return {folder: what it holds} of the runs and of the tasks' figures."""
    found = {}
    for path in (artifacts / "final_results").glob("*"):
        if path.is_dir():
            found[f"final_results/{path.name}"] = f"Figures and matrices of the task {path.name}."
    settings = variants_of(runs)
    for run in runs:
        words = f"A run of `{run.config['model']}` on the task {run.task.name}, {len(run.task)} classes"
        if run.name in settings:
            words += f"; {settings[run.name]}"
        found[run.folder.relative_to(artifacts).as_posix()] = f"{words}."
    return found


def _size(n: int) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{max(n, 1) / 1e3:.1f} kB"


def maker(name: str, artifacts: Path) -> str:
    """Return the script that wrote the file `name`, a path below the artifacts folder; empty for a user's own file."""
    stage = maker_of(name, artifacts)
    return stage.script if stage else ""
