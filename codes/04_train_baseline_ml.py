"""Train what the networks have to beat: class shares, trees on lead statistics, MiniRocket with a linear layer.

Reads:  artifacts/ptbxl_{train,val,test}.csv artifacts/signals/{signals.npy,records.csv,meta.json}
Writes: artifacts/baseline/{naive,random_forest,hist_gradient_boosting}/{config.json,metrics.csv}
        artifacts/baseline/{naive,random_forest,hist_gradient_boosting}/predictions_{val,test}.{csv,npy}
        artifacts/baseline/{minirocket_ridge,minirocket_logistic}/{config.json,metrics.csv,model.npz}
        artifacts/baseline/{minirocket_ridge,minirocket_logistic}/predictions_{val,test}.{csv,npy}
        artifacts/baseline/naive/model.npz artifacts/baseline/{random_forest,hist_gradient_boosting}/model.skops
Run:    python codes/04_train_baseline_ml.py
"""

from dataclasses import dataclass

from ecg.artifacts import Folders, run
from ecg.baselines import train_baselines
from ecg.inference import Task


@dataclass(frozen=True)
class Settings(Folders):
    task: Task = "multilabel"
    """multilabel: any number of superclasses per record; multiclass: trained on records with exactly one."""
    seed: int = 0
    """Seed of trees and kernels; seeds other than 0 get a folder of their own in the run's."""
    jobs: int = 0
    """Threads to use; 0 takes every processor core that this process may use."""
    trees: int = 500
    """Trees of the random forest."""
    boosting_rounds: int = 150
    """Trees per superclass of the gradient boosting."""
    kernels: int = 9996
    """Features of MiniRocket, a multiple of 84."""
    logistic_c: float = 1e-3
    """Inverse of the logistic regression's penalty on MiniRocket's features."""


if __name__ == "__main__":
    run(train_baselines, Settings, __doc__)
