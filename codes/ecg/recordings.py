"""Recordings of any device in WFDB format: found, checked and brought to twelve leads in millivolts.

Unlike stage 03, which reads PTB-XL and nothing else, this takes what people bring: any sampling rate, length, gain,
unit, order and spelling of leads.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecg.formats.wfdb import RecordError, read_wfdb
from ecg.leads import FROM_I_II, LEADS, LIMB_LEADS

MV_PER_UNIT = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6}  # both Unicode signs for micro
PLAUSIBLE_STD = (0.01, 5.0)  # mV; a 12-lead ECG's median lead has 0.1 to 0.3
PLAUSIBLE_FS = (50, 20_000)  # Hz
EINTHOVEN = 0.1  # how much of lead II the sum I + III may miss; noise and rounding are far below


@dataclass(frozen=True)
class Recording:
    """A readable recording: `signal` (12, t) float32 millivolts in the order of LEADS, and what is odd about it."""

    path: Path
    fs: float
    signal: np.ndarray
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        return self.signal.shape[1] / self.fs


def find_recordings(paths: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """Return (WFDB records without suffix, sorted, each once; what was not found).

    A path is a record with or without its suffix, or a folder that is searched with all below it.
    """
    found, problems = {}, []
    for path in paths:
        if path.is_dir():
            records = [header.with_suffix("") for header in path.rglob("*.hea")]
            problem = f"{path}: no WFDB header (*.hea) in this folder or below"
        else:
            bare = path if Path(f"{path}.hea").is_file() else path.with_suffix("")
            records = [bare] if Path(f"{bare}.hea").is_file() else []
            problem = f"{path}: no WFDB header {bare.name}.hea there"
        found |= {record.resolve(): record for record in records}
        if not records:
            problems.append(problem)
    return sorted(found.values()), problems


def read_recording(path: Path, *, checksums: bool = True) -> Recording:
    """Read the WFDB record `path` (without suffix) in any format that `wfdb` knows.

    Raises `RecordError` if it cannot be read, a lead is missing that does not follow from others, a unit is unknown, a
    sample is NaN or, with `checksums`, a lead's checksum disagrees with the header.
    """
    fs, names, units, samples = read_wfdb(path, checksums=checksums)
    if not len(samples):
        raise RecordError("holds no samples")
    if not PLAUSIBLE_FS[0] <= fs <= PLAUSIBLE_FS[1]:
        raise RecordError(f"sampled at {fs:g} Hz, outside {PLAUSIBLE_FS[0]} to {PLAUSIBLE_FS[1]} Hz")

    leads: dict[str, np.ndarray] = {}
    for name, unit, values in zip(names, units, samples.T, strict=True):
        lead = lead_name(name or "")
        if lead is None:
            continue  # respiration, Frank leads and the like
        if lead in leads:
            raise RecordError(f"lead {lead} appears twice")
        if unit.strip().lower() not in MV_PER_UNIT:
            raise RecordError(f"lead {lead} is in {unit!r}, expected mV, uV or V")
        invalid = np.flatnonzero(~np.isfinite(values))
        if len(invalid):
            raise RecordError(f"lead {lead} has {len(invalid)} NaN, the first at {invalid[0] / fs:.2f} s")
        leads[lead] = values * MV_PER_UNIT[unit.strip().lower()]
    recorded = {"I", "II", "III"} <= leads.keys()
    notes = _complete(leads)
    if recorded and np.std(leads["II"] - leads["I"] - leads["III"]) > EINTHOVEN * np.std(leads["II"]):
        notes.append("lead II is not the sum of I and III: leads may be swapped")
    signal = np.stack([leads[lead] for lead in LEADS]).astype(np.float32)
    std = signal.std(axis=1)
    notes += [f"lead {lead} is flat" for lead in np.asarray(LEADS)[std == 0]]
    if not PLAUSIBLE_STD[0] <= np.median(std) <= PLAUSIBLE_STD[1]:
        notes.append(f"its leads vary by {np.median(std):.3g} mV (standard deviation): are gain and unit right?")
    return Recording(path, float(fs), signal, tuple(notes))


def lead_name(name: str) -> str | None:
    """Return the lead that a device's name means, such as aVR for `AVR`, `Lead-aVR` or `ECG_aVR`, II for `DII`.

    A minus is part of the name (`-aVR`, `I-II`) unless it ties on a known word, as in `Lead-I` and `V1-REF`.
    """
    bare = re.sub(r"^((ecg|ekg|lead)([\s_.:]+|-)?)+", "", name.strip().lower())
    bare = re.sub(r"([\s_.-]*ref)?[\s_.]*$", "", bare)
    bare = re.sub(r"(?<!i)[\s_]|[\s_](?!i)", "", bare)  # "v 6" and "d ii", but "i ii" is not III
    bare = bare[1:] if re.fullmatch("di{1,3}", bare) else bare
    return next((lead for lead in LEADS if lead.lower() == bare), None)


def _complete(leads: dict[str, np.ndarray]) -> list[str]:
    """Add the limb leads that follow from two others; raise `RecordError` if any lead is missing after that."""
    missing = [lead for lead in LEADS if lead not in leads]
    known = [i for i, lead in enumerate(LIMB_LEADS) if lead in leads]
    computed = [lead for lead in missing if lead in LIMB_LEADS] if len(known) >= 2 else []
    if computed:
        i_ii = np.linalg.pinv(FROM_I_II[known]) @ np.stack([leads[LIMB_LEADS[i]] for i in known])
        leads |= {lead: FROM_I_II[LIMB_LEADS.index(lead)] @ i_ii for lead in computed}
    missing = [lead for lead in missing if lead not in computed]
    if missing:
        raise RecordError(f"lead {', '.join(missing)} is missing")
    used = ", ".join(LIMB_LEADS[i] for i in known)
    return [f"lead {', '.join(computed)} computed from {used}"] if computed else []
