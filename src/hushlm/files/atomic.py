"""Single files: written whole or not at all, read with a sentence where they are damaged."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

__all__ = ["clear_of_killed", "expand_user", "read_json", "sync_folder", "write_atomic"]


def expand_user(path: str | Path) -> Path:
    """A path with "~" and "~name" replaced by home folders.

    Raises:
        ValueError: if nobody knows the home folder, as in a container whose user has no entry and no HOME.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{path} begins with a home folder that is not known here: write the whole path, or set HOME.") from None


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        ValueError: one sentence, if it is not JSON, or nested so deeply that no program of ours wrote it.
        OSError: if it can't be read.
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is damaged: restore the folder from a copy, or make it anew.") from None


def write_atomic(path: Path, data: bytes | memoryview | str) -> None:
    """Write a file so that a kill at any moment leaves the old content or the new, never a part of either.

    What a killed writer of the same file left beside it is cleared.

    Args:
        path: the file; its folder is made if it is missing.
        data: content; a string is written as UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_of_killed(path.parent, f".{path.name}.", ".tmp")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - the name of the system call is the point
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def clear_of_killed(parent: Path, prefix: str, suffix: str) -> None:
    """Remove temporary files and folders named prefix + process + suffix whose process is gone, or is this one."""
    for path in parent.iterdir():
        owner = path.name.removeprefix(prefix).removesuffix(suffix)
        if path.name != f"{prefix}{owner}{suffix}" or not owner.isdigit():
            continue
        if int(owner) == os.getpid() or not _is_running(int(owner)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Force a folder's own entries to disk: renames survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
