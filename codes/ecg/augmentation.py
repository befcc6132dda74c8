"""Changes to training signals that leave the diagnosis alone; applied to a whole batch, before the derivative is taken.

Each function takes (B, n_leads, T) millivolts and an explicit generator on the same device, and returns a new batch.
"""

import torch

from ecg.leads import LEADS, LIMB_LEADS, PAGE_3X4


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


# What a record keeps in a training with --lead-subsets, and how often. `one`: any single lead. `any`: each lead with a
# probability drawn per record; of two limb leads all six follow. `page`: all leads, those of each of the page's four
# columns at a time of their own, as on paper; `column`: one of these columns alone.
LEAD_SUBSETS = {
    "all": 0.3,
    "limb": 0.08,
    "limb V2": 0.08,
    "II V5": 0.08,
    "II": 0.08,
    "I": 0.08,
    "one": 0.08,
    "any": 0.08,
    "page": 0.08,
    "column": 0.06,
}
COLUMNS = tuple(zip(*PAGE_3X4, strict=True))  # of a printed page, from left to right


def keep_lead_subsets(x: torch.Tensor, generator: torch.Generator, *, window: int) -> torch.Tensor:
    """Return a random crop of each record, (B, 12, window), in which the leads that it does not keep are zero.

    `x` are whole records (B, 12, T) of the twelve leads in their usual order; LEAD_SUBSETS says what they keep.
    """
    n, device = len(x), x.device

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(n, *shape, generator=generator, device=device)

    kind = torch.searchsorted(torch.tensor(list(LEAD_SUBSETS.values())).cumsum(0).to(device), drawn())
    kind = kind.clamp(max=len(LEAD_SUBSETS) - 1)  # the shares add up to 1 but for rounding
    start = (drawn(len(COLUMNS)) * (x.shape[-1] - window + 1)).long()  # (B, 4), in samples
    one = torch.eye(len(LEADS), dtype=torch.bool, device=device)[(drawn() * len(LEADS)).long()]
    any_ = drawn(len(LEADS)) < drawn(1)
    limb = _mask(*LIMB_LEADS).to(device)
    any_ |= ((any_ & limb).sum(dim=1, keepdim=True) >= 2) & limb
    columns = torch.stack([_mask(*column) for column in COLUMNS]).to(device)  # (4, 12)
    column_of_lead = columns.int().argmax(dim=0)  # (12,)
    kept = torch.empty(n, len(LEADS), dtype=torch.bool, device=device)
    for i, name in enumerate(LEAD_SUBSETS):
        if name in ("all", "page"):
            mask = torch.ones_like(kept)
        elif name == "one":
            mask = one
        elif name == "any":
            mask = any_ | (one & ~any_.any(dim=1, keepdim=True))  # at least one lead
        elif name == "column":
            mask = columns[(drawn() * len(COLUMNS)).long()]
        else:
            mask = _mask(*(lead for word in name.split() for lead in (LIMB_LEADS if word == "limb" else (word,))))
        kept = torch.where((kind == i)[:, None], mask.to(device), kept)
    is_page = (kind == list(LEAD_SUBSETS).index("page"))[:, None]
    begin = torch.where(is_page, start[:, column_of_lead], start[:, :1])  # (B, 12)
    moments = begin[:, :, None] + torch.arange(window, device=device)  # (B, 12, window)
    return x.gather(2, moments) * kept[:, :, None]


def _mask(*leads: str) -> torch.Tensor:
    """Return which of the twelve leads are among `leads`, (12,) bool."""
    return torch.tensor([lead in leads for lead in LEADS])


def describe(*, augment: bool, lead_subsets: bool) -> dict[str, dict[str, float]]:
    """Return {name of an augmentation: its numbers}, for config.json."""
    described = {augmentation.__name__: numbers for augmentation, numbers in AUGMENTATIONS.items()} if augment else {}
    return described | ({keep_lead_subsets.__name__: LEAD_SUBSETS} if lead_subsets else {})
