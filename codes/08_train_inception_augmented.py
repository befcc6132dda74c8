"""Train Inception with augmentation on random crops; predict validation and test.

Run:    python codes/08_train_inception_augmented.py
"""

from dataclasses import dataclass
from functools import partial

from ecg.command_line import run
from ecg.training import PRESETS, TrainingSettings, train


@dataclass(frozen=True)
class Settings(TrainingSettings):
    augment: bool = True
    """Train on scaled and noisy signals with lost leads; the run folder is named after it."""


if __name__ == "__main__":
    run(partial(train, model="inception"), Settings, __doc__, PRESETS)
