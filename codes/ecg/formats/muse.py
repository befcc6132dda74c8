"""GE MUSE XML: `RestingECG` documents, as GE's `restecg.dtd` describes them.

A file has two `Waveform`s: the median beat, which is left alone, and the rhythm, mostly ten seconds of leads I, II and
V1 to V6. The other four follow from those. Each lead is base64 of little-endian 16-bit integers with its own unit.
"""

import zlib
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from ecg.formats import RecordError, Traces, xml

NAME = "GE MUSE XML"
MOST_LEADS = 64


def recognises(path: Path, head: bytes) -> bool:
    return xml.root_name(head) == "RestingECG"


def read(path: Path) -> Traces:
    """Read the rhythm waveform of a GE MUSE file, in the leads and units that it states."""
    root = xml.parse(path, "RestingECG", NAME)
    waveforms = root.findall("Waveform")
    kinds = [xml.text_of(waveform, "WaveformType") for waveform in waveforms]
    rhythms = [waveform for waveform, kind in zip(waveforms, kinds, strict=True) if kind.lower() == "rhythm"]
    notes = []
    if not rhythms and len(waveforms) == 1 and not kinds[0]:
        rhythms = waveforms
        notes.append("its waveform has no type, read as the rhythm")
    if not rhythms:
        there = f"only {', '.join(kind[:20] or 'nameless' for kind in kinds[:5])}" if kinds else "none"
        raise RecordError(f"{NAME} without a Waveform of WaveformType Rhythm: it has {there}")
    if len(rhythms) > 1:
        notes.append(f"the first of its {len(rhythms)} rhythm waveforms is read")
    rhythm = rhythms[0]
    leads = rhythm.findall("LeadData")
    if not 1 <= len(leads) <= MOST_LEADS:
        raise RecordError(f"{NAME} whose rhythm waveform has {len(leads) or 'no'} LeadData")
    leads = [_lead(lead) for lead in leads]
    names, units, samples = zip(*leads, strict=True)
    if len({len(values) for values in samples}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in zip(names[:12], samples, strict=False))
        raise RecordError(f"its leads differ in their number of samples: {lengths}")
    model = xml.text_of(root, "TestDemographics/AcquisitionDevice")[:60]
    return Traces(_rate(rhythm), names, units, np.stack(samples), tuple(notes), f"GE {model}" if model else "")


def _rate(waveform: Element) -> float:
    base = xml.number(xml.text_of(waveform, "SampleBase"), "SampleBase")
    exponent = xml.number(xml.text_of(waveform, "SampleExponent") or "0", "SampleExponent")
    if base <= 0 or abs(exponent) > 9:
        raise RecordError(f"SampleBase {base:g} and SampleExponent {exponent:g} are no sampling rate")
    return base * 10**exponent


def _lead(lead: Element) -> tuple[str, str, np.ndarray]:
    """Return a lead's name, unit and samples in it, (t,)."""
    name = xml.text_of(lead, "LeadID")[:20]
    size = xml.text_of(lead, "LeadSampleSize") or "2"
    if xml.number(size, f"LeadSampleSize of lead {name}") != 2:
        raise RecordError(f"lead {name} has samples of {size[:20]} bytes, only 2 are known")
    content = xml.base64(lead.findtext("WaveFormData") or "", f"WaveFormData of lead {name}")
    if not content or len(content) % 2:
        raise RecordError(f"lead {name} has {len(content)} bytes of samples of 2 bytes: cut off?")
    for field, found in (("LeadByteCountTotal", len(content)), ("LeadSampleCountTotal", len(content) // 2)):
        stated = xml.text_of(lead, field)
        if stated and xml.number(stated, f"{field} of lead {name}") != found:
            raise RecordError(f"{field} of lead {name} is {stated[:20]}, it has {found}: cut off?")
    checksum = xml.text_of(lead, "LeadDataCRC32")
    if checksum.isdecimal() and checksum.strip("0") and int(checksum[:12]) != zlib.crc32(content):  # 0: not computed
        raise RecordError(f"LeadDataCRC32 of lead {name} disagrees with its samples: damaged?")
    samples = np.frombuffer(content, "<i2").astype(float)
    per_bit = xml.text_of(lead, "LeadAmplitudeUnitsPerBit")
    if not per_bit:
        return name, "", samples
    unit = _unit(xml.text_of(lead, "LeadAmplitudeUnits"))
    return name, unit, samples * xml.number(per_bit, f"LeadAmplitudeUnitsPerBit of lead {name}")


def _unit(words: str) -> str:
    """Return the sign of a unit that MUSE spells out, `words` themselves where they are something else."""
    signs = {"nanovolt": "nV", "microvolt": "uV", "millivolt": "mV", "volt": "V"}
    return signs.get(words.lower().removesuffix("s"), words[:20])
