"""MiniRocket (Dempster, Schmidt & Webb 2021): 84 kernels of nine taps, dilated, on random groups of leads.

A kernel has three taps of 2 and six of -1; a feature is the share of moments at which a convolution exceeds a bias. The
five arrays of PARAMETERS are drawn and fitted by aeon, with a compiler that takes most of a minute when first used. The
features are computed here, in NumPy, in the same order of operations: equal to aeon's to the bit, in less time, and a
stored model needs no compiler.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np

# groups of leads: how many each has, and which, one group after the other; then dilations in samples; then the number
# of biases of a kernel at each dilation, and the biases
PARAMETERS = ("n_channels_per_combination", "channels", "dilations", "n_features_per_dilation", "biases")
TAPS = 9
KERNELS = tuple(combinations(range(TAPS), 3))  # which taps are 2
CHUNK = 16  # records that one thread convolves at a time: few enough for the processor's cache

Parameters = tuple[np.ndarray, ...]


def fit_rocket(millivolt: np.ndarray, *, kernels: int, seed: int) -> Parameters:
    """Choose MiniRocket's dilations, lead combinations and biases from training records (n, n_leads, n_samples)."""
    from aeon.transformations.collection.convolution_based import MiniRocket  # takes seconds to import

    return MiniRocket(n_kernels=kernels, random_state=seed).fit(millivolt).parameters


def rocket_features(millivolt: np.ndarray, parameters: Parameters, *, jobs: int) -> np.ndarray:
    """Return the share of each record that exceeds each bias after each convolution, (n, n_features) float32.

    `millivolt` (n, n_leads, n_samples), of the length that the parameters were fitted to; `jobs` threads.
    """
    chunks = [millivolt[i : i + CHUNK] for i in range(0, len(millivolt), CHUNK)]
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        found = list(pool.map(lambda chunk: _features(chunk, parameters), chunks))
    return np.concatenate([np.empty((0, len(parameters[-1])), np.float32), *found])


def _features(millivolt: np.ndarray, parameters: Parameters) -> np.ndarray:
    sizes, channels, dilations, biases_per_kernel, biases = parameters
    groups = np.split(channels, np.cumsum(sizes)[:-1])  # one per dilation and kernel
    x = np.ascontiguousarray(millivolt.swapaxes(0, 1), np.float32)  # (n_leads, n, T): a lead's records side by side
    share = np.empty((len(biases), x.shape[1]), np.float32)
    done = 0
    for i, (dilation, n_biases) in enumerate(zip(dilations.tolist(), biases_per_kernel.tolist(), strict=True)):
        taps = _shifted(x, dilation)
        minus = -x  # the sum over all taps, each times -1
        for tap in (*range(TAPS // 2), *range(TAPS // 2 + 1, TAPS)):
            minus -= taps[tap]
        taps *= 3  # a tap of 2 is 3 - 1
        edge = dilation * (TAPS // 2)
        for j, (a, b, c) in enumerate(KERNELS):
            convolved = 0.0
            for lead in groups[i * len(KERNELS) + j].tolist():
                convolved += minus[lead] + taps[a, lead] + taps[b, lead] + taps[c, lead]  # (n, T)
            if (i + j) % 2:  # every second kernel only where all of it lies within the record
                convolved = convolved[:, edge:-edge]
            above = convolved > biases[done : done + n_biases, None, None]  # (n_biases, n, T)
            count = np.add.reduce(above.view(np.uint8), axis=-1, dtype=np.uint32)
            share[done : done + n_biases] = count / above.shape[-1]
            done += n_biases
    return share.T


def _shifted(x: np.ndarray, dilation: int) -> np.ndarray:
    """Return `x` (n_leads, n, T) as each tap sees it, (TAPS, n_leads, n, T), with zeros beyond the ends."""
    taps = np.zeros((TAPS, *x.shape), np.float32)
    for tap in range(TAPS):
        later = (tap - TAPS // 2) * dilation
        if later < 0:
            taps[tap, ..., -later:] = x[..., :later]
        elif later > 0:
            taps[tap, ..., :-later] = x[..., later:]
        else:
            taps[tap] = x
    return taps
