"""Paths that are not what a command asks for: one maker for each kind of fault.

A maker gets an empty folder and the value that the option would have in a sound call (a file, a folder, or None), and returns what is given
instead.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

__all__ = ["KINDS", "UNREADABLE"]

Maker = Callable[[Path, Path | None], str]

HUGE_BYTES = 64 << 30
UNREADABLE = ("unreadable", "unwritable")
"""Kinds that need the rights of a user other than root."""


def _missing(place: Path, sound: Path | None) -> str:
    return str(place / "absent")


def _missing_parents(place: Path, sound: Path | None) -> str:
    return str(place / "absent" / "far" / "away.txt")


def _empty_file(place: Path, sound: Path | None) -> str:
    path = place / f"empty{_suffix(sound)}"
    path.touch()
    return str(path)


def _empty_folder(place: Path, sound: Path | None) -> str:
    path = place / "folder"
    path.mkdir()
    return str(path)


def _foreign_folder(place: Path, sound: Path | None) -> str:
    path = place / "foreign"
    path.mkdir()
    (path / "thesis.doc").write_bytes(b"\x00\x01mine")
    return str(path)


def _plain_file(place: Path, sound: Path | None) -> str:
    path = place / f"plain{_suffix(sound)}"
    path.write_text("Some words that nobody has asked for.\n")
    return str(path)


def _below_a_file(place: Path, sound: Path | None) -> str:
    return str(Path(_plain_file(place, sound)) / "x")


def _truncated(place: Path, sound: Path | None) -> str:
    """A copy of the sound value whose largest file has lost its second half; a truncated JSON document if there is none."""
    if sound is None or not sound.exists():
        path = place / "truncated.json"
        path.write_text('{"format": 1, "files": {"a')
        return str(path)
    copy = place / sound.name
    if sound.is_dir():
        shutil.copytree(sound, copy)
    else:
        shutil.copyfile(sound, copy)
    files = [path for path in ([copy] if copy.is_file() else copy.rglob("*")) if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    return str(copy)


def _wrong_kind(place: Path, sound: Path | None) -> str:
    path = place / f"picture{_suffix(sound)}"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)) * 8)
    return str(path)


def _hostile_json(place: Path, sound: Path | None) -> str:
    """A folder whose documents are nested deeper than a parser's stack."""
    path = place / "nested"
    path.mkdir()
    for name in ("manifest.json", "config.json", "tokenizer.json", "program.json"):
        (path / name).write_text("[" * 100_000)
    return str(path)


def _latin_1(place: Path, sound: Path | None) -> str:
    path = place / f"latin{_suffix(sound)}"
    path.write_bytes("déjà vu\n".encode("latin-1") * 400)
    return str(path)


def _huge(place: Path, sound: Path | None) -> str:
    path = place / f"huge{_suffix(sound)}"
    path.touch()
    os.truncate(path, HUGE_BYTES)
    return str(path)


def _fifo(place: Path, sound: Path | None) -> str:
    path = place / f"pipe{_suffix(sound)}"
    os.mkfifo(path)
    return str(path)


def _device(place: Path, sound: Path | None) -> str:
    return "/dev/zero"


def _loop(place: Path, sound: Path | None) -> str:
    path = place / f"loop{_suffix(sound)}"
    path.symlink_to(path)
    return str(path)


def _dangling(place: Path, sound: Path | None) -> str:
    path = place / f"dangling{_suffix(sound)}"
    path.symlink_to(place / "gone" / "away")
    return str(path)


def _long_name(place: Path, sound: Path | None) -> str:
    return str(place / ("n" * 300))


def _no_name(place: Path, sound: Path | None) -> str:
    return ""


def _null_byte(place: Path, sound: Path | None) -> str:
    return str(place / "a\x00b")


def _undecodable_name(place: Path, sound: Path | None) -> str:
    return os.fsdecode(os.fsencode(place) + b"/caf\xe9")


def _unreadable(place: Path, sound: Path | None) -> str:
    """A copy of the sound value that only its owner could read, and not even the owner."""
    path = Path(_plain_file(place, sound)) if sound is None or not sound.exists() else place / sound.name
    if sound is not None and sound.is_dir():
        shutil.copytree(sound, path)
    elif sound is not None and sound.exists():
        shutil.copyfile(sound, path)
    path.chmod(0)
    return str(path)


def _unwritable(place: Path, sound: Path | None) -> str:
    path = place / "closed"
    path.mkdir()
    path.chmod(0o555)
    return str(path / "new")


def _suffix(sound: Path | None) -> str:
    """The ending that a command may look at."""
    return sound.suffix if sound is not None and sound.suffix else ".txt"


KINDS: dict[str, Maker] = {
    "missing": _missing,
    "missing parents": _missing_parents,
    "empty file": _empty_file,
    "empty folder": _empty_folder,
    "foreign folder": _foreign_folder,
    "plain file": _plain_file,
    "below a file": _below_a_file,
    "truncated": _truncated,
    "wrong kind": _wrong_kind,
    "hostile JSON": _hostile_json,
    "not UTF-8": _latin_1,
    "huge": _huge,
    "pipe": _fifo,
    "device": _device,
    "link to itself": _loop,
    "dangling link": _dangling,
    "long name": _long_name,
    "no name": _no_name,
    "null byte": _null_byte,
    "undecodable name": _undecodable_name,
    "unreadable": _unreadable,
    "unwritable": _unwritable,
}
