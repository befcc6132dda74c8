"""What a network computes of a recording before its last layer: a vector to search, to group or to learn from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ecg.artifacts import UserError
from ecg.devices import pick_device, to_millivolt
from ecg.inference import AT_ONCE
from ecg.models import MODELS, Network, order_of_use
from ecg.runs import read_config
from ecg.stored_run import load_network, mean_over_windows


def embed(
    network_or_run: Network | Path, microvolt: np.ndarray, *, window: int | None = None, device: str = "cpu"
) -> np.ndarray:
    """Return what a network's last linear layer takes, (n, d) float32, as mean over windows that overlap by half.

    `microvolt` int16 (n, n_leads, t) as `StoredRun.prepare` gives, or rows of `signals.npy`. Of a run folder, `window`
    is what its network was trained on; of a network it is `window` samples, or all of the recording. The last layer
    applied to it gives the mean of the windows' logits. Raises a `UserError` for a run that is no network, or one that
    does not end in a linear layer.
    """
    network = network_or_run
    if isinstance(network_or_run, Path):
        network, trained_on = load_embedder(network_or_run)
        window = window or trained_on
    window = window or microvolt.shape[-1]
    if microvolt.shape[-1] < window:
        raise ValueError(f"{microvolt.shape[-1]} samples, the network takes at least {window}")
    chosen = pick_device(device)
    network.to(chosen).eval()
    last = last_linear(network)
    if not len(microvolt):
        return np.empty((0, last.in_features), np.float32)
    return mean_over_windows(_activations(network, last, chosen), microvolt, window)


def load_embedder(folder: Path) -> tuple[Network, int]:
    """Return the network of a run folder and the samples it was trained on, to `embed` many recordings with."""
    config = read_config(folder)
    if config["model"] not in MODELS:
        raise UserError(f"{folder} is a run of {config['model']}: only networks have embeddings, {', '.join(MODELS)}")
    return load_network(folder), config["window"]


def last_linear(network: Network) -> nn.Linear:
    """Return the linear layer that a network uses last; raise a `UserError` if it does not make the logits."""
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    last = order_of_use(network, linears)[-1] if linears else None
    if last is None or last.out_features != network.n_classes:
        raise UserError(f"{type(network.body).__name__} has no embeddings: it does not end in an nn.Linear")
    return last


def _activations(network: Network, last: nn.Linear, device: torch.device) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from microvolts (n, n_leads, window) to what `last` takes, (n, d)."""

    @torch.inference_mode()
    def activations(windows: np.ndarray) -> np.ndarray:
        taken: list[torch.Tensor] = []
        hook = last.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0].float()))
        try:
            for i in range(0, len(windows), AT_ONCE):
                network(to_millivolt(windows[i : i + AT_ONCE], device))
        finally:
            hook.remove()
        activation = torch.cat(taken)
        if len(activation) != len(windows):
            raise UserError(
                f"{type(network.body).__name__} has no embeddings: its last layer is not used once a record"
            )
        if activation.ndim > 2:  # a layer used at every moment, of which the logits are the mean
            activation = activation.flatten(1, -2).mean(dim=1)
        return activation.cpu().numpy()

    return activations
