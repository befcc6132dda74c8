"""What the numbers of all runs are worth: bootstrap intervals, paired tests, and the two stages that write them."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest, norm, rankdata

from ecg import plots
from ecg.artifacts import UserError, atomic, read_table, write_csv
from ecg.labels import CLASSES, read_split
from ecg.metrics import choose_thresholds, multiclass_metrics, multilabel_metrics
from ecg.predictions import Run, find_runs, read_labelled

EVALUATED = ("val", "test")
RESULT_COLUMNS = ("run", "split", "view", "label", "metric", "value", "ci_low", "ci_high", "n")
PAIR_COLUMNS = (
    *("run_a", "run_b", "view", "label", "n", "b", "c", "p_mcnemar", "p_holm"),
    *("auc_a", "auc_b", "diff", "ci_low", "ci_high", "p_delong"),
)


def patient_weights(records: pd.DataFrame, *, replicates: int, seed: int) -> pd.DataFrame:
    """Return how often each record counts in each bootstrap replicate, (n, 1 + replicates), indexed by ecg_id.

    `records` has columns ecg_id and patient_id. Whole patients are drawn with replacement, as many as there
    are, because records of one patient resemble each other (Field & Welsh 2007); the draws do not depend on
    the order of the rows. Column 0 counts every record once: the sample itself.
    """
    patients, of_record = np.unique(records.patient_id.to_numpy(), return_inverse=True)
    share = np.full(len(patients), 1 / len(patients))
    drawn = np.random.default_rng(seed).multinomial(len(patients), share, size=replicates)
    weight = np.vstack([np.ones(len(patients), drawn.dtype), drawn]).astype(np.float64)
    return pd.DataFrame(weight.T[of_record], index=records.ecg_id.to_numpy())


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % percentile interval of bootstrap values (k, replicates): their quantiles 2.5 % and 97.5 %.

    Replicates in which the value is undefined are left out; without any other the interval is nan.
    """
    bounds = np.full((2, len(values)), np.nan)
    defined = np.isfinite(values).any(axis=1)
    if defined.any():
        bounds[:, defined] = np.nanpercentile(values[defined], [2.5, 97.5], axis=1)
    return bounds[0], bounds[1]


def mcnemar_exact(b: int, c: int) -> float:
    """Return the two-sided exact p value of McNemar's test for `b` and `c` discordant pairs.

    Under the null hypothesis b of b + c is binomial with 1/2 (McNemar 1947); without discordant pairs it is 1.
    """
    return float(binomtest(b, b + c).pvalue) if b + c else 1.0


def holm(p: np.ndarray) -> np.ndarray:
    """Return p values (k,) adjusted for the family of all k by the step-down method of Holm (1979)."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(p[order] * np.arange(len(p), 0, -1), 1))
    return adjusted


def delong(label: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ROC areas (k,) of k models and each record's influence on them, (k, n).

    `label` (n,) of 0 and 1, both present; `scores` (k, n). `influence @ influence.T` is the covariance of the
    areas after DeLong, DeLong & Clarke-Pearson (1988), by the midranks of Sun & Xu (2014); ties count one half.
    Records are taken as independent. The influence of a mean over classes is the mean of the influences.
    """
    label, scores = np.asarray(label, dtype=bool), np.asarray(scores, dtype=float)
    positive, negative = scores[:, label], scores[:, ~label]
    m, n = positive.shape[1], negative.shape[1]
    if min(m, n) < 2:
        raise ValueError(f"DeLong needs two records of each outcome, not {m} and {n}")
    rank = rankdata(scores, axis=1)
    above = (rank[:, label] - rankdata(positive, axis=1)) / n  # share of negatives below each positive
    below = 1 - (rank[:, ~label] - rankdata(negative, axis=1)) / m  # share of positives above each negative
    auc = above.mean(axis=1)
    influence = np.empty(scores.shape)
    influence[:, label] = (above - auc[:, None]) / np.sqrt(m * (m - 1))
    influence[:, ~label] = (below - auc[:, None]) / np.sqrt(n * (n - 1))
    return auc, influence


def delong_p(auc: np.ndarray, influence: np.ndarray) -> float:
    """Return the two-sided p value that two areas (2,) with `influence` (2, n) are equal.

    1 for areas that are equal without any variance, nan for different ones without any (perfect separation).
    """
    difference, variance = auc[0] - auc[1], ((influence[0] - influence[1]) ** 2).sum()
    if variance < 1e-15:
        return 1.0 if abs(difference) < 1e-12 else float("nan")
    return float(2 * norm.sf(abs(difference) / np.sqrt(variance)))


def measure(
    labels: np.ndarray, probability: np.ndarray, *, thresholds: np.ndarray, weight: np.ndarray
) -> dict[tuple[str, str, str], tuple[np.ndarray, int]]:
    """Return {(view, label, metric): (values (1 + replicates,), n)} of both views; see `ecg.metrics`."""
    one = labels.sum(axis=1) == 1
    views = {"multilabel": multilabel_metrics(labels, probability, thresholds, weight)}
    if one.any():
        views["multiclass"] = multiclass_metrics(labels[one], probability[one], weight[one])
    count = {"multilabel": len(labels), "multiclass": int(one.sum())}
    return {(view, *key): (row, count[view]) for view, rows in views.items() for key, row in rows.items()}


def frozen_thresholds(artifacts: Path, run: Run) -> np.ndarray:
    """Return the thresholds (5,) of a run, chosen on its validation predictions alone."""
    labels, probability = read_labelled(artifacts, run.folder, "val")
    return choose_thresholds(labels[list(CLASSES)].to_numpy(), probability.to_numpy())


def measure_runs(artifacts: Path, runs: list[Run], *, replicates: int, seed: int) -> pd.DataFrame:
    """Return the tidy table of all metrics with intervals, columns RESULT_COLUMNS.

    A model with several seeds has, besides a row per seed, one under its bare name: the mean over the seeds,
    with the interval of that mean over the same resampled patients. It does not cover the choice of seeds.
    """
    weights = {
        split: patient_weights(read_split(artifacts, split), replicates=replicates, seed=seed) for split in EVALUATED
    }
    thresholds = {run.name: frozen_thresholds(artifacts, run) for run in runs}
    blocks = []
    for model in dict.fromkeys(run.model for run in runs):
        of_model = [run for run in runs if run.model == model]
        for split in EVALUATED:
            measured = []
            for run in of_model:
                labels, probability = read_labelled(artifacts, run.folder, split)
                values = measure(
                    labels[list(CLASSES)].to_numpy(),
                    probability.to_numpy(),
                    thresholds=thresholds[run.name],
                    weight=weights[split].loc[labels.index].to_numpy(),
                )
                measured.append(values)
            named = dict(zip((run.name for run in of_model), measured, strict=True))
            if len(of_model) > 1:
                keys = [key for key in measured[0] if all(key in values for values in measured)]
                mean = {key: np.mean([values[key][0] for values in measured], axis=0) for key in keys}
                named = {model: {key: (mean[key], measured[0][key][1]) for key in keys}} | named
            blocks += [_table(name, split, values) for name, values in named.items()]
    return pd.concat(blocks, ignore_index=True)


def _table(name: str, split: str, values: dict[tuple[str, str, str], tuple[np.ndarray, int]]) -> pd.DataFrame:
    table = pd.DataFrame(list(values), columns=["view", "label", "metric"])
    drawn = np.stack([row for row, _ in values.values()])
    table["value"] = drawn[:, 0]
    table["ci_low"], table["ci_high"] = interval(drawn[:, 1:])
    table["n"] = [n for _, n in values.values()]
    return table.assign(run=name, split=split)[list(RESULT_COLUMNS)]


REPORT = {  # column of the wide table -> (view, metric), of the macro label
    "macro AUC": ("multilabel", "auc"),
    "average precision": ("multilabel", "ap"),
    "F1": ("multilabel", "f1"),
    "exact match": ("multilabel", "exact_match"),
    "Brier": ("multilabel", "brier"),
    "ECE": ("multilabel", "ece"),
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
                    row[title] = f"{value.value:.3f} [{value.ci_low:.3f}, {value.ci_high:.3f}]"
            one = macro.n.get(("multiclass", "accuracy", name), 0)
            rows.append(row | {"multiclass n": one})
    return pd.DataFrame(rows)


def first_seeds(runs: list[Run]) -> dict[str, Run]:
    """Return {model: its first seed}; the first, never the best."""
    return {model: next(run for run in runs if run.model == model) for model in dict.fromkeys(r.model for r in runs)}


def plots_and_metrics(*, data: Path, artifacts: Path, replicates: int, seed: int) -> None:
    """Write the tables and figures of `codes/11_plots_and_metrics.py`; `data` is not read."""
    _check_replicates(replicates)
    folder, runs = artifacts / "final_results", find_runs(artifacts)
    metrics = measure_runs(artifacts, runs, replicates=replicates, seed=seed)
    report = report_table(metrics, runs)
    thresholds = pd.DataFrame([frozen_thresholds(artifacts, run) for run in runs], columns=list(CLASSES))
    thresholds.insert(0, "run", [run.name for run in runs])
    write_csv(metrics.round(6), folder / "metrics.csv")
    write_csv(report, folder / "final_metrics_report.csv")
    write_csv(thresholds, folder / "thresholds.csv")

    predictions = {}
    for model, run in first_seeds(runs).items():
        labels, probability = read_labelled(artifacts, run.folder, "test")
        predictions[model] = labels[list(CLASSES)].to_numpy(), probability.to_numpy()
    plots.plot_roc(predictions, folder / "roc_curves.png")
    plots.plot_precision_recall(predictions, folder / "pr_curves.png")
    plots.plot_calibration(predictions, folder / "calibration.png")
    plots.plot_forest(metrics, folder / "forest.png")
    plots.plot_class_auc(metrics, folder / "per_class_auc.png")
    columns = ("epoch", "lr", "train_loss", "val_loss", "val_accuracy", "val_macro_auc")
    histories: dict[str, list[pd.DataFrame]] = {}
    for run in runs:
        if (run.folder / "history.csv").exists():  # networks; the baselines have no epochs
            table = read_table(run.folder / "history.csv", made_by="the training script again", columns=columns)
            histories.setdefault(run.model, []).append(table)
    plots.plot_histories(histories, folder / "histories.png")
    shown = ["run", "seeds", "macro AUC", "F1", "multiclass accuracy"]
    print(report.loc[~report.run.str.contains("/seed"), [c for c in shown if c in report]].to_string(index=False))
    print(f"95 % intervals: {replicates} resamples of the patients; all of it in {folder}")


def _check_replicates(replicates: int) -> None:
    if replicates < 1:
        raise UserError(f"--replicates {replicates}: an interval needs at least one resample; 1000 is usual")


def compare_runs(*, data: Path, artifacts: Path, replicates: int, seed: int) -> None:
    """Write the tables and figures of `codes/12_conf_matrix_and_stat_test.py`; `data` is not read."""
    _check_replicates(replicates)
    folder, runs = artifacts / "final_results", find_runs(artifacts)
    matrices, counts = {}, []
    for run in runs:
        labels, probability = read_labelled(artifacts, run.folder, "test")
        y, p, thresholds = labels[list(CLASSES)].to_numpy(), probability.to_numpy(), frozen_thresholds(artifacts, run)
        matrices[run.name] = confusion_matrix(y, p)
        counts.append(_two_by_two(y, p >= thresholds).assign(run=run.name, threshold=thresholds))
    for old in folder.glob("confusion_matrix_*.csv"):  # of runs that are no longer there
        old.unlink()
    for name, matrix in matrices.items():
        write_csv(matrix.reset_index(), folder / f"confusion_matrix_{name.replace('/', '_')}.csv")
    counted = pd.concat(counts, ignore_index=True)
    write_csv(counted[["run", "label", "threshold", "tp", "fp", "fn", "tn"]], folder / "confusion_counts.csv")

    first = first_seeds(runs)
    pairs = compare_pairs(artifacts, first, replicates=replicates, seed=seed)
    write_csv(pairs, folder / "pairwise.csv")
    with atomic(folder / "pairwise.md") as temporary:
        temporary.write_text(PAIRWISE_TEXT.format(replicates=replicates), encoding="utf-8")
    plots.plot_confusion({model: matrices[run.name] for model, run in first.items()}, folder / "confusion_matrices.png")
    plots.plot_pairwise(pairs, folder / "pairwise.png")
    print(f"{len(matrices)} confusion matrices, {len(first)} models, {len(first) * (len(first) - 1) // 2} pairs")
    for view in ("multilabel", "multiclass"):
        macro = pairs[(pairs.view == view) & (pairs.label == "macro")]
        print(f"{view}: {(macro.p_holm < 0.05).sum()} of {len(macro)} pairs differ by McNemar's test after Holm")


def confusion_matrix(labels: np.ndarray, probability: np.ndarray) -> pd.DataFrame:
    """Return the 5x5 counts of records with exactly one class: rows the true class, columns the arg-max."""
    one = labels.sum(axis=1) == 1
    counts = np.zeros((len(CLASSES), len(CLASSES)), dtype=int)
    np.add.at(counts, (labels[one].argmax(axis=1), probability[one].argmax(axis=1)), 1)
    return pd.DataFrame(counts, index=pd.Index(CLASSES, name="true"), columns=list(CLASSES))


def _two_by_two(labels: np.ndarray, called: np.ndarray) -> pd.DataFrame:
    truth = labels == 1
    cells = {"tp": truth & called, "fp": ~truth & called, "fn": truth & ~called, "tn": ~truth & ~called}
    return pd.DataFrame({"label": CLASSES} | {name: cell.sum(axis=0) for name, cell in cells.items()})


PAIRWISE_TEXT = """\
# Pairs of models on the test records (pairwise.csv)

Where a model was trained with several seeds, its first seed is compared, never the best one. All models are
compared on the same records, joined by ecg_id: those that each of them predicted.

- `view`, `label`: `multilabel` per class, at thresholds frozen on the validation fold, and `macro`, where a record
  counts as right if all five answers are; `multiclass`, `macro`: the arg-max of records with exactly one superclass.
- `n` records; `b` only `run_a` is right, `c` only `run_b` is right.
- `p_mcnemar`: exact McNemar test, two-sided. `p_holm`: the same after Holm's correction; the family is all pairs of
  models within one view and label. It does not cover looking at several labels.
- `auc_a`, `auc_b`: ROC AUC (`macro`: unweighted mean of the classes). `diff` is `auc_a - auc_b` with a 95 %
  interval from {replicates} resamples of the patients, the same ones for both models.
- `p_delong`: DeLong's test of that difference, not corrected; for `macro` with the covariance of the mean over the
  classes. DeLong and McNemar take records as independent, although a few percent of them share a patient; the
  bootstrap interval does not.
"""


def compare_pairs(artifacts: Path, runs: dict[str, Run], *, replicates: int, seed: int) -> pd.DataFrame:
    """Return the table of all pairs of `runs`, columns PAIR_COLUMNS; their meaning is in PAIRWISE_TEXT."""
    if len(runs) < 2:
        return pd.DataFrame(columns=list(PAIR_COLUMNS))
    loaded = {run.name: read_labelled(artifacts, run.folder, "test") for run in runs.values()}
    thresholds = {run.name: frozen_thresholds(artifacts, run) for run in runs.values()}
    records = read_split(artifacts, "test")
    ecg_id = records.ecg_id.to_numpy()
    for labels, _ in loaded.values():
        ecg_id = ecg_id[np.isin(ecg_id, labels.index)]
    if not len(ecg_id):
        raise UserError(f"{artifacts}: no test record was predicted by all of {', '.join(loaded)}")
    labels = records.set_index("ecg_id").loc[ecg_id, list(CLASSES)].to_numpy()
    weight = patient_weights(records, replicates=replicates, seed=seed).loc[ecg_id].to_numpy()
    sides = {
        name: _sides(labels, probability.loc[ecg_id].to_numpy(), thresholds[name], weight)
        for name, (_, probability) in loaded.items()
    }
    blocks = []
    for view, label in next(iter(sides.values())):
        rows = []
        for a, b in combinations(sides, 2):
            (right_a, auc_a, influence_a), (right_b, auc_b, influence_b) = sides[a][view, label], sides[b][view, label]
            only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
            low, high = interval((auc_a - auc_b)[None, 1:])
            areas, influence = np.array([auc_a[0], auc_b[0]]), np.stack([influence_a, influence_b])
            rows.append(
                {"run_a": a, "run_b": b, "view": view, "label": label, "n": len(right_a), "b": only_a, "c": only_b}
                | {"p_mcnemar": mcnemar_exact(only_a, only_b), "auc_a": areas[0], "auc_b": areas[1]}
                | {"diff": areas[0] - areas[1], "ci_low": low[0], "ci_high": high[0]}
                | {"p_delong": delong_p(areas, influence)}
            )
        block = pd.DataFrame(rows)
        blocks.append(block.assign(p_holm=holm(block.p_mcnemar.to_numpy())))
    return pd.concat(blocks, ignore_index=True)[list(PAIR_COLUMNS)]


def _sides(
    labels: np.ndarray, probability: np.ndarray, thresholds: np.ndarray, weight: np.ndarray
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return {(view, label): (right (n,), AUC (1 + replicates,), DeLong influence (n,))} of one model."""
    values = measure(labels, probability, thresholds=thresholds, weight=weight)
    right, one = (probability >= thresholds) == labels, labels.sum(axis=1) == 1
    influence = _influences(labels, probability)
    sides = {
        ("multilabel", label): (right[:, i], values["multilabel", label, "auc"][0], influence[i])
        for i, label in enumerate(CLASSES)
    }
    macro = values["multilabel", "macro", "auc"][0]
    sides["multilabel", "macro"] = right.all(axis=1), macro, influence.mean(axis=0)
    if one.any():
        answered = probability[one].argmax(axis=1) == labels[one].argmax(axis=1)
        macro = values["multiclass", "macro", "auc"][0]
        influence = _influences(labels[one], probability[one])
        sides["multiclass", "macro"] = answered, macro, influence.mean(axis=0)
    return sides


def _influences(labels: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return the influence of each record on each class's area, (5, n); nan where it cannot be estimated."""
    influence = np.full(labels.T.shape, np.nan)
    for i, (y, p) in enumerate(zip(labels.T, probability.T, strict=True)):
        if 2 <= y.sum() <= len(y) - 2:
            influence[i] = delong(y, p[None])[1][0]
    return influence
