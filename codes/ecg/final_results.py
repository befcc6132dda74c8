"""The two stages that turn the predictions of all runs into tables and figures: `artifacts/final_results/`.

Everything is done per task: a run is evaluated on its own and on those that its classes make up. Figures of the first
task are in `final_results/`, those of another in `final_results/TASK/`.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ecg import plots
from ecg.artifacts import atomic, read_table, write_csv, write_json
from ecg.calibration import fit_temperature, logits_of, probability_of
from ecg.command_line import check_at_least
from ecg.ensemble import write_ensembles
from ecg.labels import SPLITS, Splits, read_splits, read_tables
from ecg.metrics import ENOUGH, choose_thresholds, macros
from ecg.operating_points import write_operating_points
from ecg.runs import Run, check_labels, find_runs, join_labels
from ecg.stats import (
    PAIR_COLUMNS,
    Evaluation,
    TaskResults,
    by_model,
    common_records,
    compare_pairs,
    confusion_counts,
    confusion_matrix,
    measure_runs,
    share_with_one_class,
)
from ecg.tasks import Task

EVALUATED = ("val", "test")
FINEST = 1e-15  # a temperature must not make records equal that a run told apart


# --- reading -------------------------------------------------------------------------------------------------------


def read_runs(artifacts: Path) -> list[TaskResults]:
    """Return every task that a run answers, in the order of 02, with all evaluations of it; each file is read once."""
    splits, runs = read_splits(artifacts), find_runs(artifacts)
    for run in runs:
        check_labels(run, splits)
    others = {run.name: _other_tasks(run, splits) for run in runs}
    names = {task.name for tasks in others.values() for task in tasks}
    names = names | {run.task.name for run in runs}
    tasks = [task for name, task in splits.tasks.items() if name in names]
    tables = read_tables(artifacts, EVALUATED, tasks)
    evaluations: dict[str, list[Evaluation]] = {task.name: [] for task in tasks}
    for run in runs:
        own = _evaluate_own(run, splits.tasks[run.task.name], tables)
        evaluations[own.task.name].append(own)
        for task in others[run.name]:
            answered = _evaluate_other(own, task, tables)
            if answered is None:
                print(f"{run.name} is not evaluated on {task.name}: it predicted no val or no test record of it")
            else:
                evaluations[task.name].append(answered)
    return [
        TaskResults(task, {split: tables[task.name, split] for split in EVALUATED}, evaluations[task.name])
        for task in tasks
        if evaluations[task.name]
    ]


def _other_tasks(run: Run, splits: Splits) -> list[Task]:
    """Return the tasks that the classes of a run make up, besides its own.

    None for a softmax: its classes exclude each other, and 1 - product(1 - p) is for those that do not.
    """
    own = splits.tasks[run.task.name]
    if run.config["objective"] != "multilabel":
        return []
    return [task for name, task in splits.tasks.items() if name != own.name and own.sources(task) is not None]


def _evaluate_own(run: Run, task: Task, tables: dict[tuple[str, str], pd.DataFrame]) -> Evaluation:
    read = {split: join_labels(run, split, tables[task.name, split]) for split in EVALUATED}
    labels = {split: table[list(task.classes)].astype(int) for split, (table, _) in read.items()}
    probability = {split: table for split, (_, table) in read.items()}
    thresholds = choose_thresholds(labels["val"].to_numpy(), probability["val"].to_numpy())
    return Evaluation(run, task, labels, probability, thresholds)


def _evaluate_other(own: Evaluation, task: Task, tables: dict[tuple[str, str], pd.DataFrame]) -> Evaluation | None:
    """Return what a run answers to a task that its classes make up, None if it predicted no val or test record of it.

    The answer is of the records that have a class of that task, with a temperature of its own from validation.
    """
    labels, answers = {}, {}
    for split in EVALUATED:
        predicted, table = own.probability[split], tables[task.name, split].set_index("ecg_id")
        labels[split] = table.loc[table.index.isin(predicted.index), list(task.classes)].astype(int)
        if labels[split].empty:
            return None
        answers[split] = own.task.answer(predicted.loc[labels[split].index].to_numpy(), task)
    known = labels["val"].to_numpy()
    temperature = fit_temperature(known, answers["val"], "multilabel")
    probability = {}
    for split, answer in answers.items():
        logits = logits_of(answer, "multilabel", certain=FINEST)
        calibrated = probability_of(logits / temperature, "multilabel")
        probability[split] = pd.DataFrame(calibrated, index=labels[split].index, columns=list(task.classes))
    thresholds = choose_thresholds(known, probability["val"].to_numpy())
    return Evaluation(own.run, task, labels, probability, thresholds, temperature)


# --- 11: metrics ---------------------------------------------------------------------------------------------------

REPORT = {  # column of the wide table -> (view, metric, label)
    "macro AUC": ("multilabel", "auc", "macro"),
    "macro5 AUC": ("multilabel", "auc", "macro5"),
    "average precision": ("multilabel", "ap", "macro"),
    "F1": ("multilabel", "f1", "macro"),
    "exact match": ("multilabel", "exact_match", "macro"),
    "Brier": ("multilabel", "brier", "macro"),
    "ECE": ("multilabel", "ece", "macro"),
    "ECE by chance": ("multilabel", "ece_by_chance", "macro"),
    "multiclass accuracy": ("multiclass", "accuracy", "macro"),
    "multiclass F1": ("multiclass", "f1", "macro"),
    "multiclass AUC": ("multiclass", "auc", "macro"),
}
REPORT_COLUMNS = ("run", "task", "seeds", "seed sd", "n", "classes", *REPORT, "macro5 classes", "multiclass n")


def report_table(metrics: pd.DataFrame, results: TaskResults) -> pd.DataFrame:
    """Return one task's test results for people, a row per model and per seed: `0.912 [0.880, 0.938]`, best first.

    `seeds` is the number behind a row, `seed sd` the standard deviation of macro AUC between them, `classes` and
    `macro5 classes` the numbers of classes behind the means. A number without an interval is alone in its cell.
    """
    test = metrics[(metrics.split == "test") & metrics.label.isin(["macro", "macro5"])]
    cells = test.set_index(["view", "metric", "label", "run"]).sort_index()
    auc = cells.loc["multilabel", "auc", "macro"]
    models = by_model(results.evaluations)
    rows = []
    for model in sorted(models, key=lambda name: -np.nan_to_num(auc.value[name])):
        names = [evaluation.run.name for evaluation in models[model]]
        for name in dict.fromkeys([model, *names]):
            several = name == model and len(names) > 1
            row = {
                "run": name,
                "task": results.task.name,
                "seeds": len(names) if several else 1,
                "seed sd": f"{auc.value[names].std(ddof=1):.4f}" if several else "",
                "n": auc.n[name],
                "classes": auc.classes[name],
                "macro5 classes": cells.classes.get(("multilabel", "auc", "macro5", name)),
                "multiclass n": cells.n.get(("multiclass", "accuracy", "macro", name), 0),
            }
            for title, key in REPORT.items():
                if (*key, name) in cells.index:
                    row[title] = _with_interval(cells.loc[(*key, name)])
            rows.append(row)
    return pd.DataFrame(rows, columns=list(REPORT_COLUMNS))


def _with_interval(cell: pd.Series) -> str:
    if not np.isfinite(cell.value):
        return ""
    return f"{cell.value:.3f}" + (f" [{cell.ci_low:.3f}, {cell.ci_high:.3f}]" if np.isfinite(cell.ci_low) else "")


def class_table(task: Task, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return how many records of a task have each class, and in which means of the test fold the class is.

    `tables` are {split: table of `read_split`}. `reason` says why a class is left out of `macro` or `macro5`.
    """
    labels = {split: table[list(task.classes)].to_numpy() for split, table in tables.items()}
    positive, n = labels["test"].sum(axis=0), len(labels["test"])
    in_macro = macros(labels["test"])["macro"].members
    table = pd.DataFrame({"task": task.name, "label": list(task.classes), "long_name": list(task.long_names)})
    for split in SPLITS:
        table[f"{split}_positive"] = labels[split].sum(axis=0)
        table[f"{split}_records"] = len(labels[split])
    table["macro"] = in_macro
    table["macro5"] = in_macro & (positive >= ENOUGH)
    reasons = [
        (positive == 0, "no positives in the test fold"),
        (positive == n, "no negatives in the test fold"),
        (positive < ENOUGH, f"fewer than {ENOUGH} positives in the test fold"),
    ]
    table["reason"] = np.select([chosen for chosen, _ in reasons], [reason for _, reason in reasons], "")
    return table


def what_was_left_out(results: TaskResults, classes: pd.DataFrame) -> str:
    """Return, in a sentence, the size of a task and what there is not; `classes` are its rows of `class_table`."""
    own = {evaluation.run.model for evaluation in results.evaluations if evaluation.is_own}
    others = {evaluation.run.model for evaluation in results.evaluations} - own
    parts = [f"{results.task.name}: {len(classes)} classes, {len(results.records['test'])} test records"]
    parts.append(f"answered by {len(own)} models trained on it and {len(others)} trained on another task")
    for reason, rows in classes[classes.reason != ""].groupby("reason", sort=False):
        kept = rows.macro.all()  # too few positives only cost the interval
        names = ", ".join(rows.label)
        count = f"{len(rows)} with {reason} " + ("are in macro, not in macro5" if kept else "are left out")
        parts.append(f"{count}: {names}".replace("with no ", "without "))
    if not results.has_multiclass_view:
        share = 100 * share_with_one_class(results.test_labels)
        parts.append(f"no multiclass view: {share:.0f} % of the test records have exactly one class")
    return "; ".join(parts)


def threshold_table(results: Iterable[TaskResults]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return {task: {run: {class: threshold}}}; None for a class without validation positives, answered at 0.5."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for of_task in results:
        of_run = found.setdefault(of_task.task.name, {})
        for evaluation in of_task.evaluations:
            known = evaluation.labels["val"].to_numpy().any(axis=0)
            thresholds = zip(of_task.task.classes, evaluation.thresholds.tolist(), known, strict=True)
            of_run[evaluation.run.name] = {label: value if chosen else None for label, value, chosen in thresholds}
    return found


def plots_and_metrics(*, data: Path, artifacts: Path, replicates: int, seed: int) -> None:
    """Write the tables and figures of `codes/11_plots_and_metrics.py`; `data` is not read."""
    check_at_least("--replicates", replicates, 1)
    check_at_least("--seed", seed, 0)
    write_ensembles(artifacts)
    folder, results, first = artifacts / "final_results", read_runs(artifacts), read_splits(artifacts).first
    train = read_tables(artifacts, ("train",), [of_task.task for of_task in results])
    metrics, reports, classes = [], [], []
    for of_task in results:
        task = of_task.task
        measured = measure_runs(of_task, replicates=replicates, seed=seed)
        metrics.append(measured)
        reports.append(report_table(measured, of_task))
        classes.append(class_table(task, of_task.records | {"train": train[task.name, "train"]}))
        print(what_was_left_out(of_task, classes[-1]))
    write_csv(pd.concat(metrics, ignore_index=True).round(6), folder / "metrics.csv")
    report = pd.concat(reports, ignore_index=True)
    unused = [name for name in ("macro5 AUC", "macro5 classes") if report[name].isna().all()]
    report = report.drop(columns=unused)
    write_csv(report, folder / "final_metrics_report.csv")
    write_csv(pd.concat(classes, ignore_index=True), folder / "classes.csv")
    write_json(threshold_table(results), folder / "thresholds.json")
    for of_task in results:
        for evaluation in of_task.evaluations:
            if evaluation.is_own:  # what predict.py answers
                of_val = evaluation.labels["val"], evaluation.probability["val"]
                write_operating_points(evaluation.run.folder, *of_val, of_task.task)

    written = {folder / "histories.png"}
    histories = _histories([run for of_task in results for run in _runs_trained_on(of_task)])
    plots.save_figure(plots.plot_histories(histories), folder / "histories.png")
    for of_task, measured in zip(results, metrics, strict=True):
        for name, figure in _curves(of_task, measured).items():
            path = _figure_folder(folder, of_task.task, first) / name
            plots.save_figure(figure, path)
            written.add(path)
    _remove_others(folder, (*CURVES, "histories.png"), written)
    shown = ["run", "task", "seeds", "classes", "macro AUC", "F1", "multiclass accuracy"]
    print(report.loc[~report.run.str.contains("/seed"), shown].fillna("").to_string(index=False))
    print(f"95 % intervals: {replicates} resamples of the patients; all of it in {folder}")


CURVES = ("roc_curves.png", "pr_curves.png", "calibration.png", "forest.png", "per_class_auc.png")


def _curves(results: TaskResults, metrics: pd.DataFrame) -> dict[str, Figure]:
    """Return {file name: figure} of one task, the first seed of each model standing for it in the curves."""
    task, predictions = results.task, {}
    for model, (first, *_) in by_model(results.evaluations).items():
        predictions[model] = first.labels["test"].to_numpy(), first.probability["test"].to_numpy()
    positive = dict(zip(task.classes, results.test_labels.sum(axis=0).tolist(), strict=True))
    figures = (
        plots.plot_roc(predictions, task),
        plots.plot_precision_recall(predictions, task),
        plots.plot_calibration(predictions, task),
        plots.plot_forest(metrics, task),
        plots.plot_class_auc(metrics, positive, task),
    )
    return dict(zip(CURVES, figures, strict=True))


def _figure_folder(folder: Path, task: Task, first: Task) -> Path:
    """Return where the figures of a task go: `final_results/` for the first task of 02, else a folder inside."""
    return folder if task.name == first.name else folder / task.name


def _remove_others(folder: Path, patterns: Iterable[str], written: set[Path]) -> None:
    """Remove files that an earlier call left for a task or run that is no longer there, and folders left empty."""
    for pattern in patterns:
        for path in [*folder.glob(pattern), *folder.glob(f"*/{pattern}")]:
            if path not in written:
                path.unlink()
    for inside in folder.iterdir():
        if inside.is_dir() and not any(inside.iterdir()):
            inside.rmdir()


def _runs_trained_on(results: TaskResults) -> list[Run]:
    return [evaluation.run for evaluation in results.evaluations if evaluation.is_own]


def _histories(runs: list[Run]) -> dict[str, list[pd.DataFrame]]:
    columns = ("epoch", "lr", "train_loss", "val_loss", "val_accuracy", "val_macro_auc")
    histories: dict[str, list[pd.DataFrame]] = {}
    for run in runs:
        if (run.folder / "history.csv").exists():  # networks; the baselines have no epochs
            table = read_table(run.folder / "history.csv", made_by="the training script again", columns=columns)
            histories.setdefault(run.model, []).append(table)
    return histories


# --- 12: confusion matrices and pairs ------------------------------------------------------------------------------

PAIRWISE_TEXT = """\
# Pairs of models on the test records (pairwise.csv)

{tasks}

Models are compared within a task and on the same records, joined by ecg_id: those that each of them predicted. A model
answers its own task and every task that its classes make up. Where a model was trained with several seeds, its AUC is
the mean over them, as in metrics.csv, and everything about AUC is of that mean; it does not cover the choice of seeds.
McNemar's test needs one decision per record and takes those of the first seed, never the best one.

- `task`, `view`, `label`: `multilabel` per class, at thresholds frozen on the validation fold, and `macro`, where a
  record counts as right if the answers for all classes are; `multiclass`, `macro`: the arg-max of records with exactly
  one class, in tasks where that is at least 70 % of the test records.
- `n` records; `b` only `run_a` is right, `c` only `run_b` is right (first seeds).
- `p_mcnemar`: exact McNemar test, two-sided. `p_holm`: the same after Holm's correction. There are two families within
  one task, view and label: the pairs of models that were both trained on the task, and the pairs of which at least one
  answers it from another task. The correction does not cover looking at several labels.
- `auc_a`, `auc_b`: ROC AUC (`macro`: unweighted mean over the classes with positive and negative records, as many as
  `classes` says). `diff` is `auc_a - auc_b` with a 95 % interval from {replicates} resamples of the patients, the same
  ones for both models; not corrected for the number of pairs. Where one of those classes has fewer than five positive
  records, `macro` has no interval, because rare classes drop out of resamples, and there is a row `macro5`: the mean
  over the classes with at least five, with its interval; a record is right if the answers for these classes are.
- `seed_low`, `seed_high`: 95 % t interval of the same difference over the seeds, for these very records; empty where
  the models do not have the same number of seeds, at least two.
- `p_delong`: DeLong's test of that difference; for `macro` with the covariance of the mean over the classes. It needs
  two positive and two negative records of a class: `classes_delong` is the number of classes that it is over.
  `p_delong_holm`: the same after Holm's correction over the same family; pairwise.png marks this one. DeLong and
  McNemar take records as independent, although a few percent of them share a patient; the bootstrap interval does not.
"""


def pairwise_text(results: Iterable[TaskResults], *, replicates: int) -> str:
    """Return `pairwise.md`: what was compared, and what each column of `pairwise.csv` means."""
    lines = ["| task | classes | test records | models trained on it | models that answer from another task |"]
    lines.append("|---|---:|---:|---:|---:|")
    for of_task in results:
        own = {evaluation.run.model for evaluation in of_task.evaluations if evaluation.is_own}
        others = {evaluation.run.model for evaluation in of_task.evaluations} - own
        cells = (of_task.task.name, len(of_task.task), len(of_task.records["test"]), len(own), len(others))
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return PAIRWISE_TEXT.format(tasks="\n".join(lines), replicates=replicates)


def compare_runs(*, data: Path, artifacts: Path, replicates: int, seed: int) -> None:
    """Write the tables and figures of `codes/12_conf_matrix_and_stat_test.py`; `data` is not read."""
    check_at_least("--replicates", replicates, 1)
    check_at_least("--seed", seed, 0)
    folder, results, first = artifacts / "final_results", read_runs(artifacts), read_splits(artifacts).first
    pairs = [compare_pairs(of_task, replicates=replicates, seed=seed) for of_task in results]
    counts = [_counts(of_task) for of_task in results]
    written = set()
    for of_task, of_pairs in zip(results, pairs, strict=True):
        written |= _write_task(of_task, of_pairs, _figure_folder(folder, of_task.task, first))
        print(_summary(of_task, of_pairs))
    _remove_others(folder, ("confusion_matrix_*.csv", "confusion_matrices.png", "pairwise.png"), written)
    write_csv(pd.concat(counts, ignore_index=True), folder / "confusion_counts.csv")
    compared = [table for table in pairs if len(table)]
    table = pd.concat(compared, ignore_index=True) if compared else pd.DataFrame(columns=list(PAIR_COLUMNS))
    write_csv(table, folder / "pairwise.csv")
    with atomic(folder / "pairwise.md") as temporary:
        temporary.write_text(pairwise_text(results, replicates=replicates), encoding="utf-8")


def _counts(results: TaskResults) -> pd.DataFrame:
    """Return a row per run and class of one task: tp, fp, fn, tn on the test records at the frozen threshold."""
    task, tables = results.task, []
    for evaluation in results.evaluations:
        labels, probability = evaluation.labels["test"].to_numpy(), evaluation.probability["test"].to_numpy()
        counts = confusion_counts(labels, probability >= evaluation.thresholds, classes=task.classes)
        tables.append(counts.assign(run=evaluation.run.name, task=task.name, threshold=evaluation.thresholds))
    return pd.concat(tables, ignore_index=True)[["run", "task", "label", "threshold", "tp", "fp", "fn", "tn"]]


def _write_task(results: TaskResults, pairs: pd.DataFrame, folder: Path) -> set[Path]:
    """Write the figure of a task's pairs and, if it has a multiclass view, its confusion matrices; return the paths."""
    written = {folder / "pairwise.png"}
    plots.save_figure(plots.plot_pairwise(pairs, results.task), folder / "pairwise.png")
    if not results.has_multiclass_view:
        return written
    matrices = {}
    for evaluation in results.evaluations:
        labels, probability = evaluation.labels["test"].to_numpy(), evaluation.probability["test"].to_numpy()
        matrix = confusion_matrix(labels, probability, classes=results.task.classes)
        matrices[evaluation.run.name] = matrix
        path = folder / f"confusion_matrix_{evaluation.run.name.replace('/', '_')}.csv"
        write_csv(matrix.reset_index(), path)
        written.add(path)
    first = {model: matrices[seeds[0].run.name] for model, seeds in by_model(results.evaluations).items()}
    plots.save_figure(plots.plot_confusion(first, results.task), folder / "confusion_matrices.png")
    return written | {folder / "confusion_matrices.png"}


def _summary(results: TaskResults, pairs: pd.DataFrame) -> str:
    """Return a task's comparison in a line: how many pairs differ, and on how many records if not on all."""
    models = by_model(results.evaluations)
    parts = [f"{results.task.name}: {len(models)} models, {len(models) * (len(models) - 1) // 2} pairs"]
    for view in ("multilabel", "multiclass"):
        macro = pairs[(pairs["view"] == view) & (pairs.label == "macro")]
        if len(macro):
            differ = (macro.p_holm < 0.05).sum()
            parts.append(f"{view}: {differ} of {len(macro)} differ by McNemar's test after Holm")
    common = common_records(results.evaluations)
    predicted = set().union(*(evaluation.labels["test"].index for evaluation in results.evaluations))
    if len(common) < len(predicted):
        lacking = [e.run.name for e in results.evaluations if len(e.labels["test"]) < len(predicted)]
        parts.append(
            f"compared on {len(common)} of {len(predicted)} records, those that all models predicted; some are missing "
            f"from {', '.join(lacking)}"
        )
    return "; ".join(parts)
