"""One table, three forms."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from hushlm.report.table import Column, Table, print_table

TABLE = Table(
    "Rows [not markup]",
    (
        Column("name", "architecture"),
        Column("value", "val-\nue", ".2f", "right"),
        Column("shares", "shares", lambda shares: " / ".join(map(str, shares))),
    ),
    [{"name": "SM|LN", "value": 1.234, "shares": [1, 2], "hidden": True}, {"name": "[bold]EReg(SM)[/bold]", "value": None}],
    "A note.",
)


def test_markdown_escapes_bars_and_keeps_one_line_a_row() -> None:
    assert TABLE.to_markdown() == (
        "| architecture | value | shares |\n| --- | ---: | --- |\n| SM\\|LN | 1.23 | 1 / 2 |\n| [bold]EReg(SM)[/bold] | - | - |\n"
    )


def test_json_keeps_every_value_unrounded() -> None:
    assert json.loads(json.dumps(TABLE.to_json())) == [
        {"name": "SM|LN", "value": 1.234, "shares": [1, 2], "hidden": True},
        {"name": "[bold]EReg(SM)[/bold]", "value": None},
    ]


def test_a_terminal_shows_names_with_brackets_as_they_are() -> None:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(TABLE.to_rich())
    text = captured.get()
    for part in ("Rows [not markup]", "[bold]EReg(SM)[/bold]", "SM|LN", "1.23", "A note."):
        assert part in text
    assert "True" not in text


def test_a_pipe_gets_the_whole_width_without_trailing_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    wide = Table("t", (Column("a", "a"), Column("b", "b")), [{"a": "x" * 90, "b": "y" * 60}])
    print_table(wide)
    lines = capsys.readouterr().out.splitlines()
    assert any("x" * 90 + "  " + "y" * 60 in line for line in lines)
    assert all(line == line.rstrip() for line in lines)
