"""Train XResNet1D without augmentation on random crops; predict validation and test.

Reads:  artifacts/ptbxl_{train,val,test}.csv artifacts/ptbxl_splits.json
        artifacts/signals/{signals.npy,records.csv,meta.json}
Writes: artifacts/xresnet_standard/{config.json,history.csv,history.png,metrics.csv,best.pt,last.pt}
        artifacts/xresnet_standard/predictions_{val,test}.{csv,npy}
        artifacts/xresnet_standard/lr_finder.{csv,png}
Run:    python codes/09_train_xresnet1d.py
"""

from dataclasses import dataclass
from functools import partial

from ecg.artifacts import run
from ecg.training import PRESETS, TrainingSettings, train


@dataclass(frozen=True)
class Settings(TrainingSettings):
    augment: bool = False
    """Train on scaled and noisy signals with lost leads; the run folder is named after it."""
    lr_finder: bool = True
    """Draw the learning-rate finder's curve before training."""


if __name__ == "__main__":
    run(partial(train, model="xresnet1d", name="xresnet"), Settings, __doc__, PRESETS)
