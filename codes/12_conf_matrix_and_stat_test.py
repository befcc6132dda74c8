"""Confusion matrices of every run, and every pair of models compared: exact McNemar, DeLong, paired bootstrap.

Pairs are compared within a task. For a model with several seeds, AUCs are means over the seeds, as in 11; McNemar's
test takes the decisions of the first seed, never the best. Holm's correction is over all pairs of models trained on a
task, within one view and label, and over the pairs with a model that answers from another task. In confusion matrices,
rows are the true class and columns the predicted one. pairwise.md says what each column of pairwise.csv means. Tasks
other than the first have their figures and matrices in final_results/TASK/.

Run:    python codes/12_conf_matrix_and_stat_test.py
"""

from dataclasses import dataclass

from ecg.command_line import Folders, run
from ecg.final_results import compare_runs


@dataclass(frozen=True)
class Settings(Folders):
    replicates: int = 1000
    """Bootstrap resamples of the patients behind every interval."""
    seed: int = 0
    """Seed of the resamples; the same as in 11 gives the same resamples."""


if __name__ == "__main__":
    run(compare_runs, Settings, __doc__)
