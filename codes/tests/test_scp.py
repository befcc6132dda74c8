"""SCP-ECG: what an encoder written from the standard writes is read back exactly, as other programs read it."""

import time
from binascii import crc_hqx
from collections.abc import Iterable
from pathlib import Path
from struct import pack

import numpy as np
import pytest

from benchmarks.damaged_files import mutated
from ecg.formats import RecordError, Traces
from ecg.formats.scp import LEADS, read, recognises
from ecg.recordings import read_ecg

TWELVE = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
CODE = {name: code for code, name in LEADS.items()}
NAME, BIRTHPLACE = b"Mustermann\0", b"Musterstadt\0"

# The default table as printed in prEN 1064:2002, C.2.7.4: bits of the prefix, bits in all, value, prefix with its first
# bit as the lowest. PixelMed, BioSig and the C# ECG Toolkit have the same.
DEFAULT_TABLE = [
    *[(1, 1, 0, 0), (3, 3, 1, 1), (3, 3, -1, 5), (4, 4, 2, 3), (4, 4, -2, 11), (5, 5, 3, 7), (5, 5, -3, 23)],
    *[(6, 6, 4, 15), (6, 6, -4, 47), (7, 7, 5, 31), (7, 7, -5, 95), (8, 8, 6, 63), (8, 8, -6, 191)],
    *[(9, 9, 7, 127), (9, 9, -7, 383), (10, 10, 8, 255), (10, 10, -8, 767), (10, 18, 0, 511), (10, 26, 0, 1023)],
]

# Two tables of a file's own, one with 3-bit and one with 16-bit numbers, each with a way to the other.
OWN_TABLES = [[(1, 4, 1, 0, 0), (2, 2, 0, 2, 0b11)], [(1, 17, 1, 0, 0), (1, 1, 0, 1, 1)]]


# --- the encoder ------------------------------------------------------------------------------------------------------


def heart(n_leads: int = 12, n_samples: int = 1000, *, seed: int = 0, noise: float = 2) -> np.ndarray:
    """Return whole numbers (n_leads, n_samples) that look like an ECG at 500 Hz with a beat each 400 samples."""
    rng = np.random.default_rng(seed)
    phase = (np.arange(n_samples) - 200) % 400
    beat = 1000 * np.exp(-(((phase - 60) / 5) ** 2)) + 200 * np.exp(-(((phase - 160) / 25) ** 2))
    return np.rint(rng.uniform(-1, 1, (n_leads, 1)) * beat + noise * rng.normal(size=(n_leads, n_samples))).astype(int)


def differences(values: np.ndarray, order: int) -> np.ndarray:
    return np.concatenate([values[:order], np.diff(values, order)]) if order else values


def in_default_code(values: Iterable[int]) -> bytes:
    bits = []
    for value in values:
        if value == 0:
            bits.append("0")
        elif abs(value) <= 8:
            bits.append("1" * abs(value) + "0" + ("1" if value < 0 else "0"))
        elif -128 <= value < 128:
            bits.append("1111111110" + f"{value % 256:08b}")
        else:
            bits.append("1111111111" + f"{value % 65536:016b}")
    return to_bytes("".join(bits))


def in_own_code(values: Iterable[int]) -> bytes:
    bits, table = "", 1
    for value in values:
        wanted = 1 if -4 <= value < 4 else 2
        if wanted != table:
            bits += "11" if table == 1 else "1"
            table = wanted
        bits += "0" + (f"{value % 8:03b}" if table == 1 else f"{value % 65536:016b}")
    return to_bytes(bits)


def to_bytes(bits: str) -> bytes:
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big") if bits else b""


def tables_section(tables: list[list[tuple[int, ...]]]) -> bytes:
    return pack("<H", len(tables)) + b"".join(
        pack("<H", len(table)) + b"".join(pack("<BBBhI", *row) for row in table) for table in tables
    )


CODINGS = {
    "int16": (None, lambda values: np.asarray(values).astype("<i2").tobytes()),
    "default": (pack("<H", 19999), in_default_code),
    "printed": (tables_section([[(a, b, 1, value, code) for a, b, value, code in DEFAULT_TABLE]]), in_default_code),
    "own": (tables_section(OWN_TABLES), in_own_code),
}


def waves(values: np.ndarray | list, *, unit: int, interval: int, order: int, coding: str, bimodal: int = 0) -> bytes:
    """Section 5 or 6: the numbers of each lead."""
    blocks = [CODINGS[coding][1](differences(np.asarray(lead), order).tolist()) for lead in values]
    blocks = [block + b"\0" * (len(block) % 2) for block in blocks]
    sizes = pack(f"<{len(blocks)}H", *map(len, blocks))
    return pack("<HHBB", unit, interval, order, bimodal) + sizes + b"".join(blocks)


def lead_section(codes: Iterable[int], ranges: list[tuple[int, int]], *, subtracted: bool = False) -> bytes:
    leads = [pack("<IIB", first, last, code) for code, (first, last) in zip(codes, ranges, strict=True)]
    return pack("<BB", len(leads), 4 | subtracted | (len(leads) % 32) << 3) + b"".join(leads)


def header_section() -> bytes:
    machine = bytes(8) + b"AB123\0" + bytes([20]) + bytes(21) + b"1.0\0SN-77\0sys\0scp\0Acme Medical\0"
    tags = [(0, NAME), (2, b"4711\0"), (5, pack("<HBB", 1950, 2, 3)), (14, machine), (30, BIRTHPLACE)]
    return b"".join(pack("<BH", tag, len(value)) + value for tag, value in tags) + b"\xff\0\0"


def record(sections: dict[int, bytes], *, protocol: int = 20, checksums: bool = True) -> bytes:
    """Put sections, by number, into a record: with headers, pointers and checksums."""

    def checked(content: bytes) -> bytes:
        return pack("<H", crc_hqx(content, 0xFFFF) if checksums else 0) + content

    def with_header(number: int, content: bytes, reserved: bytes = bytes(6)) -> bytes:
        content += b"\0" * (len(content) % 2)
        return checked(pack("<HIBB", number, len(content) + 16, protocol, protocol) + reserved + content)

    blocks = {number: with_header(number, content) for number, content in sorted(sections.items())}
    numbers = sorted({*range(12), *blocks})
    size = 16 + 10 * len(numbers)
    position, pointers = 7 + size, pack("<HII", 0, size, 7)
    for number in numbers[1:]:
        block = blocks.get(number, b"")
        pointers += pack("<HII", number, len(block), position if block else 0)
        position += len(block)
    body = with_header(0, pointers, b"SCPECG") + b"".join(blocks.values())
    return checked(pack("<I", len(body) + 6) + body)


def ecg(
    values: np.ndarray,
    *,
    leads: tuple[str, ...] = TWELVE,
    fs: int = 500,
    unit: int = 2500,
    order: int = 2,
    coding: str = "default",
    **more: bool,
) -> bytes:
    """Return a whole record with nothing but rhythm; `unit` in nanovolts."""
    sections = {
        1: header_section(),
        3: lead_section([CODE[name] for name in leads], [(1, values.shape[1])] * len(values)),
        6: waves(values, unit=unit, interval=1_000_000 // fs, order=order, coding=coding),
    }
    if CODINGS[coding][0]:
        sections[2] = CODINGS[coding][0]
    return record(sections, **more)


BEATS = [(170, 260, 455), (570, 660, 855)]  # first sample, fiducial point, last sample, counted from 1
BEAT_START = 100  # of the fiducial point in the reference beat, counted from 1
ZONES = [(241, 280), (641, 680)]


def beat_section() -> bytes:
    """Section 4: a reference beat of 600 ms, two beats of its type and one of another, which it was not taken from."""
    beats = [(0, *beat) for beat in BEATS] + [(1, 900, 960, 990)]
    zones = [*ZONES, (0, 0)]
    return pack("<HHH", 600, BEAT_START, len(beats)) + b"".join(
        [pack("<HIII", *beat) for beat in beats] + [pack("<II", *zone) for zone in zones]
    )


def subtracted(values: np.ndarray, beat: np.ndarray) -> np.ndarray:
    rest = values.copy()
    for first, fiducial, last in BEATS:
        start = first - fiducial + BEAT_START - 1
        rest[:, first - 1 : last] -= beat[:, start : start + last - first + 1]
    return rest


def decimated(lead: np.ndarray) -> list[int]:
    """Four samples become their mean, outside the protected zones."""
    stored, position = [], 0
    for first, last in [*ZONES, (len(lead) + 1, len(lead))]:
        gap = lead[position : first - 1]
        whole = len(gap) // 4 * 4
        stored += np.rint(gap[:whole].reshape(-1, 4).mean(axis=1)).astype(int).tolist() + gap[whole:].tolist()
        stored += lead[first - 1 : last].tolist()
        position = last
    return stored


def compressed(values: np.ndarray, beat: np.ndarray, *, bimodal: bool) -> bytes:
    """The standard's high compression: reference beats subtracted and, if `bimodal`, decimated between the QRS."""
    rest = subtracted(values, beat)
    rhythm = [decimated(lead) for lead in rest] if bimodal else rest
    interval = 8000 if bimodal else 2000
    return record(
        {
            2: pack("<H", 19999),
            3: lead_section(map(CODE.get, TWELVE), [(1, values.shape[1])] * 12, subtracted=True),
            4: beat_section(),
            5: waves(beat, unit=5000, interval=2000, order=2, coding="default"),
            6: waves(rhythm, unit=5000, interval=interval, order=2, coding="default", bimodal=bimodal),
        }
    )


def read_bytes(content: bytes, folder: Path) -> Traces:
    path = folder / "made.scp"
    path.write_bytes(content)
    assert recognises(path, content[:4096])
    return read(path)


def as_ecgdatakit_reads(path: Path) -> np.ndarray:
    """Return the signals in nV, (n_leads, t)."""
    parsing = pytest.importorskip("ecgdatakit.parsing", reason="ecgdatakit, the witness, is not installed")
    leads = parsing.FileParser.parse(path, units="uV").leads
    return 1000 * np.stack([lead.samples for lead in leads])


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_every_coding_is_read_back_exactly_and_as_ecgdatakit_reads_it(coding: str, order: int, tmp_path: Path) -> None:
    values = heart()
    values[3, 100:110] = [-32768, 32767] * 5  # the widest numbers there are, and sums that wrap
    traces = read_bytes(ecg(values, order=order, coding=coding), tmp_path)
    assert traces.names == TWELVE and traces.fs == 500 and set(traces.units) == {"nV"} and not traces.notes
    np.testing.assert_array_equal(traces.signal, values * 2500.0)
    np.testing.assert_allclose(as_ecgdatakit_reads(tmp_path / "made.scp"), traces.signal, rtol=1e-12)


def test_reference_beats_are_added_back_where_they_were_subtracted(tmp_path: Path) -> None:
    values, beat = heart(), heart(n_samples=300, seed=1)
    traces = read_bytes(compressed(values, beat, bimodal=False), tmp_path)
    np.testing.assert_array_equal(traces.signal, values * 5000.0)
    np.testing.assert_allclose(as_ecgdatakit_reads(tmp_path / "made.scp"), traces.signal, rtol=1e-12)


def test_bimodal_files_are_exact_in_the_qrs_and_interpolated_between(tmp_path: Path) -> None:
    values = heart(noise=0)
    beat = values[:, 259 - BEAT_START + 1 :][:, :300]
    traces = read_bytes(compressed(values, beat, bimodal=True), tmp_path)
    assert traces.fs == 500 and traces.signal.shape == values.shape
    for first, last in ZONES:
        np.testing.assert_array_equal(traces.signal[:, first - 1 : last], values[:, first - 1 : last] * 5000.0)
    error = np.abs(traces.signal / 5000 - values)
    assert error.max() < 0.02 * np.abs(values).max()
    assert any("one sample in 4" in note for note in traces.notes)


def test_bimodal_files_with_other_zones_than_they_say_are_refused(tmp_path: Path) -> None:
    values, beat = heart(), heart(n_samples=300, seed=1)
    content = compressed(values, beat, bimodal=True)
    zone = pack("<II", *ZONES[0])
    moved = fix_checksums(content.replace(zone, pack("<II", ZONES[0][0], ZONES[0][1] - 28)))
    with pytest.raises(RecordError, match="protected zones"):
        read_bytes(moved, tmp_path)


def test_bimodal_files_without_beats_are_refused(tmp_path: Path) -> None:
    sections = {
        3: lead_section([1], [(1, 400)]),
        6: waves(heart(1, 100), unit=5000, interval=8000, order=0, coding="int16", bimodal=1),
    }
    with pytest.raises(RecordError, match="section 4 or 5"):
        read_bytes(record(sections), tmp_path)
    # from version 3 on the flag has no meaning
    sections[3] = lead_section([1], [(1, 100)])
    assert read_bytes(record(sections, protocol=30), tmp_path).fs == 125


@pytest.mark.parametrize("fs", [100, 250, 500, 1000])
@pytest.mark.parametrize("unit", [1000, 2500, 4880])
def test_rates_units_and_orders_of_leads_come_out_as_millivolts(fs: int, unit: int, tmp_path: Path) -> None:
    values = heart()
    i, ii = values[:2]
    values[2:6] = [ii - i, -(i + ii) // 2, i - ii // 2, ii - i // 2]
    order = np.random.default_rng(fs + unit).permutation(12)
    path = tmp_path / "a.scp"
    path.write_bytes(ecg(values[order], leads=tuple(np.asarray(TWELVE)[order].tolist()), fs=fs, unit=unit))
    recording = read_ecg(path)
    assert recording.fs == fs and recording.format == "SCP-ECG"
    np.testing.assert_allclose(recording.rows(TWELVE), values * unit * 1e-6, atol=1e-6)


def test_leads_recorded_one_after_the_other_are_nan_elsewhere(tmp_path: Path) -> None:
    values = heart(2, 300)
    sections = {
        3: lead_section([CODE["V1"], CODE["aVF"]], [(101, 400), (301, 600)]),
        6: waves(values, unit=1000, interval=4000, order=1, coding="int16"),
    }
    traces = read_bytes(record(sections), tmp_path)
    assert traces.signal.shape == (2, 500) and traces.fs == 250
    np.testing.assert_array_equal(traces.signal[0], np.append(values[0] * 1000.0, [np.nan] * 200))
    np.testing.assert_array_equal(traces.signal[1], np.append([np.nan] * 200, values[1] * 1000.0))


def test_lead_codes_are_those_of_the_standard() -> None:
    known = {1: "I", 2: "II", 3: "V1", 8: "V6", 61: "III", 62: "aVR", 63: "aVL", 64: "aVF", 65: "-aVR", 66: "V8"}
    known |= {16: "X", 30: "fH", 78: "A4", 86: "C", 91: "MCL", 110: "CM6", 131: "ES", 133: "AI", 147: "RL", 151: "V10"}
    assert known.items() <= LEADS.items()
    assert not {*range(31, 61), *range(79, 86)} & LEADS.keys()


def test_a_calibration_pulse_is_not_taken_for_its_lead(tmp_path: Path) -> None:
    sections = {
        3: lead_section([1, 31], [(1, 100)] * 2),
        6: waves(heart(2, 100), unit=1000, interval=2000, order=0, coding="int16"),
    }
    assert read_bytes(record(sections), tmp_path).names == ("I", "SCP code 31")


def test_of_section_1_only_the_device_is_kept(tmp_path: Path) -> None:
    traces = read_bytes(ecg(heart()), tmp_path)
    assert traces.device == "Acme Medical AB123"
    for personal in ("Mustermann", "Musterstadt", "4711", "1950", "SN-77"):
        assert personal not in repr(traces)


def test_a_multiplier_of_0_leaves_the_unit_open(tmp_path: Path) -> None:
    values = heart()
    traces = read_bytes(ecg(values, unit=0), tmp_path)
    assert set(traces.units) == {""} and any("no unit" in note for note in traces.notes)
    np.testing.assert_array_equal(traces.signal, values)


def fix_checksums(content: bytes) -> bytes:
    """Give a changed record the checksums that go with what it holds now."""
    content = bytearray(content)
    for pointer in range(22, min(6 + int.from_bytes(content[10:14], "little"), len(content)) - 9, 10):
        size, index = (int.from_bytes(content[pointer + k : pointer + k + 4], "little") for k in (2, 6))
        if size:
            at = index - 1
            content[at : at + 2] = pack("<H", crc_hqx(content[at + 2 : at + size], 0xFFFF))
    content[:2] = pack("<H", crc_hqx(content[2:], 0xFFFF))
    return bytes(content)


def test_damage_to_the_samples_is_noticed_by_the_checksum(tmp_path: Path) -> None:
    content = bytearray(ecg(heart()))
    content[-20] ^= 4
    with pytest.raises(RecordError, match="checksum of section 6"):
        read_bytes(bytes(content), tmp_path)


def test_a_record_whose_name_was_blanked_by_hand_is_read_with_a_note(tmp_path: Path) -> None:
    values = heart()
    traces = read_bytes(ecg(values).replace(NAME, b"x" * 10 + b"\0"), tmp_path)
    np.testing.assert_array_equal(traces.signal, values * 2500.0)
    assert any("checksum" in note for note in traces.notes)


def test_a_record_without_checksums_is_read_with_a_note(tmp_path: Path) -> None:
    assert any("no checksums" in note for note in read_bytes(ecg(heart(), checksums=False), tmp_path).notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content[:-500], "cut off"),
        (lambda content: content[:40], "cut off"),
        (
            lambda content: fix_checksums(content.replace(pack("<IIB", 1, 1000, 8), pack("<IIB", 9, 4, 8))),
            "sample 9 to 4",
        ),
        (
            lambda content: fix_checksums(content.replace(pack("<IIB", 1, 1000, 8), pack("<IIB", 1, 2**31, 8))),
            "more than",
        ),
        (lambda content: fix_checksums(content.replace(pack("<HHBB", 2500, 2000, 2, 0), bytes(6))), "sample interval"),
        (lambda content: fix_checksums(content.replace(pack("<H", 19999), pack("<H", 1))), "empty Huffman table"),
    ],
)
def test_what_is_wrong_is_said(change: object, words: str, tmp_path: Path) -> None:
    changed = change(ecg(heart()))
    with pytest.raises(RecordError, match=words):
        read_bytes(changed, tmp_path)


def test_long_term_recordings_are_refused_with_words(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="long-term"):
        read_bytes(record({3: lead_section([1], [(1, 9)]), 12: bytes(20)}, protocol=30), tmp_path)


def test_mutated_files_are_refused_or_read_but_never_crash(tmp_path: Path) -> None:
    values, beat = heart(), heart(n_samples=300, seed=1)
    files = [ecg(values), ecg(values, coding="own"), compressed(values, beat, bimodal=True)]
    rng = np.random.default_rng(4711)
    for i in range(50):
        content = mutated(files[i % 3], rng)
        content = fix_if_possible(content) if i % 2 else content  # or the checksum would keep most away
        path = tmp_path / "mutated.scp"
        path.write_bytes(content)
        begin = time.perf_counter()
        try:
            assert np.isfinite(read(path).fs)
        except RecordError as error:
            assert str(error)
        assert time.perf_counter() - begin < 5


def fix_if_possible(content: bytes) -> bytes:
    try:
        return fix_checksums(content[:2] + pack("<I", len(content)) + content[6:])
    except (IndexError, ValueError):
        return content
