"""Who may write to a folder: refused before work begins, and one process at a time."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hushlm.files.atomic import write_atomic
from hushlm.files.places import is_in_place, real_folder, temporary_name

__all__ = ["check_writable", "one_writer", "what_to_do"]

_held: dict[Path, int] = {}
"""Folders this process writes to, and how many of its blocks do."""


def check_writable(folder: Path) -> None:
    """Refuse early to work for something that can't be written: tries it with an empty folder, which is removed again.

    Raises:
        ValueError: one sentence, if nothing can be made there.
    """
    folder = real_folder(folder)
    probe = temporary_name(folder)
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.mkdir(exist_ok=True)
        write_atomic(probe / "probe", "0")
    except OSError as error:
        raise ValueError(
            f"Nothing can be written to {probe.parent} ({error.strerror}): choose another folder, or {what_to_do(error, lower=True)}."
        ) from None
    finally:
        shutil.rmtree(probe, ignore_errors=True)


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Be the only process that writes to a folder, for as long as the block lasts. Blocks of one process may lie within one another.

    The lock is a file beside the folder; it goes away with the block, and with the process if that is killed.

    Raises:
        ValueError: one sentence, if another process writes there.
    """
    folder = real_folder(folder)
    if folder in _held:
        _held[folder] += 1
        try:
            yield
        finally:
            _held[folder] -= 1
        return
    base = folder if is_in_place(folder) else folder.parent
    base.mkdir(parents=True, exist_ok=True)
    lock = FileLock(base / f".{folder.name}.lock")
    try:
        lock.acquire(timeout=0.2, poll_interval=0.05)
    except Timeout:
        raise ValueError(f"Another process is writing to {folder}: wait until it has ended, or choose another folder.") from None
    _held[folder] = 1
    try:
        yield
    finally:
        del _held[folder]
        # Removed while it is held: whoever opened it before finds it gone and makes a new one.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def what_to_do(error: OSError, *, lower: bool = False) -> str:
    """What helps against an error of the operating system: the beginning of a sentence, or of a part of one."""
    known = {
        errno.ENOSPC: "Make room",
        errno.EFBIG: "Make room",
        errno.EDQUOT: "Make room within your quota",
        errno.EROFS: "Make the file system writable",
        errno.EACCES: "Make it writable",
        errno.EPERM: "Make it writable",
        errno.EBUSY: "End what is using it",
        errno.ENOTEMPTY: "Move away what another program put there",
    }
    text = known.get(error.errno or 0, "Mend that")
    return text[0].lower() + text[1:] if lower else text
