"""ONNX files answer as the stored run does, and say by themselves what they take and give."""

import builtins
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, task_of_size
from made_up import SIGNALS
from torch import nn

from ecg import models
from ecg.artifacts import UserError, write_json
from ecg.calibration import calibrate
from ecg.exporting import OPSET, export
from ecg.models import build
from ecg.onnx_run import load_onnx
from ecg.operating_points import operating_points
from ecg.stored_run import StoredRun, load_run
from ecg.synthetic import make_records

onnx = pytest.importorskip("onnx", reason="ONNX is an extra: pip install onnx onnxruntime")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX is an extra: pip install onnx onnxruntime")

KINDS = {  # name of the run -> network, objective, classes, temperature, derivatives
    "resnet": ("resnet1d", "multilabel", 5, 1.3, True),
    "inception": ("inception", "multilabel", 3, 0.4, True),
    "xresnet": ("xresnet1d", "multilabel", 71, 2.5, False),
    "softmax": ("resnet1d", "multiclass", 5, 0.6, True),
}
CLOSE = {"rtol": 0, "atol": 1e-5}


def store(folder: Path, model: str, objective: str, k: int, temperature: float, derivatives: bool = True) -> Path:
    """Leave a run of a network whose weights are all drawn, so that no branch of it is silent; return its folder."""
    torch.manual_seed(k)
    settings = {"derivatives": derivatives} | ({} if model == "newcomer" else {"width": 0.25})
    network = build(model, SIGNALS, n_classes=k, **settings)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape).sign()
        for _ in range(20):  # running statistics
            network.train()(0.2 * torch.randn(16, 12, 250))
    config = {
        "run": folder.name,
        "model": model,
        "task": task_of_size(k).to_json(),
        "objective": objective,
        "labels_sha256": "",
        "window": 250,
        "signals": SIGNALS,
        "settings": settings,
        "temperature": temperature,
    }
    write_json(config, folder / "config.json")
    torch.save({"weights": network.state_dict()}, folder / "best.pt")
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A folder with a run and an ONNX file of each kind; the thresholds of `resnet` are known."""
    folder = tmp_path_factory.mktemp("exported")
    for name, kind in KINDS.items():
        run = store(folder / name, *kind)
        if name == "resnet":
            labels = np.random.default_rng(0).integers(0, 2, (50, 5))
            labels[:, 4] = 0
            points = operating_points(labels, np.random.default_rng(1).random((50, 5)), task_of_size(5))
            points.to_csv(run / "operating_points.csv", index=False)
        export(run, folder / f"{name}.onnx")
    return folder


@pytest.fixture(scope="module")
def signals() -> dict[str, np.ndarray]:
    """Millivolts (7, 12, 1000) at 100 Hz: noise, and synthetic hearts."""
    rng = np.random.default_rng(0)
    hearts = [record.signals[100] for record, _ in zip(make_records(20), range(7), strict=False)]
    return {"noise": rng.normal(0, 0.3, (7, 12, 1000)), "hearts": np.stack(hearts) / 1000}


def torch_run(exported: Path, name: str) -> StoredRun:
    return load_run(exported / name, device="cpu", precision="fp32")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("n", [1, 7])
def test_a_stored_run_and_its_onnx_file_give_the_same_probabilities(exported, signals, name, n):
    stored, loaded = torch_run(exported, name), load_onnx(exported / f"{name}.onnx")
    for kind, millivolt in signals.items():
        expected = stored.predict(millivolt[:n], 100)
        given = loaded.predict(millivolt[:n], 100)
        assert (given.shape, given.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(given, expected, **CLOSE, err_msg=kind)
    spread = stored.predict(signals["hearts"], 100).std(axis=0)
    assert spread.max() > 1e-3, "a network that answers all alike shows nothing"


@pytest.mark.parametrize("name", ["resnet_standard", "inception_augmented", "xresnet_standard"])
def test_trained_networks_give_the_same_probabilities_as_onnx(signals, tmp_path, name):
    folder = ROOT / "artifacts" / name
    if not (folder / "best.pt").exists():
        pytest.skip(f"{folder} is not here")
    export(folder, tmp_path / "model.onnx")
    stored = load_run(folder, device="cpu", precision="fp32")
    for kind, millivolt in signals.items():
        given, expected = (run.predict(millivolt, 100) for run in (load_onnx(tmp_path / "model.onnx"), stored))
        np.testing.assert_allclose(given, expected, **CLOSE, err_msg=kind)


@pytest.mark.parametrize("name", KINDS)
def test_the_file_alone_gives_the_calibrated_probability_of_a_window(exported, signals, name):
    """As somebody without this repository uses it: millivolts behind the band-pass in, `probability` out."""
    stored = torch_run(exported, name)
    session = onnxruntime.InferenceSession(exported / f"{name}.onnx")
    for n in (1, 7):
        microvolt = stored.prepare(signals["hearts"][:n], 100)[:, :, 300:550]
        given = session.run(["probability"], {"millivolt": microvolt.astype(np.float32) / 1000})[0]
        np.testing.assert_allclose(given, stored.predict_microvolt(microvolt), **CLOSE)


def test_the_limit_and_the_rounding_to_microvolts_are_inside(exported):
    """Straight behind the filter: only `BandPass`, which is not in the file, has been applied."""
    stored = torch_run(exported, "resnet")
    loud = np.random.default_rng(0).normal(0, 6, (7, 12, 1000)).astype(np.float32)
    filtered = stored._preprocessor[0].transform(loud)
    assert np.abs(filtered).max() > SIGNALS["limit_mv"]
    session = onnxruntime.InferenceSession(exported / "resnet.onnx")
    given = session.run(["probability"], {"millivolt": filtered[:, :, :250]})[0]
    expected = stored.predict_microvolt(stored.prepare(loud, 100)[:, :, :250])
    np.testing.assert_allclose(given, expected, **CLOSE)


@pytest.mark.parametrize("name", ["inception", "softmax"])
def test_saturated_answers_are_calibrated_as_the_stored_run_does(exported, name):
    """Logits far out, where probabilities are kept a millionth from 0 and 1 before they are calibrated."""
    session = onnxruntime.InferenceSession(exported / f"{name}.onnx")
    _, objective, _, temperature, _ = KINDS[name]
    steps = np.sign(np.random.default_rng(0).normal(size=(7, 12, 250))).astype(np.float32) * 8
    given, uncalibrated = session.run(["probability", "uncalibrated"], {"millivolt": steps})
    assert min(uncalibrated.min(), 1 - uncalibrated.max()) < 1e-6
    np.testing.assert_allclose(given, calibrate(uncalibrated, temperature, objective), rtol=0, atol=2e-5)


def test_other_rates_and_lengths_go_through_the_same_preparation(exported):
    stored, loaded = torch_run(exported, "resnet"), load_onnx(exported / "resnet.onnx")
    long = np.random.default_rng(0).normal(0, 0.3, (2, 12, 8300))
    np.testing.assert_allclose(loaded.predict(long, 500), stored.predict(long, 500), **CLOSE)
    with pytest.raises(ValueError, match=r"2\.00 s long, the model needs at least 2\.5 s"):
        loaded.predict(long[:, :, :1000], 500)
    assert loaded.predict(long[:0], 500).shape == (0, 5)


def test_what_is_loaded_says_what_the_stored_run_says(exported):
    for name in KINDS:
        stored, loaded = torch_run(exported, name), load_onnx(exported / f"{name}.onnx")
        for attribute in ("leads", "fs", "task", "window", "min_seconds"):
            assert getattr(loaded, attribute) == getattr(stored, attribute), attribute
        assert loaded.config["signals"]["filter"] == stored.config["signals"]["filter"]


def test_metadata_say_what_the_file_takes_and_gives(exported):
    model = onnx.load(exported / "resnet.onnx")
    assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)]
    said = {each.key: each.value for each in model.metadata_props}
    assert json.loads(said["leads"]) == SIGNALS["leads"]
    assert (said["fs"], said["window"], said["unit"], said["limit_mv"]) == ("100", "250", "mV", "8.0")
    assert json.loads(said["band"]) == {"low": 0.5, "high": 40.0, "order": 3}
    assert json.loads(said["classes"]) == {f"C{i:02d}": f"class {i}" for i in range(5)}
    assert (json.loads(said["task"])["name"], said["objective"]) == ("of_5", "multilabel")
    assert set(json.loads(said["thresholds"])) == {"C00", "C01", "C02", "C03"}, "C04 has no positive record"
    assert "band-pass" in said["input"] and "not in this model" in said["input"]
    others = {each.key for each in onnx.load(exported / "softmax.onnx").metadata_props}
    assert "thresholds" not in others
    assert load_onnx(exported / "softmax.onnx").config["thresholds"] is None


def test_one_thread_is_what_is_used_unless_more_are_asked_for(exported, monkeypatch):
    seen = []
    original = onnxruntime.InferenceSession

    def watch(path, options, **others):
        seen.append((options.intra_op_num_threads, options.inter_op_num_threads))
        return original(path, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watch)
    load_onnx(exported / "resnet.onnx")
    load_onnx(exported / "resnet.onnx", threads=2)
    assert seen == [(1, 1), (2, 1)]


def test_a_run_of_missing_leads_takes_them_from_its_file_too(tmp_path):
    run = store(tmp_path / "any", "resnet1d", "multilabel", 3, 1.1)
    config = json.loads((run / "config.json").read_text())
    config["settings"]["lead_subsets"] = True
    write_json(config, run / "config.json")
    export(run, tmp_path / "any.onnx")
    assert load_onnx(tmp_path / "any.onnx").config["settings"]["lead_subsets"] is True


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"model": "minirocket_ridge"}, {"model": "ensemble", "members": {"resnet": 1.0}}])
def test_only_networks_are_exported(exported, tmp_path, change):
    config = json.loads((exported / "resnet/config.json").read_text())
    write_json(config | change, tmp_path / "config.json")
    with pytest.raises(UserError, match=f"is a run of {change['model']}: only networks can be exported"):
        export(tmp_path, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_path_that_does_not_end_in_onnx_is_refused(exported, tmp_path):
    with pytest.raises(UserError, match=r"ends in \.onnx"):
        export(exported / "resnet", tmp_path / "model.pt")


class Newcomer(nn.Module):
    """A plain network; `spoil` makes its answer depend on what a trace cannot hold."""

    spoil = False

    def __init__(self, n_channels: int, n_classes: int):
        super().__init__()
        self.conv = nn.Conv1d(n_channels, 8, 5)
        self.linear = nn.Linear(8, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear(torch.relu(self.conv(x)).mean(dim=-1))
        return x + 1 if self.spoil and len(x) == 7 else x


@pytest.fixture
def newcomer(monkeypatch, tmp_path) -> Path:
    module = types.ModuleType("newcomer_of_this_test")
    module.Newcomer = Newcomer
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(models.MODELS, "newcomer", f"{module.__name__}:Newcomer")
    return store(tmp_path / "newcomer", "newcomer", "multilabel", 4, 1.2)


def test_a_newcomer_s_network_is_exported_like_ours(newcomer, signals, tmp_path):
    export(newcomer, tmp_path / "newcomer.onnx")
    given = load_onnx(tmp_path / "newcomer.onnx").predict(signals["hearts"], 100)
    np.testing.assert_allclose(given, torch_run(tmp_path, "newcomer").predict(signals["hearts"], 100), **CLOSE)


def test_a_network_that_would_answer_otherwise_as_onnx_is_not_written(newcomer, tmp_path, monkeypatch):
    export(newcomer, tmp_path / "newcomer.onnx")
    before = (tmp_path / "newcomer.onnx").read_bytes()
    monkeypatch.setattr(Newcomer, "spoil", True)
    with pytest.raises(UserError, match="cannot be exported as ONNX: for 7 windows it would answer 0"):
        export(newcomer, tmp_path / "newcomer.onnx")
    assert (tmp_path / "newcomer.onnx").read_bytes() == before
    assert [path.name for path in tmp_path.glob("*.onnx")] == ["newcomer.onnx"] and not list(tmp_path.glob(".*"))


def test_files_that_are_missing_damaged_or_not_ours_are_refused_with_the_cure(exported, tmp_path):
    whole = (exported / "resnet.onnx").read_bytes()
    foreign = onnx.load_model_from_string(whole)
    del foreign.metadata_props[:]
    lying = onnx.load_model_from_string(whole)
    next(each for each in lying.metadata_props if each.key == "window").value = "500"
    broken = onnx.load_model_from_string(whole)
    next(each for each in broken.metadata_props if each.key == "leads").value = "[I, II"
    cases = {
        "empty": (b"", "cannot be read as ONNX"),
        "text": (b"not a model at all", "cannot be read as ONNX"),
        "cut": (whole[: len(whole) // 2], "cannot be read as ONNX"),
        "foreign": (foreign.SerializeToString(), "was not written by"),
        "lying": (lying.SerializeToString(), "its properties say otherwise"),
        "broken": (broken.SerializeToString(), "was not written by"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_onnx(path)
    with pytest.raises(UserError, match="there is no"):
        load_onnx(tmp_path / "missing.onnx")


@pytest.mark.parametrize("package", ["onnxruntime", "onnx"])
def test_without_the_extra_the_message_says_what_to_install(exported, tmp_path, monkeypatch, package):
    original = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == package:
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"pip install .*onnxruntime"):
        if package == "onnx":
            export(exported / "resnet", tmp_path / "model.onnx")
        else:
            load_onnx(exported / "resnet.onnx")


def test_importing_what_reads_onnx_imports_neither_torch_nor_onnxruntime():
    code = "import sys, ecg.onnx_run; print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(models.__file__).parents[2]
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
