"""Superclass labels and patient-safe splits.

Reads:  PTB-XL/ptbxl_database.csv PTB-XL/scp_statements.csv
Writes: artifacts/ptbxl_{train,val,test}.csv artifacts/ptbxl_splits.json
Run:    python codes/02_split.py
"""

from dataclasses import dataclass

from ecg.artifacts import Folders, run
from ecg.labels import LabelPolicy, SplitRule, make_splits


@dataclass(frozen=True)
class Settings(Folders):
    split: SplitRule = "folds"
    """folds: strat_fold 1-8 / 9 / 10; validated: val and test are patients all of whose records a human validated."""
    label_policy: LabelPolicy = "any"
    """any: every listed diagnostic code counts; likelihood50: only those with a likelihood of at least 50 %."""
    shuffle_labels: bool = False
    """Negative control: deal the labels out anew among the records; every model must then end near an AUC of .5."""


if __name__ == "__main__":
    run(make_splits, Settings, __doc__)
