"""The networks by name. A new one is a file here and a line in MODELS.

The contract of a network:

1. It is an `nn.Module`, made by `Class(n_channels, n_classes)`; `width` and `fs` are passed on if it takes them.
2. `forward` takes standardised signals (B, n_channels, T) float32 and returns logits (B, n_classes), for any T from one
   second on. Standardisation and derivative channels come from the front end, before it.
3. A record's logits depend neither on chance nor on the other records of the batch, but for `nn.Dropout` and batch
   norms, which training in several processes knows how to divide. `torchrun` refuses anything else.
"""

import copy
import inspect
from pkgutil import resolve_name
from typing import Any

import torch
from torch import nn

from ecg.artifacts import UserError
from ecg.models.layers import BatchDropout, Frontend, Network

MODELS = {
    "resnet1d": "ecg.models.resnet1d:ResNet1D",
    "inception": "ecg.models.inception:Inception",
    "xresnet1d": "ecg.models.xresnet1d:XResNet1D",
}
CONTRACT = "see the contract in codes/ecg/models/__init__.py"
LENGTHS_S = (2.5, 3.7)  # of the signals that a new network is tried on
DIVIDED_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def build(
    name: str, signals: dict[str, Any], *, n_classes: int, derivatives: bool = True, width: float = 1.0
) -> Network:
    """Return the network `name` for signals as `signals/meta.json` describes them, with fresh weights.

    Raises a `UserError` if the name is unknown or the network does not keep the contract.
    """
    if name not in MODELS:
        raise UserError(f"--model {name!r} is not known: use one of {', '.join(MODELS)}")
    kinds = ("signal", "derivative") if derivatives else ("signal",)
    mean, std = ([value for kind in kinds for value in signals[key][kind]] for key in ("mean", "std"))
    frontend = Frontend(fs=signals["fs"], mean=mean, std=std, derivatives=derivatives)
    try:
        network_class = resolve_name(MODELS[name])
        taken = inspect.signature(network_class).parameters
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"model {name} is not found as {MODELS[name]!r}: {error}; {CONTRACT}") from error
    options = {key: value for key, value in (("width", width), ("fs", signals["fs"])) if key in taken}
    if "width" not in taken and width != 1.0:
        raise UserError(f"--width {width:g}: {name} takes no `width`")
    try:
        body = network_class(len(mean), n_classes, **options)
    except Exception as error:  # whatever somebody's code raises
        raise UserError(f"model {name} cannot be made for {len(mean)} channels: {_said(error)}; {CONTRACT}") from error
    network = Network(frontend, _with_batch_dropout(body), n_classes)
    check_shapes(network, name)
    return network


def rebuild(config: dict[str, Any]) -> Network:
    """Return the network that a run's `config.json` describes, with fresh weights."""
    settings = config["settings"]
    return build(
        config["model"],
        config["signals"],
        n_classes=len(config["task"]["classes"]),
        derivatives=settings.get("derivatives", True),
        width=settings.get("width", 1.0),
    )


def _with_batch_dropout(module: nn.Module) -> nn.Module:
    """Replace every `nn.Dropout` by one that several processes can divide among them."""
    for name, child in module.named_children():
        if type(child) is nn.Dropout:
            setattr(module, name, BatchDropout(child.p))
        else:
            _with_batch_dropout(child)
    return module


def check_shapes(network: Network, name: str) -> None:
    """Raise a `UserError` unless the network gives (B, n_classes) logits for signals of two lengths."""
    was_training = network.training
    network.eval()
    for seconds in LENGTHS_S:
        x = network.silence(2, seconds)
        try:
            with torch.inference_mode(), torch.random.fork_rng(devices=[]):
                shape = tuple(network(x).shape)
        except Exception as error:  # whatever somebody's code raises
            raise UserError(
                f"model {name} fails on signals of shape (2, {len(network.frontend.mean)}, {x.shape[-1]}): "
                f"{_said(error)}; {CONTRACT}"
            ) from error
        if shape != (2, network.n_classes):
            raise UserError(f"model {name} returns {shape} instead of (2, {network.n_classes}) logits; {CONTRACT}")
    network.train(was_training)


def _said(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def check_divisible(network: Network, name: str) -> None:
    """Raise a `UserError` if processes that divide a batch would train the network differently from one process.

    Judged by what it does, not by what it is made of: in training mode, batch norms aside, a record's logits must be
    the same with another seed and with other records beside it, once `nn.Dropout` is off or divided, and no buffer may
    follow the records.
    """
    network = copy.deepcopy(network).cpu().train()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # so that a branch that begins at zero is seen as well
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator).sign()
    dropouts = [module for module in network.modules() if isinstance(module, BatchDropout)]
    for module in [*dropouts, *(module for module in network.modules() if is_divided_norm(module))]:
        module.eval()
    x = torch.randn(4, network.n_leads, round(LENGTHS_S[0] * network.frontend.fs), generator=generator)

    def logits(part: slice, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        for dropout in dropouts:
            dropout.rows = (part.start, len(x))
        return network(x[part])

    whole, first, second = slice(0, 4), slice(0, 2), slice(2, 4)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        alone = logits(whole, seed=0)
        if not torch.equal(alone, logits(whole, seed=1)):
            raise _indivisible(
                name,
                "draws random numbers outside nn.Dropout (functional dropout? that of attention or recurrent layers?)",
            )
        if not _close(alone[first], logits(first, seed=0)):
            raise _indivisible(name, "lets a record's output depend on the other records of its batch")
        if _buffers_after(network, x[whole]) != _buffers_after(network, x[first]):
            raise _indivisible(name, "keeps statistics of the records it sees in a buffer (a norm's running averages?)")
        for dropout in dropouts:
            dropout.train()
        try:
            divided = torch.cat([logits(part, seed=0) for part in (first, second)])
            batch_first = _close(logits(whole, seed=0), divided)
        except RuntimeError:  # a mask of the batch's size does not fit
            batch_first = False
        if not batch_first:
            raise _indivisible(name, "has an nn.Dropout whose input does not have the batch as first dimension")


def is_divided_norm(module: nn.Module) -> bool:
    """Return whether this is a batch norm that several processes know how to divide: no subclass, which adds to it."""
    return type(module) in DIVIDED_NORMS and module.track_running_stats


def _indivisible(name: str, reason: str) -> UserError:
    return UserError(
        f"model {name} {reason}: several processes cannot train it like one, run it without torchrun; {CONTRACT}"
    )


def _buffers_after(network: Network, x: torch.Tensor) -> dict[str, bytes]:
    """Return the content of the buffers after the network has seen `x`, which leaves no trace in `network` itself."""
    network = copy.deepcopy(network)
    torch.manual_seed(0)
    network(x)
    return {name: buffer.numpy().tobytes() for name, buffer in network.named_buffers()}


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=2e-5 * float(a.abs().max()))


def order_of_use(network: Network, modules: list[nn.Module]) -> list[nn.Module]:
    """Return `modules` of a network in the order in which it first uses them; those it never calls come first.

    Found by running it on a second of silence: the order in which modules were defined says nothing.
    """
    used: list[nn.Module] = []

    def note(module: nn.Module, _: tuple) -> None:
        if not any(module is other for other in used):
            used.append(module)

    hooks = [module.register_forward_pre_hook(note) for module in modules]
    was_training = network.training
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            network.eval()(network.silence(1, LENGTHS_S[0]))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    unused = [module for module in modules if not any(module is other for other in used)]
    return unused + used
