"""What each planted statement does to a synthetic heart, and where its signs are to be seen.

One function per disease, rhythm or kind of beat. It changes waves or times of a `Heart` and notes the signs, with every
statement that they make true: an inverted T of ischaemia is also INVT. Directions are Frank axes: X left, Y feet,
Z back. The numbers are caricatures, larger and cleaner than in patients.
"""

import math
from collections.abc import Callable

import numpy as np

from ecg.leads import LEADS
from ecg.synthetic_heart import EVERY, ExtraBeats, Heart, Sign, Wave, leads_facing, unit

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
APEX = (0.75, 0.45, -0.45)
LEFT = ("I", "aVL", "V5", "V6")
RIGHT = ("V1", "V2", "V3")
INFERIOR = ("II", "III", "aVF")
ST = (0.06, 0.18)  # s after R
QRS = (-0.05, 0.08)


# --------------------------------------------------------------------------------------------------------------
# Infarcts


def _away(vector: np.ndarray, wall: np.ndarray, amount: float) -> np.ndarray:
    """Return `vector` with its component along `wall` set to -`amount`."""
    return vector - wall * (vector @ wall + amount)


def _shift_st(heart: Heart, vector: np.ndarray) -> None:
    # two Gaussians make the level stretch from the J point to the T wave
    heart.waves["ST early"] = Wave(vector, 0.085, 0.022, 0.035, with_rate=True)
    heart.waves["ST late"] = Wave(vector, 0.165, 0.035, 0.05, with_rate=True)


def plant_infarct(heart: Heart, rng: np.random.Generator, code: str, stage: int) -> None:
    """Q away from the dead wall, R lost; ST towards it (stage 1, fresh), T away from it (2 and 3, older)."""
    wall = unit(TERRITORIES[code])
    leads = leads_facing(wall)
    deep = rng.random() < 0.5
    size = rng.uniform(0.8, 1.0) if deep else rng.uniform(0.5, 0.65)
    q, r = heart.waves["Q"], heart.waves["R"]
    heart.change("Q", vector=_away(q.vector, wall, 0.62 * size), centre=-0.026, width=0.013, width_after=0.013)
    heart.change("R", vector=r.vector - wall * max(r.vector @ wall, 0) * 0.45 * size)
    statements = (code, "ABQRS", "QWAVE") if deep else (code, "ABQRS")
    heart.add_sign("pathological Q", statements, leads, -0.055, -0.01)
    t = heart.waves["T"].vector
    if stage == 1:
        _shift_st(heart, wall * 0.2 * rng.uniform(0.7, 1.3))
        heart.add_sign("ST elevation", (code, "STE_"), leads, *ST)
        heart.change("T", vector=t + wall * 0.12 * size)
        return
    if stage == 2:
        _shift_st(heart, wall * 0.07 * rng.uniform(0.7, 1.3))
        heart.add_sign("slight ST elevation", (code,), leads, *ST)
    heart.change("T", vector=_away(t, wall, rng.uniform(0.1, 0.3)))
    heart.add_t_sign("T inversion", (code, "INVT"), leads)


# --------------------------------------------------------------------------------------------------------------
# ST and T without a change of QRS


def plant_ischaemia(heart: Heart, rng: np.random.Generator, code: str) -> None:
    """T away from the wall that lacks blood, and ST lowered over it."""
    wall = unit(ISCHAEMIA[code])
    t = heart.waves["T"].vector
    heart.change("T", vector=_away(t, wall, rng.uniform(0.1, 0.35)), width=0.042, width_after=0.038)
    _shift_st(heart, -wall * rng.uniform(0.04, 0.1))
    heart.add_t_sign("T inversion", (code, "INVT"), leads_facing(wall))
    heart.add_sign("ST depression", (code, "STD_"), leads_facing(wall), *ST)


def plant_subendocardial_ischaemia(heart: Heart, rng: np.random.Generator) -> None:
    """ISC_: the ST vector from the apex to the base, T small or inverted."""
    apex = unit(APEX)
    _shift_st(heart, -apex * rng.uniform(0.1, 0.2))
    heart.add_sign("ST depression", ("ISC_", "STD_"), leads_facing(apex), *ST)
    _weaken_t(heart, rng, "ISC_", leads_facing(apex))


def plant_st_change(heart: Heart, rng: np.random.Generator) -> None:
    """NST_: ST a little lower, T smaller but upright."""
    apex = unit(APEX)
    _shift_st(heart, -apex * rng.uniform(0.07, 0.12))
    heart.scale(["T"], rng.uniform(0.3, 0.55))
    heart.add_sign("ST depression", ("NST_", "STD_"), leads_facing(apex), *ST)


def plant_t_change(heart: Heart, rng: np.random.Generator) -> None:
    """NDT: T small or inverted wherever it is upright in health."""
    _weaken_t(heart, rng, "NDT", ("I", "II", "aVL", "V4", "V5", "V6"))


def _weaken_t(heart: Heart, rng: np.random.Generator, code: str, leads: tuple[str, ...]) -> None:
    if rng.random() < 0.5:
        heart.scale(["T"], rng.uniform(-0.6, -0.35))
        heart.add_t_sign("T inversion", (code, "INVT"), leads)
    else:
        heart.scale(["T"], rng.uniform(-0.05, 0.2))
        heart.add_t_sign("low T", (code, "LOWT"), leads)


def plant_long_qt(heart: Heart, rng: np.random.Generator) -> None:
    heart.qtc = rng.uniform(0.50, 0.57)
    heart.place_t()
    heart.add_t_sign("long QT", ("LNGQT",), LEADS)


# --------------------------------------------------------------------------------------------------------------
# Conduction


def _muscle(heart: Heart) -> float:
    """Return the size of QRS, 1 in a typical heart."""
    return float(np.linalg.norm(heart.waves["R"].vector)) / 1.45


def plant_left_block(heart: Heart, rng: np.random.Generator) -> None:
    """CLBBB: the left ventricle is reached through the septum, late, leftwards and backwards."""
    size, slow = _muscle(heart), rng.uniform(0.92, 1.12)
    heart.change("Q", vector=np.array([0.18, 0.1, -0.12]) * size, centre=-0.035, width=0.012, width_after=0.012)
    heart.change("R", vector=np.array([0.95, 0.42, 0.55]) * size, width=0.019 * slow, width_after=0.02 * slow)
    late = np.array([0.9, 0.2, 0.85]) * size
    heart.change("S", vector=late, centre=0.052 * slow, width=0.018 * slow, width_after=0.017 * slow)
    away = -np.array([0.32, 0.1, 0.34]) * size
    heart.change("T", vector=away, centre=heart.waves["T"].centre + 0.03)
    _shift_st(heart, away * 0.3)
    heart.add_sign("wide notched R", ("CLBBB", "ABQRS"), LEFT, -0.05, 0.10)
    heart.add_sign("wide deep S", ("CLBBB", "ABQRS"), RIGHT, -0.05, 0.10)
    heart.add_t_sign("discordant T", ("CLBBB",), LEFT)


def plant_right_block(heart: Heart, rng: np.random.Generator) -> None:
    """CRBBB: the right ventricle is reached late, rightwards and forwards at the end."""
    slow = rng.uniform(0.92, 1.12)
    centre, width = 0.068 * slow, 0.017 * slow
    heart.scale(["S"], 0.6)
    heart.waves["R'"] = Wave(np.array([-0.6, -0.05, -0.75]) * rng.uniform(0.85, 1.1), centre, width, width * 1.15)
    heart.change("T", vector=heart.waves["T"].vector + np.array([0.05, 0, 0.28]))
    start, end = centre - 2 * width, centre + 2.3 * width
    heart.add_sign("R'", ("CRBBB", "ABQRS"), ("V1", "V2"), start, end)
    heart.add_sign("wide S", ("CRBBB", "ABQRS"), ("I", "aVL", "V6"), start, end)
    heart.add_t_sign("discordant T", ("CRBBB",), ("V1", "V2"))


def plant_incomplete_right_block(heart: Heart, rng: np.random.Generator) -> None:
    """IRBBB: the same, earlier, smaller and narrower."""
    centre, width = 0.045, 0.011
    heart.scale(["S"], 0.6)
    heart.waves["R'"] = Wave(np.array([-0.6, -0.05, -0.75]) * rng.uniform(0.5, 0.65), centre, width, width * 1.15)
    start, end = centre - 2 * width, centre + 2.3 * width
    heart.add_sign("R'", ("IRBBB",), ("V1", "V2"), start, end)
    heart.add_sign("S", ("IRBBB",), ("I", "aVL", "V6"), start, end)


def plant_left_anterior_block(heart: Heart, rng: np.random.Generator) -> None:
    """LAFB: first downwards, then to the left and up, the axis beyond -45 degrees."""
    q, r, s = (heart.waves[name].vector for name in ("Q", "R", "S"))
    size = _muscle(heart)
    heart.change("Q", vector=q * 0.5 + np.array([-0.06, 0.38, 0.0]), centre=-0.03)
    length = np.linalg.norm(r[:2])
    angle = math.radians(rng.uniform(-62, -45))
    heart.change("R", vector=np.array([length * math.cos(angle), length * math.sin(angle), r[2]]), width=0.013)
    heart.change("S", vector=s + np.array([0.0, -0.25, 0.0]) * size)
    heart.add_sign("rS", ("LAFB",), INFERIOR, -0.04, 0.06)
    heart.add_sign("tall R", ("LAFB",), ("I", "aVL"), -0.03, 0.03)


def plant_slow_av_node(heart: Heart, rng: np.random.Generator) -> None:
    """1AVB: P long before QRS."""
    heart.pr = rng.uniform(0.215, 0.31)
    heart.rr = max(heart.rr, 0.72)  # a faster heart would hide P in the T before it
    heart.place_p()
    heart.add_sign("long PR", ("1AVB", "LPR"), LEADS, -0.04 - heart.pr, -0.04)


# --------------------------------------------------------------------------------------------------------------
# More muscle, and less voltage


def plant_left_hypertrophy(heart: Heart, rng: np.random.Generator, *, strain: bool) -> None:
    """LVH: a longer vector to the left and back, and with `strain` ST and T turned away from it."""
    high = rng.random() < 0.5
    volts = rng.uniform(1.8, 2.1) if high else rng.uniform(1.4, 1.65)
    heart.scale(["R", "S"], volts / max(_muscle(heart), 0.8))
    r = heart.waves["R"].vector
    heart.change("R", vector=r + np.array([0.2, -0.3, 0.25]), width=0.0135, width_after=0.0135)
    statements = ("LVH", "VCLVH", "HVOLT") if high else ("LVH", "VCLVH")
    heart.add_sign("high voltage", statements, ("I", "aVL", "V4", "V5", "V6"), -0.035, 0.035)
    heart.add_sign("deep S", statements, RIGHT, -0.03, 0.055)
    if strain:
        away = -np.array([0.62, 0.05, 0.35]) * rng.uniform(0.3, 0.55)
        heart.change("T", vector=heart.waves["T"].vector * 0.1 + away, width=0.065, width_after=0.032)
        _shift_st(heart, away * 0.4)
        heart.add_sign("strain ST depression", ("LVH", "STD_"), LEFT, *ST)
        heart.add_t_sign("strain T inversion", ("LVH", "INVT"), LEFT)


def plant_right_hypertrophy(heart: Heart, rng: np.random.Generator, *, strain: bool) -> None:
    """RVH: the vector to the right and forwards."""
    size = rng.uniform(0.85, 1.2)
    heart.change("R", vector=np.array([-0.25, 0.8, -0.75]) * size)
    heart.change("S", vector=np.array([-0.5, -0.15, 0.1]) * size)
    heart.add_sign("tall R", ("RVH",), ("V1", "V2"), -0.035, 0.035)
    heart.add_sign("deep S", ("RVH",), ("I", "V6"), -0.03, 0.055)
    if strain:
        heart.change("T", vector=np.array([0.2, 0.05, 0.22]) * rng.uniform(0.8, 1.2))
        heart.add_t_sign("strain T inversion", ("RVH", "INVT"), RIGHT)


def plant_left_atrial_load(heart: Heart, rng: np.random.Generator) -> None:
    """LAO/LAE: the second half of P later and backwards."""
    heart.change("P left", vector=np.array([0.1, 0.09, 0.11]), centre=heart.waves["P left"].centre + 0.02)
    end = heart.waves["P left"].centre + 0.035
    heart.add_sign("wide P, negative at its end", ("LAO/LAE",), ("II", "V1"), -0.04 - heart.pr, end)


def plant_low_voltage(heart: Heart, rng: np.random.Generator) -> None:
    """LVOLT: a small QRS, as through fluid or air around the heart."""
    qrs = [name for name in heart.waves if name in ("Q", "R", "S", "R'")]
    heart.scale(qrs, rng.uniform(0.25, 0.36) / max(_muscle(heart), 0.8))
    heart.add_sign("low voltage", ("LVOLT",), LEADS, *QRS)


OTHER_DIAGNOSES: dict[str, Callable[[Heart, np.random.Generator], None]] = {
    "1AVB": plant_slow_av_node,
    "CLBBB": plant_left_block,
    "CRBBB": plant_right_block,
    "IRBBB": plant_incomplete_right_block,
    "ISC_": plant_subendocardial_ischaemia,
    "LAFB": plant_left_anterior_block,
    "LAO/LAE": plant_left_atrial_load,
    "LNGQT": plant_long_qt,
    "NDT": plant_t_change,
    "NST_": plant_st_change,
}


def plant_diagnosis(heart: Heart, rng: np.random.Generator, code: str, *, stage: int = 0, strain: bool = False) -> None:
    """Plant a diagnostic statement (NORM: nothing); `stage` 1-3 is of an infarct, `strain` concerns hypertrophy."""
    if code in TERRITORIES:
        plant_infarct(heart, rng, code, stage)
    elif code in ISCHAEMIA:
        plant_ischaemia(heart, rng, code)
    elif code == "LVH":
        plant_left_hypertrophy(heart, rng, strain=strain)
    elif code == "RVH":
        plant_right_hypertrophy(heart, rng, strain=strain)
    elif code != "NORM":
        OTHER_DIAGNOSES[code](heart, rng)


# --------------------------------------------------------------------------------------------------------------
# Rhythms and extra beats

PULSE = {  # rhythm: lowest and highest mean rate, beats per minute
    "SBRAD": (44, 57),
    "STACH": (104, 130),
    "SARRH": (60, 84),
    "BIGU": (62, 84),
    "PACE": (60, 78),
    "AFIB": (65, 110),
}


def plant_rhythm(heart: Heart, rng: np.random.Generator, rhythm: str) -> None:
    """Set rate and regularity; comes before the diagnoses, for T follows the rate. SR: nothing is changed."""
    heart.rhythm = rhythm
    if rhythm in PULSE:
        heart.rr = 60 / rng.uniform(*PULSE[rhythm])
    if rhythm == "SBRAD":
        _sign_at_every_qrs(heart, "slow rate", rhythm)
    elif rhythm == "STACH":
        _sign_at_every_qrs(heart, "fast rate", rhythm)
    elif rhythm == "SARRH":
        heart.variability = rng.uniform(0.10, 0.15)
        _sign_at_every_qrs(heart, "rate swings with breathing", rhythm)
    elif rhythm == "AFIB":
        _sign_between_qrs(heart, "fibrillating atria, no P", rhythm, LEADS)
    elif rhythm == "AFLT":
        heart.flutter_waves = int(rng.choice([2, 3, 4], p=[0.15, 0.35, 0.5]))
        heart.rr = heart.flutter_waves / rng.uniform(4.3, 5.2)
        heart.variability = 0.0
        _sign_between_qrs(heart, "saw-tooth flutter waves", rhythm, (*INFERIOR, "V1"))
    elif rhythm == "PACE":
        _pace(heart, rng)
    heart.place_t()


def _sign_at_every_qrs(heart: Heart, name: str, rhythm: str) -> None:
    heart.signs.append(Sign(name, (rhythm,), LEADS, *QRS, beats=EVERY))


def _sign_between_qrs(heart: Heart, name: str, rhythm: str, leads: tuple[str, ...]) -> None:
    heart.signs.append(Sign(name, (rhythm,), leads, 0.08, -0.06, beats=EVERY, to_next=True))


def _pace(heart: Heart, rng: np.random.Generator) -> None:
    """A spike after each P, then the ventricles from the apex of the right one: wide, leftwards, upwards, backwards."""
    heart.variability = 0.01
    heart.pr = 0.19
    heart.place_p()
    size, slow = 0.85 * _muscle(heart), rng.uniform(0.95, 1.15)
    del heart.waves["Q"]
    heart.waves["spike"] = Wave(np.array([0.6, 1.3, -0.4]) * rng.uniform(0.8, 1.3), -0.062, 0.0015, 0.0015)
    heart.change("R", vector=np.array([0.8, -0.65, 0.45]) * size, width=0.02 * slow, width_after=0.02 * slow)
    late = np.array([0.45, -0.8, 0.8]) * size
    heart.change("S", vector=late, centre=0.052 * slow, width=0.019 * slow, width_after=0.019 * slow)
    heart.change("T", vector=np.array([-0.25, 0.34, -0.3]) * size)
    heart.add_sign("pacing spike", ("PACE",), LEADS, -0.075, -0.045)
    heart.add_sign("wide QRS after the spike", ("PACE",), LEADS, -0.045, 0.1)


ORIGINS = (  # of a ventricular beat: where its QRS points to, first and then
    ((0.25, 1.3, 0.3), (0.45, 0.6, 0.8)),  # right outflow tract
    ((0.7, -0.9, 0.4), (0.6, -0.7, 0.8)),  # right apex
    ((-0.95, 0.5, -0.6), (-0.6, 0.6, -0.3)),  # left free wall
)


def plant_ventricular_beats(heart: Heart, rng: np.random.Generator, *, every: int = 0) -> None:
    """PVC: early and wide, without P, T opposite; the next beat comes when it would have come anyway.

    With `every` 2 each second beat is one, and the rhythm is BIGU.
    """
    heart.rr = max(heart.rr, 0.7)  # a faster heart would hide it in the T before it
    heart.variability = min(heart.variability, 0.03)
    first, then = (np.array(vector) for vector in ORIGINS[rng.integers(len(ORIGINS))])
    size, slow = rng.uniform(0.75, 1.1), rng.uniform(0.9, 1.1)
    waves = {
        "R": Wave(first * size, 0.0, 0.022 * slow, 0.024 * slow),
        "S": Wave(then * size, 0.058 * slow, 0.022 * slow, 0.022 * slow),
        "T": Wave(-(first + then) * size * 0.24, 0.29, 0.065, 0.045),
    }
    early = rng.uniform(0.54, 0.64)
    heart.extra_beats = ExtraBeats("PVC", waves, early, 2 - early, every)
    statements = ("PVC", "BIGU") if every == 2 else ("PVC",)
    heart.signs.append(Sign("early wide beat", statements, LEADS, -0.07, 0.4, beats="PVC"))


def plant_atrial_beats(heart: Heart, rng: np.random.Generator) -> None:
    """PAC: early with a P of another shape and a QRS like all others, then a little more than the usual interval.

    Comes last, for its QRS is that of the diseased heart.
    """
    heart.rr = max(heart.rr, 0.7)
    heart.variability = min(heart.variability, 0.03)
    onset = -0.04 - 0.9 * heart.pr
    waves = heart.waves | {
        "P right": Wave(np.array([0.07, -0.06, 0.05]), onset + 0.035, 0.016, 0.016),
        "P left": Wave(np.array([0.03, -0.08, -0.03]), onset + 0.06, 0.017, 0.017),
    }
    heart.extra_beats = ExtraBeats("PAC", waves, rng.uniform(0.62, 0.72), rng.uniform(1.1, 1.25))
    heart.signs.append(Sign("early beat with another P", ("PAC",), LEADS, onset, QRS[1], beats="PAC"))
