"""Probabilities that can be taken at their word: one temperature per run, fitted on the validation fold.

A network that has seen its training records many times is too sure of itself. Dividing its logits by a temperature
(Guo et al. 2017, section 4.2) mends that and leaves the arg-max as it is; multilabel also the order of any two records
within a class, so the AUC (a softmax depends on all five logits).
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, logit, softmax

CERTAIN = 1e-6  # probabilities are kept this far from 0 and 1, where logits are infinite


def logits_of(probability: np.ndarray, task: str) -> np.ndarray:
    """Return (n, 5) logits whose sigmoid (multilabel) or softmax (multiclass) is `probability`."""
    p = np.clip(np.asarray(probability, np.float64), CERTAIN, 1 - CERTAIN)
    return logit(p) if task == "multilabel" else np.log(p)


def probability_of(logits: np.ndarray, task: str) -> np.ndarray:
    return expit(logits) if task == "multilabel" else softmax(logits, axis=1)


def log_loss(labels: np.ndarray, logits: np.ndarray, task: str) -> float:
    """Return the mean negative log likelihood of `labels` (n, 5); multiclass: of records with exactly one class."""
    if task == "multilabel":
        return float(-np.where(labels == 1, log_expit(logits), log_expit(-logits)).mean())
    one = labels.sum(axis=1) == 1
    return float(-log_softmax(logits[one], axis=1)[labels[one] == 1].mean())


def fit_temperature(labels: np.ndarray, probability: np.ndarray, task: str) -> float:
    """Return the temperature between 0.2 and 5 with the least log loss; to be given the validation fold."""
    logits = logits_of(probability, task)
    return float(np.exp(minimize_scalar(lambda t: log_loss(labels, logits / np.exp(t), task), bounds=_RANGE).x))


_RANGE = (np.log(0.2), np.log(5))


def calibrate(probability: np.ndarray, temperature: float, task: str) -> np.ndarray:
    """Return the probabilities (n, 5) float32 at this temperature; above 1 they move away from 0 and 1."""
    return probability_of(logits_of(probability, task) / temperature, task).astype(np.float32)
