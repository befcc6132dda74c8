"""The reference runs in git are what the scripts would train today: a changed default makes their numbers untrue."""

import ast
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import CODES, ROOT

from ecg.runs import NOT_COMPARED, read_config
from ecg.training import TrainingSettings

SCRIPTS = {
    "resnet_standard": "05_train_resnet1d.py",
    "resnet_augmented": "06_train_resnet1d_augmented.py",
    "inception_standard": "07_train_inception.py",
    "inception_augmented": "08_train_inception_augmented.py",
    "xresnet_standard": "09_train_xresnet1d.py",
    "xresnet_augmented": "10_train_xresnet1d_augmented.py",
}


def reference_configs() -> list[Path]:
    """Return the config.json of the runs that are in git; not those that the user has trained again."""
    command = ["git", "diff", "--name-only", "HEAD", "--", "artifacts"]
    has_git = shutil.which("git") and (ROOT / ".git").exists()
    trained_again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout if has_git else ""
    found = [path for name in SCRIPTS for path in sorted((ROOT / "artifacts" / name).glob("**/config.json"))]
    return [path for path in found if path.relative_to(ROOT).as_posix() not in trained_again.splitlines()]


CONFIGS = reference_configs()


def defaults_of(script: str) -> dict[str, object]:
    """Return the default settings of a training script, what it changes in TrainingSettings included."""
    values = asdict(TrainingSettings())
    for node in ast.walk(ast.parse((CODES / script).read_text(encoding="utf-8"))):
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            values[node.target.id] = ast.literal_eval(node.value)
    return values


@pytest.mark.skipif(not CONFIGS, reason="the reference runs are not here")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parent.relative_to(ROOT / "artifacts").as_posix())
def test_the_reference_runs_were_trained_with_todays_defaults(path: Path):
    stored = read_config(path.parent)["settings"]
    defaults = defaults_of(SCRIPTS[path.relative_to(ROOT / "artifacts").parts[0]])
    compared = set(stored) & set(defaults) - {*NOT_COMPARED, "seed"}
    assert {"augment", "epochs", "batch_size", "lr", "weight_decay", "crop_seconds", "ema", "patience"} <= compared
    different = {key: (stored[key], defaults[key]) for key in compared if stored[key] != defaults[key]}
    assert different == {}
