"""From a trained network and signals to probabilities: the window average that training, predict.py and 13 share."""

import numpy as np
import torch
from torch import nn

from ecg.devices import Microvolts, autocast, send, to_millivolt
from ecg.tasks import Objective

AT_ONCE = 112  # windows given to a network; with more, a CPU is slower and needs several times the memory


def window_starts(n_samples: int, window: int, overlap: bool) -> list[int]:
    """Return where windows begin so that they cover a recording end to end; with `overlap` by half."""
    if n_samples <= window:
        return [0]
    steps = -(-(n_samples - window) // (window // 2 if overlap else window))
    return [round(i * (n_samples - window) / steps) for i in range(steps + 1)]


@torch.inference_mode()
def network_probability(
    network: nn.Module,
    microvolt: Microvolts,
    rows: np.ndarray,
    *,
    window: int,
    objective: Objective,
    device: torch.device,
    dtype: torch.dtype,
    overlap: bool = True,
) -> np.ndarray:
    """Return the probabilities of records, (len(rows), n_classes) float32: the mean over windows of `window` samples.

    `microvolt` is the array of `signals.npy` or one like it, int16 (n, n_leads, n_samples); `rows` index its
    records.
    """
    network.eval()
    starts = window_starts(microvolt.shape[-1], window, overlap)
    batch = max(1, AT_ONCE // len(starts))
    results = []
    if isinstance(microvolt, torch.Tensor):  # indexing with an array of the CPU would wait for the GPU
        rows = send(rows, microvolt.device)
    for i in range(0, len(rows), batch):
        records = to_millivolt(microvolt[rows[i : i + batch]], device)
        windows = torch.stack([records[:, :, s : s + window] for s in starts])  # (W, B, n_leads, window)
        with autocast(device, dtype):
            logits = network(windows.flatten(0, 1)).float()
        probability = torch.sigmoid(logits) if objective == "multilabel" else logits.softmax(dim=-1)
        results.append(probability.unflatten(0, windows.shape[:2]).mean(dim=0))
    if not results:  # a process that got no record
        return np.empty((0, network.n_classes), np.float32)
    return torch.cat(results).cpu().numpy()
