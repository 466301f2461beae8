"""Write the tables of docs/operate.md: faults from results/faults.json, load from results/load.json, links from results/tunnel.json.

    python benchmarks/operate_page.py            # --check: exit code 1 if the page is not what the results say

The rest of the page is written by hand and stays as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from hushlm.files import write_atomic
from hushlm.report.table import Column, Table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "operate.md"
FAULTS = ROOT / "results" / "faults.json"
LOAD = ROOT / "results" / "load.json"
TUNNEL = ROOT / "results" / "tunnel.json"


def said(value: bool | None) -> str:
    return "yes" if value else "no"


def seconds(value: float) -> str:
    return "< 0.1" if value < 0.1 else f"{value:.1f}"


def faults_table(faults: list[dict[str, Any]]) -> str:
    rows = [entry | {"outcome": "right answer" if entry["seconds_to_error"] is None else "ended clearly"} for entry in faults]
    columns = (
        Column("fault", "fault"),
        Column("phase", "phase"),
        Column("outcome", "outcome"),
        Column("seconds_to_error", "seconds to it", seconds, "right"),
        Column("hang", "hang", said),
        Column("next_client_served", "next client served", said),
    )
    return Table("", columns, rows).to_markdown()


def load_table(load: dict[str, Any]) -> str:
    columns = (
        Column("workers", "workers", "d", "right"),
        Column("sessions", "sessions", "d", "right"),
        Column("tokens", "tokens each", "d", "right"),
        Column("sessions_per_minute", "sessions/minute", ".1f", "right"),
        Column("tokens_per_minute", "tokens/minute", ".1f", "right"),
        Column("query_seconds", "seconds for a session's tokens", ".1f", "right"),
        Column("load_average_before", "load average before", ".1f", "right"),
    )
    return f"{load['cores']} cores, clients and server on them together.\n\n" + Table("", columns, load["rows"]).to_markdown()


def tunnel_table(tunnel: dict[str, Any]) -> str:
    columns = (
        Column("network", "network"),
        Column("way", "engines' links"),
        Column("bytes", "MB", lambda count: f"{count / 1e6:.2f}", "right"),
        Column("set_up_seconds", "set-up, seconds", ".2f", "right"),
        Column("query_seconds", "tokens, seconds", ".2f", "right"),
        Column("forwarding_cpu_seconds", "CPU of forwarding, seconds", ".2f", "right"),
        Column("load_average_before", "load average before", ".1f", "right"),
    )
    said = f"{tunnel['cores']} cores, both parties on them; answers of {tunnel['tokens']} tokens; medians of {tunnel['rounds']}."
    return f"{said}\n\n" + Table("", columns, tunnel["rows"]).to_markdown()


def render(page: str) -> str:
    """The page with its tables brought up to date.

    Raises:
        ValueError: a mark is missing.
    """
    tables = {"faults": (FAULTS, lambda data: faults_table(data["faults"])), "load": (LOAD, load_table), "tunnel": (TUNNEL, tunnel_table)}
    for name, (path, table) in tables.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"{PAGE} has no place for the table of {name}: {begin.strip()} and {end}.")
        text = table(json.loads(path.read_text())) if path.exists() else f"Not measured yet: there is no results/{path.name}.\n"
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


def write_page() -> None:
    """Bring docs/operate.md up to date."""
    write_atomic(PAGE, render(PAGE.read_text()))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    if not parser.parse_args().check:
        write_page()
        return 0
    return int(render(PAGE.read_text()) != PAGE.read_text())


if __name__ == "__main__":
    sys.exit(main())
