"""Files that are whole or absent: atomic writes, manifests, and folders replaced in one step.

A folder of ours ends with `manifest.json`, the sha256 and size of every file in it, written last. A folder without a
valid manifest is torn, altered or somebody else's, and is refused with a sentence that says which.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "MANIFEST",
    "check_replaceable",
    "check_writable",
    "current_folder",
    "expand_user",
    "folder_candidates",
    "new_folder",
    "verify_manifest",
    "write_atomic",
    "write_manifest",
]

MANIFEST = "manifest.json"
_FORMAT = 1


def expand_user(path: str | Path) -> Path:
    """A path with "~" and "~name" replaced by home folders.

    Raises:
        ValueError: if nobody knows the home folder, as in a container whose user has no entry and no HOME.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{path} begins with a home folder that is not known here: write the whole path, or set HOME.") from None


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that a kill at any moment leaves the old content or the new, never a part of either.

    What a killed writer of the same file left beside it is cleared.

    Args:
        path: the file; its folder is made if it is missing.
        data: content; a string is written as UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_of_killed(path.parent, f".{path.name}.", ".tmp")
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
    _sync_folder(path.parent)


def write_manifest(folder: Path) -> dict[str, Any]:
    """Write `manifest.json`: {"format": 1, "files": {relative path: {"sha256": ..., "bytes": ...}}}, the last file of a folder.

    Every file is forced to disk first, so a manifest on disk means that what it lists is on disk too.

    Returns: the manifest.
    """
    files = {}
    for name, path in sorted(_files(folder).items()):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        files[name] = _digest(path)
    manifest = {"format": _FORMAT, "files": files}
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def verify_manifest(folder: Path) -> dict[str, Any]:
    """Read a folder's manifest and check every file against it.

    Returns: the manifest, as written by `write_manifest`.

    Raises:
        ValueError: one sentence, if the folder or its manifest is missing, or a file is missing, altered or not listed.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} has no {MANIFEST}: it was not written by hushlm, or not to the end.")
    try:
        manifest = json.loads(path.read_bytes())
        known, listed = manifest["format"], dict(manifest["files"])
        expected = {name: (entry["sha256"], entry["bytes"]) for name, entry in listed.items()}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged: restore the folder from a copy, or make it anew.") from None
    if known != _FORMAT:
        raise ValueError(f"{path} has format {known}, and this version of hushlm reads format {_FORMAT}.")
    found = _files(folder)
    if missing := sorted(expected.keys() - found.keys()):
        raise ValueError(f"{folder} is incomplete, {missing[0]} is missing: restore the folder from a copy, or make it anew.")
    if extra := sorted(found.keys() - expected.keys()):
        raise ValueError(f"{folder} holds {extra[0]}, which its manifest does not list: move that file elsewhere.")
    for name, (sha256, size) in expected.items():
        # The size first: it is free, and a truncated file of many gigabytes need not be read.
        if found[name].stat().st_size != size or _digest(found[name])["sha256"] != sha256:
            raise ValueError(f"{folder / name} is damaged or was altered: restore the folder from a copy, or make it anew.")
    return manifest


def current_folder(folder: Path) -> Path:
    """Where the whole content of `folder` lies: there, or set aside beside it if a kill hit between the two renames of `new_folder`.

    Only reads, so that a reader never disturbs a writer.
    """
    aside = _aside(folder.absolute())
    return aside if not folder.exists() and aside.is_dir() else folder


def folder_candidates(folder: Path) -> list[Path]:
    """Where a whole content of `folder` may lie, the newest first: there, and set aside beside it. Empty if there is nothing."""
    return [path for path in (folder, _aside(folder.absolute())) if path.is_dir() and any(path.iterdir())]


def check_writable(folder: Path) -> None:
    """Refuse early to work for something that can't be written: tries it with an empty folder beside `folder`, which is removed again.

    Raises:
        ValueError: one sentence, if nothing can be made there.
    """
    folder = folder.absolute()
    probe = folder.with_name(f".{folder.name}.new.{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        probe.mkdir(exist_ok=True)
        write_atomic(probe / "probe", "0")
    except OSError as error:
        raise ValueError(
            f"Nothing can be written to {folder.parent} ({error.strerror}): choose another folder, or make it writable."
        ) from None
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """Refuse to replace what is not ours.

    Raises:
        ValueError: one sentence, if `folder` is a file, a folder with files but without a manifest, or nothing that may be looked at.
    """
    try:
        is_file = folder.exists() and not folder.is_dir()
        is_foreign = folder.is_dir() and not (folder / MANIFEST).exists() and any(folder.iterdir())
    except OSError as error:
        raise ValueError(f"{folder} cannot be looked at ({error.strerror}): choose another folder.") from None
    if is_file:
        raise ValueError(f"{folder} is a file, and a folder is to be written there: choose another name.")
    if is_foreign:
        raise ValueError(f"{folder} holds files that hushlm did not write: choose another folder.")


@contextmanager
def new_folder(folder: Path, *, replace: bool) -> Iterator[Path]:
    """Build a folder under a temporary name; on leaving the block its manifest is written and it takes the place of `folder`.

    An error inside the block leaves `folder` as it was. A kill at any moment leaves, at `current_folder(folder)`, the old
    folder or the new one, whole. Remains of killed writers are cleared by the next one.

    Args:
        folder: the final name.
        replace: what happens if `folder` exists at the end: True replaces it, False keeps it and drops the new one
            (two processes that build the same content).

    Yields: the temporary folder, beside the final one.

    Raises:
        ValueError: from `check_replaceable`.
    """
    folder = folder.absolute()
    check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear_remains(folder)
    temporary = folder.with_name(f".{folder.name}.new.{os.getpid()}")
    temporary.mkdir()
    try:
        yield temporary
        write_manifest(temporary)
        for inner in (path for path in temporary.rglob("*") if path.is_dir()):
            _sync_folder(inner)
        _publish(temporary, folder, replace)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, folder: Path, replace: bool) -> None:
    aside = _aside(folder)
    if replace and folder.exists():
        folder.rename(aside)
    try:
        temporary.rename(folder)
    except OSError:
        # rename refuses a folder that is not empty: another process was first with the same content.
        if replace and aside.is_dir() and not folder.exists():
            aside.rename(folder)
        if replace or not folder.is_dir():
            raise
    _sync_folder(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _clear_remains(folder: Path) -> None:
    aside = _aside(folder)
    if aside.is_dir() and folder.exists():
        shutil.rmtree(aside)
    elif aside.is_dir():
        aside.rename(folder)
    _clear_of_killed(folder.parent, f".{folder.name}.new.", "")


def _clear_of_killed(parent: Path, prefix: str, suffix: str) -> None:
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


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _files(folder: Path) -> dict[str, Path]:
    """Every file below `folder` but its manifest, by relative POSIX path."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is not a plain file: remove it from the folder.")
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path
    found.pop(MANIFEST, None)
    return found


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def _sync_folder(folder: Path) -> None:
    """Force a folder's own entries to disk: renames survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
