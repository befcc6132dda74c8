"""The two stages that turn the predictions of all runs into tables and figures: `artifacts/final_results/`."""

from pathlib import Path

import pandas as pd

from ecg import plots
from ecg.artifacts import atomic, check_at_least, read_table, write_csv, write_json
from ecg.ensemble import write_ensemble
from ecg.labels import CLASSES, read_split
from ecg.metrics import WITHOUT_INTERVAL, choose_thresholds
from ecg.predictions import Run, find_runs, read_labelled
from ecg.stats import Predicted, by_model, compare_pairs, confusion_counts, confusion_matrix, measure_runs

EVALUATED = ("val", "test")


def read_runs(artifacts: Path) -> list[Predicted]:
    """Return the predictions of every finished run with their labels and thresholds; each file is read once."""
    runs = []
    for run in find_runs(artifacts):
        read = {split: read_labelled(artifacts, run.folder, split) for split in EVALUATED}
        labels = {split: table[list(CLASSES)] for split, (table, _) in read.items()}
        probability = {split: table for split, (_, table) in read.items()}
        thresholds = choose_thresholds(labels["val"].to_numpy(), probability["val"].to_numpy())
        runs.append(Predicted(run, labels, probability, thresholds))
    return runs


REPORT = {  # column of the wide table -> (view, metric), of the macro label
    "macro AUC": ("multilabel", "auc"),
    "average precision": ("multilabel", "ap"),
    "F1": ("multilabel", "f1"),
    "exact match": ("multilabel", "exact_match"),
    "Brier": ("multilabel", "brier"),
    "ECE": ("multilabel", "ece"),
    "ECE by chance": ("multilabel", "ece_by_chance"),
    "multiclass accuracy": ("multiclass", "accuracy"),
    "multiclass F1": ("multiclass", "f1"),
    "multiclass AUC": ("multiclass", "auc"),
}


def report_table(metrics: pd.DataFrame, runs: list[Run]) -> pd.DataFrame:
    """Return the test results for people, one row per model and per seed: `0.912 [0.880, 0.938]`, best first.

    `seeds` is the number behind a row, `seed sd` the standard deviation of macro AUC between them.
    """
    macro = (
        metrics[(metrics.split == "test") & (metrics.label == "macro")]
        .set_index(["view", "metric", "run"])
        .sort_index()
    )
    auc = macro.loc["multilabel", "auc"]
    seeds = pd.Series([run.model for run in runs]).value_counts()
    rows = []
    for model in sorted(seeds.index, key=lambda name: -auc.value[name]):
        names = [run.name for run in runs if run.model == model]
        for name in dict.fromkeys([model, *names]):
            several = name == model and len(names) > 1
            spread = f"{auc.value[names].std(ddof=1):.4f}" if several else ""
            row = {"run": name, "seeds": len(names) if several else 1, "seed sd": spread, "n": auc.n[name]}
            for title, key in REPORT.items():
                if (*key, name) in macro.index:
                    value = macro.loc[(*key, name)]
                    bounds = "" if key[1] in WITHOUT_INTERVAL else f" [{value.ci_low:.3f}, {value.ci_high:.3f}]"
                    row[title] = f"{value.value:.3f}{bounds}"
            one = macro.n.get(("multiclass", "accuracy", name), 0)
            rows.append(row | {"multiclass n": one})
    return pd.DataFrame(rows)


def plots_and_metrics(*, data: Path, artifacts: Path, replicates: int, seed: int) -> None:
    """Write the tables and figures of `codes/11_plots_and_metrics.py`; `data` is not read."""
    check_at_least("--replicates", replicates, 1)
    check_at_least("--seed", seed, 0)
    write_ensemble(artifacts)
    folder, runs = artifacts / "final_results", read_runs(artifacts)
    records = {split: read_split(artifacts, split) for split in EVALUATED}
    metrics = measure_runs(runs, records, replicates=replicates, seed=seed)
    report = report_table(metrics, [predicted.run for predicted in runs])
    thresholds = {p.run.name: dict(zip(CLASSES, p.thresholds.tolist(), strict=True)) for p in runs}
    write_csv(metrics.round(6), folder / "metrics.csv")
    write_csv(report, folder / "final_metrics_report.csv")
    write_json(thresholds, folder / "thresholds.json")

    predictions = {
        model: (first.labels["test"].to_numpy(), first.probability["test"].to_numpy())
        for model, (first, *_) in by_model(runs).items()
    }
    plots.plot_roc(predictions, folder / "roc_curves.png")
    plots.plot_precision_recall(predictions, folder / "pr_curves.png")
    plots.plot_calibration(predictions, folder / "calibration.png")
    plots.plot_forest(metrics, folder / "forest.png")
    positive = records["test"][list(CLASSES)].sum().to_dict()
    plots.plot_class_auc(metrics, positive, folder / "per_class_auc.png")
    plots.plot_histories(_histories([predicted.run for predicted in runs]), folder / "histories.png")
    shown = ["run", "seeds", "macro AUC", "F1", "multiclass accuracy"]
    print(report.loc[~report.run.str.contains("/seed"), [c for c in shown if c in report]].to_string(index=False))
    print(f"95 % intervals: {replicates} resamples of the patients; all of it in {folder}")


def _histories(runs: list[Run]) -> dict[str, list[pd.DataFrame]]:
    columns = ("epoch", "lr", "train_loss", "val_loss", "val_accuracy", "val_macro_auc")
    histories: dict[str, list[pd.DataFrame]] = {}
    for run in runs:
        if (run.folder / "history.csv").exists():  # networks; the baselines have no epochs
            table = read_table(run.folder / "history.csv", made_by="the training script again", columns=columns)
            histories.setdefault(run.model, []).append(table)
    return histories


PAIRWISE_TEXT = """\
# Pairs of models on the test records (pairwise.csv)

All models are compared on the same records, joined by ecg_id: those that each of them predicted. Where a model was
trained with several seeds, its AUC is the mean over them, as in metrics.csv, and everything about AUC is of that mean;
it does not cover the choice of seeds. McNemar's test needs one decision per record and takes those of the first seed,
never the best one.

- `view`, `label`: `multilabel` per class, at thresholds frozen on the validation fold, and `macro`, where a record
  counts as right if all five answers are; `multiclass`, `macro`: the arg-max of records with exactly one superclass.
- `n` records; `b` only `run_a` is right, `c` only `run_b` is right (first seeds).
- `p_mcnemar`: exact McNemar test, two-sided. `p_holm`: the same after Holm's correction; the family is all pairs of
  models within one view and label. It does not cover looking at several labels.
- `auc_a`, `auc_b`: ROC AUC (`macro`: unweighted mean of the classes). `diff` is `auc_a - auc_b` with a 95 %
  interval from {replicates} resamples of the patients, the same ones for both models; not corrected for the number
  of pairs.
- `seed_low`, `seed_high`: 95 % t interval of the same difference over the seeds, for these very records; empty where
  the models do not have the same number of seeds, at least two.
- `p_delong`: DeLong's test of that difference; for `macro` with the covariance of the mean over the classes.
  `p_delong_holm`: the same after Holm's correction over the same family; pairwise.png marks this one. DeLong and
  McNemar take records as independent, although a few percent of them share a patient; the bootstrap interval does not.
"""


def compare_runs(*, data: Path, artifacts: Path, replicates: int, seed: int) -> None:
    """Write the tables and figures of `codes/12_conf_matrix_and_stat_test.py`; `data` is not read."""
    check_at_least("--replicates", replicates, 1)
    check_at_least("--seed", seed, 0)
    folder, runs = artifacts / "final_results", read_runs(artifacts)
    matrices, counts = {}, []
    for predicted in runs:
        name, thresholds = predicted.run.name, predicted.thresholds
        y, p = predicted.labels["test"].to_numpy(), predicted.probability["test"].to_numpy()
        matrices[name] = confusion_matrix(y, p)
        counts.append(confusion_counts(y, p >= thresholds).assign(run=name, threshold=thresholds))
    pairs = compare_pairs(runs, read_split(artifacts, "test"), replicates=replicates, seed=seed)

    for old in folder.glob("confusion_matrix_*.csv"):  # of runs that are no longer there
        old.unlink()
    for name, matrix in matrices.items():
        write_csv(matrix.reset_index(), folder / f"confusion_matrix_{name.replace('/', '_')}.csv")
    counted = pd.concat(counts, ignore_index=True)
    write_csv(counted[["run", "label", "threshold", "tp", "fp", "fn", "tn"]], folder / "confusion_counts.csv")
    write_csv(pairs, folder / "pairwise.csv")
    with atomic(folder / "pairwise.md") as temporary:
        temporary.write_text(PAIRWISE_TEXT.format(replicates=replicates), encoding="utf-8")

    models = by_model(runs)
    first = {model: matrices[seeds[0].run.name] for model, seeds in models.items()}
    plots.plot_confusion(first, folder / "confusion_matrices.png")
    plots.plot_pairwise(pairs, folder / "pairwise.png")
    print(f"{len(matrices)} confusion matrices, {len(models)} models, {len(models) * (len(models) - 1) // 2} pairs")
    for view in ("multilabel", "multiclass"):
        macro = pairs[(pairs.view == view) & (pairs.label == "macro")]
        print(f"{view}: {(macro.p_holm < 0.05).sum()} of {len(macro)} pairs differ by McNemar's test after Holm")
