"""How many bad inputs were tried, refused and worked, by command, as a table of docs/reliability.md.

    python -m tests.faults.table

runs every case of the fuzz in this process and writes the table between the two marks in the page. It needs the extras hf and private.
"""

from __future__ import annotations

import re
import shutil
import sys
import warnings
from collections import Counter
from pathlib import Path

from hushlm.cli.main import COMMANDS
from tests.faults.calls import path_options
from tests.faults.fuzz import cases, make_places, run_case

__all__ = ["PAGE", "main", "read", "render"]

PAGE = Path(__file__).parents[2] / "docs/reliability.md"
_BEGIN, _END = "<!-- python -m tests.faults.table: begin -->\n", "<!-- end -->"


def main() -> int:
    """Run the cases and write the table; the exit code is 1 if one of them broke the contract."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    places = make_places()
    refused, worked, broken = Counter[str](), Counter[str](), []
    try:
        for case in cases():
            outcome = run_case(case, places)
            if outcome.fault:
                broken.append(f"{case}: {outcome.fault}")
            (refused if outcome.refused else worked)[case.command] += 1
    finally:
        shutil.rmtree(places.scratch.parent, ignore_errors=True)
    print("\n".join(broken), file=sys.stderr)
    if broken:
        return 1
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(_BEGIN)
    after = rest.partition(_END)[2]
    PAGE.write_text(before + _BEGIN + render(refused, worked) + _END + after, encoding="utf-8")
    return 0


def render(refused: Counter[str], worked: Counter[str]) -> str:
    """The table, from counts by command."""
    lines = ["| command | options that name a path | inputs tried | refused in a sentence | worked |", "|---|---|---|---|---|"]
    for command in COMMANDS:
        tried = refused[command] + worked[command]
        lines.append(f"| {command} | {len(path_options(command))} | {tried} | {refused[command]} | {worked[command]} |")
    every = refused.total() + worked.total()
    lines.append(f"| all | | {every} | {refused.total()} | {worked.total()} |")
    return "\n".join(lines) + "\n"


def read(page: str) -> dict[str, dict[str, int]]:
    """The counts in a page, by command."""
    rows = re.findall(r"^\| ([a-z ]+) \| \d+ \| (\d+) \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    return {command: {"tried": int(a), "refused": int(b), "worked": int(c)} for command, a, b, c in rows}


if __name__ == "__main__":
    sys.exit(main())
