"""SCP-ECG files (EN 1064, ISO 11073-91064), versions 1 to 3: Huffman codes, differences and reference beats undone.

A record is a checksum, its length and numbered sections; all numbers are little-endian. Section 1 says who and with
what device (only the device is read), 2 how numbers are coded, 3 which leads there are, 4 where the beats are, 5 what
their mean looks like, 6 the samples. The standard is not free: tables and offsets are those in which BioSig (Schloegl),
PixelMed (Clunie) and the C# ECG Toolkit (van Ettinger) agree; the first and the last also read bimodal files.
"""

from binascii import crc_hqx
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from struct import error as StructError

import numpy as np

from ecg.formats import RecordError, Traces

NAME = "SCP-ECG"

MOST_BYTES = 64 << 20
MOST_SAMPLES = 4_000_000  # of all leads; a lead's block has 65,535 bytes at most
NO_CHECKSUM = (0, 0xFFFF)  # what devices write that compute none

# Names of the lead codes of section 3, from a code on; MDC codes are the same plus 131072. 31 to 60 and 79 to 85, which
# are calibration pulses in version 1 and derived leads later, are left out.
_NAMES_FROM = {
    1: "I II V1 V2 V3 V4 V5 V6 V7 V2R V3R V4R V5R V6R V7R X Y Z CC5 CM5 LA RA LL fI fE fC fA fM fF fH",
    61: "III aVR aVL aVF -aVR V8 V9 V8R V9R D A J Defib Extern A1 A2 A3 A4",
    86: "C V VR VL VF MCL MCL1 MCL2 MCL3 MCL4 MCL5 MCL6 CC CC1 CC2 CC3 CC4 CC6 CC7 CM CM1 CM2 CM3 CM4 CM6",
    111: "derived-III derived-aVR derived-aVL derived-aVF",
    121: "CM7 CH5 CS5 CB5 CR5 ML AB1 AB2 AB3 AB4 ES AS AI S",
    147: "RL CV5RL CV6LL CV6LU V10",
}
LEADS = {code: name for first, names in _NAMES_FROM.items() for code, name in enumerate(names.split(), first)}

_SECTION_HEADER = Struct("<HHIBB6x")  # checksum, number, length, version of the section, version of the protocol
_POINTER = Struct("<HII")  # section, length, first byte counted from 1
_LEAD = Struct("<IIB")  # first and last sample counted from 1, code
_BEAT = Struct("<HIII")  # type, first sample, fiducial point and last sample of the subtracted reference beat
_ZONE = Struct("<II")  # first and last sample around a QRS that is stored at full rate
_CODE = Struct("<BBBhI")  # bits of the prefix, bits in all, mode, base value, prefix with its first bit the lowest


@dataclass(frozen=True)
class _Table:
    """A Huffman table: prefix as text of 0 and 1 -> (extra bits, whether it means a value, value or next table)."""

    codes: dict[str, tuple[int, bool, int]]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class _Lead:
    first: int
    last: int
    code: int


@dataclass(frozen=True)
class _Beats:
    """Section 4: where reference beats were subtracted and which zones are stored at full rate."""

    milliseconds: int
    fiducial: int
    beats: list[tuple[int, ...]]
    zones: list[tuple[int, ...]]


def recognises(path: Path, head: bytes) -> bool:
    """Whether the first section is section 0 and its first pointer points at itself."""
    if len(head) < 32 or head[8:10] != b"\0\0":
        return False
    return head[16:22] == b"SCPECG" or (head[22:24] == b"\0\0" and head[28:32] == b"\7\0\0\0")


def read(path: Path) -> Traces:
    """Read the rhythm of an SCP-ECG file, in nanovolts; raise `RecordError` if it is damaged or not understood."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise RecordError(f"an SCP-ECG record of more than {MOST_BYTES >> 20} MB: damaged?")
        return _read(path.read_bytes())
    except OSError as error:
        raise RecordError(f"cannot be read: {error.strerror}") from None
    except (StructError, IndexError):
        raise RecordError("a section of the SCP-ECG record ends too early: damaged?") from None


def _read(content: bytes) -> Traces:
    length = int.from_bytes(content[2:6], "little")
    if length > len(content):
        raise RecordError(f"has {len(content)} bytes, its SCP-ECG header says {length}: cut off?")
    record = content[:length]
    sections, protocol = _sections(record)
    notes = _check_sums(record, sections)
    sections = {number: section[16:] for number, section in sections.items()}
    if 6 not in sections and 12 in sections:
        raise RecordError(
            "a long-term recording (section 12 of SCP-ECG 3), which is not read: export it as EDF or WFDB"
        )
    missing = [number for number in (3, 6) if number not in sections]
    if missing:
        raise RecordError(
            f"section {missing[0]} ({'leads' if missing[0] == 3 else 'rhythm'}) of the SCP-ECG record is missing"
        )

    leads, subtracted = _leads(sections[3])
    tables = _huffman_tables(sections[2]) if 2 in sections else []
    unit, interval, difference, bimodal = Struct("<HHBB").unpack_from(sections[6])
    if not interval:
        raise RecordError("its sample interval (section 6) is 0: damaged?")
    step = 1  # of the samples outside the protected zones
    if bimodal and protocol < 30:
        step = _decimation(sections, interval)
        interval //= step
    beats = _beats(sections[4]) if 4 in sections and (step > 1 or subtracted) else None

    if step > 1:
        parts = [_parts(lead, beats.zones) for lead in leads]
        counts = [sum(_stored(last - first + 1, full, step) for first, last, full in of_lead) for of_lead in parts]
        stored = _decode(sections[6], tables, difference, counts, to_the_end=True)
        samples = [_interpolate(values, of_lead, step) for values, of_lead in zip(stored, parts, strict=True)]
        notes.append(f"outside the QRS complexes the file holds one sample in {step}: interpolated between them")
    else:
        samples = _decode(sections[6], tables, difference, [lead.last - lead.first + 1 for lead in leads])
    samples = [values * float(unit or 1) for values in samples]
    if subtracted:
        if beats is None or 5 not in sections:
            raise RecordError("reference beats were subtracted from it, but section 4 or 5 with them is missing")
        _add_beats(samples, leads, beats, sections[5], tables, interval, unit)
    if not unit:
        notes.append("amplitude multiplier 0: the file states no unit")

    start = min(lead.first for lead in leads)
    n_samples = max(lead.last for lead in leads) - start + 1
    if n_samples * len(leads) > MOST_SAMPLES:
        raise RecordError(f"its leads are spread over {n_samples} samples: damaged?")
    signal = np.full((len(leads), n_samples), np.nan)
    for row, lead, values in zip(signal, leads, samples, strict=True):
        row[lead.first - start : lead.last - start + 1] = values
    names = tuple(LEADS.get(lead.code, f"SCP code {lead.code}") for lead in leads)
    units = ("nV" if unit else "",) * len(leads)
    return Traces(1e6 / interval, names, units, signal, tuple(notes), _device(sections.get(1, b"")))


def _sections(record: bytes) -> tuple[dict[int, bytes], int]:
    """Return the sections with their headers, by number, and the protocol's version times ten."""
    _, zero, size, _, protocol = _SECTION_HEADER.unpack_from(record, 6)
    if zero or not 26 <= size <= len(record) - 6:
        raise RecordError("section 0 of the SCP-ECG record is damaged")
    sections = {}
    for number, length, index in _POINTER.iter_unpack(record[22 : 22 + (size - 16) // 10 * 10]):
        if not number or not length:
            continue
        if index < 7 or index - 1 + length > len(record):
            raise RecordError(f"section {number} lies outside the file: damaged or cut off?")
        if number <= 12:
            _, found, stated, _, _ = _SECTION_HEADER.unpack_from(record, index - 1)
            if found != number:
                raise RecordError(f"section {found} stands where section {number} should be: damaged?")
            sections[number] = record[index - 1 : index - 1 + min(length, max(stated, 16))]
    return sections, protocol


def _check_sums(record: bytes, sections: dict[int, bytes]) -> list[str]:
    """Compare checksums (CRC-CCITT): raise where they disagree, return as notes where they say nothing.

    The record's own may be wrong if those of the signal's sections are right: a name was edited out by hand.
    """
    signal = {number: section for number, section in sections.items() if 2 <= number <= 6}
    stated = {number: int.from_bytes(section[:2], "little") for number, section in signal.items()}
    wrong = [number for number, section in signal.items() if crc_hqx(section[2:], 0xFFFF) != stated[number]]
    of_record = int.from_bytes(record[:2], "little")
    notes = []
    if crc_hqx(record[2:], 0xFFFF) != of_record:
        if of_record in NO_CHECKSUM and all(stated[number] in NO_CHECKSUM for number in wrong):
            notes.append("has no checksums: damage would not be noticed")
        elif wrong:
            raise RecordError(f"the checksum of section {wrong[0]} disagrees: damaged?")
        else:
            notes.append("the record's checksum disagrees, those of its signal's sections agree")
    return notes


def _leads(section: bytes) -> tuple[list[_Lead], bool]:
    """Return the leads of section 3 and whether reference beats were subtracted from them."""
    count, flags = section[0], section[1]
    leads = [_Lead(*_LEAD.unpack_from(section, 2 + i * _LEAD.size)) for i in range(count)]
    if not leads:
        raise RecordError("holds no leads (section 3)")
    for lead in leads:
        if not 1 <= lead.first <= lead.last:
            raise RecordError(f"has a lead from sample {lead.first} to {lead.last} (section 3): damaged?")
    if sum(lead.last - lead.first + 1 for lead in leads) > MOST_SAMPLES:
        raise RecordError(f"its leads have more than {MOST_SAMPLES} samples (section 3): damaged?")
    return leads, bool(flags & 1)


def _huffman_tables(section: bytes) -> list[_Table]:
    """Return the tables of section 2; none means that samples are plain int16."""
    count, position = int.from_bytes(section[:2], "little"), 2
    if count == 19999:
        return [_default_table()]
    tables = []
    for _ in range(count):
        n_codes = int.from_bytes(section[position : position + 2], "little")
        codes = {}
        for i in range(n_codes):
            prefix, bits, mode, value, reversed_code = _CODE.unpack_from(section, position + 2 + i * _CODE.size)
            if not 1 <= prefix <= 32 or not prefix <= bits <= prefix + 32:
                raise RecordError(f"has a Huffman code of {prefix} bits, {bits} in all (section 2): damaged?")
            codes[f"{reversed_code % (1 << prefix):0{prefix}b}"[::-1]] = (bits - prefix, mode != 0, value)
        position += 2 + n_codes * _CODE.size
        if not codes:
            raise RecordError("has an empty Huffman table (section 2): damaged?")
        tables.append(_Table(codes, tuple(sorted({len(code) for code in codes}))))
    return tables


def _default_table() -> _Table:
    """The standard's own table (annex C): 0; n ones, a zero and the sign for 1 to 8; then 8 or 16 bits as they are."""
    codes = {"0": (0, True, 0), "1111111110": (8, True, 0), "1111111111": (16, True, 0)}
    for size in range(1, 9):
        codes |= {"1" * size + "00": (0, True, size), "1" * size + "01": (0, True, -size)}
    return _Table(codes, (1, *range(3, 11)))


def _decode(
    section: bytes, tables: list[_Table], difference: int, counts: list[int], *, to_the_end: bool = False
) -> list[np.ndarray]:
    """Return the numbers of each lead in section 5 or 6, `counts` of them, differences summed up.

    With `to_the_end` no more than filling bytes may follow them, which shows that they were counted as the writer did.
    """
    if difference > 2:
        raise RecordError(f"has differences of order {difference}, known are 0, 1 and 2: damaged?")
    sizes = Struct(f"<{len(counts)}H").unpack_from(section, 6)
    position = 6 + 2 * len(counts)
    leads = []
    for size, count in zip(sizes, counts, strict=True):
        block = section[position : position + size]
        position += size
        least = -(-count // 8) if tables else 2 * count
        if len(block) < max(size, least):
            raise RecordError(f"has {len(block)} bytes for the {count} samples of a lead: cut off?")
        if tables:
            values, bits_left = _huffman(block, count, tables)
        else:
            values, bits_left = np.frombuffer(block, "<i2", count).astype(np.int64), 8 * len(block) - 16 * count
        if to_the_end and bits_left >= 32:
            raise RecordError(
                f"its protected zones (section 4) leave {bits_left} bits over: a kind of bimodal compression not known"
            )
        leads.append(_sum_up(values, difference))
    return leads


def _huffman(block: bytes, count: int, tables: list[_Table]) -> tuple[np.ndarray, int]:
    """Return `count` decoded values and the number of bits left."""
    bits = f"{int.from_bytes(block, 'big'):0{8 * len(block)}b}" if block else ""
    table, position, values = tables[0], 0, []  # each lead starts with the first table
    while len(values) < count:
        for length in table.lengths:
            code = table.codes.get(bits[position : position + length])
            if code is not None:
                break
        else:
            raise RecordError(f"no Huffman code fits after {len(values)} of {count} samples of a lead: damaged?")
        extra, is_value, value = code
        position += length
        if not is_value:
            if not 1 <= value <= len(tables):
                raise RecordError(f"switches to Huffman table {value} of {len(tables)}: damaged?")
            table = tables[value - 1]
            continue
        if extra:
            rest = bits[position : position + extra]
            if len(rest) < extra:
                raise RecordError(f"ends after {len(values)} of {count} samples of a lead: cut off?")
            value += int(rest, 2) - (int(rest[0]) << extra)  # two's complement
            position += extra
        values.append(value)
    return np.asarray(values, np.int64), len(bits) - position


def _sum_up(values: np.ndarray, difference: int) -> np.ndarray:
    """Undo first or second differences; the first one or two values stand as they are. Sums wrap as int16 does."""
    if difference == 1:
        values = np.cumsum(values)
    elif difference == 2 and len(values) > 2:
        slopes = np.cumsum([values[1] - values[0], *values[2:]])
        values = values[0] + np.cumsum([0, *slopes])
    return values.astype(np.int16).astype(np.float64)


def _beats(section: bytes) -> _Beats:
    milliseconds, fiducial, count = Struct("<HHH").unpack_from(section)
    end = 6 + count * _BEAT.size
    if len(section) < end:
        raise RecordError(f"section 4 is too short for {count} beats: damaged?")
    zones = section[end : end + count * _ZONE.size]
    zones = list(_ZONE.iter_unpack(zones)) if len(zones) == count * _ZONE.size else []
    return _Beats(milliseconds, fiducial, list(_BEAT.iter_unpack(section[6:end])), zones)


def _add_beats(
    samples: list[np.ndarray],
    leads: list[_Lead],
    beats: _Beats,
    section: bytes,
    tables: list[_Table],
    interval: int,
    unit: int,
) -> None:
    """Add the reference beat of each lead, section 5, to `samples` in nV wherever a beat of its type was subtracted."""
    unit_of_beat, interval_of_beat, difference = Struct("<HHB").unpack_from(section)
    if interval_of_beat != interval:
        raise RecordError(
            f"its reference beat has a sample every {interval_of_beat} us, its rhythm every {interval} us: not known"
        )
    if not unit or not unit_of_beat:
        raise RecordError("reference beats were subtracted from it and its amplitude multiplier is 0: damaged?")
    n_samples = round(beats.milliseconds * 1000 / interval)
    if n_samples * len(leads) > MOST_SAMPLES:
        raise RecordError(f"has a reference beat of {beats.milliseconds} ms: damaged?")
    shapes = _decode(section, tables, difference, [n_samples] * len(leads))
    for values, lead, shape in zip(samples, leads, shapes, strict=True):
        for kind, first, fiducial, last in beats.beats:
            origin = fiducial - beats.fiducial + 1  # the sample at which the whole reference beat would start
            start, stop = max(first, lead.first, origin), min(last, lead.last, origin + n_samples - 1) + 1
            if kind == 0 and start < stop:
                values[start - lead.first : stop - lead.first] += shape[start - origin : stop - origin] * unit_of_beat


def _decimation(sections: dict[int, bytes], interval: int) -> int:
    """Return how many samples became one outside the protected zones of a file with bimodal compression."""
    if 4 not in sections or 5 not in sections:
        raise RecordError("is compressed bimodally, but section 4 or 5, which that needs, is missing")
    (of_beat,) = Struct("<H").unpack_from(sections[5], 2)
    if not of_beat or interval % of_beat or interval // of_beat not in (1, 2, 4):
        raise RecordError(f"is compressed bimodally from a sample every {of_beat} us to every {interval} us: not known")
    return interval // of_beat


def _parts(lead: _Lead, zones: list[tuple[int, ...]]) -> list[tuple[int, int, bool]]:
    """Cut a lead into (first, last, whether it is a protected zone), in order, without gaps."""
    parts, position = [], lead.first
    for first, last in sorted(zone for zone in zones if 0 < zone[0] <= zone[1]):
        if first < position and parts and parts[-1][2]:
            raise RecordError("its protected zones (section 4) overlap: damaged?")
        first, last = max(first, position), min(last, lead.last)
        if first > last:
            continue
        if first > position:
            parts.append((position, first - 1, False))
        parts.append((first, last, True))
        position = last + 1
    if position <= lead.last:
        parts.append((position, lead.last, False))
    return parts


def _stored(length: int, full: bool, step: int) -> int:
    """How many numbers stand for `length` samples: those that do not fill a step are stored one by one at its end."""
    return length if full else length // step + length % step


def _interpolate(stored: np.ndarray, parts: list[tuple[int, int, bool]], step: int) -> np.ndarray:
    """Bring a decimated lead to full rate: lines between means of `step` samples, flat for half a step at both ends."""
    pieces, position = [], 0
    for first, last, full in parts:
        length = last - first + 1
        count = _stored(length, full, step)
        values, position = stored[position : position + count], position + count
        means = 0 if full else length // step
        if means:
            pieces.append(np.interp(np.arange(means * step), np.arange(means) * step + step // 2, values[:means]))
        pieces.append(values[means:])
    return np.concatenate(pieces)


def _device(section: bytes) -> str:
    """Return maker and model from tag 14 of section 1; all other tags, which say who was recorded, are passed over."""
    position = 0
    while position + 3 <= len(section) and section[position] != 255:
        tag, length = section[position], int.from_bytes(section[position + 1 : position + 3], "little")
        value = section[position + 3 : position + 3 + length]
        if tag == 14 and len(value) >= 36:
            model, texts = value[8:14], value[36:].split(b"\0")
            maker = texts[4] if len(texts) > 4 else b""
            words = (text.split(b"\0")[0].decode("latin-1").strip() for text in (maker, model))
            return " ".join(word for word in words if word.isprintable() and word)[:80]
        position += 3 + length
    return ""
