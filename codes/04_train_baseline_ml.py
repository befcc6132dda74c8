"""Train what the networks have to beat: class shares, trees on lead statistics, MiniRocket with a linear layer.

Run:    python codes/04_train_baseline_ml.py
"""

from dataclasses import dataclass
from typing import Annotated

import tyro

from ecg.baselines import train_baselines
from ecg.command_line import Folders, run
from ecg.tasks import Objective


@dataclass(frozen=True)
class Settings(Folders):
    labels: str = ""
    """The task, such as form, or one that 02 made from a CSV file. By default the first one that 02 was given."""
    name: str = ""
    """Folder of the runs below --artifacts instead of `baseline` or `baseline_LABELS`."""
    overwrite: bool = False
    """Replace baselines in that folder although they were trained with other settings."""
    objective: Annotated[Objective, tyro.conf.arg(aliases=["--task"])] = "multilabel"
    """multilabel: any number of classes per record; multiclass: trained on records with exactly one."""
    seed: int = 0
    """Seed of trees and kernels; seeds other than 0 get a folder of their own in the run's."""
    jobs: int = 0
    """Threads to use; 0 takes every processor core that this process may use."""
    trees: int = 500
    """Trees of the random forest."""
    boosting_rounds: int = 150
    """Trees per class of the gradient boosting."""
    kernels: int = 9996
    """Features of MiniRocket, a multiple of 84."""
    logistic_c: float = 1e-3
    """Inverse of the logistic regression's penalty on MiniRocket's features."""


if __name__ == "__main__":
    run(train_baselines, Settings, __doc__)
