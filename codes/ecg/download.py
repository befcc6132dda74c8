"""PTB-XL's files: fetched from PhysioNet or unpacked from a zip, and checked against their SHA-256 sums."""

import errno
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from tqdm import tqdm

from ecg.artifacts import UserError, read_table

PAGE = "https://physionet.org/content/ptb-xl/1.0.3/"
ZIP_URL = (
    "https://physionet.org/static/published-projects/ptb-xl/"
    "ptb-xl-a-large-publicly-available-electrocardiography-dataset-1.0.3.zip"
)
ZIP_NAME = "PTB-XL.zip"
DATABASE = "ptbxl_database.csv"
CHECKSUMS = "SHA256SUMS.txt"
DEMO_MARK = "synthetic.json"
DAT_BYTES = {"records100": 12 * 1000 * 2, "records500": 12 * 5000 * 2}  # 12 leads, 10 s, 16 bit


def demo_settings(folder: Path) -> dict[str, Any] | None:
    """Return the settings of the synthetic PTB-XL in `folder`, or None if it does not hold one."""
    try:
        return json.loads((folder / DEMO_MARK).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except json.JSONDecodeError:  # a damaged mark is still a mark, of a demo that has to be written anew
        return {}


def checksum_lines(digests: dict[str, str]) -> str:
    """Return the text of SHA256SUMS.txt in PhysioNet's form: digest, blank, path."""
    return "".join(f"{digest} {path}\n" for path, digest in sorted(digests.items()))


def parse_checksums(text: str) -> dict[str, str]:
    """Return {path: SHA-256} from the lines of a SHA256SUMS.txt. Raises `UserError` on anything else."""
    digests = {}
    for line in text.splitlines():
        digest, _, path = line.strip().partition(" ")
        path = path.strip().lstrip("*").removeprefix("./")
        if len(digest) != 64 or not path:
            raise UserError(f"{CHECKSUMS}: cannot read line {line!r}: delete the file and run codes/00_get_data.py")
        digests[_inside(path)] = digest.lower()
    return digests


def _inside(path: str) -> str:
    """Return `path` if it stays below the folder it is unpacked into; an archive may try otherwise."""
    parts = PurePosixPath(path).parts
    if path.startswith("/") or "\\" in path or ":" in path or ".." in parts:
        raise UserError(f"file name {path!r} points outside its folder: this is not PhysioNet's PTB-XL")
    return path


def wrong_files(folder: Path, *, full: bool = True) -> list[str]:
    """Return the paths below `folder` that are missing or not what SHA256SUMS.txt says, sorted.

    `full` computes every sum. Otherwise signals are judged by their size, which takes a second for all of PTB-XL.
    Without SHA256SUMS.txt the files are those that ptbxl_database.csv names, judged by size. A folder without
    `records500` is not wrong: only 100 Hz is needed.
    """
    if not (folder / DATABASE).exists():
        return [DATABASE]
    try:
        digests = parse_checksums((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _wrong_sizes(folder, _named_files(folder))
    if not (folder / "records500").exists():
        digests = {path: digest for path, digest in digests.items() if not path.startswith("records500/")}
    signals = [] if full else [path for path in digests if path.startswith("records")]
    wrong = _wrong_sizes(folder, signals)
    rest = sorted(digests.keys() - set(signals))
    for path in tqdm(rest, desc="checking files", disable=None if len(rest) > 5000 else True):
        try:
            right = _sha256((folder / path).read_bytes()) == digests[path]
        except FileNotFoundError:
            right = False
        if not right:
            wrong.append(path)
    return sorted(wrong)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _named_files(folder: Path) -> list[str]:
    database = read_table(folder / DATABASE, made_by="codes/00_get_data.py", columns=("filename_lr", "filename_hr"))
    names = [f"{name}.{end}" for name in database.filename_lr for end in ("dat", "hea")]
    # records500 may hold a part of the records
    names += [f"{name}.dat" for name in database.filename_hr if (folder / f"{name}.dat").exists()]
    return ["scp_statements.csv", *names]


def _wrong_sizes(folder: Path, paths: Iterable[str]) -> list[str]:
    wrong = []
    for path in paths:
        try:
            size = os.stat(f"{folder}/{path}").st_size  # noqa: PTH116 - half the time of Path for 87,000 files
        except FileNotFoundError:
            size = 0
        expected = DAT_BYTES.get(path.split("/", 1)[0]) if path.endswith(".dat") else None
        if size == 0 or expected not in (None, size):
            wrong.append(path)
    return wrong


def fetch_ptbxl(folder: Path, *, verify: bool = False, zip_url: str = ZIP_URL) -> None:
    """Make `folder` hold PTB-XL 1.0.3; files that are right already are not touched.

    What is missing or wrong comes out of a zip that lies in `folder` (PTB-XL.zip or PhysioNet's own, with or
    without a top folder), else out of the one at `zip_url`, which is deleted afterwards. A stopped download is
    continued by the next call; every file appears whole or not at all, and ptbxl_database.csv last. `verify` computes
    the SHA-256 of files already there too.

    Raises `UserError` if `folder` holds synthetic records, if PhysioNet cannot be reached, if a file's sum is not
    the one in SHA256SUMS.txt, or if the disk is too small.
    """
    if demo_settings(folder) is not None:
        raise UserError(f"{folder} holds synthetic records: add --demo, or choose another folder with --data")
    wrong = wrong_files(folder, full=verify)
    if not wrong:
        print(f"{folder}: {_summary(folder, verify=verify)}; nothing to do")
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        given = find_zip(folder)
        archive = given or fetch_zip(zip_url, folder / ZIP_NAME)
        unpack(archive, folder)
        if not given:
            archive.unlink()  # ours, and all that was in it is unpacked and checked
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive} is damaged ({error}): delete it and run codes/00_get_data.py again") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"{folder}: the disk is full; make room and run codes/00_get_data.py again") from None
        raise
    still = wrong_files(folder, full=verify)
    if still:
        raise UserError(
            f"{folder / still[0]} is missing or damaged ({len(still)} files), and {given or zip_url} has no right one: "
            f"put PhysioNet's zip ({PAGE}) into {folder} as {ZIP_NAME} and run codes/00_get_data.py again"
        )
    print(f"{folder}: {_summary(folder, verify=verify)}; {len(wrong)} files were missing or wrong before")


def _summary(folder: Path, *, verify: bool) -> str:
    names = [f"records{rate}" for rate in (100, 500)]
    counts = {name: sum(1 for _ in (folder / name).glob("*/*.dat")) for name in names}
    has_sums = (folder / CHECKSUMS).exists()
    checked = "SHA-256 of every file" if verify and has_sums else "files and sizes"
    note = "" if has_sums else f", there is no {CHECKSUMS}"
    return f"{counts['records100']} records at 100 Hz, {counts['records500']} at 500 Hz ({checked} checked{note})"


def find_zip(folder: Path) -> Path | None:
    """Return the zip in `folder` that holds PTB-XL (PTB-XL.zip first), or None. Damaged ones raise `UserError`."""
    for path in sorted(folder.glob("*.zip"), key=lambda p: (p.name != ZIP_NAME, p.name)):
        try:
            with zipfile.ZipFile(path) as archive:
                if any(PurePosixPath(name).name == DATABASE for name in archive.namelist()):
                    return path
        except zipfile.BadZipFile:
            raise UserError(f"{path} is not a whole zip: delete it and run codes/00_get_data.py again") from None
    return None


def unpack(path: Path, folder: Path) -> None:
    """Unpack what `folder` lacks of the zip at `path`, each file checked against the zip's SHA256SUMS.txt.

    Files are taken from where ptbxl_database.csv is in the zip, or below it; others are left out.
    """
    with zipfile.ZipFile(path) as archive:
        names = [_inside(name) for name in archive.namelist() if not name.endswith("/")]
        databases = [name for name in names if PurePosixPath(name).name == DATABASE]
        if not databases:
            raise UserError(f"{path} does not hold {DATABASE}: it is not PTB-XL")
        top = min(databases, key=len).removesuffix(DATABASE)
        members = {name.removeprefix(top): archive.getinfo(name) for name in names if name.startswith(top)}
        digests = {}
        if CHECKSUMS in members:
            digests = parse_checksums(archive.read(members[CHECKSUMS]).decode("utf-8"))
        wanted = [name for name, info in members.items() if _differs(folder / name, info, digests.get(name))]
        needed = sum(members[name].file_size for name in wanted)
        if needed > shutil.disk_usage(folder).free:
            raise UserError(f"{folder}: {needed / 1e9:.1f} GB are needed to unpack {path.name}, and less is free")
        wanted.sort(key=lambda name: (name == DATABASE, name))  # its presence says that the rest is there
        for name in tqdm(wanted, desc=f"unpacking {path.name}", disable=None):
            content = archive.read(members[name])
            if name in digests and _sha256(content) != digests[name]:
                raise UserError(
                    f"{name} in {path} does not have the SHA-256 that {CHECKSUMS} gives: delete the zip and "
                    "run codes/00_get_data.py again"
                )
            _write_whole(folder / name, content)


def _differs(path: Path, info: zipfile.ZipInfo, digest: str | None) -> bool:
    try:
        if path.stat().st_size != info.file_size:
            return True
        content = path.read_bytes()
    except FileNotFoundError:
        return True
    return _sha256(content) != digest if digest else zipfile.crc32(content) != info.CRC


def _write_whole(path: Path, content: bytes) -> None:
    # like artifacts.atomic but without fsync, which would take minutes for 87,000 files that can be had again
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def fetch_zip(url: str, path: Path) -> Path:
    """Fetch `url` to `path`; what a stopped call left in `path`.part is continued if the server can do that."""
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("ab") as file:
            _download_rest(url, file, path)
    finally:
        if partial.exists() and not partial.stat().st_size:
            partial.unlink()
    if not zipfile.is_zipfile(partial):
        partial.unlink()
        raise UserError(f"{url} did not give a whole zip; run codes/00_get_data.py again")
    partial.replace(path)
    return path


def _download_rest(url: str, file: BinaryIO, path: Path) -> None:
    """Append to `file`, which will become `path`, what it lacks of `url`."""
    import pooch
    import requests

    start = file.tell()

    def check(response: requests.Response, **_: Any) -> None:
        if response.status_code == 200:  # the whole file, not the rest of it
            file.truncate(0)
        size = int(response.headers.get("content-length", 0))
        if response.ok and size > shutil.disk_usage(path.parent).free:
            raise UserError(f"{path.parent}: {size / 1e9:.1f} GB are needed for {path.name}, and less is free")

    print(f"fetching {url}" + (f", from byte {start}" if start else ""))
    bar = tqdm(total=1, desc=path.name, unit="B", unit_scale=True, disable=None)
    headers = {"Range": f"bytes={start}-"} if start else {}
    headers["Accept-Encoding"] = "identity"
    fetch = pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16, headers=headers, hooks={"response": check})
    try:
        fetch(url, file, None)
    except requests.HTTPError as error:
        if error.response.status_code != 416:  # 416: there is no rest, the file is whole
            raise _unreachable(url, error, path.parent) from None
    except requests.RequestException as error:
        raise _unreachable(url, error, path.parent) from None
    finally:
        bar.close()


def _unreachable(url: str, error: Exception, folder: Path) -> UserError:
    return UserError(
        f"cannot fetch {url} ({type(error).__name__}). Run codes/00_get_data.py again to continue, or download the "
        f"zip by hand from {PAGE}, put it into {folder} and run it then. Without data: --demo"
    )
