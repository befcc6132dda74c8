"""HL7 aECG, GE MUSE and Philips Sierra XML: files are made here from the formats' descriptions, other libraries too."""

import base64
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

import numpy as np
import pytest

from benchmarks.damaged_files import mutated
from ecg.formats import RecordError, Traces, aecg, muse, sierra, xml
from ecg.leads import LEADS

READERS = {"aecg": aecg, "muse": muse, "sierra": sierra}
STORED = ("I", "II", *LEADS[6:])  # by MUSE
SOMEBODY = ("Jürgen", "Müller", "4711-0815", "19500102")


# What is written


def ecg(*, fs: int = 500, seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Return twelve leads as counts of 5 uV, (12, t) integers: beats, noise, and limb leads that fit together."""
    t = np.arange(round(fs * seconds)) / fs
    rng = np.random.default_rng(seed)
    beat = np.exp(-(((t % 0.8 - 0.3) / 0.02) ** 2)) + 0.2 * np.exp(-(((t % 0.8 - 0.55) / 0.05) ** 2))
    leads = np.rint(rng.normal(0, 150, (12, 1)) * beat + rng.normal(0, 2, (12, len(t)))).astype(int)
    i, ii = leads[:2]
    limb = np.stack([i, ii, ii - i, -((i + ii) // 2), (i - (ii - i)) // 2, (ii + ii - i) // 2])
    return np.concatenate([limb + rng.integers(-1, 2, limb.shape), leads[6:]])


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


# HL7 aECG, after the implementation guide of 2005


def aecg_sequence(code: str, digits: Iterable[int], *, scale: str = "5", unit: str = "uV", origin: str = "0") -> str:
    return f"""<component><sequence><code code="{code}" codeSystem="2.16.840.1.113883.6.24"/><value xsi:type="SLIST_PQ">
<origin value="{origin}" unit="{unit}"/><scale value="{scale}" unit="{unit}"/>
<digits>{" ".join(map(str, digits))}</digits></value></sequence></component>"""


def aecg_set(
    leads: dict[str, np.ndarray], *, step: str = "0.002", step_unit: str = "s", head: str = "", **scaling: str
) -> str:
    code, kind = ("TIME_ABSOLUTE", "GLIST_TS") if head else ("TIME_RELATIVE", "GLIST_PQ")
    first = f'value="{head}"' if head else f'value="0" unit="{step_unit}"'
    time = f"""<component><sequence><code code="{code}" codeSystem="2.16.840.1.113883.5.4"/><value xsi:type="{kind}">
<head {first}/><increment value="{step}" unit="{step_unit}"/></value></sequence></component>"""
    sequences = [aecg_sequence(f"MDC_ECG_LEAD_{name.upper()}", lead, **scaling) for name, lead in leads.items()]
    return f"<component><sequenceSet>{time}{''.join(sequences)}</sequenceSet></component>"


def aecg_series(sets: str, *, code: str = "RHYTHM") -> str:
    """Return a series with a representative beat derived from it, which is not to be read."""
    beat = aecg_set({name: np.arange(9) for name in LEADS})
    return f"""<component><series><code code="{code}" codeSystem="2.16.840.1.113883.5.4"/>
<author><seriesAuthor><manufacturedSeriesDevice><manufacturerModelName>ELI 250</manufacturerModelName>
</manufacturedSeriesDevice><manufacturerOrganization><name>Mortara</name></manufacturerOrganization></seriesAuthor>
</author>{sets}<derivation><derivedSeries><code code="REPRESENTATIVE_BEAT"/>{beat}</derivedSeries></derivation>
</series></component>"""


def aecg_text(series: str) -> str:
    first, last, number, born = SOMEBODY
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<AnnotatedECG xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" type="Observation">
<id root="61d1a24f-b47e-41aa-ae95-f8ac302f4eeb"/><effectiveTime><center value="20021122091000"/></effectiveTime>
<componentOf><timepointEvent><componentOf><subjectAssignment><subject><trialSubject><id extension="{number}"/>
<subjectDemographicPerson><name>{first} {last}</name><birthTime value="{born}"/></subjectDemographicPerson>
</trialSubject></subject></subjectAssignment></componentOf></timepointEvent></componentOf>{series}</AnnotatedECG>"""


def write_aecg(path: Path, counts: np.ndarray, **how: str) -> Path:
    return write(path, aecg_text(aecg_series(aecg_set(dict(zip(LEADS, counts, strict=True)), **how))))


# GE MUSE, after restecg.dtd


def muse_lead(name: str, counts: np.ndarray, *, per_bit: str = "5", unit: str = "MICROVOLTS") -> str:
    content = counts.astype("<i2").tobytes()
    encoded = base64.encodebytes(content).decode().replace("\n", "\r\n")
    return f"""<LeadData><LeadByteCountTotal>{len(content)}</LeadByteCountTotal><LeadTimeOffset>0</LeadTimeOffset>
<LeadSampleCountTotal>{len(counts)}</LeadSampleCountTotal>
<LeadAmplitudeUnitsPerBit>{per_bit}</LeadAmplitudeUnitsPerBit><LeadAmplitudeUnits>{unit}</LeadAmplitudeUnits>
<LeadHighLimit>32767</LeadHighLimit><LeadLowLimit>-32768</LeadLowLimit><LeadID>{name}</LeadID>
<LeadSampleSize>2</LeadSampleSize><LeadOff>FALSE</LeadOff><LeadDataCRC32>{zlib.crc32(content)}</LeadDataCRC32>
<WaveFormData> {encoded} </WaveFormData></LeadData>"""


def muse_waveform(kind: str, leads: str, *, base: str = "500", exponent: str = "0") -> str:
    return f"""<Waveform><WaveformType>{kind}</WaveformType><NumberofLeads>8</NumberofLeads>
<SampleType>CONTINUOUS_SAMPLES</SampleType><SampleBase>{base}</SampleBase>
<SampleExponent>{exponent}</SampleExponent>{leads}</Waveform>"""


def muse_text(waveforms: str, *, doctype: str = '<!DOCTYPE RestingECG SYSTEM "restecg.dtd">') -> str:
    first, last, number, born = SOMEBODY
    return f"""<?xml version="1.0" encoding="ISO-8859-1"?>
{doctype}
<RestingECG><MuseInfo><MuseVersion>9.0.7.17363</MuseVersion></MuseInfo>
<PatientDemographics><PatientID>{number}</PatientID><DateofBirth>{born}</DateofBirth>
<PatientLastName>{last}</PatientLastName><PatientFirstName>{first}</PatientFirstName></PatientDemographics>
<TestDemographics><DataType>RESTING</DataType><AcquisitionDevice>MAC55</AcquisitionDevice></TestDemographics>
{waveforms}</RestingECG>"""


def write_muse(path: Path, counts: np.ndarray, *, base: str = "500", exponent: str = "0", **how: str) -> Path:
    stored = {name: counts[LEADS.index(name)] for name in STORED}
    median = muse_waveform("Median", "".join(muse_lead(name, lead[:600] // 2) for name, lead in stored.items()))
    leads = "".join(muse_lead(name, lead, **how) for name, lead in stored.items())
    text = muse_text(median + muse_waveform("Rhythm", leads, base=base, exponent=exponent))
    return write(path, text, "iso-8859-1")


# Philips Sierra, after the wiki of sierra-ecg-tools


def lzw(content: bytes) -> bytes:
    """Return LZW codes of 10 bits, the end code behind them, and zeros up to an even number of bytes."""
    table = {bytes([byte]): byte for byte in range(256)}
    codes, string = [], b""
    for byte in content:
        longer = string + bytes([byte])
        if longer not in table:
            codes.append(table[string])
            if len(table) < 1023:
                table[longer] = len(table)
            longer = longer[-1:]
        string = longer
    bits = "".join(f"{code:010b}" for code in [*codes, table[string], 1023])
    bits += "0" * (-len(bits) % 16)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def xli(leads: Iterable[np.ndarray]) -> bytes:
    chunks = []
    for x in leads:
        bends = (
            2 * x[1:-1] - x[:-2] - x[2:]
        )  # the first goes into the header, the others, 64 higher, behind two samples
        words = np.concatenate([x[:2], bends[1:] + 64, [64]]).astype(">i2").tobytes()
        content = lzw(words[::2] + words[1::2])
        chunks.append(struct.pack("<ihh", len(content), 1, bends[0]) + content)
    return b"".join(chunks)


def residuals(counts: np.ndarray) -> np.ndarray:
    i, ii, iii, avr, avl, avf = counts[:6]
    limb = [i, ii, ii - i - iii, -((i + ii) // 2) - avr, (i - iii) // 2 - avl, (ii + iii) // 2 - avf]
    return np.concatenate([limb, counts[6:]])


def sierra_text(
    waveform: bytes | str, counts: np.ndarray, *, version: str, how: str, fs: int = 500, encoding: str = "UTF-8"
) -> str:
    """Return a document of version 1.03, which describes the signal in elements, or 1.04: in attributes too."""
    first, last, number, born = SOMEBODY
    text = waveform if isinstance(waveform, str) else base64.encodebytes(waveform).decode()
    kind = "Plain" if isinstance(waveform, str) else "Base64"
    milliseconds = counts.shape[1] * 1000 // fs
    old = version == "1.03"
    if old:
        attributes = f'compressflag="{how == "XLI"}" compressmethod="XLI" nbitspersample="16"'
    else:
        attributes = f"""compression="{how}" numberofleads="12" leadlabels="{" ".join(LEADS)}"
 samplespersecond="{fs}" resolution="5" signaloffset="0" signalsigned="True" bitspersample="16" """
    return f"""<?xml version="1.0" encoding="{encoding}"?>
<restingecgdata xmlns="http://www3.medical.philips.com" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<documentinfo><documentname>1.xml</documentname><documenttype>{"SierraECG" if old else "PhilipsECG"}</documenttype>
<documentversion>{version}</documentversion></documentinfo>
<dataacquisition date="2008-12-23" time="19:44:46"><machine machineid="4711">PageWriter TC70</machine>
<signalcharacteristics><samplingrate>{fs}</samplingrate>
<{"signalresolution" if old else "resolution"}>5</{"signalresolution" if old else "resolution"}>
<acquisitiontype>STD-12</acquisitiontype><bitspersample>16</bitspersample><signaloffset>0</signaloffset>
<signalsigned>True</signalsigned><numberchannelsallocated>12</numberchannelsallocated>
<numberchannelsvalid>12</numberchannelsvalid></signalcharacteristics></dataacquisition>
<patient><generalpatientdata><patientid>{number}</patientid><name><lastname>{last}</lastname>
<firstname>{first}</firstname></name><age><dateofbirth>{born}</dateofbirth></age></generalpatientdata></patient>
<waveforms><parsedwaveforms {attributes} dataencoding="{kind}" durationperchannel="{milliseconds}">
{text}</parsedwaveforms></waveforms></restingecgdata>"""


def write_sierra(
    path: Path, counts: np.ndarray, *, version: str = "1.04", how: str = "XLI", encoding: str = "utf-8", fs: int = 500
) -> Path:
    waveform = xli(residuals(counts)) if how == "XLI" else counts.astype("<i2").tobytes()
    if how == "Plain":
        waveform, how = " ".join(map(str, counts.ravel())), "Uncompressed"
    declared = "UTF-16" if encoding.startswith("utf-16") else "UTF-8"
    text = sierra_text(waveform, counts, version=version, how=how, fs=fs, encoding=declared)
    if encoding in ("utf-16-le", "utf-16-be"):
        text = "\ufeff" + text
    return write(path, text, encoding)


WRITERS = {"aecg": write_aecg, "muse": write_muse, "sierra": write_sierra}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ecg.xml"


def refused(reader, path: Path, text: str, words: str) -> None:
    path.write_bytes(text.encode("utf-8"))
    with pytest.raises(RecordError, match=words):
        reader.read(path)


def changed(path: Path, before: str, after: str, count: int = -1) -> str:
    text = path.read_text("utf-8")
    assert before in text
    return text.replace(before, after, count)


# All three


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("fs", [100, 250, 500, 1000])
def test_a_file_reads_as_it_was_written(name: str, fs: int, path: Path):
    counts = ecg(fs=fs)
    how = {"aecg": {"step": str(1 / fs)}, "muse": {"base": str(fs)}, "sierra": {"fs": fs}}[name]
    traces = READERS[name].read(WRITERS[name](path, counts, **how))
    names = {"aecg": tuple(f"MDC_ECG_LEAD_{lead.upper()}" for lead in LEADS), "muse": STORED, "sierra": LEADS}[name]
    rows = [LEADS.index(lead) for lead in STORED] if name == "muse" else list(range(12))
    assert traces.fs == pytest.approx(fs)
    assert traces.names == names
    assert set(traces.units) == {"uV"}
    np.testing.assert_allclose(traces.signal, 5.0 * counts[rows])
    assert traces.notes == ()
    assert traces.device == {"aecg": "Mortara ELI 250", "muse": "GE MAC55", "sierra": "Philips PageWriter TC70"}[name]


@pytest.mark.parametrize("name", READERS)
def test_ecgdatakit_reads_what_is_written_here_as_we_do(name: str, path: Path):
    kit = pytest.importorskip("ecgdatakit", reason="the second opinion, ecgdatakit, is not installed")
    traces = READERS[name].read(WRITERS[name](path, ecg()))
    leads = kit.FileParser.parse(path).leads
    assert [lead.label.upper() for lead in leads] == [re.sub("MDC_ECG_LEAD_", "", one).upper() for one in traces.names]
    for lead, values in zip(leads, traces.signal, strict=True):
        assert (lead.units, lead.sampling_rate) == ("mV", traces.fs)
        np.testing.assert_allclose(lead.samples, values / 1000, atol=1e-9)


@pytest.mark.parametrize("version", ["1.03", "1.04", "1.04.01", "1.04.02"])
def test_sierraecg_reads_what_is_written_here_as_we_do(version: str, path: Path):
    library = pytest.importorskip("sierraecg", reason="the second opinion, sierraecg, is not installed")
    traces = sierra.read(write_sierra(path, ecg(seed=4), version=version))
    leads = library.read_file(str(path)).leads
    assert tuple(lead.label for lead in leads) == traces.names
    np.testing.assert_array_equal(5 * np.stack([lead.samples for lead in leads]).astype(float), traces.signal)


@pytest.mark.parametrize("name", READERS)
def test_each_recognises_its_own_files_by_their_content(name: str, path: Path):
    head = WRITERS[name](path, ecg()).read_bytes()[:4096]
    assert [other for other, reader in READERS.items() if reader.recognises(Path("x.bin"), head)] == [name]


@pytest.mark.parametrize("head", [b"", b"<html><RestingECG/></html>", b"# AnnotatedECG", b"\xff\xfe\x00", b"<?xml"])
def test_other_files_are_not_recognised(head: bytes):
    assert not any(reader.recognises(Path("x.xml"), head) for reader in READERS.values())


@pytest.mark.parametrize("name", READERS)
def test_nothing_about_the_person_is_kept(name: str, path: Path):
    kept = repr(READERS[name].read(WRITERS[name](path, ecg())))
    assert not [word for word in (*SOMEBODY, "4711", "2002", "2008") if word in kept]


@pytest.mark.parametrize("name", READERS)
def test_a_file_in_utf_16_is_recognised_and_read(name: str, path: Path):
    text = WRITERS[name](path, ecg()).read_text("iso-8859-1" if name == "muse" else "utf-8")
    before = READERS[name].read(path)
    for encoding, mark in (("utf-16-le", "\ufeff"), ("utf-16-be", "\ufeff"), ("utf-16-le", ""), ("utf-16-be", "")):
        for declaration in ("UTF-16", "UTF-8", "ISO-8859-1"):
            document = mark + re.sub('encoding="[^"]*"', f'encoding="{declaration}"', text, count=1)
            write(path, document, encoding)
            assert READERS[name].recognises(path, path.read_bytes()[:4096]), (encoding, mark, declaration)
            np.testing.assert_array_equal(READERS[name].read(path).signal, before.signal)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("declared", ["UTF-16", "UTF-8", "US-ASCII", "unheard-of", "Shift_JIS"])
def test_a_wrongly_declared_encoding_does_not_matter(name: str, declared: str, path: Path):
    text = WRITERS[name](path, ecg()).read_text("iso-8859-1" if name == "muse" else "utf-8")
    before = READERS[name].read(path)
    for encoding in ("utf-8", "iso-8859-1"):
        write(path, re.sub('encoding="[^"]*"', f'encoding="{declared}"', text, count=1), encoding)
        assert READERS[name].recognises(path, path.read_bytes()[:4096])
        np.testing.assert_array_equal(READERS[name].read(path).signal, before.signal)


@pytest.mark.parametrize("name", READERS)
def test_a_missing_or_empty_file_is_refused(name: str, path: Path):
    with pytest.raises(RecordError, match="cannot be read"):
        READERS[name].read(path)
    refused(READERS[name], path, "", "not whole XML")
    refused(READERS[name], path, "<html/>", f"first element is html, {READERS[name].NAME} begins with")


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_refused_and_nothing_else_happens(name: str, path: Path):
    good = WRITERS[name](path, ecg(seconds=1.0)).read_bytes()
    rng = np.random.default_rng(7)
    n_refused = 0
    for _ in range(50):
        path.write_bytes(mutated(good, rng))
        begin = time.process_time()
        try:
            assert isinstance(READERS[name].read(path), Traces)
        except RecordError:
            n_refused += 1
        assert time.process_time() - begin < 5
    assert n_refused > 20


# Files meant to do harm

ROOTS = {"aecg": "AnnotatedECG", "muse": "RestingECG", "sierra": "restingecgdata"}


def billion_laughs(root: str) -> str:
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    return f'<!DOCTYPE {root} [<!ENTITY l0 "ha">{laughs}]><{root} a="&l9;">&l9;</{root}>'


def many_attributes(root: str) -> str:
    attributes = " ".join(f'a{i}=">"' for i in range(100_000))
    return f"<{root} {attributes}/>"


HARMFUL: dict[str, tuple[Callable[[str], str], str]] = {
    "entities": (billion_laughs, "DOCTYPE defines entities"),
    "one entity": (lambda root: f'<!DOCTYPE {root} [<!ENTITY a "b">]><{root}>&a;</{root}>', "DOCTYPE defines entities"),
    "a file": (
        lambda r: f'<!DOCTYPE {r} [<!ENTITY a SYSTEM "/etc/passwd">]><{r}>&a;</{r}>',
        "DOCTYPE defines entities",
    ),
    "parameters": (
        lambda r: f'<!DOCTYPE {r} [<!ENTITY % a SYSTEM "http://x/a">%a;]><{r}/>',
        "DOCTYPE defines entities",
    ),
    "undefined": (lambda root: f'<!DOCTYPE {root} SYSTEM "a.dtd"><{root}>&a;</{root}>', "not whole XML"),
    "depth": (lambda root: f"<{root}>{'<a>' * 1_000_000}", "nested deeper"),
    "breadth": (lambda root: f"<{root}>{'<a/>' * 300_000}</{root}>", "too many"),
    "attributes": (many_attributes, "a tag or comment"),
    "defaults": (
        lambda root: f"<!DOCTYPE {root} [<!ATTLIST a b CDATA '{'c' * 10_000}'>]><{root}>{'<a/>' * 99_999}",
        "DOCTYPE",
    ),
    "definitions": (lambda root: f"<!DOCTYPE {root} [<!ELEMENT a {'(' * 3_000_000}>]><{root}/>", "DOCTYPE"),
    "comments": (lambda root: f"<{root}>{'<!---->' * 300_000}", "not whole XML"),
    "size": (lambda root: f"<{root}>{'A' * 34_000_000}</{root}>", "more than 32 MB"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("harm", HARMFUL)
def test_harmful_files_are_refused_at_once(name: str, harm: str, path: Path):
    make, words = HARMFUL[harm]
    text = make(ROOTS[name])
    begin = time.process_time()
    READERS[name].recognises(path, text[:4096].encode())
    refused(READERS[name], path, text, words)
    assert time.process_time() - begin < 5


def test_a_document_type_is_never_fetched(path: Path, tmp_path: Path):
    (tmp_path / "restecg.dtd").write_text("<!ENTITY name 'fetched'>")
    address = f'"{(tmp_path / "restecg.dtd").as_uri()}"'
    for place in ('"restecg.dtd"', address, '"http://127.0.0.1:9/restecg.dtd"'):
        waveforms = muse_waveform("Rhythm", muse_lead("I", ecg()[0]))
        muse.read(write(path, muse_text(waveforms, doctype=f"<!DOCTYPE RestingECG SYSTEM {place}>"), "iso-8859-1"))
    text = muse_text("<a>&name;</a>", doctype=f"<!DOCTYPE RestingECG SYSTEM {address}>")
    refused(muse, path, text, "not whole XML")


# aECG


@pytest.mark.parametrize(("step", "unit"), [("0.002", "s"), ("2", "ms"), ("2000", "us"), ("2000", "µs"), ("2e-3", "s")])
def test_aecg_knows_the_units_of_time(step: str, unit: str, path: Path):
    assert aecg.read(write_aecg(path, ecg(), step=step, step_unit=unit)).fs == pytest.approx(500)
    assert aecg.read(write_aecg(path, ecg(), step=step, step_unit=unit, head="20021122091000.000-0500")).fs == 500


def test_aecg_values_are_origin_plus_scale_times_digit(path: Path):
    counts = ecg()
    traces = aecg.read(write_aecg(path, counts, scale="0.005", unit="mV", origin="-0.1"))
    assert set(traces.units) == {"mV"}
    np.testing.assert_allclose(traces.signal, 0.005 * counts - 0.1)
    text = changed(path, '<origin value="-0.1" unit="mV"/>', '<origin value="-100" unit="uV"/>')
    np.testing.assert_allclose(aecg.read(write(path, text)).signal, traces.signal)
    refused(aecg, path, text.replace('unit="uV"', 'unit="mmHg"'), "origin of lead MDC_ECG_LEAD_I is in 'mmHg'")


def test_an_aecg_lead_without_scale_has_no_unit(path: Path):
    write_aecg(path, ecg())
    traces = aecg.read(write(path, re.sub("<scale[^>]*>", "", path.read_text())))
    assert set(traces.units) == {""}
    np.testing.assert_array_equal(traces.signal, ecg())


def test_aecg_leads_recorded_three_at_a_time_are_put_on_one_axis(path: Path):
    counts = ecg(seconds=2)
    heads = ("20021231235959.500", "20030101000000.000", "20030101000000.500", "20030101000001")
    parts = [{LEADS[i]: counts[i, 250 * k : 250 * (k + 1)] for i in range(3 * k, 3 * k + 3)} for k in range(4)]
    sets = "".join(aecg_set(part, head=head) for part, head in zip(parts, heads, strict=True))
    traces = aecg.read(write(path, aecg_text(aecg_series(sets))))
    assert traces.signal.shape == (12, 1000)
    for i in range(12):
        recorded = slice(250 * (i // 3), 250 * (i // 3 + 1))
        np.testing.assert_allclose(traces.signal[i, recorded], 5.0 * counts[i, recorded])
        assert np.isnan(traces.signal[i]).sum() == 750
    assert traces.notes == ("leads recorded one after another, in 4 parts",)
    refused(aecg, path, changed(path, heads[3], "20930101000001"), "s apart: are their starting times right")
    refused(aecg, path, aecg_text(aecg_series(sets.replace(heads[3], "soon"))), "starting times are not stated")
    refused(aecg, path, aecg_text(aecg_series(sets.replace("0.002", "0.004", 1))), "different rates: 250 Hz, 500 Hz")
    refused(aecg, path, aecg_text(aecg_series(sets + aecg_set(parts[0], head=heads[0]))), "twice for the same time")


def test_a_lead_of_aecg_goes_on_in_the_next_set(path: Path):
    counts = ecg()
    halves = (dict(zip(LEADS, half, strict=True)) for half in (counts[:, :500], counts[:, 500:]))
    sets = "".join(aecg_set(half, head=f"2002112209100{second}") for second, half in enumerate(halves))
    np.testing.assert_allclose(aecg.read(write(path, aecg_text(aecg_series(sets)))).signal, 5.0 * counts)


def test_the_first_of_several_recordings_in_an_aecg_is_read(path: Path):
    series = [aecg_series(aecg_set(dict(zip(LEADS, ecg(seed=seed), strict=True)))) for seed in (1, 2)]
    beat = aecg_series(aecg_set({"I": ecg()[0]}), code="REPRESENTATIVE_BEAT")
    traces = aecg.read(write(path, aecg_text(beat + series[0] + series[1])))
    np.testing.assert_allclose(traces.signal, 5.0 * ecg(seed=1))
    assert traces.notes == ("the first of its 2 recordings is read",)
    refused(aecg, path, aecg_text(beat), "representative beat only")


def test_an_aecg_without_waveforms_is_refused_by_name(path: Path):
    refused(aecg, path, "<AnnotatedECG/>", "HL7 aECG without a series")
    refused(aecg, path, aecg_text(aecg_series("")), "series has no lead")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('<increment value="0.002" unit="s"/>', "", "no increment"),
        (
            '<increment value="0.002" unit="s"/>',
            '<increment value="0.002" unit="h"/>',
            "increment of time is 0.002 'h'",
        ),
        ('<increment value="0.002"', '<increment value="-0.002"', "increment of time"),
        ('<increment value="0.002"', '<increment value="nan"', "increment of time is 'nan', expected a number"),
        ('<increment value="0.002"', "<increment", "increment of time is missing"),
        ('<scale value="5"', '<scale value="five"', "scale of lead MDC_ECG_LEAD_I is 'five', expected a number"),
        ("<digits>", "<digits>x ", "lead MDC_ECG_LEAD_I holds something that is no number"),
        ("<digits>", "<digits>1 ", "1000 to 1001 samples"),
        ("<digits>", "<digits/><digits>", "lead MDC_ECG_LEAD_I has no digits"),
        ("MDC_ECG_LEAD_III", "MDC_ECG_LEAD_II", "MDC_ECG_LEAD_II appears twice"),
    ],
)
def test_a_damaged_aecg_is_refused_with_the_field(before: str, after: str, words: str, path: Path):
    write_aecg(path, ecg())
    refused(aecg, path, changed(path, before, after, 1), words)


def test_an_aecg_without_time_has_no_rate(path: Path):
    write_aecg(path, ecg())
    text = re.sub(
        '<component><sequence><code code="TIME_.*?</component>', "", path.read_text(), count=1, flags=re.DOTALL
    )
    assert aecg.read(write(path, text)).fs == 0


def test_long_lists_of_digits_are_split_between_numbers():
    expected = np.arange(200_000)
    np.testing.assert_array_equal(xml.numbers("\n".join(map(str, expected)), "digits"), expected)
    assert len(xml.numbers(" \n\t ", "digits")) == 0


# MUSE


@pytest.mark.parametrize(("per_bit", "words", "unit"), [("4.88", "MICROVOLTS", "uV"), ("0.001", "MILLIVOLTS", "mV")])
def test_muse_says_its_unit_in_words(per_bit: str, words: str, unit: str, path: Path):
    counts = ecg()
    traces = muse.read(write_muse(path, counts, per_bit=per_bit, unit=words))
    assert set(traces.units) == {unit}
    np.testing.assert_allclose(traces.signal[0], float(per_bit) * counts[0])


def test_the_rate_of_muse_has_an_exponent(path: Path):
    assert muse.read(write_muse(path, ecg(), base="5", exponent="2")).fs == 500
    assert muse.read(write_muse(path, ecg(), base="2500", exponent="-1")).fs == 250


def test_a_muse_file_is_read_in_any_order_of_its_waveforms(path: Path):
    rhythm = muse_waveform("Rhythm", muse_lead("II", ecg()[1]))
    median = muse_waveform("Median", muse_lead("II", ecg()[2]))
    for waveforms in (rhythm + median, median + rhythm, rhythm.replace("Rhythm", "RHYTHM")):
        traces = muse.read(write(path, muse_text(waveforms), "iso-8859-1"))
        np.testing.assert_allclose(traces.signal, 5.0 * ecg()[[1]])
    refused(muse, path, muse_text(median), "without a Waveform of WaveformType Rhythm: it has only Median")
    refused(muse, path, muse_text(""), "it has none")
    refused(muse, path, muse_text(muse_waveform("Rhythm", "")), "has no LeadData")


def test_a_waveform_of_muse_without_a_type_is_read_with_a_note(path: Path):
    rhythm = muse_waveform("", muse_lead("II", ecg()[1]))
    assert muse.read(write(path, muse_text(rhythm))).notes == ("its waveform has no type, read as the rhythm",)
    rhythm = muse_waveform("Rhythm", muse_lead("II", ecg()[1]))
    assert muse.read(write(path, muse_text(rhythm * 2))).notes == ("the first of its 2 rhythm waveforms is read",)


def test_a_muse_lead_without_a_scale_has_no_unit(path: Path):
    lead = re.sub("<LeadAmplitudeUnitsPerBit>.*?>", "", muse_lead("I", ecg()[0]))
    lead = lead.replace("5</LeadAmplitudeUnitsPerBit>", "")
    traces = muse.read(write(path, muse_text(muse_waveform("Rhythm", lead))))
    assert traces.units == ("",)
    np.testing.assert_array_equal(traces.signal, ecg()[:1])


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("<LeadByteCountTotal>2000", "<LeadByteCountTotal>2002", "LeadByteCountTotal of lead I is 2002, it has 2000"),
        ("<LeadSampleCountTotal>1000", "<LeadSampleCountTotal>1001", "LeadSampleCountTotal of lead I is 1001, it has"),
        ("<LeadSampleSize>2", "<LeadSampleSize>4", "samples of 4 bytes"),
        ("<LeadDataCRC32>", "<LeadDataCRC32>9", "LeadDataCRC32 of lead I disagrees"),
        ("<WaveFormData> ", "<WaveFormData>!", "WaveFormData of lead I is damaged, it is not base64"),
        ("<WaveFormData> ", "<WaveFormData/><WaveFormData>", "lead I has 0 bytes"),
        ("<LeadAmplitudeUnitsPerBit>5", "<LeadAmplitudeUnitsPerBit>e", "expected a number"),
        ("<SampleBase>500", "<SampleBase>0", "no sampling rate"),
        ("<SampleBase>500", "<SampleBase>", "SampleBase is missing"),
        ("<SampleExponent>0", "<SampleExponent>300", "no sampling rate"),
    ],
)
def test_a_damaged_muse_file_is_refused_with_the_field(before: str, after: str, words: str, path: Path):
    text = muse_text(muse_waveform("Rhythm", muse_lead("I", ecg()[0])))
    assert before in text
    refused(muse, path, text.replace(before, after), words)


def test_a_checksum_of_zero_in_a_muse_file_was_not_computed(path: Path):
    lead = re.sub("<LeadDataCRC32>[0-9]*", "<LeadDataCRC32>0", muse_lead("I", ecg()[0]))
    np.testing.assert_allclose(muse.read(write(path, muse_text(muse_waveform("Rhythm", lead)))).signal, 5.0 * ecg()[:1])


def test_muse_leads_of_different_lengths_are_refused(path: Path):
    leads = muse_lead("I", ecg()[0]) + muse_lead("II", ecg()[1][:-1])
    refused(muse, path, muse_text(muse_waveform("Rhythm", leads)), "differ in their number of samples: I 1000, II 999")


# Sierra


@pytest.mark.parametrize("version", ["1.03", "1.04", "1.04.01", "1.04.02"])
@pytest.mark.parametrize("how", ["XLI", "Uncompressed", "Plain"])
def test_sierra_files_of_all_versions_read_the_same(version: str, how: str, path: Path):
    traces = sierra.read(write_sierra(path, ecg(), version=version, how=how))
    assert (traces.fs, traces.names, set(traces.units)) == (500, LEADS, {"uV"})
    np.testing.assert_array_equal(traces.signal, 5 * ecg())


def test_sierra_restores_limb_leads_that_fit_and_that_do_not(path: Path):
    counts = np.random.default_rng(0).integers(-2000, 2001, (12, 500))  # unlike any heart, odd and negative sums too
    np.testing.assert_array_equal(sierra.read(write_sierra(path, counts)).signal, 5 * counts)


def test_sierra_reads_signals_that_fill_the_table_of_lzw_and_that_compress_well(path: Path):
    counts = ecg(seconds=12, seed=3)
    counts[0] = 0
    counts[7] = 1000
    counts[8] = np.arange(counts.shape[1]) % 7
    counts[9] *= 20
    np.testing.assert_array_equal(sierra.read(write_sierra(path, counts)).signal, 5 * counts)


def test_a_sierra_lead_may_be_longer_than_stated_but_not_shorter(path: Path):
    write_sierra(path, ecg())
    text = changed(path, 'durationperchannel="2000"', 'durationperchannel="1600"')
    np.testing.assert_array_equal(sierra.read(write(path, text)).signal, 5 * ecg()[:, :800])
    refused(sierra, path, text.replace('"1600"', '"2002"'), "lead I has 1000 samples, 1001 are stated")


def test_sierra_without_resolution_has_no_unit(path: Path):
    write_sierra(path, ecg())
    text = re.sub(' resolution="5"|<resolution>5</resolution>', "", path.read_text())
    traces = sierra.read(write(path, text))
    assert set(traces.units) == {""}
    np.testing.assert_array_equal(traces.signal, ecg())


def test_sierra_subtracts_the_offset_and_knows_unsigned_samples(path: Path):
    write_sierra(path, ecg() + 30_000, how="Uncompressed")
    text = path.read_text().replace('signaloffset="0"', 'signaloffset="30000"').replace('ned="True"', 'ned="False"')
    np.testing.assert_array_equal(sierra.read(write(path, text)).signal, 5 * ecg())


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (">1.04<", ">2.00<", "'PhilipsECG 2.00', known are SierraECG 1.03 and 1.04"),
        (">PhilipsECG<", ">Holter<", "'Holter 1.04'"),
        ('compression="XLI"', 'compression="ZIP"', "compression 'ZIP', which is not known"),
        ('dataencoding="Base64"', 'dataencoding="Hex"', "dataencoding 'Hex'"),
        ('dataencoding="Base64"', 'dataencoding="Plain"', "no number"),
        ('numberofleads="12"', 'numberofleads="13"', "13 leads are stated, 12 are named"),
        ('numberofleads="12"', 'numberofleads="1e9"', "1e[+]09 leads are stated, expected 1 to 18"),
        ('samplespersecond="500"', 'samplespersecond="1e9"', "at 1e[+]09 Hz are stated"),
        ('samplespersecond="500"', 'samplespersecond="-1"', "at -1 Hz are stated"),
        ('durationperchannel="2000"', 'durationperchannel="0"', "0 s at 500 Hz are stated, expected 1 to"),
        ('durationperchannel="2000"', "", "durationperchannel is missing"),
        ('bitspersample="16"', 'bitspersample="24"', "samples of 24 bits"),
        ("parsedwaveforms", "otherwaveforms", "without parsedwaveforms"),
        ('="2000">', '="2000">!', "parsedwaveforms is damaged, it is not base64"),
    ],
)
def test_a_damaged_sierra_file_is_refused_with_the_field(before: str, after: str, words: str, path: Path):
    write_sierra(path, ecg())
    refused(sierra, path, changed(path, before, after), words)


def test_uncompressed_sierra_samples_have_to_be_as_many_as_stated(path: Path):
    write_sierra(path, ecg(), how="Uncompressed")
    text = changed(path, 'durationperchannel="2000"', 'durationperchannel="2002"')
    refused(sierra, path, text, "holds 12000 samples, 12 x 1001 are stated")


def test_compressed_samples_that_grow_without_bound_are_refused(path: Path):
    write_sierra(path, ecg())
    many = [0, *range(256, 1023), *[1022] * 100_000]  # every code repeats the longest string so far
    bits = np.array(many)[:, None] >> np.arange(10)[::-1] & 1
    content = np.packbits(bits.astype(np.uint8).ravel()).tobytes()
    chunk = base64.b64encode(struct.pack("<ihh", len(content), 1, 0) + content).decode()
    text = re.sub('="2000">.*?</parsed', f'="2000">{chunk}</parsed', path.read_text(), flags=re.DOTALL)
    begin = time.process_time()
    refused(sierra, path, text, "far more than it states")
    assert time.process_time() - begin < 5


def test_an_undefined_code_of_lzw_is_refused():
    with pytest.raises(RecordError, match="never defined"):
        sierra._lzw(bytes([0b00000000, 0b01_111110, 0b0000_0000]), 100)


def test_a_person_with_an_ampersand_in_the_name_is_no_trouble(path: Path):
    write_sierra(path, ecg())
    text = changed(path, SOMEBODY[1], escape("Müller & <Söhne>"))
    np.testing.assert_array_equal(sierra.read(write(path, text)).signal, 5 * ecg())
