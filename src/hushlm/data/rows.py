"""Rows of tables as texts: parquet and JSON-lines files, and data sets on the Hugging Face hub.

The text of a row is its column "content", as in CodeParrot, or where that holds none its column "text". Binary columns are read as
UTF-8. JSON-lines files are read line by line; parquet files, the hub and JSON files that are one list are read by Hugging Face `datasets`.
"""

from __future__ import annotations

import gzip
import importlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hushlm.data.long_text import stretches
from hushlm.data.parts import NOT_UTF8, LeftOut, Note, Text

__all__ = ["RowsPart", "has_rows", "open_rows"]

_COLUMNS = ("content", "text")


@dataclass(frozen=True)
class RowsPart:
    """Rows of a table: a local parquet or JSON-lines file, or a piece of a data set on the hub.

    Attributes:
        name: the first part of every identifier, followed by the row's number.
        builder: "parquet", "json", or the name of a data set on the hub.
        file: the file of the first two.
        revision: which version of a data set on the hub.
        index, count: which piece of how many, of a data set on the hub.
    """

    name: str
    builder: str
    file: Path | None = None
    revision: str | None = None
    index: int = 0
    count: int = 1

    def texts(self, skip: int = 0) -> Iterator[Text]:
        return itertools.islice(self._all(), skip, None)

    def _all(self) -> Iterator[Text]:
        first: Any = None
        found = False
        for number, row in enumerate(self._rows()):
            first = row if first is None else first
            found = found or (isinstance(row, Mapping) and any(column in row for column in _COLUMNS))
            for text in text_of(row):
                yield f"{self.name}#{number}", text
        if first is not None and not found:
            columns = ", ".join(map(str, first)) if isinstance(first, Mapping) else "none"
            raise ValueError(f"{self.name} has the columns {columns}, and text is read from one called 'content' or 'text'.")

    def _rows(self) -> Iterator[Any]:
        try:
            if self.builder == "json" and self.file is not None and not _is_list(self.file):
                yield from _lines(self.file, self.name)
                return
            rows: Any = open_rows(self.builder, self.file, self.revision)
            if self.count > 1:
                rows = rows.shard(num_shards=self.count, index=self.index)
            yield from rows
        except (ModuleNotFoundError, _LineError):
            raise
        except Exception as error:  # the readers below `datasets` raise errors of many kinds
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(f"{self.name} can't be read as a table of rows ({said}).") from None


class _LineError(ValueError):
    """A line that can't be read."""


def text_of(row: Any) -> Iterator[str | LeftOut | Note]:
    """The text of a row, a long one in stretches; or why there is none. A second column with text is left out, and said to be."""
    if not isinstance(row, Mapping):
        yield LeftOut("without columns")
        return
    values = {column: _as_text(row[column]) for column in _COLUMNS if column in row}
    texts = {column: value for column, value in values.items() if isinstance(value, str) and value}
    if not texts:
        found = [value for value in values.values() if isinstance(value, LeftOut)]
        lost = [value for value in found if value.lost]
        yield (lost or found or [LeftOut("empty", lost=False) if values else LeftOut("without such a column")])[0]
        return
    chosen, *others = texts
    if chosen != next(iter(values)):
        yield Note(f"read from the column {chosen!r}, because {next(iter(values))!r} holds no text")
    if isinstance(row[chosen], bytes):
        yield Note("read from bytes")
    yield from stretches([texts[chosen]])
    for other in others:
        if texts[other] != texts[chosen]:
            yield LeftOut(f"in the column {other!r}, because {chosen!r} is read")


def _as_text(value: Any) -> str | LeftOut:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return LeftOut(NOT_UTF8)
    if value is None:
        return LeftOut("without text")
    if not isinstance(value, str):
        return LeftOut(f"whose text is of type {type(value).__name__}")
    return value


def _open(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.name.lower().endswith(".gz") else file.open("rb")  # type: ignore[return-value]


def _is_list(file: Path) -> bool:
    """Whether a JSON file is one list instead of lines."""
    with _open(file) as opened:
        return opened.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _lines(file: Path, name: str) -> Iterator[Any]:
    with _open(file) as opened:
        for number, line in enumerate(opened, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            try:
                yield json.loads(line.decode())
            except UnicodeDecodeError:
                raise _LineError(f"{name} is not UTF-8 in line {number}: convert it to UTF-8, or remove it.") from None
            except (ValueError, RecursionError) as error:
                said = "too deeply nested" if isinstance(error, RecursionError) else error.msg if hasattr(error, "msg") else error
                raise _LineError(f"{name} can't be read as JSON in line {number} ({said}): mend or remove that line.") from None


def has_rows(file: Path) -> bool:
    """Whether a table has any row, as far as that is seen without reading it."""
    if file.stat().st_size == 0:
        return False
    if not file.name.lower().endswith(".parquet"):
        return True
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
        return parquet.read_metadata(file).num_rows > 0
    except Exception:  # the one who reads it says what is wrong with it
        return True


def open_rows(builder: str, file: Path | None, revision: str | None) -> Any:
    """The stream of a table, a `datasets.IterableDataset`. ModuleNotFoundError without the library."""
    datasets: Any = importlib.import_module("datasets")
    options = {"data_files": str(file)} if file is not None else {"revision": revision}
    return datasets.load_dataset(builder, split="train", streaming=True, **options)
