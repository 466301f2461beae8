"""A folder of ours ends with `manifest.json`, the sha256 and size of every file in it, written last.

A folder without a valid manifest is torn, altered or somebody else's, and is refused with a sentence that says which.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from hushlm.files.atomic import read_json, write_atomic

__all__ = ["MANIFEST", "READY", "belongs_to", "content_files", "is_hugging_face_folder", "verify_manifest", "write_manifest"]

MANIFEST = "manifest.json"
_FORMAT = 1

READY = ".ready"
"""A whole new content inside a folder that is replaced in place."""

_NOT_OURS_TO_COUNT = ("lost+found", READY)
"""What may lie in a folder beside its content: the folder that a file system keeps for itself, and a content about to be moved."""


def write_manifest(folder: Path) -> dict[str, Any]:
    """Write `manifest.json`: {"format": 1, "files": {relative path: {"sha256": ..., "bytes": ...}}}, the last file of a folder.

    Every file is forced to disk first, so a manifest on disk means that what it lists is on disk too.

    Returns: the manifest.
    """
    files = {}
    for name, path in sorted(content_files(folder).items()):
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
                f"{folder} is a Hugging Face folder, not one of hushlm: make a checkpoint of it with `hushlm import {folder} OUTPUT`, and "
                "use that."
            )
        if all((folder / part / MANIFEST).is_file() for part in ("server", "client")):
            raise ValueError(f"{folder} holds the two halves of an export: name {folder / 'server'} or {folder / 'client'}.")
        raise ValueError(f"{folder} has no {MANIFEST}: it was not written by hushlm, or not to the end.")
    try:
        manifest = read_json(path)
        known, listed = manifest["format"], dict(manifest["files"])
        expected = {name: (entry["sha256"], entry["bytes"]) for name, entry in listed.items()}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged: restore the folder from a copy, or make it anew.") from None
    if known != _FORMAT:
        raise ValueError(f"{path} has format {known}, and this version of hushlm reads format {_FORMAT}.")
    found = content_files(folder)
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


def belongs_to(path: Path, folder: Path) -> bool:
    """Whether a path below a folder belongs to its content."""
    top = path.relative_to(folder).parts[0]
    return top not in _NOT_OURS_TO_COUNT and not top.startswith(f".{folder.name}.")


def content_files(folder: Path) -> dict[str, Path]:
    """Every file below `folder` but its manifest, by relative POSIX path."""
    found = {}
    for path in folder.rglob("*"):
        if not belongs_to(path, folder):
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
