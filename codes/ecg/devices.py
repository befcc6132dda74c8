"""Where a network computes, in which precision, and how signals get there."""

from typing import Literal

import numpy as np
import torch

from ecg.artifacts import UserError
from ecg.formats.wfdb import UV_PER_MV

Precision = Literal["auto", "fp32", "bf16"]
Microvolts = np.ndarray | torch.Tensor  # int16 (n, n_leads, n_samples): mapped from `signals.npy`, or on the GPU


def pick_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one; anything else is taken as given."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        if chosen.type not in ("cpu", "cuda"):
            raise RuntimeError("only cpu and cuda are supported")
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


def on_device(array: np.ndarray, device: torch.device) -> Microvolts:
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


def to_millivolt(microvolt: Microvolts, device: torch.device) -> torch.Tensor:
    """Return int16 microvolts as float32 millivolts on the device; the small type crosses the bus."""
    batch = microvolt if isinstance(microvolt, torch.Tensor) else send(microvolt, device)
    return batch.float() / UV_PER_MV
