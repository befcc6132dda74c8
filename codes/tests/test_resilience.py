"""Trainings that are killed, interrupted, out of disk or divided among several processes."""

import copy
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CODES, META, best_weights, equal

from ecg.artifacts import UserError, atomic
from ecg.distributed import World, join_world
from ecg.inference import predict
from ecg.models import build
from ecg.training import Batch, Split, Trainer, batches

SCRIPT = CODES / "06_train_resnet1d_augmented.py"
OPTIONS = ("--batch-size", "32", "--precision", "fp32", "--device", "cpu")
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
# the script itself, but with a checkpoint after every step instead of every half minute
EVERY_STEP = "import runpy, sys; import ecg.training; ecg.training.CHECKPOINT_SECONDS = 0; sys.argv = sys.argv[1:]; "
EVERY_STEP += "runpy.run_path(sys.argv[0], run_name='__main__')"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def start(*words: object, **options) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ONE_THREAD, "cwd": CODES}
    return subprocess.Popen([*map(str, words)], **pipes | options)


def wait_for(process: subprocess.Popen, beginning: str) -> str:
    """Return the first line of output that begins so."""
    for line in process.stdout:
        if line.startswith(beginning):
            return line
    raise AssertionError(f"no line {beginning!r}: {process.stderr.read()}")


def test_training_killed_ten_times_ends_like_one_that_was_not(artifacts):
    command = (sys.executable, "-c", EVERY_STEP, SCRIPT, "--epochs", 8, *OPTIONS, "--artifacts", artifacts)
    folder, rng, resumed, kills = artifacts / "resnet_augmented", np.random.default_rng(0), [], 0
    process = start(sys.executable, SCRIPT, "--epochs", 8, *OPTIONS, "--artifacts", artifacts)
    wait_for(process, "resnet_augmented:")
    began = time.monotonic()
    process.communicate()
    tenth = (time.monotonic() - began) / 10
    expected, history = best_weights(folder), pd.read_csv(folder / "history.csv").drop(columns="seconds")
    predictions = (folder / "predictions_test.csv").read_bytes()
    for name in ("last.pt", "best.pt"):
        (folder / name).unlink()

    while kills < 10:
        process = start(*command)
        if (folder / "last.pt").exists():
            resumed.append(wait_for(process, "resumes at step"))
        else:
            wait_for(process, "resnet_augmented:")
        time.sleep(rng.uniform(0, tenth))
        process.kill()
        process.communicate()
        kills += 1
        assert not (folder / "best.pt").exists(), "it was killed before its end"
    assert len(set(resumed)) > 3, "kills at different moments"
    assert any("step 0 " not in line for line in resumed), "some within an epoch"
    assert start(*command).wait() == 0
    assert not list(folder.glob(".*")), "nothing unfinished is left"
    assert equal(expected, best_weights(folder))
    pd.testing.assert_frame_equal(history, pd.read_csv(folder / "history.csv").drop(columns="seconds"))
    assert predictions == (folder / "predictions_test.csv").read_bytes()


def test_ctrl_c_ends_with_a_message_and_the_last_checkpoint(artifacts):
    process = start(sys.executable, SCRIPT, "--epochs", 200, *OPTIONS, "--artifacts", artifacts)
    wait_for(process, "epoch   1/200")
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130
    assert messages.splitlines()[-1] == (
        "error: stopped; what was written so far is whole, and the same command goes on from there"
    )
    assert "Traceback" not in messages
    assert torch.load(artifacts / "resnet_augmented" / "last.pt", weights_only=True)["history"]


def test_a_full_disk_ends_with_a_message_and_the_last_checkpoint(artifacts):
    """No file may grow beyond a megabyte, which is how a full disk looks to a checkpoint of eight."""
    path = artifacts / "resnet_augmented" / "last.pt"
    command = (sys.executable, SCRIPT, *OPTIONS, "--artifacts", artifacts)
    assert start(*command, "--epochs", 1).wait() == 0
    before = path.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    full = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limit))}
    process = start(*command, "--epochs", 2, **full)
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 2
    assert messages.splitlines()[-1] == f"error: File too large: {path}"
    assert "Traceback" not in messages
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".*"))


def test_a_folder_that_cannot_be_written_to_is_said_before_training(artifacts):
    (artifacts / "resnet_augmented").touch()  # a file where the run folder should be; root may write everywhere
    process = start(sys.executable, SCRIPT, "--epochs", 1, *OPTIONS, "--artifacts", artifacts)
    output, messages = process.communicate(timeout=60)
    assert process.returncode == 2 and not output
    assert messages.splitlines()[-1] == f"error: File exists: {artifacts / 'resnet_augmented'}"


def test_an_error_without_a_file_name_gets_one(tmp_path):
    with pytest.raises(OSError, match="No space left") as error, atomic(tmp_path / "table.csv"):
        raise OSError(28, "No space left on device")
    assert error.value.filename == str(tmp_path / "table.csv")


def test_two_processes_train_like_one(artifacts, prepared, tmp_path_factory):
    """At a learning rate at which rounding does not grow: the sums of two processes are rounded otherwise."""
    options = (*OPTIONS, "--epochs", 2, "--lr", "1e-4")
    assert start(sys.executable, SCRIPT, *options, "--artifacts", artifacts).wait() == 0
    other = tmp_path_factory.mktemp("two")
    (other / "signals").symlink_to(prepared / "signals")
    for path in prepared.glob("ptbxl_*"):
        (other / path.name).write_bytes(path.read_bytes())
    process = start(*TORCHRUN, SCRIPT, *options, "--artifacts", other)
    output, messages = process.communicate(timeout=240)
    assert process.returncode == 0, messages
    assert output.count("epoch   1/2") == 1, "one process speaks"
    one, two = (pd.read_csv(folder / "resnet_augmented" / "history.csv") for folder in (artifacts, other))
    for loss in ("train_loss", "val_loss"):
        np.testing.assert_allclose(one[loss], two[loss], atol=1e-5, rtol=0)
    for split in ("val", "test"):
        one, two = (
            pd.read_csv(folder / "resnet_augmented" / f"predictions_{split}.csv") for folder in (artifacts, other)
        )
        assert (one.ecg_id == two.ecg_id).all(), "every record once, in order"
        np.testing.assert_allclose(one, two, atol=1e-4, rtol=0)


def four_steps(rank: int, size: int, folder: Path) -> None:
    """Take four steps of a training on batches of seven divided among `size` processes, and the last two once more.

    Process 0 leaves the first step's gradients, the weights at the end, and those of a training that was resumed.
    """
    torch.set_num_threads(1)
    if size > 1:
        torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=size)

    def new_trainer() -> Trainer:
        torch.manual_seed(0)
        options = {"lr": 1e-2, "weight_decay": 0.0, "average": 0.1, "task": "multilabel", "dtype": torch.float32}
        world = World(torch.device("cpu"), rank, size)
        return Trainer(build("xresnet1d", META, width=0.25), steps=10, augment=True, world=world, **options)

    def step(trainer: Trainer, i: int) -> None:
        rng = np.random.default_rng(i)
        microvolt = rng.integers(-1000, 1000, size=(7, 12, 250)).astype(np.int16)
        target = rng.integers(0, 2, size=(7, 5)).astype(np.float32)
        torch.manual_seed(i)  # dropout
        trainer.step(trainer.loss(Batch(microvolt, target, torch.Generator().manual_seed(i))))

    trainer, resumed = new_trainer(), new_trainer()
    step(trainer, 0)
    gradients = [parameter.grad.clone() for parameter in trainer.network.parameters()]
    step(trainer, 1)
    resumed.load(copy.deepcopy(trainer.state()))
    for one in (trainer, resumed):
        step(one, 2)
        step(one, 3)
    if rank == 0:
        torch.save([gradients, *(one.network.state_dict() for one in (trainer, resumed))], folder / f"{size}.pt")
    if size > 1:
        torch.distributed.destroy_process_group()


def test_unequal_shares_have_the_gradients_of_one_process_and_resume_bit_for_bit(tmp_path):
    """Three processes, because a sum of two is the same in any order."""
    four_steps(0, 1, tmp_path)
    torch.multiprocessing.spawn(four_steps, (3, tmp_path), nprocs=3)
    (one, *_), (three, weights, resumed) = (torch.load(tmp_path / f"{size}.pt") for size in (1, 3))
    assert max(gradient.abs().max() for gradient in one) > 0.01
    for a, b in zip(one, three, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert equal(weights, resumed)


def test_a_numbered_gpu_is_refused_where_torchrun_gives_each_process_its_own(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--device cuda:1: torchrun gives each process"), join_world("cuda:1"):
        raise AssertionError("joined")


def test_the_death_of_one_process_ends_all_with_a_message(artifacts):
    process = start(*TORCHRUN, SCRIPT, *OPTIONS, "--epochs", 500, "--artifacts", artifacts)
    wait_for(process, "epoch   1/500")
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
    assert torch.load(artifacts / "resnet_augmented" / "last.pt", weights_only=True)["history"], "it can go on"


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [8, 275, 1915])
def test_shares_cover_each_row_once_and_are_equal_to_one_row(n, size):
    shares = [np.arange(n)[World(torch.device("cpu"), rank, size).share(n)] for rank in range(size)]
    np.testing.assert_array_equal(np.concatenate(shares), np.arange(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_without_torchrun_there_is_one_process():
    with join_world("cpu") as world:
        assert world == World(torch.device("cpu"), 0, 1)
        assert not torch.distributed.is_initialized()


def test_a_lost_process_is_said_in_one_line(monkeypatch):
    """As gloo reports it to the survivor; here the process is alone in its group."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ecg.distributed._TORCHRUN", (("RANK", "0"), ("PRETENDED_SIZE", "2"), ("LOCAL_RANK", "0")))
    with (
        pytest.raises(UserError, match=r"process 0 of 2 lost another one.*the same command goes on"),
        join_world("cpu"),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234")
    with pytest.raises(RuntimeError, match="shape"), join_world("cpu"):
        raise RuntimeError("shape of the weights")
    assert not torch.distributed.is_initialized()


def test_records_on_the_device_give_the_batches_and_answers_of_the_mapped_ones():
    """What runs on a GPU that holds all records, here with a tensor on the CPU."""
    array = np.random.default_rng(0).integers(-1000, 1000, size=(40, 12, 1000), dtype=np.int16)
    split = Split(np.arange(3, 37), np.arange(34), np.zeros((34, 5), np.float32))
    where = {"size": 8, "crop": 250, "seed": 0, "epoch": 1, "device": torch.device("cpu")}
    for mapped, moved in zip(
        batches(array, split, **where), batches(torch.from_numpy(array), split, **where), strict=True
    ):
        np.testing.assert_array_equal(mapped.microvolt, moved.microvolt.numpy())
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12 * 250, 5))
    where = {"window": 250, "task": "multilabel", "device": torch.device("cpu"), "dtype": torch.float32}
    one, two = (predict(network, x, split.rows, **where) for x in (array, torch.from_numpy(array)))
    np.testing.assert_array_equal(one, two)
