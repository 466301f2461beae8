"""Files and folders that only their owner may open, written durably and overwritten before they are removed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hushlm.files.atomic import sync_folder
from hushlm.private.bundles.bundle_errors import BundleError, BundleStoreError

__all__ = ["check_file", "check_folder", "erase", "make_folder", "read_private", "write_all", "write_private"]

PIECE_BYTES = 1 << 20
"""Overwritten at once."""


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for its owner alone (0700); its entry is forced to disk."""
    if not os.path.lexists(folder):
        make_folder(folder.parent)
        try:
            os.mkdir(folder, 0o700)  # noqa: PTH102 - without parents, which get the same mode here
        except FileExistsError:  # another process was faster
            return
        sync_folder(folder.parent)


def check_folder(folder: Path) -> None:
    """Refuse a folder that is a link, somebody else's, or open to others.

    Raises:
        BundleStoreError: if so.
        OSError: if it is not there, or is no folder.
    """
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise BundleStoreError(f"{folder} is a link, and prepared answers are kept in a folder of their own: remove the link.")
    if not stat.S_ISDIR(found.st_mode):
        raise BundleStoreError(f"{folder} is not a folder, and prepared answers are to be kept there: move it away.")
    if found.st_uid != os.geteuid():
        raise BundleStoreError(f"{folder} belongs to another user, who could read or replace prepared answers: choose another folder.")
    if mode := stat.S_IMODE(found.st_mode) & 0o077:
        raise BundleStoreError(f"{folder} is open to other users (mode {mode | 0o700:04o}): close it with `chmod 700 {folder}`.")


def check_file(path: Path) -> os.stat_result:
    """Refuse a file that is a link, somebody else's, or open to others.

    Raises:
        BundleError: if so.
        OSError: if it is not there.
    """
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise BundleError(f"{path} is not a plain file, so it is not used: remove it.")
    if found.st_uid != os.geteuid():
        raise BundleError(f"{path} belongs to another user, so it is not used: prepare again.")
    if mode := stat.S_IMODE(found.st_mode) & 0o077:
        raise BundleError(f"{path} is open to other users (mode {mode | 0o600:04o}), so it is not used: drop it, and prepare again.")
    return found


def write_private(path: Path) -> int:
    """A new file that only its owner may open, for writing.

    Returns: its descriptor.
    """
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)


def read_private(path: Path) -> bytes:
    """The content of a small file, links not followed."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        return file.read()


def write_all(handle: int, data: bytes) -> None:
    """Write all of `data`, and force it to disk."""
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]
    os.fsync(handle)


def erase(path: Path) -> None:
    """Overwrite a file with zeros on disk, then remove it; the folder's entry is the caller's to force to disk.

    A link is removed and what it points to is left alone.
    """
    if stat.S_ISREG(path.lstat().st_mode):
        handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            left = os.fstat(handle).st_size
            while left:
                left -= os.write(handle, bytes(min(left, PIECE_BYTES)))
            os.fsync(handle)
        finally:
            os.close(handle)
    os.unlink(path)  # noqa: PTH108 - the name of the system call is the point
