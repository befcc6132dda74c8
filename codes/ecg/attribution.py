"""Which leads and moments a network's answer rests on, and sanity checks of such pictures.

Attributions are taken with respect to the channels that the network computes on, behind its front end: the
standardised leads and their standardised time derivatives. So the share of either kind can be measured. What is
explained is the logit of a record's class, averaged over windows that lie end to end (where the window does not divide
the record they overlap a little), while predictions are averaged over windows that overlap by half.
"""

import copy
import re
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from captum.attr import IntegratedGradients, Saliency
from matplotlib.figure import Figure
from scipy.ndimage import uniform_filter1d
from scipy.stats import binomtest, rankdata
from torch import nn
from tqdm import tqdm

from ecg.artifacts import UserError, write_csv
from ecg.command_line import check_at_least
from ecg.devices import pick_device
from ecg.formats.wfdb import UV_PER_MV
from ecg.inference import network_probability, window_starts
from ecg.labels import read_splits
from ecg.metrics import choose_thresholds
from ecg.models import MODELS, order_of_use, rebuild
from ecg.models.layers import Network
from ecg.plots import COLOURS, ecg_paper, legend_below, method_names, panels, save_figure
from ecg.runs import Run, find_runs, read_config, read_labelled
from ecg.signals import Signals, load_signals
from ecg.stages import DEFAULT_RUN
from ecg.stats import has_multiclass_view, interval
from ecg.stored_run import load_network, load_run
from ecg.synthetic import planted_mask
from ecg.tasks import Objective, Task

Method = Literal["saliency", "integrated_gradients"]
MOST_CLASSES = 12  # explained of a task with many: those with the most records to explain
METHODS: tuple[Method, ...] = ("saliency", "integrated_gradients")
KINDS = ("signal", "derivative")
PASS = 64  # windows in one pass through the network
RANDOMISED = "randomised weights: rank correlation"
OWN_SIZE = "signal's own size: rank correlation"
SMOOTH_S = 0.05  # over which a picture averages the heat
BLOCK_S = 0.1  # seconds of one lead that the deletion test removes together
FRACTIONS = (0.1, 0.2)  # of all blocks
RANDOM_DRAWS = 2  # random deletions per record
REPLICATES = 2000  # of the bootstrap
ALIKE = 0.5  # a rank correlation above it: two pictures that a reader would call the same
IMPORTANCE_COLUMNS = ("class", "method", "lead", "kind", "share", "ci_low", "ci_high", "n")
SANITY_COLUMNS = ("check", "method", "setting", "value", "ci_low", "ci_high", "reference", "n", "verdict")


@dataclass(frozen=True)
class Subject:
    """A network and the records whose answers are explained.

    `millivolt` (n, n_leads, T) float32, `names` (n,) the class that is explained of each, `target` (n,) its position in
    the task; `window` in samples.
    """

    network: Network
    millivolt: np.ndarray
    names: pd.Series
    target: np.ndarray
    leads: tuple[str, ...]
    fs: float
    window: int
    objective: Objective
    seed: int

    @property
    def device(self) -> torch.device:
        return self.network.frontend.mean.device

    def take(self, rows: np.ndarray) -> "Subject":
        """Return the same for some of the records."""
        return replace(self, millivolt=self.millivolt[rows], names=self.names.iloc[rows], target=self.target[rows])


def explain(
    folder: Path | str,
    signal_mv: np.ndarray,
    fs: float,
    *,
    label: str,
    method: Method = "integrated_gradients",
    steps: int = 16,
    device: str = "cpu",
) -> np.ndarray:
    """Return what each sample of each lead adds to the logit of class `label`, (n_leads, t) at the run's own rate.

    `folder` is that of a network's run, `signal_mv` (n_leads, t) one recording in millivolts at `fs` Hz with its leads;
    the parts of a lead and of its time derivative are added up. Raises a `UserError` if the run is no network or has no
    such class, a ValueError if the recording is too short.
    """
    folder = Path(folder)
    run = find_network_run(folder.parent, folder.name)
    if label not in run.task.classes:
        raise UserError(f"{folder} has no class {label!r}: its classes are {', '.join(run.task.classes)}")
    stored = load_run(folder, device=device)
    microvolt = stored.prepare(np.asarray(signal_mv)[None], fs)
    if microvolt.shape[-1] < stored.window:
        raise ValueError(
            f"{microvolt.shape[-1] / stored.fs:.2f} s long, the model needs at least {stored.min_seconds:g} s"
        )
    subject = Subject(
        network=load_network(folder).to(pick_device(device)).requires_grad_(False),
        millivolt=microvolt.astype(np.float32) / UV_PER_MV,
        names=pd.Series([label]),
        target=np.array([run.task.classes.index(label)]),
        leads=stored.leads,
        fs=stored.fs,
        window=stored.window,
        objective=run.config["objective"],
        seed=0,
    )
    attributions, _ = attribute(subject, method=method, steps=steps)
    return attributions[0].sum(axis=0)


def interpret(
    *,
    data: Path,
    artifacts: Path,
    run: str,
    records_per_class: int,
    drawn_per_class: int,
    steps: int,
    seed: int,
    device: str,
) -> None:
    """Write the tables and figures of `codes/13_interpretability.py`; of `data` only planted signs are read."""
    check_at_least("--records-per-class", records_per_class, 1)
    check_at_least("--drawn-per-class", drawn_per_class, 0)
    check_at_least("--steps", steps, 1)
    check_at_least("--seed", seed, 0)
    folder = artifacts / "interpretability_results"
    source, splits = find_network_run(artifacts, run), read_splits(artifacts)
    signals = load_signals(artifacts)
    if source.config["signals"]["fs"] != signals.fs:
        raise UserError(
            f"{source.folder} was trained at {source.config['signals']['fs']} Hz, but artifacts/signals/ is at "
            f"{signals.fs} Hz"
        )
    chosen = _choose(artifacts, source, records_per_class)
    subject = _subject(source, signals, chosen, seed=seed, device=device)
    maps, errors = {}, {}
    for method in METHODS:
        maps[method], errors[method] = attribute(subject, method=method, steps=steps, progress=True)

    importance = pd.concat([lead_importance(maps[method], subject, method) for method in METHODS])
    heats = {method: heat_of(maps[method], signals.fs) for method in METHODS}
    some = choose_drawn(chosen, 2)
    fresh = fresh_network(source.config, seed=seed).to(subject.device)
    sanity = [completeness(errors["integrated_gradients"], steps=steps, seed=seed)]
    sanity += randomisation(subject.take(some), fresh, {m: maps[m][some] for m in METHODS}, steps=-(-steps // 2))
    sanity += deletion(subject, heats)
    if (data / "planted_signs.csv").exists():
        sanity += pointing(subject, heats, _planted_masks(data, splits.tasks[source.task.name], chosen, signals))
    table = pd.DataFrame(sanity, columns=list(SANITY_COLUMNS))

    for old in folder.glob("example_*.png"):  # of another choice of records
        old.unlink()
    drawn = choose_drawn(chosen, drawn_per_class)
    write_csv(importance.round(5), folder / "lead_importance.csv")
    write_csv(table.round(5), folder / "sanity_checks.csv")
    write_csv(
        _draw_examples(subject, chosen, drawn, maps, errors, method_names(table), folder), folder / "examples.csv"
    )
    save_figure(plot_importance(importance, method_names(table), source.name), folder / "lead_importance.png")
    save_figure(plot_sanity(table, source.name), folder / "sanity_checks.png")
    with pd.option_context("display.width", 250, "display.max_colwidth", 90):
        print(table.round(3).to_string(index=False))
    print(f"{len(drawn)} records drawn, {len(drawn) * len(METHODS)} pictures; all of it in {folder}")


def find_network_run(artifacts: Path, name: str) -> Run:
    """Return the run in the folder `name`; with an empty name, the first network trained on the first task."""
    if name:
        if not (artifacts / name / "config.json").exists():
            raise UserError(f"--run {name}: there is no run in {artifacts / name}")
        run = Run(name, artifacts / name, read_config(artifacts / name))
    else:
        first = read_splits(artifacts).first
        runs = [run for run in find_runs(artifacts) if run.config["model"] in MODELS and run.task.name == first.name]
        if not runs:
            raise UserError(f"no network was trained on {first.name}: run codes/05_train_resnet1d.py")
        preferred = [run for run in runs if run.model == DEFAULT_RUN and not run.is_variant]
        first_run = (preferred or runs)[0]
        run = replace(first_run, name=first_run.folder.relative_to(artifacts).as_posix())
    if run.config["model"] not in MODELS:
        raise UserError(f"--run {run.name} is not a network: gradients need one of codes/05 to 10 or codes/train.py")
    return run


def _choose(artifacts: Path, run: Run, per_class: int) -> pd.DataFrame:
    """Return what `choose_records` does for a run; raise a `UserError` if there is nothing to explain."""
    classes = run.task.classes
    labels, probability = read_labelled(artifacts, run, "test")
    thresholds, kind = None, "correctly classified records of exactly one class"
    if not has_multiclass_view(labels[list(classes)].to_numpy()):
        val_labels, val_probability = read_labelled(artifacts, run, "val")
        thresholds = choose_thresholds(val_labels[list(classes)].to_numpy(), val_probability[list(classes)].to_numpy())
        kind = "records whose class was found"
    chosen = choose_records(labels, probability, classes=classes, thresholds=thresholds, per_class=per_class)
    if chosen.empty:
        raise UserError(f"{run.folder} classifies no test record of {run.task.name} correctly: nothing to explain")
    counts = chosen.groupby("class", sort=False).size()
    print(f"{run.name}: {kind}, one per patient, to explain: {', '.join(f'{name} {n}' for name, n in counts.items())}")
    return chosen


def _subject(source: Run, signals: Signals, chosen: pd.DataFrame, *, seed: int, device: str) -> Subject:
    network = load_network(source.folder).to(pick_device(device)).requires_grad_(False)
    return Subject(
        network=network,
        millivolt=signals.millivolt(chosen.ecg_id.to_numpy()),
        names=chosen["class"],
        target=chosen["class"].map(source.task.classes.index).to_numpy(),
        leads=signals.leads,
        fs=signals.fs,
        window=source.config["window"],
        objective=source.config["objective"],
        seed=seed,
    )


def _planted_masks(data: Path, task: Task, chosen: pd.DataFrame, signals: Signals) -> np.ndarray:
    """Return where signs of each record's class were planted, (n, n_leads, T) bool."""
    statements = dict(zip(task.classes, task.statements, strict=True))
    masks = []
    for ecg_id, name in zip(chosen.ecg_id, chosen["class"], strict=True):
        masks.append(
            planted_mask(
                data,
                ecg_id,
                statements[name],
                fs=signals.fs,
                n_samples=signals.array.shape[-1],
                leads=signals.leads,
            )
        )
    return np.stack(masks)


def fresh_network(config: dict[str, Any], *, seed: int) -> Network:
    """Return the network of a run as it was before training, from another seed; no global generator is moved."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 + seed)  # not the seed the run itself began with
        network = rebuild(config)
    return network.eval().requires_grad_(False)


def choose_records(
    labels: pd.DataFrame,
    probability: pd.DataFrame,
    *,
    classes: tuple[str, ...],
    thresholds: np.ndarray | None,
    per_class: int,
) -> pd.DataFrame:
    """Return the test records to explain: class, ecg_id, probability; classes in order, most confident first.

    They were classified correctly: without `thresholds`, they have exactly one class and the arg-max is right; with
    them (n_classes,), they have the class and its probability reaches its threshold. Of each patient there is only the
    first record of a class, so that records are independent. Of them `per_class` are taken at equal steps from the most
    to the least confident, so that averages are not of the easiest ones alone. Nothing is random. Of a task with many
    classes, the MOST_CLASSES with the most candidates are taken.
    """
    values = probability[list(classes)].to_numpy()
    largest = np.asarray(classes)[values.argmax(axis=1)]
    correct = pd.Series(largest == labels.label.to_numpy(), labels.index)
    candidates = {}
    for i, name in enumerate(classes):
        if thresholds is None:
            chosen = labels[correct & (labels.label == name)].sort_index()
        else:
            chosen = labels[(labels[name] == 1) & (values[:, i] >= thresholds[i])].sort_index()
        candidates[name] = chosen
    if thresholds is None:  # one record per patient, of whatever class
        every = pd.concat(candidates.values()).sort_index()
        first = every.index[~every.patient_id.duplicated()]
        candidates = {name: chosen[chosen.index.isin(first)] for name, chosen in candidates.items()}
    else:
        candidates = {name: chosen[~chosen.patient_id.duplicated()] for name, chosen in candidates.items()}
    by_number = sorted(classes, key=lambda name: -len(candidates[name]))
    tables = [pd.DataFrame({"class": [], "ecg_id": [], "probability": []})]
    for name in classes:
        if name in by_number[:MOST_CLASSES] and len(candidates[name]):
            p = probability.loc[candidates[name].index, name].sort_values(ascending=False, kind="stable")
            steps = np.linspace(0, len(p) - 1, min(per_class, len(p))).round().astype(int)
            tables.append(pd.DataFrame({"class": name, "ecg_id": p.index[steps], "probability": p.to_numpy()[steps]}))
    return pd.concat(tables[1:] or tables, ignore_index=True)


def choose_drawn(chosen: pd.DataFrame, per_class: int) -> np.ndarray:
    """Return rows of `chosen`, `per_class` of each class: from the most confident to the median one."""
    rows = []
    for index in chosen.groupby("class", sort=False).indices.values():
        steps = np.linspace(0, len(index) // 2, min(per_class, len(index))).round().astype(int)
        rows += index[np.unique(steps)].tolist()
    return np.array(sorted(rows), dtype=int)


def attribute(
    subject: Subject, *, method: Method, steps: int = 16, progress: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return signed attributions (n, 2, n_leads, T), kinds in the order of KINDS, and errors (n,).

    `saliency` is the gradient (Simonyan et al. 2014). `integrated_gradients` (Sundararajan et al. 2017) goes from the
    zero signal, the isoelectric line, along `steps` points of Gauss-Legendre quadrature, and adds up to the logit's
    difference between record and zero signal. Errors are what the sum misses relative to that difference, or to one
    logit if the difference is smaller; nan for saliency, which promises no sum. Where windows overlap, the attribution
    is the mean over them, so that no part of a record counts twice; the sum holds before that division.
    Where a network has no derivative channels, their attribution is 0.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not known: use one of {METHODS}")
    network, window, n_leads = subject.network, subject.window, len(subject.leads)
    n, length = len(subject.millivolt), subject.millivolt.shape[-1]
    starts = window_starts(length, window, overlap=False)
    baseline = network.frontend(torch.zeros(1, n_leads, min(window, length), device=subject.device))
    result = np.zeros((n, len(KINDS), n_leads, length), np.float32)
    errors = np.full(n, np.nan)
    pairs = zip(subject.millivolt, subject.target, strict=True)
    # cuDNN has no gradients of a recurrent layer outside of training
    is_recurrent = any(isinstance(module, nn.RNNBase) for module in network.modules())
    with torch.backends.cudnn.flags(enabled=False) if is_recurrent else nullcontext():
        for i, (record, label) in enumerate(tqdm(pairs, method, n, disable=not progress, mininterval=1)):
            windows = torch.from_numpy(np.stack([record[:, s : s + window] for s in starts])).to(subject.device)
            channels = network.frontend(windows).requires_grad_()  # (W, C, window)
            if method == "saliency":
                values = Saliency(network.body).attribute(channels, target=int(label), abs=False)
            else:
                values = IntegratedGradients(network.body).attribute(
                    channels, baseline, target=int(label), n_steps=steps, internal_batch_size=max(PASS, len(starts))
                )
                with torch.inference_mode():
                    change = (network.body(channels) - network.body(baseline))[:, label].sum().item()
                errors[i] = abs(values.sum().item() - change) / max(abs(change), len(starts))
            values = values.detach().unflatten(1, (-1, n_leads)).cpu().numpy()  # (W, kinds, n_leads, window)
            for start, value in zip(starts, values, strict=True):
                result[i, : value.shape[0], :, start : start + window] += value / len(starts)
    covered = np.zeros(length, np.float32)  # windows per sample
    for start in starts:
        covered[start : start + window] += 1
    return result / covered, errors


def mean_interval(values: np.ndarray, *, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean over records of `values` (n, k) and its 95 % percentile bootstrap interval, (k,) each.

    The interval is nan for fewer than three records.
    """
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 3:
        return values.mean(axis=0), *np.full((2, values.shape[1]), np.nan)
    weight = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=REPLICATES) / n
    return values.mean(axis=0), *interval((weight @ values).T)


def lead_importance(maps: np.ndarray, subject: Subject, method: str) -> pd.DataFrame:
    """Return each channel's share of a record's absolute attribution, averaged over records of a class.

    `maps` (n, 2, n_leads, T). Rows per class, lead and kind; kind `both` is the lead's sum, lead `all` the sum of the
    leads, so that `all, derivative` is the derivative channels' share. Columns IMPORTANCE_COLUMNS.
    """
    mass = np.abs(maps).sum(axis=-1, dtype=np.float64)  # (n, 2, n_leads)
    mass = mass / np.maximum(mass.sum(axis=(1, 2), keepdims=True), 1e-30)
    mass = np.concatenate([mass, mass.sum(axis=1, keepdims=True)], axis=1)
    mass = np.concatenate([mass, mass.sum(axis=2, keepdims=True)], axis=2)  # (n, 3, n_leads + 1)
    names = [(lead, kind) for kind in (*KINDS, "both") for lead in (*subject.leads, "all")]
    tables = []
    for name in dict.fromkeys(subject.names):
        of_class = mass[(subject.names == name).to_numpy()].reshape(-1, len(names))
        share, low, high = mean_interval(of_class, seed=subject.seed)
        table = pd.DataFrame(names, columns=["lead", "kind"]).assign(share=share, ci_low=low, ci_high=high)
        table["class"], table["method"], table["n"] = name, method, len(of_class)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)[list(IMPORTANCE_COLUMNS)]


def _row(check: str, method: str, setting: str, values: np.ndarray, seed: int, **rest: Any) -> dict[str, Any]:
    mean, low, high = mean_interval(np.asarray(values)[:, None], seed=seed)
    row = {"check": check, "method": method, "setting": setting, "value": mean[0], "ci_low": low[0], "ci_high": high[0]}
    return row | {"reference": np.nan, "n": len(values), "verdict": ""} | rest


def completeness(errors: np.ndarray, *, steps: int, seed: int) -> dict[str, Any]:
    """Return how far integrated gradients miss the sum they promise, relative to it, on average over records."""
    row = _row("completeness error", "integrated_gradients", f"{steps} steps", errors, seed, reference=0.0)
    return row | {"verdict": "holds" if row["value"] < 0.05 else "raise --steps"}


def layers_of(network: Network) -> list[torch.nn.Module]:
    """Return the layers of a network's body in the order in which they are used: what is randomised one by one.

    They are the modules right below it, or further down where there is only one; a module whose own parameters come on
    top is one layer as a whole.
    """
    body = network.body
    while len(list(body.children())) == 1 and not list(body.parameters(recurse=False)):
        body = next(body.children())
    layers = list(body.children())
    if list(body.parameters(recurse=False)) or not layers:
        return [body]
    return order_of_use(network, layers)


def randomised(network: Network, fresh: Network, layers: int) -> Network:
    """Return a copy of `network` whose last `layers` layers, from the output down, have the weights of `fresh`."""
    copied = copy.deepcopy(network)
    ours, theirs = layers_of(copied), layers_of(fresh)
    for mine, other in list(zip(ours, theirs, strict=True))[len(ours) - layers :]:
        mine.load_state_dict(other.state_dict())
    return copied


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of two maps (n, ...) record by record, (n,); 0 where one is constant."""
    result = []
    for x, y in zip(a, b, strict=True):
        x, y = (rankdata(v) - (v.size + 1) / 2 for v in (x, y))
        norm = np.sqrt((x @ x) * (y @ y))
        result.append(x @ y / norm if norm > 0 else 0.0)
    return np.array(result)


def randomisation(
    subject: Subject, fresh: Network, maps: dict[Method, np.ndarray], *, steps: int
) -> list[dict[str, Any]]:
    """Compare the heat of the network with that of copies whose weights were thrown away from the output down.

    The cascading model-parameter randomisation of Adebayo et al. (2018): an explanation that stays the same explains
    the input and the architecture, not what was learned. The heat, absolute and smoothed, is what a picture shows;
    `signed` compares the attributions themselves. A further row per method compares the heat with the size of the
    standardised signal, which says how much of the picture needs no network at all. `steps` may be fewer than those
    of `maps`.
    """
    network, fs, seed = subject.network, subject.fs, subject.seed
    depth = len(layers_of(network))
    levels = {"output layer": 1, "upper half": (depth + 1) // 2, "all layers": depth}
    heats = {method: heat_of(values, fs) for method, values in maps.items()}
    rows = []
    for name, layers in levels.items():
        copied = replace(subject, network=randomised(network, fresh, layers))
        for method, heat in heats.items():
            values, _ = attribute(copied, method=method, steps=steps)
            alike = rank_correlation(heat, heat_of(values, fs))
            row = _row(RANDOMISED, method, name, alike, seed, reference=1.0)
            if name == "all layers":
                bound = row["value"] if np.isnan(row["ci_high"]) else row["ci_high"]
                row["verdict"] = (
                    "differs, as it must: the picture depends on what was learned"
                    if bound < ALIKE
                    else "too alike: much of the picture is input and architecture, not what was learned"
                )
            signed = rank_correlation(maps[method], values)
            rows += [row, _row(f"{RANDOMISED}, signed", method, name, signed, seed, reference=1.0)]
    with torch.inference_mode():
        channels = network.frontend(torch.from_numpy(subject.millivolt).to(subject.device))
        channels = channels.unflatten(1, (-1, len(subject.leads)))  # (n, kinds, n_leads, T)
    size = heat_of(channels.cpu().numpy(), fs)
    for method, heat in heats.items():
        alike = rank_correlation(heat, size)
        rows.append(_row(OWN_SIZE, method, "no network", alike, seed, reference=0.0))
    return rows


def remove_blocks(signal: np.ndarray, blocks: np.ndarray, length: int) -> np.ndarray:
    """Return `signal` (12, T) with some blocks of `length` samples bridged by straight lines; `blocks` (12, k) bool."""
    at = np.arange(signal.shape[-1])
    result = signal.copy()
    for lead, gone in enumerate(blocks[:, at // length]):
        result[lead, gone] = np.interp(at[gone], at[~gone], signal[lead, ~gone]) if not gone.all() else 0
    return result


def deletion(subject: Subject, heats: dict[Method, np.ndarray]) -> list[dict[str, Any]]:
    """Remove the most attributed tenth and fifth of a record: does its class lose more than by chance?

    Removed are blocks of one lead and BLOCK_S seconds, bridged by straight lines: single samples set to 0 would be
    spikes that no network has seen. Controls are as many blocks at random, and those with the largest amplitude,
    which a picture must beat to be worth more than "look at the QRS". The value is the fall of the class's
    probability (Samek et al. 2017), before calibration; `minus random` and `minus largest amplitude` are paired
    differences.
    """
    millivolt, seed = subject.millivolt, subject.seed
    rng = np.random.default_rng(seed)
    length = max(1, round(BLOCK_S * subject.fs))
    cuts = np.arange(0, millivolt.shape[-1], length)
    scores = {method: np.add.reduceat(heat, cuts, axis=-1) for method, heat in heats.items()}  # (n, n_leads, k)
    scores["largest amplitude"] = np.add.reduceat(np.abs(millivolt), cuts, axis=-1)
    for i in range(RANDOM_DRAWS):
        scores[f"random {i}"] = rng.random(scores["largest amplitude"].shape)

    def probability(records: np.ndarray) -> np.ndarray:
        all_classes = network_probability(
            subject.network,
            np.rint(records * UV_PER_MV).astype(np.int16),
            np.arange(len(records)),
            window=subject.window,
            objective=subject.objective,
            device=subject.device,
            dtype=torch.float32,
            overlap=False,
        )
        return all_classes[np.arange(len(records)), subject.target]

    whole = probability(millivolt)
    rows = []
    for fraction in FRACTIONS:
        fall: dict[str, np.ndarray] = {}
        for name, score in scores.items():
            flat = score.reshape(len(score), -1)
            count = round(fraction * flat.shape[1])
            gone = np.zeros(flat.shape, bool)
            np.put_along_axis(gone, np.argsort(-flat, axis=1, kind="stable")[:, :count], True, axis=1)
            gone = gone.reshape(score.shape)
            removed = np.stack([remove_blocks(x, b, length) for x, b in zip(millivolt, gone, strict=True)])
            fall[name] = whole - probability(removed)
        fall["random"] = np.mean([fall.pop(f"random {i}") for i in range(RANDOM_DRAWS)], axis=0)
        share = f"{100 * fraction:.0f} % removed"
        rows += [_row("deletion: fall of probability", name, share, values, seed) for name, values in fall.items()]
        for method in heats:
            for control in ("random", "largest amplitude"):
                more = fall[method] - fall[control]
                row = _row(f"deletion: minus {control}", method, share, more, seed, reference=0.0)
                rows.append(row | {"verdict": _compare(row, "matters", control)})
    return rows


def _compare(row: dict[str, Any], verb: str, control: str) -> str:
    if row["ci_low"] > row["reference"]:
        return f"what is marked {verb} more than {control}"
    if row["ci_high"] < row["reference"]:
        return f"what is marked {verb} less than {control}"
    return f"no difference from {control} is shown"


def pointing(subject: Subject, heats: dict[Method, np.ndarray], masks: np.ndarray) -> list[dict[str, Any]]:
    """Compare the heat with where signs of the class were planted, `masks` (n, n_leads, T); for synthetic records only.

    `mass`: the share of the heat inside, against the mask's share of the record, which is chance. `hit`: whether the
    hottest sample lies inside (the pointing game of Zhang et al. 2018), with the exact binomial interval. The signs
    sit on the waves, so a picture of the signal itself, `largest amplitude`, beats chance too; `mass minus largest
    amplitude` is the paired difference. Classes without planted signs are left out.
    """
    rows, classes, seed = [], subject.names, subject.seed
    amplitude = np.abs(subject.millivolt)
    mass_of_amplitude = (amplitude * masks).sum(axis=(1, 2)) / np.maximum(amplitude.sum(axis=(1, 2)), 1e-30)
    area = masks.mean(axis=(1, 2))
    names = [name for name in dict.fromkeys(classes) if area[classes == name].any()]
    for method, heat in {**heats, "largest amplitude": amplitude}.items():
        mass = (heat * masks).sum(axis=(1, 2)) / np.maximum(heat.sum(axis=(1, 2)), 1e-30)
        hottest = heat.reshape(len(heat), -1).argmax(axis=1)
        hit = masks.reshape(len(masks), -1)[np.arange(len(masks)), hottest].astype(float)
        for name in [*names, "all"] if names else []:
            of_class = (area > 0) & ((classes == name) | (name == "all")).to_numpy()
            chance = area[of_class]
            row = _row("planted signs: mass", method, name, mass[of_class], seed, reference=chance.mean())
            excess = _row("", "", "", mass[of_class] - chance, seed, reference=0.0)
            rows.append(row | {"verdict": _compare(excess, "lies in the signs", "chance")})
            row = _row("planted signs: hit", method, name, hit[of_class], seed, reference=chance.mean())
            exact = binomtest(int(hit[of_class].sum()), len(chance)).proportion_ci()  # resampling 0 of 7 gives only 0
            row |= {"ci_low": exact.low, "ci_high": exact.high}
            rows.append(row | {"verdict": _compare(row, "lies in the signs", "chance")})
            if method in heats:
                more = (mass - mass_of_amplitude)[of_class]
                row = _row("planted signs: mass minus largest amplitude", method, name, more, seed, reference=0.0)
                rows.append(row | {"verdict": _compare(row, "lies in the signs", "largest amplitude")})
    return rows


def _draw_examples(
    subject: Subject,
    chosen: pd.DataFrame,
    drawn: np.ndarray,
    maps: dict[Method, np.ndarray],
    errors: dict[Method, np.ndarray],
    names: dict[str, str],
    folder: Path,
) -> pd.DataFrame:
    """Write `example_CLASS_METHOD_N.png` for the drawn records; return the table of what they show."""
    rows = []
    numbers = chosen.loc[drawn].groupby("class").cumcount() + 1
    for row, number in zip(drawn, numbers, strict=True):
        record = chosen.loc[row]
        for method in METHODS:
            mass = np.abs(maps[method][row]).sum(axis=-1)  # (2, n_leads)
            share, lead = mass[1].sum() / mass.sum(), subject.leads[int(mass.sum(axis=0).argmax())]
            name = f"example_{file_name(record['class'])}_{method}_{number}.png"
            title = (
                f"{record['class']}, p = {record.probability:.2f}: {names[method]}, "
                f"derivative channels {100 * share:.0f} %    ecg_id {record.ecg_id}"
            )
            figure = draw_attribution(subject, row, maps[method][row], title=title)
            save_figure(figure, folder / name, dpi=100)
            rows.append(
                {
                    "file": name,
                    "class": record["class"],
                    "method": method,
                    "ecg_id": record.ecg_id,
                    "probability": record.probability,
                    "derivative_share": round(float(share), 4),
                    "top_lead": lead,
                    "completeness_error": errors[method][row].round(4),
                }
            )
    columns = ["file", "class", "method", "ecg_id", "probability", "derivative_share", "top_lead", "completeness_error"]
    return pd.DataFrame(rows, columns=columns)


def heat_of(attribution: np.ndarray, fs: float) -> np.ndarray:
    """Return what is drawn of attributions (..., 2, n_leads, T): their size, summed over kinds and smoothed."""
    return uniform_filter1d(np.abs(attribution).sum(axis=-3), max(1, round(SMOOTH_S * fs)), axis=-1)


def file_name(class_name: str) -> str:
    """Return a class's name as a part of a file's name."""
    return re.sub(r"[^\w.-]", "-", class_name)


def draw_attribution(subject: Subject, row: int, attribution: np.ndarray, *, title: str = "") -> Figure:
    """Return the ECG of a record on paper with its attribution (2, n_leads, T) as heat.

    The strongest hundredth of the samples shares the darkest colour.
    """
    heat = heat_of(attribution, subject.fs)
    return ecg_paper(
        subject.millivolt[row],
        subject.fs,
        leads=subject.leads,
        layout="nx1",
        heat=np.minimum(heat, np.quantile(heat, 0.99)),
        title=title,
    )


def plot_importance(importance: pd.DataFrame, names: dict[str, str], run: str) -> Figure:
    """Return bars of each lead's share per class and method (`names`), signal and derivative channels stacked."""
    classes = list(dict.fromkeys(importance["class"]))
    title = f"Share of the absolute attribution per lead, {run}, correctly classified test records; 95 % intervals"
    figure, axes = panels(len(classes), len(METHODS), width=11, height=1.4 + 1.65 * len(classes), title=title)
    for i, name in enumerate(classes):
        for j, method in enumerate(METHODS):
            axis = axes[i, j]
            table = importance[(importance["class"] == name) & (importance.method == method)]
            table = table.set_index(["kind", "lead"])
            signal, derivative, both = (table.loc[kind].drop("all") for kind in (*KINDS, "both"))
            leads = list(both.index)
            axis.bar(leads, signal.share, color=COLOURS[0], label="signal channel")
            axis.bar(leads, derivative.share, bottom=signal.share, color=COLOURS[4], label="derivative channel")
            axis.errorbar(leads, both.share, _error(both, "share"), fmt="none", ecolor="0.25", elinewidth=1, capsize=2)
            axis.axhline(1 / len(leads), color="0.5", linewidth=0.8, linestyle=":")
            part = table.share["derivative", "all"]
            said = f"{name}: n = {both.n.iloc[0]}, derivatives {100 * part:.0f} %"
            axis.set_title(said if i else f"{names[method]}\n{said}", fontsize=9)
            axis.grid(axis="x", visible=False)
        top = max(axis.get_ylim()[1] for axis in axes[i])
        for axis in axes[i]:
            axis.set_ylim(0, top)
    legend_below(figure, axes[0, 0])
    return figure


def plot_sanity(table: pd.DataFrame, run: str) -> Figure:
    """Return the sanity checks as three panels; the third only where planted signs are known."""
    planted = table.check.eq("planted signs: mass")
    figure, axes = panels(1, 2 + planted.any(), width=10 + 3 * planted.any(), height=3.9, title=f"Sanity checks, {run}")
    colours = dict(zip((*METHODS, "largest amplitude", "random"), (*COLOURS[:2], "0.45", "0.75"), strict=True))

    axis, names = axes[0, 0], method_names(table)
    for method in METHODS:
        of_method = table[table.method == method].set_index("check")
        for check, line in ((RANDOMISED, "-"), (f"{RANDOMISED}, signed", "--")):
            rows = of_method.loc[[check]]
            labels = ["trained", *(name.replace(" ", "\n") for name in rows.setting)]
            style = {"color": colours[method], "linestyle": line, "marker": "o"}
            axis.plot(labels, [1, *rows.value], **style, label=names[method] if line == "-" else None)
            axis.errorbar(labels[1:], rows.value, _error(rows), fmt="none", ecolor=colours[method], capsize=3)
        axis.axhline(of_method.value[OWN_SIZE], color=colours[method], linestyle=":", linewidth=1)
    axis.set_ylim(-0.1, 1.05)
    axis.set_title(
        "weights thrown away, from the output down\n(dashed: signed; dotted: the signal's own size)", fontsize=9
    )
    axis.set_ylabel("rank correlation with the trained heat")
    axis.legend(fontsize=8, frameon=False)

    _grouped(axes[0, 1], table[table.check == "deletion: fall of probability"], colours)
    axes[0, 1].set_title("most attributed parts removed", fontsize=9)
    axes[0, 1].set_ylabel("fall of the class's probability")
    axes[0, 1].set_ylim(top=1.25 * axes[0, 1].get_ylim()[1])  # room for the legend
    axes[0, 1].legend(fontsize=8, frameon=False, ncols=2, loc="upper left")
    if planted.any():
        rows = table[planted]
        _grouped(axes[0, 2], rows, colours)
        for i, (_, group) in enumerate(rows.groupby("setting", sort=False)):
            axes[0, 2].hlines(group.reference.iloc[0], i - 0.45, i + 0.45, color="black", linewidth=1.2)
        axes[0, 2].set_title("planted signs of disease (black: chance)", fontsize=9)
        axes[0, 2].set_ylabel("share of the heat inside")
    return figure


def _error(table: pd.DataFrame, column: str = "value") -> np.ndarray:
    """Return the lengths of error bars, (2, n); no bar where there is no interval."""
    return np.abs(table[["ci_low", "ci_high"]].to_numpy().T - table[column].to_numpy())


def _grouped(axis: Any, table: pd.DataFrame, colours: dict[str, str]) -> None:
    """Draw value with interval as bars: a group per setting, a bar per method."""
    settings, methods = list(dict.fromkeys(table.setting)), list(dict.fromkeys(table.method))
    width = 0.8 / len(methods)
    for j, method in enumerate(methods):
        rows = table[table.method == method].set_index("setting").loc[settings]
        at = np.arange(len(settings)) + (j - (len(methods) - 1) / 2) * width
        axis.bar(at, rows.value, width, color=colours[method], label=method.replace("_", " "))
        axis.errorbar(at, rows.value, _error(rows), fmt="none", ecolor="0.2", elinewidth=1, capsize=2)
    axis.set_xticks(range(len(settings)), settings)
    axis.grid(axis="x", visible=False)
    axis.axhline(0, color="0.3", linewidth=0.8)
