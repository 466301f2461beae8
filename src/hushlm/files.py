"""Files that are whole or absent: atomic writes, manifests, and folders replaced in one step.

A folder of ours ends with `manifest.json`, the sha256 and size of every file in it, written last. A folder without a
valid manifest is torn, altered or somebody else's, and is refused with a sentence that says which.

A folder is replaced by renaming a new one onto its name. Where that can't be done, because it is a mount point (a container's volume) or
nothing may be written beside it, the new content is built whole in a hidden folder inside, which counts as the content until every file
has been moved to its place, the manifest last. Links are followed: what is replaced is what they point to.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

__all__ = [
    "MANIFEST",
    "check_replaceable",
    "check_writable",
    "current_folder",
    "expand_user",
    "folder_candidates",
    "is_hugging_face_folder",
    "new_folder",
    "one_writer",
    "read_json",
    "verify_manifest",
    "what_to_do",
    "write_atomic",
    "write_manifest",
]

MANIFEST = "manifest.json"
_FORMAT = 1

_READY = ".ready"
"""A whole new content inside a folder that is replaced in place."""

_NOT_OURS_TO_COUNT = ("lost+found", _READY)
"""What may lie in a folder beside its content: the folder that a file system keeps for itself, and a content about to be moved."""

_held: dict[Path, int] = {}
"""Folders this process writes to, and how many of its blocks do."""


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
        if is_hugging_face_folder(folder):
            raise ValueError(
                f"{folder} is a Hugging Face folder, not one of hushlm: take a GPT-2 or GPT-NeoX over with "
                "hushlm.huggingface.save_hf_checkpoint (docs/huggingface.md), and use the checkpoint that it writes."
            )
        raise ValueError(f"{folder} has no {MANIFEST}: it was not written by hushlm, or not to the end.")
    try:
        manifest = read_json(path)
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


def is_hugging_face_folder(folder: Path) -> bool:
    """Whether a folder holds a model or an adapter as the tools of Hugging Face save it (`save_pretrained`, `Trainer`, peft)."""
    if (folder / "adapter_config.json").is_file():
        return True
    try:
        return "model_type" in read_json(folder / "config.json")
    except (OSError, ValueError, TypeError):
        return False


def current_folder(folder: Path) -> Path:
    """Where the whole content of `folder` lies: there; or, if a kill hit while it was replaced, beside or inside it.

    Only reads, so that a reader never disturbs a writer.
    """
    target = _target(folder)
    if (target / _READY).is_dir():
        return target / _READY
    aside = _aside(target)
    return aside if not folder.exists() and aside.is_dir() else folder


def folder_candidates(folder: Path) -> list[Path]:
    """Where a whole content of `folder` may lie, the newest first: inside, there, and set aside. Empty if there is nothing."""
    target = _target(folder)
    return [path for path in (target / _READY, folder, _aside(target)) if path.is_dir() and _content(path)]


def check_writable(folder: Path) -> None:
    """Refuse early to work for something that can't be written: tries it with an empty folder, which is removed again.

    Raises:
        ValueError: one sentence, if nothing can be made there.
    """
    folder = _target(folder)
    probe = _temporary(folder)
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


def what_to_do(error: OSError, *, lower: bool = False) -> str:
    """What helps against an error of the operating system: the beginning of a sentence, or of a part of one."""
    known = {
        errno.ENOSPC: "Make room",
        errno.EDQUOT: "Make room within your quota",
        errno.EROFS: "Make the file system writable",
        errno.EACCES: "Make it writable",
        errno.EPERM: "Make it writable",
        errno.EBUSY: "End what is using it",
        errno.ENOTEMPTY: "Move away what another program put there",
    }
    text = known.get(error.errno or 0, "Mend that")
    return text[0].lower() + text[1:] if lower else text


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Be the only process that writes to a folder, for as long as the block lasts. Blocks of one process may lie within one another.

    The lock is a file beside the folder; it goes away with the block, and with the process if that is killed.

    Raises:
        ValueError: one sentence, if another process writes there.
    """
    folder = _target(folder)
    if folder in _held:
        _held[folder] += 1
        try:
            yield
        finally:
            _held[folder] -= 1
        return
    base = folder if _is_in_place(folder) else folder.parent
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


def check_replaceable(folder: Path) -> None:
    """Refuse to replace what is not ours.

    Raises:
        ValueError: one sentence, if `folder` is a file, a folder with files but without a manifest, or nothing that may be looked at.
    """
    try:
        is_file = folder.exists() and not folder.is_dir()
        is_foreign = folder.is_dir() and not any((folder / name).exists() for name in (MANIFEST, _READY)) and _content(folder)
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
        ValueError: if the folder is not ours to replace, or another process writes to it.
    """
    folder = _target(folder)
    check_replaceable(folder)
    with one_writer(folder) if replace else nullcontext():
        temporary = _temporary(folder)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        _clear_remains(folder)
        temporary.mkdir()
        try:
            yield temporary
            write_manifest(temporary)
            for inner in (path for path in temporary.rglob("*") if path.is_dir()):
                _sync_folder(inner)
            if temporary.parent == folder:
                temporary.rename(folder / _READY)
                _move_in(folder)
            else:
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


def _move_in(folder: Path) -> None:
    """Give every file of the whole content inside a folder its place; what another content left goes. May be done again after a kill."""
    ready = folder / _READY
    found = _files(ready)
    for name in [*sorted(found), MANIFEST]:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        copy = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        copy.unlink(missing_ok=True)
        try:
            os.link(ready / name, copy)
        except OSError:  # a file system without hard links
            shutil.copyfile(ready / name, copy)
        copy.replace(place)
    for name in _files(folder).keys() - found.keys():
        (folder / name).unlink()
    for inner in sorted((path for path in folder.rglob("*") if path.is_dir() and _counts(path, folder)), reverse=True):
        if not any(inner.iterdir()):
            inner.rmdir()
        else:
            _sync_folder(inner)
    _sync_folder(folder)
    done = _temporary(folder)
    ready.rename(done)
    shutil.rmtree(done, ignore_errors=True)


def _clear_remains(folder: Path) -> None:
    if (folder / _READY).is_dir():
        _move_in(folder)
    aside = _aside(folder)
    if aside.is_dir() and folder.exists():
        shutil.rmtree(aside)
    elif aside.is_dir():
        aside.rename(folder)
    for parent in (folder.parent, folder):
        if parent.is_dir():
            _clear_of_killed(parent, f".{folder.name}.new.", "")


def _target(folder: Path) -> Path:
    """The folder that is meant, absolute: a link's own place is never written to."""
    return Path(os.path.realpath(folder)) if folder.is_symlink() else folder.absolute()


def _temporary(folder: Path) -> Path:
    """Where a new content is built: beside the folder, or inside where it can't be renamed."""
    inside = _is_in_place(folder)
    return (folder if inside else folder.parent) / f".{folder.name}.new.{os.getpid()}"


def _is_in_place(folder: Path) -> bool:
    """Whether a folder can't be replaced by renaming another one onto it: a mount point, or one beside which nothing may be written."""
    return folder.is_dir() and (_is_mount(folder) or (not os.access(folder.parent, os.W_OK) and os.access(folder, os.W_OK)))


def _is_mount(folder: Path) -> bool:
    if folder.is_mount():
        return True
    try:  # a folder of the same file system mounted once more is seen only here
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    return str(folder) in {line.split()[4].replace("\\040", " ") for line in lines}


def _counts(path: Path, folder: Path) -> bool:
    """Whether a path below a folder belongs to its content."""
    top = path.relative_to(folder).parts[0]
    return top not in _NOT_OURS_TO_COUNT and not top.startswith(f".{folder.name}.")


def _content(folder: Path) -> bool:
    """Whether a folder holds anything of its own."""
    return any(_counts(path, folder) for path in folder.iterdir())


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
    """Where the old content waits while the new one takes its name."""
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
        if not _counts(path, folder):
            continue
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
