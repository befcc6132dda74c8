"""Philips Sierra XML, versions 1.03 and 1.04: `restingecgdata` of PageWriter, TraceMaster, IntelliSpace and HeartStart.

Philips has published no description; this follows what the project sierra-ecg-tools found out by reverse engineering
(https://github.com/sixlettervariables/sierra-ecg-tools/wiki). `parsedwaveforms` holds the leads one after another:
plain numbers, base64 of little-endian 16-bit integers, or base64 of what Philips calls XLI, in which every lead is a
chunk of an 8-byte header and LZW codes of 10 bits for its second differences. In XLI the leads III, aVR, aVL and aVF
are what they miss of the values that follow from I and II.
"""

from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from ecg.formats import RecordError, Traces, xml
from ecg.leads import LEADS, LIMB_LEADS

NAME = "Philips Sierra XML"
MOST_LEADS = 18
MOST_SAMPLES = 150_000  # per lead: five minutes at 500 Hz; a resting ECG has 10 to 12 seconds
LZW_BITS = 10
LZW_END = (1 << LZW_BITS) - 1  # the code that ends a chunk, and the size to which the table grows
BIAS = 64  # added to every second difference


def recognises(path: Path, head: bytes) -> bool:
    return xml.root_name(head) == "restingecgdata"


def read(path: Path) -> Traces:
    """Read the rhythm leads, in microvolts, of a Sierra file of version 1.03 or 1.04, compressed or not."""
    root = xml.parse(path, "restingecgdata", NAME)
    kind = xml.text_of(root, "documentinfo/documenttype")
    version = xml.text_of(root, "documentinfo/documentversion")
    if kind not in ("SierraECG", "PhilipsECG") or version[:4] not in ("1.03", "1.04"):
        raise RecordError(f"{NAME} of type and version {f'{kind} {version}'[:40]!r}, known are SierraECG 1.03 and 1.04")
    waveforms = root.find("waveforms/parsedwaveforms")
    if waveforms is None:
        raise RecordError(f"{NAME} without parsedwaveforms")
    signal = root.find("dataacquisition/signalcharacteristics")

    def stated(attribute: str, *elements: str) -> str:
        """Return what 1.04 says as an attribute beside the samples and both versions say in an element."""
        texts = [
            waveforms.get(attribute, "")[: xml.MOST_TEXT].strip(),
            *(xml.text_of(signal, element) for element in elements),
        ]
        return next(filter(None, texts), "")

    fs = xml.number(stated("samplespersecond", "samplingrate"), "samplingrate")
    seconds = xml.number(stated("durationperchannel"), "durationperchannel") / 1000
    if not (fs > 0 and 1 <= seconds * fs <= MOST_SAMPLES):
        raise RecordError(f"{seconds:g} s at {fs:g} Hz are stated, expected 1 to {MOST_SAMPLES} samples")
    names = _names(stated)
    bits = stated("bitspersample", "bitspersample") or stated("nbitspersample") or "16"
    if xml.number(bits, "bitspersample") != 16:
        raise RecordError(f"samples of {bits[:20]} bits, only 16 are known")
    signed = stated("signalsigned", "signalsigned").lower() not in ("false", "no", "0")
    counts = _counts(waveforms, names, round(seconds * fs), signed)  # (n_leads, t)
    if np.abs(counts).max() > np.iinfo(np.uint16).max:
        raise RecordError("its samples leave the range of 16 bits: damaged?")
    counts = counts - xml.number(stated("signaloffset", "signaloffset") or "0", "signaloffset")
    machine = xml.text_of(root, "dataacquisition/machine")[:60]
    resolution = stated("resolution", "resolution", "signalresolution")
    if resolution:
        counts = counts * xml.number(resolution, "resolution")  # microvolts per count
    units = ("uV" if resolution else "",) * len(names)
    return Traces(fs, names, units, counts, (), f"Philips {machine}" if machine else "")


def _names(stated: Callable[..., str]) -> tuple[str, ...]:
    names = tuple(stated("leadlabels").split())
    n_leads = xml.number(stated("numberofleads", "numberchannelsallocated", "numberchannelsvalid"), "numberofleads")
    if not (1 <= n_leads <= MOST_LEADS and n_leads == int(n_leads)):
        raise RecordError(f"{n_leads:g} leads are stated, expected 1 to {MOST_LEADS}")
    if not names and stated("acquisitiontype", "acquisitiontype", "leadset").upper() in ("STD-12", "10-WIRE"):
        names = LEADS  # whose order is Philips' too
    names = names or ("",) * int(n_leads)
    if len(names) < n_leads:
        raise RecordError(f"{n_leads:g} leads are stated, {len(names)} are named")
    return names[: int(n_leads)]


def _counts(waveforms: Element, names: tuple[str, ...], n_samples: int, signed: bool) -> np.ndarray:
    """Return the samples as the converter counted them, (n_leads, n_samples)."""
    encoding = waveforms.get("dataencoding", "").strip()
    method = (waveforms.get("compression") or waveforms.get("compressmethod") or "").strip()  # 1.04, 1.03
    if waveforms.get("compressflag", "").strip().lower() == "false" or method.lower() in ("uncompressed", "none"):
        method = ""
    if encoding not in ("Base64", "Plain") or method not in ("", "XLI"):
        raise RecordError(f"dataencoding {encoding[:20]!r} with compression {method[:20]!r}, which is not known")
    text = waveforms.text or ""
    if encoding == "Plain":
        values = xml.numbers(text, "parsedwaveforms")
    else:
        content = xml.base64(text, "parsedwaveforms")
        if method:
            return _from_xli(content, names, n_samples)
        values = np.frombuffer(content[: len(content) // 2 * 2], "<i2" if signed else "<u2").astype(float)
    if len(values) != len(names) * n_samples:
        stated = f"{len(names)} x {n_samples} are stated"
        raise RecordError(f"parsedwaveforms holds {len(values)} samples, {stated}: cut off?")
    return values.reshape(len(names), n_samples)


def _from_xli(content: bytes, names: tuple[str, ...], n_samples: int) -> np.ndarray:
    leads, begin = [], 0
    for i in range(len(names)):
        lead = f"lead {names[i] or i + 1}"
        size = int.from_bytes(content[begin : begin + 4], "little")
        first = int.from_bytes(content[begin + 6 : begin + 8], "little", signed=True)
        begin += 8
        if not size or begin + size > len(content):
            raise RecordError(f"{lead} has {max(0, len(content) - begin)} of {size} compressed bytes: cut off?")
        deltas = _unpacked(_lzw(content[begin : begin + size], most=4 * n_samples + 2), n_samples, lead)
        leads.append(_from_second_differences(deltas, first)[:n_samples])
        begin += size
    counts = np.stack(leads)
    if names[:6] == LIMB_LEADS:
        i, ii, iii, avr, avl, avf = counts[:6]
        iii[:] = ii - i - iii
        avr[:] = -((i + ii) // 2) - avr
        avl[:] = (i - iii) // 2 - avl
        avf[:] = (ii + iii) // 2 - avf
    return counts


def _lzw(content: bytes, most: int) -> bytes:
    """Expand LZW codes of 10 bits, first bit highest; the table grows to 1,023 strings and then stays as it is."""
    content = content[: (most + 2) * LZW_BITS // 8 + 2]  # a code is a byte at least
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    bits = bits[: len(bits) // LZW_BITS * LZW_BITS].reshape(-1, LZW_BITS)  # (n_codes, 10)
    codes = bits @ (1 << np.arange(LZW_BITS)[::-1])
    table = [bytes([byte]) for byte in range(256)]
    strings, n_bytes, previous = [], 0, b""
    for code in codes.tolist():
        if code == LZW_END:
            break
        if code < len(table):
            string = table[code]
        elif code == len(table) and previous:
            string = previous + previous[:1]  # a string that is used by the very code that defines it
        else:
            raise RecordError("its compressed samples use a code that was never defined: damaged?")
        if previous and len(table) < LZW_END:
            table.append(previous + string[:1])
        previous = string
        strings.append(string)
        n_bytes += len(string)
        if n_bytes > most:
            raise RecordError("its compressed samples are far more than it states: damaged?")
    return b"".join(strings)


def _unpacked(content: bytes, n_samples: int, lead: str) -> np.ndarray:
    """Return the 16-bit words whose high bytes come first and whose low bytes come second."""
    half = n_samples if len(content) - 2 * n_samples in (0, 1) else len(content) // 2  # 1: filled up to a whole byte
    if half < max(n_samples, 3):
        raise RecordError(f"{lead} has {half} samples, {n_samples} are stated: cut off?")
    high, low = np.frombuffer(content, np.uint8)[: 2 * half].reshape(2, half)
    return (high.astype(np.uint16) << 8 | low).view(np.int16).astype(np.int64)


def _from_second_differences(words: np.ndarray, first: int) -> np.ndarray:
    """Return the samples x; the words are x[0], x[1], then 2 x[i] - x[i-1] - x[i+1] + 64, of which `first` is one."""
    bends = np.concatenate([[first], words[2:-1] - BIAS])  # (t - 2,)
    slopes = np.cumsum(np.concatenate([words[1:2] - words[:1], -bends]))  # (t - 1,)
    return np.cumsum(np.concatenate([words[:1], slopes]))
