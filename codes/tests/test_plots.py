"""Figures, read back from the Figure objects: each panel shows the class that its title names, of however many."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import task_of_size
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image
from result_tables import MODELS, matrices_of, metrics_of, pairs_of, predict
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, roc_curve

from ecg.leads import LEADS
from ecg.metrics import ENOUGH, per_class_auc
from ecg.plots import (
    COLOURS,
    ecg_paper,
    ink,
    is_baseline,
    panels,
    plot_calibration,
    plot_class_auc,
    plot_confusion,
    plot_forest,
    plot_histories,
    plot_history,
    plot_lr_finder,
    plot_pairwise,
    plot_precision_recall,
    plot_roc,
    save_figure,
    short,
)
from ecg.plots.curves import PANELS
from ecg.plots.names import model_lines
from ecg.tasks import Task

SIZES = (3, 5, 7, 12, 23, 44, 71)
each_size = pytest.mark.parametrize("n_classes", SIZES)
NETWORKS = MODELS[1:]
ABSENT = 2  # of many classes this one has no positive record


@cache
def made(n_classes: int) -> tuple[Task, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Return a task of so many classes and the predictions of four models for it."""
    task = task_of_size(n_classes)
    return task, predict(task, absent=(ABSENT,) if n_classes > 12 else ())


@cache
def roc_figure(n_classes: int) -> Figure:
    task, predictions = made(n_classes)
    return plot_roc(predictions, task)


def words(text: str) -> str:
    return " ".join(text.split())


def named_panels(figure: Figure, task: Task) -> dict[int, Axes]:
    """Return {position of the class: panel} of the panels whose title begins with the name of a class."""
    found = {}
    for axis in figure.axes:
        name = re.split(r" \(|,", words(axis.get_title()))[0]
        if name in task.classes:
            found[task.classes.index(name)] = axis
    return found


def curves(axis: Axes) -> list[np.ndarray]:
    """Return what is drawn on a panel, (2, n) each, without the diagonal of two points."""
    return [line.get_xydata().T for line in axis.lines if line.get_linestyle() != ":" or len(line.get_xdata()) > 2]


def tick_labels(axis: Axes, which: str) -> list[str]:
    return [words(label.get_text()) for label in getattr(axis, f"get_{which}ticklabels")()]


def image_of(axis: Axes) -> np.ndarray:
    return np.ma.filled(axis.images[0].get_array().astype(float), np.nan)


def texts(figure: Figure) -> str:
    found = [figure.get_suptitle(), *(axis.get_title() for axis in figure.axes)]
    return words(" ".join(found))


# --- curves ---------------------------------------------------------------------------------------------------------


@each_size
def test_each_roc_panel_shows_the_class_of_its_title(n_classes):
    task, predictions = made(n_classes)
    figure = roc_figure(n_classes)
    named = named_panels(figure, task)
    assert len(figure.axes) == len(named) + 1 <= PANELS  # and the mean
    assert len(named) == min(n_classes, PANELS - 1)
    for column, axis in named.items():
        labels = predictions["ensemble"][0][:, column]
        assert f"({labels.sum()} of {len(labels)})" in axis.get_title()
        for (across, up), (_, probability) in zip(curves(axis), predictions.values(), strict=True):
            fpr, tpr, _ = roc_curve(labels, probability[:, column])
            np.testing.assert_array_equal((across, up), (fpr, tpr))


@each_size
def test_the_mean_roc_curve_is_over_all_classes_drawn_or_not(n_classes):
    _, predictions = made(n_classes)
    axis = roc_figure(n_classes).axes[-1]
    grid = np.linspace(0, 1, 201)
    for line, (model, (labels, probability)) in zip(axis.lines, predictions.items(), strict=False):
        both = np.flatnonzero((labels.sum(axis=0) > 0) & (labels.sum(axis=0) < len(labels)))
        single = [np.interp(grid, *roc_curve(labels[:, k], probability[:, k])[:2]) for k in both]
        np.testing.assert_allclose(line.get_ydata(), np.mean(single, axis=0))
        assert line.get_label() == short(model)
    assert len(both) == n_classes - (n_classes > 12)
    expected = f"{n_classes} classes" if n_classes <= 12 else f"{n_classes - 1} of {n_classes} classes"
    assert axis.get_title() == f"mean over {expected}"


@each_size
def test_each_precision_recall_panel_has_the_average_precision_of_its_class_as_area(n_classes):
    task, predictions = made(n_classes)
    named = named_panels(plot_precision_recall(predictions, task), task)
    for column, axis in named.items():
        for (recall, precision), (labels, probability) in zip(curves(axis), predictions.values(), strict=True):
            expected = average_precision_score(labels[:, column], probability[:, column])
            assert np.trapezoid(precision, recall) == pytest.approx(expected), task.classes[column]


@pytest.mark.parametrize("n_classes", [23, 44, 71])
def test_of_many_classes_those_with_the_highest_and_lowest_auc_are_drawn(n_classes):
    task, predictions = made(n_classes)
    drawn = list(named_panels(roc_figure(n_classes), task))
    labels = predictions["ensemble"][0]
    auc = np.mean([per_class_auc(labels, probability) for _, probability in predictions.values()], axis=0)
    frequent = np.flatnonzero(labels.sum(axis=0) >= ENOUGH)
    ranked = list(frequent[np.argsort(-auc[frequent])])
    assert drawn == [*ranked[:6], *ranked[-5:]]
    assert ABSENT not in drawn


def test_few_frequent_classes_among_many_are_all_drawn():
    task = task_of_size(23)
    predictions = predict(task)
    for labels, _ in predictions.values():
        labels[:, 4:] = 0
        labels[:3, 4:] = 1  # too rare to compete
    figure = plot_roc(predictions, task)
    assert sorted(named_panels(figure, task)) == [0, 1, 2, 3]
    assert "4 of 23" in texts(figure)


@each_size
def test_each_calibration_panel_shows_the_class_of_its_title(n_classes):
    task, predictions = made(n_classes)
    figure = plot_calibration(predictions, task)
    named = named_panels(figure, task)
    assert len(named) == min(n_classes, PANELS)
    drawn = figure.axes[0].get_legend_handles_labels()[1]
    if n_classes > PANELS:  # the most frequent
        count = predictions["ensemble"][0].sum(axis=0)
        assert count[list(named)].min() >= np.delete(count, list(named)).max()
    for column, axis in named.items():
        for (mean, share), model in zip(curves(axis), drawn, strict=True):
            labels, probability = (values[:, column] for values in predictions[model])
            bins = np.minimum((probability * 10).astype(int), 9)
            filled = [k for k in range(10) if (bins == k).sum() >= 5]
            np.testing.assert_allclose(mean, [probability[bins == k].mean() for k in filled])
            np.testing.assert_allclose(share, [labels[bins == k].mean() for k in filled])


def test_calibration_of_few_classes_has_a_row_per_network_and_an_interval_at_each_point():
    task = task_of_size(5)
    predictions = predict(task, models=("baseline/naive", "resnet_standard", "resnet_augmented", "xresnet_standard"))
    figure = plot_calibration(predictions, task)
    axes = np.reshape(figure.axes, (2, 5))  # two networks, no baseline
    low, high = np.array([bar[:, 1] for bar in axes[0, 0].collections[0].get_segments()]).T
    share = axes[0, 0].lines[0].get_ydata()
    assert (low <= share).all() and (share <= high).all()
    labels, probability = (values[:, 0] for values in predictions["resnet_standard"])
    first = probability < 0.1
    expected = binomtest(int(labels[first].sum()), int(first.sum())).proportion_ci(method="wilson")
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high))


def test_no_calibration_grows_with_the_number_of_networks():
    task = task_of_size(2)
    names = tuple(f"net{i}_standard" for i in range(9))
    figure = plot_calibration(predict(task, models=names), task)
    assert len(figure.axes) == 4 * 2 and "of 9 networks" in texts(figure)


def test_long_names_of_classes_are_kept_whole():
    names = ("sinus rhythm", "atrial fibrillation or atrial flutter of whatever rate", "anything else")
    task = Task("rhythm_of_mine", names, names, tuple((name,) for name in names))
    predictions = predict(task)
    assert set(named_panels(plot_roc(predictions, task), task)) == {0, 1, 2}
    assert tick_labels(plot_confusion(matrices_of(predictions, task), task).axes[0], "y") == list(names)


# --- colours --------------------------------------------------------------------------------------------------------


def test_no_two_models_share_a_line():
    names = [f"net{i}_{kind}" for i in range(27) for kind in ("standard", "augmented")]
    lines = model_lines(names)
    assert len({(line.colour, line.pattern) for line in lines.values()}) == len(names)


def test_a_network_keeps_its_colour_when_runs_of_another_task_are_added():
    own = ["baseline/minirocket_ridge", "ensemble", "resnet_standard", "resnet_augmented", "xresnet_fast_standard"]
    others = ["baseline_all/minirocket_ridge", "ensemble_all", "resnet_standard_all", "resnet_augmented_all"]
    before, after = model_lines(own), model_lines([*own, *others])
    assert all(after[name] == before[name] for name in own)
    assert after["resnet_standard_all"].colour == after["resnet_augmented"].colour == after["resnet_standard"].colour
    assert after["ensemble_all"].colour == after["ensemble"].colour
    assert len({(line.colour, line.pattern) for line in after.values()}) == len(own) + len(others)
    assert len({line.colour for line in after.values()}) == 4


def test_standard_runs_of_the_reference_are_solid_and_of_different_colours():
    families = ("hist_gradient_boosting", "minirocket_logistic", "minirocket_ridge", "random_forest")
    names = [f"baseline/{name}" for name in families]
    names += ["ensemble", "inception_standard", "resnet_standard", "xresnet_standard"]
    lines = model_lines(names)
    assert {line.pattern for line in lines.values()} == {"-"}
    assert len({line.colour for line in lines.values()}) == len(names)
    assert [line.colour for line in lines.values()][: len(COLOURS)] == list(COLOURS)


def test_short_names_tell_the_runs_of_different_tasks_apart():
    names = ("baseline/naive", "baseline_form/naive", "trees/naive", "resnet_standard/seed1", "resnet_standard_form")
    assert [short(name) for name in names] == ["naive", "naive_form", "naive_trees", *names[3:]]
    assert [is_baseline(name) for name in names] == [True, True, True, False, False]


def luminance(colour: tuple[float, ...]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_in_a_cell_of_any_colour_can_be_read():
    for name in ("PuOr", "Blues", "viridis"):
        for colour in colormaps[name](np.linspace(0, 1, 50)):
            darker, lighter = sorted((luminance(colour), luminance(to_rgba(ink(colour)))))
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, name  # the least contrast of WCAG 2


# --- tables as figures ----------------------------------------------------------------------------------------------


@each_size
def test_each_cell_of_the_map_of_aucs_is_the_model_and_class_of_its_labels(n_classes):
    task, predictions = made(n_classes)
    metrics = metrics_of(predictions, task)
    positive = dict(zip(task.classes, predictions["ensemble"][0].sum(axis=0).tolist(), strict=True))
    axis = plot_class_auc(metrics, positive, task).axes[0]
    values, classes, models = image_of(axis), tick_labels(axis, "x"), tick_labels(axis, "y")
    if n_classes > 12:  # a row per class
        values, classes, models = values.T, models, classes
    assert sorted(models) == sorted(map(short, predictions)) and len(classes) == n_classes + 1
    runs = {short(run): run for run in predictions}
    seen = set()
    for (i, j), value in np.ndenumerate(values):
        labels, probability = predictions[runs[models[i]]]
        auc = per_class_auc(labels, probability)
        if classes[j].startswith("macro"):
            assert value == pytest.approx(np.nanmean(auc))
            assert f"{n_classes - 1} of {n_classes}" in classes[j] or n_classes <= 12
            continue
        name = classes[j].split()[0]
        assert f"{positive[name]} positive" in classes[j]
        assert value == pytest.approx(auc[task.classes.index(name)], nan_ok=True), name
        seen.add(name)
    assert seen == set(task.classes)


@each_size
def test_confusion_matrices_have_the_tasks_classes_in_order(n_classes):
    task, predictions = made(n_classes)
    matrices = matrices_of(predictions, task)
    figure = plot_confusion(matrices, task)
    runs = {short(run): run for run in matrices}
    assert 1 <= len(figure.axes) <= PANELS
    for axis in figure.axes:
        counts = matrices[runs[axis.get_title().split(" ")[0]]].to_numpy()
        assert tick_labels(axis, "x") == tick_labels(axis, "y") == list(task.classes)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        np.testing.assert_allclose(image_of(axis), share)
        assert f"{np.trace(counts) / counts.sum():.3f}" in axis.get_title()


def test_few_large_matrices_are_those_of_the_most_accurate_models():
    task, predictions = made(12)
    matrices = matrices_of(predictions, task)
    accuracy = {short(run): np.trace(m.to_numpy()) / m.to_numpy().sum() for run, m in matrices.items()}
    drawn = [axis.get_title().split(" ")[0] for axis in plot_confusion(matrices, task).axes]
    assert sorted(drawn) == sorted(sorted(accuracy, key=accuracy.get)[-2:])


@each_size
def test_forest_shows_the_macro_average_and_over_how_many_classes_it_is(n_classes):
    task, predictions = made(n_classes)
    metrics = metrics_of(predictions, task, multiclass=n_classes == 5)
    figure = plot_forest(metrics, task)
    assert len(figure.axes) == (2 if n_classes == 5 else 1)
    axis = figure.axes[0]
    macro = metrics[(metrics.label == "macro") & (metrics.metric == "auc") & (metrics["view"] == "multilabel")]
    value = macro.set_index("run").value
    assert tick_labels(axis, "y") == [short(run) for run in value.sort_values(kind="stable").index]
    dots = [float(line.get_xdata()[0]) for line in axis.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert set(np.round(dots, 6)) <= set(value.round(6)) and value.max() in dots
    expected = f"{n_classes} classes" if n_classes <= 12 else f"{n_classes - 1} of {n_classes} classes"
    assert f"macro AUC over {expected}" in axis.get_title()
    frequent = metrics[(metrics.label == "macro5") & (metrics["view"] == "multilabel")]
    if len(frequent):
        assert f"the {int(frequent.classes.iloc[0])} with at least 5 positives" in axis.get_title()
        ticks = [float(line.get_xdata()[0]) for line in axis.lines if line.get_marker() == "|"]
        assert frequent.value.max() in ticks


def test_forest_without_any_interval_has_only_dots():
    task = task_of_size(3)
    metrics = metrics_of(predict(task), task, multiclass=False).assign(ci_low=np.nan, ci_high=np.nan)
    assert all(len(line.get_xdata()) <= 1 for line in plot_forest(metrics, task).axes[0].lines)


@each_size
def test_each_cell_of_the_pairs_is_the_row_minus_the_column(n_classes):
    task, predictions = made(n_classes)
    pairs = pairs_of(metrics_of(predictions, task))
    figure = plot_pairwise(pairs, task)
    assert len(figure.axes) == 2
    for axis, view in zip(figure.axes, ("multilabel", "multiclass"), strict=True):
        of_view = pairs[pairs["view"] == view]
        label = "macro5" if (of_view.label == "macro5").any() else "macro"
        names, values = tick_labels(axis, "y"), image_of(axis)
        assert names == tick_labels(axis, "x")
        for row in of_view[of_view.label == label].itertuples():
            i, j = names.index(short(row.run_a)), names.index(short(row.run_b))
            assert values[i, j] == -values[j, i] == pytest.approx(row.diff)
        assert f"{int(of_view[of_view.label == label].classes.iloc[0])}" in axis.get_title()


def test_pairs_are_starred_by_the_test_of_the_difference_they_show_alone():
    task, predictions = made(5)
    pairs = pairs_of(metrics_of(predictions, task))
    cells = []
    for p_delong, p_mcnemar in ((1.0, 0.0), (0.0, 1.0)):
        figure = plot_pairwise(pairs.assign(p_delong_holm=p_delong, p_holm=p_mcnemar), task)
        cells.append([text.get_text() for axis in figure.axes for text in axis.texts])
    none, all_ = cells
    assert not any("*" in text for text in none) and all(text.endswith("*") for text in all_)
    assert len(all_) == len(none) == 2 * 12


def test_one_model_alone_is_said_to_have_no_pairs():
    figure = plot_pairwise(pairs_of(metrics_of({}, task_of_size(5))), task_of_size(5))
    assert "nothing to compare" in figure.axes[0].texts[0].get_text()


# --- trainings ------------------------------------------------------------------------------------------------------


def fake_history() -> pd.DataFrame:
    columns = ("lr", "train_loss", "val_loss", "val_accuracy", "val_macro_auc")
    return pd.DataFrame(np.random.default_rng(0).random((5, 5)), columns=list(columns)).assign(epoch=range(1, 6))


def test_a_history_names_its_run_and_its_best_epoch():
    history = fake_history()
    figure = plot_history(history, title="resnet_standard_form")
    best = history.epoch[history.val_macro_auc.idxmax()]
    assert "resnet_standard_form" in texts(figure) and f"epoch {best}" in texts(figure)
    np.testing.assert_array_equal(figure.axes[2].lines[0].get_ydata(), history.val_macro_auc)


def test_histories_have_a_row_per_network_and_the_other_seeds_behind():
    figure = plot_histories({"resnet_standard": [fake_history()] * 3, "narrow": [fake_history()]})
    assert len(figure.axes) == 2 * 4
    assert [figure.axes[i].get_ylabel() for i in (0, 4)] == ["resnet_standard\n(3 seeds)", "narrow\n(1 seed)"]
    assert "no network" in plot_histories({}).axes[0].texts[0].get_text()


def test_the_finders_curve_marks_the_suggestion():
    rate = np.geomspace(1e-6, 1, 30)
    axis = plot_lr_finder(pd.DataFrame({"lr": rate, "loss": rate + 0.5}), 3e-3).axes[0]
    assert axis.lines[1].get_xdata()[0] == 3e-3 and "0.003" in axis.get_legend().get_texts()[0].get_text()


# --- paper and files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["nx1", "3x4"])
def test_ecg_paper_is_drawn_to_scale(layout):
    signal = np.zeros((len(LEADS), 1000))
    signal[1, 500] = 1.0
    figure = ecg_paper(signal, 100, leads=LEADS, layout=layout, heat=np.abs(signal), title="one beat")
    axis = figure.axes[0]
    width_mm = figure.get_size_inches()[0] * 25.4
    left, right = axis.get_xlim()
    assert right - left == pytest.approx(width_mm) and width_mm >= 250  # 10 s at 25 mm/s, a unit is a millimetre
    peak = max(np.ptp(line.get_ydata()) for line in axis.lines)
    assert peak == pytest.approx(10)  # 1 mV at 10 mm/mV


def test_a_millimetre_of_the_file_is_a_millimetre(tmp_path: Path):
    figure = ecg_paper(np.zeros((2, 1000)), 100, leads=("II", "V5"))
    for dpi in (100, 120):
        save_figure(figure, tmp_path / "ecg.png", dpi=dpi)
        picture = Image.open(tmp_path / "ecg.png")
        assert picture.width / picture.info["dpi"][0] == pytest.approx(figure.get_size_inches()[0], rel=1e-3)


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path):
    for name in ("a.png", "b.png"):
        figure, axes = panels(1, 1, width=2, height=1)
        axes[0, 0].plot([1, 2, 3])
        save_figure(figure, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("leads", [("MLII",), ("II", "V1", "V5"), LEADS])
def test_ecg_paper_draws_each_lead_under_its_own_name(leads):
    signal = np.arange(1, len(leads) + 1)[:, None] * np.ones((1, 300)) / 10  # lead i is flat at (i + 1) / 10 mV
    axis = ecg_paper(signal, 100, leads=leads).axes[0]
    traces = [line for line in axis.lines if len(line.get_xdata()) == 300]
    names = [text for text in axis.texts if text.get_text() in leads]
    assert [text.get_text() for text in names] == list(leads)
    pulses = [line for line in axis.lines if len(line.get_xdata()) == 6]
    for i, (trace, pulse) in enumerate(zip(traces, pulses, strict=True)):
        above = trace.get_ydata()[0] - pulse.get_ydata()[0]
        assert above == pytest.approx(i + 1)  # mm


def test_a_page_of_3x4_finds_its_leads_by_name_and_needs_all_twelve():
    order = LEADS[::-1]
    signal = np.array([10.0 + LEADS.index(lead) for lead in order])[:, None] * np.ones((1, 400)) / 100
    axis = ecg_paper(signal, 100, leads=order, layout="3x4").axes[0]
    base = next(line.get_ydata()[0] for line in axis.lines if len(line.get_xdata()) == 6)
    first_row = [line.get_ydata()[0] - base for line in axis.lines if len(line.get_xdata()) == 100][:4]
    expected = [(10 + LEADS.index(lead)) / 10 for lead in ("I", "aVR", "V1", "V4")]
    assert first_row == pytest.approx(expected)
    with pytest.raises(ValueError, match="twelve"):
        ecg_paper(signal[1:], 100, leads=order[1:], layout="3x4")


def test_ecg_paper_refuses_what_does_not_fit():
    signal = np.zeros((12, 300))
    with pytest.raises(ValueError, match="12"):
        ecg_paper(signal[:3], 100, leads=LEADS)
    with pytest.raises(ValueError, match="layout"):
        ecg_paper(signal, 100, leads=LEADS, layout="6x2")
    with pytest.raises(ValueError, match="heat"):
        ecg_paper(signal, 100, leads=LEADS, heat=signal[:, 1:])


@pytest.mark.parametrize(("layout", "samples"), [("nx1", 250), ("3x4", 1000)])
def test_no_name_of_a_lead_stands_on_a_trace_and_the_title_fits(layout, samples):
    signal = np.zeros((len(LEADS), samples))
    signal[:, ::20] = 2.5  # 25 mm high, wherever a name may be
    title = "a_file_with_a_name_of_many_words" * 8 + "   resnet_standard"
    figure = ecg_paper(signal, 100, leads=LEADS, layout=layout, title=title)
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
    title_box, scale = (text.get_window_extent() for text in figure.texts)
    assert title_box.x0 > 0 and title_box.x1 < scale.x0 and scale.x1 < figure.bbox.width
    assert figure.texts[0].get_text().startswith("a_file") and figure.texts[0].get_text().endswith("resnet_standard")
