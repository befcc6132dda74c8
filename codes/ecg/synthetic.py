"""A synthetic PTB-XL: patients, their statements and recordings with planted signs, in PhysioNet's formats.

The hearts come from `ecg.synthetic_heart`, what a statement changes in them from `ecg.synthetic_signs`.
The records are caricatures for testing a pipeline. They say nothing about patients.
"""

import hashlib
import math
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from ecg.artifacts import UserError, atomic, read_table, write_json
from ecg.command_line import check_at_least
from ecg.download import CHECKSUMS, DEMO_MARK, checksum_lines, demo_settings, wrong_files
from ecg.leads import LEADS
from ecg.synthetic_heart import (
    DOWER,
    GAIN,
    NORMAL,
    SECONDS,
    Beat,
    Heart,
    Noise,
    Planted,
    normal_heart,
    planted_in,
    record_heart,
)
from ecg.synthetic_signs import (
    plant_atrial_beats,
    plant_diagnosis,
    plant_low_voltage,
    plant_rhythm,
    plant_ventricular_beats,
)

RATES = {"records100": 100, "records500": 500}  # folder: Hz
MIN_RECORDS = 20  # two per fold
VERSION = 2  # raise it when the same seed gives other files: an older demo is then written anew
SIGN_COLUMNS = ("ecg_id", "code", "sign", "leads", "start_s", "end_s")
PEAK_COLUMNS = ("ecg_id", "r_peak_s", "beat")


class Statement(NamedTuple):
    """An SCP statement: what it means, its kinds (d diagnostic, f form, r rhythm), and its groups if diagnostic."""

    description: str
    kinds: str
    superclass: str = ""
    subclass: str = ""


# The 71 statements of PTB-XL 1.0.3 and their grouping (codes of EN 1064); the descriptions are our own.
STATEMENTS = {
    "NORM": Statement("nothing abnormal", "d", "NORM", "NORM"),
    "AMI": Statement("infarct of the anterior wall", "d", "MI", "AMI"),
    "ASMI": Statement("infarct of the septum and anterior wall", "d", "MI", "AMI"),
    "ALMI": Statement("infarct of the anterior and lateral walls", "d", "MI", "AMI"),
    "INJAS": Statement("injury current from the septum and anterior wall", "d", "MI", "AMI"),
    "INJAL": Statement("injury current from the anterior and lateral walls", "d", "MI", "AMI"),
    "INJLA": Statement("injury current from the lateral wall", "d", "MI", "AMI"),
    "IMI": Statement("infarct of the inferior wall", "d", "MI", "IMI"),
    "ILMI": Statement("infarct of the inferior and lateral walls", "d", "MI", "IMI"),
    "IPMI": Statement("infarct of the inferior and posterior walls", "d", "MI", "IMI"),
    "IPLMI": Statement("infarct of the inferior, posterior and lateral walls", "d", "MI", "IMI"),
    "INJIN": Statement("injury current from the inferior wall", "d", "MI", "IMI"),
    "INJIL": Statement("injury current from the inferior and lateral walls", "d", "MI", "IMI"),
    "LMI": Statement("infarct of the lateral wall", "d", "MI", "LMI"),
    "PMI": Statement("infarct of the posterior wall", "d", "MI", "PMI"),
    "NDT": Statement("T waves abnormal without pointing to a cause", "df", "STTC", "STTC"),
    "LNGQT": Statement("QT longer than the heart rate explains", "df", "STTC", "STTC"),
    "DIG": Statement("ST and T as under digitalis", "df", "STTC", "STTC"),
    "ANEUR": Statement("ST and T as over a bulging ventricular wall", "d", "STTC", "STTC"),
    "EL": Statement("ST and T as with shifted electrolytes or a drug", "d", "STTC", "STTC"),
    "NST_": Statement("ST segment altered without pointing to a cause", "df", "STTC", "NST_"),
    "ISC_": Statement("ischaemia without a clear place", "d", "STTC", "ISC_"),
    "ISCAL": Statement("ischaemia of the anterior and lateral walls", "d", "STTC", "ISCA"),
    "ISCAN": Statement("ischaemia of the anterior wall", "d", "STTC", "ISCA"),
    "ISCAS": Statement("ischaemia of the septum and anterior wall", "d", "STTC", "ISCA"),
    "ISCLA": Statement("ischaemia of the lateral wall", "d", "STTC", "ISCA"),
    "ISCIN": Statement("ischaemia of the inferior wall", "d", "STTC", "ISCI"),
    "ISCIL": Statement("ischaemia of the inferior and lateral walls", "d", "STTC", "ISCI"),
    "CLBBB": Statement("left bundle branch fully blocked", "d", "CD", "CLBBB"),
    "ILBBB": Statement("left bundle branch partly blocked", "d", "CD", "ILBBB"),
    "CRBBB": Statement("right bundle branch fully blocked", "d", "CD", "CRBBB"),
    "IRBBB": Statement("right bundle branch partly blocked", "d", "CD", "IRBBB"),
    "LAFB": Statement("anterior fascicle of the left bundle blocked", "d", "CD", "LAFB/LPFB"),
    "LPFB": Statement("posterior fascicle of the left bundle blocked", "d", "CD", "LAFB/LPFB"),
    "IVCD": Statement("slow conduction in the ventricles, place unclear", "d", "CD", "IVCD"),
    "1AVB": Statement("slow conduction from atria to ventricles", "d", "CD", "_AVB"),
    "2AVB": Statement("conduction from atria to ventricles fails at times", "d", "CD", "_AVB"),
    "3AVB": Statement("no conduction from atria to ventricles", "d", "CD", "_AVB"),
    "WPW": Statement("ventricles excited early through an extra pathway", "d", "CD", "WPW"),
    "LVH": Statement("thick left ventricle", "d", "HYP", "LVH"),
    "RVH": Statement("thick right ventricle", "d", "HYP", "RVH"),
    "SEHYP": Statement("thick septum", "d", "HYP", "SEHYP"),
    "LAO/LAE": Statement("large or strained left atrium", "d", "HYP", "LAO/LAE"),
    "RAO/RAE": Statement("large or strained right atrium", "d", "HYP", "RAO/RAE"),
    "ABQRS": Statement("QRS of unusual shape", "f"),
    "QWAVE": Statement("deep Q waves", "f"),
    "VCLVH": Statement("QRS voltage as of a thick left ventricle", "f"),
    "HVOLT": Statement("large QRS", "f"),
    "LVOLT": Statement("small QRS in all leads", "f"),
    "INVT": Statement("T waves upside down", "f"),
    "LOWT": Statement("small T waves", "f"),
    "NT_": Statement("T waves altered a little", "f"),
    "TAB_": Statement("T waves of unusual shape", "f"),
    "STD_": Statement("ST segment below the baseline", "f"),
    "STE_": Statement("ST segment above the baseline", "f"),
    "LPR": Statement("P long before QRS", "f"),
    "PAC": Statement("early beats from the atria", "f"),
    "PVC": Statement("early beats from the ventricles", "f"),
    "PRC(S)": Statement("early beats of any origin", "f"),
    "SR": Statement("steady beat of the sinus node", "r"),
    "SBRAD": Statement("slow beat of the sinus node", "r"),
    "STACH": Statement("fast beat of the sinus node", "r"),
    "SARRH": Statement("irregular beat of the sinus node", "r"),
    "AFIB": Statement("fibrillating atria", "r"),
    "AFLT": Statement("fluttering atria", "r"),
    "PACE": Statement("paced by a device", "r"),
    "SVARR": Statement("irregular beat from above the ventricles", "r"),
    "SVTAC": Statement("fast beat from above the ventricles", "r"),
    "PSVT": Statement("sudden fast beat from above the ventricles", "r"),
    "BIGU": Statement("every second beat early", "r"),
    "TRIGU": Statement("every third beat early", "r"),
}
CATEGORIES = {
    "NORM": "normal ECG",
    "MI": "myocardial infarction",
    "STTC": "ST/T changes",
    "CD": "conduction disturbance",
    "HYP": "hypertrophy",
}


@dataclass(frozen=True)
class Patient:
    patient_id: int
    sex: int  # 0 male, 1 female
    age: int
    height: float
    weight: float
    seed: int  # of the anatomy, shared by all records of this patient


@dataclass(frozen=True)
class Case:
    """What one record is to show. `diagnoses` stand in the order in which they are planted."""

    patient: Patient
    superclasses: tuple[str, ...]
    diagnoses: tuple[str, ...]
    rhythm: str
    extra_beats: str = ""  # PVC or PAC
    low_voltage: bool = False

    @property
    def names(self) -> set[str]:
        """All that folds should have equal shares of."""
        names = {*self.superclasses, *self.diagnoses, self.rhythm, self.extra_beats}
        return (names | {"LVOLT"} if self.low_voltage else names) - {""}


@dataclass(frozen=True)
class Record:
    """One synthetic recording: `signals[rate]` (12, 10 * rate) int16 in µV, leads in the order of LEADS."""

    row: dict[str, Any]  # columns of ptbxl_database.csv
    signals: dict[int, np.ndarray]
    signs: list[Planted]
    beats: list[Beat]  # those whose R peak lies within the record


# --------------------------------------------------------------------------------------------------------------
# Who has what

# share of all records; what is left over of 1 is NORM
SUPERCLASS_SHARES = {
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
    (): 0.045,  # a rhythm and nothing else
}
BARE_RHYTHMS = ("PACE", "AFIB", "PACE", "AFLT", "PACE")  # of records without a superclass, in turn
RHYTHM_SHARES = {  # of all records, besides those; the others are SR
    "AFIB": 0.035,
    "AFLT": 0.02,
    "BIGU": 0.0275,
    "STACH": 0.03,
    "SARRH": 0.06,
    "SBRAD": 0.10,
}
EXTRA_BEAT_SHARES = {"PVC": 0.03, "PAC": 0.035}
LOW_VOLTAGE_SHARE = 0.0275
# what each does not go with: where one would hide the other, or a normal ECG would not be one
UNFIT = {
    "AFIB": {"NORM", "1AVB", "LAO/LAE"},
    "AFLT": {"NORM", "1AVB", "LAO/LAE", "STTC"},
    "BIGU": {"CD", "STTC"},
    "STACH": {"1AVB", "LNGQT"},
    "SARRH": set(),
    "SBRAD": set(),
    "PVC": {"CD", "LNGQT"},
    "PAC": {"1AVB", "LNGQT"},
    "LVOLT": {"MI", "HYP", "CLBBB", "LAFB"},
}
HYPERTROPHIES = {"LVH": 0.85, "RVH": 0.15}
CONDUCTION = {"CLBBB": 0.27, "CRBBB": 0.24, "IRBBB": 0.12, "LAFB": 0.2, "1AVB": 0.17}
INFARCTS = {"IMI": 0.32, "ASMI": 0.28, "AMI": 0.12, "ALMI": 0.1, "LMI": 0.08, "ILMI": 0.1}
ST_T = {
    "NDT": 0.25,
    "ISC_": 0.18,
    "NST_": 0.13,
    "LNGQT": 0.08,
    "ISCAL": 0.13,
    "ISCAS": 0.06,
    "ISCLA": 0.05,
    "ISCIN": 0.07,
    "ISCIL": 0.05,
}


def _pick(rng: np.random.Generator, weights: dict[str, float], without: Sequence[str] = ()) -> str:
    left = {name: weight for name, weight in weights.items() if name not in without}
    return str(rng.choice(list(left), p=np.array(list(left.values())) / sum(left.values())))


def _superclasses(records: int, rng: np.random.Generator) -> list[tuple[str, ...]]:
    drawn: list[tuple[str, ...]] = []
    for names, share in SUPERCLASS_SHARES.items():
        drawn += [names] * round(share * records)
    drawn += [("NORM",)] * (records - len(drawn))
    return [drawn[i] for i in rng.permutation(len(drawn))]


def _diagnoses(superclasses: tuple[str, ...], rng: np.random.Generator) -> tuple[str, ...]:
    """Return diagnostic statements for a record of these superclasses, such that none hides another."""
    chosen = []
    if "HYP" in superclasses:
        chosen.append(_pick(rng, HYPERTROPHIES) if superclasses == ("HYP",) else "LVH")
        if chosen == ["LVH"] and rng.random() < 0.25:
            chosen.append("LAO/LAE")
    if "CD" in superclasses:
        without = []
        if len(superclasses) > 1:
            without.append("CLBBB")
        if "HYP" in superclasses:
            without.append("IRBBB")
        chosen.append(_pick(rng, CONDUCTION, without))
    infarct = ""
    if "MI" in superclasses:
        # of the others axis and inferior Q would fight
        infarct = _pick(rng, {"ASMI": 0.7, "AMI": 0.3} if "LAFB" in chosen else INFARCTS)
        chosen.append(infarct)
    if "STTC" in superclasses and infarct:  # ischaemia at a distance
        chosen.append("ISCAL" if infarct == "IMI" else "ISCIN")
    elif "STTC" in superclasses:
        chosen.append(_pick(rng, ST_T))
    if "NORM" in superclasses:
        chosen.append("NORM")
    return tuple(chosen)


def _spread(code: str, share: float, free: np.ndarray, names: list[set[str]], rng: np.random.Generator) -> np.ndarray:
    """Return the positions of records that get `code`: `share` of all, among those `free` (n,) bool that it fits."""
    fits = np.array([not UNFIT[code] & of_record for of_record in names])
    return rng.permutation(np.flatnonzero(free & fits))[: round(share * len(names))]


def _rhythms(names: list[set[str]], rng: np.random.Generator) -> np.ndarray:
    """Return the rhythm of each record, (n,) str; `names` are its superclasses and diagnoses."""
    rhythm = np.full(len(names), "", dtype="<U8")
    bare = [i for i, of_record in enumerate(names) if not of_record]
    for turn, i in enumerate(bare):
        rhythm[i] = BARE_RHYTHMS[turn % len(BARE_RHYTHMS)]
    for code, share in RHYTHM_SHARES.items():
        rhythm[_spread(code, share, rhythm == "", names, rng)] = code
    return np.where(rhythm == "", "SR", rhythm)


def plan_cases(records: int, rng: np.random.Generator) -> list[Case]:
    """Return what each record is to show; one patient in seven has two or three records."""
    superclasses = _superclasses(records, rng)
    diagnoses = [_diagnoses(names, rng) for names in superclasses]
    names = [{*a, *b} for a, b in zip(superclasses, diagnoses, strict=True)]
    rhythm = _rhythms(names, rng)
    steady = np.isin(rhythm, ["SR", "SBRAD"])
    extra = np.full(records, "", dtype="<U8")
    for code, share in EXTRA_BEAT_SHARES.items():
        extra[_spread(code, share, steady & (extra == ""), names, rng)] = code
    extra[rhythm == "BIGU"] = "PVC"
    low = np.zeros(records, bool)
    low[_spread("LVOLT", LOW_VOLTAGE_SHARE, steady & (extra == ""), names, rng)] = True
    patients = _patients([of_record == ("NORM",) for of_record in superclasses], rng)
    parts = zip(patients, superclasses, diagnoses, rhythm.tolist(), extra.tolist(), low.tolist(), strict=True)
    return [Case(*part) for part in parts]


def _patients(healthy: list[bool], rng: np.random.Generator) -> list[Patient]:
    patients: list[Patient] = []
    ids = iter(rng.permutation(20 * len(healthy)) + 1)
    copies = 0
    for normal in healthy:
        if copies:
            copies -= 1
            patients.append(patients[-1])
            continue
        copies = int(rng.choice([0, 1, 2], p=[0.85, 0.11, 0.04]))
        age = int(np.clip(rng.normal(51 if normal else 66, 17 if normal else 13), 18, 97))
        sex = int(rng.random() < 0.5)
        height = round(rng.normal(175 - 12 * sex, 7))
        weight = round(rng.normal(25.5, 3.5) * (height / 100) ** 2)
        patients.append(Patient(int(next(ids)), sex, age, height, weight, int(rng.integers(2**32))))
    return patients


def stratified_folds(patient_ids: Sequence[int], labels: np.ndarray, *, folds: int = 10) -> np.ndarray:
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


def make_records(records: int, *, seed: int = 0) -> Iterator[Record]:
    """Yield synthetic recordings with ecg_id 1, 2, ...; the same arguments give the same numbers.

    Raises `UserError` for fewer records than MIN_RECORDS (two per fold) and for a negative seed.
    """
    check_at_least("--records", records, MIN_RECORDS)
    check_at_least("--seed", seed, 0)
    cases = plan_cases(records, np.random.default_rng([seed, 0]))
    names = sorted(set().union(*[case.names for case in cases]))
    labels = np.array([[name in case.names for name in names] for case in cases])
    folds = stratified_folds([case.patient.patient_id for case in cases], labels)
    date = pd.Timestamp("1984-11-09 09:17:34")
    for ecg_id, (case, fold) in enumerate(zip(cases, folds, strict=True), start=1):
        rng = np.random.default_rng([seed, 1, ecg_id])
        date += pd.Timedelta(seconds=int(rng.exponential(4.5 * 365 * 86400 * 12 / 5 / records)) + 60)
        yield _make_record(ecg_id, case, int(fold), date, rng)


def _make_record(ecg_id: int, case: Case, fold: int, date: pd.Timestamp, rng: np.random.Generator) -> Record:
    patient = case.patient
    heart, stage = sick_heart(case, rng)
    noise = Noise(
        wander=0.04 * math.exp(rng.normal(0, 0.6)),
        mains=0.004 * math.exp(rng.normal(0, 0.8)),
        muscle=0.010 * math.exp(rng.normal(0, 0.5)),
    )
    anatomy = np.random.default_rng(patient.seed)
    recording = record_heart(heart, rng, anatomy=anatomy, age=patient.age, noise=noise)
    codes = _statements(case, heart, rng)
    inside = [beat for beat in recording.beats if 0 <= beat.time < SECONDS]
    row = _database_row(ecg_id, case, codes, stage, fold, date, rng)
    row["heart_axis"] = _maybe(rng, 0.55, _axis(recording.qrs))
    row["baseline_drift"] = " , alles" if noise.wander > 0.1 else None
    row["static_noise"] = " , alles,  " if noise.muscle > 0.018 or noise.mains > 0.012 else None
    extra = sum(beat.kind != NORMAL for beat in inside)
    row["extra_beats"] = {"PVC": f"VES{extra}", "PAC": f"SVES{extra}"}.get(case.extra_beats)
    return Record(row, recording.signals, planted_in(heart, recording.beats), inside)


def sick_heart(case: Case, rng: np.random.Generator) -> tuple[Heart, int]:
    """Return a heart with all that a case is to show, and the stage of its infarct, if it has one."""
    # where something else changes ST and T too, the infarct is an old one and hypertrophy without strain
    stage = 3 if "STTC" in case.superclasses else int(rng.choice([1, 2, 3], p=[0.3, 0.25, 0.45]))
    strain = bool(rng.random() < 0.6) and not {"STTC", "MI"} & set(case.superclasses)
    heart = normal_heart(rng, sex=case.patient.sex, age=case.patient.age)
    plant_rhythm(heart, rng, case.rhythm)
    for code in case.diagnoses:
        plant_diagnosis(heart, rng, code, stage=stage, strain=strain)
    if case.low_voltage:
        plant_low_voltage(heart, rng)
    if case.extra_beats == "PVC":
        plant_ventricular_beats(heart, rng, every=2 if case.rhythm == "BIGU" else 0)
    elif case.extra_beats == "PAC":
        plant_atrial_beats(heart, rng)
    return heart, stage


def _statements(case: Case, heart: Heart, rng: np.random.Generator) -> dict[str, float]:
    """Return {statement: likelihood in %}: the diagnoses, what their signs make true, and the rhythm."""
    codes = {code: _likelihood(code, rng) for code in case.diagnoses}
    for sign in heart.signs:
        for code in sign.statements:
            codes.setdefault(code, 0.0)  # form and rhythm, as in PTB-XL
    codes.setdefault(case.rhythm, 0.0)
    return codes


def _likelihood(code: str, rng: np.random.Generator) -> float:
    statement = STATEMENTS[code]
    if statement.superclass == "CD" or "f" in statement.kinds:
        return 100.0
    return float(rng.choice([100.0, 80.0, 50.0], p=[0.75, 0.15, 0.10]))


def _maybe(rng: np.random.Generator, share: float, value: Any) -> Any:
    return value if rng.random() < share else None


def _axis(qrs: np.ndarray) -> str:
    leads = DOWER[:2] @ qrs
    angle = math.degrees(math.atan2((2 * leads[1] - leads[0]) / math.sqrt(3), leads[0]))
    bounds = ((-30, "ALAD"), (30, "LAD"), (90, "MID"), (120, "RAD"), (181, "ARAD"))
    return next(name for bound, name in bounds if angle < bound)


def _database_row(
    ecg_id: int,
    case: Case,
    codes: dict[str, float],
    stage: int,
    fold: int,
    date: pd.Timestamp,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Return a row of ptbxl_database.csv; None where the signal decides what is there."""
    patient = case.patient
    human = fold >= 9 or bool(rng.random() < 0.7)
    stadium = None
    if "MI" in case.superclasses:
        stadium = "Stadium " + "I" * stage if rng.random() < 0.5 else "unknown"
    folder, name = f"{ecg_id // 1000 * 1000:05d}", f"{ecg_id:05d}"
    return {
        "ecg_id": ecg_id,
        "patient_id": float(patient.patient_id),
        "age": 300.0 if patient.age > 89 else float(patient.age),
        "sex": patient.sex,
        "height": _maybe(rng, 0.32, float(patient.height)),
        "weight": _maybe(rng, 0.43, float(patient.weight)),
        "nurse": _maybe(rng, 0.93, float(rng.integers(12))),
        "site": float(rng.choice([0, 1, 2, 3], p=[0.4, 0.3, 0.22, 0.08])),
        "device": str(rng.choice(["CS-12   E", "CS-12", "CS100    3", "AT-6 C 5.5", "AT-6     6"])),
        "recording_date": f"{date:%Y-%m-%d %H:%M:%S}",
        "report": ". ".join(STATEMENTS[code].description.lower() for code in codes) + ".",
        "scp_codes": str(codes),
        "heart_axis": None,
        "infarction_stadium1": stadium,
        "infarction_stadium2": None,
        "validated_by": _maybe(rng, 0.7, float(rng.choice([0, 1, 2]))) if human else None,
        "second_opinion": bool(human and rng.random() < 0.04),
        "initial_autogenerated_report": not human,
        "validated_by_human": human,
        "baseline_drift": None,
        "static_noise": None,
        "burst_noise": None,
        "electrodes_problems": None,
        "extra_beats": None,
        "pacemaker": "ja, pacemaker" if case.rhythm == "PACE" else None,
        "strat_fold": fold,
        "filename_lr": f"records100/{folder}/{name}_lr",
        "filename_hr": f"records500/{folder}/{name}_hr",
    }


# --------------------------------------------------------------------------------------------------------------
# PhysioNet's file formats

HEADER_LEADS = tuple(name.upper() if name.startswith("a") else name for name in LEADS)  # AVR, AVL, AVF
NOTE = """# Synthetic records in PTB-XL's file formats

These are not recordings of people. `codes/00_get_data.py --demo` computed them ({records} records, seed {seed}) to
exercise a pipeline; they are caricatures of diagnoses and no evidence about any method's worth in patients.

`r_peaks.csv` has every beat: `r_peak_s`, the time of its R peak in seconds from the start of the record, and `beat`:
`normal` (of the basic rhythm, whatever its shape), `PVC` or `PAC`.

`planted_signs.csv` says where the signs of disease were planted, one row for every beat that shows one:

| column | meaning |
|---|---|
| `ecg_id` | the record, as in `ptbxl_database.csv` |
| `code` | the SCP statement that the sign stands for; one that stands for several has a row for each |
| `sign` | what it is, in words |
| `leads` | the leads that show it, separated by blanks |
| `start_s`, `end_s` | from when to when, in seconds from the start of the record |

Signs of a wave lie on that wave. PVC, PAC and BIGU lie on the early beats alone, all leads; AFIB and AFLT between the
QRS complexes (AFIB in all leads, AFLT in II, III, aVF and V1); PACE on spike and QRS; SBRAD, STACH and SARRH, which are
a matter of time alone, on the QRS of every beat. NORM and SR have no rows.

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
    """Return the table of `scp_statements.csv`, one row per statement of STATEMENTS; its first column has no name."""
    rows = []
    for code, statement in STATEMENTS.items():
        fallback = "rhythm statement" if statement.kinds == "r" else "form statement"
        row = {
            "": code,
            "description": statement.description,
            "diagnostic": 1.0 if "d" in statement.kinds else None,
            "form": 1.0 if "f" in statement.kinds else None,
            "rhythm": 1.0 if "r" in statement.kinds else None,
            "diagnostic_class": statement.superclass,
            "diagnostic_subclass": statement.subclass,
            "Statement Category": CATEGORIES.get(statement.superclass, fallback),
            "SCP-ECG Statement Description": statement.description,
            "AHA code": None,
            "aECG REFID": None,
            "CDISC Code": None,
            "DICOM Code": None,
        }
        rows.append(row)
    return pd.DataFrame(rows)


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
            temporary.write_text(checksum_lines(digests), encoding="utf-8", newline="\n")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _put(folder: Path, path: str, content: bytes) -> str:
    """Write `content` to a path below `folder`; return its SHA-256."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _write_files(folder: Path, *, records: int, seed: int) -> dict[str, str]:
    """Write everything below the new `folder`; return {path: SHA-256}."""
    digests: dict[str, str] = {}
    rows, signs, peaks = [], [], []
    for record in tqdm(make_records(records, seed=seed), total=records, desc="synthetic records", disable=None):
        rows.append(record.row)
        ecg_id = record.row["ecg_id"]
        for rate, column in ((100, "filename_lr"), (500, "filename_hr")):
            path = record.row[column]
            header, data = wfdb_record(path.rsplit("/", 1)[1], record.signals[rate], rate=rate)
            digests[f"{path}.hea"] = _put(folder, f"{path}.hea", header.encode())
            digests[f"{path}.dat"] = _put(folder, f"{path}.dat", data)
        signs += [(ecg_id, s.code, s.sign, " ".join(s.leads), s.start_s, s.end_s) for s in record.signs]
        peaks += [(ecg_id, round(beat.time, 4), beat.kind) for beat in record.beats]
    tables = {
        "ptbxl_database.csv": pd.DataFrame(rows),
        "scp_statements.csv": scp_statements(),
        "planted_signs.csv": pd.DataFrame(signs, columns=list(SIGN_COLUMNS)),
        "r_peaks.csv": pd.DataFrame(peaks, columns=list(PEAK_COLUMNS)),
    }
    for name, table in tables.items():
        digests[name] = _put(folder, name, table.to_csv(index=False, lineterminator="\n").encode())
    digests["SYNTHETIC.md"] = _put(folder, "SYNTHETIC.md", NOTE.format(records=records, seed=seed).encode())
    return digests


# --------------------------------------------------------------------------------------------------------------
# Where the planted signs are


def planted_mask(
    data: Path,
    ecg_id: int,
    statements: Collection[str],
    *,
    fs: float,
    n_samples: int,
    leads: Sequence[str],
) -> np.ndarray:
    """Return where signs of any of `statements` were planted in a record, (len(leads), n_samples) bool.

    `leads` names the rows; one that is not among the twelve has no signs. All False where the record has none, as for
    NORM and SR. Raises `UserError` if `data` is not a synthetic PTB-XL.
    """
    path = data / "planted_signs.csv"
    signs = _read_signs(path, path.stat().st_mtime_ns if path.exists() else 0)
    mask = np.zeros((len(leads), n_samples), bool)
    for sign in signs[(signs.ecg_id == ecg_id) & signs.code.isin(list(statements))].itertuples():
        shown = sign.leads.split()
        rows = [row for row, lead in enumerate(leads) if lead in shown]
        mask[rows, round(sign.start_s * fs) : round(sign.end_s * fs)] = True
    return mask


@lru_cache(maxsize=1)  # it is asked for one record after the other
def _read_signs(path: Path, changed_ns: int) -> pd.DataFrame:
    return read_table(path, made_by="codes/00_get_data.py --demo", columns=SIGN_COLUMNS)
