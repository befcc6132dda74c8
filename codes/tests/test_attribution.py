"""Attributions: the sums they promise, the leads they name, and that they depend on what was learned."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Demo
from torch import nn

from ecg.artifacts import UserError
from ecg.attribution import (
    ALIKE,
    KINDS,
    METHODS,
    RANDOMISED,
    SANITY_COLUMNS,
    _error,
    attribute,
    choose_drawn,
    choose_records,
    deletion,
    explain,
    heat_of,
    lead_importance,
    mean_interval,
    plot_sanity,
    pointing,
    randomisation,
    randomised,
    rank_correlation,
    remove_blocks,
)
from ecg.labels import CLASSES, LEADS
from ecg.models import build
from ecg.plots import method_names
from ecg.report import SHOWN

FS, WINDOW = 100, 250
META = {
    "fs": FS,
    "mean": {kind: [0.01 * i for i in range(12)] for kind in KINDS},
    "std": {"signal": [0.2] * 12, "derivative": [5.0] * 12},
}


def small_network(seed: int = 0, *, derivatives: bool = True):
    torch.manual_seed(seed)
    network = build("resnet1d", META, derivatives=derivatives, widths=(16, 16), depth=1)
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


class Looks(nn.Module):
    """A body whose every logit is the mean square of some channels and nothing else."""

    def __init__(self, channels: slice):
        super().__init__()
        self.channels = channels
        self.gain = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gain * (x[:, self.channels] ** 2).mean(dim=(1, 2, 3))[:, None].repeat(1, len(CLASSES))


def looking_at(channels: slice):
    network = small_network()
    network.body = Looks(channels)
    return network


def test_integrated_gradients_add_up_to_the_logits_difference_between_record_and_isoelectric_line():
    network, x, target = small_network(), records(), np.array([0, 3, 4])
    maps, errors = attribute(network, x, target, method="integrated_gradients", window=WINDOW, steps=64)
    with torch.no_grad():
        windows = torch.from_numpy(x).unflatten(-1, (4, WINDOW)).permute(2, 0, 1, 3)  # (4, n, 12, 250)
        logits = torch.stack([network(w) for w in windows]).mean(dim=0)
        change = (logits - network(torch.zeros(1, 12, WINDOW)))[range(3), target]
    assert maps.sum(axis=(1, 2, 3)) == pytest.approx(change.numpy(), abs=0.01)
    assert (errors < 0.01).all()


def test_windows_that_overlap_still_add_up():
    network, x = small_network(), records(1, samples=600)  # 250 does not divide it
    maps, errors = attribute(network, x, np.array([1]), method="integrated_gradients", window=WINDOW, steps=64)
    assert maps.shape == (1, len(KINDS), len(LEADS), 600) and errors[0] < 0.01
    starts = (0, 175, 350)
    with torch.no_grad():
        logits = [network(torch.from_numpy(x[:, :, s : s + WINDOW]))[0, 1] for s in starts]
        change = torch.stack(logits).mean() - network(torch.zeros(1, 12, WINDOW))[0, 1]
    covered = sum((np.arange(600) >= s) & (np.arange(600) < s + WINDOW) for s in starts)
    assert (maps * covered).sum() == pytest.approx(change.item(), abs=0.01)


def test_what_two_windows_cover_does_not_count_twice():
    network, x = looking_at(slice(0, 12)), np.full((1, 12, 600), 0.3, np.float32)  # every sample matters alike
    maps, _ = attribute(network, x, np.array([1]), method="saliency", window=WINDOW)
    assert np.ptp(maps[0, 0], axis=-1) == pytest.approx(np.zeros(12), abs=1e-7) and maps[0, 0].all()


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_looks_at_v3_alone_has_all_its_importance_on_v3(method):  # trap 1
    v3 = LEADS.index("V3")
    maps, _ = attribute(looking_at(slice(v3, v3 + 1)), records(), np.zeros(3, int), method=method, window=WINDOW)
    table = lead_importance(maps, pd.Series(["MI"] * 3), method, seed=0).set_index(["lead", "kind"])
    assert table.share["V3", "signal"] == pytest.approx(1)
    assert table.share["all", "derivative"] == 0
    assert table.share.drop(["V3", "all"], level="lead").abs().max() == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_looks_at_derivatives_alone_has_all_its_importance_there(method):
    maps, _ = attribute(looking_at(slice(12, 24)), records(), np.zeros(3, int), method=method, window=WINDOW)
    table = lead_importance(maps, pd.Series(["CD"] * 3), method, seed=0).set_index(["lead", "kind"])
    assert table.share["all", "derivative"] == pytest.approx(1)


@pytest.mark.parametrize("method", METHODS)
def test_derivative_share_is_0_for_a_network_without_derivative_channels(method):
    network = small_network(derivatives=False)
    maps, _ = attribute(network, records(), np.zeros(3, int), method=method, window=WINDOW, steps=4)
    assert maps.shape[1] == len(KINDS) and np.abs(maps[:, 0]).sum() > 0
    assert np.abs(maps[:, 1]).sum() == 0


def checked(network, fresh, n: int) -> pd.DataFrame:
    """The sanity check of randomised weights, on n records of class 0."""
    x, target = records(n), np.zeros(n, int)
    maps = {m: attribute(network, x, target, method=m, window=WINDOW, steps=4)[0] for m in METHODS}
    return pd.DataFrame(randomisation(network, fresh, x, target, maps, FS, WINDOW, 4, 0), columns=list(SANITY_COLUMNS))


def test_saliency_changes_when_weights_are_randomised():  # trap 15
    """Asked of what is drawn, the heat, and of the method whose pictures the report shows."""
    network, x, target = small_network(0), records(), np.zeros(3, int)
    heat, same = (
        heat_of(attribute(n, x, target, method=SHOWN, window=WINDOW)[0], FS)
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
    rows = pd.DataFrame(deletion(network, x, np.zeros(6, int), heat, FS, WINDOW, "multilabel", 0))
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
    classes = pd.Series(["MI"] * 4 + ["NORM"] * 2)
    heats = {METHODS[0]: masks.astype(float), METHODS[1]: 1.0 - masks}
    millivolt = np.where(masks, 3.0, -1.0)  # largest in the signs, but not only there
    table = pd.DataFrame(pointing(heats, millivolt, masks, classes, 0)).set_index(["method", "check", "setting"])
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
    table = pd.DataFrame(pointing({METHODS[0]: np.abs(millivolt)}, millivolt, masks, pd.Series(["MI"] * 6), 0))
    verdicts = table[table.method == METHODS[0]].groupby("check").verdict.first()
    assert "more than chance" in verdicts["planted signs: mass"]
    assert verdicts["planted signs: mass minus largest amplitude"] == "no difference from largest amplitude is shown"


def labelled(n: int = 60) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels and probabilities of records of which every third is answered wrongly and every fifth has two classes."""
    rng = np.random.default_rng(1)
    ecg_id, truth = np.arange(100, 100 + n), np.arange(n) % 5
    probability = rng.uniform(0, 0.4, size=(n, 5))
    probability[np.arange(n), np.where(np.arange(n) % 3 == 0, (truth + 1) % 5, truth)] = rng.uniform(0.5, 1, n)
    label = np.where(np.arange(n) % 5 == 4, "", np.array(CLASSES)[truth])
    labels = pd.DataFrame({"patient_id": np.arange(n) // 2, "label": label}, index=ecg_id)
    return labels, pd.DataFrame(probability, columns=list(CLASSES), index=ecg_id)


def test_only_correctly_classified_records_of_one_class_are_chosen_one_per_patient():
    labels, probability = labelled()
    chosen = choose_records(labels, probability, per_class=4)
    assert len(chosen) and (labels.label[chosen.ecg_id].to_numpy() == chosen["class"]).all()
    assert (probability.loc[chosen.ecg_id].idxmax(axis=1).to_numpy() == chosen["class"]).all()
    assert labels.patient_id[chosen.ecg_id].is_unique
    assert chosen.groupby("class").size().max() <= 4
    for _, group in chosen.groupby("class"):
        assert group.probability.is_monotonic_decreasing


def test_choice_of_records_does_not_depend_on_the_order_of_rows():
    labels, probability = labelled()
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = choose_records(labels.iloc[order], probability.iloc[order], per_class=3)
    pd.testing.assert_frame_equal(shuffled, choose_records(labels, probability, per_class=3))


def test_drawn_records_are_the_most_confident_and_the_median_one():
    chosen = pd.DataFrame({"class": ["NORM"] * 5 + ["HYP"], "ecg_id": range(6)})
    assert choose_drawn(chosen, 2).tolist() == [0, 2, 5]
    assert choose_drawn(chosen, 0).tolist() == []


def test_no_interval_is_claimed_for_two_records():
    mean, low, high = mean_interval(np.array([[1.0], [3.0]]), seed=0)
    assert mean[0] == 2 and np.isnan(low[0]) and np.isnan(high[0])


def test_a_run_that_is_not_there_is_an_error_that_names_the_script(tmp_path):
    settings = {"records_per_class": 1, "drawn_per_class": 1, "steps": 1, "seed": 0, "device": "cpu"}
    with pytest.raises(UserError, match=r"codes/05_train_resnet1d\.py"):
        explain(data=tmp_path, artifacts=tmp_path, run="resnet_standard", **settings)
    with pytest.raises(UserError, match="--seed is -1, must be at least 0"):
        explain(data=tmp_path, artifacts=tmp_path, run="resnet_standard", **settings | {"seed": -1})


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
