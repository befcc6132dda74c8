"""One HTML page that holds all results and needs no other file, and the index of the artifacts folder.

Only the metrics are required; of everything else that is missing the page says which script makes it. Pictures of
single ECGs are on it only if the records are synthetic or with --with-examples.

Run:    python codes/14_report.py
"""

from dataclasses import dataclass

from ecg.command_line import Folders, run
from ecg.report import write_report


@dataclass(frozen=True)
class Settings(Folders):
    with_examples: bool = False
    """Show single ECGs although they are real; such a page is not for publishing."""


if __name__ == "__main__":
    run(write_report, Settings, __doc__)
