"""Probabilities that can be taken at their word: one temperature per run and task, fitted on the validation fold.

A network that has seen its training records many times is too sure of itself. Dividing its logits by a temperature
(Guo et al. 2017, section 4.2) mends that and leaves the arg-max as it is; multilabel also the order of any two records
within a class, so the AUC (a softmax depends on the logits of all classes).
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, logit, softmax

from ecg.tasks import Objective

CERTAIN = 1e-6  # probabilities are kept this far from 0 and 1, where logits are infinite
LOWEST, HIGHEST = 0.2, 5.0  # temperatures that are tried


def logits_of(probability: np.ndarray, objective: Objective, *, certain: float = CERTAIN) -> np.ndarray:
    """Return (n, n_classes) logits whose sigmoid (multilabel) or softmax (multiclass) is `probability`.

    Probabilities closer than `certain` to 0 or 1 become equal.
    """
    p = np.clip(np.asarray(probability, np.float64), certain, 1 - certain)
    return logit(p) if objective == "multilabel" else np.log(p)


def probability_of(logits: np.ndarray, objective: Objective) -> np.ndarray:
    return expit(logits) if objective == "multilabel" else softmax(logits, axis=1)


def log_loss(labels: np.ndarray, logits: np.ndarray, objective: Objective) -> float:
    """Return the mean negative log likelihood of `labels` (n, n_classes); multiclass: of records with exactly one.

    nan if there is no such record.
    """
    if objective == "multilabel":
        return float(-np.where(labels == 1, log_expit(logits), log_expit(-logits)).mean())
    one = labels.sum(axis=1) == 1
    return float(-log_softmax(logits[one], axis=1)[labels[one] == 1].mean()) if one.any() else float("nan")


def can_be_fitted(labels: np.ndarray, objective: Objective) -> bool:
    """Whether the loss of these labels, (n, n_classes), has a lowest point: not if they are all alike, or none."""
    if objective == "multilabel":
        return bool((labels == 0).any() and (labels == 1).any())
    of_class = labels[labels.sum(axis=1) == 1].sum(axis=0)
    return bool((of_class > 0).sum() > 1)


def fit_temperature(labels: np.ndarray, probability: np.ndarray, objective: Objective) -> float:
    """Return the temperature between 0.2 and 5 with the least log loss; pass the validation fold.

    It is 1, which changes nothing, where the labels cannot say: all of them equal, or multiclass no record with exactly
    one class.
    """
    if not can_be_fitted(labels, objective):
        return 1.0
    logits = logits_of(probability, objective)

    def loss(log_temperature: float) -> float:
        return log_loss(labels, logits / np.exp(log_temperature), objective)

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST))).x))


def calibrate(probability: np.ndarray, temperature: float, objective: Objective) -> np.ndarray:
    """Return the probabilities (n, n_classes) float32 at this temperature; above 1 they move away from 0 and 1."""
    return probability_of(logits_of(probability, objective) / temperature, objective).astype(np.float32)
