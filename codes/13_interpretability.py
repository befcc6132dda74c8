"""Saliency and integrated gradients of correctly classified test records, and checks whether to believe them.

Explained is the logit of the class, with respect to the channels the network computes on: leads and their time
derivatives. Records have exactly one superclass, the arg-max is right, one record per patient; they are taken at
equal steps from the most to the least confident, and drawn are the most confident up to the median one. Besides the
files below there is one interpretability_results/example_CLASS_METHOD_N.png per drawn record and method.

Reads:  artifacts/ptbxl_test.csv artifacts/signals/{signals.npy,records.csv,meta.json}
        artifacts/**/{config.json,best.pt,predictions_test.csv} PTB-XL/{planted_signs,r_peaks}.csv?
Writes: artifacts/interpretability_results/{lead_importance.csv,lead_importance.png}
        artifacts/interpretability_results/{sanity_checks.csv,sanity_checks.png,examples.csv}
Run:    python codes/13_interpretability.py
"""

from dataclasses import dataclass

from ecg.artifacts import Folders, run
from ecg.attribution import explain


@dataclass(frozen=True)
class Settings(Folders):
    run: str = "resnet_standard"
    """The network to explain: a run folder below the artifacts folder, such as xresnet_standard/seed1."""
    records_per_class: int = 12
    """At most this many records of each class are explained and averaged."""
    drawn_per_class: int = 2
    """So many of them are drawn."""
    steps: int = 16
    """Points on the path of integrated gradients; the completeness error says whether they are enough."""
    seed: int = 0
    """Seed of the randomised weights, the random deletions and the bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


if __name__ == "__main__":
    run(explain, Settings, __doc__)
