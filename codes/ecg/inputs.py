"""What a user names on a command line, turned into recordings to read: files, folders, patterns, lists, archives."""

import lzma
import shutil
import zipfile
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from ecg.formats import RecordError, wfdb
from ecg.recordings import find_reader

SIGNAL_SUFFIXES = (".dat", ".mat", ".raw")  # of files that a WFDB header may name
LONGEST_NAME = 255
MOST_FILES = 100_000  # in an archive
MOST_BYTES = 8 * 2**30  # that an archive may unpack to
MOST_RATIO = 200  # unpacked to packed, for members above a megabyte; real ECG files reach about 20


@dataclass(frozen=True)
class Source:
    """A file that may hold a recording; `name` is what the user would call it, in an archive `some.zip/inner.xml`."""

    path: Path
    name: str


def find_sources(words: Iterable[Path], unpacked: Path) -> tuple[list[Source], list[tuple[str, str]]]:
    """Return (files that may hold recordings, each once, sorted by name; what cannot be used, as (name, reason)).

    A word is a file of any known format; a WFDB record without suffix; a folder, of which all files are taken that a
    reader recognises, with those below it; a pattern such as `ecgs/*.xml`; `@list.txt`, a text file with a word per
    line; or a zip archive, which is unpacked into the folder `unpacked`.
    """
    found: dict[Path, Source] = {}
    problems: list[tuple[str, str]] = []
    for word in _spelled_out(words, problems):
        if len(word.name) > LONGEST_NAME:
            problems.append((f"{str(word)[:60]}...", "is too long for the name of a file"))
            continue
        if word.suffix.lower() == ".zip" and word.is_file():
            sources = _in_archive(word, unpacked / str(len(list(unpacked.iterdir()))), problems)
        elif word.is_dir():
            sources = _in_folder(word, word.as_posix())
            if not sources:
                problems.append((word.as_posix(), "no recording of a known format in this folder or below"))
        else:
            record = _record_of(word)
            sources = [_source(record, word.parent.as_posix() if word.parent != Path() else "")]
            if not record.exists():
                problems.append((word.as_posix(), "there is no such file"))
                continue
        for source in sources:
            found.setdefault(source.path.resolve(), source)
    return sorted(found.values(), key=lambda source: source.name), problems


def _spelled_out(words: Iterable[Path], problems: list[tuple[str, str]]) -> list[Path]:
    """Return the words with lists read and patterns replaced by what they match."""
    result = []
    for word in words:
        text = str(word)
        if text.startswith("@"):
            path = Path(text[1:])
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                problems.append((text, f"the list cannot be read ({error})"))
                continue
            own = [Path(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
            result += [each if each.is_absolute() else path.parent / each for each in own]
        elif any(sign in text for sign in "*?[") and not word.exists():
            folder = Path(word.anchor) if word.is_absolute() else Path()
            try:
                matches = sorted(folder.glob(word.relative_to(folder).as_posix()))
            except (ValueError, NotImplementedError) as error:
                problems.append((text, f"is not a pattern ({error})"))
                continue
            result += matches
            if not matches:
                problems.append((text, "no file matches this pattern"))
        else:
            result.append(word)
    return result


def _record_of(path: Path) -> Path:
    """Return the header of a WFDB record that was named by its signal file or without suffix, else the path itself."""
    if path.suffix.lower() in SIGNAL_SUFFIXES or not path.exists():
        for header in (Path(f"{path}.hea"), path.with_suffix(".hea"), Path(f"{path}.HEA"), path.with_suffix(".HEA")):
            if header.is_file():
                return header
    return path


def _in_folder(folder: Path, name: str) -> list[Source]:
    """Return the recordings in a folder and all below it; files that no reader recognises are passed over."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    headers = {path.with_suffix("") for path in files if path.suffix.lower() == ".hea"}
    segments: dict[Path, Collection[str]] = {}  # {folder: headers there that are but parts of records}
    result = []
    for path in files:
        if path.suffix.lower() == ".hea":
            if path.parent not in segments:
                segments[path.parent] = wfdb.parts_of(path.parent)
            if path.name.lower() in segments[path.parent]:
                continue
        is_header = path.suffix.lower() == ".hea"
        belongs_to_header = not is_header and path.with_suffix("") in headers
        if is_header or (not belongs_to_header and _is_recording(path)):
            below = path.relative_to(folder).parent.as_posix()
            result.append(_source(path, name if below == "." else f"{name}/{below}"))
    return result


def _source(path: Path, folder: str) -> Source:
    """Return a file by its name in a folder; a WFDB record goes by its name without `.hea`."""
    name = path.stem if path.suffix.lower() == ".hea" else path.name
    return Source(path, f"{folder.rstrip('/')}/{name}" if folder else name)


def _is_recording(path: Path) -> bool:
    try:
        find_reader(path)
    except (RecordError, OSError):
        return False
    return True


def _in_archive(path: Path, folder: Path, problems: list[tuple[str, str]]) -> list[Source]:
    """Unpack a zip archive into `folder` and return the recordings in it; nothing is written outside of the folder."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            reason = _refusal(members)
            if reason:
                problems.append((path.as_posix(), reason))
                return []
            for member in members:
                target = folder / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, OSError, EOFError, ValueError) as error:
        problems.append((path.as_posix(), f"the archive cannot be unpacked ({error})"))
        return []
    sources = _in_folder(folder, path.as_posix()) if folder.exists() else []
    if not sources:
        problems.append((path.as_posix(), "no recording of a known format in this archive"))
    return sources


def _refusal(members: list[zipfile.ZipInfo]) -> str:
    """Return why an archive is not unpacked; empty if it may be."""
    if len(members) > MOST_FILES:
        return f"holds {len(members)} files, more than {MOST_FILES}"
    if sum(member.file_size for member in members) > MOST_BYTES:
        return f"unpacks to more than {MOST_BYTES / 2**30:.0f} GB"
    for member in members:
        parts = Path(member.filename.replace("\\", "/")).parts
        if not parts or Path(member.filename).is_absolute() or ".." in parts or ":" in parts[0]:
            return f"{member.filename!r} would be unpacked outside of its folder"
        if member.file_size > 2**20 and member.file_size > MOST_RATIO * member.compress_size:
            return (
                f"{member.filename!r} unpacks to {member.file_size / max(1, member.compress_size):.0f} times its size"
            )
    return ""
