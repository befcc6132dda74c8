"""Numbers that say how good predictions are: of one set of records, or of all bootstrap replicates at once.

`labels` is (n, 5) of 0 and 1, `probability` (n, 5); both in the order of CLASSES and of the same records.
"""

import numpy as np
from scipy.stats import rankdata

from ecg.labels import CLASSES

CALIBRATION_BINS = 10
WITHOUT_INTERVAL = ("ece", "ece_by_chance")  # why: see multilabel_metrics


def per_class_auc(labels: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve of every class, (5,); nan where a class has only one outcome.

    The Mann-Whitney statistic of the ranks (Hanley & McNeil 1982); ties count one half.
    A class whose probability holds a nan has the area nan.
    """
    labels = np.asarray(labels, dtype=bool)
    ranks = rankdata(probability, axis=0)  # (n, 5)
    positive = labels.sum(axis=0)
    pairs = positive * (len(labels) - positive)
    above = (ranks * labels).sum(axis=0) - positive * (positive + 1) / 2
    return np.divide(above, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def macro_auc(labels: np.ndarray, probability: np.ndarray) -> float:
    """Return the unweighted mean of the classes' ROC areas, never the micro average.

    Classes with only one outcome among these records are left out; without any other the answer is nan.
    It is also nan if a probability that counts is nan, as it is after training has diverged.
    """
    labels = np.asarray(labels, dtype=bool)
    usable = labels.any(axis=0) & ~labels.all(axis=0)
    return float(per_class_auc(labels, probability)[usable].mean()) if usable.any() else float("nan")


def choose_thresholds(labels: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return for every class the threshold with the highest F1, (5,); a class is called at or above it.

    To be given the validation fold, never the one that is reported. The candidates are the probabilities that
    occur, of equally good ones the highest. A class without any positive record gets 0.5.
    """
    thresholds = np.full(probability.shape[1], 0.5)
    for i, (y, p) in enumerate(zip(np.asarray(labels).T, np.asarray(probability).T, strict=True)):
        if y.any():
            order = np.argsort(-p, kind="stable")
            last = np.r_[p[order][1:] != p[order][:-1], True]  # equal probabilities are called together
            called = np.arange(1, len(p) + 1)[last]
            f1 = 2 * np.cumsum(y[order])[last] / (called + y.sum())
            thresholds[i] = p[order][last][f1.argmax()]
    return thresholds


Values = dict[tuple[str, str], np.ndarray]  # (label, metric) -> (n_replicates,)


def multilabel_metrics(
    labels: np.ndarray, probability: np.ndarray, thresholds: np.ndarray, weight: np.ndarray
) -> Values:
    """Return every metric of the multilabel view; `weight` (n, n_replicates) says how often a record counts.

    Per class and as the mean over the classes (`macro`): auc; ap (average precision); at `thresholds` (5,)
    f1, accuracy, sensitivity and specificity; brier, the mean squared error of the probability (Brier 1950);
    ece, the expected calibration error with ten bins of equal width (Naeini et al. 2015). A resample adds noise to
    each bin, and noise can only raise the ece: the percentiles of its replicates lie too high and may not even hold
    the value, so it is reported without an interval. ece_by_chance is what a model with the same probabilities would
    show at this n if they were exactly right: only an ece above it speaks of the model. For the label `macro` also
    exact_match, the share of records whose five answers are all right. A metric that the records leave undefined (a
    class without both outcomes) is nan, and is left out of the mean.
    """
    labels, weight = np.asarray(labels, dtype=float), np.asarray(weight, dtype=float)
    called = probability >= thresholds
    auc, ap = _ranking(labels, probability, weight)
    values = {"auc": auc, "ap": ap} | _counted(labels, called, weight)
    total = weight.sum(axis=0)
    values["brier"] = ((probability - labels) ** 2).T @ weight / total
    values["ece"] = np.stack([_calibration_error(y, p, weight) for y, p in zip(labels.T, probability.T, strict=True)])
    values["ece_by_chance"] = np.stack([_calibration_noise(p, weight) for p in probability.T])
    exact = (called == labels).all(axis=1) @ weight / total
    return _named(values) | {("macro", "exact_match"): exact}


def multiclass_metrics(labels: np.ndarray, probability: np.ndarray, weight: np.ndarray) -> Values:
    """Return every metric of the multiclass view, for records with exactly one class; the answer is the arg-max.

    Per class, against the rest, and as the mean over the classes (`macro`): auc, f1, sensitivity, specificity.
    For the label `macro` also accuracy, the share of right answers (not a mean over classes).
    """
    labels, weight = np.asarray(labels, dtype=float), np.asarray(weight, dtype=float)
    if (labels.sum(axis=1) != 1).any():
        raise ValueError("the multiclass view is of records with exactly one class")
    answer = probability.argmax(axis=1)
    counted = _counted(labels, answer[:, None] == np.arange(labels.shape[1]), weight)
    del counted["accuracy"]
    right = labels[np.arange(len(labels)), answer]
    values = _named({"auc": _ranking(labels, probability, weight)[0]} | counted)
    return values | {("macro", "accuracy"): _ratio(right @ weight, weight.sum(axis=0))}


def calibration_bins(probability: np.ndarray) -> np.ndarray:
    """Return the bin, 0 to 9, of every probability: ten of equal width, 1.0 in the last."""
    return np.clip((probability * CALIBRATION_BINS).astype(int), 0, CALIBRATION_BINS - 1)


def _named(values: dict[str, np.ndarray]) -> Values:
    named = {}
    for metric, value in values.items():  # (5, n_replicates)
        for label, row in zip(CLASSES, value, strict=True):
            named[label, metric] = row
        defined = np.isfinite(value)
        total = np.where(defined, value, 0).sum(axis=0)
        named["macro", metric] = _ratio(total, defined.sum(axis=0))
    return named


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def _counted(labels: np.ndarray, called: np.ndarray, weight: np.ndarray) -> dict[str, np.ndarray]:
    tp = (called * labels).T @ weight  # (5, n_replicates)
    fp = (called * (1 - labels)).T @ weight
    positive, total = labels.T @ weight, weight.sum(axis=0)
    tn = total - positive - fp
    return {
        "f1": np.nan_to_num(_ratio(2 * tp, tp + fp + positive)),  # 0 where nothing is there and nothing is called
        "accuracy": _ratio(tp + tn, total),
        "sensitivity": _ratio(tp, positive),
        "specificity": _ratio(tn, total - positive),
    }


def _calibration_error(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    in_bin = calibration_bins(p) == np.arange(CALIBRATION_BINS)[:, None]  # (10, n)
    return np.abs((in_bin * (y - p)) @ weight).sum(axis=0) / weight.sum(axis=0)


def _calibration_noise(p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Expected calibration error of outcomes drawn from `p` itself: a bin's sum is nearly normal, E|x| = .8 sd."""
    in_bin = calibration_bins(p) == np.arange(CALIBRATION_BINS)[:, None]
    return np.sqrt(2 / np.pi * ((in_bin * p * (1 - p)) @ weight)).sum(axis=0) / weight.sum(axis=0)


def _ranking(labels: np.ndarray, probability: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ROC area and average precision of every class and replicate, each (5, n_replicates).

    Sorting happens once per class; a replicate is then two cumulative sums of its weights. Both numbers are
    sums over the positive records i: AUC of (negatives below i + half of those level with it) / negatives,
    AP of the precision among the records at or above i.
    """
    auc, ap = (np.full((labels.shape[1], weight.shape[1]), np.nan) for _ in range(2))
    for k, (y, p) in enumerate(zip(labels.T == 1, probability.T, strict=True)):
        order = np.argsort(p, kind="stable")
        positive, negative = order[y[order]], order[~y[order]]
        w_positive, w_negative = weight[positive], weight[negative]
        below_negative, below_positive = _cumulative(w_negative), _cumulative(w_positive)
        n_positive, n_negative = below_positive[-1], below_negative[-1]
        below = below_negative[np.searchsorted(p[negative], p[positive], side="left")]
        level = below_negative[np.searchsorted(p[negative], p[positive], side="right")]
        tp = n_positive - below_positive[np.searchsorted(p[positive], p[positive], side="left")]
        called = tp + n_negative - below
        both = (n_positive > 0) & (n_negative > 0)
        level += below
        auc_sum = np.einsum("ij,ij->j", w_positive, level) / 2
        np.divide(tp, called, out=tp, where=called > 0)  # where nothing is called, the weight is 0 as well
        ap_sum = np.einsum("ij,ij->j", w_positive, tp)
        np.divide(auc_sum, n_positive * n_negative, out=auc[k], where=both)
        np.divide(ap_sum, n_positive, out=ap[k], where=both)
    return auc, ap


def _cumulative(weight: np.ndarray) -> np.ndarray:
    total = np.zeros((len(weight) + 1, weight.shape[1]))
    np.cumsum(weight, axis=0, out=total[1:])
    return total
