"""Confusion matrices of every run, and every pair of models compared: exact McNemar, DeLong, paired bootstrap.

Of a model with several seeds AUCs are means over the seeds, as in 11; McNemar's test takes the decisions of the
first seed, never the best. Holm's correction is over all pairs within one view and label. pairwise.md says what each
column means. Besides the files below there is one final_results/confusion_matrix_RUN.csv per run (rows the true class,
columns the predicted one).

Reads:  artifacts/**/predictions_{val,test}.csv artifacts/**/config.json artifacts/ptbxl_{val,test}.csv
Writes: artifacts/final_results/{pairwise,confusion_counts}.csv artifacts/final_results/pairwise.md
        artifacts/final_results/{pairwise,confusion_matrices}.png
Run:    python codes/12_conf_matrix_and_stat_test.py
"""

from dataclasses import dataclass

from ecg.artifacts import Folders, run
from ecg.final_results import compare_runs


@dataclass(frozen=True)
class Settings(Folders):
    replicates: int = 1000
    """Bootstrap resamples of the patients behind every interval."""
    seed: int = 0
    """Seed of the resamples; the same as in 11 gives the same resamples."""


if __name__ == "__main__":
    run(compare_runs, Settings, __doc__)
