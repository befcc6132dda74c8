"""From a trained network and signals to probabilities: the window average that training, predict.py and 13 share."""

from typing import Literal

import numpy as np
import torch
from torch import nn

from ecg.artifacts import UserError
from ecg.data import UV_PER_MV
from ecg.labels import CLASSES

Precision = Literal["auto", "fp32", "bf16"]
Task = Literal["multilabel", "multiclass"]


def pick_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one; anything else is taken as given."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}; use auto, cpu or cuda") from None
    return chosen


def pick_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the processor or GPU multiplies in it, float32 elsewhere."""
    if precision == "auto":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:  # PyTorch has no public question for this; emulated bf16 would be slower than fp32
            native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        precision = "bf16" if native else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def to_millivolt(microvolt: np.ndarray, device: torch.device) -> torch.Tensor:
    """Move int16 microvolts to the device and return them as float32 millivolts; the small type crosses the bus."""
    batch = torch.from_numpy(microvolt)
    if device.type == "cuda":
        batch = batch.pin_memory()
    return batch.to(device, non_blocking=True).float() / UV_PER_MV


def window_starts(n_samples: int, window: int, overlap: bool) -> list[int]:
    """Return where windows begin so that they cover a recording end to end; with `overlap` by half."""
    if n_samples <= window:
        return [0]
    steps = -(-(n_samples - window) // (window // 2 if overlap else window))
    return [round(i * (n_samples - window) / steps) for i in range(steps + 1)]


@torch.inference_mode()
def predict(
    network: nn.Module,
    microvolt: np.ndarray,
    rows: np.ndarray,
    *,
    window: int,
    task: Task,
    device: torch.device,
    dtype: torch.dtype,
    overlap: bool = True,
    batch: int = 64,
) -> np.ndarray:
    """Return the probabilities of records, (len(rows), 5) float32: the mean over windows of `window` samples.

    `microvolt` is the array of `signals.npy` or one like it, int16 (n, 12, n_samples); `rows` index its records.
    """
    network.eval()
    starts = window_starts(microvolt.shape[-1], window, overlap)
    activation = torch.sigmoid if task == "multilabel" else lambda logits: logits.softmax(dim=-1)
    results = []
    for i in range(0, len(rows), batch):
        records = to_millivolt(microvolt[rows[i : i + batch]], device)
        windows = torch.stack([records[:, :, s : s + window] for s in starts])  # (W, B, 12, window)
        with autocast(device, dtype):
            logits = network(windows.flatten(0, 1))
        results.append(activation(logits.float()).unflatten(0, windows.shape[:2]).mean(dim=0))
    return torch.cat(results).cpu().numpy() if results else np.empty((0, len(CLASSES)), np.float32)
