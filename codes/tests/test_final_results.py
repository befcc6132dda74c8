"""11 and 12 from fake predictions: the tables say what was planted."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_rgba
from scipy.stats import binomtest, norm, ttest_rel
from sklearn import metrics as reference

from ecg import plots
from ecg.artifacts import UserError, read_json, write_csv, write_json
from ecg.final_results import EVALUATED, compare_runs, plots_and_metrics, read_runs
from ecg.labels import CLASSES, LEADS, SPLIT_COLUMNS, read_split, single_label
from ecg.metrics import WITHOUT_INTERVAL
from ecg.plots import ecg_paper, ink, plot_history, plot_lr_finder, save_figure
from ecg.predictions import find_runs, run_folder, write_predictions
from ecg.stats import PAIR_COLUMNS, RESULT_COLUMNS, compare_pairs, measure_runs, seed_interval

CODES = Path(__file__).resolve().parents[1]
N = 160
FIGURES = (
    *("roc_curves", "pr_curves", "calibration", "forest", "per_class_auc", "histories"),
    *("confusion_matrices", "pairwise"),
)


def write_labels(artifacts: Path) -> None:
    rng = np.random.default_rng(0)
    for first, split in ((1, "val"), (1001, "test")):
        labels = (rng.random((N, 5)) < [0.4, 0.25, 0.25, 0.2, 0.2]).astype(int)
        labels[labels.sum(axis=1) == 0, 0] = 1
        table = pd.DataFrame(labels, columns=list(CLASSES))
        table = table.assign(ecg_id=np.arange(first, first + N), patient_id=first + np.arange(N) // 2)
        for name in SPLIT_COLUMNS:
            if name not in table:
                table[name] = single_label(table[list(CLASSES)]) if name == "label" else 1
        write_csv(table[list(SPLIT_COLUMNS)], artifacts / f"ptbxl_{split}.csv")


def write_run(
    artifacts: Path,
    name: str,
    *,
    seed: int = 0,
    strength: float = 1.0,
    history: bool = False,
    task: str = "multilabel",
    **settings: object,
) -> Path:
    folder = run_folder(artifacts, name, seed)
    rng = np.random.default_rng([seed, len(name)])
    for split in ("val", "test"):
        table = pd.read_csv(artifacts / f"ptbxl_{split}.csv")
        score = strength * table[list(CLASSES)].to_numpy() + rng.normal(size=(N, 5))
        write_predictions(folder, split, table.ecg_id.to_numpy(), 1 / (1 + np.exp(-score)))
    config = {"run": name, "model": name, "task": task, "seed": seed, "classes": CLASSES, "settings": settings}
    write_json(config, folder / "config.json")
    if history:
        write_csv(fake_history(), folder / "history.csv")
    return folder


def fake_history() -> pd.DataFrame:
    columns = ("lr", "train_loss", "val_loss", "val_accuracy", "val_macro_auc", "seconds")
    return pd.DataFrame(np.random.default_rng(0).random((5, 6)), columns=columns).assign(epoch=range(1, 6))


def results(artifacts: Path, *, replicates: int = 40) -> Path:
    plots_and_metrics(data=artifacts, artifacts=artifacts, replicates=replicates, seed=0)
    return artifacts / "final_results"


def comparison(artifacts: Path, *, replicates: int = 40) -> Path:
    compare_runs(data=artifacts, artifacts=artifacts, replicates=replicates, seed=0)
    return artifacts / "final_results"


def value(table: pd.DataFrame, run: str, view: str, label: str, metric: str, split: str = "test") -> pd.Series:
    keys = {"run": run, "split": split, "view": view, "label": label, "metric": metric}
    rows = table[(table[list(keys)] == pd.Series(keys)).all(axis=1)]
    assert len(rows) == 1, keys
    return rows.iloc[0]


def tables(artifacts: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    runs = read_runs(artifacts)
    records = {split: read_split(artifacts, split) for split in EVALUATED}
    metrics = measure_runs(runs, records, replicates=40, seed=0)
    return metrics, compare_pairs(runs, records["test"], replicates=40, seed=0)


def swap_labels(path: Path) -> None:
    table = pd.read_csv(path)
    table[list(CLASSES)] = 1 - table[list(CLASSES)]
    table.to_csv(path, index=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    artifacts = tmp_path_factory.mktemp("artifacts")
    write_labels(artifacts)
    write_run(artifacts, "baseline/naive", strength=0.0)
    for seed in (0, 1):
        write_run(artifacts, "resnet_standard", seed=seed, strength=1.5, history=True)
    write_run(artifacts, "resnet_augmented", strength=2.0, history=True)
    results(artifacts)
    comparison(artifacts)
    return artifacts


def test_metrics_table_is_tidy_and_holds_scikit_learns_values(finished):
    table = pd.read_csv(finished / "final_results/metrics.csv")
    assert tuple(table.columns) == RESULT_COLUMNS
    assert not table.duplicated(["run", "split", "view", "label", "metric"]).any()
    assert set(table.label) == {*CLASSES, "macro"}
    ece = table[table.metric.isin(WITHOUT_INTERVAL)]  # noise can only raise it: an interval would lie too high
    assert ece.value.notna().all() and ece[["ci_low", "ci_high"]].isna().all(axis=None)
    others = table[~table.metric.isin(WITHOUT_INTERVAL)]
    assert others.value.between(others.ci_low, others.ci_high).mean() > 0.98
    labels = pd.read_csv(finished / "ptbxl_test.csv").set_index("ecg_id")
    probability = pd.read_csv(finished / "resnet_augmented/predictions_test.csv", index_col="ecg_id")
    y = labels.loc[probability.index, list(CLASSES)].to_numpy()
    auc = value(table, "resnet_augmented", "multilabel", "macro", "auc")
    assert auc.value == pytest.approx(reference.roc_auc_score(y, probability), abs=1e-6) and auc.n == N
    one = y.sum(axis=1) == 1
    accuracy = value(table, "resnet_augmented", "multiclass", "macro", "accuracy")
    right = reference.accuracy_score(y[one].argmax(axis=1), probability[one].to_numpy().argmax(axis=1))
    assert accuracy.value == pytest.approx(right, abs=1e-6) and accuracy.n == one.sum()


def test_mean_over_seeds_stands_under_the_bare_name_with_a_narrower_interval(finished):
    table = pd.read_csv(finished / "final_results/metrics.csv")
    single = [value(table, f"resnet_standard/seed{s}", "multilabel", "macro", "auc") for s in (0, 1)]
    mean = value(table, "resnet_standard", "multilabel", "macro", "auc")
    assert mean.value == pytest.approx(np.mean([s.value for s in single]), abs=2e-6)
    assert mean.ci_high - mean.ci_low < np.mean([s.ci_high - s.ci_low for s in single])


def test_report_has_a_row_per_model_and_seed_with_interval_and_n(finished):
    report = pd.read_csv(finished / "final_results/final_metrics_report.csv").set_index("run")
    assert list(report.index[:2]) == ["resnet_augmented", "resnet_standard"]  # best first
    assert report.seeds.to_dict()["resnet_standard"] == 2
    assert report["macro AUC"].str.fullmatch(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]").all()
    assert report["ECE"].astype(str).str.fullmatch(r"0\.\d+").all()
    assert (report.n == N).all()


def test_every_figure_is_there_and_small(finished):
    for name in FIGURES:
        size = (finished / f"final_results/{name}.png").stat().st_size
        assert 3_000 < size < 200_000, name


def test_scripts_write_exactly_the_files_their_docstrings_name(finished):
    promised = set()
    for script in ("11_plots_and_metrics.py", "12_conf_matrix_and_stat_test.py"):
        words = (CODES / script).read_text(encoding="utf-8").split("Writes:")[1].split("Run:")[0].split()
        for word in words:
            if not word.startswith("artifacts/final_results/"):
                continue  # the ensemble, which these runs do not make
            several, one, suffix = re.fullmatch(r"artifacts/final_results/(?:\{(.*)\})?(.*?)(\.\w+)", word).groups()
            promised |= {name + suffix for name in (several.split(",") if several else [one])}
    written = {path.name for path in (finished / "final_results").iterdir()}
    assert {name for name in written if not name.startswith("confusion_matrix_")} == promised


def test_predictions_are_joined_by_id_not_by_position(tmp_path):
    write_labels(tmp_path)
    folder = write_run(tmp_path, "resnet_augmented", strength=2.0)
    write_run(tmp_path, "baseline/naive", strength=0.0)
    straight = tables(tmp_path)
    for path in (*folder.glob("predictions_*.csv"), *tmp_path.glob("ptbxl_*.csv")):
        pd.read_csv(path).sample(frac=1, random_state=3).to_csv(path, index=False)
    for before, after in zip(straight, tables(tmp_path), strict=True):
        pd.testing.assert_frame_equal(before, after)


def test_thresholds_depend_on_the_validation_fold_alone(tmp_path):  # trap 13
    write_labels(tmp_path)
    write_run(tmp_path, "xresnet_standard")
    before = read_runs(tmp_path)[0].thresholds
    swap_labels(tmp_path / "ptbxl_test.csv")
    np.testing.assert_array_equal(read_runs(tmp_path)[0].thresholds, before)
    swap_labels(tmp_path / "ptbxl_val.csv")
    assert (read_runs(tmp_path)[0].thresholds != before).any()


def test_hyp_and_cd_stand_in_their_own_rows_and_columns(tmp_path):  # trap 1
    write_labels(tmp_path)
    folder = write_run(tmp_path, "inception_standard", seed=1)
    test = pd.read_csv(tmp_path / "ptbxl_test.csv")
    planted = {"NORM": "NORM", "MI": "MI", "STTC": "STTC", "CD": "HYP", "HYP": "MI"}  # true -> predicted
    answer = test.label.map(planted).fillna("NORM")
    probability = (answer.to_numpy()[:, None] == np.array(["NORM", "MI", "STTC", "CD", "HYP"])) * 0.9
    write_predictions(folder, "test", test.ecg_id.to_numpy(), probability)
    path = comparison(tmp_path) / "confusion_matrix_inception_standard.csv"
    matrix = pd.read_csv(path, index_col="true")
    counts = test.label.value_counts()
    assert matrix.loc["CD", "HYP"] == counts["CD"] and matrix.loc["CD", "CD"] == 0
    assert matrix.loc["HYP", "MI"] == counts["HYP"] and matrix.loc["HYP", "HYP"] == 0
    assert matrix.to_numpy().sum() == test.label.notna().sum()


def test_two_identical_models_do_not_differ(tmp_path):  # trap 3
    write_labels(tmp_path)
    for name in ("resnet_augmented", "resnet_standard"):
        folder = write_run(tmp_path, name)
        for split in ("val", "test"):
            source = tmp_path / f"resnet_augmented/predictions_{split}.csv"
            (folder / source.name).write_bytes(source.read_bytes())
    pairs = tables(tmp_path)[1]
    assert (pairs[["p_mcnemar", "p_holm", "p_delong"]] == 1).all(axis=None)
    assert (pairs[["b", "c", "diff", "ci_low", "ci_high"]] == 0).all(axis=None)


def test_pairs_cover_every_label_and_count_discordant_records(finished):
    pairs = pd.read_csv(finished / "final_results/pairwise.csv")
    assert tuple(pairs.columns) == PAIR_COLUMNS
    assert (pairs.groupby(["view", "label"]).size() == 3).all() and len(pairs) == 3 * 7
    assert {*pairs.run_a, *pairs.run_b} == {"baseline/naive", "resnet_augmented", "resnet_standard"}  # no seeds
    assert pairs["diff"].between(pairs.ci_low, pairs.ci_high).all()
    assert (pairs.p_delong_holm.dropna() >= pairs.p_delong.dropna()).all()
    assert (pairs.p_holm >= pairs.p_mcnemar).all() and (pairs.b + pairs.c <= pairs.n).all()
    keys = {"run_a": "baseline/naive", "run_b": "resnet_augmented", "view": "multiclass", "label": "macro"}
    row = pairs[(pairs[list(keys)] == pd.Series(keys)).all(axis=1)].iloc[0]
    matrix = {
        name: pd.read_csv(finished / f"final_results/confusion_matrix_{name}.csv", index_col="true").to_numpy()
        for name in ("baseline_naive", "resnet_augmented")
    }
    assert row.b - row.c == np.trace(matrix["baseline_naive"]) - np.trace(matrix["resnet_augmented"])
    assert row.p_delong < 1e-4 and row.p_mcnemar < 1e-3


def test_pairs_compare_the_mean_over_seeds_that_the_metrics_table_shows(finished):
    pairs = pd.read_csv(finished / "final_results/pairwise.csv")
    metrics = pd.read_csv(finished / "final_results/metrics.csv")
    for row in pairs.itertuples():
        for name, area in ((row.run_a, row.auc_a), (row.run_b, row.auc_b)):
            assert value(metrics, name, row.view, row.label, "auc").value == pytest.approx(area, abs=1e-6), row
        assert row.diff == pytest.approx(row.auc_a - row.auc_b)


def pair_with_naive(artifacts: Path) -> pd.Series:
    pairs = tables(artifacts)[1]
    return pairs[(pairs["view"] == "multilabel") & (pairs.label == "macro")].iloc[0]


def test_mean_over_seeds_is_compared_with_the_influence_of_the_mean(tmp_path):
    write_labels(tmp_path)
    write_run(tmp_path, "baseline/naive", strength=0.9)
    write_run(tmp_path, "resnet_standard")
    alone = pair_with_naive(tmp_path)
    again = write_run(tmp_path, "resnet_standard", seed=1)
    several = pair_with_naive(tmp_path)
    errors = [abs(pair["diff"]) / norm.isf(pair.p_delong / 2) for pair in (several, alone)]
    assert 0.5 * errors[1] < errors[0] < errors[1]  # the standard error that DeLong's test used
    assert (several.b, several.c) == (alone.b, alone.c)  # McNemar's test stays with the first seed
    for split in EVALUATED:  # the same answers twice: their mean is what one seed gives
        source = tmp_path / f"resnet_standard/predictions_{split}.csv"
        (again / source.name).write_bytes(source.read_bytes())
    pd.testing.assert_series_equal(pair_with_naive(tmp_path), alone)


def test_the_interval_over_seeds_is_the_paired_t_interval():
    a, b = np.array([0.91, 0.90, 0.92, 0.93]), np.array([0.90, 0.90, 0.905, 0.91])
    expected = ttest_rel(a, b).confidence_interval()
    assert seed_interval(a, b) == pytest.approx((expected.low, expected.high))
    assert np.isnan(seed_interval(a, b[:3])).all() and np.isnan(seed_interval(a[:1], b[:1])).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 2}, r"seed1.config\.json: epochs is 2, but 40 in resnet_standard/seed0.*Only the seed"),
        ({"mixup": True}, r"seed1.config\.json: mixup is True, but None in"),
        ({"task": "multiclass"}, r"seed1.config\.json: task is multiclass, but multilabel in"),
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(tmp_path, changed, message):  # trap 7
    write_labels(tmp_path)
    write_run(tmp_path, "resnet_standard", epochs=40, device="cpu", precision="fp32")
    write_run(tmp_path, "resnet_augmented", epochs=3)  # another model may
    write_run(tmp_path, "resnet_standard", seed=1, **({"epochs": 40, "device": "cuda", "precision": "bf16"} | changed))
    with pytest.raises(UserError, match=message):
        results(tmp_path)


def test_seeds_on_other_devices_and_without_settings_are_averaged(tmp_path):
    write_labels(tmp_path)
    write_run(tmp_path, "resnet_standard", seed=1, epochs=40, device="cpu", precision="fp32")
    write_run(tmp_path, "resnet_standard", seed=2, epochs=40)
    write_run(tmp_path, "baseline/naive")
    assert [run.model for run in find_runs(tmp_path)] == ["baseline/naive", "resnet_standard", "resnet_standard"]


def test_a_model_trained_with_one_seed_only_is_in_every_table_whatever_the_seed(tmp_path):
    write_labels(tmp_path)
    write_run(tmp_path, "baseline/naive", strength=0.0)
    folder = write_run(tmp_path, "resnet_standard", seed=1, strength=2.0)
    assert [(run.name, run.folder) for run in find_runs(tmp_path)][1] == ("resnet_standard", folder)
    report = pd.read_csv(results(tmp_path) / "final_metrics_report.csv").set_index("run")
    assert list(report.index) == ["resnet_standard", "baseline/naive"] and (report.seeds == 1).all()
    pairs = pd.read_csv(comparison(tmp_path) / "pairwise.csv")
    assert {*pairs.run_a, *pairs.run_b} == {"baseline/naive", "resnet_standard"}
    write_run(tmp_path, "resnet_standard", seed=2)
    assert [run.name for run in find_runs(tmp_path)][1:] == ["resnet_standard/seed1", "resnet_standard/seed2"]


def test_a_run_whose_config_names_no_classes_is_refused(tmp_path):
    write_labels(tmp_path)
    folder = write_run(tmp_path, "my_model")
    write_json({"run": "my_model"}, folder / "config.json")
    with pytest.raises(UserError, match="classes are None"):
        find_runs(tmp_path)


def test_confusion_counts_at_the_frozen_thresholds_add_up(finished):
    counts = pd.read_csv(finished / "final_results/confusion_counts.csv")
    assert (counts[["tp", "fp", "fn", "tn"]].sum(axis=1) == N).all()
    thresholds = read_json(finished / "final_results/thresholds.json", made_by="11")
    labels = pd.read_csv(finished / "ptbxl_test.csv")
    folders = {run.name: run.folder for run in find_runs(finished)}
    for row in counts.itertuples():  # what is stored calls the records that were counted
        predicted = pd.read_csv(folders[row.run] / "predictions_test.csv")
        called = predicted[row.label].to_numpy() >= thresholds[row.run][row.label]
        truth = labels.set_index("ecg_id")[row.label].loc[predicted.ecg_id].to_numpy() == 1
        assert ((called & truth).sum(), (called & ~truth).sum()) == (row.tp, row.fp), row
        assert row.threshold == thresholds[row.run][row.label]


def test_models_with_different_records_are_compared_on_the_common_ones(tmp_path):
    write_labels(tmp_path)
    folder = write_run(tmp_path, "resnet_standard", strength=2)
    write_run(tmp_path, "resnet_augmented")
    path = folder / "predictions_test.csv"
    pd.read_csv(path).iloc[10:].to_csv(path, index=False)
    pairs = tables(tmp_path)[1]
    assert (pairs.n[pairs["view"] == "multilabel"] == N - 10).all()


def test_single_run_gives_its_matrix_alone_and_an_empty_pairwise_table(tmp_path):
    write_labels(tmp_path)
    write_run(tmp_path, "resnet_standard")
    folder = tmp_path / "final_results"
    write_csv(pd.DataFrame(), folder / "confusion_matrix_of_a_run_that_was_removed.csv")
    comparison(tmp_path)
    assert [path.name for path in folder.glob("*matrix_*")] == ["confusion_matrix_resnet_standard.csv"]
    pairs = pd.read_csv(folder / "pairwise.csv")
    assert tuple(pairs.columns) == PAIR_COLUMNS and pairs.empty
    assert (folder / "pairwise.png").exists()


def test_missing_predictions_name_the_scripts_that_make_them(tmp_path):
    with pytest.raises(UserError, match="04_train_baseline_ml"):
        results(tmp_path)
    write_labels(tmp_path)
    write_run(tmp_path, "resnet_standard")
    (tmp_path / "ptbxl_val.csv").unlink()
    with pytest.raises(UserError, match="02_split"):
        comparison(tmp_path)


@pytest.mark.parametrize("stage", [plots_and_metrics, compare_runs])
@pytest.mark.parametrize(("flag", "values"), [("--replicates", {"replicates": 0}), ("--seed", {"seed": -1})])
def test_settings_that_mean_nothing_are_refused_by_their_flag(tmp_path, stage, flag, values):
    with pytest.raises(UserError, match=rf"{flag} is -?\d, must be at least \d"):
        stage(data=tmp_path, artifacts=tmp_path, **({"replicates": 40, "seed": 0} | values))


def test_scripts_run_from_any_folder_without_torch(tmp_path):
    write_labels(tmp_path)
    write_run(tmp_path, "resnet_standard")
    code = (
        "import runpy, sys; sys.path.insert(0, sys.argv[1]); script = sys.argv[2];"
        "sys.argv = [script, '--artifacts', sys.argv[3], '--replicates', '5'];"
        "runpy.run_path(script, run_name='__main__'); assert 'torch' not in sys.modules"
    )
    script = CODES / "12_conf_matrix_and_stat_test.py"
    command = [sys.executable, "-c", code, str(CODES), str(script), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "final_results/pairwise.csv").exists()


@pytest.mark.parametrize("layout", ["12x1", "3x4"])
def test_ecg_paper_is_drawn_to_scale(layout, tmp_path):
    signal = np.zeros((len(LEADS), 1000))
    signal[1, 500] = 1.0
    figure = ecg_paper(signal, 100, layout=layout, heat=np.abs(signal), title="one beat")
    axis = figure.axes[0]
    width_mm = figure.get_size_inches()[0] * 25.4
    left, right = axis.get_xlim()
    assert right - left == pytest.approx(width_mm) and width_mm >= 250  # 10 s at 25 mm/s, a unit is a millimetre
    peak = max(np.ptp(line.get_ydata()) for line in axis.lines)
    assert peak == pytest.approx(10)  # 1 mV at 10 mm/mV
    save_figure(figure, tmp_path / "ecg.png")
    with pytest.raises(ValueError, match="12"):
        ecg_paper(signal[:3], 100)
    with pytest.raises(ValueError, match="layout"):
        ecg_paper(signal, 100, layout="6x2")


@pytest.mark.parametrize(("layout", "samples"), [("12x1", 250), ("12x1", 1000), ("3x4", 250), ("3x4", 1000)])
def test_no_name_of_a_lead_stands_on_a_trace_and_the_title_fits(layout, samples):
    signal = np.zeros((len(LEADS), samples))
    signal[:, ::20] = 2.5  # 25 mm high, wherever a name may be
    title = "a_file_with_a_name_of_many_words" * 8 + "   resnet_standard"
    figure = ecg_paper(signal, 100, layout=layout, title=title)
    figure.draw_without_rendering()
    axis = figure.axes[0]
    traces = [axis.transData.transform(line.get_xydata()) for line in axis.lines]
    names = [text for text in axis.texts if text.get_text() in LEADS]
    assert len(names) >= len(LEADS)
    for name in names:
        box = name.get_window_extent()
        assert not any(box.count_contains(trace) for trace in traces), name
        assert axis.bbox.y0 <= box.y0 and box.y1 <= axis.bbox.y1
        assert name.zorder < min(line.zorder for line in axis.lines)
    words, scale = (text.get_window_extent() for text in figure.texts)
    assert words.x0 > 0 and words.x1 < scale.x0 and scale.x1 < figure.bbox.width
    assert figure.texts[0].get_text().startswith("a_file") and figure.texts[0].get_text().endswith("resnet_standard")


def luminance(colour: tuple[float, ...]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", ["PuOr", "Blues", "viridis"])
def test_text_in_a_cell_of_any_colour_can_be_read(name):
    for colour in colormaps[name](np.linspace(0, 1, 50)):
        darker, lighter = sorted((luminance(colour), luminance(to_rgba(ink(colour)))))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5  # the least contrast of WCAG 2


def test_calibration_is_drawn_for_networks_with_an_interval_at_each_point(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.append(figure))
    rng = np.random.default_rng(0)
    probability = rng.random((200, 5))
    labels = (rng.random((200, 5)) < probability).astype(int)
    names = ("baseline/naive", "resnet_standard", "resnet_augmented", "xresnet_standard")
    plots.plot_calibration(dict.fromkeys(names, (labels, probability)), tmp_path / "calibration.png")
    axes = np.reshape(drawn[0].axes, (2, len(CLASSES)))  # two families, no baseline
    low, high = np.array([bar[:, 1] for bar in axes[0, 0].collections[0].get_segments()]).T
    share = axes[0, 0].lines[0].get_ydata()
    assert len(share) == 10 and (low < share).all() and (share <= high).all()
    first = probability[:, 0] < 0.1
    expected = binomtest(int(labels[first, 0].sum()), int(first.sum())).proportion_ci(method="wilson")
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high))
    assert axes[0, 4].get_title() == f"HYP, {labels[:, 4].sum()} of 200 positive"


def test_pairs_are_starred_by_the_test_of_the_difference_they_show_alone(finished, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.append(figure))
    pairs = pd.read_csv(finished / "final_results/pairwise.csv")
    plots.plot_pairwise(pairs.assign(p_delong_holm=1.0, p_holm=0.0), tmp_path / "pairwise.png")
    plots.plot_pairwise(pairs.assign(p_delong_holm=0.0, p_holm=1.0), tmp_path / "pairwise.png")
    none, all_ = ([text.get_text() for axis in figure.axes for text in axis.texts] for figure in drawn)
    assert not any("*" in text or "†" in text for text in none)
    assert all(text.endswith("*") for text in all_) and len(all_) == len(none) == 2 * 6


def test_training_figures_are_written(tmp_path):
    plot_history(fake_history(), tmp_path / "history.png", title="resnet_standard")
    rate = np.geomspace(1e-6, 1, 30)
    plot_lr_finder(pd.DataFrame({"lr": rate, "loss": rate + 0.5}), 3e-3, tmp_path / "lr_finder.png")
    assert {path.name for path in tmp_path.iterdir()} == {"history.png", "lr_finder.png"}
