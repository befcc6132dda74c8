"""Call scripts of a folder in processes that are forks of this one, which has imported PyTorch for all of them.

    PYTHONPATH=CODES python forks.py GROUPS

GROUPS is JSON: a list of groups, one after the other, each a list of calls at the same time, each with the keys of
`Call`. Printed is a JSON list of groups of [exit code, output].
"""

import json
import os
import runpy
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Call:
    """A script with its arguments; `kill_in` is the number of the checkpoint in which it kills itself."""

    words: list[str]
    environment: dict[str, str]
    kill_in: int = 0


def call(this: Call, log: Path) -> int:
    """Start a fork that does it; return its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.environ.update(this.environment)
        if this.kill_in:
            kill_in(this.kill_in)
        sys.argv = this.words
        sys.path[0] = str(Path(this.words[0]).parent)
        runpy.run_path(this.words[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def kill_in(number: int) -> None:
    """Let the training write a checkpoint after each step, and kill it in the given one."""
    import ecg.training
    from ecg.training import Checkpoint

    save, begun = Checkpoint.save, 0

    def watched(*arguments: object) -> None:
        nonlocal begun
        begun += 1
        save(*arguments)
        if begun == number:
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoint.save, ecg.training.CHECKPOINT_SECONDS = watched, -1


def main() -> None:
    import warmed_up  # noqa: F401

    groups = [[Call(**entry) for entry in group] for group in json.loads(sys.argv[1])]
    ends = []
    with tempfile.TemporaryDirectory() as folder:
        for group in groups:
            logs = [Path(folder, f"{i}.txt") for i in range(len(group))]
            children = [call(this, log) for this, log in zip(group, logs, strict=True)]
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            ends.append([(code, log.read_text()) for code, log in zip(codes, logs, strict=True)])
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
