"""A training divided among several processes ends like one in a single process."""

import copy
import os
import socket
import subprocess
import sys
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CODES, equal, share_inputs
from torch import nn

from ecg.artifacts import UserError
from ecg.distributed import World, join_world
from ecg.models.layers import BatchDropout, Frontend, Network
from ecg.trainer import Batch, Trainer, make_loss
from ecg.training import train

CPU = torch.device("cpu")
SCRIPT = CODES / "06_train_resnet1d_augmented.py"
SETTINGS = {"width": 0.25, "epochs": 2, "lr": 1e-4, "batch_size": 32, "precision": "fp32", "device": "cpu"}
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


def start(*words: object) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ONE_THREAD, "cwd": CODES}
    return subprocess.Popen([*map(str, words)], **pipes)


def finish(*processes: subprocess.Popen) -> str:
    """Wait for the processes, see that they ended well, and return what they wrote to standard output."""
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return "".join(output for output, _ in said)


def assert_like(one: Path, other: Path) -> None:
    """Compare the losses and predictions of two run folders, up to rounding."""
    for loss in ("train_loss", "val_loss"):
        a, b = (pd.read_csv(folder / "history.csv")[loss] for folder in (one, other))
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=0)
    for split in ("val", "test"):
        a, b = (pd.read_csv(folder / f"predictions_{split}.csv") for folder in (one, other))
        assert (a.ecg_id == b.ecg_id).all(), "every record once, in order"
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=0)


def test_two_machines_train_like_one(artifacts, prepared, tmp_path_factory):
    """Two nodes of one process each, which meet over the network: here over the loopback.

    At a learning rate at which rounding does not grow: the sums of two processes are rounded otherwise.
    """
    alone = share_inputs(prepared, tmp_path_factory.mktemp("alone"))
    train(model="resnet1d", augment=True, artifacts=alone, **SETTINGS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", value)]
    meeting = ("--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}")
    nodes = [
        start(*TORCHRUN, *meeting, f"--node-rank={rank}", SCRIPT, *options, "--artifacts", artifacts) for rank in (0, 1)
    ]
    output = finish(*nodes)
    assert output.count("epoch   1/2") == 1, "one process prints"
    assert_like(alone / "resnet_augmented", artifacts / "resnet_augmented")


# --- batches ---------------------------------------------------------------------------------------------------------


def work(rank: int, size: int, folder: Path) -> None:
    """Do what is compared, as process `rank` of `size`, and leave it in `folder`."""
    torch.set_num_threads(1)
    if size > 1:
        torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=size)
    world = World(CPU, rank, size)
    torch.save({"steps": four_steps(world), "norms": norm_steps(world)}, folder / f"{rank}_of_{size}.pt")
    if size > 1:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def worked(warm: BaseContext, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[dict]]:
    """What one process leaves, and each of three with unequal shares: a sum of two is the same in any order."""
    folder = tmp_path_factory.mktemp("work")
    work(0, 1, folder)
    processes = [warm.Process(target=work, args=(rank, 3, folder)) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    return torch.load(folder / "0_of_1.pt"), [torch.load(folder / f"{rank}_of_3.pt") for rank in range(3)]


def smooth_network() -> Network:
    """Return a network without thresholds, at which rounding could switch a unit and so change gradients visibly."""
    body = nn.Sequential(
        nn.Conv1d(12, 16, 7, stride=2, bias=False),
        nn.BatchNorm1d(16),
        nn.Tanh(),
        nn.Conv1d(16, 16, 5, stride=2, bias=False),
        nn.BatchNorm1d(16),
        nn.Tanh(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        BatchDropout(0.3),
        nn.Linear(16, 7),
    )
    return Network(Frontend(fs=100, mean=[0.0] * 12, std=[0.2] * 12, derivatives=False), body, 7)


def four_steps(world: World) -> tuple[list[torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Take four steps of a training on batches of seven divided among the processes, and the last two once more.

    Returns the first step's gradients, the weights at the end, and those of a training that was resumed.
    """

    def new_trainer() -> Trainer:
        torch.manual_seed(0)
        return Trainer(
            smooth_network(),
            steps=10,
            lr=1e-2,
            weight_decay=0.0,
            ema=0.1,
            loss=make_loss("multilabel", np.zeros((7, 7), np.float32)),
            objective="multilabel",
            augment=True,
            world=world,
            dtype=torch.float32,
        )

    def step(trainer: Trainer, i: int) -> None:
        rng = np.random.default_rng(i)
        microvolt = rng.integers(-1000, 1000, size=(7, 12, 250)).astype(np.int16)
        target = rng.integers(0, 2, size=(7, 7)).astype(np.float32)
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
    return gradients, trainer.network.state_dict(), resumed.network.state_dict()


def test_unequal_shares_have_the_gradients_of_one_process_and_resume_bit_for_bit(worked):
    (one, *_), (three, weights, resumed) = worked[0]["steps"], worked[1][0]["steps"]
    assert max(gradient.abs().max() for gradient in one) > 0.01
    for a, b in zip(one, three, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert equal(weights, resumed)


# --- batch norms -----------------------------------------------------------------------------------------------------

NORMS = {
    "(B, C)": (nn.BatchNorm1d, (10, 4), {}),
    "(B, C, T)": (nn.BatchNorm1d, (10, 4, 6), {}),
    "(B, C, 1, T)": (nn.BatchNorm2d, (10, 4, 1, 6), {}),
    "(B, C, 2, 3, 4)": (nn.BatchNorm3d, (10, 4, 2, 3, 4), {}),
    "without weights": (nn.BatchNorm1d, (10, 4, 6), {"affine": False}),
    "cumulative": (nn.BatchNorm1d, (10, 4, 6), {"momentum": None}),
    "other numbers": (nn.BatchNorm2d, (10, 4, 1, 6), {"momentum": 0.3, "eps": 0.1}),
}


def norm_steps(world: World) -> dict[str, tuple]:
    """Show every norm three batches, divided among the processes.

    Returns {case: (outputs, gradients of inputs, gradients of weights, state, answers in evaluation)}.
    """
    results = {}
    for case, (kind, shape, options) in NORMS.items():
        generator = torch.Generator().manual_seed(0)
        network = nn.Sequential(kind(4, **options))
        for parameter in network.parameters():
            parameter.data = torch.randn(4, generator=generator)
        world.synchronise_norms(network)
        own, outputs, input_gradients = world.share(len(torch.empty(shape))), [], []
        for _ in range(3):
            x = 3 * torch.randn(shape, generator=generator) + 2
            weight = torch.randn(shape, generator=generator)[own]  # of a loss that is a sum over records
            mine = x[own].requires_grad_()
            y = network(mine)
            (weight * y.square()).sum().backward()
            outputs.append(y.detach())
            input_gradients.append(mine.grad)
        weight_gradients = [world.sum(parameter.grad) for parameter in network.parameters()]
        answers = network.eval()(x).detach()
        results[case] = (outputs, input_gradients, weight_gradients, network.state_dict(), answers)
    return results


@pytest.mark.parametrize("case", NORMS)
def test_a_batch_norm_in_three_processes_is_pytorchs_own_on_the_whole_batch(worked, case):
    one, three = worked[0]["norms"][case], [result["norms"][case] for result in worked[1]]
    for part in (0, 1):  # outputs, gradients of the inputs
        for batch, whole in enumerate(one[part]):
            together = torch.cat([result[part][batch] for result in three])
            torch.testing.assert_close(together, whole, rtol=1e-4, atol=1e-4)
    for result in three:
        for part in (2, 3, 4):  # gradients of the weights, running statistics, answers in evaluation
            torch.testing.assert_close(result[part], one[part], rtol=1e-4, atol=1e-4)


def test_a_divided_norm_stays_on_its_device_and_in_its_mode():
    network = nn.Sequential(nn.BatchNorm1d(4), nn.Sequential(nn.BatchNorm2d(4).eval())).to("meta")
    World(CPU, 0, 2).synchronise_norms(network)
    assert {value.device.type for value in network.state_dict().values()} == {"meta"}
    assert [type(norm).__name__ for norm in (network[0], network[1][0])] == ["_SyncBatchNorm"] * 2
    assert network[0].training and not network[1][0].training


# --- the world -------------------------------------------------------------------------------------------------------


def test_shares_cover_each_row_once_and_are_equal_to_one_row():
    for size in (1, 2, 3, 8):
        for n in (0, 1, 8, 275, 1915):
            shares = [np.arange(n)[World(CPU, rank, size).share(n)] for rank in range(size)]
            np.testing.assert_array_equal(np.concatenate(shares), np.arange(n))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1, (n, size)


def test_without_torchrun_there_is_one_process():
    with join_world("cpu") as world:
        assert world == World(CPU, 0, 1)
        assert not torch.distributed.is_initialized()


def test_a_numbered_gpu_is_refused_where_torchrun_gives_each_process_its_own(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--device cuda:1: torchrun gives each process"), join_world("cuda:1"):
        raise AssertionError("joined")


def test_a_lost_process_is_one_line_that_says_how_to_resume(monkeypatch):
    """As gloo reports it to the survivor; here the process is alone in its group."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ecg.distributed._TORCHRUN", (("RANK", "0"), ("PRETENDED_SIZE", "2"), ("LOCAL_RANK", "0")))
    with pytest.raises(UserError, match=r"process 0 of 2 .*another one died.*resume"), join_world("cpu"):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234")
    with pytest.raises(RuntimeError, match="shape"), join_world("cpu"):
        raise RuntimeError("shape of the weights")
    assert not torch.distributed.is_initialized()
