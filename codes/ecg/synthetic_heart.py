"""A heart as a moving dipole, and what electrodes on the body record of it: beats, waves, disturbances, leads.

The heart is a current dipole whose three components (Frank axes: X left, Y feet, Z back; mV) are sums of
Gaussians in time around each R peak (McSharry et al. 2003, doi 10.1109/TBME.2003.808805; in three
dimensions Sameni et al. 2007, doi 10.1155/2007/43407). Dower's matrix projects it onto the body (Dower et
al. 1980, the forward transform whose inverse is Edenbrandt & Pahlm 1988). A disease changes the dipole or the
times of the beats (`ecg.synthetic_signs`), a disturbance the electrodes; leads are differences of electrodes, so
Einthoven's and Goldberger's relations hold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import signal as dsp
from scipy.interpolate import CubicSpline

from ecg.leads import LEADS

SECONDS = 10
RATE = 500  # Hz; the 100 Hz file is made from it
GAIN = 1000  # integers per mV
NORMAL, EVERY = "normal", "every"  # beats that carry a sign: those of the basic rhythm, or all of them

# Dower et al. 1980: rows I, II, V1-V6; columns X (left), Y (feet), Z (back)
DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
# Potentials of RA, LA, LL, V1-V6 against Wilson's central terminal, where RA + LA + LL = 0, from I, II, V1-V6
_POTENTIALS = np.zeros((9, 8))
_POTENTIALS[:3, :2] = np.array([[-1, -1], [2, -1], [-1, 2]]) / 3
_POTENTIALS[3:, 2:] = np.eye(6)
DIPOLE_TO_ELECTRODES = _POTENTIALS @ DOWER  # (9, 3)
ELECTRODES_TO_LEADS = np.zeros((12, 9))
ELECTRODES_TO_LEADS[:6, :3] = [
    [-1, 1, 0],  # I = LA - RA
    [-1, 0, 1],  # II = LL - RA
    [0, -1, 1],  # III = LL - LA
    [1, -0.5, -0.5],  # aVR (Goldberger)
    [-0.5, 1, -0.5],  # aVL
    [-0.5, -0.5, 1],  # aVF
]
ELECTRODES_TO_LEADS[6:, 3:] = np.eye(6)
ELECTRODES_TO_LEADS[6:, :3] = -1 / 3  # Wilson's central terminal


@dataclass(frozen=True)
class Wave:
    """A Gaussian of the dipole: `vector` (3,) in mV, `centre` in seconds after R, widths before and after it."""

    vector: np.ndarray
    centre: float
    width: float
    width_after: float
    with_rate: bool = False  # T and ST come earlier when the heart beats faster


@dataclass(frozen=True)
class Beat:
    """One heartbeat: its R peak in seconds from the start of the record, the interval before it, and its kind."""

    time: float
    before: float
    kind: str = NORMAL  # or the statement of an extra beat, PVC or PAC

    @property
    def stretch(self) -> float:
        """How much later T comes than at 60 beats a minute; a single long pause hardly matters to it."""
        return min(math.sqrt(self.before), 1.2)


@dataclass(frozen=True)
class Sign:
    """What a disease changes and where to see it: `start` and `end` in seconds after the R peak of each such beat.

    With `stretches` these times follow the heart rate as T does. With `to_next` the end counts from the next R peak.
    """

    name: str
    statements: tuple[str, ...]
    leads: tuple[str, ...]
    start: float
    end: float
    beats: str = NORMAL
    stretches: bool = False
    to_next: bool = False


@dataclass(frozen=True)
class ExtraBeats:
    """Beats that come early: `code` is their statement, `early` and `pause` the intervals around them in usual ones.

    With `every` 2 each second beat is one of them; with 0 there are a few.
    """

    code: str
    waves: dict[str, Wave]
    early: float
    pause: float
    every: int = 0


@dataclass
class Heart:
    """A heart before anatomy turns it: the waves of its beat by name, its rhythm, and the signs planted so far."""

    waves: dict[str, Wave]
    rr: float  # mean RR interval, s
    pr: float  # PQ interval, s
    qtc: float  # s
    variability: float  # relative SD of the RR interval
    rhythm: str = "SR"
    flutter_waves: int = 0  # per beat
    extra_beats: ExtraBeats | None = None
    signs: list[Sign] = field(default_factory=list)

    def change(self, name: str, **values: Any) -> None:
        self.waves[name] = replace(self.waves[name], **values)

    def scale(self, names: Sequence[str], factor: float) -> None:
        for name in names:
            self.change(name, vector=self.waves[name].vector * factor)

    def add_sign(self, name: str, statements: Sequence[str], leads: Sequence[str], start: float, end: float) -> None:
        """Note a sign that each normal beat has at the same distance from its R peak."""
        self.signs.append(Sign(name, tuple(statements), tuple(leads), start, end))

    def add_t_sign(self, name: str, statements: Sequence[str], leads: Sequence[str]) -> None:
        """Note a sign of the T wave, as T is now."""
        t = self.waves["T"]
        start, end = t.centre - 2 * t.width, t.centre + 2 * t.width_after
        self.signs.append(Sign(name, tuple(statements), tuple(leads), start, end, stretches=True))

    def place_t(self) -> None:
        """Let T end with QT = QTc sqrt(RR) (Bazett), two widths after its centre; QRS begins 40 ms before R."""
        t = self.waves["T"]
        self.change("T", centre=self.qtc - 2 * t.width_after - 0.04 / math.sqrt(self.rr), with_rate=True)

    def place_p(self) -> None:
        self.change("P right", centre=-0.04 - self.pr + 0.038)
        self.change("P left", centre=-0.04 - self.pr + 0.066)


@dataclass(frozen=True)
class Noise:
    """Typical sizes of the disturbances at an electrode, in mV."""

    wander: float
    mains: float
    muscle: float


@dataclass(frozen=True)
class Recording:
    """Ten seconds of a heart: `signals[rate]` (12, 10 * rate) int16 in µV, leads in the order of LEADS.

    `beats` also has those that begin before or end after the record; `qrs` (3,) is the mean QRS vector.
    """

    signals: dict[int, np.ndarray]
    beats: list[Beat]
    qrs: np.ndarray


def normal_heart(rng: np.random.Generator, *, sex: int, age: int) -> Heart:
    """Return a healthy heart in sinus rhythm; amplitudes, intervals and rate vary with age, sex and chance."""
    rr = 60 / rng.triangular(61, 70 + 3 * sex, 98)
    pr = np.clip(rng.normal(0.150 + 0.0003 * (age - 50), 0.016), 0.115, 0.195)
    qtc = np.clip(rng.normal(0.405 + 0.012 * sex, 0.013), 0.37, 0.44)
    variability = np.clip(0.03 * math.exp(rng.normal(0, 0.5)), 0.005, 0.06)
    slow = rng.normal(1, 0.05)  # duration of QRS
    volts = math.exp(rng.normal(0.08 - 0.004 * (age - 45) - 0.08 * sex, 0.18))
    t_size = math.exp(rng.normal(0.05 - 0.12 * sex - 0.003 * (age - 45), 0.25))

    def varied(*vector: float, size: float = 1.0, jitter: float = 0.06) -> np.ndarray:
        return np.array(vector) * size * math.exp(rng.normal(0, jitter)) + rng.normal(0, 0.012, 3)

    waves = {
        "P right": Wave(varied(0.02, 0.065, -0.045), 0.0, 0.016, 0.016),
        "P left": Wave(varied(0.06, 0.06, 0.035), 0.0, 0.017, 0.017),
        "Q": Wave(varied(-0.13, -0.05, -0.30, jitter=0.2), -0.022 * slow, 0.0085 * slow, 0.0085 * slow),
        "R": Wave(varied(1.12, 0.86, 0.30, size=volts), 0.0, 0.0115 * slow, 0.0115 * slow),
        "S": Wave(varied(-0.12, -0.10, 0.56, size=volts, jitter=0.2), 0.023 * slow, 0.0105 * slow, 0.0105 * slow),
        "ST": Wave(varied(0.007, 0.007, -0.021, size=t_size), 0.11, 0.035, 0.035),
        "T": Wave(varied(0.30, 0.23, -0.15, size=t_size, jitter=0.1), 0.0, 0.055, 0.036),
    }
    heart = Heart(waves, float(rr), float(pr), float(qtc), float(variability))
    heart.place_p()
    heart.place_t()
    return heart


# --------------------------------------------------------------------------------------------------------------
# When it beats


def beats_of(heart: Heart, rng: np.random.Generator, *, breathing_hz: float) -> list[Beat]:
    """Return the beats from before 0 to after the end of the record."""
    start = -rng.uniform(1.3, 2.0) * heart.rr
    end = SECONDS + 2.5  # early beats move the ones behind them forward
    if heart.rhythm == "AFIB":
        times = _irregular_times(heart, rng, start, end)
    else:
        times = _sinus_times(heart, rng, start, end, breathing_hz)
    intervals = np.diff(times)
    kinds = [NORMAL] * len(times)
    if heart.extra_beats is not None:
        for k in _which_early(heart.extra_beats, times, rng):
            kinds[k] = heart.extra_beats.code
            intervals[k - 1] *= heart.extra_beats.early
            intervals[k] *= heart.extra_beats.pause
    times = times[0] + np.cumsum(intervals)
    return [Beat(float(t), float(rr), kind) for t, rr, kind in zip(times, intervals, kinds[1:], strict=True)]


def _irregular_times(heart: Heart, rng: np.random.Generator, start: float, end: float) -> np.ndarray:
    """Atrial fibrillation: each interval is independent of the one before."""
    times = [start]
    while times[-1] < end:
        times.append(times[-1] + max(heart.rr * math.exp(rng.normal(0, 0.22)), 0.38))
    return np.array(times)


def _sinus_times(heart: Heart, rng: np.random.Generator, start: float, end: float, breathing_hz: float) -> np.ndarray:
    """RR swings around 0.1 Hz (Mayer waves) and the breathing frequency, twice the power in the latter.

    A sum of oscillations with random phases (McSharry et al. 2003, eq. 3), scaled so that its SD over this very
    record is `heart.variability`.
    """
    hertz = np.concatenate([rng.normal(0.1, 0.01, 6), rng.normal(breathing_hz, 0.01, 6)])
    weight = np.repeat([math.sqrt(1 / 3), math.sqrt(2 / 3)], 6)
    phase = rng.uniform(0, 2 * math.pi, 12)
    whole = np.cos(2 * math.pi * np.outer(np.arange(0, SECONDS, 0.1), hertz) + phase) @ weight
    times = [start]
    while times[-1] < end:
        swing = float(weight @ np.cos(2 * math.pi * hertz * times[-1] + phase) - whole.mean()) / whole.std()
        times.append(times[-1] + heart.rr * (1 + heart.variability * min(max(swing, -2.5), 2.5)))
    return np.array(times)


def _which_early(extra: ExtraBeats, times: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Return which beats come early: every second one, or two to four well inside the record and never in a row."""
    if extra.every:
        first = 1 + int(rng.integers(extra.every))
        return list(range(first, len(times) - 1, extra.every))
    wanted = int(rng.integers(2, 5))
    chosen: list[int] = []
    for k in rng.permutation(np.flatnonzero((times > 1.5) & (times < 8.8))):
        if len(chosen) < wanted and all(abs(k - other) > 1 for other in chosen):
            chosen.append(int(k))
    return chosen


# --------------------------------------------------------------------------------------------------------------
# From heart to leads


@dataclass(frozen=True)
class _Shape:
    """The waves of one kind of beat as arrays: vectors (w, 3), everything else (w,)."""

    vectors: np.ndarray
    centre: np.ndarray
    width: np.ndarray
    width_after: np.ndarray
    with_rate: np.ndarray


def _shape(waves: Sequence[Wave]) -> _Shape:
    return _Shape(
        vectors=np.array([wave.vector for wave in waves]),
        centre=np.array([wave.centre for wave in waves]),
        width=np.array([wave.width for wave in waves]),
        width_after=np.array([wave.width_after for wave in waves]),
        with_rate=np.array([wave.with_rate for wave in waves]),
    )


def dipole(heart: Heart, beats: Sequence[Beat], rng: np.random.Generator) -> np.ndarray:
    """Return the dipole (3, 5000) in mV of all waves; T and ST follow the interval before their beat."""
    no_p = heart.rhythm in ("AFIB", "AFLT")  # their atria have waves of their own, beats or not
    shapes = {NORMAL: _shape([w for name, w in heart.waves.items() if not (no_p and name.startswith("P"))])}
    if heart.extra_beats is not None:
        shapes[heart.extra_beats.code] = _shape(list(heart.extra_beats.waves.values()))
    window = np.arange(int(-0.5 * RATE), int(0.8 * RATE))
    total = _atrial_dipole(heart, rng) if no_p else np.zeros((3, SECONDS * RATE))
    for beat in beats:
        samples = round(beat.time * RATE) + window
        samples = samples[(samples >= 0) & (samples < total.shape[1])]
        if not len(samples):
            continue
        shape = shapes[beat.kind]
        stretch = np.where(shape.with_rate, beat.stretch, 1.0)[:, None]
        offset = samples / RATE - beat.time - shape.centre[:, None] * stretch  # (w, n)
        width = np.where(offset < 0, shape.width[:, None] * stretch, shape.width_after[:, None] * stretch)
        total[:, samples[0] : samples[-1] + 1] += shape.vectors.T @ np.exp(-0.5 * (offset / width) ** 2)
    return total


def _atrial_dipole(heart: Heart, rng: np.random.Generator) -> np.ndarray:
    """Return the dipole (3, 5000) in mV of atria that fibrillate or flutter."""
    time = np.arange(SECONDS * RATE) / RATE
    if heart.rhythm == "AFIB":
        hertz = rng.uniform(5, 7.5) * (1 + 0.08 * np.sin(2 * math.pi * rng.uniform(0.2, 0.6) * time))
        wave = np.sin(2 * math.pi * np.cumsum(hertz) / RATE + rng.uniform(0, 6.3))
        return np.outer([-0.01, 0.05, -0.05], wave) * rng.uniform(0.8, 1.5)
    # flutter: saw teeth that fall slowly and rise at once, a whole number of them per beat
    turn = 2 * math.pi * (heart.flutter_waves / heart.rr * time + rng.uniform())
    teeth = np.sin(turn) + np.sin(2 * turn) / 2 + np.sin(3 * turn) / 3
    return np.outer([0.01, 0.085, -0.045], teeth) * rng.uniform(0.9, 1.4)


def _rotation(x: float, y: float, z: float) -> np.ndarray:
    """Return the rotation (3, 3) by angles in degrees about the Frank axes."""
    x, y, z = np.radians([x, y, z])
    about_x = np.array([[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]])
    about_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_z = np.array([[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def electrode_noise(rng: np.random.Generator, noise: Noise, *, breathing: np.ndarray) -> np.ndarray:
    """Return disturbances at the nine electrodes (9, n) in mV; the baseline follows `breathing` (n,)."""
    n = len(breathing)
    time = np.arange(n) / RATE
    knots = np.arange(-1, SECONDS + 2, 0.9)  # s; below about 0.5 Hz
    smooth = CubicSpline(knots, rng.normal(size=(9, len(knots))), axis=1)(time)
    # float32 halves the time; its error is far below a microvolt
    total = (noise.wander * (smooth + 0.8 * rng.normal(size=(9, 1)) * breathing)).astype(np.float32)
    gains = rng.uniform(0.3, 1.0, (9, 1))
    hum = 1.4 * np.sin(2 * math.pi * 50 * time + rng.uniform(0, 6.3))
    hum += 0.2 * np.sin(2 * math.pi * 150 * time + rng.uniform(0, 6.3))
    total += (noise.mains * gains).astype(np.float32) * hum.astype(np.float32)
    muscle = dsp.sosfilt(_muscle_band(), rng.standard_normal((9, n), dtype=np.float32))
    burst = 1 + 1.5 * np.exp(-0.5 * ((time - rng.uniform(0, SECONDS)) / rng.uniform(0.3, 1.5)) ** 2)
    muscle *= (noise.muscle * burst).astype(np.float32)
    muscle *= rng.uniform(0.5, 1.3, (9, 1)).astype(np.float32)
    total += muscle
    return total


@cache
def _anti_alias() -> np.ndarray:
    """Low-pass with half its amplitude at 50 Hz, for 500 -> 100 Hz."""
    return dsp.firwin(151, 0.2, window=("kaiser", 5.0))


@cache
def _muscle_band() -> np.ndarray:
    return dsp.butter(1, [20, 140], "bandpass", fs=RATE, output="sos")


def record_heart(
    heart: Heart, rng: np.random.Generator, *, anatomy: np.random.Generator, age: int, noise: Noise
) -> Recording:
    """Return what twelve leads record of a heart; `anatomy` places it in the body, the same way for one patient."""
    turn = _rotation(anatomy.normal(0, 5), anatomy.normal(0, 8), anatomy.normal(-0.12 * (age - 50), 9))
    torso = DIPOLE_TO_ELECTRODES * anatomy.normal(1, 0.06, DIPOLE_TO_ELECTRODES.shape)
    breathing_hz = rng.uniform(0.18, 0.33)
    beats = beats_of(heart, rng, breathing_hz=breathing_hz)
    time = np.arange(SECONDS * RATE) / RATE
    breathing = np.sin(2 * math.pi * breathing_hz * time + rng.uniform(0, 2 * math.pi))
    vcg = turn @ dipole(heart, beats, rng)
    # breathing in moves and turns the heart: amplitude and frontal axis follow it
    swing = np.radians(rng.uniform(1, 4)) * breathing
    vcg[:2] = vcg[:2] + swing * np.stack([-vcg[1], vcg[0]])
    vcg *= 1 + rng.uniform(0.01, 0.05) * breathing
    electrodes = electrode_noise(rng, noise, breathing=breathing)
    electrodes += (torso @ vcg).astype(np.float32)
    leads = ELECTRODES_TO_LEADS.astype(np.float32) @ electrodes  # (12, 5000)
    slow = dsp.resample_poly(leads, 1, 5, axis=1, window=_anti_alias(), padtype="line")
    signals = {100: _to_integers(slow), 500: _to_integers(leads)}
    return Recording(signals, beats, turn @ (heart.waves["R"].vector + heart.waves["S"].vector))


def _to_integers(leads: np.ndarray) -> np.ndarray:
    whole = np.rint(leads * GAIN)
    return np.clip(whole, -32767, 32767, out=whole).astype(np.int16)


# --------------------------------------------------------------------------------------------------------------
# Where the signs are


@dataclass(frozen=True)
class Planted:
    """A sign of one statement at one beat, `start_s` and `end_s` in seconds from the start of the record."""

    code: str
    sign: str
    leads: tuple[str, ...]
    start_s: float
    end_s: float


def planted_in(heart: Heart, beats: Sequence[Beat]) -> list[Planted]:
    """Return every appearance of the signs of a heart within the record, beat by beat."""
    found = []
    for sign in heart.signs:
        for beat, following in pairwise(beats):
            if sign.beats not in (EVERY, beat.kind):
                continue
            stretch = beat.stretch if sign.stretches else 1.0
            end_from = following.time if sign.to_next else beat.time
            start = round(min(max(beat.time + sign.start * stretch, 0.0), SECONDS), 3)
            end = round(min(max(end_from + sign.end * stretch, 0.0), SECONDS), 3)
            if start < end:
                found += [Planted(code, sign.name, sign.leads, start, end) for code in sign.statements]
    return found


def leads_facing(direction: Sequence[float], *, least: float = 0.7) -> tuple[str, ...]:
    """Return the leads whose axis makes an angle with `direction` (3,) of at most acos(`least`)."""
    axes = ELECTRODES_TO_LEADS @ DIPOLE_TO_ELECTRODES  # (12, 3)
    cosine = axes @ unit(direction) / np.linalg.norm(axes, axis=1)
    return tuple(name for name, value in zip(LEADS, cosine, strict=True) if value >= least)


def unit(vector: Sequence[float]) -> np.ndarray:
    vector = np.asarray(vector, float)
    return vector / np.linalg.norm(vector)
