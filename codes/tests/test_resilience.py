"""Trainings that are killed, interrupted, out of disk, or that lose one of their processes."""

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CODES, best_weights, equal

import ecg.training
from ecg.artifacts import UserError, atomic, sweep
from ecg.labels import make_splits, read_split
from ecg.preprocessing import preprocess
from ecg.runs import find_runs, read_labelled
from ecg.training import Checkpoint, train

SCRIPT = CODES / "06_train_resnet1d_augmented.py"
SETTINGS = {"width": 0.25, "batch_size": 32, "precision": "fp32", "device": "cpu"}
OPTIONS = ("--width", "0.25", "--batch-size", "32", "--precision", "fp32", "--device", "cpu")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@dataclass(frozen=True)
class Work:
    """A call of the training script, and what happens to it.

    It is killed `delay` seconds after it began to write its `killed_in`-th checkpoint, of which there is one after each
    step; `most_bytes` is what a file may have.
    """

    artifacts: str
    epochs: int
    threads: int
    killed_in: int = 0
    delay: float = 0.0
    most_bytes: int = 0


def do(work: Work) -> None:
    """Run the training script as the only thing in this process; what it says goes to a file."""
    torch.set_num_threads(work.threads)
    ecg.training.CHECKPOINT_SECONDS = -1
    if work.killed_in:
        _kill_in_write(work)
    if work.most_bytes:
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (work.most_bytes, most))
    sys.argv = [str(SCRIPT), *OPTIONS, "--artifacts", work.artifacts, "--epochs", str(work.epochs)]
    with (
        Path(work.artifacts, "log.txt").open("w", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        print("hash", hash("JS00001"))
        runpy.run_path(str(SCRIPT), run_name="__main__")


def _kill_in_write(work: Work) -> None:
    save, begun = Checkpoint.save, 0

    def watched(*arguments) -> None:
        nonlocal begun
        begun += 1
        if begun == work.killed_in:
            threading.Timer(work.delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        save(*arguments)

    Checkpoint.save = watched


def start(warm: BaseContext, work: Work) -> BaseProcess:
    process = warm.Process(target=do, args=(work,))
    process.start()
    return process


def said(artifacts: Path) -> str:
    log = artifacts / "log.txt"
    return log.read_text() if log.exists() else ""


def exit_code(process: BaseProcess) -> int | None:
    process.join(timeout=240)
    return process.exitcode


def wait_for(process: BaseProcess, artifacts: Path, text: str) -> None:
    """Wait until the training has said `text`."""
    while text not in said(artifacts):
        assert process.is_alive() or text in said(artifacts), said(artifacts)
        time.sleep(0.01)


# --- kills ------------------------------------------------------------------------------------------------------------


def check_that_kills_change_nothing(warm, artifacts: Path, *, kills: int, epochs: int) -> None:
    """Kill a training `kills` times within a write or soon after it; it ends like one that was not killed."""
    folder, rng, resumed = artifacts / "resnet_augmented", np.random.default_rng(0), []
    train(model="resnet1d", augment=True, epochs=epochs, artifacts=artifacts, **SETTINGS)
    expected, history = best_weights(folder), pd.read_csv(folder / "history.csv").drop(columns="seconds")
    predictions = (folder / "predictions_test.csv").read_bytes()
    for path in folder.iterdir():
        path.unlink()

    work = {"artifacts": str(artifacts), "epochs": epochs, "threads": torch.get_num_threads()}
    for _ in range(kills):
        killed = Work(**work, killed_in=int(rng.integers(2, 5)), delay=rng.uniform(0, 0.005))
        assert exit_code(start(warm, killed)) == -signal.SIGKILL, said(artifacts)
        resumed += [line for line in said(artifacts).splitlines() if line.startswith("resumes at step")]
        assert not (folder / "best.pt").exists(), "it was killed before its end"
    assert len(set(resumed)) == len(resumed) == kills - 1, "at different moments"
    assert any("step 0 " not in line for line in resumed), "some within an epoch"
    assert exit_code(start(warm, Work(**work))) == 0, said(artifacts)
    assert not list(folder.glob(".*")), "nothing unfinished is left"
    assert equal(expected, best_weights(folder))
    pd.testing.assert_frame_equal(history, pd.read_csv(folder / "history.csv").drop(columns="seconds"))
    assert predictions == (folder / "predictions_test.csv").read_bytes()


def test_a_training_killed_four_times_ends_like_one_that_was_not(warm, artifacts):
    check_that_kills_change_nothing(warm, artifacts, kills=4, epochs=5)


@pytest.mark.slow
def test_a_training_killed_twenty_times_ends_like_one_that_was_not(warm, artifacts):
    check_that_kills_change_nothing(warm, artifacts, kills=20, epochs=25)


@pytest.fixture
def with_text_ids(synthetic: Path, tmp_path: Path) -> Path:
    """An artifacts folder with records like JS00001 of patients like P7."""
    data, artifacts = tmp_path / "data", tmp_path / "artifacts"
    data.mkdir()
    table = pd.read_csv(synthetic / "ptbxl_database.csv")
    table["ecg_id"] = table.ecg_id.map("JS{:05d}".format)
    table["patient_id"] = table.patient_id.astype(int).map("P{}".format)
    table.to_csv(data / "ptbxl_database.csv", index=False)
    for name in ("scp_statements.csv", "records100"):
        (data / name).symlink_to(synthetic / name)
    make_splits(data=data, artifacts=artifacts)
    preprocess(data=data, artifacts=artifacts)
    return artifacts


def test_a_training_on_text_ids_resumes_in_a_process_that_hashes_text_otherwise(warm, with_text_ids, capsys):
    """Trap 21: a fingerprint of pointers would never be the same twice."""
    folder = with_text_ids / "resnet_augmented"
    training = {"model": "resnet1d", "augment": True, "epochs": 2, "artifacts": with_text_ids}
    train(**training, **SETTINGS)
    expected, predictions = best_weights(folder), (folder / "predictions_test.csv").read_bytes()
    for path in folder.iterdir():
        path.unlink()
    killed = Work(str(with_text_ids), 2, torch.get_num_threads(), killed_in=3)
    assert exit_code(start(warm, killed)) == -signal.SIGKILL, said(with_text_ids)
    assert f"hash {hash('JS00001')}" not in said(with_text_ids), "set PYTHONHASHSEED to something else"
    train(**training, **SETTINGS)
    assert "resumes at step" in capsys.readouterr().out
    assert equal(expected, best_weights(folder))
    assert predictions == (folder / "predictions_test.csv").read_bytes()
    labels, probability = read_labelled(with_text_ids, find_runs(with_text_ids)[0], "test")
    assert list(labels.index) == list(probability.index) == read_split(with_text_ids, "test").ecg_id.tolist()
    assert labels.index.str.fullmatch(r"JS\d{5}").all()


# --- other ends -------------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_with_a_message_and_the_last_checkpoint(warm, artifacts):
    process = start(warm, Work(str(artifacts), 200, 1))
    wait_for(process, artifacts, "epoch   1/200")
    os.kill(process.pid, signal.SIGINT)
    assert exit_code(process) == 130
    assert "rerun the same command to resume" in said(artifacts).splitlines()[-1]
    assert "Traceback" not in said(artifacts)
    stored = torch.load(artifacts / "resnet_augmented" / "last.pt", weights_only=True)
    assert stored["progress"]["history"]


def test_a_full_disk_ends_with_a_message_and_the_last_checkpoint(warm, artifacts):
    """A file that may not grow is how a full disk looks to a checkpoint."""
    path = artifacts / "resnet_augmented" / "last.pt"
    assert exit_code(start(warm, Work(str(artifacts), 9, 1, killed_in=2, delay=0.001))) == -signal.SIGKILL
    before = path.read_bytes()
    assert exit_code(start(warm, Work(str(artifacts), 9, 1, most_bytes=len(before) // 2))) == 2
    assert said(artifacts).splitlines()[-1] == f"error: File too large: {path}"
    assert "Traceback" not in said(artifacts)
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".*"))


def test_a_folder_that_cannot_be_written_to_is_said_before_training(warm, artifacts):
    (artifacts / "resnet_augmented").touch()  # a file where the run folder should be; root may write everywhere
    assert exit_code(start(warm, Work(str(artifacts), 1, 1))) == 2
    assert said(artifacts).splitlines()[1:] == [f"error: File exists: {artifacts / 'resnet_augmented'}"]


def test_an_error_without_a_file_name_gets_one(tmp_path):
    with pytest.raises(OSError, match="No space left") as error, atomic(tmp_path / "table.csv"):
        raise OSError(28, "No space left on device")
    assert error.value.filename == str(tmp_path / "table.csv")


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(UserError), atomic(path) as temporary:
        temporary.write_text("half")
        raise UserError("stopped")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_write_left_is_swept_and_nothing_else(tmp_path):
    kept = [tmp_path / "last.pt", tmp_path / ".gitignore"]
    for path in (*kept, tmp_path / ".last.pt.x7_k2.pt"):
        path.touch()
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_the_death_of_one_process_ends_all_with_a_message(artifacts):
    command = [*TORCHRUN, SCRIPT, *OPTIONS, "--epochs", 500, "--artifacts", artifacts]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(list(map(str, command)), **pipes, env=os.environ | {"OMP_NUM_THREADS": "1"})
    for line in process.stdout:
        if line.startswith("epoch   1/500"):
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("this kernel does not list a process's children in /proc")
    workers = [int(word) for word in children.read_text().split()]
    drain = threading.Thread(target=process.stdout.read)  # a full pipe would hold the survivor up
    drain.start()
    os.kill(workers[-1], signal.SIGKILL)
    messages = process.stderr.read()
    assert process.wait(timeout=60) != 0
    drain.join()
    assert "SIGKILL" in messages
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    stored = torch.load(artifacts / "resnet_augmented" / "last.pt", weights_only=True)
    assert stored["progress"]["history"], "it can go on"
