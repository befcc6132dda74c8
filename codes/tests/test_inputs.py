"""What is named on a command line: files, folders, patterns, lists and archives, each recording found once."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from ecg.inputs import Source, find_sources
from ecg.leads import LEADS


def csv(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).normal(size=(1250, 12)) / 5
    np.savetxt(path, values, delimiter=",", header=",".join(LEADS), comments="", fmt="%.3f")
    return path


def npy(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.random.default_rng(0).normal(size=(1250, 12)) / 5)
    return path


def names(sources: list[Source], folder: Path) -> list[str]:
    return [Path(source.name).relative_to(folder).as_posix() for source in sources]


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    folder = tmp_path / "unpacked"
    folder.mkdir()
    return folder


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A folder with recordings of three formats, two of them further below, and files that are none."""
    folder = tmp_path / "given"
    csv(folder / "a.csv")
    npy(folder / "deeper" / "b.npy")
    (folder / "deeper" / "c.hea").write_text("c 1 100 250\nc.dat 16 1000/mV 16 0 0 0 0 I\n")
    (folder / "deeper" / "c.dat").write_bytes(bytes(500))
    (folder / "notes.txt").write_text("an exam, nothing else\n")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    return folder


def test_a_folder_gives_its_recordings_and_passes_over_what_is_none(given, unpacked):
    sources, problems = find_sources([given], unpacked)
    assert names(sources, given) == ["a.csv", "deeper/b.npy", "deeper/c"] and not problems


def test_each_recording_is_found_once_however_often_it_is_named(given, unpacked):
    words = [given / "deeper" / "c", given / "deeper" / "c.dat", given / "deeper" / "c.hea", given, given / "a.csv"]
    sources, problems = find_sources(words, unpacked)
    assert len(sources) == 3 and not problems


def test_a_pattern_gives_what_it_matches_and_says_when_that_is_nothing(given, unpacked):
    sources, problems = find_sources([given / "*.csv", given / "*.edf"], unpacked)
    assert names(sources, given) == ["a.csv"]
    assert problems == [(f"{given}/*.edf", "no file matches this pattern")]


def test_a_list_names_files_beside_it(given, unpacked):
    (given / "list.txt").write_text("a.csv\n# not this one: deeper/b.npy\n\ndeeper/c\n")
    sources, problems = find_sources([Path(f"@{given}/list.txt")], unpacked)
    assert names(sources, given) == ["a.csv", "deeper/c"] and not problems
    _, ((name, reason),) = find_sources([Path(f"@{given}/nowhere.txt")], unpacked)
    assert name.endswith("nowhere.txt") and "cannot be read" in reason


def test_a_file_that_is_named_is_always_tried(given, unpacked):
    sources, problems = find_sources([given / "notes.txt", given / "nobody"], unpacked)
    assert names(sources, given) == ["notes.txt"]
    assert problems == [((given / "nobody").as_posix(), "there is no such file")]


def test_an_empty_folder_is_said(tmp_path, unpacked):
    (tmp_path / "empty").mkdir()
    assert find_sources([tmp_path / "empty"], unpacked) == (
        [],
        [((tmp_path / "empty").as_posix(), "no recording of a known format in this folder or below")],
    )


def test_an_archive_is_a_folder(given, tmp_path, unpacked):
    with zipfile.ZipFile(tmp_path / "ecgs.zip", "w") as archive:
        for path in given.rglob("*.*"):
            archive.write(path, path.relative_to(given))
    sources, problems = find_sources([tmp_path / "ecgs.zip"], unpacked)
    assert names(sources, tmp_path) == ["ecgs.zip/a.csv", "ecgs.zip/deeper/b.npy", "ecgs.zip/deeper/c"]
    assert not problems and all(source.path.is_relative_to(unpacked) for source in sources)


@pytest.mark.parametrize("name", ["../outside.csv", "/outside.csv", "a/../../outside.csv", "C:/outside.csv"])
def test_an_archive_that_climbs_out_of_its_folder_is_refused(tmp_path, unpacked, name):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(name, "I,II\n1,2\n")
    sources, ((_, reason),) = find_sources([tmp_path / "evil.zip"], unpacked)
    assert not sources and "outside of its folder" in reason
    assert not list(tmp_path.rglob("outside.csv")) and not Path("/outside.csv").exists()


def test_an_archive_that_swells_is_refused_before_it_is_unpacked(tmp_path, unpacked):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.csv", bytes(20_000_000))
    sources, ((_, reason),) = find_sources([tmp_path / "bomb.zip"], unpacked)
    assert not sources and "times its size" in reason and not list(unpacked.rglob("*.csv"))


def test_a_damaged_archive_is_said(tmp_path, unpacked):
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 and no more")
    sources, ((_, reason),) = find_sources([tmp_path / "cut.zip"], unpacked)
    assert not sources and "cannot be unpacked" in reason
