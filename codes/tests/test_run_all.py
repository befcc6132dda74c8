"""run_all: which stages run, why, in what order; named runs; failures, kills; and the whole demo run."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from textwrap import dedent

import pandas as pd
import pytest
from conftest import CODES, Demo
from filelock import FileLock, Timeout

from ecg.artifacts import UserError
from ecg.command_line import Folders, run
from ecg.hardware import cores
from ecg.plan import command_line, find_flags, make_jobs
from ecg.stages import STAGES, Network, Stage, maker_of, run_name
from run_all import DEMO, Settings, run_all

MINI = {  # a pipeline of the same shape whose stages take milliseconds
    "ecg/__init__.py": "",
    "ecg/mini.py": '''
        """What the real stages have in common."""
        import sys
        from pathlib import Path

        def run(stage, settings, doc):
            """Call `stage` with the flags; note in ran.txt that it ran."""
            flags, words = {}, sys.argv[1:]
            while words:
                name = words.pop(0).removeprefix("--").replace("-", "_")
                flags[name] = words.pop(0) if words and not words[0].startswith("--") else True
            flags["artifacts"] = Path(flags["artifacts"])
            flags["data"] = Path(flags["data"])
            name = "@" + flags["name"] if flags.get("name") else ""
            seed = "_seed" + flags["seed"] if flags.get("seed", "0") != "0" else ""
            with (flags["artifacts"] / "ran.txt").open("a") as file:
                print(Path(sys.argv[0]).stem + name + seed, file=file)
            stage(**flags)

        def write(path, text):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        ''',
    "ecg/models/__init__.py": '''
        """The networks."""
        MODELS = {
            "small": "ecg.models.small:Small",
            "big": "ecg.models.big:Big",
        }
        ''',
    "ecg/models/layers.py": "WIDTH = 1\n",
    "ecg/models/small.py": "from ecg.models import layers\n\nclass Small:\n    width = layers.WIDTH\n",
    "ecg/models/big.py": "class Big:\n    width = 9\n",
    "ecg/augmentation.py": "def augment(x):\n    return 2 * x\n",
    "ecg/plots.py": "def draw(x):\n    return f'picture of {x}'\n",
    "ecg/training.py": '''
        """One loop for every network."""
        import json
        import sys
        from ecg import plots
        from ecg.augmentation import augment
        from ecg.mini import write

        EPOCHS = "1"

        def train(net, augmented, data, artifacts, *, epochs=EPOCHS, seed="0", name="", preset="default", overwrite=""):
            """Refuse to write over a run with other settings, else leave a run folder."""
            standard = f"{net}_{'augmented' if augmented else 'standard'}"
            folder = artifacts / (name or (standard if preset == "default" else standard.replace("_", f"_{preset}_")))
            folder = folder if seed == "0" else folder / f"seed{seed}"
            config = folder / "config.json"
            old = json.loads(config.read_text()) if config.exists() else {}
            if old and old["epochs"] != epochs and not overwrite:
                sys.exit("a run with other settings is there")
            x = augment(1) if augmented else 1
            write(folder / "predictions_test.csv", f"{x} {epochs} {seed}")
            write(folder / "history.png", plots.draw(x))
            write(config, json.dumps({"model": net, "augment": augmented, "epochs": epochs}))
        ''',
    "00_get_data.py": '''
        """Data."""
        from ecg.mini import run, write
        class Settings:
            demo: bool = False
            records: int = 1
        def stage(data, artifacts, demo=False, records=1):
            for name in ("ptbxl_database.csv", "scp_statements.csv", "planted_signs.csv", "records100/00000/1.dat"):
                write(data / name, str(records))
        run(stage, Settings, __doc__)
        ''',
    "02_split.py": '''
        """Splits."""
        from ecg.mini import run, write
        class Settings:
            rule: str = "folds"
            strict: bool = False
            labels: str = ""
        def stage(data, artifacts, rule="folds", strict=False, labels="superdiagnostic"):
            write(artifacts / "ptbxl_train.csv", rule)
            write(artifacts / "ptbxl_test.csv", rule)
            tasks = ", ".join(f'{{"name": "{name}", "rule": "{rule}"}}' for name in labels.split("+"))
            write(artifacts / "ptbxl_splits.json", f'{{"tasks": [{tasks}]}}')
        run(stage, Settings, __doc__)
        ''',
    "05_train_small.py": '''
        """Small."""
        from functools import partial
        from ecg.mini import run
        from ecg.training import train
        class Settings:
            epochs: int = 1
            name: str = ""
            preset: str = "default"
            seed: int = 0
            overwrite: bool = False
        run(partial(train, "small", False), Settings, __doc__)
        ''',
    "06_train_big.py": '''
        """Big."""
        from functools import partial
        from ecg.mini import run
        from ecg.training import train
        class Settings:
            epochs: int = 1
            name: str = ""
            preset: str = "default"
            seed: int = 0
            overwrite: bool = False
        run(partial(train, "big", True), Settings, __doc__)
        ''',
    "11_metrics.py": '''
        """Metrics."""
        from ecg import plots
        from ecg.mini import run, write
        class Settings:
            replicates: int = 1
        def stage(data, artifacts, replicates="1"):
            found = sorted(artifacts.glob("**/predictions_test.csv"))
            write(artifacts / "final" / "metrics.csv", replicates + " ".join(f.read_text() for f in found))
            write(artifacts / "final" / "form" / "curves.png", plots.draw(len(found)))
        run(stage, Settings, __doc__)
        ''',
}
TRAINED = ("artifacts/<run><seed>/{config.json,history.png,predictions_test.csv}",)
LABELS = ("artifacts/ptbxl_train.csv", "artifacts/ptbxl_splits.json#tasks/<task>")
DATABASE = ("PTB-XL/ptbxl_database.csv", "PTB-XL/scp_statements.csv", "PTB-XL/records100/")
MINI_STAGES = (
    Stage("00_get_data.py", reads=(), writes=(*DATABASE, "PTB-XL/planted_signs.csv?")),
    Stage(
        "02_split.py",
        reads=("PTB-XL/ptbxl_database.csv", "PTB-XL/records100/", "PTB-XL/extra/?", "PTB-XL/extra.csv?"),
        writes=("artifacts/ptbxl_{train,test}.csv", "artifacts/ptbxl_splits.json"),
    ),
    Stage("05_train_small.py", LABELS, TRAINED, network=Network("small", "small", augment=False)),
    Stage("06_train_big.py", LABELS, TRAINED, network=Network("big", "big", augment=True)),
    Stage(
        "11_metrics.py",
        reads=("artifacts/**/predictions_test.csv", "artifacts/ptbxl_test.csv"),
        writes=("artifacts/final/metrics.csv", "artifacts/final/**/curves.png"),
        presents=True,
        files=("codes/ecg/page.html.j2",),
    ),
)
MINI_DEMO = ("00.demo=true",)
ALL = ["00_get_data", "02_split", "05_train_small", "06_train_big", "11_metrics"]


class Mini:
    """The miniature pipeline in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.codes, self.data, self.artifacts = folder / "codes", folder / "data", folder / "artifacts"
        self.ran: list[str] = []

    def write_scripts(self) -> None:
        for name, text in MINI.items():
            (self.codes / name).parent.mkdir(parents=True, exist_ok=True)
            (self.codes / name).write_text(dedent(text).lstrip())
        (self.codes / "ecg" / "page.html.j2").write_text("page")

    def settings(self, **settings) -> Settings:
        return Settings(**{"demo": True, "jobs": 1, "data": self.data, "artifacts": self.artifacts} | settings)

    def run(self, *, code: int = 0, **settings) -> str:
        """Return what run_all printed; afterwards `ran` has the stages that ran."""
        log = self.artifacts / "ran.txt"
        log.unlink(missing_ok=True)
        with redirect_stdout(io.StringIO()) as text:
            done = run_all(self.settings(**settings), codes=self.codes, stages=MINI_STAGES, demo=MINI_DEMO)
        self.ran = log.read_text().split() if log.exists() else []
        assert done == code, text.getvalue()
        return text.getvalue()

    def why(self, stage: str, **settings) -> str:
        """Return what a dry run says of a stage."""
        lines = self.run(dry_run=True, **settings).splitlines()
        return next(line.split(f" {stage} ")[1].strip() for line in lines if f" {stage} " in line)

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.codes / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def write(self, name: str, text: str) -> None:
        (self.artifacts / name).parent.mkdir(parents=True, exist_ok=True)
        (self.artifacts / name).write_text(text)

    def read(self, name: str) -> str:
        return (self.artifacts / name).read_text()

    def start(self) -> subprocess.Popen:
        """Run it in a process of its own, which can be killed."""
        text = f"""
            import sys
            sys.path[:0] = [{str(CODES)!r}, {str(CODES / "tests")!r}]
            from pathlib import Path, PosixPath
            from run_all import Settings, run_all
            from ecg.command_line import user_errors
            from ecg.stages import Network, Stage
            with user_errors():
                done = run_all(
                    {self.settings()!r},
                    codes=Path({str(self.codes)!r}),
                    stages={MINI_STAGES!r},
                    demo={MINI_DEMO!r},
                )
                sys.exit(done)
            """
        return subprocess.Popen([sys.executable, "-c", dedent(text)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture
def mini(tmp_path: Path) -> Mini:
    mini = Mini(tmp_path)
    mini.write_scripts()
    return mini


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mini")
    mini = Mini(folder)
    mini.write_scripts()
    mini.run()
    return folder


@pytest.fixture
def finished(run_once: Path, tmp_path: Path) -> Mini:
    """A pipeline that ran from beginning to end: a copy, dates of change and all."""
    shutil.copytree(run_once, tmp_path, dirs_exist_ok=True)
    return Mini(tmp_path)


def wait_for(path: Path, seconds: float = 60) -> str:
    deadline = time.monotonic() + seconds
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)
    return path.read_text()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# what makes a stage stale


def test_first_call_runs_every_stage_in_order_and_second_call_none(mini):
    text = mini.run()
    assert mini.ran == ALL
    assert "[1/5] 00_get_data     runs: not finished before\n        done in " in text
    text = mini.run()
    assert mini.ran == []
    assert "nothing to do: 5 of 5 stages are fresh" in text


def test_comment_docstring_blank_line_or_message_in_any_file_makes_nothing_stale(finished):
    for path in sorted(finished.codes.rglob("*.py")):
        path.write_text('"""Other words."""\n\n' + path.read_text() + "\n# a comment\n")
    finished.edit("ecg/training.py", "Refuse to write", "Decline to write")
    finished.run()
    assert finished.ran == []


@pytest.mark.parametrize(
    ("name", "old", "new", "reason", "ran"),
    [
        ("ecg/models/layers.py", "1", "2", "ecg/models/layers.py: WIDTH changed", ["05_train_small"]),
        ("ecg/models/big.py", "9", "8", "ecg/models/big.py: Big changed", ["06_train_big"]),
        ("ecg/augmentation.py", "2", "3", "ecg/augmentation.py: augment changed", ["06_train_big", "11_metrics"]),
        ("ecg/plots.py", "picture", "drawing", "ecg/plots.py: draw changed", ["11_metrics"]),
        ("06_train_big.py", "epochs: int = 1", "epochs: int = 2", "06_train_big.py changed", ["06_train_big"]),
        ("ecg/page.html.j2", "page", "table", "codes/ecg/page.html.j2 changed", ["11_metrics"]),
        ("ecg/models/__init__.py", "{", '{"mine": "ecg.models.mine:Mine",', "fresh", []),
    ],
)
def test_changed_code_makes_those_stages_stale_whose_result_it_can_change(finished, name, old, new, reason, ran):
    finished.edit(name, old, new)
    assert reason in finished.run()
    assert finished.ran == ran, "11 has nothing to do if the predictions come out the same"


def test_flag_reruns_only_what_depends_on_it(finished):
    text = finished.run(flags=("02.rule=validated",))
    assert "02_split        runs: --rule was not given, is validated" in text
    assert "05_train_small  runs: artifacts/ptbxl_train.csv changed, and 1 more" in text
    finished.run(flags=("02.rule=validated",))
    assert finished.ran == []
    assert "--replicates was not given, is 9" in finished.run(flags=("02.rule=validated", "11.replicates=9"))
    assert finished.ran == ["11_metrics"]


def test_another_task_leaves_the_runs_of_the_first_one_fresh(finished):
    finished.run(flags=("02.labels=superdiagnostic+form",))
    assert finished.ran == ["02_split"]
    finished.run(flags=("02.labels=form+superdiagnostic",))
    assert finished.ran == ["02_split", "05_train_small", "06_train_big"]


def test_file_that_a_flag_names_is_an_input(finished, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("old")
    finished.run(flags=(f"02.labels={path}",))
    path.write_text("new")
    assert finished.why("02_split", flags=(f"02.labels={path}",)).endswith("mine.csv changed")


def test_missing_output_is_a_reason(finished):
    (finished.artifacts / "small_standard" / "predictions_test.csv").unlink()
    assert "runs: artifacts/small_standard/predictions_test.csv is missing" in finished.run()
    (finished.artifacts / "final" / "form" / "curves.png").unlink()
    assert "runs: artifacts/final/form/curves.png is missing" in finished.run()


def test_output_of_a_script_run_by_hand_is_not_taken_for_this_one(finished):
    script, folders = finished.codes / "06_train_big.py", ["--data", finished.data, "--artifacts", finished.artifacts]
    subprocess.run([sys.executable, script, *folders], check=True)
    finished.run()
    assert finished.ran == [], "the same bytes again"
    subprocess.run([sys.executable, script, *folders, "--epochs", "20", "--overwrite"], check=True)
    text = finished.run(code=1)
    assert "06_train_big    runs: artifacts/big_augmented/config.json was changed by another run" in text
    assert "a run with other settings is there" in text, "it is not run_all's to replace"


def test_optional_input_may_be_absent_and_is_noticed_when_it_comes_changes_and_goes(finished):
    (finished.data / "extra.csv").write_text("1")
    assert "02_split        runs: PTB-XL/extra.csv is new" in finished.run()
    (finished.data / "extra").mkdir()
    assert "02_split        runs: PTB-XL/extra is new" in finished.run()
    (finished.data / "extra" / "1.dat").write_text("1")
    assert "02_split        runs: PTB-XL/extra changed" in finished.run()
    (finished.data / "extra.csv").unlink()
    assert "02_split        runs: PTB-XL/extra.csv is no longer used" in finished.run()
    finished.run()
    assert finished.ran == []


def test_record_changed_in_place_is_noticed(finished):
    (finished.data / "records100" / "00000" / "1.dat").write_text("damaged")
    assert "02_split        runs: PTB-XL/records100 changed" in finished.run()
    assert finished.ran == ["02_split"]


def test_same_content_with_another_date_is_fresh_and_noted(finished):
    for path in [*finished.codes.rglob("*.py"), *finished.artifacts.rglob("*.csv")]:
        os.utime(path, (1, 1))
    finished.run()
    assert finished.ran == []
    files = json.loads(finished.read(".run_all.json"))["jobs"]["11_metrics"]["files"]
    assert files["artifacts/ptbxl_test.csv"][1] == 1e9, "so that the next call need not read it again"


def test_model_trained_by_the_user_is_noticed(finished):
    finished.write("mine/predictions_test.csv", "mine")
    assert "artifacts/mine/predictions_test.csv is new" in finished.run()
    assert finished.ran == ["11_metrics"]


def test_code_edited_while_its_stage_runs_is_stale_afterwards(mini):
    hook = "import ecg.plots\nopen(ecg.plots.__file__, 'a').write('def draw(x): return 1\\n')\n"
    mini.edit("11_metrics.py", "from ecg import plots\n", f"from ecg import plots\n{hook}")
    mini.run()
    assert "ecg/plots.py: draw changed" in mini.why("11_metrics")


def test_record_of_an_older_version_makes_everything_stale_and_is_replaced(finished):
    finished.write(".run_all.json", json.dumps({"02_split": {"flags": {}, "files": {}, "made": {}}}))
    assert finished.run().count("runs: its record is of an older version of run_all.py") == 5
    finished.run()
    assert finished.ran == []


@pytest.mark.parametrize("text", ["{", "[]"])
def test_damaged_record_of_runs_says_what_to_do(finished, text):
    finished.write(".run_all.json", text)
    with pytest.raises(UserError, match="is damaged: delete it"):
        finished.run()


def test_dry_run_says_what_would_run_and_runs_nothing(mini):
    text = mini.run(dry_run=True)
    assert text.count("would run: not finished before") == 5
    assert not mini.artifacts.exists()
    assert not mini.data.exists()
    mini.run()
    text = mini.run(dry_run=True, flags=("02.rule=validated",))
    assert "02_split        would run: --rule was not given, is validated" in text
    assert "05_train_small  would run: reads what 02_split writes" in text
    assert text.count("fresh\n") == 1
    assert mini.ran == []


# which stages, as which runs


def test_from_runs_that_stage_and_what_follows_from_it(finished):
    finished.edit("02_split.py", "folds", "fold")
    assert "[1/3] 05_train_small  runs: --from 5" in finished.run(start="5")
    assert finished.ran == ["05_train_small"]


def test_only_runs_these_fresh_or_not(finished):
    assert "[1/2] 06_train_big  runs: --only" in finished.run(only=("11_metrics.py", "06"))
    assert finished.ran == ["06_train_big", "11_metrics"]


def test_metrics_take_the_models_that_are_there(mini):
    mini.run(only=("00", "02", "06"))
    mini.run(only=("11",))
    assert mini.ran == ["11_metrics"]
    assert "11_metrics      runs: artifacts/small_standard/predictions_test.csv is new" in mini.run()


def test_each_seed_is_a_run_of_its_own(finished):
    text = finished.run(seeds=(0, 1, 2))
    assert "[3/9] 05_train_small (seed 0)  fresh" in text
    assert "[4/9] 05_train_small (seed 1)  runs: not finished before" in text
    seeds = [f"{name}_seed{n}" for name in ("05_train_small", "06_train_big") for n in (1, 2)]
    assert finished.ran == [*seeds, "11_metrics"]
    assert finished.read("small_standard/seed2/predictions_test.csv") == "1 1 2"
    assert (finished.artifacts / "logs" / "05_train_small_seed1.log").exists()
    finished.run()
    assert finished.ran == [], "the other seeds are still there, so nothing changed for 11"


def test_named_run_is_trained_beside_the_one_without_a_name(finished):
    before = finished.read("small_standard/predictions_test.csv")
    finished.run(only=("05",), name="narrow", flags=("05.epochs=7",), seeds=(0, 1))
    assert finished.ran == ["05_train_small@narrow", "05_train_small@narrow_seed1"]
    assert finished.read("narrow/predictions_test.csv") == "1 7 0"
    assert finished.read("narrow/seed1/predictions_test.csv") == "1 7 1"
    assert finished.read("small_standard/predictions_test.csv") == before
    assert (finished.artifacts / "logs" / "05_train_small@narrow.log").exists()
    assert "11_metrics      runs: artifacts/narrow/predictions_test.csv is new" in finished.run()
    assert finished.ran == ["11_metrics"], "the run without a name stays fresh"


def test_preset_is_a_run_of_its_own_too(finished):
    finished.run(flags=("05.preset=fast",))
    assert finished.ran == ["05_train_small", "11_metrics"]
    assert finished.read("small_fast_standard/predictions_test.csv") == "1 1 0"
    finished.run()
    assert finished.ran == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"only": ("07",)}, "no stage '07'; there are 00_get_data, 02_split, 05_train_small"),
        ({"start": "train"}, "no stage 'train'"),
        ({"flags": ("12.epochs=3",)}, "no stage '12'"),
        ({"flags": ("05.epoch=3",)}, "05_train_small has no flag epoch; did you mean epochs?"),
        ({"flags": ("05.seed=3",)}, "use --seeds"),
        ({"flags": ("02.data=x",)}, "use --data"),
        ({"flags": ("05.epochs",)}, "write STAGE.FLAG=VALUE"),
        ({"flags": ("02.strict=yes",)}, "it is true or false"),
        ({"flags": ("02.rule='0.5 30",)}, "--set 02.rule='0.5 30: No closing quotation"),
        ({"flags": ("02.labels=nowhere.csv",)}, "02_split.py needs .*nowhere.csv, which no stage writes"),
        ({"seeds": (1,)}, "--seeds needs 0 among them"),
        ({"start": "05", "only": ("05",)}, "use one of them"),
        ({"jobs": 0}, "--jobs must be at least 1"),
        ({"name": "narrow"}, "choose one training"),
        ({"name": "narrow", "only": ("11",)}, "choose one training"),
        ({"name": "narrow", "only": ("05", "06")}, "choose one training"),
        ({"name": "../narrow", "only": ("05",)}, "--name ../narrow"),
        ({"name": "final_results", "only": ("05",)}, "is for something else"),
        ({"name": "big_augmented", "only": ("05",)}, "would both write artifacts/big_augmented/config.json"),
        ({"only": ("11",)}, r"11_metrics.py needs .*ptbxl_test.csv: run codes/02_split.py first"),
        ({"only": ("02",)}, r"02_split.py needs .*ptbxl_database.csv: run codes/00_get_data.py first"),
    ],
)
def test_whatever_is_misspelt_or_missing_is_an_error_before_anything_runs(mini, settings, message):
    with pytest.raises(UserError, match=message):
        mini.run(**settings)
    assert not mini.artifacts.exists()


def test_numbered_script_without_a_line_in_the_table_is_an_error(mini):
    (mini.codes / "15_mine.py").write_text("")
    with pytest.raises(UserError, match=r"15_mine.py is no stage yet: add a line to STAGES"):
        mini.run()


def test_syntax_error_names_file_and_line_before_anything_runs(mini):
    mini.edit("11_metrics.py", "from ecg.mini", "def stage(:\nfrom ecg.mini")
    with pytest.raises(UserError, match=r"11_metrics\.py, line 3: .*: correct it and rerun"):
        mini.run(dry_run=True)


# runs that are replaced, and runs that are not


def test_run_that_run_all_made_is_replaced_when_a_default_has_changed(finished):
    finished.edit("ecg/training.py", 'EPOCHS = "1"', 'EPOCHS = "2"')
    finished.run()
    assert finished.ran == ["05_train_small", "06_train_big", "11_metrics"]
    assert finished.read("small_standard/predictions_test.csv") == "1 2 0"


def test_run_is_not_replaced_if_the_difference_was_typed(finished):
    for settings in ({"flags": ("05.epochs=3",)}, {"flags": ("05.epochs=3",)}):
        assert "a run with other settings is there" in finished.run(code=1, **settings)
    assert finished.read("small_standard/predictions_test.csv") == "1 1 0"
    finished.run()
    assert finished.ran == [], "being refused changed nothing"
    finished.run(flags=("05.epochs=3", "05.overwrite=true"))
    assert finished.read("small_standard/predictions_test.csv") == "1 3 0"
    assert finished.why("05_train_small", flags=("05.epochs=3",)) == "fresh", "--overwrite changes no result"
    assert "a run with other settings is there" in finished.run(code=1)
    assert finished.read("small_standard/predictions_test.csv") == "1 3 0"


def test_settings_of_the_demo_do_not_count_as_typed(finished, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "MINI_DEMO", (*MINI_DEMO, "05.epochs=4"))
    finished.run()
    assert finished.read("small_standard/predictions_test.csv") == "1 4 0"


def test_typed_flag_of_an_earlier_stage_counts_too(finished):
    finished.edit("ecg/training.py", 'EPOCHS = "1"', 'EPOCHS = "2"')
    assert "a run with other settings is there" in finished.run(code=1, flags=("02.rule=validated",))


def test_run_in_git_is_never_replaced_but_trained_again_with_equal_settings(finished):
    for words in (["init", "--quiet"], ["add", "small_standard/config.json"]):
        subprocess.run(["git", *words], cwd=finished.artifacts, check=True)
    (finished.artifacts / ".run_all.json").unlink()
    finished.run()
    assert finished.ran == ALL, "nothing is known of how they were made"
    finished.edit("ecg/training.py", 'EPOCHS = "1"', 'EPOCHS = "2"')
    assert "a run with other settings is there" in finished.run(code=1)
    assert finished.read("small_standard/predictions_test.csv") == "1 1 0"


def test_without_git_on_the_machine_runs_are_replaced(finished, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    finished.edit("ecg/training.py", 'EPOCHS = "1"', 'EPOCHS = "2"')
    finished.run()
    assert finished.read("small_standard/predictions_test.csv") == "1 2 0"


def test_run_of_somebody_else_is_not_replaced(mini):
    mini.write("small_standard/config.json", '{"epochs": "5"}')
    for _ in range(2):
        assert "a run with other settings is there" in mini.run(code=1)
    assert mini.read("small_standard/config.json") == '{"epochs": "5"}'


# data


@pytest.mark.parametrize("demo", [True, False])
def test_real_data_is_never_touched(mini, demo):
    for name in ("ptbxl_database.csv", "scp_statements.csv", "records100/1.dat"):
        (mini.data / name).parent.mkdir(parents=True, exist_ok=True)
        (mini.data / name).write_text("real")
    text = mini.run(demo=demo)
    assert "00_get_data     fresh" in text
    assert mini.ran == ALL[1:]
    assert not (mini.data / "planted_signs.csv").exists()


def test_download_is_announced(mini):
    assert mini.run(demo=False).startswith(f"{mini.data} holds no PTB-XL: stage 00 downloads it from PhysioNet, 1.7 GB")


# processes


def test_failure_names_stage_and_log_stops_and_next_call_goes_on(mini):
    mini.edit("ecg/training.py", "x = augment", "raise ValueError('no gradient'); x = augment")
    text = mini.run(code=1)
    log = mini.artifacts / "logs" / "05_train_small.log"
    assert "exit code 1" in text and str(log) in text
    assert "| ValueError: no gradient" in text
    assert log.read_text().startswith(f"$ {sys.executable} {mini.codes / '05_train_small.py'} --data ")
    assert mini.ran == ALL[:3]
    mini.edit("ecg/training.py", "raise ValueError('no gradient'); ", "")
    mini.run()
    assert mini.ran == ALL[2:]


def test_stage_that_does_not_write_what_it_declares_has_failed(mini):
    mini.edit("11_metrics.py", '"metrics.csv"', '"matrix.csv"')
    assert f"did not write {mini.artifacts / 'final' / 'metrics.csv'}" in mini.run(code=1)


def test_independent_stages_run_at_the_same_time_and_share_the_cores(mini, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    meet = """import os, time
    (artifacts / net).write_text(os.environ['OMP_NUM_THREADS'])
    while not (artifacts / {"small": "big", "big": "small"}[net]).exists(): time.sleep(0.01)
    """
    mini.edit("ecg/training.py", "standard = ", meet + "standard = ")
    mini.run(jobs=2)  # would wait for ever if one had to end first
    assert sorted(mini.ran) == ALL
    assert int(mini.read("small")) == max(1, cores() // 2)


HANG = """import os, time
    from filelock import FileLock
    lock = FileLock(os.environ["ECG_STAGE_LOCK"]).acquire()
    write(artifacts / 'pid', str(os.getpid()))
    write(artifacts / 'small_standard' / 'history.png', '')
    time.sleep(600)
    """


@pytest.fixture
def hanging(mini: Mini) -> Mini:
    mini.edit("ecg/training.py", "standard = ", HANG + "standard = ")
    return mini


def test_kill_in_the_middle_keeps_what_was_finished(hanging):
    process = hanging.start()
    child = int(wait_for(hanging.artifacts / "pid"))
    process.kill()
    process.wait()
    with pytest.raises(UserError, match=r"05_train_small, started by a run_all.py that was killed, is still at work"):
        hanging.run()
    os.kill(child, signal.SIGKILL)
    while is_alive(child):
        time.sleep(0.01)
    hanging.edit("ecg/training.py", HANG, "")
    hanging.run()
    assert hanging.ran == ALL[2:]


def test_kill_while_outputs_are_written_again_leaves_the_stage_stale(finished):
    finished.edit("ecg/training.py", "standard = ", HANG + "standard = ")
    process = finished.start()
    child = int(wait_for(finished.artifacts / "pid"))
    process.kill()
    process.wait()
    os.killpg(child, signal.SIGKILL)
    while is_alive(child):
        time.sleep(0.01)
    finished.edit("ecg/training.py", HANG, "")  # every input as at the run that was finished
    assert "05_train_small  runs: not finished before" in finished.run()


def test_only_one_run_all_at_a_time_works_in_a_folder(finished):
    with FileLock(finished.artifacts / ".run_all.lock"), pytest.raises(UserError, match=r"another run_all.py"):
        finished.run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_stages_too(hanging, number):
    process = hanging.start()
    child = int(wait_for(hanging.artifacts / "pid"))
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert b"Traceback" not in output
    assert not is_alive(child)


def test_stage_holds_the_lock_of_run_all_while_it_runs(tmp_path, monkeypatch, capsys):
    path = tmp_path / "stage.lock"
    seen = []

    def stage(**folders: Path) -> None:
        with pytest.raises(Timeout):
            FileLock(path, timeout=0).acquire()
        seen.append("ECG_STAGE_LOCK" in os.environ)

    monkeypatch.setattr(sys, "argv", ["05_train_resnet1d.py"])
    monkeypatch.setenv("ECG_STAGE_LOCK", str(path))
    run(stage, Folders, "Text.\n\nRun: it")
    assert seen == [False], "what the stage starts has no part in it"
    monkeypatch.setenv("ECG_STAGE_LOCK", str(path))
    with FileLock(path), pytest.raises(SystemExit):
        run(stage, Folders, "Text.\n\nRun: it")
    assert "at work already" in capsys.readouterr().err


def test_nothing_needs_posix():
    """Every module and script is imported where fcntl, resource and the POSIX-only names of os and signal are not."""
    block = f"""
        import importlib, os, runpy, signal, sys
        import numpy, pandas, scipy, sklearn, torch, matplotlib.pyplot  # may use what they like
        from pathlib import Path
        for name in ("fcntl", "resource", "pwd", "grp", "termios"):
            sys.modules[name] = None
        for name in ("killpg", "fork", "forkpty", "getpgid", "setpgid", "setsid", "sched_getaffinity", "getuid"):
            if hasattr(os, name):
                delattr(os, name)
        for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM", "alarm", "setitimer"):
            delattr(signal, name)
        codes = Path({str(CODES)!r})
        sys.path.insert(0, str(codes))
        for path in sorted((codes / "ecg").rglob("*.py")):
            name = ".".join(path.relative_to(codes).with_suffix("").parts).removesuffix(".__init__")
            importlib.import_module(name)
        for path in [*sorted(codes.glob("*.py")), *sorted((codes / "benchmarks").glob("*.py"))]:
            runpy.run_path(str(path))
        """
    done = subprocess.run([sys.executable, "-c", dedent(block)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_run_all_answers_without_importing_what_only_stages_need():
    ask = "import sys, run_all; print(sorted({'torch', 'numpy', 'pandas', 'scipy'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", ask], cwd=CODES, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_flags_are_written_as_on_a_command_line():
    flags = {"epochs": "3", "strict": True, "lr_finder": False, "band": "0.5 40", "name": "'my net'"}
    words = ["--epochs", "3", "--strict", "--no-lr-finder", "--band", "0.5", "40", "--name", "my net"]
    assert command_line(flags) == words


# the real stages


def test_every_numbered_script_is_declared_once():
    scripts = sorted(path.name for path in CODES.iterdir() if path.name[:2].isdigit())
    assert sorted(stage.script for stage in STAGES) == scripts


def test_every_file_is_written_by_one_stage_and_read_by_later_ones(tmp_path):
    writer: dict[str, str] = {}
    for job in make_jobs(STAGES, tmp_path, chosen=STAGES, seeds=(0, 1), flags={}, typed={}):
        for each in job.reads:
            found = [path for path in writer if each.matches(path)]
            patterns = [path for path in writer if "*" in path and path.rpartition(".")[2] in each.path]
            assert found or patterns or each.optional, f"{job.name} reads {each.path}, which no earlier stage writes"
            assert {writer[path] for path in found} <= set(job.after)
        for each in job.writes:
            assert each.path not in writer, f"{job.name} and {writer[each.path]} both write {each.path}"
            writer[each.path] = job.name


def test_interpretability_reads_the_run_that_it_explains_and_no_other(tmp_path):
    def read(flags: dict[str, str], chosen: list[str]) -> set[str]:
        stages = [stage for stage in STAGES if stage.number in chosen]
        given = {"13_interpretability": flags}
        jobs = make_jobs(STAGES, tmp_path, chosen=stages, seeds=(0,), flags=given, typed={})
        job = next(job for job in jobs if job.stage.number == "13")
        return {each.path for each in job.reads if each.path.endswith("best.pt")}

    assert read({}, ["05", "06", "13"]) == {"artifacts/resnet_standard/best.pt"}
    assert read({"run": "narrow/seed1"}, ["13"]) == {"artifacts/narrow/seed1/best.pt"}
    assert read({}, ["13"]) == {"artifacts/**/best.pt"}, "the first network that is there"
    (tmp_path / "resnet_standard").mkdir()
    (tmp_path / "resnet_standard" / "config.json").write_text("{}")
    assert read({}, ["13"]) == {"artifacts/resnet_standard/best.pt"}


def test_scripts_train_what_the_table_says():
    for stage in STAGES:
        if stage.network:
            source = (CODES / stage.script).read_text(encoding="utf-8")
            assert f'model="{stage.network.model}"' in source
            assert f"augment: bool = {stage.network.augment}" in source
        if stage.names_run:
            assert {"name", "labels", "seed"} <= find_flags(CODES / stage.script, CODES).keys()


def test_demo_settings_name_real_stages_and_flags(tmp_path):
    settings = Settings(demo=True, data=tmp_path / "d", artifacts=tmp_path / "a", dry_run=True)
    assert run_all(settings, demo=DEMO) == 0
    assert not any(tmp_path.iterdir())


def test_run_is_named_after_what_tells_it_apart():
    plain = {"augment": False, "preset": "default", "labels": "", "name": ""}
    assert run_name("resnet", **plain) == "resnet_standard"
    assert run_name("xresnet", **plain | {"preset": "fast", "labels": "form"}) == "xresnet_fast_standard_form"
    assert run_name("resnet", **plain | {"augment": True}) == "resnet_augmented"
    assert run_name("resnet", **plain | {"name": "narrow", "preset": "fast"}) == "narrow"
    for name in ("a/b", "..", "signals", "ensemble", "ensemble_form", "seed1", "with space"):
        with pytest.raises(UserError, match="--name"):
            run_name("resnet", **plain | {"name": name})


def test_maker_of_a_file_follows_from_the_declarations_and_from_config_json(tmp_path):
    def trained(folder: str, model: str, augment: bool) -> None:
        (tmp_path / folder).mkdir(parents=True)
        config = {"model": model, "settings": {"augment": augment}}
        (tmp_path / folder / "config.json").write_text(json.dumps(config))

    trained("narrow/seed1", "resnet1d", False)
    trained("noisy", "inception", True)
    expected = {
        "ptbxl_val.csv": "02_split.py",
        "signals/meta.json": "03_preprocess.py",
        "baseline/naive/config.json": "04_train_baseline_ml.py",
        "baseline_form/random_forest/model.skops": "04_train_baseline_ml.py",
        "resnet_standard/best.pt": "05_train_resnet1d.py",
        "resnet_standard/seed2/best.pt": "05_train_resnet1d.py",
        "narrow/seed1/predictions_val.npy": "05_train_resnet1d.py",
        "noisy/history.csv": "08_train_inception_augmented.py",
        "xresnet_augmented/lr_finder.png": "10_train_xresnet1d_augmented.py",
        "eda_plots/01_eda.html": "01_eda.ipynb",
        "eda_plots/example_MI.png": "01_eda.ipynb",
        "ensemble_form/config.json": "11_plots_and_metrics.py",
        "final_results/metrics.csv": "11_plots_and_metrics.py",
        "final_results/form/roc_curves.png": "11_plots_and_metrics.py",
        "final_results/confusion_matrix_baseline_naive.csv": "12_conf_matrix_and_stat_test.py",
        "interpretability_results/example_MI_saliency_1.png": "13_interpretability.py",
        "final_results/report.html": "14_report.py",
    }
    for path, script in expected.items():
        assert maker_of(path, tmp_path).script == script, path
    for path in ("LOG.md", "mine/config.json", "eda_plots/mine.html", "narrow/seed1/notes.txt"):
        assert maker_of(path, tmp_path) is None, path


def test_demo_runs_every_stage_and_a_second_call_finds_all_fresh(demo: Demo):
    assert demo.output.count(" runs: not finished before\n") == len(STAGES)
    second = subprocess.run(demo.command, capture_output=True, text=True)
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count(" fresh\n") == len(STAGES), second.stdout


NETWORKS = [f"{net}_{kind}" for net in ("resnet", "inception", "xresnet") for kind in ("standard", "augmented")]
RUN_FILES = ["config.json", "history.csv", "history.png", "best.pt", "last.pt", "metrics.csv"]
RUN_FILES += [f"predictions_{split}.{kind}" for split in ("val", "test") for kind in ("csv", "npy")]


def test_demo_leaves_every_artifact_of_the_layout(demo: Demo):
    expected = [f"ptbxl_{split}.csv" for split in ("train", "val", "test")]
    expected += [f"signals/{name}" for name in ("signals.npy", "records.csv", "rejected.csv", "meta.json")]
    expected += [f"{run}/{file}" for run in NETWORKS for file in RUN_FILES]
    expected += ["xresnet_augmented/lr_finder.csv", "xresnet_augmented/lr_finder.png"]
    expected += [f"final_results/{name}" for name in ("metrics.csv", "final_metrics_report.csv", "pairwise.csv")]
    expected += ["final_results/report.html", "README.md", "eda_plots/01_eda.html"]
    assert [name for name in expected if not (demo.artifacts / name).is_file()] == []
    for folder in ("baseline", "interpretability_results", "eda_plots"):
        assert any((demo.artifacts / folder).iterdir()), folder
    hidden = {path.name for path in demo.artifacts.rglob(".*")}
    assert hidden <= {".run_all.json", ".run_all.lock"}, "no temporary file stays"


def test_demo_tables_have_the_columns_of_the_contracts(demo: Demo):
    split = "ecg_id patient_id age sex strat_fold validated_by_human filename_lr filename_hr NORM MI STTC CD HYP label"
    predictions = "ecg_id NORM MI STTC CD HYP"
    pairwise = {"run_a", "run_b", "task", "view", "label", "n", "b", "c", "p_mcnemar", "p_holm"}
    pairwise |= {"auc_a", "auc_b", "diff", "ci_low", "ci_high", "p_delong", "p_delong_holm", "classes"}
    metrics = {"run", "task", "split", "view", "label", "metric", "value", "ci_low", "ci_high", "n", "classes"}
    assert pairwise <= set(pd.read_csv(demo.artifacts / "final_results" / "pairwise.csv", nrows=1))
    assert metrics <= set(pd.read_csv(demo.artifacts / "final_results" / "metrics.csv", nrows=1))
    assert " ".join(pd.read_csv(demo.artifacts / "ptbxl_test.csv", nrows=1)) == split
    paths = sorted(demo.artifacts.rglob("predictions_*.csv"))
    assert len(paths) >= 2 * len(NETWORKS)
    for path in paths:
        assert " ".join(pd.read_csv(path, nrows=1)) == predictions, path
