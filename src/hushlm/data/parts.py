"""A corpus as parts: stretches of text that are read one after another, each by one worker, always in the same order.

A part is a small value that a process can be handed; its texts are read only when they are asked for.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from hushlm.data.long_text import stretches

__all__ = ["NOT_UTF8", "ChangedError", "Document", "FilesPart", "LeftOut", "MembersPart", "Note", "Part", "Text"]

NOT_UTF8 = "not UTF-8"
"""The reason of a file, and of a row, whose bytes are no text."""

_HEADING = re.compile(r"(?m)^(?=## )")

_BLOCK_BYTES = 1_000_000


@dataclass(frozen=True)
class LeftOut:
    """A document, or a row, that gives no text.

    Attributes:
        reason: why, as it follows a number, in "80 without text".
        lost: whether text is lost by it; an empty file loses none.
    """

    reason: str
    lost: bool = True


@dataclass(frozen=True)
class Note:
    """What is to be known about the text that follows.

    Attributes:
        reason: what, as it follows a number, in "80 read from bytes".
    """

    reason: str


Text = tuple[str, str | LeftOut | Note | None]
"""A document's identifier, which decides its split, and its text. A long document comes as several texts with one identifier, all but
the last of them a `Stretch`. Without text it is `LeftOut`, or None for a file that is not UTF-8; a `Note` goes before its text."""


class ChangedError(ValueError):
    """A file changed while it was being read."""


class Part(Protocol):
    """A stretch of a corpus."""

    def texts(self, skip: int = 0) -> Iterator[Text]:
        """Its texts, without the first `skip`.

        Raises:
            ValueError: one sentence, if they can't be read or are no longer what they were.
        """


@dataclass(frozen=True)
class Document:
    """A UTF-8 text file.

    Attributes:
        path: its path relative to the corpus, with forward slashes; decides order and split.
        file: where it lies.
        bytes: its size.
        sha256: the fingerprint of its content, hexadecimal.
    """

    path: str
    file: Path
    bytes: int
    sha256: str

    def read(self) -> str:
        """The text, without any change to its line ends.

        Raises:
            ChangedError: if the file is no longer what it was when the corpus was opened.
        """
        return "".join(self._blocks())

    def stretches(self) -> Iterator[str]:
        """The same, a long text in several pieces; the error then comes after the last of them."""
        return stretches(self._blocks())

    def _blocks(self) -> Iterator[str]:
        digest, size = hashlib.sha256(), 0
        with self.file.open("r", encoding="utf-8", newline="") as file:
            try:
                while block := file.read(_BLOCK_BYTES):
                    content = block.encode()
                    digest.update(content)
                    size += len(content)
                    yield block
            except UnicodeDecodeError:
                size = -1
        if size != self.bytes or digest.hexdigest() != self.sha256:
            raise ChangedError(f"{self.file} changed while it was being read: start again.")


@dataclass(frozen=True)
class FilesPart:
    """Files in order."""

    documents: tuple[Document, ...]

    def texts(self, skip: int = 0) -> Iterator[Text]:
        return itertools.islice(((document.path, text) for document in self.documents for text in document.stretches()), skip, None)


@dataclass(frozen=True)
class MembersPart:
    """Members of a zip file, read in place; nothing is unpacked, installed or imported.

    Attributes:
        name: the archive's name, the first part of every identifier.
        file: the archive.
        members: names inside it, in order.
        by_heading: cut each member at its headings of the second level ("## "), as chapters or acts are in a book.
    """

    name: str
    file: Path
    members: tuple[str, ...]
    by_heading: bool = False

    def texts(self, skip: int = 0) -> Iterator[Text]:
        return itertools.islice(self._all(), skip, None)

    def _all(self) -> Iterator[Text]:
        for member in self.members:
            try:
                text = _archive(self.file).read(member).decode()
            except UnicodeDecodeError:
                yield f"{self.name}/{member}", None
                continue
            sections = [(f"{self.name}/{member}", text)]
            if self.by_heading:
                cut = (part for part in _HEADING.split(text) if part)
                sections = [(f"{self.name}/{member}#{number}", section) for number, section in enumerate(cut)]
            for name, section in sections:
                for stretch in stretches([section]):
                    yield name, stretch


@lru_cache(maxsize=2)
def _archive(file: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(file)
