"""Attributions: the sums they promise, the leads they name, and that they depend on what was learned."""

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import META, Demo, share_inputs, task_of_size
from torch import nn

from ecg.artifacts import UserError
from ecg.attribution import (
    ALIKE,
    KINDS,
    METHODS,
    MOST_CLASSES,
    RANDOMISED,
    SANITY_COLUMNS,
    Subject,
    _draw_examples,
    _error,
    attribute,
    choose_drawn,
    choose_records,
    deletion,
    file_name,
    find_network_run,
    heat_of,
    interpret,
    layers_of,
    lead_importance,
    mean_interval,
    plot_importance,
    plot_sanity,
    pointing,
    randomisation,
    randomised,
    rank_correlation,
    remove_blocks,
)
from ecg.leads import LEADS
from ecg.models import build
from ecg.models.resnet1d import ResNet1D
from ecg.plots import method_names
from ecg.report import SHOWN
from ecg.training import train

FS, WINDOW = 100, 250
TASK = task_of_size(7)
SIGNALS = META | {"mean": {kind: [0.01 * i for i in range(12)] for kind in KINDS}}


def small_network(seed: int = 0, *, derivatives: bool = True):
    torch.manual_seed(seed)
    network = build("resnet1d", SIGNALS, n_classes=len(TASK), derivatives=derivatives, width=0.25)
    network.body = ResNet1D(24 if derivatives else 12, len(TASK), widths=(16, 16))
    with torch.no_grad():  # norms as after training, so that evaluation mode is not the identity
        network.train()(torch.randn(32, 12, WINDOW) * 0.2)
    return network.eval().requires_grad_(False)


def records(n: int = 3, *, samples: int = 1000) -> np.ndarray:
    """Beats of Gaussian waves, another size in every lead, with noise."""
    rng = np.random.default_rng(0)
    time = np.arange(samples) / FS
    beats = sum(np.exp(-(((time - peak) / 0.03) ** 2)) for peak in np.arange(0.5, samples / FS, 0.9))
    size = rng.normal(size=(n, 12, 1))
    return (size * beats + 0.05 * rng.normal(size=(n, 12, samples))).astype(np.float32)


def subject_of(network, millivolt: np.ndarray, target: np.ndarray | int = 0, names: list[str] | None = None) -> Subject:
    """Return records as `interpret` sees them; of `target`, the position of each one's class, or one for all."""
    target = np.broadcast_to(np.asarray(target), len(millivolt))
    return Subject(
        network=network,
        millivolt=millivolt,
        names=pd.Series(names or [TASK.classes[i] for i in target]),
        target=target,
        leads=LEADS,
        fs=FS,
        window=WINDOW,
        objective="multilabel",
        seed=0,
    )


class Looks(nn.Module):
    """A body whose every logit is the mean square of some channels and nothing else."""

    def __init__(self, channels: slice):
        super().__init__()
        self.channels = channels
        self.gain = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gain * (x[:, self.channels] ** 2).mean(dim=(1, 2))[:, None].repeat(1, len(TASK))


def looking_at(channels: slice):
    network = small_network()
    network.body = Looks(channels)
    return network


def test_integrated_gradients_add_up_to_the_logits_difference_between_record_and_isoelectric_line():
    network, x, target = small_network(), records(), np.array([0, 3, 6])
    maps, errors = attribute(subject_of(network, x, target), method="integrated_gradients", steps=64)
    with torch.no_grad():
        windows = torch.from_numpy(x).unflatten(-1, (4, WINDOW)).permute(2, 0, 1, 3)  # (4, n, 12, 250)
        logits = torch.stack([network(w) for w in windows]).mean(dim=0)
        change = (logits - network(torch.zeros(1, 12, WINDOW)))[range(3), target]
    assert maps.sum(axis=(1, 2, 3)) == pytest.approx(change.numpy(), abs=0.01)
    assert (errors < 0.01).all()


def test_windows_that_overlap_still_add_up():
    network, x = small_network(), records(1, samples=600)  # 250 does not divide it
    maps, errors = attribute(subject_of(network, x, 1), method="integrated_gradients", steps=64)
    assert maps.shape == (1, len(KINDS), len(LEADS), 600) and errors[0] < 0.01
    starts = (0, 175, 350)
    with torch.no_grad():
        logits = [network(torch.from_numpy(x[:, :, s : s + WINDOW]))[0, 1] for s in starts]
        change = torch.stack(logits).mean() - network(torch.zeros(1, 12, WINDOW))[0, 1]
    covered = sum((np.arange(600) >= s) & (np.arange(600) < s + WINDOW) for s in starts)
    assert (maps * covered).sum() == pytest.approx(change.item(), abs=0.01)


def test_what_two_windows_cover_does_not_count_twice():
    network, x = looking_at(slice(0, 12)), np.full((1, 12, 600), 0.3, np.float32)  # every sample matters alike
    maps, _ = attribute(subject_of(network, x, 1), method="saliency")
    assert np.ptp(maps[0, 0], axis=-1) == pytest.approx(np.zeros(12), abs=1e-7) and maps[0, 0].all()


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_looks_at_v3_alone_has_all_its_importance_on_v3(method):  # trap 1
    v3 = LEADS.index("V3")
    subject = subject_of(looking_at(slice(v3, v3 + 1)), records())
    maps, _ = attribute(subject, method=method)
    table = lead_importance(maps, subject, method).set_index(["lead", "kind"])
    assert table.share["V3", "signal"] == pytest.approx(1)
    assert table.share["all", "derivative"] == 0
    assert table.share.drop(["V3", "all"], level="lead").abs().max() == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_looks_at_derivatives_alone_has_all_its_importance_there(method):
    subject = subject_of(looking_at(slice(12, 24)), records())
    maps, _ = attribute(subject, method=method)
    table = lead_importance(maps, subject, method).set_index(["lead", "kind"])
    assert table.share["all", "derivative"] == pytest.approx(1)


@pytest.mark.parametrize("method", METHODS)
def test_derivative_share_is_0_for_a_network_without_derivative_channels(method):
    maps, _ = attribute(subject_of(small_network(derivatives=False), records()), method=method, steps=4)
    assert maps.shape[1] == len(KINDS) and np.abs(maps[:, 0]).sum() > 0
    assert np.abs(maps[:, 1]).sum() == 0


def checked(network, fresh, n: int) -> pd.DataFrame:
    """The sanity check of randomised weights, on n records of class 0."""
    subject = subject_of(network, records(n))
    maps = {m: attribute(subject, method=m, steps=4)[0] for m in METHODS}
    return pd.DataFrame(randomisation(subject, fresh, maps, steps=4), columns=list(SANITY_COLUMNS))


def test_saliency_changes_when_weights_are_randomised():  # trap 15
    """Asked of what is drawn, the heat, and of the method whose pictures the report shows."""
    network, x = small_network(0), records()
    heat, same = (
        heat_of(attribute(subject_of(n, x), method=SHOWN)[0], FS)
        for n in (network, randomised(network, small_network(1), 0))
    )
    assert rank_correlation(heat, same) == pytest.approx(np.ones(3))
    table = checked(network, small_network(1), 6)
    rows = table[(table.check == RANDOMISED) & (table.method == SHOWN) & (table.setting == "all layers")]
    assert len(rows) == 1 and rows.ci_high.item() < ALIKE and rows.verdict.item().startswith("differs")
    assert METHODS[0] == SHOWN, "the first column of every figure"


def test_sanity_check_says_too_alike_when_the_picture_ignores_the_weights():  # trap 15
    network = looking_at(slice(0, 12))  # whose picture is the signal, whatever its one weight is
    network.body = nn.Sequential(network.body)
    fresh = copy.deepcopy(network)
    fresh.body[0].gain.fill_(-3.0)
    names = method_names(checked(network, fresh, 3))
    assert list(names) == list(METHODS) and all("too alike" in name for name in names.values())


def test_where_there_is_no_interval_no_bar_is_drawn():
    table = checked(small_network(0), small_network(1), 2)  # two records: no interval
    assert table.ci_low.isna().all() and np.isnan(_error(table)).all()
    deleted = [("deletion: fall of probability", m, "10 %", 0.1, np.nan, np.nan, np.nan, 2, "") for m in METHODS]
    figure = plot_sanity(pd.concat([table, pd.DataFrame(deleted, columns=table.columns)]), "resnet_standard")
    figure.draw_without_rendering()


def test_deleting_what_matters_costs_more_than_deleting_at_random():
    v3 = LEADS.index("V3")
    network, x = looking_at(slice(v3, v3 + 1)), records(6)
    x[:, v3] += np.sin(np.arange(1000) / 3)  # so that every record has something to lose there
    x[:, :3] *= 50  # large, and of no interest to the network; a quarter of the record
    heat = {m: np.zeros((6, 12, 1000)) for m in METHODS}
    for values in heat.values():
        values[:, v3] = 1
    rows = pd.DataFrame(deletion(subject_of(network, x), heat))
    rows = rows[rows.check.str.startswith("deletion: minus")]
    assert (rows.ci_low > 0).all()
    assert rows.verdict.str.contains("matters more").all()


def test_removed_blocks_are_bridged_by_straight_lines():
    signal = np.tile(np.arange(100.0) ** 2, (12, 1))
    blocks = np.zeros((12, 10), bool)
    blocks[2, 3] = True
    removed = remove_blocks(signal, blocks, 10)
    assert (np.delete(removed, 2, axis=0) == signal[0]).all()
    assert np.ptp(np.diff(removed[2, 29:41])) == pytest.approx(0)
    assert not remove_blocks(signal, np.ones((12, 10), bool), 10).any()


def test_pointing_game_knows_a_hit_from_a_miss_and_leaves_out_classes_without_signs():
    masks = np.zeros((6, 12, 100), bool)
    masks[:4, 3, 40:60] = True
    names = ["MI"] * 4 + ["NORM"] * 2
    heats = {METHODS[0]: masks.astype(float), METHODS[1]: 1.0 - masks}
    millivolt = np.where(masks, 3.0, -1.0)  # largest in the signs, but not only there
    subject = subject_of(None, millivolt, names=names)
    table = pd.DataFrame(pointing(subject, heats, masks)).set_index(["method", "check", "setting"])
    assert set(table.index.get_level_values("setting")) == {"MI", "all"}
    assert table.value[METHODS[0], "planted signs: mass", "MI"] == 1
    assert table.value[METHODS[1], "planted signs: hit", "all"] == 0
    assert table.reference[METHODS[0], "planted signs: mass", "MI"] == pytest.approx(20 / 1200)
    share = 3 * 20 / (3 * 20 + 1180)
    assert table.value["largest amplitude", "planted signs: mass", "MI"] == pytest.approx(share)
    more = table.xs(("planted signs: mass minus largest amplitude", "MI"), level=("check", "setting"))
    assert more.value[METHODS[0]] == pytest.approx(1 - share) and list(more.index) == list(METHODS)
    assert "more than largest amplitude" in more.verdict[METHODS[0]]
    assert "less than largest amplitude" in more.verdict[METHODS[1]]


def test_a_picture_of_the_signal_itself_is_not_called_better_than_the_largest_amplitude():
    rng = np.random.default_rng(0)
    masks = np.zeros((6, 12, 100), bool)
    masks[:, :, 40:60] = True  # on the waves
    millivolt = masks + 0.1 * rng.normal(size=masks.shape)
    subject = subject_of(None, millivolt, names=["MI"] * 6)
    table = pd.DataFrame(pointing(subject, {METHODS[0]: np.abs(millivolt)}, masks))
    verdicts = table[table.method == METHODS[0]].groupby("check").verdict.first()
    assert "more than chance" in verdicts["planted signs: mass"]
    assert verdicts["planted signs: mass minus largest amplitude"] == "no difference from largest amplitude is shown"


# --- which records ----------------------------------------------------------------------------------------------------


def labelled(n: int = 84, *, n_classes: int = 7) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels and probabilities of records of which every third is answered wrongly and the last class never alone."""
    rng, classes = np.random.default_rng(1), list(task_of_size(n_classes).classes)
    ecg_id, truth = np.arange(100, 100 + n), np.arange(n) % n_classes
    probability = rng.uniform(0, 0.4, size=(n, n_classes))
    answer = np.where(np.arange(n) % 3 == 0, (truth + 1) % n_classes, truth)
    probability[np.arange(n), answer] = rng.uniform(0.5, 1, n)
    labels = pd.DataFrame(np.eye(n_classes, dtype=int)[truth], columns=classes, index=ecg_id)
    labels.loc[truth == n_classes - 1, classes[0]] = 1
    labels["label"] = np.where(truth == n_classes - 1, "", np.array(classes)[truth])
    labels["patient_id"] = np.arange(n) // 2
    return labels, pd.DataFrame(probability, columns=classes, index=ecg_id)


@pytest.mark.parametrize("n_classes", [3, 5, 12])
def test_only_correctly_classified_records_of_one_class_are_chosen_one_per_patient(n_classes):
    labels, probability = labelled(n_classes=n_classes)
    chosen = choose_records(labels, probability, classes=tuple(probability), thresholds=None, per_class=4)
    assert len(chosen) and (labels.label[chosen.ecg_id].to_numpy() == chosen["class"]).all()
    assert (probability.loc[chosen.ecg_id].idxmax(axis=1).to_numpy() == chosen["class"]).all()
    assert labels.patient_id[chosen.ecg_id].is_unique
    assert chosen.groupby("class").size().max() <= 4
    for _, group in chosen.groupby("class"):
        assert group.probability.is_monotonic_decreasing


def test_without_a_multiclass_view_records_are_chosen_whose_class_was_found():
    labels, probability = labelled()
    classes = tuple(probability)
    chosen = choose_records(labels, probability, classes=classes, thresholds=np.full(7, 0.45), per_class=4)
    assert set(chosen["class"]) == set(classes), "also the class that no record has alone"
    for name, group in chosen.groupby("class"):
        assert (labels.loc[group.ecg_id, name] == 1).all() and (group.probability >= 0.45).all()
        assert labels.patient_id[group.ecg_id].is_unique and len(group) <= 4
    assert choose_records(labels, probability, classes=classes, thresholds=np.full(7, 1.1), per_class=4).empty


def test_of_many_classes_those_with_the_most_records_are_explained_in_the_order_of_the_task():
    labels, probability = labelled(600, n_classes=23)
    classes = tuple(probability)
    labels.loc[labels[classes[4]] == 1, [classes[4], classes[9]]] = [0, 1]  # nobody has it, and more the other
    chosen = choose_records(labels, probability, classes=classes, thresholds=np.full(23, 0.45), per_class=2)
    shown = list(dict.fromkeys(chosen["class"]))
    assert len(shown) == MOST_CLASSES and classes[4] not in shown
    assert shown == [name for name in classes if name in shown]


def test_choice_of_records_does_not_depend_on_the_order_of_rows():
    labels, probability = labelled()
    order = np.random.default_rng(0).permutation(len(labels))
    for thresholds in (None, np.full(7, 0.45)):
        settings = {"classes": tuple(probability), "thresholds": thresholds, "per_class": 3}
        shuffled = choose_records(labels.iloc[order], probability.iloc[order], **settings)
        pd.testing.assert_frame_equal(shuffled, choose_records(labels, probability, **settings))


def test_drawn_records_are_the_most_confident_and_the_median_one():
    chosen = pd.DataFrame({"class": ["NORM"] * 5 + ["HYP"], "ecg_id": range(6)})
    assert choose_drawn(chosen, 2).tolist() == [0, 2, 5]
    assert choose_drawn(chosen, 0).tolist() == []


def test_some_of_the_records_keep_their_classes():
    subject = subject_of(None, records(4), np.array([3, 0, 5, 1]))
    some = subject.take(np.array([2, 0]))
    assert list(some.names) == [TASK.classes[5], TASK.classes[3]] and some.target.tolist() == [5, 3]
    np.testing.assert_array_equal(some.millivolt, subject.millivolt[[2, 0]])


def test_no_interval_is_claimed_for_two_records():
    mean, low, high = mean_interval(np.array([[1.0], [3.0]]), seed=0)
    assert mean[0] == 2 and np.isnan(low[0]) and np.isnan(high[0])


# --- layers -----------------------------------------------------------------------------------------------------------


class BackToFront(nn.Module):
    """A body that defines its layers in another order than it uses them."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(8, len(TASK))
        self.first = nn.Conv1d(24, 8, 7, stride=4)
        self.second = nn.Sequential(nn.ReLU(), nn.Conv1d(8, 8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.first(x)).mean(dim=-1))


def with_body(body: nn.Module):
    network = small_network()
    network.body = body
    return network.eval().requires_grad_(False)


def test_layers_come_in_the_order_in_which_they_are_used():
    network = with_body(BackToFront())
    body = network.body
    assert layers_of(network) == [body.first, body.second, body.last]


def test_a_body_around_one_module_is_looked_into_and_one_with_own_weights_is_a_layer_as_a_whole():
    inner = BackToFront()
    assert layers_of(with_body(nn.Sequential(nn.Sequential(inner)))) == [inner.first, inner.second, inner.last]
    whole = looking_at(slice(0, 12))
    assert layers_of(whole) == [whole.body]


def test_weights_are_randomised_from_the_output_down():
    torch.manual_seed(0)
    network, fresh = with_body(BackToFront()), with_body(BackToFront())
    for n, new in ((0, set()), (1, {"last"}), (2, {"last", "second"}), (3, {"last", "second", "first"})):
        mixed = randomised(network, fresh, n).body.state_dict()
        from_fresh = {
            key.split(".")[0] for key, value in mixed.items() if torch.equal(value, fresh.body.state_dict()[key])
        }
        assert from_fresh == new
    assert torch.equal(randomised(network, fresh, 3)(torch.ones(1, 12, 300)), fresh(torch.ones(1, 12, 300)))


# --- what is left -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "part"), [("LAFB/LPFB", "LAFB-LPFB"), ("ISC_", "ISC_"), ("a b", "a-b"), ("3AVB", "3AVB"), ("..", "..")]
)
def test_a_class_is_part_of_a_files_name_whatever_its_letters(name, part):
    assert file_name(name) == part


def test_pictures_of_a_class_with_a_slash_stay_in_their_folder(tmp_path: Path):
    names = ["LAFB/LPFB", "LAFB/LPFB"]
    subject = subject_of(small_network(), records(2), names=names)
    maps = {method: np.ones((2, 2, 12, 1000), np.float32) for method in METHODS}
    chosen = pd.DataFrame({"class": names, "ecg_id": ["JS2", "JS1"], "probability": [0.9, 0.8]})
    errors = dict.fromkeys(METHODS, np.zeros(2))
    titles = dict(zip(METHODS, METHODS, strict=True))
    table = _draw_examples(subject, chosen, np.array([0, 1]), maps, errors, titles, tmp_path)
    assert set(table.file) == {f"example_LAFB-LPFB_{method}_{n}.png" for method in METHODS for n in (1, 2)}
    assert {path.name for path in tmp_path.iterdir()} == set(table.file)
    assert set(table["class"]) == {"LAFB/LPFB"}


@pytest.mark.parametrize("n_classes", [1, 5, 12])
def test_the_figure_of_lead_importance_has_a_row_per_class(n_classes):
    names = list(task_of_size(n_classes).classes)
    subject = subject_of(None, records(n_classes), names=names)
    maps = np.random.default_rng(0).random((n_classes, 2, 12, 50))
    table = pd.concat([lead_importance(maps, subject, method) for method in METHODS])
    figure = plot_importance(table, dict(zip(METHODS, METHODS, strict=True)), "a")
    titles = [axis.get_title() for axis in figure.axes]
    for name in names:
        assert sum(f"{name}: n = 1" in title for title in titles) == len(METHODS)
    assert len(table) == n_classes * len(METHODS) * 3 * 13


SETTINGS = {"records_per_class": 1, "drawn_per_class": 1, "steps": 2, "seed": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def of_form(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts with a network that was trained on form statements, of which records have several."""
    artifacts = share_inputs(prepared, tmp_path_factory.mktemp("form"))
    train(model="resnet1d", labels="form", artifacts=artifacts, width=0.25, epochs=1, batch_size=32)
    return artifacts


def test_a_run_of_another_task_is_explained_too(of_form: Path, synthetic: Path):
    run = "resnet_standard_form"
    interpret(data=synthetic, artifacts=of_form, run=run, **SETTINGS)
    classes = find_network_run(of_form, run).task.classes
    folder = of_form / "interpretability_results"
    importance = pd.read_csv(folder / "lead_importance.csv")
    assert set(importance["class"]) <= set(classes) and 1 <= importance["class"].nunique() <= MOST_CLASSES
    examples = pd.read_csv(folder / "examples.csv")
    assert set(examples["class"]) == set(importance["class"])
    assert {path.name for path in folder.glob("example_*.png")} == set(examples.file)


def test_by_default_the_first_network_of_the_first_task_is_explained(of_form: Path, artifacts: Path):
    with pytest.raises(UserError, match=r"no network was trained on superdiagnostic.*codes/05_train_resnet1d\.py"):
        find_network_run(of_form, "")
    assert find_network_run(of_form, "resnet_standard_form").task.name == "form"


def test_a_run_that_is_not_there_or_no_network_is_refused(of_form: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"--run nobody: there is no run"):
        interpret(data=tmp_path, artifacts=of_form, run="nobody", **SETTINGS)
    with pytest.raises(UserError, match=r"codes/0[45]_\w+\.py|codes/02_split\.py"):
        interpret(data=tmp_path, artifacts=tmp_path, run="", **SETTINGS)
    with pytest.raises(UserError, match="--seed is -1, must be at least 0"):
        interpret(data=tmp_path, artifacts=of_form, run="", **SETTINGS | {"seed": -1})


def test_a_demo_run_leaves_importance_checks_and_pictures(demo: Demo):
    folder = demo.artifacts / "interpretability_results"
    importance = pd.read_csv(folder / "lead_importance.csv").set_index(["class", "method", "lead", "kind"])
    shares = importance.share.drop("all", level="lead").drop("both", level="kind")
    assert shares.groupby(["class", "method"]).sum().to_numpy() == pytest.approx(1, abs=1e-3)
    checks = pd.read_csv(folder / "sanity_checks.csv")
    for part in ("completeness", "randomised weights", "deletion"):
        assert checks.check.str.startswith(part).any(), part
    examples = pd.read_csv(folder / "examples.csv")
    assert len(examples) and all((folder / name).exists() for name in examples.file)
