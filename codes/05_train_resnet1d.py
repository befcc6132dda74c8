"""Train ResNet1D without augmentation on random crops; predict validation and test.

Run:    python codes/05_train_resnet1d.py
"""

from dataclasses import dataclass
from functools import partial

from ecg.command_line import run
from ecg.training import PRESETS, TrainingSettings, train


@dataclass(frozen=True)
class Settings(TrainingSettings):
    augment: bool = False
    """Train on scaled and noisy signals with lost leads; the run folder is named after it."""


if __name__ == "__main__":
    run(partial(train, model="resnet1d"), Settings, __doc__, PRESETS)
