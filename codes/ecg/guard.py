"""What may be wrong with a recording before a model answers it: unit, electrodes, gaps, noise, rate, or no ECG at all.

`examine` takes what was recorded, in millivolts, before any filter. It first looks at the samples themselves (missing,
constant, clipped, limb leads that contradict each other) by fixed limits. Scale, exchanged electrodes, noise, sampling
rate and whether it is an ECG are judged by what `codes/benchmarks/guard.py` learned from recordings of good quality:
`guard.json` beside this file holds its limits and linear coefficients. That benchmark also measures what is found, and
what is flagged wrongly.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import fft, ndimage, signal

from ecg.artifacts import read_json
from ecg.leads import FROM_I_II, LEADS, LIMB_LEADS

LEARNED = Path(__file__).with_name("guard.json")
FS = 100  # Hz; shape is judged at this rate, between 0.5 and 40 Hz
LONGEST = 60  # s; shape is judged on so much from the middle of a longer recording
FEW_BEATS = 5  # s; up to here the form of a recording varies more
SHORTEST = 2.5  # s of signal that an answer needs

# Fixed limits. In 2,508 PTB-XL records all leads together stay constant for 0.10 s at most and a single lead for
# 0.34 s (but for one that is flat), no lead rests on its own extreme three times, aVR, aVL, aVF and II = I + III are
# never off by more than .015, and the smallest lead of good quality has .14 of the others' size.
STILL_TOGETHER = 0.3  # s that all leads may stay constant
STILL_ALONE = 1.0  # s that one lead may, which can be isoelectric from one beat to the next
MISFIT = 0.1  # of the limb leads' size
COMPUTED = 1e-4  # of it: leads that agree so closely were computed from each other; rounding alone leaves .002
CLIPPED = 3  # times a lead rests on its own extreme
WEAK = 0.1  # of the median lead's size: an electrode is off, or is the right leg's
SPIKE = 15.0  # mV from the mean, more than any heart gives
MAINS = 0.05  # mV, amplitude of a line at 50 or 60 Hz
UNREAL = np.log(50.0)  # times what is usual, or a 50th of it: no heart gives that, the answer means nothing

BEFORE, AFTER = 30, 50  # samples of a beat before and after its QRS: 0.3 s, 0.5 s
# samples of P early and late, Q, R, S, ST, T early and late
PARTS = ((4, 14), (14, 24), (25, 29), (29, 32), (32, 36), (38, 48), (48, 60), (60, 76))
WAVES = ((4, 24), (24, 36), (38, 76))  # P, QRS, T
CHEST_LEADS = LEADS[len(LIMB_LEADS) :]
INDEPENDENT = ("I", "II", *CHEST_LEADS)  # the other four follow from I and II
LEAD_SETS = {"twelve": INDEPENDENT, "limb": ("I", "II"), "chest": CHEST_LEADS, "I": ("I",), "II": ("II",)}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; after an `error` an answer would mean nothing. `leads` are those concerned."""

    kind: str
    severity: Literal["error", "warning"]
    message: str
    leads: tuple[str, ...] = ()


@dataclass
class Measured:
    """What `judge` needs to know of a recording."""

    findings: list[Finding]  # by fixed limits
    leads: tuple[str, ...] = ()  # that have a signal
    seconds: float = 0.0
    size: np.ndarray = field(default_factory=lambda: np.empty(0))  # (n_leads,) mV, deviation between 0.5 and 40 Hz
    peak: np.ndarray = field(default_factory=lambda: np.empty(0))  # (n_leads,) mV, farthest from the median
    noise: np.ndarray | None = None  # see `NOISES`
    shape_known: bool = False  # enough of it is signal to judge its shape
    form: np.ndarray | None = None  # see `FORM`; None where nothing beats
    beat: np.ndarray | None = None  # (n_leads, 80) mV, the median beat
    consistent: bool = True  # no limb lead contradicts the others
    confirmed: bool = False  # three or more were recorded and agree, so none of them is inverted


def examine(signal_mv: np.ndarray, leads: tuple[str, ...], fs: float) -> list[Finding]:
    """Return what is wrong with a recording, errors first; nothing for 99 of 100 good ones.

    `signal_mv` (n_leads, t) millivolts as recorded, unfiltered, nan where a sample is missing; `leads` some of the
    twelve, each once; `fs` in Hz, from 50.
    """
    findings = judge(measure(signal_mv, leads, fs), learned())
    return sorted(findings, key=lambda finding: finding.severity != "error")


@lru_cache(maxsize=1)
def learned() -> dict[str, Any]:
    """Return limits and coefficients, as `guard.json` has them."""
    return read_json(LEARNED, made_by="codes/benchmarks/guard.py")


# --- the samples, by fixed limits -----------------------------------------------------------------------------------


def measure(signal_mv: np.ndarray, leads: tuple[str, ...], fs: float) -> Measured:
    """Return what fixed limits find, and what `judge` needs for the rest; the arguments are those of `examine`."""
    x = np.asarray(signal_mv, np.float64)
    if x.ndim != 2 or len(x) != len(leads) or len(set(leads)) != len(leads) or not set(leads) <= set(LEADS):
        raise ValueError(f"expected (n_leads, t), each lead once and one of {' '.join(LEADS)}; got {x.shape}, {leads}")
    if not np.isfinite(x).all():
        x = np.where(np.isfinite(x), x, np.nan)
    findings, begin, end = _padding(x, fs)
    if any(finding.severity == "error" for finding in findings):
        return Measured(findings)
    x = x[:, begin:end]
    dead, found = _dead(x, leads, fs)
    findings += found
    alive = dead.mean(axis=1) < 0.9
    if any(finding.severity == "error" for finding in found):
        return Measured(findings)
    x, dead, leads = x[alive], dead[alive], tuple(lead for lead, has in zip(leads, alive, strict=True) if has)
    findings += _clipped(x, leads, fs)
    found, consistent, confirmed = _contradictions(x, leads)
    findings += found

    middle = slice(max(0, (x.shape[1] - round(LONGEST * fs)) // 2), None)
    x, dead = (values[:, middle][:, : round(LONGEST * fs)] for values in (x, dead))
    x = _filled(x, dead)
    if x.shape[1] < 0.5 * fs:  # too short for any judgement
        return Measured(findings)
    findings += _mains(x, leads, fs)
    peak = np.abs(x - x.mean(axis=1, keepdims=True)).max(axis=1)
    z, drift = _band(x, fs)
    at = np.minimum(np.arange(z.shape[1]) * fs / FS, x.shape[1] - 1).astype(int)
    size = np.sqrt(np.mean(z**2, axis=1, where=~dead[:, at]))
    measured = Measured(findings, leads, x.shape[1] / fs, size, peak, consistent=consistent, confirmed=confirmed)
    if dead.mean() < 0.2 and z.shape[1] >= SHORTEST * FS - 1:
        measured.shape_known = True
        measured.noise = _noise(z, drift)
        measured.form, measured.beat = _form(z)
    return measured


def _runs(mask: np.ndarray, *, longer_than: float) -> np.ndarray:
    """Return (n_runs, 3), row, begin and end of runs of True along the rows of `mask` (n, t)."""
    padded = np.zeros((len(mask), mask.shape[1] + 2), np.int8)
    padded[:, 1:-1] = mask
    row, edge = np.nonzero(padded[:, 1:] != padded[:, :-1])
    runs = np.stack([row[::2], edge[::2], edge[1::2]], axis=1)
    return runs[runs[:, 2] - runs[:, 1] > longer_than]


def _still(x: np.ndarray) -> np.ndarray:
    """Return (n_leads, t - 1), whether a lead stays exactly where it was, or is missing, from a sample to the next."""
    step = np.diff(x, axis=1)
    return (step == 0) | np.isnan(step)


def _seconds(n: float, fs: float) -> str:
    return f"{n / fs:.1f} s"


def _padding(x: np.ndarray, fs: float) -> tuple[list[Finding], int, int]:
    """Return (findings, begin, end of the signal): what lies outside is constant or missing in all leads."""
    n = x.shape[1]
    moving = np.flatnonzero(~_still(x).all(axis=0))
    if not len(x) or not len(moving):
        return [Finding("flat", "error", "no lead has a signal: an answer would mean nothing")], 0, n
    begin, end = int(moving[0]), int(moving[-1]) + 2
    begin, end = begin if begin > STILL_TOGETHER * fs else 0, end if n - end > STILL_TOGETHER * fs else n
    if end - begin == n:
        return [], 0, n
    where = [f"first {_seconds(begin, fs)}"] if begin else []
    where += [f"last {_seconds(n - end, fs)}"] if end < n else []
    text = f"the {' and the '.join(where)} hold no signal (padded?): "
    if end - begin < max(n / 2, SHORTEST * fs):
        return [Finding("padding", "error", f"{text}too little is left, an answer would mean nothing")], begin, end
    return [Finding("padding", "warning", f"{text}they distort the answer, cut them off")], begin, end


def _dead(x: np.ndarray, leads: tuple[str, ...], fs: float) -> tuple[np.ndarray, list[Finding]]:
    """Return where there is no signal, (n_leads, t), and what to say about it."""
    missing, still = np.isnan(x), _still(x)
    constant = np.zeros_like(missing)
    for lead, start, stop in _runs(still, longer_than=STILL_ALONE * fs):
        constant[lead, start : stop + 1] = True
    together = 0
    for _, start, stop in _runs(still.all(axis=0, keepdims=True), longer_than=STILL_TOGETHER * fs):
        constant[:, start : stop + 1] = True
        together = max(together, stop - start)
    constant &= ~missing
    dead = missing | constant
    findings = []
    if dead.mean() > 0.5:
        text = f"{dead.mean():.0%} of the samples are missing or constant: an answer would mean nothing"
        findings.append(Finding("missing" if missing.mean() > constant.mean() else "flat", "error", text, leads))
        return dead, findings
    if together:
        text = f"all leads are constant together for {_seconds(together, fs)}: beats are missing from the answer"
        findings.append(Finding("flat", "warning", text, leads))
    whole = constant.mean(axis=1) >= 0.9
    for concerned, text in (
        (whole, "flat: what these leads would show is not in the answer"),
        (constant.any(axis=1) & ~whole & (not together), "flat in part: the answer is less certain there"),
    ):
        if concerned.any():
            findings.append(_about("flat", np.asarray(leads)[concerned], text))
    if missing.any():
        gap = np.diff(_runs(missing, longer_than=0)[:, 1:]).max()
        text = f"without {missing.mean():.1%} of all samples, up to {_seconds(gap, fs)} on end: gaps are bridged"
        findings.append(_about("missing", np.asarray(leads)[missing.any(axis=1)], text))
    return dead, findings


def _about(kind: str, leads: np.ndarray, text: str) -> Finding:
    names = tuple(leads.tolist())
    return Finding(kind, "warning", f"{'lead' if len(names) == 1 else 'leads'} {', '.join(names)}: {text}", names)


def _clipped(x: np.ndarray, leads: tuple[str, ...], fs: float) -> list[Finding]:
    """Find leads whose waves end on a plateau: they rest several times on their highest or lowest value."""
    shortest = max(2, round(0.01 * fs))
    times = np.zeros((2, len(x)), int)
    for side, extreme in enumerate((np.nanmax(x, axis=1), np.nanmin(x, axis=1))):
        rests = _runs(x == extreme[:, None], longer_than=shortest - 1)
        times[side] = np.bincount(rests[:, 0], minlength=len(x))
    clipped = times.max(axis=0) >= CLIPPED
    if not clipped.any():
        return []
    text = "clipped at the highest or lowest value: voltages are too small"
    return [_about("clipping", np.asarray(leads)[clipped], text)]


def _contradictions(x: np.ndarray, leads: tuple[str, ...]) -> tuple[list[Finding], bool, bool]:
    """Compare the limb leads with what Einthoven (II = I + III) and Goldberger say (aVR, aVL, aVF from I and II).

    Return (findings, whether they are consistent, whether that confirms them: leads computed from others say nothing).
    """
    rows = [i for i, lead in enumerate(leads) if lead in LIMB_LEADS]
    names = [leads[i] for i in rows]
    if len(names) < 3:
        return [], True, False
    y = x[rows][:, ~np.isnan(x[rows]).any(axis=0)]
    if y.shape[1] < 2:
        return [], True, False
    y = y - y.mean(axis=1, keepdims=True)
    covariance = y @ y.T / y.shape[1]
    size = np.sqrt(np.median(np.diag(covariance)))
    rest = np.eye(len(names)) - FROM_I_II[[LIMB_LEADS.index(name) for name in names]] @ _to_i_ii(tuple(names))

    def misfit(change: np.ndarray) -> float:
        part = rest @ change
        return float(np.sqrt(max(np.diag(part @ covariance @ part.T).max(), 0.0)) / max(size, 1e-12))

    now = misfit(np.eye(len(names)))
    if now <= MISFIT:
        return [], True, now > COMPUTED
    cures = {}
    for i, name in enumerate(names):
        cures[(name,)] = misfit(np.diag(np.where(np.arange(len(names)) == i, -1.0, 1.0)))
        for j in range(i):
            order = np.arange(len(names))
            order[[i, j]] = order[[j, i]]
            cures[(names[j], name)] = misfit(np.eye(len(names))[order])
    best = min(cures, key=cures.__getitem__)
    if cures[best] > MISFIT / 2:
        text = "the limb leads contradict each other (II is not I + III, or aVR, aVL, aVF do not follow): "
        return [Finding("limb leads", "warning", f"{text}axis and inferior leads mislead", tuple(names))], False, False
    if len(best) == 1:
        text = "inverted, the other limb leads show it: its waves mislead"
        return [_about("inverted", np.asarray(best), text)], False, False
    text = "exchanged, the other limb leads show it: both mislead"
    return [_about("limb exchange", np.asarray(best), text)], False, False


@lru_cache(maxsize=64)
def _to_i_ii(limb: tuple[str, ...]) -> np.ndarray:
    """Return (2, n): I and II from these limb leads, by least squares."""
    return np.linalg.pinv(FROM_I_II[[LIMB_LEADS.index(lead) for lead in limb]])


def _filled(x: np.ndarray, dead: np.ndarray) -> np.ndarray:
    """Return `x` with straight lines over what is dead."""
    if not dead.any():
        return x
    x = x.copy()
    t = np.arange(x.shape[1])
    for row, gone in zip(x, dead, strict=True):
        row[gone] = np.interp(t[gone], t[~gone], row[~gone]) if not gone.all() else 0.0
    return x


def _mains(x: np.ndarray, leads: tuple[str, ...], fs: float) -> list[Finding]:
    """Find a narrow line at 50 or 60 Hz."""
    if fs < 120 or x.shape[1] < fs:
        return []
    window = np.hanning(x.shape[1])
    frequency = np.fft.rfftfreq(x.shape[1], 1 / fs)
    amplitude = 2 * np.abs(fft.rfft((x - x.mean(axis=1, keepdims=True)) * window, axis=1)) / window.sum()
    for mains in (50, 60):
        distance = np.abs(frequency - mains)
        height = amplitude[:, distance < 1].max(axis=1, initial=0)
        around = np.median(amplitude[:, (distance > 2) & (distance < 8)], axis=1)
        found = (height > MAINS) & (height > 8 * around)
        if found.any():
            text = f"{mains} Hz mains of {height.max():.2f} mV: small waves may drown in it"
            return [_about("mains", np.asarray(leads)[found], text)]
    return []


# --- shape: what the learned limits are about -----------------------------------------------------------------------


def _band(x: np.ndarray, fs: float) -> tuple[np.ndarray, np.ndarray]:
    """Return `x` between 0.5 and 40 Hz at 100 Hz, (n_leads, 100 t), and the size of what lies below, (n_leads,).

    In one Fourier transform; the ends are mirrored in time.
    """
    n = x.shape[1]
    pad = min(round(fs), n - 1)
    x = np.pad(x - x.mean(axis=1, keepdims=True), ((0, 0), (pad, pad)), "reflect")
    spectrum = fft.rfft(x, axis=1)
    frequency = np.fft.rfftfreq(x.shape[1], 1 / fs)
    low = 1 / (1 + (frequency / 0.5) ** 6)
    high = 1 / (1 + (frequency / 40) ** 16)
    m = round(x.shape[1] * FS / fs)
    drift = np.sqrt(2 * np.sum(np.abs(spectrum * low) ** 2, axis=1)) / x.shape[1]
    z = fft.irfft((spectrum * (1 - low) * high)[:, : m // 2 + 1], n=m, axis=1) * (m / x.shape[1])
    start = round(pad * FS / fs)
    return z[:, start : start + round(n * FS / fs)], drift


NOISES = ("noise", "noise of one lead", "burst", "drift")


def _noise(z: np.ndarray, drift: np.ndarray) -> np.ndarray:
    """Return `NOISES` as logarithms of their ratio to the usual size of a lead.

    Noise is the median second difference: waves bend in short moments only.
    """
    bend = np.abs(np.diff(z, n=2, axis=1))
    usual = np.median(bend, axis=1)
    second = bend[:, : bend.shape[1] // FS * FS].reshape(len(z), -1, FS)
    burst = np.median(second, axis=2).max() if second.size else usual.max()
    values = np.array([np.median(usual), usual.max(), burst, np.median(drift)])
    return np.log((values + 1e-9) / (np.median(z.std(axis=1)) + 1e-9))


FORM = (
    "heart rate",
    "irregularity",
    "similarity of beats",
    "peakedness",
    "mobility",
    "complexity",
    "QRS width",
    "concentration",
    "variation of beats",
    "T wave",
)


def _form(z: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return `FORM` (10,), which no scale changes, and the median beat (n_leads, 80); None if nothing beats."""
    slope = np.diff(z, axis=1)
    smooth = ndimage.uniform_filter1d(z, 5, axis=1)  # against noise, here and where beats are compared
    steep = np.abs(smooth[:, 2:] - smooth[:, :-2])
    rank = int(0.98 * steep.shape[1])
    steepest = np.partition(steep, rank, axis=1)[:, rank]
    energy = ndimage.uniform_filter1d(np.minimum(steep / (steepest[:, None] + 1e-9), 2).mean(axis=0), 11)
    high = np.partition(energy, int(0.97 * len(energy)))[int(0.97 * len(energy))]
    peaks, _ = signal.find_peaks(energy, distance=25, height=0.4 * high)
    whole = peaks[(peaks >= BEFORE) & (peaks < z.shape[1] - AFTER)]
    if not len(whole) or len(peaks) < 2:
        return None, None
    beats = z[:, whole[:, None] + np.arange(-BEFORE, AFTER)]  # (n_leads, n_beats, 80)
    beat = np.median(beats, axis=1)

    near, mean = (ndimage.uniform_filter1d(part[..., 15:50], 5, axis=2) for part in (beats, beat[:, None]))
    near, mean = near - near.mean(axis=2, keepdims=True), mean - mean.mean(axis=2, keepdims=True)
    alike = (near * mean).sum(axis=2) / np.sqrt((near**2).sum(axis=2) * (mean**2).sum(axis=2) + 1e-12)
    power, slope_power = (z**2).mean(axis=1) + 1e-12, (slope**2).mean(axis=1) + 1e-12
    bend_power = (np.diff(slope, axis=1) ** 2).mean(axis=1) + 1e-12
    pulse = (np.diff(beat, axis=1) ** 2 / slope_power[:, None]).sum(axis=0)[BEFORE - 20 : BEFORE + 20]
    heights, interval = energy[peaks], np.diff(peaks) / FS
    inside = ndimage.maximum_filter1d(np.bincount(peaks, minlength=slope.shape[1]), 13) > 0
    form = [
        np.log(60 / np.median(interval)),
        np.log(interval.std() / interval.mean() + 0.02),
        np.arctanh(np.median(alike.mean(axis=1)).clip(-0.999, 0.999)),
        np.median(np.log((slope**4).mean(axis=1) / slope_power**2)),
        np.median(np.log(slope_power / power)),
        np.median(np.log(bend_power * power / slope_power**2)),
        np.log(pulse.sum() ** 2 / ((pulse**2).sum() + 1e-12)),
        np.log((slope**2 / slope_power[:, None])[:, inside].sum() / (slope.shape[1] * len(z))),
        np.log(heights.std() / heights.mean() + 0.02),
        np.median(np.log((beat[:, 38:76].std(axis=1) + 1e-6) / (beat[:, 24:36].std(axis=1) + 1e-6))),
    ]
    return np.asarray(form), beat


# --- exchanged electrodes -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hypothesis:
    """A mistake, and what undoes it: `undo` (8, 8) gives the true leads I, II, V1 to V6 from those recorded."""

    name: str
    kind: str
    leads: tuple[str, ...]
    undo: np.ndarray
    message: str

    def within(self, leads: tuple[str, ...]) -> bool:
        """Whether it concerns no other leads than these."""
        touched = (self.undo != np.eye(len(INDEPENDENT))).any(axis=1)
        return {lead for lead, is_touched in zip(INDEPENDENT, touched, strict=True) if is_touched} <= set(leads)


@lru_cache(maxsize=1)
def hypotheses() -> tuple[Hypothesis, ...]:
    """Return the exchanges that are tried."""

    def undo(**rows: dict[str, float]) -> np.ndarray:
        matrix = np.eye(len(INDEPENDENT))
        for lead, row in rows.items():
            matrix[INDEPENDENT.index(lead)] = [row.get(other, 0.0) for other in INDEPENDENT]
        return matrix

    limb = "axis and infarction of limb leads mislead"
    legs = {  # I and II in terms of the recorded ones
        "right arm and left leg": undo(I={"I": 1, "II": -1}, II={"II": -1}),
        "left arm and left leg": undo(I={"II": 1}, II={"I": 1}),
        "all three limb electrodes, round one way": undo(I={"II": 1, "I": -1}, II={"I": -1}),
        "all three limb electrodes, round the other way": undo(I={"II": -1}, II={"I": 1, "II": -1}),
    }
    text = "lead I looks inverted: arm electrodes exchanged (or the heart lies on the right), the answer misleads"
    arms = undo(I={"I": -1}, II={"II": 1, "I": -1})
    found = [Hypothesis("arms", "arms exchanged", LIMB_LEADS, arms, text)]
    for name, matrix in legs.items():
        found.append(Hypothesis(name, "limb exchange", LIMB_LEADS, matrix, f"{name} look exchanged: {limb}"))
    pairs = [*pairwise(CHEST_LEADS), (CHEST_LEADS[0], CHEST_LEADS[2])]
    for a, b in pairs:
        text = f"leads {a} and {b} look exchanged: what is said of the anterior wall may mislead"
        matrix = undo(**{a: {b: 1}, b: {a: 1}})
        found.append(Hypothesis(f"{a} and {b}", "chest exchange", (a, b), matrix, text))
    matrix = undo(**{a: {b: 1} for a, b in zip(CHEST_LEADS, CHEST_LEADS[::-1], strict=True)})
    text = "the chest leads look as if in reverse order: what is said of the anterior wall misleads"
    found.append(Hypothesis("V6 to V1", "chest exchange", CHEST_LEADS, matrix, text))
    for lead in INDEPENDENT:
        text = f"lead {lead} looks inverted: its waves mislead"
        found.append(Hypothesis(f"-{lead}", "inverted", (lead,), undo(**{lead: {lead: -1}}), text))
    return tuple(found)


def compared(beat: np.ndarray) -> np.ndarray:
    """Return numbers (n, n_features) for median beats (n, n_leads, 80) that tell one electrode from another.

    Per lead and part of the beat the root of its mean; per wave the leads' correlations with each other and their
    sizes. None depends on the scale of the whole.
    """
    beat = beat / (np.sqrt((beat**2).mean(axis=(1, 2), keepdims=True)) + 1e-9)
    means = np.concatenate([beat[:, :, a:b].mean(axis=2) for a, b in PARTS], axis=1)
    above = np.triu_indices(beat.shape[1], 1)
    numbers = [np.sign(means) * np.sqrt(np.abs(means))]
    for a, b in WAVES:
        wave = beat[:, :, a:b] - beat[:, :, a:b].mean(axis=2, keepdims=True)
        products = wave @ wave.transpose(0, 2, 1)
        power = np.einsum("nii->ni", products)
        size = np.sqrt(power + 0.3)
        numbers.append((products / (size[:, :, None] * size[:, None, :]))[:, above[0], above[1]])
        numbers.append(np.log(np.sqrt(power / (b - a)) + 0.02))
    return np.concatenate(numbers, axis=1)


def independent(measured: Measured) -> tuple[tuple[str, ...], np.ndarray]:
    """Return those of I, II, V1 to V6 that are there or follow, and their median beat (n_leads, 80)."""
    rows = dict(zip(measured.leads, measured.beat, strict=True))
    limb = [lead for lead in LIMB_LEADS if lead in rows]
    if not measured.consistent:
        rows = {lead: row for lead, row in rows.items() if lead not in limb}
    elif len(limb) >= 2:
        rows |= zip(("I", "II"), _to_i_ii(tuple(limb)) @ np.stack([rows[lead] for lead in limb]), strict=True)
    leads = tuple(lead for lead in INDEPENDENT if lead in rows)
    return leads, np.stack([rows[lead] for lead in leads]) if leads else np.empty((0, BEFORE + AFTER))


def lead_sets(leads: tuple[str, ...]) -> list[str]:
    """Return the names of the largest sets of `LEAD_SETS` that are within these leads."""
    chosen: list[str] = []
    for name, members in LEAD_SETS.items():
        if set(members) <= set(leads) and not any(set(members) <= set(LEAD_SETS[other]) for other in chosen):
            chosen.append(name)
    return chosen


def changes(beat: np.ndarray, leads: tuple[str, ...], tried: list[Hypothesis]) -> np.ndarray:
    """Return (n_hypotheses, n_features): what undoing each of them changes in `compared`, for one beat of `leads`."""
    at = [INDEPENDENT.index(lead) for lead in leads]
    undone = np.stack([np.eye(len(at)), *(hypothesis.undo[np.ix_(at, at)] for hypothesis in tried)]) @ beat
    numbers = compared(undone)
    return numbers[0] - numbers[1:]


def tried_in(name: str, *, confirmed: bool) -> list[Hypothesis]:
    """Return the hypotheses for a set of leads; of limb leads that confirm each other none is inverted."""
    tried = [hypothesis for hypothesis in hypotheses() if hypothesis.within(LEAD_SETS[name])]
    return [h for h in tried if not confirmed or h.kind != "inverted" or h.leads[0] in CHEST_LEADS]


def _scores(beat: np.ndarray, name: str, tried: list[Hypothesis], known: dict[str, Any]) -> np.ndarray:
    """Return (n_hypotheses,), how much likelier each is than no mistake, for one beat of a set of leads."""
    weights = np.asarray([known[name][hypothesis.name]["weights"] for hypothesis in tried])
    return (changes(beat, LEAD_SETS[name], tried) * weights).sum(axis=1)


def _exchange(measured: Measured, known: dict[str, Any]) -> list[Finding]:
    """Return the exchange that explains the recording best, if any is likely enough.

    Where several are, it is the one after whose undoing the others are least likely; but the arms, by far the most
    frequent mistake, whenever nothing is found after undoing that.
    """
    there, beat = independent(measured)
    best, least = None, np.inf
    for name in lead_sets(there):
        tried = tried_in(name, confirmed=measured.confirmed)
        rows = beat[[there.index(lead) for lead in LEAD_SETS[name]]]
        at = [INDEPENDENT.index(lead) for lead in LEAD_SETS[name]]
        limits = np.asarray([known[name][hypothesis.name]["limit"] for hypothesis in tried])
        for i in np.flatnonzero(_scores(rows, name, tried, known) > limits):
            after = _scores(tried[i].undo[np.ix_(at, at)] @ rows, name, tried, known)
            frequent = tried[i].kind == "arms exchanged" and (after <= limits).all()
            rest = -np.inf if frequent else after.max()
            if rest < least:
                best, least = tried[i], rest
    if best is None:
        return []
    concerned = tuple(lead for lead in best.leads if lead in measured.leads)
    return [Finding(best.kind, "warning", best.message, concerned)]


# --- judging --------------------------------------------------------------------------------------------------------


def judge(measured: Measured, known: dict[str, Any]) -> list[Finding]:
    """Return what fixed and learned limits find; `known` as in `guard.json`."""
    findings = list(measured.findings)
    if not measured.leads:
        return findings
    scale = _scale(measured, known["scale"])
    findings += scale
    weak = (measured.size < WEAK * np.median(measured.size)) & (len(measured.size) > 2)
    if weak.any():
        text = "hardly any signal: an electrode is off, or the right leg's is exchanged with another"
        findings.append(_about("flat", np.asarray(measured.leads)[weak], text))
    high = measured.peak > SPIKE
    if high.any() and not scale:
        text = f"reaches {measured.peak.max():.0f} mV, more than a heart gives: artefacts or codes for missing samples"
        findings.append(_about("spikes", np.asarray(measured.leads)[high], text))
    if not measured.shape_known:
        return findings
    limit = known["form"]["limit" if measured.seconds > FEW_BEATS else "limit_of_few_beats"]
    if measured.form is None or not_ecg(measured.form, known["form"]) > limit:
        text = "does not look like an ECG (no beats that resemble each other): an answer would mean nothing"
        return [*findings, Finding("not an ECG", "error", text)]
    pace = rate_factor(measured.form, known["rate"])
    if not known["rate"]["low"] <= pace <= known["rate"]["high"]:
        beats = np.exp(measured.form[0])
        much = f"{np.exp(abs(pace)):.1f} times too {'high' if pace > 0 else 'low'}"
        text = f"the sampling rate seems {much} (heart rate {beats:.0f} per minute, width of the QRS): "
        text += "what is said of rhythm and conduction misleads"
        findings.append(Finding("rate", "warning", text))
    for name, value, limit in zip(NOISES, measured.noise, known["noise"]["limits"], strict=True):
        if value > limit:
            text = "the baseline drifts" if name == "drift" else "noise as large as small waves"
            where = {"burst": ", at times", "noise of one lead": ", in one lead at least"}.get(name, "")
            findings.append(Finding("noise", "warning", f"{text}{where}: the answer is less certain"))
            break
    return findings + _exchange(measured, known["exchange"])


def _scale(measured: Measured, known: dict[str, Any]) -> list[Finding]:
    deviation = size_deviation(measured, known["usual"])
    n = max(int(count) for count in known["limits"] if int(count) <= len(measured.leads))
    low, high = known["limits"][str(n)]
    if low <= deviation <= high:
        return []
    wrong = abs(deviation) > UNREAL
    text = f"leads vary by {np.median(measured.size):.2g} mV, {np.exp(deviation):.2g} times what is usual: "
    text += "gain or unit must be wrong" if wrong else "gain or unit may be wrong"
    text += "; an answer would mean nothing" if wrong else "; most answers change then, those for voltage (HYP) first"
    return [Finding("scale", "error" if wrong else "warning", text, measured.leads)]


def size_deviation(measured: Measured, usual: dict[str, float]) -> float:
    """Return how far the median lead is from its usual size, as a logarithm."""
    expected = np.asarray([usual[lead] for lead in measured.leads])
    return float(np.median(np.log(measured.size + 1e-9) - expected))


def not_ecg(form: np.ndarray, known: dict[str, Any]) -> float:
    """Return the Mahalanobis distance of a recording's form from that of good ECGs."""
    return float(np.linalg.norm(np.asarray(known["whiten"]) @ (form - np.asarray(known["mean"]))))


def rate_factor(form: np.ndarray, known: dict[str, Any]) -> float:
    """Return the logarithm of how many times too fast a recording seems to run."""
    return float(form @ np.asarray(known["weights"]) + known["intercept"])
