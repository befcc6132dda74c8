"""A synthetic PTB-XL: 12-lead ECGs of a moving cardiac dipole with planted signs of disease, in PhysioNet's formats.

The heart is a current dipole whose three components (Frank axes: X left, Y feet, Z back; mV) are sums of
Gaussians in time around each R peak (McSharry et al. 2003, doi 10.1109/TBME.2003.808805; in three
dimensions Sameni et al. 2007, doi 10.1155/2007/43407). Dower's matrix projects it onto the body (Dower et
al. 1980, the forward transform whose inverse is Edenbrandt & Pahlm 1988). A disease changes the dipole, a
disturbance the electrodes; leads are differences of electrodes, so Einthoven's and Goldberger's relations hold.

The records are caricatures for testing a pipeline. They say nothing about patients.
"""

import hashlib
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import signal as dsp
from scipy.interpolate import CubicSpline
from tqdm import tqdm

from ecg.artifacts import Folders, UserError, atomic, check_at_least, read_table, write_json
from ecg.download import CHECKSUMS, DEMO_MARK, checksum_lines, demo_settings, fetch_ptbxl, wrong_files
from ecg.labels import CLASS_NAMES, CLASSES, LEADS

SECONDS = 10
RATES = {"records100": 100, "records500": 500}  # folder: Hz
GAIN = 1000  # integers per mV
MIN_RECORDS = 20  # two per fold
VERSION = 1  # raise it when the same seed gives other files: an older demo is then written anew
SIGN_FILES = ("planted_signs.csv", "r_peaks.csv")
SIGN_COLUMNS = ("ecg_id", "superclass", "code", "sign", "leads", "start_s", "end_s")

ELECTRODES = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
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
# Potentials against Wilson's central terminal, where RA + LA + LL = 0, from the leads I, II, V1-V6
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
class Sign:
    """A planted sign: where to look for it. Times in seconds relative to each R peak."""

    superclass: str
    code: str
    sign: str
    leads: tuple[str, ...]
    start_s: float
    end_s: float


@dataclass
class Heart:
    """The beat of one record before anatomy turns it: waves by name, rhythm, and what was planted."""

    waves: dict[str, Wave]
    rr: float  # mean RR interval, s
    pr: float  # PQ interval, s
    qtc: float  # s
    atrial_fibrillation: bool = False
    signs: list[Sign] = field(default_factory=list)

    def change(self, name: str, **values: Any) -> None:
        self.waves[name] = replace(self.waves[name], **values)

    def scale(self, names: str, factor: float) -> None:
        for name in names.split():
            self.change(name, vector=self.waves[name].vector * factor)

    def sign(self, superclass: str, code: str, sign: str, leads: tuple[str, ...] | str, interval: Any) -> None:
        leads = tuple(leads.split()) if isinstance(leads, str) else leads
        start, end = interval
        self.signs.append(Sign(superclass, code, sign, leads, round(float(start), 3), round(float(end), 3)))

    @property
    def t_interval(self) -> tuple[float, float]:
        wave, stretch = self.waves["T"], math.sqrt(self.rr)
        centre = wave.centre * stretch
        return centre - 2 * wave.width * stretch, centre + 2 * wave.width_after * stretch


@dataclass(frozen=True)
class Record:
    """One synthetic recording: `signals[rate]` (12, 10 * rate) int16 in µV, leads in the order of LEADS."""

    row: dict[str, Any]  # columns of ptbxl_database.csv
    signals: dict[int, np.ndarray]
    signs: list[Sign]
    r_peaks_s: np.ndarray


@dataclass(frozen=True)
class Patient:
    patient_id: int
    sex: int  # 0 male, 1 female
    age: int
    height: float
    weight: float
    seed: int  # of the anatomy, shared by all records of this patient


# --------------------------------------------------------------------------------------------------------------
# Diseases. Directions are Frank axes: X left, Y feet, Z back.

TERRITORIES = {  # code of the infarct: where it lies, seen from the centre of the heart
    "ASMI": (-0.15, 0.0, -1.0),
    "AMI": (0.35, 0.1, -0.95),
    "ALMI": (0.85, -0.1, -0.55),
    "LMI": (0.9, -0.45, 0.15),
    "IMI": (-0.1, 1.0, 0.0),
    "ILMI": (0.6, 0.8, 0.1),
}
ISCHAEMIA = {  # code of the ischaemia: its wall
    "ISCAL": (0.85, -0.1, -0.55),
    "ISCAS": (-0.1, 0.0, -1.0),
    "ISCLA": (0.9, -0.45, 0.15),
    "ISCIN": (-0.1, 1.0, 0.0),
    "ISCIL": (0.6, 0.8, 0.1),
}
_ST = (0.06, 0.18)


def _unit(vector: Any) -> np.ndarray:
    vector = np.asarray(vector, float)
    return vector / np.linalg.norm(vector)


def leads_facing(direction: Any, *, least: float = 0.7) -> tuple[str, ...]:
    """Return the leads whose axis makes an angle with `direction` (3,) of at most acos(`least`)."""
    axes = ELECTRODES_TO_LEADS @ DIPOLE_TO_ELECTRODES  # (12, 3)
    cosine = axes @ _unit(direction) / np.linalg.norm(axes, axis=1)
    return tuple(name for name, value in zip(LEADS, cosine, strict=True) if value >= least)


def normal_heart(rng: np.random.Generator, *, sex: int, age: int) -> Heart:
    """Return a healthy beat; amplitudes, intervals and rate vary with age, sex and chance."""
    rr = 60 / np.clip(rng.normal(70 + 3 * sex, 11), 48, 112)
    pr = np.clip(rng.normal(0.150 + 0.0003 * (age - 50), 0.016), 0.115, 0.195)
    qtc = np.clip(rng.normal(0.405 + 0.012 * sex, 0.013), 0.37, 0.44)
    qrs = rng.normal(1, 0.05)  # duration
    volts = math.exp(rng.normal(0.08 - 0.004 * (age - 45) - 0.08 * sex, 0.18))
    t_size = math.exp(rng.normal(0.05 - 0.12 * sex - 0.003 * (age - 45), 0.25))

    def wave(vector: Any, centre: float, width: float, after: float | None = None, jitter: float = 0.06) -> Wave:
        vector = np.asarray(vector) * math.exp(rng.normal(0, jitter)) + rng.normal(0, 0.012, 3)
        return Wave(vector, centre, width, width if after is None else after)

    p_onset = -0.04 - pr
    waves = {
        "P right": wave([0.02, 0.065, -0.045], p_onset + 0.038, 0.016),
        "P left": wave([0.06, 0.06, 0.035], p_onset + 0.066, 0.017),
        "Q": wave([-0.13, -0.05, -0.30], -0.022 * qrs, 0.0085 * qrs, jitter=0.2),
        "R": wave(np.array([1.12, 0.86, 0.30]) * volts, 0.0, 0.0115 * qrs),
        "S": wave(np.array([-0.12, -0.10, 0.56]) * volts, 0.023 * qrs, 0.0105 * qrs, jitter=0.2),
        "ST": wave(np.array([0.01, 0.01, -0.03]) * t_size, 0.11, 0.035),
        "T": wave(np.array([0.30, 0.23, -0.15]) * t_size, 0.0, 0.055, 0.036, jitter=0.1),
    }
    waves["ST"] = replace(waves["ST"], vector=waves["ST"].vector * 0.7)
    heart = Heart(waves, rr, pr, qtc)
    _place_t(heart)
    return heart


def _place_t(heart: Heart) -> None:
    """QT = QTc sqrt(RR) (Bazett): T ends two widths after its centre, QRS begins 40 ms before R."""
    t = heart.waves["T"]
    heart.change("T", centre=heart.qtc - 2 * t.width_after - 0.04 / math.sqrt(heart.rr), with_rate=True)


def _place_p(heart: Heart) -> None:
    heart.change("P right", centre=-0.04 - heart.pr + 0.038)
    heart.change("P left", centre=-0.04 - heart.pr + 0.066)


def _away(vector: np.ndarray, wall: np.ndarray, amount: float) -> np.ndarray:
    """Return `vector` with its component along `wall` set to -`amount`."""
    return vector - wall * (vector @ wall + amount)


def plant_infarct(heart: Heart, rng: np.random.Generator, code: str, stage: int) -> None:
    """Q away from the dead wall, R lost; ST towards it (stage 1, fresh), T away from it (2 and 3, older)."""
    wall = _unit(TERRITORIES[code])
    leads = leads_facing(wall)
    size = rng.uniform(0.5, 1)
    q, r = heart.waves["Q"], heart.waves["R"]
    heart.change("Q", vector=_away(q.vector, wall, 0.62 * size), centre=-0.026, width=0.013, width_after=0.013)
    heart.change("R", vector=r.vector - wall * max(r.vector @ wall, 0) * 0.45 * size)
    heart.sign("MI", code, "pathological Q", leads, (-0.055, -0.01))
    elevation = {1: 0.2, 2: 0.07, 3: 0.0}[stage] * rng.uniform(0.7, 1.3)
    if elevation:
        _plant_st(heart, wall * elevation)
        heart.sign("MI", code, "ST elevation", leads, _ST)
    t = heart.waves["T"].vector
    if stage == 1:
        heart.change("T", vector=t + wall * 0.12 * size)
    else:
        heart.change("T", vector=_away(t, wall, rng.uniform(0.1, 0.3)))
        heart.sign("MI", code, "T inversion", leads, heart.t_interval)


def _plant_st(heart: Heart, vector: np.ndarray) -> None:
    # two Gaussians make the level stretch from the J point to the T wave
    heart.waves["ST early"] = Wave(vector, 0.085, 0.022, 0.035, True)
    heart.waves["ST late"] = Wave(vector, 0.165, 0.035, 0.05, True)


def plant_st_t(heart: Heart, rng: np.random.Generator, code: str) -> None:
    """Changes of ST and T that leave QRS alone."""
    t = heart.waves["T"].vector
    if code in ISCHAEMIA:
        wall = _unit(ISCHAEMIA[code])
        heart.change("T", vector=_away(t, wall, rng.uniform(0.1, 0.35)), width=0.042, width_after=0.038)
        _plant_st(heart, -wall * rng.uniform(0.04, 0.1))
        heart.sign("STTC", code, "T inversion", leads_facing(wall), heart.t_interval)
        heart.sign("STTC", code, "ST depression", leads_facing(wall), _ST)
    elif code in ("ISC_", "NST_"):  # subendocardial: ST vector from the apex to the base
        apex = _unit([0.75, 0.45, -0.45])
        depth = rng.uniform(0.08, 0.2) if code == "ISC_" else rng.uniform(0.07, 0.12)
        _plant_st(heart, -apex * depth)
        heart.sign("STTC", code, "ST depression", leads_facing(apex), _ST)
        heart.change("T", vector=t * (rng.uniform(-0.5, 0.1) if code == "ISC_" else rng.uniform(0.3, 0.6)))
        if code == "ISC_":
            heart.sign("STTC", code, "flat or inverted T", leads_facing(apex), heart.t_interval)
    elif code == "NDT":
        heart.change("T", vector=t * rng.uniform(-0.5, 0.2))
        heart.sign("STTC", code, "flat or inverted T", "I II aVL V4 V5 V6", heart.t_interval)
    elif code == "LNGQT":
        heart.qtc = rng.uniform(0.50, 0.57)
        _place_t(heart)
        heart.sign("STTC", code, "long QT", LEADS, heart.t_interval)
    else:
        raise ValueError(code)


def plant_conduction(heart: Heart, rng: np.random.Generator, code: str) -> None:
    """Bundle branch block, fascicular block or a slow AV node."""
    q, r, s, t = (heart.waves[name].vector for name in ("Q", "R", "S", "T"))
    size = float(np.linalg.norm(r)) / 1.45
    slow = rng.uniform(0.92, 1.12)
    if code == "CLBBB":  # the left ventricle is reached through the septum: late, leftwards and backwards
        heart.change("Q", vector=np.array([0.18, 0.1, -0.12]) * size, centre=-0.035, width=0.012, width_after=0.012)
        heart.change("R", vector=np.array([0.95, 0.42, 0.55]) * size, width=0.019 * slow, width_after=0.02 * slow)
        heart.change(
            "S",
            vector=np.array([0.9, 0.2, 0.85]) * size,
            centre=0.052 * slow,
            width=0.018 * slow,
            width_after=0.017 * slow,
        )
        away = -np.array([0.32, 0.1, 0.34]) * size
        heart.change("T", vector=away, centre=heart.waves["T"].centre + 0.03)
        _plant_st(heart, away * 0.3)
        heart.sign("CD", code, "wide notched R", "I aVL V5 V6", (-0.05, 0.10))
        heart.sign("CD", code, "wide deep S", "V1 V2 V3", (-0.05, 0.10))
        heart.sign("CD", code, "discordant T", "I aVL V5 V6", heart.t_interval)
    elif code in ("CRBBB", "IRBBB"):  # the right ventricle is reached late: rightwards and forwards at the end
        late = rng.uniform(0.85, 1.1) if code == "CRBBB" else rng.uniform(0.5, 0.65)
        centre, width = (0.068 * slow, 0.017 * slow) if code == "CRBBB" else (0.045, 0.011)
        heart.change("S", vector=s * 0.6)
        heart.waves["R'"] = Wave(np.array([-0.6, -0.05, -0.75]) * late, centre, width, width * 1.15)
        if code == "CRBBB":
            heart.change("T", vector=t + np.array([0.05, 0, 0.28]))
            heart.sign("CD", code, "discordant T", "V1 V2", heart.t_interval)
        interval = (centre - 2 * width, centre + 2.3 * width)
        heart.sign("CD", code, "R'", "V1 V2", interval)
        heart.sign("CD", code, "wide S" if code == "CRBBB" else "S", "I aVL V6", interval)
    elif code == "LAFB":  # first downwards, then to the left and up: axis beyond -45 degrees
        heart.change("Q", vector=q * 0.5 + np.array([-0.06, 0.38, 0.0]), centre=-0.03)
        length = np.linalg.norm(r[:2])
        angle = math.radians(rng.uniform(-62, -45))
        heart.change("R", vector=np.array([length * math.cos(angle), length * math.sin(angle), r[2]]), width=0.013)
        heart.change("S", vector=s + np.array([0.0, -0.25, 0.0]) * size)
        heart.sign("CD", code, "rS", "II III aVF", (-0.04, 0.06))
        heart.sign("CD", code, "tall R", "I aVL", (-0.03, 0.03))
    elif code == "1AVB":
        heart.pr = rng.uniform(0.215, 0.31)
        heart.rr = max(heart.rr, 0.72)  # a faster heart would hide P in the T before it
        _place_p(heart)
        heart.sign("CD", code, "long PR", LEADS, (-0.04 - heart.pr, -0.04))
    else:
        raise ValueError(code)


def plant_hypertrophy(heart: Heart, rng: np.random.Generator, code: str, *, strain: bool) -> None:
    """More muscle: a longer vector, and with `strain` ST and T turned away from it."""
    t = heart.waves["T"].vector
    if code == "LVH":
        volts = rng.uniform(1.4, 2.1) / max(np.linalg.norm(heart.waves["R"].vector) / 1.45, 0.8)
        heart.scale("R S", volts)
        r = heart.waves["R"].vector
        heart.change(  # to the left and back, and a little slower
            "R", vector=r + np.array([0.2, -0.3, 0.25]), width=0.0135, width_after=0.0135
        )
        heart.sign("HYP", code, "high voltage", "I aVL V4 V5 V6", (-0.035, 0.035))
        heart.sign("HYP", code, "deep S", "V1 V2 V3", (-0.03, 0.055))
        away = -np.array([0.62, 0.05, 0.35])
        if strain:
            amount = rng.uniform(0.3, 0.55)
            heart.change("T", vector=t * 0.1 + away * amount, width=0.065, width_after=0.032)
            _plant_st(heart, away * amount * 0.4)
            heart.sign("HYP", code, "strain ST depression", "I aVL V5 V6", _ST)
            heart.sign("HYP", code, "strain T inversion", "I aVL V5 V6", heart.t_interval)
    elif code == "RVH":
        size = rng.uniform(0.85, 1.2)
        heart.change("R", vector=np.array([-0.25, 0.8, -0.75]) * size)
        heart.change("S", vector=np.array([-0.5, -0.15, 0.1]) * size)
        heart.sign("HYP", code, "tall R", "V1 V2", (-0.035, 0.035))
        heart.sign("HYP", code, "deep S", "I V6", (-0.03, 0.055))
        if strain:
            heart.change("T", vector=np.array([0.2, 0.05, 0.22]) * rng.uniform(0.8, 1.2))
            heart.sign("HYP", code, "strain T inversion", "V1 V2 V3", heart.t_interval)
    elif code == "LAO/LAE":
        heart.change("P left", vector=np.array([0.1, 0.09, 0.11]), centre=heart.waves["P left"].centre + 0.02)
        end = heart.waves["P left"].centre + 0.035
        heart.sign("HYP", code, "wide P, negative at its end", "II V1", (-0.04 - heart.pr, end))
    else:
        raise ValueError(code)


# --------------------------------------------------------------------------------------------------------------
# From heart to leads


def r_peak_times(heart: Heart, rng: np.random.Generator, *, breathing_hz: float, variability: float) -> np.ndarray:
    """Return R peaks (n,) in seconds from before 0 to after the end.

    Sinus rhythm: RR is a sum of oscillations with random phases around 0.1 Hz (Mayer waves) and the breathing
    frequency, twice the power in the latter (McSharry et al. 2003, eq. 3); `variability` is its relative SD.
    Atrial fibrillation: independent intervals.
    """
    times = [-rng.uniform(0.3, 1.0) * heart.rr - heart.rr]
    if heart.atrial_fibrillation:
        while times[-1] < SECONDS + 1:
            times.append(times[-1] + max(heart.rr * math.exp(rng.normal(0, 0.22)), 0.38))
        return np.array(times)
    hertz = np.concatenate([rng.normal(0.1, 0.01, 6), rng.normal(breathing_hz, 0.01, 6)])
    weight = np.repeat([math.sqrt(1 / 3), math.sqrt(2 / 3)], 6) * math.sqrt(2 / 6)
    phase = rng.uniform(0, 2 * math.pi, 12)
    while times[-1] < SECONDS + 1:
        swing = float(weight @ np.cos(2 * math.pi * hertz * times[-1] + phase))
        times.append(times[-1] + heart.rr * (1 + variability * min(max(swing, -2.5), 2.5)))
    return np.array(times)


def dipole(heart: Heart, r_peaks: np.ndarray, *, rate: int = 500) -> np.ndarray:
    """Return the dipole (3, 10 * rate) in mV; T and ST move with the square root of the RR before them."""
    names = [n for n in heart.waves if not (heart.atrial_fibrillation and n.startswith("P"))]
    waves = [heart.waves[name] for name in names]
    vectors = np.array([w.vector for w in waves])  # (w, 3)
    centre, before, after = (np.array([getattr(w, k) for w in waves]) for k in ("centre", "width", "width_after"))
    moves = np.array([w.with_rate for w in waves])
    first, window = int(-0.5 * rate), np.arange(int(1.3 * rate))
    total = np.zeros((3, SECONDS * rate))
    for previous, peak in pairwise(r_peaks):
        start = round(peak * rate) + first
        samples = start + window
        samples = samples[(samples >= 0) & (samples < total.shape[1])]
        if not len(samples):
            continue
        stretch = np.where(moves, math.sqrt(peak - previous), 1.0)
        offset = samples / rate - peak - (centre * stretch)[:, None]  # (w, n)
        width = np.where(offset < 0, (before * stretch)[:, None], (after * stretch)[:, None])
        total[:, samples[0] : samples[-1] + 1] += vectors.T @ np.exp(-0.5 * (offset / width) ** 2)
    return total


def _rotation(x: float, y: float, z: float) -> np.ndarray:
    """Return the rotation (3, 3) by angles in degrees about the Frank axes."""
    x, y, z = np.radians([x, y, z])
    about_x = np.array([[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]])
    about_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_z = np.array([[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def electrode_noise(
    rng: np.random.Generator, *, wander: float, mains: float, muscle: float, breathing: np.ndarray, rate: int = 500
) -> np.ndarray:
    """Return disturbances at the nine electrodes (9, n) in mV; the arguments are their typical sizes in mV."""
    n = len(breathing)
    time = np.arange(n) / rate
    knots = np.arange(-1, SECONDS + 2, 0.9)  # s; below about 0.5 Hz
    smooth = CubicSpline(knots, rng.normal(size=(9, len(knots))), axis=1)(time)
    # float32 halves the time; its error is far below a microvolt
    noise = (wander * (smooth + 0.8 * rng.normal(size=(9, 1)) * breathing)).astype(np.float32)
    gains = rng.uniform(0.3, 1.0, (9, 1))
    hum = sum(a * np.sin(2 * math.pi * 50 * k * time + rng.uniform(0, 6.3)) for k, a in ((1, 1.4), (3, 0.2)))
    noise += (mains * gains).astype(np.float32) * hum.astype(np.float32)
    emg = dsp.sosfilt(_muscle_band(rate), rng.standard_normal((9, n), dtype=np.float32))
    burst = 1 + 1.5 * np.exp(-0.5 * ((time - rng.uniform(0, SECONDS)) / rng.uniform(0.3, 1.5)) ** 2)
    emg *= (muscle * burst).astype(np.float32)
    emg *= rng.uniform(0.5, 1.3, (9, 1)).astype(np.float32)
    noise += emg
    return noise


@cache
def _anti_alias() -> np.ndarray:
    """Low-pass with half its amplitude at 50 Hz, for 500 -> 100 Hz."""
    return dsp.firwin(151, 0.2, window=("kaiser", 5.0))


@cache
def _muscle_band(rate: int) -> np.ndarray:
    return dsp.butter(1, [20, 140], "bandpass", fs=rate, output="sos")


def record_signals(
    heart: Heart, rng: np.random.Generator, *, anatomy: np.random.Generator, age: int, quality: dict[str, float]
) -> tuple[dict[int, np.ndarray], np.ndarray, np.ndarray]:
    """Return ({100: (12, 1000), 500: (12, 5000)} int16 in µV, R peaks (n,) in s, mean QRS vector (3,))."""
    turn = _rotation(anatomy.normal(0, 5), anatomy.normal(0, 8), anatomy.normal(-0.12 * (age - 50), 9))
    torso = DIPOLE_TO_ELECTRODES * anatomy.normal(1, 0.06, DIPOLE_TO_ELECTRODES.shape)
    breathing_hz = rng.uniform(0.18, 0.33)
    r_peaks = r_peak_times(heart, rng, breathing_hz=breathing_hz, variability=quality["variability"])
    time = np.arange(SECONDS * 500) / 500
    phase = rng.uniform(0, 2 * math.pi)
    breathing = np.sin(2 * math.pi * breathing_hz * time + phase)
    vcg = turn @ dipole(heart, r_peaks)
    if heart.atrial_fibrillation:
        hertz = rng.uniform(5, 7.5) * (1 + 0.08 * np.sin(2 * math.pi * rng.uniform(0.2, 0.6) * time))
        f_wave = np.sin(2 * math.pi * np.cumsum(hertz) / 500 + rng.uniform(0, 6.3))
        vcg += np.outer([-0.01, 0.05, -0.05], f_wave) * rng.uniform(0.8, 1.5)
    # breathing in moves and turns the heart: amplitude and frontal axis follow it
    swing = np.radians(rng.uniform(1, 4)) * breathing
    vcg[:2] = vcg[:2] + swing * np.stack([-vcg[1], vcg[0]])
    vcg *= 1 + rng.uniform(0.01, 0.05) * breathing
    noise = electrode_noise(
        rng, wander=quality["wander"], mains=quality["mains"], muscle=quality["muscle"], breathing=breathing
    )
    noise += (torso @ vcg).astype(np.float32)
    leads = ELECTRODES_TO_LEADS.astype(np.float32) @ noise  # (12, 5000)
    slow = dsp.resample_poly(leads, 1, 5, axis=1, window=_anti_alias(), padtype="line")
    signals = {100: _to_integers(slow), 500: _to_integers(leads)}
    inside = r_peaks[(r_peaks >= 0) & (r_peaks < SECONDS)]
    return signals, inside, turn @ (heart.waves["R"].vector + heart.waves["S"].vector)


def _to_integers(leads: np.ndarray) -> np.ndarray:
    whole = np.rint(leads * GAIN)
    return np.clip(whole, -32767, 32767, out=whole).astype(np.int16)


# --------------------------------------------------------------------------------------------------------------
# Who has what

# share of all records; what is left over of 1 is NORM
SHARES = {
    ("MI",): 0.13,
    ("STTC",): 0.13,
    ("CD",): 0.13,
    ("HYP",): 0.10,
    ("MI", "CD"): 0.05,
    ("MI", "STTC"): 0.03,
    ("MI", "HYP"): 0.03,
    ("STTC", "CD"): 0.02,
    ("STTC", "HYP"): 0.02,
    ("CD", "HYP"): 0.03,
    (): 0.02,  # atrial fibrillation and nothing else: a rhythm, no superclass
}


def _diagnoses(records: int, rng: np.random.Generator) -> list[tuple[str, ...]]:
    counts = {classes: round(share * records) for classes, share in SHARES.items()}
    drawn = [classes for classes, count in counts.items() for _ in range(count)]
    drawn += [("NORM",)] * (records - len(drawn))
    return [drawn[i] for i in rng.permutation(len(drawn))]


def _plan(records: int, rng: np.random.Generator) -> list[tuple[Patient, tuple[str, ...]]]:
    """Return (patient, superclasses) of each record; one patient in seven has two or three records."""
    plan: list[tuple[Patient, tuple[str, ...]]] = []
    ids = iter(rng.permutation(20 * records) + 1)
    copies = 0
    for classes in _diagnoses(records, rng):
        sick = classes != ("NORM",)
        if copies:
            copies -= 1
            plan.append((plan[-1][0], classes))
            continue
        copies = int(rng.choice([0, 1, 2], p=[0.85, 0.11, 0.04]))
        age = int(np.clip(rng.normal(66 if sick else 51, 13 if sick else 17), 18, 97))
        sex = int(rng.random() < 0.5)
        height = round(rng.normal(175 - 12 * sex, 7))
        weight = round(rng.normal(25.5, 3.5) * (height / 100) ** 2)
        plan.append((Patient(int(next(ids)), sex, age, height, weight, int(rng.integers(2**32))), classes))
    return plan


def stratified_folds(patient_ids: list[int], labels: np.ndarray, *, folds: int = 10) -> np.ndarray:
    """Return a fold 1-`folds` for each record, (n,); a patient's records share it and labels are spread evenly.

    Greedy, the patients with the rarest labels first, each into the fold that lacks most (after Sechidis et al.
    2011, doi 10.1007/978-3-642-23808-6_10). `labels` (n, k) multi-hot.
    """
    table = pd.DataFrame(labels.astype(float)).assign(any=1.0)
    by_patient = table.groupby(np.asarray(patient_ids)).sum()
    total = by_patient.sum().to_numpy().clip(1)
    counts = by_patient.to_numpy()  # (patients, k + 1)
    rarity = np.where(counts > 0, total, np.inf).min(axis=1)
    order = np.lexsort((by_patient.index.to_numpy(), rarity, -counts[:, -1]))
    lack = np.tile(total / folds, (folds, 1))
    fold = np.zeros(len(counts), int)
    for i in order:
        fold[i] = int(np.argmax((lack / total) @ (counts[i] > 0)))
        lack[fold[i]] -= counts[i]
    return pd.Series(fold + 1, index=by_patient.index).loc[list(patient_ids)].to_numpy()


def _sick_heart(
    classes: tuple[str, ...], rng: np.random.Generator, *, sex: int, age: int
) -> tuple[Heart, dict[str, float], int]:
    """Return the heart, its SCP codes with likelihoods, and the stage of an infarct (0: none)."""
    heart = normal_heart(rng, sex=sex, age=age)
    pick = lambda options, weights: str(rng.choice(options, p=np.array(weights) / sum(weights)))  # noqa: E731
    codes: dict[str, float] = {}
    likelihood = lambda: float(rng.choice([100.0, 80.0, 50.0], p=[0.75, 0.15, 0.10]))  # noqa: E731
    stage, infarct = 0, ""
    if "HYP" in classes:
        code = pick(["LVH", "RVH"], [0.85, 0.15]) if classes == ("HYP",) else "LVH"
        # with STTC or MI beside it, T and ST are theirs
        strain = bool(rng.random() < 0.6) and not {"STTC", "MI"} & set(classes)
        plant_hypertrophy(heart, rng, code, strain=strain)
        codes[code] = likelihood()
        if code == "LVH" and rng.random() < 0.25:
            plant_hypertrophy(heart, rng, "LAO/LAE", strain=False)
            codes["LAO/LAE"] = likelihood()
    if "CD" in classes:
        options = {"CLBBB": 0.25, "CRBBB": 0.25, "IRBBB": 0.1, "LAFB": 0.2, "1AVB": 0.2}
        if "MI" in classes or "STTC" in classes or "HYP" in classes:
            options.pop("CLBBB")  # it would hide the other disease
        if "HYP" in classes:
            options.pop("IRBBB")
        code = pick(list(options), list(options.values()))
        plant_conduction(heart, rng, code)
        codes[code] = 100.0
    if "MI" in classes:
        options = {"IMI": 0.32, "ASMI": 0.28, "AMI": 0.12, "ALMI": 0.1, "LMI": 0.08, "ILMI": 0.1}
        if "LAFB" in codes:
            options = {"ASMI": 0.7, "AMI": 0.3}  # axis and inferior Q would fight
        infarct = pick(list(options), list(options.values()))
        stage = 3 if "STTC" in classes else int(rng.choice([1, 2, 3], p=[0.3, 0.25, 0.45]))
        plant_infarct(heart, rng, infarct, stage)
        codes[infarct] = likelihood()
    if "STTC" in classes:
        options = {"NDT": 0.25, "ISC_": 0.2, "NST_": 0.12, "LNGQT": 0.08}
        options |= {"ISCAL": 0.13, "ISCAS": 0.06, "ISCLA": 0.04, "ISCIN": 0.07, "ISCIL": 0.05}
        if infarct:  # ischaemia at a distance
            options = {"ISCAL": 1.0} if infarct == "IMI" else {"ISCIN": 1.0}
        code = pick(list(options), list(options.values()))
        plant_st_t(heart, rng, code)
        codes[code] = likelihood() if code.startswith("ISC") else 100.0
    if classes == ("NORM",):
        codes["NORM"] = likelihood()
    fibrillates = classes == () or (classes != ("NORM",) and "1AVB" not in codes and rng.random() < 0.05)
    if fibrillates:
        heart.atrial_fibrillation = True
        heart.rr = 60 / rng.uniform(65, 110)
        heart.signs = [s for s in heart.signs if s.code != "LAO/LAE"]
        codes.pop("LAO/LAE", None)
    return heart, codes, stage


# SCP-ECG codes (EN 1064) that the generator uses, with some neighbours, grouped as PTB-XL groups them:
# code: (description, d diagnostic f form r rhythm, superclass, subclass)
STATEMENTS = {
    "NORM": ("normal ECG", "d", "NORM", "NORM"),
    "IMI": ("inferior myocardial infarction", "d", "MI", "IMI"),
    "ILMI": ("inferolateral myocardial infarction", "d", "MI", "IMI"),
    "IPMI": ("inferoposterior myocardial infarction", "d", "MI", "IMI"),
    "ASMI": ("anteroseptal myocardial infarction", "d", "MI", "AMI"),
    "AMI": ("anterior myocardial infarction", "d", "MI", "AMI"),
    "ALMI": ("anterolateral myocardial infarction", "d", "MI", "AMI"),
    "LMI": ("lateral myocardial infarction", "d", "MI", "LMI"),
    "PMI": ("posterior myocardial infarction", "d", "MI", "PMI"),
    "NDT": ("non-diagnostic T abnormalities", "df", "STTC", "STTC"),
    "NST_": ("non-specific ST changes", "df", "STTC", "NST_"),
    "LNGQT": ("long QT interval", "df", "STTC", "STTC"),
    "DIG": ("digitalis effect", "df", "STTC", "STTC"),
    "ISC_": ("ischaemic ST-T changes", "d", "STTC", "ISC_"),
    "ISCAL": ("ischaemic ST-T changes in anterolateral leads", "d", "STTC", "ISCA"),
    "ISCAS": ("ischaemic ST-T changes in anteroseptal leads", "d", "STTC", "ISCA"),
    "ISCLA": ("ischaemic ST-T changes in lateral leads", "d", "STTC", "ISCA"),
    "ISCIN": ("ischaemic ST-T changes in inferior leads", "d", "STTC", "ISCI"),
    "ISCIL": ("ischaemic ST-T changes in inferolateral leads", "d", "STTC", "ISCI"),
    "CLBBB": ("complete left bundle branch block", "d", "CD", "CLBBB"),
    "ILBBB": ("incomplete left bundle branch block", "d", "CD", "ILBBB"),
    "CRBBB": ("complete right bundle branch block", "d", "CD", "CRBBB"),
    "IRBBB": ("incomplete right bundle branch block", "d", "CD", "IRBBB"),
    "LAFB": ("left anterior fascicular block", "d", "CD", "LAFB/LPFB"),
    "LPFB": ("left posterior fascicular block", "d", "CD", "LAFB/LPFB"),
    "IVCD": ("non-specific intraventricular conduction disturbance", "d", "CD", "IVCD"),
    "1AVB": ("first degree AV block", "d", "CD", "_AVB"),
    "2AVB": ("second degree AV block", "d", "CD", "_AVB"),
    "3AVB": ("third degree AV block", "d", "CD", "_AVB"),
    "WPW": ("Wolff-Parkinson-White syndrome", "d", "CD", "WPW"),
    "LVH": ("left ventricular hypertrophy", "d", "HYP", "LVH"),
    "RVH": ("right ventricular hypertrophy", "d", "HYP", "RVH"),
    "SEHYP": ("septal hypertrophy", "d", "HYP", "SEHYP"),
    "LAO/LAE": ("left atrial overload or enlargement", "d", "HYP", "LAO/LAE"),
    "RAO/RAE": ("right atrial overload or enlargement", "d", "HYP", "RAO/RAE"),
    "ABQRS": ("abnormal QRS", "f", "", ""),
    "QWAVE": ("Q waves present", "f", "", ""),
    "VCLVH": ("voltage criteria for left ventricular hypertrophy", "f", "", ""),
    "INVT": ("inverted T waves", "f", "", ""),
    "LOWT": ("low T waves", "f", "", ""),
    "STD_": ("ST depression", "f", "", ""),
    "STE_": ("ST elevation", "f", "", ""),
    "LPR": ("prolonged PR interval", "f", "", ""),
    "PAC": ("atrial premature complex", "f", "", ""),
    "PVC": ("ventricular premature complex", "f", "", ""),
    "SR": ("sinus rhythm", "r", "", ""),
    "SBRAD": ("sinus bradycardia", "r", "", ""),
    "STACH": ("sinus tachycardia", "r", "", ""),
    "SARRH": ("sinus arrhythmia", "r", "", ""),
    "AFIB": ("atrial fibrillation", "r", "", ""),
    "AFLT": ("atrial flutter", "r", "", ""),
    "PACE": ("functioning artificial pacemaker", "r", "", ""),
}


def _axis(qrs: np.ndarray) -> str:
    leads = DOWER[:2] @ qrs
    angle = math.degrees(math.atan2((2 * leads[1] - leads[0]) / math.sqrt(3), leads[0]))
    bounds = ((-30, "ALAD"), (30, "LAD"), (90, "MID"), (120, "RAD"), (181, "ARAD"))
    return next(name for bound, name in bounds if angle < bound)


def make_records(records: int, *, seed: int = 0) -> Iterator[Record]:
    """Yield synthetic recordings with ecg_id 1, 2, ...; the same arguments give the same numbers.

    Raises `UserError` for fewer records than MIN_RECORDS (two per fold) and for a negative seed.
    """
    check_at_least("--records", records, MIN_RECORDS)
    check_at_least("--seed", seed, 0)
    rng = np.random.default_rng([seed, 0])
    plan = _plan(records, rng)
    labels = np.array([[name in classes for name in CLASSES] for _, classes in plan])
    folds = stratified_folds([patient.patient_id for patient, _ in plan], labels)
    date = pd.Timestamp("1984-11-09 09:17:34")
    for ecg_id, ((patient, classes), fold) in enumerate(zip(plan, folds, strict=True), start=1):
        rng = np.random.default_rng([seed, 1, ecg_id])
        date += pd.Timedelta(seconds=int(rng.exponential(4.5 * 365 * 86400 * 12 / 5 / records)) + 60)
        yield _make_record(ecg_id, patient, classes, int(fold), date, rng)


def _make_record(
    ecg_id: int, patient: Patient, classes: tuple[str, ...], fold: int, date: pd.Timestamp, rng: np.random.Generator
) -> Record:
    heart, codes, stage = _sick_heart(classes, rng, sex=patient.sex, age=patient.age)
    quality = {
        "wander": 0.04 * math.exp(rng.normal(0, 0.6)),
        "mains": 0.004 * math.exp(rng.normal(0, 0.8)),
        "muscle": 0.010 * math.exp(rng.normal(0, 0.5)),
        "variability": float(np.clip(0.03 * math.exp(rng.normal(0, 0.5)), 0.005, 0.12)),
    }
    arrhythmic = not heart.atrial_fibrillation and rng.random() < 0.06
    if arrhythmic:
        quality["variability"] = rng.uniform(0.08, 0.12)
    anatomy = np.random.default_rng(patient.seed)
    signals, r_peaks, qrs = record_signals(heart, rng, anatomy=anatomy, age=patient.age, quality=quality)
    pulse = 60 / heart.rr
    if heart.atrial_fibrillation:
        rhythm = "AFIB"
    elif arrhythmic:
        rhythm = "SARRH"
    else:
        rhythm = "SBRAD" if pulse < 60 else "STACH" if pulse > 100 else "SR"
    codes[rhythm] = 0.0
    human = fold >= 9 or bool(rng.random() < 0.7)
    maybe = lambda share, value: value if rng.random() < share else None  # noqa: E731
    stadium = {0: None, 1: "Stadium I", 2: "Stadium II", 3: "Stadium III"}[stage]
    folder, name = f"{ecg_id // 1000 * 1000:05d}", f"{ecg_id:05d}"
    row = {
        "ecg_id": ecg_id,
        "patient_id": float(patient.patient_id),
        "age": 300.0 if patient.age > 89 else float(patient.age),
        "sex": patient.sex,
        "height": maybe(0.32, float(patient.height)),
        "weight": maybe(0.43, float(patient.weight)),
        "nurse": maybe(0.93, float(rng.integers(12))),
        "site": float(rng.choice([0, 1, 2, 3], p=[0.4, 0.3, 0.22, 0.08])),
        "device": str(rng.choice(["CS-12   E", "CS-12", "CS100    3", "AT-6 C 5.5", "AT-6     6"])),
        "recording_date": f"{date:%Y-%m-%d %H:%M:%S}",
        "report": ". ".join(STATEMENTS[code][0].lower() for code in sorted(codes, key=codes.get)) + ".",
        "scp_codes": str(codes),
        "heart_axis": maybe(0.55, _axis(qrs)),
        "infarction_stadium1": stadium and (stadium if rng.random() < 0.5 else "unknown"),
        "infarction_stadium2": None,
        "validated_by": maybe(0.7, float(rng.choice([0, 1, 2]))) if human else None,
        "second_opinion": bool(human and rng.random() < 0.04),
        "initial_autogenerated_report": not human,
        "validated_by_human": human,
        "baseline_drift": " , alles" if quality["wander"] > 0.1 else None,
        "static_noise": " , alles,  " if quality["muscle"] > 0.018 or quality["mains"] > 0.012 else None,
        "burst_noise": None,
        "electrodes_problems": None,
        "extra_beats": None,
        "pacemaker": None,
        "strat_fold": fold,
        "filename_lr": f"records100/{folder}/{name}_lr",
        "filename_hr": f"records500/{folder}/{name}_hr",
    }
    return Record(row, signals, heart.signs, r_peaks)


# --------------------------------------------------------------------------------------------------------------
# PhysioNet's file formats

HEADER_LEADS = tuple(name.upper() if name.startswith("a") else name for name in LEADS)  # AVR, AVL, AVF
STATEMENT_COLUMNS = (
    *("", "description", "diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass"),
    *("Statement Category", "SCP-ECG Statement Description", "AHA code", "aECG REFID", "CDISC Code", "DICOM Code"),
)
NOTE = """# Synthetic records in PTB-XL's file formats

These are not recordings of people. `codes/00_get_data.py --demo` computed them ({records} records, seed {seed}) to
exercise a pipeline; they are caricatures of diagnoses and no evidence about any method's worth in patients.
`planted_signs.csv` says which leads and which interval (seconds relative to each R peak) of a record carry which
sign of disease; `r_peaks.csv` holds the R peaks in seconds from the start of the record.

They may be used by anybody for anything (CC0 1.0). They contain nothing of PTB-XL itself.
"""


def wfdb_record(name: str, signals: np.ndarray, *, rate: int) -> tuple[str, bytes]:
    """Return the `.hea` text and the `.dat` bytes (WFDB format 16) of `signals` (12, n) int16 in µV."""
    checksums = signals.sum(axis=1, dtype=np.int64) % 65536
    lines = [f"{name} {len(signals)} {rate} {signals.shape[1]}"]
    for lead, first, checksum in zip(HEADER_LEADS, signals[:, 0], checksums, strict=True):
        lines.append(f"{name}.dat 16 {GAIN:.1f}(0)/mV 16 0 {first} {checksum} 0 {lead}")
    return "\n".join(lines) + "\n", np.ascontiguousarray(signals.T, "<i2").tobytes()


def scp_statements() -> pd.DataFrame:
    """Return the table of `scp_statements.csv` for the codes in STATEMENTS; its first column has no name."""
    rows = []
    for code, (description, kinds, superclass, subclass) in STATEMENTS.items():
        flags = [1.0 if kind in kinds else None for kind in "dfr"]
        category = CLASS_NAMES.get(superclass, "Rhythm statements" if kinds == "r" else "Form statements")
        rows.append((code, description, *flags, superclass, subclass, category, description, *[None] * 4))
    return pd.DataFrame(rows, columns=list(STATEMENT_COLUMNS))


def get_data(*, data: Path, artifacts: Path, demo: bool, records: int, seed: int, verify: bool) -> None:
    """Make `data` hold PTB-XL, or with `demo` a synthetic one (in `data`/demo if `data` is the project's own folder).

    `artifacts` is not touched.
    """
    if not demo:
        fetch_ptbxl(data, verify=verify)
        return
    folder = data / "demo" if data == Folders().data else data
    written = write_ptbxl(folder, records=records, seed=seed)
    print(f"{folder}: {records} synthetic records, seed {seed}, {'written' if written else 'are there already'}")


def write_ptbxl(folder: Path, *, records: int, seed: int = 0) -> bool:
    """Write a synthetic PTB-XL into `folder`, or return False if exactly this one is there already.

    Besides PhysioNet's files: `planted_signs.csv`, `r_peaks.csv`, `SYNTHETIC.md`, and the mark `synthetic.json` by
    which another call knows that it may replace the files. About 0.15 MB per record. Raises `UserError` if the
    folder holds data without that mark.
    """
    settings = {"synthetic": True, "records": records, "seed": seed, "version": VERSION}
    whole = (folder / CHECKSUMS).exists()  # it is written last
    if whole and demo_settings(folder) == settings and not wrong_files(folder):
        return False
    if demo_settings(folder) is None:
        for name in ("ptbxl_database.csv", "scp_statements.csv", *RATES):
            if (folder / name).exists():
                raise UserError(
                    f"{folder / name} is not synthetic, and --demo does not write over real data: "
                    "choose another folder with --data"
                )
    # all is written beside its place first; a kill leaves either the old files or a demo without checksums,
    # which the next call replaces
    partial = folder / ".demo_partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        digests = _write_files(partial, records=records, seed=seed)
        (folder / CHECKSUMS).unlink(missing_ok=True)
        write_json(settings, folder / DEMO_MARK)
        for new in sorted(partial.iterdir()):
            old = folder / new.name
            if old.is_dir():
                shutil.rmtree(old)
            new.replace(old)
        with atomic(folder / CHECKSUMS) as temporary:
            temporary.write_text(checksum_lines(digests), encoding="utf-8")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _write_files(folder: Path, *, records: int, seed: int) -> dict[str, str]:
    """Write everything below the new `folder`; return {path: SHA-256}."""
    digests: dict[str, str] = {}

    def put(path: str, content: bytes) -> None:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        digests[path] = hashlib.sha256(content).hexdigest()

    rows, signs, peaks = [], [], []
    for record in tqdm(make_records(records, seed=seed), total=records, desc="synthetic records", disable=None):
        rows.append(record.row)
        ecg_id = record.row["ecg_id"]
        for rate, column in ((100, "filename_lr"), (500, "filename_hr")):
            path = record.row[column]
            header, data = wfdb_record(path.rsplit("/", 1)[1], record.signals[rate], rate=rate)
            put(f"{path}.hea", header.encode())
            put(f"{path}.dat", data)
        signs += [vars(sign) | {"ecg_id": ecg_id, "leads": " ".join(sign.leads)} for sign in record.signs]
        peaks += [(ecg_id, round(float(peak), 4)) for peak in record.r_peaks_s]
    tables = {
        "ptbxl_database.csv": pd.DataFrame(rows),
        "scp_statements.csv": scp_statements(),
        "planted_signs.csv": pd.DataFrame(signs, columns=list(SIGN_COLUMNS)),
        "r_peaks.csv": pd.DataFrame(peaks, columns=["ecg_id", "r_peak_s"]),
    }
    for name, table in tables.items():
        put(name, table.to_csv(index=False, lineterminator="\n").encode())
    put("SYNTHETIC.md", NOTE.format(records=records, seed=seed).encode())
    return digests


def planted_mask(data: Path, ecg_id: int, superclass: str, *, rate: int = 100) -> np.ndarray:
    """Return where the signs of `superclass` were planted in a record, (12, 10 * rate) bool, leads as in LEADS.

    All False where the record has none, as for NORM. Raises `UserError` if `data` is not a synthetic PTB-XL.
    """
    signs, peaks = (read_table(data / name, made_by="codes/00_get_data.py --demo") for name in SIGN_FILES)
    mask = np.zeros((len(LEADS), SECONDS * rate), bool)
    peak_times = peaks.r_peak_s[peaks.ecg_id == ecg_id]
    for sign in signs[(signs.ecg_id == ecg_id) & (signs.superclass == superclass)].itertuples():
        rows = [LEADS.index(lead) for lead in sign.leads.split()]
        for peak in peak_times:
            start, end = (round(np.clip(peak + t, 0, SECONDS) * rate) for t in (sign.start_s, sign.end_s))
            mask[rows, start:end] = True
    return mask
