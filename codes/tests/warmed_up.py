"""Import all that a training needs. Processes that begin as copies of one that has done so cost next to nothing."""

import torch

import ecg.training  # noqa: F401

torch.optim.AdamW([torch.zeros(1)])  # the first optimizer imports PyTorch's compiler
