"""Train any registered network by name, as 05 to 10 train theirs.

A network is registered by a line in codes/ecg/models/__init__.py, where its contract is too. The run folder is named
after the network and its settings, as those of 05 to 10 are (`--name` gives another name). 11, 12 and 14 find it by
themselves; 13 takes `--run`, predict.py `--model`.

Run:    python codes/train.py --model xresnet1d --augment --labels form
        torchrun --nproc-per-node=4 codes/train.py --model resnet1d
"""

from dataclasses import dataclass

from ecg.command_line import run
from ecg.training import PRESETS, TrainingSettings, train


@dataclass(frozen=True)
class Settings(TrainingSettings):
    model: str = "resnet1d"
    """Name of the network in ecg.models.MODELS."""


if __name__ == "__main__":
    run(train, Settings, __doc__, PRESETS)
