"""Heart rate, PR, QRS, QT, QTc and frontal axis of an ECG of any leads, rate and length; R peaks and waves.

R peaks are maxima of the slope's energy over 100 ms and all leads (the idea of Pan & Tompkins 1985, doi
10.1109/TBME.1985.325532). Intervals come from a median beat of the most frequent shape, as in electrocardiographs: QRS
lies between the points where the speed of all leads together rises and comes to rest, T ends where the tangent at its
steepest descent meets the baseline (Lepeschkin & Surawicz 1952, doi 10.1161/01.CIR.6.3.378), P begins where a line
through its rise does. They are intervals of all given leads together, and for orientation: no device measured them.

Everything happens at RATE, between whose samples straight lines give fractions; numpy alone, about 2 ms for 10 s.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache

import numpy as np

from ecg.leads import FROM_I_II, LIMB_LEADS

RATE = 250  # Hz
BAND = (0.5, 30.0, 48.0)  # Hz: half of it passes at the first, all up to the second, nothing from the third on
BLOCK, MARGIN = 30.0, 2.0  # s; a long recording is taken in pieces that overlap
ABSURD = 1e6  # mV; what is beyond that is missing
MISSING, STILL = 0.2, 1.0  # s; where all leads are missing, or stay the same, for as long nothing was recorded

# R peaks; lengths in samples of RATE
SLOPE, BEND = 6, 5  # steps of first and second differences, which are most sensitive at 21 and 25 Hz
ENERGY = 25  # samples over which their squares are summed
APART = 50  # no two beats are closer
LONGEST_RR = 400  # as a rule there is a beat in as many
FAINT = 0.03  # mV; a slope below that is no beat
SMALL, SHARP = 0.24, 0.70  # a beat's slope is at least SMALL of the usual and SHARP, as no T is: bend to slope, or
TALL, BLUNT = 0.6, 0.48  # TALL of the usual and not so BLUNT as T is beside the other tall ones
CONTRAST = 2.0  # between the slope at beats and at half of the samples; noise has less

# The median beat
BEFORE, AFTER = 125, 200  # samples around R
LAG = 5  # by which R peaks of one shape may differ
QRS_HALF = 20  # samples around R by which beats are compared
ALIKE = 0.9  # correlation of beats of one shape
COMMON = 0.2  # share of beats that must be of it; beats of which hardly two are alike are noise
PREMATURE = 0.8  # of the usual interval before it
SLOWEST = 4.0  # s; a mean RR interval above that is no heart's
MOST_BEATS = 240  # of a long recording

# Its waves
QRS_ON, QRS_OFF = 0.04, 0.05  # of QRS's highest speed
BLUR = 2.3  # how QRS_ON and QRS_OFF rise as the rate falls below 100 Hz: found on real records of 50 to 90 Hz
REST = 1.5  # times the usual speed beside QRS
T_PEAK, T_SPREAD = 0.3, 28  # s at 60 beats per minute, samples: where T's peak is looked for
LOW_T, LOW_P = 0.018, 0.016  # mV, for each lead's share
P_TO_NOISE = 2.5  # P's height to the standard error of the median beat
AXIS_LEAST = 0.05  # net height of QRS to its whole height; with less it has no direction
P_FOOT = 0.8  # how far the line through a half and a quarter of P's height is drawn out, 1 for down to zero


@dataclass(frozen=True)
class Measurements:
    """What was measured; None where it cannot be. Intervals are those of the median beat."""

    beats: int
    """Number of R peaks found; the heart rate rests on the intervals between them."""
    averaged_beats: int
    """Number of beats of one shape in the median beat, on which everything but the heart rate rests."""
    heart_rate: float | None = None
    """Beats per minute, from the mean RR interval."""
    pr_ms: float | None = None
    """Beginning of P to beginning of QRS, ms; None without a P wave before each beat, as in atrial fibrillation."""
    qrs_ms: float | None = None
    """Duration of QRS, ms."""
    qt_ms: float | None = None
    """Beginning of QRS to end of T, ms."""
    qtc_bazett_ms: float | None = None
    """QT / sqrt(RR), ms, with the mean RR in s."""
    qtc_fridericia_ms: float | None = None
    """QT / cube root of RR, ms, with the mean RR in s."""
    axis_degrees: float | None = None
    """Frontal axis of QRS by its net heights (R less Q or S), -180 to 180 degrees: 0 points to lead I, 90 to aVF."""


@dataclass(frozen=True)
class Waves:
    """Beginning and end of the waves of each beat: (n_beats,) float sample positions, nan where not found."""

    p_on: np.ndarray
    p_off: np.ndarray
    qrs_on: np.ndarray
    qrs_off: np.ndarray
    t_on: np.ndarray
    t_off: np.ndarray


LABELS = ("none", "P", "QRS", "ST", "T")  # what the numbers of `wave_labels` mean


@dataclass(frozen=True)
class _Block:
    """A piece of a recording at RATE: `clean` (n_leads, m) mV without drift; input sample = `start` + i * `step`.

    No other block answers for its `core`, first input sample and the one after the last; `silent` are samples of it.
    """

    clean: np.ndarray
    start: int
    step: float
    core: tuple[int, int]
    silent: np.ndarray

    def owns(self, peaks: np.ndarray) -> np.ndarray:
        """Return which of the `peaks` (n,), in samples of `clean`, lie in the core, (n,) bool."""
        position = np.rint(self.start + peaks * self.step)
        return (position >= self.core[0]) & (position < self.core[1])


def find_r_peaks(signal_mv: np.ndarray, fs: float) -> np.ndarray:
    """Return the sample positions (n_beats,) of the R peaks of `signal_mv` (n_leads, t), nan where samples are missing.

    An R peak is where all leads together are largest within 50 ms of the steepest part of a beat.
    """
    found = [np.empty(0, int)]
    for block in _blocks(np.asarray(signal_mv), fs):
        peaks = _detect(block.clean)
        found.append(np.rint(block.start + peaks[block.owns(peaks)] * block.step).astype(int))
    return np.concatenate(found)


def measure(signal_mv: np.ndarray, leads: Sequence[str], fs: float) -> Measurements:
    """Measure `signal_mv` (n_leads, t) in mV, nan where samples are missing; its `leads` are spelled as in LEADS.

    The axis needs two limb leads. From a long recording MOST_BEATS spread over it are averaged.
    """
    used = _independent(leads)
    signal = np.asarray(signal_mv)[used]
    positions, silent, beats, intervals = [], [], [], []
    most = max(MOST_BEATS // _n_blocks(signal.shape[1], fs), 1)
    for block in _blocks(signal, fs):
        peaks = _detect(block.clean)
        own = block.owns(peaks)
        positions.append(block.start + peaks[own] * block.step)
        silent.append(block.silent)
        whole = np.flatnonzero(own & _is_whole(peaks, block.clean))
        chosen = whole[:: -(-len(whole) // most)] if len(whole) else whole
        gaps = np.diff(peaks.astype(float), prepend=np.nan, append=np.nan)
        beats.append(_cut(block.clean, peaks[chosen]))
        intervals.append(np.stack([gaps[chosen], gaps[chosen + 1]]))  # before and after each
    r = np.concatenate(positions) if positions else np.empty(0)
    rr = _mean_rr(r, np.concatenate(silent), fs) if len(r) > 1 else np.nan
    rr = rr if rr < SLOWEST else np.nan
    stack = np.concatenate(beats) if beats else np.empty((0, len(used), 0))
    if not len(stack):
        return Measurements(len(r), 0, _or_none(60 / rr))
    before, after = np.concatenate(intervals, axis=1)
    usual, late = _usual(stack, before)
    if len(usual) < COMMON * len(stack):
        return Measurements(len(r), 0)
    beat, error = _median_beat(stack[usual], late[usual])
    waves = _waves(beat, before=_low_quartile(before[usual]), after=_low_quartile(after[usual]), error=error, fs=fs)
    p_on, _, qrs_on, qrs_off, _, t_off = waves * 1000 / RATE
    return Measurements(
        beats=len(r),
        averaged_beats=len(usual),
        heart_rate=_or_none(60 / rr),
        pr_ms=_or_none(qrs_on - p_on),
        qrs_ms=_or_none(qrs_off - qrs_on),
        qt_ms=_or_none(t_off - qrs_on),
        qtc_bazett_ms=_or_none((t_off - qrs_on) / np.sqrt(rr)),
        qtc_fridericia_ms=_or_none((t_off - qrs_on) / np.cbrt(rr)),
        axis_degrees=_or_none(_axis(beat, [leads[i] for i in used], waves)),
    )


def delineate(signal_mv: np.ndarray, fs: float, r_peaks: np.ndarray, leads: Sequence[str]) -> Waves:
    """Return the waves of the beats with `r_peaks` (n_beats,), ascending sample positions of `signal_mv` (n_leads, t).

    Beats of the most frequent shape within half a minute have the waves of its median beat, those of another shape
    their own.
    """
    signal = np.asarray(signal_mv)[_independent(leads)]
    r_peaks = np.asarray(r_peaks)
    found = np.full((len(fields(Waves)), len(r_peaks)), np.nan)
    for block in _blocks(signal, fs):
        near = np.flatnonzero((r_peaks >= block.core[0]) & (r_peaks < block.core[1]))
        if len(near):
            peaks = np.rint((r_peaks[near] - block.start) / block.step).astype(int)
            marks = _waves_of_beats(block.clean, peaks, fs)
            found[:, near] = block.start + marks * block.step
    found[(found < 0) | (found > signal.shape[1] - 1)] = np.nan
    return Waves(*found)


def wave_labels(waves: Waves, t: int) -> np.ndarray:
    """Return what each of `t` samples belongs to, (t,) uint8: a position in LABELS. ST is from QRS to T."""
    labels = np.zeros(t, np.uint8)
    pieces = ((waves.p_on, waves.p_off, 1), (waves.qrs_off, waves.t_on, 3), (waves.t_on, waves.t_off, 4))
    for begins, ends, label in (*pieces, (waves.qrs_on, waves.qrs_off, 2)):  # QRS last: it covers what runs into it
        for begin, end in zip(begins, ends, strict=True):
            if begin < end:
                labels[int(np.ceil(begin)) : int(end) + 1] = label
    return labels


def _independent(leads: Sequence[str]) -> list[int]:
    """Return the positions of all leads but those that follow from I and II, if both are there."""
    both = {"I", "II"} <= set(leads)
    return [i for i, lead in enumerate(leads) if not (both and lead in LIMB_LEADS[2:])]


def _or_none(value: float) -> float | None:
    return round(float(value), 1) if np.isfinite(value) else None


def _mean_rr(r: np.ndarray, silent: np.ndarray, fs: float) -> float:
    """Return the mean RR interval in s of R peaks `r` (n,), without intervals in which nothing was recorded."""
    rr = np.diff(r)
    if silent.any():
        before = np.cumsum(silent)[np.clip(np.rint(r).astype(int), 0, len(silent) - 1)]
        rr = rr[np.diff(before) == 0]
    return float(rr.mean()) / fs if len(rr) else np.nan


def _low_quartile(values: np.ndarray) -> float:
    """Return the lower quartile of those that are finite; without any, 1 s in samples."""
    finite = np.sort(values[np.isfinite(values)])
    return float(finite[len(finite) // 4]) if len(finite) else float(RATE)


# ----------------------------------------------------------------------------------------------------------------------
# The signal at one rate


def _n_blocks(t: int, fs: float) -> int:
    return max(1, round(t / (BLOCK * fs) - 0.2))  # the last takes up to 0.7 of a block more


def _blocks(signal: np.ndarray, fs: float) -> Iterator[_Block]:
    """Yield the pieces of `signal` (n_leads, t); none if it is too short for a beat."""
    t = signal.shape[1]
    if len(signal) == 0 or t < 0.8 * fs:
        return
    size, margin = round(BLOCK * fs), round(MARGIN * fs)
    n = _n_blocks(t, fs)
    for i in range(n):
        core = (i * size, t if i == n - 1 else (i + 1) * size)
        start, end = max(core[0] - margin, 0), min(core[1] + margin, t)
        x = signal[:, start:end]
        if not np.abs(x).max() <= ABSURD:  # or nan
            x = np.where(np.abs(x) <= ABSURD, x, np.nan)
        x = np.asarray(x, np.float32)
        silent = _silent(x, fs)
        clean, step = _prepare(_filled(x, silent), fs)
        yield _Block(clean, start, step, core, silent[core[0] - start : core[1] - start])


def _silent(x: np.ndarray, fs: float) -> np.ndarray:
    """Return where all leads are missing for MISSING, or none moves for STILL, (t,) bool."""
    moves = np.zeros(x.shape[1], bool)
    moves[1:] = (np.abs(x[:, 1:] - x[:, :-1]) > 0).any(axis=0)  # nan does not
    if np.count_nonzero(moves) > len(moves) - MISSING * fs:
        return np.zeros_like(moves)
    return _long(~moves, STILL * fs) | _long(~np.isfinite(x).any(axis=0), MISSING * fs)


def _long(flags: np.ndarray, least: float) -> np.ndarray:
    """Return `flags` (t,) without those that are true for fewer than `least` samples."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False)).reshape(-1, 2)
    for begin, end in edges[edges[:, 1] - edges[:, 0] < least]:
        flags[begin:end] = False
    return flags


def _filled(x: np.ndarray, silent: np.ndarray) -> np.ndarray:
    """Return `x` (n_leads, t) with straight lines over what is missing or silent; a lead without any sample is 0."""
    if not silent.any() and np.isfinite(x.sum()):
        return x
    x = x.copy()
    position = np.arange(x.shape[1])
    for lead in x:
        good = np.isfinite(lead) & ~silent
        lead[~good] = np.interp(position[~good], position[good], lead[good]) if good.any() else 0
    return x


def _prepare(x: np.ndarray, fs: float) -> tuple[np.ndarray, float]:
    """Return (`x` (n_leads, t) at RATE within BAND, without a shift in phase; input samples per sample of it)."""
    factor = max(int(fs // RATE), 1)
    if factor > 1:  # the mean of neighbours is a low-pass far above BAND
        x = x[:, : x.shape[1] // factor * factor].reshape(len(x), -1, factor).mean(axis=2)
    rate, t = fs / factor, x.shape[1]
    pad = min(int(rate), t - 1)
    n = _fast_length(t + 2 * pad)
    m = round(n * RATE / rate)
    x = x - x.mean(axis=1, keepdims=True)
    padded = np.zeros((len(x), n), np.float32)
    padded[:, pad : pad + t] = x
    padded[:, :pad] = x[:, pad:0:-1]
    padded[:, pad + t : 2 * pad + t] = x[:, -2 : -2 - pad : -1]
    spectrum = np.fft.rfft(padded)[:, : int(BAND[2] * n / rate) + 1]
    hertz = np.arange(spectrum.shape[1]) * (rate / n)
    top = _highest_hertz(rate)
    falling = np.clip((hertz / top - BAND[1] / BAND[2]) / (1 - BAND[1] / BAND[2]), 0, 1)
    response = np.cos(falling * np.pi / 2) ** 2 * hertz**4 / (hertz**4 + BAND[0] ** 4) * (m / n)
    clean = np.fft.irfft(spectrum * response.astype(np.float32), m)
    first, last = round(pad * m / n), int((pad + t - 1) * m / n)
    return clean[:, first : last + 1], factor * n / m


def _highest_hertz(fs: float) -> float:
    """Return where the band ends: at low rates below half of them, for a sharp end would ring."""
    return min(BAND[2], 0.48 * fs)


def _fast_length(n: int) -> int:
    """Return the next length made of small primes, a multiple of 20 so that it stays one at other rates."""
    return min(c for a in range(20) for b in (1, 3, 9, 5, 15, 25) if (c := 20 * b << a) >= n)


# ----------------------------------------------------------------------------------------------------------------------
# R peaks


def _detect(clean: np.ndarray) -> np.ndarray:
    """Return the positions (n_beats,) of R peaks in `clean` (n_leads, m)."""
    m = clean.shape[1]
    if m < 2 * APART:
        return np.empty(0, int)
    slope = _energy(clean[:, SLOPE:] - clean[:, :-SLOPE], m)
    peaks = np.flatnonzero((slope == _highest_around(slope, APART)) & (slope > FAINT))
    span = min(LONGEST_RR, m)
    usual = _middle(slope[: m // span * span].reshape(-1, span).max(axis=1))
    peaks = peaks[slope[peaks] > SMALL * usual]
    if usual < CONTRAST * _middle(slope) or not len(peaks):
        return np.empty(0, int)
    bend = _energy(clean[:, 2 * BEND :] - 2 * clean[:, BEND:-BEND] + clean[:, : -2 * BEND], m)
    sharp, tall = bend[peaks] / slope[peaks], slope[peaks] > TALL * usual
    sharpest = np.sort(sharp[tall])[3 * np.count_nonzero(tall) // 4 :][:1]  # their upper quartile
    peaks = peaks[(sharp > SHARP) | (tall & (sharp > BLUNT * sharpest.sum()))]
    power = np.einsum("lm,lm->m", clean, clean)
    near = np.clip(peaks[:, None] + np.arange(-12, 13), 0, m - 1)
    r = near[np.arange(len(peaks)), power[near].argmax(axis=1)]
    return r[np.diff(r, prepend=-m) > APART // 2]


def _energy(difference: np.ndarray, m: int) -> np.ndarray:
    """Return the root of (sum over leads of squares of `difference` (n_leads, < m), mean over ENERGY samples), (m,)."""
    lost = m - difference.shape[1]
    total = np.zeros(m + ENERGY)
    first = lost // 2 + ENERGY // 2 + 1
    total[first : first + difference.shape[1]] = np.einsum("lm,lm->m", difference, difference)
    total = np.cumsum(total)
    return np.sqrt((total[ENERGY:] - total[:-ENERGY]).clip(0) / ENERGY)


def _highest_around(values: np.ndarray, half: int) -> np.ndarray:
    """Return the maximum of `values` (m,) within `half` samples of each, (m,)."""
    top = np.zeros(len(values) + 2 * half)
    top[half:-half] = values
    width = 1
    while 2 * width <= 2 * half + 1:
        top = np.maximum(top[:-width], top[width:])
        width *= 2
    rest = 2 * half + 1 - width
    return np.maximum(top[:-rest], top[rest:]) if rest else top


def _middle(values: np.ndarray) -> float:
    """Return the (upper) median, in a fifth of the time of np.median."""
    return float(np.partition(values, len(values) // 2)[len(values) // 2])


# ----------------------------------------------------------------------------------------------------------------------
# The median beat


def _is_whole(peaks: np.ndarray, clean: np.ndarray) -> np.ndarray:
    return (peaks >= BEFORE + LAG) & (peaks < clean.shape[1] - AFTER - LAG)


def _cut(clean: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Return the beats around `peaks`, (n, n_leads, w), with LAG samples more at either end."""
    samples = peaks[:, None] + np.arange(-BEFORE - LAG, AFTER + LAG + 1)
    return clean[:, samples].transpose(1, 0, 2)


def _usual(beats: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (which beats have the most frequent shape and are not premature; how many samples late each of n lies).

    `beats` (n, n_leads, w); `before` (n,), the intervals before them, nan where unknown.
    """
    n, width = len(beats), 2 * QRS_HALF + 1
    near = beats[:, :, BEFORE - QRS_HALF : BEFORE - QRS_HALF + width + 2 * LAG]
    qrs = near[:, :, LAG : LAG + width].reshape(n, -1)
    unit = qrs / (np.linalg.norm(qrs, axis=1, keepdims=True) + 1e-6)
    known = np.isfinite(before)
    timing = np.ones(n)
    timing[known] = before[known] / max(before[known].mean(), 1) if known.any() else 1
    # of two about equally frequent shapes, as in bigeminy, the usual one is that which does not come early
    votes = (unit @ unit.T > ALIKE).sum(axis=1) * np.where(timing < PREMATURE, 0.5, 1)
    template = unit[votes.argmax()]
    product = np.stack([near[:, :, s : s + width].reshape(n, -1) @ template for s in range(2 * LAG + 1)], axis=1)
    total = np.cumsum(np.einsum("nlw,nlw->nw", near, near), axis=1, dtype=float)
    total = np.concatenate([np.zeros((n, 1)), total], axis=1)
    correlation = product / np.sqrt(total[:, width:] - total[:, :-width] + 1e-12)  # (n, lags)
    alike = correlation.max(axis=1) > ALIKE
    alike[votes.argmax()] = True
    timely = alike & (timing > PREMATURE * _middle(timing[alike]))
    return np.flatnonzero(timely), correlation.argmax(axis=1) - LAG


def _median_beat(beats: np.ndarray, late: np.ndarray) -> tuple[np.ndarray, float]:
    """Return (median of `beats` shifted into place (n_leads, w), its standard error in mV over all leads together)."""
    n, width = len(beats), BEFORE + AFTER + 1
    placed = np.stack([beat[:, LAG + s : LAG + s + width] for beat, s in zip(beats, late, strict=True)])
    placed.sort(axis=0)
    beat = (placed[(n - 1) // 2] + placed[n // 2]) / 2
    if n == 1:
        return beat, LOW_P * np.sqrt(len(beat))  # unknown
    off = placed[:, :, BEFORE - 75 : BEFORE - QRS_HALF] - beat[:, BEFORE - 75 : BEFORE - QRS_HALF]
    slow = off[:, :, 4:] + off[:, :, 3:-1] + off[:, :, 2:-2] + off[:, :, 1:-3] + off[:, :, :-4]  # as P is smoothed
    return beat, float(np.sqrt(np.vdot(slow, slow) / slow.shape[2] / n / (n - 1))) / 5


def _waves_of_beats(clean: np.ndarray, peaks: np.ndarray, fs: float) -> np.ndarray:
    """Return the waves (6, n) of the beats at `peaks` (n,) in samples of `clean` (n_leads, m)."""
    found = np.full((6, len(peaks)), np.nan)
    gaps = np.diff(peaks.astype(float), prepend=np.nan, append=np.nan)
    whole = np.flatnonzero(_is_whole(peaks, clean))
    if not len(whole):
        return found
    beats = _cut(clean, peaks[whole])
    usual, late = _usual(beats, gaps[whole])
    beat, error = _median_beat(beats[usual], late[usual])
    before, after = (_low_quartile(x[whole][usual]) for x in (gaps[:-1], gaps[1:]))
    marks = _waves(beat, before=before, after=after, error=error, fs=fs)
    like = np.setdiff1d(np.arange(len(peaks)), np.setdiff1d(whole, whole[usual]))  # cut ones are taken to be usual
    shift = np.zeros(len(peaks))
    shift[whole] = late
    found[:, like] = marks[:, None] + (peaks + shift)[like] - BEFORE
    for i in np.setdiff1d(np.arange(len(whole)), usual):
        k = whole[i]
        own = _waves(
            beats[i][:, LAG:-LAG],
            before=np.nan_to_num(gaps[k], nan=before),
            after=np.nan_to_num(gaps[k + 1], nan=after),
            error=error * np.sqrt(len(usual)),
            fs=fs,
        )
        found[:, k] = own + peaks[k] - BEFORE
    return found


# ----------------------------------------------------------------------------------------------------------------------
# Its waves


def _waves(beat: np.ndarray, *, before: float, after: float, error: float, fs: float) -> np.ndarray:
    """Return P on, P off, QRS on, QRS off, T on, T off in samples of `beat` (n_leads, w), nan where not found.

    R is at sample BEFORE; `before` and `after` are the samples to the beats around it, `error` that of `_median_beat`,
    `fs` the recording's rate.
    """
    found = np.full(6, np.nan)
    width = beat.shape[1]
    speed = np.zeros(width)
    step = beat[:, 2:] - beat[:, :-2]
    speed[1:-1] = np.sqrt(np.einsum("lw,lw->w", step, step))
    top = speed[BEFORE - 25 : BEFORE + 26].max()
    if not top > 0:
        return found
    fast = np.flatnonzero(speed[BEFORE - 30 : BEFORE + 41] > 0.3 * top) + BEFORE - 30
    top *= (BAND[2] / _highest_hertz(fs)) ** BLUR  # QRS is spread by what a low rate leaves out
    calm_before = max(QRS_ON * top, REST * _middle(speed[BEFORE - 100 : BEFORE - 35]))
    calm_after = max(QRS_OFF * top, REST * _middle(speed[BEFORE + 30 : BEFORE + 75]))
    on = fast[0] - _first_below(speed[fast[0] : BEFORE - 60 : -1], calm_before)
    off = fast[-1] + _first_below(speed[fast[-1] : BEFORE + 70], calm_after)
    if not on < off:
        return found
    level = beat[:, int(on) - 5 : int(on)].mean(axis=1, keepdims=True)  # the PR segment
    x = beat - level
    length = _smooth(np.sqrt(np.einsum("lw,lw->w", x, x)))
    # T follows the rate as far as an interval of 1.44 s
    expected = on + T_PEAK * np.sqrt(min(before, 1.44 * RATE) * RATE)
    t_on, t_off = _t_wave(x, length, int(np.ceil(off)) + 8, int(min(after + BEFORE - 45, width - 5)), expected)
    begin = max(BEFORE - 110, 3)
    if t_off - before > begin:  # of the beat before
        begin = int(t_off - before) + 2
    found[:] = *_p_wave(x, length, begin, int(on), error), on, off, t_on, t_off
    return found


def _t_wave(x: np.ndarray, length: np.ndarray, begin: int, end: int, expected: float) -> tuple[float, float]:
    """Return beginning and end of T in `x` (n_leads, w) from `begin` to `end`; `length` (w,) is that of all leads."""
    peaks = begin + _peaks(length[begin:end])
    if not len(peaks):
        return np.nan, np.nan
    peak = peaks[(length[peaks] * np.exp(-0.5 * ((peaks - expected) / T_SPREAD) ** 2)).argmax()]
    if length[peak] < LOW_T * np.sqrt(len(x)):
        return np.nan, np.nan
    wave = _smooth(x[:, peak] @ x)  # all leads as far as they go with the peak
    slope = np.zeros(len(wave))
    slope[1:-1] = (wave[2:] - wave[:-2]) / 2
    steepest = peak + int(slope[peak : peak + 45].argmin())
    t_off = steepest - wave[steepest] / slope[steepest] if slope[steepest] < 0 else np.nan
    rise = begin + int(slope[begin : peak + 1].argmax())
    t_on = rise - (wave[rise] - wave[begin : peak + 1].min()) / slope[rise] if slope[rise] > 0 else np.nan
    return max(t_on, begin), t_off if t_off < end + 20 else np.nan


def _p_wave(x: np.ndarray, length: np.ndarray, begin: int, end: int, error: float) -> tuple[float, float]:
    """Return beginning and end of P in `x` (n_leads, w), relative to the PR segment, from `begin` to `end`."""
    peaks = begin + _peaks(length[begin:end])
    if not len(peaks):
        return np.nan, np.nan
    left = [lowest + int(length[lowest:i].argmin()) for i in peaks for lowest in [max(i - 22, begin)]]
    right = [i + int(length[i : min(i + 30, end)].argmin()) for i in peaks]
    height = length[peaks] - np.maximum(length[left], length[right])
    best = int(height.argmax())
    if height[best] < max(LOW_P * np.sqrt(len(x)), P_TO_NOISE * error):
        return np.nan, np.nan
    peak, left, right = peaks[best], left[best], right[best]
    rise = x[:, left : peak + 1] - x[:, max(left - 2, 0) : left + 3].mean(axis=1, keepdims=True)
    up = _smooth(np.sqrt(np.einsum("lw,lw->w", rise, rise)))[::-1]
    return peak - _foot(up), peak + _foot(length[peak : right + 1] - length[right])


def _peaks(values: np.ndarray) -> np.ndarray:
    return np.flatnonzero((values[1:-1] >= values[:-2]) & (values[1:-1] > values[2:])) + 1


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the mean of five neighbours."""
    padded = np.concatenate([values[:1], values[:1], values, values[-1:], values[-1:]])
    return np.convolve(padded, np.full(5, 0.2), "valid")


def _foot(falling: np.ndarray) -> float:
    """Return where the line through the points at a half and a quarter of the height of `falling` (n,) comes down."""
    last = len(falling) - 1.0
    half, quarter = _first_below(falling, falling[0] / 2), _first_below(falling, falling[0] / 4)
    foot = quarter + P_FOOT * (quarter - half)
    return foot if foot < last else last


def _first_below(values: np.ndarray, level: float) -> float:
    """Return where `values` (n,) first fall below `level` for three samples, between samples; nan if they never do."""
    below = values < level
    calm = below[:-2] & below[1:-1] & below[2:]
    if not calm.any():
        return np.nan
    i = int(calm.argmax())
    return i - (level - values[i]) / (values[i - 1] - values[i]) if i else 0.0


def _axis(beat: np.ndarray, leads: Sequence[str], waves: np.ndarray) -> float:
    """Return the frontal axis in degrees, nan without two limb leads or where QRS cancels out."""
    rows = [i for i, lead in enumerate(leads) if lead in LIMB_LEADS]
    on, off = waves[2:4]
    if len(rows) < 2 or not on < off:
        return np.nan
    qrs = beat[rows, int(on) : int(np.ceil(off)) + 1] - beat[rows, int(on) - 5 : int(on)].mean(axis=1, keepdims=True)
    i, ii = _to_i_and_ii(tuple(leads[row] for row in rows)) @ qrs  # (samples,) each
    # along I, and across it: aVF is sqrt(3) / 2 of that
    highest, lowest = [f(np.stack([i, (2 * ii - i) / np.sqrt(3)]), axis=1) for f in (np.max, np.min)]
    net = highest.clip(0) + lowest.clip(None, 0)
    if np.hypot(*net) < AXIS_LEAST * np.hypot(*(highest - lowest)):
        return np.nan
    return float(np.degrees(np.arctan2(net[1], net[0])))


@cache
def _to_i_and_ii(limb_leads: tuple[str, ...]) -> np.ndarray:
    return np.linalg.pinv(FROM_I_II[[LIMB_LEADS.index(lead) for lead in limb_leads]])
