"""ISHNE Holter files, and the formats that are left to ecgdatakit."""

import sys
import time
from base64 import b64encode
from binascii import crc_hqx
from collections.abc import Callable
from pathlib import Path
from struct import pack

import numpy as np
import pytest

from benchmarks.damaged_files import mutated
from ecg.formats import RecordError, Traces, extra, ishne
from ecg.recordings import read_ecg

CODES = {"I": 5, "II": 6, "III": 7, "aVR": 8, "aVL": 9, "aVF": 10}
CODES |= {"V1": 11, "V2": 12, "V3": 13, "V4": 14, "V5": 15, "V6": 16}
TWELVE = tuple(CODES)
NAME, ID, NOTE = b"Erika", b"4711-X", b"called Mustermann"


def heart(n_leads: int = 12, n_samples: int = 1000, *, seed: int = 0) -> np.ndarray:
    """Return whole numbers (n_leads, n_samples) with a beat each 400 samples; of twelve leads, the limb leads fit."""
    rng = np.random.default_rng(seed)
    beat = 300 * np.exp(-((((np.arange(n_samples) - 100) % 400 - 60) / 5) ** 2))
    values = np.rint(rng.uniform(-1, 1, (n_leads, 1)) * beat + 3 * rng.normal(size=(n_leads, n_samples))).astype(int)
    if n_leads == 12:
        i, ii = values[:2]
        values[2:6] = [ii - i, -(i + ii) // 2, i - ii // 2, ii - i // 2]
    return values


def holter(
    values: np.ndarray,
    *,
    leads: tuple[str, ...] = TWELVE,
    fs: int = 500,
    nanovolts: int = 2500,
    text: bytes = NOTE,
    stated: int | None = None,
) -> bytes:
    """Return an ISHNE file of `values` (n_leads, t), with the fields in the order of Badilini's table."""
    n = len(values)
    codes = [CODES.get(lead, 0) for lead in leads] + [-9] * (12 - n)
    head = pack("<iiiih", len(text), values.size if stated is None else stated, 522, 522 + len(text), 1)
    head += pack("<40s40s20s", NAME, b"Mustermann", ID) + pack("<2h", 2, 1)
    head += pack("<12h", 12, 8, 1964, 2, 1, 2020, 3, 1, 2020, 10, 30, 0)  # born, recorded, written, started
    head += pack("<h12h12h12h", n, *codes, *[1] * n, *[-9] * (12 - n), *[nanovolts] * n, *[-9] * (12 - n))
    head += pack("<h40sh80s80s88s", 0, b"Recorder 12", fs, b"", b"", b"") + text
    assert len(head) == 512 + len(text)
    return b"ISHNE1.0" + pack("<H", crc_hqx(head, 0xFFFF)) + head + values.T.astype("<i2").tobytes()


def read_bytes(content: bytes, folder: Path) -> Traces:
    path = folder / "made.ecg"
    path.write_bytes(content)
    assert ishne.recognises(path, content[:4096])
    return ishne.read(path)


def as_ecgdatakit_reads(path: Path) -> np.ndarray:
    """Return the signals in mV, (n_leads, t)."""
    parsing = pytest.importorskip("ecgdatakit.parsing", reason="ecgdatakit, the witness, is not installed")
    return np.stack([lead.samples for lead in parsing.FileParser.parse(path, units="mV").leads])


@pytest.mark.parametrize("fs", [100, 250, 500, 1000])
@pytest.mark.parametrize("nanovolts", [1000, 2500, 4880])
def test_an_ishne_file_is_read_as_written_and_as_ecgdatakit_reads_it(fs: int, nanovolts: int, tmp_path: Path) -> None:
    values = heart()
    order = np.random.default_rng(fs + nanovolts).permutation(12)
    leads = tuple(np.asarray(TWELVE)[order].tolist())
    traces = read_bytes(holter(values[order], leads=leads, fs=fs, nanovolts=nanovolts), tmp_path)
    assert traces.names == leads and traces.fs == fs and set(traces.units) == {"nV"} and not traces.notes
    np.testing.assert_allclose(traces.signal, values[order] * nanovolts, rtol=1e-6)
    np.testing.assert_allclose(traces.signal * 1e-6, as_ecgdatakit_reads(tmp_path / "made.ecg"), rtol=1e-6)
    recording = read_ecg(tmp_path / "made.ecg")
    np.testing.assert_allclose(recording.rows(TWELVE), values * nanovolts * 1e-6, atol=1e-6)


def test_samples_of_a_lead_that_was_off_are_nan(tmp_path: Path) -> None:
    values = heart()
    values[4, 10:20] = -32768
    signal = read_bytes(holter(values), tmp_path).signal
    assert np.isnan(signal[4, 10:20]).all() and np.isnan(signal).sum() == 10


def test_nothing_of_the_person_is_kept(tmp_path: Path) -> None:
    traces = read_bytes(holter(heart()), tmp_path)
    assert traces.device == "Recorder 12"
    for personal in ("Erika", "Mustermann", "4711", "1964", "2020"):
        assert personal not in repr(traces)


def test_leads_without_a_name_have_none(tmp_path: Path) -> None:
    assert read_bytes(holter(heart(3), leads=("bipolar", "V1", "?")), tmp_path).names == ("", "V1", "")


@pytest.mark.parametrize(("stated", "noted"), [(1000, False), (3000, False), (2000, True)])
def test_samples_may_be_stated_per_lead_or_for_all_leads(stated: int, noted: bool, tmp_path: Path) -> None:
    traces = read_bytes(holter(heart(3), leads=TWELVE[:3], stated=stated), tmp_path)
    assert traces.signal.shape == (3, 1000)
    assert any("states 2000 samples" in note for note in traces.notes) == noted


def test_a_header_that_was_changed_is_noted(tmp_path: Path) -> None:
    content = holter(heart())
    assert any("checksum" in note for note in read_bytes(content.replace(NAME, b"xxxxx"), tmp_path).notes)
    assert any("no checksum" in note for note in read_bytes(content[:8] + bytes(2) + content[10:], tmp_path).notes)


def put(content: bytes, at: int, field: bytes) -> bytes:
    return content[:at] + field + content[at + len(field) :]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: b"ANN  1.0" + content[8:], "annotations"),
        (lambda content: content[:300], "cut off"),
        (lambda content: content[: 522 + len(NOTE)], "no samples"),
        (lambda content: put(content, 22, pack("<i", 9999)), "signal at 9999"),
        (lambda content: put(content, 156, pack("<h", 13)), "13 leads"),
        (lambda content: put(content, 272, pack("<h", 0)), "rate of 0 Hz"),
        (lambda content: put(content, 206, pack("<h", -1)), "resolution of -1"),
    ],
)
def test_what_is_wrong_is_said(change: Callable[[bytes], bytes], words: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=words):
        read_bytes(change(holter(heart())), tmp_path)


# --- formats left to ecgdatakit ---------------------------------------------------------------------------------------


def mfer(values: np.ndarray, *, leads: tuple[str, ...] = TWELVE, fs: int = 500, nanovolts: int = 2500) -> bytes:
    """Return an MFER file (ISO 22077): tag, length, value; blocks of one second, lead after lead."""

    def item(tag: int, value: bytes) -> bytes:
        size = bytes([len(value)]) if len(value) < 128 else b"\x84" + pack(">I", len(value))
        return bytes([tag]) + size + value

    codes = [
        {"I": 1, "II": 2, "III": 61, "aVR": 62, "aVL": 63, "aVF": 64}.get(lead) or 2 + int(lead[1]) for lead in leads
    ]
    blocks = values.reshape(len(values), -1, fs).swapaxes(0, 1)  # (seconds, lead, sample)
    content = b"@" + bytes([32]) + b"MFR Standard 12 leads ECG".ljust(32)
    content += item(1, b"\1") + item(0x81, b"Mustermann^^Erika") + item(0x17, b"Acme^M1^1.0^SN77")
    content += item(0x0B, b"\1\xfd" + pack("<h", 1000 // fs)) + item(0x0C, b"\0\xf7" + pack("<h", nanovolts))
    content += item(4, pack("<H", fs)) + item(5, pack("<H", len(values))) + item(6, pack("<H", len(blocks)))
    for i, code in enumerate(codes):
        content += bytes([0x3F, i, 4]) + item(9, pack("<H", code))
    return content + item(0x1E, blocks.astype("<i2").tobytes()) + b"\x80"


def eli(values: np.ndarray, *, leads: tuple[str, ...] = TWELVE, fs: int = 500, per_mv: int = 400) -> bytes:
    channels = "".join(
        f'<CHANNEL OFFSET="0" BITS="16" FORMAT="SIGNED" UNITS_PER_MV="{per_mv}" DURATION="{values.shape[1]}" '
        f'SAMPLE_FREQ="{fs}" NAME="{lead}" ENCODING="BASE64" DATA="{b64encode(row.astype("<i2").tobytes()).decode()}"/>'
        for lead, row in zip(leads, values, strict=True)
    )
    who = '<SUBJECT LAST_NAME="Mustermann" FIRST_NAME="Erika" ID="4711" DOB="19640812"/>'
    source = '<SOURCE TYPE="ELI" MANUFACTURER="Mortara Instrument" MODEL="ELI 250"/>'
    return f'<?xml version="1.0"?><ECG ACQUISITION_TIME="20200102103000">{who}{source}{channels}</ECG>'.encode()


FILES = {"made.mwf": mfer, "made.xml": eli}


@pytest.mark.parametrize("name", FILES)
def test_what_is_left_to_ecgdatakit_is_read_as_written(name: str, tmp_path: Path) -> None:
    pytest.importorskip("ecgdatakit", reason="ecgdatakit, which reads these formats, is not installed")
    values, path = heart(), tmp_path / name
    path.write_bytes(FILES[name](values))
    recording = read_ecg(path)
    assert recording.format == extra.NAME and recording.fs == 500
    np.testing.assert_allclose(recording.rows(TWELVE), values / 400, atol=1e-6)
    for personal in ("Erika", "Mustermann", "4711", "1964"):
        assert personal not in repr(recording)


@pytest.mark.parametrize("name", FILES)
def test_without_ecgdatakit_the_cure_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ecgdatakit.parsing", None)
    path = tmp_path / name
    path.write_bytes(FILES[name](heart()))
    assert extra.recognises(path, path.read_bytes()[:4096])
    with pytest.raises(RecordError, match="needs `pip install ecgdatakit`"):
        extra.read(path)


def test_an_entity_bomb_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("ecgdatakit", reason="ecgdatakit, which reads this format, is not installed")
    bomb = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {after} "{f"&{name};" * 10}">' for name, after in zip("abcdefghi", "bcdefghij", strict=True)
    )
    path = tmp_path / "bomb.xml"
    path.write_text(f'<?xml version="1.0"?>{bomb}]><ECG ACQUISITION_TIME="&j;"><CHANNEL/></ECG>')
    with pytest.raises(RecordError, match="entit"):
        extra.read(path)


def test_other_xml_and_text_are_not_claimed(tmp_path: Path) -> None:
    for head in (b"<AnnotatedECG><x/></AnnotatedECG>", b"<RestingECG><CHANNEL/></RestingECG>", b"time,I,II\n0,1,2\n"):
        assert not extra.recognises(tmp_path / "a.xml", head)
        assert not ishne.recognises(tmp_path / "a.xml", head)


@pytest.mark.parametrize("kind", ["ishne", "mfer", "eli"])
def test_mutated_files_are_refused_or_read_but_never_crash(kind: str, tmp_path: Path) -> None:
    if kind != "ishne":
        pytest.importorskip("ecgdatakit", reason="ecgdatakit, which reads this format, is not installed")
    good = {"ishne": holter, "mfer": mfer, "eli": eli}[kind](heart())
    reader = ishne if kind == "ishne" else extra
    path = tmp_path / {"ishne": "a.ecg", "mfer": "a.mwf", "eli": "a.xml"}[kind]
    rng = np.random.default_rng(4711)
    for _ in range(50):
        content = mutated(good, rng)
        path.write_bytes(content)
        begin = time.perf_counter()
        try:
            assert np.isfinite(reader.read(path).fs)
        except RecordError as error:
            assert str(error)
        assert time.perf_counter() - begin < 5
