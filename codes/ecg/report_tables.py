"""The tables and sentences of the report: lists of {column: text}, which is what the template prints."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecg.artifacts import read_json, read_table
from ecg.labels import SPLITS, read_split
from ecg.metrics import ENOUGH
from ecg.plots import is_baseline, is_ensemble, is_naive, short
from ecg.plots.results import VIEWS, with_interval
from ecg.runs import Run
from ecg.stats import ENOUGH_SINGLE, share_with_one_class
from ecg.tasks import Task

Row = dict[str, str]

FEW = 8  # classes; with more, the tables have a row per class instead of a column
NOT_SETTINGS = ("name", "overwrite", "labels", "seed", "device", "precision")  # do not make a run another experiment
SAID = ("n", "classes", "macro5 classes", "multiclass n")  # columns of the wide table that a sentence replaces
PREPROCESS = "codes/03_preprocess.py"


@dataclass(frozen=True)
class Best:
    """The run with the highest macro AUC of a task: what a reader sees first."""

    run: str
    value: str
    over: str  # how many classes it is the mean of
    frequent_value: str  # of `macro5`, which has an interval where `macro` has none; empty if there is no such row
    frequent_over: str
    n: int
    models: int


@dataclass(frozen=True)
class Labels:
    """What runs are called: with the task they were trained on, where that is not the task at hand."""

    trained_on: dict[str, str]  # model -> its own task

    def of(self, run: str, task: Task) -> str:
        own = self.trained_on.get(run, task.name)  # a seed's row is below that of its model, which says it
        return short(run) if own == task.name else f"{short(run)} (trained on {own})"


def records_of(table: pd.DataFrame) -> list[Row]:
    return table.astype(str).to_dict("records")


def interval(row: Any, digits: int = 3) -> str:
    value = f"{row.value:.{digits}f}" if np.isfinite(row.value) else "–"
    return f"{value} [{row.ci_low:.{digits}f}, {row.ci_high:.{digits}f}]" if np.isfinite(row.ci_low) else value


def p_value(value: float) -> str:
    if not np.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def in_common(rows: list[Row]) -> tuple[list[Row], str]:
    """Return the rows without the columns that say the same everywhere, and those as a sentence."""
    if len(rows) < 2:
        return rows, ""
    same = [name for name in rows[0] if name != "run" and len({row[name] for row in rows}) == 1]
    words = ", ".join(f"{name} {rows[0][name]}" for name in same)
    kept = [{name: text for name, text in row.items() if name not in same} for row in rows]
    return kept, f"All runs: {words}." if words else ""


# --- data and runs --------------------------------------------------------------------------------------------------


def splits_table(artifacts: Path, task: Task) -> list[Row]:
    """Return the size of each split of the first task; with few classes also the records of each class."""
    rows = []
    for name in SPLITS:
        if not (artifacts / f"ptbxl_{name}.csv").exists():
            continue
        table = read_split(artifacts, name)
        row = {"split": name, "records": len(table), "patients": table.patient_id.nunique()}
        if len(task) <= FEW:
            for label in task.classes:
                row[label] = int(table[label].sum())
        row["exactly one"] = int((table.label != "").sum())
        row["median age"] = f"{table.age.median():.0f}"
        row["female"] = f"{100 * (table.sex == 1).mean():.0f} %"  # PTB-XL: 0 male, 1 female
        rows.append(row)
    return records_of(pd.DataFrame(rows))


def signals_sentence(artifacts: Path) -> str:
    if not (artifacts / "signals" / "meta.json").exists():
        return ""
    meta = read_json(artifacts / "signals" / "meta.json", made_by=PREPROCESS)
    band = meta["filter"]
    text = (
        f"{meta['n_records']:,} records of {meta['n_samples'] / meta['fs']:g} s and {len(meta['leads'])} leads at "
        f"{meta['fs']} Hz; zero-phase band-pass {band['low']:g}–{band['high']:g} Hz; "
        f"limited to ± {meta['limit_mv']:g} mV"
    )
    rejected = artifacts / "signals" / "rejected.csv"
    if rejected.exists():
        text += f"; {len(read_table(rejected, made_by=PREPROCESS)):,} records rejected"
    return text + "."


def variants_of(runs: list[Run]) -> dict[str, str]:
    """Return {run: the settings in which it differs from the default run}, of the runs that somebody gave others.

    The default run is one of the same network and task without a name or preset of its own, augmented alike if there
    is one.
    """
    found = {}
    for run in runs:
        if run.is_variant:
            base = _default_of(run, runs)
            found[run.name] = _differences(run, base) if base else "no default run to compare with"
    return found


def _default_of(run: Run, runs: list[Run]) -> Run | None:
    def alike(other: Run) -> bool:
        return other.config["model"] == run.config["model"] and other.task.name == run.task.name

    candidates = [other for other in runs if not other.is_variant and alike(other)]
    augment = run.config.get("settings", {}).get("augment")
    same = [other for other in candidates if other.config.get("settings", {}).get("augment") == augment]
    return next(iter(same + candidates), None)


def _differences(run: Run, base: Run) -> str:
    """Return `width 0.5; preset fast`; a setting that older code did not know is taken to be the same."""
    different = {}
    for key, value in run.config["settings"].items():
        before = base.config["settings"].get(key, "" if isinstance(value, str) else value)
        if key not in NOT_SETTINGS and value != before:
            different[key] = value
    if "preset" in different:  # last: the others say what it does
        different["preset"] = different.pop("preset")
    words = [f"{key.replace('_', ' ')} {_setting(value)}" for key, value in different.items()]
    numbers = [r.config.get("augmentation", {}) for r in (run, base)]
    if all(numbers) and numbers[0] != numbers[1]:
        words.append("other numbers in the augmentation")
    return "; ".join(words) or "the same settings"


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def runs_table(runs: list[Run]) -> list[Row]:
    """Return a row per run; variants stand behind the default run of their network."""
    variants = variants_of(runs)
    tasks = list(dict.fromkeys(run.task.name for run in runs))

    def place(run: Run) -> tuple[bool, str, int, bool, str]:
        order = tasks.index(run.task.name)
        return not is_baseline(run.name), run.config["model"], order, run.is_variant, run.name

    table = pd.DataFrame([_run_row(run, variants.get(run.name, "default")) for run in sorted(runs, key=place)])
    if not variants:
        table = table.drop(columns="settings")
    return records_of(table)


def _run_row(run: Run, settings_text: str) -> dict[str, Any]:
    config = run.config
    settings, best, threads = config.get("settings", {}), config.get("best_epoch"), config.get("threads", "–")
    hardware = config.get("hardware", "–").replace("(R)", "").replace(" Processor", "")
    return {
        "run": short(run.name),
        "seed": settings.get("seed", config.get("seed", "–")),
        "task": run.task.name,
        "objective": config["objective"],
        "model": config["model"],
        "settings": settings_text,
        "augmented": "yes" if settings.get("augment") else "no",
        "weights": f"{config['weights']:,}" if config.get("weights") else "–",
        "epochs": f"{best} of {settings.get('epochs', '–')}" if best else "–",
        "n train": config.get("n_train", "–"),
        "seconds": f"{config['seconds']:.0f}" if "seconds" in config else "–",
        "precision": config.get("precision", "float64"),
        "date": config.get("date", "–"),
        "hardware": f"{hardware}, {threads} {'thread' if threads == 1 else 'threads'}",
    }


def versions_sentence(runs: list[Run]) -> str:
    found: dict[str, set[str]] = {}
    for run in runs:
        versions = {"torch": run.config.get("torch")} | run.config.get("versions", {})
        for name, version in versions.items():
            if version:
                found.setdefault(name, set()).add(version)
    return ", ".join(f"{name} {' and '.join(sorted(versions))}" for name, versions in sorted(found.items()))


# --- results of one task --------------------------------------------------------------------------------------------


def macro_auc(metrics: pd.DataFrame, label: str = "macro") -> pd.DataFrame:
    """Return the test rows of the macro AUC of one task's models, best first, indexed by model; seeds are left out."""
    chosen = (metrics.split == "test") & (metrics["view"] == "multilabel") & (metrics.metric == "auc")
    chosen &= (metrics.label == label) & ~metrics.run.str.contains("/seed")
    return metrics[chosen].sort_values("value", ascending=False, kind="stable").set_index("run")


def best_run(metrics: pd.DataFrame, task: Task, labels: Labels) -> Best | None:
    """Return the run with the highest macro AUC on the test records of a task."""
    macro = macro_auc(metrics)
    macro = macro[macro.value.notna()]
    if macro.empty:
        return None
    row = macro.iloc[0]
    frequent, frequent_value, frequent_over = macro_auc(metrics, "macro5"), "", ""
    if row.name in frequent.index:
        frequent_value = interval(frequent.loc[row.name])
        frequent_over = f"{frequent.classes[row.name]:.0f} classes with at least {ENOUGH} positives"
    return Best(
        run=labels.of(row.name, task),
        value=interval(row),
        over=_of_all(row.classes, task),
        frequent_value=frequent_value,
        frequent_over=frequent_over,
        n=int(row.n),
        models=len(macro),
    )


def _of_all(classes: float, task: Task) -> str:
    return f"{len(task)} classes" if classes == len(task) else f"{classes:.0f} of {len(task)} classes"


def naive_auc(metrics: pd.DataFrame) -> str:
    """Return the macro AUC of the model that always answers with the shares of the classes, if there is one."""
    macro = macro_auc(metrics)
    naive = macro[[is_naive(name) for name in macro.index]]
    return interval(naive.iloc[0]) if len(naive) else ""


def results_table(report: pd.DataFrame, task: Task, labels: Labels) -> list[Row]:
    """Return the wide table of a task, without columns that are empty or that a sentence replaces."""
    table = report[report.task == task.name]
    table = table.drop(columns=[name for name in SAID if name in table and table[name].nunique() == 1])
    filled = [name for name in table if name != "task" and (table[name] != "").any()]
    return records_of(table[filled].assign(run=[labels.of(name, task) for name in table.run]))


def variants_table(runs: list[Run], metrics: pd.DataFrame, task: Task) -> list[Row]:
    """Return the variants of each network trained on the task below its default runs, with what differs."""
    variants = variants_of(runs)
    first_seeds: dict[str, Run] = {}
    for run in runs:
        if run.task.name == task.name:
            first_seeds.setdefault(run.model, run)
    macro, frequent = macro_auc(metrics), macro_auc(metrics, "macro5")
    rows = []
    for network in dict.fromkeys(run.config["model"] for run in runs if run.name in variants):
        of_network = [run for run in first_seeds.values() if run.config["model"] == network]
        of_network = [run for run in of_network if run.model in macro.index]
        if any(run.is_variant for run in of_network):
            for run in sorted(of_network, key=lambda run: (run.is_variant, run.name)):
                row = {"network": network, "run": short(run.model)}
                row["settings"] = variants.get(run.name, "default")
                row["macro AUC"] = interval(macro.loc[run.model])
                if run.model in frequent.index:
                    row[f"over classes with at least {ENOUGH} positives"] = interval(frequent.loc[run.model])
                row["weights"] = f"{run.config['weights']:,}" if run.config.get("weights") else "–"
                rows.append(row)
    return rows


def records_sentence(task: Task, test: pd.DataFrame | None, has_multiclass: bool) -> str:
    """Return how many test records a task has and whether it has a multiclass view; `test` is the table of 02."""
    least = f"{100 * ENOUGH_SINGLE:.0f}\u00a0%"
    if test is None:
        return "" if has_multiclass else f"There is no multiclass view: fewer than {least} have exactly one class."
    labels = test[list(task.classes)].to_numpy()
    share = f"{100 * share_with_one_class(labels):.0f}\u00a0%"
    one = f"{(labels.sum(axis=1) == 1).sum():,} of them ({share}) have exactly one"
    records = f"{len(test):,} test records have at least one of the {len(task)} classes; {one}."
    if has_multiclass:
        return f"{records} The multiclass view is of those."
    return f"{records} There is no multiclass view of this task: it needs at least {least} with exactly one class."


def macro_sentences(task: Task, metrics: pd.DataFrame, classes: pd.DataFrame | None) -> list[str]:
    """Return over which classes the macro averages are; `classes` are the task's rows of classes.csv, which name them.

    Without that table only their numbers are known, from metrics.csv.
    """
    macro, frequent = macro_auc(metrics), macro_auc(metrics, "macro5")
    if macro.empty:
        return []
    all_count = int(macro.classes.max()) == len(task)
    words = f"Macro averages are over all {len(task)} classes"
    if not all_count:
        words = f"Macro averages are over {_of_all(macro.classes.max(), task)}"
        if classes is not None:
            words += f"; left out: {_named(classes[~classes.macro])}"
    sentences = [f"{words}."]
    if len(frequent):
        count = int(frequent.classes.max())
        words = (
            f"Their intervals, and the tests between models, are over the {count} classes with at least {ENOUGH} "
            "positive test records, because rarer classes drop out of resamples"
        )
        if classes is not None:
            words += f"; not among those: {', '.join(classes.label[classes.macro & ~classes.macro5])}"
        sentences.append(f"{words}.")
    return sentences


def _named(classes: pd.DataFrame) -> str:
    """Return `A, B (no positives in the test fold); C (...)`."""
    parts = []
    for reason, rows in classes.groupby("reason", sort=False):
        parts.append(f"{', '.join(rows.label)} ({reason})")
    return "; ".join(parts)


def class_results(
    metrics: pd.DataFrame, task: Task, classes: pd.DataFrame | None, test: pd.DataFrame | None, labels: Labels
) -> list[Row]:
    """Return ROC areas on the test records: a row per model, or of many classes a row per class."""
    if len(task) <= FEW:
        return _positive_rows(task, test) + _model_rows(metrics, task, labels)
    return _class_rows(metrics, task, classes, labels)


def _class_aucs(metrics: pd.DataFrame) -> pd.DataFrame:
    chosen = (metrics.split == "test") & (metrics["view"] == "multilabel") & (metrics.metric == "auc")
    return metrics[chosen].set_index(["run", "label"]).sort_index()


def _positive_rows(task: Task, test: pd.DataFrame | None) -> list[Row]:
    """Return how many test records each class has in either view: what its numbers rest on."""
    if test is None:
        return []
    rows = []
    for view, table in (("all", test), ("with exactly one class", test[test.label != ""])):
        row = {"run": f"positive of {len(table):,} records, {view}"}
        for label in task.classes:
            row[label] = f"{table[label].sum():,}"
        row["macro"] = ""
        rows.append(row)
    return rows


def _model_rows(metrics: pd.DataFrame, task: Task, labels: Labels) -> list[Row]:
    auc = _class_aucs(metrics)
    rows = []
    for run in macro_auc(metrics).index:
        row = {"run": labels.of(run, task)}
        for label in (*task.classes, "macro"):
            row[label] = interval(auc.loc[run, label])
        rows.append(row)
    return rows


def _class_rows(metrics: pd.DataFrame, task: Task, classes: pd.DataFrame | None, labels: Labels) -> list[Row]:
    """Return a row per class, the macro averages first; the columns are the best of each kind of model."""
    auc, shown = _class_aucs(metrics), _one_of_each_kind(metrics)
    counts = classes.set_index("label") if classes is not None else None
    rows = []
    for label in ("macro", "macro5", *task.classes):
        if not any((run, label) in auc.index for run in shown):
            continue
        row = {"class": label, "name": task.names.get(label, "")}
        if label == "macro5":
            row["name"] = f"classes with at least {ENOUGH} positives"
        for split in ("train", "test") if counts is not None else ():
            known = label in counts.index
            row[f"{split} positives"] = f"{counts[f'{split}_positive'][label]:,}" if known else ""
        for run in shown:
            found = (run, label) in auc.index
            row[labels.of(run, task)] = interval(auc.loc[run, label]) if found else "–"
        rows.append(row)
    return rows


def _one_of_each_kind(metrics: pd.DataFrame) -> list[str]:
    """Return the network, the ensemble and the baseline with the highest macro AUC, as far as there are any."""
    ranked = list(macro_auc(metrics).index)
    networks = [run for run in ranked if not is_baseline(run) and not is_ensemble(run)]
    ensembles = [run for run in ranked if is_ensemble(run)]
    baselines = [run for run in ranked if is_baseline(run)]
    return networks[:1] + ensembles[:1] + baselines[:1]


def pairs_table(pairs: pd.DataFrame | None, task: Task, labels: Labels) -> list[Row]:
    """Return the comparisons of macro averages; where classes are rare, of the one that has an interval."""
    if pairs is None:
        return []
    rows = []
    for view in VIEWS:
        for row in with_interval(pairs[(pairs.task == task.name) & (pairs["view"] == view)]).itertuples():
            difference = f"{row.diff:+.3f}"
            if np.isfinite(row.ci_low):
                difference += f" [{row.ci_low:+.3f}, {row.ci_high:+.3f}]"
            rows.append(
                {
                    "view": view,
                    "a": labels.of(row.run_a, task),
                    "b": labels.of(row.run_b, task),
                    "n": str(row.n),
                    "classes": f"{row.classes:.0f}",
                    "only a right": str(row.b),
                    "only b right": str(row.c),
                    "McNemar p (Holm)": p_value(row.p_holm),
                    "AUC a − b": difference,
                    "DeLong p (Holm)": p_value(row.p_delong_holm),
                }
            )
    return rows


# --- attributions ---------------------------------------------------------------------------------------------------


def sanity_table(table: pd.DataFrame | None) -> list[Row]:
    """Return the checks that come to a verdict; the others are in the figure."""
    if table is None:
        return []
    rows = []
    for row in table[table.verdict.notna()].itertuples():
        rows.append(
            {
                "check": row.check,
                "method": row.method.replace("_", " "),
                "setting": row.setting,
                "value": interval(row),
                "reference": f"{row.reference:.2f}" if np.isfinite(row.reference) else "–",
                "n": row.n,
                "verdict": row.verdict,
            }
        )
    return records_of(pd.DataFrame(rows))


def importance_table(table: pd.DataFrame | None, names: dict[str, str]) -> list[Row]:
    """Return, per class and method, the three leads with the largest share and the derivative channels' share.

    `names` says how a method is called.
    """
    if table is None:
        return []
    rows = []
    for (label, method), group in table.groupby(["class", "method"], sort=False):
        derivative = group[(group.lead == "all") & (group.kind == "derivative")].iloc[0]
        leads = group[(group.kind == "both") & (group.lead != "all")].nlargest(3, "share")
        rows.append(
            {
                "class": label,
                "method": names.get(method, method),
                "n": derivative.n,
                "strongest leads": ", ".join(f"{row.lead} {100 * row.share:.0f} %" for row in leads.itertuples()),
                "derivative share": interval(derivative.rename({"share": "value"}), digits=2),
            }
        )
    return records_of(pd.DataFrame(rows))
