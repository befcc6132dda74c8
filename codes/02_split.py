"""Labels of one or more tasks, and splits that no patient crosses.

Run:    python codes/02_split.py
"""

from dataclasses import dataclass

from ecg.command_line import Folders, run
from ecg.labels import LabelPolicy, SplitRule, make_splits


@dataclass(frozen=True)
class Settings(Folders):
    labels: tuple[str, ...] = ("superdiagnostic",)
    """Tasks: superdiagnostic, subdiagnostic, diagnostic, form, rhythm, all, or CSV files (statement,class).
    Runs use the first one unless told otherwise, and its classes are the columns of ptbxl_{train,val,test}.csv."""
    split: SplitRule = "folds"
    """folds: strat_fold 1-8 / 9 / 10; validated: val and test are patients all of whose records a human validated."""
    label_policy: LabelPolicy = "any"
    """any: every listed statement counts; likelihood50: of the diagnostic ones, those given with at least 50 %."""
    shuffle_labels: bool = False
    """Negative control: shuffle the statements across records; every model must then end near an AUC of .5."""


if __name__ == "__main__":
    run(make_splits, Settings, __doc__)
