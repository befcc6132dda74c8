"""A network run written as one ONNX file, which needs neither this repository nor PyTorch; see `ecg.onnx_run`."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ecg.artifacts import UserError, atomic
from ecg.calibration import CERTAIN
from ecg.formats.wfdb import UV_PER_MV
from ecg.models import MODELS, Network
from ecg.onnx_run import ANSWER, INPUT, UNCALIBRATED, open_session, properties_of
from ecg.operating_points import FILE, read_operating_points, threshold_for
from ecg.runs import read_config, task_of
from ecg.stored_run import MADE_BY, load_network

OPSET = 17  # of 2022; every onnxruntime since 1.12 reads it
TOLERANCE = 1e-5  # of a probability, between PyTorch and onnxruntime
TRIED = (1, 7)  # windows at a time for which both are compared


class Calibrated(nn.Module):
    """(n, n_leads, window) filtered millivolts -> calibrated and uncalibrated probabilities, each (n, n_classes).

    The calibration is `ecg.calibration.calibrate`. Rounding to microvolts and the limit change nothing of what
    `StoredRun.prepare` gives, and spare others to know of them.
    """

    def __init__(self, network: Network, config: dict[str, Any]):
        super().__init__()
        self.frontend, self.body = network.frontend, network.body
        self.limit, self.temperature = config["signals"]["limit_mv"], config["temperature"]
        self.multilabel = config["objective"] == "multilabel"

    def forward(self, millivolt: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        limited = (millivolt.clamp(-self.limit, self.limit) * UV_PER_MV).round() / UV_PER_MV
        logits = self.body(self._standardised(limited))
        if self.multilabel:
            most = float(np.log((1 - CERTAIN) / CERTAIN))
            return torch.sigmoid(logits.clamp(-most, most) / self.temperature), torch.sigmoid(logits)
        log = logits.log_softmax(dim=-1)
        certain = log.clamp(float(np.log(CERTAIN)), float(np.log1p(-CERTAIN)))
        return (certain / self.temperature).softmax(dim=-1), log.exp()

    def _standardised(self, x: torch.Tensor) -> torch.Tensor:
        """Return what `Frontend.forward` does: ONNX has no `torch.gradient`, the central difference is written out."""
        frontend = self.frontend
        if frontend.derivatives:
            inner = (x[..., 2:] - x[..., :-2]) / 2
            first, last = x[..., 1:2] - x[..., :1], x[..., -1:] - x[..., -2:-1]
            x = torch.cat([x, torch.cat([first, inner, last], dim=-1) * frontend.fs], dim=1)
        return (x - frontend.mean) / frontend.std


def export(stored_run_folder: Path, path: Path) -> None:
    """Write the network run in a folder as ONNX, opset OPSET, with any number of windows at a time.

    Input `millivolt` (n, n_leads, window) float32 at the run's rate, after the run's band-pass: the filter itself is
    not inside, as it runs over a whole recording. Output `probability` (n, n_classes), calibrated, and `uncalibrated`,
    of which `load_onnx` takes the mean over windows before it calibrates, as `StoredRun` does. Leads, rate, window,
    band, limit, classes, task, objective, temperature and, where 11 has chosen them, the F1 thresholds are in the
    file's `metadata_props`. It is written only if onnxruntime answers like PyTorch within TOLERANCE.

    Raises a `UserError` for a run that is no network, or one that ONNX cannot hold.
    """
    try:
        import onnx
    except ImportError:
        raise UserError("writing ONNX needs the package: pip install onnx onnxruntime") from None
    if path.suffix != ".onnx":
        raise UserError(f"{path}: the name of an ONNX file ends in .onnx")
    config = read_config(stored_run_folder)
    if config["model"] not in MODELS:
        raise UserError(f"{stored_run_folder} is a run of {config['model']}: only networks can be exported as ONNX")
    if "temperature" not in config:
        raise UserError(f"{stored_run_folder / 'config.json'}: 'temperature' is missing: run {MADE_BY} again")
    network = load_network(stored_run_folder)
    answer = Calibrated(network, config).eval()
    model = onnx.load_model_from_string(_traced(answer, config))
    onnx.helper.set_model_props(model, properties_of(config, _thresholds(stored_run_folder, config)))
    onnx.checker.check_model(model)
    with atomic(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
        _check_equal(network, answer, temporary, config)


def _traced(answer: Calibrated, config: dict[str, Any]) -> bytes:
    """Return the graph as ONNX.

    By the older of PyTorch's two exporters: with equal numbers it takes 0.5 s of one core instead of 10, and no
    further package. It follows one run of the network, so that a branch that depends on the data or on the number of
    records would be lost; `_check_equal` finds that.
    """
    file = io.BytesIO()
    try:
        torch.onnx.export(
            answer,
            (torch.zeros(3, len(config["signals"]["leads"]), config["window"]),),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[ANSWER, UNCALIBRATED],
            dynamic_axes={name: {0: "n"} for name in (INPUT, ANSWER, UNCALIBRATED)},
        )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise UserError(f"{config['model']} cannot be exported as ONNX: {str(error).splitlines()[0]}") from None
    return file.getvalue()


def _thresholds(folder: Path, config: dict[str, Any]) -> dict[str, float] | None:
    """Return {class: threshold} with the highest F1 on validation, without those it cannot say; None before 11."""
    if not (folder / FILE).exists():
        return None
    rows = threshold_for(read_operating_points(folder, task_of(config)), "f1")
    return {label: row["threshold"] for label, row in rows.items() if np.isfinite(row["threshold"])}


@torch.inference_mode()
def _check_equal(network: Network, answer: Calibrated, path: Path, config: dict[str, Any]) -> None:
    """Raise a `UserError` unless the file gives what the network does, for several numbers of windows."""
    session, generator = open_session(path), torch.Generator().manual_seed(0)
    for n in TRIED:
        shape = (n, network.n_leads, config["window"])
        millivolt = (torch.randn(shape, generator=generator) * UV_PER_MV / 3).round() / UV_PER_MV
        logits = network(millivolt)
        expected = torch.sigmoid(logits) if answer.multilabel else logits.softmax(dim=-1)
        given = session.run([ANSWER, UNCALIBRATED], {INPUT: millivolt.numpy()})
        differences = [
            np.abs(a - b.numpy()).max() for a, b in zip(given, (answer(millivolt)[0], expected), strict=True)
        ]
        if not max(differences) <= TOLERANCE:
            raise UserError(
                f"{config['model']} cannot be exported as ONNX: for {n} windows it would answer {max(differences):.1g} "
                "off; does its forward depend on the number of records or on their values?"
            )
