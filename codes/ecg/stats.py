"""What the numbers of all runs are worth: bootstrap intervals, paired tests, and the tables of both. Reads no file."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import binomtest, norm, rankdata, t

from ecg.artifacts import UserError
from ecg.metrics import (
    OF_WHOLE_RECORDS,
    WITHOUT_INTERVAL,
    Macro,
    auc_and_ap,
    class_mean,
    macros,
    multiclass_metrics,
    multilabel_metrics,
)
from ecg.runs import Run
from ecg.tasks import Task

RESULT_COLUMNS = ("run", "task", "split", "view", "label", "metric", "value", "ci_low", "ci_high", "n", "classes")
PAIR_COLUMNS = (
    "run_a",
    "run_b",
    "task",
    "view",
    "label",
    "n",
    "b",
    "c",
    "p_mcnemar",
    "p_holm",
    "auc_a",
    "auc_b",
    "diff",
    "ci_low",
    "ci_high",
    "p_delong",
    "p_delong_holm",
    "seed_low",
    "seed_high",
    "classes",
    "classes_delong",
)
PERCENTILES = (2.5, 97.5)
ENOUGH_SINGLE = 0.7  # share of a task's test records with exactly one class, for which one answer per record is fair


@dataclass(frozen=True)
class Evaluation:
    """What a run answers to one task, its own or one that its classes make up.

    `labels` and `probability` are {split: (n, n_classes)}, indexed by the same ecg_ids. `thresholds` (n_classes,) are
    chosen on the validation fold alone. `temperature` is what the logits of the answer to another task were divided
    by; 1 for the run's own task, whose probabilities are calibrated already.
    """

    run: Run
    task: Task
    labels: dict[str, pd.DataFrame]
    probability: dict[str, pd.DataFrame]
    thresholds: np.ndarray
    temperature: float = 1.0

    @property
    def is_own(self) -> bool:
        """Whether this is the task that the run was trained on."""
        return self.run.task.name == self.task.name


@dataclass(frozen=True)
class TaskResults:
    """One task, its records and every run's answers. `records` {split: the table of `read_split`} of val and test."""

    task: Task
    records: dict[str, pd.DataFrame]
    evaluations: list[Evaluation]

    @property
    def has_multiclass_view(self) -> bool:
        """Decided by the test records, for every run and split alike."""
        return has_multiclass_view(self.test_labels)

    @property
    def test_labels(self) -> np.ndarray:
        return self.records["test"][list(self.task.classes)].to_numpy()


def has_multiclass_view(labels: np.ndarray) -> bool:
    """Whether enough records, of `labels` (n, n_classes), have exactly one class to ask which one it is."""
    return share_with_one_class(labels) >= ENOUGH_SINGLE


def share_with_one_class(labels: np.ndarray) -> float:
    return float((labels.sum(axis=1) == 1).mean()) if len(labels) else 0.0


def by_model(evaluations: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    """Return {model: its evaluations, one per seed} for one task, in their order.

    Raises a `UserError` if the seeds of a model did not predict the same test records: their mean would be of neither.
    """
    models: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        models.setdefault(evaluation.run.model, []).append(evaluation)
    for first, *others in models.values():
        for other in others:
            for split, table in first.labels.items():
                missing = table.index.symmetric_difference(other.labels[split].index)
                if len(missing):
                    raise UserError(
                        f"{other.run.folder} and {first.run.folder} did not predict the same {split} records, such as "
                        f"ecg_id {missing[0]}; their seeds cannot be averaged: train both again"
                    )
    return models


def common_records(evaluations: Sequence[Evaluation]) -> np.ndarray:
    """Return the ecg_ids of the test records that every run predicted, in ascending order."""
    common = evaluations[0].labels["test"].index
    for evaluation in evaluations[1:]:
        common = common[common.isin(evaluation.labels["test"].index)]
    return np.sort(common.to_numpy())


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
    defined = np.isfinite(values)
    complete, some = defined.all(axis=1), defined.any(axis=1)
    if complete.any():
        bounds[:, complete] = np.percentile(values[complete], PERCENTILES, axis=1)
    for i in np.flatnonzero(some & ~complete):
        bounds[:, i] = np.percentile(values[i][defined[i]], PERCENTILES)
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


@dataclass(frozen=True)
class Measured:
    """A number of the sample and of its replicates, `values` (1 + replicates,), and what it rests on.

    `classes` is the number of classes behind a number of all of them, None for a number of one class.
    """

    values: np.ndarray
    n: int
    classes: int | None
    has_interval: bool


Measures = dict[tuple[str, str, str], Measured]  # (view, label, metric) ->


def measure(
    labels: np.ndarray,
    probability: np.ndarray,
    *,
    thresholds: np.ndarray,
    weight: np.ndarray,
    task: Task,
    multiclass_view: bool,
) -> Measures:
    """Return every metric of the multilabel view and, if wanted, of the multiclass one; see `ecg.metrics`."""
    values = multilabel_metrics(labels, probability, thresholds, weight, classes=task.classes)
    found = _measures("multilabel", values, labels)
    one = labels.sum(axis=1) == 1
    if multiclass_view and one.any():
        values = multiclass_metrics(labels[one], probability[one], weight[one], classes=task.classes)
        found |= _measures("multiclass", values, labels[one])
    return found


def _measures(view: str, values: dict[tuple[str, str], np.ndarray], labels: np.ndarray) -> Measures:
    means, found = macros(labels), {}
    for (label, metric), row in values.items():
        classes, has_interval = None, True
        if (view, metric) in OF_WHOLE_RECORDS and label == "macro":
            classes = labels.shape[1]
        elif label in means:
            classes, has_interval = means[label].n_classes, means[label].has_interval
        has_interval = has_interval and metric not in WITHOUT_INTERVAL
        found[view, label, metric] = Measured(row, len(labels), classes, has_interval)
    return found


def measure_runs(results: TaskResults, *, replicates: int, seed: int) -> pd.DataFrame:
    """Return the tidy table of one task: all metrics of every run with intervals, columns RESULT_COLUMNS.

    A model with several seeds has, besides a row per seed, one under its bare name: the mean over the seeds, with the
    interval of that mean over the same resampled patients. It does not cover the choice of seeds.
    """
    weights = {
        split: patient_weights(table, replicates=replicates, seed=seed) for split, table in results.records.items()
    }
    multiclass_view = results.has_multiclass_view
    blocks = []
    for model, seeds in by_model(results.evaluations).items():
        for split, weight in weights.items():
            named = {}
            for evaluation in seeds:
                labels = evaluation.labels[split]
                named[evaluation.run.name] = measure(
                    labels.to_numpy(),
                    evaluation.probability[split].to_numpy(),
                    thresholds=evaluation.thresholds,
                    weight=weight.loc[labels.index].to_numpy(),
                    task=results.task,
                    multiclass_view=multiclass_view,
                )
            if len(seeds) > 1:
                named = {model: _mean_over_seeds(list(named.values()))} | named
            for name, measures in named.items():
                blocks.append(_table(name, results.task.name, split, measures))
    return pd.concat(blocks, ignore_index=True)


def _mean_over_seeds(seeds: list[Measures]) -> Measures:
    mean = {}
    for key, first in seeds[0].items():
        values = np.mean([measures[key].values for measures in seeds], axis=0)
        mean[key] = Measured(values, first.n, first.classes, first.has_interval)
    return mean


def _table(name: str, task: str, split: str, measures: Measures) -> pd.DataFrame:
    table = pd.DataFrame(list(measures), columns=["view", "label", "metric"])
    drawn = np.stack([measured.values for measured in measures.values()])
    table["value"] = drawn[:, 0]
    table["ci_low"], table["ci_high"] = interval(drawn[:, 1:])
    without = np.array([not measured.has_interval for measured in measures.values()])
    table.loc[without, ["ci_low", "ci_high"]] = np.nan
    table["n"] = [measured.n for measured in measures.values()]
    table["classes"] = pd.array([measured.classes for measured in measures.values()], dtype="Int64")
    return table.assign(run=name, task=task, split=split)[list(RESULT_COLUMNS)]


def confusion_matrix(labels: np.ndarray, probability: np.ndarray, *, classes: Sequence[str]) -> pd.DataFrame:
    """Return the counts of records with exactly one class, (n_classes, n_classes): rows the true class, columns the
    arg-max.
    """
    one = labels.sum(axis=1) == 1
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (labels[one].argmax(axis=1), probability[one].argmax(axis=1)), 1)
    return pd.DataFrame(counts, index=pd.Index(classes, name="true"), columns=list(classes))


def confusion_counts(labels: np.ndarray, predicted_positive: np.ndarray, *, classes: Sequence[str]) -> pd.DataFrame:
    """Return tp, fp, fn, tn of every class; `labels` and `predicted_positive` are (n, n_classes)."""
    truth = labels == 1
    counts = {
        "label": list(classes),
        "tp": (truth & predicted_positive).sum(axis=0),
        "fp": (~truth & predicted_positive).sum(axis=0),
        "fn": (truth & ~predicted_positive).sum(axis=0),
        "tn": (~truth & ~predicted_positive).sum(axis=0),
    }
    return pd.DataFrame(counts)


@dataclass(frozen=True)
class Scores:
    """How one model does on the records that are compared, for one label of one view.

    `right` (n,) says whether its decision is right and `auc` (1 + replicates,) is its area, the sample first. DeLong's
    test goes by `tested_auc`, the area over the classes that it can test, and `influence` (n,) on it, see `delong`.
    """

    right: np.ndarray
    auc: np.ndarray
    tested_auc: float
    influence: np.ndarray


@dataclass(frozen=True)
class Basis:
    """What the numbers of one label of one view rest on: records, classes, and how many DeLong's test is over."""

    n: int
    classes: int | None = None
    classes_delong: int | None = None
    has_interval: bool = True


def compare_pairs(results: TaskResults, *, replicates: int, seed: int) -> pd.DataFrame:
    """Return the table of all pairs of models for one task on the test fold, columns PAIR_COLUMNS.

    The pairs of models trained on this task come first: on the records that all of these predicted, and as families of
    Holm's correction of their own, one per view and label. So nothing about them changes with the models that answer
    from another task; the pairs with one of those make up further families.
    """
    own = [evaluation for evaluation in results.evaluations if evaluation.is_own]
    own_models, all_models = list(by_model(own)), list(by_model(results.evaluations))
    of_own = list(combinations(own_models, 2))
    of_others = [pair for pair in combinations(all_models, 2) if not set(pair) <= set(own_models)]
    weight = patient_weights(results.records["test"], replicates=replicates, seed=seed)
    blocks = []
    if of_own:
        blocks.append(_compare_family(own, of_own, weight, results))
    if of_others:
        blocks.append(_compare_family(results.evaluations, of_others, weight, results))
    return pd.concat(blocks, ignore_index=True) if blocks else pd.DataFrame(columns=list(PAIR_COLUMNS))


def _compare_family(
    evaluations: list[Evaluation], pairs: list[tuple[str, str]], weight: pd.DataFrame, results: TaskResults
) -> pd.DataFrame:
    """Return the rows of `pairs` on the records that all of `evaluations` predicted, corrected as one family.

    Area, difference, interval and DeLong's test are of the mean over a model's seeds, as in `measure_runs`: both the
    areas of the replicates and DeLong's influences are linear in it. McNemar's test needs one decision per record: that
    of the first seed, never the best. See also `seed_interval`.
    """
    ecg_id = common_records(evaluations)
    if not len(ecg_id):
        names = ", ".join(evaluation.run.name for evaluation in evaluations)
        raise UserError(f"no test record of {results.task.name} was predicted by all of {names}")
    labels = evaluations[0].labels["test"].loc[ecg_id].to_numpy()
    drawn = np.ascontiguousarray(weight.loc[ecg_id].to_numpy())  # rows are read one by one
    bases = _bases(labels, results)
    scores = {}
    for model, seeds in by_model(evaluations).items():
        scores[model] = [_scores(seed, ecg_id, labels, drawn, bases.keys()) for seed in seeds]
    rows = []
    for (view, label), basis in bases.items():
        family = []
        for a, b in pairs:
            of_a = [seed[view, label] for seed in scores[a]]
            of_b = [seed[view, label] for seed in scores[b]]
            row = {"run_a": a, "run_b": b, "task": results.task.name, "view": view, "label": label}
            family.append(row | _compare(of_a, of_b, basis))
        p_holm = holm(np.array([row["p_mcnemar"] for row in family]))
        p_delong_holm = holm(np.array([row["p_delong"] for row in family]))
        for row, of_mcnemar, of_delong in zip(family, p_holm, p_delong_holm, strict=True):
            rows.append(row | {"p_holm": of_mcnemar, "p_delong_holm": of_delong})
    table = pd.DataFrame(rows, columns=list(PAIR_COLUMNS))
    return table.astype({"classes": "Int64", "classes_delong": "Int64"})


def _compare(of_a: list[Scores], of_b: list[Scores], basis: Basis) -> dict[str, float | int | None]:
    """Return what one row of the table says of two models, each given by the scores of its seeds."""
    a, b = _mean_scores(of_a), _mean_scores(of_b)
    only_a, only_b = int((a.right & ~b.right).sum()), int((b.right & ~a.right).sum())
    low, high = interval((a.auc - b.auc)[None, 1:])
    areas_a, areas_b = (np.array([seed.auc[0] for seed in seeds]) for seeds in (of_a, of_b))
    seed_low, seed_high = seed_interval(areas_a, areas_b)
    tested = np.array([a.tested_auc, b.tested_auc])
    return {
        "n": basis.n,
        "b": only_a,
        "c": only_b,
        "p_mcnemar": mcnemar_exact(only_a, only_b),
        "auc_a": a.auc[0],
        "auc_b": b.auc[0],
        "diff": a.auc[0] - b.auc[0],
        "ci_low": low[0] if basis.has_interval else np.nan,
        "ci_high": high[0] if basis.has_interval else np.nan,
        "p_delong": delong_p(tested, np.stack([a.influence, b.influence])),
        "seed_low": seed_low,
        "seed_high": seed_high,
        "classes": basis.classes,
        "classes_delong": basis.classes_delong,
    }


def _mean_scores(seeds: list[Scores]) -> Scores:
    """Return the first seed's decisions, and the means over the seeds of all that is about areas."""
    return Scores(
        right=seeds[0].right,
        auc=np.mean([seed.auc for seed in seeds], axis=0),
        tested_auc=float(np.mean([seed.tested_auc for seed in seeds])),
        influence=np.mean([seed.influence for seed in seeds], axis=0),
    )


def _bases(labels: np.ndarray, results: TaskResults) -> dict[tuple[str, str], Basis]:
    """Return {(view, label): what it rests on} for all that is compared on records with `labels` (n, n_classes)."""
    bases = {("multilabel", label): Basis(len(labels)) for label in results.task.classes}
    for label, macro in macros(labels).items():
        bases["multilabel", label] = _macro_basis(labels, macro)
    one = labels[labels.sum(axis=1) == 1]
    if results.has_multiclass_view and len(one):
        for label, macro in macros(one).items():
            bases["multiclass", label] = _macro_basis(one, macro)
    return bases


def _macro_basis(labels: np.ndarray, macro: Macro) -> Basis:
    tested = macro.members & _can_be_tested(labels)
    return Basis(len(labels), macro.n_classes, int(tested.sum()), macro.has_interval)


def _can_be_tested(labels: np.ndarray) -> np.ndarray:
    """Return for which classes DeLong's test exists, (n_classes,): two records of each outcome."""
    positive = labels.sum(axis=0)
    return (positive >= 2) & (positive <= len(labels) - 2)


def _scores(
    evaluation: Evaluation,
    ecg_id: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    wanted: Collection[tuple[str, str]],
) -> dict[tuple[str, str], Scores]:
    """Return {(view, label): scores} of one run; `labels` and `weight` are of the records `ecg_id`."""
    probability = evaluation.probability["test"].loc[ecg_id].to_numpy()
    right = (probability >= evaluation.thresholds) == labels
    auc, _ = auc_and_ap(labels, probability, weight)
    influence = _influences(labels, probability)
    found = {}
    for i, label in enumerate(evaluation.task.classes):
        found["multilabel", label] = Scores(right[:, i], auc[i], float(auc[i, 0]), influence[i])
    for label, macro in macros(labels).items():
        # `macro` is right where the whole answer is, like exact_match; `macro5` where the answers for its classes are
        considered = right if label == "macro" else right[:, macro.members]
        found["multilabel", label] = _macro_scores(considered.all(axis=1), labels, auc, influence, macro)
    if ("multiclass", "macro") in wanted:
        one = labels.sum(axis=1) == 1
        answered = probability[one].argmax(axis=1) == labels[one].argmax(axis=1)
        auc, _ = auc_and_ap(labels[one], probability[one], weight[one])
        influence = _influences(labels[one], probability[one])
        for label, macro in macros(labels[one]).items():
            found["multiclass", label] = _macro_scores(answered, labels[one], auc, influence, macro)
    return found


def _macro_scores(
    right: np.ndarray, labels: np.ndarray, auc: np.ndarray, influence: np.ndarray, macro: Macro
) -> Scores:
    """Return the scores of a mean over classes, with DeLong's test over those of them that it can be made for."""
    area = class_mean(auc, macro.members)
    tested = macro.members & _can_be_tested(labels)
    if not tested.any():
        return Scores(right, area, float("nan"), np.full(len(right), np.nan))
    return Scores(right, area, float(class_mean(auc[:, :1], tested)[0]), influence[tested].mean(axis=0))


def _influences(labels: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return the influence of each record on each class's area, (n_classes, n); nan where it cannot be estimated."""
    influence = np.full(labels.T.shape, np.nan)
    for i in np.flatnonzero(_can_be_tested(labels)):
        influence[i] = delong(labels[:, i], probability[:, i][None])[1][0]
    return influence
