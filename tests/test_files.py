"""Folders are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import hushlm.files.places as places
from hushlm.files import (
    check_replaceable,
    current_folder,
    new_folder,
    one_writer,
    verify_manifest,
    what_to_do,
    write_atomic,
    write_manifest,
)


def write_version(folder: Path, version: int) -> None:
    with new_folder(folder, replace=True) as temporary:
        for name in ("a.txt", "state/b.txt"):
            write_atomic(temporary / name, f"version {version}\n" * 50)


def version_of(folder: Path) -> int:
    """Verified, and of one version throughout."""
    folder = current_folder(folder)
    verify_manifest(folder)
    words = {(folder / name).read_text() for name in ("a.txt", "state/b.txt")}
    assert len(words) == 1
    return int(words.pop().split()[1])


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_atomic(path, "one")
    write_atomic(path, b"\xfftwo")
    assert path.read_bytes() == b"\xfftwo"
    assert list(path.parent.iterdir()) == [path]


def test_write_atomic_that_fails_keeps_the_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_clears_what_a_killed_writer_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")
    script = "import os, signal, sys, pathlib\nfrom hushlm.files import write_atomic\n"
    script += "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\nwrite_atomic(pathlib.Path(sys.argv[1]), 'new')"
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    others = tmp_path / f".file.{os.getppid()}.tmp"  # a writer at work
    others.write_text("")
    write_atomic(path, "new")
    assert path.read_text() == "new"
    assert set(tmp_path.iterdir()) == {path, others}


def test_manifest_round_trip(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"123")
    write_atomic(tmp_path / "inner" / "b", b"")
    manifest = write_manifest(tmp_path)
    assert verify_manifest(tmp_path) == manifest
    assert list(manifest["files"]) == ["a", "inner/b"]
    assert manifest["files"]["a"] == {"sha256": "a665a45920422f9d417e4867efdc4fb8a04a1f3fff1fa07e998e86f7f7a27ae3", "bytes": 3}


def flip(folder: Path) -> None:
    data = bytearray((folder / "a.txt").read_bytes())
    data[7] ^= 1
    (folder / "a.txt").write_bytes(data)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda f: os.truncate(f / "a.txt", 10), "damaged"),
    "flipped bit": (flip, "damaged"),
    "removed": (lambda f: (f / "state/b.txt").unlink(), "state/b.txt is missing"),
    "added": (lambda f: (f / "state/extra").write_text("x"), "state/extra"),
    "renamed": (lambda f: (f / "a.txt").rename(f / "c.txt"), "a.txt is missing"),
    "link": (lambda f: (f / "link").symlink_to(f / "a.txt"), "not a plain file"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "no manifest.json"),
    "torn manifest": (lambda f: os.truncate(f / "manifest.json", 40), "damaged"),
    "foreign manifest": (lambda f: (f / "manifest.json").write_text("[1, 2]"), "damaged"),
    "manifest of another shape": (lambda f: (f / "manifest.json").write_text('{"format": 1, "files": {"a.txt": 3}}'), "damaged"),
    "newer manifest": (lambda f: (f / "manifest.json").write_text('{"format": 2, "files": {}}'), "format 2"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_refused_with_one_sentence(tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "folder"
    write_version(folder, 1)
    assert version_of(folder) == 1
    inject, words = FAULTS[fault]
    inject(folder)
    with pytest.raises(ValueError, match=words) as caught:
        verify_manifest(folder)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder"):
        verify_manifest(tmp_path / "nowhere")


def test_relative_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_version(tmp_path / "folder", 1)
    monkeypatch.chdir(tmp_path / "folder")
    assert version_of(Path()) == 1
    monkeypatch.chdir(tmp_path)
    write_version(Path("folder"), 2)
    assert version_of(Path("folder")) == 2


def test_foreign_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file"):
        with pytest.raises(ValueError, match="choose another"):
            check_replaceable(tmp_path / name)
        with pytest.raises(ValueError, match="choose another"):
            write_version(tmp_path / name, 1)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_empty_and_own_folders_are_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write_version(folder, 1)
    write_version(folder, 2)
    assert version_of(folder) == 2
    assert list(tmp_path.iterdir()) == [folder]


def test_error_while_building_keeps_the_old(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_version(folder, 1)

    def build_half() -> None:
        with new_folder(folder, replace=True) as temporary:
            write_atomic(temporary / "a.txt", "half")
            raise KeyError

    with pytest.raises(KeyError):
        build_half()
    assert version_of(folder) == 1
    assert list(tmp_path.iterdir()) == [folder]


def test_without_replace_the_first_stays(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with new_folder(folder, replace=False) as temporary:
        write_atomic(temporary / "a", "second, but late")
        with_other_process = tmp_path / "made by another process"
        write_version(with_other_process, 1)
        with_other_process.rename(folder)
    assert version_of(folder) == 1
    assert list(tmp_path.iterdir()) == [folder]


CRASH = """
import os, signal, sys
from pathlib import Path
from hushlm.files import new_folder, write_atomic
folder, last = Path(sys.argv[1]), int(sys.argv[2])
events = 0
def hook(event, _):
    global events
    if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"):
        events += 1
        if events == last:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
with new_folder(folder, replace=True) as temporary:
    for name in ("a.txt", "state/b.txt"):
        write_atomic(temporary / name, "version 2\\n" * 50)
"""


@pytest.mark.slow
def test_kill_before_every_file_operation(tmp_path: Path) -> None:
    """Before each open, rename, unlink, rmdir and mkdir of a save in turn: the old or the new folder, always whole, and new at the end."""
    seen = []
    for last in range(1, 200):
        folder = tmp_path / str(last) / "folder"
        write_version(folder, 1)
        done = subprocess.run([sys.executable, "-c", CRASH, str(folder), str(last)], check=False)
        seen.append(version_of(folder))
        assert done.returncode in (0, -signal.SIGKILL)
        write_version(folder, 3)  # and the next save goes through, clearing what is left
        assert version_of(folder) == 3
        assert list(folder.parent.iterdir()) == [folder]
        if done.returncode == 0:
            break
    assert done.returncode == 0
    assert seen == sorted(seen)
    assert seen.count(1) > 10
    assert seen.count(2) > 3


LOOP = """
import sys
from pathlib import Path
from hushlm.files import new_folder, write_atomic
version = 2
print("ready", flush=True)
while True:
    with new_folder(Path(sys.argv[1]), replace=True) as temporary:
        for name in ("a.txt", "state/b.txt"):
            write_atomic(temporary / name, f"version {version}\\n" * 50)
    version += 1
"""


@pytest.mark.slow
def test_kill_at_random_moments(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_version(folder, 1)
    for trial in range(20):
        with subprocess.Popen([sys.executable, "-c", LOOP, str(folder)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.005 + 0.0037 * trial)
            process.kill()
        assert version_of(folder) >= 1
    write_version(folder, 1000)
    assert version_of(folder) == 1000
    assert json.loads((folder / "manifest.json").read_text())["format"] == 1
    assert list(tmp_path.iterdir()) == [folder]


IN_PLACE = CRASH.replace(
    "sys.addaudithook(hook)",
    "import hushlm.files.places\nhushlm.files.places._is_mount = lambda path: path == folder\nsys.addaudithook(hook)",
)


@pytest.mark.slow
def test_kill_before_every_file_operation_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where the folder can't be renamed, as a mount point: what counts is old or new, always whole."""
    seen = []
    for last in range(1, 200):
        folder = tmp_path / str(last) / "folder"
        write_version(folder, 1)
        write_atomic(folder / "stale", "a file that the new content does not have")
        write_manifest(folder)
        done = subprocess.run([sys.executable, "-c", IN_PLACE, str(folder), str(last)], check=False)
        seen.append(version_of(folder))
        assert done.returncode in (0, -signal.SIGKILL)
        monkeypatch.setattr(places, "_is_mount", lambda path, folder=folder: path == folder)
        write_version(folder, 3)
        assert version_of(folder) == 3
        assert {path.name for path in folder.iterdir()} == {"a.txt", "state", "manifest.json"}
        assert list(folder.parent.iterdir()) == [folder]
        if done.returncode == 0:
            break
    assert done.returncode == 0
    assert seen == sorted(seen)
    assert seen.count(1) > 10
    assert seen.count(2) > 10


def mounts() -> bool:
    return os.getuid() == 0 and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(sys.platform != "linux" or not mounts(), reason="needs the right to mount a file system")
@pytest.mark.parametrize("how", ["mount -t tmpfs none {out}", "mkdir {base}/disk && mount --bind {base}/disk {out}"])
def test_a_mount_point_is_written_to(tmp_path: Path, how: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    script = (
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[2])\nfrom tests.test_files import *\nout = Path(sys.argv[1])\n"
    )
    script += "from hushlm.files import check_writable\nfor version in (1, 2):\n    check_writable(out)\n    write_version(out, version)\n"
    script += (
        "    assert version_of(out) == version\nassert sorted(path.name for path in out.iterdir()) == ['a.txt', 'manifest.json', 'state']\n"
    )
    mounted = how.format(out=out, base=tmp_path)
    command = f"{mounted} && {sys.executable} -c '{script.replace(chr(39), chr(34))}' {out} {Path(__file__).parents[1]}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_link_is_followed(tmp_path: Path) -> None:
    """What it points to is replaced, again and again, and the link stays; also one to a folder that is yet to be made."""
    (tmp_path / "far").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "far" / "folder")
    for version in (1, 2, 3):
        write_version(link, version)
        assert link.is_symlink()
        assert version_of(link) == version_of(tmp_path / "far" / "folder") == version
    assert set(tmp_path.iterdir()) == {link, tmp_path / "far"}
    assert list((tmp_path / "far").iterdir()) == [tmp_path / "far" / "folder"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    script = "import sys\nfrom pathlib import Path\nfrom hushlm.files import one_writer\n"
    script += "with one_writer(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=r"Another process is writing to .*folder"):
            write_version(folder, 1)
        assert not folder.exists()
        other.kill()
    write_version(folder, 1)  # a killed holder holds nothing
    with one_writer(folder), one_writer(folder):
        write_version(folder, 2)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_lock_that_went_away_while_it_was_taken_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer ends between our opening the lock's file and our locking it: what we opened is then seen by nobody else."""
    take = fcntl.flock
    taken: list[int] = []

    def take_late(file: int, how: int) -> None:
        if not taken:
            (tmp_path / ".folder.lock").unlink()
        taken.append(file)
        take(file, how)

    monkeypatch.setattr(fcntl, "flock", take_late)
    with one_writer(tmp_path / "folder"):
        assert len(taken) == 2, "the lock is taken once more"
        assert (tmp_path / ".folder.lock").exists()


def test_what_a_file_system_keeps_for_itself_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    (folder / "lost+found").mkdir(parents=True)
    monkeypatch.setattr(places, "_is_mount", lambda path: path == folder)
    write_version(folder, 1)
    assert version_of(folder) == 1
    assert (folder / "lost+found").is_dir()


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "Make room"), (errno.EROFS, "file system writable"), (errno.EBUSY, "using it"), (errno.EIO, "Mend that")],
)
def test_what_helps_depends_on_what_is_wrong(number: int, words: str) -> None:
    assert words in what_to_do(OSError(number, os.strerror(number)))


@pytest.mark.parametrize("content", ['{"a":' * 100_000, "[" * 100_000, "\ufeff{}", "\0", ""])
def test_json_that_no_program_of_ours_wrote(tmp_path: Path, content: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="damaged") as caught:
        verify_manifest(tmp_path)
    assert "\n" not in str(caught.value)
