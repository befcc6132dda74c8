"""Start a training from the weights of a stored run."""

from pathlib import Path

from torch import nn

from ecg.artifacts import UserError
from ecg.models import Network, order_of_use
from ecg.runs import read_config, task_of
from ecg.stored_run import load_weights
from ecg.tasks import Task


def load_initial_weights(network: Network, folder: Path, task: Task) -> None:
    """Give `network` the weights of the run in `folder`; its last layer stays as it is if the classes are others.

    The last layer is the module with weights that is used last. Standardisation is taken from the run as well: its
    weights were fitted to it. Raises a `UserError` if the run is not there or is of another network.
    """
    if not (folder / "config.json").exists():
        raise UserError(f"--init: there is no run in {folder}")
    weights = load_weights(folder)
    if task_of(read_config(folder)).classes != task.classes:
        last = _last_layer(network)
        fresh = network.state_dict()
        for name in last.state_dict():
            key = f"{_name_of(network, last)}.{name}"
            weights[key] = fresh[key]
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        detail = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(
            f"--init: {folder} is of another network, width or number of channels than the one to train: {detail}"
        ) from None


def _last_layer(network: Network) -> nn.Module:
    owners = [module for module in network.body.modules() if any(True for _ in module.parameters(recurse=False))]
    return order_of_use(network, owners)[-1]


def _name_of(network: Network, wanted: nn.Module) -> str:
    return next(name for name, module in network.named_modules() if module is wanted)
