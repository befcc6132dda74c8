"""The stages 00 to 14: what each reads and writes. Read from top to bottom, it is the method of this repository.

`PTB-XL/` is the data folder, `artifacts/` the artifacts folder. Braces expand as in a shell, `*` is any name and `**/`
any folders. A path that ends in `?` may be absent. Behind `#` is the only part of a JSON file that matters. Words in
angle brackets follow from a stage's flags:

<run>     the run it trains or explains, named by `run_name`, and <seed> its seed: empty, or /seed1
<init>    the run whose weights a training starts from, if it is told of one
<task>    the task of --labels, empty for the first one of 02, and <tables> the tables that have its labels
<rate>    the sampling rate in Hz

To add a stage, write a script and add a line to STAGES.
"""

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

from ecg.artifacts import ROOT, UserError, read_json
from ecg.code_digest import CODES, parse, reachable

Flags = Mapping[str, str | bool]  # of a stage, as given: {"epochs": "3", "strict": True}

DEFAULT_RUN = "resnet_standard"  # the one that 13 explains
# Folders below artifacts/ that no run may be called; those of ensembles begin with `ensemble`.
RESERVED = (
    "baseline",
    "benchmarks",
    "demo",
    "eda_plots",
    "final_results",
    "interpretability_results",
    "logs",
    "signals",
)


@dataclass(frozen=True)
class Network:
    """What a training script trains: a network of `ecg.models.MODELS`, and `net`, its short name in run folders."""

    model: str
    net: str
    augment: bool


@dataclass(frozen=True)
class Stage:
    """A numbered script or notebook, and what its result depends on besides its flags and the code it calls.

    `presents` says that figures and pages are its business: a change in how they look makes only these stages stale.
    `files` are files in codes/, other than Python, that it uses.
    """

    script: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    network: Network | None = None
    presents: bool = False
    files: tuple[str, ...] = ()

    @property
    def number(self) -> str:
        return self.script[:2]

    @property
    def name(self) -> str:
        return self.script.partition(".")[0]

    @property
    def names_run(self) -> bool:
        """Whether it trains, and so writes into a folder that can be given a name."""
        return any("<run>" in path for path in self.writes)


DATABASE = ("PTB-XL/ptbxl_database.csv", "PTB-XL/scp_statements.csv", "PTB-XL/records100/")
PLANTED = "PTB-XL/planted_signs.csv"  # only a synthetic PTB-XL has it
LABELS = (
    "artifacts/ptbxl_<tables>.csv",
    "artifacts/ptbxl_splits.json#tasks/<task>",
    "artifacts/ptbxl_splits.json#records_sha256",
)
ALL_LABELS = ("artifacts/ptbxl_{train,val,test,statements}.csv", "artifacts/ptbxl_splits.json")
SIGNALS = ("artifacts/signals/{signals.npy,records.csv,meta.json}",)
ALL_RUNS = ("artifacts/**/{config.json,predictions_val.csv,predictions_test.csv}",)
PAGES = "artifacts/eda_plots"  # where the page of a notebook goes

TRAINING_READS = (*LABELS, *SIGNALS, "artifacts/<init>/{config.json,best.pt}")
TRAINING_WRITES = (
    "artifacts/<run><seed>/{config.json,best.pt,history.csv,history.png,metrics.csv}",
    "artifacts/<run><seed>/predictions_{val,test}.{csv,npy}",
    "artifacts/<run><seed>/last.pt?",
    "artifacts/<run><seed>/lr_finder.{csv,png}?",
)


def _training(script: str, model: str, net: str, *, augment: bool) -> Stage:
    return Stage(script, TRAINING_READS, TRAINING_WRITES, network=Network(model, net, augment))


STAGES = (
    Stage("00_get_data.py", reads=(), writes=(*DATABASE, "PTB-XL/{planted_signs,r_peaks}.csv?", "PTB-XL/records500/?")),
    Stage(
        "01_eda.ipynb",
        reads=DATABASE,
        writes=(
            "artifacts/eda_plots/{classes,people,cooccurrence,statements,folds,beats,beats_against_normal}.png",
            "artifacts/eda_plots/{amplitudes,spectra,preprocessing,quality}.png",
            "artifacts/eda_plots/example_*.png",
            "artifacts/eda_plots/amplitude_statistics.csv",
            "artifacts/eda_plots/01_eda.html",
        ),
        presents=True,
    ),
    Stage(
        "02_split.py",
        reads=("PTB-XL/ptbxl_database.csv", "PTB-XL/scp_statements.csv"),
        writes=("artifacts/ptbxl_{statements,train,val,test}.csv", "artifacts/ptbxl_splits.json"),
    ),
    Stage(
        "03_preprocess.py",
        reads=(
            "PTB-XL/records<rate>/",
            "artifacts/ptbxl_statements.csv",
            "artifacts/ptbxl_splits.json#records_sha256",
        ),
        writes=("artifacts/signals/{signals.npy,records.csv,rejected.csv,meta.json}",),
    ),
    Stage(
        "04_train_baseline_ml.py",
        reads=(*LABELS, *SIGNALS),
        writes=(
            "artifacts/<run>/{naive,random_forest,hist_gradient_boosting}<seed>/{config.json,metrics.csv}",
            "artifacts/<run>/{naive,random_forest,hist_gradient_boosting}<seed>/predictions_{val,test}.{csv,npy}",
            "artifacts/<run>/{minirocket_ridge,minirocket_logistic}<seed>/{config.json,metrics.csv}",
            "artifacts/<run>/{minirocket_ridge,minirocket_logistic}<seed>/predictions_{val,test}.{csv,npy}",
            "artifacts/<run>/{naive,minirocket_ridge,minirocket_logistic}<seed>/model.npz",
            "artifacts/<run>/{random_forest,hist_gradient_boosting}<seed>/model.skops",
        ),
    ),
    _training("05_train_resnet1d.py", "resnet1d", "resnet", augment=False),
    _training("06_train_resnet1d_augmented.py", "resnet1d", "resnet", augment=True),
    _training("07_train_inception.py", "inception", "inception", augment=False),
    _training("08_train_inception_augmented.py", "inception", "inception", augment=True),
    _training("09_train_xresnet1d.py", "xresnet1d", "xresnet", augment=False),
    _training("10_train_xresnet1d_augmented.py", "xresnet1d", "xresnet", augment=True),
    Stage(
        "11_plots_and_metrics.py",
        reads=(*ALL_RUNS, "artifacts/**/history.csv", *ALL_LABELS),
        writes=(
            "artifacts/final_results/{metrics,final_metrics_report,classes}.csv",
            "artifacts/final_results/thresholds.json",
            "artifacts/final_results/histories.png",
            "artifacts/final_results/**/{roc_curves,pr_curves,calibration,forest,per_class_auc}.png",
            "artifacts/ensemble*/{config.json,metrics.csv}",
            "artifacts/ensemble*/predictions_{val,test}.{csv,npy}",
            "artifacts/**/operating_points.csv?",
        ),
        presents=True,
    ),
    Stage(
        "12_conf_matrix_and_stat_test.py",
        reads=(*ALL_RUNS, *ALL_LABELS),
        writes=(
            "artifacts/final_results/{pairwise,confusion_counts}.csv",
            "artifacts/final_results/pairwise.md",
            "artifacts/final_results/**/{pairwise,confusion_matrices}.png",
            "artifacts/final_results/**/confusion_matrix_*.csv",
        ),
        presents=True,
    ),
    Stage(
        "13_interpretability.py",
        reads=(
            "artifacts/<run>/{config.json,best.pt,predictions_val.csv,predictions_test.csv}",
            *ALL_LABELS,
            *SIGNALS,
            "PTB-XL/{planted_signs,r_peaks}.csv?",
        ),
        writes=(
            "artifacts/interpretability_results/{lead_importance,sanity_checks}.{csv,png}",
            "artifacts/interpretability_results/examples.csv",
            "artifacts/interpretability_results/example_*.png",
        ),
        presents=True,
    ),
    Stage(
        "14_report.py",
        reads=(
            "artifacts/final_results/{metrics,final_metrics_report}.csv",
            "artifacts/final_results/**/*.{csv,json,md,png}",
            *ALL_RUNS,
            *ALL_LABELS,
            "artifacts/signals/{meta.json,rejected.csv}?",
            "artifacts/interpretability_results/*",
            "artifacts/eda_plots/*.png",
            "PTB-XL/planted_signs.csv?",
        ),
        writes=("artifacts/final_results/report.html", "artifacts/README.md"),
        presents=True,
        files=("codes/ecg/report.html.j2",),
    ),
)
TRAIN = Stage("train.py", TRAINING_READS, TRAINING_WRITES)  # not numbered, so run_all never starts it


# --- names of runs --------------------------------------------------------------------------------------------------


def network_name(model: str) -> str:
    """Return what folders of a network's runs begin with: `resnet` for resnet1d, else the name it is registered by."""
    names = {stage.network.model: stage.network.net for stage in STAGES if stage.network}
    return names.get(model, model)


def run_name(net: str, *, augment: bool, preset: str, labels: str, name: str) -> str:
    """Return the folder of a network's run below the artifacts folder: `name`, or one made of what tells it apart.

    Raises a `UserError` if `name` cannot be that of a folder of its own.
    """
    if name:
        return _checked(name)
    parts = [net]
    if preset != "default":
        parts.append(preset)
    parts.append("augmented" if augment else "standard")
    if labels:
        parts.append(labels)
    return "_".join(parts)


def baseline_name(labels: str, name: str) -> str:
    """Return the folder in which the runs of the baselines are."""
    if name:
        return _checked(name)
    return f"baseline_{labels}" if labels else "baseline"


def _checked(name: str) -> str:
    if not re.fullmatch(r"\w[\w.+-]*", name) or re.fullmatch(r"seed\d+", name):
        raise UserError(f"--name {name}: use letters, digits, _, -, + and dots, and not seed with a number")
    if name in RESERVED or name.startswith("ensemble"):
        raise UserError(f"--name {name}: that folder is for something else; choose another name")
    return name


# --- paths ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Declared:
    """A declared path with its words filled in: `part` is what was behind `#`, `optional` whether it ended in `?`."""

    path: str
    part: str = ""
    optional: bool = False

    @property
    def is_pattern(self) -> bool:
        return "*" in self.path

    @property
    def is_required(self) -> bool:
        return not (self.optional or self.is_pattern)

    def matches(self, path: str) -> bool:
        return bool(_pattern(self.path).fullmatch(path))


def words_of(stage: Stage, flags: Flags) -> dict[str, str]:
    """Return what the words in angle brackets mean for a stage with these flags."""
    text = {flag: value for flag, value in flags.items() if isinstance(value, str)}
    labels, name, seed = text.get("labels", ""), text.get("name", ""), text.get("seed", "0")
    words = {
        "run": text.get("run") or DEFAULT_RUN,
        "seed": "" if seed == "0" else f"/seed{seed}",
        "task": labels,
        "tables": "statements" if labels else "{train,val,test}",
        "rate": text.get("sampling_rate", "100"),
    }
    if stage.network:
        words["run"] = run_name(
            stage.network.net,
            augment=augments(stage.network, flags),
            preset=text.get("preset", "default"),
            labels=labels,
            name=name,
        )
    elif stage.names_run:
        words["run"] = baseline_name(labels, name)
    if text.get("init"):
        words["init"] = text["init"]
    return words


def augments(network: Network, flags: Flags) -> bool:
    """Return whether a training script augments: --augment counts more than the stage."""
    return bool(flags.get("augment", network.augment))


def fill(declared: Iterable[str], words: Mapping[str, str]) -> tuple[Declared, ...]:
    """Return declared paths with their words filled in and braces expanded; without those whose word has no value."""
    filled = []
    for token in _with_words(declared, words):
        path, _, part = token.removesuffix("?").partition("#")
        for each in _expand(path):
            filled.append(Declared(each, part, token.endswith("?")))
    return tuple(filled)


def _with_words(declared: Iterable[str], words: Mapping[str, str]) -> list[str]:
    filled = []
    for token in declared:
        names = re.findall(r"<(\w+)>", token)
        if all(name in words for name in names):
            for name in names:
                token = token.replace(f"<{name}>", words[name])
            filled.append(token)
    return filled


def _expand(text: str) -> list[str]:
    parts = re.split(r"\{([^{}]*)\}", text)  # every second one was in braces
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(chosen) for chosen in product(*choices)]


@cache
def _pattern(path: str) -> re.Pattern[str]:
    """Return the regular expression of a path in which `*` is any name and `**/` any folders, or none."""
    parts = []
    for part in re.split(r"(\*\*/|\*\*|\*)", path):
        parts.append({"**/": "(?:.+/)?", "**": ".+", "*": "[^/]*"}.get(part, re.escape(part)))
    return re.compile("".join(parts))


def help_of(script: str) -> str:
    """Return what a script's help says of its files, with flags as by default; nothing for one that is no stage."""
    for stage in STAGES:
        if stage.script == script:
            words = words_of(stage, {})
            return f"Reads:  {_listed(stage.reads, words)}\n\nWrites: {_listed(stage.writes, words)}\n\n"
    return ""


def _listed(declared: tuple[str, ...], words: Mapping[str, str]) -> str:
    paths = [token.removesuffix("?").partition("#")[0] for token in _with_words(declared, words)]
    return " ".join(dict.fromkeys(paths)) or "nothing"


# --- who made a file ------------------------------------------------------------------------------------------------


def maker_of(path: str, artifacts: Path = ROOT / "artifacts", stages: Iterable[Stage] = STAGES) -> Stage | None:
    """Return the stage that writes the file `path`, which is below the artifacts folder; None if no stage does.

    A run in a folder that somebody named belongs to the stage that trains what its config.json says.
    """
    wanted, stages = f"artifacts/{path}", tuple(stages)
    for stage in stages:
        if _writes(stage, wanted, run=words_of(stage, {})["run"]):
            return stage
    for stage in (*stages, TRAIN):
        if stage.names_run and _writes(stage, wanted, run="*"):
            if stage.network is None and stage is not TRAIN:  # the baselines, each in a folder of its own
                return stage
            if _was_trained_by(stage, artifacts / path):
                return stage
    return None


def _writes(stage: Stage, path: str, *, run: str) -> bool:
    words = words_of(stage, {}) | {"run": run}
    declared = [*fill(stage.writes, words), *fill(stage.writes, words | {"seed": "/seed*"})]
    return any(each.matches(path) for each in declared)


def _was_trained_by(stage: Stage, path: Path) -> bool:
    """Return whether the run in the folder of `path` is one that this stage, or train.py, would have trained."""
    config = path.parent / "config.json"
    if not config.exists():
        return False
    stored = read_json(config, made_by="its training script")
    if stage.network is None:
        return stored.get("model") in network_classes()
    augment = stored.get("settings", {}).get("augment", stored.get("augment", False))
    return (stored.get("model"), augment) == (stage.network.model, stage.network.augment)


# --- code -----------------------------------------------------------------------------------------------------------

# What no result depends on: how flags are read, which machine it was, and which other networks there are.
NO_PART = ("ecg.command_line", "ecg.hardware", "ecg.code_digest", "ecg.models:MODELS")


def code_of(
    stage: Stage, source: tuple[Path, str], flags: Flags, *, model: str = "", codes: Path = CODES
) -> dict[str, str]:
    """Return {definition: digest} of the code that a stage computes with, see `code_digest.reachable`.

    `source` is the path and the Python source of its script; `model` the network it uses, if it does.
    """
    without = list(NO_PART)
    if not stage.presents:
        without += ["ecg.plots", "ecg.stages"]
    if stage.network and not (augments(stage.network, flags) or flags.get("lead_subsets")):
        without.append("ecg.augmentation")
    if flags.get("preset", "default") == "default":
        without.append("ecg.training:PRESETS")
    known = network_classes(codes) if model else {}
    roots = [known[model]] if model in known else []
    return reachable(roots, without=without, codes=codes, script=source)


def training_code(model: str, augment: bool, codes: Path = CODES) -> dict[str, str]:
    """Return {definition: digest} of the code that the weights of a network depend on.

    The settings are left out: a training stores their values, so that a new flag invalidates no checkpoint.
    """
    known = network_classes(codes)
    if model not in known:
        raise UserError(f"--model {model!r} is not known: use one of {', '.join(known)}")
    without = [*NO_PART, "ecg.plots", "ecg.stages", "ecg.training:TrainingSettings"]
    if not augment:
        without.append("ecg.augmentation")
    roots = ["ecg.training:fit", "ecg.training:new_trainer", "ecg.distributed", known[model]]
    return reachable(roots, without=without, codes=codes)


def network_classes(codes: Path = CODES) -> dict[str, str]:
    """Return `ecg.models.MODELS`, {name: "module:Class"}, read from the source: importing it would import torch."""
    path = codes / "ecg" / "models" / "__init__.py"
    return _models(path, path.read_text(encoding="utf-8"))


@cache
def _models(path: Path, source: str) -> dict[str, str]:
    for node in parse(source, path).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "MODELS" for target in targets):
            return ast.literal_eval(node.value)
    raise UserError(f"{path}: there is no MODELS")
