"""Folders that are replaced in one step, by one writer at a time.

A folder is replaced by renaming a new one onto its name. Where that can't be done, because it is a mount point (a container's volume) or
nothing may be written beside it, the new content is built whole in a hidden folder inside, which counts as the content until every file
has been moved to its place, the manifest last. Links are followed: what is replaced is what they point to.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from hushlm.files.atomic import clear_of_killed, sync_folder
from hushlm.files.manifest import MANIFEST, READY, belongs_to, content_files, write_manifest
from hushlm.files.places import aside_of, has_content, real_folder, temporary_name
from hushlm.files.writing import one_writer

__all__ = ["check_replaceable", "current_folder", "folder_candidates", "new_folder"]


def current_folder(folder: Path) -> Path:
    """Where the whole content of `folder` lies: there; or, if a kill hit while it was replaced, beside or inside it.

    Only reads, so that a reader never disturbs a writer.
    """
    target = real_folder(folder)
    if (target / READY).is_dir():
        return target / READY
    aside = aside_of(target)
    return aside if not folder.exists() and aside.is_dir() else folder


def folder_candidates(folder: Path) -> list[Path]:
    """Where a whole content of `folder` may lie, the newest first: inside, there, and set aside. Empty if there is nothing."""
    target = real_folder(folder)
    return [path for path in (target / READY, folder, aside_of(target)) if path.is_dir() and has_content(path)]


def check_replaceable(folder: Path) -> None:
    """Refuse to replace what is not ours.

    Raises:
        ValueError: one sentence, if `folder` is a file, a folder with files but without a manifest, or nothing that may be looked at.
    """
    try:
        is_file = folder.exists() and not folder.is_dir()
        is_foreign = folder.is_dir() and not any((folder / name).exists() for name in (MANIFEST, READY)) and has_content(folder)
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
    folder = real_folder(folder)
    check_replaceable(folder)
    with one_writer(folder) if replace else nullcontext():
        temporary = temporary_name(folder)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        _clear_remains(folder)
        temporary.mkdir()
        try:
            yield temporary
            write_manifest(temporary)
            for inner in (path for path in temporary.rglob("*") if path.is_dir()):
                sync_folder(inner)
            if temporary.parent == folder:
                temporary.rename(folder / READY)
                _move_in(folder)
            else:
                _publish(temporary, folder, replace)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, folder: Path, replace: bool) -> None:
    aside = aside_of(folder)
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
    sync_folder(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _move_in(folder: Path) -> None:
    """Give every file of the whole content inside a folder its place; what another content left goes. May be done again after a kill."""
    ready = folder / READY
    found = content_files(ready)
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
    for name in content_files(folder).keys() - found.keys():
        (folder / name).unlink()
    for inner in sorted((path for path in folder.rglob("*") if path.is_dir() and belongs_to(path, folder)), reverse=True):
        if not any(inner.iterdir()):
            inner.rmdir()
        else:
            sync_folder(inner)
    sync_folder(folder)
    done = temporary_name(folder)
    ready.rename(done)
    shutil.rmtree(done, ignore_errors=True)


def _clear_remains(folder: Path) -> None:
    if (folder / READY).is_dir():
        _move_in(folder)
    aside = aside_of(folder)
    if aside.is_dir() and folder.exists():
        shutil.rmtree(aside)
    elif aside.is_dir():
        aside.rename(folder)
    for parent in (folder.parent, folder):
        if parent.is_dir():
            clear_of_killed(parent, f".{folder.name}.new.", "")
