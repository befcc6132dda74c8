"""What the tests share: data sets made once per session, and one whole run of the pipeline on synthetic records."""

import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from ecg.tasks import Task

ROOT = Path(__file__).resolve().parents[2]
CODES = ROOT / "codes"

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background job: processes would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:  # two processes of two threads each get in one another's way
    torch.set_num_threads(1)
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "LOKY_MAX_CPU_COUNT"), "1")

# What `signals/meta.json` tells a network, for one that needs no signals.
META = {
    "fs": 100,
    "mean": {"signal": [0.0] * 12, "derivative": [0.0] * 12},
    "std": {"signal": [0.2] * 12, "derivative": [5.0] * 12},
}

# A pipeline small enough for a test: what is checked is that everything is there and fits together.
TINY = (
    "00.records=120",
    "04.trees=5",
    "04.boosting_rounds=2",
    "04.kernels=84",
    "0[5-9].epochs=1",
    "10.epochs=1",
    "0[5-9].width=0.25",
    "10.width=0.25",
    "09.lr_finder=false",  # 10 shows that it works
    "*.replicates=50",
    "13.records_per_class=1",
    "13.steps=2",
)


@dataclass(frozen=True)
class Demo:
    """The folders of a finished demo run, the command that made them and what it printed."""

    data: Path
    artifacts: Path
    command: tuple[str, ...]
    output: str


def real_ptbxl() -> Path | None:
    """Return the folder of the real PTB-XL, which tests only read: the project's own, or one beside the project."""
    for folder in (ROOT / "PTB-XL", ROOT.parent / "shared" / "PTB-XL"):
        if (folder / "ptbxl_database.csv").exists():
            return folder
    return None


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 160 synthetic records in the formats of PTB-XL."""
    from ecg.synthetic import write_ptbxl

    folder = tmp_path_factory.mktemp("synthetic")
    write_ptbxl(folder, records=160)
    return folder


@pytest.fixture(scope="session")
def ptbxl(request: pytest.FixtureRequest) -> Path:
    """The real PTB-XL where there is one, else the synthetic one."""
    return real_ptbxl() or request.getfixturevalue("synthetic")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """All stages, run once by `run_all.py --demo` with tiny settings; tests only look at what it left.

    Once for all processes that share the tests among them: the first runs it, the others wait and find it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "demo"
    data, artifacts, printed = folder / "data", folder / "artifacts", folder / "printed.txt"
    command = (sys.executable, str(CODES / "run_all.py"), "--demo", "--data", str(data), "--artifacts", str(artifacts))
    command += ("--jobs", "2", "--set", *TINY)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ECG_")}
    with FileLock(f"{folder}.lock"):
        if not printed.exists():
            folder.mkdir(exist_ok=True)
            done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=1200)
            assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
            printed.write_text(done.stdout, encoding="utf-8")
    return Demo(data, artifacts, command, printed.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def prepared(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts folder with the splits and signals of a small synthetic PTB-XL; the first task has superclasses."""
    from ecg.labels import make_splits
    from ecg.preprocessing import preprocess

    artifacts = tmp_path_factory.mktemp("prepared")
    make_splits(data=synthetic, artifacts=artifacts)
    preprocess(data=synthetic, artifacts=artifacts)
    return artifacts


@pytest.fixture
def artifacts(prepared: Path, tmp_path: Path) -> Path:
    """The same in a folder of the test's own."""
    return share_inputs(prepared, tmp_path)


def share_inputs(prepared: Path, folder: Path) -> Path:
    """Give `folder` what a training reads: the signals linked, the tables copied."""
    (folder / "signals").symlink_to(prepared / "signals")
    for path in prepared.glob("ptbxl_*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="session")
def warm() -> BaseContext:
    """Processes that begin as copies of one that has imported PyTorch already, which is most of what they cost."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork processes")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warmed_up"])
    with pytest.MonkeyPatch.context() as patch:  # of the server, which starts with the first process
        paths = [str(CODES), str(CODES / "tests"), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("PYTHONHASHSEED", "4711")
        context.Process(target=print).start()
    return context


def task_of_size(n: int) -> Task:
    """Return a task with `n` classes, each made of one statement."""
    classes = tuple(f"C{i:02d}" for i in range(n))
    return Task(f"of_{n}", classes, tuple(f"class {i}" for i in range(n)), tuple((name,) for name in classes))


def best_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "best.pt", weights_only=True)["weights"]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
