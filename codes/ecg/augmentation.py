"""Changes to training signals that leave the diagnosis alone; applied to a whole batch, before the derivative is taken.

Each function takes (B, n_leads, T) millivolts and an explicit generator on the same device, and returns a new batch.
"""

import torch


def scale_amplitude(x: torch.Tensor, generator: torch.Generator, *, spread: float) -> torch.Tensor:
    """Multiply each record by a factor from [1 - spread, 1 + spread]: electrode distance, chest wall, gain."""
    factor = torch.rand(len(x), 1, 1, generator=generator, device=x.device) * 2 - 1
    return x * (1 + spread * factor)


def add_noise(x: torch.Tensor, generator: torch.Generator, *, most_mv: float) -> torch.Tensor:
    """Add white noise whose standard deviation is drawn per record from [0, most_mv]: muscle and amplifier noise."""
    sigma = torch.rand(len(x), 1, 1, generator=generator, device=x.device) * most_mv
    return x + sigma * torch.randn(x.shape, generator=generator, device=x.device)


def drop_leads(x: torch.Tensor, generator: torch.Generator, *, probability: float) -> torch.Tensor:
    """Set single leads to zero: an electrode that came off."""
    return x * (torch.rand(*x.shape[:2], 1, generator=generator, device=x.device) >= probability)


# What the augmented runs train on, in this order: a new augmentation is a function above and a line here. The numbers
# are stored in the config.json of each augmented run.
AUGMENTATIONS = {
    scale_amplitude: {"spread": 0.2},
    add_noise: {"most_mv": 0.05},
    drop_leads: {"probability": 0.05},
}


def augment_batch(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the batch as the augmented runs train on it."""
    for augmentation, numbers in AUGMENTATIONS.items():
        x = augmentation(x, generator, **numbers)
    return x


def describe() -> dict[str, dict[str, float]]:
    """Return {name of an augmentation: its numbers}, for config.json."""
    return {augmentation.__name__: numbers for augmentation, numbers in AUGMENTATIONS.items()}
