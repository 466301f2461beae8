"""One description of a table, written three ways: rich on a terminal, Markdown in a document, JSON for a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import rich.table
from rich import box
from rich.console import Console
from rich.text import Text

__all__ = ["Column", "Table", "console", "print_json", "print_table", "progress_console"]

MISSING = "-"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: under which name a row holds the value.
        title: the heading.
        format: a format specification (".2f"), or a function from the value to text.
        align: on which side heading and cells stand.
    """

    key: str
    title: str
    format: str | Callable[[Any], str] = ""
    align: Literal["left", "right"] = "left"

    def cell(self, row: Mapping[str, Any]) -> str:
        """The text of this column in a row; a missing value or None is a dash."""
        value = row.get(self.key)
        if value is None:
            return MISSING
        return self.format(value) if callable(self.format) else format(value, self.format)


@dataclass(frozen=True)
class Table:
    """Rows under columns. The rows hold plain JSON values, columns decide only how they are shown.

    Attributes:
        title: the line above.
        columns: what is shown, in order. A row may hold more keys, which only `to_json` shows.
        rows: the values of each row by their keys.
        note: the text below; "" for none.
    """

    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Mapping[str, Any]]
    note: str = ""

    def to_rich(self) -> rich.table.Table:
        """The table for a terminal."""
        # Text, not markup: an architecture's name may hold brackets.
        table = rich.table.Table(
            title=Text(self.title),
            caption=Text(self.note) if self.note else None,
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        table.title_justify = table.caption_justify = "left"
        for column in self.columns:
            table.add_column(Text(column.title), justify=column.align, overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(column.cell(row)) for column in self.columns))
        return table

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown, without title and note. Ends in a newline."""
        # A heading hyphenated for the terminal is whole again.
        lines = [[column.title.replace("-\n", "") for column in self.columns]]
        lines.append(["---:" if column.align == "right" else "---" for column in self.columns])
        lines += [[column.cell(row) for column in self.columns] for row in self.rows]
        return "".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |\n" for line in lines)

    def to_json(self) -> list[dict[str, Any]]:
        """The rows, with every key."""
        return [dict(row) for row in self.rows]


class _OutputConsole(Console):
    def on_broken_pipe(self) -> None:
        """The library would end the program with 1, which means a bad answer here."""
        raise BrokenPipeError


class _ProgressConsole(Console):
    def on_broken_pipe(self) -> None:
        """The library would end the program, and a training with it, because nobody watches any more."""
        self.quiet = True


def console() -> Console:
    """The console of standard output. In a file or a pipe, tables keep their whole width instead of being folded at 80 columns."""
    return _OutputConsole(highlight=False, width=None if sys.stdout.isatty() else 200)


def progress_console() -> Console:
    """The console of progress, on standard error."""
    return _ProgressConsole(stderr=True, highlight=False)


def print_table(table: Table) -> None:
    """Print a table for a reader."""
    out = console()
    if out.is_terminal:
        out.print(table.to_rich())
        return
    with out.capture() as captured:
        out.print(table.to_rich())
    # A table is padded to its width; in a file that is trailing blanks.
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_json(document: Any) -> None:
    """Print one JSON document on standard output. NaN and infinity have no JSON form: use None for them."""
    print(json.dumps(document, indent=1, allow_nan=False))
