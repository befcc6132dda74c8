"""How much of the machine may be used."""

import os

from ecg.hardware import cores, machine


def test_threads_are_the_processors_allowed_and_no_more_than_omp_says(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for limit, expected in (("", 3), ("2", 2), ("8", 3), ("2,4", 2), ("0", 3), ("many", 3)):
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
        assert cores() == expected, limit
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == 64


def test_a_number_says_what_it_was_measured_on():
    facts = machine()
    assert set(facts) == {"hardware", "versions", "date"}
    assert {"python", "numpy", "torch", "scikit-learn"} <= set(facts["versions"])
    assert f"{os.cpu_count()} cores" in facts["hardware"]
