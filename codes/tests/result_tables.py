"""Made-up predictions of a task and the tables that 11 and 12 make of them, as far as figures and pages look at them.

Values are right, intervals are not: they are the value plus and minus a hundredth.
"""

from itertools import combinations

import numpy as np
import pandas as pd

from ecg.metrics import macros, per_class_auc
from ecg.stats import PAIR_COLUMNS, RESULT_COLUMNS, confusion_matrix
from ecg.tasks import Task

Predictions = dict[str, tuple[np.ndarray, np.ndarray]]
MODELS = ("baseline/naive", "resnet_standard", "resnet_augmented", "ensemble")


def predict(task: Task, *, n: int = 300, models: tuple[str, ...] = MODELS, absent: tuple[int, ...] = ()) -> Predictions:
    """Return {model: (labels, probability)}, both (n, n_classes); the classes `absent` have no positive record."""
    rng = np.random.default_rng(len(task))
    share = np.clip(rng.lognormal(-2.5, 1, len(task)), 0.02, 0.4)
    labels = (rng.random((n, len(task))) < share).astype(int)
    labels[labels.sum(axis=1) == 0, 0] = 1
    labels[:, absent] = 0
    separation = rng.uniform(0.5, 4, len(task))
    found = {}
    for model in models:
        score = separation * labels - 2 + rng.normal(size=labels.shape)
        if model.endswith("naive"):
            score = np.zeros(labels.shape)
        found[model] = labels, 1 / (1 + np.exp(-score))
    return found


def metrics_of(predictions: Predictions, task: Task, *, multiclass: bool = True) -> pd.DataFrame:
    """Return the AUCs and, if wanted, the accuracy of the test records, with the columns of metrics.csv."""
    rows = []
    for model, (labels, probability) in predictions.items():
        auc = per_class_auc(labels, probability)
        for label, value in zip(task.classes, auc, strict=True):
            rows.append(_metric(model, task, "multilabel", label, "auc", value, len(labels), None))
        rows += _macro_rows(model, task, "multilabel", labels, probability)
        one = labels.sum(axis=1) == 1
        if multiclass:
            right = (probability[one].argmax(axis=1) == labels[one].argmax(axis=1)).mean()
            rows.append(_metric(model, task, "multiclass", "macro", "accuracy", right, int(one.sum()), len(task)))
            rows += _macro_rows(model, task, "multiclass", labels[one], probability[one])
    return pd.DataFrame(rows, columns=list(RESULT_COLUMNS))


def _macro_rows(model: str, task: Task, view: str, labels: np.ndarray, probability: np.ndarray) -> list[tuple]:
    auc, rows = per_class_auc(labels, probability), []
    for label, macro in macros(labels).items():
        row = _metric(model, task, view, label, "auc", auc[macro.members].mean(), len(labels), macro.n_classes)
        rows.append(row if macro.has_interval else (*row[:7], np.nan, np.nan, *row[9:]))
    return rows


def _metric(
    model: str, task: Task, view: str, label: str, metric: str, value: float, n: int, classes: int | None
) -> tuple:
    return model, task.name, "test", view, label, metric, value, value - 0.01, value + 0.01, n, classes


def pairs_of(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return the table of pairwise.csv for the macro averages of one task; the p values are made up."""
    auc = metrics[(metrics.metric == "auc") & metrics.label.isin(("macro", "macro5"))]
    rows = []
    for (view, label), group in auc.groupby(["view", "label"]):
        group = group.set_index("run")
        for a, b in combinations(group.index, 2):
            difference = group.value[a] - group.value[b]
            rows.append(
                {
                    "run_a": a,
                    "run_b": b,
                    "task": group.task[a],
                    "view": view,
                    "label": label,
                    "n": group.n[a],
                    "classes": group.classes[a],
                    "b": 3,
                    "c": 5,
                    "p_holm": 0.5,
                    "diff": difference,
                    "ci_low": difference - 0.01,
                    "ci_high": difference + 0.01,
                    "p_delong_holm": 0.01 if abs(difference) > 0.05 else 0.5,
                }
            )
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS))


def matrices_of(predictions: Predictions, task: Task) -> dict[str, pd.DataFrame]:
    return {
        model: confusion_matrix(labels, probability, classes=task.classes)
        for model, (labels, probability) in predictions.items()
    }
