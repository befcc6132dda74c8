"""run_all: which stages run, why, in what order; failures, kills; and the whole demo run."""

import fnmatch
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pandas as pd
import pytest
from conftest import CODES, Demo

from ecg.artifacts import UserError, cores
from ecg.stages import command_line, find_stages, make_jobs
from run_all import DEMO, Settings, run_all

MINI = {  # a pipeline of the same shape whose stages take milliseconds
    "ecg/__init__.py": "",
    "ecg/mini.py": '''
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
            with (flags["artifacts"] / "ran.txt").open("a") as file:
                seed = f"_seed{flags['seed']}" if flags.get("seed", "0") != "0" else ""
                print(Path(sys.argv[0]).stem + seed, file=file)
            stage(**flags)

        def write(path, text):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        ''',
    "ecg/layers.py": "WIDTH = 1\n",
    "ecg/net.py": "def depth():\n    from ecg import layers\n    return layers.WIDTH\n",
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
        """Splits.

        Reads:  PTB-XL/ptbxl_database.csv PTB-XL/records100/
        Writes: artifacts/ptbxl_{train,test}.csv
        """
        from ecg.mini import run, write
        class Settings:
            rule: str = "folds"
            strict: bool = False
        def stage(data, artifacts, rule="folds", strict=False):
            write(artifacts / "ptbxl_train.csv", rule)
            write(artifacts / "ptbxl_test.csv", rule)
        run(stage, Settings, __doc__)
        ''',
    "05_train_small.py": '''
        """Small.

        Reads:  artifacts/ptbxl_train.csv
        Writes: artifacts/small/{predictions_test,history}.csv
        """
        import ecg.net
        from ecg.mini import run, write
        class Settings:
            epochs: int = 1
            seed: int = 0
        def stage(data, artifacts, epochs="1", seed="0"):
            folder = artifacts / "small" if seed == "0" else artifacts / "small" / f"seed{seed}"
            write(folder / "predictions_test.csv", epochs + seed)
            write(folder / "history.csv", epochs)
        run(stage, Settings, __doc__)
        ''',
    "06_train_big.py": '''
        """Big.

        Reads:  artifacts/ptbxl_train.csv
        Writes: artifacts/big/predictions_test.csv
                artifacts/big/history.csv
        """
        from ecg.mini import run, write
        class Settings:
            epochs: int = 1
            seed: int = 0
        def stage(data, artifacts, epochs="1", seed="0"):
            folder = artifacts / "big" if seed == "0" else artifacts / "big" / f"seed{seed}"
            write(folder / "predictions_test.csv", epochs + seed)
            write(folder / "history.csv", epochs)
        run(stage, Settings, __doc__)
        ''',
    "11_metrics.py": '''
        """Metrics.

        Reads:  artifacts/**/predictions_test.csv
        Reads:  artifacts/**/history.csv artifacts/ptbxl_test.csv
        Writes: artifacts/final/metrics.csv
        """
        from ecg.mini import run, write
        class Settings:
            replicates: int = 1
        def stage(data, artifacts, replicates="1"):
            found = sorted(artifacts.glob("**/predictions_test.csv"))
            write(artifacts / "final" / "metrics.csv", replicates + " ".join(f.read_text() for f in found))
        run(stage, Settings, __doc__)
        ''',
}
MINI_DEMO = ("00.demo=true",)
ALL = ["00_get_data", "02_split", "05_train_small", "06_train_big", "11_metrics"]


class Mini:
    """The miniature pipeline in a folder of its own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture) -> None:
        self.codes, self.data, self.artifacts = folder / "codes", folder / "data", folder / "artifacts"
        self.capsys = capsys
        for name, text in MINI.items():
            (self.codes / name).parent.mkdir(parents=True, exist_ok=True)
            (self.codes / name).write_text(dedent(text).lstrip())

    def settings(self, **settings) -> Settings:
        return Settings(**{"demo": True, "data": self.data, "artifacts": self.artifacts} | settings)

    def run(self, *, code: int = 0, **settings) -> str:
        """Return what run_all printed; afterwards `ran` has the stages that ran."""
        log = self.artifacts / "ran.txt"
        log.unlink(missing_ok=True)
        self.capsys.readouterr()
        assert run_all(self.settings(**settings), codes=self.codes, demo=MINI_DEMO) == code
        self.ran = log.read_text().split() if log.exists() else []
        return self.capsys.readouterr().out

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.codes / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def start(self) -> subprocess.Popen:
        """Run it in a process of its own, which can be killed."""
        text = f"""
            import sys
            sys.path.insert(0, {str(CODES)!r})
            from pathlib import Path, PosixPath
            from run_all import Settings, run_all
            from ecg.artifacts import user_errors
            with user_errors():
                sys.exit(run_all({self.settings()!r}, codes=Path({str(self.codes)!r}), demo={MINI_DEMO!r}))
            """
        return subprocess.Popen([sys.executable, "-c", dedent(text)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture
def mini(tmp_path: Path, capsys: pytest.CaptureFixture) -> Mini:
    return Mini(tmp_path, capsys)


@pytest.fixture
def finished(mini: Mini) -> Mini:
    mini.run()
    return mini


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


def test_first_call_runs_every_stage_in_order_and_second_call_none(mini):
    text = mini.run()
    assert mini.ran == ALL
    assert "[1/5] 00_get_data     runs: not finished before\n        done in " in text
    assert text.splitlines()[-1].split()[0] == "total"
    text = mini.run()
    assert mini.ran == []
    assert text.count("fresh\n") == 5
    assert text.splitlines()[-1].startswith("nothing to do: 5 of 5 stages are fresh")


@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        ("05_train_small.py", "Small.", "Smaller.", "05_train_small  runs: codes/05_train_small.py changed"),
        ("ecg/net.py", "def depth", "def depths", "05_train_small  runs: codes/ecg/net.py changed"),
        ("ecg/layers.py", "1", "2", "05_train_small  runs: codes/ecg/layers.py changed"),
    ],
)
def test_stage_runs_again_if_its_script_or_a_module_it_imports_changed(finished, name, old, new, reason):
    finished.edit(name, old, new)
    assert reason in finished.run()
    assert finished.ran == ["05_train_small"], "the same predictions again: 11 has nothing to do"


def test_flag_reruns_only_what_depends_on_it(finished):
    text = finished.run(set=("06.epochs=3",))
    assert "06_train_big    runs: --epochs was not given, is 3" in text
    assert "11_metrics      runs: artifacts/big/history.csv changed, and 1 more" in text
    assert finished.ran == ["06_train_big", "11_metrics"]
    finished.run(set=("06.epochs=3",))
    assert finished.ran == []
    assert "--epochs was 3, is 4" in finished.run(set=("*.epochs=9", "06_train_big.epochs=4"))
    assert finished.ran == ["05_train_small", "06_train_big", "11_metrics"], "a pattern reaches every stage that has it"


def test_missing_output_is_a_reason(finished):
    (finished.artifacts / "small" / "history.csv").unlink()
    assert "runs: artifacts/small/history.csv is missing" in finished.run()


def test_output_of_a_script_run_by_hand_is_not_taken_for_this_one(finished):
    script, folders = finished.codes / "06_train_big.py", ["--data", finished.data, "--artifacts", finished.artifacts]
    subprocess.run([sys.executable, script, *folders, "--epochs", "1"], check=True)
    finished.run()
    assert finished.ran == [], "the same bytes again"
    subprocess.run([sys.executable, script, *folders, "--epochs", "20"], check=True)
    assert "06_train_big    runs: artifacts/big/predictions_test.csv was changed by another run" in finished.run()
    assert finished.ran == ["06_train_big"], "which gives 11 the same inputs again"


def test_optional_input_may_be_absent_and_is_noticed_when_it_comes_changes_and_goes(mini):
    mini.edit("02_split.py", "records100/", "records100/ PTB-XL/extra/? PTB-XL/extra.csv?")
    mini.run()
    (mini.data / "extra.csv").write_text("1")
    assert "02_split        runs: PTB-XL/extra.csv is new" in mini.run()
    (mini.data / "extra").mkdir()
    assert "02_split        runs: PTB-XL/extra is new" in mini.run()
    (mini.data / "extra" / "1.dat").write_text("1")
    assert "02_split        runs: PTB-XL/extra changed" in mini.run()
    (mini.data / "extra.csv").unlink()
    assert "02_split        runs: PTB-XL/extra.csv is no longer read" in mini.run()
    mini.run()
    assert mini.ran == []


def test_template_named_in_a_module_is_a_source(mini):
    mini.edit("ecg/net.py", "def depth", "PAGE = 'page.html.j2'\ndef depth")
    (mini.codes / "ecg" / "page.html.j2").write_text("old")
    mini.run()
    mini.edit("ecg/page.html.j2", "old", "new")
    assert "05_train_small  runs: codes/ecg/page.html.j2 changed" in mini.run()
    assert mini.ran == ["05_train_small"]


def test_record_changed_in_place_is_noticed(finished):
    (finished.data / "records100" / "00000" / "1.dat").write_text("damaged")
    assert "02_split        runs: PTB-XL/records100 changed" in finished.run()
    assert finished.ran == ["02_split"]


def test_new_import_and_model_trained_by_the_user_are_noticed(finished):
    (finished.artifacts / "mine").mkdir()
    (finished.artifacts / "mine" / "predictions_test.csv").write_text("mine")
    finished.edit("06_train_big.py", "from ecg.mini", "import ecg.net\nfrom ecg.mini")
    assert "artifacts/mine/predictions_test.csv is new" in finished.run()
    assert finished.ran == ["06_train_big", "11_metrics"]


def test_code_edited_while_its_stage_runs_is_stale_afterwards(mini):
    mini.edit("05_train_small.py", "import ecg.net", "import ecg.net\nopen(ecg.net.__file__, 'a').write('# edited')")
    mini.run()
    assert "05_train_small  runs: codes/ecg/net.py changed" in mini.run()


def test_failure_names_stage_and_log_stops_and_next_call_goes_on(mini):
    mini.edit("05_train_small.py", "write(folder", "raise ValueError('no gradient'); write(folder")
    text = mini.run(code=1)
    log = mini.artifacts / "logs" / "05_train_small.log"
    assert f"05_train_small failed: exit code 1. The end of {log}:" in text
    assert "| ValueError: no gradient" in text
    assert log.read_text().startswith(f"$ {sys.executable} {mini.codes / '05_train_small.py'} --data ")
    assert mini.ran == ALL[:3]
    mini.edit("05_train_small.py", "raise ValueError('no gradient'); ", "")
    mini.run()
    assert mini.ran == ALL[2:]


def test_stage_that_does_not_write_what_it_declares_has_failed(mini):
    mini.edit("06_train_big.py", "artifacts/big/history.csv", "artifacts/big/best.pt")
    assert f"did not write {mini.artifacts / 'big' / 'best.pt'}" in mini.run(code=1)


def test_dry_run_says_what_would_run_and_runs_nothing(mini):
    text = mini.run(dry_run=True)
    assert text.count("would run: not finished before") == 5
    assert not mini.artifacts.exists()
    assert not mini.data.exists()
    mini.run()
    text = mini.run(dry_run=True, set=("02.rule=validated",))
    assert "02_split        would run: --rule was not given, is validated" in text
    assert "05_train_small  would run: reads what 02_split writes" in text
    assert text.count("fresh\n") == 1
    assert mini.ran == []


def test_from_runs_that_stage_and_what_follows_from_it(finished):
    finished.edit("02_split.py", "Splits.", "Splits!")
    text = finished.run(start="5")
    assert "[1/3] 05_train_small  runs: --from 5" in text
    assert finished.ran == ["05_train_small"]


def test_only_runs_these_fresh_or_not(finished):
    text = finished.run(only=("11_metrics.py", "06"))
    assert "[1/2] 06_train_big  runs: --only" in text
    assert finished.ran == ["06_train_big", "11_metrics"]


def test_metrics_take_the_models_that_are_there(mini):
    mini.run(only=("00", "02", "06"))
    mini.run(only=("11",))
    assert mini.ran == ["11_metrics"]
    assert "11_metrics      runs: artifacts/small/history.csv is new, and 1 more" in mini.run()


def test_each_seed_is_a_run_of_its_own(finished):
    text = finished.run(seeds=(0, 1, 2))
    assert "[3/9] 05_train_small (seed 0)  fresh" in text
    assert "[4/9] 05_train_small (seed 1)  runs: not finished before" in text
    seeds = [f"{name}_seed{n}" for name in ("05_train_small", "06_train_big") for n in (1, 2)]
    assert finished.ran == [*seeds, "11_metrics"]
    assert (finished.artifacts / "small" / "seed2" / "predictions_test.csv").exists()
    assert (finished.artifacts / "logs" / "05_train_small_seed1.log").exists()
    finished.run()
    assert finished.ran == [], "the other seeds are still there, so nothing changed for 11"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"only": ("07",)}, "stage '07' is not known; there are 00_get_data, 02_split, 05_train_small"),
        ({"start": "train"}, "stage 'train' is not known"),
        ({"set": ("12.epochs=3",)}, "stage '12' is not known"),
        ({"set": ("05.epoch=3",)}, "05_train_small has no flag epoch; did you mean epochs?"),
        ({"set": ("05.seed=3",)}, "use --seeds"),
        ({"set": ("02.data=x",)}, "use --data"),
        ({"set": ("05.epochs",)}, "write STAGE.FLAG=VALUE"),
        ({"set": ("02.strict=yes",)}, "it is true or false"),
        ({"set": ("02.rule='0.5 30",)}, "--set 02.rule='0.5 30: No closing quotation"),
        ({"seeds": (1,)}, "--seeds needs 0 among them"),
        ({"start": "05", "only": ("05",)}, "use one of them"),
        ({"jobs": 0}, "--jobs must be at least 1"),
        ({"only": ("11",)}, r"11_metrics.py needs .*ptbxl_test.csv: run codes/02_split.py first"),
        ({"only": ("02",)}, r"02_split.py needs .*ptbxl_database.csv: run codes/00_get_data.py first"),
    ],
)
def test_whatever_is_misspelt_or_missing_is_an_error_before_anything_runs(mini, settings, message):
    with pytest.raises(UserError, match=message):
        mini.run(**settings)
    assert not mini.artifacts.exists()


def test_input_of_no_stage_is_said_to_be_one(mini):
    mini.edit("11_metrics.py", "artifacts/ptbxl_test.csv", "artifacts/mine.csv")
    with pytest.raises(UserError, match=r"11_metrics.py needs .*/mine.csv, which no stage writes"):
        mini.run()


def test_declaration_that_is_no_path_is_an_error(mini):
    mini.edit("02_split.py", "artifacts/ptbxl_", "artefacts/ptbxl_")
    with pytest.raises(UserError, match=r"Writes: 'artefacts/ptbxl_\{train,test\}.csv' is not a path below"):
        mini.run()


@pytest.mark.parametrize("line", ["def stage(:", "return 1"])
def test_syntax_error_of_a_script_names_file_and_line(mini, line):
    mini.edit("11_metrics.py", "from ecg.mini", f"{line}\nfrom ecg.mini")
    with pytest.raises(UserError, match=r"11_metrics\.py, line 7: .*: correct it and run"):
        mini.run()
    assert not mini.artifacts.exists()


def test_syntax_error_of_a_notebook_names_file_and_line(mini):
    cells = [{"cell_type": "code", "source": ["%pylab\n", "2"]}, {"cell_type": "code", "source": ["def"]}]
    (mini.codes / "01_eda.ipynb").write_text(json.dumps({"cells": cells}))
    with pytest.raises(UserError, match=r"01_eda\.ipynb, line 3 of its code cells: invalid syntax"):
        mini.run()


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
    text = mini.run(demo=False)
    assert text.startswith(f"{mini.data} holds no PTB-XL: stage 00 downloads it from PhysioNet, 1.7 GB\n")


def test_independent_stages_run_at_the_same_time_and_share_the_cores(mini, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    meet = "import os, time; (artifacts / '{0}').write_text(os.environ['OMP_NUM_THREADS'])\n    "
    meet += "while not (artifacts / '{1}').exists(): time.sleep(0.01)\n    "
    for name, mine, other in (("05_train_small.py", "a", "b"), ("06_train_big.py", "b", "a")):
        mini.edit(name, "folder = ", meet.format(mine, other) + "folder = ")
    mini.run(jobs=2)  # would wait for ever if one had to end first
    assert sorted(mini.ran) == ALL
    assert int((mini.artifacts / "a").read_text()) == max(1, cores() // 2)


HANG = "import os, time; write(artifacts / 'pid', str(os.getpid())); write(folder / 'history.csv', '')\n    "
HANG += "time.sleep(600)\n    "


def test_kill_in_the_middle_keeps_what_was_finished(mini):
    mini.edit("05_train_small.py", "write(folder", HANG + "write(folder")
    process = mini.start()
    child = int(wait_for(mini.artifacts / "pid"))
    process.kill()
    process.wait()
    with pytest.raises(UserError, match=r"another run_all.py, or a stage it left behind, is at work"):
        mini.run()
    os.kill(child, signal.SIGKILL)
    while is_alive(child):
        time.sleep(0.01)
    mini.edit("05_train_small.py", HANG, "")
    mini.run()
    assert mini.ran == ALL[2:]


def test_kill_while_outputs_are_written_again_leaves_the_stage_stale(finished):
    text = (finished.codes / "05_train_small.py").read_text()
    finished.edit("05_train_small.py", "write(folder", HANG + "write(folder")
    process = finished.start()
    child = int(wait_for(finished.artifacts / "pid"))
    process.kill()
    process.wait()
    os.killpg(child, signal.SIGKILL)
    while is_alive(child):
        time.sleep(0.01)
    (finished.codes / "05_train_small.py").write_text(text)  # every input as at the run that was finished
    assert "05_train_small  runs: not finished before" in finished.run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_stages_too(mini, number):
    mini.edit("05_train_small.py", "write(folder", HANG + "write(folder")
    process = mini.start()
    child = int(wait_for(mini.artifacts / "pid"))
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert b"Traceback" not in output
    assert not is_alive(child)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_damaged_record_of_runs_says_what_to_do(finished, text):
    (finished.artifacts / ".run_all.json").write_text(text)
    with pytest.raises(UserError, match="is damaged: delete it"):
        finished.run()


def test_flags_are_written_as_on_a_command_line():
    flags = {"epochs": "3", "strict": True, "lr_finder": False, "band": "0.5 40", "name": "'my net'"}
    words = ["--epochs", "3", "--strict", "--no-lr-finder", "--band", "0.5", "40", "--name", "my net"]
    assert command_line(flags) == words


# the real stages


def test_every_file_is_written_by_one_stage_and_read_by_later_ones():
    writer: dict[str, str] = {}
    for job in make_jobs(find_stages(CODES), seeds=(0, 1), flags={}, demo=True):
        for token in job.stage.reads:
            found = fnmatch.filter(writer, token)
            raw = token.startswith("PTB-XL/") and token not in job.stage.required  # of the real PTB-XL or the demo only
            assert found or raw, f"{job.name} reads {token}, which no earlier stage writes"
            assert {writer[path] for path in found} <= set(job.after)
        for path in job.writes:
            assert path not in writer, f"{job.name} and {writer.get(path)} both write {path}"
            writer[path] = job.name
    assert writer["artifacts/eda_plots/01_eda.html"] == "01_eda", "the notebook's page is an output too"


def test_demo_settings_name_real_stages_and_flags(tmp_path):
    settings = Settings(demo=True, data=tmp_path / "d", artifacts=tmp_path / "a", dry_run=True)
    assert run_all(settings, demo=DEMO) == 0
    assert not any(tmp_path.iterdir())


def test_all_fifteen_stages_are_there():
    names = ["00_get_data", "01_eda", "02_split", "03_preprocess", "04_train_baseline_ml", "05_train_resnet1d"]
    names += ["06_train_resnet1d_augmented", "07_train_inception", "08_train_inception_augmented", "09_train_xresnet1d"]
    names += ["10_train_xresnet1d_augmented", "11_plots_and_metrics", "12_conf_matrix_and_stat_test"]
    names += ["13_interpretability", "14_report"]
    assert [stage.name for stage in find_stages(CODES)] == names


def test_demo_runs_every_stage_and_a_second_call_finds_all_fresh_in_seconds(demo: Demo):
    stages = len(find_stages(CODES))
    assert demo.output.count(" runs: not finished before\n") == stages
    start = time.monotonic()
    second = subprocess.run(demo.command, capture_output=True, text=True)
    seconds = time.monotonic() - start
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count(" fresh\n") == stages, second.stdout
    assert seconds < 15  # 2 s on a machine that does nothing else


NETWORKS = [f"{net}_{kind}" for net in ("resnet", "inception", "xresnet") for kind in ("standard", "augmented")]
RUN_FILES = ["config.json", "history.csv", "history.png", "best.pt", "last.pt", "metrics.csv"]
RUN_FILES += [f"predictions_{split}.{kind}" for split in ("val", "test") for kind in ("csv", "npy")]


def test_demo_leaves_every_artifact_of_the_layout(demo: Demo):
    expected = [f"ptbxl_{split}.csv" for split in ("train", "val", "test")]
    expected += [f"signals/{name}" for name in ("signals.npy", "records.csv", "rejected.csv", "meta.json")]
    expected += [f"{run}/{file}" for run in NETWORKS for file in RUN_FILES]
    expected += [f"xresnet_{kind}/lr_finder.{end}" for kind in ("standard", "augmented") for end in ("csv", "png")]
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
    pairwise = "run_a run_b view label n b c p_mcnemar p_holm auc_a auc_b diff ci_low ci_high p_delong"
    pairwise += " p_delong_holm seed_low seed_high"
    columns = {"ptbxl_test.csv": split, "final_results/pairwise.csv": pairwise}
    columns["final_results/metrics.csv"] = "run split view label metric value ci_low ci_high n"
    columns |= {p.relative_to(demo.artifacts): predictions for p in demo.artifacts.rglob("predictions_*.csv")}
    assert len(columns) >= 3 + 2 * len(NETWORKS)
    for name, header in columns.items():
        assert " ".join(pd.read_csv(demo.artifacts / name, nrows=1).columns) == header, name
