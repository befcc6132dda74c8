"""Numbers that say how good predictions are: of one set of records, or of all bootstrap replicates at once.

Throughout, `labels` is (n, n_classes) of 0 and 1 and `probability` (n, n_classes), of the same records and with the
classes in the same order. To add a metric, see SIMPLE_METRICS.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import rankdata

CALIBRATION_BINS = 10
ENOUGH = 5  # positive records; a class with fewer drops out of too many resamples for an interval
WITHOUT_INTERVAL = ("ece", "ece_by_chance")  # why: see multilabel_metrics
OF_WHOLE_RECORDS = (("multilabel", "exact_match"), ("multiclass", "accuracy"))  # of all classes at once, no mean

# A metric of your own needs one line here: {"name": f}, with f(y, p) a number for one class, y (n,) of 0 and 1, p (n,).
# metrics.csv then has it for every class and as the mean over them, with intervals. See `per_replicate`.
SIMPLE_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {}

Values = dict[tuple[str, str], np.ndarray]  # (label, metric) -> (n_replicates,)


def per_class_auc(labels: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve of every class, (n_classes,); nan where a class has only one outcome.

    The Mann-Whitney statistic of the ranks (Hanley & McNeil 1982); ties count one half.
    A class with a nan among its probabilities has the area nan.
    """
    labels = np.asarray(labels, dtype=bool)
    ranks = rankdata(probability, axis=0)  # (n, n_classes)
    positive = labels.sum(axis=0)
    pairs = positive * (len(labels) - positive)
    above = (ranks * labels).sum(axis=0) - positive * (positive + 1) / 2
    return np.divide(above, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def macro_auc(labels: np.ndarray, probability: np.ndarray) -> float:
    """Return the unweighted mean of the classes' ROC areas, never the micro average.

    Classes with only one outcome among these records are left out; if there is no other, the result is nan.
    It is also nan if a probability that counts is nan, as it is after training has diverged.
    """
    labels = np.asarray(labels, dtype=bool)
    usable = labels.any(axis=0) & ~labels.all(axis=0)
    return float(per_class_auc(labels, probability)[usable].mean()) if usable.any() else float("nan")


def choose_thresholds(labels: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return for every class the threshold with the highest F1, (n_classes,); at or above it an answer is positive.

    Pass the validation fold, never the one that is reported. The candidates are the probabilities that occur; of
    equally good ones the highest is taken. A class without any positive record gets 0.5.
    """
    thresholds = np.full(probability.shape[1], 0.5)
    for i, (y, p) in enumerate(zip(np.asarray(labels).T, np.asarray(probability).T, strict=True)):
        if y.any():
            order = np.argsort(-p, kind="stable")
            last = np.r_[p[order][1:] != p[order][:-1], True]  # equal probabilities get the same answer
            predicted_positive = np.arange(1, len(p) + 1)[last]
            f1 = 2 * np.cumsum(y[order])[last] / (predicted_positive + y.sum())
            thresholds[i] = p[order][last][f1.argmax()]
    return thresholds


@dataclass(frozen=True)
class Macro:
    """The classes that a mean is over, (n_classes,) bool, and whether its resamples make an interval."""

    members: np.ndarray
    has_interval: bool

    @property
    def n_classes(self) -> int:
        return int(self.members.sum())


def macros(labels: np.ndarray) -> dict[str, Macro]:
    """Return over which classes of these records the means `macro` and `macro5` are.

    `macro` is over the classes with positive and negative records. If each of them has at least five positive records,
    it carries the interval and there is nothing else. If not, it has no interval, because rarer classes drop out of
    resamples, and `macro5`, over those with at least five, carries one; it is missing where there are none.
    """
    positive = np.asarray(labels).sum(axis=0)
    both = (positive > 0) & (positive < len(labels))
    frequent = both & (positive >= ENOUGH)
    complete = bool((frequent == both).all())
    found = {"macro": Macro(both, has_interval=complete)}
    if frequent.any() and not complete:
        found["macro5"] = Macro(frequent, has_interval=True)
    return found


def multilabel_metrics(
    labels: np.ndarray,
    probability: np.ndarray,
    thresholds: np.ndarray,
    weight: np.ndarray,
    *,
    classes: Sequence[str],
) -> Values:
    """Return every metric of the multilabel view; `weight` (n, n_replicates) says how often a record counts.

    Per class and as the means of `macros`: auc; ap (average precision); at `thresholds` (n_classes,) f1, accuracy,
    sensitivity and specificity; brier, the mean squared error of the probability (Brier 1950); ece, the expected
    calibration error with ten bins of equal width (Naeini et al. 2015). A resample adds noise to each bin, and noise
    can only raise the ece: the percentiles of its replicates lie too high and may not even hold the value, so it is
    reported without an interval. ece_by_chance is what a model with the same probabilities would show at this n if they
    were exactly right: only an ece above it says something. For the label `macro` also exact_match, the share of
    records for which the answers of all classes are right. A metric that the records of a replicate leave undefined (a
    class without both outcomes) is nan, and is left out of the mean.
    """
    labels, weight = np.asarray(labels, dtype=float), np.ascontiguousarray(weight, dtype=float)
    predicted_positive = probability >= thresholds
    auc, ap = auc_and_ap(labels, probability, weight)
    values = {"auc": auc, "ap": ap} | _counted(labels, predicted_positive, weight)
    total = weight.sum(axis=0)
    of_class = list(zip(labels.T, probability.T, strict=True))
    values["brier"] = ((probability - labels) ** 2).T @ weight / total
    values["ece"] = np.stack([_calibration_error(y, p, weight) for y, p in of_class]) / total
    values["ece_by_chance"] = np.stack([_calibration_noise(p, weight) for _, p in of_class]) / total
    for name, metric in SIMPLE_METRICS.items():
        values[name] = np.stack([per_replicate(metric, y, p, weight) for y, p in of_class])
    exact = (predicted_positive == labels).all(axis=1) @ weight / total
    return _named(values, labels, classes) | {("macro", "exact_match"): exact}


def multiclass_metrics(
    labels: np.ndarray, probability: np.ndarray, weight: np.ndarray, *, classes: Sequence[str]
) -> Values:
    """Return every metric of the multiclass view, for records with exactly one class; the answer is the arg-max.

    Per class, against the rest, and as the means of `macros`: auc, f1, sensitivity, specificity.
    For the label `macro` also accuracy, the share of right answers (not a mean over classes).
    """
    labels, weight = np.asarray(labels, dtype=float), np.ascontiguousarray(weight, dtype=float)
    if (labels.sum(axis=1) != 1).any():
        raise ValueError("the multiclass view is of records with exactly one class")
    answer = probability.argmax(axis=1)
    counted = _counted(labels, answer[:, None] == np.arange(labels.shape[1]), weight)
    del counted["accuracy"]
    right = labels[np.arange(len(labels)), answer]
    values = _named({"auc": auc_and_ap(labels, probability, weight)[0]} | counted, labels, classes)
    return values | {("macro", "accuracy"): _ratio(right @ weight, weight.sum(axis=0))}


def per_replicate(
    metric: Callable[[np.ndarray, np.ndarray], float], y: np.ndarray, p: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """Return metric(y, p) of one class in every replicate, (n_replicates,): slow, but right for any metric.

    Each record is passed as many times as it counts. nan where a replicate does not hold both outcomes.
    """
    values = np.full(weight.shape[1], np.nan)
    for replicate, times in enumerate(weight.T.astype(int)):
        drawn = np.repeat(np.arange(len(y)), times)
        if 0 < y[drawn].sum() < len(drawn):
            values[replicate] = metric(y[drawn], p[drawn])
    return values


def class_mean(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return the mean of `values` (n_classes, n_replicates) over the classes `members` that are defined."""
    chosen = values[members]
    defined = np.isfinite(chosen)
    return _ratio(np.where(defined, chosen, 0).sum(axis=0), defined.sum(axis=0))


def calibration_bins(probability: np.ndarray) -> np.ndarray:
    """Return the bin, 0 to 9, of every probability: ten of equal width, 1.0 in the last."""
    return np.clip((probability * CALIBRATION_BINS).astype(int), 0, CALIBRATION_BINS - 1)


def auc_and_ap(labels: np.ndarray, probability: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ROC area and average precision of every class and replicate, each (n_classes, n_replicates).

    Sorting happens once per class; a replicate is then sums of its weights between positive records. Both numbers are
    sums over the positive records i: AUC of (negatives below i + half of those level with it) / negatives,
    AP of the precision among the records at or above i.
    """
    auc, ap = (np.full((labels.shape[1], weight.shape[1]), np.nan) for _ in range(2))
    for k, (y, p) in enumerate(zip(labels.T == 1, probability.T, strict=True)):
        order = np.argsort(p, kind="stable")
        positive, negative = order[y[order]], order[~y[order]]
        p_positive, w_positive = p[positive], weight[positive]
        first = np.searchsorted(p[negative], p_positive, side="left")
        behind = np.searchsorted(p[negative], p_positive, side="right")
        ends = np.unique(np.concatenate([first, behind, [len(negative)]]))
        up_to = _sums_up_to(ends, negative, weight)
        below, level = up_to[np.searchsorted(ends, first)], up_to[np.searchsorted(ends, behind)]
        below_positive = np.concatenate([np.zeros((1, weight.shape[1])), np.cumsum(w_positive, axis=0)])
        n_positive, n_negative = below_positive[-1], up_to[-1]
        tp = n_positive - below_positive[np.searchsorted(p_positive, p_positive, side="left")]
        predicted_positive = tp + n_negative - below
        both = (n_positive > 0) & (n_negative > 0)
        level += below
        auc_sum = np.einsum("ij,ij->j", w_positive, level) / 2
        np.divide(tp, predicted_positive, out=tp, where=predicted_positive > 0)  # elsewhere the weight is 0 as well
        ap_sum = np.einsum("ij,ij->j", w_positive, tp)
        np.divide(auc_sum, n_positive * n_negative, out=auc[k], where=both)
        np.divide(ap_sum, n_positive, out=ap[k], where=both)
    return auc, ap


def _sums_up_to(ends: np.ndarray, rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the sums of weight[rows[:end]] for each of the ascending `ends`, (len(ends), n_replicates).

    The sparse product reads each weight once: for rare classes several times faster than a sum along all rows.
    """
    starts = np.concatenate([[0], ends])
    between = csr_array((np.ones(len(rows)), rows, starts), shape=(len(ends), len(weight))) @ weight
    return np.cumsum(between, axis=0)


def _named(values: dict[str, np.ndarray], labels: np.ndarray, classes: Sequence[str]) -> Values:
    named = {}
    means = macros(labels)
    for metric, value in values.items():  # (n_classes, n_replicates)
        for label, row in zip(classes, value, strict=True):
            named[label, metric] = row
        for label, macro in means.items():
            named[label, metric] = class_mean(value, macro.members)
    return named


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def _counted(labels: np.ndarray, predicted_positive: np.ndarray, weight: np.ndarray) -> dict[str, np.ndarray]:
    tp = (predicted_positive * labels).T @ weight  # (n_classes, n_replicates)
    fp = (predicted_positive * (1 - labels)).T @ weight
    positive, total = labels.T @ weight, weight.sum(axis=0)
    tn = total - positive - fp
    return {
        "f1": np.nan_to_num(_ratio(2 * tp, tp + fp + positive)),  # 0 where nothing is positive, in truth or answer
        "accuracy": _ratio(tp + tn, total),
        "sensitivity": _ratio(tp, positive),
        "specificity": _ratio(tn, total - positive),
    }


def _calibration_error(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the expected calibration error times the number of records, (n_replicates,)."""
    in_bin = calibration_bins(p) == np.arange(CALIBRATION_BINS)[:, None]  # (10, n)
    return np.abs((in_bin * (y - p)) @ weight).sum(axis=0)


def _calibration_noise(p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the same, expected of outcomes drawn from `p` itself: a bin's sum is nearly normal, E|x| = .8 sd."""
    in_bin = calibration_bins(p) == np.arange(CALIBRATION_BINS)[:, None]
    return np.sqrt(2 / np.pi * ((in_bin * p * (1 - p)) @ weight)).sum(axis=0)
