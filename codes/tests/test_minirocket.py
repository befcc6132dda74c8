"""MiniRocket's features without its compiler: the same numbers as aeon's, which fits the parameters."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import CODES

from ecg.minirocket import KERNELS, fit_rocket, rocket_features

KERNEL_COUNT = 10 * len(KERNELS)


def recordings(n: int, n_leads: int, length: int = 240) -> np.ndarray:
    """Return random walks (n, n_leads, length) float32 in whole microvolts, as stored signals are: with ties."""
    steps = np.random.default_rng(n_leads).integers(-40, 41, (n, n_leads, length))
    return (steps.cumsum(axis=2) / 1000).astype(np.float32)


@pytest.mark.parametrize("n_leads", [12, 2])
def test_features_are_aeons_to_the_bit(n_leads):
    from aeon.transformations.collection.convolution_based import MiniRocket, _minirocket

    x = recordings(3, n_leads)
    x[1, 0] = 0  # a flat lead
    parameters = fit_rocket(x, kernels=KERNEL_COUNT, seed=0)
    in_python = _minirocket._static_transform_multi.py_func  # the same code without its compiler
    expected = in_python(x, parameters, MiniRocket._indices)
    found = rocket_features(x, parameters, jobs=1)
    assert found.dtype == np.float32 and found.shape == (3, KERNEL_COUNT)
    np.testing.assert_array_equal(found, expected)


def test_a_records_features_depend_neither_on_the_others_nor_on_threads():
    x = recordings(35, 12)
    parameters = fit_rocket(x, kernels=KERNEL_COUNT, seed=0)
    alone = np.concatenate([rocket_features(record[None], parameters, jobs=1) for record in x])
    np.testing.assert_array_equal(rocket_features(x, parameters, jobs=3), alone)
    assert rocket_features(x[:0], parameters, jobs=1).shape == (0, KERNEL_COUNT)


def test_a_stored_minirocket_is_loaded_without_a_compiler():
    """Compiling took most of the ensemble's first answer."""
    code = "import sys, ecg.baselines; print(*({'aeon', 'numba', 'skops'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CODES, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
