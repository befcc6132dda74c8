"""One training in several processes: which does what, and how their numbers come together.

`torchrun` starts one process per device, each with the same script. Their number changes nothing but the time: a batch
is divided among them, batch norms see all of it, and every random number is drawn for all of it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import distributed, nn

from ecg.artifacts import UserError
from ecg.devices import pick_device
from ecg.models import is_divided_norm
from ecg.models.layers import BatchDropout


@dataclass(frozen=True)
class World:
    """The processes of a training: this one is number `rank` of `size` and computes on `device`."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """The process that writes files and messages."""
        return self.rank == 0

    def say(self, text: str) -> None:
        if self.first:
            print(text, flush=True)

    def share(self, n: int) -> slice:
        """Return the rows of `n` that this process does; the shares of all cover each row once."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Add up a tensor of the same shape from every process, in place."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def join(self, part: np.ndarray) -> np.ndarray:
        """Return every process's array, one below the other in the order of `share`."""
        if self.size == 1:
            return part
        parts = [None] * self.size
        distributed.all_gather_object(parts, part)
        return np.concatenate(parts)

    def from_first(self, value: float) -> float:
        """Return the first process's value in all of them."""
        values = [value]
        if self.size > 1:
            distributed.broadcast_object_list(values, device=self.device)
        return values[0]

    def is_same_everywhere(self, value: Any) -> bool:
        """Whether all processes have an equal value."""
        values = [value]
        if self.size > 1:
            values = [None] * self.size
            distributed.all_gather_object(values, value)
        return all(other == values[0] for other in values)

    def synchronise_norms(self, network: nn.Module) -> None:
        """Make the batch norms of `network` see the batches of all processes."""
        if self.size > 1:
            _convert_norms(network)

    def average_gradients(self, network: nn.Module) -> None:
        """Replace the gradients by their means over the processes.

        All in one piece, not with DistributedDataParallel: that regroups its buckets after the first step, so a
        resumed training of three or more processes would add in another order than one that was not killed.
        """
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients])) / self.size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def divide_dropout(self, network: nn.Module, n: int) -> None:
        """Tell the dropouts which rows of a batch of `n` they will see."""
        for module in network.modules():
            if isinstance(module, BatchDropout):
                module.rows = (self.share(n).start, n)


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, over nccl on GPUs and gloo on CPUs; without torchrun there is one.

    When another process dies, this one ends with a `UserError` instead of waiting for it: at once over gloo; over nccl
    torchrun ends it.
    """
    rank, size, local = (int(os.environ.get(name, default)) for name, default in _TORCHRUN)
    if size == 1:
        yield World(pick_device(device))
        return
    if device.startswith("cuda:"):
        raise UserError(f"--device {device}: torchrun gives each process a GPU of its own; use cuda or auto")
    if device != "cpu" and torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise UserError(f"torchrun --nproc-per-node: process {local} finds {torch.cuda.device_count()} GPUs")
        torch.cuda.set_device(local)  # before anything is put on a GPU, or every process would begin on the first
    chosen = pick_device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", local)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    distributed.init_process_group(backend)
    clean = False
    try:
        yield World(chosen, rank, size)
        clean = True
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise UserError(
            f"process {rank} of {size} stopped because another one died; see its message. "
            "The last checkpoint is complete: rerun the same command to resume"
        ) from None
    finally:
        if clean or backend == "gloo":  # nccl would wait here for processes that wait for this one
            distributed.destroy_process_group()


_TORCHRUN = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


class _Sum(torch.autograd.Function):
    """Sum over the processes, of values forwards and of gradients backwards."""

    @staticmethod
    def forward(ctx, value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        distributed.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        distributed.all_reduce(gradient)
        return gradient


class _SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the batches of all processes; PyTorch's own is for GPUs only, and waits for them in each call."""

    def _check_input_dim(self, x: torch.Tensor) -> None:
        pass  # any of (B, C), (B, C, T), (B, C, 1, T)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, C, ...)
        if not self.training:
            return super().forward(x)
        others = [0, *range(2, x.ndim)]  # all dimensions but the channels
        shape = [1, -1] + [1] * (x.ndim - 2)
        wide = x.float()
        count = wide.new_full((1,), wide.numel() / wide.shape[1])
        sums = torch.cat([wide.sum(dim=others), wide.square().sum(dim=others), count])
        mean, square, n = _Sum.apply(sums).split([self.num_features, self.num_features, 1])
        mean, n = mean / n, n.detach()
        variance = (square / n - mean.square()).clamp(min=0)  # rounding can take it below
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * n / (n - 1), momentum)
        gain = (variance + self.eps).rsqrt()
        if self.affine:
            gain = gain * self.weight
        shift = -mean * gain
        if self.affine:
            shift = shift + self.bias
        return (wide * gain.view(shape) + shift.view(shape)).to(x.dtype)


def _convert_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if is_divided_norm(child):
            norm = _SyncBatchNorm(
                child.num_features,
                eps=child.eps,
                momentum=child.momentum,
                affine=child.affine,
                device=child.running_mean.device,
            )
            norm.load_state_dict(child.state_dict())
            setattr(module, name, norm.train(child.training))
        else:
            _convert_norms(child)
