"""What the tests share: data sets made once per session, and one whole run of the pipeline on synthetic records."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
CODES = ROOT / "codes"

# What `signals/meta.json` tells a network, for one that needs no signals.
META = {
    "fs": 100,
    "mean": {"signal": [0.0] * 12, "derivative": [0.0] * 12},
    "std": {"signal": [0.2] * 12, "derivative": [5.0] * 12},
}

# A pipeline small enough for a test: what is checked is that everything is there and fits together.
TINY = ("00.records=200", "0[5-9].epochs=1", "10.epochs=1", "*.replicates=50")


@dataclass(frozen=True)
class Demo:
    """The folders of a finished demo run, the command that made them and what it printed."""

    data: Path
    artifacts: Path
    command: tuple[str, ...]
    output: str


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 160 synthetic records in the formats of PTB-XL."""
    from ecg.synthetic import write_ptbxl

    folder = tmp_path_factory.mktemp("synthetic")
    write_ptbxl(folder, records=160)
    return folder


@pytest.fixture(scope="session")
def ptbxl(request: pytest.FixtureRequest) -> Path:
    """The real PTB-XL if it lies beside the project (only read), else the synthetic one."""
    real = ROOT.parent / "shared" / "PTB-XL"
    return real if (real / "ptbxl_database.csv").exists() else request.getfixturevalue("synthetic")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """All stages, run once by `run_all.py --demo` with tiny settings; tests only look at what it left."""
    folder = tmp_path_factory.mktemp("demo")
    data, artifacts = folder / "data", folder / "artifacts"
    command = (sys.executable, str(CODES / "run_all.py"), "--demo", "--data", str(data), "--artifacts", str(artifacts))
    command += ("--jobs", "2", "--set", *TINY)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ECG_")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=1200)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return Demo(data, artifacts, command, done.stdout)


@pytest.fixture(scope="session")
def prepared(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts folder with the splits and signals of a small synthetic PTB-XL."""
    from ecg.data import preprocess
    from ecg.labels import make_splits

    artifacts = tmp_path_factory.mktemp("prepared")
    make_splits(data=synthetic, artifacts=artifacts, split="folds", label_policy="any")
    preprocess(data=synthetic, artifacts=artifacts, sampling_rate=100, band=(0.5, 40.0), limit_mv=8.0, strict=False)
    return artifacts


@pytest.fixture
def artifacts(prepared: Path, tmp_path: Path) -> Path:
    """The same in a folder of the test's own: the signals linked, the tables copied."""
    (tmp_path / "signals").symlink_to(prepared / "signals")
    for path in prepared.glob("ptbxl_*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def best_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "best.pt", weights_only=True)["weights"]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
