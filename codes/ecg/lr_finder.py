"""The learning-rate finder: a short training with a rising rate, and the rate that it suggests."""

from itertools import count

import numpy as np
import pandas as pd

from ecg.artifacts import UserError
from ecg.devices import Microvolts
from ecg.trainer import Records, Trainer, batches

LOWEST, HIGHEST = 1e-7, 10.0  # learning rates that are tried


def find_lr(
    trainer: Trainer, array: Microvolts, records: Records, *, size: int, crop: int, seed: int, steps: int = 100
) -> tuple[pd.DataFrame, float]:
    """Raise the learning rate exponentially from 1e-7 to 10 and watch the loss (Smith 2017); spoils the weights.

    Returns the curve (lr, loss smoothed with decay .98) and the suggestion of fastai's "valley" rule: half-way down
    the longest falling run of the curve.
    """
    rates = LOWEST * (HIGHEST / LOWEST) ** (np.arange(steps) / (steps - 1))
    smooth, least, curve = 0.0, np.inf, []
    for step, batch in enumerate(_endless(trainer, array, records, size=size, crop=crop, seed=seed)):
        if step == steps:
            break
        for group in trainer.optimizer.param_groups:
            group["lr"] = rates[step]
        loss = trainer.loss(batch)
        trainer.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trainer.optimizer.step()
        smooth = 0.98 * smooth + 0.02 * loss.item()
        value = smooth / (1 - 0.98 ** (step + 1))
        if not np.isfinite(value) or value > 4 * least:
            break
        least = min(least, value)
        curve.append((rates[step], value))
    table = pd.DataFrame(curve, columns=["lr", "loss"])
    # without the flat start, and without the end that diverges
    return table, valley(table.lr.to_numpy()[steps // 10 : -5], table.loss.to_numpy()[steps // 10 : -5])


def _endless(trainer: Trainer, array: Microvolts, records: Records, *, size: int, crop: int, seed: int):
    for epoch in count(1):
        yield from batches(array, records, size=size, crop=crop, seed=seed, epoch=epoch, device=trainer.world.device)


def valley(lr: np.ndarray, loss: np.ndarray) -> float:
    """Return the rate half-way through the longest decreasing subsequence of `loss`, counted as fastai counts it."""
    if len(loss) == 0:
        raise UserError("the learning-rate finder's loss diverged at once: give --lr")
    length = np.ones(len(loss), int)  # of the longest decreasing subsequence that ends here
    for i in range(1, len(loss)):
        longer = length[:i][loss[:i] > loss[i]]
        length[i] = 1 + (longer.max() if len(longer) else 0)
    end = int(length.argmax())
    start = end - length[end]
    third = (end - start) / 3
    return float(lr[start + int(third) + int(third / 2)])
