"""codes/00_get_data.py: download, unpacking, verification; PhysioNet is played by a local server."""

import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ecg import download
from ecg.artifacts import UserError
from ecg.download import fetch_ptbxl, wrong_files
from ecg.get_data import get_data
from ecg.synthetic import write_ptbxl

SCRIPT = Path(__file__).resolve().parents[1] / "00_get_data.py"
TOP = "ptb-xl-a-large-publicly-available-electrocardiography-dataset-1.0.3"
DAMAGED = "records100/00000/00004_lr.dat"
DEAD = {"zip_url": "http://127.0.0.1:9/ptb-xl.zip"}  # nobody listens on port 9


@pytest.fixture(scope="module")
def physionet(tmp_path_factory):
    """Twenty records in PTB-XL's files, without the marks of a synthetic one."""
    folder = tmp_path_factory.mktemp("physionet") / TOP
    write_ptbxl(folder, records=20)
    (folder / "synthetic.json").unlink()
    return folder


def zip_of(folder, path, *, top="", without=(), replace=None):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            name = file.relative_to(folder).as_posix()
            if file.is_file() and name not in without:
                archive.writestr(top + name, (replace or {}).get(name, file.read_bytes()))
    return path


@contextmanager
def server(files, *, break_after=None, ranges=True):
    """Serve {path: bytes}; the first answer breaks off after `break_after` bytes. Yields (url, requests seen)."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers.get("Range")))
            content = files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = int(self.headers["Range"][6:-1]) if ranges and "Range" in self.headers else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : break_after if len(seen) == 1 else None])

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}", seen
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_download_from_a_server_gives_every_file_and_leaves_no_zip(physionet, tmp_path):
    archive = zip_of(physionet, tmp_path / "x.zip", top=f"{TOP}/").read_bytes()
    with server({"/x.zip": archive}) as (url, seen):
        fetch_ptbxl(tmp_path / "data", zip_url=f"{url}/x.zip")
        assert contents(tmp_path / "data") == contents(physionet)
        fetch_ptbxl(tmp_path / "data", zip_url=f"{url}/x.zip")  # complete: no request
    assert len(seen) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_broken_off_download_is_continued_and_never_half_unpacked(physionet, tmp_path, ranges):
    data = tmp_path / "data"
    archive = zip_of(physionet, tmp_path / "x.zip", top=f"{TOP}/").read_bytes()
    with server({"/x.zip": archive}, break_after=100_000, ranges=ranges) as (url, seen):
        with pytest.raises(UserError, match="by hand"):
            fetch_ptbxl(data, zip_url=f"{url}/x.zip")
        assert list(contents(data)) == ["PTB-XL.zip.part"]
        size = (data / "PTB-XL.zip.part").stat().st_size
        assert 0 < size <= 100_000
        fetch_ptbxl(data, zip_url=f"{url}/x.zip")
    assert contents(data) == contents(physionet)
    assert seen[1] == ("/x.zip", f"bytes={size}-")


@pytest.mark.parametrize("top", ["", f"{TOP}/", "PTB-XL/"])
def test_a_zip_in_the_folder_is_unpacked_without_its_top_folder_and_kept(physionet, tmp_path, top):
    zip_of(physionet, tmp_path / "PTB-XL.zip", top=top)
    fetch_ptbxl(tmp_path, **DEAD)
    found = contents(tmp_path)
    assert found.pop("PTB-XL.zip")
    assert found == contents(physionet)


def test_right_files_are_not_touched_and_only_wrong_ones_are_mended(physionet, tmp_path):
    zip_of(physionet, tmp_path / "PTB-XL.zip")
    fetch_ptbxl(tmp_path, **DEAD)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    fetch_ptbxl(tmp_path, verify=True, **DEAD)
    (tmp_path / DAMAGED).write_bytes(b"short")
    fetch_ptbxl(tmp_path, **DEAD)
    assert wrong_files(tmp_path) == []
    now = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert [path for path in times if times[path] != now[path]] == [tmp_path / DAMAGED]
    assert times.keys() == now.keys()


def test_verify_finds_a_changed_bit_that_the_quick_check_cannot_see(physionet, tmp_path):
    zip_of(physionet, tmp_path / "PTB-XL.zip")
    fetch_ptbxl(tmp_path, **DEAD)
    content = bytearray((tmp_path / DAMAGED).read_bytes())
    content[100] ^= 1
    (tmp_path / DAMAGED).write_bytes(content)
    assert wrong_files(tmp_path, full=False) == []
    assert wrong_files(tmp_path, full=True) == [DAMAGED]
    fetch_ptbxl(tmp_path, verify=True, **DEAD)
    assert wrong_files(tmp_path, full=True) == []


def test_missing_files_come_out_of_a_zip_fetched_again_and_the_right_ones_stay(physionet, tmp_path):
    data = tmp_path / "data"
    archive = zip_of(physionet, tmp_path / "x.zip", top=f"{TOP}/").read_bytes()
    with server({"/x.zip": archive}) as (url, seen):
        fetch_ptbxl(data, zip_url=f"{url}/x.zip")
        times = {path: path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file()}
        lost = [data / DAMAGED, data / "records500/00000/00004_hr.hea"]
        for path in lost:
            path.unlink()
        fetch_ptbxl(data, zip_url=f"{url}/x.zip")
    assert len(seen) == 2
    assert contents(data) == contents(physionet)
    now = {path: path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file()}
    assert sorted(path for path in times if times[path] != now[path]) == sorted(lost)


def test_a_zip_with_a_wrong_file_names_it_and_never_looks_complete(physionet, tmp_path):
    zip_of(physionet, tmp_path / "PTB-XL.zip", replace={DAMAGED: bytes(24000)})
    with pytest.raises(UserError, match=r"00004_lr\.dat.*SHA-256"):
        fetch_ptbxl(tmp_path, **DEAD)
    assert not (tmp_path / DAMAGED).exists()
    assert not (tmp_path / "ptbxl_database.csv").exists()
    assert not list(tmp_path.rglob("*.part"))


def test_a_zip_that_lacks_a_file_of_its_list_is_not_called_complete(physionet, tmp_path):
    zip_of(physionet, tmp_path / "PTB-XL.zip", without=(DAMAGED,))
    with pytest.raises(UserError, match=r"00004_lr\.dat is missing"):
        fetch_ptbxl(tmp_path, **DEAD)


def test_a_zip_without_checksums_and_500_hz_is_enough(physionet, tmp_path, capsys):
    fast = [name for name in contents(physionet) if name.startswith("records500")]
    zip_of(physionet, tmp_path / "PTB-XL.zip", without=("SHA256SUMS.txt", *fast))
    fetch_ptbxl(tmp_path, **DEAD)
    fetch_ptbxl(tmp_path, **DEAD)
    assert "20 records at 100 Hz, 0 at 500 Hz" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "..\\evil.txt"])
def test_zip_members_that_point_outside_are_refused(physionet, tmp_path, name):
    data = tmp_path / "data"
    data.mkdir()
    with zipfile.ZipFile(zip_of(physionet, data / "PTB-XL.zip"), "a") as archive:
        archive.writestr(name, "x")
    with pytest.raises(UserError, match="outside"):
        fetch_ptbxl(data, **DEAD)
    assert [path.name for path in data.iterdir()] == ["PTB-XL.zip"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_cut_zip_is_named(physionet, tmp_path):
    archive = zip_of(physionet, tmp_path / "PTB-XL.zip")
    archive.write_bytes(archive.read_bytes()[:50_000])
    with pytest.raises(UserError, match=r"PTB-XL\.zip is not a whole zip"):
        fetch_ptbxl(tmp_path, **DEAD)


def test_a_server_that_answers_with_a_page_is_not_taken_for_the_zip(tmp_path):
    with server({"/x.zip": b"<html>log in</html>"}) as (url, _):
        with pytest.raises(UserError, match="whole zip"):
            fetch_ptbxl(tmp_path, zip_url=f"{url}/x.zip")
        with pytest.raises(UserError, match="by hand"):
            fetch_ptbxl(tmp_path, zip_url=f"{url}/gone.zip")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_before_anything_is_unpacked(physionet, tmp_path, monkeypatch):
    zip_of(physionet, tmp_path / "PTB-XL.zip")
    usage = download.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="GB are needed"):
        fetch_ptbxl(tmp_path, **DEAD)
    assert [path.name for path in tmp_path.iterdir()] == ["PTB-XL.zip"]


def test_ctrl_c_while_unpacking_leaves_whole_files_and_the_next_call_goes_on(physionet, tmp_path, monkeypatch):
    zip_of(physionet, tmp_path / "PTB-XL.zip")
    write, calls = download._write_whole, []

    def stop_after_ten(path, content):
        calls.append(path)
        if len(calls) == 10:
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(download, "_write_whole", stop_after_ten)
        with pytest.raises(KeyboardInterrupt):
            fetch_ptbxl(tmp_path, **DEAD)
    right = contents(physionet)
    assert all(right[name] == content for name, content in contents(tmp_path).items() if name != "PTB-XL.zip")
    fetch_ptbxl(tmp_path, **DEAD)
    assert wrong_files(tmp_path) == []


def test_real_data_are_not_fetched_into_synthetic_ones(tmp_path):
    write_ptbxl(tmp_path, records=20)
    with pytest.raises(UserError, match="synthetic"):
        fetch_ptbxl(tmp_path, **DEAD)


def test_script_writes_a_demo_from_any_folder(tmp_path):
    command = [sys.executable, str(SCRIPT), "--demo", "--records", "20", "--data", "new", "--artifacts", "artifacts"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "20 synthetic records, seed 0, written" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert len(list((tmp_path / "new" / "records500").rglob("*.hea"))) == 20
    assert wrong_files(tmp_path / "new") == []


def test_a_demo_that_is_there_is_left_alone_and_one_of_another_size_replaced(tmp_path, capsys):
    values = {"data": tmp_path, "artifacts": tmp_path / "artifacts", "demo": True, "seed": 0, "verify": False}
    for records, said in ((21, "written"), (21, "already there"), (20, "written")):
        get_data(records=records, **values)
        assert f"{records} synthetic records, seed 0, {said}" in capsys.readouterr().out
    assert len(list((tmp_path / "records500").rglob("*.hea"))) == 20


def test_without_network_the_error_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"cannot fetch .*by hand.*--demo"):
        fetch_ptbxl(tmp_path / "x", **DEAD)


@pytest.mark.parametrize(("flag", "values"), [("--records", {"records": 0}), ("--seed", {"seed": -1})])
def test_settings_of_the_demo_that_mean_nothing_are_refused_by_their_flag(tmp_path, flag, values):
    values = {"demo": True, "records": 20, "seed": 0, "verify": False} | values
    with pytest.raises(UserError, match=rf"{flag} is -?\d, must be at least \d"):
        get_data(data=tmp_path / "x", artifacts=tmp_path, **values)
    assert not (tmp_path / "x").exists()
