"""What the guard on the input (`ecg.guard`) finds, what it flags wrongly, and what the faults do to an answer.

Each fault is put into real records, and the guard examines them with limits and coefficients that it learned from the
clean records of the other folds: those whose four columns of signal quality in ptbxl_database.csv are empty. Detection
is the share in which a finding of the right kind appears, `any_finding` that with any. Rows without a fault give the
share of flagged recordings there as `detection`. `false_alarm` is the share of clean records with that kind of finding.
Intervals are Wilson's, 95 %. Harm: the share of answers of a network for clean test records whose arg-max changes, and
of those in which any probability moves by more than .2.

What was learned from the clean records of all folds becomes `codes/ecg/guard.json`, with --write.

Reads:  PTB-XL/ptbxl_database.csv PTB-XL/records100/ PTB-XL/records500/ artifacts/resnet_standard/
Writes: artifacts/benchmarks/guard.csv, and codes/ecg/guard.json with --write
Run:    python codes/benchmarks/guard.py
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.stats import binomtest
from sklearn.linear_model import LinearRegression, LogisticRegression
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import print_ratio, write_results
from ecg.artifacts import UserError, atomic
from ecg.command_line import Folders, run
from ecg.formats import RecordError
from ecg.formats.wfdb import UV_PER_MV, read_record
from ecg.guard import (
    INDEPENDENT,
    LEAD_SETS,
    LEARNED,
    NOISES,
    Finding,
    Measured,
    compared,
    hypotheses,
    independent,
    judge,
    measure,
    not_ecg,
    rate_factor,
    tried_in,
)
from ecg.labels import read_database
from ecg.leads import FROM_I_II, LEADS, LIMB_LEADS, PAGE_3X4
from ecg.preprocessing import DURATION
from ecg.recordings import read_ecg
from ecg.stored_run import load_run

FS = 100  # Hz
QUALITY = ("baseline_drift", "static_noise", "burst_noise", "electrodes_problems")
TEST_FOLD = 10
MOVED = 0.2  # of a probability: an answer that is not the same any more

# Shares of clean records that each kind of finding may flag; together they must stay below 1 %.
SCALE_ALARMS = (0.0004, 0.0008)  # too small, too large
FORM_ALARMS, FORM_MARGIN = 0.002, 1.25  # the distance that so few exceed, and so many times that distance
RATE_ALARMS, NOISE_ALARMS = (0.0003, 0.0003), 0.0001
NOISE_MARGIN = 0.2  # and so much more, as a logarithm: it harms little
EXCHANGE_ALARMS = 0.001  # of one exchange; then the limits of a group are raised until together they have its share
LIMB_ALARMS, CHEST_ALARMS, UNCLEAR_ALARMS = 0.001, 0.001, 0.0005
# these cannot be told from unusual hearts in many a record, and would raise the limits of the others
UNCLEAR = ("left arm and left leg", "V2 and V3", "V4 and V5", "V5 and V6", "-I", "-II")
PENALTY = 0.02  # C of the logistic regressions on standardised features
INNER = 3  # parts for scores that the limits of exchanges are set on
RATES = (0.25, 0.4, 0.5, 0.8, 2.0, 2.5, 4.0)  # stated / true sampling rate
LEAD_COUNTS = (1, 2, 6, 12)  # for which limits of scale are learned


@dataclass(frozen=True)
class Settings(Folders):
    sample: int = 200
    """Clean records that the less important faults are put into; 0: all."""
    harm: str = "resnet_standard"
    """Run below --artifacts whose answers are compared; empty: none."""
    external: Path | None = None
    """Folder with WFDB recordings from elsewhere, of which the flagged share is reported."""
    write: bool = False
    """Write what was learned from all clean records to codes/ecg/guard.json."""


@dataclass(frozen=True)
class Fault:
    """A mistake to be put into a clean record, (12, t) millivolts in place, and the kinds of finding that name it.

    `make` returns the signal, or (signal, stated rate in Hz). `leads` are those that the guard is shown.
    """

    name: str
    kinds: tuple[str, ...]
    make: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    everyone: bool = False  # put into all clean records
    leads: tuple[str, ...] = LEADS
    rate: float = 1.0  # stated / true sampling rate
    harmful: bool = True  # its harm can be measured


# --- faults ---------------------------------------------------------------------------------------------------------


def from_independent(i_ii_v: np.ndarray) -> np.ndarray:
    """Return the twelve leads (12, t) of I, II, V1 to V6."""
    return np.concatenate([FROM_I_II @ i_ii_v[:2], i_ii_v[2:]])


def exchanged(name: str) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Return the fault that a hypothesis of the guard is about."""
    undo = next(hypothesis.undo for hypothesis in hypotheses() if hypothesis.name == name)
    do = np.linalg.inv(undo)
    rows = [LEADS.index(lead) for lead in INDEPENDENT]

    def make(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.rint(from_independent(do @ x[rows]) * UV_PER_MV) / UV_PER_MV  # devices round

    return make


def right_leg(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exchange the electrodes of right arm and right leg: both legs have nearly the same potential, so II is gone."""
    i_ii_v = np.stack([x[0] - x[1], 0.02 * x[1] + rng.normal(0, 0.003, x.shape[1]), *(x[6:] - x[1] / 3)])
    return from_independent(i_ii_v)


def one_lead(change: Callable[[np.ndarray, np.random.Generator], Any], leads: tuple[str, ...] = LEADS):
    """Return a fault of one lead of `leads`, drawn anew for each record; `change` works in place on (t,)."""

    def make(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        x = x.copy()
        change(x[LEADS.index(leads[rng.integers(len(leads))])], rng)
        return x

    return make


def negate(x: np.ndarray, rng: np.random.Generator) -> None:
    x *= -1


def flatten(seconds: float) -> Callable[[np.ndarray, np.random.Generator], None]:
    def change(x: np.ndarray, rng: np.random.Generator) -> None:
        n = min(round(seconds * FS), len(x))
        start = rng.integers(len(x) - n + 1)
        x[start : start + n] = x[start]

    return change


def all_flat_for(seconds: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    def make(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        x, n = x.copy(), round(seconds * FS)
        start = rng.integers(FS, x.shape[1] - n - FS)
        x[:, start : start + n] = x[:, start : start + 1]
        return x

    return make


def padded(begin: float, end: float, value: float | None = 0.0):
    """Return a fault that overwrites seconds at both ends with `value`, or with the neighbouring sample if None."""

    def make(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        x, first, last = x.copy(), round(begin * FS), x.shape[1] - round(end * FS)
        x[:, :first] = x[:, first : first + 1] if value is None else value
        x[:, last:] = x[:, last - 1 : last] if value is None else value
        return x

    return make


def printed_page(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    page, quarter = np.zeros_like(x), x.shape[1] // 4
    for row in PAGE_3X4:
        for column, lead in enumerate(row):
            part = slice(column * quarter, (column + 1) * quarter)
            page[LEADS.index(lead), part] = x[LEADS.index(lead), part]
    return page


def lose(seconds: float) -> Callable[[np.ndarray, np.random.Generator], None]:
    def change(x: np.ndarray, rng: np.random.Generator) -> None:
        n = max(1, round(seconds * FS))
        start = rng.integers(len(x) - n + 1)
        x[start : start + n] = np.nan

    return change


def clip_half(x: np.ndarray, rng: np.random.Generator) -> None:
    middle = np.median(x)
    reach = np.abs(x - middle).max() / 2
    np.clip(x, middle - reach, middle + reach, out=x)


def sentinel(x: np.ndarray, rng: np.random.Generator) -> None:
    x[rng.integers(len(x))] = np.iinfo(np.int16).min / UV_PER_MV


def noisy(rms: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    return lambda x, rng: x + from_independent(rng.normal(0, rms, (len(INDEPENDENT), x.shape[1])))


def burst(x: np.ndarray, rng: np.random.Generator) -> None:
    start = rng.integers(len(x) - 2 * FS)
    x[start : start + 2 * FS] += rng.normal(0, 0.5, 2 * FS)


def drifting(mv: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    def make(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        t, phase = np.arange(x.shape[1]) / FS, rng.random((len(INDEPENDENT), 1))
        return x + from_independent(mv * np.sin(2 * np.pi * (0.25 * t + phase)))

    return make


def hum(frequency: float, mv: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """At 500 Hz."""

    def make(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        t = np.arange(x.shape[1]) / 500
        return x + mv * np.sin(2 * np.pi * (frequency * t + rng.random())) * rng.uniform(0.3, 1, (12, 1))

    return make


def faults() -> list[Fault]:
    """Return what is put into clean records at 100 Hz."""
    found = []
    for factor in (1000, 10, 5, 2):
        for name, by in ((f"all x {factor}", factor), (f"all / {factor}", 1 / factor)):
            found.append(
                Fault(
                    name,
                    ("scale",),
                    lambda x, rng, by=by: x * by,
                    everyone=(factor, by) in {(5, 5), (5, 0.2), (10, 10), (1000, 1000)},
                )
            )
    for hypothesis in hypotheses():
        if hypothesis.kind == "inverted":
            continue  # below
        name = f"exchanged: {hypothesis.name}"
        found.append(Fault(name, (hypothesis.kind,), exchanged(hypothesis.name), hypothesis.kind == "arms exchanged"))
    found += [
        Fault(
            "exchanged: arms, limb leads alone", ("arms exchanged",), exchanged("arms"), leads=LIMB_LEADS, harmful=False
        ),
        Fault("exchanged: right arm and right leg", ("flat",), right_leg),
        Fault("exchanged: names of II and III", ("limb exchange",), lambda x, rng: x[[0, 2, 1, *range(3, 12)]]),
        Fault("inverted: one of six limb leads", ("inverted",), one_lead(negate, LIMB_LEADS)),
        Fault("inverted: aVR", ("inverted",), one_lead(negate, ("aVR",))),
        Fault("inverted: one chest lead", ("inverted",), one_lead(negate, LEADS[6:])),
        Fault("inverted: I, shown alone", ("inverted",), one_lead(negate, ("I",)), leads=("I",), harmful=False),
        Fault("inverted: II, shown alone", ("inverted",), one_lead(negate, ("II",)), leads=("II",), harmful=False),
        Fault("flat: one lead", ("flat",), one_lead(flatten(DURATION)), everyone=True),
        Fault("flat: one lead for 3 s", ("flat",), one_lead(flatten(3))),
        Fault(
            "flat: one lead, noise of 2 uV",
            ("flat",),
            one_lead(lambda x, rng: np.copyto(x, rng.normal(0, 0.002, len(x)))),
        ),
        Fault("flat: all leads", ("flat",), lambda x, rng: np.zeros_like(x)),
        Fault("flat: all leads for 0.5 s", ("flat",), all_flat_for(0.5)),
        Fault("padding: 1 s of zeros at the end", ("padding",), padded(0, 1), everyone=True),
        Fault("padding: 7 s of zeros at the end", ("padding",), padded(0, 7)),
        Fault("padding: 3 s constant at the beginning", ("padding",), padded(3, 0, None)),
        Fault("padding: 1 s missing at both ends", ("padding",), padded(1, 1, np.nan)),
        Fault("padding: printed page, 3 x 4", ("flat",), printed_page),
        Fault("missing: one sample of one lead", ("missing",), one_lead(lose(0))),
        Fault("missing: 2 s of one lead", ("missing",), one_lead(lose(2))),
        Fault("clipped: all leads at 0.5 mV", ("clipping",), lambda x, rng: x.clip(-0.5, 0.5)),
        Fault("clipped: one lead at half its height", ("clipping",), one_lead(clip_half)),
        Fault("spike: code for a missing sample read as -32.8 mV", ("spikes",), one_lead(sentinel)),
        Fault("noise: 0.05 mV", ("noise",), noisy(0.05)),
        Fault("noise: 0.1 mV", ("noise", "not an ECG"), noisy(0.1)),
        Fault("noise: 0.3 mV", ("noise", "not an ECG"), noisy(0.3)),
        Fault("noise: 2 s of 0.5 mV in one lead", ("noise",), one_lead(burst)),
        Fault("noise: drift of 0.5 mV", ("noise",), drifting(0.5)),
        Fault("noise: drift of 2 mV", ("noise",), drifting(2)),
    ]
    for rate in RATES:
        found.append(
            Fault(f"rate: stated {rate:g} times the true", ("rate", "not an ECG"), lambda x, rng: x, rate=rate)
        )
    return found


def first_seconds(seconds: float) -> Fault:
    return Fault("none", (), lambda x, rng: x[:, : round(seconds * FS)])


def hums() -> list[Fault]:
    """Return what is put into clean records at 500 Hz."""
    sizes = ((50, 0.05), (50, 0.1), (60, 0.1), (50, 0.3))
    return [Fault(f"mains: {f} Hz, {mv:g} mV", ("mains",), hum(f, mv), harmful=False) for f, mv in sizes]


# --- signals that are no ECG ----------------------------------------------------------------------------------------


def coloured(exponent: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Noise whose amplitude falls with frequency to the power of `exponent`."""

    def make(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        spectrum = np.fft.rfft(rng.normal(size=(4, len(t))))
        frequency = np.maximum(np.fft.rfftfreq(len(t), t[1]), 0.2)
        return np.fft.irfft(spectrum / frequency**exponent, len(t))

    return make


def sine(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.sin(2 * np.pi * (np.exp(rng.uniform(np.log(0.5), np.log(30))) * t + rng.random((4, 1))))


def music(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Chords that are struck about twice a second and die away."""
    beat = rng.uniform(0.3, 0.8)
    sound = np.zeros((4, len(t)))
    for start in np.arange(-1, t[-1], beat):
        since = t - start
        envelope = (since > 0) * np.exp(-np.maximum(since, 0) / rng.uniform(0.1, 0.4))
        for pitch in rng.uniform(3, 35, 3):
            sound += rng.random((4, 1)) * envelope * np.sin(2 * np.pi * pitch * since)
    return sound


def speech(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise in syllables."""
    envelope = np.abs(np.fft.irfft(np.fft.rfft(rng.normal(size=len(t))) * (np.fft.rfftfreq(len(t), t[1]) < 4), len(t)))
    return envelope * rng.normal(size=(4, len(t)))


def pulse_wave(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A finger's light absorption: a rise, a fall, a second smaller wave."""
    phase = (t * rng.uniform(0.8, 1.8) + 0.05 * np.cumsum(rng.normal(0, 0.02, len(t)))) % 1
    wave = np.exp(-(((phase - 0.25) / 0.1) ** 2)) + 0.4 * np.exp(-(((phase - 0.55) / 0.12) ** 2))
    return wave * rng.uniform(0.5, 1, (4, 1))


def breathing(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.sin(2 * np.pi * (rng.uniform(0.2, 0.5) * t + rng.random((4, 1)))) + rng.normal(0, 0.05, (4, len(t)))


def brain(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Alpha waves that come and go on pink noise."""
    envelope = 1 + np.sin(2 * np.pi * (0.3 * t + rng.random((4, 1))))
    pink = coloured(0.5)(t, rng)
    return envelope * np.sin(2 * np.pi * 10 * t + rng.random((4, 1))) + pink / pink.std()


def square(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A calibration signal."""
    return np.sign(np.sin(2 * np.pi * (rng.uniform(0.5, 3) * t + rng.random()))) * np.ones((4, 1))


def walking(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An accelerometer: steps of varying strength."""
    steps = np.zeros((4, len(t)))
    at = np.cumsum(rng.normal(0.55, 0.05, 40)) * FS
    at = at[at < len(t)].astype(int)
    steps[:, at] = rng.normal(0, 1, (4, len(at)))
    return ndimage.gaussian_filter1d(steps, rng.uniform(3, 8), axis=1) + rng.normal(0, 0.01, steps.shape)


NOT_ECGS = {
    "white noise": coloured(0),
    "pink noise": coloured(0.5),
    "random walk": coloured(1),
    "sine": sine,
    "music": music,
    "speech": speech,
    "pulse wave of a finger": pulse_wave,
    "breathing": breathing,
    "brain waves": brain,
    "square wave": square,
    "steps": walking,
}


def no_ecg(make: Callable, rng: np.random.Generator) -> np.ndarray:
    """Return twelve leads (12, t) of the size of an ECG's, mixed from four sources."""
    sources = make(np.arange(FS * DURATION) / FS, rng)
    x = rng.normal(size=(12, len(sources))) @ sources
    x = 0.15 * x / x.std(axis=1, keepdims=True) * rng.uniform(0.7, 1.4, (12, 1))
    x[: len(LIMB_LEADS)] = FROM_I_II @ x[:2]  # not to be told by leads that contradict each other
    return np.rint((x + rng.normal(0, 0.003, x.shape)) * UV_PER_MV) / UV_PER_MV


# --- learning -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Examples:
    """What undoing a hypothesis changes in clean records, (n, n_features): as they are, and after the mistake."""

    as_is: np.ndarray
    wrong: np.ndarray | None  # None: the same with the other sign, as the mistake undoes itself


def learn(
    clean: list[Measured],
    known: dict[str, dict[str, Examples]],
    rated: dict[float, list[Measured]],
    short: list[Measured],
    seen: np.ndarray,
) -> dict[str, Any]:
    """Return what `guard.json` holds, from the rows `seen` of clean records.

    And from some whose rate is misstated, {stated / true: records}, and pieces of 2.5 s.
    """
    good = [clean[row] for row in seen]
    noise = np.stack([measured.noise for measured in good])
    return {
        "scale": learn_scale(good, np.random.default_rng(0)),
        "form": learn_form(np.stack([measured.form for measured in good]), short),
        "rate": learn_rate(good, rated),
        "noise": {"names": NOISES, "limits": quantiles(noise + NOISE_MARGIN, 1 - NOISE_ALARMS)},
        "exchange": {name: learn_exchanges(of_set, seen) for name, of_set in known.items()},
    }


def quantiles(values: np.ndarray, share: float) -> list[float]:
    return np.round(np.quantile(values, share, axis=0), 4).tolist()


def learn_scale(clean: list[Measured], rng: np.random.Generator) -> dict[str, Any]:
    log_size = np.log(np.stack([measured.size for measured in clean]))
    usual = dict(zip(LEADS, np.round(log_size.mean(axis=0), 4).tolist(), strict=True))
    away = log_size - list(usual.values())
    limits = {}
    for count in LEAD_COUNTS:
        # the same records with other leads again and again: limits for whichever leads are there
        median = [np.median(row[rng.permutation(12)[:count]]) for row in away for _ in range(12 if count < 12 else 1)]
        low, high = SCALE_ALARMS
        limits[str(count)] = [quantiles(np.asarray(median), low), quantiles(np.asarray(median), 1 - high)]
    return {"usual": usual, "limits": limits}


def learn_form(form: np.ndarray, short: list[Measured]) -> dict[str, Any]:
    """Return the form's mean, what makes its covariance 1, and limits of its distance; `short`: pieces of 2.5 s."""
    values, vectors = np.linalg.eigh(np.cov(form.T))
    known = {"mean": form.mean(axis=0).tolist(), "whiten": (vectors / np.sqrt(values)).T.tolist()}
    of_few_beats = np.stack([measured.form for measured in short if measured.form is not None])
    for name, forms in (("limit", form), ("limit_of_few_beats", of_few_beats)):
        known[name] = quantiles(FORM_MARGIN * np.asarray([not_ecg(row, known) for row in forms]), 1 - FORM_ALARMS)
    return known


def learn_rate(clean: list[Measured], rated: dict[float, list[Measured]]) -> dict[str, Any]:
    """Regress the logarithm of stated / true rate on a recording's form."""
    right = np.stack([measured.form for measured in clean])
    x, y = [right], [np.zeros(len(right))]
    for rate, measured in rated.items():
        x.append(np.stack([m.form for m in measured if m.form is not None]))
        y.append(np.full(len(x[-1]), np.log(rate)))
    model = LinearRegression().fit(np.concatenate(x), np.concatenate(y))
    known = {"weights": model.coef_.tolist(), "intercept": float(model.intercept_)}
    values = np.asarray([rate_factor(row, known) for row in right])
    low, high = RATE_ALARMS
    return known | {"low": quantiles(values, low), "high": quantiles(values, 1 - high)}


def examples(clean: list[Measured]) -> dict[str, dict[str, Examples]]:
    """Return {set of leads: {hypothesis: examples}}, rows in the order of `clean`."""
    found = {}
    for name, members in LEAD_SETS.items():
        at = [INDEPENDENT.index(lead) for lead in members]
        beats = np.stack([independent(measured)[1][at] for measured in clean])
        numbers = compared(beats).astype(np.float32)
        found[name] = {}
        for hypothesis in tried_in(name, confirmed=False):
            undo = hypothesis.undo[np.ix_(at, at)]
            do = np.linalg.inv(undo)
            wrong = None if np.allclose(do, undo) else compared(do @ beats).astype(np.float32) - numbers
            found[name][hypothesis.name] = Examples(numbers - compared(undo @ beats).astype(np.float32), wrong)
    return found


def learn_exchanges(known: dict[str, Examples], seen: np.ndarray) -> dict[str, Any]:
    """Fit a logistic regression per exchange: beats as they are against the same with the exchange made.

    `seen` are the rows to learn from. Each limit is set on scores of records that a fit had not seen.
    """
    part = np.random.default_rng(0).permutation(len(seen)) % INNER
    unseen = np.empty((len(known), len(seen)))
    for scores, example in zip(unseen, known.values(), strict=True):
        for k in range(INNER):
            scores[part == k] = example.as_is[seen[part == k]] @ logistic(example, seen[part != k])
    limits = np.quantile(unseen, 1 - EXCHANGE_ALARMS, axis=1)
    kinds = {hypothesis.name: hypothesis.kind for hypothesis in hypotheses()}
    unclear = np.asarray([name in UNCLEAR for name in known])
    limb = np.asarray([kinds[name] in ("arms exchanged", "limb exchange") for name in known]) & ~unclear
    shares = ((limb, LIMB_ALARMS), (~limb & ~unclear, CHEST_ALARMS), (unclear, UNCLEAR_ALARMS))
    for group, share in shares:
        if group.any():
            margin = (unseen[group] - limits[group, None]).max(axis=0)
            limits[group] += max(0.0, np.quantile(margin, 1 - share))
    fitted = {}
    for (name, example), limit in zip(known.items(), limits, strict=True):
        weights = [float(f"{weight:.4g}") for weight in logistic(example, seen)]
        fitted[name] = {"weights": weights, "limit": round(float(limit), 4)}
    return fitted


def logistic(example: Examples, rows: np.ndarray) -> np.ndarray:
    """Return the weights of a logistic regression without intercept, positive for the mistake."""
    x = example.as_is[rows]
    x = np.concatenate([x, -example.wrong[rows]]) if example.wrong is not None else x
    size = np.sqrt((x**2).mean(axis=0))
    used = size > 1e-6
    # without intercept, x of one class is as good as -x of the other: every second one is turned round
    sign = np.where(np.arange(len(x)) % 2, 1, -1)
    model = LogisticRegression(C=PENALTY, fit_intercept=False, solver="newton-cholesky", tol=1e-3)
    model.fit(x[:, used] / size[used] * sign[:, None], sign < 0)
    weights = np.zeros(x.shape[1])
    weights[used] = model.coef_[0] / size[used]
    return weights


# --- measuring ------------------------------------------------------------------------------------------------------


def read(data: Path, table: pd.DataFrame, fs: int) -> dict[int, np.ndarray]:
    """Return {row of `table`: record (12, t) in millivolts} of those that are there."""
    found = {}
    for row, name in enumerate(table["filename_lr" if fs == FS else "filename_hr"]):
        try:
            found[row] = read_record(data / name, fs=fs, n_samples=fs * DURATION).T / UV_PER_MV
        except RecordError:
            continue  # 500 Hz files are there for some, and one lead of one record is flat
    return found


def wilson(hits: int, n: int) -> tuple[float, float]:
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return interval.low, interval.high


def row_of(name: str, group: str, kinds: tuple[str, ...], findings: list[list[Finding]]) -> dict[str, Any]:
    """Return one row of the table; without `kinds` any finding counts."""
    n = len(findings)
    right = sum(any(finding.kind in kinds for finding in found) if kinds else bool(found) for found in findings)
    low, high = wilson(right, n)
    return {
        "fault": name,
        "records": group,
        "kind": " or ".join(kinds) or "any",
        "n": n,
        "detection": right / n,
        "low": low,
        "high": high,
        "any_finding": sum(map(bool, findings)) / n,
        "error": sum(any(finding.severity == "error" for finding in found) for found in findings) / n,
    }


def filled(x: np.ndarray) -> np.ndarray:
    """Return (12, t) with straight lines over missing samples."""
    x, t = x.copy(), np.arange(x.shape[1])
    for row in x:
        there = ~np.isnan(row)
        row[~there] = np.interp(t[~there], t[there], row[there])
    return x


def benchmark(*, data: Path, artifacts: Path, sample: int, harm: str, external: Path | None, write: bool) -> None:
    table = read_database(data)
    missing = [column for column in QUALITY if column not in table]
    if missing:
        raise UserError(f"{data / 'ptbxl_database.csv'} has no column {missing[0]}")
    signals = read(data, table, FS)
    rows = np.asarray(list(signals))
    good = table[list(QUALITY)].isna().all(axis=1).to_numpy()
    fold = table.strat_fold.to_numpy()
    clean_rows, poor_rows = rows[good[rows]], rows[~good[rows]]
    rng = np.random.default_rng(0)
    some_rows = np.sort(rng.permutation(clean_rows)[:sample]) if sample else clean_rows

    def measured_with(fault: Fault, chosen: np.ndarray) -> list[Measured]:
        shown = [LEADS.index(lead) for lead in fault.leads]
        found = []
        for row in chosen:
            x = fault.make(signals[row], np.random.default_rng(row))
            found.append(measure(x[shown], fault.leads, FS * fault.rate))
        return found

    nothing = Fault("none", (), lambda x, rng: x)
    clean = measured_with(nothing, clean_rows)
    short = measured_with(first_seconds(2.5), clean_rows)
    faulty = {}
    for fault in tqdm(faults(), desc="faults", unit="fault", disable=None):
        chosen = clean_rows if fault.everyone else some_rows
        faulty[fault] = (chosen, measured_with(fault, chosen))
    rated = {fault.rate: pair for fault, pair in faulty.items() if fault.rate != 1}

    part = (fold + 1) // 2  # two folds are left out at a time
    parts = np.unique(part[clean_rows])
    whole = np.asarray([measured.form is not None and measured.leads == LEADS for measured in clean])
    all_examples = examples([measured for measured, is_whole in zip(clean, whole, strict=True) if is_whole])
    known = {}
    for k in tqdm([*parts, 0], desc="learning", unit="part", disable=None):  # 0: from all
        rates = {rate: [m for row, m in zip(*pair, strict=True) if part[row] != k] for rate, pair in rated.items()}
        usable = [measured for measured, is_whole in zip(clean, whole, strict=True) if is_whole]
        few = [measured for row, measured in zip(clean_rows, short, strict=True) if part[row] != k]
        known[k] = learn(usable, all_examples, rates, few, np.flatnonzero(part[clean_rows[whole]] != k))
    if write:
        with atomic(LEARNED) as path:  # on one line: thousands of weights
            path.write_text(json.dumps(known[0]) + "\n", encoding="utf-8")

    def judged(chosen: np.ndarray, measured: list[Measured]) -> list[list[Finding]]:
        return [judge(one, known[part[row]]) for row, one in zip(chosen, measured, strict=True)]

    results = [row_of("none", "clean", (), clean_findings := judged(clean_rows, clean))]
    results.append(row_of("none", "of poor quality", (), judged(poor_rows, measured_with(nothing, poor_rows))))
    for text, leads in (("clean, six limb leads", LIMB_LEADS), ("clean, I and II", ("I", "II")), ("clean, I", ("I",))):
        shown = measured_with(Fault("none", (), lambda x, rng: x, leads=leads), some_rows)
        results.append(row_of("none", text, (), judged(some_rows, shown)))
    results.append(row_of("none", "clean, 5 s", (), judged(some_rows, measured_with(first_seconds(5), some_rows))))
    results.append(row_of("none", "clean, 2.5 s", (), judged(clean_rows, short)))

    fine = read(data, table[good], 500)
    at_500 = np.flatnonzero(good)[list(fine)] if fine else np.empty(0, int)
    for fault in [nothing, *hums()] if fine else []:
        pairs = zip(at_500, fine.values(), strict=True)
        found = [measure(fault.make(x, np.random.default_rng(row)), LEADS, 500) for row, x in pairs]
        results.append(row_of(fault.name, "clean, 500 Hz", fault.kinds, judged(at_500, found)))
    if external:
        results += external_rows(external, known[0])
    for fault, (chosen, measured) in faulty.items():
        results.append(row_of(fault.name, "clean", fault.kinds, judged(chosen, measured)))
    for name, make in NOT_ECGS.items():
        shown = [measure(no_ecg(make, np.random.default_rng(i)), LEADS, FS) for i in range(200)]
        found = [judge(one, known[parts[i % len(parts)]]) for i, one in enumerate(shown)]
        results.append(row_of(f"no ECG: {name}", "made up", ("not an ECG",), found))
    table = pd.DataFrame(results)
    add_false_alarms(table, clean_findings)
    if harm:
        test = clean_rows[fold[clean_rows] == TEST_FOLD]
        add_harm(table, artifacts / harm, {row: signals[row] for row in test})
    write_results(table, artifacts, "guard")
    print(table[["fault", "records", "n", "detection", "low", "any_finding", "error"]].round(3).to_string(index=False))
    print(pd.Series([f.kind for found in clean_findings for f in found]).value_counts().to_string())
    print_ratio(table.detection[0], "share of clean records flagged (at most .01)")


def external_rows(folder: Path, known: dict[str, Any]) -> list[dict[str, Any]]:
    found = {}
    for header in sorted(folder.rglob("*.hea")):
        try:
            recording = read_ecg(header)
        except RecordError as error:
            print(f"left out: {error}")
            continue
        found[header.stem] = judge(measure(recording.signal, recording.leads, recording.fs), known)
    for name, findings in found.items():
        if findings:
            print(f"{name}: {'; '.join(f'{finding.kind}: {finding.message}' for finding in findings)}")
    return [row_of("none", "elsewhere", (), list(found.values()))] if found else []


def add_false_alarms(table: pd.DataFrame, clean: list[list[Finding]]) -> None:
    """Add to each row the share of clean records that have a finding of its kind."""
    for i, kind in table.kind.items():
        if kind != "any":
            hits = sum(any(finding.kind in kind.split(" or ") for finding in found) for found in clean)
            table.loc[i, ["false_alarm", "false_low", "false_high"]] = (hits / len(clean), *wilson(hits, len(clean)))


def add_harm(table: pd.DataFrame, run_folder: Path, test: dict[int, np.ndarray]) -> None:
    """Add to each fault how the answers of a run for `test` change."""
    stored = load_run(run_folder, device="cpu")
    before = stored.predict(np.stack(list(test.values())), FS)
    for fault in tqdm(faults(), desc="harm", unit="fault", disable=None):
        if not fault.harmful:
            continue
        x = np.stack([filled(fault.make(signal, np.random.default_rng(row))) for row, signal in test.items()])
        after = stored.predict(x, FS * fault.rate)
        changed = (after.argmax(axis=1) != before.argmax(axis=1)).mean()
        moved = (np.abs(after - before).max(axis=1) > MOVED).mean()
        columns = ["harm_n", "arg_max_changed", "moved"]
        table.loc[table.fault == fault.name, columns] = (len(test), changed, moved)


if __name__ == "__main__":
    run(benchmark, Settings, __doc__)
