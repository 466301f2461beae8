"""A process that is killed, or whose disk fails, before any file operation leaves every bundle whole and unused, or used."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.private.bundles.conftest import Work
from tests.private.bundles.stores import PROGRAM, content, file_of, identity_of, made, store, stored

from hushlm.private.bundles import BundleError, BundleStore

CALLS: dict[str, tuple[list[str], list[Any]]] = {
    # What is stored before, and the call that is killed.
    "first add": ([], ["add", "a"]),
    "add": (["b"], ["add", "a"]),
    "burn": (["a", "b"], ["burn", "a"]),
    "drop": (["a", "b"], ["drop", "a"]),
    "keep_only": (["a", "b", "c"], ["keep_only", ["b"]]),
}


def usable(kept: BundleStore, name: str) -> bool:
    """Whether a bundle can be used, which uses it. Used it is whole; used or not, it cannot be used after that."""
    if identity_of(name) not in [info.identity for info in kept.list(PROGRAM)]:
        with pytest.raises(BundleError, match=r"used before|There is no prepared answer"):
            kept.burn(identity_of(name))
        return False
    assert content(kept.burn(identity_of(name))) == content(made(name))
    with pytest.raises(BundleError, match="used before"):
        kept.burn(identity_of(name))
    return True


def clean(kept: BundleStore) -> bool:
    """Whether nothing lies in the folder but bundles, the ledger and the lock."""
    return {path.name for path in kept.folder.iterdir() if path.suffix != ".bundle"} == {".lock", "used"}


def operations(work: Work, folder: Path, name: str) -> int:
    before, call = CALLS[name]
    stored(folder, *before)
    (said,) = work(folder, call)
    assert said["code"] == 0
    assert "returned" in said
    return int(said["operations"])


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "tear"])
@pytest.mark.parametrize("name", CALLS)
def test_killed_before_and_in_every_file_operation(work: Work, tmp_path: Path, name: str, fault: str) -> None:
    (before, call), count = CALLS[name], operations(work, tmp_path / "measured", name)
    assert count >= 8
    left = []
    for at in range(1, count + 2):
        folder = tmp_path / str(at)
        stored(folder, *before)
        (said,) = work(folder, call, fault=fault, at=at)
        assert said["code"] == (-signal.SIGKILL if at <= count else 0)
        kept = store(folder)
        kept.add(made("new"), PROGRAM)  # the store works, and what was left is cleared
        assert clean(kept)
        assert [info.problem for info in kept.list() if info.problem] == []
        left.append(usable(kept, "a"))
        assert usable(kept, "b") == ("b" in before)
        assert usable(kept, "new")
        assert kept.list(PROGRAM) == [info for info in kept.list() if info.identity == identity_of("c")]
    # Both ends are reached, and between them it changes once.
    assert left == sorted(left, reverse=call[0] != "add")
    assert {left[0], left[-1]} == {True, False}


def test_killed_within_a_burn(work: Work, tmp_path: Path) -> None:
    """One of the moments that matter most, in the fast tests: the record is made, and nothing is removed yet."""
    stored(tmp_path, "a")
    (said,) = work(tmp_path, ["burn", "a"], fault="kill", at=9)
    assert said == {"code": -signal.SIGKILL}
    assert file_of(store(tmp_path), "a").stat().st_size > 1000
    assert not usable(store(tmp_path), "a")


def test_there_are_more_than_fifty_such_moments(work: Work, tmp_path: Path) -> None:
    assert sum(operations(work, tmp_path / name, name) for name in CALLS) > 50


@pytest.mark.slow
def test_killed_while_the_remains_of_a_kill_are_cleared(work: Work, tmp_path: Path) -> None:
    trials = 0
    for first in range(9, 13):  # within the burn, from about the record on
        for second in range(1, 14):
            folder = tmp_path / f"{first}.{second}"
            stored(folder, "a", "b")
            work(folder, ["burn", "a"], fault="kill", at=first)
            recorded = identity_of("a") in (folder / "server" / "alice" / "used").read_text()
            work(folder, ["add", "c"], fault="kill", at=second)
            kept = store(folder)
            assert usable(kept, "a") != recorded
            usable(kept, "c")
            assert usable(kept, "b")
            assert clean(kept)
            trials += 1
    assert trials == 52


@pytest.mark.slow
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("fault", ["fail", "fail on"])
@pytest.mark.parametrize("name", CALLS)
def test_a_failing_disk_is_told_with_its_own_reason(work: Work, tmp_path: Path, name: str, fault: str, error: int) -> None:
    (before, call), count, harmless = CALLS[name], operations(work, tmp_path / "measured", name), 0
    for at in range(1, count + 1):
        folder = tmp_path / str(at)
        stored(folder, *before)
        (said,) = work(folder, call, fault=fault, at=at, error=error)
        assert said["code"] == 0, at
        if "returned" in said:
            harmless += 1  # the lock's library makes a folder that is there already, and does not mind
            assert usable(store(folder), "a") == (call[0] == "add")
            continue
        assert os.strerror(error) in said["sentence"], at
        assert "\n" not in said["sentence"]
        assert said["of the store"]
        kept = store(folder)
        if call[0] == "add" and fault == "fail":
            assert not file_of(kept, "a").exists()
        kept.add(made("new"), PROGRAM)
        assert clean(kept)
        usable(kept, "a")
        assert usable(kept, "b") == ("b" in before)
    assert harmless == (fault == "fail")


def test_a_full_disk_and_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real ones: a limit on the size of files, which is told like a full disk, and a folder without the right to write."""
    import resource

    kept = stored(tmp_path, "a")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(BundleError, match=rf"{os.strerror(errno.EFBIG)}\): make room"):
            kept.add(made("b"), PROGRAM)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert clean(kept)
    assert len(kept.list()) == 1
    if os.geteuid() != 0:  # root may write everywhere
        kept.folder.chmod(0o500)
        with pytest.raises(BundleError, match=os.strerror(errno.EACCES)):
            kept.burn(identity_of("a"))
        kept.folder.chmod(0o700)
    assert usable(kept, "a")
