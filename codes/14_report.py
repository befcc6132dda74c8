"""One HTML page that holds all results and needs no other file, and the index of the artifacts folder.

Only the metrics are required; of everything else that is missing the page says which script makes it. Pictures of
single ECGs are on it only if the records are synthetic or with --with-examples.

Reads:  artifacts/final_results/{metrics.csv,final_metrics_report.csv} artifacts/final_results/*
        artifacts/ptbxl_*.csv artifacts/signals/*.json artifacts/signals/rejected.csv?
        artifacts/**/config.json PTB-XL/planted_signs.csv?
        artifacts/interpretability_results/* artifacts/eda_plots/*.png
Writes: artifacts/final_results/report.html artifacts/README.md
Run:    python codes/14_report.py
"""

from dataclasses import dataclass

from ecg.artifacts import Folders, run
from ecg.report import write_report


@dataclass(frozen=True)
class Settings(Folders):
    with_examples: bool = False
    """Show single ECGs although they are real; such a page is not for publishing."""


if __name__ == "__main__":
    run(write_report, Settings, __doc__)
