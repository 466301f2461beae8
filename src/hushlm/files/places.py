"""Where a folder's content lies, and where a new one can be built: links followed, mount points known."""

from __future__ import annotations

import os
from pathlib import Path

from hushlm.files.manifest import belongs_to

__all__ = ["aside_of", "has_content", "is_in_place", "real_folder", "temporary_name"]


def real_folder(folder: Path) -> Path:
    """The folder that is meant, absolute: a link's own place is never written to."""
    return Path(os.path.realpath(folder)) if folder.is_symlink() else folder.absolute()


def temporary_name(folder: Path) -> Path:
    """Where a new content is built: beside the folder, or inside where it can't be renamed."""
    inside = is_in_place(folder)
    return (folder if inside else folder.parent) / f".{folder.name}.new.{os.getpid()}"


def aside_of(folder: Path) -> Path:
    """Where the old content waits while the new one takes its name."""
    return folder.with_name(f".{folder.name}.old")


def is_in_place(folder: Path) -> bool:
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


def has_content(folder: Path) -> bool:
    """Whether a folder holds anything of its own."""
    return any(belongs_to(path, folder) for path in folder.iterdir())
