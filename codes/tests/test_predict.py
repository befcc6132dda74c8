"""`predict.py` on what people bring: other rates, gains, orders of leads, folders, and files that are broken."""

import contextlib
import io
import json
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb
from conftest import share_inputs, task_of_size
from matplotlib.figure import Figure
from PIL import Image

from ecg.artifacts import UserError, read_json, write_json
from ecg.formats import RecordError
from ecg.inference import network_probability
from ecg.inputs import find_sources
from ecg.labels import read_split, read_splits
from ecg.leads import LEADS, PAGE_3X4
from ecg.models import build
from ecg.operating_points import write_operating_points
from ecg.plan import find_flags
from ecg.plots.answers import MOST_BARS, draw_answer
from ecg.recordings import Recording, lead_name, read_ecg, resample
from ecg.runs import read_config, task_of
from ecg.signals import load_signals
from ecg.stored_run import StoredRun, load_run
from ecg.tasks import Task
from predict import load_model

PREDICT = Path(__file__).resolve().parents[1] / "predict.py"
WINDOW = 250


def write_network(folder: Path, task: Task, signals: dict) -> None:
    """Leave a run folder with a network of random but decided weights."""
    torch.manual_seed(0)
    network = build("resnet1d", signals, n_classes=len(task), width=0.25)
    with torch.no_grad():
        network.body[-1][-1].weight.mul_(10)  # answers that differ from record to record
    torch.save({"weights": network.state_dict()}, _made(folder) / "best.pt")
    config = {
        "model": "resnet1d",
        "task": task.to_json(),
        "objective": "multilabel",
        "labels_sha256": "",
        "settings": {"width": 0.25},
        "signals": signals,
        "window": WINDOW,
        "temperature": 1.0,
    }
    write_json(config, folder / "config.json")


@pytest.fixture(scope="module")
def artifacts(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Preprocessed synthetic records and, as the default model, a network that was not trained."""
    folder = share_inputs(prepared, tmp_path_factory.mktemp("predict"))
    write_network(folder / "resnet_standard", read_splits(folder).first, load_signals(folder).meta)
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def record(artifacts: Path) -> pd.Series:
    return read_split(artifacts, "test").iloc[0]


def write(path: Path, signal: np.ndarray, *, fs: float = 100, leads: tuple = LEADS, unit: str = "mV", **more) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    names, n = list(leads), len(leads)
    more = {"fmt": ["16"] * n} | more
    wfdb.wrsamp(path.name, fs, [unit] * n, names, p_signal=signal.T.astype(float), write_dir=str(path.parent), **more)
    return path


@dataclass(frozen=True)
class Done:
    """What the script left: its exit code and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def run_predict(*words: object) -> Done:
    """Call the script as on a command line, but in this process, which has imported PyTorch already."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", [str(PREDICT), *map(str, words)])
        try:
            runpy.run_path(str(PREDICT), run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
    return Done(code, out.getvalue(), err.getvalue())


def test_it_is_a_script_of_its_own_that_runs_from_any_folder(
    artifacts: Path, synthetic: Path, record: pd.Series, tmp_path: Path
):
    words = [synthetic / record.filename_lr, "--artifacts", artifacts, "--format", "csv"]
    command = [sys.executable, str(PREDICT), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run_predict(*words).stdout and len(done.stdout.splitlines()) == 2


def test_a_stored_network_answers_raw_files_as_it_did_in_training(artifacts: Path, synthetic: Path):
    """From the WFDB file through our own reading and filtering, against the array that training predicts from."""
    signals, table = load_signals(artifacts), read_split(artifacts, "test").head(5)
    run = load_run(artifacts / "resnet_standard", device="cpu", precision="fp32")
    network = build("resnet1d", signals.meta, n_classes=len(run.task), width=0.25)
    network.load_state_dict(torch.load(artifacts / "resnet_standard/best.pt", weights_only=True)["weights"])
    expected = network_probability(
        network,
        signals.array,
        signals.rows(table.ecg_id.to_numpy()),
        window=WINDOW,
        objective="multilabel",
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    raw = np.stack([read_ecg(synthetic / name).signal for name in table.filename_lr])
    np.testing.assert_allclose(run.predict(raw, 100), expected, atol=1e-5)
    assert expected.std(axis=0).max() > 0.05


def test_rate_order_gain_and_unit_of_a_recording_do_not_change_the_answer(
    artifacts: Path, synthetic: Path, record: pd.Series, tmp_path: Path
):
    run = load_run(artifacts / "resnet_standard", device="cpu", precision="fp32")
    low = read_ecg(synthetic / record.filename_lr)
    high = read_ecg(synthetic / record.filename_hr)
    expected = run.predict(low.signal[None], low.fs)
    np.testing.assert_allclose(run.predict(high.signal[None], high.fs), expected, atol=0.03)

    order = np.random.default_rng(0).permutation(12)
    odd = resample(high.signal, 500, 257)[order] * 1000
    names = tuple(LEADS[i].upper() for i in order)
    gains = {"adc_gain": [0.4] * 12, "baseline": [100] * 12}
    other = read_ecg(write(tmp_path / "odd", odd, fs=257, leads=names, unit="uV", **gains))
    assert other.fs == 257 and not other.notes and not other.assumed
    np.testing.assert_allclose(run.predict(other.signal[None], 257), expected, atol=0.05)


def test_resampling_lets_nothing_above_the_new_limit_through():
    t = np.arange(5000) / 500
    tones = np.stack([np.sin(2 * np.pi * 10 * t), np.sin(2 * np.pi * 90 * t)])
    low = resample(tones, 500, 100)[:, 100:-100]
    assert low.shape == (2, 800)
    np.testing.assert_allclose(low[0], np.sin(2 * np.pi * 10 * np.arange(100, 900) / 100), atol=0.01)
    assert np.abs(low[1]).max() < 0.01


def test_a_long_recording_is_the_mean_over_its_windows_and_a_short_one_is_refused(artifacts: Path):
    run = load_run(artifacts / "resnet_standard", device="cpu", precision="fp32")
    prepared = load_signals(artifacts).array[:2]
    parts = [run.predict_microvolt(prepared[:, :, s : s + WINDOW]) for s in range(0, 751, 125)]
    np.testing.assert_allclose(run.predict_microvolt(prepared), np.mean(parts, axis=0), atol=1e-5)
    with pytest.raises(ValueError, match=r"2\.00 s long, the model needs at least 2\.5 s"):
        run.predict(np.zeros((1, 12, 1000)), 500)


def test_limb_leads_follow_from_any_two_of_them(synthetic: Path, record: pd.Series, tmp_path: Path):
    whole = read_ecg(synthetic / record.filename_lr)
    for kept in (("I", "II"), ("III", "aVF"), ("aVR", "aVL")):
        rows = [LEADS.index(lead) for lead in (*kept, *LEADS[6:])]
        partial = read_ecg(write(tmp_path / "".join(kept), whole.signal[rows], leads=(*kept, *LEADS[6:])))
        np.testing.assert_allclose(partial.signal, whole.signal, atol=0.004)
        assert f"computed from {', '.join(kept)}" in partial.notes[0]


KNOWN_AS = {
    "AVR": "aVR",
    "avl": "aVL",
    "Lead II": "II",
    "ECG_V1": "V1",
    "DIII": "III",
    "v 6": "V6",
    "Lead-I": "I",
    "I.": "I",
    "V1-REF": "V1",
    "ECG_Lead: aVF": "aVF",
    "D II": "II",
    "ekg.v2 ref": "V2",
    "MDC_ECG_LEAD_AVR": "aVR",
    "MDC_ECG_LEAD_V6": "V6",
    "MDC_ECG_LEAD_III": "III",
    "Lead I (Einthoven)": "I",
    "Lead aVL (Goldberger)": "aVL",
    "D1": "I",
    "L3": "III",
    "C1": "V1",
    "c6": "V6",
    "I-II": None,
    "I II": None,
    "V1-V2": None,
    "MLII": None,
    "resp": None,
    "V7": None,
    "C7": None,
    "D4": None,
    "ref": None,
    "": None,
}


@pytest.mark.parametrize(("name", "lead"), KNOWN_AS.items())
def test_leads_are_known_by_their_usual_names_only(name: str, lead: str | None):
    assert lead_name(name) == (lead, 1)


@pytest.mark.parametrize("name", ["-aVR", "Lead -aVR", "ECG_-aVR", "MDC_ECG_LEAD_-AVR", "-AVR"])
def test_minus_avr_is_avr_upside_down(name: str):
    assert lead_name(name) == ("aVR", -1)


def damage(folder: Path, signal: np.ndarray) -> dict[str, str]:
    """Write one broken record of each kind; return {name: what must be said about it}."""
    write(folder / "no_v3", np.delete(signal, 8, axis=0), leads=LEADS[:8] + LEADS[9:])
    write(folder / "cut_off", signal)
    (folder / "cut_off.dat").write_bytes((folder / "cut_off.dat").read_bytes()[:1200])
    write(folder / "flipped", signal)
    content = bytearray((folder / "flipped.dat").read_bytes())
    content[5000] ^= 1
    (folder / "flipped.dat").write_bytes(content)
    write(folder / "no_dat", signal)
    (folder / "no_dat.dat").unlink()
    (folder / "garbage.hea").write_bytes(b"\xff\xfe this is no header\n")
    (folder / "empty.hea").write_bytes(b"")
    write(folder / "short", signal[:, :200])
    write(folder / "celsius", signal, unit="degC")
    return {
        "no_v3": "lead V3 is missing",
        "cut_off": "cut off",
        "flipped": "checksum of lead",
        "no_dat": "no_dat.dat is missing",
        "garbage": "is not a WFDB header",
        "empty": "is empty",
        "short": "2.00 s long, the model needs at least 2.5 s",
        "celsius": "'degC'",
    }


def test_broken_records_are_named_and_the_others_are_predicted(
    artifacts: Path, synthetic: Path, record: pd.Series, tmp_path: Path
):
    signal = read_ecg(synthetic / record.filename_lr).signal
    broken = damage(tmp_path / "in", signal)
    write(tmp_path / "in" / "deeper" / "good", signal)
    flat = signal.copy()
    flat[6] = 0
    write(tmp_path / "in" / "flat", flat)
    gap = signal.copy()
    gap[7, 231:300] = np.nan
    write(tmp_path / "in" / "gap", gap)
    errors = tmp_path / "errors.csv"
    options = ("--artifacts", artifacts, "--format", "csv", "--picture", tmp_path / "pictures", "--errors", errors)
    done = run_predict(tmp_path / "in", synthetic / f"{record.filename_lr}.dat", tmp_path / "nowhere", *options)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    for name, message in (broken | {"nowhere": "there is no such file"}).items():
        assert any(f"{name}: " in line and message in line for line in done.stderr.splitlines()), (name, done.stderr)
    listed = pd.read_csv(errors)
    assert {Path(name).name for name in listed.name} == broken.keys() | {"nowhere"} and listed.reason.notna().all()

    assert done.stdout.splitlines()[0] == "record,NORM,MI,STTC,CD,HYP,warnings"
    table = pd.read_csv(io.StringIO(done.stdout), index_col="record").fillna({"warnings": ""})
    assert list(table.index) == sorted(table.index) and len(table) == 4
    warnings = table.pop("warnings")
    assert "V1" in warnings[str(tmp_path / "in/flat")] and "V1" in done.stderr
    assert "7.0 s" in warnings[str(tmp_path / "in/gap")]
    original = table.loc[str(synthetic / record.filename_lr)]
    np.testing.assert_allclose(table.loc[str(tmp_path / "in/deeper/good")], original, atol=0.02)
    drawn = sorted(path.name for path in (tmp_path / "pictures").rglob("*.png"))
    assert drawn == sorted(["good.png", "flat.png", "gap.png", f"{Path(record.filename_lr).name}.png"])


def test_one_record_gives_json_and_a_picture(artifacts: Path, synthetic: Path, record: pd.Series, tmp_path: Path):
    path = synthetic / record.filename_hr
    done = run_predict(path, "--artifacts", artifacts, "--format", "json", "--picture", tmp_path / "ecg.png")
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    assert answer["record"] == str(path) and answer["fs"] == 500 and answer["task"] == "superdiagnostic"
    assert all(0 <= p <= 1 for p in answer["probabilities"].values())
    with Image.open(tmp_path / "ecg.png") as picture:
        assert picture.width > 1000


def test_pictures_stay_in_their_folder_whatever_the_paths(
    artifacts: Path, synthetic: Path, record: pd.Series, tmp_path: Path
):
    signal = read_ecg(synthetic / record.filename_lr).signal
    for name in ("other/a", "far/a", "here/in/a"):
        write(tmp_path / name, signal)
    (tmp_path / "here/link").symlink_to(tmp_path / "far")
    here, pictures = tmp_path / "here", tmp_path / "here/pictures"
    paths = (here / "../other/a", here / "link/a", here / "in/a")
    done = run_predict(*paths, "--artifacts", artifacts, "--picture", pictures)
    assert done.returncode == 0, done.stderr
    drawn = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert drawn == {f"here/pictures/{name}.png" for name in ("other/a", "far/a", "here/in/a")}


def drawn_answer(recording: Recording, probability: np.ndarray, stored: StoredRun, *, title: str) -> Figure:
    return draw_answer(recording.signal, recording.leads, recording.fs, probability, stored, title=title)


# --- pictures and tasks -----------------------------------------------------------------------------------------------


def words_outside(figure: Figure) -> list[str]:
    """Return the words that do not lie on the page as a whole."""
    words = [*figure.texts, *figure.axes[-1].texts, *figure.axes[-1].get_yticklabels()]
    boxes = {text.get_text(): text.get_window_extent() for text in words}
    return [
        word
        for word, box in boxes.items()
        if box.x0 <= 0 or box.y0 <= 0 or box.x1 >= figure.bbox.width or box.y1 >= figure.bbox.height
    ]


@pytest.mark.parametrize("seconds", [2.5, 10])
def test_all_words_of_a_picture_are_on_the_page(artifacts: Path, synthetic: Path, record: pd.Series, seconds: float):
    stored = load_run(artifacts / "resnet_standard", device="cpu", precision="fp32")
    whole = read_ecg(synthetic / record.filename_lr)
    recording = replace(whole, signal=whole.signal[:, : round(seconds * whole.fs)])
    figure = drawn_answer(recording, np.ones(len(stored.task)), stored, title="a_long_name" * 20)
    figure.draw_without_rendering()
    paper, bars = figure.axes
    assert words_outside(figure) == []
    below = [text.get_window_extent().y1 for text in (*bars.texts, *bars.get_yticklabels())]
    assert len(below) == 2 * len(stored.task) and paper.bbox.y0 > max(below)


@pytest.mark.parametrize("n_classes", [1, 3, 12, 71])
def test_a_run_answers_with_its_own_classes_however_many(
    artifacts: Path, synthetic: Path, record: pd.Series, tmp_path: Path, n_classes: int
):
    task = task_of_size(n_classes)
    write_network(tmp_path / "mine", task, load_signals(artifacts).meta)
    done = run_predict(synthetic / record.filename_lr, "--artifacts", tmp_path, "--model", "mine", "--format", "json")
    (answer,) = json.loads(done.stdout)
    assert answer["task"] == task.name and tuple(answer["probabilities"]) == task.classes

    stored = load_run(tmp_path / "mine", device="cpu", precision="fp32")
    probability = np.random.default_rng(0).random(n_classes)
    figure = drawn_answer(read_ecg(synthetic / record.filename_lr), probability, stored, title="mine")
    figure.draw_without_rendering()
    drawn = [text.get_text() for text in figure.axes[-1].get_yticklabels()]
    expected = list(range(n_classes)) if n_classes <= MOST_BARS else np.argsort(-probability)[:MOST_BARS].tolist()
    assert drawn == [f"{task.long_names[i]} ({task.classes[i]})" for i in expected]
    shown = [float(text.get_text().rstrip("%")) / 100 for text in figure.axes[-1].texts]
    np.testing.assert_allclose(shown, probability[expected], atol=0.001)
    assert words_outside(figure) == []


def test_nothing_to_predict_is_exit_code_2(tmp_path: Path):
    done = run_predict(tmp_path)
    assert done.returncode == 2 and "no recording of a known format" in done.stderr and not done.stdout


def test_a_missing_or_damaged_model_is_an_error_that_says_what_to_do(artifacts: Path, tmp_path: Path):
    shutil.copytree(artifacts / "resnet_standard", tmp_path / "run")
    (tmp_path / "run/best.pt").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"best\.pt is damaged"):
        load_run(tmp_path / "run")
    (tmp_path / "run/best.pt").unlink()
    with pytest.raises(UserError, match=r"needs .*best\.pt: run"):
        load_run(tmp_path / "run")


def test_known_models_are_those_that_can_be_loaded(artifacts: Path, synthetic: Path, record: pd.Series, tmp_path: Path):
    shutil.copytree(artifacts / "resnet_standard", tmp_path / "resnet_standard")
    write_json({}, _made(tmp_path / "baseline/naive") / "config.json")
    (tmp_path / "baseline/naive/model.npz").touch()
    write_json({}, _made(tmp_path / "predictions_only") / "config.json")
    done = run_predict(synthetic / record.filename_lr, "--artifacts", tmp_path, "--model", "nobody")
    assert done.returncode == 2 and "there are baseline/naive, resnet_standard (--model)" in done.stderr


def test_a_run_without_its_weights_is_an_error_that_says_so(artifacts: Path, tmp_path: Path):
    shutil.copytree(artifacts / "resnet_standard", tmp_path / "resnet_standard")
    write_json({}, _made(tmp_path / "resnet_standard/seed1") / "config.json")
    for name, members in (("whole", ["resnet_standard"]), ("torn", ["resnet_standard", "resnet_standard/seed1"])):
        write_json({"members": dict.fromkeys(members, 0.5)}, _made(tmp_path / name) / "config.json")
    for model in ("resnet_standard/seed1", "torn"):
        with pytest.raises(UserError, match=r"there are resnet_standard, whole \(--model\)") as error:
            load_model(tmp_path, model, device="cpu", precision="fp32")
        assert f"the weights of {tmp_path / 'resnet_standard/seed1'} are not here: train them" in str(error.value)


def test_models_that_the_help_names_have_their_weights_in_git():
    root = PREDICT.parents[1]
    named = re.findall(r"ensemble|\w+_\w+(?:/\w+)?", find_flags(PREDICT, PREDICT.parent)["model"].help)
    done = subprocess.run(["git", "ls-files", "artifacts"], cwd=root, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("not a git repository")
    tracked = set(done.stdout.split())
    assert len(named) >= 3
    for name in named:
        assert f"artifacts/{name}/config.json" in tracked, name
        config = read_json(root / "artifacts" / name / "config.json", made_by="its script")
        for run in config.get("members", [name]):
            assert any(path.startswith((f"artifacts/{run}/best.pt", f"artifacts/{run}/model.")) for path in tracked), (
                run
            )


def test_records_are_found_once_and_in_order(synthetic: Path, record: pd.Series, tmp_path: Path):
    path = synthetic / record.filename_lr
    folder = synthetic / "records100"
    found, problems = find_sources([Path(f"{path}.hea"), folder, Path(f"{path}.dat"), path], tmp_path)
    assert [source.path for source in found] == sorted(folder.rglob("*.hea")) and not problems
    with pytest.raises(RecordError, match="no such file"):
        read_ecg(path.with_name("nobody"))


def test_the_folder_one_stands_in_is_searched(
    synthetic: Path, record: pd.Series, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir((synthetic / record.filename_lr).parent)
    found, problems = find_sources([Path()], tmp_path)
    assert Path(record.filename_lr).name in [Path(source.name).name for source in found] and not problems


# --- inputs that are odd ----------------------------------------------------------------------------------------------


@pytest.fixture
def signal(synthetic: Path, record: pd.Series) -> np.ndarray:
    """Ten seconds of a record, (12, 5000) millivolts at 500 Hz."""
    return read_ecg(synthetic / record.filename_hr).rows(LEADS)


def answers(artifacts: Path, *words: object) -> list[dict]:
    done = run_predict(*words, "--artifacts", artifacts, "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def close(first: dict, second: dict, *, within: float = 0.01) -> bool:
    return all(abs(p - second["probabilities"][name]) < within for name, p in first["probabilities"].items())


def test_padding_is_cut_off_and_that_is_said(artifacts: Path, signal: np.ndarray, tmp_path: Path):
    padded = signal.copy()
    padded[:, 1500:] = 0
    whole = write(tmp_path / "whole", signal[:, :1500], fs=500)
    both = answers(artifacts, whole, write(tmp_path / "padded", padded, fs=500))
    first, second = sorted(both, key=lambda answer: len(answer["warnings"]))
    assert close(first, second) and second["seconds"] == 3
    assert any("3.0 of its 10.0 s are used" in warning for warning in second["warnings"])


def test_a_printed_page_is_recognised_and_each_lead_is_used_in_its_own_time(
    artifacts: Path, signal: np.ndarray, tmp_path: Path
):
    page = np.zeros_like(signal)
    for i, column in enumerate(zip(*PAGE_3X4, strict=True)):
        for lead in column:
            row = LEADS.index(lead)
            page[row, 1250 * i : 1250 * (i + 1)] = signal[row, 1250 * i : 1250 * (i + 1)]
    (answer,) = answers(artifacts, write(tmp_path / "page", page, fs=500))
    assert answer["seconds"] == 2.5 and len(answer["leads"]) == 12
    assert any("a printed page" in warning for warning in answer["warnings"])


def test_what_is_no_ecg_is_refused_unless_forced(artifacts: Path, signal: np.ndarray, tmp_path: Path):
    for name, values in (("zero", signal * 0), ("thousand", signal * 1000)):
        path = write(tmp_path / name, values, fs=500, fmt=["32"] * 12)
        done = run_predict(path, "--artifacts", artifacts, "--errors", tmp_path / "errors.csv")
        assert done.returncode == 1 and "an answer would mean nothing" in done.stderr
    (answer,) = answers(artifacts, path, "--force")
    assert any("gain or unit" in warning for warning in answer["warnings"])
    (mended,) = answers(artifacts, path, "--unit", "uV")
    (whole,) = answers(artifacts, write(tmp_path / "whole", signal, fs=500))
    assert close(mended, whole)


def test_a_wrong_scale_is_warned_of_in_csv(artifacts: Path, signal: np.ndarray, tmp_path: Path):
    done = run_predict(
        write(tmp_path / "large", 8 * signal, fs=500, fmt=["32"] * 12), "--artifacts", artifacts, "--format", "csv"
    )
    table = pd.read_csv(io.StringIO(done.stdout))
    assert "gain or unit" in table.warnings[0]


def test_a_long_recording_has_a_course_over_time(artifacts: Path, signal: np.ndarray, tmp_path: Path):
    long = write(tmp_path / "long", np.tile(signal[:, ::5], 9), fs=100)
    (answer,) = answers(artifacts, long, "--course", tmp_path / "course")
    course = pd.read_csv(tmp_path / "course/long.csv")
    assert course.seconds.tolist() == list(range(0, 90, 10)) and (tmp_path / "course/long.png").exists()
    for name, p in answer["probabilities"].items():
        assert course[name].mean() == pytest.approx(p, abs=1e-4)
    (short,) = answers(artifacts, write(tmp_path / "short", signal[:, ::5], fs=100))
    assert abs(course["NORM"][4] - short["probabilities"]["NORM"]) < 0.05


def test_files_that_do_not_say_everything_are_answered_with_it_said(
    artifacts: Path, signal: np.ndarray, tmp_path: Path
):
    np.save(tmp_path / "plain.npy", (signal * 1000).T)
    done = run_predict(tmp_path / "plain.npy", "--artifacts", artifacts, "--errors", tmp_path / "errors.csv")
    assert done.returncode == 1 and "--fs" in done.stderr
    (answer,) = answers(artifacts, tmp_path / "plain.npy", "--fs", 500, "--unit", "uV")
    (whole,) = answers(artifacts, write(tmp_path / "whole", signal, fs=500))
    assert close(answer, whole)
    assert any("no names" in warning for warning in answer["warnings"])


def test_rate_intervals_and_axis_stand_beside_the_answer(artifacts: Path, signal: np.ndarray, tmp_path: Path):
    (answer,) = answers(artifacts, write(tmp_path / "whole", signal, fs=500))
    measured = answer["measurements"]
    assert 30 < measured["heart_rate"] < 200 and 40 < measured["qrs_ms"] < 250
    assert -180 <= measured["axis_degrees"] <= 180


def test_nobody_is_named_in_an_answer(artifacts: Path, signal: np.ndarray, tmp_path: Path):
    path = write(tmp_path / "somebody", signal, fs=500, comments=["name: Jane Doe", "id: 4711", "born: 1950-02-03"])
    done = run_predict(path, "--artifacts", artifacts, "--format", "json", "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for private in ("Jane", "4711", "1950"):
        assert private not in done.stdout + done.stderr + re.sub(r'data-microvolt="[^"]*"', "", page)


def test_positive_means_at_or_above_the_threshold_of_the_validation_fold(
    artifacts: Path, signal: np.ndarray, tmp_path: Path
):
    shutil.copytree(artifacts / "resnet_standard", tmp_path / "mine")
    task = task_of(read_config(tmp_path / "mine"))
    rng = np.random.default_rng(0)
    labels = pd.DataFrame(rng.integers(0, 2, (300, len(task))), columns=list(task.classes))
    write_operating_points(tmp_path / "mine", labels, (labels + rng.normal(0, 0.3, labels.shape)).clip(0, 1), task)
    path = write(tmp_path / "whole", signal, fs=500)
    (answer,) = answers(tmp_path, path, "--model", "mine", "--threshold", "sensitivity=.9")
    for name, p in answer["probabilities"].items():
        point = answer["thresholds"][name]
        assert (name in answer["positive"]) == (p >= point["threshold"]) and point["sensitivity"] >= 0.9
    done = run_predict(path, "--artifacts", tmp_path, "--model", "mine", "--threshold", "best")
    assert done.returncode == 2 and "use f1" in done.stderr


def test_embeddings_are_a_row_per_answered_record(artifacts: Path, signal: np.ndarray, tmp_path: Path):
    paths = [write(tmp_path / name, signal * scale, fs=500) for name, scale in (("a", 1), ("b", 0.9))]
    answers(artifacts, *paths, "--embeddings", tmp_path / "vectors.npy")
    vectors = np.load(tmp_path / "vectors.npy")
    assert vectors.shape[0] == 2 and vectors.shape[1] >= 8 and not np.allclose(vectors[0], vectors[1])


def test_the_reference_runs_hand_what_lacks_leads_to_the_one_trained_for_that(signal: np.ndarray, tmp_path: Path):
    reference = PREDICT.parents[1] / "artifacts"
    if not (reference / "xresnet_lead_subsets/best.pt").exists():
        pytest.skip("this checkout has no trained runs in artifacts/")
    some = write(tmp_path / "some", signal[[0, 1, 7]], fs=500, leads=("I", "II", "V2"))
    for model in ("resnet_standard", "ensemble"):
        (answer,) = answers(reference, some, "--model", model, "--force")
        assert answer["model"] == "xresnet_lead_subsets" and len(answer["leads"]) == 7
        assert any("V1, V3, V4, V5, V6 is missing: xresnet_lead_subsets answers" in text for text in answer["warnings"])
