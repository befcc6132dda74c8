"""The networks by name. A new one is a file here and a line in MODELS."""

from typing import Any

from ecg.artifacts import UserError
from ecg.labels import CLASSES
from ecg.models.inception import Inception
from ecg.models.layers import Frontend, Network
from ecg.models.resnet1d import ResNet1D
from ecg.models.xresnet1d import XResNet1D

MODELS = {"resnet1d": ResNet1D, "inception": Inception, "xresnet1d": XResNet1D}


def rebuild(config: dict[str, Any]) -> Network:
    """Return the network that a run's `config.json` describes, with fresh weights."""
    options = {key: config[key] for key in ("derivatives", "width") if key in config}
    return build(config["model"], config["signals"], **options)


def build(name: str, signals: dict[str, Any], *, derivatives: bool = True, **size: Any) -> Network:
    """Return the network `name` for signals as `signals/meta.json` describes them; `size` goes to its constructor."""
    if name not in MODELS:
        raise UserError(f"model {name!r} is not known: use one of {', '.join(MODELS)}")
    kinds = ("signal", "derivative") if derivatives else ("signal",)
    mean, std = ([value for kind in kinds for value in signals[key][kind]] for key in ("mean", "std"))
    frontend = Frontend(fs=signals["fs"], mean=mean, std=std, derivatives=derivatives)
    return Network(frontend, MODELS[name](len(mean), len(CLASSES), **size))
