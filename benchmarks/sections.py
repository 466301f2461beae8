"""Tables that benchmarks keep up to date inside documents, between a pair of marks."""

from __future__ import annotations

from pathlib import Path

from hushlm.files import write_atomic

__all__ = ["write_section"]


def write_section(document: Path, name: str, text: str) -> None:
    """Replace what lies between the marks of a name."""
    marks = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = document.read_text().partition(marks[0])
    _, _, after = rest.partition(marks[1])
    write_atomic(document, f"{before}{marks[0]}\n{text}{marks[1]}{after}")
