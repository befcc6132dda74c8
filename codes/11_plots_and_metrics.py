"""Metrics of every run with 95 % intervals, and the curves, from predictions alone.

Intervals: percentiles 2.5 and 97.5 over resamples of the patients, the same resamples for every run. A model
with several seeds also has a row under its bare name: the mean over the seeds and the interval of that mean.
The calibration error (ece) has none: resampling can only raise it. Thresholds are chosen on the validation fold and
then frozen, and so are the weights of the ensemble, which is measured like any other run.

Reads:  artifacts/**/predictions_{val,test}.csv artifacts/**/config.json artifacts/**/history.csv
        artifacts/ptbxl_{val,test}.csv
Writes: artifacts/final_results/{metrics,final_metrics_report}.csv artifacts/final_results/thresholds.json
        artifacts/ensemble/{config.json,metrics.csv} artifacts/ensemble/predictions_{val,test}.{csv,npy}
        artifacts/final_results/{roc_curves,pr_curves,calibration,forest,per_class_auc,histories}.png
Run:    python codes/11_plots_and_metrics.py
"""

from dataclasses import dataclass

from ecg.artifacts import Folders, run
from ecg.final_results import plots_and_metrics


@dataclass(frozen=True)
class Settings(Folders):
    replicates: int = 1000
    """Bootstrap resamples of the patients behind every interval."""
    seed: int = 0
    """Seed of the resamples."""


if __name__ == "__main__":
    run(plots_and_metrics, Settings, __doc__)
