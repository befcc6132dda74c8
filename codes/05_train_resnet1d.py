"""Train ResNet1D without augmentation on random crops; predict validation and test.

Reads:  artifacts/ptbxl_{train,val,test}.csv artifacts/ptbxl_splits.json
        artifacts/signals/{signals.npy,records.csv,meta.json}
Writes: artifacts/resnet_standard/{config.json,history.csv,history.png,metrics.csv,best.pt,last.pt}
        artifacts/resnet_standard/predictions_{val,test}.{csv,npy}
Run:    python codes/05_train_resnet1d.py
"""

from dataclasses import dataclass
from functools import partial

from ecg.artifacts import run
from ecg.training import PRESETS, TrainingSettings, train


@dataclass(frozen=True)
class Settings(TrainingSettings):
    augment: bool = False
    """Train on scaled and noisy signals with lost leads; the run folder is named after it."""


if __name__ == "__main__":
    run(partial(train, model="resnet1d", name="resnet"), Settings, __doc__, PRESETS)
