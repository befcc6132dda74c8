"""Metrics of every run with 95 % intervals, and the curves, from predictions alone.

A run is evaluated on its own task and on every task that its classes make up. Intervals are percentiles 2.5 and 97.5
over resamples of the patients, the same resamples for every run. A model trained with several seeds also has a row
under its bare name: the mean over the seeds and the interval of that mean. The calibration error (ece) has no interval,
because resampling can only raise it. Thresholds are chosen on the validation fold and then frozen; so are the weights
of the ensemble, which is measured like any other run. Tasks other than the first have their figures in
final_results/TASK/, and their ensembles in ensemble_TASK/.

Run:    python codes/11_plots_and_metrics.py
"""

from dataclasses import dataclass

from ecg.command_line import Folders, run
from ecg.final_results import plots_and_metrics


@dataclass(frozen=True)
class Settings(Folders):
    replicates: int = 1000
    """Bootstrap resamples of the patients behind every interval."""
    seed: int = 0
    """Seed of the resamples."""


if __name__ == "__main__":
    run(plots_and_metrics, Settings, __doc__)
