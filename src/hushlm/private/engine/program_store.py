"""Compiled programs kept on this machine's disk, so that a session compiles only what no session before it has run.

What is kept is the text that the engine reads, with the key that it was compiled for. A session's keys tell its own programs apart; the
store adds what the session runs, without which two models' programs might have one key, and the sources and libraries that made the
program: after any change of those nothing is found. Shapes are in keys, weights and prompts are not in programs. A program that
cannot be kept, or is damaged, is compiled again.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from hushlm.private.engine.compiler import Executable

__all__ = ["FOLDER_VARIABLE", "ProgramStore"]

FOLDER_VARIABLE = "HUSHLM_PROGRAMS"
"""Environment variable that names another folder; set to nothing, it turns the store off."""

MOST_BYTES = 64_000_000
"""What the folder may hold; of more, the programs that were used longest ago are dropped."""

LIBRARIES = ("spu", "jax", "jaxlib", "numpy")


class ProgramStore:
    """The programs in one folder, readable by this user alone.

    Args:
        folder: made when the first program is kept.
        session: everything public that a session's programs depend on: the model's architecture, sizes and rewrites, the engine's settings,
            what is revealed, the network. Made of what keys are made of, see `compiled`.
    """

    def __init__(self, folder: Path, session: Hashable) -> None:
        self._folder, self._session = folder, session
        self._bytes: int | None = None

    @staticmethod
    def of_user(session: Hashable) -> ProgramStore | None:
        """The store of whoever runs this process, or None where it is turned off or there is no home folder."""
        named = os.environ.get(FOLDER_VARIABLE)
        if named is not None:
            return ProgramStore(Path(named), session) if named else None
        try:
            cache_folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        except RuntimeError:
            return None
        return ProgramStore(Path(cache_folder) / "hushlm" / "programs", session)

    def compiled(self, key: Hashable, compile_now: Callable[[], Executable]) -> Executable:
        """The program of a key, from the folder or from `compile_now`, whose result is kept.

        Args:
            key: different for different programs of one session; of plain values, tuples, enumerations, types and dataclasses.
        """
        spelled = json.dumps([_made_by(), _spelled(self._session), _spelled(key)])
        path = self._folder / f"{hashlib.sha256(spelled.encode()).hexdigest()}.json"
        if (found := _read(path, spelled)) is not None:
            return found
        program = compile_now()
        with contextlib.suppress(OSError):
            self._keep(path, spelled, program)
        return program

    def _keep(self, path: Path, spelled: str, program: Executable) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = json.dumps({"key": spelled, "program": program.to_dict()})
        # Not synced to the disk: what a crash leaves half written is compiled again.
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".new-")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(f"{_hash(content)}\n{content}")
            os.replace(temporary, path)  # noqa: PTH105 - the name of the system call is the point
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        if self._bytes is not None:
            self._bytes += len(content)
        if self._bytes is None or self._bytes > MOST_BYTES:
            self._bytes = self._prune()

    def _prune(self) -> int:
        """Drop what is too much. Returns: the bytes that are left; a folder has thousands of files, so that they are counted rarely."""
        found = []
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):  # another session may have dropped it
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= MOST_BYTES:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total


def _read(path: Path, spelled: str) -> Executable | None:
    try:
        hashed, _, content = path.read_text().partition("\n")
        if hashed != _hash(content):
            return None
        document = json.loads(content)
        if document["key"] != spelled:
            return None
        program = Executable.from_dict(document["program"])
        os.utime(path)  # it was used now
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return program


def _hash(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


@cache
def _made_by() -> list[str]:
    """The libraries' versions, and a hash of this package's sources."""
    root, sources = Path(__file__).parents[2], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        sources.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return [*(f"{name} {version(name)}" for name in LIBRARIES), sources.hexdigest()]


def _spelled(value: Any) -> Any:
    """A key as JSON, different for different keys. Fields that a dataclass leaves out of its `repr` are in it.

    Raises:
        TypeError: for a value that nobody has said how to spell.
    """
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, enum.Enum):
        return [f"{type(value).__qualname__}.{value.name}"]
    if isinstance(value, type):
        return [f"type {value.__qualname__}"]
    if isinstance(value, np.generic):
        return _spelled(value.item())
    if isinstance(value, tuple | list | range):
        return ["", *map(_spelled, value)]
    if is_dataclass(value):
        return [type(value).__qualname__, *(_spelled(getattr(value, each.name)) for each in fields(value))]
    raise TypeError(f"A program's key has a {type(value).__qualname__} in it, which has no spelling.")
