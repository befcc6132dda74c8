"""From a trained network and signals to probabilities: the window average that training, predict.py and 13 share."""

from typing import Literal

import numpy as np
import torch
from torch import nn

from ecg.artifacts import UserError
from ecg.data import UV_PER_MV
from ecg.labels import CLASSES

AT_ONCE = 112  # windows given to a network; with more, a CPU is slower and needs several times the memory
Precision = Literal["auto", "fp32", "bf16"]
Task = Literal["multilabel", "multiclass"]


def pick_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one; anything else is taken as given."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        if chosen.type not in ("cpu", "cuda"):
            raise RuntimeError("not a device of this project")
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}; use auto, cpu or cuda") from None
    return chosen


def pick_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the processor or GPU multiplies faster in it, float32 elsewhere."""
    if precision == "auto":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:  # without AMX, an Intel core multiplies bf16 at half the speed of fp32, an AMD core at twice the speed
            cpu = torch.cpu.get_capabilities()
            intel = cpu.get("cpu_name", "").startswith("Intel")
            native = cpu.get("amx_bf16", False) or (cpu.get("avx512_bf16", False) and not intel)
        precision = "bf16" if native else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


Records = np.ndarray | torch.Tensor  # int16 microvolts (n, 12, n_samples): mapped from `signals.npy`, or on the GPU


def on_device(array: np.ndarray, device: torch.device) -> Records:
    """Return all records on the GPU if they fill no more than half of its free memory, else as they are."""
    if device.type != "cuda" or array.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return array
    moved = torch.empty(array.shape, dtype=torch.int16, device=device)
    for i in range(0, len(array), 4096):  # a piece at a time, not a copy of everything in memory
        moved[i : i + 4096] = torch.from_numpy(array[i : i + 4096].copy())
    return moved


def send(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Move an array to the device without waiting for it to arrive."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def to_millivolt(microvolt: Records, device: torch.device) -> torch.Tensor:
    """Return int16 microvolts as float32 millivolts on the device; the small type crosses the bus."""
    batch = microvolt if isinstance(microvolt, torch.Tensor) else send(microvolt, device)
    return batch.float() / UV_PER_MV


def window_starts(n_samples: int, window: int, overlap: bool) -> list[int]:
    """Return where windows begin so that they cover a recording end to end; with `overlap` by half."""
    if n_samples <= window:
        return [0]
    steps = -(-(n_samples - window) // (window // 2 if overlap else window))
    return [round(i * (n_samples - window) / steps) for i in range(steps + 1)]


@torch.inference_mode()
def predict(
    network: nn.Module,
    microvolt: Records,
    rows: np.ndarray,
    *,
    window: int,
    task: Task,
    device: torch.device,
    dtype: torch.dtype,
    overlap: bool = True,
) -> np.ndarray:
    """Return the probabilities of records, (len(rows), 5) float32: the mean over windows of `window` samples.

    `microvolt` is the array of `signals.npy` or one like it, int16 (n, 12, n_samples); `rows` index its records.
    """
    network.eval()
    starts = window_starts(microvolt.shape[-1], window, overlap)
    batch = max(1, AT_ONCE // len(starts))
    activation = torch.sigmoid if task == "multilabel" else lambda logits: logits.softmax(dim=-1)
    results = []
    if isinstance(microvolt, torch.Tensor):  # indexing with an array of the CPU would wait for the GPU
        rows = send(rows, microvolt.device)
    for i in range(0, len(rows), batch):
        records = to_millivolt(microvolt[rows[i : i + batch]], device)
        windows = torch.stack([records[:, :, s : s + window] for s in starts])  # (W, B, 12, window)
        with autocast(device, dtype):
            logits = network(windows.flatten(0, 1))
        results.append(activation(logits.float()).unflatten(0, windows.shape[:2]).mean(dim=0))
    return torch.cat(results).cpu().numpy() if results else np.empty((0, len(CLASSES)), np.float32)
