"""What the numbers of all runs are worth: bootstrap intervals, paired tests, and the tables of both. Reads no file."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import binomtest, norm, rankdata, t

from ecg.artifacts import UserError
from ecg.labels import CLASSES
from ecg.metrics import WITHOUT_INTERVAL, multiclass_metrics, multilabel_metrics
from ecg.predictions import Run

RESULT_COLUMNS = ("run", "split", "view", "label", "metric", "value", "ci_low", "ci_high", "n")
PAIR_COLUMNS = (
    *("run_a", "run_b", "view", "label", "n", "b", "c", "p_mcnemar", "p_holm"),
    *("auc_a", "auc_b", "diff", "ci_low", "ci_high", "p_delong", "p_delong_holm", "seed_low", "seed_high"),
)


@dataclass(frozen=True)
class Predicted:
    """What a run answered: `labels` and `probability` are {split: (n, 5)}, indexed by the same ecg_ids.

    `thresholds` (5,) are chosen on the validation fold alone.
    """

    run: Run
    labels: dict[str, pd.DataFrame]
    probability: dict[str, pd.DataFrame]
    thresholds: np.ndarray


def by_model(runs: list[Predicted]) -> dict[str, list[Predicted]]:
    """Return {model: its runs, one per seed}, in the order of `runs`."""
    models: dict[str, list[Predicted]] = {}
    for predicted in runs:
        models.setdefault(predicted.run.model, []).append(predicted)
    return models


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


def seed_interval(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return the 95 % t interval of the mean of a - b, areas (n_seeds,) of two models seed by seed.

    It covers the choice of seeds, for these very records. nan without two seeds of each, or with other numbers of them.
    """
    n = len(a)
    if n != len(b) or n < 2:
        return float("nan"), float("nan")
    half = t.ppf(0.975, n - 1) * (a - b).std(ddof=1) / np.sqrt(n)
    return float((a - b).mean() - half), float((a - b).mean() + half)


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


def measure_runs(
    runs: list[Predicted], records: dict[str, pd.DataFrame], *, replicates: int, seed: int
) -> pd.DataFrame:
    """Return the tidy table of all metrics with intervals, columns RESULT_COLUMNS.

    `records` holds ecg_id and patient_id of each split to measure. A model with several seeds has, besides a row per
    seed, one under its bare name: the mean over the seeds, with the interval of that mean over the same resampled
    patients. It does not cover the choice of seeds.
    """
    weights = {split: patient_weights(table, replicates=replicates, seed=seed) for split, table in records.items()}
    blocks = []
    for model, seeds in by_model(runs).items():
        for split, weight in weights.items():
            named = {
                predicted.run.name: measure(
                    predicted.labels[split].to_numpy(),
                    predicted.probability[split].to_numpy(),
                    thresholds=predicted.thresholds,
                    weight=weight.loc[predicted.labels[split].index].to_numpy(),
                )
                for predicted in seeds
            }
            if len(seeds) > 1:
                first, *others = named.values()
                keys = [key for key in first if all(key in values for values in others)]
                mean = {key: np.mean([values[key][0] for values in named.values()], axis=0) for key in keys}
                named = {model: {key: (mean[key], first[key][1]) for key in keys}} | named
            blocks += [_table(name, split, values) for name, values in named.items()]
    return pd.concat(blocks, ignore_index=True)


def _table(name: str, split: str, values: dict[tuple[str, str, str], tuple[np.ndarray, int]]) -> pd.DataFrame:
    table = pd.DataFrame(list(values), columns=["view", "label", "metric"])
    drawn = np.stack([row for row, _ in values.values()])
    table["value"] = drawn[:, 0]
    table["ci_low"], table["ci_high"] = interval(drawn[:, 1:])
    table.loc[table.metric.isin(WITHOUT_INTERVAL), ["ci_low", "ci_high"]] = np.nan
    table["n"] = [n for _, n in values.values()]
    return table.assign(run=name, split=split)[list(RESULT_COLUMNS)]


def confusion_matrix(labels: np.ndarray, probability: np.ndarray) -> pd.DataFrame:
    """Return the 5x5 counts of records with exactly one class: rows the true class, columns the arg-max."""
    one = labels.sum(axis=1) == 1
    counts = np.zeros((len(CLASSES), len(CLASSES)), dtype=int)
    np.add.at(counts, (labels[one].argmax(axis=1), probability[one].argmax(axis=1)), 1)
    return pd.DataFrame(counts, index=pd.Index(CLASSES, name="true"), columns=list(CLASSES))


def confusion_counts(labels: np.ndarray, called: np.ndarray) -> pd.DataFrame:
    """Return tp, fp, fn, tn of every class; `labels` and `called`, whether it was called, are (n, 5)."""
    truth = labels == 1
    cells = {"tp": truth & called, "fp": ~truth & called, "fn": truth & ~called, "tn": ~truth & ~called}
    return pd.DataFrame({"label": CLASSES} | {name: cell.sum(axis=0) for name, cell in cells.items()})


Side = dict[tuple[str, str], tuple[np.ndarray, ...]]  # (view, label) -> see _sides and _mean_side


def compare_pairs(runs: list[Predicted], records: pd.DataFrame, *, replicates: int, seed: int) -> pd.DataFrame:
    """Return the table of all pairs of models on the test fold, columns PAIR_COLUMNS.

    `records` (ecg_id, patient_id) are the test fold. Area, difference, interval and DeLong's test are of the mean over
    a model's seeds, as in `measure_runs`: both the areas of the replicates and DeLong's influences are linear in it.
    McNemar's test needs one decision per record: that of the first seed, never the best. See also `seed_interval`.
    """
    models = by_model(runs)
    if len(models) < 2:
        return pd.DataFrame(columns=list(PAIR_COLUMNS))
    ecg_id = records.ecg_id.to_numpy()
    for predicted in runs:
        ecg_id = ecg_id[np.isin(ecg_id, predicted.labels["test"].index)]
    if not len(ecg_id):
        raise UserError(f"no test record was predicted by all of {', '.join(p.run.name for p in runs)}")
    weight = patient_weights(records, replicates=replicates, seed=seed).loc[ecg_id].to_numpy()
    sides = {model: _mean_side([_sides(p, ecg_id, weight) for p in seeds]) for model, seeds in models.items()}
    blocks = []
    for view, label in next(iter(sides.values())):
        rows = []
        for a, b in combinations(sides, 2):
            right_a, auc_a, influence_a, seeds_a = sides[a][view, label]
            right_b, auc_b, influence_b, seeds_b = sides[b][view, label]
            only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
            low, high = interval((auc_a - auc_b)[None, 1:])
            seed_low, seed_high = seed_interval(seeds_a, seeds_b)
            areas, influence = np.array([auc_a[0], auc_b[0]]), np.stack([influence_a, influence_b])
            rows.append(
                {"run_a": a, "run_b": b, "view": view, "label": label, "n": len(right_a), "b": only_a, "c": only_b}
                | {"p_mcnemar": mcnemar_exact(only_a, only_b), "auc_a": areas[0], "auc_b": areas[1]}
                | {"diff": areas[0] - areas[1], "ci_low": low[0], "ci_high": high[0]}
                | {"seed_low": seed_low, "seed_high": seed_high}
                | {"p_delong": delong_p(areas, influence)}
            )
        block = pd.DataFrame(rows)
        corrected = {"p_holm": holm(block.p_mcnemar.to_numpy()), "p_delong_holm": holm(block.p_delong.to_numpy())}
        blocks.append(block.assign(**corrected))
    return pd.concat(blocks, ignore_index=True)[list(PAIR_COLUMNS)]


def _sides(predicted: Predicted, ecg_id: np.ndarray, weight: np.ndarray) -> Side:
    """Return {(view, label): (right (n,), AUC (1 + replicates,), DeLong influence (n,))} of one run."""
    labels = predicted.labels["test"].loc[ecg_id].to_numpy()
    probability = predicted.probability["test"].loc[ecg_id].to_numpy()
    values = measure(labels, probability, thresholds=predicted.thresholds, weight=weight)
    right, one = (probability >= predicted.thresholds) == labels, labels.sum(axis=1) == 1
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


def _mean_side(seeds: list[Side]) -> Side:
    """Return the first seed's answers, the means of area and influence over the seeds, and each seed's area."""
    return {
        key: (
            seeds[0][key][0],
            *(np.mean([side[key][i] for side in seeds], axis=0) for i in (1, 2)),
            np.array([side[key][1][0] for side in seeds]),
        )
        for key in seeds[0]
    }


def _influences(labels: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return the influence of each record on each class's area, (5, n); nan where it cannot be estimated."""
    influence = np.full(labels.T.shape, np.nan)
    for i, (y, p) in enumerate(zip(labels.T, probability.T, strict=True)):
        if 2 <= y.sum() <= len(y) - 2:
            influence[i] = delong(y, p[None])[1][0]
    return influence
