"""A corpus as parts: stretches of text that are read one after another, each by one worker, always in the same order.

A part is a small value that a process can be handed; its texts are read only when they are asked for.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Document", "FilesPart", "MembersPart", "Part", "RowsPart", "Text"]

Text = tuple[str, str | None]
"""A document's identifier, which decides its split, and its text; None for one that is left out because it is not UTF-8 text."""

_HEADING = re.compile(r"(?m)^(?=## )")


class Part(Protocol):
    """A stretch of a corpus."""

    def texts(self, skip: int = 0) -> Iterator[Text]:
        """Its documents, without the first `skip`.

        Raises:
            ValueError: one sentence, if they can't be read or are no longer what they were.
        """


@dataclass(frozen=True)
class Document:
    """A UTF-8 text file.

    Attributes:
        path: relative to the corpus, with forward slashes; decides order and split.
        file: where it lies.
        bytes: its size.
        sha256: of its content, hexadecimal.
    """

    path: str
    file: Path
    bytes: int
    sha256: str

    def read(self) -> str:
        """The text, without any change to its line ends.

        Raises:
            ValueError: if the file is no longer what it was when the corpus was opened.
        """
        content = self.file.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ValueError(f"{self.file} changed while it was being read: start again.")
        return content.decode()


@dataclass(frozen=True)
class FilesPart:
    """Files in order."""

    documents: tuple[Document, ...]

    def texts(self, skip: int = 0) -> Iterator[Text]:
        for document in self.documents[skip:]:
            yield document.path, document.read()


@dataclass(frozen=True)
class MembersPart:
    """Members of a zip file, read in place; nothing is unpacked, installed or imported.

    Attributes:
        name: of the archive, the first part of every identifier.
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
            if not self.by_heading:
                yield f"{self.name}/{member}", text
                continue
            for number, section in enumerate(part for part in _HEADING.split(text) if part):
                yield f"{self.name}/{member}#{number}", section


@lru_cache(maxsize=2)
def _archive(file: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(file)


@dataclass(frozen=True)
class RowsPart:
    """Rows of a table, streamed by Hugging Face `datasets`: a local parquet or JSON-lines file, or a piece of a dataset on the hub.

    The text is the column "content", as in CodeParrot, or else "text".

    Attributes:
        name: the first part of every identifier, followed by the row's number.
        builder: "parquet", "json", or the name of a dataset on the hub.
        file: for the first two.
        revision: of a dataset on the hub.
        index, count: which piece of how many, of a dataset on the hub.
    """

    name: str
    builder: str
    file: Path | None = None
    revision: str | None = None
    index: int = 0
    count: int = 1

    def texts(self, skip: int = 0) -> Iterator[Text]:
        for number, row in enumerate(self._rows(skip), start=skip):
            column = next((name for name in ("content", "text") if name in row), None)
            if column is None:
                raise ValueError(f"{self.name} has the columns {', '.join(row)}, and text is read from one called 'content' or 'text'.")
            yield f"{self.name}#{number}", row[column] if isinstance(row[column], str) else None

    def _rows(self, skip: int) -> Iterator[dict[str, Any]]:
        try:
            rows: Any = open_rows(self.builder, self.file, self.revision)
            if self.count > 1:
                rows = rows.shard(num_shards=self.count, index=self.index)
            yield from rows.skip(skip) if skip else rows
        except ModuleNotFoundError:
            raise
        except Exception as error:  # the readers below `datasets` raise errors of many kinds
            raise ValueError(f"{self.name} can't be read as a table of rows ({' '.join(str(error).split())[:200]}).") from None


def open_rows(builder: str, file: Path | None, revision: str | None) -> Any:
    """The stream of a table, a `datasets.IterableDataset`. ModuleNotFoundError without the library."""
    datasets: Any = importlib.import_module("datasets")
    options = {"data_files": str(file)} if file is not None else {"revision": revision}
    return datasets.load_dataset(builder, split="train", streaming=True, **options)
