"""Saliency and integrated gradients of correctly classified test records, and sanity checks of both.

What is explained is the logit of the class, with respect to the channels that the network computes on: leads and their
time derivatives. One record per patient is taken, at equal steps from the most to the least confident one; those drawn
are the most confident one, the median, and others between them.

Run:    python codes/13_interpretability.py
"""

from dataclasses import dataclass

from ecg.attribution import interpret
from ecg.command_line import Folders, run


@dataclass(frozen=True)
class Settings(Folders):
    run: str = ""
    """The network to explain, such as xresnet_standard/seed1. By default resnet_standard, or the first one there is."""
    records_per_class: int = 12
    """At most this many records of each class are explained and averaged."""
    drawn_per_class: int = 2
    """How many of them are drawn."""
    steps: int = 16
    """Points on the path of integrated gradients; the completeness error says whether they are enough."""
    seed: int = 0
    """Seed of the randomised weights, the random deletions and the bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


if __name__ == "__main__":
    run(interpret, Settings, __doc__)
